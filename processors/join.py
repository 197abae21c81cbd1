"""What all joins share: the time of a partition, and what follows from it; pure.

Time is received_time, because the clocks of venues differ, and moves in steps of a second or more. The instant that a
step begins with is sampled when the first event of the partition reaches it, a record under any key or a Clock, and
before that event is taken. So a sample knows what was received before its instant and had come by then. What comes
later, however early it was received, counts from the next sample on.

What a sample says follows from the newest records of its key and the instant alone. So time passing changes no
snapshot: each holds the last step that events of its own key have reached, and the greatest of these over all keys is
how far the partition has come. A step that no key can say anything of is passed over, so that a jump of the log's time
makes no more records than a market that has fallen silent.

A received_time that lies in the future takes the partition there: its samples wait until the others have caught up.
"""

import abc
from collections.abc import Sequence
from typing import ClassVar, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from processors import migrations
from processors.columns import BAD_VALUE
from processors.contract import Clock, Join, Joined, Member, Output, Refused

LAYOUT: int = 1
"""Version of the layout of snapshots."""
NEVER: int = -(1 << 63)
"""`until_us` of a key that has nothing to say."""
_encoder = msgspec.msgpack.Encoder()


class Received(Protocol):
    """A record of the market."""

    @property
    def received_time(self) -> int: ...


class Place(NamedTuple):
    """What outputs are due to: an event's offset and when it was received; 0 where it is a Clock."""

    offset: int
    received_us: int


E = TypeVar("E", bound=Received)


class PartitionJoin(Join[E], abc.ABC, Generic[E]):
    """A Join whose keys know nothing of each other but the time."""

    step_us: ClassVar[int]
    topic: ClassVar[str]
    counters: ClassVar[tuple[str, ...]]
    """Records taken, records made, and why others were not taken."""

    def __init__(self) -> None:
        self._members: dict[str, Member[E]] = {}
        self._reached: dict[str, int] = {}
        """By key, the last step that its events have reached."""
        self._now: int | None = None
        """The last step that any event has reached."""

    @abc.abstractmethod
    def fault(self, event: E) -> str | None:
        """Why a record cannot be, as a sentence; None where it is sound."""

    @abc.abstractmethod
    def member(self, key: str) -> Member[E]:
        """What begins to be known of a key."""

    def apply(self, events: Sequence[tuple[str, E | Clock]], offsets: Sequence[int]) -> Joined:
        """Apply events by Kafka key, in the order of the log."""
        batch = Joined([], [], dict.fromkeys(self.counters, 0), {})
        for (key, event), offset in zip(events, offsets, strict=True):
            if isinstance(event, Clock):
                if self._reach(batch, key, event.time_us, Place(offset, 0)):
                    batch.touched[key] = offset
            elif fault := self.fault(event):
                batch.refused.append(Refused(offset, BAD_VALUE, fault))
            else:
                reached = self._reach(batch, key, event.received_time, Place(offset, event.received_time))
                if self._take(batch, key, event) or reached:
                    batch.touched[key] = offset
        return batch

    def snapshot(self, key: str) -> bytes:
        """The whole state of a key as MessagePack, doubles as exact bits."""
        return _encoder.encode([self._reached[key], self._members[key].snapshot()])

    def restore(self, key: str, payload: bytes, layout: int = LAYOUT) -> None:
        """Take over a key's snapshot; raises StateMismatch when this code cannot read its layout."""
        migrations.check(layout, key, LAYOUT)
        step, state = msgspec.msgpack.decode(payload)
        self._members[key] = self.member(key)
        self._members[key].restore(state)
        self._reached[key] = step
        self._now = step if self._now is None else max(self._now, step)

    def _reach(self, batch: Joined, key: str, time_us: int, place: Place) -> bool:
        """Sample what is due; True where the key has not come this far before."""
        step = time_us // self.step_us
        if self._now is None or step > self._now:
            self._sample(batch, step, place)
            self._now = step
        if key not in self._members:
            self._members[key] = self.member(key)
        if step <= self._reached.get(key, NEVER):
            return False
        self._reached[key] = step
        return True

    def _sample(self, batch: Joined, step: int, place: Place) -> None:
        """Sample the instants of all steps after the last to this one."""
        if self._now is None:
            return
        members = [self._members[key] for key in sorted(self._members)]
        last = min(step, max(member.until_us for member in members) // self.step_us)
        instants = range((self._now + 1) * self.step_us, (last + 1) * self.step_us, self.step_us)
        records = [record for instant in instants for member in members for record in member.sample(instant)]
        batch.outputs.extend(
            Output(place.offset, order, self.topic, record, place.received_us) for order, record in enumerate(records)
        )
        batch.counts[self.counters[1]] += len(records)

    def _take(self, batch: Joined, key: str, event: E) -> bool:
        counter = self._members[key].take(event)
        batch.counts[counter] += 1
        return counter == self.counters[0]
