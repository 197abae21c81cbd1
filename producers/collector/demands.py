"""What is demanded, as `raven.control` tells it."""

import asyncio
import logging
import threading
from collections.abc import Callable

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from producers.collector.outlet import QUIET, SERVICE
from ravencore import kafka, topics
from ravencore.config import Settings
from ravencore.errors import Unavailable

log = logging.getLogger("raven.collector")

POLL_S = 0.2
RETRY_S = 0.25
TIMEOUT_S = 10.0


class Demands:
    """`raven.control`, read in a thread of its own from its start and on; each record is handed to the event loop.

    `on_end` is called once, when all that stood there at the start has been handed over.
    """

    def __init__(self, settings: Settings, on_record: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        self._settings, self._on_record, self._on_end = settings, on_record, on_end
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demands", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._stopping.set()
        self._thread.join(TIMEOUT_S)

    def _run(self) -> None:
        client = kafka.reader(self._settings.kafka, SERVICE, **QUIET)
        try:
            while not self._stopping.is_set() and not self._assign(client):
                self._stopping.wait(RETRY_S)
            while not self._stopping.is_set():
                self._hand_over(client.poll(POLL_S))
        finally:
            client.close()

    def _assign(self, client: Consumer) -> bool:
        try:
            numbers = kafka.partitions(client, topics.CONTROL)
        except Unavailable as error:
            log.warning("%s", error)
            return False
        self._unread = set(numbers)
        client.assign([TopicPartition(topics.CONTROL, number, OFFSET_BEGINNING) for number in numbers])
        return True

    def _hand_over(self, message: Message | None) -> None:
        if message is None:
            return
        error = message.error()
        if error is None:
            self._loop.call_soon_threadsafe(self._on_record, message)
        elif error.code() == KafkaError._PARTITION_EOF and self._unread:  # noqa: SLF001 - librdkafka's own name
            self._unread.discard(message.partition())
            if not self._unread:
                self._loop.call_soon_threadsafe(self._on_end)
