"""All keys of a partition whose records are joined: fetched batches in, outputs and dead letters out; pure."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from processors.contract import Clock, Join, Output
from processors.intake import UNASKED, UNREADABLE, WRONG_KEY, Fetched, Letter, Made, clock_of
from ravencore.codec import Codec
from ravencore.errors import Unreadable
from ravencore.graph import Standing, origin, output_of
from ravencore.records import Record


class JoinIntake:
    """A join of a partition, by Kafka key.

    `key` gives that of a sample, `clock_header` names the header of a null value that is a Clock.
    """

    def __init__(
        self, codec: Codec, join: Join[Any], kind: type[Record], key: Callable[[Any], bytes], clock_header: str
    ) -> None:
        self._codec, self._join, self._kind, self._key, self._clock_header = codec, join, kind, key, clock_header

    def restore(self, key: bytes, payload: bytes, layout: int) -> None:
        """Take over a snapshot; raises StateMismatch."""
        self._join.restore(key.decode(), payload, layout)

    def snapshot(self, key: bytes) -> bytes:
        """The whole state of a key."""
        return self._join.snapshot(key.decode())

    def apply(self, records: Sequence[Fetched], standing: Standing = UNASKED) -> Made:
        """Fold a batch in; raises Unavailable when a schema registry is needed and away.

        Samples that demands name the key of and are not for are left out: each follows from the newest records alone.
        """
        letters: list[Letter] = []
        read = [(record, event) for record in records if (event := self._read(letters, record)) is not None]
        done = self._join.apply([event for _, event in read], [record.offset for record, _ in read])
        by_offset = {record.offset: record for record, _ in read}
        letters += [Letter(by_offset[it.offset], it.reason, it.detail) for it in done.refused]
        letters.sort(key=lambda letter: letter.record.offset)
        touched = {key.encode(): offset for key, offset in done.touched.items()}
        outputs = [output for output in done.outputs if self._is_wanted(output, standing)]
        return Made(outputs, letters, Counter(done.counts), touched)

    def _is_wanted(self, output: Output, standing: Standing) -> bool:
        name = output_of(output.topic)
        assert name is not None
        wanted = standing.wanted(origin(name), self._key(output.record).decode())
        return wanted is None or name in wanted

    def _read(self, letters: list[Letter], record: Fetched) -> tuple[str, Any | Clock] | None:
        key = _text(record.key)
        if not key:
            letters.append(Letter(record, WRONG_KEY, f"the key {record.key!r} is no text"))
            return None
        event = clock_of(record, self._clock_header) if record.value is None else self._decoded(record.value)
        if isinstance(event, str):
            letters.append(Letter(record, UNREADABLE, event))
            return None
        return key, event

    def _decoded(self, value: bytes) -> Record | str:
        try:
            return self._codec.decode_as(self._kind, value)
        except Unreadable as error:
            return str(error)


def _text(key: bytes | None) -> str:
    try:
        return (key or b"").decode()
    except UnicodeDecodeError:
        return ""
