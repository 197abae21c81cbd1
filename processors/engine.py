"""The process that makes bars: a Faust app whose one agent hands whole batches to one lane per partition.

Faust joins the group, fetches and seeks; it tracks and commits nothing. Lanes (`processors.worker`) apply what has
arrived and commit it in transactions (`processors.transactions`), partitions side by side.

Crash-only: what the engine cannot handle ends the process with exit code 1, and whoever started it starts it again.
"""

import asyncio
import functools
import logging
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import KafkaException, Message, TopicPartition

from processors import faust_transport
from processors.contract import StateMismatch
from processors.derivations import DERIVATIONS
from processors.faust_transport import Place
from processors.intake import Fetched
from processors.transactions import SERVICE, Broken, Partition, Shop
from processors.worker import Lane
from ravencore import kafka, service
from ravencore.config import Settings
from ravencore.demands import Control, unreadable
from ravencore.errors import RavenError, Unavailable
from ravencore.graph import Standing
from ravencore.records import ServiceState
from ravencore.status import Reporter, now_us
from ravencore.topics import GROUP_BARS
from ravencore.writer import Writer

log = logging.getLogger("raven.engine")
T = TypeVar("T")

LANE_RECORDS = 20_000
"""Most records that wait in all lanes together; Faust's buffers hold `faust_transport.BUFFER_RECORDS` more."""
COUNTERS = (
    "records",
    *(name for one in DERIVATIONS.values() for name in one.counters),
    *("dead_letters", "transactions"),
)
REPORT_S = 1.0
PROBE_S = 3.0
TROUBLE_S = 5.0
"""How long after a trouble the engine calls itself DEGRADED."""
STOP_S = 8.0
FAILED_STOP_S = 2.0
PLAIN = (RavenError, StateMismatch)
"""Errors that say all in one sentence; of others the traceback is logged."""


class Expelled(RavenError):
    """Raised when the group has another member in this worker's slot."""


class Stalled(RavenError):
    """Raised when the committed offset stands still while there is lag: a new process does better."""


class Engine:
    """The worker process; `run` returns its exit code."""

    def __init__(self, settings: Settings) -> None:
        self.waiting = 0
        """Records that wait in all lanes together."""
        self._settings, self._codec = settings, service.codec(settings)
        self._writer = Writer(self._codec)
        self._group = kafka.consumer(settings.kafka, GROUP_BARS)
        self._producer = kafka.producer(settings.kafka)
        self._reporter = Reporter(SERVICE, settings, self._codec, self._producer, now_us())
        self._reporter.counters.update(dict.fromkeys(COUNTERS, 0))
        self._threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="partition")
        self._control: Control | None = None
        self._app: Any = None
        self._shops: dict[str, Shop] = {}
        """By topic."""
        self._lanes: dict[Place, Lane] = {}
        self._assigned = False
        self._informed = asyncio.Event()
        """Demands were read to the end that they had at the start."""
        self._room = asyncio.Event()
        self._ending = asyncio.Event()
        self._failure: BaseException | None = None
        self._trouble_at: float | None = None
        self._trouble = ""
        self._commit_ms: list[float] = []
        self._rated = (0, time.monotonic())
        self._moved_at = time.monotonic()
        self._positions: dict[Place, tuple[int, float]] = {}

    async def run(self) -> int:
        """Work until SIGTERM, SIGINT or a Shutdown (0), or until something failed (1)."""
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._ending.set)
        reports = asyncio.create_task(self._report_forever())
        with tempfile.TemporaryDirectory(prefix=f"{GROUP_BARS}-") as folder:
            await self._until_ending(self._wait_for_broker())
            if not self._ending.is_set():
                await self._serve(Path(folder))
        reports.cancel()
        await self._last_report()
        return service.EXIT_FAILURE if self._failure else 0

    def fail(self, error: BaseException) -> None:
        """End the process with exit code 1, because of this."""
        if self._failure is None:
            self._failure = error
            self._reporter.error(_sentence(error), now_us())
            log.error("%s", _sentence(error), exc_info=None if isinstance(error, PLAIN) else error)
        self._ending.set()

    async def in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Do blocking work in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    def took(self, records: int) -> None:
        """Records no longer wait in a lane."""
        self.waiting -= records
        self._room.set()

    def committed(self, counts: Counter[str], seconds: float) -> None:
        """Count what a transaction held."""
        self._reporter.counters.update(counts)
        self._commit_ms.append(seconds * 1000)

    def trouble(self, error: Broken | Unavailable) -> None:
        """Note that something is away; the lane keeps trying."""
        self._trouble_at = time.monotonic()
        self._reporter.error(str(error), now_us())
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.warning("%s", error)

    async def owns(self, topic: str, number: int) -> bool:
        """Whether the broker says that this very member of the group has the partition."""
        return await self.in_thread(self._owns, (topic, number), self._app.consumer.member_id())

    # Demands, told in the thread that reads them

    def on_demands(self, standing: Standing, made: bool) -> None:
        """Lanes may begin; they look at the newest demands by themselves."""
        self._loop.call_soon_threadsafe(self._informed.set)

    def on_unreadable(self, message: Message, why: str) -> None:
        """Say so; the collector keeps the record."""
        self._reporter.error(unreadable(why), now_us())

    def on_shutdown(self, user: str) -> None:
        """End as on SIGTERM."""
        self._loop.call_soon_threadsafe(self._ending.set)

    # Start and end

    async def _wait_for_broker(self) -> None:
        while True:
            try:
                await self.in_thread(kafka.ensure_topics, self._settings.kafka)
                control = self._control or Control(self._settings.kafka, self._codec, self._reporter.service, self)
                self._control = control
                for one in DERIVATIONS.values():
                    numbers = await self.in_thread(kafka.partitions, self._group, one.topic)
                    self._shops[one.topic] = Shop(
                        one, self._settings, self._codec, self._writer, control, self._group, len(numbers)
                    )
                break
            except Unavailable as error:
                self.trouble(error)
                await asyncio.sleep(REPORT_S)
        await self._informed.wait()

    async def _serve(self, folder: Path) -> None:
        app = self._app = faust_transport.build(self._settings, self._shops.keys(), folder)
        self._connect(app)
        app.finalize()
        try:
            await self._until_ending(app.start())
            await self._ending.wait()
        except Exception as error:
            self.fail(error)
        await self._close_lanes()
        try:
            await asyncio.wait_for(app.stop(), FAILED_STOP_S if self._failure else STOP_S)
        except Exception:
            log.warning("Faust did not stop in time", exc_info=True)

    def _connect(self, app: Any) -> None:
        async def agent(stream: Any) -> None:
            # Faust acknowledges an event whose agent raised and goes on: the process must end instead.
            try:
                async for batch in stream:
                    await self._accept(batch)
            except Exception as error:
                self.fail(error)
                raise

        for name, shop in self._shops.items():
            topic = app.topic(name, key_serializer="raw", value_serializer="raw", value_type=None, acks=False)
            app.agent(topic, name=shop.derivation.agent)(agent)
        app.on_partitions_assigned.connect(self._on_assigned)
        app.on_partitions_revoked.connect(self._on_revoked)
        app.on_rebalance_complete.connect(self._on_rebalance_complete)

    async def _until_ending(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        ending = asyncio.ensure_future(self._ending.wait())
        await asyncio.wait([task, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if task.done():
            task.result()
        else:
            task.cancel()

    # Batches and partitions

    async def _accept(self, batch: Sequence[Fetched]) -> None:
        place = batch[0].topic, batch[0].partition
        lane = self._lanes.get(place)
        while self.waiting >= LANE_RECORDS:
            self._room.clear()
            await self._room.wait()
        # A batch from before a rebalance comes again: Faust seeks to the committed offset once all lanes are settled.
        if lane is None or lane is not self._lanes.get(place) or not lane.settled.is_set():
            return
        rewind = lane.put(batch)
        if rewind is not None:
            log.warning("%s-%d: offsets %d to %d have not come, reading again", *place, rewind, batch[0].offset)
            await self._app.consumer.rewind(place, rewind)

    async def _on_assigned(self, app: Any, assigned: set[Any], **_: Any) -> None:
        await self._close_lanes()
        self._positions.clear()
        for tp in sorted(assigned):
            self._lanes[tp.topic, tp.partition] = Lane(self, functools.partial(self._partition, tp.topic, tp.partition))
        self._assigned, self._moved_at = True, time.monotonic()

    def _partition(self, topic: str, number: int) -> Partition:
        return Partition(self._shops[topic], number)

    async def _on_revoked(self, app: Any, revoked: set[Any], **_: Any) -> None:
        was_assigned, self._assigned, self._moved_at = self._assigned, False, time.monotonic()
        await self._close_lanes()
        slot = self._settings.service.instance
        if slot and was_assigned and not app.consumer.member_id():
            self.fail(Expelled(f"the group gave up on this worker, or another process runs as {slot}"))
            # Returning would join again, and take the slot away from whoever has it now.
            await asyncio.Event().wait()

    async def _on_rebalance_complete(self, app: Any, **_: Any) -> None:
        """Faust seeks to the committed offsets when this returns: by then no older transaction is open."""
        for lane in list(self._lanes.values()):
            await lane.settled.wait()

    async def _close_lanes(self) -> None:
        lanes, self._lanes = list(self._lanes.values()), {}
        await asyncio.gather(*(lane.close() for lane in lanes))

    # Status

    async def _report_forever(self) -> None:
        try:
            while True:
                began = time.monotonic()
                await self._probe()
                self._reporter.state = self._state()
                self._gauges()
                self._reporter.report(now_us())
                self._watch()
                await asyncio.sleep(max(0.0, began + REPORT_S - time.monotonic()))
        except Exception as error:  # a task has no caller to raise to
            self.fail(error)

    async def _probe(self) -> None:
        """Ask the broker for the ends of the partitions: for the lag, and to learn whether it is there at all."""
        try:
            ends = await self.in_thread(self._ends)
        except KafkaException as error:
            self.trouble(Unavailable(f"Kafka at {self._settings.kafka.bootstrap}: {error.args[0].str()}"))
            return
        at = {place: await self._at(place, lane) for place, lane in self._lanes.items()}
        lags = {place: max(0, end - at[place]) for place, end in ends.items() if place in at}
        self._reporter.lag = {_lag_name(place): lag for place, lag in lags.items()}

    async def _at(self, place: Place, lane: Lane) -> int:
        """Where a partition stands: the committed offset, or past it where the log has only markers of transactions."""
        committed = lane.partition.committed_offset
        return max(committed, await self._app.consumer.read_up_to(place)) if lane.idle else committed

    def _ends(self) -> dict[Place, int]:
        places = list(self._lanes)
        if not places:
            self._group.list_topics(timeout=PROBE_S)
        return {place: self._group.get_watermark_offsets(TopicPartition(*place), PROBE_S)[1] for place in places}

    def _state(self) -> ServiceState:
        if self._trouble_at is not None and time.monotonic() - self._trouble_at < TROUBLE_S:
            return "DEGRADED"
        lanes = self._lanes.values()
        if not self._assigned or not all(lane.settled.is_set() for lane in lanes):
            return "STARTING"
        return "RUNNING" if all(lane.restored for lane in lanes) else "DEGRADED"

    def _gauges(self) -> None:
        now, count = time.monotonic(), self._reporter.counters["trades"]
        before, at = self._rated
        self._rated = count, now
        self._reporter.gauges["control_offset"] = float(self._control.offset if self._control else 0)
        self._reporter.gauges["trades_per_second"] = (count - before) / max(now - at, 1e-3)
        if self._commit_ms:
            self._reporter.gauges["commit_ms"] = sum(self._commit_ms) / len(self._commit_ms)
            self._commit_ms.clear()

    def _watch(self) -> None:
        """End the process when it gets nowhere although the broker is there."""
        now = time.monotonic()
        if self._app is not None and self._app.crashed:
            self.fail(self._app.crash_reason or Stalled("Faust crashed"))
        if self._reporter.state == "DEGRADED":
            self._positions.clear()
            self._moved_at = now
            return
        limit = self._settings.engine.stall_s
        if not self._assigned and now - self._moved_at > limit:
            self.fail(Stalled(f"no partitions assigned for {limit:.0f} s: starting anew"))
        for place, lane in self._lanes.items():
            at, since = self._positions.get(place, (-1, now))
            moved = lane.partition.committed_offset != at or not self._reporter.lag.get(_lag_name(place))
            self._positions[place] = (lane.partition.committed_offset, now if moved else since)
            if not moved and now - since > limit:
                self.fail(Stalled(f"{_lag_name(place)} has lag and stands at offset {at} for {limit:.0f} s"))

    async def _last_report(self) -> None:
        self._reporter.state = "FAILED" if self._failure else "STOPPED"
        self._reporter.report(now_us())
        if self._control:
            await self.in_thread(self._control.stop)
        await self.in_thread(self._producer.flush, PROBE_S)
        self._threads.shutdown(wait=False)
        self._group.close()

    def _owns(self, place: Place, member_id: str) -> bool:
        try:
            [found] = kafka.admin(self._settings.kafka).describe_consumer_groups([GROUP_BARS]).values()
            members = found.result(PROBE_S).members
        except (KafkaException, TimeoutError):
            return False
        wanted = TopicPartition(*place)
        return any(it.member_id == member_id and wanted in it.assignment.topic_partitions for it in members)


def _lag_name(place: Place) -> str:
    return f"{place[0]}-{place[1]}"


def _sentence(error: BaseException) -> str:
    return str(error) if isinstance(error, PLAIN) else f"{type(error).__name__}: {error}"
