"""Records of every kind that InfluxDB keeps, and rows of QuestDB as they should be."""

import json
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from ravencore.config import Settings
from ravencore.decimals import ONE, to_decimal
from ravencore.records import (
    Book,
    Funding,
    IndexPrice,
    Kline,
    Liquidation,
    OpenInterest,
    OptionTicker,
    Quote,
    Record,
    Trade,
    VolatilityIndex,
)
from sinks.stores.influx_lines import MEASUREMENTS
from tests.sinks.rig import T0, Cuttable, Rows, book, trade


def quote(symbol: str, number: int, **changes: Any) -> Quote:
    fields = {
        "venue": "VENUE", "symbol": symbol, "event_time": T0 + number * 1000, "received_time": T0 + number * 1000 + 7,
        "sequence": number, "bid_price": 60_000 * ONE + number, "bid_quantity": number + 1, "ask_price": 60_001 * ONE,
        "ask_quantity": None if number % 4 else ONE, "last_price": None,
    }  # fmt: skip
    return Quote(**{**fields, **changes})


def kline(symbol: str, number: int, **changes: Any) -> Kline:
    fields = {
        "venue": "VENUE", "symbol": symbol, "event_time": T0 + number * 60_000_000, "received_time": T0 + 7,
        "interval": "1m", "open_time": T0 + number * 60_000_000, "close_time": T0 + number * 60_000_000 + 59_999_000,
        "open": ONE, "high": 3 * ONE, "low": ONE // 2, "close": 2 * ONE, "volume": number * ONE, "quote_volume": number,
        "trade_count": number, "taker_buy_volume": 0, "taker_buy_quote_volume": 10**37,
    }  # fmt: skip
    return Kline(**{**fields, **changes})


def funding(symbol: str, number: int, **changes: Any) -> Funding:
    fields = {
        "venue": "VENUE", "symbol": symbol, "event_time": T0 + number * 1000, "received_time": T0 + 7,
        "rate": -number * 10**10 if number % 3 else None, "mark_price": 60_000 * ONE, "index_price": None,
        "next_funding_time": T0 + 10**9 if number % 3 else None,
    }  # fmt: skip
    return Funding(**{**fields, **changes})


def liquidation(symbol: str, number: int, **changes: Any) -> Liquidation:
    fields = {
        "venue": "VENUE", "symbol": symbol, "event_time": T0 + number * 1000, "received_time": T0 + 7,
        "side": "SELL" if number % 2 else "BUY", "price": 60_000 * ONE, "quantity": number * ONE, "status": "FILLED",
    }  # fmt: skip
    return Liquidation(**{**fields, **changes})


def open_interest(symbol: str, number: int, **changes: Any) -> OpenInterest:
    fields = {
        "venue": "VENUE", "symbol": symbol, "event_time": T0 + number * 1000, "received_time": T0 + 7,
        "open_interest": number * ONE, "open_interest_value": number * ONE if number % 2 else None,
    }  # fmt: skip
    return OpenInterest(**{**fields, **changes})


def option(symbol: str, number: int, **changes: Any) -> OptionTicker:
    fields = {
        "venue": "VENUE", "symbol": symbol, "event_time": None, "received_time": T0 + number * 1000,
        "underlying": "BTC", "expiry": T0, "strike": 60_000 * ONE, "option_side": "CALL", "price_currency": "BTC",
        "bid_price": number * 10**14, "mark_price": 10**15, "underlying_price": 60_123 * ONE, "mark_iv": number / 7,
        "ask_iv": 0.6, "open_interest": number,
    }  # fmt: skip
    return OptionTicker(**{**fields, **changes})


def index_price(symbol: str, number: int, **changes: Any) -> IndexPrice:
    fields = {
        "venue": "VENUE", "symbol": symbol, "event_time": T0 + number * 1000, "received_time": T0 + 7,
        "price": 60_000 * ONE + number,
    }  # fmt: skip
    return IndexPrice(**{**fields, **changes})


def volatility(symbol: str, number: int, **changes: Any) -> VolatilityIndex:
    fields = {
        "venue": "VENUE", "symbol": symbol, "event_time": T0 + number * 1000, "received_time": T0 + 7,
        "volatility": 52 * ONE + number,
    }  # fmt: skip
    return VolatilityIndex(**{**fields, **changes})


MAKERS: dict[type[Record], Callable[..., Record]] = {
    Trade: trade,
    Book: book,
    Quote: quote,
    Kline: kline,
    Funding: funding,
    Liquidation: liquidation,
    OpenInterest: open_interest,
    OptionTicker: option,
    IndexPrice: index_price,
    VolatilityIndex: volatility,
}


def number(units: int | None) -> float | None:
    return None if units is None else float(to_decimal(units))


def numbers(record: Any, *names: str) -> dict[str, Any]:
    return {name: number(getattr(record, name)) for name in names}


def row_of(record: Any) -> tuple[str, str, int, dict[str, Any]]:
    """Measurement, third tag, time in milliseconds and fields, as the issue lists them."""
    event_ms = (record.received_time if record.event_time is None else record.event_time) // 1000
    match record:
        case Trade():
            return (
                "trades",
                record.side,
                event_ms,
                {**numbers(record, "price", "quantity"), "trade_id": record.trade_id},
            )
        case Book():
            return "orderbook", "", event_ms, _best(record)
        case Quote():
            best = numbers(record, "bid_price", "bid_quantity", "ask_price", "ask_quantity")
            return "quote", "", event_ms, best | numbers(record, "last_price")
        case Kline():
            prices = numbers(record, "open", "high", "low", "close", "volume", "quote_volume")
            taken = numbers(record, "taker_buy_volume", "taker_buy_quote_volume")
            fields = prices | taken | {"trade_count": record.trade_count}
            return "kline", record.interval, record.open_time // 1000, fields
        case Funding():
            due = record.next_funding_time
            fields = numbers(record, "rate", "mark_price", "index_price")
            return "funding_rate", "", event_ms, fields | {"next_funding_time": None if due is None else due * 1000}
        case Liquidation():
            return "liquidation", record.side, event_ms, numbers(record, "price", "quantity")
        case OpenInterest():
            return "open_interest", "", event_ms, numbers(record, "open_interest", "open_interest_value")
        case OptionTicker():
            fields = numbers(record, "open_interest", "mark_price", "last_price", "underlying_price")
            best = {"best_bid_price": number(record.bid_price), "best_ask_price": number(record.ask_price)}
            ivs = {name: getattr(record, name) for name in ("mark_iv", "bid_iv", "ask_iv")}
            return "options_ticker", "", event_ms, fields | best | ivs
        case IndexPrice():
            return "price_index", "", event_ms, numbers(record, "price")
        case VolatilityIndex():
            return "volatility_index", "", event_ms, numbers(record, "volatility")
    raise AssertionError(record)


def _best(record: Book) -> dict[str, Any]:
    bid, ask = record.bids[0], record.asks[0]
    prices = [to_decimal(number) for number in (bid.price, bid.quantity, ask.price, ask.quantity)]
    return {
        "bid_price": float(prices[0]),
        "bid_quantity": float(prices[1]),
        "ask_price": float(prices[2]),
        "ask_quantity": float(prices[3]),
        "spread": float(prices[2] - prices[0]),
        "mid_price": float((prices[2] + prices[0]) / 2),
        "imbalance": float((prices[1] - prices[3]) / (prices[1] + prices[3])),
    }


class InfluxProbe:
    """Rows of QuestDB by series and millisecond: which nanosecond of it may be the offset's to say."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.influx.url

    def records(self, symbol: str, count: int) -> list[Record]:
        makers = list(MAKERS.values())
        return [makers[number % len(makers)](symbol, number) for number in range(count)]

    def poison(self, symbol: str) -> Record:
        return trade(symbol, 77, event_time=-5_000)

    def expected(self, records: Sequence[Record]) -> Rows:
        rows: Rows = {}
        for record in records:
            measurement, third, time_ms, fields = row_of(record)
            at = (measurement, record.venue, third, time_ms)  # type: ignore[attr-defined] # all of these have it
            assert at not in rows
            rows[at] = {name: value for name, value in fields.items() if value is not None}
        return rows

    def kept(self, symbol: str) -> Rows:
        rows: Rows = {}
        for known in MEASUREMENTS.values():
            sql = f"SELECT *, timestamp::long AS time_ns FROM {known.name} WHERE {known.symbol} = '{symbol}'"
            for row in self.query(sql):
                third = row.pop(known.tag) if known.tag else ""
                at = (known.name, row.pop("exchange"), third, row.pop("time_ns") // 1_000_000)
                assert at not in rows
                del row[known.symbol], row["timestamp"]
                rows[at] = {name: value for name, value in row.items() if value is not None}
        return rows

    def count(self, symbol: str) -> int:
        there = {row["table_name"] for row in self.query("SELECT table_name FROM tables()")}
        counts = [
            self.query(f"SELECT count() AS points FROM {known.name} WHERE {known.symbol} = '{symbol}'")[0]
            for known in MEASUREMENTS.values()
            if known.name in there
        ]
        return sum(row["points"] for row in counts)

    def query(self, sql: str) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self._url}/exec?{urllib.parse.urlencode({'query': sql})}") as answer:
            found = json.load(answer)
        return [dict(zip([c["name"] for c in found["columns"]], row, strict=True)) for row in found["dataset"]]

    def enough(self, records: Sequence[Record]) -> int:
        return len(self.expected(records))

    def behind(self, settings: Settings, proxy: Callable[[str, int], Cuttable]) -> tuple[Settings, Cuttable]:
        url = urllib.parse.urlsplit(settings.influx.url)
        assert url.hostname
        assert url.port
        made = proxy(url.hostname, url.port)
        influx = settings.influx.model_copy(update={"url": f"http://127.0.0.1:{made.port}"})
        return settings.model_copy(update={"influx": influx}), made
