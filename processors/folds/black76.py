"""Options on a forward without discounting: Black, "The pricing of commodity contracts", 1976, with a rate of zero.

    d1 = ln(F / K) / s + s / 2,  d2 = d1 - s,  s = volatility * sqrt(years)
    call = F N(d1) - K N(d2),  put = K N(-d2) - F N(-d1),  delta = N(d1) of a call, N(d1) - 1 of a put

`deviation` is s everywhere. A price in the underlying itself, as of inverse options, is this price / F.
"""

import math

LEAST_VOLATILITY, MOST_VOLATILITY = 1e-6, 100.0
"""Per year as fractions; what lies beyond is no volatility."""
SQRT_2 = math.sqrt(2.0)
HALVINGS = 64


def normal(x: float) -> float:
    """The standard normal distribution N."""
    return 0.5 * math.erfc(-x / SQRT_2)


def d1(forward: float, strike: float, deviation: float) -> float:
    """How many deviations the forward lies above the strike, half a deviation added."""
    return math.log(forward / strike) / deviation + 0.5 * deviation


def price(forward: float, strike: float, deviation: float, is_call: bool) -> float:
    """The price in quote currency; the deviation must be positive."""
    sign = 1.0 if is_call else -1.0
    above = d1(forward, strike, deviation)
    return sign * (forward * normal(sign * above) - strike * normal(sign * (above - deviation)))


def call_delta(forward: float, strike: float, deviation: float) -> float:
    """Delta of the call; that of the put is lower by 1."""
    return normal(d1(forward, strike, deviation))


def implied_volatility(premium: float, forward: float, strike: float, years: float, is_call: bool) -> float | None:
    """The volatility at which an option has this price in quote currency, by bisection.

    None for a price at or below what the option is worth without volatility, and for one that no volatility gives.
    """
    root = math.sqrt(years)
    intrinsic = max(forward - strike if is_call else strike - forward, 0.0)
    if not intrinsic < premium < price(forward, strike, MOST_VOLATILITY * root, is_call):
        return None
    low, high = 0.0, MOST_VOLATILITY
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if price(forward, strike, middle * root, is_call) < premium:
            low = middle
        else:
            high = middle
    return high
