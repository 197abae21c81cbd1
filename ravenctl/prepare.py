"""What must be there before the first service starts: topics and, with a schema registry, the pinned schemas.

Registry API: https://docs.confluent.io/platform/current/schema-registry/develop/api.html ; only in mode IMPORT does a
registry take ids that somebody else chose, and it enters that mode only while it is empty.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from ravencore import kafka
from ravencore.codec import load_schema, pinned_id, pinned_schemas
from ravencore.config import Settings
from ravencore.errors import Unavailable
from ravencore.records import RECORDS
from ravencore.topics import TOPICS

TIMEOUT_S = 10.0
HEADERS = {"Content-Type": "application/vnd.schemaregistry.v1+json"}


def prepare(settings: Settings, say: Callable[[str], None]) -> None:
    """Create what is missing and say what was done; safe to run twice. Raises Unavailable."""
    created = kafka.ensure_topics(settings.kafka)
    for name in created:
        say(f"topic {name} created")
    if not created:
        say(f"topics: all {len(TOPICS)} are there")
    if settings.schema_registry.url:
        say(import_schemas(settings.schema_registry.url.rstrip("/")))
    else:
        say("schemas: pinned ids are used; name a registry with RAVEN_SCHEMA_REGISTRY__URL to have them served")


def import_schemas(url: str) -> str:
    """Put the pinned schemas with their ids into an empty registry; one sentence on what was done. Raises Unavailable.

    A registry that holds schemas is left alone: services register theirs there and use the ids it gives.
    """
    present = _call(url, "GET", "/subjects?deleted=true")
    ours = _versions()
    if set(present) >= set(ours) and all(_id_of(url, subject) == ids[-1][0] for subject, ids in ours.items()):
        return f"schemas: the registry at {url} holds all {len(ours)} with their pinned ids"
    if present:
        return f"schemas: the registry at {url} is in use; services register theirs there, with the ids it gives"
    _call(url, "PUT", "/mode", {"mode": "IMPORT"})
    try:
        for subject, ids in ours.items():
            for version, (schema_id, schema) in enumerate(ids, start=1):
                body = {"schema": json.dumps(schema), "id": schema_id, "version": version}
                _call(url, "POST", f"/subjects/{subject}/versions", body)
    finally:
        _call(url, "PUT", "/mode", {"mode": "READWRITE"})
    return f"schemas: {len(ours)} imported into the registry at {url} with their pinned ids"


def _versions() -> dict[str, list[tuple[int, Any]]]:
    """Pinned ids and schemas of each subject, oldest first."""
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
        raise Unavailable(f"the schema registry at {url} refused {method} {path}: {error.code} {said}") from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"the schema registry at {url} does not answer: {error}") from None
