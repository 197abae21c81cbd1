"""Raven's bars of files (benchmarks/bars_files.py): a Symbol with one profile, fed columns in batches.

VPIN cannot be left out of a Symbol: where it is not asked for it has one bucket that never fills.
"""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.bars_files import Case, Made, Shown, Tick, main
from processors.registry import FOLDS
from processors.symbol import Symbol
from ravencore.codec import Codec
from ravencore.columns import TradeColumns, decode_columns
from ravencore.config import BarsSettings
from ravencore.decimals import from_text, to_float
from ravencore.records import Bar, Trade, Vpin

VENUE, SYMBOL = "BINANCE_SPOT", "BTCUSDT"
BATCH = 5000
NEVER_FULL = "1000000000000000"
PLAIN = ("tick", "volume", "dollar")


def maker(case: Case, tape: Sequence[Tick]) -> Made:
    """Raven's bars of a case; kind `objects` are the columns alone, from Kafka's bytes."""
    batch = case.get("batch", BATCH)
    if case["kind"] == "objects":
        return Made(decoding(tape, batch), lambda trade: {})
    symbol = Symbol(VENUE, SYMBOL, settings(case))
    batches = [(columns(tape, at, batch), range(at, at + batch)) for at in range(0, len(tape), batch)]

    def run() -> list[Bar | Vpin]:
        return [out.record for trades, offsets in batches for out in symbol.apply_columns(trades, offsets).outputs]

    return Made(run, shown)


def settings(case: Case) -> BarsSettings:
    """Settings with the profile of a case alone, or for kind `defaults` those of code.

    The names of kinds of bars are those of settings, but for VPIN.
    """
    if case["kind"] == "defaults":
        return BarsSettings()
    kind: str = case["kind"]
    none: dict[str, Any] = {fold.kind: {} for fold in FOLDS if fold.kind not in ("time", "vpin")}
    vpin = {"bucket_volume": case["size"], "unit": case.get("unit", "quote")} if kind == "vpin" else {}
    profile = {"size": case["size"]} if kind in PLAIN else case.get("profile", {})
    return BarsSettings.model_validate(
        {
            **none,
            **({kind: {"only": profile}} if kind in none else {}),
            "time_intervals": [f"{case['size']}s"] if kind == "time" else [],
            "vpin": vpin or {"bucket_volume": NEVER_FULL},
        }
    )


def columns(tape: Sequence[Tick], start: int = 0, most: int | None = None) -> TradeColumns:
    """Trades of a tape from `start`; their ids count from 1."""
    own = tape[start : None if most is None else start + most]
    ids = range(start + 1, start + 1 + len(own))
    return TradeColumns(
        event_time=[tick.time_us for tick in own],
        received_time=[tick.time_us for tick in own],
        trade_id=list(map(str, ids)),
        sequence=list(ids),
        price=[from_text(tick.price) for tick in own],
        quantity=[from_text(tick.quantity) for tick in own],
        buy=[tick.buy for tick in own],
        after_gap=[False] * len(own),
    )


def decoding(tape: Sequence[Tick], batch: int) -> Callable[[], list[Any]]:
    """What decodes the tape from Avro, in batches."""
    codec = Codec()
    values = [codec.encode(trade(number, tick)) for number, tick in enumerate(tape, 1)]
    starts = range(0, len(values), batch)
    return lambda: [decode_columns(codec, VENUE, SYMBOL, values[at : at + batch]) for at in starts]


def trade(number: int, tick: Tick) -> Trade:
    """A trade of a tape as Kafka has it."""
    return Trade(
        venue=VENUE,
        symbol=SYMBOL,
        event_time=tick.time_us,
        received_time=tick.time_us,
        trade_id=str(number),
        sequence=number,
        price=from_text(tick.price),
        quantity=from_text(tick.quantity),
        side="BUY" if tick.buy else "SELL",
    )


def shown(record: Bar | Vpin) -> Shown:
    """A record as the rivals tell theirs."""
    names = ("open", "high", "low", "close", "volume", "buy_volume")
    told = {name: to_float(getattr(record, name)) for name in names}
    told |= {"row": int(record.last_trade_id or 0), "close_time": record.close_time, "ticks": record.ticks}
    if isinstance(record, Bar):
        return told | {"dollars": to_float(record.quote_volume), "threshold": record.threshold}
    return told | {name: getattr(record, name) for name in ("bulk_buy_volume", "vpin", "vpin_aggressor")}


if __name__ == "__main__":
    main(maker)
