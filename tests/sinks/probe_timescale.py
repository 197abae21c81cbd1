"""The mart in tests: records of every kind, and its rows as the records they came from."""

from __future__ import annotations

import json
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import msgspec
import psycopg

from ravencore.config import MartSettings, Settings
from ravencore.records import (
    Bar,
    Gap,
    IvExpiry,
    IvPoint,
    IvSurface,
    Kline,
    Record,
    SpotMid,
    VenueMid,
    Vpin,
)
from tests.sinks.rig import T0, Cuttable, Rows, bar, instrument, vpin

ONE = 10**18
MINUTE_US = 60_000_000
BARS = {"fact__time_bar": Bar, "fact__tick_imbalance": Bar, "fact__volume_imbalance": Bar, "fact__vpin": Vpin}


def kline(symbol: str, number: int, **changes: Any) -> Kline:
    fields = {
        "venue": "VENUE", "symbol": symbol, "event_time": T0 + (number + 1) * MINUTE_US, "interval": "1m",
        "received_time": T0 + (number + 1) * MINUTE_US + 41, "open_time": T0 + number * MINUTE_US,
        "close_time": T0 + (number + 1) * MINUTE_US - 1000, "open": 100 * ONE + number, "high": 10**38 - 1 - number,
        "low": 1 + number % 3, "close": 99 * ONE - number, "volume": ONE // 3 + number, "quote_volume": 7 + number,
        "trade_count": number, "taker_buy_volume": number, "taker_buy_quote_volume": 1,
        "first_trade_id": str(number) if number % 2 else None, "last_trade_id": None, "connection_sequence": number,
    }  # fmt: skip
    return Kline(**{**fields, **changes})


def spot_mid(symbol: str, number: int, **changes: Any) -> SpotMid:
    fields: dict[str, Any] = {
        "pair": f"B{symbol}-USDT", "base": f"B{symbol}", "quote": "USDT", "time": T0 + number * 1_000_000,
        "mid": None if number == 0 else 100 / (number + 1), "quality": "Ok", "divergence": 1e-7 * number,
        "expected": 2, "used": number,
        "venues": (
            VenueMid(venue='K"\\\t', symbol="BTC/USDT", mid=0.1 + number, age=number, used=True),
            VenueMid(venue="Ω", symbol=symbol, mid=None, age=2**61, used=False),
        ),
    }  # fmt: skip
    return SpotMid(**{**fields, **changes})


def iv_expiry(days: int, number: int, **changes: Any) -> IvExpiry:
    points = tuple(
        IvPoint(
            strike=(90 + strike) * ONE + number,
            side="CALL" if strike > 10 else "PUT",
            log_moneyness=strike / 7 - 1.5,
            iv=0.5 + strike / 1000,
            bid_iv=None if strike == 3 else 1e-17,
            ask_iv=0.6,
            delta=-0.1 * strike,
        )
        for strike in range(0, 20, 3)
    )
    fields: dict[str, Any] = {
        "expiry": T0 + days * 24 * 60 * MINUTE_US, "years": days / 365, "forward": 100 * ONE + number,
        "atm_iv": 0.5 + number / 1000, "risk_reversal_25": -0.01, "butterfly_25": None, "calendar_arbitrage": None,
        "butterfly_arbitrage": number % 2 == 1, "seen": 9, "used": 7, "refused": {"stale": 1, "wide": number},
        "oldest_age": 12, "points": points,
    }  # fmt: skip
    return IvExpiry(**{**fields, **changes})


def iv_surface(symbol: str, number: int, **changes: Any) -> IvSurface:
    fields: dict[str, Any] = {
        "venue": "VENUE", "underlying": f"B{symbol}", "price_currency": "USDT", "time": T0 + number * 10_000_000,
        "expiries": (iv_expiry(1, number), iv_expiry(30, number, points=(), forward=None, refused={})),
    }  # fmt: skip
    return IvSurface(**{**fields, **changes})


def gap(symbol: str, number: int, **changes: Any) -> Gap:
    fields: dict[str, Any] = {
        "gap_id": f"VENUE:trades:{symbol}:{number}", "venue": "VENUE", "channel": "trades", "symbol": symbol,
        "cause": "SEQUENCE", "from_sequence": number, "to_sequence": number + 4, "missing": 5,
        "from_time": T0 + number, "to_time": T0 + number + 100, "detected_time": T0 + number + 200,
        "repair": "NONE", "repaired": 0, "connection": "ws://here 1", "detail": "the ids jump\n\\N",
    }  # fmt: skip
    return Gap(**{**fields, **changes})


class TimescaleProbe:
    """Rows of the mart by what identifies them, as Raven's own records."""

    def __init__(self, settings: Settings) -> None:
        self._dsn = settings.mart.dsn.get_secret_value()

    def records(self, symbol: str, count: int) -> list[Record]:
        kinds: Sequence[Callable[[int], Record]] = (
            lambda number: bar(symbol, number),
            lambda number: vpin(symbol, number),
            lambda number: bar(symbol, number, kind="time", profile="1s"),
            lambda number: kline(symbol, number),
            lambda number: spot_mid(symbol, number),
            lambda number: iv_surface(symbol, number),
            lambda number: gap(symbol, number),
        )
        return [instrument(symbol), *(kinds[number % len(kinds)](number) for number in range(count - 1))]

    def poison(self, symbol: str) -> Record:
        return bar(symbol, 1_000_000, first_trade_id="\0")

    def expected(self, records: Sequence[Record]) -> Rows:
        found = ((identity(record), msgspec.structs.asdict(record)) for record in records)
        return {key: fields for key, fields in found if key}

    def kept(self, symbol: str) -> Rows:
        found = [*self._bars(symbol), *self._klines(symbol), *self._mids(symbol)]
        rows = {identity(record): record for record in found + self._surfaces(symbol) + self._gaps(symbol)}
        assert len(rows) == len(found) + len(self._surfaces(symbol)) + len(self._gaps(symbol))
        return {key: msgspec.structs.asdict(record) for key, record in rows.items()}

    def count(self, symbol: str) -> int:
        by_instrument = " + ".join(
            f"(SELECT count(*) FROM mart.{fact} JOIN mart.dim__instrument USING (instrument_id) "
            "WHERE symbol = %(name)s)"
            for fact in (*BARS, "fact__kline")
        )
        by_coin = " + ".join(
            f"(SELECT count(DISTINCT time) FROM mart.{fact} JOIN mart.dim__coin USING (coin_id) "
            "WHERE name = 'B' || %(name)s)"
            for fact in ("fact__spot_mid", "fact__iv_surface")
        )
        sql = f"SELECT {by_instrument} + {by_coin} + (SELECT count(*) FROM mart.fact__gap WHERE symbol = %(name)s) AS n"
        try:
            (row,) = self.select(sql, name=symbol)
        except psycopg.errors.UndefinedTable:
            return 0
        return int(row["n"])

    def select(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self._dsn, row_factory=psycopg.rows.dict_row) as connection:
            connection.execute("SET TIME ZONE 'UTC'")
            return connection.execute(sql.encode(), values).fetchall()

    def rows(self, table: str, symbol: str) -> list[dict[str, Any]]:
        return self.select(
            "SELECT fact.*, exchange.name AS venue, symbol, coin.name AS base, quote.name AS quote, "
            f"i.name AS interval FROM mart.{table} fact JOIN mart.dim__instrument USING (instrument_id) "
            "JOIN mart.dim__exchange exchange ON fact.exchange_id = exchange.exchange_id "
            "JOIN mart.dim__coin coin ON fact.coin_id = coin.coin_id "
            "JOIN mart.dim__quote quote ON fact.quote_id = quote.quote_id "
            "JOIN mart.dim__interval i ON fact.interval_id = i.interval_id "
            "WHERE symbol = %(name)s",
            name=symbol,
        )

    def _bars(self, symbol: str) -> list[Bar | Vpin]:
        return [_record(cls, row) for table, cls in BARS.items() for row in self.rows(table, symbol)]

    def _klines(self, symbol: str) -> list[Kline]:
        return [_record(Kline, row) for row in self.rows("fact__kline", symbol)]

    def _mids(self, symbol: str) -> list[SpotMid]:
        rows = self.select(
            "SELECT fact.*, coin.name AS base, quote.name AS quote, venues::text AS venues "
            "FROM mart.fact__spot_mid fact "
            "JOIN mart.dim__coin coin USING (coin_id) JOIN mart.dim__quote quote USING (quote_id) "
            "WHERE coin.name = %(name)s",
            name=f"B{symbol}",
        )
        return [_record(SpotMid, row | {"venues": tuple(_structs(VenueMid, row["venues"]))}) for row in rows]

    def _surfaces(self, symbol: str) -> list[IvSurface]:
        rows = self.select(
            "SELECT fact.*, exchange.name AS venue, coin.name AS underlying, quote.name AS price_currency, "
            "points::text AS points FROM mart.fact__iv_surface fact "
            "JOIN mart.dim__exchange exchange USING (exchange_id) "
            "JOIN mart.dim__coin coin USING (coin_id) JOIN mart.dim__quote quote USING (quote_id) "
            "WHERE coin.name = %(name)s ORDER BY expiry",
            name=f"B{symbol}",
        )
        snapshots = defaultdict(list)
        for row in rows:
            points = tuple(_structs(IvPoint, row["points"]))
            expiry = _record(IvExpiry, row | {"points": points})
            snapshots[row["venue"], row["underlying"], row["price_currency"], _plain(row["time"])].append(expiry)
        names = ("venue", "underlying", "price_currency", "time")
        return [
            IvSurface(**dict(zip(names, key, strict=True)), expiries=tuple(some)) for key, some in snapshots.items()
        ]

    def _gaps(self, symbol: str) -> list[Gap]:
        rows = self.select(
            "SELECT fact.*, name AS venue FROM mart.fact__gap fact JOIN mart.dim__exchange USING (exchange_id) "
            "WHERE symbol = %(name)s",
            name=symbol,
        )
        return [_record(Gap, row) for row in rows]

    def enough(self, records: Sequence[Record]) -> int:
        return len(self.expected(records))

    def behind(self, settings: Settings, proxy: Callable[[str, int], Cuttable]) -> tuple[Settings, Cuttable]:
        url = urllib.parse.urlsplit(self._dsn)
        assert url.hostname
        assert url.port
        made = proxy(url.hostname, url.port)
        dsn = self._dsn.replace(f"{url.hostname}:{url.port}", f"127.0.0.1:{made.port}")
        mart = MartSettings(dsn=dsn, instrument_wait_s=settings.mart.instrument_wait_s)
        return settings.model_copy(update={"mart": mart}), made


def identity(record: Record) -> tuple[Any, ...] | None:
    """What a row is identified by; None of a record that is no fact."""
    match record:
        case Bar() | Vpin():
            kind = record.kind if isinstance(record, Bar) else "vpin"
            return record.venue, record.symbol, kind, record.profile, record.bar_seq
        case Kline():
            return record.venue, record.symbol, record.interval, record.open_time
        case SpotMid():
            return "mid", record.pair, record.time
        case IvSurface():
            return record.venue, record.underlying, record.price_currency, record.time
        case Gap():
            return ("gap", record.gap_id)
    return None


def _record(cls: Any, row: Mapping[str, Any]) -> Any:
    return cls(**{name: _plain(row[name]) for name in cls.__struct_fields__})


def _structs(cls: Any, text: str) -> list[Any]:
    found = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    return [cls(**{name: _number(name, value) for name, value in one.items()}) for one in found]


def _number(name: str, value: Any) -> Any:
    if not isinstance(value, Decimal):
        return value
    if name == "strike":
        return _plain(value)
    return int(value) if name == "age" else float(value)


def _plain(value: Any) -> Any:
    """A value of the database as Raven's records hold it."""
    if isinstance(value, Decimal):
        return int(value.scaleb(18, Context(prec=60)))
    if isinstance(value, datetime):
        return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return value
