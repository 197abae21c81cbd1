"""Many venues on one clock: what each does next, in order of the time since its own beginning."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

from simulator.contract import Frame
from simulator.exchange import Exchange
from simulator.faults import Action, inject


class Step(NamedTuple):
    """An action of a venue, so many nanoseconds after the beginning."""

    after_ns: int
    exchange: Exchange
    action: Action


class Faults(NamedTuple):
    """What is put on every venue; each draws its own chances from the seed."""

    spec: Mapping[str, float | int]
    seed: int


def steps(
    exchanges: Sequence[Exchange], faults: Faults, start_ns: int | None, duration_ns: int | None
) -> Iterator[Step]:
    """Everything that happens at all venues, each until `duration_ns` after it began.

    A recording begins at its own time, however far it is from the others'; a synthetic market at `start_ns`.
    """
    return heapq.merge(*(_venue(one, faults, start_ns, duration_ns) for one in exchanges), key=_after)


def _venue(exchange: Exchange, faults: Faults, start_ns: int | None, duration_ns: int | None) -> Iterator[Step]:
    market = exchange.market
    begin_ns = start_ns if start_ns is not None and market.source == "synthetic" else market.begins_ns
    frames = market.frames(start_ns)
    if duration_ns is not None:
        end_ns = begin_ns + duration_ns
        frames = takewhile(lambda frame: frame.time_ns < end_ns, frames)
    after_ns = 0
    for action in _actions(exchange, frames, faults):
        if action.frame is not None:
            after_ns = action.frame.time_ns - begin_ns
        yield Step(after_ns, exchange, action)


def _actions(exchange: Exchange, frames: Iterator[Frame], faults: Faults) -> Iterator[Action]:
    dialect = exchange.dialect
    if not faults.spec:
        return (Action("send", frame) for frame in frames)
    return inject(frames, faults.spec, f"{faults.seed}/{dialect.venue}", dialect.spoil, exchange.market.expected_trades)


def _after(step: Step) -> int:
    return step.after_ns
