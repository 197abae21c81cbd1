"""What was read from Kafka as records, one by one, or as Arrow tables, many at once; and what is neither."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import NamedTuple, TypeVar

import pyarrow as pa

from ravencore.codec import HEADER_BYTES, Codec, load_schema
from ravencore.errors import Unreadable
from ravencore.records import Record
from sinks.arrow import Columns
from sinks.contract import REFUSED, UNREADABLE, Bad, Read, Refused, keep_good

T = TypeVar("T")
_header = itemgetter(slice(HEADER_BYTES))
_value = itemgetter(Read._fields.index("value"))


class Entry(NamedTuple):
    """What was read, and the record that it is."""

    read: Read
    record: Record


def entries(codec: Codec, topics: Mapping[str, type[Record]], reads: Sequence[Read]) -> tuple[list[Entry], list[Bad]]:
    """The records of a batch, each of the type that its topic has; raises Unavailable."""
    found, bad = [], []
    for read in reads:
        try:
            found.append(Entry(read, codec.decode_as(topics[read.topic], read.value)))
        except Unreadable as error:
            bad.append(Bad(read, UNREADABLE, str(error)))
    return found, bad


def by_topic(reads: Iterable[Read]) -> dict[str, list[Read]]:
    """Those of each topic, in their order."""
    found: dict[str, list[Read]] = defaultdict(list)
    for read in reads:
        found[read.topic].append(read)
    return found


class Tables:
    """Makes tables of what was read of one kind of record; with `heads` of arrays only the first item is kept."""

    def __init__(self, codec: Codec, *, heads: bool = False) -> None:
        self._codec, self._heads = codec, heads
        self._columns: dict[tuple[type[Record], bytes], Columns] = {}

    def table(self, cls: type[Record], values: Sequence[bytes]) -> pa.Table:
        """A row for each value, all of one schema; raises Refused, Unavailable, and Unreadable for another record's."""
        known = (cls, _header(values[0]))
        if known not in self._columns:
            writer, own = self._codec.writer_schema(values[0]), load_schema(f"{cls.SCHEMA}.avsc")
            if writer.get("name") != own["name"]:
                raise Unreadable(f"a {writer.get('name')} where a {own['name']} belongs")
            self._columns[known] = Columns(writer, own, heads=self._heads)
        return self._columns[known].table(values)

    def made(
        self, cls: type[Record], reads: Sequence[Read], make: Callable[[Sequence[Read], pa.Table], T]
    ) -> tuple[list[T], list[Bad]]:
        """What is made of the batch's tables, one for each schema; and the records that nothing can be made of.

        `make` raises Refused where it cannot make anything of one of the rows; it is then asked again for some of them.
        Raises Unavailable.
        """

        def attempt(some: Sequence[Read]) -> T:
            try:
                return make(some, self.table(cls, list(map(_value, some))))
            except Unreadable as error:
                raise Refused(str(error), every_row=True) from None

        if not reads:
            return [], []
        with suppress(Refused):
            return [attempt(reads)], []
        by_schema: dict[bytes, list[Read]] = defaultdict(list)
        for read in reads:
            by_schema[_header(read.value)].append(read)
        found, bad = [], []
        for some in by_schema.values():
            try:
                found.append(attempt(some))
            except Refused:
                good, unreadable = self._readable(cls, some, attempt)
                refused = dict(keep_good(good, attempt))
                good = [read for read in good if read not in refused]
                found += [attempt(good)] if good else []
                bad += unreadable + [Bad(read, REFUSED, why) for read, why in refused.items()]
        return found, sorted(bad, key=lambda one: one.read[:3])

    def _readable(
        self, cls: type[Record], reads: Sequence[Read], attempt: Callable[[Sequence[Read]], object]
    ) -> tuple[list[Read], list[Bad]]:
        """Those that can be read, be it as columns alone: an enum's newer symbol, say; and the others."""
        _, bad = entries(self._codec, dict.fromkeys({read.topic for read in reads}, cls), reads)
        torn = [one for one in bad if keep_good([one.read], attempt)]
        unreadable = {one.read for one in torn}
        return [read for read in reads if read not in unreadable], torn
