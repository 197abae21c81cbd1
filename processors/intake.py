"""A fetched batch of trades sorted by instrument, with what cannot be read set aside: pure."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from msgspec.structs import asdict

from processors.contract import Clock, Row
from ravencore.codec import Codec, decimal_bytes
from ravencore.errors import Unreadable
from ravencore.records import Trade

UNREADABLE = "unreadable_record"
WRONG_KEY = "wrong_key"


class Fetched(Protocol):
    """A record as aiokafka fetches it."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Letter(NamedTuple):
    """A record that becomes a DeadLetter, and why."""

    record: Fetched
    reason: str
    detail: str


class Run:
    """The records of one instrument in a batch, in the order of the log."""

    __slots__ = ("offsets", "rows", "symbol", "venue")

    def __init__(self, venue: str, symbol: str) -> None:
        self.venue, self.symbol = venue, symbol
        self.rows: list[Row | Clock] = []
        self.offsets: list[int] = []


class Sorted(NamedTuple):
    """A batch by Kafka key, and the records that nobody can use."""

    runs: dict[bytes, Run]
    letters: list[Letter]


def sort(codec: Codec, records: Sequence[Fetched], clock_header: str) -> Sorted:
    """Decode a batch and part it by instrument; a null value is a Clock, its time in the header named.

    Raises Unavailable when a schema registry is needed and away.
    """
    runs: dict[bytes, Run] = {}
    letters: list[Letter] = []
    strangers: dict[bytes | None, str] = {}
    for record, row in zip(records, _decoded(codec, records, clock_header), strict=True):
        key = record.key
        run = runs.get(key) if key is not None else None
        if run is None:
            run = _new_run(key, runs, strangers)
        if isinstance(row, str):
            letters.append(Letter(record, UNREADABLE, row))
        elif run is None:
            letters.append(Letter(record, WRONG_KEY, strangers[key]))
        elif isinstance(row, Clock) or (row["symbol"] == run.symbol and row["venue"] == run.venue):
            run.rows.append(row)
            run.offsets.append(record.offset)
        else:
            detail = f"a trade of {row['venue']}:{row['symbol']} under the key {run.venue}:{run.symbol}"
            letters.append(Letter(record, WRONG_KEY, detail))
    return Sorted({key: run for key, run in runs.items() if run.rows}, letters)


def _new_run(key: bytes | None, runs: dict[bytes, Run], strangers: dict[bytes | None, str]) -> Run | None:
    try:
        venue, colon, symbol = (key or b"").decode().partition(":")
    except UnicodeDecodeError:
        venue, colon, symbol = "", "", ""
    if key is None or not (venue and colon and symbol):
        strangers[key] = f"the key {key!r} is not VENUE:SYMBOL"
        return None
    return runs.setdefault(key, Run(venue, symbol))


def _decoded(codec: Codec, records: Sequence[Fetched], clock_header: str) -> Iterable[Row | Clock | str]:
    """A row or Clock for each record, or the sentence that says why there is none."""
    values = [record.value for record in records]
    trades = [value for value in values if value is not None]
    rows = iter(_rows(codec, trades))
    if len(trades) == len(values):
        return rows
    return [_clock(record, clock_header) if record.value is None else next(rows) for record in records]


def _rows(codec: Codec, values: list[bytes]) -> Sequence[Row | str]:
    """Rows of a batch; one bad value costs a search by halves, not the batch."""
    rows = codec.decode_trades(values)
    if rows is not None:
        return rows
    if len(values) == 1:
        return [_single(codec, values[0])]
    middle = len(values) // 2
    return [*_rows(codec, values[:middle]), *_rows(codec, values[middle:])]


def _single(codec: Codec, value: bytes) -> Row | str:
    try:
        trade = codec.decode_as(Trade, value)
    except Unreadable as error:
        return str(error)
    row: dict[str, Any] = asdict(trade)
    return {**row, "price": decimal_bytes(trade.price), "quantity": decimal_bytes(trade.quantity)}


def _clock(record: Fetched, header: str) -> Clock | str:
    text = dict(record.headers).get(header)
    if text is None:
        return f"a null value without the header {header!r}"
    try:
        return Clock(int(text))
    except ValueError:
        return f"the header {header!r} holds {text!r}, which is no number of microseconds"
