"""Clocks of what joins venues."""

from producers.collector.ticks import FORGOTTEN_US, Tick, Ticks

START_US = 1_700_000_000_000_000


def test_a_quiet_key_gets_a_clock_a_second() -> None:
    ticks = Ticks()
    ticks.note("raven.quotes", b"BTC-USDT", START_US)
    quarters = range(START_US, START_US + 4_000_000, 250_000)
    told = [tick for now_us in quarters for tick in ticks.due(now_us)]
    assert told == [Tick("raven.quotes", b"BTC-USDT", START_US + second * 1_000_000) for second in (1, 2, 3)]


def test_a_key_that_is_heard_of_gets_none() -> None:
    ticks = Ticks()
    for now_us in range(START_US, START_US + 4_000_000, 250_000):
        ticks.note("raven.quotes", b"BTC-USDT", now_us - 500_000)
        assert ticks.due(now_us) == []


def test_what_is_quiet_for_long_is_forgotten() -> None:
    ticks = Ticks()
    ticks.note("raven.option_tickers", b"BTC", START_US)
    ticks.note("raven.option_tickers", b"ETH", START_US + FORGOTTEN_US - 2_000_000)
    told = [tick.key for tick in ticks.due(START_US + FORGOTTEN_US)]
    assert told == [b"ETH"]
    ticks.note("raven.option_tickers", b"BTC", START_US + FORGOTTEN_US)
    assert [tick.key for tick in ticks.due(START_US + FORGOTTEN_US + 1_000_000)] == [b"ETH", b"BTC"]
