"""What the samples of a long run say: whether memory grows, how late records are, and a picture of it. Pure."""

from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

MIB = 1 << 20
FLAT_MB = 1.0
"""Growth in ten minutes below which memory is flat."""
TEN_MINUTES_S = 600.0
WARM_UP_SHARE = 1 / 3
"""The first part of a run is not judged: caches fill, and the allocator finds its size."""
JUDGED_S = 1200.0
"""A run must be so long for its slope to mean anything."""
POINTS = 400
WINDOW_S = 10.0
WIDTH, HEIGHT, MARGIN = 900, 320, 60


class Sample(NamedTuple):
    """The collector at one moment; `seconds` since the run began, CPU and waiting since the process did."""

    seconds: float
    rss_bytes: int
    cpu_seconds: float
    waited_seconds: float
    """How long the event loop's thread could have run, and another had the core."""
    open_files: int


class Growth(NamedTuple):
    """How resident memory goes on after the warm-up."""

    per_ten_minutes_mb: float
    seconds: float
    """Of the run, warm-up included."""
    start_mb: float
    end_mb: float
    most_mb: float

    @property
    def verdict(self) -> str:
        """In words."""
        if self.seconds < JUDGED_S:
            return f"not judged: a run of {self.seconds / 60:.1f} minutes is too short to tell"
        return "flat" if self.per_ten_minutes_mb < FLAT_MB else "GROWS"


def growth(samples: Sequence[Sample]) -> Growth:
    """Of the samples after the warm-up."""
    end = samples[-1].seconds
    judged = [sample for sample in samples if sample.seconds >= end * WARM_UP_SHARE]
    times, memory = (np.array(of) for of in zip(*((one.seconds, one.rss_bytes / MIB) for one in judged), strict=True))
    slope = slope_of(times, memory)
    edge = max(len(memory) // 10, 1)
    return Growth(
        per_ten_minutes_mb=slope * TEN_MINUTES_S,
        seconds=end,
        start_mb=float(np.median(memory[:edge])),
        end_mb=float(np.median(memory[-edge:])),
        most_mb=max(sample.rss_bytes for sample in samples) / MIB,
    )


def slope_of(xs: np.ndarray, ys: np.ndarray) -> float:
    """The median slope between any two points (Theil and Sen): some that are far off do not sway it.

    More than POINTS are first made fewer: medians of neighbours.
    """
    if len(xs) > POINTS:
        xs, ys = (np.array([np.median(part) for part in np.array_split(of, POINTS)]) for of in (xs, ys))
    before, after = np.triu_indices(len(xs), 1)
    runs = xs[after] - xs[before]
    return float(np.median((ys[after] - ys[before])[runs > 0] / runs[runs > 0])) if (runs > 0).any() else 0.0


class Lags:
    """Milliseconds of lateness, and when they were seen."""

    def __init__(self) -> None:
        self._late_ms, self._seconds = array("f"), array("f")

    def __len__(self) -> int:
        return len(self._late_ms)

    def add(self, seconds: float, late_ms: float) -> None:
        """Note one, so many seconds after the run began."""
        self._late_ms.append(late_ms)
        self._seconds.append(seconds)

    def percentiles(self, *shares: float) -> list[float]:
        """Of all; shares in percent."""
        return [float(found) for found in np.percentile(np.array(self._late_ms), shares)] if self else []

    def by_window(self, share: float) -> list[float]:
        """A percentile of each WINDOW_S that has any."""
        windows = (np.array(self._seconds) // WINDOW_S).astype(int)
        late = np.array(self._late_ms)
        return [float(np.percentile(late[windows == one], share)) for one in np.unique(windows)]


def per_second(samples: Sequence[Sample]) -> list[float]:
    """CPU seconds a second, between each two samples."""
    return [
        (after.cpu_seconds - before.cpu_seconds) / (after.seconds - before.seconds)
        for before, after in pairwise(samples)
    ]


def drawing(samples: Sequence[Sample], found: Growth) -> str:
    """Resident memory over the run as an SVG, the fitted line in what is judged of it."""
    end = samples[-1].seconds or 1.0
    memory = [sample.rss_bytes / MIB for sample in samples]
    low, high = min(memory) - 1, max(memory) + 1

    def place(seconds: float, mb: float) -> str:
        x = MARGIN + seconds / end * (WIDTH - 2 * MARGIN)
        return f"{x:.1f},{HEIGHT - MARGIN - (mb - low) / (high - low) * (HEIGHT - 2 * MARGIN):.1f}"

    began = end * WARM_UP_SHARE
    middle = float(np.median([mb for sample, mb in zip(samples, memory, strict=True) if sample.seconds >= began]))
    rise = found.per_ten_minutes_mb / TEN_MINUTES_S * (end - began) / 2
    line = (place(sample.seconds, mb) for sample, mb in zip(samples, memory, strict=True))
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
            '<rect width="100%" height="100%" fill="white"/>',
            _line("steelblue", line),
            _line("firebrick", (place(began, middle - rise), place(end, middle + rise))),
            _text(MARGIN, 30, "Resident memory of the collector, MiB"),
            _text(5, MARGIN + 5, f"{high:.0f}"),
            _text(5, HEIGHT - MARGIN + 5, f"{low:.0f}"),
            _text(MARGIN, HEIGHT - 30, "0"),
            _text(WIDTH - 2 * MARGIN, HEIGHT - 30, f"{end / 60:.1f} minutes"),
            _text(MARGIN, HEIGHT - 8, f"{found.per_ten_minutes_mb:+.2f} MiB in ten minutes: {found.verdict}"),
            "</svg>",
        )
    )


def _line(colour: str, places: Iterable[str]) -> str:
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{" ".join(places)}"/>'


def _text(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="14">{text}</text>'
