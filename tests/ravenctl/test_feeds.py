"""What was sent of a feed, held against what is in Kafka: every way to differ is noticed, and nothing else is."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.contract import BOOKS, KLINES, OPTION_TICKERS, QUOTES, TRADES
from producers.registry import SOURCES
from ravencore.records import Book, Kline, Level, MarketRecord, Quote
from ravenctl.feeds import Digests, Ids, Ledger, Name, Row, Sent, compare, identity_of, seen, source_of
from simulator.books import digest
from tests.ravenctl.made import TIME, trade

FEED = Name("KRAKEN", TRADES)
numbers = st.lists(st.integers(0, 20), max_size=30)
distinct = st.sets(st.integers(0, 20)).map(sorted)


def there(*ids: int) -> Ids:
    found = Ids()
    for number in ids:
        found.add(trade(number))
    return found


def row(sent: Sent, kept: Ids, *gaps: tuple[int, int], name: Name = FEED, cold: str = "", away: bool = False) -> Row:
    return compare(name, {"X": sent}, {"X": kept}, Ledger(named={"X": gaps}, cold=cold, broke_off=away))


def sent(*ids: int, repeated: tuple[int, ...] = (), withheld: tuple[int, ...] = ()) -> Sent:
    return Sent(len(ids) + len(withheld), len(ids) + len(repeated), ids, repeated, withheld)


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


def test_of_two_answers_to_a_poll_the_exchange_counts_one() -> None:
    polled = Name("BINANCE_OPTIONS", OPTION_TICKERS)
    assert row(Sent(2, 2, ()), Ids(3), name=polled).verdict == "each once, 1 as often as they came"
    assert row(Sent(2, 2, ()), Ids(1), name=polled).missing == 1


def test_a_record_without_an_id_among_others_was_never_sent() -> None:
    assert row(sent(1), Ids(2, there(1).numbers)).strange == 1


@given(distinct, st.sets(st.integers(0, 20)), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=3))
def test_a_trade_that_nobody_was_sent_must_be_named_by_a_gap(
    made: list[int], lost: set[int], gaps: list[tuple[int, int]]
) -> None:
    """The exchange would tell it over REST: `open` is what nobody has fetched."""
    came, withheld = [one for one in made if one not in lost], [one for one in made if one in lost]
    found = row(sent(*came, withheld=tuple(withheld)), there(*came), *gaps)
    assert found.withheld == found.open == sum(any(low <= one <= high for low, high in gaps) for one in withheld)
    assert found.missing == len(withheld) - found.withheld
    assert (found.issued, found.sent, found.once) == (len(made), len(came), len(came))


def test_what_was_before_a_cold_start_is_named_by_its_gap() -> None:
    before = sent(3, 4, withheld=(1, 2))
    assert row(before, there(3, 4), cold="X").withheld == 2
    assert row(before, there(3, 4)).missing == 2
    assert row(sent(1, 2, withheld=(3,)), there(1, 2), cold="X").missing == 1


def test_records_that_came_after_later_ones_are_counted() -> None:
    assert row(sent(1, 2, 3, 4, 5), there(1, 4, 2, 3, 5)).late == 2
    assert row(sent(1, 2, 3), there(1, 2, 3)).late == 0


def test_what_a_collector_missed_while_it_was_away_is_fetched_or_named() -> None:
    """Trades are fetched by the one that comes after it; of other feeds a Gap says that there was something."""
    assert row(sent(1, 2, 3), there(1), away=True).missing == 2
    assert row(sent(1, 2, 3), there(1), (2, 3), away=True).in_gaps == 2
    assert row(sent(1, 2, 3), there(1, 3), name=Name("KRAKEN", QUOTES), away=True).in_gaps == 1
    assert row(sent(1, 2, 3), there(1, 3), name=Name("KRAKEN", QUOTES)).missing == 1
    assert not row(sent(1, 2), there(1, 1, 2), name=Name("BINANCE_FUTURES", KLINES), away=True).kept
    assert row(Sent(2, 2, ()), Ids(1), name=Name("KRAKEN", QUOTES), away=True).in_gaps == 1


# Books that Raven keeps

KEPT = Name("KRAKEN", BOOKS)
DIGESTS = {1: "a", 2: "b", 3: "b"}
"""The exchange's own after each of three changes; the last was below the top."""


def books(*kept: tuple[int, str], digests: Digests = DIGESTS) -> Row:
    return compare(KEPT, {}, {"X": Ids(len(kept), kept=list(kept))}, Ledger(renewed=2), {"X": digests})


def test_kept_books_may_leave_out_some_but_end_as_the_exchanges_own() -> None:
    for found in (books((1, "a"), (2, "b")), books((2, "b")), books((3, "b"), (3, "b"))):
        assert found.kept
        assert (found.symbols, found.issued, found.sent) == (1, 3, None)
        assert found.verdict == "kept by Raven, each the exchange's own, begun anew 2 times"
    assert books((1, "a"), (2, "b")).once == 2


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (books((1, "x"), (2, "b")), "1 wrong: X at 1"),
        (books((4, "b")), "1 wrong: X at 4"),
        (books((1, "a")), "1 missing: X is not the exchange's last book"),
        (books(), "1 missing: X is not the exchange's last book"),
        (books((1, "a"), digests={}), "1 wrong: X at 1"),
    ],
)
def test_a_kept_book_that_is_not_the_exchanges_own_is_noticed(found: Row, says: str) -> None:
    assert not found.kept
    assert found.verdict == says


def test_books_that_the_exchange_has_forgotten_are_not_held_against_it() -> None:
    found = books((1, "?"), (3, "b"), digests={2: "b", 3: "b"})
    assert (found.kept, found.once) == (True, 1)


def test_books_told_by_differences_that_were_recorded_are_only_counted() -> None:
    found = books((1, "a"), (2, "b"), digests=None)
    assert (found.kept, found.once, found.kept_books) == (True, 2, 0)
    assert found.verdict.startswith("kept by Raven, with nothing to hold them against")


def test_a_printed_book_where_one_is_kept_was_never_sent() -> None:
    found = compare(KEPT, {}, {"X": Ids(2, kept=[(3, "b")])}, Ledger(), {"X": DIGESTS})
    assert found.strange == 1


def kept_book(sequence: int | None, *bids: Level) -> Book:
    return Book(
        venue="KRAKEN",
        symbol="X",
        event_time=TIME,
        received_time=TIME + 1,
        sequence=sequence,
        source="MAINTAINED",
        bids=bids,
        asks=(),
    )


def test_a_kept_book_is_known_by_its_last_update_and_what_it_holds() -> None:
    ids = Ids()
    ids.add(kept_book(7, Level(5 * 10**17, 10**18)))
    ids.add(kept_book(None))
    assert ids.kept == [(7, digest([("0.50", "1")], [])), (TIME, digest([], []))]
    assert (ids.records, len(ids.numbers)) == (2, 0)


def test_printed_and_kept_books_of_one_feed_are_told_apart() -> None:
    spot = Name("BINANCE_SPOT", BOOKS)
    kept = {"X": there(1, 2), "Y": Ids(1, kept=[(3, "b")])}
    found = compare(spot, {"X": sent(1, 2), "Y": Sent(9, 0, ())}, kept, Ledger(), {"Y": DIGESTS})
    assert (found.kept, found.sent, found.once, found.kept_books) == (True, 2, 3, 1)
    assert found.verdict == "each once, kept by Raven, each the exchange's own"


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
        (row(sent(1, withheld=(2, 3)), there(1), (2, 3)), "each once, 2 in Gaps"),
        (row(sent(withheld=(2,)), Ids(), (2, 2)), "each once, 1 in Gaps"),
    ],
)
def test_the_verdict_says_what_does_not_hold(found: Row, says: str) -> None:
    assert found.verdict == says


def test_of_a_real_exchange_only_trades_can_be_seen_twice() -> None:
    assert seen(FEED, {"X": there(1, 2)}, Ledger()).kept
    assert seen(FEED, {"X": there(1, 2, 2)}, Ledger()).twice == 1
    assert seen(Name("KRAKEN", QUOTES), {"X": there(1, 2, 2)}, Ledger()).kept


def test_of_a_real_exchange_the_ledger_tells_what_was_fetched() -> None:
    found = seen(FEED, {"X": there(1, 3, 2)}, Ledger(repaired=1))
    assert (found.verdict, found.late) == ("each once, 1 fetched over REST", 1)


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
