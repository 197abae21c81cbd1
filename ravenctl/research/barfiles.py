"""Bars and VPIN buckets written to a file: JSON lines, CSV or Parquet, by its suffix; there only once it is whole."""

import csv
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec

from ravencore.codec import Schema, exact, load_schema
from ravencore.decimals import to_text
from ravencore.records import Bar, Vpin
from ravenctl.shell import WrongUse, require

Record = Bar | Vpin
STDOUT = Path("-")
ROWS = 10_000
"""Records that are written together."""


class Writer(Protocol):
    """Writes records to one file."""

    def write(self, records: Sequence[Record]) -> None: ...

    def close(self) -> None: ...


def types(record: type[Record]) -> dict[str, str]:
    """The kind of each field of a record: `decimal`, `time`, `long`, `double`, `boolean` or `string`."""
    return {field["name"]: _kind(field["type"]) for field in load_schema(f"{record.SCHEMA}.avsc")["fields"]}


def _kind(schema: Any) -> str:
    if isinstance(schema, list):
        return next(_kind(part) for part in schema if part != "null")
    if isinstance(schema, str):
        return schema
    named: Schema = {"timestamp-micros": "time", "decimal": "decimal"}
    return str(named.get(schema.get("logicalType", ""), "string"))


class JsonLines:
    """A JSON object a record: decimals as text, times as integers of microseconds, doubles by their shortest text."""

    def __init__(self, file: IO[str], _: Mapping[str, str]) -> None:
        self._file = file
        self._encoder = msgspec.json.Encoder()

    def write(self, records: Sequence[Record]) -> None:
        """Write records."""
        self._file.writelines(self._encoder.encode(exact(record)).decode() + "\n" for record in records)

    def close(self) -> None:
        """Write what is left."""
        self._file.flush()


class Csv:
    """A row a record, with the names of the fields on top; null is an empty cell."""

    def __init__(self, file: IO[str], kinds: Mapping[str, str]) -> None:
        self._file = file
        self._show: dict[str, Callable[[Any], Any]] = {name: SHOWN.get(kind, _same) for name, kind in kinds.items()}
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(kinds)

    def write(self, records: Sequence[Record]) -> None:
        """Write records."""
        self._writer.writerows([show(getattr(record, name)) for name, show in self._show.items()] for record in records)

    def close(self) -> None:
        """Write what is left."""
        self._file.flush()


def _same(value: Any) -> Any:
    return value


def _boolean(value: bool) -> str:
    return "true" if value else "false"


SHOWN: Mapping[str, Callable[[Any], Any]] = {"decimal": to_text, "boolean": _boolean}
TEXT: Mapping[str, Callable[[IO[str], Mapping[str, str]], Writer]] = {".jsonl": JsonLines, ".csv": Csv}
PARQUET = ".parquet"


def check(out: Path) -> None:
    """Raise WrongUse where such a file cannot be written, CommandFailed where a library for it is missing."""
    if out != STDOUT and out.suffix not in (*TEXT, PARQUET):
        raise WrongUse(f"--out {out}: name it .parquet, .csv or .jsonl, or - for JSON lines on standard output")
    if out.suffix == PARQUET:
        require("pyarrow", "Parquet", "research")
    _check_folder(out, "--out")


def check_plot(plot: Path) -> None:
    """Raise WrongUse where such a picture cannot be written, CommandFailed where nothing is there to draw it with."""
    if plot.suffix != ".png":
        raise WrongUse(f"--plot {plot}: name it .png")
    require("matplotlib", "--plot", "research")
    _check_folder(plot, "--plot")


def _check_folder(path: Path, option: str) -> None:
    """Raise WrongUse where a file cannot be put there."""
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise WrongUse(f"{option} {path}: there is no folder {path.parent} that can be written to")
    if path.is_dir():
        raise WrongUse(f"{option} {path} is a folder: name a file")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to, in the same folder; at the end what is there takes the place of `path`, unless it failed."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def opened(out: Path, record: type[Record]) -> Iterator[Callable[[Sequence[Record]], None]]:
    """What takes records and writes them."""
    if out == STDOUT:
        yield JsonLines(sys.stdout, types(record)).write
        return
    with replacing(out) as part:
        if out.suffix == PARQUET:
            from ravenctl.research.parquet import ParquetWriter  # noqa: PLC0415 - pyarrow is optional, and slow to import

            with _gathered(ParquetWriter(part, types(record))) as take:
                yield take
        else:
            with (
                part.open("w", encoding="utf-8", newline="") as file,
                _gathered(TEXT[out.suffix](file, types(record))) as take,
            ):
                yield take


@contextmanager
def _gathered(writer: Writer) -> Iterator[Callable[[Sequence[Record]], None]]:
    """Records are written many together."""
    waiting: list[Record] = []

    def take(records: Sequence[Record]) -> None:
        waiting.extend(records)
        if len(waiting) >= ROWS:
            writer.write(waiting)
            waiting.clear()

    yield take
    if waiting:
        writer.write(waiting)
    writer.close()
