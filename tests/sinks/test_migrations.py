"""Migrations: in order, once, and by several processes at once."""

import logging
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from pydantic import SecretStr

from ravencore.config import Settings
from sinks.migrations import _lacking, migrate, migrations
from sinks.stores.timescale import Timescale
from tests.sinks.probe_timescale import TimescaleProbe
from tests.sinks.rig import reads

PLAIN = [step.name for step in migrations() if not step.requires]


def test_files_are_numbered_from_one_without_holes() -> None:
    assert [step.version for step in migrations()] == list(range(1, len(migrations()) + 1))


@pytest.mark.stack
def test_each_is_applied_once_and_plain_postgres_is_said_to_be_plain(
    empty: str, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(empty, autocommit=True) as connection, caplog.at_level(logging.INFO):
        if connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'").fetchone():
            pytest.skip("this server has TimescaleDB")
        assert migrate(connection) == PLAIN
        assert [line for line in caplog.messages if "no TimescaleDB" in line]
        assert migrate(connection) == []
        applied = connection.execute("SELECT name FROM mart.migration ORDER BY version").fetchall()
        assert [name for (name,) in applied] == PLAIN


@pytest.mark.stack
def test_four_processes_at_once_apply_each_once(empty: str) -> None:
    def one() -> list[str]:
        with psycopg.connect(empty, autocommit=True) as connection:
            return migrate(connection)

    with ThreadPoolExecutor(4) as threads:
        done = [future.result() for future in [threads.submit(one) for _ in range(4)]]
    assert sorted(name for names in done for name in names) == _possible(empty)


def _possible(dsn: str) -> list[str]:
    """What this server can take."""
    with psycopg.connect(dsn) as connection:
        return [step.name for step in migrations()] if _lacking(connection) is None else PLAIN


@pytest.mark.stack
def test_a_database_that_has_data_and_gets_timescaledb_later_takes_the_rest_then(
    empty: str, settings: Settings, symbol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = settings.model_copy(update={"mart": settings.mart.model_copy(update={"dsn": SecretStr(empty)})})
    probe = TimescaleProbe(mine)
    records = probe.records(symbol, 300)
    with monkeypatch.context() as patched:
        patched.setattr("sinks.migrations._lacking", lambda _: "this PostgreSQL has no TimescaleDB")
        store = Timescale(mine)
        assert store.write(reads(records[:200])) == ([], [])
        store.close()
    store = Timescale(mine)
    assert store.write(reads(records)) == ([], [])
    store.close()
    assert probe.kept(symbol) == probe.expected(records)
    with psycopg.connect(empty) as connection:
        applied = connection.execute("SELECT name FROM mart.migration ORDER BY version").fetchall()
    assert [name for (name,) in applied] == _possible(empty)
