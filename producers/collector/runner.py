"""What streams and polls have in common: which feeds are wanted, where those stopped, and their instruments."""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set

from confluent_kafka import KafkaException
from msgspec.structs import replace

from producers.collector.ends import Taker, Tap
from producers.collector.gate import Gate
from producers.collector.readback import LastSeen
from producers.contract import ALL, BadFrame, Feed, Get, Source
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


class Runner(ABC):
    """One source: from what is demanded of it to feeds that are `begin`-ed and `end`-ed.

    `waiting` holds the demanded symbols that wait for their instrument, or that the venue does not list.
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
        self.waiting: dict[str, SubscriptionState] = {}
        self.rest_away: str | None = None
        self._gate, self._outlet, self._look_back, self._tell, self._tasks = gate, outlet, look_back, tell, tasks
        self._tap = tap
        self._demanded: set[str] = set()
        self._admissions: dict[str, asyncio.Task[None]] = {}
        self._listings: dict[str, tuple[float, asyncio.Task[Collection[Instrument] | str]]] = {}
        self._market: set[Feed] = set()
        self._listed_at: dict[str, float] = {}
        """When each symbol of a market was last listed."""
        self._unlisted: dict[str, list[Gap]] = {}
        """Gaps of what is demanded and the venue does not list."""
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

    def demand(self, symbols: Set[str]) -> None:
        """Make these the demanded symbols: of a source with scope `market`, ALL or none."""
        for symbol in self._demanded - symbols:
            self.waiting.pop(symbol, None)
            self._end_refusal(symbol)
            if task := self._admissions.pop(symbol, None):
                task.cancel()
            for feed in self._feeds_of(symbol):
                self.end(feed)
            self._market.clear()
        fresh = sorted(symbols - self._demanded)
        self._demanded = set(symbols)
        if not fresh:
            return
        self.waiting.update(dict.fromkeys(fresh, "WAITING"))
        if self.source.scope == "market":
            self._admissions[fresh[0]] = self._tasks.create_task(self._follow_market(fresh[0]))
            return
        feeds = [feed for symbol in fresh for feed in self._feeds_of(symbol) if not self.knows(feed)]
        seen = self._last_seen(feeds)
        asks_for_all = len(fresh) >= MANY_SYMBOLS
        for symbol in fresh:
            self._admissions[symbol] = self._tasks.create_task(self._admit(symbol, seen, asks_for_all=asks_for_all))

    def subscriptions(self) -> Iterator[Subscription]:
        """As `raven.status` shows them: a source with scope `market` as one line for each of its channels."""
        venue = self.source.venue
        feeds = list(self.feeds())
        if self.source.scope == "symbol":
            yield from feeds
        else:
            for channel in self.source.channels:
                if these := [feed for feed in feeds if feed.channel == channel]:
                    yield _as_one(venue, channel, these)
        for symbol, state in self.waiting.items():
            for channel in self.source.channels:
                yield Subscription(venue=venue, channel=channel, symbol=symbol, state=state)

    def _admit_no_more(self) -> None:
        """End what waits for the venue's word on a symbol or a market, and the Gaps of what it refused."""
        for symbol in list(self._unlisted):
            self._end_refusal(symbol)
        for task in [*self._admissions.values(), *(task for _, task in self._listings.values())]:
            task.cancel()

    def _feeds_of(self, symbol: str) -> Collection[Feed]:
        if self.source.scope == "market":
            return tuple(self._market)
        return [Feed(channel, symbol) for channel in self.source.channels]

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

    # One symbol

    async def _admit(self, symbol: str, seen: asyncio.Task[LastSeen], *, asks_for_all: bool) -> None:
        since_us = now_us()
        found = _listed(await self._listing(None), symbol) if asks_for_all else []
        listing = found or await self._listing(symbol)
        found = _listed(listing, symbol)
        if not found:
            why = listing if isinstance(listing, str) else "not listed"
            self._refuse(symbol, f"{self.source.venue} refuses {symbol}: {why}", since_us)
            return
        await self._publish(found)
        last = await asyncio.shield(seen)
        for feed in self._feeds_of(symbol):
            self.begin(feed, last.get(feed, {}))
        self.waiting.pop(symbol, None)

    def _refuse(self, symbol: str, why: str, since_us: int) -> None:
        """Nothing comes of what was demanded: a Gap for each feed, written anew with its end when the demand ends."""
        self.waiting[symbol] = "REFUSED"
        self._tell(why)
        if self._market:
            # It is collected all the same, without what only a listing tells.
            return
        gaps = self._unlisted[symbol] = [self._gap(channel, symbol, why, since_us) for channel in self.source.channels]
        for gap in gaps:
            self._outlet.put(self.source.venue, gap)

    def _gap(self, channel: str, symbol: str, why: str, since_us: int) -> Gap:
        venue, found_us = self.source.venue, now_us()
        return Gap(
            gap_id=f"{venue}:{channel}:{symbol}:t{found_us}",
            venue=venue,
            channel=channel,
            symbol=symbol,
            cause="REFUSED",
            from_time=since_us,
            to_time=found_us,
            detected_time=found_us,
            connection=venue,
            detail=why[:300],
        )

    def _end_refusal(self, symbol: str) -> None:
        ended_us = now_us()
        for gap in self._unlisted.pop(symbol, ()):
            self._outlet.put(self.source.venue, replace(gap, to_time=ended_us, detected_time=ended_us))

    # A whole market

    async def _follow_market(self, demanded: str) -> None:
        """Collect what the venue lists, and look again from time to time."""
        since_us = now_us()
        await self._collect_market([])
        if self._market:
            self.waiting.pop(demanded, None)
        while True:
            listing = await self._listing(None)
            if isinstance(listing, str):
                self._refuse(demanded, f"{self.source.name} cannot be listed: {listing}", since_us)
                return
            await self._publish(listing)
            await self._collect_market(listing)
            self._forget_delisted(listing)
            self.waiting.pop(demanded, None)
            await asyncio.sleep(RELIST_S)

    async def _collect_market(self, instruments: Collection[Instrument]) -> None:
        selected = getattr(self._gate.endpoints, self.source.selection) if self.source.selection else ()
        feeds = set(self.source.market_feeds(list(instruments), selected))
        if not feeds:
            return
        for feed in self._market - feeds:
            self.end(feed)
        fresh = feeds - self._market
        last = await asyncio.shield(self._last_seen([feed for feed in fresh if not self.knows(feed)]))
        self._market = feeds
        for feed in sorted(fresh):
            self.begin(feed, last.get(feed, {}))

    def _forget_delisted(self, listing: Iterable[Instrument]) -> None:
        now = time.monotonic()
        self._listed_at.update((instrument.symbol, now) for instrument in listing)
        gone = {symbol for symbol, listed_at in self._listed_at.items() if now - listed_at > DELISTED_S}
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

    async def _listing(self, symbol: str | None) -> Collection[Instrument] | str:
        """What the venue says of a symbol, or of all, however long it takes; text where it refuses for good."""
        get = self.source.listing(self._gate.endpoints.rest_url, symbol)
        asked_at, task = self._listings.get(get.url, (-LISTING_FRESH_S, None))
        if task is None or (task.done() and time.monotonic() - asked_at > LISTING_FRESH_S):
            task = self._tasks.create_task(self._ask(get))
            self._listings[get.url] = time.monotonic(), task
        return await asyncio.shield(task)

    async def _ask(self, get: Get) -> Collection[Instrument] | str:
        delays = backoff(RETRY_FIRST_S, RETRY_CAP_S, random.Random())
        while True:
            try:
                status, body = await self._get(get)
                if refusal := self.source.refusal(status, body):
                    return refusal
                if status == HTTP_OK:
                    instruments = self.source.instruments(body, now_us())
                    self.rest_away = None
                    return instruments
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


def _listed(listing: Collection[Instrument] | str, symbol: str) -> list[Instrument]:
    return [] if isinstance(listing, str) else [one for one in listing if one.symbol == symbol]


def _as_one(venue: str, channel: str, feeds: Sequence[Subscription]) -> Subscription:
    """Many feeds of a channel as one line: it flows when something comes and nothing is still being subscribed."""
    states = {feed.state for feed in feeds}
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
