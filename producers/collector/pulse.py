"""The time of the links: it stands still while nobody reads, so that nothing expires which may lie there unread."""

import asyncio
import time

from producers.collector.ends import Taker

BEAT_S = 0.02
STALL_S = 0.1
"""A pause of the event loop beyond this means that the sockets may hold much that is unread."""


class Pulse:
    """`now` in seconds, the same for all links of a source, whose records may share a tape.

    It stands still as well while nobody waits for a beat: what collects nothing costs nothing.
    """

    def __init__(self, taker: Taker) -> None:
        self.now = 0.0
        self._taker = taker
        self._beat, self._awaited = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Let time go on, until cancelled."""
        stalled = False
        while True:
            await self._awaited.wait()
            before = time.monotonic()
            await asyncio.sleep(BEAT_S)
            took = time.monotonic() - before
            if self._taker.blocked:
                continue
            self.now += min(took, BEAT_S + STALL_S)
            # After a stall, what the sockets hold goes first.
            stalled = took > BEAT_S + STALL_S and not stalled
            if not stalled:
                beat, self._beat = self._beat, asyncio.Event()
                self._awaited.clear()
                beat.set()

    async def beat(self) -> None:
        """Return at the next beat."""
        self._awaited.set()
        await self._beat.wait()
