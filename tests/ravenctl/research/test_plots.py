"""Pictures of bars: what is drawn, and that the file is a picture."""

import struct
import zlib
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from ravenctl.canvas import Canvas
from typer.testing import CliRunner

from ravencore.config import BarsSettings, RuledBarProfile, VpinSettings
from ravencore.decimals import ONE
from ravencore.records import Bar
from ravenctl import glyphs, plots
from ravenctl.cli import app
from tests.ravenctl.research.markets import live, market, write

LINES = market(6_000)


def pixels(png: bytes) -> npt.NDArray[np.uint8]:
    """A PNG's pixels, read by its definition; checks its chunks."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    place, data, size = 8, b"", (0, 0)
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        name, body = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        assert struct.unpack(">I", png[place + 8 + length : place + 12 + length])[0] == zlib.crc32(name + body)
        if name == b"IHDR":
            size = struct.unpack(">II", body[:8])
            assert body[8:] == bytes([8, 2, 0, 0, 0])
        data += body if name == b"IDAT" else b""
        place += 12 + length
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(size[1], 1 + 3 * size[0])
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(size[1], size[0], 3)


def test_a_canvas_becomes_its_pixels() -> None:
    canvas = Canvas(20, 10)
    canvas.rectangle(2, 3, 5, 6, (10, 20, 30))
    canvas.rectangle(-5, -5, 1, 1, (1, 2, 3))
    canvas.rectangle(18, 8, 50, 50, (7, 8, 9))
    seen = pixels(canvas.png())
    expected = np.full((10, 20, 3), 255, np.uint8)
    expected[3:6, 2:5] = (10, 20, 30)
    expected[:1, :1] = (1, 2, 3)
    expected[8:, 18:] = (7, 8, 9)
    assert (seen == expected).all()


def test_lines_and_letters_may_leave_the_canvas() -> None:
    canvas = Canvas(30, 30)
    canvas.line([-10, 40], [-10, 40], (0, 0, 0))
    canvas.text(20, 20, "Wide", (0, 0, 0), size=2)
    canvas.text(-5, -5, "Wide", (0, 0, 0))
    canvas.text(100, 100, "Wide", (0, 0, 0))
    seen = pixels(canvas.png())
    assert [tuple(seen[at, at]) != (255, 255, 255) for at in (0, 15, 29)] == [True] * 3


def test_letters_have_their_shapes() -> None:
    shape = ["".join(" #"[int(dot)] for dot in row).rstrip() for row in glyphs.dots("L")]
    assert shape == ["#", "#", "#", "#", "#", "#", "#####", ""]
    assert len({glyphs.dots(chr(code)).tobytes() for code in range(32, 127)}) == 95
    assert (glyphs.dots("\u20bf") == glyphs.dots("?")).all()


@cache
def bars(kind: str = "tib", profile: str = "tib_small") -> list[Bar]:
    tiny = {"tib_small": RuledBarProfile(initial_size=4)}
    settings = BarsSettings(time_intervals=["1s"], tib=tiny, trb={}, vib={}, vpin=VpinSettings(bucket_volume="1e12"))
    return [it for it in live(LINES, settings, f"raven.bars.{kind}", profile) if isinstance(it, Bar)]


def has(seen: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    return bytes(colour) in np.ascontiguousarray(seen).tobytes()


def test_candles_are_merged_and_nothing_is_lost() -> None:
    records = bars()
    assert len(records) > 2 * plots.MOST_CANDLES
    chart = plots.Chart("x", "y")
    chart.add(records[:100])
    chart.add(records[100:])
    candles = chart._candles
    assert plots.MOST_CANDLES / 2 <= len(candles) <= plots.MOST_CANDLES
    assert sum(candle.bars for candle in candles) == len(records)
    assert {candle.bars for candle in candles[:-1]} == {chart._each}
    place = 0
    for candle in candles:
        part = records[place : place + candle.bars]
        place += candle.bars
        assert (candle.open_time, candle.close_time) == (part[0].open_time, part[-1].close_time)
        assert (candle.open, candle.close) == (part[0].open / ONE, part[-1].close / ONE)
        assert (candle.high, candle.low) == (max(it.high for it in part) / ONE, min(it.low for it in part) / ONE)
        ticks = next(series for series in plots.SERIES if series.name == "ticks")
        assert candle.mean(ticks) == pytest.approx(sum(it.ticks for it in part) / len(part))


@pytest.mark.parametrize(("count", "kind"), [(3, ["tib", "tib_small"]), (1, ["time", "1s"]), (9_000, ["time", "1s"])])
def test_a_picture_of_few_or_many(count: int, kind: list[str], tmp_path: Path) -> None:
    chart = plots.Chart("BINANCE_SPOT BTCUSDT", " ".join(kind))
    chart.add(bars(*kind)[:count])
    chart.save(tmp_path / "bars.png")
    seen = pixels((tmp_path / "bars.png").read_bytes())
    assert seen.shape == (plots.HEIGHT, plots.WIDTH, 3)
    assert has(seen, plots.UP) or has(seen, plots.DOWN)
    assert has(seen, plots.GREY)


def test_times_on_the_axis_are_round_and_leave_room() -> None:
    chart = plots.Chart("x", "y")
    chart.add(bars("time", "1s"))
    marks = plots._marks(chart._candles)
    assert plots.LABELS // 2 < len(marks) <= plots.LABELS + 1
    assert len({time_us % 60_000_000 for _, time_us in marks}) == 1
    places = [place for place, _ in marks]
    assert min(after - before for before, after in pairwise(places)) >= len(chart._candles) / 13


def test_it_is_drawn_on_demand(tmp_path: Path) -> None:
    path = write(tmp_path, "plain.csv", LINES)
    plot, out = tmp_path / "vpin.png", tmp_path / "vpin.csv"
    args = [
        "bars",
        str(path),
        "--kind",
        "vpin",
        "--set",
        "bucket_volume=300000",
        "--out",
        str(out),
        "--plot",
        str(plot),
    ]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    seen = pixels(plot.read_bytes())
    assert has(seen, plots.BLUE)
    assert has(seen, plots.ORANGE)


def test_nothing_can_be_drawn_of_no_bars(tmp_path: Path) -> None:
    path = write(tmp_path, "plain.csv", LINES[:50])
    out, plot = tmp_path / "bars.csv", tmp_path / "bars.png"
    result = CliRunner().invoke(app, ["bars", str(path), "--kind", "tib", "--out", str(out), "--plot", str(plot)])
    assert result.exit_code == 1
    assert "no bar has closed" in result.stderr
    assert not out.exists()
    assert not plot.exists()
