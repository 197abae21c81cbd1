"""Line protocol of every record; each point with a nanosecond of its own."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ravencore.codec import Codec, Schema, load_schema
from ravencore.decimals import LIMIT, ONE, to_decimal
from ravencore.records import Book, Funding, Instrument, Kline, Level, OptionTicker, Quote, Record, Trade
from sinks.contract import REFUSED, UNREADABLE, Bad, Read, Refused
from sinks.reading import Tables
from sinks.stores.influx_lines import MEASUREMENTS, Places, Points, point_time_ns, points
from tests.sinks.influx_oracle import HUNDRED_MILLIONTHS, UNITS38, Point, encode, records_of
from tests.sinks.probe_influx import MAKERS, kline, option, quote, row_of
from tests.sinks.rig import CODEC, T0, book, reads, trade

UNITS = st.integers(0, 10**38 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
NAMES = TEXT.filter(lambda text: "\\" not in text)


TABLES = Tables(CODEC, heads=True)


def read(record: Record, offset: int) -> Read:
    return reads([record])[0]._replace(offset=offset)


def made_of(cls: type[Record], some: Sequence[Read]) -> tuple[Points, list[Bad]]:
    """Points as the store makes them, of values of one schema."""
    found, unreadable = TABLES.made(cls, some, partial(points, cls))
    ((made, without),) = found
    return made, unreadable + without


def line(record: Record, offset: int = 0) -> str:
    made, without = made_of(type(record), [read(record, offset)])
    if without:
        raise Refused(without[0].detail)
    return made.body([0]).decode()


def parse(text: str) -> tuple[str, dict[str, str], dict[str, Any], int]:
    """A reader of line protocol written from its specification: doubles, integers and strings."""
    head, fields, time_ns = split(text, " ")
    measurement, *tags = split(head, ",")
    pairs = [split(field, "=") for field in split(fields, ",")]
    return measurement, dict(map(unescaped, tags)), {name: typed(value) for name, value in pairs}, int(time_ns)


def typed(value: str) -> Any:
    if value.startswith('"'):
        return unquote(value)
    return int(value[:-1]) if value.endswith("i") else float(value)


def split(text: str, at: str) -> list[str]:
    """Split at a character that is neither escaped nor inside quotes."""
    parts, part, quoted, escaped = [], "", False, False
    for character in text:
        if escaped or character == "\\":
            escaped = not escaped
        elif character == '"' and at in " ,":
            quoted = not quoted
        elif character == at and not quoted:
            parts.append(part)
            part = ""
            continue
        part += character
    return [*parts, part]


def unescaped(tag: str) -> tuple[str, str]:
    name, value = split(tag, "=")
    return name, re.sub(r"\\([,= ])", r"\1", value)


def unquote(text: str) -> str:
    return re.sub(r'\\(["\\])', r"\1", text[1:-1])


@given(symbol=NAMES.filter(lambda text: '"' not in text), venue=NAMES.filter(lambda text: '"' not in text))
def test_tags_come_back_as_they_were(symbol: str, venue: str) -> None:
    _, tags, _, _ = parse(line(trade(symbol, 5, venue=venue)))
    assert tags == {"symbol": symbol, "exchange": venue, "side": "BUY"}


@given(price=UNITS, quantity=UNITS, trade_id=TEXT.filter(lambda text: "=" not in text))
def test_fields_come_back_as_the_nearest_doubles_and_the_exact_id(price: int, quantity: int, trade_id: str) -> None:
    measurement, _, fields, time_ns = parse(line(trade("S", 5, price=price, quantity=quantity, trade_id=trade_id)))
    assert measurement == "trades"
    assert fields == {
        "price": float(to_decimal(price)),
        "quantity": float(to_decimal(quantity)),
        "trade_id": trade_id,
    }
    assert time_ns == (T0 + 5000) * 1000 + 5


@pytest.mark.parametrize("symbol", ["", "a\\", "a\nb", "tab\t", "\0"])
def test_a_tag_that_parsers_disagree_on_is_refused(symbol: str) -> None:
    with pytest.raises(Refused):
        line(trade(symbol, 1))


def test_a_line_as_it_is_written() -> None:
    written = line(trade("BTC USDT", 42, event_time=T0, price=60_001_500_000_000_000_000_000, quantity=10**15))
    assert written == (
        "trades,symbol=BTC\\ USDT,exchange=VENUE,side=SELL "
        'price=60001.5,quantity=0.001,trade_id="42" 1723075200000000042'
    )


def test_a_trade_id_is_a_string_even_when_it_looks_like_a_number() -> None:
    assert 'trade_id="1e5"' in line(trade("S", 1, trade_id="1e5"))


def at(time_us: int, counting: int) -> int:
    return int(point_time_ns(np.array([time_us]), np.array([counting]))[0])


@given(
    start=st.integers(0, 2**53),
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), max_size=200),
    clock_us=st.sampled_from([1, 1000]),
)
def test_counting_trades_of_either_clock_never_share_a_nanosecond(
    start: int, steps: list[tuple[int, int]], clock_us: int
) -> None:
    """Ids that count, times that do not run backwards, fewer than 1000 ids apart within a millisecond."""
    sequence, time_us, times = start, T0, []
    since_ms = 0
    for ticks, jump in steps:
        before = time_us // 1000
        time_us += ticks * clock_us
        since_ms = 0 if time_us // 1000 != before else since_ms + jump
        if since_ms >= 900:
            break
        sequence += jump
        times.append(at(time_us, sequence))
    assert len(set(times)) == len(times)


@given(st.integers(0, 2**60), st.integers(1, 999_999))
def test_trades_of_one_whole_millisecond_meet_only_a_million_ids_apart(sequence: int, apart: int) -> None:
    assert at(T0, sequence) != at(T0, sequence + apart)
    assert at(T0, sequence) == at(T0, sequence + 1_000_000)


@given(st.integers(0, 2**60), st.integers(1, 10**6), st.integers(0, 999), st.integers(0, 999))
def test_on_a_microsecond_clock_only_ids_a_multiple_of_1000_apart_meet(
    sequence: int, apart: int, first_us: int, second_us: int
) -> None:
    same = at(T0 + first_us, sequence) == at(T0 + second_us, sequence + apart)
    assert not same or apart % 1000 == 0


def test_the_time_stays_within_its_own_millisecond_or_microsecond() -> None:
    assert at(T0, 2_999_999) - T0 * 1000 == 999_999
    assert at(T0 + 1, 2_999_999) - (T0 + 1) * 1000 == 999


def test_trades_whose_ids_do_not_count_are_told_apart_by_their_offset() -> None:
    same = trade("S", 1, sequence=None, trade_id="uuid", event_time=T0)
    assert line(same, 7).endswith(f" {T0 * 1000 + 7}")
    assert line(same, 8).endswith(f" {T0 * 1000 + 8}")


def point(record: Record, offset: int = 0) -> tuple[str, dict[str, str], dict[str, Any], int]:
    return parse(line(record, offset))


ANY = st.one_of([records_of(cls) for cls in MEASUREMENTS])


@pytest.mark.parametrize("cls", MEASUREMENTS)
def test_tags_and_fields_are_those_of_the_issue(cls: type[Record]) -> None:
    for number in range(12):
        record: Any = MAKERS[cls]("BTC-PERP", number)
        measurement, tags, fields, time_ns = point(record, 5)
        name, third, time_ms, expected = row_of(record)
        symbol = "index_name" if measurement in {"price_index", "volatility_index"} else "symbol"
        assert measurement == name
        assert {tags.pop(symbol), tags.pop("exchange")} == {"BTC-PERP", "VENUE"}
        assert list(tags.values()) == [third] * bool(third)
        assert fields == {name: value for name, value in expected.items() if value is not None}
        assert time_ns // 1_000_000 == time_ms


def test_every_measurement_has_a_low_number_of_tags_and_no_id_among_them() -> None:
    tags = {known.tag for known in MEASUREMENTS.values()}
    assert tags == {None, "side", "interval"}


FLOAT = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"


def assert_says(written: str, point: Point) -> None:
    """Whether a line is exactly that point; a float may be written in any shortest form that is read as it."""
    head, tail = f"{point.series} ", f" {point.time_ns}"
    assert written.startswith(head)
    assert written.endswith(tail)
    fields = written[len(head) : -len(tail)]
    for name, value in point.fields.items():
        assert fields.startswith(f"{name}=")
        fields = fields.removeprefix(f"{name}=")
        if isinstance(value, float):
            found = re.match(FLOAT, fields)
            assert found
            text = found[0]
            assert float(text).hex() == value.hex()
            assert digits(text) == digits(repr(value))
        else:
            text = string(value) if isinstance(value, str) else f"{value}i"
            assert fields.startswith(text)
        fields = fields.removeprefix(text).removeprefix(",")
    assert fields == ""


def string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def digits(text: str) -> str:
    return re.sub(r"e.*|[-.]", "", text).strip("0")


@pytest.mark.parametrize("cls", MEASUREMENTS)
@settings(max_examples=150)
@given(data=st.data())
def test_columns_give_the_points_that_records_give_one_by_one(cls: type[Record], data: st.DataObject) -> None:
    units = data.draw(st.sampled_from([HUNDRED_MILLIONTHS, UNITS38, HUNDRED_MILLIONTHS | UNITS38]))
    records = data.draw(st.lists(records_of(cls, units), min_size=1, max_size=8)) * data.draw(st.integers(1, 3))
    first = data.draw(st.integers(0, 2**40))
    batch = [read(record, first + row) for row, record in enumerate(records)]
    expected, refused = [], []
    for one, record in zip(batch, records, strict=True):
        try:
            expected.append((one, encode(record, one.offset)))
        except Refused:
            refused.append(one)
    made, without = made_of(cls, batch)
    assert [bad.read for bad in without] == refused
    assert {bad.reason for bad in without} <= {REFUSED}
    assert list(made.reads) == [one for one, _ in expected]
    assert made.series.to_pylist() == [point.series for _, point in expected]
    assert made.times_ns.tolist() == [point.time_ns for _, point in expected]
    for written, (_, point) in zip(made.lines.to_pylist(), expected, strict=True):
        assert_says(written, point)
    assert made.body(range(len(expected))).decode() == "\n".join(made.lines.to_pylist())
    assert made.body(range(1, len(expected))).decode() == "\n".join(made.lines.to_pylist()[1:])


NUMBERS = st.integers(-LIMIT + 1, LIMIT - 1) | st.integers(-(10**20), 10**20) | HUNDRED_MILLIONTHS


@settings(max_examples=300)
@given(st.lists(NUMBERS, min_size=1, max_size=20))
@example([5 * ONE, 10**5 * ONE, 10**20 - 1, -ONE, 0, 1, LIMIT - 1, 1 - LIMIT, ONE // 3])
def test_numbers_are_written_as_the_nearest_doubles(units: list[int]) -> None:
    made, _ = made_of(Trade, reads([trade("S", row, price=number) for row, number in enumerate(units)]))
    found = [re.search(rf" price=({FLOAT}),", text) for text in made.lines.to_pylist()]
    assert [float(one[1]) for one in found if one] == [float(to_decimal(number)) for number in units]


class Newer:
    """A registry in which somebody else's Trade has a field more."""

    def __init__(self) -> None:
        own = load_schema("trade.avsc")
        self._newer: Schema = {**own, "fields": [*own["fields"], {"name": "fee", "type": ["null", "double"]}]}

    def id_of(self, record: str, schema: Schema) -> int:
        return 7

    def schema_of(self, schema_id: int) -> Schema:
        return self._newer


def test_records_of_a_newer_writer_are_not_decoded_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = reads([trade("S", number) for number in range(100)])
    newer = Codec(Newer())
    header = newer.header(Trade)
    extended = [
        one._replace(value=header + one.value[5:] + (b"\0" if one.offset % 2 else b"\2\1\2\3\4\5\6\7\x40"))
        for one in batch
    ]
    monkeypatch.delattr(Codec, "decode")
    found, bad = Tables(newer, heads=True).made(Trade, [*batch, *extended], partial(points, Trade))
    (made, without), (same, without_too) = found
    assert not bad + without + without_too
    assert made.lines == same.lines


@given(st.lists(ANY, max_size=60), st.integers(0, 10**6), st.integers(1, 30))
def test_no_two_different_records_of_a_batch_become_one_point(records: list[Record], first: int, size: int) -> None:
    """Whatever they are: each is a point of its own, or refused, or the very point of one before it.

    Times are drawn from few, so that they do meet; trades and candles that meet have the venue's own identity.
    """
    batch = [(type(record), read(with_few_times(record), first + row)) for row, record in enumerate(records)]
    places, kept = Places(), []
    for start in range(0, len(batch), size):
        for cls in MEASUREMENTS:
            some = [one for kind, one in batch[start : start + size] if kind is cls]
            if not some:
                continue
            made, _ = made_of(cls, some)
            rows, met = places.take(made)
            kept += [(made.series[row].as_py(), int(made.times_ns[row])) for row in rows]
            left = [made.reads[row] for row in sorted(set(range(len(made.reads))) - set(rows))]
            assert not left or cls in {Trade, Kline}
            assert {one.read for one in met} <= set(left)
    assert len(set(kept)) == len(kept)


def with_few_times(record: Any) -> Any:
    times = {"received_time", "open_time"} & set(record.__struct_fields__)
    changes = {name: T0 + getattr(record, name) % 3 * 1000 for name in times}
    if getattr(record, "event_time", None) is not None:
        changes["event_time"] = T0 + record.event_time % 3
    return replace(record, **changes)


def test_of_offsets_in_one_time_none_meet() -> None:
    for time_us, others in ((T0, 3000), (T0 + 1, 1000)):
        for cls in MEASUREMENTS.keys() - {Trade, Kline}:
            record: Any = MAKERS[cls]("S", 6)
            same = replace(record, received_time=time_us, **({"event_time": time_us} if record.event_time else {}))
            value = read(same, 0)
            made, _ = made_of(cls, [value._replace(offset=5_000_000 + offset) for offset in range(others)])
            assert len(set(made.times_ns.tolist())) == others


def test_points_that_would_overwrite_one_another_are_refused_and_not_lost() -> None:
    first, other, again = batch = reads([trade("S", n, event_time=T0, side="BUY") for n in (1, 1_000_001, 1)])
    apart = read(trade("S", 1, event_time=T0, side="SELL"), 3)
    for size in (1, 9):
        places, kept, met = Places(), [], []
        for start in range(0, 4, size):
            made, _ = made_of(Trade, [*batch, apart][start : start + size])
            rows, refused = places.take(made)
            kept += [made.reads[row] for row in rows]
            met += refused
        assert kept == [first, apart]
        assert [one.read for one in met] == [other]
        assert "offset 0 has the same series and nanosecond" in met[0].detail
    assert again not in kept


def test_a_candle_is_its_interval_and_open_time() -> None:
    later = kline("S", 1, event_time=T0 + 10**9)
    assert line(later, 7) == line(kline("S", 1), 8)
    assert point(later)[3] == later.open_time * 1000
    assert line(kline("S", 1, interval="5m")) != line(kline("S", 1))


def test_what_has_no_event_time_is_told_when_it_was_received() -> None:
    assert point(quote("S", 1, event_time=None, received_time=T0 + 1), 2_345)[3] == (T0 + 1) * 1000 + 345
    assert point(quote("S", 1, event_time=T0, received_time=T0 + 1), 2_345)[3] == T0 * 1000 + 2345


def test_a_double_that_is_no_number_is_left_out() -> None:
    odd = option("S", 1, mark_iv=float("nan"), ask_iv=float("inf"), bid_iv=0.5)
    assert point(odd)[2].keys() & {"mark_iv", "bid_iv", "ask_iv"} == {"bid_iv"}


def test_an_empty_side_leaves_its_fields_out() -> None:
    def of(bids: tuple[Level, ...], asks: tuple[Level, ...]) -> Book:
        return replace(book("S", 2), bids=bids, asks=asks)

    level = (Level(10**18, 10**18),)
    assert point(of(level, ()))[2] == {"bid_price": 1.0, "bid_quantity": 1.0}
    assert point(of((), level))[2] == {"ask_price": 1.0, "ask_quantity": 1.0}
    assert "imbalance" not in point(of((Level(1, 0),), (Level(2, 0),)))[2]


@pytest.mark.parametrize(
    "record",
    [
        replace(book("S", 1), bids=(), asks=()),
        Quote(venue="V", symbol="S", received_time=T0),
        Funding(venue="V", symbol="S", event_time=T0, received_time=T0),
    ],
)
def test_what_has_nothing_to_write_is_refused(record: Record) -> None:
    with pytest.raises(Refused, match=r"has no field"):
        line(record)


def test_odd_ones_are_refused_alone_in_a_batch() -> None:
    records: list[Record] = [trade("S", number) for number in range(200)]
    records[77] = trade("S", 77, trade_id="a\nb")
    records[78] = trade("back\\slash", 78)
    records[79] = trade("S", 79, event_time=2**62)
    batch = reads(records)
    batch[80] = batch[80]._replace(value=b"garbage")
    batch[81] = batch[81]._replace(value=CODEC.encode(quote("S", 1)))
    found, unreadable = TABLES.made(Trade, batch, partial(points, Trade))
    bad = unreadable + [one for _, without in found for one in without]
    assert [(one.read.offset, one.reason) for one in bad] == [
        (80, UNREADABLE), (81, UNREADABLE), (77, REFUSED), (78, REFUSED), (79, REFUSED),
    ]  # fmt: skip
    details = {one.read.offset: one.detail for one in bad}
    assert details[77] == "'a\\nb' cannot be a string field"
    assert details[78] == "'back\\\\slash' cannot be a tag"
    assert "beyond what nanoseconds in 64 bits can say" in details[79]
    kept = [one for made, _ in found for one in made.reads]
    assert kept == [one for one in batch if one.offset not in {77, 78, 79, 80, 81}]


def test_every_kind_that_is_collected_has_a_measurement() -> None:
    assert {Trade, Book, Quote, Kline, Funding, OptionTicker} < MEASUREMENTS.keys() == MAKERS.keys()
    assert Instrument not in MEASUREMENTS
