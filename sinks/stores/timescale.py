"""The mart: bars and VPIN in schema `mart` of PostgreSQL, as hypertables where TimescaleDB is.

A row holds every field of its record; venue and symbol as ids of `dim__exchange` and `dim__instrument`, with the ids of
its coins from `raven.instruments`. `dim__interval` holds the profile of a time bar (`1s`, `1m`) and `none` for bars
that trades close. A record of an instrument not known yet is `waiting`, whichever process reads its instrument: the
mart itself is asked.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg

from ravencore.codec import iso_time
from ravencore.config import Settings
from ravencore.decimals import to_text
from ravencore.errors import ConfigError
from ravencore.records import Bar, Instrument, Record, Vpin
from ravencore.topics import BARS, INSTRUMENTS, VPIN
from sinks.contract import (
    CONFLICTING_ROW,
    REFUSED,
    UNKNOWN_INSTRUMENT,
    Entry,
    Outcome,
    Refused,
    Rejection,
    StoreUnavailable,
    keep_good,
)
from sinks.migrations import migrate

WRITE_LOCK = 0x7261_7665_6E02
"""Advisory lock: writers one after another, so that two of them cannot both find a bar_seq free."""
SESSION = "SET TIME ZONE 'UTC'; SET statement_timeout = '60s'"
NO_INTERVAL = "none"

IDENTITY = ("instrument_id", "kind", "profile", "bar_seq")
"""What a row is identified by: an instrument has its coins for good. These lead the primary key, which adds the other
ids and, as a hypertable demands, open_time."""
OTHER_IDS = ("coin_id", "quote_id", "exchange_id", "interval_id")
BAR_VALUES = tuple(
    name for name in Bar.__struct_fields__ if name not in {"venue", "symbol", "kind", "profile", "bar_seq"}
)
VPIN_VALUES = tuple(name for name in Vpin.__struct_fields__ if name not in {"venue", "symbol", "profile", "bar_seq"})
DECIMALS = {"open", "high", "low", "close", "volume", "quote_volume", "buy_volume"}
TIMES = {"open_time", "close_time"}
ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

Names = tuple[str, str]


class Ids(NamedTuple):
    """Keys of an instrument in the dimensions."""

    instrument_id: int
    coin_id: int
    quote_id: int
    exchange_id: int


class Known(NamedTuple):
    """An instrument of the mart."""

    ids: Ids
    base: str
    quote: str


class Fact(NamedTuple):
    """A table of facts and the columns that are no part of a row's identity."""

    name: str
    values: tuple[str, ...]

    @property
    def columns(self) -> str:
        """All columns, in the order of a COPY line after its number."""
        return ", ".join((*IDENTITY, *OTHER_IDS, *self.values))


TIME_BAR = Fact("fact__time_bar", BAR_VALUES)
TICK_IMBALANCE = Fact("fact__tick_imbalance", BAR_VALUES)
VOLUME_IMBALANCE = Fact("fact__volume_imbalance", BAR_VALUES)
FACTS = {
    BARS["time"]: TIME_BAR,
    BARS["tib"]: TICK_IMBALANCE,
    BARS["trb"]: TICK_IMBALANCE,
    BARS["vib"]: VOLUME_IMBALANCE,
    BARS["dib"]: VOLUME_IMBALANCE,
    VPIN: Fact("fact__vpin", VPIN_VALUES),
}
"""By topic; the other kinds of bars have no table."""


# Encoding: pure.


def interval_of(record: Bar | Vpin) -> str:
    """Name in `dim__interval`: a time bar's profile, else `none`."""
    return record.profile if isinstance(record, Bar) and record.kind == "time" else NO_INTERVAL


def encode(number: int, record: Bar | Vpin, ids: Ids, interval_id: int) -> str:
    """A line of COPY's text format: number, identity, other ids, values.

    https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
    """
    kind = record.kind if isinstance(record, Bar) else "vpin"
    writers = BAR_WRITERS if isinstance(record, Bar) else VPIN_WRITERS
    cells = [write(getattr(record, name)) for name, write in writers]
    names = f"{kind.translate(ESCAPES)}\t{record.profile.translate(ESCAPES)}"
    identity = f"{number}\t{ids.instrument_id}\t{names}\t{record.bar_seq}"
    others = f"{ids.coin_id}\t{ids.quote_id}\t{ids.exchange_id}\t{interval_id}"
    return "\t".join((identity, others, *cells)) + "\n"


def cell(value: Any) -> str:
    """One value of COPY's text format that is neither a decimal nor a time."""
    if value is None:
        return "\\N"
    return value.translate(ESCAPES) if isinstance(value, str) else repr(value)


def _writers(names: Sequence[str]) -> tuple[tuple[str, Callable[[Any], str]], ...]:
    return tuple((name, to_text if name in DECIMALS else iso_time if name in TIMES else cell) for name in names)


BAR_WRITERS, VPIN_WRITERS = _writers(BAR_VALUES), _writers(VPIN_VALUES)


def insert_sql(fact: Fact) -> str:
    """Keep the first row of each identity in the staging table, where the mart has none."""
    same = " AND ".join(f"kept.{name} = new.{name}" for name in IDENTITY)
    identity = ", ".join(IDENTITY)
    return (
        f"INSERT INTO mart.{fact.name} ({fact.columns}) "
        f"SELECT DISTINCT ON ({identity}) {fact.columns} FROM staging__{fact.name} new "
        f"WHERE NOT EXISTS (SELECT FROM mart.{fact.name} kept WHERE {same}) "
        f"ORDER BY {identity}, number ON CONFLICT DO NOTHING"
    )


def conflicts_sql(fact: Fact) -> str:
    """Number of each staged row that differs from the mart's row of its identity, and the columns it differs in."""
    new, kept = (", ".join(f"{table}.{name}" for name in fact.values) for table in ("new", "kept"))
    differing = ", ".join(
        f"CASE WHEN new.{name} IS DISTINCT FROM kept.{name} THEN '{name}' END" for name in fact.values
    )
    return (
        f"SELECT number, array_remove(ARRAY[{differing}], NULL) FROM staging__{fact.name} new "
        f"JOIN mart.{fact.name} kept USING ({', '.join(IDENTITY)}) "
        f"WHERE ({new}) IS DISTINCT FROM ({kept}) ORDER BY number"
    )


# The client.


class Timescale:
    """Bars and VPIN in a star schema.

    At least once, and a second write changes nothing: the key is (instrument, kind, profile, bar_seq). A row that
    differs from the one kept under its key is refused (conflicting_row). A batch is one transaction, durable when
    `write` returns.
    """

    name = "timescale"
    topics: Mapping[str, type[Record]] = {
        INSTRUMENTS: Instrument,
        **{topic: Vpin if topic == VPIN else Bar for topic in FACTS},
    }

    def __init__(self, settings: Settings) -> None:
        self._dsn = settings.mart.dsn.get_secret_value()
        self.wait_s = settings.mart.instrument_wait_s
        self._connection: psycopg.Connection | None = None
        self._instruments: dict[Names, Known] = {}
        self._intervals: dict[str, int] = {}

    def setup(self) -> None:
        """Connect and bring the schema up to date. Raises StoreUnavailable, ConfigError."""
        with _translated():
            self._connected()

    def write(self, batch: Sequence[Entry]) -> Outcome:
        """Learn the batch's instruments, then keep its bars in one transaction. Raises StoreUnavailable."""
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
            connection = _connect(self._dsn)
            migrate(connection)
            for fact in set(FACTS.values()):
                connection.execute(
                    f"CREATE TEMP TABLE staging__{fact.name} (number integer, LIKE mart.{fact.name}) "
                    "ON COMMIT DELETE ROWS".encode()
                )
            self._intervals, self._instruments = _intervals(connection), _instruments(connection)
            self._connection = connection
        return self._connection

    def _write(self, connection: psycopg.Connection, batch: Sequence[Entry]) -> Outcome:
        refused = self._learn(connection, [entry for entry in batch if entry.topic == INSTRUMENTS])
        facts = [entry for entry in batch if entry.topic != INSTRUMENTS]
        if not all(_names(entry) in self._instruments for entry in facts):
            self._instruments = _instruments(connection)  # another process may have learned them
        waiting = [_unknown(entry) for entry in facts if _names(entry) not in self._instruments]
        known = [entry for entry in facts if _names(entry) in self._instruments]
        refused += self._learn_intervals(connection, known)
        by_topic = defaultdict(list)
        for entry in known:
            if interval_of(_fact(entry)) in self._intervals:
                by_topic[entry.topic].append(entry)
        if by_topic:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", [WRITE_LOCK])
                for topic, entries in by_topic.items():
                    refused += self._keep(connection, FACTS[topic], entries)
        return Outcome(refused, waiting)

    def _learn(self, connection: psycopg.Connection, entries: Sequence[Entry]) -> list[Rejection]:
        """Add instruments the mart has not; those that contradict it are refused, for a symbol's coins never change."""
        new = [entry for entry in entries if _names(entry) not in self._instruments]
        bad = keep_good(new, lambda some: _add_instruments(connection, [_instrument(entry) for entry in some]))
        if new:
            self._instruments = _instruments(connection)
        refused = [Rejection(entry, REFUSED, answer) for entry, answer in bad]
        for entry in entries:
            record, known = _instrument(entry), self._instruments.get(_names(entry))
            if known and (known.base, known.quote) != (record.base, record.quote):
                detail = (
                    f"the mart knows {record.symbol} as {known.base}/{known.quote}, not {record.base}/{record.quote}"
                )
                refused.append(Rejection(entry, CONFLICTING_ROW, detail))
        return refused

    def _learn_intervals(self, connection: psycopg.Connection, entries: Sequence[Entry]) -> list[Rejection]:
        """Add intervals the mart has not; entries of an interval it refuses are refused."""
        names = sorted({interval_of(_fact(entry)) for entry in entries} - self._intervals.keys())
        if not names:
            return []
        bad = dict(keep_good(names, lambda some: _add(connection, "dim__interval", some)))
        self._intervals = _intervals(connection)
        refused = [(entry, bad.get(interval_of(_fact(entry)))) for entry in entries]
        return [Rejection(entry, REFUSED, answer) for entry, answer in refused if answer]

    def _keep(self, connection: psycopg.Connection, fact: Fact, entries: Sequence[Entry]) -> list[Rejection]:
        """Insert entries of one table; what is refused and what conflicts is returned, the rest is kept."""
        conflicts: list[tuple[int, list[str]]] = []
        lines = []
        for number, entry in enumerate(entries):
            record, ids = _fact(entry), self._instruments[_names(entry)].ids
            lines.append(encode(number, record, ids, self._intervals[interval_of(record)]))

        def attempt(some: Sequence[tuple[Entry, str]]) -> None:
            conflicts.extend(_insert(connection, fact, "".join(line for _, line in some)))

        bad = keep_good(list(zip(entries, lines, strict=True)), attempt)
        refused = [Rejection(entry, REFUSED, answer) for (entry, _), answer in bad]
        return refused + [_conflict(entries[number], columns) for number, columns in conflicts]


def _insert(connection: psycopg.Connection, fact: Fact, lines: str) -> list[tuple[int, list[str]]]:
    """Numbers of the lines that conflict with what is kept, and in which columns; raises Refused."""
    with _refusing(), connection.transaction(), connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM staging__{fact.name}".encode())
        with cursor.copy(f"COPY staging__{fact.name} (number, {fact.columns}) FROM STDIN".encode()) as copy:
            copy.write(lines)
        cursor.execute(insert_sql(fact).encode())
        return cursor.execute(conflicts_sql(fact).encode()).fetchall()


def _add_instruments(connection: psycopg.Connection, instruments: Sequence[Instrument]) -> None:
    with _refusing(), connection.transaction():
        _add(connection, "dim__exchange", sorted({one.venue for one in instruments}))
        _add(connection, "dim__coin", sorted({one.base for one in instruments}))
        _add(connection, "dim__quote", sorted({one.quote for one in instruments}))
        connection.execute(
            "INSERT INTO mart.dim__instrument (exchange_id, symbol, coin_id, quote_id) "
            "SELECT exchange_id, symbol, coin_id, quote_id "
            "FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS new (venue, symbol, base, quote) "
            "JOIN mart.dim__exchange exchange ON exchange.name = venue "
            "JOIN mart.dim__coin coin ON coin.name = base "
            "JOIN mart.dim__quote quote ON quote.name = new.quote "
            "ON CONFLICT (exchange_id, symbol) DO NOTHING",
            [[getattr(one, name) for one in instruments] for name in ("venue", "symbol", "base", "quote")],
        )


def _add(connection: psycopg.Connection, dimension: str, names: Sequence[str]) -> None:
    # Without the first condition each call would use up ids for names that are there.
    with _refusing(), connection.transaction():
        connection.execute(
            f"INSERT INTO mart.{dimension} (name) SELECT name FROM unnest(%s::text[]) AS new (name) "
            f"WHERE NOT EXISTS (SELECT FROM mart.{dimension} kept WHERE kept.name = new.name) "
            "ON CONFLICT (name) DO NOTHING".encode(),
            [list(names)],
        )


def _intervals(connection: psycopg.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT name, interval_id FROM mart.dim__interval").fetchall())


def _instruments(connection: psycopg.Connection) -> dict[Names, Known]:
    rows = connection.execute(
        "SELECT exchange.name, symbol, instrument_id, coin_id, quote_id, exchange_id, coin.name, quote.name "
        "FROM mart.dim__instrument JOIN mart.dim__exchange exchange USING (exchange_id) "
        "JOIN mart.dim__coin coin USING (coin_id) JOIN mart.dim__quote quote USING (quote_id)"
    )
    return {(venue, symbol): Known(Ids(*ids), base, quote) for venue, symbol, *ids, base, quote in rows}


def _connect(dsn: str) -> psycopg.Connection:
    # A server that vanished without a word is noticed after ten seconds, not after the system's two hours.
    settings: dict[str, Any] = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "keepalives_idle": 5}
    # A prepared statement keeps the plan that was good when the mart was empty.
    settings["prepare_threshold"] = None
    connection = psycopg.connect(dsn, autocommit=True, application_name="raven-sink-timescale", **settings)
    connection.execute(SESSION)
    return connection


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Refused for what the database says of the rows: SQLSTATE classes 22 and 23."""
    try:
        yield
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise Refused(_sentence(error)) from None


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """StoreUnavailable for every other error of the database: a restart, a full disk, a missing right."""
    try:
        yield
    except psycopg.ProgrammingError as error:
        if error.sqlstate is None:
            raise ConfigError(f"RAVEN_MART__DSN is no connection string: {_sentence(error)}") from None
        raise StoreUnavailable(f"the mart cannot be used: {_sentence(error)}") from None
    except psycopg.Error as error:
        raise StoreUnavailable(f"the mart does not answer: {_sentence(error)}") from None


def _sentence(error: psycopg.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _names(entry: Entry) -> Names:
    record = entry.record
    assert isinstance(record, Bar | Vpin | Instrument)
    return record.venue, record.symbol


def _fact(entry: Entry) -> Bar | Vpin:
    assert isinstance(entry.record, Bar | Vpin)
    return entry.record


def _instrument(entry: Entry) -> Instrument:
    assert isinstance(entry.record, Instrument)
    return entry.record


def _unknown(entry: Entry) -> Rejection:
    venue, symbol = _names(entry)
    return Rejection(entry, UNKNOWN_INSTRUMENT, f"raven.instruments has said nothing of {venue}:{symbol}")


def _conflict(entry: Entry, columns: Sequence[str]) -> Rejection:
    record = _fact(entry)
    detail = f"the mart keeps bar_seq {record.bar_seq} of {record.profile} with other values in {', '.join(columns)}"
    return Rejection(entry, CONFLICTING_ROW, detail)
