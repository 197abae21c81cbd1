"""Tapes for the tests of folds: made from steps that Hypothesis draws, or read from recordings."""

import csv
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import zstandard
from hypothesis import strategies as st
from msgspec.structs import asdict

from processors.contract import Applied, Clock, Row
from processors.symbol import Symbol
from ravencore.codec import decimal_bytes
from ravencore.config import BarsSettings, DrivenBarProfile, PlainBarProfile, RuledBarProfile, VpinSettings, interval_us
from ravencore.decimals import ONE, from_text
from ravencore.records import Bar, Vpin
from tests.processors.oracles import (
    ClockAt,
    DrivenOracle,
    ImbalanceOracle,
    Oracle,
    Params,
    PlainOracle,
    Print,
    RavenTib,
    RavenTrb,
    RavenVib,
    RunOracle,
    TimeOracle,
    VpinOracle,
)

VENUE, SYMBOL = "BINANCE_SPOT", "BTCUSDT"
START_US = 1_700_000_000_250_000
Event = Print | ClockAt
CENT = 10**16

DRIVEN: dict[str, tuple[type[DrivenOracle], str, type[DrivenOracle] | None]] = {
    "tib": (ImbalanceOracle, "tick", RavenTib),
    "trb": (RunOracle, "tick", RavenTrb),
    "vib": (ImbalanceOracle, "volume", RavenVib),
    "dib": (ImbalanceOracle, "dollar", None),
    "vrb": (RunOracle, "volume", None),
    "drb": (RunOracle, "dollar", None),
}
PLAIN = {"tick": "tick", "volume": "volume", "dollar": "dollar"}
"""By kind: what a trade weighs."""


WIDE = {"initial_size": 5, "size_min_pct": 0.5, "size_max_pct": 2.0, "alpha_imbl": 0.7}


def driven(kind: str) -> dict[str, DrivenBarProfile]:
    """Profiles whose bars close after a few ticks."""
    wide = DrivenBarProfile.model_validate(WIDE)
    return {f"{kind}_tiny": DrivenBarProfile(initial_size=3), f"{kind}_wide": wide}


def ruled(kind: str) -> dict[str, RuledBarProfile]:
    """The same, and one of rule "raven"."""
    raven = RuledBarProfile(initial_size=4, rule="raven", size_min_pct=0.3)
    wide = RuledBarProfile.model_validate(WIDE)
    return {f"{kind}_tiny": RuledBarProfile(initial_size=3), f"{kind}_wide": wide, f"{kind}_raven": raven}


SMALL = BarsSettings(
    time_intervals=["500ms", "1s", "3s"],
    tib=ruled("tib"),
    trb=ruled("trb"),
    vib=ruled("vib"),
    dib=driven("dib"),
    vrb=driven("vrb"),
    drb=driven("drb"),
    tick={"tick_7": PlainBarProfile(size="7")},
    volume={"volume_3": PlainBarProfile(size="3.1")},
    dollar={"dollar_40": PlainBarProfile(size="40")},
    vpin=VpinSettings(bucket_volume="25.5", window=4, sigma_window=3, percentile_window=3),
)
"""Settings under which a tape of a hundred trades closes bars of every kind."""


def settings_strategy() -> st.SearchStrategy[BarsSettings]:
    vpin = st.builds(
        VpinSettings,
        bucket_volume=st.sampled_from(["25.5", "70", "1000"]),
        unit=st.sampled_from(["quote", "base"]),
        window=st.integers(1, 5),
        sigma_window=st.integers(1, 4),
        sigma_floor=st.sampled_from([1e-12, 0.5]),
        percentile_window=st.integers(1, 4),
    )
    some = st.sets(st.sampled_from([*DRIVEN, *PLAIN]), min_size=1, max_size=3)
    others = st.fixed_dictionaries(
        {
            "time_intervals": st.sampled_from([["500ms", "1s", "3s"], ["1s"], ["1m", "700ms"]]),
            "allowed_lateness_ms": st.sampled_from([0, 0, 300, 2500]),
            "empty_windows": st.sampled_from(["skip", "flat"]),
            "vpin": vpin,
        }
    )
    return st.builds(only, some, others)


def only(kinds: Set[str], others: dict[str, Any]) -> BarsSettings:
    """Settings with these kinds of bars of SMALL's profiles, and others."""
    profiles = {kind: getattr(SMALL, kind) if kind in kinds else {} for kind in (*DRIVEN, *PLAIN)}
    return BarsSettings(**profiles, **others)


STEP_US = st.sampled_from(
    [0, 0, 0, 1000, 40_000, 249_000, 250_000, 260_000, 750_000, 1_000_000, 4_100_000, -1000, -1_300_000]
)
PRICE = st.integers(990, 1010).map(lambda cents: cents * CENT)
QUANTITY = st.sampled_from([1, 10, 50, 255, 3_000]).map(lambda hundredths: hundredths * CENT)
TRADE = st.tuples(st.just("trade"), STEP_US, PRICE, QUANTITY, st.booleans())
HOLE = st.tuples(st.just("hole"), st.integers(1, 3))
REPAIR = st.tuples(st.just("repair"), st.integers(0, 20), st.sampled_from([0, 0, -600_000, 1_200_000]))
AGAIN = st.tuples(st.just("again"), st.integers(1, 30))
CLOCK = st.tuples(st.just("clock"), st.sampled_from([-500_000, 0, 500_000, 2_000_000]))
BAD = st.tuples(st.just("bad"), st.integers(0, 6))
HUGE = st.tuples(st.just("huge"), st.sampled_from([10_000, 10_000, 10**9]))
STEPS = st.lists(TRADE | TRADE | TRADE | TRADE | HOLE | REPAIR | AGAIN | CLOCK | BAD | HUGE, max_size=90)


class LongSteps(list[tuple[Any, ...]]):
    """Steps by their seed: Hypothesis would print them all."""

    def __init__(self, seed: int) -> None:
        super().__init__(long_steps(seed))
        self._seed = seed

    def __repr__(self) -> str:
        return f"LongSteps({self._seed})"


class Log(list[Event]):
    """A tape that is printed as the steps that made it."""

    def __init__(self, steps: Sequence[tuple[Any, ...]], counting: bool, only_trades: bool = False) -> None:
        chosen = [step for step in steps if step[0] == "trade"] if only_trades else steps
        super().__init__(play(chosen, counting))
        self._made_by = f"Log({steps!r}, {counting}, {only_trades})"

    def __repr__(self) -> str:
        return self._made_by


def long_steps(seed: int) -> list[tuple[Any, ...]]:
    """Three hundred steps of a market that trends, rests, loses trades and repeats itself."""
    rng = Random(seed)
    steps: list[tuple[Any, ...]] = []
    price, bias, pace_us = 1000, 0.5, 30_000
    while len(steps) < 300:
        if rng.random() < 0.03:
            bias, pace_us = rng.choice([0.1, 0.3, 0.5, 0.8]), rng.choice([0, 1000, 30_000, 400_000])
        price += rng.randrange(-2, 3)
        quantity = rng.choice([1, 10, 37, 255, 1111])
        jump = rng.choice([0, 0, 1_000_000, 3_500_000, -700_000, -2_000_000]) if rng.random() < 0.1 else 0
        step_us = rng.randrange(pace_us + 1) + jump
        steps.append(("trade", step_us, price * CENT, quantity * CENT, rng.random() < bias))
        if rng.random() < 0.15:
            steps.append(
                rng.choice(
                    [
                        ("hole", rng.randrange(1, 4)),
                        ("repair", rng.randrange(20), rng.choice([0, 0, -600_000, 1_200_000])),
                        ("again", rng.randrange(1, 30)),
                        ("clock", rng.choice([-500_000, 0, 500_000, 2_000_000])),
                        ("bad", rng.randrange(7)),
                        ("huge", rng.choice([10_000, 10**9])),
                    ]
                )
            )
    return steps


LONG = st.integers(0, 2**32).map(LongSteps)


def tapes(counting: bool | None = None) -> st.SearchStrategy[list[Event]]:
    """Tapes with everything in them; `counting` ids or not, or either."""
    kinds = st.booleans() if counting is None else st.just(counting)
    return st.builds(Log, STEPS | LONG, kinds)


def clean_tapes() -> st.SearchStrategy[list[Event]]:
    """Tapes of trades alone, without holes, whose times may still step back."""
    return st.builds(Log, st.lists(TRADE, max_size=90) | LONG, st.just(True), st.just(True))


def play(steps: Sequence[tuple[Any, ...]], counting: bool) -> Iterator[Event]:
    """Turn steps into the log they describe."""
    now, number, after_gap = START_US, 500, False
    missing: list[Print] = []
    past: list[Print] = []
    price, quantity = 1000 * CENT, CENT
    for kind, *drawn in steps:
        match kind:
            case "clock":
                yield ClockAt(now + drawn[0])
            case "hole":
                gone = range(number, number + drawn[0])
                missing += [
                    _print(now, each, price + each * CENT, quantity, buy=each % 2 == 0, counting=True) for each in gone
                ]
                number, after_gap = number + drawn[0], True
            case "repair" if missing and counting:
                lost = missing.pop(drawn[0] % len(missing))
                past.append(lost._replace(event_time=lost.event_time + drawn[1]))
                yield past[-1]
            case "again" if past:
                yield past[-min(drawn[0], len(past))]
            case "trade" | "bad" | "huge":
                if kind == "trade":
                    now, price, quantity = now + drawn[0], drawn[1], drawn[2]
                buy = bool(drawn[-1]) if kind == "trade" else True
                trade = _print(now, number, price, quantity, buy=buy, counting=counting)
                trade = trade._replace(after_gap=after_gap and not counting)
                if kind == "huge":
                    trade = trade._replace(quantity=drawn[0] * CENT)
                if kind == "bad":
                    trade = _spoilt(trade, drawn[0])
                number, after_gap = number + 1, False
                past.append(trade)
                yield trade


def _print(now: int, number: int, price: int, quantity: int, *, buy: bool, counting: bool) -> Print:
    return Print(now, now + 1234, str(number), number if counting else None, price, quantity, buy)


def _spoilt(trade: Print, way: int) -> Print:
    return [
        trade._replace(price=0),
        trade._replace(price=-CENT),
        trade._replace(quantity=0),
        trade._replace(received_time=trade.event_time - 60_000_001),
        trade._replace(price=trade.price + 1),
        trade._replace(quantity=10**33),
        trade._replace(price=10**35, quantity=10**31),
    ][way]


def row(trade: Print) -> Row:
    """As `Codec.decode_trades` gives it."""
    return {
        "venue": VENUE,
        "symbol": SYMBOL,
        **trade._asdict(),
        "price": decimal_bytes(trade.price),
        "quantity": decimal_bytes(trade.quantity),
        "side": "BUY" if trade.buy else "SELL",
    }


def records(events: Sequence[Event]) -> list[Row | Clock]:
    return [Clock(event.time_us) if isinstance(event, ClockAt) else row(event) for event in events]


def apply(symbol: Symbol, events: Sequence[Event], first_offset: int = 0) -> Applied:
    return symbol.apply(records(events), range(first_offset, first_offset + len(events)))


def run(symbol: Symbol, events: Sequence[Event], cuts: Sequence[int] = ()) -> Applied:
    """Apply a tape in batches that end at `cuts`; what they did together."""
    whole = Applied([], [], {})
    bounds = [0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]
    for start, stop in itertools.pairwise(bounds):
        done = apply(symbol, events[start:stop], start)
        whole.outputs.extend(done.outputs)
        whole.refused.extend(done.refused)
        whole.counts.update({name: whole.counts.get(name, 0) + count for name, count in done.counts.items()})
    return whole


def driven_oracle(kind: str, p: DrivenBarProfile) -> DrivenOracle:
    make, x, by_raven = DRIVEN[kind]
    params = Params(p.initial_size, p.alpha_size, p.alpha_imbl, p.size_min_pct, p.size_max_pct)
    if not isinstance(p, RuledBarProfile) or p.rule == "guarded":
        return make(params, x)
    assert by_raven is not None
    return by_raven(params._replace(p_buy=p.initial_p_buy))


def oracle(settings: BarsSettings) -> Oracle:
    """The oracles of these settings, in the registry's order."""
    lateness, flat = settings.allowed_lateness_ms * 1000, settings.empty_windows == "flat"
    vpin = settings.vpin
    volume = Fraction(vpin.bucket_volumes.get(f"{VENUE}:{SYMBOL}", vpin.bucket_volume))
    return Oracle(
        {
            **{("time", name): TimeOracle(interval_us(name), lateness, flat) for name in settings.time_intervals},
            **{
                (kind, name): driven_oracle(kind, profile)
                for kind in DRIVEN
                for name, profile in getattr(settings, kind).items()
            },
            **{
                (kind, name): PlainOracle(Fraction(profile.size), x)
                for kind, x in PLAIN.items()
                for name, profile in getattr(settings, kind).items()
            },
            ("vpin", "default"): VpinOracle(
                volume,
                vpin.unit == "quote",
                (vpin.window, vpin.sigma_window, vpin.percentile_window),
                vpin.sigma_floor,
            ),
        }
    )


def bits(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields with doubles as their exact bits, so that -0.0 is not 0.0 and an integer no double."""
    return {name: value.hex() if isinstance(value, float) else value for name, value in sorted(fields.items())}


def shown(record: Bar | Vpin) -> dict[str, Any]:
    fields = asdict(record)
    assert (fields.pop("venue"), fields.pop("symbol")) == (VENUE, SYMBOL)
    return bits(fields)


def assert_same_as_oracle(settings: BarsSettings, events: Sequence[Event], cuts: Sequence[int] = ()) -> Applied:
    """Every field of every record, the refusals and the counters are what the oracle says, bit for bit."""
    expected = oracle(settings)
    for offset, event in enumerate(events):
        expected.feed(offset, event)
    done = run(Symbol(VENUE, SYMBOL, settings), events, cuts)
    received = {o: 0 if isinstance(event, ClockAt) else event.received_time for o, event in enumerate(events)}
    assert [out.received_time for out in done.outputs] == [received[out.offset] for out in done.outputs]
    assert [(out.offset, shown(out.record)) for out in done.outputs] == [
        (offset, bits({**fields, "profile": profile, **({} if kind == "vpin" else {"kind": kind})}))
        for offset, kind, profile, fields in expected.made
    ]
    assert [(refused.offset, refused.reason) for refused in done.refused] == expected.refused
    assert done.counts == expected.counts
    return done


def bars_of(
    kind: str, profile: Mapping[str, Any], sides: str, sizes: Sequence[int] = (), missing_before: Sequence[int] = ()
) -> list[tuple[int, Bar]]:
    """Bars of a tape of buys `b` and sells `s`, at 100, 101, 102 and so on, with the place of the trade that closed
    each; all of quantity 1 where no `sizes` are given."""
    kinds: dict[str, Any] = {name: {} for name in (*DRIVEN, *PLAIN)} | {kind: {"only": profile}}
    settings = BarsSettings.model_validate({"time_intervals": [], **kinds})
    trades, number = [], 0
    for place, side in enumerate(sides):
        number += 2 if place in missing_before else 1
        price, quantity = (100 + place) * ONE, (sizes[place] if sizes else 1) * ONE
        trades.append(Print(START_US, START_US, str(number), number, price, quantity, side == "b"))
    done = apply(Symbol(VENUE, SYMBOL, settings), trades)
    return [(out.offset, out.record) for out in done.outputs if isinstance(out.record, Bar)]


def read_csv(path: Path) -> list[Print]:
    """A recorded table of Binance trades with sides and ids (SOURCES.md), in the order of ids.

    One of the tables went through doubles on its way: Binance prints quantities with 8 decimals.
    """
    with zstandard.open(path, "rt") as file:
        rows = list(csv.DictReader(io.StringIO(file.read())))
    made = []
    for line in rows:
        time_us = int(line.get("exch_ms") or line["timestamp_ms"]) * 1000
        received_us = int(line.get("recv_ms") or line["timestamp_ms"]) * 1000
        buy = line["side"] == "buy" if "side" in line else line["is_buyer_maker"] == "False"
        number = int(line["trade_id"])
        price, quantity = from_text(line["price"]), from_text(f"{float(line['qty']):.8f}")
        made.append(Print(time_us, received_us, str(number), number, price, quantity, buy))
    return sorted(made, key=lambda trade: trade.sequence or 0)


def read_frames(path: Path) -> list[Print]:
    """The `trade` frames of a recorded Binance stream, in the order they arrived."""
    made = []
    with zstandard.open(path, "rt") as file:
        for line in file:
            received_ns, _, frame = line.partition("\t")
            data = json.loads(frame).get("data", {})
            if data.get("e") == "trade":
                price, quantity = from_text(data["p"]), from_text(data["q"])
                received_us, time_us = int(received_ns) // 1000, data["T"] * 1000
                made.append(Print(time_us, received_us, str(data["t"]), data["t"], price, quantity, not data["m"]))
    return made
