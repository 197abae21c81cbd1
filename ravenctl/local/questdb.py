"""QuestDB: InfluxDB line protocol on /api/v2/write and SQL over HTTP, loopback only."""

from __future__ import annotations

import http.client
from functools import partial
from pathlib import Path

from ravenctl.local.jars import java
from ravenctl.local.ports import LOOPBACK
from ravenctl.local.server import Launch
from ravenctl.local.startcache import start_cache

# https://questdb.com/docs/configuration/: by default every listener is open to the network.
SETTINGS = """\
http.bind.to={host}:{port}
http.min.enabled=false
pg.enabled=false
line.tcp.enabled=false
line.udp.enabled=false
telemetry.enabled=false

# Small: the defaults reserve 16 MiB of file and 8 MiB of memory per column.
shared.worker.count=1
cairo.writer.data.append.page.size=1m
cairo.o3.column.memory.size=1m
"""

LOGGING = """\
writers=stdout
w.stdout.class=io.questdb.log.LogConsoleWriter
w.stdout.level=ERROR,CRITICAL,ADVISORY
"""


def launch(home: Path, port: int, jars: list[str]) -> Launch:
    """The server on HTTP `port`, its data in `<home>/questdb`."""
    folder, cache = home / "questdb", start_cache("questdb", jars)
    return Launch(
        argv=[
            *java("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", *cache.use_or_make()),
            "-cp",
            ":".join(jars),
            "io.questdb.ServerMain",
            "-d",
            str(folder),
        ],
        cwd=home,
        prepare=partial(_prepare, folder, port),
        is_ready=partial(answers, port),
        stop_seconds=30,
        ended=cache.keep,
    )


def _prepare(folder: Path, port: int) -> None:
    configuration = folder / "conf"
    configuration.mkdir(parents=True, exist_ok=True)
    (configuration / "server.conf").write_text(SETTINGS.format(host=LOOPBACK, port=port))
    (configuration / "log.conf").write_text(LOGGING)


def answers(port: int) -> bool:
    """Whether a query is answered on the port."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", "/exec?query=select%201")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
