"""Which Kafka a command talks to, and a quick word when it is not there."""

import os
import socket
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr

from ravencore.config import Settings, load, variable
from ravencore.errors import Unavailable
from ravenctl.local.stack import Stack
from ravenctl.local.state import Endpoints, StackState
from ravenctl.shell import HOME

DEMO = "demo"
CONNECT_S = 3.0
METADATA_S = 10.0
QUIET = {"log_level": 0}
"""For librdkafka's clients: a command says itself, once, what is wrong."""


class Running(NamedTuple):
    """A local stack that runs, and where it lives."""

    home: Path
    state: StackState


def resolve(bootstrap: str | None = None) -> Settings:
    """The settings with the cluster they mean.

    That is the one given, else the configured one, else a local stack that runs in RAVEN_HOME, or where that is unset
    in `.raven` of this folder or one above it, with its stores but those that an environment variable names, else a
    demo that was kept there, else the default. Raises ConfigError.
    """
    settings = load()
    named = bootstrap or configured(settings)
    if named:
        return settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"bootstrap": named})})
    running = running_stack(Path.cwd())
    return pointed_at(settings, unnamed(told_by(running.state.endpoints))) if running else settings


def pointed_at(settings: Settings, sections: Mapping[str, Mapping[str, Any]]) -> Settings:
    """The settings with the servers and the lake of a local stack."""
    changed = {name: getattr(settings, name).model_copy(update=values) for name, values in sections.items()}
    return settings.model_copy(update=changed)


def told_by(endpoints: Endpoints) -> dict[str, dict[str, Any]]:
    """The settings that a local stack decides, by section, in each the address first."""
    return {
        "kafka": {"bootstrap": endpoints.kafka_bootstrap},
        "influx": {"url": endpoints.questdb_url, "flavour": "questdb"},
        "mart": {"dsn": SecretStr(endpoints.postgres_dsn)},
        "redis": {"url": SecretStr(endpoints.redis_url)} if endpoints.redis_url else {},
        "lake": {"uri": endpoints.lake_uri},
    }


def unnamed(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Those whose address no environment variable names: that is above all else."""
    named = {name.upper() for name in os.environ}
    return {
        section: values
        for section, values in sections.items()
        if values and not {variable(f"{section}.{next(iter(values))}"), variable(section)} & named
    }


def configured(settings: Settings) -> str | None:
    """The bootstrap servers that a file or the environment names."""
    return settings.kafka.bootstrap if "bootstrap" in settings.kafka.model_fields_set else None


def stack_of(settings: Settings) -> StackState | None:
    """The local stack here whose Kafka these settings mean, however they came to."""
    running = _running(settings)
    return running.state if running else None


def _running(settings: Settings) -> Running | None:
    running = running_stack(Path.cwd())
    if running is None or running.state.endpoints.kafka_bootstrap != settings.kafka.bootstrap:
        return None
    return running


def wake(settings: Settings, services: Collection[str]) -> list[str]:
    """Start those of these services that are stopped or failed in the local stack; names of those that it started."""
    running = _running(settings)
    if running is None:
        return []
    members = running.state.members
    asleep = [name for name in services if name in members and members[name].state in {"stopped", "failed"}]
    if asleep:
        Stack(running.home).restart(*asleep)
    return asleep


def running_stack(folder: Path) -> Running | None:
    """The stack that runs in RAVEN_HOME, in this folder or in one above it."""
    named = [Path(os.environ["RAVEN_HOME"])] if os.environ.get("RAVEN_HOME") else []
    homes = named or [above / HOME for above in (folder, *folder.parents)]
    places = [home / part for home in homes for part in ("", DEMO)]
    found = ((home, Stack(home).status()) for home in places if (home / "stack.json").is_file())
    return next((Running(home, state) for home, state in found if state), None)


def reach(bootstrap: str | None = None) -> Settings:
    """The settings of a cluster that answers; raises Unavailable within seconds when it does not."""
    settings = resolve(bootstrap)
    check(settings)
    return settings


def check(settings: Settings) -> None:
    """Raises Unavailable within seconds when Kafka does not answer."""
    home = os.environ.get("RAVEN_HOME")
    if home and configured(settings) is None:
        # Not some other Kafka that happens to listen where they usually do.
        raise Unavailable(f"nothing runs in {home}, which RAVEN_HOME names: run `ravenctl local up`, or unset it")
    servers = settings.kafka.bootstrap
    if not any(accepts(server) for server in servers.split(",")):
        raise Unavailable(_away(servers, "nothing listens there"))
    client = AdminClient({"bootstrap.servers": servers, **QUIET})
    try:
        client.list_topics(timeout=METADATA_S)
    except KafkaException as error:
        raise Unavailable(_away(servers, error.args[0].str())) from None


def _away(servers: str, why: str) -> str:
    return (
        f"Kafka at {servers} does not answer ({why}): run `ravenctl local up` to have one here, "
        "or name yours with --bootstrap HOST:PORT or RAVEN_KAFKA__BOOTSTRAP"
    )


def accepts(server: str, timeout_s: float = CONNECT_S) -> bool:
    """Whether something listens at host:port."""
    host, _, port = server.strip().rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except (OSError, ValueError):
        return False
    return True
