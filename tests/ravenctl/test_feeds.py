"""What was sent of a feed, held against what is in Kafka: every way to differ is noticed, and nothing else is."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.contract import QUOTES, TRADES
from producers.registry import SOURCES
from ravencore.records import Book, Kline, MarketRecord, Quote
from ravenctl.feeds import Ids, Name, Row, Sent, compare, identity_of, seen, source_of
from tests.ravenctl.made import TIME, trade

FEED = Name("KRAKEN", TRADES)
numbers = st.lists(st.integers(0, 20), max_size=30)
distinct = st.sets(st.integers(0, 20)).map(sorted)


def there(*ids: int) -> Ids:
    found = Ids()
    for number in ids:
        found.add(trade(number))
    return found


def row(sent: Sent, kept: Ids, *gaps: tuple[int, int], broke_off: bool = False) -> Row:
    return compare(FEED, {"X": sent}, {"X": kept}, {"X": gaps}, broke_off=broke_off)


def sent(*ids: int, repeated: tuple[int, ...] = ()) -> Sent:
    return Sent(len(ids), len(ids) + len(repeated), ids, repeated)


@given(distinct, st.randoms(use_true_random=False))
def test_what_is_there_once_holds_in_whatever_order_it_came(ids: list[int], random: object) -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    found = row(sent(*ids), there(*shuffled))
    assert found.kept
    assert (found.issued, found.sent, found.once) == (len(ids), len(ids), len(ids))


@given(distinct, numbers)
def test_every_id_is_once_missing_twice_or_was_never_sent(ids: list[int], kept: list[int]) -> None:
    counts = Counter(kept)
    found = row(sent(*ids), there(*kept))
    assert found.once == sum(counts[number] == 1 for number in ids)
    assert found.missing == sum(counts[number] == 0 for number in ids)
    assert found.twice == sum(counts[number] > 1 for number in ids)
    assert found.strange == len(counts.keys() - set(ids))
    assert found.kept == (sorted(kept) == ids)


@given(distinct, numbers, st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=3))
def test_what_gaps_name_is_not_missing(ids: list[int], kept: list[int], gaps: list[tuple[int, int]]) -> None:
    found = row(sent(*ids), there(*kept), *gaps)
    absent = [number for number in ids if number not in kept]
    assert found.in_gaps == sum(any(low <= number <= high for low, high in gaps) for number in absent)
    assert found.missing == len(absent) - found.in_gaps


def test_what_a_venue_itself_sent_again_may_be_there_again() -> None:
    assert row(sent(1, 2, repeated=(2,)), there(1, 2, 2)).kept
    assert row(sent(1, 2, repeated=(2,)), there(1, 2)).kept
    assert row(sent(1, 2, repeated=(2,)), there(1, 2, 2)).again == 1
    assert row(sent(1, 2, repeated=(2,)), there(1, 1, 2)).twice == 1


@pytest.mark.parametrize(
    ("kept", "wrong"), [(there(1, 2), ""), (there(1), "1 missing"), (there(1, 2, 3), "1 twice"), (Ids(), "2 missing")]
)
def test_records_without_ids_are_counted(kept: Ids, wrong: str) -> None:
    uncounted = Ids(kept.records)
    found = row(Sent(2, 2, ()), uncounted)
    assert found.kept == (not wrong)
    assert wrong in found.verdict


def test_a_record_without_an_id_among_others_was_never_sent() -> None:
    assert row(sent(1), Ids(2, there(1).numbers)).strange == 1


def test_what_a_collector_missed_while_it_was_away_is_named_by_its_gap() -> None:
    """Of trades beyond the last one nobody knows; those between two others must be named."""
    found = row(sent(1, 2, 3), there(1), broke_off=True)
    assert (found.kept, found.in_gaps) == (True, 2)
    assert row(sent(1, 2, 3), there(1, 3), broke_off=True).missing == 1
    assert row(sent(1, 2), Ids(), broke_off=True).in_gaps == 2
    assert not row(sent(1, 2), there(1, 1, 2), broke_off=True).kept
    assert row(Sent(2, 2, ()), Ids(1), broke_off=True).in_gaps == 1
    quotes = compare(Name("KRAKEN", QUOTES), {"X": sent(1, 2, 3)}, {"X": there(1, 3)}, {}, broke_off=True)
    assert (quotes.kept, quotes.in_gaps) == (True, 1)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (row(sent(1, 2), there(1, 2)), "each once"),
        (row(sent(1, 2), there(1), (2, 2)), "each once, 1 in Gaps"),
        (row(sent(1, 2), there(1)), "1 missing: X 2 is missing"),
        (row(sent(1, 2), there(1, 2, 2)), "1 twice: X 2 is there twice"),
        (row(sent(1), there(1, 5)), "1 never sent: X 5 was never sent"),
        (row(sent(), Ids()), "nothing was sent"),
        (row(Sent(3, 0, ()), Ids()), "none of 3 was sent to us"),
        (row(Sent(3, 2, (1, 2)), there(1, 2)), "each once, 1 not sent to us"),
    ],
)
def test_the_verdict_says_what_does_not_hold(found: Row, says: str) -> None:
    assert found.verdict == says


def test_of_a_real_exchange_only_trades_can_be_seen_twice() -> None:
    assert seen(FEED, {"X": there(1, 2)}).kept
    assert seen(FEED, {"X": there(1, 2, 2)}).twice == 1
    assert seen(Name("KRAKEN", QUOTES), {"X": there(1, 2, 2)}).kept


@pytest.mark.parametrize(
    ("record", "number"),
    [
        (trade(7), 7),
        (Book(venue="V", symbol="S", received_time=1, sequence=5, source="VENUE_SNAPSHOT", bids=(), asks=()), 5),
        (Quote(venue="V", symbol="S", received_time=1, event_time=TIME, sequence=6), 6),
        (Quote(venue="V", symbol="S", received_time=1, event_time=TIME), TIME),
        (Quote(venue="V", symbol="S", received_time=1), None),
        (
            Kline(venue="V", symbol="S", event_time=9, received_time=1, interval="1m", open_time=60, close_time=120,
                  open=1, high=1, low=1, close=1, volume=1, quote_volume=1, trade_count=1, taker_buy_volume=1,
                  taker_buy_quote_volume=1),
            60,
        ),
    ],
)  # fmt: skip
def test_what_tells_a_record_apart(record: MarketRecord, number: int | None) -> None:
    assert identity_of(record) == number


def test_every_channel_of_a_venue_comes_from_one_source() -> None:
    named = [(Name(source.venue, channel), source.name) for source in SOURCES.values() for channel in source.channels]
    assert len({name for name, _ in named}) == len(named)
    assert all(source_of(name) == source for name, source in named)
