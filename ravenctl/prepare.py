"""What must be there before the first service starts: topics, the pinned schemas in a registry, and the stores."""

import socket
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ravencore import kafka
from ravencore.config import Settings
from ravencore.errors import ConfigError, Unavailable
from ravencore.topics import TOPICS
from ravenctl.schemas import import_schemas
from ravenctl.shell import WrongUse
from sinks.contract import Store
from sinks.registry import STORES

TIMEOUT_S = 10.0


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
    chosen = list(names or STORES)
    with ThreadPoolExecutor() as pool:  # one that hangs does not add to another that does
        for name, (needed, lines) in zip(
            chosen, pool.map(lambda one: _set_up(STORES[one], settings), chosen), strict=True
        ):
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
