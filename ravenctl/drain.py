"""Waits until everything that was sent has arrived everywhere, by asking Kafka and not the clock."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from ravencore import kafka
from ravencore.config import KafkaSettings
from ravencore.errors import Unavailable
from ravenctl.cluster import QUIET
from ravenctl.shell import CommandFailed

NO_PROGRESS_S = 45.0
POLL_S = 0.1
REQUEST_S = 10.0

Place = tuple[str, int]
"""A topic and the number of a partition."""


@dataclass(frozen=True)
class Reader:
    """Somebody who reads topics and commits how far it has come."""

    service: str
    group: str
    topics: tuple[str, ...]


class Offsets:
    """Where topics end and how far groups have come; two requests, however many partitions there are."""

    def __init__(self, settings: KafkaSettings, topics: Sequence[str]) -> None:
        self._client = AdminClient({"bootstrap.servers": settings.bootstrap, **QUIET})
        self._places = [(topic, number) for topic in topics for number in kafka.partitions(self._client, topic)]

    def ends(self) -> dict[Place, int]:
        """The offset after the last committed record or marker of each partition; raises Unavailable."""
        return self._ends(IsolationLevel.READ_COMMITTED)

    def undecided(self) -> int:
        """How many offsets belong to transactions whose markers are not written yet; raises Unavailable.

        A coordinator answers a commit before it has written the markers into the partitions.
        """
        written = self._ends(IsolationLevel.READ_UNCOMMITTED)
        return sum(max(written[place] - end, 0) for place, end in self.ends().items())

    def _ends(self, level: IsolationLevel) -> dict[Place, int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(*place): latest for place in self._places}

        def ask() -> dict[Place, int]:
            futures = self._client.list_offsets(asked, isolation_level=level, request_timeout=REQUEST_S)
            return {(str(one.topic), one.partition): future.result(REQUEST_S).offset for one, future in futures.items()}

        with _answering():
            return kafka.patiently(ask)

    def committed(self, group: str) -> dict[Place, int]:
        """The offsets a group has committed; raises Unavailable."""
        asked = [ConsumerGroupTopicPartitions(group)]
        (future,) = self._client.list_consumer_group_offsets(
            asked, require_stable=True, request_timeout=REQUEST_S
        ).values()
        with _answering():
            places = future.result(REQUEST_S).topic_partitions or []
        return {(str(place.topic), place.partition): place.offset for place in places}


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (KafkaException, TimeoutError) as error:
        raise Unavailable(f"Kafka does not answer: {error}") from None


def behind(
    topics: Iterable[str], ends: Mapping[Place, int], committed: Mapping[Place, int], last: Mapping[Place, int]
) -> int:
    """How many offsets of its topics a group has not committed.

    `last` holds, for topics written in transactions, the offset after the last record: what lies between that and the
    end are markers, which nobody commits.
    """
    reached = {place: min(end, last.get(place, end)) for place, end in ends.items() if place[0] in set(topics)}
    return sum(max(end - committed.get(place, 0), 0) for place, end in reached.items())


def wait_until_drained(
    measure: Callable[[], Mapping[str, int]],
    say: Callable[[Mapping[str, int]], None],
    explain: Callable[[Iterable[str]], str],
    no_progress_s: float = NO_PROGRESS_S,
) -> None:
    """Return when nothing that `measure` counts is left; raises CommandFailed when it stops getting less.

    `measure` says how much is left where; `explain` says why the places named may be stuck.
    """
    seen: set[frozenset[tuple[str, int]]] = set()
    deadline = time.monotonic() + no_progress_s
    while True:
        left = {name: count for name, count in measure().items() if count}
        if not left:
            return
        say(left)
        # What comes and goes, as a feed that is subscribed to again and again, is no progress.
        if (state := frozenset(left.items())) not in seen:
            seen.add(state)
            deadline = time.monotonic() + no_progress_s
        if time.monotonic() > deadline:
            told = ", ".join(f"{name}: {count:,}" for name, count in left.items())
            raise CommandFailed(f"nothing has moved for {no_progress_s:.0f} s; left are {told}. {explain(left)}")
        time.sleep(POLL_S)
