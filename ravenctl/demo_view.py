"""What a demo shows while it runs: services, markets, newest bars; on a terminal live, else a line now and then."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ravencore.decimals import to_float
from ravencore.records import Bar, ServiceStatus, Vpin
from ravenctl.outputs import Outputs, series
from ravenctl.statusview import is_gone, rate

REFRESH_S = 0.25
LINE_EVERY_S = 5.0
BARS_SHOWN = 8
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
ORDER = ("simulator", "collector", "engine", "sink-influx", "sink-timescale")


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


class View:
    """Draws scenes: `with View(console) as view: view.show(scene)`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._drawn = 0.0
        self._said = ""

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
                self._live.update(draw(scene, time.time_ns() // 1000), refresh=True)
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
    if scene.outputs and scene.outputs.counts:
        parts.append(f"{sum(scene.outputs.counts.values()):,} bars and buckets")
    if scene.left:
        parts.append("left: " + ", ".join(f"{name} {count:,}" for name, count in scene.left.items()))
    return "; ".join(parts)


def draw(scene: Scene, now_us: int) -> RenderableType:
    """The scene as a screen of at most 40 lines."""
    parts: list[RenderableType] = [_head(scene), "", _services(scene, now_us)]
    if scene.outputs and scene.outputs.newest:
        parts += ["", _markets(scene.outputs), "", _bars(list(scene.outputs.bars)[-BARS_SHOWN:])]
        parts += ["", _latency(scene.outputs)]
    return Group(*parts)


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
            Text.assemble(done(status.counters), (f"  {status.last_error}" if status.last_error else "", "red")),
        )
    return table


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


def _markets(outputs: Outputs) -> Table:
    """One line per market: its last price, how many bars of each kind, and VPIN now."""
    kinds = sorted({name.rpartition("/")[0] for name in outputs.counts if "/" in name})
    table = _table("MARKET", "PRICE", *(kind.replace("vpin/default", "buckets") for kind in kinds), "VPIN",
                   right=("PRICE", *(kind.replace("vpin/default", "buckets") for kind in kinds), "VPIN"))  # fmt: skip
    last = dict(outputs.newest)
    for market in sorted({name.rpartition("/")[2] for name in last}):
        newest = max((r for name, r in last.items() if name.endswith(f"/{market}")), key=lambda r: r.close_time)
        bucket = last.get(f"vpin/default/{market}")
        table.add_row(
            market,
            f"{to_float(newest.close):,.2f}",
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
        prices = (f"{to_float(price):,.2f}" for price in (bar.open, bar.high, bar.low, bar.close))
        table.add_row(
            Text(series(bar), style="green" if up else "red"),
            f"{bar.bar_seq:,}",
            *prices,
            f"{to_float(bar.volume):,.4f}",
            f"{bar.ticks:,}",
            "" if bar.theta is None else f"{bar.theta:+.0f}",
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
