"""Raven's topics as they are in Kafka: partitions, how much is in them, how new it is, how long it stays."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType  # type: ignore[attr-defined]
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ravencore import kafka, topics
from ravencore.codec import load_schema
from ravencore.config import KafkaSettings
from ravencore.errors import Unavailable
from ravencore.records import RECORD_OF
from ravencore.topics import TOPICS, Topic
from ravenctl.cluster import QUIET
from ravenctl.statusview import ago

TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Told:
    """A topic; `records` by its offsets, so markers of transactions and what was compacted count too.

    What is None is not known: the topic is not there, or has no record. `newest_us`: the newest record's time.
    """

    topic: str
    partitions: int | None = None
    records: int | None = None
    newest_us: int | None = None
    cleanup: str | None = None
    retention_ms: int | None = None

    @property
    def holds(self) -> str:
        """Its record."""
        return RECORD_OF[self.topic].SCHEMA


def survey(settings: KafkaSettings) -> list[Told]:
    """All of Raven's topics, also those that are not there; raises Unavailable."""
    client = AdminClient({"bootstrap.servers": settings.bootstrap, **QUIET})
    try:
        there = client.list_topics(timeout=TIMEOUT_S).topics
        places = [
            TopicPartition(topic.name, number)
            for topic in TOPICS
            if topic.name in there
            for number in there[topic.name].partitions
        ]
        starts, ends, newest = (_offsets(client, places, spec()) for spec in _SPECS)  # type: ignore[no-untyped-call]
        configs = _configs(client, [topic.name for topic in TOPICS if topic.name in there])
    except KafkaException as error:
        raise Unavailable(f"Kafka at {settings.bootstrap} does not answer: {error.args[0].str()}") from None
    found = []
    for topic in TOPICS:
        ours = [place for place in places if place.topic == topic.name]
        if not ours:
            found.append(Told(topic=topic.name))
            continue
        config = configs.get(topic.name, {})
        found.append(
            Told(
                topic=topic.name,
                partitions=len(ours),
                records=sum(ends[place].offset - starts[place].offset for place in ours),
                newest_us=max(
                    (newest[place].timestamp * 1000 for place in ours if newest[place].timestamp > 0), default=None
                ),
                cleanup=config.get("cleanup.policy"),
                retention_ms=int(config["retention.ms"]) if "retention.ms" in config else None,
            )
        )
    return found


_SPECS = (OffsetSpec.earliest, OffsetSpec.latest, OffsetSpec.max_timestamp)


def _offsets(client: AdminClient, places: Iterable[TopicPartition], spec: Any) -> dict[TopicPartition, Any]:
    asked = dict.fromkeys(places, spec)
    if not asked:
        return {}

    def ask() -> dict[TopicPartition, Any]:
        futures = client.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=TIMEOUT_S)
        return {place: future.result() for place, future in futures.items()}

    return kafka.patiently(ask)


def _configs(client: AdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    futures = client.describe_configs(resources, request_timeout=TIMEOUT_S)
    return {
        resource.name: {name: entry.value for name, entry in future.result().items() if entry.value is not None}
        for resource, future in futures.items()
    }


def expected(topic: Topic, settings: KafkaSettings) -> tuple[int, str, int | None]:
    """Partitions, clean-up and retention that a topic is created with."""
    kept = topic.settings.get("retention.ms")
    return topic.partitions or settings.partitions, topic.settings["cleanup.policy"], int(kept) if kept else None


def kept(told: Told) -> str:
    """How long a record stays."""
    if told.cleanup == "compact":
        return "compacted"
    if told.retention_ms is None or told.retention_ms < 0:
        return "for ever"
    days, rest = divmod(told.retention_ms, topics.DAY_MS)
    return f"{days} days" if not rest else f"{told.retention_ms / topics.HOUR_MS:g} hours"


def for_scripts(told: Told, now_us: int) -> dict[str, Any]:
    """A topic as JSON values."""
    age = None if told.newest_us is None else round((now_us - told.newest_us) / 1e6, 3)
    fields = {name: value for name, value in asdict(told).items() if name != "newest_us"}
    return fields | {"newest_age_s": age, "holds": told.holds, "there": told.partitions is not None}


def listed(found: Sequence[Told], now_us: int) -> RenderableType:
    """A line for each that is there, and what is missing."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("TOPIC", "PARTITIONS", "RECORDS", "NEWEST", "KEPT", "HOLDS"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("PARTITIONS", "RECORDS", "NEWEST") else "left")
    table.columns[-1].no_wrap, table.columns[-1].overflow = False, "ellipsis"
    for told in found:
        if told.partitions is not None:
            newest = "-" if told.newest_us is None else ago(now_us - told.newest_us)
            held = Text(_what(told.holds), no_wrap=True, overflow="ellipsis")
            table.add_row(told.topic, str(told.partitions), f"{told.records:,}", newest, kept(told), held)
    missing = [told.topic for told in found if told.partitions is None]
    lines = [Text(f"not there: {', '.join(missing)}: run `ravenctl setup`", style="bold red")] if missing else []
    return Group(table, *lines)


def _what(record: str) -> str:
    schema = load_schema(f"{record}.avsc")
    return f"{schema['name']}: {re.split(r'[.;] |[.]$', schema['doc'])[0]}"
