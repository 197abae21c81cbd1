"""A stream: its feeds shared out over as many connections as the venue's limits ask for."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from producers.collector.link import Link
from producers.collector.runner import Runner
from producers.contract import Feed, Stream
from producers.session import Session
from producers.tape import Seen
from ravencore.records import Subscription


class StreamRunner(Runner):
    """The links of one stream; a feed stays on its link, and so with what is known of it, while there is room."""

    source: Stream

    def __init__(self, *args: Any, reorder_seconds: float, clock_interval_us: int | None, **more: Any) -> None:
        super().__init__(*args, **more)
        self._reorder_seconds, self._clock_interval_us = reorder_seconds, clock_interval_us
        self._links: list[Link] = []
        self._running: list[asyncio.Task[None]] = []

    def begin(self, feed: Feed, seen: Mapping[str, Seen]) -> None:
        """Subscribe to a feed on the link that had it before, else on one with room, else on a new one."""
        link = self._link_for(feed)
        link.session.want(feed, seen)
        link.wake()

    def end(self, feed: Feed) -> None:
        """Unsubscribe from a feed."""
        for link in self._links:
            link.session.unwant(feed)

    def knows(self, feed: Feed) -> bool:
        """Whether any link has had the feed."""
        return any(link.session.knows(feed) for link in self._links)

    async def close(self) -> None:
        """Close all connections, after what has come."""
        self._admit_no_more()
        await asyncio.gather(*(link.stop() for link in self._links))
        if self._running:
            await asyncio.wait(self._running)

    @property
    def counters(self) -> Mapping[str, int]:
        """Frames, trades, duplicates and reconnects of all links."""
        return {
            "frames": sum(link.session.frames for link in self._links),
            "trades_received": sum(link.session.trades_received for link in self._links),
            "duplicates": sum(link.session.duplicates for link in self._links),
            "reconnects": sum(link.reconnects for link in self._links),
        }

    @property
    def held(self) -> int:
        """Trades held back behind holes."""
        return sum(link.session.held for link in self._links)

    @property
    def away(self) -> Iterable[str]:
        """Connections that are wanted and cannot be had, and a REST side that does not answer."""
        return [text for text in (self.rest_away, *(link.away for link in self._links)) if text]

    def refusals(self) -> Iterable[str]:
        """One sentence for each feed that the venue refused."""
        return [text for link in self._links for text in link.session.refusals()]

    def feeds(self) -> Iterator[Subscription]:
        """Feeds of all links."""
        for link in self._links:
            yield from link.session.subscriptions()

    def _link_for(self, feed: Feed) -> Link:
        url = self.source.socket_url(self._gate.endpoints.ws_url, feed.channel)
        holder = next((link for link in self._links if link.session.knows(feed)), None)
        roomy = [link for link in self._links if link.session.url == url and self._has_room(link)]
        if holder is not None and (holder in roomy or not (line := holder.session.release(feed))):
            return holder
        link = roomy[0] if roomy else self._new_link(url)
        if holder is not None and line is not None:
            link.session.adopt(line)
        return link

    def _has_room(self, link: Link) -> bool:
        return link.session.wanted < self.source.limits.feeds_per_connection

    def _new_link(self, url: str) -> Link:
        session = Session(self.source, url, self._reorder_seconds, self._clock_interval_us)
        link = Link(session, self._gate, self._outlet, self._tell, self._tap)
        self._links.append(link)
        self._running.append(self._tasks.create_task(link.run()))
        return link
