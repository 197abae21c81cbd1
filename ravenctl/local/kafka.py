"""One Kafka node: KRaft, broker and controller in one JVM, loopback only."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import uuid
from base64 import urlsafe_b64encode
from functools import partial
from pathlib import Path

from ravenctl.local.errors import StackError
from ravenctl.local.jars import java
from ravenctl.local.ports import LOOPBACK
from ravenctl.local.server import Launch
from ravenctl.local.startcache import start_cache

SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
log.dirs={data}

# Topics are created by `ravenctl setup` with their own partitions, never by a typing mistake.
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0

# A broker that was killed is let in again only when its last session is over; 9 s unless said.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500

# Small: two cores, half a gigabyte.
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=33554432
"""

FLAGS = ("-Xms256m", "-Xmx512m", "-XX:+UseG1GC")
LOGGING = """\
status=warn
appenders=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %p %m (%c{1})%n%throwable
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=info
logger.recovery.name=org.apache.kafka.storage.internals.log
logger.recovery.level=info
"""


def launch(home: Path, port: int, controller_port: int, jars: list[str]) -> Launch:
    """The broker on `port`, its data in `<home>/kafka/data`."""
    folder, cache = home / "kafka", start_cache("kafka", jars)
    run = [f"-Dlog4j2.configurationFile={folder}/log4j2.properties", "-cp", ":".join(jars)]
    return Launch(
        argv=[*java(*FLAGS, *cache.use_or_make()), *run, "kafka.Kafka", str(folder / "server.properties")],
        cwd=home,
        prepare=partial(_prepare, folder, port, controller_port, [*java(*FLAGS, *cache.use()), *run]),
        is_ready=partial(answers, port),
        stop_seconds=30,
        ended=cache.keep,
    )


def _prepare(folder: Path, port: int, controller_port: int, run: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "log4j2.properties").write_text(LOGGING)
    data = folder / "data"
    if not data.exists():
        _format(folder, _settings(folder / "data.new", port, controller_port), run)
    elif not (data / "meta.properties").exists():
        raise StackError(f"{data} is not a Kafka folder (no meta.properties): move it away, then `up` again")
    (folder / "server.properties").write_text(_settings(data, port, controller_port))


def _settings(data: Path, port: int, controller_port: int) -> str:
    return SETTINGS.format(host=LOOPBACK, port=port, controller=controller_port, data=data)


def _format(folder: Path, settings: str, run: list[str]) -> None:
    # Formatted aside and renamed when done, so that `data` is always a whole one.
    aside = folder / "data.new"
    shutil.rmtree(aside, ignore_errors=True)
    file = folder / "format.properties"
    file.write_text(settings)
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    done = subprocess.run(
        [*run, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(file)],
        capture_output=True, text=True, check=False, env={**os.environ},
    )  # fmt: skip
    if done.returncode:
        raise StackError(f"Kafka could not format {folder}: {(done.stderr or done.stdout).strip()}")
    file.unlink()
    aside.rename(folder / "data")


def answers(port: int) -> bool:
    """Whether a broker on the port answers ApiVersions (key 18, version 0) without an error.

    A KRaft broker opens its port only when it is registered and unfenced.
    https://kafka.apache.org/protocol.html#The_Messages_ApiVersions
    """
    request = struct.pack(">ihhih", 10, 18, 0, 1, -1)  # size, key, version, correlation id, null client
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1) as connection:
            connection.settimeout(2)
            connection.sendall(request)
            head = connection.recv(10, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(head) == 10 and struct.unpack(">iih", head)[1:] == (1, 0)
