"""Laws of the option chain: Black's formula, no arbitrage in the surface and the marks, quotes on ticks around them."""

import math
from datetime import UTC, datetime
from itertools import pairwise, takewhile
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from simulator.events import Event, IndexPrice, Option, OptionTick, OptionTrade, VolatilityIndex
from simulator.markets.options import (
    BINANCE_BTC,
    DERIBIT_BTC,
    DERIBIT_ETH,
    SECOND_NS,
    YEAR_NS,
    OptionChain,
    Style,
    Surface,
    black,
    expiries,
    greeks,
    implied_volatility,
    on_tick,
    spell,
)

BEGIN_NS = 1_735_689_600 * SECOND_NS  # 2025-01-01, a Wednesday
VOLATILITIES = st.floats(0.15, 2.0)
YEARS = st.floats(0.02, 1.5)
MONEYNESS = st.floats(-0.8, 0.8)


def events(style: Style = DERIBIT_BTC, seed: int = 1, seconds: int = 20) -> list[Event]:
    end_ns = BEGIN_NS + seconds * SECOND_NS
    chain = OptionChain(seed, style, BEGIN_NS)
    return list(takewhile(lambda event: event.time_ns < end_ns, chain.events(BEGIN_NS)))


@pytest.fixture(scope="module")
def twenty_seconds() -> list[Event]:
    return events()


def integral(forward: float, strike: float, total: float, is_call: bool) -> float:
    """The price as the mean pay-off of a lognormal price, by Simpson's rule: Black without his formula."""
    deviation, steps = math.sqrt(total), 4000
    width = 16.0 / steps

    def density_times_payoff(z: float) -> float:
        price = forward * math.exp(deviation * z - total / 2.0)
        payoff = max(price - strike, 0.0) if is_call else max(strike - price, 0.0)
        return payoff * math.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)

    weights = (1 if n in {0, steps} else 4 if n % 2 else 2 for n in range(steps + 1))
    return sum(w * density_times_payoff(-8.0 + n * width) for n, w in enumerate(weights)) * width / 3.0


@pytest.mark.parametrize("is_call", [True, False])
@pytest.mark.parametrize("moneyness", [-0.4, -0.05, 0.0, 0.1, 0.5])
def test_black_is_the_mean_payoff(moneyness: float, is_call: bool) -> None:
    strike = 65_000.0 * math.exp(moneyness)
    assert black(65_000.0, strike, 0.09, is_call) == pytest.approx(integral(65_000.0, strike, 0.09, is_call), abs=0.05)


def test_a_recorded_ticker_has_these_greeks() -> None:
    """ETH-9APR21-1950-C as Deribit showed it at 2021-04-05 17:47:36 UTC."""
    years = (1_617_955_200_000 - 1_617_644_856_302) / (365 * 86_400_000)
    price = black(2115.89, 1950.0, 0.7874**2 * years, True)
    found = greeks(2115.89, 1950.0, years, 0.7874, True)
    assert price / 2115.89 == pytest.approx(0.084155, abs=5e-5)
    assert found.delta == pytest.approx(0.8609, abs=1e-4)
    assert found.gamma == pytest.approx(0.00134, abs=5e-6)
    assert found.theta == pytest.approx(-5.09811, rel=1e-3)
    assert found.vega == pytest.approx(0.46511, rel=1e-3)
    assert found.rho == pytest.approx(0.16173, rel=1e-3)


@given(YEARS, MONEYNESS, VOLATILITIES, st.booleans())
def test_greeks_are_the_slopes_of_the_price(years: float, moneyness: float, volatility: float, is_call: bool) -> None:
    forward, strike = 50_000.0, 50_000.0 * math.exp(moneyness)
    found = greeks(forward, strike, years, volatility, is_call)

    def price(f: float = forward, t: float = years, v: float = volatility) -> float:
        return black(f, strike, v * v * t, is_call)

    step = 5.0
    assert (price(forward + step) - price(forward - step)) / (2 * step) == pytest.approx(found.delta, abs=1e-4)
    curve = (price(forward + 50) - 2 * price() + price(forward - 50)) / 2500
    assert curve == pytest.approx(found.gamma, rel=0.02, abs=1e-8)
    assert (price(v=volatility + 1e-5) - price(v=volatility - 1e-5)) / 2e-3 == pytest.approx(
        found.vega, rel=1e-3, abs=1e-4
    )
    day = 1e-4
    slope = -(price(t=years + day) - price(t=years - day)) / (2 * day) / 365
    assert slope == pytest.approx(found.theta, rel=1e-2, abs=1e-3)


@given(YEARS, MONEYNESS, VOLATILITIES)
def test_calls_and_puts_are_a_forward_apart(years: float, moneyness: float, volatility: float) -> None:
    strike, total = 100.0 * math.exp(moneyness), volatility * volatility * years
    assert black(100.0, strike, total, True) - black(100.0, strike, total, False) == pytest.approx(
        100.0 - strike, abs=1e-9
    )


@given(YEARS, MONEYNESS, VOLATILITIES, st.booleans())
def test_an_implied_volatility_gives_its_price_back(
    years: float, moneyness: float, volatility: float, is_call: bool
) -> None:
    strike = 100.0 * math.exp(moneyness)
    price = black(100.0, strike, volatility**2 * years, is_call)
    assume(greeks(100.0, strike, years, volatility, is_call).vega > 1e-4)
    found = implied_volatility(price, 100.0, strike, years, is_call)
    assert found == pytest.approx(volatility, abs=1e-4)
    assert implied_volatility(max(100.0 - strike, 0.0) * 0.99, 100.0, strike, years, True) is None


SURFACES = st.builds(Surface, st.floats(0.05, 1.5), st.floats(-0.6, 0.3))


@given(SURFACES, MONEYNESS, YEARS, YEARS)
def test_no_calendar_spread_is_for_nothing(surface: Surface, moneyness: float, one: float, other: float) -> None:
    near, far = sorted((one, other))
    assert surface.total_variance(near, moneyness) <= surface.total_variance(far, moneyness) + 1e-12


@given(SURFACES, YEARS, st.floats(-1.2, 1.2))
def test_no_butterfly_is_for_nothing(surface: Surface, years: float, moneyness: float) -> None:
    """Gatheral's g, the density up to a positive factor, is nowhere negative."""
    h = 1e-4
    low, w, high = (surface.total_variance(years, moneyness + step) for step in (-h, 0.0, h))
    slope, bend = (high - low) / (2 * h), (high - 2 * w + low) / (h * h)
    g = (1 - moneyness * slope / (2 * w)) ** 2 - slope**2 / 4 * (1 / w + 0.25) + bend / 2
    assert g > -1e-5


@pytest.mark.parametrize("seed", [1, 2])
def test_the_drift_stays_within_the_laws(seed: int) -> None:
    surface, rng = Surface(), Random(seed)
    for _ in range(20_000):
        surface.drift(1.0, rng)
        assert 0.05 < surface.variance < 1.5
        assert -0.6 <= surface.skew <= 0.3
    assert surface.variance != Surface().variance


def test_marks_of_one_instant_are_free_of_arbitrage() -> None:
    """Prices in dollars by strike: calls fall, puts rise, both are convex; the later expiry has more variance."""
    surface, forward = Surface(), 65_000.0
    strikes = [20_000.0 + 1_000.0 * n for n in range(120)]
    for years in (0.02, 0.1, 0.5):
        for is_call in (True, False):
            row = [black(forward, k, surface.total_variance(years, math.log(k / forward)), is_call) for k in strikes]
            slopes = [b - a for a, b in pairwise(row)]
            assert all(-1_000.0 <= slope <= 0.0 if is_call else 0.0 <= slope <= 1_000.0 for slope in slopes)
            assert all(a <= b + 1e-6 for a, b in pairwise(slopes))


def test_the_index_of_a_flat_smile_is_its_volatility() -> None:
    class Flat(Surface):
        def total_variance(self, years: float, log_moneyness: float) -> float:
            return 0.3 * years

        def at_the_money(self, years: float) -> float:
            return 0.3 * years

    assert Flat().index() == pytest.approx(math.sqrt(0.3), rel=2e-3)


def test_expiries_are_fridays_of_weeks_months_and_quarters() -> None:
    found = [datetime.fromtimestamp(time_ns / SECOND_NS, UTC) for time_ns in expiries(BEGIN_NS)]
    assert [f"{day:%d%b%y %H:%M}" for day in found] == [
        *("03Jan25 08:00", "10Jan25 08:00", "17Jan25 08:00", "31Jan25 08:00"),
        *("28Feb25 08:00", "28Mar25 08:00", "27Jun25 08:00"),
    ]
    friday_eight = 1_735_891_200 * SECOND_NS
    assert expiries(friday_eight - 3600 * SECOND_NS)[0] == friday_eight + 7 * 86_400 * SECOND_NS


def test_symbols_are_spelled_as_each_venue_does() -> None:
    expiry_ns = 1_735_286_400 * SECOND_NS
    assert spell(DERIBIT_BTC, expiry_ns, 40_000.0, True) == "BTC-27DEC24-40000-C"
    assert spell(BINANCE_BTC, expiry_ns, 40_000.0, True) == "BTC-241227-40000-C"
    assert spell(DERIBIT_BTC, 1_749_196_800 * SECOND_NS, 1_000_000.0, False) == "BTC-6JUN25-1000000-P"
    assert spell(DERIBIT_ETH, expiry_ns, 1.02, True) == "ETH-27DEC24-1d02-C"


@given(st.integers(1, 3_000_000), st.booleans())
def test_quotes_stand_on_deribits_ticks(price_e8: int, up: bool) -> None:
    option = OptionChain(1, DERIBIT_BTC, BEGIN_NS, strikes_per_side=1).options[0]
    found = on_tick(price_e8, option, up)
    tick = 10_000 if price_e8 < 500_000 else 50_000
    assert found % tick == 0
    assert 0 <= (found - price_e8 if up else price_e8 - found) < tick


def test_one_seed_gives_one_chain() -> None:
    assert events(seed=3, seconds=5) == events(seed=3, seconds=5)
    assert events(seed=3, seconds=5) != events(seed=4, seconds=5)


@pytest.mark.parametrize("style", [DERIBIT_BTC, BINANCE_BTC])
def test_every_option_is_quoted_around_its_mark(style: Style) -> None:
    ticks = [event for event in events(style, seconds=3) if isinstance(event, OptionTick)]
    chain = OptionChain(1, style, BEGIN_NS)
    assert {tick.option.symbol for tick in ticks} == {option.symbol for option in chain.options}
    for tick in ticks:
        option = tick.option
        years = (option.expiry_ns - tick.time_ns) / YEAR_NS
        forward, strike = tick.underlying_e8 / 1e8, option.strike_e8 / 1e8
        unit = forward if style.inverse else 1.0
        for price_e8, iv in ((tick.bid_e8, tick.bid_iv), (tick.mark_e8, tick.mark_iv), (tick.ask_e8, tick.ask_iv)):
            if price_e8 is None or iv is None:
                assert iv is None
                continue
            again = black(forward, strike, iv * iv * years, option.is_call) / unit
            assert again * 1e8 == pytest.approx(price_e8, rel=1e-6, abs=2.0)
        assert tick.bid_e8 is None or 0 < tick.bid_e8 <= tick.mark_e8
        assert tick.ask_e8 is None or tick.mark_e8 <= tick.ask_e8
        assert (tick.bid_quantity_e8 > 0) == (tick.bid_e8 is not None)
        assert (tick.ask_quantity_e8 > 0) == (tick.ask_e8 is not None)


def test_some_sides_far_out_are_empty_and_none_near_the_money(twenty_seconds: list[Event]) -> None:
    ticks = [event for event in twenty_seconds if isinstance(event, OptionTick)]
    near = [tick for tick in ticks if 0.3 < abs(tick.delta) < 0.7]
    assert all(tick.bid_e8 and tick.ask_e8 for tick in near)
    assert sum(tick.ask_e8 is None for tick in ticks) > 20 < sum(tick.bid_e8 is None for tick in ticks)


def test_trades_count_up_within_the_option_and_the_venue() -> None:
    trades = [event for event in events(seconds=120) if isinstance(event, OptionTrade)]
    assert len(trades) > 100
    assert [trade.trade_id for trade in trades] == list(range(trades[0].trade_id, trades[0].trade_id + len(trades)))
    seen: dict[str, int] = {}
    for trade in trades:
        symbol = trade.option.symbol
        assert trade.sequence == seen.get(symbol, trade.sequence - 1) + 1
        seen[symbol] = trade.sequence
        assert trade.price_e8 % trade.option.tick_e8 == 0 < trade.price_e8
    assert len(seen) < len(trades)


def test_the_indices_come_once_a_second_and_move(twenty_seconds: list[Event]) -> None:
    prices = [event for event in twenty_seconds if isinstance(event, IndexPrice)]
    volatilities = [event for event in twenty_seconds if isinstance(event, VolatilityIndex)]
    assert {b.time_ns - a.time_ns for a, b in pairwise(prices)} == {SECOND_NS}
    assert len(prices) == len(volatilities) == 20
    assert {event.name for event in prices} == {event.name for event in volatilities} == {"btc_usd"}
    assert len({event.price_e8 for event in prices}) > 15
    assert all(40 < event.percent_e8 / 1e8 < 90 for event in volatilities)


def test_an_expired_option_falls_silent() -> None:
    expiry_ns = expiries(BEGIN_NS)[0]
    chain = OptionChain(1, DERIBIT_BTC, BEGIN_NS)
    begin_ns = expiry_ns - 2 * SECOND_NS
    late = takewhile(lambda event: event.time_ns < expiry_ns + 3 * SECOND_NS, chain.events(begin_ns))
    after = [event.option for event in late if isinstance(event, OptionTick) and event.time_ns >= expiry_ns]
    assert len(after) > 50
    assert all(isinstance(option, Option) and option.expiry_ns > expiry_ns for option in after)
