"""Records as points of InfluxDB: one measurement for each kind, in line protocol.

Line protocol: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/

    trades,symbol=BTCUSDT,exchange=BINANCE_SPOT,side=BUY price=60001.5,quantity=0.001,trade_id="42" 1723075200123000042
    orderbook,symbol=BTCUSDT,exchange=BINANCE_SPOT bid_price=60001.0,...,imbalance=0.25 1723075200124567890
    kline,symbol=BTCUSDT,exchange=BINANCE_FUTURES,interval=1m open=60001.5,...,trade_count=42i 1723075200000000000

Numbers are the nearest doubles in their shortest text, which may be one without a point: in line protocol `5` is a
float, an integer is `5i`. A field that a record does not have is left out; so is a double that is no number.

**A nanosecond of its own for each point.** Points of one series (measurement and tags) and one time overwrite one
another. A point's time is its record's event time, or the time it was received where the venue gives none, plus
something that counts, modulo 10^6 ns where that time is a whole millisecond, modulo 1000 ns elsewhere:

    trades      the venue's counting id, else the offset in Kafka: a trade read twice from a venue is one point
    kline       nothing: a candle is its interval and open time, a collector publishes it once, and what comes of it
                again takes its place
    all others  the offset in Kafka: books, quotes, tickers and the like have ids that repeat or jump, or none at all.
                It is unique in its partition, a series is of one partition, and a second reading has the same one;
                a hash of 100 ids into one millisecond would lose a point every 200 milliseconds

Either way the last three digits are the number modulo 1000, so points of one series can meet only where their numbers
differ by a multiple of 1000, and then only
- both in one whole millisecond, 10^6 apart: a million records in a millisecond;
- both in one microsecond, 1000 apart: one order that fills over a thousand others on a venue with a microsecond clock,
  or a thousand records of a partition in the microsecond;
- one in a whole millisecond of such a venue and one in the k-th microsecond after it, 1000 j apart with
  k = number // 1000 modulo 1000: 1000 records in that millisecond, and then one chance in a thousand.
Points that would meet in one batch are seen and the later one is refused, so that it is a dead letter and not lost in
silence; but of candles the later one is written, as it would be in a batch of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ravencore.decimals import ONE
from ravencore.records import (
    Book,
    Funding,
    IndexPrice,
    Kline,
    Liquidation,
    OpenInterest,
    OptionTicker,
    Quote,
    Record,
    Trade,
    VolatilityIndex,
)
from sinks.arrow import DECIMAL, TEXT, TIME
from sinks.contract import REFUSED, Bad, Read

LATEST_US = 2**63 // 1000 - 1000
"""Times in nanoseconds are int64."""

_CONTROL = "[\\x00-\\x1f\\x7f]"
_NO_TAG = rf"^$|\\|{_CONTROL}"
"""What parsers disagree on."""
_NOT_PLAIN = rf"{_NO_TAG}|[,= ]"
_FEW_DIGITS, _FEW_ONE, _FEW_LIMIT = pa.decimal128(38, 8), 10**8, 2**52
"""Numbers of at most 8 decimals: as hundred-millionths below the limit they, and sums of two, are exact as doubles."""

_offset = itemgetter(Read._fields.index("offset"))

Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[Any]
"""int64, or Python's where these are too short."""


class Measurement(NamedTuple):
    """What of a record becomes a point: tags besides the venue's, and fields, each with where it comes from."""

    name: str
    symbol: str
    """Tag that the symbol is; `exchange` is the venue."""
    tag: str | None
    """A third tag: a field of the record of the same name."""
    fields: Mapping[str, str]
    """Decimals and doubles become floats, times integers (ns), counts integers, texts strings."""


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


BEST = ("bid_price", "bid_quantity", "ask_price", "ask_quantity")
MEASUREMENTS: dict[type[Record], Measurement] = {
    Trade: Measurement("trades", "symbol", "side", _same("price", "quantity", "trade_id")),
    Book: Measurement("orderbook", "symbol", None, _same(*BEST, "spread", "mid_price", "imbalance")),
    Quote: Measurement("quote", "symbol", None, _same(*BEST, "last_price")),
    Kline: Measurement(
        "kline",
        "symbol",
        "interval",
        _same(
            *("open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume"),
            "trade_count",
        ),
    ),
    Funding: Measurement(
        "funding_rate", "symbol", None, _same("rate", "mark_price", "index_price", "next_funding_time")
    ),
    Liquidation: Measurement("liquidation", "symbol", "side", _same("price", "quantity")),
    OpenInterest: Measurement("open_interest", "symbol", None, _same("open_interest", "open_interest_value")),
    OptionTicker: Measurement(
        "options_ticker",
        "symbol",
        None,
        {
            **_same("open_interest", "mark_price", "underlying_price", "last_price"),
            "best_bid_price": "bid_price",
            "best_ask_price": "ask_price",
            **_same("mark_iv", "bid_iv", "ask_iv"),
        },
    ),
    IndexPrice: Measurement("price_index", "index_name", None, _same("price")),
    VolatilityIndex: Measurement("volatility_index", "index_name", None, _same("volatility")),
}


class Points(NamedTuple):
    """Points as columns: what was read, series (measurement and tags), nanosecond and line of each."""

    reads: Sequence[Read]
    series: pa.StringArray
    times_ns: Longs
    lines: pa.StringArray

    def body(self, rows: Sequence[int]) -> bytes:
        """The lines of some of them, as they are posted."""
        lines = self.lines if len(rows) == len(self.lines) else self.lines.take(pa.array(rows, pa.int64()))
        joined = pc.binary_join(pa.ListArray.from_arrays([0, len(lines)], lines), "\n")
        body: bytes = joined[0].as_buffer().to_pybytes()
        return body

    def at(self, times_ns: Longs) -> Iterator[tuple[int, tuple[str, int], str]]:
        """Row, place and line of those at one of these times."""
        for row in np.isin(self.times_ns, times_ns).nonzero()[0].tolist():
            yield row, (self.series[row].as_py(), int(self.times_ns[row])), self.lines[row].as_py()


class Places:
    """Where points of a batch are already: a series and a nanosecond each."""

    def __init__(self) -> None:
        self._before: list[Points] = []

    def take(self, made: Points) -> tuple[Sequence[int], list[Bad]]:
        """Rows that have a place of their own, and what comes to a place that another one of the batch has.

        A record that is there twice is written once.
        """
        self._before.append(made)
        times_ns = np.sort(np.concatenate([points.times_ns for points in self._before]))
        again = times_ns[1:][times_ns[1:] == times_ns[:-1]]
        return self._look_closely(made, again) if len(again) else (range(len(made.reads)), [])

    def _look_closely(self, made: Points, times_ns: Longs) -> tuple[Sequence[int], list[Bad]]:
        """The same where times are there twice, of one series or of two."""
        taken: dict[tuple[str, int], tuple[str, Read]] = {}
        for points in self._before[:-1]:
            for row, place, line in points.at(times_ns):
                taken.setdefault(place, (line, points.reads[row]))
        left, met = set(), []
        for row, place, line in made.at(times_ns):
            first, read = taken.setdefault(place, (line, made.reads[row]))
            if read is made.reads[row]:
                continue
            left.add(row)
            if first != line:
                detail = f"offset {read.offset} has the same series and nanosecond: {first}"
                met.append(Bad(made.reads[row], REFUSED, detail))
        return [row for row in range(len(made.reads)) if row not in left], met


def newest(made: Points) -> list[int]:
    """Rows of which no later one takes the place."""
    places = zip(made.series.to_pylist(), made.times_ns.tolist(), strict=True)
    return sorted({place: row for row, place in enumerate(places)}.values())


def points(cls: type[Record], reads: Sequence[Read], table: pa.Table) -> tuple[Points, list[Bad]]:
    """Points of a table's rows, one of each that was read, and those that cannot be points."""
    rows = _Rows(MEASUREMENTS[cls], table)
    series, fields = rows.series(), rows.book_fields() if cls is Book else rows.fields()
    times_ns = _times_ns(cls, rows, np.fromiter(map(_offset, reads), np.int64, len(reads)))
    lines = pc.binary_join_element_wise(series, fields, pa.array(times_ns).cast(TEXT), " ")
    if not rows.refused:
        return Points(reads, series, times_ns, lines), []
    kept = [row for row in range(len(reads)) if row not in rows.refused]
    some = pa.array(kept, pa.int64())
    made = Points([reads[row] for row in kept], series.take(some), times_ns[kept], lines.take(some))
    return made, [Bad(reads[row], REFUSED, why) for row, why in sorted(rows.refused.items())]


def point_time_ns(time_us: Longs, counting: Longs) -> Longs:
    """Nanoseconds of points from their times (µs) and what counts; this file's docstring says why."""
    times_ns: Longs = time_us * 1000 + counting % np.where(time_us % 1000 == 0, 1_000_000, 1000)
    return times_ns


def _times_ns(cls: type[Record], rows: "_Rows", offsets: Longs) -> Longs:
    if cls is Kline:
        return rows.times_us("open_time") * 1000
    counting = rows.longs("sequence", offsets) if cls is Trade else offsets
    return point_time_ns(rows.times_us("event_time"), counting)


class _Rows:
    """A table's rows as parts of lines; those that cannot be lines become `refused`, each with why."""

    def __init__(self, known: Measurement, table: pa.Table) -> None:
        self._known, self._table = known, table
        self.refused: dict[int, str] = {}

    def series(self) -> pa.StringArray:
        """Measurement and tags: made once for each that there is."""
        known = self._known
        tags = [self._tag(f"{known.name},{known.symbol}=", "symbol"), self._tag(",exchange=", "venue")]
        if known.tag is not None:
            tags.append(self._tag(f",{known.tag}=", known.tag))
        sizes = [len(tag.dictionary) for tag in tags]
        numbers = np.ravel_multi_index([tag.indices.to_numpy() for tag in tags], sizes)
        some = pa.array(numbers).dictionary_encode()
        parts = zip(tags, np.unravel_index(some.dictionary.to_numpy(), sizes), strict=True)
        texts = [tag.dictionary.take(pa.array(indices)) for tag, indices in parts]
        return pc.binary_join_element_wise(*texts, "").take(some.indices)

    def fields(self) -> pa.StringArray:
        """The fields that each row has."""
        return self._joined([self._field(name, source) for name, source in self._known.fields.items()])

    def book_fields(self) -> pa.StringArray:
        """The same of books: the best level of each side, and what lies between them.

        imbalance = (bid - ask) / (bid + ask) of the best quantities. Where a side is empty, its own fields and those
        that need both are left out.
        """
        bids, asks = self._column("bids"), self._column("asks")
        (bid, bid_quantity, ask, ask_quantity), one = _integers(
            [side.field(name) for side in (bids, asks) for name in ("price", "quantity")]
        )
        no_bid, no_ask = _bools(bids.is_null()), _bools(asks.is_null())
        both = bid_quantity + ask_quantity
        imbalance = (bid_quantity - ask_quantity) / np.where(both == 0, 1, both)
        columns = {
            "bid_price": _doubles(bid / one, no_bid),
            "bid_quantity": _doubles(bid_quantity / one, no_bid),
            "ask_price": _doubles(ask / one, no_ask),
            "ask_quantity": _doubles(ask_quantity / one, no_ask),
            "spread": _doubles((ask - bid) / one, no_bid | no_ask),
            "mid_price": _doubles((bid + ask) / (2 * one), no_bid | no_ask),
            "imbalance": _doubles(imbalance, no_bid | no_ask | (both == 0)),
        }
        return self._joined([_numbers(name, columns[name]) for name in self._known.fields])

    def times_us(self, name: str) -> Longs:
        """Times (µs), where they are null when it was received."""
        column = self._column(name)
        return self._within(pc.coalesce(column, self._column("received_time")) if column.null_count else column)

    def longs(self, name: str, other: Longs) -> Longs:
        """Integers, and others where they are null."""
        column = self._column(name)
        return _longs(pc.coalesce(column, pa.array(other)) if column.null_count else column)

    def _within(self, times: pa.TimestampArray) -> Longs:
        """Times (µs), 0 where they are null."""
        times_us = _longs(times)
        beyond = (times_us > LATEST_US) | (times_us < -LATEST_US)
        if not beyond.any():
            return times_us
        self._refuse(beyond, lambda row: f"{times_us[row]} µs is beyond what nanoseconds in 64 bits can say")
        return np.where(beyond, 0, times_us)

    def _column(self, name: str) -> pa.Array:
        return self._table[name].combine_chunks()

    def _refuse(self, rows: Bools, why: Callable[[int], str]) -> None:
        for row in rows.nonzero()[0].tolist():
            self.refused.setdefault(row, why(row))

    def _tag(self, before: str, source: str) -> pa.DictionaryArray:
        """A tag, escaped."""
        column = self._column(source)
        texts = column.dictionary
        if _bools(pc.match_substring_regex(texts, _NOT_PLAIN)).any():
            odd = _bools(pc.match_substring_regex(texts, _NO_TAG))
            self._refuse(odd[column.indices.to_numpy()], lambda row: f"{column[row].as_py()!r} cannot be a tag")
            for character in ",= ":
                texts = pc.replace_substring(texts, character, "\\" + character)
        return pa.DictionaryArray.from_arrays(column.indices, pc.binary_join_element_wise(before, texts, ""))

    def _joined(self, fields: Sequence[pa.StringArray]) -> pa.StringArray:
        """All that are there."""
        some = [field for field in fields if field.null_count < len(field)]
        if not all(field.null_count for field in some):
            return pc.binary_join_element_wise(*some, ",", null_handling="skip")
        # The first is nothing, but it is there: Arrow loses rows of which nothing is (26.0.1).
        joined = pc.binary_join_element_wise("", *fields, ",", null_handling="skip")
        self._refuse(_bools(pc.equal(joined, "")), lambda _: "a record without any value has no field to write")
        return pc.utf8_slice_codeunits(joined, 1)

    def _field(self, name: str, source: str) -> pa.StringArray:
        column = self._column(source)
        if column.type == TEXT:
            return self._string(name, column)
        if column.type in {DECIMAL, pa.float64()}:
            return _numbers(name, column)
        if column.type == TIME:
            column = pa.array(self._within(column) * 1000, mask=_bools(column.is_null()))
        return pc.binary_join_element_wise(f"{name}=", column.cast(TEXT), "i", "")

    def _string(self, name: str, texts: pa.StringArray) -> pa.StringArray:
        """A string field, escaped; control characters are what parsers disagree on."""
        found = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
        if ((found < 0x20) | (found == 0x7F) | (found == ord('"')) | (found == ord("\\"))).any():
            odd = _bools(pc.match_substring_regex(texts, _CONTROL))
            self._refuse(odd, lambda row: f"{texts[row].as_py()!r} cannot be a string field")
            for character in '\\"':
                texts = pc.replace_substring(texts, character, "\\" + character)
        return pc.binary_join_element_wise(f'{name}="', texts, '"', "")


def _numbers(name: str, column: pa.Array) -> pa.StringArray:
    """A field of decimals or doubles: made once for each number that there is."""
    some = column.dictionary_encode()
    numbers = _nearest(some.dictionary) if column.type == DECIMAL else some.dictionary
    texts = pc.if_else(pc.is_finite(numbers), numbers.cast(TEXT), None)
    return pc.binary_join_element_wise(f"{name}=", texts, "").take(some.indices)


def _nearest(decimals: pa.Decimal128Array) -> pa.DoubleArray:
    """The nearest doubles."""
    few = _hundred_millionths(decimals)
    return decimals.cast(TEXT).cast(pa.float64()) if few is None else pa.array(few / _FEW_ONE)


def _doubles(numbers: npt.NDArray[Any], missing: Bools) -> pa.DoubleArray:
    # With 0 added there is no -0.0.
    return pa.array(numbers.astype(np.float64) + 0.0, mask=missing)


def _integers(columns: Sequence[pa.Decimal128Array]) -> tuple[list[Integers], int]:
    """Decimals as exact integers, 0 where they are null, and how many of them are one.

    Quotients of such integers, and of sums of two, are the nearest doubles: NumPy divides two doubles that are exact,
    Python its own integers, each with one rounding.
    """
    filled = [column.fill_null(pa.scalar(0, DECIMAL)) if column.null_count else column for column in columns]
    few = [units for column in filled if (units := _hundred_millionths(column)) is not None]
    if len(few) == len(filled):
        return few, _FEW_ONE
    return [high.astype(object) * 2**64 + low.astype(object) for low, high in map(_words, filled)], ONE


def _hundred_millionths(decimals: pa.Decimal128Array) -> Longs | None:
    """Decimals without null as such integers, where all have few digits."""
    try:
        low, high = _words(decimals.cast(_FEW_DIGITS))
    except pa.ArrowInvalid:  # it has more than 8 decimals
        return None
    units = low.view(np.int64)
    few = (high == units >> 63) & (units > -_FEW_LIMIT) & (units < _FEW_LIMIT)
    return units if few.all() else None


def _words(column: pa.Array) -> tuple[npt.NDArray[np.uint64], Longs]:
    """Lower and upper halves of decimals."""
    words = np.frombuffer(column.buffers()[1], np.uint64)[2 * column.offset :][: 2 * len(column)]
    return words[0::2], words[1::2].view(np.int64)


def _longs(column: pa.Array) -> Longs:
    found: Longs = column.cast(pa.int64()).fill_null(0).to_numpy()
    return found


def _bools(column: pa.Array) -> Bools:
    found: Bools = column.to_numpy(zero_copy_only=False)
    return found
