"""Trades out of a recording: lines `<recv_ns>\\t<frame>`, as `ravenctl record` writes and the simulator plays them.

Frames pass through the simulator's reader of their venue, so that old forms become what the venue sends today (raw
trades of Binance's futures become aggregated ones), and then through the collector's parser.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from producers.contract import TRADES, Receipt, Stream
from producers.registry import SOURCES
from ravencore.errors import Unreadable
from ravencore.records import Trade
from ravenctl.research.batches import Report
from ravenctl.research.packed import CutShort
from ravenctl.shell import CommandFailed, WrongUse
from simulator.contract import Dialect
from simulator.contract import Unreadable as NotPlaced
from simulator.registry import DIALECTS

FIRST_LINE = re.compile(rb"\d{16,20}\t[\[{]")
"""How a recording begins."""
EVIDENCE_LINES = 10_000
"""In so many lines a frame is sought that can only be of one venue."""


class Recording:
    """The lines of a recording, given as blocks; `at` is the line that was read last, counted from 1."""

    def __init__(
        self, name: str, blocks: Iterable[bytes], venue: str | None, report: Report, say: Callable[[str], None]
    ):
        self.at = 0
        self.passed_over: Counter[str] = Counter()
        """Streams whose frames hold no trades."""
        self._name, self._report, self._say = name, report, say
        self._lines = self._read(blocks)
        self.dialect, self._begin = self._claimed(venue)
        self._source = trades_source(self.dialect.venue)

    def trades(self) -> Iterator[tuple[int, Trade]]:
        """Each trade and its line, in the order of the file; frames that nobody can read are refused."""
        rows = self._rows()
        while True:
            try:
                for frame in self.dialect.read(rows):
                    if frame.kind == "trade":
                        yield from self._parsed(frame.time_ns, frame.combined or frame.payload)
                    else:
                        self.passed_over[frame.stream] += 1
                return
            except NotPlaced as error:
                self._report.refuse(self.at, str(error))

    def _parsed(self, time_ns: int, frame: bytes) -> Iterator[tuple[int, Trade]]:
        try:
            events = self._source.parse(frame, Receipt(time_ns // 1000))
        except Unreadable as error:
            self._report.refuse(self.at, str(error))
            return
        for event in events:
            if isinstance(event, Trade):
                yield self.at, event

    def _rows(self) -> Iterator[tuple[int, bytes]]:
        """Receive time and frame of each line, from the first one on."""
        for line in chain(self._begin, self._lines):
            self.at += 1
            yield from self._split(line)

    def _split(self, line: bytes) -> Iterator[tuple[int, bytes]]:
        time, tab, frame = line.rstrip(b"\r").partition(b"\t")
        if tab and frame and time.isdigit():
            yield int(time), frame
        else:
            self._report.refuse(self.at, f"not `<recv_ns><tab><frame>`: {line[:80]!r}")

    def _read(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        try:
            for block in blocks:
                yield from block.split(b"\n")[:-1]
        except CutShort:
            self._say("its recorder was killed while it wrote: its whole lines are read")

    def _claimed(self, venue: str | None) -> tuple[Dialect, list[bytes]]:
        """Whose frames they are, and the lines read to know it."""
        dialects = {name: make() for name, make in DIALECTS.items()}
        if venue in dialects:
            return dialects[venue], []
        begin: list[bytes] = []
        for line in self._lines:
            begin.append(line)
            claims = [dialect for dialect in dialects.values() if dialect.claims(line.partition(b"\t")[2])]
            if len(claims) == 1:
                return claims[0], begin
            if len(begin) == EVIDENCE_LINES:
                break
        raise WrongUse(f"no frame of {self._name} tells its venue: name it with --venue, one of {', '.join(dialects)}")


def trades_source(venue: str) -> Stream:
    """What parses a venue's frames of trades; raises CommandFailed where it has none."""
    for source in SOURCES.values():
        if source.venue == venue and TRADES in source.channels and isinstance(source, Stream):
            return source
    raise CommandFailed(f"Raven collects no trades of {venue}")
