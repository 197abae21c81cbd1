"""Puts the faults of whole connections on them, and ends those that last by the clock, whatever the speed."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from simulator.faults import Action
from simulator.server.clients import Clients
from simulator.server.venue import Venue

log = logging.getLogger("simulator")


class Disturber:
    """Cuts, stalls, mutes, closes and limits."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.busy_until = 0.0
        """When the last fault will have ended, in seconds of the monotonic clock."""

    def disturb(self, venue: Venue, action: Action) -> None:
        seconds = action.intent.seconds if action.intent is not None else 0.0
        match action.what:
            case "cut":
                self.cut(venue)
            case "mute":
                venue.mute(action)
            case "stall":
                self.clients.write()
                venue.stall(seconds)
                self._later(seconds, venue.resume)
            case "limit":
                self._limit(venue, seconds)
            case _:
                self._announce(venue, seconds)

    def cut(self, venue: Venue) -> None:
        if not venue.connections:
            return
        fault = venue.exchange.interrupt("cut")
        self.clients.cut(venue, fault)
        venue.exchange.faults.end(fault, venue.exchange.time_ns)

    def _limit(self, venue: Venue, seconds: float) -> None:
        log.info("%s answers nobody for %.1f s", venue.dialect.venue, seconds)
        self.clients.cut(venue, venue.limit(time.monotonic(), seconds))
        self._later(seconds, venue.lift_limit)

    def _announce(self, venue: Venue, seconds: float) -> None:
        """Say to all connections that they will be closed, and close them in a while."""
        connections = list(venue.connections)
        fault = venue.exchange.interrupt("close", seconds=seconds)
        told = [venue.announce_end(connection) for connection in connections]
        fault.details["announced"] = any(told)
        self._later(seconds, self.clients.close, venue, connections, fault)

    def _later(self, seconds: float, call: Callable[..., None], *given: Any) -> None:
        self.busy_until = max(self.busy_until, time.monotonic() + seconds)
        asyncio.get_running_loop().call_later(seconds, call, *given)
