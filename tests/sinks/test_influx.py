"""The client of InfluxDB and QuestDB: what is created, what answers mean, what a real QuestDB gives back."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from influxdb_client import InfluxDBClient, WritePrecision
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

from ravencore.config import InfluxSettings, Settings
from ravencore.decimals import ONE, to_float
from ravencore.records import Trade
from sinks.contract import Refused, StoreUnavailable
from sinks.reading import Tables
from sinks.stores.influx import Influx, _translated
from sinks.stores.influx_lines import points
from tests.sinks.probe_influx import InfluxProbe, kline
from tests.sinks.rig import CODEC, T0, reads, trade, until


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
        assert store.write(reads(records)) == ([], [])
    store.close()

    probe = InfluxProbe(settings)
    until(lambda: probe.count(symbol) >= 5000, "5,000 rows")
    found = probe.query(f"SELECT trade_id, timestamp::long AS time_ns FROM trades WHERE symbol = '{symbol}'")
    assert {row["trade_id"]: row["time_ns"] for row in found} == {
        str(number): T0 * 1000 + number % 1_000_000 for number in range(7_000_000, 7_005_000)
    }
    assert probe.count(symbol) == 5000


@pytest.mark.stack
def test_of_a_candle_that_came_twice_in_a_batch_the_later_one_is_kept(settings: Settings, symbol: str) -> None:
    first, again = kline(symbol, 1), kline(symbol, 1, close=7 * ONE)
    store = Influx(settings)
    store.setup()
    assert store.write(reads([first, kline(symbol, 2), again])) == ([], [])
    store.close()
    probe = InfluxProbe(settings)
    until(lambda: probe.count(symbol) >= 2, "both candles")
    found = probe.query(f"SELECT close FROM kline WHERE symbol = '{symbol}' ORDER BY timestamp")
    assert found[0]["close"] == 7.0


@pytest.mark.stack
def test_odd_texts_come_back_from_the_server(settings: Settings, symbol: str) -> None:
    ids = ['"', "\\", '\\"', "a=b,c d", "é", "😀", " ", "#", "'"]
    venues = ["a b", "a,b", "a=b", "é", "#x", '"q"']
    records = [trade(symbol, n, trade_id=text) for n, text in enumerate(ids)]
    records += [trade(symbol, 100 + n, venue=text) for n, text in enumerate(venues)]
    store = Influx(settings)
    store.setup()
    assert store.write(reads(records)) == ([], [])
    store.close()

    probe = InfluxProbe(settings)
    until(lambda: len(probe.kept(symbol)) >= len(records), "all rows")
    assert probe.kept(symbol) == probe.expected(records)


@pytest.mark.stack
def test_numbers_written_without_a_point_are_floats_even_in_the_first_line_of_a_table(settings: Settings) -> None:
    """As its documentation says of numbers without a suffix: https://questdb.com/docs/ingestion/ilp/columnset-types/"""
    units = [5 * ONE, 10**5 * ONE, 10**20 - 1, 12 * 10**34, 1]
    batch = reads([trade("S", row, price=number) for row, number in enumerate(units)])
    made, _ = points(Trade, batch, Tables(CODEC).table(Trade, [read.value for read in batch]))
    body = made.body(range(len(units))).replace(b"trades,", b"whole_numbers,")
    assert b" price=5,quantity=" in body
    with InfluxDBClient(settings.influx.url, token="", org="raven") as client:
        client.write_api(write_options=SYNCHRONOUS).write("raven", "raven", body, WritePrecision.NS)
    probe = InfluxProbe(settings)
    sql = "SELECT count() rows FROM whole_numbers"
    until(lambda: probe.query("SELECT * FROM tables() WHERE table_name = 'whole_numbers'"), "the table")
    until(lambda: probe.query(sql)[0]["rows"] == len(units), "the rows")
    found = probe.query("SELECT price FROM whole_numbers ORDER BY timestamp")
    assert [row["price"] for row in found] == [to_float(number) for number in units]
    types = {row["column"]: row["type"] for row in probe.query("SELECT * FROM table_columns('whole_numbers')")}
    assert types["price"] == types["quantity"] == "DOUBLE"


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
            store.write(reads([trade("S", 1)]))
        stuck.clear()
        assert store.write(reads([trade("S", 1)])) == ([], [])
        store.close()
        server.shutdown()
