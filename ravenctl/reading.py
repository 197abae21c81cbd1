"""Reads parts of topics as they are now, without belonging to a group."""

from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from ravencore import kafka
from ravencore.config import KafkaSettings
from ravencore.errors import Unavailable
from ravenctl.cluster import QUIET

BATCH = 1000
SILENCE_S = 15.0
WAIT_MS = 50
"""How long a broker lets a request for records wait where there are none: the end is known only after it."""


def reader(settings: KafkaSettings, **extra: Any) -> Consumer:
    """A consumer of committed records for somebody who only looks."""
    return kafka.reader(settings, "ravenctl", **QUIET, **{"fetch.wait.max.ms": WAIT_MS}, **extra)


def bounds(client: Consumer, topic: str) -> dict[int, tuple[int, int]]:
    """First offset, and the one after the last committed record, of each partition of a topic.

    Raises Unavailable when the topic does not exist or the broker is away.
    """
    try:
        return {number: kafka.watermarks(client, topic, number) for number in kafka.partitions(client, topic)}
    except KafkaException as error:
        raise Unavailable(f"Kafka does not answer: {error.args[0].str()}") from None


def read(client: Consumer, topic: str, starts: Mapping[int, int]) -> Iterator[Message]:
    """Records of a topic from the offsets given to the end as of now; raises Unavailable when the broker goes away."""
    client.assign([TopicPartition(topic, number, start) for number, start in starts.items()])
    unread = set(starts)
    while unread:
        messages = kafka.arrived(client, BATCH, SILENCE_S)
        if not messages:
            raise Unavailable(f"{topic} cannot be read to its end: nothing came for {SILENCE_S:.0f} s")
        for message in messages:
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name for it
                unread.discard(message.partition())
            elif error.code() not in kafka.PASSING:
                raise Unavailable(f"{topic} cannot be read: {error.str()}")


def read_all(settings: KafkaSettings, topic: str) -> Iterator[Message]:
    """Every committed record of a topic as it is now; raises Unavailable."""
    client = reader(settings)
    try:
        yield from read(client, topic, dict.fromkeys(kafka.partitions(client, topic), 0))
    finally:
        client.close()
