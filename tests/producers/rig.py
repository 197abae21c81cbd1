"""A broker, a simulated exchange and collectors as processes of their own, and what came of them in Kafka."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from ravencore import kafka, topics
from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.demands import SHUTDOWN
from ravencore.errors import Unreadable
from ravencore.records import Demand, Gap, Record, ServiceStatus, Shutdown, Trade
from ravencore.status import now_us

PATIENCE_S = 90.0
R = TypeVar("R", bound=Record)
CODEC = Codec()
PROGRAM = ("-m", "producers")


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
    """The first true value of a condition that is asked again and again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} s: {what}")


class Simulator:
    """`python -m simulator` with these options."""

    def __init__(self, folder: Path, *options: str) -> None:
        ready = folder / f"ready-{os.urandom(4).hex()}"
        environment = {**os.environ, "RAVEN_READY_FILE": str(ready)}
        self.process = subprocess.Popen([sys.executable, "-m", "simulator", *options], env=environment)
        until(lambda: ready.exists() or self.process.poll() is not None, "the simulator is up")
        self.environment: dict[str, str] = json.loads(ready.read_text())

    def stats(self, venue: str = "BINANCE_SPOT") -> Any:
        """Of a venue, with how the playback as a whole stands."""
        with urllib.request.urlopen(self.environment["RAVEN_SIMULATOR_URL"] + "/sim/stats") as answer:
            told = json.load(answer)
        return told | told["venues"][venue]

    def played(self) -> None:
        until(lambda: self.stats()["state"] == "done", "the simulator has played all")


class Rig:
    """Everything that a test starts; it stops all at its end and withdraws its demands."""

    def __init__(self, bootstrap: str) -> None:
        self.settings = KafkaSettings(bootstrap=bootstrap)
        self._folder = tempfile.TemporaryDirectory(prefix="raven-rig-")
        self.folder = Path(self._folder.name)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._demanded: set[str] = set()
        kafka.ensure_topics(self.settings)
        self._producer = kafka.producer(self.settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._folder.cleanup()
        for name in list(self._demanded):
            self._write(name, None)

    def simulator(self, *options: str) -> Simulator:
        simulator = Simulator(self.folder, *options)
        self._processes.append(simulator.process)
        return simulator

    def collector(self, environment: Mapping[str, str], program: Sequence[str] = PROGRAM, **more: str) -> "Collector":
        name = f"collector-{os.urandom(4).hex()}"
        collector = Collector(self, name, program, {**environment, **more})
        self._processes.append(collector.process)
        return collector

    def demand(self, symbol: str, *venues: str, outputs: Sequence[str] = ()) -> None:
        """Demands of a symbol for other outputs are others."""
        demand = Demand(
            demand_id=_name(symbol, outputs),
            user="rig",
            venues=venues,
            symbol=symbol,
            outputs=tuple(outputs),
            created_time=now_us(),
        )
        self._write(demand.demand_id, CODEC.encode(demand))

    def withdraw(self, symbol: str, outputs: Sequence[str] = ()) -> None:
        self._write(_name(symbol, outputs), None)

    def shut_down(self, service: str) -> None:
        asked = Shutdown(service=service, user="rig", requested_time=now_us())
        self.produce(topics.CONTROL, f"{SHUTDOWN}{service}".encode(), CODEC.encode(asked))

    @property
    def written(self) -> int:
        """The offset after the newest record of `raven.control`."""
        ends = kafka.read_to_end(self.settings, topics.CONTROL, "rig", lambda _: None)
        return ends[0]

    def _write(self, name: str, value: bytes | None) -> None:
        self.produce(topics.CONTROL, name.encode(), value)
        (self._demanded.discard if value is None else self._demanded.add)(name)

    def produce(self, topic: str, key: bytes, value: bytes | None) -> None:
        self._producer.produce(topic, value, key)
        assert self._producer.flush(30) == 0

    def records(self, topic: str, cls: type[R]) -> list[R]:
        """All records of a topic; Clocks, tombstones and what a test made unreadable left out."""
        found: list[R] = []

        def keep(message: Any) -> None:
            with contextlib.suppress(Unreadable):
                found.append(CODEC.decode_as(cls, message.value()))

        kafka.read_to_end(self.settings, topic, "rig", keep)
        return found

    def trades(self, symbol: str) -> list[int]:
        """Ids in the order of the log."""
        trades = self.records(topics.TRADES, Trade)
        return [trade.sequence or 0 for trade in trades if trade.symbol == symbol]

    def gaps(self, symbol: str, channel: str = "trades") -> list[Gap]:
        """The newest entry of each."""
        gaps = [gap for gap in self.records(topics.GAPS, Gap) if (gap.symbol, gap.channel) == (symbol, channel)]
        return list({gap.gap_id: gap for gap in gaps}.values())

    def holes(self, symbol: str) -> Counter[tuple[str, int | None]]:
        return Counter((gap.cause, gap.missing) for gap in self.gaps(symbol))


def _name(symbol: str, outputs: Sequence[str]) -> str:
    return "-".join(("rig", symbol, *outputs))


class Collector:
    """`python -m producers` as an instance of its own name."""

    def __init__(self, rig: Rig, instance: str, program: Sequence[str], environment: Mapping[str, str]) -> None:
        self._rig, self.instance = rig, instance
        more = {
            "RAVEN_KAFKA__BOOTSTRAP": rig.settings.bootstrap,
            "RAVEN_SERVICE__INSTANCE": instance,
            "RAVEN_COLLECTOR__CLOCKS": "false",
            "RAVEN_ROUTING__VENUES": '["BINANCE_SPOT"]',
            **environment,
        }
        self.process = subprocess.Popen([sys.executable, *program], env={**os.environ, **more})

    def status(self) -> ServiceStatus | None:
        """Its newest."""
        value = kafka.compacted(self._rig.settings, topics.STATUS, "rig").get(self.instance.encode())
        return CODEC.decode_as(ServiceStatus, value) if value is not None else None

    def states(self) -> dict[str, str]:
        """`trades BTCUSDT` and so on to the feed's state."""
        status = self.status()
        return {f"{feed.channel} {feed.symbol}": feed.state for feed in status.subscriptions} if status else {}

    def counters(self) -> dict[str, int]:
        status = self.status()
        return dict(status.counters) if status else {}

    def running(self) -> None:
        def is_running() -> bool:
            status = self.status()
            return status is not None and status.state == "RUNNING"

        until(is_running, "the collector runs")

    def flows(self, *symbols: str) -> None:
        wanted = {f"{channel} {symbol}": "FLOWING" for channel in ("trades", "books") for symbol in symbols}
        until(lambda: wanted.items() <= self.states().items(), f"{', '.join(symbols)} flow")

    def heard(self, frames: int) -> None:
        """Wait until it has reported this many frames."""
        until(lambda: self.counters().get("frames", 0) >= frames, f"{frames} frames are heard")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> ServiceStatus:
        """SIGTERM; the last status."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0
        status = self.status()
        assert status is not None
        return status
