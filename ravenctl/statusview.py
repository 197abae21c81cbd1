"""What every service says of itself in `raven.status`: read and judged."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, TopicPartition

from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.errors import Unavailable, Unreadable
from ravencore.records import ServiceStatus
from ravencore.topics import CHANNELS, STATUS
from ravenctl import reading

GONE_US = 4_000_000
"""A service reports every second; one that has been silent this long is gone."""
WRITTEN = (*(f"{channel}_published" for channel in CHANNELS), "bars", "vpin", "rows_written")

Statuses = Mapping[str, ServiceStatus]


class StatusFeed:
    """The newest status of each instance, kept up to date by `poll`; close it when done."""

    def __init__(self, settings: KafkaSettings, codec: Codec, *, only_new: bool = False) -> None:
        self.latest: dict[str, ServiceStatus] = {}
        self.unreadable = 0
        self.away = False
        """Whether no broker answers now."""
        self._codec = codec
        self._client = reading.reader(settings, error_cb=self._kafka_error)
        self._unread = set(kafka.partitions(self._client, STATUS))
        start = OFFSET_END if only_new else OFFSET_BEGINNING
        self._client.assign([TopicPartition(STATUS, number, start) for number in self._unread])

    def poll(self, timeout_s: float) -> None:
        """Take in what has come, waiting for at most this long when nothing has."""
        while (message := self._client.poll(timeout_s)) is not None:
            error = message.error()
            if error is None:
                self._take(message.key(), message.value())
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name for it
                self._unread.discard(message.partition() or 0)
            timeout_s = 0.0

    def catch_up(self, timeout_s: float = reading.SILENCE_S) -> None:
        """Read to the end of the topic, once; raises Unavailable when it is not reached in time."""
        deadline = time.monotonic() + timeout_s
        while self._unread:
            self.poll(0.2)
            if time.monotonic() > deadline:
                raise Unavailable(f"{STATUS} cannot be read to its end within {timeout_s:.0f} s")

    def _kafka_error(self, error: KafkaError) -> None:
        self.away |= error.code() == KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001 - librdkafka's name for it

    def close(self) -> None:
        """Let go of the broker."""
        self._client.close()

    def _take(self, key: Any, value: Any) -> None:
        self.away = False
        if value is None:
            self.latest.pop((key or b"").decode(errors="replace"), None)
            return
        try:
            status = self._codec.decode_as(ServiceStatus, value)
        except Unreadable:
            self.unreadable += 1
            return
        self.latest[status.instance] = status


def is_gone(status: ServiceStatus, now_us: int) -> bool:
    """Whether a service has stopped reporting without saying goodbye."""
    return status.state != "STOPPED" and now_us - status.reported_time > GONE_US


def fresh(statuses: Statuses, now_us: int) -> list[ServiceStatus]:
    """Those of services that are there, by name."""
    there = (s for s in statuses.values() if s.state != "STOPPED" and not is_gone(s, now_us))
    return sorted(there, key=lambda status: (status.service, status.instance))


def heard(statuses: Statuses, now_us: int) -> list[ServiceStatus]:
    """Instances that are there, and of a service of which none is, how those ended that were."""
    there = fresh(statuses, now_us)
    services = {status.service for status in there}
    return [*there, *(status for status in statuses.values() if status.service not in services)]


def rate(status: ServiceStatus) -> float | None:
    """Records per second, the greatest of a service's rates."""
    return max((value for name, value in status.gauges.items() if name.endswith("_per_second")), default=None)


def published(status: ServiceStatus) -> int | None:
    """Records or rows that a service has written, of all kinds."""
    counts = [status.counters[name] for name in WRITTEN if name in status.counters]
    return sum(counts) if counts else None


def ago(micros: int) -> str:
    """A span of time back from now, for a person: `3 s ago`, `2 min ago`."""
    whole = max(micros, 0) // 1_000_000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if whole >= 2 * size:
            return f"{whole // size} {unit} ago"
    return f"{whole} s ago"


def watch(feed: StatusFeed, draw: Callable[[Statuses], None]) -> None:
    """Draw the statuses once a second until interrupted."""
    while True:
        draw(feed.latest)
        deadline = time.monotonic() + 1.0
        while (left := deadline - time.monotonic()) > 0:
            feed.poll(left)
