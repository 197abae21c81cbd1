"""Frames, and a session driven through them as the shell drives it."""

import json
from collections.abc import Iterable

from producers.actions import Action, Close, FetchBook, FetchTrades, Habits, Move, Renew, Send
from producers.contract import BOOKS, TRADES, Feed
from producers.session import Session
from producers.tape import Break, Seen
from producers.venues.binance_spot import BinanceSpot
from ravencore.records import Gap, Trade

BINANCE = BinanceSpot()
SYMBOL = "BTCUSDT"
BASE_US = 1_700_000_000_000_000
LOST = Break("DISCONNECT", "cut")
URL = "wss://exchange"


def us(seconds: float) -> int:
    """A moment of the tests' time as microseconds since the epoch."""
    return BASE_US + round(seconds * 1e6)


def trade_frame(trade_id: int, at: float, symbol: str = SYMBOL) -> bytes:
    """A trade that happened at `at` seconds."""
    data = {"e": "trade", "s": symbol, "t": trade_id, "p": "1.5", "q": "2", "T": us(at), "m": False}
    return json.dumps({"stream": f"{symbol.lower()}@trade", "data": data}).encode()


def book_frame(symbol: str = SYMBOL, update_id: int = 1) -> bytes:
    data = {"lastUpdateId": update_id, "bids": [["1", "1"]], "asks": [["2", "1"]]}
    return json.dumps({"stream": f"{symbol.lower()}@depth20@100ms", "data": data}).encode()


def reply_frame(number: int) -> bytes:
    return json.dumps({"result": None, "id": number}).encode()


def error_frame(number: int) -> bytes:
    return json.dumps({"code": 2, "msg": "no", "id": number}).encode()


def new_session(last_id: int | None = None, clock_interval_us: int | None = None, *symbols: str) -> Session:
    """A session that wants some symbols; the last trade it knows of each happened at second 0."""
    session = Session(BINANCE, URL, Habits(0.5, clock_interval_us=clock_interval_us))
    for symbol in symbols or (SYMBOL,):
        want(session, symbol, last_id)
    return session


def want(session: Session, symbol: str, last_id: int | None = None) -> None:
    """Trades and books of a symbol."""
    session.want(Feed(TRADES, symbol), {} if last_id is None else {symbol: Seen(last_id, us(0))})
    session.want(Feed(BOOKS, symbol), {})


def unwant(session: Session, symbol: str) -> None:
    session.unwant(Feed(TRADES, symbol))
    session.unwant(Feed(BOOKS, symbol))


class Driver:
    """Plays the shell: lets time pass in small steps and answers every request at once."""

    STEP = 0.05

    def __init__(self, session: Session, now: float = 1.0, *, answers: bool = True) -> None:
        self.session, self.now, self.answers = session, now, answers
        self.out: list[Action] = []
        self.sent: list[tuple[float, str]] = []
        self.closed: list[Close] = []
        self.orders: list[Renew | Move | FetchTrades | FetchBook] = []

    def connect(self, name: str = "one") -> None:
        self._take(self.session.opened(name, self.now, us(self.now)))
        self.advance(0.0)

    def lose(self, why: Break = LOST) -> None:
        self._take(self.session.lost(why, us(self.now)))

    def frame(self, frame: bytes) -> None:
        self._take(self.session.receive(frame, us(self.now), self.now))

    def trades(self, *ids: int) -> None:
        """Trades that happened just now."""
        for trade_id in ids:
            self.frame(trade_frame(trade_id, self.now))

    def advance(self, seconds: float) -> None:
        self.until(self.now + seconds)

    def until(self, end: float) -> None:
        while True:
            self._take(self.session.tick(self.now, us(self.now)))
            if self.now >= end:
                return
            self.now = min(self.now + self.STEP, end)

    def _take(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Close):
                self.closed.append(action)
            elif isinstance(action, Send):
                self.sent.append((self.now, action.text))
                if self.answers:
                    self.frame(reply_frame(json.loads(action.text)["id"]))
            elif isinstance(action, Renew | Move | FetchTrades | FetchBook):
                self.orders.append(action)
            else:
                self.out.append(action)

    # What came of it

    @property
    def ids(self) -> list[int | None]:
        """Ids of the trades published, in order."""
        return [action.sequence for action in self.out if isinstance(action, Trade)]

    @property
    def gaps(self) -> list[Gap]:
        """The newest entry of each trades' Gap, in order of their first."""
        newest: dict[str, Gap] = {}
        for action in self.out:
            if isinstance(action, Gap) and action.channel == TRADES:
                newest[action.gap_id] = action
        return list(newest.values())

    @property
    def holes(self) -> list[tuple[str, int | None, int | None, int | None]]:
        return [(gap.cause, gap.from_sequence, gap.to_sequence, gap.missing) for gap in self.gaps]
