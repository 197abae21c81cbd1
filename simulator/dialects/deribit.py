"""Deribit, as in docs.deribit.com of late 2026: JSON-RPC 2.0 over WebSocket, the same methods over HTTP GET.

Notifications, replies and heartbeats:
    {"jsonrpc":"2.0","method":"subscription","params":{"channel":"ticker.BTC-27DEC24-40000-C.100ms","data":{...}}}
    {"jsonrpc":"2.0","method":"subscription","params":{"channel":"book.BTC-PERPETUAL.100ms","data":{"type":"change",
     "timestamp":1554373911330,"prev_change_id":297217,"instrument_name":"BTC-PERPETUAL","change_id":297218,
     "bids":[["delete",5041.94,0.0]],"asks":[["new",5042.64,40.0]]}}}
    {"jsonrpc":"2.0","id":1,"result":["ticker.BTC-27DEC24-40000-C.100ms"],"usIn":1,"usOut":2,"usDiff":1,"testnet":false}
    {"jsonrpc":"2.0","method":"heartbeat","params":{"type":"test_request"}}
Oddities: a subscribe reply lists the channels that were accepted and is silent on the others; `.raw` wants a login and
refuses the whole request (13778); an empty side has the price 0.0 and the IV 0.0; IVs are percents; trade_seq counts
within an instrument. Requests cost credits, and a request without credits ends the session (10028): 500 of 50,000 with
10,000 a second for most, public/subscribe 3,000 of 30,000, get_instruments 10,000 of 500,000 (articles/rate-limits). An
address may have 32 connections (articles/connection-management-best-practices). Of perpetuals there are books alone, of
all levels every 100 ms: the whole first, then what has changed. Their amounts are dollars.

Recorded `.raw` and `.agg2` channels are played as `.100ms`, trades as those of their kind and currency.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from weakref import WeakSet
from zlib import crc32

import msgspec

from simulator.books import plain
from simulator.contract import (
    INDEX_PRICES,
    OPTION_TICKERS,
    TRADES,
    VOLATILITY_INDEX,
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
from simulator.dialects.budgets import Credits
from simulator.dialects.changes import ToldByChanges
from simulator.events import (
    DepthDiff,
    Event,
    IndexPrice,
    Levels,
    Option,
    OptionTick,
    OptionTrade,
    VolatilityIndex,
    short_text_of,
)
from simulator.markets.flow import INVERSE

MAX_CONNECTIONS = 32
COST, POOL, REFILL_PER_SECOND = 500, 50_000, 10_000
SUBSCRIBE_COST, SUBSCRIBE_POOL = 3_000, 30_000
LISTING_COST, LISTING_POOL = 10_000, 500_000
MIN_HEARTBEAT_SECONDS = 10
MAX_TRADES, DEFAULT_TRADES = 1_000, 10
BATCH_NS, AGGREGATED_NS = 100_000_000, 1_000_000_000
MILLISECOND_NS, MICROSECOND_NS = 10**6, 10**3
GOING_AWAY = 1001
WHOLE_BOOK = 100_000
PERPETUAL = "-PERPETUAL"
EXPIRY_HOUR = 8
PRICE_INDICES = frozenset(
    f"{coin}_{quote}"
    for quote in ("usd", "usdc", "usdt")
    for coin in ("btc", "eth", "sol", "xrp", "bnb", "doge", "ada", "ltc", "dot", "avax", "trx", "link", "uni", "paxg")
)
VOLATILITY_INDICES = frozenset({"btc_usd", "eth_usd"})
KINDS = ("option", "future", "spot", "option_combo", "future_combo")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_OPTION = re.compile(r"([A-Z0-9]+)(_[A-Z0-9]+)?-(\d{1,2})([A-Z]{3})(\d{2})-(\d+(?:d\d+)?)-([CP])", re.ASCII)
OPTION_TICK_E8, OPTION_TICK_STEPS, OPTION_LOT_E8 = 10_000, ((500_000, 50_000),), 10_000_000


class _Params(msgspec.Struct):
    channel: str
    data: msgspec.Raw


class _Line(msgspec.Struct):
    method: str = ""
    params: _Params | None = None


class _Ticker(msgspec.Struct):
    timestamp: int
    greeks: dict[str, float] | None = None


class _Row(msgspec.Struct):
    instrument_name: str
    trade_seq: int
    timestamp: int


class _Index(msgspec.Struct):
    timestamp: int


class _Name(msgspec.Struct):
    instrument_name: str


class _Result(msgspec.Struct):
    result: list[msgspec.Raw]


_line = msgspec.json.Decoder(_Line)
_ticker = msgspec.json.Decoder(_Ticker)
_raw_rows = msgspec.json.Decoder(list[msgspec.Raw])
_row = msgspec.json.Decoder(_Row)
_index = msgspec.json.Decoder(_Index)
_name = msgspec.json.Decoder(_Name)
_result = msgspec.json.Decoder(_Result)
_trades_of_frame = msgspec.json.Decoder(_Line)

RECIPE = garbage.Recipe(
    row=lambda message: message["params"]["data"][0],
    retyped=(
        ("trade_seq", "twelve"),
        ("trade_id", []),
        ("price", {"x": 1}),
        ("amount", [1]),
        ("timestamp", "yesterday"),
        ("direction", "perhaps"),
        ("instrument_name", 7),
    ),
    unknown=b'{"jsonrpc":"2.0","method":"subscription","params":{"channel":"mystery.BTC","data":{"x":NUMBER}}}',
)


class DeribitBooks(ToldByChanges):
    """Each change names the one before it, and says of its levels whether they are new, changed or gone."""

    numbered = True

    def made(self, symbol: str) -> Mapping[str, int]:
        return {book_channel(symbol): WHOLE_BOOK} if symbol.endswith(PERPETUAL) else {}

    def make(self, stream: str, change: Change) -> Frame | None:
        diff, before, after = change.frame.diff, change.before, change.after
        assert diff is not None
        told = _changed(before.bids, after.bids), _changed(before.asks, after.asks)
        return _book_frame(stream, f'"type":"change","prev_change_id":{diff.first_id - 1}', after, told)


def book_channel(symbol: str) -> str:
    return f"book.{symbol}.100ms"


def _changed(before: Levels, after: Levels) -> list[str]:
    old, new = dict(before), dict(after)
    told = [_level("delete", price, "0") for price in old if price not in new]
    for price, quantity in after:
        if old.get(price) != quantity:
            told.append(_level("change" if price in old else "new", price, quantity))
    return told


def _level(action: str, price: str, quantity: str) -> str:
    return f'["{action}",{_float(price)},{_float(quantity)}]'


def _float(text: str) -> str:
    """As a JSON number of a float is written: `5042.5`, `30.0`."""
    short = plain(text)
    return short if "." in short else short + ".0"


def _book_frame(channel: str, kind: str, book: Snapshot, sides: tuple[Sequence[str], Sequence[str]]) -> Frame:
    symbol = channel.split(".")[1]
    bids, asks = map(",".join, sides)
    data = (
        f'{{{kind},"timestamp":{book.time_ns // MILLISECOND_NS},"instrument_name":"{symbol}",'
        f'"change_id":{book.last_id},"bids":[{bids}],"asks":[{asks}]}}'
    )
    return msgspec.structs.replace(_notification(book.time_ns, channel, data, symbol=symbol), kind="depth")


def _whole_book(channel: str, view: View) -> Frame | None:
    """What a subscription begins with. Recorded books are not kept: they begin with what is recorded next."""
    symbol = channel.split(".")[1]
    book = view.book(symbol, WHOLE_BOOK) if channel == book_channel(symbol) else None
    if book is None:
        return None
    told = _changed((), book.bids), _changed((), book.asks)
    return _book_frame(channel, '"type":"snapshot"', book, told)


class Deribit:
    venue = "DERIBIT"
    sources: Mapping[str, str] = {
        "DERIBIT_OPTIONS": "market",
        "DERIBIT_TRADES": "market",
        "DERIBIT_INDEX": "market",
        "DERIBIT_BOOKS": "books",
    }
    words: Sequence[str] = ("deribit",)
    books: Books | None = DeribitBooks()
    socket_path = "/ws/api/v2"
    rest_path = "/api/v2"

    def __init__(self) -> None:
        self.sessions: WeakSet[DeribitSession] = WeakSet()
        self.credits = {
            "public/subscribe": (Credits(SUBSCRIBE_POOL, REFILL_PER_SECOND), SUBSCRIBE_COST),
            "public/get_instruments": (Credits(LISTING_POOL, REFILL_PER_SECOND), LISTING_COST),
            "": (Credits(POOL, REFILL_PER_SECOND), COST),
        }
        self.listing: _Listing | None = None

    def awaited(self, source: str, listed: Mapping[str, Listed]) -> set[str]:
        """Those of Bitcoin, as collectors are configured by default; with no options of its listed, nothing."""
        if source == "DERIBIT_BOOKS":
            return {book_channel(symbol) for symbol in listed if symbol.endswith(PERPETUAL)}
        coins = [row for row in listed.values() if isinstance(row, Option) and row.price_currency == "BTC"]
        if source == "DERIBIT_OPTIONS":
            return {f"ticker.{row.symbol}.100ms" for row in coins}
        if source == "DERIBIT_TRADES":
            return {"trades.option.BTC.100ms"} if coins else set()
        return {"deribit_price_index.btc_usd", "deribit_volatility_index.btc_usd"}

    def spell(self, base: str, quote: str) -> str | None:
        """The perpetuals that there are books of."""
        return base + PERPETUAL if quote == "USD" and base in INVERSE else None

    def describe(self, symbol: str, tick_e8: int, lot_e8: int) -> Listed:
        option = _option_of(symbol)
        if option is not None:
            return option
        base, _, rest = symbol.partition("-")
        base, _, quote = base.partition("_")
        return Instrument(symbol, base, quote or "USD", tick_e8, lot_e8, "perpetual" if rest else "spot")

    def speak(self, events: Iterable[Event]) -> Iterator[Frame]:
        batches = (_Batch(BATCH_NS, "100ms"), _Batch(AGGREGATED_NS, "agg2"))
        for event in events:
            for batch in batches:
                if event.time_ns >= batch.ends_ns:
                    yield from batch.close(event.time_ns)
            if isinstance(event, OptionTick | OptionTrade):
                for batch in batches:
                    batch.add(event)
            elif isinstance(event, IndexPrice | VolatilityIndex):
                yield _index_frame(event)
            elif isinstance(event, DepthDiff):
                yield Frame(
                    event.time_ns, f"rest:book:{event.symbol}", b"", kind="depth", symbol=event.symbol, diff=event
                )
        for batch in batches:
            yield from batch.close(batch.ends_ns)

    # What a recording holds

    def claims(self, raw: bytes) -> bool:
        if raw.startswith(b"http"):
            return b"deribit.com/" in raw[:64]
        return b'"jsonrpc"' in raw and (b'"channel"' in raw or b'"heartbeat"' in raw or b'"usIn"' in raw)

    def read(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Frame]:
        for time_ns, raw in lines:
            try:
                line = _line.decode(raw)
                if line.method == "subscription" and line.params is not None:
                    yield from _recorded(time_ns, line.params)
                elif line.method not in {"", "heartbeat"} or b'"jsonrpc"' not in raw:
                    raise Unreadable(f"neither a notification nor a reply: {raw[:80]!r}")
            except msgspec.ValidationError as error:
                if b'"heartbeat"' not in raw:
                    raise Unreadable(str(error)) from error
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise Unreadable(str(error)) from error

    def read_book(self, body: Body) -> tuple[str, Snapshot] | None:
        return None

    def read_body(self, body: Body) -> Sequence[Frame]:
        return ()

    def texts(self, frame: Frame) -> tuple[Sequence[str], Sequence[str]]:
        """Steps are those of the listing, not inferred."""
        return (), ()

    def spoil(self, frame: Frame, rng: Random) -> Frame:
        return garbage.spoil(frame, RECIPE, rng)

    # Connections and REST

    def connect(self, path: str, query: Mapping[str, str], now: float, view: View) -> Session:
        if path.rstrip("/") != self.socket_path:
            raise LookupError(path)
        if sum(not session.ended for session in self.sessions) >= MAX_CONNECTIONS:
            raise Unavailable(Answer(429, _error(None, view, 10028, "too_many_requests")))
        session = DeribitSession(self, view)
        self.sessions.add(session)
        return session

    def answer(self, path: str, query: Mapping[str, str], now: float, view: View) -> Answer:
        root, _, method = path.partition("/api/v2/")
        if root or not method:
            return Answer(404, b'{"error":"not found"}')
        try:
            result, marks = self.call(method, query, now, view)
        except Refused as refused:
            return Answer(refused.status, refused.body(None, view))
        return Answer(200, _reply(None, view, result), marks)

    def call(self, method: str, params: Mapping[str, Any], now: float, view: View) -> tuple[Any, Sequence[Identity]]:
        """Result and marks of a method that needs no session. Raises Refused."""
        answer = _METHODS.get(method)
        if answer is None:
            raise _unknown_method(method)
        self.pay(method, now)
        return answer(params, self.listed(view), view)

    def pay(self, method: str, now: float) -> None:
        """Take the credits of a request. Raises Refused."""
        pool, cost = self.credits.get(method) or self.credits[""]
        if not pool.spend(cost, now):
            raise Refused(10028, "too_many_requests", status=429, fatal=True)

    def listed(self, view: View) -> "_Listing":
        if self.listing is None or not self.listing.is_of(view):
            self.listing = _Listing(view)
        return self.listing


# Frames


def _notification(time_ns: int, channel: str, data: str, marks: Sequence[Identity] = (), symbol: str = "") -> Frame:
    payload = f'{{"jsonrpc":"2.0","method":"subscription","params":{{"channel":"{channel}","data":{data}}}}}'.encode()
    return Frame(time_ns, channel, payload, payload, marks, symbol=symbol)


class _Batch:
    """What is told together: the newest ticker of each option and all trades since the last time.

    Only the batches of 100 ms have marks: the others say the same again.
    """

    def __init__(self, interval_ns: int, suffix: str) -> None:
        self.interval_ns = interval_ns
        self.suffix = suffix
        self.ends_ns = 0
        self.tickers: dict[str, OptionTick] = {}
        self.trades: list[OptionTrade] = []

    def add(self, event: OptionTick | OptionTrade) -> None:
        if isinstance(event, OptionTick):
            self.tickers[event.option.symbol] = event
        else:
            self.trades.append(event)

    def close(self, time_ns: int) -> Iterator[Frame]:
        """End the batch, the next one holds this time."""
        for symbol, tick in self.tickers.items():
            time_ms = tick.time_ns // MILLISECOND_NS
            marks = ((OPTION_TICKERS, symbol.upper(), time_ms * 1_000),) if self.interval_ns == BATCH_NS else ()
            channel = f"ticker.{symbol}.{self.suffix}"
            yield _notification(self.ends_ns, channel, _spell_ticker(tick, time_ms), marks, symbol)
        rows = [_spell_trade(trade) for trade in self.trades]
        yield from _trade_frames(self.ends_ns, rows, self.suffix)
        self.tickers, self.trades = {}, []
        self.ends_ns = time_ns - time_ns % self.interval_ns + self.interval_ns


class _Told(msgspec.Struct, frozen=True):
    """A trade as it is on the wire."""

    instrument: str
    sequence: int
    row: str


def _trade_frames(time_ns: int, rows: Sequence[_Told], suffix: str) -> Iterator[Frame]:
    """By kind and currency, which only the 100 ms ones count; again by instrument, and of any currency."""
    groups: dict[str, list[_Told]] = {}
    for told in rows:
        kind, currency = _kind_of(told.instrument)
        for name in (f"{kind}.{currency}", told.instrument, f"{kind}.any"):
            groups.setdefault(name, []).append(told)
    for name, group in groups.items():
        kind, _, currency = name.partition(".")
        counted = suffix == "100ms" and currency not in {"", "any"}
        marks = tuple((TRADES, told.instrument.upper(), told.sequence) for told in group) if counted else ()
        data = f"[{','.join(told.row for told in group)}]"
        frame = _notification(time_ns, f"trades.{name}.{suffix}", data, marks, group[0].instrument)
        yield msgspec.structs.replace(frame, kind="trade") if counted else frame


def _kind_of(instrument: str) -> tuple[str, str]:
    """Kind and currency that it is listed under: the one it settles in."""
    base, _, rest = instrument.partition("-")
    currency = base.rpartition("_")[2]
    if _OPTION.fullmatch(instrument):
        return "option", currency
    if rest == "PERPETUAL" or re.fullmatch(r"\d{1,2}[A-Z]{3}\d{2}", rest):
        return "future", currency
    if not rest:
        return "spot", currency
    return ("future_combo" if rest.startswith("FS-") else "option_combo"), currency


def _spell_ticker(tick: OptionTick, time_ms: int) -> str:
    option = tick.option
    greeks = (
        f'{{"vega":{tick.vega:.5f},"theta":{tick.theta:.5f},"rho":{tick.rho:.5f},'
        f'"gamma":{tick.gamma:.5f},"delta":{tick.delta:.5f}}}'
    )
    last = "null" if tick.last_e8 is None else short_text_of(tick.last_e8)
    return (
        f'{{"timestamp":{time_ms},"state":"open","stats":{{"high":null,"low":null,"price_change":null,'
        f'"volume":{short_text_of(tick.volume_e8)},"volume_usd":null}},"index_price":{short_text_of(tick.index_e8)},'
        f'"instrument_name":"{option.symbol}","interest_rate":0.0,"last_price":{last},"settlement_price":null,'
        f'"min_price":0.0001,"max_price":{short_text_of(tick.mark_e8 * 2 + 5_000_000)},'
        f'"open_interest":{short_text_of(tick.open_interest_e8)},"mark_price":{short_text_of(tick.mark_e8)},'
        f'"best_bid_price":{short_text_of(tick.bid_e8 or 0)},"best_ask_price":{short_text_of(tick.ask_e8 or 0)},'
        f'"mark_iv":{tick.mark_iv * 100:.2f},"bid_iv":{(tick.bid_iv or 0.0) * 100:.2f},'
        f'"ask_iv":{(tick.ask_iv or 0.0) * 100:.2f},"underlying_price":{short_text_of(tick.underlying_e8)},'
        f'"underlying_index":"SYN.{option.symbol.rsplit("-", 2)[0]}","greeks":{greeks},'
        f'"estimated_delivery_price":{short_text_of(tick.index_e8)},'
        f'"best_ask_amount":{short_text_of(tick.ask_quantity_e8)},'
        f'"best_bid_amount":{short_text_of(tick.bid_quantity_e8)}}}'
    )


def _spell_trade(trade: OptionTrade) -> _Told:
    amount = short_text_of(trade.quantity_e8)
    row = (
        f'{{"timestamp":{trade.time_ns // MILLISECOND_NS},"iv":{trade.iv * 100:.2f},'
        f'"price":{short_text_of(trade.price_e8)},"amount":{amount},"direction":"{"buy" if trade.buys else "sell"}",'
        f'"index_price":{short_text_of(trade.index_e8)},"instrument_name":"{trade.option.symbol}",'
        f'"trade_seq":{trade.sequence},"mark_price":{short_text_of(trade.mark_e8)},"tick_direction":1,'
        f'"contracts":{amount},"trade_id":"{trade.trade_id}"}}'
    )
    return _Told(trade.option.symbol, trade.sequence, row)


def _index_frame(event: IndexPrice | VolatilityIndex) -> Frame:
    time_ms = event.time_ns // MILLISECOND_NS
    if isinstance(event, IndexPrice):
        value, channel, kind = f'"price":{short_text_of(event.price_e8)}', "deribit_price_index", INDEX_PRICES
    else:
        value, channel = f'"volatility":{short_text_of(event.percent_e8)}', "deribit_volatility_index"
        kind = VOLATILITY_INDEX
    marks = ((kind, event.name.upper(), time_ms * 1_000),)
    data = f'{{"timestamp":{time_ms},{value},"index_name":"{event.name}"}}'
    return _notification(event.time_ns, f"{channel}.{event.name}", data, marks)


def _recorded(time_ns: int, params: _Params) -> Iterator[Frame]:
    root, _, rest = params.channel.partition(".")
    name, dot, interval = rest.rpartition(".")
    if not dot:
        name, interval = rest, ""
    if root == "trades":
        yield from _trade_frames(time_ns, [_told(row) for row in _raw_rows.decode(params.data)], "100ms")
        return
    channel = f"{root}.{name}.100ms" if interval in {"raw", "agg2"} else params.channel
    data = bytes(params.data).decode()
    if root == "ticker":
        ticker = _ticker.decode(params.data)
        counted = ticker.greeks is not None and _OPTION.fullmatch(name)
        marks = ((OPTION_TICKERS, name.upper(), ticker.timestamp * 1_000),) if counted else ()
        yield _notification(time_ns, channel, data, marks, name)
    elif root in _INDICES:
        index = (_INDICES[root], rest.upper(), _index.decode(params.data).timestamp * 1_000)
        yield _notification(time_ns, channel, data, (index,))
    else:
        yield _notification(time_ns, channel, data, symbol=name if root == "book" else "")


_INDICES = {"deribit_price_index": INDEX_PRICES, "deribit_volatility_index": VOLATILITY_INDEX}


def _told(raw: msgspec.Raw) -> _Told:
    row = _row.decode(raw)
    return _Told(row.instrument_name, row.trade_seq, bytes(raw).decode())


# Instruments


def _option_of(symbol: str) -> Option | None:
    match = _OPTION.fullmatch(symbol)
    if match is None or match[4] not in MONTHS:
        return None
    base, quote, day, month, year, strike, side = match.groups()
    try:
        expiry = datetime(2000 + int(year), MONTHS.index(month) + 1, int(day), EXPIRY_HOUR, tzinfo=UTC)
    except ValueError:
        return None
    whole, _, fraction = strike.partition("d")
    return Option(
        symbol,
        base,
        quote[1:] if quote else base,
        int(expiry.timestamp()) * 10**9,
        int(whole + fraction.ljust(8, "0")),
        side == "C",
        OPTION_TICK_E8,
        OPTION_LOT_E8,
        OPTION_TICK_STEPS,
    )


class _Listing:
    """The instruments of a venue, each as JSON: those of recorded answers as they were, and the others."""

    def __init__(self, view: View) -> None:
        self.instruments, self.bodies = view.instruments, view.bodies
        self.rows: dict[str, bytes] = {}
        for body in view.bodies:
            if "/public/get_instruments" in body.url:
                for raw in _result.decode(body.body).result:
                    self.rows[_name.decode(raw).instrument_name] = bytes(raw)
        for symbol, listed in view.instruments.items():
            if symbol not in self.rows:
                self.rows[symbol] = _spell_listed(listed)

    def is_of(self, view: View) -> bool:
        return self.instruments is view.instruments and self.bodies is view.bodies

    def select(self, currency: str, kind: str | None) -> list[msgspec.Raw]:
        found = []
        for symbol, row in self.rows.items():
            its_kind, its_currency = _kind_of(symbol)
            if currency in {"any", its_currency} and kind in {None, its_kind}:
                found.append(msgspec.Raw(row))
        return found


def _spell_listed(listed: Listed) -> bytes:
    common = {
        "instrument_name": listed.symbol,
        "instrument_id": crc32(listed.symbol.encode()),
        "is_active": True,
        "state": "open",
        "contract_size": 1.0,
        "tick_size": listed.tick_e8 / 1e8,
        "min_trade_amount": listed.lot_e8 / 1e8,
        "maker_commission": 0.0003,
        "taker_commission": 0.0003,
        "creation_timestamp": 1_704_067_200_000,
        "rfq": False,
    }
    if isinstance(listed, Instrument):
        own: dict[str, Any] = {
            "kind": "spot" if listed.kind == "spot" else "future",
            "base_currency": listed.base,
            "quote_currency": listed.quote,
            "counter_currency": listed.quote,
            "settlement_currency": listed.base,
            "expiration_timestamp": 32_503_708_800_000,
            "settlement_period": "perpetual",
            "tick_size_steps": [],
        }
        if listed.symbol.endswith(PERPETUAL) and listed.quote == "USD":
            own |= {
                "instrument_type": "reversed",
                "price_index": f"{listed.base}_usd".lower(),
                "contract_size": listed.lot_e8 / 1e8,
            }
    else:
        own = _option_fields(listed)
    return msgspec.json.encode(common | own)


def _option_fields(option: Option) -> dict[str, Any]:
    inverse = option.price_currency == option.underlying
    return {
        "kind": "option",
        "option_type": "call" if option.is_call else "put",
        "strike": option.strike_e8 / 1e8,
        "expiration_timestamp": option.expiry_ns // MILLISECOND_NS,
        "settlement_period": _period(option.expiry_ns),
        "base_currency": option.underlying,
        "quote_currency": option.price_currency,
        "counter_currency": "USD" if inverse else option.price_currency,
        "settlement_currency": option.price_currency,
        "instrument_type": "reversed" if inverse else "linear",
        "price_index": f"{option.underlying}_{'usd' if inverse else option.price_currency}".lower(),
        "tick_size_steps": [{"above_price": start / 1e8, "tick_size": tick / 1e8} for start, tick in option.tick_steps],
    }


def _period(expiry_ns: int) -> str:
    day = datetime.fromtimestamp(expiry_ns // 10**9, UTC)
    if day.weekday() != 4:
        return "day"
    return "week" if (day + timedelta(days=7)).month == day.month else "month"


# Requests


class Refused(Exception):
    """A request answered with an error of the venue; a `fatal` one ends the session."""

    def __init__(
        self, code: int, message: str, data: dict[str, str] | None = None, *, status: int = 400, fatal: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.data = data
        self.status = status
        self.fatal = fatal

    def body(self, request: Any, view: View) -> bytes:
        return _error(request, view, self.code, str(self), self.data)


def _invalid(param: str, reason: str = "wrong format") -> Refused:
    return Refused(-32602, "Invalid params", {"reason": reason, "param": param})


def _unknown_method(method: str) -> Refused:
    if method.startswith("private/"):
        return Refused(13009, "unauthorized")
    if method in _SOCKET_METHODS:
        return Refused(10030, "must_be_websocket_request")
    return Refused(-32601, "Method not found")


def _stamps(view: View) -> dict[str, Any]:
    time_us = view.time_ns // MICROSECOND_NS
    return {"usIn": time_us, "usOut": time_us + 100, "usDiff": 100, "testnet": False}


def _reply(request: Any, view: View, result: Any) -> bytes:
    given = {} if request is None else {"id": request}
    return msgspec.json.encode({"jsonrpc": "2.0"} | given | {"result": result} | _stamps(view))


def _error(request: Any, view: View, code: int, message: str, data: dict[str, str] | None = None) -> bytes:
    given = {} if request is None else {"id": request}
    error: dict[str, Any] = {"message": message, "code": code}
    if data is not None:
        error["data"] = data
    return msgspec.json.encode({"jsonrpc": "2.0"} | given | {"error": error} | _stamps(view))


Result = tuple[Any, Sequence[Identity]]


def _test(params: Mapping[str, Any], listing: _Listing, view: View) -> Result:
    return {"version": "1.2.26"}, ()


def _time(params: Mapping[str, Any], listing: _Listing, view: View) -> Result:
    return view.time_ns // MILLISECOND_NS, ()


def _instruments(params: Mapping[str, Any], listing: _Listing, view: View) -> Result:
    currency, kind = params.get("currency"), params.get("kind")
    if not isinstance(currency, str) or not re.fullmatch("[A-Z]{3,5}|any", currency):
        raise _invalid("currency")
    if kind is not None and kind not in KINDS:
        raise _invalid("kind")
    if str(params.get("expired", "false")).lower() == "true":
        return [], ()
    return listing.select(currency, kind), ()


def _instrument(params: Mapping[str, Any], listing: _Listing, view: View) -> Result:
    return msgspec.Raw(listing.rows[_named(params, listing)]), ()


def _index_names(params: Mapping[str, Any], listing: _Listing, view: View) -> Result:
    """docs.deribit.com public/get_index_price_names: of all indices, whether anything is told of them or not."""
    return sorted(PRICE_INDICES), ()


def _named(params: Mapping[str, Any], listing: _Listing) -> str:
    name = params.get("instrument_name")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Z0-9_]+(-[A-Za-z0-9_]+)*", name):
        raise _invalid("instrument_name")
    if name not in listing.rows:
        raise Refused(13020, "not_found")
    return name


def _number(params: Mapping[str, Any], name: str, default: int) -> int:
    value = params.get(name, default)
    try:
        return int(value)
    except (TypeError, ValueError):
        raise _invalid(name) from None


def _last_trades(params: Mapping[str, Any], listing: _Listing, view: View) -> Result:
    """public/get_last_trades_by_instrument and its kin with times: the newest first unless told otherwise."""
    name = _named(params, listing)
    count = _number(params, "count", DEFAULT_TRADES)
    if not 1 <= count <= MAX_TRADES:
        raise _invalid("count", f"must be between 1 and {MAX_TRADES}")
    first, last = _number(params, "start_seq", 0), _number(params, "end_seq", 2**63)
    since, until = _number(params, "start_timestamp", 0), _number(params, "end_timestamp", 2**63)
    found = [
        (row.trade_seq, raw)
        for raw in _history(view, name, first)
        if first <= (row := _row.decode(raw)).trade_seq <= last and since <= row.timestamp <= until
    ]
    found.sort(key=lambda pair: pair[0])
    ascending = params.get("sorting") == "asc" or ("sorting" not in params and "start_seq" in params)
    chosen = found[:count] if ascending else found[::-1][:count]
    marks = [(TRADES, name.upper(), sequence) for sequence, _ in chosen]
    return {"trades": [raw for _, raw in chosen], "has_more": len(found) > count}, marks


def _last_of_all(params: Mapping[str, Any], listing: _Listing, view: View) -> Result:
    """public/get_last_trades_by_currency_and_time: of all options of a currency."""
    currency = params.get("currency")
    count = _number(params, "count", DEFAULT_TRADES)
    if not 1 <= count <= MAX_TRADES:
        raise _invalid("count", f"must be between 1 and {MAX_TRADES}")
    since, until = _number(params, "start_timestamp", 0), _number(params, "end_timestamp", 2**63)
    found = [
        (row.timestamp, row.trade_seq, name, raw)
        for name in listing.rows
        if _kind_of(name) == (params.get("kind", "option"), currency)
        for raw in _history(view, name, 0)
        if since <= (row := _row.decode(raw)).timestamp <= until
    ]
    found.sort(key=lambda one: one[:3], reverse=params.get("sorting") != "asc")
    chosen = found[:count]
    marks = [(TRADES, name.upper(), sequence) for _, sequence, name, _ in chosen]
    return {"trades": [raw for *_, raw in chosen], "has_more": len(found) > count}, marks


def _history(view: View, name: str, first: int) -> Iterator[msgspec.Raw]:
    """The trades that were told of an instrument, from about this number on."""
    for frame in history.since(view.trades(name.upper()), history.trade_id_of(name.upper()), first):
        params = _trades_of_frame.decode(frame.payload).params
        assert params is not None
        for raw in _raw_rows.decode(params.data):
            if _row.decode(raw).instrument_name == name:
                yield raw


_METHODS: dict[str, Callable[[Mapping[str, Any], _Listing, View], Result]] = {
    "public/test": _test,
    "public/hello": _test,
    "public/get_time": _time,
    "public/get_instruments": _instruments,
    "public/get_instrument": _instrument,
    "public/get_index_price_names": _index_names,
    "public/get_last_trades_by_instrument": _last_trades,
    "public/get_last_trades_by_instrument_and_time": _last_trades,
    "public/get_last_trades_by_currency_and_time": _last_of_all,
}
_SOCKET_METHODS = frozenset(
    {
        *("public/subscribe", "public/unsubscribe", "public/unsubscribe_all"),
        *("public/set_heartbeat", "public/disable_heartbeat"),
    }
)


class DeribitSession:
    """The venue's side of one connection."""

    def __init__(self, venue: Deribit, view: View) -> None:
        self.venue = venue
        self.view = view
        self.streams: set[str] = set()
        self.ended = False
        self._interval: float | None = None
        self._next_heartbeat = 0.0
        self._test_due: float | None = None

    def greet(self, now: float) -> Sequence[Message]:
        return ()

    def ping(self, now: float) -> None:
        """Free."""

    def pong(self, payload: bytes, now: float) -> None:
        """Not asked for."""

    def encode(self, frame: Frame) -> bytes:
        return frame.payload

    def tick(self, now: float) -> Sequence[Message]:
        """Heartbeats, and the question whether the client lives: it has one interval to answer."""
        if self.ended:
            raise Disconnect(GOING_AWAY, "too_many_requests")
        if self._test_due is not None and now >= self._test_due:
            self.ended = True
            raise Disconnect(GOING_AWAY, "test_request was not answered")
        if self._interval is None or now < self._next_heartbeat:
            return ()
        self._next_heartbeat = now + self._interval
        self._test_due = self._test_due or now + self._interval
        return (_heartbeat("heartbeat"), _heartbeat("test_request"))

    def receive(self, text: str | bytes, now: float) -> Sequence[Message]:
        if self.ended:
            raise Disconnect(GOING_AWAY, "too_many_requests")
        try:
            request = json.loads(text)
        except ValueError:
            return (_error(None, self.view, -32700, "Parse error"),)
        request = request if isinstance(request, dict) else {}
        number = request.get("id")
        try:
            return self._perform(request.get("method"), request.get("params", {}), number, now)
        except Refused as refused:
            self.ended = refused.fatal
            return (refused.body(number, self.view),)

    def _perform(self, method: Any, params: Any, number: Any, now: float) -> Sequence[Message]:
        if not isinstance(method, str) or not isinstance(params, dict):
            raise Refused(-32600, "Invalid Request")
        if method == "public/test":
            self._test_due = None
        if method not in _SOCKET_METHODS:
            result, _ = self.venue.call(method, params, now, self.view)
            return (_reply(number, self.view, result),)
        self.venue.pay(method, now)
        if method == "public/subscribe":
            return self._subscribe(params, number)
        return (_reply(number, self.view, self._change(method, params, now)),)

    def _subscribe(self, params: Mapping[str, Any], number: Any) -> Sequence[Message]:
        channels = _channels(params)
        if any(channel.endswith(".raw") for channel in channels):
            raise Refused(13778, "raw_subscriptions_not_available_for_unauthorized")
        accepted = [channel for channel in channels if _is_channel(channel, self.venue.listed(self.view))]
        fresh = [channel for channel in accepted if channel not in self.streams]
        self.streams.update(fresh)
        first = [self._first(channel) for channel in fresh]
        return (_reply(number, self.view, accepted), *(frame for frame in first if frame is not None))

    def _first(self, channel: str) -> Frame | None:
        """What a subscription begins with: how things are."""
        if channel.startswith("book."):
            return _whole_book(channel, self.view)
        return None if channel.startswith("trades.") else self.view.newest(channel)

    def _change(self, method: str, params: Mapping[str, Any], now: float) -> Any:
        if method == "public/unsubscribe":
            gone = [channel for channel in _channels(params) if channel in self.streams]
            self.streams.difference_update(gone)
            return gone
        if method == "public/unsubscribe_all":
            self.streams.clear()
        elif method == "public/set_heartbeat":
            self._set_heartbeat(params.get("interval"), now)
        else:
            self._interval = self._test_due = None
        return "ok"

    def _set_heartbeat(self, interval: Any, now: float) -> None:
        if not isinstance(interval, int | float) or isinstance(interval, bool):
            raise _invalid("interval")
        if interval < MIN_HEARTBEAT_SECONDS:
            raise _invalid("interval", f"must be at least {MIN_HEARTBEAT_SECONDS}")
        self._interval = float(interval)
        self._next_heartbeat = now + self._interval


def _heartbeat(kind: str) -> bytes:
    return b'{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"%s"}}' % kind.encode()


def _channels(params: Mapping[str, Any]) -> list[str]:
    channels = params.get("channels")
    if not isinstance(channels, list) or not channels or not all(isinstance(name, str) for name in channels):
        raise _invalid("channels")
    return list(dict.fromkeys(channels))


def _is_channel(channel: str, listing: _Listing) -> bool:
    """Whether there is such a channel for everybody."""
    root, _, rest = channel.partition(".")
    name, _, interval = rest.rpartition(".")
    if root == "deribit_price_index":
        return rest in PRICE_INDICES
    if root == "deribit_volatility_index":
        return rest in VOLATILITY_INDICES
    if interval not in {"100ms", "agg2"}:
        return False
    if root == "trades" and "." in name:
        kind, _, currency = name.partition(".")
        return kind in KINDS and re.fullmatch("[A-Z]{3,5}|any", currency) is not None
    return root in {"ticker", "trades", "book"} and name in listing.rows
