"""Waiting until nothing is left: it ends when that is so, and when nothing new happens any more."""

import itertools
from collections.abc import Mapping

import pytest

from ravenctl.drain import wait_until_drained
from ravenctl.shell import CommandFailed

SOON_S = 0.3


def test_it_ends_when_nothing_is_left() -> None:
    said: list[Mapping[str, int]] = []
    left = iter([{"engine": 2, "sink": 0}, {"engine": 1, "sink": 1}, {"engine": 0, "sink": 0}])
    wait_until_drained(lambda: next(left), said.append, lambda _: "")
    assert said == [{"engine": 2}, {"engine": 1, "sink": 1}]


@pytest.mark.parametrize("beside", [{}, {"sink": 1}])
def test_what_comes_and_goes_is_no_progress(beside: dict[str, int]) -> None:
    left = itertools.cycle([{"collector": 3}, {"collector": 3, **beside}])
    with pytest.raises(CommandFailed, match=r"left are collector: 3.* ask the collector"):
        wait_until_drained(
            lambda: next(left), lambda _: None, lambda names: f"ask the {next(iter(names))}", no_progress_s=SOON_S
        )
