"""What a demo shows while it runs: services, markets, newest bars; on a terminal live, else a line now and then."""

import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ravencore.decimals import to_float
from ravencore.records import Bar, ServiceStatus, Vpin
from ravenctl.feeds import Name
from ravenctl.outputs import Outputs, heading, named, series
from ravenctl.statusview import is_gone, rate

REFRESH_S = 0.25
LINE_EVERY_S = 5.0
BARS_SHOWN = 8
LEAST_BARS = 3
RATE_S = 3.0
ERROR_SHOWN_US = 10_000_000
LEAST_IN_CENTS = 10
FEED_WIDTH = 30
VENUE_WIDTH = 16
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
ORDER = ("simulator", "collector", "engine", "sink-influx", "sink-timescale", "sink-lake", "sink-redis")


@dataclass
class Scene:
    """What there is to show at one moment."""

    title: str
    doing: str = ""
    elapsed_s: float = 0.0
    share: float | None = None
    """How far it has come, 0 to 1; None where nobody can know."""
    statuses: Mapping[str, ServiceStatus] = field(default_factory=dict)
    simulator: Mapping[str, Any] | None = None
    outputs: Outputs | None = None
    left: Mapping[str, int] = field(default_factory=dict)
    feeds: Sequence[Name] = ()
    counts: Mapping[Name, int] = field(default_factory=dict)
    """Records in Kafka by feed, as far as they have been counted."""
    rates: Mapping[Name, float] = field(default_factory=dict)


class Pace:
    """Rates per second of counts over the last RATE_S seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[Name, int]]] = deque()

    def rates(self, now_s: float, counts: Mapping[Name, int]) -> dict[Name, float]:
        """Rates after these counts at this time."""
        self._seen.append((now_s, dict(counts)))
        while len(self._seen) > 2 and now_s - self._seen[1][0] >= RATE_S:
            self._seen.popleft()
        before_s, before = self._seen[0]
        if now_s <= before_s:
            return {}
        return {name: (count - before.get(name, 0)) / (now_s - before_s) for name, count in counts.items()}


class View:
    """Draws scenes: `with View(console) as view: view.show(scene)`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._drawn = 0.0
        self._said = ""
        self._pace = Pace()

    def __enter__(self) -> "View":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, scene: Scene) -> None:
        """Draw the scene unless one was drawn a moment ago."""
        now = time.monotonic()
        if self._live:
            if now - self._drawn >= REFRESH_S:
                self._drawn = now
                scene.rates = self._pace.rates(now, scene.counts)
                size = self._console.size
                self._live.update(draw(scene, time.time_ns() // 1000, size.width, size.height), refresh=True)
        elif scene.doing != self._said or now - self._drawn >= LINE_EVERY_S:
            self._drawn, self._said = now, scene.doing
            self._console.print(line(scene), soft_wrap=True)
            sys.stdout.flush()


def line(scene: Scene) -> str:
    """The scene in one line."""
    parts = [f"{scene.elapsed_s:6.1f} s  {scene.doing}"]
    published = sum(s.counters.get("trades_published", 0) for s in scene.statuses.values())
    if published:
        parts.append(f"{published:,} trades")
    records = sum(scene.counts.values())
    if records > published:
        parts.append(f"{records:,} records of {sum(map(bool, scene.counts.values()))} feeds")
    if scene.outputs and scene.outputs.counts:
        parts.append(f"{sum(scene.outputs.counts.values()):,} bars and buckets")
    if scene.left:
        parts.append("left: " + ", ".join(f"{name} {count:,}" for name, count in scene.left.items()))
    return "; ".join(parts)


def draw(scene: Scene, now_us: int, width: int, height: int) -> RenderableType:
    """The scene as a screen of this size: feeds first, markets and bars as far as there is room."""
    parts: list[RenderableType] = [_head(scene), "", _services(scene, now_us)]
    used = len(HEAD_LINES[scene.share is not None]) + 2 + bool(scene.simulator) + len(scene.statuses)
    if scene.feeds:
        rows = feed_rows(scene, max((width - VENUE_WIDTH) // (FEED_WIDTH + 1), 1))
        parts += ["", _feeds(rows)]
        used += 1 + len(rows)
    if scene.outputs and scene.outputs.newest:
        parts += _made(scene.outputs, height - used - 1)
    return Group(*parts)


HEAD_LINES = {False: ("title", "hint"), True: ("title", "progress", "hint")}


def _made(outputs: Outputs, room: int) -> list[RenderableType]:
    """What is made of trades, on at most so many lines."""
    parts: list[RenderableType] = []
    markets = {named(name)[1] for name in outputs.newest}
    lines = min(len(markets), room - 2)
    if lines >= min(len(markets), LEAST_BARS):
        parts += ["", _markets(outputs, lines)]
        room -= lines + 2
    bars = min(BARS_SHOWN, room - 4)
    if bars >= LEAST_BARS:
        parts += ["", _bars(list(outputs.bars)[-bars:]), "", _latency(outputs)]
    return parts


def _head(scene: Scene) -> RenderableType:
    spinner = SPINNER[int(scene.elapsed_s / REFRESH_S) % len(SPINNER)]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    doing = Text.assemble((spinner, "cyan"), " ", ("Raven demo", "bold"), f" · {scene.title} · ", (scene.doing, "cyan"))
    if scene.left:
        doing.append(": " + ", ".join(f"{name} {count:,}" for name, count in scene.left.items()), style="dim")
    grid.add_row(doing)
    if scene.share is not None:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=1.0, completed=min(scene.share, 1.0), width=50), f"{min(scene.share, 1):.0%}")
        grid.add_row(bar)
    grid.add_row(Text("Ctrl-C ends it and leaves nothing running", style="dim"))
    return grid


def _services(scene: Scene, now_us: int) -> Table:
    table = _table("SERVICE", "STATE", "RATE/S", "LAG", "DONE", right=("RATE/S", "LAG"))
    # The last column gets what the others leave of the screen.
    table.expand, table.columns[-1].ratio = True, 1
    if scene.simulator:
        table.add_row("simulator", *_simulator(scene.simulator))
    there = sorted(scene.statuses.values(), key=_rank)
    for status in there:
        state = "gone" if is_gone(status, now_us) else status.state
        style = {"RUNNING": "green", "STARTING": "yellow", "DEGRADED": "yellow"}.get(state, "red")
        pace = rate(status)
        table.add_row(
            status.service,
            Text(state.lower(), style=style),
            "-" if pace is None else f"{pace:,.0f}",
            f"{sum(status.lag.values()):,}" if status.lag else "-",
            Text.assemble(done(status.counters), (f"  {error}" if (error := _news(status, now_us)) else "", "red")),
        )
    return table


def _news(status: ServiceStatus, now_us: int) -> str | None:
    """What went wrong a moment ago: a service goes on telling its last error after that is over."""
    recent = now_us - (status.last_error_time or 0) < ERROR_SHOWN_US
    return status.last_error if recent or status.state != "RUNNING" else None


def _price(value: float) -> str:
    """An option may cost 0.0005 of a bitcoin."""
    return f"{value:,.2f}" if value >= LEAST_IN_CENTS else f"{value:.5f}"


def feed_rows(scene: Scene, columns: int) -> list[list[Text]]:
    """Feeds, so many in a line, each venue from a line of its own: state, records a second, records."""
    states = _states(scene.statuses.values())
    rows: list[list[Text]] = []
    venue = ""
    for name in scene.feeds:
        if name.venue != venue or len(rows[-1]) > columns:
            rows.append([Text(name.venue if name.venue != venue else "", style="bold")])
            venue = name.venue
        rows[-1].append(_feed(name, states.get(name, ""), scene.rates.get(name), scene.counts.get(name, 0)))
    return rows


def _feeds(rows: Iterable[Sequence[Text]]) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*row)
    return table


def _feed(name: Name, state: str, pace: float | None, count: int) -> Text:
    mark, style = MARKS[state or "UNKNOWN"]
    told = f"{short(pace)}/s" if pace is not None and count else ""
    text = f"{WORDS.get(name.channel, name.channel):<13}{told:>6}{count or '-':>9{',' if count else ''}}"
    return Text.assemble((mark, style), " ", (text, "" if count else "dim"))


WORDS = {
    "open_interest": "open interest",
    "option_tickers": "tickers",
    "index_prices": "index",
    "volatility_index": "volatility",
}
MARKS = {
    "FLOWING": ("●", "green"),
    "SUBSCRIBED": ("○", "green"),
    "UNKNOWN": ("?", "dim"),
    "SILENT": ("○", "yellow"),
    "CONNECTING": ("…", "yellow"),
    "WAITING": ("…", "yellow"),
    "FAILED": ("x", "bold red"),
    "REFUSED": ("x", "bold red"),
}
"""A feed's state: records come, subscribed and quiet, strangely so, on its way, given up, refused. The worst counts."""


def _states(statuses: Iterable[ServiceStatus]) -> dict[Name, str]:
    order = ("", *MARKS)
    worst: dict[Name, str] = {}
    for status in statuses:
        for feed in status.subscriptions:
            name = Name(feed.venue, feed.channel)
            worst[name] = max(worst.get(name, ""), feed.state, key=order.index)
    return worst


def short(pace: float) -> str:
    """A rate in at most four characters: `0.3`, `12`, `950`, `1.2k`, `34k`."""
    if pace < 0.95:
        return f"{pace:.1f}" if pace >= 0.05 else "0"
    if pace < 999.5:
        return f"{pace:.0f}"
    return f"{pace / 1000:.1f}k" if pace < 9_950 else f"{pace / 1000:.0f}k"


def _simulator(stats: Mapping[str, Any]) -> tuple[str | Text, ...]:
    moment = str(stats["position"]["time"])[11:19] if stats["position"]["frames"] else ""
    state = Text(stats["state"], style="yellow" if stats["state"] == "waiting" else "green")
    faults = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in stats["injected"].items() if count)
    sent = f"{stats['frames']:,} frames, at {moment}" if moment else "nothing sent yet"
    return state, "-", "-", Text.assemble(sent, (f"; injected: {faults}" if faults else "", "yellow"))


def done(counters: Mapping[str, int]) -> str:
    """The counts that tell most, in a few words."""
    told = []
    for name, word in _COUNTS.items():
        if counters.get(name):
            told.append(f"{counters[name]:,} {word}")
    return ", ".join(told)


_COUNTS = {
    "trades_published": "trades",
    "books_published": "books",
    "trades": "trades",
    "bars": "bars",
    "vpin": "buckets",
    "rows_written": "rows",
    "gaps": "gap records",
    "duplicates": "duplicates",
    "dead_letters": "dead letters",
}


def _markets(outputs: Outputs, lines: int) -> Table:
    """One line per market: its last price, how many bars of each kind, and VPIN now; those with most bars."""
    kinds = sorted({named(name)[0] for name in outputs.counts if "/" in name})
    numbers = ("PRICE", *map(heading, kinds), "VPIN")
    table = _table("MARKET", *numbers, right=numbers)
    last = dict(outputs.newest)
    newest: dict[str, Bar | Vpin] = {}
    for name, record in last.items():
        market = named(name)[1]
        if market not in newest or newest[market].close_time < record.close_time:
            newest[market] = record
    made = {market: sum(outputs.counts.get(f"{kind}/{market}", 0) for kind in kinds) for market in newest}
    for market in sorted(sorted(made, key=lambda one: -made[one])[:lines]):
        bucket = last.get(f"vpin/default/{market}")
        table.add_row(
            market,
            _price(to_float(newest[market].close)),
            *(f"{outputs.counts.get(f'{kind}/{market}', 0):,}" for kind in kinds),
            _vpin(bucket) if isinstance(bucket, Vpin) else "-",
        )
    return table


def _vpin(bucket: Vpin) -> Text:
    if bucket.vpin is None:
        return Text("fills up", style="dim")
    return Text(f"{bucket.vpin:.3f}", style="bold")


def _bars(bars: list[Bar]) -> Table:
    numbers = ("OPEN", "HIGH", "LOW", "CLOSE", "VOLUME", "TICKS", "THETA")
    table = _table("NEWEST BARS", "#", *numbers, right=("#", *numbers))
    for bar in reversed(bars):
        up = bar.close >= bar.open
        prices = (_price(to_float(price)) for price in (bar.open, bar.high, bar.low, bar.close))
        table.add_row(
            Text(series(bar), style="green" if up else "red"),
            f"{bar.bar_seq:,}",
            *prices,
            f"{to_float(bar.volume):,.4f}",
            f"{bar.ticks:,}",
            "" if bar.theta is None else f"{bar.theta:+.4g}",
        )
    return table


def _latency(outputs: Outputs) -> Text:
    p50, p99 = outputs.latency_ms(0.5), outputs.latency_ms(0.99)
    if p50 is None or p99 is None:
        return Text("")
    return Text(f"from a trade's receipt to its bar here: {p50:,.0f} ms (half), {p99:,.0f} ms (99 %)", style="dim")


def _rank(status: ServiceStatus) -> tuple[int, str]:
    return (ORDER.index(status.service) if status.service in ORDER else len(ORDER), status.instance)


def _table(*names: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for name in names:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True, overflow="ellipsis")
    return table
