"""The one table of what the engine derives: each line turns one topic into others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from processors import join, migrations, symbol
from processors.contract import StateMismatch
from processors.folds.iv_surface import IvSurfaces
from processors.folds.spot_mid import SpotMids
from processors.intake import Fetched, Instruments, Made
from processors.join_intake import JoinIntake
from processors.migrations import LAYOUT
from ravencore.codec import Codec
from ravencore.config import Settings
from ravencore.graph import Standing
from ravencore.records import OptionTicker, Quote, State, market_key, mid_key, surface_key
from ravencore.topics import (
    AGENT_OPTION_TICKERS,
    AGENT_QUOTES,
    AGENT_TRADES,
    OPTION_TICKERS,
    QUOTES,
    STATE_BARS,
    STATE_MIDS,
    STATE_SURFACES,
    TRADES,
)


class Intake(Protocol):
    """All that is folded of one partition: fetched batches in, outputs and dead letters out; pure."""

    def apply(self, records: Sequence[Fetched], standing: Standing) -> Made:
        """Fold a batch in and make of it what is demanded.

        Raises Unavailable when a schema registry is needed and away.
        """

    def snapshot(self, key: bytes) -> bytes:
        """The whole state of what has this key."""

    def restore(self, key: bytes, payload: bytes, layout: int) -> None:
        """Take over a snapshot; raises StateMismatch."""


class Derivation(NamedTuple):
    """Its names in Kafka, and what it makes of a partition."""

    name: str
    topic: str
    state_topic: str
    agent: str
    intake: Callable[[Codec, Settings, str], Intake]
    """Of a codec, the settings, and the name of the header that makes a null value a Clock."""
    key: Callable[[Any], bytes]
    """Of a record it publishes."""
    counters: tuple[str, ...]
    """Of the engine's status."""
    commit_within_s: float
    """How long records that closed nothing wait for more, in one transaction: nobody waits for one without outputs."""
    layout: int
    parameters: Callable[[Settings, bytes], str]
    """What a snapshot of this key was made with, as canonical JSON."""
    check: Callable[[State, Settings], None]
    """Raises StateMismatch where a snapshot is none of this code's with these settings."""


def _check_bars(state: State, settings: Settings) -> None:
    venue, _, name = state.input_key.partition(":")
    symbol.check_state(state.layout, state.parameters, settings.bars, venue, name)


def _bar_parameters(settings: Settings, key: bytes) -> str:
    venue, _, name = key.decode().partition(":")
    return symbol.parameters(settings.bars, venue, name)


BARS = Derivation(
    name="bars",
    topic=TRADES,
    state_topic=STATE_BARS,
    agent=AGENT_TRADES,
    intake=lambda codec, settings, clock: Instruments(codec, settings.bars, clock),
    key=market_key,
    counters=("trades", "duplicates", "holes", "late_trades", "late_repairs", "bars", "vpin"),
    commit_within_s=0.2,
    layout=LAYOUT,
    parameters=_bar_parameters,
    check=_check_bars,
)


def _no_parameters(_settings: Settings, _key: bytes) -> str:
    """What joins make follows from the newest records, whatever the settings were when these came."""
    return "{}"


def _check_join(state: State, _settings: Settings) -> None:
    migrations.check(state.layout, state.input_key, join.LAYOUT)


MIDS = Derivation(
    name="mids",
    topic=QUOTES,
    state_topic=STATE_MIDS,
    agent=AGENT_QUOTES,
    intake=lambda codec, settings, clock: JoinIntake(codec, SpotMids(settings.mids), Quote, mid_key, clock),
    key=mid_key,
    counters=SpotMids.counters,
    commit_within_s=0.2,
    layout=join.LAYOUT,
    parameters=_no_parameters,
    check=_check_join,
)
SURFACES = Derivation(
    name="surfaces",
    topic=OPTION_TICKERS,
    state_topic=STATE_SURFACES,
    agent=AGENT_OPTION_TICKERS,
    intake=lambda codec, settings, clock: JoinIntake(
        codec, IvSurfaces(settings.surfaces), OptionTicker, surface_key, clock
    ),
    key=surface_key,
    counters=IvSurfaces.counters,
    # A snapshot of a thousand options is 140 kB.
    commit_within_s=2.0,
    layout=join.LAYOUT,
    parameters=_no_parameters,
    check=_check_join,
)
DERIVATIONS: Mapping[str, Derivation] = {one.name: one for one in (BARS, MIDS, SURFACES)}


def restore(made_by: Derivation, intake: Intake, state: State, settings: Settings, partitions: int) -> None:
    """Give a snapshot to an intake; raises StateMismatch, with the ways out, when it is none of this code's."""
    try:
        made_by.check(state, settings)
        if state.input_partitions != partitions:
            raise StateMismatch(
                f"the state of {state.input_key} was made when {made_by.topic} had {state.input_partitions} "
                f"partitions; it has {partitions} now, and the records of a key are in another one"
            )
        intake.restore(state.input_key.encode(), state.payload, state.layout)
    except (msgspec.DecodeError, AttributeError, TypeError, ValueError) as error:
        raise StateMismatch(f"the state of {state.input_key} is damaged: {error}.{_way_out(made_by)}") from error
    except StateMismatch as error:
        raise StateMismatch(f"{error}.{_way_out(made_by)}") from None


def _way_out(made_by: Derivation) -> str:
    return f" To reset all state: stop the engine, then `python -m processors reset-state {made_by.name}`"
