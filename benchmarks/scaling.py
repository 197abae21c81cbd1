"""How the engine grows: how late bars are at a rate, what workers, symbols and state do to its speed, and its restart.

Workers are `python -m processors` in processes of their own, as they are in earnest. All symbols have a full state from
the start.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psutil
from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs do not say what it exports
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from rich.progress import Progress
from rich.table import Table

from benchmarks.machine import cpu_seconds
from benchmarks.market import PARTITIONS, START_US, VENUE, Market, encoded, partition_of, publish, symbols
from processors.derivations import BARS as BY_TRADES
from processors.derivations import DERIVATIONS
from processors.migrations import LAYOUT
from processors.symbol import Symbol
from processors.transactions import RECEIVED_HEADER, state_key
from ravencore import kafka
from ravencore.codec import Codec
from ravencore.columns import of_trades
from ravencore.config import BarsSettings, KafkaSettings, Settings, VpinSettings
from ravencore.records import ServiceStatus, State
from ravencore.topics import BARS, GROUP_BARS, STATE_BARS, STATUS, TRADES

MADE = ("time", "tib", "trb", "vib")
"""Kinds of bars that default profiles make."""
WINDOWS = {"small": 1, "default": 250, "large": 2000}
"""`percentile_window` of VPIN: most of a snapshot are the values it holds."""
VPIN_WINDOWS = 70
"""Buckets that the other windows of VPIN hold."""
RATES = ((1_000, 20), (5_000, 20), (20_000, 20), (5_000, 500))
"""Trades a second, and of how many symbols."""
SEEDED = 25
"""A few more trades than a VPIN bucket takes."""
WARM_S = 3.0
DRAIN_S = 2.0
LOOK_S = 0.01
RESTARTS = (signal.SIGTERM, signal.SIGKILL)
Result = dict[str, Any]


class Case(NamedTuple):
    """What is measured with the same number of trades."""

    told: str
    symbols: int = 20
    workers: int = 1
    one_core: bool = False
    state: str = "default"
    apart_us: int = 1000

    @property
    def first_id(self) -> int:
        """Of the trades that come after those that are in the state from the start."""
        return SEEDED * (WINDOWS[self.state] + VPIN_WINDOWS) + 1

    def market(self) -> Market:
        """Of its symbols."""
        return Market(1, symbols(self.symbols), self.first_id)


CASES = (
    Case("kept to one core", one_core=True),
    Case("1 worker"),
    Case("2 workers", workers=2),
    Case("1 symbol", symbols=1),
    Case("500 symbols", symbols=500),
    Case("500 symbols, each as busy as 20", symbols=500, apart_us=40),
    Case("500 symbols, 2 workers", symbols=500, workers=2),
    Case("small state", state="small"),
    Case("large state", state="large"),
    Case("500 symbols, small state", symbols=500, state="small"),
    Case("500 symbols, large state", symbols=500, state="large"),
)


class Mark(NamedTuple):
    """How far the engine was at a moment."""

    seconds: float
    committed: int
    workers_cpu: float
    broker_cpu: float


class Crew:
    """Workers, and what they have done with `raven.trades`."""

    def __init__(self, settings: KafkaSettings, processes: Sequence[psutil.Popen]) -> None:
        self.settings, self.processes = settings, processes
        self._group = kafka.consumer(settings, GROUP_BARS)

    def committed(self) -> int:
        """Trades that the engine has committed, all partitions together."""
        found = self._group.committed([TopicPartition(TRADES, number) for number in range(PARTITIONS)], 10)
        return sum(max(0, place.offset) for place in found)

    def mark(self, broker: psutil.Process) -> Mark:
        """This moment."""
        return Mark(time.monotonic(), self.committed(), sum(map(cpu_seconds, self.processes)), cpu_seconds(broker))

    def counters(self, records: int) -> Counter[str]:
        """What the workers say they have done, when they have reported so many records."""
        total: Counter[str] = Counter()

        def told() -> bool:
            total.clear()
            for one in statuses(self.settings, self.processes):
                total.update(one.counters)
            return total["records"] >= records

        retried(told)
        return total

    def close(self) -> None:
        """End the workers as `ravenctl local down` does."""
        self._group.close()
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in psutil.wait_procs(self.processes, 20)[1]:
            process.kill()


@contextmanager
def crew(settings: KafkaSettings, case: Case) -> Iterator[Crew]:
    """Workers that have just begun, each with its share of the partitions."""
    forget(settings, TRADES, STATE_BARS)
    seed_state(settings, case)
    window = {"RAVEN_BARS__VPIN__PERCENTILE_WINDOW": str(WINDOWS[case.state])}
    processes = [started([sys.executable, "-m", "processors"], settings, window) for _ in range(case.workers)]
    if case.one_core:
        processes[0].cpu_affinity([0])
    found = Crew(settings, processes)
    try:
        retried(lambda: shared_out(settings, processes))
        yield found
    finally:
        found.close()


def started(command: list[str], settings: KafkaSettings, env: Mapping[str, str], **extra: Any) -> psutil.Popen:
    """A process that finds the broker."""
    environment = {**os.environ, "RAVEN_KAFKA__BOOTSTRAP": settings.bootstrap, **env}
    return psutil.Popen(command, env=environment, stderr=subprocess.DEVNULL, **extra)


def shared_out(settings: KafkaSettings, processes: Sequence[psutil.Popen]) -> bool:
    """Whether all partitions have a worker, and every worker has some of the trades."""
    lags = [one.lag for one in statuses(settings, processes)]
    idle = any(not any(place.startswith(TRADES) for place in lag) for lag in lags)
    return len(lags) == len(processes) and not idle and sum(map(len, lags)) == PARTITIONS * len(DERIVATIONS)


def statuses(settings: KafkaSettings, processes: Sequence[psutil.Popen]) -> list[ServiceStatus]:
    """What those of the workers that are RUNNING say."""
    codec, pids = Codec(), {process.pid for process in processes}
    found = [codec.decode_as(ServiceStatus, value) for value in kafka.compacted(settings, STATUS, "bench").values()]
    return [one for one in found if one.pid in pids and one.state == "RUNNING"]


def forget(settings: KafkaSettings, *topics: str) -> None:
    """Make these topics anew, and let the engine start from the first trade."""
    client = kafka.admin(settings)
    kafka.ensure_topics(settings)
    for gone in client.delete_topics(list(topics)).values():
        gone.result(10)
    missing = set(topics)

    def made() -> bool:
        missing.difference_update(kafka.ensure_topics(settings))
        return not missing

    def forgotten() -> bool:
        try:
            client.delete_consumer_groups([GROUP_BARS])[GROUP_BARS].result(10)
        except KafkaException as error:
            return "GROUP_ID_NOT_FOUND" in str(error)
        return True

    retried(made)
    retried(forgotten)


def retried(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Ask until the answer is yes."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:.0f} s: {true}")
        time.sleep(LOOK_S)


def seed_state(settings: KafkaSettings, case: Case) -> None:
    """Give every symbol the state of one that has had SEEDED trades for each value that VPIN holds."""
    own, codec = Settings(kafka=settings, bars=bars_of(case)), Codec()
    symbol = Symbol(VENUE, "SEEDUSDT", own.bars)
    market = Market(2, ["SEEDUSDT"])
    trades = of_trades([market.trade(START_US - 1) for _ in range(case.first_id - 1)])
    symbol.apply_columns(trades, range(case.first_id - 1))
    producer, payload = kafka.producer(settings), symbol.snapshot()
    for key in (f"{VENUE}:{name}" for name in symbols(case.symbols)):
        made_with = BY_TRADES.parameters(own, key.encode())
        state = State(
            input_topic=TRADES,
            input_key=key,
            input_partitions=PARTITIONS,
            offset=0,
            layout=LAYOUT,
            parameters=made_with,
            payload=payload,
        )
        place = partition_of(key.encode())
        producer.produce(STATE_BARS, codec.encode(state), state_key(TRADES, key.encode()), place)
    producer.flush()


def bars_of(case: Case) -> BarsSettings:
    """What the workers of a case are set to."""
    return BarsSettings(vpin=VpinSettings(percentile_window=WINDOWS[case.state]))


class StateLog:
    """What is written to `raven.state.bars` from now on; nothing is compacted away meanwhile."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        change = ConfigEntry("min.compaction.lag.ms", "86400000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, STATE_BARS, incremental_configs=[change])
        admin = kafka.admin(settings)
        admin.incremental_alter_configs([resource])[resource].result(10)
        client = kafka.reader(settings, "bench")
        self._from = [kafka.watermarks(client, STATE_BARS, number)[1] for number in range(PARTITIONS)]
        client.close()

    def sizes(self) -> list[int]:
        """Bytes of each snapshot, key and value as they are before Kafka compresses them."""
        found: list[int] = []

        def note(message: Any) -> None:
            if message.offset() >= self._from[message.partition()]:
                found.append(len(message.key()) + len(message.value()))

        kafka.read_to_end(self._settings, STATE_BARS, "bench", note)
        return found


# Throughput


def growth(settings: KafkaSettings, broker: psutil.Process, trades: int, runs: int, bars: Progress) -> list[Result]:
    """Every case so many times, taking turns."""
    task = bars.add_task("growth", total=runs * len(CASES))
    found = []
    for _ in range(runs):
        for case in CASES:
            bars.update(task, description=f"growth: {case.told}")
            found.append({**case._asdict(), **replay(settings, broker, case, trades)})
            bars.advance(task)
    return found


def replay(settings: KafkaSettings, broker: psutil.Process, case: Case, trades: int) -> Result:
    """A tape that waits for the workers, from their first commit to their last."""
    tape = list(encoded(Codec(), case.market().tape(trades, case.apart_us)))
    with crew(settings, case) as workers:
        log = StateLog(settings)
        began, ended = raced(workers, broker, tape)
        did = workers.counters(trades)
        sizes = log.sizes()
    counted = ended.committed - began.committed
    return {
        "trades": counted,
        "seconds": ended.seconds - began.seconds,
        "cpu_us": (ended.workers_cpu - began.workers_cpu) / counted * 1e6,
        "broker_us": (ended.broker_cpu - began.broker_cpu) / counted * 1e6,
        "outputs": (did["bars"] + did["vpin"]) / trades,
        "transactions": did["transactions"],
        "state_bytes": sum(sizes) / trades,
        "snapshot_bytes": statistics.mean(sizes),
    }


def raced(workers: Crew, broker: psutil.Process, tape: Sequence[tuple[bytes, bytes]]) -> tuple[Mark, Mark]:
    """The workers' first commit of the tape and their last; they are suspended while it is published."""
    with suspended(workers.processes):
        for _ in publish(workers.settings, tape):
            pass
    retried(lambda: workers.committed() > 0)
    began = workers.mark(broker)
    retried(lambda: workers.committed() == len(tape), 300)
    return began, workers.mark(broker)


@contextmanager
def suspended(processes: Sequence[psutil.Popen]) -> Iterator[None]:
    """Processes that do nothing meanwhile; the group bears with them for 20 s."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


# Latency


def latency(settings: KafkaSettings, broker: psutil.Process, seconds: float, bars: Progress) -> list[Result]:
    """How late bars are at each of the rates."""
    task = bars.add_task("latency", total=len(RATES))
    found = []
    for rate, count in RATES:
        bars.update(task, description=f"latency: {rate:,} trades/s of {count}")
        found.append({"rate": rate, "symbols": count, **late_bars(settings, broker, rate, count, seconds)})
        bars.advance(task)
    return found


def late_bars(settings: KafkaSettings, broker: psutil.Process, rate: int, count: int, seconds: float) -> Result:
    """Milliseconds from a closing trade's receipt to the arrival of its bar at a reader of committed records."""
    case = Case("latency", count)
    with crew(settings, case) as workers:
        log, reader = StateLog(settings), at_the_end(settings)
        sender = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.scaling_sender",
                settings.bootstrap,
                *map(str, (rate, seconds, count, case.first_id)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert sender.stdout is not None
        began_us, before = int(sender.stdout.readline()), workers.mark(broker)
        late = list(arrivals(reader, sender, began_us + round(WARM_S * 1e6)))
        after, sent = workers.mark(broker), json.loads(sender.stdout.readline())
        reader.close()
        sizes = log.sizes()
    handled = after.committed - before.committed
    return {
        **sent,
        "unfinished": sent["trades"] - after.committed,
        "late_ms": late,
        "cpu_share": (after.workers_cpu - before.workers_cpu) / (after.seconds - before.seconds),
        "broker_share": (after.broker_cpu - before.broker_cpu) / (after.seconds - before.seconds),
        "state_bytes": sum(sizes) / handled,
    }


def at_the_end(settings: KafkaSettings) -> Consumer:
    """A consumer of all bars that come from now on."""
    client = kafka.consumer(settings, "bench-latency")
    client.assign([TopicPartition(BARS[kind], number, OFFSET_END) for kind in MADE for number in range(PARTITIONS)])
    client.consume(1, 1.0)
    return client


def arrivals(reader: Consumer, sender: subprocess.Popen[str], from_us: int) -> Iterator[float]:
    """How late each bar of a trade received since then is, in ms, until the sender has ended and a little longer."""
    deadline = None
    while deadline is None or time.monotonic() < deadline:
        if deadline is None and sender.poll() is not None:
            deadline = time.monotonic() + DRAIN_S
        for message in reader.consume(500, LOOK_S):
            received = int(dict(message.headers() or []).get(RECEIVED_HEADER) or 0)
            if received >= from_us:
                yield (time.time_ns() / 1000 - received) / 1000


# Restart


def restarts(settings: KafkaSettings, trades: int, runs: int, bars: Progress) -> list[Result]:
    """Seconds from the start of a worker's process to RUNNING with the state of 500 symbols, after each way to end."""
    case = Case("restart", symbols=500)
    with crew(settings, case) as workers:
        for _ in publish(settings, encoded(Codec(), case.market().tape(trades, case.apart_us))):
            pass
        retried(lambda: workers.committed() == trades, 300)
    log = state_log(settings)
    task = bars.add_task("restart", total=runs * len(RESTARTS))
    process, _ = restarted(settings)
    found = []
    for how in RESTARTS * runs:
        process.send_signal(how)
        process.wait(20)
        process, took = restarted(settings)
        found.append({"after": how.name, **log, **took})
        bars.advance(task)
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    return found


def restarted(settings: KafkaSettings) -> tuple[psutil.Popen, Result]:
    """A worker in a slot that is RUNNING, and how long that took it."""
    command = [sys.executable, "-m", "benchmarks.scaling_restart", str(time.time())]
    process = started(command, settings, {"RAVEN_SERVICE__INSTANCE": "bench-0"}, stdout=subprocess.PIPE, text=True)
    return process, json.loads(process.stdout.readline())


def state_log(settings: KafkaSettings) -> Result:
    """How much a worker has to read, and how much of it is the newest of each symbol."""
    live: dict[bytes, int] = {}
    sizes: list[int] = []

    def note(message: Any) -> None:
        sizes.append(len(message.key()) + len(message.value()))
        live[message.key()] = sizes[-1]

    kafka.read_to_end(settings, STATE_BARS, "bench", note)
    return {"snapshots": len(sizes), "bytes": sum(sizes), "symbols": len(live), "live_bytes": sum(live.values())}


# Tables


def growth_table(results: Sequence[Result]) -> Table:
    """Medians of the runs."""
    names = (
        "trades/s",
        "slowest",
        "fastest",
        "CPU µs",
        "broker µs",
        "outputs",
        "state B",
        "snapshot B",
        "transactions",
    )
    table = Table("", "symbols", "workers", *names)
    table.caption = "CPU, outputs and state per trade; bytes are before compression."
    for case in CASES:
        runs = [one for one in results if one["told"] == case.told]
        rates = [one["trades"] / one["seconds"] for one in runs]
        per_trade = [f"{median(runs, name):.{digits}f}" for name, digits in (("cpu_us", 1), ("broker_us", 1))]
        table.add_row(
            case.told,
            str(case.symbols),
            str(case.workers),
            *(f"{rate:,.0f}" for rate in (statistics.median(rates), min(rates), max(rates))),
            *per_trade,
            f"{median(runs, 'outputs'):.3f}",
            *(f"{median(runs, name):,.0f}" for name in ("state_bytes", "snapshot_bytes", "transactions")),
        )
    return table


def latency_table(results: Sequence[Result]) -> Table:
    """Percentiles in ms."""
    names = ("reached", "bars", "p50 ms", "p90 ms", "p99 ms", "max ms", "unfinished", "of a core", "broker", "state B")
    table = Table("trades/s", "symbols", *names)
    for one in results:
        cuts = statistics.quantiles(one["late_ms"], n=100)
        table.add_row(
            f"{one['rate']:,}",
            str(one["symbols"]),
            f"{one['trades'] / one['seconds']:,.0f}",
            f"{len(one['late_ms']):,}",
            *(f"{late:.0f}" for late in (cuts[49], cuts[89], cuts[98], max(one["late_ms"]))),
            f"{one['unfinished']:,}",
            f"{one['cpu_share']:.0%}",
            f"{one['broker_share']:.0%}",
            f"{one['state_bytes']:,.0f}",
        )
    return table


def restart_table(results: Sequence[Result]) -> Table:
    """Seconds, medians of the runs."""
    table = Table(
        "after", "to RUNNING s", "slowest", "process s", "topics s", "group s", "state s", "read", "of it live"
    )
    for how in RESTARTS:
        runs = [one for one in results if one["after"] == how.name]
        table.add_row(
            how.name,
            f"{median(runs, 'running'):.2f}",
            f"{max(one['running'] for one in runs):.2f}",
            *(f"{median(runs, name):.2f}" for name in ("process", "topics", "group", "state")),
            f"{runs[0]['snapshots']:,}: {runs[0]['bytes'] / 1e6:.1f} MB",
            f"{runs[0]['symbols']}: {runs[0]['live_bytes'] / 1e6:.1f} MB",
        )
    return table


def median(runs: Sequence[Result], name: str) -> float:
    """Median over runs of a number."""
    return float(statistics.median(run[name] for run in runs))
