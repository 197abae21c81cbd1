"""Frames that no reader may accept, made from real ones."""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec

from simulator.contract import Frame

MIN_SHARE, MAX_SHARE = 0.3, 0.95
NOISE_BYTES = (8, 60)
"""So many that no two frames are alike: who counts them knows each by its bytes."""


class Recipe(msgspec.Struct, frozen=True):
    """How to spoil a venue's trade frames.

    `row` finds the fields of the first trade in the decoded message, `retyped` are fields that every reader needs, each
    with a value of a type it never has, and `unknown` is a message of a channel that nobody subscribed to, in which
    NUMBER stands for one.
    """

    row: Callable[[Any], dict[str, Any]]
    retyped: Sequence[tuple[str, Any]]
    unknown: bytes


def spoil(frame: Frame, recipe: Recipe, rng: Random) -> Frame:
    """An unreadable frame on the same stream."""
    kind = rng.choice(("truncated", "retyped", "null", "missing", "text", "binary", "unknown"))
    binary = kind == "binary"
    payload = noise(rng) if binary else _text(kind, frame.payload, recipe, rng)
    return Frame(frame.time_ns, frame.stream, payload, payload, kind="garbage", symbol=frame.symbol, binary=binary)


def words(rng: Random) -> bytes:
    """Text that is no JSON."""
    return f"~ {rng.randbytes(rng.randint(*NOISE_BYTES)).hex()} ~".encode()


def noise(rng: Random) -> bytes:
    """Bytes that are no text."""
    return b"\xff" + rng.randbytes(rng.randint(*NOISE_BYTES))


def _text(kind: str, payload: bytes, recipe: Recipe, rng: Random) -> bytes:
    if kind == "truncated":
        return payload[: max(1, int(len(payload) * rng.uniform(MIN_SHARE, MAX_SHARE)))]
    if kind == "text":
        return words(rng)
    if kind == "unknown":
        return recipe.unknown.replace(b"NUMBER", str(rng.randrange(10**12)).encode())
    message = json.loads(payload)
    row = recipe.row(message)
    field, value = rng.choice(recipe.retyped)
    if kind == "missing":
        del row[field]
    else:
        row[field] = value if kind == "retyped" else None
    return json.dumps(message, separators=(",", ":")).encode()
