"""The engine as processes against a real Kafka: exactly once, whatever is killed, restarted, moved or paused."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from processors import transactions
from processors.derivations import DERIVATIONS
from processors.engine import LANE_RECORDS, Engine
from processors.faust_transport import BUFFER_RECORDS, buffered_batches
from ravencore import kafka
from ravencore.config import EngineSettings
from ravencore.decimals import ONE
from ravencore.records import Demand, FeedName, Shutdown, Trade, market_key
from ravencore.topics import BARS, CONTROL, IV_SURFACE, TRADES, VPIN
from ravenctl.local.broker import Broker
from tests.processors.rig import (
    CODEC,
    INPUTS,
    OUTPUTS,
    PAIR,
    PARTITIONS,
    PATIENCE_S,
    SYMBOLS,
    UNDERLYING,
    Feed,
    House,
    Made,
    Worker,
    house_of,
    until,
)

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as one:
        yield one


@pytest.fixture
def house(broker: Broker, tmp_path: Path) -> Iterator[House]:
    with house_of(broker, tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def undisturbed(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What one worker makes of the whole tape when nothing happens to it."""
    one = House(broker, tmp_path_factory.mktemp("undisturbed"))
    feed = one.feed()
    feed.send(1)
    worker = one.start()
    try:
        one.done()
        made = one.made()
        counters = one.running(worker).counters
    finally:
        assert worker.end() == 0
    [status] = one.status()
    assert status.state == "STOPPED"
    assert counters["dead_letters"] == len(made.dead)
    published = sum(counters[name] for name in ("bars", "vpin", "spot_mid", "iv_surface"))
    assert published == sum(map(len, made.outputs.values()))
    return made


def test_the_tape_makes_all_kinds_of_output(undisturbed: Made) -> None:
    by_topic = {
        topic: sum(len(rows) for place, rows in undisturbed.outputs.items() if place[0] == topic) for topic in OUTPUTS
    }
    assert by_topic.pop(IV_SURFACE) > 10
    assert min(by_topic.values()) > 100, by_topic
    assert undisturbed.state.keys() == {*(f"BINANCE_SPOT:{symbol}" for symbol in SYMBOLS), PAIR, UNDERLYING}
    reasons = sorted(reason for *_, reason, _ in undisturbed.dead)
    assert reasons == ["unreadable_record"] * 10 + ["wrong_key"] * 5


def test_kill_nine_at_random_moments_and_inside_transactions_changes_nothing(house: House, undisturbed: Made) -> None:
    feed = house.feed()
    worker = house.start()
    for _ in range(2):
        feed.send(0.2)
        moment = random.Random(11).randrange(1, 4000)
        until(lambda moment=moment: house.lag() < moment, "part of the tape done")  # type: ignore[misc]
        worker.end(signal.SIGKILL)
        worker = house.start()
    for _ in range(2):
        kill_inside_a_transaction(house, worker, feed)
        worker = house.start()
    feed.send(1)
    house.done()
    assert worker.end() == 0
    assert house.made() == undisturbed


def kill_inside_a_transaction(house: House, worker: Worker, feed: Feed) -> None:
    house.running(worker)
    while len(feed):
        feed.send(0.004)
        worker.process.send_signal(signal.SIGSTOP)
        if house.transaction_is_open():
            worker.end(signal.SIGKILL)
            return
        worker.process.send_signal(signal.SIGCONT)
    pytest.fail("no moment of the tape was inside a transaction")


def test_a_second_worker_joins_and_leaves_in_the_middle(house: House, undisturbed: Made) -> None:
    feed = house.feed()
    first = house.start()
    feed.send(0.3)
    until(lambda: house.committed() > 0, "the first worker at work")
    second = house.start(slot=None)
    feed.send(0.1)
    shared = until(
        lambda: (it := house.status_of(second)) and it.state == "RUNNING" and it.lag and it, "second RUNNING"
    )
    assert 0 < len(shared.lag) < len(INPUTS) * PARTITIONS
    feed.send(0.3)
    assert second.end() == 0
    feed.send(1)
    house.done()
    assert first.end() == 0
    assert house.made() == undisturbed


def test_a_zombie_is_fenced(house: House, undisturbed: Made) -> None:
    feed = house.feed()
    zombie = house.start()
    feed.send(0.4)
    until(lambda: house.committed() > 0, "the zombie at work")
    zombie.process.send_signal(signal.SIGSTOP)
    successor = house.start()
    feed.send(1)
    house.done()
    zombie.process.send_signal(signal.SIGCONT)
    until(lambda: zombie.process.poll() is not None, "the zombie gone")
    assert zombie.process.returncode == 1
    assert successor.end() == 0
    assert house.made() == undisturbed


def test_the_broker_dies_and_comes_back(house: House, undisturbed: Made) -> None:
    feed = house.feed()
    feed.send(0.5)
    house.broker.kill()
    worker = house.start()  # it waits for a broker that is not up yet
    house.broker.start()
    until(lambda: house.committed() > 0, "the worker at work")
    house.broker.kill()
    house.broker.start()
    feed.send(1)
    house.done()
    assert worker.end() == 0
    assert house.made() == undisturbed


def test_state_of_other_parameters_is_refused_until_it_is_reset(house: House) -> None:
    feed = house.feed()
    feed.send(0.1)
    worker = house.start()
    house.done()
    assert worker.end() == 0
    changed = {"RAVEN_BARS__TIB": '{"tib_small": {"initial_size": 77}}'}
    refused = house.start(**changed)
    assert refused.process.wait(30) == 1
    status = house.status_of(refused)
    assert status is not None
    assert status.state == "FAILED"
    assert status.last_error is not None
    assert "tib_small" in status.last_error
    assert "reset-state" in status.last_error
    command = [sys.executable, "-m", "processors", "reset-state"]
    env = {**os.environ, "RAVEN_KAFKA__BOOTSTRAP": house.broker.bootstrap}
    done = subprocess.run(command, env=env, cwd=house.folder, capture_output=True, text=True, check=True)
    assert f"{len(SYMBOLS)} snapshots" in done.stderr
    feed.send(0.1)
    again = house.start(**changed)
    house.done()
    assert again.end() == 0


def test_transaction_markers_and_aborted_records_in_the_input_are_passed_over(house: House, undisturbed: Made) -> None:
    feed = house.feed()
    mirror = kafka.producer(house.settings.kafka, **{"transactional.id": "mirror"})
    mirror.init_transactions(30)
    worker = house.start()
    while len(feed):
        mirror.begin_transaction()
        mirror.produce(TRADES, b"never happened", b"BINANCE_SPOT:BTCUSDT")
        mirror.flush(30)
        mirror.abort_transaction(30)
        mirror.begin_transaction()
        feed.send(0.2, mirror)
        mirror.commit_transaction(30)
    until(lambda: house.made().outputs == undisturbed.outputs, "all outputs")
    until(lambda: sum(house.running(worker).lag.values()) == 0, "no lag although the log ends in markers")
    assert house.lag() > 0
    assert worker.end() == 0
    assert house.made().outputs == undisturbed.outputs


def test_a_worker_that_stands_still_ends_itself(house: House) -> None:
    feed = house.feed()
    impatient = house.settings.model_copy(update={"engine": EngineSettings(stall_s=2.0)})

    async def scenario() -> int:
        engine = Engine(house.settings)
        running = asyncio.create_task(engine.run())
        await asyncio.to_thread(feed.send, 0.1)
        await asyncio.to_thread(house.done)
        # What Faust does to itself when it stalls: all looks well, and nothing is fetched.
        engine._app.consumer.pause_partitions(engine._app.consumer.assignment())
        engine._settings = impatient
        await asyncio.to_thread(feed.send, 0.1)
        return await asyncio.wait_for(running, PATIENCE_S)

    assert asyncio.run(scenario()) == 1
    [status] = house.status()
    assert status.state == "FAILED"
    assert status.last_error is not None
    assert "stands at offset" in status.last_error


def test_a_slow_worker_reads_no_more_than_fifty_thousand_records_ahead(house: House) -> None:
    feeds = [house.feed() for _ in range(3)]
    for feed in feeds:
        feed.send(1)
    settings = house.settings.model_copy(update={"engine": EngineSettings(max_poll_records=500)})

    async def scenario() -> int:
        engine = Engine(settings)
        running = asyncio.create_task(engine.run())
        with transactions._folding:
            ahead = await steady(lambda: read_by(engine))
        assert await asyncio.to_thread(house.lag) > 0
        engine._ending.set()
        assert await asyncio.wait_for(running, PATIENCE_S) == 0
        return ahead

    ahead = asyncio.run(scenario())
    assert LANE_RECORDS <= ahead <= 50_000


async def read_by(engine: Engine) -> int:
    """How many records Faust has taken off its fetcher."""
    if engine._app is None or not engine._assigned or not all(lane.restored for lane in engine._lanes.values()):
        return 0
    return sum([await engine._app.consumer.read_up_to((topic, n)) for topic in INPUTS for n in range(PARTITIONS)])


async def steady(ask: Callable[[], Awaitable[int]]) -> int:
    """An answer that is not 0 and has not changed for a second."""
    deadline = time.monotonic() + PATIENCE_S
    answer, since = 0, time.monotonic()
    while not answer or time.monotonic() < since + 1.0:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
        if (newer := await ask()) != answer:
            answer, since = newer, time.monotonic()
    return answer


def demand(symbol: str, *outputs: str) -> tuple[str, bytes, bytes]:
    one = Demand(
        demand_id=f"d-{symbol}",
        user="u",
        symbol=symbol,
        outputs=outputs,
        feeds=(FeedName("BINANCE_SPOT", "trades", symbol),),
        created_time=1,
    )
    return CONTROL, CODEC.encode(one), one.demand_id.encode()


def some_trades(symbol: str, first: int, count: int = 40) -> list[tuple[str, bytes, bytes]]:
    """So that bars of all kinds close under QUICK."""
    trades = [
        Trade(
            venue="BINANCE_SPOT",
            symbol=symbol,
            event_time=1_700_000_000_000_000 + n * 300_000,
            received_time=1_700_000_000_000_000 + n * 300_000,
            trade_id=str(n),
            sequence=n,
            price=100 * ONE,
            quantity=ONE,
            side="BUY",
        )
        for n in range(first, first + count)
    ]
    return [(TRADES, CODEC.encode(trade), market_key(trade)) for trade in trades]


QUICK = {
    "RAVEN_BARS__TIB": '{"tib_small": {"initial_size": 5}}',
    "RAVEN_BARS__TRB": '{"trb_small": {"initial_size": 5}}',
    "RAVEN_BARS__VIB": "{}",
    "RAVEN_BARS__VPIN__BUCKET_VOLUME": "500",
}
ALL_OF_THEM = {BARS["time"], BARS["tib"], BARS["trb"], VPIN}


def made_of(house: House) -> dict[str, dict[str, list[Any]]]:
    """Records by symbol and topic, in order."""
    found: dict[str, dict[str, list[Any]]] = {}
    for (topic, _), rows in house.made().outputs.items():
        for _, value, _ in rows:
            record: Any = CODEC.decode(value)
            found.setdefault(record.symbol, {}).setdefault(topic, []).append(record)
    return found


def test_only_what_is_demanded_is_made_from_the_first_trade_on(house: House) -> None:
    """Even of an engine that gets thousands of demands and their trades at the same moment."""
    worker = house.start(**QUICK)
    house.running(worker)
    producer = kafka.producer(house.settings.kafka, **{"linger.ms": 0})
    rounds, others = range(3), [demand(f"OTHER{n}", "trades") for n in range(10_000)]
    named, unnamed = [f"NAMED{n}" for n in range(30)], [f"FREE{n}" for n in rounds]
    for number in rounds:
        some = named[number * 10 : number * 10 + 10]
        worker.process.send_signal(signal.SIGSTOP)
        kafka.deliver(producer, others)
        kafka.deliver(producer, [demand(symbol, "bars.tib") for symbol in some])
        kafka.deliver(producer, [it for symbol in (*some, unnamed[number]) for it in some_trades(symbol, 1)])
        worker.process.send_signal(signal.SIGCONT)
        house.done()
    found = made_of(house)
    assert {symbol: set(found[symbol]) for symbol in named} == {key: {BARS["tib"]} for key in named}
    assert {symbol: set(found[symbol]) for symbol in unnamed} == dict.fromkeys(unnamed, ALL_OF_THEM)
    told = len(rounds) * len(others) + len(named)
    until(lambda: house.running(worker).gauges["control_offset"] >= told, "the status tells it")


def test_what_is_switched_off_goes_on_later_with_a_gap_through_kills_and_ends_when_asked_to(house: House) -> None:
    worker = house.start(**QUICK)
    producer = kafka.producer(house.settings.kafka)

    def goes_on(first: int, *told: tuple[str, bytes, bytes]) -> None:
        kafka.deliver(producer, told)
        stands = kafka.watermarks(house._plain, CONTROL, 0)[1]
        until(lambda: house.running(worker).gauges["control_offset"] >= stands, "the demands are known")
        kafka.deliver(producer, some_trades("BTCUSDT", first))
        house.done()

    goes_on(1, demand("BTCUSDT", "bars.tib", "vpin"))
    goes_on(41, demand("BTCUSDT", "bars.tib"))
    worker.end(signal.SIGKILL)
    worker = house.start(**QUICK)
    goes_on(81, demand("BTCUSDT", "bars.tib", "vpin"))
    kafka.deliver(producer, [(CONTROL, None, b"d-BTCUSDT")])  # type: ignore[list-item]
    goes_on(121)
    asked = CODEC.encode(Shutdown(service="processors", user="u", requested_time=1))
    kafka.deliver(producer, [(CONTROL, asked, b"shutdown:processors")])
    assert worker.process.wait(20) == 0
    found = made_of(house)["BTCUSDT"]
    assert found.keys() == {BARS["tib"], VPIN}
    for records in found.values():
        assert [record.bar_seq for record in records] == list(range(len(records)))
    assert not any(bar.gap for bar in found[BARS["tib"]])
    assert [int(bar.first_trade_id) for bar in found[VPIN]] == [*range(1, 41, 5), *range(81, 161, 5)]
    assert [bar.bar_seq for bar in found[VPIN] if bar.gap] == [8]


@pytest.mark.parametrize("poll", [1, 20, 500, 5000, 10_000])
def test_at_most_fifty_thousand_records_wait(poll: int) -> None:
    assert EngineSettings(max_poll_records=poll)
    assert 0 < buffered_batches(poll, len(DERIVATIONS)) * poll * len(DERIVATIONS) <= BUFFER_RECORDS
    assert BUFFER_RECORDS + LANE_RECORDS <= 50_000
