"""What months of demands, expiries and reconnects leave behind: nothing that grows, and nothing that is looked at."""

import asyncio
import json
from typing import Any

import pytest

from producers.actions import BadBytes, Habits
from producers.collector.service import Collector
from producers.contract import BOOKS, OPTION_TICKERS, TRADES, Feed
from producers.feedtape import FeedTape
from producers.line import LAST_FRAMES_SECONDS
from producers.routing import Wants
from producers.session import Session
from producers.tape import Seen
from producers.venues.deribit_trades import DeribitTrades
from ravencore.codec import Codec
from ravencore.config import KafkaSettings, Settings
from ravencore.graph import Standing
from ravencore.records import Demand, Quote, Trade
from tests.producers.made import LOST, SYMBOL, URL, Driver, book_frame, new_session, unwant, us, want

OLD, NEW = "BTC-1JAN26-62000-C", "BTC-2JAN26-62000-C"


def ended(*trades: int) -> Driver:
    """A feed that brought these trades and a book, and ended so long ago that nobody looks at it any more."""
    driver = Driver(new_session(100, None, SYMBOL, "ETHUSDT"))
    driver.connect()
    driver.trades(*trades)
    driver.frame(book_frame())
    unwant(driver.session, SYMBOL)
    driver.advance(LAST_FRAMES_SECONDS + 2.0)
    return driver


def test_ended_feeds_are_looked_at_no_more() -> None:
    driver = ended(101)
    assert {feed.symbol for feed in driver.session.desk.lines} == {"ETHUSDT"}
    assert {symbol for _, symbol in driver.session.desk.tapes} <= {"ETHUSDT"}
    assert driver.session.knows(Feed(TRADES, SYMBOL))
    driver.trades(102)
    assert isinstance(driver.out[-1], BadBytes)


def test_what_is_under_way_when_a_feed_ends_is_still_taken() -> None:
    driver = Driver(new_session(100, None, SYMBOL, "ETHUSDT"))
    driver.connect()
    unwant(driver.session, SYMBOL)
    driver.advance(1.0)
    driver.trades(101)
    driver.advance(1.0)
    assert driver.ids == [101]


def test_an_ended_feed_goes_on_where_it_stopped() -> None:
    driver = ended(101, 101)
    assert driver.session.duplicates == 1
    want(driver.session, SYMBOL)
    driver.advance(0.5)
    driver.trades(104)
    driver.advance(1.0)
    assert driver.ids == [101, 104]
    gap = driver.gaps[-1]
    assert (gap.symbol, gap.from_sequence, gap.to_sequence, gap.detail) == (SYMBOL, 102, 103, "not demanded for a time")
    driver.trades(101)
    assert driver.ids == [101, 104]
    assert driver.session.duplicates == 2


def test_an_ended_feed_moves_to_another_session_with_all_that_is_known_of_it() -> None:
    driver = ended(101)
    line = driver.session.release(Feed(TRADES, SYMBOL))
    assert line is not None
    assert not driver.session.knows(Feed(TRADES, SYMBOL))
    other = Session(driver.session.source, URL, Habits(0.5))
    other.adopt(line)
    other.want(Feed(TRADES, SYMBOL), {})
    assert other.desk.lines[Feed(TRADES, SYMBOL)].tapes.counted[SYMBOL].last == 101


def test_ended_feeds_go_to_the_heir() -> None:
    driver = ended(101)
    heir = driver.session.heir()
    driver.session.bequeath(heir, LOST, driver.now, us(driver.now))
    assert heir.knows(Feed(TRADES, SYMBOL))
    assert not driver.session.knows(Feed(TRADES, SYMBOL))


def test_a_feed_that_is_ended_and_wanted_again_while_its_connection_is_replaced_is_wanted_of_the_next() -> None:
    driver = Driver(new_session(100))
    driver.connect()
    heir = driver.session.heir()
    for session in (driver.session, heir):
        unwant(session, SYMBOL)
    want(driver.session, SYMBOL)
    driver.session.bequeath(heir, LOST, driver.now, us(driver.now))
    assert sum(line.wanted for line in heir.desk.lines.values()) == 2
    assert not heir.idle


def test_ended_feeds_of_what_the_venue_lists_no_more_are_forgotten_and_what_they_counted_is_not() -> None:
    driver = ended(101, 101)
    driver.session.forget({SYMBOL})
    assert not driver.session.knows(Feed(TRADES, SYMBOL))
    assert not driver.session.knows(Feed(BOOKS, SYMBOL))
    assert driver.session.knows(Feed(TRADES, "ETHUSDT"))
    assert driver.session.duplicates == 1


def test_an_ended_feed_with_records_behind_a_hole_is_not_forgotten() -> None:
    driver = ended(101)
    want(driver.session, SYMBOL)
    driver.advance(0.5)
    driver.trades(102, 104)
    driver.session.unwant(Feed(TRADES, SYMBOL))
    driver.session.forget({SYMBOL})
    driver._take(driver.session.flush(us(driver.now)))
    assert driver.ids == [101, 102, 104]


def option_trade(symbol: str, number: int) -> bytes:
    trade = {"trade_seq": number, "trade_id": str(number), "timestamp": us(1.0) // 1000, "price": 0.5, "amount": 1}
    data = [{**trade, "instrument_name": symbol, "direction": "buy"}]
    told = {"method": "subscription", "params": {"channel": "trades.option.BTC.100ms", "data": data}}
    return json.dumps({"jsonrpc": "2.0", **told}).encode()


def test_instruments_that_have_expired_are_forgotten_in_a_feed_of_many_and_the_others_go_on() -> None:
    feed = Feed(TRADES, "BTC")
    session = Session(DeribitTrades(), URL, Habits(0.5))
    session.want(feed, {symbol: Seen(1, us(0)) for symbol in (OLD, NEW)})
    driver = Driver(session, answers=False)
    for symbol in (OLD, NEW, NEW, OLD, OLD):
        driver.frame(option_trade(symbol, 2))
    before = session.duplicates
    assert before == 3
    session.forget({OLD})
    assert list(session.desk.lines[feed].tapes.counted) == [NEW]
    assert session.desk.tapes.keys() == {(TRADES, NEW)}
    assert session.duplicates == before
    driver.frame(option_trade(NEW, 3))
    assert [record.sequence for record in driver.out if isinstance(record, Trade)] == [2, 2, 3]


def quote(symbol: str, at_us: int) -> Quote:
    return Quote(venue="V", symbol=symbol, event_time=at_us, received_time=at_us, bid_price=1)


def test_a_feed_of_many_forgets_what_was_said_of_one_and_no_other() -> None:
    tape = FeedTape("V", Feed(OPTION_TICKERS, "*"), None)
    for symbol in (OLD, NEW):
        assert tape.add(quote(symbol, 5), "one")
    tape.forget({OLD})
    assert tape._recent.keys() == tape._newest.keys() == {NEW}
    assert not tape.add(quote(NEW, 5), "one")
    assert tape.add(quote(OLD, 5), "one")
    assert tape.duplicates == 1


# Demands


class Told:
    """Notes what is demanded of it."""

    def __init__(self) -> None:
        self.demands: list[Wants] = []
        self.revived = 0

    def demand(self, wants: Wants) -> None:
        self.demands.append(wants)

    def revive(self) -> None:
        self.revived += 1


class Read:
    """What has been read of `raven.control`."""

    def __init__(self, standing: Standing, offset: int) -> None:
        self.standing, self.offset = standing, offset


@pytest.fixture
def codec() -> Codec:
    return Codec()


def standing(*symbols: str) -> Standing:
    return Standing(
        Demand(demand_id=symbol, user="u", venues=("BINANCE_SPOT",), symbol=symbol, outputs=("vpin",), created_time=1)
        for symbol in symbols
    )


def trades_of(*symbols: str) -> Wants:
    return dict.fromkeys(symbols, frozenset({"trades"}))


async def their_turn() -> None:
    """What was told is heard, and then seen to."""
    for _ in range(2):
        await asyncio.sleep(0)


def test_demands_that_wait_together_are_seen_to_together(codec: Codec) -> None:
    async def test() -> None:
        collector: Any = Collector(Settings(kafka=KafkaSettings(bootstrap="127.0.0.1:1")), codec)
        told = Told()
        collector._runners = {"BINANCE_SPOT": told}
        symbols = [f"S{number}USDT" for number in range(50)]
        collector.on_demands(Standing(), True)
        await their_turn()
        assert told.demands == [{}]
        order: list[str] = []
        for number in range(1, 51):
            collector.on_demands(standing(*symbols[:number]), True)
            asyncio.get_running_loop().call_soon(lambda: order.append(f"after {len(told.demands)}"))
        await their_turn()
        assert told.demands == [{}, trades_of(*symbols)]
        assert order == ["after 1"] * 50
        assert told.revived == 2
        collector.on_demands(standing(*symbols[1:]), False)
        collector.on_demands(standing(*symbols[2:]), False)
        await their_turn()
        assert told.demands[2:] == [trades_of(*symbols[2:])]
        assert told.revived == 2

    asyncio.run(test())


def test_an_offset_is_told_when_the_demands_up_to_it_are_seen_to(codec: Codec) -> None:
    async def test() -> None:
        collector: Any = Collector(Settings(kafka=KafkaSettings(bootstrap="127.0.0.1:1")), codec)

        def told(read: Read) -> Any:
            collector._note_offset(read)
            return collector._reporter.gauges.get("control_offset")

        read = Read(Standing(), 0)
        assert told(read) is None  # the topic has not been read to its end
        collector.on_demands(read.standing, True)
        await asyncio.sleep(0)
        assert told(read) is None  # heard, and not seen to
        await their_turn()
        assert told(read) == 0
        read.standing = standing("BTCUSDT")
        collector.on_demands(read.standing, True)
        read.offset = 1
        assert told(read) == 0
        await their_turn()
        assert told(read) == 1
        read.offset = 2  # a record that is no demand
        assert told(read) == 2

    asyncio.run(test())
