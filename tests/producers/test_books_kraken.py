"""Kraken's books: by the numbered steps of its guide, and over any loss, order and repetition."""

from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from producers.books.kraken import CHECKED, KrakenBook
from producers.contract import BookUpdate, Farewell, Feed, HasBooks, HasHistory, OutOfStep, Receipt, Span
from producers.venues.kraken import DEPTH, Kraken
from tests.producers.truth import Change, Levels, Truth, histories, journeys

KRAKEN = Kraken()
NOW_US = 1_900_000_000_000_000
ONE = 10**18
Printed = tuple[str, str]

# The example of https://docs.kraken.com/exchange/guides/websockets/book-checksum-v2, numbers as on the wire.
GUIDE_BIDS = (
    *(("45283.5", "0.10000000"), ("45283.4", "1.54582015"), ("45282.1", "0.10000000"), ("45281.0", "0.10000000")),
    *(("45280.3", "1.54592586"), ("45279.0", "0.07990000"), ("45277.6", "0.03310103"), ("45277.5", "0.30000000")),
    *(("45277.3", "1.54602737"), ("45276.6", "0.15445238")),
)
GUIDE_ASKS = (
    *(("45285.2", "0.00100000"), ("45286.4", "1.54571953"), ("45286.6", "1.54571109"), ("45289.6", "1.54560911")),
    *(("45290.2", "0.15890660"), ("45291.8", "1.54553491"), ("45294.7", "0.04454749"), ("45296.1", "0.35380000")),
    *(("45297.5", "0.09945542"), ("45299.5", "0.18772827")),
)
GUIDE_CHECKSUM = 3310070434


def slow_crc32(text: str) -> int:
    """Bit by bit, of the reversed polynomial of ISO 3309."""
    remainder = 0xFFFFFFFF
    for byte in text.encode():
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0xEDB88320 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


def slow_checksum(bids: Sequence[Printed], asks: Sequence[Printed]) -> int:
    """Of levels that are best first, by the words of the guide."""
    numbers = [number for level in (*asks[:10], *bids[:10]) for number in level]
    return slow_crc32("".join(str(int(number.replace(".", ""))) for number in numbers))


def frame(kind: str, bids: Sequence[Printed], asks: Sequence[Printed], checksum: int) -> bytes:
    sides = [",".join(f'{{"price":{price},"qty":{quantity}}}' for price, quantity in side) for side in (bids, asks)]
    return (
        f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"BTC/USD","bids":[{sides[0]}],"asks":[{sides[1]}],'
        f'"checksum":{checksum},"timestamp":"2026-08-16T23:37:03.745044Z"}}]}}'
    ).encode()


def update(kind: str, bids: Sequence[Printed], asks: Sequence[Printed], checksum: int) -> BookUpdate:
    (event,) = KRAKEN.parse(frame(kind, bids, asks, checksum), Receipt(NOW_US, 1, 2))
    assert isinstance(event, BookUpdate)
    return event


def units(text: str) -> int:
    return int(Decimal(text) * ONE)


def guide() -> KrakenBook:
    book = KrakenBook(10)
    assert book.update(update("snapshot", GUIDE_BIDS, GUIDE_ASKS, GUIDE_CHECKSUM))
    return book


# The steps of the guide


def test_the_example_of_the_guide() -> None:
    assert slow_checksum(GUIDE_BIDS, GUIDE_ASKS) == GUIDE_CHECKSUM
    book = guide()
    assert (book.in_step, book.wants_snapshot, book.last) == (True, False, None)
    assert book.event_time == 1786923423745044
    assert book.top(1) == ([(units("45283.5"), units("0.1"))], [(units("45285.2"), units("0.001"))])


def test_the_zeros_at_the_end_of_a_number_count() -> None:
    shortened = [(price, quantity.rstrip("0")) for price, quantity in GUIDE_ASKS]
    with pytest.raises(OutOfStep) as broken:
        KrakenBook(10).update(update("snapshot", GUIDE_BIDS, shortened, GUIDE_CHECKSUM))
    assert broken.value.cause == "CHECKSUM"
    assert str(GUIDE_CHECKSUM) in str(broken.value)


def test_a_message_is_processed_to_its_end_and_in_its_order() -> None:
    book = guide()
    told = [("45283.5", "0.00000000"), ("45283.6", "9.00000000"), ("45283.6", "7.00000000"), ("45283.4", "1.00000000")]
    bids = [("45283.6", "7.00000000"), ("45283.4", "1.00000000"), *GUIDE_BIDS[2:]]
    assert book.update(update("update", told, [], slow_checksum(bids, GUIDE_ASKS)))
    assert book.top(2)[0] == [(units("45283.6"), units("7")), (units("45283.4"), units("1"))]


def test_what_falls_out_of_the_depth_is_forgotten() -> None:
    book = guide()
    better = ("45283.6", "7.00000000")
    assert book.update(update("update", [better], [], slow_checksum([better, *GUIDE_BIDS[:-1]], GUIDE_ASKS)))
    assert len(book.top(20)[0]) == 10
    gone = ("45283.6", "0.00000000")
    with pytest.raises(OutOfStep):
        book.update(update("update", [gone], [], GUIDE_CHECKSUM))


def test_what_comes_twice_changes_nothing() -> None:
    book = guide()
    told = update("update", [], [("45285.2", "0.00000000")], slow_checksum(GUIDE_BIDS, GUIDE_ASKS[1:]))
    assert book.update(told)
    before = book.top(20)
    book.update(told)
    assert (book.in_step, book.top(20)) == (True, before)


def test_a_lost_change_is_found_and_only_a_whole_book_begins_anew() -> None:
    book = guide()
    asks = [*GUIDE_ASKS[1:5], *GUIDE_ASKS[6:]]
    late = update("update", [], [(GUIDE_ASKS[5][0], "0.00000000")], slow_checksum(GUIDE_BIDS, asks))
    with pytest.raises(OutOfStep) as broken:
        book.update(late)
    assert broken.value.cause == "CHECKSUM"
    assert (book.in_step, book.event_time, book.top(20)) == (False, None, ([], []))
    with pytest.raises(OutOfStep) as early:
        book.update(late)
    assert early.value.cause == "SEQUENCE"
    assert book.update(update("snapshot", GUIDE_BIDS, asks, slow_checksum(GUIDE_BIDS, asks)))
    assert book.in_step


@pytest.mark.parametrize("is_timed", [True, False], ids=["timed", "before 2026"])
def test_a_whole_book_that_comes_twice_does_not_set_the_book_back(is_timed: bool) -> None:
    start, better = update("snapshot", GUIDE_BIDS, GUIDE_ASKS, GUIDE_CHECKSUM), ("45283.6", "7.00000000")
    start = start if is_timed else replace(start, event_time=None)
    book = KrakenBook(10)
    checksum = slow_checksum([better, *GUIDE_BIDS[:-1]], GUIDE_ASKS)
    steps = [start, update("update", [better], [], checksum), start]
    assert [book.update(step) for step in steps] == [True, True, False]
    assert book.top(1)[0] == [(units("45283.6"), units("7"))]
    assert book.update(update("update", [], [], checksum))


def test_another_whole_book_takes_the_place_of_the_first() -> None:
    book = guide()
    asks = GUIDE_ASKS[1:]
    assert book.update(update("snapshot", GUIDE_BIDS, asks, slow_checksum(GUIDE_BIDS, asks)))
    assert book.top(1)[1] == [(units("45286.4"), units("1.54571953"))]
    assert book.update(update("snapshot", GUIDE_BIDS, GUIDE_ASKS, GUIDE_CHECKSUM))


def test_levels_that_are_gone_leave_nothing_behind() -> None:
    book = KrakenBook(10)
    book.update(update("snapshot", [], [], 0))
    for number in range(1, 2000):
        bids = [(f"{number}.0", "1.00000000")]
        told = [*bids, (f"{number - 1}.0", "0.00000000")] if number > 1 else bids
        assert book.update(update("update", told, [], slow_checksum(bids, [])))
    assert len(vars(book)["_bid_texts"]) <= 4 * 10 + 1


# Over any loss, order and repetition

SHALLOW = 12
"""Fewer levels than the made books have, so that some fall out of the depth and come back."""


def printed(levels: Levels) -> list[Printed]:
    return [(f"{Decimal(price) / 10:.1f}", f"{Decimal(quantity) / 1000:.8f}") for price, quantity in levels]


def held(levels: Levels) -> list[tuple[int, int]]:
    """The same as sequencers have them."""
    return [(price * ONE // 10, quantity * ONE // 1000) for price, quantity in levels]


def whole(truth: Truth) -> BookUpdate:
    bids, asks = (printed(side) for side in truth.top(SHALLOW))
    return update("snapshot", bids, asks, slow_checksum(bids, asks))


def told(before: Truth, after: Truth) -> BookUpdate:
    """What Kraken says of a change: no end of a level that has but fallen out of the depth, all that comes into it."""
    changes = []
    for old, new, left in zip(before.top(SHALLOW), after.top(SHALLOW), after, strict=True):
        ended = [(price, 0) for price, _ in old if price not in left]
        changes.append(printed([*ended, *(level for level in new if level not in old)]))
    checksum = slow_checksum(*(printed(side) for side in after.top(SHALLOW)))
    return update("update", changes[0], changes[1], checksum)


def same(book: KrakenBook, truth: Truth, depth: int) -> bool:
    return book.top(depth) == tuple(held(side) for side in truth.top(depth))


@given(histories())
def test_what_comes_whole_and_in_order_is_the_true_book_to_its_depth(
    history: list[tuple[Sequence[Change], Truth]],
) -> None:
    book = KrakenBook(SHALLOW)
    before = history[0][1]
    assert book.update(whole(before))
    for _, truth in history[1:]:
        assert book.update(told(before, truth))
        assert same(book, truth, SHALLOW)
        before = truth


@given(st.data())
def test_a_book_in_step_is_the_true_one_in_its_best_levels(data: st.DataObject) -> None:
    truths = [truth for _, truth in data.draw(histories())]
    messages = [whole(truths[0]), *map(told, truths, truths[1:])]
    book, renewed, reached = KrakenBook(SHALLOW), False, 0
    for number in data.draw(journeys(len(truths))):
        message = whole(truths[number]) if renewed else messages[number]
        try:
            taken = book.update(message)
        except OutOfStep:
            renewed = True
        else:
            assert taken or message.whole
            reached = number if taken else reached
            assert same(book, truths[reached], CHECKED)
            renewed = False
        assert book.in_step is not renewed


# What is asked for


def test_books_are_asked_for_with_their_depth_and_snapshot() -> None:
    assert isinstance(KRAKEN, HasBooks)
    feeds = [Feed("books", "BTC/USD"), Feed("trades", "BTC/USD"), Feed("books", "ETH/USD")]
    together = KRAKEN.one_message(feeds)
    assert together == [feeds[0], feeds[2]]
    symbols = '"symbol":["BTC/USD","ETH/USD"],"depth":25'
    assert KRAKEN.subscribe(together, 1) == (
        f'{{"method":"subscribe","params":{{"channel":"book",{symbols},"snapshot":true}},"req_id":1}}'
    )
    assert KRAKEN.unsubscribe(together, 2) == (
        f'{{"method":"unsubscribe","params":{{"channel":"book",{symbols}}},"req_id":2}}'
    )
    assert DEPTH == 25
    assert KRAKEN.sequencer("BTC/USD") is not KRAKEN.sequencer("BTC/USD")


def test_past_trades_are_asked_for_by_the_time_before_them() -> None:
    assert isinstance(KRAKEN, HasHistory)
    url = "https://api/0/public/Trades?"
    since = "since=1688669597827735999"
    span = Span(61044953, 61044999, 1688669597827736, 1688669599000000)
    assert KRAKEN.history("https://api/", "BTC/USD", span).url == f"{url}pair=XBTUSD&count=1000&{since}"
    unknown = Span(1, None, None, None)
    assert KRAKEN.history("https://api", "DOGE/BTC", unknown).url == f"{url}pair=XDGXBT&count=1000"
    assert KRAKEN.history("https://api", "SOL/EUR", unknown).url == f"{url}pair=SOLEUR&count=1000"


def test_maintenance_is_a_farewell_but_not_as_a_connections_first_word() -> None:
    told = b'{"channel":"status","type":"update","data":[{"system":"maintenance","connection_id":1}]}'
    assert KRAKEN.parse(told, Receipt(NOW_US, 1, 2)) == (Farewell("maintenance"),)
    assert KRAKEN.parse(told, Receipt(NOW_US, 1, 1)) == ()
