"""Laws of a synthetic venue: one seed gives one market at any speed, in the venue's own symbols."""

from itertools import islice, pairwise, takewhile

import pytest

from simulator.contract import Frame, SimulatorError
from simulator.dialects.binance_futures import BinanceFutures
from simulator.dialects.binance_options import BinanceOptions
from simulator.dialects.binance_spot import BinanceSpot
from simulator.markets.flow import LISTINGS
from simulator.registry import DIALECTS, Plan, synthetic_market
from simulator.synthetic import EPOCH_NS, SyntheticMarket, flows

SECOND_NS = 10**9


def plan(*symbols: str, seed: int = 5, perpetuals: int = 3) -> Plan:
    return Plan(symbols, seed, perpetuals, 30 * SECOND_NS, EPOCH_NS)


def frames(symbols: list[str], seed: int, start_ns: int | None, count: int) -> list[Frame]:
    return list(islice(synthetic_market(BinanceSpot(), plan(*symbols, seed=seed)).frames(start_ns), count))


@pytest.mark.parametrize("symbol", sorted(name for name, row in LISTINGS.items() if row.quote != "USD"))
def test_one_seed_gives_one_market(symbol: str) -> None:
    assert frames([symbol], 5, None, 300) == frames([symbol], 5, None, 300)
    assert frames([symbol], 5, None, 300) != frames([symbol], 6, None, 300)


@pytest.mark.parametrize("venue", sorted(DIALECTS))
def test_every_venue_has_a_market_that_is_the_same_each_time(venue: str) -> None:
    first, second = (synthetic_market(DIALECTS[venue](), plan("BTCUSDT", "ETHUSDT")) for _ in range(2))
    assert first.instruments == second.instruments
    seen = list(islice(first.frames(None), 2_000))
    assert seen == list(islice(second.frames(None), 2_000))
    assert all(a.time_ns <= b.time_ns for a, b in pairwise(seen))
    assert any(frame.marks for frame in seen)


def test_a_symbol_trades_the_same_beside_others_and_at_another_time() -> None:
    def trades(rows: list[Frame]) -> list[tuple[object, bytes]]:
        kept = [row for row in rows if row.symbol == "ETHUSDT" and row.kind == "trade"]
        return [(row.marks, row.payload.split(b'"p":')[1].split(b',"T"')[0]) for row in kept]

    alone = trades(frames(["ETHUSDT"], 3, None, 800))
    beside = trades(frames(["BTCUSDT", "ETHUSDT"], 3, 1_700_000_000 * SECOND_NS, 800))
    assert len(beside) > 50
    assert alone[: len(beside)] == beside


def test_pairs_are_spelled_as_the_venue_does_and_left_out_where_it_has_none() -> None:
    asked = ["BTC/USDT", "eth-btc", "XRP/USD"]
    assert [market.symbol for market in flows(BinanceSpot(), asked, 1)] == ["BTCUSDT", "ETHBTC"]
    assert [market.symbol for market in flows(BinanceFutures(), asked, 1)] == ["BTCUSDT"]
    assert flows(BinanceOptions(), asked, 1) == []


def test_the_same_pair_trades_otherwise_at_another_venue() -> None:
    one, two = (flows(dialect, ["BTCUSDT"], 1)[0] for dialect in (BinanceSpot(), BinanceFutures()))
    assert list(islice(one.events(0), 20)) != list(islice(two.events(0), 20))


def test_a_pair_that_is_not_known_or_not_listed_is_refused() -> None:
    with pytest.raises(SimulatorError, match=r"NOSUCH.*BTCUSDT"):
        synthetic_market(BinanceSpot(), plan("NOSUCH"))
    with pytest.raises(SimulatorError, match="BINANCE_SPOT lists none of BTC/USD"):
        synthetic_market(BinanceSpot(), plan("BTC/USD"))


@pytest.mark.parametrize("venue", ["BINANCE_SPOT", "BINANCE_FUTURES"])
def test_fewer_trades_are_expected_than_come(venue: str) -> None:
    market = synthetic_market(DIALECTS[venue](), plan("BTCUSDT"))
    played = takewhile(lambda frame: frame.time_ns < EPOCH_NS + 30 * SECOND_NS, market.frames(None))
    trades = sum(frame.kind == "trade" for frame in played)
    assert 0.4 * trades < market.expected_trades < trades


def test_no_faults_are_put_on_the_thin_perpetuals() -> None:
    market: SyntheticMarket = synthetic_market(BinanceFutures(), plan("BTCUSDT", perpetuals=20))
    played = list(takewhile(lambda frame: frame.time_ns < EPOCH_NS + 20 * SECOND_NS, market.frames(None)))
    assert {frame.symbol for frame in played if frame.kind == "trade"} == {"BTCUSDT"} == set(market.traded)
    assert len({symbol for frame in played for channel, symbol, _ in frame.marks if channel == "trades"}) > 5
    assert len(market.instruments) == 21
