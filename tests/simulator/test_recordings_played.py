"""Every Binance recording, played over real sockets, is what its file begins with: each stream, byte for byte."""

import asyncio
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect

from simulator.contract import Dialect, Market
from simulator.dialects.binance_futures import is_market, is_public
from simulator.recording import RecordedMarket, lines
from simulator.registry import DIALECTS
from simulator.server.service import Server
from simulator.server.settings import Settings
from simulator.sorting import sort
from tests.simulator.played import beginning

PATIENCE_SECONDS = 100.0
FRAMES = 10_000
"""Of each file; the largest holds nine times as many, all of the same few kinds."""
SPOT = ("cf_btc_eth_dot_20210404", "hft_btcusdt_20230405", "hft_btcusdt_20240808", "hft_ethusdt_20240808")
USDM = ("cf_alts_20210722", "hft_btcusdt_20230404", "hft_btcusdt_20230405", "hft_btcusdt_20240808")
DERIVED = (
    ("spot_btcusdt_trade_depth20_20260216", "BINANCE_SPOT"),
    ("usdm_btcusdt_aggTrade_depth20_20240808", "BINANCE_FUTURES"),
    ("usdm_btcusdt_aggTrade_depth20_markPrice_20230404_05", "BINANCE_FUTURES"),
)
FILES = [
    *((f"binance_spot/{name}", "BINANCE_SPOT") for name in SPOT),
    *((f"binance_usdm/{name}", "BINANCE_FUTURES") for name in USDM),
    *((f"derived/{name}", venue) for name, venue in DERIVED),
]
Tapes = dict[str, list[str]]


def stream_of(frame: str) -> str | None:
    """Whose frame it is; nobody's if it answers a request."""
    head = '{"stream":"'
    if frame.startswith(head):
        return frame[len(head) : frame.index('"', len(head))]
    name: str | None = json.loads(frame).get("stream")
    return name


def tapes_of(path: Path) -> Tapes:
    """The frames of a file by stream."""
    tapes: Tapes = defaultdict(list)
    for frame in (raw.decode() for _, raw in lines(path)):
        tapes[stream_of(frame) or ""].append(frame)
    return tapes


def serve(path: Path, venue: str) -> Server:
    dialect: Dialect = DIALECTS[venue]()
    files = sort([str(path)], [make() for make in DIALECTS.values()])
    assert list(files) == [venue]
    market: Market = RecordedMarket(files[venue], dialect)
    return Server([(dialect, market)], Settings(speed=None))


async def listen(server: Server, path: str, streams: set[str], heard: Tapes, subscribed: asyncio.Event) -> None:
    """Read these streams until playback is done and the last frame is here."""
    async with connect(f"ws://{server.address}{path}", max_size=None, compression=None, close_timeout=0.2) as client:
        await client.send(json.dumps({"method": "SUBSCRIBE", "params": sorted(streams), "id": 1}))
        while True:
            try:
                message = await asyncio.wait_for(client.recv(), 0.5)
            except TimeoutError:
                if server.player.state == "done":
                    return
                continue
            stream = stream_of(str(message))
            if stream is not None:
                heard[stream].append(str(message))
            else:
                subscribed.set()


@pytest.mark.timeout(2 * PATIENCE_SECONDS)
@pytest.mark.parametrize(("name", "venue"), FILES)
async def test_a_client_gets_the_file_byte_for_byte(recordings: Path, tmp_path: Path, name: str, venue: str) -> None:
    path = beginning(recordings / f"{name}.frames.zst", tmp_path, FRAMES)
    expected = tapes_of(path)
    heard: Tapes = defaultdict(list)
    async with serve(path, venue) as server:
        streams = set(expected) | server.venues[venue].required
        routes = {"/stream": streams}
        if venue == "BINANCE_FUTURES":
            market = set(filter(is_market, streams))
            routes = {"/public/stream": set(filter(is_public, streams - market)), "/market/stream": market}
        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as clients:
            for route, asked in routes.items():
                subscribed = asyncio.Event()
                clients.create_task(listen(server, f"/{venue}{route}", asked, heard, subscribed))
                await subscribed.wait()  # playback begins with the trades, which come last
        figures = server.pages.stats()["venues"][venue]
    for stream, tape in expected.items():
        assert len(heard[stream]) == len(tape), stream
        assert heard[stream] == tape, stream
    assert set(heard) >= set(expected)
    for row in figures["channels"].values():
        assert (row["delivered_unique"], row["missed"]) == (row["issued"], 0)


async def get(server: Server, path: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"http://{server.address}{path}") as answer:
        assert answer.status == 200
        return await answer.json()


async def test_recordings_of_two_venues_begin_together_and_their_listings_are_served(recordings: Path) -> None:
    """They were made months apart; their REST answers stand beside them."""
    paths = [recordings / name for name in ("binance_spot/" + SPOT[0], "binance_usdm/" + USDM[0])]
    dialects = [make() for make in DIALECTS.values()]
    files = sort([f"{path}.frames.zst" for path in paths], dialects)
    markets: list[tuple[Dialect, Market]] = [
        (dialect, RecordedMarket(files[dialect.venue], dialect)) for dialect in dialects if dialect.venue in files
    ]
    heard: Tapes = defaultdict(list)
    async with Server(markets, Settings(speed=None)) as server:
        info = await get(server, "/BINANCE_FUTURES/fapi/v1/exchangeInfo")
        (rules,) = [row for row in info["symbols"] if row["symbol"] == "SUSHIUSDT"]
        assert (rules["contractType"], rules["baseAsset"], rules["pricePrecision"]) == ("PERPETUAL", "SUSHI", 4)
        assert len(info["symbols"]) > 100
        book = await get(server, "/BINANCE_SPOT/api/v3/depth?symbol=BTCUSDT&limit=5")
        assert (len(book["bids"]), len(book["asks"])) == (5, 5)
        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as clients:
            routes = {"/BINANCE_SPOT/stream": "BINANCE_SPOT", "/BINANCE_FUTURES/market/stream": "BINANCE_FUTURES"}
            for route, venue in routes.items():
                streams = set(server.venues[venue].required)
                clients.create_task(listen(server, route, streams, heard, asyncio.Event()))
        stats = server.pages.stats()["venues"]
    assert len(heard) > 0
    assert [stats[venue]["position"]["time"][:7] for venue in ("BINANCE_SPOT", "BINANCE_FUTURES")] == [
        *("2021-04", "2021-07"),
    ]


def test_no_binance_recording_is_left_out(recordings: Path) -> None:
    found = {
        str(path.relative_to(recordings)).removesuffix(".frames.zst")
        for pattern in ("binance_*/*.frames.zst", "derived/spot_*.frames.zst", "derived/usdm_*.frames.zst")
        for path in recordings.glob(pattern)
        if "rest_depth" not in path.name
    }
    assert found == {name for name, _ in FILES}
