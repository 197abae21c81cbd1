"""Laws of the fault injector: what it does can be taken back, and a perfect observer counts what was injected."""

import json
from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simulator.contract import Frame, SimulatorError
from simulator.faults import (
    CURES,
    TIMES,
    VENUE_KINDS,
    Action,
    garble,
    parse_spec,
)
from simulator.injector import LOOKAHEAD_FRAMES, MAX_GAP_FRAMES, MAX_REORDER_NS, inject
from simulator.ledger import Ids

EVERYTHING = {"gap": 0.15, "duplicate": 0.15, "reorder": 0.15, "garbage": 0.1, "cut": 0.05}
SYMBOLS = ("AAAUSDT", "BBBUSDT", "CCCUSDT")


def frame(symbol: str, trade_id: int | None, time_ns: int = 0) -> Frame:
    payload = f"{symbol} {trade_id} {time_ns}".encode()
    if trade_id is None:
        return Frame(time_ns, f"{symbol}@other", payload, symbol=symbol)
    return Frame(
        time_ns, f"{symbol}@trade", payload, marks=(("trades", symbol, trade_id),), kind="trade", symbol=symbol
    )


def id_of(row: Frame) -> int | None:
    return row.marks[0][2] if row.marks else None


def spoil(original: Frame, rng: Random) -> Frame:
    return Frame(original.time_ns, original.stream, b"?", b"?", kind="garbage", symbol=original.symbol)


@st.composite
def markets(draw: st.DrawFn) -> list[Frame]:
    """Trades of three symbols among other frames; ids count up, with a hole now and then."""
    ids = dict.fromkeys(SYMBOLS, 100)
    frames = []
    time_ns = 0
    steps = st.tuples(st.sampled_from(SYMBOLS), st.sampled_from((0, 0, 1, 1, 1, 1, 1, 1, 1, 4)), st.integers(0, 150))
    for symbol, step, pause_ms in draw(st.lists(steps, max_size=120)):
        time_ns += pause_ms * 1_000_000
        ids[symbol] += step
        frames.append(frame(symbol, ids[symbol] if step else None, time_ns))
    return frames


def long_tape() -> list[Frame]:
    """Short examples seldom bring two faults together: this one does, many times."""
    rng = Random(5)
    ids = dict.fromkeys(SYMBOLS, 100)
    frames = []
    time_ns = 0
    for _ in range(20_000):
        time_ns += rng.randrange(150) * 1_000_000
        symbol = rng.choice(SYMBOLS)
        step = rng.choice((0, *[1] * 12, 3))
        ids[symbol] += step
        frames.append(frame(symbol, ids[symbol] if step else None, time_ns))
    return frames


LONG = long_tape()


def injected(frames: Sequence[Frame], seed: int = 1, spec: dict[str, float | int] | None = None) -> list[Action]:
    return list(inject(frames, spec or EVERYTHING, seed, spoil, len(frames)))


def taken_back(actions: Sequence[Action]) -> list[Frame]:
    """The input again: leave out what was added, and put a reordered pair back where its second half is sent."""
    frames: list[Frame] = []
    early: dict[str, Frame] = {}
    for action in actions:
        if action.frame is None or action.what in {"extra", "garbage"}:
            continue
        if action.fault == "reorder":
            early[action.frame.symbol] = action.frame
            continue
        frames.append(action.frame)
        if action.frame.symbol in early and id_of(action.frame) is not None:
            frames.append(early.pop(action.frame.symbol))
    assert not early
    return frames


def observed(actions: Sequence[Action]) -> Counter[str]:
    seen: dict[str, Ids] = {}
    for action in actions:
        if action.what in {"send", "extra"} and action.frame is not None and id_of(action.frame) is not None:
            seen.setdefault(action.frame.symbol, Ids()).add(id_of(action.frame) or 0)
    return Counter(
        gap=sum(len(ids.holes) for ids in seen.values()),
        gap_trades=sum(ids.missing for ids in seen.values()),
        duplicate=sum(ids.duplicates for ids in seen.values()),
    )


def claimed(actions: Sequence[Action]) -> Counter[str]:
    counts = Counter(action.fault for action in actions if action.fault is not None)
    return Counter(
        gap=counts["gap"],
        gap_trades=sum(action.what == "withhold" for action in actions),
        duplicate=counts["duplicate"],
    )


def by_symbol(frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    rows: dict[str, list[Frame]] = {symbol: [] for symbol in SYMBOLS}
    for row in frames:
        rows[row.symbol].append(row)
    return rows


@settings(deadline=None)
@given(markets(), st.integers(0, 5))
@example(LONG, 1)
def test_each_symbol_gets_its_input_back_when_the_faults_are_taken_away(frames: list[Frame], seed: int) -> None:
    restored = taken_back(injected(frames, seed))
    trades = [row for row in restored if id_of(row) is not None]
    assert by_symbol(trades) == by_symbol([row for row in frames if id_of(row) is not None])
    assert [row for row in restored if id_of(row) is None] == [row for row in frames if id_of(row) is None]


@settings(deadline=None)
@given(markets(), st.integers(0, 5))
@example(LONG, 1)
def test_a_perfect_observer_counts_the_holes_of_the_source_and_what_was_injected(
    frames: list[Frame], seed: int
) -> None:
    actions = injected(frames, seed)
    source = observed([Action("send", row) for row in frames])
    assert observed(actions) == source + claimed(actions)


@settings(deadline=None)
@given(markets(), st.integers(0, 5))
@example(LONG, 1)
def test_the_first_and_last_trade_of_a_symbol_are_sent_in_their_place(frames: list[Frame], seed: int) -> None:
    actions = injected(frames, seed)
    for rows in by_symbol([row for row in frames if id_of(row) is not None]).values():
        sent = [a.frame for a in actions if a.what == "send" and a.frame in rows[:1] + rows[-1:]]
        assert sent == [*rows[:1], *rows[1:][-1:]]
        assert not any(a.what == "extra" and a.frame in rows[:1] for a in actions)


@settings(deadline=None)
@given(markets(), st.integers(0, 5))
@example(LONG, 1)
def test_a_reordered_pair_is_close_in_time_and_no_cut_falls_into_it(frames: list[Frame], seed: int) -> None:
    actions = injected(frames, seed)
    for at, action in enumerate(actions):
        if action.fault == "reorder":
            late = actions[at + 1].frame
            assert action.frame is not None
            assert late is not None
            assert (late.symbol, id_of(late)) == (action.frame.symbol, (id_of(action.frame) or 0) - 1)
            assert 0 <= action.frame.time_ns - late.time_ns <= MAX_REORDER_NS


@settings(deadline=None)
@given(markets(), st.integers(0, 5))
@example(LONG, 1)
def test_no_cut_parts_a_gap_from_the_trade_that_shows_it(frames: list[Frame], seed: int) -> None:
    hidden: set[str] = set()
    for action in injected(frames, seed):
        if action.what == "cut":
            assert not hidden
        elif action.frame is not None and action.what == "withhold":
            hidden.add(action.frame.symbol)
        elif action.frame is not None and action.what == "send" and id_of(action.frame) is not None:
            hidden.discard(action.frame.symbol)


@settings(deadline=None)
@given(markets(), st.integers(0, 5))
@example(LONG, 1)
def test_between_two_faults_of_a_symbol_there_is_a_plain_trade(frames: list[Frame], seed: int) -> None:
    plain = dict.fromkeys(SYMBOLS, True)
    actions = injected(frames, seed)
    late = {id(actions[at + 1]) for at, action in enumerate(actions) if action.fault == "reorder"}
    for action in actions:
        if action.frame is None or action.what == "garbage" or id_of(action.frame) is None:
            continue
        if action.fault is not None:
            assert plain[action.frame.symbol]
        plain[action.frame.symbol] = action.what == "send" and action.fault is None and id(action) not in late


@given(markets(), st.integers(0, 3))
def test_one_seed_gives_one_sequence(frames: list[Frame], seed: int) -> None:
    assert injected(frames, seed) == injected(frames, seed)


def steady(count: int) -> list[Frame]:
    return [frame(SYMBOLS[i % 2], 1000 + i // 2, i * 1_000_000) for i in range(count)]


def test_another_seed_gives_another_sequence() -> None:
    assert injected(steady(500), 1) != injected(steady(500), 2)


def test_whole_numbers_are_met_exactly_beyond_the_lookahead_too() -> None:
    spec: dict[str, float | int] = {"gap": 40, "duplicate": 30, "reorder": 20, "garbage": 10, "cut": 3}
    actions = injected(steady(3 * LOOKAHEAD_FRAMES), 7, spec)
    assert Counter(action.fault for action in actions if action.fault) == spec
    at = [index for index, action in enumerate(actions) if action.fault]
    assert at[0] < LOOKAHEAD_FRAMES
    assert at[-1] > 2 * LOOKAHEAD_FRAMES


def test_probabilities_come_out_as_asked() -> None:
    actions = injected(steady(20_000), 3, {"gap": 0.01, "duplicate": 0.01})
    counts = Counter(action.fault for action in actions if action.fault)
    assert 140 < counts["gap"] < 260
    assert 140 < counts["duplicate"] < 260
    lengths = Counter(action.what for action in actions)["withhold"] / counts["gap"]
    assert 2.0 < lengths < MAX_GAP_FRAMES


def test_without_faults_everything_is_sent() -> None:
    assert injected(steady(10), spec={"gap": 0}) == [Action("send", row) for row in steady(10)]


TIMED = {"stall": 2, "mute": 2, "close": 1, "limit": 1}


@pytest.mark.parametrize("seed", [1, 2])
def test_faults_that_take_time_wait_for_those_of_frames_and_draw_how_long(seed: int) -> None:
    actions = list(inject(LONG, {"gap": 0.05, "reorder": 0.05, **TIMED}, seed, spoil, len(LONG) // 2))
    counts = Counter(action.fault for action in actions if action.fault)
    assert {kind: counts[kind] for kind in TIMED} == TIMED
    hidden: set[str] = set()
    for action in actions:
        if action.what in VENUE_KINDS:
            assert not hidden
            least, most = {"stall": TIMES.stall, "limit": TIMES.limit, "close": TIMES.notice}[action.what]
            assert action.intent is not None
            assert least <= action.intent.seconds <= most
        elif action.what == "mute":
            assert action.stream.removesuffix("@trade") not in hidden
            assert action.intent is not None
            assert action.intent.cure in CURES
        elif action.frame is not None and action.what == "withhold":
            hidden.add(action.frame.symbol)
        elif action.frame is not None and action.what == "send" and id_of(action.frame) is not None:
            hidden.discard(action.frame.symbol)


@given(st.integers(0, 100), st.binary(min_size=2, max_size=80))
def test_what_is_garbled_is_no_json_and_no_longer_a_record(seed: int, text: bytes) -> None:
    payload = json.dumps({"text": text.hex(), "rows": [1, 2]}).encode()
    original = Frame(5, "a@b", payload, b"[" + payload + b"]", (("quotes", "A", 1),), symbol="A")
    spoilt = garble(original, Random(seed))
    assert (spoilt.kind, spoilt.marks, spoilt.stream, spoilt.time_ns) == ("garbage", (), "a@b", 5)
    for message in (spoilt.payload, spoilt.combined):
        assert message
        with pytest.raises(ValueError, match=r"."):
            json.loads(message)


def test_a_spec_is_read() -> None:
    assert parse_spec("gap=0.001, duplicate=5,cut=2") == {"gap": 0.001, "duplicate": 5, "cut": 2}
    assert parse_spec("") == {}
    assert parse_spec(" chaos ") == {"chaos": 1}
    assert parse_spec("stall=1,mute=2,close=0.5,limit=3") == {"stall": 1, "mute": 2, "close": 0.5, "limit": 3}
    assert isinstance(parse_spec("gap=1.0")["gap"], float)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("bend=0.1", "gap, duplicate, reorder, garbage, cut"),
        ("gap", "unknown fault 'gap'"),
        ("chaos,gap=1", "chaos alone"),
        ("gap=", "probability"),
        ("gap=1.5", "probability"),
        ("gap=-1", "probability"),
        ("gap=nan", "probability"),
        ("gap=0.1,gap=0.2", "twice"),
        ("gap=0.6,cut=0.6", "exceed 1"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_reason(spec: str, problem: str) -> None:
    with pytest.raises(SimulatorError, match=problem):
        parse_spec(spec)


def batches() -> list[Frame]:
    """Frames with several trades of several symbols on one stream, each symbol counting for itself."""
    rng = Random(9)
    ids = dict.fromkeys("ABCDE", 10)
    frames = []
    for number in range(6_000):
        marks = []
        for _ in range(rng.randint(1, 4)):
            symbol = rng.choice("AAAABBBCCDE")
            ids[symbol] += 1
            marks.append(("trades", symbol, ids[symbol]))
        frames.append(Frame(number * 10_000_000, "all@trades", b"%d" % number, marks=marks, kind="trade"))
    return frames


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_frames_of_many_trades_and_symbols_are_whole_units_and_every_count_is_exact(seed: int) -> None:
    frames = batches()
    actions = injected(frames, seed, {"gap": 0.02, "duplicate": 0.02, "reorder": 0.02, "cut": 0.01})
    seen: dict[str, Ids] = {}
    dropped: Counter[str] = Counter()
    copied = 0
    for action in actions:
        assert action.frame is None or action.frame in frames or action.what == "garbage"
        for _, symbol, trade_id in action.frame.marks if action.frame else ():
            if action.what == "withhold":
                dropped[symbol] += 1
            else:
                seen.setdefault(symbol, Ids()).add(trade_id or 0)
                copied += action.what == "extra"
    assert {symbol: ids.missing for symbol, ids in seen.items()} == {symbol: dropped[symbol] for symbol in seen}
    assert sum(ids.duplicates for ids in seen.values()) == copied
    counts = Counter(action.fault for action in actions if action.fault)
    assert all(counts[kind] > 10 for kind in ("gap", "duplicate", "reorder", "cut"))
    assert sum(len(ids.holes) for ids in seen.values()) >= counts["gap"]


def test_no_cut_parts_any_symbol_of_a_gap_from_the_trade_that_shows_it() -> None:
    hidden: set[str] = set()
    for action in injected(batches(), 4, {"gap": 0.05, "cut": 0.05}):
        symbols = {symbol for _, symbol, _ in action.frame.marks} if action.frame else set()
        if action.what == "cut":
            assert not hidden
        elif action.what == "withhold":
            hidden |= symbols
        else:
            hidden -= symbols
