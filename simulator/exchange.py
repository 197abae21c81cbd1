"""The exchange without its sockets: turns actions into frames to send, and keeps books, history and the ledger."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from simulator.books import BookKeeper
from simulator.contract import Dialect, Frame, Market, Snapshot
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
        self.ledger = Ledger(list(market.instruments))
        self.listeners: Counter[str] = Counter()
        self.time_ns = market.begins_ns
        self._books = {symbol: _Depth(dialect, market, symbol) for symbol in market.instruments}
        self._history: dict[str, deque[Frame]] = {symbol: deque(maxlen=HISTORY_TRADES) for symbol in market.instruments}

    def subscribe(self, streams: Iterable[str]) -> None:
        self.listeners.update(streams)

    def unsubscribe(self, streams: Iterable[str]) -> None:
        self.listeners.subtract(streams)

    def silent(self) -> list[str]:
        """The trade streams nobody is subscribed to."""
        streams = (self.dialect.trade_stream(symbol) for symbol in self.instruments)
        return [stream for stream in streams if not self.listeners[stream]]

    def take(self, action: Action) -> Sequence[Frame]:
        """The frames to send to whoever is subscribed to their streams."""
        frame = action.frame
        if frame is None:
            self._count_fault(action)
            return ()
        self.time_ns = frame.time_ns
        if frame.trade_id is None:
            return self._take_other(action, frame)
        return self._take_trade(action, frame)

    def _take_trade(self, action: Action, frame: Frame) -> Sequence[Frame]:
        entry = self.ledger.symbols[frame.symbol]
        trade_id = frame.trade_id or 0
        heard = self.listeners[frame.stream] > 0
        if action.what != "extra":
            self.ledger.frames_issued += 1
            entry.issued.add(trade_id)
            self._history[frame.symbol].append(frame)
            if not heard:
                entry.missed.add(trade_id)
        if heard:
            self._count_fault(action)
            if action.what != "withhold":
                entry.delivered.add(trade_id)
                return (frame,)
        return ()

    def _take_other(self, action: Action, frame: Frame) -> Sequence[Frame]:
        if action.what == "garbage":
            if self.listeners[frame.stream] > 0:
                self._count_fault(action)
            return (frame,)
        self.ledger.frames_issued += 1
        if frame.kind == "depth":
            return self._with_depth20(frame)
        if frame.kind == "depth20":
            self._books[frame.symbol].newest = frame
        return (frame,)

    def _with_depth20(self, frame: Frame) -> Sequence[Frame]:
        depth = self._books[frame.symbol]
        wanted = not depth.recorded and self.listeners[depth.stream] > 0
        top = depth.add(frame, wanted)
        if top is None:
            return (frame,)
        return (frame, self.dialect.depth20(frame.time_ns, frame.symbol, top))

    def _count_fault(self, action: Action) -> None:
        if action.fault is not None:
            self.ledger.injected[action.fault] += 1
        if action.what == "withhold":
            self.ledger.injected["gap_trades"] += 1

    # What REST asks (contract.View)

    def now_ms(self) -> int:
        return self.time_ns // 1_000_000

    def book(self, symbol: str, limit: int) -> Snapshot | None:
        return self._books[symbol].show(limit)

    def trades(self, symbol: str) -> Sequence[Frame]:
        return self._history[symbol]

    def depth20_source(self, symbol: str) -> str:
        """Where this symbol's depth20 comes from: "recorded", "folded", or "none"."""
        depth = self._books[symbol]
        return "recorded" if depth.recorded else "folded" if symbol in self.market.snapshots else "none"

    def book_holes(self, symbol: str) -> int:
        return self._books[symbol].keeper.holes


class _Depth:
    """The book of one symbol, folded only when somebody wants it."""

    def __init__(self, dialect: Dialect, market: Market, symbol: str) -> None:
        self.dialect = dialect
        self.stream = dialect.depth20_stream(symbol)
        self.recorded = symbol in market.has_depth20
        self.keeper = BookKeeper(market.snapshots.get(symbol, ()))
        self.newest: Frame | None = None
        self._unfolded: list[Frame] = []

    def add(self, frame: Frame, wanted: bool) -> Snapshot | None:
        """Note a difference; the top of the book after it when wanted and known."""
        if self.keeper.hopeless:
            return None
        self._unfolded.append(frame)
        if not wanted and len(self._unfolded) < MAX_UNFOLDED:
            return None
        fresh = self._fold()
        book = self.keeper.book
        return book.top(DEPTH20_LEVELS) if wanted and fresh and book is not None else None

    def _fold(self) -> bool:
        fresh = False
        for frame in self._unfolded:
            fresh = self.keeper.apply(self.dialect.read_depth(frame))
        self._unfolded.clear()
        return fresh

    def show(self, limit: int) -> Snapshot | None:
        self._fold()
        if self.keeper.book is not None:
            return self.keeper.book.top(limit)
        if self.newest is not None:
            return self.dialect.read_snapshot(self.newest.payload)
        return self.keeper.first_snapshot()
