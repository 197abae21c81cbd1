"""Past trades found in a history of frames without going through all of it."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from simulator.contract import TRADES, Frame

SLACK_FRAMES = 64
"""Frames that changed places are at most so far from where their keys would have them."""


def newest(frames: Sequence[Frame], count: int) -> list[Frame]:
    """The last so many, oldest first."""
    return list(islice(frames, max(len(frames) - count, 0), None))


def since(frames: Sequence[Frame], key: Callable[[Frame], int], least: int) -> Iterator[Frame]:
    """All frames whose key is `least` or more, in their order, and some before them. Keys grow, but for neighbours."""
    return islice(frames, max(bisect_left(frames, least, key=key) - SLACK_FRAMES, 0), None)


def by_id(frames: Sequence[Frame], first: int, count: int) -> list[Frame]:
    """The first so many frames of one trade each whose id is `first` or more, in the order of their ids."""
    near = islice(since(frames, trade_id, first), count + 2 * SLACK_FRAMES)
    return sorted((frame for frame in near if trade_id(frame) >= first), key=trade_id)[:count]


def trade_id(frame: Frame) -> int:
    """Of its first trade."""
    return frame.marks[0][2] or 0


def trade_id_of(symbol: str) -> Callable[[Frame], int]:
    """The key of frames with trades of several symbols: the id of this symbol's first."""
    return lambda frame: next(i or 0 for channel, name, i in frame.marks if channel == TRADES and name == symbol)
