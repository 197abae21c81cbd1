"""All instruments of a partition: fetched batches in, outputs and dead letters out, in the order of the log; pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from msgspec.structs import asdict

from processors.contract import Applied, Clock, Output, Row
from processors.migrations import LAYOUT
from processors.symbol import Symbol
from ravencore.codec import Codec, decimal_bytes
from ravencore.columns import decode_columns
from ravencore.config import BarsSettings
from ravencore.errors import Unreadable
from ravencore.graph import Standing
from ravencore.records import Trade

UNREADABLE = "unreadable_record"
WRONG_KEY = "wrong_key"
UNASKED = Standing()
"""Nobody demands anything: all is made."""


class Fetched(Protocol):
    """A record as aiokafka fetches it."""

    @property
    def topic(self) -> str: ...
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


class Made(NamedTuple):
    """What a batch made."""

    outputs: list[Output]
    """By offset, then by the registry's order."""
    letters: list[Letter]
    counts: Counter[str]
    touched: dict[bytes, int]
    """Instruments whose state changed, by key, with the offset of the last record that is in it."""


class Instruments:
    """The instruments of a partition by Kafka key; `clock_header` names the header of a null value that is a Clock."""

    def __init__(self, codec: Codec, settings: BarsSettings, clock_header: str) -> None:
        self._codec, self._settings, self._clock_header = codec, settings, clock_header
        self._symbols: dict[bytes, Symbol] = {}

    def restore(self, key: bytes, payload: bytes, layout: int = LAYOUT) -> None:
        """Take over an instrument's snapshot; raises StateMismatch."""
        venue, _, name = key.decode().partition(":")
        symbol = Symbol(venue, name, self._settings)
        symbol.restore(payload, layout)
        self._symbols[key] = symbol

    def snapshot(self, key: bytes) -> bytes:
        """An instrument's whole state."""
        return self._symbols[key].snapshot()

    def apply(self, records: Sequence[Fetched], standing: Standing = UNASKED) -> Made:
        """Fold a batch in, each instrument's records together: at best 1 µs a trade to decode, and no dict for it.

        Instruments that demands name make what these are for from the first record on; others go on as they are.

        Raises Unavailable when a schema registry is needed and away: then all that was folded must be restored.
        """
        made = Made([], [], Counter(), {})
        for key, run in _by_key(records).items():
            parts = _parts(key)
            if parts is None:
                made.letters.extend(Letter(record, WRONG_KEY, f"the key {key!r} is not VENUE:SYMBOL") for record in run)
            else:
                self._apply_run(made, key or b"", parts, run, standing.wanted("trades", ":".join(parts)))
        made.outputs.sort(key=_place)
        made.letters.sort(key=_letter_place)
        return made

    def _apply_run(
        self,
        made: Made,
        key: bytes,
        parts: tuple[str, str],
        run: list[Fetched],
        outputs: frozenset[str] | None,
    ) -> None:
        values = [record.value for record in run if record.value is not None]
        trades = decode_columns(self._codec, *parts, values) if len(values) == len(run) else None
        if trades is not None:
            offsets = [record.offset for record in run]
            applied = self._symbol(key, parts, outputs, offsets[0]).apply_columns(trades, offsets)
        else:
            rows, offsets = self._read(made.letters, parts, run, values)
            if not rows:
                return
            applied = self._symbol(key, parts, outputs, offsets[0]).apply(rows, offsets)
        made.touched[key] = offsets[-1]
        _note(made, applied, run)

    def _symbol(self, key: bytes, parts: tuple[str, str], outputs: frozenset[str] | None, offset: int) -> Symbol:
        if key not in self._symbols:
            self._symbols[key] = Symbol(*parts, self._settings)
        symbol = self._symbols[key]
        if outputs is not None:
            symbol.switch(outputs, offset)
        return symbol

    def _read(
        self, letters: list[Letter], parts: tuple[str, str], run: list[Fetched], values: list[bytes]
    ) -> tuple[list[Row | Clock], list[int]]:
        """Rows and Clocks with their offsets, one by one; what is none becomes a letter."""
        decoded = _rows(self._codec, values)
        rows: list[Row | Clock] = []
        offsets: list[int] = []
        for record in run:
            row = next(decoded) if record.value is not None else clock_of(record, self._clock_header)
            if isinstance(row, str):
                letters.append(Letter(record, UNREADABLE, row))
            elif isinstance(row, Clock) or (row["venue"], row["symbol"]) == parts:
                rows.append(row)
                offsets.append(record.offset)
            else:
                detail = f"a trade of {row['venue']}:{row['symbol']} under the key {':'.join(parts)}"
                letters.append(Letter(record, WRONG_KEY, detail))
        return rows, offsets


def clock_of(record: Fetched, header: str) -> Clock | str:
    """The Clock that a record with a null value is, or the sentence that says why it is none."""
    text = dict(record.headers).get(header)
    if text is None:
        return f"a null value without the header {header!r}"
    try:
        return Clock(int(text))
    except ValueError:
        return f"the header {header!r} holds {text!r}, which is no number of microseconds"


def _by_key(records: Sequence[Fetched]) -> dict[bytes | None, list[Fetched]]:
    runs: dict[bytes | None, list[Fetched]] = {}
    for record in records:
        run = runs.get(record.key)
        if run is None:
            runs[record.key] = [record]
        else:
            run.append(record)
    return runs


def _parts(key: bytes | None) -> tuple[str, str] | None:
    try:
        venue, _, symbol = (key or b"").decode().partition(":")
    except UnicodeDecodeError:
        return None
    return (venue, symbol) if venue and symbol else None


def _rows(codec: Codec, values: list[bytes]) -> Iterator[Row | str]:
    """A row for each value or the sentence that says why there is none; one bad value costs a search by halves."""
    rows = codec.decode_trades(values)
    if rows is not None:
        yield from rows
    elif len(values) == 1:
        yield _single(codec, values[0])
    else:
        middle = len(values) // 2
        yield from _rows(codec, values[:middle])
        yield from _rows(codec, values[middle:])


def _single(codec: Codec, value: bytes) -> Row | str:
    try:
        trade = codec.decode_as(Trade, value)
    except Unreadable as error:
        return str(error)
    return {**asdict(trade), "price": decimal_bytes(trade.price), "quantity": decimal_bytes(trade.quantity)}


def _note(made: Made, applied: Applied, run: list[Fetched]) -> None:
    made.outputs.extend(applied.outputs)
    made.counts.update(applied.counts)
    if applied.refused:
        by_offset = {record.offset: record for record in run}
        made.letters.extend(Letter(by_offset[it.offset], it.reason, it.detail) for it in applied.refused)


def _place(output: Output) -> tuple[int, int]:
    return output.offset, output.order


def _letter_place(letter: Letter) -> int:
    return letter.record.offset
