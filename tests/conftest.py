"""What tests of every room share: one real stack per session, and the recordings."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ravenctl.local.stack import Stack
from ravenctl.local.state import Endpoints

# How long an example takes says what else the machine is doing, and no test depends on that.
settings.register_profile("raven", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("raven")

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = {"stack": "stack", "clean": "demos", "faulty": "demos"}
"""Fixtures that are long to make, and the group of the tests that need them: `faulty` is held against `clean`."""


@pytest.fixture(scope="session")
def stack() -> Iterator[Endpoints]:
    """Real Kafka, QuestDB, PostgreSQL and Redis for the whole session, empty at its start; none of Raven's services."""
    home = Path(tempfile.mkdtemp(prefix="raven-tests-"))
    servers = Stack(home)
    try:
        yield servers.up().endpoints
    finally:
        servers.down()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of exchange recordings (RAVEN_RECORDINGS, else ../shared/data); skips where there is none."""
    folder = Path(os.environ.get("RAVEN_RECORDINGS", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}: name their folder in RAVEN_RECORDINGS")
    return folder


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that share a session's servers or demo go to one worker, and so do those of a file that starts its own.

    They take longest and mostly wait, so workers begin with them; by hand (`pytest tests/...`) fast ones come first.
    """
    for item in items:
        if group := servers_of(item):
            item.add_marker(pytest.mark.xdist_group(group))
    has_workers = hasattr(config, "workerinput")
    items.sort(key=lambda item: (servers_of(item) is None) == has_workers)


def servers_of(item: pytest.Item) -> str | None:
    """Whose servers a test needs; None if it needs none."""
    for shared, group in SHARED.items():
        if shared in getattr(item, "fixturenames", ()):
            return group
    return item.nodeid.partition("::")[0] if item.get_closest_marker("stack") else None


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With RAVEN_NO_SKIPS, which CI sets where the recordings are, a skipped test fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    strict = "RAVEN_NO_SKIPS" in os.environ and exitstatus == pytest.ExitCode.OK
    if strict and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("RAVEN_NO_SKIPS is set, and tests were skipped: see the summary", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
