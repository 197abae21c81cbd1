"""Binance's recordings, fixtures and documented examples: each frame read a second, slower way, value by value.

A frame of a stream that Raven does not subscribe to is refused with the stream's name, and so is counted here as well:
no line of a recording goes unexplained.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from producers.contract import Receipt
from producers.protocols.binance import CombinedStream
from producers.venues.binance_futures import BinanceFutures
from producers.venues.binance_futures_funding import BinanceFuturesFunding
from producers.venues.binance_futures_klines import BinanceFuturesKlines
from producers.venues.binance_futures_liquidations import BinanceFuturesLiquidations
from producers.venues.binance_futures_oi import BinanceFuturesOi
from producers.venues.binance_options import BinanceOptions
from producers.venues.binance_spot import BinanceSpot
from ravencore.records import (
    Book,
    Funding,
    Kline,
    Level,
    MarketRecord,
    Quote,
    Trade,
)
from tests.producers.recorded import CONNECTION_US, NOW_US, Line, digest, lines, refused, units

SPOT, FUTURES, KLINES, LIQUIDATIONS, FUNDING, OI, OPTIONS = (
    BinanceSpot(),
    BinanceFutures(),
    BinanceFuturesKlines(),
    BinanceFuturesLiquidations(),
    BinanceFuturesFunding(),
    BinanceFuturesOi(),
    BinanceOptions(),
)
E18 = 10**18
CONNECTED = {"connection_time": CONNECTION_US}
DOCUMENTED = Receipt(NOW_US, CONNECTION_US, 1)


# The second reading: Decimals of the json module


def common(line: Line) -> dict[str, Any]:
    source = "BINANCE_SPOT" if "M" in line.frame["data"] or "E" not in line.frame["data"] else "BINANCE_FUTURES"
    return {
        "venue": source,
        "symbol": line.frame["stream"].split("@")[0].upper(),
        "received_time": line.receipt.received_us,
        "connection_sequence": line.receipt.sequence,
        **CONNECTED,
    }


def as_trade(line: Line) -> Trade:
    data = line.frame["data"]
    number = int(data["t" if data["e"] == "trade" else "a"])
    return Trade(
        event_time=int(data["T"]) * 1000,
        trade_id=str(number),
        sequence=number,
        price=units(data["p"]),
        quantity=units(data["q"]),
        side="SELL" if data["m"] else "BUY",
        **common(line),
    )


def as_quote(line: Line) -> Quote:
    data = line.frame["data"]
    return Quote(
        update_id=str(data["u"]),
        sequence=int(data["u"]),
        bid_price=units(data["b"]),
        bid_quantity=units(data["B"]),
        ask_price=units(data["a"]),
        ask_quantity=units(data["A"]),
        **common(line),
    )


def as_book(line: Line) -> Book:
    data = line.frame["data"]
    bids, asks = data.get("bids", data.get("b")), data.get("asks", data.get("a"))
    number = int(data.get("lastUpdateId", data.get("u")))
    return Book(
        event_time=int(data["T"]) * 1000 if "T" in data else None,
        update_id=str(number),
        sequence=number,
        source="VENUE_SNAPSHOT",
        bids=tuple(Level(units(price), units(quantity)) for price, quantity in bids),
        asks=tuple(Level(units(price), units(quantity)) for price, quantity in asks),
        **common(line),
    )


def as_kline(line: Line) -> list[Kline]:
    data = line.frame["data"]
    candle = data["k"]
    if not candle["x"]:
        return []
    return [
        Kline(
            event_time=int(data["E"]) * 1000,
            interval="1m",
            open_time=int(candle["t"]) * 1000,
            close_time=int(candle["T"]) * 1000,
            open=units(candle["o"]),
            high=units(candle["h"]),
            low=units(candle["l"]),
            close=units(candle["c"]),
            volume=units(candle["v"]),
            quote_volume=units(candle["q"]),
            trade_count=int(candle["n"]),
            taker_buy_volume=units(candle["V"]),
            taker_buy_quote_volume=units(candle["Q"]),
            first_trade_id=str(candle["f"]) if candle["f"] >= 0 else None,
            last_trade_id=str(candle["L"]) if candle["L"] >= 0 else None,
            **common(line),
        )
    ]


def as_funding(line: Line) -> Funding:
    data = line.frame["data"]
    return Funding(
        event_time=int(data["E"]) * 1000,
        rate=units(data["r"]) if data["T"] else None,
        mark_price=units(data["p"]),
        index_price=units(data["i"]) if "i" in data else None,
        next_funding_time=int(data["T"]) * 1000 if data["T"] else None,
        **common(line),
    )


class Reading(NamedTuple):
    """Which source reads a stream, and the same a second way."""

    source: CombinedStream
    slowly: Callable[[Line], Any]


SPOT_READINGS = {
    "trade": Reading(SPOT, as_trade),
    "bookTicker": Reading(SPOT, as_quote),
    "depth20@100ms": Reading(SPOT, as_book),
}
FUTURES_READINGS = {
    "aggTrade": Reading(FUTURES, as_trade),
    "depth20@100ms": Reading(FUTURES, as_book),
    "kline_1m": Reading(KLINES, as_kline),
    "markPrice@1s": Reading(FUNDING, as_funding),
}


def play(
    recorded: Iterable[Line], readings: Mapping[str, Reading], others: CombinedStream
) -> tuple[list[MarketRecord], Counter[str]]:
    """The records of a recording, each checked, and how many frames of each stream were read, or refused (-)."""
    records: list[MarketRecord] = []
    counts: Counter[str] = Counter()
    for line in recorded:
        stream = line.frame["stream"]
        kind = stream.partition("@")[2]
        reading = readings.get(kind)
        if reading is None:
            assert refused(others, line) == f"stream {stream!r} is none that Raven subscribes to"
            counts[f"-{kind}"] += 1
            continue
        expected = reading.slowly(line)
        events = list(reading.source.parse(line.raw, line.receipt))
        assert events == (expected if isinstance(expected, list) else [expected])
        records += events  # type: ignore[arg-type]
        counts[kind] += 1
    return records, counts


@pytest.mark.parametrize(
    ("file", "counts", "fingerprint"),
    [
        ("binance_spot/cf_btc_eth_dot_20210404", {"-depth@100ms": 2688, "-aggTrade": 1910, "-kline_1m": 118}, "?"),
        ("binance_spot/hft_btcusdt_20230405", {"trade": 3144, "bookTicker": 8015, "-depth@100ms": 3929}, "?"),
        ("binance_spot/hft_btcusdt_20240808", {"trade": 9757, "bookTicker": 28040, "-depth@100ms": 3451}, "?"),
        ("binance_spot/hft_ethusdt_20240808", {"trade": 6106, "bookTicker": 24077, "-depth@100ms": 3434}, "?"),
        ("derived/spot_btcusdt_trade_depth20_20260216", {"trade": 10215, "depth20@100ms": 2559}, "?"),
    ],
)
def test_a_recording_of_spot(recordings: Path, file: str, counts: dict[str, int], fingerprint: str) -> None:
    records, seen = play(lines(recordings / f"{file}.frames.zst"), SPOT_READINGS, SPOT)
    assert (seen, digest(records)) == (counts, fingerprint)


@pytest.mark.parametrize(
    ("file", "counts", "fingerprint"),
    [
        (
            "binance_usdm/cf_alts_20210722",
            {"aggTrade": 91, "kline_1m": 67, "-depth@100ms": 764, "-bookTicker": 613},
            "?",
        ),
        (
            "binance_usdm/hft_btcusdt_20230404",
            {"markPrice@1s": 99, "-trade": 2197, "-bookTicker": 6765, "-depth@0ms": 4322},
            "?",
        ),
        (
            "binance_usdm/hft_btcusdt_20230405",
            {"markPrice@1s": 415, "-trade": 10738, "-bookTicker": 37440, "-depth@0ms": 11788},
            "?",
        ),
        ("binance_usdm/hft_btcusdt_20240808", {"-trade": 21313, "-bookTicker": 66089, "-depth@0ms": 6551}, "?"),
        ("derived/usdm_btcusdt_aggTrade_depth20_20240808", {"aggTrade": 10447, "depth20@100ms": 3438}, "?"),
        (
            "derived/usdm_btcusdt_aggTrade_depth20_markPrice_20230404_05",
            {"aggTrade": 5252, "depth20@100ms": 5088, "markPrice@1s": 514},
            "?",
        ),
    ],
)
def test_a_recording_of_futures(recordings: Path, file: str, counts: dict[str, int], fingerprint: str) -> None:
    records, seen = play(lines(recordings / f"{file}.frames.zst"), FUTURES_READINGS, FUTURES)
    assert (seen, digest(records)) == (counts, fingerprint)


def first(recordings: Path, file: str, kind: str, source: CombinedStream) -> Any:
    """The first record of a stream in a recording."""
    for line in lines(recordings / f"{file}.frames.zst"):
        if line.frame["stream"].partition("@")[2] == kind:
            for event in source.parse(line.raw, line.receipt):
                return event
    raise AssertionError(f"{file} holds no {kind}")
