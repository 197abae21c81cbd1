"""What `make rivals` and `make bench-folds` do without a rival: tapes, models of their rules, and the comparison."""

from itertools import pairwise
from typing import Any

import pytest

from benchmarks.bars import Contest, contests_of, judge, ours_of, plain_cases, sums
from benchmarks.bars_files import Tick
from benchmarks.bars_models import Book, Range, flows, runs_alone, sums_of_doubles
from benchmarks.bars_raven import columns, maker, settings
from benchmarks.bars_tapes import MIXED_RUNS, ONE_SIDED, REACH, N, tapes, with_prefix
from benchmarks.folds import lines_of, raven
from processors.registry import FOLDS, profiles
from ravencore.config import BarsSettings

BINARY, DECIMAL = tapes(3000)[:2]


def trades(prices: str, quantity: str = "1", sides: str = "") -> list[Tick]:
    bought = sides or "b" * len(prices)
    return [Tick(n, price, quantity, side == "b") for n, (price, side) in enumerate(zip(prices, bought, strict=True))]


def test_sums_of_doubles_miss_what_exact_sums_reach() -> None:
    tenths = trades("1" * 23, "0.1")
    case = {"kind": "volume", "size": 1}
    assert sums_of_doubles(case, tenths) == [11, 22]
    assert [bar["row"] for bar in ours_of(contest(case, tenths))] == [10, 20]


def test_flows_are_signed_by_the_tick_rule() -> None:
    assert flows("tib", trades("5565543")) == [0, 0, 1, -1, -1, -1, -1]
    assert flows("drb", trades("225", "0.5")) == [0, 0, 2.5]


@pytest.mark.parametrize(("at_threshold", "closings"), [(True, [3, 6, 9]), (False, [4, 8])])
def test_the_book_closes_at_or_beyond_its_threshold(at_threshold: bool, closings: list[int]) -> None:
    assert Book({"size": 3}, at_threshold).imbalances([1.0] * 10) == closings


def test_the_books_runs_wait_for_both_sides() -> None:
    assert Book({"size": 2}, True).runs([1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0]) == [5, 7]


def test_runs_alone_leave_other_trades_out() -> None:
    assert runs_alone(3, trades("1" * 9, sides="bbbsbbbbs")) == [Range(0, 3), Range(4, 7)]


def test_the_prefixes_have_the_sides_they_are_named_for() -> None:
    for sides in (ONE_SIDED, MIXED_RUNS):
        made = with_prefix(BINARY.ticks, sides)
        assert "".join("b" if tick.buy else "s" for tick in made[1 : 1 + len(sides)]) == sides
        assert [tick[:3] for tick in made[1 + len(sides) :]] == [tick[:3] for tick in BINARY.ticks]
    last = MIXED_RUNS[-N:].count("b") / N
    assert last == MIXED_RUNS.count("b") / (1 + len(MIXED_RUNS)) == 0.4


def test_tapes_are_in_order_and_the_first_is_exact_in_doubles() -> None:
    for tape in (BINARY, DECIMAL):
        assert all(one.time_us <= other.time_us for one, other in pairwise(tape.ticks))
    amounts = [float(tick.price) * float(tick.quantity) for tick in BINARY.ticks]
    assert all((amount * 128).is_integer() for amount in amounts)


@pytest.mark.parametrize("case", plain_cases(BINARY), ids=lambda case: case["name"])
def test_a_rival_that_is_off_anywhere_is_told(case: dict[str, Any]) -> None:
    its = Contest("rival", BINARY, BINARY.ticks, case, case)
    bars = ours_of(its)
    assert judge(its, bars)[2:] == (len(bars), len(bars), True, "equal")
    for field in ("row", "close_time", "high", "volume", "ticks"):
        off = [*bars[:-1], {**bars[-1], field: bars[-1][field] + 1}]
        assert not judge(its, off).equal
        assert field in judge(its._replace(model=None), off).found
    assert not judge(its, bars[:-1]).equal


def test_a_described_difference_passes_and_no_other() -> None:
    tenths = trades("1" * 23, "0.1")
    its = contest({"kind": "volume", "size": 1}, tenths)._replace(model=sums)
    theirs = [
        {**bar, "row": row, "close_time": row - 1, "volume": 1.1, "ticks": 11, "dollars": 1.1, "buy_volume": 1.1}
        for bar, row in zip(ours_of(its), (11, 22), strict=True)
    ]
    assert judge(its, theirs).equal
    assert not judge(its, [theirs[0], {**theirs[1], "row": 21}]).equal
    assert not judge(its._replace(model=None), theirs).equal


def contest(case: dict[str, Any], ticks: list[Tick]) -> Contest:
    return Contest("rival", DECIMAL._replace(ticks=ticks), ticks, case, case)


def test_fixed_thresholds_are_what_ravens_settings_make_them() -> None:
    fixed = [its for its in contests_of(DECIMAL) if its.case.get("rule") == "fixed" and its.ours]
    assert {its.rival for its in fixed} == {"mlfinpy", "risklabai", "nautilus"}
    for its in fixed:
        bars = ours_of(its)[1:]
        assert bars
        if its.case["kind"] == "tib":
            assert {bar["threshold"] for bar in bars} == {float(REACH)}


def test_every_fold_is_in_the_benchmark_alone() -> None:
    *lines, defaults = lines_of(BINARY)
    assert settings(next(raven([defaults], 100))) == BarsSettings()
    assert {line.kind for line in lines} == {fold.kind for fold in FOLDS}
    for case in raven(lines, 100):
        made = {profile.kind for profile in profiles(settings(case), "", "")}
        assert made == {case["kind"], "vpin"}


def test_decoded_columns_are_the_tapes() -> None:
    (decoded,) = maker({"kind": "objects", "batch": 3000}, DECIMAL.ticks).run()
    told = columns(DECIMAL.ticks)
    assert (list(decoded.price), list(decoded.quantity), list(decoded.buy)) == (told.price, told.quantity, told.buy)
    assert (list(decoded.trade_id), list(decoded.event_time)) == (told.trade_id, told.event_time)
