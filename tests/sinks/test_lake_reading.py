"""The lake is read by DuckDB, Polars and pandas, as the docs say, before and after a new field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest

from ravencore.codec import Codec, Schema, load_schema
from ravencore.config import Settings
from ravencore.decimals import to_decimal
from ravencore.records import Record
from ravencore.topics import TRADES
from sinks.contract import Read
from sinks.reading import Tables
from sinks.stores.lake import Lake
from tests.sinks.probe_lake import fields_of, stored
from tests.sinks.rig import CODEC, book, reads, topic_of, trade, vpin

PAGE = (Path(__file__).parents[2] / "docs/stores.md").read_text().partition("## The lake")[2].partition("\n## ")[0]
FEE = {
    "name": "fee",
    "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 18}],
    "default": None,
}


class NewerTrades:
    """A schema registry in which the Trade of id 5 has a field that this code does not know."""

    def id_of(self, record: str, schema: Schema) -> int:
        raise AssertionError("nothing is written with it")

    def schema_of(self, schema_id: int) -> Schema:
        trade = load_schema("trade.avsc")
        return {**trade, "fields": [*trade["fields"], FEE]}


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Where the docs look for it, with trades of before and after a new field, books and VPIN."""
    monkeypatch.chdir(tmp_path)
    store = Lake(Settings())
    store._tables = Tables(Codec(NewerTrades()))
    records: list[Record] = [
        *(trade("BTCUSDT", number, venue="BINANCE_SPOT") for number in range(10)),
        *(vpin("BTCUSDT", number) for number in range(10)),
        *(book("BTCUSDT", number) for number in range(10)),
    ]
    for record in records:
        store.resume(topic_of(record), 0)
    assert store.write(reads(records)) == ([], [])
    newer = [b"\0\0\0\0\5" + CODEC.encode(trade("BTCUSDT", number))[5:] + b"\2\2\5" for number in range(5)]
    assert store.write([Read(TRADES, 0, 100 + number, None, value) for number, value in enumerate(newer)]) == ([], [])
    store.close()
    return store


def test_duckdb_runs_what_the_docs_say(lake: Lake) -> None:
    _, block = re.findall(r"```sql\n(.*?)```", PAGE, re.S)
    candles, buckets, depths = (duckdb.execute(query).fetchall() for query in block.split(";")[:-1])
    prices = [to_decimal(60_000 * 10**18 + number) for number in range(10)]
    assert [candle[1:5] for candle in candles] == [(prices[0], prices[9], prices[0], prices[9])]
    assert len(buckets) == 10
    assert [depth[1] for depth in depths] == [to_decimal((100 - number % 7) * 10**18) for number in range(10)]


def test_days_are_copied_into_larger_files_as_the_docs_say(lake: Lake) -> None:
    """Every value, and the lake itself is as it was."""
    again = Lake(Settings())
    again.resume(TRADES, 0)
    odd = [trade(symbol, 200 + number) for number, symbol in enumerate(["BTC/USD", "100%", "ÄTH x"] * 2)]
    for number, record in enumerate(odd):
        assert again.write([Read(TRADES, 0, 200 + number, None, CODEC.encode(record))]) == ([], [])
    again.close()
    before, rows = sorted(Path("data").rglob("*")), stored("data", "trade")
    (copy,) = [query for query in re.findall(r"```sql\n(.*?)```", PAGE, re.S) if query.startswith("COPY")]
    Path("compacted/v1").mkdir(parents=True)
    for _ in range(2):
        duckdb.execute("SET TimeZone = 'UTC'; " + copy)
        assert len(list(Path("compacted").rglob("*.parquet"))) == 5
        assert by_offset(stored("compacted", "trade")) == by_offset(rows)
    assert sorted(Path("data").rglob("*")) == before
    original, copied = (
        ds.dataset(f"{root}/v1/trade", partitioning="hive").schema.field("price") for root in ("data", "compacted")
    )
    assert original.type == copied.type


def by_offset(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {row["kafka_offset"]: row for row in rows}


def test_polars_and_pandas_run_what_the_docs_say(lake: Lake) -> None:
    found: dict[str, Any] = {}
    polars_code, pandas_code = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(polars_code, found)
    assert found["volume"].select(pl.col("len").sum()).item() == 15
    assert found["trades"].collect()["fee"].drop_nulls().to_list() == [to_decimal(5)] * 5
    exec(pandas_code, found)
    assert len(found["trades"]) == 15
    assert found["trades"]["fee"].notna().sum() == 5
    assert set(found["trades"]["price"]) == {to_decimal(60_000 * 10**18 + number) for number in range(10)}


def test_a_new_field_is_there_and_null_before_it_came(lake: Lake) -> None:
    rows = sorted(stored("data", "trade"), key=lambda row: row["kafka_offset"])
    assert [row["fee"] for row in rows] == [None] * 10 + [5] * 5
    assert [row["trade_id"] for row in rows] == [str(number) for number in [*range(10), *range(5)]]


@pytest.mark.parametrize("record", ["trade", "book", "vpin"])
def test_all_three_read_every_value(lake: Lake, record: str) -> None:
    files = "data/v1/" + record + "/**/*.parquet"
    shared = {"connection_time", "connection_sequence", "kafka_offset", "venue", "symbol", "received_time", "bar_seq"}
    by_duckdb = stored("data", record)
    columns = [name for name in by_duckdb[0] if name in shared]
    scan = pl.scan_parquet(files, hive_partitioning=True, extra_columns="ignore")
    by_polars = [fields_of(row) for row in scan.select(columns).collect().to_dicts()]
    frame = pd.read_parquet(f"data/v1/{record}")[columns]
    by_pandas = [fields_of(row) for row in frame.astype(object).to_dict("records")]
    wanted = sorted(msgspec.json.encode({name: row[name] for name in columns}) for row in by_duckdb)
    assert sorted(map(msgspec.json.encode, by_polars)) == wanted
    assert sorted(map(msgspec.json.encode, by_pandas)) == wanted
