"""`ravenctl vpin suggest`: a fiftieth of an average day, of files and of what a real broker holds."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.decimals import ONE
from ravencore.records import Bar, Kline, Trade, market_key
from ravencore.topics import BARS, KLINES, TRADES
from ravenctl.cli import app
from ravenctl.local.broker import Broker

DAY_US = 86_400_000_000
MINUTE_US = 60_000_000
NOW = 20_000 * DAY_US
CODEC = Codec()


def suggest(*args: object) -> Result:
    return CliRunner().invoke(app, ["vpin", "suggest", *map(str, args)])


def settings(result: Result) -> dict[str, object]:
    """What it tells to write into the configuration's file, as TOML."""
    assert result.exit_code == 0, result.output
    found: dict[str, dict[str, dict[str, object]]] = tomllib.loads(result.stdout[result.stdout.index("\n[") :])
    return found["bars"]["vpin"]


def test_of_a_file(tmp_path: Path) -> None:
    rows = [f"{1_700_000_000 + hour * 3600},{100 + hour % 2},2.5,buy" for hour in range(49)]
    path = tmp_path / "BTCUSDT.csv"
    path.write_text("\n".join(["time,price,qty,side", *rows]))
    quote = sum((100 + hour % 2) * 2.5 for hour in range(49)) / 2 / 50
    result = suggest("--file", path)
    assert f"FILE BTCUSDT: V = {quote:.6g}, a fiftieth of" in result.stdout
    assert "from 2.00 days of" in result.stdout
    assert settings(result) == {"bucket_volumes": {"FILE:BTCUSDT": f"{quote:.6g}"}}
    assert result.stderr == ""
    based = suggest("--file", path, "--unit", "base", "--venue", "kraken", "--symbol", "BTC/USD")
    assert settings(based) == {"unit": "base", "bucket_volumes": {"KRAKEN:BTC/USD": f"{49 * 2.5 / 2 / 50:.6g}"}}


def test_less_than_a_day_is_extrapolated_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("time,price,qty,side\n1700000000,100,1,buy\n1700021600,100,1,buy\n")
    result = suggest("--file", path)
    assert settings(result) == {"bucket_volumes": {"FILE:x": "16"}}
    assert result.stderr == "FILE x: 6.00 hours are less than a day, which is extrapolated from them\n"


def test_what_is_refused_of_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("time,price,qty,side\n1700000000,100,1,buy\n1700043200,x,1,buy\n1700086400,100,1,buy\n")
    result = suggest("--file", path)
    assert settings(result) == {"bucket_volumes": {"FILE:x": "4"}}
    assert result.stderr == f"{path}: 1 refused (line 3: price: 'x' is not a number)\n"


def test_trades_that_come_again_or_cannot_be_are_not_volume(tmp_path: Path) -> None:
    rows = [f"{1_700_000_000 + hour * 3600},{hour},100,1,buy" for hour in range(25)]
    spoilt = [*rows[:13], "1700043200,13,100,-1000,buy", *rows[:3], *rows[14:]]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["time,id,price,qty,side", *spoilt]))
    result = suggest("--file", path, "--unit", "base")
    assert settings(result) == {"unit": "base", "bucket_volumes": {"FILE:x": "0.48"}}
    assert "1 refused (line 15: quantity -1000 is not positive)" in result.stderr


def test_what_cannot_be_told(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("time,price,qty,side\n1700000000,100,1,buy\n")
    assert "all its trades are of one moment" in suggest("--file", path).stderr
    assert "write quote or base" in suggest("--file", path, "--unit", "coins").stderr


def kline(minute: int, symbol: str = "BTCUSDT", venue: str = "BINANCE_FUTURES", interval: str = "1m") -> Kline:
    time_us = NOW + minute * MINUTE_US
    price = 100 * ONE
    return Kline(
        venue=venue,
        symbol=symbol,
        event_time=time_us + MINUTE_US,
        received_time=time_us + MINUTE_US,
        interval=interval,
        open_time=time_us,
        close_time=time_us + MINUTE_US - 1000,
        open=price,
        high=price,
        low=price,
        close=price,
        volume=2 * ONE,
        quote_volume=200 * ONE,
        trade_count=7,
        taker_buy_volume=ONE,
        taker_buy_quote_volume=100 * ONE,
    )


def bar(second: int, symbol: str, profile: str) -> Bar:
    price = 100 * ONE
    return Bar(
        venue="KRAKEN",
        symbol=symbol,
        kind="time",
        profile=profile,
        bar_seq=second,
        open_time=NOW + second * 1_000_000,
        close_time=NOW + (second + 1) * 1_000_000,
        open=price,
        high=price,
        low=price,
        close=price,
        volume=3 * ONE,
        quote_volume=300 * ONE,
        buy_volume=ONE,
        ticks=1,
        buy_ticks=1,
        warmup=False,
        gap=False,
    )


def trade(number: int, symbol: str, venue: str, apart_us: int) -> Trade:
    time_us = NOW + number * apart_us
    return Trade(
        venue=venue,
        symbol=symbol,
        event_time=time_us,
        received_time=time_us,
        trade_id=str(number),
        sequence=number,
        price=100 * ONE,
        quantity=ONE,
        side="BUY",
    )


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with Broker() as running:
        settings_ = KafkaSettings(bootstrap=running.bootstrap)
        kafka.ensure_topics(settings_)
        client = kafka.producer(settings_)
        written: list[tuple[str, Kline | Bar | Trade]] = [
            *((KLINES, kline(minute)) for minute in range(2_880)),
            *((KLINES, kline(minute)) for minute in range(60)),
            *((KLINES, kline(minute, interval="1h")) for minute in range(60)),
            *((KLINES, kline(minute, "ETHUSDT")) for minute in range(5)),
            *((BARS["time"], bar(second, "BTC/USDT", "1s")) for second in range(0, 172_801, 600)),
            *((BARS["time"], bar(second, "BTC/USDT", "5m")) for second in range(0, 1_000_000, 60_000)),
            *((TRADES, trade(number, "BTCUSDT", "BINANCE_FUTURES", 1_000_000)) for number in range(3_000)),
            *((TRADES, trade(number, "SOLUSDT", "BINANCE_SPOT", DAY_US // 100)) for number in range(301)),
        ]
        for topic, record in written:
            client.produce(topic, CODEC.encode(record), market_key(record))
        assert client.flush(30) == 0
        yield running.bootstrap


@pytest.mark.stack
def test_of_the_longest_that_kafka_has(broker: str) -> None:
    result = suggest("--symbol", "BTCUSDT", "--bootstrap", broker)
    sparse = 289 * 300 / (172_801 / 86_400) / 50
    assert settings(result) == {
        "bucket_volumes": {"BINANCE_FUTURES:BTCUSDT": "5760", "KRAKEN:BTC/USDT": f"{sparse:.6g}"}
    }
    assert re.search(r"BINANCE_FUTURES .* from 2\.00 days of raven\.klines", result.stdout)
    assert re.search(r"KRAKEN .* from 2\.00 days of raven\.bars\.time 1s", result.stdout)
    one = suggest("--symbol", "btc/usdt", "--venue", "kraken", "--unit", "base", "--bootstrap", broker)
    assert settings(one) == {
        "unit": "base",
        "bucket_volumes": {"KRAKEN:BTC/USDT": f"{289 * 3 / (172_801 / 86_400) / 50:.6g}"},
    }


@pytest.mark.stack
def test_of_trades_where_there_is_nothing_longer(broker: str) -> None:
    result = suggest("--symbol", "SOLUSDT", "--bootstrap", broker)
    assert settings(result) == {"bucket_volumes": {"BINANCE_SPOT:SOLUSDT": f"{301 * 100 / 3 / 50:.6g}"}}
    assert "from 3.00 days of raven.trades" in result.stdout


@pytest.mark.stack
def test_nothing_is_known_of_a_symbol(broker: str) -> None:
    result = suggest("--symbol", "DOGEUSDT", "--bootstrap", broker)
    assert result.exit_code == 1
    assert "Kafka holds nothing yet to tell the volume of DOGEUSDT by: collect it with `ravenctl start" in result.stderr
    assert suggest("--bootstrap", broker).exit_code == 2
