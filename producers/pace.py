"""What the times at which things come tell: how late a venue's trades are, whether a quiet line is a quiet market, and
how long a feed may say nothing before that is strange."""

import math

from producers.contract import (
    BOOKS,
    FUNDING,
    INDEX_PRICES,
    KLINES,
    LIQUIDATIONS,
    OPTION_TICKERS,
    QUOTES,
    TRADES,
    VOLATILITY_INDEX,
)

QUIET_US = 500_000
STALL_US = 250_000
SILENT_SECONDS = 3.0
LATENCY_WINDOW_US = 60_000_000

FIRST_PATIENCE_S = {
    TRADES: 30.0,
    BOOKS: 15.0,
    QUOTES: 30.0,
    KLINES: 150.0,
    FUNDING: 15.0,
    LIQUIDATIONS: 900.0,
    OPTION_TICKERS: 30.0,
    INDEX_PRICES: 15.0,
    VOLATILITY_INDEX: 30.0,
}
"""Seconds that a feed may say nothing before its own pace is known."""
LEAST_PATIENCE_S, MOST_PATIENCE_S = 5.0, 3600.0
LONG_S = 2.0
"""A pause of at least this many seconds may be strange."""
LEARNT = 20
"""Pauses after which a feed's pace is known."""
TIMES_THE_MEAN, TIMES_THE_LONGEST = 20.0, 3.0
MEAN_WEIGHT, LONGEST_FADES = 0.05, 0.999


class Latency:
    """The largest latency of the last one to two LATENCY_WINDOW_US; negative where the clocks differ enough."""

    def __init__(self) -> None:
        self.worst_us: int | None = None
        self._before_us: int | None = None
        self._now_us: int | None = None
        self._window_ends_us = 0

    def add(self, received_us: int, latency_us: int) -> None:
        """Note a trade's latency."""
        if received_us >= self._window_ends_us:
            self._window_ends_us = received_us + LATENCY_WINDOW_US
            self._before_us, self._now_us = self._now_us, latency_us
        elif self._now_us is None or latency_us > self._now_us:
            self._now_us = latency_us
        else:
            return
        self.worst_us = self._now_us if self._before_us is None else max(self._before_us, self._now_us)


class Pace:
    """How frames have come on a connection opened at `now`."""

    def __init__(self, now: float) -> None:
        self.last = now
        self._last_us = self._steady_from_us = 0

    def frame(self, now: float, received_us: int) -> None:
        """Note a frame."""
        if received_us - self._last_us > STALL_US:
            self._steady_from_us = received_us
        self.last, self._last_us = now, received_us

    def quiet_is_real(self, now: float, now_us: int) -> bool:
        """Whether what has not come by now can be taken not to have happened."""
        steady = now_us - self._last_us <= STALL_US and now_us - self._steady_from_us >= QUIET_US
        return steady or now - self.last >= SILENT_SECONDS


class Patience:
    """How long one feed may say nothing: many times its mean pause, and more than its longest of late.

    Before LEARNT pauses it is FIRST_PATIENCE_S of its channel, and never less than three times the longest pause seen.
    """

    def __init__(self, channel: str) -> None:
        self._first_s = FIRST_PATIENCE_S.get(channel, MOST_PATIENCE_S)
        self._since: float | None = None
        self._mean_s = self._longest_s = 0.0
        self._pauses = 0
        self._stretch = 1.0
        self._long_at: float | None = None

    def start(self, now: float) -> None:
        """The feed has been acknowledged: from now on something may come. The time until then is no pause of it."""
        self._since = now

    def stop(self) -> None:
        """Nothing can come."""
        self._since = None

    def heard(self, now: float) -> None:
        """Note a record; many may come at one time."""
        since, self._since = self._since, now
        if since is None or now == since:
            return
        pause_s = now - since
        self._long_at = now if pause_s >= self.long_s else None
        self._stretch = 1.0
        self._pauses += 1
        self._mean_s += (pause_s - self._mean_s) * max(MEAN_WEIGHT, 1 / self._pauses)
        self._longest_s = max(pause_s, self._longest_s * LONGEST_FADES)

    def was_long(self, now: float) -> bool:
        """Whether the pause before what comes now is a long one, though not yet strange."""
        return now == self._long_at or (self._since is not None and now - self._since >= self.long_s)

    @property
    def long_s(self) -> float:
        """A pause that is seldom so long."""
        return max(TIMES_THE_MEAN * self._mean_s, LONG_S) if self._pauses >= LEARNT else math.inf

    def doubtful(self, now: float) -> float | None:
        """How long it has said nothing, where that is half of what would be strange, ten mean pauses or more."""
        if self._since is None or self._pauses < LEARNT or now - self._since <= self.seconds / 2:
            return None
        return now - self._since

    def forgive(self, now: float) -> None:
        """The market is only quiet: look again after twice the time."""
        self._since = now
        self._stretch = min(self._stretch * 2, MOST_PATIENCE_S)

    def silence(self, now: float) -> float | None:
        """How long it has said nothing, where that is strange."""
        if self._since is None or now - self._since < self.seconds:
            return None
        return now - self._since

    @property
    def seconds(self) -> float:
        """How long it may say nothing now."""
        if self._pauses < LEARNT:
            usual = max(self._first_s, TIMES_THE_LONGEST * self._longest_s)
        else:
            usual = max(TIMES_THE_MEAN * self._mean_s, TIMES_THE_LONGEST * self._longest_s, LEAST_PATIENCE_S)
        return min(usual * self._stretch, MOST_PATIENCE_S)
