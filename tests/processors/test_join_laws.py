"""The laws of bars.md section 7 that hold for joins, over every join."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.folds.iv_surface import IvSurfaces
from processors.folds.spot_mid import SpotMids
from tests.processors import test_iv_surface, test_spot_mid
from tests.processors.joins import (
    Event,
    assert_cuts_change_nothing,
    assert_duplicates_change_nothing,
    assert_goes_on_from_any_snapshot,
)

every_join = pytest.mark.parametrize(
    ("join", "tests"), [(SpotMids, test_spot_mid), (IvSurfaces, test_iv_surface)], ids=["SpotMids", "IvSurfaces"]
)
CUTS = test_spot_mid.CUTS


def drawn(data: st.DataObject, tests: Any) -> tuple[Any, list[Event]]:
    """Settings of a join, and a log for it."""
    return data.draw(tests.CHOSEN), data.draw(tests.LOGS)


@every_join
@settings(max_examples=40)
@given(st.data(), CUTS)
def test_1_and_5_it_goes_on_from_snapshots_taken_anywhere(
    join: Any, tests: Any, data: st.DataObject, cuts: list[int]
) -> None:
    chosen, events = drawn(data, tests)
    assert_goes_on_from_any_snapshot(lambda: join(chosen), events, cuts)


@every_join
@settings(max_examples=40)
@given(st.data(), CUTS)
def test_2_the_cut_into_batches_changes_nothing(join: Any, tests: Any, data: st.DataObject, cuts: list[int]) -> None:
    chosen, events = drawn(data, tests)
    assert_cuts_change_nothing(lambda: join(chosen), events, cuts)


@every_join
@settings(max_examples=40)
@given(st.data(), st.lists(st.tuples(st.integers(0, 99), st.integers(0, 20)), max_size=12))
def test_4_duplicates_change_nothing(join: Any, tests: Any, data: st.DataObject, again: list[tuple[int, int]]) -> None:
    chosen, events = drawn(data, tests)
    assert_duplicates_change_nothing(lambda: join(chosen), events, again)
