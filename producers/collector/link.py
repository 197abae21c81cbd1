"""One connection to a venue at a time, and the session over it."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import NoReturn

from aiolimiter import AsyncLimiter
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from producers.collector.ends import Taker, Tap
from producers.collector.gate import Gate, limiter
from producers.session import NOT_DEMANDED, Action, Close, Send, Session
from producers.tape import Break
from ravencore.retry import backoff
from ravencore.status import now_us

log = logging.getLogger("raven.collector")

PUMP_S = 0.02
STALL_S = 0.1
"""A pause of the event loop beyond this means that the socket may hold much that is unread."""
FRAMES_AT_A_TIME = 64
RETRY_FIRST_S, RETRY_CAP_S = 0.25, 30.0
OPEN_TIMEOUT_S, CLOSE_TIMEOUT_S = 10.0, 1.0
MAX_FRAME_BYTES = 4 << 20
"""Above any frame of a venue; a dead letter of it fits into a message of `outlet.MAX_MESSAGE_BYTES`."""


class Link:
    """Keeps a session connected while anything is wanted of it.

    All links take turns on one event loop, FRAMES_AT_A_TIME frames each: a symbol that prints thousands of trades a
    second holds up others for no longer than that.
    """

    def __init__(
        self, session: Session, gate: Gate, outlet: Taker, tell: Callable[[str], None], tap: Tap | None = None
    ) -> None:
        self.session = session
        self.reconnects = 0
        self.away: str | None = None
        """Why there is no connection, where one is wanted."""
        self._limits = session.source.limits
        self._gate, self._outlet, self._tell, self._tap = gate, outlet, tell, tap
        self._messages: AsyncLimiter = limiter(self._limits.messages)
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

    def wake(self) -> None:
        """Something more is wanted of the session."""
        self._wake.set()

    async def run(self) -> None:
        """Be connected while anything is wanted, until stopped."""
        delays = backoff(RETRY_FIRST_S, RETRY_CAP_S, random.Random())
        while not self._stop.is_set():
            self._wake.clear()
            if self.session.idle:
                self.away = None
                await self._wake.wait()
                continue
            frames_before = self.session.frames
            await self._until_stopped(self._gate.may_connect())
            if not self._stop.is_set():
                await self._connection()
            if self.session.frames > frames_before:
                delays = backoff(RETRY_FIRST_S, RETRY_CAP_S, random.Random())
            if not self.session.idle and not self._stop.is_set():
                self.reconnects += 1
                await self._until_stopped(asyncio.sleep(next(delays)))

    async def _until_stopped(self, waiting: Coroutine[None, None, None]) -> None:
        """Wait for this, but no longer than until `stop`."""
        tasks = [asyncio.create_task(waiting), asyncio.create_task(self._stop.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    async def stop(self) -> None:
        """Connect no more and close the connection; `run` takes in what has come and returns."""
        self._stop.set()
        self._wake.set()
        if self._socket is not None:
            await self._socket.close()

    async def _connection(self) -> None:
        """One connection from opening to end."""
        self._opened += 1
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
                await self._talk(socket, f"{url}#{self._opened}")
        except InvalidStatus as error:
            self._gate.heard(error.response.status_code, error.response.headers)
            self._fail(f"{url} refuses the connection: {error}")
        except (OSError, WebSocketException, TimeoutError) as error:
            self._fail(f"{url} cannot be reached: {str(error) or type(error).__name__}")

    async def _talk(self, socket: ClientConnection, name: str) -> None:
        log.info("connected: %s", name)
        self._socket, self._why = socket, None
        self.away = None
        self._orders.clear()
        self._do(self.session.opened(name, self._time, now_us()))
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
        session, outlet, tap = self.session, self._outlet, self._tap
        while True:
            for _ in range(FRAMES_AT_A_TIME):
                frame = await socket.recv(decode=False)
                received_ns = time.time_ns()
                if tap is not None:
                    tap.frame(received_ns, frame)
                self._do(session.receive(frame, received_ns // 1000, self._time))
                if outlet.blocked:
                    await outlet.ready()
            # `recv` does not yield while it has frames, and there may be thousands.
            await asyncio.sleep(0)

    async def _pump(self, socket: ClientConnection) -> None:
        """Let the session's time go on while the socket is being read, say what it wants said, and ping."""
        self._ping_at, self._pong = self._time + self._limits.ping_seconds, None
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
                await self._messages.acquire()
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
        self._ping_at = self._time + self._limits.ping_seconds
        self._frames_at_ping = self.session.frames

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Send | Close):
                self._orders.append(action)
            else:
                self._outlet.put(self.session.source.venue, action)

    def _fail(self, text: str) -> None:
        self.away = text
        self._tell(text)
