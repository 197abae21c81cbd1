"""The files of a home: whole or not there, and processes that cannot be mistaken."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ravenctl.local import state
from ravenctl.local.errors import StackError
from ravenctl.local.state import Endpoints, MemberState, ProcessId, StackState


def a_state(revision: int = 1, members: int = 1) -> StackState:
    return StackState(
        phase="running",
        revision=revision,
        supervisor=ProcessId(pid=1, created=2.0),
        endpoints=Endpoints(kafka_bootstrap="h:1", questdb_url="http://h:2", postgres_dsn="postgresql://h:3/raven"),
        external={},
        members={f"member{n}": MemberState(state="running", pid=n) for n in range(members)},
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    assert state.read(path, StackState) is None
    state.write(path, a_state())
    assert state.read(path, StackState) == a_state()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_readers_never_see_a_torn_file(tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    state.write(path, a_state(0))

    def rewrite() -> None:
        for revision in range(300):
            state.write(path, a_state(revision, members=revision % 50))

    writer = threading.Thread(target=rewrite)
    writer.start()
    revisions = []
    while writer.is_alive():
        seen = state.read(path, StackState)
        assert seen is not None
        revisions.append(seen.revision)
    writer.join()
    assert revisions == sorted(revisions)


def test_a_file_that_is_not_ours_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    path.write_text("{}")
    with pytest.raises(StackError, match=r"stack\.json cannot be read"):
        state.read(path, StackState)


def test_a_process_is_found_by_number_and_birth() -> None:
    me = state.process_id(os.getpid())
    assert state.find(me.pid, me.created) is not None
    assert state.find(me.pid, me.created - 60) is None
    assert state.find(me.pid, None) is None


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = state.process_id(child.pid)
    assert state.find(identity.pid, identity.created) is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, not collected
    assert state.find(identity.pid, identity.created) is None
    child.communicate()
