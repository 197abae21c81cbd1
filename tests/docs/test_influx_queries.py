"""The SQL that docs/stores.md shows for QuestDB, run on a real one; its Flux names what there is."""

import re
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ravencore.config import InfluxSettings, Settings
from ravencore.decimals import ONE
from ravencore.records import Record
from ravenctl.local.state import Endpoints
from sinks.stores.influx import Influx
from sinks.stores.influx_lines import MEASUREMENTS
from tests.sinks import probe_influx as made
from tests.sinks.rig import book, reads, trade, until

PAGE = (Path(__file__).parents[2] / "docs" / "stores.md").read_text()
SECTION = PAGE[PAGE.index("## InfluxDB") : PAGE.index("## The mart")]
QUERIES = re.findall(r"```sql\n(.*?);\n```", SECTION, re.S)
FLUX = re.findall(r"```flux\n(.*?)```", SECTION, re.S)


def market(now_us: int) -> list[Record]:
    """A minute of everything, as the queries ask for it."""
    start = now_us // 1000 * 1000 - 60_000_000
    records: list[Record] = []
    for number in range(60):
        at: dict[str, Any] = {"event_time": start + number * 1_000_000, "received_time": start + number * 1_000_000}
        records += [
            made.quote("BTCUSDT", number, ask_quantity=ONE, **at),
            trade("BTCUSDT", number, **at),
            replace(book("BTCUSDT", number), **at),
            made.liquidation("BTCUSDT", number, **at),
            made.open_interest("BTCUSDT", number + 1, open_interest_value=number * 60_000 * ONE, **at),
            made.funding("BTCUSDT", number, index_price=59_990 * ONE, **at),
            made.index_price("BTC_USD", number, **at),
            made.volatility("BTC_USD", number, **at),
            made.option(f"BTC-25DEC26-{60 + number}000-C", number, bid_iv=0.5, **at),
        ]
    return [*records, made.kline("BTCUSDT", 1, open_time=start + 59_000_000)]


@pytest.fixture(scope="module")
def questdb(stack: Endpoints) -> made.InfluxProbe:
    settings = Settings(influx=InfluxSettings(url=stack.questdb_url, flavour="questdb"))
    store = Influx(settings)
    store.setup()
    records = market(time.time_ns() // 1000)
    outcome = store.write(reads(records))
    store.close()
    assert outcome == ([], [])
    probe = made.InfluxProbe(settings)
    until(lambda: probe.count("BTCUSDT") >= 6 * 60 + 1 and probe.count("BTC_USD") >= 120, "the market")
    until(
        lambda: probe.query("SELECT count() c FROM options_ticker WHERE symbol LIKE 'BTC-25DEC26-%'")[0]["c"] >= 60, ""
    )
    return probe


@pytest.mark.stack
@pytest.mark.parametrize("sql", QUERIES, ids=[sql.split()[1].strip(",") for sql in QUERIES])
def test_each_query_answers_with_every_column(sql: str, questdb: made.InfluxProbe) -> None:
    rows = questdb.query(sql)
    assert rows
    columns = {name for row in rows for name, value in row.items() if value is not None}
    assert columns == set(rows[0]), f"always null: {set(rows[0]) - columns} ({urllib.parse.quote(sql)})"


@pytest.mark.stack
def test_candles_are_those_of_the_trades(questdb: made.InfluxProbe) -> None:
    (sql,) = (query for query in QUERIES if "bought" in query)
    rows = questdb.query(sql)
    assert sum(row["volume"] for row in rows) == pytest.approx(60 * 0.001)
    assert all(row["low"] <= row["open"] <= row["high"] and 0 < row["bought"] < 1 for row in rows)


def test_every_measurement_is_asked_for_in_sql_and_flux_names_fields_that_there_are() -> None:
    assert all(any(f"FROM {known.name}" in sql for sql in QUERIES) for known in MEASUREMENTS.values())
    fields = {name for known in MEASUREMENTS.values() for name in known.fields}
    for flux in FLUX:
        names = set(re.findall(r'_measurement == "(\w+)"', flux))
        assert names <= {known.name for known in MEASUREMENTS.values()}
        assert set(re.findall(r'_field == "(\w+)"', flux)) <= fields


def test_the_table_of_measurements_is_what_the_code_writes() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `raven\.[a-z_]+` \| (.*?) \| (.*?) \|$", SECTION, re.M)
    shown = {
        name: ([*re.split(r", ", tags)], {*re.sub(r" \(.*?\)", "", text).split(", ")}) for name, tags, text in rows
    }
    for known in MEASUREMENTS.values():
        assert shown.pop(known.name) == (
            [known.symbol, "exchange", *([known.tag] if known.tag else [])],
            {*known.fields},
        )
    assert not shown
