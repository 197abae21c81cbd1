"""The servers of the local stack take work as soon as `up` returns."""

from __future__ import annotations

import re
import urllib.request

import psycopg
import pytest
import redis
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from ravenctl.local.state import Endpoints

pytestmark = pytest.mark.stack


def test_kafka_creates_topics_at_once(stack: Endpoints) -> None:
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    for future in admin.create_topics([NewTopic("ready", 6, 1)]).values():
        future.result(10)
    assert len(admin.list_topics("ready", timeout=10).topics["ready"].partitions) == 6


def test_kafka_invents_no_topics(stack: Endpoints) -> None:
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    assert admin.list_topics("misspelt", timeout=10).topics["misspelt"].error is not None
    assert "misspelt" not in admin.list_topics(timeout=10).topics


def test_questdb_takes_influx_line_protocol(stack: Endpoints) -> None:
    line = b"local_test,symbol=BTCUSDT price=1.5 1700000000000000000\n"
    request = urllib.request.Request(f"{stack.questdb_url}/api/v2/write?bucket=b&org=o", data=line)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 204


def test_postgres_has_the_database_raven(stack: Endpoints) -> None:
    with psycopg.connect(stack.postgres_dsn) as connection:
        assert connection.execute("SELECT current_database(), current_user").fetchone() == ("raven", "raven")


def test_redis_wants_its_password(stack: Endpoints) -> None:
    with redis.Redis.from_url(stack.redis_url) as client:
        assert client.set("local_test", "1", ex=60)
    with (
        redis.Redis.from_url(re.sub(":[^:]*@", ":guessed@", stack.redis_url)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()
