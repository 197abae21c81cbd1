"""Kraken spot, as in docs.kraken.com of late 2026: WebSocket version 2 and the public REST of version 0.

    {"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":65000.1,"bid_qty":0.50000000,...}]}
    {"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","price":65000.1,"qty":0.00027625,
     "ord_type":"limit","trade_id":10218208,"timestamp":"2025-11-10T17:23:53.971745Z"}]}
    {"method":"subscribe","req_id":1,"result":{"channel":"trade","snapshot":true,"symbol":"BTC/USD"},"success":true,...}
    {"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[{"price":65000.10,"qty":0.50000000}],"asks":[],
     "checksum":2114181697,"timestamp":"2025-11-10T17:23:53.971745Z"}]}
    {"error":"Currency pair not supported XBT/USD","method":"subscribe","req_id":1,"success":false,"symbol":"XBT/USD"}
Oddities: every symbol of a request gets an acknowledgement of its own; a ticker's `event_trigger` is `trades` unless
`bbo` is asked for; snapshots come by themselves for tickers and on request for trades (the last 50); a `heartbeat`
comes when nothing else was sent for a second, once something is subscribed to; numbers are JSON numbers with trailing
zeros. REST says XBT and XDG for BTC and DOGE and puts errors into a list, with status 200. An address may try about 150
connections in ten minutes.

Books (guides/websockets/book-checksum-v2): a snapshot of as many levels as were asked for, then the levels that have
changed and a checksum of the ten best. A level that falls out of the depth is not told, one that comes into it is.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from random import Random
from typing import Any, Literal
from zlib import crc32

import msgspec

from simulator.contract import (
    QUOTES,
    TRADES,
    Answer,
    Body,
    Books,
    Change,
    Frame,
    Identity,
    Instrument,
    Listed,
    Message,
    Session,
    Snapshot,
    Unavailable,
    Unreadable,
    View,
)
from simulator.dialects import garbage, history
from simulator.dialects.budgets import Credits, Window
from simulator.dialects.changes import ToldByChanges
from simulator.dialects.daily import Day
from simulator.dialects.times import micros_of, micros_text
from simulator.events import DepthDiff, Event, Levels, Quote, Trade, text_of

CONNECTS, CONNECTS_SECONDS = 150, 600.0
REST_BURST, REST_PER_SECOND = 15.0, 1.0
HEARTBEAT_SECONDS = 1.0
SNAPSHOT_TRADES = 50
MAX_TRADES = 1_000
FIRST_NANOSECONDS = 10**12
"""A smaller `since` is in seconds."""
TRIGGERS = ("bbo", "trades")
CHANNELS = frozenset({"ticker", "trade", "book"})
DEPTHS = (10, 25, 100, 500, 1000)
CHECKED_LEVELS = 10
VERSION = '"api_version":"v2","connection_id":13834774380200032777'
REST_NAMES = {"BTC": "XBT", "DOGE": "XDG"}
OLD_COINS = frozenset({"XBT", "ETH", "LTC", "XRP", "XDG", "XLM", "XMR", "ZEC", "ETC", "MLN", "REP"})
OLD_MONEY = frozenset({"USD", "EUR", "GBP", "CAD", "JPY", "AUD"})
NOTHING = "0.00000000"
UNKNOWN_PAIR = "EQuery:Unknown asset pair"


class _Line(msgspec.Struct):
    channel: str = ""
    method: str = ""
    type: Literal["snapshot", "update", ""] = ""
    data: list[msgspec.Raw] = []


class _Ticker(msgspec.Struct):
    symbol: str
    timestamp: str | None = None


class _Trade(msgspec.Struct):
    symbol: str
    side: Literal["buy", "sell"]
    price: msgspec.Raw
    qty: msgspec.Raw
    ord_type: str
    trade_id: int
    timestamp: str


class _Best(msgspec.Struct):
    bid: msgspec.Raw
    bid_qty: msgspec.Raw
    ask: msgspec.Raw
    ask_qty: msgspec.Raw


_line = msgspec.json.Decoder(_Line)
_ticker = msgspec.json.Decoder(_Ticker)
_trade = msgspec.json.Decoder(_Trade)
_best = msgspec.json.Decoder(_Best)

RECIPE = garbage.Recipe(
    row=lambda message: message["data"][0],
    retyped=(
        ("trade_id", "twelve"),
        ("price", {"x": 1}),
        ("qty", [1]),
        ("timestamp", 7),
        ("side", "perhaps"),
        ("symbol", []),
    ),
    unknown=b'{"channel":"mystery","type":"update","data":[{"symbol":"BTC/USD","x":NUMBER}]}',
)


def trade_stream(symbol: str) -> str:
    return f"trade:{symbol}"


def ticker_stream(symbol: str, trigger: str) -> str:
    return f"ticker:{trigger}:{symbol}"


def book_stream(symbol: str, depth: int) -> str:
    return f"book:{depth}:{symbol}"


class KrakenBooks(ToldByChanges):
    """Differences of as many levels as a client asked for.

    A reader notices by the checksum of the ten best levels that a frame is missing, and of one that told more it could
    miss a part: only frames of those ten alone are of the kind "depth".
    """

    numbered = False

    def made(self, symbol: str) -> Mapping[str, int]:
        return {book_stream(symbol, depth): depth for depth in DEPTHS}

    def make(self, stream: str, change: Change) -> Frame | None:
        depth = int(stream.split(":")[1])
        before, after = change.before, change.after
        bids = _changed(before.bids, after.bids, depth, best_is_highest=True)
        asks = _changed(before.asks, after.asks, depth, best_is_highest=False)
        if not bids and not asks:
            return None
        checked = _are_checked(before.bids, after.bids, bids) and _are_checked(before.asks, after.asks, asks)
        frame = _book_frame(stream, "update", change.listed, Snapshot(after.last_id, bids, asks, after.time_ns), after)
        return msgspec.structs.replace(frame, time_ns=change.frame.time_ns, kind="depth" if checked else "other")


def _changed(before: Levels, after: Levels, depth: int, *, best_is_highest: bool) -> Levels:
    """Levels to be told: those gone, with the quantity 0, and those that are new or have changed.

    Of one that is worse than all there are now a reader that keeps to the depth rids itself.
    """
    old, new = dict(before), dict(after)
    sign = 1.0 if best_is_highest else -1.0
    worst = sign * float(after[-1][0]) if len(after) == depth else float("-inf")
    gone = [(price, NOTHING) for price, _ in before if price not in new and sign * float(price) > worst]
    return [*gone, *((price, quantity) for price, quantity in after if old.get(price) != quantity)]


def _are_checked(before: Levels, after: Levels, told: Levels) -> bool:
    """Whether all these are of the levels that the checksum is taken over."""
    checked = {price for side in (before, after) for price, _ in side[:CHECKED_LEVELS]}
    return all(price in checked for price, _ in told)


def _book_frame(stream: str, kind: str, listed: Listed, told: Snapshot, book: Snapshot) -> Frame:
    """These levels, and the checksum of the book as it is with them."""
    assert isinstance(listed, Instrument)
    decimals = _decimals(listed.tick_e8), _decimals(listed.lot_e8)
    bids, asks = (",".join([_level(*level, *decimals)[0] for level in side]) for side in (told.bids, told.asks))
    row = (
        f'{{"symbol":"{listed.symbol}","bids":[{bids}],"asks":[{asks}],"checksum":{_checksum(book, decimals)},'
        f'"timestamp":"{micros_text(told.time_ns)}"}}'
    )
    return _frame(told.time_ns, stream, kind, row)


def _checksum(book: Snapshot, decimals: tuple[int, int]) -> int:
    """CRC-32 of the digits of the ten best asks and then bids."""
    levels = [*book.asks[:CHECKED_LEVELS], *book.bids[:CHECKED_LEVELS]]
    return crc32("".join([_level(*level, *decimals)[1] for level in levels]).encode())


@lru_cache(maxsize=1 << 17)
def _level(price: str, quantity: str, price_decimals: int, lot_decimals: int) -> tuple[str, str]:
    """A level as JSON, and its digits for the checksum: without points and leading zeros."""
    told = _cut(price, price_decimals), _cut(quantity, lot_decimals)
    digits = "".join(text.replace(".", "").lstrip("0") for text in told)
    return f'{{"price":{told[0]},"qty":{told[1]}}}', digits


def _cut(text: str, decimals: int) -> str:
    """A text of eight decimals with so many of them."""
    return text[: len(text) - 8 + decimals].removesuffix(".")


class Kraken:
    venue = "KRAKEN"
    sources: Mapping[str, str] = {"KRAKEN": "symbol"}
    words: Sequence[str] = ("kraken",)
    books: Books | None = KrakenBooks()
    socket_path = "/v2"
    rest_path = ""

    def __init__(self) -> None:
        self.connects = Window(CONNECTS, CONNECTS_SECONDS)
        self.requests = Credits(REST_BURST, REST_PER_SECOND)

    def awaited(self, source: str, listed: Mapping[str, Listed]) -> set[str]:
        return {stream for symbol in listed for stream in (trade_stream(symbol), ticker_stream(symbol, "bbo"))}

    def spell(self, base: str, quote: str) -> str | None:
        return f"{base}/{quote}"

    def describe(self, symbol: str, tick_e8: int, lot_e8: int) -> Listed:
        base, _, quote = symbol.partition("/")
        return Instrument(symbol, base, quote, tick_e8, lot_e8)

    def speak(self, events: Iterable[Event]) -> Iterator[Frame]:
        return _Speaker().speak(events)

    # What a recording holds

    def claims(self, raw: bytes) -> bool:
        if raw.startswith(b"http"):
            return b"kraken.com/" in raw[:64]
        try:
            line = _line.decode(raw)
        except msgspec.MsgspecError:
            return False
        if line.channel in {"ticker", "trade", "book", "ohlc", "status", "instrument"}:
            return bool(line.type and line.data)
        return line.channel == "heartbeat" and b"sequence_num" not in raw

    def read(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Frame]:
        for time_ns, raw in lines:
            try:
                yield from _recorded(time_ns, raw, _line.decode(raw))
            except (msgspec.MsgspecError, ValueError) as error:
                raise Unreadable(str(error)) from error

    def read_book(self, body: Body) -> tuple[str, Snapshot] | None:
        return None

    def read_body(self, body: Body) -> Sequence[Frame]:
        return ()

    def texts(self, frame: Frame) -> tuple[Sequence[str], Sequence[str]]:
        """A number with an exponent tells no step."""
        rows = _line.decode(frame.payload).data
        if frame.kind == "trade":
            trades = [_trade.decode(row) for row in rows]
            return _plain(row.price for row in trades), _plain(row.qty for row in trades)
        if frame.stream.startswith("ticker:bbo:"):
            best = [_best.decode(row) for row in rows]
            prices = _plain(price for row in best for price in (row.bid, row.ask))
            return prices, _plain(quantity for row in best for quantity in (row.bid_qty, row.ask_qty))
        return (), ()

    def spoil(self, frame: Frame, rng: Random) -> Frame:
        return garbage.spoil(frame, RECIPE, rng)

    # Connections and REST

    def connect(self, path: str, query: Mapping[str, str], now: float, view: View) -> Session:
        if path.rstrip("/") != self.socket_path:
            raise LookupError(path)
        if not self.connects.admit(now):
            raise Unavailable(Answer(429, b"Too Many Requests"))
        return KrakenSession(view)

    def answer(self, path: str, query: Mapping[str, str], now: float, view: View) -> Answer:
        answer = _ROUTES.get(path)
        if answer is None:
            return _failed("EGeneral:Unknown method")
        if not self.requests.spend(1.0, now):
            return _failed("EGeneral:Too many requests")
        return answer(query, view)


# Frames


class _Speaker:
    """Tickers and trades of a synthetic market; trades of one order are one message."""

    def __init__(self) -> None:
        self.days: dict[str, Day] = {}
        self.quotes: dict[str, Quote] = {}
        self.decimals: dict[str, int] = {}
        self.order: list[Trade] = []

    def speak(self, events: Iterable[Event]) -> Iterator[Frame]:
        for event in events:
            if self.order and not self._goes_on(event):
                yield from self._tell_order()
            if isinstance(event, Trade):
                self.order.append(event)
            elif isinstance(event, Quote):
                self.quotes[event.symbol] = event
                yield self._ticker(event, event.time_ns, "bbo")
            elif isinstance(event, DepthDiff):
                yield Frame(
                    event.time_ns, f"rest:book:{event.symbol}", b"", kind="depth", symbol=event.symbol, diff=event
                )
        if self.order:
            yield from self._tell_order()

    def _goes_on(self, event: Event) -> bool:
        last = self.order[-1]
        return isinstance(event, Trade) and (event.symbol, event.time_ns) == (last.symbol, last.time_ns)

    def _tell_order(self) -> Iterator[Frame]:
        order, self.order = self.order, []
        symbol, time_ns = order[-1].symbol, order[-1].time_ns
        day = self._day(symbol)
        for trade in order:
            day.add(trade)
        rows = ",".join(self._spell_trade(trade) for trade in order)
        marks = tuple((TRADES, symbol, trade.trade_id) for trade in order)
        yield _frame(time_ns, trade_stream(symbol), "update", rows, marks)
        if symbol in self.quotes:
            yield self._ticker(self.quotes[symbol], time_ns, "trades")

    def _day(self, symbol: str) -> Day:
        return self.days.setdefault(symbol, Day())

    def _price(self, symbol: str, price_e8: int) -> str:
        """With as many decimals as any price of the symbol had so far."""
        text = text_of(price_e8)
        needed = len(text.rstrip("0").partition(".")[2])
        decimals = self.decimals[symbol] = max(self.decimals.get(symbol, 1), needed)
        return text[: len(text) - 8 + decimals]

    def _spell_trade(self, trade: Trade) -> str:
        side = "sell" if trade.buyer_is_maker else "buy"
        kind = "market" if trade.trade_id % 3 else "limit"
        return (
            f'{{"symbol":"{trade.symbol}","side":"{side}","price":{self._price(trade.symbol, trade.price_e8)},'
            f'"qty":{text_of(trade.quantity_e8)},"ord_type":"{kind}","trade_id":{trade.trade_id},'
            f'"timestamp":"{micros_text(trade.time_ns)}"}}'
        )

    def _ticker(self, quote: Quote, time_ns: int, trigger: str) -> Frame:
        """Those that follow trades repeat what the others have told, and have no marks."""
        symbol, day = quote.symbol, self._day(quote.symbol)
        day.start(quote.last_e8)
        bid, ask, last, average, low, high, change = (
            self._price(symbol, price_e8)
            for price_e8 in (
                *(quote.bid_e8, quote.ask_e8, day.last_e8, day.average_e8),
                *(day.low_e8, day.high_e8, day.last_e8 - day.open_e8),
            )
        )
        row = (
            f'{{"symbol":"{symbol}","bid":{bid},"bid_qty":{text_of(quote.bid_quantity_e8)},"ask":{ask},'
            f'"ask_qty":{text_of(quote.ask_quantity_e8)},"last":{last},"volume":{text_of(day.volume_e8)},'
            f'"vwap":{average},"low":{low},"high":{high},"change":{change},"change_pct":{day.change_percent:.2f},'
            f'"timestamp":"{micros_text(time_ns)}"}}'
        )
        marks = ((QUOTES, symbol, time_ns // 1_000),) if trigger == "bbo" else ()
        return _frame(time_ns, ticker_stream(symbol, trigger), "update", row, marks)


def _frame(time_ns: int, stream: str, kind: str, rows: str, marks: Sequence[Identity] = ()) -> Frame:
    channel, _, rest = stream.partition(":")
    payload = f'{{"channel":"{channel}","type":"{kind}","data":[{rows}]}}'.encode()
    symbol = rest.rpartition(":")[2]
    return Frame(time_ns, stream, payload, payload, marks, "trade" if channel == "trade" else "other", symbol)


def _recorded(time_ns: int, raw: bytes, line: _Line) -> Iterator[Frame]:
    """The frames of one line, one for each of its symbols."""
    if line.method or line.channel in {"heartbeat", "status", "instrument", "pong"}:
        return
    if not line.data or not line.type:
        raise Unreadable(f"no channel's data: {raw[:80]!r}")
    rows: dict[str, list[msgspec.Raw]] = {}
    for row in line.data:
        rows.setdefault(_ticker.decode(row).symbol, []).append(row)
    for symbol, own in rows.items():
        text = ",".join(bytes(row).decode() for row in own)
        if line.channel == "trade":
            marks = sorted((TRADES, symbol, _trade.decode(row).trade_id) for row in own)
            yield _frame(time_ns, trade_stream(symbol), line.type, text, marks)
        elif line.channel == "ticker":
            told = [(QUOTES, symbol, _moment(_ticker.decode(row).timestamp)) for row in own]
            for trigger, marked in (("bbo", told), ("trades", [])):
                yield _frame(time_ns, ticker_stream(symbol, trigger), line.type, text, marked)
        else:
            yield _frame(time_ns, f"{line.channel}:{symbol}", line.type, text)


def _moment(text: str | None) -> int | None:
    """None for no time and for 1970, which says the same."""
    return micros_of(text) or None if text else None


def _plain(numbers: Iterable[msgspec.Raw]) -> list[str]:
    texts = (bytes(number).decode() for number in numbers)
    return [text for text in texts if text.replace(".", "", 1).isdecimal()]


# A connection


class KrakenSession:
    """The venue's side of one connection."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.streams: set[str] = set()
        self._said = False
        self._quiet_since = 0.0

    def greet(self, now: float) -> Sequence[Message]:
        self._quiet_since = now
        return (_status("online"),)

    def farewell(self) -> Sequence[Message]:
        """Maintenance, in which connections end; the documents say no more than that markets are offline then."""
        return (_status("maintenance"),)

    def ping(self, now: float) -> None:
        """Free."""

    def pong(self, payload: bytes, now: float) -> None:
        """Not asked for."""

    def encode(self, frame: Frame) -> bytes:
        self._said = True
        return frame.payload

    def tick(self, now: float) -> Sequence[Message]:
        if self._said or not self.streams:
            self._said, self._quiet_since = False, now
        if now - self._quiet_since < HEARTBEAT_SECONDS:
            return ()
        self._quiet_since = now
        return (b'{"channel":"heartbeat"}',)

    def receive(self, text: str | bytes, now: float) -> Sequence[Message]:
        try:
            request = json.loads(text)
        except ValueError:
            return (self._refuse(None, {}, "Malformed request"),)
        if not isinstance(request, dict) or not isinstance(request.get("params", {}), dict):
            return (self._refuse(None, {}, "Malformed request"),)
        method = request.get("method")
        if method == "ping":
            return (self._reply({"method": "pong"}, request),)
        if method not in {"subscribe", "unsubscribe"}:
            return (self._refuse(method, request, "Unsupported method"),)
        return self._change(str(method), request, request.get("params", {}))

    def _change(self, method: str, request: Mapping[str, Any], params: Mapping[str, Any]) -> Sequence[Message]:
        channel, symbols = params.get("channel"), params.get("symbol")
        if channel not in CHANNELS:
            return (self._refuse(method, request, "Channel not supported"),)
        if not isinstance(symbols, list) or not symbols or not all(isinstance(symbol, str) for symbol in symbols):
            return (self._refuse(method, request, "Symbol(s) not found"),)
        if params.get("event_trigger", "trades") not in TRIGGERS:
            return (self._refuse(method, request, "Event trigger not supported"),)
        if params.get("depth", DEPTHS[0]) not in DEPTHS:
            return (self._refuse(method, request, "Subscription depth not supported"),)
        if not isinstance(params.get("snapshot", True), bool):
            return (self._refuse(method, request, "Malformed request"),)
        change = self._subscribe if method == "subscribe" else self._unsubscribe
        return [message for symbol in symbols for message in change(request, params, symbol)]

    def _subscribe(self, request: Mapping[str, Any], params: Mapping[str, Any], symbol: str) -> Sequence[Message]:
        if symbol not in self.view.instruments:
            return (self._refuse("subscribe", request, f"Currency pair not supported {symbol}", symbol),)
        stream = _stream(params, symbol)
        if stream in self.streams:
            return (self._refuse("subscribe", request, "Already subscribed", symbol),)
        self.streams.add(stream)
        wanted = params.get("snapshot", params["channel"] != "trade")
        snapshot = self._snapshot(stream, params["channel"], symbol) if wanted else None
        result = _result(params, symbol) | {"snapshot": wanted}
        acknowledged = self._reply({"method": "subscribe", "result": result, "success": True}, request)
        return (acknowledged,) if snapshot is None else (acknowledged, snapshot)

    def _unsubscribe(self, request: Mapping[str, Any], params: Mapping[str, Any], symbol: str) -> Sequence[Message]:
        stream = _stream(params, symbol)
        if stream not in self.streams:
            return (self._refuse("unsubscribe", request, "Subscription Not Found", symbol),)
        self.streams.discard(stream)
        result = _result(params, symbol)
        return (self._reply({"method": "unsubscribe", "result": result, "success": True}, request),)

    def _snapshot(self, stream: str, channel: str, symbol: str) -> Frame | None:
        if channel == "trade":
            return _last_trades(self.view, symbol, stream)
        if channel == "book":
            return _whole_book(self.view, symbol, stream)
        frame = self.view.newest(stream)
        if frame is None:
            return None
        payload = frame.payload.replace(b'"type":"update"', b'"type":"snapshot"', 1)
        return msgspec.structs.replace(frame, payload=payload, combined=payload)

    def _refuse(self, method: Any, request: Mapping[str, Any], error: str, symbol: str | None = None) -> bytes:
        told: dict[str, Any] = {"error": error, "method": method, "success": False}
        return self._reply(told | ({} if symbol is None else {"symbol": symbol}), request)

    def _reply(self, told: dict[str, Any], request: Mapping[str, Any]) -> bytes:
        self._said = True
        number = {"req_id": request["req_id"]} if isinstance(request.get("req_id"), int) else {}
        times = {"time_in": micros_text(self.view.time_ns), "time_out": micros_text(self.view.time_ns + 50_000)}
        return msgspec.json.encode(told | number | times)


def _stream(params: Mapping[str, Any], symbol: str) -> str:
    if params["channel"] == "trade":
        return trade_stream(symbol)
    if params["channel"] == "book":
        return book_stream(symbol, params.get("depth", DEPTHS[0]))
    return ticker_stream(symbol, params.get("event_trigger", "trades"))


def _result(params: Mapping[str, Any], symbol: str) -> dict[str, Any]:
    result = {"channel": params["channel"], "symbol": symbol}
    if params["channel"] == "ticker":
        result["event_trigger"] = params.get("event_trigger", "trades")
    if params["channel"] == "book":
        result["depth"] = params.get("depth", DEPTHS[0])
    return result


def _status(system: str) -> bytes:
    row = f'{{{VERSION},"system":"{system}","version":"2.0.10"}}'
    return f'{{"channel":"status","type":"update","data":[{row}]}}'.encode()


def _rows(frames: Iterable[Frame]) -> list[tuple[int, msgspec.Raw]]:
    """Trades that were told, by their ids."""
    found = {_trade.decode(row).trade_id: row for frame in frames for row in _line.decode(frame.payload).data}
    return sorted(found.items(), key=lambda pair: pair[0])


def _last_trades(view: View, symbol: str, stream: str) -> Frame | None:
    rows = _rows(history.newest(view.trades(symbol), SNAPSHOT_TRADES))[-SNAPSHOT_TRADES:]
    if not rows:
        return None
    marks = [(TRADES, symbol, trade_id) for trade_id, _ in rows]
    text = ",".join(bytes(row).decode() for _, row in rows)
    return _frame(view.time_ns, stream, "snapshot", text, marks)


def _whole_book(view: View, symbol: str, stream: str) -> Frame | None:
    book = view.book(symbol, int(stream.split(":")[1]))
    return _book_frame(stream, "snapshot", view.instruments[symbol], book, book) if book is not None else None


# REST


def _failed(error: str) -> Answer:
    return Answer(200, msgspec.json.encode({"error": [error]}))


def _done(result: Any, marks: Sequence[Identity] = ()) -> Answer:
    return Answer(200, msgspec.json.encode({"error": [], "result": result}), marks)


class _Pair(msgspec.Struct, frozen=True):
    """The names of an instrument in REST: XXBTZUSD, XBTUSD and XBT/USD for BTC/USD."""

    instrument: Instrument
    base: str
    quote: str

    @property
    def key(self) -> str:
        old = self.base in OLD_COINS and self.quote in OLD_COINS | OLD_MONEY
        return _old(self.base) + _old(self.quote) if old else self.base + self.quote

    @property
    def names(self) -> set[str]:
        return {self.key, self.base + self.quote, f"{self.base}/{self.quote}", self.instrument.symbol}


def _old(currency: str) -> str:
    if currency in OLD_COINS:
        return "X" + currency
    return "Z" + currency if currency in OLD_MONEY else currency


def _pairs(view: View) -> list[_Pair]:
    return [
        _Pair(row, REST_NAMES.get(row.base, row.base), REST_NAMES.get(row.quote, row.quote))
        for row in view.instruments.values()
        if isinstance(row, Instrument)
    ]


def _asset_pairs(query: Mapping[str, str], view: View) -> Answer:
    pairs = _pairs(view)
    if "pair" in query:
        wanted = query["pair"].split(",")
        if any(not any(name in pair.names for pair in pairs) for name in wanted):
            return _failed(UNKNOWN_PAIR)
        pairs = [pair for pair in pairs if pair.names & set(wanted)]
    return _done({pair.key: _spell_pair(pair) for pair in pairs})


def _spell_pair(pair: _Pair) -> dict[str, Any]:
    row = pair.instrument
    return {
        "altname": pair.base + pair.quote,
        "wsname": f"{pair.base}/{pair.quote}",
        "aclass_base": "currency",
        "base": _old(pair.base),
        "aclass_quote": "currency",
        "quote": _old(pair.quote),
        "lot": "unit",
        "cost_decimals": 5,
        "pair_decimals": _decimals(row.tick_e8),
        "lot_decimals": _decimals(row.lot_e8),
        "lot_multiplier": 1,
        "leverage_buy": [],
        "leverage_sell": [],
        "fees": [[0, 0.4]],
        "fees_maker": [[0, 0.25]],
        "fee_volume_currency": "ZUSD",
        "margin_call": 80,
        "margin_stop": 40,
        "ordermin": text_of(row.lot_e8),
        "costmin": "0.5",
        "tick_size": text_of(row.tick_e8).rstrip("0").rstrip("."),
        "status": "online",
    }


def _decimals(step_e8: int) -> int:
    return len(text_of(step_e8).rstrip("0").partition(".")[2])


def _trades(query: Mapping[str, str], view: View) -> Answer:
    pair = next((pair for pair in _pairs(view) if query.get("pair") in pair.names), None)
    if pair is None:
        return _failed(UNKNOWN_PAIR)
    try:
        since, count = int(query.get("since", "0")), int(query.get("count", MAX_TRADES))
    except ValueError:
        return _failed("EGeneral:Invalid arguments")
    if not 1 <= count <= MAX_TRADES:
        return _failed("EGeneral:Invalid arguments:count")
    symbol = pair.instrument.symbol
    since_ns = since if since >= FIRST_NANOSECONDS else since * 10**9
    chosen = _told_since(view.trades(symbol), since_ns, count)
    last_ns = chosen[-1][0] if chosen else since_ns
    result = {pair.key: [_spell_trade(trade) for _, trade in chosen], "last": str(last_ns)}
    return _done(result, [(TRADES, symbol, trade.trade_id) for _, trade in chosen])


def _told_since(frames: Sequence[Frame], since_ns: int, count: int) -> list[tuple[int, _Trade]]:
    """The first so many trades after a time, or the last there are where it is 0. No two share a nanosecond."""
    if not since_ns:
        return _timed(history.newest(frames, count))[-count:]
    near = islice(history.since(frames, _first_ns, since_ns), count + 2 * history.SLACK_FRAMES)
    return [row for row in _timed(near) if row[0] > since_ns][:count]


def _first_ns(frame: Frame) -> int:
    return micros_of(_trade.decode(_line.decode(frame.payload).data[0]).timestamp) * 1_000


def _timed(frames: Iterable[Frame]) -> list[tuple[int, _Trade]]:
    found: list[tuple[int, _Trade]] = []
    for _, row in _rows(frames):
        trade = _trade.decode(row)
        time_ns = micros_of(trade.timestamp) * 1_000
        found.append((max(time_ns, found[-1][0] + 1) if found else time_ns, trade))
    return found


def _spell_trade(trade: _Trade) -> list[Any]:
    time_us = micros_of(trade.timestamp)
    seconds = msgspec.Raw(f"{time_us // 1_000_000}.{time_us % 1_000_000:06d}".encode())
    price, quantity = bytes(trade.price).decode(), bytes(trade.qty).decode()
    return [price, quantity, seconds, trade.side[0], trade.ord_type[0], "", trade.trade_id]


def _time(query: Mapping[str, str], view: View) -> Answer:
    second = view.time_ns // 10**9
    told = f"{datetime.fromtimestamp(second, UTC):%a, %d %b %y %H:%M:%S +0000}"
    return _done({"unixtime": second, "rfc1123": told})


_ROUTES = {"/0/public/AssetPairs": _asset_pairs, "/0/public/Trades": _trades, "/0/public/Time": _time}
