"""A stream: its feeds shared out over as many connections as the venue's limits ask for.

Connections are made before they are broken: one that gets old, or that the venue is going to close, has an heir, which
takes its place when it hears all that the old one hears.
"""

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from msgspec.structs import replace

from producers.actions import Habits
from producers.collector.link import Bonds, Link
from producers.collector.pulse import Pulse
from producers.collector.runner import Runner
from producers.contract import Feed, Stream
from producers.session import Session
from producers.tape import Seen
from ravencore.errors import RavenError
from ravencore.records import Subscription

log = logging.getLogger("raven.collector")

OVERLAP_S = 1.0
"""How long an heir that hears all is listened to beside the old connection: what is under way there still comes."""
LONGEST_OVERLAP_S = 60.0
YOUNG_S = 20.0
"""Whoever says farewell on a connection so young says it on each, and it is not replaced."""
COUNTED = ("frames", "trades_received", "duplicates", "reconnects")


class StreamRunner(Runner):
    """Feeds of one stream; each goes back to its link, and so with what is known of it, while there is room."""

    source: Stream

    def __init__(self, *args: Any, habits: Habits, life_s: float, failures_allowed: int, **more: Any) -> None:
        super().__init__(*args, **more)
        self._habits = habits
        self._pulse = Pulse(self._outlet)
        self._beating: asyncio.Task[None] | None = None
        self._bonds = Bonds(
            gate=self._gate,
            taker=self._outlet,
            pulse=self._pulse,
            tell=self._tell,
            renew=self._renew,
            move=self._move,
            numbers=itertools.count(1),
            life_s=life_s,
            failures_allowed=failures_allowed,
            tap=self._tap,
        )
        self._links: list[Link] = []
        self._running: dict[Link, asyncio.Task[None]] = {}
        self._handing: set[asyncio.Task[None]] = set()
        self._gone: Counter[str] = Counter()
        """What links that are no more have counted."""

    def begin(self, feed: Feed, seen: Mapping[str, Seen]) -> None:
        """Subscribe to a feed on the link that had it before, else on one with room, else on a new one."""
        link = self._link_for(feed)
        link.session.want(feed, seen)
        link.wake()

    def end(self, feed: Feed) -> None:
        """Unsubscribe from a feed."""
        for link in self._links:
            link.unwant(feed)

    def knows(self, feed: Feed) -> bool:
        """Whether any link has had the feed."""
        return any(link.session.knows(feed) for link in self._links)

    def forget(self, symbols: Set[str]) -> None:
        """Forget what the sessions know of these symbols."""
        for link in self._links:
            link.session.forget(symbols)

    def revive(self) -> None:
        """Try again what was given up."""
        for link in self._links:
            if link.given_up is not None:
                link.wake()

    async def close(self) -> None:
        """Tell of what is broken now, and close all connections, after what has come."""
        self._admit_no_more()
        for link in self._links:
            link.last_words()
        await asyncio.gather(*(link.stop() for link in self._links))
        if self._running:
            await asyncio.wait(self._running.values())
        for link in self._links:
            link.flush()
        for task in (*self._handing, *filter(None, [self._beating])):
            task.cancel()

    @property
    def counters(self) -> Mapping[str, int]:
        """Frames, trades, duplicates and reconnects of all links."""
        return self._gone + sum((_counted(link) for link in self._links), Counter())

    @property
    def held(self) -> int:
        """Records held back behind holes."""
        return sum(link.session.held for link in self._links)

    @property
    def asking_for(self) -> int:
        """Symbols with a hole that REST may still fill."""
        return sum(link.session.asking_for for link in self._links)

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
            for feed in link.session.subscriptions():
                yield feed if link.given_up is None else replace(feed, state="FAILED")

    def _link_for(self, feed: Feed) -> Link:
        url = self.source.socket_url(self._gate.endpoints.ws_url, feed.channel)
        holder = next((link for link in self._links if link.session.knows(feed)), None)
        if holder is not None and (_has_room(holder, url) or not (line := holder.session.release(feed))):
            return holder
        link = self._roomy_link(url)
        if holder is not None and line is not None:
            link.session.adopt(line)
        return link

    def _roomy_link(self, url: str, instead_of: Link | None = None) -> Link:
        """One for another feed: the newest has most room, and of thousands of feeds each asks."""
        roomy = (link for link in reversed(self._links) if link is not instead_of and _has_room(link, url))
        return next(roomy, None) or self._new_link(Session(self.source, url, self._habits))

    def _new_link(self, session: Session) -> Link:
        if self._beating is None:
            self._beating = self._tasks.create_task(self._pulse.run())
        link = Link(session, self._bonds)
        self._links.append(link)
        self._running[link] = self._tasks.create_task(self._supervise(link))
        return link

    async def _supervise(self, link: Link) -> None:
        """Run a link to its end; an error of ours on one connection is no reason to end the others."""
        while True:
            try:
                await link.run()
                break
            except RavenError:
                raise
            except Exception as error:  # the supervisor's place: told, counted against the budget, and tried again
                log.exception("a connection of %s failed", self.source.name)
                link.crashed(f"{self.source.name}: {type(error).__name__}: {error}")
        if link.heir is not None:
            self._gone += _counted(link)
            self._links.remove(link)
            del self._running[link]

    # Make before break

    def _renew(self, link: Link, reason: str) -> None:
        """Give a link an heir, once."""
        is_heir = any(other.heir is link for other in self._links)
        if link.heir is not None or is_heir or time.monotonic() - link.opened_at < YOUNG_S:
            return
        log.info("%s is replaced: %s", link.session.connection, reason)
        link.heir = self._new_link(link.session.heir())
        handing = self._tasks.create_task(self._hand_over(link, link.heir))
        self._handing.add(handing)
        handing.add_done_callback(self._handing.discard)

    async def _hand_over(self, link: Link, heir: Link) -> None:
        """Close the old connection when the heir has heard all for a while; the old one may end before."""
        listens_at: float | None = None
        frames, reads_at = link.session.frames, self._pulse.now
        while link in self._running:
            await self._pulse.beat()
            now = self._pulse.now
            listens_at = (listens_at or now) if heir.session.listens else None
            if link.session.frames > frames:
                frames, reads_at = link.session.frames, now
            # Books may have to wait for REST, and what the old one holds unread is read; but not for ever.
            behind = heir.leads and now - reads_at < OVERLAP_S
            overlap_s = OVERLAP_S if heir.session.ready and not behind else LONGEST_OVERLAP_S
            if listens_at is not None and now - listens_at >= overlap_s:
                await link.stop()
                return

    # Another route

    def _move(self, link: Link, feed: Feed) -> None:
        """Take a feed to another connection, at the next of the venue's addresses."""
        if link.heir is not None:
            link.session.keep(feed)
            return
        line = link.session.release(feed)
        if line is None:
            return
        bases = [self._gate.endpoints.ws_url, *self._gate.endpoints.other_ws_urls]
        urls = [self.source.socket_url(base, feed.channel) for base in bases]
        at = urls.index(link.session.url) if link.session.url in urls else 0
        url = urls[(at + 1) % len(urls)]
        target = self._roomy_link(url, instead_of=link)
        target.session.adopt(line)
        target.wake()


def _has_room(link: Link, url: str) -> bool:
    return link.heir is None and link.session.url == url and link.session.has_room


def _counted(link: Link) -> Counter[str]:
    session = link.session
    figures = (session.frames, session.trades_received, session.duplicates, link.reconnects)
    return Counter(dict(zip(COUNTED, figures, strict=True)))
