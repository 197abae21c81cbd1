"""What the settings say that only this room can judge: names of venues and sources; pure."""

from producers.registry import SOURCES
from ravencore.config import RoutingSettings, did_you_mean
from ravencore.errors import ConfigError


def check(routing: RoutingSettings) -> None:
    """Raises ConfigError for each name that is no venue, source or VENUE:CHANNEL, with the nearest that is."""
    venues = dict.fromkeys(source.venue for source in SOURCES.values())
    channels = (f"{source.venue}:{channel.upper()}" for source in SOURCES.values() for channel in source.channels)
    names = dict.fromkeys((*venues, *SOURCES, *channels))
    wrong = [f"setting routing.venues: {name} is no venue{did_you_mean(name, names)}" for name in routing.venues
             if name not in names]  # fmt: skip
    wrong += [f"setting routing.symbol_map: {name} is no venue{did_you_mean(name, venues)}"
              for name in routing.symbol_map if name not in venues]  # fmt: skip
    if wrong:
        raise ConfigError("\n".join(wrong))
