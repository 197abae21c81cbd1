"""Kafka as Raven uses it, on a real broker: topics made once, keys placed as Java does, topics read to their end."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]

from ravencore.config import KafkaSettings
from ravencore.errors import Unavailable
from ravencore.kafka import admin, compacted, consumer, ensure_topics, partitions, producer, read_to_end
from ravencore.topics import CONTROL, STATE_BARS, TOPICS, TRADES, Topic
from ravenctl.local.state import Endpoints

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def settings(stack: Endpoints) -> KafkaSettings:
    return KafkaSettings(bootstrap=stack.kafka_bootstrap)


def fresh(settings: KafkaSettings, count: int = 1, **config: str) -> str:
    name = f"test.{uuid.uuid4().hex}"
    ensure_topics(settings, [Topic(name, count, config)])
    return name


def write(settings: KafkaSettings, topic: str, *pairs: tuple[bytes, bytes | None]) -> None:
    client = producer(settings)
    for key, value in pairs:
        client.produce(topic, value, key)
    assert client.flush(30) == 0


def test_topics_are_made_once_with_their_settings(settings: KafkaSettings) -> None:
    ensure_topics(settings)
    assert ensure_topics(settings) == []
    client = admin(settings)
    assert len(partitions(client, TRADES)) == settings.partitions
    assert len(partitions(client, CONTROL)) == 1
    state = ConfigResource(ResourceType.TOPIC, STATE_BARS)
    config = client.describe_configs([state])[state].result()
    assert config["cleanup.policy"].value == "compact"
    assert config["segment.bytes"].value == str(16 * 1024**2)


def test_many_may_make_them_at_once(settings: KafkaSettings) -> None:
    topics = [Topic(f"test.{uuid.uuid4().hex}", 2) for _ in range(5)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: ensure_topics(settings, topics), range(4)))
    assert {name for names in made for name in names} == {topic.name for topic in topics}


def test_every_topic_says_how_long_it_keeps() -> None:
    assert all("cleanup.policy" in topic.settings for topic in TOPICS)
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)


def murmur2(data: bytes) -> int:
    """Kafka's Utils.murmur2, from the Java client's source, in 32-bit arithmetic."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def test_keys_go_where_java_clients_put_them(settings: KafkaSettings) -> None:
    topic = fresh(settings, 6)
    keys = [f"BINANCE_SPOT:{symbol}USDT".encode() for symbol in ("BTC", "ETH", "SOL", "DOT", "1000PEPE", "A")]
    write(settings, topic, *((key, b"") for key in keys))
    placed: dict[bytes, int] = {}

    def note(message: Message) -> None:
        placed[message.key() or b""] = message.partition() or 0

    read_to_end(settings, topic, "test", note)
    assert placed == {key: (murmur2(key) & 0x7FFFFFFF) % 6 for key in keys}


def test_a_topic_is_read_to_its_end_and_no_further(settings: KafkaSettings) -> None:
    topic = fresh(settings, 3)
    write(settings, topic, *((str(n).encode(), b"v") for n in range(100)))
    seen: list[Message] = []
    ends = read_to_end(settings, topic, "test", seen.append)
    assert len(seen) == sum(ends.values()) == 100


def test_what_an_aborted_transaction_wrote_is_not_read(settings: KafkaSettings) -> None:
    topic = fresh(settings)
    client = producer(settings, **{"transactional.id": uuid.uuid4().hex})
    client.init_transactions(30)
    for value, commit in ((b"aborted", False), (b"committed", True), (b"aborted too", False)):
        client.begin_transaction()
        client.produce(topic, value)
        client.flush()
        (client.commit_transaction if commit else client.abort_transaction)()
    seen: list[Message] = []
    read_to_end(settings, topic, "test", seen.append)
    assert [message.value() for message in seen] == [b"committed"]


def test_compacted_gives_the_newest_value_and_no_withdrawn_key(settings: KafkaSettings) -> None:
    topic = fresh(settings)
    write(settings, topic, (b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"b", None), (b"c", b"4"))
    assert compacted(settings, topic, "test") == {b"a": b"3", b"c": b"4"}


def test_readers_commit_nothing_and_consumers_only_when_told(settings: KafkaSettings) -> None:
    topic, group = fresh(settings), f"test-{uuid.uuid4().hex}"
    write(settings, topic, (b"k", b"v"))
    client = consumer(settings, group)
    client.subscribe([topic])
    deadline = time.monotonic() + 30
    while not client.consume(1, 0.5):
        assert time.monotonic() < deadline
    client.close()
    client = consumer(settings, group)
    assert client.committed([TopicPartition(topic, 0)], 10)[0].offset < 0
    client.close()


def test_a_broker_that_is_away_is_said_within_seconds() -> None:
    with pytest.raises(Unavailable, match=r"Kafka at 127\.0\.0\.1:1 does not answer"):
        ensure_topics(KafkaSettings(bootstrap="127.0.0.1:1"))


def test_a_topic_that_is_missing_is_said(settings: KafkaSettings) -> None:
    with pytest.raises(Unavailable, match="does not exist"):
        read_to_end(settings, "test.absent", "test", lambda message: None)
