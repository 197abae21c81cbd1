"""`ravenctl demo`: a whole Raven on this machine, fed, watched, checked, and gone again.

It starts the servers, exchanges on loopback and Raven's services, demands what the exchanges have, waits until all that
was sent has arrived everywhere, reads back what Kafka and the stores hold, and says which promises held.
"""

import json
import shutil
import signal
import socket
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console

from producers.contract import ALL, HasBooks, Poll
from producers.contract import BOOKS as BOOKS_CHANNEL
from producers.contract import TRADES as TRADES_CHANNEL
from producers.registry import SOURCES, configured
from ravencore import kafka, service
from ravencore.codec import Codec
from ravencore.config import Settings, load
from ravencore.errors import Unavailable
from ravencore.records import Demand, ServiceStatus
from ravencore.topics import BOOKS, GROUP_BARS, GROUP_SINK, TOPICS, TRADES
from ravenctl import control, feeds, mart, readback, summary
from ravenctl.cluster import DEMO, pointed_at, told_by
from ravenctl.collected import Collected
from ravenctl.demands import Wanted, feeds_of
from ravenctl.demo_plan import USER, Plan, services
from ravenctl.demo_view import Scene, View
from ravenctl.drain import Offsets, Place, Reader, behind, wait_until_drained
from ravenctl.local.progress import ConsoleReporter
from ravenctl.local.stack import Stack
from ravenctl.local.state import Endpoints
from ravenctl.outputs import TOPICS as OUTPUT_TOPICS
from ravenctl.outputs import Outputs
from ravenctl.shell import CommandFailed, show
from ravenctl.simulated import Simulator, Stats
from ravenctl.statusview import StatusFeed, fresh
from simulator.server.settings import OTHER_ROUTE
from sinks.stores.lake import Lake
from sinks.stores.timescale_facts import FACTS

BEGUN = {".lock", "logs", "run"}
"""What a stack makes before its spec.json."""
START_S = 300.0
SUBSCRIBE_S = 120.0
STATS_EVERY_S = 0.5
READ_S = 0.05
"""How long of each tenth of a second what comes is counted: there may be more than can be read beside all else."""
CONNECT_S = 5.0
NO_COUNTS = {"issued": 0, "delivered": 0}
ENGINE = Reader("engine", GROUP_BARS, (TRADES,))
SINKS = (
    Reader("sink-influx", GROUP_SINK + "influx", (TRADES, BOOKS)),
    Reader("sink-timescale", GROUP_SINK + "timescale", tuple(FACTS)),
    Reader("sink-lake", GROUP_SINK + "lake", tuple(Lake.topics)),
)


def run(plan: Plan, console: Console) -> bool:
    """Show Raven at work; whether all promises held. Raises RavenError when it cannot be shown."""
    if plan.source == "live":
        _check_way_out(plan, load())
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


def _check_way_out(plan: Plan, settings: Settings) -> None:
    """Raises Unavailable when an exchange cannot be reached from here, before anything is started."""
    if urllib.request.getproxies():
        return  # the collector goes through the proxy; it will say what it finds
    for venue in plan.venues:
        url = urllib.parse.urlsplit(getattr(settings.venues, venue).rest_url)
        try:
            socket.create_connection((url.hostname or "", url.port or 443), CONNECT_S).close()
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


class _Demo:
    """One demo on a stack that runs."""

    def __init__(self, plan: Plan, stack: Stack, console: Console) -> None:
        self._plan, self._stack, self._console = plan, stack, console
        self._settings = pointed_at(load(), told_by(_endpoints(stack)))
        self._codec: Codec = service.codec(self._settings)
        self._simulator = _simulator(stack) if plan.source != "live" else None
        self._began = time.monotonic()
        self._scene = Scene(plan.title)
        self._counters = Lives()
        self._asked = 0.0
        self._wants: list[Wanted] = []
        self._sent: dict[feeds.Name, Mapping[str, feeds.Sent]] = {}
        self._counts: dict[feeds.Name, tuple[int, int]] = {}
        self._sources_there = configured(self._settings.venues)

    def run(self) -> bool:
        """Demand, watch, drain, read back, tell; whether all promises held."""
        kafka.ensure_topics(self._settings.kafka)
        self._feed = StatusFeed(self._settings.kafka, self._codec)
        self._outputs = Outputs(self._settings.kafka, self._codec)
        self._collected = Collected(self._settings.kafka, self._codec)
        self._offsets = Offsets(self._settings.kafka, [topic.name for topic in TOPICS])
        self._outputs.start()
        try:
            with View(self._console) as self._view:
                seconds, stuck = self._play()
                self._scene.left = {}
                self._tell("reading back what Kafka and the stores hold")
                found = self._read_back(seconds, stuck)
                if self._plan.keep:
                    self._apply(*self._polled())
        finally:
            self._outputs.stop()
            self._feed.close()
            self._collected.close()
        return self._conclude(found)

    # Playing

    def _play(self) -> tuple[float, str | None]:
        """Seconds from the first frame until all has arrived, and what is stuck if something is."""
        self._wants = list(self._wanted())
        self._scene.feeds = [feeds.Name(SOURCES[s].venue, c) for s in self._sources() for c in SOURCES[s].channels]
        self._apply(*self._wants)
        began = self._await_first()
        self._await_end(began)
        try:
            self._withdraw(self._wants if self._simulator is None else self._polled())
            wait_until_drained(self._left, self._draining, self._explain)
            if self._simulator is not None and not self._plan.keep:
                # As long as anybody is subscribed, an exchange may say again how things stand.
                self._withdraw(self._wants)
                wait_until_drained(self._left, self._draining, self._explain)
        except CommandFailed as error:
            return time.monotonic() - began, str(error)
        return time.monotonic() - began, None

    def _wanted(self) -> Iterator[Wanted]:
        """One for each source: of the symbols that its venue trades, or of its whole market."""
        stats = self._stats()
        for name in self._sources():
            source = SOURCES[name]
            symbols = tuple(stats["venues"][source.venue]["symbols"]) if stats else self._plan.symbols
            yield Wanted(USER, symbols if source.scope == "symbol" else (ALL,), (name,))

    def _sources(self) -> list[str]:
        """Those of the plan that there is anything for."""
        stats = self._scene.simulator or self._stats()
        if stats is None:
            return self._plan.sources
        served = {name for venue in stats["venues"].values() for name in venue["sources"]}
        return [name for name in self._plan.sources if name in served]

    def _polled(self) -> list[Wanted]:
        return [want for want in self._wants if isinstance(SOURCES[want.venues[0]], Poll)]

    def _apply(self, *wants: Wanted) -> None:
        control.apply(self._settings.kafka, self._codec, {one.demand_id: one for one in self._demands(wants)})

    def _demands(self, wants: Iterable[Wanted]) -> list[Demand]:
        now_us = time.time_ns() // 1000
        return [demand for want in wants for demand in want.demands(self._settings.routing, now_us)]

    def _await_first(self) -> float:
        """When the first frame was on its way; raises CommandFailed when none comes."""
        deadline = time.monotonic() + SUBSCRIBE_S
        symbols = dict.fromkeys(symbol for want in self._wants for symbol in want.symbols if symbol != ALL)
        while time.monotonic() < deadline:
            self._tell("subscribing to " + (", ".join(symbols) or "all that there is"))
            refused = [reason for progress in self._starting() for reason in progress.refused]
            if refused:
                raise CommandFailed("; ".join(refused))
            stats = self._scene.simulator
            if stats["state"] != "waiting" if stats else self._counters.total["frames"]:
                return time.monotonic()
        told = "; ".join(dict.fromkeys(reason for progress in self._starting() for reason in progress.missing))
        raise CommandFailed(f"no frame within {SUBSCRIBE_S:.0f} s: {told}; logs: {self._stack.home / 'logs'}")

    def _starting(self) -> list[control.Progress]:
        statuses = self._fresh()
        return [
            control.starting(self._demands([want]), statuses, self._settings.routing, strict=True)
            for want in self._wants
        ]

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

    def _withdraw(self, wants: Iterable[Wanted]) -> None:
        """What goes on after the end, polls and real exchanges, is ended, so that what was sent stands still."""
        demands = self._demands(wants)
        ended = feeds_of(demands, self._settings.routing)
        control.apply(self._settings.kafka, self._codec, dict.fromkeys(demand.demand_id for demand in demands))
        wait_until_drained(
            lambda: {"subscriptions": len(control.stopping(ended, self._fresh()))}, self._draining, self._explain
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

    def _behind(self, reader: Reader, ends: Mapping[Place, int]) -> int:
        return behind(reader.topics, ends, self._offsets.committed(reader.group), self._outputs.last)

    def _unread(self, ends: Mapping[Place, int]) -> int:
        """What the demo's own consumer has not read of the derived topics."""
        reached = self._outputs.reached
        return sum(max(end - reached.get(place, 0), 0) for place, end in ends.items() if place[0] in OUTPUT_TOPICS)

    def _not_in_kafka(self) -> int:
        """What was sent and is neither in its topic nor in a Gap, and trades that REST may still tell.

        Garbage that is no dead letter yet counts, too.
        """
        stats = self._stats()
        if stats is None:
            return 0
        self._collected.catch_up(self._offsets.ends())
        letters, rows = sum(self._letters().values()), self._rows(stats)
        unfilled = sum(row.open for row in rows if row.name.channel == TRADES_CHANNEL)
        garbage = int(max(stats["injected"]["garbage"] - letters, 0))
        return sum(row.missing for row in rows) + unfilled + garbage

    def _rows(self, stats: Stats | None) -> list[feeds.Row]:
        """Each feed as it was sent, against what has been read from Kafka."""
        killed = self._restarts().get("collector", 0) > 0
        rows = []
        for name in self._scene.feeds:
            there, ledger = self._collected.feeds.get(name, {}), self._collected.ledger(name, killed=killed)
            if stats is None:
                rows.append(feeds.seen(name, there, ledger))
                continue
            counts = stats["venues"][name.venue]["channels"].get(name.channel, NO_COUNTS)
            sent = self._sent_of(name, (counts["issued"], counts["delivered"]))
            rows.append(feeds.compare(name, sent, there, ledger, self._kept_books(name)))
        return rows

    def _sent_of(self, name: feeds.Name, counts: tuple[int, int]) -> Mapping[str, feeds.Sent]:
        """What was sent of a feed, asked for again when it has become more: a new connection brings snapshots."""
        assert self._simulator is not None
        if self._counts.get(name) != counts:
            self._counts[name] = counts
            self._sent[name] = self._of_interest(name, self._simulator.sent(name))
        return self._sent[name]

    def _kept_books(self, name: feeds.Name) -> dict[str, feeds.Digests]:
        """The exchange's own books of the symbols of a feed whose books are kept from differences."""
        source = self._sources_there[feeds.source_of(name)]
        if name.channel != BOOKS_CHANNEL or not isinstance(source, HasBooks):
            return {}
        assert self._simulator is not None
        demanded = [symbol for want in self._wants if want.venues == (source.name,) for symbol in want.symbols]
        kept = [symbol for symbol in demanded if source.sequencer(symbol) is not None]
        told = {symbol: self._simulator.book(name.venue, symbol) for symbol in kept}
        # A made market keeps every book that it tells of.
        return told if self._plan.source == "recording" else {symbol: one or {} for symbol, one in told.items()}

    def _of_interest(self, name: feeds.Name, sent: Mapping[str, feeds.Sent]) -> Mapping[str, feeds.Sent]:
        """Symbols that are collected: those demanded, those that are polled, or all of a market."""
        source = SOURCES[feeds.source_of(name)]
        wanted = {symbol for want in self._wants if want.venues == (source.name,) for symbol in want.symbols}
        if isinstance(source, Poll):
            wanted = {symbol for symbol, one in sent.items() if one.delivered}
        return sent if ALL in wanted else {symbol: one for symbol, one in sent.items() if symbol in wanted}

    def _letters(self) -> Counter[str]:
        """Dead letters of frames, by venue."""
        found: Counter[str] = Counter()
        for (connection, _), count in self._collected.letters.items():
            if connection:
                first = urllib.parse.urlsplit(connection).path.strip("/").partition("/")[0]
                found[first.removesuffix(OTHER_ROUTE)] += count
        return found

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
        stats, collected = self._stats(), self._collected
        collected.catch_up(self._offsets.ends())
        in_kafka = readback.outputs(settings, codec)
        rows = mart.records(self._settings.mart)
        questdb = self._questdb()
        p50, p99 = (self._outputs.latency_ms(share) for share in (0.5, 0.99))
        by_channel = Counter[str]()
        for name, count in collected.counts.items():
            by_channel[name.channel] += count
        letters = Counter[str]()
        for (_, reason), count in collected.letters.items():
            letters[reason] += count
        return summary.Findings(
            source=stats,
            feeds=self._rows(stats),
            counters=self._counters.total,
            kafka=collected.trades,
            influx=questdb.trades(),
            gap_ranges=readback.gap_ranges(collected.missing),
            gaps=summary.by_venue((gap.venue, gap.missing or 0) for gap in collected.missing),
            gaps_by_cause=summary.by_cause(gap.cause for gap in collected.missing),
            repaired=summary.by_market((f"{gap.venue}:{gap.symbol}", gap.repaired) for gap in collected.filled),
            repaired_by_cause=summary.by_cause(gap.cause for gap in collected.filled),
            repeated=self._simulator.repeated_trades() if self._simulator is not None else 0,
            dead_letters=letters,
            dead_letter=collected.letter,
            dead_letters_by_venue=self._letters(),
            bars={name: len(there) for name, there in in_kafka.series.items()},
            mart=mart.counts(rows),
            mismatches=mart.mismatches(in_kafka.series, rows),
            out_of_turn=in_kafka.out_of_turn,
            digest=in_kafka.digest,
            books_in_kafka=by_channel["books"],
            books_in_influx=questdb.books(),
            in_kafka=by_channel,
            lake=readback.lake_rows(Path(self._settings.lake.uri)),
            unreadable=collected.unreadable,
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
        show(self._console, summary.show(found, kept, self._console.width))
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
        self._collected.advance(READ_S)
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
        self._scene.counts = self._collected.counts
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

    def _stats(self) -> Stats | None:
        return self._simulator.stats() if self._simulator is not None else None

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


def _simulator(stack: Stack) -> Simulator:
    announced = json.loads((stack.home / "run" / "simulator.json").read_text())
    return Simulator(str(announced["RAVEN_SIMULATOR_URL"]), stack.log_path("simulator"))
