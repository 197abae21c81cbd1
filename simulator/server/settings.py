"""How the simulator is to play, and where it is found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from simulator.faults import TIMES, Times

LOOPBACK = "127.0.0.1"
OTHER_ROUTE = "~2"
"""What a venue's name ends with in the addresses of its other route."""
TICK_SECONDS = 0.25


@dataclass(frozen=True)
class Settings:
    """How to play. `speed` None means as fast as clients read; `duration_ns` is market time.

    `feeds` are the sources that will be collected, by name; None: those of scope symbol, or where the venues have none,
    all that have streams. `life_seconds`: the age at which a connection is closed, None: the venue's own.
    """

    speed: float | None = 1.0
    seed: int = 0
    faults: Mapping[str, float | int] = field(default_factory=dict)
    duration_ns: int | None = None
    port: int = 0
    tick_seconds: float = TICK_SECONDS
    feeds: Sequence[str] | None = None
    life_seconds: float | None = None
    times: Times = TIMES
