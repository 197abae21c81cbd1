"""What is demanded, as `raven.control` tells it."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from producers.collector.outlet import QUIET, SERVICE
from producers.collector.readback import is_end
from ravencore import kafka, topics
from ravencore.config import Settings
from ravencore.errors import Unavailable

log = logging.getLogger("raven.collector")

POLL_S = 0.2
RETRY_S = 0.25
TIMEOUT_S = 10.0
AT_A_TIME = 1_000


class Demands:
    """`raven.control`, read in a thread of its own from its start and on; what has come is handed to the event loop.

    Records that are there at one time are handed over together: what hundreds of them come to is found out once.
    `on_end` is called once, when all that stood there at the start has been handed over.
    """

    def __init__(
        self, settings: Settings, on_records: Callable[[Sequence[Message]], None], on_end: Callable[[], None]
    ) -> None:
        self._settings, self._on_records, self._on_end = settings, on_records, on_end
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
                if messages := kafka.arrived(client, AT_A_TIME, POLL_S):
                    self._hand_over(messages)
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

    def _hand_over(self, messages: Sequence[Message]) -> None:
        records = [message for message in messages if message.error() is None]
        if records:
            self._loop.call_soon_threadsafe(self._on_records, records)
        ends = {message.partition() for message in messages if is_end(message)}
        if ends and self._unread:
            self._unread -= ends
            if not self._unread:
                self._loop.call_soon_threadsafe(self._on_end)
