"""Every name that Raven leaves in Kafka: topics with their settings, consumer groups, Faust's app and agents.

Moving code never renames anything here; a test lists these names.
"""

from dataclasses import dataclass, field

TRADES = "raven.trades"
BOOKS = "raven.books"
QUOTES = "raven.quotes"
KLINES = "raven.klines"
FUNDING = "raven.funding"
LIQUIDATIONS = "raven.liquidations"
OPEN_INTEREST = "raven.open_interest"
OPTION_TICKERS = "raven.option_tickers"
INDEX_PRICES = "raven.index_prices"
VOLATILITY_INDEX = "raven.volatility_index"
INSTRUMENTS = "raven.instruments"
GAPS = "raven.gaps"
DEAD_LETTERS = "raven.dead_letters"
BAR_KINDS = ("time", "tib", "trb", "vib", "dib", "vrb", "drb", "tick", "volume", "dollar")
BARS = {kind: f"raven.bars.{kind}" for kind in BAR_KINDS}
"""Topic of each kind of bar."""
VPIN = "raven.vpin"
SPOT_MID = "raven.spot_mid"
IV_SURFACE = "raven.iv_surface"
CONTROL = "raven.control"
STATUS = "raven.status"
STATE_BARS = "raven.state.bars"
STATE_MIDS = "raven.state.mids"
STATE_SURFACES = "raven.state.surfaces"

GROUP_BARS = "raven-bars"
"""Group, Faust app id and prefix of transactional ids of the engine, which made bars before it made anything else."""
AGENT_TRADES = "raven-bars-trades"
AGENT_QUOTES = "raven-bars-quotes"
AGENT_OPTION_TICKERS = "raven-bars-option-tickers"
GROUP_SINK = "raven-sink-"
"""Prefix of a store's consumer group; its name follows: raven-sink-influx."""
GROUP_READER = "raven-reader-"
"""Prefix of groups that only look and never commit: ravenctl, collectors reading back their last ids."""

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True)
class Topic:
    """A topic and its settings; `partitions` None means as many as configured for market data."""

    name: str
    partitions: int | None = None
    settings: dict[str, str] = field(default_factory=dict)


def _kept(days: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(days * DAY_MS)}


_COMPACTED = {"cleanup.policy": "compact"}
_STATE = {**_COMPACTED, "segment.bytes": str(16 * 1024**2), "min.cleanable.dirty.ratio": "0.1"}
"""Small segments, cleaned early: a worker reads its whole partition at start."""

TOPICS: tuple[Topic, ...] = (
    Topic(TRADES, None, _kept(7)),
    Topic(BOOKS, None, _kept(2)),
    Topic(QUOTES, None, _kept(2)),
    Topic(KLINES, None, _kept(30)),
    Topic(FUNDING, None, _kept(7)),
    Topic(LIQUIDATIONS, None, _kept(30)),
    Topic(OPEN_INTEREST, None, _kept(30)),
    Topic(OPTION_TICKERS, None, _kept(2)),
    Topic(INDEX_PRICES, None, _kept(7)),
    Topic(VOLATILITY_INDEX, None, _kept(30)),
    Topic(INSTRUMENTS, None, _COMPACTED),
    Topic(GAPS, None, _kept(365)),
    Topic(DEAD_LETTERS, None, {**_kept(30), "max.message.bytes": str(8 << 20)}),
    *(Topic(name, None, _kept(30)) for name in BARS.values()),
    Topic(VPIN, None, _kept(30)),
    Topic(SPOT_MID, None, _kept(30)),
    Topic(IV_SURFACE, None, _kept(30)),
    Topic(STATE_BARS, None, _STATE),
    Topic(STATE_MIDS, None, _STATE),
    Topic(STATE_SURFACES, None, _STATE),
    Topic(CONTROL, 1, _COMPACTED),
    Topic(STATUS, 1, {**_COMPACTED, "segment.ms": str(HOUR_MS)}),
)

CHANNELS = {
    "trades": TRADES,
    "books": BOOKS,
    "quotes": QUOTES,
    "klines": KLINES,
    "funding": FUNDING,
    "liquidations": LIQUIDATIONS,
    "open_interest": OPEN_INTEREST,
    "option_tickers": OPTION_TICKERS,
    "index_prices": INDEX_PRICES,
    "volatility_index": VOLATILITY_INDEX,
}
"""Topic of each channel that collectors publish."""
