"""Faults between a market and its clients: their kinds, how they are asked for, and what may be done to what. Pure.

A spec is `kind=value,...`; a value with a decimal point (0.001) is the probability per trade frame, a whole number (2)
is how many of them, spread at random over the trades that are expected. A trade frame holds one trade or several, of
one symbol or of several, and is the unit of every fault. `chaos` alone puts faults on every feed (simulator/chaos.py).
Kinds:

- gap: 1 to 5 consecutive frames of a stream are never sent. Their neighbours are, and count on from each other.
- duplicate: a frame is sent again, at once or, if it is one of trades, up to 5 frames of its stream later.
- reorder: a frame and the next of its stream change places; they are at most 300 ms apart.
- garbage: an extra frame that nobody can read; no real frame is ever spoilt. Of what is polled: an answer like that.
- cut: the venue's connections end without a close handshake, after all that was sent before has been delivered.
- stall: the venue's connections bring nothing for 1 to 15 s, and then all that was due.
- mute: the frames of one stream no longer reach the connection that is subscribed to it. A new subscription on that
  connection, after one was ended, cures it (`resubscribe`), or only one on another connection (`reconnect`).
- close: the venue closes all connections (1001) 5 to 10 s after it has said so, where it can say so.
- limit: a cut, and for 2 to 6 s every request and every handshake is answered with 429.
"""

from collections.abc import Mapping
from random import Random
from typing import NamedTuple

import msgspec

from simulator.contract import BOOKS, KLINES, LIQUIDATIONS, Frame, SimulatorError

FRAME_KINDS = ("gap", "duplicate", "reorder", "garbage")
VENUE_KINDS = ("cut", "stall", "close", "limit")
KINDS = (*FRAME_KINDS, "cut", "stall", "mute", "close", "limit")
TIMED_KINDS = frozenset({"stall", "mute", "close", "limit"})
CHAOS = "chaos"
CURES = ("resubscribe", "reconnect")


class Calm(NamedTuple):
    """So many seconds since the last fault that took time (cut, stall, mute, close, limit), and since any other."""

    timed_s: float = 0.0
    other_s: float = 0.0


class Intent(NamedTuple):
    """A fault that is to be: of the venue (`channel` ""), or of a feed of this channel, streamed or `polled`.

    It is put `at_s` seconds after the beginning or at the next moment at which it can be exact, when it has been calm
    for so long. `seconds`: how long a stall or limit lasts, and how long before it a close is announced.
    """

    kind: str
    at_s: float = 0.0
    channel: str = ""
    polled: bool = False
    seconds: float = 0.0
    cure: str = ""
    calm: Calm = Calm()


class Action(msgspec.Struct, frozen=True, gc=False):
    """What to do next. `what`: "send", "withhold" (issued, never sent), "extra" (a second copy), "garbage", or a kind.

    `fault` names the fault that begins with this action, once per fault, and `intent` tells more of one that is not of
    a frame alone. What is of the whole venue, and garbage of what is polled, has no frame. An "extra" or "garbage" with
    a `stream` and no frame is of the frame sent last on that stream. `held` is the frame that was to come before this
    one, and will come after it.
    """

    what: str
    frame: Frame | None = None
    fault: str | None = None
    intent: Intent | None = None
    stream: str = ""
    held: Frame | None = None


class Times(NamedTuple):
    """Seconds: ranges that lengths are drawn from, and what a schedule keeps free of faults."""

    stall: tuple[float, float] = (1.0, 15.0)
    limit: tuple[float, float] = (2.0, 6.0)
    notice: tuple[float, float] = (5.0, 10.0)
    timed_calm: float = 20.0
    """Between two faults of a feed that take time."""
    calm: float = 5.0
    """Between others."""
    tail: float = 25.0
    """At the end of the run."""
    patience: float = 90.0
    """A mute that nobody cures, or a stream that nobody subscribes to again, holds up other faults for so long."""


TIMES = Times()


def parse_spec(text: str) -> dict[str, float | int]:
    """`gap=0.001,cut=2` as a mapping, `chaos` as {"chaos": 1}. Raises SimulatorError that lists the kinds."""
    if text.strip() == CHAOS:
        return {CHAOS: 1}
    spec: dict[str, float | int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, equals, value = (word.strip() for word in part.partition("="))
        if kind not in KINDS or not equals:
            known = f"{', '.join(KINDS)}, or {CHAOS} alone"
            raise SimulatorError(f"unknown fault {part!r}; write kind=value with a kind of: {known}")
        if kind in spec:
            raise SimulatorError(f"the fault {kind!r} is given twice")
        spec[kind] = _value(kind, value)
    if sum(value for value in spec.values() if isinstance(value, float)) > 1.0:
        raise SimulatorError("the probabilities of all faults together exceed 1")
    return spec


def _value(kind: str, text: str) -> float | int:
    if text.isdecimal():
        return int(text)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise SimulatorError(f"{kind}={text}: write a probability per trade (0.001) or a whole number of them (2)")
    return value


def check(spec: Mapping[str, float | int], speed: float | None, has_end: bool) -> None:
    """Raises SimulatorError for faults that cannot be had at this speed (None: max), or without a duration."""
    timed = [kind for kind in spec if kind in TIMED_KINDS or kind == CHAOS]
    if timed and speed is None:
        raise SimulatorError(f"{', '.join(timed)}: these faults take time, which there is none of at speed max")
    if CHAOS in spec and not has_end:
        raise SimulatorError("chaos is spread over a run: give it a duration")


def detailed(intent: Intent, rng: Random, times: Times) -> Intent:
    """With how long it lasts, or what cures it, drawn."""
    ranges = {"stall": times.stall, "limit": times.limit, "close": times.notice}
    if intent.kind in ranges:
        return intent._replace(seconds=round(rng.uniform(*ranges[intent.kind]), 3))
    if intent.kind == "mute":
        return intent._replace(cure=rng.choice(CURES))
    return intent


# What may be done to what

_NOTHING: frozenset[str] = frozenset()
_UNCOUNTED = frozenset({"duplicate", "garbage", "mute"})
_RARE = _UNCOUNTED - {"mute"}
"""Liquidations come so seldom that no silence of theirs is strange within the life of a connection."""
_LEFT_OUT = _UNCOUNTED | {"gap"}
_COUNTED = _LEFT_OUT | {"reorder"}


def kinds_of(frame: Frame) -> frozenset[str]:
    """What may be done to a frame, or to its stream. A difference stands for what is made of it."""
    if frame.kind in {"trade", "depth"}:
        return _COUNTED
    if frame.kind == "garbage" or frame.stream.startswith("rest:") or not frame.marks:
        return _NOTHING
    if frame.numbered:
        return _COUNTED
    if frame.marks[0][0] == LIQUIDATIONS:
        return _RARE
    return _LEFT_OUT if is_kline(frame) else _UNCOUNTED


def channel_of(frame: Frame) -> str:
    """The channel whose records it brings; "": none."""
    if frame.kind == "depth":
        return BOOKS
    return frame.marks[0][0] if frame.marks else ""


def is_kline(frame: Frame) -> bool:
    """Whether it is of klines that are closed."""
    return bool(frame.marks) and frame.marks[0][0] == KLINES


def garble(frame: Frame, rng: Random) -> Frame:
    """A frame of any venue's JSON that nobody can read, of kind "garbage" and without marks."""
    kind = rng.choice(("truncated", "text", "binary"))
    binary = kind == "binary"
    if kind == "truncated":
        share = rng.uniform(0.3, 0.95)
        payload, combined = _truncated(frame.payload, share), _truncated(frame.combined or frame.payload, share)
    else:
        noise = rng.randbytes(rng.randint(8, 40))
        payload = combined = b"\xff" + noise if binary else f"~ {noise.hex()} ~".encode()
    return Frame(frame.time_ns, frame.stream, payload, combined, kind="garbage", symbol=frame.symbol, binary=binary)


def _truncated(message: bytes, share: float) -> bytes:
    return message[: max(1, int(share * len(message)))].decode(errors="ignore").encode() or b"{"
