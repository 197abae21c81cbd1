"""Implied volatilities of an underlying's options, every 10 seconds (bars.md section 6).

Where the definition leaves a doubt:
- Options in their underlying and options in a stable coin have other forwards and other prices: a venue that lists
  both (Deribit: BTC and BTC_USDC) has a surface of each, told apart by `price_currency`.
- F is the underlying price of the newest quote of the expiry that passes the liquidity filter, in the money or not:
  which options are out of the money is known only once F is. Of quotes of one time that of the last symbol.
- The relative spread is (ask - bid) / ((ask + bid) / 2). A bid equal to the ask is not crossed. Where the venue does
  not tell the open interest (Binance), none is asked for.
- The mark volatility is the venue's. Where it prints none, it is that of the mark price by Black 1976, an inverse
  option's price first turned into quote currency by F. A price at or below intrinsic value has none.
- Time to expiry is counted to the expiry's own time, 08:00 UTC, in years of 365 days.
- A surface is written while its newest ticker is not older than `stale_after_s` and one option has not expired. An
  option stays seen until it expires; a ticker of one that has, by any ticker taken before, is passed over.
- The calendar flag compares with the expiry before that has a value at the money, without tolerance.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, ClassVar, NamedTuple

import msgspec
from msgspec import Struct

from processors.folds import black76, smile
from processors.folds.soundness import decimal_fault, double_fault, time_fault
from processors.join import NEVER, PartitionJoin
from ravencore.codec import decimal_bytes, decimal_units
from ravencore.config import SurfacesSettings
from ravencore.decimals import to_float, to_text
from ravencore.records import IvExpiry, IvPoint, IvSurface, OptionTicker
from ravencore.topics import IV_SURFACE

STEP_US = 10_000_000
YEAR_US = 365 * 86_400 * 1_000_000
FOREVER: int = (1 << 63) - 1
REASONS = (
    *("stale", "one_sided", "crossed", "wide", "open_interest"),
    *("no_forward", "in_the_money", "no_iv", "duplicate"),
)
"""Why an option is no point, in the order of the checks."""


class Option(Struct, frozen=True, array_like=True):
    """The newest ticker of an option; strike and underlying price are unscaled decimals in bytes."""

    symbol: str
    received_time: int
    connection_time: int
    connection_sequence: int
    expiry: int
    strike: bytes
    is_call: bool
    bid: float | None
    ask: float | None
    mark: float | None
    underlying: bytes | None
    mark_iv: float | None
    bid_iv: float | None
    ask_iv: float | None
    delta: float | None
    open_interest: float | None
    is_inverse: bool
    """Whether its prices are in units of the underlying."""

    @property
    def order(self) -> tuple[int, int, int]:
        """What tickers of an option are ordered by."""
        return self.received_time, self.connection_time, self.connection_sequence


class Chosen(NamedTuple):
    """An option that is a point of a smile."""

    option: Option
    strike: int
    point: smile.Point
    delta: float


class Sifted(NamedTuple):
    """What is used of the options of an expiry, by strike, and why the others are not."""

    expiry: int
    years: float
    forward: int | None
    chosen: list[Chosen]
    refused: dict[str, int]

    @property
    def points(self) -> list[smile.Point]:
        """Its smile."""
        return [one.point for one in self.chosen]


Chain = dict[str, Option]
"""Options of one venue and price currency by symbol."""


class Underlying:
    """The options on one underlying."""

    def __init__(self, underlying: str, settings: SurfacesSettings) -> None:
        self._underlying, self._settings = underlying, settings
        self._stale_after_us = round(settings.stale_after_s * 1e6)
        self._chains: dict[tuple[str, str], Chain] = {}
        self._latest: int | None = None
        """When the newest ticker was received."""
        self._first_expiry = FOREVER
        """No option expires before."""

    @property
    def until_us(self) -> int:
        """The last instant at which a ticker is not stale."""
        return NEVER if self._latest is None else self._latest + self._stale_after_us

    def take(self, ticker: OptionTicker) -> str:
        """Take a ticker for its option's newest."""
        latest = ticker.received_time if self._latest is None else max(ticker.received_time, self._latest)
        if ticker.expiry <= latest:
            return "expired_tickers"
        chain = self._chains.setdefault((ticker.venue, ticker.price_currency), {})
        option = _held(ticker)
        before = chain.get(option.symbol)
        if before is not None and option.order < before.order:
            return "late_tickers"
        chain[option.symbol] = option
        self._latest, self._first_expiry = latest, min(option.expiry, self._first_expiry)
        if self._first_expiry <= latest:
            self._forget_expired(latest)
        return "tickers"

    def sample(self, time_us: int) -> Sequence[IvSurface]:
        """The surfaces at an instant, by venue and price currency."""
        surfaces = []
        for (venue, currency), chain in sorted(self._chains.items()):
            alive = [option for option in chain.values() if option.expiry > time_us]
            if any(time_us - option.received_time <= self._stale_after_us for option in alive):
                surfaces.append(
                    IvSurface(
                        venue=venue,
                        underlying=self._underlying,
                        price_currency=currency,
                        time=time_us,
                        expiries=tuple(self._expiries(alive, time_us)),
                    )
                )
        return surfaces

    def snapshot(self) -> Any:
        """Everything."""
        chains = sorted(self._chains.items())
        return [self._latest, [[*key, [chain[name] for name in sorted(chain)]] for key, chain in chains if chain]]

    def restore(self, snapshot: Any) -> None:
        """Take over a snapshot."""
        self._latest, chains = snapshot
        for venue, currency, held in chains:
            options = msgspec.convert(held, list[Option])
            self._chains[venue, currency] = {option.symbol: option for option in options}
        self._first_expiry = min((option.expiry for option in self._options()), default=FOREVER)

    def _forget_expired(self, now_us: int) -> None:
        for key, chain in self._chains.items():
            self._chains[key] = {symbol: option for symbol, option in chain.items() if option.expiry > now_us}
        self._first_expiry = min((option.expiry for option in self._options()), default=FOREVER)

    def _options(self) -> Iterator[Option]:
        for chain in self._chains.values():
            yield from chain.values()

    def _expiries(self, alive: Sequence[Option], time_us: int) -> Iterator[IvExpiry]:
        before: float | None = None
        for expiry, options in groupby(sorted(alive, key=_expiry), key=_expiry):
            sifted = self._sift(expiry, list(options), time_us)
            variance = smile.atm_variance(sifted.points, sifted.years)
            falls = None if before is None or variance is None else variance < before
            yield _record(sifted, time_us, variance, falls)
            before = before if variance is None else variance

    def _sift(self, expiry: int, options: Sequence[Option], time_us: int) -> Sifted:
        """Go through the options of an expiry."""
        years = (expiry - time_us) / YEAR_US
        refused: Counter[str] = Counter()
        liquid = []
        for option in options:
            if reason := self._illiquid(option, time_us):
                refused[reason] += 1
            else:
                liquid.append(option)
        forward = _forward(liquid)
        chosen: dict[int, Chosen] = {}
        for option in sorted(liquid, key=_newest):
            one = _choose(option, forward, years)
            if isinstance(one, str):
                refused[one] += 1
            else:
                refused["duplicate"] += one.strike in chosen
                chosen[one.strike] = one
        told = {reason: refused[reason] for reason in REASONS if refused[reason]}
        return Sifted(expiry, years, forward, [chosen[strike] for strike in sorted(chosen)], told)

    def _illiquid(self, option: Option, time_us: int) -> str | None:
        """The first reason for which a quote is not used."""
        bid, ask, interest = option.bid, option.ask, option.open_interest
        if time_us - option.received_time > self._stale_after_us:
            return "stale"
        if not bid or not ask:
            return "one_sided"
        if bid > ask:
            return "crossed"
        if (ask - bid) / (0.5 * (ask + bid)) > self._settings.max_relative_spread:
            return "wide"
        if interest is not None and interest < self._settings.min_open_interest:
            return "open_interest"
        return None


def _held(ticker: OptionTicker) -> Option:
    return Option(
        symbol=ticker.symbol,
        received_time=ticker.received_time,
        connection_time=ticker.connection_time,
        connection_sequence=ticker.connection_sequence,
        expiry=ticker.expiry,
        strike=decimal_bytes(ticker.strike),
        is_call=ticker.option_side == "CALL",
        bid=_double(ticker.bid_price),
        ask=_double(ticker.ask_price),
        mark=_double(ticker.mark_price),
        underlying=decimal_bytes(ticker.underlying_price) if ticker.underlying_price else None,
        mark_iv=_volatility(ticker.mark_iv),
        bid_iv=_volatility(ticker.bid_iv),
        ask_iv=_volatility(ticker.ask_iv),
        delta=ticker.delta,
        open_interest=_double(ticker.open_interest),
        is_inverse=ticker.price_currency == ticker.underlying,
    )


def _double(units: int | None) -> float | None:
    return None if units is None else to_float(units)


def _volatility(iv: float | None) -> float | None:
    """A volatility that an option can have."""
    return iv if iv is not None and black76.LEAST_VOLATILITY <= iv <= black76.MOST_VOLATILITY else None


def _expiry(option: Option) -> int:
    return option.expiry


def _newest(option: Option) -> tuple[tuple[int, int, int], str]:
    return option.order, option.symbol


def _forward(liquid: Sequence[Option]) -> int | None:
    """The underlying price of the newest of these quotes that has one."""
    newest = max((option for option in liquid if option.underlying), key=_newest, default=None)
    return None if newest is None or newest.underlying is None else decimal_units(newest.underlying)


def _choose(option: Option, forward: int | None, years: float) -> Chosen | str:
    """The point that a liquid quote is, or why it is none."""
    if forward is None:
        return "no_forward"
    strike = decimal_units(option.strike)
    if option.is_call != (strike >= forward):
        return "in_the_money"
    iv = option.mark_iv or _implied(option, to_float(strike), to_float(forward), years)
    if iv is None:
        return "no_iv"
    moneyness = strike / forward
    delta = _delta(option, moneyness, iv * math.sqrt(years))
    return Chosen(option, strike, smile.Point(moneyness, iv, delta if option.is_call else delta + 1.0), delta)


def _implied(option: Option, strike: float, forward: float, years: float) -> float | None:
    if option.mark is None:
        return None
    premium = option.mark * forward if option.is_inverse else option.mark
    return _volatility(black76.implied_volatility(premium, forward, strike, years, option.is_call))


def _delta(option: Option, moneyness: float, deviation: float) -> float:
    """The venue's delta where it can be one, else that of the forward."""
    low = 0.0 if option.is_call else -1.0
    if option.delta is not None and low <= option.delta <= low + 1.0:
        return option.delta
    return black76.call_delta(1.0, moneyness, deviation) + low


def _record(sifted: Sifted, time_us: int, variance: float | None, falls: bool | None) -> IvExpiry:
    points, years = sifted.points, sifted.years
    atm_iv = None if variance is None else math.sqrt(variance / years)
    wings = smile.wings(points, atm_iv)
    return IvExpiry(
        expiry=sifted.expiry,
        years=years,
        forward=sifted.forward,
        atm_iv=atm_iv,
        risk_reversal_25=wings.risk_reversal,
        butterfly_25=wings.butterfly,
        calendar_arbitrage=falls,
        butterfly_arbitrage=smile.has_butterfly(points, years),
        seen=len(points) + sum(sifted.refused.values()),
        used=len(points),
        refused=sifted.refused,
        oldest_age=max((time_us - one.option.received_time for one in sifted.chosen), default=None),
        points=tuple(map(_point, sifted.chosen)),
    )


def _point(chosen: Chosen) -> IvPoint:
    option, point = chosen.option, chosen.point
    return IvPoint(
        strike=chosen.strike,
        side="CALL" if option.is_call else "PUT",
        log_moneyness=point.log_moneyness,
        iv=point.iv,
        bid_iv=option.bid_iv,
        ask_iv=option.ask_iv,
        delta=chosen.delta,
    )


class IvSurfaces(PartitionJoin[OptionTicker]):
    """All underlyings of one partition of raven.option_tickers."""

    step_us: ClassVar[int] = STEP_US
    topic: ClassVar[str] = IV_SURFACE
    counters: ClassVar[tuple[str, ...]] = ("tickers", "surfaces", "late_tickers", "expired_tickers")

    def __init__(self, settings: SurfacesSettings) -> None:
        super().__init__()
        self._settings = settings

    def fault(self, ticker: OptionTicker) -> str | None:
        """A strike that is not positive, a negative number where there can be none, or a time that cannot be."""
        if ticker.strike <= 0:
            return f"strike {to_text(ticker.strike)} is not positive"
        prices = ("strike", "bid_price", "ask_price", "mark_price", "underlying_price", "open_interest")
        return (
            time_fault(ticker.event_time, ticker.received_time)
            or decimal_fault((name, getattr(ticker, name)) for name in prices)
            or double_fault(((name, getattr(ticker, name)) for name in ("mark_iv", "bid_iv", "ask_iv")), 0.0)
            or double_fault([("delta", ticker.delta)], -math.inf)
        )

    def member(self, underlying: str) -> Underlying:
        """An underlying without options."""
        return Underlying(underlying, self._settings)
