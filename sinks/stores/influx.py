"""InfluxDB 2, or QuestDB which takes the same writes: the client; `influx_lines` says what points are, `influx_setup`
what must be there.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial

import urllib3
from influxdb_client import InfluxDBClient, WriteApi, WritePrecision
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

from ravencore.config import Settings
from ravencore.records import (
    RECORD_OF,
    Kline,
    Record,
)
from ravencore.service import codec
from sinks.contract import (
    REFUSED,
    Bad,
    Batching,
    GroupPosition,
    Outcome,
    Read,
    Refused,
    StoreUnavailable,
    keep_good,
)
from sinks.reading import Tables, by_topic
from sinks.stores.influx_lines import MEASUREMENTS, Places, Points, newest, points
from sinks.stores.influx_setup import TIMEOUT_MS, ensure, message, questdb_rows

APPLY_CHECK_S = 1.0
ANSWER_CHARACTERS = 500
REQUEST_POINTS = 5_000
"""What a request holds at most, as InfluxDB likes it best.

https://docs.influxdata.com/influxdb/v2/write-data/best-practices/optimize-writes/
"""

_DROPPED = re.compile(r"partial write:.*dropped=(\d+)", re.DOTALL)


class Influx(GroupPosition):
    """All that is collected of the market, in InfluxDB 2 or QuestDB.

    At least once, and a second write changes nothing: the key is the series and the nanosecond (`influx_lines`). A
    write counts once the server has answered it: InfluxDB then has it in its write-ahead log, QuestDB too; QuestDB
    shows it a moment later, and if its writer is stuck the store says so and counts as away.
    """

    name = "influx"
    needed = True
    topics: Mapping[str, type[Record]] = {topic: cls for topic, cls in RECORD_OF.items() if cls in MEASUREMENTS}
    wait_s = 0.0
    batching = Batching(records=20_000)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.influx
        self._url = settings.influx.url.rstrip("/")
        token = settings.influx.token.get_secret_value()
        self._client = InfluxDBClient(self._url, token=token, org=settings.influx.org, timeout=TIMEOUT_MS)
        self._writes: WriteApi = self._client.write_api(write_options=SYNCHRONOUS)
        self._tables = Tables(codec(settings), heads=True)
        self._facts: list[str] = []
        self._sender = ThreadPoolExecutor(1, "influx")
        self._checked = 0.0

    def setup(self) -> None:
        """See that the server answers, and create what is missing. Raises StoreUnavailable, ConfigError."""
        self._facts = ensure(self._settings)

    def facts(self) -> list[str]:
        """Which server it is, and what was created there."""
        return [f"{self._settings.flavour} at {self._url}", *self._facts]

    def write(self, batch: Sequence[Read]) -> Outcome:
        """Write the points of what was read, a few thousand in a request.

        While the server is busy with some, the next ones are encoded. Raises Unavailable.
        """
        places, bad, sent = Places(), [], []
        try:
            for cls, reads in self._portions(batch):
                made, unreadable = self._tables.made(cls, reads, partial(points, cls))
                bad += unreadable
                for some, without in made:
                    rows, met = (newest(some), []) if cls is Kline else places.take(some)
                    bad += without + met
                    sent.append((some, self._sender.submit(keep_good, rows, partial(self._post, some))))
            for some, answer in sent:
                bad += [Bad(some.reads[row], REFUSED, said) for row, said in answer.result()]
        finally:
            for _, answer in sent:
                answer.cancel()
            wait([answer for _, answer in sent])
        self._see_applied()
        return Outcome(sorted(bad, key=lambda one: one.read[:3]), [])

    def _portions(self, batch: Sequence[Read]) -> Iterator[tuple[type[Record], Sequence[Read]]]:
        for topic, reads in by_topic(batch).items():
            for first in range(0, len(reads), REQUEST_POINTS):
                yield self.topics[topic], reads[first : first + REQUEST_POINTS]

    def close(self) -> None:
        """Close the connection."""
        self._sender.shutdown()
        self._writes.close()
        self._client.close()

    def _post(self, made: Points, rows: Sequence[int]) -> None:
        body = made.body(rows)
        try:
            self._writes.write(self._settings.bucket, self._settings.org, body, WritePrecision.NS)
        except ApiException as error:
            raise _translated(self._url, error, len(rows)) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreUnavailable(f"{self._url} does not answer: {error}") from None

    def _see_applied(self) -> None:
        """Raise StoreUnavailable when QuestDB takes writes but has stopped applying them to a table."""
        if self._settings.flavour != "questdb" or time.monotonic() - self._checked < APPLY_CHECK_S:
            return
        stuck = questdb_rows(self._url, "SELECT name, errorMessage FROM wal_tables() WHERE suspended")
        if stuck:
            table, message = stuck[0]
            raise StoreUnavailable(
                f"QuestDB at {self._url} no longer applies writes to {table} ({message}): "
                f"see its log, then `ALTER TABLE {table} RESUME WAL`"
            )
        self._checked = time.monotonic()


def _translated(url: str, error: ApiException, rows: int) -> StoreUnavailable | Refused:
    """What a refused write means: 400, 413 and 422 speak of the lines; anything else of the server or its settings.

    https://docs.influxdata.com/influxdb/v2/write-data/troubleshoot/. Seen from QuestDB: 400; from InfluxDB 2.7.12: 400,
    and 422 with `partial write: ... dropped=N`, which keeps the other lines; writing them again is harmless.
    """
    said = message(error)
    answer = f"{error.status} {said[:ANSWER_CHARACTERS]}"
    if error.status in {400, 413, 422}:
        dropped = _DROPPED.search(said)
        return Refused(answer, every_row=dropped is not None and int(dropped[1]) == rows)
    retry_after = str((error.headers or {}).get("Retry-After", ""))
    return StoreUnavailable(f"{url} answered {answer}", float(retry_after) if retry_after.isdigit() else 0.0)
