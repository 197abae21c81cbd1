"""Many venues on one clock: what each does next, in order of the time since its own beginning."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

from simulator import chaos
from simulator.contract import Frame
from simulator.exchange import Exchange
from simulator.faults import CHAOS, TIMES, Action, Intent, Times
from simulator.injector import Schedule, inject

FOREVER_NS = 2**62


class Step(NamedTuple):
    """An action of a venue, so many nanoseconds after the beginning."""

    after_ns: int
    exchange: Exchange
    action: Action


class Faults(NamedTuple):
    """What is put on every venue, each of which draws its own chances from the seed, at this speed of the markets."""

    spec: Mapping[str, float | int]
    seed: int
    speed: float = 1.0
    times: Times = TIMES


Plans = Mapping[str, Sequence[Intent]]


def steps(
    exchanges: Sequence[Exchange], faults: Faults, start_ns: int | None, duration_ns: int | None, plans: Plans
) -> Iterator[Step]:
    """Everything that happens at all venues, each until `duration_ns` after it began.

    A recording begins at its own time, however far it is from the others'; a synthetic market at `start_ns`.
    """
    venues = []
    for one in exchanges:
        begins_ns = start_ns if start_ns is not None and one.market.source == "synthetic" else one.market.begins_ns
        ends_ns = begins_ns + (FOREVER_NS if duration_ns is None else duration_ns)
        intents = plans.get(one.dialect.venue, ())
        schedule = Schedule(intents, one, begins_ns, ends_ns, faults.speed, faults.times)
        venues.append(_venue(one, faults, schedule, start_ns))
    return heapq.merge(*venues, key=_after)


def make_plans(exchanges: Sequence[Exchange], faults: Faults, duration_ns: int | None) -> Plans:
    """By venue, what chaos is to do, where it is asked for; takes a few seconds, to see what the markets have."""
    if CHAOS not in faults.spec or duration_ns is None:
        return {}
    offers = {one.dialect.venue: chaos.survey(_first_frames(one)) for one in exchanges}
    return chaos.plan(offers, faults.seed, duration_ns / 1e9 / faults.speed, faults.times)


def _first_frames(exchange: Exchange) -> Iterator[Frame]:
    end_ns = exchange.market.begins_ns + int(chaos.SURVEY_SECONDS * 1e9)
    return takewhile(lambda frame: frame.time_ns < end_ns, exchange.market.frames(None))


def _venue(exchange: Exchange, faults: Faults, schedule: Schedule, start_ns: int | None) -> Iterator[Step]:
    frames = takewhile(lambda frame: frame.time_ns < schedule.ends_ns, exchange.market.frames(start_ns))
    after_ns = 0
    for action in _actions(exchange, frames, faults, schedule):
        if action.frame is not None:
            after_ns = action.frame.time_ns - schedule.begins_ns
        yield Step(after_ns, exchange, action)


def _actions(exchange: Exchange, frames: Iterator[Frame], faults: Faults, schedule: Schedule) -> Iterator[Action]:
    if not faults.spec:
        return (Action("send", frame) for frame in frames)
    dialect = exchange.dialect
    spec = {kind: value for kind, value in faults.spec.items() if kind != CHAOS}
    expected = exchange.market.expected_trades if spec else 0
    return inject(frames, spec, f"{faults.seed}/{dialect.venue}", dialect.spoil, expected, schedule=schedule)


def _after(step: Step) -> int:
    return step.after_ns
