"""Parquet: tables of trades as text, and bars as typed columns. Needs pyarrow: import this only where it is used."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ravencore.decimals import PRECISION, SCALE, to_decimal
from ravenctl.research.batches import BATCH_ROWS
from ravenctl.research.cells import TimeUnit
from ravenctl.research.spellings import Layout
from ravenctl.research.tables import Block
from ravenctl.shell import CommandFailed


class ParquetTable:
    """A Parquet file of trades, as text: decimals exactly, doubles by their shortest text, times in microseconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise CommandFailed(f"{path} is no intact Parquet file: {error}") from None
        self._read = 0
        self.first: Sequence[str] = self._file.schema_arrow.names

    def blocks(self, layout: Layout) -> Iterator[Block]:
        """Blocks of rows; an empty cell is the empty text. Raises CommandFailed where the file is damaged."""
        names = [self.first[place] for place in layout.places.values()]
        try:
            for batch in self._file.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(names))):
                lines = range(self._read + 1, self._read + batch.num_rows + 1)
                self._read += batch.num_rows
                yield Block(lines, [_texts(batch.column(name)) for name in names])
        except (pa.ArrowException, OSError) as error:
            raise CommandFailed(f"{self._path} is damaged behind row {self._read}: {error}") from None

    def time_unit(self, layout: Layout) -> TimeUnit | None:
        """What `blocks` gives times in where the column's type says what they are."""
        return "us" if pa.types.is_temporal(self._file.schema_arrow.field(layout.places["time"]).type) else None

    def progress(self) -> tuple[int, int]:
        """Rows."""
        return self._read, self._file.metadata.num_rows


def _texts(column: Any) -> list[str]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    return [text or "" for text in column.cast(pa.string()).to_pylist()]


class ParquetWriter:
    """Writes records as typed columns, a row group for each call of `write`."""

    def __init__(self, path: Path, types: Mapping[str, str]) -> None:
        """`types`: by column `decimal`, `time`, `long`, `double`, `boolean` or `string`."""
        of = {
            "decimal": pa.decimal128(PRECISION, SCALE),
            "time": pa.timestamp("us", tz="UTC"),
            "long": pa.int64(),
            "double": pa.float64(),
            "boolean": pa.bool_(),
            "string": pa.string(),
        }
        self._types = types
        self._schema = pa.schema([(name, of[kind]) for name, kind in types.items()])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, records: Sequence[Any]) -> None:
        """Write records, at least one."""
        columns = [self._column(name, kind, records) for name, kind in self._types.items()]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        """Write the file's end."""
        self._writer.close()

    def _column(self, name: str, kind: str, records: Sequence[Any]) -> Any:
        values = [getattr(record, name) for record in records]
        if kind == "decimal":
            values = [to_decimal(units) for units in values]
        return pa.array(values, self._schema.field(name).type)
