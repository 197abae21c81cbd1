"""What a person sees of a chaos run: how it goes, then a table for each venue, what breaks a rule, and a last line."""

import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from producers.contract import BOOKS
from tests.chaos.case import Account, Case
from tests.chaos.market import Sight
from tests.chaos.verdict import Finding

TIME = re.compile(r"\b[0-9]{16}\b")
"""Microseconds since the epoch."""
A_DAY_S = 86_400
REFRESH_S = 0.5
LINE_EVERY_S = 10.0
SHOWN = 3
"""Findings of one rule and channel that are told on the screen; the JSON file has all."""


class View:
    """Shows how a run goes: live on a terminal, else a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._drawn, self._said = 0.0, ""

    def __enter__(self) -> "View":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, sight: Sight) -> None:
        """Draw it, unless it was drawn a moment ago."""
        now = time.monotonic()
        if self._live and now - self._drawn >= REFRESH_S:
            self._drawn = now
            self._live.update(drawn(sight), refresh=True)
        elif not self._live and (sight.doing != self._said or now - self._drawn >= LINE_EVERY_S):
            self._drawn, self._said = now, sight.doing
            self._console.print(Text("; ").join(lines(sight)), soft_wrap=True)
            sys.stdout.flush()


def drawn(sight: Sight) -> RenderableType:
    """As a screen."""
    return Group(Text("Raven chaos run", style="bold"), *lines(sight))


def lines(sight: Sight) -> list[Text]:
    """What goes on, how long still, what was done to the feeds, what the collector says."""
    left = f", {sight.left_s:.0f} s left" if sight.left_s is not None else ""
    found = [Text(f"{sight.doing}{left}", style="cyan")]
    if sight.faults:
        found.append(Text(f"faults: {told(sight.faults)}", style="yellow"))
    if sight.gaps:
        found.append(Text(f"gaps: {told(sight.gaps)}"))
    if sight.status is not None:
        counts = sight.status.counters
        published = sum(count for name, count in counts.items() if name.endswith("_published"))
        gauges = {name: round(value) for name, value in sight.status.gauges.items()}
        behind = f", {gauges.get('buffered', 0):,} on their way"
        found.append(Text(f"collector: {published:,} records{behind}, {counts.get('reconnects', 0)} reconnects"))
    return found


def told(counts: Mapping[str, int]) -> str:
    """`cut 3, gap 12`."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()) if count) or "-"


def rows(case: Case) -> list[dict[str, Any]]:
    """A row for each channel of each venue: its ids, faults and Gaps; of kept books what was published."""
    found = {}
    for venue, channel in sorted(case.matrix):
        accounts = [one for name, one in case.accounts.items() if name[:2] == (venue, channel)]
        causes = Counter(hole.gap.cause for hole in case.holes if hole.name[:2] == (venue, channel))
        found[venue, channel] = {
            "venue": venue,
            "channel": channel,
            **_sums(accounts),
            "faults": dict(case.matrix[venue, channel]),
            "gaps": dict(causes),
        }
    return list(found.values())


def _sums(accounts: Sequence[Account]) -> dict[str, int]:
    names = ("issued", "received", "repaired", "listed")
    sums = {name: sum(getattr(one, name) for one in accounts) for name in names}
    return sums | {"unexplained": sum(len(one.unexplained) for one in accounts)}


def book_rows(case: Case) -> list[dict[str, Any]]:
    """A row for each book that Raven keeps: how many were published, how many are right, and its breaks."""
    found = []
    for name in filter(case.is_kept, case.names):
        kept, digests = case.log(name).kept, case.evidence.digests.get(name, {})
        right = sum(digests.get(book.key) == book.digest for book in kept)
        breaks = Counter(hole.gap.cause for hole in case.holes_of(name))
        found.append({**name._asdict(), "published": len(kept), "right": right, "breaks": dict(breaks)})
    return found


def tables(case: Case) -> Iterable[RenderableType]:
    """One for each venue, one for the books, and what was put on which feed."""
    every = [row for row in rows(case) if row["issued"] or row["channel"] != BOOKS]
    for venue in dict.fromkeys(row["venue"] for row in every):
        table = _table(venue, "ISSUED", "RECEIVED", "REPAIRED", "LISTED", "UNEXPLAINED", "FAULTS", "GAPS", right=5)
        for row in every:
            if row["venue"] == venue:
                numbers = [f"{row[name]:,}" for name in ("issued", "received", "repaired", "listed")]
                lost = Text(f"{row['unexplained']:,}", style="bold red" if row["unexplained"] else "green")
                table.add_row(row["channel"], *numbers, lost, told(row["faults"]), told(row["gaps"]))
        yield table
        yield ""
    if kept := book_rows(case):
        table = _table("KEPT BOOKS", "PUBLISHED", "RIGHT", "BREAKS", right=2)
        for row in kept:
            style = "green" if row["right"] == row["published"] else "bold red"
            right = Text(f"{row['right']:,}", style=style)
            table.add_row(f"{row['venue']} {row['symbol']}", f"{row['published']:,}", right, told(row["breaks"]))
        yield table
        yield ""


def _table(first: str, *names: str, right: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    table.add_column(first, no_wrap=True)
    for at, name in enumerate(names):
        table.add_column(name, justify="right" if at < right else "left", no_wrap=at < right, overflow="fold")
    return table


def summary(case: Case, findings: Sequence[Finding]) -> str:
    """The end of it, in plain words."""
    sums = _sums(list(case.accounts.values()))
    kept = book_rows(case)
    right, published = (sum(row[name] for row in kept) for name in ("right", "published"))
    counts = (
        f"{sums['issued']:,} ids issued: {sums['received']:,} received, {sums['repaired']:,} repaired, "
        f"{sums['listed']:,} listed as missing, {sums['unexplained']:,} unexplained; {right:,} of {published:,} kept "
        f"books are the venue's; {_faults(case).total():,} faults, {len(case.holes):,} Gaps"
    )
    if not findings:
        return f"Held. {counts}."
    broken = told(Counter(finding.rule for finding in findings))
    return f"NOT held: {broken}. {counts}."


def figures(case: Case, findings: Sequence[Finding]) -> dict[str, Any]:
    """All of it for a file."""
    return {
        "held": not findings,
        "seconds": (case.evidence.ended_us - case.evidence.began_us) / 1e6,
        "feeds": rows(case),
        "books": book_rows(case),
        "faults": dict(_faults(case)),
        "findings": [
            {"rule": one.rule, **one.name._asdict(), "what": one.what, "nearest": one.nearest} for one in findings
        ],
    }


def _faults(case: Case) -> Counter[str]:
    return Counter(kind for kind, *_ in {(one.kind, one.venue, one.origin) for one in case.evidence.faults})


def report(console: Console, case: Case, findings: Sequence[Finding]) -> None:
    """Tables, findings, and the last line."""
    for table in tables(case):
        console.print(table)
    for text in some(findings):
        console.print(Text(in_seconds(text, case.evidence.began_us), style="red"), soft_wrap=True)
    console.print(Text(summary(case, findings), style="bold red" if findings else "bold green"), soft_wrap=True)


def in_seconds(text: str, began_us: int) -> str:
    """With times as a person reads them, in seconds of the run."""

    def told(found: re.Match[str]) -> str:
        seconds = (int(found[0]) - began_us) / 1e6
        return f"{seconds:.3f} s" if abs(seconds) < A_DAY_S else found[0]

    return TIME.sub(told, text)


def some(findings: Sequence[Finding]) -> Iterable[str]:
    """The first few of each rule and channel, and how many there are."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.rule, finding.name.venue, finding.name.channel), []).append(finding)
    for (rule, venue, channel), found in groups.items():
        yield from map(str, found[:SHOWN])
        if len(found) > SHOWN:
            yield f"[{rule}] {venue} {channel}: {len(found) - SHOWN} findings more"
