"""Schemas: the pinned ones with their ids, those of a Confluent-compatible registry, and the ones put into it.

Registry API: https://docs.confluent.io/platform/current/schema-registry/develop/api.html ; only in mode IMPORT does a
registry take ids that somebody else chose, and it enters that mode only while it is empty.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ravencore.codec import load_schema, pinned_id, pinned_schemas
from ravencore.errors import Unavailable
from ravencore.hiding import without_password
from ravencore.records import RECORDS
from ravenctl.shell import WrongUse, nearest

TIMEOUT_S = 10.0
HEADERS = {"Content-Type": "application/vnd.schemaregistry.v1+json"}


def import_schemas(url: str) -> str:
    """Put the pinned schemas with their ids into an empty registry; one sentence on what was done. Raises Unavailable.

    A registry that holds schemas is left alone: services register theirs there and use the ids it gives.
    """
    present = _call(url, "GET", "/subjects?deleted=true")
    ours = versions()
    if set(present) >= set(ours) and all(_id_of(url, subject) == ids[-1][0] for subject, ids in ours.items()):
        return f"the registry at {without_password(url)} holds all {len(ours)} with their pinned ids"
    if present:
        where = without_password(url)
        return f"the registry at {where} is in use; services register theirs there, with the ids it gives"
    _call(url, "PUT", "/mode", {"mode": "IMPORT"})
    try:
        for subject, ids in ours.items():
            for version, (schema_id, schema) in enumerate(ids, start=1):
                body = {"schema": json.dumps(schema), "id": schema_id, "version": version}
                _call(url, "POST", f"/subjects/{subject}/versions", body)
    finally:
        _call(url, "PUT", "/mode", {"mode": "READWRITE"})
    return f"{len(ours)} imported into the registry at {without_password(url)} with their pinned ids"


def versions() -> dict[str, list[tuple[int, Any]]]:
    """Pinned ids and schemas of each subject `raven.<record>`, oldest first."""
    subjects = {load_schema(f"{cls.SCHEMA}.avsc")["name"]: f"raven.{cls.SCHEMA}" for cls in RECORDS}
    versions: dict[str, list[tuple[int, Any]]] = {subjects[name]: [] for name in subjects}
    for schema_id, schema in sorted(pinned_schemas().items()):
        versions[subjects[schema["name"]]].append((schema_id, schema))
    assert all(versions[f"raven.{cls.SCHEMA}"][-1][0] == pinned_id(cls.SCHEMA) for cls in RECORDS)
    return versions


def _id_of(url: str, subject: str) -> int:
    return int(_call(url, "GET", f"/subjects/{subject}/versions/latest")["id"])


def _call(url: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url + path, data, HEADERS, method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        said = error.read(300).decode(errors="replace")
        raise Unavailable(
            f"the schema registry at {without_password(url)} refused {method} {path}: {error.code} {said}"
        ) from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"the schema registry at {without_password(url)} does not answer: {error}") from None


# Looking


class Told(NamedTuple):
    """A record: its newest pinned id, its ids from the first version on, and the registry's newest, if it has any."""

    record: str
    pinned: int
    versions: list[int]
    registry: int | None
    schema: dict[str, Any]


class Field(NamedTuple):
    """A field of a record; one of a record within it by its dotted name."""

    name: str
    type: str
    doc: str


def told(name: str | None, registry_url: str | None) -> list[Told]:
    """All records, or the one of that name (`trade`, `Trade`); raises WrongUse, Unavailable."""
    found = {subject.removeprefix("raven."): ids for subject, ids in versions().items()}
    if name is not None:
        known = {record: record for record in found} | {ids[-1][1]["name"]: record for record, ids in found.items()}
        if name not in known:
            raise WrongUse(f"there is no record {name}: {nearest(name, found)}")
        found = {known[name]: found[known[name]]}
    served = registered(registry_url.rstrip("/")) if registry_url else {}
    return [
        Told(record, ids[-1][0], [number for number, _ in ids], served.get(record), ids[-1][1])
        for record, ids in found.items()
    ]


def registered(url: str) -> dict[str, int]:
    """By record, the id of the newest schema that a registry has; nothing is registered. Raises Unavailable."""
    present = set(_call(url, "GET", "/subjects"))
    return {subject.removeprefix("raven."): _id_of(url, subject) for subject in versions() if subject in present}


def fields(schema: dict[str, Any], prefix: str = "") -> Iterator[Field]:
    """Fields of a record, and of the records within it, once each."""
    for field in schema["fields"]:
        yield Field(prefix + field["name"], type_of(field["type"]), field["doc"])
        for inner in _records(field["type"]):
            yield from fields(inner, f"{prefix}{field['name']}.")


def _records(kind: Any) -> Iterator[dict[str, Any]]:
    match kind:
        case list():
            for one in kind:
                yield from _records(one)
        case {"type": "record"}:
            yield kind
        case {"type": "array", "items": inner} | {"type": "map", "values": inner}:
            yield from _records(inner)


def type_of(kind: Any) -> str:
    """A type in a few words: `decimal(38,18) or null`."""
    match kind:
        case str():
            return kind
        case list():
            known = [type_of(one) for one in kind if one != "null"]
            return " or ".join([*known, *(["null"] if "null" in kind else [])])
        case {"logicalType": "decimal"}:
            return f"decimal({kind['precision']},{kind['scale']})"
        case {"logicalType": str() as logical}:
            return logical
        case {"type": "array"}:
            return f"array of {type_of(kind['items'])}"
        case {"type": "map"}:
            return f"map of {type_of(kind['values'])}"
        case {"type": "enum"}:
            return " | ".join(kind["symbols"])
        case _:
            return str(kind.get("name") or kind["type"])


def for_scripts(one: Told, *, with_fields: bool) -> dict[str, Any]:
    """A record as JSON values."""
    found = {
        "record": one.record,
        "name": one.schema["name"],
        "pinned_id": one.pinned,
        "versions": one.versions,
        "registry_id": one.registry,
        "doc": one.schema["doc"],
    }
    return found | {"fields": [field._asdict() for field in fields(one.schema)]} if with_fields else found


def listed(found: Sequence[Told], *, has_registry: bool) -> RenderableType:
    """A line for each."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("RECORD", "ID", "VERSION", *(["REGISTRY"] if has_registry else []), "WHAT IT IS"):
        table.add_column(name, no_wrap=name != "WHAT IT IS", overflow="fold")
    for one in found:
        served = [str(one.registry or "-")] if has_registry else []
        table.add_row(one.record, str(one.pinned), str(len(one.versions)), *served, one.schema["doc"])
    return table


def shown(one: Told, *, has_registry: bool) -> RenderableType:
    """A record with its fields."""
    ids = ", ".join(map(str, one.versions))
    served = f"; in the registry {one.registry or 'not yet'}" if has_registry else ""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("FIELD", overflow="fold")
    table.add_column("TYPE", overflow="fold")
    table.add_column("WHAT IT IS", overflow="fold", ratio=1)
    for field in fields(one.schema):
        table.add_row(*map(Text, field))
    head = f"{one.schema['name']}: {one.schema['doc']} Pinned ids, oldest first: {ids}{served}."
    return Group(Text(head), "", table)
