"""What perpetual futures add to a flow of trades: candles, marks with funding, liquidations and open interest.

Candles are exact sums of the trades. The index lies near the price; the mark is the index and a smoothed basis; the
funding rate follows the mean premium of the period, clamped as Binance does ("Introduction to Binance Futures Funding
Rates": premium + clamp(0.01 % - premium, +-0.05 %), within a cap). Liquidations come in bursts after moves that are
large against the last minutes', in the direction of the move, where there is trading.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from random import Random

import msgspec

from simulator.contract import Instrument, Listed, Part, Snapshot
from simulator.events import (
    DepthDiff,
    Event,
    Kline,
    Levels,
    Liquidation,
    Mark,
    Marks,
    OpenInterest,
    Quote,
    Trade,
    text_of,
)

SECOND_NS = 10**9
MINUTE_NS = 60 * SECOND_NS
MILLISECOND_NS = 10**6
MICROSECOND_NS = 10**3
FUNDING_PERIOD_NS = 8 * 3600 * SECOND_NS
KLINE_INTERVAL_NS = 250 * MILLISECOND_NS
OPEN_INTEREST_SECONDS = 10
INTEREST = 0.0001
CLAMP = 0.0005
RATE_CAP = 0.02
THIN_LEVELS = 25
THIN_LEVEL_NOTIONAL = 500.0
REQUOTES_PER_SECOND = 0.25
BASIS_SIGMA, BASIS_RETURN = 0.0003, 0.02
BASIS_SMOOTHING = 1 / 30
PREMIUM_SMOOTHING = 1 / 600
MOVE_SECONDS = 5
VARIANCE_SMOOTHING = 1 / 120
BURST_SIGMAS = 2.5
BUSY_TRADES_PER_SECOND = 5
BURST_STOPS = 0.35
BURST_SPACING_MS = 15
BANKRUPTCY = 0.006
LIQUIDATED_NOTIONAL, LIQUIDATED_SIGMA = 4_000.0, 1.5
OPEN_INTEREST_NOTIONAL, OPEN_INTEREST_SIGMA = 3e7, 1.2
OPEN_INTEREST_STEP = 0.0005
FIRST_YEAR_SECONDS = 365.0 * 86_400.0


class ThinListing(msgspec.Struct, frozen=True):
    """A perpetual that trades now and then."""

    symbol: str
    base: str
    price: float
    tick_e8: int
    lot_e8: int
    trades_per_minute: float
    volatility: float


def thin_listings(count: int, seed: int, taken: Iterable[str] = ()) -> list[ThinListing]:
    """That many USDT perpetuals of invented coins, none with a symbol that is `taken`."""
    rng = Random(f"thin/{seed}")
    found: dict[str, ThinListing] = {}
    refused = set(taken)
    while len(found) < count:
        base = "".join(rng.choice(letters) for letters in ("BDFGKLMNPRSTVXZ", "AEIOU", "BDFGKLMNPRSTVXZ", "AEIOUX"))
        if base + "USDT" not in refused:
            found.setdefault(base, _thin_listing(base, rng))
    return list(found.values())


def _thin_listing(base: str, rng: Random) -> ThinListing:
    price = 10 ** rng.uniform(-2.5, 2.5)
    tick_e8 = 10 ** (4 + math.floor(math.log10(price)))
    lot_e8 = 10 ** min(8, max(5, 8 - math.floor(math.log10(price))))
    return ThinListing(base + "USDT", base, price, tick_e8, lot_e8, rng.uniform(0.5, 8.0), rng.uniform(0.7, 1.6))


class ThinFlow:
    """Many perpetuals that trade a few times a minute and have sparse books: a Part made for its small cost."""

    def __init__(self, seed: int, listings: Sequence[ThinListing]) -> None:
        self.seed = seed
        self.listings = listings
        self.instruments: Sequence[Listed] = [
            Instrument(row.symbol, row.base, "USDT", row.tick_e8, row.lot_e8, "perpetual") for row in listings
        ]

    @property
    def snapshots(self) -> Mapping[str, Snapshot]:
        return {row.symbol: _ThinBook(row, self.seed).snapshot() for row in self.listings}

    def events(self, begin_ns: int) -> Iterator[Trade | DepthDiff | Quote]:
        return heapq.merge(*(self._events(listing, begin_ns) for listing in self.listings), key=_time)

    def _events(self, listing: ThinListing, begin_ns: int) -> Iterator[Trade | DepthDiff | Quote]:
        """The trades, and how the book goes with them and between them."""
        book, told_ns, price_e8 = _ThinBook(listing, self.seed), begin_ns, round(listing.price * 1e8)
        for trade in self._trades(listing, begin_ns):
            while (requote_ns := told_ns + book.next_ns()) + MICROSECOND_NS < trade.time_ns:
                told_ns = requote_ns
                yield from book.requote(told_ns, price_e8)
            told_ns, price_e8 = trade.time_ns, trade.price_e8
            yield trade
            yield from book.requote(told_ns, price_e8)

    def _trades(self, listing: ThinListing, begin_ns: int) -> Iterator[Trade]:
        rng = Random(f"thin/{self.seed}/{listing.symbol}")
        per_second = listing.trades_per_minute / 60.0
        sigma = listing.volatility / math.sqrt(FIRST_YEAR_SECONDS)
        price, trade_id, since_ns = listing.price, rng.randrange(10**6, 10**8), 0
        while True:
            waited = rng.expovariate(per_second)
            since_ns += int(waited * SECOND_NS)
            price *= math.exp(rng.gauss(0.0, sigma * math.sqrt(waited)))
            trade_id += 1
            quantity = rng.lognormvariate(math.log(150.0), 1.2) / price
            price_e8 = max(1, round(price * 1e8 / listing.tick_e8)) * listing.tick_e8
            quantity_e8 = (1 + int(quantity * 1e8 / listing.lot_e8)) * listing.lot_e8
            yield Trade(begin_ns + since_ns, listing.symbol, trade_id, price_e8, quantity_e8, rng.random() < 0.5)


class _ThinBook:
    """A few levels around a price, in whole ticks and lots."""

    def __init__(self, listing: ThinListing, seed: int) -> None:
        self.listing = listing
        self.rng = Random(f"thin/{seed}/{listing.symbol}/book")
        self.lots = THIN_LEVEL_NOTIONAL / listing.price * 1e8 / listing.lot_e8
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self.update_id = self.rng.randrange(10**8, 10**9)
        self._settle(round(listing.price * 1e8 / listing.tick_e8))

    def next_ns(self) -> int:
        """How long until somebody quotes anew."""
        return int(self.rng.expovariate(REQUOTES_PER_SECOND) * SECOND_NS) + MICROSECOND_NS

    def requote(self, time_ns: int, price_e8: int) -> Iterator[DepthDiff | Quote]:
        """Around this price, at which there is no level."""
        bids, asks = dict(self.bids), dict(self.asks)
        self._settle(price_e8 // self.listing.tick_e8)
        bid_changes, ask_changes = self._changes(bids, self.bids), self._changes(asks, self.asks)
        if not bid_changes and not ask_changes:
            return
        first_id = self.update_id + 1
        self.update_id += len(bid_changes) + len(ask_changes)
        told = self._texts(sorted(bid_changes.items(), reverse=True)), self._texts(sorted(ask_changes.items()))
        yield DepthDiff(time_ns, self.listing.symbol, first_id, self.update_id, *told)
        yield self._quote(time_ns, price_e8)

    def _settle(self, price: int) -> None:
        for side, sign in ((self.bids, 1), (self.asks, -1)):
            for level in [level for level in side if sign * (price - level) <= 0]:
                del side[level]
            self._put(side, price - sign * self.rng.randint(1, 3))
            while len(side) < THIN_LEVELS:
                self._put(side, self._worst(side, sign) - sign * self.rng.randint(1, 5))
            while len(side) > THIN_LEVELS:
                del side[self._worst(side, sign)]

    def _put(self, side: dict[int, int], level: int) -> None:
        side[level] = 1 + int(self.rng.expovariate(1.0) * self.lots)

    @staticmethod
    def _worst(side: Mapping[int, int], sign: int) -> int:
        return min(side) if sign > 0 else max(side)

    @staticmethod
    def _changes(before: Mapping[int, int], after: Mapping[int, int]) -> dict[int, int]:
        levels = before.keys() | after.keys()
        return {level: after.get(level, 0) for level in levels if before.get(level) != after.get(level)}

    def _texts(self, levels: Iterable[tuple[int, int]]) -> Levels:
        tick, lot = self.listing.tick_e8, self.listing.lot_e8
        return [(text_of(price * tick), text_of(lots * lot)) for price, lots in levels]

    def _quote(self, time_ns: int, last_e8: int) -> Quote:
        tick, lot = self.listing.tick_e8, self.listing.lot_e8
        bid, ask = max(self.bids), min(self.asks)
        bid_e8, bid_quantity_e8, ask_quantity_e8 = bid * tick, self.bids[bid] * lot, self.asks[ask] * lot
        symbol = self.listing.symbol
        return Quote(time_ns, symbol, self.update_id, bid_e8, bid_quantity_e8, ask * tick, ask_quantity_e8, last_e8)

    def snapshot(self) -> Snapshot:
        bids, asks = sorted(self.bids.items(), reverse=True), sorted(self.asks.items())
        return Snapshot(self.update_id, self._texts(bids), self._texts(asks))


def _time(event: Event) -> int:
    return event.time_ns


class Perpetuals:
    """A Part: the events of some flows, and what their trades lead to. `prices` are those before the first trade."""

    def __init__(self, seed: int, flows: Sequence[Part], prices: Mapping[str, float]) -> None:
        self.seed = seed
        self.flows = flows
        self.prices = prices
        self.instruments: Sequence[Listed] = list(chain.from_iterable(flow.instruments for flow in flows))
        self.snapshots = {symbol: book for flow in flows for symbol, book in flow.snapshots.items()}

    def events(self, begin_ns: int) -> Iterator[Event]:
        contracts = {
            row.symbol: _Contract(row, self.prices[row.symbol], self.seed, begin_ns)
            for row in self.instruments
            if isinstance(row, Instrument)
        }
        clock = _Clock(contracts, begin_ns)
        for event in heapq.merge(*(flow.events(begin_ns) for flow in self.flows), key=_time):
            yield from clock.until(event.time_ns)
            yield event
            if isinstance(event, Trade):
                yield from contracts[event.symbol].take(event)


class _Clock:
    """What happens at whole seconds, and the liquidations that were set off and are still to come."""

    def __init__(self, contracts: Mapping[str, "_Contract"], begin_ns: int) -> None:
        self.contracts = contracts
        self.next_second_ns = begin_ns - begin_ns % SECOND_NS + SECOND_NS
        self.due: list[tuple[int, str, Liquidation]] = []

    def until(self, time_ns: int) -> Iterator[Event]:
        while self.next_second_ns <= time_ns:
            yield from self._liquidations(self.next_second_ns)
            yield from self._second(self.next_second_ns)
            self.next_second_ns += SECOND_NS
        yield from self._liquidations(time_ns)

    def _liquidations(self, time_ns: int) -> Iterator[Liquidation]:
        while self.due and self.due[0][0] <= time_ns:
            yield heapq.heappop(self.due)[2]

    def _second(self, now_ns: int) -> Iterator[Event]:
        if now_ns % MINUTE_NS == 0:
            yield from (contract.close_minute(now_ns) for contract in self.contracts.values())
        yield Marks(now_ns, [contract.mark(now_ns) for contract in self.contracts.values()])
        second = now_ns // SECOND_NS
        for number, contract in enumerate(self.contracts.values()):
            for liquidation in contract.liquidations(now_ns):
                heapq.heappush(self.due, (liquidation.time_ns, liquidation.symbol, liquidation))
            if second % OPEN_INTEREST_SECONDS == number % OPEN_INTEREST_SECONDS:
                yield contract.move_open_interest(now_ns)


class _Contract:
    """One perpetual."""

    def __init__(self, instrument: Instrument, price: float, seed: int, begin_ns: int) -> None:
        self.symbol = instrument.symbol
        self.instrument = instrument
        self.rng = Random(f"perpetuals/{seed}/{instrument.symbol}")
        self.last = price
        self.open_time_ns = begin_ns - begin_ns % MINUTE_NS
        self.close_e8 = round(price * 1e8 / instrument.tick_e8) * instrument.tick_e8
        self.minute: _Minute | None = None
        self.told_ns = 0
        self.basis = self.rng.gauss(0.0001, BASIS_SIGMA)
        self.smooth_basis = self.premium = self.basis
        self.moves = [price] * MOVE_SECONDS
        self.variance = 0.0
        self.seconds = 0
        self.busy_until_ns = 0
        self.trades = 0
        notional = self.rng.lognormvariate(math.log(OPEN_INTEREST_NOTIONAL), OPEN_INTEREST_SIGMA)
        self.open_interest = notional / price

    def take(self, trade: Trade) -> Iterator[Kline]:
        """Count a trade, and tell how the candle looks when that was not just done."""
        self.last = trade.price_e8 / 1e8
        self.close_e8 = trade.price_e8
        self.trades += 1
        if self.minute is None:
            self.minute = _Minute(trade)
        self.minute.add(trade)
        if trade.time_ns - self.told_ns >= KLINE_INTERVAL_NS:
            self.told_ns = trade.time_ns
            yield self.minute.kline(trade.time_ns, self.symbol, self.open_time_ns, closed=False)

    def close_minute(self, now_ns: int) -> Kline:
        """The candle of the minute that ends now; one without trades keeps the last price."""
        minute, opened_ns = self.minute, self.open_time_ns
        self.minute, self.open_time_ns = None, now_ns
        if minute is not None:
            return minute.kline(now_ns, self.symbol, opened_ns, closed=True)
        price = self.close_e8
        return Kline(now_ns, self.symbol, opened_ns, price, price, price, price, 0, 0, 0, 0, 0, None, None, closed=True)

    def mark(self, now_ns: int) -> Mark:
        """One second later."""
        self.basis += BASIS_RETURN * (0.0001 - self.basis)
        self.basis += self.rng.gauss(0.0, BASIS_SIGMA * math.sqrt(2.0 * BASIS_RETURN))
        self.smooth_basis += BASIS_SMOOTHING * (self.basis - self.smooth_basis)
        self.premium += PREMIUM_SMOOTHING * (self.basis - self.premium)
        index = self.last / (1.0 + self.basis)
        return Mark(
            self.symbol,
            round(index * (1.0 + self.smooth_basis) * 1e8),
            round(index * 1e8),
            round(funding_rate(self.premium) * 1e8),
            now_ns - now_ns % FUNDING_PERIOD_NS + FUNDING_PERIOD_NS,
        )

    def liquidations(self, now_ns: int) -> list[Liquidation]:
        """Those that the move of the last seconds sets off, in the seconds to come."""
        self.moves.append(self.last)
        move = math.log(self.last / self.moves.pop(0))
        sigma = math.sqrt(self.variance * MOVE_SECONDS)
        step = math.log(self.last / self.moves[-2])
        self.seconds += 1
        self.variance += max(VARIANCE_SMOOTHING, 1.0 / self.seconds) * (step * step - self.variance)
        busy, self.trades = self.trades / BUSY_TRADES_PER_SECOND, 0
        if abs(move) <= BURST_SIGMAS * sigma or now_ns < self.busy_until_ns or self.seconds < 2 * MOVE_SECONDS:
            return []
        if self.rng.random() >= busy:
            return []
        return self._burst(now_ns, buys=move > 0.0)

    def _burst(self, now_ns: int, buys: bool) -> list[Liquidation]:
        found: list[Liquidation] = []
        time_ns = now_ns - now_ns % MILLISECOND_NS
        while not found or self.rng.random() > BURST_STOPS:
            time_ns += MILLISECOND_NS * (1 + int(self.rng.expovariate(1.0 / BURST_SPACING_MS)))
            found.append(self._liquidation(time_ns, buys))
        self.busy_until_ns = time_ns + 1
        return found

    def _liquidation(self, time_ns: int, buys: bool) -> Liquidation:
        worse = 1.0 if buys else -1.0
        notional = self.rng.lognormvariate(math.log(LIQUIDATED_NOTIONAL), LIQUIDATED_SIGMA)
        lots = 1 + int(notional / self.last * 1e8 / self.instrument.lot_e8)
        price = self._ticks(self.last * (1.0 + worse * BANKRUPTCY * self.rng.random()))
        average = self._ticks(self.last * (1.0 + worse * 0.0002 * self.rng.random()))
        average = min(average, price) if buys else max(average, price)
        return Liquidation(time_ns, self.symbol, buys, price, average, lots * self.instrument.lot_e8)

    def _ticks(self, price: float) -> int:
        return max(1, round(price * 1e8 / self.instrument.tick_e8)) * self.instrument.tick_e8

    def move_open_interest(self, now_ns: int) -> OpenInterest:
        self.open_interest *= math.exp(self.rng.gauss(0.0, OPEN_INTEREST_STEP))
        lot = self.instrument.lot_e8
        return OpenInterest(now_ns, self.symbol, round(self.open_interest * 1e8 / lot) * lot)


def funding_rate(premium: float) -> float:
    """The rate of a period with this mean premium."""
    rate = premium + min(max(INTEREST - premium, -CLAMP), CLAMP)
    return min(max(rate, -RATE_CAP), RATE_CAP)


class _Minute:
    """The sums of a candle that has trades; notional in 10^-16 until it is told."""

    def __init__(self, first: Trade) -> None:
        self.open_e8 = self.high_e8 = self.low_e8 = first.price_e8
        self.first_id = first.trade_id
        self.volume = self.notional = self.bought = self.bought_notional = self.count = 0

    def add(self, trade: Trade) -> None:
        self.high_e8 = max(self.high_e8, trade.price_e8)
        self.low_e8 = min(self.low_e8, trade.price_e8)
        self.close_e8, self.last_id = trade.price_e8, trade.trade_id
        self.count += 1
        notional = trade.price_e8 * trade.quantity_e8
        self.volume += trade.quantity_e8
        self.notional += notional
        if not trade.buyer_is_maker:
            self.bought += trade.quantity_e8
            self.bought_notional += notional

    def kline(self, time_ns: int, symbol: str, open_time_ns: int, closed: bool) -> Kline:
        return Kline(
            time_ns,
            symbol,
            open_time_ns,
            self.open_e8,
            self.high_e8,
            self.low_e8,
            self.close_e8,
            self.volume,
            self.notional // 10**8,
            self.count,
            self.bought,
            self.bought_notional // 10**8,
            self.first_id,
            self.last_id,
            closed,
        )
