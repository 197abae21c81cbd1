"""Breaks of a feed whose records do not count, each told as a Gap from the last record to the first after it."""

from producers.contract import Feed
from producers.tape import AWAY, Break, Output
from ravencore.records import Gap


class Breaks:
    """Whether a feed is broken, since when, and what of it was told."""

    def __init__(self, venue: str, feed: Feed, last_us: int | None) -> None:
        """`last_us` is the time of the last record that is known; None where there is none."""
        self.broken: Break | None = AWAY if last_us is not None else None
        self.broken_us: int | None = None
        self.last_us = last_us
        self._opened: str | None = None
        self._told: Break | None = None
        """As the break was told that lasts."""
        self._venue, self._feed = venue, feed

    def interrupt(self, why: Break, now_us: int) -> None:
        """The feed breaks off; before it has begun, nothing is lost."""
        if self.last_us is not None and self.broken is None:
            self.broken, self.broken_us = why, now_us

    def refuse(self, why: Break, now_us: int) -> None:
        """The venue will not have it: whatever broke it before, that is why; where it never began, from now on."""
        self.last_us = self.last_us or now_us
        self.interrupt(why, now_us)
        self.broken = why

    @property
    def only_suspected(self) -> bool:
        """Whether it is broken for its silence alone, of which nothing was told: no hole where nothing has changed."""
        return self.broken is not None and self.broken.cause == "SILENCE" and self._opened is None

    def tell_open(self, now_us: int, connection: str) -> list[Output]:
        """The Gap of a break that lasts, once for each reason; it is written anew when records come again."""
        if self.broken is None or (self._opened is not None and self._told == self.broken):
            return []
        gap = self._gap(self.broken, now_us, connection)
        self._opened, self._told = gap.gap_id, self.broken
        return [gap]

    def close(self, to_us: int, connection: str) -> Gap:
        """The Gap of the break, which has ended."""
        assert self.broken is not None
        gap = self._gap(self.broken, to_us, connection)
        self.broken = self._opened = None
        return gap

    def _gap(self, why: Break, to_us: int, connection: str) -> Gap:
        feed = self._feed
        return Gap(
            gap_id=self._opened or f"{self._venue}:{feed.channel}:{feed.symbol}:t{to_us}",
            venue=self._venue,
            channel=feed.channel,
            symbol=feed.symbol,
            cause=why.cause,
            from_time=self.last_us,
            to_time=to_us,
            detected_time=to_us,
            connection=connection,
            detail=why.detail,
        )
