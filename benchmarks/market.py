"""The trades that the benchmarks play: a seeded market over symbols that fill all partitions evenly."""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from aiokafka.partitioner import murmur2

from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.decimals import ONE
from ravencore.records import Trade, market_key
from ravencore.topics import TRADES

PARTITIONS = 6
SYMBOLS = 12
VENUE = "BINANCE_SPOT"
START_US = 1_780_000_000_000_000
Message = tuple[bytes, bytes]


def symbols(count: int = SYMBOLS) -> list[str]:
    """Names that fill the partitions as evenly as may be."""
    most = -(-count // PARTITIONS)
    found: list[str] = []
    filled: Counter[int] = Counter()
    candidates = (f"C{number}USDT" for number in itertools.count())
    while len(found) < count:
        name = next(candidates)
        place = partition_of(f"{VENUE}:{name}".encode())
        if filled[place] < most:
            filled[place] += 1
            found.append(name)
    return sorted(found)


def partition_of(key: bytes) -> int:
    """Where a producer puts what has this key."""
    hashed: int = murmur2(key)
    return (hashed & 0x7FFFFFFF) % PARTITIONS


class Market:
    """Random walks around 60,000 with trades of about 480 in quote currency, as BTCUSDT prints them."""

    def __init__(self, seed: int, names: Sequence[str], first_id: int = 1) -> None:
        self._names = names
        self._rng = random.Random(seed)
        self._price = dict.fromkeys(names, 6_000_000)
        self._sequence = dict.fromkeys(names, first_id - 1)

    def trade(self, now_us: int) -> Trade:
        """The next trade, received now."""
        rng, name = self._rng, self._rng.choice(self._names)
        self._sequence[name] += 1
        self._price[name] += rng.randrange(-20, 21)
        return Trade(
            venue=VENUE,
            symbol=name,
            event_time=now_us,
            received_time=now_us,
            trade_id=str(self._sequence[name]),
            sequence=self._sequence[name],
            price=self._price[name] * ONE // 100,
            quantity=rng.randrange(1, 1600) * ONE // 100_000,
            side=rng.choice(["BUY", "SELL"]),
        )

    def tape(self, count: int, apart_us: int = 1000) -> Iterator[Trade]:
        """Trades so far apart on average."""
        now = START_US
        for _ in range(count):
            now += self._rng.randrange(2 * apart_us)
            yield self.trade(now)


def encoded(codec: Codec, trades: Iterable[Trade]) -> Iterator[Message]:
    """Keys and values, for `publish`."""
    return ((market_key(trade), codec.encode(trade)) for trade in trades)


def publish(settings: KafkaSettings, messages: Iterable[Message]) -> Iterator[int]:
    """Publish messages as trades, telling after every thousand how many are out."""
    producer = kafka.producer(settings, **{"linger.ms": 20, "queue.buffering.max.messages": 500_000})
    for number, (key, value) in enumerate(messages, 1):
        while True:
            try:
                producer.produce(TRADES, value, key)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1000 == 0:
            producer.poll(0)
            yield number
    producer.flush()
