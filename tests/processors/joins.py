"""What the tests of joins share: running logs through them, and the laws of bars.md section 7 that hold for joins."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from processors.contract import Clock, Join, Joined, Output
from processors.join import LAYOUT
from producers.contract import BadFrame, Source, Stream
from ravencore.codec import Codec
from ravencore.records import Record
from tests.producers.recorded import lines

CODEC = Codec()
E18 = 10**18
SECOND_US = 1_000_000
Event = tuple[str, Any]
"""A Kafka key, and a record or a Clock."""
New = Callable[[], Join[Any]]


class Ran:
    """A log that was applied in batches, and the newest snapshot of each key that a batch touched."""

    def __init__(self, machine: Join[Any]) -> None:
        self.machine = machine
        self.done = Joined([], [], {}, {})
        self.store: dict[str, bytes] = {}

    def apply(self, events: Sequence[Event], first_offset: int = 0) -> None:
        done = self.machine.apply(events, range(first_offset, first_offset + len(events)))
        self.done.outputs.extend(done.outputs)
        self.done.refused.extend(done.refused)
        for name, count in done.counts.items():
            self.done.counts[name] = self.done.counts.get(name, 0) + count
        for key, offset in done.touched.items():
            assert offset in range(first_offset, first_offset + len(events))
            self.store[key] = self.machine.snapshot(key)


def run(machine: Join[Any], events: Sequence[Event], cuts: Iterable[int] = (), *, killed: New | None = None) -> Ran:
    """Apply a log in batches that end at `cuts`; with `killed` each batch by a new machine, from the stored state."""
    ran = Ran(machine)
    bounds = [0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]
    for start, stop in itertools.pairwise(bounds):
        if killed is not None:
            ran.machine = killed()
            for key in sorted(ran.store, reverse=True):
                ran.machine.restore(key, ran.store[key], LAYOUT)
                assert ran.machine.snapshot(key) == ran.store[key]
        ran.apply(events[start:stop], start)
    return ran


def wire(outputs: Sequence[Output]) -> list[tuple[int, int, str, int, bytes]]:
    """Outputs as they would be published: byte for byte."""
    return [(out.offset, out.order, out.topic, out.received_time, CODEC.encode(out.record)) for out in outputs]


def assert_same(one: Ran, other: Ran) -> None:
    assert wire(one.done.outputs) == wire(other.done.outputs)
    assert (one.done.refused, one.done.counts) == (other.done.refused, other.done.counts)
    assert one.store == other.store


def assert_goes_on_from_any_snapshot(new: New, events: Sequence[Event], cuts: Sequence[int]) -> None:
    """Law 1 and 5: machines that follow each other, each from the snapshots alone, do what one machine does."""
    assert_same(run(new(), events, cuts, killed=new), run(new(), events))


def assert_cuts_change_nothing(new: New, events: Sequence[Event], cuts: Sequence[int]) -> None:
    """Law 2."""
    expected = run(new(), events)
    for cut in (cuts, range(len(events))):
        assert_same(run(new(), events, cut), expected)


def assert_duplicates_change_nothing(new: New, events: Sequence[Event], again: Sequence[tuple[int, int]]) -> None:
    """Law 4: events that come once more, some events later, leave the outputs and the state as they are."""
    log = list(enumerate(events))
    for which, later in again:
        if which < len(events):
            place = next(at for at, (number, _) in enumerate(log) if number == which)
            log.insert(place + 1 + later, (-1, events[which]))
    expected, doubled = run(new(), events), run(new(), [event for _, event in log])
    renumbered = [out._replace(offset=log[out.offset][0]) for out in doubled.done.outputs]
    assert wire(renumbered) == wire(expected.done.outputs)
    assert doubled.store == expected.store


def assert_is_in_order(outputs: Sequence[Output], key_of: Callable[[Any], Any]) -> None:
    """By offset; within one by time, then by key; `order` counts."""
    places = [(out.offset, out.record.time, key_of(out.record)) for out in outputs]
    assert places == sorted(set(places))
    for _, group in itertools.groupby(outputs, key=lambda out: out.offset):
        orders = [out.order for out in group]
        assert orders == list(range(len(orders)))


def recorded(path: Path, source: Source) -> list[Record]:
    """The records of a recording, frames that the source does not read left out."""
    assert isinstance(source, Stream)
    found: list[Record] = []
    for line in lines(path):
        try:
            found += [event for event in source.parse(line.raw, line.receipt) if isinstance(event, Record)]
        except BadFrame:
            continue
    return found


def clock(key: str, time_us: int) -> Event:
    return key, Clock(time_us)
