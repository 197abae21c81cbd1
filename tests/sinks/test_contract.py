"""The contract of stores, and every store of the registry held to it against the real servers."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravencore.config import Settings
from ravencore.topics import TOPICS
from sinks.contract import Refused, StoreUnavailable, keep_good
from sinks.registry import STORES
from tests.sinks.rig import Cuttable, Probe, entries, until


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


@pytest.mark.stack
@pytest.mark.parametrize("name", STORES)
def test_written_twice_is_written_once_and_read_back_equal(
    name: str, settings: Settings, probes: dict[str, Probe], symbol: str
) -> None:
    store, probe = STORES[name](settings), probes[name]
    records = probe.records(symbol, 500)
    store.setup()
    store.setup()
    for batch in (entries(records), entries(records), entries(records)[100:300]):
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
    outcome = store.write(entries([*records[:120], poison, *records[120:]]))
    store.close()

    assert [(bad.entry.record, bad.entry.offset, bad.reason) for bad in outcome.refused] == [
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
    assert store.write(entries(records)[:30]) == ([], [])
    proxy.cut()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.write(entries(records))
    proxy.mend()
    assert store.write(entries(records)) == ([], [])
    store.close()

    expected = probe.expected(records)
    until(lambda: len(probe.kept(symbol)) >= len(expected), "everything arrived")
    assert probe.kept(symbol) == expected
