"""`ravenctl bars`: the engine's folds over the trades of a file, without Kafka."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from processors.registry import Kind
from processors.symbol import Symbol
from ravencore.config import BarsSettings
from ravencore.records import Bar, Vpin
from ravencore.topics import VPIN
from ravenctl.gaps import Waiting
from ravenctl.research import barfiles, profiles
from ravenctl.research.batches import Batch
from ravenctl.research.tapes import NO_VENUE, Tape, Wanted, open_tape
from ravenctl.shell import CommandFailed, WrongUse

if TYPE_CHECKING:
    from ravenctl.research.plots import Chart

MOST_US = 86_400_000_000
"""What a batch of trades may span: a day of one-second windows is a hundred thousand bars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What bars are made of what, and where they go."""

    trades: Path
    wanted: Wanted
    kind: Kind
    profile: str | None
    changes: dict[str, str]
    """Of the profile's parameters."""
    out: Path
    plot: Path | None


def make_plan(
    trades: Path,
    wanted: Wanted,
    *,
    kind: str,
    profile: str | None,
    rule: str | None,
    changes: list[str],
    out: Path | None,
    plot: Path | None,
) -> Plan:
    """What the options mean; raises WrongUse."""
    out = out or barfiles.STDOUT
    barfiles.check(out)
    if plot is not None:
        barfiles.check_plot(plot)
    for written in (out, plot):
        if written is not None and written.exists() and trades.exists() and written.samefile(trades):
            raise WrongUse(f"{written} would take the place of the trades themselves")
    return Plan(
        trades=trades,
        wanted=wanted,
        kind=profiles.kind_named(kind),
        profile=profile,
        changes=profiles.assignments(changes, rule),
        out=out,
        plot=plot,
    )


def run(plan: Plan, bars: BarsSettings) -> None:
    """Read, fold, write; says on standard error what was read and made. Raises RavenError: then nothing is written."""
    if plan.kind.topic != VPIN:  # whose profile is the instrument's own, which the file may tell
        # Before the file is read: what is wrong with a profile shows at once.
        profiles.chosen(bars, plan.kind, plan.profile, plan.changes, (NO_VENUE, plan.trades.name))
    with open_tape(plan.trades, plan.wanted, say) as tape:
        name, settings = profiles.chosen(bars, plan.kind, plan.profile, plan.changes, (tape.venue, tape.symbol))
        with barfiles.opened(plan.out, profiles.record_of(plan.kind)) as write:
            chart = _chart(tape, profiles.told(plan.kind, name, settings)) if plan.plot else None
            counts = Counter[str]()
            for records in _folded(tape, Symbol(tape.venue, tape.symbol, settings), counts):
                write(records)
                if chart is not None:
                    chart.add(records)
            if not counts["trades"]:
                raise CommandFailed(f"{plan.trades} holds no sound trade: {tape.report.first_refusals[0]}")
            if chart is not None and plan.plot is not None:
                chart.save(plan.plot)
        say(summary(tape, counts, plan))


def _chart(tape: Tape, made: str) -> Chart:
    from ravenctl.research.plots import Chart  # noqa: PLC0415 - matplotlib is optional, and slow to import

    return Chart(f"{tape.venue} {tape.symbol}  \u00b7  {made}")


def _folded(tape: Tape, fold: Symbol, counts: Counter[str]) -> Iterator[list[Bar | Vpin]]:
    """The bars of each batch of trades; adds to `counts` what became of them."""
    with Waiting() as waiting:
        for batch in chain.from_iterable(map(_parts, tape.batches)):
            waiting.say("reading trades", *tape.progress())
            applied = fold.apply_columns(batch.trades, batch.lines)
            for refused in applied.refused:
                tape.report.refuse(refused.offset, refused.detail)
            counts.update(applied.counts, bars=len(applied.outputs))
            yield [output.record for output in applied.outputs]


def _parts(batch: Batch) -> Iterator[Batch]:
    """A batch as it is, or cut where its trades lie so far apart that flat windows between them would fill memory."""
    times = batch.trades.event_time
    if len(batch) == 1 or max(times) - min(times) <= MOST_US:
        yield batch
    else:
        middle = len(batch) // 2
        yield from _parts(batch.cut(0, middle))
        yield from _parts(batch.cut(middle, len(batch)))


def summary(tape: Tape, counts: Counter[str], plan: Plan) -> str:
    """The last line: what was read, and what became of it."""
    report = tape.report
    found = [
        f"{counts['trades']:,} trades of {tape.venue} {tape.symbol}",
        f"{counts['duplicates']:,} duplicates",
        f"{counts['holes']:,} holes",
        *([f"{counts['late_repairs']:,} repairs of holes"] if counts["late_repairs"] else []),
        f"{counts['late_trades']:,} late",
        *([f"{report.moved:,} put in the order of their ids"] if report.moved else []),
        report.refusals(),
    ]
    noun = "bars" if counts["bars"] != 1 else "bar"
    where = "" if plan.out == barfiles.STDOUT else f" to {plan.out}"
    return f"{', '.join(found)}; {counts['bars']:,} {noun} written{where}"


def say(text: str) -> None:
    """A line for the person, beside what is written."""
    sys.stderr.write(f"{text}\n")
