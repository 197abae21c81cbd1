"""The mart: what a row holds, what conflicts, what waits, what is refused."""

from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravencore.config import MartSettings, Settings
from ravencore.decimals import from_text
from ravencore.errors import ConfigError
from ravencore.records import Bar, Record, Vpin
from sinks.contract import Outcome
from sinks.stores.timescale import BAR_VALUES, FACTS, VPIN_VALUES, Ids, Timescale, encode, interval_of
from tests.sinks.rig import TimescaleProbe, bar, entries, instrument, vpin

IDS = Ids(11, 12, 13, 14)
UNITS = st.integers(-(10**38) + 1, 10**38 - 1)
BACK = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}


def unescape(text: str) -> str:
    parts = text.split("\\\\")
    return "\\".join(p.replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r") for p in parts)


@given(
    profile=st.text(),
    trade_id=st.none() | st.text(),
    units=st.lists(UNITS, min_size=7, max_size=7),
    theta=st.none() | st.floats(allow_nan=False),
    gap=st.booleans(),
)
def test_a_line_of_copy_gives_every_value_back(
    profile: str, trade_id: str | None, units: list[int], theta: float | None, gap: bool
) -> None:
    names = ("open", "high", "low", "close", "volume", "quote_volume", "buy_volume")
    amounts = dict(zip(names, units, strict=True))
    record = bar("S", 9, profile=profile, first_trade_id=trade_id, theta=theta, gap=gap, **amounts)

    text = encode(3, record, IDS, 15)
    assert text.endswith("\n")
    number, instrument_id, kind, name, bar_seq, *others = text[:-1].split("\t")
    assert (number, instrument_id, kind, unescape(name), bar_seq) == ("3", "11", "tib", profile, "9")
    assert others[:4] == ["12", "13", "14", "15"]
    cells: dict[str, Any] = dict(zip(BAR_VALUES, others[4:], strict=True))
    assert {name: from_text(cells[name]) for name in names} == amounts
    assert (None if cells["first_trade_id"] == "\\N" else unescape(cells["first_trade_id"])) == trade_id
    assert (None if cells["theta"] == "\\N" else float(cells["theta"])) == theta
    assert cells["gap"] == str(gap)
    assert cells["open_time"] == "2024-08-08T00:00:09.000009Z"


def test_every_field_of_bars_and_vpin_is_kept() -> None:
    assert {*BAR_VALUES, "venue", "symbol", "kind", "profile", "bar_seq"} == set(Bar.__struct_fields__)
    assert {*VPIN_VALUES, "venue", "symbol", "profile", "bar_seq"} == set(Vpin.__struct_fields__)


def test_only_time_bars_have_an_interval() -> None:
    assert interval_of(bar("S", 1, kind="time", profile="15m")) == "15m"
    assert interval_of(bar("S", 1)) == interval_of(vpin("S", 1)) == "none"


def test_a_dsn_that_is_none_is_a_setting_to_correct() -> None:
    with pytest.raises(ConfigError, match="RAVEN_MART__DSN"):
        Timescale(Settings(mart=MartSettings(dsn="not a dsn"))).setup()


@pytest.fixture
def mart(settings: Settings) -> Any:
    store = Timescale(settings)
    store.setup()
    yield store
    store.close()


def written(outcome: Outcome) -> list[tuple[str, Record]]:
    return [(bad.reason, bad.entry.record) for bad in outcome.refused]


@pytest.mark.stack
def test_a_different_row_of_a_known_bar_is_refused_and_nothing_is_overwritten(
    mart: Timescale, settings: Settings, symbol: str
) -> None:
    first = [instrument(symbol), bar(symbol, 1), vpin(symbol, 1)]
    assert mart.write(entries(first)) == ([], [])
    later, higher = bar(symbol, 1, open_time=5), bar(symbol, 1, high=17, gap=False)

    outcome = mart.write(entries([bar(symbol, 1), later, higher, bar(symbol, 2)]))

    assert written(outcome) == [("conflicting_row", later), ("conflicting_row", higher)]
    assert [bad.detail.rpartition(" in ")[2] for bad in outcome.refused] == ["open_time", "high, gap"]
    assert written(mart.write(entries([later]))) == [("conflicting_row", later)]
    probe = TimescaleProbe(settings)
    assert probe.kept(symbol) == probe.expected([*first, bar(symbol, 2)])


@pytest.mark.stack
def test_of_two_different_rows_in_one_batch_the_first_is_kept(mart: Timescale, settings: Settings, symbol: str) -> None:
    mart.write(entries([instrument(symbol)]))
    rows = [bar(symbol, 1), bar(symbol, 1, low=5), bar(symbol, 1)]
    assert written(mart.write(entries(rows))) == [("conflicting_row", rows[1])]
    probe = TimescaleProbe(settings)
    assert probe.kept(symbol) == probe.expected(rows[:1])


@pytest.mark.stack
def test_what_the_database_cannot_hold_is_refused_alone(mart: Timescale, settings: Settings, symbol: str) -> None:
    good: list[Record] = [instrument(symbol), *(bar(symbol, number) for number in range(50))]
    bad = [
        bar(symbol, 100, high=10**38),
        bar(symbol, 101, close_time=10**18),
        bar(symbol, 102, last_trade_id="nul\0"),
        bar(symbol, 103, kind="time\0", profile="x"),
        bar(symbol, 104, kind="time", profile=""),
        instrument(symbol + "X", base="\0"),
        instrument(symbol + "Y", quote=""),
    ]
    mixed = [record for pair in zip(good[:7], bad, strict=True) for record in pair] + good[7:]
    outcome = mart.write(entries(mixed))
    assert {reason for reason, _ in written(outcome)} == {"refused_by_store"}
    assert sorted(map(str, (record for _, record in written(outcome)))) == sorted(map(str, bad))
    probe = TimescaleProbe(settings)
    assert probe.kept(symbol) == probe.expected(good)


@pytest.mark.stack
def test_a_bar_waits_for_its_instrument_and_others_do_not(mart: Timescale, settings: Settings, symbol: str) -> None:
    known, unknown = symbol, symbol + "LATER"
    outcome = mart.write(entries([bar(unknown, 1), instrument(known), bar(known, 1)]))
    assert [(one.reason, one.entry.record) for one in outcome.waiting] == [("unknown_instrument", bar(unknown, 1))]
    probe = TimescaleProbe(settings)
    assert len(probe.kept(known)) == 1

    other = Timescale(settings)
    assert other.write(entries([instrument(unknown)])) == ([], [])
    other.close()
    assert mart.write(entries([bar(unknown, 1)])) == ([], []), "what another process learned is known"
    assert probe.kept(unknown) == probe.expected([bar(unknown, 1)])


@pytest.mark.stack
def test_a_restart_knows_the_instruments(settings: Settings, symbol: str) -> None:
    for records in ([instrument(symbol)], [bar(symbol, 1)]):
        store = Timescale(settings)
        assert store.write(entries(records)) == ([], [])
        store.close()


@pytest.mark.stack
def test_the_coins_of_a_symbol_never_change(mart: Timescale, symbol: str) -> None:
    mart.write(entries([instrument(symbol)]))
    other = instrument(symbol, quote="USDC")
    assert written(mart.write(entries([instrument(symbol, status="BREAK"), other]))) == [("conflicting_row", other)]


@pytest.mark.stack
def test_dimensions_name_the_parts_of_a_row(mart: Timescale, settings: Settings, symbol: str) -> None:
    others = [bar(symbol, 1, kind=kind, profile=profile) for kind, profile in (("time", "90s"), ("dib", "dib_small"))]
    records = [bar(symbol, 1), *others, vpin(symbol, 1)]
    mart.write(entries([instrument(symbol), *records]))
    probe = TimescaleProbe(settings)
    names = ("venue", "symbol", "base", "quote", "interval", "kind", "profile")
    rows = [probe.rows(fact.name, symbol)[0] for fact in dict.fromkeys(FACTS.values())]
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("VENUE", symbol, f"B{symbol}", "USDT", "90s", "time", "90s"),
        ("VENUE", symbol, f"B{symbol}", "USDT", "none", "tib", "tib_small"),
        ("VENUE", symbol, f"B{symbol}", "USDT", "none", "dib", "dib_small"),
        ("VENUE", symbol, f"B{symbol}", "USDT", "none", "vpin", "default"),
    ]


@pytest.mark.stack
def test_two_instruments_of_the_same_coins_at_one_venue_do_not_meet(
    mart: Timescale, settings: Settings, symbol: str
) -> None:
    """A perpetual and a future of BTC and USDT, say."""
    pair = [symbol, symbol + "_250328"]
    records = [instrument(name, base=f"B{symbol}") for name in pair] + [bar(name, 1, low=len(name)) for name in pair]
    assert mart.write(entries(records)) == ([], [])
    probe = TimescaleProbe(settings)
    assert [len(probe.kept(name)) for name in pair] == [1, 1]


@pytest.mark.stack
def test_keys_and_foreign_keys_are_as_promised(mart: Timescale, mart_dsn: str) -> None:
    with psycopg.connect(mart_dsn) as connection:
        rows = connection.execute(
            "SELECT conrelid::regclass::text, contype, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = 'mart'::regnamespace AND contype IN ('p', 'f')"
        ).fetchall()
    for fact in FACTS.values():
        table = f"mart.{fact.name}"
        assert {text for name, kind, text in rows if name == table and kind == "p"} == {
            "PRIMARY KEY (instrument_id, kind, profile, bar_seq, "
            "coin_id, quote_id, exchange_id, interval_id, open_time)"
        }
        dimensions = {text.partition(" REFERENCES ")[2] for name, kind, text in rows if name == table and kind == "f"}
        assert {f"mart.dim__{name}({name}_id)" for name in ("coin", "quote", "exchange", "interval")} <= dimensions
