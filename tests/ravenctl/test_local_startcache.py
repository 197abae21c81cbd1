"""Start-up caches of Java programs: made by the first run, used by the next, and never in the way."""

import subprocess
from pathlib import Path

import pytest

from ravenctl.local import jars
from ravenctl.local.progress import QUIET
from ravenctl.local.startcache import StartCache, start_cache

pytestmark = pytest.mark.stack


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of caches, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "raven"


def jar(folder: Path, content: str) -> list[str]:
    (folder / "one.jar").write_text(content)
    return [str(folder / "one.jar")]


def test_the_second_run_starts_from_what_the_first_has_left(caches: Path) -> None:
    kafka = [str(path) for path in jars.classpath("kafka", QUIET)]
    cache = start_cache("kafka", kafka)
    assert cache.use() == []

    def run(*flags: str) -> None:
        program = ["-cp", ":".join(kafka), "kafka.tools.StorageTool", "random-uuid"]
        subprocess.run(jars.java(*flags, *program[:2]) + program[2:], check=True, capture_output=True)

    run(*cache.use_or_make())
    cache.keep()
    assert list(caches.iterdir()) == [cache.path]
    again = start_cache("kafka", kafka)
    assert again.use() == again.use_or_make() == [f"-XX:AOTCache={cache.path}"]
    run(*again.use(), "-XX:AOTMode=on")  # which fails where the cache cannot be used


def test_other_jars_have_another_cache_and_the_older_goes(caches: Path, tmp_path: Path) -> None:
    old = start_cache("kafka", jar(tmp_path, "old"))
    new = start_cache("kafka", jar(tmp_path, "newer"))
    other = start_cache("questdb", jar(tmp_path, "newer"))
    for cache in (old, new, other):
        made(cache)
    assert sorted(caches.iterdir()) == sorted([new.path, other.path])


def made(cache: StartCache) -> None:
    cache.use_or_make()
    cache.fresh.write_text("classes")
    cache.keep()


def test_a_run_that_made_none_leaves_the_cache_as_it_is(caches: Path, tmp_path: Path) -> None:
    cache = start_cache("kafka", jar(tmp_path, "a"))
    made(cache)
    start_cache("kafka", jar(tmp_path, "a")).keep()
    assert cache.path.read_text() == "classes"


def test_without_a_folder_for_it_there_is_no_cache(caches: Path, tmp_path: Path) -> None:
    caches.write_text("a file is in the way")
    assert start_cache("kafka", jar(tmp_path, "a")).use_or_make() == []
