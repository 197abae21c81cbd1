"""The processes of a chaos run: exchanges full of faults and a collector, from the first demand to its last flush."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from producers.contract import ALL, Poll
from producers.registry import SOURCES
from ravencore import kafka, topics
from ravencore.codec import Codec
from ravencore.config import KafkaSettings, RoutingSettings
from ravencore.records import Demand, Gap, ServiceStatus
from ravenctl import control, reading
from ravenctl.demands import Wanted
from ravenctl.statusview import StatusFeed
from simulator.registry import DIALECTS
from simulator.synthetic import listing_of
from tests.chaos import gather
from tests.chaos.evidence import Evidence

USER = "chaos"
INSTANCE = "collector-chaos"
START_S, SUBSCRIBE_S, STOP_S = 120.0, 120.0, 60.0
QUIET_S = 3.0
"""For so long nothing more may come of the collector before it is stopped."""
SETTLE_S = 45.0
LOOK_EVERY_S = 1.0
LEAST_LIFE_S = 45.0
WAITING = ("buffered", "repairs")
"""Gauges of what the collector holds back, and of what it is asking for over REST."""
OWN_STATUS = 2
"""So much is always on its way: the collector's own status."""
COUNTED = ("trades_published", "klines_published")
"""Counters of what may still be repaired. Other feeds bring nothing more, and are soon taken for silent."""


class ChaosFailed(Exception):
    """Raised when a run cannot be made, whatever the verdict would be."""


@dataclass(frozen=True)
class Plan:
    """What to run."""

    seed: int = 0
    duration_s: float = 600.0
    symbols: tuple[str, ...] = ("BTCUSDT", "ETHUSDT", "BTCUSD")
    faults: str = "chaos"

    @property
    def life_s(self) -> float:
        """Exchanges end a connection at this age, instead of after a day."""
        return max(self.duration_s / 4, LEAST_LIFE_S)

    def kept_books(self, venue: str) -> list[str]:
        """Of venues that also print books: every second symbol is kept from differences, the others are as printed."""
        return self.spelled(venue)[::2]

    def spelled(self, venue: str) -> list[str]:
        """The symbols as a venue writes them."""
        spell = DIALECTS[venue]().spell
        listings = [listing_of(symbol) for symbol in self.symbols]
        return [symbol for one in listings if (symbol := spell(one.base, one.quote))]

    def simulator(self) -> list[str]:
        """The command line of the exchanges."""
        options = {
            "--venues": "all",
            "--symbols": ",".join(self.symbols),
            "--feeds": ",".join(SOURCES),
            "--fault": self.faults,
            "--life": f"{self.life_s:g}",
            "--speed": "1",
            "--duration": f"{self.duration_s:g}s",
            "--seed": str(self.seed),
        }
        return ["-m", "simulator", "--synthetic", *(word for option in options.items() for word in option)]

    def settings(self) -> dict[str, str]:
        """Of the collector, beside those that the simulator hands out."""
        futures = self.spelled("BINANCE_FUTURES")
        return {
            "RAVEN_COLLECTOR__CLOCKS": "false",
            "RAVEN_SERVICE__INSTANCE": INSTANCE,
            "RAVEN_VENUES__BINANCE_SPOT__MAINTAINED_BOOKS": json.dumps(self.kept_books("BINANCE_SPOT")),
            "RAVEN_VENUES__BINANCE_FUTURES__MAINTAINED_BOOKS": json.dumps(self.kept_books("BINANCE_FUTURES")),
            "RAVEN_VENUES__BINANCE_FUTURES__OPEN_INTEREST_SYMBOLS": json.dumps(futures),
        }


@dataclass
class Sight:
    """What can be seen of a run while it goes on."""

    doing: str = ""
    left_s: float | None = None
    faults: Counter[str] = field(default_factory=Counter)
    gaps: Counter[str] = field(default_factory=Counter)
    status: ServiceStatus | None = None
    stats: Mapping[str, Any] = field(default_factory=dict)


Show = Callable[[Sight], None]


def run(plan: Plan, bootstrap: str, folder: Path, show: Show) -> Evidence:
    """Play it all and gather what came of it; raises ChaosFailed. Logs are written into the folder."""
    settings = KafkaSettings(bootstrap=bootstrap)
    kafka.ensure_topics(settings)
    with ExitStack() as ending:
        exchanges, environment = ending.enter_context(_exchanges(plan, folder))
        more = {**environment, **plan.settings(), "RAVEN_KAFKA__BOOTSTRAP": bootstrap}
        collector = ending.enter_context(_process(("-m", "producers"), more, folder / "collector.log"))
        running = _Running(exchanges, collector, gather.Pages(environment["RAVEN_SIMULATOR_URL"]))
        market = _Market(plan, settings, running, show)
        ending.callback(market.close)
        began_us, ended_us = market.play()
        market.tell("reading the topics")
        found = gather.evidence(settings, market.codec, running.pages, began_us, ended_us)
        found.troubles = market.troubles
        market.tell("asking REST for what is missing")
        found.served = gather.still_served(found, gather.rest_urls(environment))
        return found


@contextmanager
def _process(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """A program of this Python, ended at the end of the block."""
    with log.open("ab") as writing:
        process = subprocess.Popen(
            [sys.executable, *arguments], env={**os.environ, **environment}, stdout=writing, stderr=writing
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def _exchanges(plan: Plan, folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", dict[str, str]]]:
    """The simulator, and the settings that point a collector at it."""
    ready, log = folder / "simulator.json", folder / "simulator.log"
    with _process(plan.simulator(), {"RAVEN_READY_FILE": str(ready)}, log) as process:
        deadline = time.monotonic() + START_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ChaosFailed(f"the simulator does not start: see {log}")
            time.sleep(0.05)
        yield process, json.loads(ready.read_text())


class _Running(NamedTuple):
    """The processes of a run, and the pages of the simulator."""

    exchanges: "subprocess.Popen[bytes]"
    collector: "subprocess.Popen[bytes]"
    pages: gather.Pages


class _Market:
    """A run that has been started."""

    def __init__(self, plan: Plan, settings: KafkaSettings, running: _Running, show: Show) -> None:
        self.codec = Codec()
        self.troubles: list[str] = []
        self._plan, self._settings, self._running, self._show = plan, settings, running, show
        self._sight = Sight()
        self._gap_causes: dict[str, str] = {}
        self._began = time.monotonic()
        self._published: dict[str, int] = {}
        self._published_at = 0.0
        self._statuses = StatusFeed(settings, self.codec)
        self._gaps = reading.reader(settings)
        places = [
            TopicPartition(topics.GAPS, one, OFFSET_BEGINNING) for one in kafka.partitions(self._gaps, topics.GAPS)
        ]
        self._gaps.assign(places)
        self._looked = 0.0

    def close(self) -> None:
        """Let go of the broker."""
        self._statuses.close()
        self._gaps.close()

    def play(self) -> tuple[int, int]:
        """Demand all there is, wait until it is over, and stop the collector; when the market began and ended."""
        wants = list(self._wants())
        self._apply(wants)
        self._until(lambda: self._sight.stats["state"] != "waiting", "subscribing", SUBSCRIBE_S)
        began_us = time.time_ns() // 1000
        self._until(self._is_over, "playing", 2 * self._plan.duration_s + SETTLE_S)
        ended_us = time.time_ns() // 1000
        self._withdraw([want for want in wants if isinstance(SOURCES[want.venues[0]], Poll)])
        self._settle()
        self._stop()
        return began_us, ended_us

    def _wants(self) -> Iterator[Wanted]:
        """One for each source: of the plan's symbols, or of its whole market."""
        for source in SOURCES.values():
            symbols = tuple(self._plan.spelled(source.venue)) if source.scope == "symbol" else (ALL,)
            yield Wanted(USER, symbols, (source.name,))

    def _apply(self, wants: Sequence[Wanted]) -> None:
        control.apply(self._settings, self.codec, {one.demand_id: one for one in _demands(wants)})

    def _withdraw(self, wants: Sequence[Wanted]) -> None:
        """Polls go on after the end: they are ended, so that what was sent stands still."""
        control.apply(self._settings, self.codec, dict.fromkeys(one.demand_id for one in _demands(wants)))
        polled = {(SOURCES[name].venue, channel) for want in wants for name in want.venues
                  for channel in SOURCES[name].channels}  # fmt: skip

        def are_ended() -> bool:
            status = self._sight.status
            return status is not None and not any((one.venue, one.channel) in polled for one in status.subscriptions)

        self._until(are_ended, "ending the polls", SETTLE_S)

    def _is_over(self) -> bool:
        self._sight.left_s = max(self._plan.duration_s - (time.monotonic() - self._began), 0.0)
        return bool(self._sight.stats["state"] == "done")

    def _settle(self) -> None:
        """Wait until the collector holds nothing back, repairs nothing, and publishes nothing more; not for ever."""
        self._sight.left_s = None
        with suppress(ChaosFailed):
            self._until(self._is_quiet, "waiting until all is quiet", SETTLE_S)

    def _is_quiet(self) -> bool:
        status = self._sight.status
        assert status is not None
        published = {name: status.counters.get(name, 0) for name in COUNTED}
        if published != self._published:
            self._published, self._published_at = published, time.monotonic()
        waiting = sum(status.gauges.get(name, 0.0) for name in WAITING)
        return waiting <= OWN_STATUS and time.monotonic() - self._published_at > QUIET_S

    def _stop(self) -> None:
        self.tell("stopping the collector")
        collector = self._running.collector
        collector.send_signal(signal.SIGTERM)
        try:
            code = collector.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.troubles.append(f"it did not stop within {STOP_S:.0f} s of SIGTERM")
            collector.kill()
            collector.wait()
        else:
            if code:
                self.troubles.append(f"it ended with exit code {code}")

    def _until(self, condition: Callable[[], bool], doing: str, seconds: float) -> None:
        self._began = time.monotonic()
        while time.monotonic() - self._began < seconds:
            self._check()
            self.tell(doing)
            if condition():
                return
        raise ChaosFailed(f"not within {seconds:.0f} s: {doing}")

    def tell(self, doing: str) -> None:
        """Look at everything, and show it."""
        self._sight.doing = doing
        self._statuses.poll(0.2)
        self._sight.status = self._statuses.latest.get(INSTANCE)
        for message in self._gaps.consume(1000, 0):
            if message.error() is None and isinstance(value := message.value(), bytes):
                gap = self.codec.decode_as(Gap, value)
                self._gap_causes[gap.gap_id] = gap.cause
        if not self._sight.stats or time.monotonic() - self._looked > LOOK_EVERY_S:
            self._sight.stats = self._running.pages.stats()
            self._sight.faults = Counter(fault.kind for fault in self._running.pages.faults())
            self._sight.gaps = Counter(self._gap_causes.values())
            self._looked = time.monotonic()
        self._show(self._sight)

    def _check(self) -> None:
        """Raises ChaosFailed when a process has ended by itself."""
        for name, process in zip(("simulator", "collector"), self._running[:2], strict=True):
            if process.poll() is not None:
                raise ChaosFailed(f"the {name} ended by itself with exit code {process.returncode}: see {name}.log")


def _demands(wants: Sequence[Wanted]) -> list[Demand]:
    return [demand for want in wants for demand in want.demands(RoutingSettings(), 0)]
