"""What is made of what, and what demands come to in it: the one table of outputs and stores; pure.

An output is a topic by its name without `raven.`: `trades`, `bars.tib`, `vpin`. It is collected, or made of others. A
demand for it is one for all that it is made of. Of an instrument that no demand names, whoever publishes it, all is
made and kept: nothing is left out because somebody forgot to ask.
"""

from collections.abc import Collection, Iterable, Mapping
from functools import cache

from ravencore.pairs import pair_of
from ravencore.records import Demand, FeedName
from ravencore.topics import BARS, CHANNELS

ALL = "*"
"""Every symbol of a venue."""
_BARS = tuple(topic.removeprefix("raven.") for topic in BARS.values())
NEEDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(CHANNELS, ()),
    **dict.fromkeys(_BARS, ("trades",)),
    "vpin": ("trades",),
    "spot_mid": ("quotes",),
    "iv_surface": ("option_tickers",),
}
"""Every output with those it is made of; none: it is collected."""
STORES: Mapping[str, frozenset[str]] = {
    "influx": frozenset(CHANNELS),
    "timescale": frozenset(
        ("bars.time", "bars.tib", "bars.trb", "bars.vib", "bars.dib", "vpin", "klines", "spot_mid", "iv_surface")
    ),
    "lake": frozenset(NEEDS),
    "redis": frozenset((*_BARS, "vpin", "quotes", "spot_mid", "iv_surface")),
}
"""Every store with the outputs it keeps; instruments, Gaps and statuses are kept beside them, whoever wants what."""
BY_INSTRUMENT = frozenset(NEEDS) - {
    *("quotes", "option_tickers", "index_prices", "volatility_index"),
    *("spot_mid", "iv_surface"),
}
"""Outputs whose Kafka key is VENUE:SYMBOL."""
SHORT: Mapping[str, tuple[str, ...]] = {
    "bars": _BARS,
    **{name.removeprefix("bars."): (name,) for name in _BARS},
    **{name: (name,) for name in NEEDS},
}
"""Outputs by what people call them: `tib` is `bars.tib`, `bars` are all of them."""


@cache
def closure(outputs: frozenset[str]) -> frozenset[str]:
    """The outputs and all that they are made of; all there are of none."""
    if not outputs:
        return frozenset(NEEDS)
    made_of = {need for output in outputs for need in NEEDS.get(output, ())}
    return outputs if made_of <= outputs else closure(outputs | made_of)


@cache
def origin(output: str) -> str:
    """The channel that an output is made of in the end; a channel's own name."""
    needs = NEEDS[output]
    return origin(needs[0]) if needs else output


def output_of(topic: str) -> str | None:
    """The output that is in a topic; None of one that no demand is about."""
    name = topic.removeprefix("raven.")
    return name if name in NEEDS else None


def made_for(demand: Demand) -> frozenset[str]:
    """The outputs that a demand is for, with all that they are made of."""
    return closure(frozenset(demand.outputs))


class Standing:
    """What the demands that stand come to, by output and Kafka key; it never changes."""

    def __init__(self, demands: Iterable[Demand] = ()) -> None:
        self.demands = tuple(demands)
        self._by_feed: dict[tuple[str, str], list[Demand]] = {}
        for demand in self.demands:
            for place in {(feed.channel, _key(demand, feed)) for feed in demand.feeds}:
                self._by_feed.setdefault(place, []).append(demand)
        self._wanted: dict[tuple[str, str], frozenset[str] | None] = {}
        self._keeps: dict[tuple[str, str, str], bool | None] = {}

    def wanted(self, channel: str, key: str) -> frozenset[str] | None:
        """Outputs wanted of what a channel brings under a Kafka key; None where no demand names it."""
        at = (channel, key)
        if at not in self._wanted:
            naming = self._naming(channel, key)
            outputs = frozenset(output for demand in naming for output in made_for(demand))
            self._wanted[at] = outputs if naming else None
        return self._wanted[at]

    def keeps(self, store: str, output: str, key: str) -> bool | None:
        """Whether a store shall keep an output under a Kafka key; None where no demand names it."""
        at = (store, output, key)
        if at not in self._keeps:
            naming = self._naming(origin(output), key)
            wants = any(output in made_for(demand) and store in (demand.stores or STORES) for demand in naming)
            self._keeps[at] = wants if naming else None
        return self._keeps[at]

    def _naming(self, channel: str, key: str) -> Collection[Demand]:
        venue, found, _ = key.partition(":")
        places = (key, f"{venue}:{ALL}" if found else ALL)
        return [demand for place in places for demand in self._by_feed.get((channel, place), ())]


def _key(demand: Demand, feed: FeedName) -> str:
    """The Kafka key under which a feed comes, as far as the demand tells: ALL where it may be any."""
    if feed.channel in BY_INSTRUMENT:
        return f"{feed.venue}:{feed.symbol}"
    pair = pair_of(demand.symbol) if feed.channel == "quotes" else None
    return "-".join(pair) if pair else ALL
