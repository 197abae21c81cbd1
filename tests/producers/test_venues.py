"""Every source keeps the contract: its fixtures give exact records, and no bytes give anything undocumented.

Fixtures are the lines of frames/<source>/<file>.jsonl, written by hand from the venue's documents: they are the
specification. There is a file for each channel, `instruments` with bodies of the venue's listing, for a stream
`control` with what else comes on its socket, and for one that has them `history` with bodies of past trades and
`snapshots` with those of whole books. A line holds

    note        what it shows
    frame       the bytes, as text; or, of a poll's channel, `feed` (its symbol) and `bodies` (one text per request)
    feed        in `history` and `snapshots`, the symbol that the body is of
    received    when it came, ISO 8601; RECEIVED where left out
    expected    what it means: fields as `ravenctl` shows them, those that are null left out; or else
    error       the `reason` of its BadFrame, and what that is `about`
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from producers.contract import (
    CHANNELS,
    Answer,
    BadFrame,
    BookUpdate,
    Count,
    Event,
    Farewell,
    Feed,
    HasHistory,
    HasSnapshots,
    Poll,
    Receipt,
    Reply,
    Source,
    Stream,
)
from producers.registry import SOURCES
from ravencore.codec import Codec, plain
from ravencore.config import Settings
from ravencore.records import Instrument, MarketRecord, Record

RECEIVED = "2024-08-08T23:54:15.400000Z"
CONNECTION_US = 1_723_161_000_000_000
SEQUENCE = 77
FRAMES = Path(__file__).parent / "frames"
CODEC = Codec()
HISTORY, SNAPSHOTS = "history", "snapshots"
REASONS = {"unreadable_frame", "bad_value"}


class Case(NamedTuple):
    """One line of a fixture file."""

    source: Source
    file: str
    line: Mapping[str, Any]

    @property
    def parts(self) -> list[bytes]:
        return [text.encode() for text in self.line.get("bodies", [self.line.get("frame")])]

    @property
    def received_us(self) -> int:
        return int(datetime.fromisoformat(self.line.get("received", RECEIVED)).timestamp() * 1_000_000)

    def read(self, *parts: bytes) -> list[Event | Instrument]:
        """What the source makes of these bytes in place of the line's own."""
        if self.file == "instruments":
            return list(self.source.instruments(parts[0], self.received_us))
        receipt = Receipt(self.received_us, CONNECTION_US, SEQUENCE)
        if self.file == HISTORY:
            assert isinstance(self.source, HasHistory)
            return list(self.source.past(self.line["feed"], parts[0], receipt))
        if self.file == SNAPSHOTS:
            assert isinstance(self.source, HasSnapshots)
            return [self.source.whole_book(self.line["feed"], parts[0], receipt)]
        if isinstance(self.source, Stream):
            return list(self.source.parse(parts[0], receipt))
        assert isinstance(self.source, Poll)
        return list(self.source.parse_bodies(Feed(self.file, self.line["feed"]), parts, receipt))

    def mangled(self) -> Iterator[tuple[bytes, "Case"]]:
        """Each part on its own, and the case as which a mangled one is to be read in its place."""
        for at, part in enumerate(self.parts):
            yield part, Case(self.source, self.file, {**self.line, "mangles": at})

    def read_mangled(self, part: bytes) -> list[Event | Instrument]:
        parts = self.parts
        parts[self.line["mangles"]] = part
        return self.read(*parts)


def cases() -> Iterator[Any]:
    for name, source in SOURCES.items():
        for path in sorted((FRAMES / name.lower()).glob("*.jsonl")):
            for line in path.read_text().splitlines():
                case = Case(source, path.stem, json.loads(line))
                yield pytest.param(case, id=f"{name}-{path.stem}-{case.line['note']}")


ALL_CASES = list(cases())
GOOD = [case for case in ALL_CASES if "error" not in case.values[0].line]
OF_CHANNELS = [case for case in GOOD if case.values[0].file in {*case.values[0].source.channels, HISTORY, SNAPSHOTS}]


def _fields(event: BookUpdate | Reply | Answer | Farewell | Count) -> dict[str, Any]:
    if not isinstance(event, BookUpdate):
        return event._asdict()
    texts = {name: [text.decode() for text in getattr(event, name)] or None for name in ("bid_texts", "ask_texts")}
    return {**asdict(event), **texts}


def told(event: Event | Instrument) -> dict[str, Any]:
    """An event as fixtures spell it: without what is null, and most refusals are not about the moment."""
    fields = plain(event) if isinstance(event, Record) else _fields(event)
    shown = {
        name: value for name, value in fields.items() if value is not None and (name, value) != ("momentary", False)
    }
    if isinstance(event, BookUpdate) or type(event) in CHANNELS:
        assert (event.connection_time, event.connection_sequence) == (CONNECTION_US, SEQUENCE)  # type: ignore[union-attr]
        del shown["connection_time"], shown["connection_sequence"]
    return {"record": type(event).__name__, **json.loads(json.dumps(shown))}


def said(event: Mapping[str, Any]) -> dict[str, Any]:
    """A fixture's event without what is null, and without its connection, which `told` has checked."""
    return {name: value for name, value in event.items() if value is not None and not name.startswith("connection_")}


@pytest.mark.parametrize("case", ALL_CASES)
def test_a_fixture_means_exactly_what_is_written(case: Case) -> None:
    if "error" in case.line:
        with pytest.raises(BadFrame) as failure:
            case.read(*case.parts)
        assert failure.value.reason == case.line["error"]["reason"]
        assert case.line["error"]["about"] in str(failure.value)
    else:
        expected = [said(event) for event in case.line["expected"]]
        assert [told(event) for event in case.read(*case.parts)] == expected


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_source_has_fixtures_of_all_it_speaks(source: Source) -> None:
    files = {path.stem for path in (FRAMES / source.name.lower()).glob("*.jsonl")}
    needed = {*source.channels, "instruments"}
    kinds = ((Stream, "control"), (HasHistory, HISTORY), (HasSnapshots, SNAPSHOTS))
    needed |= {file for kind, file in kinds if isinstance(source, kind)}
    assert files == needed, f"write tests/producers/frames/{source.name.lower()}/*.jsonl"


def test_no_fixtures_are_left_of_a_source_that_is_gone() -> None:
    assert {path.name for path in FRAMES.iterdir()} <= {name.lower() for name in SOURCES}


# No bytes give anything else

REPLACEMENTS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**63, 10**30, 1.5),
    *("", "x", "NaN", "-1", "1e400", "9" * 5000, "0"),
    *([], [None], {}, {"a": 1}),
)
MOST_POSITIONS = 100
"""Of a long frame, so many places spread over it are tried."""


def kind(value: Any) -> str:
    """JSON's name for a value's type."""
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield path, node
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from paths(child, (*path, key))


def with_value(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[path[0]] = with_value(node[path[0]], path[1:], value)
    return copy


def only_documented(case: Case, part: bytes) -> list[Event | Instrument] | None:
    """Events, each of which fits the wire as it is, or None for a BadFrame with a known reason."""
    try:
        events = case.read_mangled(part)
    except BadFrame as error:
        if error.reason not in REASONS or not str(error):
            raise
        return None
    for event in events:
        if isinstance(event, Record):
            assert CODEC.decode(CODEC.encode(event)) == event
        told(event)
    return events


def same_but_for_nulls(events: Sequence[Event | Instrument], before: Sequence[Event | Instrument]) -> bool:
    return len(events) == len(before) and all(
        told(event).items() <= told(old).items() for event, old in zip(events, before, strict=True)
    )


@pytest.mark.parametrize("case", GOOD)
def test_another_value_anywhere_gives_only_what_is_documented(case: Case) -> None:
    for part, mangles in case.mangled():
        document = json.loads(part)
        places = [path for path, _ in paths(document)]
        for at in spread(len(places)):
            for value in REPLACEMENTS:
                only_documented(mangles, json.dumps(with_value(document, places[at], value)).encode())


@pytest.mark.parametrize("case", OF_CHANNELS)
def test_a_value_of_another_type_changes_no_record(case: Case) -> None:
    """It gives the same records, a value of them missing at most, or none."""
    for part, mangles in case.mangled():
        document = json.loads(part)
        before = mangles.read_mangled(json.dumps(document).encode())
        for path, old in paths(document):
            for value in REPLACEMENTS:
                if kind(value) != kind(old) != "null":
                    events = only_documented(mangles, json.dumps(with_value(document, path, value)).encode())
                    assert events is None or same_but_for_nulls(events, before), (path, value)


@pytest.mark.parametrize("case", OF_CHANNELS)
def test_a_field_that_nobody_knows_changes_nothing(case: Case) -> None:
    before = case.read(*case.parts)
    for part, mangles in case.mangled():
        document = json.loads(part)
        for path, old in paths(document):
            if isinstance(old, dict):
                more = with_value(document, path, {"zz": {"x": [1, None]}, **old, "zzz": "\u20ac"})
                assert mangles.read_mangled(respelt(part, more)) == before


TEXT_OR_NUMBER = re.compile(r'("(?:[^"\\]|\\.)*")|(-?[0-9][0-9.eE+-]*)')


def respelt(part: bytes, document: Any) -> bytes:
    """A document as JSON, its numbers as `part` spells them: the json module drops trailing zeros and digits."""
    numbers: list[str] = [number for _, number in TEXT_OR_NUMBER.findall(part.decode()) if number]
    spelt = {json.dumps(json.loads(number)): number for number in numbers}

    def spell(match: re.Match[str]) -> str:
        text: str = match[0]
        return spelt.get(text, text)

    return TEXT_OR_NUMBER.sub(spell, json.dumps(document)).encode()


@pytest.mark.parametrize("case", GOOD)
def test_white_space_changes_nothing(case: Case) -> None:
    before = case.read(*case.parts)
    for part, mangles in case.mangled():
        tokens = re.findall(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^{}\[\],:"]+', part)
        assert b"".join(tokens) == part
        assert mangles.read_mangled(b" \n\t".join(tokens) + b"\r\n") == before


@pytest.mark.parametrize("case", GOOD)
def test_a_truncated_frame_is_unreadable(case: Case) -> None:
    for part, mangles in case.mangled():
        for end in spread(len(part)):
            with pytest.raises(BadFrame):
                mangles.read_mangled(part[:end])


@pytest.mark.parametrize("case", GOOD)
def test_any_byte_replaced_gives_only_what_is_documented(case: Case) -> None:
    for part, mangles in case.mangled():
        for at in spread(len(part)):
            for byte in b'0aZ"\\{}[],:\x00\xff':
                only_documented(mangles, part[:at] + bytes([byte]) + part[at + 1 :])


def spread(length: int) -> range:
    return range(0, length, length // MOST_POSITIONS + 1)


@given(st.sampled_from(GOOD), st.binary(max_size=200))
def test_any_bytes_give_only_what_is_documented(case: Any, raw: bytes) -> None:
    for _, mangles in case.values[0].mangled():
        only_documented(mangles, raw)


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"id":1,"result":' + b"[" * 100_000, b"9" * 100_000])
def test_deep_and_long_bytes_are_unreadable(raw: bytes) -> None:
    for case in GOOD:
        for _, mangles in case.values[0].mangled():
            assert only_documented(mangles, raw) is None


@pytest.mark.parametrize("case", OF_CHANNELS)
def test_a_frame_of_another_source_is_unreadable(case: Case) -> None:
    for other in SOURCES.values():
        if other is not case.source and isinstance(other, Stream):
            with pytest.raises(BadFrame):
                other.parse(case.parts[0], Receipt(case.received_us))


# The contract's small print


def records(case: Case) -> list[MarketRecord]:
    return [event for event in case.read(*case.parts) if type(event) in CHANNELS]  # type: ignore[misc]


@pytest.mark.parametrize("case", GOOD)
def test_a_record_belongs_to_its_source(case: Case) -> None:
    for record in records(case):
        assert record.venue == case.source.venue
        channel = CHANNELS[type(record)]
        assert channel in case.source.channels
        assert case.file in {channel, "control", HISTORY}
        feed = case.source.feed(channel, record.symbol)
        assert feed.channel == channel
        assert feed == case.source.feed(channel, feed.symbol), "the feed of a feed's symbol is itself"
        assert "feed" not in case.line or case.line["feed"] in {feed.symbol, record.symbol}


@pytest.mark.parametrize("case", [case for case in GOOD if case.values[0].file == "instruments"])
def test_an_instrument_belongs_to_its_source(case: Case) -> None:
    for instrument in case.read(*case.parts):
        assert isinstance(instrument, Instrument)
        assert instrument.venue == case.source.venue
        assert instrument.received_time == case.received_us


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_source_is_a_stream_or_a_poll_and_has_its_settings(source: Source) -> None:
    assert isinstance(source, Stream) is not isinstance(source, Poll)
    assert SOURCES[source.name] is source
    settings = getattr(Settings().venues, source.venue)
    assert settings.rest_url
    assert not isinstance(source, Stream) or settings.ws_url
    assert source.selection is None or getattr(settings, source.selection)
    assert source.selection is None or source.scope == "market"


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_sources_of_one_venue_share_its_limits(source: Source) -> None:
    for other in SOURCES.values():
        if other.venue == source.venue and not isinstance(other, Poll) and not isinstance(source, Poll):
            assert other.limits.connects == source.limits.connects
        if other.venue == source.venue:
            assert other.limits.rest == source.limits.rest


STREAMS = [pytest.param(source, id=name) for name, source in SOURCES.items() if isinstance(source, Stream)]


@pytest.mark.parametrize("source", STREAMS)
def test_requests_carry_every_feed_and_their_number(source: Stream) -> None:
    symbols = ("BTC-USDT", "ETH-USDT")
    feeds = sorted({source.feed(channel, symbol) for symbol in symbols for channel in source.channels})
    together = source.one_message(feeds)
    assert list(together) == feeds[: len(together)]
    for spell in (source.subscribe, source.unsubscribe):
        assert len(together) == 1 or spell(together, 7) != spell(together[:1], 7)
        assert spell(together, 7)
    assert source.subscribe(together, 7) != source.unsubscribe(together, 7)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_only_a_clear_word_refuses_a_symbol_for_good(source: Source) -> None:
    for status in (200, 400, 404, 418, 429, 500, 502):
        for body in (b"", b"<html>", b"{}", b"[]", b"null", b"[" * 100_000):
            assert source.refusal(status, body) is None
