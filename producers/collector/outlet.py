"""Records on their way to Kafka."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message
from msgspec.structs import replace

from producers.actions import BadBytes, Clock
from producers.collector.ticks import Tick, Ticks
from producers.contract import ALL, CHANNELS
from producers.wire import Wire
from ravencore import kafka, topics
from ravencore.codec import Codec
from ravencore.config import Settings
from ravencore.errors import RavenError
from ravencore.records import (
    Book,
    DeadLetter,
    Funding,
    Gap,
    IndexPrice,
    Instrument,
    Kline,
    Liquidation,
    MarketRecord,
    OpenInterest,
    OptionTicker,
    Quote,
    Subscription,
    Trade,
    VolatilityIndex,
    gap_key,
    market_key,
)
from ravencore.status import now_us

log = logging.getLogger("raven.collector")

SERVICE = "collector"
FLUSH_S, POLL_S = 0.005, 0.002
MOST_WAITING = 2_000
"""Records that may wait for a Gap, before whoever makes them is to stop."""
KEPT_KEYS = 1 << 14
MAX_MESSAGE_BYTES = 8 << 20
"""A dead letter holds what came as a whole, and the answers of a poll may be larger than Kafka's usual megabyte."""
PRODUCER_LIMITS = {
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 65_536,
    "message.max.bytes": MAX_MESSAGE_BYTES,
}
QUIET = {"log_level": 2}
"""librdkafka says twenty times a second that a broker is away; `Outlet.broker_error` says it once, in the status."""
COUNTERS = (*(f"{channel}_published" for channel in CHANNELS.values()), "gaps", "dead_letters", "clocks")


class BadRecord(NamedTuple):
    """A record of a topic for the dead letters."""

    message: Message
    detail: str


Published = MarketRecord | Gap | Clock | Tick | Instrument | BadBytes | BadRecord


class ProducerFailed(RavenError):
    """Raised when Kafka refuses a record for good; a restart finds the last ids again and writes the Gap."""


class Outlet:
    """Records on their way to Kafka, in order and never dropped; `blocked` asks whoever makes them to stop.

    A new Gap is on the broker before any record of its feed after it is sent, and a repair's Gap is not sent before its
    trades are there: so a kill loses no hole in silence. What comes while a Gap is under way waits, and goes out in
    rounds: each begins with all new Gaps that have come, of which a cut connection brings one for each of its feeds.
    """

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self.blocked = False
        self._free, self._stuck = asyncio.Event(), asyncio.Event()
        self._free.set()
        self.counters: Counter[str] = Counter()
        self.broker_error: str | None = None
        self.producer = kafka.producer(
            settings.kafka,
            error_cb=self._on_error,
            on_delivery=self._on_refused,
            **{**PRODUCER_LIMITS, **QUIET, "delivery.report.only.error": True},
        )
        self._produce = self.producer.produce
        self._codec, self._wire = codec, Wire(codec)
        self._queue: deque[tuple[str, Published]] = deque()
        self._repairs: list[tuple[str, Gap]] = []
        """Gaps of repairs, to be sent when all that was sent before is on the broker."""
        self._unacknowledged = 0
        self._refused: str | None = None
        self._pairs: dict[tuple[str, str], bytes] = {}
        self._ticks = Ticks()
        self._newest_gaps: dict[tuple[str, str, str], Gap] = {}
        """By venue, channel and symbol, with ALL for any of them."""
        self._writers: dict[type, Callable[[str, Any], None]] = {
            Trade: self._trade,
            Book: self._book,
            Quote: self._quote,
            Kline: self._others("klines", _market),
            Funding: self._others("funding", _market),
            Liquidation: self._others("liquidations", _market),
            OpenInterest: self._others("open_interest", _market),
            OptionTicker: self._option_ticker,
            IndexPrice: self._others("index_prices", _name),
            VolatilityIndex: self._others("volatility_index", _name),
            Clock: self._clock,
            Tick: self._tick,
            Gap: self._gap,
            Instrument: self._instrument,
            BadBytes: self._bad_bytes,
            BadRecord: self._bad_record,
        }

    @property
    def buffered(self) -> int:
        """Records that the broker has not acknowledged."""
        return len(self._queue) + len(self._repairs) + len(self.producer)

    def put(self, venue: str, record: Published) -> None:
        """Publish a record of a venue after all that were put before; raises ProducerFailed."""
        # Micro-optimization: nothing waits while no Gap is under way, so all but Gaps go out at once.
        if not self._stuck.is_set() and not isinstance(record, Gap) and self._written(venue, record):
            return
        self._queue.append((venue, record))
        self._stuck.set()
        if len(self._queue) >= MOST_WAITING:
            self._block()

    def tick(self, now_us: int) -> None:
        """Publish Clocks of the pairs and underlyings that are quiet; raises ProducerFailed."""
        for tick in self._ticks.due(now_us):
            self.put("", tick)

    def with_last_gap(self, feed: Subscription) -> Subscription:
        """The feed as a status shows it, with the newest Gap of it that was published."""
        gap = self._newest_gaps.get((feed.venue, feed.channel, feed.symbol))
        return feed if gap is None else replace(feed, last_gap_time=gap.detected_time, last_gap_cause=gap.cause)

    async def ready(self) -> None:
        """Return when nothing is blocked."""
        await self._free.wait()

    async def run(self) -> None:
        """Send what waits, until cancelled; raises ProducerFailed."""
        while True:
            await self._stuck.wait()
            await self._round()
            if not self._queue and not self._repairs:
                self._stuck.clear()
            if len(self._queue) < MOST_WAITING:
                self.blocked = False
                self._free.set()

    async def delivered(self) -> None:
        """Return when the broker has all that was put; raises ProducerFailed."""
        while self.buffered:
            self.producer.flush(FLUSH_S)
            self.check()
            await asyncio.sleep(0)

    def check(self) -> None:
        """Note how Kafka is doing; raises ProducerFailed when it has refused a record for good."""
        if self._refused is not None:
            raise ProducerFailed(self._refused)
        unacknowledged = len(self.producer)
        if unacknowledged == 0 or unacknowledged < self._unacknowledged:
            self.broker_error = None
        self._unacknowledged = unacknowledged

    async def _round(self) -> None:
        count, gaps = _one_round(self._queue)
        for venue, gap in gaps:
            await self._write(venue, gap)
        if gaps or self._repairs:
            await self._empty()
        repairs, self._repairs = self._repairs, []
        for venue, gap in repairs:
            await self._write(venue, gap)
        for _ in range(count):
            venue, record = self._queue[0]
            if not isinstance(record, Gap):
                await self._write(venue, record)
            elif record.repair != "NONE":
                self._repairs.append((venue, record))
            self._queue.popleft()

    async def _write(self, venue: str, record: Published) -> None:
        while not self._written(venue, record):
            await self._poll()

    def _written(self, venue: str, record: Published) -> bool:
        """Hand a record to librdkafka; False, and all is blocked, where its buffer is full. Raises ProducerFailed."""
        try:
            self._writers[type(record)](venue, record)
        except BufferError:
            self._block()
            return False
        except KafkaException as error:
            raise _refused(record, error) from None
        return True

    async def _empty(self) -> None:
        while len(self.producer):
            await self._poll()

    async def _poll(self) -> None:
        await asyncio.sleep(POLL_S)
        self.producer.poll(0)
        self.check()

    def _block(self) -> None:
        self.blocked = True
        self._free.clear()

    def _trade(self, _venue: str, trade: Trade) -> None:
        self._produce(topics.TRADES, self._wire.trade(trade), _key(trade.venue, trade.symbol))
        self.counters["trades_published"] += 1

    def _book(self, _venue: str, book: Book) -> None:
        self._produce(topics.BOOKS, self._wire.encode(book), _key(book.venue, book.symbol))
        self.counters["books_published"] += 1

    def _quote(self, _venue: str, quote: Quote) -> None:
        pair = self._pairs.get((quote.venue, quote.symbol)) or _key(quote.venue, quote.symbol)
        self._produce(topics.QUOTES, self._wire.quote(quote), pair)
        self._ticks.note(topics.QUOTES, pair, quote.received_time)
        self.counters["quotes_published"] += 1

    def _option_ticker(self, _venue: str, ticker: OptionTicker) -> None:
        key = ticker.underlying.encode()
        self._produce(topics.OPTION_TICKERS, self._wire.encode(ticker), key)
        self._ticks.note(topics.OPTION_TICKERS, key, ticker.received_time)
        self.counters["option_tickers_published"] += 1

    def _others(self, channel: str, key: Callable[[Any], bytes]) -> Callable[[str, Any], None]:
        """Writes the records of a channel under the key that `key` finds in each."""
        topic, counter = topics.CHANNELS[channel], f"{channel}_published"

        def write(_venue: str, record: Any) -> None:
            self._produce(topic, self._wire.encode(record), key(record))
            self.counters[counter] += 1

        return write

    def _clock(self, venue: str, clock: Clock) -> None:
        self._tick(venue, Tick(topics.TRADES, _key(venue, clock.symbol), clock.time_us))

    def _tick(self, _venue: str, tick: Tick) -> None:
        headers: list[tuple[str, str | bytes | None]] = [(kafka.CLOCK_HEADER, str(tick.time_us).encode())]
        self._produce(tick.topic, None, tick.key, headers=headers)
        self.counters["clocks"] += 1

    def _gap(self, _venue: str, gap: Gap) -> None:
        self._produce(topics.GAPS, self._codec.encode(gap), gap_key(gap))
        self.counters["gaps"] += gap.repair == "NONE"
        self._note_newest(gap)
        # The first record of thousands of options is no news.
        level = logging.INFO if gap.cause == "COLD_START" else logging.WARNING
        log.log(level, "%s %s:%s: %s, %s missing", gap.cause, gap.channel, gap.symbol, gap.detail, gap.missing)

    def _note_newest(self, gap: Gap) -> None:
        """Of as many feeds as are kept: options come and go."""
        for symbol in (gap.symbol, ALL):
            place = (gap.venue, gap.channel, symbol)
            self._newest_gaps.pop(place, None)
            self._newest_gaps[place] = gap
        while len(self._newest_gaps) > KEPT_KEYS:
            del self._newest_gaps[next(iter(self._newest_gaps))]

    def _instrument(self, _venue: str, instrument: Instrument) -> None:
        self._produce(topics.INSTRUMENTS, self._codec.encode(instrument), market_key(instrument))
        # Quotes are keyed by pair, so that all venues of one pair meet in one partition. Options, of which there are
        # new ones every day, have none.
        if instrument.kind != "OPTION":
            self._pairs[instrument.venue, instrument.symbol] = f"{instrument.base}-{instrument.quote}".encode()

    def _bad_bytes(self, _venue: str, bad: BadBytes) -> None:
        letter = DeadLetter(
            service=SERVICE,
            connection=bad.connection,
            payload=bad.payload,
            reason=bad.reason,
            detail=bad.detail[:1000],
            detected_time=now_us(),
        )
        self._dead_letter(letter, bad.connection.encode())

    def _bad_record(self, _venue: str, bad: BadRecord) -> None:
        message = bad.message
        letter = DeadLetter(
            service=SERVICE,
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            key=message.key(),
            payload=message.value() or b"",
            reason="unreadable_record",
            detail=bad.detail[:1000],
            detected_time=now_us(),
        )
        self._dead_letter(letter, message.key())

    def _dead_letter(self, letter: DeadLetter, key: bytes | None) -> None:
        self._produce(topics.DEAD_LETTERS, self._codec.encode(letter), key)
        self.counters["dead_letters"] += 1

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._refused = f"Kafka's producer cannot go on: {error.str()}"
        self.broker_error = f"Kafka does not answer: {error.str()}"

    def _on_refused(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused = f"Kafka refused a record of {message.topic()}: {error.str()}"


def _one_round(queue: Iterable[tuple[str, Published]]) -> tuple[int, list[tuple[str, Gap]]]:
    """How many records may follow upon the new Gaps among them, and those: up to a Gap of a feed that went before."""
    gaps: list[tuple[str, Gap]] = []
    told: set[tuple[str, str, str]] = set()
    count = 0
    for venue, record in queue:
        channel = CHANNELS.get(type(record))  # type: ignore[arg-type] # what is no market record has none
        if channel is not None:
            told |= {(venue, channel, record.symbol), (venue, channel, ALL)}  # type: ignore[union-attr]
        if isinstance(record, Gap) and record.repair == "NONE":
            if (venue, record.channel, record.symbol) in told:
                break
            gaps.append((venue, record))
        count += 1
    return count, gaps


def _refused(record: Published, error: KafkaException) -> ProducerFailed:
    return ProducerFailed(f"Kafka takes no {type(record).__name__}: {error.args[0].str()}")


@lru_cache(KEPT_KEYS)
def _key(venue: str, symbol: str) -> bytes:
    return f"{venue}:{symbol}".encode()


def _market(record: Any) -> bytes:
    return _key(record.venue, record.symbol)


def _name(index: IndexPrice | VolatilityIndex) -> bytes:
    """Indices are keyed by their name alone, whichever venue prints them."""
    return index.symbol.encode()
