"""The lake in an object store with S3's API: collected where RAVEN_TESTS_S3 names one, as s3://bucket?scheme=http&...

Its bucket must be there, and AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY say who writes to it.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from pyarrow import fs

from ravencore.topics import TRADES
from sinks.lake_layout import RESTORING
from tests.sinks.test_lake import BAD, a_lake, a_read, read_of

RECORDS, BATCH = 40, 7
SYMBOLS = ("BTC/USD", "ÄTH x", "100%")
REFUSED = 9

LIVES = """
import os, signal, sys
from sinks.stores.lake_files import Files
from tests.sinks.test_lake_s3 import fill
left = int(sys.argv[2])
def mortal(whole):
    def call(self, *rest):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, *rest)
    return call
for name in ("write_rows", "write_text", "move", "delete"):
    setattr(Files, name, mortal(getattr(Files, name)))
fill(sys.argv[1])
"""


@pytest.fixture
def uri() -> str:
    """A folder in the bucket that nobody has used."""
    parts = urlsplit(os.environ["RAVEN_TESTS_S3"])
    return parts._replace(path=f"{parts.path.rstrip('/')}/{time.time_ns()}").geturl()


def fill(uri: str) -> None:
    """Write what the lake has not got of the topic, as the sink would."""
    store = a_lake(uri)
    store.setup()
    at = store.resume(TRADES, 0)
    records = [a_read(offset, SYMBOLS[offset % len(SYMBOLS)]) for offset in range(RECORDS)]
    records[REFUSED] = read_of(REFUSED, BAD)
    for first in range(at, RECORDS, BATCH):
        store.write(records[first : first + BATCH])
    store.close()


def rows(uri: str) -> pa.Table:
    system, root = fs.FileSystem.from_uri(uri)
    return ds.dataset(f"{root}/v1/trade", filesystem=system, partitioning="hive").to_table()


def test_killed_again_and_again_the_lake_is_the_topic(uri: str) -> None:
    for life in itertools.count(1):
        # Each lives an operation longer, so that they die at different steps.
        code = subprocess.run([sys.executable, "-c", LIVES, uri, str(3 + life)], check=False).returncode
        if code == 0:
            break
        assert code == -9
    store = a_lake(uri)
    assert store.resume(TRADES, 0) == RECORDS
    for _ in range(2):
        assert store.restore([a_read(REFUSED, SYMBOLS[REFUSED % len(SYMBOLS)])]) == ([], [])
    store.close()
    found = rows(uri).sort_by("kafka_offset").to_pylist()
    assert [row["kafka_offset"] for row in found] == list(range(RECORDS))
    assert [row["symbol"] for row in found] == [SYMBOLS[offset % len(SYMBOLS)] for offset in range(RECORDS)]
    system, root = fs.FileSystem.from_uri(uri)
    for folder in ("_staging", RESTORING):
        left = system.get_file_info(fs.FileSelector(f"{root}/{folder}", recursive=True, allow_not_found=True))
        assert not [info.path for info in left if info.type == fs.FileType.File]
