"""Files that may be packed, as blocks of whole lines: plain, gzip, zstd, xz, bzip2, or a zip with one file in it.

What a file is packed with is told by its first bytes, whatever its name.
"""

import bz2
import gzip
import io
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, Self

import zstandard

from ravenctl.shell import CommandFailed, WrongUse
from simulator import recording

CHUNK_BYTES = 1 << 18
LONGEST_LINE = 1 << 26
"""A whole order book may be a line of some megabytes."""
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError, zipfile.BadZipFile)


class CutShort(CommandFailed):
    """Raised where a packed file ends within what was packed, after whole parts of it: its writer was killed."""


class Packed:
    """A file of lines, open for reading; use it as a context. Raises WrongUse where it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise WrongUse(f"cannot read {path}: {error.strerror}") from None
        found = os.fstat(self._file.fileno())
        self.size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        """Bytes on the disk; 0 where it is a pipe."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def place(self) -> int:
        """Bytes read from the disk."""
        return self._file.tell() if self.size else 0

    def starts_with(self, magic: bytes) -> bool:
        """Whether these are its first bytes on the disk; ask before reading."""
        return self._file.peek(len(magic)).startswith(magic)

    def blocks(self) -> Iterator[bytes]:
        """Whole lines, many together, each with its newline; raises CommandFailed where the file is damaged.

        After CutShort all whole lines that the file holds have been given.
        """
        rest: list[bytes] = []
        try:
            for chunk in self._chunks():
                cut = chunk.rfind(b"\n") + 1
                if cut:
                    yield b"".join([*rest, chunk[:cut]])
                    rest = []
                rest.append(chunk[cut:])
                if len(rest) * CHUNK_BYTES > LONGEST_LINE:
                    raise CommandFailed(f"{self.path} holds no lines: neither a table of trades nor a recording")
        except recording.CutShort as error:
            raise CutShort(f"{self.path} is damaged or cut short: {error}") from None
        except DAMAGED as error:
            raise CommandFailed(f"{self.path} is damaged or cut short: {error}") from None
        if any(rest):
            yield b"".join([*rest, b"\n"])

    def _chunks(self) -> Iterator[bytes]:
        unpack = next((unpack for magic, unpack in UNPACK.items() if self.starts_with(magic)), _plain)
        return unpack(self._file)


def _plain(file: IO[bytes] | io.BufferedIOBase) -> Iterator[bytes]:
    return iter(lambda: file.read(CHUNK_BYTES), b"")


def _zip(file: BinaryIO) -> Iterator[bytes]:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) != 1:
            raise CommandFailed(f"a zip with {len(names)} files in it: unpack it and name one of them")
        with archive.open(names[0]) as member:
            yield from _plain(member)


UNPACK: dict[bytes, Callable[[BinaryIO], Iterator[bytes]]] = {
    b"\x1f\x8b": lambda file: _plain(gzip.GzipFile(fileobj=file)),
    b"\x28\xb5\x2f\xfd": recording.unpacked_zstd,
    b"\xfd7zXZ\x00": lambda file: _plain(lzma.LZMAFile(file)),  # noqa: SIM115 - the file is not its own
    b"BZh": lambda file: _plain(bz2.BZ2File(file)),
    b"PK\x03\x04": _zip,
}
"""What unpacks a file that begins so."""
