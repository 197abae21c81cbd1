"""Recordings: read, merged, surveyed; and a folded book against what the exchange itself said."""

from pathlib import Path

import msgspec
import pytest
import zstandard

from simulator.contract import Instrument, SimulatorError
from simulator.dialects.binance import split
from simulator.dialects.binance_spot import BinanceSpot
from simulator.exchange import Exchange
from simulator.faults import Action
from simulator.recording import RecordedMarket, lines
from simulator.sorting import sort

BINANCE = BinanceSpot()


def recorded(*paths: Path) -> RecordedMarket:
    return RecordedMarket(sort([f"BINANCE_SPOT={path}" for path in paths], [BINANCE])["BINANCE_SPOT"], BINANCE)


def trade(symbol: str, trade_id: int, price: str = "10.50000000") -> str:
    payload = (
        f'{{"e":"trade","E":1700000000000,"s":"{symbol}","t":{trade_id},"p":"{price}","q":"0.02000000",'
        f'"T":1700000000000,"m":true,"M":true}}'
    )
    return f'{{"stream":"{symbol.lower()}@trade","data":{payload}}}'


def depth(symbol: str, first: int, last: int, bid: str, quantity: str) -> str:
    payload = f'{{"e":"depthUpdate","E":1,"s":"{symbol}","U":{first},"u":{last},"b":[["{bid}","{quantity}"]],"a":[]}}'
    return f'{{"stream":"{symbol.lower()}@depth@100ms","data":{payload}}}'


def write(path: Path, rows: list[tuple[int, str]]) -> Path:
    text = "".join(f"{time_ns}\t{frame}\n" for time_ns, frame in rows).encode()
    if path.suffix == ".zst":
        half = len(text) // 2
        text = zstandard.compress(text[:half]) + zstandard.compress(text[half:])
    path.write_bytes(text)
    return path


def test_files_are_merged_by_time_and_keep_their_order_where_times_are_equal(tmp_path: Path) -> None:
    first = write(tmp_path / "a.frames.zst", [(1, trade("AUSDT", 1)), (5, trade("AUSDT", 2)), (5, trade("AUSDT", 3))])
    second = write(tmp_path / "b.frames", [(2, trade("BUSDT", 7)), (5, trade("BUSDT", 8)), (9, trade("BUSDT", 9))])
    market = recorded(first, second)
    assert [frame.marks[0][2] for frame in market.frames(None)] == [1, 7, 2, 3, 8, 9]
    assert (market.begins_ns, market.expected_trades, list(market.instruments)) == (1, 6, ["AUSDT", "BUSDT"])


def test_frames_are_kept_byte_for_byte_and_raw_ones_find_their_stream(tmp_path: Path) -> None:
    enveloped = trade("AUSDT", 1)
    raw = enveloped.partition('"data":')[2][:-1]
    path = write(tmp_path / "a.frames", [(1, enveloped), (2, raw), (3, '{"result":null,"id":1}')])
    market = recorded(path)
    one, two = market.frames(None)
    assert one.combined == two.combined == enveloped.encode()
    assert one.payload == two.payload == raw.encode()


def test_tick_lot_base_and_quote_are_inferred(tmp_path: Path) -> None:
    path = write(tmp_path / "a.frames", [(1, trade("ETHBTC", 1, "0.05123000")), (2, trade("ETHBTC", 2, "0.05120000"))])
    rules = recorded(path).instruments["ETHBTC"]
    assert isinstance(rules, Instrument)
    assert (rules.base, rules.quote, rules.tick_e8, rules.lot_e8) == ("ETH", "BTC", 1_000, 1_000_000)


@pytest.mark.parametrize(
    ("symbol", "parts"),
    [
        ("BTCUSDT", ("BTC", "USDT")),
        ("BTCFDUSD", ("BTC", "FDUSD")),
        ("USDTTRY", ("USDT", "TRY")),
        ("BNBETH", ("BNB", "ETH")),
        ("1000CHEEMSTRY", ("1000CHEEMS", "TRY")),
        ("ODD", ("ODD", "")),
    ],
)
def test_symbols_are_split_by_their_quote_asset(symbol: str, parts: tuple[str, str]) -> None:
    assert split(symbol) == parts


UNREADABLE = ['{"e":"trade"', '{"stream":"ausdt@trade","data":{}}', "~", '{"stream":"ausdt@trade","data":{"t":"x"}}']


@pytest.mark.parametrize("bad", UNREADABLE)
def test_a_frame_that_nobody_can_read_is_left_out_and_said(tmp_path: Path, bad: str) -> None:
    rows = [(1, trade("AUSDT", 1)), (12, bad), (13, trade("AUSDT", 2)), (14, bad)]
    market = recorded(write(tmp_path / "bad.frames", rows))
    assert [frame.time_ns for frame in market.frames(None)] == [1, 13]
    assert [frame.time_ns for frame in market.frames(None)] == [1, 13]
    (note,) = [note for note in market.notes if "left out" in note]
    assert note.startswith("2 lines that nobody can read")
    assert "bad.frames, line 2: " in note


@pytest.mark.parametrize("bad", UNREADABLE)
def test_a_file_of_unreadable_frames_alone_is_refused(tmp_path: Path, bad: str) -> None:
    with pytest.raises(SimulatorError, match=r"no market frames in .*bad\.frames, line 1: "):
        recorded(write(tmp_path / "bad.frames", [(1, bad)]))


@pytest.mark.parametrize("bad", ["no tab at all", "x\t{}", "12\t"])
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "bad.frames"
    path.write_text(f"1\t{trade('AUSDT', 1)}\n{bad}\n")
    with pytest.raises(SimulatorError, match=r"bad\.frames, line 2"):
        recorded(path)


def test_damaged_zstd_and_a_missing_file_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.frames.zst", [(1, trade("AUSDT", 1))])
    path.write_bytes(path.read_bytes()[:20] + b"damage" * 9)
    with pytest.raises(SimulatorError, match="damaged zstd"):
        list(lines(path))
    with pytest.raises(SimulatorError, match="cannot read"):
        list(lines(tmp_path / "none.frames"))


def test_a_file_cut_short_is_an_error_and_not_a_shorter_recording(tmp_path: Path) -> None:
    rows = [(i, trade("AUSDT", i)) for i in range(1, 2000)]
    path = tmp_path / "a.frames.zst"
    path.write_bytes(zstandard.compress("".join(f"{t}\t{frame}\n" for t, frame in rows).encode()))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SimulatorError, match=r"a\.frames\.zst"):
        list(lines(path))


def test_depth20_is_folded_from_differences_over_the_snapshot_beside(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.frames",
        [(1, trade("AUSDT", 1)), (2, depth("AUSDT", 5, 9, "1.10", "0.0")), (3, depth("AUSDT", 10, 14, "1.30", "7.0"))],
    )
    snapshot = '{"lastUpdateId":10,"bids":[["1.20","2.0"]],"asks":[["1.50","3.0"]]}'
    write(tmp_path / "a.rest_depth.frames", [(2, snapshot)])
    market = recorded(path)
    exchange = Exchange(BINANCE, market)
    exchange.subscribe(["ausdt@depth20@100ms"])
    sent = [frame for row in market.frames(None) for frame in exchange.take(Action("send", row))]
    tops = [msgspec.json.decode(frame.payload) for frame in sent if frame.kind == "depth20"]
    assert tops == [{"lastUpdateId": 14, "bids": [["1.30", "7.0"], ["1.20", "2.0"]], "asks": [["1.50", "3.0"]]}]


def test_what_a_recording_lacks_is_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.frames", [(1, depth("AUSDT", 1, 2, "1.10", "1.0"))])
    notes = "; ".join(recorded(path).notes)
    assert "AUSDT: the recording holds no trades" in notes
    assert "AUSDT: no depth20, there is no REST snapshot" in notes


@pytest.mark.parametrize(
    ("name", "trades"),
    [
        ("binance_spot/hft_btcusdt_20240808", {"BTCUSDT": 9_757}),
        ("binance_spot/hft_ethusdt_20240808", {"ETHUSDT": 6_106}),
        ("binance_spot/hft_btcusdt_20230405", {"BTCUSDT": 3_144}),
        ("derived/spot_btcusdt_trade_depth20_20260216", {"BTCUSDT": 10_215}),
        ("binance_spot/cf_btc_eth_dot_20210404", {"BTCUSDT": 0, "ETHUSDT": 0, "DOTUSDT": 0}),
    ],
)
def test_the_trades_of_real_recordings_are_all_there(recordings: Path, name: str, trades: dict[str, int]) -> None:
    market = recorded(recordings / f"{name}.frames.zst")
    counts = dict.fromkeys(market.instruments, 0)
    for frame in market.frames(None):
        counts[frame.symbol] += frame.kind == "trade"
    assert counts == trades
    ticks = {"BTCUSDT": 1_000_000, "ETHUSDT": 1_000_000, "DOTUSDT": 10_000}
    assert all(rules.tick_e8 == ticks[symbol] for symbol, rules in market.instruments.items())


@pytest.mark.parametrize("symbol", ["btcusdt", "ethusdt"])
def test_the_folded_book_agrees_with_the_best_prices_the_exchange_sent(recordings: Path, symbol: str) -> None:
    """bookTicker comes from the exchange itself: at the same update id both must show the same best levels."""
    market = recorded(recordings / f"binance_spot/hft_{symbol}_20240808.frames.zst")
    exchange = Exchange(BINANCE, market)
    exchange.subscribe([f"{symbol}@depth20@100ms"])
    tickers: dict[int, tuple[list[str], list[str]]] = {}
    compared = tops = 0
    folded = {}
    for row in market.frames(None):
        if row.stream.endswith("@bookTicker"):
            said = msgspec.json.decode(row.payload)
            tickers[said["u"]] = [said["b"], said["B"]], [said["a"], said["A"]]
        for frame in exchange.take(Action("send", row)):
            if frame.kind == "depth20":
                top = msgspec.json.decode(frame.payload)
                folded[top["lastUpdateId"]] = top["bids"][0], top["asks"][0]
                tops += 1
                assert len(top["bids"]) == len(top["asks"]) == 20
                assert float(top["bids"][0][0]) < float(top["asks"][0][0])
    for update_id, best in folded.items():
        if update_id in tickers:
            assert tickers[update_id] == best
            compared += 1
    assert tops > 3_400
    assert compared > 300
    assert exchange.book_holes(symbol.upper()) == 0
