"""`python -m processors` runs a worker; `python -m processors reset-state` forgets all state while none runs."""

import asyncio
import logging
import os
import sys

from processors.engine import Engine
from processors.transactions import reset_state
from ravencore import service
from ravencore.config import Settings


def serve(settings: Settings) -> None:
    """Run a worker until a signal ends it."""
    for noisy in ("faust", "mode", "aiokafka", "processors.faust_transport"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    code = asyncio.run(_run(settings))
    logging.shutdown()
    # Threads that wait for a broker that is away must not hold up the end: what they wait for was given up.
    os._exit(code)


async def _run(settings: Settings) -> int:
    return await Engine(settings).run()


def reset(settings: Settings) -> None:
    """Forget all state."""
    print(f"{reset_state(settings)} snapshots forgotten", file=sys.stderr)  # noqa: T201 - the command's answer


if __name__ == "__main__":
    service.run(reset if sys.argv[1:] == ["reset-state"] else serve)
