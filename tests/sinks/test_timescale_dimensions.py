"""The mart's dimensions: seeded, kept for good, marked when they are gone, and each change told."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from ravencore.config import BarsSettings, Settings
from sinks.stores.timescale import Timescale
from tests.sinks.probe_timescale import TimescaleProbe
from tests.sinks.rig import T0, instrument, reads

pytestmark = pytest.mark.stack


@pytest.fixture
def mine(settings: Settings, empty: str) -> Settings:
    """Settings of an empty database."""
    return settings.model_copy(update={"mart": settings.mart.model_copy(update={"dsn": SecretStr(empty)})})


@pytest.fixture
def mart(mine: Settings, caplog: pytest.LogCaptureFixture) -> Iterator[Timescale]:
    caplog.set_level(logging.INFO, "sinks.stores.timescale_dimensions")
    store = Timescale(mine)
    store.setup()
    yield store
    store.close()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was told of dimensions since this was last asked."""
    lines = [line for line in caplog.messages if line.startswith("DIMENSION_")]
    caplog.clear()
    return lines


def gone(mine: Settings, dimension: str, name: str = "name") -> dict[str, bool]:
    rows = TimescaleProbe(mine).select(f"SELECT {name} AS name, is_deleted, deleted_date FROM mart.dim__{dimension}")
    assert all(row["is_deleted"] == (row["deleted_date"] is not None) for row in rows)
    return {row["name"]: row["is_deleted"] for row in rows}


def test_venues_and_intervals_are_those_of_the_configuration(
    mart: Timescale, mine: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    lines = {record.getMessage() for record in caplog.get_records("setup")}
    assert set(gone(mine, "exchange")) == set(type(mine.venues).model_fields)
    assert {f"DIMENSION_ADDED dim__exchange {name}" for name in gone(mine, "exchange")} <= lines
    assert gone(mine, "interval") == {"none": False, "1s": False, "1m": False}

    for intervals, expected in (
        (["5s"], ["DIMENSION_ADDED dim__interval 5s", "DIMENSION_SOFT_DELETED dim__interval 1s"]),
        (["1s", "5s"], ["DIMENSION_REACTIVATED dim__interval 1s"]),
        (["1s", "5s"], []),
    ):
        other = Timescale(mine.model_copy(update={"bars": BarsSettings(time_intervals=intervals)}))
        other.setup()
        other.close()
        assert told(caplog) == expected


def test_what_is_delisted_is_marked_and_what_returns_is_not(
    mart: Timescale, mine: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    told(caplog)

    def learn(*instruments: Any) -> list[str]:
        assert mart.write(reads(instruments)) == ([], [])
        return told(caplog)

    one, two = instrument("ONE", base="A"), instrument("TWO", base="A", quote="EUR")
    assert learn(one, two) == [
        "DIMENSION_ADDED dim__exchange VENUE",
        "DIMENSION_ADDED dim__coin A",
        *("DIMENSION_ADDED dim__quote EUR", "DIMENSION_ADDED dim__quote USDT"),
        *("DIMENSION_ADDED dim__instrument VENUE:ONE", "DIMENSION_ADDED dim__instrument VENUE:TWO"),
    ]
    assert learn(one, two) == []
    closed = instrument("ONE", base="A", status="CLOSED", received_time=T0 + 1)
    assert learn(closed) == [
        "DIMENSION_SOFT_DELETED dim__instrument VENUE:ONE",
        "DIMENSION_SOFT_DELETED dim__quote USDT",
    ]
    assert gone(mine, "coin") == {"A": False}, "the other one is left"
    assert learn(one) == [], "what was said before does not count"
    expired = instrument("TWO", base="A", quote="EUR", expiry=T0, received_time=T0 + 1)
    assert learn(expired) == [
        "DIMENSION_SOFT_DELETED dim__instrument VENUE:TWO",
        "DIMENSION_SOFT_DELETED dim__coin A",
        "DIMENSION_SOFT_DELETED dim__quote EUR",
        "DIMENSION_SOFT_DELETED dim__exchange VENUE",
    ]
    assert gone(mine, "instrument", "symbol") == {"ONE": True, "TWO": True}
    back = instrument("ONE", base="A", received_time=T0 + 2)
    assert learn(closed, back, one) == [
        "DIMENSION_REACTIVATED dim__instrument VENUE:ONE",
        "DIMENSION_REACTIVATED dim__coin A",
        "DIMENSION_REACTIVATED dim__quote USDT",
        "DIMENSION_REACTIVATED dim__exchange VENUE",
    ]
    assert gone(mine, "quote") == {"EUR": True, "USDT": False}


def test_what_is_gone_still_has_its_rows(mart: Timescale, mine: Settings, symbol: str) -> None:
    probe = TimescaleProbe(mine)
    records = [*probe.records(symbol, 50), instrument(symbol, status="delisted", received_time=T0 + 1)]
    assert mart.write(reads(records)) == ([], [])
    assert gone(mine, "instrument", "symbol") == {symbol: True}
    assert probe.kept(symbol) == probe.expected(records)
