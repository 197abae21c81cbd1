"""`ravenctl demo`: a whole Raven on this machine, fed, watched, checked, and gone again.

It starts the servers, an exchange on loopback and Raven's services, demands the exchange's symbols, waits until all
that was sent has arrived everywhere, reads back what Kafka and the stores hold, and says which promises held.
"""

import json
import os
import shutil
import signal
import socket
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import msgspec
from pydantic import SecretStr
from rich.console import Console

from ravencore import kafka, service
from ravencore.codec import Codec
from ravencore.config import InfluxSettings, MartSettings, Settings, load
from ravencore.errors import Unavailable
from ravencore.records import ServiceStatus
from ravencore.topics import BOOKS, GROUP_BARS, GROUP_SINK, TOPICS, TRADES
from ravenctl import control, mart, readback, summary
from ravenctl.cluster import DEMO
from ravenctl.demo_view import Scene, View
from ravenctl.drain import Offsets, Reader, behind, wait_until_drained
from ravenctl.local.progress import ConsoleReporter
from ravenctl.local.services import SERVICES, python_service
from ravenctl.local.stack import Stack
from ravenctl.local.state import Endpoints, ServiceSpec
from ravenctl.outputs import TOPICS as OUTPUT_TOPICS
from ravenctl.outputs import Outputs
from ravenctl.shell import CommandFailed, WrongUse, show
from ravenctl.statusview import StatusFeed, fresh
from simulator.contract import SimulatorError
from simulator.faults import parse_spec
from simulator.synthetic import LISTINGS

USER = "demo"
BEGUN = {".lock", "logs", "run"}
"""What a stack makes before its spec.json."""
DURATION_S = 120.0
"""Of a source that has no end of its own."""
LIVE_SYMBOLS = ("BTCUSDT", "ETHUSDT")
START_S = 300.0
SUBSCRIBE_S = 60.0
STATS_EVERY_S = 0.25
HTTP_S = 5.0
ENGINE = Reader("engine", GROUP_BARS, (TRADES,))
SINKS = (
    Reader("sink-influx", GROUP_SINK + "influx", (TRADES, BOOKS)),
    Reader("sink-timescale", GROUP_SINK + "timescale", OUTPUT_TOPICS),
)


@dataclass(frozen=True)
class Plan:
    """What a demo is to do; `duration_s` None means to the source's own end, `speed` is as the simulator takes it."""

    source: Literal["recording", "synthetic", "live"]
    home: Path
    recordings: tuple[Path, ...] = ()
    symbols: tuple[str, ...] = ()
    speed: str = "1"
    duration_s: float | None = None
    faults: str = ""
    seed: int = 0
    keep: bool = False
    json_file: Path | None = None

    @property
    def title(self) -> str:
        """What is played, in a few words."""
        pace = "as fast as it is read" if self.speed == "max" else f"at {self.speed}x"
        match self.source:
            case "live":
                return f"live: {', '.join(self.symbols)}"
            case "recording":
                return f"{len(self.recordings)} recording{'s' * (len(self.recordings) != 1)} {pace}"
            case _:
                return f"synthetic market {pace}"


def services(plan: Plan) -> list[ServiceSpec]:
    """The processes of a demo, in the order in which they start."""
    if plan.source == "live":
        return list(SERVICES)
    what = ["--recording", *map(str, plan.recordings)] if plan.recordings else ["--synthetic"]
    options = ["--speed", plan.speed, "--seed", str(plan.seed)]
    if plan.symbols and not plan.recordings:
        options += ["--symbols", ",".join(plan.symbols)]
    if plan.faults:
        options += ["--fault", plan.faults]
    if plan.duration_s is not None:
        options += ["--duration", f"{plan.duration_s:g}s"]
    simulator = msgspec.structs.replace(python_service("simulator", "-m", "simulator", *what, *options), announces=True)
    # A Clock is of live time: at another pace than 1 it would close windows too early.
    paced = {} if plan.speed == "1" else {"RAVEN_COLLECTOR__CLOCKS": "false"}
    return [simulator, *(msgspec.structs.replace(one, env={**one.env, **paced}) for one in SERVICES)]


def run(plan: Plan, console: Console) -> bool:
    """Show Raven at work; whether all promises held. Raises RavenError when it cannot be shown."""
    if plan.source == "live":
        _check_way_out(load())
    home = plan.home / DEMO
    stack = Stack(home, services(plan))
    with stopping_on_signals():
        _clear(stack, console)
        done = kept = False
        try:
            console.print(f"Raven demo: {plan.title}; servers, exchange and services start in {home}", soft_wrap=True)
            stack.up(ConsoleReporter(console), START_S)
            kept = _Demo(plan, stack, console).run()
            done = True
        finally:
            _leave(plan, stack, console, done=done, clean=kept)
    return kept


def _check_way_out(settings: Settings) -> None:
    """Raises Unavailable when the exchange cannot be reached from here, before anything is started."""
    if urllib.request.getproxies():
        return  # the collector goes through the proxy; it will say what it finds
    for venue in control.known_venues():
        url = urllib.parse.urlsplit(getattr(settings.venues, venue).ws_url)
        try:
            socket.create_connection((url.hostname or "", url.port or 443), HTTP_S).close()
        except OSError as error:
            raise Unavailable(
                f"{venue} at {url.netloc} cannot be reached ({error}): without a way to the internet, "
                "`ravenctl demo` plays a synthetic market, and --recording what was recorded"
            ) from None


def _clear(stack: Stack, console: Console) -> None:
    """A demo begins with nothing, so that the same command does the same; raises CommandFailed for a stranger's folder.

    Its folder is removed only when it is a stack's, which has a spec.json, or holds no more than one that never began.
    """
    home = stack.home
    if home.exists() and not (home / "spec.json").is_file() and {path.name for path in home.iterdir()} - BEGUN:
        raise CommandFailed(f"{home} holds what no demo left there: move it away, or name another folder with --home")
    if stack.down():
        console.print(f"stopped the demo that was kept in {stack.home}", soft_wrap=True)
    shutil.rmtree(stack.home, ignore_errors=True)


def _leave(plan: Plan, stack: Stack, console: Console, *, done: bool, clean: bool) -> None:
    if plan.keep and done:
        console.print(
            "kept running. Look: `ravenctl status`, `ravenctl tail bars.tib`; "
            f"QuestDB's console {_endpoints(stack).questdb_url}; end it: `ravenctl local down --home {stack.home}`",
            soft_wrap=True,
        )
        return
    with signals_held():
        _try_to_say(console, "stopping everything")
        stack.down()
        if clean:
            shutil.rmtree(stack.home, ignore_errors=True)
        elif (stack.home / "logs").exists():
            _try_to_say(console, f"stopped; logs are in {stack.home / 'logs'}")


def _try_to_say(console: Console, text: str) -> None:
    # The terminal or the pipe may be gone (rich answers a broken pipe with SystemExit): that must not keep it running.
    with suppress(OSError, SystemExit):
        console.print(text, soft_wrap=True)


def _endpoints(stack: Stack) -> Endpoints:
    state = stack.status()
    if state is None:
        raise CommandFailed(f"the local stack has ended by itself: see {stack.log_path('supervisor')}")
    return state.endpoints


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end a demo as Ctrl-C does."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_held() -> Iterator[None]:
    """While everything is stopped, a second Ctrl-C must not leave half of it running."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_plan(
    recordings: Sequence[Path], *, synthetic: bool, live: bool, speed: str, duration_s: float | None, **rest: Any
) -> Plan:
    """A plan of the options; raises WrongUse where they contradict each other."""
    if bool(recordings) + synthetic + live > 1:
        raise WrongUse("choose one of --recording, --synthetic and --live")
    for path in recordings:
        if not path.is_file():
            raise WrongUse(f"there is no recording {path}")
    plan = Plan(
        source="recording" if recordings else "live" if live else "synthetic",
        recordings=tuple(path.resolve() for path in recordings),
        speed=_speed(speed),
        duration_s=duration_s,
        **rest,
    )
    if live and (plan.speed != "1" or plan.faults):
        raise WrongUse("--speed and --fault are for recordings and the synthetic market: an exchange has its own pace")
    if recordings and plan.symbols:
        raise WrongUse("--symbol is for --synthetic and --live: a recording has its own symbols")
    if plan.json_file and not os.access(plan.json_file.absolute().parent, os.W_OK):
        raise WrongUse(f"--json {plan.json_file} cannot be written: its folder is missing or closed to you")
    symbols = control.wanted(plan.symbols, None, USER).symbols or (LIVE_SYMBOLS if live else ())
    unknown = [] if live else [symbol for symbol in symbols if symbol not in LISTINGS]
    if unknown:
        raise WrongUse(f"the synthetic market has no {unknown[0]}: it has {', '.join(LISTINGS)}")
    endless = duration_s is None and not recordings
    return replace(plan, symbols=symbols, duration_s=DURATION_S if endless else duration_s, faults=_faults(plan.faults))


def _speed(text: str) -> str:
    """A speed as the simulator takes it; raises WrongUse."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if text != "max" and not 0.0 < number < float("inf"):
        raise WrongUse(f"{text!r} is no speed: write 1, a factor like 10, or max")
    return text if text == "max" else f"{number:g}"


def _faults(text: str) -> str:
    try:
        parse_spec(text)
    except SimulatorError as error:
        raise WrongUse(str(error)) from None
    return text


class _Demo:
    """One demo on a stack that runs."""

    def __init__(self, plan: Plan, stack: Stack, console: Console) -> None:
        self._plan, self._stack, self._console = plan, stack, console
        self._settings = _pointed_at(_endpoints(stack))
        self._codec: Codec = service.codec(self._settings)
        self._simulator = _simulator_url(stack) if plan.source != "live" else None
        self._began = time.monotonic()
        self._scene = Scene(plan.title)
        self._counters = Lives()
        self._asked = 0.0

    def run(self) -> bool:
        """Demand, watch, drain, read back, tell; whether all promises held."""
        kafka.ensure_topics(self._settings.kafka)
        self._feed = StatusFeed(self._settings.kafka, self._codec)
        self._outputs = Outputs(self._settings.kafka, self._codec)
        self._trades = readback.Trades(self._settings.kafka, self._codec)
        self._gaps = readback.Gaps(self._settings.kafka, self._codec)
        self._offsets = Offsets(self._settings.kafka, [topic.name for topic in TOPICS])
        self._outputs.start()
        try:
            with View(self._console) as self._view:
                seconds, stuck = self._play()
                self._scene.left = {}
                self._tell("reading back what Kafka and the stores hold")
                found = self._read_back(seconds, stuck)
        finally:
            self._outputs.stop()
            self._feed.close()
            self._trades.close()
            self._gaps.close()
        return self._conclude(found)

    # Playing

    def _play(self) -> tuple[float, str | None]:
        """Seconds from the first frame until all has arrived, and what is stuck if something is."""
        symbols = self._symbols()
        want = control.Wanted(USER, symbols)
        control.apply(self._settings.kafka, self._codec, control.to_start(want, {}, time.time_ns() // 1000))
        began = self._await_first(want)
        self._await_end(began)
        try:
            if self._plan.source == "live":
                self._unsubscribe(want)
            wait_until_drained(self._left, self._draining, self._explain)
        except CommandFailed as error:
            return time.monotonic() - began, str(error)
        return time.monotonic() - began, None

    def _symbols(self) -> tuple[str, ...]:
        stats = self._stats()
        return tuple(stats["symbols"]) if stats else self._plan.symbols

    def _await_first(self, want: control.Wanted) -> float:
        """When the first frame was on its way; raises CommandFailed when none comes."""
        deadline = time.monotonic() + SUBSCRIBE_S
        while time.monotonic() < deadline:
            self._tell("subscribing to " + ", ".join(want.symbols))
            progress = control.starting(want, self._fresh())
            if progress.refused:
                raise CommandFailed("; ".join(progress.refused))
            stats = self._scene.simulator
            if stats["state"] != "waiting" if stats else self._counters.total["frames"]:
                return time.monotonic()
        told = "; ".join(control.starting(want, self._fresh()).missing)
        raise CommandFailed(f"no frame within {SUBSCRIBE_S:.0f} s: {told}; logs: {self._stack.home / 'logs'}")

    def _await_end(self, began: float) -> None:
        duration = self._plan.duration_s
        while True:
            played = time.monotonic() - began
            if duration is not None:
                pace = 0.0 if self._plan.speed == "max" else float(self._plan.speed)
                self._scene.share = played * pace / duration if pace else None
            self._tell("playing")
            stats = self._scene.simulator
            if stats["state"] == "done" if stats else duration is not None and played >= duration:
                self._scene.share = None
                return

    def _unsubscribe(self, want: control.Wanted) -> None:
        standing = control.to_start(want, {}, 0)
        control.apply(self._settings.kafka, self._codec, dict.fromkeys(standing))
        wait_until_drained(
            lambda: {"subscriptions": len(control.stopping(want, (), self._fresh()))}, self._draining, self._explain
        )

    # Draining

    def _left(self) -> dict[str, int]:
        """How much is still on its way, by where; asked in the order of the stream, so that nothing slips past."""
        left = {"collector": self._not_in_kafka(), "engine": self._behind(ENGINE, self._offsets.ends())}
        left["transactions"] = self._offsets.undecided()
        ends = self._offsets.ends()
        left["consumer"] = self._unread(ends)
        left |= {sink.service: self._behind(sink, ends) for sink in SINKS}
        left["influx store"] = self._questdb().unapplied()
        return left

    def _behind(self, reader: Reader, ends: readback.Ends) -> int:
        return behind(reader.topics, ends, self._offsets.committed(reader.group), self._outputs.last)

    def _unread(self, ends: readback.Ends) -> int:
        """What the demo's own consumer has not read of the derived topics."""
        reached = self._outputs.reached
        return sum(max(end - reached.get(place, 0), 0) for place, end in ends.items() if place[0] in OUTPUT_TOPICS)

    def _not_in_kafka(self) -> int:
        """Ids up to the last one sent that are neither a trade in Kafka nor in a Gap."""
        stats = self._stats()
        if stats is None:
            return 0
        ends = self._offsets.ends()
        self._gaps.advance(ends)
        self._trades.advance(ends)
        ranges = readback.gap_ranges(self._gaps.missing)
        left = 0
        for symbol, sent in stats["symbols"].items():
            if sent["delivered_unique"]:
                market = f"{stats['venue']}:{symbol}"
                left += missing(self._trades.markets.get(market, readback.Ids()), ranges.get(market, []), sent)
        return left + int(max(stats["injected"]["garbage"] - self._counters.total["dead_letters"], 0))

    def _draining(self, left: Mapping[str, int]) -> None:
        self._scene.left = left
        self._tell("waiting until all has arrived")

    def _explain(self, names: Iterable[str]) -> str:
        """What the services that are stuck say of themselves."""
        said = {s.service: s.last_error for s in self._feed.latest.values() if s.last_error}
        told = [f"{name} says: {said[name]}" for name in names if name in said]
        return "; ".join(told) or f"see {self._stack.home / 'logs'}"

    # Reading back

    def _read_back(self, seconds: float, stuck: str | None) -> summary.Findings:
        settings, codec = self._settings.kafka, self._codec
        self._feed.poll(1.5)  # the collector's last counts
        self._counters.add(self._feed.latest.values())
        found_gaps = self._gaps.missing
        in_kafka = readback.outputs(settings, codec)
        rows = mart.records(self._settings.mart)
        questdb = self._questdb()
        p50, p99 = (self._outputs.latency_ms(share) for share in (0.5, 0.99))
        return summary.Findings(
            source=self._stats(),
            counters=self._counters.total,
            kafka=self._trades.markets,
            influx=questdb.trades(),
            gap_ranges=readback.gap_ranges(found_gaps),
            gaps=len(found_gaps),
            gaps_by_cause=summary.by_cause(gap.cause for gap in found_gaps),
            missing_ids=sum(gap.missing or 0 for gap in found_gaps),
            dead_letters=readback.dead_letters(settings, codec),
            bars={name: len(there) for name, there in in_kafka.series.items()},
            mart=mart.counts(rows),
            mismatches=mart.mismatches(in_kafka.series, rows),
            out_of_turn=in_kafka.out_of_turn,
            digest=in_kafka.digest,
            books_in_kafka=readback.count_records(settings, BOOKS),
            books_in_influx=questdb.books(),
            unreadable=self._trades.unreadable,
            seconds=seconds,
            latency_ms={"p50": p50, "p99": p99},
            restarts=self._restarts(),
            stuck=stuck,
            details={"source": self._plan.source, "speed": self._plan.speed, "seed": self._plan.seed},
        )

    def _restarts(self) -> dict[str, int]:
        state = self._stack.status()
        return {name: member.restarts for name, member in state.members.items()} if state else {}

    def _conclude(self, found: summary.Findings) -> bool:
        kept = summary.promises(found)
        show(self._console, summary.show(found, kept))
        for note in found.source["notes"] if found.source else ():
            self._console.print(f"note: {note}", soft_wrap=True)
        if self._plan.json_file:
            text = json.dumps(summary.figures(found, kept), indent=2)
            self._plan.json_file.write_text(text + "\n")
            self._console.print(f"figures: {self._plan.json_file}", soft_wrap=True)
        return all(promise.kept for promise in kept)

    # Looking

    def _tell(self, doing: str) -> None:
        """Take in what the services say and show it."""
        self._feed.poll(0.1)
        self._counters.add(self._feed.latest.values())
        if self._outputs.lost:
            raise Unavailable(f"Kafka went away: {self._outputs.lost}")
        if time.monotonic() - self._asked > STATS_EVERY_S:
            self._asked = time.monotonic()
            self._check_members()
            self._scene.simulator = self._stats()
        self._scene.doing = doing
        self._scene.elapsed_s = time.monotonic() - self._began
        self._scene.statuses = self._feed.latest
        self._scene.outputs = self._outputs
        self._view.show(self._scene)

    def _check_members(self) -> None:
        """Raises CommandFailed when a process has died so often that it is no longer started."""
        state = self._stack.status()
        members = state.members if state else {}
        dead = next((name for name, member in members.items() if member.state == "failed"), None)
        if dead or not members:
            log = self._stack.log_path(dead or "supervisor")
            raise CommandFailed(f"{dead or 'the supervisor'} does not stay up; {self._explain([dead or ''])}: {log}")

    def _fresh(self) -> list[ServiceStatus]:
        return fresh(self._feed.latest, time.time_ns() // 1000)

    def _stats(self) -> dict[str, Any] | None:
        if self._simulator is None:
            return None
        try:
            with urllib.request.urlopen(f"{self._simulator}/sim/stats", timeout=HTTP_S) as response:
                stats: dict[str, Any] = json.load(response)
        except OSError as error:
            raise Unavailable(
                f"the simulator does not answer ({error}): see {self._stack.log_path('simulator')}"
            ) from None
        return stats

    def _questdb(self) -> readback.QuestDb:
        return readback.QuestDb(self._settings.influx.url)


@dataclass
class Lives:
    """Counters of services summed over their lives: each life counts from nought."""

    total: Counter[str] = field(default_factory=Counter)
    _newest: dict[tuple[str, int], ServiceStatus] = field(default_factory=dict)

    def add(self, statuses: Iterable[ServiceStatus]) -> None:
        """Take in the newest status of each instance."""
        for status in statuses:
            if status.service == "collector":
                self._newest[status.instance, status.started_time] = status
        self.total = Counter()
        for status in self._newest.values():
            self.total.update(status.counters)


def missing(there: readback.Ids, gaps: Sequence[readback.Range], sent: Mapping[str, Any]) -> int:
    """How many ids of a market, from its first to the last one sent, are neither there nor in a Gap."""
    spanned = sent["last_id"] - sent["first_id"] + 1
    named = sum(high - low + 1 for low, high in gaps)
    return int(max(spanned - len(there.ids) - named, 0))


def _pointed_at(endpoints: Endpoints) -> Settings:
    settings = load()
    return settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(update={"bootstrap": endpoints.kafka_bootstrap}),
            "influx": InfluxSettings(url=endpoints.questdb_url, flavour="questdb"),
            "mart": MartSettings(dsn=SecretStr(endpoints.postgres_dsn)),
        }
    )


def _simulator_url(stack: Stack) -> str:
    announced = json.loads((stack.home / "run" / "simulator.json").read_text())
    return str(announced["RAVEN_SIMULATOR_URL"])
