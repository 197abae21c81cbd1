"""A synthetic venue: the events of its parts, merged by time, in the words of its dialect. Same seed, same events."""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile

import msgspec

from simulator.contract import Body, Dialect, Frame, Listed, Part, SimulatorError, Snapshot
from simulator.events import Event
from simulator.markets.flow import INVERSE, LISTINGS, Listing, SymbolMarket

EPOCH_NS = 1_735_689_600 * 10**9  # 2025-01-01T00:00:00Z
DEFAULT_HORIZON_NS = 120 * 10**9
SAMPLE_NS = 10 * 10**9
SURE_SHARE = 0.7  # bursts make the number of trades vary; a counted fault must not be put beyond the last

Parts = Callable[[], Sequence[Part]]
"""Makes the parts anew: each is run once."""


class SyntheticMarket:
    """The parts of one venue side by side, independent of each other."""

    source = "synthetic"
    begins_ns = EPOCH_NS
    has_depth20: frozenset[str] = frozenset()
    notes: Sequence[str] = ()
    bodies: Sequence[Body] = ()
    streams: frozenset[str] | None = None

    def __init__(
        self, dialect: Dialect, parts: Parts, duration_ns: int | None = None, spared: Part | None = None
    ) -> None:
        """No faults are put on the trades of a part that is `spared`: nobody collects them."""
        self._dialect = dialect
        self._spared = {row.symbol for row in spared.instruments} if spared is not None else set()
        self._parts = parts
        made = parts()
        self.instruments: Mapping[str, Listed] = {listed.symbol: listed for part in made for listed in part.instruments}
        self.snapshots: Mapping[str, Sequence[Snapshot]] = {
            symbol: [book] for part in made for symbol, book in part.snapshots.items()
        }
        self.traded: Sequence[str] = [symbol for symbol in self.snapshots if symbol not in self._spared]
        self._horizon_ns = DEFAULT_HORIZON_NS if duration_ns is None else duration_ns

    @property
    def expected_trades(self) -> int:
        sample_ns = min(SAMPLE_NS, self._horizon_ns)
        sample = takewhile(lambda frame: frame.time_ns < EPOCH_NS + sample_ns, self.frames(None))
        trades = sum(frame.kind == "trade" for frame in sample)
        return int(trades * self._horizon_ns / max(sample_ns, 1) * SURE_SHARE)

    def frames(self, start_ns: int | None) -> Iterator[Frame]:
        """Without end; `start_ns` moves all times."""
        begin_ns = EPOCH_NS if start_ns is None else start_ns
        parts = (part.events(begin_ns) for part in self._parts())
        frames = self._dialect.speak(heapq.merge(*parts, key=_event_time))
        return map(self._spare, frames) if self._spared else frames

    def _spare(self, frame: Frame) -> Frame:
        if frame.kind == "trade" and frame.symbol in self._spared:
            return msgspec.structs.replace(frame, kind="other")
        return frame


def _event_time(event: Event) -> int:
    return event.time_ns


def flows(dialect: Dialect, symbols: Sequence[str], seed: int) -> list[SymbolMarket]:
    """The symbols' markets as this venue lists them, none for a pair it does not have.

    Symbols are pairs in any spelling: BTCUSDT, BTC/USDT, BTC-USDT. Raises SimulatorError for one that is not known.
    """
    venue = "" if dialect.venue == "BINANCE_SPOT" else f"{dialect.venue}/"
    kind = "perpetual" if dialect.venue in {"BINANCE_FUTURES", "DERIBIT"} else "spot"
    found: dict[str, SymbolMarket] = {}
    for symbol in symbols:
        listing = listing_of(symbol)
        spelled = dialect.spell(listing.base, listing.quote)
        if spelled is not None and spelled not in found:
            own = INVERSE[listing.base] if dialect.venue == "DERIBIT" else listing
            found[spelled] = SymbolMarket(spelled, own, seed, venue, kind)
    return list(found.values())


def listing_of(symbol: str) -> Listing:
    """The pair that a symbol names. Raises SimulatorError."""
    listing = LISTINGS.get(symbol.upper().replace("/", "").replace("-", ""))
    if listing is None:
        raise SimulatorError(f"no synthetic {symbol}; there are {', '.join(LISTINGS)}")
    return listing
