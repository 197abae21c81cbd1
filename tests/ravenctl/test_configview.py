"""`ravenctl config show`: every source over every lower one, where a value comes from, and no secrets."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from ravencore.config import Settings, load, paths
from ravencore.hiding import without_password
from ravenctl.cli import app
from ravenctl.configview import resolved
from ravenctl.shell import CONFIG, USAGE

ROOT = Path(__file__).parents[2]
HOME_FILE, MODE_FILE, NAMED_FILE, LOCAL_FILE = "home/.config/raven/dev.toml", "dev.toml", "named.toml", "local.toml"
SOURCES = ("default", HOME_FILE, MODE_FILE, NAMED_FILE, LOCAL_FILE, "environment")
"""Lowest first. Of the files that are named after the mode and the one that is named, only the highest is read."""


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("RAVEN_") or name == "RUN_MODE"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def told(*arguments: str) -> dict[str, Any]:
    done = shown(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return {one["setting"]: (one["value"], one["from"]) for one in json.loads(done.output)}


def shown(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["config", "show", *arguments])


def put(source: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a source say where Kafka is."""
    if source == "environment":
        monkeypatch.setenv("RAVEN_KAFKA__BOOTSTRAP", text)
        return
    path = folder / source
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'[kafka]\nbootstrap = "{text}"\n')
    if source == NAMED_FILE:
        monkeypatch.setenv("RAVEN_CONFIG_FILE", source)


@pytest.mark.parametrize(("lower", "higher"), list(itertools.combinations(SOURCES, 2)))
def test_each_source_wins_over_each_below_it(
    lower: str, higher: str, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in {lower, higher} - {"default"}:
        put(source, f"{source}:1", clean, monkeypatch)
    value, origin = told("kafka")["kafka.bootstrap"]
    assert value == f"{higher}:1" == load().kafka.bootstrap
    assert origin.endswith("RAVEN_KAFKA__BOOTSTRAP" if higher == "environment" else higher)


@pytest.mark.parametrize(("lower", "higher"), list(itertools.combinations(SOURCES[1:], 2)))
def test_what_a_higher_source_leaves_open_a_lower_one_says(
    lower: str, higher: str, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But of files that are named after the mode, and the one that is named, the others are not read at all."""
    put(lower, "low:1", clean, monkeypatch)
    if higher == "environment":
        monkeypatch.setenv("RAVEN_KAFKA__PARTITIONS", "12")
    else:
        put(higher, "high:1", clean, monkeypatch)
        (clean / higher).write_text("[kafka]\npartitions = 12\n")
    alternatives = {HOME_FILE, MODE_FILE, NAMED_FILE}
    found = told("kafka")
    assert found["kafka.partitions"][0] == 12
    assert found["kafka.bootstrap"][0] == ("localhost:9092" if {lower, higher} <= alternatives else "low:1")


def test_every_setting_is_told_and_each_comes_from_its_default() -> None:
    found = told()
    assert {origin for _, origin in found.values()} == {"default"}
    leaves = [path for path in paths(Settings) if "*" not in path]
    assert [path for path in leaves if not any(name == path or name.startswith(f"{path}.") for name in found)] == []


def test_the_place_within_a_profile_or_a_map_is_told(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clean / "local.toml").write_text('[bars.tib.mine]\ninitial_size = 7\n[bars.vpin.bucket_volumes]\n"KRAKEN:A" = 5\n')
    monkeypatch.setenv("RAVEN_BARS__VPIN", '{"window": 9}')
    monkeypatch.setenv("RAVEN_VENUES__KRAKEN__WS_URL", "ws://here")
    found = told()
    assert found["bars.tib.mine.initial_size"] == (7, "local.toml")
    assert found["bars.tib.mine.alpha_size"] == (0.1, "default")
    assert found['bars.vpin.bucket_volumes."KRAKEN:A"'] == ("5", "local.toml")
    assert found["bars.vpin.window"] == (9, "RAVEN_BARS__VPIN")
    assert found["venues.KRAKEN.ws_url"] == ("ws://here", "RAVEN_VENUES__KRAKEN__WS_URL")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("postgresql://raven:hush@h:5432/r", "postgresql://raven:***@h:5432/r"),
        ("redis://:hush@h:6379/0", "redis://:***@h:6379/0"),
        ("postgresql://h/r?user=u&password=hush&sslmode=x", "postgresql://h/r?user=u&password=***&sslmode=x"),
        ("s3://key:hush@bucket/raven?region=x", "s3://key:***@bucket/raven?region=x"),
        ("s3://bucket/raven?secret_key=hush", "s3://bucket/raven?secret_key=***"),
        ("https://hush@h/x", "https://***@h/x"),
        ("postgresql://raven:hu@sh/@h/r", "postgresql://raven:***@h/r"),
        ("localhost:9092", "localhost:9092"),
        ("wss://ws.kraken.com/v2", "wss://ws.kraken.com/v2"),
    ],
)
def test_a_url_is_told_without_its_password(text: str, safe: str) -> None:
    assert without_password(text) == safe


SECRET = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=6).map(lambda text: f"S{text}S")


@given(SECRET)
def test_no_secret_is_ever_told(secret: str) -> None:
    dsns = (f"postgresql://u:{secret}@h/d", f"host=h user=u password={secret}", f"postgresql://h/d?password={secret}")
    for dsn in dsns:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAVEN_MART__DSN", dsn)
            patch.setenv("RAVEN_INFLUX__TOKEN", secret)
            patch.setenv("RAVEN_SCHEMA_REGISTRY__URL", f"http://u:{secret}@h:8081")
            patch.setenv("RAVEN_VENUES__KRAKEN__OTHER_WS_URLS", json.dumps([f"wss://u:{secret}@h"]))
            found = resolved(None)
        assert secret not in json.dumps([(one.name, one.value, one.origin) for one in found])


def test_nor_one_of_a_file(clean: Path) -> None:
    (clean / "local.toml").write_text('[influx]\ntoken = "hush"\n[redis]\nurl = "redis://:hush@h:1/0"\n')
    for done in (shown(), shown("--json"), shown("redis")):
        assert done.exit_code == 0
        assert "hush" not in done.output
    assert told("influx")["influx.token"] == ("***", "local.toml")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RAVEN_ROUTING__VENUES", '["KRAKN"]', "routing.venues: KRAKN is no venue: did you mean KRAKEN?"),
        ("RAVEN_ROUTING__VENUES", '["KRAKEN:TRADE"]', "KRAKEN:TRADE is no venue: did you mean KRAKEN:TRADES?"),
        ("RAVEN_ROUTING__SYMBOL_MAP", '{"KRAKN": {}}', "routing.symbol_map: KRAKN is no venue: did you mean KRAKEN?"),
        ("RAVEN_BARS__TIME_INTERVALS", '["1min"]', "'1min' is no interval"),
        ("RAVEN_MIDS__VENUES", '["COINBSE"]', "mids.venues: COINBSE is no venue: did you mean COINBASE?"),
        ("RAVEN_BARS__VPIN__BUCKET_VOLUMES", '{"KRAKN:A": "1"}', "KRAKN is no venue: did you mean KRAKEN?"),
        ("RAVEN_MART__COMPRESS_AFTER", "7 days", "mart.compress_after: '7 days' is no age"),
        ("RAVEN_KAFKAA__BOOTSTRAP", "h:1", "RAVEN_KAFKAA__BOOTSTRAP is none of Raven's: did you mean"),
        ("RAVEN_KAFKA__BOOTSTRAPP", "h:1", "kafka.bootstrapp is unknown: did you mean kafka.bootstrap?"),
    ],
)
def test_what_only_a_room_can_judge_is_wrong_too(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    done = shown()
    assert done.exit_code == CONFIG
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("room", ["producers", "processors"])
def test_a_service_does_not_start_with_it(room: str) -> None:
    env = os.environ | {"RAVEN_ROUTING__VENUES": '["KRAKN"]', "RAVEN_MIDS__VENUES": '["KRAKN"]'}
    done = subprocess.run(
        [sys.executable, "-m", room], cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert "KRAKN is no venue: did you mean KRAKEN?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_setting_that_is_none_is_a_wrong_use() -> None:
    done = shown("kafka.bootstrp")
    assert done.exit_code == USAGE
    assert "did you mean kafka.bootstrap?" in done.stderr
