"""Redis as a hot cache: the newest value of every series, under a key that says which.

A value is JSON: the record's fields by their names on the wire, decimals as text, times in microseconds, and first of
all `order`, 48 hexadecimal digits that grow with the record's time, its number and its offset. What is there is
replaced only where the new value's `order` is greater; a script in Redis compares and writes in one step, so that holds
for replays, restarts and several processes.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ravencore.config import RedisSettings, Settings
from ravencore.errors import ConfigError
from ravencore.records import RECORD_OF, Record
from ravencore.service import codec
from ravencore.topics import BARS, IV_SURFACE, QUOTES, SPOT_MID, STATUS, VPIN
from sinks.contract import (
    Bad,
    Batching,
    GroupPosition,
    Outcome,
    Read,
    StoreUnavailable,
)
from sinks.reading import Entry, Tables, entries
from sinks.stores.cache_values import (
    PREFIX,
    SERIES,
    Latest,
    Order,
    coalesce,
    encoded,
    health_fields,
    keep,
    leading,
    window_fields,
    window_id,
)

HEALTH = PREFIX + "health"
CHANNEL = PREFIX + "updates"
FILLED = PREFIX + "filled"
"""Set by whoever finds it missing, and then writes all it knows: Redis was emptied."""
TIMEOUT_S = 5.0
ADVICE = {
    "maxmemory": "raise its maxmemory, or let it evict (maxmemory-policy allkeys-lru)",
    "read only": "name the primary in RAVEN_REDIS__URL",
    "permission": "let its user run EVAL and INFO and write md:v1:*",
    "ACL failure": "let its user run EVAL and INFO and write md:v1:*",
}
"""What to do, by words that Redis's answer has: from within a script it has no other mark before Redis 7."""
KEYS_A_CALL = 500
"""A script that runs holds up everybody else; so many keys take it about a millisecond."""

ORDER_ENDS = len('{"order":"') + 48
SET_NEWER = f"""
local changed = 0
for n, key in ipairs(KEYS) do
  local value = ARGV[n + 2]
  if redis.call('GETRANGE', key, 0, {ORDER_ENDS - 1}) < string.sub(value, 1, {ORDER_ENDS}) then
    redis.call('SET', key, value, 'EX', ARGV[1])
    redis.call('PUBLISH', ARGV[2], key)
    changed = changed + 1
  end
end
return changed
"""
"""KEYS: keys; ARGV: seconds they live, channel, a value for each."""
SET_HEALTH = f"""
local changed = 0
for n = 3, #ARGV, 2 do
  local old = redis.call('HGET', KEYS[1], ARGV[n]) or ''
  if string.sub(old, 1, {ORDER_ENDS}) < string.sub(ARGV[n + 1], 1, {ORDER_ENDS}) then
    redis.call('HSET', KEYS[1], ARGV[n], ARGV[n + 1])
    changed = changed + 1
  end
end
if changed > 0 then
  local newest, times = 0, {{}}
  local all = redis.call('HGETALL', KEYS[1])
  for n = 1, #all, 2 do
    times[all[n]] = tonumber(string.sub(all[n + 1], 11, 26), 16)
    newest = math.max(newest, times[all[n]])
  end
  newest = math.min(newest, redis.call('TIME')[1] * 1000000)
  for instance, time in pairs(times) do
    if time < newest - ARGV[1] * 1000000 then redis.call('HDEL', KEYS[1], instance) end
  end
  redis.call('EXPIRE', KEYS[1], ARGV[1])
  redis.call('PUBLISH', ARGV[2], KEYS[1])
end
return changed
"""
"""KEYS: a hash; ARGV: seconds it lives, which is also how long an instance stays that says no more, channel, then a
field and a value by turns. A clock that is ahead of Redis's makes no other instance old."""
ADD_TO_WINDOW = """
local added = 0
for n = 3, #ARGV, 2 do
  local answer = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], ARGV[n], unpack(cjson.decode(ARGV[n + 1])))
  if type(answer) ~= 'table' then
    added = added + 1
  elseif not string.find(answer.err, 'equal or smaller', 1, true) then
    return answer
  end
end
if added > 0 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return added
"""
"""KEYS: a stream; ARGV: seconds it lives, entries it holds at least, then an id and the fields as JSON by turns, oldest
first. An id that is not above those in the stream is there already, or was."""


FEW = 50
"""Records of a kind that are decoded one by one."""


class Cache(GroupPosition):
    """The newest mids, best bids and asks, surfaces, bars, VPIN and states of services in Redis.

    At least once, and a second write changes nothing: the key is the series, and only what is newer is written. It is
    a cache: a Redis that was emptied is given again all that this process knows, and of what has piled up while it was
    away only the newest is read.
    """

    name = "redis"
    needed = False
    topics: Mapping[str, type[Record]] = {
        topic: RECORD_OF[topic] for topic in (SPOT_MID, QUOTES, IV_SURFACE, *BARS.values(), VPIN, STATUS)
    }
    wait_s = 0.0

    def __init__(self, settings: Settings) -> None:
        self._settings, self._codec = settings.redis, codec(settings)
        self._tables = Tables(self._codec)
        self.batching = Batching(tail=settings.redis.tail_records)
        self._where, self._client = _client(settings.redis)
        self._facts: list[str] = []
        self._newest: dict[str, tuple[Order, Entry]] = {}
        self._emptied = False

    def setup(self) -> None:
        """See that Redis answers and may be written to. Raises StoreUnavailable."""
        with _translated(self._where):
            self._client.ping()
            self._client.eval(SET_NEWER, 0, self._settings.ttl_s, CHANNEL)
            told: Any = self._client.info("server")
        name = "Valkey" if "valkey_version" in told else "Redis"
        version = told.get("valkey_version") or told.get("redis_version")
        self._facts = [f"{name} {version} at {self._where}; keys live {self._settings.ttl_s} s unless renewed"]

    def facts(self) -> list[str]:
        """Which server it is."""
        return self._facts

    def write(self, batch: Sequence[Read]) -> Outcome:
        """Write what of the batch is newest, in one pass. Raises Unavailable."""
        found, unreadable = self._decoded(batch)
        latest = coalesce(found, self._settings.window)
        for key, (order, entry) in latest.values.items():
            keep(self._newest, key, order, entry)
        with _translated(self._where):
            self._send(latest)
            if self._emptied:
                self._send(Latest(self._newest, {}, {}, []))
                self._emptied = False
        return Outcome(unreadable + latest.refused, [])

    def _decoded(self, batch: Sequence[Read]) -> tuple[list[Entry], list[Bad]]:
        """The records of which something is to be written, as far as columns tell."""
        by_kind: dict[type[Record], list[Read]] = defaultdict(list)
        for read in batch:
            by_kind[self.topics[read.topic]].append(read)
        wanted: list[Read] = []
        bad: list[Bad] = []
        for cls, reads in by_kind.items():
            if cls not in SERIES or len(reads) < FEW:
                wanted += reads
                continue
            made, torn = self._tables.made(cls, reads, partial(leading, cls=cls))
            wanted += chain(*made)
            bad += torn
        found, unreadable = entries(self._codec, self.topics, wanted)
        return found, bad + unreadable

    def _send(self, latest: Latest) -> None:
        ttl, window = self._settings.ttl_s, self._settings.window
        with self._client.pipeline(transaction=False) as pipe:
            pipe.set(FILLED, 1, nx=True)
            values = list(encoded(latest.values))
            for start in range(0, len(values), KEYS_A_CALL):
                some = values[start : start + KEYS_A_CALL]
                names, texts = zip(*some, strict=True)
                pipe.eval(SET_NEWER, len(some), *names, ttl, CHANNEL, *texts)
            for key, mids in latest.windows.items():
                rows = [part for mid in mids for part in (window_id(mid), window_fields(mid))]
                pipe.eval(ADD_TO_WINDOW, 1, key, ttl, window, *rows)
            if latest.health:
                pipe.eval(SET_HEALTH, 1, HEALTH, ttl, CHANNEL, *health_fields(latest.health))
            # Errors raised by `execute` itself hold the whole script.
            answers = pipe.execute(raise_on_error=False)
        self._emptied |= answers[0] is True
        for answer in answers:
            if isinstance(answer, redis.RedisError):
                raise answer

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _client(settings: RedisSettings) -> tuple[str, redis.Redis]:
    """What its address is called where others read it, and the client; raises ConfigError."""
    url = settings.url.get_secret_value()
    try:
        parts = urlsplit(url)
        where = f"{parts.hostname or ''}:{parts.port or 6379}{parts.path}" if parts.hostname else parts.path
        client = redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            client_name="raven-sink-redis",
        )
    except ValueError as error:
        raise ConfigError(f"RAVEN_REDIS__URL is no address, write redis://:password@host:6379/0: {error}") from None
    return where, client


@contextlib.contextmanager
def _translated(where: str) -> Iterator[None]:
    """StoreUnavailable for whatever keeps Redis from taking a batch, with what to do."""
    try:
        yield
    except redis.RedisError as error:
        said = " ".join(str(error).split())
        raise StoreUnavailable(f"Redis is off, {where}: {said}: {_advice(error)}") from None


def _advice(error: redis.RedisError) -> str:
    match error:
        case redis.AuthenticationError() | redis.exceptions.AuthenticationWrongNumberOfArgsError():
            return "correct the user and password in RAVEN_REDIS__URL"
        case redis.ConnectionError() | redis.TimeoutError():
            return "start it, or name another in RAVEN_REDIS__URL; nothing else waits for it"
    return next((advice for words, advice in ADVICE.items() if words in str(error)), "see what RAVEN_REDIS__URL names")
