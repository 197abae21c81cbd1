"""Finds the first record of every symbol after each edge of an hour, reading no more of the topics than it must."""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from producers.collector.readback import names
from producers.contract import TRADES
from producers.tape import count_of
from ravencore import kafka, topics
from ravencore.codec import Codec
from ravencore.errors import Unavailable, Unreadable
from ravencore.records import Kline, Trade
from ravenctl import reading
from ravenctl.completeness import COUNTING, Mark, Seen
from ravenctl.drain import Place
from ravenctl.feeds import Name

EARLY_US = 2_000_000
"""How far a venue's clock may be ahead of Kafka's: a record is sought from so long before an edge."""
SOUGHT = {topics.TRADES: 10_000, topics.KLINES: 2_000}
"""Records of a partition that are read after an edge at most."""
SOUGHT_ELSEWHERE = 1_000
LEAST = 200
"""Records of a partition that are read after an edge at least: they show which symbols there are."""
TAIL = 5_000
"""Records at the end of a partition that are read for the last of each symbol."""
_CHANNEL_OF = {topic: channel for channel, topic in topics.CHANNELS.items()}

Say = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and how much there is."""


def offsets(client: Consumer, places: Iterable[Place], time_us: int) -> dict[Place, int]:
    """Where records of a time or later begin; at the end where there are none. Raises KafkaException."""
    sought = [TopicPartition(*place, max(time_us // 1000, 0)) for place in places]
    out = {}
    for place in client.offsets_for_times(sought, kafka.TIMEOUT_S) if sought else ():
        if place.error is not None:
            raise KafkaException(place.error)
        out[place.topic, place.partition] = place.offset if place.offset >= 0 else sys.maxsize
    return out


class Surveyor:
    """Seeks the first record of every symbol after each edge, and the last of all; `wants` says which symbols."""

    def __init__(
        self, client: Consumer, codec: Codec, edges: Sequence[int], wants: Callable[[Name, str], bool]
    ) -> None:
        self.found: dict[Name, dict[str, Seen]] = {}
        self._client, self._codec, self._edges = client, codec, edges
        self._asks = wants
        self._wanted: dict[tuple[Name, str], bool] = {}
        self._symbols: dict[Place, dict[tuple[Name, str], Seen]] = {}

    def run(self, channels: Collection[str], say: Say) -> None:
        """Read topics of the channels, of all where none is named; raises Unavailable and KafkaException."""
        # A fetch for what is assigned would hold up each of these many short requests.
        self._client.unassign()
        ends = self._ends([topic for topic, channel in _CHANNEL_OF.items() if not channels or channel in channels])
        starts = [offsets(self._client, ends, edge - EARLY_US) for edge in self._edges[:-1]]
        for number, (here, there) in enumerate(zip(starts, [*starts[1:], ends], strict=True)):
            say("counting what is there", number, len(starts))
            spans = {place: range(min(here[place], end), min(there[place], end)) for place, end in ends.items()}
            self._seek(number, {place: span for place, span in spans.items() if span})
        self._read(None, {place: range(max(0, end - TAIL), end) for place, end in ends.items()})

    def _ends(self, wanted: Iterable[str]) -> dict[Place, int]:
        """The end of every partition of these topics, of those that there are and that hold anything."""
        there = self._client.list_topics(timeout=kafka.TIMEOUT_S).topics
        return {
            (topic, number): high
            for topic in wanted
            if topic in there
            for number, (low, high) in reading.bounds(self._client, topic).items()
            if high > low
        }

    def _seek(self, edge: int, spans: Mapping[Place, range]) -> None:
        reached = self._read(edge, spans)
        for place, symbols in self._symbols.items():
            if place not in spans or reached[place] >= spans[place].stop:
                for seen in symbols.values():
                    seen.empty |= {edge} - seen.first.keys()

    def _read(self, edge: int | None, spans: Mapping[Place, range]) -> dict[Place, int]:
        """Read spans until each symbol known in its partition is found; the offset reached in each."""
        self._client.assign([TopicPartition(*place, span.start) for place, span in spans.items()])
        reached = {place: span.start for place, span in spans.items()}
        unread = set(spans)
        while unread:
            for place, messages in _by_place(self._messages(), unread).items():
                stop, last = spans[place].stop, messages[-1]
                within = [message for message in messages if not message.error() and (message.offset() or 0) < stop]
                self._take(place, edge, within)
                reached[place] = stop if last.error() else min((last.offset() or 0) + 1, stop)
                if reached[place] >= stop or self._enough(place, edge, reached[place] - spans[place].start):
                    unread.discard(place)
                    self._client.incremental_unassign([TopicPartition(*place)])
        return reached

    def _enough(self, place: Place, edge: int | None, read: int) -> bool:
        if edge is None or read < LEAST:
            return False
        every = all(edge in seen.first for seen in self._symbols.get(place, {}).values())
        return every or read >= SOUGHT.get(place[0], SOUGHT_ELSEWHERE)

    def _messages(self) -> list[Message]:
        messages = kafka.arrived(self._client, reading.BATCH, reading.SILENCE_S)
        if not messages:
            raise Unavailable(f"Kafka cannot be read: nothing came for {reading.SILENCE_S:.0f} s")
        return messages

    def _take(self, place: Place, edge: int | None, messages: Sequence[Message]) -> None:
        for name, symbol, mark in self._marks(place[0], messages):
            if not self._wants(name, symbol):
                continue
            seen = self.found.setdefault(name, {}).setdefault(symbol, Seen())
            self._symbols.setdefault(place, {})[name, symbol] = seen
            follows = edge is not None and self._edges[edge] <= mark.time_us < self._edges[edge + 1]
            seen.add(edge if follows else None, mark)

    def _wants(self, name: Name, symbol: str) -> bool:
        if (name, symbol) not in self._wanted:
            self._wanted[name, symbol] = self._asks(name, symbol)
        return self._wanted[name, symbol]

    def _marks(self, topic: str, messages: Sequence[Message]) -> Iterable[tuple[Name, str, Mark]]:
        """What records are of which symbol; those that cannot be read are of none."""
        channel = _CHANNEL_OF[topic]
        values = [value for message in messages if (value := message.value()) is not None]
        if channel == TRADES:
            rows = self._codec.decode_trades(values)
            if rows is not None:
                return ((Name(r["venue"], channel), r["symbol"], Mark(r["sequence"], r["event_time"])) for r in rows)
        return self._counted(channel, values) if channel in COUNTING else _timed(channel, messages)

    def _counted(self, channel: str, values: Iterable[bytes]) -> Iterator[tuple[Name, str, Mark]]:
        for value in values:
            try:
                record = self._codec.decode(value)
            except Unreadable:
                continue
            if isinstance(record, Trade | Kline):
                yield Name(record.venue, channel), record.symbol, Mark(count_of(record), record.event_time)


def _timed(channel: str, messages: Iterable[Message]) -> Iterator[tuple[Name, str, Mark]]:
    """Records of which only their names are read, with the time at which they were written."""
    for message in messages:
        venue, symbol = _names(message.value() or b"")
        if symbol:
            yield Name(venue, channel), symbol, Mark(None, message.timestamp()[1] * 1000)


def _names(value: bytes) -> tuple[str, str]:
    """Venue and symbol of a market record; empty where it is none."""
    start = names(value)
    length = start[0] >> 1 if start else 0
    return start[1 : 1 + length].decode(errors="replace"), start[2 + length :].decode(errors="replace")


def _by_place(messages: Iterable[Message], unread: set[Place]) -> dict[Place, list[Message]]:
    """Messages of the partitions that are still read; raises Unavailable when one cannot be."""
    out: dict[Place, list[Message]] = {}
    for message in messages:
        error, place = message.error(), (message.topic() or "", message.partition() or 0)
        if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name for it
            if error.code() not in kafka.PASSING:
                raise Unavailable(f"{place[0]} cannot be read: {error.str()}")
        elif place in unread:
            out.setdefault(place, []).append(message)
    return out
