"""The life of connections: they are greeted, heard, kept alive, and let go."""

import asyncio
import logging
import time
from collections.abc import Sequence
from random import Random
from typing import Any

from aiohttp import WSMsgType, web

from simulator.contract import Answer, Disconnect, Unavailable
from simulator.faultlog import Fault
from simulator.server.connection import PONG, Connection
from simulator.server.settings import Settings
from simulator.server.venue import Venue

MAX_UNREAD_BYTES = 64 << 20
CUT_LINGER_SECONDS = 10.0
GOING_AWAY = 1001

log = logging.getLogger("simulator")


class Clients:
    """The connections of all venues."""

    def __init__(self, venues: Sequence[Venue], settings: Settings) -> None:
        self.venues = venues
        self.settings = settings
        self.changed = asyncio.Event()
        """Set whenever a connection may listen to something else than before."""
        self.play_has_begun = False
        self._rng = Random(f"server/{settings.seed}")

    def all(self) -> list[tuple[Venue, Connection]]:
        return [(venue, connection) for venue in self.venues for connection in venue.connections]

    # From the handshake to the end of the conversation

    async def serve(self, venue: Venue, path: str, request: web.Request) -> web.StreamResponse:
        """A WebSocket, until it ends."""
        now = time.monotonic()
        try:
            session = venue.dialect.connect(path, dict(request.query), now, venue.exchange)
        except LookupError:
            return web.Response(status=404)
        except Unavailable as refusal:
            return response(refusal.answer)
        socket = web.WebSocketResponse(compress=False, autoping=False)
        await socket.prepare(request)
        connection = Connection(session, request, self._notice_seconds())
        venue.admit(connection)
        venue.say(connection, session.greet(now))
        self._attend(venue, connection)
        try:
            await self._converse(venue, connection, socket)
        finally:
            venue.leave(connection)
        return socket

    def _notice_seconds(self) -> float:
        life = self.settings.life_seconds
        notice = self._rng.uniform(*self.settings.times.notice)
        return notice if life is None else min(notice, life / 2)

    async def _converse(self, venue: Venue, connection: Connection, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if connection.lost:
                continue
            try:
                self._hear(venue, connection, message.type, message.data)
            except Disconnect as end:
                log.info("disconnecting a client: %s", end.reason)
                await socket.close(code=end.code, message=end.reason.encode())

    def _hear(self, venue: Venue, connection: Connection, kind: WSMsgType, data: Any) -> None:
        now = time.monotonic()
        session = connection.session
        if kind is WSMsgType.PING:
            session.ping(now)
            connection.queue(PONG, bytes(data))
            connection.write()
        elif kind is WSMsgType.PONG:
            session.pong(bytes(data), now)
        elif kind in {WSMsgType.TEXT, WSMsgType.BINARY}:
            messages = session.receive(data, now)
            # First, because a snapshot that follows upon a subscription is no longer muted by what that cures.
            self._attend(venue, connection)
            venue.say(connection, messages)

    def _attend(self, venue: Venue, connection: Connection) -> None:
        venue.attend(connection, for_good=self.play_has_begun)
        self.changed.set()

    # What is due by the clock

    async def keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self.settings.tick_seconds)
            now = time.monotonic()
            for venue, connection in self.all():
                if not connection.lost:
                    self._tick(venue, connection, now)
                if not connection.lost and self.settings.life_seconds is not None:
                    self._age(venue, connection, self.settings.life_seconds)

    def _tick(self, venue: Venue, connection: Connection, now: float) -> None:
        try:
            venue.say(connection, connection.session.tick(now))
        except Disconnect as end:
            log.info("disconnecting a client: %s", end.reason)
            connection.close(end)
            self._let_go(venue, connection)

    def _age(self, venue: Venue, connection: Connection, life_seconds: float) -> None:
        """Announce a connection's end, or end it, when its time has come."""
        left = life_seconds - (time.monotonic() - connection.opened)
        if left <= connection.notice_seconds and not connection.announced:
            venue.announce_end(connection)
        if left <= 0.0:
            fault = venue.exchange.interrupt("life")
            fault.streams = sorted(connection.heard)
            self.close(venue, [connection], fault)

    # What is done to many

    def write(self) -> None:
        """Send all that was added, and end who does not read it."""
        for _, connection in self.all():
            connection.write()
            if connection.unread_bytes > MAX_UNREAD_BYTES:
                log.warning("disconnecting a client that left %d bytes unread", connection.unread_bytes)
                connection.abort()

    async def flush(self) -> None:
        """Send all that was added, and wait until it is read."""
        for _, connection in self.all():
            connection.write()
            await connection.drain()
        # drain returns at once while the buffer has room: requests and pongs need a turn too.
        await asyncio.sleep(0)

    def cut(self, venue: Venue, fault: Fault) -> None:
        """End all of a venue's connections without a word."""
        log.info("cutting %d connections of %s", len(venue.connections), venue.dialect.venue)
        for connection in list(venue.connections):
            connection.cut()
            self._let_go(venue, connection, fault)

    def close(self, venue: Venue, connections: Sequence[Connection], fault: Fault) -> None:
        """End those of these that are still there with a close frame, and with them the fault."""
        for connection in connections:
            if connection in venue.connections and not connection.lost:
                connection.close(Disconnect(GOING_AWAY, "the connection has come of age"))
                self._let_go(venue, connection, fault)
        venue.exchange.faults.end(fault, venue.exchange.time_ns)

    def _let_go(self, venue: Venue, connection: Connection, fault: Fault | None = None) -> None:
        venue.leave(connection, fault)
        asyncio.get_running_loop().call_later(CUT_LINGER_SECONDS, connection.abort)


def response(answer: Answer) -> web.Response:
    """A venue's answer as HTTP has it."""
    headers = dict(answer.headers)
    return web.Response(status=answer.status, body=answer.body, content_type="application/json", headers=headers)
