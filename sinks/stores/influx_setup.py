"""What must be there before points are written: in InfluxDB 2 buckets and tasks, in a QuestDB tables.

API: https://docs.influxdata.com/influxdb/v2/api/
Tasks: https://docs.influxdata.com/influxdb/v2/process-data/get-started/
QuestDB: https://questdb.com/docs/reference/api/rest/
"""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import urllib3
from influxdb_client import BucketRetentionRules, InfluxDBClient, TaskCreateRequest, TaskUpdateRequest
from influxdb_client.rest import ApiException

from ravencore.config import InfluxSettings
from ravencore.errors import ConfigError
from sinks.contract import StoreUnavailable
from sinks.stores.influx_lines import MEASUREMENTS, Measurement

TIMEOUT_MS = 10_000
DAY_S = 86_400
QUESTDB_TYPES = {"trade_id": "VARCHAR", "trade_count": "LONG", "next_funding_time": "LONG"}
"""Of the fields that are no doubles."""

TRADES_TASK = """\
import "date"

option task = {{name: "raven trades to 1m", every: 1m, offset: 10s}}

stop = date.truncate(t: now(), unit: 1m)
trades = from(bucket: {bucket})
    |> range(start: date.sub(d: 10m, from: stop), stop: stop)
    |> filter(fn: (r) => r._measurement == "trades")
    |> group(columns: ["symbol", "exchange", "_field"])
    |> drop(columns: ["side"])
    |> sort(columns: ["_time"])
prices = trades |> filter(fn: (r) => r._field == "price")
quantities = trades |> filter(fn: (r) => r._field == "quantity")
minutes = (tables=<-, fn, field) => tables
    |> aggregateWindow(every: 1m, fn: fn, createEmpty: false, timeSrc: "_start")
    |> toFloat()
    |> keep(columns: ["_time", "_value", "symbol", "exchange"])
    |> set(key: "_field", value: field)

union(tables: [
    prices |> minutes(fn: first, field: "open"),
    prices |> minutes(fn: max, field: "high"),
    prices |> minutes(fn: min, field: "low"),
    prices |> minutes(fn: last, field: "close"),
    quantities |> minutes(fn: sum, field: "volume"),
    quantities |> minutes(fn: count, field: "trade_count"),
])
    |> set(key: "_measurement", value: "trades")
    |> to(bucket: {minutes})
"""
QUOTES_TASK = """\
import "date"

option task = {{name: "raven quotes to 1m", every: 1m, offset: 10s}}

stop = date.truncate(t: now(), unit: 1m)
from(bucket: {bucket})
    |> range(start: date.sub(d: 10m, from: stop), stop: stop)
    |> filter(fn: (r) => r._measurement == "quote")
    |> aggregateWindow(every: 1m, fn: last, createEmpty: false, timeSrc: "_start")
    |> to(bucket: {minutes})
"""
TASKS = {"raven trades to 1m": TRADES_TASK, "raven quotes to 1m": QUOTES_TASK}
"""By name. Each minute they make the last ten anew, which changes nothing but what came late."""


def ensure(settings: InfluxSettings) -> list[str]:
    """Create what is missing, and say what was done; safe to repeat. Raises StoreUnavailable, ConfigError."""
    return _ensure_tables(settings.url) if settings.flavour == "questdb" else _ensure_buckets(settings)


# QuestDB


def columns(known: Measurement) -> dict[str, str]:
    """Columns of a measurement's table and their types."""
    tags = [known.symbol, "exchange", *([known.tag] if known.tag else [])]
    return dict.fromkeys(tags, "SYMBOL") | {name: QUESTDB_TYPES.get(name, "DOUBLE") for name in known.fields}


def create_table(known: Measurement) -> str:
    """The statement; a table that a first write would make knows no nanoseconds and no keys."""
    found = columns(known)
    keys = ", ".join(["timestamp", *(name for name, kind in found.items() if kind == "SYMBOL")])
    typed = ", ".join(f"{name} {kind}" for name, kind in found.items())
    return (
        f"CREATE TABLE IF NOT EXISTS {known.name} ({typed}, timestamp TIMESTAMP_NS) TIMESTAMP(timestamp) "
        f"PARTITION BY DAY WAL DEDUP UPSERT KEYS({keys})"
    )


def _ensure_tables(url: str) -> list[str]:
    there = {name for (name,) in questdb_rows(url, "SELECT table_name FROM tables()")}
    said = []
    for known in MEASUREMENTS.values():
        if known.name not in there:
            questdb_rows(url, create_table(known))
            said.append(f"QuestDB: table {known.name} created")
            continue
        present = {row[0] for row in questdb_rows(url, f"SELECT \"column\" FROM table_columns('{known.name}')")}
        for name, kind in columns(known).items():
            if name not in present:
                questdb_rows(url, f"ALTER TABLE {known.name} ADD COLUMN IF NOT EXISTS {name} {kind}")
                said.append(f"QuestDB: column {name} added to table {known.name}")
    return said or [f"QuestDB: all {len(MEASUREMENTS)} tables are there"]


def questdb_rows(url: str, sql: str) -> list[list[Any]]:
    """Rows of a statement through QuestDB's REST API; raises StoreUnavailable."""
    url = url.rstrip("/")
    address = f"{url}/exec?{urllib.parse.urlencode({'query': sql})}"
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_MS / 1000) as answer:
            rows: list[list[Any]] = json.load(answer).get("dataset", [])
            return rows
    except urllib.error.HTTPError as error:
        raise StoreUnavailable(f"QuestDB at {url} refused `{sql}`: {error.read().decode()}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise StoreUnavailable(f"QuestDB at {url} does not answer: {error}") from None


# InfluxDB 2


def _ensure_buckets(settings: InfluxSettings) -> list[str]:
    url, token = settings.url.rstrip("/"), settings.token.get_secret_value()
    try:
        with InfluxDBClient(url, token=token, org=settings.org, timeout=TIMEOUT_MS) as client:
            return list(_ensured(client, settings))
    except ApiException as error:
        raise _explained(url, settings, error) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise StoreUnavailable(f"InfluxDB at {url} does not answer: {error}: start it or set influx.url") from None


def _ensured(client: InfluxDBClient, settings: InfluxSettings) -> Iterator[str]:
    found = client.organizations_api().find_organizations(org=settings.org)
    if not found:
        raise _lacks_a_right(settings, "it sees no organisation")
    org_id = found[0].id
    created = list(_buckets(client, org_id, settings))
    if settings.minute_bucket:
        created += _tasks(client, org_id, settings)
    yield from created or [f"InfluxDB: bucket {settings.bucket} and what belongs to it are there"]


def _buckets(client: InfluxDBClient, org_id: str, settings: InfluxSettings) -> Iterator[str]:
    wanted = {settings.bucket: settings.retention_days, settings.minute_bucket: settings.minute_retention_days}
    buckets = client.buckets_api()
    there = {bucket.name for bucket in buckets.find_buckets_iter(org_id=org_id)}
    for name, days in wanted.items():
        if name and name not in there:
            rules = [BucketRetentionRules(type="expire", every_seconds=days * DAY_S)] if days else []
            buckets.create_bucket(bucket_name=name, org_id=org_id, retention_rules=rules)
            yield f"InfluxDB: bucket {name} created, points are kept {f'{days} days' if days else 'for ever'}"


def _tasks(client: InfluxDBClient, org_id: str, settings: InfluxSettings) -> Iterator[str]:
    tasks = client.tasks_api()
    for name, template in TASKS.items():
        # Flux writes strings as JSON does: https://docs.influxdata.com/flux/v0/spec/lexical-elements/#string-literals
        flux = template.format(bucket=json.dumps(settings.bucket), minutes=json.dumps(settings.minute_bucket))
        there = tasks.find_tasks(name=name, org_id=org_id)
        if not there:
            tasks.create_task(task_create_request=TaskCreateRequest(org_id=org_id, flux=flux, status="active"))
            yield f"InfluxDB: task `{name}` created, into bucket {settings.minute_bucket}"
        elif there[0].flux != flux:
            tasks.update_task_request(there[0].id, TaskUpdateRequest(flux=flux))
            yield f"InfluxDB: task `{name}` brought up to date"


def _lacks_a_right(settings: InfluxSettings, said: str) -> ConfigError:
    return ConfigError(
        f"InfluxDB at {settings.url} knows the token of influx.token, which lacks a right ({said}): it has to read "
        f"organisations and to read and write buckets and tasks of {settings.org}; or let one that may run "
        "`ravenctl setup`, and set influx.minute_bucket to nothing"
    )


def _explained(url: str, settings: InfluxSettings, error: ApiException) -> ConfigError | StoreUnavailable:
    said = message(error)
    if error.status == 403 or said.endswith((" is unauthorized", ": unauthorized")):
        return _lacks_a_right(settings, said)
    if error.status == 401:
        return ConfigError(f"InfluxDB at {url} does not know the token of influx.token ({said}): correct it")
    if error.status == 404:
        return ConfigError(f"InfluxDB at {url} has no organisation {settings.org} ({said}): correct influx.org")
    return StoreUnavailable(f"InfluxDB at {url} answered {error.status} {said}")


def message(error: ApiException) -> str:
    """What InfluxDB says, without the JSON around it, on one line."""
    body = error.body or b""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
    try:
        said = str(json.loads(text).get("message", text))
    except (ValueError, AttributeError):
        said = text or str(error.reason)
    return " ".join(said.split())
