"""The cache: newest wins in any order, no two series share a key, windows are bounded, what is wrong is one line."""

import json
import random
import re
import socket
import threading
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravencore.config import RedisSettings, Settings
from ravencore.errors import ConfigError
from ravencore.records import Bar, Record, ServiceStatus
from ravencore.status import now_us
from ravencore.topics import QUOTES, VPIN
from sinks.contract import Read, Refused, StoreUnavailable
from sinks.reading import Entry, Tables
from sinks.stores.cache import CHANNEL, HEALTH, Cache
from sinks.stores.cache_values import SERIES, Order, coalesce, encoded, keys, leading, order_of
from tests.sinks.probe_redis import KINDS, RedisProbe, mid, quote, surface
from tests.sinks.rig import CODEC, T0, House, bar, reads, trade, until, vpin

NAMES = st.text("AB:_-/ ", min_size=1, max_size=4)
LONGS = st.integers(0, 2**63 - 1)


def entries(records: Sequence[Record]) -> list[Entry]:
    return [Entry(read, record) for read, record in zip(reads(records), records, strict=True)]


@given(st.lists(st.tuples(LONGS, LONGS, LONGS), min_size=2, max_size=2))
def test_orders_compare_as_texts_as_they_do_as_numbers(two: list[tuple[int, int, int]]) -> None:
    one, other = (Order(*numbers) for numbers in two)
    assert (str(one) < str(other)) == (one < other)
    assert len(str(one)) == 48


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=60), st.randoms())
def test_a_batch_comes_to_the_same_in_any_order(drawn: list[tuple[int, int]], rng: random.Random) -> None:
    batch = entries([KINDS[kind]("S", number) for kind, number in drawn])
    shuffled = rng.sample(batch, len(batch))
    assert coalesce(shuffled, 10) == coalesce(batch, 10)


SMALL = st.integers(-1, 3)


def made_of(cls: type[Record], name: str, other: str, time: int, number: int) -> Record:
    match cls.__name__:
        case "Bar":
            return bar(name, 1, venue=other, profile=name or "p", close_time=time, bar_seq=number)
        case "Vpin":
            return vpin(name, 1, venue=other, profile=f"{time}", close_time=time, bar_seq=number)
        case _:
            event_time, sequence = (time, None) if number % 2 else (None, number)
            return quote(
                name, 1, venue=other, event_time=event_time, received_time=time, sequence=sequence,
                connection_sequence=number,
            )  # fmt: skip


@pytest.mark.parametrize("cls", SERIES)
@given(drawn=st.lists(st.tuples(NAMES, NAMES, SMALL, SMALL), min_size=1, max_size=40))
def test_what_is_not_decoded_would_change_nothing(cls: type[Record], drawn: list[tuple[str, str, int, int]]) -> None:
    records = [made_of(cls, *one) for one in drawn]
    batch = reads(records)
    (some,), torn = Tables(CODEC).made(cls, batch, partial(leading, cls=cls))
    assert torn == []
    by_offset = {entry.read.offset: entry for entry in entries(records)}
    all_of_it, of_some = coalesce(by_offset.values(), 10), coalesce([by_offset[read.offset] for read in some], 10)
    assert of_some.values == all_of_it.values
    assert of_some.refused == all_of_it.refused


def test_of_many_records_only_the_newest_are_decoded() -> None:
    batch = reads([bar(f"S{number % 3}", number) for number in range(600)])
    (some,), _ = Tables(CODEC).made(Bar, batch, partial(leading, cls=Bar))
    assert [read.offset for read in some] == [597, 598, 599]


@given(st.lists(st.tuples(NAMES, NAMES, NAMES, NAMES), min_size=2, max_size=2))
def test_two_series_never_share_a_key(two: list[tuple[str, str, str, str]]) -> None:
    found: list[tuple[Any, str]] = []
    for venue, symbol, third, fourth in two:
        series: list[tuple[Any, Record]] = [
            (("bar", venue, symbol, third, fourth), bar(symbol, 1, venue=venue, kind=third, profile=fourth)),
            (("mid", third), mid("S", 1, pair=third)),
            (("iv", venue, symbol, third), surface("S", 1, venue=venue, underlying=symbol, price_currency=third)),
            (("bbo", venue, fourth), quote(symbol, 1, venue=venue)),
        ]
        for name, record in series:
            found += [(name, key) for key in allowed(Entry(Read("t", 0, 0, fourth.encode(), b""), record))]
    by_key: dict[str, Any] = {}
    for name, key in found:
        assert by_key.setdefault(key, name) == name


def allowed(entry: Entry) -> Sequence[str]:
    try:
        return keys(entry)
    except Refused:
        return ()


def test_the_keys_are_those_that_are_documented() -> None:
    usdc = surface("BTC", 1, venue="DERIBIT", price_currency="USDC")
    records = [mid("BTC", 1), quote("BTC", 1), usdc, bar("BTC", 1), vpin("BTC", 1)]
    assert [key for entry in entries(records) for key in keys(entry)] == [
        "md:v1:spot_mid:BTC-USDT",
        "md:v1:spot_bbo:VENUE:BTC-USDT",
        "md:v1:iv_surface:DERIBIT:BTC_USDC:20261225T080000Z",
        "md:v1:iv_surface:DERIBIT:BTC_USDC:20270326T080000Z",
        "md:v1:bar:tib:tib_small:VENUE:BTC",
        "md:v1:vpin:VENUE:BTC",
    ]


def test_a_quote_without_a_pair_has_no_key_and_is_no_dead_letter() -> None:
    nameless = [Entry(Read(QUOTES, 0, n, key, b""), quote("S", n)) for n, key in enumerate([None, b"VENUE:S"])]
    latest = coalesce(nameless, 10)
    assert (latest.values, latest.refused) == ({}, [])


@pytest.mark.parametrize(
    "record",
    [
        bar("S", 1, close_time=-1),
        bar("A:B", 1),
        mid("S", 1, pair=""),
        mid("S", 1, time=0),
        surface("S", 1, underlying="A_B"),
        trade("S", 1),
        quote("S", 1, sequence=-1),
    ],
    ids=lambda record: type(record).__name__,
)
def test_what_has_no_place_is_refused(record: Record) -> None:
    (refused,) = coalesce([Entry(Read("t", 0, 0, b"S-USDT", b""), record)], 10).refused
    assert refused.reason == "refused_by_store"


def test_a_quote_is_as_new_as_its_venue_says_and_else_as_it_came() -> None:
    late, early = (
        quote("S", 1, event_time=T0 + 9, received_time=T0),
        quote("S", 2, event_time=T0, received_time=T0 + 99),
    )
    assert order_of(entries([late])[0]) > order_of(entries([early])[0])
    assert order_of(entries([quote("S", 2)])[0]) > order_of(entries([quote("S", 1)])[0])


def test_a_window_takes_the_newest_mids_of_a_batch() -> None:
    batch = entries([mid("S", number) for number in (5, 3, 9, 1, 3)])
    (mids,) = coalesce(batch, 3).windows.values()
    assert [one.time - T0 for one in mids] == [3_000_000, 5_000_000, 9_000_000]


def test_values_are_the_wire_s_fields_after_their_order() -> None:
    (found,) = encoded(coalesce(entries([bar("S", 3)]), 10).values)
    value = json.loads(found[1])
    assert list(value) == ["order", *bar("S", 3).__struct_fields__]
    assert (value["volume"], value["close_time"]) == ("3.000000000000000003", bar("S", 3).close_time)


def status(instance: str, reported_s: int, **changes: Any) -> ServiceStatus:
    fields = {
        "service": "engine", "instance": instance, "host": "h", "pid": 1, "version": "0.1.0", "state": "RUNNING",
        "started_time": T0, "reported_time": T0 + reported_s * 1_000_000,
    }  # fmt: skip
    return ServiceStatus(**{**fields, **changes})


@pytest.fixture
def probe(settings: Settings) -> RedisProbe:
    return RedisProbe(settings)


@pytest.mark.stack
@pytest.mark.parametrize("seed", range(3))
def test_newest_wins_over_shuffles_replays_and_two_writers(
    seed: int, settings: Settings, probe: RedisProbe, symbol: str
) -> None:
    rng = random.Random(seed)
    records = [one for one in probe.records(symbol, 300) if one.SCHEMA != "spot_mid"]
    batch = reads(records)
    shuffled = rng.sample(batch, len(batch)) + rng.sample(batch, len(batch))
    parts = [shuffled[start : start + 40] for start in range(0, len(shuffled), 40)]

    def write(some: Sequence[Sequence[Read]]) -> None:
        with closing(Cache(settings)) as store:
            for part in some:
                assert store.write(part) == ([], [])

    writers = [threading.Thread(target=write, args=(parts[n::2],)) for n in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert probe.kept(symbol) == probe.expected(records)


@pytest.mark.stack
def test_an_older_record_changes_nothing_and_says_nothing(settings: Settings, probe: RedisProbe, symbol: str) -> None:
    told = probe.client.pubsub(ignore_subscribe_messages=True)
    told.subscribe(CHANNEL)
    until(lambda: probe.client.pubsub_numsub(CHANNEL)[0][1], "it listens")
    key = f"md:v1:vpin:VENUE:{symbol}"
    with closing(Cache(settings)) as store:
        store.write(reads([vpin(symbol, 7)]))
        probe.client.expire(key, 1000)
        store.write(reads([vpin(symbol, 7), vpin(symbol, 6)]))
        assert probe.client.ttl(key) <= 1000, "not written again"
        store.write(reads([vpin(symbol, 8)]))
        assert 1000 < probe.client.ttl(key) <= settings.redis.ttl_s
    heard: list[str] = []

    def both() -> bool:
        message = told.get_message(timeout=1)
        heard.extend([message["data"]] if message and symbol in message["data"] else [])
        return len(heard) == 2

    until(both, "two messages")
    assert heard == [key, key]
    assert probe.kept(symbol)[key]["bar_seq"] == 8


@pytest.mark.stack
def test_a_window_is_bounded_and_takes_nothing_twice_or_late(
    settings: Settings, probe: RedisProbe, symbol: str
) -> None:
    small = settings.model_copy(update={"redis": settings.redis.model_copy(update={"window": 50})})
    key = f"md:v1:spot_mid:{symbol}-USDT:window"
    with closing(Cache(small)) as store:
        for start in range(0, 1000, 20):
            store.write(reads([mid(symbol, number) for number in range(start, start + 20)]))
        kept = probe.client.xrange(key)
        store.write(reads([mid(symbol, number) for number in range(1000)]))
        assert probe.client.xrange(key) == kept
    numbers = [int(fields["time"]) // 1_000_000 - T0 // 1_000_000 for _, fields in kept]
    assert numbers == list(range(1000 - len(numbers), 1000))
    assert 50 <= len(numbers) < 250
    assert probe.client.ttl(key) > 0


@pytest.mark.stack
def test_a_redis_that_was_emptied_is_given_all_again(settings: Settings) -> None:
    own, client = another_database(settings, 10)
    records = RedisProbe(own).records("S", 60)
    with closing(Cache(own)) as store:
        store.write(reads(records))
        before = {key: client.get(key) for key in client.scan_iter("md:v1:*:*") if "window" not in key}
        client.flushdb()
        store.write(reads([mid("LATER", 1)]))
        after = {key: client.get(key) for key in before}
    assert len(before) == 7
    assert after == before


@pytest.mark.stack
def test_health_has_each_instance_and_forgets_those_that_fell_silent(settings: Settings, symbol: str) -> None:
    own, client = another_database(settings, 9, ttl_s=60)
    said = [status("a", 0), status("b", 30), status("a", 50, state="FAILED", last_error="no"), status("b", 20)]
    with closing(Cache(own)) as store:
        store.write(reads(said))
        found = {name: json.loads(value) for name, value in client.hgetall(HEALTH).items()}
        assert {name: (one["state"], one["reported_time"] - T0) for name, one in found.items()} == {
            "a": ("FAILED", 50_000_000),
            "b": ("RUNNING", 30_000_000),
        }
        assert list(found["a"])[1:] == [
            *("service", "instance", "host", "pid", "version", "state"),
            *("started_time", "reported_time", "last_error", "last_error_time"),
        ]
        store.write(reads([status("a", 100)]))
        store.write(reads([status("b", 30)]))
        assert client.hkeys(HEALTH) == ["a"]


@pytest.mark.stack
def test_a_clock_that_is_ahead_drives_no_other_instance_out(settings: Settings) -> None:
    own, client = another_database(settings, 10, ttl_s=60)
    now_s = (now_us() - T0) // 1_000_000
    with closing(Cache(own)) as store:
        store.write(reads([status("ahead", now_s + 86_400)]))
        store.write(reads([status("right", now_s)]))
        assert sorted(client.hkeys(HEALTH)) == ["ahead", "right"]


def another_database(settings: Settings, number: int, **changes: Any) -> tuple[Settings, Any]:
    """Settings of a database of a test's own, and it."""
    url = settings.redis.url.get_secret_value().removesuffix("/0") + f"/{number}"
    own = settings.model_copy(update={"redis": RedisSettings(url=url, **changes)})
    client = RedisProbe(own).client
    client.flushdb()
    return own, client


def trouble(settings: Settings, **changes: Any) -> str:
    """What a store with these settings says at its start."""
    store = Cache(settings.model_copy(update={"redis": RedisSettings(**changes)}))
    with pytest.raises(StoreUnavailable) as raised:
        store.setup()
    return str(raised.value)


@pytest.mark.stack
def test_what_is_wrong_is_one_line_without_the_password(settings: Settings) -> None:
    url = settings.redis.url.get_secret_value()
    where = url.rpartition("@")[2]
    guessed = trouble(settings, url=f"redis://:hunter2@{where}")
    assert guessed.startswith(f"Redis is off, {where}: ")
    assert guessed.endswith("correct the user and password in RAVEN_REDIS__URL")
    nobody = trouble(settings, url=f"redis://{where}")
    assert "correct the user and password" in nobody
    no_database = trouble(settings, url=re.sub("/0$", "/99", url))
    assert "out of range" in no_database
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nothing = trouble(settings, url=f"redis://:hunter2@127.0.0.1:{port}/0")
    assert "start it, or name another in RAVEN_REDIS__URL" in nothing
    assert not [line for line in (guessed, nobody, no_database, nothing) if "\n" in line or "hunter2" in line]


@pytest.mark.stack
def test_a_user_who_may_not_write_is_told(settings: Settings, probe: RedisProbe) -> None:
    where = settings.redis.url.get_secret_value().rpartition("@")[2]
    probe.client.execute_command("ACL", "SETUSER", "looks", "on", ">hunter2", "~md:v1:*", "+ping", "+get")
    try:
        refused = trouble(settings, url=f"redis://looks:hunter2@{where}")
    finally:
        probe.client.acl_deluser("looks")
    assert refused.endswith("let its user run EVAL and INFO and write md:v1:*")


def test_an_address_with_an_option_that_is_none_is_told() -> None:
    with pytest.raises(ConfigError, match=r"RAVEN_REDIS__URL is no address, .* Invalid value for 'socket_timeout'"):
        Cache(Settings(redis=RedisSettings(url="redis://localhost:6379/0?socket_timeout=soon")))


@pytest.mark.stack
def test_a_server_that_is_something_else_is_told(settings: Settings, stack: Any) -> None:
    where = stack.questdb_url.removeprefix("http://")
    assert "RAVEN_REDIS__URL" in trouble(settings, url=f"redis://{where}/0")


@pytest.mark.stack
def test_a_full_redis_says_so_and_what_to_do(settings: Settings, probe: RedisProbe, symbol: str) -> None:
    before = probe.client.config_get("maxmemory*")
    try:
        probe.client.config_set("maxmemory-policy", "noeviction")
        probe.client.config_set("maxmemory", 1)
        with closing(Cache(settings)) as store, pytest.raises(StoreUnavailable, match="raise its maxmemory") as raised:
            store.write(reads([vpin(symbol, 1)]))
        assert len(str(raised.value)) < 300
    finally:
        for name in ("maxmemory", "maxmemory-policy"):
            probe.client.config_set(name, before[name])
    with closing(Cache(settings)) as store:
        assert store.write(reads([vpin(symbol, 1)])) == ([], [])


@pytest.mark.stack
def test_after_a_long_outage_only_the_newest_are_read(house: House, cuttable: Any) -> None:
    probe = house.probes["redis"]
    behind, proxy = probe.behind(house.settings, cuttable)
    behind = behind.model_copy(update={"redis": behind.redis.model_copy(update={"tail_records": 500})})
    running = house.start("redis", behind)
    house.topics.send(vpin(house.symbol, 0))
    until(lambda: probe.kept(house.symbol), "the first is there")
    proxy.cut()
    house.topics.send(vpin(house.symbol, 1))
    until(lambda: (now := running.status()) and now.state == "DEGRADED", "DEGRADED")
    house.topics.send(*(vpin(house.symbol, number) for number in range(2, 30_000)))
    key = f"md:v1:vpin:VENUE:{house.symbol}"
    behind_topic = f"{VPIN}-"
    until(
        lambda: (
            (now := running.status())
            and any(name.startswith(behind_topic) and lag > 25_000 for name, lag in now.lag.items())
        ),
        "lag is known",
    )
    proxy.mend()
    until(lambda: probe.kept(house.symbol)[key]["bar_seq"] == 29_999, "the newest is there")
    now = until(lambda: (now := running.status()) and not any(now.lag.values()) and now, "all is committed")
    assert now.counters["passed_over"] > 20_000
    assert now.counters["records"] + now.counters["passed_over"] >= 30_000
    assert "records that had piled up are passed over" in running.log()
