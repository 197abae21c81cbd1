"""One undisturbed demo that the others are held against."""

import pytest

from tests.e2e.made import HOLES, TRADES, Demo, demo, recording


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two recordings; the first has holes of its own."""
    folder = tmp_path_factory.mktemp("recordings")
    first = recording(folder / "btc.frames.zst", "BTCUSDT", TRADES, seed=1, holes=HOLES)
    second = recording(folder / "eth.frames.zst", "ETHUSDT", TRADES, seed=2)
    return [str(first), str(second)]


@pytest.fixture(scope="session")
def clean(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A run without faults."""
    return demo(tmp_path_factory.mktemp("clean"), "--recording", *files, "--speed", "max")
