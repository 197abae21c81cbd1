"""What must be there before the first service starts: topics, the pinned schemas in a registry, and the stores."""

import socket
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ravencore import kafka
from ravencore.config import Settings
from ravencore.errors import ConfigError, Unavailable
from ravencore.topics import TOPICS
from ravenctl.cluster import check
from ravenctl.schemas import import_schemas
from ravenctl.shell import WrongUse
from sinks.contract import Store
from sinks.registry import STORES

TIMEOUT_S = 10.0


def prepare(settings: Settings, stores: Sequence[str], say: Callable[[str], None]) -> None:
    """Create what is missing and say of each part in a line or two what it is, or what it lacks; safe to run twice.

    What fails holds up nothing else. Raises Unavailable when something that is needed did, WrongUse for a store that
    is none.
    """
    if unknown := set(stores) - STORES.keys():
        raise WrongUse(f"there is no store {', '.join(sorted(unknown))}: name {', '.join(STORES)}")
    parts: dict[str, Callable[[Settings], tuple[bool, list[str]]]] = {
        "Kafka": partial(_made, _topics),
        "schemas": partial(_made, _schemas),
        "metrics": partial(_made, _metrics),
        **{name: partial(_set_up, STORES[name]) for name in stores or STORES},
    }
    failed = []
    with ThreadPoolExecutor(len(parts)) as pool:  # one that hangs does not add to another that does
        for name, made in [(name, pool.submit(part, settings)) for name, part in parts.items()]:
            is_missing, lines = made.result()
            for line in lines:
                say(f"{name}: {line}")
            failed += [name] if is_missing else []
    if failed:
        raise Unavailable(
            f"{', '.join(failed)} cannot be used, see above; "
            "`ravenctl setup STORE ...` looks at those stores alone that you use"
        )


def _made(lines: Callable[[Settings], Iterator[str]], settings: Settings) -> tuple[bool, list[str]]:
    """Whether it failed, and what there is to say."""
    try:
        return False, [f"ok, {line}" for line in lines(settings)]
    except Unavailable as error:
        return True, [f"failed: {error}"]


def _topics(settings: Settings) -> Iterator[str]:
    check(settings)
    if created := kafka.ensure_topics(settings.kafka):
        yield from (f"topic {name} created" for name in created)
    else:
        yield f"all {len(TOPICS)} topics are there"


def _schemas(settings: Settings) -> Iterator[str]:
    if settings.schema_registry.url:
        yield import_schemas(settings.schema_registry.url.rstrip("/"))
    else:
        yield "pinned ids are used; name a registry with RAVEN_SCHEMA_REGISTRY__URL to have them served"


def _metrics(settings: Settings) -> Iterator[str]:
    if settings.service.metrics_port:
        yield check_metrics_port(settings.service.metrics_port)


def check_metrics_port(port: int) -> str:
    """A sentence on who has a port that a service here is to serve its metrics on; raises Unavailable for a stranger.

    A service of Raven that runs already has it by right.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
            return f"port {port} is free"
        except OSError as error:
            said = error.strerror
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/metrics", timeout=TIMEOUT_S) as page:
            ours = b"\nraven_" in page.read()
    except (OSError, ValueError):
        ours = False
    if ours:
        return f"port {port} is a service of Raven's that runs"
    raise Unavailable(
        f"port {port} cannot be used ({said}): name a free one by RAVEN_SERVICE__METRICS_PORT, or unset it"
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
