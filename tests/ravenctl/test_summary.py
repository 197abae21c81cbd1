"""A demo's judgement: it must notice every way in which a promise can break."""

import io
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from ravenctl.feeds import Ids, Name, Row
from ravenctl.readback import LakeRows
from ravenctl.summary import MARKETS_SHOWN, Findings, by_market, by_venue, figures, promises, show
from tests.ravenctl.made import trade

MARKET = "BINANCE_SPOT:BTCUSDT"
TRADES = Row(Name("BINANCE_SPOT", "trades"), 1, 9, 9, once=9, repaired=2)
BOOKS = Row(Name("KRAKEN", "books"), 1, 90, None, once=30, kept_books=30)
SERIES = f"tib/tib_small/{MARKET}"


def ids(*numbers: int, records: int | None = None) -> dict[str, Ids]:
    found = Ids()
    for number in numbers:
        found.add(trade(number))
    found.records = len(numbers) if records is None else records
    return {MARKET: found}


def kept_all() -> Findings:
    """Ids 1 to 11, without 4 and 5 which the exchange never had. It withheld 8 and 9 until REST was asked for them.

    It sent 7 twice, and garbage once.
    """
    sent = (1, 2, 3, 6, 7, 8, 9, 10, 11)
    entry = {"issued": 9, "delivered": 10, "delivered_unique": 9, "hole_trades": 2}
    quiet = {"symbols": {}, "observable": {"dead_letters": 0}}
    return Findings(
        source={
            "venues": {
                "BINANCE_SPOT": {"symbols": {"BTCUSDT": entry}, "observable": {"dead_letters": 1}},
                "KRAKEN": quiet,
            },
            "injected": {"gap": 1, "gap_trades": 2, "duplicate": 1, "garbage": 1, "cut": 2, "stall": 0},
        },
        feeds=[TRADES],
        counters={"trades_received": 8, "books_published": 5, "dead_letters": 1, "duplicates": 1},
        kafka=ids(*sent),
        influx=ids(*sent),
        gap_ranges={MARKET: [(4, 5)]},
        gaps={"BINANCE_SPOT": (1, 2)},
        gaps_by_cause={"SEQUENCE": 1},
        repaired={MARKET: 2},
        repaired_by_cause={"SEQUENCE": 1},
        repeated=1,
        dead_letters={"unreadable_frame": 1},
        dead_letters_by_venue={"BINANCE_SPOT": 1},
        dead_letter="ws://here: not JSON",
        bars={SERIES: 3},
        mart={SERIES: 3},
        mismatches=[],
        out_of_turn=0,
        digest="d" * 64,
        books_in_kafka=5,
        books_in_influx=5,
        in_kafka={"trades": 9, "books": 5},
        lake=LakeRows(Counter({"trades": 9, "books": 5})),
        unreadable=0,
        seconds=2.0,
        latency_ms={"p50": 10.0, "p99": 20.0},
        restarts={"collector": 0},
    )


def broken(found: Findings) -> list[str]:
    return [promise.says for promise in promises(found) if not promise.kept]


def test_all_promises_are_kept() -> None:
    assert broken(kept_all()) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kafka": ids(1, 2, 3, 6, 7, 8, 9, 10)}, "every unique trade is in Kafka"),
        ({"kafka": ids(1, 2, 3, 6, 7, 8, 9, 10, 11, records=10)}, "every unique trade is in Kafka"),
        ({"unreadable": 1}, "every unique trade is in Kafka"),
        ({"influx": ids(1, 2, 3, 6, 7, 8, 9, 10)}, "in the Influx store"),
        ({"influx": ids(1, 2, 3, 6, 7, 8, 9, 10, 12)}, "in the Influx store"),
        ({"influx": ids(1, 2, 3, 6, 7, 8, 9, 10, 11, records=10)}, "in the Influx store"),
        ({"books_in_influx": 4}, "every book"),
        ({"lake": LakeRows(Counter({"trades": 9, "books": 4}))}, "in the lake"),
        ({"lake": LakeRows(Counter({"trades": 9, "books": 5}), twice=1)}, "in the lake"),
        ({"gap_ranges": {}}, "every hole in the ids"),
        ({"gap_ranges": {MARKET: [(4, 6)]}}, "every hole in the ids"),
        ({"gap_ranges": {MARKET: [(4, 5)], "BINANCE_SPOT:ETHUSDT": [(1, 1)]}}, "every hole in the ids"),
        ({"feeds": [replace(TRADES, once=8, withheld=1)]}, "every hole that the exchange can fill"),
        ({"feeds": [replace(TRADES, once=8, in_gaps=1)]}, "every hole that the exchange can fill"),
        ({"out_of_turn": 1}, "once and in turn"),
        ({"mart": {SERIES: 2}}, "in the mart"),
        ({"mismatches": ["one differs in theta"]}, "in the mart"),
        ({"counters": {"duplicates": 0}}, "what was sent again"),
        ({"feeds": [TRADES, replace(TRADES, twice=1)]}, "what was sent again"),
        ({"dead_letters": {}, "dead_letters_by_venue": {}}, "dead letters are"),
        ({"dead_letters_by_venue": {"KRAKEN": 1}}, "dead letters are"),
        ({"dead_letters": {"unreadable_frame": 1, "conflicting_row": 1}}, "dead letters are"),
        ({"feeds": [replace(TRADES, missing=1)]}, "every id of every feed"),
        ({"feeds": [TRADES, replace(TRADES, twice=1)]}, "every id of every feed"),
        ({"feeds": [replace(TRADES, strange=1)]}, "every id of every feed"),
        ({"feeds": [TRADES, replace(BOOKS, wrong=1)]}, "every id of every feed"),
        ({"unreadable": 1}, "every id of every feed"),
        ({"stuck": "engine: 3"}, "worked off"),
    ],
)
def test_a_broken_promise_is_noticed(wrong: dict[str, Any], says: str) -> None:
    found = broken(replace(kept_all(), **wrong))
    assert any(says in promise for promise in found), found


def test_a_killed_collectors_counts_died_with_it() -> None:
    """Nobody knows how many duplicates it dropped; all else holds, for what it missed was fetched by its heir."""
    killed = replace(kept_all(), counters={}, restarts={"collector": 1})
    assert broken(killed) == []
    assert broken(replace(killed, feeds=[replace(TRADES, twice=1)])) != []
    assert broken(replace(killed, feeds=[replace(TRADES, once=7, in_gaps=2)])) != []


def test_the_figures_are_named_as_scripts_know_them() -> None:
    found = kept_all()
    told = figures(found, promises(found))
    assert told["trades_unique"] == told["trades_in_kafka"] == told["trades_in_influx"] == 9
    assert (told["frames"], told["trades_received"], told["duplicates"], told["dead_letters"]) == (14, 8, 1, 1)
    assert told["bars"] == {SERIES: {"kafka": 3, "mart": 3}}
    assert (told["seconds"], told["trades_per_second"]) == (2.0, 4.5)
    assert told["latency_ms"] == {"p50": 10.0, "p99": 20.0}
    assert told["injected"]["gap"] == 1
    assert (told["gaps"], told["missing_ids"], told["unfilled"]) == (1, 2, 0)
    assert (told["repaired"], told["repaired_late"], told["repaired_by_cause"]) == (2, 0, {"SEQUENCE": 1})
    assert told["symbols"][MARKET]["repaired"] == 2
    (feed,) = told["feeds"]
    assert (feed["source"], feed["venue"], feed["channel"]) == ("BINANCE_SPOT", "BINANCE_SPOT", "trades")
    assert (feed["issued"], feed["sent"], feed["once"], feed["kept"]) == (9, 9, 9, True)


def shown(found: Findings, width: int = 200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(show(found, promises(found), width))
    return console.export_text()


def test_a_person_sees_what_does_not_hold_of_a_feed() -> None:
    wrong = replace(TRADES, missing=3, example="BTCUSDT 4 is missing")
    text = shown(replace(kept_all(), feeds=[wrong]))
    assert text.count("3 missing: BTCUSDT 4 is missing") == 2


def test_a_person_is_told_what_was_done_and_that_it_was_mended() -> None:
    text = shown(kept_all())
    assert "injected: 1 gap of 2 trades, 1 duplicate, 1 unreadable message, 2 cuts\n" in text
    assert "of what no connection brought, all 2 trades were fetched over REST and put back in order\n" in text
    assert "2 trades fetched over REST, all put back in order; 2 ids missing that the exchange never had" in text


def test_a_person_is_told_what_came_too_late_or_not_at_all() -> None:
    late = shown(replace(kept_all(), feeds=[replace(TRADES, late=1)]))
    assert "all 2 trades were fetched over REST, 1 of them too late to be put in order" in late
    missing = shown(replace(kept_all(), feeds=[replace(TRADES, once=7, repaired=1, withheld=2)], repaired={MARKET: 1}))
    assert "1 trade fetched over REST, all put back in order; 2 still missing" in missing
    assert "of what no connection brought" not in missing


def test_a_person_sees_that_a_kept_book_is_the_exchanges_own() -> None:
    assert "kept by Raven, each the exchange's own" in shown(replace(kept_all(), feeds=[BOOKS]))


def test_a_narrow_screen_shows_every_count_whole() -> None:
    longest = Row(Name("BINANCE_FUTURES", "liquidations"), 500, 1_234_567, 1_234_567, once=1_234_566, missing=1)
    text = shown(replace(kept_all(), feeds=[longest]), width=80)
    assert "BINANCE_FUTURES_LIQUIDATIONS  liquidations  1,234,567  1,234,566      1  BROKEN" in text


def test_many_markets_are_folded_by_venue_and_none_is_lost() -> None:
    found = kept_all()
    assert found.source is not None
    options = {
        f"BTC-{number}-C": {"issued": 2, "delivered": 2, "delivered_unique": 2, "hole_trades": 0}
        for number in range(300)
    }
    venues = found.source["venues"] | {"DERIBIT": {"symbols": options, "observable": {"dead_letters": 0}}}
    text = shown(replace(found, source={**found.source, "venues": venues}))
    assert f"DERIBIT: {300 - MARKETS_SHOWN + 1} others" in text
    assert MARKET in text


def test_gaps_add_up_by_venue_and_repairs_by_market() -> None:
    assert by_venue([("A", 2), ("B", 1), ("A", 3)]) == {"A": (2, 5), "B": (1, 1)}
    assert by_market([("A:X", 2), ("B:Y", 1), ("A:X", 3)]) == {"A:X": 5, "B:Y": 1}


def test_a_person_sees_the_broken_promise() -> None:
    found = replace(kept_all(), mismatches=["tib #1 differs in theta"])
    text = shown(found)
    assert "BROKEN" in text
    assert "tib #1 differs in theta" in text
    assert "1 promise broken" in text
