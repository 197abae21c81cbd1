"""A picture of bars or VPIN buckets: the price as candles, and below it what the kind of bar is about.

However many bars there are, at most MOST_CANDLES candles are drawn and kept: when one more comes, each two become one.
All candles are equally wide, whatever time they took; the axis tells the time, in UTC, at some of them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ravencore.codec import iso_time
from ravencore.decimals import to_float
from ravencore.records import Bar, Vpin
from ravenctl.barfiles import check_folder, replacing
from ravenctl.canvas import ADVANCE, LINE, Anchor, Canvas, Colour
from ravenctl.shell import CommandFailed, WrongUse

MOST_CANDLES = 320
WIDTH, HEIGHT = 1600, 1000
LEFT, RIGHT, TOP, BOTTOM = 24, 150, 84, 60
GAP = 46
"""Between panels, for the title of the lower one."""
PRICE_SHARE = 0.52
STEPS_US = [
    seconds * 1_000_000
    for seconds in (1, 5, 15, 30, 60, 300, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 2592000)
]
LABELS = 11
"""Times on the axis at most."""
INK, FAINT, PALE = (40, 40, 40), (225, 225, 225), (120, 120, 120)
UP, DOWN, BLUE, ORANGE, GREY = (38, 140, 90), (200, 60, 60), (50, 100, 190), (225, 130, 20), (150, 165, 185)

Value = Callable[[Bar | Vpin], float | None]


class Series(NamedTuple):
    """A number of each bar, drawn as columns or as a line."""

    name: str
    value: Value
    colour: Colour
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


VPIN_PANELS = (
    Panel(
        "VPIN",
        (
            Series("bulk classification", _of_bucket(lambda it: it.vpin), BLUE),
            Series("by aggressors", _of_bucket(lambda it: it.vpin_aggressor), ORANGE),
        ),
        1.0,
    ),
    Panel(
        "percentile of VPIN",
        (Series("share not above it", _of_bucket(lambda it: it.vpin_percentile), BLUE),),
        1.0,
    ),
)
DRIVEN_PANELS = (
    Panel(
        "ticks per bar",
        (
            Series("ticks", _of_bar(lambda it: it.ticks), GREY, columns=True),
            Series("expected", _of_bar(lambda it: it.expected_ticks), ORANGE),
        ),
    ),
    Panel(
        "theta as the bar closed, without its sign",
        (
            Series("theta", _of_bar(lambda it: None if it.theta is None else abs(it.theta)), GREY, columns=True),
            Series("threshold", _of_bar(lambda it: None if it.threshold is None else abs(it.threshold)), ORANGE),
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
    Panel("ticks per bar", (Series("ticks", _of_bar(lambda it: it.ticks), GREY, columns=True),)),
)
PANELS = (*VPIN_PANELS, *DRIVEN_PANELS, *PLAIN_PANELS)
SERIES = tuple(dict.fromkeys(series for panel in PANELS for series in panel.series))


class Candle:
    """One bar, or some that follow on one another; numbers of a series are averaged over them."""

    __slots__ = ("bars", "close", "close_time", "counts", "high", "low", "open", "open_time", "sums")

    def __init__(self, record: Bar | Vpin) -> None:
        self.open_time, self.close_time, self.bars = record.open_time, record.close_time, 1
        self.open, self.high, self.low, self.close = map(to_float, (record.open, record.high, record.low, record.close))
        values = [series.value(record) for series in SERIES]
        self.sums = [value or 0.0 for value in values]
        self.counts = [int(value is not None) for value in values]

    def add(self, later: "Candle") -> None:
        """Take in the one that follows."""
        self.close_time, self.close = later.close_time, later.close
        self.high, self.low = max(self.high, later.high), min(self.low, later.low)
        self.bars += later.bars
        self.sums = [one + other for one, other in zip(self.sums, later.sums, strict=True)]
        self.counts = [one + other for one, other in zip(self.counts, later.counts, strict=True)]

    def mean(self, series: Series) -> float | None:
        """A series' number."""
        place = SERIES.index(series)
        return self.sums[place] / self.counts[place] if self.counts[place] else None


class Chart:
    """Gathers bars for a picture."""

    def __init__(self, instrument: str, what: str) -> None:
        self._instrument, self._what = instrument, what
        self._candles: list[Candle] = []
        self._each = 1
        """Bars in a candle; the last may still lack some."""
        self._bars = 0
        self._panels: Sequence[Panel] = PLAIN_PANELS

    def add(self, records: Iterable[Bar | Vpin]) -> None:
        """Add bars."""
        for record in records:
            self._bars += 1
            if isinstance(record, Vpin):
                self._panels = VPIN_PANELS
            elif record.theta is not None:
                self._panels = DRIVEN_PANELS
            self._put(Candle(record))

    def save(self, path: Path) -> None:
        """Draw what was added; raises CommandFailed where that is nothing."""
        if not self._candles:
            raise CommandFailed(f"no bar has closed: there is nothing to draw into {path}")
        with replacing(path) as part:
            part.write_bytes(_draw(self._candles, self._panels, self._title(), self._subtitle()).png())

    def _put(self, candle: Candle) -> None:
        if self._candles and self._candles[-1].bars < self._each:
            self._candles[-1].add(candle)
            return
        if len(self._candles) == MOST_CANDLES:
            for one, other in zip(self._candles[::2], self._candles[1::2], strict=True):
                one.add(other)
            self._candles = self._candles[::2]
            self._each *= 2
        self._candles.append(candle)

    def _title(self) -> str:
        return f"{self._instrument}  {self._what}  {self._bars:,} bar{'s' if self._bars != 1 else ''}"

    def _subtitle(self) -> str:
        first, last = self._candles[0].open_time, self._candles[-1].close_time
        each = f", {self._each} bars to a candle, numbers below are their means" if self._each > 1 else ""
        return f"{_moment(first)} to {_moment(last)} UTC{each}"


def check(plot: Path) -> None:
    """Raise WrongUse where such a picture cannot be written."""
    if plot.suffix != ".png":
        raise WrongUse(f"--plot {plot}: name it .png")
    check_folder(plot, "--plot")


class _Field:
    """A rectangle of the picture with an axis of numbers at its right."""

    def __init__(self, canvas: Canvas, top: float, bottom: float, low: float, high: float) -> None:
        self._canvas, self.top, self.bottom = canvas, top, bottom
        margin = (high - low) * 0.04 or abs(high) * 0.01 or 1.0
        self._low, self._high = low - (margin if low else 0.0), high + margin

    def y(self, value: float) -> float:
        """Where a number lies."""
        return self.bottom - (value - self._low) / (self._high - self._low) * (self.bottom - self.top)

    def axis(self) -> None:
        """Draw lines at round numbers, and the numbers."""
        step = _round_step((self._high - self._low) / max((self.bottom - self.top) / 48, 1))
        for number in range(math.ceil(self._low / step), math.floor(self._high / step) + 1):
            y = self.y(number * step)
            self._canvas.rectangle(LEFT, y, WIDTH - RIGHT, y + 0.5, FAINT)
            self._canvas.text(WIDTH - RIGHT + 8, y - LINE / 2, _number(number * step, step), INK)
        for edge in (self.top, self.bottom):
            self._canvas.rectangle(LEFT, edge, WIDTH - RIGHT, edge + 0.5, PALE)


def _draw(candles: Sequence[Candle], panels: Sequence[Panel], title: str, subtitle: str) -> Canvas:
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.text(LEFT, 12, title, INK, size=2 if len(title) * ADVANCE * 2 < WIDTH - 2 * LEFT else 1)
    canvas.text(LEFT, 54, subtitle, PALE)
    height = HEIGHT - TOP - BOTTOM - GAP * len(panels)
    price = _Field(
        canvas,
        TOP,
        TOP + height * PRICE_SHARE,
        min(candle.low for candle in candles),
        max(candle.high for candle in candles),
    )
    tops = [price.bottom + GAP]
    each = height * (1 - PRICE_SHARE) / len(panels)
    while len(tops) < len(panels):
        tops.append(tops[-1] + each + GAP)
    fields = [
        _Field(canvas, top, top + each, 0.0, _most(panel, candles)) for panel, top in zip(panels, tops, strict=True)
    ]
    marks = _marks(candles)
    for field in (price, *fields):
        _times(canvas, marks, len(candles), field)
        field.axis()
    _labels(canvas, marks, len(candles))
    _candles(canvas, candles, price)
    for panel, field in zip(panels, fields, strict=True):
        _legend(canvas, panel, field)
        for series in panel.series:
            _series(canvas, series, candles, field)
        if not any(candle.mean(series) is not None for series in panel.series for candle in candles):
            middle = (WIDTH - LEFT - RIGHT) / 2, (field.top + field.bottom - LINE) / 2
            canvas.text(*middle, "none yet: it takes more bars than these", PALE, anchor="middle")
    return canvas


def _slot(count: int) -> float:
    return (WIDTH - LEFT - RIGHT) / count


def _middle(place: int, count: int) -> float:
    return LEFT + (place + 0.5) * _slot(count)


def _most(panel: Panel, candles: Sequence[Candle]) -> float:
    if panel.most is not None:
        return panel.most
    found = [value for series in panel.series for candle in candles if (value := candle.mean(series)) is not None]
    return max(found, default=0.0) or 1.0


def _candles(canvas: Canvas, candles: Sequence[Candle], field: _Field) -> None:
    half = min(max(_slot(len(candles)) * 0.36, 0.75), 14)
    for place, candle in enumerate(candles):
        x, colour = _middle(place, len(candles)), UP if candle.close >= candle.open else DOWN
        canvas.rectangle(x - 0.5, field.y(candle.high), x + 0.5, field.y(candle.low), colour)
        canvas.rectangle(x - half, field.y(candle.open), x + half, field.y(candle.close), colour)


def _series(canvas: Canvas, series: Series, candles: Sequence[Candle], field: _Field) -> None:
    if series.columns:
        half = min(max(_slot(len(candles)) * 0.36, 0.5), 14)
        for place, candle in enumerate(candles):
            value, x = candle.mean(series), _middle(place, len(candles))
            if value:
                canvas.rectangle(x - half, field.y(value), x + half, field.bottom, series.colour)
        return
    for run in _runs(series, candles):
        xs = [_middle(place, len(candles)) for place, _ in run]
        canvas.line(xs, [field.y(value) for _, value in run], series.colour, 2)


def _runs(series: Series, candles: Sequence[Candle]) -> Iterator[list[tuple[int, float]]]:
    """Stretches of candles that have a number."""
    run: list[tuple[int, float]] = []
    for place, candle in enumerate(candles):
        value = candle.mean(series)
        if value is not None:
            run.append((place, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _legend(canvas: Canvas, panel: Panel, field: _Field) -> None:
    """The panel's title, and its series in their colours."""
    y = field.top - LINE - 6
    canvas.text(LEFT, y, panel.title, INK)
    x = LEFT + (len(panel.title) + 3) * ADVANCE
    for series in panel.series:
        canvas.rectangle(x, y + 3, x + 16, y + LINE - 5, series.colour)
        canvas.text(x + 24, y, series.name, PALE)
        x += 24 + (len(series.name) + 2) * ADVANCE


def _marks(candles: Sequence[Candle]) -> list[tuple[int, int]]:
    """Candles in which a round time passes, and that time: the roundest that give labels enough, none too near."""
    found: list[tuple[int, int]] = []
    for step in reversed(STEPS_US):
        found = list(_passing(candles, step))
        if len(found) > LABELS // 2:
            break
    return found


def _passing(candles: Sequence[Candle], step: int) -> Iterator[tuple[int, int]]:
    room = 0.9 * len(candles) / LABELS
    before, shown = candles[0].open_time - 1, -room
    for place, candle in enumerate(candles):
        passed = candle.open_time // step * step
        if passed > before and place - shown >= room:
            yield place, passed
            shown = place
        before = max(before, candle.open_time)


def _times(canvas: Canvas, marks: Sequence[tuple[int, int]], count: int, field: _Field) -> None:
    for place, _ in marks:
        x = LEFT + place * _slot(count)
        canvas.rectangle(x, field.top, x + 0.5, field.bottom, FAINT)


def _labels(canvas: Canvas, marks: Sequence[tuple[int, int]], count: int) -> None:
    """Times below the picture, and the date wherever it is another."""
    whole = all(time_us % 60_000_000 == 0 for _, time_us in marks)
    day = ""
    for place, time_us in marks:
        x = LEFT + place * _slot(count)
        anchor: Anchor = "left" if x < 70 else "middle"
        date, clock = _moment(time_us).split(" ")
        canvas.text(x, HEIGHT - BOTTOM + 8, clock[:5] if whole else clock, INK, anchor=anchor)
        if date != day:
            canvas.text(x, HEIGHT - BOTTOM + 30, date[5:] if date[:4] == day[:4] else date, PALE, anchor=anchor)
            day = date
    canvas.text(WIDTH - 12, HEIGHT - BOTTOM + 8, "UTC", PALE, anchor="right")


def _moment(time_us: int) -> str:
    return iso_time(time_us)[:19].replace("T", " ")


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, ... and their tenths that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999)


def _number(value: float, step: float) -> str:
    """A number of an axis, with the decimals that tell it from its neighbours."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}" if decimals < 8 and abs(value) < 1e9 else f"{value:.3g}"
