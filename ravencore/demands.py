"""What is demanded, as `raven.control` tells it to a service: read in a thread of its own, from its start and on."""

import logging
import threading
import time
from collections.abc import Collection, Hashable, Sequence
from typing import Protocol

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message, TopicPartition

from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.errors import Unavailable, Unreadable
from ravencore.graph import Standing
from ravencore.records import Demand, Shutdown
from ravencore.topics import CONTROL

log = logging.getLogger("raven.demands")

POLL_S = 0.2
RETRY_S = 0.25
TIMEOUT_S = 10.0
AT_A_TIME = 1_000
QUIET_S = 1.0
SHUTDOWN = "shutdown:"
"""Prefix of the key of a Shutdown; the service's name follows."""


class Listener(Protocol):
    """Who is told, in the reader's thread, what has come."""

    def on_demands(self, standing: Standing, made: bool) -> None:
        """Demands are now these; `made`: one was written, or written again, and not only withdrawn.

        Told first when the topic has been read to the end that it had at the start.
        """

    def on_unreadable(self, message: Message, why: str) -> None:
        """A record of the topic is neither a demand nor a request to shut down; what stood under its key is gone."""

    def on_shutdown(self, user: str) -> None:
        """Somebody asks this service to end."""


class Control:
    """`raven.control` for one service; `standing` is always the newest that has been read."""

    def __init__(self, settings: KafkaSettings, codec: Codec, service: str, listener: Listener) -> None:
        self.standing = Standing()
        self.offset = 0
        """The next offset to be read."""
        self.ready = threading.Event()
        """Set once the topic has been read to the end that it had at the start."""
        self._settings, self._codec, self._service, self._listener = settings, codec, service, listener
        self._demands: dict[bytes, Demand] = {}
        self._moved = threading.Condition()
        self._stopping = threading.Event()
        self._client = kafka.reader(settings, service, log_level=0)
        # librdkafka never answers who asks a client for watermarks while another thread polls it.
        self._asker = kafka.reader(settings, service, log_level=0)
        self._thread = threading.Thread(target=self._run, name="demands", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._stopping.set()
        self._thread.join(TIMEOUT_S)

    def catch_up(self) -> None:
        """Return when all that stands in the topic by now has been read; raises Unavailable.

        A record that came of a demand is later than it: whoever has such a record, and then catches up, knows the
        demand.
        """
        try:
            end = kafka.watermarks(self._asker, CONTROL, 0)[1]
        except KafkaException as error:
            raise Unavailable(f"{CONTROL} cannot be read: {error.args[0].str()}") from None
        with self._moved:
            if not self._moved.wait_for(lambda: self.offset >= end, TIMEOUT_S):
                raise Unavailable(f"{CONTROL} cannot be read to its end within {TIMEOUT_S:.0f} s")

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() and not self._assign():
                self._stopping.wait(RETRY_S)
            while not self._stopping.is_set():
                if messages := kafka.arrived(self._client, AT_A_TIME, POLL_S):
                    self._take(messages)
        finally:
            self._client.close()

    def _assign(self) -> bool:
        try:
            kafka.partitions(self._client, CONTROL)
        except Unavailable as error:
            log.warning("%s", error)
            return False
        self._client.assign([TopicPartition(CONTROL, 0, OFFSET_BEGINNING)])
        return True

    def _take(self, messages: Sequence[Message]) -> None:
        at_end = changed = made = False
        for message in messages:
            error = message.error()
            if error is None:
                at = self._note(message)
                changed |= at
                made |= at and message.value() is not None
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's own name for the end
                at_end = True
        if changed:
            self.standing = Standing(self._demands.values())
        first = at_end and not self.ready.is_set()
        if first or (changed and self.ready.is_set()):
            self._listener.on_demands(self.standing, made or first)
        if at_end:
            self.ready.set()
        with self._moved:
            self.offset = max(self.offset, *map(_next, messages))
            self._moved.notify_all()

    def _note(self, message: Message) -> bool:
        """Take a record; whether demands changed."""
        key, value = message.key() or b"", message.value()
        if key.startswith(SHUTDOWN.encode()):
            self._note_shutdown(message)
            return False
        before = self._demands.pop(key, None)
        if value is None:
            return before is not None
        try:
            self._demands[key] = self._codec.decode_as(Demand, value)
        except (Unreadable, Unavailable) as error:
            self._listener.on_unreadable(message, str(error))
            return before is not None
        return True

    def _note_shutdown(self, message: Message) -> None:
        """One that stood there before this service started is not meant for it."""
        value = message.value()
        if value is None or not self.ready.is_set():
            return
        try:
            asked = self._codec.decode_as(Shutdown, value)
        except (Unreadable, Unavailable) as error:
            self._listener.on_unreadable(message, str(error))
            return
        if asked.service == self._service:
            log.info("%s asks %s to shut down", asked.user, self._service)
            self._listener.on_shutdown(asked.user)


class Lookout:
    """When records last came under keys that the demands known so far say nothing of, or want nothing of.

    One that comes after a pause, or for the first time, may have come of a demand that is not known yet: whoever has
    it catches up with the demands before it judges the record. Where records come all the time, that costs nothing.
    """

    def __init__(self) -> None:
        self._came: dict[Hashable, float] = {}

    def is_news(self, keys: Collection[Hashable]) -> bool:
        """Whether one of them has not come for QUIET_S."""
        since = time.monotonic() - QUIET_S
        return any(self._came.get(key, 0.0) < since for key in keys)

    def note(self, keys: Collection[Hashable]) -> None:
        """They have come just now, and been judged by demands as new as they are."""
        self._came.update(dict.fromkeys(keys, time.monotonic()))


def unreadable(why: str) -> str:
    """What a service says of a record that it cannot read, in one sentence with the next step."""
    return f"a record of {CONTROL} cannot be read, `ravenctl user` says how to withdraw it: {why}"


def _next(message: Message) -> int:
    """The offset after a record; the end itself where that is what the message says."""
    return (message.offset() or 0) + (message.error() is None)
