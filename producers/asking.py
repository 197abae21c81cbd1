"""What a session asks over REST: trades that are missing, and whether a silent feed should have said something."""

from collections.abc import Sequence

from producers.actions import Action, FetchTrades
from producers.contract import BadFrame, HasHistory, Receipt, Span
from producers.desk import Desk
from producers.feedtape import MarketTape
from producers.line import Cure, Line
from producers.tape import MOST_TOLD, Break, CountedTape
from ravencore.records import Trade

SWEEP_SECONDS = 3.0
"""After a break, a feed of trades that brings nothing for this long is asked for over REST."""
MOST_CURES = 2
"""A new subscription, and one on another connection; then only patience helps."""
BEHIND = Break("SILENCE", "the feed brought nothing, though it was acknowledged, and REST had newer trades")


class Asking:
    """Questions about the lines of a session."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def told(self, fetch: FetchTrades, body: bytes, received_us: int, now: float) -> list[Action]:
        """What follows from the answer to a question for past trades."""
        assert isinstance(self._desk.source, HasHistory)
        try:
            trades = self._desk.source.past(fetch.symbol, body, Receipt(received_us, self._desk.opened_us))
        except BadFrame as error:
            return [self._desk.bad_bytes(body, error.reason, str(error)), *self.not_told(fetch, now)]
        if fetch.tape is None:
            return self._swept(fetch, trades, received_us, now)
        line = self._desk.lines.get(fetch.feed)
        out: list[Action] = []
        if line is not None and line.suspected and fetch.span.last is None:
            out += self._heed_probe(line, fetch.tape, trades, received_us, now)
        return [*out, *fetch.tape.answered(trades, now, received_us, self._desk.connection)]

    def not_told(self, fetch: FetchTrades, now: float) -> list[Action]:
        """The request failed."""
        line = self._desk.lines.get(fetch.feed)
        if fetch.tape is not None:
            fetch.tape.unanswered(now)
        elif line is not None:
            line.sweep_at = now + SWEEP_SECONDS
        if line is not None and line.suspected and line.phase == "live":
            self._cure_unasked(line)
        return []

    def told_nothing(self, fetch: FetchTrades, now_us: int, now: float) -> list[Action]:
        """The venue refuses the question: as good as an answer without trades, but not that there are none."""
        line = self._desk.lines.get(fetch.feed)
        if line is not None and line.suspected and line.phase == "live" and fetch.span.last is None:
            self._cure_unasked(line)
        return [] if fetch.tape is None else [*fetch.tape.answered((), now, now_us, self._desk.connection)]

    def _swept(self, fetch: FetchTrades, trades: Sequence[Trade], now_us: int, now: float) -> list[Action]:
        """Trades of all symbols of a feed, which may bring symbols that were never heard of."""
        out: list[Action] = []
        by_symbol: dict[str, list[Trade]] = {}
        line = self._desk.lines.get(fetch.feed)
        ended = line.tapes.whole.ended if line is not None and line.tapes.whole is not None else None
        for trade in trades:
            # REST may be ahead of the stream, which will bring that itself.
            if ended is None or trade.event_time <= ended.to_time:
                by_symbol.setdefault(trade.symbol, []).append(trade)
        for symbol, some in by_symbol.items():
            found = self._desk.find(fetch.feed.channel, symbol)
            if found is not None and isinstance(tape := found[1], CountedTape):
                out += tape.answered(some, now, now_us, self._desk.connection)
                self._desk.restless[id(tape)] = fetch.feed, symbol, tape
        if line is not None and line.tapes.whole is not None:
            out += self._whole_swept(line.tapes.whole, fetch, trades, out, now_us)
        return out

    def _whole_swept(
        self, whole: MarketTape, fetch: FetchTrades, trades: Sequence[Trade], out: Sequence[Action], now_us: int
    ) -> list[Action]:
        """All that was missed has been told, or there is more of it."""
        newest_us = max((trade.event_time for trade in trades), default=0)
        if len(trades) >= MOST_TOLD and newest_us > (fetch.span.from_us or 0):
            return [fetch._replace(span=fetch.span._replace(from_us=newest_us))]
        if (line := self._desk.lines.get(fetch.feed)) is not None:
            for tape in line.tapes.counted.values():
                tape.mended()
        news = sum(isinstance(output, Trade) for output in out)
        return [*whole.swept(news, now_us, self._desk.connection)]

    def sweep(self, line: Line, now: float) -> list[Action]:
        """Ask what was missed in a break, once, where nothing came that would tell."""
        if line.sweep_at is None or now < line.sweep_at or line.phase != "live" or self._desk.waits.repair is None:
            return []
        line.sweep_at = None
        for tape in line.tapes.counted.values():
            tape.overdue()
        if (whole := line.tapes.whole) is not None:
            from_us = whole.last_us if whole.broken else whole.ended.from_time if whole.ended else None
            missed = Span(0, None, from_us, None)
            return [] if from_us is None else [FetchTrades(line.feed, line.feed.symbol, missed, None)]
        if any(tape.broken is not None and not tape.held for tape in line.tapes.counted.values()):
            self._probe(line)
        return []

    def suspect(self, line: Line, silent_s: float, now: float, now_us: int) -> list[Action]:
        """What follows from a feed's saying nothing for strangely long."""
        tapes = line.tapes.counted
        if self._desk.waits.repair is not None and tapes and self._desk.source.scope == "symbol" and line.cures == 0:
            self._probe(line)
            if any(tape.probing for tape in tapes.values()):
                line.suspected = True
            else:
                self._cure_unasked(line)
            return []
        why = Break("SILENCE", f"nothing came for {silent_s:.1f} s, though it was acknowledged")
        return self._cured(line, why, now, now_us)

    def _probe(self, line: Line) -> None:
        for symbol, tape in line.tapes.counted.items():
            tape.probe()
            self._desk.restless[id(tape)] = line.feed, symbol, tape

    def _heed_probe(
        self, line: Line, tape: CountedTape, trades: Sequence[Trade], now_us: int, now: float
    ) -> list[Action]:
        """There is news, or there is not, of trades that the feed should have brought."""
        line.suspected = False
        if line.phase != "live":
            return []
        if not any(trade.sequence is not None and trade.sequence > (tape.last or 0) for trade in trades):
            line.tapes.patience.forgive(now)
            return []
        return self._cured(line, BEHIND, now, now_us)

    def _cure_unasked(self, line: Line) -> None:
        """REST cannot tell: a new subscription costs little."""
        line.suspected, line.cure = False, Cure(BEHIND, moves=False)
        line.cures += 1

    def _cured(self, line: Line, why: Break, now: float, now_us: int) -> list[Action]:
        """Subscribe anew, then elsewhere; then wait longer."""
        line.cures += 1
        if line.cures > MOST_CURES:
            line.tapes.patience.forgive(now)
            return []
        line.cure = Cure(why, moves=line.cures == MOST_CURES)
        return self._desk.interrupted(line, why, now_us)
