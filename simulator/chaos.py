"""A plan of faults for a whole run: of every kind on every feed that can have it, and some more at random. Pure.

A venue's faults of whole connections (cut, stall, limit, close) need all its feeds calm, and so do not go together with
mutes, which take as long as the collector needs to notice. A long run has a calm part, with the mutes and with gaps in
klines (of which there is one a minute), and a disturbed part; half of the venues have the one first, half the other. A
short run gives each venue one or two faults that take time, each another one, so that all kinds are met. What is put on
single frames is spread over all of it. Seconds are those of a clock since the run began.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from random import Random
from typing import NamedTuple

from simulator.contract import KLINES, Frame
from simulator.faults import CURES, FRAME_KINDS, TIMES, VENUE_KINDS, Calm, Intent, Times, channel_of, detailed, kinds_of

SURVEY_SECONDS = 65.0
"""Of a market, to find its feeds: one minute ends in it."""
LONG_SECONDS = 300.0
FIRST_SECONDS, FIRST_SHARE = 15.0, 0.1
LEARNING_SECONDS = 30.0
CALM_SHARE = 0.38
DISTURBANCE_SECONDS = 45.0
SHORT_TURN_SECONDS = 35.0
LIMIT_SECONDS = 150.0
EARLY_SHARE = 0.8
SPRINKLED_EVERY_SECONDS = 15.0
TURNS = ("cut", "stall", "mute", "close", "limit")


class Offer(NamedTuple):
    """What a venue's market has: by channel, what can be done to its streams; the channels that are polled; and those
    in which something happens all the time."""

    streamed: Mapping[str, frozenset[str]]
    polled: frozenset[str] = frozenset()
    lively: frozenset[str] = frozenset()


def survey(frames: Iterable[Frame]) -> Offer:
    """What there is in frames."""
    streamed: dict[str, frozenset[str]] = {}
    polled: set[str] = set()
    counts: Counter[str] = Counter()
    for frame in frames:
        channel = channel_of(frame)
        if kinds := kinds_of(frame):
            streamed[channel] = streamed.get(channel, frozenset()) | kinds
            counts[channel] += 1
        elif frame.marks and frame.stream.startswith("rest:"):
            polled.add(channel)
    lively = frozenset(channel for channel, count in counts.items() if count >= SURVEY_SECONDS)
    return Offer(streamed, frozenset(polled), lively)


class _Window(NamedTuple):
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    def split(self, share: float) -> tuple["_Window", "_Window"]:
        at = self.begin + share * self.seconds
        return _Window(self.begin, at), _Window(at, self.end)


def plan(offers: Mapping[str, Offer], seed: int, duration_s: float, times: Times = TIMES) -> dict[str, list[Intent]]:
    """By venue, what is to be done, in order."""
    window = _Window(min(FIRST_SECONDS, FIRST_SHARE * duration_s), duration_s - times.tail)
    if window.seconds <= 0.0:
        return {venue: [] for venue in offers}
    # Those that are only polled have limits alone, and no turn.
    turns = {venue: seed + at for at, venue in enumerate(venue for venue, one in offers.items() if one.streamed)}
    return {
        venue: _Planner(Random(f"chaos/{seed}/{venue}"), offer, times).plan(window, turns.get(venue, 0))
        for venue, offer in offers.items()
    }


class _Planner:
    """Of one venue."""

    def __init__(self, rng: Random, offer: Offer, times: Times) -> None:
        self.rng = rng
        self.offer = offer
        self.times = times
        self.intents: list[Intent] = []

    def plan(self, window: _Window, turn: int) -> list[Intent]:
        """`turn`: what comes first, so that venues differ."""
        if not self.offer.streamed:
            self._in_turn(window, ["limit"] * max(1, int(window.seconds / LIMIT_SECONDS)))
        elif window.seconds >= LONG_SECONDS:
            self._long(window, turn)
        else:
            self._short(window, turn)
        self._frames(window)
        return sorted(self.intents, key=lambda intent: intent.at_s)

    def _long(self, window: _Window, turn: int) -> None:
        if turn % 2:
            disturbed, calm = window.split(1.0 - CALM_SHARE)
        else:
            calm, disturbed = window.split(CALM_SHARE)
            calm = calm._replace(begin=max(calm.begin, LEARNING_SECONDS))
        self._mutes(calm)
        self._kline_gaps(calm)
        kinds = [VENUE_KINDS[(turn + at) % len(VENUE_KINDS)] for at in range(len(VENUE_KINDS))]
        slots = max(len(kinds), int(disturbed.seconds / DISTURBANCE_SECONDS))
        kinds += [self.rng.choice(VENUE_KINDS) for _ in range(slots - len(kinds))]
        self._in_turn(disturbed, kinds)

    def _short(self, window: _Window, turn: int) -> None:
        slots = max(1, int(window.seconds / SHORT_TURN_SECONDS))
        self._in_turn(window, [TURNS[(turn + at * 2) % len(TURNS)] for at in range(slots)])
        self._kline_gaps(window)

    def _in_turn(self, window: _Window, kinds: list[str]) -> None:
        pace = window.seconds / len(kinds)
        for at, kind in enumerate(kinds):
            begin = window.begin + at * pace + self.rng.uniform(0.0, 0.2) * pace
            if kind == "mute":
                self._add("mute", begin, self._lively(), cure=self.rng.choice(CURES))
            else:
                self._add(kind, begin)

    def _lively(self) -> str:
        """A channel whose silence is noticed soon."""
        return self.rng.choice(sorted(self.offer.lively or self.offer.streamed))

    def _mutes(self, window: _Window) -> None:
        """Of each channel one that each cure helps, evenly."""
        mutable = [channel for channel, kinds in sorted(self.offer.streamed.items()) if "mute" in kinds]
        waves = [[(channel, CURES[(at + wave) % 2]) for at, channel in enumerate(mutable)] for wave in range(2)]
        for wave in waves:
            self.rng.shuffle(wave)
        all_of_them = [one for wave in waves for one in wave]
        # The last must have been noticed before the others' turn.
        pace = EARLY_SHARE * window.seconds / max(len(all_of_them), 1)
        for at, (channel, cure) in enumerate(all_of_them):
            self._add("mute", window.begin + at * pace, channel, cure=cure)

    def _kline_gaps(self, window: _Window) -> None:
        if KLINES in self.offer.streamed:
            self._add("gap", window.begin, KLINES)

    def _frames(self, window: _Window) -> None:
        """What is put on single frames, and on single answers: each once, early enough to wait, and more at random."""
        kinds = [
            (channel, kind)
            for channel, possible in sorted(self.offer.streamed.items())
            for kind in FRAME_KINDS
            if kind in possible and (channel, kind) != (KLINES, "gap")
        ]
        early = EARLY_SHARE * window.seconds
        for channel, kind in kinds:
            self._add(kind, window.begin + self.rng.random() * early, channel)
        for channel in sorted(self.offer.polled):
            self._add("garbage", window.begin + self.rng.random() * early, channel, polled=True)
        # Not where it would take the rare moment of one that must be.
        more = [one for one in kinds if one[0] in self.offer.lively]
        for _ in range(int(window.seconds / SPRINKLED_EVERY_SECONDS) if more else 0):
            channel, kind = self.rng.choice(more)
            self._add(kind, window.begin + self.rng.random() * window.seconds, channel)

    def _add(self, kind: str, at_s: float, channel: str = "", *, cure: str = "", polled: bool = False) -> None:
        timed = not channel or kind == "mute" or (channel, kind) == (KLINES, "gap")
        calm = Calm(self.times.timed_calm if timed else self.times.calm, self.times.calm)
        intent = Intent(kind, round(at_s, 3), channel, polled=polled, calm=calm)
        known = detailed(intent, self.rng, self.times)
        self.intents.append(known._replace(cure=cure or known.cure))
