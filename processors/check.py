"""What the settings say that only this room can judge: intervals, sizes, and venues of mids and VPIN; pure."""

from collections.abc import Callable, Iterator
from typing import Any

from processors.folds.spot_mid import SpotMids
from processors.registry import profiles
from ravencore.config import BarsSettings, Settings, VenuesSettings, did_you_mean
from ravencore.errors import ConfigError

VENUES = tuple(VenuesSettings.model_fields)


def check(settings: Settings) -> None:
    """Raises ConfigError for all that no fold can be made of."""
    wrong = [*_refused(profiles, settings.bars, "", ""), *_refused(SpotMids, settings.mids)]
    for instrument in settings.bars.vpin.bucket_volumes:
        wrong += _refused(profiles, settings.bars, *instrument.split(":", 1))
    for setting, venue in _venues(settings):
        if venue not in VENUES:
            wrong.append(f"setting {setting}: {venue} is no venue{did_you_mean(venue, VENUES)}")
    if wrong:
        raise ConfigError("\n".join(dict.fromkeys(wrong)))


def _refused(make: Callable[..., Any], *given: Any) -> list[str]:
    try:
        make(*given)
    except ConfigError as error:
        return [str(error)]
    return []


def _venues(settings: Settings) -> Iterator[tuple[str, str]]:
    """Settings with the venues that they name."""
    bars: BarsSettings = settings.bars
    yield from (("mids.venues", venue) for venue in settings.mids.venues)
    for name, instruments in (("bucket_volumes", bars.vpin.bucket_volumes), ("profiles", bars.vpin.profiles)):
        yield from ((f"bars.vpin.{name}", instrument.split(":", 1)[0]) for instrument in instruments)
