"""Delays between attempts, as values: whoever retries takes a generator of seconds."""

import random
from collections.abc import Iterator


def backoff(first_s: float, cap_s: float, rng: random.Random) -> Iterator[float]:
    """Doubling delays in seconds with full jitter, never above the cap.

    Each is drawn evenly from half the step to the step, so that clients cut together do not come back together:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    step = first_s
    while True:
        yield rng.uniform(step / 2, step)
        step = min(step * 2, cap_s)
