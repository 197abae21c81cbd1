"""nautilus_trader's bars of files (benchmarks/bars_files.py), in an environment that has it and nothing of Raven.

Its aggregators are given TradeTicks one after another, which is their only way in. Time bars are driven as its backtest
engine does it: the clock is moved to a trade's time, and what that closes is closed, before the trade is handed over;
here only where the trade is in a later window, which costs less and changes nothing.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from nautilus_trader.common.component import TestClock
from nautilus_trader.data import aggregation
from nautilus_trader.model.currencies import BTC, USDT
from nautilus_trader.model.data import Bar, BarSpecification, BarType, TradeTick
from nautilus_trader.model.enums import AggressorSide, BarAggregation, PriceType
from nautilus_trader.model.identifiers import InstrumentId, TradeId
from nautilus_trader.model.instruments import CurrencyPair
from nautilus_trader.model.objects import Price, Quantity

from benchmarks.bars_files import Case, Made, Shown, Tick, main

KINDS = {
    "tick": ("TickBarAggregator", BarAggregation.TICK),
    "volume": ("VolumeBarAggregator", BarAggregation.VOLUME),
    "dollar": ("ValueBarAggregator", BarAggregation.VALUE),
    "tib": ("TickImbalanceBarAggregator", BarAggregation.TICK_IMBALANCE),
    "trb": ("TickRunsBarAggregator", BarAggregation.TICK_RUNS),
    "vib": ("VolumeImbalanceBarAggregator", BarAggregation.VOLUME_IMBALANCE),
    "vrb": ("VolumeRunsBarAggregator", BarAggregation.VOLUME_RUNS),
    "dib": ("ValueImbalanceBarAggregator", BarAggregation.VALUE_IMBALANCE),
    "drb": ("ValueRunsBarAggregator", BarAggregation.VALUE_RUNS),
}
ID = InstrumentId.from_str("BTCUSDT.BINANCE")
DECIMALS = {"price": 2, "size": 5}
PAIR = CurrencyPair(
    instrument_id=ID,
    raw_symbol=ID.symbol,
    base_currency=BTC,
    quote_currency=USDT,
    price_precision=DECIMALS["price"],
    size_precision=DECIMALS["size"],
    price_increment=Price(0.01, DECIMALS["price"]),
    size_increment=Quantity(0.00001, DECIMALS["size"]),
    ts_event=0,
    ts_init=0,
)


def maker(case: Case, tape: Sequence[Tick]) -> Made:
    """Its bars of a case; kind `objects` are the TradeTicks alone, from text."""
    if case["kind"] == "objects":
        return Made(lambda: ticks_of(tape), lambda tick: {})
    ticks, bars = ticks_of(tape), list[Bar]()
    if case["kind"] == "time":
        run = windows(case["size"], ticks, bars.append)
    else:
        name, means = KINDS[case["kind"]]
        handle = getattr(aggregation, name)(PAIR, bar_type(case["size"], means), bars.append).handle_trade_tick

        def run() -> None:
            deque(map(handle, ticks), maxlen=0)

    def ran() -> list[Bar]:
        run()
        return bars

    return Made(ran, shown_by_value if case["kind"] == "dollar" else shown)


def ticks_of(tape: Sequence[Tick]) -> list[TradeTick]:
    """Its objects, as an adapter makes them from a venue's text."""
    price, size, identity = Price.from_str, Quantity.from_str, TradeId
    buyer, seller = AggressorSide.BUYER, AggressorSide.SELLER
    return [
        TradeTick(ID, price(p), size(q), buyer if buy else seller, identity(str(n)), us * 1000, us * 1000)
        for n, (us, p, q, buy) in enumerate(tape, 1)
    ]


def bar_type(step: int, means: BarAggregation) -> BarType:
    """Bars of last prices, of this step."""
    return BarType(ID, BarSpecification(step, means, PriceType.LAST))


def of_time(seconds: int) -> BarType:
    """Time bars of so many seconds, of whole minutes where there are 60."""
    minutes, rest = divmod(seconds, 60)
    return bar_type(seconds, BarAggregation.SECOND) if rest else bar_type(minutes, BarAggregation.MINUTE)


def windows(seconds: int, ticks: Sequence[TradeTick], handler: Callable[[Bar], None]) -> Callable[[], None]:
    """What runs its time bars over these trades."""
    clock = TestClock()
    clock.set_time(ticks[0].ts_init)
    bars = aggregation.TimeBarAggregator(PAIR, of_time(seconds), handler, clock, build_with_no_updates=False)
    bars.start_timer()
    length_ns = seconds * 1_000_000_000

    def run() -> None:
        handle, end_ns = bars.handle_trade_tick, 0
        for tick in ticks:
            now_ns = tick.ts_init
            if now_ns >= end_ns:
                for event in clock.advance_time(now_ns):
                    event.handle()
                end_ns = (now_ns // length_ns + 1) * length_ns
            handle(tick)

    return run


def shown(bar: Bar) -> Shown:
    """A bar; time bars carry the end of their window in `ts_init`, others the last trade's time."""
    return shown_by_value(bar) | {"volume": float(str(bar.volume))}


def shown_by_value(bar: Any) -> Shown:
    """A bar whose base volume was rounded to the instrument's decimals, which nobody can compare."""
    prices = {name: float(str(getattr(bar, name))) for name in ("open", "high", "low", "close")}
    return {"close_time": bar.ts_init // 1000, **prices}


if __name__ == "__main__":
    main(maker)
