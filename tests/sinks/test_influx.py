"""Line protocol of trades and books; each point with a nanosecond of its own."""

import json
import re
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from influxdb_client.rest import ApiException

from ravencore.config import InfluxSettings, Settings
from ravencore.decimals import to_decimal
from ravencore.records import Level, Record, Trade
from sinks.contract import Entry, Refused, StoreUnavailable
from sinks.stores.influx import Influx, _translated, book_fields, book_time_ns, encode, points, trade_time_ns
from tests.sinks.rig import T0, InfluxProbe, book, entries, trade, until

UNITS = st.integers(0, 10**38 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
NAMES = TEXT.filter(lambda text: "\\" not in text)


def line(record: Record, offset: int = 0) -> str:
    point = encode(Entry("raven.trades", 0, offset, record))
    return f"{point.series} {point.fields} {point.time_ns}"


def parse(text: str) -> tuple[str, dict[str, str], dict[str, Any], int]:
    """A reader of line protocol written from its specification, for lines with floats and strings."""
    head, fields, time_ns = split(text, " ")
    measurement, *tags = split(head, ",")
    pairs = [split(field, "=") for field in split(fields, ",")]
    values = {name: unquote(value) if value.startswith('"') else float(value) for name, value in pairs}
    return measurement, dict(map(unescaped, tags)), values, int(time_ns)


def split(text: str, at: str) -> list[str]:
    """Split at a character that is neither escaped nor inside quotes."""
    parts, part, quoted, escaped = [], "", False, False
    for character in text:
        if escaped or character == "\\":
            escaped = not escaped
        elif character == '"' and at in " ,":
            quoted = not quoted
        elif character == at and not quoted:
            parts.append(part)
            part = ""
            continue
        part += character
    return [*parts, part]


def unescaped(tag: str) -> tuple[str, str]:
    name, value = split(tag, "=")
    return name, re.sub(r"\\([,= ])", r"\1", value)


def unquote(text: str) -> str:
    return re.sub(r'\\(["\\])', r"\1", text[1:-1])


@given(symbol=NAMES.filter(lambda text: '"' not in text), venue=NAMES.filter(lambda text: '"' not in text))
def test_tags_come_back_as_they_were(symbol: str, venue: str) -> None:
    _, tags, _, _ = parse(line(trade(symbol, 5, venue=venue)))
    assert tags == {"symbol": symbol, "exchange": venue, "side": "BUY"}


@given(price=UNITS, quantity=UNITS, trade_id=TEXT.filter(lambda text: "=" not in text))
def test_fields_come_back_as_the_nearest_doubles_and_the_exact_id(price: int, quantity: int, trade_id: str) -> None:
    measurement, _, fields, time_ns = parse(line(trade("S", 5, price=price, quantity=quantity, trade_id=trade_id)))
    assert measurement == "trades"
    assert fields == {
        "price": float(to_decimal(price)),
        "quantity": float(to_decimal(quantity)),
        "trade_id": trade_id,
    }
    assert time_ns == (T0 + 5000) * 1000 + 5


@pytest.mark.parametrize("symbol", ["", "a\\", "a\nb", "tab\t", "\0"])
def test_a_tag_that_parsers_disagree_on_is_refused(symbol: str) -> None:
    with pytest.raises(Refused):
        line(trade(symbol, 1))


def test_a_line_as_it_is_written() -> None:
    written = line(trade("BTC USDT", 42, event_time=T0, price=60_001_500_000_000_000_000_000, quantity=10**15))
    assert written == (
        "trades,symbol=BTC\\ USDT,exchange=VENUE,side=SELL "
        'price=60001.5,quantity=0.001,trade_id="42" 1723075200000000042'
    )


def test_a_trade_id_is_a_string_even_when_it_looks_like_a_number() -> None:
    assert 'trade_id="1e5"' in line(trade("S", 1, trade_id="1e5"))


@given(
    start=st.integers(0, 2**53),
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), max_size=200),
    clock_us=st.sampled_from([1, 1000]),
)
def test_counting_trades_of_either_clock_never_share_a_nanosecond(
    start: int, steps: list[tuple[int, int]], clock_us: int
) -> None:
    """Ids that count, times that do not run backwards, fewer than 1000 ids apart within a millisecond."""
    sequence, time_us, times = start, T0, []
    since_ms = 0
    for ticks, jump in steps:
        before = time_us // 1000
        time_us += ticks * clock_us
        since_ms = 0 if time_us // 1000 != before else since_ms + jump
        if since_ms >= 900:
            break
        sequence += jump
        times.append(trade_time_ns(time_us, sequence))
    assert len(set(times)) == len(times)


@given(st.integers(0, 2**60), st.integers(1, 999_999))
def test_trades_of_one_whole_millisecond_meet_only_a_million_ids_apart(sequence: int, apart: int) -> None:
    assert trade_time_ns(T0, sequence) != trade_time_ns(T0, sequence + apart)
    assert trade_time_ns(T0, sequence) == trade_time_ns(T0, sequence + 1_000_000)


@given(st.integers(0, 2**60), st.integers(1, 10**6), st.integers(0, 999), st.integers(0, 999))
def test_on_a_microsecond_clock_only_ids_a_multiple_of_1000_apart_meet(
    sequence: int, apart: int, first_us: int, second_us: int
) -> None:
    same = trade_time_ns(T0 + first_us, sequence) == trade_time_ns(T0 + second_us, sequence + apart)
    assert not same or apart % 1000 == 0


def test_the_time_stays_within_its_own_millisecond_or_microsecond() -> None:
    assert trade_time_ns(T0, 2_999_999) - T0 * 1000 == 999_999
    assert trade_time_ns(T0 + 1, 2_999_999) - (T0 + 1) * 1000 == 999
    assert book_time_ns(T0 + 1, 12_345) - (T0 + 1) * 1000 == 345


def test_trades_whose_ids_do_not_count_are_told_apart_by_their_offset() -> None:
    same = trade("S", 1, sequence=None, trade_id="uuid", event_time=T0)
    assert line(same, 7).endswith(f" {T0 * 1000 + 7}")
    assert line(same, 8).endswith(f" {T0 * 1000 + 8}")


def test_points_that_would_overwrite_one_another_are_refused_and_not_lost() -> None:
    first, other, again = (trade("S", n, event_time=T0, side="BUY") for n in (1, 1_000_001, 1))
    encoded, refused = points(entries([first, other, again]))
    assert [entry.record for entry, _ in encoded] == [first]
    assert [rejection.entry.record for rejection in refused] == [other]
    assert "same series and nanosecond" in refused[0].detail


def test_a_book_has_its_best_levels_spread_middle_and_imbalance() -> None:
    assert book_fields(book("S", 2)) == {
        "bid_price": 98.0,
        "bid_quantity": 0.003,
        "ask_price": 103.0,
        "ask_quantity": 1.0,
        "spread": 5.0,
        "mid_price": 100.5,
        "imbalance": (0.003 - 1) / (0.003 + 1),
    }


def test_an_empty_side_leaves_its_fields_out() -> None:
    one_sided = type(book("S", 2))(
        venue="V", symbol="S", received_time=T0, source="MAINTAINED", bids=(Level(10**18, 10**18),), asks=()
    )
    assert book_fields(one_sided) == {"bid_price": 1.0, "bid_quantity": 1.0}
    with pytest.raises(Refused):
        line(type(one_sided)(venue="V", symbol="S", received_time=T0, source="MAINTAINED", bids=(), asks=()))


def test_a_book_counts_by_sequence_then_update_id_then_offset() -> None:
    fields: dict[str, Any] = {"venue": "V", "symbol": "S", "received_time": T0, "source": "MAINTAINED"}
    fields |= {"bids": (Level(1, 1),), "asks": ()}
    make = type(book("S", 1))
    assert line(make(**fields, sequence=1234, update_id="5"), 9).endswith(f"{T0}234")
    assert line(make(**fields, update_id="98765"), 9).endswith(f"{T0}765")
    assert line(make(**fields, update_id="x"), 9).endswith(f"{T0}009")


def answer(status: int, body: str, headers: dict[str, str] | None = None) -> ApiException:
    error = ApiException(status=status, reason="Reason")
    error.body, error.headers = body.encode(), headers
    return error


# InfluxDB's own answers, from its documentation: not tested without InfluxDB.
PARTIAL = '{"code":"unprocessable entity","message":"failure writing points to database: partial write: %s dropped=%d"}'


def test_every_line_dropped_for_its_age_is_refused_at_once() -> None:
    error = answer(422, PARTIAL % ("points beyond retention policy", 3))
    whole, part = _translated("url", error, 3), _translated("url", error, 4)
    assert isinstance(whole, Refused)
    assert whole.every_row
    assert isinstance(part, Refused)
    assert not part.every_row


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_answers_that_do_not_speak_of_the_lines_pause(status: int) -> None:
    error = _translated("url", answer(status, '{"message":"why"}', {"Retry-After": "7"}), 3)
    assert isinstance(error, StoreUnavailable)
    assert error.retry_after == 7
    assert "why" in str(error)


@pytest.mark.stack
def test_five_thousand_trades_of_one_millisecond_and_side_are_all_kept(settings: Settings, symbol: str) -> None:
    records = [trade(symbol, n, event_time=T0, side="BUY") for n in range(7_000_000, 7_005_000)]
    store = Influx(settings)
    store.setup()
    for _ in range(2):
        assert store.write(entries(records)) == ([], [])
    store.close()

    probe = InfluxProbe(settings)
    until(lambda: len(probe.kept(symbol)) >= 5000, "5,000 rows")
    assert probe.kept(symbol) == probe.expected(records)


@pytest.mark.stack
def test_odd_texts_come_back_from_the_server(settings: Settings, symbol: str) -> None:
    ids = ['"', "\\", '\\"', "a=b,c d", "é", "😀", " ", "#", "'"]
    venues = ["a b", "a,b", "a=b", "é", "#x", '"q"']
    records = [trade(symbol, n, trade_id=text) for n, text in enumerate(ids)]
    records += [trade(symbol, 100 + n, venue=text) for n, text in enumerate(venues)]
    store = Influx(settings)
    store.setup()
    assert store.write(entries(records)) == ([], [])
    store.close()

    probe = InfluxProbe(settings)
    until(lambda: len(probe.kept(symbol)) >= len(records), "all rows")
    assert probe.kept(symbol) == probe.expected(records)


def test_a_table_that_questdb_no_longer_fills_counts_as_away() -> None:
    """QuestDB's own answers, played: a real one suspends a table only when its disk fails."""
    stuck = [["trades", "disk full"]]

    class Played(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, json.dumps({"dataset": stuck}).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(204, b"")

        def _answer(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Played) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        store = Influx(Settings(influx=InfluxSettings(url=f"http://127.0.0.1:{server.server_port}", flavour="questdb")))
        with pytest.raises(StoreUnavailable, match=r"disk full.*RESUME WAL"):
            store.write(entries([trade("S", 1)]))
        stuck.clear()
        assert store.write(entries([trade("S", 1)])) == ([], [])
        store.close()
        server.shutdown()


def test_only_trades_and_books_have_measurements() -> None:
    records: Sequence[Record] = [trade("S", 1), book("S", 1)]
    assert {encode(entry).series.partition(",")[0] for entry in entries(records)} == {"trades", "orderbook"}
    assert isinstance(records[0], Trade)
