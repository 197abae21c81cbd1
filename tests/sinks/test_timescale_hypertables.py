"""What only a TimescaleDB can show: chunks, compression, refreshes, retention (RAVEN_TESTS_POSTGRES names a server)."""

import time
from collections.abc import Iterator

import psycopg
import pytest
from pydantic import SecretStr

from ravencore.config import MartSettings, RetentionSettings, Settings
from ravencore.records import Record
from sinks.stores.timescale import Timescale
from sinks.stores.timescale_facts import FACTS
from tests.sinks.probe_timescale import MINUTE_US, TimescaleProbe, kline
from tests.sinks.rig import CODEC, bar, instrument, reads

pytestmark = pytest.mark.stack
DAYS = 30
DAY_US = 1440 * MINUTE_US
SYMBOL = "BTCUSDT"


@pytest.fixture
def mine(settings: Settings, empty: str) -> Settings:
    mart = MartSettings(dsn=SecretStr(empty), retention=RetentionSettings(klines="20d"))
    return settings.model_copy(update={"mart": mart})


@pytest.fixture
def mart(mine: Settings) -> Iterator[Timescale]:
    store = Timescale(mine)
    store.setup()
    run(mine, "SELECT _timescaledb_functions.stop_background_workers()")
    yield store
    store.close()


def run(mine: Settings, *statements: str) -> None:
    with psycopg.connect(mine.mart.dsn.get_secret_value(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def jobs(mine: Settings, procedure: str) -> list[str]:
    rows = TimescaleProbe(mine).select(
        "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = %(name)s ORDER BY 1", name=procedure
    )
    return [f"CALL run_job({row['job_id']})" for row in rows]


def hours_of_klines() -> list[Record]:
    """One an hour of thirty days, all over."""
    now_us = time.time_ns() // 1000 // DAY_US * DAY_US
    times = [now_us - DAYS * DAY_US + number * 60 * MINUTE_US for number in range(DAYS * 24)]
    return [kline(SYMBOL, n, open_time=at, close_time=at + MINUTE_US - 1000) for n, at in enumerate(times)]


def test_facts_are_hypertables_and_candles_are_continuous_aggregates(mart: Timescale, mine: Settings) -> None:
    probe = TimescaleProbe(mine)
    tables = probe.select("SELECT hypertable_name, compression_enabled FROM timescaledb_information.hypertables")
    mine_are = {row["hypertable_name"]: row["compression_enabled"] for row in tables}
    wanted = {fact.name for fact in FACTS.values()} - {"fact__gap"}
    assert wanted <= {name for name, compressed in mine_are.items() if compressed}
    views = probe.select("SELECT view_name, materialized_only FROM timescaledb_information.continuous_aggregates")
    assert len(views) == 10
    assert not any(row["materialized_only"] for row in views)


def test_compressed_chunks_take_late_rows_and_refuse_others(mart: Timescale, mine: Settings) -> None:
    klines = hours_of_klines()
    bars = [bar(SYMBOL, n, kind="time", profile="1m", open_time=k.open_time) for n, k in enumerate(klines)]  # type: ignore[attr-defined]
    late: list[Record] = [klines.pop(100), bars.pop(100)]
    assert mart.write(reads([instrument(SYMBOL), *klines, *bars])) == ([], [])
    for fact in ("fact__kline", "fact__time_bar"):
        run(mine, f"SELECT compress_chunk(c) FROM show_chunks('mart.{fact}', older_than => INTERVAL '7 days') c")
    compressed = TimescaleProbe(mine).select("SELECT 1 FROM timescaledb_information.chunks WHERE is_compressed")
    assert len(compressed) >= 6

    assert mart.write(reads([*klines, *bars])) == ([], [])
    assert mart.write(reads(late)) == ([], [])
    other = [kline(SYMBOL, 101, open_time=klines[100].open_time, low=7), bar(SYMBOL, 55, kind="time", profile="1m")]  # type: ignore[attr-defined]
    outcome = mart.write(reads(other))
    refused = [(bad.reason, CODEC.decode(bad.read.value)) for bad in outcome.refused]
    assert refused == [("conflicting_row", one) for one in other]
    probe = TimescaleProbe(mine)
    assert probe.kept(SYMBOL) == probe.expected([*klines, *bars, *late])


def test_candles_are_up_to_date_when_read_late_ones_after_a_refresh_and_outlive_their_rows(
    mart: Timescale, mine: Settings
) -> None:
    klines, probe = hours_of_klines(), TimescaleProbe(mine)
    late = klines.pop(300)
    assert mart.write(reads([instrument(SYMBOL), *klines[:-1]])) == ([], [])

    def counted() -> list[int]:
        sql = "SELECT sum(klines)::bigint AS n FROM mart.agg__kline_{}"
        return [probe.select(sql.format(width))[0]["n"] for width in ("5m", "15m", "1h", "4h", "1d")]

    refresh = [
        f"CALL refresh_continuous_aggregate('mart.agg__kline_{width}', NULL, now() - INTERVAL '2 days')"
        for width in ("5m", "15m", "1h", "4h", "1d")
    ]
    assert counted() == [len(klines) - 1] * 5, "before any refresh"
    run(mine, *refresh)
    mart.write(reads([klines[-1], late]))
    assert counted() == [len(klines)] * 5, "the newest is there, the late one is not"
    run(mine, *jobs(mine, "policy_refresh_continuous_aggregate"))
    assert counted() == [len(klines) + 1] * 5

    run(mine, *jobs(mine, "policy_retention"), *jobs(mine, "policy_refresh_continuous_aggregate"))
    (left,) = probe.select("SELECT count(*) AS n FROM mart.fact__kline")
    assert 20 * 24 <= left["n"] < len(klines)
    assert counted() == [len(klines) + 1] * 5
