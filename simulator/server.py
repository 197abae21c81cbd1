"""The shell: the only file with sockets and clocks. Many venues, WebSocket and REST, on one port of loopback.

Each venue lives under its name: ws://127.0.0.1:PORT/BINANCE_SPOT/ws, http://127.0.0.1:PORT/BINANCE_SPOT/api/v3/time,
and once more, as another route to the same, under BINANCE_SPOT~2. Beside them:

- /sim/stats, /sim/health
- /sim/ledger?venue=V&channel=C: by symbol, the ids that were delivered, and in `issued` [id, time in microseconds] of
  all that was issued since the symbol was first subscribed
- /sim/books?venue=V&symbol=S: digests of a symbol's book after each of its last changes (simulator/books.py)
- /sim/faults: what was done to clients, as in simulator/faultlog.py

Playback starts when the streams of all feeds that are to be collected are subscribed. At speed "max" it goes as fast
as clients read and waits while a stream that was subscribed has no listener: nothing is lost over a cut. At 1x and Nx
it follows the frames' times and waits for nobody. Faults that take time last by the clock, whatever the speed.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from aiohttp import WSMsgType, web

from simulator.contract import (
    Answer,
    Dialect,
    Disconnect,
    Frame,
    Market,
    Message,
    NumbersFrames,
    Ping,
    SaysFarewell,
    Session,
    SimulatorError,
    Unavailable,
)
from simulator.exchange import Exchange
from simulator.faultlog import Fault
from simulator.faults import CHAOS, TIMES, VENUE_KINDS, Action, Times, check
from simulator.playback import Faults, Plans, Step, make_plans, steps

LOOPBACK = "127.0.0.1"
BATCH_FRAMES = 256
WRITE_BUFFER_BYTES = 1 << 20
MAX_UNREAD_BYTES = 64 << 20
EARLY_SECONDS = 0.0005
TICK_SECONDS = 0.25
CUT_LINGER_SECONDS = 10.0
MILLISECOND_NS = 1_000_000
GOING_AWAY = 1001
HEAD_START_SECONDS = 3.0
OTHER_ROUTE = "~2"
LIFE_MARGIN_SECONDS = 15.0
TOO_MANY = b'{"code":-1003,"msg":"Too many requests."}'
SUMMED = ("gaps", "gap_trades", "duplicates", "dead_letters")
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A

log = logging.getLogger("simulator")


@dataclass(frozen=True)
class Settings:
    """How to play. `speed` None means as fast as clients read; `duration_ns` is market time.

    `feeds` are the sources that will be collected, by name; None: those of scope symbol, or where the venues have none,
    all that have streams. `life_seconds`: the age at which a connection is closed, None: the venue's own.
    """

    speed: float | None = 1.0
    seed: int = 0
    faults: Mapping[str, float | int] = field(default_factory=dict)
    duration_ns: int | None = None
    port: int = 0
    tick_seconds: float = TICK_SECONDS
    feeds: Sequence[str] | None = None
    life_seconds: float | None = None
    times: Times = TIMES


def header(opcode: int, length: int) -> bytes:
    """The header of an unmasked, unfragmented WebSocket frame (RFC 6455, 5.2)."""
    if length < 126:
        return bytes((opcode, length))
    if length < 65536:
        return bytes((opcode, 126)) + length.to_bytes(2, "big")
    return bytes((opcode, 127)) + length.to_bytes(8, "big")


class Connection:
    """One client: frames are gathered here and written together.

    `muted`: streams whose frames it does not get. `notice_seconds`: so long before its end that is announced.
    """

    def __init__(self, venue: "Venue", session: Session, request: web.Request, notice_seconds: float = 0.0) -> None:
        assert request.transport is not None
        self.venue = venue
        self.session = session
        self.lost = False
        self.heard: set[str] = set()
        self.muted: dict[str, Fault] = {}
        self.opened = time.monotonic()
        self.notice_seconds = notice_seconds
        self.announced = False
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
        if self.venue.stall is not None:
            return
        if self._queue and not self.ended:
            self._transport.write(b"".join(self._queue))
        self._queue.clear()

    def write_now(self, opcode: int, message: bytes) -> None:
        """Send this after all that was added before."""
        self._queue += (header(opcode, len(message)), message)
        self.write()

    def say(self, messages: Sequence[Message]) -> None:
        """Send what the session says of its own."""
        for message in messages:
            if isinstance(message, Frame):
                if message.stream not in self.muted:
                    self.venue.hand(message, [self])
            elif isinstance(message, Ping):
                self._queue += (header(PING, len(message.payload)), message.payload)
            else:
                self._queue += (header(TEXT, len(message)), message)
        self.write()

    def announce_end(self) -> bool:
        """Say that it will be closed; False where the venue has no words for it."""
        self.announced = True
        words = self.session.farewell() if isinstance(self.session, SaysFarewell) else ()
        self.say(words)
        return bool(words)

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
            with contextlib.suppress(OSError):  # the client was quicker
                self._transport.write_eof()

    def close(self, end: Disconnect) -> None:
        """Say why with a close frame, and wait for nothing."""
        reason = end.code.to_bytes(2, "big") + end.reason.encode()
        self.write_now(CLOSE, reason)
        self.cut()

    def abort(self) -> None:
        self.lost = True
        self._transport.abort()


class Venue:
    """One venue that is served: who listens to what, and which streams must be listened to."""

    def __init__(self, dialect: Dialect, market: Market, settings: Settings) -> None:
        self.dialect = dialect
        self.market = market
        self.exchange = Exchange(dialect, market, settings.speed or 1.0, settings.times)
        self.connections: set[Connection] = set()
        self.accepted = 0
        self.routes: dict[str, list[Connection]] = {}
        self.required: set[str] = set()
        self.awaitable: set[str] = set()
        """What is awaited from its first subscription on, so that a playback at max loses nothing over a cut."""
        self.stall: Fault | None = None
        self.limit: Fault | None = None
        self.limit_ends = 0.0
        self._due: list[tuple[Frame, list[Connection]]] = []

    def require(self, sources: Sequence[str]) -> None:
        """Let playback wait for the streams of these sources, as far as they are this venue's."""
        for source in sources:
            self.required |= self.streams_of(source)
        self.awaitable = set().union(*(self.streams_of(source) for source in self.streaming()))

    def streams_of(self, source: str) -> set[str]:
        scope = self.dialect.sources.get(source, "poll")
        if scope == "poll":
            return set()
        market = self.market
        if scope in {"symbol", "books"}:
            return self.dialect.awaited(source, {symbol: market.instruments[symbol] for symbol in market.traded})
        streams = self.dialect.awaited(source, market.instruments)
        return streams if market.streams is None else streams & market.streams

    def _scoped(self, *scopes: str) -> list[str]:
        return [source for source, scope in self.dialect.sources.items() if scope in scopes]

    def served(self) -> list[str]:
        """The sources that there is anything for."""
        symbols = self._scoped("symbol", "books") if self.market.traded else []
        markets = [source for source in self._scoped("market") if self.streams_of(source)]
        streams = self.market.streams
        polled = streams is None or any(stream.startswith("rest:") for stream in streams)
        return symbols + markets + (self._scoped("poll") if polled else [])

    def by_symbol(self) -> list[str]:
        return self._scoped("symbol")

    def as_a_whole(self) -> list[str]:
        return self._scoped("market")

    def streaming(self) -> list[str]:
        return self._scoped("symbol", "books", "market")

    def missing(self) -> set[str]:
        listeners = self.exchange.listeners
        return {stream for stream in self.required if not listeners[stream]}

    def listen(self, connection: Connection, streams: set[str]) -> None:
        for stream in streams:
            self.routes.setdefault(stream, []).append(connection)
            self._cure(connection, stream)
        connection.heard |= streams
        self.exchange.subscribe(streams)
        self.required |= streams & self.awaitable

    def _cure(self, connection: Connection, stream: str) -> None:
        """A new subscription may end what mutes a stream."""
        faults, now_ns = self.exchange.faults, self.exchange.time_ns
        for other in self.connections:
            fault = other.muted.get(stream)
            if fault is not None and other is not connection:
                faults.end(fault, now_ns, ended_by="reconnect")
            elif fault is not None and fault.details["cure"] == "resubscribe":
                del other.muted[stream]
                faults.end(fault, now_ns, ended_by="resubscribe")

    def unlisten(self, connection: Connection, streams: set[str], for_good: bool, fault: Fault | None = None) -> None:
        """A stream given up for good no longer holds up a playback at max."""
        for stream in streams:
            self.routes[stream].remove(connection)
        connection.heard -= streams
        self.exchange.unsubscribe(streams, fault)
        if for_good:
            self.required -= {stream for stream in streams if not self.routes[stream]}

    def leave(self, connection: Connection, fault: Fault | None = None) -> None:
        """It is gone, because of a fault or of its own will: then because of what it could no longer bear."""
        fault = fault or self.stall or next(iter(connection.muted.values()), None)
        self.unlisten(connection, set(connection.heard), for_good=False, fault=fault)
        self.connections.discard(connection)
        for mute in connection.muted.values():
            self.exchange.faults.end(mute, self.exchange.time_ns, ended_by="left")

    def send(self, action: Action) -> None:
        frames = self.exchange.take(action)
        for frame in self.exchange.skipped:
            self._skip(frame)
        for frame in frames:
            connections = self.routes.get(frame.stream, ())
            reached = [one for one in connections if frame.stream not in one.muted]
            self.exchange.ledger.frames_sent += len(reached)
            if reached:
                self.hand(frame, reached)
            elif connections and frame.kind != "garbage":
                self._keep_back(frame, connections[0].muted[frame.stream])

    def _keep_back(self, frame: Frame, mute: Fault) -> None:
        mute.note(frame.marks)
        if not mute.going_on:
            self.exchange.faults.prolong(mute, frame.time_ns)

    def _skip(self, frame: Frame) -> None:
        for connection in self.routes.get(frame.stream, ()):
            if isinstance(connection.session, NumbersFrames):
                connection.session.skip(frame)

    def hand(self, frame: Frame, connections: list[Connection]) -> None:
        """Give a frame to these; while the venue stalls it is not delivered yet."""
        for connection in connections:
            connection.add(frame)
        if self.stall is None:
            self.exchange.delivered(frame.marks)
        else:
            self._due.append((frame, connections))

    def mute(self, action: Action) -> None:
        """Keep a stream from the one connection that is subscribed to it."""
        connections = self.routes.get(action.stream, [])
        if len(connections) == 1 and action.stream not in connections[0].muted:
            connections[0].muted[action.stream] = self.exchange.mute(action)

    def resume(self) -> None:
        """Hand over all that was due while the venue had stalled."""
        assert self.stall is not None
        fault, self.stall = self.stall, None
        for frame, connections in self._due:
            if any(one in self.connections and not one.ended for one in connections):
                self.exchange.delivered(frame.marks)
            else:
                fault.lose(frame.marks)
        self._due.clear()
        for connection in self.connections:
            connection.write()
        self.exchange.faults.end(fault, self.exchange.time_ns)

    def refuse(self, now: float) -> web.Response | None:
        """The answer to everybody while there is a limit."""
        if self.limit is None:
            return None
        self.limit.details["refused"] += 1
        seconds = max(1, math.ceil(self.limit_ends - now))
        return web.Response(
            status=429, body=TOO_MANY, content_type="application/json", headers={"Retry-After": str(seconds)}
        )

    def lift_limit(self) -> None:
        """Answer again."""
        assert self.limit is not None
        fault, self.limit = self.limit, None
        self.exchange.faults.end(fault, self.exchange.time_ns)

    def stats(self) -> dict[str, Any]:
        exchange = self.exchange
        report = exchange.ledger.report()
        for symbol, entry in report["symbols"].items():
            entry["depth20"] = exchange.depth20_source(symbol)
            entry["book_holes"] = exchange.book_holes(symbol)
        return {
            "source": self.market.source,
            "sources": self.served(),
            "waiting_for": sorted(self.missing()),
            "position": _position(exchange),
            "connections": {"open": len(self.connections), "accepted": self.accepted},
            "notes": list(self.market.notes),
            "unmet": sorted(exchange.unmet),
            **report,
        }


def _position(exchange: Exchange) -> dict[str, Any]:
    moment = datetime.fromtimestamp(exchange.time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    return {"frames": exchange.ledger.frames_issued, "time_ns": exchange.time_ns, "time": moment}


class Server:
    """`async with Server(...) as server`: serves at server.port, plays, and stops at the end of the block."""

    def __init__(self, markets: Sequence[tuple[Dialect, Market]], settings: Settings) -> None:
        self.settings = settings
        check(settings.faults, settings.speed, settings.duration_ns is not None)
        self.venues = {dialect.venue: Venue(dialect, market, settings) for dialect, market in markets}
        self.state = "waiting"
        self.port = 0
        self._faults = Faults(settings.faults, settings.seed, settings.speed or 1.0, settings.times)
        self._plans: Plans = {}
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._rng = Random(f"server/{settings.seed}")
        self._busy_until = 0.0
        feeds = self._feeds()
        for venue in self.venues.values():
            venue.require(feeds)

    def _feeds(self) -> Sequence[str]:
        """What playback waits for. Raises SimulatorError for a source that no venue here has."""
        venues = self.venues.values()
        known = {source for venue in venues for source in venue.dialect.sources}
        if self.settings.feeds is not None:
            if unknown := [feed for feed in self.settings.feeds if feed not in known]:
                raise SimulatorError(f"no feed {', '.join(unknown)} here; there are {', '.join(sorted(known))}")
            return self.settings.feeds
        by_symbol = [source for venue in venues for source in venue.by_symbol()]
        return by_symbol or [source for venue in venues for source in venue.as_a_whole()]

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def connections(self) -> list[Connection]:
        return [connection for venue in self.venues.values() for connection in venue.connections]

    async def __aenter__(self) -> "Server":
        exchanges = [venue.exchange for venue in self.venues.values()]
        # Before anybody listens: who has subscribed may take a pause of many seconds for a fault.
        self._plans = make_plans(exchanges, self._faults, self.settings.duration_ns)
        app = web.Application()
        app.router.add_get("/sim/stats", self._show_stats)
        app.router.add_get("/sim/health", self._show_health)
        app.router.add_get("/sim/ledger", self._show_ledger)
        app.router.add_get("/sim/books", self._show_books)
        app.router.add_get("/sim/faults", self._show_faults)
        app.router.add_get("/{venue}{path:(/.*)?}", self._serve)
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
        for connection in self.connections:
            connection.abort()
        assert self._runner is not None
        await self._runner.cleanup()

    async def wait(self) -> None:
        """Until playback or keep-alive fails; neither returns while the server is up. Raises what they raised."""
        await asyncio.gather(*self._tasks)

    def environment(self) -> dict[str, str]:
        """Settings that point collectors at this simulator."""
        found = {
            "RAVEN_SIMULATOR_URL": f"http://{self.address}",
            # A demand that names no venue means those that are here, and not the real ones beside them.
            "RAVEN_ROUTING__VENUES": json.dumps(list(self.venues)),
        }
        for name, venue in self.venues.items():
            if set(venue.dialect.sources.values()) != {"poll"}:
                path = venue.dialect.socket_path
                found[f"RAVEN_VENUES__{name}__WS_URL"] = f"ws://{self.address}/{name}{path}"
                others = [f"ws://{self.address}/{name}{OTHER_ROUTE}{path}"]
                found[f"RAVEN_VENUES__{name}__OTHER_WS_URLS"] = json.dumps(others)
            found[f"RAVEN_VENUES__{name}__REST_URL"] = f"http://{self.address}/{name}{venue.dialect.rest_path}"
        if (life := self.settings.life_seconds) is not None:
            found["RAVEN_COLLECTOR__CONNECTION_LIFE_S"] = f"{max(life - LIFE_MARGIN_SECONDS, life / 2):g}"
        return found

    # HTTP

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        venue = self.venues.get(request.match_info["venue"].removesuffix(OTHER_ROUTE))
        if venue is None:
            return web.json_response({"error": f"no such venue; there are {', '.join(self.venues)}"}, status=404)
        path = request.match_info["path"] or "/"
        if (refusal := venue.refuse(time.monotonic())) is not None:
            return refusal
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._serve_socket(venue, path, request)
        return _response(venue.exchange.answer(path, dict(request.query), time.monotonic()))

    async def _show_health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "state": self.state})

    async def _show_stats(self, _request: web.Request) -> web.Response:
        return web.json_response(self.stats())

    async def _show_ledger(self, request: web.Request) -> web.Response:
        name, channel = request.query.get("venue", ""), request.query.get("channel", "")
        venue = self.venues.get(name)
        if venue is None or not channel:
            return web.json_response({"error": f"?venue=V&channel=C, with V of {', '.join(self.venues)}"}, status=404)
        ledger = venue.exchange.ledger
        told = {"venue": name, "channel": channel, "symbols": ledger.told(channel), "issued": ledger.listed(channel)}
        return web.json_response(told)

    async def _show_books(self, request: web.Request) -> web.Response:
        venue = self.venues.get(request.query.get("venue", ""))
        digests = venue.exchange.digests(request.query.get("symbol", "")) if venue is not None else None
        if digests is None:
            return web.json_response({"error": "?venue=V&symbol=S: there is no such book"}, status=404)
        return web.json_response(dict(digests))

    async def _show_faults(self, _request: web.Request) -> web.Response:
        rows = [row for one in self.venues.values() for row in one.exchange.faults.report(one.exchange.time_ns)]
        return web.json_response(sorted(rows, key=lambda row: row["from_ns"]))

    def stats(self) -> dict[str, Any]:
        """The venues' own figures, and their sums."""
        venues = {name: venue.stats() for name, venue in self.venues.items()}
        if self.state == "done":
            for entry in venues.values():
                entry["waiting_for"] = []
        rows = list(venues.values())
        ahead = max((venue.exchange for venue in self.venues.values()), key=lambda exchange: exchange.time_ns)
        return {
            "source": rows[0]["source"],
            "speed": self.settings.speed or "max",
            "state": self.state,
            "waiting_for": [stream for row in rows for stream in row["waiting_for"]],
            "position": _position(ahead) | {"frames": sum(row["frames_issued"] for row in rows)},
            "connections": {key: sum(row["connections"][key] for row in rows) for key in ("open", "accepted")},
            "notes": [note for row in rows for note in row["notes"]],
            "injected": {key: sum(row["injected"][key] for row in rows) for key in rows[0]["injected"]},
            "observable": {key: sum(row["observable"][key] for row in rows) for key in SUMMED},
            "frames": sum(row["frames"] for row in rows),
            "frames_issued": sum(row["frames_issued"] for row in rows),
            "venues": venues,
        }

    # Connections

    async def _serve_socket(self, venue: Venue, path: str, request: web.Request) -> web.StreamResponse:
        now = time.monotonic()
        try:
            session = venue.dialect.connect(path, dict(request.query), now, venue.exchange)
        except LookupError:
            return web.Response(status=404)
        except Unavailable as refusal:
            return _response(refusal.answer)
        socket = web.WebSocketResponse(compress=False, autoping=False)
        await socket.prepare(request)
        connection = Connection(venue, session, request, self._notice_seconds())
        venue.connections.add(connection)
        venue.accepted += 1
        connection.say(session.greet(now))
        self._attend(connection)
        try:
            await self._converse(connection, socket)
        finally:
            venue.leave(connection)
        return socket

    def _notice_seconds(self) -> float:
        life = self.settings.life_seconds
        notice = self._rng.uniform(*self.settings.times.notice)
        return notice if life is None else min(notice, life / 2)

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
            messages = session.receive(data, now)
            # First, because a snapshot that follows upon a subscription is no longer muted by what that cures.
            self._attend(connection)
            connection.say(messages)

    def _attend(self, connection: Connection) -> None:
        """Note which streams the session listens to now."""
        streams = connection.session.streams
        given_up, taken_up = connection.heard - streams, streams - connection.heard
        connection.venue.unlisten(connection, given_up, for_good=self.state != "waiting")
        connection.venue.listen(connection, taken_up)
        self._changed.set()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self.settings.tick_seconds)
            now = time.monotonic()
            for connection in self.connections:
                if not connection.lost:
                    self._tick(connection, now)
                if not connection.lost and self.settings.life_seconds is not None:
                    self._age(connection, self.settings.life_seconds)

    def _tick(self, connection: Connection, now: float) -> None:
        try:
            connection.say(connection.session.tick(now))
        except Disconnect as end:
            log.info("disconnecting a client: %s", end.reason)
            connection.close(end)
            self._let_go(connection)

    def _age(self, connection: Connection, life_seconds: float) -> None:
        """Announce a connection's end, or end it, when its time has come."""
        left = life_seconds - (time.monotonic() - connection.opened)
        if left <= connection.notice_seconds and not connection.announced:
            connection.announce_end()
        if left <= 0.0:
            exchange = connection.venue.exchange
            fault = exchange.interrupt("life")
            fault.streams = sorted(connection.heard)
            self._close(connection.venue, [connection], fault)

    def _let_go(self, connection: Connection, fault: Fault | None = None) -> None:
        connection.venue.leave(connection, fault)
        asyncio.get_running_loop().call_later(CUT_LINGER_SECONDS, connection.abort)

    # Playback

    def _missing(self) -> set[str]:
        return {stream for venue in self.venues.values() for stream in venue.missing()}

    async def _all_subscribed(self) -> None:
        """Until every awaited stream has a listener that is still there."""
        for connection in self.connections:
            if connection.ended:
                connection.venue.leave(connection)
        while missing := self._missing():
            log.info("waiting for a subscriber of %s", _some(missing))
            self._changed.clear()
            await self._changed.wait()

    async def _play(self) -> None:
        await self._all_subscribed()
        self.state = "playing"
        log.info("playing at speed %s", self.settings.speed or "max")
        head_start_s = HEAD_START_SECONDS if CHAOS in self._faults.spec else 0.0
        begins_s = time.time() + head_start_s
        start_ns = int(begins_s * 1e3) * MILLISECOND_NS if self.settings.speed == 1.0 else None
        exchanges = [venue.exchange for venue in self.venues.values()]
        played = steps(exchanges, self._faults, start_ns, self.settings.duration_ns, self._plans)
        if self.settings.speed is None:
            await self._play_at_will(played)
        else:
            # Faults look ahead: to make what they see first takes a while, in which clients are to be answered.
            first = await asyncio.to_thread(lambda: list(itertools.islice(played, 1)))
            await asyncio.sleep(begins_s - time.time())
            await self._play_in_time(itertools.chain(first, played), self.settings.speed)
            await asyncio.sleep(self._busy_until - time.monotonic())
        await self._flush()
        for exchange in exchanges:
            exchange.faults.finish(exchange.time_ns)
        self.state = "done"
        ledgers = [exchange.ledger for exchange in exchanges]
        issued, sent = (sum(row.frames_issued for row in ledgers), sum(row.frames_sent for row in ledgers))
        log.info("done: %d frames issued, %d sent", issued, sent)
        await asyncio.Event().wait()

    async def _play_at_will(self, played: Iterator[Step]) -> None:
        for number, step in enumerate(played, start=1):
            venue = self.venues[step.exchange.dialect.venue]
            if step.action.what == "cut":
                await self._flush()
                self._cut(venue)
                await self._all_subscribed()
                continue
            venue.send(step.action)
            if number % BATCH_FRAMES == 0:
                await self._flush()
                await self._all_subscribed()

    async def _play_in_time(self, played: Iterator[Step], speed: float) -> None:
        base = time.perf_counter()
        for number, step in enumerate(played, start=1):
            venue = self.venues[step.exchange.dialect.venue]
            if step.action.what in VENUE_KINDS or step.action.what == "mute":
                self._disturb(venue, step.action)
                continue
            early = base + step.after_ns / (1e9 * speed) - time.perf_counter()
            if early > EARLY_SECONDS or number % BATCH_FRAMES == 0:
                self._write_all()
                await asyncio.sleep(max(early, 0.0))
            venue.send(step.action)

    def _write_all(self) -> None:
        for connection in self.connections:
            connection.write()
            if connection.unread_bytes > MAX_UNREAD_BYTES:
                log.warning("disconnecting a client that left %d bytes unread", connection.unread_bytes)
                connection.abort()

    async def _flush(self) -> None:
        for connection in self.connections:
            connection.write()
            await connection.drain()
        # drain returns at once while the buffer has room: requests and pongs need a turn too.
        await asyncio.sleep(0)

    # Faults of connections

    def _disturb(self, venue: Venue, action: Action) -> None:
        seconds = action.intent.seconds if action.intent is not None else 0.0
        match action.what:
            case "cut":
                self._cut(venue)
            case "mute":
                venue.mute(action)
            case "stall":
                self._write_all()
                venue.stall = venue.exchange.interrupt("stall", seconds=seconds)
                self._later(seconds, venue.resume)
            case "limit":
                self._limit(venue, seconds)
            case _:
                self._announce(venue, seconds)

    def _later(self, seconds: float, call: Callable[..., None], *given: Any) -> None:
        self._busy_until = max(self._busy_until, time.monotonic() + seconds)
        asyncio.get_running_loop().call_later(seconds, call, *given)

    def _cut(self, venue: Venue) -> None:
        if not venue.connections:
            return
        fault = venue.exchange.interrupt("cut")
        self._cut_all(venue, fault)
        venue.exchange.faults.end(fault, venue.exchange.time_ns)

    def _cut_all(self, venue: Venue, fault: Fault) -> None:
        log.info("cutting %d connections of %s", len(venue.connections), venue.dialect.venue)
        for connection in list(venue.connections):
            connection.cut()
            self._let_go(connection, fault)

    def _limit(self, venue: Venue, seconds: float) -> None:
        log.info("%s answers nobody for %.1f s", venue.dialect.venue, seconds)
        venue.limit = venue.exchange.interrupt("limit", seconds=seconds, refused=0)
        venue.limit_ends = time.monotonic() + seconds
        self._cut_all(venue, venue.limit)
        self._later(seconds, venue.lift_limit)

    def _announce(self, venue: Venue, seconds: float) -> None:
        """Say to all connections that they will be closed, and close them in a while."""
        connections = list(venue.connections)
        fault = venue.exchange.interrupt("close", seconds=seconds)
        told = [connection.announce_end() for connection in connections]
        fault.details["announced"] = any(told)
        self._later(seconds, self._close, venue, connections, fault)

    def _close(self, venue: Venue, connections: Sequence[Connection], fault: Fault) -> None:
        for connection in connections:
            if connection in venue.connections and not connection.lost:
                connection.close(Disconnect(GOING_AWAY, "the connection has come of age"))
                self._let_go(connection, fault)
        venue.exchange.faults.end(fault, venue.exchange.time_ns)


def _response(answer: Answer) -> web.Response:
    headers = dict(answer.headers)
    return web.Response(status=answer.status, body=answer.body, content_type="application/json", headers=headers)


def _some(streams: set[str]) -> str:
    first = sorted(streams)[:10]
    more = f" and {len(streams) - len(first)} more" if len(streams) > len(first) else ""
    return ", ".join(first) + more


def write_ready_file(text_path: str, environment: Mapping[str, str]) -> None:
    """Tell whoever started us that we serve, and how to reach us. The file appears whole or not at all."""
    path = Path(text_path)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(dict(environment)))
    partial.replace(path)
