"""The frames that the feeds benchmark plays: from recordings where there are some, else made here.

Raven and cryptofeed are given the same market: where cryptofeed does not speak a venue's present protocol, the same
frames are translated into the one that it does (`Rival.told` says which).
"""

# ruff: noqa: UP031 - JSON is full of braces
import itertools
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

FIRST_ID = 5_000_000_001
"""Ids are given anew, so that they count on when a recording is played again."""
MADE = 20_000
"""How many frames are made where there is no recording."""
NOW_MS = 1_770_000_000_000


class Rival(NamedTuple):
    """What cryptofeed makes of a feed; `translate` turns all frames into those it understands."""

    exchange: str
    channel: str
    translate: Callable[[Sequence[bytes]], Sequence[bytes]] = lambda frames: frames
    told: str = "the same frames"


class Case(NamedTuple):
    """A feed: frames of a recording that hold `pattern`, or made ones; `ids` and `numbers` are where those stand."""

    source: str
    channel: str
    make: Callable[[random.Random], bytes]
    recording: str
    pattern: bytes
    ids: re.Pattern[bytes]
    numbers: re.Pattern[bytes]
    rival: Rival | None
    frames: int

    @property
    def name(self) -> str:
        """`KRAKEN trades`."""
        return f"{self.source} {self.channel}"


def frames(case: Case, recordings: Path | None, count: int) -> list[bytes]:
    """As many frames of a case. A recording that is too short is played again with other digits in its numbers."""
    once = _recorded(case, recordings) or _made(case)
    rng = random.Random(1)
    laps = itertools.chain([once], (_changed(once, case.numbers, rng) for _ in itertools.repeat(None)))
    return list(itertools.islice(_numbered(itertools.chain.from_iterable(laps), case.ids), count))


def _recorded(case: Case, recordings: Path | None) -> list[bytes]:
    path = recordings / case.recording if recordings and case.recording else None
    if path is None or not path.is_file():
        return []
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
        lines = reader.read().splitlines()
    return [frame for _, _, frame in (line.partition(b"\t") for line in lines) if re.search(case.pattern, frame)]


def _made(case: Case) -> list[bytes]:
    rng = random.Random(2)
    return [case.make(rng) for _ in range(MADE)]


def _changed(once: Sequence[bytes], numbers: re.Pattern[bytes], rng: random.Random) -> list[bytes]:
    """Digits 1 to 9 change places, so what was equal stays equal and what was not stays different."""
    digits = list(b"123456789")
    rng.shuffle(digits)
    table = bytes.maketrans(b"123456789", bytes(digits))
    return [numbers.sub(lambda match: match[1] + match[2].translate(table), frame) for frame in once]


def _numbered(several: Iterator[bytes], ids: re.Pattern[bytes]) -> Iterator[bytes]:
    """Frames whose ids count on, in the order their own ids have within each frame."""
    first = FIRST_ID
    for frame in several:
        order = {old: b"%d" % (first + n) for n, old in enumerate(sorted({m[2] for m in ids.finditer(frame)}, key=int))}
        first += len(order)
        yield ids.sub(lambda match, order=order: match[1] + order[match[2]], frame)  # type: ignore[misc]


def _price(rng: random.Random) -> float:
    return 60_000 + rng.randrange(-5000, 5000) / 10


def _quantity(rng: random.Random) -> float:
    return rng.randrange(1, 200_000) / 100_000


# Binance


def _spot_trade(rng: random.Random) -> bytes:
    return (
        '{"stream":"btcusdt@trade","data":{"e":"trade","E":%d,"s":"BTCUSDT","t":1,"p":"%.8f","q":"%.8f","T":%d,'
        '"m":%s,"M":true}}' % (NOW_MS, _price(rng), _quantity(rng), NOW_MS, rng.choice(["true", "false"]))
    ).encode()


def _book_ticker(rng: random.Random) -> bytes:
    bid = _price(rng)
    return (
        '{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT","b":"%.8f","B":"%.8f","a":"%.8f","A":"%.8f"}}'
        % (bid, _quantity(rng), bid + 0.01, _quantity(rng))
    ).encode()


def _sides(rng: random.Random, decimals: int) -> tuple[str, str]:
    """Twenty bids and asks around one of a few prices, so that most levels come again, as they do."""
    middle = 60_000 + rng.randrange(4)
    steady = random.Random(middle)
    sides = []
    for sign in (-1, 1):
        levels = [(middle + sign * n / 10, steady.randrange(1, 9999) / 1000) for n in range(1, 21)]
        levels[0] = (levels[0][0], _quantity(rng) + 0.001)
        sides.append(",".join(f'["{price:.{decimals}f}","{quantity:.{decimals}f}"]' for price, quantity in levels))
    return sides[0], sides[1]


def _spot_book(rng: random.Random) -> bytes:
    data = '{"lastUpdateId":1,"bids":[%s],"asks":[%s]}' % _sides(rng, 8)
    return f'{{"stream":"btcusdt@depth20@100ms","data":{data}}}'.encode()


def _futures_trade(rng: random.Random) -> bytes:
    return (
        '{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":%d,"a":1,"s":"BTCUSDT","p":"%.2f","q":"%.3f","f":7,'
        '"l":7,"T":%d,"m":%s}}' % (NOW_MS, _price(rng), _quantity(rng) + 0.001, NOW_MS, rng.choice(["true", "false"]))
    ).encode()


def _futures_book(rng: random.Random) -> bytes:
    data = '{"e":"depthUpdate","E":%d,"T":%d,"s":"BTCUSDT","U":1,"u":2,"pu":0,"b":[%s],"a":[%s]}'
    data %= (NOW_MS, NOW_MS, *_sides(rng, 3))
    return f'{{"stream":"btcusdt@depth20@100ms","data":{data}}}'.encode()


def _as_agg_trades(ours: Sequence[bytes]) -> list[bytes]:
    ids = re.compile(rb'"t":(\d+)')
    return [
        ids.sub(rb'"a":\1,"f":\1,"l":\1', f).replace(b"@trade", b"@aggTrade").replace(b'"trade"', b'"aggTrade"')
        for f in ours
    ]


def _as_differences(ours: Sequence[bytes]) -> list[bytes]:
    """The books as updates of levels, as `@depth` brings them: what changed from each to the next."""
    before: dict[str, dict[str, str]] = {"b": {}, "a": {}}
    made = []
    for number, frame in enumerate(ours, FIRST_ID):
        data = json.loads(frame)["data"]
        update: dict[str, Any] = {"e": "depthUpdate", "E": NOW_MS, "T": NOW_MS, "s": "BTCUSDT"}
        update |= {"U": number, "u": number, "pu": number - 1}
        for side, name in (("b", "bids"), ("a", "asks")):
            now = dict(data.get(name) or data.get(side) or [])
            gone = [[price, "0.00000000"] for price in before[side] if price not in now]
            update[side] = gone + [[p, q] for p, q in now.items() if before[side].get(p) != q]
            before[side] = now
        made.append(_compact({"stream": "btcusdt@depth@100ms", "data": update}))
    return made


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# Kraken


def _kraken_ticker(rng: random.Random) -> bytes:
    bid = _price(rng)
    return (
        '{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USDT","bid":%.1f,"bid_qty":%.8f,"ask":%.1f,'
        '"ask_qty":%.8f,"last":%.1f,"volume":2867.54532609,"vwap":60001.2,"low":59000.1,"high":61000.9,"change":12.5,'
        '"change_pct":0.02,"timestamp":"2026-02-02T02:40:00.%06dZ"}]}'
        % (bid, _quantity(rng), bid + 0.1, _quantity(rng), bid, rng.randrange(10**6))
    ).encode()


def _kraken_trade(rng: random.Random) -> bytes:
    return (
        '{"channel":"trade","type":"update","data":[{"symbol":"BTC/USDT","side":"%s","price":%.1f,"qty":%.8f,'
        '"ord_type":"market","trade_id":1,"timestamp":"2026-02-02T02:40:00.%06dZ"}]}'
        % (rng.choice(["buy", "sell"]), _price(rng), _quantity(rng), rng.randrange(10**6))
    ).encode()


def _told(frame: bytes) -> Any:
    """A frame with its numbers as their text."""
    return json.loads(frame, parse_float=str, parse_int=str)


def _as_v1_tickers(ours: Sequence[bytes]) -> list[bytes]:
    return [_v1_ticker(_told(frame)["data"][0]) for frame in ours]


def _v1_ticker(data: dict[str, str]) -> bytes:
    both = {"v": "volume", "p": "vwap", "l": "low", "h": "high"}
    body: dict[str, Any] = {
        "a": [data["ask"], 1, data["ask_qty"]],
        "b": [data["bid"], 1, data["bid_qty"]],
        "c": [data["last"], data["bid_qty"]],
        **{name: [data[field], data[field]] for name, field in both.items()},
        "t": [4966, 6717],
        "o": [data["low"], data["low"]],
    }
    return _compact([93, body, "ticker", data["symbol"]])


def _as_v1_trades(ours: Sequence[bytes]) -> list[bytes]:
    return [_v1_trades(_told(frame)["data"]) for frame in ours]


def _v1_trades(trades: Sequence[dict[str, str]]) -> bytes:
    told = [[t["price"], t["qty"], "1770000000.123456", t["side"][0], t["ord_type"][0], ""] for t in trades]
    return _compact([1, told, "trade", trades[0]["symbol"]])


# Coinbase


def _coinbase_ticker(rng: random.Random) -> bytes:
    bid = _price(rng)
    return (
        '{"channel":"ticker","timestamp":"2026-02-02T02:40:00.%09dZ","sequence_num":6,"events":[{"type":"update",'
        '"tickers":[{"type":"ticker","product_id":"BTC-USD","price":"%.2f","volume_24_h":"2867.54532609","low_24_h":'
        '"59675.22","high_24_h":"61252.99","low_52_w":"57717.55","high_52_w":"126296","price_percent_chg_24_h":'
        '"0.09601107287722","best_bid":"%.2f","best_ask":"%.2f","best_bid_quantity":"%.8f","best_ask_quantity":"%.8f"'
        "}]}]}" % (rng.randrange(10**9), bid, bid, bid + 0.01, _quantity(rng), _quantity(rng))
    ).encode()


def _coinbase_trade(rng: random.Random) -> bytes:
    return (
        '{"channel":"market_trades","timestamp":"2026-02-02T02:40:00.228568804Z","sequence_num":9,"events":[{"type":'
        '"update","trades":[{"product_id":"BTC-USD","trade_id":"1","price":"%.2f","size":"%.8f","time":'
        '"2026-02-02T02:40:00.%06dZ","side":"%s"}]}]}'
        % (_price(rng), _quantity(rng), rng.randrange(10**6), rng.choice(["BUY", "SELL"]))
    ).encode()


# Deribit


def _deribit_ticker(rng: random.Random) -> bytes:
    name = f"BTC-25DEC26-{rng.randrange(40, 120)}000-{rng.choice('CP')}"
    bid = rng.randrange(10, 2000) / 10_000
    return (
        '{"jsonrpc":"2.0","method":"subscription","params":{"channel":"ticker.%s.100ms","data":{"underlying_price":'
        '%.2f,"underlying_index":"BTC-25DEC26","timestamp":%d,"stats":{"volume":%.1f,"price_change":null,"low":null,'
        '"high":null},"state":"open","open_interest":%.1f,"min_price":0.0001,"max_price":0.5,"mark_price":%.6f,'
        '"mark_iv":%.2f,"last_price":%.4f,"interest_rate":0.0,"instrument_name":"%s","index_price":60003.4,"greeks":'
        '{"vega":%.5f,"theta":%.5f,"rho":%.5f,"gamma":0.00001,"delta":%.5f},"estimated_delivery_price":60003.4,'
        '"bid_iv":%.2f,"best_bid_price":%.4f,"best_bid_amount":%.1f,"best_ask_price":%.4f,"best_ask_amount":%.1f,'
        '"ask_iv":%.2f}}}'
        % (
            *(name, _price(rng), NOW_MS, rng.randrange(1, 500) / 10, rng.randrange(10, 90_000) / 10, bid + 0.000123),
            *(rng.randrange(3000, 9000) / 100, bid, name, rng.random() * 100, -rng.random() * 90, rng.random() * 50),
            *(rng.random(), 50.06, bid, rng.randrange(1, 900) / 10, bid + 0.005, rng.randrange(1, 900) / 10, 67.97),
        )
    ).encode()


def _deribit_trade(rng: random.Random) -> bytes:
    return (
        '{"jsonrpc":"2.0","method":"subscription","params":{"channel":"trades.option.BTC.100ms","data":[{"trade_seq":1,'
        '"trade_id":"%d","timestamp":%d,"tick_direction":0,"price":%.4f,"mark_price":%.6f,"iv":%.2f,"instrument_name":'
        '"BTC-25DEC26-100000-C","index_price":%.2f,"direction":"%s","amount":%.1f}]}}'
        % (
            *(rng.randrange(10**8, 10**9), NOW_MS, rng.randrange(10, 2000) / 10_000, rng.random(), 50.44, _price(rng)),
            *(rng.choice(["buy", "sell"]), rng.randrange(1, 900) / 10),
        )
    ).encode()


def _text(*names: str) -> re.Pattern[bytes]:
    """Where numbers stand as strings in these fields."""
    return re.compile(rb'("(?:%s)":")([0-9.]+)(?=")' % "|".join(names).encode())


def _bare(*names: str) -> re.Pattern[bytes]:
    """Where numbers stand as numbers in these fields."""
    return re.compile(rb'("(?:%s)":)([0-9.]+)(?=[,}])' % "|".join(names).encode())


NO_IDS = re.compile(rb"(?!)()()")
LEVELS = re.compile(rb'(\["[0-9.]+",")([0-9.]+)')
SPOT, FUTURES = (
    "binance_spot/hft_btcusdt_20240808.frames.zst",
    "derived/usdm_btcusdt_aggTrade_depth20_20240808.frames.zst",
)
SPOT_BOOKS = "derived/spot_btcusdt_trade_depth20_20260216.frames.zst"
COINBASE = "coinbase_at/cf_btc_eth_20260809_part1.frames.zst"
KRAKEN_TRADES = "derived/kraken_v2_trade_btcusdt_20251110_part1.frames.zst"
DERIBIT = "deribit/cf_options_20210405.frames.zst"
ONE_PRODUCT = rb'"market_trades".*"update"(?!.*ETH-USD)'

CASES = (
    Case("BINANCE_SPOT", "trades", _spot_trade, SPOT, b"@trade", _bare("t"), _text("p", "q"),
         Rival("Binance", "trades", _as_agg_trades, "the same trades as aggTrade"), 60_000),
    Case("BINANCE_SPOT", "quotes", _book_ticker, SPOT, b"@bookTicker", _bare("u"), _text("b", "B", "a", "A"),
         Rival("Binance", "ticker"), 60_000),
    Case("BINANCE_SPOT", "books", _spot_book, SPOT_BOOKS, b"@depth20", _bare("lastUpdateId"), LEVELS,
         Rival("Binance", "l2_book", _as_differences, "the same books as differences"), 15_000),
    Case("BINANCE_FUTURES", "trades", _futures_trade, FUTURES, b"@aggTrade", _bare("a"), _text("p", "q"),
         Rival("BinanceFutures", "trades"), 60_000),
    Case("BINANCE_FUTURES", "books", _futures_book, FUTURES, b"@depth20", _bare("u"), LEVELS,
         Rival("BinanceFutures", "l2_book", _as_differences, "the same books as differences"), 15_000),
    Case("KRAKEN", "quotes", _kraken_ticker, "", b"", NO_IDS, _bare("bid", "bid_qty", "ask", "ask_qty", "last"),
         Rival("Kraken", "ticker", _as_v1_tickers, "the same quotes in version 1"), 60_000),
    Case("KRAKEN", "trades", _kraken_trade, KRAKEN_TRADES, b'"trade"', _bare("trade_id"), _bare("price", "qty"),
         Rival("Kraken", "trades", _as_v1_trades, "the same trades in version 1, which has no ids"), 60_000),
    Case("COINBASE", "quotes", _coinbase_ticker, COINBASE, rb'"ticker".*"update"', NO_IDS,
         _text("price", "best_bid", "best_ask", "best_bid_quantity", "best_ask_quantity"), None, 60_000),
    Case("COINBASE", "trades", _coinbase_trade, COINBASE, ONE_PRODUCT, _text("trade_id"), _text("price", "size"),
         Rival("Coinbase", "trades"), 60_000),
    Case("DERIBIT_OPTIONS", "option_tickers", _deribit_ticker, DERIBIT, b"ticker.*best_bid_price", NO_IDS,
         _bare("best_bid_price", "best_bid_amount", "best_ask_price", "best_ask_amount", "mark_price", "last_price"),
         Rival("Deribit", "ticker"), 30_000),
    Case("DERIBIT_TRADES", "trades", _deribit_trade, "", b"", _bare("trade_seq"), _bare("price", "amount"),
         Rival("Deribit", "trades"), 60_000),
)  # fmt: skip
