"""VPIN buckets by hand: V = 10 USDT at a price of 1 unless said otherwise."""

import math
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest

from processors.symbol import Symbol
from ravencore.config import BarsSettings, PlainBarProfile, VpinSettings
from ravencore.decimals import ONE
from ravencore.errors import ConfigError
from ravencore.records import Vpin
from tests.processors.oracles import Print
from tests.processors.tapes import START_US, SYMBOL, VENUE, apply, run

Pour = tuple[int, int, bool]
"""Price, quantity, bought."""


def new(volume: str = "10", **more: Any) -> Symbol:
    return Symbol(
        VENUE, SYMBOL, BarsSettings(time_intervals=[], tib={}, vpin=VpinSettings(bucket_volume=volume, **more))
    )


def prints(pours: Sequence[Pour]) -> list[Print]:
    numbers = count(1)
    return [
        Print(START_US + number, START_US, str(number), number, price * ONE, quantity * ONE, buy)
        for (price, quantity, buy), number in zip(pours, numbers, strict=False)
    ]


def buckets(pours: Sequence[Pour], **settings: Any) -> list[Vpin]:
    done = apply(new(**settings), prints(pours))
    return [out.record for out in done.outputs if isinstance(out.record, Vpin)]


def test_a_trade_is_split_across_the_buckets_it_fills() -> None:
    """
    trade      1 (6, buy) 2 (29, sell)                     3 (5, buy)
    volume    |------.....|..........|..........|.....-----|
    bucket    |    0      |    1     |    2     |    3     |
    """
    made = buckets([(1, 6, True), (1, 29, False), (1, 5, True)])
    assert [bucket.buy_volume // ONE for bucket in made] == [6, 0, 0, 5]
    assert [(bucket.first_trade_id, bucket.last_trade_id, bucket.ticks) for bucket in made] == [
        ("1", "2", 2),
        ("2", "2", 1),
        ("2", "2", 1),
        ("2", "3", 2),
    ]
    assert {bucket.volume for bucket in made} == {10 * ONE}
    assert [bucket.bar_seq for bucket in made] == [0, 1, 2, 3]


def test_an_exact_fill_leaves_nothing_for_the_next_bucket() -> None:
    made = buckets([(1, 10, True), (2, 5, False)])
    assert [(bucket.first_trade_id, bucket.ticks, bucket.open // ONE) for bucket in made] == [("1", 1, 1), ("2", 1, 2)]


def test_the_unit_is_quote_notional_or_base_quantity() -> None:
    assert len(buckets([(5, 4, True)])) == 2
    [bucket] = buckets([(5, 10, True)], unit="base")
    assert (bucket.unit, bucket.volume, bucket.buy_volume) == ("BASE", 10 * ONE, 10 * ONE)


def test_windows_begin_where_bars_md_says() -> None:
    """With the defaults sigma from bucket 20, vpin from bucket 69, vpin_aggressor from bucket 49, counted from 0."""
    made = buckets([(10 + place % 3, 100, place % 2 == 0) for place in range(80)], volume="100")
    first = {
        name: next(bucket.bar_seq for bucket in made if getattr(bucket, name) is not None)
        for name in ("sigma", "bulk_buy_volume", "order_imbalance", "vpin", "vpin_aggressor")
    }
    assert first == {"sigma": 20, "bulk_buy_volume": 20, "order_imbalance": 20, "vpin": 69, "vpin_aggressor": 49}


def test_the_formulas() -> None:
    """Closes 1, 3, 2: dP 2 and -1, mean 0.5, sigma 1.5, z = -1/1.5."""
    made = buckets([(1, 60, True), (3, 20, False), (2, 30, True)], volume="60", window=1, sigma_window=2)
    last = made[2]
    assert last.sigma == 1.5
    bulk = 60 * 0.5 * math.erfc(1 / 1.5 / math.sqrt(2))
    assert last.bulk_buy_volume == pytest.approx(bulk, rel=1e-15)
    assert last.order_imbalance == pytest.approx(60 - 2 * bulk, rel=1e-15)
    assert last.vpin == pytest.approx((60 - 2 * bulk) / 60, rel=1e-15)
    assert [bucket.vpin_aggressor for bucket in made] == [1.0, 1.0, 1.0]


def test_equal_prices_have_the_least_sigma() -> None:
    made = buckets([(1, 10, True)] * 4, sigma_window=2, sigma_floor=0.25)
    assert (made[3].sigma, made[3].bulk_buy_volume, made[3].order_imbalance) == (0.25, 5.0, 0.0)


def test_a_trade_that_would_close_more_than_10000_buckets_is_left_out() -> None:
    """4 are in the bucket: 99,996 more fill 10,000 of 10 exactly; 100,006 would fill 10,001."""
    symbol = new()
    fits = apply(symbol, prints([(1, 4, True), (1, 99_996, True)]))
    assert (len(fits.outputs), fits.refused) == (10_000, [])
    done = apply(new(), prints([(1, 4, True), (1, 100_006, True), (1, 6, False)]))
    assert [(one.offset, one.reason) for one in done.refused] == [(1, "bucket_too_small")]
    assert "V too small: this trade would close 10001 VPIN buckets of 10" in done.refused[0].detail
    (bucket,) = (out.record for out in done.outputs)
    assert (bucket.ticks, bucket.buy_volume, bucket.first_trade_id, bucket.last_trade_id) == (2, 4 * ONE, "1", "3")


def test_bars_have_a_trade_that_vpin_leaves_out() -> None:
    """Whoever trades rupiah finds the default V too small, and his bars whole."""
    settings = BarsSettings(time_intervals=[], tick={"two": PlainBarProfile(size="2")})
    done = apply(Symbol(VENUE, SYMBOL, settings), prints([(1, 4, True), (1, 10**9, True)]))
    assert [out.record.volume for out in done.outputs] == [(10**9 + 4) * ONE]
    assert [(one.offset, one.reason) for one in done.refused] == [(1, "bucket_too_small")]


@pytest.mark.parametrize(("quantity", "fits"), [(100_009, True), (100_010, False)])
def test_what_counts_is_how_many_buckets_would_close(quantity: int, fits: bool) -> None:
    done = apply(new(), prints([(1, quantity, True)]))
    assert (len(done.outputs), len(done.refused)) == ((10_000, 0) if fits else (0, 1))


@pytest.mark.parametrize("cut", [None, 1, 2])
def test_every_bucket_of_the_trade_after_one_left_out_follows_a_hole(cut: int | None) -> None:
    tape = prints([(1, 4, True), (1, 200_000, True), (1, 26, True), (1, 10, True)])
    done = run(new(), tape, [] if cut is None else [cut])
    assert [(out.offset, out.record.gap) for out in done.outputs] == [(2, True), (2, True), (2, True), (3, False)]


def test_a_repair_is_never_too_large() -> None:
    """VPIN takes no repairs, whatever their size."""
    huge, trade = prints([(1, 200_000, True), (1, 4, True)])
    first = trade._replace(sequence=0, trade_id="0")
    done = apply(new(), [first, trade, huge])
    assert (done.refused, done.counts["late_repairs"]) == ([], 1)


def test_each_symbol_may_have_its_own_volume() -> None:
    assert len(buckets([(1, 10, True)], bucket_volumes={f"{VENUE}:{SYMBOL}": "2.5", f"{VENUE}:OTHER": "1"})) == 4


@pytest.mark.parametrize("volume", ["0", "-1", "ten", "1e-19"])
def test_a_volume_that_is_none(volume: str) -> None:
    with pytest.raises(ConfigError, match=f"{VENUE}:{SYMBOL}"):
        new(volume)
