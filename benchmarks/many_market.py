"""A market of hundreds of symbols, its frames spelt beforehand as Binance prints them: only ids and times are left out.

Each stream of a symbol has VARIANTS frames that come in turn, all together with more levels and quantities than the
collector's caches hold. How often a symbol prints falls with its rank as Zipf's law has it, and how much the market
prints at all changes from second to second.
"""

import math
import random
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import NamedTuple, Protocol

from benchmarks.feeds import message
from producers.contract import BOOKS, QUOTES, TRADES

VARIANTS = 64
FIRST_ID = 5_000_000_001
"""Ids have ten digits all along, so that the length of a frame is known before it is sent."""
IDS_PER_UPDATE = 5
"""Changes that a frame of a book stands for, each with an id of its own."""
TOP = 20
LEVELS_BEHIND_TOP = 60
"""Levels of each side of a book of which only the TOP are printed."""
TOUCHED = 6
"""Levels of each side that change from one frame to the next, or some fewer."""
HEAT_STAYS, HEAT_SIGMA = 0.9, 0.6
MAKERS = ("true", "false")
SOME_TIME_US = 1_800_000_000_000_000
"""As long as any time of these years."""

Side = dict[int, int]
"""Lots by price in ticks."""
Ladder = tuple[Side, Side]
"""Bids and asks."""
Levels = list[tuple[int, int]]
Spell = Callable[[str, str, str], str]


class Plan(NamedTuple):
    """What the venue is to play; rates are of all symbols together, a second."""

    venue: str
    symbols: int
    trades: float
    books: float
    quotes: float
    kept: bool
    """Books are told as differences, to be kept from a snapshot over REST."""
    levels: int
    """Of each side of a snapshot."""
    cut_seconds: float
    hole_seconds: float
    seed: int = 1


# How a venue prints; `%(now)d`, `%(id)d` and the like are filled in when a frame is sent.


class Dialect(Protocol):
    """One venue's words."""

    streams: Mapping[str, str]
    """By channel, what follows the symbol in a stream's name."""
    time_unit_us: int
    decimals: int | None
    """Of prices and quantities; None: prices have as many as their tick, quantities three."""

    def trade(self, name: str, price: str, quantity: str, maker: str) -> str:
        """Data of a trade."""

    def past_trade(self, price: str, quantity: str, maker: str) -> str:
        """The same over REST."""

    def book(self, name: str, bids: str, asks: str) -> str:
        """Data of the best levels."""

    def changes(self, name: str, bids: str, asks: str) -> str:
        """Data of a difference."""

    def quote(self, name: str, bid: Sequence[str], ask: Sequence[str]) -> str:
        """Data of the best bid and ask."""

    def listed(self, name: str) -> str:
        """A symbol of exchangeInfo."""


class Spot:
    """As producers/venues/binance_spot.py reads it, times in microseconds."""

    streams: Mapping[str, str] = {TRADES: "@trade", BOOKS: "@depth20@100ms", QUOTES: "@bookTicker"}
    time_unit_us = 1
    decimals: int | None = 8

    def trade(self, name: str, price: str, quantity: str, maker: str) -> str:
        """Data of @trade."""
        priced = f'"t":%(id)d,"p":"{price}","q":"{quantity}"'
        return f'{{"e":"trade","E":%(now)d,"s":"{name}",{priced},"T":%(now)d,"m":{maker},"M":true}}'

    def past_trade(self, price: str, quantity: str, maker: str) -> str:
        """One of historicalTrades."""
        priced = f'"price":"{price}","qty":"{quantity}","quoteQty":"1.00000000"'
        return f'{{"id":%(id)d,{priced},"time":%(now)d,"isBuyerMaker":{maker},"isBestMatch":true}}'

    def book(self, name: str, bids: str, asks: str) -> str:
        """Data of @depth20."""
        return f'{{"lastUpdateId":%(id)d,"bids":[{bids}],"asks":[{asks}]}}'

    def changes(self, name: str, bids: str, asks: str) -> str:
        """Data of @depth."""
        ids = '"U":%(first)d,"u":%(id)d'
        return f'{{"e":"depthUpdate","E":%(now)d,"s":"{name}",{ids},"b":[{bids}],"a":[{asks}]}}'

    def quote(self, name: str, bid: Sequence[str], ask: Sequence[str]) -> str:
        """Data of @bookTicker."""
        best = f'"b":"{bid[0]}","B":"{bid[1]}","a":"{ask[0]}","A":"{ask[1]}"'
        return f'{{"u":%(id)d,"s":"{name}",{best}}}'

    def listed(self, name: str) -> str:
        """A symbol of exchangeInfo."""
        return f'{{"symbol":"{name}","status":"TRADING",{_currencies(name)},"filters":[]}}'


class Futures:
    """As producers/venues/binance_futures.py reads it, times in milliseconds."""

    streams: Mapping[str, str] = {TRADES: "@aggTrade", BOOKS: "@depth20@100ms"}
    time_unit_us = 1000
    decimals: int | None = None

    def trade(self, name: str, price: str, quantity: str, maker: str) -> str:
        """Data of @aggTrade."""
        priced = f'"p":"{price}","q":"{quantity}","f":%(id)d,"l":%(id)d'
        return f'{{"e":"aggTrade","E":%(now)d,"a":%(id)d,"s":"{name}",{priced},"T":%(now)d,"m":{maker}}}'

    def past_trade(self, price: str, quantity: str, maker: str) -> str:
        """One of aggTrades."""
        return f'{{"a":%(id)d,"p":"{price}","q":"{quantity}","f":%(id)d,"l":%(id)d,"T":%(now)d,"m":{maker}}}'

    def book(self, name: str, bids: str, asks: str) -> str:
        """Data of @depth20."""
        return self.changes(name, bids, asks)

    def changes(self, name: str, bids: str, asks: str) -> str:
        """Data of @depth."""
        ids = '"U":%(first)d,"u":%(id)d,"pu":%(before)d'
        return f'{{"e":"depthUpdate","E":%(now)d,"T":%(now)d,"s":"{name}",{ids},"b":[{bids}],"a":[{asks}]}}'

    def quote(self, name: str, bid: Sequence[str], ask: Sequence[str]) -> str:
        """Raven's futures have no quotes."""
        raise NotImplementedError

    def listed(self, name: str) -> str:
        """A symbol of exchangeInfo."""
        kind = '"contractType":"PERPETUAL","deliveryDate":4133404800000'
        return f'{{"symbol":"{name}",{kind},"status":"TRADING",{_currencies(name)},"filters":[]}}'


DIALECTS: Mapping[str, Dialect] = {"BINANCE_SPOT": Spot(), "BINANCE_FUTURES": Futures()}
DIFFERENCES = "@depth@100ms"


def _currencies(name: str) -> str:
    return f'"baseAsset":"{name[:-4]}","quoteAsset":"{name[-4:]}"'


# How much is printed


def zipf(count: int, total: float, most: float = math.inf) -> list[float]:
    """Rates that fall with the rank, none above `most`, and add up to `total` where that allows it."""
    low, high = 0.0, total * count
    for _ in range(100):
        middle = (low + high) / 2
        enough = sum(min(middle / rank, most) for rank in range(1, count + 1)) >= total
        low, high = (low, middle) if enough else (middle, high)
    return [min(high / rank, most) for rank in range(1, count + 1)]


class Turns:
    """Whose turn it is to print: symbols by chance, each as often as its rate says."""

    def __init__(self, rng: random.Random, rates: Sequence[float]) -> None:
        self._rate, self._owed = sum(rates), 0.0
        self._order = cycle(rng.choices(range(len(rates)), rates, k=1 << 16))

    def due(self, seconds: float, heat: float = 1.0) -> Iterator[int]:
        """The symbols that print within the next so many seconds, by their rank from 0."""
        self._owed += self._rate * seconds * heat
        count = int(self._owed)
        self._owed -= count
        return islice(self._order, count)


class Heat:
    """What the usual rate is multiplied by in each second: lognormal, 1 on average, and slow to change."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._level = rng.gauss(0, HEAT_SIGMA)

    def next(self) -> float:
        """Of the next second."""
        self._level = HEAT_STAYS * self._level + self._rng.gauss(0, HEAT_SIGMA * math.sqrt(1 - HEAT_STAYS**2))
        return math.exp(self._level - HEAT_SIGMA**2 / 2)


# Books


class Depth:
    """A book that goes through the same VARIANTS changes again and again, and so is known at any time without keeping
    it."""

    def __init__(self, rng: random.Random, middle: int, levels: int) -> None:
        self.steps = [(_touched(rng, middle, -1, levels), _touched(rng, middle, 1, levels)) for _ in range(VARIANTS)]
        self._whole: Ladder = (_filled(rng, middle, -1, levels), _filled(rng, middle, 1, levels))
        for bids, asks in self.steps:
            change(self._whole, bids, asks)

    def after(self, updates: int) -> Ladder:
        """The book after so many changes."""
        ladder = (dict(self._whole[0]), dict(self._whole[1]))
        for bids, asks in self.steps[: updates % VARIANTS]:
            change(ladder, bids, asks)
        return ladder

    def round(self) -> Iterator[tuple[Levels, Levels]]:
        """The top after each of the VARIANTS changes."""
        ladder = self.after(0)
        for bids, asks in self.steps:
            change(ladder, bids, asks)
            yield best(ladder, TOP)


def _filled(rng: random.Random, middle: int, sign: int, levels: int) -> Side:
    return {middle + sign * far: _lots(rng) for far in range(1, levels + 1)}


def _touched(rng: random.Random, middle: int, sign: int, levels: int) -> Levels:
    ticks = {middle + sign * min(1 + int(rng.expovariate(1 / 8)), levels) for _ in range(TOUCHED)}
    return [(tick, rng.choice((0, 1, 1, 1)) * _lots(rng)) for tick in sorted(ticks)]


def _lots(rng: random.Random) -> int:
    return int(rng.lognormvariate(8, 2)) + 1


def change(ladder: Ladder, bids: Levels, asks: Levels) -> None:
    """Set the lots of these levels; 0 ends one."""
    for side, levels in zip(ladder, (bids, asks), strict=True):
        for tick, lots in levels:
            if lots:
                side[tick] = lots
            else:
                side.pop(tick, None)


def best(ladder: Ladder, depth: int) -> tuple[Levels, Levels]:
    """The best levels of each side, best first."""
    bids, asks = ladder
    return (
        [(tick, bids[tick]) for tick in sorted(bids, reverse=True)[:depth]],
        [(tick, asks[tick]) for tick in sorted(asks)[:depth]],
    )


# Symbols


def name_of(rank: int) -> str:
    """The symbol of a rank, from 0."""
    return f"C{rank:03}USDT"


class Stream:
    """One stream of a symbol: VARIANTS frames in turn."""

    def __init__(self, frames: Sequence[bytes], ids: int = 1) -> None:
        self.count = 0
        self._frames, self._ids = frames, ids

    @property
    def last_id(self) -> int:
        """Of the last frame, or what would be before the first."""
        return FIRST_ID - 1 + self.count * self._ids

    def pass_over(self) -> None:
        """A frame that nobody hears."""
        self.count += 1

    def next(self, now: int) -> bytes:
        """The next frame, as it goes over the socket."""
        frame, before = self._frames[self.count % VARIANTS], self.last_id
        self.count += 1
        return frame % {b"now": now, b"id": before + self._ids, b"first": before + 1, b"before": before}


class Coin:
    """One symbol: its streams by channel, and what REST tells of it."""

    def __init__(self, rng: random.Random, rank: int, plan: Plan) -> None:
        self.name = name_of(rank)
        self._dialect = dialect = DIALECTS[plan.venue]
        self._tick_digits = rng.randrange(1, 6)
        self._texts: dict[tuple[int, int], str] = {}
        """Of levels: most come again in the next frame."""
        self._depth = Depth(rng, rng.randrange(20_000, 900_000), plan.levels if plan.kept else LEVELS_BEHIND_TOP)
        tops = list(self._depth.round())
        trades = [(*self._level(rng.choice(tops[n])[0][0], _lots(rng)), rng.choice(MAKERS)) for n in range(VARIANTS)]
        self._past = [dialect.past_trade(*trade) for trade in trades]
        self.times = array("q")
        """Of all its trades."""
        self.lost: set[int] = set()
        """Ids of trades that REST does not know either."""
        kept = self._depth.steps if plan.kept else None
        data = {
            TRADES: [dialect.trade(self.name, *trade) for trade in trades],
            BOOKS: [self._told(dialect.changes if kept else dialect.book, sides) for sides in kept or tops],
        }
        if QUOTES in dialect.streams:
            data[QUOTES] = [dialect.quote(self.name, *(self._level(*side[0]) for side in sides)) for sides in tops]
        self.streams = {channel: self._stream(channel, texts, plan) for channel, texts in data.items()}
        self._texts.clear()

    def stream_name(self, channel: str, *, kept: bool) -> str:
        """As it is subscribed."""
        return self.name.lower() + (DIFFERENCES if kept and channel == BOOKS else self._dialect.streams[channel])

    def history(self, first_id: int, limit: int) -> str:
        """Trades over REST, from an id on, as a JSON array."""
        first = max(first_id - FIRST_ID, 0)
        some = range(first, min(first + limit, len(self.times)))
        return f"[{','.join(self._past_trade(n) for n in some if n + FIRST_ID not in self.lost)}]"

    def snapshot(self, levels: int) -> tuple[int, str, str]:
        """Id, bids and asks of the book as of now."""
        stream = self.streams[BOOKS]
        bids, asks = best(self._depth.after(stream.count), levels)
        told = stream.last_id, self._side(bids), self._side(asks)
        self._texts.clear()
        return told

    def _past_trade(self, number: int) -> str:
        return self._past[number % VARIANTS] % {"id": FIRST_ID + number, "now": self.times[number]}

    def _stream(self, channel: str, texts: Sequence[str], plan: Plan) -> Stream:
        name = self.stream_name(channel, kept=plan.kept)
        frames = [template(f'{{"stream":"{name}","data":{text}}}', self._dialect.time_unit_us) for text in texts]
        return Stream(frames, IDS_PER_UPDATE if channel == BOOKS else 1)

    def _told(self, spell: Spell, sides: tuple[Levels, Levels]) -> str:
        return spell(self.name, self._side(sides[0]), self._side(sides[1]))

    def _side(self, levels: Levels) -> str:
        return ",".join([self._texts.get(level) or self._text(level) for level in levels])

    def _text(self, level: tuple[int, int]) -> str:
        text = self._texts[level] = '["{}","{}"]'.format(*self._level(*level))
        return text

    def _level(self, tick: int, lots: int) -> tuple[str, str]:
        decimals = self._dialect.decimals
        price = tick / 10**self._tick_digits
        return f"{price:.{decimals or self._tick_digits}f}", f"{lots / 1000:.{decimals or 3}f}"


def template(text: str, time_unit_us: int) -> bytes:
    """A WebSocket message of a server whose ids and times are still to be filled in."""
    ids = dict.fromkeys(("id", "first", "before"), FIRST_ID)
    sample = (text % {**ids, "now": SOME_TIME_US // time_unit_us}).encode()
    header = message(sample)[: -len(sample)]
    return header.replace(b"%", b"%%") + text.encode()


def coins(plan: Plan) -> Iterator[Coin]:
    """The symbols, the busiest first."""
    rng = random.Random(plan.seed)
    return (Coin(rng, rank, plan) for rank in range(plan.symbols))
