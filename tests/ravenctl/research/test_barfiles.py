"""Bars as CSV and Parquet say what they say as JSON lines; trades in Parquet are read exactly."""

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ravencore.config import BarsSettings
from ravencore.records import Bar, Vpin
from ravenctl.cli import app
from ravenctl.research import barfiles
from tests.ravenctl.research.markets import START_MS, SYMBOL, VENUE, fields, live, market, write

LINES = market(3_000)
NAMES = ["--venue", VENUE, "--symbol", SYMBOL]


def made(path: Path, out: Path, *args: str) -> str:
    result = CliRunner().invoke(app, ["bars", str(path), *NAMES, "--out", str(out), *args])
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    return result.stderr


@pytest.fixture
def trades(tmp_path: Path) -> Path:
    return write(tmp_path, "plain.csv", LINES)


@pytest.mark.parametrize("kind", ["tib", "time", "vpin"])
def test_csv_says_what_json_lines_say(kind: str, trades: Path, tmp_path: Path) -> None:
    for name in ("bars.jsonl", "bars.csv"):
        said = made(
            trades, tmp_path / name, "--kind", kind, *(["--set", "bucket_volume=90000"] if kind == "vpin" else [])
        )
        assert said.splitlines()[-1].endswith(f"written to {tmp_path / name}")
    records = [json.loads(line) for line in (tmp_path / "bars.jsonl").read_text().splitlines()]
    rows = list(csv.DictReader((tmp_path / "bars.csv").read_text().splitlines()))
    assert len(rows) == len(records) > 10
    for row, record in zip(rows, records, strict=True):
        shown = {name: "" if value is None else str(value) for name, value in record.items()}
        assert row == shown | {name: str(record[name]).lower() for name in ("gap", "warmup") if name in record}


def test_a_run_takes_the_place_of_the_one_before(trades: Path, tmp_path: Path) -> None:
    out = tmp_path / "bars.csv"
    out.write_text("what was there before\n" * 10_000)
    made(trades, out, "--kind", "tib")
    assert out.read_text().startswith("venue,symbol,kind,profile,bar_seq,open_time,")
    assert not list(tmp_path.glob(".*.part"))


def test_the_kinds_of_fields_are_those_of_the_schemas() -> None:
    kinds = barfiles.types(Bar)
    assert tuple(kinds) == Bar.__struct_fields__
    assert tuple(barfiles.types(Vpin)) == Vpin.__struct_fields__
    assert (kinds["open_time"], kinds["open"], kinds["theta"], kinds["gap"]) == ("time", "decimal", "double", "boolean")
    assert (kinds["first_trade_id"], kinds["ticks"], barfiles.types(Vpin)["unit"]) == ("string", "long", "string")


# Parquet


def moment(time_us: int) -> datetime:
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).replace(microsecond=time_us % 1_000_000)


def exact(name: str, value: Any) -> Any:
    if name in ("open_time", "close_time"):
        return moment(value)
    numbers = {"open", "high", "low", "close", "volume", "quote_volume", "buy_volume"}
    return Decimal(value) if name in numbers else value


@pytest.mark.parametrize("kind", ["tib", "vpin"])
def test_parquet_is_typed_and_exact(kind: str, trades: Path, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    args = ["--set", "bucket_volume=90000"] if kind == "vpin" else []
    for name in ("bars.jsonl", "bars.parquet"):
        made(trades, tmp_path / name, "--kind", kind, *args)
    records = [json.loads(line) for line in (tmp_path / "bars.jsonl").read_text().splitlines()]
    table = parquet.read_table(tmp_path / "bars.parquet")
    assert table.schema.field("close").type == arrow.decimal128(38, 18)
    assert table.schema.field("close_time").type == arrow.timestamp("us", tz="UTC")
    assert table.schema.field("gap").type == arrow.bool_()
    assert table.to_pylist() == [{name: exact(name, value) for name, value in it.items()} for it in records]


def arrays(arrow: Any, form: str) -> dict[str, Any]:
    price, quantity = [it.price for it in LINES], [it.quantity for it in LINES]
    times = [it.time_ms for it in LINES]
    columns: dict[str, Any] = {"trade_id": [it.number for it in LINES], "is_buyer_maker": [not it.buy for it in LINES]}
    match form:
        case "decimals":
            columns |= {"price": list(map(Decimal, price)), "qty": list(map(Decimal, quantity))}
            columns["time"] = arrow.array(times, arrow.timestamp("ms"))
        case "doubles":
            columns |= {"price": list(map(float, price)), "qty": list(map(float, quantity))}
            columns["time"] = arrow.array([it * 1_000_000 for it in times], arrow.timestamp("ns", tz="UTC"))
        case "texts":
            columns |= {"price": arrow.array(price).dictionary_encode(), "qty": quantity, "time": times}
    return columns


@pytest.mark.parametrize("form", ["decimals", "doubles", "texts"])
def test_trades_in_parquet(form: str, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table(arrays(arrow, form)), tmp_path / "trades.parquet", row_group_size=1_000)
    made(tmp_path / "trades.parquet", tmp_path / "bars.jsonl", "--kind", "tib")
    records = [json.loads(line) for line in (tmp_path / "bars.jsonl").read_text().splitlines()]
    assert records == [fields(it) for it in live(LINES, BarsSettings(), "raven.bars.tib", "tib_small")]


def test_empty_cells_of_parquet_are_refused(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    prices = [*[100.5] * 5, None, float("nan"), *[100.5] * 25]
    columns = {"time": [START_MS + n for n in range(32)], "price": prices, "qty": [1] * 32, "side": ["buy"] * 32}
    parquet.write_table(arrow.table(columns), tmp_path / "trades.parquet")
    said = made(tmp_path / "trades.parquet", tmp_path / "bars.csv", "--kind", "tick", "--set", "size=10")
    told = (
        "30 trades of BINANCE_SPOT BTCUSDT, 0 duplicates, 1 holes, 0 late, 2 refused (line 6: price: '' is not a number"
    )
    assert told in said


@given(st.lists(st.floats(min_value=1e-12, max_value=1e15), min_size=1, max_size=50))
def test_arrow_writes_doubles_as_python_does(numbers: Sequence[float]) -> None:
    arrow = pytest.importorskip("pyarrow")
    texts = arrow.array(numbers).cast(arrow.string()).to_pylist()
    assert list(map(Decimal, texts)) == [Decimal(repr(number)) for number in numbers]


def test_a_torn_parquet_file_is_told(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "trades.parquet").write_bytes(b"PAR1 and then nothing")
    result = CliRunner().invoke(app, ["bars", str(tmp_path / "trades.parquet"), "--kind", "tib"])
    assert result.exit_code == 1
    assert "is no intact Parquet file" in result.stderr
