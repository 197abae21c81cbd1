"""The consolidated spot mid of each pair, once a second (bars.md section 5).

Median, clamp to 0.5 % around it, mean: as Deribit makes its index of the spot prices of many venues,
https://insights.deribit.com/exchange-updates/new-deribit-index/.

Where the definition leaves a doubt:
- A venue's mid is (bid + ask) / 2 of the doubles nearest to bid and ask. A bid equal to the ask is not crossed. A side
  without price, of price zero or of quantity zero is empty.
- A quote is stale when its age is more than `stale_after_ms`; divergence is beyond the limit when it is more.
- The clamp is to [median * (1.0 - 0.005), median * (1.0 + 0.005)]; divergence is taken before it.
- A venue that counts but is not expected is used as others are; its absence is no flaw. Fewer than two venues are
  Suspect even where no more are expected.
- A quote is late when one was taken that was received after it, or at the same time as a later frame. Of two symbols
  of a venue under one key the newest quote counts.
- A pair begins at the first whole second after its first usable quote. It falls silent at the first second that is
  more than 60 s after its newest quote, usable or not, and goes on with the next quote.
"""

import math
from collections.abc import Sequence, Set
from statistics import median
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from processors.folds.soundness import decimal_fault, time_fault
from processors.join import NEVER, PartitionJoin
from ravencore.config import MidsSettings
from ravencore.decimals import to_float
from ravencore.errors import ConfigError
from ravencore.records import MidQuality, Quote, SpotMid, VenueMid
from ravencore.topics import SPOT_MID

SECOND_US = 1_000_000
SILENT_AFTER_US = 60 * SECOND_US
CLAMP = 0.005


class Held(Struct, frozen=True, array_like=True):
    """The newest quote of a venue; `mid` is None where it is not usable."""

    received_time: int
    connection_time: int
    connection_sequence: int
    venue: str
    symbol: str
    mid: float | None

    @property
    def order(self) -> tuple[int, int, int]:
        """What quotes of a venue are ordered by."""
        return self.received_time, self.connection_time, self.connection_sequence


class Pair:
    """The quotes of one pair."""

    def __init__(self, pair: str, settings: MidsSettings) -> None:
        self._pair = pair
        self._base, _, self._quote = pair.rpartition("-")
        self._counted = frozenset(settings.venues)
        self._expected = frozenset(settings.expected.get(pair, settings.venues))
        self._stale_after_us = settings.stale_after_ms * 1_000
        self._limit = settings.divergence_limit
        self._held: dict[str, Held] = {}
        self._started = False
        """Whether there was a usable quote."""

    @property
    def until_us(self) -> int:
        """The last instant before the pair falls silent."""
        if not self._started:
            return NEVER
        return max(held.received_time for held in self._held.values()) + SILENT_AFTER_US

    def take(self, quote: Quote) -> str:
        """Take a quote for its venue's newest."""
        if quote.venue not in self._counted:
            return "ignored_quotes"
        held = Held(
            quote.received_time, quote.connection_time, quote.connection_sequence, quote.venue, quote.symbol, mid(quote)
        )
        before = self._held.get(quote.venue)
        if before is not None and held.order < before.order:
            return "late_quotes"
        self._held[quote.venue] = held
        self._started = self._started or held.mid is not None
        return "quotes"

    def sample(self, time_us: int) -> Sequence[SpotMid]:
        """The mid at a second; none while the pair is silent."""
        if time_us > self.until_us:
            return ()
        venues = [self._part(self._held[name], time_us) for name in sorted(self._held)]
        mids = {part.venue: part.mid for part in venues if part.used and part.mid is not None}
        middle, consolidated = consolidate(list(mids.values())) if mids else (None, None)
        divergence = (max(mids.values()) - min(mids.values())) / middle if middle is not None else None
        record = SpotMid(
            pair=self._pair,
            base=self._base,
            quote=self._quote,
            time=time_us,
            mid=consolidated,
            quality=self._quality(mids.keys(), divergence),
            divergence=divergence,
            expected=len(self._expected),
            used=len(mids),
            venues=tuple(venues),
        )
        return (record,)

    def snapshot(self) -> Any:
        """Everything."""
        return [self._started, [self._held[venue] for venue in sorted(self._held)]]

    def restore(self, snapshot: Any) -> None:
        """Take over a snapshot, but for venues that count no more."""
        self._started, held = snapshot
        quotes = msgspec.convert(held, list[Held])
        self._held = {quote.venue: quote for quote in quotes if quote.venue in self._counted}
        self._started = self._started and bool(self._held)

    def _part(self, held: Held, time_us: int) -> VenueMid:
        age_us = time_us - held.received_time
        used = held.mid is not None and age_us <= self._stale_after_us
        return VenueMid(venue=held.venue, symbol=held.symbol, mid=held.mid, age=age_us, used=used)

    def _quality(self, used: Set[str], divergence: float | None) -> MidQuality:
        if divergence is None or divergence > self._limit or len(used) < 2:
            return "Suspect"
        return "Ok" if self._expected <= used else "Degraded"


def mid(quote: Quote) -> float | None:
    """(bid + ask) / 2 of a quote, in doubles; None where it is crossed or a side is empty."""
    bid, ask = quote.bid_price, quote.ask_price
    if not bid or not ask or bid > ask or quote.bid_quantity == 0 or quote.ask_quantity == 0:
        return None
    return (to_float(bid) + to_float(ask)) / 2


def consolidate(mids: Sequence[float]) -> tuple[float, float]:
    """The median of at least one mid, and the mean of all mids clamped around it."""
    middle = median(mids)
    low, high = middle * (1.0 - CLAMP), middle * (1.0 + CLAMP)
    return middle, math.fsum(min(max(one, low), high) for one in mids) / len(mids)


class SpotMids(PartitionJoin[Quote]):
    """All pairs of one partition of raven.quotes, by `BASE-QUOTE`."""

    step_us: ClassVar[int] = SECOND_US
    topic: ClassVar[str] = SPOT_MID
    counters: ClassVar[tuple[str, ...]] = ("quotes", "samples", "late_quotes", "ignored_quotes")

    def __init__(self, settings: MidsSettings) -> None:
        super().__init__()
        self._settings = settings
        for pair, venues in settings.expected.items():
            for venue in venues:
                if venue not in settings.venues:
                    raise ConfigError(f"mids.expected.{pair} names {venue}, which is not among mids.venues")

    def fault(self, quote: Quote) -> str | None:
        """A negative price or quantity, or a time that cannot be."""
        names = ("bid_price", "ask_price", "bid_quantity", "ask_quantity")
        numbers = (quote.bid_price, quote.ask_price, quote.bid_quantity, quote.ask_quantity)
        return time_fault(quote.event_time, quote.received_time) or decimal_fault(zip(names, numbers, strict=True))

    def member(self, pair: str) -> Pair:
        """A pair without quotes."""
        return Pair(pair, self._settings)
