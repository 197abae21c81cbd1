"""One input partition at work: folds in memory, everything it makes in transactions of its own producer.

Exactly once, whatever dies: outputs, dead letters, snapshots of the symbols touched and the offset of the input are
one transaction. `open` fences whoever worked on the partition before, aborts what that left behind, and then reads the
state and the offset that are committed. After any error of a transaction the one cure is to open anew: that gives the
truth whether the transaction was committed, aborted or never reached the broker.
https://cwiki.apache.org/confluence/display/KAFKA/KIP-98+-+Exactly+Once+Delivery+and+Transactional+Messaging

All calls block, for seconds where the broker is away: the engine makes them in threads, one at a time per partition.
"""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from processors import derivations
from processors.contract import Output, StateMismatch
from processors.derivations import Derivation, Intake
from processors.intake import Fetched, Letter
from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import Settings
from ravencore.demands import Control, Lookout
from ravencore.errors import RavenError, Unavailable
from ravencore.graph import Standing, output_of
from ravencore.records import DeadLetter, State
from ravencore.status import now_us
from ravencore.topics import DEAD_LETTERS, GROUP_BARS
from ravencore.writer import Writer

log = logging.getLogger("raven.transactions")

TRANSACTION_TIMEOUT_MS = 10_000
"""What a killed worker left open holds up readers for no longer than this; a restarted one aborts it at once."""
CALL_S = 5.0
READ_S = 15.0
RECEIVED_HEADER = "received"
"""Header of an output: when its closing trade was received, microseconds as decimal text; no header after a Clock."""

_folding = threading.Lock()
"""One partition folds at a time: more would only fight over the interpreter and keep the event loop from it."""


class Broken(RavenError):
    """Raised when a transaction failed: nothing of it counts, and the partition must be opened anew."""

    retriable = True

    def __init__(self, message: str, fenced: bool) -> None:
        super().__init__(message)
        self.fenced = fenced
        """Somebody else opened the partition, or the broker gave this transaction up."""


SERVICE = "processors"


class Shop(NamedTuple):
    """What the partitions of a topic share; `group` names the engine's consumer group and never subscribes."""

    derivation: Derivation
    settings: Settings
    codec: Codec
    writer: Writer
    control: Control
    group: Consumer
    partitions: int
    """Of the input topic."""


class Partition:
    """What is folded of one partition of the input, and the producer that publishes what it makes."""

    def __init__(self, shop: Shop, number: int) -> None:
        self.topic, self.number = shop.derivation.topic, number
        self.commit_within_s = shop.derivation.commit_within_s
        self.next_offset = 0
        """Where the folds stand: the first offset they have not seen."""
        self.committed_offset = 0
        self._shop = shop
        self._made_by, self._settings, self._codec = shop.derivation, shop.settings, shop.codec
        self._producer: Producer | None = None
        self._lookout = Lookout()
        self._intake = self._none()
        self._touched: dict[bytes, int] = {}
        """Keys whose state changed since the last commit, with the offset of their last record."""
        self._outputs: list[Output] = []
        self._letters: list[Letter] = []
        self._counts: Counter[str] = Counter()
        self._parameters: dict[bytes, str] = {}

    def open(self) -> None:
        """Take the partition over and stand where the last committed transaction stood.

        Raises Unavailable when the broker is away, StateMismatch when the state belongs to other parameters.
        """
        self.close()
        with _unavailable(f"partition {self.number} cannot be opened"):
            self._producer = _transactional(self._settings, self._made_by, self.number)
            self._producer.init_transactions(CALL_S)
            for value in _newest(self._settings, self._made_by.state_topic, self.number).values():
                self._restore(value)
            self.next_offset = self.committed_offset = self._position()

    def close(self) -> None:
        """Forget everything; what was not committed never happened."""
        if self._producer is not None:
            self._producer.purge()
        self._producer = None
        self.next_offset = self.committed_offset
        self._intake = self._none()
        self._clear()

    def apply(self, batches: Sequence[Sequence[Fetched]]) -> None:
        """Fold batches in as one, by what is demanded; records that the folds have seen already are left out.

        Raises Unavailable when a schema registry, or news of demands, is needed and away; then the partition must be
        opened anew.
        """
        records: list[Fetched] = []
        expected = self.next_offset
        for batch in batches:
            records += batch if batch[0].offset >= expected else [it for it in batch if it.offset >= expected]
            expected = max(expected, batch[-1].offset + 1)
        if not records:
            return
        standing = self._standing(records)
        with _folding:
            made = self._intake.apply(records, standing)
        self.next_offset = expected
        self._outputs += made.outputs
        self._letters += made.letters
        self._touched |= made.touched
        self._counts += made.counts
        self._counts["records"] += len(records)

    @property
    def urgent(self) -> bool:
        """There is something to publish, which readers wait for."""
        return bool(self._outputs or self._letters)

    @property
    def dirty(self) -> bool:
        """Something was applied that is not committed."""
        return self.next_offset != self.committed_offset

    def commit(self) -> Counter[str]:
        """Publish what the folds made and where they stand, in one transaction; counts of what it held.

        Raises Broken.
        """
        if not self.dirty:
            return Counter()
        assert self._producer is not None
        try:
            self._transact(self._producer, self.next_offset)
        except KafkaException as error:
            raise _broken(self.number, error.args[0]) from error
        self.committed_offset = self.next_offset
        counts = self._counts
        counts["transactions"] += 1
        self._clear()
        return counts

    def _standing(self, records: Sequence[Fetched]) -> Standing:
        """The demands, at least those that these records came of; raises Unavailable."""
        control, channel = self._shop.control, output_of(self.topic)
        assert channel is not None
        standing = control.standing
        keys = {key for record in records if (key := record.key)}
        unnamed = [key for key in keys if standing.wanted(channel, key.decode(errors="replace")) is None]
        if self._lookout.is_news(unnamed):
            control.catch_up()
            standing = control.standing
        self._lookout.note(unnamed)
        return standing

    def _position(self) -> int:
        """The committed offset; on a group's first day the first that the log has."""
        place = TopicPartition(self.topic, self.number)
        [at] = self._shop.group.committed([place], CALL_S)
        low, high = self._shop.group.get_watermark_offsets(place, CALL_S)
        if at.offset > high:
            raise StateMismatch(
                f"{GROUP_BARS} has committed offset {at.offset} of partition {self.number} of {self.topic}, which ends "
                f"at {high}: the topic was made anew; reset the group's offsets "
                "(kafka-consumer-groups.sh --reset-offsets)"
            )
        return at.offset if at.offset >= 0 else low

    def _none(self) -> Intake:
        return self._made_by.intake(self._codec, self._settings, kafka.CLOCK_HEADER)

    def _clear(self) -> None:
        self._touched, self._outputs, self._letters, self._counts = {}, [], [], Counter()

    def _transact(self, producer: Producer, next_offset: int) -> None:
        producer.begin_transaction()
        for output in self._outputs:
            received = output.received_time
            headers = [(RECEIVED_HEADER, str(received).encode())] if received else None
            value = self._shop.writer.encode(output.record)
            kafka.produce(producer, output.topic, value, self._made_by.key(output.record), headers=headers)
            self._counts[output.topic.split(".")[1]] += 1
        for letter in self._letters:
            kafka.produce(producer, DEAD_LETTERS, self._codec.encode(self._dead(letter)), letter.record.key)
            self._counts["dead_letters"] += 1
        for key in sorted(self._touched):
            state, topic = self._shop.writer.encode(self._state(key)), self._made_by.state_topic
            kafka.produce(producer, topic, state, state_key(self.topic, key), partition=self.number)
        position = TopicPartition(self.topic, self.number, next_offset)
        producer.send_offsets_to_transaction([position], self._shop.group.consumer_group_metadata(), CALL_S)
        producer.commit_transaction(CALL_S)

    def _dead(self, letter: Letter) -> DeadLetter:
        return DeadLetter(
            service=SERVICE,
            topic=self.topic,
            partition=self.number,
            offset=letter.record.offset,
            key=letter.record.key,
            payload=letter.record.value or b"",
            reason=letter.reason,
            detail=letter.detail,
            detected_time=now_us(),
        )

    def _state(self, key: bytes) -> State:
        return State(
            input_topic=self.topic,
            input_key=key.decode(),
            input_partitions=self._shop.partitions,
            offset=self._touched[key],
            layout=self._made_by.layout,
            parameters=self._parameters_of(key),
            payload=self._intake.snapshot(key),
        )

    def _parameters_of(self, key: bytes) -> str:
        # They are the same in every snapshot, and took as long as all the rest of it.
        if key not in self._parameters:
            self._parameters[key] = self._made_by.parameters(self._settings, key)
        return self._parameters[key]

    def _restore(self, value: bytes) -> None:
        state = self._codec.decode_as(State, value)
        derivations.restore(self._made_by, self._intake, state, self._settings, self._shop.partitions)


def state_key(topic: str, input_key: bytes) -> bytes:
    """Key of a snapshot in the state topic: input topic, a bar, input key."""
    return topic.encode() + b"|" + input_key


def reset_state(settings: Settings, derivation: Derivation) -> int:
    """Write a tombstone over every snapshot of an engine and return how many there were; raises Unavailable."""
    topic = derivation.state_topic
    found: dict[tuple[int, bytes], bool] = {}

    def note(message: Message) -> None:
        found[message.partition() or 0, message.key() or b""] = message.value() is not None

    kafka.read_to_end(settings.kafka, topic, "reset-state", note)
    producer = kafka.producer(settings.kafka)
    alive = [place for place, live in found.items() if live]
    for partition, key in alive:
        producer.produce(topic, None, key, partition)
    if producer.flush(CALL_S):
        raise Unavailable(f"{topic} cannot be written: no answer for {CALL_S:.0f} s")
    return len(alive)


def _transactional(settings: Settings, derivation: Derivation, number: int) -> Producer:
    extra: dict[str, Any] = {
        "transactional.id": f"{GROUP_BARS}-{derivation.topic}-{number}",
        "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
        "message.timeout.ms": TRANSACTION_TIMEOUT_MS,  # nothing is dropped: the transaction fails and is done again
        "linger.ms": 0,
        "logger": log,
    }
    return kafka.producer(settings.kafka, **extra)


def _newest(settings: Settings, topic: str, number: int) -> dict[bytes, bytes]:
    """The newest committed snapshot of each key of a partition."""
    newest: dict[bytes, bytes] = {}
    for message in _read(settings, topic, number):
        key, value = message.key() or b"", message.value()
        if value is None:
            newest.pop(key, None)
        else:
            newest[key] = value
    return newest


def _read(settings: Settings, topic: str, number: int) -> Iterator[Message]:
    """The committed records of one state partition, from its start to its end."""
    client = kafka.end_reader(settings.kafka, "state")
    try:
        client.assign([TopicPartition(topic, number, 0)])
        deadline = time.monotonic() + READ_S
        while time.monotonic() < deadline:
            for message in kafka.arrived(client, 1000, 1.0):
                error = message.error()
                if error is None:
                    deadline = time.monotonic() + READ_S
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name for the end
                    return
        raise Unavailable(f"partition {number} of {topic} cannot be read to its end: nothing for {READ_S:.0f} s")
    finally:
        client.close()


@contextlib.contextmanager
def _unavailable(what: str) -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise Unavailable(f"{what}: {error.args[0].str()}") from error


def _broken(number: int, error: KafkaError) -> Broken:
    fenced = error.fatal()
    why = "another worker took it, or the broker gave the transaction up" if fenced else "it is done again"
    return Broken(f"a transaction of partition {number} failed ({error.str()}): {why}", fenced)
