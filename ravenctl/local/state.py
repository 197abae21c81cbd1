"""The two files of a home: `spec.json`, what should run, and `stack.json`, what does."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import psutil

from ravenctl.local.errors import StackError

MemberPhase = Literal["starting", "running", "restarting", "failed", "stopped"]
StackPhase = Literal["starting", "running", "stopping", "stopped"]


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One of Raven's own processes.

    A service that `announces` writes a JSON object of text to the path in its environment's
    RAVEN_READY_FILE (atomically, by rename). Members after it start only then, with those
    keys as environment; so does the service itself when it is started again.
    """

    name: str
    argv: list[str]
    env: dict[str, str] = {}
    announces: bool = False
    restarts: int = 20
    restart_window_seconds: float = 600.0
    stop_seconds: float = 10.0


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Loopback ports of the servers; 0 for a server that is not started here."""

    kafka: int = 0
    kafka_controller: int = 0
    questdb: int = 0
    postgres: int = 0
    redis: int = 0


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where the servers are reached, of those started here or of those given, and the lake.

    Empty: there is no Redis to start.
    """

    kafka_bootstrap: str
    questdb_url: str
    postgres_dsn: str
    redis_url: str = ""
    lake_uri: str = ""


class StackSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor of a home keeps running; `revision` grows with every change.

    `generations` counts the restarts asked for, by member name.
    """

    revision: int
    ports: Ports
    endpoints: Endpoints
    external: dict[str, str]
    jars: dict[str, list[str]]
    services: list[ServiceSpec]
    generations: dict[str, int] = {}


class ProcessId(msgspec.Struct, frozen=True, kw_only=True):
    """A process that cannot be mistaken for a later one of the same number (`created`: unix seconds)."""

    pid: int
    created: float


class MemberState(msgspec.Struct, kw_only=True):
    """One process of the stack; `since` is when its state began, in unix seconds.

    `restarts_left` is how often it may die now and be started again; None where nobody counts.
    """

    state: MemberPhase
    pid: int | None = None
    created: float | None = None
    restarts: int = 0
    restarts_left: int | None = None
    last_exit: str | None = None
    last_error: list[str] = []
    since: float = 0.0
    log: str = ""
    stop_signal: int = 15
    stop_seconds: float = 15.0
    server: bool = False


class StackState(msgspec.Struct, kw_only=True):
    """What the supervisor last recorded; members are in the order in which they start."""

    phase: StackPhase
    revision: int
    supervisor: ProcessId
    endpoints: Endpoints
    external: dict[str, str]
    members: dict[str, MemberState]


T = TypeVar("T", bound=msgspec.Struct)


def spec_path(home: Path) -> Path:
    """Where the wanted state of a home is kept."""
    return home / "spec.json"


def state_path(home: Path) -> Path:
    """Where the supervisor of a home records what runs."""
    return home / "stack.json"


def write(path: Path, value: msgspec.Struct) -> None:
    """Replaces the file at once, readable to its owner only: a reader sees the old value or the new one."""
    content = msgspec.json.format(msgspec.json.encode(value), indent=2)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read(path: Path, kind: type[T]) -> T | None:
    """The value in the file, None when there is no file; raises StackError when it is not ours."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise StackError(f"{path} belongs to another user: run as that user, or use another --home") from error
    except (msgspec.MsgspecError, OSError) as error:
        raise StackError(f"{path} cannot be read ({error}); remove it, or use another --home") from error


def process_id(pid: int) -> ProcessId:
    """The identity of a running process; raises psutil.NoSuchProcess."""
    return ProcessId(pid=pid, created=psutil.Process(pid).create_time())


def find(pid: int | None, created: float | None) -> psutil.Process | None:
    """The process if that very one still runs; zombies do not."""
    if pid is None or created is None:
        return None
    try:
        process = psutil.Process(pid)
        # Boot time, which psutil adds, may be corrected by a second while we run.
        same = abs(process.create_time() - created) < 2.0
        return process if same and runs(process) else None
    except psutil.NoSuchProcess:
        return None


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended: a zombie has, if its parent has not looked yet."""
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
