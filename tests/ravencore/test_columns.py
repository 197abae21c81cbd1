"""The batch walk reads exactly what the single reader reads, and gives up on anything else."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravencore.codec import HEADER_BYTES, Codec
from ravencore.columns import TradeColumns, decode_columns, of_trades
from ravencore.decimals import LIMIT
from ravencore.records import Demand, Trade

CODEC = Codec()
SMALL = st.integers(-(2**54), 2**54)
UNITS = st.integers(0, LIMIT - 1) | st.integers(0, 2**63) | st.integers(120, 136)


def trades(sequence: st.SearchStrategy[int | None] = SMALL, units: st.SearchStrategy[int] = UNITS) -> Any:
    trade = st.builds(
        Trade,
        venue=st.just("BINANCE_SPOT"),
        symbol=st.just("BTCUSDT"),
        event_time=SMALL | st.integers(-130, 130),
        received_time=SMALL,
        trade_id=st.text(st.characters(codec="ascii"), max_size=15),
        sequence=sequence,
        price=units,
        quantity=units,
        side=st.sampled_from(["BUY", "SELL"]),
        after_gap=st.booleans(),
    )
    return st.lists(trade, min_size=8, max_size=12).map(lambda drawn: drawn * 8)


def walk(values: list[bytes]) -> TradeColumns | None:
    return decode_columns(CODEC, "BINANCE_SPOT", "BTCUSDT", values)


def lists(columns: TradeColumns) -> list[list[Any]]:
    return [list(getattr(columns, name)) for name in TradeColumns.__dataclass_fields__]


@settings(max_examples=40)
@given(trades())
def test_the_walk_reads_what_the_single_reader_reads(batch: list[Trade]) -> None:
    seen = walk([CODEC.encode(trade) for trade in batch])
    assert seen is not None
    assert lists(seen) == lists(of_trades(batch))


@settings(max_examples=40)
@given(trades(), st.data())
def test_a_spoilt_value_gives_none_or_what_the_single_reader_reads(batch: list[Trade], data: st.DataObject) -> None:
    values = [CODEC.encode(trade) for trade in batch]
    row = data.draw(st.integers(0, len(values) - 1))
    place = data.draw(st.integers(HEADER_BYTES, len(values[row]) - 1))
    spoilt = bytearray(values[row])
    spoilt[place] = data.draw(st.integers(0, 255))
    seen = walk([*values[:row], bytes(spoilt), *values[row + 1 :]])
    if seen is not None:
        again = of_trades([*batch[:row], CODEC.decode_as(Trade, bytes(spoilt)), *batch[row + 1 :]])
        assert lists(seen) == lists(again)


@settings(max_examples=40)
@given(trades(), st.data())
def test_torn_padded_and_foreign_values_give_none(batch: list[Trade], data: st.DataObject) -> None:
    values = [CODEC.encode(trade) for trade in batch]
    row = data.draw(st.integers(0, len(values) - 1))
    cut = data.draw(st.integers(0, len(values[row]) - 1))
    foreign = CODEC.encode(Demand(demand_id="d", user="u", symbol="S", created_time=1))
    for bad in (values[row][:cut], values[row] + b"\x00", foreign, values[row] + values[row]):
        assert walk([*values[:row], bad, *values[row + 1 :]]) is None


@settings(max_examples=40)
@given(trades(sequence=SMALL | st.none()), st.data())
def test_null_sequences_are_for_the_careful_path(batch: list[Trade], data: st.DataObject) -> None:
    seen = walk([CODEC.encode(trade) for trade in batch])
    assert (seen is None) == any(trade.sequence is None for trade in batch)


@settings(max_examples=40)
@given(trades(units=st.integers(-(2**70), -1)))
def test_negative_numbers_are_for_the_careful_path(batch: list[Trade]) -> None:
    assert walk([CODEC.encode(trade) for trade in batch]) is None


@pytest.mark.parametrize(("venue", "symbol"), [("KRAKEN", "BTCUSDT"), ("BINANCE_SPOT", "ETHUSDT"), ("x" * 99, "y")])
def test_another_instruments_trades_give_none(venue: str, symbol: str) -> None:
    trade = Trade(
        venue="BINANCE_SPOT",
        symbol="BTCUSDT",
        event_time=1,
        received_time=2,
        trade_id="3",
        sequence=4,
        price=5,
        quantity=6,
        side="BUY",
    )
    values = [CODEC.encode(trade)] * 64
    assert walk(values) is not None
    assert walk(values[:63]) is None
    assert decode_columns(CODEC, venue, symbol, values) is None


@settings(max_examples=40)
@given(trades(), st.text(st.characters(min_codepoint=128), min_size=1, max_size=9), st.integers(0, 63))
def test_ids_beyond_ascii_are_for_the_careful_path(batch: list[Trade], text: str, row: int) -> None:
    values = [CODEC.encode(trade) for trade in batch]
    values[row] = CODEC.encode(msgspec.structs.replace(batch[row], trade_id=f"1{text}2"))
    assert walk(values) is None
