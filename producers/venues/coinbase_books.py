"""Coinbase Advanced Trade's order books. What all its channels share is in protocols/coinbase.py.

Channel: https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-channels (Level2 Channel)

    {"channel":"l2_data","timestamp":"2026-08-09T21:05:48.507227366Z","sequence_num":16,"events":[{"type":"update",
     "product_id":"BTC-USD","updates":[{"side":"offer","event_time":"2026-08-09T21:05:48.27841Z",
     "price_level":"65083.71","new_quantity":"0.06"}]}]}

The channel is level2 in requests and subscriptions, l2_data in frames. How a book is kept is told in books/coinbase.py.

Each feed has a connection of its own: `sequence_num` counts the frames of a connection, so that one which is lost there
costs one book. A frame's time is that of its newest change; documented snapshots say 1970, which is none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import msgspec

from producers.books.coinbase import CoinbaseBook
from producers.contract import BOOKS, BookUpdate, Event, Receipt
from producers.protocols.coinbase import (
    CoinbaseStream,
    Heartbeats,
    Id,
    Kind,
    Name,
    Number,
    Reader,
    Subscriptions,
    Time,
    amount,
    canonical,
)
from producers.values import happened, moment, positive


class Change(msgspec.Struct, gc=False):
    """One of an event's `updates`."""

    side: Literal["bid", "offer"]
    event_time: Time
    price_level: Number
    new_quantity: Number


class BookEvent(msgspec.Struct, gc=False):
    """One of an l2_data's `events`."""

    type: Kind
    product_id: Name
    updates: list[Change]


class Books(msgspec.Struct, tag_field="channel", tag="l2_data", gc=False):
    """A frame of the level2 channel."""

    sequence_num: Id
    events: Annotated[list[BookEvent], msgspec.Meta(min_length=1)]


_frames = msgspec.json.Decoder(Books | Subscriptions | Heartbeats)


def _read(told: Books, receipt: Receipt) -> Sequence[Event]:
    """A BookUpdate for each of the frame's events."""
    return [_book(event, told.sequence_num, receipt) for event in told.events]


def _book(event: BookEvent, number: int, receipt: Receipt) -> BookUpdate:
    sides: dict[str, list[tuple[int, int]]] = {"bid": [], "offer": []}
    for change in event.updates:
        sides[change.side].append((positive(change.price_level), amount(change.new_quantity)))
    newest_us = max((moment(time) for time in {change.event_time for change in event.updates}), default=0)
    return BookUpdate(
        symbol=canonical(event.product_id),
        whole=event.type == "snapshot",
        event_time=happened(newest_us, receipt.received_us) if newest_us else None,
        received_time=receipt.received_us,
        bids=sides["bid"],
        asks=sides["offer"],
        last=number,
        connection_time=receipt.connection_us,
        connection_sequence=receipt.sequence,
    )


class CoinbaseBooks(CoinbaseStream):
    """Coinbase's order books (`producers.contract.HasBooks`)."""

    name = "COINBASE_BOOKS"
    channels: tuple[str, ...] = (BOOKS,)
    spellings: ClassVar[Mapping[str, str]] = {BOOKS: "level2"}
    reader = Reader(_frames, frozenset({"l2_data"}), _read)
    past_trades = False
    limits = replace(CoinbaseStream.limits, feeds_per_connection=1, feeds_per_message=1)

    def sequencer(self, symbol: str) -> CoinbaseBook:
        """A new keeper of this product's book."""
        return CoinbaseBook()
