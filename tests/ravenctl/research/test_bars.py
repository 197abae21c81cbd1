"""`ravenctl bars` gives what the engine publishes for the same trades, whatever file they are in."""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from processors.registry import FOLDS
from processors.symbol import Symbol
from ravencore.config import BarsSettings, DrivenBarProfile, PlainBarProfile, RuledBarProfile, VpinSettings
from ravenctl.cli import app
from tests.processors.tapes import read_csv, read_frames, records
from tests.ravenctl.research import markets
from tests.ravenctl.research.markets import FORMS, SYMBOL, VENUE, fields, live, market, outputs, shaken, write

ROOT = Path(__file__).parents[3]
LINES = market(4_000)
NAMES = ("--venue", VENUE, "--symbol", SYMBOL)
OWN = {
    "time": ("5s", ()),
    "dib": ("dib_x", ("initial_size=40",)),
    "vrb": ("vrb_x", ("initial_size=40",)),
    "drb": ("drb_x", ("alpha_imbl=0.3",)),
    "tick": ("tick_x", ("size=37",)),
    "volume": ("volume_x", ("size=12.5",)),
    "dollar": ("dollar_x", ("size=1000000",)),
    "vpin": ("default", ("bucket_volume=90000",)),
}
"""Profiles where there are none by default, or none that this market fills."""
ALL = BarsSettings(
    time_intervals=["1s", "5s"],
    dib={"dib_x": DrivenBarProfile(initial_size=40)},
    vrb={"vrb_x": DrivenBarProfile(initial_size=40)},
    drb={"drb_x": DrivenBarProfile(alpha_imbl=0.3)},
    tick={"tick_x": PlainBarProfile(size="37")},
    volume={"volume_x": PlainBarProfile(size="12.5")},
    dollar={"dollar_x": PlainBarProfile(size="1000000")},
    vpin=VpinSettings(bucket_volume="90000"),
)
"""An engine that makes all of them at once."""


@cache
def published() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """What the engine publishes of LINES, by topic and profile, as JSON."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for output in outputs(LINES, ALL):
        found.setdefault((output.topic, output.record.profile), []).append(fields(output.record))
    return found


TIB = ("raven.bars.tib", "tib_small")


def ravenctl(*args: object) -> Result:
    return CliRunner().invoke(app, ["bars", *map(str, args)])


def bars(*args: object) -> list[dict[str, Any]]:
    result = ravenctl(*args)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def refusal(*args: object) -> str:
    """What a command that must fail says; one line."""
    result = ravenctl(*args)
    assert result.exit_code in (1, 2), result.output
    assert result.stdout == ""
    said = result.stderr.splitlines()
    assert said[-1].startswith("ravenctl: ")
    return said[-1].removeprefix("ravenctl: ")


def options(kind: str, profile: str, sets: Sequence[str]) -> list[str]:
    return ["--kind", kind, "--profile", profile, *(part for text in sets for part in ("--set", text)), *NAMES]


@pytest.mark.parametrize("kind", FOLDS, ids=lambda kind: kind.kind)
def test_every_kind_gives_what_the_engine_publishes(kind: Any, tmp_path: Path) -> None:
    profile, sets = OWN.get(kind.kind, (f"{kind.kind}_small", ()))
    made = bars(write(tmp_path, "plain.csv", LINES), *options(kind.kind, profile, sets))
    assert len(made) > 15
    assert made == published()[kind.topic, profile]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_file_gives_the_same_bars(name: str, tmp_path: Path) -> None:
    made = bars(write(tmp_path, name, LINES), *options("tib", "tib_small", ()))
    assert made == published()[TIB]


def test_the_rule_raven_and_parameters_of_ones_own(tmp_path: Path) -> None:
    profile = RuledBarProfile(rule="raven", initial_size=60, alpha_size=0.5)
    sets = ["initial_size=60", "alpha_size=0.5"]
    made = bars(write(tmp_path, "plain.csv", LINES), *options("vib", "mine", sets), "--rule", "raven")
    assert made == [fields(it) for it in live(LINES, BarsSettings(vib={"mine": profile}), "raven.bars.vib", "mine")]


def test_without_a_profile_the_first_configured_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "plain.csv", LINES)
    assert {bar["profile"] for bar in bars(path, "--kind", "trb", *NAMES)} == {"trb_small"}
    monkeypatch.setenv("RAVEN_BARS__DOLLAR", '{"big": {"size": 500000}}')
    assert {bar["profile"] for bar in bars(path, "--kind", "dollar", *NAMES)} == {"big"}


def test_the_bucket_volume_of_the_symbol_is_the_configured_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "plain.csv", LINES)
    monkeypatch.setenv("RAVEN_BARS__VPIN", json.dumps({"bucket_volumes": {f"{VENUE}:{SYMBOL}": "250000"}}))
    assert {bucket["volume"] for bucket in bars(path, "--kind", "vpin", *NAMES)} == {"250000"}
    based = bars(path, "--kind", "vpin", *NAMES, "--set", "bucket_volume=3.5", "--set", "unit=base")
    assert {(bucket["volume"], bucket["unit"]) for bucket in based} == {("3.5", "BASE")}


def test_repetitions_are_dropped_and_what_comes_late_is_put_in_its_place(tmp_path: Path) -> None:
    mixed = shaken(LINES)
    result = ravenctl(write(tmp_path, "plain.csv", mixed), *options("time", "1s", ()))
    made = [json.loads(line) for line in result.stdout.splitlines()]
    assert made == published()["raven.bars.time", "1s"]
    last = result.stderr.splitlines()[-1]
    assert f"4,000 trades of {VENUE} {SYMBOL}, {len(mixed) - 4_000} duplicates" in last
    assert "put in the order of their ids" in last
    assert f"{len(made)} bars written" in last


def test_rows_that_are_no_trades_are_counted_by_line_and_nothing_else_is_lost(tmp_path: Path) -> None:
    rows = markets.plain(LINES).splitlines()
    spoilt = {
        7: b"1700000000300,1,NaN,1.0,buy",
        3_200: b"1700000000300,1,61000,,buy",
        3_201: b"1700000000300,1,61000,0,buy",
        3_900: b"1700000000300,1,-61000,1,buy",
        3_901: b"never,1,61000,1,buy",
        3_902: b"1700000000300,1,61000",
        3_903: b"1700000000300,1,61000,1,nobody",
        3_904: b"",
    }
    for line, text in spoilt.items():
        rows.insert(line - 1, text)
    path = tmp_path / "spoilt.csv"
    path.write_bytes(b"\n".join(rows))
    result = ravenctl(path, *options("tib", "tib_small", ()))
    made = [json.loads(line) for line in result.stdout.splitlines()]
    assert made == published()[TIB]
    last = result.stderr.splitlines()[-1]
    assert "4,000 trades" in last
    assert "7 refused (line 7: price: 'NaN' is not a number; line 3200: quantity: '' is not a number; " in last


def test_a_refused_row_without_ids_leaves_a_hole(tmp_path: Path) -> None:
    rows = [f"{1_700_000_000_000 + place},100,{'1' if place != 25 else 'x'},buy" for place in range(60)]
    path = tmp_path / "odd.csv"
    path.write_text("\n".join(["time,price,size,side", *rows]))
    made = bars(path, "--kind", "tick", "--set", "size=10")
    assert [bar["gap"] for bar in made] == [False, False, True, False, False]
    assert made[2]["first_trade_id"] == "21"
    assert made[2]["last_trade_id"] == "31"


def test_ids_that_do_not_count_tell_duplicates_alone(tmp_path: Path) -> None:
    rows = [f"{1_700_000_000_000 + place},id-{place},100,1,buy" for place in range(50)]
    path = tmp_path / "odd.csv"
    path.write_text("\n".join(["time,id,price,size,side", *rows[:30], *rows[20:]]))
    result = ravenctl(path, "--kind", "tick", "--set", "size=10", "--out", tmp_path / "x.jsonl")
    assert "ids do not count by one" in result.stderr
    assert "50 trades of FILE odd, 10 duplicates, 0 holes" in result.stderr.splitlines()[-1]


def test_what_the_folds_drop_changes_no_side_of_the_tick_rule(tmp_path: Path) -> None:
    prices = [100 + place * 7 % 5 for place in range(400)]
    rows = [f"{1_700_000_000_000 + place},id-{place},{price},1" for place, price in enumerate(prices)]
    again = [one for place, row in enumerate(rows) for one in (row, *rows[max(place - 2, 0) : place : 3])]
    spoilt = [one for row in rows for one in (row, row.replace("id-", "bad-")[:-1] + "0")]
    made = []
    for name, table in (("plain", rows), ("again", again), ("spoilt", spoilt)):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(["time,id,price,size", *table]))
        made.append(
            [bar | {"gap": None} for bar in bars(path, "--kind", "tib", "--symbol", "X", "--set", "initial_size=20")]
        )
    assert len(made[0]) > 5
    assert made[1] == made[2] == made[0]


def test_rows_without_an_id_are_refused_and_not_taken_for_one_trade(tmp_path: Path) -> None:
    rows = [f"{1_700_000_000_000 + place},{f'id-{place}' if place % 3 else ''},100,1,buy" for place in range(60)]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["time,id,price,size,side", *rows]))
    last = ravenctl(path, "--kind", "tick", "--set", "size=10").stderr.splitlines()[-1]
    assert "40 trades of FILE x, 0 duplicates" in last
    assert "20 refused (line 2: id: there is none;" in last


def test_in_binances_trade_event_t_is_the_id_unless_it_is_named_the_time(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    rows = [f"trade,X,{7 + place},100,1,9,{5 - place % 2},{1_700_000_000_000 + place},true" for place in range(30)]
    path.write_text("\n".join(["e,s,t,p,q,b,a,T,m", *rows]))
    assert bars(path, "--kind", "tick", "--set", "size=10")[0]["first_trade_id"] == "7"
    path.write_text("\n".join(["t,p,q,m", *(f"{1_700_000_000_000 + n // 2},100,1,true" for n in range(30))]))
    assert len(bars(path, "--kind", "tick", "--set", "size=10", "--time", "t")) == 3


def test_a_parquet_time_that_says_its_unit_needs_no_flag(tmp_path: Path) -> None:
    at = pa.array([1_700_000_000_000_000_000 + n * 10**6 for n in range(20)], pa.timestamp("ns"))
    table = pa.table({"time": at, "price": [1.5] * 20, "size": [1.0] * 20, "side": ["buy"] * 20})
    pq.write_table(table, tmp_path / "x.parquet")
    for flag in ((), ("--time-unit", "ns")):
        first, _ = bars(tmp_path / "x.parquet", "--kind", "tick", "--set", "size=10", *flag)
        assert first["open_time"] == 1_700_000_000_000_000


def test_a_table_written_backwards_is_told_even_where_times_tie(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["time,price,size", *(f"{1_700_000_000 - n // 40},100,1" for n in range(400))]))
    assert "begins with its newest trades" in refusal(path, "--kind", "tick", "--set", "size=10")


def test_a_recording_that_was_cut_short_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "cut.frames.zst"
    path.write_bytes(FORMS["BTC.frames.zst"](LINES)[:-40])
    result = ravenctl(path, "--kind", "tick", "--set", "size=10")
    assert result.exit_code == 0
    assert "its recorder was killed" in result.stderr
    assert 200 < len(result.stdout.splitlines()) < 400


@pytest.mark.parametrize("name", ["plain.csv.gz", "plain.csv.zst", "plain.csv.xz", "plain.csv.bz2"])
def test_a_table_that_was_cut_short_is_an_error_and_nothing_is_lost(name: str, tmp_path: Path) -> None:
    path, out = tmp_path / name, tmp_path / "bars.csv"
    path.write_bytes(FORMS[name](LINES)[:-40])
    out.write_text("what was there before")
    assert f"{path} is damaged or cut short" in refusal(path, "--kind", "tib", "--out", out)
    assert out.read_text() == "what was there before"
    assert sorted(it.name for it in tmp_path.iterdir()) == sorted([name, "bars.csv"])


def two_symbols(tmp_path: Path, form: str) -> Path:
    lines, others = LINES[:2_000], market(4_000, seed=9)
    path = tmp_path / ("two.frames" if form == "frames" else "two.csv")
    if form == "frames":
        path.write_bytes(markets.frames(lines) + markets.frames(others, "ETHUSDT"))
    else:
        head, _, rest = markets.tardis(others).replace(b"BTCUSDT", b"ETH-USDT").partition(b"\n")
        path.write_bytes(markets.tardis(lines) + rest)
        assert head
    return path


def test_blanks_around_a_symbol_make_no_other_symbol_and_padded_times_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "padded.csv"
    path.write_text("time,symbol,price,qty,side\n1700000000,X,1,1,buy\n 1700000001.5 ,X ,1,1,buy\n")
    result = ravenctl(path, "--kind", "tick", "--set", "size=2")
    assert [json.loads(line)["symbol"] for line in result.stdout.splitlines()] == ["X"]
    assert "times in s, by their size" in result.stderr


def test_a_configured_profile_of_vpin_is_taken_for_the_symbol_that_the_file_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAVEN_BARS__VPIN__PROFILES", f'{{"{VENUE}:BTCUSDT": "big"}}')
    path = write(tmp_path, "BTC.frames", LINES[:300])
    made = bars(path, "--kind", "vpin", "--profile", "big")
    assert {bucket["profile"] for bucket in made} == {"big"}
    assert "VPIN has one profile, big" in refusal(path, "--kind", "vpin", "--profile", "default")


def test_a_recording_without_trades_says_what_it_holds_and_what_to_do(tmp_path: Path) -> None:
    frame = '{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT","b":"1","B":"1","a":"2","A":"1"}}'
    path = tmp_path / "quotes.frames"
    path.write_text(f"1700000000000000000\t{frame}\n")
    told = refusal(path, "--kind", "tib", "--venue", "BINANCE_SPOT")
    assert "holds frames of btcusdt@bookTicker, but no trade that Raven collects of BINANCE_SPOT: `ravenctl rec" in told


def test_flat_windows_fill_silences_and_of_a_long_one_the_beginning(tmp_path: Path) -> None:
    days = [f"{1_700_000_000 + day * 86_400},1,1,buy" for day in range(20)]
    path = tmp_path / "rare.csv"
    path.write_text("\n".join(["time,price,qty,side", *days]))
    minutes = bars(path, "--kind", "time", "--profile", "1m", "--set", "empty_windows=flat")
    assert len(minutes) == 19 * 1440
    path.write_text("\n".join(["time,price,qty,side", days[0], days[2]]))
    seconds = ravenctl(path, "--kind", "time", "--profile", "1s", "--set", "empty_windows=flat")
    assert seconds.stdout.count("\n") == 1 + 100_000


@pytest.mark.parametrize("form", ["frames", "table"])
def test_of_several_symbols_one_is_chosen_or_all_are_listed(form: str, tmp_path: Path) -> None:
    path = two_symbols(tmp_path, form)
    told = refusal(path, "--kind", "tib")
    assert "holds several symbols: choose one with --symbol; there are BTCUSDT, ETH" in told
    assert "no trade of SOLUSDT: there are BTCUSDT, ETH" in refusal(path, "--kind", "tib", "--symbol", "SOLUSDT")
    made = bars(path, "--kind", "tib", "--symbol", "btc/usdt")
    expected = live(LINES[:2_000], BarsSettings(), "raven.bars.tib", "tib_small")
    assert made == [fields(it) | {"venue": VENUE} for it in expected]
    assert bars(path, "--kind", "tib", "--symbol", "ETHUSDT") != made


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--kind", "tibs"], "--kind tibs is unknown: there are time, tib, trb, vib, dib, vrb, drb, tick, volume"),
        (["--kind", "tib", "--set", "initial_sise=3"], "did you mean initial_size?"),
        (["--kind", "tib", "--set", "initial_size=x"], "--set initial_size=x: Input should be a valid integer"),
        (["--kind", "tib", "--set", "initial_size"], "write KEY=VALUE"),
        (["--kind", "tib", "--profile", "tib_smal"], "tib has no such profile; there are tib_small, tib_large"),
        (["--kind", "dollar"], "dollar has no profile configured. Make one with --set, for example --set size=..."),
        (["--kind", "dollar", "--set", "size=-1"], "it must be positive"),
        (["--kind", "dib", "--rule", "raven"], "Input should be 'guarded'"),
        (["--kind", "time", "--profile", "5 minutes"], "is no interval: write for example 500ms"),
        (["--kind", "vpin", "--set", "x=1"], "--set x is unknown: there are bucket_volume, unit"),
        (["--kind", "vpin", "--set", "bucket_volume=x"], "the bucket volume of FILE:plain: 'x' is not a number"),
        (["--kind", "vpin", "--set", "bucket_volumes={}"], "There are bucket_volume, unit, window, sigma_window"),
        (["--kind", "vpin", "--profile", "x"], "VPIN has one profile"),
        (["--kind", "tib", "--out", "bars.txt"], "name it .parquet, .csv or .jsonl"),
        (["--kind", "tib", "--out", "nowhere/bars.csv"], "there is no folder nowhere"),
        (["--kind", "tib", "--plot", "bars.svg"], "name it .png"),
        (["--kind", "tib", "--price", "prize"], "--price prize: the table has no such column; there are timestamp_ms"),
        (["--kind", "tib", "--time-unit", "min"], "write one of s, ms, us, ns"),
    ],
)
def test_what_is_written_wrongly_is_told_in_one_line(given: list[str], told: str, tmp_path: Path) -> None:
    assert told in refusal(write(tmp_path, "plain.csv", LINES[:50]), *given)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    assert "cannot read" in refusal(path, "--kind", "tib")
    path.write_text("")
    assert "is empty" in refusal(path, "--kind", "tib")
    path.write_text("time,price,qty\n")
    assert "holds no trade that can be read" in refusal(path, "--kind", "tib")
    path.write_text("time,price,qty\n1700000000000,x,1\n")
    assert "holds no trade that can be read: line 2: price: 'x'" in refusal(path, "--kind", "tib")
    path.write_text("time,price,qty\n1700000000000,0,1\n")
    assert "holds no sound trade: line 2: price 0 is not positive" in refusal(path, "--kind", "tib")
    path.write_text("1,2,3\n")
    assert "none of Binance's dumps" in refusal(path, "--kind", "tib")
    path.write_text("when,price,qty\n1,2,3\n")
    assert "which column holds time?" in refusal(path, "--kind", "tib")
    path.write_text('time,price,qty\n1700000000000,"1,1\n1700000000001,1,1\n')
    assert "is no CSV, as line 3 tells at last: unexpected end of data" in refusal(path, "--kind", "tib")
    path.write_bytes(b"\0" * 3_000_000)
    assert "is no text" in refusal(path, "--kind", "tib")
    path.write_bytes(markets.plain(LINES[::-1]))
    assert "begins with its newest trades" in refusal(path, "--kind", "tib")
    assert "take the place of the trades" in refusal(path, "--kind", "tib", "--out", path)


def test_columns_are_named_by_their_numbers_where_they_have_no_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    rows = [(it.quantity, it.price, it.time_ms * 1_000_000, it.number, -1 + 2 * it.buy) for it in LINES]
    path.write_bytes(markets.table(None, rows))
    named = ["--time", "3", "--price", "2", "--quantity", "1", "--id", "4", "--side", "5"]
    made = bars(path, *named, *options("tib", "tib_small", ()))
    assert made == published()[TIB]


def test_it_says_what_it_took_for_what(tmp_path: Path) -> None:
    path = tmp_path / "BTC-EUR.csv"
    path.write_text("T,price,volume\n1700000000000,100,1\n1700000000001,101,1\n")
    result = ravenctl(path, "--kind", "tick", "--set", "size=2")
    assert result.stderr.splitlines()[:3] == [
        "columns: time from 'T', price from 'price', quantity from 'volume'; times in ms, by their size",
        "no column tells the aggressor's side: the tick rule does (Lee and Ready)",
        "no column holds ids: trades are numbered in their order, from 1",
    ]
    assert [(it["venue"], it["symbol"]) for it in map(json.loads, result.stdout.splitlines())] == [("FILE", "BTC-EUR")]


def test_a_cell_may_go_on_in_the_next_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('note,time,price,qty\n"two\nlines",1700000000000,1,1\nx,1700000000001,x,1\n')
    result = ravenctl(path, "--kind", "tick", "--set", "size=1")
    assert len(result.stdout.splitlines()) == 1
    assert "1 refused (line 4: price: 'x' is not a number)" in result.stderr


MEASURED = """
import resource, sys
from ravenctl.cli import app
for path in sys.argv[1:]:
    app(["bars", path, "--kind", "volume", "--set", "size=100", "--out", path + ".jsonl"], standalone_mode=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_memory_stays_small_however_long_the_file_is(tmp_path: Path) -> None:
    header, _, rows = markets.no_ids(LINES).partition(b"\n")
    paths = [tmp_path / "short.csv", tmp_path / "long.csv"]
    for path, times in zip(paths, (6, 60), strict=True):
        path.write_bytes(header + b"\n" + rows * times)
    assert paths[1].stat().st_size > 8e6
    command = [sys.executable, "-c", MEASURED, *map(str, paths)]
    ran = subprocess.run(command, check=True, capture_output=True, cwd=ROOT, text=True)
    short, long = map(int, ran.stdout.split())
    assert "240,000 trades" in ran.stderr
    assert long - short < 12e6


def test_a_real_recording_gives_what_the_engine_publishes(recordings: Path) -> None:
    path = recordings / "binance_spot" / "hft_btcusdt_20230405.frames.zst"
    prints = read_frames(path)
    assert len(prints) == 3_144
    made = bars(path, "--kind", "tib")
    outputs = Symbol(VENUE, SYMBOL, BarsSettings()).apply(records(prints), range(len(prints))).outputs
    assert made == [fields(it.record) for it in outputs if it.record.profile == "tib_small"]


@pytest.mark.parametrize("kind", ["time", "vib"])
def test_a_real_table_gives_what_the_engine_publishes(kind: str, recordings: Path) -> None:
    path = recordings / "binance_spot" / "ms_btcusdt_trades_20260216.csv.zst"
    made = bars(path, "--kind", kind, *NAMES)
    prints = read_csv(path)
    published_ = Symbol(VENUE, SYMBOL, BarsSettings()).apply(records(prints), range(len(prints))).outputs
    first = made[0]["profile"]
    assert made == [fields(it.record) for it in published_ if it.record.profile == first]
    assert len(made) > 5


def test_futures_trades_of_old_recordings_become_aggregated_ones(recordings: Path) -> None:
    path = recordings / "binance_usdm" / "hft_btcusdt_20230404.frames.zst"
    result = ravenctl(path, "--kind", "tick", "--set", "size=50")
    assert "a recording of BINANCE_FUTURES" in result.stderr
    assert {bar["venue"] for bar in map(json.loads, result.stdout.splitlines())} == {"BINANCE_FUTURES"}


@pytest.mark.parametrize(
    ("name", "venue", "symbol"),
    [
        ("derived/kraken_v2_trade_btcusdt_20251110_part1.frames.zst", "KRAKEN", "BTC/USDT"),
        ("coinbase_at/cf_btc_eth_20260809_part1.frames.zst", "COINBASE", "BTC-USD"),
    ],
)
def test_recordings_of_other_venues(recordings: Path, name: str, venue: str, symbol: str) -> None:
    made = bars(recordings / name, "--kind", "tick", "--set", "size=5", "--symbol", symbol)
    assert {(bar["venue"], bar["symbol"]) for bar in made} == {(venue, symbol)}


def test_a_killed_run_leaves_no_half_file(tmp_path: Path) -> None:
    path, out = write(tmp_path, "plain.csv", LINES), tmp_path / "bars.csv"
    code = (
        "import os, sys\n"
        "from ravenctl.research import bars, barfiles\n"
        "barfiles.Csv.close = lambda self: os._exit(9)\n"
        "from ravenctl.cli import app\n"
        "app(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, "bars", str(path), "--kind", "tib", "--out", str(out)]
    assert subprocess.run(command, check=False, capture_output=True, cwd=ROOT).returncode == 9
    assert not out.exists()


PAGE = ROOT / "docs" / "research.md"
EXAMPLES = [line for line in PAGE.read_text().splitlines() if line.startswith("ravenctl ")]


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_page_run(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if ".parquet" in example:
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    for name, form in (
        ("BTCUSDT-trades-2025-01-01.zip", "spot.zip"),
        ("trades.csv.gz", "plain.csv.gz"),
        ("trades.csv", "plain.csv"),
        ("BTC.frames.zst", "BTC.frames.zst"),
    ):
        Path(name).write_bytes(FORMS[form](LINES))
    result = CliRunner().invoke(app, example.split()[1:])
    assert result.exit_code == 0, result.output
