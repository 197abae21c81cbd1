"""How Redis is tested: the JSON under each key of a symbol, against what the records come to."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import redis

from ravencore.config import RedisSettings, Settings
from ravencore.decimals import ONE, to_text
from ravencore.records import Bar, IvExpiry, IvPoint, IvSurface, Quote, Record, SpotMid, VenueMid, Vpin
from tests.sinks.rig import T0, Cuttable, Rows, bar, vpin

EXPIRIES = {"20261225T080000Z": 1_798_185_600_000_000, "20270326T080000Z": 1_806_048_000_000_000}


def quote(symbol: str, number: int, **changes: Any) -> Quote:
    fields = {
        "venue": "VENUE", "symbol": symbol, "received_time": T0 + number * 1000, "update_id": str(number),
        "sequence": number, "bid_price": 60_000 * ONE + number, "bid_quantity": ONE, "ask_price": 60_001 * ONE,
        "ask_quantity": 3 * ONE // 2,
    }  # fmt: skip
    return Quote(**{**fields, **changes})


def mid(symbol: str, number: int, **changes: Any) -> SpotMid:
    venue = VenueMid(venue="VENUE", symbol=symbol, mid=60_000.5, age=1000, used=True)
    fields = {
        "pair": f"{symbol}-USDT", "base": symbol, "quote": "USDT", "time": T0 + number * 1_000_000,
        "mid": 60_000.5 + number, "quality": "Ok", "expected": 3, "used": 1, "venues": (venue,),
    }  # fmt: skip
    return SpotMid(**{**fields, **changes})


def surface(symbol: str, number: int, **changes: Any) -> IvSurface:
    point = IvPoint(strike=70_000 * ONE, side="CALL", log_moneyness=0.1, iv=0.5 + number / 1000, delta=0.3)
    smiles = [
        IvExpiry(expiry=expiry, years=0.5, forward=61_000 * ONE + number, seen=2, used=1, points=(point,))
        for expiry in EXPIRIES.values()
    ]
    fields = {
        "venue": "VENUE", "underlying": symbol, "price_currency": symbol, "time": T0 + number * 10_000_000,
        "expiries": tuple(smiles),
    }  # fmt: skip
    return IvSurface(**{**fields, **changes})


KINDS: tuple[Callable[[str, int], Record], ...] = (
    bar,
    vpin,
    lambda symbol, number: bar(symbol, number, kind="time", profile="1s"),
    quote,
    mid,
    surface,
)


class RedisProbe:
    """Values and windows of a symbol."""

    def __init__(self, settings: Settings) -> None:
        # Its types say that every answer may be anything.
        self.client: Any = redis.Redis.from_url(settings.redis.url.get_secret_value(), decode_responses=True)

    def records(self, symbol: str, count: int) -> list[Record]:
        return [KINDS[number % len(KINDS)](symbol, number) for number in range(count)]

    def poison(self, symbol: str) -> Record:
        return bar(symbol, 1_000_000, close_time=-5)

    def expected(self, records: Sequence[Record]) -> Rows:
        rows: Rows = {}
        for record in sorted(records, key=newness):
            rows |= dict(values(record))
            if isinstance(record, SpotMid):
                window = rows.setdefault(f"md:v1:spot_mid:{record.pair}:window", {})
                window[f"{record.time // 1000}-0"] = {
                    name: str(getattr(record, name)) for name in ("time", "mid", "quality", "expected", "used")
                }
        return rows

    def kept(self, symbol: str) -> Rows:
        rows: Rows = {}
        for key in self.client.scan_iter(f"md:v1:*{symbol}*", count=1000):
            if key.endswith(":window"):
                rows[key] = dict(self.client.xrange(key))
            else:
                rows[key] = json.loads(self.client.get(key))
                assert next(iter(rows[key])) == "order"
                del rows[key]["order"]
        return rows

    def count(self, symbol: str) -> int:
        """How far it has come: the number of the oldest of its values, once there is one of each kind."""
        found = [number(value) for key, value in self.kept(symbol).items() if ":window" not in key]
        return min(found) if len(found) == len(KINDS) + 1 else 0

    def enough(self, records: Sequence[Record]) -> int:
        expected = self.expected(records)
        return min(number(value) for key, value in expected.items() if ":window" not in key)

    def behind(self, settings: Settings, proxy: Callable[[str, int], Cuttable]) -> tuple[Settings, Cuttable]:
        url = settings.redis.url.get_secret_value()
        parts = urllib.parse.urlsplit(url)
        assert parts.hostname
        assert parts.port
        made = proxy(parts.hostname, parts.port)
        url = url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{made.port}")
        changed = RedisSettings(**{**settings.redis.model_dump(), "url": url})
        return settings.model_copy(update={"redis": changed}), made


def number(value: dict[str, Any]) -> int:
    """Which of the records a value was made of."""
    for name in ("bar_seq", "sequence"):
        if name in value:
            return int(value[name])
    step = 10_000_000 if "expiry" in value else 1_000_000
    return int(value["time"] - T0) // step


def newness(record: Record) -> tuple[int, int]:
    match record:
        case Bar() | Vpin():
            return record.close_time, record.bar_seq
        case Quote():
            return record.event_time or record.received_time, record.sequence or 0
        case SpotMid() | IvSurface():
            return record.time, 0
    raise AssertionError(record)


def values(record: Record) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys and values of a record, spelt out by hand."""
    match record:
        case Bar():
            decimals = {"open", "high", "low", "close", "volume", "quote_volume", "buy_volume"}
            yield f"md:v1:bar:{record.kind}:{record.profile}:{record.venue}:{record.symbol}", fields(record, decimals)
        case Vpin():
            decimals = {"open", "high", "low", "close", "volume", "buy_volume"}
            yield f"md:v1:vpin:{record.venue}:{record.symbol}", fields(record, decimals)
        case Quote():
            decimals = {"bid_price", "bid_quantity", "ask_price", "ask_quantity", "last_price"}
            yield f"md:v1:spot_bbo:{record.venue}:{record.symbol}-USDT", fields(record, decimals)
        case SpotMid():
            venues = [fields(one, set()) for one in record.venues]
            yield f"md:v1:spot_mid:{record.pair}", fields(record, set()) | {"venues": venues}
        case IvSurface():
            shared = fields(record, set())
            del shared["expiries"]
            for one in record.expiries:
                points = [fields(point, {"strike"}) for point in one.points]
                name = next(name for name, expiry in EXPIRIES.items() if expiry == one.expiry)
                key = f"md:v1:iv_surface:{record.venue}:{record.underlying}:{name}"
                yield key, shared | fields(one, {"forward"}) | {"points": points, "refused": {}}


def fields(record: Any, decimals: set[str]) -> dict[str, Any]:
    found = {name: getattr(record, name) for name in record.__struct_fields__}
    return {n: to_text(v) if n in decimals and v is not None else v for n, v in found.items()}
