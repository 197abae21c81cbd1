"""Every venue keeps the contract: its fixture frames give exact records, and no bytes give anything undocumented.

Fixtures are the lines of frames/<venue>/*.jsonl: a note, a frame, and what is expected of it, or the error's reason and
what it is about. `instruments.jsonl` holds bodies of the venue's REST side. They were written by hand from the venue's
documents: they are the specification.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from producers.contract import BOOKS, TRADES, BadFrame, Event, Feed, Reply, Venue
from producers.registry import VENUES
from producers.venues.binance_spot import BinanceSpot
from ravencore.codec import plain
from ravencore.decimals import from_text
from ravencore.records import Book, Instrument, Level, Record, Trade

RECEIVED_US = 1_723_161_255_400_000
FRAMES = Path(__file__).parent / "frames"


def fixtures() -> Iterator[Any]:
    for name in VENUES:
        for path in sorted((FRAMES / name.lower()).glob("*.jsonl")):
            for line in path.read_text().splitlines():
                case = json.loads(line)
                yield pytest.param(name, path.stem, case, id=f"{name}-{path.stem}-{case['note']}")


def told(event: Event | Instrument) -> dict[str, Any]:
    fields = plain(event) if isinstance(event, Record) else event._asdict()
    return {"record": type(event).__name__, **fields}


def read(venue: Venue, file: str, frame: bytes, received_us: int = RECEIVED_US) -> list[Event | Instrument]:
    return [*(venue.instruments(frame, received_us) if file == "instruments" else venue.parse(frame, received_us))]


@pytest.mark.parametrize(("name", "file", "case"), list(fixtures()))
def test_a_fixture_frame_means_exactly_what_is_written(name: str, file: str, case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(BadFrame) as failure:
            read(VENUES[name], file, case["frame"].encode())
        assert failure.value.reason == case["error"]["reason"]
        assert case["error"]["about"] in str(failure.value)
    else:
        assert [told(event) for event in read(VENUES[name], file, case["frame"].encode())] == case["expected"]


@pytest.mark.parametrize("name", VENUES)
def test_a_venue_has_fixtures_of_all_it_speaks(name: str) -> None:
    assert {path.stem for path in (FRAMES / name.lower()).glob("*.jsonl")} >= {
        *VENUES[name].channels,
        "control",
        "instruments",
    }
    assert VENUES[name].name == name


def test_no_fixtures_are_left_of_a_venue_that_is_gone() -> None:
    assert {path.name for path in FRAMES.iterdir()} == {name.lower() for name in VENUES}


REPLACEMENTS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**63, 10**30, 1.5),
    *("", "x", "NaN", "-1", "1e400", "9" * 5000),
    *([], [None], {}, {"a": 1}),
)


def paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from paths(child, (*path, key))


def with_value(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[path[0]] = with_value(node[path[0]], path[1:], value)
    return copy


def only_documented(venue: Venue, file: str, frame: bytes) -> None:
    """Events of known kinds, or BadFrame with a known reason; and every record fits the wire."""
    try:
        for event in read(venue, file, frame):
            plain(event) if isinstance(event, Record) else str(event)
            if isinstance(event, Trade):
                assert event.price > 0
                assert event.quantity > 0
                assert event.sequence is not None
                assert 0 < event.event_time <= RECEIVED_US + 60_000_000
    except BadFrame as error:
        if error.reason not in {"unreadable_frame", "bad_value"} or not str(error):
            raise


GOOD = [
    pytest.param(name, file, case["frame"], id=f"{name}-{file}-{case['note']}")
    for name, file, case in (param.values for param in fixtures())
    if "error" not in case
]


@pytest.mark.parametrize(("name", "file", "frame"), GOOD)
def test_a_value_of_another_type_anywhere_gives_only_the_documented_error(name: str, file: str, frame: str) -> None:
    document = json.loads(frame)
    for path in paths(document):
        for value in REPLACEMENTS:
            only_documented(VENUES[name], file, json.dumps(with_value(document, path, value)).encode())


@pytest.mark.parametrize(("name", "file", "frame"), GOOD)
def test_a_truncated_frame_gives_only_the_documented_error(name: str, file: str, frame: str) -> None:
    raw = frame.encode()
    for end in range(len(raw)):
        with pytest.raises(BadFrame):
            read(VENUES[name], file, raw[:end])


@pytest.mark.parametrize(("name", "file", "frame"), GOOD)
def test_any_byte_replaced_gives_only_the_documented_error(name: str, file: str, frame: str) -> None:
    raw = frame.encode()
    for at in range(len(raw)):
        for byte in b'0aZ"\\{}[],:\x00\xff':
            only_documented(VENUES[name], file, raw[:at] + bytes([byte]) + raw[at + 1 :])


@given(st.sampled_from(sorted(VENUES)), st.sampled_from(["trades", "instruments"]), st.binary(max_size=200))
def test_any_bytes_give_only_the_documented_error(name: str, file: str, raw: bytes) -> None:
    only_documented(VENUES[name], file, raw)


@pytest.mark.parametrize("name", VENUES)
@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"id":1,"result":' + b"[" * 100_000, b"9" * 100_000])
def test_deep_and_long_bytes_give_only_the_documented_error(name: str, raw: bytes) -> None:
    for file in ("trades", "instruments"):
        with pytest.raises(BadFrame):
            read(VENUES[name], file, raw)


@pytest.mark.parametrize("venue", VENUES.values(), ids=lambda venue: venue.name)
def test_requests_carry_every_feed_and_their_number(venue: Venue) -> None:
    feeds = [Feed(channel, symbol) for symbol in ("BTCUSDT", "ETHUSDT") for channel in venue.channels]
    for spell in (venue.subscribe, venue.unsubscribe):
        assert spell(feeds, 7) != spell(feeds[:1], 7) != spell(feeds[:1], 8)
    assert venue.subscribe(feeds, 7) != venue.unsubscribe(feeds, 7)


# Binance spot


BINANCE = BinanceSpot()


def test_binance_requests_are_spelt_as_documented() -> None:
    feeds = [Feed(TRADES, "BTCUSDT"), Feed(BOOKS, "BTCUSDT")]
    params = ["btcusdt@trade", "btcusdt@depth20@100ms"]
    assert json.loads(BINANCE.subscribe(feeds, 1)) == {"method": "SUBSCRIBE", "params": params, "id": 1}
    assert json.loads(BINANCE.unsubscribe(feeds, 2)) == {"method": "UNSUBSCRIBE", "params": params, "id": 2}


def test_binance_urls() -> None:
    assert BINANCE.socket_url("wss://data-stream.binance.vision/") == (
        "wss://data-stream.binance.vision/stream?timeUnit=MICROSECOND"
    )
    assert BINANCE.instrument_url("https://api", "A&B=C") == "https://api/api/v3/exchangeInfo?symbol=A%26B%3DC"


def test_binance_refuses_a_symbol_for_good_only_where_it_says_so() -> None:
    assert BINANCE.refusal(400, b'{"code":-1121,"msg":"Invalid symbol."}') == "Invalid symbol. (-1121)"
    assert BINANCE.refusal(400, b'{"code":-1003,"msg":"Too many requests."}') is None
    assert BINANCE.refusal(502, b'{"code":-1121,"msg":"Invalid symbol."}') is None
    assert BINANCE.refusal(400, b"<html>") is None
    assert BINANCE.refusal(200, b'{"symbols":[]}') is None


@pytest.mark.parametrize(
    "file",
    [
        "binance_spot/hft_btcusdt_20230405.frames.zst",
        "binance_spot/hft_ethusdt_20240808.frames.zst",
        "derived/spot_btcusdt_trade_depth20_20260216.frames.zst",
    ],
)
def test_a_recording_is_read_to_its_last_decimal(recordings: Path, file: str) -> None:
    """Each frame read a second way, by the json module."""
    seen = {"trade": 0, "depth20@100ms": 0}
    with zstandard.open(recordings / file, "rb") as lines:
        for line in lines.read().splitlines():
            received_ns, _, raw = line.partition(b"\t")
            frame = json.loads(raw)
            symbol, _, channel = frame["stream"].partition("@")
            if channel in seen:
                seen[channel] += 1
                (event,) = BINANCE.parse(raw, int(received_ns) // 1000)
                expect = as_trade if channel == "trade" else as_book
                assert event == expect(symbol.upper(), frame["data"], int(received_ns) // 1000)
    assert sum(seen.values()) > 3000


def as_trade(symbol: str, data: dict[str, Any], received_us: int) -> Trade:
    return Trade(
        venue="BINANCE_SPOT",
        symbol=symbol,
        event_time=data["T"] * 1000,
        received_time=received_us,
        trade_id=str(data["t"]),
        sequence=data["t"],
        price=from_text(data["p"]),
        quantity=from_text(data["q"]),
        side="SELL" if data["m"] else "BUY",
    )


def as_book(symbol: str, data: dict[str, Any], received_us: int) -> Book:
    bids, asks = (
        tuple(Level(from_text(price), from_text(quantity)) for price, quantity in data[side])
        for side in ("bids", "asks")
    )
    return Book(
        venue="BINANCE_SPOT",
        symbol=symbol,
        received_time=received_us,
        update_id=str(data["lastUpdateId"]),
        sequence=data["lastUpdateId"],
        source="VENUE_SNAPSHOT",
        bids=bids,
        asks=asks,
    )


def test_the_documented_examples_are_read(recordings: Path) -> None:
    examples = json.loads((recordings / "examples_documented" / "documented_examples.json").read_text())
    spot = [example["message"] for example in examples if example["venue"] == "binance_spot"]
    events = [event for message in spot for event in BINANCE.parse(json.dumps(message).encode(), RECEIVED_US)]
    assert spot
    assert all(not isinstance(event, Reply) for event in events)
