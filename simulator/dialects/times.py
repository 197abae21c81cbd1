"""Times as venues write them: 2025-11-10T17:23:53.971745Z."""

from datetime import UTC, datetime
from functools import lru_cache

SECOND_NS = 10**9


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"


def micros_text(time_ns: int) -> str:
    """With microseconds."""
    return f"{_second(time_ns // SECOND_NS)}.{time_ns % SECOND_NS // 1_000:06d}Z"


def nanos_text(time_ns: int) -> str:
    """With nanoseconds."""
    return f"{_second(time_ns // SECOND_NS)}.{time_ns % SECOND_NS:09d}Z"


def micros_of(text: str) -> int:
    """Microseconds since 1970, what is finer cut off. Raises ValueError."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = datetime.fromisoformat(whole + "+00:00").timestamp()
    return int(seconds) * 1_000_000 + int(fraction[:6].ljust(6, "0"))
