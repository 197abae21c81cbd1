"""The newest records of a topic, decoded."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from confluent_kafka import Consumer, Message, TopicPartition

from ravencore.codec import Codec, iso_time, plain
from ravencore.config import KafkaSettings
from ravencore.errors import Unreadable
from ravencore.kafka import CLOCK_HEADER, TIMEOUT_S
from ravencore.topics import TOPICS
from ravenctl import reading
from ravenctl.shell import RAVEN, WrongUse, nearest

FIRST_WINDOW = 64
LONGEST = 80
TIME_FIELDS = ("close_time", "event_time", "reported_time", "detected_time", "created_time", "received_time")


@dataclass(frozen=True)
class Line:
    """One record as shown: `fields` for scripts, and what a person wants to see before them."""

    fields: dict[str, Any]
    key: str
    time: str


def full_name(topic: str) -> str:
    """A topic's whole name: `bars.tib` is `raven.bars.tib`."""
    return topic if topic.startswith(RAVEN) else RAVEN + topic


def check(client: Consumer, topic: str) -> None:
    """Raises WrongUse for a topic that is neither Raven's nor there, naming the nearest."""
    known = {one.name for one in TOPICS}
    if topic in known or topic in (there := client.list_topics(timeout=TIMEOUT_S).topics):
        return
    short = [name.removeprefix(RAVEN) for name in sorted(known | there.keys()) if name.startswith(RAVEN)]
    asked = topic.removeprefix(RAVEN)
    raise WrongUse(f"there is no topic {asked}: {nearest(asked, short)}")


def newest(client: Consumer, topic: str, count: int) -> list[Message]:
    """The last records of all partitions together, oldest first by their time in Kafka; raises Unavailable."""
    edges = reading.bounds(client, topic)
    found = [message for number, edge in edges.items() for message in _last(client, topic, number, edge, count)]
    found.sort(key=lambda message: (message.timestamp()[1], message.partition() or 0, message.offset() or 0))
    return found[-count:] if count else []


def _last(client: Consumer, topic: str, partition: int, edge: tuple[int, int], count: int) -> list[Message]:
    """The last records of a partition: offsets count markers and compacted records too, so look back ever further."""
    low, high = edge
    window = max(FIRST_WINDOW, 2 * count)
    while low < high:
        start = max(low, high - window)
        messages = list(reading.read(client, topic, {partition: start}))
        if len(messages) >= count or start == low:
            return messages[-count:] if count else []
        window *= 8
    return []


def follow(client: Consumer, topic: str) -> Iterator[Message]:
    """Records as they come, from now on, until interrupted."""
    edges = reading.bounds(client, topic)
    client.assign([TopicPartition(topic, number, high) for number, (_, high) in edges.items()])
    while True:
        message = client.poll(1.0)
        if message is not None and message.error() is None:
            yield message


def tail(settings: KafkaSettings, codec: Codec, topic: str, count: int, *, go_on: bool) -> Iterator[Line]:
    """The last records of a topic as lines and, with `go_on`, those that come after; raises Unavailable, WrongUse."""
    client = reading.reader(settings)
    try:
        check(client, topic)
        messages = newest(client, topic, count)
        yield from (line(message, codec) for message in messages)
        if go_on:
            yield from (line(message, codec) for message in follow(client, topic))
    finally:
        client.close()


def line(message: Message, codec: Codec) -> Line:
    """A record decoded; Clocks, deletions and what cannot be read are shown as such."""
    key = _text(message.key())
    fields = _fields(message, codec)
    stamp = next((str(fields[name]) for name in TIME_FIELDS if fields.get(name)), None)
    return Line(fields, key, stamp or iso_time(message.timestamp()[1] * 1000))


def _fields(message: Message, codec: Codec) -> dict[str, Any]:
    value = message.value()
    if value is None:
        return _without_value(message)
    try:
        return plain(codec.decode(value))
    except Unreadable as error:
        where = {"topic": message.topic(), "partition": message.partition(), "offset": message.offset()}
        return {"unreadable": str(error), **where, "value": bytes(value).hex()}


def _without_value(message: Message) -> dict[str, Any]:
    key = _text(message.key())
    headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    times = [_text(value) for name, value in headers if name == CLOCK_HEADER]
    if not times:
        return {"deleted": key}
    return {"clock": iso_time(int(times[0])) if times[0].isdigit() else times[0], "key": key}


def _text(raw: str | bytes | None) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw or ""


def for_people(shown: Line) -> str:
    """A line for the eye: time, key, then the fields that say more; `--json` has them all."""
    said = {shown.time, shown.key, *shown.key.split(":")}
    told = (f"{name}={_short(value, shown.time)}" for name, value in shown.fields.items() if _tells(value, said))
    return "  ".join([shown.time, shown.key, *told])


def _tells(value: Any, said: set[str]) -> bool:
    nothing = value is None or value is False or (isinstance(value, list | tuple) and not value)
    return not nothing and not (isinstance(value, str) and value in said)


def _short(value: Any, time: str) -> str:
    match value:
        case bool():
            return "yes"
        case float():
            return f"{value:.6g}"
        case [{"price": price, "quantity": quantity}, *deeper]:
            return f"{price} x {quantity}" + (f" and {len(deeper)} deeper" if deeper else "")
        case list() | tuple() | dict():
            text = json.dumps(value, separators=(",", ":"))
            return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
        case str() if value.endswith("Z") and value[:11] == time[:11]:
            return value[11:]
        case _:
            return str(value)


def write(lines: Iterable[Line], *, as_json: bool) -> None:
    """Print lines, each at once, so that a pipe sees them as they come."""
    for shown in lines:
        text = json.dumps(shown.fields, separators=(",", ":"), ensure_ascii=False) if as_json else for_people(shown)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
