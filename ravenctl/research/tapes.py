"""The trades of one instrument out of a file: a CSV or Parquet table, or a recording, whatever it is packed with."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

from ravencore.records import Trade
from ravenctl.research import cells
from ravenctl.research.batches import BATCH_ROWS, Batch, Report, in_order, of_records, sided
from ravenctl.research.cells import TimeUnit
from ravenctl.research.packed import Packed
from ravenctl.research.recordings import FIRST_LINE, Recording
from ravenctl.research.spellings import Named, layout
from ravenctl.research.tables import Block, CsvTable, Maker, Table
from ravenctl.shell import CommandFailed, WrongUse, require

Say = Callable[[str], None]
NOBODY = Named()
"""Columns that nobody named."""
NO_VENUE = "FILE"
"""Venue of trades whose file does not tell it."""
PARQUET_MAGIC = b"PAR1"
SURE_ROWS = 10
"""Fewer rows do not tell that a table is written backwards."""


class Wanted(NamedTuple):
    """What a person says of a file; None: as the file tells, or as its looks say."""

    venue: str | None
    symbol: str | None
    columns: Named
    time_unit: TimeUnit | None


def wanted(
    venue: str | None = None, symbol: str | None = None, columns: Named = NOBODY, time_unit: str | None = None
) -> Wanted:
    """What options say; raises WrongUse."""
    if time_unit is not None and time_unit not in cells.PER_SECOND:
        raise WrongUse(f"--time-unit {time_unit}: write one of {', '.join(cells.PER_SECOND)}")
    unit = next((unit for unit in cells.PER_SECOND if unit == time_unit), None)
    return Wanted(venue and venue.upper(), symbol, columns, unit)


@dataclass(frozen=True, slots=True)
class Tape:
    """The trades of one instrument, batch by batch, none of them empty; iterate over them once."""

    venue: str
    symbol: str
    batches: Iterator[Batch]
    report: Report
    progress: Callable[[], tuple[int, int]]
    """How much of the file is read, of how much; 0 of 0 where nobody knows."""


class _Source(Protocol):
    """One kind of file."""

    venue: str
    symbol: str
    """Known once a batch has been read, like the venue."""

    def batches(self) -> Iterator[Batch]: ...

    def progress(self) -> tuple[int, int]: ...


@contextmanager
def open_tape(path: Path, wanted: Wanted, say: Say) -> Iterator[Tape]:
    """The trades of a file; `say` hears what was taken for what.

    Raises WrongUse where something has to be named, CommandFailed where the file is damaged or holds no trade.
    """
    report = Report()
    with Packed(path) as packed:
        source = _source(packed, wanted, report, say)
        batches = source.batches()
        first = next(batches, None)
        if first is None:
            why = f": {report.first_refusals[0]}" if report.refused else ""
            raise CommandFailed(f"{path} holds no trade that can be read{why}")
        yield Tape(source.venue, source.symbol, chain([first], batches), report, source.progress)


def _source(packed: Packed, wanted: Wanted, report: Report, say: Say) -> _Source:
    if packed.starts_with(PARQUET_MAGIC):
        require("pyarrow", "Parquet", "research")
        from ravenctl.research.parquet import ParquetTable  # noqa: PLC0415 - pyarrow is optional, and slow to import

        return _TableTape(packed.path, ParquetTable(packed.path), wanted, report, say)
    blocks = packed.blocks()
    first = next(blocks, b"")
    if b"\0" in first:
        raise CommandFailed(f"{packed.path} is no text: neither a table of trades nor a recording")
    blocks = chain([first], blocks)
    if FIRST_LINE.match(first):
        return _RecordingTape(packed, blocks, wanted, report, say)
    return _TableTape(packed.path, CsvTable(packed, blocks), wanted, report, say)


class _Chooser:
    """Which symbol of a file is read: the one asked for, else the only one."""

    def __init__(self, path: Path, wanted: str | None) -> None:
        self._path, self._wanted = path, wanted
        self.symbol: str | None = None
        self._seen: dict[str, None] = {}

    def see(self, symbols: Iterable[str]) -> bool:
        """Note symbols; whether there are several now, and none was asked for."""
        self._seen.update(dict.fromkeys(symbols))
        if self.symbol is None:
            self.symbol = next((symbol for symbol in self._seen if self._fits(symbol)), None)
        return self._wanted is None and len(self._seen) > 1

    def refuse(self) -> WrongUse:
        """The error that lists the symbols."""
        return WrongUse(f"{self._path} holds several symbols: choose one with --symbol; {self._listed()}")

    def check(self) -> None:
        """Raise WrongUse where the symbol that was asked for never came."""
        if self._wanted is not None and self.symbol is None and self._seen:
            raise WrongUse(f"{self._path} holds no trade of {self._wanted}: {self._listed()}")

    def _fits(self, symbol: str) -> bool:
        return self._wanted is None or same_symbol(symbol, self._wanted)

    def _listed(self) -> str:
        return f"there are {', '.join(sorted(self._seen))}"


def same_symbol(symbol: str, other: str) -> bool:
    """Whether two spellings mean one symbol: BTC/USDT and btcusdt do."""
    plain, also = ("".join(filter(str.isalnum, text)).upper() for text in (symbol, other))
    return plain == also


class _TableTape:
    """A table of trades."""

    def __init__(self, path: Path, table: Table, wanted: Wanted, report: Report, say: Say) -> None:
        self._path, self._table, self._wanted, self._report, self._say = path, table, wanted, report, say
        self._layout = layout(table.first, wanted.columns)
        self._names = tuple(self._layout.places)
        self._unit = table.time_unit(self._layout) or wanted.time_unit
        self._chooser = _Chooser(path, wanted.symbol)
        self.symbol = wanted.symbol or path.name.split(".")[0]
        self.venue = wanted.venue or NO_VENUE

    def progress(self) -> tuple[int, int]:
        return self._table.progress()

    def batches(self) -> Iterator[Batch]:
        blocks = self._chosen()
        first = next(blocks, None)
        if first is None:
            return
        maker = self._begin(first)
        made = in_order(filter(len, map(maker.batch, chain([first], blocks))), self._report)
        yield from made if self._sides else sided(made)

    @property
    def _sides(self) -> bool:
        return "side" in self._names or "is_buyer_maker" in self._names

    def _begin(self, block: Block) -> Maker:
        """What makes trades of this table, by its first rows; says what is taken for what."""
        columns = dict(zip(self._names, block.columns, strict=True))
        if "venue" in columns and self._wanted.venue is None:
            self.venue = columns["venue"][0].upper().replace("-", "_") or NO_VENUE
        counts = cells.count_by_one([cell for cell in columns["id"] if cell]) if "id" in columns else None
        self._say_columns(columns, counts)
        maker = Maker(self._layout, self._unit, counts, self._report)
        self._check_direction(Maker(self._layout, self._unit, counts, Report()).batch(block))
        return maker

    def _say_columns(self, columns: dict[str, Sequence[str]], counts: bool | None) -> None:
        self._say(f"columns: {self._layout.told()}; times in {self._unit_told(columns['time'])}")
        if not self._sides:
            self._say("no column tells the aggressor's side: the tick rule does (Lee and Ready)")
        if counts is None:
            self._say("no column holds ids: trades are numbered in their order, from 1")
        elif not counts:
            self._say("ids do not count by one: they tell duplicates, but not what is missing")

    def _unit_told(self, times: Sequence[str]) -> str:
        if self._unit:
            return self._unit
        found = {unit for time in times if (unit := cells.unit_told(time))}
        return f"{' and '.join(sorted(found))}, by their size" if found else "text"

    def _check_direction(self, batch: Batch) -> None:
        """Raise WrongUse where a table begins with its newest trade: all behind it would be duplicates, or late."""
        ids = [sequence for sequence in batch.trades.sequence if sequence is not None]
        keys = ids if "id" in self._names and ids else batch.trades.event_time
        falls = sum(after < before for before, after in pairwise(keys))
        rises = sum(after > before for before, after in pairwise(keys))
        if len(keys) > SURE_ROWS and falls > max(2, 3 * rises):
            raise WrongUse(f"{self._path} begins with its newest trades: turn it round first, for example with tac")

    def _chosen(self) -> Iterator[Block]:
        """Blocks with the rows of the symbol alone, none of them empty."""
        if "symbol" not in self._names:
            yield from self._table.blocks(self._layout)
            return
        blocks = map(self._with_symbols, self._table.blocks(self._layout))
        for block in blocks:
            symbols = block.columns[self._names.index("symbol")]
            if self._chooser.see(symbols):
                for other in blocks:
                    self._chooser.see(other.columns[self._names.index("symbol")])
                raise self._chooser.refuse()
            chosen = self._chooser.symbol
            self.symbol = chosen or self.symbol
            if rows := [n for n, symbol in enumerate(symbols) if symbol == chosen]:
                yield block if len(rows) == len(symbols) else block.picked(rows)
        self._chooser.check()

    def _with_symbols(self, block: Block) -> Block:
        """The rows that have a symbol, without blanks around it; the others are refused."""
        place = self._names.index("symbol")
        symbols = list(map(str.strip, block.columns[place]))
        block = Block(block.lines, [*block.columns[:place], symbols, *block.columns[place + 1 :]])
        if "" not in symbols:
            return block
        for line, symbol in zip(block.lines, symbols, strict=True):
            if not symbol:
                self._report.refuse(line, "symbol: there is none")
        return block.picked([n for n, symbol in enumerate(symbols) if symbol])


class _RecordingTape:
    """A recording."""

    def __init__(self, packed: Packed, blocks: Iterator[bytes], wanted: Wanted, report: Report, say: Say) -> None:
        self._packed, self._report = packed, report
        self._recording = Recording(str(packed.path), blocks, wanted.venue, report, say)
        self._chooser = _Chooser(packed.path, wanted.symbol)
        self.venue = wanted.venue or self._recording.dialect.venue
        self.symbol = wanted.symbol or ""
        say(f"a recording of {self._recording.dialect.venue}")

    def progress(self) -> tuple[int, int]:
        return self._packed.place, self._packed.size

    def batches(self) -> Iterator[Batch]:
        return in_order(self._read(), self._report)

    def _read(self) -> Iterator[Batch]:
        found = self._recording.trades()
        lines: list[int] = []
        trades: list[Trade] = []
        for line, trade in found:
            if trade.symbol != self._chooser.symbol and self._chooser.see([trade.symbol]):
                self._chooser.see(other.symbol for _, other in found)
                raise self._chooser.refuse()
            if trade.symbol == self._chooser.symbol:
                lines.append(line)
                trades.append(trade)
            if len(trades) == BATCH_ROWS:
                self.symbol = trade.symbol
                yield of_records(lines, trades)
                lines, trades = [], []
        self._chooser.check()
        if self._chooser.symbol is None and not self._report.refused:
            raise self._tradeless()
        self.symbol = self._chooser.symbol or self.symbol
        if trades:
            yield of_records(lines, trades)

    def _tradeless(self) -> CommandFailed:
        streams = [stream for stream, _ in self._recording.passed_over.most_common(3)]
        holds = f"frames of {', '.join(streams)}, but " if streams else ""
        return CommandFailed(
            f"{self._packed.path} holds {holds}no trade that Raven collects of {self._recording.dialect.venue}: "
            "`ravenctl record` with --venue and --symbol records them"
        )
