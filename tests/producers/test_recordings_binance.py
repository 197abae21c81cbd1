"""Binance's recordings, fixtures and documented examples: each frame read a second, slower way, value by value.

A frame of a stream that Raven does not subscribe to is refused with the stream's name, and so is counted here as well:
no line of a recording goes unexplained.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard

from producers.contract import BadFrame, BookUpdate, Feed, HasSnapshots, Receipt, Stream
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
    Instrument,
    Kline,
    Level,
    Liquidation,
    MarketRecord,
    OpenInterest,
    OptionTicker,
    Quote,
    Record,
    Trade,
)
from tests.producers.recorded import CONNECTION_US, NOW_US, Line, bodies, digest, exactly, lines, refused, units

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
DOCUMENTED = Receipt(NOW_US, CONNECTION_US, 1)


# The second reading: Decimals of the json module


def common(line: Line, venue: str) -> dict[str, Any]:
    return {
        "venue": venue,
        "symbol": line.frame["stream"].split("@")[0].upper(),
        "received_time": line.receipt.received_us,
        "connection_sequence": line.receipt.sequence,
        "connection_time": CONNECTION_US,
    }


def as_trade(line: Line, venue: str) -> Trade:
    data = line.frame["data"]
    number = int(data["t" if data["e"] == "trade" else "a"])
    return Trade(
        event_time=int(data["T"]) * 1000,
        trade_id=str(number),
        sequence=number,
        price=units(data["p"]),
        quantity=units(data["q"]),
        side="SELL" if data["m"] else "BUY",
        **common(line, venue),
    )


def as_quote(line: Line, venue: str) -> Quote:
    data = line.frame["data"]
    return Quote(
        update_id=str(data["u"]),
        sequence=int(data["u"]),
        bid_price=units(data["b"]),
        bid_quantity=units(data["B"]),
        ask_price=units(data["a"]),
        ask_quantity=units(data["A"]),
        **common(line, venue),
    )


def as_book(line: Line, venue: str) -> Book:
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
        **common(line, venue),
    )


def as_changes(line: Line, venue: str) -> BookUpdate:
    data = line.frame["data"]
    shared = common(line, venue)
    del shared["venue"]
    return BookUpdate(
        whole=False,
        event_time=int(data["T" if "T" in data else "E"]) * 1000,
        bids=[(cached_units(price), cached_units(quantity)) for price, quantity in data["b"]],
        asks=[(cached_units(price), cached_units(quantity)) for price, quantity in data["a"]],
        first=int(data["U"]),
        last=int(data["u"]),
        previous=int(data["pu"]) if "pu" in data else None,
        **shared,
    )


def as_kline(line: Line, venue: str) -> list[Kline]:
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
            **common(line, venue),
        )
    ]


def as_funding(line: Line, venue: str) -> Funding:
    data = line.frame["data"]
    return Funding(
        event_time=int(data["E"]) * 1000,
        rate=units(data["r"]) if data["T"] else None,
        mark_price=units(data["p"]),
        index_price=units(data["i"]) if "i" in data else None,
        next_funding_time=int(data["T"]) * 1000 if data["T"] else None,
        **common(line, venue),
    )


class Reading(NamedTuple):
    """Which source reads a stream, and the same a second way."""

    source: Stream
    slowly: Callable[[Line, str], Any]


cached_units = lru_cache(maxsize=1 << 16)(units)
SPOT_READINGS = {
    "trade": Reading(SPOT, as_trade),
    "bookTicker": Reading(SPOT, as_quote),
    "depth20@100ms": Reading(SPOT, as_book),
    "depth@100ms": Reading(SPOT, as_changes),
}
FUTURES_READINGS = {
    "aggTrade": Reading(FUTURES, as_trade),
    "depth20@100ms": Reading(FUTURES, as_book),
    "depth@100ms": Reading(FUTURES, as_changes),
    "depth@0ms": Reading(FUTURES, as_changes),
    "kline_1m": Reading(KLINES, as_kline),
    "markPrice@1s": Reading(FUNDING, as_funding),
}


def play(
    recorded: Iterable[Line], readings: Mapping[str, Reading], others: Stream
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
        expected = reading.slowly(line, reading.source.venue)
        events = list(reading.source.parse(line.raw, line.receipt))
        assert events == (expected if isinstance(expected, list) else [expected])
        records += [event for event in events if isinstance(event, Record)]
        counts[kind] += 1
    return records, counts


@pytest.mark.parametrize(
    ("file", "counts", "fingerprint"),
    [
        (
            "binance_spot/cf_btc_eth_dot_20210404",
            {"depth@100ms": 2688, "-aggTrade": 1910, "-kline_1m": 118},
            "e3b0c44298fc1c14",
        ),
        (
            "binance_spot/hft_btcusdt_20230405",
            {"trade": 3144, "bookTicker": 8015, "depth@100ms": 3929},
            "f7a41838d5c68c80",
        ),
        (
            "binance_spot/hft_btcusdt_20240808",
            {"trade": 9757, "bookTicker": 28040, "depth@100ms": 3451},
            "fed05dcfb65c489d",
        ),
        (
            "binance_spot/hft_ethusdt_20240808",
            {"trade": 6106, "bookTicker": 24077, "depth@100ms": 3434},
            "a2d5b9b674e1115b",
        ),
        ("derived/spot_btcusdt_trade_depth20_20260216", {"trade": 10215, "depth20@100ms": 2559}, "0d96c4fd686fcab6"),
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
            {"aggTrade": 91, "kline_1m": 67, "depth@100ms": 764, "-bookTicker": 613},
            "d94bee4ba27601e1",
        ),
        (
            "binance_usdm/hft_btcusdt_20230404",
            {"markPrice@1s": 99, "-trade": 2197, "-bookTicker": 6765, "depth@0ms": 4322},
            "e936bcf9ac27da40",
        ),
        (
            "binance_usdm/hft_btcusdt_20230405",
            {"markPrice@1s": 415, "-trade": 10738, "-bookTicker": 37440, "depth@0ms": 11788},
            "60b3b0cea8059b6f",
        ),
        (
            "binance_usdm/hft_btcusdt_20240808",
            {"-trade": 21313, "-bookTicker": 66089, "depth@0ms": 6551},
            "e3b0c44298fc1c14",
        ),
        (
            "derived/usdm_btcusdt_aggTrade_depth20_20240808",
            {"aggTrade": 10447, "depth20@100ms": 3438},
            "365f01dbb2259715",
        ),
        (
            "derived/usdm_btcusdt_aggTrade_depth20_markPrice_20230404_05",
            {"aggTrade": 5252, "depth20@100ms": 5088, "markPrice@1s": 514},
            "de9e5f1eb2fcad4b",
        ),
    ],
)
def test_a_recording_of_futures(recordings: Path, file: str, counts: dict[str, int], fingerprint: str) -> None:
    records, seen = play(lines(recordings / f"{file}.frames.zst"), FUTURES_READINGS, FUTURES)
    assert (seen, digest(records)) == (counts, fingerprint)


@pytest.mark.parametrize(
    ("file", "source", "at", "expected"),
    [
        (
            "binance_spot/hft_btcusdt_20240808",
            SPOT,
            4,
            Trade(
                venue="BINANCE_SPOT",
                symbol="BTCUSDT",
                event_time=1723161255342000,
                received_time=1723161254087896,
                trade_id="3735683259",
                sequence=3735683259,
                price=61_837_630_000_000_000_000_000,
                quantity=20_000_000_000_000_000,
                side="SELL",
                connection_time=CONNECTION_US,
                connection_sequence=4,
            ),
        ),
        (
            "binance_spot/hft_btcusdt_20240808",
            SPOT,
            3,
            Quote(
                venue="BINANCE_SPOT",
                symbol="BTCUSDT",
                received_time=1723161254087891,
                update_id="50093239212",
                sequence=50093239212,
                bid_price=61_837_630_000_000_000_000_000,
                bid_quantity=3_788_260_000_000_000_000,
                ask_price=61_837_640_000_000_000_000_000,
                ask_quantity=1_546_980_000_000_000_000,
                connection_time=CONNECTION_US,
                connection_sequence=3,
            ),
        ),
        (
            "binance_usdm/cf_alts_20210722",
            FUTURES,
            21,
            Trade(
                venue="BINANCE_FUTURES",
                symbol="CTKUSDT",
                event_time=1626992741421000,
                received_time=1626992742289739,
                trade_id="16599292",
                sequence=16599292,
                price=1_011_000_000_000_000_000,
                quantity=10 * E18,
                side="BUY",
                connection_time=CONNECTION_US,
                connection_sequence=21,
            ),
        ),
        (
            "binance_usdm/cf_alts_20210722",
            KLINES,
            937,
            Kline(
                venue="BINANCE_FUTURES",
                symbol="SUSHIUSDT",
                event_time=1626992760203000,
                received_time=1626992760247864,
                interval="1m",
                open_time=1626992700000000,
                close_time=1626992759999000,
                open=7_608_000_000_000_000_000,
                high=7_618_000_000_000_000_000,
                low=7_607_000_000_000_000_000,
                close=7_617_000_000_000_000_000,
                volume=3005 * E18,
                quote_volume=22_875_859_000_000_000_000_000,
                trade_count=113,
                taker_buy_volume=1900 * E18,
                taker_buy_quote_volume=14_464_696_000_000_000_000_000,
                first_trade_id="126902874",
                last_trade_id="126902986",
                connection_time=CONNECTION_US,
                connection_sequence=937,
            ),
        ),
        (
            "binance_usdm/hft_btcusdt_20230404",
            FUNDING,
            50,
            Funding(
                venue="BINANCE_FUTURES",
                symbol="BTCUSDT",
                event_time=1680652701000000,
                received_time=1680652701048293,
                rate=27_540_000_000_000,
                mark_price=28_147_273_734_130_000_000_000,
                index_price=28_159_756_428_570_000_000_000,
                next_funding_time=1680652800000000,
                connection_time=CONNECTION_US,
                connection_sequence=50,
            ),
        ),
    ],
)
def test_a_record_of_a_recording(recordings: Path, file: str, source: Stream, at: int, expected: MarketRecord) -> None:
    line = next(islice(lines(recordings / f"{file}.frames.zst"), at - 1, None))
    assert list(source.parse(line.raw, line.receipt)) == [expected]


# Tables of trades, as frames


def rows(path: Path) -> Iterator[dict[str, str]]:
    with zstandard.open(path, "rb") as table:
        yield from csv.DictReader(io.StringIO(table.read().decode()))


@pytest.mark.parametrize(
    ("file", "count", "fingerprint"),
    [
        ("btcusdt_trades_20210108", 2001, "09939efcc08b53bb"),
        ("ltcusdt_trades_20250621", 53325, "aa43adc5e2c8434a"),
        ("ms_btcusdt_trades_20260216", 10215, "528a1caa5ac77842"),
    ],
)
def test_a_table_of_trades_as_frames(recordings: Path, file: str, count: int, fingerprint: str) -> None:
    """Their numbers went through doubles: Binance printed eight decimals."""
    symbol = file.partition("usdt")[0].removeprefix("ms_").upper() + "USDT"
    trades: list[Trade] = []
    for row in rows(recordings / "binance_spot" / f"{file}.csv.zst"):
        time_ms = int(row["exch_ms"] if "exch_ms" in row else row["timestamp_ms"])
        sold = row["side"] == "sell" if "side" in row else row["is_buyer_maker"] == "True"
        price, quantity = (f"{float(row[name]):.8f}" for name in ("price", "qty"))
        data = {"e": "trade", "E": time_ms, "s": symbol, "t": int(row["trade_id"]), "p": price, "q": quantity}
        frame = {"stream": f"{symbol.lower()}@trade", "data": {**data, "T": time_ms, "m": sold, "M": True}}
        (trade,) = SPOT.parse(json.dumps(frame).encode(), DOCUMENTED)
        assert trade == Trade(
            venue="BINANCE_SPOT",
            symbol=symbol,
            event_time=time_ms * 1000,
            received_time=NOW_US,
            trade_id=row["trade_id"],
            sequence=int(row["trade_id"]),
            price=units(price),
            quantity=units(quantity),
            side="SELL" if sold else "BUY",
            connection_time=CONNECTION_US,
            connection_sequence=1,
        )
        trades.append(trade)
    assert (len(trades), digest(trades)) == (count, fingerprint)


# REST beside the sockets


def test_the_recorded_listing_of_futures(recordings: Path) -> None:
    path = recordings / "binance_usdm" / "cf_alts_20210722.rest.jsonl.zst"
    (body,) = [body for url, body in bodies(path) if url.endswith("/exchangeInfo")]
    instruments = FUTURES.instruments(body, NOW_US)
    expected = []
    for info in json.loads(body)["symbols"]:
        steps = {item["filterType"]: item.get("tickSize") or item.get("stepSize") for item in info["filters"]}
        kind = {"PERPETUAL": "PERPETUAL", "CURRENT_QUARTER": "FUTURE", "": "UNKNOWN"}[info["contractType"]]
        expected.append(
            Instrument(
                venue="BINANCE_FUTURES",
                symbol=info["symbol"],
                received_time=NOW_US,
                base=info["baseAsset"],
                quote=info["quoteAsset"],
                kind=kind,  # type: ignore[arg-type] # one of three
                status=info["status"],
                tick_size=units(steps["PRICE_FILTER"]),
                lot_size=units(steps["LOT_SIZE"]),
                expiry=info["deliveryDate"] * 1000 if kind == "FUTURE" else None,
            )
        )
    assert instruments == expected
    assert instruments[1] == Instrument(
        venue="BINANCE_FUTURES",
        symbol="ETHUSDT",
        received_time=NOW_US,
        base="ETH",
        quote="USDT",
        kind="PERPETUAL",
        status="TRADING",
        tick_size=10_000_000_000_000_000,
        lot_size=1_000_000_000_000_000,
    )
    assert Counter(one.kind for one in instruments) == {"PERPETUAL": 119, "FUTURE": 2, "UNKNOWN": 1}
    assert len(KLINES.market_feeds(instruments, ())) == 117
    assert digest(instruments) == "48f233d4c72184cd"


def recorded_depths(recordings: Path) -> Iterator[tuple[HasSnapshots, bytes]]:
    """Answers to /depth, and who asks for them."""
    for _, body in bodies(recordings / "binance_spot" / "cf_btc_eth_dot_20210404.rest.jsonl.zst"):
        yield SPOT, body
    for url, body in bodies(recordings / "binance_usdm" / "cf_alts_20210722.rest.jsonl.zst"):
        if "/depth" in url:
            yield FUTURES, body
    for source, name in (
        (SPOT, "binance_spot/hft_btcusdt_20240808"),
        (SPOT, "binance_spot/hft_ethusdt_20240808"),
        (FUTURES, "binance_usdm/hft_btcusdt_20230404"),
        (FUTURES, "binance_usdm/hft_btcusdt_20240808"),
    ):
        yield from ((source, line.raw) for line in lines(recordings / f"{name}.rest_depth.frames.zst"))
    routes = json.loads((recordings / "fixtures" / "gct_binance_usdm_rest.json").read_text())
    yield from ((FUTURES, json.dumps(item["data"]).encode()) for item in routes["/fapi/v1/depth"]["GET"])


def test_recorded_depths_are_whole_books_and_no_frames(recordings: Path) -> None:
    answers = list(recorded_depths(recordings))
    assert len(answers) == 3 + 4 + 4 + 3
    for source, raw in answers:
        body = exactly(raw)
        assert source.whole_book("BTCUSDT", raw, DOCUMENTED) == BookUpdate(
            symbol="BTCUSDT",
            whole=True,
            event_time=int(body["T"]) * 1000 if source is FUTURES else None,
            received_time=NOW_US,
            bids=[(units(price), units(quantity)) for price, quantity, *_ in body["bids"]],
            asks=[(units(price), units(quantity)) for price, quantity, *_ in body["asks"]],
            last=int(body["lastUpdateId"]),
            connection_time=CONNECTION_US,
            connection_sequence=1,
        )
        for other in (SPOT, FUTURES, KLINES, LIQUIDATIONS, FUNDING):
            with pytest.raises(BadFrame, match="neither a stream's frame nor a reply"):
                other.parse(raw, DOCUMENTED)
        for poll, feed in ((OI, Feed("open_interest", "BTCUSDT")), (OPTIONS, Feed("option_tickers", "BTC"))):
            with pytest.raises(BadFrame):
                poll.parse_bodies(feed, [raw, raw], DOCUMENTED)


# Single messages


def framed(stream: str, data: Any) -> bytes:
    return json.dumps({"stream": stream, "data": data}).encode()


def told(source: Stream, frame: bytes) -> Any:
    """The one record of a frame, None for none, or why it is refused."""
    try:
        events = source.parse(frame, DOCUMENTED)
    except BadFrame as error:
        return str(error)
    return events[0] if events else None


def read_slowly(message: Any) -> BookUpdate | str:
    """What a source says of a message of changes; of another, that it is of no stream of Raven's."""
    raw = json.dumps(message).encode()
    if message["data"].get("e") == "depthUpdate":
        return as_changes(Line(raw, DOCUMENTED, exactly(raw)), "")
    return no_stream(message["stream"])


def no_stream(name: str) -> str:
    return f"stream {name!r} is none that Raven subscribes to"


def of(venue: str, symbol: str, time_ms: int | None = None, **more: Any) -> dict[str, Any]:
    """What all records of documented messages have in common."""
    time = {"event_time": time_ms * 1000} if time_ms is not None else {}
    shared = {"received_time": NOW_US, "connection_time": CONNECTION_US, "connection_sequence": 1}
    return {"venue": venue, "symbol": symbol, **time, **shared, **more}


DOCUMENTED_AGG_TRADE = Trade(
    **of("BINANCE_FUTURES", "BTCUSDT", 123456785),
    trade_id="5933014",
    sequence=5933014,
    price=E18 // 1000,
    quantity=100 * E18,
    side="SELL",
)
DOCUMENTED_CHANGES = BookUpdate(
    symbol="BTCUSDT",
    whole=False,
    event_time=123_456_788_000,
    received_time=NOW_US,
    bids=[(2_400_000_000_000_000, 10 * E18)],
    asks=[(2_600_000_000_000_000, 100 * E18)],
    first=157,
    last=160,
    previous=149,
    connection_time=CONNECTION_US,
    connection_sequence=1,
)
DOCUMENTED_MARK_PRICE = Funding(
    **of("BINANCE_FUTURES", "BTCUSDT", 1562305380000),
    rate=381_670_000_000_000,
    mark_price=11_794_150_000_000_000_000_000,
    index_price=11_784_626_590_910_000_000_000,
    next_funding_time=1562306400000000,
)


def liquidation(symbol: str, time_ms: int, price: str, average: str) -> Liquidation:
    return Liquidation(
        **of("BINANCE_FUTURES", symbol, time_ms),
        side="SELL",
        price=units(price),
        quantity=14_000_000_000_000_000,
        average_price=units(average),
        filled_quantity=14_000_000_000_000_000,
        status="FILLED",
    )


def test_the_documented_examples(recordings: Path) -> None:
    path = recordings / "examples_documented" / "documented_examples.json"
    ours = [one for one in json.loads(path.read_text()) if one["venue"].startswith("binance")]
    by_channel = {one["channel"]: one["message"] for one in ours}
    assert len(ours) == len(by_channel) == 10

    book = by_channel.pop("<symbol>@depth20@100ms")
    assert told(SPOT, json.dumps(book).encode()) == Book(
        **of("BINANCE_SPOT", "BNBBTC"),
        update_id="160",
        sequence=160,
        source="VENUE_SNAPSHOT",
        bids=(Level(2_400_000_000_000_000, 10 * E18),),
        asks=(Level(2_600_000_000_000_000, 100 * E18),),
    )
    forced = by_channel.pop("<symbol>@forceOrder")
    for stream in ("btcusdt@forceOrder", "!forceOrder@arr"):
        assert told(LIQUIDATIONS, framed(stream, forced)) == liquidation("BTCUSDT", 1568014460893, "9910", "9910")
    traded = by_channel.pop("<symbol>@aggTrade")
    assert told(FUTURES, framed("btcusdt@aggTrade", traded)) == DOCUMENTED_AGG_TRADE
    changes = by_channel.pop("<symbol>@depth@100ms (2026 shape)")
    assert told(FUTURES, framed("btcusdt@depth@100ms", changes)) == DOCUMENTED_CHANGES
    mark = by_channel.pop("<symbol>@markPrice@1s")
    assert told(FUNDING, framed("btcusdt@markPrice@1s", mark)) == DOCUMENTED_MARK_PRICE
    assert told(FUNDING, framed("!markPrice@arr@1s", [mark])) == DOCUMENTED_MARK_PRICE
    assert told(KLINES, framed("btcusdt@kline_1m", by_channel.pop("<symbol>@kline_1m"))) is None

    tickers, marks = (json.dumps(by_channel.pop(f"GET /eapi/v1/{path}")).encode() for path in ("ticker", "mark"))
    assert OPTIONS.parse_bodies(Feed("option_tickers", "BTC"), [tickers, marks], DOCUMENTED) == [
        OptionTicker(
            **of("BINANCE_OPTIONS", "BTC-200730-9000-C"),
            underlying="BTC",
            expiry=1596096000000000,
            strike=9000 * E18,
            option_side="CALL",
            price_currency="USDT",
            bid_price=999_340_000_000_000_000_000,
            ask_price=1_000_230_000_000_000_000_000,
            mark_price=1_343_288_300_000_000_000_000,
            last_price=1000 * E18,
            underlying_price=3_000_335_600_000_000_000_000,
            mark_iv=1.45,
            bid_iv=1.40000077,
            ask_iv=1.50000153,
            delta=0.55937056,
            gamma=0.00010969,
            theta=3739.82509871,
            vega=978.58874732,
            volume=5 * E18,
        )
    ]
    streamed = json.dumps(by_channel.pop("<underlying>@optionMarkPrice")).encode()
    with pytest.raises(BadFrame, match="`symbol`"):
        OPTIONS.parse_bodies(Feed("option_tickers", "BTC"), [streamed, streamed], DOCUMENTED)
    assert list(by_channel) == ["GET /fapi/v1/openInterest"], "which is read with the recorded answers below"


def test_the_messages_of_tardis(recordings: Path) -> None:
    items = json.loads((recordings / "fixtures" / "tardis_node_mapper_messages.json").read_text())
    futures = [item["message"] for item in items if item["set"] == "binance-futures"]
    spot = [item["message"] for item in items if item["set"] == "binance"]
    by_source: dict[str, Stream] = {"markPrice": FUNDING, "markPrice@1s": FUNDING, "forceOrder": LIQUIDATIONS}
    assert [
        told(by_source.get(message["stream"].partition("@")[2], FUTURES), json.dumps(message).encode())
        for message in futures
    ] == [
        "Object missing required field `a` - at `$.data`",
        no_stream("btcusdt@ticker"),
        Funding(
            **of("BINANCE_FUTURES", "BTCUSDT", 1569888003001),
            rate=100_000_000_000_000,
            mark_price=8_291_346_978_150_000_000_000,
            next_funding_time=1569916800000000,
        ),
        no_stream("btcusdt@ticker"),
        no_stream("btcusdt@trade"),
        read_slowly(futures[5]),
        no_stream("btcusdt@depthSnapshot"),
        read_slowly(futures[7]),
        no_stream("btcusdt@openInterest"),
        Funding(
            **of("BINANCE_FUTURES", "BTCUSDT", 1597536008000),
            rate=156_400_000_000_000,
            mark_price=11_857_560_000_000_000_000_000,
            index_price=11_851_869_490_910_000_000_000,
            next_funding_time=1597564800000000,
        ),
        no_stream("ethusdt@trade"),
        no_stream("btcusdt@trade"),
        Liquidation(
            **of("BINANCE_FUTURES", "BTCUSDT", 1584059031421),
            side="BUY",
            price=4_793_910_000_000_000_000_000,
            quantity=14_000_000_000_000_000,
            average_price=4_706_040_000_000_000_000_000,
            filled_quantity=14_000_000_000_000_000,
            status="FILLED",
        ),
        Funding(
            **of("BINANCE_FUTURES", "BTCBUSD_210129", 1609830121004),
            mark_price=31_799_277_300_000_000_000_000,
            index_price=31_307_034_000_000_000_000_000,
        ),
        no_stream("btcusdt@bookTicker"),
    ]
    assert [told(SPOT, json.dumps(message).encode()) for message in spot] == [
        Trade(
            **of("BINANCE_SPOT", "BNBBTC", 1554076800940),
            trade_id="40756030",
            sequence=40756030,
            price=4_269_900_000_000_000,
            quantity=33_820_000_000_000_000_000,
            side="BUY",
        ),
        Trade(
            **of("BINANCE_SPOT", "BNBBTC", 1567296001034),
            trade_id="60276726",
            sequence=60276726,
            price=2_196_500_000_000_000,
            quantity=6_480_000_000_000_000_000,
            side="SELL",
        ),
        Quote(
            **of("BINANCE_SPOT", "BTCUSDT"),
            update_id="1127645101",
            sequence=1127645101,
            bid_price=8010 * E18,
            bid_quantity=142_459_000_000_000_000,
            ask_price=8_012_150_000_000_000_000_000,
            ask_quantity=31_201_000_000_000_000,
        ),
        *(read_slowly(message) for message in spot[3:]),
    ]
    streamed = [item["message"] for item in items if item["set"].startswith("binance-european-options")]
    assert (len(futures), len(spot), len(streamed)) == (15, 10, 18)
    for message in streamed:
        body = json.dumps(message["data"]).encode()
        with pytest.raises(BadFrame):
            OPTIONS.parse_bodies(Feed("option_tickers", "BTC"), [body, body], DOCUMENTED)


def test_the_fixtures_of_nautilus(recordings: Path) -> None:
    messages = json.loads((recordings / "fixtures" / "nautilus_adapter_fixtures.json").read_text())
    ours = {path.rpartition("/")[2]: message for path, message in messages.items() if path.startswith("binance/")}
    candle = Kline(
        **of("BINANCE_FUTURES", "BTCUSDT", 1638747660000),
        interval="1m",
        open_time=1638747660000000,
        close_time=1638747719999000,
        open=1_000_000_000_000_000,
        high=2_500_000_000_000_000,
        low=1_000_000_000_000_000,
        close=2_000_000_000_000_000,
        volume=1000 * E18,
        quote_volume=E18,
        trade_count=100,
        taker_buy_volume=500 * E18,
        taker_buy_quote_volume=E18 // 2,
        first_trade_id="100",
        last_trade_id="200",
    )
    expected: dict[str, tuple[Any, str, Any]] = {
        "agg_trade_stream.json": (FUTURES, "btcusdt@aggTrade", DOCUMENTED_AGG_TRADE),
        "book_ticker_stream.json": (FUTURES, "bnbusdt@bookTicker", no_stream("bnbusdt@bookTicker")),
        "depth_update_stream.json": (FUTURES, "btcusdt@depth@100ms", DOCUMENTED_CHANGES),
        "kline_stream_closed.json": (KLINES, "btcusdt@kline_1m", candle),
        "kline_stream_open.json": (KLINES, "btcusdt@kline_1m", None),
        "liquidation_stream.json": (
            LIQUIDATIONS,
            "!forceOrder@arr",
            liquidation("BTCUSDT", 1568014460893, "9910", "9910.12345678"),
        ),
        "mark_price_stream.json": (FUNDING, "btcusdt@markPrice@1s", DOCUMENTED_MARK_PRICE),
        "ticker_stream.json": (FUTURES, "btcusdt@ticker", no_stream("btcusdt@ticker")),
        "trade_stream.json": (FUTURES, "btcusdt@trade", no_stream("btcusdt@trade")),
    }
    assert ours.keys() == expected.keys()
    for name, (source, stream, event) in expected.items():
        assert told(source, framed(stream, ours[name])) == event, name


def test_the_recorded_answers_of_futures(recordings: Path) -> None:
    routes = json.loads((recordings / "fixtures" / "gct_binance_usdm_rest.json").read_text())
    answers = {(path, item["queryString"]): item["data"] for path, methods in routes.items() for item in methods["GET"]}
    open_interest = answers.pop(("/fapi/v1/openInterest", "symbol=BTCUSDT"))
    premium = answers.pop(("/fapi/v1/premiumIndex", "symbol=BTCUSDT"))
    feed = Feed("open_interest", "BTCUSDT")
    right = [json.dumps(open_interest).encode(), json.dumps(premium).encode()]
    assert OI.parse_bodies(feed, right, DOCUMENTED) == (
        OpenInterest(
            **of("BINANCE_FUTURES", "BTCUSDT", 1702244985273),
            open_interest=83_782_317_000_000_000_000_000,
            open_interest_value=2_243_759_352_236_304_628_920_000_000,
            mark_price=26_780_822_404_760_000_000_000,
        ),
    )
    assert len(answers) == 18
    for answer in answers.values():
        wrong = json.dumps(answer).encode()
        for pair in ([wrong, right[1]], [right[0], wrong]):
            with pytest.raises(BadFrame):
                OI.parse_bodies(feed, pair, DOCUMENTED)
