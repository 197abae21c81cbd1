"""Reads the mart's rows back as the records they came from, to be held against Kafka's."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import psycopg
from msgspec.structs import asdict

from ravencore import decimals
from ravencore.config import MartSettings
from ravencore.errors import Unavailable
from ravencore.records import Bar, Vpin
from ravenctl.outputs import series

FACTS: Mapping[str, type[Bar] | type[Vpin]] = {
    "fact__time_bar": Bar,
    "fact__tick_imbalance": Bar,
    "fact__volume_imbalance": Bar,
    "fact__vpin": Vpin,
}
DECIMALS = {"open", "high", "low", "close", "volume", "quote_volume", "buy_volume"}
TIMES = {"open_time", "close_time"}
NAMED = {"venue": "exchange.name", "symbol": "instrument.symbol"}
"""Fields whose text stands in a dimension."""
JOINS = (
    "JOIN mart.dim__exchange exchange USING (exchange_id) JOIN mart.dim__interval interval USING (interval_id) "
    "JOIN mart.dim__instrument instrument ON instrument.instrument_id = fact.instrument_id "
    "AND instrument.coin_id = fact.coin_id AND instrument.quote_id = fact.quote_id "
    "AND instrument.exchange_id = fact.exchange_id"
)


def records(settings: MartSettings) -> list[Bar | Vpin]:
    """Every row of the facts as a record; a row whose dimensions contradict each other is none. Raises Unavailable."""
    try:
        with psycopg.connect(settings.dsn.get_secret_value(), connect_timeout=5) as connection:
            rows = (_rows(connection, fact, kind) for fact, kind in FACTS.items())
            return list(chain.from_iterable(rows))
    except psycopg.Error as error:
        raise Unavailable(f"the mart cannot be read: {' '.join(str(error).split())}") from None


def _rows(connection: psycopg.Connection, fact: str, kind: type[Bar] | type[Vpin]) -> list[Bar | Vpin]:
    fields = kind.__struct_fields__
    columns = ", ".join(_column(name) for name in fields)
    interval = "CASE fact.kind WHEN 'time' THEN fact.profile ELSE 'none' END"
    query = f"SELECT {columns} FROM mart.{fact} fact {JOINS} WHERE interval.name = {interval}"
    return [
        kind(**dict(zip(fields, map(_value, fields, row), strict=True))) for row in connection.execute(query.encode())
    ]


def _column(name: str) -> str:
    if name in TIMES:
        return f"(extract(epoch FROM fact.{name}) * 1000000)::bigint"
    return f"fact.{name}::text" if name in DECIMALS else NAMED.get(name, f"fact.{name}")


def _value(name: str, value: Any) -> Any:
    return decimals.from_text(value) if name in DECIMALS else value


def counts(rows: Iterable[Bar | Vpin]) -> dict[str, int]:
    """How many rows each series has."""
    return dict(Counter(series(row) for row in rows))


def mismatches(kafka: Mapping[str, Mapping[int, Bar | Vpin]], rows: Iterable[Bar | Vpin]) -> list[str]:
    """Every bar that the mart has not, has otherwise, has twice, or has and Kafka has not, in a few words each."""
    found: list[str] = []
    unseen = {(name, number) for name, there in kafka.items() for number in there}
    for row in rows:
        place = (series(row), row.bar_seq)
        record = kafka.get(place[0], {}).get(row.bar_seq)
        if record is None:
            found.append(f"{place[0]} #{row.bar_seq} is in the mart alone")
        elif place not in unseen:
            found.append(f"{place[0]} #{row.bar_seq} is in the mart twice")
        elif row != record:
            found.append(f"{place[0]} #{row.bar_seq} differs in {', '.join(_differing(record, row))}")
        unseen.discard(place)
    return found + [f"{name} #{number} is not in the mart" for name, number in sorted(unseen)]


def _differing(one: Bar | Vpin, other: Bar | Vpin) -> list[str]:
    values = asdict(other)
    return [name for name, value in asdict(one).items() if values[name] != value]
