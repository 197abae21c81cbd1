"""What a demo is to do: its options made sense of, and the processes that it takes."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from producers.registry import SOURCES
from ravenctl import demands
from ravenctl.local.services import SERVICES, python_service
from ravenctl.local.state import ServiceSpec
from ravenctl.shell import WrongUse
from simulator.contract import SimulatorError
from simulator.faults import check, parse_spec
from simulator.markets.flow import LISTINGS
from simulator.registry import DIALECTS
from simulator.sorting import sort
from simulator.synthetic import listing_of

USER = "demo"
DURATION_S = 120.0
"""Of a source that has no end of its own."""
REPAIR_MS = "60000"
LAKE_S = "2"
"""A demo does not last as long as the lake gathers records by default."""
"""At another pace than 1 the answers of REST come no faster, and the bars are to be the same."""
VENUES = ("BINANCE_SPOT",)
EVERY = "ALL"
LIVE_SYMBOLS = ("BTCUSDT", "ETHUSDT")
SYNTHETIC_SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
DERIBIT_SYMBOLS = ("BTCUSD",)
"""Beside those where Deribit is among the venues: it has perpetuals against the dollar alone."""


@dataclass(frozen=True)
class Plan:
    """What a demo is to do; `duration_s` None means to the source's own end, `speed` is as the simulator takes it.

    `recordings` are files, or `VENUE=FILE` where the file does not say whose it is.
    """

    source: Literal["recording", "synthetic", "live"]
    home: Path
    venues: tuple[str, ...] = VENUES
    recordings: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    speed: str = "1"
    duration_s: float | None = None
    faults: str = ""
    seed: int = 0
    keep: bool = False
    json_file: Path | None = None

    @property
    def title(self) -> str:
        """What is played, in a few words."""
        pace = "as fast as it is read" if self.speed == "max" else f"at {self.speed}x"
        where = f" of {len(self.venues)} venues" if len(self.venues) > 1 else ""
        match self.source:
            case "live":
                return f"live{where}: {', '.join(self.symbols)}"
            case "recording":
                return f"{len(self.recordings)} recording{'s' * (len(self.recordings) != 1)}{where} {pace}"
            case _:
                return f"synthetic market{'s' * (len(self.venues) > 1)}{where} {pace}"

    @property
    def sources(self) -> list[str]:
        """All sources of the venues."""
        return [source.name for source in SOURCES.values() if source.venue in self.venues]


def services(plan: Plan) -> list[ServiceSpec]:
    """The processes of a demo, in the order in which they start."""
    if plan.source == "live":
        return list(SERVICES)
    simulator = python_service("simulator", "-m", "simulator", *_arguments(plan))
    # A Clock is of live time: at another pace than 1 it would close windows too early.
    env = {"RAVEN_LAKE__BATCH_S": LAKE_S}
    if plan.speed != "1":
        env |= {"RAVEN_COLLECTOR__CLOCKS": "false", "RAVEN_COLLECTOR__REPAIR_MS": REPAIR_MS}
    if plan.source == "synthetic":
        env |= _open_interest(plan)
    others = [msgspec.structs.replace(one, env={**one.env, **env}) for one in SERVICES]
    return [msgspec.structs.replace(simulator, announces=True), *others]


def _arguments(plan: Plan) -> list[str]:
    if plan.recordings:
        options = ["--recording", *plan.recordings]
    else:
        options = ["--synthetic", "--venues", ",".join(plan.venues)]
    options += ["--feeds", ",".join(plan.sources), "--speed", plan.speed, "--seed", str(plan.seed)]
    if plan.symbols:
        options += ["--symbols", ",".join(plan.symbols)]
    if plan.faults:
        options += ["--fault", plan.faults]
    if plan.duration_s is not None:
        options += ["--duration", f"{plan.duration_s:g}s"]
    return options


def _open_interest(plan: Plan) -> dict[str, str]:
    """Open interest is polled of the symbols that are configured: those that there are."""
    if "BINANCE_FUTURES" not in plan.venues:
        return {}
    spell = DIALECTS["BINANCE_FUTURES"]().spell
    pairs = [listing_of(symbol) for symbol in plan.symbols]
    symbols = [symbol for pair in pairs if (symbol := spell(pair.base, pair.quote))]
    return {"RAVEN_VENUES__BINANCE_FUTURES__OPEN_INTEREST_SYMBOLS": json.dumps(symbols)}


def make_plan(
    recordings: Sequence[str],
    *,
    synthetic: bool,
    live: bool,
    venues: str,
    speed: str,
    duration_s: float | None,
    **rest: Any,
) -> Plan:
    """A plan of the options; raises WrongUse where they contradict each other."""
    if bool(recordings) + synthetic + live > 1:
        raise WrongUse("choose one of --recording, --synthetic and --live")
    plan = Plan(
        source="recording" if recordings else "live" if live else "synthetic",
        venues=_recorded(recordings) if recordings else _venues(venues),
        recordings=tuple(recordings),
        speed=_speed(speed),
        duration_s=duration_s,
        **rest,
    )
    if live and (plan.speed != "1" or plan.faults):
        raise WrongUse("--speed and --fault are for recordings and the synthetic market: an exchange has its own pace")
    if recordings and (plan.symbols or venues):
        raise WrongUse("--symbol and --venues are for --synthetic and --live: a recording has its own")
    if plan.json_file and not os.access(plan.json_file.absolute().parent, os.W_OK):
        raise WrongUse(f"--json {plan.json_file} cannot be written: its folder is missing or closed to you")
    endless = duration_s is None and not recordings
    plan = replace(
        plan,
        symbols=_symbols(plan),
        recordings=tuple(map(_absolute, recordings)),
        duration_s=DURATION_S if endless else duration_s,
    )
    _check_faults(plan)
    return plan


def _venues(text: str) -> tuple[str, ...]:
    """`all`, or some as `BINANCE_SPOT,KRAKEN`; raises WrongUse."""
    named = tuple(dict.fromkeys(name.strip().upper() for name in text.split(",") if name.strip()))
    known = tuple(dict.fromkeys(source.venue for source in SOURCES.values()))
    if named == (EVERY,):
        return known
    if unknown := [name for name in named if name not in known]:
        raise WrongUse(f"venue {unknown[0]} is unknown: known are {', '.join(known)}, or write --venues all")
    return named or VENUES


def _symbols(plan: Plan) -> tuple[str, ...]:
    symbols = demands.wanted(plan.symbols, None, USER).symbols if plan.symbols else ()
    if plan.source == "live":
        return symbols or LIVE_SYMBOLS
    try:
        for symbol in symbols:
            listing_of(symbol)
    except SimulatorError:
        raise WrongUse(f"the synthetic market has no {symbol}: it has {', '.join(LISTINGS)}") from None
    if plan.source == "recording" or symbols:
        return symbols
    return SYNTHETIC_SYMBOLS + DERIBIT_SYMBOLS * ("DERIBIT" in plan.venues)


def _recorded(recordings: Sequence[str]) -> tuple[str, ...]:
    """The venues that the recordings are of; raises WrongUse."""
    for text in recordings:
        if not _path(text).is_file():
            raise WrongUse(f"there is no recording {_path(text)}")
    try:
        return tuple(sort(recordings, [make() for make in DIALECTS.values()]))
    except SimulatorError as error:
        raise WrongUse(str(error)) from None


def _path(text: str) -> Path:
    venue, equals, path = text.partition("=")
    return Path(path) if equals and venue in DIALECTS else Path(text)


def _absolute(text: str) -> str:
    path = str(_path(text).resolve())
    return path if _path(text) == Path(text) else f"{text.partition('=')[0]}={path}"


def _speed(text: str) -> str:
    """A speed as the simulator takes it; raises WrongUse."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if text != "max" and not 0.0 < number < float("inf"):
        raise WrongUse(f"{text!r} is no speed: write 1, a factor like 10, or max")
    return text if text == "max" else f"{number:g}"


def _check_faults(plan: Plan) -> None:
    """Raises WrongUse for faults that the simulator would refuse."""
    speed = None if plan.speed == "max" else float(plan.speed)
    try:
        check(parse_spec(plan.faults), speed, plan.duration_s is not None)
    except SimulatorError as error:
        raise WrongUse(str(error)) from None
