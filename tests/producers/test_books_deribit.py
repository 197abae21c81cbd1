"""Deribit's books and past trades: by the channel's rules, over any loss, order and repetition, and over recordings."""

import json
from collections import Counter
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from producers.books.deribit import DeribitBook
from producers.booktape import BookTape
from producers.contract import BookUpdate, Feed, HasBooks, HasHistory, OutOfStep, Receipt, Reply, Span
from producers.protocols.deribit import NOT_LISTED
from producers.routing import venue_symbol
from producers.tape import Break
from producers.venues.deribit_books import DeribitBooks
from producers.venues.deribit_trades import DeribitTrades
from ravencore.records import Book, Gap, Level
from tests.producers.recorded import CONNECTION_US, digest, lines, refused, units
from tests.producers.truth import Change, Levels, Truth, histories, journeys

BOOKS, TRADES = DeribitBooks(), DeribitTrades()
NOW_US = 1_900_000_000_000_000
ONE = 10**18


def frame(kind: str, ids: tuple[int | None, int], changes: list[Change]) -> bytes:
    sides: dict[bool, list[Any]] = {True: [], False: []}
    for change in changes:
        action = "new" if change.quantity else "delete"
        sides[change.is_bid].append([action, float(Decimal(change.price) / 10), float(change.quantity)])
    previous, last = ids
    data = {"type": kind, "timestamp": 1_700_000_000_000 + last, "instrument_name": "BTC-PERPETUAL"}
    data |= {"change_id": last, "bids": sides[True], "asks": sides[False]}
    data |= {} if previous is None else {"prev_change_id": previous}
    params = {"channel": "book.BTC-PERPETUAL.100ms", "data": data}
    return json.dumps({"jsonrpc": "2.0", "method": "subscription", "params": params}).encode()


def update(kind: str, ids: tuple[int | None, int], changes: list[Change]) -> BookUpdate:
    (event,) = BOOKS.parse(frame(kind, ids, changes), Receipt(NOW_US))
    assert isinstance(event, BookUpdate)
    return event


def whole(last: int, truth: Truth) -> BookUpdate:
    sides = ((True, truth.bids), (False, truth.asks))
    changes = [Change(is_bid, *level) for is_bid, side in sides for level in side.items()]
    return update("snapshot", (None, last), changes)


def held(levels: Levels) -> list[tuple[int, int]]:
    return [(price * ONE // 10, quantity * ONE) for price, quantity in levels]


# Rules


def test_a_change_follows_the_one_that_it_names() -> None:
    book = DeribitBook()
    assert (book.in_step, book.wants_snapshot, book.last) == (False, False, None)
    assert book.update(whole(10, Truth({5: 1}, {9: 2})))
    assert book.update(update("change", (10, 17), [Change(True, 6, 3), Change(False, 9, 0)]))
    assert (book.in_step, book.last, book.event_time) == (True, 17, 1_700_000_000_017_000)
    assert book.top(20) == (held([(6, 3), (5, 1)]), [])


def test_a_lost_change_is_found_and_only_a_whole_book_begins_anew() -> None:
    book = DeribitBook()
    book.update(whole(10, Truth({5: 1}, {})))
    late = update("change", (12, 17), [Change(True, 6, 3)])
    with pytest.raises(OutOfStep, match="a change after 12 came where 10 was the last") as broken:
        book.update(late)
    assert (broken.value.cause, book.in_step, book.last, book.top(20)) == ("SEQUENCE", False, None, ([], []))
    with pytest.raises(OutOfStep, match="before the book"):
        book.update(late)
    assert book.update(whole(17, Truth({6: 3}, {})))
    assert book.in_step


def test_what_comes_twice_is_passed_over() -> None:
    book = DeribitBook()
    book.update(whole(10, Truth({5: 1}, {})))
    steps = [update("change", (10, 17), [Change(True, 6, 3)]), update("change", (17, 18), [Change(True, 6, 0)])]
    assert [book.update(step) for step in [*steps, *steps]] == [True, True, False, False]
    assert (book.in_step, book.last, book.top(20)) == (True, 18, (held([(5, 1)]), []))


def test_a_whole_book_that_comes_twice_does_not_set_the_book_back() -> None:
    book, start = DeribitBook(), whole(10, Truth({5: 1}, {}))
    steps = [start, update("change", (10, 17), [Change(True, 6, 3)]), start, whole(12, Truth({7: 1}, {}))]
    assert [book.update(step) for step in steps] == [True, True, False, False]
    assert (book.last, book.top(20)) == (17, (held([(6, 3), (5, 1)]), []))
    assert book.update(update("change", (17, 18), [Change(True, 6, 0)]))


def test_a_whole_book_that_is_newer_begins_anew_even_where_its_ids_do() -> None:
    book = DeribitBook()
    book.update(whole(10, Truth({5: 1}, {})))
    anew = whole(20, Truth({6: 1}, {}))
    assert book.update(anew)
    assert book.event_time is not None
    assert book.update(replace(anew, last=3, event_time=book.event_time + 1, bids=held([(7, 1)])))
    assert (book.last, book.top(20)) == (3, (held([(7, 1)]), []))
    assert book.update(update("change", (3, 4), [Change(True, 8, 1)]))


def test_an_empty_book_has_an_id_as_well() -> None:
    book = DeribitBook()
    book.update(whole(0, Truth({}, {})))
    assert book.update(update("change", (0, 14617771529), [Change(True, 1, 93)]))


@pytest.mark.parametrize("missed", [0, 1])
def test_a_silence_was_no_break_only_where_the_id_is_the_same_as_well(missed: int) -> None:
    tape = BookTape("DERIBIT", Feed("books", "BTC-PERPETUAL"), None, 500_000)
    told = []
    for last in (10, 10 + missed):
        book, start = DeribitBook(), whole(last, Truth({5: 1}, {9: 2}))
        book.update(start)
        told += tape.changed(book, start, "one")
        tape.interrupt(Break("SILENCE", "nothing came for 300 s"), NOW_US)
    assert [type(one) for one in told] == [Book, Gap, Book][: 1 + 2 * missed]


@given(st.data())
def test_a_book_in_step_is_the_true_one_whatever_comes(data: st.DataObject) -> None:
    history = data.draw(histories())
    steps = data.draw(st.lists(st.integers(1, 5), min_size=len(history), max_size=len(history)))
    ids = list(accumulate(steps, initial=0))
    truths = dict(zip(ids[1:], (truth for _, truth in history), strict=True))
    messages = [update("change", (ids[n], ids[n + 1]), list(step)) for n, (step, _) in enumerate(history)]
    messages[0] = whole(ids[1], history[0][1])
    book, renewed = DeribitBook(), False
    for number in data.draw(journeys(len(history))):
        try:
            book.update(whole(ids[number + 1], history[number][1]) if renewed else messages[number])
        except OutOfStep:
            renewed = True
        else:
            assert book.last is not None
            assert book.top(99) == tuple(held(side) for side in truths[book.last].top(99))
            renewed = False
        assert book.in_step is not renewed


# Recordings


@pytest.mark.parametrize(
    ("name", "books", "changes", "fingerprint"),
    [
        ("cf_options_20210405", 10, 177, "1b9db70939b6bf8d"),
        ("cf_options_20210722", 10, 36, "c33b23cff4dfb71b"),
    ],
)
def test_the_recorded_books_are_folded_to_their_end(
    recordings: Path, name: str, books: int, changes: int, fingerprint: str
) -> None:
    """Against a fold of the raw frames by dicts, after each of them; every change names the one before."""
    kept: dict[str, DeribitBook] = {}
    slow: dict[str, Truth] = {}
    told, published = Counter[str](), []
    for line in lines(recordings / "deribit" / f"{name}.frames.zst"):
        if not line.frame.get("params", {}).get("channel", "").startswith("book."):
            continue
        data = line.frame["params"]["data"]
        symbol = data["instrument_name"]
        (one,) = BOOKS.parse(line.raw, line.receipt)
        assert isinstance(one, BookUpdate)
        assert (one.symbol, one.event_time, one.last) == (symbol, int(data["timestamp"]) * 1000, data["change_id"])
        book = kept.setdefault(symbol, DeribitBook())
        assert book.update(one)
        before = Truth({}, {}) if data["type"] == "snapshot" else slow[symbol]
        slow[symbol] = before.after(as_changes(data))
        assert book.top(20) == slow[symbol].top(20)
        told[data["type"]] += 1
        published.append(as_record(one, *book.top(20)))
    assert told == {"snapshot": books, "change": changes}
    assert digest(published) == fingerprint


def as_changes(data: Any) -> list[Change]:
    return [
        Change(is_bid, units(price), 0 if action == "delete" else units(amount))
        for is_bid, side in ((True, data["bids"]), (False, data["asks"]))
        for action, price, amount in side
    ]


def as_record(one: BookUpdate, bids: Levels, asks: Levels) -> Book:
    return Book(
        venue="DERIBIT",
        symbol=one.symbol,
        event_time=one.event_time,
        received_time=one.received_time,
        sequence=one.last,
        source="MAINTAINED",
        bids=tuple(Level(*level) for level in bids),
        asks=tuple(Level(*level) for level in asks),
        connection_time=CONNECTION_US,
        connection_sequence=one.connection_sequence,
    )


def test_the_other_recorded_frames(recordings: Path) -> None:
    told: Counter[str] = Counter()
    for line in lines(recordings / "deribit" / "cf_options_20210405.frames.zst"):
        channel = line.frame.get("params", {}).get("channel", "")
        if channel.startswith("ticker."):
            assert refused(BOOKS, line) == f"channel {channel!r} is none that this source subscribes to"
        elif not channel:
            feeds = [Feed("books", name.split(".")[1]) for name in line.frame["result"] if name.startswith("book.")]
            assert BOOKS.parse(line.raw, line.receipt) == (Reply(0, None, tuple(feeds), NOT_LISTED),)
        told[channel.partition(".")[0]] += 1
    assert told == {"": 1, "ticker": 273, "book": 187}


def test_the_recorded_tickers_name_the_best_of_the_books(recordings: Path) -> None:
    """A ticker and a change of one millisecond are of one book, whichever comes first."""
    kept: dict[str, DeribitBook] = {}
    best: dict[tuple[str, int], Any] = {}
    tickers: dict[tuple[str, int], Any] = {}
    for line in lines(recordings / "deribit" / "cf_options_20210405.frames.zst"):
        params = line.frame.get("params", {"channel": "", "data": {}})
        data = params["data"]
        if params["channel"].startswith("book."):
            (one,) = BOOKS.parse(line.raw, line.receipt)
            assert isinstance(one, BookUpdate)
            kept.setdefault(one.symbol, DeribitBook()).update(one)
            best[one.symbol, int(data["timestamp"])] = kept[one.symbol].top(1)
        elif params["channel"].startswith("ticker."):
            tickers[data["instrument_name"], int(data["timestamp"])] = tuple(
                [(units(data[f"best_{side}_price"]), units(data[f"best_{side}_amount"]))]
                if data[f"best_{side}_price"]
                else []
                for side in ("bid", "ask")
            )
    same = {tickers[moment] == best[moment] for moment in tickers.keys() & best.keys()}
    assert (same, len(tickers.keys() & best.keys())) == ({True}, 88)


# What is asked for


def test_pairs_become_the_names_that_deribit_has_for_them() -> None:
    assert isinstance(BOOKS, HasBooks)
    names = {
        "BTC/USD": "BTC-PERPETUAL",
        "BTCUSD": "BTC-PERPETUAL",
        "BTC-PERPETUAL": "BTC-PERPETUAL",
        "BTCUSDC": "BTC_USDC-PERPETUAL",
        "BTC_USDC-PERPETUAL": "BTC_USDC-PERPETUAL",
        "BTCUSDT": "BTC_USDT",
        "ETH/BTC": "ETH_BTC",
        "BTC_USDC": "BTC_USDC",
        "BTC-25DEC26": "BTC-25DEC26",
        "BTC-5DEC26": "BTC-5DEC26",
        "BTC-25DEC26-100000-C": "BTC-25DEC26-100000-C",
        "XRP_USDC-30JUN23-0D625-C": "XRP_USDC-30JUN23-0D625-C",
    }
    assert {name: venue_symbol(BOOKS, name, {}) for name in names} == names


def test_books_are_asked_for_by_instrument() -> None:
    feeds = [Feed("books", "BTC-PERPETUAL"), Feed("books", "XRP_USDC-30JUN23-0D625-C")]
    asked = json.loads(BOOKS.subscribe(feeds, 1))
    assert asked["params"]["channels"] == ["book.BTC-PERPETUAL.100ms", "book.XRP_USDC-30JUN23-0d625-C.100ms"]
    assert json.loads(BOOKS.unsubscribe(feeds, 2)) == asked | {"id": 2, "method": "public/unsubscribe"}
    assert BOOKS.listing("https://www/api/v2", "BTC-PERPETUAL").url == (
        "https://www/api/v2/public/get_instrument?instrument_name=BTC-PERPETUAL"
    )
    assert BOOKS.sequencer("BTC-PERPETUAL") is not BOOKS.sequencer("BTC-PERPETUAL")
    assert BOOKS.limits == TRADES.limits


def test_past_trades_are_asked_for_by_their_numbers() -> None:
    assert isinstance(TRADES, HasHistory)
    url = "https://www/api/v2/public/get_last_trades_by_instrument?instrument_name=XRP_USDC-30JUN23-0d625-C"
    url += "&count=1000&include_old=true&sorting=asc&start_seq=7"
    span = Span(7, 9, None, None)
    name = "XRP_USDC-30JUN23-0D625-C"
    assert TRADES.history("https://www/api/v2/", name, span).url == f"{url}&end_seq=9"
    assert TRADES.history("https://www/api/v2", name, span._replace(last=None)).url == url


def test_the_answers_recorded_by_nautilus(recordings: Path) -> None:
    """They are of perpetuals and combos, which this source reads like the rest."""
    fixtures = json.loads((recordings / "fixtures" / "nautilus_adapter_fixtures.json").read_text())
    for name, symbol in (("http_get_last_trades", "ETH-PERPETUAL"), ("http_get_last_trades_option_combo", None)):
        body = fixtures[f"deribit/test_data/{name}.json"]
        rows = body["result"]["trades"]
        past = TRADES.past(symbol or rows[0]["instrument_name"], json.dumps(body).encode(), Receipt(NOW_US, 1, 2))
        channel = f"trades.{rows[0]['instrument_name']}.raw"
        told = {"jsonrpc": "2.0", "method": "subscription", "params": {"channel": channel, "data": rows}}
        assert past == TRADES.parse(json.dumps(told).encode(), Receipt(NOW_US, 1, 2))
        assert [trade.sequence for trade in past] == [row["trade_seq"] for row in rows]
