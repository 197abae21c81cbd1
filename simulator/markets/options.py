"""An option chain: an arbitrage-free surface of volatilities that drifts, and what is quoted and traded around it.

The surface is an SSVI (Gatheral and Jacquier 2014): the total variance of log-moneyness k at at-the-money variance
theta is theta/2 (1 + rho phi k + sqrt((phi k + rho)^2 + 1 - rho^2)) with phi = eta / sqrt(theta (1 + theta)). As theta
grows with time to expiry and eta (1 + |rho|) <= 2, neither calendar nor butterfly spreads can be had for nothing.
Options are on the forward of their expiry (Black 1976); the rate is zero.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import NamedTuple

import msgspec

from simulator.contract import Listed, Snapshot
from simulator.events import Event, IndexPrice, Option, OptionTick, OptionTrade, VolatilityIndex

SECOND_NS = 10**9
HOUR_NS = 3600 * SECOND_NS
DAY_NS = 24 * HOUR_NS
YEAR_NS = 365 * DAY_NS
FRIDAY = 4
EXPIRY_HOUR = 8
SOONEST_NS = 6 * HOUR_NS
WEEKLIES, MONTHLIES, QUARTERLIES = 3, 2, 2
STRIKES_PER_SIDE = 10
REACH_SIGMAS = 2.6
NICE_STEPS = [base * 10**power for power in range(-4, 5) for base in (1.0, 2.0, 5.0)]
INDEX_VOLATILITY = 0.5
VARIANCE, LONG_VARIANCE, VARIANCE_RETURN = 0.30, 0.36, 2.5
VARIANCE_SIGMA = 0.02
VARIANCE_PULL = 1 / 1800
SKEW, SKEW_SIGMA = -0.25, 0.002
ETA = 0.9
CARRY = 0.06
SPREAD, WING_SPREAD = 0.006, 0.006
EMPTY_BEYOND_SIGMAS, EMPTY_SHARE = 1.8, 0.35
MAX_IV = 5.0
INDEX_DAYS = 30
INDEX_STRIKES = 120
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


class Style(msgspec.Struct, frozen=True):
    """How a venue lists options of an underlying; `inverse`: prices are in units of the underlying."""

    underlying: str
    price_currency: str
    inverse: bool
    tick_e8: int
    tick_steps: Sequence[tuple[int, int]]
    lot_e8: int
    price_index: str
    compact_dates: bool


DERIBIT_BTC = Style("BTC", "BTC", True, 10_000, ((500_000, 50_000),), 10_000_000, "btc_usd", False)
DERIBIT_ETH = Style("ETH", "ETH", True, 10_000, ((500_000, 50_000),), 100_000_000, "eth_usd", False)
BINANCE_BTC = Style("BTC", "USDT", False, 500_000_000, (), 1_000_000, "BTCUSDT", True)


class Greeks(NamedTuple):
    """Theta per day, vega and rho per percentage point."""

    delta: float
    gamma: float
    theta: float
    vega: float
    rho: float


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def _density(x: float) -> float:
    return math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def black(forward: float, strike: float, total_variance: float, is_call: bool) -> float:
    """The undiscounted price by Black 1976."""
    deviation = math.sqrt(total_variance)
    d1 = math.log(forward / strike) / deviation + deviation / 2.0
    sign = 1.0 if is_call else -1.0
    return sign * (forward * _normal(sign * d1) - strike * _normal(sign * (d1 - deviation)))


def greeks(forward: float, strike: float, years: float, volatility: float, is_call: bool) -> Greeks:
    """Derivatives of the undiscounted price; rho is that of a stock-like forward, strike x years x N(d2)."""
    deviation = volatility * math.sqrt(years)
    d1 = math.log(forward / strike) / deviation + deviation / 2.0
    sign = 1.0 if is_call else -1.0
    density = _density(d1)
    return Greeks(
        sign * _normal(sign * d1),
        density / (forward * deviation),
        -forward * density * volatility / (2.0 * math.sqrt(years)) / 365.0,
        forward * density * math.sqrt(years) / 100.0,
        sign * strike * years * _normal(sign * (d1 - deviation)) / 100.0,
    )


def implied_volatility(price: float, forward: float, strike: float, years: float, is_call: bool) -> float | None:
    """The volatility at which an option has this price, found by bisection; None where none up to MAX_IV gives it."""
    low, high = 1e-4, MAX_IV
    if (
        not black(forward, strike, low * low * years, is_call)
        < price
        < black(forward, strike, high * high * years, is_call)
    ):
        return None
    for _ in range(30):
        middle = (low + high) / 2.0
        if black(forward, strike, middle * middle * years, is_call) < price:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


class Surface:
    """Total variances by time to expiry and log-moneyness, at one moment."""

    def __init__(self, variance: float = VARIANCE, skew: float = SKEW) -> None:
        self.variance = variance
        self.skew = skew

    def at_the_money(self, years: float) -> float:
        """Total variance of the forward's own strike: grows with time."""
        decay = (1.0 - math.exp(-VARIANCE_RETURN * years)) / VARIANCE_RETURN
        return LONG_VARIANCE * years + (self.variance - LONG_VARIANCE) * decay

    def total_variance(self, years: float, log_moneyness: float) -> float:
        theta, rho = self.at_the_money(years), self.skew
        phi = ETA / math.sqrt(theta * (1.0 + theta))
        tilt = phi * log_moneyness
        return theta / 2.0 * (1.0 + rho * tilt + math.sqrt((tilt + rho) ** 2 + 1.0 - rho * rho))

    def index(self) -> float:
        """The 30-day volatility that a strip of all strikes replicates, as VIX and DVOL do."""
        years = INDEX_DAYS / 365.0
        reach = 6.0 * math.sqrt(self.at_the_money(years))
        step = 2.0 * reach / INDEX_STRIKES
        strip = 0.0
        for number in range(INDEX_STRIKES + 1):
            log_moneyness = -reach + number * step
            strike = math.exp(log_moneyness)
            strip += black(1.0, strike, self.total_variance(years, log_moneyness), strike >= 1.0) / strike * step
        return math.sqrt(2.0 * strip / years)

    def drift(self, seconds: float, rng: Random) -> None:
        self.variance += VARIANCE_PULL * seconds * (VARIANCE - self.variance)
        self.variance *= math.exp(rng.gauss(0.0, VARIANCE_SIGMA * math.sqrt(seconds / 60.0)))
        self.skew += VARIANCE_PULL * seconds * (SKEW - self.skew) + rng.gauss(
            0.0, SKEW_SIGMA * math.sqrt(seconds / 60.0)
        )
        self.skew = min(max(self.skew, -0.6), 0.3)


def expiries(now_ns: int) -> list[int]:
    """Fridays 08:00 UTC: the next three, and the last ones of two months and two quarters."""
    fridays = _fridays(now_ns)
    lasts = [day for day in fridays if (day + timedelta(days=7)).month != day.month]
    quarters = [day for day in lasts if day.month % 3 == 0]
    chosen = {*fridays[:WEEKLIES], *lasts[:MONTHLIES], *quarters[:QUARTERLIES]}
    return sorted(int(day.timestamp()) * SECOND_NS for day in chosen)


def _fridays(now_ns: int) -> list[datetime]:
    now = datetime.fromtimestamp((now_ns + SOONEST_NS) // SECOND_NS, UTC)
    first = now.replace(hour=EXPIRY_HOUR, minute=0, second=0, microsecond=0)
    first += timedelta(days=(FRIDAY - first.weekday()) % 7)
    if first < now:
        first += timedelta(days=7)
    return [first + timedelta(days=7 * week) for week in range(30)]


def spell(style: Style, expiry_ns: int, strike: float, is_call: bool) -> str:
    """BTC-27DEC24-40000-C, or with compact dates BTC-241227-40000-C; a decimal point is a d."""
    day = datetime.fromtimestamp(expiry_ns // SECOND_NS, UTC)
    date = f"{day:%y%m%d}" if style.compact_dates else f"{day.day}{MONTHS[day.month - 1]}{day:%y}"
    number = f"{strike:.8f}".rstrip("0").rstrip(".").replace(".", "d")
    return f"{style.underlying}-{date}-{number}-{'C' if is_call else 'P'}"


def strikes(forward: float, deviation: float, per_side: int) -> list[float]:
    """Round numbers around a forward, out to a few of its standard deviations."""
    wanted = forward * deviation * REACH_SIGMAS / per_side
    step = min(NICE_STEPS, key=lambda nice: abs(math.log(nice / wanted)))
    middle = round(forward / step)
    return [step * n for n in range(middle - per_side, middle + per_side + 1) if n > 0]


class OptionChain:
    """A Part: all options of one underlying, its index price and its volatility index.

    `listed_ns` is about when it begins: expiries are those of that day. Every option is quoted in the first second,
    then any of them `ticks_per_second` times a second in all.
    """

    snapshots: Mapping[str, Snapshot] = {}

    def __init__(
        self,
        seed: int,
        style: Style,
        listed_ns: int,
        *,
        index_price: float = 65_000.0,
        ticks_per_second: float = 100.0,
        trades_per_second: float = 2.0,
        strikes_per_side: int = STRIKES_PER_SIDE,
    ) -> None:
        self.seed = seed
        self.style = style
        self.index_price = index_price
        self.ticks_per_second = ticks_per_second
        self.trades_per_second = trades_per_second
        surface = Surface()
        self.options: list[Option] = []
        for expiry_ns in expiries(listed_ns):
            years = (expiry_ns - listed_ns) / YEAR_NS
            deviation = math.sqrt(surface.at_the_money(years))
            for strike in strikes(forward_of(index_price, years), deviation, strikes_per_side):
                self.options += [self._option(expiry_ns, strike, is_call) for is_call in (True, False)]
        self.instruments: Sequence[Listed] = self.options

    def _option(self, expiry_ns: int, strike: float, is_call: bool) -> Option:
        style = self.style
        return Option(
            spell(style, expiry_ns, strike, is_call),
            style.underlying,
            style.price_currency,
            expiry_ns,
            round(strike * 1e8),
            is_call,
            style.tick_e8,
            style.lot_e8,
            style.tick_steps,
        )

    def events(self, begin_ns: int) -> Iterator[Event]:
        return _Run(self, begin_ns).events()


def forward_of(index_price: float, years: float) -> float:
    return index_price * math.exp(CARRY * years)


class _Quoted:
    """What one option has of its own. `empty` says which of its sides nobody quotes when it is far out."""

    def __init__(self, option: Option, rng: Random) -> None:
        self.option = option
        self.strike = option.strike_e8 / 1e8
        self.bid_empty, self.ask_empty = rng.random() < EMPTY_SHARE, rng.random() < EMPTY_SHARE
        self.sequence = rng.randrange(1, 5_000)
        lot = option.lot_e8
        self.open_interest_e8 = int(rng.lognormvariate(5.0, 1.5) * 1e8 / lot) * lot
        self.volume_e8 = int(rng.lognormvariate(2.0, 1.5) * 1e8 / lot) * lot if rng.random() < 0.8 else 0
        self.last_e8: int | None = None


class _Run:
    """One run of a chain."""

    def __init__(self, chain: OptionChain, begin_ns: int) -> None:
        self.chain = chain
        self.style = chain.style
        self.rng = rng = Random(f"options/{chain.seed}/{chain.style.underlying}/{chain.style.price_currency}")
        self.begin_ns = begin_ns
        self.surface = Surface()
        self.index = chain.index_price
        self.quoted = [_Quoted(option, rng) for option in chain.options]
        self.trade_id = rng.randrange(10**8, 10**9)

    def events(self) -> Iterator[Event]:
        now_ns, first = self.begin_ns, list(self.quoted)
        self.rng.shuffle(first)
        next_second_ns = now_ns
        rate = self.chain.ticks_per_second + self.chain.trades_per_second
        trade_share = self.chain.trades_per_second / rate
        while True:
            wait_seconds = 1.0 / (2 * len(self.quoted)) if first else self.rng.expovariate(rate)
            now_ns += max(1, int(wait_seconds * SECOND_NS))
            while next_second_ns <= now_ns:
                yield from self._second(next_second_ns)
                next_second_ns += SECOND_NS
            quoted = first.pop() if first else self.rng.choice(self.quoted)
            if quoted.option.expiry_ns <= now_ns:
                continue
            tick = self._tick(now_ns, quoted)
            if not first and self.rng.random() < trade_share:
                yield self._trade(quoted, tick)
            else:
                yield tick

    def _second(self, now_ns: int) -> Iterator[Event]:
        self.surface.drift(1.0, self.rng)
        self.index *= math.exp(self.rng.gauss(0.0, INDEX_VOLATILITY * math.sqrt(SECOND_NS / YEAR_NS)))
        name = self.style.price_index
        yield IndexPrice(now_ns, name, round(self.index * 100) * 10**6)
        yield VolatilityIndex(now_ns, name, round(self.surface.index() * 10_000) * 10**6)

    def _tick(self, now_ns: int, quoted: _Quoted) -> OptionTick:
        option, strike = quoted.option, quoted.strike
        years = (option.expiry_ns - now_ns) / YEAR_NS
        forward = round(forward_of(self.index, years), 2)
        log_moneyness = math.log(strike / forward)
        total = self.surface.total_variance(years, log_moneyness)
        volatility = math.sqrt(total / years)
        sigmas = log_moneyness / math.sqrt(total)
        unit = forward if self.style.inverse else 1.0
        mark = black(forward, strike, total, option.is_call) / unit
        sensitivities = greeks(forward, strike, years, volatility, option.is_call)
        half = (SPREAD + WING_SPREAD * sigmas * sigmas) * sensitivities.vega * 100.0 / unit
        bid_e8, ask_e8 = self._sides(quoted, mark, half, sigmas)
        bid_iv, ask_iv = (
            None if side is None else implied_volatility(side * unit / 1e8, forward, strike, years, option.is_call)
            for side in (bid_e8, ask_e8)
        )
        return OptionTick(
            now_ns,
            option,
            bid_e8,
            self._amount() if bid_e8 is not None else 0,
            ask_e8,
            self._amount() if ask_e8 is not None else 0,
            round(mark * 1e8),
            quoted.last_e8,
            round(forward * 1e8),
            round(self.index * 100) * 10**6,
            volatility,
            bid_iv,
            ask_iv,
            *sensitivities,
            quoted.open_interest_e8,
            quoted.volume_e8,
        )

    def _sides(self, quoted: _Quoted, mark: float, half: float, sigmas: float) -> tuple[int | None, int | None]:
        """Bid and ask on ticks, the mark between them."""
        far = abs(sigmas) > EMPTY_BEYOND_SIGMAS
        loose = 1.0 + 0.3 * self.rng.random()
        bid_e8 = on_tick((mark - half * loose) * 1e8, quoted.option, up=False)
        ask_e8 = on_tick((mark + half * loose) * 1e8, quoted.option, up=True)
        no_bid = bid_e8 <= 0 or (far and quoted.bid_empty)
        return None if no_bid else bid_e8, None if far and quoted.ask_empty else ask_e8

    def _amount(self) -> int:
        return (1 + int(self.rng.lognormvariate(1.0, 1.2) * 1e8 / self.style.lot_e8)) * self.style.lot_e8

    def _trade(self, quoted: _Quoted, tick: OptionTick) -> OptionTick | OptionTrade:
        """A match at the best price of a side, one that is quoted; the tick itself when none is."""
        sides = [(price, buys) for price, buys in ((tick.bid_e8, False), (tick.ask_e8, True)) if price is not None]
        if not sides:
            return tick
        price_e8, buys = self.rng.choice(sides)
        iv = tick.ask_iv if buys else tick.bid_iv
        quantity_e8 = self._amount()
        quoted.sequence += 1
        quoted.last_e8 = price_e8
        quoted.volume_e8 += quantity_e8
        quoted.open_interest_e8 += quantity_e8 if self.rng.random() < 0.6 else 0
        self.trade_id += 1
        return OptionTrade(
            tick.time_ns,
            tick.option,
            quoted.sequence,
            self.trade_id,
            price_e8,
            quantity_e8,
            buys,
            tick.mark_e8,
            tick.index_e8,
            iv or 0.0,
        )


def on_tick(price_e8: float, option: Option, up: bool) -> int:
    """The next price up or down that the option can be quoted at."""
    starts = [start for start, _ in option.tick_steps]
    at = bisect_right(starts, price_e8)
    tick = option.tick_steps[at - 1][1] if at else option.tick_e8
    return (math.ceil(price_e8 / tick) if up else math.floor(price_e8 / tick)) * tick
