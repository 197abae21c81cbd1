"""The configuration as resolved: every setting, its value without secrets, and where the value comes from."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from pydantic import BaseModel, SecretStr
from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource
from rich.table import Table
from rich.text import Text

from processors.check import check as check_processors
from producers.check import check as check_producers
from ravencore.config import PREFIX, Settings, config_files, load
from ravencore.errors import ConfigError
from ravencore.hiding import HIDDEN, without_password
from ravenctl.cluster import Running, pointed_at, told_by, unnamed
from ravenctl.shell import WrongUse, complete_setting, nearest
from sinks.stores.timescale_policies import policies

_BARE = re.compile(r"[A-Za-z0-9_-]+")


class Source(NamedTuple):
    """Something that settings come from; `name` as it is shown."""

    name: str
    values: Mapping[str, Any]


class Setting(NamedTuple):
    """A setting: its dotted name, its value as it may be shown, and where that comes from."""

    name: str
    value: Any
    origin: str


def check_rooms(settings: Settings) -> None:
    """Raises ConfigError for every value that a service would refuse."""
    wrong = []
    for check in (
        partial(check_producers, settings.routing),
        partial(check_processors, settings),
        partial(policies, settings.mart),
    ):
        try:
            check()
        except ConfigError as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigError("\n".join(wrong))


def resolved(running: Running | None) -> list[Setting]:
    """Every setting; a local stack that runs says where its servers are. Raises ConfigError."""
    settings = load()
    given = sources()
    if running:
        of_stack = unnamed(told_by(running.state.endpoints))
        settings = pointed_at(settings, of_stack)
        given.insert(0, Source(f"local stack {running.home}", of_stack))
    return [Setting(dotted(path), value, origin(path, given)) for path, value in leaves(settings)]


def sources() -> list[Source]:
    """What settings come from besides the defaults, highest first; raises ConfigError."""
    files = [Source(str(path), TomlConfigSettingsSource(Settings, path)()) for path in config_files()]
    return [Source("environment", EnvSettingsSource(Settings)()), *files]


def origin(path: Sequence[str], given: Sequence[Source]) -> str:
    """The highest source that says something of a setting; `default` where none does."""
    found = next((source.name for source in given if _says(source.values, path)), "default")
    return _variable(path) if found == "environment" else found


def _says(values: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not isinstance(values, Mapping):
            return True
        if name not in values:
            return False
        values = values[name]
    return True


def _variable(path: Sequence[str]) -> str:
    """The environment variable that names a setting, or what it is in."""
    there = {name.upper() for name in os.environ}
    names = (PREFIX + "__".join(path[:depth]).upper() for depth in range(len(path), 0, -1))
    return next((name for name in names if name in there), "environment")


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Settings with their values, secrets hidden; what has a name within the configuration by that name."""
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path, shown(value)


def shown(value: Any) -> Any:
    """A value as it may be shown: of a secret only where a URL leads, and no URL's password."""
    match value:
        case SecretStr():
            text = value.get_secret_value()
            return without_password(text) if "://" in text else HIDDEN if text else ""
        case str():
            return without_password(value)
        case list():
            return [shown(one) for one in value]
        case _:
            return value


def dotted(path: Sequence[str]) -> str:
    """A setting's name as in TOML."""
    return ".".join(name if _BARE.fullmatch(name) else json.dumps(name) for name in path)


def below(settings: Sequence[Setting], prefix: str) -> list[Setting]:
    """Those of a setting or section; raises WrongUse where there is none of that name."""
    found = [one for one in settings if one.name == prefix or one.name.startswith(f"{prefix}.")]
    if not found:
        near = nearest(prefix, complete_setting(""), "`ravenctl config show` has all")
        raise WrongUse(f"there is no setting {prefix}: {near}")
    return found


def table(settings: Sequence[Setting]) -> Table:
    """A line for each; what was not left at its default stands out."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    made.add_column("SETTING", no_wrap=True)
    made.add_column("VALUE", overflow="fold", ratio=1)
    made.add_column("FROM", overflow="fold")
    for one in settings:
        style = "dim" if one.origin == "default" else ""
        made.add_row(Text(one.name, style=style), Text(_text(one.value), style=style), Text(one.origin, style=style))
    return made


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)
