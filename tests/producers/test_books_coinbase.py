"""Coinbase's books and past trades: by the channel's rules, over any loss of frames, and over the recording."""

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from producers.books.coinbase import CoinbaseBook
from producers.contract import BookUpdate, Count, Feed, HasBooks, HasHistory, OutOfStep, Receipt, Reply, Span
from producers.protocols.coinbase import NOT_LISTED
from producers.venues.coinbase import Coinbase
from producers.venues.coinbase_books import CoinbaseBooks
from ravencore.records import Book, Level, Trade
from tests.producers.recorded import CONNECTION_US, Line, digest, lines, refused, units, utc_us
from tests.producers.truth import Change, Levels, Truth, histories, journeys

BOOKS, COINBASE = CoinbaseBooks(), Coinbase()
RECORDING = Path("coinbase_at") / "cf_btc_eth_20260809_part1.frames.zst"
NOW_US = 1_900_000_000_000_000
ONE = 10**18


def frame(number: int, kind: str, changes: list[Change]) -> bytes:
    updates = [
        {
            "side": "bid" if change.is_bid else "offer",
            "event_time": "2026-08-09T21:05:48.27841Z",
            "price_level": f"{Decimal(change.price) / 10:f}",
            "new_quantity": f"{Decimal(change.quantity) / 1000:f}",
        }
        for change in changes
    ]
    event = {"type": kind, "product_id": "BTC-USD", "updates": updates}
    return json.dumps({"channel": "l2_data", "sequence_num": number, "events": [event]}).encode()


def read(raw: bytes) -> tuple[Count, BookUpdate]:
    count, update = BOOKS.parse(raw, Receipt(NOW_US))
    assert isinstance(count, Count)
    assert isinstance(update, BookUpdate)
    return count, update


def whole(number: int, truth: Truth) -> bytes:
    sides = ((True, truth.bids), (False, truth.asks))
    return frame(number, "snapshot", [Change(is_bid, *level) for is_bid, side in sides for level in side.items()])


def same(book: CoinbaseBook, truth: Truth) -> bool:
    return book.top(99) == tuple(held(side) for side in truth.top(99))


def held(levels: Levels) -> list[tuple[int, int]]:
    return [(price * ONE // 10, quantity * ONE // 1000) for price, quantity in levels]


# Rules


def test_a_change_before_the_whole_book_is_of_no_use() -> None:
    book = CoinbaseBook()
    assert (book.in_step, book.wants_snapshot, book.last, book.event_time) == (False, False, None, None)
    with pytest.raises(OutOfStep) as broken:
        book.update(read(frame(7, "update", [Change(True, 1, 1)]))[1])
    assert (broken.value.cause, book.in_step) == ("SEQUENCE", False)
    assert book.update(read(whole(8, Truth({2: 5}, {})))[1])
    assert (book.in_step, book.event_time) == (True, 1786309548278410)


def test_a_second_whole_book_takes_the_place_of_the_first() -> None:
    book = CoinbaseBook()
    book.update(read(whole(1, Truth({2: 5}, {3: 1})))[1])
    assert book.whole(read(whole(2, Truth({1: 5}, {})))[1])
    assert same(book, Truth({1: 5}, {}))


def test_a_frame_that_comes_twice_or_late_sets_no_level_back() -> None:
    book = CoinbaseBook()
    steps = [
        whole(3, Truth({2: 5}, {})),
        frame(4, "update", [Change(True, 1, 1)]),
        frame(9, "update", [Change(True, 1, 7)]),
    ]
    assert [book.update(read(step)[1]) for step in [*steps, *steps]] == [True, True, True, False, False, True]
    assert same(book, Truth({2: 5, 1: 7}, {}))
    assert book.last is None


def test_a_whole_book_that_comes_twice_is_no_change() -> None:
    book, start = CoinbaseBook(), read(whole(3, Truth({2: 5}, {})))[1]
    assert [book.update(start), book.update(start)] == [True, False]
    assert same(book, Truth({2: 5}, {}))


def test_a_new_connection_counts_anew() -> None:
    book = CoinbaseBook()
    book.update(read(whole(9, Truth({2: 5}, {})))[1])
    assert book.update(replace(read(whole(0, Truth({3: 1}, {})))[1], connection_time=1))
    assert same(book, Truth({3: 1}, {}))


class Session(NamedTuple):
    """What a session does with Counts: after a number beyond the next one, the book is to be told anew."""

    book: CoinbaseBook
    last: int | None

    def take(self, raw: bytes) -> "Session":
        count, update = read(raw)
        if self.last is not None and count.number > self.last + 1:
            raise OutOfStep("SEQUENCE", "frames are lost")
        self.book.update(update)
        return Session(self.book, max(count.number, self.last or 0))


@given(st.data())
def test_a_book_in_step_is_the_true_one_whatever_frames_are_lost(data: st.DataObject) -> None:
    history = data.draw(histories())
    messages = [frame(number, "update", list(changes)) for number, (changes, _) in enumerate(history)]
    messages[0] = whole(0, history[0][1])
    session, renewed = Session(CoinbaseBook(), None), False
    for number in data.draw(journeys(len(history))):
        try:
            session = session.take(whole(number, history[number][1]) if renewed else messages[number])
        except OutOfStep:
            session, renewed = Session(CoinbaseBook(), None), True
        else:
            assert session.last is not None
            assert session.book.in_step
            assert same(session.book, history[session.last][1])
            renewed = False


# The recording


class Best(NamedTuple):
    """Best bid and ask with their quantities, and when the venue said so."""

    time_us: int
    bid: tuple[int, int]
    ask: tuple[int, int]


def test_the_recorded_books_are_folded_to_their_end(recordings: Path) -> None:
    """Against a fold of the raw frames by dicts; the numbers of all frames follow each other."""
    books = {symbol: BOOKS.sequencer(symbol) for symbol in ("BTC-USD", "ETH-USD")}
    slow: dict[str, dict[str, dict[int, int]]] = {symbol: {"bid": {}, "offer": {}} for symbol in books}
    told, published, last = Counter[str](), [], -1
    for line in lines(recordings / RECORDING):
        assert line.frame["sequence_num"] == last + 1
        last += 1
        if line.frame["channel"] != "l2_data":
            continue
        count, *updates = BOOKS.parse(line.raw, line.receipt)
        assert count == Count(last)
        for update, event in zip(updates, line.frame["events"], strict=True):
            assert isinstance(update, BookUpdate)
            assert update.event_time == max(map(utc_us, {change["event_time"] for change in event["updates"]}))
            book, sides = books[update.symbol], slow[update.symbol]
            assert book.update(update)
            slow_fold(sides, event)
            told[f"{update.symbol} {event['type']}"] += 1
            if sum(told.values()) % 64 == 0:
                assert book.top(20) == slow_top(sides)
            published.append(as_record(update, *book.top(20)))
    assert told == {"BTC-USD snapshot": 1, "ETH-USD snapshot": 1, "BTC-USD update": 228, "ETH-USD update": 218}
    assert digest(published) == "53e947579ed0c329"


def slow_fold(sides: dict[str, dict[int, int]], event: Any) -> None:
    for change in event["updates"]:
        price, quantity = (int(Decimal(change[name]).scaleb(18)) for name in ("price_level", "new_quantity"))
        sides[change["side"]][price] = quantity
        if not quantity:
            del sides[change["side"]][price]


def slow_top(sides: dict[str, dict[int, int]]) -> tuple[Levels, Levels]:
    return sorted(sides["bid"].items(), reverse=True)[:20], sorted(sides["offer"].items())[:20]


def as_record(update: BookUpdate, bids: Levels, asks: Levels) -> Book:
    return Book(
        venue="COINBASE",
        symbol=update.symbol,
        event_time=update.event_time,
        received_time=update.received_time,
        source="MAINTAINED",
        bids=tuple(Level(*level) for level in bids),
        asks=tuple(Level(*level) for level in asks),
        connection_time=CONNECTION_US,
        connection_sequence=update.connection_sequence,
    )


def test_the_recorded_tickers_name_the_best_of_the_books(recordings: Path) -> None:
    """Of the 94 tickers after the first books, 89 say what was best within one change of it, quantities and all.

    Tickers come each quarter of a second, books in batches: the other five were of a moment between two batches.
    """
    best: dict[str, list[Best]] = {"BTC-USD": [], "ETH-USD": []}
    tickers: list[tuple[str, Best]] = []
    books = {symbol: BOOKS.sequencer(symbol) for symbol in best}
    for line in lines(recordings / RECORDING):
        if line.frame["channel"] == "l2_data":
            _, update = BOOKS.parse(line.raw, line.receipt)
            assert isinstance(update, BookUpdate)
            books[update.symbol].update(update)
            (bid,), (ask,) = books[update.symbol].top(1)
            best[update.symbol].append(Best(utc_us(line.frame["timestamp"]), bid, ask))
        elif line.frame["channel"] == "ticker":
            tickers += named_best(line)
    told = Counter(
        near(best[symbol], ticker) for symbol, ticker in tickers if ticker.time_us >= best[symbol][0].time_us
    )
    assert told == {True: 89, False: 5}


def named_best(line: Line) -> list[tuple[str, Best]]:
    time_us = utc_us(line.frame["timestamp"])
    return [
        (
            data["product_id"],
            Best(
                time_us,
                (units(data["best_bid"]), units(data["best_bid_quantity"])),
                (units(data["best_ask"]), units(data["best_ask_quantity"])),
            ),
        )
        for event in line.frame["events"]
        for data in event["tickers"]
    ]


def near(books: list[Best], ticker: Best) -> bool:
    at = sum(book.time_us <= ticker.time_us for book in books) - 1
    return any(book[1:] == ticker[1:] for book in books[max(at - 1, 0) : at + 2])


def test_the_other_recorded_frames(recordings: Path) -> None:
    told: Counter[str] = Counter()
    for line in lines(recordings / RECORDING):
        channel = line.frame["channel"]
        if channel in {"ticker", "market_trades", "candles"}:
            assert refused(BOOKS, line) == f"channel {channel!r} is none that Raven subscribes to"
        elif channel == "heartbeats":
            assert BOOKS.parse(line.raw, line.receipt) == (Count(line.frame["sequence_num"]),)
        elif channel == "subscriptions":
            _, reply = BOOKS.parse(line.raw, line.receipt)
            products = line.frame["events"][0]["subscriptions"].get("level2", ())
            assert reply == Reply(None, None, tuple(Feed("books", product) for product in products), NOT_LISTED)
        told[channel] += 1
    assert told["subscriptions"] == 5


def test_books_are_asked_for_one_by_one(recordings: Path) -> None:
    assert isinstance(BOOKS, HasBooks)
    assert (BOOKS.limits.feeds_per_connection, BOOKS.limits.feeds_per_message) == (1, 1)
    sent = [line.frame for line in lines(recordings / "coinbase_at" / "cf_btc_eth_20260809_client_sends.frames.zst")]
    (level2,) = [request for request in sent if request["channel"] == "level2"]
    feeds = [Feed("books", symbol) for symbol in ("BTC-USD", "ETH-USDC")]
    assert json.loads(BOOKS.subscribe(feeds, 1)) == level2
    assert json.loads(BOOKS.unsubscribe(feeds, 1)) == level2 | {"type": "unsubscribe"}
    assert json.loads(BOOKS.greeting(1) or "") == {"type": "subscribe", "channel": "heartbeats"}


# Past trades


def test_past_trades_are_asked_for_by_whole_seconds_around_them() -> None:
    assert isinstance(COINBASE, HasHistory)
    url = "https://api/api/v3/brokerage/market/products/BTC-USD/ticker?limit=1000"
    span = Span(1068571992, 1068571999, 1786309548167634, 1786309549000000)
    assert COINBASE.history("https://api/", "BTC-USDC", span).url == f"{url}&start=1786309548&end=1786309550"
    assert COINBASE.history("https://api", "BTC-USD", span._replace(last=None)).url == f"{url}&start=1786309548"
    assert COINBASE.history("https://api", "BTC-USD", Span(1, 2, None, None)).url == url


def test_the_recorded_trades_are_the_same_in_an_answer(recordings: Path) -> None:
    """The channel's objects as an answer's, newest first: the same records in the same order."""
    compared = 0
    for line in lines(recordings / RECORDING):
        if line.frame["channel"] == "market_trades":
            for event in json.loads(line.raw)["events"]:
                (symbol,) = {trade["product_id"] for trade in event["trades"]}
                body = json.dumps({"trades": event["trades"], "best_bid": "1", "best_ask": "2"}).encode()
                _, *told = COINBASE.parse(line.raw, line.receipt)
                mine = [trade for trade in told if isinstance(trade, Trade) and trade.symbol == symbol]
                past = COINBASE.past(symbol, body, line.receipt)
                assert [trade for trade in mine if trade in past] == past
                compared += len(past)
    assert compared == 257
