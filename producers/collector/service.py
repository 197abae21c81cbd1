"""The collector service: demands to runners, runners to Kafka, and a status every second."""

import asyncio
import functools
import logging
import random
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Any

import aiohttp
from confluent_kafka import Message

from producers.actions import Habits
from producers.collector.ends import Taker
from producers.collector.gate import Gate
from producers.collector.outlet import COUNTERS, SERVICE, BadRecord, Outlet
from producers.collector.polls import PollRunner
from producers.collector.readback import last_seen
from producers.collector.runner import Runner
from producers.collector.streams import StreamRunner
from producers.contract import Poll, Source, Stream
from producers.registry import SOURCES, configured
from producers.routing import names_of, wanted
from producers.wire import Wire
from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import Settings, interval_us
from ravencore.demands import Control, unreadable
from ravencore.errors import RavenError, Unavailable
from ravencore.graph import Standing
from ravencore.records import Subscription
from ravencore.retry import backoff
from ravencore.service import codec as make_codec
from ravencore.status import Reporter, now_us

log = logging.getLogger("raven.collector")

REPORT_S = 1.0
TICK_S = 0.25
RETRY_FIRST_S, RETRY_CAP_S = 0.25, 30.0
REST_TIMEOUT_S = 10.0
LAST_FLUSH_S = 60.0
NAMES = frozenset(
    name for source in SOURCES.values() for channel in source.channels for name in names_of(source, channel)
)
"""What demands may call the sources."""
RUNNER_COUNTERS = ("frames", "trades_received", "duplicates", "reconnects")


class Collector:
    """Everything that one process collects, until `stop` is set; it is made on the event loop that it runs on."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self.stop = asyncio.Event()
        self._settings, self._codec = settings, codec
        self._loop = asyncio.get_running_loop()
        self._outlet = Outlet(settings, codec)
        self._reporter = Reporter(SERVICE, settings, Wire(codec), self._outlet.producer, now_us())
        self._gates: dict[str, Gate] = {}
        self._runners: dict[str, Runner] = {}
        self._unserved: set[tuple[str, str]] = set()
        self._told: set[str] = set()
        self._frames, self._frames_at = 0, time.monotonic()
        self._ready = False
        self._standing = Standing()
        self._waits = self._revives = False
        """Whether `_reconcile` waits for its turn on the loop, and whether a demand was written since the last one."""

    async def run(self) -> None:
        """Collect until `stop` is set, then publish all that was received; raises ProducerFailed."""
        timeout = aiohttp.ClientTimeout(total=REST_TIMEOUT_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as http, asyncio.TaskGroup() as tasks:
                self._open(tasks, http)
                sending = tasks.create_task(self._outlet.run())
                control = Control(self._settings.kafka, self._codec, self._reporter.service, self)
                reporting = tasks.create_task(self._keep_reporting(control))
                ticking = tasks.create_task(self._keep_ticking())
                await self.stop.wait()
                await asyncio.to_thread(control.stop)
                await asyncio.gather(*(runner.close() for runner in self._runners.values()))
                await self._deliver()
                reporting.cancel()
                ticking.cancel()
                sending.cancel()
        except BaseExceptionGroup as failures:
            known, unknown = failures.split(RavenError)
            if known is None or unknown is not None:
                raise
            raise RavenError("; ".join(str(failure) for failure in known.exceptions)) from None

    def _open(self, tasks: asyncio.TaskGroup, http: aiohttp.ClientSession) -> None:
        gates = self._gates
        for source in configured(self._settings.venues).values():
            venue = source.venue
            if venue not in gates:
                gates[venue] = Gate(venue, source.limits, getattr(self._settings.venues, venue), http)
            self._runners[source.name] = self._runner(source, gates[venue], tasks)

    def _runner(self, source: Source, gate: Gate, tasks: asyncio.TaskGroup) -> Runner:
        return make_runner(
            source,
            gate,
            self._outlet,
            settings=self._settings,
            look_back=functools.partial(last_seen, self._settings, self._codec, source),
            tell=self._tell,
            tasks=tasks,
        )

    async def _deliver(self) -> None:
        try:
            await asyncio.wait_for(self._outlet.delivered(), LAST_FLUSH_S)
            self._reporter.state = "STOPPED"
            self._report()
            await asyncio.wait_for(self._outlet.delivered(), LAST_FLUSH_S)
        except TimeoutError:
            raise Unavailable(f"{self._outlet.buffered} records could not be written: Kafka is away") from None

    # Demand: what the reader of `raven.control` tells in its own thread (`ravencore.demands.Listener`)

    def on_demands(self, standing: Standing, made: bool) -> None:
        """Demands are now these."""
        self._loop.call_soon_threadsafe(self._hear, standing, made)

    def on_unreadable(self, message: Message, why: str) -> None:
        """A record of it is neither a demand nor a request to shut down."""
        self._loop.call_soon_threadsafe(self._keep_unreadable, message, why)

    def on_shutdown(self, user: str) -> None:
        """Somebody asks collectors to end."""
        self._loop.call_soon_threadsafe(self.stop.set)

    # And what becomes of it on the loop

    def _hear(self, standing: Standing, made: bool) -> None:
        self._standing = standing
        self._revives |= made
        if not self._waits:
            # Whatever else waits for its turn on the loop now comes first.
            self._waits = True
            self._loop.call_soon(self._reconcile)

    def _keep_unreadable(self, message: Message, why: str) -> None:
        self._outlet.put("", BadRecord(message, why))
        self._tell(unreadable(why))

    def _reconcile(self) -> None:
        revives, self._revives, self._waits = self._revives, False, False
        self._ready = True
        demands = self._standing.demands
        by_source = wanted(demands, SOURCES.values(), self._settings.routing)
        for name, runner in self._runners.items():
            runner.demand(by_source.get(name, {}))
            if revives:
                runner.revive()
        self._unserved = {(name, demand.symbol) for demand in demands for name in demand.venues if name not in NAMES}
        for name, symbol in self._unserved:
            self._tell(f"{symbol} is demanded of {name}, which this collector does not know")

    # Status

    def _tell(self, text: str) -> None:
        log.warning("%s", text)
        self._reporter.error(text, now_us())

    async def _keep_reporting(self, control: Control) -> None:
        while True:
            self._note_offset(control)
            self._report()
            await asyncio.sleep(REPORT_S)

    async def _keep_ticking(self) -> None:
        while self._settings.collector.clocks:
            self._outlet.tick(now_us())
            await asyncio.sleep(TICK_S)

    def _note_offset(self, control: Control) -> None:
        """How far `raven.control` has been read, once all up to there has been seen to."""
        # In this order: the reader moves its offset last.
        offset = control.offset
        if self._standing is control.standing and not self._waits:
            self._reporter.gauges["control_offset"] = float(offset)

    def _report(self) -> None:
        self._outlet.check()
        runners, reporter = self._runners.values(), self._reporter
        refusals = {text for runner in runners for text in runner.refusals()}
        for text in refusals - self._told:
            self._tell(text)
        self._told = refusals
        away = [self._outlet.broker_error, *(text for runner in runners for text in runner.away)]
        away += [text for gate in self._gates.values() for text in gate.broken]
        if self._ready and reporter.state != "STOPPED":
            reporter.state = "DEGRADED" if any(away) else "RUNNING"
        if self._outlet.broker_error:
            reporter.error(self._outlet.broker_error, now_us())
        self._count(reporter)
        reporter.report(now_us(), () if reporter.state == "STOPPED" else tuple(self._subscriptions()))

    def _count(self, reporter: Reporter) -> None:
        # Not `update`, which adds; and a count of zero is shown as well.
        for name in COUNTERS:
            reporter.counters[name] = self._outlet.counters[name]
        counted = [runner.counters for runner in self._runners.values()]
        for name in RUNNER_COUNTERS:
            reporter.counters[name] = sum(counters.get(name, 0) for counters in counted)
        frames, now = reporter.counters["frames"], time.monotonic()
        held = sum(runner.held for runner in self._runners.values())
        reporter.gauges["frames_per_second"] = (frames - self._frames) / max(now - self._frames_at, 1e-9)
        reporter.gauges["repairs"] = float(sum(runner.asking_for for runner in self._runners.values()))
        reporter.gauges["buffered"] = float(self._outlet.buffered + held)
        self._frames, self._frames_at = frames, now

    def _subscriptions(self) -> Iterator[Subscription]:
        for runner in self._runners.values():
            yield from map(self._outlet.with_last_gap, runner.subscriptions())
        for venue, symbol in sorted(self._unserved):
            yield Subscription(venue=venue, channel="trades", symbol=symbol, state="REFUSED")


def make_runner(source: Source, gate: Gate, taker: Taker, *, settings: Settings, **common: Any) -> Runner:
    """The runner of a stream or of a poll; `common` is what Runner takes."""
    if isinstance(source, Poll):
        return PollRunner(source, gate, taker, **common)
    assert isinstance(source, Stream), f"{source.name} is neither a Stream nor a Poll"
    chosen = settings.collector
    return StreamRunner(
        source,
        gate,
        taker,
        habits=habits_of(settings),
        life_s=chosen.connection_life_s,
        failures_allowed=chosen.failures_allowed,
        **common,
    )


def habits_of(settings: Settings) -> Habits:
    """What the settings say of holes, books and Clocks."""
    chosen = settings.collector
    return Habits(
        reorder_seconds=chosen.reorder_ms / 1000,
        repair_seconds=chosen.repair_ms / 1000,
        book_interval_us=chosen.book_interval_ms * 1000,
        clock_interval_us=shortest_us(settings.bars.time_intervals) if chosen.clocks else None,
    )


def shortest_us(intervals: Iterable[str]) -> int | None:
    """The shortest of intervals like `500ms`, `1s`, `15m`, `1h` in microseconds; raises ConfigError."""
    return min(map(interval_us, intervals), default=None)


async def _collect(settings: Settings) -> None:
    collector = Collector(settings, make_codec(settings))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, collector.stop.set)
    await collector.run()


def collect(settings: Settings) -> None:
    """Run the collector until a signal; waits for a broker that is not up yet."""
    delays = backoff(RETRY_FIRST_S, RETRY_CAP_S, random.Random())
    while True:
        try:
            kafka.ensure_topics(settings.kafka)
            break
        except Unavailable as error:
            log.warning("%s", error)
            time.sleep(next(delays))
    asyncio.run(_collect(settings))
