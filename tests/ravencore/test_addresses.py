"""Addresses: what is one, and that what is none is said without a password."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravencore.addresses import check_dsn, check_url
from ravencore.config import load
from ravencore.errors import ConfigError

REDIS = ("redis", "rediss", "unix")


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://raven:abc@127.0.0.1:5432/raven",
        "postgresql:///raven?host=/tmp",
        "postgresql://first:1,second:2/raven",
        "postgres://raven@[::1]:5432/raven?sslmode=require&options=-csearch_path%3Dmart",
        "host=localhost password='a b' user=raven",
        "dbname = raven",
        "",
    ],
)
def test_what_libpq_takes(dsn: str) -> None:
    check_dsn(dsn)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://raven:SEKRET%ZZ@127.0.0.1/raven",
        "postgresql://raven:SEK@RET@127.0.0.1/raven",
        "postgresql://raven:SEK/RET@127.0.0.1/raven",
        "postgresql://raven:12/SEK@127.0.0.1/raven",
        "postgresql://raven:SEK#RET@127.0.0.1/raven",
        "postgresql://raven:SEK:RET@127.0.0.1/raven",
        "postgresql://raven:pw@127.0.0.1:SEK/raven",
        "postgresql://raven:SEK@127.0.0.1:65536/raven",
        "host=localhost password=SEK RET",
        "SEKRET",
    ],
)
def test_what_it_does_not_take_is_said_without_quoting_it(dsn: str) -> None:
    with pytest.raises(ValueError, match="is no address: write it like postgresql://") as caught:
        check_dsn(dsn)
    assert "SEK" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://localhost:6379/0", "rediss://:pw@h/1?a=b", "unix:///tmp/redis.sock?db=0"])
def test_addresses_of_redis(url: str) -> None:
    check_url(url, REDIS, "")


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost:6379", "redis://localhost:port/0"])
def test_what_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        check_url(url, REDIS, "")


@given(st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1))
def test_any_password_can_be_written(password: str) -> None:
    check_url(f"redis://user:{quote(password, safe='')}@host:6379/0", REDIS, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAVEN_MART__DSN", "SEKRET"),
        ("RAVEN_REDIS__URL", "redis://:SEK/RET@h"),
        ("RAVEN_INFLUX__URL", "http://u:SEK@RET@h"),
        ("RAVEN_SCHEMA_REGISTRY__URL", "h:8081/SEK"),
    ],
)
def test_a_setting_that_is_none_is_an_error_that_names_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="is no address: write it like") as caught:
        load()
    assert name.removeprefix("RAVEN_").replace("__", ".").lower() in str(caught.value)
    assert "SEK" not in str(caught.value)
