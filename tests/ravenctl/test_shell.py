"""How options are written, and what a command leaves behind when it fails: one line and an exit code."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from producers.registry import SOURCES
from ravenctl.cli import app
from ravenctl.cluster import configured, resolve
from ravenctl.demo_plan import Plan, make_plan, services
from ravenctl.shell import CONFIG, UNAVAILABLE, USAGE, WrongUse, seconds, spread

BINANCE_TRADE = (
    '{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161254003,"s":"BTCUSDT","t":1,"p":"61000.1","q":"0.5",'
    '"T":1723161254000,"m":true,"M":true}}'
)
KRAKEN_TRADE = (
    '{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","price":61000.1,"qty":0.5,'
    '"ord_type":"market","trade_id":1,"timestamp":"2024-08-08T23:54:14.000000Z"}]}'
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("90s", 90.0), ("2m", 120.0), ("1h", 3600.0), ("500ms", 0.5), ("7", 7.0), ("1.5m", 90.0), (" 3s ", 3.0)],
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "s", "3x", "-1s", "0s", "1 s", "m2", "1e3s", "two minutes"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write it like 90s"):
        seconds(text)


@pytest.mark.parametrize(
    ("args", "read"),
    [
        (["--recording", "a", "b", "--speed", "max"], ["--recording", "a", "--recording", "b", "--speed", "max"]),
        (["--recording", "a", "--recording", "b"], ["--recording", "a", "--recording", "b"]),
        (["--recording=a", "b"], ["--recording=a", "--recording", "b"]),
        (["--speed", "max", "--recording", "a"], ["--speed", "max", "--recording", "a"]),
        (["--recording", "a", "--keep", "b"], ["--recording", "a", "--keep", "b"]),
        ([], []),
    ],
)
def test_one_flag_takes_several_values(args: list[str], read: list[str]) -> None:
    assert spread(args, "--recording") == read


@given(st.lists(st.sampled_from(["--recording", "--keep", "a", "b", "--recording=c"])))
def test_spreading_adds_flags_and_nothing_else(args: list[str]) -> None:
    out = spread(args, "--recording")
    assert [arg for arg in out if arg != "--recording"] == [arg for arg in args if arg != "--recording"]
    assert spread(out, "--recording") == out


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command, by the words that name it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("name", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_every_command_has_help_with_an_example(name: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*name, "--help"])
    assert result.exit_code == 0
    assert f"Example: ravenctl {' '.join(name)}" in result.output


HEAVY = "confluent_kafka psycopg pyarrow influxdb_client redis aiohttp faust numpy"


def test_help_and_completion_import_nothing_heavy_and_ask_nobody() -> None:
    code = (
        "import sys; from ravenctl import cli, shell\n"
        f"def loaded(): return sorted(set({HEAVY.split()}) & sys.modules.keys())\n"
        "assert loaded() == [], loaded()\n"
        "for complete in [value for name, value in vars(shell).items() if name.startswith('complete_')]:\n"
        "    assert complete(''), complete\n"
        "assert loaded() == [], loaded()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("tail bars.t", {"bars.time", "bars.tib", "bars.trb", "bars.tick"}),
        ("tail raven.vp", {"raven.vpin"}),
        ("start --venue BINANCE_O", {"BINANCE_OPTIONS"}),
        ("start --venue KR", {"KRAKEN"}),
        ("start --with vp", {"vpin"}),
        ("shutdown --service sink-l", {"sink-lake"}),
        ("setup ti", {"timescale"}),
        ("config show kafka.b", {"kafka.bootstrap"}),
        ("schemas fund", {"funding"}),
        ("dlq list --topic raven.vp", {"raven.vpin"}),
    ],
)
def test_a_shell_is_offered_values(words: str, offered: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_RAVENCTL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"ravenctl {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    result = CliRunner().invoke(app, prog_name="ravenctl")
    assert set(result.output.split()) == offered


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["start", "--symbol", "BTCUSDT", "--venue", "NYSE"], "there are BINANCE_SPOT"),
        (["start", "--symbol", "BTC USDT"], "is no symbol"),
        (["start", "--symbol", "BTCUSDT", "--with", ""], "names nothing"),
        (["start", "--symbol"], "'--symbol' requires an argument: see `ravenctl"),
        (["start", "--timeout", "soon"], "is no duration"),
        (["status", "--jsn"], "--json"),
        (["strat"], "'start'"),
        (["graph", "--format", "svg"], "'mermaid'"),
        (["collect", "--coin", "BTC"], "Missing option '--quote'"),
        (["local", "nosuch"], "see `ravenctl local --help`"),
        (["--nosuch"], "No such option: --nosuch"),
        (["schemas", "trad"], "there is no record trad: did you mean trade?"),
        (["demo", "--speed", "fast"], "is no speed"),
        (["demo", "--speed", "nan"], "is no speed"),
        (["demo", "--fault", "earthquake=1"], "gap, duplicate, reorder, garbage, cut"),
        (["demo", "--live", "--synthetic"], "choose one"),
        (["demo", "--live", "--speed", "max"], "its own pace"),
        (["demo", "--recording", "no-such-file"], "there is no recording no-such-file"),
        (["demo", "--symbol", "NOSUCHCOIN"], "it has BTCUSDT"),
        (["demo", "--json", "no/such/folder/out.json"], "cannot be written"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(args: list[str], says: str) -> None:
    result = CliRunner().invoke(app, args)
    assert result.exit_code == USAGE
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_wrong_setting_is_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVEN_KAFKA__BOOTSTRAPP", "x:1")
    result = CliRunner().invoke(app, ["status"])
    assert result.exit_code == CONFIG
    assert "did you mean kafka.bootstrap" in result.stderr


def test_kafka_away_is_one_line_and_exit_code_4_at_once() -> None:
    """In a process of its own: librdkafka would write its own lines to the terminal, past Python."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        server = f"127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "ravenctl", "--bootstrap", server, "status"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == UNAVAILABLE
    assert time.monotonic() - began < 15.0
    assert done.stderr.count("\n") == 1
    assert server in done.stderr
    assert "ravenctl local up" in done.stderr


def test_a_listener_that_is_no_kafka_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        server = f"127.0.0.1:{mute.getsockname()[1]}"
        result = CliRunner().invoke(app, ["status", "--bootstrap", server])
    assert result.exit_code == UNAVAILABLE
    assert server in result.stderr


def test_the_version() -> None:
    for args in (["version"], ["--version"]):
        result = CliRunner().invoke(app, args)
        assert result.exit_code == 0
        assert result.output.startswith("raven ")


def test_which_cluster_is_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAVEN_HOME", raising=False)
    assert resolve().kafka.bootstrap == "localhost:9092"
    (tmp_path / "dev.toml").write_text('[kafka]\nbootstrap = "file:1"\n')
    assert configured(resolve()) == "file:1"
    monkeypatch.setenv("RAVEN_KAFKA__BOOTSTRAP", "environment:2")
    assert resolve().kafka.bootstrap == "environment:2"
    assert resolve("option:3").kafka.bootstrap == "option:3"


def test_a_live_demo_without_a_way_out_says_so_before_it_starts_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAVEN_VENUES__BINANCE_SPOT__WS_URL", f"ws://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("RAVEN_VENUES__BINANCE_SPOT__REST_URL", "http://127.0.0.1:1")
        result = CliRunner().invoke(app, ["demo", "--live", "--home", str(tmp_path)])
    assert result.exit_code == UNAVAILABLE
    assert "cannot be reached" in result.stderr
    assert "synthetic market" in result.stderr
    assert list(tmp_path.iterdir()) == []


# A demo's plan


def plan(**options: object) -> Plan:
    given: dict[str, object] = {"synthetic": False, "live": False, "venues": "", "speed": "1", "duration_s": None}
    recordings = options.pop("recordings", ())
    return make_plan(recordings, **{**given, "home": Path(), **options})  # type: ignore[arg-type]


def recorded(path: Path, line: str = BINANCE_TRADE) -> Path:
    path.write_text(f"1723161254000000000\t{line}\n")
    return path


def test_without_options_it_is_two_minutes_of_the_synthetic_market() -> None:
    made = plan()
    assert (made.source, made.venues, made.duration_s, made.speed) == ("synthetic", ("BINANCE_SPOT",), 120.0, "1")
    simulator = services(made)[0]
    assert simulator.argv[4:] == [
        *("--synthetic", "--venues", "BINANCE_SPOT", "--feeds", "BINANCE_SPOT"),
        *("--speed", "1", "--seed", "0", "--symbols", "BTCUSDT,ETHUSDT,SOLUSDT", "--duration", "120s"),
    ]
    assert simulator.announces
    assert not any("RAVEN_COLLECTOR__CLOCKS" in one.env for one in services(made))


def test_where_deribit_is_there_is_a_perpetual_for_its_books() -> None:
    assert plan(venues="all").symbols == ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BTCUSD")
    assert plan(venues="deribit", symbols=("ETHUSD",)).symbols == ("ETHUSD",)


def test_all_venues_are_all_that_anything_is_collected_from() -> None:
    made = plan(venues="all", symbols=("BTCUSDT", "BTC/USD"))
    assert set(made.venues) == {source.venue for source in SOURCES.values()}
    simulator, collector, *_ = services(made)
    assert simulator.argv[simulator.argv.index("--feeds") + 1].split(",") == list(SOURCES)
    # Open interest is polled of configured symbols, and only of those that there are.
    assert collector.env["RAVEN_VENUES__BINANCE_FUTURES__OPEN_INTEREST_SYMBOLS"] == '["BTCUSDT"]'


def test_some_venues_are_named_in_any_case() -> None:
    assert plan(venues="kraken, BINANCE_SPOT,kraken").venues == ("KRAKEN", "BINANCE_SPOT")
    with pytest.raises(WrongUse, match="venue NYSE is unknown"):
        plan(venues="nyse")


def test_a_recording_plays_to_its_end_and_off_pace_without_clocks(tmp_path: Path) -> None:
    files = [recorded(tmp_path / "a.frames"), recorded(tmp_path / "b.frames")]
    made = plan(recordings=[*map(str, files)], speed="max", faults="gap=2", seed=7)
    assert (made.source, made.venues, made.duration_s) == ("recording", ("BINANCE_SPOT",), None)
    simulator, *others = services(made)
    assert simulator.argv[4:7] == ["--recording", str(files[0]), str(files[1])]
    assert simulator.argv[9:] == ["--speed", "max", "--seed", "7", "--fault", "gap=2"]
    assert all(one.env["RAVEN_COLLECTOR__CLOCKS"] == "false" for one in others)


def test_recordings_say_whose_they_are(tmp_path: Path) -> None:
    files = [recorded(tmp_path / "a.frames"), recorded(tmp_path / "b.frames", KRAKEN_TRADE)]
    assert set(plan(recordings=[*map(str, files)]).venues) == {"BINANCE_SPOT", "KRAKEN"}
    forced = f"COINBASE={recorded(tmp_path / 'c.frames', 'nothing that tells')}"
    made = plan(recordings=[str(files[0]), forced])
    assert set(made.venues) == {"BINANCE_SPOT", "COINBASE"}
    assert made.recordings == (str(files[0]), forced)


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "there is no recording"), ("nothing that tells", "no frame tells its venue")]
)
def test_a_recording_that_is_none_is_refused(content: str | None, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "x.frames"
    if content is not None:
        recorded(file, content)
    with pytest.raises(WrongUse, match=problem):
        plan(recordings=[str(file)])


@pytest.mark.parametrize("option", [{"symbols": ("BTCUSDT",)}, {"venues": "all"}])
def test_a_recording_has_its_own_symbols_and_venues(option: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="has its own"):
        plan(recordings=[str(recorded(tmp_path / "a.frames"))], **option)


def test_a_symbol_that_the_synthetic_market_has_not_is_refused() -> None:
    with pytest.raises(WrongUse, match="the synthetic market has no NOSUCH"):
        plan(symbols=("BTCUSDT", "nosuch"))


def test_live_needs_no_simulator() -> None:
    assert next(one.name for one in services(plan(live=True))) == "collector"
    assert plan(live=True).symbols == ("BTCUSDT", "ETHUSDT")
    assert plan(live=True, venues="KRAKEN").sources == ["KRAKEN"]


def test_a_home_that_is_named_and_has_no_stack_is_not_some_other_kafka(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAVEN_HOME", str(tmp_path / "away"))
    result = CliRunner().invoke(app, ["stop-all"])
    assert result.exit_code == UNAVAILABLE
    assert f"nothing runs in {tmp_path / 'away'}, which RAVEN_HOME names" in result.stderr
