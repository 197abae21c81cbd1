"""What a demo found: figures for scripts, promises kept or broken, and the table a person sees."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from producers.contract import TRADES
from ravencore.topics import CHANNELS
from ravenctl.feeds import Ids, Range, Row
from ravenctl.outputs import heading, named
from ravenctl.readback import LakeRows, holes

Figures = Mapping[str, Any]
WIDE = 110
"""Columns of a terminal from which on a feed's line says everything."""
MARKETS_SHOWN = 12
"""Markets that have a line of their own; options are many."""


@dataclass(frozen=True)
class Promise:
    """Something that must hold, whether it did, and the figures that say so."""

    says: str
    kept: bool
    found: str


@dataclass
class Findings:
    """Everything a demo read back; counts are of records unless they say otherwise.

    `source` is the simulator's /sim/stats and None live; `feeds` says what became of each feed; `counters` are the
    collectors', summed over their lives; `gaps` are those that miss trades, by venue: how many, and how many ids;
    `repaired` are the trades that came over REST, by market, and `repaired_by_cause` their Gaps; `repeated` is how many
    trades the exchange sent again to do harm; `dead_letter` is what the first one says; `mart` counts rows by series;
    `mismatches` names rows of the mart that differ from Kafka's records; `in_kafka` counts records by channel.
    """

    source: Figures | None
    feeds: list[Row]
    counters: Mapping[str, int]
    kafka: Mapping[str, Ids]
    influx: Mapping[str, Ids]
    gap_ranges: Mapping[str, list[Range]]
    gaps: Mapping[str, tuple[int, int]]
    gaps_by_cause: Mapping[str, int]
    repaired: Mapping[str, int]
    repaired_by_cause: Mapping[str, int]
    repeated: int
    dead_letters: Mapping[str, int]
    dead_letters_by_venue: Mapping[str, int]
    dead_letter: str
    bars: Mapping[str, int]
    mart: Mapping[str, int]
    mismatches: list[str]
    out_of_turn: int
    digest: str
    books_in_kafka: int
    books_in_influx: int
    in_kafka: Mapping[str, int]
    lake: LakeRows
    unreadable: int
    seconds: float
    latency_ms: Mapping[str, float | None]
    restarts: Mapping[str, int]
    stuck: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unique(self) -> int:
        """Trades that were received, each once, as the exchange counted them; where it is real, those in Kafka."""
        if self.source is not None:
            venues = self.source["venues"].values()
            return sum(entry["delivered_unique"] for venue in venues for entry in venue["symbols"].values())
        return _totals(self.kafka)[1]

    @property
    def frames(self) -> int:
        """Market records that the collector received and frames it could not read; replies to requests are none."""
        others = (f"{channel}_published" for channel in CHANNELS if channel != "trades")
        return sum(self.counters.get(name, 0) for name in ("trades_received", *others, "dead_letters"))

    @property
    def missing_ids(self) -> int:
        """Ids that Gaps name."""
        return sum(missing for _, missing in self.gaps.values())

    @property
    def duplicates(self) -> int:
        """Records that came again and were dropped."""
        return self.counters.get("duplicates", 0)

    @property
    def fetched(self) -> int:
        """Trades that were missing once and came over REST."""
        return sum(self.repaired.values())

    @property
    def late(self) -> int:
        """Trades in Kafka that stand after later ones."""
        return sum(row.late for row in self._trades)

    @property
    def unfilled(self) -> int:
        """Trades that the exchange made, and that Gaps name as missing."""
        return sum(row.open for row in self._trades)

    @property
    def _trades(self) -> list[Row]:
        return [row for row in self.feeds if row.name.channel == TRADES]


def promises(found: Findings) -> list[Promise]:
    """What Raven promises, held against what was found."""
    kafka_ids = {market: there.ids for market, there in found.kafka.items()}
    influx_ids = {market: there.ids for market, there in found.influx.items()}
    records, ids = _totals(found.kafka)
    points, stored = _totals(found.influx)
    kept = [
        Promise("everything sent has been worked off", found.stuck is None, found.stuck or "nothing left anywhere"),
        *([_feeds_hold(found)] if found.source is not None else []),
        Promise(
            "every unique trade is in Kafka, once",
            found.unique - _lost_on_the_way(found) == ids == records and not found.unreadable,
            f"{found.unique:,} received, {records:,} records of {ids:,} trades",
        ),
        Promise(
            "and in the Influx store, once",
            kafka_ids == influx_ids and points == stored,
            f"{points:,} points of {stored:,} trades",
        ),
        Promise(
            "every book is in the Influx store",
            found.books_in_kafka == found.books_in_influx,
            f"{found.books_in_kafka:,} in Kafka, {found.books_in_influx:,} stored",
        ),
        Promise(
            "every record of every feed is in the lake, once",
            dict(found.in_kafka) == dict(found.lake.counts) and not found.lake.twice,
            f"{sum(found.in_kafka.values()):,} in Kafka, {found.lake.counts.total():,} rows, {found.lake.twice} twice",
        ),
        Promise("every hole in the ids is a Gap with the right ids", *_holes_are_gaps(found)),
        Promise(
            "every bar is in Kafka once and in turn",
            not found.out_of_turn,
            f"{sum(found.bars.values()):,} bars and buckets, {found.out_of_turn} out of turn",
        ),
        Promise(
            "and in the mart, equal in every column",
            not found.mismatches and dict(found.bars) == dict(found.mart),
            f"{sum(found.mart.values()):,} rows, {len(found.mismatches)} differ"
            + (f"; first: {found.mismatches[0]}" if found.mismatches else ""),
        ),
    ]
    return kept + (_as_injected(found) if found.source is not None else [])


def _feeds_hold(found: Findings) -> Promise:
    broken = [row for row in found.feeds if not row.kept]
    ids = sum(row.once for row in found.feeds)
    told = [f"{row.name.channel} of {row.name.venue}: {row.verdict}" for row in broken]
    return Promise(
        "every id of every feed is in its topic, once",
        not broken and not found.unreadable,
        "; ".join(told) or f"{ids:,} ids of {len(found.feeds)} feeds",
    )


def _lost_on_the_way(found: Findings) -> int:
    """Trades that the exchange sent to a collector which was killed: Gaps tell of them."""
    return sum(row.in_gaps for row in found.feeds if row.name.channel == "trades")


def _as_injected(found: Findings) -> list[Promise]:
    """Against simulated exchanges, it is known what each withheld, repeated and spoilt."""
    assert found.source is not None
    venues = found.source["venues"].items()
    spoilt = {name: sent for name, venue in venues if (sent := venue["observable"]["dead_letters"])}
    elsewhere = sum(found.dead_letters.values()) - sum(found.dead_letters_by_venue.values())
    as_spoilt = dict(found.dead_letters_by_venue) == spoilt and not elsewhere
    return [
        Promise("every hole that the exchange can fill is filled", not found.unfilled, _filled(found)),
        Promise("what was sent again is there once", *_repeats_dropped(found)),
        Promise(
            "dead letters are the garbage that was sent",
            as_spoilt,
            f"{_by_name(found.dead_letters)}, {sum(spoilt.values())} sent"
            + (f"; first: {found.dead_letter}" if not as_spoilt and found.dead_letter else ""),
        ),
    ]


def _filled(found: Findings) -> str:
    """`7 trades fetched over REST, all put back in order; 4 ids missing that the exchange never had`."""
    told = [f"{_many(found.fetched, 'trade')} fetched over REST"] if found.fetched else ["nothing had to be fetched"]
    if found.fetched:
        told[0] += f", {found.late:,} of them too late to be put in order" if found.late else ", all put back in order"
    if found.unfilled:
        told.append(f"{found.unfilled:,} still missing")
    if never := sum(entry["hole_trades"] for _, entry, _ in _sent(found)):
        told.append(f"{_many(never, 'id')} missing that the exchange never had")
    return "; ".join(told)


def _repeats_dropped(found: Findings) -> tuple[bool, str]:
    """How many records were dropped is not known of a collector that was killed, and more may come again by chance."""
    twice = sum(row.twice for row in found.feeds)
    counted = found.duplicates >= found.repeated or bool(found.restarts.get("collector"))
    told = f"{_many(found.repeated, 'trade')} sent again on purpose, {_many(found.duplicates, 'record')} dropped"
    return counted and not twice, told + (f"; {twice:,} there twice" if twice else "")


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"


def _holes_are_gaps(found: Findings) -> tuple[bool, str]:
    seen = {market: ranges for market, there in found.kafka.items() if (ranges := holes(sorted(set(there.numbers))))}
    told = {market: ranges for market, ranges in found.gap_ranges.items() if ranges}
    count = sum(map(len, seen.values()))
    if seen == told:
        return True, f"{count} holes"
    wrong = next(market for market in sorted({*seen, *told}) if seen.get(market) != told.get(market))
    differing = set(seen.get(wrong, [])) ^ set(told.get(wrong, []))
    return False, f"{count} holes; {wrong} differs at {min(differing)}"


def _totals(markets: Mapping[str, Ids]) -> tuple[int, int]:
    return sum(m.records for m in markets.values()), sum(len(m.ids) for m in markets.values())


def _by_name(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def figures(found: Findings, kept: Iterable[Promise]) -> dict[str, Any]:
    """The summary as JSON values."""
    names = sorted({*found.bars, *found.mart})
    return {
        "frames": found.frames,
        "trades_received": found.counters.get("trades_received", 0),
        "trades_unique": found.unique,
        "trades_in_kafka": _totals(found.kafka)[0],
        "trades_in_influx": _totals(found.influx)[0],
        "books_in_kafka": found.books_in_kafka,
        "books_in_influx": found.books_in_influx,
        "in_lake": dict(found.lake.counts),
        "feeds": [feed(row) for row in found.feeds],
        "gaps": sum(number for number, _ in found.gaps.values()),
        "gaps_by_cause": dict(found.gaps_by_cause),
        "missing_ids": found.missing_ids,
        "unfilled": found.unfilled,
        "repaired": found.fetched,
        "repaired_late": found.late,
        "repaired_by_cause": dict(found.repaired_by_cause),
        "duplicates": found.duplicates,
        "dead_letters": sum(found.dead_letters.values()),
        "dead_letters_by_reason": dict(found.dead_letters),
        "bars": {name: {"kafka": found.bars.get(name, 0), "mart": found.mart.get(name, 0)} for name in names},
        "mart_mismatches": len(found.mismatches),
        "seconds": round(found.seconds, 3),
        "trades_per_second": round(found.unique / found.seconds, 1) if found.seconds else None,
        "injected": dict(found.source["injected"]) if found.source else {},
        "latency_ms": dict(found.latency_ms),
        "symbols": symbols(found),
        "digest": found.digest,
        "restarts": dict(found.restarts),
        "promises": [{"promise": one.says, "kept": one.kept, "found": one.found} for one in kept],
        **found.details,
    }


def feed(row: Row) -> dict[str, Any]:
    """A feed as JSON values."""
    names = (
        *("symbols", "issued", "sent", "once", "missing", "in_gaps", "withheld", "twice", "again"),
        *("repaired", "late", "kept_books", "wrong", "unchecked", "renewed"),
    )
    counts = {name: getattr(row, name) for name in names} | {"never_sent": row.strange}
    return {"source": row.source, **row.name._asdict(), **counts, "kept": row.kept, "verdict": row.verdict}


def symbols(found: Findings) -> dict[str, dict[str, int]]:
    """Counts of trades by market; with a simulated exchange also what it had to send."""
    rows: dict[str, dict[str, int]] = {}
    for market in sorted({*found.kafka, *found.influx, *found.gap_ranges}):
        rows[market] = {
            "kafka": found.kafka.get(market, Ids()).records,
            "influx": found.influx.get(market, Ids()).records,
            "repaired": found.repaired.get(market, 0),
            "missing_ids": sum(high - low + 1 for low, high in found.gap_ranges.get(market, [])),
        }
    for venue, entry, symbol in _sent(found):
        row = rows.setdefault(f"{venue}:{symbol}", {})
        row |= {name: entry[name] for name in ("issued", "delivered", "delivered_unique")}
    return rows


def _sent(found: Findings) -> Iterator[tuple[str, Figures, str]]:
    for name, venue in found.source["venues"].items() if found.source is not None else ():
        for symbol, entry in venue["symbols"].items():
            yield name, entry, symbol


def show(found: Findings, kept: list[Promise], width: int) -> RenderableType:
    """The summary for a person whose screen has so many columns."""
    feeds = _feeds_table(found) if width >= WIDE else _narrow_feeds_table(found)
    tables = (feeds, _markets_table(found), _bars_table(found), _promises_table(kept))
    return Group(*(part for table in tables for part in (table, "")), _closing(found, kept))


def _feeds_table(found: Findings) -> Table:
    """One line per feed: what was sent of it and what is in its topic."""
    table = _table("FEED", "CHANNEL", "SYMBOLS", "ISSUED", "SENT", "ONCE", "MISSING", "TWICE", "")
    table.columns[1].justify = table.columns[-1].justify = "left"
    for row in found.feeds:
        counts = (row.symbols, row.issued, row.sent, row.once, row.missing, row.twice + row.again)
        table.add_row(row.source, row.name.channel, *map(_count, counts), Text(row.verdict, style=_style(row)))
    return table


def _narrow_feeds_table(found: Findings) -> Table:
    """The same in 80 columns: what does not hold is said in the promises."""
    table = _table("FEED", "CHANNEL", "SENT", "ONCE", "WRONG", "")
    table.columns[1].justify = "left"
    for row in found.feeds:
        counts = (row.sent, row.once, row.missing + row.twice + row.strange + row.wrong)
        told = Text("ok" if row.kept else "BROKEN", style=_style(row))
        table.add_row(row.source, row.name.channel, *map(_count, counts), told)
    return table


def _count(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _style(row: Row) -> str:
    return "bold red" if not row.kept else "green" if row.once + row.again else "dim"


def _markets_table(found: Findings) -> Table:
    """Trades by market; where there are many, those that have least are one line per venue."""
    table = _table("TRADES", "RECEIVED", "OVER REST", "IN KAFKA", "IN INFLUX", "MISSING IDS")
    names = ("delivered_unique", "repaired", "kafka", "influx", "missing_ids")
    rows = {market: row for market, row in symbols(found).items() if any(row.get(name) for name in names)}
    for market, row in _folded(rows).items():
        cells = (row.get(name) for name in names)
        table.add_row(market, *map(_count, cells))
    return table


def _folded(rows: Mapping[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    """The greatest rows as they are, the rest of each venue as one: `DERIBIT: 211 others`."""
    greatest = sorted(rows, key=lambda market: -max(rows[market].values(), default=0))[:MARKETS_SHOWN]
    out: dict[str, Mapping[str, int]] = {market: row for market, row in rows.items() if market in greatest}
    rest: dict[str, list[Mapping[str, int]]] = {}
    for market, row in rows.items():
        if market not in out:
            rest.setdefault(market.partition(":")[0], []).append(row)
    for venue, others in rest.items():
        total: Counter[str] = Counter()
        for row in others:
            total.update(row)
        out[f"{venue}: {len(others)} other{'s' * (len(others) != 1)}"] = total
    return out


def _bars_table(found: Findings) -> Table:
    """One line per market, one column per kind and profile; folded as the trades are."""
    kinds = sorted({named(name)[0] for name in found.bars})
    table = _table("BARS", *map(heading, kinds))
    markets = sorted({named(name)[1] for name in found.bars})
    rows = {market: {kind: found.bars.get(f"{kind}/{market}", 0) for kind in kinds} for market in markets}
    for market, row in _folded(rows).items():
        table.add_row(market, *(f"{row[kind]:,}" for kind in kinds))
    return table


def _promises_table(kept: list[Promise]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for one in kept:
        mark = Text("kept  ", style="green") if one.kept else Text("BROKEN", style="bold red")
        table.add_row(mark, one.says, Text(one.found, style="dim" if one.kept else "red"))
    return table


def _closing(found: Findings, kept: list[Promise]) -> Text:
    broken = sum(not one.kept for one in kept)
    text = Text(f"{found.unique:,} trades in {found.seconds:.1f} s: {found.unique / max(found.seconds, 0.001):,.0f}/s")
    p50, p99 = found.latency_ms.get("p50"), found.latency_ms.get("p99")
    if p50 is not None and p99 is not None:
        text.append(f"; from a trade's receipt to its bar at a consumer {p50:,.0f} ms (half), {p99:,.0f} ms (99 %)")
    if found.source and any(found.source["injected"].values()):
        text.append(f"\ninjected: {harm(found.source['injected'])}")
    if found.fetched and not found.unfilled:
        order = f", {found.late:,} of them too late to be put in order" if found.late else " and put back in order"
        were = "the one trade was" if found.fetched == 1 else f"all {found.fetched:,} trades were"
        text.append(f"\nof what no connection brought, {were} fetched over REST{order}")
    if restarted := {name: count for name, count in found.restarts.items() if count}:
        text.append(f"\nrestarted: {_by_name(restarted)}")
    text.append(f"\ndigest of all bars {found.digest[:16]}: the same for the same input\n")
    text.append("all promises kept", style="bold green") if not broken else text.append(
        f"{broken} promise{'s' * (broken != 1)} broken", style="bold red"
    )
    return text


HARM = {
    "gap": "gap",
    "duplicate": "duplicate",
    "reorder": "reorder",
    "garbage": "unreadable message",
    "cut": "cut",
    "stall": "stall",
    "mute": "mute",
    "close": "close",
    "limit": "rate limit",
}


def harm(injected: Mapping[str, int]) -> str:
    """Faults that were injected, in words: `3 gaps of 7 trades, 2 cuts`."""
    told = []
    for kind, word in HARM.items():
        if count := injected.get(kind):
            lost = injected.get("gap_trades") if kind == "gap" else 0
            told.append(_many(count, word) + (f" of {_many(lost, 'trade')}" if lost else ""))
    return ", ".join(told)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def by_venue(found: Iterable[tuple[str, int]]) -> dict[str, tuple[int, int]]:
    """Gaps by venue from a venue and a number of missing ids each: how many, and how many ids in all."""
    out: dict[str, tuple[int, int]] = {}
    for venue, missing in found:
        number, ids = out.get(venue, (0, 0))
        out[venue] = (number + 1, ids + missing)
    return out


def by_market(found: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Sums of counts by market."""
    out: Counter[str] = Counter()
    for market, count in found:
        out[market] += count
    return dict(out)


def by_cause(causes: Iterable[str]) -> dict[str, int]:
    """Counts of causes, by name."""
    return dict(sorted(Counter(causes).items()))
