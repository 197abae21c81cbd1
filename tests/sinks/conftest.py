"""The real servers and processes that the tests of the sinks use."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ravencore.config import InfluxSettings, KafkaSettings, LakeSettings, MartSettings, RedisSettings, Settings
from tests.sinks.probe_influx import InfluxProbe
from tests.sinks.probe_lake import LakeProbe
from tests.sinks.probe_redis import RedisProbe
from tests.sinks.probe_timescale import TimescaleProbe
from tests.sinks.rig import Cuttable, House, Probe, Sink, Stack, Topics, database

collect_ignore = [] if "RAVEN_TESTS_POSTGRES" in os.environ else ["test_timescale_hypertables.py"]
collect_ignore += [] if "RAVEN_TESTS_S3" in os.environ else ["test_lake_s3.py"]


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
def postgres_dsn(stack: Stack) -> str:
    """The server of the mart: the local stack's, or that of RAVEN_TESTS_POSTGRES, a TimescaleDB say."""
    return os.environ.get("RAVEN_TESTS_POSTGRES", stack.postgres_dsn)


@pytest.fixture(scope="session")
def mart_dsn(postgres_dsn: str) -> Iterator[str]:
    """A database of the sinks' tests alone."""
    with database(postgres_dsn, "sinks_tests") as dsn:
        yield dsn


@pytest.fixture
def empty(postgres_dsn: str, symbol: str) -> Iterator[str]:
    """A database of a test's own."""
    with database(postgres_dsn, f"empty_{symbol.lower()}") as dsn:
        yield dsn


@pytest.fixture(scope="session")
def servers(stack: Stack, mart_dsn: str) -> Settings:
    """Settings of the real servers."""
    return Settings(
        kafka=KafkaSettings(bootstrap=stack.kafka_bootstrap),
        influx=InfluxSettings(url=stack.questdb_url, flavour="questdb"),
        mart=MartSettings(dsn=mart_dsn, instrument_wait_s=2.0),
        redis=RedisSettings(url=stack.redis_url),
    )


@pytest.fixture
def settings(servers: Settings, tmp_path: Path) -> Settings:
    """The same, with a lake of the test's own: offsets that tests make up are no watermarks of real topics."""
    lake = LakeSettings(uri=str(tmp_path / "lake"), batch_s=0.2, batch_records=2_000)
    return servers.model_copy(update={"lake": lake})


@pytest.fixture
def symbol(request: pytest.FixtureRequest) -> str:
    """A symbol that no other test uses."""
    return f"T{abs(hash((request.node.nodeid, time.time_ns()))):X}"


@pytest.fixture
def probes(settings: Settings) -> dict[str, Probe]:
    """The probe of each store by its name."""
    return {
        "influx": InfluxProbe(settings),
        "lake": LakeProbe(settings),
        "redis": RedisProbe(settings),
        "timescale": TimescaleProbe(settings),
    }


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
def topics(servers: Settings) -> Iterator[Topics]:
    """Kafka, with Raven's topics."""
    made = Topics(servers)
    yield made
    made.close()


@pytest.fixture
def house(
    settings: Settings, probes: dict[str, Probe], topics: Topics, symbol: str, sink: Callable[..., Sink]
) -> House:
    """All of it."""
    return House(settings, probes, topics, symbol, sink)
