"""Folds switched on and off in the middle of a tape: what they make never depends on timing, only on the offsets."""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from processors.contract import Applied
from processors.registry import FOLDS
from processors.symbol import Symbol
from ravencore.config import BarsSettings
from ravencore.records import Bar
from tests.processors.oracles import ClockAt, Print
from tests.processors.tapes import (
    CENT,
    SMALL,
    START_US,
    SYMBOL,
    VENUE,
    Event,
    apply,
    bits,
    clean_tapes,
    oracle,
    settings_strategy,
    shown,
    tapes,
)
from tests.processors.test_laws import CUTS, wire

OUTPUT_OF = {kind.kind: kind.topic.removeprefix("raven.") for kind in FOLDS}
EVERYTHING = frozenset(OUTPUT_OF.values())
Switches = Mapping[int, frozenset[str]]
"""What is made from an offset on."""
OUTPUTS = st.sets(st.sampled_from(sorted(EVERYTHING))).map(frozenset)
SWITCHES = st.dictionaries(st.integers(0, 120), OUTPUTS | st.just(EVERYTHING), max_size=6)


def new(chosen: BarsSettings) -> Symbol:
    return Symbol(VENUE, SYMBOL, chosen)


def play(
    chosen: BarsSettings, events: Sequence[Event], switches: Switches, cuts: Sequence[int] = (), *, killed: bool = False
) -> tuple[Symbol, Applied]:
    """Apply a tape in batches that end at cuts and switches; with `killed` each by a new machine, from a snapshot."""
    symbol, whole = new(chosen), Applied([], [], defaultdict(int))
    bounds = sorted({0, len(events), *(at for at in (*cuts, *switches) if at < len(events))})
    for start, stop in itertools.pairwise(bounds):
        if killed:
            before, symbol = symbol, new(chosen)
            symbol.restore(before.snapshot())
            assert symbol.snapshot() == before.snapshot()
        if start in switches:
            symbol.switch(switches[start], start)
        done = apply(symbol, events[start:stop], start)
        whole.outputs.extend(done.outputs)
        whole.refused.extend(done.refused)
        for name, count in done.counts.items():
            whole.counts[name] += count
    return symbol, whole


@settings(max_examples=40)
@given(settings_strategy(), tapes(), SWITCHES, CUTS, st.booleans())
def test_every_record_is_what_the_oracle_says_however_the_tape_is_cut_and_resumed(
    chosen: BarsSettings, events: list[Event], switches: Switches, cuts: list[int], killed: bool
) -> None:
    expected = oracle(chosen)
    for offset, event in enumerate(events):
        if offset in switches:
            expected.off = {key for key in expected.streams if OUTPUT_OF[key[0]] not in switches[offset]}
        expected.feed(offset, event)
    _, done = play(chosen, events, switches, cuts, killed=killed)
    assert [(out.offset, shown(out.record)) for out in done.outputs] == [
        (offset, bits({**fields, "profile": profile, **({} if kind == "vpin" else {"kind": kind})}))
        for offset, kind, profile, fields in expected.made
    ]
    assert [(refused.offset, refused.reason) for refused in done.refused] == expected.refused


@settings(max_examples=30)
@given(settings_strategy(), tapes(), SWITCHES, CUTS)
def test_cuts_and_kills_change_neither_outputs_nor_state(
    chosen: BarsSettings, events: list[Event], switches: Switches, cuts: list[int]
) -> None:
    symbol, expected = play(chosen, events, switches)
    for killed in (False, True):
        same, done = play(chosen, events, switches, cuts, killed=killed)
        assert wire(done.outputs) == wire(expected.outputs)
        assert same.snapshot() == symbol.snapshot()


@given(tapes(), SWITCHES)
def test_bars_are_numbered_without_repeating_or_skipping(events: list[Event], switches: Switches) -> None:
    _, done = play(SMALL, events, switches)
    numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
    for out in done.outputs:
        numbers[out.topic, out.record.profile].append(out.record.bar_seq)
    assert all(found == list(range(len(found))) for found in numbers.values())


@settings(max_examples=30)
@given(tapes(), SWITCHES, st.sampled_from(sorted(EVERYTHING)))
def test_a_fold_is_not_affected_by_the_switching_of_others(events: list[Event], switches: Switches, mine: str) -> None:
    _, alone = play(SMALL, events, {})
    _, done = play(SMALL, events, {offset: outputs | {mine} for offset, outputs in switches.items()})
    assert of(mine, done) == of(mine, alone)


def of(output: str, done: Applied) -> list[Any]:
    return wire([out for out in done.outputs if out.topic == f"raven.{output}"])


@settings(max_examples=40)
@given(clean_tapes(), st.integers(0, 100), st.integers(0, 100), st.booleans())
def test_off_and_on_again_makes_the_bars_of_the_tape_without_that_stretch(
    events: list[Event], first: int, count: int, counting: bool
) -> None:
    """And the first trade after it follows a hole."""
    trades = [event for event in events if isinstance(event, Print)]
    if not counting:
        trades = [trade._replace(sequence=None) for trade in trades]
    stop = min(first + count, len(trades))
    _, done = play(SMALL, trades, {first: frozenset(), stop: EVERYTHING} if count else {})
    shorter = [(at, trade) for at, trade in enumerate(trades) if at not in range(first, stop)]
    offsets, rest = [at for at, _ in shorter], [trade for _, trade in shorter]
    if stop > first < len(rest):
        rest[first] = rest[first]._replace(after_gap=True)
    _, without = play(SMALL, [trade._replace(sequence=None) for trade in rest], {})
    assert wire(done.outputs) == wire([out._replace(offset=offsets[out.offset]) for out in without.outputs])


def prints(count: int, first: int = 1, apart_us: int = 300_000) -> list[Print]:
    return [
        Print(START_US + apart_us * n, START_US + apart_us * n, str(n), n, (1000 + n % 7) * CENT, CENT * 50, n % 3 == 0)
        for n in range(first, first + count)
    ]


def bars(done: Applied, profile: str) -> list[Bar]:
    return [out.record for out in done.outputs if out.record.profile == profile]


def test_who_was_off_while_nothing_came_has_missed_nothing() -> None:
    symbol, other = new(SMALL), new(SMALL)
    apply(symbol, prints(40))
    symbol.switch(frozenset(), 40)
    apply(symbol, [ClockAt(START_US), *prints(3, 38)], 40)  # duplicates
    symbol.switch(EVERYTHING, 44)
    done = apply(symbol, prints(40, 41), 44)
    apply(other, prints(40))
    expected = apply(other, prints(40, 41), 44)
    assert [out for out in done.outputs if not isinstance(out.record, Bar) or out.record.kind != "time"] == [
        out for out in expected.outputs if not isinstance(out.record, Bar) or out.record.kind != "time"
    ]
    assert not any(out.record.gap for out in done.outputs)


def test_a_window_that_a_clock_closes_says_that_trades_are_missing_in_it() -> None:
    symbol = new(SMALL)
    before = bars(apply(symbol, prints(10)), "1s")
    assert [bar.gap for bar in before] == [True, False, False]
    symbol.switch(EVERYTHING - {"bars.time"}, 10)
    assert not bars(apply(symbol, prints(10, 11, apart_us=290_000), 10), "1s")
    symbol.switch(EVERYTHING, 20)
    done = apply(symbol, [ClockAt(START_US + 60_000_000)], 20)
    [bar] = bars(done, "1s")
    assert (bar.bar_seq, bar.last_trade_id, bar.gap) == (3, "10", True)


def test_a_repair_that_came_while_a_fold_was_off_is_missing() -> None:
    for came in (True, False):
        symbol = new(SMALL)
        apply(symbol, [*prints(7), *prints(7, 11)])
        symbol.switch(frozenset(), 14)
        apply(symbol, prints(1, 9) if came else [], 14)
        symbol.switch(EVERYTHING, 15)
        [bar] = bars(apply(symbol, prints(7, 18), 15), "tick_7")
        assert (bar.first_trade_id, bar.gap) == ("18", came)


def test_the_open_bar_goes_on() -> None:
    symbol = new(SMALL)
    apply(symbol, prints(3))
    symbol.switch(frozenset({"vpin"}), 3)
    apply(symbol, prints(2, 4), 3)
    symbol.switch(frozenset({"bars.tick"}), 5)
    [bar] = bars(apply(symbol, prints(4, 6), 5), "tick_7")
    assert (bar.first_trade_id, bar.last_trade_id, bar.ticks, bar.gap, bar.bar_seq) == ("1", "9", 7, True, 0)


def test_what_is_off_stays_off_until_it_is_switched_on() -> None:
    """Whatever the settings lose and find again meanwhile, and over a restart."""
    symbol = new(SMALL)
    symbol.switch(frozenset({"bars.tib"}), 0)
    apply(symbol, prints(20))
    fewer = new(SMALL.model_copy(update={"tib": {}, "vib": {}}))
    fewer.restore(symbol.snapshot())
    assert not apply(fewer, prints(20, 21), 20).outputs
    again = new(SMALL)
    again.restore(fewer.snapshot())
    done = apply(again, prints(40, 41), 40)
    assert {out.topic for out in done.outputs} == {"raven.bars.tib"}
    again.switch(EVERYTHING, 80)
    assert {out.topic for out in apply(again, prints(80, 81), 80).outputs} >= {"raven.bars.vib", "raven.vpin"}


def test_switching_to_what_is_made_already_changes_nothing() -> None:
    symbol = new(SMALL)
    apply(symbol, prints(20))
    before = symbol.snapshot()
    symbol.switch(EVERYTHING | {"trades"}, 20)
    symbol.switch(frozenset(EVERYTHING), 25)
    assert symbol.snapshot() == before
