"""Log files of the members: one per member, rotated by size while it is written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

ROTATE_BYTES = 20_000_000


def rotate(log: Path, limit_bytes: int = ROTATE_BYTES) -> None:
    """Moves a long log's content to `<log>.1` and empties it in place.

    Members hold the file open in append mode, so it is copied and cut rather than renamed; lines written
    in between are lost.
    """
    if log.exists() and log.stat().st_size > limit_bytes:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        with log.open("r+b") as file:
            file.truncate(0)


def last_lines(log: Path, count: int, since_byte: int = 0) -> list[str]:
    """Up to `count` last lines that are not empty, none from before `since_byte`."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0 if since_byte > size else since_byte, size - 400 * (count + 1)))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [line for line in lines if line.strip()][-count:] if count else []


def new_text(log: Path, position: int) -> Iterator[tuple[str, int]]:
    """What was written after `position`, with the position after it; from the start when it was rotated."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(position if position <= size else 0)
            content = file.read()
            if content:
                yield content.decode(errors="replace"), file.tell()
    except FileNotFoundError:
        return
