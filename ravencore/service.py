"""How every service starts: settings, logging, codec; and how it ends on a signal."""

import logging
import sys
from collections.abc import Callable

from ravencore.codec import Codec
from ravencore.config import Settings, load
from ravencore.errors import RavenError
from ravencore.registry import SchemaRegistry

EXIT_FAILURE = 1


def codec(settings: Settings) -> Codec:
    """The codec with the configured schema registry, or with the pinned ids."""
    url = settings.schema_registry.url
    return Codec(SchemaRegistry(url) if url else None)


def run(service: Callable[[Settings], None]) -> None:
    """Run a service with the resolved settings; an error Raven knows ends it with one line and exit code 1."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        service(load())
    except RavenError as error:
        logging.getLogger("raven").error("%s", error)
        sys.exit(EXIT_FAILURE)
