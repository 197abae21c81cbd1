"""One process that is kept alive: started, known to be ready, started again when it dies, stopped."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from ravenctl.local.errors import StackError
from ravenctl.local.logs import last_lines
from ravenctl.local.policy import RestartBudget
from ravenctl.local.server import Launch, as_user
from ravenctl.local.state import MemberPhase, MemberState

log = logging.getLogger(__name__)

PROBE_SECONDS = 0.05
ERROR_LINES = 5
PR_SET_PDEATHSIG = 1  # linux/prctl.h

libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Member:
    """Keeps one process alive until it is stopped, its restart budget is spent, or, no server, it ends with code 0.

    Whoever ends a service with code 0 has asked it to: it stays `stopped`.

    `launch` is asked before every start, so that a new start sees what has changed; `changed` is called
    after every change of `state`.
    """

    def __init__(
        self,
        name: str,
        launch: Callable[[], Launch],
        log_file: Path,
        budget: RestartBudget,
        changed: Callable[[], None],
        *,
        server: bool,
    ) -> None:
        self.name = name
        self.state = MemberState(state="starting", log=str(log_file), since=time.time(), server=server)
        self.ready = asyncio.Event()
        self._launch = launch
        self._log_file = log_file
        self._budget = budget
        self._changed = changed
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._current: Launch | None = None
        self._task: asyncio.Task[None] | None = None
        self._log_start = 0

    def start(self) -> None:
        """Begins to keep the process alive."""
        self._task = asyncio.create_task(self._keep(), name=self.name)
        self._task.add_done_callback(self._done)

    def count_restarts(self) -> bool:
        """Brings `restarts_left` up to date; whether it has changed."""
        before, self.state.restarts_left = self.state.restarts_left, self._budget.left(time.monotonic())
        return before != self.state.restarts_left

    async def stop(self) -> None:
        """Ends the process: gently first, then by force; returns when it is gone."""
        self._stopping.set()
        if self._task:
            if self._process and self._process.returncode is None:
                await self._end(self._process)
            await self._task
        if self.state.state != "failed":
            self._enter("stopped", pid=None)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            log.error("%s: the supervisor's own fault", self.name, exc_info=error)
            self._enter("failed", pid=None)

    async def _keep(self) -> None:
        while not self._stopping.is_set():
            born = time.monotonic()
            how = await self._live()
            if self._stopping.is_set():
                self.state.last_exit = how
                return
            self.state.last_exit = how
            if how == AS_ASKED and not self.state.server:
                self._enter("stopped", pid=None)
                return
            lived = time.monotonic() - born
            delay = self._budget.next_delay(time.monotonic(), lived)
            self.state.last_error = last_lines(self._log_file, ERROR_LINES, self._log_start)
            if delay is None:
                log.error("%s %s; its restarts are spent: failed", self.name, how)
                self._enter("failed", pid=None)
                return
            self.state.restarts += 1
            log.warning("%s %s after %.1f s; restart %d in %.1f s", self.name, how, lived,
                        self.state.restarts, delay)  # fmt: skip
            self._enter("restarting", pid=None)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _live(self) -> str:
        """One life of the process; returns how it ended."""
        try:
            launch = self._current = self._launch()
            if launch.prepare:
                await asyncio.to_thread(launch.prepare)
            if self._stopping.is_set():
                return "not started"
            self._process = process = await self._spawn(launch)
        except (StackError, OSError) as error:
            self._note(str(error))
            return "could not start"
        self._enter(self.state.state if self.state.state == "restarting" else "starting", pid=process.pid)
        watch = asyncio.create_task(self._await_ready(process, launch))
        code = await process.wait()
        watch.cancel()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what it may have left behind
        return how_it_ended(code)

    async def _spawn(self, launch: Launch) -> asyncio.subprocess.Process:
        with self._log_file.open("ab") as out:
            self._log_start = out.tell()
            return await asyncio.create_subprocess_exec(
                *launch.argv,
                env={**os.environ, **launch.env},
                cwd=launch.cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_dies_with_us(launch.stop_signal),
                **as_user(launch.account),
            )

    async def _await_ready(self, process: asyncio.subprocess.Process, launch: Launch) -> None:
        deadline = time.monotonic() + launch.ready_seconds
        while launch.is_ready and not await asyncio.to_thread(launch.is_ready):
            if time.monotonic() > deadline:
                self._note(f"not ready within {launch.ready_seconds:.0f} s: killed")
                process.kill()
                return
            await asyncio.sleep(PROBE_SECONDS)
        self._enter("running", pid=process.pid)
        self.ready.set()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        launch = self._current
        assert launch
        with suppress(ProcessLookupError):
            process.send_signal(launch.stop_signal)
        try:
            await asyncio.wait_for(process.wait(), launch.stop_seconds)
        except TimeoutError:
            log.warning("%s did not stop within %.0f s: killed", self.name, launch.stop_seconds)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            return
        if launch.ended:
            launch.ended()

    def _enter(self, phase: MemberPhase, pid: int | None) -> None:
        created = None
        if pid is not None:
            with suppress(psutil.NoSuchProcess):
                created = psutil.Process(pid).create_time()
        if phase != self.state.state:
            self.state.since = time.time()
            log.info("%s %s", self.name, phase if pid is None else f"{phase}, process {pid}")
        self.state.state, self.state.pid, self.state.created = phase, pid, created
        self.count_restarts()
        if self._current:
            self.state.stop_signal = int(self._current.stop_signal)
            self.state.stop_seconds = self._current.stop_seconds
        self._changed()

    def _note(self, text: str) -> None:
        with self._log_file.open("a") as out:
            out.write(f"ravenctl: {text}\n")


def how_it_ended(code: int) -> str:
    """`killed by signal 9` or `ended with code 1`, from a return code as Python gives it."""
    return f"killed by signal {-code}" if code < 0 else f"ended with code {code}"


AS_ASKED = how_it_ended(0)


def _dies_with_us(how: signal.Signals) -> Callable[[], None] | None:
    """On Linux, the child asks to be sent the signal when its supervisor dies (prctl(2)).

    The supervisor starts children from its main thread only: the kernel means the thread, not the process.
    """
    prctl = libc.prctl if libc else None
    if prctl is None:
        return None
    ours, wanted = os.getpid(), int(how)

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, wanted, 0, 0, 0)
        if os.getppid() != ours:
            os.kill(os.getpid(), wanted)

    return ask
