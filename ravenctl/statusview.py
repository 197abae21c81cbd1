"""What every service says of itself in `raven.status`: read, judged and shown."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, TopicPartition
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ravencore import kafka
from ravencore.codec import Codec, plain
from ravencore.config import KafkaSettings
from ravencore.errors import Unavailable, Unreadable
from ravencore.records import ServiceStatus, Subscription
from ravencore.topics import CHANNELS, STATUS
from ravenctl import reading

GONE_US = 5_000_000
"""A service reports every second; one that has been silent this long is gone."""
STATE_STYLES = {
    **dict.fromkeys(("RUNNING", "FLOWING"), "green"),
    **dict.fromkeys(("STARTING", "WAITING", "CONNECTING", "SUBSCRIBED", "SILENT", "DEGRADED"), "yellow"),
    **dict.fromkeys(("FAILED", "REFUSED", "gone"), "bold red"),
}
WRITTEN = (*(f"{channel}_published" for channel in CHANNELS), "bars", "vpin", "rows_written")

Statuses = Mapping[str, ServiceStatus]


class StatusFeed:
    """The newest status of each instance, kept up to date by `poll`; close it when done."""

    def __init__(self, settings: KafkaSettings, codec: Codec, *, only_new: bool = False) -> None:
        self.latest: dict[str, ServiceStatus] = {}
        self.unreadable = 0
        self._codec = codec
        self._client = reading.reader(settings)
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

    def close(self) -> None:
        """Let go of the broker."""
        self._client.close()

    def _take(self, key: Any, value: Any) -> None:
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


def for_scripts(statuses: Statuses, now_us: int) -> list[dict[str, Any]]:
    """Statuses as JSON values, with `gone` said of those that have stopped reporting."""
    ordered = sorted(statuses.values(), key=lambda status: (status.service, status.instance))
    return [plain(status) | {"gone": is_gone(status, now_us)} for status in ordered]


def show(statuses: Statuses, now_us: int) -> RenderableType:
    """Services and their subscriptions on one screen."""
    ordered = sorted(statuses.values(), key=lambda status: (status.service, status.instance))
    feeds = [(status, feed) for status in ordered for feed in status.subscriptions if not is_gone(status, now_us)]
    parts: list[RenderableType] = [services_table(ordered, now_us)]
    if feeds:
        table = _table("VENUE", "CHANNEL", "SYMBOL", "STATE", "LAST RECORD", "BY")
        for status, feed in sorted(feeds, key=lambda pair: (pair[1].venue, pair[1].symbol, pair[1].channel)):
            table.add_row(
                feed.venue, feed.channel, feed.symbol, _state(feed.state), _age(feed, now_us), status.instance
            )
        parts += ["", table]
    errors = [status for status in ordered if status.last_error and status.last_error_time]
    if errors:
        parts.append("")
        parts += [
            Text(f"{status.instance}, {ago(now_us - (status.last_error_time or 0))}: {status.last_error}")
            for status in errors
        ]
    return Group(*parts)


def _age(feed: Subscription, now_us: int) -> Text:
    """When the last record came; of a silent feed it stands out."""
    told = "-" if feed.last_received_time is None else ago(now_us - feed.last_received_time)
    return Text(told, style=STATE_STYLES["SILENT"] if feed.state == "SILENT" else "")


def services_table(statuses: Iterable[ServiceStatus], now_us: int) -> Table:
    """One line per service: state, rates, lag, counts and age of its report."""
    table = _table("SERVICE", "INSTANCE", "STATE", "RATE/S", "LAG", "WRITTEN", "GAPS", "DEAD", "UP", "REPORTED")
    for status in statuses:
        count = status.counters.get
        state = "gone" if is_gone(status, now_us) else status.state
        table.add_row(
            status.service,
            status.instance,
            _state(state),
            f"{rate(status):,.0f}" if rate(status) is not None else "-",
            f"{sum(status.lag.values()):,}" if status.lag else "-",
            f"{published(status):,}" if published(status) is not None else "-",
            f"{count('gaps', 0):,}" if "gaps" in status.counters else "-",
            f"{count('dead_letters', 0):,}" if "dead_letters" in status.counters else "-",
            ago(now_us - status.started_time).removesuffix(" ago"),
            ago(now_us - status.reported_time),
        )
    return table


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
    """Draw the statuses about once a second until interrupted."""
    while True:
        feed.poll(1.0)
        draw(feed.latest)


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=True)
    return table


_NUMBERS = {"RATE/S", "LAG", "WRITTEN", "GAPS", "DEAD", "UP", "REPORTED", "LAST RECORD"}


def _state(state: str) -> Text:
    return Text(state, style=STATE_STYLES.get(state, "dim"))
