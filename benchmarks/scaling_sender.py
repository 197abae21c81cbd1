"""Trades at a steady rate: `python -m benchmarks.scaling_sender BOOTSTRAP RATE SECONDS SYMBOLS FIRST_ID`.

Prints when it begins (microseconds) and, at the end, what it sent as JSON. All is encoded before that but for the two
times of a trade, which are the moment it is handed to librdkafka.
"""

import json
import sys
import time
from itertools import islice

from benchmarks.market import START_US, Market, symbols
from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.records import market_key
from ravencore.topics import TRADES
from ravencore.writer import long_bytes

PAUSE_S = 0.001
Cut = tuple[bytes, bytes, bytes]
"""A key, and what a trade's value is before and after its times."""


def main() -> None:
    """Send as the command line says."""
    bootstrap, rate, seconds, count, first_id = sys.argv[1:]
    market = Market(1, symbols(int(count)), int(first_id))
    trades = cut(market, round(float(seconds) * int(rate)))
    settings = KafkaSettings(bootstrap=bootstrap)
    print(time.time_ns() // 1000, flush=True)
    print(json.dumps({"trades": len(trades), "seconds": send(settings, trades, int(rate))}), flush=True)


def cut(market: Market, count: int) -> list[Cut]:
    """Trades without their times."""
    codec, times = Codec(), 2 * long_bytes(START_US)
    trades = (market.trade(START_US) for _ in range(count))
    return [(market_key(trade), *two_parts(codec.encode(trade), times)) for trade in trades]


def two_parts(value: bytes, times: bytes) -> tuple[bytes, bytes]:
    """What stands before and after the times."""
    before, _, after = value.partition(times)
    return before, after


def send(settings: KafkaSettings, trades: list[Cut], rate: int) -> float:
    """Publish them, and give how long that took in seconds."""
    producer = kafka.producer(settings, **{"queue.buffering.max.messages": 1_000_000})
    began, rest, sent = time.monotonic(), iter(trades), 0
    while sent < len(trades):
        due = round((time.monotonic() - began) * rate)
        times = 2 * long_bytes(time.time_ns() // 1000)
        for key, before, after in islice(rest, due - sent):
            producer.produce(TRADES, before + times + after, key)
        sent = due
        producer.poll(0)
        time.sleep(PAUSE_S)
    producer.flush()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
