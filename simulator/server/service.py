"""Puts the parts together, and serves them."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiohttp import web

from simulator.contract import Dialect, Market, SimulatorError
from simulator.faults import check
from simulator.server.clients import Clients, response
from simulator.server.disturber import Disturber
from simulator.server.pages import Pages
from simulator.server.player import Player
from simulator.server.settings import LOOPBACK, OTHER_ROUTE, Settings
from simulator.server.venue import Venue

LIFE_MARGIN_SECONDS = 15.0


class Server:
    """`async with Server(...) as server`: serves at server.port, plays, and stops at the end of the block."""

    def __init__(self, markets: Sequence[tuple[Dialect, Market]], settings: Settings) -> None:
        self.settings = settings
        check(settings.faults, settings.speed, settings.duration_ns is not None)
        speed, times = settings.speed or 1.0, settings.times
        self.venues = {dialect.venue: Venue(dialect, market, speed, times) for dialect, market in markets}
        self.clients = Clients(list(self.venues.values()), settings)
        self.disturber = Disturber(self.clients)
        self.player = Player(self.venues, settings, self.clients, self.disturber)
        self.pages = Pages(self.venues, self.player)
        self.port = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        feeds = self._feeds()
        for venue in self.venues.values():
            venue.require(feeds)

    def _feeds(self) -> Sequence[str]:
        """What playback waits for. Raises SimulatorError for a source that no venue here has."""
        venues = self.venues.values()
        known = {source for venue in venues for source in venue.dialect.sources}
        if self.settings.feeds is not None:
            if unknown := [feed for feed in self.settings.feeds if feed not in known]:
                raise SimulatorError(f"no feed {', '.join(unknown)} here; there are {', '.join(sorted(known))}")
            return self.settings.feeds
        by_symbol = [source for venue in venues for source in venue.scoped("symbol")]
        return by_symbol or [source for venue in venues for source in venue.scoped("market")]

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    async def __aenter__(self) -> "Server":
        self.player.plan()
        app = web.Application()
        app.add_routes(self.pages.routes())
        app.router.add_get("/{venue}{path:(/.*)?}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, self.settings.port).start()
        self.port = self._runner.addresses[0][1]
        self._tasks = [asyncio.create_task(self.player.play()), asyncio.create_task(self.clients.keep_alive())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _venue, connection in self.clients.all():
            connection.abort()
        assert self._runner is not None
        await self._runner.cleanup()

    async def wait(self) -> None:
        """Until playback or keep-alive fails; neither returns while the server is up. Raises what they raised."""
        await asyncio.gather(*self._tasks)

    def environment(self) -> dict[str, str]:
        """Settings that point collectors at this simulator."""
        found = {
            "RAVEN_SIMULATOR_URL": f"http://{self.address}",
            # A demand that names no venue means those that are here, and not the real ones beside them.
            "RAVEN_ROUTING__VENUES": json.dumps(list(self.venues)),
        }
        for name, venue in self.venues.items():
            if set(venue.dialect.sources.values()) != {"poll"}:
                path = venue.dialect.socket_path
                found[f"RAVEN_VENUES__{name}__WS_URL"] = f"ws://{self.address}/{name}{path}"
                others = [f"ws://{self.address}/{name}{OTHER_ROUTE}{path}"]
                found[f"RAVEN_VENUES__{name}__OTHER_WS_URLS"] = json.dumps(others)
            found[f"RAVEN_VENUES__{name}__REST_URL"] = f"http://{self.address}/{name}{venue.dialect.rest_path}"
        if (life := self.settings.life_seconds) is not None:
            found["RAVEN_COLLECTOR__CONNECTION_LIFE_S"] = f"{max(life - LIFE_MARGIN_SECONDS, life / 2):g}"
        return found

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        venue = self.venues.get(request.match_info["venue"].removesuffix(OTHER_ROUTE))
        if venue is None:
            return web.json_response({"error": f"no such venue; there are {', '.join(self.venues)}"}, status=404)
        path = request.match_info["path"] or "/"
        if (refusal := venue.refuse(time.monotonic())) is not None:
            return response(refusal)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self.clients.serve(venue, path, request)
        return response(venue.exchange.answer(path, dict(request.query), time.monotonic()))


def write_ready_file(text_path: str, environment: Mapping[str, str]) -> None:
    """Tell whoever started us that we serve, and how to reach us. The file appears whole or not at all."""
    path = Path(text_path)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(dict(environment)))
    partial.replace(path)
