"""Every record is what a slow and plain reading of bars.md gives, bit for bit."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravencore.config import BarsSettings, DrivenBarProfile, PlainBarProfile, VpinSettings
from ravencore.topics import BARS, VPIN
from tests.processors.oracles import Print
from tests.processors.tapes import (
    SMALL,
    Event,
    assert_same_as_oracle,
    read_csv,
    read_frames,
    settings_strategy,
    tapes,
)


@settings(max_examples=20, deadline=None)
@given(settings_strategy(), tapes(), st.lists(st.integers(0, 300), max_size=4))
def test_made_tapes(chosen: BarsSettings, events: list[Event], cuts: Sequence[int]) -> None:
    assert_same_as_oracle(chosen, events, cuts)


RECORDINGS: list[tuple[str, Callable[[Path], list[Print]], str]] = [
    ("ms_btcusdt_trades_20260216.csv.zst", read_csv, "250000"),
    ("ltcusdt_trades_20250621.csv.zst", read_csv, "40000"),
    ("btcusdt_trades_20210108.csv.zst", read_csv, "10000"),
    ("hft_btcusdt_20240808.frames.zst", read_frames, "100000"),
    ("hft_ethusdt_20240808.frames.zst", read_frames, "10000"),
    ("hft_btcusdt_20230405.frames.zst", read_frames, "31415.92"),
]


@pytest.mark.parametrize(("file", "read", "volume"), RECORDINGS)
def test_recordings(recordings: Path, file: str, read: Callable[[Path], list[Print]], volume: str) -> None:
    trades = read(recordings / "binance_spot" / file)[:20_000]
    chosen = BarsSettings(
        vpin=VpinSettings(bucket_volume=volume),
        **{kind: {f"{kind}_100": DrivenBarProfile()} for kind in ("dib", "vrb", "drb")},
        **{
            kind: {kind: PlainBarProfile(size=size)} for kind, size in (("tick", 99), ("volume", 5), ("dollar", 50_000))
        },
    )
    done = assert_same_as_oracle(chosen, trades, range(0, len(trades), 997))
    assert {out.record.profile for out in done.outputs} >= {"1s", "tib_small", "tib_large", "default"}
    assert {out.topic for out in done.outputs} == {VPIN, *BARS.values()}
    assert done.counts["trades"] == len(trades)


def test_the_made_tapes_reach_every_case() -> None:
    """The strategy is worth its name: between them, a few hundred tapes hold every verdict and kind of record."""
    seen: set[str] = set()

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(tapes(counting=True))
    def gather(events: list[Event]) -> None:
        done = assert_same_as_oracle(SMALL, events)
        seen.update(name for name, count in done.counts.items() if count)
        seen.update(refused.reason for refused in done.refused)
        seen.update(out.topic for out in done.outputs)
        seen.update("gap" for out in done.outputs if out.record.gap)

    gather()
    assert seen == {
        *("trades", "duplicates", "late_trades", "late_repairs", "holes", "gap"),
        *("bad_value", "bucket_too_small", "raven.vpin", *BARS.values()),
    }
