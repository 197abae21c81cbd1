"""A demo clears its folder before it begins, and never a stranger's."""

from pathlib import Path

import pytest
from rich.console import Console

from ravenctl.demo import _clear
from ravenctl.local.stack import Stack
from ravenctl.shell import CommandFailed


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "demo" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("x")
    with pytest.raises(CommandFailed, match="holds what no demo left there"):
        _clear(Stack(precious.parent), Console())
    assert precious.read_text() == "x"


@pytest.mark.parametrize("left", [[], [".lock"], ["logs", "run"], ["spec.json", "kafka", "precious.txt"]])
def test_what_a_demo_left_is_removed(tmp_path: Path, left: list[str]) -> None:
    home = tmp_path / "demo"
    home.mkdir()
    for name in left:
        (home / name).write_text("")
    _clear(Stack(home), Console())
    assert not home.exists()
