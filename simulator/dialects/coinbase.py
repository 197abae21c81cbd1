"""Coinbase Advanced Trade, as in docs.cdp.coinbase.com (coinbase-app/advanced-trade-apis) and on a tape of 2026.

    {"channel":"ticker","timestamp":"2026-08-09T21:05:48.348050942Z","sequence_num":12,"events":[{"type":"update",
     "tickers":[{"type":"ticker","product_id":"BTC-USD","price":"65086.18",...}]}]}
    {"channel":"market_trades","timestamp":"...","sequence_num":9,"events":[{"type":"update","trades":[{
     "product_id":"BTC-USD","trade_id":"1068572091","price":"65083.67","size":"0.01034361","time":"...","side":"SELL"}]}]}
    {"channel":"l2_data","timestamp":"...","sequence_num":16,"events":[{"type":"update","product_id":"BTC-USD","updates":[{
     "side":"offer","event_time":"2026-08-09T21:05:48.27841Z","price_level":"65083.71","new_quantity":"0.06"}]}]}
    {"channel":"subscriptions","timestamp":"...","sequence_num":2,"events":[{"subscriptions":{"ticker":["BTC-USD"]}}]}
Oddities: `side` is the maker's; trades come newest first, in batches of 250 ms, after a snapshot of the last hundred;
snapshots come before the `subscriptions` frame that answers the request, and that lists everything subscribed to by
now; `sequence_num` counts all frames of a connection; requests carry no number; -USDC products are other names of the
-USD ones. One must subscribe within 5 s, one channel per message, and without `heartbeats` a connection that had
nothing to tell for 60 to 90 s is closed. An address has 8 connections and 8 messages a second, and 10 public REST
requests. A channel that wants a login, or does not exist, is refused with `authentication failure`.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from random import Random
from typing import Any, Literal

import msgspec

from simulator.books import plain
from simulator.contract import (
    QUOTES,
    TRADES,
    Answer,
    Body,
    Books,
    Change,
    Disconnect,
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
from simulator.dialects.budgets import Window
from simulator.dialects.changes import ToldByChanges
from simulator.dialects.daily import Day
from simulator.dialects.times import micros_of, micros_text, nanos_text
from simulator.events import DepthDiff, Event, Levels, Quote, Trade, short_text_of

CONNECTS_PER_SECOND = MESSAGES_PER_SECOND = 8
REST_PER_SECOND = 10
SUBSCRIBE_WITHIN_SECONDS = 5.0
SILENCE_SECONDS = 75.0
HEARTBEAT_SECONDS = 1.0
BATCH_NS = 250_000_000
SNAPSHOT_TRADES = 100
MAX_TRADES = 1_000
POLICY_VIOLATION, GOING_AWAY = 1008, 1001
CHANNELS = frozenset({"ticker", "ticker_batch", "market_trades", "level2", "candles", "status"})
"""The public ones; ticker_batch and status stay silent, candles are played from recordings."""
WHOLE_BOOK = 100_000
MAX_LATE = 64
ROOT = "/api/v3/brokerage/market/products"
OWN_BOOKS = frozenset({"USDT-USDC", "EURC-USDC", "XSGD-USDC", "TGBP-USDC", "AUDD-USDC"})


class _Event(msgspec.Struct):
    type: Literal["snapshot", "update", ""] = ""
    trades: list[msgspec.Raw] = []
    tickers: list[msgspec.Raw] = []
    candles: list[msgspec.Raw] = []
    product_id: str = ""


class _Line(msgspec.Struct):
    channel: str
    timestamp: str
    sequence_num: int
    events: list[_Event]


class _Row(msgspec.Struct):
    product_id: str


class _Trade(msgspec.Struct):
    product_id: str
    trade_id: str
    price: str
    size: str
    time: str
    side: Literal["BUY", "SELL"]


class _Best(msgspec.Struct):
    best_bid: str = ""
    best_ask: str = ""


class _Products(msgspec.Struct):
    products: list[msgspec.Raw]


_line = msgspec.json.Decoder(_Line)
_row = msgspec.json.Decoder(_Row)
_trade = msgspec.json.Decoder(_Trade)
_best_of = msgspec.json.Decoder(_Best)
_products = msgspec.json.Decoder(_Products)
_SEQUENCE = re.compile(rb'"sequence_num":\d+')

RECIPE = garbage.Recipe(
    row=lambda message: message["events"][0]["trades"][0],
    retyped=(
        ("trade_id", "twelve"),
        ("price", {"x": 1}),
        ("size", [1]),
        ("time", 7),
        ("side", "perhaps"),
        ("product_id", []),
    ),
    unknown=b'{"channel":"mystery","timestamp":"2026-08-09T21:05:48.228568804Z","sequence_num":0,"events":[{"x":NUMBER}]}',
)


class CoinbaseBooks(ToldByChanges):
    """Whole books first, then what changes of them; a level that is gone has the quantity 0."""

    numbered = False

    def made(self, symbol: str) -> Mapping[str, int]:
        return {f"level2:{symbol}": 0}

    def make(self, stream: str, change: Change) -> Frame | None:
        diff = change.frame.diff
        assert diff is not None
        return _book_frame(diff.symbol, "update", diff.time_ns, diff.bids, diff.asks)


def _book_frame(product: str, kind: str, time_ns: int, bids: Levels, asks: Levels) -> Frame:
    time = micros_text(time_ns)
    told = [("bid", *level) for level in bids] + [("offer", *level) for level in asks]
    rows = ",".join(
        [
            f'{{"side":"{side}","event_time":"{time}","price_level":"{plain(price)}","new_quantity":"{plain(quantity)}"}}'
            for side, price, quantity in told
        ]
    )
    event = f'{{"type":"{kind}","product_id":"{product}","updates":[{rows}]}}'
    frame = _frame(time_ns, f"l2_data:{product}", event)
    return msgspec.structs.replace(frame, stream=f"level2:{product}", kind="depth")


class Coinbase:
    venue = "COINBASE"
    sources: Mapping[str, str] = {"COINBASE": "symbol", "COINBASE_BOOKS": "books"}
    words: Sequence[str] = ("coinbase",)
    books: Books | None = CoinbaseBooks()
    socket_path = ""
    rest_path = ""

    def __init__(self) -> None:
        self.connects = Window(CONNECTS_PER_SECOND, 1.0)
        self.messages = Window(MESSAGES_PER_SECOND, 1.0)
        self.requests = Window(REST_PER_SECOND, 1.0)
        self._listing: tuple[object, object, dict[str, msgspec.Raw]] | None = None

    def awaited(self, source: str, listed: Mapping[str, Listed]) -> set[str]:
        channels = ("level2",) if source == "COINBASE_BOOKS" else ("ticker", "market_trades")
        return {f"{channel}:{symbol}" for symbol in listed for channel in channels}

    def spell(self, base: str, quote: str) -> str | None:
        return canonical(f"{base}-{quote}")

    def describe(self, symbol: str, tick_e8: int, lot_e8: int) -> Listed:
        base, _, quote = symbol.partition("-")
        return Instrument(symbol, base, quote, tick_e8, lot_e8)

    def speak(self, events: Iterable[Event]) -> Iterator[Frame]:
        batch = _Batch()
        for event in events:
            if event.time_ns >= batch.ends_ns:
                yield from batch.close(event.time_ns)
            if isinstance(event, Trade | Quote):
                batch.add(event)
            elif isinstance(event, DepthDiff):
                yield Frame(
                    event.time_ns, f"rest:book:{event.symbol}", b"", kind="depth", symbol=event.symbol, diff=event
                )
        yield from batch.close(batch.ends_ns)

    # What a recording holds

    def claims(self, raw: bytes) -> bool:
        if raw.startswith(b"http"):
            return b"api.coinbase.com/api/v3/" in raw[:64]
        return b'"sequence_num"' in raw and b'"events"' in raw and b'"channel"' in raw

    def read(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Frame]:
        for time_ns, raw in lines:
            try:
                yield from _recorded(time_ns, raw)
            except (msgspec.MsgspecError, ValueError) as error:
                raise Unreadable(str(error)) from error

    def read_book(self, body: Body) -> tuple[str, Snapshot] | None:
        return None

    def read_body(self, body: Body) -> Sequence[Frame]:
        return ()

    def texts(self, frame: Frame) -> tuple[Sequence[str], Sequence[str]]:
        """Of trades."""
        if frame.kind != "trade":
            return (), ()
        trades = [_trade.decode(row) for row in _rows_of(frame)]
        return [trade.price for trade in trades], [trade.size for trade in trades]

    def spoil(self, frame: Frame, rng: Random) -> Frame:
        return garbage.spoil(frame, RECIPE, rng)

    # Connections and REST

    def connect(self, path: str, query: Mapping[str, str], now: float, view: View) -> Session:
        if path.strip("/"):
            raise LookupError(path)
        if not self.connects.admit(now):
            raise Unavailable(_failure(429, "RATE_LIMIT_EXCEEDED", "too many connections"))
        return CoinbaseSession(self, now, view)

    def answer(self, path: str, query: Mapping[str, str], now: float, view: View) -> Answer:
        if not self.requests.admit(now):
            return _failure(429, "RATE_LIMIT_EXCEEDED", "too many requests")
        if path == "/api/v3/brokerage/time":
            second = view.time_ns // 10**9
            iso = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%SZ}"
            return _json({"iso": iso, "epochSeconds": str(second), "epochMillis": str(view.time_ns // 10**6)})
        if path == ROOT:
            products = self.listed(view)
            return _json({"products": list(products.values()), "num_products": len(products)})
        product, _, rest = path.removeprefix(ROOT + "/").partition("/")
        if not path.startswith(ROOT + "/") or rest not in {"", "ticker"}:
            return _failure(404, "NOT_FOUND", "no such route")
        if product not in (products := self.listed(view)):
            return _failure(404, "NOT_FOUND", "valid product_id is required")
        return _last_trades(canonical(product), query, view) if rest else _json(products[product])

    def listed(self, view: View) -> dict[str, msgspec.Raw]:
        """Its products, gathered once for a market."""
        if self._listing is None or self._listing[0] is not view.instruments or self._listing[1] is not view.bodies:
            self._listing = (view.instruments, view.bodies, _listed(view))
        return self._listing[2]


def canonical(product: str) -> str:
    """`BTC-USD` for `BTC-USDC` too: they share a book, and frames name the former."""
    return product.removesuffix("C") if product.endswith("-USDC") and product not in OWN_BOOKS else product


# Frames


def _frame(time_ns: int, stream: str, event: str, marks: Sequence[Identity] = ()) -> Frame:
    """`sequence_num` is put in when it is sent."""
    channel, _, product = stream.partition(":")
    payload = (
        f'{{"channel":"{channel}","timestamp":"{nanos_text(time_ns)}","sequence_num":0,"events":[{event}]}}'
    ).encode()
    kind = "trade" if channel == "market_trades" else "other"
    return Frame(time_ns, stream, payload, payload, marks, kind, product, numbered=True)


def _trades_frame(time_ns: int, product: str, kind: str, rows: Mapping[int, str]) -> Frame:
    """Newest first on the wire, oldest first among the marks; `rows` are by id."""
    ids = sorted(rows)
    told = ",".join(rows[trade_id] for trade_id in reversed(ids))
    event = f'{{"type":"{kind}","trades":[{told}]}}'
    marks = tuple((TRADES, product, trade_id) for trade_id in ids)
    return _frame(time_ns, f"market_trades:{product}", event, marks)


class _Batch:
    """What has happened since the last quarter of a second."""

    def __init__(self) -> None:
        self.ends_ns = 0
        self.days: dict[str, Day] = {}
        self.quotes: dict[str, Quote] = {}
        self.trades: dict[str, list[Trade]] = {}
        self.changed: dict[str, None] = {}

    def add(self, event: Trade | Quote) -> None:
        day = self.days.setdefault(event.symbol, Day())
        if isinstance(event, Trade):
            day.add(event)
            self.trades.setdefault(event.symbol, []).append(event)
        else:
            day.start(event.last_e8)
            self.quotes[event.symbol] = event
        self.changed[event.symbol] = None

    def close(self, time_ns: int) -> Iterator[Frame]:
        """End the batch, the next one holds this time."""
        for product, trades in self.trades.items():
            rows = {trade.trade_id: _spell_trade(trade) for trade in trades}
            yield _trades_frame(self.ends_ns, product, "update", rows)
        for product in self.changed:
            if product in self.quotes:
                yield self._ticker(product)
        self.trades, self.changed = {}, {}
        self.ends_ns = time_ns - time_ns % BATCH_NS + BATCH_NS

    def _ticker(self, product: str) -> Frame:
        quote, day = self.quotes[product], self.days[product]
        row = (
            f'{{"type":"ticker","product_id":"{product}","price":"{_text(day.last_e8)}",'
            f'"volume_24_h":"{_text(day.volume_e8)}","low_24_h":"{_text(day.low_e8)}",'
            f'"high_24_h":"{_text(day.high_e8)}","low_52_w":"{_text(day.low_e8)}","high_52_w":"{_text(day.high_e8)}",'
            f'"price_percent_chg_24_h":"{day.change_percent:.14f}","best_bid":"{_text(quote.bid_e8)}",'
            f'"best_ask":"{_text(quote.ask_e8)}","best_bid_quantity":"{_text(quote.bid_quantity_e8)}",'
            f'"best_ask_quantity":"{_text(quote.ask_quantity_e8)}"}}'
        )
        event = f'{{"type":"update","tickers":[{row}]}}'
        return _frame(self.ends_ns, f"ticker:{product}", event, ((QUOTES, product, self.ends_ns // 1_000),))


def _text(value_e8: int) -> str:
    return short_text_of(value_e8).removesuffix(".0")


def _spell_trade(trade: Trade) -> str:
    maker = "BUY" if trade.buyer_is_maker else "SELL"
    return (
        f'{{"product_id":"{trade.symbol}","trade_id":"{trade.trade_id}","price":"{_text(trade.price_e8)}",'
        f'"size":"{_text(trade.quantity_e8)}","time":"{nanos_text(trade.time_ns)[:-4]}Z","side":"{maker}"}}'
    )


def _recorded(time_ns: int, raw: bytes) -> Iterator[Frame]:
    """The frame of one line; its texts stay as they are. A frame of trades of several products is cut up."""
    line = _line.decode(raw)
    if line.channel in {"subscriptions", "heartbeats"}:
        return
    if not line.events:
        raise Unreadable(f"no events: {raw[:80]!r}")
    products = dict.fromkeys(product for event in line.events for product in _products_of(event))
    if line.channel == "market_trades" and len(products) > 1:
        yield from _cut_up(time_ns, line)
        return
    product = next(iter(products), "")
    stream = f"{'level2' if line.channel == 'l2_data' else line.channel}:{product}"
    kind = "trade" if line.channel == "market_trades" else "other"
    yield Frame(time_ns, stream, raw, raw, _marks(line), kind, product, numbered=True)


def _products_of(event: _Event) -> Iterator[str]:
    rows = [*event.trades, *event.tickers, *event.candles]
    yield from (_row.decode(row).product_id for row in rows)
    if event.product_id:
        yield event.product_id


def _cut_up(time_ns: int, line: _Line) -> Iterator[Frame]:
    rows: dict[str, dict[int, str]] = {}
    for raw in (raw for event in line.events for raw in event.trades):
        trade = _trade.decode(raw)
        rows.setdefault(trade.product_id, {})[int(trade.trade_id)] = bytes(raw).decode()
    for product, own in rows.items():
        yield _trades_frame(time_ns, product, line.events[0].type, own)


def _marks(line: _Line) -> Sequence[Identity]:
    if line.channel == "market_trades":
        trades = [_trade.decode(row) for event in line.events for row in event.trades]
        return sorted((TRADES, trade.product_id, int(trade.trade_id)) for trade in trades)
    if line.channel == "ticker":
        time_us = micros_of(line.timestamp)
        return [(QUOTES, _row.decode(row).product_id, time_us) for event in line.events for row in event.tickers]
    return ()


def _rows_of(frame: Frame) -> Iterator[msgspec.Raw]:
    return (row for event in _line.decode(frame.payload).events for row in event.trades)


def _told(frames: Iterable[Frame]) -> dict[int, str]:
    """The trades that were told, as they were, by id."""
    rows = (row for frame in frames for row in _rows_of(frame))
    return {int(_trade.decode(row).trade_id): bytes(row).decode() for row in rows}


# A connection


class CoinbaseSession:
    """The venue's side of one connection."""

    def __init__(self, venue: Coinbase, now: float, view: View) -> None:
        self.venue = venue
        self.view = view
        self.streams: set[str] = set()
        self.subscriptions: dict[str, list[str]] = {}
        self._began = self._heard_of = now
        self._next_heartbeat = now
        self._beats = 0
        self._sequence = 0
        self._late: dict[tuple[str, int], int] = {}
        self._said = False

    def greet(self, now: float) -> Sequence[Message]:
        return ()

    def ping(self, now: float) -> None:
        """Free."""

    def pong(self, payload: bytes, now: float) -> None:
        """Not asked for."""

    def encode(self, frame: Frame) -> bytes:
        """With this connection's number, or the one that was its in its turn; garbage has none of its own."""
        if frame.kind == "garbage":
            return frame.payload
        self._said = True
        number = self._late.pop((frame.stream, frame.time_ns), None)
        if number is None:
            number = self._take_number()
        return _SEQUENCE.sub(b'"sequence_num":%d' % number, frame.payload, count=1)

    def skip(self, frame: Frame) -> None:
        self._late[frame.stream, frame.time_ns] = self._take_number()
        if len(self._late) > MAX_LATE:
            del self._late[next(iter(self._late))]

    def _take_number(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def tick(self, now: float) -> Sequence[Message]:
        if not self.subscriptions and now - self._began >= SUBSCRIBE_WITHIN_SECONDS:
            raise Disconnect(POLICY_VIOLATION, "no subscription within 5 seconds")
        if self._said:
            self._said, self._heard_of = False, now
        if now - self._heard_of >= SILENCE_SECONDS:
            raise Disconnect(GOING_AWAY, "no updates")
        if "heartbeats" not in self.subscriptions or now < self._next_heartbeat:
            return ()
        self._next_heartbeat = now + HEARTBEAT_SECONDS
        return (self._heartbeat(now),)

    def _heartbeat(self, now: float) -> Frame:
        self._beats += 1
        time_ns = self.view.time_ns
        told = nanos_text(time_ns).replace("T", " ").replace("Z", " +0000 UTC")
        event = f'{{"current_time":"{told} m=+{now:.9f}","heartbeat_counter":{self._beats}}}'
        return _frame(time_ns, "heartbeats:", event)

    def receive(self, text: str | bytes, now: float) -> Sequence[Message]:
        if not self.venue.messages.admit(now):
            return (_complaint("rate limit exceeded"),)
        try:
            request = json.loads(text)
        except ValueError:
            return (_complaint("failed to parse message as JSON"),)
        request = request if isinstance(request, dict) else {}
        kind, channel, products = request.get("type"), request.get("channel"), request.get("product_ids", [])
        if kind not in {"subscribe", "unsubscribe"}:
            return (_complaint("type must be one of subscribe, unsubscribe"),)
        if channel not in CHANNELS | {"heartbeats"}:
            return (_complaint("authentication failure"),)
        if not isinstance(products, list) or not all(isinstance(product, str) for product in products):
            return (_complaint("product_ids must be an array of strings"),)
        if channel != "heartbeats" and not products:
            return (_complaint("product_ids is required"),)
        snapshots = self._subscribe(channel, products) if kind == "subscribe" else self._unsubscribe(channel, products)
        return (*snapshots, self._list())

    def _subscribe(self, channel: str, products: Sequence[str]) -> Sequence[Frame]:
        """Unknown products are left out of the list that answers."""
        if channel == "heartbeats":
            self.subscriptions["heartbeats"] = ["heartbeats"]
            return ()
        names = dict.fromkeys(canonical(product) for product in products if product in self.venue.listed(self.view))
        fresh = [name for name in names if name not in self.subscriptions.get(channel, ())]
        if fresh:
            self.subscriptions[channel] = [*self.subscriptions.get(channel, ()), *fresh]
        self.streams.update(f"{channel}:{name}" for name in fresh)
        snapshots = (self._snapshot(channel, name) for name in fresh)
        return [snapshot for snapshot in snapshots if snapshot is not None]

    def _unsubscribe(self, channel: str, products: Sequence[str]) -> Sequence[Frame]:
        gone = ["heartbeats"] if channel == "heartbeats" else [canonical(product) for product in products]
        left = [name for name in self.subscriptions.get(channel, ()) if name not in gone]
        self.subscriptions.pop(channel, None)
        if left:
            self.subscriptions[channel] = left
        self.streams.difference_update(f"{channel}:{name}" for name in gone)
        return ()

    def _snapshot(self, channel: str, product: str) -> Frame | None:
        if channel == "market_trades":
            rows = _told(history.newest(self.view.trades(product), SNAPSHOT_TRADES))
            newest = {trade_id: rows[trade_id] for trade_id in sorted(rows)[-SNAPSHOT_TRADES:]}
            return _trades_frame(self.view.time_ns, product, "snapshot", newest) if newest else None
        if channel == "level2":
            book = self.view.book(product, WHOLE_BOOK)
            return _book_frame(product, "snapshot", book.time_ns, book.bids, book.asks) if book is not None else None
        frame = self.view.newest(f"{channel}:{product}") if channel == "ticker" else None
        if frame is None:
            return None
        payload = frame.payload.replace(b'"events":[{"type":"update"', b'"events":[{"type":"snapshot"', 1)
        return msgspec.structs.replace(frame, payload=payload, combined=payload)

    def _list(self) -> Frame:
        told = msgspec.json.encode({name: self.subscriptions[name] for name in sorted(self.subscriptions)}).decode()
        return _frame(self.view.time_ns, "subscriptions:", f'{{"subscriptions":{told}}}')


def _complaint(message: str) -> bytes:
    return msgspec.json.encode({"type": "error", "message": message})


# REST


def _json(answer: Any, marks: Sequence[Identity] = ()) -> Answer:
    return Answer(200, msgspec.json.encode(answer), marks)


def _failure(status: int, error: str, message: str) -> Answer:
    return Answer(status, msgspec.json.encode({"error": error, "error_details": message, "message": message}))


def _listed(view: View) -> dict[str, msgspec.Raw]:
    """Products by name: those of recorded answers as they were, and the others, each against USDC as well."""
    found: dict[str, msgspec.Raw] = {}
    for body in view.bodies:
        if body.url.partition("?")[0].endswith(ROOT):
            found |= {_row.decode(raw).product_id: raw for raw in _products.decode(body.body).products}
    for row in view.instruments.values():
        if isinstance(row, Instrument) and row.symbol not in found:
            found[row.symbol] = _spell_product(row, row.symbol)
        if isinstance(row, Instrument) and row.quote == "USD":
            other = row.symbol + "C"
            found.setdefault(other, _spell_product(row, other))
    return found


def _spell_product(row: Instrument, name: str) -> msgspec.Raw:
    base, _, quote = name.partition("-")
    product = {
        "product_id": name,
        "price": "",
        "base_increment": _text(row.lot_e8),
        "quote_increment": _text(row.tick_e8),
        "quote_min_size": "1",
        "quote_max_size": "150000000",
        "base_min_size": _text(row.lot_e8),
        "base_max_size": "3400",
        "base_name": base,
        "quote_name": quote,
        "is_disabled": False,
        "new": False,
        "status": "online",
        "cancel_only": False,
        "limit_only": False,
        "post_only": False,
        "trading_disabled": False,
        "auction_mode": False,
        "product_type": "SPOT",
        "quote_currency_id": quote,
        "base_currency_id": base,
        "alias": "" if name == row.symbol else row.symbol,
        "alias_to": [row.symbol + "C"] if name == row.symbol and quote == "USD" else [],
        "base_display_symbol": base,
        "quote_display_symbol": row.quote,
        "view_only": False,
        "price_increment": _text(row.tick_e8),
        "display_name": name,
        "product_venue": "CBE",
    }
    return msgspec.Raw(msgspec.json.encode(product))


def _last_trades(product: str, query: Mapping[str, str], view: View) -> Answer:
    """Newest first, within `start` and `end` (seconds) where they are given."""
    try:
        limit = int(query.get("limit", "100"))
        start_us, end_us = int(query.get("start", "0")) * 10**6, int(query.get("end", str(10**10))) * 10**6
    except ValueError:
        return _failure(400, "INVALID_ARGUMENT", "limit, start and end must be numbers")
    if not 1 <= limit <= MAX_TRADES:
        return _failure(400, "INVALID_ARGUMENT", f"limit must be between 1 and {MAX_TRADES}")
    chosen = _told_within(view.trades(product), start_us, end_us, limit)
    told = [msgspec.structs.asdict(trade) | {"bid": "", "ask": "", "exchange": "coinbase"} for trade in chosen]
    marks = [(TRADES, product, int(trade.trade_id)) for trade in chosen]
    return _json({"trades": told} | _best(product, view), marks)


def _told_within(frames: Sequence[Frame], start_us: int, end_us: int, limit: int) -> list[_Trade]:
    """The newest so many trades of a span of time, newest first."""
    ends = bisect_left(frames, end_us, key=_first_us) + history.SLACK_FRAMES
    begins = bisect_left(frames, start_us, key=_first_us) - history.SLACK_FRAMES
    near = islice(frames, max(begins, ends - limit - 2 * history.SLACK_FRAMES, 0), ends)
    rows = _told(near)
    trades = (_trade.decode(rows[trade_id].encode()) for trade_id in sorted(rows, reverse=True))
    return list(islice((trade for trade in trades if start_us <= micros_of(trade.time) < end_us), limit))


def _first_us(frame: Frame) -> int:
    *_, oldest = _rows_of(frame)
    return micros_of(_trade.decode(oldest).time)


def _best(product: str, view: View) -> dict[str, str]:
    frame = view.newest(f"ticker:{product}")
    rows = [row for event in _line.decode(frame.payload).events for row in event.tickers] if frame is not None else []
    best = _best_of.decode(rows[0]) if rows else _Best()
    return msgspec.structs.asdict(best)
