"""The process behind a local stack: `python -m ravenctl.local.supervisor --home DIR`.

It detaches, keeps the members of `<home>/spec.json` running, and records them in `<home>/stack.json`.
Servers start side by side, services after them, one behind the other. SIGHUP: read the spec again and follow
it. SIGTERM or SIGINT: stop services, then servers, each in reverse order. It also stops when its home is
removed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import msgspec

from ravenctl.local import kafka, logs, postgres, questdb, redis_server, state
from ravenctl.local.errors import StackError
from ravenctl.local.member import Member
from ravenctl.local.policy import RestartBudget
from ravenctl.local.server import Launch
from ravenctl.local.state import ServiceSpec, StackPhase, StackSpec, StackState

log = logging.getLogger(__name__)

TICK_SECONDS = 2.0


class Supervisor:
    """Holds every member of one home."""

    def __init__(self, home: Path, spec: StackSpec) -> None:
        self._home = home
        self._spec = spec
        self._phase: StackPhase = "starting"
        self._identity = state.process_id(os.getpid())
        self._servers: dict[str, Member] = {}
        self._services: dict[str, tuple[ServiceSpec, Member]] = {}
        self._followed: StackSpec | None = None
        self._stop = asyncio.Event()
        self._reread = asyncio.Event()

    async def run(self) -> None:
        """Runs the stack until a signal, or the loss of its home, ends it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reread.set)
        self._reread.set()
        work = (self._stop.wait(), self._follow(), self._tick())
        tasks = [asyncio.create_task(part) for part in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._stop_all()

    async def _follow(self) -> None:
        """Brings what runs to what the spec says, now and after each SIGHUP."""
        while True:
            await self._reread.wait()
            self._reread.clear()
            spec = state.read(state.spec_path(self._home), StackSpec)
            if spec is None:
                return
            before, self._followed = self._followed, spec
            self._spec, self._phase = spec, "starting"
            self._start_servers()
            await self._drop_changed(before, spec)
            self._record()
            await self._start_services(spec)
            self._phase = "running"
            self._record()

    def _start_servers(self) -> None:
        for name, launch in server_launches(self._home, self._spec).items():
            if name not in self._servers:
                self._servers[name] = self._member(name, launch, RestartBudget(), server=True)
                self._servers[name].start()

    async def _drop_changed(self, before: StackSpec | None, spec: StackSpec) -> None:
        """Stops services that are no longer wanted or wanted otherwise, and restarts servers when asked."""
        if before is None:
            return
        again = {name for name, count in spec.generations.items() if count != before.generations.get(name, 0)}
        wanted = {service.name: service for service in spec.services}
        for name, (service, member) in reversed(list(self._services.items())):
            if name in again or wanted.get(name) != service:
                await member.stop()
                del self._services[name]
        for name in again & set(self._servers):
            await self._servers.pop(name).stop()
        self._start_servers()

    async def _start_services(self, spec: StackSpec) -> None:
        for member in list(self._servers.values()):
            await self._ready_or_reread(member)
        for service in spec.services:
            if self._reread.is_set():
                return  # the new spec decides
            if service.name not in self._services:
                self._start_service(service)
            if service.announces:
                await self._ready_or_reread(self._services[service.name][1])

    async def _ready_or_reread(self, member: Member) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (member.ready, self._reread)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _start_service(self, service: ServiceSpec) -> None:
        budget = RestartBudget(service.restarts, service.restart_window_seconds)
        member = self._member(service.name, partial(self._service_launch, service), budget, server=False)
        self._services[service.name] = (service, member)
        member.start()

    def _member(self, name: str, launch: partial[Launch], budget: RestartBudget, *, server: bool) -> Member:
        log_file = self._home / "logs" / f"{name}.log"
        return Member(name, launch, log_file, budget, self._record, server=server)

    def _service_launch(self, service: ServiceSpec) -> Launch:
        ready_file = self._ready_file(service.name)
        env = {
            **endpoint_environment(self._spec),
            **self._announced(service.name),
            "RAVEN_SERVICE__NAME": service.name,
            "RAVEN_SERVICE__INSTANCE": f"{service.name}-0",
            "RAVEN_READY_FILE": str(ready_file),
            **service.env,
        }
        return Launch(
            argv=service.argv,
            env=env,
            prepare=partial(ready_file.unlink, missing_ok=True),
            is_ready=ready_file.exists if service.announces else None,
            stop_seconds=service.stop_seconds,
        )

    def _announced(self, upto: str) -> dict[str, str]:
        """What the services before this one have announced, and this one in its life before."""
        env: dict[str, str] = {}
        for name, (service, _) in self._services.items():
            file = self._ready_file(name)
            if service.announces and file.exists():
                env |= _announcement(file)
            if name == upto:
                break
        return env

    def _ready_file(self, name: str) -> Path:
        return self._home / "run" / f"{name}.json"

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if not state.spec_path(self._home).exists():
                log.warning("the home is gone: stopping")
                return
            for file in (self._home / "logs").glob("*.log"):
                logs.rotate(file)
            changed = [member.count_restarts() for member in self._members().values()]
            if any(changed):
                self._record()

    async def _stop_all(self) -> None:
        self._phase = "stopping"
        self._record()
        for _, member in reversed(list(self._services.values())):
            await member.stop()
        await asyncio.gather(*(member.stop() for member in reversed(list(self._servers.values()))))
        self._phase = "stopped"
        self._record()
        log.info("stopped")

    def _members(self) -> dict[str, Member]:
        return self._servers | {name: member for name, (_, member) in self._services.items()}

    def _record(self) -> None:
        snapshot = StackState(
            phase=self._phase,
            revision=self._spec.revision,
            supervisor=self._identity,
            endpoints=self._spec.endpoints,
            external=self._spec.external,
            members={name: member.state for name, member in self._members().items()},
        )
        try:
            state.write(state.state_path(self._home), snapshot)
        except FileNotFoundError:
            self._stop.set()


def _announcement(file: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise StackError(f"{file} must hold one JSON object of text values: {error}") from error


def server_launches(home: Path, spec: StackSpec) -> dict[str, partial[Launch]]:
    """The servers this spec wants started here, in order."""
    ports, jars = spec.ports, spec.jars
    servers: dict[str, partial[Launch]] = {}
    if ports.kafka:
        servers["kafka"] = partial(kafka.launch, home, ports.kafka, ports.kafka_controller, jars["kafka"])
    if ports.questdb:
        servers["questdb"] = partial(questdb.launch, home, ports.questdb, jars["questdb"])
    if ports.postgres:
        servers["postgres"] = partial(postgres.launch, home, ports.postgres)
    if ports.redis:
        servers["redis"] = partial(redis_server.launch, home, ports.redis)
    return servers


def endpoint_environment(spec: StackSpec) -> dict[str, str]:
    """Where the servers are, as Raven's services read it."""
    env = {
        "RAVEN_KAFKA__BOOTSTRAP": spec.endpoints.kafka_bootstrap,
        "RAVEN_INFLUX__URL": spec.endpoints.questdb_url,
        "RAVEN_MART__DSN": spec.endpoints.postgres_dsn,
        "RAVEN_LAKE__URI": spec.endpoints.lake_uri,
    }
    if "questdb" not in spec.external:
        env["RAVEN_INFLUX__FLAVOUR"] = "questdb"
    if spec.endpoints.redis_url:
        env["RAVEN_REDIS__URL"] = spec.endpoints.redis_url
    return env


def main() -> None:
    """Detaches from the caller and supervises."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--home", type=Path, required=True)
    home = arguments.parse_args().home.resolve()
    if os.fork():
        os._exit(0)  # nobody's child: whoever called need not outlive it nor collect it
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(format="%(asctime)sZ %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    spec = state.read(state.spec_path(home), StackSpec)
    if spec is None:
        raise StackError(f"{home} holds no stack: use `ravenctl local up`")
    log.info("supervisor %d of %s", os.getpid(), home)
    try:
        asyncio.run(Supervisor(home, spec).run())
    except Exception:
        log.exception("supervisor failed")
        raise


if __name__ == "__main__":
    main()
