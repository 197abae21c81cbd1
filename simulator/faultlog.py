"""What was done to a venue's clients, exactly: the record that /sim/faults tells, and how long it has been calm.

A fault is told in one row for each symbol whose records it kept back or repeated, as far as those have ids:

    {"id":"KRAKEN-7.1","kind":"gap","venue":"KRAKEN","channel":"trades","symbol":"BTC/USD","stream":"trade:BTC/USD",
     "from_ns":1735689612000000000,"to_ns":1735689612100000000,"open":false,"ids":[1007,1008],"streams":[],"lost":{}}

`ids`: of the records withheld, repeated, changed in place, or kept back by a mute. `streams`: those that a fault of
whole connections concerned; `lost` (in the first row): by channel and symbol, what reached nobody because of it. Kinds
are those of simulator/faults.py, and `life`: a connection was closed at its age. Beside these: how many `seconds` it
was to last, the `cure` of a mute and what it `ended_by`, whether a close was `announced`, how much a limit `refused`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from simulator.contract import Frame, Identity
from simulator.faults import Calm

RECONNECTING = ("cut", "stall", "close", "limit", "life")
NEVER_NS = -(2**62)
EVERY_SYMBOL = "*"

Ids = dict[str, list[int | None]]


class Feed(msgspec.Struct, frozen=True):
    """What a stream brings: records of a channel, of one symbol or of all (`*`)."""

    channel: str
    symbol: str


class Fault(msgspec.Struct, kw_only=True, eq=False):
    """One fault; `to_ns` is None while it goes on, or while streams are `away`: without a subscriber since then.

    `details` are what else is told of it.
    """

    number: int
    kind: str
    from_ns: int
    feed: Feed | None = None
    stream: str = ""
    streams: Sequence[str] = ()
    to_ns: int | None = None
    going_on: bool = False
    away: set[str] = msgspec.field(default_factory=set)
    ids: Ids = msgspec.field(default_factory=dict)
    lost: dict[str, Ids] = msgspec.field(default_factory=dict)
    details: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def takes_time(self) -> bool:
        return self.kind == "mute" or self.kind in RECONNECTING

    def touches(self, stream: str | None) -> bool:
        """Whether it goes on there."""
        everywhere = self.kind in RECONNECTING and self.going_on
        return stream is None or everywhere or stream == self.stream or stream in self.away

    def note(self, marks: Iterable[Identity]) -> None:
        """Records that it was put on."""
        for _, symbol, identity in marks:
            self.ids.setdefault(symbol, []).append(identity)

    def lose(self, marks: Iterable[Identity]) -> None:
        """Records that reached nobody because of it."""
        for channel, symbol, identity in marks:
            self.lost.setdefault(channel, {}).setdefault(symbol, []).append(identity)


class FaultLog:
    """The faults of one venue. Times are the venue's; a second of the clock is `second_ns` of them."""

    def __init__(self, venue: str, second_ns: int, patience_s: float) -> None:
        self.venue = venue
        self.faults: list[Fault] = []
        self._second_ns = second_ns
        self._patience_ns = int(patience_s * second_ns)
        self._open: list[Fault] = []
        self._away: dict[str, Fault] = {}
        # When the last fault ended, of those that take time and of the others: by stream, "" for all streams at once,
        # None for any.
        self._ended: tuple[dict[str | None, int], dict[str | None, int]] = ({}, {})

    def begin(self, kind: str, time_ns: int, **known: Any) -> Fault:
        """One that goes on until `end`."""
        fault = Fault(number=len(self.faults) + 1, kind=kind, from_ns=time_ns, going_on=True, **known)
        self.faults.append(fault)
        self._open.append(fault)
        return fault

    def end(self, fault: Fault, time_ns: int, **details: Any) -> None:
        """Over, as soon as all its streams are back; nothing where it was already."""
        if not fault.going_on:
            return
        fault.going_on = False
        fault.details |= details
        self._settle(fault, time_ns)

    def prolong(self, fault: Fault, time_ns: int) -> None:
        """One that had ended is put on another frame."""
        fault.to_ns = max(fault.to_ns or 0, time_ns)
        self._note_end(fault, time_ns)

    def leave(self, streams: Iterable[str], fault: Fault) -> None:
        """These streams have lost their last subscriber because of a fault."""
        for stream in streams:
            self._away[stream] = fault
            fault.away.add(stream)

    def come_back(self, stream: str, time_ns: int) -> None:
        """Somebody has subscribed to it."""
        fault = self._away.pop(stream, None)
        if fault is not None:
            fault.away.discard(stream)
            self._note_end(fault, time_ns, stream)
            self._settle(fault, time_ns)

    def miss(self, frame: Frame) -> None:
        """A frame that nobody was there to get."""
        fault = self._away.get(frame.stream)
        if fault is not None:
            fault.lose(frame.marks)

    def finish(self, time_ns: int) -> None:
        """The market is over, and so is all that goes on."""
        for fault in list(self._open):
            fault.away.clear()
            fault.going_on = True
            self.end(fault, time_ns)
        self._away.clear()

    def calm(self, stream: str | None, calm: Calm, time_ns: int) -> bool:
        """Whether nothing goes on, on this stream or at all (None), and nothing has for so long."""
        if any(one.touches(stream) for one in self._open if time_ns - one.from_ns < self._patience_ns):
            return False
        keys = (None,) if stream is None else ("", stream)
        return all(
            time_ns - max(ended.get(key, NEVER_NS) for key in keys) >= seconds * self._second_ns
            for ended, seconds in zip(self._ended, calm, strict=True)
        )

    def _settle(self, fault: Fault, time_ns: int) -> None:
        if fault.going_on or fault.away or fault.to_ns is not None:
            return
        fault.to_ns = time_ns
        self._open.remove(fault)
        # A life that ends is no fault where others had taken over its streams.
        if fault.kind != "life":
            self._note_end(fault, time_ns)

    def _note_end(self, fault: Fault, time_ns: int, stream: str | None = None) -> None:
        ended = self._ended[0 if fault.takes_time else 1]
        for key in (None, stream or fault.stream):
            ended[key] = max(time_ns, ended.get(key, NEVER_NS))

    def report(self, time_ns: int) -> list[dict[str, Any]]:
        """All rows, in order; what goes on has lasted until now."""
        return [row for fault in self.faults for row in self._rows(fault, time_ns)]

    def _rows(self, fault: Fault, time_ns: int) -> list[dict[str, Any]]:
        symbol = fault.feed.symbol if fault.feed is not None else ""
        named = any(identity is not None for ids in fault.ids.values() for identity in ids)
        found = list(fault.ids.items()) if named else [(symbol, [])]
        name = f"{self.venue}-{fault.number}"
        common = {
            "kind": fault.kind,
            "venue": self.venue,
            "channel": fault.feed.channel if fault.feed is not None else "",
            "stream": fault.stream,
            "from_ns": fault.from_ns,
            "to_ns": time_ns if fault.to_ns is None else fault.to_ns,
            "open": fault.to_ns is None,
            "streams": sorted(fault.streams),
            **fault.details,
        }
        lost = {channel: {s: _in_order(ids) for s, ids in rows.items()} for channel, rows in fault.lost.items()}
        return [
            {
                "id": name if len(found) == 1 else f"{name}.{at}",
                "symbol": symbol,
                "ids": ids,
                "lost": lost if at == 1 else {},
                **common,
            }
            for at, (symbol, ids) in enumerate(found, start=1)
        ]


def _in_order(ids: list[int | None]) -> list[int | None]:
    """What was due to one who left is known to be lost after what came when he had left."""
    return sorted(ids, key=lambda identity: identity or 0)


def feed_of(frame: Frame, channel: str) -> Feed:
    """What a frame of this channel brings."""
    symbols = {symbol for _, symbol, _ in frame.marks} or {frame.symbol}
    return Feed(channel, symbols.pop() if len(symbols) == 1 else EVERY_SYMBOL)
