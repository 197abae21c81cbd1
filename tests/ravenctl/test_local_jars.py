"""Jars are fetched once, as pinned, from a mirror that runs here on loopback."""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ravenctl.local import jars
from ravenctl.local.errors import StackError
from ravenctl.local.progress import QUIET

QUESTDB = Path("org/questdb/questdb/9.3.4/questdb-9.3.4.jar")


class Mirror(SimpleHTTPRequestHandler):
    """Serves a folder as a Maven repository; does not write to the terminal."""

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Path]:
    """The folder a mirror serves."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Mirror, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        (tmp_path / "jgo.conf").write_text(f"[repositories]\nhere = http://127.0.0.1:{server.server_port}\n")
        yield folder
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Maven, and jgo's settings beside it."""
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    monkeypatch.setenv("JGO_CONFIG_FILE", str(tmp_path / "jgo.conf"))
    return tmp_path / "m2"


def pinned(name: str) -> dict[str, str]:
    locked = tomllib.loads(jars.lock_path(name).read_text())["dependencies"]
    return {f"{jar['groupId']}:{jar['artifactId']}": jar["version"] for jar in locked}


def test_the_lock_files_hold_the_roots() -> None:
    for name, roots in jars.ROOTS.items():
        for root in roots:
            group, artifact, version = root.rstrip("!").split(":")
            assert pinned(name)[f"{group}:{artifact}"] == version


def test_kafkas_own_jars_are_of_one_version() -> None:
    own = {version for jar, version in pinned("kafka").items() if jar.startswith("org.apache.kafka:")}
    assert own == {"4.1.1"}


@pytest.mark.stack
def test_a_missing_or_torn_jar_is_fetched_and_a_whole_one_is_not(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = jars.classpath("questdb", QUIET)  # from the cache of this machine, or Maven Central
    (mirror / QUESTDB).parent.mkdir(parents=True)
    (mirror / QUESTDB).symlink_to(whole)
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    monkeypatch.setenv("JGO_CONFIG_FILE", str(tmp_path / "jgo.conf"))

    (fetched,) = jars.classpath("questdb", QUIET)
    assert fetched == tmp_path / "m2" / QUESTDB
    assert fetched.read_bytes() == whole.read_bytes()
    assert [path.name for path in fetched.parent.iterdir()] == [fetched.name]

    fetched.write_bytes(b"torn")
    assert jars.classpath("questdb", QUIET) == [fetched]
    assert fetched.stat().st_size == whole.stat().st_size

    (mirror / QUESTDB).unlink()
    assert jars.classpath("questdb", QUIET) == [fetched]


def test_another_file_under_the_same_name_is_refused(mirror: Path, cache: Path) -> None:
    (mirror / QUESTDB).parent.mkdir(parents=True)
    (mirror / QUESTDB).write_bytes(b"something else")
    with pytest.raises(StackError, match=r"questdb-9\.3\.4\.jar as fetched is not the file pinned"):
        jars.classpath("questdb", QUIET)
    assert not (cache / QUESTDB).exists()


def test_without_a_way_out_one_line_says_what_to_do(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jars, "PAUSES_SECONDS", (0.0, 0.0))
    (tmp_path / "jgo.conf").write_text("[repositories]\nclosed = http://127.0.0.1:1\n")
    with pytest.raises(StackError, match=r"cannot fetch questdb from Maven Central .*RAVEN_KAFKA__BOOTSTRAP"):
        jars.classpath("questdb", QUIET)
