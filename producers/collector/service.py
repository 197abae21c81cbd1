"""The collector service: demands to runners, runners to Kafka, and a status every second."""

import asyncio
import functools
import logging
import random
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import aiohttp
from confluent_kafka import Message

from producers.actions import Habits
from producers.collector.demands import Demands
from producers.collector.ends import Taker
from producers.collector.gate import Gate
from producers.collector.outlet import COUNTERS, SERVICE, BadRecord, Outlet
from producers.collector.polls import PollRunner
from producers.collector.readback import last_seen
from producers.collector.runner import Runner
from producers.collector.streams import StreamRunner
from producers.contract import Poll, Source, Stream
from producers.registry import SOURCES, configured
from producers.routing import wanted
from producers.wire import Wire
from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import Settings, interval_us
from ravencore.errors import RavenError, Unavailable, Unreadable
from ravencore.records import Demand, Subscription
from ravencore.retry import backoff
from ravencore.service import codec as make_codec
from ravencore.status import Reporter, now_us

log = logging.getLogger("raven.collector")

REPORT_S = 1.0
TICK_S = 0.25
RETRY_FIRST_S, RETRY_CAP_S = 0.25, 30.0
REST_TIMEOUT_S = 10.0
LAST_FLUSH_S = 60.0
RUNNER_COUNTERS = ("frames", "trades_received", "duplicates", "reconnects")


class Collector:
    """Everything that one process collects."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self._settings, self._codec = settings, codec
        self._outlet = Outlet(settings, codec)
        self._reporter = Reporter(SERVICE, settings, Wire(codec), self._outlet.producer, now_us())
        self._gates: dict[str, Gate] = {}
        self._runners: dict[str, Runner] = {}
        self._demands: dict[bytes, Demand] = {}
        self._unserved: set[tuple[str, str]] = set()
        self._told: set[str] = set()
        self._frames, self._frames_at = 0, time.monotonic()
        self._ready = False
        self._stale = self._revives = False
        """Whether demands have come that nothing was done about, and one that is no withdrawal."""

    async def run(self, stop: asyncio.Event) -> None:
        """Collect until `stop` is set, then publish all that was received; raises ProducerFailed."""
        timeout = aiohttp.ClientTimeout(total=REST_TIMEOUT_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as http, asyncio.TaskGroup() as tasks:
                self._open(tasks, http)
                sending = tasks.create_task(self._outlet.run())
                demands = Demands(self._settings, self._on_demands, self._on_end)
                reporting = tasks.create_task(self._keep_reporting())
                ticking = tasks.create_task(self._keep_ticking())
                await stop.wait()
                await asyncio.to_thread(demands.stop)
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

    # Demand

    def _on_demands(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._note(message)
        self._revives |= any(message.value() is not None for message in messages)
        if self._ready and not self._stale:
            # Whatever else waits for its turn on the loop now comes first.
            self._stale = True
            asyncio.get_running_loop().call_soon(self._reconcile)

    def _note(self, message: Message) -> None:
        key, value = message.key() or b"", message.value()
        self._demands.pop(key, None)
        if value is not None:
            try:
                self._demands[key] = self._codec.decode_as(Demand, value)
            except (Unreadable, Unavailable) as error:
                self._outlet.put("", BadRecord(message, str(error)))
                self._tell(f"a demand cannot be read: {error}")

    def _on_end(self) -> None:
        self._ready = True
        self._reporter.state = "RUNNING"
        self._reconcile()

    def _reconcile(self) -> None:
        revives, self._revives, self._stale = self._revives, False, False
        demands = self._demands.values()
        by_source = wanted(demands, SOURCES.values(), self._settings.routing)
        for name, runner in self._runners.items():
            runner.demand(set(by_source.get(name, {})))
            if revives:
                runner.revive()
        known = {name for source in SOURCES.values() for name in (source.name, source.venue)}
        self._unserved = {(name, demand.symbol) for demand in demands for name in demand.venues if name not in known}
        for name, symbol in self._unserved:
            self._tell(f"{symbol} is demanded of {name}, which this collector does not know")

    # Status

    def _tell(self, text: str) -> None:
        log.warning("%s", text)
        self._reporter.error(text, now_us())

    async def _keep_reporting(self) -> None:
        while True:
            self._report()
            await asyncio.sleep(REPORT_S)

    async def _keep_ticking(self) -> None:
        while self._settings.collector.clocks:
            self._outlet.tick(now_us())
            await asyncio.sleep(TICK_S)

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
            yield from runner.subscriptions()
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
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Collector(settings, make_codec(settings)).run(stop)


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
