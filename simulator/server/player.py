"""Lets things happen at all venues: by the clock, or as fast as clients read.

Playback starts when the streams of all feeds that are to be collected are subscribed. At speed "max" it goes as fast
as clients read and waits while a stream that was subscribed has no listener: nothing is lost over a cut. At 1x and Nx
it follows the frames' times and waits for nobody.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Iterator, Mapping

from simulator.faults import CHAOS, VENUE_KINDS
from simulator.playback import Faults, Plans, Step, make_plans, steps
from simulator.server.clients import Clients
from simulator.server.disturber import Disturber
from simulator.server.settings import Settings
from simulator.server.venue import Venue

BATCH_FRAMES = 256
EARLY_SECONDS = 0.0005
HEAD_START_SECONDS = 3.0
MILLISECOND_NS = 1_000_000

log = logging.getLogger("simulator")


class Player:
    """`state` is waiting, playing or done."""

    def __init__(self, venues: Mapping[str, Venue], settings: Settings, clients: Clients, disturber: Disturber) -> None:
        self.venues = venues
        self.settings = settings
        self.clients = clients
        self.disturber = disturber
        self.state = "waiting"
        self._faults = Faults(settings.faults, settings.seed, settings.speed or 1.0, settings.times)
        self._plans: Plans = {}

    def plan(self) -> None:
        """Plan the faults, before anybody listens: who has subscribed may take a pause of many seconds for a fault."""
        exchanges = [venue.exchange for venue in self.venues.values()]
        self._plans = make_plans(exchanges, self._faults, self.settings.duration_ns)

    async def play(self) -> None:
        """Play all there is, and then stay as it is."""
        await self._all_subscribed()
        self.state, self.clients.play_has_begun = "playing", True
        log.info("playing at speed %s", self.settings.speed or "max")
        head_start_s = HEAD_START_SECONDS if CHAOS in self._faults.spec else 0.0
        begins_s = time.time() + head_start_s
        start_ns = int(begins_s * 1e3) * MILLISECOND_NS if self.settings.speed == 1.0 else None
        exchanges = [venue.exchange for venue in self.venues.values()]
        played = steps(exchanges, self._faults, start_ns, self.settings.duration_ns, self._plans)
        if self.settings.speed is None:
            await self._play_at_will(played)
        else:
            # Faults look ahead: to make what they see first takes a while, in which clients are to be answered.
            first = await asyncio.to_thread(lambda: list(itertools.islice(played, 1)))
            await asyncio.sleep(begins_s - time.time())
            await self._play_in_time(itertools.chain(first, played), self.settings.speed)
            await asyncio.sleep(self.disturber.busy_until - time.monotonic())
        await self.clients.flush()
        self._finish()
        await asyncio.Event().wait()

    def _finish(self) -> None:
        exchanges = [venue.exchange for venue in self.venues.values()]
        for exchange in exchanges:
            exchange.faults.finish(exchange.time_ns)
        self.state = "done"
        ledgers = [exchange.ledger for exchange in exchanges]
        issued, sent = (sum(row.frames_issued for row in ledgers), sum(row.frames_sent for row in ledgers))
        log.info("done: %d frames issued, %d sent", issued, sent)

    async def _all_subscribed(self) -> None:
        """Until every awaited stream has a listener that is still there."""
        for venue, connection in self.clients.all():
            if connection.ended:
                venue.leave(connection)
        while missing := {stream for venue in self.venues.values() for stream in venue.missing()}:
            log.info("waiting for a subscriber of %s", _some(missing))
            self.clients.changed.clear()
            await self.clients.changed.wait()

    async def _play_at_will(self, played: Iterator[Step]) -> None:
        for number, step in enumerate(played, start=1):
            venue = self.venues[step.exchange.dialect.venue]
            if step.action.what == "cut":
                await self.clients.flush()
                self.disturber.cut(venue)
                await self._all_subscribed()
                continue
            venue.send(step.action)
            if number % BATCH_FRAMES == 0:
                await self.clients.flush()
                await self._all_subscribed()

    async def _play_in_time(self, played: Iterator[Step], speed: float) -> None:
        base = time.perf_counter()
        for number, step in enumerate(played, start=1):
            venue = self.venues[step.exchange.dialect.venue]
            if step.action.what in VENUE_KINDS or step.action.what == "mute":
                self.disturber.disturb(venue, step.action)
                continue
            early = base + step.after_ns / (1e9 * speed) - time.perf_counter()
            if early > EARLY_SECONDS or number % BATCH_FRAMES == 0:
                self.clients.write()
                await asyncio.sleep(max(early, 0.0))
            venue.send(step.action)


def _some(streams: set[str]) -> str:
    first = sorted(streams)[:10]
    more = f" and {len(streams) - len(first)} more" if len(streams) > len(first) else ""
    return ", ".join(first) + more
