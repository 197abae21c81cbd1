"""Snapshots as older versions of the code wrote them, brought to the layout of this one, step by step: pure.

Whoever changes what a fold's snapshot holds or means raises LAYOUT and writes the step, so that no state is misread; a
snapshot of a newer version is refused.
"""

from collections.abc import Callable, Sequence
from typing import Any

from processors.contract import StateMismatch
from ravencore.codec import decimal_bytes

LAYOUT: int = 4
"""Version of the snapshot's layout."""
Parameters = dict[str, Any]


def check(layout: int, whose: str, newest: int = LAYOUT) -> None:
    """Raises StateMismatch where a snapshot of this layout cannot be read: every layout can be up to the newest."""
    if not 1 <= layout <= newest:
        reads = f"1 to {newest}" if newest > 1 else "1"
        raise StateMismatch(
            f"the state of {whose} has layout {layout}, and this version of Raven reads {reads}: "
            "run the version that wrote it, or reset the state explicitly"
        )


def parameters(layout: int, written: dict[str, Parameters]) -> dict[str, Parameters]:
    """Parameters by `kind/profile` as this version would have written them."""
    for change, _ in _STEPS[layout - 1 :]:
        written = {key: change(_kind(key), own) for key, own in written.items()}
    return written


def snapshot(layout: int, written: Sequence[Any]) -> list[Any]:
    """A whole snapshot as this version would have written it."""
    admission, awake, asleep, behind = written if layout >= 4 else _snapshot_4(*written)
    slept = states(layout, {key: one[:2] for key, one in asleep.items()})
    asleep = {key: [*slept[key], *one[2:]] for key, one in asleep.items()}
    return [admission, states(layout, awake), asleep, behind]


def _snapshot_4(admission: Any, awake: Any, asleep: dict[str, list[Any]], woken: list[str]) -> list[Any]:
    """Folds can be switched off, and know whether trades came while they slept; that was taken for granted then."""
    return [admission, awake, {key: [*one, None] for key, one in asleep.items()}, sorted({*woken, *asleep})]


def states(layout: int, profiles: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Parameters and state by `kind/profile` as this version would have written them."""
    for change, move in _STEPS[layout - 1 :]:
        profiles = {
            key: [change(_kind(key), own), move(_kind(key), own, state)] for key, (own, state) in profiles.items()
        }
    return profiles


def _kind(key: str) -> str:
    return key.partition("/")[0]


def _parameters_2(kind: str, own: Parameters) -> Parameters:
    """VPIN came to have a percentile, over its default window."""
    return {**own, "percentile_window": 250} if kind == "vpin" else own


def _state_2(kind: str, own: Parameters, state: list[Any]) -> list[Any]:
    """VPIN has no values for its percentile yet; imbalance bars hold what those of volume need as well."""
    if kind == "vpin":
        return [*state, []]
    if kind != "tib":
        return state
    bar_seq, warm, theta, expected_ticks, expected_imbl, bar = state
    ticks = 0 if bar is None else bar[8]
    size, square = (expected_ticks, 1.0) if warm else (float(own["initial_size"]), 0.0)
    return [bar_seq, warm, size, bar, decimal_bytes(theta), decimal_bytes(ticks), expected_imbl, square]


def _same_parameters(_kind: str, own: Parameters) -> Parameters:
    return own


def _same_state(_kind: str, _own: Parameters, state: list[Any]) -> list[Any]:
    return state


def _state_3(kind: str, _own: Parameters, state: list[Any]) -> list[Any]:
    """VPIN knows whether the trade before was refused; then, all folds had missed that one alike."""
    return [*state, False] if kind == "vpin" else state


_Change = Callable[[str, Parameters], Parameters]
_Move = Callable[[str, Parameters, list[Any]], list[Any]]
_STEPS: tuple[tuple[_Change, _Move], ...] = (
    (_parameters_2, _state_2),
    (_same_parameters, _state_3),
    (_same_parameters, _same_state),
)
"""From layout 1 to 2, from 2 to 3, ...: of the parameters and of the state of a profile of a kind."""
