"""True order books, by the simplest means, and what becomes of the messages about them on their way."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hypothesis import strategies as st

Levels = Sequence[tuple[int, int]]


class Change(NamedTuple):
    """Of a price's quantity; 0 ends the level."""

    is_bid: bool
    price: int
    quantity: int


class Truth(NamedTuple):
    """A whole book, its levels by price."""

    bids: dict[int, int]
    asks: dict[int, int]

    def after(self, changes: Iterable[Change]) -> "Truth":
        """The book after these changes."""
        sides = {True: dict(self.bids), False: dict(self.asks)}
        for change in changes:
            sides[change.is_bid][change.price] = change.quantity
        return Truth(*({price: left for price, left in side.items() if left} for side in sides.values()))

    def top(self, depth: int) -> tuple[Levels, Levels]:
        """As sequencers tell it."""
        return sorted(self.bids.items(), reverse=True)[:depth], sorted(self.asks.items())[:depth]


CHANGES = st.builds(Change, st.booleans(), st.integers(1, 40), st.sampled_from([0, 0, 1, 2, 3, 10]))


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Sequence[Change], Truth]]:
    """Batches of changes, each with the book after it; the first is what a new subscription is told."""
    truth = Truth({}, {})
    history: list[tuple[Sequence[Change], Truth]] = []
    first = st.lists(CHANGES, min_size=10, max_size=60)
    for batch in [draw(first), *draw(st.lists(st.lists(CHANGES, max_size=4), min_size=1, max_size=25))]:
        truth = truth.after(batch)
        history.append((batch, truth))
    return history


@st.composite
def journeys(draw: st.DrawFn, length: int) -> list[int]:
    """The numbers 0 to `length` - 1 as messages arrive: some lost, some doubled, at once or late, some out of order."""
    arrived: list[int] = []
    for number in range(length):
        fate = draw(st.sampled_from(["once"] * 12 + ["lost", "twice", "again", "early"]))
        arrived += {"lost": [], "twice": [number, number]}.get(fate, [number])
        if fate == "again" and arrived:
            arrived.append(draw(st.sampled_from(arrived)))
        if fate == "early":
            arrived[-2:] = reversed(arrived[-2:])
    return arrived
