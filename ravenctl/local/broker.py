"""One Kafka node on its own, without a supervisor: for tests that kill it and for benchmarks."""

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

START_SECONDS = 60.0


class Broker:
    """A Kafka node in a temporary folder; it keeps its port and its data when it is started again."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="raven-kafka-"))
        taken: set[int] = set()
        port, controller = ports.choose((), taken), ports.choose((), taken)
        self.bootstrap = f"{ports.LOOPBACK}:{port}"
        self._port = port
        self._launch = kafka.launch(self.home, port, controller, [str(jar) for jar in jars.classpath("kafka", QUIET)])
        self._process: subprocess.Popen[bytes] | None = None

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

    def start(self) -> None:
        """Start it and return when it answers; raises StackError when it does not."""
        assert self._launch.prepare is not None
        self._launch.prepare()
        with (self.home / "kafka.log").open("ab") as log:
            self._process = subprocess.Popen(self._launch.argv, cwd=self._launch.cwd, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not kafka.answers(self._port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise StackError(f"Kafka does not start: see {self.home / 'kafka.log'}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
