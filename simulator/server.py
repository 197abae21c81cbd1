"""The shell: the only file with sockets and clocks. WebSocket and REST of one venue on one port of the loopback device.

Playback starts when the trade stream of every symbol is subscribed. At speed "max" it goes as fast as clients read and
waits while a stream that was subscribed has no listener: nothing is lost over a cut. At 1x and Nx it follows the
frames' times and waits for nobody.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from simulator.contract import Dialect, Disconnect, Frame, Market, Session
from simulator.exchange import Exchange
from simulator.faults import Action, inject

LOOPBACK = "127.0.0.1"
BATCH_FRAMES = 256
WRITE_BUFFER_BYTES = 1 << 20
MAX_UNREAD_BYTES = 64 << 20
EARLY_SECONDS = 0.0005
TICK_SECONDS = 0.25
CUT_LINGER_SECONDS = 10.0
TEXT, BINARY, PING, PONG = 0x81, 0x82, 0x89, 0x8A

log = logging.getLogger("simulator")


@dataclass(frozen=True)
class Settings:
    """How to play. `speed` None means as fast as clients read; `duration_ns` is market time."""

    speed: float | None = 1.0
    seed: int = 0
    faults: Mapping[str, float | int] = field(default_factory=dict)
    duration_ns: int | None = None
    port: int = 0
    tick_seconds: float = TICK_SECONDS


def header(opcode: int, length: int) -> bytes:
    """The header of an unmasked, unfragmented WebSocket frame (RFC 6455, 5.2)."""
    if length < 126:
        return bytes((opcode, length))
    if length < 65536:
        return bytes((opcode, 126)) + length.to_bytes(2, "big")
    return bytes((opcode, 127)) + length.to_bytes(8, "big")


class Connection:
    """One client: frames are gathered here and written together."""

    def __init__(self, session: Session, request: web.Request) -> None:
        assert request.transport is not None
        self.session = session
        self.lost = False
        self.heard: set[str] = set()
        self._transport = request.transport
        self._writer = request.writer
        self._queue: list[bytes] = []
        # WebSocketResponse would make one system call per frame; what it needs to know of a frame is only its order.
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def add(self, frame: Frame) -> None:
        message = self.session.encode(frame)
        self._queue.append(header(BINARY if frame.binary else TEXT, len(message)))
        self._queue.append(message)

    def write(self) -> None:
        if self._queue and not self._transport.is_closing():
            self._transport.write(b"".join(self._queue))
        self._queue.clear()

    def write_now(self, opcode: int, message: bytes) -> None:
        """Send this after all that was added before."""
        self._queue += (header(opcode, len(message)), message)
        self.write()

    @property
    def ended(self) -> bool:
        return self.lost or self._transport.is_closing()

    @property
    def unread_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    async def drain(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def cut(self) -> None:
        """End it without a close frame. All that was written still arrives: FIN goes out after it, and reading goes on,
        because closing a socket with unread input would send RST and take data away from the client."""
        self.write()
        self.lost = True
        if not self._transport.is_closing():
            self._transport.write_eof()

    def abort(self) -> None:
        self.lost = True
        self._transport.abort()


class Server:
    """`async with Server(...) as server`: serves at server.port, plays, and stops at the end of the block."""

    def __init__(self, dialect: Dialect, market: Market, settings: Settings) -> None:
        self.dialect = dialect
        self.market = market
        self.settings = settings
        self.exchange = Exchange(dialect, market)
        self.state = "waiting"
        self.port = 0
        self._connections: set[Connection] = set()
        self._accepted = 0
        self._routes: dict[str, list[Connection]] = {}
        self._required = {dialect.trade_stream(symbol) for symbol in market.instruments}
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    async def __aenter__(self) -> "Server":
        app = web.Application()
        app.router.add_get("/sim/stats", self._show_stats)
        app.router.add_get("/sim/health", self._show_health)
        app.router.add_get("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, self.settings.port).start()
        self.port = self._runner.addresses[0][1]
        self._tasks = [asyncio.create_task(self._play()), asyncio.create_task(self._keep_alive())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._connections):
            connection.abort()
        assert self._runner is not None
        await self._runner.cleanup()

    async def wait(self) -> None:
        """Until playback or keep-alive fails; neither returns while the server is up. Raises what they raised."""
        await asyncio.gather(*self._tasks)

    def environment(self) -> dict[str, str]:
        return self.dialect.environment(self.address) | {"RAVEN_SIMULATOR_URL": f"http://{self.address}"}

    # HTTP

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._serve_socket(request)
        status, body = self.dialect.answer(request.path, dict(request.query), self.exchange)
        return web.Response(status=status, body=body, content_type="application/json")

    async def _show_health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "state": self.state})

    async def _show_stats(self, _request: web.Request) -> web.Response:
        return web.json_response(self.stats())

    def stats(self) -> dict[str, Any]:
        exchange = self.exchange
        report = exchange.ledger.report()
        for symbol, entry in report["symbols"].items():
            entry["depth20"] = exchange.depth20_source(symbol)
            entry["book_holes"] = exchange.book_holes(symbol)
        moment = datetime.fromtimestamp(exchange.time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
        return {
            "venue": self.dialect.venue,
            "source": self.market.source,
            "speed": self.settings.speed or "max",
            "state": self.state,
            "waiting_for": sorted(self._missing()) if self.state != "done" else [],
            "position": {"frames": exchange.ledger.frames_issued, "time_ns": exchange.time_ns, "time": moment},
            "connections": {"open": len(self._connections), "accepted": self._accepted},
            "notes": list(self.market.notes),
            **report,
        }

    # Connections

    async def _serve_socket(self, request: web.Request) -> web.StreamResponse:
        try:
            session = self.dialect.connect(request.path, dict(request.query), time.monotonic())
        except LookupError:
            return web.Response(status=404)
        socket = web.WebSocketResponse(compress=False, autoping=False)
        await socket.prepare(request)
        connection = Connection(session, request)
        self._connections.add(connection)
        self._accepted += 1
        self._listen(connection, session.streams)
        try:
            await self._converse(connection, socket)
        finally:
            self._leave(connection)
        return socket

    async def _converse(self, connection: Connection, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if connection.lost:
                continue
            try:
                self._hear(connection, message.type, message.data)
            except Disconnect as end:
                log.info("disconnecting a client: %s", end.reason)
                await socket.close(code=end.code, message=end.reason.encode())

    def _hear(self, connection: Connection, kind: WSMsgType, data: Any) -> None:
        now = time.monotonic()
        session = connection.session
        if kind is WSMsgType.PING:
            session.ping(now)
            connection.write_now(PONG, bytes(data))
        elif kind is WSMsgType.PONG:
            session.pong(bytes(data), now)
        elif kind in {WSMsgType.TEXT, WSMsgType.BINARY}:
            connection.write_now(TEXT, session.receive(data, now))
            self._unlisten(connection, connection.heard - session.streams, for_good=True)
            self._listen(connection, session.streams - connection.heard)

    def _listen(self, connection: Connection, streams: set[str]) -> None:
        for stream in streams:
            self._routes.setdefault(stream, []).append(connection)
        connection.heard |= streams
        self.exchange.subscribe(streams)
        self._required |= streams & self._trade_streams()
        self._changed.set()

    def _unlisten(self, connection: Connection, streams: set[str], for_good: bool) -> None:
        """A stream given up for good no longer holds up a playback at max."""
        for stream in streams:
            self._routes[stream].remove(connection)
        connection.heard -= streams
        self.exchange.unsubscribe(streams)
        if for_good and self.state != "waiting":
            self._required -= {stream for stream in streams if not self._routes[stream]}

    def _leave(self, connection: Connection) -> None:
        self._unlisten(connection, set(connection.heard), for_good=False)
        self._connections.discard(connection)

    def _trade_streams(self) -> set[str]:
        return {self.dialect.trade_stream(symbol) for symbol in self.market.instruments}

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self.settings.tick_seconds)
            now = time.monotonic()
            for connection in list(self._connections):
                self._tick(connection, now)

    def _tick(self, connection: Connection, now: float) -> None:
        try:
            payload = connection.session.tick(now)
        except Disconnect as end:
            log.info("disconnecting a client: %s", end.reason)
            connection.abort()
            return
        if payload is not None:
            connection.write_now(PING, payload)

    # Playback

    def _missing(self) -> set[str]:
        """Streams that playback at max waits for; with nothing required at all it waits for any."""
        return {stream for stream in self._required if not self._routes.get(stream)} or (
            set() if self._required else self._trade_streams()
        )

    async def _all_subscribed(self) -> None:
        for connection in [connection for connection in self._connections if connection.ended]:
            self._leave(connection)
        while missing := self._missing():
            log.info("waiting for a subscriber of %s", ", ".join(sorted(missing)))
            self._changed.clear()
            await self._changed.wait()

    async def _play(self) -> None:
        await self._all_subscribed()
        self.state = "playing"
        log.info("playing at speed %s", self.settings.speed or "max")
        start_ns = time.time_ns() if self.settings.speed == 1.0 else None
        if self.settings.speed is None:
            await self._play_at_will(self._actions(start_ns))
        else:
            await self._play_in_time(self._actions(start_ns), start_ns, self.settings.speed)
        await self._flush()
        self.state = "done"
        log.info(
            "done: %d frames issued, %d sent", self.exchange.ledger.frames_issued, self.exchange.ledger.frames_sent
        )
        await asyncio.Event().wait()

    def _actions(self, start_ns: int | None) -> Iterator[Action]:
        frames = self.market.frames(start_ns)
        duration_ns = self.settings.duration_ns
        if duration_ns is not None:
            end_ns = (start_ns if self._synthetic and start_ns else self.market.begins_ns) + duration_ns
            frames = takewhile(lambda frame: frame.time_ns < end_ns, frames)
        settings = self.settings
        return inject(frames, settings.faults, settings.seed, self.dialect.spoil, self.market.expected_trades)

    @property
    def _synthetic(self) -> bool:
        return self.market.source == "synthetic"

    async def _play_at_will(self, actions: Iterator[Action]) -> None:
        for number, action in enumerate(actions, start=1):
            if action.what == "cut":
                await self._flush()
                self._cut(action)
                await self._all_subscribed()
                continue
            self._send(action)
            if number % BATCH_FRAMES == 0:
                await self._flush()
                await self._all_subscribed()

    async def _play_in_time(self, actions: Iterator[Action], start_ns: int | None, speed: float) -> None:
        base_ns = start_ns if self._synthetic and start_ns else self.market.begins_ns
        base = time.perf_counter()
        for number, action in enumerate(actions, start=1):
            if action.what == "cut":
                self._cut(action)
                continue
            assert action.frame is not None
            early = base + (action.frame.time_ns - base_ns) / (1e9 * speed) - time.perf_counter()
            if early > EARLY_SECONDS or number % BATCH_FRAMES == 0:
                self._write_all()
                await asyncio.sleep(max(early, 0.0))
            self._send(action)

    def _send(self, action: Action) -> None:
        for frame in self.exchange.take(action):
            for connection in self._routes.get(frame.stream, ()):
                connection.add(frame)
                self.exchange.ledger.frames_sent += 1

    def _write_all(self) -> None:
        for connection in list(self._connections):
            connection.write()
            if connection.unread_bytes > MAX_UNREAD_BYTES:
                log.warning("disconnecting a client that left %d bytes unread", connection.unread_bytes)
                connection.abort()

    async def _flush(self) -> None:
        for connection in list(self._connections):
            connection.write()
            await connection.drain()
        # drain returns at once while the buffer has room: requests and pongs need a turn too.
        await asyncio.sleep(0)

    def _cut(self, action: Action) -> None:
        if not self._connections:
            return
        self.exchange.take(action)
        log.info("cutting %d connections", len(self._connections))
        for connection in list(self._connections):
            connection.cut()
            self._leave(connection)
            asyncio.get_running_loop().call_later(CUT_LINGER_SECONDS, connection.abort)


def write_ready_file(text_path: str, environment: Mapping[str, str]) -> None:
    """Tell whoever started us that we serve, and how to reach us. The file appears whole or not at all."""
    path = Path(text_path)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(dict(environment)))
    partial.replace(path)
