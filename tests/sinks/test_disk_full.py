"""Every store on a disk that is full: it says so, and with room again it has all that was written."""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest
import redis
from pydantic import SecretStr

from ravencore.config import InfluxSettings, LakeSettings, MartSettings, RedisSettings, Settings
from ravenctl.local import jars, ports, postgres, questdb, redis_server
from ravenctl.local.broker import Alone
from ravenctl.local.progress import QUIET
from sinks.contract import Read, Store, StoreUnavailable
from sinks.registry import STORES
from tests.sinks.probe_influx import InfluxProbe
from tests.sinks.probe_lake import LakeProbe
from tests.sinks.probe_redis import RedisProbe
from tests.sinks.probe_timescale import TimescaleProbe
from tests.sinks.rig import Probe, reads, until

DISK_MB = 1_000
"""QuestDB takes a megabyte for every column of every table, twice."""
BALLAST_BYTES = 1 << 20


class Ballast:
    """A file that takes what is left of a disk."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "ballast"

    def fill(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            size = BALLAST_BYTES
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2

    def clear(self) -> None:
        self._path.unlink()


class Memory:
    """What a Redis has for a disk."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)

    def fill(self) -> None:
        self._client.config_set("maxmemory-policy", "noeviction")
        self._client.config_set("maxmemory", 1)

    def clear(self) -> None:
        self._client.config_set("maxmemory", 0)


class Room(Protocol):
    """What can be filled and cleared."""

    def fill(self) -> None: ...
    def clear(self) -> None: ...


class Small(NamedTuple):
    """A store's server on a small disk."""

    settings: Settings
    room: Room
    server: Alone | None
    probe: Callable[[Settings], Probe]
    told: str = "No space left"


def influx(disk: Path) -> Small:
    port = ports.choose((), set())
    server = Alone(questdb.launch(disk, port, [str(jar) for jar in jars.classpath("questdb", QUIET)]), disk / "log")
    own = Settings(influx=InfluxSettings(url=f"http://{ports.LOOPBACK}:{port}", flavour="questdb"))
    return Small(own, Ballast(disk), server, InfluxProbe)


def lake(disk: Path) -> Small:
    return Small(Settings(lake=LakeSettings(uri=str(disk / "lake"))), Ballast(disk), None, LakeProbe)


def timescale(disk: Path) -> Small:
    disk.chmod(0o755)
    port = ports.choose((), set())
    own = Settings(mart=MartSettings(dsn=SecretStr(postgres.dsn(disk, port)), instrument_wait_s=2.0))
    return Small(own, Ballast(disk), Alone(postgres.launch(disk, port), disk / "log"), TimescaleProbe)


def cache(disk: Path) -> Small:
    port = ports.choose((), set())
    url = redis_server.url(disk, port)
    own = Settings(redis=RedisSettings(url=SecretStr(url)))
    return Small(
        own, Memory(url), Alone(redis_server.launch(disk, port), disk / "log"), RedisProbe, "raise its maxmemory"
    )


SMALL: dict[str, Callable[[Path], Small]] = {"influx": influx, "lake": lake, "timescale": timescale, "redis": cache}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, for as long as the test."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(mounted)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("only root may mount a disk")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


@pytest.fixture
def small(disk: Path, request: pytest.FixtureRequest) -> Iterator[Small]:
    """The store that the test is for, on that disk."""
    made = SMALL[request.param](disk)
    if made.server:
        made.server.start()
    yield made
    if made.server:
        made.server.kill()


@pytest.mark.parametrize(("name", "small"), [(name, name) for name in STORES], indirect=["small"])
def test_a_full_disk_is_told_and_with_room_again_all_is_there(name: str, small: Small, symbol: str) -> None:
    probe, store = small.probe(small.settings), STORES[name](small.settings)
    records = probe.records(symbol, 5_000)
    store.setup()
    batch = reads(records)
    for topic, partition in {read[:2] for read in batch}:
        store.resume(topic, partition)
    small.room.fill()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=small.told):
            store.write(batch)
    small.room.clear()
    until(lambda: taken(store, batch), "it takes the batch")
    expected = probe.expected(records)
    until(lambda: probe.count(symbol) >= probe.enough(records), "all of it is there")
    assert probe.kept(symbol) == expected
    store.close()


def taken(store: Store, batch: Sequence[Read]) -> bool:
    """Whether the store has it by now; a server may need a moment after its disk has room again."""
    with suppress(StoreUnavailable):
        assert store.write(batch) == ([], [])
        return True
    return False
