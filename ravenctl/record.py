"""`ravenctl record`: raw frames into files that the simulator plays back; no Kafka, no services."""

import asyncio
import os
import shlex
import signal
import sys
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from producers.collector.recorder import Recorder, Recording
from producers.contract import ALL, Poll
from producers.recording import BODIES, FRAMES, stem
from producers.registry import SOURCES, configured
from producers.routing import Wants
from producers.routing import wanted as collected
from ravencore.config import RoutingSettings, Settings
from ravencore.errors import Unavailable
from ravencore.records import Demand
from ravenctl.demands import Wanted
from ravenctl.shell import CommandFailed, WrongUse, show

LOOK_S = 0.25
LINE_EVERY_S = 10.0
START_S = 30.0
"""How long nothing at all may come at the beginning while the venues cannot be reached."""
RATE_OVER = 20
"""Looks that a rate is taken over: five seconds."""
SAME_AGAIN_S = 60.0
"""A complaint that was made is not repeated before."""
MEGA = 1e6


@dataclass(frozen=True)
class Plan:
    """What is recorded, into which files."""

    want: Wanted
    sources: Mapping[str, Wants]
    recordings: Sequence[Recording]
    duration_s: float | None


def make_plan(want: Wanted, settings: Settings, out: Path, duration_s: float | None, now_us: int) -> Plan:
    """What the options mean; raises WrongUse, and CannotWrite where a file exists."""
    demands = want.demands(settings.routing, now_us) if want.symbols else _markets(want, settings.routing)
    sources = collected(demands, SOURCES.values(), settings.routing)
    idle = [name for name in want.venues if not any(name in (one, SOURCES[one].venue) for one in sources)]
    if idle and want.outputs:
        raise WrongUse(f"{idle[0]} has nothing of what --symbol and --with name: leave it out")
    if idle:
        raise WrongUse(
            f"{idle[0]} is collected as a whole: leave --symbol out, or name with --with what of it you want "
            f"(it has {', '.join(_channels(idle[0]))})"
        )
    folder, stems = _places(sources, out, now_us)
    made = configured(settings.venues)
    recordings = [Recording(made[name], folder, stems[name]) for name in sources]
    return Plan(want, sources, recordings, duration_s)


def _markets(want: Wanted, routing: RoutingSettings) -> list[Demand]:
    """Without a symbol: the whole markets that are named; raises WrongUse where there is none."""
    demands = [demand for demand in want.demands(routing, 0) if demand.symbol == ALL]
    if not (want.venues or want.outputs):
        raise WrongUse("name a --symbol, for example BTCUSDT, or a --venue that is collected as a whole")
    if not demands:
        raise WrongUse(f"{', '.join(want.venues or want.outputs)} is collected by symbol: add --symbol, as BTCUSDT")
    return demands


def _channels(name: str) -> list[str]:
    sources = [source for source in SOURCES.values() if name in (source.name, source.venue)]
    return list(dict.fromkeys(channel for source in sources for channel in source.channels))


def _places(sources: Mapping[str, Collection[str]], out: Path, now_us: int) -> tuple[Path, Mapping[str, str]]:
    """The folder, made where it is missing, and by source the name of its files without their endings."""
    folder = out if out.suffix != ".zst" else out.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongUse(f"--out {out}: {error.strerror}: {error.filename}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise WrongUse(f"--out {out} cannot be written: its folder is closed to you")
    if out.suffix != ".zst":
        return folder, {name: stem(name, _symbols(symbols), now_us) for name, symbols in sources.items()}
    if len(sources) > 1:
        raise WrongUse(f"--out {out} is one file, and there are {len(sources)} sources: name a folder")
    name = next(iter(sources))
    ending = BODIES if isinstance(SOURCES[name], Poll) else FRAMES
    if not out.name.removesuffix(ending) or not out.name.endswith(ending):
        raise WrongUse(f"--out {out}: a recording of {name} is called like NAME{ending}, or name a folder")
    return folder, {name: out.name.removesuffix(ending)}


def _symbols(symbols: Collection[str]) -> list[str]:
    return [symbol for symbol in symbols if any(map(str.isalnum, symbol))]


def run(plan: Plan, settings: Settings, console: Console) -> bool:
    """Record until the end; whether it was interrupted before that. Raises RavenError where nothing was recorded."""
    return asyncio.run(_Run(plan, settings, console).run())


class _Run:
    """One recording that goes on."""

    def __init__(self, plan: Plan, settings: Settings, console: Console) -> None:
        self._plan = plan
        self._view = View(plan.recordings, plan.duration_s, console)
        self._recorder = Recorder(settings, plan.sources, plan.recordings, self._tell)
        self._stop = asyncio.Event()
        self._told: dict[str, float] = {}
        self._refused: set[str] = set()
        self._began = time.monotonic()
        self._first: float | None = None
        self._interrupted = False

    async def run(self) -> bool:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._interrupt)
        recording = asyncio.create_task(self._recorder.run(self._stop))
        try:
            with self._view:
                await self._watch(recording)
        finally:
            self._stop.set()
            await recording
        self._conclude()
        return self._interrupted and self._plan.duration_s is not None

    def _interrupt(self) -> None:
        self._interrupted = True
        self._stop.set()

    async def _watch(self, recording: asyncio.Task[None]) -> None:
        stopping = asyncio.create_task(self._stop.wait())
        while not (stopping.done() or recording.done()):
            await asyncio.wait({recording, stopping}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            self._check()
            self._view.draw(self._recorder, self._elapsed_s)

    def _check(self) -> None:
        """End at the end; raises RavenError where nothing can come."""
        if self._first is None and any(recording.messages for recording in self._plan.recordings):
            self._first = time.monotonic()
        refused = set(self._recorder.refused())
        for text in refused - self._refused:
            self._tell(text)
        self._refused |= refused
        unlisted = self._recorder.unlisted()
        everything = {(name, symbol) for name, symbols in self._plan.sources.items() for symbol in symbols}
        named = self._plan.want.symbols and self._plan.want.venues
        if unlisted and (named or set(unlisted) == everything):
            raise CommandFailed(self._what_is_refused(unlisted))
        if self._first is None and time.monotonic() - self._began > START_S and (away := self._recorder.away()):
            raise Unavailable(f"nothing came for {START_S:g} s: {away[0]}; {_setting(self._plan)}")
        if self._plan.duration_s is not None and self._elapsed_s >= self._plan.duration_s:
            self._stop.set()

    def _what_is_refused(self, unlisted: Sequence[tuple[str, str]]) -> str:
        names = ", ".join(f"{symbol} of {name}" for name, symbol in unlisted)
        last = next((text for text in self._told if " refuses " in text), "the venue does not list it")
        return f"{names} cannot be recorded: {last}"

    @property
    def _elapsed_s(self) -> float:
        """Since something came."""
        return 0.0 if self._first is None else time.monotonic() - self._first

    def _tell(self, text: str) -> None:
        now = time.monotonic()
        if now - self._told.get(text, -SAME_AGAIN_S) >= SAME_AGAIN_S:
            self._told[text] = now
            self._view.say(text)

    def _conclude(self) -> None:
        kept = [recording for recording in self._plan.recordings if any(file.size for file in recording.files)]
        if not any(recording.messages for recording in kept):
            away = self._recorder.away()
            raise CommandFailed(f"nothing was recorded: {away[0] if away else 'the venue sent nothing'}")
        self._view.conclude(kept)


def _setting(plan: Plan) -> str:
    venue = f"RAVEN_VENUES__{plan.recordings[0].source.venue}"
    return f"another endpoint, for example a simulator's, is named in {venue}__REST_URL and {venue}__WS_URL"


class View:
    """What is seen of a recording: on a terminal a line per source that lives, else a line now and then."""

    def __init__(self, recordings: Sequence[Recording], duration_s: float | None, console: Console) -> None:
        self._recordings, self._duration_s, self._console = recordings, duration_s, console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._rates = {recording.source.name: Rate() for recording in recordings}
        self._said = time.monotonic()

    def __enter__(self) -> "View":
        for recording in self._recordings:
            self._say(f"{recording.source.name} -> {recording.main}")
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """What goes wrong, once, above the live lines."""
        self._say(text, style="yellow")

    def draw(self, recorder: Recorder, elapsed_s: float) -> None:
        """The figures as they are now."""
        now = time.monotonic()
        for recording in self._recordings:
            self._rates[recording.source.name].add(now, recording.messages)
        if self._live:
            until = f" of {self._duration_s:g} s" if self._duration_s is not None else " · Ctrl-C ends it"
            head = Text.assemble(("recording", "bold cyan"), f" {elapsed_s:.0f} s{until}")
            self._live.update(Group(self._table(recorder), head), refresh=True)
        elif now - self._said >= LINE_EVERY_S:
            self._said = now
            for recording in self._recordings:
                self._say(self._line(recording, elapsed_s))

    def conclude(self, kept: Sequence[Recording]) -> None:
        """What there is now, and how to play it."""
        table = _columns("FILE", "MESSAGES", "MB", "ON DISK", "RECORDS", "BAD", "GAPS")
        for recording in kept:
            for file in recording.files:
                if file.size:
                    told = _summary(recording) if file.path == recording.main else ("", "", "", "", "")
                    messages, raw, *rest = told
                    table.add_row(str(file.path), messages, raw, f"{file.size / MEGA:,.2f}", *rest)
        show(self._console, table)
        for recording in kept:
            for text in _remarks(recording):
                self._say(text, style="yellow")
        # The simulator refuses recordings of a venue that hold no market data.
        files = " ".join(shlex.quote(str(recording.main)) for recording in kept if recording.counts["records"])
        if files:
            self._say(f"play it back: ravenctl demo --recording {files}")

    def _table(self, recorder: Recorder) -> Table:
        table = _columns("SOURCE", "STATE", "FRAMES", "MB", "/S", "RECORDS", "BAD", "GAPS", "LAST")
        for recording in self._recordings:
            messages, raw, records, bad, gaps = _summary(recording)
            rate = f"{self._rates[recording.source.name].per_second:,.0f}"
            state, style = _state(recorder, recording)
            table.add_row(
                recording.source.name, Text(state, style), messages, raw, rate, records, bad, gaps, _age(recording)
            )
        return table

    def _line(self, recording: Recording, elapsed_s: float) -> str:
        messages, raw, records, bad, gaps = _summary(recording)
        rate = self._rates[recording.source.name].per_second
        figures = f"{messages} {_kind(recording)}, {raw} MB, {rate:,.0f}/s, {records} records, {bad} bad, {gaps} gaps"
        return f"{elapsed_s:6.0f} s  {recording.source.name}: {figures}, last {_age(recording)} ago"

    def _say(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, soft_wrap=True, markup=False)
        sys.stdout.flush()


class Rate:
    """Messages a second over the last RATE_OVER looks."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=RATE_OVER)

    def add(self, now: float, messages: int) -> None:
        """Note a look."""
        self._seen.append((now, messages))

    @property
    def per_second(self) -> float:
        """Zero before the second look."""
        (began, before), (ended, after) = self._seen[0], self._seen[-1]
        return (after - before) / (ended - began) if ended > began else 0.0


def _summary(recording: Recording) -> tuple[str, str, str, str, str]:
    """Messages, megabytes, records, bad messages and gaps."""
    counts = recording.counts
    whole = [f"{counts[name]:,}" for name in ("records", "bad", "gaps")]
    return f"{recording.messages:,}", f"{counts['bytes'] / MEGA:,.1f}", whole[0], whole[1], whole[2]


def _remarks(recording: Recording) -> list[str]:
    found, name, counts = [], recording.source.name, recording.counts
    if not counts["records"]:
        found.append(f"{name}: no record came, only what surrounds them")
    if counts["bad"]:
        found.append(f"{name}: {counts['bad']:,} are recorded and cannot be parsed: {recording.first_bad}")
    if counts["odd"]:
        found.append(f"{name}: {counts['odd']:,} were no lines of text and are in {recording.odd.path}, in base64")
    return found


def _state(recorder: Recorder, recording: Recording) -> tuple[str, str]:
    runner = recorder.runners.get(recording.source.name)
    if runner is not None and any(runner.away):
        return "away", "red"
    return ("recording", "green") if recording.messages else ("connecting", "yellow")


def _kind(recording: Recording) -> str:
    return "answers" if recording.polled else "frames"


def _age(recording: Recording) -> str:
    return f"{max(time.time_ns() - recording.last_ns, 0) / 1e9:.1f} s" if recording.last_ns else "-"


def _columns(first: str, *names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    table.add_column(first, overflow="fold")
    for name in names:
        table.add_column(name, justify="left" if name == "STATE" else "right", no_wrap=True)
    return table
