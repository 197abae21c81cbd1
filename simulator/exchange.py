"""One venue without its sockets: turns actions into frames to send, and keeps books, history and the ledger."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

from simulator.books import DIGESTED_LEVELS, BookKeeper, Digests, cut
from simulator.contract import TRADES, Answer, Books, Change, Dialect, Frame, Identity, Market, Snapshot
from simulator.faults import Action
from simulator.ledger import Ledger

HISTORY_TRADES = 50_000
MAX_UNFOLDED = 200
REMEMBERED_FRAMES = 16


class Exchange:
    """What clients may ask for and what they are sent. The shell tells it who subscribes, and the time of the venue."""

    def __init__(self, dialect: Dialect, market: Market) -> None:
        self.dialect = dialect
        self.market = market
        self.instruments = market.instruments
        self.bodies = market.bodies
        # A made market tells a poll what is so now: no one else could have had what it tells nobody.
        self._on_demand = market.source == "synthetic"
        self.ledger = Ledger(list(market.traded))
        self.listeners: Counter[str] = Counter()
        self.time_ns = market.begins_ns
        self._books = {symbol: _Depth(books, market, symbol) for symbol in market.traded if (books := dialect.books)}
        self._history: dict[str, deque[Frame]] = {}
        self._newest: dict[str, Frame] = {}

    def subscribe(self, streams: Iterable[str]) -> None:
        self.listeners.update(streams)

    def unsubscribe(self, streams: Iterable[str]) -> None:
        self.listeners.subtract(streams)

    def take(self, action: Action) -> Sequence[Frame]:
        """The frames to send to whoever is subscribed to their streams."""
        frame = action.frame
        if frame is None:
            self._count_fault(action)
            return ()
        self.time_ns = frame.time_ns
        if action.what == "garbage":
            if self.listeners[frame.stream] > 0:
                self._count_fault(action)
            return (frame,)
        if frame.kind == "trade":
            return self._take_trade(action, frame)
        self._issue(frame)
        return self._with_made(frame) if frame.kind == "depth" else (frame,)

    def _take_trade(self, action: Action, frame: Frame) -> Sequence[Frame]:
        heard = self.listeners[frame.stream] > 0
        if action.what != "extra":
            self._remember(frame)
            self._newest[frame.stream] = frame
            self.ledger.frames_issued += 1
            self.ledger.issue(frame.marks, heard)
        if not heard:
            return ()
        self._count_fault(action)
        if action.what == "withhold":
            return ()
        self.ledger.deliver(frame.marks)
        return (frame,)

    def _remember(self, frame: Frame) -> None:
        for symbol in dict.fromkeys(symbol for _, symbol, _ in frame.marks):
            self._history.setdefault(symbol, deque(maxlen=HISTORY_TRADES)).append(frame)

    def _issue(self, frame: Frame) -> None:
        self.ledger.frames_issued += 1
        self._newest[frame.stream] = frame
        if frame.marks and not (self._on_demand and frame.stream.startswith("rest:")):
            heard = self.listeners[frame.stream] > 0
            self.ledger.issue(frame.marks, heard)
            if heard:
                self.ledger.deliver(frame.marks)
        if frame.kind == "depth20" and frame.symbol in self._books:
            self._books[frame.symbol].newest = frame

    def _with_made(self, frame: Frame) -> Sequence[Frame]:
        """A difference, and what is made of it for those who listen."""
        depth = self._books.get(frame.symbol)
        if depth is None:
            return (frame,)
        frames = depth.add(frame, self.listeners)
        for made in frames[1:]:
            self.ledger.issue(made.marks, heard=True)
            self.ledger.deliver(made.marks)
        return frames

    def answered(self, marks: Sequence[Identity]) -> None:
        """Note what went out by REST, or as a session's own words."""
        self.ledger.deliver(marks)

    def _count_fault(self, action: Action) -> None:
        if action.fault is not None:
            self.ledger.injected[action.fault] += 1
        if action.what == "withhold" and action.frame is not None:
            self.ledger.injected["gap_trades"] += len(action.frame.marks)

    # What REST and sessions ask (contract.View)

    def book(self, symbol: str, limit: int) -> Snapshot | None:
        depth = self._books.get(symbol)
        return depth.show(limit) if depth is not None else None

    def trades(self, symbol: str) -> Sequence[Frame]:
        return self._history.get(symbol, ())

    def newest(self, stream: str) -> Frame | None:
        return self._newest.get(stream)

    def answer(self, path: str, query: dict[str, str], now: float) -> Answer:
        """A REST request, answered and counted."""
        answer = self.dialect.answer(path, query, now, self)
        if self._on_demand:
            self.ledger.issue([mark for mark in answer.marks if mark[0] != TRADES], heard=True)
        self.answered(answer.marks)
        return answer

    def depth20_source(self, symbol: str) -> str:
        """Where this symbol's depth20 comes from: "recorded", "folded", or "none"."""
        depth = self._books.get(symbol)
        if depth is not None and depth.recorded:
            return "recorded"
        folded = depth is not None and depth.top_stream and symbol in self.market.snapshots
        return "folded" if folded else "none"

    def book_holes(self, symbol: str) -> int:
        depth = self._books.get(symbol)
        return depth.keeper.holes if depth is not None else 0

    def digests(self, symbol: str) -> Mapping[str, str] | None:
        """The digests of a symbol's book after each change that somebody followed, by update id or microseconds; None
        where it has no book."""
        depth = self._books.get(symbol)
        return depth.digests.told() if depth is not None else None


class _Depth:
    """The book of one symbol, folded only when somebody wants it, and the frames that are made of it."""

    def __init__(self, books: Books, market: Market, symbol: str) -> None:
        self.books = books
        self.listed = market.instruments[symbol]
        self.top_stream = books.top_stream(symbol)
        self.recorded = symbol in market.has_depth20
        self.keeper = BookKeeper(market.snapshots.get(symbol, ()))
        self.digests = Digests()
        self.newest: Frame | None = None
        made = books.made(symbol).items()
        self._made = [(stream, levels) for stream, levels in made if stream != self.top_stream or not self.recorded]
        self._differences = [stream for stream, _ in made if stream != self.top_stream]
        self._unfolded: list[Frame] = []
        self._told: dict[str, Snapshot] = {}
        self._told_ns = 0
        self._remembered: dict[int | bytes, Sequence[Frame]] = {}

    def add(self, frame: Frame, listeners: Mapping[str, int]) -> Sequence[Frame]:
        """Note a difference: itself, and the frames that are made of it.

        Differences must come in their order. One of the last few that comes again gives the same frames: so one that
        is to be sent late is added in its turn and sent when it is added once more.
        """
        key = frame.diff.last_id if frame.diff is not None else frame.payload
        if (known := self._remembered.get(key)) is not None:
            return known
        frames = (frame, *self._make(frame, listeners))
        self._remembered[key] = frames
        if len(self._remembered) > REMEMBERED_FRAMES:
            del self._remembered[next(iter(self._remembered))]
        return frames

    def _make(self, frame: Frame, listeners: Mapping[str, int]) -> Sequence[Frame]:
        if self.keeper.hopeless:
            return ()
        wanted = [row for row in self._made if listeners.get(row[0])] if self._is_due(frame) else []
        followed = any(listeners.get(stream) for stream in (frame.stream, *self._differences))
        if not wanted and not followed:
            self._put_off(frame)
            return ()
        before = {stream: self._told.get(stream) or self._top(levels) for stream, levels in wanted}
        self._unfolded.append(frame)
        if not self._fold():
            return ()
        self._told = {stream: self._top(levels) for stream, levels in wanted}
        if wanted:
            self._told_ns = frame.time_ns
        if followed:
            self._digest()
        changes = [(stream, Change(self.listed, frame, before[stream], top)) for stream, top in self._told.items()]
        made = [self.books.make(stream, change) for stream, change in changes]
        return [one for one in made if one is not None]

    def _is_due(self, frame: Frame) -> bool:
        spacing_ns = self.books.spacing_ns(frame)
        return not spacing_ns or frame.time_ns // spacing_ns != self._told_ns // spacing_ns

    def _put_off(self, frame: Frame) -> None:
        self._told = {}
        self._unfolded.append(frame)
        if len(self._unfolded) >= MAX_UNFOLDED:
            self._fold()

    def _fold(self) -> bool:
        fresh = False
        for frame in self._unfolded:
            fresh = self.keeper.apply(frame.diff or self.books.read_depth(frame))
        self._unfolded.clear()
        return fresh

    def _top(self, levels: int) -> Snapshot:
        """As of the last difference; what the book starts from where there was none."""
        self._fold()
        if self.keeper.book is not None:
            return self.keeper.book.top(levels)
        first = self.keeper.first_snapshot()
        return cut(first, levels) if first is not None else Snapshot(0, (), ())

    def _digest(self) -> None:
        top = self._top(DIGESTED_LEVELS)
        self.digests.add(top.last_id if self.books.numbered else top.time_ns // 1_000, top)

    def show(self, limit: int) -> Snapshot | None:
        """The book for someone who asks; where it is told by differences this state is digested too."""
        self._fold()
        if self.keeper.book is not None:
            self._digest()
            return self.keeper.book.top(limit)
        if self.newest is not None:
            return self.books.read_snapshot(self.newest.payload)
        return self.keeper.first_snapshot()
