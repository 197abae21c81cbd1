"""Snapshots of older layouts go on as if this version had written them; what cannot be read is refused."""

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from processors.contract import Output, StateMismatch
from processors.migrations import LAYOUT
from processors.symbol import Symbol, check_state
from ravencore.config import BarsSettings
from ravencore.records import Vpin
from ravencore.topics import BARS
from tests.processors.oracles import Print
from tests.processors.tapes import DRIVEN, PLAIN, SMALL, SYMBOL, VENUE, Event, Log, LongSteps, apply, run

WRITTEN: dict[str, Any] = json.loads((Path(__file__).parent / "layout_1.json").read_text())
"""By the code of that time, of the tape below, after so many records."""
TAPE = Log(LongSteps(5), True)


def settings_then(percentile_window: int = 250) -> BarsSettings:
    """What that code was given; other kinds and windows did not exist."""
    given = {**SMALL.model_dump(), **{kind: {} for kind in (*DRIVEN, *PLAIN)}}
    tib = {name: SMALL.tib[name].model_dump() for name in ("tib_tiny", "tib_wide")}
    vpin = {**given["vpin"], "percentile_window": percentile_window}
    return BarsSettings.model_validate({**given, "tib": tib, "vpin": vpin})


def without_percentile(out: Output) -> Output:
    """A migrated state has no values for it yet."""
    record = out.record
    return out._replace(record=replace(record, vpin_percentile=None)) if isinstance(record, Vpin) else out


def as_then(settings: BarsSettings, after: int) -> list[Event]:
    """The tape, up to `after` without the trades that are too large for VPIN: then, no fold saw them."""
    done = run(Symbol(VENUE, SYMBOL, settings), TAPE)
    unseen = {it.offset for it in done.refused if it.reason == "bucket_too_small" and it.offset < after}
    return [
        event._replace(quantity=0) if offset in unseen and isinstance(event, Print) else event
        for offset, event in enumerate(TAPE)
    ]


@pytest.mark.parametrize("after", [2, 150])
def test_layout_1_goes_on(after: int) -> None:
    then = settings_then()
    whole = run(Symbol(VENUE, SYMBOL, then), as_then(then, after))
    resumed = Symbol(VENUE, SYMBOL, then)
    check_state(1, WRITTEN["parameters"], then, VENUE, SYMBOL)
    resumed.restore(base64.b64decode(WRITTEN["payloads"][str(after)]), 1)
    rest = apply(resumed, TAPE[after:], after).outputs
    assert rest
    expected = [out for out in whole.outputs if out.offset >= after]
    assert list(map(without_percentile, rest)) == list(map(without_percentile, expected))


def test_other_parameters_are_a_mismatch_all_the_same() -> None:
    other = settings_then(percentile_window=10)
    with pytest.raises(StateMismatch, match=r"vpin/default was .*250.* and is now .*10"):
        check_state(1, WRITTEN["parameters"], other, VENUE, SYMBOL)
    with pytest.raises(StateMismatch, match="vpin/default"):
        Symbol(VENUE, SYMBOL, other).restore(base64.b64decode(WRITTEN["payloads"]["150"]), 1)


def test_layout_3_takes_it_that_what_slept_has_missed_trades() -> None:
    fewer = SMALL.model_copy(update={"tib": {}})
    whole, asleep = Symbol(VENUE, SYMBOL, SMALL), Symbol(VENUE, SYMBOL, fewer)
    trades = [event for event in TAPE if isinstance(event, Print)]
    run(whole, trades[:50])
    asleep.restore(whole.snapshot())
    admission, awake, slept, _ = msgspec.msgpack.decode(asleep.snapshot())
    assert {key.partition("/")[0] for key in slept} == {"tib"}
    older = [admission, awake, {key: one[:2] for key, one in slept.items()}, []]
    woken = Symbol(VENUE, SYMBOL, SMALL)
    woken.restore(msgspec.msgpack.encode(older), 3)
    done = apply(woken, trades[50:], 50).outputs
    first = {out.record.profile: out.record for out in reversed(done) if out.topic == BARS["tib"]}
    assert len(first) == len(SMALL.tib)
    assert all(bar.gap and bar.bar_seq > 0 for bar in first.values())


@pytest.mark.parametrize("layout", [0, LAYOUT + 1])
def test_a_layout_that_this_code_does_not_know_is_refused(layout: int) -> None:
    symbol = Symbol(VENUE, SYMBOL, SMALL)
    with pytest.raises(StateMismatch, match=f"has layout {layout}.*run the version that wrote it"):
        symbol.restore(symbol.snapshot(), layout)
