"""What a run of either side needs; it imports nothing of theirs, for each side has an environment of its own."""

import time
from pathlib import Path
from types import TracebackType
from typing import Any


class Stopwatch:
    """Clock and CPU, of all threads, from entering to leaving it."""

    def __enter__(self) -> "Stopwatch":
        self._began, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds, self.cpu_seconds = time.perf_counter() - self._began, time.process_time() - self._cpu

    def result(self, frames: int, records: int) -> dict[str, float]:
        """What a run prints."""
        return {"frames": frames, "records": records, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds}


def frames_of(case: dict[str, Any]) -> list[bytes]:
    """The frames of a case, in memory."""
    return Path(case["path"]).read_bytes().split(b"\n")
