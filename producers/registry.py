"""The venues this room can collect from, by the name they have in records and configuration."""

from collections.abc import Mapping

from producers.contract import Venue
from producers.venues.binance_spot import BinanceSpot

VENUES: Mapping[str, Venue] = {venue.name: venue for venue in (BinanceSpot(),)}
