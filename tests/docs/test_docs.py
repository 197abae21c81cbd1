"""The documents say what the code does: settings, topics, ids, commands, links and examples are held against it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ravencore.codec import Codec, load_schema
from ravencore.config import KafkaSettings
from ravencore.decimals import ONE
from ravencore.kafka import ensure_topics, producer
from ravencore.records import Bar, market_key
from ravencore.topics import BARS, TOPICS
from ravenctl.local.broker import Broker

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def test_the_generated_pages_say_what_the_code_says() -> None:
    check = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"], check=False, capture_output=True, text=True
    )
    assert (check.returncode, check.stderr) == (0, "")


def test_every_setting_and_option_is_explained() -> None:
    tables = re.findall(r"^\| `.+?` \| (.*) \|$", page("configuration.md") + page("commands.md"), re.M)
    assert [row for row in tables if "None" in row.split(" | ")[-1] or not row.strip(" |")] == []


def test_every_topic_is_documented() -> None:
    documented = re.findall(r"^\| `(raven\.[a-z_.]+)` \|", page("wire.md"), re.M)
    assert documented == [topic.name for topic in TOPICS]


def test_every_pinned_id_is_documented() -> None:
    pins = json.loads((ROOT / "schemas" / "pins.json").read_text())
    rows = [f"| {number} | {load_schema(pin['file'])['name']} | [{pin['file']}]" for number, pin in pins.items()]
    text = page("wire.md")
    assert [row for row in rows if row not in text] == []


def test_every_command_shows_an_example() -> None:
    sections = page("commands.md").split("\n## ")[1:]
    assert [section.splitlines()[0] for section in sections if "Example" not in section] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.stack
def test_the_ten_line_consumer_reads_bars(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", page("subscribing.md"), re.S)
    assert len(code.split("\n")) - code.count("\n\n") - 1 == 10
    with Broker() as broker:
        settings = KafkaSettings(bootstrap=broker.bootstrap)
        ensure_topics(settings)
        bar = a_bar("BTCUSDT")
        client = producer(settings)
        client.produce(BARS["tib"], Codec().encode(bar), market_key(bar))
        assert client.flush(30) == 0
        script = tmp_path / "consumer.py"
        script.write_text(code.replace("localhost:9092", broker.bootstrap))
        assert first_line(script) == "BINANCE_SPOT BTCUSDT tib_small 0 1.500000000000000000 7.0\n"


def first_line(script: Path) -> str:
    """The first line that a program prints; it is ended then."""
    with subprocess.Popen([sys.executable, "-u", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as reader:
        try:
            assert reader.stdout is not None
            return reader.stdout.readline()
        finally:
            reader.kill()


def a_bar(symbol: str) -> Bar:
    return Bar(
        venue="BINANCE_SPOT",
        symbol=symbol,
        kind="tib",
        profile="tib_small",
        bar_seq=0,
        open_time=1_723_161_254_000_000,
        close_time=1_723_161_255_000_000,
        first_trade_id="1",
        last_trade_id="9",
        open=ONE,
        high=2 * ONE,
        low=ONE,
        close=3 * ONE // 2,
        volume=ONE,
        quote_volume=ONE,
        buy_volume=ONE,
        ticks=9,
        buy_ticks=8,
        theta=7.0,
        threshold=None,
        expected_ticks=None,
        warmup=True,
        gap=False,
    )
