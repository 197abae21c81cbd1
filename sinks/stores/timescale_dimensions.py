"""The mart's dimensions: what they hold, what configuration and `raven.instruments` add, what is listed no more.

Nothing is ever removed: what is gone has `is_deleted` and `deleted_date`, and loses both when it returns. An
instrument is gone when its venue says so or its expiry is over; a coin, quote or exchange when all of its instruments
are. Each change is a line of the log.
"""

import contextlib
import logging
from collections.abc import Collection, Iterator, Sequence

import psycopg

from ravencore.codec import iso_time
from ravencore.config import Settings
from ravencore.records import Instrument
from sinks.contract import Refused
from sinks.stores.timescale_rows import NO_INTERVAL, Dimensions, Ids, Known

ADDED, REACTIVATED, SOFT_DELETED = "DIMENSION_ADDED", "DIMENSION_REACTIVATED", "DIMENSION_SOFT_DELETED"
KLINE_INTERVAL = "1m"
ENDED = (
    *("close", "closed", "delisted", "delivered", "expired", "settled"),
    *("archivized", "deactivated", "inactive", "terminated"),
)
"""Venues' words for an instrument that will not be traded again, in lower case. Binance spot's BREAK is a pause."""

log = logging.getLogger(__name__)


def load(connection: psycopg.Connection) -> Dimensions:
    """What the mart has."""
    rows = connection.execute(
        "SELECT exchange.name, symbol, instrument_id, coin_id, quote_id, exchange_id, coin.name, quote.name "
        "FROM mart.dim__instrument JOIN mart.dim__exchange exchange USING (exchange_id) "
        "JOIN mart.dim__coin coin USING (coin_id) JOIN mart.dim__quote quote USING (quote_id)"
    )
    instruments = {(venue, symbol): Known(Ids(*ids), base, quote) for venue, symbol, *ids, base, quote in rows}
    coins, quotes, exchanges, intervals = (_ids(connection, one) for one in ("coin", "quote", "exchange", "interval"))
    return Dimensions(coins, quotes, exchanges, intervals, instruments)


def _ids(connection: psycopg.Connection, name: str) -> dict[str, int]:
    return dict(connection.execute(f"SELECT name, {name}_id FROM mart.dim__{name}".encode()).fetchall())


def seed(connection: psycopg.Connection, settings: Settings) -> None:
    """Have the venues and intervals of the configuration; an interval that is no longer in it is gone."""
    intervals = sorted({NO_INTERVAL, KLINE_INTERVAL, *settings.bars.time_intervals})
    add(connection, "exchange", sorted(type(settings.venues).model_fields))
    add(connection, "interval", intervals)
    _tell(
        "interval",
        connection.execute(
            "UPDATE mart.dim__interval SET is_deleted = NOT is_deleted, "
            "deleted_date = CASE WHEN NOT is_deleted THEN now() END "
            "WHERE is_deleted = (name = ANY(%s)) RETURNING name, is_deleted",
            [intervals],
        ).fetchall(),
    )
    settle(connection)


def add(connection: psycopg.Connection, dimension: str, names: Sequence[str]) -> None:
    """Have these names in a dimension; raises Refused."""
    with refusing(), connection.transaction():
        added = _add(connection, dimension, names)
    _tell_added(dimension, added)


def learn(connection: psycopg.Connection, instruments: Collection[Instrument]) -> None:
    """Have these instruments, one for each symbol, as they are now unless newer ones are known; raises Refused."""
    added: dict[str, list[str]] = {}
    with refusing(), connection.transaction():
        added["exchange"] = _add(connection, "exchange", sorted({one.venue for one in instruments}))
        added["coin"] = _add(connection, "coin", sorted({one.base for one in instruments}))
        added["quote"] = _add(connection, "quote", sorted({one.quote for one in instruments}))
        columns = [[getattr(one, name) for one in instruments] for name in ("venue", "symbol", "base", "quote")]
        columns += [[getattr(one, name) for one in instruments] for name in ("kind", "status")]
        columns.append([None if one.expiry is None else iso_time(one.expiry) for one in instruments])
        columns.append([iso_time(one.received_time) for one in instruments])
        connection.execute(UPDATE_SQL, columns)
        added["instrument"] = [name for (name,) in connection.execute(INSERT_SQL, columns)]
    for dimension, names in added.items():
        _tell_added(dimension, names)


NEW = (
    "SELECT exchange_id, exchange.name AS venue, symbol, coin_id, quote_id, kind, status, "
    "expiry::timestamptz AS expiry, updated_time::timestamptz AS updated_time "
    "FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[]) "
    "AS told (venue, symbol, base, quote, kind, status, expiry, updated_time) "
    "JOIN mart.dim__exchange exchange ON exchange.name = venue "
    "JOIN mart.dim__coin coin ON coin.name = base "
    "JOIN mart.dim__quote quote ON quote.name = told.quote"
)
UPDATE_SQL = (
    "UPDATE mart.dim__instrument kept SET kind = new.kind, status = new.status, expiry = new.expiry, "
    f"updated_time = new.updated_time FROM ({NEW}) new WHERE kept.exchange_id = new.exchange_id "
    "AND kept.symbol = new.symbol AND kept.coin_id = new.coin_id AND kept.quote_id = new.quote_id "
    "AND coalesce(kept.updated_time, '-infinity') < new.updated_time"
)
# Without its condition each call would use up ids for instruments that are there; so below.
INSERT_SQL = (
    f"WITH new AS ({NEW}), added AS (INSERT INTO mart.dim__instrument "
    "(exchange_id, symbol, coin_id, quote_id, kind, status, expiry, updated_time) "
    "SELECT exchange_id, symbol, coin_id, quote_id, kind, status, expiry, updated_time FROM new "
    "WHERE NOT EXISTS (SELECT FROM mart.dim__instrument kept "
    "WHERE kept.exchange_id = new.exchange_id AND kept.symbol = new.symbol) "
    "ON CONFLICT (exchange_id, symbol) DO NOTHING RETURNING exchange_id, symbol) "
    "SELECT venue || ':' || symbol FROM added JOIN new USING (exchange_id, symbol) ORDER BY 1"
)


def _add(connection: psycopg.Connection, dimension: str, names: Sequence[str]) -> list[str]:
    found = connection.execute(
        f"INSERT INTO mart.dim__{dimension} (name) SELECT name FROM unnest(%s::text[]) AS new (name) "
        f"WHERE NOT EXISTS (SELECT FROM mart.dim__{dimension} kept WHERE kept.name = new.name) "
        "ON CONFLICT (name) DO NOTHING RETURNING name".encode(),
        [list(names)],
    )
    return [name for (name,) in found]


def settle(connection: psycopg.Connection) -> None:
    """Mark what is listed no more, and unmark what has returned."""
    with connection.transaction():
        changed = connection.execute(
            "UPDATE mart.dim__instrument kept SET is_deleted = gone, deleted_date = CASE WHEN gone THEN now() END "
            "FROM (SELECT instrument_id, name AS venue, "
            "coalesce(lower(status) = ANY(%s), false) OR coalesce(expiry <= now(), false) AS gone "
            "FROM mart.dim__instrument JOIN mart.dim__exchange USING (exchange_id)) now_so "
            "WHERE kept.instrument_id = now_so.instrument_id AND kept.is_deleted <> gone "
            "RETURNING venue || ':' || symbol, gone",
            [list(ENDED)],
        ).fetchall()
        _tell("instrument", changed)
        for dimension in ("coin", "quote", "exchange"):
            changed = connection.execute(
                f"UPDATE mart.dim__{dimension} kept SET is_deleted = gone, "
                "deleted_date = CASE WHEN gone THEN now() END "
                f"FROM (SELECT {dimension}_id, bool_and(is_deleted) AS gone FROM mart.dim__instrument "
                f"GROUP BY {dimension}_id) now_so "
                f"WHERE kept.{dimension}_id = now_so.{dimension}_id AND kept.is_deleted <> gone "
                "RETURNING name, gone".encode()
            ).fetchall()
            _tell(dimension, changed)


def _tell(dimension: str, changed: Sequence[tuple[str, bool]]) -> None:
    for name, gone in sorted(changed):
        log.info("%s dim__%s %s", SOFT_DELETED if gone else REACTIVATED, dimension, name)


def _tell_added(dimension: str, names: Sequence[str]) -> None:
    for name in names:
        log.info("%s dim__%s %s", ADDED, dimension, name)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Refused for what the database says of the rows: SQLSTATE classes 22, 23 and 54 (too long for an index)."""
    try:
        yield
    except (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded) as error:
        raise Refused(sentence(error)) from None


def sentence(error: psycopg.Error) -> str:
    """What the database says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
