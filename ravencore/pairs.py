"""Currency pairs in symbols as people and venues write them; pure."""

from typing import NamedTuple

QUOTES = (
    *("FDUSD", "USDT", "USDC", "TUSD", "BUSD", "USD1", "USDP", "USDE", "EURI", "DAI", "USD", "EUR", "GBP", "JPY"),
    *("TRY", "BRL", "AUD", "CAD", "CHF", "MXN", "PLN", "ARS", "UAH", "ZAR", "BTC", "ETH", "BNB", "SOL"),
)
"""Currencies that symbols without a separator may end with."""


class Pair(NamedTuple):
    """A base and a quote currency."""

    base: str
    quote: str


def pair_of(symbol: str) -> Pair | None:
    """The currencies that a symbol like BTCUSDT, BTC-USDT or BTC/USDT names; None where it names none known."""
    for separator in "/-":
        base, found, quote = symbol.partition(separator)
        if found:
            return Pair(base, quote) if base.isalnum() and quote.isalnum() else None
    quotes = [quote for quote in QUOTES if symbol.endswith(quote) and symbol != quote]
    quote = max(quotes, key=len, default="")
    return Pair(symbol.removesuffix(quote), quote) if quote else None
