"""The documents say what the code does: settings, topics, ids, commands, links and examples are held against it."""

import contextlib
import json
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel, SecretStr

from ravencore.codec import Codec, load_schema
from ravencore.config import KafkaSettings, Settings
from ravencore.decimals import ONE
from ravencore.kafka import ensure_topics, producer
from ravencore.records import Bar, market_key
from ravencore.topics import BARS_TIB, TOPICS
from ravenctl.cli import app
from ravenctl.local.state import Endpoints

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def settings_table(model: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """Markdown rows `| setting | default | meaning |` of every setting."""
    rows = []
    for name, info in model.model_fields.items():
        path = f"{prefix}{name}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            rows += settings_table(info.annotation, f"{path}.")
        else:
            rows.append(f"| `{path}` | {shown(info.get_default(call_default_factory=True))} | {info.description} |")
    return rows


def shown(default: Any) -> str:
    if isinstance(default, SecretStr):
        return "(secret)"
    if isinstance(default, dict) and any(isinstance(value, BaseModel) for value in default.values()):
        default = {name: value.model_dump() for name, value in default.items()}
    return f"`{json.dumps(default)}`"


def test_every_setting_is_documented_as_it_is() -> None:
    table = [line for line in page("configuration.md").splitlines() if line.startswith("| `")]
    assert table == settings_table(), "paste into docs/configuration.md:\n" + "\n".join(settings_table())


def test_every_topic_is_documented() -> None:
    documented = re.findall(r"^\| `(raven\.[a-z_.]+)` \|", page("wire.md"), re.M)
    assert documented == [topic.name for topic in TOPICS]


def test_every_pinned_id_is_documented() -> None:
    pins = json.loads((ROOT / "schemas" / "pins.json").read_text())
    rows = [f"| {number} | {load_schema(pin['file'])['name']} | [{pin['file']}]" for number, pin in pins.items()]
    text = page("wire.md")
    assert [row for row in rows if row not in text] == []


def commands(group: Any, prefix: str) -> list[str]:
    found = []
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        path = f"{prefix} {name}"
        found += commands(command, path) if hasattr(command, "commands") else [path]
    return found


def test_every_command_is_documented_and_says_an_example() -> None:
    text = page("commands.md")
    group = typer.main.get_command(app)
    missing = [path for path in commands(group, "ravenctl") if f"## {path}\n" not in text]
    assert missing == []


def test_no_command_is_documented_that_is_not_there() -> None:
    documented = re.findall(r"^## (ravenctl .+)$", page("commands.md"), re.M)
    assert sorted(documented) == sorted(commands(typer.main.get_command(app), "ravenctl"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.stack
def test_the_ten_line_consumer_reads_bars(stack: Endpoints, tmp_path: Path) -> None:
    settings = KafkaSettings(bootstrap=stack.kafka_bootstrap)
    ensure_topics(settings)
    symbol = uuid.uuid4().hex.upper()
    bar = a_bar(symbol)
    client = producer(settings)
    client.produce(BARS_TIB, Codec().encode(bar), market_key(bar))
    assert client.flush(30) == 0
    (code,) = re.findall(r"```python\n(.*?)```", page("subscribing.md"), re.S)
    assert len(code.splitlines()) <= 12
    script = tmp_path / "consumer.py"
    script.write_text(code.replace("localhost:9092", stack.kafka_bootstrap).replace('"mine"', f'"{symbol}"'))
    with subprocess.Popen([sys.executable, "-u", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as reader:
        try:
            assert reader.stdout is not None
            deadline = time.monotonic() + 60
            line = next(line for line in reader.stdout if symbol in line or time.monotonic() > deadline)
        finally:
            with contextlib.suppress(ProcessLookupError):
                reader.kill()
    assert line.split() == [
        "BINANCE_SPOT",
        symbol,
        "tib_small",
        "0",
        *line.split()[4:-2],
        "1.500000000000000000",
        "7.0",
    ]


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
