"""The intake: trades reach their folds whatever else is in a batch, and the rest become dead letters with a reason."""

from typing import NamedTuple

import pytest

from processors.contract import Output
from processors.derivations import MIDS
from processors.intake import Instruments, Made
from ravencore.codec import Codec
from ravencore.config import BarsSettings, Settings
from ravencore.decimals import ONE
from ravencore.graph import Standing
from ravencore.kafka import CLOCK_HEADER
from ravencore.records import Bar, Demand, FeedName, Quote, Trade, market_key
from ravencore.topics import BARS

CODEC = Codec()
START_US = 1_700_000_000_000_000
KEY = b"BINANCE_SPOT:BTCUSDT"


class Fetched(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    topic: str = "raven.trades"
    partition: int = 0


def trade(number: int, symbol: str = "BTCUSDT") -> Trade:
    return Trade(
        venue="BINANCE_SPOT",
        symbol=symbol,
        event_time=START_US + number * 1000,
        received_time=START_US + number * 1000 + 5,
        trade_id=str(number),
        sequence=number,
        price=100 * ONE,
        quantity=ONE,
        side="BUY",
    )


def fetched(number: int, symbol: str = "BTCUSDT") -> Fetched:
    one = trade(number, symbol)
    return Fetched(number, market_key(one), CODEC.encode(one))


def instruments() -> Instruments:
    return Instruments(CODEC, BarsSettings(), CLOCK_HEADER)


def reasons(made: Made) -> list[tuple[int, str]]:
    return [(letter.record.offset, letter.reason) for letter in made.letters]


def demand(*outputs: str, channel: str = "trades", symbol: str = "BTCUSDT") -> Demand:
    feed = FeedName("BINANCE_SPOT", channel, symbol)
    return Demand(demand_id="d", user="u", symbol=symbol, outputs=outputs, feeds=(feed,), created_time=1)


@pytest.mark.parametrize("count", [3, 500])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"", "framing"),
        (b"garbage", "framing"),
        (b"\x00\x00\x00\x00\x63" + CODEC.encode(trade(1))[5:], "schema id 99"),
        (CODEC.encode(trade(1))[:-3], "torn"),
        (CODEC.encode(trade(1)) + b"!", "after the end"),
    ],
)
def test_one_unreadable_record_costs_no_other(count: int, value: bytes, says: str) -> None:
    records = [fetched(number) for number in range(count)]
    records[count // 2] = Fetched(count // 2, KEY, value)
    made = instruments().apply(records)
    assert reasons(made) == [(count // 2, "unreadable_record")]
    assert says in made.letters[0].detail
    assert made.counts["trades"] == count - 1
    assert made.touched == {KEY: count - 1}


@pytest.mark.parametrize("key", [None, b"", b"BTCUSDT", b":BTCUSDT", b"BINANCE_SPOT:", b"\xff:\xff"])
def test_a_key_that_names_no_instrument_is_refused(key: bytes | None) -> None:
    made = instruments().apply([fetched(1)._replace(key=key), fetched(2)])
    assert reasons(made) == [(1, "wrong_key")]
    assert made.counts["trades"] == 1


@pytest.mark.parametrize("count", [3, 500])
def test_a_trade_under_another_instruments_key_is_refused(count: int) -> None:
    records = [fetched(number) for number in range(count)]
    records[1] = fetched(1, "ETHUSDT")._replace(key=KEY)
    made = instruments().apply(records)
    assert reasons(made) == [(1, "wrong_key")]
    assert "BINANCE_SPOT:ETHUSDT" in made.letters[0].detail
    assert set(made.touched) == {KEY}


def test_a_clock_closes_the_window_at_its_place_in_the_log() -> None:
    def clock(offset: int) -> Fetched:
        return Fetched(offset, KEY, None, ((CLOCK_HEADER, str(START_US + 2_000_000).encode()),))

    made = instruments().apply([fetched(1), clock(2), fetched(3)])
    bars = [output for output in made.outputs if output.topic == BARS["time"]]
    assert [(bar.offset, bar.received_time) for bar in bars] == [(2, 0)]
    assert isinstance(bars[0].record, Bar)
    assert bars[0].record.ticks == 1


@pytest.mark.parametrize("headers", [(), (("clock", b"soon"),), (("clock", b"\xff"),)])
def test_a_null_value_that_is_no_clock_is_refused(headers: tuple[tuple[str, bytes], ...]) -> None:
    made = instruments().apply([Fetched(1, KEY, None, headers), fetched(2)])
    assert reasons(made) == [(1, "unreadable_record")]
    assert made.counts["trades"] == 1


def test_outputs_and_letters_of_several_instruments_are_in_the_order_of_the_log() -> None:
    records = [fetched(number, ("BTCUSDT", "ETHUSDT")[number % 2]) for number in range(4000)]
    records[7] = Fetched(7, b"?", b"")
    records[5] = Fetched(5, KEY, b"garbage")
    made = instruments().apply(records)
    places = [(output.offset, output.order) for output in made.outputs]
    assert places == sorted(places)
    assert reasons(made) == [(5, "unreadable_record"), (7, "wrong_key")]


def test_however_a_log_is_cut_into_batches_the_same_is_made() -> None:
    records = [fetched(number, ("BTCUSDT", "ETHUSDT")[number % 2]) for number in range(3000)]
    records[1500] = Fetched(1500, KEY, b"garbage")
    whole, parts = instruments(), instruments()
    made = whole.apply(records)
    outputs = [it for at in range(0, 3000, 70) for it in parts.apply(records[at : at + 70]).outputs]
    assert outputs == made.outputs
    assert all(whole.snapshot(key) == parts.snapshot(key) for key in made.touched)
    resumed = instruments()
    for key in made.touched:
        resumed.restore(key, whole.snapshot(key))
        assert resumed.snapshot(key) == whole.snapshot(key)


def test_what_demands_name_makes_what_they_are_for_and_the_rest_all_there_is() -> None:
    records = [fetched(number, ("BTCUSDT", "ETHUSDT")[number % 2]) for number in range(6000)]
    made = instruments().apply(records, Standing([demand("bars.tib")]))
    all_of_it = instruments().apply(records)
    assert made.counts["trades"] == 6000
    assert {out.topic for out in of(made, "BTCUSDT")} == {BARS["tib"]}
    assert of(made, "BTCUSDT") == [out for out in of(all_of_it, "BTCUSDT") if out.topic == BARS["tib"]]
    assert of(made, "ETHUSDT") == of(all_of_it, "ETHUSDT")


def of(made: Made, symbol: str) -> list[Output]:
    return [out for out in made.outputs if out.record.symbol == symbol]


def test_a_withdrawn_demand_leaves_the_folds_as_they_are() -> None:
    machine = instruments()
    machine.apply([fetched(number) for number in range(1500)], Standing([demand("bars.tib")]))
    made = machine.apply([fetched(number) for number in range(1500, 4000)], Standing())
    assert {out.topic for out in made.outputs} == {BARS["tib"]}


def test_records_that_are_none_switch_nothing() -> None:
    machine = instruments()
    machine.apply([fetched(1)])
    before = machine.snapshot(KEY)
    made = machine.apply([Fetched(2, KEY, b"garbage")], Standing([demand("bars.tib")]))
    assert not made.touched
    assert machine.snapshot(KEY) == before


def quote(number: int) -> Fetched:
    now = START_US + number * 400_000
    one = Quote(venue="KRAKEN", symbol="BTC/USD", received_time=now, bid_price=ONE, ask_price=2 * ONE)
    return Fetched(number, b"BTC-USD", CODEC.encode(one), topic="raven.quotes")


@pytest.mark.parametrize(
    ("outputs", "published"), [((), True), (("spot_mid",), True), (("quotes",), False), (("bars.tib",), False)]
)
def test_samples_that_nobody_wants_are_made_and_not_published(outputs: tuple[str, ...], published: bool) -> None:
    standing = Standing([demand(*outputs, channel="quotes", symbol="BTC/USD")])
    machine, other = (MIDS.intake(CODEC, Settings(), CLOCK_HEADER) for _ in range(2))
    records = [quote(number) for number in range(20)]
    made, expected = machine.apply(records, standing), other.apply(records, Standing())
    assert len(expected.outputs) == 7
    assert made.outputs == (expected.outputs if published else [])
    assert machine.snapshot(b"BTC-USD") == other.snapshot(b"BTC-USD")
