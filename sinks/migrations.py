"""Brings schema `mart` to its newest version: the numbered files in migrations/, each once and in order."""

import logging
from importlib.resources import files
from typing import NamedTuple

import psycopg

LOCK = 0x7261_7665_6E01
"""Advisory lock ("raven" and a number): of several processes that start at once, one migrates and the others wait."""
_REQUIRES = "-- requires: "
COMMUNITY = "timescaledb community"
NO_COMMUNITY = "this TimescaleDB is not the community edition (timescaledb.license)"

log = logging.getLogger(__name__)


class Migration(NamedTuple):
    """A numbered file; `requires` is what a database must have to take it: `timescaledb`, its `community` edition."""

    version: int
    name: str
    sql: str
    requires: str


def migrations() -> list[Migration]:
    """All of them, oldest first."""
    texts = {file.name: file.read_text() for file in files("sinks").joinpath("migrations").iterdir()}
    names = sorted(name for name in texts if name.endswith(".sql"))
    return [Migration(int(name[:4]), name, texts[name], _requires(texts[name])) for name in names]


def _requires(sql: str) -> str:
    return sql.partition("\n")[0].removeprefix(_REQUIRES) if sql.startswith(_REQUIRES) else ""


def migrate(connection: psycopg.Connection) -> list[str]:
    """Apply what is missing, in one transaction, and return the names; safe to repeat. Raises psycopg.Error."""
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")  # rows that are there move into chunks
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
    lacking = _lacking(connection) if step.requires else None
    if lacking and (step.requires == COMMUNITY or lacking != NO_COMMUNITY):
        log.info("%s: the mart's facts are plain, %s waits for it", lacking, step.name)
        return False
    try:
        with connection.transaction():
            connection.execute(step.sql.encode())
            connection.execute("INSERT INTO mart.migration (version, name) VALUES (%s, %s)", [step.version, step.name])
    except psycopg.errors.InsufficientPrivilege as error:
        if not step.requires:
            raise
        log.warning("TimescaleDB is there but may not be used (%s): the mart's facts are plain tables", error)
        return False
    log.info("the mart took %s", step.name)
    return True


def _lacking(connection: psycopg.Connection) -> str | None:
    """What this database lacks to be a TimescaleDB of the community edition, in words."""
    found = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'").fetchone()
    if found is None:
        return "this PostgreSQL has no TimescaleDB"
    # Settings of an extension are there once its library is loaded.
    row = connection.execute(
        "SELECT current_setting('timescaledb.max_background_workers', true), "
        "current_setting('timescaledb.license', true)"
    ).fetchone()
    loaded, licence = row or (None, None)
    if loaded is None:
        return "TimescaleDB is installed but not in shared_preload_libraries (timescaledb-tune sets it)"
    return NO_COMMUNITY if licence == "apache" else None


def facts(connection: psycopg.Connection) -> list[str]:
    """The server, the schema's version, and whether TimescaleDB is used: a line each. Raises psycopg.Error."""
    (name,) = connection.execute("SELECT max(name) FROM mart.migration").fetchone() or (None,)
    extension = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
    server = connection.info.server_version // 10_000
    return [
        f"PostgreSQL {server} at {connection.info.host}:{connection.info.port}, schema mart at {name}",
        f"TimescaleDB {extension[0]}: facts are hypertables"
        if extension
        else "no TimescaleDB: facts are plain tables of the same names; to have hypertables, install the extension "
        "(https://docs.timescale.com/self-hosted/latest/install/) and run `ravenctl setup` again",
    ]
