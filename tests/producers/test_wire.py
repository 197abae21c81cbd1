"""The collector's fast encoders against the codec."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import ravencore.records
from producers.wire import Sides, Wire
from ravencore.codec import Codec, load_schema
from ravencore.decimals import LIMIT
from ravencore.records import (
    Bar,
    Book,
    IvSurface,
    Level,
    MarketRecord,
    Quote,
    Record,
    ServiceState,
    ServiceStatus,
    SpotMid,
    State,
    Subscription,
    SubscriptionState,
    Trade,
    Vpin,
)
from ravencore.writer import long_bytes

CODEC = Codec()
WIRE = Wire(CODEC)
EDGES = sorted(
    {sign * (1 << bits) + by for bits in (6, 7, 12, 13, 14, 26, 27, 28, 62) for sign in (1, -1) for by in (-1, 0, 1)}
)

longs = st.integers(-(2**63), 2**63 - 1)
decimals = st.integers(-LIMIT + 1, LIMIT - 1)
levels = st.builds(Level, price=decimals, quantity=decimals)
PLAIN = {
    "bytes": st.binary(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": longs,
    "string": st.text(max_size=200),
    "boolean": st.booleans(),
    "double": st.floats(),
}


def values(kind: object) -> st.SearchStrategy[object]:
    """What a field of this schema can hold."""
    match kind:
        case [null, some]:
            assert null == "null"
            return st.none() | values(some)
        case {"type": "array", "items": items}:
            return st.lists(values(items), max_size=20).map(tuple)
        case {"type": "map", "values": some}:
            return st.dictionaries(st.text(max_size=20), values(some), max_size=5)
        case {"type": "record", "name": name, "fields": fields}:
            return built(getattr(ravencore.records, name), fields)
        case {"type": "enum", "symbols": symbols}:
            return st.sampled_from(symbols)
        case {"logicalType": "decimal"}:
            return decimals
        case "Level":  # which a book's schema names for its asks
            return levels
        case {"type": plain} | plain:
            return PLAIN[plain]  # type: ignore[index]


def records(cls: type[Record]) -> st.SearchStrategy[Record]:
    """Records with whatever their schema allows."""
    return built(cls, load_schema(f"{cls.SCHEMA}.avsc")["fields"])


def built(cls: type[Any], fields: Sequence[Mapping[str, Any]]) -> st.SearchStrategy[Any]:
    return st.builds(cls, **{field["name"]: values(field["type"]) for field in fields})


@pytest.mark.parametrize("cls", [*get_args(MarketRecord), Bar, Vpin, SpotMid, IvSurface, State])
def test_a_record_is_written_as_the_codec_writes_it(cls: type[Record]) -> None:
    @given(records(cls))
    def holds(record: Record) -> None:
        assert WIRE.encode(record) == CODEC.encode(record)

    holds()


names = st.text(max_size=20)
feeds = st.builds(
    Subscription,
    venue=names,
    channel=names,
    symbol=names,
    state=st.sampled_from(get_args(SubscriptionState)),
    last_received_time=st.none() | longs,
)
statuses = st.builds(
    ServiceStatus,
    pid=st.integers(0, 2**31 - 1),
    state=st.sampled_from(get_args(ServiceState)),
    started_time=longs,
    reported_time=longs,
    subscriptions=st.lists(feeds).map(tuple),
    counters=st.dictionaries(names, longs),
    gauges=st.dictionaries(names, st.floats()),
    lag=st.dictionaries(names, longs),
    last_error=st.none() | names,
    last_error_time=st.none() | longs,
)


@given(statuses)
def test_a_status_is_written_as_the_codec_writes_it(status: ServiceStatus) -> None:
    assert WIRE.encode(status) == CODEC.encode(status)


@given(records(Trade), records(Quote))
def test_trades_and_quotes_are_written_alike_by_their_own_functions(trade: Trade, quote: Quote) -> None:
    assert WIRE.trade(trade) == CODEC.encode(trade)
    assert WIRE.quote(quote) == CODEC.encode(quote)


@given(st.lists(st.tuples(records(Book), st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=8))
def test_books_that_share_levels_with_the_ones_before_are_written_alike(told: list[tuple[Book, int, int]]) -> None:
    wire = Wire(CODEC)
    before = told[0][0]
    for fresh, bids, asks in told:
        # Some levels are the very same objects, some are equal, some are elsewhere in the book or on its other side.
        equal = tuple(Level(one.price, one.quantity) for one in before.asks[asks:])
        book = replace(
            fresh,
            venue="V",
            symbol="S",
            bids=before.bids[bids:] + fresh.bids[:3] + before.asks[:2] + before.bids[:bids],
            asks=fresh.asks[:2] + equal + before.bids[:asks],
        )
        assert wire.book(book) == CODEC.encode(book)
        before = book


def test_of_books_that_were_long_ago_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producers.wire.KEPT_SIDES", 3)
    sides = Sides()
    for number in range(8):
        for _ in range(2):
            sides.write(("V", f"S{number}"), (Level(1, 2),))
            assert ("V", f"S{number}") in sides._before
        assert len(sides._before) <= 3


@pytest.mark.parametrize("number", EDGES)
def test_a_long_is_zigzagged_in_groups_of_seven_bits(number: int) -> None:
    read, shift = 0, 0
    for byte in long_bytes(number):
        read |= (byte & 127) << shift
        shift += 7
    assert (read >> 1) ^ -(read & 1) == number
    assert long_bytes(number)[-1] < 128
    assert all(byte >= 128 for byte in long_bytes(number)[:-1])
