"""A venue's dialect with a real exchange behind it, and what the collectors' own readers make of its frames."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import zstandard

from producers.contract import CHANNELS, Count, Event, Receipt, Stream
from producers.registry import SOURCES
from ravencore.records import MarketRecord, Trade
from simulator.contract import Answer, Dialect, Frame, Identity, Market, Message, Session
from simulator.exchange import Exchange
from simulator.faults import Action
from simulator.recording import RecordedMarket
from simulator.registry import Plan, synthetic_market
from simulator.sorting import sort
from simulator.synthetic import EPOCH_NS


def synthetic(dialect: Dialect, symbols: Sequence[str] = ("BTC/USD", "ETH/USD"), seed: int = 1) -> Exchange:
    """A venue whose synthetic market has not begun."""
    return Exchange(dialect, synthetic_market(dialect, Plan(symbols, seed, 0, None, EPOCH_NS)))


def recorded(dialect: Dialect, path: Path) -> Market:
    """The market of one recording, and of what stands beside it."""
    return RecordedMarket(sort([str(path)], [dialect])[dialect.venue], dialect)


def beginning(path: Path, folder: Path, frames: int) -> Path:
    """The first frames of a recording, as a recording of the same name."""
    begun = folder / path.name
    with zstandard.open(path, "rt") as whole:
        begun.write_bytes(zstandard.compress("".join(islice(whole, frames)).encode()))
    return begun


def play(exchange: Exchange, count: int) -> list[Frame]:
    """Let that many messages happen; what only tells the exchange how a book has changed is none."""
    return list(islice(_messages(exchange), count))


def _messages(exchange: Exchange) -> Iterator[Frame]:
    for frame in exchange.market.frames(None):
        exchange.take(Action("send", frame))
        if frame.payload:
            yield frame


def connect(exchange: Exchange, now: float = 0.0) -> Session:
    dialect = exchange.dialect
    return dialect.connect(dialect.socket_path, {}, now, exchange)


def say(session: Session, request: Any, now: float = 0.0) -> list[Any]:
    """What a session answers, as a client gets it."""
    return heard(session, session.receive(json.dumps(request), now))


def heard(session: Session, messages: Iterable[Message]) -> list[Any]:
    return [json.loads(session.encode(one) if isinstance(one, Frame) else bytes(one)) for one in _texts(messages)]


def _texts(messages: Iterable[Message]) -> Iterator[bytes | Frame]:
    for message in messages:
        assert isinstance(message, bytes | Frame)
        yield message


def rest(exchange: Exchange, path: str, **query: str) -> tuple[int, Any, Answer]:
    answer = exchange.dialect.answer(exchange.dialect.rest_path + path, query, 0.0, exchange)
    return answer.status, json.loads(answer.body), answer


def source(name: str) -> Stream:
    """The collectors' reader of that name."""
    found = SOURCES[name]
    assert isinstance(found, Stream)
    return found


def identities(reader: Stream, frame: Frame) -> list[Identity]:
    """What the reader takes a frame for, its number on the connection aside."""
    receipt = Receipt(frame.time_ns // 1_000 + 10**6)
    return [_identity(event) for event in reader.parse(frame.payload, receipt) if not isinstance(event, Count)]


def _identity(event: Event) -> Identity:
    assert isinstance(event, MarketRecord), f"no record: {event}"
    told = event.sequence if isinstance(event, Trade) else event.event_time
    return CHANNELS[type(event)], event.symbol, told
