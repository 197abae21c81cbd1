"""RiskLabAI's bars of files (benchmarks/bars_files.py); it runs in an environment with RiskLabAI and nothing of Raven.

Rule `fixed` are its Fixed bars, which keep E[T], with a window of one tick; the other its Expected bars.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from RiskLabAI.data.structures.imbalance_bars import ExpectedImbalanceBars, FixedImbalanceBars
from RiskLabAI.data.structures.run_bars import ExpectedRunBars, FixedRunBars
from RiskLabAI.data.structures.standard_bars import StandardBars
from RiskLabAI.data.structures.time_bars import TimeBars
from RiskLabAI.features.microstructural_features.order_flow import volume_synchronized_pin
from RiskLabAI.utils.constants import CUMULATIVE_DOLLAR, CUMULATIVE_TICKS, CUMULATIVE_VOLUME

from benchmarks.bars_files import WEIGHTS, Case, Made, Shown, Tick, main, read_bars

PLAIN = {"tick": CUMULATIVE_TICKS, "volume": CUMULATIVE_VOLUME, "dollar": CUMULATIVE_DOLLAR}
FIELDS = ("row", "open", "high", "low", "close", "volume", "buy_volume", "sell_volume", "ticks", "dollars", "threshold")


def maker(case: Case, tape: Sequence[Tick]) -> Made:
    """Its bars of a case; of VPIN it makes no buckets, it is given Raven's and both ways to classify them."""
    if case["kind"] == "vpin":
        return Made(lambda: levels(case, read_bars(Path(case["buckets"]))), lambda level: level or {})
    rows = [(datetime.fromtimestamp(t.time_us / 1e6, UTC), float(t.price), float(t.quantity)) for t in tape]
    bars = bars_of(case)
    return Made(lambda: list(bars.construct_bars_from_data(rows)), shown)


def bars_of(case: Case) -> Any:
    """Its class for a case."""
    kind, size = case["kind"], case["size"]
    if kind == "time":
        return TimeBars("S", size)
    if kind in PLAIN:
        return StandardBars(PLAIN[kind], size)
    imbalance, weight = kind.endswith("ib"), WEIGHTS[kind[0]]
    named = {"bar_type": f"{weight}_{'imbalance' if imbalance else 'run'}"}
    named["initial_estimate_of_expected_n_ticks_in_bar"] = size
    if case.get("rule") == "fixed":
        fixed = FixedImbalanceBars if imbalance else FixedRunBars
        return fixed(**named, window_size_for_expected_imbalance_estimation=1)
    expected = ExpectedImbalanceBars if imbalance else ExpectedRunBars
    return expected(
        **named,
        window_size_for_expected_n_ticks_estimation=case["bars"],
        window_size_for_expected_imbalance_estimation=case["window"],
        expected_ticks_number_bounds=(case["lowest"], case["highest"]),
    )


def levels(case: Case, buckets: Sequence[Shown]) -> list[Shown | None]:
    """VPIN at each bucket, None where it has none yet; bulk volumes begin with the bucket that has the first."""
    buys = {name: [b[name] for b in buckets if b[name] is not None] for name in ("buy_volume", "bulk_buy_volume")}
    size, window = float(case["size"]), case["window"]
    found = [
        volume_synchronized_pin(own, [size - buy for buy in own], bucket_volume=size, window=window).tolist()
        for own in buys.values()
    ]
    count = min(map(len, found))
    both = zip(*(own[-count:] for own in found), strict=True)
    told = [{"vpin_aggressor": aggressor, "vpin": bulk} for aggressor, bulk in both]
    return [None] * (len(buckets) - count) + told


def shown(bar: Sequence[Any]) -> Shown:
    """A bar; what it calls the threshold of plain and time bars is their size."""
    told = dict(zip(FIELDS, map(plain, bar[1:]), strict=True))
    del told["sell_volume"]
    return {"close_time": round(bar[0].timestamp() * 1e6), **told}


def plain(number: Any) -> Any:
    """Without numpy's types."""
    return number.item() if hasattr(number, "item") else number


if __name__ == "__main__":
    main(maker)
