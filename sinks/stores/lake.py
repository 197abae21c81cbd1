"""The lake: every record of the market and of what is derived from it, as Parquet files.

    {uri}/v1/{record}/venue=/symbol=/date=/{topic}-{partition}-{first offset}-{last offset}.parquet
    {uri}/_manifests/{topic}-{partition}.json       the watermark, its newest files, whose it is
    {uri}/_staging/{topic}-{partition}/*.tmp        files that are being written
    {uri}/_restoring/*.tmp                          files of dead letters that are being brought back
    {uri}/_locks/{topic}-{partition}.lock           held with flock by the one process that writes the partition

A batch of a partition is kept in these steps, each durable before the next:

    1. its files are written under _staging
    2. the manifest is replaced by one that lists their final names and the next offset
    3. the files get their final names

Before 2 nothing of the batch counts: its files are deleted when somebody resumes, and its records are read again.
From 2 on all of it counts: whoever resumes finishes 3. So a file with a final name is good if its last offset lies
below the manifest's next offset, and there are no others; old manifests need not be kept. After a failure in between
nobody knows which manifest the disk has, so it is looked at again, in the same way, before anything else is written.

A dead letter is brought back without the partition's lock: once its offset lies below the next offset and is none of
those refused, no batch will ever hold it. It gets a file of its own, the same one however often it is brought back.
"""

import fcntl
import os
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TypeVar

import msgspec

from ravencore.config import Settings
from ravencore.errors import RavenError
from ravencore.records import (
    RECORD_OF,
    Record,
)
from ravencore.service import codec
from sinks.contract import NOT_SETTLED, Bad, Batching, Outcome, Read, StoreUnavailable
from sinks.lake_layout import (
    HOUSEKEEPING,
    RESTORING,
    File,
    Manifest,
    after,
    files,
    files_apart,
    is_stray,
    manifest_path,
    news,
    resumes_at,
    span,
    staged,
    staging,
    unsettled,
    without,
)
from sinks.reading import Tables, by_topic
from sinks.stores.lake_files import Files, open_files, place

T = TypeVar("T")
R = TypeVar("R")

WRITERS = 4
"""Partitions that are written side by side: a disk takes its time to say that a file is safe."""
Partition = tuple[str, int]


class Held:
    """A partition that is ours, and its manifest unless the disk has to be asked for it."""

    def __init__(self, lock: int, writer: str) -> None:
        self.lock, self.writer = lock, writer
        self.manifest: Manifest | None = None
        self.writing = threading.Lock()
        self.released = False


class Lake:
    """Parquet files by record, venue, symbol and day.

    At least once from Kafka, and each record once in the files: the key is (topic, partition, offset), and the manifest
    of a partition says which offset is next. The group's committed offsets are never used.

    One process writes a partition: it holds an flock, which a kill ends, and its own name in the manifest. In an object
    store the flock fences the processes of one machine; one that was held up elsewhere sees another's name there before
    it replaces a manifest, but an object store cannot compare and replace in one step.
    """

    name = "lake"
    needed = True
    topics: Mapping[str, type[Record]] = {topic: cls for topic, cls in RECORD_OF.items() if cls not in HOUSEKEEPING}
    wait_s = 0.0

    def __init__(self, settings: Settings) -> None:
        lake = settings.lake
        self.batching = Batching(lake.batch_records, lake.batch_s, lake.batch_bytes)
        self._uri, self._place, self._tables = lake.uri, place(lake.uri), Tables(codec(settings))
        self._held: dict[Partition, Held] = {}
        self._final: dict[str, list[str]] = {}
        self._pool = ThreadPoolExecutor(WRITERS)
        self._decoding = threading.Lock()  # two that do would wait for the interpreter, and files for both
        self._opened: tuple[Files, Path] | None = None

    def setup(self) -> None:
        """See that files can be written."""
        try:
            trial = f"_staging/{uuid.uuid4().hex}.tmp"
            self._files.write_text(trial, b"can be written")
            self._files.delete(trial)
            with suppress(StoreUnavailable), self._restoring():
                """Nobody brings anything back now: what a killed one left is gone."""
        except OSError as error:
            raise self._away(error) from None

    def facts(self) -> list[str]:
        """Where its files are."""
        return [f"Parquet files in {self._place}"]

    def resume(self, topic: str, partition: int) -> int:
        """Lock the partition, bring its files to where its manifest says, and go on there."""
        held = self._held.get((topic, partition))
        try:
            if held is None:
                held = Held(self._lock(f"{topic}-{partition}"), uuid.uuid4().hex)
                self._held[topic, partition] = held
            with held.writing:
                held.manifest = self._claim(topic, partition, held.writer)
        except OSError as error:
            raise self._away(error) from None
        return resumes_at(held.manifest)

    def release(self, topic: str, partition: int) -> None:
        """Unlock the partition, as soon as what is being written is."""
        held = self._held.pop((topic, partition), None)
        if held is not None:
            with held.writing:
                held.released = True
                os.close(held.lock)

    def close(self) -> None:
        """Unlock what is held."""
        for partition in list(self._held):
            self.release(*partition)
        self._pool.shutdown()

    def write(self, batch: Sequence[Read]) -> Outcome:
        """Keep the batch; records of partitions that are not held, and those that are kept, are passed over."""
        return Outcome([bad for found in self._in_each(self._keep, _by_partition(batch)) for bad in found], [])

    def leave_out(self, upto: Mapping[Partition, int]) -> None:
        """Say so in the manifests, so that nobody reads it again; called when the dead letters before it are sent."""
        self._in_each(self._pass, upto)

    def _in_each(self, work: Callable[[str, int, Held, T], R], given: Mapping[Partition, T]) -> list[R]:
        """Do it side by side in those of the partitions that are held."""
        tasks = [self._pool.submit(work, *at, self._held[at], one) for at, one in given.items() if at in self._held]
        wait(tasks)  # all of them: whoever tries again must find nobody at work
        try:
            return [task.result() for task in tasks]
        except OSError as error:
            raise self._away(error) from None

    def _pass(self, topic: str, partition: int, held: Held, upto: int) -> None:
        with held.writing:
            if held.released:
                return
            manifest = held.manifest or self._finish(self._ours(topic, partition, held.writer))
            held.manifest = None
            if resumes_at(manifest) < upto:
                manifest = without(manifest, upto)
                self._replace(manifest)
            held.manifest = manifest

    def restore(self, batch: Sequence[Read]) -> Outcome:
        """Keep those that no batch can hold any more and no file has, each in a file of its own."""
        try:
            with self._restoring():
                waiting = [bad for at, reads in _by_partition(batch).items() for bad in self._unsettled(*at, reads)]
                not_yet = {bad.read for bad in waiting}
                settled = by_topic(read for read in batch if read not in not_yet)
                return Outcome([bad for at in settled.items() for bad in self._bring_back(*at)], waiting)
        except OSError as error:
            raise self._away(error) from None

    def _unsettled(self, topic: str, partition: int, reads: Sequence[Read]) -> Iterator[Bad]:
        manifest = self._manifest(topic, partition)
        drafts = set(self._files.below(staging(topic, partition)))
        unfinished = [path for path in manifest.files if staged(manifest, path) in drafts] if manifest else []
        for read in reads:
            if why := unsettled(manifest, unfinished, read.offset):
                yield Bad(read, NOT_SETTLED, why)

    def _bring_back(self, topic: str, reads: Sequence[Read]) -> list[Bad]:
        cls = self.topics[topic]
        final = self._files.below(f"v1/{cls.SCHEMA}")
        missing: list[Read] = []
        for at, some in _by_partition(reads).items():
            kept = self._kept(final, *at, {read.offset for read in some})
            missing += [read for read in some if read.offset not in kept]
        made, bad = self._tables.made(cls, missing, lambda some, rows: files_apart(cls, some, rows))
        found = list(chain(*made))
        drafts = [f"{RESTORING}/{uuid.uuid4().hex}.tmp" for _ in found]
        for draft, file in zip(drafts, found, strict=True):
            self._files.write_rows(draft, file.rows)
        for draft, file in zip(drafts, found, strict=True):
            self._files.move(draft, file.path)
        self._files.settle([file.path for file in found])
        return bad

    def _kept(self, final: Sequence[str], topic: str, partition: int, offsets: set[int]) -> set[int]:
        """Those of the offsets that a file has."""
        spans = {path: span(path, topic, partition) for path in final}
        near = [path for path, some in spans.items() if any(offset in some for offset in offsets)]
        return {offset for path in near for offset in offsets & self._files.numbers(path, "kafka_offset")}

    @contextmanager
    def _restoring(self) -> Iterator[None]:
        """Be the only one of this machine that brings dead letters back; what a killed one left is deleted."""
        lock = self._lock("dead-letters")
        try:
            for draft in self._files.below(RESTORING):
                self._files.delete(draft)
            yield
        finally:
            os.close(lock)

    def _keep(self, topic: str, partition: int, held: Held, reads: Sequence[Read]) -> list[Bad]:
        with held.writing:
            if held.released:
                return []
            manifest = held.manifest or self._finish(self._ours(topic, partition, held.writer))
            held.manifest = None  # until all of this has been done
            new, bad = news(manifest, reads), list[Bad]()
            if new:
                made, bad = self._files_of(topic, new)
                manifest = self._commit(after(manifest, made, bad, new), made)
            held.manifest = manifest
            return bad

    def _files_of(self, topic: str, new: Sequence[Read]) -> tuple[list[File], list[Bad]]:
        cls = self.topics[topic]
        with self._decoding:
            made, bad = self._tables.made(cls, new, lambda some, rows: files(cls, some, rows))
            return list(chain(*made)), bad

    def _commit(self, manifest: Manifest, made: Sequence[File]) -> Manifest:
        """Steps 1 to 3."""
        drafts = [staged(manifest, file.path) for file in made]
        for draft, file in zip(drafts, made, strict=True):
            self._files.write_rows(draft, file.rows)
        self._files.settle(drafts)
        self._replace(manifest)
        for draft, file in zip(drafts, made, strict=True):
            self._files.move(draft, file.path)
        self._files.settle(manifest.files)
        return manifest

    def _replace(self, manifest: Manifest) -> None:
        """Replace the manifest, if it is still ours."""
        self._ours(manifest.topic, manifest.partition, manifest.writer)
        self._write_manifest(manifest)

    def _ours(self, topic: str, partition: int, writer: str) -> Manifest:
        """The manifest on the disk; raises StoreUnavailable where it has become another's."""
        found = self._manifest(topic, partition)
        if found is None or found.writer != writer:
            raise StoreUnavailable(f"{topic}-{partition} is written by another process by now, its manifest says")
        return found

    def _write_manifest(self, manifest: Manifest) -> None:
        path = manifest_path(manifest.topic, manifest.partition)
        draft = f"{staging(manifest.topic, manifest.partition)}/manifest.tmp"
        self._files.write_text(draft, msgspec.json.encode(manifest))
        self._files.move(draft, path)
        self._files.settle([path])

    def _claim(self, topic: str, partition: int, writer: str) -> Manifest:
        """Finish what a predecessor began, and put our name into the manifest."""
        found = self._manifest(topic, partition)
        manifest = found or Manifest(topic=topic, partition=partition, writer=writer)
        self._finish(manifest)
        self._clear(manifest, known=found is not None)
        manifest = msgspec.structs.replace(manifest, writer=writer)
        self._write_manifest(manifest)
        return manifest

    def _finish(self, manifest: Manifest) -> Manifest:
        """Step 3 for what is staged and listed; what is staged and not listed is deleted."""
        listed = {staged(manifest, path): path for path in manifest.files}
        for draft in self._files.below(staging(manifest.topic, manifest.partition)):
            if draft in listed:
                self._files.move(draft, listed[draft])
            else:
                self._files.delete(draft)
        self._files.settle(manifest.files)
        return manifest

    def _clear(self, manifest: Manifest, *, known: bool) -> None:
        """Delete files of records that are to be read again: somebody brought an older manifest back."""
        record = self.topics[manifest.topic].SCHEMA
        if record not in self._final:  # once, for what is good in an old list is good for ever
            self._final[record] = self._files.below(f"v1/{record}")
        strays = [path for path in self._final[record] if is_stray(path, manifest)]
        if strays and not known:
            path = manifest_path(manifest.topic, manifest.partition)
            raise RavenError(f"{self._place} has {strays[0]} but no {path}: bring that back, or move such files away")
        for path in strays:
            self._files.delete(path)
            self._final[record].remove(path)

    def _manifest(self, topic: str, partition: int) -> Manifest | None:
        path = manifest_path(topic, partition)
        text = self._files.read(path)
        try:
            return None if text is None else msgspec.json.decode(text, type=Manifest)
        except msgspec.DecodeError as error:
            raise RavenError(f"{path} of {self._place} is no manifest: {error}; bring the last good one back") from None

    @property
    def _files(self) -> Files:
        return self._open()[0]

    def _open(self) -> tuple[Files, Path]:
        if self._opened is None:
            self._opened = open_files(self._uri)
        return self._opened

    def _lock(self, what: str) -> int:
        folder = self._open()[1]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{what}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise StoreUnavailable(f"another process still writes {what}: it holds {path}") from None
            raise
        return descriptor

    def _away(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"the lake at {self._place} cannot be written: {error}: "
            "make room there, let this user write there, or name another place in RAVEN_LAKE__URI"
        )


def _by_partition(batch: Sequence[Read]) -> dict[Partition, list[Read]]:
    found: dict[Partition, list[Read]] = defaultdict(list)
    for read in batch:
        found[read[:2]].append(read)
    return found
