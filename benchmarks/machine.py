"""What a benchmark says of the machine and of processes on it."""

import os
import platform
from datetime import UTC, datetime

import psutil


def machine() -> str:
    """When and on what this was measured."""
    kind = f"{os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {kind}"


def cpu_seconds(process: psutil.Process) -> float:
    """Of all its threads."""
    times = process.cpu_times()
    return float(times.user + times.system)
