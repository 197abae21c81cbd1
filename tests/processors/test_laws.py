"""The laws of bars.md section 7, over every fold that is registered, through Symbol and the bytes of its snapshots."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from processors.admission import Admission
from processors.contract import Output
from processors.registry import FOLDS
from processors.symbol import Symbol
from ravencore.codec import Codec
from ravencore.config import BarsSettings
from ravencore.decimals import ONE
from ravencore.records import Bar, Vpin
from tests.processors.oracles import Print
from tests.processors.tapes import (
    DRIVEN,
    PLAIN,
    SMALL,
    SYMBOL,
    VENUE,
    Event,
    apply,
    clean_tapes,
    run,
    settings_strategy,
    tapes,
)

CODEC = Codec()
CUTS = st.lists(st.integers(0, 300), max_size=6)


def new(chosen: BarsSettings = SMALL) -> Symbol:
    return Symbol(VENUE, SYMBOL, chosen)


def wire(outputs: Sequence[Output]) -> list[tuple[int, int, str, int, bytes]]:
    """Outputs as they would be published: byte for byte."""
    return [(out.offset, out.order, out.topic, out.received_time, CODEC.encode(out.record)) for out in outputs]


@settings(max_examples=15, deadline=None)
@given(settings_strategy(), tapes(), st.integers(0, 300))
def test_1_and_5_a_snapshot_taken_anywhere_goes_on_exactly_there(
    chosen: BarsSettings, events: list[Event], k: int
) -> None:
    whole, first, second = new(chosen), new(chosen), new(chosen)
    expected = run(whole, events)
    before = run(first, events[:k])
    second.restore(first.snapshot())
    assert second.snapshot() == first.snapshot()
    after = apply(second, events[k:], min(k, len(events)))
    assert wire([*before.outputs, *after.outputs]) == wire(expected.outputs)
    assert [*before.refused, *after.refused] == expected.refused
    assert second.snapshot() == whole.snapshot()


@settings(max_examples=25, deadline=None)
@given(settings_strategy(), tapes(), CUTS)
def test_2_the_cut_into_batches_changes_nothing(chosen: BarsSettings, events: list[Event], cuts: Sequence[int]) -> None:
    one, many, single = new(chosen), new(chosen), new(chosen)
    expected = run(one, events)
    for symbol, cut in ((many, cuts), (single, range(len(events)))):
        done = run(symbol, events, cut)
        assert wire(done.outputs) == wire(expected.outputs)
        assert (done.refused, done.counts) == (expected.refused, expected.counts)
        assert symbol.snapshot() == one.snapshot()


@settings(max_examples=50, deadline=None)
@given(settings_strategy(), clean_tapes(), CUTS)
def test_2_the_fast_path_is_the_careful_path(chosen: BarsSettings, events: list[Event], cuts: Sequence[int]) -> None:
    fast, careful = new(chosen), new(chosen)
    expected = run(fast, events, cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Admission, "take_all", lambda *_: False)
        assert wire(run(careful, events, cuts).outputs) == wire(expected.outputs)
    assert careful.snapshot() == fast.snapshot()


Volumes = tuple[int, int, int, int]
"""Base volume, quote volume, bought volume (in the fold's unit) and ticks."""


def bar_volumes(bars: Sequence[Bar | Vpin]) -> Volumes:
    own = [bar for bar in bars if isinstance(bar, Bar)]
    quote = sum(bar.quote_volume for bar in own)
    return sum(bar.volume for bar in own), quote, sum(bar.buy_volume for bar in own), sum(bar.ticks for bar in own)


def time_rest(fold: Any) -> Volumes:
    windows = list(fold._windows.values())
    return _rest_of(windows)


def bar_rest(fold: Any) -> Volumes:
    return _rest_of([fold._bar] if fold._bar else [])


def _rest_of(bars: Sequence[Any]) -> Volumes:
    quote = sum(bar.notional for bar in bars) // ONE
    return sum(bar.volume for bar in bars), quote, sum(bar.buy_volume for bar in bars), sum(bar.ticks for bar in bars)


def bar_total(trades: Sequence[Print], chosen: BarsSettings) -> Volumes:
    quote = sum(trade.price * trade.quantity for trade in trades) // ONE
    bought = sum(trade.quantity for trade in trades if trade.buy)
    return sum(trade.quantity for trade in trades), quote, bought, len(trades)


def vpin_volumes(buckets: Sequence[Bar | Vpin]) -> Volumes:
    return sum(bucket.volume for bucket in buckets), 0, sum(bucket.buy_volume for bucket in buckets), 0


def vpin_rest(fold: Any) -> Volumes:
    bucket = fold._bucket
    return (bucket.filled // fold._scale, 0, bucket.bought // fold._scale, 0) if bucket else (0, 0, 0, 0)


def vpin_total(trades: Sequence[Print], chosen: BarsSettings) -> Volumes:
    by_quote = chosen.vpin.unit == "quote"
    amounts = [trade.price * trade.quantity // ONE if by_quote else trade.quantity for trade in trades]
    return sum(amounts), 0, sum(amount for amount, trade in zip(amounts, trades, strict=True) if trade.buy), 0


Measures = tuple[
    Callable[[Sequence[Bar | Vpin]], Volumes],
    Callable[[Any], Volumes],
    Callable[[Sequence[Print], BarsSettings], Volumes],
]
CONSERVED: dict[str, Measures] = {
    "time": (bar_volumes, time_rest, bar_total),
    **dict.fromkeys((*DRIVEN, *PLAIN), (bar_volumes, bar_rest, bar_total)),
    "vpin": (vpin_volumes, vpin_rest, vpin_total),
}
"""By kind: what records hold, what the open rest holds, what the tape holds. A new fold needs its line here."""


@settings(max_examples=50, deadline=None)
@given(settings_strategy(), clean_tapes(), CUTS)
def test_3_bars_and_the_open_rest_add_up_to_the_tape(
    chosen: BarsSettings, events: list[Event], cuts: Sequence[int]
) -> None:
    trades = [event for event in events if isinstance(event, Print)]
    trades.sort(key=lambda trade: trade.event_time)  # so that none is late
    trades = [trade._replace(sequence=number, trade_id=str(number)) for number, trade in enumerate(trades)]
    symbol = new(chosen)
    done = run(symbol, trades, cuts)
    for order, profile, fold in symbol._awake:
        in_records, in_rest, in_tape = CONSERVED[profile.kind]
        closed = in_records([out.record for out in done.outputs if out.order == order])
        total = tuple(map(sum, zip(closed, in_rest(fold), strict=True)))
        assert total == in_tape(trades, chosen), profile.key


def test_3_covers_every_kind() -> None:
    assert set(CONSERVED) == {kind.kind for kind in FOLDS}


@settings(max_examples=50, deadline=None)
@given(clean_tapes(), st.lists(st.tuples(st.integers(0, 299), st.integers(0, 30)), max_size=20), st.booleans())
def test_4_duplicates_change_nothing(events: list[Event], again: list[tuple[int, int]], counting: bool) -> None:
    trades = [event for event in events if isinstance(event, Print)]
    if not counting:
        trades = [trade._replace(sequence=None) for trade in trades]
    log = list(enumerate(trades))
    for which, later in again:
        if which < len(trades):
            place = next(at for at, (number, _) in enumerate(log) if number == which)
            log.insert(place + 1 + later, (-1, trades[which]))
    clean, doubled = new(), new()
    expected = run(clean, trades)
    done = apply(doubled, [trade for _, trade in log])
    renumbered = [out._replace(offset=log[out.offset][0]) for out in done.outputs]
    assert wire(renumbered) == wire(expected.outputs)
    assert done.counts == {**expected.counts, "duplicates": len(log) - len(trades)}
    assert doubled.snapshot() == clean.snapshot()


@settings(max_examples=50, deadline=None)
@given(clean_tapes(), st.integers(1, 250), st.integers(1, 10**6))
def test_4_a_hole_flags_the_bar_of_the_trade_after_it(events: list[Event], after: int, width: int) -> None:
    trades = [event for event in events if isinstance(event, Print)]
    moved = [
        trade._replace(sequence=(trade.sequence or 0) + width) if place >= after else trade
        for place, trade in enumerate(trades)
    ]
    whole, holed = run(new(), trades), run(new(), moved)
    assert holed.counts["holes"] == (len(trades) > after)
    assert [_without_gap(out) for out in holed.outputs] == [_without_gap(out) for out in whole.outputs]
    flagged = [new_ for new_, old in zip(holed.outputs, whole.outputs, strict=True) if new_.record.gap > old.record.gap]
    assert all(out.offset >= after for out in flagged)
    if len(trades) > after:
        hit = trades[after]
        for out in holed.outputs:
            bar = out.record
            if isinstance(bar, Bar) and bar.kind == "time":
                inside = bar.open_time <= hit.event_time < bar.close_time and out.offset > after
            else:
                inside = int(bar.first_trade_id or 0) <= int(hit.trade_id) <= int(bar.last_trade_id or 0)
            assert bar.gap or not inside


def _without_gap(out: Output) -> tuple[Any, ...]:
    return (*out[:3], replace(out.record, gap=False))
