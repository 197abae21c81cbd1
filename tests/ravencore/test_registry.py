"""The schema registry client, over real HTTP against a server that speaks the documented part of Confluent's API.

A Confluent registry itself cannot be had from pip; the conversation with one is not tested here.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from ravencore.codec import Codec, load_schema
from ravencore.errors import Unavailable, Unreadable
from ravencore.records import Demand
from ravencore.registry import SchemaRegistry

DEMAND = Demand(demand_id="d", user="u", symbol="S", created_time=1)


class Handler(BaseHTTPRequestHandler):
    """POST /subjects/S/versions {"schema": text} -> {"id": n}; GET /schemas/ids/n -> {"schema": text}."""

    schemas: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["schema"]
        if text not in self.schemas:
            self.schemas.append(text)
        self.answer(200, {"id": self.schemas.index(text) + 1})

    def do_GET(self) -> None:
        number = int(self.path.rpartition("/")[2])
        if number <= len(self.schemas):
            self.answer(200, {"schema": self.schemas[number - 1]})
        else:
            self.answer(404, {"error_code": 40403, "message": "Schema not found"})

    def answer(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Handler.schemas.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_what_one_process_registers_another_reads(url: str) -> None:
    value = Codec(SchemaRegistry(url)).encode(DEMAND)
    assert value[:5] == b"\x00\x00\x00\x00\x01"
    assert Codec(SchemaRegistry(url + "/")).decode(value) == DEMAND


def test_an_id_is_asked_for_once_and_stays(url: str) -> None:
    codec = Codec(SchemaRegistry(url))
    codec.encode(DEMAND)
    Handler.schemas.insert(0, "moved")
    assert codec.encode(DEMAND)[4] == 1


def test_an_unknown_id_is_unreadable(url: str) -> None:
    with pytest.raises(Unreadable, match="has nothing at /schemas/ids/9"):
        Codec(SchemaRegistry(url)).decode(b"\x00\x00\x00\x00\x09x")


def test_a_foreign_schema_is_unreadable(url: str) -> None:
    Handler.schemas.append(json.dumps({"type": "record", "name": "Cat", "fields": []}))
    with pytest.raises(Unreadable, match="'Cat' is none of Raven's"):
        Codec(SchemaRegistry(url)).decode(b"\x00\x00\x00\x00\x01")


def test_pinned_ids_need_no_registry(url: str) -> None:
    assert Codec(SchemaRegistry("http://127.0.0.1:1")).decode(Codec().encode(DEMAND)) == DEMAND


def test_a_registry_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        SchemaRegistry("http://127.0.0.1:1").id_of("demand", load_schema("demand.avsc"))
