"""What collectors have written to Kafka, read further whenever there is time: ids by feed and symbol, Gaps, letters."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaError, Message, TopicPartition

from producers.contract import ALL, BOOKS, CHANNELS, TRADES
from ravencore import kafka, topics
from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.errors import Unavailable, Unreadable
from ravencore.records import DeadLetter, Gap, MarketRecord
from ravenctl import reading
from ravenctl.drain import Place
from ravenctl.feeds import Ids, Ledger, Name
from ravenctl.readback import gap_ranges

BATCH = 1000
WAIT_S = 0.2
_CHANNEL_OF = {topic: channel for channel, topic in topics.CHANNELS.items()}
_RECORDS = {channel: cls for cls, channel in CHANNELS.items()}


class Collected:
    """Records of every channel, Gaps and dead letters, as far as they have been read."""

    def __init__(self, settings: KafkaSettings, codec: Codec) -> None:
        self.feeds: dict[Name, dict[str, Ids]] = {}
        self.counts: Counter[Name] = Counter()
        self.unreadable = 0
        self.letters: Counter[tuple[str, str]] = Counter()
        """Dead letters by connection, "" where it is none, and reason."""
        self.letter = ""
        """What the first one says."""
        self._gaps: dict[str, Gap] = {}
        self._codec = codec
        self._reached: dict[Place, int] = {}
        self._client = reading.reader(settings)
        self.close = self._client.close
        names = (*topics.CHANNELS.values(), topics.GAPS, topics.DEAD_LETTERS)
        places = [(name, number) for name in names for number in kafka.partitions(self._client, name)]
        self._client.assign([TopicPartition(*place, 0) for place in places])

    def advance(self, seconds: float) -> None:
        """Read what there is, for no longer than about this; raises Unavailable."""
        deadline = time.monotonic() + seconds
        while messages := self._client.consume(BATCH, 0):
            self._take(messages)
            if time.monotonic() > deadline:
                return

    def catch_up(self, ends: Mapping[Place, int]) -> None:
        """Read to these ends; raises Unavailable when they are not reached."""
        deadline = time.monotonic() + reading.SILENCE_S
        while self._behind(ends):
            messages = self._client.consume(BATCH, WAIT_S)
            if messages:
                self._take(messages)
                deadline = time.monotonic() + reading.SILENCE_S
            elif time.monotonic() > deadline:
                raise Unavailable(f"what was collected cannot be read: nothing came for {reading.SILENCE_S:.0f} s")

    @property
    def trades(self) -> dict[str, Ids]:
        """Trades by `VENUE:SYMBOL`."""
        return {
            f"{name.venue}:{symbol}": ids
            for name, symbols in self.feeds.items()
            if name.channel == TRADES
            for symbol, ids in symbols.items()
        }

    @property
    def missing(self) -> list[Gap]:
        """Gaps in trades that miss ids, each as it was written last."""
        return [gap for gap in self._gaps.values() if gap.channel == TRADES and gap.missing]

    @property
    def filled(self) -> list[Gap]:
        """Gaps in trades of which ids came over REST, each as it was written last; a market's own sums up others."""
        gaps = (gap for gap in self._gaps.values() if gap.channel == TRADES and gap.symbol != ALL)
        return [gap for gap in gaps if gap.repaired]

    def ledger(self, name: Name, *, killed: bool) -> Ledger:
        """What Gaps say of a feed; `killed`: a collector of it was."""
        gaps = [gap for gap in self._gaps.values() if (gap.venue, gap.channel) == name]
        ranges = gap_ranges(gap for gap in gaps if gap.channel == TRADES and gap.missing)
        return Ledger(
            named={market.partition(":")[2]: named for market, named in ranges.items()},
            cold={gap.symbol for gap in gaps if gap.cause == "COLD_START"},
            repaired=sum(gap.repaired for gap in gaps if gap.symbol != ALL),
            renewed=sum(gap.repair == "RESNAPSHOT" for gap in gaps if gap.channel == BOOKS),
            broke_off=killed and any(gap.cause == "DISCONNECT" for gap in gaps),
        )

    def _behind(self, ends: Mapping[Place, int]) -> bool:
        return any(
            self._reached.get(place, 0) < end
            for place, end in ends.items()
            if place[0] in _CHANNEL_OF or place[0] in (topics.GAPS, topics.DEAD_LETTERS)
        )

    def _take(self, messages: Sequence[Message]) -> None:
        trades = []
        for message in messages:
            topic, error = message.topic() or "", message.error()
            place, offset = (topic, message.partition() or 0), message.offset() or 0
            if error is not None:
                self._heed(error, place, offset)
                continue
            self._reached[place] = offset + 1
            value = message.value()
            if value is None:
                continue  # a Clock
            if topic == topics.TRADES:
                trades.append(value)
            else:
                self._take_value(topic, value)
        self._take_trades(trades)

    def _heed(self, error: KafkaError, place: Place, offset: int) -> None:
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name for it
            self._reached[place] = max(self._reached.get(place, 0), offset)
        elif error.code() not in kafka.PASSING:
            raise Unavailable(f"{place[0]} cannot be read: {error.str()}")

    def _take_trades(self, values: list[bytes]) -> None:
        rows = self._codec.decode_trades(values)
        if rows is None:
            for value in values:
                self._take_value(topics.TRADES, value)
            return
        for row in rows:
            there = self._ids(Name(row["venue"], TRADES), row["symbol"])
            there.records += 1
            there.ids.add(row["trade_id"])
            if row["sequence"] is not None:
                there.numbers.append(row["sequence"])

    def _take_value(self, topic: str, value: bytes) -> None:
        try:
            if topic == topics.GAPS:
                gap = self._codec.decode_as(Gap, value)
                self._gaps[gap.gap_id] = gap
            elif topic == topics.DEAD_LETTERS:
                letter = self._codec.decode_as(DeadLetter, value)
                self.letters[letter.connection or "", letter.reason] += 1
                self.letter = self.letter or f"{letter.connection or letter.topic}: {letter.detail}"
            else:
                self._add(_CHANNEL_OF[topic], self._codec.decode_as(_RECORDS[_CHANNEL_OF[topic]], value))
        except Unreadable:
            self.unreadable += 1

    def _add(self, channel: str, record: MarketRecord) -> None:
        self._ids(Name(record.venue, channel), record.symbol).add(record)

    def _ids(self, name: Name, symbol: str) -> Ids:
        self.counts[name] += 1
        symbols = self.feeds.setdefault(name, {})
        there = symbols.get(symbol)
        if there is None:
            there = symbols[symbol] = Ids()
        return there
