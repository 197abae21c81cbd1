"""Where each feed stopped: the last of its records that are in Kafka.

Every market record begins with its venue and its symbol as Avro strings, in every version of its schema; the scan reads
no more of a value than that, and decodes only the newest records of each symbol that is sought.
"""

import contextlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from producers.collector.outlet import QUIET, SERVICE
from producers.contract import TRADES, Feed, Source
from producers.tape import NOT_DEMANDED, Seen
from ravencore import kafka, topics
from ravencore.codec import HEADER_BYTES, Codec
from ravencore.config import Settings
from ravencore.errors import Unavailable, Unreadable
from ravencore.records import Gap, MarketRecord, Trade

TIMEOUT_S = 10.0
TAIL_RECORDS = 1_000_000
GAPS_TAIL_RECORDS = 50_000
OTHERS_TAIL_RECORDS = 100_000
"""Of feeds without counting ids only the time of the last record is sought: a feed that is not there ran long ago."""
TAIL_CHUNK_RECORDS = 2_000
TAIL_KEPT_RECORDS = 1_000
"""Newest records of a symbol that are looked at for its highest id: late repairs have lower ones."""

LastSeen = Mapping[Feed, Mapping[str, Seen]]
"""The last record that is in Kafka, by feed and symbol."""


def last_seen(settings: Settings, codec: Codec, source: Source, feeds: Collection[Feed]) -> LastSeen:
    """The last record of each symbol of each feed; what is not found is left out. Raises Unavailable.

    Of trades the one with the highest id is the last, and the holes before it that are still to be filled come with it.
    A feed that brings many symbols is sought through all the tail.
    """
    found: dict[Feed, dict[str, Seen]] = {}
    for channel in {feed.channel for feed in feeds}:
        places = Places(source, channel, {feed for feed in feeds if feed.channel == channel})
        tail = TAIL_RECORDS if channel == TRADES else OTHERS_TAIL_RECORDS
        gaps = standing(settings, codec, source.venue) if channel == TRADES else {}
        for (feed, symbol), values in newest(settings, topics.CHANNELS[channel], places, tail).items():
            if channel == TRADES:
                seen = _last_trade(codec, values, gaps.get(symbol, ()))
            else:
                seen = _last_record(codec, values)
            if seen is not None:
                found.setdefault(feed, {})[symbol] = seen
    return found


def standing(settings: Settings, codec: Codec, venue: str) -> dict[str, list[Gap]]:
    """Gaps in a venue's trades that name missing ids, by symbol, of the newest GAPS_TAIL_RECORDS of the ledger.

    Raises Unavailable when the broker is away.
    """
    start = f"{venue}:{TRADES}:".encode()
    client = kafka.reader(settings.kafka, SERVICE, **QUIET)
    found: dict[str, Gap] = {}
    try:
        edges = {
            number: kafka.watermarks(client, topics.GAPS, number) for number in kafka.partitions(client, topics.GAPS)
        }
        tail = GAPS_TAIL_RECORDS // max(len(edges), 1)
        spans = {number: range(max(low, high - tail), high) for number, (low, high) in edges.items() if low < high}
        for message in _read(client, topics.GAPS, spans) if spans else ():
            if (message.key() or b"").startswith(start):
                with contextlib.suppress(Unreadable):
                    gap = codec.decode_as(Gap, message.value() or b"")
                    found[gap.gap_id] = gap
    except KafkaException as error:
        raise Unavailable(f"Kafka does not answer: {error.args[0].str()}") from None
    finally:
        client.close()
    by_symbol: dict[str, list[Gap]] = {}
    for gap in found.values():
        if gap.from_sequence is not None and (gap.cause, gap.detail) != NOT_DEMANDED:
            by_symbol.setdefault(gap.symbol, []).append(gap)
    return by_symbol


Place = tuple[Feed, str]
"""A feed, and the symbol of trades or the feed's own."""


class Places:
    """Which of the sought feeds a Kafka value belongs to, told by its first bytes."""

    def __init__(self, source: Source, channel: str, feeds: Collection[Feed]) -> None:
        self._source, self._channel, self._feeds = source, channel, feeds
        self._known: dict[bytes, Place | None] = {}
        self.all = frozenset((feed, feed.symbol) for feed in feeds)

    def of(self, value: bytes) -> Place | None:
        """The place of a value, None where it is sought by nobody."""
        start = names(value)
        if start not in self._known:
            self._known[start] = self._place(start)
        return self._known[start]

    def _place(self, start: bytes) -> Place | None:
        try:
            venue = start[1 : 1 + (start[0] >> 1)]
            symbol = start[2 + len(venue) :].decode()
        except (IndexError, UnicodeDecodeError):
            return None
        if venue != self._source.venue.encode():
            return None
        feed = self._source.feed(self._channel, symbol)
        if feed not in self._feeds:
            return None
        return feed, symbol if self._channel == TRADES else feed.symbol


def names(value: bytes) -> bytes:
    """Venue and symbol at the start of a market record, each behind its length; empty where there is no such start."""
    try:
        symbol_at = HEADER_BYTES + 1 + (value[HEADER_BYTES] >> 1)
        return value[HEADER_BYTES : symbol_at + 1 + (value[symbol_at] >> 1)]
    except IndexError:
        return b""


def newest(settings: Settings, topic: str, places: Places, tail: int) -> dict[Place, list[bytes]]:
    """The newest TAIL_KEPT_RECORDS values of each place within the last `tail` records of a topic, oldest first.

    Reads backwards, in chunks that grow, until each place has been found. Raises Unavailable when the broker is away.
    """
    client = kafka.reader(settings.kafka, SERVICE, **QUIET)
    try:
        edges = {number: kafka.watermarks(client, topic, number) for number in kafka.partitions(client, topic)}
        ends = {number: high for number, (_, high) in edges.items()}
        found: dict[Place, list[bytes]] = {}
        left, chunk = tail, TAIL_CHUNK_RECORDS
        while not places.all <= found.keys() and left > 0:
            starts = {number: max(edges[number][0], end - chunk) for number, end in ends.items()}
            spans = {number: range(starts[number], end) for number, end in ends.items() if starts[number] < end}
            if not spans:
                break
            for place, values in _gather(client, topic, spans, places).items():
                found.setdefault(place, values)
            ends, left, chunk = starts, left - sum(map(len, spans.values())), chunk * 4
        return found
    except KafkaException as error:
        raise Unavailable(f"Kafka does not answer: {error.args[0].str()}") from None
    finally:
        client.close()


def _gather(client: Consumer, topic: str, spans: Mapping[int, range], places: Places) -> dict[Place, list[bytes]]:
    gathered: dict[Place, deque[bytes]] = {}
    for message in _read(client, topic, spans):
        value = message.value()
        place = places.of(value) if value is not None else None
        if place is not None and value is not None:
            gathered.setdefault(place, deque(maxlen=TAIL_KEPT_RECORDS)).append(value)
    return {place: list(values) for place, values in gathered.items()}


def _read(client: Consumer, topic: str, spans: Mapping[int, range]) -> Iterator[Message]:
    client.assign([TopicPartition(topic, number, span.start) for number, span in spans.items()])
    unread = set(spans)
    while unread:
        messages = kafka.arrived(client, TAIL_CHUNK_RECORDS, TIMEOUT_S)
        if not messages:
            raise Unavailable(f"{topic} cannot be read back: nothing came for {TIMEOUT_S:.0f} s")
        for message in messages:
            number, offset = message.partition() or 0, message.offset() or 0
            if message.error() is None and offset in spans[number]:
                yield message
            if offset >= spans[number].stop - 1 or is_end(message):
                unread.discard(number)


def is_end(message: Message) -> bool:
    """Whether it says that a partition has been read to its end."""
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001 - librdkafka's own name


def _last_trade(codec: Codec, values: list[bytes], gaps: Iterable[Gap]) -> Seen | None:
    trades = [trade for trade in _readable(codec, values) if isinstance(trade, Trade) and trade.sequence is not None]
    last = max(trades, key=lambda trade: trade.sequence or 0, default=None)
    if last is None or last.sequence is None:
        return None
    there = {trade.sequence for trade in trades}
    holes = [hole for gap in gaps for hole in _rest(gap, there) if (hole.to_sequence or 0) < last.sequence]
    return Seen(last.sequence, last.event_time, tuple(sorted(holes, key=lambda hole: hole.from_sequence or 0)))


def _rest(gap: Gap, there: Collection[int | None]) -> list[Gap]:
    """The Gap; none where an id of it is in the topic all the same.

    A collector that is killed between a late repair and its Gap leaves the Gap as it was: what is filled of it and what
    is not cannot be told apart for certain, and no trade may be published twice.
    """
    first, last = gap.from_sequence or 0, gap.to_sequence or 0
    return [] if any(first <= number <= last for number in there if number is not None) else [gap]


def _last_record(codec: Codec, values: list[bytes]) -> Seen | None:
    records = _readable(codec, values[-1:])
    return Seen(None, records[-1].received_time) if records else None


def _readable(codec: Codec, values: Iterable[bytes]) -> list[MarketRecord]:
    records = []
    for value in values:
        with contextlib.suppress(Unreadable):
            record = codec.decode(value)
            if isinstance(record, MarketRecord):
                records.append(record)
    return records
