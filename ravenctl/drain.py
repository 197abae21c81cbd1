"""Waits until everything that was sent has arrived everywhere, by asking Kafka and not the clock."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, TopicPartition

from ravencore import kafka
from ravencore.config import KafkaSettings
from ravencore.errors import Unavailable
from ravenctl import reading
from ravenctl.cluster import QUIET
from ravenctl.shell import CommandFailed

NO_PROGRESS_S = 45.0
POLL_S = 0.2


@dataclass(frozen=True)
class Reader:
    """Somebody who reads topics and commits how far it has come."""

    service: str
    group: str
    topics: tuple[str, ...]


def behind(settings: KafkaSettings, reader: Reader) -> int:
    """How many records a group has not committed yet; raises Unavailable.

    In a topic written in transactions the offsets of markers count for nothing: what remains is read to tell.
    """
    client = kafka.consumer(settings, reader.group, **QUIET)
    looker = reading.reader(settings)
    try:
        return sum(_behind(client, looker, topic) for topic in reader.topics)
    except KafkaException as error:
        raise Unavailable(f"Kafka does not answer: {error.args[0].str()}") from None
    finally:
        client.close()
        looker.close()


def _behind(client: Consumer, looker: Consumer, topic: str) -> int:
    edges = reading.bounds(looker, topic)
    places = client.committed([TopicPartition(topic, number) for number in edges], reading.SILENCE_S)
    at = {place.partition: max(place.offset, edges[place.partition][0]) for place in places}
    starts = {number: offset for number, offset in at.items() if offset < edges[number][1]}
    return sum(1 for _ in reading.read(looker, topic, starts)) if starts else 0


def wait_until_drained(
    measure: Callable[[], Mapping[str, int]],
    say: Callable[[Mapping[str, int]], None],
    explain: Callable[[Iterable[str]], str],
    no_progress_s: float = NO_PROGRESS_S,
) -> None:
    """Return when nothing that `measure` counts is left; raises CommandFailed when it stops getting less.

    `measure` says how much is left where; `explain` says why the places named may be stuck.
    """
    best: Mapping[str, int] = {}
    deadline = time.monotonic() + no_progress_s
    while True:
        left = {name: count for name, count in measure().items() if count}
        say(left)
        if not left:
            return
        if left != best:
            best, deadline = left, time.monotonic() + no_progress_s
        if time.monotonic() > deadline:
            told = ", ".join(f"{name}: {count:,}" for name, count in left.items())
            raise CommandFailed(f"nothing has moved for {no_progress_s:.0f} s; left are {told}. {explain(left)}")
        time.sleep(POLL_S)
