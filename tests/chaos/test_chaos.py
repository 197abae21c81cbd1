"""A minute of every fault on every feed, through a real collector and a real broker, and the verdict on it."""

from collections import Counter
from pathlib import Path

import pytest

from ravenctl.local.broker import Broker
from tests.chaos.market import Plan, run
from tests.chaos.verdict import judge

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

KINDS = {"gap", "duplicate", "reorder", "garbage", "cut", "stall", "mute", "close", "limit"}


def test_all_that_was_issued_is_accounted_for(tmp_path: Path) -> None:
    with Broker() as broker:
        found = run(Plan(seed=11, duration_s=60.0), broker.bootstrap, tmp_path, lambda _sight: None)
    findings = judge(found)
    assert not findings, "\n".join(map(str, findings))
    kinds = Counter(fault.kind for fault in found.faults)
    assert len(KINDS & kinds.keys()) >= len(KINDS) - 2, f"a minute met only {dict(kinds)}"
