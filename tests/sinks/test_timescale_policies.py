"""The jobs that TimescaleDB is given, by the configuration."""

import logging
from typing import Any

import psycopg
import pytest

from ravencore.config import MartSettings, RetentionSettings, Settings
from ravencore.errors import ConfigError
from sinks.stores.timescale import Timescale
from sinks.stores.timescale_facts import FACTS
from sinks.stores.timescale_policies import policies

WEEK, MONTH = "INTERVAL '604800000000 microseconds'", "INTERVAL '2592000000000 microseconds'"


def made(**settings: Any) -> dict[str, str]:
    return {policy.name: policy.make for policy in policies(MartSettings(**settings)) if policy.make}


def test_facts_are_compressed_after_a_week_and_kept_for_good_unless_told_otherwise() -> None:
    jobs = made()
    hypertables = {fact.name for fact in FACTS.values()} - {"fact__gap"}
    assert {name for name in jobs if name.startswith("compression")} == {f"compression of {t}" for t in hypertables}
    assert jobs["compression of fact__kline"] == f"SELECT add_compression_policy('mart.fact__kline', {WEEK})"
    assert not [name for name in jobs if name.startswith("retention")]
    assert not [name for name in made(compress_after=None) if name.startswith("compression")]


def test_what_is_dropped_keeps_its_candles() -> None:
    jobs = made(retention=RetentionSettings(klines="30d"))
    assert jobs["retention of fact__kline"] == f"SELECT add_retention_policy('mart.fact__kline', {MONTH})"
    assert f"start_offset => {MONTH}" in jobs["refresh of agg__kline_5m"]
    others = [job for name, job in jobs.items() if name.startswith("refresh") and name != "refresh of agg__kline_5m"]
    assert len(others) == 9
    assert all("start_offset => NULL" in job for job in others)


@pytest.mark.parametrize("age", ["soon", "", "12h", "-7d"])
def test_an_age_that_is_none_is_a_setting_to_correct(age: str) -> None:
    with pytest.raises(ConfigError, match=r"mart\.retention\.bars"):
        made(retention=RetentionSettings(bars=age))
    with pytest.raises(ConfigError, match=r"mart\.compress_after"):
        made(compress_after=age)


@pytest.mark.stack
def test_a_plain_postgres_says_that_it_drops_nothing(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    dsn = settings.mart.dsn.get_secret_value()
    mart = MartSettings(dsn=dsn, retention=RetentionSettings(bars="90d"))
    store = Timescale(settings.model_copy(update={"mart": mart}))
    store.setup()
    store.close()
    with psycopg.connect(dsn) as connection:
        plain = connection.execute("SELECT to_regclass('mart.policy')").fetchone() == (None,)
    assert [r for r in caplog.records if r.levelno == logging.WARNING and "TimescaleDB" in r.message] or not plain
