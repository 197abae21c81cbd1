"""Pinned schemas into a schema registry: a server that keeps the rules its documentation states for mode IMPORT."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from ravencore.codec import pinned_id, pinned_schemas
from ravencore.config import (
    InfluxSettings,
    KafkaSettings,
    LakeSettings,
    MartSettings,
    RedisSettings,
    SchemaRegistrySettings,
    Settings,
)
from ravencore.errors import ConfigError, Unavailable
from ravencore.records import RECORDS
from ravencore.status import _serve_metrics
from ravenctl.cluster import pointed_at, told_by
from ravenctl.local.state import Endpoints
from ravenctl.prepare import check_metrics_port, prepare
from ravenctl.schemas import import_schemas, told
from ravenctl.shell import WrongUse
from sinks.registry import STORES

NOWHERE = KafkaSettings(bootstrap="127.0.0.1:1")


class Registry(ThreadingHTTPServer):
    """Subjects in memory; only an empty registry enters IMPORT, and only in IMPORT an id may be chosen."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode = "READWRITE"
        self.subjects: dict[str, dict[int, tuple[int, Any]]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, method: str, parts: list[str], body: dict[str, Any]) -> tuple[int, Any]:
        match method, parts:
            case "GET", ["subjects"]:
                return 200, sorted(self.subjects)
            case "PUT", ["mode"] if body["mode"] == "IMPORT" and self.subjects:
                return 422, {"error_code": 42205, "message": "Cannot import since found existing subjects"}
            case "PUT", ["mode"]:
                self.mode = body["mode"]
                return 200, body
            case "POST", ["subjects", subject, "versions"]:
                if ("id" in body) != (self.mode == "IMPORT"):
                    return 422, {"error_code": 42205, "message": f"not in mode {self.mode}"}
                self.subjects.setdefault(subject, {})[body["version"]] = (body["id"], json.loads(body["schema"]))
                return 200, {"id": body["id"]}
            case "GET", ["subjects", subject, "versions", "latest"]:
                versions = self.subjects[subject]
                return 200, {"id": versions[max(versions)][0]}
        return 404, {"error_code": 404}


class Handler(BaseHTTPRequestHandler):
    server: Registry

    def _reply(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        parts = self.path.split("?")[0].strip("/").split("/")
        code, said = self.server.answer(self.command, parts, body)
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())

    do_GET = do_POST = do_PUT = _reply

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_empty_registry_gets_every_schema_with_its_pinned_id(registry: Registry) -> None:
    assert "imported" in import_schemas(registry.url)
    stored = {schema_id: schema for versions in registry.subjects.values() for schema_id, schema in versions.values()}
    assert stored == dict(pinned_schemas())
    for record in RECORDS:
        versions = registry.subjects[f"raven.{record.SCHEMA}"]
        assert versions[max(versions)][0] == pinned_id(record.SCHEMA)
    assert registry.mode == "READWRITE"


def test_a_second_time_changes_nothing(registry: Registry) -> None:
    import_schemas(registry.url)
    before = json.dumps(registry.subjects)
    assert "holds all" in import_schemas(registry.url)
    assert json.dumps(registry.subjects) == before


def test_what_a_registry_has_is_told_and_nothing_is_registered_by_asking(registry: Registry) -> None:
    assert all(one.registry is None for one in told(None, registry.url))
    assert registry.subjects == {}
    import_schemas(registry.url)
    assert all(one.registry == one.pinned for one in told(None, registry.url))


def test_a_registry_in_use_is_left_alone(registry: Registry) -> None:
    registry.subjects["orders-value"] = {1: (1, {"type": "string"})}
    assert "in use" in import_schemas(registry.url)
    assert list(registry.subjects) == ["orders-value"]


def test_a_registry_that_is_away_is_said_so() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        import_schemas("http://127.0.0.1:1")


@pytest.mark.stack
def test_every_store_is_set_up_and_told_of_in_its_own_lines(stack: Endpoints, tmp_path: Path) -> None:
    said: list[str] = []
    settings = pointed_at(Settings(lake=LakeSettings(uri=str(tmp_path))), told_by(stack))
    for _ in range(2):
        said.clear()
        prepare(settings, [], said.append)
    parts = ["Kafka", "schemas", "influx", "influx", "lake", "timescale", "timescale", "redis"]
    assert [line.partition(": ")[0] for line in said] == parts
    assert [line for line in said if ": ok, " not in line] == []
    assert "schema mart at 00" in said[5]
    assert "no TimescaleDB: facts are plain tables" in said[6]
    assert said[7].startswith(("redis: ok, Valkey ", "redis: ok, Redis "))


def test_what_is_missing_is_told_and_only_a_cache_may_be() -> None:
    nowhere = "127.0.0.1:1"
    settings = Settings(
        kafka=NOWHERE,
        schema_registry=SchemaRegistrySettings(url=f"http://{nowhere}"),
        influx=InfluxSettings(url=f"http://{nowhere}"),
        mart=MartSettings(dsn=f"postgresql://raven:hush@{nowhere}/raven"),
        redis=RedisSettings(url=f"redis://:hush@{nowhere}/0"),
    )
    said: list[str] = []
    with pytest.raises(Unavailable, match="Kafka, schemas, influx, timescale cannot be used"):
        prepare(settings, ["influx", "timescale", "redis"], said.append)
    assert [line.split(":")[:2] for line in said] == [
        ["Kafka", " failed"],
        ["schemas", " failed"],
        ["influx", " failed"],
        ["timescale", " failed"],
        ["redis", " off, and all else runs"],
    ]
    assert not [line for line in said if "hush" in line or "\n" in line]
    with pytest.raises(Unavailable, match="Kafka, schemas cannot"):
        prepare(settings, ["redis"], said.append)


def test_settings_that_are_none_and_stores_that_are_none_are_told() -> None:
    said: list[str] = []
    with pytest.raises(Unavailable):
        prepare(Settings(kafka=NOWHERE, mart=MartSettings(dsn="nonsense=1")), ["timescale"], said.append)
    assert "RAVEN_MART__DSN is no connection string" in said[-1]
    with pytest.raises(WrongUse, match="there is no store oracle: name influx"):
        prepare(Settings(kafka=NOWHERE), ["oracle"], said.append)


def test_a_port_for_metrics_that_is_taken_is_told() -> None:
    with ThreadingHTTPServer(("0.0.0.0", 0), Handler) as taken, pytest.raises(ConfigError, match="METRICS_PORT"):
        _serve_metrics(taken.server_port)


def test_setup_tells_a_port_that_another_program_has_from_one_of_ravens_own(registry: Registry) -> None:
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    assert check_metrics_port(port) == f"port {port} is free"
    with pytest.raises(Unavailable, match=f"port {registry.server_port} cannot be used"):
        check_metrics_port(registry.server_port)
    own = CollectorRegistry()
    Gauge("raven_state", "Of a service.", registry=own).set(1)
    server, thread = start_http_server(0, registry=own)
    try:
        assert check_metrics_port(server.server_port).endswith("is a service of Raven's that runs")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_every_store_says_whether_it_is_needed() -> None:
    assert [name for name, make in STORES.items() if not make(Settings()).needed] == ["redis"]
