"""Tables of trades: the rows of a CSV file as text, and the trades that columns of text are."""

import codecs
import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np

from ravencore.columns import TradeColumns
from ravencore.errors import BadValue
from ravenctl.research import cells
from ravenctl.research.batches import NOTHING, Batch, Report
from ravenctl.research.cells import TimeUnit
from ravenctl.research.packed import Packed
from ravenctl.research.spellings import Layout
from ravenctl.shell import CommandFailed

DELIMITERS = ",;\t|"
Convert = Callable[[Sequence[str]], list[Any]]
CONVERT: dict[str, Convert] = {
    "price": cells.decimals,
    "quantity": cells.decimals,
    "side": cells.bought,
    "is_buyer_maker": cells.bought_of_maker,
}


class Block(NamedTuple):
    """Some rows of a table: where they stand, counted from 1, and the cells of each column that is of interest."""

    lines: Sequence[int]
    columns: Sequence[Sequence[str]]

    def picked(self, places: Sequence[int]) -> "Block":
        """The rows at these places."""
        return Block([self.lines[n] for n in places], [[column[n] for n in places] for column in self.columns])


class Table(Protocol):
    """A file of rows."""

    first: Sequence[str]
    """The names of its columns, or where it has none its first row."""

    def blocks(self, layout: Layout) -> Iterator[Block]:
        """Its rows, some in each block, with the columns of the layout; raises CommandFailed where it is damaged."""

    def time_unit(self, layout: Layout) -> TimeUnit | None:
        """The unit of its times where the file itself says so."""

    def progress(self) -> tuple[int, int]:
        """How much of it is read, of how much."""


class CsvTable:
    """A CSV file, given as blocks of whole lines; its first line decides what delimits cells."""

    def __init__(self, packed: Packed, blocks: Iterable[bytes]) -> None:
        self._packed = packed
        self._blocks = iter(blocks)
        begin = next(self._blocks, b"").removeprefix(codecs.BOM_UTF8)
        head = begin.partition(b"\n")[0].decode(errors="replace")
        self._delimiter = max(DELIMITERS, key=head.count)
        self._begin = begin
        rows = self._rows([head], 1)
        if not rows:
            raise CommandFailed(f"{packed.path} is empty, or begins with an empty line")
        self.first: Sequence[str] = rows[0][1]

    def blocks(self, layout: Layout) -> Iterator[Block]:
        """Blocks of rows; empty lines are skipped, and cells that a short row lacks are empty."""
        begin, line = self._begin, 1
        if layout.names:
            begin, line = begin.partition(b"\n")[2], 2
        places = list(layout.places.values())
        for raw in chain([begin], self._blocks):
            text = raw.replace(b"\r\n", b"\n")
            block = self._even(text, line, places) or self._uneven(text, line, places)
            line += text.count(b"\n")
            if block.lines:
                yield block

    def time_unit(self, layout: Layout) -> TimeUnit | None:
        """A text never says so."""
        return None

    def progress(self) -> tuple[int, int]:
        """Bytes."""
        return self._packed.place, self._packed.size

    def _even(self, raw: bytes, line: int, places: Sequence[int]) -> Block | None:
        """A block whose rows all have as many cells as the first row, and no quotes: cut up without making rows.

        With csv's list for each row the whole command takes twice as long.
        """
        delimiter, width = self._delimiter, len(self.first)
        if not raw or b'"' in raw or f"{delimiter} ".encode() in raw:
            return None
        letters = np.frombuffer(raw, np.uint8)
        ends = letters[(letters == ord(delimiter)) | (letters == ord("\n"))]
        expected = np.frombuffer((delimiter * (width - 1) + "\n").encode(), np.uint8)
        if len(ends) % width or (ends.reshape(-1, width) != expected).any():
            return None
        cells = raw[:-1].decode(errors="replace").replace("\n", delimiter).split(delimiter)
        return Block(range(line, line + len(ends) // width), [cells[place::width] for place in places])

    def _uneven(self, raw: bytes, line: int, places: Sequence[int]) -> Block:
        """Any other block."""
        found = self._rows(raw.decode(errors="replace").split("\n")[:-1], line)
        padding = [""] * (max(places) + 1)
        padded = [row + padding for _, row in found]
        return Block([number for number, _ in found], [[row[place] for row in padded] for place in places])

    def _rows(self, lines: Iterable[str], first: int) -> list[tuple[int, list[str]]]:
        """The cells of each row that has any, and the line it ends on; `first` is the number of the first line."""
        rows = csv.reader(lines, delimiter=self._delimiter, skipinitialspace=True, strict=True)
        try:
            return [(first + rows.line_num - 1, row) for row in rows if row]
        except csv.Error as error:
            at = first + rows.line_num - 1
            raise CommandFailed(f"{self._packed.path} is no CSV, as line {at} tells at last: {error}") from None


class Maker:
    """Makes trades of cells. `counts`: whether ids count by one; None: there are none, and rows are numbered."""

    def __init__(self, layout: Layout, unit: TimeUnit | None, counts: bool | None, report: Report) -> None:
        self._counts, self._report = counts, report
        convert: dict[str, Convert] = {**CONVERT, "time": partial(cells.micros, unit=unit)}
        if counts is not None:
            convert["id"] = cells.counting_ids if counts else cells.given_ids
        self._names = tuple(layout.places)
        self._convert = {what: convert[what] for what in self._names if what in convert}
        self._numbered = 0
        self._owes_gap = False
        """A row was refused: where ids do not count, the next trade has to say that it is missing."""

    def batch(self, block: Block) -> Batch:
        """The trades of a block, which may be none; rows that are no trades are refused."""
        first = self._numbered + 1
        self._numbered += len(block.lines)
        try:
            made = self._made(block, range(first, first + len(block.lines)), [0] if self._owes_gap else [])
        except BadValue:
            good, after_gap = self._sift(block)
            return self._made(block.picked(good), [first + place for place in good], after_gap) if good else NOTHING
        self._owes_gap = False
        return made

    def _made(self, block: Block, numbers: Sequence[int], gaps: Iterable[int]) -> Batch:
        values = self._values(block)
        count = len(block.lines)
        after_gap = [False] * count
        for place in gaps:
            after_gap[place] = True
        numbered = self._counts is None
        ids = list(map(str, numbers)) if numbered else list(map(str.strip, block.columns[self._names.index("id")]))
        sequence = list(numbers) if numbered else values["id"] if self._counts else [None] * count
        buy = values.get("side") or values.get("is_buyer_maker") or [False] * count
        time = values["time"]
        trades = TradeColumns(time, time, ids, sequence, values["price"], values["quantity"], buy, after_gap)
        return Batch(block.lines, trades)

    def _values(self, block: Block) -> dict[str, list[Any]]:
        """The columns converted; raises BadValue that begins with what it is of."""
        values = {}
        for what, column in zip(self._names, block.columns, strict=True):
            if what in self._convert:
                try:
                    values[what] = self._convert[what](column)
                except BadValue as error:
                    raise BadValue(f"{what}: {error}") from None
        return values

    def _sift(self, block: Block) -> tuple[list[int], list[int]]:
        """Places of the rows that are trades, and which of these follow a row that was refused."""
        good: list[int] = []
        after_gap: list[int] = []
        for place, line in enumerate(block.lines):
            try:
                self._values(block.picked([place]))
            except BadValue as error:
                self._report.refuse(line, str(error))
                self._owes_gap = True
                continue
            if self._owes_gap:
                after_gap.append(len(good))
            good.append(place)
            self._owes_gap = False
        return good, after_gap
