"""Faults put between a market and its clients: (frames, spec, seed) in, actions out; deterministic.

A spec is `kind=value,...`; a value with a decimal point (0.001) is the probability per trade frame, a whole number (2)
is how many of them, spread at random over the trades that are expected. A trade frame holds one trade or several, of
one symbol or of several, and is the unit of every fault. Kinds:

- gap: 1 to 5 consecutive trade frames of a stream are never sent. Their neighbours are, and count on from each other.
- duplicate: a frame is sent again, at once or up to 5 trade frames of its stream later.
- reorder: a frame and the next of its stream change places; they are at most 200 ms apart.
- garbage: an extra frame that nobody can read; no real frame is ever spoilt.
- cut: the venue's connections end without a close handshake, after all that was sent before has been delivered.

So that a perfect observer counts exactly what was injected: a symbol's faults (but for garbage) have at least one
plain frame between them, never touch its first or last trade or a hole of the source, and a cut waits for all of them.
With one symbol per frame a gap is one hole in its ids; with several it is one for each of them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from random import Random

import msgspec

from simulator.contract import Frame, SimulatorError

KINDS = ("gap", "duplicate", "reorder", "garbage", "cut")
MAX_GAP_FRAMES = 5
MAX_DUPLICATE_DELAY_FRAMES = 5
MAX_REORDER_NS = 200_000_000
LOOKAHEAD_FRAMES = 2048

Spoil = Callable[[Frame, Random], Frame]


class Action(msgspec.Struct, frozen=True, gc=False):
    """What to do next. `what`: "send", "withhold" (issued, never sent), "extra" (a second copy), "garbage" or "cut".

    `fault` names the fault that begins with this action, once per fault; a cut has no frame.
    """

    what: str
    frame: Frame | None = None
    fault: str | None = None


def parse_spec(text: str) -> dict[str, float | int]:
    """`gap=0.001,cut=2` as a mapping. Raises SimulatorError that lists the kinds."""
    spec: dict[str, float | int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, equals, value = (word.strip() for word in part.partition("="))
        if kind not in KINDS or not equals:
            raise SimulatorError(f"unknown fault {part!r}; write kind=value with a kind of: {', '.join(KINDS)}")
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


def inject(
    frames: Iterable[Frame],
    spec: Mapping[str, float | int],
    seed: int | str,
    spoil: Spoil,
    expected_trades: int,
) -> Iterator[Action]:
    """The actions that put `spec` upon `frames`; whole numbers are spread over `expected_trades`."""
    if not any(spec.values()):
        return (Action("send", frame) for frame in frames)
    return _Injector(spec, Random(f"faults/{seed}"), spoil, expected_trades).run(iter(frames))


class _Stream:
    """Where one stream stands: each symbol's last id, whether that was a plain trade, and what is being done to it."""

    def __init__(self) -> None:
        self.ahead: deque[Frame] = deque()
        self.last: dict[str, int] = {}
        self.plain: set[str] = set()
        self.dropped: set[str] = set()
        self.dropping = 0
        self.in_gap = False
        self.held: Frame | None = None
        self.copy: Frame | None = None
        self.copy_in_frames = 0

    @property
    def busy(self) -> bool:
        return bool(self.dropping) or self.held is not None or self.copy is not None

    @property
    def settled(self) -> bool:
        """Nothing begun here waits for a frame yet to come."""
        return not self.busy and not self.dropped

    def counts_on(self, frames: int) -> bool:
        """Whether the symbols of the next `frames` are plain, and count up through them to one more without a hole."""
        if self.busy or len(self.ahead) <= frames:
            return False
        last: dict[str, int] = {}
        for frame in islice(self.ahead, frames):
            for symbol, trade_id in _ids(frame):
                if symbol not in self.plain or trade_id != last.get(symbol, self.last[symbol]) + 1:
                    return False
                last[symbol] = trade_id
        return self._go_on(last, frames)

    def _go_on(self, last: dict[str, int], frames: int) -> bool:
        """Whether each of these symbols has its next id in the frames after those."""
        waiting = dict(last)
        for frame in islice(self.ahead, frames, None):
            for symbol, trade_id in _ids(frame):
                if symbol in waiting and trade_id != waiting.pop(symbol) + 1:
                    return False
            if not waiting:
                return True
        return False

    def is_plain(self, frame: Frame) -> bool:
        return not self.busy and all(symbol in self.plain for symbol, _ in _ids(frame))


def _ids(frame: Frame) -> Iterator[tuple[str, int]]:
    return ((symbol, trade_id or 0) for _, symbol, trade_id in frame.marks)


class _Injector:
    def __init__(self, spec: Mapping[str, float | int], rng: Random, spoil: Spoil, expected_trades: int) -> None:
        self.rng = rng
        self.spoil = spoil
        self.streams: dict[str, _Stream] = {}
        self.chances = [(kind, value) for kind, value in spec.items() if isinstance(value, float)]
        self.owed: dict[str, deque[int]] = {
            kind: deque(sorted(rng.randrange(max(expected_trades, 1)) for _ in range(value)))
            for kind, value in spec.items()
            if isinstance(value, int)
        }
        self.trades_seen = 0

    def run(self, frames: Iterator[Frame]) -> Iterator[Action]:
        window: deque[Frame] = deque()
        for frame in frames:
            window.append(frame)
            if frame.kind == "trade":
                self.streams.setdefault(frame.stream, _Stream()).ahead.append(frame)
            if len(window) > LOOKAHEAD_FRAMES:
                yield from self._pass_on(window.popleft())
        while window:
            yield from self._pass_on(window.popleft())
        for state in self.streams.values():
            if state.copy is not None:
                yield Action("extra", state.copy, "duplicate")

    def _pass_on(self, frame: Frame) -> Iterator[Action]:
        if frame.kind != "trade":
            yield Action("send", frame)
            return
        state = self.streams[frame.stream]
        if state.held is None and not state.dropping:
            yield from self._begin(state, frame)
        yield from self._trade(state, frame)
        self.trades_seen += 1

    def _begin(self, state: _Stream, frame: Frame) -> Iterator[Action]:
        """Start the fault that is due at this trade, if it can be exact here."""
        kind = self._choose(state)
        if kind == "gap":
            state.dropping = self._gap_length(state)
        elif kind == "reorder":
            state.held = frame
        elif kind == "duplicate":
            state.copy, state.copy_in_frames = frame, self.rng.randint(0, MAX_DUPLICATE_DELAY_FRAMES)
        elif kind == "garbage":
            yield Action("garbage", self.spoil(frame, self.rng), "garbage")
        elif kind == "cut":
            yield Action("cut", None, "cut")

    def _choose(self, state: _Stream) -> str | None:
        for kind, positions in self.owed.items():
            if positions and positions[0] <= self.trades_seen and self._possible(kind, state):
                positions.popleft()
                return kind
        draw = self.rng.random()
        for kind, chance in self.chances:
            if draw < chance:
                return kind if self._possible(kind, state) else None
            draw -= chance
        return None

    def _possible(self, kind: str, state: _Stream) -> bool:
        if kind == "garbage":
            return True
        if kind == "cut":
            return all(other.settled for other in self.streams.values())
        if kind == "duplicate":
            return state.is_plain(state.ahead[0])
        if not state.counts_on(1 if kind == "gap" else 2):
            return False
        return kind == "gap" or state.ahead[1].time_ns - state.ahead[0].time_ns <= MAX_REORDER_NS

    def _gap_length(self, state: _Stream) -> int:
        length = self.rng.randint(1, MAX_GAP_FRAMES)
        while not state.counts_on(length):
            length -= 1
        return length

    def _trade(self, state: _Stream, frame: Frame) -> Iterator[Action]:
        state.ahead.popleft()
        symbols = {symbol for symbol, _ in _ids(frame)}
        if state.dropping:
            yield Action("withhold", frame, None if state.in_gap else "gap")
            state.dropping -= 1
            state.in_gap = bool(state.dropping)
            state.dropped |= symbols
            state.plain -= symbols
        elif state.held is frame:
            state.plain -= symbols
        elif state.held is not None:
            yield Action("send", frame, "reorder")
            yield Action("send", state.held)
            state.plain -= symbols
            state.held = None
        else:
            yield Action("send", frame)
            state.dropped -= symbols
            if not state.busy:
                state.plain |= symbols
        for symbol, trade_id in _ids(frame):
            state.last[symbol] = max(trade_id, state.last.get(symbol, trade_id))
        if state.copy is not None:
            yield from self._copy(state, state.copy)

    def _copy(self, state: _Stream, copy: Frame) -> Iterator[Action]:
        if state.copy_in_frames:
            state.copy_in_frames -= 1
            return
        yield Action("extra", copy, "duplicate")
        state.plain -= {symbol for symbol, _ in _ids(copy)}
        state.copy = None
