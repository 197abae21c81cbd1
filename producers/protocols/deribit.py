"""Deribit's wire: JSON-RPC 2.0 over a WebSocket, shared by its sources.

Protocol: https://docs.deribit.com/articles/json-rpc-overview
Subscribe: https://docs.deribit.com/api-reference/subscription-management/public-subscribe
Heartbeat: https://docs.deribit.com/api-reference/session-management/public-set_heartbeat
Limits: https://docs.deribit.com/articles/rate-limits and /articles/connection-management-best-practices

    {"jsonrpc":"2.0","method":"subscription","params":{"channel":"deribit_price_index.btc_usd","data":{...}}}
    {"jsonrpc":"2.0","id":1,"result":["ticker.BTC-25DEC26-100000-C.100ms"],"usIn":1,"usOut":2,"usDiff":1}
    {"jsonrpc":"2.0","id":1,"error":{"code":13778,"message":"raw_subscriptions_not_available_for_unauthorized"}}
    {"jsonrpc":"2.0","method":"heartbeat","params":{"type":"test_request"}}

A subscribe reply lists the channels that Deribit accepted; what it does not list was refused, without a reason. A
`test_request` that is not answered with public/test ends the connection; the answer's own reply, whose result is an
object, says nothing. Error 10028 (too_many_requests) and its like are about the moment and not about the channels:
those are asked for again after a while, on the next connection where Deribit ends this one.

Numbers are JSON numbers: their text is read, never a double. A price of 0 is Deribit's way to say that there is none.
Instruments are in upper case, but for the `d` that stands for the point of a strike (XRP_USDC-30JUN23-0d625-C): records
have it in upper case too, and requests in lower case.

A currency is what Deribit's settle in: BTC names the options priced in BTC, USDC the linear ones of every coin.
"""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from producers.contract import Answer, BadFrame, Event, Feed, Get, Limits, Rate, Receipt, Reply
from producers.values import MILLISECONDS_TO_US, READ_ERRORS, bad_frame, number, reading
from ravencore.records import Instrument, OptionSide

VENUE = "DERIBIT"
INTERVALS = frozenset({"100ms", "raw", "agg2"})
"""Endings of a channel's name. Raven asks for 100ms: raw wants a login, agg2 comes once a second."""
HEARTBEAT_SECONDS = 30
TEST_REQUEST = 0
"""The id of our public/test; requests count from 1."""
MOMENTARY = frozenset({10028, 10040, 10041, 10047, 10066, 11051, 13028, 13888})
"""too_many_requests, retry, settlement_in_progress, ..., temporarily_unavailable, timed_out."""
NO_SUCH_INSTRUMENT = frozenset({-32602, 13020})
"""`Invalid params` and `not_found`."""
NOT_LISTED = "not among the channels that Deribit subscribed to"
YEAR_9999_MS = 253_402_300_799_000

Millis = Annotated[int, msgspec.Meta(ge=0, le=YEAR_9999_MS)]
Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
T = TypeVar("T")
C = TypeVar("C")


class Params(msgspec.Struct, Generic[T], gc=False):
    """`params` of a notification."""

    channel: Annotated[str, msgspec.Meta(max_length=128)]
    data: T


class Notification(msgspec.Struct, Generic[T], gc=False):
    """A frame of a channel."""

    method: Literal["subscription"]
    params: Params[T]


class Reader(NamedTuple, Generic[T, C]):
    """How the frames of a source's channels are read."""

    frames: msgspec.json.Decoder[Notification[T]]
    topic_of: Callable[[str], C | None]
    """What a channel is of; None where it is none of the source's."""
    feed_of: Callable[[str], Feed | None]
    """The feed of a channel; None where it is none of the source's."""
    read: Callable[[T, C, Receipt], Sequence[Event]]
    """The events of a channel's data, given what it is of; raises BadFrame, BadValue."""


class RpcError(msgspec.Struct):
    """{"code":-32602,"message":"Invalid params","data":{"reason":"wrong format","param":"channels"}}."""

    code: int
    message: str
    data: Any = None


class AnyParams(msgspec.Struct, frozen=True):
    """`params` of any frame."""

    channel: str = ""
    type: str = ""


class AnyFrame(msgspec.Struct):
    """Any frame: a notification, a heartbeat or a reply."""

    method: str = ""
    params: AnyParams = AnyParams()
    id: int | None = None
    result: Any = msgspec.UNSET
    error: RpcError | None = None


class InstrumentInfo(msgspec.Struct):
    """One of get_instruments: {"kind":"option","instrument_name":"BTC-27DEC24-100000-C","strike":100000.0,...}."""

    kind: str
    instrument_name: Name
    base_currency: Name
    quote_currency: Name
    is_active: bool
    state: str = ""
    settlement_period: str = ""
    expiration_timestamp: Millis | None = None
    tick_size: msgspec.Raw = msgspec.Raw(b"null")
    min_trade_amount: msgspec.Raw = msgspec.Raw(b"null")
    strike: msgspec.Raw = msgspec.Raw(b"null")
    option_type: Literal["call", "put"] | None = None


class Listing(msgspec.Struct):
    """The body of GET public/get_instruments, or of get_instrument whose result is one of them."""

    result: list[InstrumentInfo]


class Single(msgspec.Struct):
    """The body of GET public/get_instrument."""

    result: InstrumentInfo


class Failure(msgspec.Struct):
    """The body of a request that failed."""

    error: RpcError


_any_frame = msgspec.json.Decoder(AnyFrame)
_listing = msgspec.json.Decoder(Listing)
_single = msgspec.json.Decoder(Single)
_failure = msgspec.json.Decoder(Failure)

KINDS: dict[str, Literal["SPOT", "FUTURE", "OPTION"]] = {"spot": "SPOT", "future": "FUTURE", "option": "OPTION"}
OPTION_SIDES: dict[str | None, OptionSide] = {"call": "CALL", "put": "PUT"}
_STRIKE = re.compile(r"-([0-9]+)D([0-9]+)-([CP])$", re.ASCII)


class Deribit:
    """What all of Deribit's sources have; each adds its name, channels and feeds, and how frames are read."""

    venue = VENUE
    scope: Literal["symbol", "market"] = "market"
    selection: str | None = "currencies"
    past_trades = False
    reader: ClassVar[Reader[Any, Any]]
    # subscribe: ~3.3 a second; get_instruments: 1 a second; 32 connections per address, of which we take few.
    limits = Limits(
        rest=Rate(1, 1.0),
        connects=Rate(2, 1.0),
        messages=Rate(3, 1.0),
        feeds_per_connection=500,
        feeds_per_message=100,
        silence_seconds=2.5 * HEARTBEAT_SECONDS,
    )

    def symbol_of(self, base: str, quote: str) -> str:
        """An index's name: what is collected as a whole has no symbols of mere pairs."""
        return f"{base}_{quote}"

    def listing(self, base: str, symbol: str | None) -> Get:
        """get_instrument, or get_instruments of the options of all currencies: one request instead of one for each."""
        if symbol is None:
            return Get(f"{base.rstrip('/')}/public/get_instruments?currency=any&kind=option&expired=false")
        return Get(f"{base.rstrip('/')}/public/get_instrument?instrument_name={quote(spelled(symbol), safe='')}")

    def instruments(self, body: bytes, received_us: int) -> Sequence[Instrument]:
        """Instruments of either body, whatever their kind; raises BadFrame."""
        with reading():
            return [_instrument(info, received_us) for info in _infos(body)]

    def refusal(self, status: int, body: bytes) -> str | None:
        """`Invalid params` or `not_found` with status 400 is for good."""
        try:
            error = _failure.decode(body).error
        except READ_ERRORS:
            return None
        for_good = 400 <= status < 500 and error.code in NO_SUCH_INSTRUMENT
        return sentence(error) if for_good else None

    def feed(self, channel: str, symbol: str) -> Feed:
        """What has a channel of its own is a feed of its own."""
        return Feed(channel, symbol)

    def socket_url(self, base: str, channel: str) -> str:
        """One endpoint for all channels."""
        return base

    def greeting(self, request: int) -> str | None:
        """Ask for heartbeats: a line that dies silently is noticed, on both sides."""
        return _call("public/set_heartbeat", {"interval": HEARTBEAT_SECONDS}, request)

    def subscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """`{"jsonrpc":"2.0","id":1,"method":"public/subscribe","params":{"channels":[...]}}`."""
        return _call("public/subscribe", {"channels": [self.channel_of(feed) for feed in feeds]}, request)

    def unsubscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """The same with public/unsubscribe."""
        return _call("public/unsubscribe", {"channels": [self.channel_of(feed) for feed in feeds]}, request)

    def one_message(self, feeds: Sequence[Feed]) -> Sequence[Feed]:
        """A message names each channel in full."""
        return feeds

    def channel_of(self, feed: Feed) -> str:
        """Deribit's name of the channel a feed comes on."""
        raise NotImplementedError

    def parse(self, frame: bytes, receipt: Receipt) -> Sequence[Event]:
        """Events of a channel's frame, or what else it says; raises BadFrame."""
        reader = self.reader
        try:
            params = reader.frames.decode(frame).params
            topic = reader.topic_of(params.channel)
            if topic is None:
                raise BadFrame(f"channel {params.channel!r} is none that this source subscribes to")
            return reader.read(params.data, topic, receipt)
        except msgspec.ValidationError as error:
            return control(frame, reader.feed_of, error)
        except READ_ERRORS as error:
            raise bad_frame(error) from None


def control(frame: bytes, feed_of: Callable[[str], Feed | None], why: Exception) -> Sequence[Event]:
    """What a frame says that is none of the source's data: a reply, a heartbeat; else raises `why` as a BadFrame.

    `feed_of` names the feed of a channel, None where it is none of the source's.
    """
    with reading():
        told = _any_frame.decode(frame)
    if told.error is not None:
        text = sentence(told.error)
        return (Reply(told.id, text, momentary=told.error.code in MOMENTARY),)
    if told.method == "heartbeat":
        return _heartbeat(told.params.type)
    if told.method == "subscription" and feed_of(told.params.channel) is None:
        raise BadFrame(f"channel {told.params.channel[:128]!r} is none that this source subscribes to")
    if told.method or told.id is None:
        raise bad_frame(why)
    return _result(told.id, told.result, feed_of)


def sentence(error: RpcError) -> str:
    """`Invalid params (-32602): wrong format`."""
    reason = error.data.get("reason") if isinstance(error.data, dict) else None
    return f"{error.message} ({error.code})" + (f": {reason}" if isinstance(reason, str) else "")


def spelled(symbol: str) -> str:
    """An instrument as Deribit spells it: the point of a strike is a lower-case d."""
    return _STRIKE.sub(r"-\1d\2-\3", symbol)


def currency_of(symbol: str) -> str:
    """The currency among whose instruments Deribit counts one: USDC of XRP_USDC-30JUN23-0D625-C, BTC of BTC-..."""
    return symbol.partition("-")[0].rpartition("_")[2]


def _heartbeat(kind: str) -> Sequence[Event]:
    if kind == "test_request":
        return (Answer(_call("public/test", {}, TEST_REQUEST)),)
    if kind == "heartbeat":
        return ()
    raise BadFrame(f"a heartbeat of the unknown type {kind[:64]!r}")


def _result(request: int, result: Any, feed_of: Callable[[str], Feed | None]) -> Sequence[Event]:
    if isinstance(result, dict) and "version" in result:
        return ()
    if result == "ok":
        return (Reply(request, None),)
    if not isinstance(result, list) or not all(isinstance(channel, str) for channel in result):
        raise BadFrame("neither a channel's frame nor a reply")
    feeds = [feed_of(channel) for channel in result]
    return (Reply(request, None, tuple(feed for feed in feeds if feed is not None), NOT_LISTED),)


def _call(method: str, params: dict[str, Any], request: int) -> str:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": request, "method": method, "params": params}).decode()


def _infos(body: bytes) -> list[InstrumentInfo]:
    try:
        return _listing.decode(body).result
    except msgspec.ValidationError as listing_error:
        try:
            return [_single.decode(body).result]
        except msgspec.ValidationError:
            raise listing_error from None


def _instrument(info: InstrumentInfo, received_us: int) -> Instrument:
    perpetual = info.kind == "future" and info.settlement_period == "perpetual"
    expires = None if perpetual or info.kind == "spot" else info.expiration_timestamp
    return Instrument(
        venue=VENUE,
        symbol=info.instrument_name.upper(),
        received_time=received_us,
        base=info.base_currency,
        quote=info.quote_currency,
        kind="PERPETUAL" if perpetual else KINDS.get(info.kind, "UNKNOWN"),
        status=info.state or ("active" if info.is_active else "inactive"),
        tick_size=_optional(info.tick_size),
        lot_size=_optional(info.min_trade_amount),
        expiry=None if expires is None else expires * MILLISECONDS_TO_US,
        strike=_optional(info.strike) if info.kind == "option" else None,
        option_side=OPTION_SIDES.get(info.option_type),
    )


def _optional(raw: msgspec.Raw) -> int | None:
    text = str(raw, "ascii")
    return None if text == "null" else number(text)
