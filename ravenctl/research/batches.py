"""Trades on their way from a file to the folds: batches as columns, put in the order of their ids, given sides."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

from processors.admission import Admission, Verdict
from processors.columns import unsound
from ravencore.columns import TradeColumns, of_trades
from ravencore.records import Trade

BATCH_ROWS = 4_096
HELD = 1_000
"""Trades held back, because the next batch may have some that go before them: collectors wait 500 ms for those."""
LISTED = 3
"""Refusals that are told one by one."""
_NAMES = [field.name for field in fields(TradeColumns)]


@dataclass(frozen=True, slots=True)
class Batch:
    """A run of trades of one instrument; `lines` is where each stood in its file, counted from 1."""

    lines: Sequence[int]
    trades: TradeColumns

    def __len__(self) -> int:
        return len(self.lines)

    def picked(self, places: Sequence[int]) -> "Batch":
        """The trades at these places, in this order."""
        columns = (getattr(self.trades, name) for name in _NAMES)
        trades = TradeColumns(*([column[place] for place in places] for column in columns))
        return Batch([self.lines[place] for place in places], trades)

    def cut(self, start: int, stop: int) -> "Batch":
        """The trades from `start` to `stop` (exclusive)."""
        columns = (getattr(self.trades, name) for name in _NAMES)
        return Batch(self.lines[start:stop], TradeColumns(*(column[start:stop] for column in columns)))

    def joined(self, other: "Batch") -> "Batch":
        """These trades, then those."""
        columns = ([*getattr(self.trades, name), *getattr(other.trades, name)] for name in _NAMES)
        return Batch([*self.lines, *other.lines], TradeColumns(*columns))


NOTHING = Batch([], TradeColumns([], [], [], [], [], [], [], []))


def of_records(lines: Sequence[int], trades: Sequence[Trade]) -> Batch:
    """A batch of trades as a collector's parser gives them."""
    return Batch(list(lines), of_trades(trades))


class Report:
    """What became of a file's trades, for the last line of a command."""

    def __init__(self) -> None:
        self.refused = 0
        self.first_refusals: list[str] = []
        self.moved = 0
        """Trades that stood behind one with a higher id."""

    def refuse(self, line: int, why: str) -> None:
        """Count a row that is no trade, or that the folds may not see."""
        self.refused += 1
        if len(self.first_refusals) < LISTED:
            self.first_refusals.append(f"line {line}: {why}")

    def refusals(self) -> str:
        """For a person: how many rows were refused, and why the first of them."""
        if not self.refused:
            return "0 refused"
        more = ", ..." if self.refused > len(self.first_refusals) else ""
        return f"{self.refused:,} refused ({'; '.join(self.first_refusals)}{more})"


class InOrder:
    """Puts trades whose ids count into their order, as far as they are not further apart than HELD."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._held = NOTHING

    def add(self, batch: Batch) -> Batch:
        """What is in order now that these have come; it may be empty."""
        whole = self._held.joined(batch) if len(self._held) else batch
        ids = [sequence or 0 for sequence in whole.trades.sequence]
        if sorted(ids) != ids:
            self._report.moved += sum(after < before for before, after in pairwise(ids))
            whole = whole.picked(sorted(range(len(ids)), key=ids.__getitem__))
        ready = max(len(whole) - HELD, 0)
        self._held = whole.cut(ready, len(whole))
        return whole.cut(0, ready)

    def rest(self) -> Batch:
        """What was held back."""
        held, self._held = self._held, NOTHING
        return held


class Admitted:
    """Which trades the folds admit: sound ones, each once, and no repairs of holes (bars.md section 0)."""

    def __init__(self) -> None:
        self._admission = Admission()

    def of(self, trades: TradeColumns, bad: Mapping[int, str]) -> Sequence[bool]:
        """Of each of the next trades whether it is admitted, in turn; `bad` are the places of the unsound ones."""
        if not bad and self._admission.take_all(trades.sequence):
            return [True] * len(trades.price)
        return [
            row not in bad and self._is_new(sequence, trade_id)
            for row, (sequence, trade_id) in enumerate(zip(trades.sequence, trades.trade_id, strict=True))
        ]

    def _is_new(self, sequence: int | None, trade_id: str) -> bool:
        verdict = self._admission.judge(sequence, trade_id, after_gap=False)
        if verdict is not Verdict.DUPLICATE:
            self._admission.note(sequence, trade_id)
        return verdict in (Verdict.NEXT, Verdict.AFTER_HOLE)


class TickRule:
    """Who was the aggressor, by the price alone (Lee and Ready, "Inferring Trade Direction from Intraday Data", 1991).

    A trade above the price before it is a purchase, one below it a sale, one at it is what the trade before it was.
    Trades before the first change of the price count as purchases. Trades that the folds do not admit change nothing.
    """

    def __init__(self) -> None:
        self._price = 0
        self._bought = True
        self._admitted = Admitted()

    def sided(self, batch: Batch) -> Batch:
        """The same trades with their sides."""
        buy = []
        last, bought = self._price, self._bought
        admitted = self._admitted.of(batch.trades, unsound(batch.trades))
        for price, counts in zip(batch.trades.price, admitted, strict=True):
            if counts and price != last:
                bought, last = price > last, price
            buy.append(bought)
        self._price, self._bought = last, bought
        return Batch(batch.lines, replace(batch.trades, buy=buy))


def in_order(batches: Iterator[Batch], report: Report) -> Iterator[Batch]:
    """Batches in the order of their ids; as they are where these do not count."""
    order = InOrder(report)
    for batch in batches:
        if batch.trades.sequence[0] is None:
            yield batch
        elif len(ready := order.add(batch)):
            yield ready
    if len(rest := order.rest()):
        yield rest


def sided(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches with sides by the tick rule."""
    return map(TickRule().sided, batches)
