"""The collector's fast encoders against the codec."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.wire import Wire, long_bytes
from ravencore.codec import Codec, load_schema
from ravencore.decimals import LIMIT
from ravencore.records import Level, MarketRecord, Quote, Record, Trade

CODEC = Codec()
WIRE = Wire(CODEC)
EDGES = sorted(
    {sign * (1 << bits) + by for bits in (6, 7, 12, 13, 14, 26, 27, 28, 62) for sign in (1, -1) for by in (-1, 0, 1)}
)

longs = st.integers(-(2**63), 2**63 - 1)
decimals = st.integers(-LIMIT + 1, LIMIT - 1)
levels = st.lists(st.builds(Level, price=decimals, quantity=decimals), max_size=20).map(tuple)
PLAIN = {"long": longs, "string": st.text(max_size=200), "boolean": st.booleans(), "double": st.floats()}


def values(kind: object) -> st.SearchStrategy[object]:
    """What a field of this schema can hold."""
    match kind:
        case [null, some]:
            assert null == "null"
            return st.none() | values(some)
        case {"type": "array"}:
            return levels
        case {"type": "enum", "symbols": symbols}:
            return st.sampled_from(symbols)
        case {"logicalType": "decimal"}:
            return decimals
        case {"type": plain} | plain:
            return PLAIN[plain]  # type: ignore[index]


def records(cls: type[Record]) -> st.SearchStrategy[Record]:
    """Records with whatever their schema allows."""
    fields = load_schema(f"{cls.SCHEMA}.avsc")["fields"]
    return st.builds(cls, **{field["name"]: values(field["type"]) for field in fields})


@pytest.mark.parametrize("cls", get_args(MarketRecord))
def test_a_record_is_written_as_the_codec_writes_it(cls: type[Record]) -> None:
    @given(records(cls))
    def holds(record: Record) -> None:
        assert WIRE.encode(record) == CODEC.encode(record)  # type: ignore[arg-type]

    holds()


@given(records(Trade), records(Quote))
def test_trades_and_quotes_are_written_alike_by_their_own_functions(trade: Trade, quote: Quote) -> None:
    assert WIRE.trade(trade) == CODEC.encode(trade)
    assert WIRE.quote(quote) == CODEC.encode(quote)


@pytest.mark.parametrize("number", EDGES)
def test_a_long_is_zigzagged_in_groups_of_seven_bits(number: int) -> None:
    read, shift = 0, 0
    for byte in long_bytes(number):
        read |= (byte & 127) << shift
        shift += 7
    assert (read >> 1) ^ -(read & 1) == number
    assert long_bytes(number)[-1] < 128
    assert all(byte >= 128 for byte in long_bytes(number)[:-1])
