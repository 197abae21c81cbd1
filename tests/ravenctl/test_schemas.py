"""`ravenctl schemas`: records, their ids and their fields; a registry is asked and nothing is registered in it."""

import json
from typing import Any

from typer.testing import CliRunner

from ravencore.codec import load_schema, pinned_id
from ravencore.records import RECORDS
from ravenctl.cli import app
from ravenctl.schemas import fields, type_of


def told(*arguments: str) -> Any:
    done = CliRunner().invoke(app, ["schemas", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def test_every_record_is_told_with_its_pinned_ids() -> None:
    found = {one["record"]: one for one in told()}
    assert found.keys() == {cls.SCHEMA for cls in RECORDS}
    assert all(one["pinned_id"] == one["versions"][-1] == pinned_id(name) for name, one in found.items())
    assert len(found["trade"]["versions"]) > 1
    assert found["trade"]["registry_id"] is None


def test_a_record_is_told_with_its_fields_and_those_within_it() -> None:
    assert told("trade") == told("Trade")
    found = {field["name"]: field["type"] for field in told("book")["fields"]}
    assert found["event_time"] == "timestamp-micros or null"
    assert found["bids"] == "array of Level"
    assert found["bids.price"] == "decimal(38,18)"
    assert found["source"] == "VENUE_SNAPSHOT | MAINTAINED"


def test_every_field_has_a_type_and_a_doc() -> None:
    for cls in RECORDS:
        for field in fields(load_schema(f"{cls.SCHEMA}.avsc")):
            assert field.type, field
            assert field.doc, field


def test_maps_and_plain_types() -> None:
    assert type_of({"type": "map", "values": "long"}) == "map of long"
    assert type_of(["null", "string", "long"]) == "string or long or null"
