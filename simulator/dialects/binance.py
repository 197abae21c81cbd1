"""What Binance's venues have in common: envelopes, connections with their limits, request weights, errors, garbage.

Connections: github.com/binance/binance-spot-api-docs web-socket-streams.md, and for the other venues "Websocket Market
Streams" at developers.binance.com; weights, 429 and 418: rest-api.md "IP Limits".
"""

import json
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import msgspec

from simulator.contract import (
    Answer,
    Body,
    Disconnect,
    Frame,
    Instrument,
    Listed,
    Message,
    Ping,
    SimulatorError,
    Snapshot,
    Unavailable,
    Unreadable,
    View,
)
from simulator.dialects.budgets import Window
from simulator.dialects.garbage import MAX_SHARE, MIN_SHARE, noise, words
from simulator.events import Levels, text_of

POLICY_VIOLATION = 1008
GOING_AWAY = 1001
DAY_SECONDS = 86_400.0
MINUTE_SECONDS = 60.0
BAN_SECONDS = 120.0
CONNECTS, CONNECTS_SECONDS = 300, 300.0
PATIENCE_AFTER_429 = 5
HISTORY_LIMIT = 1000
SHUTDOWN = "!serverShutdown"
METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
QUOTE_ASSETS = (
    *("FDUSD", "USDT", "USDC", "TUSD", "BUSD", "USD1", "USDP", "PAX", "DAI"),
    *("BTC", "ETH", "BNB", "TRX", "XRP", "DOGE", "SOL"),
    *("TRY", "EUR", "GBP", "AUD", "BRL", "JPY", "MXN", "PLN", "ARS", "UAH", "ZAR", "RUB", "IDR", "NGN", "USD"),
)

_TIMES = re.compile(rb'"([ET])":(\d{13})(?=[,}])')


class _Envelope(msgspec.Struct, gc=False):
    data: msgspec.Raw
    stream: str


_envelope = msgspec.json.Decoder(_Envelope)


def unwrap(raw: bytes) -> tuple[str, bytes] | None:
    """Stream and payload of a combined frame, None for anything else."""
    try:
        envelope = _envelope.decode(raw)
    except msgspec.MsgspecError:
        return None
    return envelope.stream, bytes(envelope.data)


def combine(stream: str, payload: bytes) -> bytes:
    """The combined frame of a payload."""
    return b'{"stream":"%s","data":%s}' % (stream.encode(), payload)


def fields_of(raw: bytes) -> dict[str, Any]:
    """The fields of a payload, or of the first of several. Raises Unreadable."""
    try:
        value = msgspec.json.decode(raw)
    except msgspec.MsgspecError as error:
        raise Unreadable(str(error)) from error
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        raise Unreadable("neither an object nor a list of objects")
    return value


def payload_fields(raw: bytes) -> dict[str, Any]:
    """The fields of a recorded frame's payload, raw or combined; {} where there are none."""
    found = unwrap(raw)
    try:
        return fields_of(found[1] if found else raw)
    except Unreadable:
        return {}


def split(symbol: str) -> tuple[str, str]:
    """Base and quote of a symbol, by the longest quote asset known that it ends with."""
    quotes = [quote for quote in QUOTE_ASSETS if symbol.endswith(quote) and symbol != quote]
    quote = max(quotes, key=len, default="")
    return (symbol[: -len(quote)], quote) if quote else (symbol, "")


def levels(rows: Levels) -> str:
    """Levels as JSON."""
    return "[" + ",".join([f'["{price}","{quantity}"]' for price, quantity in rows]) + "]"


def number(value_e8: int) -> str:
    """An amount without trailing zeros, as derivatives' frames have it: `65000.1`."""
    text = text_of(value_e8).rstrip("0")
    return text[:-1] if text.endswith(".") else text


class SnapshotBody(msgspec.Struct, gc=False):
    """A REST depth response: {"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[["0.0026","100"]]}."""

    lastUpdateId: int
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]


_snapshot = msgspec.json.Decoder(SnapshotBody)


def read_snapshot(body: bytes) -> Snapshot:
    """A REST depth response. Raises Unreadable."""
    try:
        snapshot = _snapshot.decode(body)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"no depth response: {error}") from error
    return Snapshot(snapshot.lastUpdateId, snapshot.bids, snapshot.asks)


def read_book(body: Body) -> tuple[str, Snapshot] | None:
    """Symbol and book of a recorded depth response."""
    match = re.search(r"/depth\?(?:.*&)?symbol=([^&]+)", body.url)
    return (match[1].upper(), read_snapshot(body.body)) if match else None


# Garbage

_RETYPED: Mapping[str, Sequence[Any]] = {
    "id": ("twelve", []),
    "p": ({"x": 1},),
    "q": ([1],),
    "T": ("yesterday",),
    "m": ("perhaps",),
}


def spoil(frame: Frame, rng: Random, id_field: str) -> Frame:
    """Only what no reader may accept: `e`, `s`, `E` and `M` are left alone, a reader may ignore those."""
    kind = rng.choice(("truncated", "retyped", "null", "text", "binary", "unknown"))
    if kind == "truncated":
        share = rng.uniform(MIN_SHARE, MAX_SHARE)
        return _garbage(frame, _truncated(frame.payload, share), _truncated(frame.combined, share))
    if kind in {"retyped", "null"}:
        field = rng.choice(list(_RETYPED))
        value = rng.choice(_RETYPED[field]) if kind == "retyped" else None
        name = id_field if field == "id" else field
        payload = json.dumps(json.loads(frame.payload) | {name: value}, separators=(",", ":")).encode()
        return _garbage(frame, payload, combine(frame.stream, payload))
    if kind == "unknown":
        stream = frame.stream.partition("@")[0] + "@mystery"
        payload = b'{"e":"mystery","s":"%s","x":%d}' % (frame.symbol.encode(), rng.randrange(10**12))
        return _garbage(frame, payload, combine(stream, payload))
    if kind == "text":
        text = words(rng)
        return _garbage(frame, text, text)
    raw = noise(rng)
    return msgspec.structs.replace(_garbage(frame, raw, raw), binary=True)


def _garbage(frame: Frame, payload: bytes, combined: bytes) -> Frame:
    return Frame(frame.time_ns, frame.stream, payload, combined, (), "garbage", frame.symbol)


def _truncated(message: bytes, share: float) -> bytes:
    """A strict, non-empty beginning of the message; text must stay UTF-8 on the wire."""
    end = 1 + int(share * (len(message) - 1))
    return message[:end].decode(errors="ignore").encode() or b"{"


# Connections


class Rules(msgspec.Struct, frozen=True):
    """The limits of a venue's connections."""

    messages_per_second: int
    streams: int
    ping_interval_seconds: float
    pong_timeout_seconds: float
    life_seconds: float = DAY_SECONDS


class Door:
    """300 attempts to connect in five minutes from one address, and no more."""

    def __init__(self) -> None:
        self._attempts = Window(CONNECTS, CONNECTS_SECONDS)

    def enter(self, now: float) -> None:
        """Count an attempt. Raises Unavailable when there were too many."""
        if not self._attempts.admit(now):
            problem = to_json({"code": -1003, "msg": "Too many connection attempts."})
            raise Unavailable(Answer(429, problem, headers={"Retry-After": str(int(CONNECTS_SECONDS))}))


class Refused(Exception):
    """A request answered with an error of the venue."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


Serves = Callable[[str], bool]


def everything(_stream: str) -> bool:
    """The route of venues that have only one."""
    return True


class BinanceSession:
    """The venue's side of one connection: subscriptions, properties, limits and pings.

    `listed` are the streams it was asked for and has acknowledged, `streams` those of them that its route `serves`.
    """

    def __init__(
        self, view: View, names: str, combined: bool, rules: Rules, now: float, *, serves: Serves = everything
    ) -> None:
        self.view = view
        self.combined = combined
        self.microseconds = False
        self.listed: set[str] = set(filter(None, names.split("/")))
        self._serves = serves
        self._rules = rules
        self._incoming: deque[float] = deque(maxlen=rules.messages_per_second + 1)
        self._opened = now
        self._next_ping = now + rules.ping_interval_seconds
        self._unanswered: dict[bytes, float] = {}
        self._pings = 0
        self._serve()

    def _serve(self) -> None:
        self.streams: set[str] = set(filter(self._serves, self.listed))

    def greet(self, now: float) -> Sequence[Message]:
        return ()

    def farewell(self) -> Sequence[Message]:
        """Spot's web-socket-streams.md says so; the futures' documents have no such event, and are taken to follow."""
        time_ns = self.view.time_ns
        payload = b'{"e":"serverShutdown","E":%d}' % (time_ns // 1_000_000)
        return (Frame(time_ns, SHUTDOWN, payload, combine(SHUTDOWN, payload)),)

    def encode(self, frame: Frame) -> bytes:
        message = frame.combined if self.combined else frame.payload
        if self.microseconds and not frame.binary:
            return _TIMES.sub(rb'"\1":\g<2>000', message)
        return message

    def ping(self, now: float) -> None:
        self._count(now)

    def pong(self, payload: bytes, now: float) -> None:
        self._count(now)
        if payload in self._unanswered:
            sent = self._unanswered[payload]
            self._unanswered = {key: at for key, at in self._unanswered.items() if at > sent}

    def tick(self, now: float) -> Sequence[Message]:
        rules = self._rules
        if self._unanswered and now - next(iter(self._unanswered.values())) >= rules.pong_timeout_seconds:
            raise Disconnect(POLICY_VIOLATION, "Pong timeout")
        if now - self._opened >= rules.life_seconds:
            raise Disconnect(GOING_AWAY, "The connection has lived for 24 hours")
        if now < self._next_ping:
            return ()
        self._next_ping = now + rules.ping_interval_seconds
        self._pings += 1
        payload = str(self._pings).encode()
        self._unanswered[payload] = now
        return (Ping(payload),)

    def _count(self, now: float) -> None:
        self._incoming.append(now)
        if len(self._incoming) > self._rules.messages_per_second and now - self._incoming[0] < 1.0:
            raise Disconnect(POLICY_VIOLATION, "Too many requests")

    def receive(self, text: str | bytes, now: float) -> Sequence[bytes]:
        self._count(now)
        try:
            request = json.loads(text)
        except json.JSONDecodeError as error:
            problem = f"Invalid JSON: expected value at line {error.lineno} column {error.colno}"
            return (to_json({"code": 3, "msg": problem}),)
        except UnicodeDecodeError:
            return (to_json({"code": 3, "msg": "Invalid JSON: expected value at line 1 column 1"}),)
        try:
            return (self._answer(request if isinstance(request, dict) else {}, len(text)),)
        except Refused as refused:
            reply: dict[str, Any] = {"code": refused.code, "msg": str(refused)}
            if isinstance(request, dict) and _is_id(request.get("id")):
                reply["id"] = request.get("id")
            return (to_json(reply),)

    def _answer(self, request: dict[str, Any], length: int) -> bytes:
        method = request.get("method")
        if method is None:
            raise Refused(2, f"Invalid request: missing field `method` at line 1 column {length}")
        if method not in METHODS:
            expected = ", ".join(f"`{name}`" for name in METHODS)
            problem = f"unknown variant `{method}`, expected one of {expected} at line 1 column {length}"
            raise Refused(2, f"Invalid request: {problem}")
        if "id" not in request or not _is_id(request["id"]):
            raise Refused(2, "Invalid request: request ID must be an unsigned integer")
        params = request.get("params", [])
        if not isinstance(params, list):
            raise Refused(2, "Invalid request: invalid type: params, expected a sequence")
        return to_json({"result": self._perform(method, params), "id": request["id"]})

    def _perform(self, method: str, params: list[Any]) -> Any:
        if method == "LIST_SUBSCRIPTIONS":
            if params:
                raise Refused(2, "Invalid request: too many parameters")
            return sorted(self.listed)
        if method.endswith("_PROPERTY"):
            return self._property(method, params)
        if not params or not all(isinstance(name, str) for name in params):
            raise Refused(2, "Invalid request: params must be stream names")
        if method == "UNSUBSCRIBE":
            self.listed.difference_update(params)
        elif len(self.listed | set(params)) > self._rules.streams:
            raise Refused(2, f"Invalid request: more than {self._rules.streams} streams on one connection")
        else:
            self.listed.update(params)
        self._serve()
        return None

    def _property(self, method: str, params: list[Any]) -> bool | None:
        if not params or not isinstance(params[0], str):
            raise Refused(2, "Invalid request: property name must be a string")
        if params[0] != "combined":
            raise Refused(0, "Unknown property")
        if len(params) > (2 if method == "SET_PROPERTY" else 1):
            raise Refused(2, "Invalid request: too many parameters")
        if method == "GET_PROPERTY":
            return self.combined
        if len(params) < 2 or not isinstance(params[1], bool):
            raise Refused(1, "Invalid value type: expected Boolean")
        self.combined = params[1]
        return None


def _is_id(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value is None or (isinstance(value, str) and value.isalnum() and len(value) <= 36)


# REST


def to_json(value: Any) -> bytes:
    return msgspec.json.encode(value)


class Budget:
    """An IP's request weight per minute: too much is 429, going on regardless is a ban (418) of two minutes.

    Both say in Retry-After after how many seconds to come back.
    """

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self.used = 0
        self._minute = -1
        self._refused = 0
        self._banned_until = float("-inf")

    def charge(self, weight: int, now: float) -> Answer | None:
        """None when the request is within the budget, else its refusal."""
        if now < self._banned_until:
            return self._refusal(418, self._banned_until - now)
        minute = int(now // MINUTE_SECONDS)
        if minute != self._minute:
            self._minute, self.used, self._refused = minute, 0, 0
        self.used += weight
        if self.used <= self.per_minute:
            return None
        self._refused += 1
        if self._refused <= PATIENCE_AFTER_429:
            return self._refusal(429, (minute + 1) * MINUTE_SECONDS - now)
        self._banned_until = now + BAN_SECONDS
        return self._refusal(418, BAN_SECONDS)

    def _refusal(self, status: int, seconds: float) -> Answer:
        problem = f"Too many requests; current limit is {self.per_minute} request weight per 1 MINUTE."
        body = to_json({"code": -1003, "msg": problem})
        return Answer(status, body, headers={"Retry-After": str(int(seconds) + 1)})


Query = Mapping[str, str]


class Route(msgspec.Struct, frozen=True):
    """An endpoint: its body of (query, view), and the weight of a query."""

    body: Callable[[Query, View], Any]
    weight: Callable[[Query], int]


def weighs(weight: int) -> Callable[[Query], int]:
    """The same weight for every query."""
    return lambda _query: weight


def by_limit(steps: Sequence[tuple[int, int]], default: int) -> Callable[[Query], int]:
    """The weight of the first step whose limit is not exceeded: (limit, weight), in order."""

    def weight(query: Query) -> int:
        text = query.get("limit", str(default))
        limit = int(text) if text.isdecimal() else default
        return next((weight for highest, weight in steps if limit <= highest), steps[-1][1])

    return weight


class Rest:
    """A venue's endpoints, and one client's budget."""

    def __init__(self, routes: Mapping[str, Route], weight_per_minute: int) -> None:
        self.routes = routes
        self.budget = Budget(weight_per_minute)

    def answer(self, path: str, query: Query, now: float, view: View) -> Answer:
        route = self.routes.get(path)
        if route is None:
            return Answer(404, to_json({"code": -1000, "msg": f"no such endpoint: {path}"}))
        if (refusal := self.budget.charge(route.weight(query), now)) is not None:
            return refusal
        headers = {"X-MBX-USED-WEIGHT-1M": str(self.budget.used)}
        try:
            found = route.body(query, view)
        except Refused as refused:
            return Answer(refused.status, to_json({"code": refused.code, "msg": str(refused)}), headers=headers)
        if isinstance(found, Answer):
            return msgspec.structs.replace(found, headers=headers)
        return Answer(200, to_json(found), headers=headers)


def ping(_query: Query, _view: View) -> dict[str, Any]:
    return {}


def time(_query: Query, view: View) -> dict[str, Any]:
    return {"serverTime": view.time_ns // 1_000_000}


def asked_symbol(query: Query, known: Mapping[str, Listed]) -> str:
    """The mandatory parameter `symbol`."""
    symbol = query.get("symbol", "")
    if not symbol:
        raise Refused(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    if symbol not in known:
        raise Refused(-1121, "Invalid symbol.")
    return symbol


def asked_number(query: Query, name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isdecimal():
        raise Refused(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(text)


def asked_limit(query: Query, default: int, highest: int) -> int:
    limit = asked_number(query, "limit", default)
    if limit == 0:
        raise Refused(-1130, "Data sent for parameter 'limit' is not valid.")
    return min(limit, highest)


def recorded_rows(view: View, path_end: str, key: str) -> dict[str, dict[str, Any]]:
    """The rows of the newest recorded listing, by symbol: {} where none was recorded."""
    bodies = [body for body in view.bodies if body.url.partition("?")[0].endswith(path_end)]
    found: dict[str, dict[str, Any]] = {}
    for body in bodies:
        try:
            found |= {row["symbol"]: row for row in msgspec.json.decode(body.body)[key]}
        except (msgspec.MsgspecError, TypeError, KeyError) as error:
            raise SimulatorError(f"the recorded answer of {body.url} is no listing: {error}") from error
    return found


def filters(instrument: Instrument) -> list[dict[str, str]]:
    """A listing's filters of price and quantity."""
    tick, lot = text_of(instrument.tick_e8), text_of(instrument.lot_e8)
    return [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "92141578.00000000", "stepSize": lot},
    ]
