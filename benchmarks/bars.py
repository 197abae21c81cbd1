"""`make rivals`: Raven's bars beside those of mlfinpy, RiskLabAI and nautilus_trader on the same trades, bar by bar.

Every rival makes its bars in a process and an environment of its own (benchmarks/bars_NAME.py), from files, into files.
Bars are compared field by field, whatever the rival tells of them: times, rows, counts and prices must be the same,
volumes the same to within 1e-9 of themselves, because rivals add doubles, and exactly so on the tape whose sums
doubles hold exactly. Where a rival computes something else, it must be what benchmarks/bars_models.py says it is, trade
by trade, and the bars of the same trades must then be the same. Ends with 1 where anything differs.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from benchmarks.bars_files import Case, Shown, Tick, read_bars, write_tape
from benchmarks.bars_models import Book, Range, flows, ranges, runs_alone, sums_of_doubles, value_splits
from benchmarks.bars_raven import columns, maker, shown
from benchmarks.bars_tapes import MIXED_RUNS, ONE_SIDED, REACH, N, Tape, tapes, with_prefix
from benchmarks.machine import console
from processors.contract import Stream
from processors.contract import Tape as Columns
from processors.folds.span import OpenBar

RIVALS = ("mlfinpy", "risklabai", "nautilus")
SUMS = ("volume", "buy_volume", "dollars")
MEANS = ("vpin", "vpin_aggressor")
VPIN_WINDOWS = 50 + 20 - 1
"""Buckets before the first that has VPIN, with the default windows."""
AVERAGED: Case = {"size": 30, "window": 60, "bars": 10, "lowest": 10, "highest": 60}
"""The book's bars at settings under which each tape has many; E[T] is clamped, or they would come to an end."""
FROZEN = {"initial_size": REACH, "size_min_pct": 0, "size_max_pct": 0, "alpha_imbl": 1e-300}
"""After a warm-up bar of buys alone: E[T] stays REACH and E[b] 1, so that the threshold stays REACH."""
LAST_BAR = {"initial_size": N, "size_min_pct": 0, "size_max_pct": 0, "alpha_imbl": 1}
"""E[T] stays N, and the share of buys is the last bar's."""
PART = 40_000
"""Trades that the book's bars are made of: rivals take long over them."""
STREAM = Stream("", "", "", "")


Model = Callable[[Case, Sequence[Tick]], list[Shown]]


class Contest(NamedTuple):
    """A rival's bars on a tape, and what they are compared with."""

    rival: str
    tape: Tape
    ticks: Sequence[Tick]
    case: Case
    ours: Case | None
    """Raven's case; None where Raven has no such bars, and only those of the same trades are compared."""
    model: Model | None = None
    """Its bars by a rule in our words, where those may not be ours."""
    skip: int = 0
    """Trades at the start that this rival is not fed."""
    ours_skip: int = 0
    first: int = 0
    """The first bar that is compared."""


class Verdict(NamedTuple):
    """What came of a contest."""

    contest: Contest
    theirs: int
    ours: int
    compared: int
    equal: bool
    found: str


def main() -> None:
    """Run all contests, print what came of them, and end with 1 where something differs."""
    parser = argparse.ArgumentParser(description="Raven's bars beside its rivals'.")
    for rival in RIVALS:
        parser.add_argument(f"--{rival}", required=True, metavar="PYTHON", help=f"the interpreter that has {rival}")
    parser.add_argument("--trades", type=int, default=40_000, help="of each made tape")
    parser.add_argument("--json", default=None, help="write the verdicts to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        verdicts = list(run(tapes(options.trades), vars(options), Path(folder)))
    console().print(table(verdicts))
    if options.json:
        Path(options.json).write_text(json.dumps([told(verdict) for verdict in verdicts], indent=1))
    sys.exit(not all(verdict.equal for verdict in verdicts))


def run(given: Sequence[Tape], pythons: dict[str, str], folder: Path) -> Iterator[Verdict]:
    """All verdicts, a rival after the other."""
    contests = [contest for tape in given for contest in contests_of(tape)]
    for rival in RIVALS:
        own = [contest for contest in contests if contest.rival == rival]
        jobs = [job(contest, folder, number) for number, contest in enumerate(own)]
        make(rival, pythons[rival], jobs, folder)
        for contest, its in zip(own, jobs, strict=True):
            yield judge(contest, read_bars(Path(its["out"])))


def job(contest: Contest, folder: Path, number: int) -> dict[str, Any]:
    """The job of a contest, its tape written."""
    tape = folder / f"{id(contest.ticks)}.csv"
    if not tape.exists():
        write_tape(tape, contest.ticks)
    out = folder / f"{contest.rival}-{number}.jsonl"
    given = {"buckets": str(buckets(contest, folder))} if contest.case["kind"] == "vpin" else {}
    return {"case": contest.case | given, "tape": str(tape), "skip": contest.skip, "out": str(out)}


def buckets(contest: Contest, folder: Path) -> Path:
    """A file with Raven's buckets, for a rival that makes none."""
    path = folder / f"{id(contest.ticks)}.buckets.jsonl"
    path.write_text("".join(json.dumps(bucket) + "\n" for bucket in ours_of(contest)))
    return path


def make(rival: str, python: str, jobs: Sequence[dict[str, Any]], folder: Path) -> None:
    """Let a rival make its bars."""
    path = folder / f"{rival}.json"
    path.write_text(json.dumps(jobs))
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    subprocess.run([python, "-m", f"benchmarks.bars_{rival}", "bars", str(path)], check=True, env=quiet)


# Contests


def contests_of(tape: Tape) -> Iterator[Contest]:
    """All contests on a tape."""
    rising, mixed = with_prefix(tape.ticks, ONE_SIDED), with_prefix(tape.ticks, MIXED_RUNS)
    part = tape.ticks[:PART]
    for rival in ("mlfinpy", "risklabai"):
        for case in plain_cases(tape):
            model = None if case["kind"] == "time" else sums
            yield Contest(rival, tape, tape.ticks, case, case, model)
        for kind in ("tib", "vib", "dib", "trb", "vrb", "drb"):
            case = {"name": f"{kind}, the book's", "kind": kind, **AVERAGED}
            yield Contest(rival, tape, part, case, None, book(at_threshold=rival == "risklabai"))
    tib = {"name": f"tib, |theta| reaches {REACH}", "kind": "tib", "rule": "fixed", "size": REACH}
    ours: Case = {"kind": "tib", "profile": FROZEN}
    # mlfinpy closes beyond the threshold: beyond 19.5 is at 20.
    yield Contest("mlfinpy", tape, rising, {**tib, "size": REACH - 0.5}, ours, ours_skip=1, first=1)
    yield Contest("risklabai", tape, rising, tib, ours, ours_skip=1, first=1)
    yield Contest("nautilus", tape, rising, tib, ours, skip=1, ours_skip=1)
    trb = {"name": "trb, shares of the last bar", "kind": "trb", "rule": "fixed", "size": N}
    yield Contest("mlfinpy", tape, mixed, trb, None, book(at_threshold=False))
    yield Contest("risklabai", tape, mixed, trb, {"kind": "trb", "profile": LAST_BAR}, ours_skip=150, first=1)
    vpin = {"name": "VPIN of Raven's buckets", "kind": "vpin", "size": tape.sizes.dollars // 10, "window": 50}
    yield Contest("risklabai", tape, tape.ticks, vpin, vpin, first=VPIN_WINDOWS)
    yield from nautilus(tape)


def plain_cases(tape: Tape) -> list[Case]:
    """Time, tick, volume and dollar bars."""
    sizes = {"tick": N, "volume": tape.sizes.volume, "dollar": tape.sizes.dollars}
    times: list[Case] = [{"name": f"time, {size} s", "kind": "time", "size": size} for size in (1, 60)]
    return times + [{"name": f"{kind}, {size:,}", "kind": kind, "size": size} for kind, size in sizes.items()]


def nautilus(tape: Tape) -> Iterator[Contest]:
    """Its time and tick bars are ours; its volume and value bars, which split trades, are our buckets of VPIN."""
    for case in plain_cases(tape):
        unit = {"volume": "base", "dollar": "quote"}.get(case["kind"])
        ours = {"kind": "vpin", "size": case["size"], "unit": unit} if unit else case
        yield Contest("nautilus", tape, tape.ticks, case, ours, value_splits if unit == "quote" else None)
    in_a_row = {"name": "trb, 10 in a row", "kind": "trb", "size": 10}
    yield Contest("nautilus", tape, tape.ticks, in_a_row, None, alone)


def sums(case: Case, ticks: Sequence[Tick]) -> list[Shown]:
    """Plain bars of sums of doubles."""
    return bars_of(ticks, ranges(sums_of_doubles(case, ticks)))


def alone(case: Case, ticks: Sequence[Tick]) -> list[Shown]:
    """Bars of nothing but a run."""
    return bars_of(ticks, runs_alone(case["size"], ticks))


def book(at_threshold: bool) -> Model:
    """Bars by the book's rule."""

    def bars(case: Case, ticks: Sequence[Tick]) -> list[Shown]:
        rule, signed = Book(case, at_threshold), flows(case["kind"], ticks)
        return bars_of(ticks, ranges(rule.imbalances(signed) if case["kind"].endswith("ib") else rule.runs(signed)))

    return bars


# Comparing


def judge(contest: Contest, theirs: Sequence[Shown]) -> Verdict:
    """Compare a rival's bars with Raven's, and where those differ with what the model says they are."""
    ours = ours_of(contest) if contest.ours else []
    found = difference(ours[contest.first :], theirs[contest.first :], contest.tape.is_binary) if contest.ours else ""
    if found is None:
        return Verdict(contest, len(theirs), len(ours), len(theirs) - contest.first, True, "equal")
    if contest.model is None:
        return Verdict(contest, len(theirs), len(ours), 0, False, found)
    other = difference(contest.model(contest.case, contest.ticks), theirs, contest.tape.is_binary)
    what = f"as described: {found}" if found else "as described"
    return Verdict(contest, len(theirs), len(ours), len(theirs), other is None, other or what)


def ours_of(contest: Contest) -> list[Shown]:
    """Raven's bars."""
    assert contest.ours is not None
    made = maker(contest.ours, contest.ticks[contest.ours_skip :])
    return [{**bar, "row": bar["row"] + contest.ours_skip} for bar in map(made.show, made.run())]


def bars_of(ticks: Sequence[Tick], held: Sequence[Range]) -> list[Shown]:
    """The bars that Raven makes of these trades."""
    tape = Columns(columns(ticks))
    return [shown(a_bar(OpenBar(tape, start, stop))) for start, stop in held]


def a_bar(bar: OpenBar) -> Any:
    """A record of it, without what the trades alone do not say."""
    return bar.record(STREAM, 0, open_time=bar.open_time, close_time=bar.close_time, gap=False)


def difference(ours: Sequence[Shown], theirs: Sequence[Shown], exact: bool) -> str | None:
    """The first difference in words; None where there is none."""
    for number, (own, other) in enumerate(zip(ours, theirs, strict=False)):
        fields = [name for name, value in other.items() if not same(name, own.get(name), value, exact)]
        if fields:
            told = ", ".join(f"{name} {own.get(name)} and {other[name]}" for name in fields)
            return f"bar {number}: {told}"
    return None if len(ours) == len(theirs) else f"{len(ours)} and {len(theirs)} bars"


def same(name: str, own: Any, other: Any, exact: bool) -> bool:
    """Whether a field is the same. A threshold is compared where both have one."""
    if name == "threshold":
        return own is None or own == other
    if name in MEANS or (name in SUMS and not exact):
        return math.isclose(own, other, rel_tol=1e-9, abs_tol=1e-9)
    return bool(own == other)


def table(verdicts: Sequence[Verdict]) -> Table:
    """What came of all."""
    shown = Table("rival", "tape", "bars", "its", "Raven's", "compared", "")
    for verdict in verdicts:
        contest = verdict.contest
        names = (contest.rival, contest.tape.name, contest.case["name"])
        counts = (f"{count:,}" if count else "" for count in (verdict.theirs, verdict.ours, verdict.compared))
        shown.add_row(*names, *counts, verdict.found if verdict.equal else f"[red]DIFFERS: {verdict.found}")
    return shown


def told(verdict: Verdict) -> dict[str, Any]:
    """A verdict for a file."""
    contest = verdict.contest
    names = {"rival": contest.rival, "tape": contest.tape.name, "bars": contest.case["name"]}
    return {**names, **verdict._asdict(), "contest": None}


if __name__ == "__main__":
    main()
