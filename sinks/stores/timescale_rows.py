"""Rows of the mart from records as columns. Pure.

    Sheet -> Rows           rows of one table, each with the series that it continues and its position in that
    Rows -> [StringArray]   their lines of COPY's text format, so many at once

A position beyond all that its series has in the mart is a new row, which nobody needs to search for. Ids of dimensions
are looked up once for all rows of a series.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ravencore.codec import iso_time
from ravencore.records import Bar, Gap, IvExpiry, IvSurface, Kline, Record, SpotMid, Vpin
from sinks.arrow import TEXT, Numbers
from sinks.contract import Read
from sinks.stores.timescale_cells import field, lines, tabbed
from sinks.stores.timescale_facts import FACTS, SURFACE, Fact

NO_INTERVAL = "none"
LOWEST = int(np.iinfo(np.int64).min)

Names = tuple[str, str]


class Ids(NamedTuple):
    """Keys of an instrument in the dimensions."""

    instrument_id: int
    coin_id: int
    quote_id: int
    exchange_id: int


class Known(NamedTuple):
    """An instrument of the mart."""

    ids: Ids
    base: str
    quote: str


class Dimensions(NamedTuple):
    """What the mart has in its dimensions: ids by name, instruments by venue and symbol."""

    coins: Mapping[str, int]
    quotes: Mapping[str, int]
    exchanges: Mapping[str, int]
    intervals: Mapping[str, int]
    instruments: Mapping[Names, Known]


# Records, and which dimensions they need


class Sheet(NamedTuple):
    """Records of one topic: where each was read, and their fields as columns."""

    topic: str
    cls: type[Record]
    reads: Sequence[Read]
    table: pa.Table

    def without(self, rows: Collection[int]) -> "Sheet":
        """The same without some rows."""
        if not rows:
            return self
        left = np.setdiff1d(np.arange(len(self.reads)), list(rows))
        return self._replace(reads=[self.reads[row] for row in left], table=self.table.take(pa.array(left)))


NAMED: Mapping[type[Record], tuple[str, ...]] = {
    **dict.fromkeys((Bar, Vpin, Kline), ("venue", "symbol")),
    SpotMid: ("base", "quote"),
    IvSurface: ("venue", "underlying", "price_currency"),
}
"""Fields of a record that only `raven.instruments` can give ids to."""


def lacking(sheet: Sheet, known: Dimensions) -> dict[int, str]:
    """What only `raven.instruments` can tell of some rows, and has not yet, by the row."""
    if sheet.cls not in NAMED:
        return {}
    codes, values = groups(sheet.table, NAMED[sheet.cls])
    return _of_rows(codes, [_unknown(sheet.cls, names, known) for names in values])


def _unknown(cls: type[Record], names: tuple[str, ...], known: Dimensions) -> str | None:
    if cls is SpotMid:
        base, quote = names
        there = base in known.coins and quote in known.quotes
        return None if there else f"the pair {base}-{quote}"
    if cls is IvSurface:
        venue, coin, quote = names
        there = venue in known.exchanges and coin in known.coins and quote in known.quotes
        return None if there else f"options on {coin} in {quote} at {venue}"
    return None if names in known.instruments else ":".join(names)


def _of_rows(codes: Numbers, found: Sequence[str | None]) -> dict[int, str]:
    if not any(one is not None for one in found):
        return {}
    texts = ((row, found[code]) for row, code in enumerate(codes.tolist()))
    return {row: text for row, text in texts if text is not None}


class Brought(NamedTuple):
    """Names that records themselves bring to a dimension, and which of them each row brings."""

    dimension: str
    codes: Numbers
    names: list[str]

    def rows(self, bad: Mapping[str, str]) -> dict[int, str]:
        """The answers to bad names, by the rows that bring them."""
        return _of_rows(self.codes, [bad.get(name) for name in self.names])


def brought(sheet: Sheet) -> Brought | None:
    """What candles and bars bring to the intervals, and Gaps to the exchanges."""
    if sheet.cls is Gap:
        return Brought("exchange", *_named(sheet.table, ("venue",), str))
    if sheet.cls is Kline:
        return Brought("interval", *_named(sheet.table, ("interval",), str))
    return Brought("interval", *_named(sheet.table, ("kind", "profile"), interval_of)) if sheet.cls is Bar else None


def _named(table: pa.Table, fields: Sequence[str], name: Callable[..., str]) -> tuple[Numbers, list[str]]:
    codes, values = groups(table, fields)
    return codes, [name(*some) for some in values]


def interval_of(kind: str, profile: str) -> str:
    """Name in `dim__interval`: a time bar's profile, `none` for bars that trades close."""
    return profile if kind == "time" else NO_INTERVAL


# Series


class Series(NamedTuple):
    """Rows that continue each other: its name in mart.series, and the start of its lines."""

    name: str
    head: str


def _series(*identity: object, ids: Sequence[int]) -> Series:
    name = "/".join(map(str, identity)).replace("\0", "")  # such a row is refused anyway
    return Series(name, tabbed(*identity, *ids))


def _bars(known: Dimensions, venue: str, symbol: str, kind: str, profile: str) -> Series:
    ids = known.instruments[venue, symbol].ids
    interval_id = known.intervals[interval_of(kind, profile)]
    return _series(ids.instrument_id, kind, profile, ids=(ids.coin_id, ids.quote_id, ids.exchange_id, interval_id))


def _buckets(known: Dimensions, venue: str, symbol: str, profile: str) -> Series:
    return _bars(known, venue, symbol, "vpin", profile)


def _candles(known: Dimensions, venue: str, symbol: str, interval: str) -> Series:
    ids = known.instruments[venue, symbol].ids
    return _series(ids.instrument_id, known.intervals[interval], ids=(ids.coin_id, ids.quote_id, ids.exchange_id))


def _mids(known: Dimensions, base: str, quote: str) -> Series:
    return _series(known.coins[base], known.quotes[quote], ids=())


def _smiles(known: Dimensions, venue: str, coin: str, quote: str, expiry_us: int) -> Series:
    ids = known.exchanges[venue], known.coins[coin], known.quotes[quote]
    return Series("/".join(map(str, (*ids, expiry_us))), tabbed(*ids, iso_time(expiry_us)))


def _ledger(known: Dimensions, venue: str) -> Series:
    return _series(ids=(known.exchanges[venue],))


SERIES: Mapping[type[Record], tuple[Callable[..., Series], tuple[str, ...]]] = {
    Bar: (_bars, ("venue", "symbol", "kind", "profile")),
    Vpin: (_buckets, ("venue", "symbol", "profile")),
    Kline: (_candles, ("venue", "symbol", "interval")),
    SpotMid: (_mids, ("base", "quote")),
    IvSurface: (_smiles, ("venue", "underlying", "price_currency", "expiry")),
    Gap: (_ledger, ("venue",)),
}


# Rows


class Rows(NamedTuple):
    """Rows to be of one table: of which read each is, its series, its position in that, and its cells."""

    fact: Fact
    reads: Numbers
    series: list[Series]
    codes: Numbers
    positions: Numbers
    cells: pa.Table

    @property
    def size(self) -> int:
        """How many."""
        return len(self.reads)

    def some(self, at: Numbers) -> "Rows":
        """These of the rows."""
        if len(at) == self.size:
            return self
        at_cells = self.cells.take(pa.array(at))
        return self._replace(reads=self.reads[at], codes=self.codes[at], positions=self.positions[at], cells=at_cells)

    def lines(self, chunk: int) -> Iterator[pa.StringArray]:
        """Lines of COPY's text format, so many at once, each with its end."""
        heads = pa.array([one.head for one in self.series], TEXT)
        for start in range(0, self.size, chunk):
            codes = pa.array(self.codes[start : start + chunk])
            some = self.cells.slice(start, chunk)
            yield lines(heads.take(codes), {name: column(some, name) for name in some.column_names})


def rows_of(sheet: Sheet, known: Dimensions) -> Rows:
    """The rows of records of which nothing may be `lacking`."""
    fact, (series, names) = FACTS[sheet.topic], SERIES[sheet.cls]
    reads, table = np.arange(len(sheet.reads)), sheet.table
    if sheet.cls is IvSurface:
        reads, table = _smiles_of(table)
    if sheet.cls is Gap:
        for name in fact.journey:
            origin = pa.array([getattr(read, name.removeprefix("kafka_")) for read in sheet.reads])
            table = table.append_column(name, origin)
    codes, values = groups(table, names)
    positions = np.zeros_like(codes) if fact.newest_wins else column(table, fact.position).view(pa.int64()).to_numpy()
    return Rows(fact, reads, [series(known, *one) for one in values], codes, positions, table.select(fact.cells))


def _smiles_of(table: pa.Table) -> tuple[Numbers, pa.Table]:
    """A row for each expiry, and which row each is of."""
    expiries = column(table, "expiries")
    parents, items = pc.list_parent_indices(expiries), expiries.flatten()
    columns = {name: field(items, name) for name in IvExpiry.__struct_fields__}
    outer = {name: column(table, name).take(parents) for name in (*NAMED[IvSurface], SURFACE.position)}
    return parents.to_numpy(), pa.table(columns | outer)


def divided(rows: Rows, last: Mapping[str, int]) -> tuple[Numbers, Numbers]:
    """Rows that are new for certain, being beyond the `last` position of their series, and the others."""
    lasts = np.array([last.get(one.name, LOWEST) for one in rows.series], np.int64)
    # Ranked by series first, so that whatever comes before a row's own series is below it.
    ranks = np.unique(rows.positions, return_inverse=True)[1] + rows.codes * rows.size
    order = np.argsort(rows.codes, kind="stable")
    ranks = ranks[order]
    rising = np.ones(rows.size, bool)
    rising[order[1:]] = ranks[1:] > np.maximum.accumulate(ranks)[:-1]
    new = rising & (rows.positions > lasts[rows.codes])
    return np.flatnonzero(new), np.flatnonzero(~new)


def furthest(rows: Rows, bad: Collection[int]) -> dict[str, int]:
    """The highest position of each series, without the rows of bad reads."""
    good = ~np.isin(rows.reads, list(bad))
    highest = np.full(len(rows.series), LOWEST)
    np.maximum.at(highest, rows.codes[good], rows.positions[good])
    reached: dict[str, int] = {}
    for code in np.unique(rows.codes[good]):
        name = rows.series[code].name
        reached[name] = max(int(highest[code]), reached.get(name, LOWEST))
    return reached


# Columns


class Groups(NamedTuple):
    """Which group each row is of, and what the rows of each group have in common."""

    codes: Numbers
    values: list[tuple[Any, ...]]


def groups(table: pa.Table, names: Sequence[str]) -> Groups:
    """Rows that agree in these columns, times as microseconds."""
    columns = [_coded(column(table, name)) for name in names]
    codes = np.zeros(len(table), np.int64)
    for one in columns:
        if len(one.dictionary) > 1:
            mixed = codes * len(one.dictionary) + one.indices.to_numpy()
            codes = np.unique(mixed, return_inverse=True)[1]
    first = pa.array(np.unique(codes, return_index=True)[1])
    return Groups(codes, list(zip(*(one.take(first).to_pylist() for one in columns), strict=True)))


def _coded(array: pa.Array) -> pa.DictionaryArray:
    if pa.types.is_timestamp(array.type):
        array = array.view(pa.int64())
    return array if pa.types.is_dictionary(array.type) else array.dictionary_encode()


def column(table: pa.Table, name: str) -> pa.Array:
    """A column in one piece, which need not be copied where it is that already."""
    chunked = table.column(name)
    return chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()
