"""Clocks for what joins venues (bars.md sections 5 and 6), which is told that time goes on when the market does not."""

from typing import NamedTuple

QUIET_US = 1_000_000
EVERY_US = 1_000_000
FORGOTTEN_US = 120_000_000
"""What is quiet for so long has no value any more."""


class Tick(NamedTuple):
    """A Clock of a pair's quotes or an underlying's option tickers, in time of receipt."""

    topic: str
    key: bytes
    time_us: int


class Ticks:
    """Which keys of the joined topics are quiet; pure."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, bytes], int] = {}
        """When each was heard of last, microseconds."""
        self._told: dict[tuple[str, bytes], int] = {}

    def note(self, topic: str, key: bytes, received_us: int) -> None:
        """A record of this key is published."""
        self._newest[topic, key] = received_us

    def due(self, now_us: int) -> list[Tick]:
        """A Tick for each key that is quiet, once a second."""
        self._newest = {place: at for place, at in self._newest.items() if now_us - at < FORGOTTEN_US}
        self._told = {place: at for place, at in self._told.items() if place in self._newest}
        quiet = [place for place, at in self._newest.items() if now_us - at >= QUIET_US]
        due = [place for place in quiet if now_us - self._told.get(place, 0) >= EVERY_US]
        self._told |= dict.fromkeys(due, now_us)
        return [Tick(topic, key, now_us) for topic, key in due]
