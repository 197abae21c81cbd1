"""Gathers a run's evidence: the topics of Kafka, the simulator's own pages, and what its REST would still tell."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from confluent_kafka import Message

from producers.contract import CHANNELS, BadFrame, Get, HasHistory, Receipt, Span
from producers.registry import SOURCES
from ravencore import topics
from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.errors import Unavailable
from ravencore.records import DeadLetter, Gap, MarketRecord
from ravenctl import feeds, reading
from simulator.server.settings import OTHER_ROUTE
from tests.chaos.evidence import Evidence, Fault, Issued, Letter, Log, Name, Range, count_of

HTTP_S = 60.0
TRIES = 20
RETRY_S = 1.0
US = 1_000
"""Nanoseconds of a microsecond."""
NOT_THERE, BUSY = (400, 404), (418, 429)
MARGIN_US = 1_000_000
"""Trades happened a little before their frame was made, and venues that find them by time leave out the bounds."""
SINCE_2001_US = 10**15
"""Keys of books that are greater are times: of venues whose books have no ids."""


class Pages:
    """What a simulator at this URL tells of itself."""

    def __init__(self, url: str) -> None:
        self._url = url

    def stats(self) -> Any:
        """State, counts, and the symbols and sources of each venue."""
        return self._get("/sim/stats")

    def faults(self) -> list[Fault]:
        """All faults so far."""
        return [fault_of(told) for told in self._get("/sim/faults")]

    def issued(self, venue: str, channel: str) -> dict[Name, Sequence[Issued]]:
        """Identities by symbol, each with the time it was issued at."""
        issued = self._get("/sim/ledger", venue=venue, channel=channel)["issued"]
        return {
            Name(venue, channel, symbol): [(number, time_us) for number, time_us in rows]
            for symbol, rows in issued.items()
            if rows
        }

    def books(self, venue: str, symbol: str) -> dict[int, str]:
        """Digests of its book by the key of each update."""
        return {int(key): told for key, told in self._get("/sim/books", venue=venue, symbol=symbol).items()}

    def _get(self, path: str, **query: str) -> Any:
        url = f"{self._url}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=HTTP_S) as answer:
                return json.load(answer)
        except OSError as error:
            raise Unavailable(f"the simulator does not answer: {error}") from None


def fault_of(told: Mapping[str, Any]) -> Fault:
    """A row of /sim/faults."""
    lost = (
        (Name(told["venue"], channel, symbol), _known(ids))
        for channel, symbols in told.get("lost", {}).items()
        for symbol, ids in symbols.items()
    )
    return Fault(
        number=str(told["id"]),
        kind=told["kind"],
        venue=told["venue"],
        channel=told.get("channel") or "",
        symbol=told.get("symbol") or "",
        from_us=told["from_ns"] // US,
        to_us=told["to_ns"] // US,
        ids=_known(told.get("ids") or ()),
        lost=tuple(lost),
        announced=told.get("announced", True),
    )


def _known(ids: Sequence[int | None]) -> tuple[int, ...]:
    return tuple(identity for identity in ids if identity is not None)


def evidence(settings: KafkaSettings, codec: Codec, pages: Pages, began_us: int, ended_us: int) -> Evidence:
    """All of it, but for what REST would still tell."""
    stats = pages.stats()
    logs = _logs(settings, codec)
    channels = sorted({(source.venue, channel) for source in SOURCES.values() for channel in source.channels})
    issued: dict[Name, Sequence[Issued]] = {}
    for venue, channel in channels:
        if venue in stats["venues"]:
            issued |= pages.issued(venue, channel)
    digests = {name: pages.books(name.venue, name.symbol) for name, log in logs.items() if log.kept}
    for name, changes in digests.items():
        issued.setdefault(name, [(key, key) for key in changes if key > SINCE_2001_US])
    return Evidence(
        began_us=began_us,
        ended_us=ended_us,
        issued=issued,
        logs=logs,
        gaps=[codec.decode_as(Gap, value) for value in _values(settings, topics.GAPS)],
        faults=pages.faults(),
        letters=_letters(settings, codec),
        digests=digests,
    )


def _logs(settings: KafkaSettings, codec: Codec) -> dict[Name, Log]:
    logs: dict[Name, Log] = {}
    for cls, channel in CHANNELS.items():
        for value in _values(settings, topics.CHANNELS[channel]):
            record: MarketRecord = codec.decode_as(cls, value)
            name = Name(record.venue, channel, record.symbol)
            log = logs.get(name)
            if log is None:
                log = logs[name] = Log()
            log.add(record)
    return logs


def _letters(settings: KafkaSettings, codec: Codec) -> dict[str, list[Letter]]:
    """By the venue they came from, "" for those that are of no connection."""
    found: dict[str, list[Letter]] = {}
    for value in _values(settings, topics.DEAD_LETTERS):
        letter = codec.decode_as(DeadLetter, value)
        connection = letter.connection or ""
        venue = urllib.parse.urlsplit(connection).path.strip("/").partition("/")[0].removesuffix(OTHER_ROUTE)
        found.setdefault(venue, []).append(Letter(connection, letter.payload, letter.detail))
    return found


def _values(settings: KafkaSettings, topic: str) -> Iterator[bytes]:
    """Every record of a topic but Clocks."""
    messages: Iterator[Message] = reading.read_all(settings, topic)
    return (value for message in messages if isinstance(value := message.value(), bytes))


# What REST would still tell


def still_served(found: Evidence, rest_urls: Mapping[str, str]) -> dict[Name, list[int]]:
    """The numbers in no topic that a venue still tells, asked for as a collector does."""
    served: dict[Name, list[int]] = {}
    for name, missing in found.missing().items():
        source = SOURCES[feeds.source_of(feeds.Name(name.venue, name.channel))]
        if isinstance(source, HasHistory):
            counted = ((count_of(name.channel, identity), time_us) for identity, time_us in found.issued[name])
            times = {number: time_us for number, time_us in counted if number is not None}
            asked = [_ask(source, rest_urls[name.venue], name, run, times) for run in runs(missing)]
            if told := sorted(set(missing) & set().union(*asked)):
                served[name] = told
    return served


def runs(numbers: Sequence[int]) -> Iterator[Range]:
    """Numbers in order, as ranges of those that follow upon each other."""
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        rows = [number for _, number in group]
        yield rows[0], rows[-1]


def _ask(source: HasHistory, base: str, name: Name, span: Range, times: Mapping[int, int]) -> set[int]:
    """Ids that are told of a span; asked from where an answer ended, until it brings nothing more of it."""
    first, last = span
    told: set[int] = set()
    while first <= last:
        get = source.history(base, name.symbol, Span(first, last, times[first] - MARGIN_US, times[last] + MARGIN_US))
        body = _body(get)
        if body is None:
            break
        try:
            records = source.past(name.symbol, body, Receipt(time.time_ns() // US))
        except BadFrame:
            break
        counts = (count_of(name.channel, feeds.identity_of(one)) for one in records if one.symbol == name.symbol)
        numbers = {number for number in counts if number is not None}
        told |= numbers
        onward = max((number for number in numbers if number <= last), default=first - 1) + 1
        if onward <= first:
            break
        first = onward
    return told


def _body(get: Get) -> bytes | None:
    """The answer; None where the venue has none. Waits where it is asked too often."""
    for _ in range(TRIES):
        try:
            with urllib.request.urlopen(get.url, timeout=HTTP_S) as answer:
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError as refusal:
            if refusal.code in NOT_THERE:
                return None
            if refusal.code not in BUSY:
                raise
            time.sleep(float(refusal.headers.get("Retry-After") or RETRY_S))
    return None


def rest_urls(environment: Mapping[str, str]) -> dict[str, str]:
    """Endpoints by venue, of the settings that a simulator hands to collectors."""
    prefix, suffix = "RAVEN_VENUES__", "__REST_URL"
    return {
        key.removeprefix(prefix).removesuffix(suffix): url for key, url in environment.items() if key.endswith(suffix)
    }
