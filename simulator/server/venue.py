"""One venue that is served: who listens to what, which streams must be listened to, and what is kept from whom."""

import math
from collections.abc import Sequence

from simulator.contract import Answer, Dialect, Frame, Market, Message, NumbersFrames, Ping, SaysFarewell
from simulator.exchange import Exchange
from simulator.faultlog import Fault
from simulator.faults import TIMES, Action, Times
from simulator.server.connection import PING, TEXT, Connection

TOO_MANY = b'{"code":-1003,"msg":"Too many requests."}'


class Venue:
    """An exchange and its clients' connections."""

    def __init__(self, dialect: Dialect, market: Market, speed: float = 1.0, times: Times = TIMES) -> None:
        self.dialect = dialect
        self.market = market
        self.exchange = Exchange(dialect, market, speed, times)
        self.connections: set[Connection] = set()
        self.accepted = 0
        self.routes: dict[str, list[Connection]] = {}
        self.required: set[str] = set()
        self.awaitable: set[str] = set()
        """What is awaited from its first subscription on, so that a playback at max loses nothing over a cut."""
        self.stalled: Fault | None = None
        self.limited: Fault | None = None
        self._limit_ends = 0.0
        self._due: list[tuple[Frame, list[Connection]]] = []

    # Streams that are awaited

    def require(self, sources: Sequence[str]) -> None:
        """Let playback wait for the streams of these sources, as far as they are this venue's."""
        for source in sources:
            self.required |= self.streams_of(source)
        streaming = self.scoped("symbol", "books", "market")
        self.awaitable = set().union(*(self.streams_of(source) for source in streaming))

    def streams_of(self, source: str) -> set[str]:
        """What a collector of the source subscribes to; nothing where it polls."""
        scope = self.dialect.sources.get(source, "poll")
        if scope == "poll":
            return set()
        market = self.market
        if scope in {"symbol", "books"}:
            return self.dialect.awaited(source, {symbol: market.instruments[symbol] for symbol in market.traded})
        streams = self.dialect.awaited(source, market.instruments)
        return streams if market.streams is None else streams & market.streams

    def scoped(self, *scopes: str) -> list[str]:
        """Its sources of these scopes."""
        return [source for source, scope in self.dialect.sources.items() if scope in scopes]

    def served(self) -> list[str]:
        """The sources that there is anything for."""
        symbols = self.scoped("symbol", "books") if self.market.traded else []
        markets = [source for source in self.scoped("market") if self.streams_of(source)]
        streams = self.market.streams
        polled = streams is None or any(stream.startswith("rest:") for stream in streams)
        return symbols + markets + (self.scoped("poll") if polled else [])

    def missing(self) -> set[str]:
        """What is waited for."""
        listeners = self.exchange.listeners
        return {stream for stream in self.required if not listeners[stream]}

    # Who comes, listens and goes

    def admit(self, connection: Connection) -> None:
        """It is connected, and listens to nothing yet."""
        self.connections.add(connection)
        self.accepted += 1
        connection.held = self.stalled is not None

    def attend(self, connection: Connection, for_good: bool) -> None:
        """Note which streams its session listens to now. One given up for good no longer holds up a playback at max."""
        streams = connection.session.streams
        given_up, taken_up = connection.heard - streams, streams - connection.heard
        self._unlisten(connection, given_up)
        if for_good:
            self.required -= {stream for stream in given_up if not self.routes[stream]}
        self._listen(connection, taken_up)

    def _listen(self, connection: Connection, streams: set[str]) -> None:
        for stream in streams:
            self.routes.setdefault(stream, []).append(connection)
            self._cure(connection, stream)
        connection.heard |= streams
        self.exchange.subscribe(streams)
        self.required |= streams & self.awaitable

    def _unlisten(self, connection: Connection, streams: set[str], fault: Fault | None = None) -> None:
        for stream in streams:
            self.routes[stream].remove(connection)
        connection.heard -= streams
        self.exchange.unsubscribe(streams, fault)

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

    def leave(self, connection: Connection, fault: Fault | None = None) -> None:
        """It is gone, because of a fault or of its own will: then because of what it could no longer bear."""
        fault = fault or self.stalled or next(iter(connection.muted.values()), None)
        self._unlisten(connection, set(connection.heard), fault)
        self.connections.discard(connection)
        for mute in connection.muted.values():
            self.exchange.faults.end(mute, self.exchange.time_ns, ended_by="left")

    # What is sent

    def send(self, action: Action) -> None:
        """Make an action happen: its frames go to whoever is to get them."""
        frames = self.exchange.take(action)
        for frame in self.exchange.skipped:
            self._skip(frame)
        for frame in frames:
            connections = self.routes.get(frame.stream, ())
            reached = [one for one in connections if frame.stream not in one.muted]
            self.exchange.ledger.frames_sent += len(reached)
            if reached:
                self._hand(frame, reached)
            elif connections and frame.kind != "garbage":
                self._keep_back(frame, connections[0].muted[frame.stream])

    def say(self, connection: Connection, messages: Sequence[Message]) -> None:
        """Send what a connection's session says of its own."""
        for message in messages:
            if isinstance(message, Frame):
                if message.stream not in connection.muted:
                    self._hand(message, [connection])
            elif isinstance(message, Ping):
                connection.queue(PING, message.payload)
            else:
                connection.queue(TEXT, message)
        connection.write()

    def announce_end(self, connection: Connection) -> bool:
        """Say that it will be closed; False where the venue has no words for it."""
        connection.announced = True
        session = connection.session
        words = session.farewell() if isinstance(session, SaysFarewell) else ()
        self.say(connection, words)
        return bool(words)

    def _hand(self, frame: Frame, connections: list[Connection]) -> None:
        """Give a frame to these; while the venue stalls it is not delivered yet."""
        for connection in connections:
            connection.add(frame)
        if self.stalled is None:
            self.exchange.delivered(frame.marks)
        else:
            self._due.append((frame, connections))

    def _keep_back(self, frame: Frame, mute: Fault) -> None:
        mute.note(frame.marks)
        if not mute.going_on:
            self.exchange.faults.prolong(mute, frame.time_ns)

    def _skip(self, frame: Frame) -> None:
        for connection in self.routes.get(frame.stream, ()):
            if isinstance(connection.session, NumbersFrames):
                connection.session.skip(frame)

    # Faults that last

    def mute(self, action: Action) -> None:
        """Keep a stream from the one connection that is subscribed to it."""
        connections = self.routes.get(action.stream, [])
        if len(connections) == 1 and action.stream not in connections[0].muted:
            connections[0].muted[action.stream] = self.exchange.mute(action)

    def stall(self, seconds: float) -> None:
        """Write nothing from now on; what was written before still arrives."""
        self.stalled = self.exchange.interrupt("stall", seconds=seconds)
        for connection in self.connections:
            connection.held = True

    def resume(self) -> None:
        """Hand over all that was due while the venue had stalled."""
        assert self.stalled is not None
        fault, self.stalled = self.stalled, None
        for frame, connections in self._due:
            if any(one in self.connections and not one.ended for one in connections):
                self.exchange.delivered(frame.marks)
            else:
                fault.lose(frame.marks)
        self._due.clear()
        for connection in self.connections:
            connection.held = False
            connection.write()
        self.exchange.faults.end(fault, self.exchange.time_ns)

    def limit(self, now: float, seconds: float) -> Fault:
        """Answer nobody for so long."""
        self.limited = self.exchange.interrupt("limit", seconds=seconds, refused=0)
        self._limit_ends = now + seconds
        return self.limited

    def refuse(self, now: float) -> Answer | None:
        """The answer to everybody while there is a limit."""
        if self.limited is None:
            return None
        self.limited.details["refused"] += 1
        seconds = max(1, math.ceil(self._limit_ends - now))
        return Answer(429, TOO_MANY, headers={"Retry-After": str(seconds)})

    def lift_limit(self) -> None:
        """Answer again."""
        assert self.limited is not None
        fault, self.limited = self.limited, None
        self.exchange.faults.end(fault, self.exchange.time_ns)
