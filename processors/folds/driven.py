"""What information-driven bars share (bars.md section 3): their profiles, the expected ticks E[T], the open bar."""

import abc
from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Struct

from processors.contract import Closed, Fold, Folded, Stream, Tape
from processors.folds.measure import Measure, least_units
from processors.folds.span import OpenBar
from ravencore.config import BarsSettings, DrivenBarProfile, RuledBarProfile
from ravencore.records import Bar


class Guarded(Struct, frozen=True):
    """What a profile under rule "guarded" computes."""

    rule: str
    initial_size: int
    alpha_size: float
    alpha_imbl: float
    size_min_pct: float
    size_max_pct: float


class Raven(Guarded, frozen=True):
    """What a profile under rule "raven" computes."""

    initial_p_buy: float


Parameters = Guarded | Raven


class MakesGuarded(Protocol):
    """A class of bars under rule "guarded"."""

    def __call__(self, stream: Stream, parameters: Guarded, measure: Measure) -> Fold:
        """Bars of one profile."""


def parameters(kind: str) -> Callable[[BarsSettings, str, str], dict[str, Parameters]]:
    """What reads the profiles of a kind by name, in the order of the settings, the same for every instrument."""

    def read(settings: BarsSettings, _venue: str, _symbol: str) -> dict[str, Parameters]:
        profiles: dict[str, DrivenBarProfile] = getattr(settings, kind)
        return {name: _parameters(profile) for name, profile in profiles.items()}

    return read


def _parameters(profile: DrivenBarProfile) -> Parameters:
    fields = profile.model_dump()
    if isinstance(profile, RuledBarProfile) and profile.rule == "raven":
        return Raven(**fields)
    fields.pop("initial_p_buy", None)
    return Guarded(**fields)


def maker(
    measure: Measure, guarded: MakesGuarded, raven: Callable[[Stream, Raven], Fold] | None = None
) -> Callable[[Stream, Parameters], Fold]:
    """What makes a profile's bars by its rule."""

    def make(stream: Stream, parameters: Parameters) -> Fold:
        if isinstance(parameters, Raven):
            assert raven is not None, "settings have no rule raven for these kinds"
            return raven(stream, parameters)
        return guarded(stream, parameters, measure)

    return make


class ExpectedTicks:
    """E[T] under its clamp."""

    __slots__ = ("_alpha", "_highest", "_lowest", "_rest", "value")

    def __init__(self, parameters: Guarded) -> None:
        size = parameters.initial_size
        self._alpha, self._rest = parameters.alpha_size, 1.0 - parameters.alpha_size
        self._lowest = size * (1.0 - parameters.size_min_pct)
        self._highest = size * (1.0 + parameters.size_max_pct)
        self.value = float(size)

    def learn(self, ticks: int) -> None:
        """Take in the ticks of a bar that is over."""
        self.value = min(max(self._alpha * ticks + self._rest * self.value, self._lowest), self._highest)


class GuardedBars(Fold, abc.ABC):
    """Bars under rule "guarded": the first closes at exactly N ticks, the others when theta reaches a threshold."""

    def __init__(self, stream: Stream, parameters: Guarded, measure: Measure) -> None:
        self._stream, self._measure = stream, measure
        self._initial = parameters.initial_size
        self._alpha, self._rest = parameters.alpha_imbl, 1.0 - parameters.alpha_imbl
        self._size = ExpectedTicks(parameters)
        self._bar_seq = 0
        self._bar: OpenBar | None = None
        self._warm = False
        self._threshold = 0.0
        self._needed = 0
        """The threshold in exact units: the fewest that reach it."""

    def trades(self, tape: Tape) -> Folded:
        """Bars that these trades close."""
        closed: list[Closed] = []
        start = 0
        while (stop := self._closing(tape, start)) is not None:
            self._add(tape, start, stop)
            closed.append(Closed(stop - 1, self._close()))
            start = stop
        if start < len(tape):
            self._add(tape, start, len(tape))
        return Folded(closed)

    def snapshot(self) -> Any:
        """Everything, as MessagePack-able values."""
        bar = self._bar.pack() if self._bar else None
        return [self._bar_seq, self._warm, self._size.value, bar, *self._pack()]

    def restore(self, snapshot: Any) -> None:
        """Take over a snapshot."""
        self._bar_seq, self._warm, self._size.value, bar, *rest = snapshot
        self._bar = None if bar is None else OpenBar.unpack(bar)
        self._unpack(rest)
        if self._warm:
            self._aim()

    @abc.abstractmethod
    def _reached(self, tape: Tape, start: int) -> int | None:
        """One past the row at which theta of the open bar, from `start` on, reaches what is needed."""

    @abc.abstractmethod
    def _gather(self, tape: Tape, start: int, stop: int) -> None:
        """Add rows to the statistic of the open bar."""

    @abc.abstractmethod
    def _theta(self) -> float:
        """The statistic of the open bar."""

    @abc.abstractmethod
    def _learn(self, bar: OpenBar, theta: float) -> None:
        """Take in a bar that is over, whose E[T] is not learnt yet, and forget its statistic."""

    @abc.abstractmethod
    def _reach(self) -> float:
        """The threshold of the next bar."""

    @abc.abstractmethod
    def _pack(self) -> list[Any]:
        """Statistic and estimates, as MessagePack-able values."""

    @abc.abstractmethod
    def _unpack(self, packed: list[Any]) -> None:
        """Take over what `_pack` wrote."""

    def _closing(self, tape: Tape, start: int) -> int | None:
        """One past the row that closes the open bar; None where none does."""
        if self._warm:
            return self._reached(tape, start)
        stop = start + self._initial - (self._bar.ticks if self._bar else 0)
        return stop if stop <= len(tape) else None

    def _add(self, tape: Tape, start: int, stop: int) -> None:
        self._gather(tape, start, stop)
        if self._bar:
            self._bar.extend(tape, start, stop)
        else:
            self._bar = OpenBar(tape, start, stop)

    def _close(self) -> Bar:
        bar, theta = self._bar, self._theta()
        assert bar is not None
        record = bar.record(
            self._stream,
            self._bar_seq,
            open_time=bar.open_time,
            close_time=bar.close_time,
            gap=bar.gap,
            theta=theta,
            threshold=self._threshold if self._warm else None,
            expected_ticks=self._size.value if self._warm else None,
            warmup=not self._warm,
        )
        self._learn(bar, theta)
        if self._warm:
            self._size.learn(bar.ticks)
        self._warm = True
        self._aim()
        self._bar_seq += 1
        self._bar = None
        return record

    def _aim(self) -> None:
        self._threshold = self._reach()
        self._needed = least_units(self._threshold, self._measure.scale)

    def _moved(self, before: float, now: float) -> float:
        """An estimate after a bar: an EWMA step, or the bar itself where it is the first."""
        return self._alpha * now + self._rest * before if self._warm else now
