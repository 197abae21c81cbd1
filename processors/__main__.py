"""`python -m processors [ENGINE]` runs a worker; `python -m processors reset-state [ENGINE]` forgets all state.

ENGINE is a name of processors/derivations.py, `bars` where there is none. State is reset while no worker runs.
"""

import asyncio
import logging
import os
import sys

from processors.derivations import DERIVATIONS, Derivation
from processors.engine import Engine
from processors.transactions import reset_state
from ravencore import service
from ravencore.config import Settings

RESET = "reset-state"


def serve(settings: Settings, derivation: Derivation) -> None:
    """Run a worker until a signal ends it."""
    for noisy in ("faust", "mode", "aiokafka", "processors.faust_transport"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    code = asyncio.run(_run(settings, derivation))
    logging.shutdown()
    # Threads that wait for a broker that is away must not hold up the end: what they wait for was given up.
    os._exit(code)


async def _run(settings: Settings, derivation: Derivation) -> int:
    return await Engine(settings, derivation).run()


def reset(settings: Settings, derivation: Derivation) -> None:
    """Forget all state."""
    count = reset_state(settings, derivation)
    print(f"{count} snapshots of {derivation.name} forgotten", file=sys.stderr)  # noqa: T201 - the command's answer


def main(arguments: list[str]) -> None:
    """Run what the arguments say."""
    work = reset if arguments[:1] == [RESET] else serve
    names = arguments[work is reset :] or ["bars"]
    if len(names) > 1 or names[0] not in DERIVATIONS:
        sys.exit(f"usage: python -m processors [{RESET}] [{' | '.join(DERIVATIONS)}]")
    service.run(lambda settings: work(settings, DERIVATIONS[names[0]]))


if __name__ == "__main__":
    main(sys.argv[1:])
