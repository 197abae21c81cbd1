"""One partition at work: batches wait in a lane, and its task applies and commits them in threads."""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from processors.intake import Fetched
from processors.transactions import TRANSACTION_TIMEOUT_MS, Broken, Partition
from ravencore.errors import Unavailable

T = TypeVar("T")
Batch = Sequence[Fetched]

TRANSACTION_RECORDS, LEAST_RECORDS = 10_000, 20
"""Most records of one transaction when all is well, and when outputs are so many that transactions take too long."""
LONG_S = TRANSACTION_TIMEOUT_MS / 1000 / 4
"""A commit that takes longer is too near to the time at which the broker gives a transaction up."""
RETRY_S = 0.5
HANGS_S = 15.0
"""A blocking call that takes longer never returns: librdkafka 2.16 does that to transactions, whatever the time-out,
when a broker goes down at the wrong moment (https://github.com/confluentinc/librdkafka/issues/5456)."""

OPENS_S = 60.0


class Host(Protocol):
    """What a lane needs of the engine."""

    waiting: int
    """Records that wait in all lanes together."""

    async def in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Do blocking work in a thread."""

    async def owns(self, topic: str, number: int) -> bool:
        """Whether the broker says that this worker has the partition."""

    def took(self, records: int) -> None:
        """Records no longer wait."""

    def committed(self, counts: Counter[str], seconds: float) -> None:
        """A transaction was committed."""

    def trouble(self, error: Broken | Unavailable) -> None:
        """Something is away; the lane keeps trying."""

    def fail(self, error: BaseException) -> None:
        """Nothing can be done about this: the worker ends."""


class Lane:
    """Batches of one partition on their way into transactions."""

    def __init__(self, host: Host, new_partition: Callable[[], Partition]) -> None:
        self.partition = new_partition()
        self.restored = False
        """At work; False while it is being opened, for the first time or anew."""
        self.settled = asyncio.Event()
        """Opened once, or closed before that: Faust may seek."""
        self._host, self._new_partition = host, new_partition
        self._waiting: deque[Batch] = deque()
        self._applied: deque[Batch] = deque()
        """Batches in the folds that are not committed: they are folded again when the transaction fails."""
        self._applied_at = 0.0
        self._most_records = TRANSACTION_RECORDS
        self._arrived = asyncio.Event()
        self._closing = False
        self._expected = 0
        self._hole = (-1, -1)
        self._task = asyncio.create_task(self._run())

    def put(self, batch: Batch) -> int | None:
        """Take a batch in, or give the offset to read again from because records before the batch have not come.

        A hole in the offsets is believed when it is there again after that: then the log itself has it.
        """
        first, last = batch[0].offset, batch[-1].offset
        if first > self._expected and self._hole != (self._expected, first):
            self._hole = self._expected, first
            return self._expected
        if last >= self._expected:
            self._expected = last + 1
            self._waiting.append(batch)
            self._host.waiting += len(batch)
            self._arrived.set()
        return None

    @property
    def idle(self) -> bool:
        """All that came is committed."""
        return self.restored and self._expected == self.partition.committed_offset

    async def close(self) -> None:
        """Finish the transaction at hand and commit what is applied; what waits is the next owner's."""
        self._closing = True
        self._arrived.set()
        await asyncio.wait([self._task])
        self._host.took(sum(map(len, self._waiting)))
        self._waiting.clear()

    async def _run(self) -> None:
        try:
            while not self._closing:
                try:
                    await self._open()
                    await self._work()
                except (Broken, Unavailable) as error:
                    await self._recover(error)
        except Exception as error:  # a task has no caller to raise to
            self._host.fail(error)
        finally:
            self.restored = False
            self.settled.set()
            await self._close_partition()

    async def _calls_kafka(self, work: Callable[[], T], seconds: float = HANGS_S) -> T:
        """Work of the partition in a thread; raises Broken when it hangs, and the thread is left behind."""
        try:
            return await asyncio.wait_for(self._host.in_thread(work), seconds)
        except TimeoutError:
            number, self.partition = self.partition.number, self._new_partition()
            raise Broken(f"a call to Kafka for partition {number} hangs since {seconds:.0f} s", fenced=False) from None

    async def _close_partition(self) -> None:
        with contextlib.suppress(Broken):
            await self._calls_kafka(self.partition.close)

    async def _open(self) -> None:
        await self._calls_kafka(self.partition.open, OPENS_S)
        if not self._waiting:
            self._expected = self.partition.next_offset
        self.restored = True
        self.settled.set()

    async def _recover(self, error: Broken | Unavailable) -> None:
        self.restored = False
        self._host.trouble(error)
        self._host.waiting += sum(map(len, self._applied))
        self._waiting.extendleft(reversed(self._applied))
        self._applied.clear()
        self._most_records = max(self._most_records // 4, LEAST_RECORDS)
        await self._pause()
        if isinstance(error, Broken) and error.fenced:
            while not (self._closing or await self._host.owns(self.partition.topic, self.partition.number)):
                await self._pause()

    async def _pause(self) -> None:
        # Shorter than a lane that is closed may keep a rebalance waiting.
        await asyncio.sleep(RETRY_S)

    async def _work(self) -> None:
        while not self._closing:
            await self._arrival()
            batches = self._take()
            if await self._host.in_thread(self._apply, batches):
                await self._commit()
        await self._commit()

    async def _arrival(self) -> None:
        """Until records wait, or those that are applied have waited long enough."""
        if self._waiting:
            return
        self._arrived.clear()
        left = self._applied_at + self.partition.commit_within_s - time.monotonic() if self._applied else None
        try:
            await asyncio.wait_for(self._arrived.wait(), left)
        except TimeoutError:
            return

    def _take(self) -> list[Batch]:
        if not self._applied:
            self._applied_at = time.monotonic()
        batches: list[Batch] = []
        room = self._most_records - sum(map(len, self._applied))
        while self._waiting and room > 0 and not self._closing:
            batch = self._waiting.popleft()
            if len(batch) > room:
                self._waiting.appendleft(batch[room:])
            batches.append(batch[:room])
            room -= len(batches[-1])
        self._applied += batches
        self._host.took(sum(map(len, batches)))
        return batches

    def _apply(self, batches: list[Batch]) -> bool:
        if batches:
            self.partition.apply(batches)
        late = time.monotonic() - self._applied_at >= self.partition.commit_within_s
        return late or self.partition.urgent or sum(map(len, self._applied)) >= self._most_records

    async def _commit(self) -> None:
        began = time.monotonic()
        counts = await self._calls_kafka(self.partition.commit)
        self._applied.clear()
        if counts:
            seconds = time.monotonic() - began
            self._most_records = _next_most(self._most_records, seconds)
            self._host.committed(counts, seconds)


def _next_most(records: int, seconds: float) -> int:
    """How many records the next transaction may have after one of so many took so long."""
    if seconds > LONG_S:
        return max(records // 2, LEAST_RECORDS)
    return min(records * 2, TRANSACTION_RECORDS) if seconds < LONG_S / 2 else records
