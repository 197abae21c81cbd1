"""What a venue lets one address do: credits that refill, and at most so much within so many seconds."""

from collections import deque


class Credits:
    """A pool of credits that refills all the time; times are seconds of any monotonic clock."""

    def __init__(self, most: float, refill_per_second: float) -> None:
        self.most = most
        self.refill_per_second = refill_per_second
        self.left = most
        self._since: float | None = None

    def spend(self, cost: float, now: float) -> bool:
        """Take that much out; False, and nothing is taken, where it is not there."""
        if self._since is not None:
            self.left = min(self.most, self.left + (now - self._since) * self.refill_per_second)
        self._since = now
        if self.left < cost:
            return False
        self.left -= cost
        return True


class Window:
    """At most `most` within any `seconds`."""

    def __init__(self, most: int, seconds: float) -> None:
        self.most = most
        self.seconds = seconds
        self._at: deque[float] = deque()

    def admit(self, now: float) -> bool:
        """Count one; False, and it is not counted, where there were too many."""
        while self._at and now - self._at[0] >= self.seconds:
            self._at.popleft()
        if len(self._at) >= self.most:
            return False
        self._at.append(now)
        return True
