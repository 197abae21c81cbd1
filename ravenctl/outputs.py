"""Watches the derived topics as any consumer may: committed records as they come, and how long each took."""

import threading
import time
from array import array
from collections import Counter, deque
from typing import cast

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.errors import Unreadable
from ravencore.records import Bar, Vpin
from ravencore.topics import BARS, IV_SURFACE, SPOT_MID, VPIN
from ravenctl import reading
from ravenctl.drain import Place

TOPICS = (*BARS.values(), VPIN)
ENDS_ONLY = (SPOT_MID, IV_SURFACE)
"""Written in transactions too: of these it is only watched where the last record stands."""
RECEIVED_HEADER = "received"
"""Header of an output: when the trade that closed it was received, microseconds as decimal text."""
NEWEST = 12
POLL_S = 0.2


def series(record: Bar | Vpin) -> str:
    """Name of the series a bar or bucket belongs to: `tib/tib_small/BINANCE_SPOT:BTCUSDT`."""
    kind = record.kind if isinstance(record, Bar) else "vpin"
    return f"{kind}/{record.profile}/{record.venue}:{record.symbol}"


def named(name: str) -> tuple[str, str]:
    """Kind with profile, and market, of a series: `tib/tib_small` and `KRAKEN:BTC/USD`."""
    kind, profile, market = name.split("/", 2)
    return f"{kind}/{profile}", market


def heading(kind_and_profile: str) -> str:
    """Heading of a column: `tib/tib_small` is tib_small, `time/1s` time 1s, `vpin/default` buckets."""
    kind, _, profile = kind_and_profile.partition("/")
    if kind == "vpin":
        return "buckets"
    return profile if profile.startswith(kind) else f"{kind} {profile}"


class Outputs(threading.Thread):
    """Reads bars and VPIN buckets in a thread of its own until `stop`; fields are for others to read."""

    def __init__(self, settings: KafkaSettings, codec: Codec) -> None:
        super().__init__(name="outputs", daemon=True)
        self.counts: Counter[str] = Counter()
        self.newest: dict[str, Bar | Vpin] = {}
        self.bars: deque[Bar] = deque(maxlen=NEWEST)
        self.latencies_us = array("q")
        self.last: dict[Place, int] = {}
        """Offset after the last record of each partition."""
        self.reached: dict[Place, int] = {}
        """How far each partition has been read, markers of transactions included."""
        self.lost: str | None = None
        self._codec = codec
        self._stopping = threading.Event()
        self._client = reading.reader(settings)
        places = (
            (topic, number) for topic in (*TOPICS, *ENDS_ONLY) for number in kafka.partitions(self._client, topic)
        )
        self._client.assign([TopicPartition(*place, 0) for place in places])

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopping.set()
        if self.is_alive():
            self.join()
        self._client.close()

    def latency_ms(self, share: float) -> float | None:
        """The time that this share of the outputs took at most, in milliseconds."""
        ordered = sorted(self.latencies_us)
        if not ordered:
            return None
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] / 1000

    def run(self) -> None:
        """Take in records as they come."""
        while not self._stopping.is_set():
            try:
                message = self._client.poll(POLL_S)
            except KafkaException as error:
                self.lost = error.args[0].str()
                return
            if message is not None:
                self._note(message, time.time_ns() // 1000)

    def _note(self, message: Message, arrived_us: int) -> None:
        place, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
        error = message.error()
        if error is None:
            if place[0] in TOPICS:
                self._take(message, arrived_us)
            self.last[place] = self.reached[place] = offset + 1
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name for it
            self.reached[place] = offset

    def _take(self, message: Message, arrived_us: int) -> None:
        received = _received(message)
        if received is not None:
            self.latencies_us.append(arrived_us - received)
        value = message.value()
        if value is None:
            return
        try:
            record = self._codec.decode(value)
        except Unreadable:
            self.counts["unreadable"] += 1
            return
        if isinstance(record, Bar | Vpin):
            name = series(record)
            self.counts[name] += 1
            self.newest[name] = record
            if isinstance(record, Bar):
                self.bars.append(record)


def _received(message: Message) -> int | None:
    headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    text = next((value for name, value in headers if name == RECEIVED_HEADER), None)
    return int(text) if text and text.isdigit() else None
