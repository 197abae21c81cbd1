"""Settings with a single profile in them: a configured one, or one that a person makes with --set and --rule."""

import difflib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from processors import registry
from processors.registry import FOLDS, Kind
from ravencore.config import BarsSettings, DrivenBarProfile, PlainBarProfile, VpinSettings, interval_us
from ravencore.errors import ConfigError
from ravencore.records import Bar, Vpin
from ravencore.topics import VPIN
from ravenctl.shell import WrongUse

KINDS: Mapping[str, Kind] = {kind.kind: kind for kind in FOLDS}
TIME = "time"
TIME_KEYS = ("allowed_lateness_ms", "empty_windows")
"""What --set changes of time bars; their profile is their interval."""
BY_SYMBOL = ("bucket_volumes", "profile", "profiles")
"""What --set does not change of VPIN: it is asked of one symbol, and --profile names its buckets."""
UNNAMED = "default"
"""Name of a profile that nobody named."""
IDLE_VOLUME = "9" * 20
"""The engine makes VPIN of every instrument: where it is not asked for, its buckets never fill."""


def kind_named(name: str) -> Kind:
    """The kind of that name; raises WrongUse that lists all."""
    kind = KINDS.get(name.strip().lower())
    if kind is None:
        raise WrongUse(f"--kind {name} is unknown: there are {', '.join(KINDS)}")
    return kind


def record_of(kind: Kind) -> type[Bar] | type[Vpin]:
    """What a kind's records are."""
    return Vpin if kind.topic == VPIN else Bar


def assignments(given: Sequence[str], rule: str | None) -> dict[str, str]:
    """What --set and --rule say, by key; raises WrongUse on what is no KEY=VALUE."""
    found = {"rule": rule} if rule else {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key.strip() or not equals:
            raise WrongUse(f"--set {text}: write KEY=VALUE, for example --set initial_size=200")
        found[key.strip()] = value.strip()
    return found


def told(kind: Kind, name: str, settings: BarsSettings) -> str:
    """For a person: the kind, the profile, and what matters most of its parameters."""
    if kind.topic == VPIN:
        return f"{kind.kind} {name}  \u00b7  buckets of {Decimal(settings.vpin.bucket_volume):,f} {settings.vpin.unit}"
    profile = None if kind.kind == TIME else getattr(settings, kind.kind)[name]
    match profile:
        case DrivenBarProfile():
            return f"{kind.kind} {name}  \u00b7  rule {profile.rule}"
        case PlainBarProfile():
            return f"{kind.kind} {name}  \u00b7  size {Decimal(profile.size):,f}"
        case _:
            return f"{kind.kind} {name}"


def chosen(
    bars: BarsSettings, kind: Kind, profile: str | None, changes: Mapping[str, str], instrument: tuple[str, str]
) -> tuple[str, BarsSettings]:
    """A profile's name, and settings that have it alone.

    It is the configured one of that name, else with `changes` one of the class's defaults; without a name the first
    that is configured. Raises WrongUse where there is none, and for keys and values that cannot be.
    """
    if kind.kind == TIME:
        name, fields = _time(bars, profile, changes)
    elif kind.topic == VPIN:
        name, fields = _vpin(bars, profile, changes, instrument)
    else:
        name, fields = _of_kind(bars, kind.kind, profile, changes)
    return name, _checked(BarsSettings(**{**_none(), **fields}), instrument)


def _none() -> dict[str, Any]:
    """Settings that make nothing."""
    empty: dict[str, Any] = {name: {} for name in KINDS if name in BarsSettings.model_fields and name != "vpin"}
    return {**empty, "time_intervals": [], "vpin": VpinSettings(bucket_volume=IDLE_VOLUME)}


def _time(bars: BarsSettings, profile: str | None, changes: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    name = profile or next(iter(bars.time_intervals), "1m")
    try:
        interval_us(name)
    except ConfigError:
        raise WrongUse(f"--profile {name} is no interval: write for example 500ms, 1s, 15m or 1h") from None
    base = {key: getattr(bars, key) for key in TIME_KEYS}
    told = _validated(BarsSettings, base, changes, TIME_KEYS)
    return name, {"time_intervals": [name], **{key: getattr(told, key) for key in TIME_KEYS}}


def _vpin(
    bars: BarsSettings, profile: str | None, changes: Mapping[str, str], instrument: tuple[str, str]
) -> tuple[str, dict[str, Any]]:
    vpin, key = bars.vpin, ":".join(instrument)
    configured = vpin.profiles.get(key, vpin.profile)
    if profile not in (None, configured) and not changes:
        raise WrongUse(f"--profile {profile}: VPIN has one profile, {configured}; make another with --set")
    name = profile or configured
    keys = [key for key in VpinSettings.model_fields if key not in BY_SYMBOL]
    base = {key: getattr(vpin, key) for key in keys}
    base["bucket_volume"] = vpin.bucket_volumes.get(key, vpin.bucket_volume)
    own = _validated(VpinSettings, base, changes, keys)
    return name, {"vpin": own.model_copy(update={"profile": name})}


def _of_kind(
    bars: BarsSettings, kind: str, profile: str | None, changes: Mapping[str, str]
) -> tuple[str, dict[str, Any]]:
    configured: Mapping[str, BaseModel] = getattr(bars, kind)
    model: type[BaseModel] = get_args(BarsSettings.model_fields[kind].annotation)[1]
    name = profile or next(iter(configured), UNNAMED)
    needed = [key for key, field in model.model_fields.items() if field.is_required()]
    if name not in configured and ((profile and not changes) or not set(needed) <= set(changes)):
        raise WrongUse(_absent(kind, profile, list(configured), needed or list(model.model_fields)))
    base = configured[name].model_dump() if name in configured else {}
    return name, {kind: {name: _validated(model, base, changes, list(model.model_fields))}}


def _absent(kind: str, profile: str | None, configured: Sequence[str], keys: Sequence[str]) -> str:
    what = f"--profile {profile}: {kind} has no such profile" if profile else f"{kind} has no profile configured"
    there = f"; there are {', '.join(configured)}" if configured else ""
    return f"{what}{there}. Make one with --set, for example --set {keys[0]}=..."


def _validated(
    model: type[BaseModel], base: Mapping[str, Any], changes: Mapping[str, str], keys: Sequence[str]
) -> BaseModel:
    """The model with what is changed; raises WrongUse naming the right keys, or what a value may be."""
    for key in changes:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            meant = f"did you mean {near[0]}? There" if near else "there"
            raise WrongUse(f"--set {key} is unknown: {meant} are {', '.join(keys)}")
    try:
        return model.model_validate({**base, **changes})
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join(map(str, wrong["loc"]))
        raise WrongUse(f"--set {key}={changes.get(key, '')}: {wrong['msg']}") from None


def _checked(bars: BarsSettings, instrument: tuple[str, str]) -> BarsSettings:
    try:
        registry.profiles(bars, *instrument)
    except ConfigError as error:
        raise WrongUse(str(error)) from None
    return bars
