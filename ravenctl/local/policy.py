"""When a member that died is started again: pure, time is an argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 5.0
SETTLED_SECONDS = 30.0  # a life this long ends a streak of deaths


@dataclass
class RestartBudget:
    """At most `restarts` new starts within any `window_seconds`, each later than the one before.

    Delays double from 0.2 s to 5 s while lives are short, and begin anew after a life of 30 s.
    """

    restarts: int = 20
    window_seconds: float = 600.0
    _granted: deque[float] = field(default_factory=deque)
    _streak: int = 0

    def left(self, now: float) -> int:
        """How many new starts there may be at `now`."""
        while self._granted and now - self._granted[0] >= self.window_seconds:
            self._granted.popleft()
        return self.restarts - len(self._granted)

    def next_delay(self, now: float, lived_seconds: float) -> float | None:
        """Seconds to wait before the next start after a death at `now`; None when the budget is spent."""
        if not self.left(now):
            return None
        if lived_seconds >= SETTLED_SECONDS:
            self._streak = 0
        self._granted.append(now)
        delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(self._streak, 16))
        self._streak += 1
        return delay
