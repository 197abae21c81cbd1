"""Reads back what Kafka and the Influx store hold, so that a summary states what is there and not what was sent."""

import csv
import hashlib
import io
import json
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.errors import Unavailable, Unreadable
from ravencore.records import Bar, DeadLetter, Gap, Trade, Vpin, market_key
from ravencore.topics import DEAD_LETTERS, GAPS, TRADES
from ravenctl import reading
from ravenctl.outputs import TOPICS as OUTPUT_TOPICS
from ravenctl.outputs import series

BATCH = 2000
TIMEOUT_S = 60.0

Range = tuple[int, int]
"""First and last id, inclusive."""
Ends = Mapping[tuple[str, int], int]
"""Where partitions end, by topic and number."""


@dataclass
class Ids:
    """Trades of one market as they stand somewhere: how many records, and their ids, each once."""

    records: int = 0
    ids: set[str] = field(default_factory=set)

    @property
    def numbers(self) -> list[int]:
        """Ids in order, where they are numbers."""
        return sorted(int(text) for text in self.ids if text.isdigit())


class Trades:
    """Trades in Kafka by market; `advance` reads what has been added since."""

    def __init__(self, settings: KafkaSettings, codec: Codec) -> None:
        self.markets: dict[str, Ids] = {}
        self.unreadable = 0
        self._codec = codec
        self._scan = reading.Scan(settings, TRADES)
        self.close = self._scan.close

    def advance(self, ends: Ends) -> None:
        """Read to these ends; raises Unavailable."""
        # A null value is a Clock.
        values = (value for message in self._scan.new(ends) if (value := message.value()) is not None)
        for batch in _batches(values):
            self._take(batch)

    def _take(self, values: list[bytes]) -> None:
        rows = self._codec.decode_trades(values)
        if rows is None:
            self._take_singly(values)
            return
        for row in rows:
            self._add(f"{row['venue']}:{row['symbol']}", row["trade_id"])

    def _take_singly(self, values: list[bytes]) -> None:
        for value in values:
            try:
                trade = self._codec.decode_as(Trade, value)
            except Unreadable:
                self.unreadable += 1
            else:
                self._add(market_key(trade).decode(), trade.trade_id)

    def _add(self, market: str, trade_id: str) -> None:
        there = self.markets.setdefault(market, Ids())
        there.records += 1
        there.ids.add(trade_id)


def _batches(values: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for value in values:
        batch.append(value)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


# The continuity ledger


class Gaps:
    """The newest entry of each Gap in Kafka; `advance` reads what has been added since."""

    def __init__(self, settings: KafkaSettings, codec: Codec) -> None:
        self._newest: dict[str, Gap] = {}
        self._codec = codec
        self._scan = reading.Scan(settings, GAPS)
        self.close = self._scan.close

    def advance(self, ends: Ends) -> None:
        """Read to these ends; raises Unavailable."""
        for message in self._scan.new(ends):
            gap = self._codec.decode_as(Gap, message.value())
            self._newest[gap.gap_id] = gap

    @property
    def missing(self) -> list[Gap]:
        """Gaps in trades that miss ids."""
        return [gap for gap in self._newest.values() if gap.channel == "trades" and gap.missing]


def gap_ranges(found: Iterable[Gap]) -> dict[str, list[Range]]:
    """Ids that Gaps name, by market, as ranges that do not touch."""
    ranges: dict[str, list[Range]] = {}
    for gap in found:
        if gap.from_sequence is not None and gap.to_sequence is not None:
            ranges.setdefault(f"{gap.venue}:{gap.symbol}", []).append((gap.from_sequence, gap.to_sequence))
    return {market: merged(named) for market, named in ranges.items()}


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in order, those that touch or overlap as one."""
    out: list[Range] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(high, out[-1][1]))
        else:
            out.append((low, high))
    return out


def holes(numbers: Iterable[int]) -> list[Range]:
    """What is missing between the first and the last of numbers that count."""
    found: list[Range] = []
    last: int | None = None
    for number in numbers:
        if last is not None and number > last + 1:
            found.append((last + 1, number - 1))
        last = number
    return found


def dead_letters(settings: KafkaSettings, codec: Codec) -> Counter[str]:
    """Dead letters by reason."""
    letters = (codec.decode_as(DeadLetter, message.value()) for message in reading.read_all(settings, DEAD_LETTERS))
    return Counter(letter.reason for letter in letters)


def count_records(settings: KafkaSettings, topic: str) -> int:
    """Records with a value in a topic."""
    return sum(1 for message in reading.read_all(settings, topic) if message.value() is not None)


# Derived streams


@dataclass
class Outputs:
    """Bars and buckets in Kafka: each series by `bar_seq`, how many came out of turn, and a digest of all bytes."""

    series: dict[str, dict[int, Bar | Vpin]] = field(default_factory=dict)
    out_of_turn: int = 0
    digest: str = ""


def outputs(settings: KafkaSettings, codec: Codec) -> Outputs:
    """Every bar and bucket a read-committed consumer sees; raises Unavailable, Unreadable."""
    found = Outputs()
    raw: dict[tuple[str, int], bytes] = {}
    for topic in OUTPUT_TOPICS:
        for message in reading.read_all(settings, topic):
            value = cast("bytes", message.value())
            record = codec.decode(value)
            if isinstance(record, Bar | Vpin):
                name = series(record)
                rows = found.series.setdefault(name, {})
                # A partition's order is the order of offsets, so each series must count up from nought.
                found.out_of_turn += record.bar_seq != len(rows)
                rows[record.bar_seq] = record
                raw[name, record.bar_seq] = value
    digest = hashlib.sha256()
    for place in sorted(raw):
        digest.update(raw[place])
    found.digest = digest.hexdigest()
    return found


# The Influx store


class QuestDb:
    """A QuestDB as its SQL over HTTP shows it: https://questdb.com/docs/reference/api/rest/"""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def rows(self, query: str) -> list[list[Any]]:
        """Rows of a query; raises Unavailable."""
        dataset: list[list[Any]] = json.loads(self._get("exec", query))["dataset"]
        return dataset

    def trades(self) -> dict[str, Ids]:
        """Trades by market."""
        markets: dict[str, Ids] = {}
        text = self._get("exp", "SELECT exchange, symbol, trade_id FROM trades")
        lines = csv.reader(io.StringIO(text))
        next(lines)
        for exchange, symbol, trade_id in lines:
            there = markets.setdefault(f"{exchange}:{symbol}", Ids())
            there.records += 1
            there.ids.add(trade_id)
        return markets

    def books(self) -> int:
        """Points in `orderbook`."""
        return int(self.rows("SELECT count() FROM orderbook")[0][0])

    def unapplied(self) -> int:
        """Commits that are written but cannot be queried yet."""
        behind = self.rows("SELECT sum(sequencerTxn - writerTxn) FROM wal_tables()")[0][0]
        return int(behind or 0)

    def _get(self, path: str, query: str) -> str:
        address = f"{self._url}/{path}?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT_S) as response:
                text: str = response.read().decode()
        except urllib.error.HTTPError as error:
            said = error.read(300).decode(errors="replace")
            raise Unavailable(f"QuestDB at {self._url} refused {query!r}: {said}") from None
        except OSError as error:
            raise Unavailable(f"QuestDB at {self._url} does not answer: {error}") from None
        return text
