"""The shell of the sinks: from Kafka into one store, at least once.

Poll, decode, write, dead letters, commit: in this order. A batch is offered until the store has it; memory is bounded
by one batch, what librdkafka has fetched ahead, and the entries that wait for another record. While the store is away
the partitions are paused and the group is kept alive.
"""

import logging
import random
import signal
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from threading import Thread
from typing import Any, NamedTuple, NoReturn, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from ravencore import kafka
from ravencore.codec import Codec
from ravencore.columns import decode_columns
from ravencore.config import KafkaSettings, Settings
from ravencore.errors import RavenError, Unavailable, Unreadable
from ravencore.records import DeadLetter, Record, Trade
from ravencore.retry import backoff
from ravencore.service import codec
from ravencore.status import Reporter, now_us
from ravencore.topics import DEAD_LETTERS, GROUP_SINK, TOPICS
from sinks.contract import Entry, Rejection, Store

BATCH_RECORDS = 5_000
BATCH_S = 0.2
TICK_S = 1.0
POLL_S = 0.1
FIRST_RETRY_S, RETRY_CAP_S = 0.2, 5.0
LONG_CALL_S = 30.0
"""A call that takes longer is waited for with the group kept alive (max.poll.interval.ms is 300 s)."""
STOP_S = 5.0
"""How long a signal lets a call go on: whoever stops services kills them after 10 s."""
RECHECK_S = 0.5
"""How often entries that wait for another record are offered to the store again."""
WAITING_LIMIT = 2_000
"""Entries of one partition that may wait before it is paused."""
PAYLOAD_LIMIT = 900_000
"""Bytes of a dead letter's payload: with its coordinates it must fit into a broker's default message, a megabyte."""
UNREADABLE = "unreadable_record"
COMPACTED = {topic.name for topic in TOPICS if topic.settings.get("cleanup.policy") == "compact"}

log = logging.getLogger(__name__)
T = TypeVar("T")
Partition = tuple[str, int]
Position = tuple[str, int, int]


class Stopped(Exception):
    """A signal came while something was away: what is not written stays uncommitted."""


class Read(NamedTuple):
    """A record as it was read."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes


class Waiting(NamedTuple):
    """An entry that another record must come for, and until when (monotonic seconds)."""

    read: Read
    entry: Entry
    deadline: float


class Bad(NamedTuple):
    """A record that becomes a dead letter."""

    read: Read
    reason: str
    detail: str


def drain(store: Store, settings: Settings) -> None:
    """Keep a store filled until SIGTERM or SIGINT; raises RavenError when it can never work."""
    shell = Drain(store, settings, codec(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: shell.stop())
    shell.run()


class Drain:
    """One store, its consumer and its producer."""

    def __init__(self, store: Store, settings: Settings, codec: Codec) -> None:
        self._store, self._settings, self._codec = store, settings, codec
        self._producer = kafka.producer(settings.kafka)
        self._reporter = Reporter(f"sink-{store.name}", settings, codec, self._producer, now_us())
        group = GROUP_SINK + store.name
        # A static member: killed and started again it has its partitions back at once.
        self._member = settings.service.instance or f"{group}-{socket.gethostname()}"
        self._consumer = kafka.consumer(
            settings.kafka,
            group,
            **{
                "group.instance.id": self._member,
                "session.timeout.ms": 10_000,
                "enable.partition.eof": True,
                "queued.max.messages.kbytes": 16_384,
                "error_cb": self._kafka_error,
            },
        )
        self._progress = Progress(self._consumer, settings.kafka)
        self._waiting: dict[Position, Waiting] = {}
        self._crowded: set[Partition] = set()
        self._held: list[Message] = []
        self._paused = False
        self._said = ""
        self._stopping_since: float | None = None
        self._ticked = self._rechecked = time.monotonic()
        self._rows_ticked = 0

    def stop(self) -> None:
        """Ask `run` to finish its batch and return."""
        self._stopping_since = self._stopping_since or time.monotonic()

    def run(self) -> None:
        """Fill the store until `stop`; raises RavenError when it can never work."""
        try:
            self._until_available(lambda: kafka.ensure_topics(self._settings.kafka))
            self._consumer.subscribe(
                list(self._store.topics), on_assign=_assigned, on_revoke=self._revoked, on_lost=self._revoked
            )
            self._until_available(self._store.setup)
            log.info("filling %s from %s", self._store.name, ", ".join(self._store.topics))
            while self._stopping_since is None:
                self._settle(self._poll())
                self._tick()
            self._end("STOPPED")
        except Stopped:
            self._end("STOPPED")
        except RavenError as error:
            self._reporter.error(str(error), now_us())
            self._end("FAILED")
            raise

    def _poll(self) -> list[Read]:
        held, self._held = self._held, []
        reads = []
        for message in held + self._consumer.consume(BATCH_RECORDS, BATCH_S):
            error = message.error()
            if error is None:
                reads.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's own name
                self._progress.reached(*_position(message))
            else:
                self._kafka_error(error)
        for message in reads:
            topic, partition, offset = _position(message)
            self._progress.reached(topic, partition, offset + 1)
        # A null value is a Clock, or a tombstone: not a record.
        return [Read(*_position(m), m.key(), value) for m in reads if (value := m.value()) is not None]

    def _settle(self, reads: Sequence[Read]) -> None:
        """Write a batch, and bring each record of it to its end: a row, a dead letter, or a place among the waiting."""
        entries, bad = self._until_available(lambda: self._decode(reads)) if reads else ([], [])
        batch = entries + self._due()
        if batch:
            bad += self._write(batch, reads)
        if bad:
            self._until_available(lambda: self._bury(bad))
        self._reporter.counters["records"] += len(reads)
        self._crowd()
        self._commit()

    def _decode(self, reads: Sequence[Read]) -> tuple[list[Entry], list[Bad]]:
        by_key: dict[tuple[str, bytes | None], list[Read]] = defaultdict(list)
        for read in reads:
            by_key[read.topic, read.key].append(read)
        entries, bad = [], []
        for (topic, _), some in by_key.items():
            for read, record in zip(some, self._records(self._store.topics[topic], some), strict=True):
                if isinstance(record, Unreadable):
                    bad.append(Bad(read, UNREADABLE, str(record)))
                else:
                    entries.append(Entry(read.topic, read.partition, read.offset, record))
        return entries, bad

    def _records(self, cls: type[Record], reads: Sequence[Read]) -> Sequence[Record | Unreadable]:
        """Records of one key, all at once where they are trades as they should be."""
        trades = _trades(self._codec, reads) if cls is Trade else None
        return [self._record(cls, read.value) for read in reads] if trades is None else trades

    def _record(self, cls: type[Record], value: bytes) -> Record | Unreadable:
        try:
            return self._codec.decode_as(cls, value)
        except Unreadable as error:
            return error

    def _write(self, batch: Sequence[Entry], reads: Sequence[Read]) -> list[Bad]:
        started = time.monotonic()
        outcome = self._until_available(lambda: self._store.write(batch))
        self._reporter.gauges["write_ms"] = (time.monotonic() - started) * 1000
        self._reporter.counters["rows_written"] += len(batch) - len(outcome.refused) - len(outcome.waiting)
        if not outcome.refused and not outcome.waiting and not self._waiting:
            return []
        by_position = {read[:3]: read for read in reads} | {key: kept.read for key, kept in self._waiting.items()}
        late = self._keep_waiting(batch, outcome.waiting, by_position)
        return [Bad(by_position[at.entry[:3]], at.reason, at.detail) for at in (*outcome.refused, *late)]

    def _keep_waiting(
        self, batch: Sequence[Entry], waiting: Sequence[Rejection], by_position: dict[Position, Read]
    ) -> list[Rejection]:
        """Remember who waits; those whose time is over are returned."""
        before = {entry[:3]: self._waiting.pop(entry[:3], None) for entry in batch}
        now, late = time.monotonic(), []
        for rejection in waiting:
            position = rejection.entry[:3]
            known = before[position]
            kept = known or Waiting(by_position[position], rejection.entry, now + self._store.wait_s)
            if now >= kept.deadline:
                late.append(rejection)
            else:
                self._waiting[position] = kept
        return late

    def _due(self) -> list[Entry]:
        if not self._waiting or time.monotonic() - self._rechecked < RECHECK_S:
            return []
        self._rechecked = time.monotonic()
        return [kept.entry for kept in self._waiting.values()]

    def _crowd(self) -> None:
        """Pause partitions of which too many entries wait, and read on where they no longer do."""
        counts = Counter(position[:2] for position in self._waiting)
        crowded = {partition for partition, count in counts.items() if count >= WAITING_LIMIT}
        mine = {(at.topic, at.partition): at for at in self._consumer.assignment()}
        self._consumer.pause([at for partition, at in mine.items() if partition in crowded - self._crowded])
        self._consumer.resume([at for partition, at in mine.items() if partition in self._crowded - crowded])
        self._crowded = crowded

    def _bury(self, bad: Sequence[Bad]) -> None:
        """Send dead letters and see them delivered; raises Unavailable."""
        failed: list[KafkaError] = []
        for one in bad:
            letter = _letter(one, self._reporter.service, now_us())
            self._produce(letter, one.read.key, lambda error, _: failed.append(error) if error else None)
        self._producer.flush()
        if failed:
            raise Unavailable(f"{DEAD_LETTERS} takes no records: {failed[0].str()}")
        self._reporter.counters["dead_letters"] += len(bad)
        log.warning("%d dead letters, the newest: %s: %s", len(bad), bad[-1].reason, bad[-1].detail)

    def _produce(self, letter: DeadLetter, key: bytes | None, delivered: Callable[[Any, Any], None]) -> None:
        value = self._codec.encode(letter)
        while True:
            try:
                self._producer.produce(DEAD_LETTERS, value, key, on_delivery=delivered)
                return
            except BufferError:
                self._producer.poll(POLL_S)

    def _commit(self) -> None:
        try:
            self._progress.commit(self._waiting)
        except KafkaException as error:
            # Not lost: the next commit holds these offsets too, and what is read twice is written once.
            self._kafka_error(error.args[0])

    def _until_available(self, action: Callable[[], T]) -> T:
        """The action's result, tried again with growing pauses while something is Unavailable; raises Stopped."""
        for delay in backoff(FIRST_RETRY_S, RETRY_CAP_S, random.Random()):
            try:
                result = self._aside(action)
            except Unavailable as error:
                self._reporter.state = "DEGRADED"
                self._reporter.counters["retries"] += 1
                self._error(str(error))
                self._idle(max(delay, getattr(error, "retry_after", 0.0)))
                continue
            self._recovered()
            return result
        raise AssertionError("backoff never ends")

    def _recovered(self) -> None:
        if self._reporter.state == "DEGRADED":
            log.info("back again")
        if self._paused:
            self._paused = False
            mine = self._consumer.assignment()
            self._consumer.resume([at for at in mine if (at.topic, at.partition) not in self._crowded])
        self._reporter.state = "RUNNING"

    def _aside(self, action: Callable[[], T]) -> T:
        """The action's result; it runs in a thread, so that status and group go on however long it takes."""
        future: Future[T] = Future()
        Thread(target=_resolve, args=(future, action), daemon=True).start()
        started = time.monotonic()
        while not wait_for([future], TICK_S).done:
            self._tick()
            if time.monotonic() - started > LONG_CALL_S:
                self._reporter.state = "DEGRADED"
                self._reporter.error(f"no answer for {time.monotonic() - started:.0f} s", now_us())
                self._stay_alive(0)
            if self._stopping_since and time.monotonic() - self._stopping_since > STOP_S:
                raise Stopped
        return future.result()

    def _idle(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._stopping_since:
                raise Stopped
            self._stay_alive(min(left, POLL_S))
            self._tick()

    def _stay_alive(self, seconds: float) -> None:
        """Poll with everything paused; what a rebalance lets through all the same is kept for the next batch."""
        self._paused = True
        self._consumer.pause(self._consumer.assignment())
        message = self._consumer.poll(seconds)
        if message is not None:
            self._held.append(message)

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Forget what waits in partitions that another member reads from now on: it is not committed."""
        gone = {(at.topic, at.partition) for at in partitions}
        self._waiting = {at: kept for at, kept in self._waiting.items() if at[:2] not in gone}
        self._crowded -= gone
        self._progress.forget(gone)

    def _kafka_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001
            _fatal(self._member, error)
        self._error(f"Kafka: {error.str()}")

    def _error(self, text: str) -> None:
        if text != self._said:
            log.warning("%s", text)
        self._said = text
        self._reporter.error(text, now_us())

    def _tick(self) -> None:
        """Once a second: rate, lag and the line in `raven.status`."""
        now = time.monotonic()
        if now - self._ticked < TICK_S:
            return
        rows = self._reporter.counters["rows_written"]
        self._reporter.gauges["rows_per_second"] = (rows - self._rows_ticked) / (now - self._ticked)
        self._reporter.gauges["waiting"] = len(self._waiting)
        self._rows_ticked, self._ticked = rows, now
        self._reporter.lag = self._progress.lag()
        self._reporter.report(now_us())

    def _end(self, state: Any) -> None:
        self._reporter.state = state
        self._reporter.report(now_us())
        self._producer.flush(POLL_S * 10)
        self._consumer.close()
        self._store.close()
        log.info("%s", state.lower())


class Progress:
    """How far each partition is done, in the group and against its end."""

    def __init__(self, consumer: Consumer, settings: KafkaSettings) -> None:
        self._consumer, self._admin = consumer, kafka.admin(settings)
        self._next: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}
        self._asked: dict[TopicPartition, Future[Any]] = {}
        self._ends: dict[Partition, int] = {}

    def reached(self, topic: str, partition: int, offset: int) -> None:
        """Everything before this offset has been read; ends of partitions lie past their transaction markers."""
        self._next[topic, partition] = offset

    def forget(self, partitions: set[Partition]) -> None:
        """Drop partitions that are no longer ours."""
        for partition in partitions:
            for known in (self._next, self._committed, self._ends):
                known.pop(partition, None)

    def commit(self, waiting: Iterable[Position]) -> None:
        """Commit what is done of our partitions, up to the first entry that waits; raises KafkaException."""
        done = self._next.copy()
        for topic, partition, offset in waiting:
            done[topic, partition] = min(offset, done[topic, partition])
        mine = self._mine()
        news = {at: offset for at, offset in done.items() if at in mine and self._committed.get(at) != offset}
        if news:
            self._consumer.commit(
                offsets=[TopicPartition(*at, offset) for at, offset in news.items()], asynchronous=False
            )
            self._committed |= news

    def lag(self) -> dict[str, int]:
        """Records not yet done, by `topic-partition`; ends are as of a second ago, and only committed records count."""
        mine = self._mine()
        self._learn_committed(mine - self._committed.keys())
        self._harvest()
        if not self._asked and mine:
            latest = {
                TopicPartition(*at): OffsetSpec.latest()  # type: ignore[no-untyped-call]
                for at in mine
            }
            self._asked = self._admin.list_offsets(
                latest, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=kafka.TIMEOUT_S
            )
        known = sorted(mine & self._ends.keys() & self._committed.keys())
        return {
            f"{topic}-{number}": max(0, self._ends[topic, number] - self._committed[topic, number])
            for topic, number in known
        }

    def _mine(self) -> set[Partition]:
        return {(at.topic, at.partition) for at in self._consumer.assignment()}

    def _learn_committed(self, partitions: set[Partition]) -> None:
        if not partitions:
            return
        try:
            for at in self._consumer.committed([TopicPartition(*at) for at in partitions], timeout=POLL_S):
                self._committed.setdefault((at.topic, at.partition), max(0, at.offset))
        except KafkaException:
            log.debug("committed offsets are not known yet")

    def _harvest(self) -> None:
        if not all(future.done() for future in self._asked.values()):
            return
        for at, future in self._asked.items():
            if not future.exception():
                self._ends[at.topic, at.partition] = future.result().offset
        self._asked = {}


def _assigned(consumer: Consumer, partitions: list[TopicPartition]) -> None:
    """Read compacted topics from their start each time: a store that was made anew has forgotten them."""
    for at in partitions:
        if at.topic in COMPACTED:
            at.offset = OFFSET_BEGINNING
    consumer.assign(partitions)


def _position(message: Message) -> Position:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return topic, partition, offset


def _trades(codec: Codec, reads: Sequence[Read]) -> list[Trade] | None:
    venue, _, symbol = (reads[0].key or b"").decode(errors="replace").partition(":")
    columns = decode_columns(codec, venue, symbol, [read.value for read in reads])
    if columns is None:
        return None
    rows = zip(
        columns.event_time, columns.received_time, columns.trade_id, columns.sequence,
        columns.price, columns.quantity, columns.buy, columns.after_gap, strict=True,
    )  # fmt: skip
    return [
        Trade(
            venue=venue,
            symbol=symbol,
            event_time=event_time,
            received_time=received_time,
            trade_id=trade_id,
            sequence=sequence,
            price=price,
            quantity=quantity,
            side="BUY" if buy else "SELL",
            after_gap=after_gap,
        )
        for event_time, received_time, trade_id, sequence, price, quantity, buy, after_gap in rows
    ]


def _letter(bad: Bad, service: str, detected_us: int) -> DeadLetter:
    read, detail = bad.read, bad.detail
    if len(read.value) > PAYLOAD_LIMIT:
        detail += f" (first {PAYLOAD_LIMIT} of {len(read.value)} bytes; whole they are still at this offset)"
    return DeadLetter(
        service=service,
        topic=read.topic,
        partition=read.partition,
        offset=read.offset,
        key=read.key,
        payload=read.value[:PAYLOAD_LIMIT],
        reason=bad.reason,
        detail=detail,
        detected_time=detected_us,
    )


def _resolve(future: Future[T], action: Callable[[], T]) -> None:
    try:
        future.set_result(action())
    except BaseException as error:  # handed to whoever waits for the future
        future.set_exception(error)


def _fatal(member: str, error: KafkaError) -> NoReturn:
    raise RavenError(
        f"Kafka dropped this sink ({error.str()}): if another one runs as {member}, "
        "give each its own RAVEN_SERVICE__INSTANCE"
    )
