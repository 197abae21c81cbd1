"""The registry: every file under stores/ has its line, or is a part of one that has: `<store>_<part>.py`."""

from pathlib import Path

import sinks.stores
from sinks.registry import STORES


def test_every_file_under_stores_is_registered() -> None:
    """A part of a large store is `store_part.py`."""
    files = {path.stem.partition("_")[0] for path in Path(sinks.stores.__path__[0]).glob("[!_]*.py")}
    assert files == {made.__module__.rpartition(".")[2] for made in STORES.values()}
