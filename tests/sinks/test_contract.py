"""The contract of stores, and every store of the registry held to it against the real servers."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravencore import codec
from ravencore.codec import load_schema, pinned_schemas
from ravencore.config import Settings
from ravencore.records import RECORDS, Record
from ravencore.topics import TOPICS
from sinks.contract import Read, Refused, Store, StoreUnavailable, keep_good
from sinks.registry import STORES
from tests.sinks.rig import CODEC, Cuttable, Probe, reads, until


@given(st.lists(st.booleans(), max_size=60))
def test_exactly_the_bad_rows_are_refused_and_the_others_kept(good: list[bool]) -> None:
    kept: set[int] = set()

    def attempt(rows: Sequence[tuple[int, bool]]) -> None:
        if not all(is_good for _, is_good in rows):
            raise Refused("bad")
        kept.update(number for number, _ in rows)

    refused = keep_good(list(enumerate(good)), attempt)

    assert [number for (number, _), _ in refused] == [number for number, is_good in enumerate(good) if not is_good]
    assert kept == {number for number, is_good in enumerate(good) if is_good}


def test_one_bad_row_costs_few_attempts() -> None:
    attempts = []

    def attempt(rows: Sequence[int]) -> None:
        attempts.append(len(rows))
        if 3333 in rows:
            raise Refused("bad")

    assert keep_good(range(5000), attempt) == [(3333, "bad")]
    assert len(attempts) < 30


def test_a_store_that_refuses_every_row_is_asked_once() -> None:
    attempts = []

    def attempt(rows: Sequence[int]) -> None:
        attempts.append(rows)
        raise Refused("too old", every_row=True)

    assert keep_good([1, 2, 3], attempt) == [(1, "too old"), (2, "too old"), (3, "too old")]
    assert len(attempts) == 1


@pytest.mark.parametrize("name", STORES)
def test_a_store_reads_topics_that_exist_and_states_its_guarantee(name: str) -> None:
    store = STORES[name](Settings())
    assert store.name == name
    assert set(store.topics) <= {topic.name for topic in TOPICS}
    guarantee = type(store).__doc__ or ""
    assert "At least once" in guarantee
    assert "the key is" in guarantee


def hold(store: Store, records: Sequence[Record]) -> None:
    """Take over what the records are in, as the drain does."""
    for topic, partition in {read[:2] for read in reads(records)}:
        store.resume(topic, partition)


@pytest.mark.stack
@pytest.mark.parametrize("name", STORES)
def test_written_twice_is_written_once_and_read_back_equal(
    name: str, settings: Settings, probes: dict[str, Probe], symbol: str
) -> None:
    store, probe = STORES[name](settings), probes[name]
    records = probe.records(symbol, 500)
    store.setup()
    store.setup()
    hold(store, records)
    for batch in (reads(records), reads(records), reads(records)[100:300]):
        assert store.write(batch) == ([], [])
    store.close()

    expected = probe.expected(records)
    until(lambda: len(probe.kept(symbol)) >= len(expected), "all rows are there")
    assert probe.kept(symbol) == expected


@pytest.mark.stack
@pytest.mark.parametrize("name", STORES)
def test_a_poisoned_record_is_refused_alone(
    name: str, settings: Settings, probes: dict[str, Probe], symbol: str
) -> None:
    store, probe = STORES[name](settings), probes[name]
    records = probe.records(symbol, 200)
    poison = probe.poison(symbol)
    store.setup()
    hold(store, records)
    outcome = store.write(reads([*records[:120], poison, *records[120:]]))
    store.close()

    assert [(CODEC.decode(bad.read.value), bad.read.offset, bad.reason) for bad in outcome.refused] == [
        (poison, 120, "refused_by_store")
    ]
    assert not outcome.waiting
    expected = probe.expected(records)
    until(lambda: len(probe.kept(symbol)) >= len(expected), "the rest is there")
    assert probe.kept(symbol) == expected


@pytest.mark.stack
@pytest.mark.parametrize("name", STORES)
def test_a_store_that_is_cut_off_says_so_and_takes_the_batch_afterwards(
    name: str, settings: Settings, probes: dict[str, Probe], symbol: str, cuttable: Callable[[str, int], Cuttable]
) -> None:
    probe = probes[name]
    behind, proxy = probe.behind(settings, cuttable)
    store = STORES[name](behind)
    records = probe.records(symbol, 60)
    proxy.cut()
    with pytest.raises(StoreUnavailable):
        store.setup()
    proxy.mend()
    store.setup()
    hold(store, records)
    assert store.write(reads(records)[:30]) == ([], [])
    proxy.cut()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.write(reads(records))
    proxy.mend()
    assert store.write(reads(records)) == ([], [])
    store.close()

    expected = probe.expected(records)
    until(lambda: len(probe.kept(symbol)) >= len(expected), "everything arrived")
    assert probe.kept(symbol) == expected


FEE = {
    "name": "fee",
    "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 18}],
    "default": None,
}
FEE_OF_5 = b"\2\2\5"


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Read], Read]:
    """What was read, as a release to come will write it: with a field that nobody knows yet."""
    pinned = dict(pinned_schemas())
    first = max(pinned) + 1
    to_come = {
        first + number: {**schema, "fields": [*schema["fields"], FEE]}
        for number, schema in enumerate(load_schema(f"{record.SCHEMA}.avsc") for record in RECORDS)
    }
    monkeypatch.setattr(codec, "pinned_schemas", lambda: pinned | to_come)
    ids = {schema["name"]: number for number, schema in to_come.items()}

    def written_later(read: Read) -> Read:
        name = codec.Codec().writer_schema(read.value)["name"]
        header = codec.MAGIC + ids[name].to_bytes(4, "big")
        return read._replace(value=header + read.value[codec.HEADER_BYTES :] + FEE_OF_5)

    return written_later


@pytest.mark.stack
@pytest.mark.parametrize("name", STORES)
def test_a_new_field_neither_stops_nor_loses_anything(
    name: str, settings: Settings, probes: dict[str, Probe], symbol: str, newer: Callable[[Read], Read]
) -> None:
    store, probe = STORES[name](settings), probes[name]
    records = probe.records(symbol, 500)
    batch = reads(records)
    store.setup()
    hold(store, records)
    assert store.write([read if number < 200 else newer(read) for number, read in enumerate(batch)]) == ([], [])
    store.close()

    expected = probe.expected(records)
    until(lambda: len(probe.kept(symbol)) >= len(expected), "all rows are there")
    kept = {
        identity: {name: row[name] for name in row if name != "fee"} for identity, row in probe.kept(symbol).items()
    }
    assert kept == expected
