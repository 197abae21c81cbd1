"""What the mart reckons from its rows: candles, completeness, and the queries of the documents."""

import itertools
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ravencore.config import Settings, interval_us
from ravencore.decimals import from_decimal
from ravencore.records import Bar, Gap, Kline, Record
from ravenctl.completeness import HOUR_US, Hour, Mark, Seen, hours
from ravenctl.feeds import Name
from sinks.stores.timescale import Timescale
from tests.sinks.probe_timescale import MINUTE_US, ONE, TimescaleProbe, gap, iv_surface, kline
from tests.sinks.rig import bar, instrument, reads, vpin

pytestmark = pytest.mark.stack
DOCUMENT = Path(__file__).parents[2] / "docs" / "stores.md"
WIDTHS = ("5m", "15m", "1h", "4h", "1d")
SECOND_US = 1_000_000
DAY_US = 24 * HOUR_US


@pytest.fixture
def mart(settings: Settings) -> Iterator[Timescale]:
    store = Timescale(settings)
    store.setup()
    yield store
    store.close()


# Candles


def folded(records: Sequence[Kline | Bar], width: str) -> dict[int, dict[str, Any]]:
    """Candles of klines or bars in Python, by their beginning."""
    by_bucket = defaultdict(list)
    for record in sorted(records, key=lambda one: one.open_time):
        by_bucket[record.open_time // interval_us(width) * interval_us(width)].append(record)
    return {bucket: _candle(some) for bucket, some in by_bucket.items()}


def _candle(some: Sequence[Any]) -> dict[str, Any]:
    if isinstance(some[0], Kline):
        sums, count = ("trade_count", "taker_buy_volume", "taker_buy_quote_volume"), {"klines": len(some)}
    else:
        sums, count = ("buy_volume", "ticks", "buy_ticks"), {"bars": len(some), "gap": any(one.gap for one in some)}
    return {
        "open": some[0].open,
        "high": max(one.high for one in some),
        "low": min(one.low for one in some),
        "close": some[-1].close,
        **{name: sum(getattr(one, name) for one in some) for name in ("volume", "quote_volume", *sums)},
        **count,
    }


def candles(probe: TimescaleProbe, view: str, symbol: str, interval: str) -> dict[int, dict[str, Any]]:
    rows = probe.select(
        f"SELECT view.*, (extract(epoch FROM bucket) * 1000000)::bigint AS begin_us FROM mart.{view} view "
        "JOIN mart.dim__instrument USING (instrument_id, coin_id, quote_id, exchange_id) "
        "JOIN mart.dim__interval interval USING (interval_id) "
        "WHERE symbol = %(symbol)s AND interval.name = %(interval)s",
        symbol=symbol,
        interval=interval,
    )
    ids = ("instrument_id", "coin_id", "quote_id", "exchange_id", "interval_id", "bucket")
    found = {row.pop("begin_us"): {name: _exact(row[name]) for name in row if name not in ids} for row in rows}
    assert len(found) == len(rows)
    return found


def _exact(value: Any) -> Any:
    return value if isinstance(value, int) else from_decimal(value)


def minutes_of(chance: random.Random, days: int) -> list[int]:
    """Some minutes of some days, all of some hours among them, in no order."""
    some = chance.sample(range(days * 1440), 300)
    return list({*some, *range(600, 720)})


def test_candles_of_klines_are_exact_at_every_width(mart: Timescale, settings: Settings, symbol: str) -> None:
    chance = random.Random(7)
    klines = [
        kline(symbol, minute, high=10**30 + chance.getrandbits(70), open=chance.getrandbits(90), close=minute)
        for minute in minutes_of(chance, 3)
    ]
    assert mart.write(reads([instrument(symbol), *klines])) == ([], [])
    probe = TimescaleProbe(settings)
    for width in WIDTHS:
        assert candles(probe, f"agg__kline_{width}", symbol, "1m") == folded(klines, width)


def test_candles_of_time_bars_are_exact_and_not_mixed(mart: Timescale, settings: Settings, symbol: str) -> None:
    """Bars of 1 s and of 1 m each have their own; those of 7 s, which do not fill five minutes, have none."""
    chance = random.Random(8)
    records = []
    for interval, starts in {
        "1m": sorted(minute * MINUTE_US for minute in minutes_of(chance, 2)),
        "1s": sorted(chance.sample(range(0, DAY_US, SECOND_US), 400)),
        "7s": range(0, 700 * SECOND_US, 7 * SECOND_US),
    }.items():
        records += [_time_bar(symbol, interval, number, start) for number, start in enumerate(starts)]
    assert mart.write(reads([instrument(symbol), *records])) == ([], [])
    probe = TimescaleProbe(settings)
    for width, interval in itertools.product(WIDTHS, ("1s", "1m", "7s")):
        mine = [record for record in records if record.profile == interval != "7s"]
        assert candles(probe, f"agg__time_bar_{width}", symbol, interval) == folded(mine, width)


def _time_bar(symbol: str, interval: str, number: int, start_us: int) -> Bar:
    open_us = 1_723_075_200_000_000 + start_us
    volume = ONE // 7 * number
    return bar(
        symbol, number, kind="time", profile=interval, open_time=open_us, close_time=open_us + interval_us(interval),
        open=number, high=10**20 + number * number % 77, low=5 - number, close=2 * number, volume=volume,
        gap=number % 50 == 0, buy_ticks=number // 2,
    )  # fmt: skip


# Completeness


def tape(symbol: str, begin_us: int, end_us: int, holes: Sequence[tuple[int, int]]) -> Seen:
    """A record every second, whose id is its second, but within holes; as `ravenctl gaps` finds them."""
    seen = Seen()
    lost = [range(low // SECOND_US + 1, high // SECOND_US) for low, high in holes]
    edge = begin_us // HOUR_US
    for second in range(begin_us // SECOND_US, end_us // SECOND_US):
        if not any(second in some for some in lost):
            mark = Mark(second, second * SECOND_US)
            number = mark.time_us // HOUR_US - edge
            seen.add(None if number in seen.first else number, mark)
    return seen


def ledger(chance: random.Random, name: Name, symbol: str, begin_us: int, end_us: int) -> list[Gap]:
    """A first start, then holes of every kind, some of them over an hour's end."""
    told = {"venue": name.venue, "channel": name.channel, "from_sequence": None, "to_sequence": None, "missing": None}
    first = begin_us + chance.choice([0, 20, 300]) * SECOND_US
    found = [gap(symbol, 0, gap_id=f"{name}{symbol}", cause="COLD_START", from_time=None, to_time=first, **told)]
    seconds = sorted(chance.sample(range(first // SECOND_US + 2, end_us // SECOND_US), 24))
    for low, high in zip(seconds[::2], seconds[1::2], strict=True):
        kind = chance.choice(["ids", "unknown", "repaired", "nothing"])
        fields = told | {"from_time": low * SECOND_US, "to_time": high * SECOND_US, "cause": "DISCONNECT"}
        if kind == "ids" and high > low + 1 and name.channel == "trades":
            fields |= {"from_sequence": low + 1, "to_sequence": high - 1, "missing": high - low - 1}
            fields |= {"repair": "PARTIAL", "repaired": chance.randrange(3)}
        elif kind == "repaired":
            fields |= {"missing": 0, "repair": "BACKFILLED", "repaired": 1 + chance.randrange(9)}
        elif kind == "nothing":
            fields["missing"] = 0
        found.append(gap(symbol, low, gap_id=f"{name}{symbol}{low}", **fields))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_mart_counts_completeness_as_ravenctl_does(
    mart: Timescale, settings: Settings, symbol: str, seed: int
) -> None:
    """The tape is issued by the second; `ravenctl gaps` is given what it would find in the topics."""
    chance, venue = random.Random(seed), f"V{symbol}"
    now_us = time.time_ns() // 1000
    begin_us = (now_us // HOUR_US - 5) * HOUR_US
    end_us = now_us - 2 * MINUTE_US
    gaps: list[Gap] = []
    survey: dict[Name, dict[str, Seen]] = {}
    for channel in ("trades", "books"):
        name = Name(venue, channel)
        for one in (symbol, symbol + "B"):
            mine = ledger(chance, name, one, begin_us, end_us)
            holes = [(g.from_time, g.to_time) for g in mine if g.from_time is not None and g.missing != 0]
            survey.setdefault(name, {})[one] = tape(one, mine[0].to_time, now_us, holes)
            gaps += mine
    whole = begin_us + HOUR_US + 90 * SECOND_US
    gaps.append(
        gap("*", 1, gap_id=f"{venue}*", venue=venue, channel="books", cause="SILENCE", missing=None,
            from_sequence=None, to_sequence=None, from_time=whole, to_time=whole + 77 * SECOND_US)
    )  # fmt: skip
    alive = {name: dict.fromkeys(found, now_us) for name, found in survey.items()}
    edges = [*range(begin_us, now_us, HOUR_US), now_us]
    expected = [hour for hour in hours(edges, survey, gaps, alive) if hour.to_us < now_us]
    assert mart.write(reads(gaps)) == ([], [])

    found = completeness(settings, venue)
    assert expected
    for hour in expected:
        row = found[hour.name.channel, hour.from_us]
        assert {name: row[name] for name in counted(hour)} == counted(hour), hour
        assert row["seconds"] == 3600
        assert row["covered_seconds"] + row["missing_seconds"] == 3600
    assert {key for key in found if key[1] < edges[-2]} == {(hour.name.channel, hour.from_us) for hour in expected}


def counted(hour: Hour) -> Mapping[str, Any]:
    """An Hour in the words of the view."""
    told: dict[str, Any] = {
        "gaps": hour.gaps,
        "unknown_gaps": hour.unknown,
        "first_starts": hour.first_starts,
        "repaired_ids": hour.repaired,
        "repaired_gaps": hour.repaired_gaps,
        "symbols": hour.symbols,
    }
    if hour.missing is not None:
        return told | {"missing_ids": hour.missing}
    assert hour.worst
    worst, worst_us = hour.worst
    covered = {"covered_us": hour.covered_us, "worst_symbol": worst, "worst_covered_us": worst_us}
    return told | covered | {"missing_ids": 0}


def completeness(settings: Settings, venue: str) -> dict[tuple[str, int], dict[str, Any]]:
    rows = TimescaleProbe(settings).select(
        "SELECT *, (covered_seconds * 1000000)::bigint AS covered_us, "
        "(worst_covered_seconds * 1000000)::bigint AS worst_covered_us, "
        "(extract(epoch FROM hour) * 1000000)::bigint AS hour_us "
        "FROM mart.completeness_hourly WHERE venue = %(venue)s",
        venue=venue,
    )
    return {(row["channel"], row["hour_us"]): row for row in rows}


def test_minutes_of_klines_are_counted_though_their_gap_names_none(
    mart: Timescale, settings: Settings, symbol: str
) -> None:
    """Away over two hours' border: five candles, one of them of the next hour."""
    venue = f"V{symbol}"
    hour_us = (time.time_ns() // 1000 // HOUR_US - 3) * HOUR_US
    told = {"venue": venue, "channel": "klines", "from_sequence": None, "to_sequence": None}
    first = gap(
        symbol, 0, gap_id=f"{venue}0", cause="COLD_START", missing=None, from_time=None, to_time=hour_us, **told
    )
    lost = gap(
        symbol, 1, gap_id=f"{venue}1", cause="DISCONNECT", missing=5,
        from_time=hour_us + 56 * MINUTE_US, to_time=hour_us + 61 * MINUTE_US, **told,
    )  # fmt: skip
    mart.write(reads([first, lost]))
    found = completeness(settings, venue)
    rows = [found["klines", hour_us + number * HOUR_US] for number in range(3)]
    assert [row["missing_ids"] for row in rows] == [4, 1, 0]
    assert [row["missing_seconds"] for row in rows] == [240, 60, 0]
    assert [row["gaps"] for row in rows] == [1, 1, 0]


# The documents


def test_every_query_of_the_documents_finds_something(settings: Settings, empty: str) -> None:
    mine = settings.model_copy(update={"mart": settings.mart.model_copy(update={"dsn": SecretStr(empty)})})
    store = Timescale(mine)
    assert store.write(reads(market())) == ([], [])
    store.close()
    section = DOCUMENT.read_text().partition("\n## The mart")[2].partition("\n## ")[0]
    queries = [query for block in re.findall(r"```sql\n(.*?)```", section, re.S) for query in block.split(";\n")]
    asked = [query for query in queries if query.strip()]
    assert len(asked) >= 6
    for query in asked:
        rows = TimescaleProbe(mine).select(query.replace("%", "%%"))
        assert rows, query
        assert all(value is not None for value in rows[0].values()), (query, rows[0])


def market() -> list[Record]:
    """An hour and a half of BTCUSDT at Binance, up to now, and a surface of BTC at Deribit."""
    now_us = time.time_ns() // 1000
    minute_us = now_us // MINUTE_US * MINUTE_US
    btc: dict[str, Any] = {"venue": "BINANCE_SPOT", "symbol": "BTCUSDT"}
    records: list[Record] = [
        instrument("BTCUSDT", venue="BINANCE_SPOT", base="BTC"),
        instrument("BTC-27DEC", venue="DERIBIT", base="BTC", quote="BTC", kind="OPTION"),
    ]
    for number in range(90):
        open_us = minute_us - (90 - number) * MINUTE_US
        times: dict[str, Any] = {"open_time": open_us, "close_time": open_us + MINUTE_US}
        records.append(kline(number=number, **btc, **times))
        records.append(bar(number=number, kind="time", profile="1m", **btc, **times))
        records.append(vpin("BTCUSDT", number, venue="BINANCE_SPOT", vpin_percentile=0.9, **times))
    records.append(gap(number=1, from_time=now_us - 2 * HOUR_US, to_time=now_us - HOUR_US, **btc))
    for number in range(3):
        expiries = iv_surface("", number).expiries
        surface = iv_surface("", number, venue="DERIBIT", underlying="BTC", price_currency="BTC", expiries=expiries)
        records.append(surface)
    return records
