"""Which venue a recording is of: what is in it decides, then words of its path, and a person before both."""

import json
from pathlib import Path

import pytest
import zstandard

from simulator.contract import SimulatorError
from simulator.registry import DIALECTS
from simulator.sorting import sort

VENUES = [make() for make in DIALECTS.values()]
SPOT = '{"e":"trade","E":1,"s":"AUSDT","t":1,"p":"1","q":"1","T":1,"m":true,"M":true}'
USDM = '{"e":"trade","E":1,"T":1,"s":"AUSDT","t":1,"p":"1","q":"1","X":"MARKET","m":true}'
KLINE = '{"e":"kline","E":1,"s":"AUSDT","k":{"t":0,"i":"1m","x":false}}'


def frames(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{number}\t{row}\n" for number, row in enumerate(rows, start=1)))
    return path


def venue_of(path: Path | str) -> str:
    (venue,) = sort([str(path)], VENUES)
    return venue


@pytest.mark.parametrize(
    ("frame", "venue"),
    [
        (SPOT, "BINANCE_SPOT"),
        (USDM, "BINANCE_FUTURES"),
        ('{"stream":"a@depth20@100ms","data":{"lastUpdateId":1,"bids":[],"asks":[]}}', "BINANCE_SPOT"),
        ('{"u":4,"s":"BNBUSDT","b":"25.3","B":"31.2","a":"25.4","A":"40.6"}', "BINANCE_SPOT"),
        ('{"e":"bookTicker","u":4,"s":"A","b":"2","B":"3","a":"2","A":"4","T":1,"E":1}', "BINANCE_FUTURES"),
        ('{"e":"depthUpdate","E":1,"s":"A","U":1,"u":2,"b":[],"a":[]}', "BINANCE_SPOT"),
        ('{"e":"depthUpdate","E":1,"T":1,"s":"A","U":1,"u":2,"pu":0,"b":[],"a":[]}', "BINANCE_FUTURES"),
        ('{"e":"aggTrade","E":1,"s":"A","a":1,"p":"1","q":"1","f":1,"l":1,"T":1,"m":true,"M":true}', "BINANCE_SPOT"),
        ('{"e":"aggTrade","E":1,"s":"A","a":1,"p":"1","q":"1","f":1,"l":1,"T":1,"m":true}', "BINANCE_FUTURES"),
        ('[{"e":"markPriceUpdate","E":1,"s":"A","p":"1"}]', "BINANCE_FUTURES"),
        ('{"e":"forceOrder","E":1,"o":{"s":"A"}}', "BINANCE_FUTURES"),
    ],
)
def test_a_frame_tells_its_venue_whatever_the_path_says(tmp_path: Path, frame: str, venue: str) -> None:
    misleading = {"BINANCE_SPOT": "binance_usdm", "BINANCE_FUTURES": "binance_spot"}[venue]
    assert venue_of(frames(tmp_path / misleading / "x.frames", KLINE, frame)) == venue


def test_the_path_decides_where_no_frame_does_and_a_person_before_both(tmp_path: Path) -> None:
    silent = frames(tmp_path / "binance_usdm" / "x.frames", KLINE)
    assert venue_of(silent) == "BINANCE_FUTURES"
    assert venue_of(f"BINANCE_SPOT={silent}") == "BINANCE_SPOT"
    with pytest.raises(SimulatorError, match=r"x\.frames: no frame tells its venue; write VENUE="):
        venue_of(frames(tmp_path / "x.frames", KLINE))


def test_answers_beside_a_recording_come_with_it_and_others_go_by_their_url(tmp_path: Path) -> None:
    one = frames(tmp_path / "a.frames", SPOT)
    beside = [tmp_path / "a.rest.jsonl", tmp_path / "a.rest_depth.frames.zst"]
    beside[0].write_text("")
    beside[1].write_bytes(zstandard.compress(b""))
    alone = tmp_path / "b.rest.jsonl"
    alone.write_text(json.dumps({"recv_ns": 1, "url": "https://fapi.binance.com/fapi/v1/depth?symbol=A", "body": "{}"}))
    found = sort([str(one), str(alone)], VENUES)
    assert (found["BINANCE_SPOT"].frames, found["BINANCE_SPOT"].bodies) == ([one], beside[:1])
    assert found["BINANCE_SPOT"].depths == beside[1:]
    assert found["BINANCE_FUTURES"].bodies == [alone]


def test_answers_named_with_their_recording_are_not_taken_twice(tmp_path: Path) -> None:
    one = frames(tmp_path / "a.frames", SPOT)
    body = tmp_path / "a.rest.jsonl"
    body.write_text(json.dumps({"recv_ns": 1, "url": "https://x/api/v3/depth", "body": "{}"}))
    depths = frames(tmp_path / "c.rest_depth.frames", "{}")
    found = sort([str(body), str(one), str(depths)], VENUES)["BINANCE_SPOT"]
    assert (found.frames, found.bodies, found.depths) == ([one], [body], [depths])


@pytest.mark.parametrize(
    ("pattern", "venue"),
    [
        ("binance_spot/*.frames.zst", "BINANCE_SPOT"),
        ("binance_usdm/*.frames.zst", "BINANCE_FUTURES"),
        ("binance_*/*.rest.jsonl.zst", ""),
        ("derived/spot_*.frames.zst", "BINANCE_SPOT"),
        ("derived/usdm_*.frames.zst", "BINANCE_FUTURES"),
    ],
)
def test_every_binance_recording_is_recognized_by_its_frames_alone(
    recordings: Path, tmp_path: Path, pattern: str, venue: str
) -> None:
    paths = [path for path in sorted(recordings.glob(pattern)) if "rest_depth" not in path.name]
    assert paths
    for number, path in enumerate(paths):
        ending = ".rest.jsonl.zst" if ".rest.jsonl" in path.name else ".frames.zst"
        nameless = tmp_path / f"{number}{ending}"
        nameless.symlink_to(path)
        expected = venue or {"binance_spot": "BINANCE_SPOT", "binance_usdm": "BINANCE_FUTURES"}[path.parent.name]
        assert venue_of(nameless) == expected
