"""What a benchmark says of the machine and of processes on it."""

import os
import platform
import sys
from datetime import UTC, datetime

import psutil
from rich.console import Console

WIDE = 180
"""Columns of a table in a file."""


def console() -> Console:
    """Standard output, whole tables in files and pipes included."""
    return Console(width=None if sys.stdout.isatty() else WIDE)


def machine() -> str:
    """When and on what this was measured."""
    kind = f"{os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {kind}"


def cpu_seconds(process: psutil.Process) -> float:
    """Of all its threads."""
    times = process.cpu_times()
    return float(times.user + times.system)
