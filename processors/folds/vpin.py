"""VPIN (bars.md section 4): buckets of exactly V, bulk classification per bucket, and the aggressors' own form.

Easley, Lopez de Prado, O'Hara, "Flow Toxicity and Liquidity in a High-frequency World", 2012, with the normal
distribution in place of Student's t as in AFML section 19.5.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from operator import sub
from typing import Any, Literal, Self

from msgspec import Struct

from processors.contract import Closed, Fold, Folded, Refusal, Stream, Tape
from processors.folds.span import Span
from ravencore.codec import decimal_bytes, decimal_units
from ravencore.config import BarsSettings
from ravencore.decimals import ONE, from_text, to_float, to_text
from ravencore.errors import BadValue, ConfigError
from ravencore.records import Vpin

MOST_BUCKETS = 10_000
"""A trade that would close more is left out, and refused: V is too small for it."""
SQRT_2 = math.sqrt(2.0)


class Parameters(Struct, frozen=True):
    """What a profile of VPIN computes; V as decimal text."""

    bucket_volume: str
    unit: Literal["quote", "base"]
    window: int
    sigma_window: int
    sigma_floor: float
    percentile_window: int


def parameters(settings: BarsSettings, venue: str, symbol: str) -> dict[str, Parameters]:
    """An instrument's one profile, with its own V; raises ConfigError when V is no positive number."""
    vpin, instrument = settings.vpin, f"{venue}:{symbol}"
    volume = vpin.bucket_volumes.get(instrument, vpin.bucket_volume)
    try:
        units = from_text(volume)
    except BadValue as error:
        raise ConfigError(f"bars.vpin: the bucket volume of {instrument}: {error}") from None
    if units <= 0:
        raise ConfigError(f"bars.vpin: the bucket volume of {instrument} is {volume}: it must be positive")
    own = Parameters(
        to_text(units), vpin.unit, vpin.window, vpin.sigma_window, vpin.sigma_floor, vpin.percentile_window
    )
    return {vpin.profiles.get(instrument, vpin.profile): own}


class Bucket(Span):
    """The trades in the open bucket; `filled` and `bought` in exact units of the fold."""

    __slots__ = ("bought", "filled")

    def __init__(self, tape: Tape, start: int, stop: int) -> None:
        super().__init__(tape, start, stop)
        self.filled = self.bought = 0

    def pack(self) -> list[Any]:
        """The state as MessagePack-able values."""
        return [*super().pack(), decimal_bytes(self.filled), decimal_bytes(self.bought)]

    @classmethod
    def unpack(cls, packed: list[Any]) -> Self:
        """The bucket that `pack` wrote."""
        bucket = super().unpack(packed)
        bucket.filled, bucket.bought = map(decimal_units, packed[10:12])
        return bucket


class VpinBuckets(Fold):
    """Volume buckets and VPIN of one profile.

    Volumes are exact integers: notionals at scale 36 where the unit is quote, quantities at scale 18 where it is base.
    """

    def __init__(self, stream: Stream, parameters: Parameters) -> None:
        self._stream = stream
        self._by_quote = parameters.unit == "quote"
        self._scale = ONE if self._by_quote else 1
        """Exact units per unscaled decimal(38,18)."""
        self._unscaled = from_text(parameters.bucket_volume)
        self._volume = self._unscaled * self._scale
        self._volume_double = to_float(self._unscaled)
        self._window, self._floor = parameters.window, parameters.sigma_floor
        self._bar_seq = 0
        self._bucket: Bucket | None = None
        self._missed = False
        """The last trade was refused: the next one follows a hole."""
        self._last_close: int | None = None
        self._changes: deque[float] = deque(maxlen=parameters.sigma_window)
        self._imbalances: deque[float] = deque(maxlen=self._window)
        self._one_sided: deque[bytes] = deque()
        """|2 * buy_volume - V| of the last buckets, in exact units, packed already: there are many in a snapshot."""
        self._one_sided_sum = 0
        self._levels: deque[float] = deque(maxlen=parameters.percentile_window)
        self._sorted_levels: list[float] = []

    def trades(self, tape: Tape) -> Folded:
        """Buckets that these trades fill, without the trades that would close more than 10,000."""
        closed: list[Closed] = []
        refused: list[Refusal] = []
        start = 0
        for row in self._suspects(tape):
            closed += self._fill(tape, start, row)
            start = row
            if refusal := self._refusal(tape, row):
                refused.append(refusal)
                start, self._missed = row + 1, True
        closed += self._fill(tape, start, len(tape))
        return Folded(closed, refused=refused)

    def snapshot(self) -> Any:
        """Everything, as MessagePack-able values."""
        return [
            self._bar_seq,
            None if self._last_close is None else decimal_bytes(self._last_close),
            list(self._changes),
            list(self._imbalances),
            list(self._one_sided),
            self._bucket.pack() if self._bucket else None,
            list(self._levels),
            self._missed,
        ]

    def restore(self, snapshot: Any) -> None:
        """Take over a snapshot."""
        self._bar_seq, close, changes, imbalances, one_sided, bucket, levels, self._missed = snapshot
        self._last_close = None if close is None else decimal_units(close)
        self._changes = deque(changes, self._changes.maxlen)
        self._imbalances = deque(imbalances, self._window)
        self._one_sided = deque(one_sided)
        self._one_sided_sum = sum(map(decimal_units, one_sided))
        self._bucket = None if bucket is None else Bucket.unpack(bucket)
        self._levels = deque(levels, self._levels.maxlen)
        self._sorted_levels = sorted(levels)

    def _suspects(self, tape: Tape) -> Sequence[int]:
        """Trades of more than 10,000 buckets, in practice none: only they can close more than that."""
        most = MOST_BUCKETS * self._volume
        if max(tape.quantity) * (max(tape.price) if self._by_quote else 1) <= most:
            return ()
        return [row for row, amount in enumerate(map(sub, self._totals(tape)[1:], self._totals(tape))) if amount > most]

    def _refusal(self, tape: Tape, row: int) -> Refusal | None:
        totals = self._totals(tape)
        filled = self._bucket.filled if self._bucket else 0
        buckets = (filled + totals[row + 1] - totals[row]) // self._volume
        if buckets <= MOST_BUCKETS:
            return None
        detail = f"V too small: this trade would close {buckets} VPIN buckets of {to_text(self._unscaled)}"
        return Refusal(row, "bucket_too_small", f"{detail}; raise V for the symbol (`ravenctl vpin suggest` tells it)")

    def _fill(self, tape: Tape, start: int, stop: int) -> list[Closed]:
        """Buckets that the rows from `start` to `stop` (exclusive) fill.

        The tape is a line of volume: trade i covers from totals[i] to totals[i + 1]. `begin` is where the open
        bucket begins on it (before `start` when it began with earlier trades), `begin + V` where it is full.
        """
        if start == stop:
            return []
        if self._missed:
            tape, self._missed = tape.after_hole(start), False
        totals = self._totals(tape)
        origin, end = totals[start], totals[stop]
        closed: list[Closed] = []
        begin = origin - self._bucket.filled if self._bucket else origin
        first = start
        while end >= begin + self._volume:
            full = begin + self._volume
            last = bisect_left(totals, full, first + 1, stop + 1)
            self._pour(tape, first, last, max(begin, origin), full)
            closed.append(Closed(last - 1, self._close()))
            begin, first = full, last if totals[last] == full else last - 1
        if end > max(begin, origin):
            self._pour(tape, first, stop, max(begin, origin), end)
        return closed

    def _pour(self, tape: Tape, start: int, stop: int, begin: int, end: int) -> None:
        """Put the tape between the points `begin` and `end`, rows `start` to `stop` (exclusive), into the bucket."""
        if self._bucket:
            self._bucket.extend(tape, start, stop)
        else:
            self._bucket = Bucket(tape, start, stop)
        self._bucket.filled += end - begin
        self._bucket.bought += self._bought(tape, stop - 1, end) - self._bought(tape, start, begin)

    def _bought(self, tape: Tape, row: int, point: int) -> int:
        """Volume of buying aggressors up to a point on the tape that lies in or at an end of trade `row`."""
        bought = tape.buy_notionals if self._by_quote else tape.buy_volumes
        return bought[row] + (point - self._totals(tape)[row] if tape.buy[row] else 0)

    def _totals(self, tape: Tape) -> list[int]:
        return tape.notionals if self._by_quote else tape.volumes

    def _close(self) -> Vpin:
        bucket, seq = self._bucket, self._bar_seq
        assert bucket is not None
        self._bucket, self._bar_seq = None, seq + 1
        sigma, bulk, imbalance = self._classify(bucket.close)
        self._weigh(abs(2 * bucket.bought - self._volume))
        vpin = self._vpin()
        return Vpin(
            venue=self._stream.venue,
            symbol=self._stream.symbol,
            profile=self._stream.profile,
            bar_seq=seq,
            unit="QUOTE" if self._by_quote else "BASE",
            open_time=bucket.open_time,
            close_time=bucket.close_time,
            first_trade_id=bucket.first_id,
            last_trade_id=bucket.last_id,
            open=bucket.open,
            high=bucket.high,
            low=bucket.low,
            close=bucket.close,
            volume=self._unscaled,
            buy_volume=bucket.bought // self._scale,
            ticks=bucket.ticks,
            sigma=sigma,
            bulk_buy_volume=bulk,
            order_imbalance=imbalance,
            vpin=vpin,
            vpin_aggressor=self._vpin_aggressor(),
            vpin_percentile=None if vpin is None else self._percentile(vpin),
            gap=bucket.gap,
        )

    def _classify(self, close: int) -> tuple[float, float, float] | tuple[None, None, None]:
        """sigma, V_B and OI of the bucket that closes at this price; none until sigma_window price changes exist."""
        before, self._last_close = self._last_close, close
        if before is None:
            return None, None, None
        change = to_float(close - before)
        self._changes.append(change)
        if len(self._changes) < (self._changes.maxlen or 0):
            return None, None, None
        sigma = max(_deviation(self._changes), self._floor)
        bulk = self._volume_double * (0.5 * math.erfc(-(change / sigma) / SQRT_2))
        imbalance = abs(2.0 * bulk - self._volume_double)
        self._imbalances.append(imbalance)
        return sigma, bulk, imbalance

    def _weigh(self, one_sided: int) -> None:
        self._one_sided.append(decimal_bytes(one_sided))
        self._one_sided_sum += one_sided
        if len(self._one_sided) > self._window:
            self._one_sided_sum -= decimal_units(self._one_sided.popleft())

    def _vpin(self) -> float | None:
        if len(self._imbalances) < self._window:
            return None
        return math.fsum(self._imbalances) / (self._window * self._volume_double)

    def _vpin_aggressor(self) -> float | None:
        if len(self._one_sided) < self._window:
            return None
        return self._one_sided_sum / (ONE * self._scale) / (self._window * self._volume_double)

    def _percentile(self, vpin: float) -> float | None:
        """The share of the last values, this one included, that are not above it."""
        if len(self._levels) == self._levels.maxlen:
            del self._sorted_levels[bisect_left(self._sorted_levels, self._levels[0])]
        self._levels.append(vpin)
        insort(self._sorted_levels, vpin)
        count = len(self._levels)
        return bisect_right(self._sorted_levels, vpin) / count if count == self._levels.maxlen else None


def _deviation(values: Sequence[float]) -> float:
    """Population standard deviation. Squares are products: libm's pow is not correctly rounded everywhere."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) * (value - mean) for value in values) / len(values))
