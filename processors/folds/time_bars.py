"""Time bars (bars.md section 2): windows [start, start + interval) of event time, counted from the epoch.

Window k is [k * interval, (k + 1) * interval). A window is closed once a trade's event_time - allowed_lateness, or a
Clock, has reached its end, whether or not it held trades; a trade for a closed window is late. A late repair of a
hole enters a window that is not closed at the place its id gives it, and itself closes nothing: it happened before
trades that were applied already. A Clock is taken as it stands, without the lateness: whoever wrote it had waited.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Literal, Self

from msgspec import Struct

from processors.contract import Closed, Fold, Folded, Stream, Tape
from processors.folds.span import OpenBar
from ravencore.codec import decimal_bytes, decimal_units
from ravencore.config import BarsSettings, interval_us
from ravencore.errors import ConfigError
from ravencore.records import Bar

MOST_FLAT = 100_000
"""Of a longer run of empty windows the first are written: an option may be silent for millions of seconds."""


class Parameters(Struct, frozen=True):
    """What a profile of time bars computes."""

    interval_us: int
    lateness_us: int
    empty_windows: Literal["skip", "flat"]


def parameters(settings: BarsSettings, venue: str, symbol: str) -> dict[str, Parameters]:
    """Profiles by name, the same for every instrument; raises ConfigError for a text that is no interval."""
    lateness_us = settings.allowed_lateness_ms * 1_000
    names = settings.time_intervals
    if len(set(names)) < len(names):
        raise ConfigError(f"bars.time_intervals names an interval twice: {', '.join(names)}")
    return {name: Parameters(interval_us(name), lateness_us, settings.empty_windows) for name in names}


class Window(OpenBar):
    """The trades of a window so far, with the counting ids of its first and last trade to place repairs by."""

    __slots__ = ("first_sequence", "last_sequence")

    def __init__(self, tape: Tape, start: int, stop: int) -> None:
        super().__init__(tape, start, stop)
        self.first_sequence, self.last_sequence = tape.sequence[start], tape.sequence[stop - 1]

    def extend(self, tape: Tape, start: int, stop: int) -> None:
        """Add rows whose ids follow those of the window."""
        super().extend(tape, start, stop)
        self.last_sequence = tape.sequence[stop - 1]

    def insert(self, tape: Tape) -> None:
        """Add the one row of a repair where its id puts it: before the first trade, among the others, or last."""
        last_id, close, last_sequence = self.last_id, self.close, self.last_sequence
        self.extend(tape, 0, 1)
        if _before(tape.sequence[0], self.first_sequence):
            self.first_id, self.open, self.first_sequence = tape.trade_id[0], tape.price[0], tape.sequence[0]
        if not _before(last_sequence, tape.sequence[0]):
            self.last_id, self.close, self.last_sequence = last_id, close, last_sequence

    def pack(self) -> list[Any]:
        """The state as MessagePack-able values."""
        return [*super().pack(), self.first_sequence, self.last_sequence]

    @classmethod
    def unpack(cls, packed: list[Any]) -> Self:
        """The window that `pack` wrote."""
        window = super().unpack(packed)
        window.first_sequence, window.last_sequence = packed[14:16]
        return window


def _before(sequence: int | None, other: int | None) -> bool:
    return sequence is not None and other is not None and sequence < other


class TimeBars(Fold):
    """Time bars of one interval."""

    def __init__(self, stream: Stream, parameters: Parameters) -> None:
        self._stream = stream
        self._interval = parameters.interval_us
        self._lateness = parameters.lateness_us
        self._flat = parameters.empty_windows == "flat"
        self._bar_seq = 0
        self._windows: dict[int, Window] = {}
        self._open_from: int | None = None
        """The first window that is not closed; None before anything was seen."""
        self._last_window: int | None = None
        """The window of the last trade in the order of ids, late or not."""
        self._gaps: list[tuple[int, int]] = []
        """Windows, first and last, that trades are missing in; those not closed yet."""
        self._last_close = 0

    def trades(self, tape: Tape) -> Folded:
        """Bars of the windows that these trades close, and the rows that came too late."""
        closed: list[Closed] = []
        late: list[int] = []
        row = 0
        while row < len(tape):
            window = tape.event_time[row] // self._interval
            stop = self._stretch(tape, row, window * self._interval)
            if self._last_window is None or tape.has_gap(row, row + 1):
                self._mark(window)
            self._last_window = window
            reached = (tape.event_time[row] - self._lateness) // self._interval
            if self._open_from is None or reached > self._open_from:
                closed += [Closed(row, bar) for bar in self._close_before(reached)]
            if not self._take(tape, row, stop, window):
                late += range(row, stop)
            row = stop
        return Folded(closed, late)

    def repair(self, tape: Tape) -> bool:
        """Take a repair into its window if that is not closed."""
        window = tape.event_time[0] // self._interval
        if window in self._windows:
            self._windows[window].insert(tape)
            return True
        return self._take(tape, 0, 1, window)

    def clock(self, time_us: int) -> Sequence[Bar]:
        """Bars of the windows that end before or at this time."""
        reached = time_us // self._interval
        return self._close_before(reached) if self._open_from is None or reached > self._open_from else ()

    def snapshot(self) -> Any:
        """Everything, as MessagePack-able values."""
        windows = [[index, window.pack()] for index, window in self._windows.items()]
        close = decimal_bytes(self._last_close)
        return [self._bar_seq, self._open_from, self._last_window, self._gaps, close, windows]

    def restore(self, snapshot: Any) -> None:
        """Take over a snapshot."""
        self._bar_seq, self._open_from, self._last_window, gaps, close, windows = snapshot
        self._gaps = [(first, last) for first, last in gaps]
        self._last_close = decimal_units(close)
        self._windows = {index: Window.unpack(packed) for index, packed in windows}

    def _stretch(self, tape: Tape, row: int, start: int) -> int:
        """End of the rows from `row` on that share the window from `start`, close nothing more and follow no hole.

        Other windows close wherever time reaches a multiple of the interval plus the lateness: at `start` of a window,
        and again inside it where the lateness is no multiple of the interval.
        """
        middle, end = start + self._lateness % self._interval, start + self._interval
        if tape.event_time[row] < middle:
            end = middle
        else:
            start = middle
        gap = tape.next_gap(row + 1)
        if tape.in_order:
            return bisect_left(tape.event_time, end, row + 1, gap)
        stop = row + 1
        while stop < gap and start <= tape.event_time[stop] < end:
            stop += 1
        return stop

    def _mark(self, window: int) -> None:
        """Note that trades are missing from the last trade's window to this one; the stream's first window as well."""
        last = window if self._last_window is None else self._last_window
        self._gaps.append((min(last, window), max(last, window)))

    def _take(self, tape: Tape, start: int, stop: int, window: int) -> bool:
        if self._open_from is not None and window < self._open_from:
            return False
        if window in self._windows:
            self._windows[window].extend(tape, start, stop)
        else:
            self._windows[window] = Window(tape, start, stop)
        return True

    def _close_before(self, reached: int) -> list[Bar]:
        """Close all windows before `reached`, which is further than any was closed."""
        bars = [self._emit(index) for index in self._due(reached)]
        self._open_from = reached
        if self._gaps:
            self._gaps = [(first, last) for first, last in self._gaps if last >= reached]
        return bars

    def _due(self, reached: int) -> list[int]:
        """Windows to write, of those that are open and before `reached`."""
        held = sorted(index for index in self._windows if index < reached)
        if not self._flat or not (held or self._bar_seq):
            return held
        begin = self._open_from if self._bar_seq and self._open_from is not None else held[0]
        due: list[int] = []
        for index in (*held, reached):
            due += range(begin, min(index, begin + MOST_FLAT))
            due.append(index)
            begin = index + 1
        return due[:-1]

    def _emit(self, index: int) -> Bar:
        window = self._windows.pop(index, None)
        gap = self._bar_seq == 0 or (bool(self._gaps) and self._is_marked(index))
        start, end = index * self._interval, (index + 1) * self._interval
        if window is None:
            bar = self._empty(start, end, gap)
        else:
            bar = window.record(self._stream, self._bar_seq, open_time=start, close_time=end, gap=gap)
        self._last_close = bar.close
        self._bar_seq += 1
        return bar

    def _is_marked(self, index: int) -> bool:
        return any(first <= index <= last for first, last in self._gaps)

    def _empty(self, start: int, end: int, gap: bool) -> Bar:
        price = self._last_close
        return Bar(
            **self._stream._asdict(),
            bar_seq=self._bar_seq,
            open_time=start,
            close_time=end,
            open=price,
            high=price,
            low=price,
            close=price,
            volume=0,
            quote_volume=0,
            buy_volume=0,
            ticks=0,
            buy_ticks=0,
            warmup=False,
            gap=gap,
        )
