"""mlfinpy's bars of files (benchmarks/bars_files.py); it runs in an environment that has mlfinpy and nothing of Raven.

Its classes are given lists in memory through `run`, which is what its functions end in: without pandas' share.
Rule `fixed` are its Const bars, which keep E[T], with a window of one tick; the other its EMA bars.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mlfinpy.data_structure.imbalance_bars import ConstImbalanceBars, EMAImbalanceBars
from mlfinpy.data_structure.run_bars import ConstRunBars, EMARunBars
from mlfinpy.data_structure.standard_bars import StandardBars
from mlfinpy.data_structure.time_bars import TimeBars

from benchmarks.bars_files import WEIGHTS, Case, Made, Shown, Tick, main

PLAIN = {"tick": "cum_ticks", "volume": "cum_volume", "dollar": "cum_dollar_value"}
MOST = 10**9
FIELDS = ("row", "open", "high", "low", "close", "volume", "buy_volume", "ticks", "dollars")


def maker(case: Case, tape: Sequence[Tick]) -> Made:
    """Its bars of a case."""
    rows = [(datetime.fromtimestamp(t.time_us / 1e6, UTC), float(t.price), float(t.quantity)) for t in tape]
    bars = bars_of(case)
    return Made(lambda: bars.run(rows), of_time if case["kind"] == "time" else of_ticks)


def bars_of(case: Case) -> Any:
    """Its class for a case."""
    kind, size = case["kind"], case["size"]
    if kind == "time":
        return TimeBars("S", size)
    if kind in PLAIN:
        return StandardBars(PLAIN[kind], size)
    imbalance, weight = kind.endswith("ib"), WEIGHTS[kind[0]]
    if case.get("rule") == "fixed":
        if imbalance:
            return ConstImbalanceBars(f"{weight}_imbalance", 1, size, MOST, False)
        return ConstRunBars(f"{weight}_run", 1, 1, size, MOST, False)
    averaged = (case["bars"], case["window"], size, [case["lowest"], case["highest"]])
    return EMAImbalanceBars(f"{weight}_imbalance", *averaged) if imbalance else EMARunBars(f"{weight}_run", *averaged)


def of_ticks(bar: Sequence[Any]) -> Shown:
    """A bar that closes with a trade."""
    return {"close_time": round(bar[0].timestamp() * 1e6), **dict(zip(FIELDS, map(plain, bar[1:]), strict=True))}


def of_time(bar: Sequence[Any]) -> Shown:
    """A bar that the first trade after it closed, which is the one it numbers."""
    told = dict(zip(FIELDS, map(plain, bar[1:]), strict=True))
    return {"close_time": bar[0] * 1_000_000, **told, "row": told["row"] - 1}


def plain(number: Any) -> Any:
    """Without numpy's types."""
    return number.item() if hasattr(number, "item") else number


if __name__ == "__main__":
    main(maker)
