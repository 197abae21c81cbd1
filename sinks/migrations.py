"""Brings schema `mart` to its newest version: the numbered files in migrations/, each once and in order."""

import logging
from importlib.resources import files
from typing import NamedTuple

import psycopg

LOCK = 0x7261_7665_6E01
"""Advisory lock ("raven" and a number): of several processes that start at once, one migrates and the others wait."""
_REQUIRES = "-- requires: timescaledb"

log = logging.getLogger(__name__)


class Migration(NamedTuple):
    """A numbered file; `hypertables` when only a database with TimescaleDB can take it."""

    version: int
    name: str
    sql: str
    hypertables: bool


def migrations() -> list[Migration]:
    """All of them, oldest first."""
    texts = {file.name: file.read_text() for file in files("sinks").joinpath("migrations").iterdir()}
    names = sorted(name for name in texts if name.endswith(".sql"))
    return [Migration(int(name[:4]), name, texts[name], texts[name].startswith(_REQUIRES)) for name in names]


def migrate(connection: psycopg.Connection) -> list[str]:
    """Apply what is missing, in one transaction, and return the names; safe to repeat. Raises psycopg.Error."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        connection.execute("CREATE SCHEMA IF NOT EXISTS mart")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS mart.migration "
            "(version integer PRIMARY KEY, name text NOT NULL, applied_time timestamptz NOT NULL DEFAULT now())"
        )
        applied = {row[0] for row in connection.execute("SELECT version FROM mart.migration")}
        missing = [step for step in migrations() if step.version not in applied]
        return [step.name for step in missing if _apply(connection, step)]


def _apply(connection: psycopg.Connection, step: Migration) -> bool:
    if step.hypertables and not _timescaledb(connection):
        log.info("this PostgreSQL has no TimescaleDB: the mart's facts are plain tables, %s waits for it", step.name)
        return False
    try:
        with connection.transaction():
            connection.execute(step.sql.encode())
            connection.execute("INSERT INTO mart.migration (version, name) VALUES (%s, %s)", [step.version, step.name])
    except psycopg.errors.InsufficientPrivilege as error:
        if not step.hypertables:
            raise
        log.warning("TimescaleDB is there but may not be used (%s): the mart's facts are plain tables", error)
        return False
    log.info("the mart took %s", step.name)
    return True


def _timescaledb(connection: psycopg.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'").fetchone()
    return found is not None
