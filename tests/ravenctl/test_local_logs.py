"""Logs: the last lines, what is new, and rotation under a writer that keeps the file open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ravenctl.local.logs import last_lines, new_text, rotate


def test_last_lines_skip_empty_ones_and_earlier_lives(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("first life\n\nsecond\n\nlast\n")
    assert last_lines(log, 2) == ["second", "last"]
    assert last_lines(log, 5, since_byte=len("first life\n")) == ["second", "last"]
    assert last_lines(log, 0) == []
    assert last_lines(tmp_path / "none.log", 5) == []


def test_last_lines_of_a_long_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("".join(f"line {n}\n" for n in range(100_000)))
    assert last_lines(log, 3) == ["line 99997", "line 99998", "line 99999"]


def test_a_log_is_cut_only_when_it_is_long(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("x" * 100)
    rotate(log, limit_bytes=100)
    assert log.stat().st_size == 100
    rotate(log, limit_bytes=99)
    assert (log.read_text(), (tmp_path / "a.log.1").read_text()) == ("", "x" * 100)


def test_a_writer_goes_on_at_the_start_of_a_cut_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    code = (
        "import sys\nfor line in sys.stdin: print(line, end='', flush=True); print('ok', file=sys.stderr, flush=True)"
    )
    with (
        log.open("ab") as out,
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=out, stderr=subprocess.PIPE, text=True
        ) as writer,
    ):
        assert writer.stdin
        assert writer.stderr
        for line in ("before\n", "after\n"):
            writer.stdin.write(line)
            writer.stdin.flush()
            assert writer.stderr.readline() == "ok\n"
            if line == "before\n":
                rotate(log, limit_bytes=1)
        writer.stdin.close()
    assert log.read_text() == "after\n"
    assert (tmp_path / "a.log.1").read_text() == "before\n"


def test_new_text_goes_on_from_where_it_was_and_from_the_start_after_a_cut(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("one\n")
    assert list(new_text(log, 0)) == [("one\n", 4)]
    assert list(new_text(log, 4)) == []
    log.write_text("2\n")
    assert list(new_text(log, 4)) == [("2\n", 2)]
