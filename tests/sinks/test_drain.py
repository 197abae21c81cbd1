"""The drain as a process: nothing lost and nothing twice through garbage, outages, kills and stops."""

import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from ravencore.config import ServiceSettings
from ravencore.demands import QUIET_S
from ravencore.records import Demand, FeedName, Record, ServiceStatus, Shutdown
from ravencore.topics import BARS, CONTROL, GROUP_SINK, TRADES
from sinks.drain import BATCH_RECORDS, PAYLOAD_LIMIT, WAITING_LIMIT
from sinks.registry import STORES
from tests.sinks.probe_timescale import TimescaleProbe
from tests.sinks.rig import CODEC, Cuttable, House, Sink, bar, book, instrument, topic_of, trade, until

pytestmark = pytest.mark.stack

BOTH = pytest.mark.parametrize("name", STORES)

DIES_BEFORE_COMMITTING = """
import os, signal
from sinks import __main__, drain
commit = drain.Drain._commit
def die(self):
    if self._reporter.counters["rows_written"]:
        os.kill(os.getpid(), signal.SIGKILL)
    commit(self)
drain.Drain._commit = die
__main__.main()
"""
"""The real sink, but for being killed after its first write and before the commit."""

LOSES_ITS_PARTITIONS = """
from sinks import __main__, drain
stay_alive = drain.Drain._stay_alive
lost = []
def lose(self, seconds):
    stay_alive(self, seconds)
    if not lost:
        lost.append(print("lost all partitions", flush=True))
        self._consumer.unsubscribe()
        self._consumer.poll(1.0)
        self._consumer.subscribe(
            list(self._store.topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )
drain.Drain._stay_alive = lose
__main__.main()
"""
"""The real sink, but for leaving its group and joining it again while its partitions are paused."""

HANGS_IN_A_COMMIT = """
import threading
from sinks import __main__, drain
drain.LONG_CALL_S, drain.STOP_S = 1.0, 0.2
drain.Progress.commit = lambda *_: print("commits", flush=True) or threading.Event().wait()
__main__.main()
"""
"""The real sink, but for a commit that is never answered, as of a group that has dropped the member meanwhile."""


@BOTH
def test_what_is_in_the_topics_is_in_the_store_and_a_stop_is_clean(name: str, house: House) -> None:
    records = house.probes[name].records(house.symbol, 3000)
    house.topics.send(*records)
    running = house.start(name, house.settings)
    house.all_there(name, records)
    read = {topic_of(record) for record in records}
    # Of other tests, too: what they left may have to wait here.
    until(lambda: (status := running.status()) and status.state == "RUNNING" and no_lag(status, read), "no lag")
    assert running.stop() == 0, running.log()
    status = running.status()
    assert status
    assert status.state == "STOPPED"
    assert status.counters["rows_written"] >= len(records)
    assert status.counters["records"] >= status.counters["rows_written"]
    assert status.gauges.keys() >= {"rows_per_second", "write_ms"}
    assert [house.topics.lag(GROUP_SINK + name, topic) for topic in read] == [0] * len(read), "all of it is committed"


def no_lag(status: ServiceStatus, topics: set[str]) -> bool:
    """Whether all of these is done, as far as the sink knows; at first it knows nothing."""
    return {place.rpartition("-")[0] for place in status.lag} >= topics and not any(status.lag.values())


@BOTH
def test_killed_between_write_and_commit_nothing_is_twice_or_missing(name: str, house: House) -> None:
    records = house.probes[name].records(house.symbol, 400)
    house.topics.send(*records[:200])
    dying = house.start(name, house.settings, DIES_BEFORE_COMMITTING)
    assert dying.process.wait(40) == -9, dying.log()
    house.topics.send(*records[200:])
    house.start(name, house.settings)
    house.all_there(name, records)


@BOTH
def test_killed_again_and_again_in_a_replay(name: str, house: House) -> None:
    records = house.probes[name].records(house.symbol, 6_000)
    half = len(records) // 2
    house.topics.send(*records[:half])
    for seen in (0, half // 2):
        running = house.start(name, house.settings)
        until(partial(house.more_than, name, seen), "some rows")
        running.kill()
    house.topics.send(*records[half:])
    house.start(name, house.settings)
    house.all_there(name, records)


@BOTH
def test_a_store_that_is_away_pauses_the_sink_and_nothing_is_lost(
    name: str,
    house: House,
    cuttable: Callable[[str, int], Cuttable],
) -> None:
    """Away at the start, and again in the middle; the sink never ends and its group keeps it."""
    probe = house.probes[name]
    behind, proxy = probe.behind(house.settings, cuttable)
    records = probe.records(house.symbol, 900)
    proxy.cut()
    running = house.start(name, behind)

    def degraded() -> Any:
        status = running.status()
        return status and status.state == "DEGRADED" and sum(status.lag.values()) and status

    house.topics.send(*records[:300])
    status = until(degraded, "DEGRADED, with lag")
    assert status.last_error
    assert status.counters["retries"]
    proxy.mend()
    house.all_there(name, records[:300])
    proxy.cut()
    house.topics.send(*records[300:600])
    retries = status.counters["retries"]
    status = until(degraded, "DEGRADED again")
    house.topics.send(*records[600:])
    until(lambda: (now := degraded()) and now.counters["retries"] > retries + 2, "it tries again and again")
    proxy.mend()
    house.all_there(name, records)
    until(lambda: (now := running.status()) and now.state == "RUNNING", "RUNNING")
    assert running.process.poll() is None


def test_a_stop_while_the_store_is_away_commits_nothing(
    house: House,
    cuttable: Callable[[str, int], Cuttable],
) -> None:
    behind, proxy = house.probes["influx"].behind(house.settings, cuttable)
    running = house.start("influx", behind)
    until(lambda: (now := running.status()) and now.state == "RUNNING", "RUNNING")
    proxy.cut()
    records: list[Record] = [trade(house.symbol, number) for number in range(50)]
    house.topics.send(*records)
    until(lambda: (now := running.status()) and now.state == "DEGRADED", "DEGRADED")
    assert running.stop() == 0
    assert not house.probes["influx"].kept(house.symbol)
    house.start("influx", house.settings)
    house.all_there("influx", records)


def test_unreadable_and_refused_records_become_dead_letters_and_clocks_do_not(house: House) -> None:
    key = f"VENUE:{house.symbol}".encode()
    good: list[Record] = [trade(house.symbol, number) for number in range(300)]
    poison = trade(house.symbol, 1, event_time=-5)
    torn = CODEC.encode(good[0])[:-1]
    unknown = b"\0" + (7).to_bytes(4, "big") + b"body"
    long = b"x" * (PAYLOAD_LIMIT + 50_000)
    bad = [b"", b"garbage", torn, unknown, CODEC.encode(book(house.symbol, 1)), long, CODEC.encode(poison)]
    house.topics.send(*good[:150])
    for value in bad:
        house.topics.send_bytes(TRADES, key, value)
    house.topics.send_bytes(TRADES, key, None, headers={"clock": b"1723075200000000"})
    house.topics.send(*good[150:])
    running = house.start("influx", house.settings)

    house.all_there("influx", good)
    found = partial(house.topics.dead_letters, key.decode())
    until(lambda: len(found()) >= len(bad), "dead letters")
    letters = found()
    assert [letter.payload for letter in letters] == [value[:PAYLOAD_LIMIT] for value in bad[:-1]] + bad[-1:]
    assert [letter.reason for letter in letters] == ["unreadable_record"] * 6 + ["refused_by_store"]
    assert "1970" in letters[-1].detail
    assert f"of {len(long)} bytes" in letters[5].detail
    offsets = [letter.offset or 0 for letter in letters]
    assert offsets == list(range(offsets[0], offsets[0] + len(bad)))
    assert {(letter.topic, letter.key, letter.service) for letter in letters} == {(TRADES, key, "sink-influx")}
    until(lambda: (now := running.status()) and now.counters.get("dead_letters") == len(bad), "counted")


def test_a_bar_waits_for_its_instrument_then_is_a_dead_letter_and_holds_up_nobody(house: House) -> None:
    known, late, never = house.symbol, house.symbol + "LATE", house.symbol + "NEVER"
    patient = house.waiting(10.0)
    running = house.start("timescale", patient)
    house.topics.send(instrument(known), bar(known, 0))
    house.all_there("timescale", [bar(known, 0)], known)

    house.topics.send(bar(late, 1), bar(never, 1), bar(never, 2))
    # What an earlier test left may wait beside them.
    until(lambda: (now := running.status()) and now.gauges.get("waiting", 0) >= 3, "three wait")
    house.topics.send(bar(known, 1))
    house.all_there("timescale", [bar(known, 0), bar(known, 1)], known)
    assert house.topics.lag(GROUP_SINK + "timescale", BARS["tib"]) >= 3, "what waits is not committed"
    house.topics.send(instrument(late))
    house.all_there("timescale", [bar(late, 1)], late)
    letters = until(lambda: house.topics.dead_letters(f"VENUE:{never}"), "dead letters")
    assert [(letter.reason, letter.topic, letter.payload) for letter in letters] == [
        ("unknown_instrument", BARS["tib"], CODEC.encode(bar(never, number))) for number in (1, 2)
    ]
    assert never in letters[0].detail
    until(lambda: house.topics.lag(GROUP_SINK + "timescale", BARS["tib"]) == 0, "all is committed")
    assert not house.topics.dead_letters(f"VENUE:{late}")


def test_bars_that_wait_are_not_lost_by_a_kill(house: House) -> None:
    patient = house.waiting(60.0)
    running = house.start("timescale", patient)
    house.topics.send(bar(house.symbol, 1), bar(house.symbol, 2))
    until(lambda: (now := running.status()) and now.gauges.get("waiting", 0) >= 2, "two wait")
    running.kill()
    house.topics.send(instrument(house.symbol))
    house.start("timescale", patient)
    house.all_there("timescale", [bar(house.symbol, 1), bar(house.symbol, 2)])


def test_a_mart_made_anew_learns_the_instruments_again(house: House) -> None:
    house.topics.send(instrument(house.symbol), bar(house.symbol, 1))
    first = house.start("timescale", house.settings)
    house.all_there("timescale", [bar(house.symbol, 1)])
    assert first.stop() == 0

    anew = house.other_mart()
    house.topics.send(bar(house.symbol, 2))
    house.start("timescale", anew)
    probe = TimescaleProbe(anew)
    until(lambda: probe.count(house.symbol), "the bar is there")
    assert probe.kept(house.symbol) == probe.expected([bar(house.symbol, 2)])


def test_more_bars_than_may_wait_are_read_on_when_their_instrument_comes(house: House) -> None:
    running = house.start("timescale", house.waiting(120.0))
    bars: list[Record] = [bar(house.symbol, number) for number in range(WAITING_LIMIT * 2 + BATCH_RECORDS)]
    house.topics.send(*bars)
    until(lambda: (now := running.status()) and now.gauges.get("waiting", 0) >= WAITING_LIMIT, "many wait")
    house.topics.send(instrument(house.symbol))
    house.all_there("timescale", bars)
    status = running.status()
    assert status
    assert not status.counters.get("dead_letters")


def test_a_conflicting_bar_is_a_dead_letter_with_its_bytes(house: House) -> None:
    other = bar(house.symbol, 1, close=12345)
    house.topics.send(instrument(house.symbol), bar(house.symbol, 1))
    house.start("timescale", house.settings)
    house.all_there("timescale", [bar(house.symbol, 1)])
    house.topics.send(bar(house.symbol, 1), other, bar(house.symbol, 2))
    house.all_there("timescale", [bar(house.symbol, 1), bar(house.symbol, 2)])
    (letter,) = until(lambda: house.topics.dead_letters(f"VENUE:{house.symbol}"), "a dead letter")
    assert (letter.reason, letter.payload) == ("conflicting_row", CODEC.encode(other))
    assert letter.detail.endswith("close")


def test_two_of_the_same_name_do_not_run_and_the_loser_says_why(house: House) -> None:
    first = house.start("influx", house.settings)
    until(lambda: (now := first.status()) and now.lag, "the first has its partitions")
    second = house.start("influx", house.settings)
    assert first.process.wait(40) == 1
    assert "RAVEN_SERVICE__INSTANCE" in first.log()
    until(lambda: (now := second.status()) and now.lag, "the second has the partitions at once", seconds=8)


def test_a_rebalance_while_the_store_is_away_loses_nothing(
    house: House, cuttable: Callable[[str, int], Cuttable]
) -> None:
    behind, proxy = house.probes["timescale"].behind(house.waiting(120.0), cuttable)
    bars = [bar(f"{house.symbol}N{number}", 1) for number in range(30)]  # in every partition, and waiting
    house.topics.send(*bars)
    first = house.start("timescale", behind)
    until(lambda: (now := first.status()) and now.gauges.get("waiting", 0) >= len(bars), "all wait")
    proxy.cut()
    until(lambda: (now := first.status()) and now.state == "DEGRADED", "the first one's store is away")
    other = house.waiting(120.0).model_copy(update={"service": ServiceSettings(instance="test-second")})
    second = house.start("timescale", other)
    until(lambda: (now := second.status()) and now.gauges.get("waiting"), "the second has some of the partitions")
    proxy.mend()
    house.topics.send(*(instrument(one.symbol) for one in bars))
    for one in bars:
        house.all_there("timescale", [one], one.symbol)
    assert first.process.poll() is None, first.log()


def test_partitions_that_are_lost_while_the_store_is_away_are_read_again_when_they_come_back(
    house: House, cuttable: Callable[[str, int], Cuttable]
) -> None:
    behind, proxy = house.probes["influx"].behind(house.settings, cuttable)
    records: list[Record] = [trade(house.symbol, number) for number in range(100)]
    running = house.start("influx", behind, LOSES_ITS_PARTITIONS)
    until(lambda: (now := running.status()) and now.lag, "at work")
    proxy.cut()
    house.topics.send(*records[:50])
    until(lambda: "lost all partitions" in running.log(), "it has lost its partitions")
    proxy.mend()
    house.topics.send(*records[50:])
    house.all_there("influx", records)


def test_a_commit_that_is_never_answered_silences_no_sink_and_keeps_none_from_ending(house: House) -> None:
    running = house.start("influx", house.settings, HANGS_IN_A_COMMIT)
    house.topics.send(trade(house.symbol, 1))
    until(lambda: "commits" in running.log(), "it commits")
    until(lambda: (now := running.status()) and now.state == "DEGRADED", "it says so")
    assert running.stop() == 0, running.log()


def test_an_idle_sink_has_no_lag_though_the_last_records_came_in_a_transaction(house: House) -> None:
    running = house.start("influx", house.settings)
    until(lambda: (now := running.status()) and now.lag, "at work")
    house.topics.send_in_a_transaction(*(trade(house.symbol, number) for number in range(50)))
    until(lambda: house.more_than("influx", 49), "all there")
    until(lambda: (now := running.status()) and not any(now.lag.values()), "nothing is left to do")


def demand(symbol: str, *stores: str, outputs: tuple[str, ...] = ("trades",)) -> Demand:
    feeds = (FeedName("VENUE", "trades", symbol),)
    name = "-".join(("d", symbol, *stores))
    return Demand(demand_id=name, user="u", symbol=symbol, outputs=outputs, stores=stores, feeds=feeds, created_time=1)


def told(house: House, demands: Sequence[Demand], *sinks: Sink, withdrawn: bool = False) -> None:
    """Write demands, or withdraw them; and wait until these sinks know."""
    for one in demands:
        house.topics.send_bytes(CONTROL, one.demand_id.encode(), None if withdrawn else CODEC.encode(one))
    house.topics.flush()
    [end] = house.topics.ends(CONTROL)
    for sink in sinks:
        until(lambda sink=sink: (now := sink.status()) and now.gauges["control_offset"] >= end, "the demands are known")  # type: ignore[misc]


def test_what_demands_want_in_other_stores_is_left_out_and_nothing_else(house: House) -> None:
    trades: list[Record] = [trade(house.symbol, number) for number in range(500)]
    into_influx, into_both, into_lake = (
        demand(house.symbol, *stores) for stores in (("influx",), ("influx", "lake"), ("lake",))
    )
    told(house, [into_influx])
    house.topics.send(*trades[:100])
    sinks = [house.start(name, house.settings) for name in ("influx", "lake")]
    house.all_there("influx", trades[:100])
    until(lambda: (now := sinks[1].status()) and now.counters.get("unwanted", 0) >= 100, "the lake has left them out")
    told(house, [into_both], *sinks)
    house.topics.send(*trades[100:200])
    house.all_there("lake", trades[100:200])
    told(house, [into_influx, into_both], *sinks, withdrawn=True)
    house.topics.send(*trades[200:300])  # what was in flight
    house.all_there("lake", trades[100:300])
    house.all_there("influx", trades[:300])
    told(house, [into_lake], *sinks)
    house.topics.send(*trades[300:400])
    for sink in sinks:
        sink.kill()
    sinks = [house.start(name, house.settings) for name in ("influx", "lake")]
    house.topics.send(*trades[400:])
    house.all_there("lake", trades[100:])
    until(lambda: house.topics.lag(GROUP_SINK + "influx", TRADES) == 0, "what is left out is committed")
    house.all_there("influx", trades[:300])
    until(lambda: (now := sinks[0].status()) and now.counters.get("unwanted", 0) >= 100, "counted")
    asked = Shutdown(service="sink-influx", user="u", requested_time=1)
    house.topics.send_bytes(CONTROL, b"shutdown:sink-influx", CODEC.encode(asked))
    house.topics.flush()
    assert sinks[0].process.wait(15) == 0
    assert sinks[1].process.poll() is None


def test_what_comes_of_a_demand_is_judged_by_it(house: House) -> None:
    """Even where thousands of demands and the first records come at the same moment."""
    again, new = f"{house.symbol}AGAIN", f"{house.symbol}NEW"
    running = house.start("influx", house.settings)
    until(lambda: (now := running.status()) and now.lag, "at work")
    told(house, [demand(again, "lake")], running)
    house.topics.send(trade(again, 1))
    until(lambda: (now := running.status()) and now.counters.get("unwanted"), "it was left out")
    others = [demand(f"{house.symbol}O{number}", "lake") for number in range(10_000)]
    written = [(one.demand_id.encode(), CODEC.encode(one)) for one in others]
    time.sleep(QUIET_S)
    running.process.send_signal(signal.SIGSTOP)
    for key, value in written:
        house.topics.send_bytes(CONTROL, key, value)
    told(house, [demand(again, "influx"), demand(new, "lake")])
    house.topics.send(*(trade(symbol, number) for number in range(2, 50) for symbol in (again, new, house.symbol)))
    running.process.send_signal(signal.SIGCONT)
    house.all_there("influx", [trade(house.symbol, number) for number in range(2, 50)])
    house.all_there("influx", [trade(again, number) for number in range(2, 50)], again)
    until(lambda: house.topics.lag(GROUP_SINK + "influx", TRADES) == 0, "all is done")
    assert house.probes["influx"].count(new) == 0
    for key, _ in written:
        house.topics.send_bytes(CONTROL, key, None)
    house.topics.flush()


@pytest.mark.parametrize("arguments", [[], ["oracle"], ["influx", "timescale"]])
def test_wrong_use_is_told(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from sinks.__main__ import main

    monkeypatch.setattr("sys.argv", ["sinks", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "influx|lake|timescale" in capsys.readouterr().err
