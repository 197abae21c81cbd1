"""A broker that goes away while an operator waits."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ravenctl.local.broker import Broker
from ravenctl.shell import UNAVAILABLE

pytestmark = pytest.mark.stack
SERVICE = Path(__file__).with_name("small_service.py")


def test_a_start_says_that_kafka_went_away_and_that_the_demand_stands(tmp_path: Path) -> None:
    with Broker() as broker:
        env = {**os.environ, "RAVEN_KAFKA__BOOTSTRAP": broker.bootstrap}
        collector = subprocess.Popen([sys.executable, "-P", str(SERVICE), "collector", str(tmp_path)], env=env)
        start = subprocess.Popen(
            [sys.executable, "-m", "ravenctl", "start", "--symbol", "BTCUSDT", "--timeout", "5m"],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with collector, start:
            try:
                assert start.stdout is not None
                assert "demanded by" in start.stdout.readline()
                # The small collector has nothing to do with demands: it is heard, and waited for in vain.
                assert "collector: it has not taken the demand yet" in start.stdout.readline()
                began = time.monotonic()
                broker.kill()
                _, error = start.communicate(timeout=60)
            finally:
                collector.kill()
                start.kill()
    assert start.returncode == UNAVAILABLE, error
    assert f"Kafka at {broker.bootstrap} has brought nothing for" in error
    assert "the demand stands" in error
    assert len(error.splitlines()) == 1
    assert time.monotonic() - began < 100
