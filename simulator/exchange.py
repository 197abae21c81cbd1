"""One venue without its sockets: turns actions into frames to send, and keeps books, history and the ledger."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from simulator.books import BookKeeper
from simulator.contract import TRADES, Answer, Books, Dialect, Frame, Identity, Market, Snapshot
from simulator.faults import Action
from simulator.ledger import Ledger

HISTORY_TRADES = 10_000
MAX_UNFOLDED = 200
DEPTH20_LEVELS = 20


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
        return self._with_depth20(frame) if frame.kind == "depth" else (frame,)

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

    def _with_depth20(self, frame: Frame) -> Sequence[Frame]:
        depth = self._books.get(frame.symbol)
        if depth is None:
            return (frame,)
        wanted = not depth.recorded and self.listeners[depth.stream] > 0
        top = depth.add(frame, wanted)
        if top is None:
            return (frame,)
        self.ledger.issue(top.marks, heard=True)
        self.ledger.deliver(top.marks)
        return (frame, top)

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
        return "folded" if depth is not None and symbol in self.market.snapshots else "none"

    def book_holes(self, symbol: str) -> int:
        depth = self._books.get(symbol)
        return depth.keeper.holes if depth is not None else 0


class _Depth:
    """The book of one symbol, folded only when somebody wants it."""

    def __init__(self, books: Books, market: Market, symbol: str) -> None:
        self.books = books
        self.stream = books.stream(symbol)
        self.recorded = symbol in market.has_depth20
        self.keeper = BookKeeper(market.snapshots.get(symbol, ()))
        self.newest: Frame | None = None
        self._unfolded: list[Frame] = []
        self._told_ns = 0

    def add(self, frame: Frame, wanted: bool) -> Frame | None:
        """Note a difference; the top of the book after it when wanted and known."""
        if self.keeper.hopeless:
            return None
        self._unfolded.append(frame)
        wanted = wanted and not self._told_already(frame)
        if not wanted and len(self._unfolded) < MAX_UNFOLDED:
            return None
        fresh = self._fold()
        book = self.keeper.book
        if not wanted or not fresh or book is None:
            return None
        self._told_ns = frame.time_ns
        return self.books.top(frame, book.top(DEPTH20_LEVELS))

    def _told_already(self, frame: Frame) -> bool:
        spacing_ns = self.books.spacing_ns(frame)
        return spacing_ns > 0 and frame.time_ns // spacing_ns == self._told_ns // spacing_ns

    def _fold(self) -> bool:
        fresh = False
        for frame in self._unfolded:
            fresh = self.keeper.apply(self.books.read_depth(frame))
        self._unfolded.clear()
        return fresh

    def show(self, limit: int) -> Snapshot | None:
        self._fold()
        if self.keeper.book is not None:
            return self.keeper.book.top(limit)
        if self.newest is not None:
            return self.books.read_snapshot(self.newest.payload)
        return self.keeper.first_snapshot()
