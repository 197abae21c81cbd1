"""`ravenctl dlq` on the real servers: what was refused is listed, and comes back after a fix, once."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from processors.transactions import SERVICE as ENGINE
from ravencore.config import Settings
from ravencore.records import DeadLetter, Demand, FeedName, Record, Trade
from ravencore.status import now_us
from ravencore.topics import CONTROL, DEAD_LETTERS, TRADES
from ravenctl import reading
from ravenctl.cli import app
from sinks.drain import PAYLOAD_LIMIT
from sinks.registry import STORES
from tests.sinks.rig import CODEC, House, Topics, bar, instrument, key_of, topic_of, trade, until

pytestmark = pytest.mark.stack
Dlq = Callable[..., Result]


@pytest.fixture
def dlq(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Dlq:
    """`ravenctl dlq ...` of these servers."""
    monkeypatch.setenv("RAVEN_MART__DSN", settings.mart.dsn.get_secret_value())
    monkeypatch.setenv("RAVEN_INFLUX__URL", settings.influx.url)
    monkeypatch.setenv("RAVEN_INFLUX__FLAVOUR", settings.influx.flavour)
    monkeypatch.setenv("RAVEN_REDIS__URL", settings.redis.url.get_secret_value())
    monkeypatch.setenv("RAVEN_LAKE__URI", settings.lake.uri)

    def run(*args: str) -> Result:
        return CliRunner().invoke(app, ["--bootstrap", settings.kafka.bootstrap, "dlq", *args])

    return run


def waiting(dlq: Dlq, symbol: str, *options: str) -> list[dict[str, Any]]:
    """Letters of a symbol that have not come back."""
    result = dlq("list", "--json", *options)
    assert result.exit_code == 0, result.output
    found = map(json.loads, result.stdout.splitlines())
    return [letter for letter in found if letter["key"] == f"VENUE:{symbol}"]


def bury(topics: Topics, symbol: str, **changes: Any) -> None:
    """A letter as a service writes it, of a sound trade if nothing else is said."""
    fields = {
        "service": ENGINE, "topic": TRADES, "partition": 0, "offset": 10**12, "key": f"VENUE:{symbol}".encode(),
        "payload": CODEC.encode(trade(symbol, 7)), "reason": "unreadable_record", "detail": "made for a test",
        "detected_time": now_us(),
    }  # fmt: skip
    letter = DeadLetter(**{**fields, **changes})
    topics.send_bytes(DEAD_LETTERS, letter.key or b"", CODEC.encode(letter))
    topics.flush()


def test_a_bar_without_its_instrument_comes_back_when_that_is_known(house: House, dlq: Dlq) -> None:
    symbol = house.symbol
    house.start("timescale", house.waiting(0.5))
    lost = bar(symbol, 3)
    house.topics.send(lost)
    [letter] = until(lambda: waiting(dlq, symbol), "a dead letter")
    assert (letter["service"], letter["reason"], letter["topic"]) == (
        "sink-timescale", "unknown_instrument", topic_of(lost),
    )  # fmt: skip
    refused = dlq("replay", letter["letter"])
    assert (refused.exit_code, "0 came back, 1 stay" in refused.stdout) == (1, True)
    assert f"{letter['letter']} stays: unknown_instrument: raven.instruments has said nothing of" in refused.stderr

    house.topics.send(instrument(symbol), bar(symbol, 4))
    until(lambda: house.more_than("timescale", 0), "the instrument is known")
    back = dlq("replay", letter["letter"])
    assert (back.exit_code, back.stdout) == (0, "1 came back, 0 stay\n")
    house.all_there("timescale", [lost, bar(symbol, 4)])
    assert waiting(dlq, symbol) == []
    gone = dlq("replay", letter["letter"])
    assert (gone.exit_code, "see `ravenctl dlq list`" in gone.stderr) == (2, True)


def buried(house: House, dlq: Dlq, name: str, lost: Record) -> dict[str, Any]:
    """The letter of garbage that a running sink read where a record should have been."""
    house.topics.send_bytes(topic_of(lost), key_of(lost), b"garbage")
    house.topics.flush()
    [letter] = until(lambda: letters(dlq, name, lost), "a dead letter")
    assert isinstance(letter, dict)
    return letter


def letters(dlq: Dlq, name: str, lost: Record) -> list[dict[str, Any]]:
    result = dlq("list", "--json", "--service", f"sink-{name}", "--topic", topic_of(lost))
    found: list[dict[str, Any]] = [json.loads(line) for line in result.stdout.splitlines()]
    return [letter for letter in found if letter["key"] == key_of(lost).decode()]


def mended(house: House, dlq: Dlq, letter: dict[str, Any], lost: Record) -> str:
    """The name of a newer letter of the same record, with the bytes that belong there: to a store, a fix."""
    where = {name: letter[name] for name in ("service", "topic", "partition", "offset")}
    bury(house.topics, house.symbol, **where, key=key_of(lost), payload=CODEC.encode(lost))
    [newer] = letters(dlq, letter["service"].removeprefix("sink-"), lost)
    assert newer["letter"] != letter["letter"]
    return str(newer["letter"])


def is_there(house: House, name: str, records: Sequence[Record]) -> None:
    probe = house.probes[name]
    until(lambda: probe.count(house.symbol) >= probe.enough(records), "as many rows as there should be")
    until(lambda: probe.kept(house.symbol) == probe.expected(records), "each of them, once")


@pytest.mark.parametrize("name", STORES)
def test_a_letter_is_replayed_beside_the_running_sink_once(house: House, dlq: Dlq, name: str) -> None:
    probe = house.probes[name]
    *others, lost = probe.records(house.symbol, 30)
    running = house.start(name, house.waiting(20.0))
    letter = buried(house, dlq, name, lost)
    house.topics.send(*others)
    is_there(house, name, others)
    for _ in range(2):
        back = dlq("replay", mended(house, dlq, letter, lost))
        assert (back.exit_code, back.stdout) == (0, "1 came back, 0 stay\n"), back.stderr
        is_there(house, name, [*others, lost])
    assert running.process.poll() is None


def test_a_letter_comes_back_whatever_is_demanded_by_now(house: House, dlq: Dlq) -> None:
    feeds = (FeedName("VENUE", "trades", house.symbol),)
    elsewhere = Demand(
        demand_id=house.symbol, user="u", symbol=house.symbol, stores=("lake",), feeds=feeds, created_time=1
    )
    house.topics.send_bytes(CONTROL, house.symbol.encode(), CODEC.encode(elsewhere))
    bury(house.topics, house.symbol, service="sink-influx")
    [letter] = waiting(dlq, house.symbol)
    back = dlq("replay", letter["letter"])
    assert (back.exit_code, back.stdout) == (0, "1 came back, 0 stay\n"), back.stderr
    house.all_there("influx", [trade(house.symbol, 7)])


DIES_AT = """
import os, signal
from ravenctl.cli import app
from sinks.stores.lake_files import Files
whole = Files.{name}
def die(self, *rest):
    if {before}:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self, *rest)
    os.kill(os.getpid(), signal.SIGKILL)
Files.{name} = die
app()
"""
"""`ravenctl`, killed before or after its first call of one of the steps."""


def test_a_replay_into_the_lake_that_is_killed_leaves_nothing_twice(house: House, dlq: Dlq) -> None:
    probe = house.probes["lake"]
    *others, lost = probe.records(house.symbol, 30)
    house.start("lake", house.settings)
    letter = buried(house, dlq, "lake", lost)
    house.topics.send(*others)
    is_there(house, "lake", others)
    name = mended(house, dlq, letter, lost)
    command = [sys.executable, "-", "--bootstrap", house.settings.kafka.bootstrap, "dlq", "replay", name]
    for step, before in (("write_rows", True), ("write_rows", False), ("move", True), ("move", False)):
        code = DIES_AT.format(name=step, before=before)
        assert subprocess.run(command, input=code, text=True, check=False).returncode == -9
        there = [lost] if (step, before) == ("move", False) else []
        assert probe.kept(house.symbol) == probe.expected(others + there)
    back = dlq("replay", name)
    assert (back.exit_code, back.stdout) == (0, "1 came back, 0 stay\n"), back.stderr
    assert probe.kept(house.symbol) == probe.expected([*others, lost])
    assert not list(Path(house.settings.lake.uri).glob("_restoring/*"))


def test_what_the_engine_could_not_read_goes_to_the_end_of_its_topic(
    topics: Topics, settings: Settings, symbol: str, dlq: Dlq
) -> None:
    bury(topics, symbol)
    bury(topics, symbol, offset=10**12 + 1, payload=b"\0\0\0\0\0nothing")
    bury(topics, symbol, offset=10**12 + 2, payload=b"")
    good, bad, empty = waiting(dlq, symbol, "--service", ENGINE, "--reason", "unreadable_record")
    result = dlq("replay", *(letter["letter"] for letter in (good, bad, empty)))
    assert (result.exit_code, result.stdout) == (1, "1 came back, 2 stay\n")
    assert f"{bad['letter']} stays: still unreadable" in result.stderr
    assert f"{empty['letter']} stays: there is no record to bring back" in result.stderr
    assert trades_of(settings, symbol) == [trade(symbol, 7)]
    assert waiting(dlq, symbol) == [bad, empty]


def trades_of(settings: Settings, symbol: str) -> list[Trade]:
    records = reading.read_all(settings.kafka, TRADES)
    return [CODEC.decode_as(Trade, it.value() or b"") for it in records if it.key() == f"VENUE:{symbol}".encode()]


def test_what_cannot_come_back_says_why_and_stays(topics: Topics, symbol: str, dlq: Dlq) -> None:
    bury(topics, symbol, service="collector", topic=None, partition=None, offset=None, connection="ws://x 1")
    bury(topics, symbol, service="sink-influx", topic="raven.control")
    bury(topics, symbol, service="sink-influx", offset=5, payload=b"x" * PAYLOAD_LIMIT)
    bury(topics, symbol, service="sink-influx", offset=6, payload=b"x")
    names = [letter["letter"] for letter in waiting(dlq, symbol)]
    result = dlq("replay", *names)
    assert (result.exit_code, result.stdout) == (1, "0 came back, 4 stay\n")
    for why in (
        "a frame is not read again",
        "influx keeps nothing of raven.control",
        "only the beginning of its payload was kept",
        "unreadable_record",
    ):
        assert why in result.stderr
    assert len(waiting(dlq, symbol)) == 4


def test_letters_are_chosen_listed_and_shown(topics: Topics, symbol: str, dlq: Dlq) -> None:
    bury(topics, symbol, reason="bad_value", service="sink-made-up", detail="the price is none")
    bury(topics, symbol, reason="bad_value", service="sink-made-up", offset=8, detected_time=now_us() - 7_200_000_000)
    assert len(waiting(dlq, symbol, "--service", "sink-made-up", "--topic", TRADES)) == 2
    [newer] = waiting(dlq, symbol, "--since", "1h")
    assert waiting(dlq, symbol, "--service", "sink-other") == []
    shown = json.loads(dlq("show", newer["letter"]).stdout)
    assert (shown["detail"], shown["record"]["trade_id"]) == ("the price is none", "7")
    listed = dlq("list", "--service", "sink-made-up", "--all").stdout
    assert newer["letter"] in listed
    assert f"{TRADES}-0@{10**12}" in listed


@pytest.mark.parametrize("args", [["replay"], ["show", "99-1"], ["list", "--since", "soon"]])
def test_wrong_use_is_told(args: list[str], dlq: Dlq) -> None:
    result = dlq(*args)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("ravenctl: ")
