"""Coinbase Advanced Trade's wire, shared by its sources.

Channels: https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-channels
Endpoints: https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-endpoints
Limits: https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-rate-limits
REST: https://docs.cdp.coinbase.com/api-reference/advanced-trade-api/rest-api/products/get-public-product

    {"channel":"subscriptions","timestamp":"...","sequence_num":8,"events":[{"subscriptions":{"ticker":["BTC-USD"]}}]}
    {"channel":"heartbeats","timestamp":"...","sequence_num":35,"events":[{"current_time":"...","heartbeat_counter":1}]}
    {"type":"error","message":"..."}

Requests have no number. Each is answered by a `subscriptions` frame that lists all there are by then, so what a request
asked for and the answer leaves out was refused. An `error` does not say of what.

`BTC-USDC` is another name of `BTC-USD`: Coinbase keeps one book for both, and whatever one asks for, frames name the
-USD product (nautilus' and ccxt's PR #30567 say so of live frames). So here -USDC is asked for, listed and published
as -USD, but for the five products that have no -USD to stand for (`alias` is empty in /market/products, August 2026).

Most channels close after 60 to 90 s without updates: `heartbeats`, once a second, keep them open, and being the first
message they also keep the rule that one must subscribe within 5 s.

`sequence_num` counts the frames of a connection, of whatever channel, from 0 on and without holes (so it does in the
recording of August 2026): a number that is not the next one says that frames are lost. It is a Count, before all else
that its frame says. An `error` has none.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from producers.contract import BadFrame, Count, Event, Feed, Get, Limits, Rate, Receipt, Reply
from producers.protocols.by_symbol import BySymbol
from producers.values import READ_ERRORS, bad_frame, is_momentary, not_negative, optional, positive, reading
from ravencore.records import Instrument

VENUE = "COINBASE"
OWN_BOOKS = frozenset({"USDT-USDC", "EURC-USDC", "XSGD-USDC", "TGBP-USDC", "AUDD-USDC"})
"""Products against USDC that are no other name of one against USD."""
NOT_LISTED = "not among the subscriptions that Coinbase lists"
NO_SUCH_PRODUCT = frozenset({400, 404})

Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Number = Annotated[str, msgspec.Meta(max_length=64)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Time = Annotated[str, msgspec.Meta(max_length=40)]
Kind = Literal["snapshot", "update"]
T = TypeVar("T")


class SubscriptionsEvent(msgspec.Struct):
    """The event of a subscriptions frame."""

    subscriptions: dict[str, list[Name]]


class Subscriptions(msgspec.Struct, tag_field="channel", tag="subscriptions"):
    """The answer to any request."""

    sequence_num: Id
    events: Annotated[list[SubscriptionsEvent], msgspec.Meta(min_length=1, max_length=1)]


class Heartbeats(msgspec.Struct, tag_field="channel", tag="heartbeats"):
    """A frame of the heartbeats channel."""

    sequence_num: Id
    events: list[Any]


IN_COMMON = Subscriptions, Heartbeats
"""Frames that every source gets."""


class AnyFrame(msgspec.Struct):
    """Any frame."""

    channel: str | None = None
    type: str | None = None
    message: str = ""


class Product(msgspec.Struct):
    """One of products: {"product_id":"BTC-USD","price_increment":"0.01","base_increment":"0.00000001",...}."""

    product_id: Name
    base_currency_id: str
    quote_currency_id: str
    product_type: str
    status: str
    price_increment: Number
    base_increment: Number


class Products(msgspec.Struct):
    """The body of GET /market/products."""

    products: list[Product]


class Failure(msgspec.Struct):
    """{"error":"NOT_FOUND","error_details":"...","message":"..."}."""

    error: str
    message: str = ""
    error_details: str = ""


_any_frame = msgspec.json.Decoder(AnyFrame)
_products = msgspec.json.Decoder(Products)
_product = msgspec.json.Decoder(Product)
_failure = msgspec.json.Decoder(Failure)

amount = lru_cache(maxsize=1 << 16)(not_negative)
"""Prices, and what stands at the best of them, come again and again."""


class Reader(NamedTuple, Generic[T]):
    """How the frames of a source's own channels are read."""

    frames: msgspec.json.Decoder[T | Subscriptions | Heartbeats]
    names: frozenset[str]
    """What frames call these channels."""
    read: Callable[[T, Receipt], Sequence[Event]]
    """The events of such a frame; raises BadFrame, BadValue."""


class CoinbaseStream(BySymbol):
    """What all of Coinbase's sources have; each adds its name and channels, and how frames are read."""

    venue = VENUE
    spellings: ClassVar[Mapping[str, str]]
    """Coinbase's names of the channels, as requests and subscriptions have them."""
    reader: ClassVar[Reader[Any]]
    # 8 connections and 8 messages a second from one address, 10 public REST requests.
    limits = Limits(
        rest=Rate(5, 1.0),
        connects=Rate(2, 1.0),
        messages=Rate(6, 1.0),
        messages_by_address=True,
        feeds_per_connection=200,
        feeds_per_message=50,
        silence_seconds=10.0,
    )

    def symbol_of(self, base: str, quote: str) -> str:
        """`BTC-USD`, for USDC as well."""
        return canonical(f"{base}-{quote}")

    def listing(self, base: str, symbol: str | None) -> Get:
        """The product, or all of them."""
        return Get(products_url(base, symbol))

    def instruments(self, body: bytes, received_us: int) -> Sequence[Instrument]:
        """Instruments of either body; raises BadFrame."""
        with reading():
            return [_instrument(product, received_us) for product in _read_products(body)]

    def refusal(self, status: int, body: bytes) -> str | None:
        """`NOT_FOUND` and `INVALID_ARGUMENT` are for good."""
        try:
            failure = _failure.decode(body)
        except READ_ERRORS:
            return None
        if status not in NO_SUCH_PRODUCT or failure.error not in {"NOT_FOUND", "INVALID_ARGUMENT"}:
            return None
        return f"{failure.message or failure.error_details} ({failure.error})"

    def feed(self, channel: str, symbol: str) -> Feed:
        """A product's channel is a feed of its own, by its canonical name."""
        return Feed(channel, canonical(symbol))

    def socket_url(self, base: str, channel: str) -> str:
        """One endpoint for all channels."""
        return base

    def greeting(self, request: int) -> str | None:
        """Heartbeats, which keep the other channels open."""
        return '{"type":"subscribe","channel":"heartbeats"}'

    def subscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """`{"type":"subscribe","product_ids":["BTC-USD"],"channel":"ticker"}`."""
        return self._request("subscribe", feeds)

    def unsubscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """The same with `unsubscribe`."""
        return self._request("unsubscribe", feeds)

    def one_message(self, feeds: Sequence[Feed]) -> Sequence[Feed]:
        """A message names one channel: the feeds of the first one's."""
        return [feed for feed in feeds if feed.channel == feeds[0].channel]

    def parse(self, frame: bytes, receipt: Receipt) -> Sequence[Event]:
        """A frame's Count, and what else it says; raises BadFrame."""
        reader = self.reader
        try:
            told = reader.frames.decode(frame)
            count = Count(told.sequence_num)
            if not isinstance(told, IN_COMMON):
                return [count, *reader.read(told, receipt)]
        except msgspec.ValidationError as error:
            return _control(frame, reader.names, error)
        except READ_ERRORS as error:
            raise bad_frame(error) from None
        return (count, self._listed(told)) if isinstance(told, Subscriptions) else (count,)

    def _listed(self, told: Subscriptions) -> Reply:
        channels = {spelling: channel for channel, spelling in self.spellings.items()}
        feeds = (
            Feed(channels[spelling], canonical(product))
            for spelling, products in told.events[0].subscriptions.items()
            if spelling in channels
            for product in products
        )
        return Reply(None, None, tuple(feeds), NOT_LISTED)

    def _request(self, kind: str, feeds: Sequence[Feed]) -> str:
        products = [canonical(feed.symbol) for feed in feeds]
        request = {"type": kind, "product_ids": products, "channel": self.spellings[feeds[0].channel]}
        return msgspec.json.encode(request).decode()


@lru_cache(maxsize=4096)
def canonical(symbol: str) -> str:
    """The name that frames have for a product: -USD for -USDC, where that is another name of it."""
    return symbol.removesuffix("C") if symbol.endswith("-USDC") and symbol not in OWN_BOOKS else symbol


def products_url(base: str, symbol: str | None) -> str:
    """Of the product, or of all of them."""
    one = "" if symbol is None else f"/{quote(symbol, safe='')}"
    return f"{base.rstrip('/')}/api/v3/brokerage/market/products{one}"


def _control(frame: bytes, channels: frozenset[str], why: msgspec.ValidationError) -> Sequence[Event]:
    """An error's Reply; else raises what is wrong with the frame. `channels`: whose frames the source reads."""
    with reading():
        told = _any_frame.decode(frame)
    if told.type == "error":
        text = told.message or "error"
        return (Reply(None, text, momentary=is_momentary(text)),)
    known = told.channel is None or told.channel in channels or told.channel in {"subscriptions", "heartbeats"}
    raise BadFrame(str(why) if known else f"channel {str(told.channel)[:64]!r} is none that Raven subscribes to")


def _read_products(body: bytes) -> list[Product]:
    try:
        return _products.decode(body).products
    except msgspec.ValidationError as list_error:
        try:
            return [_product.decode(body)]
        except msgspec.ValidationError:
            raise list_error from None


def _instrument(product: Product, received_us: int) -> Instrument:
    base, _, quote = product.product_id.partition("-")
    return Instrument(
        venue=VENUE,
        symbol=product.product_id,
        received_time=received_us,
        base=product.base_currency_id or base,
        quote=product.quote_currency_id or quote,
        kind="SPOT" if product.product_type == "SPOT" else "UNKNOWN",
        status=product.status,
        tick_size=optional(positive, product.price_increment),
        lot_size=optional(positive, product.base_increment),
    )
