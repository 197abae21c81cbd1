"""A symbol with a believable order flow: one (seed, symbol) gives the same trades at any speed.

Per symbol: taker orders arrive in bursts (a Hawkes process with a fast and a slow kernel); their sides come from a few
hidden metaorders with Pareto lengths, worked off in parts, so that signs have long memory (Lillo, Mike and Farmer
2005); sizes are lognormal, a share of them round. An order walks through the book: it may give several trades at one
instant, at worsening prices. It pushes the mid, which slowly comes back, while a random walk carries the rest of the
volatility and makers requote around both. Depth differences every 100 ms tell exactly what the book became, quotes
what the best of it did.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from random import Random

import msgspec

from simulator.contract import Instrument, Snapshot
from simulator.events import DepthDiff, Levels, Quote, Trade, text_of

DEPTH_INTERVAL_NS = 100_000_000
SECONDS_PER_YEAR = 365.0 * 86_400.0
LEVELS_PER_SIDE = 400
LEVELS_KEPT = 50
METAORDERS = 4
LONGEST_METAORDER = 2_000
METAORDER_TAIL = 1.5
FAST_DECAY, FAST_BRANCHING = 20.0, 0.35
SLOW_DECAY, SLOW_BRANCHING = 0.5, 0.30
TRADES_PER_ORDER = 1.75
ORDER_NOTIONAL, ORDER_SIGMA = 250.0, 1.7
LEVEL_NOTIONAL, LEVEL_SIGMA = 6_000.0, 1.5
DISTANCE_BP, DISTANCE_SIGMA = 3.0, 1.3
MIN_DISTANCE_TICKS = 40.0
REFILLS = 4
ROUND_SHARE = 0.25
IMPACT, IMPACT_CAP, IMPACT_DECAY_SECONDS = 0.05, 6.0, 20.0
WALK_SHARE = 0.8


class Listing(msgspec.Struct, frozen=True):
    """A pair of currencies: first price, steps in 10^-8, mean trades per second, volatility per year.

    Quantities are of the base currency, those of an `inverse` contract of the quote currency.
    """

    base: str
    quote: str
    price: float
    tick_e8: int
    lot_e8: int
    trades_per_second: float
    volatility: float
    inverse: bool = False


_KNOWN = (
    Listing("BTC", "USDT", 65_000.0, 1_000_000, 1_000, 40.0, 0.50),
    Listing("ETH", "USDT", 2_600.0, 1_000_000, 10_000, 25.0, 0.65),
    Listing("SOL", "USDT", 150.0, 1_000_000, 100_000, 12.0, 0.80),
    Listing("BNB", "USDT", 580.0, 1_000_000, 100_000, 6.0, 0.55),
    Listing("XRP", "USDT", 0.58, 10_000, 10_000_000, 8.0, 0.75),
    Listing("DOGE", "USDT", 0.12, 1_000, 100_000_000, 6.0, 0.90),
    Listing("ADA", "USDT", 0.36, 10_000, 10_000_000, 4.0, 0.80),
    Listing("LTC", "USDT", 66.0, 1_000_000, 100_000, 3.0, 0.65),
    Listing("DOT", "USDT", 4.3, 100_000, 1_000_000, 2.0, 0.80),
    Listing("ETH", "BTC", 0.04, 1_000, 10_000, 4.0, 0.40),
    Listing("BTC", "USD", 65_000.0, 1_000_000, 1_000, 40.0, 0.50),
    Listing("ETH", "USD", 2_600.0, 1_000_000, 10_000, 25.0, 0.65),
    Listing("SOL", "USD", 150.0, 1_000_000, 100_000, 12.0, 0.80),
    Listing("XRP", "USD", 0.58, 10_000, 10_000_000, 8.0, 0.75),
)
LISTINGS = {listing.base + listing.quote: listing for listing in _KNOWN}
"""The pairs that can be traded, by base and quote in one word."""
INVERSE = {
    "BTC": msgspec.structs.replace(LISTINGS["BTCUSD"], tick_e8=50_000_000, lot_e8=1_000_000_000, inverse=True),
    "ETH": msgspec.structs.replace(LISTINGS["ETHUSD"], tick_e8=5_000_000, lot_e8=100_000_000, inverse=True),
}
"""Contracts of so many dollars that are settled in their base currency, by that."""


class Ladder:
    """One side of the book in whole ticks and lots: `sign` +1 for bids, -1 for asks; the best level is at the end."""

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.lots: dict[int, int] = {}
        self.keys: list[int] = []
        self.changed: set[int] = set()
        self.updates = 0

    @property
    def best(self) -> int:
        """The best price in ticks."""
        return self.sign * self.keys[-1]

    def set(self, key: int, lots: int) -> None:
        if key not in self.lots:
            insort(self.keys, key)
        self.lots[key] = lots
        self._note(key)

    def remove(self, key: int) -> None:
        del self.lots[key]
        del self.keys[bisect_left(self.keys, key)]
        self._note(key)

    def _note(self, key: int) -> None:
        self.changed.add(key)
        self.updates += 1

    def withdraw_beyond(self, limit: int) -> None:
        """Remove all levels better than or at the key `limit`."""
        while self.keys and self.keys[-1] >= limit:
            self.remove(self.keys[-1])

    def take(self, lots: int) -> list[tuple[int, int]]:
        """Fill an order, best level first, down to the last LEVELS_KEPT levels: (price in ticks, lots) per level."""
        fills = []
        while lots > 0 and len(self.keys) > LEVELS_KEPT:
            key = self.keys[-1]
            there = self.lots[key]
            filled = min(lots, there)
            fills.append((self.sign * key, filled))
            lots -= filled
            if filled == there:
                self.remove(key)
            else:
                self.set(key, there - filled)
        return fills

    def pop_changes(self) -> list[tuple[int, int]]:
        """(price in ticks, lots or 0) of every level touched since the last call, best first."""
        changes = [(self.sign * key, self.lots.get(key, 0)) for key in sorted(self.changed, reverse=True)]
        self.changed.clear()
        return changes


class Arrivals:
    """Hawkes arrival times by Ogata's thinning, in seconds from one to the next."""

    def __init__(self, rate: float, rng: Random) -> None:
        self.base = rate * (1.0 - FAST_BRANCHING - SLOW_BRANCHING)
        self.fast = rate * FAST_BRANCHING
        self.slow = rate * SLOW_BRANCHING
        self.rng = rng

    def next_seconds(self) -> float:
        waited = 0.0
        while True:
            bound = self.base + self.fast + self.slow
            step = self.rng.expovariate(bound)
            waited += step
            self.fast *= math.exp(-FAST_DECAY * step)
            self.slow *= math.exp(-SLOW_DECAY * step)
            if self.rng.random() * bound <= self.base + self.fast + self.slow:
                self.fast += FAST_BRANCHING * FAST_DECAY
                self.slow += SLOW_BRANCHING * SLOW_DECAY
                return waited


class Sides:
    """Taker sides (+1 buys) from metaorders worked off side by side."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.open = [self._metaorder() for _ in range(METAORDERS)]

    def _metaorder(self) -> list[int]:
        length = min(int(self.rng.paretovariate(METAORDER_TAIL)), LONGEST_METAORDER)
        return [self.rng.choice((1, -1)), length]

    def next(self) -> int:
        at = self.rng.randrange(METAORDERS)
        side, left = self.open[at]
        self.open[at] = [side, left - 1] if left > 1 else self._metaorder()
        return side


class SymbolMarket:
    """One symbol (`simulator.contract.Part`); markets of one seed and symbol differ by their `venue`."""

    def __init__(self, symbol: str, listing: Listing, seed: int, venue: str = "", kind: str = "spot") -> None:
        self.symbol = symbol
        self.listing = listing
        self.rng = Random(f"synthetic/{seed}/{venue}{symbol}")
        self.instruments: Sequence[Instrument] = (
            Instrument(symbol, listing.base, listing.quote, listing.tick_e8, listing.lot_e8, kind),
        )
        self.arrivals = Arrivals(listing.trades_per_second / TRADES_PER_ORDER, self.rng)
        self.sides = Sides(self.rng)
        self.value = listing.price * 1e8 / listing.tick_e8
        self.pressure = 0.0
        self.sigma = listing.volatility / math.sqrt(SECONDS_PER_YEAR) * self.value
        quote_in_usdt = 1.0 if listing.quote in {"USDT", "USD"} else LISTINGS[listing.quote + "USDT"].price
        self.lots_per_usdt = 1e8 / listing.lot_e8 / (1.0 if listing.inverse else listing.price * quote_in_usdt)
        self.distance = math.log(max(DISTANCE_BP * 1e-4 * self.value, MIN_DISTANCE_TICKS))
        self.bids, self.asks = Ladder(1), Ladder(-1)
        self.first_update_id = self.rng.randrange(10**9, 10**10)
        self.next_trade_id = self.rng.randrange(10**8, 10**9)
        self.sent_update_id = self.first_update_id
        self.last_ticks = int(self.value)
        self._open_book()
        self.snapshots: Mapping[str, Snapshot] = {symbol: self.snapshot()}
        self._quoted = self._best()

    def _open_book(self) -> None:
        bid = int(self.value)
        self.bids.set(bid, self._level_lots())
        self.asks.set(-bid - 1, self._level_lots())
        for ladder in (self.bids, self.asks):
            while len(ladder.keys) < LEVELS_PER_SIDE:
                self._add_behind(ladder)
            ladder.changed.clear()
            ladder.updates = 0

    def snapshot(self) -> Snapshot:
        """The whole book as it is now."""
        bids = [(key, self.bids.lots[key]) for key in reversed(self.bids.keys)]
        asks = [(-key, self.asks.lots[key]) for key in reversed(self.asks.keys)]
        return Snapshot(self.update_id, self._texts(bids), self._texts(asks))

    @property
    def update_id(self) -> int:
        return self.first_update_id + self.bids.updates + self.asks.updates

    def events(self, begin_ns: int) -> Iterator[Trade | DepthDiff | Quote]:
        """Everything that happens here, without end; to be run once."""
        moved_ns = quoted_us = 0
        next_depth_ns = self.rng.randrange(DEPTH_INTERVAL_NS)
        next_order_ns = int(self.arrivals.next_seconds() * 1e9)
        while True:
            now_ns = min(next_order_ns, next_depth_ns)
            self.requote((now_ns - moved_ns) / 1e9)
            moved_ns = now_ns
            if next_order_ns <= next_depth_ns:
                yield from self.order(begin_ns + now_ns)
                next_order_ns += int(self.arrivals.next_seconds() * 1e9)
            else:
                yield self._depth(begin_ns + now_ns)
                next_depth_ns += DEPTH_INTERVAL_NS
            time_us = (begin_ns + now_ns) // 1000
            if time_us > quoted_us and (best := self._best()) != self._quoted:
                quoted_us, self._quoted = time_us, best
                yield self._quote(begin_ns + now_ns, best)

    def _best(self) -> tuple[int, int, int, int]:
        """Bid and its lots, ask and its lots."""
        bid, ask = self.bids.keys[-1], self.asks.keys[-1]
        return bid, self.bids.lots[bid], -ask, self.asks.lots[ask]

    def _quote(self, time_ns: int, best: tuple[int, int, int, int]) -> Quote:
        tick, lot = self.listing.tick_e8, self.listing.lot_e8
        bid, bid_lots, ask, ask_lots = best
        sizes = (bid * tick, bid_lots * lot, ask * tick, ask_lots * lot)
        return Quote(time_ns, self.symbol, self.update_id, *sizes, self.last_ticks * tick)

    def requote(self, seconds: float) -> None:
        """Let the value move on and the makers follow it."""
        rng = self.rng
        self.value += rng.gauss(0.0, WALK_SHARE * self.sigma * math.sqrt(seconds))
        self.value = max(self.value, 1_000.0)
        self.pressure *= math.exp(-seconds / IMPACT_DECAY_SECONDS)
        width = 1 if rng.random() < 0.9 else rng.randint(1, 1 + int(1e-5 * self.value))
        bid = int(self.value + self.pressure) - width // 2
        self.asks.withdraw_beyond(-bid)
        self.bids.withdraw_beyond(bid + width)
        for ladder, key in ((self.bids, bid), (self.asks, -bid - width)):
            if not ladder.keys or ladder.keys[-1] < key:
                ladder.set(key, self._level_lots())
            self._rework(ladder)

    def _rework(self, ladder: Ladder) -> None:
        """Orders behind the best are added, changed and cancelled, around LEVELS_PER_SIDE of them."""
        for _ in range(REFILLS if len(ladder.keys) < LEVELS_PER_SIDE - 50 else 1):
            self._add_behind(ladder)
        if len(ladder.keys) > LEVELS_PER_SIDE:
            ladder.remove(ladder.keys[0])
        key = ladder.keys[-1 - int(self.rng.random() ** 2 * len(ladder.keys))]
        if self.rng.random() < 0.3 and key != ladder.keys[-1]:
            ladder.remove(key)
        else:
            ladder.set(key, self._level_lots())

    def _add_behind(self, ladder: Ladder) -> None:
        distance = 1 + int(math.exp(self.rng.gauss(self.distance, DISTANCE_SIGMA)))
        key = ladder.keys[-1] - distance
        if ladder.sign * key > 0 and key not in ladder.lots:
            ladder.set(key, self._level_lots())

    def _level_lots(self) -> int:
        return 1 + int(self.rng.lognormvariate(math.log(LEVEL_NOTIONAL), LEVEL_SIGMA) * self.lots_per_usdt)

    def _order_lots(self) -> int:
        notional = self.rng.lognormvariate(math.log(ORDER_NOTIONAL), ORDER_SIGMA)
        lots = 1 + int(notional * self.lots_per_usdt)
        if self.rng.random() >= ROUND_SHARE:
            return lots
        magnitude = int("1" + "0" * (len(str(lots)) - 1))
        return lots // magnitude * magnitude

    def order(self, now_ns: int) -> list[Trade]:
        """One taker order: its trades, with ids that count up, at worsening prices."""
        side = self.sides.next()
        ladder = self.asks if side > 0 else self.bids
        fills = ladder.take(self._order_lots())
        trades = [self._trade(now_ns, price, lots, side) for price, there in fills for lots in self._makers(there)]
        taken = sum(lots for _, lots in fills) / self.lots_per_usdt / ORDER_NOTIONAL
        self.pressure += side * IMPACT * self.sigma * min(math.sqrt(taken), IMPACT_CAP)
        return trades

    def _makers(self, lots: int) -> list[int]:
        """A level's fill in the orders that stood there."""
        parts = []
        while lots > 1 and self.rng.random() < 0.35:
            part = self.rng.randint(1, lots - 1)
            parts.append(part)
            lots -= part
        return [*parts, lots]

    def _trade(self, now_ns: int, price: int, lots: int, side: int) -> Trade:
        self.next_trade_id += 1
        self.last_ticks = price
        listing = self.listing
        price_e8, quantity_e8 = price * listing.tick_e8, lots * listing.lot_e8
        return Trade(now_ns, self.symbol, self.next_trade_id, price_e8, quantity_e8, side < 0)

    def _depth(self, now_ns: int) -> DepthDiff:
        first_id = self.sent_update_id + 1
        self.sent_update_id = self.update_id
        bids, asks = self._texts(self.bids.pop_changes()), self._texts(self.asks.pop_changes())
        return DepthDiff(now_ns, self.symbol, first_id, self.sent_update_id, bids, asks)

    def _texts(self, levels: list[tuple[int, int]]) -> Levels:
        tick, lot = self.listing.tick_e8, self.listing.lot_e8
        return [(text_of(price * tick), text_of(lots * lot)) for price, lots in levels]
