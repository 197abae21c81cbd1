"""The lake as a process that dies, and one whose disk is full."""

from __future__ import annotations

import random
import resource
import time
from functools import partial
from typing import Any

import msgspec
import pytest

from ravencore import kafka
from ravencore.records import Record
from ravencore.topics import BARS, BOOKS, TRADES
from sinks.stores.lake import Lake
from tests.sinks.probe_lake import LakeProbe, fields_of, stored
from tests.sinks.rig import CODEC, House, Sink, bar, book, trade, until

pytestmark = pytest.mark.stack

DIES_AT = """
import itertools, os, signal
from sinks import __main__
from sinks.stores.lake_files import Files
def dying(name, number, before):
    whole, calls = getattr(Files, name), itertools.count(1)
    def die(self, path, *rest):
        mine = next(calls) if {selects}(path, *rest) else 0
        if before and mine == number:
            os.kill(os.getpid(), signal.SIGKILL)
        result = whole(self, path, *rest)
        if not before and mine == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(Files, name, die)
dying({name!r}, {number}, {before})
__main__.main()
"""
"""The real sink, but killed before or after its n-th call of one of the steps."""

ANY = "(lambda *_: True)"
TO_MANIFEST = "(lambda path, *rest: '_manifests' in str(rest))"
TO_FINAL = "(lambda path, *rest: 'v1/' in str(rest))"
CLAIMS = 6 * len(Lake.topics)
"""Manifests that are written, and names made safe twice, before the first batch."""
STEPS = {
    "before the first file": ("write_rows", 1, True, ANY),
    "after the first file": ("write_rows", 1, False, ANY),
    "after some files": ("write_rows", 4, False, ANY),
    "before the first watermark": ("move", 1, True, TO_MANIFEST),
    "before a watermark that moves": ("move", CLAIMS + 2, True, TO_MANIFEST),
    "after a watermark that moves": ("move", CLAIMS + 2, False, TO_MANIFEST),
    "before the first rename": ("move", 1, True, TO_FINAL),
    "after the first rename": ("move", 1, False, TO_FINAL),
    "after some renames": ("move", 5, False, TO_FINAL),
    "after names are safe": ("settle", 2 * CLAIMS + 4, False, ANY),
}


def records(symbol: str, count: int) -> list[Record]:
    kinds = (trade, book, bar)
    return [kinds[number % 3](f"{symbol}-{number % 4}", number) for number in range(count)]


def test_killed_at_every_step_the_lake_is_the_topic(house: House) -> None:
    made = records(house.symbol, 4_000)
    settings = house.settings.model_copy(
        update={"lake": house.settings.lake.model_copy(update={"batch_records": 300, "batch_s": 0.1})}
    )
    for number, (step, (name, calls, before, selects)) in enumerate(STEPS.items()):
        house.topics.send(*made[number * 300 : (number + 1) * 300])
        code = DIES_AT.format(name=name, number=calls, before=before, selects=selects)
        dying = house.start("lake", settings, code)
        until(partial(has_ended, dying), f"killed {step}", seconds=60)
        assert dying.process.poll() == -9, f"{step}: {dying.log()}"
    house.topics.send(*made[len(STEPS) * 300 :])
    house.start("lake", settings)
    is_the_topic(house)


def test_killed_at_random_moments_the_lake_is_the_topic(house: House) -> None:
    rng = random.Random(7)
    settings = house.settings.model_copy(
        update={"lake": house.settings.lake.model_copy(update={"batch_records": 200, "batch_s": 0.02})}
    )
    made = records(house.symbol, 4_000)
    for number in range(4):
        running = house.start("lake", settings)
        house.topics.send(*made[number * 1_000 : (number + 1) * 1_000])
        until(running.status, "it runs")
        time.sleep(rng.random() * 2)  # the moment of the kill, not a wait for anything
        running.kill()
    house.start("lake", settings)
    is_the_topic(house)


def has_ended(sink: Sink) -> bool:
    return sink.process.poll() is not None


def is_the_topic(house: House) -> None:
    """Wait for the end of the topics, then compare the lake with all that is in them."""
    root = house.settings.lake.uri
    for topic, record in ((TRADES, "trade"), (BOOKS, "book"), (BARS["tib"], "bar")):
        wanted: dict[tuple[int, int], Any] = {}

        def keep(message: Any, wanted: dict[tuple[int, int], Any] = wanted) -> None:
            if message.value() and message.value()[:1] == b"\0" and len(message.value()) < 10_000:
                wanted[message.partition(), message.offset()] = message.value()

        kafka.read_to_end(house.settings.kafka, topic, "lake-test", keep)
        decoded = {at: fields for at, value in wanted.items() if (fields := _fields(record, value)) is not None}

        def found(topic: str = topic, record: str = record) -> list[dict[str, Any]]:
            return [row for row in stored(root, record) if row["kafka_topic"] == topic]

        until(lambda: len(found()) >= len(decoded), f"all of {topic}", seconds=60)  # noqa: B023
        rows = found()
        by_position = {(row["kafka_partition"], row["kafka_offset"]): row for row in rows}
        assert len(by_position) == len(rows), "no row twice"
        assert by_position.keys() == decoded.keys()
        for at, fields in decoded.items():
            assert {name: by_position[at][name] for name in fields} == fields


def _fields(record: str, value: bytes) -> Any:
    try:
        decoded = CODEC.decode(value)
    except Exception:
        return None
    if record != decoded.SCHEMA or max((getattr(decoded, "event_time", 0) or 0), 0) > 2**55:
        return None
    return fields_of(msgspec.to_builtins(decoded))


FULL = """
import resource
from sinks import __main__
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))
__main__.main()
"""
"""The real sink, no file of which may be longer than 2,000 bytes: writing on is refused as on a full disk."""


def test_a_full_disk_pauses_the_sink_and_with_room_it_goes_on(house: House) -> None:
    made: list[Record] = [trade(house.symbol, number) for number in range(1_500)]
    house.topics.send(*made)
    running = house.start("lake", house.settings, FULL)

    def degraded() -> Any:
        status = running.status()
        return status and status.state == "DEGRADED" and sum(status.lag.values()) and status

    status = until(degraded, "DEGRADED, with lag")
    assert "File too large" in (status.last_error or "")
    assert running.process.poll() is None
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    house.all_there("lake", made)
    until(lambda: (now := running.status()) and now.state == "RUNNING", "RUNNING")
    assert isinstance(house.probes["lake"], LakeProbe)
