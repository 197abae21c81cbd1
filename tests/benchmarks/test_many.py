"""The made market of the many-symbols benchmark speaks as the venue does, and its figures say what the samples say."""

import json
import random
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.sync.client import connect

from benchmarks.many_bare import parts, shared_out, source_of
from benchmarks.many_figures import MIB, Lags, Sample, drawing, growth, slope_of
from benchmarks.many_market import (
    FIRST_ID,
    IDS_PER_UPDATE,
    TOP,
    VARIANTS,
    Coin,
    Depth,
    Plan,
    Turns,
    best,
    change,
    template,
    zipf,
)
from producers.contract import (
    BOOKS,
    QUOTES,
    TRADES,
    BookUpdate,
    Event,
    Feed,
    HasBooks,
    HasHistory,
    HasSnapshots,
    Receipt,
)
from ravencore.records import Book, Quote, Trade

NOW_US = 1_800_000_000_123_000
NOW = {"BINANCE_SPOT": NOW_US, "BINANCE_FUTURES": NOW_US // 1000}
RECEIPT = Receipt(NOW_US)


def plan(venue: str = "BINANCE_SPOT", symbols: int = 2, *, kept: bool = False) -> Plan:
    return Plan(
        venue=venue,
        symbols=symbols,
        trades=100.0,
        books=10.0 * symbols,
        quotes=50.0,
        kept=kept,
        levels=100,
        cut_seconds=60.0,
        hole_seconds=5.0,
    )


def coin(told: Plan) -> Coin:
    return Coin(random.Random(1), 7, told)


def payload(message: bytes) -> bytes:
    """Of a message whose header says how long it is."""
    size, start = (int.from_bytes(message[2:4], "big"), 4) if message[1] == 126 else (message[1], 2)
    assert message[0] == 0x81
    assert len(message) == start + size
    return message[start:]


def event(told: Plan, one: Coin, channel: str) -> Event:
    (found,) = source_of(told).parse(payload(one.streams[channel].next(NOW[told.venue])), RECEIPT)
    return found


@pytest.mark.parametrize("venue", NOW)
def test_trades_are_the_venues_and_over_rest_the_same(venue: str) -> None:
    told = plan(venue)
    source, one = source_of(told), coin(told)
    assert isinstance(source, HasHistory)
    heard = [event(told, one, TRADES) for _ in range(VARIANTS + 3)]
    one.times.extend([NOW[venue]] * len(heard))
    assert all(isinstance(trade, Trade) for trade in heard)
    assert [trade.sequence for trade in heard if isinstance(trade, Trade)] == list(
        range(FIRST_ID, FIRST_ID + len(heard))
    )
    assert source.past(one.name, one.history(FIRST_ID, 1000).encode(), RECEIPT) == heard


def test_what_is_lost_is_not_told_over_rest() -> None:
    one = coin(plan())
    one.times.extend([NOW_US] * 10)
    one.lost = {FIRST_ID + 4}
    assert [trade["id"] - FIRST_ID for trade in json.loads(one.history(FIRST_ID + 3, 3))] == [3, 5]


@pytest.mark.parametrize("venue", NOW)
def test_books_and_quotes_are_the_venues(venue: str) -> None:
    told = plan(venue)
    one = coin(told)
    for number in range(1, VARIANTS + 3):
        book = event(told, one, BOOKS)
        assert isinstance(book, Book)
        assert (book.symbol, book.sequence) == (one.name, FIRST_ID - 1 + number * IDS_PER_UPDATE)
        assert (len(book.bids), len(book.asks)) == (TOP, TOP)
        assert book.bids[0].price < book.asks[0].price
    if QUOTES in one.streams:
        assert isinstance(event(told, one, QUOTES), Quote)


@pytest.mark.parametrize("venue", NOW)
@pytest.mark.parametrize("before", [0, 3, VARIANTS + 1])
def test_a_kept_book_stays_the_markets(venue: str, before: int) -> None:
    told = plan(venue, kept=True)
    source, one = source_of(told), coin(told)
    assert isinstance(source, HasBooks)
    assert isinstance(source, HasSnapshots)
    keeper = source.sequencer(one.name)
    assert keeper is not None
    for number in range(before + VARIANTS):
        update = event(told, one, BOOKS)
        assert isinstance(update, BookUpdate)
        keeper.update(update)
        if number == before:
            assert keeper.whole(source.whole_book(one.name, body(one, told), RECEIPT))
    assert keeper.in_step
    whole = source.whole_book(one.name, body(one, told), RECEIPT)
    assert keeper.last == whole.last
    assert keeper.top(TOP) == (whole.bids[:TOP], whole.asks[:TOP])


def body(one: Coin, told: Plan) -> bytes:
    last_id, bids, asks = one.snapshot(told.levels)
    return f'{{"lastUpdateId":{last_id},"T":{NOW[told.venue]},"bids":[{bids}],"asks":[{asks}]}}'.encode()


@given(st.integers(0, 3 * VARIANTS))
def test_a_book_is_known_at_any_time(updates: int) -> None:
    depth = Depth(random.Random(3), 10_000, 80)
    ladder = depth.after(0)
    for number in range(updates):
        change(ladder, *depth.steps[number % VARIANTS])
    assert best(ladder, 80) == best(depth.after(updates), 80)


@given(st.integers(2, 600), st.floats(1, 5000))
def test_rates_fall_with_the_rank_and_add_up(count: int, total: float) -> None:
    rates = zipf(count, total)
    assert sum(rates) == pytest.approx(total)
    assert rates[0] == pytest.approx(2 * rates[1])
    capped = zipf(count, total, 10.0)
    assert max(capped) <= 10.0
    assert sum(capped) == pytest.approx(min(total, 10.0 * count))


def test_turns_come_as_often_as_the_rates_say() -> None:
    turns = Turns(random.Random(1), [30.0, 10.0])
    seen = [rank for _ in range(10_000) for rank in turns.due(0.01)]
    assert len(seen) == 4000
    assert seen.count(0) == pytest.approx(3000, rel=0.05)


def test_the_bare_loop_asks_for_what_the_collector_asks_for() -> None:
    told = plan(symbols=700)
    shared = list(shared_out(source_of(told), told, "ws://x"))
    assert sorted(feed for _, feeds in shared for feed in feeds) == sorted(
        Feed(channel, f"C{rank:03}USDT") for rank in range(700) for channel in (TRADES, BOOKS, QUOTES)
    )
    assert [len(feeds) for _, feeds in shared] == [1024, 1024, 52]
    assert list(parts([Feed("a", "b")] * 3, 2)) == [[Feed("a", "b")] * 2, [Feed("a", "b")]]


# Figures


@given(st.floats(-5, 5), st.lists(st.integers(0, 99), max_size=20))
def test_a_slope_is_not_swayed_by_some_that_are_far_off(slope: float, spoilt: list[int]) -> None:
    xs = np.arange(100.0)
    ys = slope * xs
    ys[spoilt] += 1e6
    assert slope_of(xs, ys) == pytest.approx(slope, abs=1e-6)


def test_a_long_series_has_the_slope_of_its_parts() -> None:
    xs = np.arange(5000.0)
    assert slope_of(xs, xs * 3) == pytest.approx(3)


def run(seconds: int, per_second_bytes: float) -> list[Sample]:
    """Memory that fills for a third of the time, and then grows at a pace."""
    warm = seconds // 3
    sizes = [
        100 * MIB + min(second, warm) * MIB // 10 + max(second - warm, 0) * per_second_bytes
        for second in range(seconds)
    ]
    return [Sample(float(second), int(size), second / 2, 0.0, 9) for second, size in enumerate(sizes)]


def test_memory_that_only_warms_up_is_flat() -> None:
    found = growth(run(1800, 0.0))
    assert (found.verdict, found.per_ten_minutes_mb) == ("flat", 0.0)
    assert found.start_mb == found.end_mb == found.most_mb


def test_memory_that_grows_is_told() -> None:
    found = growth(run(1800, 2 * MIB / 600))
    assert found.verdict == "GROWS"
    assert found.per_ten_minutes_mb == pytest.approx(2, rel=0.01)


def test_a_short_run_is_not_judged() -> None:
    assert "too short" in growth(run(60, 0.0)).verdict


def test_the_picture_is_one() -> None:
    samples = run(60, 1000.0)
    root = ElementTree.fromstring(drawing(samples, growth(samples)))
    lines = [len(one.attrib["points"].split()) for one in root if one.tag.endswith("polyline")]
    assert lines == [60, 2]


def test_lags_by_window() -> None:
    lags = Lags()
    for second in range(30):
        lags.add(second, 100.0 if second < 10 else 5.0)
    assert lags.percentiles(50, 100) == [5.0, 100.0]
    assert lags.by_window(99) == [100.0, 5.0, 5.0]


def test_the_venue_speaks_over_a_socket() -> None:
    told = plan(symbols=3)
    command = [sys.executable, "-m", "benchmarks.many_venue", json.dumps(told._asdict())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as venue:
        try:
            assert venue.stdout is not None
            source = source_of(told)
            ((url, feeds),) = shared_out(source, told, f"ws://127.0.0.1:{int(venue.stdout.readline())}")
            heard: dict[str, list[int]] = {}
            with connect(url, compression=None) as socket:
                socket.send(source.subscribe(feeds, 1))
                assert json.loads(socket.recv()) == {"result": None, "id": 1}
                while len(heard) < 9 or min(map(len, heard.values())) < 3:
                    (found,) = source.parse(socket.recv(decode=False), RECEIPT)
                    assert isinstance(found, Trade | Book | Quote)
                    heard.setdefault(f"{type(found).__name__} {found.symbol}", []).append(found.sequence or 0)
        finally:
            venue.kill()
    for name, ids in heard.items():
        step = IDS_PER_UPDATE if name.startswith("Book") else 1
        assert ids == list(range(ids[0], ids[0] + step * len(ids), step)), name


def test_a_header_that_holds_a_percent_sign_is_no_template() -> None:
    made = template("x" * 0x125, 1)
    assert payload(made % {}) == b"x" * 0x125
