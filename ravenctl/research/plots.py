"""A picture of bars or VPIN buckets: the price as candles, and below it what the kind of bar is about.

However many bars there are, at most MOST_CANDLES candles are drawn and kept: when one more comes, each two become one.
All candles are equally wide, whatever time they took; the axis tells the time, in UTC, at some of them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, num2date
from matplotlib.figure import Figure

from ravencore.codec import EPOCH
from ravencore.decimals import to_float
from ravencore.records import Bar, Vpin
from ravenctl.research.barfiles import replacing
from ravenctl.shell import CommandFailed

MOST_CANDLES = 320
INCHES, DOTS_PER_INCH = (16, 10), 100
LABELS = 11
"""Times on the axis at most."""
WIDEST = 0.04
"""Of the axis that a candle or a column takes, where there are few."""
UP, DOWN, BLUE, ORANGE, GREY = "#268c5a", "#c83c3c", "#3264be", "#e18214", "#a8b2c1"
TIME_FORMATS = ["%Y", "%Y-%m", "%m-%d", "%H:%M", "%H:%M", "%H:%M:%S.%f"]
"""Of years, months, days, hours, minutes and seconds."""
FIRST_FORMATS = ["", "%Y", "%Y-%m", "%m-%d", "%H:%M", "%H:%M:%S.%f"]
"""Of the first in each of the one above."""

Value = Callable[[Bar | Vpin], float | None]


class Series(NamedTuple):
    """A number of each bar, drawn as columns or as a line."""

    name: str
    value: Value
    colour: str
    columns: bool = False


class Panel(NamedTuple):
    """What is drawn into one field below the price."""

    title: str
    series: Sequence[Series]
    most: float | None = None
    """The upper end of its axis; None: as the numbers want."""


def _of_bar(read: Callable[[Bar], float | None]) -> Value:
    return lambda record: read(record) if isinstance(record, Bar) else None


def _of_bucket(read: Callable[[Vpin], float | None]) -> Value:
    return lambda record: read(record) if isinstance(record, Vpin) else None


def _without_sign(value: float | None) -> float | None:
    return None if value is None else abs(value)


TICKS = Series("ticks", _of_bar(lambda it: it.ticks), GREY, columns=True)
VPIN_PANELS = (
    Panel(
        "VPIN",
        (
            Series("bulk classification", _of_bucket(lambda it: it.vpin), BLUE),
            Series("by aggressors", _of_bucket(lambda it: it.vpin_aggressor), ORANGE),
        ),
        most=1.0,
    ),
    Panel(
        "percentile of VPIN",
        (Series("share not above it", _of_bucket(lambda it: it.vpin_percentile), BLUE),),
        most=1.0,
    ),
)
DRIVEN_PANELS = (
    Panel("ticks per bar", (TICKS, Series("expected", _of_bar(lambda it: it.expected_ticks), ORANGE))),
    Panel(
        "theta as the bar closed, without its sign",
        (
            Series("theta", _of_bar(lambda it: _without_sign(it.theta)), GREY, columns=True),
            Series("threshold", _of_bar(lambda it: _without_sign(it.threshold)), ORANGE),
        ),
    ),
)
PLAIN_PANELS = (
    Panel(
        "volume per bar, in base currency",
        (
            Series("all", _of_bar(lambda it: to_float(it.volume)), GREY, columns=True),
            Series("bought by aggressors", _of_bar(lambda it: to_float(it.buy_volume)), UP, columns=True),
        ),
    ),
    Panel("ticks per bar", (TICKS,)),
)


def panels_of(record: Bar | Vpin) -> Sequence[Panel]:
    """What is drawn of records like this one."""
    if isinstance(record, Vpin):
        return VPIN_PANELS
    return PLAIN_PANELS if record.theta is None else DRIVEN_PANELS


class Candle:
    """One bar, or some that follow on one another; numbers of a series are averaged over them."""

    __slots__ = ("bars", "close", "close_time", "counts", "high", "low", "open", "open_time", "sums")

    def __init__(self, record: Bar | Vpin, series: Iterable[Series]) -> None:
        self.open_time, self.close_time, self.bars = record.open_time, record.close_time, 1
        self.open, self.high, self.low, self.close = map(to_float, (record.open, record.high, record.low, record.close))
        values = [each.value(record) for each in series]
        self.sums = [value or 0.0 for value in values]
        self.counts = [int(value is not None) for value in values]

    def add(self, later: "Candle") -> None:
        """Take in the one that follows."""
        self.close_time, self.close = later.close_time, later.close
        self.high, self.low = max(self.high, later.high), min(self.low, later.low)
        self.bars += later.bars
        self.sums = [one + other for one, other in zip(self.sums, later.sums, strict=True)]
        self.counts = [one + other for one, other in zip(self.counts, later.counts, strict=True)]

    def means(self) -> Iterator[float]:
        """Each series' number; NaN where there is none."""
        return (total / count if count else math.nan for total, count in zip(self.sums, self.counts, strict=True))


class Chart:
    """Gathers bars for a picture; `title` says whose they are and how they were made."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bars = 0
        self._panels: Sequence[Panel] = ()
        self._series: Sequence[Series] = ()
        self.candles: list[Candle] = []
        self.each = 1
        """Bars in a candle; the last may still lack some."""

    def add(self, records: Sequence[Bar | Vpin]) -> None:
        """Add bars, all of one kind."""
        if records and not self._panels:
            self._panels = panels_of(records[0])
            self._series = [series for panel in self._panels for series in panel.series]
        for record in records:
            self._put(Candle(record, self._series))
        self._bars += len(records)

    def save(self, path: Path) -> None:
        """Draw what was added, as a PNG; raises CommandFailed where that is nothing."""
        if not self.candles:
            raise CommandFailed(f"no bar has closed: there is nothing to draw into {path}")
        with replacing(path) as part:
            self.figure().savefig(part, format="png")

    def figure(self) -> Figure:
        """The picture."""
        figure = Figure(INCHES, DOTS_PER_INCH, layout="constrained")
        figure.suptitle(self._whole_title(), x=0.01, ha="left", size="x-large", parse_math=False)
        heights = [2.2, *[1.0] * len(self._panels)]
        price, *fields = figure.subplots(len(heights), sharex=True, height_ratios=heights)
        price.set_title(self._subtitle(), loc="left", size="medium", color="dimgrey")
        draw_candles(price, self.candles)
        means = np.array([list(candle.means()) for candle in self.candles]).T
        columns = dict(zip(self._series, means, strict=True))
        for axes, panel in zip(fields, self._panels, strict=True):
            draw_panel(axes, panel, [columns[series] for series in panel.series])
        for axes in (price, *fields):
            draw_scale(axes)
        draw_times(fields[-1], self.candles)
        return figure

    def _put(self, candle: Candle) -> None:
        if self.candles and self.candles[-1].bars < self.each:
            self.candles[-1].add(candle)
            return
        if len(self.candles) == MOST_CANDLES:
            for one, other in zip(self.candles[::2], self.candles[1::2], strict=True):
                one.add(other)
            self.candles = self.candles[::2]
            self.each *= 2
        self.candles.append(candle)

    def _whole_title(self) -> str:
        return f"{self._title}  \u00b7  {self._bars:,} bar{'s' if self._bars != 1 else ''}"

    def _subtitle(self) -> str:
        first, last = self.candles[0].open_time, self.candles[-1].close_time
        each = f"; {self.each} bars to a candle, numbers below are their means" if self.each > 1 else ""
        return f"{moment(first):%Y-%m-%d %H:%M:%S} to {moment(last):%Y-%m-%d %H:%M:%S} UTC{each}"


def moment(time_us: int) -> datetime:
    """A time, in UTC."""
    return EPOCH + timedelta(microseconds=time_us)


def width_of(count: int) -> float:
    """How wide one of so many candles is, of the room that it has."""
    return min(0.72, WIDEST * count)


def draw_candles(axes: Axes, candles: Sequence[Candle]) -> None:
    """The price."""
    places = range(len(candles))
    colours = [UP if it.close >= it.open else DOWN for it in candles]
    axes.vlines(places, [it.low for it in candles], [it.high for it in candles], colours, linewidth=1.0)
    axes.bar(
        places,
        [abs(it.close - it.open) for it in candles],
        width_of(len(candles)),
        [min(it.open, it.close) for it in candles],
        color=colours,
        edgecolor=colours,
        linewidth=0.8,  # what opens and closes at one price is a line
    )
    axes.use_sticky_edges = False  # else the lowest candle stands on the lower edge
    axes.margins(y=0.04)


def draw_panel(axes: Axes, panel: Panel, columns: Sequence[np.ndarray]) -> None:
    """What the kind of bar is about, by series."""
    axes.set_title(panel.title, loc="left", size="medium")
    count = len(columns[0])
    for series, values in zip(panel.series, columns, strict=True):
        if series.columns:
            axes.bar(range(count), np.nan_to_num(values), width_of(count), color=series.colour, label=series.name)
        else:
            marker = "." if count <= MOST_CANDLES / 4 else None
            axes.plot(range(count), values, color=series.colour, marker=marker, label=series.name)
    axes.set_ylim(0.0, panel.most and panel.most * 1.04)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, borderaxespad=0.1)
    if np.isnan(columns).all():
        axes.text(0.5, 0.5, "none yet: it takes more bars than these", transform=axes.transAxes, ha="center")


def draw_scale(axes: Axes) -> None:
    """Numbers on the right, where the newest is, and lines across."""
    axes.grid(color="gainsboro", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.yaxis.tick_right()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def draw_times(axes: Axes, candles: Sequence[Candle]) -> None:
    """The axis that all share."""
    axes.set_xticks(*times(candles))
    axes.set_xlim(-0.5, len(candles) - 0.5)
    axes.set_xlabel("UTC", loc="right", color="dimgrey", labelpad=0)


def times(candles: Sequence[Candle]) -> tuple[list[float], list[str]]:
    """Where on the axis round times lie, none too near to another, and how they are written."""
    edges = list(accumulate([*(candle.open_time for candle in candles), candles[-1].close_time], max))
    if edges[0] == edges[-1]:
        return [], []
    locator = AutoDateLocator(UTC, maxticks=LABELS)
    found = locator.tick_values(moment(edges[0]), moment(edges[-1]))
    labels = ConciseDateFormatter(locator, UTC, TIME_FORMATS, zero_formats=FIRST_FORMATS).format_ticks(list(found))
    at_us = [(time - EPOCH) // timedelta(microseconds=1) for time in num2date(found, UTC)]
    places = np.interp(at_us, edges, np.arange(len(edges)) - 0.5, left=math.nan, right=math.nan)
    shown: dict[float, str] = {}
    for place, label in zip(places.tolist(), labels, strict=True):
        if place - max(shown, default=-math.inf) >= 0.6 * len(candles) / LABELS:
            shown[place] = label
    return list(shown), list(shown.values())
