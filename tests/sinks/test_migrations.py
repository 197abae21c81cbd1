"""Migrations: in order, once, and by several processes at once."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psycopg
import pytest

from sinks.migrations import migrate, migrations
from tests.sinks.rig import Stack

PLAIN = [step.name for step in migrations() if not step.hypertables]


@pytest.fixture
def empty(stack: Stack, symbol: str) -> Iterator[str]:
    """A database of its own."""
    name = f"migrations_{symbol.lower()}"
    with psycopg.connect(stack.postgres_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield urlsplit(stack.postgres_dsn)._replace(path=f"/{name}").geturl()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


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
    assert sorted(name for names in done for name in names) == PLAIN
