"""Settings: what wins over what, and errors that say what to write instead."""

import os
from pathlib import Path

import pytest

from ravencore.config import Settings, load
from ravencore.errors import ConfigError


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


def test_a_wrong_value_names_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVEN_KAFKA__PARTITIONS", "many")
    with pytest.raises(ConfigError, match=r"kafka\.partitions"):
        load()


def test_a_missing_named_file_and_a_torn_file_are_errors(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clean / "local.toml").write_text("[kafka\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load()
    monkeypatch.setenv("RAVEN_CONFIG_FILE", "absent.toml")
    with pytest.raises(ConfigError, match=r"absent\.toml, which is no file"):
        load()


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVEN_INFLUX__TOKEN", "hush")
    monkeypatch.setenv("RAVEN_MART__DSN", "postgresql://u:hush@h/d")
    assert "hush" not in repr(Settings())
