"""A lane alone: what it hands its partition, and how it goes on when transactions fail for being too large."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors import worker
from processors.transactions import Broken
from processors.worker import LEAST_RECORDS, LONG_S, TRANSACTION_RECORDS, Lane

PATIENCE_S = 30.0


class Record(NamedTuple):
    offset: int


class Log:
    """Stands in for a Partition: commits offsets, but no more than `most` at once."""

    topic, number, commit_within_s, urgent = "raven.trades", 0, 0.0, True

    def __init__(self, most: int) -> None:
        self.most = most
        self.next_offset = self.committed_offset = 0
        self.committed: list[int] = []
        self.failed = 0
        self._applied: list[int] = []

    def open(self) -> None:
        self.close()

    def close(self) -> None:
        self.next_offset, self._applied = self.committed_offset, []

    def apply(self, batches: Sequence[Sequence[Record]]) -> None:
        for batch in batches:
            self._applied += [record.offset for record in batch if record.offset >= self.next_offset]
            self.next_offset = batch[-1].offset + 1

    def commit(self) -> Counter[str]:
        if len(self._applied) > self.most:
            self.failed += 1
            raise Broken("too slow", fenced=False)
        self.committed += self._applied
        self._applied, self.committed_offset = [], self.next_offset
        return Counter(records=1)


class Host:
    """Lets a lane work in this thread."""

    waiting = 0

    async def in_thread(self, work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)

    async def owns(self, topic: str, number: int) -> bool:
        return True

    def took(self, records: int) -> None:
        self.waiting -= records

    def committed(self, counts: Counter[str], seconds: float) -> None:
        """Not counted here."""

    def trouble(self, error: Exception) -> None:
        """Expected here."""

    def fail(self, error: BaseException) -> None:
        raise error


@pytest.mark.parametrize("most", [LEAST_RECORDS, 700, TRANSACTION_RECORDS])
def test_transactions_that_are_too_large_become_smaller_until_they_succeed(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "RETRY_S", 0.0)
    log = Log(most)

    async def scenario() -> None:
        host = Host()
        lane = Lane(host, lambda: log)  # type: ignore[arg-type,return-value]
        for first in range(0, 12_000, 4_000):
            assert lane.put([Record(first + n) for n in range(4_000)]) is None  # type: ignore[misc]
        deadline = time.monotonic() + PATIENCE_S
        while log.committed_offset < 12_000:
            assert time.monotonic() < deadline, (log.committed_offset, log.failed, lane._most_records, lane._expected)
            await asyncio.sleep(0.001)
        await lane.close()
        assert host.waiting == 0

    asyncio.run(scenario())
    assert log.committed == list(range(12_000))
    assert (log.failed > 0) == (most < TRANSACTION_RECORDS)


@given(st.integers(LEAST_RECORDS, TRANSACTION_RECORDS), st.floats(0, 4 * LONG_S))
def test_slow_transactions_shrink_and_quick_ones_grow(records: int, seconds: float) -> None:
    then = worker._next_most(records, seconds)
    assert LEAST_RECORDS <= then <= TRANSACTION_RECORDS
    assert then <= records or seconds < LONG_S / 2
    assert then < records or seconds <= LONG_S or records == LEAST_RECORDS
