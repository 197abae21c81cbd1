"""`python -m sinks STORE`: keep a store filled from Kafka until SIGTERM."""

import sys

from ravencore.config import Settings
from ravencore.service import run
from sinks.drain import drain
from sinks.registry import STORES

EXIT_USAGE = 2


def main() -> None:
    """Run the sink named on the command line."""
    names = sys.argv[1:]
    if len(names) != 1 or names[0] not in STORES:
        print(f"usage: python -m sinks {{{'|'.join(STORES)}}}", file=sys.stderr)  # noqa: T201 - before logging is set up
        sys.exit(EXIT_USAGE)

    def service(settings: Settings) -> None:
        drain(STORES[names[0]](settings), settings)

    run(service)


if __name__ == "__main__":
    main()
