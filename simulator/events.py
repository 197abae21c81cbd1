"""What happens in a synthetic market, in no venue's words: a dialect spells it.

Times are nanoseconds since 1970, or from the market's start where it says so. Prices, quantities and rates are integers
in units of 10^-8; levels are (price, quantity) texts with all eight decimals.
"""

from collections.abc import Sequence

import msgspec

Levels = Sequence[tuple[str, str]]


class Trade(msgspec.Struct, frozen=True, gc=False):
    """A match; ids of a symbol count up by one."""

    time_ns: int
    symbol: str
    trade_id: int
    price_e8: int
    quantity_e8: int
    buyer_is_maker: bool


class DepthDiff(msgspec.Struct, frozen=True, gc=False):
    """Levels that changed, with their new quantities (zero = gone), and the update ids it covers."""

    time_ns: int
    symbol: str
    first_id: int
    last_id: int
    bids: Levels
    asks: Levels


class Quote(msgspec.Struct, frozen=True, gc=False):
    """The best bid or ask has changed; `update_id` grows, no two quotes of a symbol share a time in microseconds."""

    time_ns: int
    symbol: str
    update_id: int
    bid_e8: int
    bid_quantity_e8: int
    ask_e8: int
    ask_quantity_e8: int
    last_e8: int


class Kline(msgspec.Struct, frozen=True, gc=False):
    """A candle of a minute: while it grows, and once more when it is closed."""

    time_ns: int
    symbol: str
    open_time_ns: int
    open_e8: int
    high_e8: int
    low_e8: int
    close_e8: int
    volume_e8: int
    quote_volume_e8: int
    trade_count: int
    taker_buy_volume_e8: int
    taker_buy_quote_volume_e8: int
    first_trade_id: int | None
    last_trade_id: int | None
    closed: bool


class Mark(msgspec.Struct, frozen=True, gc=False):
    """Mark price and funding of a perpetual."""

    symbol: str
    mark_e8: int
    index_e8: int
    rate_e8: int
    next_funding_ns: int


class Marks(msgspec.Struct, frozen=True, gc=False):
    """Those of all perpetuals, once a second."""

    time_ns: int
    marks: Sequence[Mark]


class Liquidation(msgspec.Struct, frozen=True, gc=False):
    """A position closed by force; no two of a symbol share a time in milliseconds."""

    time_ns: int
    symbol: str
    buys: bool
    price_e8: int
    average_price_e8: int
    quantity_e8: int


class OpenInterest(msgspec.Struct, frozen=True, gc=False):
    """Open contracts of a perpetual from this time on."""

    time_ns: int
    symbol: str
    open_interest_e8: int


class Option(msgspec.Struct, frozen=True, gc=False):
    """A listed option; prices are in its `price_currency`. `tick_steps`: from (a price), a coarser tick."""

    symbol: str
    underlying: str
    price_currency: str
    expiry_ns: int
    strike_e8: int
    is_call: bool
    tick_e8: int
    lot_e8: int
    tick_steps: Sequence[tuple[int, int]] = ()


class OptionTick(msgspec.Struct, frozen=True, gc=False):
    """What an option is worth now; an empty side is None, as is the IV of a price below the intrinsic value.

    `underlying_e8` is the forward of its expiry. IVs are fractions; greeks are in quote currency, theta per day, vega
    and rho per percentage point.
    """

    time_ns: int
    option: Option
    bid_e8: int | None
    bid_quantity_e8: int
    ask_e8: int | None
    ask_quantity_e8: int
    mark_e8: int
    last_e8: int | None
    underlying_e8: int
    index_e8: int
    mark_iv: float
    bid_iv: float | None
    ask_iv: float | None
    delta: float
    gamma: float
    theta: float
    vega: float
    rho: float
    open_interest_e8: int
    volume_e8: int


class OptionTrade(msgspec.Struct, frozen=True, gc=False):
    """A match in an option: `sequence` counts within the option, `trade_id` within the venue."""

    time_ns: int
    option: Option
    sequence: int
    trade_id: int
    price_e8: int
    quantity_e8: int
    buys: bool
    mark_e8: int
    index_e8: int
    iv: float


class IndexPrice(msgspec.Struct, frozen=True, gc=False):
    """A price index, for example `btc_usd`."""

    time_ns: int
    name: str
    price_e8: int


class VolatilityIndex(msgspec.Struct, frozen=True, gc=False):
    """A volatility index in percent, for example `btc_usd` at 52.31."""

    time_ns: int
    name: str
    percent_e8: int


Event = (
    Trade
    | DepthDiff
    | Quote
    | Kline
    | Marks
    | Liquidation
    | OpenInterest
    | OptionTick
    | OptionTrade
    | IndexPrice
    | VolatilityIndex
)


def text_of(value_e8: int) -> str:
    """An amount with all its eight decimals: `123.40000000`."""
    return f"{'-' if value_e8 < 0 else ''}{abs(value_e8) // 100_000_000}.{abs(value_e8) % 100_000_000:08d}"


def short_text_of(value_e8: int) -> str:
    """An amount without its last zeros, as a JSON number of a float is written: `123.4`, `5.0`."""
    text = text_of(value_e8).rstrip("0")
    return text + "0" if text.endswith(".") else text
