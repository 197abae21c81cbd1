"""How the lake is laid out: folders, names of files, manifests, and rows as they go into files. Pure."""

import itertools
import re
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from operator import itemgetter
from typing import NamedTuple
from urllib.parse import quote

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ravencore.records import (
    Bar,
    DeadLetter,
    Demand,
    Gap,
    Instrument,
    IvSurface,
    Kline,
    OptionTicker,
    Record,
    ServiceStatus,
    SpotMid,
    State,
    Vpin,
)
from sinks.arrow import NAMES, Numbers, Torn, constant
from sinks.contract import Bad, Read

LEVELS: dict[type[Record], tuple[str, ...]] = {
    OptionTicker: ("venue", "underlying"),
    Instrument: ("venue",),
    SpotMid: ("pair",),
    IvSurface: ("venue", "underlying"),
}
"""Folders above `date=`, for the rest venue and symbol. A file for each of a thousand options would be a tiny one."""
TIMES: dict[type[Record], str] = {
    Kline: "open_time",
    Bar: "open_time",
    Vpin: "open_time",
    SpotMid: "time",
    IvSurface: "time",
    Gap: "detected_time",
    Instrument: "received_time",
}
"""The time whose UTC day is `date=`, for the rest event_time, or received_time where the venue gives none."""
HOUSEKEEPING = frozenset({DeadLetter, Demand, ServiceStatus, State})
"""What is no market data, and not kept."""
_offset = itemgetter(Read._fields.index("offset"))
DAY_US = 86_400_000_000
EPOCH = date(1970, 1, 1)
FIRST_DAY, LAST_DAY = (date.min - EPOCH).days, (date.max - EPOCH).days
LONGEST_NAME = 200
NO_TEXT = "__HIVE_DEFAULT_PARTITION__"
"""What Hive calls a level without a value."""
RESTORING = "_restoring"
"""Where files of dead letters are while they are being written."""
FILE_NAME = re.compile(r"(?P<topic>[^/]+)-(?P<partition>\d+)-(?P<first>\d{19})-(?P<last>\d{19})\.parquet")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a partition: `refused` are offsets below `next_offset` that may not be dead letters yet."""

    topic: str
    partition: int
    writer: str
    next_offset: int = 0
    refused: tuple[int, ...] = ()
    files: tuple[str, ...] = ()


class File(NamedTuple):
    """Rows that go into one file, and the final path of it below the lake's folder."""

    path: str
    rows: pa.Table


def levels(cls: type[Record]) -> tuple[str, ...]:
    """The record's folders above `date=`."""
    return LEVELS.get(cls, ("venue", "symbol"))


def folder(cls: type[Record], values: Sequence[str], day: int) -> str:
    """Where rows of these levels and this day (since the epoch) go; raises Torn where no folder can be called so."""
    names = [quote(value, safe="") or NO_TEXT for value in values]
    if max(map(len, names)) > LONGEST_NAME:
        raise Torn(f"{max(values, key=len)[:64]!r}... is too long for a folder's name")
    if not FIRST_DAY <= day <= LAST_DAY:
        raise Torn(f"day {day} of the epoch is in no year from 1 to 9999")
    parts = [f"{level}={name}" for level, name in zip(levels(cls), names, strict=True)]
    return "/".join(["v1", cls.SCHEMA, *parts, f"date={EPOCH + timedelta(days=day)}"])


def file_name(topic: str, partition: int, first: int, last: int) -> str:
    """The name of a file with rows of these offsets."""
    return f"{topic}-{partition}-{first:019d}-{last:019d}.parquet"


def files(cls: type[Record], reads: Sequence[Read], rows: pa.Table) -> list[File]:
    """Rows of what was read of a partition, split by folder; raises Torn where one has none."""
    topic, partition = reads[0].topic, reads[0].partition
    offsets = _offsets(reads)
    names = [rows.column(level).chunk(0) for level in levels(cls)]
    days = _days(cls, rows)
    code = days - days.min()
    for name in names:
        code = code * len(name.dictionary) + name.indices.to_numpy()
    rows = rows.drop_columns(list(levels(cls)))
    order, starts = np.arange(len(code)), [0, len(code)]
    if code.min() != code.max():
        order = np.argsort(code, kind="stable")
        starts[1:1] = (np.flatnonzero(np.diff(code[order])) + 1).tolist()
        rows = rows.take(pa.array(order))
    rows = _with_origin(rows, topic, partition, offsets[order])
    made = []
    for start, end in itertools.pairwise(starts):
        one = order[start]
        path = folder(cls, [name[one].as_py() for name in names], int(days[one]))
        name = file_name(topic, partition, int(offsets[one]), int(offsets[order[end - 1]]))
        made.append(File(f"{path}/{name}", rows.slice(start, end - start)))
    return made


def files_apart(cls: type[Record], reads: Sequence[Read], rows: pa.Table) -> list[File]:
    """A file for each row, of whatever partition it was read; raises Torn where a row has no folder."""
    each = [files(cls, [read], rows.slice(number, 1)) for number, read in enumerate(reads)]
    return [file for made in each for file in made]


def _offsets(reads: Sequence[Read]) -> Numbers:
    return np.fromiter(map(_offset, reads), np.int64, len(reads))


def _days(cls: type[Record], rows: pa.Table) -> Numbers:
    times = rows.column(TIMES.get(cls, "event_time"))
    if times.null_count:
        times = pc.coalesce(times, rows.column("received_time"))
    found: Numbers = times.combine_chunks().cast(pa.int64()).to_numpy() // DAY_US
    return found


def _with_origin(rows: pa.Table, topic: str, partition: int, offsets: Numbers) -> pa.Table:
    count = len(rows)
    return (
        rows.append_column("kafka_topic", constant(topic, NAMES, count))
        .append_column("kafka_partition", constant(partition, pa.int32(), count))
        .append_column("kafka_offset", pa.array(offsets))
    )


def write_options(schema: pa.Schema) -> dict[str, object]:
    """How Parquet packs columns: names by number, times and ids by their differences."""
    counting = [f.name for f in schema if f.type == pa.int64() or pa.types.is_timestamp(f.type)]
    return {
        "compression": "zstd",
        "use_dictionary": [f.name for f in schema if f.type == NAMES],
        "column_encoding": dict.fromkeys(counting, "DELTA_BINARY_PACKED"),
    }


def news(manifest: Manifest, reads: Sequence[Read]) -> Sequence[Read]:
    """What is not in the files yet, in order: new offsets, and those that were refused."""
    offsets, refused = _offsets(reads), set(manifest.refused)
    if offsets[0] >= manifest.next_offset and (np.diff(offsets) > 0).all():
        return reads
    by_offset = {read.offset: read for read in reads}
    return [by_offset[at] for at in sorted(by_offset) if at >= manifest.next_offset or at in refused]


def after(manifest: Manifest, made: Sequence[File], bad: Sequence[Bad], new: Sequence[Read]) -> Manifest:
    """The manifest after a batch. A write means that the dead letters of the one before it are on their way."""
    last = new[-1].offset
    refused = [one.read.offset for one in bad] + [offset for offset in manifest.refused if offset > last]
    return msgspec.structs.replace(
        manifest,
        next_offset=max(manifest.next_offset, last + 1),
        refused=tuple(sorted(refused)),
        files=tuple(file.path for file in made),
    )


def resumes_at(manifest: Manifest) -> int:
    """The offset that its partition is read from next by whoever takes it over."""
    return min((manifest.next_offset, *manifest.refused))


def without(manifest: Manifest, upto: int) -> Manifest:
    """The manifest when all before this offset is done: in the files, a dead letter that was sent, or left out."""
    refused = tuple(offset for offset in manifest.refused if offset >= upto)
    return msgspec.structs.replace(manifest, next_offset=max(manifest.next_offset, upto), refused=refused)


def manifest_path(topic: str, partition: int) -> str:
    """Where a partition's manifest is."""
    return f"_manifests/{topic}-{partition}.json"


def staging(topic: str, partition: int) -> str:
    """Where a partition's unfinished files are."""
    return f"_staging/{topic}-{partition}"


def staged(manifest: Manifest, path: str) -> str:
    """Where the file is that will have this final path."""
    return f"{staging(manifest.topic, manifest.partition)}/{path.rpartition('/')[2]}.tmp"


def span(path: str, topic: str, partition: int) -> range:
    """The offsets that a file with this final name may have of a partition: none where it is another's."""
    found = FILE_NAME.fullmatch(path.rpartition("/")[2])
    if found is None or (found["topic"], int(found["partition"])) != (topic, partition):
        return range(0)
    return range(int(found["first"]), int(found["last"]) + 1)


def is_stray(path: str, manifest: Manifest) -> bool:
    """Whether a file with a final name has records of the partition that are to be read again.

    Where its last record is not among these, none is: what is refused is in no file of this manifest's time.
    """
    offsets = span(path, manifest.topic, manifest.partition)
    return bool(offsets) and (offsets[-1] >= manifest.next_offset or offsets[-1] in manifest.refused)


def unsettled(manifest: Manifest | None, unfinished: Iterable[str], offset: int) -> str | None:
    """Why a record may still come into the files by itself; None where it is a dead letter and nothing else.

    `unfinished` are the final paths of the manifest's files that do not have their names yet.
    """
    if manifest is None or offset >= manifest.next_offset:
        return "the lake has not come to this offset yet: try again when its sink has"
    if offset in manifest.refused:
        return "its sink is done with it at the next batch of the partition, or reads it again when it starts"
    if any(offset in span(path, manifest.topic, manifest.partition) for path in unfinished):
        return "a batch of about this offset is being written: try again when the sink, or its next start, is done"
    return None
