"""What TimescaleDB does to the mart by itself, as configured: refresh candles, compress and drop old chunks.

On a plain PostgreSQL there is nothing of it: candles are views, and rows stay as they are.
"""

import logging
from typing import NamedTuple

import psycopg

from ravencore.config import MartSettings, interval_us
from ravencore.errors import ConfigError

KEPT_BY = {
    "fact__time_bar": "bars",
    "fact__tick_imbalance": "bars",
    "fact__volume_imbalance": "bars",
    "fact__vpin": "vpin",
    "fact__kline": "klines",
    "fact__spot_mid": "spot_mids",
    "fact__iv_surface": "iv_surfaces",
}
"""The setting of `mart.retention` that each hypertable goes by."""
CANDLES = {"agg__kline": "fact__kline", "agg__time_bar": "fact__time_bar"}
REFRESHED_EVERY = {"5m": "5m", "15m": "15m", "1h": "1h", "4h": "1h", "1d": "1h"}
"""By the width of candles; new ones need no refresh to be seen, those that changed late do."""
FIRST = "5m"
LEAST_KEPT = "1d"

log = logging.getLogger(__name__)


class Policy(NamedTuple):
    """A job of TimescaleDB: how it is removed, and the statement that makes it, None where there should be none."""

    name: str
    remove: str
    make: str | None


def policies(settings: MartSettings) -> list[Policy]:
    """The jobs that a configuration asks for; raises ConfigError."""
    compress_us = _age("mart.compress_after", settings.compress_after)
    found = []
    for fact, name in KEPT_BY.items():
        keep_us = _age(f"mart.retention.{name}", getattr(settings.retention, name))
        found += [_job("compression", fact, compress_us), _job("retention", fact, keep_us)]
    for candles, fact in CANDLES.items():
        # A refresh of a time whose rows are dropped would drop its candles; wider ones are made of candles, which stay.
        keep_us = _age(f"mart.retention.{KEPT_BY[fact]}", getattr(settings.retention, KEPT_BY[fact]))
        found += [_refresh(candles, width, keep_us if width == FIRST else None) for width in REFRESHED_EVERY]
    return found


def apply(connection: psycopg.Connection, settings: MartSettings) -> None:
    """Have the jobs that the configuration asks for, where they can be had; raises ConfigError, psycopg.Error."""
    wanted = policies(settings)
    if connection.execute("SELECT to_regclass('mart.policy')").fetchone() == (None,):
        if any(policy.make for policy in wanted if policy.name.startswith("retention")):
            log.warning("mart.retention needs TimescaleDB (community edition): nothing is dropped here")
        return
    with connection.transaction():
        connection.execute("LOCK TABLE mart.policy")
        have: dict[str, str | None] = dict(connection.execute("SELECT name, statement FROM mart.policy").fetchall())
        for policy in wanted:
            if policy.name not in have or have[policy.name] != policy.make:
                _replace(connection, policy)


def _replace(connection: psycopg.Connection, policy: Policy) -> None:
    connection.execute(policy.remove.encode())
    if policy.make:
        connection.execute(policy.make.encode())
    connection.execute(
        "INSERT INTO mart.policy (name, statement) VALUES (%s, %s) "
        "ON CONFLICT (name) DO UPDATE SET statement = excluded.statement",
        [policy.name, policy.make],
    )
    log.info("the mart's %s: %s", policy.name, policy.make or "none")


def _job(kind: str, fact: str, after_us: int | None) -> Policy:
    make = None if after_us is None else f"SELECT add_{kind}_policy('mart.{fact}', {_interval(after_us)})"
    return Policy(f"{kind} of {fact}", f"SELECT remove_{kind}_policy('mart.{fact}', if_exists => true)", make)


def _refresh(candles: str, width: str, start_us: int | None) -> Policy:
    view = f"{candles}_{width}"
    return Policy(
        f"refresh of {view}",
        f"SELECT remove_continuous_aggregate_policy('mart.{view}', if_exists => true)",
        f"SELECT add_continuous_aggregate_policy('mart.{view}', "
        f"start_offset => {'NULL' if start_us is None else _interval(start_us)}, "
        f"end_offset => {_interval(interval_us(width))}, "
        f"schedule_interval => {_interval(interval_us(REFRESHED_EVERY[width]))})",
    )


def _interval(micros: int) -> str:
    return f"INTERVAL '{micros} microseconds'"


def _age(setting: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        micros = interval_us(text)
    except ConfigError:
        micros = 0
    if micros < interval_us(LEAST_KEPT):
        raise ConfigError(f"{setting}: {text!r} is no age of a day or more; write for example 7d or 90d")
    return micros
