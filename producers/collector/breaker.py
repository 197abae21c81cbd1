"""A circuit breaker: an endpoint that fails again and again is left alone for a while, then tried once."""

import time
from collections.abc import Callable

FAILURES = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 15.0, 300.0
TRIAL_S = 15.0
"""How long the one who tries may take before another may."""


class Breaker:
    """One endpoint; `clock` is a monotonic time in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures = 0
        self._clock = clock
        self._free_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the endpoint is left alone, but for trials."""
        return self.failures >= FAILURES

    def wait_s(self) -> float:
        """Seconds to wait before asking again whether to try; 0: try now, and then say `worked` or `failed`."""
        if not self.is_open:
            return 0.0
        now = self._clock()
        if now < self._free_at:
            return self._free_at - now
        self._free_at = now + TRIAL_S
        return 0.0

    def worked(self) -> None:
        """The endpoint has answered."""
        self.failures = 0

    def failed(self) -> None:
        """The endpoint cannot be reached, or is out of order."""
        self.failures += 1
        if self.is_open:
            pause_s = min(FIRST_PAUSE_S * 2 ** (self.failures - FAILURES), LONGEST_PAUSE_S)
            self._free_at = self._clock() + pause_s
