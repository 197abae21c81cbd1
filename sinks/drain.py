"""The shell of the sinks: from Kafka into one store, at least once.

Poll, leave out, write, dead letters, commit: in this order. Left out is what demands name and want in other stores
alone. A batch is offered until the store has it; memory is bounded by one batch, what librdkafka has fetched ahead, and
the records that wait for another one. While the store is away the partitions are paused and the group is kept alive.
"""

import logging
import random
import signal
import socket
import time
from collections import Counter
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
from ravencore.config import KafkaSettings, Settings
from ravencore.demands import Control, Lookout, unreadable
from ravencore.errors import RavenError, Unavailable
from ravencore.graph import Standing
from ravencore.records import DeadLetter
from ravencore.retry import backoff
from ravencore.service import codec
from ravencore.status import Reporter, now_us
from ravencore.topics import CONTROL, DEAD_LETTERS, GROUP_SINK, TOPICS
from sinks.contract import Bad, Read, Store
from sinks.selection import Selection

BATCH_RECORDS = 5_000
BATCH_S = 0.2
TICK_S = 1.0
POLL_S = 0.1
READY_S = 5.0
FIRST_RETRY_S, RETRY_CAP_S = 0.2, 5.0
LONG_CALL_S = 30.0
"""A call that takes longer is waited for with the group kept alive (max.poll.interval.ms is 300 s)."""
STOP_S = 5.0
"""How long a signal lets a call go on: whoever stops services kills them after 10 s."""
RECHECK_S = 0.5
"""How often records that wait for another one are offered to the store again."""
WAITING_LIMIT = 2_000
"""Records of one partition that may wait before it is paused."""
PAYLOAD_LIMIT = 900_000
"""Bytes of a dead letter's payload: with its coordinates it must fit into a broker's default message, a megabyte."""
COMPACTED = {topic.name for topic in TOPICS if topic.settings.get("cleanup.policy") == "compact"}

log = logging.getLogger(__name__)
T = TypeVar("T")
Partition = tuple[str, int]
Position = tuple[str, int, int]


class Stopped(Exception):
    """A signal came while something was away: what is not written stays uncommitted."""


class Waiting(NamedTuple):
    """A record that another one must come for, and until when (monotonic seconds)."""

    read: Read
    deadline: float


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
        self._control: Control | None = None
        self._lookout = Lookout()
        self._selection = Selection(store.name, Standing())
        self._left_out: dict[Partition, int] = {}
        """Where records were left out since the last batch, with the offset after the last of them."""
        self._waiting: dict[Position, Waiting] = {}
        self._crowded: set[Partition] = set()
        self._held: list[Message] = []
        self._gathered: list[Read] = []
        self._paused = False
        self._said = ""
        self._stopping_since: float | None = None
        self._ticked = self._rechecked = time.monotonic()
        self._rows_ticked = 0

    def stop(self) -> None:
        """Ask `run` to finish its batch and return."""
        self._stopping_since = self._stopping_since or time.monotonic()

    def run(self) -> None:
        """Fill the store until `stop` or a Shutdown; raises RavenError when it can never work."""
        try:
            self._until_available(lambda: kafka.ensure_topics(self._settings.kafka))
            control = self._control = Control(self._settings.kafka, self._codec, self._reporter.service, self)
            self._consumer.subscribe(
                list(self._store.topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )
            self._until_available(self._store.setup)
            self._until_available(lambda: _await_demands(control))
            for fact in self._store.facts():
                log.info("%s: %s", self._store.name, fact)
            log.info("filling %s from %s", self._store.name, ", ".join(self._store.topics))
            while self._stopping_since is None:
                self._pass_over()
                self._gather(control)
                self._settle(self._gathered)
                self._gathered = []
                self._tick()
            self._end("STOPPED")
        except Stopped:
            self._end("STOPPED")
        except RavenError as error:
            self._reporter.error(str(error), now_us())
            self._end("FAILED")
            raise

    # Demands, told in the thread that reads them

    def on_demands(self, standing: Standing, made: bool) -> None:
        """The next poll looks at the newest by itself."""

    def on_unreadable(self, message: Message, why: str) -> None:
        """Say so; the collector keeps the record."""
        self._reporter.error(unreadable(why), now_us())

    def on_shutdown(self, user: str) -> None:
        """End as on SIGTERM."""
        self.stop()

    def _pass_over(self) -> None:
        """Leave out what has piled up beyond the tail that the store wants: after an outage of a cache, say."""
        tail = self._store.batching.tail
        if tail is None:
            return
        for at, behind in self._progress.behind().items():
            if behind <= tail:
                continue
            try:
                self._consumer.seek(TopicPartition(*at, self._progress.skip(*at, behind - tail)))
            except KafkaException as error:  # of a partition that has just gone to another member
                self._kafka_error(error.args[0])
            self._reporter.counters["passed_over"] += behind - tail
            log.info("%s-%d: %d records that had piled up are passed over", *at, behind - tail)

    def _gather(self, control: Control) -> None:
        """Read what makes a batch; a signal ends it early."""
        wanted, size = self._store.batching, 0
        deadline = time.monotonic() + wanted.seconds
        while True:
            found = self._poll(control)  # which may take from what is gathered: a rebalance
            self._gathered += found
            size += sum(len(read.value) for read in found)
            full = len(self._gathered) >= wanted.records or size >= wanted.bytes
            if full or time.monotonic() >= deadline or self._stopping_since is not None:
                return
            self._tick()

    def _poll(self, control: Control) -> list[Read]:
        found = self._consumer.consume(BATCH_RECORDS, BATCH_S)  # which may take from what is held: a rebalance
        self._held = self._held + found
        self._learn_demands(control)  # which may as well
        messages, self._held = self._held, []
        reads = []
        for message in messages:
            error = message.error()
            if error is None:
                reads.append(message)
                topic, partition, offset = _position(message)
                self._progress.reached(topic, partition, offset + 1)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's own name
                self._progress.reached(*_position(message))
            else:
                self._kafka_error(error)
        # A null value is a Clock, or a tombstone: not a record.
        return self._wanted([Read(*_position(m), m.key(), value) for m in reads if (value := m.value()) is not None])

    def _learn_demands(self, control: Control) -> None:
        """Know the demands that what is held came of: nothing may be left out for want of having read them."""
        while self._lookout.is_news(doubtful := self._doubtful(control.standing)):
            self._until_available(control.catch_up)
            self._lookout.note(doubtful)
        self._lookout.note(doubtful)

    def _doubtful(self, standing: Standing) -> set[tuple[str, bytes | None]]:
        """Topics and keys of what is held, as far as these demands do not want it here."""
        if self._selection.standing is not standing:
            self._selection = Selection(self._store.name, standing)
        found = {(m.topic() or "", m.key()) for m in self._held if m.error() is None}
        return {at for at in found if not self._selection[at]}

    def _wanted(self, reads: list[Read]) -> list[Read]:
        selection = self._selection
        wanted = [read for read in reads if selection[read[0], read[3]] is not False]
        if len(wanted) < len(reads):
            self._reporter.counters["unwanted"] += len(reads) - len(wanted)
            left_out = (read for read in reads if selection[read[0], read[3]] is False)
            self._left_out |= {read[:2]: read.offset + 1 for read in left_out}
        return wanted

    def _settle(self, reads: Sequence[Read]) -> None:
        """Write a batch, and bring each record of it to its end: a row, a dead letter, or a place among the waiting."""
        bad = self._write(reads)
        if bad:
            self._until_available(lambda: self._bury(bad))
        if self._left_out:
            self._until_available(lambda: self._store.leave_out(self._left_out))
            self._left_out = {}
        self._reporter.counters["records"] += len(reads)
        self._crowd()
        self._commit()

    def _write(self, reads: Sequence[Read]) -> list[Bad]:
        batch = [*reads, *self._due()]
        if not batch:
            return []
        outcome = self._timed(lambda: self._store.write(batch))
        self._reporter.counters["rows_written"] += len(batch) - len(outcome.refused) - len(outcome.waiting)
        return outcome.refused + self._keep_waiting(batch, outcome.waiting)

    def _timed(self, write: Callable[[], T]) -> T:
        started = time.monotonic()
        result = self._until_available(write)
        self._reporter.gauges["write_ms"] = (time.monotonic() - started) * 1000
        return result

    def _keep_waiting(self, batch: Sequence[Read], waiting: Sequence[Bad]) -> list[Bad]:
        """Remember who waits; those whose time is over are returned."""
        if not waiting and not self._waiting:
            return []
        before = {read[:3]: self._waiting.pop(read[:3], None) for read in batch}
        now, late = time.monotonic(), []
        for one in waiting:
            if not self._progress.is_ours(one.read[:2]):
                continue  # a rebalance came while the store was away: its new owner reads it again
            position = one.read[:3]
            kept = before[position] or Waiting(one.read, now + self._store.wait_s)
            if now >= kept.deadline:
                late.append(one)
            else:
                self._waiting[position] = kept
        return late

    def _due(self) -> list[Read]:
        if not self._waiting or time.monotonic() - self._rechecked < RECHECK_S:
            return []
        self._rechecked = time.monotonic()
        return [kept.read for kept in self._waiting.values()]

    def _crowd(self) -> None:
        """Pause partitions of which too many records wait, and read on where they no longer do."""
        counts = Counter(position[:2] for position in self._waiting)
        crowded = {partition for partition, count in counts.items() if count >= WAITING_LIMIT}
        mine = {(at.topic, at.partition): at for at in self._consumer.assignment()}
        self._consumer.pause([at for partition, at in mine.items() if partition in crowded - self._crowded])
        self._consumer.resume([at for partition, at in mine.items() if partition in self._crowded - crowded])
        self._crowded = crowded

    def _bury(self, bad: Sequence[Bad]) -> None:
        """Send dead letters and see them delivered; raises Unavailable."""
        letters = ((one, _letter(one, self._reporter.service, now_us())) for one in bad)
        kafka.deliver(
            self._producer, ((DEAD_LETTERS, self._codec.encode(letter), one.read.key) for one, letter in letters)
        )
        self._reporter.counters["dead_letters"] += len(bad)
        log.warning("%d dead letters, the newest: %s: %s", len(bad), bad[-1].reason, bad[-1].detail)

    def _commit(self) -> None:
        try:
            # librdkafka waits for ever where the group has dropped us meanwhile; that is heard by whoever polls.
            self._aside(lambda: self._progress.commit(self._waiting))
        except KafkaException as error:
            # Not lost: the next commit holds these offsets too, and what is read twice is written once.
            self._kafka_error(error.args[0])
        self._recovered()

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

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Go on where the store says; compacted topics from their start, for a mart made anew has forgotten them."""
        self._progress.assigned({(at.topic, at.partition) for at in partitions})
        for at in partitions:
            self._tick()  # of a hundred and fifty, each asks the broker
            known = self._resume(at.topic, at.partition)
            if known is not None:
                at.offset = known
                self._progress.reached(at.topic, at.partition, known)
            elif at.topic in COMPACTED:
                at.offset = OFFSET_BEGINNING
        consumer.assign(partitions)
        # librdkafka remembers a pause beyond the loss of a partition: it would never be read again.
        consumer.resume(partitions)

    def _resume(self, topic: str, partition: int) -> int | None:
        """The store's word, asked for until it is there: within a rebalance nothing may be polled meanwhile."""
        for delay in backoff(FIRST_RETRY_S, RETRY_CAP_S, random.Random()):
            try:
                known = self._store.resume(topic, partition)
                if known is not None:
                    self._within_the_log(topic, partition, known)
                return known
            except Unavailable as error:
                self._reporter.state = "DEGRADED"
                self._error(str(error))
                if self._stopping_since:
                    raise Stopped from None
                time.sleep(delay)
                self._tick()
        raise AssertionError("backoff never ends")

    def _within_the_log(self, topic: str, partition: int, known: int) -> None:
        """Whether Kafka still has what the store wants next; raises RavenError where the topic was made anew."""
        try:
            first, end = kafka.watermarks(self._consumer, topic, partition)
        except KafkaException as error:
            raise Unavailable(f"Kafka: {error.args[0].str()}") from None
        if known > end:
            raise RavenError(
                f"{self._store.name} has {topic}-{partition} up to offset {known}, but it ends at {end}: "
                "it is another topic of that name; keep it in another place"
            )
        if 0 < known < first:
            self._error(f"offsets {known} to {first - 1} of {topic}-{partition} are gone from Kafka, unread")

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Forget what waits in partitions that another member reads from now on: it is not committed."""
        gone = {(at.topic, at.partition) for at in partitions}
        self._waiting = {at: kept for at, kept in self._waiting.items() if at[:2] not in gone}
        self._gathered = [read for read in self._gathered if read[:2] not in gone]
        self._held = [message for message in self._held if (message.topic(), message.partition()) not in gone]
        self._left_out = {at: offset for at, offset in self._left_out.items() if at not in gone}
        for partition in gone:
            self._store.release(*partition)
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
        self._reporter.gauges["control_offset"] = float(self._control.offset if self._control else 0)
        self._rows_ticked, self._ticked = rows, now
        self._reporter.lag = self._progress.lag()
        self._reporter.report(now_us())

    def _end(self, state: Any) -> None:
        self._reporter.state = state
        self._reporter.report(now_us())
        if self._control:
            self._control.stop()
        self._producer.flush(POLL_S * 10)
        self._consumer.close()
        self._store.close()
        log.info("%s", state.lower())


class Progress:
    """How far each partition is done, in the group and against its end."""

    def __init__(self, consumer: Consumer, settings: KafkaSettings) -> None:
        self._consumer, self._admin = consumer, kafka.admin(settings)
        self._mine: set[Partition] = set()
        self._next: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}
        self._asked: dict[TopicPartition, Future[Any]] = {}
        self._ends: dict[Partition, int] = {}

    def reached(self, topic: str, partition: int, offset: int) -> None:
        """Everything before this offset has been read; ends of partitions lie past their transaction markers."""
        self._next[topic, partition] = offset

    def behind(self) -> dict[Partition, int]:
        """Records of our partitions that have not been read, as far as is known; ends are as `lag` learned them."""
        mine = self._mine & self._ends.keys() & (self._next.keys() | self._committed.keys())
        return {at: self._ends[at] - self._next.get(at, self._committed.get(at, 0)) for at in mine}

    def skip(self, topic: str, partition: int, records: int) -> int:
        """The offset to go on at without so many records, which count as read."""
        at = topic, partition
        self._next[at] = self._next.get(at, self._committed.get(at, 0)) + records
        return self._next[at]

    def is_ours(self, partition: Partition) -> bool:
        """Whether this member reads it."""
        return partition in self._mine

    def assigned(self, partitions: set[Partition]) -> None:
        """These are ours from now on."""
        self._mine |= partitions

    def forget(self, partitions: set[Partition]) -> None:
        """Drop partitions that are no longer ours."""
        self._mine -= partitions
        for partition in partitions:
            for known in (self._next, self._committed, self._ends):
                known.pop(partition, None)

    def commit(self, waiting: Iterable[Position]) -> None:
        """Commit what is done of our partitions, up to the first record that waits; raises KafkaException."""
        done = self._next.copy()
        for topic, partition, offset in waiting:
            if (topic, partition) in done:
                done[topic, partition] = min(offset, done[topic, partition])
        news = {at: offset for at, offset in done.items() if at in self._mine and self._committed.get(at) != offset}
        if news:
            self._consumer.commit(
                offsets=[TopicPartition(*at, offset) for at, offset in news.items()], asynchronous=False
            )
            self._committed |= news

    def lag(self) -> dict[str, int]:
        """Records not yet done, by `topic-partition`; ends are as of a second ago, and only committed records count."""
        mine = self._mine
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


def _position(message: Message) -> Position:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return topic, partition, offset


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


def _await_demands(control: Control) -> None:
    if not control.ready.wait(READY_S):
        raise Unavailable(f"{CONTROL} has not been read to its end yet")


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
