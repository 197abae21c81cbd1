"""Which column of a table of trades is what: by its name, by its place in Binance's dumps without names, or as told.

Binance's dumps: https://github.com/binance/binance-public-data#trades. Tardis': https://docs.tardis.dev/downloadable-csv-files
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from ravenctl.shell import WrongUse

SPELLINGS: dict[str, tuple[str, ...]] = {
    "time": (
        *("event_time", "trade_time", "exchange_time", "exch_time", "exch_ms", "exch_us", "exch_ns", "transact_time"),
        *("time", "timestamp", "ts", "datetime", "date_time", "date", "time_ms", "time_us", "time_ns", "timestamp_s"),
        *("timestamp_ms", "timestamp_us", "timestamp_ns", "ts_ms", "ts_us", "ts_ns", "created_at", "traded_at"),
        *("unix", "unix_time", "epoch", "local_timestamp", "received_time", "recv_time", "recv_ms", "recv_us", "T"),
    ),
    "price": ("price", "trade_price", "last_price", "px", "rate", "p"),
    "quantity": (
        *("quantity", "qty", "amount", "size", "base_qty", "base_quantity", "base_amount", "trade_qty", "trade_size"),
        *("last_qty", "last_size", "volume", "base_volume", "vol", "q", "v"),
    ),
    "side": ("side", "taker_side", "aggressor_side", "aggressor", "trade_side", "direction", "taker"),
    "is_buyer_maker": (
        "is_buyer_maker",
        "buyer_maker",
        "buyer_is_maker",
        "was_the_buyer_the_maker",
        "is_buyer_mm",
        "m",
    ),
    "id": ("trade_id", "agg_trade_id", "id", "aggregate_trade_id", "tid", "trade_no", "trade_seq", "t", "a"),
    "symbol": ("symbol", "instrument", "instrument_name", "instrument_id", "pair", "product_id", "ticker", "market"),
    "venue": ("venue", "exchange"),
}
"""Names of columns by what they hold, the best first; underscores, blanks, hyphens and case do not count."""
NEEDED = ("time", "price", "quantity")
BOOLEANS = {"true", "false"}
LONGEST = 300
"""Letters of a first row that are shown."""

Places = dict[str, int]
TRADES_PLACES: Places = {"id": 0, "price": 1, "quantity": 2, "time": 4, "is_buyer_maker": 5}
AGG_TRADES_PLACES: Places = {"id": 0, "price": 1, "quantity": 2, "time": 5, "is_buyer_maker": 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Columns as a person names them, by their name or by their number from 1; None: to be guessed."""

    time: str | None = None
    price: str | None = None
    quantity: str | None = None
    side: str | None = None
    is_buyer_maker: str | None = None
    id: str | None = None

    def given(self) -> dict[str, str]:
        """Those that are named."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return {what: name for what, name in told.items() if name is not None}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each thing stands in a row; `names` is the header, None where the table has none."""

    places: Mapping[str, int]
    names: Sequence[str] | None

    def told(self) -> str:
        """For a person: which column was taken for what."""
        return ", ".join(f"{what} from {self._name(place)}" for what, place in self.places.items())

    def _name(self, place: int) -> str:
        return repr(self.names[place]) if self.names else f"column {place + 1}"


def has_header(first: Sequence[str]) -> bool:
    """Whether a first row holds names: none of its cells is a number."""
    return not any(_is_number(cell) for cell in first)


def layout(first: Sequence[str], named: Named) -> Layout:
    """Which column is what, of a first row that holds names or trades; raises WrongUse that says what to name."""
    header = first if has_header(first) else None
    places = _by_name(first) if header else _by_place(first, named)
    told = {what: _place(name, what, header, len(first)) for what, name in named.given().items()}
    places = {what: place for what, place in places.items() if place not in told.values()} | told
    if named.side is not None:
        places.pop("is_buyer_maker", None)
    elif named.is_buyer_maker is not None or "is_buyer_maker" in places:
        places.pop("side", None)
    missing = [what for what in NEEDED if what not in places]
    if missing:
        flags = " and ".join(f"--{what} COLUMN" for what in missing)
        raise WrongUse(f"which column holds {_and(missing)}? Name it with {flags}: {_shown(first, header)}")
    return Layout({what: places[what] for what in SPELLINGS if what in places}, header)


def _by_name(header: Sequence[str]) -> Places:
    found = {_plain(name): place for place, name in reversed(list(enumerate(header)))}
    exact = {name.strip(): place for place, name in reversed(list(enumerate(header)))}
    places: Places = {}
    for what, spellings in SPELLINGS.items():
        # `t` and `T` are the id and the time of Binance's streams: only names of one letter keep their case.
        hits = (exact.get(name) if len(name) == 1 else found.get(_plain(name)) for name in spellings)
        place = next((hit for hit in hits if hit is not None), None)
        if place is not None:
            places[what] = place
    return places


def _by_place(first: Sequence[str], named: Named) -> Places:
    """The columns of Binance's dumps of trades and aggTrades, spot and futures, told apart by where the booleans are.

    trades: id, price, qty, quoteQty, time, isBuyerMaker, and of spot isBestMatch; aggTrades: id, price, quantity,
    first id, last id, time, isBuyerMaker, and of spot isBestMatch.
    """
    booleans = [place for place, cell in enumerate(first) if cell.strip().lower() in BOOLEANS]
    if len(first) in (6, 7) and booleans[:1] == [5]:
        return dict(TRADES_PLACES)
    if len(first) in (7, 8) and booleans[:1] == [6]:
        return dict(AGG_TRADES_PLACES)
    if not {*NEEDED} <= {*named.given()}:
        raise WrongUse(
            "the table has no names of columns, and is none of Binance's dumps: name at least --time, --price and "
            f"--quantity by their numbers from 1; its first row is {_shown(first, None)}"
        )
    return {}


def _place(name: str, what: str, header: Sequence[str] | None, width: int) -> int:
    if header is not None and name in header:
        return list(header).index(name)
    if name.isdigit() and 1 <= int(name) <= width:
        return int(name) - 1
    known = f"there are {', '.join(header)}" if header else f"it has no names, number columns from 1 to {width}"
    raise WrongUse(f"--{what.replace('_', '-')} {name}: the table has no such column; {known}")


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _shown(first: Sequence[str], header: Sequence[str] | None) -> str:
    return (f"there are {', '.join(header)}" if header else ",".join(first))[:LONGEST]
