"""Binance's books: by the rules one by one, under any loss, order and lateness, and over recordings to their end."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from producers.actions import FetchBook, Habits
from producers.books.binance import HELD_UPDATES, TOP, BinanceBook, BinanceFuturesBook, BinanceSpotBook
from producers.contract import BOOKS, BookUpdate, Feed, HasHistory, HasSnapshots, OutOfStep, Receipt, Sequencer, Span
from producers.registry import SOURCES, configured
from producers.session import Session
from producers.venues.binance_futures import BinanceFutures
from producers.venues.binance_spot import BinanceSpot
from ravencore.config import BinanceSpotSettings, VenuesSettings
from ravencore.records import Book, Level
from tests.producers.made import SYMBOL, URL, Driver, reply_frame, us
from tests.producers.recorded import digest, units

Levels = Sequence[tuple[int, int]]
BOTH = pytest.mark.parametrize("rules", [BinanceSpotBook, BinanceFuturesBook])
SPOT, FUTURES = BinanceSpot(["*"]), BinanceFutures(["*"])
EACH = pytest.mark.parametrize("source", [SPOT, FUTURES], ids=["spot", "futures"])


def changed(first: int, last: int, previous: int, bids: Levels = (), asks: Levels = ()) -> BookUpdate:
    return made(False, bids, asks, first=first, last=last, previous=previous, event_time=last * 1000)


def snapshot(last: int, bids: Levels = (), asks: Levels = ()) -> BookUpdate:
    return made(True, bids, asks, last=last, event_time=last * 1000)


def begun(book: BinanceBook, start: BookUpdate) -> BinanceBook:
    """A book that has held an update which is in the snapshot, and then taken that."""
    assert start.last is not None
    assert not book.update(changed(start.last, start.last, start.last - 1))
    assert book.whole(start)
    return book


def made(whole: bool, bids: Levels, asks: Levels, **ids: Any) -> BookUpdate:
    return BookUpdate(symbol="BTCUSDT", whole=whole, received_time=1, bids=bids, asks=asks, **ids)


# The rules, one by one


@BOTH
def test_a_book_begins_with_a_snapshot_and_goes_on_with_what_follows_it(rules: type[BinanceBook]) -> None:
    book: Sequencer = rules()
    assert (book.wants_snapshot, book.in_step, book.last) == (False, False, None)
    assert not book.whole(snapshot(25)), "nothing is held yet"
    assert not book.update(changed(11, 20, 10, [(5, 1)]))
    assert (book.wants_snapshot, book.in_step) == (True, False)
    assert not book.update(changed(21, 30, 20, [(6, 2)], [(9, 4)]))
    assert book.whole(snapshot(25, [(5, 1), (4, 7)], [(9, 3)]))
    assert (book.wants_snapshot, book.in_step, book.last, book.event_time) == (False, True, 30, 30_000)
    assert book.top(2) == ([(6, 2), (5, 1)], [(9, 4)])
    assert book.update(changed(31, 40, 30, [(6, 0), (1, 0)]))
    assert (book.top(20), book.last) == (([(5, 1), (4, 7)], [(9, 4)]), 40)


@BOTH
def test_a_snapshot_before_the_first_update_is_of_no_use(rules: type[BinanceBook]) -> None:
    book = rules()
    book.update(changed(11, 20, 10, [(5, 1)]))
    assert not book.whole(snapshot(9))
    assert (book.wants_snapshot, book.in_step) == (True, False)
    assert book.whole(snapshot(10)), "which the first update follows"


@BOTH
def test_a_snapshot_beyond_all_that_came_is_the_book(rules: type[BinanceBook]) -> None:
    book = rules()
    book.update(changed(11, 20, 10, [(5, 1)]))
    assert book.whole(snapshot(33, [(7, 7)]))
    assert (book.top(20), book.last, book.event_time) == (([(7, 7)], []), 33, 33_000)
    assert not book.update(changed(21, 33, 20, [(8, 8)])), "it is in the snapshot"
    assert book.update(changed(34, 40, 33, [(7, 0)]))


def test_the_first_update_of_futures_may_begin_within_the_snapshot_but_no_later_one() -> None:
    book = begun(BinanceFuturesBook(), snapshot(33))
    assert book.update(changed(30, 40, 20))
    with pytest.raises(OutOfStep) as broken:
        book.update(changed(35, 50, 34))
    assert (broken.value.cause, str(broken.value)) == ("SEQUENCE", "update 35 does not follow 40")


def test_ids_of_futures_leave_room_but_an_update_names_the_one_before() -> None:
    book = begun(BinanceFuturesBook(), snapshot(33))
    assert book.update(changed(37, 40, 33)), "it follows the update that the snapshot ends with"
    assert book.update(changed(49, 50, 40))
    with pytest.raises(OutOfStep):
        book.update(changed(51, 60, 49))


def test_ids_of_spot_leave_no_room() -> None:
    book = begun(BinanceSpotBook(), snapshot(33))
    assert book.update(changed(30, 35, 0)), "an overlap changes nothing that is not so"
    assert book.update(changed(36, 40, 0))
    with pytest.raises(OutOfStep):
        book.update(changed(42, 50, 0))


@BOTH
def test_a_broken_book_starts_anew_with_what_broke_it(rules: type[BinanceBook]) -> None:
    book = begun(rules(), snapshot(10, [(5, 1)]))
    with pytest.raises(OutOfStep):
        book.update(changed(16, 20, 15, [(6, 6)]))
    assert (book.wants_snapshot, book.in_step, book.last, book.event_time) == (True, False, None, None)
    assert book.top(20) == ([], [])
    assert not book.whole(snapshot(14)), "it was on its way before the break"
    assert book.whole(snapshot(15, [(5, 2)]))
    assert book.top(20) == ([(6, 6), (5, 2)], [])


@BOTH
def test_what_comes_twice_or_late_changes_nothing(rules: type[BinanceBook]) -> None:
    book = begun(rules(), snapshot(10))
    steps = [changed(11, 15, 10, [(5, 1)]), changed(16, 20, 15, [(5, 2)])]
    assert [book.update(step) for step in [*steps, *steps]] == [True, True, False, False]
    assert not book.whole(snapshot(12)), "nobody asked"
    assert (book.top(20), book.last) == (([(5, 2)], []), 20)


@BOTH
def test_what_is_held_need_not_be_in_order(rules: type[BinanceBook]) -> None:
    book = rules()
    for step in (changed(16, 20, 15, [(5, 2)]), changed(11, 15, 10, [(5, 1)]), changed(16, 20, 15, [(5, 2)])):
        assert not book.update(step)
    assert book.whole(snapshot(10))
    assert (book.top(20), book.last) == (([(5, 2)], []), 20)


@BOTH
def test_a_hole_in_what_is_held_needs_a_snapshot_from_behind_it(rules: type[BinanceBook]) -> None:
    book = rules()
    book.update(changed(11, 15, 10))
    book.update(changed(21, 25, 20))
    assert not book.whole(snapshot(12))
    assert book.whole(snapshot(20))
    assert book.last == 25


@BOTH
def test_so_many_updates_are_held_and_no_more(rules: type[BinanceBook]) -> None:
    book = rules()
    for number in range(1, HELD_UPDATES + 11):
        book.update(changed(number, number, number - 1, [(number, 1)]))
    assert not book.whole(snapshot(9)), "the update after it is forgotten"
    assert book.whole(snapshot(10))
    assert (book.last, book.top(1)[0]) == (HELD_UPDATES + 10, [(HELD_UPDATES + 10, 1)])


@EACH
def test_a_snapshot_is_asked_for_once_an_update_is_held(source: Any) -> None:
    """As the rules have it: one of before the stream was open would be published, and break with the first update."""
    session = Session(source, URL, Habits(0.5))
    session.want(Feed(BOOKS, SYMBOL), {})
    driver = Driver(session, answers=False)
    driver.connect()
    driver.advance(1.0)
    driver.frame(reply_frame(1))
    driver.advance(1.0)
    assert len(driver.sent) == 1
    assert driver.orders == []
    data = {"e": "depthUpdate", "E": 1_700_000_000_000, "T": 1_700_000_000_000, "s": SYMBOL}
    data |= {"U": 11, "u": 20, "b": [["5", "1"]], "a": []} | ({"pu": 10} if source is FUTURES else {})
    driver.frame(json.dumps({"stream": "btcusdt@depth@100ms", "data": data}).encode())
    fetch = FetchBook(Feed(BOOKS, SYMBOL))
    assert driver.orders == [fetch]
    body = {"lastUpdateId": 15, "E": 1_700_000_000_000, "T": 1_700_000_000_000, "bids": [], "asks": [["9", "1"]]}
    (book,) = session.books.told(fetch, json.dumps(body).encode(), us(driver.now), driver.now)
    assert isinstance(book, Book)
    assert book.sequence == 20


# Levels that a snapshot does not tell


class ShortBook(BinanceSpotBook):
    """Of a venue whose snapshots are short."""

    snapshot_levels = 60


def short(lowest_bid: int, last: int) -> BookUpdate:
    """A snapshot that is cut off: there are bids below."""
    return snapshot(last, [(price, 1) for price in range(lowest_bid + 59, lowest_bid - 1, -1)], [(1000, 1)])


def ended(price: int, number: int) -> BookUpdate:
    return changed(number, number, number - 1, [(price, 0)])


def test_another_snapshot_is_wanted_before_the_known_levels_run_out() -> None:
    book = begun(ShortBook(), short(100, 10))
    for number in range(11, 42):
        assert book.wants_snapshot is (number > 41)
        assert book.update(ended(170 - number, number))
    assert (book.wants_snapshot, book.in_step) == (True, True)
    assert not book.whole(short(70, 40)), "it would set the book back"
    assert book.update(changed(42, 42, 41, [(150, 9)])), "it goes on meanwhile"
    assert not book.whole(short(70, 40)), "it does not lead on to what is held"
    assert (book.wants_snapshot, book.last, book.top(1)[0]) == (True, 42, [(150, 9)])
    assert book.whole(short(69, 41))
    assert (book.wants_snapshot, book.last) == (False, 42)
    assert book.top(3)[0] == [(150, 9), (128, 1), (127, 1)]


def test_a_book_whose_best_levels_are_not_all_known_is_given_up() -> None:
    book = begun(ShortBook(), short(100, 10))
    book.update(changed(11, 11, 10, [(50, 1), (49, 1)]))
    for number in range(12, 52):
        assert book.update(ended(171 - number, number))
    assert len(book.top(TOP)[0]) == TOP
    with pytest.raises(OutOfStep) as given_up:
        book.update(ended(119, 52))
    assert (given_up.value.cause, book.in_step, book.wants_snapshot) == ("UNKNOWN", False, True)
    assert book.whole(short(60, 52))


def test_a_book_that_was_told_to_its_end_may_be_short() -> None:
    book = begun(ShortBook(), snapshot(10, [(5, 1), (4, 1)], [(9, 1)]))
    for number, price in ((11, 5), (12, 4)):
        assert book.update(ended(price, number))
    assert (book.in_step, book.wants_snapshot, book.top(20)) == (True, False, ([], [(9, 1)]))


# Under any loss, order and lateness


@dataclass
class Market:
    """A true book: its state after each id, and the updates that tell of it."""

    states: dict[int, tuple[dict[int, int], dict[int, int]]]
    updates: list[BookUpdate]

    def top(self, last: int) -> tuple[Levels, Levels]:
        bids, asks = self.states[last]
        return sorted(bids.items(), reverse=True)[:TOP], sorted(asks.items())[:TOP]

    def snapshot(self, last: int) -> BookUpdate:
        bids, asks = self.states[last]
        return snapshot(last, sorted(bids.items(), reverse=True), sorted(asks.items()))


CHANGES = st.tuples(st.booleans(), st.integers(1, 12), st.sampled_from([0, 0, 1, 2, 3]))


@st.composite
def markets(draw: st.DrawFn, room: bool) -> Market:
    """Batches of changes; with `room`, ids are left out between them, as those of other symbols are in futures."""
    bids: dict[int, int] = {}
    asks: dict[int, int] = {}
    market = Market({100: ({}, {})}, [])
    last = 100
    for batch in draw(st.lists(st.lists(CHANGES, max_size=4), min_size=2, max_size=25)):
        previous, first = last, last + 1 + (draw(st.integers(0, 3)) if room else 0)
        told: tuple[dict[int, int], dict[int, int]] = ({}, {})
        last = first + max(len(batch), 1) - 1
        market.states[first] = dict(bids), dict(asks)
        for number, (is_bid, price, quantity) in enumerate(batch, first):
            side, news = (bids, told[0]) if is_bid else (asks, told[1])
            news[price] = quantity
            if quantity:
                side[price] = quantity
            else:
                side.pop(price, None)
            market.states[number] = dict(bids), dict(asks)
        market.updates.append(changed(first, last, previous, *(list(side.items()) for side in told)))
    return market


class Comes(NamedTuple):
    """An update that comes, or a snapshot that does, of `id`."""

    update: BookUpdate | None
    id: int


@st.composite
def deliveries(draw: st.DrawFn, market: Market) -> list[Comes]:
    """The updates with some lost, doubled and out of order, and snapshots of any age among them."""
    delivered: list[Comes] = []
    for update in market.updates:
        copies = draw(st.sampled_from([1, 1, 1, 1, 1, 1, 1, 0, 2]))
        delivered += [Comes(update, 0)] * copies
        ids = sorted(market.states)
        if draw(st.booleans()):
            delivered.append(Comes(None, draw(st.sampled_from(ids))))
    for at in draw(st.lists(st.integers(0, max(len(delivered) - 2, 0)), max_size=2)):
        delivered[at : at + 2] = reversed(delivered[at : at + 2])
    return delivered


@BOTH
@given(st.data())
def test_a_book_in_step_is_the_true_one_whatever_comes(rules: type[BinanceBook], data: st.DataObject) -> None:
    market = data.draw(markets(room=rules is BinanceFuturesBook))
    book = rules()
    heard = False
    for one in data.draw(deliveries(market)):
        before = book.top(TOP), book.last
        heard = heard or one.update is not None
        try:
            moved = book.update(one.update) if one.update else book.whole(market.snapshot(one.id))
        except OutOfStep:
            moved = False
            before = ([], []), None
        assert book.wants_snapshot is (heard and not book.in_step)
        assert moved or (book.top(TOP), book.last) == before
        if book.in_step:
            assert book.last is not None
            assert book.top(TOP) == market.top(book.last)
            assert book.event_time == book.last * 1000
    newest = market.updates[-1].last
    assert newest is not None
    if book.wants_snapshot:
        assert book.whole(market.snapshot(newest)), "a fresh snapshot brings it back in step"
    assert book.in_step is heard
    assert book.last is None or book.top(TOP) == market.top(book.last)


@BOTH
@given(st.data())
def test_without_a_loss_nothing_is_out_of_step(rules: type[BinanceBook], data: st.DataObject) -> None:
    market = data.draw(markets(room=rules is BinanceFuturesBook))
    begin = data.draw(st.integers(1, len(market.updates) - 1))
    book = rules()
    for update in market.updates[:begin]:
        book.update(update)
    known = market.updates[begin].previous
    assert known is not None
    assert book.whole(market.snapshot(known))
    for update in market.updates[begin:]:
        assert book.update(update)
        assert not any(book.update(again) for again in market.updates[:begin])
        assert book.last == update.last
        assert book.top(TOP) == market.top(book.last or 0)


# Which books are kept, and what is asked for


@EACH
def test_the_books_of_chosen_symbols_are_kept(source: Any) -> None:
    some = type(source)(["BTCUSDT"])
    for chosen in (source, some):
        assert isinstance(chosen, HasSnapshots)
        assert isinstance(chosen, HasHistory)
        assert isinstance(chosen.sequencer("BTCUSDT"), BinanceBook)
        assert chosen.sequencer("BTCUSDT") is not chosen.sequencer("BTCUSDT")
    assert source.sequencer("ETHUSDT") is not None
    assert some.sequencer("ETHUSDT") is None
    asked = some.subscribe([Feed(BOOKS, "BTCUSDT"), Feed(BOOKS, "ETHUSDT")], 1)
    assert '["btcusdt@depth@100ms","ethusdt@depth20@100ms"]' in asked
    assert some.unsubscribe([Feed(BOOKS, "BTCUSDT")], 2) == (
        '{"method":"UNSUBSCRIBE","params":["btcusdt@depth@100ms"],"id":2}'
    )


def test_the_settings_say_which() -> None:
    venues = VenuesSettings(BINANCE_SPOT=BinanceSpotSettings(maintained_books=["BTCUSDT"]))
    sources = configured(venues)
    assert list(sources) == list(SOURCES)
    kept = {
        name for name, source in sources.items() if isinstance(source, HasSnapshots) and source.sequencer("BTCUSDT")
    }
    assert "BINANCE_SPOT" in kept
    assert "BINANCE_FUTURES" not in kept
    assert all(sources[name] is SOURCES[name] for name in SOURCES if not name.startswith("BINANCE"))


def test_books_and_past_trades_are_asked_for_where_they_are() -> None:
    spot, futures = BinanceSpot(), BinanceFutures()
    assert spot.snapshot("https://api/", "A&B") == ("https://api/api/v3/depth?symbol=A%26B&limit=5000", 250, ())
    assert futures.snapshot("https://fapi/", "BTCUSDT") == (
        "https://fapi/fapi/v1/depth?symbol=BTCUSDT&limit=1000",
        20,
        (),
    )
    assert spot.history("https://api/", "BTCUSDT", Span(5, 7, None, None)) == (
        "https://api/api/v3/historicalTrades?symbol=BTCUSDT&fromId=5&limit=3",
        25,
        (("X-MBX-TIME-UNIT", "MICROSECOND"),),
    )
    assert futures.history("https://fapi/", "BTCUSDT", Span(5, 2004, 1, 2)) == (
        "https://fapi/fapi/v1/aggTrades?symbol=BTCUSDT&fromId=5&limit=1000",
        20,
        (),
    )
    assert futures.history("https://fapi", "BTCUSDT", Span(5, None, None, None)).url.endswith("&fromId=5&limit=1000")


# Recordings, to their end


class BoundlessBook(BinanceFuturesBook):
    """One that takes a snapshot for all there is, to go on where a recording has no second one."""

    snapshot_levels = 10**6


class Fold(NamedTuple):
    """What became of a book over a recording: at how many ids bookTicker has the same best bid and ask, or others."""

    agreed: int
    differed: list[int]
    broken: list[str]


def frames(paths: Sequence[Path]) -> Iterator[tuple[Receipt, bytes]]:
    for path in paths:
        with zstandard.open(path, "rb") as recording:
            for line in recording.read().splitlines():
                received_ns, _, raw = line.partition(b"\t")
                yield Receipt(int(received_ns) // 1000), raw


def tickers(paths: Sequence[Path]) -> dict[int, Any]:
    """What bookTicker says of the best bid and ask, by the id of the last change."""
    shown = (json.loads(raw)["data"] for _, raw in frames(paths) if b"@bookTicker" in raw[:60])
    return {data["u"]: data for data in shown}


def fold(source: HasSnapshots, book: Sequencer, paths: Sequence[Path], start: Path) -> Fold:
    """Keep a book by a recording's differences, from the snapshot that was taken beside it."""
    ((snapped, body),) = frames([start])
    whole: BookUpdate | None = source.whole_book("", body, snapped)
    told, result = tickers(paths), Fold(0, [], [])
    for receipt, raw in frames(paths):
        if b"@depth@" not in raw[:60]:
            continue
        (update,) = source.parse(raw, receipt)
        assert isinstance(update, BookUpdate)
        try:
            book.update(update)
        except OutOfStep as broken:
            result.broken.append(f"{broken.cause}: {broken}")
        if whole is not None and receipt.received_us >= snapped.received_us:
            assert book.whole(whole)
            whole = None
        if book.in_step and book.last in told:
            (bid,), (ask,) = book.top(1)
            if [*bid, *ask] == [units(told[book.last][name]) for name in "bBaA"]:
                result = result._replace(agreed=result.agreed + 1)
            else:
                result.differed.append(book.last)
    return result


def fingerprint(book: Sequencer) -> str:
    sides = ([Level(*level) for level in side] for side in book.top(TOP))
    bids, asks = map(tuple, sides)
    top = Book(venue="", symbol="", received_time=0, sequence=book.last, source="MAINTAINED", bids=bids, asks=asks)
    assert len(bids) == len(asks) == TOP
    assert bids[0].price < asks[0].price
    return digest([top])


@pytest.mark.parametrize(
    ("source", "rules", "files", "agreed", "final"),
    [
        (SPOT, BinanceSpotBook, ["binance_spot/hft_btcusdt_20240808"], 564, "830261259a325932"),
        (SPOT, BinanceSpotBook, ["binance_spot/hft_ethusdt_20240808"], 577, "a81e8c1d7e1a762f"),
        (FUTURES, BoundlessBook, ["binance_usdm/hft_btcusdt_20240808"], 629, "0ec0ff95409dfcd7"),
        (
            FUTURES,
            BinanceFuturesBook,
            ["binance_usdm/hft_btcusdt_20230404", "binance_usdm/hft_btcusdt_20230405"],
            1565,
            "464031c5541b385e",
        ),
    ],
)
def test_a_recording_has_no_hole_and_ends_in_this_book(
    recordings: Path, source: HasSnapshots, rules: type[BinanceBook], *, files: list[str], agreed: int, final: str
) -> None:
    book = rules()
    paths = [recordings / f"{file}.frames.zst" for file in files]
    assert fold(source, book, paths, recordings / f"{files[0]}.rest_depth.frames.zst") == (agreed, [], [])
    assert fingerprint(book) == final


def test_a_fall_of_bitcoin_leaves_the_only_snapshot_behind(recordings: Path) -> None:
    folder, name = recordings / "binance_usdm", "hft_btcusdt_20240808"
    book = BinanceFuturesBook()
    result = fold(FUTURES, book, [folder / f"{name}.frames.zst"], folder / f"{name}.rest_depth.frames.zst")
    assert result == (386, [], ["UNKNOWN: prices have left the 1000 levels of the snapshot behind"])
    assert book.wants_snapshot


@pytest.mark.parametrize(
    ("source", "file", "stream", "spelt"),
    [
        (
            SPOT,
            "binance_spot/hft_btcusdt_20240808",
            b"@trade",
            {"id": "t", "price": "p", "qty": "q", "time": "T", "isBuyerMaker": "m", "isBestMatch": "M"},
        ),
        (
            FUTURES,
            "binance_usdm/cf_alts_20210722",
            b"@aggTrade",
            {name: name for name in "apqflTm"},
        ),
    ],
)
def test_a_past_trade_is_the_one_that_the_stream_printed(
    recordings: Path, source: HasHistory, *, file: str, stream: bytes, spelt: dict[str, str]
) -> None:
    printed = [raw for _, raw in frames([recordings / f"{file}.frames.zst"]) if stream in raw[:60]][:90]
    receipt = Receipt(1_800_000_000_000_000, 1, 2)
    assert printed
    for raw in printed:
        data = json.loads(raw)["data"]
        told = json.dumps([{name: data[field] for name, field in spelt.items()}]).encode()
        assert source.past(data["s"], told, receipt) == list(source.parse(raw, receipt))
