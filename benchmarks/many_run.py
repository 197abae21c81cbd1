"""The runs of the many-symbols benchmark: a made venue, a bare loop, and a collector that is watched."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from confluent_kafka import OFFSET_END, Consumer, Message, TopicPartition
from rich.progress import Progress

from benchmarks.machine import cpu_seconds
from benchmarks.many_figures import Lags, Sample
from benchmarks.many_market import DIALECTS, Plan, name_of
from producers.contract import ALL
from ravencore import kafka, topics
from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.records import Demand, ServiceStatus, Trade
from ravencore.status import now_us
from ravenctl.local import state

PARTITIONS = 6
INSTANCE = "bench-many"
CODEC = Codec()
SAMPLE_S, READ_S = 1.0, 0.2
READ_RECORDS = 2000
UP_S, STOP_S = 120.0, 120.0
IN_TIME_MS, CATCH_UP_S = 500.0, 120.0
"""Many feeds that begin at once hold each other up: a run begins when that is over, or is not over for so long."""
KEPT = {"message.timestamp.type": "LogAppendTime", "segment.bytes": str(32 << 20), "retention.ms": "120000"}
"""Hours of books would fill a disk."""
BULKY = {topics.TRADES, topics.BOOKS, topics.QUOTES}


class Bare(NamedTuple):
    """What reading alone costs."""

    frames: int
    seconds: float
    cpu_seconds: float


@dataclasses.dataclass
class Watched:
    """What was seen of the collector."""

    samples: list[Sample] = dataclasses.field(default_factory=list)
    read: Lags = dataclasses.field(default_factory=Lags)
    """From the write of a trade's frame until the collector had it."""
    appended: Lags = dataclasses.field(default_factory=Lags)
    """From the write until the broker had the record."""
    fetched: Lags = dataclasses.field(default_factory=Lags)
    """The same of trades that came over REST."""
    buffered: list[float] = dataclasses.field(default_factory=list)
    status: ServiceStatus | None = None
    newest_ms: float = 0.0
    """Lag of the newest trade that came over a socket."""
    until_all_flow_s: float = 0.0
    until_caught_up_s: float = 0.0
    """After that, until trades were IN_TIME_MS again."""
    rss_at_flow: int = 0
    venue: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the venue says it did meanwhile."""
    venue_cpu_seconds: float = 0.0
    counters: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What the collector counted meanwhile."""
    load: Sequence[float] = ()


def make_topics(settings: KafkaSettings) -> None:
    """Raven's topics; the bulky ones say when the broker had a record, and keep it for minutes."""
    made = [
        dataclasses.replace(topic, settings={**topic.settings, **KEPT}) if topic.name in BULKY else topic
        for topic in topics.TOPICS
    ]
    kafka.ensure_topics(settings, made)


# Processes


@contextmanager
def venue(plan: Plan) -> Iterator[tuple[psutil.Process, int]]:
    """The venue as a process, and its port."""
    command = [sys.executable, "-m", "benchmarks.many_venue", as_json(plan)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield psutil.Process(process.pid), int(process.stdout.readline())
        finally:
            process.kill()


def as_json(plan: Plan) -> str:
    """As the processes take it."""
    return json.dumps(plan._asdict())


def sample(process: psutil.Process, began: float) -> Sample:
    """The process now; Linux tells in schedstat how long its first thread, the event loop's, waited for a core."""
    waited_ns = int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[1])
    return Sample(
        seconds=time.monotonic() - began,
        rss_bytes=process.memory_info().rss,
        cpu_seconds=cpu_seconds(process),
        waited_seconds=waited_ns / 1e9,
        open_files=process.num_fds(),
    )


@dataclasses.dataclass(frozen=True)
class Bench:
    """The runs, one after the other, against one venue and one broker."""

    plan: Plan
    settings: KafkaSettings
    minutes: float
    life_s: float
    bare_seconds: float
    venue: psutil.Process
    port: int
    cores: set[int]
    """Of what is measured."""
    log: Path
    """Where the collector's own words go."""
    bars: Progress

    def told(self, path: str) -> Any:
        """What the venue answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/bench/{path}") as answer:
            return json.load(answer)

    def bare(self) -> Bare:
        """The loop that reads and throws away."""
        command = [sys.executable, "-m", "benchmarks.many_bare", as_json(self.plan), f"ws://127.0.0.1:{self.port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            os.sched_setaffinity(process.pid, self.cores)
            try:
                assert process.stdout is not None
                process.stdout.readline()
                return self._cost(psutil.Process(process.pid))
            finally:
                process.kill()

    def _cost(self, process: psutil.Process) -> Bare:
        task = self.bars.add_task("a bare loop", total=round(self.bare_seconds))
        sent, cpu, began = self.told("stats")["sent"], cpu_seconds(process), time.monotonic()
        while (seconds := time.monotonic() - began) < self.bare_seconds:
            time.sleep(SAMPLE_S)
            self.bars.update(task, completed=round(seconds))
        self.bars.update(task, completed=round(self.bare_seconds))
        if not state.runs(process):
            raise SystemExit("the bare loop has ended by itself")
        return Bare(self.told("stats")["sent"] - sent, seconds, cpu_seconds(process) - cpu)

    def collector(self) -> Watched:
        """The collector, from its start to its end."""
        watched, reader = Watched(), self._reader()
        self._demand()
        with self.log.open("wb") as out, self._started(out) as process:
            os.sched_setaffinity(process.pid, self.cores)
            try:
                self._wait_for_all(watched, reader, process)
                self._catch_up(watched, reader)
                self._watch(watched, reader, process)
                process.send_signal(signal.SIGTERM)
                if process.wait(STOP_S):
                    raise SystemExit(f"the collector ended with {process.returncode}")
            except BaseException:
                sys.stderr.write(self.log.read_text(errors="replace")[-5000:])
                raise
            finally:
                process.kill()
                reader.close()
        return watched

    def _started(self, out: Any) -> "subprocess.Popen[bytes]":
        endpoint = f"RAVEN_VENUES__{self.plan.venue}__"
        environment = {
            **os.environ,
            "RAVEN_KAFKA__BOOTSTRAP": self.settings.bootstrap,
            "RAVEN_SERVICE__INSTANCE": INSTANCE,
            "RAVEN_COLLECTOR__CONNECTION_LIFE_S": str(self.life_s),
            f"{endpoint}WS_URL": f"ws://127.0.0.1:{self.port}",
            f"{endpoint}REST_URL": f"http://127.0.0.1:{self.port}",
            f"{endpoint}OTHER_WS_URLS": "[]",
            f"{endpoint}MAINTAINED_BOOKS": json.dumps([ALL] if self.plan.kept else []),
        }
        return subprocess.Popen([sys.executable, "-m", "producers"], env=environment, stdout=out, stderr=out)

    def _demand(self) -> None:
        producer = kafka.producer(self.settings)
        for rank in range(self.plan.symbols):
            name = name_of(rank)
            demand = Demand(demand_id=name, user="bench", venues=(self.plan.venue,), symbol=name, created_time=now_us())
            producer.produce(topics.CONTROL, CODEC.encode(demand), name.encode())
        producer.flush()

    def _reader(self) -> Consumer:
        reader = kafka.reader(self.settings, INSTANCE)
        places = [(topics.TRADES, number) for number in range(PARTITIONS)] + [(topics.STATUS, 0)]
        reader.assign([TopicPartition(*place, OFFSET_END) for place in places])
        return reader

    # What is read of Kafka

    def _read(self, watched: Watched, reader: Consumer, began: float | None) -> None:
        """Take in what is there; lags are noted once the run has begun."""
        for message in reader.consume(READ_RECORDS, READ_S):
            value = message.value()
            if message.error() is not None or value is None:
                continue
            if message.topic() == topics.STATUS:
                watched.status = CODEC.decode_as(ServiceStatus, value)
                if began is not None:
                    watched.buffered.append(watched.status.gauges["buffered"])
            else:
                note(watched, message, CODEC.decode_as(Trade, value), began)

    def _wait_for_all(self, watched: Watched, reader: Consumer, process: "subprocess.Popen[bytes]") -> None:
        """Until every feed has flowed; of kept books and single listings the venue's budget allows a few a second."""
        feeds = self.plan.symbols * len(DIALECTS[self.plan.venue].streams)
        task, began = self.bars.add_task("feeds that flow", total=feeds), time.monotonic()
        flowed: set[tuple[str, str]] = set()
        news_at = began
        while len(flowed) < feeds:
            self._read(watched, reader, None)
            known = len(flowed)
            if watched.status is not None:
                flowed |= {(one.channel, one.symbol) for one in watched.status.subscriptions if one.state == "FLOWING"}
            news_at = time.monotonic() if len(flowed) > known else news_at
            self.bars.update(task, completed=len(flowed))
            if process.poll() is not None or time.monotonic() > news_at + UP_S:
                raise SystemExit(f"only {len(flowed)} of {feeds} feeds flow; the collector: {process.poll()}")
        watched.until_all_flow_s = time.monotonic() - began
        watched.rss_at_flow = psutil.Process(process.pid).memory_info().rss

    def _catch_up(self, watched: Watched, reader: Consumer) -> None:
        began = time.monotonic()
        watched.newest_ms = IN_TIME_MS
        while watched.newest_ms >= IN_TIME_MS and time.monotonic() < began + CATCH_UP_S:
            self._read(watched, reader, None)
        watched.until_caught_up_s = time.monotonic() - began

    def _watch(self, watched: Watched, reader: Consumer, process: "subprocess.Popen[bytes]") -> None:
        """Look at the collector once a second while the venue disturbs it."""
        whole_s = self.minutes * 60
        task = self.bars.add_task(f"{self.plan.symbols} symbols, seconds", total=round(whole_s))
        seen, counted, before = psutil.Process(process.pid), counters(watched), self.told("stats")
        venue_cpu = cpu_seconds(self.venue)
        self.told("disturb")
        began = time.monotonic()
        while (now := time.monotonic()) < began + whole_s:
            if now >= began + len(watched.samples) * SAMPLE_S:
                watched.samples.append(sample(seen, began))
                self.bars.update(task, completed=round(now - began))
            self._read(watched, reader, began)
            if process.poll() is not None:
                raise SystemExit(f"the collector ended with {process.returncode}")
        watched.samples.append(sample(seen, began))
        self.bars.update(task, completed=round(whole_s))
        self.told("calm")
        watched.venue_cpu_seconds = cpu_seconds(self.venue) - venue_cpu
        watched.venue = since(before, self.told("stats"))
        watched.counters = since(counted, counters(watched))
        watched.load = os.getloadavg()


def counters(watched: Watched) -> Mapping[str, int]:
    """As the collector told them last."""
    return watched.status.counters if watched.status else {}


def since(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What was counted between two times; what is no count is as it was after."""
    return {name: told - before.get(name, 0) if isinstance(told, int) else told for name, told in after.items()}


def note(watched: Watched, message: Message, trade: Trade, began: float | None) -> None:
    """A trade's lags, once the run has begun; what came over REST has no number on a connection."""
    over_rest = trade.connection_sequence == 0
    appended_ms = message.timestamp()[1] - trade.event_time / 1000
    watched.newest_ms = watched.newest_ms if over_rest else appended_ms
    if began is None:
        return
    seconds = time.monotonic() - began
    (watched.fetched if over_rest else watched.appended).add(seconds, appended_ms)
    if not over_rest:
        watched.read.add(seconds, (trade.received_time - trade.event_time) / 1000)
