"""The one table of folds. A new kind is one file in folds/, its record's topic, and one line in FOLDS."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from processors.contract import Fold, Stream
from processors.folds import driven, plain, raven_rule, time_bars, vpin
from processors.folds.imbalance import ImbalanceBars
from processors.folds.measure import DOLLARS, TICKS, VOLUME
from processors.folds.runs import RunBars
from ravencore.config import BarsSettings
from ravencore.topics import BARS, VPIN


class Kind(NamedTuple):
    """A kind of derived record: where it goes, its profiles by name, and what makes it."""

    kind: str
    topic: str
    parameters: Callable[[BarsSettings, str, str], Mapping[str, msgspec.Struct]]
    """Of settings, venue and symbol; raises ConfigError."""
    make: Callable[[Stream, Any], Fold]


FOLDS: tuple[Kind, ...] = (
    Kind("time", BARS["time"], time_bars.parameters, time_bars.TimeBars),
    Kind("tib", BARS["tib"], driven.parameters("tib"), driven.maker(TICKS, ImbalanceBars, raven_rule.TickImbalance)),
    Kind("trb", BARS["trb"], driven.parameters("trb"), driven.maker(TICKS, RunBars, raven_rule.TickRun)),
    Kind("vib", BARS["vib"], driven.parameters("vib"), driven.maker(VOLUME, ImbalanceBars, raven_rule.VolumeImbalance)),
    Kind("dib", BARS["dib"], driven.parameters("dib"), driven.maker(DOLLARS, ImbalanceBars)),
    Kind("vrb", BARS["vrb"], driven.parameters("vrb"), driven.maker(VOLUME, RunBars)),
    Kind("drb", BARS["drb"], driven.parameters("drb"), driven.maker(DOLLARS, RunBars)),
    Kind("tick", BARS["tick"], plain.parameters("tick", TICKS), plain.maker(TICKS)),
    Kind("volume", BARS["volume"], plain.parameters("volume", VOLUME), plain.maker(VOLUME)),
    Kind("dollar", BARS["dollar"], plain.parameters("dollar", DOLLARS), plain.maker(DOLLARS)),
    Kind("vpin", VPIN, vpin.parameters, vpin.VpinBuckets),
)
"""In the order that outputs of one record are published in; within a kind, profiles stand as the settings list them."""


class Profile(NamedTuple):
    """One fold of an instrument, not made yet."""

    topic: str
    kind: str
    name: str
    parameters: msgspec.Struct
    make: Callable[[], Fold]

    @property
    def key(self) -> str:
        """Its name in a snapshot, for example `tib/tib_small`."""
        return f"{self.kind}/{self.name}"

    @property
    def output(self) -> str:
        """What people and demands call its topic: the name without `raven.`."""
        return self.topic.removeprefix("raven.")


def profiles(settings: BarsSettings, venue: str, symbol: str) -> list[Profile]:
    """All folds of an instrument in their fixed order; raises ConfigError naming the setting that is wrong."""
    return [
        Profile(
            kind.topic, kind.kind, name, parameters, _maker(kind, Stream(venue, symbol, kind.kind, name), parameters)
        )
        for kind in FOLDS
        for name, parameters in kind.parameters(settings, venue, symbol).items()
    ]


def _maker(kind: Kind, stream: Stream, parameters: msgspec.Struct) -> Callable[[], Fold]:
    return lambda: kind.make(stream, parameters)
