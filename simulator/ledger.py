"""What was issued, sent, lost and injected: the figures a collector's own must equal.

An observer of ids sees a hole where an id is skipped, a repair where a missing id arrives late, and a duplicate where
an id that is neither new nor missing arrives: `Ids` is that observer, perfect and without a time limit.
"""

from bisect import bisect_right
from typing import Any

FAULT_COUNTS = ("gap", "gap_trades", "duplicate", "reorder", "garbage", "cut")


class Ids:
    """The ids of one symbol as they came."""

    def __init__(self) -> None:
        self.count = 0
        self.duplicates = 0
        self.first: int | None = None
        self.last: int | None = None
        self.holes: list[tuple[int, int]] = []

    @property
    def unique(self) -> int:
        return self.count - self.duplicates

    @property
    def missing(self) -> int:
        return sum(high - low + 1 for low, high in self.holes)

    def add(self, trade_id: int) -> None:
        self.count += 1
        if self.first is None or self.last is None:
            self.first = self.last = trade_id
        elif trade_id == self.last + 1:
            self.last = trade_id
        elif trade_id > self.last:
            self.holes.append((self.last + 1, trade_id - 1))
            self.last = trade_id
        elif trade_id < self.first:
            if trade_id < self.first - 1:
                self.holes.insert(0, (trade_id + 1, self.first - 1))
            self.first = trade_id
        else:
            self._add_late(trade_id)

    def _add_late(self, trade_id: int) -> None:
        at = bisect_right(self.holes, (trade_id, trade_id)) - 1
        # A hole that starts at this very id sorts after (id, id) when it is longer than one.
        if at + 1 < len(self.holes) and self.holes[at + 1][0] == trade_id:
            at += 1
        if at < 0 or self.holes[at][1] < trade_id:
            self.duplicates += 1
            return
        low, high = self.holes[at]
        self.holes[at : at + 1] = [part for part in ((low, trade_id - 1), (trade_id + 1, high)) if part[0] <= part[1]]


class Ranges:
    """Ids gathered into ranges while they count up."""

    def __init__(self) -> None:
        self.ranges: list[list[int]] = []
        self.count = 0

    def add(self, trade_id: int) -> None:
        self.count += 1
        if self.ranges and trade_id == self.ranges[-1][1] + 1:
            self.ranges[-1][1] = trade_id
        else:
            self.ranges.append([trade_id, trade_id])


class SymbolLedger:
    """One symbol: `issued` before faults, `delivered` to at least one connection, `missed` while nobody listened."""

    def __init__(self) -> None:
        self.issued = Ids()
        self.delivered = Ids()
        self.missed = Ranges()

    def report(self) -> dict[str, Any]:
        return {
            "issued": self.issued.count,
            "unique": self.issued.unique,
            "first_id": self.issued.first,
            "last_id": self.issued.last,
            "holes": len(self.issued.holes),
            "hole_trades": self.issued.missing,
            "delivered": self.delivered.count,
            "delivered_unique": self.delivered.unique,
            "missed_while_away": {"trades": self.missed.count, "ranges": self.missed.ranges},
            "observable": {
                "gaps": len(self.delivered.holes),
                "gap_trades": self.delivered.missing,
                "duplicates": self.delivered.duplicates,
            },
        }


class Ledger:
    """All symbols, the faults that reached a client, and the frames sent (a frame to two connections counts twice)."""

    def __init__(self, symbols: list[str]) -> None:
        self.symbols = {symbol: SymbolLedger() for symbol in symbols}
        self.injected = dict.fromkeys(FAULT_COUNTS, 0)
        self.frames_issued = 0
        self.frames_sent = 0

    def report(self) -> dict[str, Any]:
        per_symbol = {symbol: entry.report() for symbol, entry in self.symbols.items()}
        seen = [entry["observable"] for entry in per_symbol.values()]
        observable = {key: sum(row[key] for row in seen) for key in ("gaps", "gap_trades", "duplicates")}
        return {
            "symbols": per_symbol,
            "injected": dict(self.injected),
            "observable": observable | {"dead_letters": self.injected["garbage"]},
            "frames": self.frames_sent,
            "frames_issued": self.frames_issued,
        }
