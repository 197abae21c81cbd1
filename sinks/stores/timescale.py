"""The mart: derived streams, klines and the continuity ledger in schema `mart` of PostgreSQL, as hypertables where
TimescaleDB is.

A row holds every field of its record; venue and symbol as ids of `dim__exchange` and `dim__instrument`, with the ids of
its coins from `raven.instruments`. `dim__interval` holds the profile of a time bar (`1s`, `1m`) and `none` for bars
that trades close. A record of an instrument not known yet is `waiting`, whichever process reads its instrument: the
mart itself is asked.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa

from ravencore.config import Settings
from ravencore.errors import ConfigError
from ravencore.records import RECORD_OF, Instrument, Record
from ravencore.service import codec
from ravencore.topics import INSTRUMENTS
from sinks.contract import (
    CONFLICTING_ROW,
    REFUSED,
    UNKNOWN_INSTRUMENT,
    Bad,
    Batching,
    GroupPosition,
    Outcome,
    Read,
    Refused,
    StoreUnavailable,
    keep_good,
)
from sinks.migrations import facts, migrate
from sinks.reading import Entry, Tables, by_topic, entries
from sinks.stores import timescale_dimensions as dimensions
from sinks.stores import timescale_policies as policies
from sinks.stores.timescale_cells import numbered, text
from sinks.stores.timescale_dimensions import refusing, sentence
from sinks.stores.timescale_facts import (
    FACTS,
    Fact,
    bounds_sql,
    conflicts_sql,
    copy_sql,
    insert_sql,
    replace_sql,
    stage_sql,
)
from sinks.stores.timescale_rows import (
    Dimensions,
    Names,
    Rows,
    Sheet,
    brought,
    divided,
    furthest,
    lacking,
    rows_of,
)

WRITE_LOCK = 0x7261_7665_6E02
"""Advisory lock: writers one after another, so that two of them cannot both find a bar_seq free."""
SESSION = (
    "SET TIME ZONE 'UTC'; SET statement_timeout = '60s'; "
    # However much of a compressed chunk a late row touches, it is written.
    "SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0"
)
CHUNK = 1_000
"""Rows that are sent at once: the server takes them in while the next ones are made."""

ADVICE = {
    "authentication failed": "correct the user and password in RAVEN_MART__DSN",
    "no password supplied": "write the password into RAVEN_MART__DSN",
    "does not exist": "create it, or correct RAVEN_MART__DSN",
    "permission denied": "let its user create and write the schema mart",
    "No space left": "make room on the server's disk",
    "Connection refused": "start it, or name another in RAVEN_MART__DSN",
    "resolve host": "correct the host in RAVEN_MART__DSN",
    "read-only": "name the primary in RAVEN_MART__DSN",
    "timeout": "see what keeps the server from answering",
}
"""What to do, by words that PostgreSQL's or libpq's sentence has."""


class Timescale(GroupPosition):
    """Bars, VPIN, klines, mids, surfaces and the continuity ledger in a star schema.

    At least once, and a second write changes nothing: the key is (instrument, kind, profile, bar_seq) of bars and
    buckets, (instrument, interval, open_time) of klines, (pair, time) of mids, (venue, underlying, price currency,
    expiry, time) of surfaces. A row that differs from the one kept under its key is refused (conflicting_row). Of Gaps
    the key is gap_id, and the newest entry stands. A batch is one transaction, durable when `write` returns.
    """

    name = "timescale"
    needed = True
    topics: Mapping[str, type[Record]] = {topic: RECORD_OF[topic] for topic in (INSTRUMENTS, *FACTS)}
    batching = Batching()

    def __init__(self, settings: Settings) -> None:
        self._settings, self._codec = settings, codec(settings)
        self._tables = Tables(self._codec)
        self.wait_s = settings.mart.instrument_wait_s
        self._connection: psycopg.Connection | None = None
        self._known = Dimensions({}, {}, {}, {}, {})
        self._facts: list[str] = []

    def setup(self) -> None:
        """Connect and bring the schema up to date. Raises StoreUnavailable, ConfigError."""
        with _translated():
            self._facts = facts(self._connected())

    def facts(self) -> list[str]:
        """Its server, the schema's version, and what there being TimescaleDB or not means."""
        return self._facts

    def write(self, batch: Sequence[Read]) -> Outcome:
        """Learn the batch's instruments, then keep its facts in one transaction. Raises Unavailable."""
        try:
            with _translated():
                return self._write(self._connected(), batch)
        except StoreUnavailable:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._connection:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
        self._connection = None

    def _connected(self) -> psycopg.Connection:
        if self._connection is None:
            connection = _connect(self._settings.mart.dsn.get_secret_value())
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: psycopg.Connection) -> None:
        connection.execute(SESSION)
        migrate(connection)
        policies.apply(connection, self._settings.mart)
        dimensions.seed(connection, self._settings)
        for fact in set(FACTS.values()):
            connection.execute(
                f"CREATE TEMP TABLE staging__{fact.name} (number integer, LIKE mart.{fact.name}) "
                "ON COMMIT DELETE ROWS".encode()
            )
        self._known = dimensions.load(connection)

    def _write(self, connection: psycopg.Connection, batch: Sequence[Read]) -> Outcome:
        found = by_topic(batch)
        refused = self._learn(connection, found.pop(INSTRUMENTS, []))
        sheets: list[Sheet] = []
        for topic, reads in found.items():
            made, unreadable = self._tables.made(self.topics[topic], reads, partial(Sheet, topic, self.topics[topic]))
            sheets += made
            refused += unreadable
        sheets, waiting = self._known_of(connection, sheets)
        sheets, nameless = self._named(connection, sheets)
        return Outcome(refused + nameless + self._keep_all(connection, sheets), waiting)

    def _known_of(self, connection: psycopg.Connection, sheets: Sequence[Sheet]) -> tuple[list[Sheet], list[Bad]]:
        """Records of instruments, pairs and underlyings that the mart knows; and those that wait for theirs."""
        missing = [lacking(sheet, self._known) for sheet in sheets]
        if any(missing):
            self._known = dimensions.load(connection)  # another process may have learned them
            missing = [lacking(sheet, self._known) for sheet in sheets]
        detail = "raven.instruments has said nothing of "
        waiting = [
            Bad(sheet.reads[row], UNKNOWN_INSTRUMENT, detail + what)
            for sheet, found in zip(sheets, missing, strict=True)
            for row, what in found.items()
        ]
        return [sheet.without(found.keys()) for sheet, found in zip(sheets, missing, strict=True)], waiting

    def _keep_all(self, connection: psycopg.Connection, sheets: Sequence[Sheet]) -> list[Bad]:
        bad: list[Bad] = []
        if sheets:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", [WRITE_LOCK])
                for sheet in sheets:
                    found = _keep(connection, rows_of(sheet, self._known))
                    bad += [Bad(sheet.reads[number], *why) for number, why in found.items()]
        return bad

    def _learn(self, connection: psycopg.Connection, reads: Sequence[Read]) -> list[Bad]:
        """Have these instruments; those that contradict the mart are refused, for a symbol's coins never change."""
        if not reads:
            return []
        found, unreadable = entries(self._codec, self.topics, reads)
        ordered = sorted(found, key=lambda entry: _instrument(entry).received_time)
        newest = list({_names(entry): entry for entry in ordered}.values())
        bad = keep_good(newest, lambda some: dimensions.learn(connection, [_instrument(entry) for entry in some]))
        dimensions.settle(connection)
        self._known = dimensions.load(connection)
        refused = unreadable + [Bad(entry.read, REFUSED, answer) for entry, answer in bad]
        for entry in found:
            record, known = _instrument(entry), self._known.instruments.get(_names(entry))
            if known and (known.base, known.quote) != (record.base, record.quote):
                detail = (
                    f"the mart knows {record.symbol} as {known.base}/{known.quote}, not {record.base}/{record.quote}"
                )
                refused.append(Bad(entry.read, CONFLICTING_ROW, detail))
        return refused

    def _named(self, connection: psycopg.Connection, sheets: Sequence[Sheet]) -> tuple[list[Sheet], list[Bad]]:
        """Have the names that records bring to a dimension; records of a name that it refuses are refused."""
        bad: list[Bad] = []
        left: list[Sheet] = []
        for sheet in sheets:
            found = brought(sheet)
            refused = found.rows(self._learn_names(connection, found.dimension, found.names)) if found else {}
            bad += [Bad(sheet.reads[row], REFUSED, answer) for row, answer in refused.items()]
            left.append(sheet.without(refused.keys()))
        return [sheet for sheet in left if sheet.reads], bad

    def _learn_names(self, connection: psycopg.Connection, dimension: str, names: Sequence[str]) -> dict[str, str]:
        """Have these names in a dimension; the answers to those that it refuses."""
        there = self._known.intervals if dimension == "interval" else self._known.exchanges
        new = sorted(set(names) - there.keys())
        if not new:
            return {}
        bad = dict(keep_good(new, lambda some: dimensions.add(connection, dimension, some)))
        self._known = dimensions.load(connection)
        return bad


def _keep(connection: psycopg.Connection, rows: Rows) -> dict[int, tuple[str, str]]:
    """Keep the rows of one table: those that are new for certain as they are, the others where they are new.

    Reason and detail of those that cannot be, by the number of their read.
    """
    if rows.fact.newest_wins:
        return _staged(connection, rows)
    new, others = divided(rows, _last(connection, rows))
    if len(new) and not _copied(connection, rows.some(new)):
        others = np.arange(rows.size)
    bad = _staged(connection, rows.some(others)) if len(others) else {}
    _advance(connection, rows.fact, furthest(rows, bad))
    return bad


def _copied(connection: psycopg.Connection, rows: Rows) -> bool:
    """Write rows that the mart has not; False where it refuses one of them, and then none is written."""
    try:
        with refusing(), connection.transaction(), connection.cursor().copy(copy_sql(rows.fact).encode()) as copy:
            for lines in rows.lines(CHUNK):
                copy.write(text(lines))
    except Refused:
        return False
    return True


def _staged(connection: psycopg.Connection, rows: Rows) -> dict[int, tuple[str, str]]:
    """Write rows that the mart may have; those it refuses, or has with other values."""
    fact = rows.fact
    lines = pa.chunked_array(rows.lines(CHUNK)).combine_chunks()
    staged = numbered(rows.reads, lines)
    conflicts: list[tuple[int, list[str]]] = []

    def attempt(some: Sequence[int]) -> None:
        with refusing(), connection.transaction(), connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM staging__{fact.name}".encode())
            with cursor.copy(stage_sql(fact).encode()) as copy:
                copy.write(text(staged.take(pa.array(some))))
            cursor.execute(f"ANALYZE staging__{fact.name}".encode())
            if fact.newest_wins:
                cursor.execute(replace_sql(fact).encode())
            else:
                low, high, ids = cursor.execute(bounds_sql(fact).encode()).fetchone() or (None, None, None)
                bounds = {"low": low, "high": high, "ids": ids}
                cursor.execute(insert_sql(fact).encode(), bounds)
                conflicts.extend(cursor.execute(conflicts_sql(fact).encode(), bounds).fetchall())

    refused = keep_good(range(rows.size), attempt)
    differing = "the mart keeps this row with other values in "
    bad = {number: (CONFLICTING_ROW, differing + ", ".join(names)) for number, names in conflicts}
    return bad | {int(rows.reads[row]): (REFUSED, answer) for row, answer in refused}


def _last(connection: psycopg.Connection, rows: Rows) -> dict[str, int]:
    """How far the rows' series have come."""
    names = [one.name for one in rows.series]
    sql = "SELECT series, last FROM mart.series WHERE fact = %s AND series = ANY(%s)"
    return dict(connection.execute(sql, [rows.fact.name, names]).fetchall())


def _advance(connection: psycopg.Connection, fact: Fact, reached: Mapping[str, int]) -> None:
    connection.execute(
        "INSERT INTO mart.series AS kept (fact, series, last) "
        "SELECT %s, * FROM unnest(%s::text[], %s::bigint[]) ON CONFLICT (fact, series) "
        "DO UPDATE SET last = excluded.last WHERE kept.last < excluded.last",
        [fact.name, list(reached), list(reached.values())],
    )


def _connect(dsn: str) -> psycopg.Connection:
    # A server that vanished without a word is noticed after ten seconds, not after the system's two hours.
    settings: dict[str, Any] = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "keepalives_idle": 5}
    # A prepared statement keeps the plan that was good when the mart was empty.
    settings["prepare_threshold"] = None
    return psycopg.connect(dsn, autocommit=True, application_name="raven-sink-timescale", **settings)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """StoreUnavailable for every other error of the database: a restart, a full disk, a missing right."""
    try:
        yield
    except psycopg.ProgrammingError as error:
        if error.sqlstate is None:
            raise ConfigError(f"RAVEN_MART__DSN is no connection string: {sentence(error)}") from None
        raise StoreUnavailable(f"the mart cannot be used: {sentence(error)}") from None
    except psycopg.Error as error:
        said = sentence(error)
        advice = next((advice for words, advice in ADVICE.items() if words in said), "see what RAVEN_MART__DSN names")
        raise StoreUnavailable(f"the mart cannot be written to: {said}: {advice}") from None


def _names(entry: Entry) -> Names:
    record = _instrument(entry)
    return record.venue, record.symbol


def _instrument(entry: Entry) -> Instrument:
    assert isinstance(entry.record, Instrument)
    return entry.record
