"""What is created before points are written, on a real QuestDB, and what InfluxDB's refusals are told as.

The answers of InfluxDB are those that a real 2.7.12 gave, where buckets and tasks were tried by hand (docs/stores.md).
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from influxdb_client.rest import ApiException

from ravencore.config import InfluxSettings, Settings
from ravencore.errors import ConfigError
from ravencore.records import Trade
from sinks.contract import StoreUnavailable
from sinks.stores.influx import Influx
from sinks.stores.influx_lines import MEASUREMENTS
from sinks.stores.influx_setup import TASKS, _explained, create_table, ensure, questdb_rows
from tests.sinks.probe_influx import InfluxProbe
from tests.sinks.rig import reads, trade, until


@pytest.fixture
def without_tables(settings: Settings) -> Iterator[InfluxSettings]:
    """A QuestDB with a table of an older Raven, and without the one of funding; afterwards it has all of them."""
    for table in ("trades", "funding_rate"):
        questdb_rows(settings.influx.url, f"DROP TABLE IF EXISTS {table}")
    old = create_table(MEASUREMENTS[Trade]).replace(" quantity DOUBLE,", "").replace(" trade_id VARCHAR,", "")
    questdb_rows(settings.influx.url, old)
    yield settings.influx
    ensure(settings.influx)


@pytest.mark.stack
def test_a_table_that_is_not_there_is_made_and_a_column_that_an_older_one_lacks_is_added(
    without_tables: InfluxSettings, settings: Settings, symbol: str
) -> None:
    said = ensure(without_tables)
    assert {line for line in said if "funding_rate" in line or " trades" in line} == {
        "QuestDB: table funding_rate created",
        "QuestDB: column quantity added to table trades",
        "QuestDB: column trade_id added to table trades",
    }
    assert ensure(without_tables) == ["QuestDB: all 10 tables are there"]

    store, probe, records = Influx(settings), InfluxProbe(settings), [trade(symbol, 1), trade(symbol, 2)]
    for _ in range(2):
        assert store.write(reads(records)) == ([], [])
    store.close()
    until(lambda: probe.count(symbol) >= 2, "two rows")
    assert probe.kept(symbol) == probe.expected(records)


@pytest.mark.stack
def test_every_table_knows_nanoseconds_and_keys(settings: Settings) -> None:
    ensure(settings.influx)
    rows = questdb_rows(settings.influx.url, "SELECT table_name, dedup, walEnabled FROM tables()")
    found = {name: (dedup, wal) for name, dedup, wal in rows}
    for known in MEASUREMENTS.values():
        assert found[known.name] == (True, True)
        columns = questdb_rows(
            settings.influx.url,
            f"SELECT \"column\", type FROM table_columns('{known.name}') WHERE upsertKey",
        )
        keys = {"timestamp", "exchange", known.symbol, known.tag} - {None}
        assert {name for name, _ in columns} == keys
        assert dict(map(tuple, columns))["timestamp"] == "TIMESTAMP_NS"


@pytest.mark.parametrize("flavour", ["influxdb", "questdb"])
def test_a_server_that_is_not_there_is_told_in_one_line(flavour: Any) -> None:
    with pytest.raises(StoreUnavailable, match=r"at http://127.0.0.1:1 does not answer") as told:
        ensure(InfluxSettings(url="http://127.0.0.1:1", flavour=flavour))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("status", "said", "kind", "expected"),
    [
        (401, "unauthorized access", ConfigError, "does not know the token of influx.token"),
        (404, 'organization name "nobody" not found', ConfigError, "correct influx.org"),
        (401, "write:orgs/da9fc556f1568319/buckets is unauthorized", ConfigError, "lacks a right"),
        (403, "insufficient permissions for write", ConfigError, "lacks a right"),
        (500, "failed to create task: unauthorized", ConfigError, "lacks a right"),
        (500, "an internal error has occurred", StoreUnavailable, "answered 500 an internal error"),
    ],
)
def test_what_influxdb_refuses_is_told_with_what_to_do(
    status: int, said: str, kind: type[Exception], expected: str
) -> None:
    error = ApiException(status=status, reason="Reason")
    error.body = json.dumps({"code": "code", "message": said}).encode()
    told = _explained("http://there", InfluxSettings(), error)
    assert type(told) is kind
    assert expected in str(told)
    assert said in str(told)


def test_tasks_are_named_as_they_name_themselves() -> None:
    for name, template in TASKS.items():
        flux = template.format(bucket='"raven"', minutes='"raven_1m"')
        assert f'option task = {{name: "{name}", every: 1m, offset: 10s}}' in flux
        assert '|> to(bucket: "raven_1m")' in flux
