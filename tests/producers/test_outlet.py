"""In which order records reach the broker: a Gap before what its feed brings next, a repair's Gap after its trades."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.collector.outlet import MOST_WAITING, Outlet
from ravencore import kafka, topics
from ravencore.codec import Codec
from ravencore.config import KafkaSettings, Settings
from ravencore.records import Gap, Trade, gap_key
from ravenctl.local.broker import Broker
from tests.producers.made import us

pytestmark = pytest.mark.stack

VENUE = "BINANCE_SPOT"
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
CODEC = Codec()


def trade(number: int, symbol: str) -> Trade:
    return Trade(
        venue=VENUE,
        symbol=symbol,
        event_time=us(number),
        received_time=us(number),
        trade_id=str(number),
        sequence=number,
        price=1,
        quantity=1,
        side="BUY",
    )


def gap(number: int, symbol: str, repair: str = "NONE") -> Gap:
    return Gap(
        gap_id=str(number),
        venue=VENUE,
        channel="trades",
        symbol=symbol,
        cause="SEQUENCE",
        to_time=us(number),
        detected_time=us(number),
        repair=repair,  # type: ignore[arg-type] # one of the names
        connection="ws://here/",
        detail="",
    )


class Sent(NamedTuple):
    """A record as librdkafka was given it, and how often the broker had had all that went before."""

    topic: str
    key: bytes
    value: bytes
    times_empty: int


@pytest.fixture(scope="module")
def kafka_settings() -> Iterator[KafkaSettings]:
    with Broker() as broker:
        made = KafkaSettings(bootstrap=broker.bootstrap)
        kafka.ensure_topics(made)
        yield made


def sent(kafka_settings: KafkaSettings, records: Sequence[Trade | Gap]) -> list[Sent]:
    """What a real producer was given, in that order, when the outlet was given these at one go."""

    async def run() -> list[Sent]:
        outlet = Outlet(Settings(kafka=kafka_settings), CODEC)
        told: list[Sent] = []
        produce, empty = outlet.producer.produce, 0

        def watched(topic: str, value: bytes, key: bytes) -> None:
            nonlocal empty
            empty += len(outlet.producer) == 0
            told.append(Sent(topic, key, value, empty))
            produce(topic, value, key)

        outlet._produce = watched  # type: ignore[assignment] # Clocks, which have headers, are not among them
        running = asyncio.create_task(outlet.run())
        for record in records:
            outlet.put(VENUE, record)
        await outlet.delivered()
        await outlet.ready()
        running.cancel()
        return told

    return asyncio.run(run())


made = st.lists(
    st.tuples(st.sampled_from(["trade", "trade", "NONE", "BACKFILLED"]), st.sampled_from(SYMBOLS)), max_size=60
)


def records_of(kinds: Sequence[tuple[str, str]]) -> list[Trade | Gap]:
    return [
        trade(number, symbol) if kind == "trade" else gap(number, symbol, kind)
        for number, (kind, symbol) in enumerate(kinds)
    ]


@given(made)
@settings(max_examples=20)
def test_a_gap_is_there_before_what_its_feed_brings_next_and_a_repair_after_its_trades(
    kafka_settings: KafkaSettings, kinds: list[tuple[str, str]]
) -> None:
    records = records_of(kinds)
    told = sent(kafka_settings, records)
    place = {one.value: one for one in told}
    assert len(told) == len(place) == len(records)
    order = [place[CODEC.encode(record)] for record in records]
    for at, (record, one) in enumerate(zip(records, order, strict=True)):
        later = [other for other, what in zip(order[at:], records[at:], strict=True) if is_trade(what, record.symbol)]
        before = [other for other, what in zip(order[:at], records[:at], strict=True) if is_trade(what, record.symbol)]
        if isinstance(record, Trade):
            assert later == sorted(later, key=told.index), "trades of a symbol keep their order"
        elif record.repair == "NONE":
            assert all(other.times_empty > one.times_empty for other in later)
            assert all(told.index(other) < told.index(one) for other in before), "it is no news before they are"
        else:
            assert all(other.times_empty < one.times_empty for other in before)


def is_trade(record: Trade | Gap, symbol: str) -> bool:
    return isinstance(record, Trade) and record.symbol == symbol


def test_a_thousand_gaps_of_as_many_feeds_wait_for_the_broker_once(kafka_settings: KafkaSettings) -> None:
    symbols = [f"COIN{number}USDT" for number in range(MOST_WAITING // 2)]
    records = [record for n, name in enumerate(symbols) for record in (gap(n, name), trade(n, name))]
    told = sent(kafka_settings, records)
    assert [one.topic for one in told] == [topics.GAPS] * len(symbols) + [topics.TRADES] * len(symbols)
    assert told[0].key == gap_key(records[0])  # type: ignore[arg-type]
    assert len({one.times_empty for one in told}) == 2


def test_who_makes_records_is_to_stop_where_too_many_wait(kafka_settings: KafkaSettings) -> None:
    async def run() -> None:
        outlet = Outlet(Settings(kafka=kafka_settings), CODEC)
        outlet.put(VENUE, gap(0, "BTCUSDT"))
        for number in range(1, MOST_WAITING):
            assert not outlet.blocked
            outlet.put(VENUE, trade(number, "BTCUSDT"))
        assert outlet.blocked
        assert outlet.buffered == MOST_WAITING
        running = asyncio.create_task(outlet.run())
        await outlet.ready()
        await outlet.delivered()
        assert (outlet.blocked, outlet.counters["trades_published"]) == (False, MOST_WAITING - 1)
        running.cancel()

    asyncio.run(run())
