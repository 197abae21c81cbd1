"""The records on the wire as Python values: one class per .avsc, the same fields in the same order.

Prices and quantities are unscaled decimal(38,18) integers (`ravencore.decimals`), times are integer microseconds since
the epoch, UTC, enums are their names. What a field means is written in its .avsc.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from msgspec import Struct

from ravencore import topics

Side = Literal["BUY", "SELL"]
OptionSide = Literal["CALL", "PUT"]


class Record(Struct, frozen=True, kw_only=True):
    """Base of all records; `SCHEMA` names the .avsc under schemas/."""

    SCHEMA: ClassVar[str]


class Trade(Record, frozen=True, kw_only=True):
    """One trade as the venue printed it."""

    SCHEMA: ClassVar[str] = "trade"
    venue: str
    symbol: str
    event_time: int
    received_time: int
    trade_id: str
    sequence: int | None = None
    price: int
    quantity: int
    side: Side
    after_gap: bool = False
    connection_time: int = 0
    connection_sequence: int = 0


class Level(Struct, frozen=True):
    """One price level of a book."""

    price: int
    quantity: int


class Book(Record, frozen=True, kw_only=True):
    """The best 20 price levels of each side, best first."""

    SCHEMA: ClassVar[str] = "book"
    venue: str
    symbol: str
    event_time: int | None = None
    received_time: int
    update_id: str | None = None
    sequence: int | None = None
    source: Literal["VENUE_SNAPSHOT", "MAINTAINED"]
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    connection_time: int = 0
    connection_sequence: int = 0


class Quote(Record, frozen=True, kw_only=True):
    """Best bid and ask of an instrument; an empty side is null."""

    SCHEMA: ClassVar[str] = "quote"
    venue: str
    symbol: str
    event_time: int | None = None
    received_time: int
    update_id: str | None = None
    sequence: int | None = None
    bid_price: int | None = None
    bid_quantity: int | None = None
    ask_price: int | None = None
    ask_quantity: int | None = None
    last_price: int | None = None
    connection_time: int = 0
    connection_sequence: int = 0


class Kline(Record, frozen=True, kw_only=True):
    """The exchange's own candle of an interval, after its close."""

    SCHEMA: ClassVar[str] = "kline"
    venue: str
    symbol: str
    event_time: int
    received_time: int
    interval: str
    open_time: int
    close_time: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    quote_volume: int
    trade_count: int
    taker_buy_volume: int
    taker_buy_quote_volume: int
    first_trade_id: str | None = None
    last_trade_id: str | None = None
    connection_time: int = 0
    connection_sequence: int = 0


class Funding(Record, frozen=True, kw_only=True):
    """Funding rate, mark and index price of a perpetual."""

    SCHEMA: ClassVar[str] = "funding"
    venue: str
    symbol: str
    event_time: int
    received_time: int
    rate: int | None = None
    mark_price: int | None = None
    index_price: int | None = None
    next_funding_time: int | None = None
    connection_time: int = 0
    connection_sequence: int = 0


class Liquidation(Record, frozen=True, kw_only=True):
    """An order by which the venue closed somebody's position."""

    SCHEMA: ClassVar[str] = "liquidation"
    venue: str
    symbol: str
    event_time: int
    received_time: int
    side: Side
    price: int
    quantity: int
    average_price: int | None = None
    filled_quantity: int | None = None
    status: str
    connection_time: int = 0
    connection_sequence: int = 0


class OpenInterest(Record, frozen=True, kw_only=True):
    """Contracts of an instrument that are open."""

    SCHEMA: ClassVar[str] = "open_interest"
    venue: str
    symbol: str
    event_time: int
    received_time: int
    open_interest: int
    open_interest_value: int | None = None
    mark_price: int | None = None
    connection_time: int = 0
    connection_sequence: int = 0


class OptionTicker(Record, frozen=True, kw_only=True):
    """Prices, implied volatilities (fractions) and greeks of an option."""

    SCHEMA: ClassVar[str] = "option_ticker"
    venue: str
    symbol: str
    event_time: int | None = None
    received_time: int
    underlying: str
    expiry: int
    strike: int
    option_side: OptionSide
    price_currency: str
    bid_price: int | None = None
    bid_quantity: int | None = None
    ask_price: int | None = None
    ask_quantity: int | None = None
    mark_price: int | None = None
    last_price: int | None = None
    underlying_price: int | None = None
    mark_iv: float | None = None
    bid_iv: float | None = None
    ask_iv: float | None = None
    delta: float | None = None
    gamma: float | None = None
    theta: float | None = None
    vega: float | None = None
    rho: float | None = None
    open_interest: int | None = None
    volume: int | None = None
    connection_time: int = 0
    connection_sequence: int = 0


class IndexPrice(Record, frozen=True, kw_only=True):
    """Price of a venue's index."""

    SCHEMA: ClassVar[str] = "index_price"
    venue: str
    symbol: str
    event_time: int
    received_time: int
    price: int
    connection_time: int = 0
    connection_sequence: int = 0


class VolatilityIndex(Record, frozen=True, kw_only=True):
    """Value of a venue's volatility index, in percent per year."""

    SCHEMA: ClassVar[str] = "volatility_index"
    venue: str
    symbol: str
    event_time: int
    received_time: int
    volatility: int
    connection_time: int = 0
    connection_sequence: int = 0


MarketRecord = (
    Trade | Book | Quote | Kline | Funding | Liquidation | OpenInterest | OptionTicker | IndexPrice | VolatilityIndex
)
"""What collectors publish of the market."""


class Instrument(Record, frozen=True, kw_only=True):
    """What a symbol is: its currencies, steps and kind."""

    SCHEMA: ClassVar[str] = "instrument"
    venue: str
    symbol: str
    received_time: int
    base: str
    quote: str
    kind: Literal["UNKNOWN", "SPOT", "PERPETUAL", "FUTURE", "OPTION"]
    status: str
    tick_size: int | None = None
    lot_size: int | None = None
    expiry: int | None = None
    strike: int | None = None
    option_side: OptionSide | None = None


GapCause = Literal["UNKNOWN", "COLD_START", "SEQUENCE", "DISCONNECT", "CHECKSUM", "SILENCE", "BACKPRESSURE", "REFUSED"]


class Gap(Record, frozen=True, kw_only=True):
    """A hole in a feed: one entry of the continuity ledger."""

    SCHEMA: ClassVar[str] = "gap"
    gap_id: str
    venue: str
    channel: str
    symbol: str
    cause: GapCause
    from_sequence: int | None = None
    to_sequence: int | None = None
    missing: int | None = None
    from_time: int | None = None
    to_time: int
    detected_time: int
    repair: Literal["UNKNOWN", "NONE", "PARTIAL", "BACKFILLED", "RESNAPSHOT"] = "NONE"
    repaired: int = 0
    connection: str
    detail: str


class DeadLetter(Record, frozen=True, kw_only=True):
    """Bytes that could not be used, where they came from and why."""

    SCHEMA: ClassVar[str] = "dead_letter"
    service: str
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    connection: str | None = None
    key: bytes | None = None
    payload: bytes
    reason: str
    detail: str
    detected_time: int


class Bar(Record, frozen=True, kw_only=True):
    """One bar; identified by venue, symbol, kind, profile and bar_seq."""

    SCHEMA: ClassVar[str] = "bar"
    venue: str
    symbol: str
    kind: str
    profile: str
    bar_seq: int
    open_time: int
    close_time: int
    first_trade_id: str | None = None
    last_trade_id: str | None = None
    open: int
    high: int
    low: int
    close: int
    volume: int
    quote_volume: int
    buy_volume: int
    ticks: int
    buy_ticks: int
    theta: float | None = None
    threshold: float | None = None
    expected_ticks: float | None = None
    warmup: bool
    gap: bool


class Vpin(Record, frozen=True, kw_only=True):
    """One volume bucket and VPIN at its close; identified by venue, symbol, profile and bar_seq."""

    SCHEMA: ClassVar[str] = "vpin"
    venue: str
    symbol: str
    profile: str
    bar_seq: int
    unit: Literal["QUOTE", "BASE"]
    open_time: int
    close_time: int
    first_trade_id: str
    last_trade_id: str
    open: int
    high: int
    low: int
    close: int
    volume: int
    buy_volume: int
    ticks: int
    sigma: float | None = None
    bulk_buy_volume: float | None = None
    order_imbalance: float | None = None
    vpin: float | None = None
    vpin_aggressor: float | None = None
    vpin_percentile: float | None = None
    gap: bool


MidQuality = Literal["Ok", "Degraded", "Suspect"]


class VenueMid(Struct, frozen=True, kw_only=True):
    """A venue's part in a consolidated mid."""

    venue: str
    symbol: str
    mid: float | None = None
    age: int
    used: bool


class SpotMid(Record, frozen=True, kw_only=True):
    """Consolidated mid of a pair at a whole second; identified by pair and time."""

    SCHEMA: ClassVar[str] = "spot_mid"
    pair: str
    base: str
    quote: str
    time: int
    mid: float | None = None
    quality: MidQuality
    divergence: float | None = None
    expected: int
    used: int
    venues: tuple[VenueMid, ...]


class IvPoint(Struct, frozen=True, kw_only=True):
    """An option that a smile is made of."""

    strike: int
    side: OptionSide
    log_moneyness: float
    iv: float
    bid_iv: float | None = None
    ask_iv: float | None = None
    delta: float


class IvExpiry(Struct, frozen=True, kw_only=True):
    """The smile of one expiry."""

    expiry: int
    years: float
    forward: int | None = None
    atm_iv: float | None = None
    risk_reversal_25: float | None = None
    butterfly_25: float | None = None
    calendar_arbitrage: bool | None = None
    butterfly_arbitrage: bool | None = None
    seen: int
    used: int
    refused: Mapping[str, int] = {}
    oldest_age: int | None = None
    points: tuple[IvPoint, ...]


class IvSurface(Record, frozen=True, kw_only=True):
    """Implied volatilities of an underlying at an instant; identified by venue, underlying, price_currency and time."""

    SCHEMA: ClassVar[str] = "iv_surface"
    venue: str
    underlying: str
    price_currency: str
    time: int
    expiries: tuple[IvExpiry, ...]


class FeedName(Struct, frozen=True, order=True):
    """A feed of a venue; the symbol `*` means every symbol of it."""

    venue: str
    channel: str
    symbol: str


class Demand(Record, frozen=True, kw_only=True):
    """What somebody wants running."""

    SCHEMA: ClassVar[str] = "demand"
    demand_id: str
    user: str
    venues: tuple[str, ...] = ()
    symbol: str
    outputs: tuple[str, ...] = ()
    created_time: int
    stores: tuple[str, ...] = ()
    feeds: tuple[FeedName, ...] = ()


class Shutdown(Record, frozen=True, kw_only=True):
    """Asks the instances of a service that run now to end."""

    SCHEMA: ClassVar[str] = "shutdown"
    service: str
    user: str
    requested_time: int


SubscriptionState = Literal["UNKNOWN", "WAITING", "CONNECTING", "SUBSCRIBED", "FLOWING", "REFUSED", "SILENT", "FAILED"]


class Subscription(Struct, frozen=True, kw_only=True):
    """One feed of a collector and how far it has come."""

    venue: str
    channel: str
    symbol: str
    state: SubscriptionState
    last_received_time: int | None = None
    last_gap_time: int | None = None
    last_gap_cause: str | None = None


ServiceState = Literal["UNKNOWN", "STARTING", "RUNNING", "DEGRADED", "FAILED", "STOPPED"]


class ServiceStatus(Record, frozen=True, kw_only=True):
    """What a service instance is doing, written every second."""

    SCHEMA: ClassVar[str] = "service_status"
    service: str
    instance: str
    host: str
    pid: int
    version: str
    state: ServiceState
    started_time: int
    reported_time: int
    subscriptions: tuple[Subscription, ...] = ()
    counters: Mapping[str, int] = {}
    gauges: Mapping[str, float] = {}
    lag: Mapping[str, int] = {}
    last_error: str | None = None
    last_error_time: int | None = None


class State(Record, frozen=True, kw_only=True):
    """All folds of one symbol after a batch."""

    SCHEMA: ClassVar[str] = "state"
    input_topic: str
    input_key: str
    input_partitions: int
    offset: int
    layout: int
    parameters: str
    payload: bytes


RECORDS: tuple[type[Record], ...] = (
    Trade,
    Book,
    Quote,
    Kline,
    Funding,
    Liquidation,
    OpenInterest,
    OptionTicker,
    IndexPrice,
    VolatilityIndex,
    Instrument,
    Gap,
    DeadLetter,
    Bar,
    Vpin,
    SpotMid,
    IvSurface,
    Demand,
    Shutdown,
    ServiceStatus,
    State,
)


RECORD_OF: Mapping[str, type[Record]] = {
    topics.TRADES: Trade,
    topics.BOOKS: Book,
    topics.QUOTES: Quote,
    topics.KLINES: Kline,
    topics.FUNDING: Funding,
    topics.LIQUIDATIONS: Liquidation,
    topics.OPEN_INTEREST: OpenInterest,
    topics.OPTION_TICKERS: OptionTicker,
    topics.INDEX_PRICES: IndexPrice,
    topics.VOLATILITY_INDEX: VolatilityIndex,
    topics.INSTRUMENTS: Instrument,
    topics.GAPS: Gap,
    topics.DEAD_LETTERS: DeadLetter,
    **dict.fromkeys(topics.BARS.values(), Bar),
    topics.VPIN: Vpin,
    topics.SPOT_MID: SpotMid,
    topics.IV_SURFACE: IvSurface,
    topics.CONTROL: Demand,
    topics.STATUS: ServiceStatus,
    **dict.fromkeys((topics.STATE_BARS, topics.STATE_MIDS, topics.STATE_SURFACES), State),
}
"""What each topic holds; `raven.control` also has Shutdowns, under keys of their own."""


def market_key(record: MarketRecord | Instrument | Bar | Vpin) -> bytes:
    """Kafka key `VENUE:SYMBOL` of a record of one instrument."""
    return f"{record.venue}:{record.symbol}".encode()


def gap_key(gap: Gap) -> bytes:
    """Kafka key `VENUE:CHANNEL:SYMBOL` of a Gap."""
    return f"{gap.venue}:{gap.channel}:{gap.symbol}".encode()


def mid_key(mid: SpotMid) -> bytes:
    """Kafka key `BASE-QUOTE` of a SpotMid."""
    return mid.pair.encode()


def surface_key(surface: IvSurface) -> bytes:
    """Kafka key of an IvSurface, its underlying."""
    return surface.underlying.encode()
