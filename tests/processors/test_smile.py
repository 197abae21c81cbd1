"""Black 1976, and what is read off a smile: known values, parity, and each rule by hand."""

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.folds import black76
from processors.folds.smile import Point, Wings, atm_variance, has_butterfly, interpolate, wings
from simulator.markets import options

FORWARD = st.floats(1e-3, 1e6)
MONEYNESS = st.floats(0.2, 5.0)
DEVIATION = st.floats(0.01, 3.0)


def test_known_prices() -> None:
    """QuantLib's blackFormula(100, 100, 0.2); py_vollib's black with its discount taken off; Hull, example 18.7."""
    assert black76.price(100.0, 100.0, 0.2, True) == pytest.approx(7.965567455405804, rel=1e-13)
    deviation = 0.2 * math.sqrt(0.5)
    assert black76.price(100.0, 100.0, deviation, True) * math.exp(-0.01) == pytest.approx(
        5.5811067246048118, rel=1e-13
    )
    oil = black76.price(20.0, 20.0, 0.25 * math.sqrt(4 / 12), False) * math.exp(-0.09 * 4 / 12)
    assert oil == pytest.approx(1.12, abs=0.005)


def test_known_deltas() -> None:
    """At the money a call's is N(s / 2); far from it 0 and 1."""
    assert black76.call_delta(100.0, 100.0, 0.2) == pytest.approx(NormalDist().cdf(0.1), rel=1e-14)
    assert black76.call_delta(100.0, 1e9, 0.2) < 1e-300
    assert black76.call_delta(100.0, 1e-9, 0.2) == 1.0


@given(FORWARD, MONEYNESS, DEVIATION)
def test_put_call_parity(forward: float, moneyness: float, deviation: float) -> None:
    strike = forward * moneyness
    call, put = (black76.price(forward, strike, deviation, is_call) for is_call in (True, False))
    assert math.isclose(call - put, forward - strike, rel_tol=1e-9, abs_tol=1e-12 * forward)


@given(FORWARD, MONEYNESS, DEVIATION, st.booleans())
def test_the_simulators_own_black_says_the_same(
    forward: float, moneyness: float, deviation: float, is_call: bool
) -> None:
    strike = forward * moneyness
    made = black76.price(forward, strike, deviation, is_call)
    assert math.isclose(made, options.black(forward, strike, deviation * deviation, is_call), abs_tol=1e-12 * forward)
    delta = black76.call_delta(forward, strike, deviation) - (0.0 if is_call else 1.0)
    assert math.isclose(delta, options.greeks(forward, strike, 1.0, deviation, is_call).delta, abs_tol=1e-12)


@given(MONEYNESS, st.floats(0.05, 4.0), st.floats(1e-3, 2.0))
def test_an_implied_volatility_gives_its_price_back(moneyness: float, volatility: float, years: float) -> None:
    is_call = moneyness >= 1.0
    premium = black76.price(1.0, moneyness, volatility * math.sqrt(years), is_call)
    implied = black76.implied_volatility(premium, 1.0, moneyness, years, is_call)
    if premium > 1e-12:
        assert implied is not None
        again = black76.price(1.0, moneyness, implied * math.sqrt(years), is_call)
        assert math.isclose(again, premium, rel_tol=1e-10)


@pytest.mark.parametrize(
    ("premium", "strike", "is_call"),
    [(0.0, 110.0, True), (9.9, 90.0, True), (10.0, 90.0, True), (9.9, 110.0, False), (100.0, 110.0, True)],
)
def test_a_price_at_or_below_intrinsic_or_beyond_the_forward_has_no_volatility(
    premium: float, strike: float, is_call: bool
) -> None:
    assert black76.implied_volatility(premium, 100.0, strike, 0.5, is_call) is None


def test_interpolation_is_linear_between_and_nothing_outside() -> None:
    line = [(0.0, 10.0), (1.0, 20.0), (3.0, 0.0)]
    assert [interpolate(line, x) for x in (0.0, 0.25, 1.0, 2.0, 3.0)] == [10.0, 12.5, 20.0, 10.0, 0.0]
    assert [interpolate(line[::-1], x) for x in (0.25, 2.0)] == [12.5, 10.0]
    assert [interpolate(line, x) for x in (-0.01, 3.01)] == [None, None]
    assert (interpolate([(1.0, 5.0)], 1.0), interpolate([(1.0, 5.0)], 1.1), interpolate([], 0.0)) == (5.0, None, None)
    assert interpolate([(0.5, 1.0), (0.5, 2.0), (0.2, 3.0)], 0.35) == 2.5


def test_the_variance_at_the_money_is_interpolated_over_log_moneyness() -> None:
    below, above = Point(0.9, 0.6, 0.7), Point(1.2, 0.5, 0.3)
    k0, k1 = math.log(0.9), math.log(1.2)
    expected = 0.36 * 0.25 + (0.0 - k0) / (k1 - k0) * (0.25 * 0.25 - 0.36 * 0.25)
    assert atm_variance([below, above], 0.25) == pytest.approx(expected, rel=1e-15)
    assert atm_variance([below], 0.25) is None
    assert atm_variance([above], 0.25) is None
    assert atm_variance([below, Point(1.0, 0.7, 0.5), above], 0.25) == 0.7 * 0.7 * 0.25
    assert atm_variance([Point(1.0, 0.7, 0.5)], 0.25) == 0.7 * 0.7 * 0.25


def test_wings_are_read_between_the_two_nearest_deltas() -> None:
    """
    delta of the call  0.85   0.65 | 0.45   0.30   0.20
    iv                 0.80   0.70 | 0.60   0.65   0.75
    """
    points = [
        Point(moneyness, iv, delta)
        for moneyness, iv, delta in [
            (0.8, 0.80, 0.85),
            (0.9, 0.70, 0.65),
            (1.1, 0.60, 0.45),
            (1.2, 0.65, 0.30),
            (1.3, 0.75, 0.20),
        ]
    ]
    made = wings(points, 0.62)
    assert made.risk_reversal == pytest.approx(0.70 - 0.75)
    assert made.butterfly == pytest.approx((0.70 + 0.75) / 2 - 0.62)
    assert wings(points, None) == Wings(made.risk_reversal, None)
    assert wings(points[1:], 0.62) == wings(points[:-1], 0.62) == Wings(None, None)
    across = wings([points[0], points[-1]], None)
    assert across.risk_reversal == pytest.approx((0.75 + 0.05 * 0.05 / 0.65) - (0.80 - 0.05 * 0.10 / 0.65))


def test_where_deltas_waver_the_wing_nearest_the_money_is_read() -> None:
    ladder = [(0.90, 0.90), (0.70, 0.80), (0.80, 0.70), (0.50, 0.60), (0.20, 0.65), (0.30, 0.70), (0.10, 0.80)]
    points = [Point(0.7 + 0.1 * place, iv, delta) for place, (delta, iv) in enumerate(ladder)]
    put, call = 0.60 + 0.25 / 0.30 * 0.10, 0.60 + 0.25 / 0.30 * 0.05
    assert wings(points, None).risk_reversal == pytest.approx(call - put)


def test_no_butterfly_in_a_flat_smile() -> None:
    flat = [Point(moneyness, 0.6, 0.5) for moneyness in (0.5, 0.7, 0.9, 1.0, 1.1, 1.5, 3.0)]
    assert has_butterfly(flat, 0.1) is False
    assert has_butterfly(flat[:2], 0.1) is None


@pytest.mark.parametrize(
    "ivs",
    [
        pytest.param((0.6, 0.75, 0.6), id="not convex: the middle strike is too dear"),
        pytest.param((0.6, 0.6, 0.9), id="call prices rise with the strike"),
        pytest.param((0.9, 0.6, 0.6), id="they fall faster than the strike rises"),
    ],
)
def test_butterflies_by_hand(ivs: tuple[float, float, float]) -> None:
    strikes = (0.99, 1.0, 1.01)
    assert has_butterfly([Point(k, 0.6, 0.5) for k in strikes], 0.25) is False
    assert has_butterfly([Point(k, iv, 0.5) for k, iv in zip(strikes, ivs, strict=True)], 0.25) is True
