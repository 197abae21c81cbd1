"""Pinned schemas into a schema registry: a server that keeps the rules its documentation states for mode IMPORT."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ravencore.codec import pinned_id, pinned_schemas
from ravencore.errors import Unavailable
from ravencore.records import RECORDS
from ravenctl.prepare import import_schemas


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


def test_a_registry_in_use_is_left_alone(registry: Registry) -> None:
    registry.subjects["orders-value"] = {1: (1, {"type": "string"})}
    assert "in use" in import_schemas(registry.url)
    assert list(registry.subjects) == ["orders-value"]


def test_a_registry_that_is_away_is_said_so() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        import_schemas("http://127.0.0.1:1")
