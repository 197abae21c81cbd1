"""`python -m processors` runs a worker; `python -m processors reset-state [NAME]` forgets all state while none runs.

NAME is a line of processors/derivations.py; without one, the state of all of them is forgotten.
"""

import asyncio
import logging
import os
import sys

from processors.check import check
from processors.derivations import DERIVATIONS
from processors.engine import Engine
from processors.transactions import reset_state
from ravencore import service
from ravencore.config import Settings

RESET = "reset-state"


def serve(settings: Settings) -> None:
    """Run a worker until a signal ends it; raises ConfigError."""
    check(settings)
    for noisy in ("faust", "mode", "aiokafka", "processors.faust_transport"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    code = asyncio.run(_run(settings))
    logging.shutdown()
    # Threads that wait for a broker that is away must not hold up the end: what they wait for was given up.
    os._exit(code)


async def _run(settings: Settings) -> int:
    return await Engine(settings).run()


def reset(settings: Settings, names: list[str]) -> None:
    """Forget the state of these derivations."""
    for name in names:
        count = reset_state(settings, DERIVATIONS[name])
        print(f"{count} snapshots of {name} forgotten", file=sys.stderr)  # noqa: T201 - the command's answer


def main(arguments: list[str]) -> None:
    """Do what the arguments say."""
    if not arguments:
        service.run(serve)
    elif arguments[0] == RESET and set(arguments[1:]) <= DERIVATIONS.keys():
        service.run(lambda settings: reset(settings, arguments[1:] or list(DERIVATIONS)))
    else:
        sys.exit(f"usage: python -m processors [{RESET} [{' | '.join(DERIVATIONS)}]]")


if __name__ == "__main__":
    main(sys.argv[1:])
