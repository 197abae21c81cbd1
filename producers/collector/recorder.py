"""What sources send, kept in files as it came: the collector's own runners, without Kafka behind them."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from io import FileIO
from pathlib import Path

import aiohttp
import zstandard

from producers.actions import BadBytes
from producers.collector.gate import Gate
from producers.collector.outlet import Published
from producers.collector.runner import Runner
from producers.collector.service import REST_TIMEOUT_S, make_runner
from producers.contract import CHANNELS, Poll, Source
from producers.recording import BODIES, FRAMES, ODD, body_line, frame_line, odd_line
from producers.routing import Wants
from ravencore.config import Settings
from ravencore.errors import RavenError
from ravencore.records import Gap

FLUSH_S = 1.0
BLOCK_BYTES = 1 << 20


class CannotWrite(RavenError):
    """Raised when a recording cannot be written; what was written before can be played."""


class BlockFile:
    """Lines in zstd, in blocks that are each a whole zstd frame: a process killed between two flushes leaves a file
    that can be read to its end, one killed within a flush a file that lacks the end of that block.

    The file is made with its first block, and never over another.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._lines: list[bytes] = []
        self._held = 0
        self._file: FileIO | None = None

    def add(self, line: bytes) -> None:
        """Keep a line; raises CannotWrite."""
        self._lines.append(line)
        self._held += len(line)
        if self._held >= BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was kept; raises CannotWrite."""
        if not self._lines:
            return
        block = zstandard.ZstdCompressor(write_checksum=True).compress(b"".join(self._lines))
        self._lines.clear()
        self._held = 0
        try:
            if self._file is None:
                self._file = FileIO(self.path, "x")
            self._write(self._file, block)
        except OSError as error:
            raise CannotWrite(f"{self.path} cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        """Write what was kept and close the file; raises CannotWrite."""
        try:
            self.flush()
        finally:
            if self._file is not None:
                self._file.close()

    def _write(self, file: FileIO, block: bytes) -> None:
        """All of the block or nothing: a full disk takes a part."""
        left = memoryview(block)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(self.size)
            raise
        self.size += len(block)


class Recording:
    """One source: its files (a Tap), and what its records come to (a Taker that keeps none)."""

    blocked = False

    def __init__(self, source: Source, folder: Path, stem: str) -> None:
        """Raises CannotWrite where one of its files exists."""
        self.source = source
        self.polled = isinstance(source, Poll)
        self.frames = BlockFile(folder / f"{stem}{FRAMES}")
        self.bodies = BlockFile(folder / f"{stem}{BODIES}")
        self.odd = BlockFile(folder / f"{stem}{ODD}")
        self.counts: Counter[str] = Counter()
        """`frames`, `bodies`, `odd`, their `bytes`, `records`, `bad`, `gaps`."""
        self.last_ns = 0
        """When the last message came."""
        self.first_bad = ""
        for file in self.files:
            if file.path.exists():
                raise CannotWrite(f"{file.path} exists already: name another with --out")

    @property
    def files(self) -> tuple[BlockFile, ...]:
        """In the order of their importance."""
        return (self.frames, self.bodies, self.odd)

    @property
    def main(self) -> Path:
        """The file that the simulator is to be given; it finds the other."""
        return self.bodies.path if self.polled else self.frames.path

    @property
    def messages(self) -> int:
        """Frames, or the answers of a source that is polled."""
        return self.counts["bodies" if self.polled else "frames"]

    def frame(self, received_ns: int, frame: bytes) -> None:
        """Keep a WebSocket message; raises CannotWrite."""
        came_ns = self._came("frames", received_ns, frame)
        line = frame_line(came_ns, frame)
        if line is None:
            self._keep_odd(came_ns, None, frame)
        else:
            self.frames.add(line)

    def body(self, received_ns: int, url: str, body: bytes) -> None:
        """Keep a REST answer; raises CannotWrite."""
        came_ns = self._came("bodies", received_ns, body)
        line = body_line(came_ns, url, body)
        if line is None:
            self._keep_odd(came_ns, url, body)
        else:
            self.bodies.add(line)

    def put(self, _venue: str, record: Published) -> None:
        """Count a record."""
        if isinstance(record, BadBytes):
            self.counts["bad"] += 1
            self.first_bad = self.first_bad or record.detail
        elif isinstance(record, Gap):
            # That its trades begin somewhere is no gap in a recording, and what was refused is told by its name.
            self.counts["gaps"] += record.repair == "NONE" and record.cause not in ("COLD_START", "REFUSED")
        else:
            self.counts["records"] += type(record) in CHANNELS

    async def ready(self) -> None:
        """A recorder blocks nobody."""

    def flush(self) -> None:
        """Write all that has come; raises CannotWrite."""
        for file in self.files:
            file.flush()

    def close(self) -> None:
        """Write all that has come and close the files, each of them; raises CannotWrite."""
        with contextlib.ExitStack() as closing:
            for file in reversed(self.files):
                closing.callback(file.close)

    def _came(self, kind: str, received_ns: int, raw: bytes) -> int:
        """When it came: a clock that was set back in between must not put a file out of its order."""
        self.last_ns = max(self.last_ns, received_ns)
        self.counts[kind] += 1
        self.counts["bytes"] += len(raw)
        return self.last_ns

    def _keep_odd(self, came_ns: int, url: str | None, raw: bytes) -> None:
        self.counts["odd"] += 1
        self.odd.add(odd_line(came_ns, url, raw))


class Recorder:
    """Some sources, recorded side by side."""

    def __init__(
        self,
        settings: Settings,
        wanted: Mapping[str, Wants],
        recordings: Iterable[Recording],
        tell: Callable[[str], None],
    ) -> None:
        """`wanted` is told by `producers.routing.wanted`, by source; `tell` hears what is amiss."""
        self.recordings = {recording.source.name: recording for recording in recordings}
        self.runners: dict[str, Runner] = {}
        self._settings, self._wanted, self._tell = settings, wanted, tell

    async def run(self, stop: asyncio.Event) -> None:
        """Record until `stop` is set; raises CannotWrite. However it ends, what came before is written."""
        timeout = aiohttp.ClientTimeout(total=REST_TIMEOUT_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as http, asyncio.TaskGroup() as tasks:
                self._open(tasks, http)
                flushing = tasks.create_task(self._keep_flushing())
                await stop.wait()
                await asyncio.gather(*(runner.close() for runner in self.runners.values()))
                flushing.cancel()
        except BaseExceptionGroup as failures:
            known, unknown = failures.split(CannotWrite)
            if known is None or unknown is not None:
                raise
            raise CannotWrite("; ".join(str(failure) for failure in known.exceptions)) from None
        finally:
            with contextlib.ExitStack() as closing:
                for recording in self.recordings.values():
                    closing.callback(recording.close)

    def away(self) -> list[str]:
        """What cannot be reached now, a sentence each."""
        return [text for runner in self.runners.values() for text in runner.away]

    def refused(self) -> list[str]:
        """Feeds that a venue refused, a sentence each."""
        return [text for runner in self.runners.values() for text in runner.refusals()]

    def unlisted(self) -> list[tuple[str, str]]:
        """Source and symbol of what a venue says it does not have."""
        refused = [
            (name, feed.symbol)
            for name, runner in self.runners.items()
            for feed, state in runner.waiting.items()
            if state == "REFUSED"
        ]
        return list(dict.fromkeys(refused))

    def _open(self, tasks: asyncio.TaskGroup, http: aiohttp.ClientSession) -> None:
        gates: dict[str, Gate] = {}
        for name, recording in self.recordings.items():
            source = recording.source
            if source.venue not in gates:
                endpoints = getattr(self._settings.venues, source.venue)
                gates[source.venue] = Gate(source.venue, source.limits, endpoints, http)
            self.runners[name] = make_runner(
                source,
                gates[source.venue],
                recording,
                settings=self._settings,
                look_back=lambda _: {},
                tell=self._tell,
                tasks=tasks,
                tap=recording,
            )
            self.runners[name].demand(self._wanted[name])

    async def _keep_flushing(self) -> None:
        while True:
            due = time.monotonic() + FLUSH_S
            for recording in self.recordings.values():
                recording.flush()
                await asyncio.sleep(0)
            await asyncio.sleep(max(due - time.monotonic(), 0))
