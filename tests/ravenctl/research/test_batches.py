"""Trades of a file put in order and given sides."""

from collections.abc import Sequence
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ravencore.columns import TradeColumns
from ravencore.decimals import ONE
from ravenctl.research.batches import HELD, Batch, Report, in_order, sided


def batch(ids: Sequence[int | None], prices: Sequence[int] | None = None, counting: bool = True) -> Batch:
    count = len(ids)
    column, no = list(range(count)), [False] * count
    texts, sequence = [str(number) for number in ids], ids if counting else [None] * count
    trades = TradeColumns(column, column, texts, sequence, prices or column, [ONE] * count, no, no)
    return Batch(list(range(1, count + 1)), trades)


def cut(whole: Batch, cuts: Sequence[int]) -> list[Batch]:
    bounds = sorted({0, len(whole), *(at % (len(whole) + 1) for at in cuts)})
    return [whole.cut(start, stop) for start, stop in pairwise(bounds)]


def columns(batches: Sequence[Batch]) -> list[tuple[object, ...]]:
    """Line, id, and price of every trade."""
    return [
        row
        for it in batches
        for row in zip(it.lines, it.trades.trade_id, it.trades.sequence, it.trades.price, strict=True)
    ]


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 5_000), max_size=6), st.booleans())
def test_ids_that_are_not_too_far_apart_come_out_in_order(seed: int, cuts: list[int], long: bool) -> None:
    rng = Random(seed)
    count = 3_000 if long else 30
    ids = sorted(range(count), key=lambda number: number + rng.randrange(HELD if long else 20))
    report = Report()
    made = columns(list(in_order(iter(cut(batch(ids), cuts)), report)))
    assert made == sorted(columns([batch(ids)]), key=lambda row: row[2])  # type: ignore[arg-type, return-value]
    assert (report.moved > 0) == (ids != sorted(ids))


def test_repetitions_stay_beside_one_another_in_the_order_they_came() -> None:
    made = columns(list(in_order(iter([batch([5, 6, 5, 7])]), Report())))
    assert [(row[0], row[1]) for row in made] == [(1, "5"), (3, "5"), (2, "6"), (4, "7")]


def test_ids_that_do_not_count_stay_as_they_came() -> None:
    whole = batch([None, None, None])
    assert columns(list(in_order(iter([whole]), Report()))) == columns([whole])


def slow_tick_rule(prices: Sequence[int]) -> list[bool]:
    """Of each trade, by looking back from it."""
    sides: list[bool] = []
    for place, price in enumerate(prices):
        others = [other for other in reversed(prices[:place]) if other != price]
        sides.append(price > others[0] if others else True)
    return sides


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(-1, 4)), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
    st.booleans(),
)
def test_the_tick_rule_is_the_slow_one_over_what_the_folds_admit(
    rows: list[tuple[int, int]], cuts: list[int], counting: bool
) -> None:
    """Trades that come again, that fill holes, or whose price cannot be, change no side of another."""
    whole = batch([number for number, _ in rows], [price * ONE for _, price in rows], counting)
    made = [side for it in sided(iter(cut(whole, cuts))) for side in it.trades.buy]
    admitted: list[int] = []
    seen: set[int] = set()
    for place, (number, price) in enumerate(rows):
        if price > 0 and (number > max(seen, default=0) if counting else number not in seen):
            admitted.append(place)
            seen.add(number)
    assert [made[place] for place in admitted] == slow_tick_rule([rows[place][1] for place in admitted])
