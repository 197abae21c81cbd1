"""What all sources of one venue share: its endpoints, its REST side within the venue's budget, and when to connect."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiolimiter import AsyncLimiter

from producers.contract import Get, Limits, Rate
from ravencore.errors import Unavailable
from ravencore.records import Instrument

LEFT_ALONE_S = 60.0
LONGEST_WAIT_S = 3 * 86_400.0
"""Binance bans for up to three days."""
BURST_SHARE = 10
TOO_MANY_REQUESTS = frozenset({418, 429})


class Gate:
    """The way to one venue; budgets count per address, so one Gate serves all sources of the venue."""

    def __init__(self, venue: str, limits: Limits, endpoints: Any, http: aiohttp.ClientSession) -> None:
        """`endpoints` are the settings `venues.<venue>`."""
        self.venue = venue
        self.endpoints = endpoints
        self.published: dict[str, Instrument] = {}
        """Instruments by symbol, as they were last published."""
        self._http = http
        self._rest, self._connects = limiter(limits.rest), limiter(limits.connects)
        self._free_at = 0.0

    async def get(self, get: Get) -> tuple[int, bytes]:
        """Status and body of an answer, as soon as the budget allows; raises Unavailable when there is none."""
        await self._rest.acquire(min(get.weight, self._rest.max_rate))
        await self._left_alone()
        try:
            async with self._http.get(get.url, headers=get.headers) as response:
                body = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"{get.url} cannot be reached: {str(error) or type(error).__name__}") from None
        self.heard(response.status, response.headers)
        return response.status, body

    async def may_connect(self) -> None:
        """Return when another attempt to connect is within the venue's limits."""
        await self._connects.acquire()
        await self._left_alone()

    def heard(self, status: int, headers: Mapping[str, str]) -> None:
        """Note what the venue said: one that is asked too often is left alone for as long as it wants, by everybody."""
        pause_s = retry_after(status, headers)
        if pause_s is not None:
            self._free_at = max(self._free_at, time.monotonic() + pause_s)

    async def _left_alone(self) -> None:
        while (wait_s := self._free_at - time.monotonic()) > 0:  # noqa: ASYNC110 - it may grow meanwhile
            await asyncio.sleep(wait_s)


def limiter(rate: Rate) -> AsyncLimiter:
    """A leaky bucket that lets through no more than the rate and a tenth within any such time.

    A bucket as large as the rate would let that much through at once, and as much again while it runs out: twice the
    rate. Sources name a rate that leaves room for the tenth.
    """
    amount = max(rate.amount / BURST_SHARE, 1.0)
    return AsyncLimiter(amount, rate.seconds * amount / rate.amount)


def retry_after(status: int, headers: Mapping[str, str]) -> float | None:
    """Seconds that a venue which is asked too often wants to be left alone; None where it is not that."""
    if status not in TOO_MANY_REQUESTS:
        return None
    told = headers.get("Retry-After", "")
    return min(float(told), LONGEST_WAIT_S) if told.isdecimal() else LEFT_ALONE_S
