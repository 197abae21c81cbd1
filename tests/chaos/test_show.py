"""What a person reads of a verdict: the counts add up, and the last line says whether all held."""

import io

from rich.console import Console

from tests.chaos import show
from tests.chaos.case import Case
from tests.chaos.evidence import Evidence
from tests.chaos.market import Plan, Sight
from tests.chaos.test_verdict import (
    BOOK,
    BROKEN,
    JUMP,
    LOST_DIFF,
    QUARTERS,
    RESNAPSHOT,
    SKIP,
    WITHOUT_50,
    book_case,
    trades_case,
)
from tests.chaos.verdict import judge


def shown(evidence: Evidence) -> str:
    screen = Console(file=io.StringIO(), width=160)
    show.report(screen, Case(evidence), judge(evidence))
    told = screen.file
    assert isinstance(told, io.StringIO)
    return told.getvalue()


def test_a_run_that_held_says_so_with_its_counts() -> None:
    lines = shown(trades_case(WITHOUT_50, [JUMP], [SKIP])).splitlines()
    row = next(line.split() for line in lines if line.startswith("trades"))
    assert row == ["trades", "99", "97", "0", "2", "0", "gap", "1", "SEQUENCE", "1"]
    assert lines[-1].startswith("Held. 99 ids issued: 97 received, 0 repaired, 2 listed as missing, 0 unexplained")


def test_a_run_that_did_not_hold_says_what_broke_and_where() -> None:
    told = shown(trades_case(WITHOUT_50, [], [SKIP]))
    assert "[unexplained] BINANCE_SPOT trades BTCUSDT: id 50, issued at" in told
    assert told.splitlines()[-1].startswith("NOT held: unexplained 2, unnoticed 2.")


def test_kept_books_are_told_with_their_breaks() -> None:
    (row,) = show.book_rows(Case(book_case(BROKEN, [RESNAPSHOT], [LOST_DIFF])))
    assert row == {**BOOK._asdict(), "published": 231, "right": 231, "breaks": {"CHECKSUM": 1}}
    assert "KRAKEN BTC/USD" in shown(book_case(QUARTERS))


def test_times_are_told_in_seconds_of_the_run() -> None:
    text = "at 1800000012345678, of 1500000000000042, id 12"
    assert show.in_seconds(text, 1_800_000_000_000_000) == "at 12.346 s, of 1500000000000042, id 12"


def test_of_many_findings_a_few_of_each_kind_are_told() -> None:
    told = list(show.some(judge(trades_case(range(1, 60)))))
    assert len(told) == show.SHOWN + 1
    assert told[-1] == "[unexplained] BINANCE_SPOT trades: 3 findings more"


def test_the_figures_hold_every_finding() -> None:
    case = Case(trades_case(range(1, 60)))
    figures = show.figures(case, judge(case.evidence))
    assert figures["held"] is False
    assert [one["rule"] for one in figures["findings"]] == ["unexplained"] * 6
    assert figures["feeds"][0]["unexplained"] == 40


def test_progress_is_told_in_words() -> None:
    sight = Sight(doing="playing", left_s=12.4)
    sight.faults.update(cut=2, gap=1)
    assert [line.plain for line in show.lines(sight)] == ["playing, 12 s left", "faults: cut 2, gap 1"]


def test_a_plan_keeps_every_second_book_where_the_venue_prints_them_too() -> None:
    plan = Plan(symbols=("BTCUSDT", "ETHUSDT", "SOLUSDT"))
    assert plan.kept_books("BINANCE_SPOT") == ["BTCUSDT", "SOLUSDT"]
    assert "--seed 0" in " ".join(plan.simulator())
