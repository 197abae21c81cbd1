"""Puts faults between a market and its clients: (frames, spec or schedule, seed) in, actions out; deterministic.

So that a perfect observer counts exactly what was injected: a symbol's faults (but for garbage) have at least one
plain frame between them, never touch its first or last trade or a hole of the source, and a cut waits for all of them.
With one symbol per frame a gap is one hole in its ids; with several it is one for each of them. Gaps and reorders are
put only where a reader can count: trades, differences of books, closed klines (gaps), frames that the venue numbers.
What a venue makes of a difference (Books.make) shares its fate, but for the top of the book, which nobody counts: it
has faults of its own where nobody listens to differences.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import NamedTuple, Protocol

from simulator.contract import BOOKS, Frame
from simulator.faults import (
    TIMES,
    VENUE_KINDS,
    Action,
    Calm,
    Intent,
    Times,
    channel_of,
    detailed,
    garble,
    is_kline,
    kinds_of,
)

MAX_GAP_FRAMES = 5
MAX_DUPLICATE_DELAY_FRAMES = 5
MAX_REORDER_NS = 300_000_000
LOOKAHEAD_FRAMES = 2048
FAR_SECONDS, MAX_PULLED = 60.0, 3
NEXT_KLINE_NS = 65 * 10**9

Spoil = Callable[[Frame, Random], Frame]


class Audience(Protocol):
    """Who listens: what an injector asks before it does anything."""

    def streams(self, frame: Frame) -> Sequence[str]:
        """The streams with subscribers on which this frame, or what is made of it, is counted: mostly its own."""

    def top(self, frame: Frame) -> str:
        """The stream with subscribers that tells the top of the book after this difference; "" for none."""

    def hearing(self, frame: Frame) -> int:
        """0 when nobody is subscribed to `streams`, else a number that is another one after each new subscription."""

    def alone(self, stream: str) -> bool:
        """Whether one connection only is subscribed."""

    def anybody(self) -> bool:
        """Whether anything is subscribed to."""

    def calm(self, stream: str | None, calm: Calm) -> bool:
        """Whether no fault goes on, and none has for so long: on this stream, or anywhere at the venue (None)."""

    def give_up(self, intents: Iterable[Intent]) -> None:
        """No moment was found for these."""


class Everybody:
    """An audience that hears everything, always."""

    def streams(self, frame: Frame) -> Sequence[str]:
        return (frame.stream,)

    def top(self, frame: Frame) -> str:
        return ""

    def hearing(self, frame: Frame) -> int:
        return 1

    def alone(self, stream: str) -> bool:
        return True

    def anybody(self) -> bool:
        return True

    def calm(self, stream: str | None, calm: Calm) -> bool:
        return True

    def give_up(self, intents: Iterable[Intent]) -> None:
        """Nobody asks."""


class Schedule(NamedTuple):
    """What is to be put, when, and before whom. Market time runs from `begins_ns` to `ends_ns`, `speed` times as fast
    as clocks do."""

    intents: Sequence[Intent] = ()
    audience: Audience = Everybody()
    begins_ns: int = 0
    ends_ns: int = 2**63
    speed: float = 1.0
    times: Times = TIMES

    def after_ns(self, seconds: float) -> int:
        """A span of a clock in market time."""
        return int(seconds * 1e9 * self.speed)


UNSCHEDULED = Schedule()


def inject(
    frames: Iterable[Frame],
    spec: Mapping[str, float | int],
    seed: int | str,
    spoil: Spoil,
    expected_trades: int,
    *,
    schedule: Schedule = UNSCHEDULED,
) -> Iterator[Action]:
    """The actions that put `spec` and `schedule` upon `frames`; whole numbers are spread over `expected_trades`."""
    if not any(spec.values()) and not schedule.intents:
        return (Action("send", frame) for frame in frames)
    return _Injector(spec, Random(f"faults/{seed}"), spoil, expected_trades, schedule).run(iter(frames))


class _Stream:
    """Where one stream stands: each symbol's last id, whether that was a plain frame, and what is being done to it.

    `hearing`: the audience of the last frame sent.
    """

    def __init__(self) -> None:
        self.ahead: deque[Frame] = deque()
        self.last: dict[str, int] = {}
        self.plain: set[str] = set()
        self.hearing = 0
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
        first = self.ahead[0]
        sure = frames == 1 and is_kline(first)
        if self.busy or (len(self.ahead) <= frames and not sure):
            return False
        if first.kind != "trade":
            return first.stream in self.plain
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

    def hear(self, hearing: int) -> None:
        """What was plain to others is not to those who listen now."""
        if hearing != self.hearing:
            self.hearing = hearing
            self.plain.clear()


def _key(frame: Frame) -> str:
    """A stream may carry the differences of many books, each counted for itself."""
    return f"{frame.stream} {frame.symbol}" if frame.kind == "depth" else frame.stream


def _ids(frame: Frame) -> Iterator[tuple[str, int]]:
    """By what a reader counts: each symbol's ids; for other frames than trades, only that the stream goes on."""
    if frame.kind != "trade":
        return iter(((frame.stream, 0),))
    return ((symbol, trade_id or 0) for _, symbol, trade_id in frame.marks)


class _Injector:
    def __init__(
        self,
        spec: Mapping[str, float | int],
        rng: Random,
        spoil: Spoil,
        expected_trades: int,
        schedule: Schedule,
    ) -> None:
        self.rng = rng
        self.spoil = spoil
        self.schedule = schedule
        self.audience = schedule.audience
        self.streams: dict[str, _Stream] = {}
        self.unsettled: set[str] = set()
        self.far_ns = schedule.after_ns(FAR_SECONDS) if schedule.intents else 0
        self.coming = deque(sorted(schedule.intents, key=lambda intent: intent.at_s))
        self.due: list[Intent] = []
        self.chances = [(kind, value) for kind, value in spec.items() if isinstance(value, float)]
        self.owed: dict[str, deque[int]] = {
            kind: deque(sorted(rng.randrange(max(expected_trades, 1)) for _ in range(value)))
            for kind, value in spec.items()
            if isinstance(value, int)
        }
        self.trades_seen = 0

    def run(self, frames: Iterator[Frame]) -> Iterator[Action]:
        window: deque[Frame] = deque()
        pulled = 0
        for frame in frames:
            window.append(frame)
            pulled += 1
            if self._touches(frame):
                self.streams.setdefault(_key(frame), _Stream()).ahead.append(frame)
            # It sees further step by step: to make a minute of all markets at once would hold up the clock.
            sees_far = pulled >= MAX_PULLED or frame.time_ns - window[0].time_ns >= self.far_ns
            if len(window) > LOOKAHEAD_FRAMES and sees_far:
                pulled = 0
                yield from self._pass_on(window.popleft())
        while window:
            yield from self._pass_on(window.popleft())
        for state in self.streams.values():
            if state.copy is not None:
                yield Action("extra", state.copy, "duplicate")

    def _touches(self, frame: Frame) -> bool:
        """A spec is about trades, a schedule about all."""
        return bool(kinds_of(frame)) if self.schedule.intents else frame.kind == "trade"

    def _pass_on(self, frame: Frame) -> Iterator[Action]:
        yield from self._keep_schedule(frame)
        if not self._touches(frame):
            yield Action("send", frame)
            return
        key = _key(frame)
        state = self.streams[key]
        if state.held is None and not state.dropping:
            yield from self._begin(state, frame)
        yield from self._step(state, frame)
        (self.unsettled.discard if state.settled else self.unsettled.add)(key)
        self.trades_seen += frame.kind == "trade"

    def _begin(self, state: _Stream, frame: Frame) -> Iterator[Action]:
        """Start the fault that is due at this frame, if it can be exact here."""
        intent = self._choose(state, frame)
        if intent is None:
            return
        kind = intent.kind
        if kind == "gap":
            state.dropping = self._gap_length(state)
        elif kind == "reorder":
            state.held = frame
        elif kind == "duplicate":
            longest = MAX_DUPLICATE_DELAY_FRAMES if frame.kind == "trade" else 0
            state.copy, state.copy_in_frames = frame, self.rng.randint(0, longest)
        elif kind == "garbage" and frame.kind == "depth":
            yield Action("garbage", None, "garbage", intent, self.audience.streams(frame)[0])
        elif kind == "garbage":
            spoil = self.spoil if frame.kind == "trade" else garble
            yield Action("garbage", spoil(frame, self.rng), "garbage", intent)
        elif kind == "mute":
            yield Action("mute", None, "mute", intent, self.audience.streams(frame)[0])
        else:
            yield Action(kind, None, kind, intent)

    def _choose(self, state: _Stream, frame: Frame) -> Intent | None:
        for intent in self.due:
            if intent.channel == channel_of(frame) and not self._blocked and self._possible(intent, state, frame):
                self.due.remove(intent)
                return intent
        return self._draw(state, frame) if frame.kind == "trade" else None

    def _draw(self, state: _Stream, frame: Frame) -> Intent | None:
        """What the spec puts here."""
        for kind, positions in self.owed.items():
            if positions and positions[0] <= self.trades_seen and self._possible(Intent(kind), state, frame):
                positions.popleft()
                return self._detailed(kind)
        draw = self.rng.random()
        for kind, chance in self.chances:
            if draw < chance:
                return self._detailed(kind) if self._possible(Intent(kind), state, frame) else None
            draw -= chance
        return None

    def _detailed(self, kind: str) -> Intent:
        return detailed(Intent(kind), self.rng, self.schedule.times)

    def _possible(self, intent: Intent, state: _Stream, frame: Frame) -> bool:
        kind = intent.kind
        if kind in VENUE_KINDS:
            return self._possible_for_all(intent)
        streams = self.audience.streams(frame)
        if kind not in kinds_of(frame) or not streams:
            return False
        if not all(self.audience.calm(stream, intent.calm) for stream in streams):
            return False
        if kind == "garbage":
            return True
        if kind == "mute":
            return state.settled and self.audience.alone(streams[0]) and state.is_plain(frame)
        if kind == "duplicate":
            return self._is_heard(state, frame) and state.is_plain(frame)
        return self._is_heard(state, frame) and self._may_leave_out(kind, state, frame)

    def _is_heard(self, state: _Stream, frame: Frame) -> bool:
        """Whether those who heard the frame before will hear this one.

        Few connections last for two minutes in a disturbed run: of klines somebody must have heard the one before.
        """
        hearing = self.audience.hearing(frame)
        return hearing > 0 and (state.hearing == hearing or (is_kline(frame) and state.hearing > 0))

    def _may_leave_out(self, kind: str, state: _Stream, frame: Frame) -> bool:
        if not state.counts_on(1 if kind == "gap" else 2):
            return False
        if is_kline(frame) and frame.time_ns + NEXT_KLINE_NS >= self.schedule.ends_ns:
            return False
        return kind == "gap" or state.ahead[1].time_ns - state.ahead[0].time_ns <= MAX_REORDER_NS

    def _possible_for_all(self, intent: Intent) -> bool:
        if self.unsettled or not self.audience.calm(None, intent.calm):
            return False
        return intent.kind == "limit" or self.audience.anybody()

    def _gap_length(self, state: _Stream) -> int:
        length = self.rng.randint(1, MAX_GAP_FRAMES)
        while not state.counts_on(length):
            length -= 1
        return length

    def _step(self, state: _Stream, frame: Frame) -> Iterator[Action]:
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
            yield Action("send", frame, "reorder", held=state.held)
            yield Action("send", state.held)
            state.plain -= symbols
            state.held = None
        else:
            yield Action("send", frame)
            state.dropped -= symbols
            state.hear(self.audience.hearing(frame))
            if not state.busy and state.hearing:
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

    # The schedule

    @property
    def _blocked(self) -> bool:
        """A fault of the whole venue waits for calm: nothing else may begin."""
        return any(not intent.channel for intent in self.due)

    def _keep_schedule(self, frame: Frame) -> Iterator[Action]:
        """Note what is due, and begin what is of no single frame."""
        schedule, time_ns = self.schedule, frame.time_ns
        while self.coming and schedule.begins_ns + schedule.after_ns(self.coming[0].at_s) <= time_ns:
            self.due.append(self.coming.popleft())
        if not self.due:
            return
        if time_ns >= schedule.ends_ns - schedule.after_ns(schedule.times.tail):
            self.audience.give_up([*self.due, *self.coming])
            self.due.clear()
            self.coming.clear()
            return
        blocked = self._blocked
        for intent in self.due:
            if not intent.channel and not self._possible_for_all(intent):
                return
            action = self._at_once(intent, frame) if intent.channel else Action(intent.kind, None, intent.kind, intent)
            if action is not None and (not blocked or not intent.channel):
                self.due.remove(intent)
                yield action
                return

    def _at_once(self, intent: Intent, frame: Frame) -> Action | None:
        """What is polled, and the tops that are made of differences, are no frames of the market."""
        if intent.polled:
            return Action("garbage", None, "garbage", intent)
        if intent.channel != BOOKS or frame.kind != "depth" or intent.kind in {"gap", "reorder"}:
            return None
        top = self.audience.top(frame)
        if not top or self.audience.streams(frame) or not self.audience.calm(top, intent.calm):
            return None
        if intent.kind == "mute":
            return Action("mute", None, "mute", intent, top) if self.audience.alone(top) else None
        return Action("extra" if intent.kind == "duplicate" else "garbage", None, intent.kind, intent, top)
