"""Which trades are sound; every bound is tried from both sides."""

from typing import Any

import pytest

from processors.columns import of_rows, take, unsound
from ravencore.columns import TradeColumns
from ravencore.decimals import from_text
from tests.processors.oracles import Print
from tests.processors.tapes import row

GOOD = Print(10**15, 10**15, "1", 1, from_text("61837.63"), from_text("0.02"), buy=True)


def columns(**changed: Any) -> TradeColumns:
    return of_rows([row(GOOD), row(GOOD._replace(**changed)), row(GOOD)])


@pytest.mark.parametrize(
    "changed",
    [
        {"price": 0},
        {"price": -1},
        {"quantity": 0},
        {"quantity": -(10**18)},
        {"price": 10**38, "quantity": 10**16},
        {"quantity": 10**32},
        {"price": 10**30, "quantity": 10**20},
        {"event_time": GOOD.received_time + 60_000_001},
        {"price": from_text("0.0000000001"), "quantity": from_text("0.000000001")},
        {"price": 5, "quantity": from_text("0.2")},
    ],
    ids=str,
)
def test_unsound(changed: dict[str, Any]) -> None:
    found = unsound(columns(**changed))
    assert list(found) == [1]
    assert found[1]


@pytest.mark.parametrize(
    "changed",
    [
        {"price": 1, "quantity": from_text("1")},
        {"price": from_text("0.0000000001"), "quantity": from_text("0.00000001")},
        {"quantity": 10**32 - 10**18, "price": from_text("0.5")},
        {"price": 10**30 - 10**18, "quantity": 10**18},
        {"event_time": GOOD.received_time + 60_000_000},
        {"event_time": 0},
    ],
    ids=str,
)
def test_sound(changed: dict[str, Any]) -> None:
    assert unsound(columns(**changed)) == {}


@pytest.mark.parametrize(("raw", "units"), [(b"\x7f", 127), (b"\x80", -128), (b"\xff\x80", -128), (b"", 0)])
def test_decimals_of_any_writer_are_read(raw: bytes, units: int) -> None:
    assert of_rows([row(GOOD), {**row(GOOD), "price": raw}]).price == [GOOD.price, units]


def test_decimals_are_added_trade_by_trade() -> None:
    """No price of this batch goes with every quantity of it, but each trade is sound."""
    fine = GOOD._replace(price=1, quantity=10**18)
    coarse = GOOD._replace(price=10**18, quantity=1)
    assert unsound(of_rows([row(fine), row(coarse)])) == {}


def test_columns_hold_what_the_rows_held() -> None:
    seller = GOOD._replace(buy=False, sequence=None, after_gap=True, trade_id="x")
    made = of_rows([row(GOOD), row(seller)])
    assert (made.buy, list(made.after_gap), list(made.sequence)) == ([True, False], [False, True], [1, None])
    assert (made.price, made.quantity) == ([GOOD.price] * 2, [GOOD.quantity] * 2)
    assert take(made, [1]).trade_id == ["x"]
    assert take(made, [0, 1]) is made
