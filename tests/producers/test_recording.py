"""The recording format, read back by the simulator's own reader; and its files, whatever happens to whoever writes."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.actions import BadBytes
from producers.collector.recorder import BlockFile, CannotWrite, Recording
from producers.recording import body_line, frame_line, odd_line, stem
from producers.venues.binance_options import BinanceOptions
from producers.venues.binance_spot import BinanceSpot
from ravencore.records import Gap, GapCause
from simulator.recording import lines, read_bodies, text_lines
from tests.producers.made import book_frame, trade_frame

TIME_NS = 1_723_161_253_937_123_456
SPOT = BinanceSpot()
ODD = [b"", b"\x00\xff\xfe", b'{"a":\n1}', b'{"a":\t1}', b'{"a":1}\r', "{é".encode("latin-1")]
frames = st.one_of(st.binary(), st.text().map(str.encode), st.sampled_from(ODD))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def odd_rows(path: Path) -> list[tuple[int, str | None, bytes]]:
    rows = [json.loads(line) for line in text_lines(path)]
    return [(row["recv_ns"], row["url"], base64.b64decode(row["base64"])) for row in rows]


# Lines


@given(frames, st.integers(0, 2**63))
def test_a_frame_is_one_line_byte_for_byte_or_odd(frame: bytes, time_ns: int) -> None:
    line = frame_line(time_ns, frame)
    if line is None:
        assert not frame or set(frame) & set(b"\n\r\t") or not _is_utf8(frame)
        row = json.loads(odd_line(time_ns, None, frame))
        assert (row["recv_ns"], base64.b64decode(row["base64"])) == (time_ns, frame)
    else:
        assert line.count(b"\n") == line.count(b"\t") == 1
        assert line.rstrip(b"\n").split(b"\t") == [str(time_ns).encode(), frame]


@pytest.mark.parametrize("frame", ODD)
def test_what_would_corrupt_a_file_of_lines_is_odd(frame: bytes) -> None:
    assert frame_line(TIME_NS, frame) is None


@given(st.text(), st.text())
def test_a_body_is_one_line_whatever_is_in_it(url: str, body: str) -> None:
    line = body_line(TIME_NS, url, body.encode())
    assert line is not None
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"recv_ns": TIME_NS, "url": url, "body": body}


def test_a_body_that_is_no_text_is_odd() -> None:
    assert body_line(TIME_NS, "http://here", b"\xff") is None


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize(
    ("source", "symbols", "name"),
    [
        ("KRAKEN", ["BTC/USD"], "kraken_btcusd_20240808T235413"),
        ("COINBASE", ["ETH-USD", "BTC-USD"], "coinbase_btcusd-ethusd_20240808T235413"),
        ("BINANCE_SPOT", ["A", "B", "C", "D"], "binance_spot_4symbols_20240808T235413"),
        ("DERIBIT_OPTIONS", [], "deribit_options_20240808T235413"),
    ],
)
def test_files_are_named_by_source_symbols_and_time(source: str, symbols: list[str], name: str) -> None:
    assert stem(source, symbols, TIME_NS // 1000) == name


# Files of blocks


@given(st.lists(st.one_of(st.binary().map(lambda raw: raw.replace(b"\n", b"") + b"\n"), st.none())))
def test_after_every_flush_all_lines_are_there_to_be_read(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | None]
) -> None:
    file = BlockFile(tmp_path_factory.mktemp("blocks") / "x.zst")
    added: list[bytes] = []
    for step in [*steps, None]:
        if step is not None:
            file.add(step)
            added.append(step.rstrip(b"\n").rstrip(b"\r"))
            continue
        file.flush()
        assert (list(text_lines(file.path)) if added else file.path.exists()) == (added or False)
        assert file.size == (file.path.stat().st_size if added else 0)
    file.close()


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    there = tmp_path / "x.frames.zst"
    there.write_bytes(b"mine")
    with pytest.raises(CannotWrite, match="exists already: name another with --out"):
        Recording(SPOT, tmp_path, "x")
    late = BlockFile(there)
    late.add(b"line\n")
    with pytest.raises(CannotWrite, match="File exists"):
        late.flush()
    assert there.read_bytes() == b"mine"


def test_a_line_beyond_the_block_is_written_at_once(tmp_path: Path) -> None:
    file = BlockFile(tmp_path / "x.zst")
    file.add(b"x" * (1 << 20) + b"\n")
    assert len(list(text_lines(file.path))) == 1
    file.close()


WRITER = """
import itertools, os, sys
from pathlib import Path
from producers.collector.recorder import BlockFile
file = BlockFile(Path(sys.argv[1]))
for number in itertools.count():
    file.add(b"%d\\t%s\\n" % (number, os.urandom(200).hex().encode()))
    if number % 50 == 49:
        file.flush()
        print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 300])
def test_a_writer_killed_with_9_leaves_a_file_that_is_read_to_its_end(tmp_path: Path, after: int) -> None:
    path = tmp_path / "x.frames.zst"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    told = [int(writer.stdout.readline()) for _ in range(after)][-1]
    writer.kill()
    writer.wait()
    writer.stdout.close()
    numbers = [number for number, _ in lines(path)]
    assert numbers == list(range(len(numbers)))
    assert numbers[-1] >= told


@given(st.data(), st.integers(2, 5))
def test_a_file_cut_within_its_last_block_loses_at_most_that_and_no_line_is_torn(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, blocks: int
) -> None:
    """A kill may come while a block is being written, and takes what is not written of it."""
    file = BlockFile(tmp_path_factory.mktemp("cut") / "x.frames.zst")
    sizes = [0]
    for block in range(blocks):
        for line in range(3):
            file.add(b"%d\t%b\n" % (block * 3 + line, bytes(range(32, 127)) * 20))
        file.flush()
        sizes.append(file.size)
    file.close()
    cut = data.draw(st.integers(sizes[1], sizes[-1]))
    os.truncate(file.path, cut)
    numbers = [number for number, _ in lines(file.path)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 3 * sum(size <= cut for size in sizes[1:])


FULL_DISK = """
import itertools, os, resource, signal, sys
from pathlib import Path
from producers.collector.recorder import BlockFile, CannotWrite
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
file = BlockFile(Path(sys.argv[1]))
try:
    for number in itertools.count():
        file.add(b"%d\\t%s\\n" % (number, os.urandom(8000).hex().encode()))
        file.flush()
except CannotWrite as error:
    print(number, error)
file.close()
"""


def test_a_disk_that_is_full_cuts_no_block_in_two(tmp_path: Path) -> None:
    """A file that may not grow takes a part of the last block, as a full disk does."""
    path = tmp_path / "x.frames.zst"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=True)
    failed, _, error = done.stdout.partition(" ")
    assert error.strip() == f"{path} cannot be written: File too large"
    assert [number for number, _ in lines(path)] == list(range(int(failed)))
    assert int(failed) > 1


# A source


def test_every_message_is_kept_in_its_order_and_what_is_odd_beside(tmp_path: Path) -> None:
    recording = Recording(SPOT, tmp_path, "x")
    came = [trade_frame(1, 0.0), b"no json", b"\x00\n", "é".encode(), b""]
    for number, frame in enumerate(came):
        recording.frame(TIME_NS + number, frame)
    recording.body(TIME_NS + 9, "http://here/api/v3/exchangeInfo", b'{"a":\n 1}')
    recording.body(TIME_NS + 10, "http://here/odd", b"\xff")
    recording.close()
    assert list(lines(tmp_path / "x.frames.zst")) == [(TIME_NS + number, came[number]) for number in (0, 1, 3)]
    assert [(one.time_ns, one.url, one.body) for one in read_bodies(tmp_path / "x.rest.jsonl.zst")] == [
        (TIME_NS + 9, "http://here/api/v3/exchangeInfo", b'{"a":\n 1}')
    ]
    assert odd_rows(tmp_path / "x.odd.jsonl.zst") == [
        (TIME_NS + 2, None, b"\x00\n"),
        (TIME_NS + 4, None, b""),
        (TIME_NS + 10, "http://here/odd", b"\xff"),
    ]
    assert recording.counts["frames"] == recording.messages == 5
    assert (recording.counts["bodies"], recording.counts["odd"]) == (2, 3)
    assert recording.counts["bytes"] == sum(map(len, came)) + len(b'{"a":\n 1}') + 1


def test_only_files_with_something_in_them_exist(tmp_path: Path) -> None:
    recording = Recording(SPOT, tmp_path, "x")
    recording.flush()
    assert files(tmp_path) == []
    recording.frame(TIME_NS, book_frame())
    recording.close()
    assert files(tmp_path) == ["x.frames.zst"]


def test_a_clock_that_is_set_back_puts_no_file_out_of_order(tmp_path: Path) -> None:
    recording = Recording(SPOT, tmp_path, "x")
    for time_ns in (5, 3, 9):
        recording.frame(time_ns, b"{}")
    recording.close()
    assert [time_ns for time_ns, _ in lines(tmp_path / "x.frames.zst")] == [5, 5, 9]


def gap(cause: GapCause, repair: Any = "NONE") -> Gap:
    more: dict[str, Any] = {"to_time": 1, "detected_time": 1, "connection": "here", "detail": "", "repair": repair}
    return Gap(gap_id="1", venue="BINANCE_SPOT", channel="trades", symbol="BTCUSDT", cause=cause, **more)


def test_a_cold_start_a_refusal_and_a_repair_are_no_gaps_of_the_recording(tmp_path: Path) -> None:
    recording = Recording(SPOT, tmp_path, "x")
    for record in (gap("COLD_START"), gap("SEQUENCE"), gap("SEQUENCE", "PARTIAL"), gap("DISCONNECT"), gap("REFUSED")):
        recording.put("BINANCE_SPOT", record)
    recording.put("BINANCE_SPOT", BadBytes(b"x", "unreadable_frame", "no JSON", "here"))
    assert (recording.counts["gaps"], recording.counts["bad"]) == (2, 1)
    assert recording.first_bad == "no JSON"


def test_the_answers_of_a_poll_are_its_messages(tmp_path: Path) -> None:
    recording = Recording(BinanceOptions(), tmp_path, "x")
    recording.body(TIME_NS, "http://here/eapi/v1/mark", b"[]")
    assert (recording.messages, recording.main) == (1, tmp_path / "x.rest.jsonl.zst")
