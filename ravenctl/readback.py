"""Reads back what Kafka and the stores hold, so that a summary states what is there and not what was sent."""

import csv
import hashlib
import io
import json
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow.dataset as ds

from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.errors import Unavailable
from ravencore.records import Bar, Gap, Vpin
from ravencore.topics import CHANNELS
from ravenctl import reading
from ravenctl.feeds import Ids, Range
from ravenctl.outputs import TOPICS as OUTPUT_TOPICS
from ravenctl.outputs import series
from sinks.stores.lake import Lake

TIMEOUT_S = 60.0


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


# The lake


@dataclass
class LakeRows:
    """Rows by channel, and how many of them are there more than once."""

    counts: Counter[str] = field(default_factory=Counter)
    twice: int = 0


def lake_rows(folder: Path) -> LakeRows:
    """What a lake on this machine has of the collected feeds."""
    found = LakeRows()
    place = ["kafka_partition", "kafka_offset"]
    for channel, topic in CHANNELS.items():
        files = folder / "v1" / Lake.topics[topic].SCHEMA
        if files.exists():
            rows = ds.dataset(files, format="parquet").to_table(place)
            found.counts[channel] = len(rows)
            found.twice += len(rows) - len(rows.group_by(place).aggregate([]))
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
