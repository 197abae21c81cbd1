"""What the simulator tells of itself under /sim/.

- /sim/stats, /sim/health
- /sim/ledger?venue=V&channel=C: by symbol, the ids that were delivered, and in `issued` [id, time in microseconds] of
  all that was issued since the symbol was first subscribed
- /sim/books?venue=V&symbol=S: digests of a symbol's book after each of its last changes (simulator/books.py)
- /sim/faults: what was done to clients, as in simulator/faultlog.py
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from simulator.exchange import Exchange
from simulator.server.player import Player
from simulator.server.venue import Venue

SUMMED = ("gaps", "gap_trades", "duplicates", "dead_letters")


class Pages:
    """The pages, of all venues."""

    def __init__(self, venues: Mapping[str, Venue], player: Player) -> None:
        self.venues = venues
        self.player = player

    def routes(self) -> Sequence[web.RouteDef]:
        return (
            web.get("/sim/stats", self._show_stats),
            web.get("/sim/health", self._show_health),
            web.get("/sim/ledger", self._show_ledger),
            web.get("/sim/books", self._show_books),
            web.get("/sim/faults", self._show_faults),
        )

    async def _show_stats(self, _request: web.Request) -> web.Response:
        return web.json_response(self.stats())

    async def _show_health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "state": self.player.state})

    async def _show_ledger(self, request: web.Request) -> web.Response:
        name, channel = request.query.get("venue", ""), request.query.get("channel", "")
        venue = self.venues.get(name)
        if venue is None or not channel:
            return web.json_response({"error": f"?venue=V&channel=C, with V of {', '.join(self.venues)}"}, status=404)
        ledger = venue.exchange.ledger
        told = {"venue": name, "channel": channel, "symbols": ledger.told(channel), "issued": ledger.listed(channel)}
        return web.json_response(told)

    async def _show_books(self, request: web.Request) -> web.Response:
        venue = self.venues.get(request.query.get("venue", ""))
        digests = venue.exchange.digests(request.query.get("symbol", "")) if venue is not None else None
        if digests is None:
            return web.json_response({"error": "?venue=V&symbol=S: there is no such book"}, status=404)
        return web.json_response(dict(digests))

    async def _show_faults(self, _request: web.Request) -> web.Response:
        rows = [row for one in self.venues.values() for row in one.exchange.faults.report(one.exchange.time_ns)]
        return web.json_response(sorted(rows, key=lambda row: row["from_ns"]))

    def stats(self) -> dict[str, Any]:
        """The venues' own figures, and their sums."""
        venues = {name: venue_stats(venue) for name, venue in self.venues.items()}
        if self.player.state == "done":
            for entry in venues.values():
                entry["waiting_for"] = []
        rows = list(venues.values())
        ahead = max((venue.exchange for venue in self.venues.values()), key=lambda exchange: exchange.time_ns)
        return {
            "source": rows[0]["source"],
            "speed": self.player.settings.speed or "max",
            "state": self.player.state,
            "waiting_for": [stream for row in rows for stream in row["waiting_for"]],
            "position": _position(ahead) | {"frames": sum(row["frames_issued"] for row in rows)},
            "connections": {key: sum(row["connections"][key] for row in rows) for key in ("open", "accepted")},
            "notes": [note for row in rows for note in row["notes"]],
            "injected": {key: sum(row["injected"][key] for row in rows) for key in rows[0]["injected"]},
            "observable": {key: sum(row["observable"][key] for row in rows) for key in SUMMED},
            "frames": sum(row["frames"] for row in rows),
            "frames_issued": sum(row["frames_issued"] for row in rows),
            "venues": venues,
        }


def venue_stats(venue: Venue) -> dict[str, Any]:
    """One venue's figures."""
    exchange = venue.exchange
    report = exchange.ledger.report()
    for symbol, entry in report["symbols"].items():
        entry["depth20"] = exchange.depth20_source(symbol)
        entry["book_holes"] = exchange.book_holes(symbol)
    return {
        "source": venue.market.source,
        "sources": venue.served(),
        "waiting_for": sorted(venue.missing()),
        "position": _position(exchange),
        "connections": {"open": len(venue.connections), "accepted": venue.accepted},
        "notes": list(venue.market.notes),
        "unmet": sorted(exchange.unmet),
        "listened": sorted(stream for stream, count in exchange.listeners.items() if count > 0),
        "subscriptions": dict(exchange.subscriptions),
        **report,
    }


def _position(exchange: Exchange) -> dict[str, Any]:
    moment = datetime.fromtimestamp(exchange.time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    return {"frames": exchange.ledger.frames_issued, "time_ns": exchange.time_ns, "time": moment}
