"""The mart: what a row holds, what conflicts, what waits, what is refused."""

import json
import random
import re
import urllib.parse
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import psycopg
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from ravencore.codec import iso_time
from ravencore.config import MartSettings, Settings
from ravencore.decimals import from_text, to_decimal
from ravencore.errors import ConfigError
from ravencore.records import Bar, IvPoint, Record, VenueMid, Vpin
from ravencore.topics import GAPS
from sinks.contract import Outcome, Read, StoreUnavailable
from sinks.reading import Tables
from sinks.stores.timescale import Timescale
from sinks.stores.timescale_cells import COPY_ESCAPES, numbered, text
from sinks.stores.timescale_facts import BAR_VALUES, FACTS, MID, VPIN_VALUES
from sinks.stores.timescale_rows import (
    Dimensions,
    Ids,
    Known,
    Rows,
    Series,
    Sheet,
    divided,
    furthest,
    interval_of,
    lacking,
    rows_of,
)
from tests.sinks.probe_timescale import (
    BARS,
    TimescaleProbe,
    gap,
    iv_expiry,
    iv_surface,
    kline,
    spot_mid,
)
from tests.sinks.rig import CODEC, T0, bar, instrument, reads, vpin

KNOWN = Dimensions(
    {"BS": 12},
    {"USDT": 13},
    {"VENUE": 14},
    {"none": 15, "1m": 16},
    {("VENUE", "S"): Known(Ids(11, 12, 13, 14), "", "")},
)
UNITS = st.integers(-(10**38) + 1, 10**38 - 1)
LONGS = st.integers(-(2**63), 2**63 - 1)
DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)
AWKWARD = st.text(st.sampled_from('\\\t\n\r"\0\x1f\x7fNnΩ\u2028'))


def sheet(records: Sequence[Record]) -> Sheet:
    """Records of one kind as columns."""
    some = reads(records)
    return Sheet(some[0].topic, type(records[0]), some, Tables(CODEC).table(type(records[0]), [r.value for r in some]))


def lines_of(records: Sequence[Record], chunk: int = 3) -> list[dict[str, str | None]]:
    """The cells of their lines by column, as COPY understands them."""
    rows = rows_of(sheet(records), KNOWN)
    written = b"".join(text(lines) for lines in rows.lines(chunk)).decode()
    assert written.endswith("\n")
    names = rows.fact.columns.split(", ")
    return [dict(zip(names, map(cell_of, line.split("\t")), strict=True)) for line in written[:-1].split("\n")]


def cell_of(written: str) -> str | None:
    """A cell as COPY reads it."""
    if written == "\\N":
        return None
    back = {escaped: char for char, escaped in COPY_ESCAPES.items()}
    parts = iter(re.split(r"(\\.)", written))
    return "".join(back.get(part, part) for part in parts)


def numbers(written: str | None) -> Any:
    """What JSON says, its numbers exact."""
    return json.loads(written or "", parse_float=Decimal, parse_int=Decimal)


def seconds(micros: int | None) -> str | None:
    """A time as it stands in a line."""
    return None if micros is None else iso_time(micros).replace("T", " ")


@given(
    profile=st.text() | AWKWARD,
    trade_id=st.none() | st.text() | AWKWARD,
    units=st.lists(UNITS, min_size=7, max_size=7),
    theta=st.none() | st.floats(allow_nan=False),
    gap=st.booleans(),
    bar_seq=LONGS,
    open_time=TIMES,
)
def test_a_line_of_copy_gives_every_value_back(
    *,
    profile: str,
    trade_id: str | None,
    units: list[int],
    theta: float | None,
    gap: bool,
    bar_seq: int,
    open_time: int,
) -> None:
    names = ("open", "high", "low", "close", "volume", "quote_volume", "buy_volume")
    amounts = dict(zip(names, units, strict=True))
    changes: dict[str, Any] = {"first_trade_id": trade_id, "theta": theta, "gap": gap, "open_time": open_time}
    records = [
        bar("S", 0, bar_seq=bar_seq, profile=profile, **amounts, **changes),
        bar("S", 9, first_trade_id="x", profile="p"),
    ]

    cells, other = lines_of(records)
    assert (other["profile"], other["first_trade_id"], other["bar_seq"]) == ("p", "x", "9")
    identity = ("instrument_id", "kind", "profile", "bar_seq")
    assert tuple(cells[name] for name in identity) == ("11", "tib", profile, str(bar_seq))
    assert [cells[f"{name}_id"] for name in ("coin", "quote", "exchange", "interval")] == ["12", "13", "14", "15"]
    assert {name: from_text(cells[name] or "") for name in names} == amounts
    assert cells["first_trade_id"] == trade_id
    assert (None if cells["theta"] is None else float(cells["theta"])) == theta
    assert cells["gap"] == str(gap).lower()
    assert cells["open_time"] == seconds(open_time)


@given(
    texts=st.tuples(AWKWARD, AWKWARD, AWKWARD),
    strike=UNITS,
    doubles=st.tuples(DOUBLES, st.none() | DOUBLES, DOUBLES),
    counts=st.dictionaries(AWKWARD | st.text(), LONGS, max_size=4),
    age=LONGS,
    lengths=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    chunk=st.integers(1, 4),
)
def test_lists_of_records_are_json_that_gives_every_value_back(
    *,
    texts: tuple[str, str, str],
    strike: int,
    doubles: tuple[float, float | None, float],
    counts: dict[str, int],
    age: int,
    lengths: tuple[int, int],
    chunk: int,
) -> None:
    venue, name, pair = texts
    iv, bid_iv, delta = doubles
    venues = [
        VenueMid(venue=venue, symbol=name, mid=bid_iv, age=age, used=True),
        VenueMid(venue="V", symbol="", age=1, used=False),
    ]
    point = IvPoint(strike=strike, side="PUT", log_moneyness=iv, iv=iv, bid_iv=bid_iv, ask_iv=None, delta=delta)
    mids = [spot_mid("S", n, pair=pair, venues=tuple(venues * count)) for n, count in enumerate(lengths)]
    for cells, mid in zip(lines_of(mids, chunk), mids, strict=True):
        assert (cells["pair"], cells["time"]) == (pair, seconds(mid.time))
        assert json.loads(cells["venues"] or "") == [msgspec.structs.asdict(one) for one in mid.venues]
    points = [point, msgspec.structs.replace(point, strike=10**18, side="CALL", bid_iv=0.5)]
    surfaces = [
        iv_surface(
            "S", n, expiries=tuple(iv_expiry(day, n, points=tuple(points * count), refused=counts) for day in (1, 2))
        )
        for n, count in enumerate(lengths)
    ]
    expiries = [(n, one) for n, surface in enumerate(surfaces) for one in surface.expiries]
    assert rows_of(sheet(surfaces), KNOWN).reads.tolist() == [n for n, _ in expiries]
    for cells, (n, one) in zip(lines_of(surfaces, chunk), expiries, strict=True):
        assert (cells["expiry"], cells["time"]) == (iso_time(one.expiry), seconds(surfaces[n].time))
        assert json.loads(cells["refused"] or "") == counts
        assert numbers(cells["points"]) == [
            {name: exactly(name, value) for name, value in msgspec.structs.asdict(point).items()}
            for point in one.points
        ]


def exactly(name: str, value: Any) -> Any:
    """A point's value as JSON has it."""
    if name == "strike":
        return to_decimal(value)
    return Decimal(repr(value)) if isinstance(value, float) else value


@pytest.mark.parametrize("micros", [-62_135_596_800_000_001, 253_402_300_800_000_000, 10**18, -(2**63)])
def test_a_time_out_of_the_calendar_is_no_time_and_leaves_others_alone(micros: int) -> None:
    records = [bar("S", 1), bar("S", 2, close_time=micros), bar("S", 3)]
    times = [cells["close_time"] for cells in lines_of(records)]
    assert times == [
        seconds(bar("S", 1).close_time),
        f"no year that there is: {micros}us",
        seconds(bar("S", 3).close_time),
    ]


def test_rows_lack_what_only_instruments_can_tell() -> None:
    assert lacking(sheet([bar("S", 1), bar("X", 2), bar("S", 3), bar("Y", 4)]), KNOWN) == {1: "VENUE:X", 3: "VENUE:Y"}
    assert lacking(sheet([vpin("S", 1), vpin("S", 2, venue="Z")]), KNOWN) == {1: "Z:S"}
    assert lacking(sheet([spot_mid("S", 1), spot_mid("X", 2), spot_mid("S", 3, quote="Q")]), KNOWN) == {
        1: "the pair BX-USDT",
        2: "the pair BS-Q",
    }
    surfaces = [iv_surface("S", 1), iv_surface("S", 2, venue="Z", expiries=())]
    assert lacking(sheet(surfaces), KNOWN) == {1: "options on BS in USDT at Z"}
    assert lacking(sheet([gap("X", 1)]), KNOWN) == {}


def test_what_is_left_of_a_sheet_keeps_its_reads() -> None:
    found = sheet([bar("S", number) for number in range(5)]).without({1, 3})
    assert [read.offset for read in found.reads] == [0, 2, 4]
    assert found.table.column("bar_seq").to_pylist() == [0, 2, 4]


def test_staged_lines_have_their_number() -> None:
    lines = next(iter(rows_of(sheet([bar("S", 1), bar("S", 2)]), KNOWN).lines(9)))
    assert [line.split("\t")[:2] for line in numbered(np.array([7, 8]), lines).to_pylist()] == [
        ["7", "11"],
        ["8", "11"],
    ]


def test_every_field_of_bars_and_vpin_is_kept() -> None:
    assert {*BAR_VALUES, "venue", "symbol", "kind", "profile", "bar_seq"} == set(Bar.__struct_fields__)
    assert {*VPIN_VALUES, "venue", "symbol", "profile", "bar_seq"} == set(Vpin.__struct_fields__)


def test_only_time_bars_have_an_interval() -> None:
    assert interval_of("time", "15m") == "15m"
    assert interval_of("tib", "15m") == "none"
    (row,) = lines_of([vpin("S", 1)])
    assert (row["kind"], row["interval_id"]) == ("vpin", "15")


def test_a_dsn_that_is_none_is_a_setting_to_correct() -> None:
    with pytest.raises(ConfigError, match="RAVEN_MART__DSN"):
        Timescale(Settings(mart=MartSettings(dsn="nonsense=1"))).setup()


@pytest.fixture
def mart(settings: Settings) -> Any:
    store = Timescale(settings)
    store.setup()
    yield store
    store.close()


def written(outcome: Outcome) -> list[tuple[str, Record]]:
    return [(bad.reason, CODEC.decode(bad.read.value)) for bad in outcome.refused]


def waiting(outcome: Outcome) -> list[tuple[str, Record]]:
    return [(bad.reason, CODEC.decode(bad.read.value)) for bad in outcome.waiting]


@pytest.mark.stack
def test_a_different_row_of_a_known_bar_is_refused_and_nothing_is_overwritten(
    mart: Timescale, settings: Settings, symbol: str
) -> None:
    first = [instrument(symbol), bar(symbol, 1), vpin(symbol, 1)]
    assert mart.write(reads(first)) == ([], [])
    later, higher = bar(symbol, 1, open_time=5), bar(symbol, 1, high=17, gap=False)

    outcome = mart.write(reads([bar(symbol, 1), later, higher, bar(symbol, 2)]))

    assert written(outcome) == [("conflicting_row", later), ("conflicting_row", higher)]
    assert [bad.detail.rpartition(" in ")[2] for bad in outcome.refused] == ["open_time", "high, gap"]
    assert written(mart.write(reads([later]))) == [("conflicting_row", later)]
    probe = TimescaleProbe(settings)
    assert probe.kept(symbol) == probe.expected([*first, bar(symbol, 2)])


@pytest.mark.stack
def test_what_is_wrong_is_one_line_with_what_to_do(mart_dsn: str) -> None:
    parts = urllib.parse.urlsplit(mart_dsn)
    where = parts.netloc.rpartition("@")[2]
    told = {
        "wrong": trouble(parts._replace(netloc=f"raven:hunter2@{where}").geturl()),
        "nodb": trouble(parts._replace(path="/nodb").geturl()),
        "nobody": trouble(parts._replace(netloc="raven:hunter2@127.0.0.1:1").geturl()),
        "nowhere": trouble(parts._replace(netloc="raven:hunter2@nowhere.invalid:5432").geturl()),
    }
    assert told["wrong"].endswith("correct the user and password in RAVEN_MART__DSN")
    assert told["nodb"].endswith("create it, or correct RAVEN_MART__DSN")
    assert told["nobody"].endswith("start it, or name another in RAVEN_MART__DSN")
    assert told["nowhere"].endswith("correct the host in RAVEN_MART__DSN")
    assert not [line for line in told.values() if "\n" in line or "hunter2" in line]


def trouble(dsn: str) -> str:
    store = Timescale(Settings(mart=MartSettings(dsn=SecretStr(dsn))))
    with pytest.raises(StoreUnavailable) as raised:
        store.setup()
    return str(raised.value)


@pytest.mark.stack
def test_of_two_different_rows_in_one_batch_the_first_is_kept(mart: Timescale, settings: Settings, symbol: str) -> None:
    mart.write(reads([instrument(symbol)]))
    rows = [bar(symbol, 1), bar(symbol, 1, low=5), bar(symbol, 1)]
    assert written(mart.write(reads(rows))) == [("conflicting_row", rows[1])]
    probe = TimescaleProbe(settings)
    assert probe.kept(symbol) == probe.expected(rows[:1])


@pytest.mark.stack
def test_what_the_database_cannot_hold_is_refused_alone(mart: Timescale, settings: Settings, symbol: str) -> None:
    good: list[Record] = [instrument(symbol), *(bar(symbol, number) for number in range(50))]
    bad = [
        bar(symbol, 100, high=10**38),
        bar(symbol, 101, close_time=10**18),
        bar(symbol, 102, last_trade_id="nul\0"),
        bar(symbol, 103, kind="time\0", profile="x"),
        bar(symbol, 104, kind="time", profile=""),
        instrument(symbol + "X", base="\0"),
        instrument(symbol + "Y", quote=""),
        bar(symbol, 105, profile="".join(map(chr, random.Random(1).choices(range(33, 0xD000), k=9_000)))),
    ]
    mixed = [record for pair in zip(good[: len(bad)], bad, strict=True) for record in pair] + good[len(bad) :]
    outcome = mart.write(reads(mixed))
    assert {reason for reason, _ in written(outcome)} == {"refused_by_store"}
    assert sorted(map(str, (record for _, record in written(outcome)))) == sorted(map(str, bad))
    probe = TimescaleProbe(settings)
    assert probe.kept(symbol) == probe.expected(good)


@pytest.mark.stack
def test_what_no_calendar_and_no_json_can_hold_is_refused_alone(
    mart: Timescale, settings: Settings, symbol: str
) -> None:
    makers = (kline, spot_mid, iv_surface, gap, vpin)
    good: list[Record] = [instrument(symbol), *(make(symbol, number) for make in makers for number in range(30))]
    point = IvPoint(strike=1, side="CALL", log_moneyness=float("nan"), iv=0.5, delta=0.5)
    bad: list[Record] = [
        kline(symbol, 100, open_time=10**18),
        kline(symbol, 101, received_time=253_402_300_800_000_000),
        vpin(symbol, 102, open_time=-62_135_596_800_000_001),
        spot_mid(symbol, 103, venues=(VenueMid(venue="nul\0", symbol="", age=1, used=True),)),
        *(
            spot_mid(symbol, 104 + n, venues=(VenueMid(venue="", symbol="", mid=mid, age=1, used=True),))
            for n, mid in enumerate((float("nan"), float("inf"), float("-inf")))
        ),
        iv_surface(symbol, 110, expiries=(iv_expiry(1, 110, points=(point,)),)),
        iv_surface(symbol, 111, expiries=(iv_expiry(1, 111, expiry=10**18),)),
        iv_surface(symbol, 112, expiries=(iv_expiry(1, 112, refused={"nul\0": 1}),)),
        gap(symbol, 113, detail="nul\0"),
        gap(symbol, 114, from_time=2**62),
    ]
    mixed = [record for pair in zip(good[: len(bad)], bad, strict=True) for record in pair] + good[len(bad) :]
    outcome = mart.write(reads(mixed))
    assert not outcome.waiting
    assert {reason for reason, _ in written(outcome)} == {"refused_by_store"}
    assert sorted(map(str, (record for _, record in written(outcome)))) == sorted(map(str, bad))
    probe = TimescaleProbe(settings)
    assert probe.kept(symbol) == probe.expected(good)


@pytest.mark.stack
def test_a_surface_without_expiries_is_no_row(mart: Timescale, settings: Settings, symbol: str) -> None:
    assert mart.write(reads([instrument(symbol), iv_surface(symbol, 1, expiries=())])) == ([], [])
    assert TimescaleProbe(settings).kept(symbol) == {}


@pytest.mark.stack
def test_a_bar_waits_for_its_instrument_and_others_do_not(mart: Timescale, settings: Settings, symbol: str) -> None:
    known, unknown = symbol, symbol + "LATER"
    outcome = mart.write(reads([bar(unknown, 1), instrument(known), bar(known, 1)]))
    assert waiting(outcome) == [("unknown_instrument", bar(unknown, 1))]
    probe = TimescaleProbe(settings)
    assert len(probe.kept(known)) == 1

    other = Timescale(settings)
    assert other.write(reads([instrument(unknown)])) == ([], [])
    other.close()
    assert mart.write(reads([bar(unknown, 1)])) == ([], []), "what another process learned is known"
    assert probe.kept(unknown) == probe.expected([bar(unknown, 1)])


@pytest.mark.stack
def test_a_restart_knows_the_instruments(settings: Settings, symbol: str) -> None:
    for records in ([instrument(symbol)], [bar(symbol, 1)]):
        store = Timescale(settings)
        assert store.write(reads(records)) == ([], [])
        store.close()


@pytest.mark.stack
def test_the_coins_of_a_symbol_never_change(mart: Timescale, symbol: str) -> None:
    mart.write(reads([instrument(symbol)]))
    other = instrument(symbol, quote="USDC")
    assert written(mart.write(reads([instrument(symbol, status="BREAK"), other]))) == [("conflicting_row", other)]


@pytest.mark.stack
def test_dimensions_name_the_parts_of_a_row(mart: Timescale, settings: Settings, symbol: str) -> None:
    others = [bar(symbol, 1, kind=kind, profile=profile) for kind, profile in (("time", "90s"), ("dib", "dib_small"))]
    records = [bar(symbol, 1), *others, vpin(symbol, 1)]
    mart.write(reads([instrument(symbol), *records]))
    probe = TimescaleProbe(settings)
    names = ("venue", "symbol", "base", "quote", "interval", "kind", "profile")
    rows = [probe.rows(table, symbol)[0] for table in BARS]
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("VENUE", symbol, f"B{symbol}", "USDT", "90s", "time", "90s"),
        ("VENUE", symbol, f"B{symbol}", "USDT", "none", "tib", "tib_small"),
        ("VENUE", symbol, f"B{symbol}", "USDT", "none", "dib", "dib_small"),
        ("VENUE", symbol, f"B{symbol}", "USDT", "none", "vpin", "default"),
    ]


@pytest.mark.stack
def test_two_instruments_of_the_same_coins_at_one_venue_do_not_meet(
    mart: Timescale, settings: Settings, symbol: str
) -> None:
    """A perpetual and a future of BTC and USDT, say."""
    pair = [symbol, symbol + "_250328"]
    records = [instrument(name, base=f"B{symbol}") for name in pair] + [bar(name, 1, low=len(name)) for name in pair]
    assert mart.write(reads(records)) == ([], [])
    probe = TimescaleProbe(settings)
    assert [len(probe.kept(name)) for name in pair] == [1, 1]


@pytest.mark.stack
def test_keys_and_foreign_keys_are_as_promised(mart: Timescale, mart_dsn: str) -> None:
    with psycopg.connect(mart_dsn) as connection:
        rows = connection.execute(
            "SELECT conrelid::regclass::text, contype, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = 'mart'::regnamespace AND contype IN ('p', 'f')"
        ).fetchall()
    bars = "instrument_id, kind, profile, bar_seq, coin_id, quote_id, exchange_id, interval_id, open_time"
    keys = {
        **dict.fromkeys(BARS, bars),
        "fact__kline": "instrument_id, interval_id, open_time",
        "fact__spot_mid": 'coin_id, quote_id, "time"',
        "fact__iv_surface": 'exchange_id, coin_id, quote_id, expiry, "time"',
        "fact__gap": "gap_id",
    }
    dimensions = {fact: {"coin", "quote", "exchange", "interval", "instrument"} for fact in [*BARS, "fact__kline"]}
    dimensions |= {"fact__spot_mid": {"coin", "quote"}, "fact__iv_surface": {"exchange", "coin", "quote"}}
    dimensions |= {"fact__gap": {"exchange"}}
    assert set(keys) == {fact.name for fact in FACTS.values()}
    for fact, key in keys.items():
        mine = [(kind, text) for name, kind, text in rows if name == f"mart.{fact}"]
        assert [text for kind, text in mine if kind == "p"] == [f"PRIMARY KEY ({key})"]
        references = {text.partition(" REFERENCES ")[2] for kind, text in mine if kind == "f"}
        assert references == {f"mart.dim__{name}({name}_id)" for name in dimensions[fact]}


# Rows that are new for certain, and others


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9))), st.dictionaries(st.sampled_from("ab"), LONGS))
def test_a_row_is_new_for_certain_once_and_beyond_all_before(rows: list[tuple[str, int]], last: dict[str, int]) -> None:
    new, others = divided(made(rows), last)
    assert sorted([*new, *others]) == list(range(len(rows)))
    assert new.tolist() == sorted(new)
    assert others.tolist() == sorted(others)
    for series in "ab":
        positions = [rows[number][1] for number in new if rows[number][0] == series]
        assert positions == sorted(set(positions))
        assert not positions or series not in last or positions[0] > last[series]
        assert max(positions, default=-1) == max(
            (p for s, p in rows if s == series and p > last.get(series, -1)), default=-1
        )


@given(st.lists(st.tuples(st.sampled_from("ab"), LONGS)), st.sets(st.integers(0, 5)))
def test_a_series_has_come_as_far_as_its_good_rows(rows: list[tuple[str, int]], bad: set[int]) -> None:
    good = [row for number, row in enumerate(rows) if number not in bad]
    assert furthest(made(rows), bad) == {
        series: max(p for s, p in good if s == series) for series in {series for series, _ in good}
    }


def made(rows: Sequence[tuple[str, int]]) -> Rows:
    """Rows of series and positions."""
    codes = np.array(["ab".index(series) for series, _ in rows], np.int64)
    positions = np.array([position for _, position in rows], np.int64)
    series = [Series(name, "") for name in "ab"]
    return Rows(MID, np.arange(len(rows)), series, codes, positions, pa.table({"time": positions}))


@pytest.mark.stack
def test_rows_that_come_late_are_kept_once_and_compared(mart: Timescale, settings: Settings, symbol: str) -> None:
    makers = (bar, vpin, kline, spot_mid, iv_surface)
    first: list[Record] = [instrument(symbol), *(make(symbol, 7) for make in makers)]
    late: list[Record] = [make(symbol, number) for make in makers for number in (3, 5, 8, 5)]
    assert mart.write(reads(first)) == ([], [])
    assert mart.write(reads(late)) == ([], [])
    other = [bar(symbol, 3, low=2), kline(symbol, 3, low=9), spot_mid(symbol, 3, mid=4.5)]
    odd = iv_surface(symbol, 3, expiries=(iv_expiry(1, 3), iv_expiry(30, 3, atm_iv=9.0, points=(), refused={})))
    assert written(mart.write(reads([*other, odd]))) == [("conflicting_row", record) for record in (*other, odd)]
    probe = TimescaleProbe(settings)
    assert probe.kept(symbol) == probe.expected([*first, *late])


@pytest.mark.stack
def test_a_kline_that_came_twice_in_another_way_is_the_same(mart: Timescale, settings: Settings, symbol: str) -> None:
    mart.write(reads([instrument(symbol), kline(symbol, 1)]))
    again = kline(symbol, 1, received_time=T0 + 99, event_time=T0, connection_sequence=7, connection_time=5)
    assert mart.write(reads([again])) == ([], [])
    probe = TimescaleProbe(settings)
    assert probe.kept(symbol) == probe.expected([kline(symbol, 1)])


@pytest.mark.stack
def test_a_row_that_somebody_put_there_is_found_all_the_same(mart: Timescale, settings: Settings, symbol: str) -> None:
    mart.write(reads([instrument(symbol), bar(symbol, 1), bar(symbol, 2)]))
    with psycopg.connect(settings.mart.dsn.get_secret_value()) as connection:
        connection.execute("DELETE FROM mart.series WHERE series LIKE '%%/tib/%%'")
    assert written(mart.write(reads([bar(symbol, 2, low=3), bar(symbol, 3)]))) == [
        ("conflicting_row", bar(symbol, 2, low=3))
    ]
    probe = TimescaleProbe(settings)
    assert probe.kept(symbol) == probe.expected([bar(symbol, number) for number in (1, 2, 3)])


# The continuity ledger


def read_gap(partition: int, offset: int, record: Record) -> Read:
    return Read(GAPS, partition, offset, None, CODEC.encode(record))


@pytest.mark.stack
def test_of_a_gap_the_newest_entry_stands_in_whatever_order_they_are_written(
    mart: Timescale, settings: Settings, symbol: str
) -> None:
    open_, ended = gap(symbol, 1), gap(symbol, 1, to_time=T0 + 9, repair="PARTIAL", repaired=2, detected_time=T0)
    probe = TimescaleProbe(settings)
    for batch in ([(5, open_)], [(5, open_), (8, ended)], [(5, open_)], [(8, ended), (6, open_)]):
        assert mart.write([read_gap(3, offset, record) for offset, record in batch]) == ([], [])
    assert probe.kept(symbol) == probe.expected([ended])

    moved, older = gap(symbol, 1, detected_time=T0 + 50), gap(symbol, 1, detected_time=T0 - 1)
    for record in (moved, older):
        mart.write([read_gap(4, 0 if record is moved else 1, record)])
    assert probe.kept(symbol) == probe.expected([older]), "one partition's order is that of its offsets"
    mart.write([read_gap(5, 77, gap(symbol, 1, detected_time=T0 - 2))])
    assert probe.kept(symbol) == probe.expected([older])


@pytest.mark.stack
def test_a_gap_waits_for_no_instrument_and_brings_its_venue(mart: Timescale, settings: Settings, symbol: str) -> None:
    mine = gap(symbol, 1, venue=f"V{symbol}", from_sequence=None, to_sequence=None, missing=None, from_time=None)
    nameless = gap(symbol, 2, venue="")
    outcome = mart.write(reads([mine, nameless]))
    assert (written(outcome), outcome.waiting) == ([("refused_by_store", nameless)], [])
    probe = TimescaleProbe(settings)
    assert probe.kept(symbol) == probe.expected([mine])


@pytest.mark.stack
def test_mids_and_surfaces_wait_for_their_coins(mart: Timescale, symbol: str) -> None:
    records = [spot_mid(symbol, 1), iv_surface(symbol, 1)]
    outcome = mart.write(reads(records))
    assert waiting(outcome) == [("unknown_instrument", record) for record in records]
    assert mart.write(reads([instrument(symbol), *records])) == ([], [])
