"""The mart's facts: their tables, and the statements that write them. Pure."""

from typing import NamedTuple

from ravencore.records import Bar, Gap, IvExpiry, Kline, SpotMid, Vpin
from ravencore.topics import BARS, GAPS, IV_SURFACE, KLINES, SPOT_MID, VPIN


class Fact(NamedTuple):
    """A table: its rows' identity, ids that follow from that, values, and how a row came, which may differ.

    The last of the identity is the position that a series counts by, the others are the series.
    """

    name: str
    identity: tuple[str, ...]
    ids: tuple[str, ...]
    values: tuple[str, ...]
    journey: tuple[str, ...] = ()
    newest_wins: bool = False
    """A row may be written again with other values."""

    @property
    def position(self) -> str:
        """The column that a series counts by."""
        return self.identity[-1]

    @property
    def cells(self) -> tuple[str, ...]:
        """The columns that differ from row to row of a series."""
        return (self.position, *self.values, *self.journey)

    @property
    def columns(self) -> str:
        """All columns, in the order of a COPY line."""
        return ", ".join((*self.identity[:-1], *self.ids, *self.cells))


BAR_VALUES = tuple(
    name for name in Bar.__struct_fields__ if name not in {"venue", "symbol", "kind", "profile", "bar_seq"}
)
VPIN_VALUES = tuple(name for name in Vpin.__struct_fields__ if name not in {"venue", "symbol", "profile", "bar_seq"})
KLINE_JOURNEY = ("event_time", "received_time", "connection_time", "connection_sequence")
KLINE_VALUES = tuple(
    name for name in Kline.__struct_fields__ if name not in {"venue", "symbol", "interval", "open_time", *KLINE_JOURNEY}
)
SPOT_MID_VALUES = tuple(name for name in SpotMid.__struct_fields__ if name not in {"base", "quote", "time"})
IV_VALUES = tuple(name for name in IvExpiry.__struct_fields__ if name != "expiry")
GAP_VALUES = tuple(name for name in Gap.__struct_fields__ if name not in {"gap_id", "venue"})

BAR_IDENTITY = ("instrument_id", "kind", "profile", "bar_seq")
"""An instrument has its coins for good. These lead the primary key, which adds the other ids and, as a hypertable
demands, open_time."""
BAR_IDS = ("coin_id", "quote_id", "exchange_id", "interval_id")
TIME_BAR = Fact("fact__time_bar", BAR_IDENTITY, BAR_IDS, BAR_VALUES)
TICK_IMBALANCE = Fact("fact__tick_imbalance", BAR_IDENTITY, BAR_IDS, BAR_VALUES)
VOLUME_IMBALANCE = Fact("fact__volume_imbalance", BAR_IDENTITY, BAR_IDS, BAR_VALUES)
VPIN_BUCKET = Fact("fact__vpin", BAR_IDENTITY, BAR_IDS, VPIN_VALUES)
KLINE = Fact(
    "fact__kline",
    ("instrument_id", "interval_id", "open_time"),
    ("coin_id", "quote_id", "exchange_id"),
    KLINE_VALUES,
    KLINE_JOURNEY,
)
MID = Fact("fact__spot_mid", ("coin_id", "quote_id", "time"), (), SPOT_MID_VALUES)
SURFACE = Fact("fact__iv_surface", ("exchange_id", "coin_id", "quote_id", "expiry", "time"), (), IV_VALUES)
LEDGER = Fact(
    "fact__gap", ("gap_id",), ("exchange_id",), GAP_VALUES, ("kafka_partition", "kafka_offset"), newest_wins=True
)
FACTS = {
    BARS["time"]: TIME_BAR,
    BARS["tib"]: TICK_IMBALANCE,
    BARS["trb"]: TICK_IMBALANCE,
    BARS["vib"]: VOLUME_IMBALANCE,
    BARS["dib"]: VOLUME_IMBALANCE,
    VPIN: VPIN_BUCKET,
    KLINES: KLINE,
    SPOT_MID: MID,
    IV_SURFACE: SURFACE,
    GAPS: LEDGER,
}
"""By topic; the other kinds of bars have no table."""


# Statements


def copy_sql(fact: Fact) -> str:
    """Rows that are new for certain."""
    return f"COPY mart.{fact.name} ({fact.columns}) FROM STDIN"


def stage_sql(fact: Fact) -> str:
    """Rows that may be there, each with the number of its read."""
    return f"COPY staging__{fact.name} (number, {fact.columns}) FROM STDIN"


def bounds_sql(fact: Fact) -> str:
    """From where to where staged rows are, and of which ids: `low`, `high` and `ids` of the next two."""
    return (
        f"SELECT min({fact.position}) AS low, max({fact.position}) AS high, "
        f"array_agg(DISTINCT {fact.identity[0]}) AS ids FROM staging__{fact.name}"
    )


def _near(fact: Fact) -> str:
    """Without it all that was ever kept would be searched, and what is compressed unpacked."""
    return f"kept.{fact.position} BETWEEN %(low)s AND %(high)s AND kept.{fact.identity[0]} = ANY(%(ids)s::integer[])"


def insert_sql(fact: Fact) -> str:
    """Keep the first row of each identity in the staging table, where the mart has none."""
    same = " AND ".join(f"kept.{name} = new.{name}" for name in fact.identity)
    identity = ", ".join(fact.identity)
    return (
        f"INSERT INTO mart.{fact.name} ({fact.columns}) "
        f"SELECT DISTINCT ON ({identity}) {fact.columns} FROM staging__{fact.name} new "
        f"WHERE NOT EXISTS (SELECT FROM mart.{fact.name} kept WHERE {same} AND {_near(fact)}) "
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
        f"JOIN mart.{fact.name} kept USING ({', '.join(fact.identity)}) "
        f"WHERE {_near(fact)} AND ({new}) IS DISTINCT FROM ({kept}) ORDER BY number"
    )


def replace_sql(fact: Fact) -> str:
    """Keep the newest row of each identity: by its offset, and by detected_time where it changed its partition."""
    identity = ", ".join(fact.identity)
    others = (*fact.ids, *fact.values, *fact.journey)
    news = ", ".join(f"{name} = excluded.{name}" for name in others)
    return (
        f"INSERT INTO mart.{fact.name} AS kept ({fact.columns}) "
        f"SELECT DISTINCT ON ({identity}) {fact.columns} FROM staging__{fact.name} "
        f"ORDER BY {identity}, kafka_offset DESC ON CONFLICT ({identity}) DO UPDATE SET {news} WHERE "
        "CASE WHEN kept.kafka_partition = excluded.kafka_partition THEN kept.kafka_offset < excluded.kafka_offset "
        "ELSE kept.detected_time < excluded.detected_time END"
    )
