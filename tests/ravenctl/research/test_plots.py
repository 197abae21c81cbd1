"""Pictures of bars: which candles are drawn, what stands on the axes, and that the file is a picture."""

import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from msgspec.structs import replace
from typer.testing import CliRunner

from ravencore.config import BarsSettings, RuledBarProfile, VpinSettings
from ravencore.decimals import ONE
from ravencore.records import Bar
from ravenctl.cli import app
from ravenctl.research import plots
from ravenctl.research.plots import BLUE, DOWN, GREY, ORANGE, UP
from tests.ravenctl.research.markets import live, market, write

LINES = market(6_000)
DAY_US = 86_400_000_000
OPEN = 1_642_204_800_000_000
"""Midnight of 2022-01-15."""


@cache
def bars(kind: str = "tib", profile: str = "tib_small") -> list[Bar]:
    tiny = {"tib_small": RuledBarProfile(initial_size=4)}
    chosen = BarsSettings(time_intervals=["1s"], tib=tiny, trb={}, vib={}, vpin=VpinSettings(bucket_volume="1e12"))
    return [it for it in live(LINES, chosen, f"raven.bars.{kind}", profile) if isinstance(it, Bar)]


def chart_of(records: Sequence[Bar]) -> plots.Chart:
    chart = plots.Chart("BINANCE_SPOT BTCUSDT")
    chart.add(records)
    return chart


def pixels(path: Path) -> npt.NDArray[np.float64]:
    return np.asarray(imread(path), np.float64)[:, :, :3]


def has(seen: npt.NDArray[np.float64], colour: str) -> bool:
    return bool((abs(seen - to_rgb(colour)) < 0.01).all(axis=2).any())


def test_candles_are_merged_and_nothing_is_lost() -> None:
    records = bars()
    assert len(records) > 2 * plots.MOST_CANDLES
    chart = chart_of(records[:100])
    chart.add(records[100:])
    candles = chart.candles
    assert plots.MOST_CANDLES / 2 <= len(candles) <= plots.MOST_CANDLES
    assert sum(candle.bars for candle in candles) == len(records)
    assert {candle.bars for candle in candles[:-1]} == {chart.each}
    place = 0
    for candle in candles:
        part = records[place : place + candle.bars]
        place += candle.bars
        assert (candle.open_time, candle.close_time) == (part[0].open_time, part[-1].close_time)
        assert (candle.open, candle.close) == (part[0].open / ONE, part[-1].close / ONE)
        assert (candle.high, candle.low) == (max(it.high for it in part) / ONE, min(it.low for it in part) / ONE)
        assert next(candle.means()) == pytest.approx(sum(it.ticks for it in part) / len(part))


@pytest.mark.parametrize(("count", "kind"), [(3, ("tib", "tib_small")), (1, ("time", "1s")), (9_000, ("time", "1s"))])
def test_a_picture_of_few_or_many(count: int, kind: tuple[str, str], tmp_path: Path) -> None:
    chart_of(bars(*kind)[:count]).save(tmp_path / "bars.png")
    seen = pixels(tmp_path / "bars.png")
    assert seen.shape == (1000, 1600, 3)
    assert has(seen, UP) or has(seen, DOWN)
    assert has(seen, GREY)


def test_the_title_says_what_is_seen() -> None:
    figure = chart_of(bars()).figure()
    assert figure.get_suptitle() == f"BINANCE_SPOT BTCUSDT  \u00b7  {len(bars()):,} bars"
    price, ticks, theta = figure.axes
    assert price.get_title("left").startswith("2023-11-14 22:13:20 to 2023-11-14 22:")
    assert "UTC; 4 bars to a candle" in price.get_title("left")
    assert ticks.get_title("left") == "ticks per bar"
    assert theta.get_title("left").startswith("theta")
    legend = ticks.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"ticks", "expected"}


def test_the_price_of_every_candle_is_within_its_axis() -> None:
    chart = chart_of(bars()[:9])
    low, high = chart.figure().axes[0].get_ylim()
    assert low < min(candle.low for candle in chart.candles)
    assert high > max(candle.high for candle in chart.candles)


# Times on the axis


def candles_at(opens_us: Sequence[int]) -> list[plots.Candle]:
    """One each, which lasts until the next."""
    ends = [*opens_us[1:], opens_us[-1] + 1_000_000]
    made = [
        replace(bars()[0], open_time=OPEN + first, close_time=OPEN + last)
        for first, last in zip(opens_us, ends, strict=True)
    ]
    return chart_of(made).candles


@pytest.mark.parametrize(
    ("long", "labels"),
    [
        (timedelta(hours=24), ["01-15", "03:00", "06:00", "09:00", "12:00", "15:00", "18:00", "21:00"]),
        (timedelta(seconds=40), ["00:00:00", "00:00:05", "00:00:10", "00:00:15", "00:00:20", "00:00:25"]),
        (timedelta(days=60), ["2022-02", "02-08", "02-15", "02-22", "2022-03", "03-08"]),
    ],
)
def test_times_on_the_axis_are_round(long: timedelta, labels: list[str]) -> None:
    step = long // timedelta(microseconds=1) // 100
    shown = plots.times(candles_at([number * step for number in range(100)]))[1]
    places = [place for place, label in enumerate(shown) if label == labels[0]]
    assert places
    assert shown[places[0] : places[0] + len(labels)] == labels


def test_times_lie_where_they_passed() -> None:
    hour = 3_600_000_000
    places, labels = plots.times(candles_at([0, 12 * hour, 24 * hour - 1_000_000]))
    assert dict(zip(labels, places, strict=True)) == pytest.approx(
        {"01-15": -0.5, "03:00": -0.25, "06:00": 0, "09:00": 0.25, "12:00": 0.5}
        | {"15:00": 0.75, "18:00": 1.0, "21:00": 1.25, "01-16": 2.5},
        abs=1e-3,
    )


@settings(max_examples=40)
@given(st.lists(st.integers(0, DAY_US) | st.integers(0, 10), min_size=1, max_size=60))
def test_times_never_crowd_and_stay_inside(opens_us: list[int]) -> None:
    candles = candles_at(opens_us)
    places, labels = plots.times(candles)
    assert len(places) == len(labels) <= 2 * plots.LABELS
    assert all(-0.5 <= place <= len(candles) - 0.5 for place in places)
    assert all(after - before >= 0.6 * len(candles) / plots.LABELS for before, after in pairwise(places))


def test_bars_of_one_moment_have_a_picture(tmp_path: Path) -> None:
    same = [replace(it, open_time=OPEN, close_time=OPEN) for it in bars()[:5]]
    chart_of(same).save(tmp_path / "bars.png")
    assert has(pixels(tmp_path / "bars.png"), GREY)


# The command


def run(*args: object) -> Any:
    return CliRunner().invoke(app, ["bars", *map(str, args)])


def test_it_is_drawn_on_demand(tmp_path: Path) -> None:
    path, plot = write(tmp_path, "plain.csv", LINES), tmp_path / "vpin.png"
    made = ["--kind", "vpin", "--set", "bucket_volume=300000", "--out", tmp_path / "vpin.csv"]
    result = run(path, *made, "--plot", plot)
    assert result.exit_code == 0, result.output
    seen = pixels(plot)
    assert has(seen, BLUE)
    assert has(seen, ORANGE)


def test_nothing_can_be_drawn_of_no_bars(tmp_path: Path) -> None:
    path = write(tmp_path, "plain.csv", LINES[:50])
    out, plot = tmp_path / "bars.csv", tmp_path / "bars.png"
    result = run(path, "--kind", "tib", "--out", out, "--plot", plot)
    assert result.exit_code == 1
    assert "no bar has closed" in result.stderr
    assert not out.exists()
    assert not plot.exists()


@pytest.mark.parametrize(("option", "library"), [("--plot=x.png", "matplotlib"), ("--out=x.parquet", "pyarrow")])
def test_a_library_that_is_missing_is_named_before_anything_is_read(
    option: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    result = run("no-such-file.csv", "--kind", "tib", option)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [result.stderr.strip()]
    assert f"needs {library}, which is not installed: pip install 'raven-market-data[research]'" in result.stderr
