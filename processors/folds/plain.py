"""Plain bars: of a fixed number of ticks, of a fixed volume, of a fixed amount of quote currency.

A bar closes with the trade that brings it to its size or beyond; no trade is split, and nothing is carried over.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from processors.contract import Closed, Fold, Folded, Stream, Tape
from processors.folds.measure import TICKS, Measure
from processors.folds.span import OpenBar
from ravencore.codec import decimal_bytes, decimal_units
from ravencore.config import BarsSettings, PlainBarProfile
from ravencore.decimals import ONE, from_text, to_text
from ravencore.errors import BadValue, ConfigError
from ravencore.records import Bar


class Parameters(Struct, frozen=True):
    """What a profile of plain bars computes; its size as decimal text."""

    size: str


def parameters(kind: str, measure: Measure) -> Callable[[BarsSettings, str, str], dict[str, Parameters]]:
    """What reads the profiles of a kind by name, in the order of the settings; it raises ConfigError."""

    def read(settings: BarsSettings, _venue: str, _symbol: str) -> dict[str, Parameters]:
        profiles: dict[str, PlainBarProfile] = getattr(settings, kind)
        return {name: Parameters(_size(f"bars.{kind}.{name}", it.size, measure)) for name, it in profiles.items()}

    return read


def _size(setting: str, text: str, measure: Measure) -> str:
    try:
        units = from_text(text)
    except BadValue as error:
        raise ConfigError(f"{setting}.size: {error}") from None
    if units <= 0:
        raise ConfigError(f"{setting}.size is {text}: it must be positive")
    if measure is TICKS and units % ONE:
        raise ConfigError(f"{setting}.size is {text}: it must be a whole number of ticks")
    return to_text(units)


def maker(measure: Measure) -> Callable[[Stream, Parameters], Fold]:
    """What makes a profile's bars."""
    return lambda stream, parameters: PlainBars(stream, parameters, measure)


class PlainBars(Fold):
    """Plain bars of one profile."""

    def __init__(self, stream: Stream, parameters: Parameters, measure: Measure) -> None:
        self._stream, self._totals = stream, measure.totals
        self._size = from_text(parameters.size) * measure.scale // ONE
        """In exact units."""
        self._bar_seq = 0
        self._bar: OpenBar | None = None
        self._filled = 0

    def trades(self, tape: Tape) -> Folded:
        """Bars that these trades close."""
        totals = self._totals(tape)
        closed: list[Closed] = []
        start = 0
        while (stop := bisect_left(totals, totals[start] + self._size - self._filled, start + 1)) < len(totals):
            self._extend(tape, start, stop)
            closed.append(Closed(stop - 1, self._close()))
            start = stop
        if start < len(tape):
            self._extend(tape, start, len(tape))
            self._filled += totals[-1] - totals[start]
        return Folded(closed)

    def snapshot(self) -> Any:
        """Everything, as MessagePack-able values."""
        return [self._bar_seq, decimal_bytes(self._filled), self._bar.pack() if self._bar else None]

    def restore(self, snapshot: Any) -> None:
        """Take over a snapshot."""
        self._bar_seq, filled, bar = snapshot
        self._filled = decimal_units(filled)
        self._bar = None if bar is None else OpenBar.unpack(bar)

    def _extend(self, tape: Tape, start: int, stop: int) -> None:
        if self._bar:
            self._bar.extend(tape, start, stop)
        else:
            self._bar = OpenBar(tape, start, stop)

    def _close(self) -> Bar:
        bar, seq = self._bar, self._bar_seq
        assert bar is not None
        self._bar, self._filled, self._bar_seq = None, 0, seq + 1
        return bar.record(self._stream, seq, open_time=bar.open_time, close_time=bar.close_time, gap=bar.gap)
