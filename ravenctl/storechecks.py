"""What `ravenctl doctor` sees of each store: it connects, logs in and looks; it creates nothing and writes nothing."""

import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ravencore.config import Settings
from ravencore.hiding import without_password
from ravenctl.findings import Finding, failed, ok, warning
from sinks.migrations import facts
from sinks.stores.influx_lines import MEASUREMENTS
from sinks.stores.timescale import ADVICE
from sinks.stores.timescale_dimensions import sentence

TIMEOUT_S = 3
LOW_DISK = 1 << 30


def influx(settings: Settings) -> Finding:
    """InfluxDB, or the QuestDB in its place."""
    url = settings.influx.url.rstrip("/")
    look = _questdb if settings.influx.flavour == "questdb" else _influxdb
    try:
        return look(url, settings)
    except urllib.error.HTTPError as error:
        said = error.read(200).decode(errors="replace").strip()
        todo = {
            401: "correct influx.token",
            403: "give the token of influx.token that right",
            404: "correct influx.org",
        }
        return failed(
            "influx", f"{without_password(url)} refused ({error.code} {said})", todo.get(error.code, "see its log")
        )
    except (OSError, ValueError) as error:
        return failed("influx", f"{without_password(url)} does not answer ({error})", "start it, or set influx.url")


def _questdb(url: str, _: Settings) -> Finding:
    there = {name for (name,) in _get(f"{url}/exec", {"query": "SELECT table_name FROM tables()"})["dataset"]}
    missing = [known.name for known in MEASUREMENTS.values() if known.name not in there]
    if missing:
        return warning("influx", f"QuestDB at {url} has no tables {', '.join(missing)}", "run `ravenctl setup influx`")
    return ok("influx", f"QuestDB at {url}, all {len(MEASUREMENTS)} tables are there")


def _influxdb(url: str, settings: Settings) -> Finding:
    token = settings.influx.token.get_secret_value()
    found = _get(f"{url}/api/v2/buckets", {"org": settings.influx.org, "limit": "100"}, f"Token {token}")
    there = {bucket["name"] for bucket in found["buckets"]}
    wanted = [name for name in (settings.influx.bucket, settings.influx.minute_bucket) if name]
    missing = [name for name in wanted if name not in there]
    if missing:
        return warning("influx", f"InfluxDB at {url} has no bucket {', '.join(missing)}", "run `ravenctl setup influx`")
    return ok("influx", f"InfluxDB at {url}, buckets {', '.join(wanted)} are there")


def _get(url: str, query: Mapping[str, str], authorization: str = "") -> Any:
    headers = {"Authorization": authorization} if authorization else {}
    request = urllib.request.Request(f"{url}?{urllib.parse.urlencode(query)}", headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def timescale(settings: Settings) -> Finding:
    """The mart."""
    try:
        with psycopg.connect(settings.mart.dsn.get_secret_value(), connect_timeout=TIMEOUT_S) as connection:
            connection.read_only = True
            if connection.execute("SELECT to_regclass('mart.migration')").fetchone() == (None,):
                where = f"PostgreSQL at {connection.info.host}:{connection.info.port}"
                return warning("timescale", f"{where} has no mart yet", "run `ravenctl setup timescale`")
            server, extension = facts(connection)
            return ok("timescale", f"{server}; {extension.partition(':')[0]}")
    except psycopg.Error as error:
        said = sentence(error)
        todo = next((advice for words, advice in ADVICE.items() if words in said), "see what RAVEN_MART__DSN names")
        return failed("timescale", f"the mart cannot be used: {without_password(said)}", todo)


def lake(settings: Settings) -> Finding:
    """The lake's folder; of one in an object store only that it can be listed."""
    uri = settings.lake.uri
    if "://" in uri:
        return _far_lake(uri)
    folder = Path(uri).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK):
        return failed("lake", f"{there} cannot be written to", "let this user write there, or set lake.uri")
    free = shutil.disk_usage(there).free
    if free < LOW_DISK:
        return failed("lake", f"{folder} has {free / (1 << 20):,.0f} MB of room left", "make room, or set lake.uri")
    return ok("lake", f"Parquet files in {folder}" if there == folder else f"{folder} will be made by its sink")


def _far_lake(uri: str) -> Finding:
    from pyarrow import fs  # noqa: PLC0415 - it takes its time to import

    try:
        system, root = fs.FileSystem.from_uri(uri)
        system.get_file_info(f"{root.rstrip('/')}/_staging")
    except (OSError, ValueError) as error:
        return failed("lake", f"{without_password(uri)} cannot be read ({error})", "correct lake.uri or its rights")
    return ok("lake", f"{without_password(uri)} answers; only its sink tries whether it may write")


def cache(settings: Settings) -> Finding:
    """Redis; a cache that is away harms nothing else."""
    url = settings.redis.url.get_secret_value()
    where = without_password(url)
    try:
        client = redis.Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0), protocol=2
        )
        told: Any = client.info("server")
    except (redis.RedisError, ValueError) as error:
        said = " ".join(str(error).split())
        return warning(
            "redis", f"{where} is off ({said}); all else runs", "start it, or name another in RAVEN_REDIS__URL"
        )
    name = "Valkey" if "valkey_version" in told else "Redis"
    return ok("redis", f"{name} {told.get('valkey_version') or told.get('redis_version')} at {where}")


STORES: Mapping[str, Callable[[Settings], Finding]] = {
    "influx": influx,
    "timescale": timescale,
    "lake": lake,
    "redis": cache,
}
