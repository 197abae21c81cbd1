"""Bars of rule "raven" by hand."""

from typing import Any

import pytest

from ravencore.config import BarsSettings
from tests.processors.tapes import bars_of


def raven(size: int, **others: Any) -> dict[str, Any]:
    return {"rule": "raven", "initial_size": size, **others}


def test_the_first_bar_of_a_hundred_closes_at_forty() -> None:
    """100 * (2 * 0.7 - 1) is 39.99999999999999 in doubles, which 40 buys exceed; no bar is a warm-up bar."""
    [(closed, bar)] = bars_of("tib", raven(100), "b" * 60)
    assert (closed, bar.ticks, bar.theta, bar.threshold) == (39, 40, 40.0, 39.99999999999999)
    assert (bar.expected_ticks, bar.warmup) == (100.0, False)


@pytest.mark.parametrize("kind", ["tib", "vib"])
def test_the_first_tick_only_opens_a_bar(kind: str) -> None:
    """h = 2 * 0.4 = 0.8: one buy of 1 exceeds it and closes nothing."""
    [(closed, bar)] = bars_of(kind, raven(2), "bb")
    assert (closed, bar.ticks, bar.theta) == (1, 2, 2.0)


def test_what_a_tick_bar_teaches() -> None:
    """After 40 buys of 40: p = 1, EB = 0.1*1 + 0.9*0.4; E[T] = 0.1*40 + 0.9*100 = 94."""
    [_, (_, following)] = bars_of("tib", raven(100), "b" * 90)
    assert following.expected_ticks == 94.0
    assert following.threshold == 94.0 * (0.1 * 1.0 + 0.9 * (2 * 0.7 - 1))


def test_volume_begins_with_the_first_quantity() -> None:
    """EV = 5: h = 4 * 5 * (2 * 0.7 - 1) = 8, which 5 + 4 exceeds. Then P = 0.1*1 + 0.9*0.7, EV = 0.1*4.5 + 0.9*5."""
    [(_, first), (_, following)] = bars_of("vib", raven(4), "bbbbb", sizes=[5, 4, 5, 4, 3])
    assert (first.theta, first.threshold) == (9.0, 4.0 * 5.0 * (2 * 0.7 - 1))
    share, mean = 0.1 * 1.0 + 0.9 * 0.7, 0.1 * 4.5 + 0.9 * 5.0
    assert following.threshold == following.expected_ticks * mean * (2 * share - 1)  # type: ignore[operator]


def test_a_run_counts_when_it_is_over() -> None:
    """h = 4 * 0.7 = 2.8: four buys in a row are a run of 4 when a sell has come."""
    [(closed, bar)] = bars_of("trb", raven(4), "bbbbs")
    assert (closed, bar.theta, bar.threshold) == (4, 4.0, 4.0 * 0.7)
    assert bars_of("trb", raven(4), "bsbsbsbsbsbs") == []


def test_only_three_kinds_have_it() -> None:
    with pytest.raises(ValueError, match="rule"):
        BarsSettings.model_validate({"dib": {"dib_small": {"rule": "raven"}}})
