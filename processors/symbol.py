"""All folds of one instrument with the input rules of bars.md section 0, as one pure state machine.

A trade is looked at in this order, and what stops it changes nothing else:
1. Unsound (price, quantity or times that cannot be): refused, `bad_value`. Its id stays unseen: the next trade finds
   a hole, and its bars say so.
2. Seen before: a duplicate, counted and dropped.
3. Inside a hole: a late repair, offered to the time windows that are open.
4. New: every fold takes it. Where its window is closed, that time bar counts it as late. Where it would close more
   than 10,000 VPIN buckets, VPIN alone leaves it out: a dead letter tells of it, `bucket_too_small`.

Folds that are switched off, and profiles that the settings no longer have, sleep: their state is kept as it was, open
bar included, and they take neither trades nor Clocks. Awake again they go on where they stood. Where a trade came
meanwhile, their next one follows a hole, and what a Clock closes before it has the same gap.
"""

from collections.abc import Collection, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from processors import migrations
from processors.admission import Admission, Verdict
from processors.columns import BAD_VALUE, of_rows, take, unsound
from processors.contract import Applied, Clock, Fold, Output, Refused, Row, StateMismatch, Tape
from processors.migrations import LAYOUT
from processors.registry import Profile, profiles
from ravencore.columns import TradeColumns
from ravencore.config import BarsSettings
from ravencore.records import Bar, Vpin

COUNTS = ("trades", "duplicates", "late_trades", "late_repairs", "holes")
_encoder = msgspec.msgpack.Encoder()


def parameters(settings: BarsSettings, venue: str, symbol: str) -> str:
    """Canonical JSON of every profile's parameters of an instrument, by `kind/profile`; raises ConfigError."""
    by_key = {profile.key: profile.parameters for profile in profiles(settings, venue, symbol)}
    return msgspec.json.encode(by_key, order="sorted").decode()


def check_state(layout: int, written: str, settings: BarsSettings, venue: str, symbol: str) -> None:
    """Whether a State record of this layout and these parameters may be restored; raises StateMismatch.

    Profiles that only one side has are no mismatch: a new one starts cold, one that is gone is kept asleep.
    """
    migrations.check(layout, f"{venue}:{symbol}")
    now = parameters(settings, venue, symbol)
    _compare(migrations.parameters(layout, msgspec.json.decode(written)), msgspec.json.decode(now), venue, symbol)


def _compare(before: dict[str, Any], now: dict[str, Any], venue: str, symbol: str) -> None:
    differing = [key for key in sorted(before.keys() & now.keys()) if before[key] != now[key]]
    if differing:
        changes = "; ".join(f"{key} was {_text(before[key])} and is now {_text(now[key])}" for key in differing)
        raise StateMismatch(
            f"the state of {venue}:{symbol} was made with other parameters: {changes}. Give what changed a new "
            "profile name (VPIN: bars.vpin.profiles), put the old parameters back, or reset the state explicitly"
        )


def _text(parameters: Any) -> str:
    return msgspec.json.encode(parameters).decode()


class _Batch:
    """What a batch has done so far."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.refused: list[Refused] = []
        self.counts = dict.fromkeys(COUNTS, 0)

    def applied(self) -> Applied:
        return Applied(self.outputs, sorted(self.refused), self.counts)


class Awake(NamedTuple):
    """A fold at work, and its place among the profiles of the settings."""

    order: int
    profile: Profile
    fold: Fold


class Asleep(NamedTuple):
    """A fold that takes nothing from an offset on."""

    parameters: Any
    state: Any
    """Its snapshot."""
    off_since: int | None
    """The offset at which it was switched off; None: the settings no longer have it, and it wakes when it returns."""


class Symbol:
    """All folds of one instrument."""

    def __init__(self, venue: str, symbol: str, settings: BarsSettings) -> None:
        self._venue, self._symbol = venue, symbol
        self._profiles = profiles(settings, venue, symbol)
        self._written = {it.key: msgspec.Raw(_encoder.encode(it.parameters)) for it in self._profiles}
        """Parameters as they stand in snapshots."""
        self._admission = Admission()
        self._awake = [Awake(order, it, it.make()) for order, it in enumerate(self._profiles)]
        self._asleep: dict[str, Asleep] = {}
        """By `kind/profile`; what the settings no longer have is kept, so that its bars are not numbered anew."""
        self._behind: set[str] = set()
        """Folds that slept while trades came, and have not taken one since."""
        self._outputs: Collection[str] | None = None

    def switch(self, outputs: Collection[str], offset: int) -> None:
        """From this offset on make these outputs, topics without `raven.`, and no others."""
        if outputs == self._outputs:
            return
        self._outputs = outputs
        for one in self._awake:
            if one.profile.output not in outputs:
                written, state = self._written[one.profile.key], one.fold.snapshot()
                self._asleep[one.profile.key] = Asleep(written, state, offset)
        self._awake = [one for one in self._awake if one.profile.output in outputs]
        self._wake({profile.key for profile in self._profiles if profile.output in outputs})

    def apply(self, rows: Sequence[Row | Clock], offsets: Sequence[int]) -> Applied:
        """Apply a batch of this instrument in the order of the log; the cut into batches changes no output."""
        batch = _Batch()
        trades: list[Row] = []
        for place, row in enumerate(rows):
            if not isinstance(row, Clock):
                trades.append(row)
                continue
            self._rows(batch, trades, offsets[place - len(trades) : place])
            trades = []
            self._clock(batch, row, offsets[place])
        self._rows(batch, trades, offsets[len(rows) - len(trades) :])
        return batch.applied()

    def apply_columns(self, trades: TradeColumns, offsets: Sequence[int]) -> Applied:
        """As `apply`, for at least one trade and no Clocks, as `ravencore.columns` reads them."""
        batch = _Batch()
        self._trades(batch, trades, offsets)
        return batch.applied()

    def snapshot(self) -> bytes:
        """The whole state as MessagePack: ids, then each fold's parameters and state by `kind/profile`."""
        awake = {it.profile.key: [self._written[it.profile.key], it.fold.snapshot()] for it in self._awake}
        return _encoder.encode([self._admission.snapshot(), awake, self._asleep, sorted(self._behind)])

    def restore(self, payload: bytes, layout: int = LAYOUT) -> None:
        """Take over a snapshot of the same instrument.

        Raises StateMismatch when this code cannot read its layout, or a profile's parameters differ.
        """
        migrations.check(layout, f"{self._venue}:{self._symbol}")
        admission, awake, asleep, behind = migrations.snapshot(layout, msgspec.msgpack.decode(payload))
        self._asleep = {key: Asleep(*one) for key, one in asleep.items()}
        before = {key: one.parameters for key, one in self._asleep.items()}
        before |= {key: parameters for key, (parameters, _) in awake.items()}
        now = {profile.key: msgspec.to_builtins(profile.parameters) for profile in self._profiles}
        _compare(before, now, self._venue, self._symbol)
        self._admission.restore(admission)
        self._behind, self._outputs = set(behind), None
        self._asleep |= {key: Asleep(parameters, state, None) for key, (parameters, state) in awake.items()}
        self._awake = [it for it in self._awake if it.profile.key not in self._asleep]
        self._wake({key for key, one in self._asleep.items() if one.off_since is None})

    def _wake(self, keys: Collection[str]) -> None:
        """Wake those of the settings' profiles that sleep."""
        for order, profile in enumerate(self._profiles):
            if profile.key in keys and profile.key in self._asleep:
                fold = profile.make()
                fold.restore(self._asleep.pop(profile.key).state)
                self._awake.append(Awake(order, profile, fold))
        self._awake.sort()

    def _clock(self, batch: _Batch, clock: Clock, offset: int) -> None:
        for order, profile, fold in self._awake:
            bars = fold.clock(clock.time_us)
            if profile.key in self._behind:
                bars = [replace(bar, gap=True) for bar in bars]
            batch.outputs += [Output(offset, order, profile.topic, bar, 0) for bar in bars]

    def _rows(self, batch: _Batch, rows: Sequence[Row], offsets: Sequence[int]) -> None:
        if rows:
            self._trades(batch, of_rows(rows), offsets)

    def _trades(self, batch: _Batch, trades: TradeColumns, offsets: Sequence[int]) -> None:
        bad = unsound(trades)
        if not bad and self._admission.take_all(trades.sequence):
            self._fold(batch, trades, offsets, [])
        else:
            self._sift(batch, trades, offsets, bad)

    def _sift(self, batch: _Batch, trades: TradeColumns, offsets: Sequence[int], bad: dict[int, str]) -> None:
        """Go through trades one by one, and fold what is new in stretches as long as may be."""
        taken: list[int] = []
        gaps: list[int] = []
        for row, (sequence, trade_id, after_gap) in enumerate(
            zip(trades.sequence, trades.trade_id, trades.after_gap, strict=True)
        ):
            if row in bad:
                batch.refused.append(Refused(offsets[row], BAD_VALUE, bad[row]))
                self._admission.miss(sequence)
                continue
            verdict = self._admission.judge(sequence, trade_id, after_gap)
            if verdict is Verdict.DUPLICATE:
                batch.counts["duplicates"] += 1
                continue
            self._admission.note(sequence, trade_id)
            if verdict is Verdict.REPAIR:
                self._fold_rows(batch, trades, offsets, taken, gaps)
                taken, gaps = [], []
                self._repair(batch, Tape(take(trades, [row])))
                continue
            if verdict is Verdict.AFTER_HOLE:
                gaps.append(len(taken))
            taken.append(row)
        self._fold_rows(batch, trades, offsets, taken, gaps)

    def _repair(self, batch: _Batch, tape: Tape) -> None:
        batch.counts["late_repairs"] += 1
        self._behind |= self._asleep.keys()
        for one in self._awake:
            one.fold.repair(tape)

    def _fold_rows(
        self, batch: _Batch, trades: TradeColumns, offsets: Sequence[int], rows: Sequence[int], gaps: Sequence[int]
    ) -> None:
        if rows:
            self._fold(batch, take(trades, rows), [offsets[row] for row in rows], gaps)

    def _fold(self, batch: _Batch, trades: TradeColumns, offsets: Sequence[int], gaps: Sequence[int]) -> None:
        """Give accepted trades to every fold, and put what they close in order."""
        tape = Tape(trades, gaps)
        closed: list[tuple[int, int, Bar | Vpin]] = []
        late: set[int] = set()
        for order, profile, fold in self._awake:
            folded = fold.trades(tape.after_hole(0) if profile.key in self._behind else tape)
            closed += [(row, order, record) for row, record in folded.closed]
            late.update(folded.late)
            batch.refused += [Refused(offsets[row], reason, detail) for row, reason, detail in folded.refused]
        closed.sort(key=itemgetter(0, 1))  # stable: several records of one fold and row stay in their order
        batch.outputs += [
            Output(offsets[row], order, self._profiles[order].topic, record, trades.received_time[row])
            for row, order, record in closed
        ]
        batch.counts["trades"] += len(tape)
        batch.counts["holes"] += len(gaps)
        batch.counts["late_trades"] += len(late)
        self._behind = set(self._asleep)
