"""InfluxDB 2, or QuestDB which takes the same writes: measurements `trades` and `orderbook` in line protocol.

Line protocol: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/

    trades,symbol=BTCUSDT,exchange=BINANCE_SPOT,side=BUY price=60001.5,quantity=0.001,trade_id="42" 1723075200123000042
    orderbook,symbol=BTCUSDT,exchange=BINANCE_SPOT bid_price=60001.0,...,imbalance=0.25 1723075200124567890

Numbers are the nearest doubles.

**A nanosecond of its own for each point.** Points of one series (measurement and tags) and one time overwrite one
another. A trade's time is its event time plus its counting id modulo 10^6 ns where the event time is a whole
millisecond, modulo 1000 ns elsewhere; a book's is its received time plus its update id modulo 1000 ns. Where nothing
counts, the offset in Kafka does: it is unique and a second reading has the same one, while a hash of 100 ids into one
millisecond would lose a trade every 200 milliseconds.

Either way the last three digits are the id modulo 1000, so trades of one symbol and side can meet only where their ids
differ by a multiple of 1000, and then only
- both in one whole millisecond, ids 10^6 apart: a million trades in a millisecond;
- both in one microsecond, ids 1000 apart: one order that fills over a thousand others on a venue with a
  microsecond clock;
- one in a whole millisecond of such a venue and one in the k-th microsecond after it, ids 1000 j apart with
  k = id // 1000 modulo 1000: 1000 trades in that millisecond, and then one chance in a thousand.
Books can meet where two are received in one microsecond with ids 1000 apart. Points that would meet in one batch are
seen and the later one is refused, so that it is a dead letter and not lost in silence.
"""

import functools
import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import urllib3
from influxdb_client import InfluxDBClient, WriteApi, WritePrecision
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

from ravencore.config import Settings
from ravencore.decimals import ONE, to_float
from ravencore.records import Book, Record, Trade
from ravencore.topics import BOOKS, TRADES
from sinks.contract import REFUSED, Entry, Outcome, Refused, Rejection, StoreUnavailable, keep_good

TIMEOUT_MS = 10_000
APPLY_CHECK_S = 1.0

QUESTDB_TABLES = (
    "CREATE TABLE IF NOT EXISTS trades (symbol SYMBOL, exchange SYMBOL, side SYMBOL, price DOUBLE, quantity DOUBLE, "
    "trade_id VARCHAR, timestamp TIMESTAMP_NS) TIMESTAMP(timestamp) PARTITION BY DAY WAL "
    "DEDUP UPSERT KEYS(timestamp, symbol, exchange, side)",
    "CREATE TABLE IF NOT EXISTS orderbook (symbol SYMBOL, exchange SYMBOL, bid_price DOUBLE, bid_quantity DOUBLE, "
    "ask_price DOUBLE, ask_quantity DOUBLE, spread DOUBLE, mid_price DOUBLE, imbalance DOUBLE, timestamp TIMESTAMP_NS) "
    "TIMESTAMP(timestamp) PARTITION BY DAY WAL DEDUP UPSERT KEYS(timestamp, symbol, exchange)",
)
"""Tables of a QuestDB; those that a first write would make know no nanoseconds and no keys."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DROPPED = re.compile(r"partial write:.*dropped=(\d+)", re.DOTALL)


class Point(NamedTuple):
    """A line, the series it belongs to and its time in nanoseconds."""

    series: str
    fields: str
    time_ns: int


# Encoding: pure.


def encode(entry: Entry) -> Point:
    """The point of a Trade or Book; raises Refused when line protocol cannot hold it."""
    record = entry.record
    if isinstance(record, Trade):
        return _trade(record, entry.offset)
    if isinstance(record, Book):
        return _book(record, entry.offset)
    raise Refused(f"a {type(record).__name__} has no measurement")


def trade_time_ns(event_time: int, counting: int) -> int:
    """The nanosecond of a trade from its event time (µs) and its counting id; this file's docstring says why."""
    return event_time * 1000 + counting % (1_000_000 if event_time % 1000 == 0 else 1000)


def book_time_ns(received_time: int, counting: int) -> int:
    """The nanosecond of a book from its received time (µs) and its update id."""
    return received_time * 1000 + counting % 1000


def _trade(trade: Trade, offset: int) -> Point:
    counting = offset if trade.sequence is None else trade.sequence
    fields = f"price={to_float(trade.price)!r},quantity={to_float(trade.quantity)!r},trade_id={string(trade.trade_id)}"
    return Point(
        _trades_series(trade.symbol, trade.venue, trade.side), fields, trade_time_ns(trade.event_time, counting)
    )


def _book(book: Book, offset: int) -> Point:
    fields = book_fields(book)
    if not fields:
        raise Refused("a book without a level on either side has no field to write")
    text = ",".join(f"{name}={value!r}" for name, value in fields.items())
    return Point(
        _book_series(book.symbol, book.venue), text, book_time_ns(book.received_time, _update_id(book, offset))
    )


def _update_id(book: Book, offset: int) -> int:
    if book.sequence is not None:
        return book.sequence
    text = book.update_id or ""
    return int(text[-3:]) if text.isascii() and text.isdigit() else offset


def book_fields(book: Book) -> dict[str, float]:
    """Fields of `orderbook`; where a side is empty, its own and those that need both are left out.

    imbalance = (bid - ask) / (bid + ask) of the best quantities.
    """
    fields: dict[str, float] = {}
    for side, levels in (("bid", book.bids), ("ask", book.asks)):
        if levels:
            fields[f"{side}_price"] = to_float(levels[0].price)
            fields[f"{side}_quantity"] = to_float(levels[0].quantity)
    if book.bids and book.asks:
        bid, ask = book.bids[0], book.asks[0]
        fields["spread"] = to_float(ask.price - bid.price)
        fields["mid_price"] = (bid.price + ask.price) / (2 * ONE)
        if bid.quantity + ask.quantity:
            fields["imbalance"] = (bid.quantity - ask.quantity) / (bid.quantity + ask.quantity)
    return fields


@functools.lru_cache(65_536)
def _trades_series(symbol: str, venue: str, side: str) -> str:
    return f"trades,symbol={tag(symbol)},exchange={tag(venue)},side={side}"


@functools.lru_cache(65_536)
def _book_series(symbol: str, venue: str) -> str:
    return f"orderbook,symbol={tag(symbol)},exchange={tag(venue)}"


def tag(text: str) -> str:
    """A tag's value, escaped; raises Refused for what parsers disagree on: empty, backslashes, control characters."""
    if not text or "\\" in text or _CONTROL.search(text):
        raise Refused(f"{text!r} cannot be a tag")
    return text.replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")


def string(text: str) -> str:
    """A string field's value in quotes, escaped; raises Refused for control characters."""
    if _CONTROL.search(text):
        raise Refused(f"{text!r} cannot be a string field")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def points(batch: Sequence[Entry]) -> tuple[list[tuple[Entry, Point]], list[Rejection]]:
    """The points of a batch, and the entries that have none or whose place is taken by another one of the batch."""
    encoded, refused = [], []
    for entry in batch:
        try:
            encoded.append((entry, encode(entry)))
        except Refused as error:
            refused.append(Rejection(entry, REFUSED, str(error)))
    if len({(point.series, point.time_ns) for _, point in encoded}) == len(encoded):
        return encoded, refused
    return _apart(encoded, refused)


def _apart(
    encoded: list[tuple[Entry, Point]], refused: list[Rejection]
) -> tuple[list[tuple[Entry, Point]], list[Rejection]]:
    """The same with one entry for each point: a record that is there twice is written once."""
    taken: dict[tuple[str, int], tuple[Entry, Point]] = {}
    for entry, point in encoded:
        first, there = taken.setdefault((point.series, point.time_ns), (entry, point))
        if there.fields != point.fields:
            detail = f"offset {first.offset} has the same series and nanosecond {point.time_ns}: {there.fields}"
            refused.append(Rejection(entry, REFUSED, detail))
    return list(taken.values()), refused


# The client.


class Influx:
    """Trades and best bids and asks in InfluxDB 2 or QuestDB.

    At least once, and a second write changes nothing: the key is the series and the nanosecond (this file's
    docstring). A write counts once the server has answered it: InfluxDB then has it in its write-ahead log, QuestDB
    too; QuestDB shows it a moment later, and if its writer is stuck the store says so and counts as away.
    """

    name = "influx"
    topics: Mapping[str, type[Record]] = {TRADES: Trade, BOOKS: Book}
    wait_s = 0.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.influx
        self._url = settings.influx.url.rstrip("/")
        token = settings.influx.token.get_secret_value()
        self._client = InfluxDBClient(self._url, token=token, org=settings.influx.org, timeout=TIMEOUT_MS)
        self._writes: WriteApi = self._client.write_api(write_options=SYNCHRONOUS)
        self._checked = 0.0

    def setup(self) -> None:
        """See that the server answers; in a QuestDB, create the tables. Raises StoreUnavailable."""
        if self._settings.flavour == "questdb":
            for statement in QUESTDB_TABLES:
                self._query(statement)
        elif not self._client.ping():
            raise StoreUnavailable(f"{self._url} does not answer")

    def write(self, batch: Sequence[Entry]) -> Outcome:
        """Write the batch's points in one request, in more where the server refuses some. Raises StoreUnavailable."""
        encoded, refused = points(batch)
        bad = keep_good(encoded, self._post)
        self._see_applied()
        return Outcome([*refused, *(Rejection(entry, REFUSED, answer) for (entry, _), answer in bad)], [])

    def close(self) -> None:
        """Close the connection."""
        self._writes.close()
        self._client.close()

    def _post(self, rows: Sequence[tuple[Entry, Point]]) -> None:
        lines = "\n".join([f"{point.series} {point.fields} {point.time_ns}" for _, point in rows])
        try:
            self._writes.write(self._settings.bucket, self._settings.org, lines.encode(), WritePrecision.NS)
        except ApiException as error:
            raise _translated(self._url, error, len(rows)) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreUnavailable(f"{self._url} does not answer: {error}") from None

    def _see_applied(self) -> None:
        """Raise StoreUnavailable when QuestDB takes writes but has stopped applying them to a table."""
        if self._settings.flavour != "questdb" or time.monotonic() - self._checked < APPLY_CHECK_S:
            return
        stuck = self._query("SELECT name, errorMessage FROM wal_tables() WHERE suspended")
        if stuck:
            table, message = stuck[0]
            raise StoreUnavailable(
                f"QuestDB at {self._url} no longer applies writes to {table} ({message}): "
                f"see its log, then `ALTER TABLE {table} RESUME WAL`"
            )
        self._checked = time.monotonic()

    def _query(self, sql: str) -> list[list[Any]]:
        """Rows of a statement through QuestDB's REST API (https://questdb.com/docs/reference/api/rest/)."""
        url = f"{self._url}/exec?{urllib.parse.urlencode({'query': sql})}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_MS / 1000) as answer:
                rows: list[list[Any]] = json.load(answer).get("dataset", [])
                return rows
        except urllib.error.HTTPError as error:
            raise StoreUnavailable(f"QuestDB at {self._url} refused `{sql}`: {error.read().decode()}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise StoreUnavailable(f"QuestDB at {self._url} does not answer: {error}") from None


def _translated(url: str, error: ApiException, rows: int) -> StoreUnavailable | Refused:
    """What a refused write means: 400, 413 and 422 speak of the lines; anything else of the server or its settings.

    https://docs.influxdata.com/influxdb/v2/write-data/troubleshoot/. Seen from QuestDB: 400. Not tested without
    InfluxDB: 413, 422 and `partial write: ... dropped=N`, which keeps the other lines; writing them again is harmless.
    """
    body = error.body or b""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
    answer = f"{error.status} {_message(text) or error.reason}"
    if error.status in {400, 413, 422}:
        dropped = _DROPPED.search(text)
        return Refused(answer, every_row=dropped is not None and int(dropped[1]) == rows)
    retry_after = str((error.headers or {}).get("Retry-After", ""))
    return StoreUnavailable(f"{url} answered {answer}", float(retry_after) if retry_after.isdigit() else 0.0)


def _message(body: str) -> str:
    try:
        return str(json.loads(body).get("message", body))[:500]
    except (ValueError, AttributeError):
        return body[:500]
