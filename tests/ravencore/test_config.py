"""Settings: what wins over what, and errors that say what to write instead."""

import os
import re
from pathlib import Path

import pytest

from ravencore.config import OTHER_VARIABLES, Settings, load
from ravencore.errors import ConfigError

ROOT = Path(__file__).parents[2]
ROOMS = ("ravencore", "producers", "processors", "sinks", "simulator", "ravenctl", "tests", "benchmarks")


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("RAVEN_") or name == "RUN_MODE"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def write(path: Path, bootstrap: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'[kafka]\nbootstrap = "{bootstrap}"\n')


def test_defaults() -> None:
    settings = load()
    assert settings.kafka.partitions == 6
    assert settings.bars.tib["tib_small"].initial_size == 100
    assert settings.bars.tib["tib_large"].initial_size == 500
    assert settings.bars.vpin.window == 50


def test_each_level_wins_over_the_one_below(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(clean / "home/.config/raven/dev.toml", "home:1")
    assert load().kafka.bootstrap == "home:1"
    write(clean / "dev.toml", "mode:1")
    assert load().kafka.bootstrap == "mode:1"
    write(clean / "named.toml", "named:1")
    monkeypatch.setenv("RAVEN_CONFIG_FILE", "named.toml")
    assert load().kafka.bootstrap == "named:1"
    write(clean / "local.toml", "local:1")
    assert load().kafka.bootstrap == "local:1"
    monkeypatch.setenv("RAVEN_KAFKA__BOOTSTRAP", "env:1")
    assert load().kafka.bootstrap == "env:1"


def test_run_mode_chooses_the_file(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(clean / "prod.toml", "prod:1")
    monkeypatch.setenv("RUN_MODE", "prod")
    assert load().kafka.bootstrap == "prod:1"


def test_levels_merge_key_by_key(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(clean / "dev.toml", "mode:1")
    monkeypatch.setenv("RAVEN_KAFKA__PARTITIONS", "12")
    assert (load().kafka.bootstrap, load().kafka.partitions) == ("mode:1", 12)


def test_per_symbol_maps_come_from_files_and_environment(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVEN_BARS__VPIN__BUCKET_VOLUMES", '{"BINANCE_SPOT:BTCUSDT": "250000"}')
    assert load().bars.vpin.bucket_volumes == {"BINANCE_SPOT:BTCUSDT": "250000"}


def test_an_unknown_key_is_an_error_with_the_nearest_right_name(clean: Path) -> None:
    (clean / "local.toml").write_text('[kafka]\nbootstraps = "a:1"\n')
    with pytest.raises(ConfigError, match=r"kafka\.bootstraps is unknown: did you mean kafka\.bootstrap\?"):
        load()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[kafkaa]\nbootstrap = "a:1"\n', r"kafkaa is unknown: did you mean kafka\?"),
        ("[bars.tib.mine]\ninital_size = 5\n", r"bars\.tib\.mine\.inital_size .* bars\.tib\.\*\.initial_size\?"),
        ("[mart.retention]\nbar = '90d'\n", r"mart\.retention\.bar .* mart\.retention\.bars\?"),
    ],
)
def test_so_is_one_at_any_depth(text: str, said: str, clean: Path) -> None:
    (clean / "local.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RAVEN_KAFKAA__BOOTSTRAP", r"RAVEN_KAFKAA__BOOTSTRAP .* did you mean RAVEN_KAFKA__BOOTSTRAP\?"),
        ("RAVEN_KAFKA__BOOTSTRAPP", r"kafka\.bootstrapp is unknown: did you mean kafka\.bootstrap\?"),
        ("raven_kafkaa__bootstrap", r"RAVEN_KAFKAA__BOOTSTRAP .* did you mean RAVEN_KAFKA__BOOTSTRAP\?"),
        ("RAVEN_CONFIGFILE", r"RAVEN_CONFIGFILE .* did you mean RAVEN_CONFIG_FILE\?"),
        ("RAVEN_KAFKA_BOOTSTRAP", r"RAVEN_KAFKA_BOOTSTRAP .* did you mean RAVEN_KAFKA__BOOTSTRAP\?"),
    ],
)
def test_so_is_an_unknown_variable(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hush:1")
    with pytest.raises(ConfigError, match=said) as caught:
        load()
    assert "hush" not in str(caught.value)


def test_all_that_is_wrong_is_said_at_once(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clean / "local.toml").write_text('[kafka]\nbootstraps = "a:1"\n')
    monkeypatch.setenv("RAVEN_KAFKAA__BOOTSTRAP", "a:1")
    monkeypatch.setenv("RAVEN_KAFKA__PARTITIONS", "many")
    with pytest.raises(ConfigError) as caught:
        load()
    assert len(str(caught.value).splitlines()) == 3


def test_every_variable_that_the_code_knows_is_known() -> None:
    """A setting, or one that means something else."""
    code = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    names = {name for path in code for name in re.findall(r"\bRAVEN_[A-Z_]*[A-Z]\b", path.read_text())}
    sections = {f"RAVEN_{name.upper()}" for name in Settings.model_fields}
    strange = {name for name in names if name.partition("__")[0] not in sections} - set(OTHER_VARIABLES)
    assert strange <= {"RAVEN_KAFKAA__BOOTSTRAP", "RAVEN_CONFIGFILE", "RAVEN_KAFKA_BOOTSTRAP"}


def test_a_wrong_value_names_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVEN_KAFKA__PARTITIONS", "many")
    with pytest.raises(ConfigError, match=r"kafka\.partitions"):
        load()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RAVEN_ROUTING__VENUES", r"routing\.venues: .* RAVEN_ROUTING__VENUES as JSON, like \["),
        ("RAVEN_MIDS__EXPECTED", r"mids\.expected: .* RAVEN_MIDS__EXPECTED as JSON, like \{"),
        ("RAVEN_KAFKA", r"setting kafka: .* RAVEN_KAFKA as JSON, like \{"),
    ],
)
def test_a_list_or_a_map_that_is_no_json_is_told_with_its_variable(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "KRAKEN{")
    monkeypatch.setenv("RAVEN_ENGINE__STALL_S", "long")
    with pytest.raises(ConfigError, match=said) as caught:
        load()
    assert "engine.stall_s" in str(caught.value)


def test_a_missing_named_file_and_a_torn_file_are_errors(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clean / "local.toml").write_text("[kafka\n")
    with pytest.raises(ConfigError, match=r"local\.toml is no TOML: .*line 1"):
        load()
    monkeypatch.setenv("RAVEN_CONFIG_FILE", "absent.toml")
    with pytest.raises(ConfigError, match=r"absent\.toml, which is no file"):
        load()


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVEN_INFLUX__TOKEN", "hush")
    monkeypatch.setenv("RAVEN_MART__DSN", "postgresql://u:hush@h/d")
    assert "hush" not in repr(Settings())
