"""The language on the wire: every field is explained, ids never change meaning, and old records stay readable."""

import hashlib
import json
from importlib.resources import files
from io import BytesIO
from typing import Any

import fastavro
import pytest
from fastavro.utils import generate_one

from ravencore.codec import Schema, load_schema, pinned_schemas
from ravencore.records import RECORDS

FIRST_PINNED_ID = 1_000_001
FOLDERS = {"": files("schemas"), "past/": files("schemas").joinpath("past")}
AVSC = sorted(
    prefix + path.name for prefix, folder in FOLDERS.items() for path in folder.iterdir() if path.name.endswith(".avsc")
)


def pins() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(files("schemas").joinpath("pins.json").read_text())
    return found


def fingerprint(schema: Any) -> str:
    """SHA-256 of all of a schema but its docs: types, defaults and logical types."""

    def undocumented(part: Any) -> Any:
        if isinstance(part, list):
            return [undocumented(item) for item in part]
        if isinstance(part, dict):
            return {name: undocumented(item) for name, item in part.items() if name != "doc"}
        return part

    return hashlib.sha256(json.dumps(undocumented(schema)).encode()).hexdigest()


def every_field(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [field for part in schema for field in every_field(part)]
    if not isinstance(schema, dict):
        return []
    fields = schema.get("fields", [])
    inner = [*fields, *(field["type"] for field in fields), schema.get("items"), schema.get("type")]
    return [*fields, *(field for part in inner if part not in fields for field in every_field(part))]


@pytest.mark.parametrize("name", AVSC)
def test_every_field_and_record_is_explained(name: str) -> None:
    schema = load_schema(name)
    assert schema["doc"].endswith(".")
    assert [field["name"] for field in every_field(schema) if not field.get("doc", "").endswith(".")] == []


@pytest.mark.parametrize(("schema_id", "pin"), pins().items())
def test_a_pinned_schema_never_changes(schema_id: str, pin: dict[str, str]) -> None:
    """Change a record by a new .avsc version under a new id; the old text moves to its own file and keeps its pin."""
    assert int(schema_id) >= FIRST_PINNED_ID
    assert fingerprint(load_schema(pin["file"])) == pin["sha256"]


def test_every_schema_is_pinned_once() -> None:
    assert sorted(pin["file"] for pin in pins().values()) == AVSC
    assert {f"{cls.SCHEMA}.avsc" for cls in RECORDS} <= set(AVSC)


def same_record() -> list[tuple[int, Schema, Schema]]:
    current = {load_schema(f"{cls.SCHEMA}.avsc")["name"]: load_schema(f"{cls.SCHEMA}.avsc") for cls in RECORDS}
    return [(schema_id, old, current[old["name"]]) for schema_id, old in pinned_schemas().items()]


@pytest.mark.parametrize(("schema_id", "old", "current"), same_record())
def test_todays_code_reads_what_every_pinned_schema_wrote(schema_id: int, old: Schema, current: Schema) -> None:
    assert can_read(old, current)


def can_read(old: Schema, new: Schema) -> bool:
    """True where the new schema reads records the old one wrote (backward compatibility)."""
    writer, reader = fastavro.parse_schema(old), fastavro.parse_schema(new)
    try:
        for _ in range(20):
            body = BytesIO()
            fastavro.schemaless_writer(body, writer, generate_one(writer))
            body.seek(0)
            fastavro.schemaless_reader(body, writer, reader)
    except (fastavro.schema.SchemaParseException, fastavro.read.SchemaResolutionError):
        return False
    return True


def test_the_compatibility_test_sees_what_breaks_readers() -> None:
    old = load_schema("trade.avsc")
    without_default, retyped, with_default = (load_schema("trade.avsc") for _ in range(3))
    without_default["fields"].append({"name": "fee", "type": "long"})
    retyped["fields"][4]["type"] = "long"
    with_default["fields"].append({"name": "fee", "type": ["null", "long"], "default": None})
    assert not can_read(old, without_default)
    assert not can_read(old, retyped)
    assert can_read(old, with_default)
