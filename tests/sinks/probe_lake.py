"""How the lake is tested: its files read back by DuckDB, and a disk that goes away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from ravencore.config import Settings
from ravencore.records import Bar, Book, Record, Trade
from tests.sinks.rig import Rows, bar, book, trade

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ORIGIN = ("kafka_topic", "kafka_partition", "kafka_offset")


def fields_of(value: Any) -> Any:
    """A value of the lake, or of a record, in plain terms: numbers as unscaled integers, times as microseconds."""
    if isinstance(value, Decimal):
        return int(value.scaleb(18, Context(prec=60)))
    if isinstance(value, datetime):
        return (value.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)
    if isinstance(value, list | tuple):
        return [fields_of(item) for item in value]
    if isinstance(value, dict):
        return {name: fields_of(item) for name, item in value.items()}
    return value


def stored(root: str | Path, record: str) -> list[dict[str, Any]]:
    """All rows of a record, read by DuckDB."""
    files = f"{root}/v1/{record}/**/*.parquet"
    if not any(Path(f"{root}/v1/{record}").glob("**/*.parquet")):
        return []
    sql = "SELECT * EXCLUDE (date) FROM read_parquet(?, hive_partitioning = true, hive_types_autocast = false, "
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(sql + "union_by_name = true)", [files])
        names = [column[0] for column in found.description or []]
        return [dict(zip(names, map(fields_of, row), strict=True)) for row in found.fetchall()]


class Disk:
    """A folder that can be taken away, as a disk that is not mounted is, and brought back."""

    def __init__(self, root: Path) -> None:
        self._root, self._away = root, root.with_name(root.name + ".away")

    def cut(self) -> None:
        if self._root.exists():
            self._root.rename(self._away)
        self._root.touch()

    def mend(self) -> None:
        self._root.unlink()
        if self._away.exists():
            self._away.rename(self._root)


class LakeProbe:
    """Rows by record and what counts in it."""

    def __init__(self, settings: Settings) -> None:
        self._root = Path(settings.lake.uri)

    def records(self, symbol: str, count: int) -> list[Record]:
        kinds: tuple[Callable[[str, int], Record], ...] = (trade, book, bar)
        return [kinds[number % 3](symbol, number) for number in range(count)]

    def poison(self, symbol: str) -> Record:
        return trade(symbol, 77, price=10**38)

    def expected(self, records: Sequence[Record]) -> Rows:
        return {_identity(fields): fields for fields in map(_fields, records)}

    def kept(self, symbol: str) -> Rows:
        rows: Rows = {}
        for cls in (Trade, Book, Bar):
            for row in stored(self._root, cls.SCHEMA):
                if row["symbol"] == symbol:
                    fields = {name: row[name] for name in cls.__struct_fields__}
                    assert _identity(fields) not in rows
                    rows[_identity(fields)] = fields
        return rows

    def count(self, symbol: str) -> int:
        with duckdb.connect() as connection:
            counts = [
                connection.execute("SELECT count(*) FROM read_parquet(?)", [str(folder) + "/**/*.parquet"]).fetchall()
                for folder in self._root.glob(f"v1/*/venue=*/symbol={symbol}")
                if any(folder.glob("**/*.parquet"))
            ]
        return sum(rows[0][0] for rows in counts)

    def enough(self, records: Sequence[Record]) -> int:
        return len(self.expected(records))

    def behind(self, settings: Settings, _: Any) -> tuple[Settings, Disk]:
        return settings, Disk(self._root)


def _fields(record: Record) -> dict[str, Any]:
    fields: dict[str, Any] = fields_of(msgspec.to_builtins(record))
    return fields


def _identity(fields: dict[str, Any]) -> tuple[Any, ...]:
    if "bar_seq" in fields:
        return "bar", fields["kind"], fields["bar_seq"]
    return ("trade", fields["trade_id"]) if "trade_id" in fields else ("book", fields["update_id"])
