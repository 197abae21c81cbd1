"""One connection to a venue at a time, and the session over it."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import NamedTuple, NoReturn

from aiolimiter import AsyncLimiter
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from producers.actions import Action, Close, FetchBook, FetchTrades, Move, Order, Renew, Send
from producers.collector.ends import Taker, Tap
from producers.collector.gate import Gate
from producers.collector.pulse import Pulse
from producers.contract import Feed, HasHistory, HasSnapshots
from producers.session import Session
from producers.tape import NOT_DEMANDED, Break
from ravencore.errors import Unavailable
from ravencore.retry import backoff
from ravencore.status import now_us

log = logging.getLogger("raven.collector")

FRAMES_AT_A_TIME = 64
MOST_AHEAD = 2_000
"""Records that an heir brings before the connection that it is to replace: it is not read beyond that."""
RETRY_FIRST_S, RETRY_CAP_S = 0.25, 30.0
OPEN_TIMEOUT_S, CLOSE_TIMEOUT_S = 10.0, 1.0
MAX_FRAME_BYTES = 32 << 20
"""Above any frame of a venue: a whole book of Coinbase is some megabytes."""
STEADY_S = 20.0
"""A connection that has stood for so long serves, even where nothing happens."""
BLOCKED_S, BLOCKED_LATELY_S = 5.0, 60.0
"""A connection lost so soon after it was not read for so long was lost to backpressure."""
OK = 200
CLIENT_ERRORS = range(400, 500)
TOO_MANY = frozenset({418, 429})


class Bonds(NamedTuple):
    """What links of a source share, and how they call upon the one who holds them."""

    gate: Gate
    taker: Taker
    pulse: Pulse
    tell: Callable[[str], None]
    renew: Callable[["Link", str], None]
    """This link's connection will end: replace it."""
    move: Callable[["Link", Feed], None]
    """This link's feed is to be had elsewhere."""
    numbers: Iterator[int]
    """Of connections, each used once."""
    life_s: float
    failures_allowed: int
    tap: Tap | None = None


class Link:
    """Keeps a session connected while anything is wanted of it.

    All links take turns on one event loop, FRAMES_AT_A_TIME frames each: a symbol that prints thousands of trades a
    second holds up others for no longer than that. A link with an `heir` ends with its connection.
    """

    def __init__(self, session: Session, bonds: Bonds) -> None:
        self.session = session
        self.reconnects = 0
        self.failures = 0
        """Attempts and connections in a row that brought no record and did not last."""
        self.given_up: str | None = None
        """Why it is not tried any more, until `wake`."""
        self.away: str | None = None
        """Why there is no connection, where one is wanted."""
        self.heir: Link | None = None
        self.opened_at = 0.0
        self._bonds = bonds
        self._limits = session.source.limits
        self._gate, self._outlet, self._pulse, self._tell = bonds.gate, bonds.taker, bonds.pulse, bonds.tell
        self._messages: AsyncLimiter = self._gate.messages(self._limits)
        self._orders: list[Send | Close] = []
        self._fetching: set[asyncio.Task[None]] = set()
        self._why: Break | None = None
        self._acknowledged = self._served = False
        """Whether this connection has acknowledged anything, and whether it has brought anything, or lasted."""
        self._ping_at = 0.0
        self._pong: asyncio.Future[float] | None = None
        self._frames_at_ping = 0
        self._blocked_at = float("-inf")
        self._stop = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._wake, self._unwanted = asyncio.Event(), asyncio.Event()

    @property
    def leads(self) -> bool:
        """Whether this heir is far ahead of the connection that it is to replace, which then has much unread."""
        return self.session.lead >= MOST_AHEAD and self.session.listens

    def wake(self) -> None:
        """Something more is wanted of the session; one that was given up is tried again."""
        self.failures, self.given_up = 0, None
        self._unwanted.clear()
        self._wake.set()

    def unwant(self, feed: Feed) -> None:
        """End a feed; a connection that is waited for and nothing is wanted of any more is given up."""
        self.session.unwant(feed)
        if self.session.idle:
            self._unwanted.set()

    async def run(self) -> None:
        """Be connected while anything is wanted, until stopped."""
        tasks = [asyncio.create_task(self._pump()), asyncio.create_task(self._keep_connected())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            # Answers that are on their way to an heir are still waited for.
            for task in tasks if self.heir is not None else [*tasks, *self._fetching]:
                task.cancel()
            await asyncio.gather(*tasks, *self._fetching, return_exceptions=True)

    async def _keep_connected(self) -> None:
        if self.failures:
            await self._while_wanted(asyncio.sleep(self._pause_s()))
        while not self._stop.is_set():
            await self._once()

    async def stop(self) -> None:
        """Connect no more and close the connection; `run` takes in what has come and returns."""
        self._stop.set()
        self._wake.set()
        if self._socket is not None:
            await self._socket.close()

    def last_words(self) -> None:
        """Tell of breaks that last; what comes after is no news of this collector."""
        self._do(self.session.closing(now_us()))

    def flush(self) -> None:
        """Hold nothing back any longer, after `run` has ended."""
        self._do(self.session.flush(now_us()))

    def crashed(self, text: str) -> None:
        """An error of ours ended `run`: the connection is gone, and `run` may be called again."""
        self._socket = None
        self._lost(Break("DISCONNECT", text[:300]))
        self.fail(text)

    def fail(self, text: str) -> None:
        """Something went wrong: once too often, and the link is given up."""
        self.away = text
        self.failures += 1
        self._tell(text)
        if self.failures >= self._bonds.failures_allowed:
            self.given_up = f"given up after {self.failures} failures in a row, the last: {text}"
            self.away = self.given_up
            self._tell(self.given_up)

    async def _once(self) -> None:
        """One connection, and the wait for the next."""
        self._wake.clear()
        if self.session.idle or self.given_up is not None:
            self.away = self.given_up
            await self._wake.wait()
            return
        await self._while_wanted(self._gate.may_connect(self.session.url))
        if not self._stop.is_set() and not self.session.idle:
            await self._connection()
        if not self.session.idle and not self._stop.is_set():
            self.reconnects += 1
            await self._while_wanted(asyncio.sleep(self._pause_s()))

    def _pause_s(self) -> float:
        delays = backoff(RETRY_FIRST_S, RETRY_CAP_S, random.Random())
        return [next(delays) for _ in range(min(self.failures, 12) + 1)][-1]

    async def _while_wanted(self, waiting: Coroutine[None, None, None]) -> None:
        """Wait for this, but no longer than until `stop`, or until nothing is wanted any more."""
        tasks = [asyncio.create_task(one) for one in (waiting, self._stop.wait(), self._unwanted.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    async def _connection(self) -> None:
        """One connection from opening to end."""
        url = self.session.url
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
                await self._talk(socket, f"{url}#{next(self._bonds.numbers)}")
        except InvalidStatus as error:
            self._gate.heard(error.response.status_code, error.response.headers)
            if error.response.status_code not in TOO_MANY:
                self._gate.failed(url)
            self.fail(f"{url} refuses the connection: {error}")
        except (OSError, WebSocketException, TimeoutError) as error:
            self._gate.failed(url)
            self.fail(f"{url} cannot be reached: {str(error) or type(error).__name__}")

    async def _talk(self, socket: ClientConnection, name: str) -> None:
        log.info("connected: %s", name)
        self._why, self._acknowledged, self._served = None, False, False
        self._orders.clear()
        self._ping_at, self._pong = self._pulse.now + self._limits.ping_seconds, None
        self.opened_at = time.monotonic()
        self._do(self.session.opened(name, self._pulse.now, now_us()))
        self._socket = socket
        try:
            await self._read(socket)
        except ConnectionClosed as error:
            why = self._why or self._cause(error)
        finally:
            self._socket = None
        if not self._served:
            self._note_service()
        self._lost(why)
        log.info("disconnected: %s", name)
        self._judge(name, why)

    def _judge(self, name: str, why: Break) -> None:
        """Count a connection that has ended: one that is accepted and brings nothing is a failure like any other."""
        if self._served:
            self.failures = 0
        if self.session.idle or self._stop.is_set():
            return
        if self._served or why.cause == "BACKPRESSURE":
            self._tell(f"{name}: {why.detail}")
            return
        if not self._acknowledged:
            self._gate.failed(self.session.url)
        self.fail(f"{self.session.url} accepts connections and serves nothing: {why.detail}")

    def _note_service(self) -> None:
        """Note a connection's first acknowledgement, and then its first record, or that it has lasted without one.

        A handshake alone, or a greeting, is no service; nor is an acknowledgement, after which a venue may end it.
        """
        lines = self.session.desk.lines.values()
        if not self._acknowledged and any(line.flowing or line.phase in ("live", "ending") for line in lines):
            self._acknowledged, self.away = True, None
            self._gate.worked(self.session.url)
        lasts = self._acknowledged and time.monotonic() - self.opened_at >= STEADY_S
        self._served = lasts or any(line.flowing for line in lines)

    def _lost(self, why: Break) -> None:
        if self.heir is None:
            self._do(self.session.lost(why, now_us()))
            return
        self._do(self.session.bequeath(self.heir.session, why, self._pulse.now, now_us()))
        self._stop.set()

    def _cause(self, error: ConnectionClosed) -> Break:
        if time.monotonic() - self._blocked_at < BLOCKED_LATELY_S:
            return Break("BACKPRESSURE", f"Kafka took nothing for too long, and the connection was lost: {error}"[:300])
        return Break("DISCONNECT", f"the connection was lost: {error}"[:300])

    async def _read(self, socket: ClientConnection) -> NoReturn:
        session, outlet, pulse, tap = self.session, self._outlet, self._pulse, self._bonds.tap
        while True:
            for _ in range(FRAMES_AT_A_TIME):
                frame = await socket.recv(decode=False)
                received_ns = time.time_ns()
                if tap is not None:
                    tap.frame(received_ns, frame)
                self._do(session.receive(frame, received_ns // 1000, pulse.now))
                if not self._served:
                    self._note_service()
                if outlet.blocked:
                    await self._ready()
            # `recv` does not yield while it has frames, and there may be thousands.
            await asyncio.sleep(0)
            while self.leads:
                await self._pulse.beat()
                session.held_back(pulse.now)

    async def _ready(self) -> None:
        began = time.monotonic()
        await self._outlet.ready()
        if time.monotonic() - began > BLOCKED_S:
            self._blocked_at = time.monotonic()

    async def _pump(self) -> None:
        """Let the session's time go on, say what it wants said, ping, and see to it that no connection gets too old."""
        while True:
            if self.session.at_rest and not self._fetching:
                await self._wake.wait()
            await self._pulse.beat()
            self._do(self.session.tick(self._pulse.now, now_us()))
            if (socket := self._socket) is not None:
                with contextlib.suppress(ConnectionClosed):
                    # `_read` learns of it as well, after all that came before.
                    await self._obey(socket)
                    await self._ping(socket)
                if self.heir is None and time.monotonic() - self.opened_at > self._bonds.life_s:
                    self._bonds.renew(self, f"it is {self._bonds.life_s:g} s old")

    async def _obey(self, socket: ClientConnection) -> None:
        orders, self._orders = self._orders, []
        for order in orders:
            if isinstance(order, Send):
                await self._messages.acquire()
                await socket.send(order.text)
            else:
                self._why = order.why or NOT_DEMANDED
                await socket.close()

    async def _ping(self, socket: ClientConnection) -> None:
        """Close a connection that has brought neither a pong nor a frame since the last ping.

        A pong alone may be late: it comes after all that is unread.
        """
        if self._pulse.now < self._ping_at:
            return
        if self._pong is not None and not self._pong.done() and self.session.frames == self._frames_at_ping:
            self._why = Break("DISCONNECT", "a ping was left unanswered")
            await socket.close()
            return
        self._pong = asyncio.ensure_future(await socket.ping())
        self._ping_at = self._pulse.now + self._limits.ping_seconds
        self._frames_at_ping = self.session.frames

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Order):
                self._heed(action)
            else:
                self._outlet.put(self.session.source.venue, action)

    def _heed(self, order: Order) -> None:
        if isinstance(order, Send | Close):
            self._orders.append(order)
        elif isinstance(order, Renew):
            self._bonds.renew(self, f"the venue says {order.reason}")
        elif isinstance(order, Move):
            self._bonds.move(self, order.feed)
        else:
            task = asyncio.create_task(self._fetch(order))
            self._fetching.add(task)
            task.add_done_callback(self._fetching.discard)

    async def _fetch(self, order: FetchTrades | FetchBook) -> None:
        """Ask the venue's REST, and give the session its answer, or that there is none, whatever becomes of this."""
        try:
            await self._ask(order)
        except BaseException as error:
            self._do(self._answered(order, 0, b""))
            if not isinstance(error, Exception):
                raise
            log.exception("a question to %s failed", self.session.source.name)
            self._tell(f"{self.session.source.name}: {type(error).__name__}: {error}")

    async def _ask(self, order: FetchTrades | FetchBook) -> None:
        session, base = self.session, self._gate.endpoints.rest_url
        source = session.source
        if isinstance(order, FetchTrades):
            assert isinstance(source, HasHistory)
            get = source.history(base, order.symbol, order.span)
        else:
            assert isinstance(source, HasSnapshots)
            get = source.snapshot(base, order.feed.symbol)
        try:
            status, body = await self._gate.get(get)
        except Unavailable as error:
            self._tell(str(error))
            status, body = 0, b""
        await self._outlet.ready()
        if status == OK and self._bonds.tap is not None:
            self._bonds.tap.body(time.time_ns(), get.url, body)
        if status != OK:
            self._tell(f"{get.url} answers {status}")
        self._do(self._answered(order, status, body))

    def _answered(self, order: FetchTrades | FetchBook, status: int, body: bytes) -> Iterable[Action]:
        session, now = self.session, self._pulse.now
        if isinstance(order, FetchBook):
            books = session.books
            return books.told(order, body, now_us(), now) if status == OK else books.not_told(order, now)
        if status == OK:
            return session.asking.told(order, body, now_us(), now)
        refused = status in CLIENT_ERRORS and status not in TOO_MANY
        asking = session.asking
        return asking.told_nothing(order, now_us(), now) if refused else asking.not_told(order, now)
