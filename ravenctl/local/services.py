"""Raven's own services as the local stack runs them, in the order in which they start."""

from __future__ import annotations

import sys

from ravenctl.local.state import ServiceSpec


def python_service(name: str, *arguments: str, **env: str) -> ServiceSpec:
    """A service run by this Python: `python_service("engine", "-m", "processors")`."""
    # -P: a file that lies in the folder somebody works in is no module of ours.
    return ServiceSpec(name=name, argv=[sys.executable, "-P", *arguments], env=env)


SERVICES = (
    python_service("collector", "-m", "producers"),
    python_service("engine", "-m", "processors"),
    python_service("sink-influx", "-m", "sinks", "influx"),
    python_service("sink-timescale", "-m", "sinks", "timescale"),
    python_service("sink-lake", "-m", "sinks", "lake"),
    python_service("sink-redis", "-m", "sinks", "redis"),
)
