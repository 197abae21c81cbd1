"""How a long step tells what it is doing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn


class Reporter(Protocol):
    """Receives lines, and byte counts of files on their way."""

    def say(self, text: str) -> None:
        """Shows one line."""

    def fetching(self, what: str, files: int) -> AbstractContextManager[FileProgress]:
        """Shows a fetch of that many files while it lasts."""


# Called with a file's name and size; the answer is called with each chunk's bytes.
FileProgress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def _unseen(_name: str, _total_bytes: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _count: None)


class Quiet:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Drops the line."""

    def fetching(self, what: str, files: int) -> AbstractContextManager[FileProgress]:
        """Watches nothing."""
        return nullcontext(_unseen)


class ConsoleReporter:
    """Lines and progress bars on a terminal; lines alone when piped."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """Prints one line."""
        self._console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def fetching(self, what: str, files: int) -> Iterator[FileProgress]:
        """One bar per file on its way, one line before and after."""
        self.say(f"{what}: fetching {files} files from Maven Central, kept for next time")
        bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

        @contextmanager
        def file(name: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
            task = bars.add_task(name, total=total_bytes)
            yield lambda count: bars.advance(task, count)
            bars.remove_task(task)

        with bars:
            yield file
        self.say(f"{what}: fetched")


QUIET = Quiet()
