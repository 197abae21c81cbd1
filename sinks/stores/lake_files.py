"""The lake's files, on a disk of this machine or on any file system that pyarrow reaches."""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ravencore.errors import ConfigError
from sinks.lake_layout import write_options


class Files:
    """A file system and the lake's folder in it; `local` where a path of this machine leads there.

    Paths are below the folder. What has returned is durable, names included once `settle` has returned.
    Raises OSError.
    """

    def __init__(self, system: fs.FileSystem, root: str, *, local: bool) -> None:
        self._system, self._root, self._local = system, root.rstrip("/"), local
        self._lasting: set[str] = set()

    def write_rows(self, path: str, rows: pa.Table) -> None:
        """Make a Parquet file."""
        self._make_folder(path)
        pq.write_table(rows, self._full(path), filesystem=self._system, **write_options(rows.schema))
        self._sync(path)

    def write_text(self, path: str, text: bytes) -> None:
        """Make a small file, replacing what is there."""
        self._make_folder(path)
        with self._system.open_output_stream(self._full(path)) as out:
            out.write(text)
        self._sync(path)

    def move(self, path: str, to: str) -> None:
        """Give a file another name, replacing what is there; in an object store, which cannot, a copy of it."""
        self._make_folder(to)
        self._system.move(self._full(path), self._full(to))

    def settle(self, paths: Sequence[str]) -> None:
        """Make the names of these files durable, and those of the folders that are new."""
        if not self._local:
            return
        for folder in {PurePosixPath(path).parent for path in paths}:
            with suppress(FileNotFoundError):  # a day that somebody has deleted
                self._sync(str(folder))
                for name, above in pairwise(map(str, (folder, *folder.parents))):
                    if name in self._lasting:
                        break
                    self._sync(above)
                    self._lasting.add(name)

    def read(self, path: str) -> bytes | None:
        """What a file holds; None where there is none."""
        try:
            with self._system.open_input_stream(self._full(path)) as opened:
                found: bytes = opened.read()
                return found
        except FileNotFoundError:
            return None

    def numbers(self, path: str, column: str) -> set[int]:
        """The values of a column of a Parquet file; none where there is no file by now."""
        try:
            with self._system.open_input_file(self._full(path)) as opened:
                return set(pq.ParquetFile(opened).read([column]).column(0).to_pylist())
        except FileNotFoundError:
            return set()

    def delete(self, path: str) -> None:
        """Delete a file."""
        self._system.delete_file(self._full(path))

    def below(self, path: str) -> list[str]:
        """All files in a folder and its folders."""
        selector = fs.FileSelector(self._full(path), allow_not_found=True, recursive=True)
        found = self._system.get_file_info(selector)
        return [info.path[len(self._root) + 1 :] for info in found if info.type == fs.FileType.File]

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _make_folder(self, path: str) -> None:
        folder = PurePosixPath(path).parent
        if self._system.type_name in OBJECT_STORES or self._is_there(str(folder)):
            return
        self._lasting -= {str(folder), *map(str, folder.parents)}
        self._system.create_dir(self._full(str(folder)), recursive=True)

    def _is_there(self, path: str) -> bool:
        return bool(self._system.get_file_info(self._full(path)).type != fs.FileType.NotFound)

    def _sync(self, path: str) -> None:
        if not self._local:
            return
        descriptor = os.open(self._full(path), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


OBJECT_STORES = {"s3", "gcs", "abfs"}
"""File systems of pyarrow that have no folders; one that is made would be an empty object."""


def place(uri: str) -> str:
    """What people call the lake's place: an absolute folder, or the URI without a password."""
    if "://" not in uri:
        return str(Path(uri).absolute())
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def open_files(uri: str) -> tuple[Files, Path]:
    """The lake at a path or URI, and the folder of this machine where its locks are; raises ConfigError, OSError."""
    if "://" not in uri:
        folder = Path(uri).absolute()
        return Files(fs.LocalFileSystem(), str(folder), local=True), folder / "_locks"
    try:
        system, root = fs.FileSystem.from_uri(uri)
    except pa.ArrowInvalid as error:
        raise ConfigError(f"setting lake.uri: {error}: name a folder, or s3://bucket/raven") from None
    if system.type_name == "local":
        return open_files(root)
    locks = f"raven-lake-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
    return Files(system, root, local=False), Path(tempfile.gettempdir()) / locks
