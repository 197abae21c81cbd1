"""When the demands that are known may be too old for a record."""

import pytest

from ravencore import demands
from ravencore.demands import Lookout


def test_a_key_is_news_the_first_time_and_not_while_it_comes_again_and_again() -> None:
    lookout = Lookout()
    assert lookout.is_news({"a"})
    assert lookout.is_news({"a"}), "nobody has looked at newer demands yet"
    lookout.note({"a"})
    assert not lookout.is_news({"a"})
    assert lookout.is_news({"a", "b"})
    assert not lookout.is_news(())


def test_a_key_is_news_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    lookout = Lookout()
    lookout.note({"a"})
    monkeypatch.setattr(demands, "QUIET_S", -1.0)
    assert lookout.is_news({"a"})
