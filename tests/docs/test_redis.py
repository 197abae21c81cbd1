"""What docs/stores.md says of Redis: the values it shows are those that are written, and its examples run."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from pydantic import SecretStr

from ravencore.codec import load_schema
from ravencore.config import RedisSettings, Settings
from ravencore.decimals import from_text
from ravencore.records import Bar, IvSurface, Quote, Record, ServiceStatus, SpotMid, Vpin
from sinks.contract import Read
from sinks.stores.cache import CHANNEL, HEALTH, Cache
from tests.sinks.rig import CODEC, topic_of

pytestmark = pytest.mark.stack

PAGE = (Path(__file__).parents[2] / "docs" / "stores.md").read_text().partition("## Redis")[2]
KINDS: dict[str, type[Record]] = {
    "spot_mid": SpotMid,
    "spot_bbo": Quote,
    "iv_surface": IvSurface,
    "bar": Bar,
    "vpin": Vpin,
}
TABLE = re.findall(r"^\| `(md:v1:[^`]+)`", PAGE, re.M)
EXAMPLES = dict(re.findall(r"^(md:v1:\S+)\n(\{.*\})$", PAGE, re.M))
(STATUS,) = re.findall(r'^\{.*"service":.*\}$', PAGE, re.M)
CONSOLE, PYTHON = (re.findall(rf"```{kind}\n(.*?)```", PAGE, re.S)[0] for kind in ("console", "python"))


@pytest.fixture
def own(stack: Any) -> Iterator[Settings]:
    """A database of these tests alone, with the documented records in it."""
    settings = Settings(redis=RedisSettings(url=re.sub("/0$", "/8", stack.redis_url)))
    client = redis.Redis.from_url(settings.redis.url.get_secret_value())
    client.flushdb()
    with closing(Cache(settings)) as store:
        written = [read_of(key, json.loads(text)) for key, text in EXAMPLES.items()]
        written.append(read_of(HEALTH, json.loads(STATUS)))
        assert store.write(written) == ([], [])
    yield settings
    client.flushdb()


def read_of(key: str, value: dict[str, Any]) -> Read:
    """The record that a value was made of."""
    kind = key.split(":")[2]
    cls = KINDS.get(kind, ServiceStatus)
    offset = int(value.pop("order")[32:], 16)
    if cls is IvSurface:
        names = {"venue", "underlying", "price_currency", "time"}
        shared = {name: value[name] for name in names}
        value = shared | {"expiries": [{name: value[name] for name in value.keys() - names}]}
    record = msgspec.convert(with_units(value, load_schema(f"{cls.SCHEMA}.avsc")), cls)
    return Read(topic_of(record), 0, offset, key.rpartition(":")[2].encode(), CODEC.encode(record))


def with_units(value: Any, schema: Any) -> Any:
    """A value with its decimals as integers, as the schema has them."""
    if isinstance(schema, list):
        return None if value is None else with_units(value, next(part for part in schema if part != "null"))
    if not isinstance(schema, dict):
        return value
    if schema.get("logicalType") == "decimal":
        return from_text(value)
    if schema["type"] == "array":
        return [with_units(one, schema["items"]) for one in value]
    if schema["type"] != "record":
        return value
    types = {field["name"]: field["type"] for field in schema["fields"]}
    return {name: with_units(one, types[name]) for name, one in value.items()}


def reader(settings: Settings) -> Any:
    return redis.Redis.from_url(settings.redis.url.get_secret_value(), decode_responses=True)


def test_each_key_has_an_example_and_it_is_what_is_written(own: Settings) -> None:
    kinds = {key.split(":")[2] for key in TABLE}
    assert kinds == {*(key.split(":")[2] for key in EXAMPLES), "health"} == {*KINDS, "health"}
    client = reader(own)
    assert {key: client.get(key) for key in EXAMPLES} == EXAMPLES
    assert client.hgetall(HEALTH) == {json.loads(STATUS)["instance"]: STATUS}
    assert f"`{CHANNEL}`" in PAGE


def test_every_command_finds_something(own: Settings) -> None:
    client = reader(own)
    for line in CONSOLE.splitlines():
        program, *words = shlex.split(line)
        assert program == "redis-cli"
        match words:
            case ["--scan", "--pattern", pattern]:
                assert list(client.scan_iter(pattern)), line
            case ["SUBSCRIBE", channel]:
                assert channel == CHANNEL
            case _:
                assert client.execute_command(*words), line


def test_the_program_shows_quotes_and_each_new_mid(own: Settings, tmp_path: Path) -> None:
    script = tmp_path / "watch.py"
    url = own.redis.url
    assert isinstance(url, SecretStr)
    script.write_text(PYTHON.replace("redis://localhost:6379/0", url.get_secret_value()))
    newer = read_of("md:v1:spot_mid:BTC-USD", json.loads(EXAMPLES["md:v1:spot_mid:BTC-USD"]))
    with (
        subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as shown,
        closing(Cache(own)) as store,
    ):
        try:
            assert shown.stdout is not None
            assert shown.stdout.readline() == "BINANCE_SPOT 61840.01 61840.02\n"
            while not reader(own).pubsub_numsub(CHANNEL)[0][1]:
                assert shown.poll() is None
            mid = CODEC.decode_as(SpotMid, newer.value)
            later = msgspec.structs.replace(mid, time=mid.time + 1_000_000, mid=61_999.5)
            store.write([newer._replace(value=CODEC.encode(later))])
            assert shown.stdout.readline() == "BTC-USD 61999.5 Ok\n"
        finally:
            shown.kill()
