"""Binance spot, as in github.com/binance/binance-spot-api-docs: web-socket-streams.md and rest-api.md (July 2026).

A trade on a raw stream, and the same in the combined envelope:
    {"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.001","q":"100","T":1672515782136,"m":true,"M":true}
    {"stream":"bnbbtc@trade","data":{"e":"trade", ...}}
Oddities: depth20 and bookTicker frames carry no event time, depth20 not even a symbol (that is in the stream name);
symbols are lower case in streams and upper case in payloads; unknown streams are accepted and stay silent.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from random import Random
from typing import Any

import msgspec

from simulator.books import cut
from simulator.contract import (
    BOOKS,
    QUOTES,
    TRADES,
    Answer,
    Body,
    Change,
    Frame,
    Instrument,
    Listed,
    Session,
    Snapshot,
    Unreadable,
    View,
)
from simulator.dialects import binance, history
from simulator.dialects.binance import (
    HISTORY_LIMIT,
    BinanceSession,
    Door,
    Query,
    Refused,
    Rest,
    Route,
    Rules,
    asked_limit,
    asked_number,
    asked_symbol,
    by_limit,
    combine,
    levels,
    weighs,
)
from simulator.events import DepthDiff, Event, Quote, Trade, text_of

WEIGHT_PER_MINUTE = 6000
DEPTH_LIMIT = 5000
TOP_LEVELS = 20
RULES = Rules(messages_per_second=5, streams=1024, ping_interval_seconds=20.0, pong_timeout_seconds=60.0)


class _TradeId(msgspec.Struct, gc=False):
    t: int


class _Depth(msgspec.Struct, gc=False):
    U: int
    u: int
    b: list[tuple[str, str]]
    a: list[tuple[str, str]]


class _UpdateId(msgspec.Struct, gc=False):
    u: int


class _LastUpdateId(msgspec.Struct, gc=False):
    lastUpdateId: int


class _PriceAndQuantity(msgspec.Struct, gc=False):
    p: str
    q: str


_trade_id = msgspec.json.Decoder(_TradeId)
_depth = msgspec.json.Decoder(_Depth)
_update_id = msgspec.json.Decoder(_UpdateId)
_last_update_id = msgspec.json.Decoder(_LastUpdateId)
_price_and_quantity = msgspec.json.Decoder(_PriceAndQuantity)


class SpotBooks:
    """Depth differences at @depth@100ms, the top 20 at @depth20@100ms."""

    numbered = True

    def top_stream(self, symbol: str) -> str:
        return f"{symbol.lower()}@depth20@100ms"

    def made(self, symbol: str) -> Mapping[str, int]:
        return {self.top_stream(symbol): TOP_LEVELS}

    def read_depth(self, frame: Frame) -> DepthDiff:
        try:
            depth = _depth.decode(frame.payload)
        except msgspec.MsgspecError as error:
            raise Unreadable(f"{frame.stream}: {error}") from error
        return DepthDiff(frame.time_ns, frame.symbol, depth.U, depth.u, depth.b, depth.a)

    def read_snapshot(self, body: bytes) -> Snapshot:
        return binance.read_snapshot(body)

    def spacing_ns(self, diff: Frame) -> int:
        return 0

    def make(self, stream: str, change: Change) -> Frame:
        frame, book = change.frame, change.after
        payload = _spell_book(book)
        marks = ((BOOKS, frame.symbol, book.last_id),)
        return Frame(frame.time_ns, stream, payload, combine(stream, payload), marks, "depth20", frame.symbol)


class BinanceSpot:
    venue = "BINANCE_SPOT"
    sources: Mapping[str, str] = {"BINANCE_SPOT": "symbol"}
    words = ("binance_spot", "spot")
    books = SpotBooks()
    socket_path = ""
    rest_path = ""

    def __init__(self, rules: Rules = RULES) -> None:
        self._rules = rules
        self._door = Door()
        self._rest = Rest(_ROUTES, WEIGHT_PER_MINUTE)

    def awaited(self, source: str, listed: Mapping[str, Listed]) -> set[str]:
        return {f"{symbol.lower()}@trade" for symbol in listed}

    def spell(self, base: str, quote: str) -> str | None:
        return None if quote == "USD" else base + quote

    def describe(self, symbol: str, tick_e8: int, lot_e8: int) -> Listed:
        return Instrument(symbol, *binance.split(symbol), tick_e8, lot_e8)

    # What a recording holds

    def claims(self, raw: bytes) -> bool:
        if raw.startswith(b"http"):
            return re.search(rb"/api/v[13]/(?!brokerage)", raw) is not None
        fields = binance.payload_fields(raw)
        event = fields.get("e")
        if event == "depthUpdate":
            return "pu" not in fields and "T" not in fields
        if event in {"trade", "aggTrade"}:
            return "M" in fields
        book = {"lastUpdateId", "bids", "asks"} <= set(fields)
        return event is None and (book or {"u", "s", "b", "B", "a", "A"} <= set(fields))

    def read(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Frame]:
        for time_ns, raw in lines:
            found = binance.unwrap(raw)
            if found is not None:
                yield _frame(time_ns, *found, raw)
                continue
            fields = binance.fields_of(raw)
            if "result" in fields or "code" in fields:
                continue
            stream = _stream_of(fields)
            yield _frame(time_ns, stream, raw, combine(stream, raw))

    def read_book(self, body: Body) -> tuple[str, Snapshot] | None:
        return binance.read_book(body)

    def read_body(self, body: Body) -> Sequence[Frame]:
        return ()

    def texts(self, frame: Frame) -> tuple[Sequence[str], Sequence[str]]:
        if frame.kind == "trade" or frame.stream.endswith("@aggTrade"):
            fields = _price_and_quantity.decode(frame.payload)
            return (fields.p,), (fields.q,)
        if frame.kind == "depth":
            diff = self.books.read_depth(frame)
            rows = [*diff.bids, *diff.asks]
        elif frame.kind == "depth20":
            top = self.books.read_snapshot(frame.payload)
            rows = [*top.bids, *top.asks]
        else:
            return (), ()
        return [price for price, _ in rows], [quantity for _, quantity in rows]

    # What a synthetic market says

    def speak(self, events: Iterable[Event]) -> Iterator[Frame]:
        for event in events:
            if isinstance(event, Trade):
                yield _trade(event)
            elif isinstance(event, DepthDiff):
                yield _depth_frame(event)
            elif isinstance(event, Quote):
                yield _quote(event)

    def spoil(self, frame: Frame, rng: Random) -> Frame:
        return binance.spoil(frame, rng, "t")

    # A connection, and REST

    def connect(self, path: str, query: Mapping[str, str], now: float, view: View) -> Session:
        """Raw events at /ws, the combined envelope at /stream; both take SUBSCRIBE and its kin later."""
        root, _, rest = path.strip("/").partition("/")
        if root not in {"ws", "stream"}:
            raise LookupError(path)
        names = rest if root == "ws" else query.get("streams", "")
        self._door.enter(now)
        session = BinanceSession(view, names, root == "stream", self._rules, now)
        session.microseconds = query.get("timeUnit", "") in {"MICROSECOND", "microsecond"}
        return session

    def answer(self, path: str, query: Mapping[str, str], now: float, view: View) -> Answer:
        return self._rest.answer(path, query, now, view)


def _trade(trade: Trade) -> Frame:
    time_ms = trade.time_ns // 1_000_000
    taker = "true" if trade.buyer_is_maker else "false"
    payload = (
        f'{{"e":"trade","E":{time_ms},"s":"{trade.symbol}","t":{trade.trade_id},"p":"{text_of(trade.price_e8)}",'
        f'"q":"{text_of(trade.quantity_e8)}","T":{time_ms},"m":{taker},"M":true}}'
    ).encode()
    stream = f"{trade.symbol.lower()}@trade"
    marks = ((TRADES, trade.symbol, trade.trade_id),)
    return Frame(trade.time_ns, stream, payload, combine(stream, payload), marks, "trade", trade.symbol)


def _depth_frame(diff: DepthDiff) -> Frame:
    payload = (
        f'{{"e":"depthUpdate","E":{diff.time_ns // 1_000_000},"s":"{diff.symbol}","U":{diff.first_id},'
        f'"u":{diff.last_id},"b":{levels(diff.bids)},"a":{levels(diff.asks)}}}'
    ).encode()
    stream = f"{diff.symbol.lower()}@depth@100ms"
    return Frame(diff.time_ns, stream, payload, combine(stream, payload), (), "depth", diff.symbol, diff=diff)


def _quote(quote: Quote) -> Frame:
    payload = (
        f'{{"u":{quote.update_id},"s":"{quote.symbol}","b":"{text_of(quote.bid_e8)}",'
        f'"B":"{text_of(quote.bid_quantity_e8)}","a":"{text_of(quote.ask_e8)}","A":"{text_of(quote.ask_quantity_e8)}"}}'
    ).encode()
    stream = f"{quote.symbol.lower()}@bookTicker"
    marks = ((QUOTES, quote.symbol, quote.update_id),)
    return Frame(quote.time_ns, stream, payload, combine(stream, payload), marks, symbol=quote.symbol)


_KINDS = {"trade": "trade", "depth@100ms": "depth", "depth": "depth", "depth20@100ms": "depth20"}


def _frame(time_ns: int, stream: str, payload: bytes, combined: bytes) -> Frame:
    name, _, channel = stream.partition("@")
    symbol = "" if name.startswith("!") else name.upper()
    try:
        marks = _marks(channel, symbol, payload)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"{stream}: {error}") from error
    return Frame(time_ns, stream, payload, combined, marks, _KINDS.get(channel, "other"), symbol)


def _marks(channel: str, symbol: str, payload: bytes) -> tuple[tuple[str, str, int], ...]:
    if channel == "trade":
        return ((TRADES, symbol, _trade_id.decode(payload).t),)
    if channel == "bookTicker":
        return ((QUOTES, symbol, _update_id.decode(payload).u),)
    if channel == "depth20@100ms":
        return ((BOOKS, symbol, _last_update_id.decode(payload).lastUpdateId),)
    return ()


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


def _spell_book(book: Snapshot) -> bytes:
    return (f'{{"lastUpdateId":{book.last_id},"bids":{levels(book.bids)},"asks":{levels(book.asks)}}}').encode()


def _exchange_info(query: Query, view: View) -> dict[str, Any]:
    recorded = binance.recorded_rows(view, "/exchangeInfo", "symbols")
    return {
        "timezone": "UTC",
        "serverTime": view.time_ns // 1_000_000,
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": WEIGHT_PER_MINUTE},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 61000},
        ],
        "exchangeFilters": [],
        "symbols": [recorded.get(symbol) or _rules(view.instruments[symbol]) for symbol in _symbols_asked(query, view)],
    }


def _symbols_asked(query: Query, view: View) -> list[str]:
    if "symbol" in query and "symbols" in query:
        raise Refused(-1128, "Combination of optional parameters invalid.")
    asked: Any = [query["symbol"]] if "symbol" in query else list(view.instruments)
    if "symbols" in query:
        try:
            asked = msgspec.json.decode(query["symbols"], type=list[str])
        except msgspec.MsgspecError:
            raise Refused(-1100, "Illegal characters found in parameter 'symbols'.") from None
    if any(symbol not in view.instruments for symbol in asked):
        raise Refused(-1121, "Invalid symbol.")
    return list(asked)


def _rules(instrument: Listed) -> dict[str, Any]:
    assert isinstance(instrument, Instrument)
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
        "filters": binance.filters(instrument),
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "NONE",
        "allowedSelfTradePreventionModes": ["NONE"],
    }


def _depth_of(query: Query, view: View) -> Any:
    symbol = asked_symbol(query, view.instruments)
    limit = asked_limit(query, 100, DEPTH_LIMIT)
    book = view.book(symbol, limit)
    if book is None:
        raise Refused(-1000, f"The simulator has no book of {symbol} at this moment.", status=503)
    return msgspec.Raw(_spell_book(cut(book, limit)))


def _trades(query: Query, view: View) -> Answer:
    frames = view.trades(asked_symbol(query, view.instruments))
    return _told(history.newest(frames, asked_limit(query, 500, HISTORY_LIMIT)))


def _historical_trades(query: Query, view: View) -> Answer:
    if "fromId" not in query:
        return _trades(query, view)
    first = asked_number(query, "fromId", 0)
    frames = view.trades(asked_symbol(query, view.instruments))
    return _told(history.by_id(frames, first, asked_limit(query, 500, HISTORY_LIMIT)))


def _told(frames: Sequence[Frame]) -> Answer:
    marks = [mark for frame in frames for mark in frame.marks]
    return Answer(200, binance.to_json([_rest_trade(frame) for frame in frames]), marks)


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
    "/api/v3/ping": Route(binance.ping, weighs(1)),
    "/api/v3/time": Route(binance.time, weighs(1)),
    "/api/v3/exchangeInfo": Route(_exchange_info, weighs(20)),
    "/api/v3/depth": Route(_depth_of, by_limit(((100, 5), (500, 25), (1000, 50), (5000, 250)), 100)),
    "/api/v3/trades": Route(_trades, weighs(25)),
    "/api/v3/historicalTrades": Route(_historical_trades, weighs(25)),
}
