"""Kafka clients set up as Raven's promises need them, and the one function that creates topics."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from ravencore.config import KafkaSettings
from ravencore.errors import Unavailable
from ravencore.topics import GROUP_READER, TOPICS, Topic

log = logging.getLogger("raven.kafka")
T = TypeVar("T")

CLOCK_HEADER = "clock"
"""Header of a Clock record: microseconds of venue time as decimal text; its value is null."""
TIMEOUT_S = 10.0
LEADER_S = 30.0
RETRY_S = 0.1
AT_END_MS = 10
"""How long the broker may hold a fetch that brings nothing: only after it the end is known. 500 unless said."""
LEADERLESS = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
"""What a busy broker says of a partition that was made, or of a broker that was started, a moment ago."""
PASSING = LEADERLESS | {KafkaError._TRANSPORT}  # noqa: SLF001 - librdkafka's own: it makes the connection anew
"""Errors of a consumer that pass by themselves (`KafkaError.retriable()` knows those of transactions alone)."""


def producer(settings: KafkaSettings, **extra: Any) -> Producer:
    """An idempotent producer that never drops: acks=all, no message time-out, a full buffer raises BufferError.

    Its partitioner is Java's murmur2, so that Connect, ksqlDB and Java clients can join by key.
    """
    return Producer(
        {
            "bootstrap.servers": settings.bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "message.timeout.ms": 0,
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "compression.type": "lz4",
            "logger": log,
            **extra,
        }
    )


def produce(client: Producer, topic: str, value: bytes, key: bytes | None, **extra: Any) -> None:
    """Hand a record to a producer, and wait for room where its buffer is full."""
    while True:
        try:
            client.produce(topic, value, key, **extra)
            return
        except BufferError:
            client.poll(RETRY_S)


def deliver(client: Producer, messages: Iterable[tuple[str, bytes, bytes | None]]) -> None:
    """Publish records (topic, value, key) and return when the broker has all; raises Unavailable where it refuses."""
    failed: list[tuple[str, KafkaError]] = []
    for topic, value, key in messages:
        said = partial(_note_failure, failed, topic)
        produce(client, topic, value, key, on_delivery=said)
    client.flush()
    if failed:
        topic, error = failed[0]
        raise Unavailable(f"{topic} takes no records: {error.str()}")


def _note_failure(failed: list[tuple[str, KafkaError]], topic: str, error: KafkaError | None, _: Any) -> None:
    if error is not None:
        failed.append((topic, error))


def consumer(settings: KafkaSettings, group: str, **extra: Any) -> Consumer:
    """A consumer that commits only when told to, reads committed records and starts at the earliest."""
    return Consumer(
        {
            "bootstrap.servers": settings.bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "logger": log,
            **extra,
        }
    )


def reader(settings: KafkaSettings, name: str, **extra: Any) -> Consumer:
    """A consumer that belongs to no group: assign it partitions; it never commits."""
    return consumer(settings, GROUP_READER + name, **{"enable.partition.eof": True, **extra})


def end_reader(settings: KafkaSettings, name: str) -> Consumer:
    """A reader for once: it learns at once where the end is, and would trouble the broker if it stayed there."""
    return reader(settings, name, **{"fetch.wait.max.ms": AT_END_MS})


def arrived(client: Consumer, most: int, wait_s: float) -> list[Message]:
    """One message as soon as there is one, and up to `most` that are there with it; none when nothing came for so long.

    `consume` alone waits for as many as it is asked for.
    """
    first = client.poll(wait_s)
    return [first, *client.consume(most, 0)] if first is not None else []


def admin(settings: KafkaSettings) -> AdminClient:
    """An admin client."""
    return AdminClient({"bootstrap.servers": settings.bootstrap})


def ensure_topics(settings: KafkaSettings, topics: Iterable[Topic] = TOPICS) -> list[str]:
    """Create the topics that are missing and return their names; existing ones are left as they are.

    Safe to run twice and by several processes at once. Raises Unavailable when the broker is away.
    """
    client = admin(settings)
    present = _listed(settings, client)
    missing = [_new_topic(topic, settings) for topic in topics if topic.name not in present]
    created = []
    for name, future in (client.create_topics(missing, operation_timeout=TIMEOUT_S) if missing else {}).items():
        try:
            future.result()
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise Unavailable(f"topic {name} cannot be created: {error.args[0].str()}") from None
    _await_leaders(settings, client, created)
    return sorted(created)


def _await_leaders(settings: KafkaSettings, client: AdminClient, names: Iterable[str]) -> None:
    """A broker says that topics are made a moment before it serves them; raises Unavailable when it never does."""
    deadline = time.monotonic() + LEADER_S
    for name in names:
        while not _has_leaders(settings, client, name):
            if time.monotonic() > deadline:
                raise Unavailable(f"topic {name} was created and has no leader after {LEADER_S:.0f} s")
            time.sleep(RETRY_S)


def _listed(settings: KafkaSettings, client: AdminClient, *name: str) -> Any:
    try:
        return client.list_topics(*name, timeout=TIMEOUT_S).topics
    except KafkaException as error:
        raise Unavailable(_away(settings, error)) from None


def _has_leaders(settings: KafkaSettings, client: AdminClient, name: str) -> bool:
    topic = _listed(settings, client, name)[name]
    return bool(topic.partitions) and all(one.leader >= 0 for one in topic.partitions.values())


def partitions(client: Consumer | AdminClient, topic: str) -> list[int]:
    """Partition numbers of a topic; raises Unavailable when there is none of that name or the broker is away."""
    try:
        found = client.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
    except KafkaException as error:
        raise Unavailable(f"Kafka does not answer: {error.args[0].str()}") from None
    if found.error is not None or not found.partitions:
        raise Unavailable(f"topic {topic} does not exist: run `ravenctl setup`, or start a service, to create it")
    return sorted(found.partitions)


def watermarks(client: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """First offset and the one after the last committed record; raises KafkaException when the broker stays away."""
    return patiently(lambda: client.get_watermark_offsets(TopicPartition(topic, partition), TIMEOUT_S))


def patiently(ask: Callable[[], T]) -> T:
    """What the broker answers, asked again while a partition has no leader yet; raises KafkaException."""
    deadline = time.monotonic() + LEADER_S
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in LEADERLESS or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)


def read_to_end(settings: KafkaSettings, topic: str, name: str, each: Callable[[Message], None]) -> dict[int, int]:
    """Hand every record of a topic, from its start to its end as of now, to `each`; the next offset per partition.

    Committed records only. Raises Unavailable when the broker is away.
    """
    client = end_reader(settings, name)
    try:
        ends = {p: watermarks(client, topic, p)[1] for p in partitions(client, topic)}
        client.assign([TopicPartition(topic, p, 0) for p in ends])
        unread = {p for p, end in ends.items() if end > 0}
        deadline = time.monotonic() + TIMEOUT_S
        while unread:
            message = client.poll(0.2)
            if message is None:
                if time.monotonic() > deadline:
                    raise Unavailable(f"{topic} cannot be read to its end: no record for {TIMEOUT_S:.0f} s")
                continue
            deadline = time.monotonic() + TIMEOUT_S
            _note(message, each, unread)
        return ends
    except KafkaException as error:
        raise Unavailable(_away(settings, error)) from None
    finally:
        client.close()


def _note(message: Message, each: Callable[[Message], None], unread: set[int]) -> None:
    error = message.error()
    if error is None:
        each(message)
    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's own name for the end of a partition
        unread.discard(message.partition())
    elif error.code() not in PASSING:
        raise KafkaException(error)


def compacted(settings: KafkaSettings, topic: str, name: str) -> Mapping[bytes, bytes]:
    """The newest value of each key of a compacted topic, tombstones left out; none where it is not made yet."""
    latest: dict[bytes, bytes] = {}
    if topic not in _listed(settings, admin(settings)):
        return latest

    def keep(message: Message) -> None:
        key, value = message.key() or b"", message.value()
        if value is None:
            latest.pop(key, None)
        else:
            latest[key] = value

    read_to_end(settings, topic, name, keep)
    return latest


def _new_topic(topic: Topic, settings: KafkaSettings) -> NewTopic:
    count = topic.partitions or settings.partitions
    return NewTopic(topic.name, count, settings.replication, config=topic.settings)


def _away(settings: KafkaSettings, error: KafkaException) -> str:
    return f"Kafka at {settings.bootstrap} does not answer: {error.args[0].str()}"
