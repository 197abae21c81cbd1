"""The collector: demands in, market data out. The only file of this room with sockets, clocks and Kafka.

    raven.control -> Demands -> Collector -> one Link per venue (a connection and its Session) -> Outlet -> Kafka

Backpressure is one flag: while the Outlet is `blocked`, no Link reads its socket and no session's time goes on.
"""

import asyncio
import contextlib
import functools
import logging
import random
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

import aiohttp
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from producers.contract import BOOKS, TRADES, BadFrame, Venue
from producers.registry import VENUES
from producers.session import NOT_DEMANDED, Action, BadBytes, Clock, Close, Send, Session
from producers.tape import Break, Seen
from producers.wire import Wire
from ravencore import kafka, topics
from ravencore.codec import Codec
from ravencore.config import Settings, interval_us
from ravencore.errors import RavenError, Unavailable, Unreadable
from ravencore.kafka import TIMEOUT_S
from ravencore.records import (
    Book,
    DeadLetter,
    Demand,
    Gap,
    Instrument,
    Record,
    Subscription,
    SubscriptionState,
    Trade,
    gap_key,
    market_key,
)
from ravencore.retry import backoff
from ravencore.service import codec as make_codec
from ravencore.status import Reporter, now_us

log = logging.getLogger("raven.collector")

SERVICE = "collector"
PUMP_S = 0.02
STALL_S = 0.1
"""A pause of the event loop beyond this means that the socket may hold much that is unread."""
FRAMES_AT_A_TIME = 64
FLUSH_S = 0.005
POLL_S = 0.2
REPORT_S = 1.0
RETRY_FIRST_S, RETRY_CAP_S = 0.25, 30.0
OPEN_TIMEOUT_S, CLOSE_TIMEOUT_S, REST_TIMEOUT_S = 10.0, 1.0, 10.0
LEFT_ALONE_S = 60.0
LAST_FLUSH_S = 60.0
MAX_FRAME_BYTES = 1 << 19
"""Above any frame of a venue, and small enough that a dead letter of it fits into a Kafka message (1 MB)."""
TAIL_RECORDS = 1_000_000
TAIL_CHUNK_RECORDS = 2_000
TAIL_KEPT_RECORDS = 1_000
"""Newest records of a symbol that are looked at for its highest id: late repairs have lower ones."""
HTTP_OK = 200
TOO_MANY_REQUESTS = frozenset({418, 429})
PRODUCER_LIMITS = {"queue.buffering.max.messages": 100_000, "queue.buffering.max.kbytes": 65_536}
QUIET = {"log_level": 2}
"""librdkafka says twenty times a second that a broker is away; `Outlet.broker_error` says it once, in the status."""
OUTLET_COUNTERS = ("trades_published", "books_published", "gaps", "dead_letters", "clocks")

R = TypeVar("R", bound=Record)


class BadRecord(NamedTuple):
    """A record of a topic for the dead letters."""

    message: Message
    detail: str


class Endpoints(Protocol):
    """Where a venue is spoken to."""

    @property
    def ws_url(self) -> str: ...

    @property
    def rest_url(self) -> str: ...


LastSeen = Mapping[str, Mapping[str, Seen]]
"""The last record that is in Kafka, by symbol and channel."""
Published = Trade | Book | Gap | Clock | Instrument | BadBytes | BadRecord


class ProducerFailed(RavenError):
    """Raised when Kafka refuses a record for good; a restart finds the last ids again and writes the Gap."""


class Outlet:
    """Records on their way to Kafka, in order and never dropped; `blocked` asks whoever makes them to stop.

    It is blocked while librdkafka's buffer is full, and around a Gap: a new Gap is on the broker before any trade
    after it is sent, and a repair's Gap is not sent before its trade is there. So a kill loses no hole in silence.
    """

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self.blocked = False
        self._free, self._stuck = asyncio.Event(), asyncio.Event()
        self.counters: Counter[str] = Counter()
        self.broker_error: str | None = None
        self.producer = kafka.producer(
            settings.kafka,
            error_cb=self._on_error,
            on_delivery=self._on_refused,
            **{**PRODUCER_LIMITS, **QUIET, "delivery.report.only.error": True},
        )
        self._codec, self._wire = codec, Wire(codec)
        self._queue: deque[tuple[str, Published]] = deque()
        self._emptying = False
        self._unacknowledged = 0
        self._refused: str | None = None
        self._keys: dict[tuple[str, str], bytes] = {}
        self._writers: dict[type, Callable[[str, Any], None]] = {
            Trade: self._trade,
            Book: self._book,
            Clock: self._clock,
            Gap: self._gap,
            Instrument: self._instrument,
            BadBytes: self._bad_bytes,
            BadRecord: self._bad_record,
        }

    @property
    def buffered(self) -> int:
        """Records that the broker has not acknowledged."""
        return len(self._queue) + len(self.producer)

    def put(self, venue: str, record: Published) -> None:
        """Publish a record of a venue after all that were put before; raises ProducerFailed."""
        self._queue.append((venue, record))
        if not self.blocked:
            self._send()

    async def ready(self) -> None:
        """Return when nothing is blocked."""
        await self._free.wait()

    async def run(self) -> None:
        """Unblock whenever blocked, until cancelled; raises ProducerFailed."""
        while True:
            await self._stuck.wait()
            if self._emptying:
                self.producer.flush(FLUSH_S)
                self._emptying = len(self.producer) > 0
            else:
                await asyncio.sleep(FLUSH_S)
                self.producer.poll(0)
            if not self._emptying:
                self._send()
            self.check()
            await asyncio.sleep(0)

    async def delivered(self) -> None:
        """Return when the broker has all that was put; raises ProducerFailed."""
        while self.buffered:
            self.producer.flush(FLUSH_S)
            self.check()
            await asyncio.sleep(0)

    def check(self) -> None:
        """Note how Kafka is doing; raises ProducerFailed when it has refused a record for good."""
        if self._refused is not None:
            raise ProducerFailed(self._refused)
        unacknowledged = len(self.producer)
        if unacknowledged == 0 or unacknowledged < self._unacknowledged:
            self.broker_error = None
        self._unacknowledged = unacknowledged

    def _send(self) -> None:
        self.blocked = False
        self._free.set()
        self._stuck.clear()
        while self._queue and not self.blocked:
            venue, record = self._queue[0]
            if isinstance(record, Gap) and record.repair != "NONE" and len(self.producer):
                self._block(emptying=True)
                return
            try:
                self._writers[type(record)](venue, record)
            except BufferError:
                self._block(emptying=False)
                return
            except KafkaException as error:
                raise ProducerFailed(f"Kafka takes no {type(record).__name__}: {error.args[0].str()}") from None
            self._queue.popleft()
            if isinstance(record, Gap) and record.repair == "NONE":
                self._block(emptying=True)

    def _block(self, *, emptying: bool) -> None:
        self.blocked, self._emptying = True, emptying
        self._free.clear()
        self._stuck.set()

    def _trade(self, _venue: str, trade: Trade) -> None:
        self.producer.produce(topics.TRADES, self._wire.trade(trade), self._key(trade.venue, trade.symbol))
        self.counters["trades_published"] += 1

    def _book(self, _venue: str, book: Book) -> None:
        self.producer.produce(topics.BOOKS, self._wire.book(book), self._key(book.venue, book.symbol))
        self.counters["books_published"] += 1

    def _clock(self, venue: str, clock: Clock) -> None:
        headers: list[tuple[str, str | bytes | None]] = [(kafka.CLOCK_HEADER, str(clock.time_us).encode())]
        self.producer.produce(topics.TRADES, None, self._key(venue, clock.symbol), headers=headers)
        self.counters["clocks"] += 1

    def _gap(self, _venue: str, gap: Gap) -> None:
        self.producer.produce(topics.GAPS, self._codec.encode(gap), gap_key(gap))
        self.counters["gaps"] += gap.repair == "NONE"
        log.warning("%s %s:%s: %s, %s missing", gap.cause, gap.channel, gap.symbol, gap.detail, gap.missing)

    def _instrument(self, _venue: str, instrument: Instrument) -> None:
        self.producer.produce(topics.INSTRUMENTS, self._codec.encode(instrument), market_key(instrument))

    def _bad_bytes(self, _venue: str, bad: BadBytes) -> None:
        letter = DeadLetter(
            service=SERVICE,
            connection=bad.connection,
            payload=bad.payload,
            reason=bad.reason,
            detail=bad.detail[:1000],
            detected_time=now_us(),
        )
        self._dead_letter(letter, bad.connection.encode())

    def _bad_record(self, _venue: str, bad: BadRecord) -> None:
        message = bad.message
        letter = DeadLetter(
            service=SERVICE,
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            key=message.key(),
            payload=message.value() or b"",
            reason="unreadable_record",
            detail=bad.detail[:1000],
            detected_time=now_us(),
        )
        self._dead_letter(letter, message.key())

    def _dead_letter(self, letter: DeadLetter, key: bytes | None) -> None:
        self.producer.produce(topics.DEAD_LETTERS, self._codec.encode(letter), key)
        self.counters["dead_letters"] += 1

    def _key(self, venue: str, symbol: str) -> bytes:
        key = self._keys.get((venue, symbol))
        if key is None:
            key = self._keys[venue, symbol] = f"{venue}:{symbol}".encode()
        return key

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._refused = f"Kafka's producer cannot go on: {error.str()}"
        self.broker_error = f"Kafka does not answer: {error.str()}"

    def _on_refused(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused = f"Kafka refused a record of {message.topic()}: {error.str()}"


class Link:
    """One venue: what is demanded of it, its REST side, and its connection with the session over it.

    `waiting` holds the demanded symbols the session does not have yet: WAITING for their instrument, or REFUSED.
    """

    def __init__(
        self,
        session: Session,
        endpoints: Endpoints,
        outlet: Outlet,
        look_back: Callable[[Collection[str]], LastSeen],
        tell: Callable[[str], None],
    ) -> None:
        self.session, self.venue = session, session.venue
        self.reconnects = 0
        self.away: dict[str, str] = {}
        self.waiting: dict[str, SubscriptionState] = {}
        self._endpoints, self._outlet = endpoints, outlet
        self._look_back, self._tell = look_back, tell
        self._demanded: set[str] = set()
        self._admissions: dict[str, asyncio.Task[None]] = {}
        self._lookup: asyncio.Task[LastSeen] | None = None
        self._rest_free_at = 0.0
        self._time = 0.0
        self._opened = 0
        self._orders: list[Send | Close] = []
        self._why: Break | None = None
        self._ping_at = 0.0
        self._pong: asyncio.Future[float] | None = None
        self._frames_at_ping = 0
        self._stop = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._wake = asyncio.Event()

    # Demand

    def demand(self, symbols: Set[str], tasks: asyncio.TaskGroup, http: aiohttp.ClientSession) -> None:
        """Make these the demanded symbols."""
        for symbol in self._demanded - symbols:
            self.session.unwant(symbol)
            self.waiting.pop(symbol, None)
            if task := self._admissions.pop(symbol, None):
                task.cancel()
        fresh = symbols - self._demanded
        self._demanded = set(symbols)
        if not fresh:
            return
        self.waiting.update(dict.fromkeys(sorted(fresh), "WAITING"))
        unknown = [symbol for symbol in fresh if not self.session.knows(symbol)]
        seen = self._lookup = tasks.create_task(self._last_seen(unknown))
        for symbol in sorted(fresh):
            self._admissions[symbol] = tasks.create_task(self._admit(symbol, seen, http))

    async def _last_seen(self, symbols: Collection[str]) -> LastSeen:
        """By symbol and channel, the last record in Kafka of each symbol that has any."""
        delays = backoff(RETRY_FIRST_S, RETRY_CAP_S, random.Random())
        while symbols:
            try:
                return await asyncio.to_thread(self._look_back, symbols)
            except (Unavailable, KafkaException) as error:
                self._tell(f"the last ids of {self.venue.name} cannot be read back: {error}")
            await asyncio.sleep(next(delays))
        return {}

    async def _admit(self, symbol: str, seen: asyncio.Task[LastSeen], http: aiohttp.ClientSession) -> None:
        instrument = await self._describe(symbol, http)
        if instrument is None:
            return
        self._outlet.put(self.venue.name, instrument)
        await self._outlet.ready()
        self.session.want(symbol, (await asyncio.shield(seen)).get(symbol, {}))
        self.waiting.pop(symbol, None)
        self._wake.set()

    async def _describe(self, symbol: str, http: aiohttp.ClientSession) -> Instrument | None:
        """The venue's own description of a symbol, however long it takes; None when it refuses."""
        url = self.venue.instrument_url(self._endpoints.rest_url, symbol)
        delays = backoff(RETRY_FIRST_S, RETRY_CAP_S, random.Random())
        while True:
            await asyncio.sleep(self._rest_free_at - time.monotonic())
            try:
                async with http.get(url) as response:
                    status, headers, body = response.status, response.headers, await response.read()
                if refusal := self.venue.refusal(status, body):
                    self.waiting[symbol] = "REFUSED"
                    self._tell(f"{self.venue.name} refuses {symbol}: {refusal}")
                    return None
                if status == HTTP_OK:
                    found = {instrument.symbol: instrument for instrument in self.venue.instruments(body, now_us())}
                    self.away.pop("rest", None)
                    return found[symbol]
                self._rest_free_at = time.monotonic() + (_retry_after(status, headers) or 0.0)
                self._fail("rest", f"{url} answers {status}")
            except (BadFrame, KeyError) as error:
                self._fail("rest", f"{url} answers what cannot be used: {error}")
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self._fail("rest", f"{url} cannot be reached: {str(error) or type(error).__name__}")
            await asyncio.sleep(next(delays))

    # Connection

    async def run(self) -> None:
        """Be connected while anything is wanted, until stopped."""
        delays = backoff(RETRY_FIRST_S, RETRY_CAP_S, random.Random())
        while not self._stop.is_set():
            self._wake.clear()
            if self.session.idle:
                self.away.pop("socket", None)
                await self._wake.wait()
                continue
            frames_before = self.session.frames
            pause_s = await self._connection()
            if self.session.frames > frames_before:
                delays = backoff(RETRY_FIRST_S, RETRY_CAP_S, random.Random())
            if not self.session.idle and not self._stop.is_set():
                self.reconnects += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), pause_s or next(delays))

    async def stop(self) -> None:
        """Connect no more and close the connection; `run` takes in what has come and returns."""
        self._stop.set()
        self._wake.set()
        for task in filter(None, [*self._admissions.values(), self._lookup]):
            task.cancel()
        if self._socket is not None:
            await self._socket.close()

    async def _connection(self) -> float | None:
        """One connection from opening to end; how long to wait before the next, where the venue says so."""
        url = self.venue.socket_url(self._endpoints.ws_url)
        self._opened += 1
        opening = connect(
            url,
            compression=None,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            # `_pump` pings: a pong that lies unread during backpressure is no sign of death.
            ping_interval=None,
            max_size=MAX_FRAME_BYTES,
        )
        try:
            async with opening as socket:
                await self._talk(socket, f"{url}#{self._opened}")
        except InvalidStatus as error:
            self._fail("socket", f"{url} refuses the connection: {error}")
            return _retry_after(error.response.status_code, error.response.headers)
        except (OSError, WebSocketException, TimeoutError) as error:
            self._fail("socket", f"{url} cannot be reached: {str(error) or type(error).__name__}")
        return None

    async def _talk(self, socket: ClientConnection, name: str) -> None:
        log.info("connected: %s", name)
        self._socket, self._why = socket, None
        self.away.pop("socket", None)
        self._orders.clear()
        self.session.opened(name, self._time)
        pump = asyncio.create_task(self._pump(socket))
        try:
            await self._read(socket)
        except ConnectionClosed as error:
            why = self._why or Break("DISCONNECT", f"the connection was lost: {error}"[:300])
        finally:
            self._socket = None
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pump
        self._do(self.session.lost(why, now_us()))
        log.info("disconnected: %s", name)
        if not self.session.idle and not self._stop.is_set():
            self._tell(f"{name}: {why.detail}")

    async def _read(self, socket: ClientConnection) -> NoReturn:
        session, outlet = self.session, self._outlet
        while True:
            for _ in range(FRAMES_AT_A_TIME):
                frame = await socket.recv(decode=False)
                self._do(session.receive(frame, now_us(), self._time))
                if outlet.blocked:
                    await outlet.ready()
            # `recv` does not yield while it has frames, and there may be thousands.
            await asyncio.sleep(0)

    async def _pump(self, socket: ClientConnection) -> None:
        """Let the session's time go on while the socket is being read, say what it wants said, and ping."""
        self._ping_at, self._pong = self._time + self.venue.limits.ping_seconds, None
        stalled = False
        try:
            while True:
                before = time.monotonic()
                await asyncio.sleep(PUMP_S)
                took = time.monotonic() - before
                if self._outlet.blocked:
                    continue
                self._time += min(took, PUMP_S + STALL_S)
                # After a stall, what the socket holds goes first.
                stalled = took > PUMP_S + STALL_S and not stalled
                if not stalled:
                    self._do(self.session.tick(self._time, now_us()))
                    await self._obey(socket)
                    await self._ping(socket)
        except ConnectionClosed:
            pass  # `_read` learns of it as well, after all that came before.
        finally:
            await socket.close()

    async def _obey(self, socket: ClientConnection) -> None:
        orders, self._orders = self._orders, []
        for order in orders:
            if isinstance(order, Send):
                await socket.send(order.text)
            else:
                self._why = order.why or NOT_DEMANDED
                await socket.close()

    async def _ping(self, socket: ClientConnection) -> None:
        """Close a connection that has brought neither a pong nor a frame since the last ping.

        A pong alone may be late: it comes after all that is unread.
        """
        if self._time < self._ping_at:
            return
        if self._pong is not None and not self._pong.done() and self.session.frames == self._frames_at_ping:
            self._why = Break("DISCONNECT", "a ping was left unanswered")
            await socket.close()
            return
        self._pong = asyncio.ensure_future(await socket.ping())
        self._ping_at = self._time + self.venue.limits.ping_seconds
        self._frames_at_ping = self.session.frames

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Send | Close):
                self._orders.append(action)
            else:
                self._outlet.put(self.venue.name, action)

    def _fail(self, what: str, text: str) -> None:
        """Something is away; `away` says so until it is back."""
        self.away[what] = text
        self._tell(text)


class Demands:
    """`raven.control`, read in a thread of its own from its start and on; each record is handed to the event loop.

    `on_end` is called once, when all that stood there at the start has been handed over.
    """

    def __init__(self, settings: Settings, on_record: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        self._settings, self._on_record, self._on_end = settings, on_record, on_end
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demands", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._stopping.set()
        self._thread.join(TIMEOUT_S)

    def _run(self) -> None:
        client = kafka.reader(self._settings.kafka, SERVICE, **QUIET)
        try:
            while not self._stopping.is_set() and not self._assign(client):
                self._stopping.wait(RETRY_FIRST_S)
            while not self._stopping.is_set():
                self._hand_over(client.poll(POLL_S))
        finally:
            client.close()

    def _assign(self, client: Consumer) -> bool:
        try:
            numbers = kafka.partitions(client, topics.CONTROL)
        except Unavailable as error:
            log.warning("%s", error)
            return False
        self._unread = set(numbers)
        client.assign([TopicPartition(topics.CONTROL, number, OFFSET_BEGINNING) for number in numbers])
        return True

    def _hand_over(self, message: Message | None) -> None:
        if message is None:
            return
        error = message.error()
        if error is None:
            self._loop.call_soon_threadsafe(self._on_record, message)
        elif error.code() == KafkaError._PARTITION_EOF and self._unread:  # noqa: SLF001 - librdkafka's own name
            self._unread.discard(message.partition())
            if not self._unread:
                self._loop.call_soon_threadsafe(self._on_end)


class Collector:
    """The service: demands to links, links to Kafka, and a status every second."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self._settings, self._codec = settings, codec
        self._outlet = Outlet(settings, codec)
        self._reporter = Reporter(SERVICE, settings, codec, self._outlet.producer, now_us())
        self._links = {venue.name: self._link(venue) for venue in VENUES.values()}
        self._demands: dict[bytes, Demand] = {}
        self._unserved: set[tuple[str, str]] = set()
        self._told: set[str] = set()
        self._frames, self._frames_at = 0, time.monotonic()
        self._ready = False

    def _link(self, venue: Venue) -> Link:
        collector = self._settings.collector
        interval_us = shortest_us(self._settings.bars.time_intervals) if collector.clocks else None
        session = Session(venue, collector.reorder_ms / 1000, interval_us)
        endpoints: Endpoints = getattr(self._settings.venues, venue.name)
        look_back = functools.partial(last_seen, self._settings, self._codec, venue.name)
        return Link(session, endpoints, self._outlet, look_back, self._tell)

    async def run(self, stop: asyncio.Event) -> None:
        """Collect until `stop` is set, then publish all that was received; raises ProducerFailed."""
        timeout = aiohttp.ClientTimeout(total=REST_TIMEOUT_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as http, asyncio.TaskGroup() as tasks:
                self._tasks, self._http = tasks, http
                sending = tasks.create_task(self._outlet.run())
                demands = Demands(self._settings, self._on_demand, self._on_end)
                links = [tasks.create_task(link.run()) for link in self._links.values()]
                reporting = tasks.create_task(self._keep_reporting())
                await stop.wait()
                await asyncio.to_thread(demands.stop)
                await asyncio.gather(*(link.stop() for link in self._links.values()))
                await asyncio.wait(links)
                await self._deliver()
                reporting.cancel()
                sending.cancel()
        except BaseExceptionGroup as failures:
            known, unknown = failures.split(RavenError)
            if known is None or unknown is not None:
                raise
            raise RavenError("; ".join(str(failure) for failure in known.exceptions)) from None

    async def _deliver(self) -> None:
        try:
            await asyncio.wait_for(self._outlet.delivered(), LAST_FLUSH_S)
            self._reporter.state = "STOPPED"
            self._report()
            await asyncio.wait_for(self._outlet.delivered(), LAST_FLUSH_S)
        except TimeoutError:
            raise Unavailable(f"{self._outlet.buffered} records could not be written: Kafka is away") from None

    # Demand

    def _on_demand(self, message: Message) -> None:
        key, value = message.key() or b"", message.value()
        self._demands.pop(key, None)
        if value is not None:
            try:
                self._demands[key] = self._codec.decode_as(Demand, value)
            except (Unreadable, Unavailable) as error:
                self._outlet.put("", BadRecord(message, str(error)))
                self._tell(f"a demand cannot be read: {error}")
        if self._ready:
            self._reconcile()

    def _on_end(self) -> None:
        self._ready = True
        self._reporter.state = "RUNNING"
        self._reconcile()

    def _reconcile(self) -> None:
        wanted = wanted_symbols(self._demands.values(), self._links)
        for name, link in self._links.items():
            link.demand(wanted.get(name, set()), self._tasks, self._http)
        self._unserved = {(name, symbol) for name in wanted.keys() - self._links.keys() for symbol in wanted[name]}
        for name, symbol in self._unserved:
            self._tell(f"{symbol} is demanded of {name}, which this collector does not know")

    # Status

    def _tell(self, text: str) -> None:
        log.warning("%s", text)
        self._reporter.error(text, now_us())

    async def _keep_reporting(self) -> None:
        while True:
            self._report()
            await asyncio.sleep(REPORT_S)

    def _report(self) -> None:
        self._outlet.check()
        links, reporter = self._links.values(), self._reporter
        refusals = {text for link in links for text in link.session.refusals()}
        for text in refusals - self._told:
            self._tell(text)
        self._told = refusals
        away = [self._outlet.broker_error, *(text for link in links for text in link.away.values())]
        if self._ready and reporter.state != "STOPPED":
            reporter.state = "DEGRADED" if any(away) else "RUNNING"
        if self._outlet.broker_error:
            reporter.error(self._outlet.broker_error, now_us())
        self._count(reporter)
        reporter.report(now_us(), () if reporter.state == "STOPPED" else tuple(self._subscriptions()))

    def _count(self, reporter: Reporter) -> None:
        sessions = [link.session for link in self._links.values()]
        frames, now = sum(session.frames for session in sessions), time.monotonic()
        elapsed = max(now - self._frames_at, 1e-9)
        # Not `update`, which adds; and a count of zero is shown as well.
        for name in OUTLET_COUNTERS:
            reporter.counters[name] = self._outlet.counters[name]
        reporter.counters["frames"] = frames
        reporter.counters["trades_received"] = sum(session.trades_received for session in sessions)
        reporter.counters["duplicates"] = sum(session.duplicates for session in sessions)
        reporter.counters["reconnects"] = sum(link.reconnects for link in self._links.values())
        reporter.gauges["frames_per_second"] = (frames - self._frames) / elapsed
        reporter.gauges["buffered"] = float(self._outlet.buffered + sum(session.held for session in sessions))
        self._frames, self._frames_at = frames, now

    def _subscriptions(self) -> Iterator[Subscription]:
        for name, link in self._links.items():
            yield from link.session.subscriptions()
            for symbol, state in link.waiting.items():
                yield from _states(name, link.venue.channels, symbol, state)
        for name, symbol in sorted(self._unserved):
            yield from _states(name, (TRADES, BOOKS), symbol, "REFUSED")


def _states(venue: str, channels: Iterable[str], symbol: str, state: SubscriptionState) -> Iterator[Subscription]:
    for channel in channels:
        yield Subscription(venue=venue, channel=channel, symbol=symbol, state=state)


def wanted_symbols(demands: Iterable[Demand], venues: Collection[str]) -> dict[str, set[str]]:
    """Symbols by venue that any demand names; a demand that names no venue wants all of them.

    Whatever output is demanded of a symbol, all channels are collected: every output is made of trades, and books cost
    little beside them.
    """
    wanted: dict[str, set[str]] = {}
    for demand in demands:
        for venue in demand.venues or venues:
            wanted.setdefault(venue, set()).add(demand.symbol)
    return wanted


def shortest_us(intervals: Iterable[str]) -> int | None:
    """The shortest of intervals like `500ms`, `1s`, `15m`, `1h` in microseconds; raises ConfigError."""
    return min(map(interval_us, intervals), default=None)


def last_seen(settings: Settings, codec: Codec, venue: str, symbols: Collection[str]) -> LastSeen:
    """By symbol and channel, the last trade and book in Kafka; a symbol without trades is left out.

    Raises Unavailable when the broker is away.
    """
    keys = {f"{venue}:{symbol}".encode(): symbol for symbol in symbols}
    seen: dict[str, dict[str, Seen]] = {}
    for key, trades in newest(settings, topics.TRADES, keys).items():
        known = [trade for trade in _readable(codec, Trade, trades) if trade.sequence is not None]
        if known:
            last = max(known, key=lambda trade: trade.sequence or 0)
            seen[keys[key]] = {TRADES: Seen(last.sequence, last.event_time)}
    warm = {key for key, symbol in keys.items() if symbol in seen}
    for key, books in newest(settings, topics.BOOKS, warm).items():
        if known_books := _readable(codec, Book, books[-1:]):
            seen[keys[key]][BOOKS] = Seen(None, known_books[-1].received_time)
    return seen


def newest(settings: Settings, topic: str, keys: Collection[bytes]) -> dict[bytes, list[bytes]]:
    """The newest TAIL_KEPT_RECORDS values of each key within the last TAIL_RECORDS of a topic, oldest first.

    Reads backwards, in chunks that grow, until each key has been found. Raises Unavailable when the broker is away.
    """
    client = kafka.reader(settings.kafka, SERVICE, **QUIET)
    try:
        edges = {
            number: client.get_watermark_offsets(TopicPartition(topic, number), TIMEOUT_S)
            for number in kafka.partitions(client, topic)
        }
        ends = {number: high for number, (_, high) in edges.items()}
        found: dict[bytes, list[bytes]] = {}
        left, chunk = TAIL_RECORDS, TAIL_CHUNK_RECORDS
        while len(found) < len(keys) and left > 0:
            starts = {number: max(edges[number][0], end - chunk) for number, end in ends.items()}
            spans = {number: range(starts[number], end) for number, end in ends.items() if starts[number] < end}
            if not spans:
                break
            sought = {key: deque[bytes](maxlen=TAIL_KEPT_RECORDS) for key in keys if key not in found}
            for message in _read(client, topic, spans):
                key, value = message.key(), message.value()
                if value is not None and key in sought:
                    sought[key].append(value)
            found.update((key, list(values)) for key, values in sought.items() if values)
            ends, left, chunk = starts, left - sum(map(len, spans.values())), chunk * 4
        return found
    except KafkaException as error:
        raise Unavailable(f"Kafka does not answer: {error.args[0].str()}") from None
    finally:
        client.close()


def _read(client: Consumer, topic: str, spans: Mapping[int, range]) -> Iterator[Message]:
    client.assign([TopicPartition(topic, number, span.start) for number, span in spans.items()])
    unread = set(spans)
    while unread:
        # `consume` waits for as many as it is asked for: wait for one, then take what is there.
        first = client.poll(TIMEOUT_S)
        if first is None:
            raise Unavailable(f"{topic} cannot be read back: nothing came for {TIMEOUT_S:.0f} s")
        for message in (first, *client.consume(TAIL_CHUNK_RECORDS, 0.0)):
            number, offset = message.partition() or 0, message.offset() or 0
            if message.error() is None and offset in spans[number]:
                yield message
            if offset >= spans[number].stop - 1 or _is_end(message):
                unread.discard(number)


def _is_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001 - librdkafka's own name


def _readable(codec: Codec, cls: type[R], values: Iterable[bytes]) -> list[R]:
    records = []
    for value in values:
        with contextlib.suppress(Unreadable):
            records.append(codec.decode_as(cls, value))
    return records


def _retry_after(status: int, headers: Mapping[str, str]) -> float | None:
    """Seconds that a venue which is asked too often wants to be left alone; None where it is not that."""
    if status not in TOO_MANY_REQUESTS:
        return None
    told = headers.get("Retry-After", "")
    return float(told) if told.isdecimal() else LEFT_ALONE_S


async def _collect(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Collector(settings, make_codec(settings)).run(stop)


def collect(settings: Settings) -> None:
    """Run the collector until a signal; waits for a broker that is not up yet."""
    delays = backoff(RETRY_FIRST_S, RETRY_CAP_S, random.Random())
    while True:
        try:
            kafka.ensure_topics(settings.kafka)
            break
        except Unavailable as error:
            log.warning("%s", error)
            time.sleep(next(delays))
    asyncio.run(_collect(settings))
