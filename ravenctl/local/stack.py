"""The local stack as a program sees it: up, down, status, and changes while it runs."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import psutil

from ravenctl.local import jars, logs, ports, postgres, redis_server, state
from ravenctl.local.errors import StackError
from ravenctl.local.progress import QUIET, Reporter
from ravenctl.local.state import Endpoints, MemberState, Ports, ServiceSpec, StackPhase, StackSpec, StackState

SERVERS = ("kafka", "questdb", "postgres", "redis")
POLL_SECONDS = 0.03
SETTLE_SECONDS = 1.0  # a service that lives this long has found its modules and settings
TRIES = 3  # deaths of one member after which `up` gives up
DOWN_SECONDS, KILLED_SECONDS = 60.0, 5.0


class Stack:
    """The stack of one home folder.

    `external` names servers that run elsewhere and are not started here: `kafka` (host:port),
    `questdb` (URL; an InfluxDB serves too), `postgres` (DSN), `redis` (URL); `lake` is a folder or URI, else one in the
    home folder. Where no Redis can be started, none is.
    """

    def __init__(
        self, home: Path, services: Sequence[ServiceSpec] = (), external: Mapping[str, str] | None = None
    ) -> None:
        self.home = home.resolve()
        self.services = list(services)
        self.external = dict(external or {})

    def up(self, report: Reporter = QUIET, timeout_seconds: float = 120.0) -> StackState:
        """Starts what is not running yet and returns when all of it runs; what runs already is left alone.

        A service that was asked to end, and did, is started again where `services` names it.
        Raises StackError when a member does not start; then nothing that this call started is left.
        """
        with self._alone():
            if self._running():
                return self._change(self._with_services(self.services), report, timeout_seconds)
            self._stop_orphans()
            try:
                self._start(report)
                return self._await_running(report, timeout_seconds)
            except BaseException:
                self._stop()
                raise

    def down(self) -> bool:
        """Stops everything of this home, whoever started it; False when nothing was running."""
        if not self.home.exists():
            return False
        with self._alone():
            return self._stop()

    def status(self) -> StackState | None:
        """What runs, or None when no supervisor does."""
        return self._running()

    def orphans(self) -> list[str]:
        """Members still alive although their supervisor is not (it was killed)."""
        recorded = self._recorded()
        if recorded is None or self._running():
            return []
        return [name for name, member in recorded.members.items() if state.find(member.pid, member.created)]

    def add(self, *services: ServiceSpec, timeout_seconds: float = 60.0) -> StackState:
        """Starts more services, or the same ones with other settings, or those that were asked to end.

        Raises StackError if they do not run.
        """
        with self._alone():
            return self._change(self._with_services(services), QUIET, timeout_seconds)

    def remove(self, *names: str, timeout_seconds: float = 60.0) -> StackState:
        """Stops services for good."""
        with self._alone():
            spec = self._spec()
            kept = [service for service in spec.services if service.name not in names]
            return self._change(msgspec.structs.replace(spec, services=kept), QUIET, timeout_seconds)

    def restart(self, *members: str, timeout_seconds: float = 60.0) -> StackState:
        """Stops members gently, starts them again with a full restart budget, and waits until they run."""
        with self._alone():
            spec = self._spec()
            generations = spec.generations | {name: spec.generations.get(name, 0) + 1 for name in members}
            changed = msgspec.structs.replace(spec, generations=generations)
            return self._change(changed, QUIET, timeout_seconds)

    def log_path(self, member: str) -> Path:
        """The log file of a member, or of the `supervisor`."""
        return self.home / "logs" / f"{member}.log"

    # Starting

    def _start(self, report: Reporter) -> None:
        for name, address in self.external.items():
            if name != "redis":  # a cache: its sink says that it is off, and goes on when it is there
                _check_external(name, address)
        spec = self._new_spec(report)
        for folder in (self.home, self.home / "logs", self.home / "run"):
            folder.mkdir(parents=True, exist_ok=True)
        state.write(state.spec_path(self.home), spec)
        with self.log_path("supervisor").open("ab") as log:
            subprocess.run(
                [sys.executable, "-P", "-m", "ravenctl.local.supervisor", "--home", str(self.home)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, check=True,
            )  # fmt: skip

    def _new_spec(self, report: Reporter) -> StackSpec:
        ours = [name for name in SERVERS if name not in self.external]
        if "redis" in ours and not redis_server.program():
            report.say(redis_server.MISSING)
            ours.remove("redis")
        classpaths = {name: [str(jar) for jar in jars.classpath(name, report)] for name in ours if name in jars.ROOTS}
        before = state.read(state.spec_path(self.home), StackSpec)
        chosen = choose_ports(ours, before.ports if before else Ports())
        return StackSpec(
            revision=before.revision + 1 if before else 1,
            ports=chosen,
            endpoints=self._endpoints(chosen),
            external=self.external,
            jars=classpaths,
            services=self.services,
        )

    def _endpoints(self, chosen: Ports) -> Endpoints:
        given = self.external.get
        return Endpoints(
            kafka_bootstrap=given("kafka") or f"{ports.LOOPBACK}:{chosen.kafka}",
            questdb_url=given("questdb") or f"http://{ports.LOOPBACK}:{chosen.questdb}",
            postgres_dsn=given("postgres") or postgres.dsn(self.home, chosen.postgres),
            redis_url=given("redis") or (redis_server.url(self.home, chosen.redis) if chosen.redis else ""),
            lake_uri=given("lake") or str(self.home / "lake"),
        )

    # Changing

    def _with_services(self, services: Sequence[ServiceSpec]) -> StackSpec:
        spec = self._spec()
        wanted = {service.name: service for service in (*spec.services, *services)}
        named = {service.name for service in services}
        running = self._running()
        again = {
            name: spec.generations.get(name, 0) + 1
            for name, member in (running.members.items() if running else ())
            if member.state == "failed" or (member.state == "stopped" and name in named)
        }
        return msgspec.structs.replace(spec, services=list(wanted.values()), generations={**spec.generations, **again})

    def _change(self, spec: StackSpec, report: Reporter, timeout_seconds: float) -> StackState:
        running = self._running()
        if running is None:
            raise StackError(f"nothing runs in {self.home}: use `ravenctl local up`")
        before = self._spec()
        if spec != before:
            spec = msgspec.structs.replace(spec, revision=spec.revision + 1)
            state.write(state.spec_path(self.home), spec)
            os.kill(running.supervisor.pid, signal.SIGHUP)
        known = {name: member.state for name, member in running.members.items()}
        stay = {name for name, how in known.items() if how == "stopped" and _same_life(name, before, spec)}
        return self._await_running(report, timeout_seconds, known, stay)

    def _spec(self) -> StackSpec:
        spec = state.read(state.spec_path(self.home), StackSpec)
        if spec is None:
            raise StackError(f"nothing runs in {self.home}: use `ravenctl local up`")
        return spec

    # Waiting

    def _await_running(
        self, report: Reporter, timeout_seconds: float, known: Mapping[str, str] = {}, stay: Collection[str] = ()
    ) -> StackState:
        """Returns when all runs but those that `stay` stopped; raises StackError."""
        began = time.monotonic()
        revision = self._spec().revision
        seen = dict(known)
        restarts: dict[str, int] = {}
        while True:
            current = self._recorded()
            if current and current.revision >= revision:
                self._say_changes(current, seen, report, time.monotonic() - began)
                awaited = {name: member for name, member in current.members.items() if name not in stay}
                self._check_members(awaited, restarts, current.phase)
                if current.phase == "running" and all(map(_settled, awaited.values())):
                    return current
            waited = time.monotonic() - began
            if waited > 5.0 and not self._running():
                raise StackError(f"the supervisor ended: {self._last_error('supervisor')}")
            if waited > timeout_seconds:
                late = [name for name, how in seen.items() if how != "running" and name not in stay] or ["supervisor"]
                raise StackError(f"{', '.join(late)} not running after {timeout_seconds:.0f} s: "
                                 f"see `ravenctl local logs {late[0]}`")  # fmt: skip
            time.sleep(POLL_SECONDS)

    def _say_changes(self, current: StackState, seen: dict[str, str], report: Reporter, seconds: float) -> None:
        for name, member in current.members.items():
            if seen.get(name) != member.state:
                seen[name] = member.state
                extra = f" ({member.last_exit})" if member.state in ("restarting", "failed") else ""
                report.say(f"{seconds:6.1f} s  {name} {member.state}{extra}")

    def _check_members(self, members: Mapping[str, MemberState], restarts: dict[str, int], phase: StackPhase) -> None:
        for name, member in members.items():
            if member.state == "stopped" and phase == "running":
                raise StackError(f"{name} ended by itself ({member.last_exit}); its log: {self.log_path(name)}")
            deaths = member.restarts - restarts.setdefault(name, member.restarts)
            if member.state == "failed" or (deaths >= TRIES and member.state != "running"):
                reason = member.last_error[-1] if member.last_error else "it wrote nothing"
                raise StackError(
                    f"{name} does not stay up ({member.last_exit}): {reason}; its log: {self.log_path(name)}"
                )

    def _last_error(self, member: str) -> str:
        return (logs.last_lines(self.log_path(member), 1) or ["it wrote nothing"])[0]

    # Stopping

    def _stop(self) -> bool:
        running = self._running()
        if running:
            supervisor = state.find(running.supervisor.pid, running.supervisor.created)
            if supervisor:
                _end([(supervisor, signal.SIGTERM)], DOWN_SECONDS)
        return self._stop_orphans() or running is not None

    def _stop_orphans(self) -> bool:
        """Stops members that outlived a killed supervisor: services, then servers, each in its own way."""
        recorded = self._recorded()
        if recorded is None:
            return False
        members = reversed(recorded.members.values())
        alive = [(process, member) for member in members if (process := state.find(member.pid, member.created))]
        for server in (False, True):
            group = [(process, member) for process, member in alive if member.server is server]
            seconds = max((member.stop_seconds for _, member in group), default=0.0)
            _end([(process, member.stop_signal) for process, member in group], seconds)
        return bool(alive)

    # The home's files

    def _recorded(self) -> StackState | None:
        return state.read(state.state_path(self.home), StackState)

    def _running(self) -> StackState | None:
        recorded = self._recorded()
        if recorded and state.find(recorded.supervisor.pid, recorded.supervisor.created):
            return recorded
        return None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One `up`, `down` or change of a home at a time."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            file = (self.home / ".lock").open("w")
        except OSError as error:
            raise StackError(f"cannot write to {self.home} ({error.strerror}): use another --home") from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def choose_ports(servers: Sequence[str], before: Ports) -> Ports:
    """Ports for the servers: those of last time, else the usual ones, else any that are free."""
    taken: set[int] = set()
    usual = {"kafka": 9092, "questdb": 9000, "postgres": 5432, "redis": 6379}
    chosen = {name: ports.choose((getattr(before, name), usual[name]), taken) for name in servers}
    if "kafka" in chosen:
        chosen["kafka_controller"] = ports.choose((before.kafka_controller,), taken)
    return Ports(**chosen)


def _settled(member: MemberState) -> bool:
    return member.state == "running" and (member.server or time.time() - member.since >= SETTLE_SECONDS)


def _same_life(name: str, before: StackSpec, after: StackSpec) -> bool:
    return before.generations.get(name, 0) == after.generations.get(name, 0)


def _end(processes: Sequence[tuple[psutil.Process, int]], seconds: float) -> None:
    for process, how in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(how)
    left = _outlasting([process for process, _ in processes], seconds)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _outlasting(left, KILLED_SECONDS)


def _outlasting(processes: Sequence[psutil.Process], seconds: float) -> Sequence[psutil.Process]:
    """Those that still run then. Not psutil.wait_procs: it waits until somebody has buried the dead as well."""
    deadline = time.monotonic() + seconds
    while (alive := [one for one in processes if state.runs(one)]) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return alive


def _check_external(name: str, address: str) -> None:
    """Raises StackError when a server that somebody named does not take connections."""
    if name == "postgres":
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

        parts = conninfo_to_dict(address)
        host, port = str(parts.get("host") or "localhost"), int(parts.get("port") or 5432)
        if host.startswith("/"):
            return
    else:
        first = address.split(",", maxsplit=1)[0]
        split = urlsplit(first if "://" in first else f"//{first}")
        host = split.hostname or "localhost"
        port = split.port or {"kafka": 9092}.get(name, 443 if split.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        raise StackError(
            f"{name} at {host}:{port}, named by your configuration, does not answer ({error.strerror or error}): "
            "start it, or remove the setting and a local one is started"
        ) from error
