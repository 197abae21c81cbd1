"""Whose state may be restored, and what an instrument does with its batches as a whole."""

import json
from typing import Any

import pytest

from processors.contract import StateMismatch
from processors.migrations import LAYOUT
from processors.registry import FOLDS, profiles
from processors.symbol import Symbol, check_state, parameters
from ravencore.codec import Codec
from ravencore.columns import of_trades
from ravencore.config import BarsSettings, RuledBarProfile, VpinSettings
from ravencore.errors import ConfigError
from ravencore.records import Trade, Vpin
from ravencore.topics import BARS, VPIN
from tests.processors.oracles import Print
from tests.processors.tapes import CENT, SMALL, START_US, SYMBOL, VENUE, apply, row


def some_trades(count: int, first: int = 1) -> list[Print]:
    return [
        Print(START_US + 300_000 * n, START_US + 300_000 * n, str(n), n, (1000 + n % 7) * CENT, CENT * 50, n % 3 == 0)
        for n in range(first, first + count)
    ]


def changed(**sections: object) -> BarsSettings:
    return BarsSettings.model_validate({**SMALL.model_dump(), **sections})


def test_the_registry_is_in_a_fixed_order() -> None:
    assert [(kind.kind, kind.topic) for kind in FOLDS] == [*BARS.items(), ("vpin", VPIN)]
    assert [profile.key for profile in profiles(BarsSettings(), VENUE, SYMBOL)] == [
        *("time/1s", "time/1m"),
        *("tib/tib_small", "tib/tib_large", "trb/trb_small", "trb/trb_large", "vib/vib_small", "vib/vib_large"),
        "vpin/default",
    ]


def test_outputs_stand_by_offset_then_by_the_registry() -> None:
    done = apply(Symbol(VENUE, SYMBOL, SMALL), some_trades(200))
    places = [(out.offset, out.order) for out in done.outputs]
    assert places == sorted(places)
    # The Rust Raven's runs are silent here.
    assert len({order for _, order in places}) == len(profiles(SMALL, VENUE, SYMBOL)) - 1
    assert len({offset for offset, _ in places}) < len(places)


def test_parameters_are_canonical_and_hold_each_instruments_own() -> None:
    own = VpinSettings(bucket_volumes={f"{VENUE}:{SYMBOL}": "2.50"})
    text = parameters(BarsSettings(vpin=own), VENUE, SYMBOL)
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert json.loads(text)["vpin/default"]["bucket_volume"] == "2.5"
    assert json.loads(parameters(BarsSettings(vpin=own), VENUE, "OTHER"))["vpin/default"]["bucket_volume"] == "10000"
    assert json.loads(text)["tib/tib_small"]["initial_size"] == 100


def test_state_of_the_same_parameters_is_taken() -> None:
    check_state(LAYOUT, parameters(SMALL, VENUE, SYMBOL), SMALL, VENUE, SYMBOL)


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (changed(allowed_lateness_ms=1), ["time/500ms", "time/1s", "time/3s"]),
        (changed(tib={**SMALL.tib, "tib_tiny": RuledBarProfile(initial_size=4)}), ["tib/tib_tiny"]),
        (changed(vpin=VpinSettings(bucket_volume="25.6", window=4, sigma_window=3)), ["vpin/default"]),
    ],
)
def test_state_of_other_parameters_is_refused_by_name(other: BarsSettings, names: list[str]) -> None:
    with pytest.raises(StateMismatch) as told:
        check_state(LAYOUT, parameters(SMALL, VENUE, SYMBOL), other, VENUE, SYMBOL)
    assert all(name in str(told.value) for name in names)
    assert str(told.value).count(" is now ") == len(names)
    assert "new profile name" in str(told.value)
    with pytest.raises(StateMismatch, match=names[0]):
        Symbol(VENUE, SYMBOL, other).restore(Symbol(VENUE, SYMBOL, SMALL).snapshot())


def test_buckets_of_another_volume_begin_anew_under_another_name() -> None:
    def of(volume: str, **names: Any) -> BarsSettings:
        return changed(vpin=VpinSettings(bucket_volume=volume, window=4, sigma_window=3, **names))

    old = Symbol(VENUE, SYMBOL, of("25.5"))
    assert apply(old, some_trades(50)).outputs
    renamed = of("51", profile="other", profiles={f"{VENUE}:{SYMBOL}": "v51"})
    check_state(LAYOUT, parameters(of("25.5"), VENUE, SYMBOL), renamed, VENUE, SYMBOL)
    assert "vpin/other" in parameters(renamed, VENUE, "ELSE")
    new = Symbol(VENUE, SYMBOL, renamed)
    new.restore(old.snapshot())
    done = apply(new, some_trades(50, 51), 50)
    buckets = [out.record for out in done.outputs if isinstance(out.record, Vpin)]
    assert {bucket.profile for bucket in buckets} == {"v51"}
    assert [bucket.bar_seq for bucket in buckets] == list(range(len(buckets)))
    assert min(out.record.bar_seq for out in done.outputs if out.record not in buckets) > 0


def test_state_of_another_layout_is_refused() -> None:
    with pytest.raises(StateMismatch, match="layout"):
        check_state(LAYOUT + 1, parameters(SMALL, VENUE, SYMBOL), SMALL, VENUE, SYMBOL)


def test_a_profile_that_is_new_starts_cold_beside_the_others() -> None:
    old = Symbol(VENUE, SYMBOL, SMALL)
    apply(old, some_trades(50))
    more = changed(time_intervals=["500ms", "1s", "3s", "2s"])
    check_state(LAYOUT, parameters(SMALL, VENUE, SYMBOL), more, VENUE, SYMBOL)
    new = Symbol(VENUE, SYMBOL, more)
    new.restore(old.snapshot())
    done = apply(new, some_trades(50, 51), 50)
    first = {out.record.profile: out.record.bar_seq for out in reversed(done.outputs)}
    assert first["2s"] == 0
    assert min(count for profile, count in first.items() if profile != "2s") > 0


def test_a_profile_that_slept_goes_on_numbering_and_says_that_it_missed_trades() -> None:
    awake, without = Symbol(VENUE, SYMBOL, SMALL), changed(tib={"tib_wide": SMALL.tib["tib_wide"]})
    before = apply(awake, some_trades(50))
    last = max(out.record.bar_seq for out in before.outputs if out.record.profile == "tib_tiny")
    asleep = Symbol(VENUE, SYMBOL, without)
    asleep.restore(awake.snapshot())
    assert "tib_tiny" not in {out.record.profile for out in apply(asleep, some_trades(50, 51), 50).outputs}
    woken = Symbol(VENUE, SYMBOL, SMALL)
    woken.restore(asleep.snapshot())
    again = Symbol(VENUE, SYMBOL, SMALL)
    again.restore(woken.snapshot())
    done = apply(again, some_trades(50, 101), 100)
    made = [out.record for out in done.outputs if out.record.profile == "tib_tiny"]
    assert [bar.bar_seq for bar in made[:2]] == [last + 1, last + 2]
    assert [bar.gap for bar in made[:2]] == [True, False]
    assert not any(out.record.gap for out in done.outputs if out.record.profile == "tib_wide")


def test_a_profile_that_slept_is_refused_with_other_parameters() -> None:
    asleep = Symbol(VENUE, SYMBOL, changed(tib={}))
    asleep.restore(Symbol(VENUE, SYMBOL, SMALL).snapshot())
    other = changed(tib={**SMALL.tib, "tib_tiny": RuledBarProfile(initial_size=7)})
    with pytest.raises(StateMismatch, match="tib/tib_tiny"):
        Symbol(VENUE, SYMBOL, other).restore(asleep.snapshot())


def test_columns_from_the_wire_give_what_rows_give() -> None:
    trades = some_trades(60)
    trades[30:30] = trades[10:12]  # duplicates
    trades[40] = trades[40]._replace(price=0)
    by_rows, by_columns = Symbol(VENUE, SYMBOL, SMALL), Symbol(VENUE, SYMBOL, SMALL)
    expected = by_rows.apply([row(trade) for trade in trades], range(len(trades)))
    columns = of_trades(
        [
            Trade(
                venue=VENUE,
                symbol=SYMBOL,
                event_time=trade.event_time,
                received_time=trade.received_time,
                trade_id=trade.trade_id,
                sequence=trade.sequence,
                price=trade.price,
                quantity=trade.quantity,
                side="BUY" if trade.buy else "SELL",
            )
            for trade in trades
        ]
    )
    assert by_columns.apply_columns(columns, range(len(trades))) == expected
    assert by_columns.snapshot() == by_rows.snapshot()


def test_an_empty_batch_does_nothing() -> None:
    symbol = Symbol(VENUE, SYMBOL, SMALL)
    before = symbol.snapshot()
    assert symbol.apply([], []).outputs == []
    assert symbol.snapshot() == before


def test_every_record_fits_its_schema() -> None:
    done = apply(Symbol(VENUE, SYMBOL, SMALL), some_trades(200))
    codec = Codec()
    assert all(codec.decode(codec.encode(out.record)) == out.record for out in done.outputs)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="1x"):
        Symbol(VENUE, SYMBOL, BarsSettings(time_intervals=["1x"]))
