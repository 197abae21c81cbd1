"""The continuity ledger in words: one sentence, a table of Gaps, and how complete each hour is."""

import json
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from producers.contract import BOOKS, KLINES, TRADES
from ravencore.codec import iso_time, plain
from ravencore.records import Gap
from ravenctl.completeness import COUNTING, Hour
from ravenctl.feeds import Name
from ravenctl.gaps import Report
from ravenctl.statusview import ago

SHOWN = 40
"""Gaps, and lines of hours, that are shown where not all are asked for."""
WIDE = 150
"""Columns of a terminal from which on each thing said of a Gap has a column of its own."""
NAMED = 3
"""Unreadable records, and silent feeds, that are named one by one."""
CAUSES = {
    "UNKNOWN": "cause unknown",
    "COLD_START": "first start: nothing known before",
    "SEQUENCE": "ids jump",
    "DISCONNECT": "connection lost",
    "CHECKSUM": "book checksum failed",
    "SILENCE": "nothing came",
    "BACKPRESSURE": "buffer full",
    "REFUSED": "refused by the venue",
}
STYLES = {"lost": "bold red", "open": "bold red", "unknown": "yellow", "mended": "green", "nothing": "dim"}
ONE_OF = {"trades": "trade", "klines": "kline", "books": "book update", "quotes": "quote"}


# One Gap


def span(micros: int) -> str:
    """A length of time as people say it: `340 ms`, `12 s`, `59 min 48 s`, `2 h 5 min`."""
    seconds, rest = divmod(max(micros, 0), 1_000_000)
    if seconds == 0:
        return f"{rest // 1000} ms" if rest else "0 s"
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {seconds} s" if seconds else "")
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h" + (f" {minutes} min" if minutes else "")


def clock(micros: int) -> str:
    """A time of day in UTC: `11-20 10:00:03`."""
    text = iso_time(micros)
    return f"{text[5:10]} {text[11:19]}"


def between(from_us: int, to_us: int, *, seconds: bool = True) -> str:
    """From when to when: `11-20 10:00:03 - 10:00:15`, and with both days where they are two."""
    cut = None if seconds else -3
    first, last = clock(from_us)[:cut], clock(to_us)[:cut]
    return f"{first} - {last[6:]}" if first[:5] == last[:5] else f"{first} - {last}"


def count(number: int, what: str) -> str:
    """`1 trade`, `2,000 trades`; a channel without a word of its own counts records."""
    one = ONE_OF.get(what, "record")
    return f"{number:,} {one}{'s' * (number != 1)}"


def missing(gap: Gap) -> str:
    """What is missing: `12 trades, ids 105-116`, `unknown number`, `nothing`."""
    if gap.missing is None:
        return "all before it" if gap.cause == "COLD_START" else "unknown number"
    if gap.missing == 0:
        return "nothing"
    first, last = gap.from_sequence, gap.to_sequence
    if gap.channel == KLINES and first is not None and last is not None:
        return f"{count(gap.missing, gap.channel)}, {_minute(first)}" + (f"-{_minute(last)}" if last > first else "")
    ids = "" if first is None else f", id {first}" if first == last else f", ids {first}-{last}"
    return count(gap.missing, gap.channel) + ids


def _minute(number: int) -> str:
    """The time of day of a candle, by its number."""
    return f"{number // 60 % 24:02}:{number % 60:02}"


def outcome(gap: Gap, is_open: bool) -> tuple[str, str]:
    """What became of a Gap, in words, and how that is to be taken: a key of STYLES."""
    if is_open:
        return "open: still going on", "open"
    if gap.repair == "BACKFILLED":
        return f"all {gap.repaired:,} came after all" if gap.repaired > 1 else "came after all", "mended"
    if gap.repair == "PARTIAL" and gap.missing is not None:
        total = gap.repaired + gap.missing
        return f"{gap.repaired:,} of {total:,} came, {gap.missing:,} missing", "lost"
    if gap.repair == "RESNAPSHOT":
        return "book made anew", "mended"
    if gap.missing == 0:
        return "nothing was lost", "nothing"
    if gap.cause == "COLD_START":
        return "known from here on", "nothing"
    if gap.missing is None:
        return "came back" if gap.cause != "REFUSED" else "not collected", "unknown"
    return "missing", "lost"


def length(gap: Gap) -> str:
    """How long it lasted; nobody knows that of a first start."""
    return "-" if gap.from_time is None else span(gap.to_time - gap.from_time)


# The table of Gaps


def gaps_table(found: Report, shown: Sequence[Gap | list[Gap]], width: int, *, detail: bool) -> Table:
    """One line per Gap, or per feed's first starts; on a narrow screen what happened is one column."""
    wide = width >= WIDE
    words = ("CAUSE", "MISSING", "BECAME OF IT") if wide else ("WHAT HAPPENED",)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("FROM - TO (UTC)" if wide else "UNTIL (UTC)", no_wrap=True)
    table.add_column("LASTED", no_wrap=True, justify="right")
    table.add_column("FEED", overflow="fold")
    for word in (*words, *(["DETAIL"] if detail else [])):
        table.add_column(word, overflow="fold")
    for entry in shown:
        said = told(entry, found.open) if isinstance(entry, Gap) else folded(entry)
        end = Text(said.became, style=STYLES[said.style])
        what = [said.why, said.lost, end] if wide else [Text(said.before_end) + end]
        table.add_row(_when(said, wide=wide), said.lasted, said.feed, *what, *([said.detail] if detail else []))
    return table


def _when(said: "Said", *, wide: bool) -> str:
    """From when to when, or until when alone; what still goes on lasts until now."""
    if not wide or said.from_us is None:
        return "now" if said.style == "open" else clock(said.to_us)
    return f"{clock(said.from_us)} - now" if said.style == "open" else between(said.from_us, said.to_us)


class Said(NamedTuple):
    """What a line says of a Gap, or of several; `style` is a key of STYLES."""

    from_us: int | None
    to_us: int
    lasted: str
    feed: str
    why: str
    lost: str
    became: str
    style: str
    detail: str

    @property
    def before_end(self) -> str:
        """What to say before what became of it, where all is one sentence: each thing once."""
        if self.lost == "nothing":
            return f"{self.why}: "
        return f"{self.why}: {self.lost} " + ("" if self.became == "missing" else "missing; ")


def told(gap: Gap, still_open: Collection[str] = ()) -> Said:
    """What is said of a Gap."""
    became, style = outcome(gap, gap.gap_id in still_open)
    feed = f"{gap.venue} {gap.channel} {gap.symbol}"
    why = CAUSES[gap.cause]
    return Said(gap.from_time, gap.to_time, length(gap), feed, why, missing(gap), became, style, gap.detail)


def folded(gaps: Sequence[Gap]) -> Said:
    """What is said of the first starts of many symbols of a feed."""
    last = told(gaps[-1])
    return last._replace(feed=f"{gaps[-1].venue} {gaps[-1].channel}, {len(gaps):,} symbols", detail="")


def fold(gaps: Iterable[Gap]) -> list[Gap | list[Gap]]:
    """Gaps in their order, the first starts of a venue's channel as one entry in place of the last of them."""
    cold: dict[tuple[str, str], list[Gap]] = {}
    for gap in gaps:
        if gap.cause == "COLD_START":
            cold.setdefault((gap.venue, gap.channel), []).append(gap)
    out: list[Gap | list[Gap]] = []
    for gap in gaps:
        starts = cold.get((gap.venue, gap.channel), []) if gap.cause == "COLD_START" else []
        if len(starts) < 2:
            out.append(gap)
        elif gap is starts[-1]:
            out.append(starts)
    return out


# Completeness


def percent(part: int, whole: int) -> str:
    """A share in percent, never rounded up: `100 %` is all, and less shows as many digits as it takes to be less."""
    if part >= whole:
        return "100 %"
    digits = 2
    while part and 10 ** (digits + 2) * (whole - part) < 10 * whole:
        digits += 1
    units = part * 10 ** (digits + 2) // whole
    text = f"{units // 10**digits}.{units % 10**digits:0{digits}d}"
    return f"{text.rstrip('0').rstrip('.')} %"


def completeness(hour: Hour) -> str:
    """How complete an hour is: `48,108 of 48,120 (99.975 %), 12 missing in 1 gap; 340 repaired in 2`."""
    if hour.known is None and not hour.covered_us and not hour.gaps:
        return "nothing known: no record came"
    parts = [_by_ids(hour) if hour.issued is not None else _by_time(hour)]
    if hour.repaired:
        parts.append(f"{hour.repaired:,} repaired in {hour.repaired_gaps:,}")
    if hour.first_starts:
        parts.append("first start" if hour.first_starts == 1 else f"{hour.first_starts:,} first starts")
    if hour.known is None:
        parts.append("nothing known")
    elif not hour.all_known:
        parts.append(_known(hour, *hour.known))
    if hour.estimated:
        parts.append("its borders are estimates")
    return "; ".join(parts)


def _by_ids(hour: Hour) -> str:
    issued, there, lost = hour.issued or 0, hour.there or 0, hour.missing or 0
    most = "at most " if hour.unknown else ""
    # All of what is known is not all there was.
    certain = not hour.unknown and (lost or hour.all_known)
    share = f" ({percent(there, issued)})" if issued and certain else ""
    text = f"{most}{there:,} of {issued:,}{share}"
    if lost:
        text += f", {lost:,} missing in {_gaps(hour.gaps - hour.unknown)}"
    return text + (f", an unknown number in {_gaps(hour.unknown)}" if hour.unknown else "")


def _by_time(hour: Hour) -> str:
    covered = hour.covered_us or 0
    text = f"covered {span(covered)} of {span(hour.length_us)} ({percent(covered, hour.length_us)})"
    if hour.gaps:
        text += f", {_gaps(hour.gaps)}"
    if hour.worst and hour.symbols > 1 and hour.worst[1] < covered:
        text += f"; worst {hour.worst[0]}: {span(hour.worst[1])}"
    return text


def _gaps(number: int) -> str:
    return f"{number:,} gap{'s' * (number != 1)}"


def _known(hour: Hour, first_us: int, last_us: int) -> str:
    begins = f" from {clock(first_us)[6:]}" if first_us > hour.from_us else ""
    ends = f" until {clock(last_us)[6:]}" if last_us < hour.to_us else ""
    return f"known{begins}{ends}"


def merged_hours(hours: Iterable[Hour]) -> list[list[Hour]]:
    """Hours of a feed that follow each other and are of the same kind, complete or unknown, as one; others alone."""
    open_runs: dict[tuple[Any, str | None], list[Hour]] = {}
    out: list[list[Hour]] = []
    for hour in hours:
        key = hour.name, hour.symbol
        run = open_runs.get(key)
        if run and _kind(hour) and _kind(run[-1]) == _kind(hour):
            run.append(hour)
        else:
            open_runs[key] = [hour]
            out.append(open_runs[key])
    return out


def _kind(hour: Hour) -> str | None:
    if hour.complete and not hour.repaired:
        return "complete"
    return "unknown" if hour.known is None and not hour.gaps else None


def run_words(run: Sequence[Hour]) -> str:
    """What is said of hours that are complete, or of which nothing is known, or of one."""
    first = run[0]
    if len(run) == 1 or first.known is None:
        return completeness(first)
    if first.issued is None:
        return f"covered all {span(sum(hour.length_us for hour in run))} (100 %)"
    there, issued = sum(hour.there or 0 for hour in run), sum(hour.issued or 0 for hour in run)
    return f"{there:,} of {issued:,} (100 %)"


def hours_table(runs: Iterable[Sequence[Hour]]) -> Table:
    """One line per hour and feed, or per run of hours of which the same is to be said."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("HOURS (UTC)", no_wrap=True)
    table.add_column("FEED", overflow="fold")
    table.add_column("WHAT IS THERE", overflow="fold")
    for run in runs:
        first, last = run[0], run[-1]
        style = "green" if first.complete else "yellow" if not first.missing else "red"
        when = between(first.from_us, last.to_us, seconds=False)
        feed = " ".join(filter(None, (*first.name, first.symbol)))
        table.add_row(when, feed, Text(run_words(run), style=style))
    return table


# The whole


def figures(found: Report) -> dict[str, Any]:
    """The summary in numbers, of what is asked for without regard to causes.

    `trades_missing` are of those in `trades_issued`; `trades_missing_elsewhere` were missing where no trade is left
    that could tell how many were issued; of `trades_unknown` Gaps nobody knows how many. `missing` and `unknown` are
    of all channels.
    """
    trades = [hour for hour in found.hours if hour.name.channel == TRADES and hour.issued is not None]
    issued, lost = (sum(getattr(hour, name) or 0 for hour in trades) for name in ("issued", "missing"))
    gaps = found.all_gaps
    counted = {hour.name for hour in trades if hour.issued}
    apart = [g for g in gaps if g.to_time < found.hours_since_us or Name(g.venue, g.channel) not in counted]
    silences = [gap for gap in gaps if gap.cause == "SILENCE" and gap.from_time is not None]
    longest = max(silences, key=lambda gap: gap.to_time - (gap.from_time or 0), default=None)
    causes = Counter(gap.cause for gap in gaps)
    return {
        "since": iso_time(found.since_us),
        "now": iso_time(found.now_us),
        "gaps": len(gaps),
        "gaps_by_cause": dict(sorted(causes.items())),
        "trades_issued": issued,
        "trades_missing": lost,
        "trades_unknown": _unknown(gaps, (TRADES,)),
        "trades_missing_elsewhere": sum(gap.missing or 0 for gap in apart if gap.channel == TRADES),
        "missing": sum(gap.missing or 0 for gap in gaps),
        "unknown": _unknown(gaps, COUNTING),
        "repaired": sum(gap.repaired for gap in gaps),
        "books_made_anew": sum(gap.channel == BOOKS and gap.repair == "RESNAPSHOT" for gap in gaps),
        "open": len(found.open),
        "longest_silence": None if longest is None else _silence(longest),
        "outside": len(found.outside),
        "unreadable": [entry._asdict() for entry in found.unreadable],
    }


def _unknown(gaps: Iterable[Gap], channels: Collection[str]) -> int:
    """How many Gaps do not know how much they miss; a first start is not one of them."""
    return sum(gap.missing is None and gap.cause != "COLD_START" for gap in gaps if gap.channel in channels)


def _silence(gap: Gap) -> dict[str, Any]:
    seconds = (gap.to_time - (gap.from_time or 0)) / 1_000_000
    return {"venue": gap.venue, "channel": gap.channel, "symbol": gap.symbol, "seconds": seconds}


def sentence(found: Report) -> str:
    """How it went, in one sentence."""
    told, window = figures(found), f"Last {span(found.now_us - found.since_us)}"
    known = any(hour.known is not None for hour in found.hours)
    if not found.all_gaps:
        if not known:
            return f"{window}: no gap is recorded, and no record either: nothing was collected, so nothing is known"
        return f"{window}: no gap is recorded: {_trades(told)}; each feed went on without a break wherever it is known"
    parts = [_trades(told)]
    if told["trades_missing_elsewhere"]:
        parts.append(f"{count(told['trades_missing_elsewhere'], TRADES)} missing where no other is known any more")
    if told["unknown"]:
        parts.append(f"an unknown number missing in {_gaps(told['unknown'])}")
    parts.append(f"{told['repaired']:,} repaired")
    if told["books_made_anew"]:
        parts.append(f"{told['books_made_anew']:,} book{'s' * (told['books_made_anew'] != 1)} made anew")
    if (longest := told["longest_silence"]) is not None:
        length_us = round(longest["seconds"] * 1_000_000)
        parts.append(f"the longest silence {span(length_us)} ({longest['venue']} {longest['channel']})")
    if told["open"]:
        parts.append(f"{told['open']:,} still going on")
    return f"{window}: {'; '.join(parts)}"


def _trades(told: dict[str, Any]) -> str:
    issued, lost = told["trades_issued"], told["trades_missing"]
    if not issued:
        return "no trade was counted"
    if told["trades_unknown"]:
        return f"{f'at least {count(lost, TRADES)}' if lost else 'no trade known to be'} missing of {issued:,}"
    share = percent(issued - lost, issued)
    return f"{count(lost, TRADES) if lost else 'no trade'} missing of {issued:,} ({share} is there)"


def show(found: Report, width: int, *, everything: bool) -> RenderableType:
    """The ledger for a person whose screen has so many columns."""
    entries: list[Gap | list[Gap]] = list(found.gaps) if everything else fold(found.gaps)
    runs = [[hour] for hour in found.hours] if everything else merged_hours(found.hours)
    left = 0 if everything else max(0, len(entries) - SHOWN)
    parts: list[RenderableType] = [Text(sentence(found), style="bold")]
    if found.gaps:
        parts += ["", gaps_table(found, entries[left:], width, detail=everything)]
    parts += _left_out(left, "earlier gap") if left else []
    if runs:
        hidden = 0 if everything else max(0, len(runs) - SHOWN)
        runs = sorted(runs, key=lambda run: run[-1].to_us)[hidden:]
        by_feed = sorted(runs, key=lambda run: (run[0].name, run[0].symbol or "", run[0].from_us))
        parts += ["", hours_table(by_feed), *(_left_out(hidden, "earlier line") if hidden else [])]
    notes = list(_notes(found))
    return Group(*parts, *(["", *notes] if notes else []))


def _left_out(number: int, what: str) -> list[RenderableType]:
    text = f"{number:,} {what}{'s' * (number != 1)} not shown: --all shows them, --since, --venue and --symbol choose"
    return [Text(text, style="dim")]


def _notes(found: Report) -> Iterable[RenderableType]:
    """What else is worth knowing."""
    if hidden := len(found.all_gaps) - len(found.gaps):
        yield Text(f"{_gaps(hidden)} of other causes not listed; they count in the figures", style="dim")
    if found.hours and found.hours_since_us > found.since_us:
        yield Text(f"completeness is reckoned from {clock(found.hours_since_us)} on: trades are kept for a week")
    if found.outside:
        first, one = iso_time(min(gap.to_time for gap in found.outside))[:13], len(found.outside) == 1
        are, them = ("is", "it") if one else ("are", "them")
        yield Text(
            f"{_gaps(len(found.outside))} written since then {are} of earlier times: --since {first} shows {them}"
        )
    for feed in found.silent[:NAMED]:
        last = feed.last_received_time
        since = "nothing came yet" if last is None else f"the last record came {ago(found.now_us - last)}"
        yield Text(f"now {feed.state}: {feed.venue} {feed.channel} {feed.symbol}, {since}", style="yellow")
    if len(found.silent) > NAMED:
        yield Text(f"and {len(found.silent) - NAMED:,} more feeds that do not flow: ravenctl status", style="yellow")
    if found.unreadable:
        named = "; ".join(f"partition {e.partition} offset {e.offset}: {e.why}" for e in found.unreadable[:NAMED])
        number = len(found.unreadable)
        yield Text(f"{number:,} record{'s' * (number != 1)} of the ledger cannot be read: {named}", style="red")


def for_scripts(found: Report) -> dict[str, Any]:
    """All of it as JSON values, times in ISO 8601 in UTC."""
    return {
        "gaps": [plain(gap) | {"open": gap.gap_id in found.open} for gap in found.gaps],
        "hours": [hour_values(hour) for hour in found.hours],
        "summary": figures(found) | {"sentence": sentence(found)},
    }


def hour_values(hour: Hour) -> dict[str, Any]:
    """An hour as JSON values."""
    names = ("symbols", "issued", "there", "missing", "gaps", "unknown", "first_starts", "repaired", "repaired_gaps")
    return {
        **hour.name._asdict(),
        "symbol": hour.symbol,
        "from": iso_time(hour.from_us),
        "to": iso_time(hour.to_us),
        **{name: getattr(hour, name) for name in names},
        "covered_seconds": None if hour.covered_us is None else hour.covered_us / 1_000_000,
        "worst": None
        if hour.worst is None
        else {"symbol": hour.worst[0], "covered_seconds": hour.worst[1] / 1_000_000},
        "known_from": None if hour.known is None else iso_time(hour.known[0]),
        "known_to": None if hour.known is None else iso_time(hour.known[1]),
        "estimated": hour.estimated,
        "complete": hour.complete,
    }


def line(gap: Gap) -> str:
    """An entry as it comes, in one line."""
    said = told(gap)
    return f"{clock(said.to_us)}  {said.lasted}  {said.feed}: {said.before_end}{said.became} ({said.detail})"


def write(gaps: Iterable[Gap], *, as_json: bool) -> None:
    """Print entries as they come, each at once; as JSON one object per line."""
    for gap in gaps:
        sys.stdout.write((json.dumps(plain(gap)) if as_json else line(gap)) + "\n")
        sys.stdout.flush()
