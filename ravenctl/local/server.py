"""What the supervisor must know of a process in order to run it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Account:
    """The system user a process runs as, when that is not our own."""

    uid: int
    gid: int


def as_user(account: Account | None) -> dict[str, Any]:
    """Arguments of Popen that run a process as this user."""
    return {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}


@dataclass(frozen=True)
class Launch:
    """How one process is prepared, started, known to be ready, and stopped.

    `prepare` and `is_ready` may block; `prepare` raises StackError, `is_ready` only answers. `ended` is called when it
    has stopped by itself within `stop_seconds` of the signal.
    """

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    account: Account | None = None
    prepare: Callable[[], None] | None = None
    is_ready: Callable[[], bool] | None = None
    ready_seconds: float = 90.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 15.0
    ended: Callable[[], None] | None = None
