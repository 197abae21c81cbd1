"""What streams and polls have in common: which feeds are wanted, where those stopped, and their instruments."""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain

from confluent_kafka import KafkaException
from msgspec.structs import replace

from producers.collector.ends import Taker, Tap
from producers.collector.gate import Gate
from producers.collector.readback import LastSeen
from producers.contract import ALL, BadFrame, Feed, Get, Source
from producers.routing import Wants
from producers.tape import Seen
from ravencore.errors import Unavailable
from ravencore.records import Gap, Instrument, Subscription, SubscriptionState
from ravencore.retry import backoff
from ravencore.status import now_us

RETRY_FIRST_S, RETRY_CAP_S = 0.25, 30.0
LISTING_FRESH_S = 60.0
"""A body that describes all symbols serves every symbol that is asked for this soon after."""
MANY_SYMBOLS = 20
"""Demanded at once, they are looked for in the listing of all: one by one, 500 of Binance spot took two minutes."""
RELIST_S = 300.0
"""How often a venue is asked what it lists now: new expiries, new perpetuals."""
DELISTED_S = 86_400.0
"""What a market has not listed for so long is forgotten: an option that has expired prints nothing any more."""
HTTP_OK = 200

Listing = Mapping[str, Instrument]
"""What a venue lists, by symbol."""


class Runner(ABC):
    """One source: from what is demanded of it to feeds that are `begin`-ed and `end`-ed.

    Feeds are demanded by their symbols' names, or all of a channel by the symbol ALL: those that the venue lists. One
    that is demanded both ways goes on until neither is.
    """

    def __init__(
        self,
        source: Source,
        gate: Gate,
        outlet: Taker,
        *,
        look_back: Callable[[Collection[Feed]], LastSeen],
        tell: Callable[[str], None],
        tasks: asyncio.TaskGroup,
        tap: Tap | None = None,
    ) -> None:
        self.source = source
        self.rest_away: str | None = None
        self._gate, self._outlet, self._look_back, self._tell, self._tasks = gate, outlet, look_back, tell, tasks
        self._tap = tap
        self._asked: set[Feed] = set()
        """What is demanded; with the symbol ALL every symbol that is listed."""
        self._held: set[Feed] = set()
        """What has begun and has not been ended."""
        self._whole: set[Feed] = set()
        """What a demand for every symbol is for, in channels that it may not name: as the venue was last listed."""
        self._is_listed = False
        """Whether that is known for the demand for every symbol that stands."""
        self._admissions: dict[Feed, asyncio.Task[None]] = {}
        self._following: asyncio.Task[None] | None = None
        self._listings: dict[str, tuple[float, asyncio.Task[Listing | str]]] = {}
        self._listed_at: dict[str, float] = {}
        """When each symbol was last listed, of a source whose listing is followed."""
        self._refused: dict[Feed, Gap] = {}
        """What is demanded and the venue does not list."""
        self._sought: set[Feed] = set()
        self._seeking: asyncio.Task[LastSeen] | None = None
        """The next read-back, which has not begun."""
        self._reading = asyncio.Lock()

    # To be told by streams and polls

    @abstractmethod
    def begin(self, feed: Feed, seen: Mapping[str, Seen]) -> None:
        """Collect a feed; `seen` holds the last known record of each of its symbols."""

    @abstractmethod
    def end(self, feed: Feed) -> None:
        """Collect a feed no more."""

    @abstractmethod
    def knows(self, feed: Feed) -> bool:
        """Whether the feed has been collected before by this process."""

    @abstractmethod
    async def close(self) -> None:
        """Collect nothing more, and return when all that has come is published."""

    @property
    @abstractmethod
    def counters(self) -> Mapping[str, int]:
        """What it has counted: frames, trades_received, duplicates, reconnects."""

    @property
    @abstractmethod
    def held(self) -> int:
        """Trades held back behind holes."""

    @property
    def asking_for(self) -> int:
        """Symbols with a hole that REST may still fill."""
        return 0

    @property
    @abstractmethod
    def away(self) -> Iterable[str]:
        """What cannot be reached now, a sentence each."""

    @abstractmethod
    def refusals(self) -> Iterable[str]:
        """One sentence for each feed that the venue refused."""

    @abstractmethod
    def feeds(self) -> Iterator[Subscription]:
        """Every feed that is wanted, or not ended yet."""

    @abstractmethod
    def forget(self, symbols: Set[str]) -> None:
        """Forget all of these symbols, which the venue has not listed for long: ended feeds, and last records."""

    def revive(self) -> None:  # noqa: B027 - most have nothing that was given up
        """Try again what was given up."""

    # Demand

    def demand(self, wants: Wants) -> None:
        """Make this what is demanded; of a source with scope `market` whatever is demanded is demanded of ALL."""
        if self.source.scope == "market":
            wants = {ALL: frozenset(chain.from_iterable(wants.values()))}
        asked = {Feed(channel, symbol) for symbol, channels in wants.items() for channel in channels}
        fresh, gone = asked - self._asked, self._asked - asked
        self._asked = asked
        for feed in sorted(gone):
            self._end_refusal(feed)
            if (task := self._admissions.pop(feed, None)) is not None:
                task.cancel()
        self._follow_if_asked(fresh, gone)
        flowing = {feed.symbol for feed in self._held}
        self._end_unwanted()
        self._admit_all({feed for feed in fresh if feed.symbol != ALL} - self._held, flowing)

    @property
    def waiting(self) -> dict[Feed, SubscriptionState]:
        """What is demanded and has not begun: it waits for the venue's word, and for Kafka's where it stopped before.

        REFUSED: the venue does not list it.
        """
        begun = self._held | {Feed(feed.channel, ALL) for feed in self._held & self._whole}
        return {feed: "REFUSED" if feed in self._refused else "WAITING" for feed in sorted(self._asked - begun)}

    def subscriptions(self) -> Iterator[Subscription]:
        """As `raven.status` shows them: feeds that are not demanded by name as one line for each channel."""
        folded: dict[str, list[Subscription]] = {}
        for one in self.feeds():
            feed = Feed(one.channel, one.symbol)
            by_name = self.source.scope == "symbol" and (feed in self._asked or feed not in self._whole)
            if by_name:
                yield one
            if not by_name or (feed in self._whole and Feed(one.channel, ALL) in self._asked):
                folded.setdefault(one.channel, []).append(one)
        opening = {feed.channel for feed in self._whole - self._held if self._is_wanted(feed)}
        for channel, these in folded.items():
            yield _as_one(self.source.venue, channel, these, opens=channel in opening)
        for feed, state in self.waiting.items():
            yield Subscription(venue=self.source.venue, channel=feed.channel, symbol=feed.symbol, state=state)

    def _is_wanted(self, feed: Feed) -> bool:
        of_all = Feed(feed.channel, ALL) in self._asked and (feed in self._whole or not self._is_listed)
        return of_all or feed in self._asked

    def _end_unwanted(self) -> None:
        for feed in [feed for feed in self._held if not self._is_wanted(feed)]:
            self._held.discard(feed)
            self.end(feed)

    async def _open(self, feeds: Collection[Feed], seen: asyncio.Task[LastSeen] | None) -> None:
        """Begin feeds, when it is known where they stopped, as far as they are wanted still."""
        last = await asyncio.shield(seen) if seen is not None else {}
        for feed in sorted(feeds):
            if feed not in self._held and self._is_wanted(feed):
                self._held.add(feed)
                self.begin(feed, last.get(feed, {}))

    def _admit_no_more(self) -> None:
        """End what waits for the venue's word on a symbol or on all, and the Gaps of what it refused."""
        for feed in list(self._refused):
            self._end_refusal(feed)
        following = [self._following] if self._following is not None else []
        for task in [*self._admissions.values(), *following, *(task for _, task in self._listings.values())]:
            task.cancel()

    # Where feeds stopped

    def _last_seen_of(self, feeds: Iterable[Feed]) -> asyncio.Task[LastSeen] | None:
        """A read-back of those that this process has not had; None where there are none."""
        unknown = [feed for feed in feeds if not self.knows(feed)]
        return self._last_seen(unknown) if unknown else None

    def _last_seen(self, feeds: Collection[Feed]) -> asyncio.Task[LastSeen]:
        """One read-back at a time: all that comes to be sought meanwhile is sought by the next, together."""
        self._sought.update(feeds)
        if self._seeking is None:
            self._seeking = self._tasks.create_task(self._seek())
        return self._seeking

    async def _seek(self) -> LastSeen:
        async with self._reading:
            feeds, self._sought, self._seeking = self._sought, set(), None
            return await self._read_back(feeds)

    async def _read_back(self, feeds: Collection[Feed]) -> LastSeen:
        delays = backoff(RETRY_FIRST_S, RETRY_CAP_S, random.Random())
        while feeds:
            try:
                return await asyncio.to_thread(self._look_back, feeds)
            except (Unavailable, KafkaException) as error:
                self._tell(f"the last records of {self.source.name} cannot be read back: {error}")
            await asyncio.sleep(next(delays))
        return {}

    # What is demanded by name

    def _admit_all(self, feeds: Set[Feed], flowing: Set[str]) -> None:
        """Begin feeds; the venue is asked about symbols of which nothing flows yet."""
        seen = self._last_seen_of(feeds)
        unheard = {feed.symbol for feed in feeds} - flowing
        for feed in sorted(feeds):
            admission = self._admit(
                feed, seen, is_listed=feed.symbol in flowing, asks_for_all=len(unheard) >= MANY_SYMBOLS
            )
            self._admissions[feed] = self._tasks.create_task(admission)

    async def _admit(
        self, feed: Feed, seen: asyncio.Task[LastSeen] | None, *, is_listed: bool, asks_for_all: bool
    ) -> None:
        since_us = now_us()
        if not is_listed:
            found = await self._described(feed.symbol, asks_for_all=asks_for_all)
            if isinstance(found, str):
                self._refuse_by_name(feed, f"{self.source.venue} refuses {feed.symbol}: {found}", since_us)
                return
            await self._publish([found])
        await self._open([feed], seen)
        del self._admissions[feed]

    async def _described(self, symbol: str, *, asks_for_all: bool) -> Instrument | str:
        """The instrument; text where there is none."""
        listing = await self._listing(None) if asks_for_all else {}
        if isinstance(listing, str) or symbol not in listing:
            listing = await self._listing(symbol)
        return listing if isinstance(listing, str) else listing.get(symbol, "not listed")

    def _refuse_by_name(self, feed: Feed, why: str, since_us: int) -> None:
        if not any(other.symbol == feed.symbol for other in self._refused):
            self._tell(why)
        self._refuse(feed, why, since_us)

    def _refuse(self, feed: Feed, why: str, since_us: int) -> None:
        """Nothing comes of what was demanded: a Gap, written anew with its end when the demand ends."""
        venue, found_us = self.source.venue, now_us()
        gap = self._refused[feed] = Gap(
            gap_id=f"{venue}:{feed.channel}:{feed.symbol}:t{found_us}",
            venue=venue,
            channel=feed.channel,
            symbol=feed.symbol,
            cause="REFUSED",
            from_time=since_us,
            to_time=found_us,
            detected_time=found_us,
            connection=venue,
            detail=why[:300],
        )
        self._outlet.put(venue, gap)

    def _end_refusal(self, feed: Feed) -> None:
        gap, ended_us = self._refused.pop(feed, None), now_us()
        if gap is not None:
            self._outlet.put(self.source.venue, replace(gap, to_time=ended_us, detected_time=ended_us))

    # All that a venue lists

    def _follow_if_asked(self, fresh: Set[Feed], gone: Set[Feed]) -> None:
        """Follow the listing while any channel is demanded of all symbols; for one more of them, from the start."""
        is_asked = any(feed.symbol == ALL for feed in self._asked)
        was_asked = any(feed.symbol == ALL for feed in gone)
        if not is_asked and not was_asked:
            # Until now it told of feeds that were ending still that they are of all.
            self._whole = set()
        begins = any(feed.symbol == ALL for feed in fresh)
        if self._following is not None and (begins or not is_asked):
            self._following.cancel()
            self._following = None
        if begins:
            self._is_listed = False
            self._following = self._tasks.create_task(self._follow())

    async def _follow(self) -> None:
        """Collect what the venue lists, and look again from time to time."""
        since_us = now_us()
        await self._collect([])
        while True:
            listing = await self._listing(None)
            if isinstance(listing, str):
                self._refuse_all(f"{self.source.name} cannot be listed: {listing}", since_us)
                return
            await self._publish(listing.values())
            await self._collect(listing.values())
            self._forget_delisted(listing)
            await asyncio.sleep(RELIST_S)

    def _refuse_all(self, why: str, since_us: int) -> None:
        """What needs no listing is collected all the same, without what only a listing tells."""
        self._is_listed = True
        self._end_unwanted()
        self._tell(why)
        for feed, state in self.waiting.items():
            if feed.symbol == ALL and state == "WAITING":
                self._refuse(feed, why, since_us)

    async def _collect(self, instruments: Iterable[Instrument]) -> None:
        selected = getattr(self._gate.endpoints, self.source.selection) if self.source.selection else ()
        feeds = set(self.source.market_feeds(list(instruments), selected))
        if not feeds:
            return
        self._whole, self._is_listed = feeds, True
        self._end_unwanted()
        fresh = [feed for feed in feeds - self._held if self._is_wanted(feed)]
        await self._open(fresh, self._last_seen_of(fresh))

    def _forget_delisted(self, listing: Iterable[str]) -> None:
        now = time.monotonic()
        self._listed_at.update(dict.fromkeys(listing, now))
        old = {symbol for symbol, listed_at in self._listed_at.items() if now - listed_at > DELISTED_S}
        gone = old - {feed.symbol for feed in self._asked}
        for symbol in gone:
            del self._listed_at[symbol]
            self._gate.published.pop(symbol, None)
        self.forget(gone)

    # Instruments

    async def _publish(self, instruments: Iterable[Instrument]) -> None:
        """Those that are new or have changed since they were last published."""
        for instrument in instruments:
            before = self._gate.published.get(instrument.symbol)
            if before is None or replace(instrument, received_time=before.received_time) != before:
                self._gate.published[instrument.symbol] = instrument
                self._outlet.put(self.source.venue, instrument)
                await self._outlet.ready()

    async def _listing(self, symbol: str | None) -> Listing | str:
        """What the venue says of a symbol, or of all, however long it takes; text where it refuses for good."""
        get = self.source.listing(self._gate.endpoints.rest_url, symbol)
        asked_at, task = self._listings.get(get.url, (-LISTING_FRESH_S, None))
        if task is None or (task.done() and time.monotonic() - asked_at > LISTING_FRESH_S):
            task = self._tasks.create_task(self._ask(get))
            self._listings[get.url] = time.monotonic(), task
        return await asyncio.shield(task)

    async def _ask(self, get: Get) -> Listing | str:
        delays = backoff(RETRY_FIRST_S, RETRY_CAP_S, random.Random())
        while True:
            try:
                status, body = await self._get(get)
                if refusal := self.source.refusal(status, body):
                    return refusal
                if status == HTTP_OK:
                    instruments = self.source.instruments(body, now_us())
                    self.rest_away = None
                    return {instrument.symbol: instrument for instrument in instruments}
                self._fail(f"{get.url} answers {status}")
            except BadFrame as error:
                self._fail(f"{get.url} answers what cannot be used: {error}")
            except Unavailable as error:
                self._fail(str(error))
            await asyncio.sleep(next(delays))

    async def _get(self, get: Get) -> tuple[int, bytes]:
        status, body = await self._gate.get(get)
        if self._tap is not None and status == HTTP_OK:
            self._tap.body(time.time_ns(), get.url, body)
        return status, body

    def _fail(self, text: str) -> None:
        self.rest_away = text
        self._tell(text)


def _as_one(venue: str, channel: str, feeds: Sequence[Subscription], *, opens: bool) -> Subscription:
    """Many feeds of a channel as one line: it flows when something comes and nothing is still being subscribed.

    `opens`: there are more of them, which have not begun.
    """
    states: set[SubscriptionState] = {feed.state for feed in feeds}
    if opens:
        states.add("CONNECTING")
    order: tuple[SubscriptionState, ...] = (
        "FAILED",
        "CONNECTING",
        "FLOWING",
        "SUBSCRIBED",
        "SILENT",
        "REFUSED",
    )
    state: SubscriptionState = next((state for state in order if state in states), "UNKNOWN")
    times = [feed.last_received_time for feed in feeds if feed.last_received_time is not None]
    return Subscription(
        venue=venue, channel=channel, symbol=ALL, state=state, last_received_time=max(times, default=None)
    )
