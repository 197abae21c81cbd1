"""The lake as such: laid out as said, nothing lost and nothing twice whatever it dies of."""

from __future__ import annotations

import fcntl
import io
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs
from pyarrow.dataset import get_partition_keys, partitioning

from ravencore.config import LakeSettings, Settings
from ravencore.errors import ConfigError, RavenError
from ravencore.records import Gap, IndexPrice, IvSurface, OptionTicker, SpotMid, Trade
from ravencore.topics import TRADES
from sinks.contract import Read, StoreUnavailable
from sinks.lake_layout import LEVELS, TIMES, Manifest, folder
from sinks.stores.lake import Lake
from sinks.stores.lake_files import Files
from tests.sinks.probe_lake import stored
from tests.sinks.rig import CODEC, T0, trade

BAD = b"garbage"
T = TypeVar("T")


def a_lake(root: Path | str) -> Lake:
    return Lake(Settings(lake=LakeSettings(uri=str(root))))


def read_of(offset: int, value: bytes, partition: int = 0) -> Read:
    return Read(TRADES, partition, offset, b"VENUE:S", value)


def a_read(offset: int, symbol: str = "S", **changes: Any) -> Read:
    return read_of(offset, CODEC.encode(trade(symbol, offset, **changes)))


def offsets(root: Path) -> list[int]:
    return sorted(row["kafka_offset"] for row in stored(root, "trade"))


def manifest(root: Path, partition: int = 0) -> Manifest:
    return msgspec.json.decode((root / f"_manifests/{TRADES}-{partition}.json").read_bytes(), type=Manifest)


def test_files_are_where_hive_would_have_them(tmp_path: Path) -> None:
    store = a_lake(tmp_path)
    assert store.resume(TRADES, 3) == 0
    day = 86_400_000_000
    reads = [a_read(number, ["BTC/USD", "ÄTH"][number % 2], event_time=T0 + number // 4 * day) for number in range(8)]
    assert store.write([read._replace(partition=3) for read in reads]) == ([], [])
    store.close()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("v1/**/*.parquet")) == [
        f"v1/trade/venue=VENUE/symbol={symbol}/date={date}/raven.trades-3-{first:019d}-{last:019d}.parquet"
        for symbol, start in (("%C3%84TH", 1), ("BTC%2FUSD", 0))
        for date, first, last in (("2024-08-08", start, start + 2), ("2024-08-09", start + 4, start + 6))
    ]
    assert [row["symbol"] for row in sorted(stored(tmp_path, "trade"), key=lambda row: row["kafka_offset"])] == [
        "BTC/USD",
        "ÄTH",
    ] * 4


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_a_folder_says_any_symbol_there_is(symbol: str) -> None:
    path = folder(Trade, ["VENUE", symbol], 0)
    assert path.isascii()
    assert path.count("/") == 4
    hive = partitioning(pa.schema([("venue", pa.string()), ("symbol", pa.string())]), flavor="hive")
    if symbol != "__HIVE_DEFAULT_PARTITION__":
        assert get_partition_keys(hive.parse(f"/{path}")) == {"venue": "VENUE", "symbol": symbol}


def test_every_level_and_time_is_a_field_of_its_record() -> None:
    for cls in set(Lake.topics.values()):
        assert set(LEVELS.get(cls, ("venue", "symbol"))) <= set(cls.__struct_fields__)
        assert TIMES.get(cls, "event_time") in cls.__struct_fields__
    assert {LEVELS[cls] for cls in (SpotMid, IvSurface, OptionTicker)} == {("pair",), ("venue", "underlying")}
    assert {Gap, IndexPrice} <= set(Lake.topics.values())


def test_what_is_not_held_is_passed_over_and_what_is_held_is_nobody_elses(tmp_path: Path) -> None:
    first, second = a_lake(tmp_path), a_lake(tmp_path)
    assert first.write([a_read(0)]) == ([], [])
    assert offsets(tmp_path) == []
    first.resume(TRADES, 0)
    with pytest.raises(StoreUnavailable, match="another process still writes"):
        second.resume(TRADES, 0)
    second.resume(TRADES, 1)
    first.write([a_read(0), a_read(1)])
    first.release(TRADES, 0)
    assert second.resume(TRADES, 0) == 2
    first.write([a_read(2)])
    assert offsets(tmp_path) == [0, 1]
    second.write([a_read(1), a_read(2)])
    assert offsets(tmp_path) == [0, 1, 2]
    first.close()
    second.close()


def test_one_whose_lock_nobody_saw_sees_another_name_in_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an object store that two machines write to."""
    monkeypatch.setattr(Lake, "_lock", lambda self, *_: os.open(tmp_path, os.O_RDONLY))
    first, second = a_lake(tmp_path), a_lake(tmp_path)
    first.resume(TRADES, 0)
    first.write([a_read(0)])
    assert second.resume(TRADES, 0) == 1
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="another process"):
            first.write([a_read(1)])
    second.write([a_read(1)])
    assert offsets(tmp_path) == [0, 1]
    first.close()
    second.close()


def test_what_is_refused_is_refused_again_until_the_next_batch(tmp_path: Path) -> None:
    """Its dead letter comes after the write: a kill in between must not lose it."""
    store = a_lake(tmp_path)
    store.resume(TRADES, 0)
    batch = [a_read(0), read_of(1, BAD), a_read(2), a_read(3, price=10**38), a_read(4)]
    for _ in range(2):
        assert [(bad.read.offset, bad.reason) for bad in store.write(batch).refused] == [
            (1, "unreadable_record"),
            (3, "refused_by_store"),
        ]
    store.close()

    store = a_lake(tmp_path)
    assert store.resume(TRADES, 0) == 1
    assert [bad.read.offset for bad in store.write(batch[1:2]).refused] == [1]
    assert manifest(tmp_path).refused == (1, 3), "3 has not been offered since"
    assert [bad.read.offset for bad in store.write(batch[2:]).refused] == [3]
    assert store.write([a_read(5)]) == ([], [])
    assert store.resume(TRADES, 0) == 6
    assert offsets(tmp_path) == [0, 2, 4, 5]
    store.close()


def test_what_was_refused_and_can_be_read_by_now_is_kept(tmp_path: Path) -> None:
    store = a_lake(tmp_path)
    store.resume(TRADES, 0)
    store.write([a_read(0), read_of(1, BAD), a_read(2)])
    store.close()
    store = a_lake(tmp_path)
    assert store.resume(TRADES, 0) == 1
    assert store.write([a_read(1), a_read(2), a_read(3)]) == ([], [])
    assert store.resume(TRADES, 0) == 4
    assert offsets(tmp_path) == [0, 1, 2, 3]
    store.close()


def test_a_dead_letter_comes_back_once_beside_the_writer(tmp_path: Path) -> None:
    """The one who brings it back has no lock."""
    sink, other = a_lake(tmp_path), a_lake(tmp_path)
    sink.resume(TRADES, 0)
    assert [bad.detail for bad in other.restore([a_read(0)]).waiting] == [
        "the lake has not come to this offset yet: try again when its sink has"
    ]
    sink.write([a_read(0), read_of(1, BAD), a_read(2), read_of(3, BAD)])
    [waits] = other.restore([a_read(1)]).waiting
    assert (waits.reason, waits.detail) == (
        "not_settled",
        "its sink is done with it at the next batch of the partition, or reads it again when it starts",
    )
    assert offsets(tmp_path) == [0, 2]
    sink.write([a_read(4)])
    for _ in range(2):
        outcome = other.restore([a_read(0), a_read(1), read_of(3, BAD), a_read(4), a_read(5)])
        assert [(bad.read.offset, bad.reason) for bad in outcome.refused] == [(3, "unreadable_record")]
        assert [bad.read.offset for bad in outcome.waiting] == [5]
        assert offsets(tmp_path) == [0, 1, 2, 4]
    sink.write([a_read(5)])
    sink.close()
    again = a_lake(tmp_path)
    assert again.resume(TRADES, 0) == 6
    assert offsets(tmp_path) == [0, 1, 2, 4, 5]
    assert {path.name for path in (tmp_path / "v1").glob("**/*-0000000000000000001.parquet")} == {
        f"{TRADES}-0-{1:019d}-{1:019d}.parquet"
    }
    again.close()
    other.close()


def test_a_dead_letter_of_a_batch_that_is_half_done_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, whole = a_lake(tmp_path), Files.move
    store.resume(TRADES, 0)
    store.write([read_of(0, BAD), a_read(1), read_of(2, BAD)])

    def no_final_name(files: Files, path: str, to: str) -> None:
        if to.startswith("v1/"):
            raise OSError("the disk is away")
        whole(files, path, to)

    with monkeypatch.context() as broken:
        broken.setattr(Files, "move", no_final_name)
        with pytest.raises(StoreUnavailable, match="the disk is away"):
            store.write([a_read(0), a_read(2), a_read(3)])
    assert manifest(tmp_path).refused == ()
    [waits] = store.restore([a_read(2)]).waiting
    assert "a batch of about this offset is being written" in waits.detail
    store.resume(TRADES, 0)
    assert store.restore([a_read(0), a_read(2)]) == ([], [])
    assert offsets(tmp_path) == [0, 1, 2, 3]
    store.close()


def test_one_brings_dead_letters_back_at_a_time_and_a_start_cleans_up_after_a_killed_one(tmp_path: Path) -> None:
    store = a_lake(tmp_path)
    left = tmp_path / "_restoring" / "of-a-killed-one.tmp"
    left.parent.mkdir()
    left.touch()
    (tmp_path / "_locks").mkdir()
    with (tmp_path / "_locks" / "dead-letters.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        store.setup()
        assert left.exists(), "somebody may be writing it"
        with pytest.raises(StoreUnavailable, match="another process still writes dead-letters"):
            store.restore([a_read(0)])
    store.setup()
    assert not left.exists()
    store.close()


def test_an_older_manifest_has_what_was_brought_back_after_it_written_again(tmp_path: Path) -> None:
    store = a_lake(tmp_path)
    store.resume(TRADES, 0)
    store.write([a_read(0), read_of(1, BAD), a_read(2)])
    older = (tmp_path / f"_manifests/{TRADES}-0.json").read_bytes()
    store.write([a_read(3)])
    assert store.restore([a_read(1)]) == ([], [])
    store.close()
    (tmp_path / f"_manifests/{TRADES}-0.json").write_bytes(older)
    store = a_lake(tmp_path)
    assert store.resume(TRADES, 0) == 1
    assert offsets(tmp_path) == [0, 2]
    store.write([a_read(1), a_read(2), a_read(3)])
    assert offsets(tmp_path) == [0, 1, 2, 3]
    store.close()


def test_a_day_out_of_the_calendar_and_a_name_too_long_are_refused_alone(tmp_path: Path) -> None:
    store = a_lake(tmp_path)
    store.resume(TRADES, 0)
    batch = [a_read(0), a_read(1, event_time=2**60), a_read(2, symbol="Ü" * 60), a_read(3)]
    assert [(bad.read.offset, bad.reason) for bad in store.write(batch).refused] == [
        (1, "refused_by_store"),
        (2, "refused_by_store"),
    ]
    assert offsets(tmp_path) == [0, 3]
    store.close()


def test_a_lost_manifest_is_told_and_no_file_is_touched(tmp_path: Path) -> None:
    store = a_lake(tmp_path)
    store.resume(TRADES, 0)
    store.write([a_read(0)])
    store.close()
    (tmp_path / f"_manifests/{TRADES}-0.json").unlink()
    with pytest.raises(RavenError, match="bring that back"):
        a_lake(tmp_path).resume(TRADES, 0)
    assert offsets(tmp_path) == [0]


def test_an_older_manifest_has_what_came_after_it_written_again(tmp_path: Path) -> None:
    store = a_lake(tmp_path)
    store.resume(TRADES, 0)
    store.write([a_read(0), a_read(1)])
    older = (tmp_path / f"_manifests/{TRADES}-0.json").read_bytes()
    store.write([a_read(2), a_read(3, symbol="OTHER")])
    store.close()
    (tmp_path / f"_manifests/{TRADES}-0.json").write_bytes(older)
    store = a_lake(tmp_path)
    assert store.resume(TRADES, 0) == 2
    assert store.resume(TRADES, 0) == 2
    assert offsets(tmp_path) == [0, 1]
    store.write([a_read(2), a_read(3)])
    assert offsets(tmp_path) == [0, 1, 2, 3]
    store.close()


def test_a_uri_that_leads_nowhere_is_told() -> None:
    with pytest.raises(ConfigError, match=r"lake\.uri"):
        a_lake("nowhere://bucket/raven").setup()


def test_it_says_the_whole_folder_and_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert a_lake("data").facts() == [f"Parquet files in {tmp_path}/data"]
    assert a_lake("s3://key:secret@bucket/raven?scheme=http").facts() == [
        "Parquet files in s3://bucket/raven?scheme=http"
    ]


def test_a_uri_of_a_file_system_of_pyarrow_is_written(tmp_path: Path) -> None:
    store = a_lake(f"file://{tmp_path}/lake")
    store.setup()
    store.resume(TRADES, 0)
    store.write([a_read(0)])
    store.close()
    assert offsets(tmp_path / "lake") == [0]


# Dying after any operation.


class Dead(Exception):
    """The process is no more."""


class Memory(fs.FileSystemHandler):  # type: ignore[misc]
    """A file system in memory; its process dies at its n-th operation, in the middle of it, or single ones fail.

    What is being written is there in part then, and what is being moved as a copy, as in an object store.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.left = -1
        self.failing: set[int] = set()
        self.done = 0

    def _operation(self) -> Exception | None:
        """What this one ends with in its middle."""
        if self.left == 0:
            raise Dead
        self.left -= 1
        self.done += 1
        if self.left == 0:
            return Dead()
        return OSError("no space left") if self.done in self.failing else None

    def get_type_name(self) -> str:
        return "memory"

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        return pa.PythonFile(Written(self, path), mode="w")

    def open_input_stream(self, path: str) -> Any:
        if path not in self.files:
            raise FileNotFoundError(path)
        return pa.PythonFile(io.BytesIO(self.files[path]), mode="r")

    open_input_file = open_input_stream

    def move(self, src: str, dest: str) -> None:
        error = self._operation()
        self.files[dest] = self.files[src]
        if error:
            raise error
        del self.files[src]

    def delete_file(self, path: str) -> None:
        if error := self._operation():
            raise error
        del self.files[path]

    def get_file_info_selector(self, selector: Any) -> list[Any]:
        return [fs.FileInfo(path, fs.FileType.File) for path in self.files if path.startswith(selector.base_dir + "/")]

    def create_dir(self, path: str, recursive: bool) -> None:
        """There are none."""

    def normalize_path(self, path: str) -> str:
        return path

    def _none(self, *_: Any) -> Any:
        raise NotImplementedError

    def get_file_info(self, paths: list[str]) -> list[Any]:
        return [fs.FileInfo(path, fs.FileType.Directory) for path in paths]

    copy_file = delete_dir = delete_dir_contents = delete_root_dir_contents = open_append_stream = _none


class Written(io.BytesIO):
    """A file that is there when it is closed, or in part when the process dies."""

    def __init__(self, memory: Memory, path: str) -> None:
        super().__init__()
        self._memory, self._path = memory, path

    def close(self) -> None:
        if self.closed:
            return
        found = self.getvalue()
        super().close()
        if error := self._memory._operation():
            self._memory.files[self._path] = found[: len(found) // 2]
            raise error
        self._memory.files[self._path] = found


def on(memory: Memory, locks: Path) -> Lake:
    store = a_lake("memory")
    store._opened = Files(fs.PyFileSystem(memory), "lake", local=False), locks
    return store


def a_topic(records: list[tuple[bool, str]]) -> list[Read]:
    """Records of some symbols, some of them garbage, at every other offset."""
    return [
        read_of(offset * 2, BAD) if bad else a_read(offset * 2, symbol=symbol)
        for offset, (bad, symbol) in enumerate(records)
    ]


TOPICS = st.lists(
    st.tuples(st.sampled_from([False] * 5 + [True]), st.sampled_from("ABC")), min_size=6, max_size=25
).map(a_topic)


@settings(max_examples=60)
@given(data=st.data(), topic=TOPICS, lives=st.lists(st.integers(1, 25), min_size=1, max_size=6))
def test_dying_in_any_operation_loses_nothing_and_doubles_nothing(
    data: st.DataObject, topic: list[Read], lives: list[int]
) -> None:
    memory, letters = Memory(), set[int]()
    with tempfile.TemporaryDirectory() as folder:
        for left in [*lives, -1]:
            memory.left = left
            live(memory, Path(folder), topic, letters, data)
    is_all_there(memory, topic, letters)


@settings(max_examples=60)
@given(data=st.data(), topic=TOPICS, failing=st.sets(st.integers(1, 60), min_size=1))
def test_a_disk_that_fails_in_any_operation_loses_nothing_and_doubles_nothing(
    data: st.DataObject, topic: list[Read], failing: set[int]
) -> None:
    memory, letters = Memory(), set[int]()
    memory.failing = failing
    with tempfile.TemporaryDirectory() as folder:
        live(memory, Path(folder), topic, letters, data)
    is_all_there(memory, topic, letters)


@settings(max_examples=60)
@given(data=st.data(), topic=TOPICS, lives=st.lists(st.integers(10, 60), min_size=1, max_size=5))
def test_dead_letters_come_back_once_whoever_dies_while_the_cause_is_mended(
    data: st.DataObject, topic: list[Read], lives: list[int]
) -> None:
    """Lives of the sink and of those who bring back, by turns; from some life on the sink can read all."""
    memory, letters = Memory(), set[int]()
    mended = [a_read(read.offset) if read.value == BAD else read for read in topic]
    mended_from = data.draw(st.integers(0, len(lives)))
    with tempfile.TemporaryDirectory() as folder:
        for number, left in enumerate([*lives, -1]):
            memory.left = left
            live(memory, Path(folder), mended if number >= mended_from else topic, letters, data)
            memory.left = data.draw(st.integers(-1, 12))
            bring_back(memory, Path(folder), mended, letters)
        memory.left = -1
        live(memory, Path(folder), mended, letters, data)
        store = on(memory, Path(folder))
        store.resume(TRADES, 0)
        store.write([a_read(1000)])
        for _ in range(2):
            assert store.restore([read for read in mended if read.offset in letters]) == ([], [])
        store.setup()
        store.close()
    is_all_there(memory, [*mended, a_read(1000)], set())


def bring_back(memory: Memory, locks: Path, mended: list[Read], letters: set[int]) -> None:
    """Replay the letters, or die of it."""
    store = on(memory, locks)
    with suppress(Dead):
        store.restore([read for read in mended if read.offset in letters])
    store.close()


def is_all_there(memory: Memory, topic: list[Read], letters: set[int]) -> None:
    final = [text for path, text in memory.files.items() if path.startswith("lake/v1/")]
    rows = [row for text in final for row in pq.read_table(io.BytesIO(text)).to_pylist()]
    good = [read.offset for read in topic if read.value != BAD]
    assert sorted(row["kafka_offset"] for row in rows) == good
    assert sorted(int(row["trade_id"]) for row in rows) == good
    assert letters == {read.offset for read in topic if read.value == BAD}
    assert not [path for path in memory.files if "_staging" in path or "_restoring" in path]


def live(memory: Memory, locks: Path, topic: list[Read], letters: set[int], data: st.DataObject) -> None:
    """Drain the topic in batches until its end, or until death; dead letters come after the write, as in the drain."""
    store = on(memory, locks)
    mortal = memory.left > 0
    with suppress(Dead):
        at = until_available(lambda: store.resume(TRADES, 0))
        while rest := [read for read in topic if read.offset >= at]:
            batch = rest[: data.draw(st.integers(1, 8))]
            bad = until_available(lambda batch=batch: store.write(batch).refused)  # type: ignore[misc]
            dies = bool(bad) and mortal and data.draw(st.booleans())
            if dies:
                raise Dead
            letters |= {one.read.offset for one in bad}
            at = batch[-1].offset + 1
    store.close()


def until_available(action: Callable[[], T]) -> T:
    while True:
        with suppress(StoreUnavailable):
            return action()


def test_what_is_left_out_is_done_and_holds_up_nothing(tmp_path: Path) -> None:
    """The tail of a batch, a batch of nothing else, and the offset of what was refused before."""
    store = a_lake(tmp_path)
    store.resume(TRADES, 0)
    store.write([a_read(0), read_of(1, BAD), a_read(4)])
    store.leave_out({(TRADES, 0): 8, (TRADES, 7): 5})
    assert (manifest(tmp_path).next_offset, manifest(tmp_path).refused) == (8, ())
    assert [path.name for path in (tmp_path / "_manifests").iterdir()] == [f"{TRADES}-0.json"], "7 is not held"
    assert store.restore([a_read(6)]).waiting == []
    store.leave_out({(TRADES, 0): 20})
    store.leave_out({(TRADES, 0): 15})
    store.close()

    store = a_lake(tmp_path)
    assert store.resume(TRADES, 0) == 20
    assert store.write([a_read(3), a_read(21), a_read(25)]) == ([], [])
    store.close()
    store = a_lake(tmp_path)
    assert store.resume(TRADES, 0) == 26
    assert offsets(tmp_path) == [0, 4, 6, 21, 25]
    store.close()


def test_what_was_refused_and_is_left_out_when_it_is_read_again_is_done(tmp_path: Path) -> None:
    store = a_lake(tmp_path)
    store.resume(TRADES, 0)
    store.write([a_read(0), read_of(1, BAD), a_read(2), read_of(3, BAD)])
    store.close()  # killed before its dead letters were sent

    store = a_lake(tmp_path)
    assert store.resume(TRADES, 0) == 1
    store.leave_out({(TRADES, 0): 3})
    assert (manifest(tmp_path).next_offset, manifest(tmp_path).refused) == (4, (3,))
    assert [bad.read.offset for bad in store.write([read_of(3, BAD)]).refused] == [3]
    store.leave_out({(TRADES, 0): 4})
    assert store.resume(TRADES, 0) == 4
    assert offsets(tmp_path) == [0, 2]
    store.close()


def test_what_another_process_took_over_is_not_said_to_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lake, "_lock", lambda self, *_: os.open(tmp_path, os.O_RDONLY))
    first, second = a_lake(tmp_path), a_lake(tmp_path)
    first.resume(TRADES, 0)
    second.resume(TRADES, 0)
    with pytest.raises(StoreUnavailable, match="another process"):
        first.leave_out({(TRADES, 0): 5})
    assert manifest(tmp_path).next_offset == 0
    first.close()
    second.close()
