"""What all sources of one venue share: its endpoints, its REST side within the venue's budget, and when to connect."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
from aiolimiter import AsyncLimiter

from producers.collector.breaker import Breaker
from producers.contract import Get, Limits, Rate
from ravencore.errors import Unavailable
from ravencore.records import Instrument

LEFT_ALONE_S = 60.0
LONGEST_WAIT_S = 3 * 86_400.0
"""Binance bans for up to three days."""
BURST_SHARE = 10
SERVER_ERROR = 500
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
        self._messages = limiter(limits.messages) if limits.messages_by_address else None
        self._free_at = 0.0
        self._breakers: dict[str, Breaker] = {}

    async def get(self, get: Get) -> tuple[int, bytes]:
        """Status and body of an answer, as soon as the budget allows; raises Unavailable when there is none."""
        endpoint = get.url.partition("?")[0]
        await self._allowed(endpoint, self._rest, min(get.weight, self._rest.max_rate))
        try:
            async with self._http.get(get.url, headers=dict(get.headers)) as response:
                body = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.failed(endpoint)
            raise Unavailable(f"{get.url} cannot be reached: {str(error) or type(error).__name__}") from None
        self.heard(response.status, response.headers)
        (self.failed if response.status >= SERVER_ERROR else self.worked)(endpoint)
        return response.status, body

    async def may_connect(self, url: str) -> None:
        """Return when another attempt to connect is within the venue's limits; then say `worked` or `failed`."""
        await self._allowed(url, self._connects)

    def messages(self, limits: Limits) -> AsyncLimiter:
        """What a connection's messages must wait for."""
        return self._messages or limiter(limits.messages)

    def worked(self, endpoint: str) -> None:
        """An endpoint has answered."""
        self._breaker(endpoint).worked()

    def failed(self, endpoint: str) -> None:
        """An endpoint cannot be reached, or is out of order."""
        self._breaker(endpoint).failed()

    @property
    def broken(self) -> Iterator[str]:
        """Endpoints that are left alone for having failed too often, a sentence each."""
        for endpoint, breaker in self._breakers.items():
            if breaker.is_open:
                yield f"{endpoint} failed {breaker.failures} times in a row and is tried rarely"

    def heard(self, status: int, headers: Mapping[str, str]) -> None:
        """Note what the venue said: one that is asked too often is left alone for as long as it wants, by everybody."""
        pause_s = retry_after(status, headers)
        if pause_s is not None:
            self._free_at = max(self._free_at, time.monotonic() + pause_s)

    async def _allowed(self, endpoint: str, budget: AsyncLimiter, weight: float = 1.0) -> None:
        """Return when the venue is no longer left alone, and then the budget has room."""
        # In this order: budgets fill up during a pause, and all would go out at once after it.
        await self._left_alone(endpoint)
        await budget.acquire(weight)
        await self._left_alone(endpoint)

    async def _left_alone(self, endpoint: str) -> None:
        breaker = self._breaker(endpoint)
        while (wait_s := self._free_at - time.monotonic()) > 0 or (wait_s := breaker.wait_s()) > 0:  # noqa: ASYNC110 - it may grow
            await asyncio.sleep(wait_s)

    def _breaker(self, endpoint: str) -> Breaker:
        return self._breakers.setdefault(endpoint, Breaker())


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
