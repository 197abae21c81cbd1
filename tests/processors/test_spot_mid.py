"""The consolidated spot mid against a slow reading of bars.md section 5, its laws, and each rule by hand."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict

from processors.contract import Clock, Refused, StateMismatch
from processors.folds.spot_mid import SpotMids
from producers.registry import SOURCES
from ravencore.config import MidsSettings
from ravencore.errors import ConfigError
from ravencore.records import Quote, SpotMid, VenueMid, mid_key
from ravencore.topics import SPOT_MID
from tests.processors.joins import (
    E18,
    SECOND_US,
    Event,
    Ran,
    assert_goes_on_from_any_snapshot,
    assert_is_in_order,
    clock,
    recorded,
    run,
)

START_US = 1_700_000_000 * SECOND_US
BTC, ETH, USD = "BTC-USDT", "ETH-USDT", "BTC-USD"
BINANCE, COINBASE, KRAKEN = "BINANCE_SPOT", "COINBASE", "KRAKEN"


# The oracle


class Heard(NamedTuple):
    """A quote in the log."""

    number: int
    key: str
    quote: Quote


class MidOracle:
    """Section 5, from the whole log anew for each sample."""

    def __init__(self, chosen: MidsSettings) -> None:
        self.chosen = chosen
        self.log: list[Heard] = []
        self.keys: set[str] = set()
        self.time_us: int | None = None
        self.made: list[tuple[int, dict[str, Any]]] = []
        self.refused: list[int] = []
        self.counts = dict.fromkeys(("quotes", "samples", "late_quotes", "ignored_quotes"), 0)

    def feed(self, offset: int, key: str, event: Quote | Clock) -> None:
        if isinstance(event, Clock):
            self.reach(offset, event.time_us)
        elif self.is_bad(event):
            self.refused.append(offset)
        else:
            self.reach(offset, event.received_time)
            if event.venue not in self.chosen.venues:
                self.counts["ignored_quotes"] += 1
            else:
                after = any(
                    moment(heard.quote) > moment(event)
                    for heard in self.log
                    if (heard.key, heard.quote.venue) == (key, event.venue)
                )
                self.counts["late_quotes" if after else "quotes"] += 1
                self.log += [] if after else [Heard(offset, key, event)]
        self.keys.add(key)

    def is_bad(self, quote: Quote) -> bool:
        numbers = [quote.bid_price, quote.ask_price, quote.bid_quantity, quote.ask_quantity]
        too_far = quote.event_time is not None and quote.event_time > quote.received_time + 60_000_000
        return too_far or any(number is not None and not 0 <= number < 10**38 for number in numbers)

    def reach(self, offset: int, time_us: int) -> None:
        if self.time_us is not None:
            # No pair speaks for more than a minute after its newest quote.
            newest = max([heard.quote.received_time for heard in self.log], default=0) + 61_000_000
            second = math.floor(Fraction(self.time_us, SECOND_US)) + 1
            while second * SECOND_US <= min(time_us, newest):
                for key in sorted(self.keys):
                    self.sample(offset, key, second * SECOND_US)
                second += 1
        self.time_us = time_us if self.time_us is None else max(time_us, self.time_us)

    def sample(self, offset: int, key: str, time_us: int) -> None:
        heard = [each for each in self.log if each.key == key]
        if not any(exact_mid(each.quote) is not None for each in heard):
            return
        if time_us - max(each.quote.received_time for each in heard) > 60_000_000:
            return
        venues, mids = [], {}
        for venue in sorted({each.quote.venue for each in heard}):
            own = [each for each in heard if each.quote.venue == venue]
            newest = max(own, key=lambda each: (moment(each.quote), each.number)).quote
            exact, age = exact_mid(newest), time_us - newest.received_time
            used = exact is not None and age <= self.chosen.stale_after_ms * 1000
            if exact is not None and used:
                mids[venue] = float(exact)
            mid = None if exact is None else float(exact)
            venues.append(VenueMid(venue=venue, symbol=newest.symbol, mid=mid, age=age, used=used))
        expected = self.chosen.expected.get(key, self.chosen.venues)
        fields = {"venues": tuple(venues), "used": len(mids), "expected": len(set(expected)), "time": time_us}
        base, quote = key.split("-")
        fields |= {"pair": key, "base": base, "quote": quote}
        self.made.append((offset, fields | self.consolidated(sorted(mids.values()), set(mids), set(expected))))
        self.counts["samples"] += 1

    def consolidated(self, mids: list[float], used: set[str], expected: set[str]) -> dict[str, Any]:
        if not mids:
            return {"mid": None, "divergence": None, "quality": "Suspect"}
        half = len(mids) // 2
        median = mids[half] if len(mids) % 2 else (mids[half - 1] + mids[half]) / 2
        clamped = [
            median * (1 - 0.005) if mid < median * (1 - 0.005) else min(mid, median * (1 + 0.005)) for mid in mids
        ]
        mean = float(sum(map(Fraction, clamped))) / len(mids)
        divergence = (mids[-1] - mids[0]) / median
        suspect = divergence > self.chosen.divergence_limit or len(mids) == 1
        quality = "Suspect" if suspect else "Degraded" if expected - used else "Ok"
        return {"mid": mean, "divergence": divergence, "quality": quality}


def moment(quote: Quote) -> tuple[int, int, int]:
    return quote.received_time, quote.connection_time, quote.connection_sequence


def exact_mid(quote: Quote) -> Fraction | None:
    if 0 in (quote.bid_quantity, quote.ask_quantity) or not quote.bid_price or not quote.ask_price:
        return None
    return None if quote.bid_price > quote.ask_price else Fraction((quote.bid_price / E18 + quote.ask_price / E18) / 2)


def assert_same_as_oracle(chosen: MidsSettings, events: Sequence[Event], cuts: Sequence[int] = ()) -> Ran:
    oracle = MidOracle(chosen)
    for offset, (key, event) in enumerate(events):
        oracle.feed(offset, key, event)
    ran = run(SpotMids(chosen), events, cuts)
    assert [(out.offset, asdict(out.record)) for out in ran.done.outputs] == oracle.made
    assert [(refused.offset, refused.reason) for refused in ran.done.refused] == [
        (offset, "bad_value") for offset in oracle.refused
    ]
    assert ran.done.counts == oracle.counts
    received = [0 if isinstance(event, Clock) else event.received_time for _, event in events]
    assert [out.received_time for out in ran.done.outputs] == [received[out.offset] for out in ran.done.outputs]
    assert {out.topic for out in ran.done.outputs} <= {SPOT_MID}
    assert_is_in_order(ran.done.outputs, lambda record: record.pair)
    return ran


# Logs


STEP_US = st.sampled_from([0, 0, 1, 90_000, 400_000, 999_999, 1_000_000, 1_700_000, 3_500_000, 9_000_000, 62_000_000])
LATE_US = st.sampled_from([0, 0, 0, 0, 0, 1, 1_200_000, 4_000_000, 70_000_000])
PRICE = st.sampled_from([None, 0, -1, *[E18 * cents // 100 for cents in (100, 9_980, 10_000, 10_001, 10_010, 10_060)]])
QUANTITY = st.sampled_from([None, 0, -1, *[E18] * 9])
QUOTE = st.tuples(
    st.sampled_from([BTC, BTC, ETH, USD]),
    st.sampled_from([BINANCE, COINBASE, KRAKEN, KRAKEN, "BINANCE_FUTURES"]),
    STEP_US,
    LATE_US,
    st.tuples(PRICE, PRICE) | st.tuples(st.just(9_990 * E18 // 100), st.just(10_010 * E18 // 100)),
    st.tuples(QUANTITY, QUANTITY),
    st.sampled_from([None, None, -5, 60_000_000, 60_000_001]),
)
CLOCK = st.tuples(st.sampled_from([BTC, ETH]), st.just("clock"), STEP_US, LATE_US)
STEPS = st.lists(QUOTE | QUOTE | QUOTE | QUOTE | CLOCK, max_size=50)


def play(steps: Sequence[tuple[Any, ...]]) -> Iterator[Event]:
    """Turn steps into the log they describe."""
    now = START_US + 123_456
    for number, (key, venue, step_us, late_us, *drawn) in enumerate(steps, 1):
        now += step_us
        if venue == "clock":
            yield clock(key, now - late_us)
            continue
        (bid, ask), (bid_quantity, ask_quantity), ahead = drawn
        if bid is not None and ask is not None and bid > ask and number % 4:
            bid, ask = ask, bid
        yield (
            key,
            Quote(
                venue=venue,
                symbol=f"{venue}-{key}-{number % 2}",
                event_time=None if ahead is None else now - late_us + ahead,
                received_time=now - late_us,
                bid_price=bid,
                ask_price=ask,
                bid_quantity=bid_quantity,
                ask_quantity=ask_quantity,
                connection_time=7,
                connection_sequence=number,
            ),
        )


def long_steps(seed: int) -> list[tuple[Any, ...]]:
    """Eighty steps of three venues that mostly agree, now and then late, absent or absurd."""
    rng = Random(seed)
    steps: list[tuple[Any, ...]] = []
    while len(steps) < 80:
        key, step_us = rng.choice([BTC, BTC, BTC, ETH]), rng.choice([0, 1, 90_000, 250_000, 400_000])
        late_us = rng.choice([0, 0, 0, 1, 300_000, 1_200_000])
        if rng.random() < 0.05:
            step_us = rng.choice([1_000_000, 3_500_000, 63_000_000])
        if rng.random() < 0.05:
            steps.append((key, "clock", step_us, late_us))
            continue
        cents = 10_000 + rng.randrange(-15, 16)
        bid, ask = cents * E18 // 100, (cents + 1) * E18 // 100
        prices: tuple[int | None, int | None] = bid, ask
        if rng.random() < 0.1:
            prices = rng.choice([None, 0, -1, ask]), rng.choice([None, 0, bid, bid * 2])
        venue = rng.choice([BINANCE, COINBASE, KRAKEN, KRAKEN, "BINANCE_FUTURES"])
        steps.append((key, venue, step_us, late_us, prices, (None, E18), None))
    return steps


class Log(list[Event]):
    """A log that is printed as its seed."""

    def __init__(self, seed: int) -> None:
        super().__init__(play(long_steps(seed)))
        self._seed = seed

    def __repr__(self) -> str:
        return f"Log({self._seed})"


LOGS = STEPS.map(lambda steps: list(play(steps))) | st.integers(0, 2**32).map(Log)
CUTS = st.lists(st.integers(0, 80), max_size=6)
CHOSEN = st.builds(
    MidsSettings,
    expected=st.sampled_from([{}, {BTC: [KRAKEN]}, {BTC: [KRAKEN, COINBASE], ETH: []}]),
    stale_after_ms=st.sampled_from([3000, 1, 90_000]),
    divergence_limit=st.sampled_from([0.002, 0.0001, 0.5]),
)


@settings(max_examples=80)
@given(CHOSEN, LOGS, CUTS)
def test_every_field_is_what_the_oracle_says(chosen: MidsSettings, events: list[Event], cuts: list[int]) -> None:
    assert_same_as_oracle(chosen, events, cuts)


# By hand


def quote(venue: str, at_s: float, bid: float | None, ask: float | None, key: str = BTC, **more: Any) -> Event:
    """A quote `at_s` seconds after the start, its prices exact to a cent."""
    received = START_US + round(at_s * 1e6)
    fields: dict[str, Any] = {"bid_price": _units(bid), "ask_price": _units(ask), "symbol": "BTCUSDT"}
    return key, Quote(venue=venue, received_time=received, **fields | more)


def _units(price: float | None) -> int | None:
    return None if price is None else round(price * 100) * 10**16


def at(at_s: float, key: str = BTC) -> Event:
    return clock(key, START_US + round(at_s * 1e6))


def mids(events: Sequence[Event], **chosen: Any) -> list[SpotMid]:
    return [out.record for out in assert_same_as_oracle(MidsSettings(**chosen), events).done.outputs]


def seconds(records: Sequence[SpotMid]) -> list[float]:
    return [(record.time - START_US) / SECOND_US for record in records]


THREE = [quote(BINANCE, 0.1, 99, 101), quote(COINBASE, 0.2, 99.95, 100.05), quote(KRAKEN, 0.3, 100, 100.1)]


def test_one_sample_in_full() -> None:
    [record] = mids([*THREE, at(1)])
    assert record == SpotMid(
        pair="BTC-USDT",
        base="BTC",
        quote="USDT",
        time=START_US + SECOND_US,
        mid=float(Fraction(300) + Fraction("0.05")) / 3,
        quality="Ok",
        divergence=(100.05 - 100.0) / 100.0,
        expected=3,
        used=3,
        venues=(
            VenueMid(venue=BINANCE, symbol="BTCUSDT", mid=100.0, age=900_000, used=True),
            VenueMid(venue=COINBASE, symbol="BTCUSDT", mid=100.0, age=800_000, used=True),
            VenueMid(venue=KRAKEN, symbol="BTCUSDT", mid=100.05, age=700_000, used=True),
        ),
    )
    assert mid_key(record) == b"BTC-USDT"


def test_a_second_is_sampled_by_the_first_record_that_reaches_it_whatever_its_key() -> None:
    """
    key       BTC    ETH        ETH     BTC
    received  0.5    0.999999   1.0     1.0
    sample                      1: BTC, ETH
    """
    one, two = quote(BINANCE, 0.5, 99, 101), quote(BINANCE, 0.999999, 9, 11, ETH)
    ran = run(SpotMids(MidsSettings()), [one, two, quote(BINANCE, 1, 19, 21, ETH), quote(BINANCE, 1, 199, 201)])
    made = [(out.offset, out.order, out.record.pair, out.record.mid) for out in ran.done.outputs]
    assert made == [(2, 0, BTC, 100.0), (2, 1, ETH, 10.0)]


def test_seconds_come_first_and_then_pairs_by_name() -> None:
    ran = run(SpotMids(MidsSettings()), [quote(KRAKEN, 0, 1, 2, ETH), quote(KRAKEN, 0.5, 1, 2), at(3)])
    made = [(out.order, out.record.pair, (out.record.time - START_US) // SECOND_US) for out in ran.done.outputs]
    assert made == [(0, BTC, 1), (1, ETH, 1), (2, BTC, 2), (3, ETH, 2), (4, BTC, 3), (5, ETH, 3)]


def test_a_quote_on_the_very_second_counts_for_the_next_one() -> None:
    first, second = mids([quote(KRAKEN, 0, 99, 101), quote(KRAKEN, 1, 199, 201), at(2)])
    assert (first.mid, first.venues[0].age) == (100.0, SECOND_US)
    assert (second.mid, second.venues[0].age) == (200.0, SECOND_US)


def test_a_pair_begins_with_its_first_usable_quote() -> None:
    crossed, usable = quote(KRAKEN, 0.5, 101, 99), quote(COINBASE, 2.5, 99, 101)
    assert seconds(mids([crossed, at(1), at(2), usable, at(4)])) == [3, 4]


def test_a_quote_that_comes_after_its_second_counts_from_the_next_one_on() -> None:
    """The partition is at 5.2 already when a quote of second 2 comes."""
    events = [quote(KRAKEN, 5.2, 1, 2, ETH), quote(KRAKEN, 1.9, 99, 101), at(6)]
    assert [(record.pair, record.mid) for record in mids(events)] == [(BTC, None), (ETH, 1.5)]
    [late, *_] = mids(events, stale_after_ms=10_000)
    assert (late.pair, late.mid, late.venues[0].age) == (BTC, 100.0, 4_100_000)


@pytest.mark.parametrize(("age_s", "used"), [(3.0, True), (3.000001, False)])
def test_a_stale_venue_drops_out(age_s: float, used: bool) -> None:
    record = mids([quote(KRAKEN, 4 - age_s, 199, 201), quote(COINBASE, 3.5, 99, 101), at(4)])[-1]
    assert [part.used for part in record.venues] == [True, used]
    assert record.used == 1 + used
    assert record.venues[1].mid == 200.0


@pytest.mark.parametrize(
    ("bid", "ask", "more", "mid"),
    [
        (100.01, 100, {}, None),
        (100, 100, {}, 100.0),
        (None, 100, {}, None),
        (100, None, {}, None),
        (0, 100, {}, None),
        (0, 0, {}, None),
        (99, 101, {"bid_quantity": 0}, None),
        (99, 101, {"ask_quantity": 0}, None),
        (99, 101, {"ask_quantity": E18}, 100.0),
    ],
)
def test_a_crossed_or_empty_quote_has_no_mid(
    bid: float | None, ask: float | None, more: dict[str, Any], mid: float | None
) -> None:
    record = mids([quote(COINBASE, 0, 99, 101), quote(KRAKEN, 0.5, bid, ask, **more), at(1)])[-1]
    assert (record.venues[1].mid, record.venues[1].used, record.used) == (mid, mid is not None, 1 + (mid is not None))


def test_an_unusable_quote_replaces_a_usable_one() -> None:
    [record] = mids([quote(KRAKEN, 0.1, 99, 101), quote(KRAKEN, 0.2, 101, 99), at(1)])
    assert (record.mid, record.quality, record.divergence, record.used) == (None, "Suspect", None, 0)


def test_outliers_are_clamped_as_in_deribits_index() -> None:
    """https://support.deribit.com/hc/en-us/articles/25944739377309-Index-Prices: 100, 101 and 120."""
    events = [quote(BINANCE, 0, 100, 100), quote(COINBASE, 0, 101, 101), quote(KRAKEN, 0, 120, 120), at(1)]
    [record] = mids(events)
    assert record.mid == pytest.approx((100.495 + 101 + 101.505) / 3, rel=1e-15)
    assert (record.divergence, record.quality) == (20 / 101, "Suspect")


def test_the_median_of_two_is_their_mean() -> None:
    [record] = mids([quote(COINBASE, 0, 100, 100), quote(KRAKEN, 0, 104, 104), at(1)])
    assert record.divergence == 4 / 102
    assert record.mid == pytest.approx((102 * 0.995 + 102 * 1.005) / 2, rel=1e-15)


@pytest.mark.parametrize(
    ("quoted", "expected", "quality"),
    [
        ({BINANCE: 100, COINBASE: 100, KRAKEN: 100}, None, "Ok"),
        ({BINANCE: 100, COINBASE: 100.19, KRAKEN: 100}, None, "Ok"),
        ({BINANCE: 100, COINBASE: 100.21, KRAKEN: 100}, None, "Suspect"),
        ({COINBASE: 100, KRAKEN: 100}, None, "Degraded"),
        ({COINBASE: 100, KRAKEN: 100.21}, None, "Suspect"),
        ({COINBASE: 100, KRAKEN: 100}, [COINBASE, KRAKEN], "Ok"),
        ({BINANCE: 100, COINBASE: 100, KRAKEN: 100}, [KRAKEN], "Ok"),
        ({BINANCE: 100, COINBASE: 100}, [KRAKEN], "Degraded"),
        ({BINANCE: 100, KRAKEN: 100.21}, [KRAKEN], "Suspect"),
        ({KRAKEN: 100}, None, "Suspect"),
        ({KRAKEN: 100}, [KRAKEN], "Suspect"),
        ({"BINANCE_FUTURES": 100, KRAKEN: 100}, [KRAKEN], "Suspect"),
    ],
)
def test_quality(quoted: dict[str, float], expected: list[str] | None, quality: str) -> None:
    chosen = {} if expected is None else {"expected": {BTC: expected}}
    [record] = mids([*[quote(venue, 0, price, price) for venue, price in quoted.items()], at(1)], **chosen)
    assert record.quality == quality
    assert record.expected == (3 if expected is None else len(expected))


def test_without_a_usable_venue_there_is_no_mid_and_after_a_minute_no_record() -> None:
    made = mids([quote(KRAKEN, 0.5, 99, 101), at(100)])
    assert seconds(made) == list(range(1, 61))
    assert [record.mid for record in made] == [100.0] * 3 + [None] * 57
    assert {record.quality for record in made} == {"Suspect"}


def test_a_jump_of_the_logs_time_makes_no_more_records_than_silence_does() -> None:
    day_s, year_s = 86_400, 365 * 86_400
    events = [*THREE, at(day_s), quote(KRAKEN, year_s + 0.5, 99, 101), at(1000 * year_s, ETH)]
    made = seconds(mids(events))
    assert made == [*range(1, 61), *range(year_s + 1, year_s + 61)]


def test_a_silent_pair_goes_on_with_any_quote() -> None:
    made = mids([quote(KRAKEN, 0, 99, 101), at(200), quote(KRAKEN, 200, None, 101), at(202)])
    assert seconds(made)[-3:] == [60, 201, 202]
    assert made[-1].mid is None


def test_an_older_quote_is_late_and_changes_nothing() -> None:
    newer, older = quote(KRAKEN, 0.5, 99, 101), quote(KRAKEN, 0.4, 199, 201)
    ran = run(SpotMids(MidsSettings()), [newer, older, quote(COINBASE, 0.3, 199, 201), at(1)])
    assert (ran.done.counts["quotes"], ran.done.counts["late_quotes"]) == (2, 1)
    assert [part.mid for part in ran.done.outputs[0].record.venues] == [200.0, 100.0]


def test_of_quotes_received_at_one_time_the_later_frame_counts() -> None:
    later = quote(KRAKEN, 0.5, 199, 201, connection_time=1, connection_sequence=2)
    earlier = quote(KRAKEN, 0.5, 99, 101, connection_time=1, connection_sequence=1)
    assert [record.mid for record in mids([later, earlier, at(1)])] == [200.0]
    assert [record.mid for record in mids([earlier, later, at(1)])] == [200.0]
    unnumbered = [quote(KRAKEN, 0.5, 199, 201), quote(KRAKEN, 0.5, 99, 101)]
    assert [record.mid for record in mids([*unnumbered, at(1)])] == [100.0]


def test_of_two_symbols_of_a_venue_the_newest_quote_counts() -> None:
    events = [quote(KRAKEN, 0.1, 99, 101, symbol="XBT/USDT"), quote(KRAKEN, 0.2, 199, 201, symbol="BTC/USDT"), at(1)]
    [record] = mids(events)
    assert [(part.symbol, part.mid) for part in record.venues] == [("BTC/USDT", 200.0)]


def test_quotes_of_futures_are_passed_over_but_move_the_time() -> None:
    ran = run(SpotMids(MidsSettings()), [quote("BINANCE_FUTURES", 0, 1, 2), quote(KRAKEN, 0.5, 99, 101)])
    ran.apply([quote("BINANCE_FUTURES", 1, 1, 2)], 2)
    [out] = ran.done.outputs
    assert (out.offset, out.received_time, [part.venue for part in out.record.venues]) == (
        2,
        START_US + 10**6,
        [KRAKEN],
    )
    assert ran.done.counts == {"quotes": 1, "samples": 1, "late_quotes": 0, "ignored_quotes": 2}


def test_dollars_and_tethers_are_never_mixed() -> None:
    made = mids([quote(KRAKEN, 0, 99, 99), quote(COINBASE, 0, 101, 101, USD), at(1)])
    assert [(record.pair, record.quote, record.mid) for record in made] == [(USD, "USD", 101.0), (BTC, "USDT", 99.0)]


def test_absurd_quotes_are_refused_before_they_touch_anything() -> None:
    machine = SpotMids(MidsSettings())
    machine.apply([quote(KRAKEN, 0, 99, 101)], [0])
    ahead = quote(KRAKEN, 5, 1, 2, event_time=START_US + 65_000_001)
    events = [quote(KRAKEN, 5, -1, 2), quote(KRAKEN, 5, 1, 2, ask_quantity=-E18), ahead]
    events += [quote("BINANCE_FUTURES", 5, 1, 2, ask_price=10**38)]
    done = machine.apply(events, [1, 2, 3, 4])
    assert done.refused == [
        Refused(1, "bad_value", "bid_price -1 is negative"),
        Refused(2, "bad_value", "ask_quantity -1 is negative"),
        Refused(3, "bad_value", "event_time is 60.000001 s after received_time"),
        Refused(4, "bad_value", "ask_price is too large for decimal(38,18)"),
    ]
    assert (done.outputs, done.touched) == ([], {})
    assert set(done.counts.values()) == {0}


def test_time_passing_touches_only_the_key_whose_event_it_was() -> None:
    machine = SpotMids(MidsSettings())
    assert machine.apply([*THREE, quote(KRAKEN, 0.4, 1, 2, ETH)], range(4)).touched == {BTC: 2, ETH: 3}
    assert machine.apply([at(1, ETH), at(1.5, ETH), at(1.2)], range(4, 7)).touched == {ETH: 4, BTC: 6}
    assert machine.apply([quote("BINANCE_FUTURES", 1.7, 1, 2), quote(KRAKEN, 0.1, 1, 2)], [7, 8]).touched == {}


@pytest.mark.parametrize("order", [(BTC, ETH), (ETH, BTC)])
def test_a_partition_has_come_as_far_as_the_furthest_of_its_snapshots(order: tuple[str, str]) -> None:
    before, after = SpotMids(MidsSettings()), SpotMids(MidsSettings())
    before.apply([quote(KRAKEN, 1, 99, 101), quote(KRAKEN, 5.2, 1, 2, ETH)], range(2))
    for key in order:
        after.restore(key, before.snapshot(key))
    assert after.apply([at(5.9)], [2]).outputs == []
    assert [out.record.time for out in after.apply([at(6)], [3]).outputs] == [START_US + 6 * SECOND_US] * 2


def test_a_venue_that_is_configured_no_more_is_forgotten() -> None:
    before, after = SpotMids(MidsSettings()), SpotMids(MidsSettings(venues=[COINBASE, KRAKEN]))
    before.apply(THREE, range(3))
    after.restore(BTC, before.snapshot(BTC))
    [out] = after.apply([at(1)], [3]).outputs
    assert [part.venue for part in out.record.venues] == [COINBASE, KRAKEN]
    assert out.record.quality == "Ok"


def test_a_snapshot_of_another_layout_is_refused() -> None:
    machine = SpotMids(MidsSettings())
    machine.apply(THREE, range(3))
    with pytest.raises(StateMismatch, match="the state of BTC-USDT has layout 2, and this version of Raven reads 1"):
        SpotMids(MidsSettings()).restore(BTC, machine.snapshot(BTC), 2)


def test_an_expected_venue_must_count() -> None:
    with pytest.raises(ConfigError, match=r"mids\.expected\.BTC-USD names BITSTAMP, which is not among mids\.venues"):
        SpotMids(MidsSettings(expected={USD: [KRAKEN, "BITSTAMP"]}))


# Recordings


def test_recorded_quotes_of_one_venue(recordings: Path) -> None:
    quotes = recorded(recordings / "binance_spot" / "hft_btcusdt_20230405.frames.zst", SOURCES["BINANCE_SPOT"])
    events = [(BTC, record) for record in quotes if isinstance(record, Quote)]
    assert len(events) == 8015
    assert_same_as_oracle(MidsSettings(), events[:800], range(0, 800, 97))
    ran = run(SpotMids(MidsSettings()), events)
    made = [out.record for out in ran.done.outputs]
    first, last = events[0][1].received_time // SECOND_US, events[-1][1].received_time // SECOND_US
    assert [record.time // SECOND_US for record in made] == list(range(first + 1, last + 1))
    assert all(28_000 < record.mid < 29_000 for record in made if record.mid is not None)
    assert {record.quality for record in made} == {"Suspect"}


def test_recorded_quotes_of_two_venues(recordings: Path) -> None:
    """Coinbase's of 2026 and Kraken's of 2021, moved to the same minute: pairs of either in one partition."""
    coinbase = recorded(recordings / "coinbase_at" / "cf_btc_eth_20260809_part1.frames.zst", SOURCES["COINBASE"])
    kraken = recorded(recordings / "derived" / "kraken_v2_ticker_alts_20210405.frames.zst", SOURCES["KRAKEN"])
    events = [
        (record.symbol.replace("/", "-"), moved(record, records[0]))
        for records in (coinbase, kraken)
        for record in records
        if isinstance(record, Quote)
    ]
    events.sort(key=lambda event: event[1].received_time)
    assert len(events) == 122
    ran = assert_same_as_oracle(MidsSettings(expected={USD: [COINBASE]}), events)
    assert {USD, "ETH-USD", "ALGO-BTC"} <= {out.record.pair for out in ran.done.outputs}
    assert_goes_on_from_any_snapshot(lambda: SpotMids(MidsSettings()), events, [3, 50, 51, 100])


def moved(record: Any, first: Any) -> Quote:
    values = {field: getattr(record, field) for field in record.__struct_fields__}
    return Quote(
        **values | {"received_time": START_US + record.received_time - first.received_time, "event_time": None}
    )
