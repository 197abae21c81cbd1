"""What is gathered of a run: faults as they are told, runs of ids, and what a real simulator's REST still tells."""

import json
import urllib.request
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos import gather
from tests.chaos.evidence import Evidence, Fault, Log, Name
from tests.producers.rig import Simulator

TRADES = Name("BINANCE_SPOT", "trades", "BTCUSDT")


def test_a_fault_is_taken_as_it_is_told() -> None:
    told: dict[str, Any] = {"id": "KRAKEN-7", "kind": "gap", "venue": "KRAKEN", "channel": "books", "symbol": "BTC/USD"}
    told |= {"from_ns": 1_000_000, "to_ns": 2_000_999, "ids": [5, None, 6], "lost": {}}
    assert gather.fault_of(told) == Fault("KRAKEN-7", "gap", "KRAKEN", "books", "BTC/USD", 1000, 2000, (5, 6))
    cut = gather.fault_of(told | {"channel": "", "symbol": "", "ids": [], "lost": {"trades": {"BTC/USD": [1, 2]}}})
    assert cut.taken == ((Name("KRAKEN", "trades", "BTC/USD"), (1, 2)),)


@given(st.sets(st.integers(0, 60)))
def test_runs_hold_each_number_once_and_do_not_touch(numbers: set[int]) -> None:
    found = list(gather.runs(sorted(numbers)))
    assert [number for first, last in found for number in range(first, last + 1)] == sorted(numbers)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(found))


def test_endpoints_are_those_of_the_settings() -> None:
    environment = {
        "RAVEN_VENUES__KRAKEN__REST_URL": "http://k",
        "RAVEN_VENUES__KRAKEN__WS_URL": "ws://k",
        "RAVEN_SIMULATOR_URL": "http://s",
    }
    assert gather.rest_urls(environment) == {"KRAKEN": "http://k"}


def test_rest_is_asked_for_what_is_in_no_topic(tmp_path: Path) -> None:
    options = "--synthetic --symbols BTCUSDT --duration 20s --speed max --feeds"
    simulator = Simulator(tmp_path, *options.split(), "")
    try:
        simulator.played()
        rest = gather.rest_urls(simulator.environment)
        with urllib.request.urlopen(f"{rest['BINANCE_SPOT']}/api/v3/trades?symbol=BTCUSDT&limit=9") as answer:
            newest = [trade["id"] for trade in json.load(answer)]
        issued = [(number, 0) for number in (*newest, newest[-1] + 1, newest[-1] + 2)]
        there = Log(identities=[newest[4]], received_us=[0], contents=[0])
        found = Evidence(0, 1, {TRADES: issued}, {TRADES: there}, [], [])
        assert gather.still_served(found, rest) == {TRADES: [*newest[:4], *newest[5:]]}
    finally:
        simulator.process.kill()
        simulator.process.wait()
