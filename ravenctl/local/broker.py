"""One server on its own, without a supervisor: for tests that kill it and for benchmarks."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from ravenctl.local import jars, kafka, ports
from ravenctl.local.errors import StackError
from ravenctl.local.progress import QUIET
from ravenctl.local.server import Launch, as_user

START_SECONDS = 60.0


class Alone:
    """A server; it keeps its port and its data when it is started again."""

    def __init__(self, launch: Launch, log: Path) -> None:
        self._launch, self._log = launch, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it answers; raises StackError when it does not."""
        launch = self._launch
        assert launch.prepare is not None
        assert launch.is_ready is not None
        launch.prepare()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                launch.argv, cwd=launch.cwd, stdout=log, stderr=log, **as_user(launch.account)
            )
        deadline = time.monotonic() + START_SECONDS
        while not launch.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise StackError(f"{launch.argv[0]} does not start: see {self._log}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Broker(Alone):
    """A Kafka node in a temporary folder."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="raven-kafka-"))
        taken: set[int] = set()
        port, controller = ports.choose((), taken), ports.choose((), taken)
        self.bootstrap = f"{ports.LOOPBACK}:{port}"
        launch = kafka.launch(self.home, port, controller, [str(jar) for jar in jars.classpath("kafka", QUIET)])
        super().__init__(launch, self.home / "kafka.log")

    def __enter__(self) -> Broker:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)
