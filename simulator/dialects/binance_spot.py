"""Binance spot, as in github.com/binance/binance-spot-api-docs: web-socket-streams.md and rest-api.md (July 2026).

A trade on a raw stream, and the same in the combined envelope:
    {"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.001","q":"100","T":1672515782136,"m":true,"M":true}
    {"stream":"bnbbtc@trade","data":{"e":"trade", ...}}
Oddities: depth20 and bookTicker frames carry no event time, depth20 not even a symbol (that is in the stream name);
symbols are lower case in streams and upper case in payloads; unknown streams are accepted and stay silent.
"""

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from decimal import Decimal
from random import Random
from typing import Any

import msgspec

from simulator.books import cut
from simulator.contract import (
    DepthDiff,
    Disconnect,
    Frame,
    Instrument,
    Session,
    Snapshot,
    Trade,
    Unreadable,
    View,
    text_of,
)

MAX_MESSAGES_PER_SECOND = 5
MAX_STREAMS = 1024
PING_INTERVAL_SECONDS = 20.0
PONG_TIMEOUT_SECONDS = 60.0
POLICY_VIOLATION = 1008
HISTORY_LIMIT = 1000
DEPTH_LIMIT = 5000
METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")


class _Envelope(msgspec.Struct, gc=False):
    data: msgspec.Raw
    stream: str


class _TradeId(msgspec.Struct, gc=False):
    t: int


class _Depth(msgspec.Struct, gc=False):
    U: int
    u: int
    b: list[tuple[str, str]]
    a: list[tuple[str, str]]


class _Snapshot(msgspec.Struct, gc=False):
    lastUpdateId: int
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]


class _PriceAndQuantity(msgspec.Struct, gc=False):
    p: str
    q: str


_envelope = msgspec.json.Decoder(_Envelope)
_trade_id = msgspec.json.Decoder(_TradeId)
_depth = msgspec.json.Decoder(_Depth)
_snapshot = msgspec.json.Decoder(_Snapshot)
_price_and_quantity = msgspec.json.Decoder(_PriceAndQuantity)


class BinanceSpot:
    venue = "BINANCE_SPOT"

    def __init__(
        self,
        ping_interval_seconds: float = PING_INTERVAL_SECONDS,
        pong_timeout_seconds: float = PONG_TIMEOUT_SECONDS,
    ) -> None:
        self._ping_interval = ping_interval_seconds
        self._pong_timeout = pong_timeout_seconds

    def environment(self, host_and_port: str) -> dict[str, str]:
        return {
            "RAVEN_VENUES__BINANCE_SPOT__WS_URL": f"ws://{host_and_port}",
            "RAVEN_VENUES__BINANCE_SPOT__REST_URL": f"http://{host_and_port}",
        }

    def trade_stream(self, symbol: str) -> str:
        return f"{symbol.lower()}@trade"

    def depth20_stream(self, symbol: str) -> str:
        return f"{symbol.lower()}@depth20@100ms"

    # What a recording holds

    def read(self, time_ns: int, raw: bytes) -> Frame | None:
        try:
            envelope = _envelope.decode(raw)
        except msgspec.MsgspecError:
            return self._read_raw(time_ns, raw)
        return _frame(time_ns, envelope.stream, bytes(envelope.data), raw)

    def _read_raw(self, time_ns: int, raw: bytes) -> Frame | None:
        try:
            fields = msgspec.json.decode(raw, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise Unreadable(str(error)) from error
        if "result" in fields or "code" in fields:
            return None
        stream = _stream_of(fields)
        return _frame(time_ns, stream, raw, _combine(stream, raw))

    def read_depth(self, frame: Frame) -> DepthDiff:
        try:
            depth = _depth.decode(frame.payload)
        except msgspec.MsgspecError as error:
            raise Unreadable(f"{frame.stream}: {error}") from error
        return DepthDiff(frame.time_ns, frame.symbol, depth.U, depth.u, depth.b, depth.a)

    def read_snapshot(self, body: bytes) -> Snapshot:
        try:
            snapshot = _snapshot.decode(body)
        except msgspec.MsgspecError as error:
            raise Unreadable(f"no depth response: {error}") from error
        return Snapshot(snapshot.lastUpdateId, snapshot.bids, snapshot.asks)

    def texts(self, frame: Frame) -> tuple[Sequence[str], Sequence[str]]:
        if frame.kind == "trade" or frame.stream.endswith("@aggTrade"):
            fields = _price_and_quantity.decode(frame.payload)
            return (fields.p,), (fields.q,)
        if frame.kind == "depth":
            diff = self.read_depth(frame)
            levels = [*diff.bids, *diff.asks]
        elif frame.kind == "depth20":
            top = self.read_snapshot(frame.payload)
            levels = [*top.bids, *top.asks]
        else:
            return (), ()
        return [price for price, _ in levels], [quantity for _, quantity in levels]

    # What a synthetic market says

    def trade(self, trade: Trade) -> Frame:
        time_ms = trade.time_ns // 1_000_000
        taker = "true" if trade.buyer_is_maker else "false"
        payload = (
            f'{{"e":"trade","E":{time_ms},"s":"{trade.symbol}","t":{trade.trade_id},"p":"{text_of(trade.price_e8)}",'
            f'"q":"{text_of(trade.quantity_e8)}","T":{time_ms},"m":{taker},"M":true}}'
        ).encode()
        stream = self.trade_stream(trade.symbol)
        combined = _combine(stream, payload)
        return Frame(trade.time_ns, "trade", trade.symbol, stream, payload, combined, trade.trade_id)

    def depth(self, diff: DepthDiff) -> Frame:
        payload = (
            f'{{"e":"depthUpdate","E":{diff.time_ns // 1_000_000},"s":"{diff.symbol}","U":{diff.first_id},'
            f'"u":{diff.last_id},"b":{_levels(diff.bids)},"a":{_levels(diff.asks)}}}'
        ).encode()
        stream = f"{diff.symbol.lower()}@depth@100ms"
        return Frame(diff.time_ns, "depth", diff.symbol, stream, payload, _combine(stream, payload))

    def depth20(self, time_ns: int, symbol: str, book: Snapshot) -> Frame:
        payload = _spell_book(book)
        stream = self.depth20_stream(symbol)
        return Frame(time_ns, "depth20", symbol, stream, payload, _combine(stream, payload))

    # Garbage

    def spoil(self, frame: Frame, rng: Random) -> Frame:
        """Only what no reader may accept: `e`, `s`, `E` and `M` are left alone, a reader may ignore those."""
        kind = rng.choice(("truncated", "retyped", "null", "text", "binary", "unknown"))
        if kind == "truncated":
            share = rng.random()
            return _garbage(frame, _truncated(frame.payload, share), _truncated(frame.combined, share))
        if kind in {"retyped", "null"}:
            field, value = rng.choice(_RETYPED) if kind == "retyped" else (rng.choice("tpqTm"), None)
            payload = json.dumps(json.loads(frame.payload) | {field: value}, separators=(",", ":")).encode()
            return _garbage(frame, payload, _combine(frame.stream, payload))
        if kind == "unknown":
            stream = frame.stream.partition("@")[0] + "@mystery"
            payload = b'{"e":"mystery","s":"%s","x":%d}' % (frame.symbol.encode(), rng.randrange(1000))
            return _garbage(frame, payload, _combine(stream, payload))
        if kind == "text":
            words = f"~ {rng.randbytes(rng.randint(1, 40)).hex()} ~".encode()
            return _garbage(frame, words, words)
        noise = b"\xff" + rng.randbytes(rng.randint(0, 60))
        return msgspec.structs.replace(_garbage(frame, noise, noise), binary=True)

    # A connection, and REST

    def connect(self, path: str, query: Mapping[str, str], now: float) -> Session:
        return BinanceSpotSession(path, query, now, self._ping_interval, self._pong_timeout)

    def answer(self, path: str, query: Mapping[str, str], view: View) -> tuple[int, bytes]:
        answer = _ROUTES.get(path)
        if answer is None:
            return 404, _json({"code": -1000, "msg": f"no such endpoint: {path}"})
        try:
            return 200, _json(answer(query, view))
        except _Refused as refused:
            return refused.status, _json({"code": refused.code, "msg": str(refused)})


class BinanceSpotSession:
    """The venue's side of one connection: subscriptions, properties, limits and pings.

    Raw events at /ws, the combined envelope at /stream; both take SUBSCRIBE and its kin later.
    """

    def __init__(
        self, path: str, query: Mapping[str, str], now: float, ping_interval: float, pong_timeout: float
    ) -> None:
        root, _, rest = path.strip("/").partition("/")
        if root not in {"ws", "stream"}:
            raise LookupError(path)
        names = rest if root == "ws" else query.get("streams", "")
        self.combined = root == "stream"
        self.microseconds = query.get("timeUnit", "") in {"MICROSECOND", "microsecond"}
        self.streams: set[str] = set(filter(None, names.split("/")))
        self._incoming: deque[float] = deque(maxlen=MAX_MESSAGES_PER_SECOND + 1)
        self._ping_interval = ping_interval
        self._pong_timeout = pong_timeout
        self._next_ping = now + ping_interval
        self._unanswered: dict[bytes, float] = {}
        self._pings = 0

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

    def tick(self, now: float) -> bytes | None:
        if self._unanswered and now - next(iter(self._unanswered.values())) >= self._pong_timeout:
            raise Disconnect(POLICY_VIOLATION, "Pong timeout")
        if now < self._next_ping:
            return None
        self._next_ping = now + self._ping_interval
        self._pings += 1
        payload = str(self._pings).encode()
        self._unanswered[payload] = now
        return payload

    def _count(self, now: float) -> None:
        self._incoming.append(now)
        if len(self._incoming) > MAX_MESSAGES_PER_SECOND and now - self._incoming[0] < 1.0:
            raise Disconnect(POLICY_VIOLATION, "Too many requests")

    def receive(self, text: str | bytes, now: float) -> bytes:
        self._count(now)
        try:
            request = json.loads(text)
        except json.JSONDecodeError as error:
            problem = f"Invalid JSON: expected value at line {error.lineno} column {error.colno}"
            return _json({"code": 3, "msg": problem})
        except UnicodeDecodeError:
            return _json({"code": 3, "msg": "Invalid JSON: expected value at line 1 column 1"})
        try:
            return self._answer(request if isinstance(request, dict) else {}, len(text))
        except _Refused as refused:
            reply: dict[str, Any] = {"code": refused.code, "msg": str(refused)}
            if isinstance(request, dict) and _is_id(request.get("id")):
                reply["id"] = request.get("id")
            return _json(reply)

    def _answer(self, request: dict[str, Any], length: int) -> bytes:
        method = request.get("method")
        if method is None:
            raise _Refused(2, f"Invalid request: missing field `method` at line 1 column {length}")
        if method not in METHODS:
            expected = ", ".join(f"`{name}`" for name in METHODS)
            problem = f"unknown variant `{method}`, expected one of {expected} at line 1 column {length}"
            raise _Refused(2, f"Invalid request: {problem}")
        if "id" not in request or not _is_id(request["id"]):
            raise _Refused(2, "Invalid request: request ID must be an unsigned integer")
        params = request.get("params", [])
        if not isinstance(params, list):
            raise _Refused(2, "Invalid request: invalid type: params, expected a sequence")
        return _json({"result": self._perform(method, params), "id": request["id"]})

    def _perform(self, method: str, params: list[Any]) -> Any:
        if method == "LIST_SUBSCRIPTIONS":
            if params:
                raise _Refused(2, "Invalid request: too many parameters")
            return sorted(self.streams)
        if method.endswith("_PROPERTY"):
            return self._property(method, params)
        if not params or not all(isinstance(name, str) for name in params):
            raise _Refused(2, "Invalid request: params must be stream names")
        if method == "UNSUBSCRIBE":
            self.streams.difference_update(params)
            return None
        if len(self.streams | set(params)) > MAX_STREAMS:
            raise _Refused(2, f"Invalid request: more than {MAX_STREAMS} streams on one connection")
        self.streams.update(params)
        return None

    def _property(self, method: str, params: list[Any]) -> bool | None:
        if not params or not isinstance(params[0], str):
            raise _Refused(2, "Invalid request: property name must be a string")
        if params[0] != "combined":
            raise _Refused(0, "Unknown property")
        if len(params) > (2 if method == "SET_PROPERTY" else 1):
            raise _Refused(2, "Invalid request: too many parameters")
        if method == "GET_PROPERTY":
            return self.combined
        if len(params) < 2 or not isinstance(params[1], bool):
            raise _Refused(1, "Invalid value type: expected Boolean")
        self.combined = params[1]
        return None


class _Refused(Exception):
    """A request answered with an error of the venue."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


_TIMES = re.compile(rb'"([ET])":(\d{13})(?=[,}])')
_RETYPED: tuple[tuple[str, Any], ...] = (
    ("t", "twelve"),
    ("t", []),
    ("p", {"x": 1}),
    ("q", [1]),
    ("T", "yesterday"),
    ("m", "perhaps"),
)


def _frame(time_ns: int, stream: str, payload: bytes, combined: bytes) -> Frame:
    name, _, channel = stream.partition("@")
    symbol = name.upper()
    if channel == "trade":
        try:
            trade_id = _trade_id.decode(payload).t
        except msgspec.MsgspecError as error:
            raise Unreadable(f"{stream}: {error}") from error
        return Frame(time_ns, "trade", symbol, stream, payload, combined, trade_id)
    kind = "other"
    if channel.startswith("depth"):
        kind = {"depth@100ms": "depth", "depth": "depth", "depth20@100ms": "depth20"}.get(channel, "other")
    return Frame(time_ns, kind, symbol, stream, payload, combined)


def _stream_of(fields: dict[str, Any]) -> str:
    """The stream a raw payload came from, as far as the payload tells."""
    symbol = fields.get("s")
    if not isinstance(symbol, str):
        raise Unreadable("neither a combined frame nor a payload that names its symbol")
    event = fields.get("e", "bookTicker" if "A" in fields and "B" in fields else None)
    if event == "kline":
        return f"{symbol.lower()}@kline_{fields['k']['i']}"
    channels = {"depthUpdate": "depth@100ms", "24hrTicker": "ticker", "24hrMiniTicker": "miniTicker"}
    if not isinstance(event, str):
        raise Unreadable("the payload names no event type")
    return f"{symbol.lower()}@{channels.get(event, event)}"


def _combine(stream: str, payload: bytes) -> bytes:
    return b'{"stream":"%s","data":%s}' % (stream.encode(), payload)


def _levels(levels: Sequence[tuple[str, str]]) -> str:
    return "[" + ",".join([f'["{price}","{quantity}"]' for price, quantity in levels]) + "]"


def _spell_book(book: Snapshot) -> bytes:
    return (f'{{"lastUpdateId":{book.last_id},"bids":{_levels(book.bids)},"asks":{_levels(book.asks)}}}').encode()


def _garbage(frame: Frame, payload: bytes, combined: bytes) -> Frame:
    return Frame(frame.time_ns, "garbage", frame.symbol, frame.stream, payload, combined)


def _truncated(message: bytes, share: float) -> bytes:
    """A strict, non-empty beginning of the message; text must stay UTF-8 on the wire."""
    end = 1 + int(share * (len(message) - 1))
    return message[:end].decode(errors="ignore").encode() or b"{"


def _is_id(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value is None or (isinstance(value, str) and value.isalnum() and len(value) <= 36)


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _ping(_query: Mapping[str, str], _view: View) -> dict[str, Any]:
    return {}


def _time(_query: Mapping[str, str], view: View) -> dict[str, Any]:
    return {"serverTime": view.now_ms()}


def _exchange_info(query: Mapping[str, str], view: View) -> dict[str, Any]:
    return {
        "timezone": "UTC",
        "serverTime": view.now_ms(),
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 61000},
        ],
        "exchangeFilters": [],
        "symbols": [_rules(view.instruments[symbol]) for symbol in _symbols_asked(query, view)],
    }


def _symbols_asked(query: Mapping[str, str], view: View) -> list[str]:
    if "symbol" in query and "symbols" in query:
        raise _Refused(-1128, "Combination of optional parameters invalid.")
    asked: Any = [query["symbol"]] if "symbol" in query else list(view.instruments)
    if "symbols" in query:
        try:
            asked = msgspec.json.decode(query["symbols"], type=list[str])
        except msgspec.MsgspecError:
            raise _Refused(-1100, "Illegal characters found in parameter 'symbols'.") from None
    if any(symbol not in view.instruments for symbol in asked):
        raise _Refused(-1121, "Invalid symbol.")
    return list(asked)


def _rules(instrument: Instrument) -> dict[str, Any]:
    tick, lot = text_of(instrument.tick_e8), text_of(instrument.lot_e8)
    return {
        "symbol": instrument.symbol,
        "status": "TRADING",
        "baseAsset": instrument.base,
        "baseAssetPrecision": 8,
        "quoteAsset": instrument.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "92141578.00000000", "stepSize": lot},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "NONE",
        "allowedSelfTradePreventionModes": ["NONE"],
    }


def _symbol(query: Mapping[str, str], view: View) -> str:
    symbol = query.get("symbol", "")
    if not symbol:
        problem = "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
        raise _Refused(-1102, problem)
    if symbol not in view.instruments:
        raise _Refused(-1121, "Invalid symbol.")
    return symbol


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isdecimal():
        raise _Refused(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(text)


def _limit(query: Mapping[str, str], default: int, highest: int) -> int:
    limit = _number(query, "limit", default)
    if limit == 0:
        raise _Refused(-1130, "Data sent for parameter 'limit' is not valid.")
    return min(limit, highest)


def _depth_of(query: Mapping[str, str], view: View) -> Any:
    symbol = _symbol(query, view)
    limit = _limit(query, 100, DEPTH_LIMIT)
    book = view.book(symbol, limit)
    if book is None:
        raise _Refused(-1000, f"The simulator has no book of {symbol} at this moment.", status=503)
    return msgspec.Raw(_spell_book(cut(book, limit)))


def _trades(query: Mapping[str, str], view: View) -> list[dict[str, Any]]:
    frames = view.trades(_symbol(query, view))
    return [_rest_trade(frame) for frame in list(frames)[-_limit(query, 500, HISTORY_LIMIT) :]]


def _historical_trades(query: Mapping[str, str], view: View) -> list[dict[str, Any]]:
    if "fromId" not in query:
        return _trades(query, view)
    first = _number(query, "fromId", 0)
    limit = _limit(query, 500, HISTORY_LIMIT)
    frames = [frame for frame in view.trades(_symbol(query, view)) if (frame.trade_id or 0) >= first]
    return [_rest_trade(frame) for frame in frames[:limit]]


def _rest_trade(frame: Frame) -> dict[str, Any]:
    fields = msgspec.json.decode(frame.payload)
    notional = Decimal(fields["p"]) * Decimal(fields["q"])
    return {
        "id": fields["t"],
        "price": fields["p"],
        "qty": fields["q"],
        "quoteQty": f"{notional:.8f}",
        "time": fields["T"],
        "isBuyerMaker": fields["m"],
        "isBestMatch": True,
    }


_ROUTES = {
    "/api/v3/ping": _ping,
    "/api/v3/time": _time,
    "/api/v3/exchangeInfo": _exchange_info,
    "/api/v3/depth": _depth_of,
    "/api/v3/trades": _trades,
    "/api/v3/historicalTrades": _historical_trades,
}
