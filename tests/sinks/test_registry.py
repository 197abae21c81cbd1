"""The registry: every file under stores/ has its line."""

from pathlib import Path

import sinks.stores
from sinks.registry import STORES


def test_every_file_under_stores_is_registered() -> None:
    files = {path.stem for path in Path(sinks.stores.__path__[0]).glob("*.py")} - {"__init__"}
    assert files == set(STORES) == {made.__module__.rpartition(".")[2] for made in STORES.values()}
