"""A poll: each of its feeds is asked for over REST at its own steady pace, by a task of its own."""

import asyncio
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from producers.actions import BadBytes
from producers.collector.runner import HTTP_OK, Runner
from producers.contract import BadFrame, Feed, Poll, Receipt
from producers.feedtape import FeedTape
from producers.session import TOLD_US
from producers.tape import NOT_DEMANDED, Break, Seen
from ravencore.errors import Unavailable
from ravencore.records import MarketRecord, Subscription, SubscriptionState
from ravencore.status import now_us


@dataclass(slots=True)
class Line:
    """One feed that is polled."""

    feed: Feed
    tape: FeedTape
    task: asyncio.Task[None] | None = None
    last_received_us: int | None = None
    failed: str | None = None
    refused: str | None = None
    asking: bool = False
    ending: bool = False
    since_us: int = 0
    """When it was demanded."""
    newest: dict[str, int] = field(default_factory=dict)
    """Event time of the last record, by symbol."""


class Refused(Exception):
    """Raised when the venue says that it will never answer this; the others of the source go on."""


class PollRunner(Runner):
    """The feeds of one poll, side by side: one that is slow or refused holds up none of the others."""

    source: Poll

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._lines: dict[Feed, Line] = {}
        self._answers = 0
        self._began_us = now_us()

    def begin(self, feed: Feed, seen: Mapping[str, Seen]) -> None:
        """Ask for a feed from now on."""
        line = self._lines.get(feed)
        if line is None:
            line = Line(feed, FeedTape(self.source.venue, feed, next(iter(seen.values()), None)))
            self._lines[feed] = line
        line.ending = False
        if line.task is None:
            line.since_us = now_us()
            line.last_received_us = line.failed = line.refused = None
            line.task = self._tasks.create_task(self._keep_asking(line))

    def end(self, feed: Feed) -> None:
        """Ask for a feed no more; what has been asked for already is still published."""
        line = self._lines.get(feed)
        if line is None or line.task is None:
            return
        if line.asking:
            line.ending = True
        else:
            line.task.cancel()
            self._ended(line)

    def _ended(self, line: Line) -> None:
        """What was missing while it was demanded is told now: who demands it again may never come."""
        line.task, line.ending = None, False
        self._tell_open(line, now_us())
        line.tape.interrupt(NOT_DEMANDED, now_us())

    def knows(self, feed: Feed) -> bool:
        """Whether the feed has been asked for before."""
        return feed in self._lines

    def forget(self, symbols: Set[str]) -> None:
        """Forget ended feeds of these symbols, and their last records in others."""
        for feed, line in list(self._lines.items()):
            line.tape.forget(symbols)
            for symbol in line.newest.keys() & symbols:
                del line.newest[symbol]
            if line.task is None and feed.symbol in symbols:
                del self._lines[feed]

    async def close(self) -> None:
        """Ask no more, and tell of what is broken now."""
        self._admit_no_more()
        for line in self._lines.values():
            if line.task is not None:
                line.task.cancel()
                self._tell_open(line, now_us())

    @property
    def counters(self) -> Mapping[str, int]:
        """Answers that came, as frames."""
        return {"frames": self._answers}

    @property
    def held(self) -> int:
        """Polls hold nothing back."""
        return 0

    @property
    def away(self) -> Iterable[str]:
        """Feeds whose last request failed."""
        return [text for text in (self.rest_away, *(line.failed for line in self._lines.values() if line.task)) if text]

    def refusals(self) -> Iterable[str]:
        """One sentence for each feed that the venue refuses; it is asked for again all the same."""
        lines = [line for line in self._lines.values() if line.task and line.refused]
        return [f"{self.source.venue} refuses {one.feed.channel} of {one.feed.symbol}: {one.refused}" for one in lines]

    def feeds(self) -> Iterator[Subscription]:
        """Every feed that is asked for."""
        for line in self._lines.values():
            if line.task is not None:
                yield Subscription(
                    venue=self.source.venue,
                    channel=line.feed.channel,
                    symbol=line.feed.symbol,
                    state=_state(line),
                    last_received_time=line.last_received_us,
                )

    async def _keep_asking(self, line: Line) -> None:
        """At multiples of the interval from a moment of the feed's own, so that not all are asked at once."""
        interval = self.source.interval_seconds
        due = time.monotonic() + random.uniform(0, min(interval, len(self._lines) * 0.02))
        while True:
            await asyncio.sleep(due - time.monotonic())
            await self._outlet.ready()
            line.asking = True
            await self._ask_once(line)
            line.asking = False
            if line.ending:
                self._ended(line)
                return
            missed = max(int((time.monotonic() - due) / interval), 0)
            if missed:
                line.tape.interrupt(Break("SILENCE", f"{missed} polls came too late to be made"), now_us())
            due += (missed + 1) * interval

    def _tell_open(self, line: Line, before_us: int) -> None:
        """The Gap of a break that began before this time, and lasts."""
        tape = line.tape
        if tape.broken is not None and (tape.broken_us or self._began_us) <= before_us:
            for output in tape.tell_open(now_us(), self.source.venue):
                self._outlet.put(self.source.venue, output)

    async def _ask_once(self, line: Line) -> None:
        try:
            bodies = await self._bodies(line.feed)
        except Refused as refusal:
            self._note_refusal(line, str(refusal))
            return
        except Unavailable as error:
            line.tape.interrupt(Break("DISCONNECT", str(error)[:300]), now_us())
            if line.failed != str(error):
                self._tell(str(error))
            line.failed = str(error)
            self._tell_open(line, now_us() - TOLD_US)
            return
        line.failed = line.refused = None
        self._answers += len(bodies)
        self._publish_bodies(line, bodies)

    def _note_refusal(self, line: Line, why: str) -> None:
        """A hole from the last record, or from the demand where there was none; told once, until there are answers."""
        if line.refused is None:
            line.tape.begin(line.since_us)
            line.tape.refuse(Break("REFUSED", why[:300]), now_us())
            self._tell_open(line, now_us())
        line.refused = why

    async def _bodies(self, feed: Feed) -> Sequence[bytes]:
        gets = self.source.requests(self._gate.endpoints.rest_url, feed)
        answers = await asyncio.gather(*(self._get(get) for get in gets))
        for get, (status, body) in zip(gets, answers, strict=True):
            if refusal := self.source.refusal(status, body):
                raise Refused(refusal)
            if status != HTTP_OK:
                raise Unavailable(f"{get.url} answers {status}")
        return [body for _, body in answers]

    def _publish_bodies(self, line: Line, bodies: Sequence[bytes]) -> None:
        received_us = now_us()
        url = self.source.requests(self._gate.endpoints.rest_url, line.feed)[0].url
        try:
            receipt = Receipt(received_us, self._began_us, self._answers)
            records = self.source.parse_bodies(line.feed, bodies, receipt)
        except BadFrame as error:
            self._outlet.put(self.source.venue, BadBytes(b"\n".join(bodies), error.reason, str(error), url))
            # There was something, even where nothing has ever been read of it.
            line.tape.begin(line.since_us)
            line.tape.interrupt(Break("DISCONNECT", f"an answer cannot be read: {error}"[:300]), received_us)
            return
        line.last_received_us = received_us
        for record in records:
            if self._is_news(line, record):
                for output in line.tape.add(record, url):
                    self._outlet.put(self.source.venue, output)

    def _is_news(self, line: Line, record: MarketRecord) -> bool:
        """Whether it is not what was told last time: venues are asked more often than some of their figures change."""
        if record.event_time is None:
            return True
        before = line.newest.get(record.symbol)
        line.newest[record.symbol] = record.event_time
        return before != record.event_time


def _state(line: Line) -> SubscriptionState:
    if line.refused:
        return "REFUSED"
    return "CONNECTING" if line.last_received_us is None or line.failed else "FLOWING"
