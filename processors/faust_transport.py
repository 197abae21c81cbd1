"""The Faust app of the engine: whole fetched batches as events, short fetch waits, none of Faust's own commits.

Faust spends about 150 microseconds on every event, so an event here is all that one fetch brought of one partition.
It waits 1.5 s in a fetch that brings nothing, and aiokafka has one fetch in flight per broker, so a busy partition
would wait for the idle ones: the wait is set to `engine.fetch_wait_ms`. All of it is used unless there is a lot to
fetch: answered at every single trade, 1,000 trades a second kept the worker so busy with fetches that bars came late
(p50 64 to 105 ms; 39 to 45 ms with fewer and fuller fetches).
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import faust
from aiokafka.errors import IllegalStateError
from faust.transport.drivers import aiokafka as driver
from faust.transport.utils import DefaultSchedulingStrategy
from faust.types import TP

from ravencore.config import Settings
from ravencore.topics import GROUP_BARS

BUFFER_RECORDS = 30_000
"""Most records in Faust's buffers, one for each topic; the engine's lanes hold `engine.LANE_RECORDS` more."""
SESSION_S = 20.0
"""How long the group waits for a worker that fell silent, when none comes back in its slot."""
FETCH_BYTES = 4 * 1024**2
FETCH_MIN_BYTES = 64 * 1024
POSITION_S = 1.0
Place = tuple[str, int]
"""A topic and the number of a partition."""


class Batch:
    """What one fetch brought of one partition; looks to Faust like a single record whose value is the records."""

    def __init__(self, records: Sequence[Any]) -> None:
        last = records[-1]
        self.topic, self.partition, self.offset = last.topic, last.partition, last.offset
        self.timestamp, self.timestamp_type = last.timestamp, last.timestamp_type
        self.headers, self.key, self.value, self.checksum = (), None, records, None
        self.serialized_key_size = self.serialized_value_size = 0


def batches(topics: Set[str]) -> type[DefaultSchedulingStrategy]:
    """What hands agents one event per fetched batch of these topics; Faust's own stay record by record."""

    class Batches(DefaultSchedulingStrategy):  # type: ignore[misc]
        """Faust makes one of these for each of its consumers, without arguments."""

        def iterate(self, records: Mapping[Any, list[Any]]) -> Iterator[tuple[Any, Any]]:
            """Events in the order they are delivered."""
            for tp, fetched in records.items():
                if tp.topic in topics:
                    if fetched:
                        yield tp, Batch(fetched)
                else:
                    for record in fetched:
                        yield tp, record

    return Batches


class _NoOffsets(dict[Any, Any]):
    """Forgets the offsets that Faust has read.

    Faust drops, without a word, what it believes it has read already, and is wrong when a seek races with a delivery.
    Lanes compare every batch with what they have applied, so its check can only harm.
    """

    def __getitem__(self, tp: Any) -> None:
        return None

    def __setitem__(self, tp: Any, offset: Any) -> None:
        pass

    def update(self, *offsets: Any, **named: Any) -> None:
        """Forget these as well."""


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread with the fetch wait of the settings, reading committed records."""

    def _create_worker_consumer(self, transport: "Transport") -> Any:
        # Faust has no settings for these; aiokafka reads them when the consumer starts.
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = transport.fetch_wait_ms  # noqa: SLF001
        consumer._fetch_min_bytes = FETCH_MIN_BYTES  # noqa: SLF001
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        return consumer

    def member_id(self) -> str:
        """This worker's name in its group as of now; another one after the broker gave it up."""
        return str(self._ensure_consumer()._coordinator.member_id)  # noqa: SLF001 - it has no other way to tell


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer on that thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _NoOffsets()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def rewind(self, place: Place, offset: int) -> None:
        """Read a partition again from an offset."""
        await self.seek(TP(*place), offset)

    async def read_up_to(self, place: Place) -> int:
        """The offset that a partition is fetched from next, 0 while that is not known."""
        try:
            return await asyncio.wait_for(self.position(TP(*place)), POSITION_S) or 0
        except (TimeoutError, IllegalStateError):
            return 0

    def member_id(self) -> str:
        """See `ConsumerThread.member_id`."""
        return str(self._thread.member_id())


class Transport(driver.Transport):  # type: ignore[misc]
    """Faust's Kafka transport with that consumer."""

    Consumer = Consumer
    fetch_wait_ms = 1500


def buffered_batches(max_poll_records: int, topics: int) -> int:
    """Events that Faust, which counts no records, may hold of each topic: at most BUFFER_RECORDS records in all."""
    return BUFFER_RECORDS // (max_poll_records * topics)


def build(settings: Settings, topics: Set[str], folder: Path) -> faust.App:
    """The app, with every name it leaves in Kafka given; it creates no topic and commits nothing."""
    app = faust.App(
        GROUP_BARS,
        broker=f"kafka://{settings.kafka.bootstrap.replace(',', ';')}",
        broker_client_id=GROUP_BARS,
        broker_max_poll_records=settings.engine.max_poll_records,
        broker_session_timeout=SESSION_S,
        broker_heartbeat_interval=SESSION_S / 10,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=settings.service.instance or None,
        consumer_max_fetch_size=FETCH_BYTES,
        ConsumerScheduler=batches(topics),
        datadir=folder,
        store="memory://",
        stream_buffer_maxsize=buffered_batches(settings.engine.max_poll_records, len(topics)),
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        value_serializer="raw",
        web_enabled=False,
    )
    app.transport = Transport(app.conf.broker_consumer, app)
    app.transport.fetch_wait_ms = settings.engine.fetch_wait_ms
    return app
