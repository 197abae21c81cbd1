"""What is written to Redis of a batch: keys, values, and which of them is newest. Pure.

[Read] -> leading -> [Read] -> entries -> [Entry] -> coalesce -> Latest -> encoded, health_fields, window_fields
"""

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ravencore.codec import exact, iso_time
from ravencore.records import Bar, IvSurface, Quote, Record, ServiceStatus, SpotMid, Vpin
from sinks.contract import REFUSED, Bad, Read, Refused
from sinks.reading import Entry

PREFIX = "md:v1:"
HEALTH_FIELDS = (
    *("service", "instance", "host", "pid", "version", "state"),
    *("started_time", "reported_time", "last_error", "last_error_time"),
)
WINDOW_FIELDS = ("time", "mid", "quality", "divergence", "expected", "used")
SERIES: Mapping[type[Record], Sequence[str]] = {
    Bar: ("kind", "profile", "venue", "symbol"),
    Vpin: ("venue", "symbol"),
    Quote: ("venue",),
}
"""Fields that a series is called by, of kinds whose newest alone matters; a Quote's pair, its key, comes to these."""
ORDERS: Mapping[type[Record], tuple[Sequence[str], Sequence[str]]] = {
    Bar: (("close_time",), ("bar_seq",)),
    Vpin: (("close_time",), ("bar_seq",)),
    Quote: (("event_time", "received_time"), ("sequence", "connection_sequence")),
}
"""Time and number of their Order, each the first of these fields that is not null."""


def leading(reads: Sequence[Read], rows: pa.Table, cls: type[Record]) -> list[Read]:
    """The newest of each series, and what will be refused: a cache needs nothing else of the batch to be decoded."""
    code, odd = np.zeros(len(reads), np.int64), np.zeros(len(reads), bool)
    columns = [rows.column(name).combine_chunks() for name in SERIES[cls]]
    if cls is Quote:
        columns.append(pa.array([_pair(read) for read in reads]).dictionary_encode())
    for column in columns:
        names, numbers = column.dictionary.to_pylist(), column.indices.to_numpy()
        code = code * len(names) + numbers
        odd |= np.array([not _fits(name) for name in names])[numbers]
    time, number = (_first(rows, fields) for fields in ORDERS[cls])
    odd |= (time <= 0) | (number < 0)
    order = np.lexsort((np.array([read.offset for read in reads]), number, time, code))
    order = order[~odd[order]]
    newest = order[np.diff(code[order], append=-1) != 0]
    return [reads[row] for row in np.union1d(newest, np.flatnonzero(odd))]


def _first(rows: pa.Table, fields: Sequence[str]) -> npt.NDArray[np.int64]:
    columns = [rows.column(field).combine_chunks().cast(pa.int64()) for field in fields]
    found: npt.NDArray[np.int64] = pc.coalesce(*columns).to_numpy()
    return found


class Order(NamedTuple):
    """What of two records of a series the newer one has more of."""

    time: int
    number: int
    offset: int

    def __str__(self) -> str:
        return f"{self.time:016x}{self.number:016x}{self.offset:016x}"


class Latest(NamedTuple):
    """What a batch comes to: the newest entry of each key, the mids of each window oldest first, what has no place."""

    values: dict[str, tuple[Order, Entry]]
    health: dict[str, tuple[Order, Entry]]
    windows: dict[str, list[SpotMid]]
    refused: list[Bad]


def coalesce(batch: Iterable[Entry], window: int) -> Latest:
    """The newest of each series, however the batch is ordered, and up to `window` mids of each pair."""
    values: dict[str, tuple[Order, Entry]] = {}
    health: dict[str, tuple[Order, Entry]] = {}
    mids: dict[str, dict[int, SpotMid]] = defaultdict(dict)
    refused: list[Bad] = []
    for entry in batch:
        record = entry.record
        try:
            order = order_of(entry)
            if isinstance(record, ServiceStatus):
                keep(health, record.instance, order, entry)
                continue
            for key in keys(entry):
                keep(values, key, order, entry)
            if isinstance(record, SpotMid):
                mids[f"{PREFIX}spot_mid:{_part(record.pair)}:window"][record.time] = record
        except Refused as error:
            refused.append(Bad(entry.read, REFUSED, str(error)))
    windows = {key: [by_time[at] for at in sorted(by_time)[-window:]] for key, by_time in mids.items()}
    return Latest(values, health, windows, refused)


def keep(newest: dict[str, tuple[Order, Entry]], key: str, order: Order, entry: Entry) -> None:
    """Have the entry under its key unless a newer one is there."""
    known = newest.get(key)
    if known is None or order > known[0]:
        newest[key] = (order, entry)


def order_of(entry: Entry) -> Order:
    """Where an entry stands among those of its series; raises Refused for times that are not after 1970 began."""
    record = entry.record
    match record:
        case Quote(event_time=event_time, received_time=received, sequence=sequence):
            time = received if event_time is None else event_time
            number = record.connection_sequence if sequence is None else sequence
        case Bar(close_time=time, bar_seq=number) | Vpin(close_time=time, bar_seq=number):
            pass
        case SpotMid(time=time) | IvSurface(time=time) | ServiceStatus(reported_time=time):
            number = 0
        case _:
            raise Refused(f"a {type(record).__name__} has no key")
    if time <= 0 or number < 0:
        raise Refused(f"{iso_time(time)}, number {number}: nothing is older than 1970 or numbered below nought")
    return Order(time, number, entry.read.offset)


def keys(entry: Entry) -> Sequence[str]:
    """The keys under which an entry's values are kept; raises Refused for names that two series could share.

    A quote whose pair its collector did not know yet has none.
    """
    match entry.record:
        case Quote(venue=venue):
            pair = _pair(entry.read)
            return () if ":" in pair else (_key("spot_bbo", venue, pair),)
        case SpotMid(pair=pair):
            return (_key("spot_mid", pair),)
        case Bar(kind=kind, profile=profile, venue=venue, symbol=symbol):
            return (_key("bar", kind, profile, venue, symbol),)
        case Vpin(venue=venue, symbol=symbol):
            return (_key("vpin", venue, symbol),)
        case IvSurface(venue=venue, expiries=expiries) as surface:
            underlying = _underlying(surface.underlying, surface.price_currency)
            return [_key("iv_surface", venue, underlying, _expiry(one.expiry)) for one in expiries]
    return ()


def _pair(read: Read) -> str:
    return (read.key or b":").decode(errors="replace")


@functools.lru_cache(65_536)
def _key(*parts: str) -> str:
    return PREFIX + ":".join(map(_part, parts))


def _part(name: str) -> str:
    if not _fits(name):
        raise Refused(f"{name!r} cannot be part of a key")
    return name


def _fits(name: str) -> bool:
    return bool(name) and ":" not in name and name.isprintable() and " " not in name


def _underlying(underlying: str, price_currency: str) -> str:
    """`BTC`, and `BTC_USDC` for options on it that are priced in another currency: as Deribit calls them."""
    if "_" in underlying + price_currency:
        raise Refused(f"{underlying!r}, {price_currency!r}: a currency's name has no underscore in a key")
    return underlying if underlying == price_currency else f"{underlying}_{price_currency}"


@functools.lru_cache(4096)
def _expiry(micros: int) -> str:
    """`20261225T080000Z`: ISO 8601 without colons, so that keys sort by time."""
    seconds, rest = divmod(micros, 1_000_000)
    try:
        if rest == 0 and seconds >= 0:
            return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%SZ")
    except (ValueError, OverflowError):
        pass
    raise Refused(f"an expiry at {iso_time(micros)} is on no whole second of the calendar")


def encoded(values: Mapping[str, tuple[Order, Entry]]) -> Iterator[tuple[str, bytes]]:
    """The keys with what is written under them."""
    smiles: dict[int, dict[str, dict[str, Any]]] = {}
    for key, (order, entry) in values.items():
        record = entry.record
        if not isinstance(record, IvSurface):
            yield key, _json(order, exact(record))
            continue
        if id(record) not in smiles:
            smiles[id(record)] = _smiles(record)
        yield key, _json(order, smiles[id(record)][key.rpartition(":")[2]])


def _smiles(surface: IvSurface) -> dict[str, dict[str, Any]]:
    """The fields of each expiry with those that all share."""
    fields = exact(surface)
    expiries = fields.pop("expiries")
    return {_expiry(one["expiry"]): fields | one for one in expiries}


def health_fields(health: Mapping[str, tuple[Order, Entry]]) -> Iterator[str | bytes]:
    """Instances and what is told of each by turns: who and where it is, its state and times."""
    for instance, (order, entry) in health.items():
        yield instance
        yield _json(order, {name: getattr(entry.record, name) for name in HEALTH_FIELDS})


def window_id(mid: SpotMid) -> str:
    """A stream's id of a mid: its milliseconds, and the microseconds that are left."""
    return f"{mid.time // 1000}-{mid.time % 1000}"


def window_fields(mid: SpotMid) -> bytes:
    """Names and values by turns, as JSON; what is null is left out."""
    told = ((name, getattr(mid, name)) for name in WINDOW_FIELDS)
    return msgspec.json.encode([text for name, value in told if value is not None for text in (name, str(value))])


def _json(order: Order, fields: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({"order": str(order), **fields})
