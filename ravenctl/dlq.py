"""`ravenctl dlq`: what could not be used, and bringing it back after a fix.

A dead letter is named by where it stands in `raven.dead_letters`: PARTITION-OFFSET. One of a sink is written into its
store again, under the coordinates it was first read at: there a second write changes nothing. One of the engine goes
to the end of the topic it came from, where it is a late repair, or new. What came back is noted in the same topic, by
a letter of reason `replayed` with the same service and coordinates: lists leave both out.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from msgspec.structs import replace
from rich.console import Group, RenderableType
from rich.table import Table

from processors.transactions import SERVICE as ENGINE
from ravencore import kafka
from ravencore.codec import Codec, iso_time, plain
from ravencore.config import KafkaSettings, Settings
from ravencore.errors import Unreadable
from ravencore.records import DeadLetter
from ravencore.status import now_us
from ravencore.topics import DEAD_LETTERS
from ravenctl import reading
from ravenctl.gaps import Waiting
from ravenctl.gaps import since as ledger_since
from ravenctl.shell import CommandFailed, WrongUse
from ravenctl.survey import Say
from sinks.contract import Read, Store
from sinks.drain import PAYLOAD_LIMIT
from sinks.registry import STORES

REPLAYED = "replayed"
BUCKET_TOO_SMALL = "bucket_too_small"
"""The engine's reason for what only VPIN leaves out."""
SINK = "sink-"
SHOWN = 40
"""Letters that are listed one by one where not all are asked for."""
Coordinates = tuple[str, str | None, int | None, int | None]


class Letter(NamedTuple):
    """A dead letter and where it stands."""

    partition: int
    offset: int
    letter: DeadLetter

    @property
    def name(self) -> str:
        """What a person calls it by."""
        return f"{self.partition}-{self.offset}"

    @property
    def about(self) -> Coordinates:
        """Whose it is and of which record: a record that is refused again is another letter of the same."""
        it = self.letter
        return it.service, it.topic, it.partition, it.offset


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which letters are asked for: empty means all."""

    names: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    since_us: int = 0

    def takes(self, one: Letter) -> bool:
        """Whether this letter is asked for."""
        it = one.letter
        return (
            (not self.names or one.name in self.names)
            and (not self.services or it.service in self.services)
            and (not self.reasons or it.reason in self.reasons)
            and (not self.topics or it.topic in self.topics)
            and it.detected_time >= self.since_us
        )


class Replay(NamedTuple):
    """What became of letters: those that came back, and those that did not, each with a sentence."""

    back: list[Letter]
    left: list[tuple[Letter, str]]


# Reading


def choose(
    *,
    names: Iterable[str],
    services: Iterable[str] | None,
    reasons: Iterable[str] | None,
    topics: Iterable[str] | None,
    since: str,
    now_us: int,
) -> Choice:
    """What the options mean; a letter that is named may be of any time. Raises WrongUse."""
    named = frozenset(names)
    return Choice(
        names=named,
        services=frozenset(services or ()),
        reasons=frozenset(reasons or ()),
        topics=frozenset(topics or ()),
        since_us=0 if named else ledger_since(since, now_us),
    )


def find(settings: KafkaSettings, codec: Codec, choice: Choice) -> list[Letter]:
    """Letters that are asked for and have not come back, oldest first; raises Unavailable, WrongUse."""
    client = reading.reader(settings)
    try:
        bounds = reading.bounds(client, DEAD_LETTERS)
        starts = {number: first for number, (first, _) in bounds.items()}
        total = sum(end - first for first, end in bounds.values())
        with Waiting() as waiting:
            found = _waiting(_decoded(codec, reading.read(client, DEAD_LETTERS, starts), total, waiting.say))
    finally:
        client.close()
    chosen = [one for one in found if choice.takes(one)]
    unknown = choice.names - {one.name for one in chosen}
    if unknown:
        raise WrongUse(f"no dead letter {', '.join(sorted(unknown))} waits: see `ravenctl dlq list`")
    return sorted(chosen, key=lambda one: one.letter.detected_time)


def _decoded(codec: Codec, messages: Iterable[Any], total: int, say: Say) -> Iterator[Letter]:
    for number, message in enumerate(messages):
        if number % reading.BATCH == 0:
            say("reading dead letters", number, total)
        try:
            yield Letter(message.partition(), message.offset(), codec.decode_as(DeadLetter, message.value() or b""))
        except Unreadable as error:
            raise CommandFailed(f"{DEAD_LETTERS} {message.partition()}-{message.offset()}: {error}") from None


def _waiting(found: Iterable[Letter]) -> list[Letter]:
    """Without those that came back, and of a record that was refused again only the newest letter."""
    newest: dict[Any, Letter] = {}
    for one in found:
        of_a_record = one.letter.offset is not None
        key = one.about if of_a_record else (one.partition, one.offset)
        if key not in newest or newest[key].letter.detected_time <= one.letter.detected_time:
            newest[key] = one
    return [one for one in newest.values() if one.letter.reason != REPLAYED]


# Showing


def listed(found: Sequence[Letter], *, everything: bool) -> RenderableType:
    """How many of what, and the newest of them one by one."""
    if not found:
        return "no dead letters"
    counts = Counter((one.letter.service, one.letter.reason, one.letter.topic or "sockets") for one in found)
    summary = _table("COUNT", "SERVICE", "REASON", "FROM")
    for (service, reason, topic), count in counts.most_common():
        summary.add_row(f"{count:,}", service, reason, topic)
    shown = found if everything else found[-SHOWN:]
    newest = _table("LETTER", "TIME", "SERVICE", "REASON", "FROM", "WHY")
    for one in shown:
        it = one.letter
        newest.add_row(one.name, iso_time(it.detected_time)[:19], it.service, it.reason, _origin(it), it.detail)
    rest = [f"{len(found) - len(shown):,} older ones: --all lists them"] if len(shown) < len(found) else []
    return Group(summary, "", newest, *rest)


def shown(codec: Codec, one: Letter) -> str:
    """All that is known of a letter, with its record where that can be read, as JSON for people."""
    return json.dumps(for_scripts(one) | {"record": _record(codec, one.letter)}, indent=2, ensure_ascii=False)


def for_scripts(one: Letter) -> dict[str, Any]:
    """A letter as JSON."""
    return {"letter": one.name, **plain(one.letter)}


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name == "COUNT" else "left", overflow="fold", no_wrap=name != "WHY")
    return table


def _origin(letter: DeadLetter) -> str:
    if letter.offset is None:
        return letter.connection or "?"
    return f"{letter.topic}-{letter.partition}@{letter.offset}"


def _record(codec: Codec, letter: DeadLetter) -> Any:
    if letter.topic is None:
        return None
    try:
        return plain(codec.decode(letter.payload))
    except Unreadable as error:
        return f"unreadable: {error}"


# Bringing back


def replay(settings: Settings, codec: Codec, found: Sequence[Letter]) -> Replay:
    """Bring letters back to where they were refused; raises Unavailable where a store or Kafka is away."""
    by_service: dict[str, list[Letter]] = defaultdict(list)
    for one in found:
        by_service[one.letter.service].append(one)
    done = Replay([], [])
    for service, some in by_service.items():
        part = _way_back(service)(settings, codec, some)
        _note(settings.kafka, codec, part.back)
        done.back.extend(part.back)
        done.left.extend(part.left)
    return done


def _way_back(service: str) -> Callable[[Settings, Codec, Sequence[Letter]], Replay]:
    if service.removeprefix(SINK) in STORES:
        return _into_store
    return _into_topic if service == ENGINE else _no_way


def _no_way(_settings: Settings, _codec: Codec, some: Sequence[Letter]) -> Replay:
    why = (
        "a frame is not read again, for its time in the order has passed: what a venue has of it is asked for over REST"
    )
    return Replay([], [(one, why) for one in some])


def _into_store(settings: Settings, codec: Codec, some: Sequence[Letter]) -> Replay:
    store = STORES[some[0].letter.service.removeprefix(SINK)](settings)
    done = Replay([], [])
    try:
        store.setup()
        wanted = list(_reads(store, some, done.left))
        outcome = store.restore([read for read, _ in wanted])
    finally:
        store.close()
    failed = {it.read[:3]: f"{it.reason}: {it.detail}" for part in outcome for it in part}
    done.left.extend((one, failed[read[:3]]) for read, one in wanted if read[:3] in failed)
    done.back.extend(one for read, one in wanted if read[:3] not in failed)
    return done


def _reads(store: Store, some: Sequence[Letter], left: list[tuple[Letter, str]]) -> Iterator[tuple[Read, Letter]]:
    for one in some:
        it = one.letter
        if it.topic is None or it.partition is None or it.offset is None or it.topic not in store.topics:
            left.append((one, f"{store.name} keeps nothing of {it.topic}"))
        elif len(it.payload) >= PAYLOAD_LIMIT:
            left.append((one, "only the beginning of its payload was kept"))
        else:
            yield Read(it.topic, it.partition, it.offset, it.key, it.payload), one


def _into_topic(settings: Settings, codec: Codec, some: Sequence[Letter]) -> Replay:
    """To the end of the topic each came from, under its key."""
    done = Replay([], [])
    for one in some:
        it = one.letter
        if it.reason == BUCKET_TOO_SMALL:
            done.left.append((one, "all but VPIN has it, and to VPIN it stays too large"))
            continue
        if it.topic is None or not it.payload:
            done.left.append((one, "there is no record to bring back"))
            continue
        try:
            codec.decode(it.payload)
        except Unreadable as error:
            done.left.append((one, f"still unreadable: {error}"))
            continue
        done.back.append(one)
    records = [(one.letter.topic or "", one.letter.payload, one.letter.key) for one in done.back]
    kafka.deliver(kafka.producer(settings.kafka), records)
    return done


def _note(settings: KafkaSettings, codec: Codec, back: Sequence[Letter]) -> None:
    notes = [
        replace(one.letter, payload=b"", reason=REPLAYED, detail=f"{one.name} came back", detected_time=now_us())
        for one in back
    ]
    kafka.deliver(kafka.producer(settings), ((DEAD_LETTERS, codec.encode(note), note.key) for note in notes))
