"""What was issued, sent, lost and injected: the figures a collector's own must equal, and the ids its topics must hold.

An observer of ids sees a hole where an id is skipped, a repair where a missing id arrives late, and a duplicate where
an id that is neither new nor missing arrives: `Ids` is that observer, perfect and without a time limit.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from simulator.contract import TRADES, Identity

FAULT_COUNTS = (
    *("gap", "gap_trades", "duplicate", "reorder", "garbage"),
    *("cut", "stall", "mute", "close", "limit", "life"),
)
NAMELESS = -(2**63)


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

    def discard(self, trade_id: int) -> None:
        """Take an id back, if it is there."""
        for at, (low, high) in enumerate(self.ranges):
            if low <= trade_id <= high:
                parts = [[low, trade_id - 1], [trade_id + 1, high]]
                self.ranges[at : at + 1] = [part for part in parts if part[0] <= part[1]]
                self.count -= 1
                return


class Listing:
    """Identities with the times, in microseconds, at which they were issued, in that order."""

    def __init__(self) -> None:
        self._identities: array[int] = array("q")
        self._times_us: array[int] = array("q")

    def add(self, identity: int | None, time_us: int) -> None:
        self._identities.append(NAMELESS if identity is None else identity)
        self._times_us.append(time_us)

    def rows(self) -> list[tuple[int | None, int]]:
        pairs = zip(self._identities, self._times_us, strict=True)
        return [(None if identity == NAMELESS else identity, time_us) for identity, time_us in pairs]


class SymbolLedger:
    """One symbol: `issued` before faults, `delivered` to at least one connection, `missed` while nobody listened."""

    def __init__(self) -> None:
        self.issued = Ids()
        self.delivered = Ids()
        self.missed = Ranges()
        self.listing = Listing()

    def issue(self, trade_id: int, heard: bool, time_us: int | None = None) -> None:
        """`time_us`: when, or None before anybody had subscribed."""
        self.issued.add(trade_id)
        if not heard:
            self.missed.add(trade_id)
        if time_us is not None:
            self.listing.add(trade_id, time_us)

    def deliver(self, trade_id: int) -> None:
        self.delivered.add(trade_id)
        if self.missed.count:
            self.missed.discard(trade_id)

    def ids(self) -> Iterator[int]:
        """Every id delivered, in order."""
        seen = self.delivered
        if seen.first is None or seen.last is None:
            return
        start = seen.first
        for low, high in [*seen.holes, (seen.last + 1, seen.last)]:
            yield from range(start, low)
            start = high + 1

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


class FeedLedger:
    """One symbol of another channel; its ids grow, and are in order as they are issued.

    `repeated`: how often more than once an id was delivered, as a poll is that comes before there is anything new.
    """

    def __init__(self) -> None:
        self.issued = 0
        self.delivered = 0
        self.missed = 0
        self.seen: array[int] = array("q")
        self.repeated: Counter[int] = Counter()
        self.listing = Listing()
        self._newest: int | None = None
        self._newest_missed = False
        self._newest_listed = False

    @property
    def unique(self) -> int:
        return len(self.seen)

    def issue(self, identity: int | None, heard: bool, time_us: int | None = None) -> None:
        """Count it. Several streams may tell the same, one after another: it is missed when none of them is heard.

        `time_us`: when, or None before anybody had subscribed.
        """
        if identity is None or identity != self._newest:
            self.issued += 1
            self.missed += not heard
            self._newest, self._newest_missed, self._newest_listed = identity, not heard, False
        elif heard and self._newest_missed:
            self.missed -= 1
            self._newest_missed = False
        if time_us is not None and not self._newest_listed:
            self.listing.add(identity, time_us)
            self._newest_listed = True

    def deliver(self, identity: int | None) -> None:
        self.delivered += 1
        if identity is None:
            return
        if not self.seen or identity > self.seen[-1]:
            self.seen.append(identity)
        elif self.seen[at := bisect_left(self.seen, identity)] != identity:
            self.seen.insert(at, identity)
        else:
            self.repeated[identity] += 1

    def ids(self) -> Iterable[int]:
        """Every id delivered, in order."""
        return self.seen


class Ledger:
    """All symbols, the faults that reached a client, and the frames sent (a frame to two connections counts twice)."""

    def __init__(self, symbols: list[str]) -> None:
        self.symbols = {symbol: SymbolLedger() for symbol in symbols}
        self.feeds: dict[str, dict[str, FeedLedger]] = {}
        self.injected = dict.fromkeys(FAULT_COUNTS, 0)
        self.frames_issued = 0
        self.frames_sent = 0

    def issue(self, marks: Sequence[Identity], heard: bool, time_us: int | None = None) -> None:
        """Note the records of a frame that the venue has made; `time_us`: when, None before anybody had subscribed."""
        for channel, symbol, identity in marks:
            if channel == TRADES:
                self._trades(symbol).issue(identity or 0, heard, time_us)
            else:
                self._feed(channel, symbol).issue(identity, heard, time_us)

    def deliver(self, marks: Sequence[Identity]) -> None:
        """Note the records of a frame that at least one client gets."""
        for channel, symbol, identity in marks:
            if channel == TRADES:
                self._trades(symbol).deliver(identity or 0)
            else:
                self._feed(channel, symbol).deliver(identity)

    def _trades(self, symbol: str) -> SymbolLedger:
        entry = self.symbols.get(symbol)
        if entry is None:
            entry = self.symbols[symbol] = SymbolLedger()
        return entry

    def _feed(self, channel: str, symbol: str) -> FeedLedger:
        symbols = self.feeds.setdefault(channel, {})
        entry = symbols.get(symbol)
        if entry is None:
            entry = symbols[symbol] = FeedLedger()
        return entry

    def report(self) -> dict[str, Any]:
        per_symbol = {symbol: entry.report() for symbol, entry in self.symbols.items()}
        seen = [entry["observable"] for entry in per_symbol.values()]
        observable = {key: sum(row[key] for row in seen) for key in ("gaps", "gap_trades", "duplicates")}
        return {
            "symbols": per_symbol,
            "channels": self._channels(),
            "injected": dict(self.injected),
            "observable": observable | {"dead_letters": self.injected["garbage"]},
            "frames": self.frames_sent,
            "frames_issued": self.frames_issued,
        }

    def _channels(self) -> dict[str, dict[str, int]]:
        """Per channel, the sums over its symbols."""
        found = {}
        for channel in (TRADES, *self.feeds):
            rows = [row for row in self._rows(channel).values() if row["issued"]]
            if rows:
                found[channel] = {"symbols": len(rows)} | {key: sum(row[key] for row in rows) for key in rows[0]}
        return found

    def _rows(self, channel: str) -> dict[str, dict[str, int]]:
        if channel == TRADES:
            return {
                symbol: _row(entry.issued.count, entry.delivered.count, entry.delivered.unique, entry.missed.count)
                for symbol, entry in self.symbols.items()
            }
        feeds = self.feeds.get(channel, {})
        return {symbol: _row(row.issued, row.delivered, row.unique, row.missed) for symbol, row in feeds.items()}

    def told(self, channel: str) -> dict[str, dict[str, Any]]:
        """By symbol, the counts and the distinct ids that were delivered, in order; `repeated` are those of a feed that
        went out more often than once (trades that come again are dropped, and counted as duplicates)."""
        rows = self._rows(channel)
        if channel == TRADES:
            return {
                symbol: row | {"ids": list(self.symbols[symbol].ids()), "repeated": {}} for symbol, row in rows.items()
            }
        feeds = self.feeds.get(channel, {})
        return {
            symbol: row | {"ids": list(feeds[symbol].ids()), "repeated": dict(feeds[symbol].repeated)}
            for symbol, row in rows.items()
        }

    def listed(self, channel: str) -> dict[str, list[tuple[int | None, int]]]:
        """By symbol, everything issued since it was first subscribed: [identity, time in microseconds], in order."""
        entries = self.symbols if channel == TRADES else self.feeds.get(channel, {})
        return {symbol: entry.listing.rows() for symbol, entry in entries.items()}


def _row(issued: int, delivered: int, unique: int, missed: int) -> dict[str, int]:
    return {"issued": issued, "delivered": delivered, "delivered_unique": unique, "missed": missed}
