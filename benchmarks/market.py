"""The trades that the benchmarks play: a seeded market over symbols that fill all partitions evenly."""

import random
from collections.abc import Iterator

from aiokafka.partitioner import murmur2
from confluent_kafka import Producer

from ravencore.codec import Codec
from ravencore.decimals import ONE
from ravencore.records import Trade, market_key
from ravencore.topics import TRADES

PARTITIONS = 6
PER_PARTITION = 2
START_US = 1_780_000_000_000_000


def symbols() -> list[str]:
    """Names of two symbols for each partition."""
    found: dict[int, list[str]] = {number: [] for number in range(PARTITIONS)}
    candidate = 0
    while any(len(names) < PER_PARTITION for names in found.values()):
        name = f"C{candidate}USDT"
        place = (murmur2(f"BINANCE_SPOT:{name}".encode()) & 0x7FFFFFFF) % PARTITIONS
        if len(found[place]) < PER_PARTITION:
            found[place].append(name)
        candidate += 1
    return sorted(name for names in found.values() for name in names)


class Market:
    """Random walks around 60,000 with trades of about 480 in quote currency, as BTCUSDT prints them."""

    def __init__(self, seed: int, first_id: int = 1) -> None:
        self._rng = random.Random(seed)
        self._names = symbols()
        self._price = dict.fromkeys(self._names, 6_000_000)
        self._sequence = dict.fromkeys(self._names, first_id - 1)

    def trade(self, now_us: int) -> Trade:
        """The next trade, received now."""
        rng, name = self._rng, self._rng.choice(self._names)
        self._sequence[name] += 1
        self._price[name] += rng.randrange(-20, 21)
        return Trade(
            venue="BINANCE_SPOT",
            symbol=name,
            event_time=now_us,
            received_time=now_us,
            trade_id=str(self._sequence[name]),
            sequence=self._sequence[name],
            price=self._price[name] * ONE // 100,
            quantity=rng.randrange(1, 1600) * ONE // 100_000,
            side=rng.choice(["BUY", "SELL"]),
        )

    def tape(self, count: int) -> Iterator[Trade]:
        """Trades a millisecond apart on average."""
        now = START_US
        for _ in range(count):
            now += self._rng.randrange(2000)
            yield self.trade(now)


def load(producer: Producer, codec: Codec, count: int) -> Iterator[int]:
    """Publish a tape, telling after every thousand how many are out."""
    for number, trade in enumerate(Market(seed=1).tape(count), 1):
        while True:
            try:
                producer.produce(TRADES, codec.encode(trade), market_key(trade))
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1000 == 0 or number == count:
            producer.poll(0)
            yield number
    producer.flush()
