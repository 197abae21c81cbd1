"""The ledger in words that a person understands, on the screens that there are."""

import io
import itertools
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ravencore.records import Gap, GapCause
from ravenctl.completeness import HOUR_US, Hour, edges_of
from ravenctl.feeds import Name
from ravenctl.gaps import BadEntry, Report
from ravenctl.gapsview import (
    SHOWN,
    between,
    completeness,
    fold,
    for_scripts,
    line,
    merged_hours,
    missing,
    outcome,
    percent,
    sentence,
    show,
    span,
    told,
)

NOW = 500_000 * HOUR_US
TRADES = Name("BINANCE_SPOT", "trades")


def gap(**fields: Any) -> Gap:
    told = {"gap_id": str(fields), "venue": "BINANCE_SPOT", "channel": "trades", "symbol": "BTCUSDT"}
    times = {"from_time": NOW - HOUR_US, "to_time": NOW - HOUR_US + 12_000_000, "detected_time": NOW - HOUR_US}
    return Gap(**{**told, **times, "cause": "SEQUENCE", "connection": "", "detail": "the ids jump", **fields})


def hour(**fields: Any) -> Hour:
    whole = {"name": TRADES, "symbol": None, "from_us": NOW - HOUR_US, "to_us": NOW, "symbols": 2}
    return Hour(**{**whole, "known": (NOW - HOUR_US, NOW), **fields})


def report(*gaps: Gap, hours: tuple[Hour, ...] = (), **fields: Any) -> Report:
    return Report(NOW - 24 * HOUR_US, NOW, list(gaps), list(gaps), list(hours), hours_since_us=0, **fields)


def drawn(found: Report, width: int = 200, *, everything: bool = False) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(show(found, width, everything=everything))
    return console.export_text()


TWELVE = {"from_sequence": 105, "to_sequence": 116, "missing": 12}


@pytest.mark.parametrize(
    ("fields", "lost", "became"),
    [
        (TWELVE, "12 trades, ids 105-116", "missing"),
        ({"from_sequence": 7, "to_sequence": 7, "missing": 1}, "1 trade, id 7", "missing"),
        ({"missing": None}, "unknown number", "came back"),
        ({"missing": None, "cause": "COLD_START"}, "all before it", "known from here on"),
        ({"missing": None, "cause": "REFUSED"}, "unknown number", "not collected"),
        ({"missing": 0}, "nothing", "nothing was lost"),
        ({"missing": 0, "repair": "BACKFILLED", "repaired": 12}, "nothing", "all 12 came after all"),
        ({"missing": 0, "repair": "BACKFILLED", "repaired": 1}, "nothing", "came after all"),
        (
            {"missing": 9, "repair": "PARTIAL", "repaired": 3, "from_sequence": 1, "to_sequence": 9},
            "9 trades, ids 1-9",
            "3 of 12 came, 9 missing",
        ),
        ({"missing": 2, "channel": "klines"}, "2 klines", "missing"),
        ({"missing": None, "channel": "books", "repair": "RESNAPSHOT"}, "unknown number", "book made anew"),
    ],
)
def test_what_is_missing_and_what_became_of_it(fields: dict[str, Any], lost: str, became: str) -> None:
    assert missing(gap(**fields)) == lost
    assert outcome(gap(**fields), is_open=False)[0] == became
    assert outcome(gap(**fields), is_open=True)[0] == "open: still going on"


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "0 s"),
        (340_000, "340 ms"),
        (12_900_000, "12 s"),
        (3_588_000_000, "59 min 48 s"),
        (3_600_000_000, "1 h"),
        (7_500_000_000, "2 h 5 min"),
    ],
)
def test_spans(micros: int, text: str) -> None:
    assert span(micros) == text


@pytest.mark.parametrize(("width", "when"), [(200, "01-15 07:00:00 - now"), (100, "now  ")])
def test_what_still_goes_on_lasts_until_now(width: int, when: str) -> None:
    away = gap(cause="SILENCE", missing=None, to_time=NOW)
    text = drawn(report(away, open=frozenset({away.gap_id})), width)
    (row,) = [row for row in text.splitlines() if "nothing came" in row]
    assert row.startswith(when)
    assert "1 h  BINANCE_SPOT" in row
    assert " - now" not in drawn(report(away), width)


def test_two_days_are_both_named() -> None:
    midnight = 20_000 * 24 * HOUR_US
    assert between(midnight, midnight + 3_000_000) == "10-04 00:00:00 - 00:00:03"
    assert between(midnight - HOUR_US, midnight, seconds=False) == "10-03 23:00 - 10-04 00:00"


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (48_108, 48_120, "99.975 %"),
        (1_204_328, 1_204_331, "99.99975 %"),
        (1, 2, "50 %"),
        (0, 9, "0 %"),
        (9, 9, "100 %"),
    ],
)
def test_shares(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text


@given(st.integers(1, 10**12).flatmap(lambda whole: st.tuples(st.integers(0, whole), st.just(whole))))
def test_less_than_all_is_never_100_percent(pair: tuple[int, int]) -> None:
    part, whole = pair
    value = float(percent(part, whole).removesuffix(" %"))
    assert (percent(part, whole) == "100 %") == (part == whole)
    assert value <= 100 * part / whole + 1e-9
    assert 100 * part / whole - value < 0.01 + 1e-9


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"issued": 48_120, "missing": 12, "gaps": 1, "repaired": 340, "repaired_gaps": 2},
            "48,108 of 48,120 (99.975 %), 12 missing in 1 gap; 340 repaired in 2",
        ),
        ({"issued": 100, "missing": 0}, "100 of 100 (100 %)"),
        ({"issued": 100, "missing": 0, "gaps": 1, "unknown": 1}, "at most 100 of 100, an unknown number in 1 gap"),
        ({"issued": 100, "missing": 0, "first_starts": 1, "known": (NOW - 60_000_000, NOW)}, "100 of 100; first start"),
        ({"covered_us": 3_588_000_000, "gaps": 1}, "covered 59 min 48 s of 1 h (99.66 %), 1 gap"),
        (
            {"covered_us": 3_588_000_000, "gaps": 1, "worst": ("ETHUSDT", 3_576_000_000)},
            "covered 59 min 48 s of 1 h (99.66 %), 1 gap; worst ETHUSDT: 59 min 36 s",
        ),
        ({"covered_us": 0, "known": None}, "nothing known: no record came"),
        ({"issued": 0, "missing": 0, "known": None}, "nothing known: no record came"),
    ],
)
def test_hours_in_words(fields: dict[str, Any], text: str) -> None:
    assert completeness(hour(**fields)).startswith(text)


@given(st.booleans(), st.integers(0, 5), st.integers(0, 2), st.integers(0, 2))
def test_an_hour_says_100_percent_only_where_it_is_complete(known: bool, lost: int, unknown: int, cold: int) -> None:
    made = hour(
        issued=10, missing=lost, unknown=unknown, first_starts=cold, known=(NOW - HOUR_US, NOW) if known else None
    )
    assert made.complete == (known and not lost and not unknown and not cold)
    if not known or lost or unknown:
        assert "100 %" not in completeness(made)


def test_complete_hours_in_a_row_are_one_line() -> None:
    edges = edges_of(NOW - 5 * HOUR_US, NOW)
    hours = [
        hour(from_us=low, to_us=high, known=(low, high), issued=10, missing=n == 2)
        for n, (low, high) in enumerate(itertools.pairwise(edges))
    ]
    assert [len(run) for run in merged_hours(hours)] == [2, 1, 2]
    text = drawn(report(hours=tuple(hours)))
    assert text.count("20 of 20 (100 %)") == 2
    assert "9 of 10 (90 %)" in text


def test_the_first_starts_of_a_feed_are_one_line_unless_all_is_asked_for() -> None:
    cold = [gap(gap_id=str(n), cause="COLD_START", symbol=f"S{n}", from_time=None) for n in range(200)]
    found = report(*cold, gap(**TWELVE))
    assert [len(entry) if isinstance(entry, list) else 1 for entry in fold(found.gaps)] == [200, 1]
    assert "200 symbols" in drawn(found)
    assert "ids 105-116" in drawn(found)
    assert drawn(found, everything=True).count("first start") == 200


def test_more_than_a_screen_is_left_out_and_said() -> None:
    gaps = [gap(gap_id=str(n), from_sequence=n, to_sequence=n, missing=1) for n in range(SHOWN + 7)]
    text = drawn(report(*gaps))
    assert "7 earlier gaps not shown: --all" in text
    assert text.count(", id ") == SHOWN
    assert "id 46 " in text  # the newest stands last
    assert "not shown" not in drawn(report(*gaps), everything=True)


@pytest.mark.parametrize("width", [80, 160])
def test_all_fits_on_the_screen(width: int) -> None:
    name = Name("BINANCE_FUTURES", "option_tickers")
    long = gap(venue=name.venue, channel=name.channel, symbol="BTC-27NOV26-100000-C", **TWELVE)
    made = hour(name=name, covered_us=3_588_000_000, gaps=1, worst=("BTC-27NOV26-100000-C", 1))
    text = drawn(report(long, gap(missing=0), hours=(made,)), width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("ids jump", "105-116", "59 min 48 s", "BTC-27NOV26-100000-C"):
        assert word in text


def test_the_sentence_says_how_it_went() -> None:
    silence = gap(cause="SILENCE", channel="klines", missing=None)
    found = report(
        gap(**TWELVE, repaired=400),
        silence,
        gap(channel="books", cause="CHECKSUM", repair="RESNAPSHOT"),
        hours=(hour(issued=48_120, missing=12, gaps=1),),
    )
    assert sentence(found) == (
        "Last 24 h: 12 trades missing of 48,120 (99.975 % is there); an unknown number missing in 1 gap; 400 repaired; "
        "1 book made anew; the longest silence 12 s (BINANCE_SPOT klines)"
    )


@pytest.mark.parametrize(
    ("lost", "words"),
    [(0, "no trade known to be missing of 1,584; an unknown"), (12, "at least 12 trades missing of 1,584; an unknown")],
)
def test_where_a_gap_of_trades_does_not_know_its_size_no_share_is_said(lost: int, words: str) -> None:
    away = gap(cause="DISCONNECT", missing=None)
    found = report(away, hours=(hour(issued=1584, missing=lost, unknown=1),))
    assert words in sentence(found)
    assert "%" not in sentence(found)
    assert for_scripts(found)["summary"]["trades_unknown"] == 1


@pytest.mark.parametrize("cause", get_args(GapCause))
def test_the_guide_explains_every_cause(cause: GapCause) -> None:
    guide = Path(__file__).parents[2] / "docs" / "gaps.md"
    assert f"| {cause} | {told(gap(cause=cause)).why}" in guide.read_text()


def test_what_is_missing_beyond_what_can_be_counted_is_said_too() -> None:
    """Trades are kept for a week, the ledger for a year; and of Kraken no trade is there."""
    old = gap(**TWELVE, gap_id="old", to_time=NOW - 20 * HOUR_US)
    kraken = gap(gap_id="kraken", venue="KRAKEN", missing=3)
    found = report(old, gap(missing=12), kraken, hours=(hour(issued=48_120, missing=12, gaps=1),))
    found.hours_since_us = NOW - 10 * HOUR_US
    assert "12 trades missing of 48,120 (99.975 % is there); 15 trades missing where no other is" in sentence(found)


def test_no_gap_says_what_that_means() -> None:
    assert "no gap is recorded" in sentence(report(hours=(hour(issued=5, missing=0),)))
    assert "nothing is known" in sentence(report())
    assert "nothing is known" not in sentence(report(hours=(hour(issued=5, missing=0),)))


def test_notes_name_what_else_is_worth_knowing() -> None:
    old = gap(to_time=NOW - 100 * HOUR_US)
    text = drawn(report(outside=[old], unreadable=[BadEntry(3, 17, "torn Gap")]), 300)
    assert "partition 3 offset 17: torn Gap" in text
    assert "1 gap written since then is of earlier times: --since 2027-01-11T04 shows it" in text


def test_scripts_get_all_of_it_exactly() -> None:
    found = report(gap(**TWELVE), hours=(hour(issued=48_120, missing=12, gaps=1),))
    found.open = frozenset({found.gaps[0].gap_id})
    told = json.loads(json.dumps(for_scripts(found)))
    assert told["gaps"][0]["to_time"] == "2027-01-15T07:00:12.000000Z"
    assert (told["gaps"][0]["open"], told["gaps"][0]["missing"]) == (True, 12)
    assert (told["hours"][0]["there"], told["hours"][0]["from"]) == (48_108, "2027-01-15T07:00:00.000000Z")
    assert (told["summary"]["trades_missing"], told["summary"]["trades_issued"]) == (12, 48_120)
    assert told["summary"]["sentence"] == sentence(found)


def test_an_entry_that_comes_is_one_line() -> None:
    assert line(gap(**TWELVE)).endswith(
        "BINANCE_SPOT trades BTCUSDT: ids jump: 12 trades, ids 105-116 missing (the ids jump)"
    )
