"""Binance USD-M futures, as at developers.binance.com "USDS-Margined Futures", after the routes were split in 2026.

Public streams (bookTicker, depth) are served at /public/ws and /public/stream, market streams (aggTrade, markPrice,
kline, forceOrder) at /market/ws and /market/stream; the old /ws and /stream are public ones. A stream that was
subscribed on the wrong route is acknowledged and stays silent. Raw @trade is undocumented and served on both.
    {"e":"aggTrade","E":123456789,"a":5933014,"s":"BTCUSDT","p":"0.001","q":"100","f":100,"l":105,"T":123456785,
     "m":true}
    {"e":"markPriceUpdate","E":1562305380000,"s":"BTCUSDT","p":"11794.15","i":"11784.62","P":"11784.25",
     "r":"0.00038167","T":1562306400000}
Recordings hold raw trades more often than aggTrade: they are played as they are and gathered into aggTrade as well.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import msgspec

from simulator.books import cut
from simulator.contract import (
    BOOKS,
    FUNDING,
    KLINES,
    LIQUIDATIONS,
    OPEN_INTEREST,
    QUOTES,
    TRADES,
    Answer,
    Body,
    Change,
    Frame,
    Identity,
    Instrument,
    Listed,
    Session,
    Snapshot,
    Unreadable,
    View,
)
from simulator.dialects import binance, history
from simulator.dialects.aggregates import Aggregate, Aggregates
from simulator.dialects.binance import (
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
    number,
    weighs,
)
from simulator.events import (
    DepthDiff,
    Event,
    Kline,
    Liquidation,
    Mark,
    Marks,
    OpenInterest,
    Quote,
    Trade,
    text_of,
)

WEIGHT_PER_MINUTE = 2400
DEPTH_LIMIT = 1000
TOP_LEVELS = 20
MINUTE_MS = 60_000
MILLISECOND_NS = 10**6
SECOND_NS = 10**9
TOP_INTERVAL_NS = 100 * MILLISECOND_NS
RULES = Rules(messages_per_second=10, streams=200, ping_interval_seconds=180.0, pong_timeout_seconds=600.0)
PUBLIC = ("bookTicker", "depth", "rpiDepth")
ALL_MARKS = "!markPrice@arr@1s"
ALL_LIQUIDATIONS = "!forceOrder@arr"


def is_public(stream: str) -> bool:
    """Whether /public serves it."""
    channel = _channel(stream)
    return channel.startswith(PUBLIC) or channel == "trade"


def is_market(stream: str) -> bool:
    """Whether /market serves it."""
    return not _channel(stream).startswith(PUBLIC)


def _channel(stream: str) -> str:
    return stream[1:] if stream.startswith("!") else stream.partition("@")[2]


ROUTES = {"public": is_public, "market": is_market}


class _DepthIds(msgspec.Struct, gc=False):
    E: int
    T: int
    U: int
    u: int
    pu: int


class _Depth(_DepthIds, gc=False):
    b: list[tuple[str, str]]
    a: list[tuple[str, str]]


class _RawTrade(msgspec.Struct, gc=False):
    E: int
    T: int
    s: str
    t: int
    p: str
    q: str
    m: bool
    X: str = "MARKET"


class _PriceAndQuantity(msgspec.Struct, gc=False):
    p: str
    q: str


class _AggId(msgspec.Struct, gc=False):
    a: int


class _UpdateId(msgspec.Struct, gc=False):
    u: int


class _Candle(msgspec.Struct, gc=False):
    t: int
    x: bool


class _Kline(msgspec.Struct, gc=False):
    k: _Candle


class _MarkTime(msgspec.Struct, gc=False):
    s: str
    E: int


class _Order(msgspec.Struct, gc=False):
    s: str
    T: int


class _ForceOrder(msgspec.Struct, gc=False):
    o: _Order


_agg_id = msgspec.json.Decoder(_AggId)
_update_id = msgspec.json.Decoder(_UpdateId)
_closed_kline = msgspec.json.Decoder(_Kline)
_recorded_marks = msgspec.json.Decoder(list[_MarkTime] | _MarkTime)
_recorded_order = msgspec.json.Decoder(_ForceOrder)
_depth = msgspec.json.Decoder(_Depth)
_ids = msgspec.json.Decoder(_DepthIds)
_raw_trade = msgspec.json.Decoder(_RawTrade)
_price_and_quantity = msgspec.json.Decoder(_PriceAndQuantity)


class FuturesBooks:
    """Differences leave out ids but name the update before them (`pu`): a difference covers what comes after that one.

    A depth20 frame is spelled as a difference whose levels are the top of the book.
    """

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
        return DepthDiff(frame.time_ns, frame.symbol, depth.pu + 1, depth.u, depth.b, depth.a)

    def read_snapshot(self, body: bytes) -> Snapshot:
        if b'"lastUpdateId"' in body:
            return binance.read_snapshot(body)
        try:
            depth = _depth.decode(body)
        except msgspec.MsgspecError as error:
            raise Unreadable(f"no depth: {error}") from error
        return Snapshot(depth.u, depth.b, depth.a)

    def spacing_ns(self, diff: Frame) -> int:
        return TOP_INTERVAL_NS if diff.stream.endswith("@0ms") else 0

    def make(self, stream: str, change: Change) -> Frame:
        frame, book = change.frame, change.after
        depth = _ids.decode(frame.payload)
        row = DepthDiff(frame.time_ns, frame.symbol, depth.U, depth.u, book.bids, book.asks)
        payload = _spell_depth(row, depth.E, depth.T, depth.pu)
        marks = ((BOOKS, frame.symbol, depth.u),)
        return Frame(frame.time_ns, stream, payload, combine(stream, payload), marks, "depth20", frame.symbol)


class BinanceFutures:
    venue = "BINANCE_FUTURES"
    sources: Mapping[str, str] = {
        "BINANCE_FUTURES": "symbol",
        "BINANCE_FUTURES_KLINES": "market",
        "BINANCE_FUTURES_LIQUIDATIONS": "market",
        "BINANCE_FUTURES_FUNDING": "market",
        "BINANCE_FUTURES_OI": "poll",
    }
    words = ("binance_futures", "usdm", "usd-m", "futures")
    books = FuturesBooks()
    socket_path = ""
    rest_path = ""

    def __init__(self, rules: Rules = RULES) -> None:
        self._rules = rules
        self._door = Door()
        self._rest = Rest(_ENDPOINTS, WEIGHT_PER_MINUTE)

    def awaited(self, source: str, listed: Mapping[str, Listed]) -> set[str]:
        if source == "BINANCE_FUTURES":
            return {f"{symbol.lower()}@aggTrade" for symbol in listed}
        if source == "BINANCE_FUTURES_KLINES":
            return {f"{symbol.lower()}@kline_1m" for symbol in listed if symbol.endswith("USDT")}
        return {ALL_LIQUIDATIONS if source == "BINANCE_FUTURES_LIQUIDATIONS" else ALL_MARKS}

    def spell(self, base: str, quote: str) -> str | None:
        return base + quote if quote in {"USDT", "USDC"} else None

    def describe(self, symbol: str, tick_e8: int, lot_e8: int) -> Listed:
        return Instrument(symbol, *binance.split(symbol), tick_e8, lot_e8, "perpetual")

    # What a recording holds

    def claims(self, raw: bytes) -> bool:
        if raw.startswith(b"http"):
            return b"/fapi/" in raw
        fields = binance.payload_fields(raw)
        event = fields.get("e")
        if event == "depthUpdate":
            return "pu" in fields
        if event == "trade":
            return "M" not in fields and isinstance(fields.get("t"), int) and "T" in fields
        if event == "aggTrade":
            return "M" not in fields
        return event in {"bookTicker", "markPriceUpdate", "forceOrder"}

    def read(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Frame]:
        aggregates, told = Aggregates(), set[str]()
        for time_ns, raw in lines:
            yield from map(_agg_trade, aggregates.due(time_ns))
            frame = _read(time_ns, raw)
            if frame is None:
                continue
            yield frame
            if frame.kind == "trade":
                told.add(frame.symbol)
            elif frame.stream.endswith("@trade") and frame.symbol not in told:
                yield from map(_agg_trade, _gather(aggregates, frame))
        yield from map(_agg_trade, aggregates.rest())

    def read_book(self, body: Body) -> tuple[str, Snapshot] | None:
        return binance.read_book(body)

    def read_body(self, body: Body) -> Sequence[Frame]:
        path = body.url.partition("?")[0]
        for name in ("openInterest", "premiumIndex"):
            if path.endswith(f"/fapi/v1/{name}"):
                return _polled(name, body)
        return ()

    def texts(self, frame: Frame) -> tuple[Sequence[str], Sequence[str]]:
        channel = _channel(frame.stream)
        if channel in {"trade", "aggTrade"}:
            fields = _price_and_quantity.decode(frame.payload)
            return (fields.p,), (fields.q,)
        if not channel.startswith("depth"):
            return (), ()
        diff = self.books.read_depth(frame)
        rows = [*diff.bids, *diff.asks]
        return [price for price, _ in rows], [quantity for _, quantity in rows]

    # What a synthetic market says

    def speak(self, events: Iterable[Event]) -> Iterator[Frame]:
        aggregates, depths, liquidations = Aggregates(), _Depths(), _Liquidations()
        for event in events:
            time_ns = event.time_ns
            yield from liquidations.due(time_ns)
            if isinstance(event, Trade):
                yield from map(_agg_trade, aggregates.due(time_ns, patience_ns=1))
                yield from map(_agg_trade, aggregates.add(_trade_of(event)))
                continue
            yield from map(_agg_trade, aggregates.due(time_ns, patience_ns=0))
            if isinstance(event, DepthDiff):
                yield depths.frame(event)
            elif isinstance(event, Quote):
                yield _quote(event)
            elif isinstance(event, Kline):
                yield _kline(event)
            elif isinstance(event, Marks):
                yield from _marks(event)
            elif isinstance(event, Liquidation):
                liquidations.add(event)
            elif isinstance(event, OpenInterest):
                yield _open_interest(event)

    def spoil(self, frame: Frame, rng: Random) -> Frame:
        return binance.spoil(frame, rng, "a")

    # A connection, and REST

    def connect(self, path: str, query: Mapping[str, str], now: float, view: View) -> Session:
        route, _, rest = path.strip("/").partition("/")
        if route in {"ws", "stream"}:
            route, rest = "public", path.strip("/")
        root, _, names = rest.partition("/")
        if route not in ROUTES or root not in {"ws", "stream"}:
            raise LookupError(path)
        self._door.enter(now)
        combined = root == "stream"
        asked = query.get("streams", "") if combined else names
        return BinanceSession(view, asked, combined, self._rules, now, serves=ROUTES[route])

    def answer(self, path: str, query: Mapping[str, str], now: float, view: View) -> Answer:
        return self._rest.answer(path, query, now, view)


# Recorded frames


def _read(time_ns: int, raw: bytes) -> Frame | None:
    found = binance.unwrap(raw)
    if found is not None:
        stream, payload = found
        return _recorded(time_ns, stream, payload, raw)
    fields = binance.fields_of(raw)
    if "result" in fields or "code" in fields:
        return None
    stream = _stream_of(fields, raw.lstrip().startswith(b"["))
    return _recorded(time_ns, stream, raw, combine(stream, raw))


def _stream_of(fields: dict[str, Any], many: bool) -> str:
    """The stream a raw payload came from, as far as the payload tells."""
    event = fields.get("e")
    if event == "markPriceUpdate" and many:
        return ALL_MARKS
    symbol = fields.get("s", fields["o"].get("s") if isinstance(fields.get("o"), dict) else None)
    if not isinstance(symbol, str) or not isinstance(event, str):
        raise Unreadable("neither a combined frame nor a payload that names its symbol and event")
    if event == "kline":
        return f"{symbol.lower()}@kline_{fields['k']['i']}"
    if event == "forceOrder":
        return ALL_LIQUIDATIONS
    channels = {"depthUpdate": "depth@100ms", "markPriceUpdate": "markPrice@1s", "24hrTicker": "ticker"}
    return f"{symbol.lower()}@{channels.get(event, event)}"


def _recorded(time_ns: int, stream: str, payload: bytes, combined: bytes) -> Frame:
    channel = _channel(stream)
    symbol = "" if stream.startswith("!") else stream.partition("@")[0].upper()
    try:
        marks = _read_marks(channel, symbol, payload)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"{stream}: {error}") from error
    return Frame(time_ns, stream, payload, combined, marks, _kind(channel), symbol)


def _kind(channel: str) -> str:
    if channel.partition("@")[0] == "depth":
        return "depth"
    return {"aggTrade": "trade", "depth20@100ms": "depth20"}.get(channel, "other")


def _read_marks(channel: str, symbol: str, payload: bytes) -> tuple[Identity, ...]:
    """What a recorded frame says that a collector keeps. Raw trades are kept as aggTrade only."""
    if channel == "aggTrade":
        return ((TRADES, symbol, _agg_id.decode(payload).a),)
    if channel == "bookTicker":
        return ((QUOTES, symbol, _update_id.decode(payload).u),)
    if channel == "depth20@100ms":
        return ((BOOKS, symbol, _update_id.decode(payload).u),)
    if channel == "kline_1m":
        candle = _closed_kline.decode(payload).k
        return ((KLINES, symbol, candle.t * 1000),) if candle.x else ()
    if channel.startswith("markPrice"):
        rows = _recorded_marks.decode(payload)
        return tuple((FUNDING, row.s, row.E * 1000) for row in (rows if isinstance(rows, list) else [rows]))
    if channel.startswith("forceOrder"):
        order = _recorded_order.decode(payload).o
        return ((LIQUIDATIONS, order.s, order.T * 1000),)
    return ()


def _gather(aggregates: Aggregates, frame: Frame) -> list[Aggregate]:
    try:
        trade = _raw_trade.decode(frame.payload)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"{frame.stream}: {error}") from error
    if trade.X != "MARKET":
        return []
    row = Aggregate(
        *(frame.time_ns, trade.s, trade.E, trade.T, trade.t, trade.t),
        *(trade.p, _e8(trade.q), trade.m, len(trade.q.partition(".")[2])),
    )
    return aggregates.add(row)


def _polled(name: str, body: Body) -> Sequence[Frame]:
    fields = binance.fields_of(body.body)
    if "symbol" not in fields:
        return ()
    symbol = fields["symbol"]
    marks = ((OPEN_INTEREST, symbol, fields["time"] * 1000),) if name == "openInterest" else ()
    return (Frame(body.time_ns, f"rest:{name}:{symbol}", body.body, marks=marks, symbol=symbol),)


def _e8(text: str) -> int:
    whole, _, fraction = text.partition(".")
    if not (whole + fraction).isdecimal() or len(fraction) > 8:
        raise Unreadable(f"not a quantity of eight decimals: {text!r}")
    return int(whole + fraction.ljust(8, "0"))


# Spelling


def _trade_of(trade: Trade) -> Aggregate:
    time_ms, price = trade.time_ns // MILLISECOND_NS, number(trade.price_e8)
    trade_id = trade.trade_id
    return Aggregate(
        *(trade.time_ns, trade.symbol, time_ms, time_ms, trade_id, trade_id),
        *(price, trade.quantity_e8, trade.buyer_is_maker),
    )


def _agg_trade(row: Aggregate) -> Frame:
    quantity = number(row.quantity_e8) if row.decimals == 8 else _fixed(row.quantity_e8, row.decimals)
    payload = (
        f'{{"e":"aggTrade","E":{row.event_ms},"a":{row.aggregate_id},"s":"{row.symbol}","p":"{row.price}",'
        f'"q":"{quantity}","f":{row.first_id},"l":{row.last_id},"T":{row.trade_ms},'
        f'"m":{"true" if row.buyer_is_maker else "false"}}}'
    ).encode()
    stream = f"{row.symbol.lower()}@aggTrade"
    marks = ((TRADES, row.symbol, row.aggregate_id),)
    return Frame(row.received_ns, stream, payload, combine(stream, payload), marks, "trade", row.symbol)


def _fixed(value_e8: int, decimals: int) -> str:
    text = text_of(value_e8)
    return text[: len(text) - 8 + decimals].rstrip(".")


class _Depths:
    """Depth frames, each of which names the last update id of the one before."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def frame(self, diff: DepthDiff) -> Frame:
        time_ms = diff.time_ns // MILLISECOND_NS
        before = self._last.get(diff.symbol, diff.first_id - 1)
        self._last[diff.symbol] = diff.last_id
        payload = _spell_depth(diff, time_ms, time_ms, before)
        stream = f"{diff.symbol.lower()}@depth@100ms"
        return Frame(diff.time_ns, stream, payload, combine(stream, payload), (), "depth", diff.symbol, diff=diff)


def _spell_depth(diff: DepthDiff, event_ms: int, trade_ms: int, before: int) -> bytes:
    return (
        f'{{"e":"depthUpdate","E":{event_ms},"T":{trade_ms},"s":"{diff.symbol}","U":{diff.first_id},'
        f'"u":{diff.last_id},"pu":{before},"b":{levels(diff.bids)},"a":{levels(diff.asks)}}}'
    ).encode()


def _quote(quote: Quote) -> Frame:
    time_ms = quote.time_ns // MILLISECOND_NS
    payload = (
        f'{{"e":"bookTicker","u":{quote.update_id},"s":"{quote.symbol}","b":"{number(quote.bid_e8)}",'
        f'"B":"{number(quote.bid_quantity_e8)}","a":"{number(quote.ask_e8)}","A":"{number(quote.ask_quantity_e8)}",'
        f'"T":{time_ms},"E":{time_ms}}}'
    ).encode()
    return _frame(quote.time_ns, f"{quote.symbol.lower()}@bookTicker", payload, (QUOTES, quote.update_id), quote.symbol)


def _kline(kline: Kline) -> Frame:
    open_ms = kline.open_time_ns // MILLISECOND_NS
    candle = {
        **{"t": open_ms, "T": open_ms + MINUTE_MS - 1, "s": kline.symbol, "i": "1m"},
        **{"f": _id(kline.first_trade_id), "L": _id(kline.last_trade_id)},
        **{"o": number(kline.open_e8), "c": number(kline.close_e8)},
        **{"h": number(kline.high_e8), "l": number(kline.low_e8)},
        **{"v": number(kline.volume_e8), "n": kline.trade_count, "x": kline.closed},
        **{"q": number(kline.quote_volume_e8), "V": number(kline.taker_buy_volume_e8)},
        **{"Q": number(kline.taker_buy_quote_volume_e8), "B": "0"},
    }
    fields = {"e": "kline", "E": kline.time_ns // MILLISECOND_NS, "s": kline.symbol, "k": candle}
    stream = f"{kline.symbol.lower()}@kline_1m"
    payload = binance.to_json(fields)
    if not kline.closed:
        return Frame(kline.time_ns, stream, payload, combine(stream, payload), symbol=kline.symbol)
    return _frame(kline.time_ns, stream, payload, (KLINES, kline.open_time_ns // 1000), kline.symbol)


def _id(trade_id: int | None) -> int:
    return -1 if trade_id is None else trade_id


def _frame(time_ns: int, stream: str, payload: bytes, mark: tuple[str, int], symbol: str) -> Frame:
    marks = ((mark[0], symbol, mark[1]),)
    return Frame(time_ns, stream, payload, combine(stream, payload), marks, symbol=symbol)


def _marks(event: Marks) -> Iterator[Frame]:
    """All of them in one frame, and each in its own."""
    time_ms = event.time_ns // MILLISECOND_NS
    payloads = [_mark(mark, time_ms) for mark in event.marks]
    marks = tuple((FUNDING, mark.symbol, time_ms * 1000) for mark in event.marks)
    whole = b"[" + b",".join(payloads) + b"]"
    yield Frame(event.time_ns, ALL_MARKS, whole, combine(ALL_MARKS, whole), marks)
    for mark, payload in zip(event.marks, payloads, strict=True):
        stream = f"{mark.symbol.lower()}@markPrice@1s"
        yield _frame(event.time_ns, stream, payload, (FUNDING, time_ms * 1000), mark.symbol)


def _mark(mark: Mark, time_ms: int) -> bytes:
    return (
        f'{{"e":"markPriceUpdate","E":{time_ms},"s":"{mark.symbol}","p":"{text_of(mark.mark_e8)}",'
        f'"P":"{text_of(mark.mark_e8)}","i":"{text_of(mark.index_e8)}","r":"{text_of(mark.rate_e8)}",'
        f'"T":{mark.next_funding_ns // MILLISECOND_NS}}}'
    ).encode()


class _Liquidations:
    """The latest liquidation of a symbol within a second is told when the second is over, the others never."""

    def __init__(self) -> None:
        self._latest: dict[str, Liquidation] = {}
        self._ends_ns: dict[str, int] = {}

    def add(self, liquidation: Liquidation) -> None:
        self._latest[liquidation.symbol] = liquidation
        self._ends_ns.setdefault(liquidation.symbol, liquidation.time_ns + SECOND_NS)

    def due(self, time_ns: int) -> Iterator[Frame]:
        for symbol in [symbol for symbol, end_ns in self._ends_ns.items() if end_ns <= time_ns]:
            del self._ends_ns[symbol]
            yield from _force_order(self._latest.pop(symbol), time_ns)


def _force_order(row: Liquidation, time_ns: int) -> Iterator[Frame]:
    """In the stream of all, and in its symbol's own."""
    order_ms = row.time_ns // MILLISECOND_NS
    quantity, price = number(row.quantity_e8), number(row.price_e8)
    order = {
        **{"s": row.symbol, "S": "BUY" if row.buys else "SELL", "o": "LIMIT", "f": "IOC", "q": quantity},
        **{"p": price, "ap": number(row.average_price_e8), "X": "FILLED", "l": quantity, "z": quantity, "T": order_ms},
    }
    payload = binance.to_json({"e": "forceOrder", "E": time_ns // MILLISECOND_NS, "o": order})
    for stream in (ALL_LIQUIDATIONS, f"{row.symbol.lower()}@forceOrder"):
        yield _frame(time_ns, stream, payload, (LIQUIDATIONS, order_ms * 1000), row.symbol)


def _open_interest(row: OpenInterest) -> Frame:
    time_ms = row.time_ns // MILLISECOND_NS
    payload = binance.to_json(
        {"openInterest": number(row.open_interest_e8), "symbol": row.symbol, "time": time_ms},
    )
    marks = ((OPEN_INTEREST, row.symbol, time_ms * 1000),)
    return Frame(row.time_ns, f"rest:openInterest:{row.symbol}", payload, marks=marks, symbol=row.symbol)


# REST


def _exchange_info(query: Query, view: View) -> dict[str, Any]:
    """All symbols, whatever is asked."""
    recorded = binance.recorded_rows(view, "/exchangeInfo", "symbols")
    listed = {symbol: _rules(row) for symbol, row in view.instruments.items() if symbol not in recorded}
    return {
        "timezone": "UTC",
        "serverTime": view.time_ns // MILLISECOND_NS,
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": WEIGHT_PER_MINUTE}
        ],
        "exchangeFilters": [],
        "assets": [],
        "symbols": [*listed.values(), *recorded.values()],
    }


def _rules(instrument: Listed) -> dict[str, Any]:
    assert isinstance(instrument, Instrument)
    return {
        "symbol": instrument.symbol,
        "pair": instrument.symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": 4133404800000,
        "onboardDate": 1567965300000,
        "status": "TRADING",
        "baseAsset": instrument.base,
        "quoteAsset": instrument.quote,
        "marginAsset": instrument.quote,
        "pricePrecision": 8,
        "quantityPrecision": 8,
        "underlyingType": "COIN",
        "filters": binance.filters(instrument),
        "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TRAILING_STOP_MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
    }


def _depth_of(query: Query, view: View) -> dict[str, Any]:
    symbol = asked_symbol(query, view.instruments)
    limit = asked_limit(query, 500, DEPTH_LIMIT)
    book = view.book(symbol, limit)
    if book is None:
        raise Refused(-1000, f"The simulator has no book of {symbol} at this moment.", status=503)
    top, time_ms = cut(book, limit), view.time_ns // MILLISECOND_NS
    return {"lastUpdateId": book.last_id, "E": time_ms, "T": time_ms, "bids": top.bids, "asks": top.asks}


def _open_interest_of(query: Query, view: View) -> Answer:
    return _newest(f"rest:openInterest:{asked_symbol(query, view.instruments)}", view)


def _newest(stream: str, view: View) -> Answer:
    frame = view.newest(stream)
    if frame is None:
        raise Refused(-1000, f"The simulator has no {stream.split(':')[1]} at this moment.", status=503)
    return Answer(200, frame.payload, frame.marks)


def _premium_index(query: Query, view: View) -> Any:
    if "symbol" not in query:
        frames = (_newest_mark(symbol, view) for symbol in view.instruments)
        return [_premium(frame) for frame in frames if frame is not None]
    symbol = asked_symbol(query, view.instruments)
    frame = _newest_mark(symbol, view)
    return _premium(frame) if frame is not None else _newest(f"rest:premiumIndex:{symbol}", view)


def _newest_mark(symbol: str, view: View) -> Frame | None:
    return view.newest(f"{symbol.lower()}@markPrice@1s")


def _premium(frame: Frame) -> dict[str, Any]:
    fields = msgspec.json.decode(frame.payload)
    return {
        "symbol": fields["s"],
        "markPrice": fields["p"],
        "indexPrice": fields["i"],
        "estimatedSettlePrice": fields.get("P", "0"),
        "lastFundingRate": fields["r"],
        "interestRate": "0.00010000",
        "nextFundingTime": fields["T"],
        "time": fields["E"],
    }


def _agg_trades(query: Query, view: View) -> Answer:
    frames = view.trades(asked_symbol(query, view.instruments))
    limit = asked_limit(query, 500, binance.HISTORY_LIMIT)
    if "fromId" in query:
        kept = history.by_id(frames, asked_number(query, "fromId", 0), limit)
    else:
        kept = history.newest(frames, limit)
    rows = [msgspec.json.decode(frame.payload) for frame in kept]
    told = [{key: row[key] for key in ("a", "p", "q", "f", "l", "T", "m")} for row in rows]
    return Answer(200, binance.to_json(told), [mark for frame in kept for mark in frame.marks])


_ENDPOINTS = {
    "/fapi/v1/ping": Route(binance.ping, weighs(1)),
    "/fapi/v1/time": Route(binance.time, weighs(1)),
    "/fapi/v1/exchangeInfo": Route(_exchange_info, weighs(1)),
    "/fapi/v1/depth": Route(_depth_of, by_limit(((50, 2), (100, 5), (500, 10), (1000, 20)), 500)),
    "/fapi/v1/openInterest": Route(_open_interest_of, weighs(1)),
    "/fapi/v1/premiumIndex": Route(_premium_index, lambda query: 1 if "symbol" in query else 10),
    "/fapi/v1/aggTrades": Route(_agg_trades, weighs(20)),
}
