"""What must be there before the first service starts: topics, the pinned schemas in a registry, and the stores.

Registry API: https://docs.confluent.io/platform/current/schema-registry/develop/api.html ; only in mode IMPORT does a
registry take ids that somebody else chose, and it enters that mode only while it is empty.
"""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from ravencore import kafka
from ravencore.codec import load_schema, pinned_id, pinned_schemas
from ravencore.config import Settings
from ravencore.errors import ConfigError, Unavailable
from ravencore.records import RECORDS
from ravencore.topics import TOPICS
from ravenctl.shell import WrongUse
from sinks.contract import Store
from sinks.registry import STORES

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
    if settings.service.metrics_port:
        say(check_metrics_port(settings.service.metrics_port))


def check_metrics_port(port: int) -> str:
    """A sentence on who has a port that a service here is to serve its metrics on; raises Unavailable for a stranger.

    A service of Raven that runs already has it by right.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
            return f"metrics: port {port} is free"
        except OSError as error:
            said = error.strerror
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/metrics", timeout=TIMEOUT_S) as page:
            ours = b"\nraven_" in page.read()
    except (OSError, ValueError):
        ours = False
    if ours:
        return f"metrics: port {port} is a service of Raven's that runs"
    raise Unavailable(
        f"metrics: port {port} cannot be used ({said}): name a free one by RAVEN_SERVICE__METRICS_PORT, or unset it"
    )


def prepare_stores(settings: Settings, names: Sequence[str], say: Callable[[str], None]) -> None:
    """Set up each store and say in a line or two what it is, or what it lacks; safe to run twice.

    Raises Unavailable when one that is needed is not there, WrongUse for a name that is none.
    """
    if unknown := set(names) - STORES.keys():
        raise WrongUse(f"there is no store {', '.join(sorted(unknown))}: name {', '.join(STORES)}")
    failed = []
    for name in names or STORES:
        needed, lines = _set_up(STORES[name], settings)
        for line in lines:
            say(f"{name}: {line}")
        failed += [name] if needed else []
    if failed:
        raise Unavailable(
            f"{', '.join(failed)} cannot be filled, see above; "
            "`ravenctl setup STORE ...` looks at those alone that you use"
        )


def _set_up(make: Callable[[Settings], Store], settings: Settings) -> tuple[bool, list[str]]:
    """Whether something needed is missing, and what there is to say."""
    try:
        store = make(settings)
    except ConfigError as error:
        return True, [f"failed: {error}"]
    try:
        store.setup()
        return False, [f"ok, {fact}" for fact in store.facts()]
    except (Unavailable, ConfigError) as error:
        return store.needed, [f"failed: {error}" if store.needed else f"off, and all else runs: {error}"]
    finally:
        store.close()


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
