"""What stands at the two ends of the runners: a Taker where records go out, and a Tap where frames come in."""

from typing import Protocol

from producers.collector.outlet import Published


class Taker(Protocol):
    """Takes records in their order: Kafka's Outlet, or a recorder that only counts them."""

    blocked: bool
    """Whoever makes records is to stop, until `ready`."""

    def put(self, venue: str, record: Published) -> None:
        """Take a record of a venue."""

    async def ready(self) -> None:
        """Return when nothing is blocked."""


class Tap(Protocol):
    """Sees all that comes, before it is parsed."""

    def frame(self, received_ns: int, frame: bytes) -> None:
        """A WebSocket message has come."""

    def body(self, received_ns: int, url: str, body: bytes) -> None:
        """A REST request has been answered with 200."""
