"""The real servers and processes that the tests of the sinks use."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from ravencore.config import InfluxSettings, KafkaSettings, MartSettings, Settings
from tests.sinks.rig import Cuttable, House, InfluxProbe, Probe, Sink, Stack, TimescaleProbe, Topics


@pytest.fixture
def cuttable() -> Iterator[Callable[[str, int], Cuttable]]:
    """Proxies that end with the test."""
    made: list[Cuttable] = []

    def make(host: str, port: int) -> Cuttable:
        made.append(Cuttable(host, port))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture(scope="session")
def mart_dsn(stack: Stack) -> str:
    """A database of the sinks' tests alone."""
    with psycopg.connect(stack.postgres_dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE sinks_tests")
    return urllib.parse.urlsplit(stack.postgres_dsn)._replace(path="/sinks_tests").geturl()


@pytest.fixture(scope="session")
def settings(stack: Stack, mart_dsn: str) -> Settings:
    """Settings of the real servers."""
    return Settings(
        kafka=KafkaSettings(bootstrap=stack.kafka_bootstrap),
        influx=InfluxSettings(url=stack.questdb_url, flavour="questdb"),
        mart=MartSettings(dsn=mart_dsn, instrument_wait_s=2.0),
    )


@pytest.fixture
def symbol(request: pytest.FixtureRequest) -> str:
    """A symbol that no other test uses."""
    return f"T{abs(hash((request.node.nodeid, time.time_ns()))):X}"


@pytest.fixture
def probes(settings: Settings) -> dict[str, Probe]:
    """The probe of each store by its name."""
    return {"influx": InfluxProbe(settings), "timescale": TimescaleProbe(settings)}


@pytest.fixture
def sink(tmp_path: Path, topics: Topics) -> Iterator[Callable[..., Sink]]:
    """Starts sinks; those still alive at the end are killed."""
    started: list[Sink] = []

    def start(store: str, settings: Settings, code: str = "") -> Sink:
        started.append(Sink(topics, store, settings, tmp_path / f"{store}.log", code))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture(scope="session")
def topics(settings: Settings) -> Iterator[Topics]:
    """Kafka, with Raven's topics."""
    made = Topics(settings)
    yield made
    made.close()


@pytest.fixture
def house(
    settings: Settings, probes: dict[str, Probe], topics: Topics, symbol: str, sink: Callable[..., Sink]
) -> House:
    """All of it."""
    return House(settings, probes, topics, symbol, sink)
