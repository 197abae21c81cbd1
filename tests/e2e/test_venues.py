"""Every venue at once: each feed's ids are in its topic, once, and kept books are the exchange's own, whatever is done
to the connections."""

from pathlib import Path
from typing import Any

import pytest

from producers.contract import HasBooks, Poll
from producers.registry import SOURCES
from tests.e2e.made import Demo, demo
from tests.simulator.played import beginning

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

FEEDS = {(source.name, channel) for source in SOURCES.values() for channel in source.channels}
KEPT = {("KRAKEN", "books"), ("COINBASE_BOOKS", "books"), ("DERIBIT_BOOKS", "books")}
"""Books that are kept from differences."""
SPARSE = "BINANCE_FUTURES_LIQUIDATIONS"
"""A minute may pass without any."""


def feeds(found: Demo) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["source"], row["channel"]): row for row in found.figures["feeds"]}


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """All venues for a minute, at whose end klines close, and a second, as fast as they are read and with faults."""
    faults = "gap=2,duplicate=9,reorder=5,garbage=3,cut=1"
    market = ("--synthetic", "--venues", "all", "--symbol", "BTCUSDT", "--symbol", "BTCUSD")
    options = ("--duration", "61s", "--speed", "max", "--fault", faults, "--seed", "5")
    return demo(tmp_path_factory.mktemp("all"), *market, *options)


def test_every_feed_of_every_venue_is_in_its_topic_once(disturbed: Demo) -> None:
    assert disturbed.exit_code == 0, disturbed.output
    assert disturbed.broken == []
    rows = feeds(disturbed)
    assert rows.keys() == FEEDS
    for (source, channel), row in rows.items():
        assert row["kept"], row
        if (source, channel) in KEPT:
            continue
        assert (row["once"], row["missing"], row["twice"], row["never_sent"]) == (row["sent"], 0, 0, 0)
        assert row["sent"] > 0 or source == SPARSE, row
        if not isinstance(SOURCES[source], Poll):
            assert (row["sent"], row["again"]) == (row["issued"], 0), row


def test_every_kept_book_is_the_exchanges_own(disturbed: Demo) -> None:
    rows = feeds(disturbed)
    for name in KEPT:
        source, row = SOURCES[name[0]], rows[name]
        assert isinstance(source, HasBooks)
        assert (row["wrong"], row["missing"], row["never_sent"], row["sent"]) == (0, 0, 0, None)
        assert row["once"] == row["kept_books"] > 20, row
        assert row["symbols"] == (1 if row["venue"] == "DERIBIT" else 2), row
        # The connection was cut once, and so each book was begun anew.
        assert row["renewed"] >= row["symbols"], row


def test_faults_are_counted_at_every_venue_that_has_trades(disturbed: Demo) -> None:
    injected, figures = disturbed.figures["injected"], disturbed.figures
    trading = sum(channel == "trades" for _, channel in FEEDS)
    assert injected["garbage"] == figures["dead_letters"] == 3 * trading
    # Options trade so seldom that a fault may find no two trades of one in a row, and a frame may hold several options.
    assert injected["gap"] >= 2 * (trading - 1)
    assert 9 * (trading - 1) <= injected["duplicate"] <= figures["duplicates"]
    assert figures["repaired"] >= injected["gap_trades"] > 0
    assert (figures["gaps"], figures["missing_ids"], figures["unfilled"]) == (0, 0, 0)


def test_the_summary_says_so_per_feed(disturbed: Demo) -> None:
    lines = [text.split() for text in disturbed.output.splitlines()]
    for source, channel in FEEDS:
        (told,) = [words for words in lines if words[:2] == [source, channel]]
        says = "kept by Raven, each the exchange's own" if (source, channel) in KEPT else "each once"
        assert says in " ".join(told) or source == SPARSE


def test_real_recordings_of_every_venue(recordings: Path, tmp_path: Path) -> None:
    """Of the two largest their beginning, in which the exchange has left out no id."""
    spot = [recordings / "binance_spot" / f"hft_{name}_20240808.frames.zst" for name in ("btcusdt", "ethusdt")]
    names = (
        "derived/usdm_btcusdt_aggTrade_depth20_markPrice_20230404_05",
        "coinbase_at/cf_btc_eth_20260809_part1",
        "deribit/cf_options_20210405",
        "derived/kraken_v2_trade_btcusdt_20251110_part1",
        "derived/kraken_v2_ticker_alts_20210405",
    )
    files = [beginning(path, tmp_path, 8_000) for path in spot] + [recordings / f"{name}.frames.zst" for name in names]
    found = demo(tmp_path / "demo", "--recording", *map(str, files), "--speed", "max")
    assert found.exit_code == 0, found.output
    rows = feeds(found)
    assert {source for source, _ in rows} >= {
        "BINANCE_SPOT",
        "BINANCE_FUTURES",
        "COINBASE",
        "DERIBIT_OPTIONS",
        "KRAKEN",
    }
    once = {"BINANCE_SPOT": 1_465 + 1_293, "BINANCE_FUTURES": 5_252, "COINBASE": 257, "KRAKEN": 500}
    assert {source: rows[source, "trades"]["once"] for source in once} == once
    sent = found.figures["symbols"]
    assert (sent["BINANCE_SPOT:BTCUSDT"]["kafka"], sent["BINANCE_SPOT:ETHUSDT"]["kafka"]) == (1_465, 1_293)
    assert found.figures["trades_in_influx"] == found.figures["trades_unique"] == sum(once.values())
    assert found.figures["gaps"] == found.figures["dead_letters"] == found.figures["duplicates"] == 0
