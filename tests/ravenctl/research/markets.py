"""A market made for tests, as files of every form that `ravenctl bars` reads, and as the engine is given it."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import zstandard
from msgspec.structs import asdict

from processors.contract import Output, Row
from processors.symbol import Symbol
from ravencore.codec import EPOCH, decimal_bytes
from ravencore.config import BarsSettings
from ravencore.decimals import from_text
from ravencore.records import Bar, Vpin

VENUE, SYMBOL = "BINANCE_SPOT", "BTCUSDT"
START_MS = 1_700_000_000_250


class Line(NamedTuple):
    """A trade as a file tells it."""

    time_ms: int
    number: int
    price: str
    quantity: str
    buy: bool


def market(count: int, seed: int = 6) -> list[Line]:
    """Trades with holes in their ids, in their order."""
    rng = Random(seed)
    lines: list[Line] = []
    cents, time_ms, number = 6_100_000, START_MS, 41_000
    for _ in range(count):
        cents += rng.choice([-7, -1, -1, 0, 0, 0, 1, 1, 7])
        time_ms += rng.choice([0, 0, 1, 20, 90, 400])
        number += 1 if rng.random() > 0.005 else rng.randrange(2, 9)
        quantity = Decimal(rng.choice([1, 20, 313, 4_000, 70_125, 500_000])).scaleb(-5)
        lines.append(Line(time_ms, number, f"{cents / 100:.2f}", f"{quantity:.8f}", rng.random() < 0.52))
    return lines


def shaken(lines: Sequence[Line], seed: int = 7) -> list[Line]:
    """The same with repetitions, and some a few places too late."""
    rng = Random(seed)
    out: list[Line] = []
    for place, line in enumerate(lines):
        out.insert(max(len(out) - (rng.randrange(9) if rng.random() < 0.02 else 0), 0), line)
        if rng.random() < 0.02:
            out.append(lines[max(place - rng.randrange(40), 0)])
    return out


def row(line: Line) -> Row:
    """As `Codec.decode_trades` gives it."""
    return {
        "event_time": line.time_ms * 1000,
        "received_time": line.time_ms * 1000,
        "trade_id": str(line.number),
        "sequence": line.number,
        "price": decimal_bytes(from_text(line.price)),
        "quantity": decimal_bytes(from_text(line.quantity)),
        "side": "BUY" if line.buy else "SELL",
        "after_gap": False,
    }


def outputs(lines: Sequence[Line], settings: BarsSettings) -> list[Output]:
    """What the engine publishes."""
    return Symbol(VENUE, SYMBOL, settings).apply([row(line) for line in lines], range(len(lines))).outputs


def live(lines: Sequence[Line], settings: BarsSettings, topic: str, profile: str) -> list[Bar | Vpin]:
    """What the engine publishes in a topic, of one profile."""
    made = outputs(lines, settings)
    return [output.record for output in made if (output.topic, output.record.profile) == (topic, profile)]


# Files


def table(header: Sequence[str] | None, rows: Sequence[Sequence[object]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows([*([header] if header else []), *rows])
    return text.getvalue().encode()


def plain(lines: Sequence[Line]) -> bytes:
    rows = [(it.time_ms, it.number, it.price, it.quantity, "buy" if it.buy else "sell") for it in lines]
    return table(["timestamp_ms", "trade_id", "price", "qty", "side"], rows)


def no_ids(lines: Sequence[Line]) -> bytes:
    rows = [(it.time_ms, it.price, it.quantity, "buy" if it.buy else "sell") for it in lines]
    return table(["time", "price", "quantity", "side"], rows)


def semicolons(lines: Sequence[Line]) -> bytes:
    rows = [("x", it.quantity, it.price, f"{it.time_ms / 1000:.3f}", it.number, it.buy) for it in lines]
    table_ = table(["note", "Size", "Price", "Time", "ID", "Buyer"], rows, ";").decode().replace("Buyer", "Side")
    return ("\ufeff" + table_.replace("True", "B").replace("False", "S")).replace("\n", "\r\n").encode()


def padded(lines: Sequence[Line]) -> bytes:
    """Columns of one width, as tables for the eye have them."""
    return re.sub(rb"[^,\n]+", lambda cell: cell[0].ljust(24), plain(lines))


def spot_dump(lines: Sequence[Line]) -> bytes:
    """Binance spot trades from 2025 on, without names, in microseconds."""
    return table(None, [(it.number, it.price, it.quantity, "1.0", it.time_ms * 1000, not it.buy, True) for it in lines])


def spot_aggregated_dump(lines: Sequence[Line]) -> bytes:
    return table(None, [(it.number, it.price, it.quantity, 1, 2, it.time_ms, not it.buy, True) for it in lines])


def futures_dump(lines: Sequence[Line]) -> bytes:
    header = ["id", "price", "qty", "quote_qty", "time", "is_buyer_maker"]
    rows = [(it.number, it.price, it.quantity, "1", it.time_ms, str(not it.buy).lower()) for it in lines]
    return table(header, rows)


def old_futures_dump(lines: Sequence[Line]) -> bytes:
    return futures_dump(lines).partition(b"\n")[2]


def futures_aggregated_dump(lines: Sequence[Line]) -> bytes:
    ids = ["first_trade_id", "last_trade_id"]
    header = ["agg_trade_id", "price", "quantity", *ids, "transact_time", "is_buyer_maker"]
    rows = [(it.number, it.price, it.quantity, 1, 2, it.time_ms, str(not it.buy).lower()) for it in lines]
    return table(header, rows)


def old_futures_aggregated_dump(lines: Sequence[Line]) -> bytes:
    return futures_aggregated_dump(lines).partition(b"\n")[2]


def tardis(lines: Sequence[Line]) -> bytes:
    header = ["exchange", "symbol", "timestamp", "local_timestamp", "id", "side", "price", "amount"]
    rows = [
        ("binance-spot", "BTCUSDT", it.time_ms * 1000, 0, it.number, "buy" if it.buy else "sell", it.price, it.quantity)
        for it in lines
    ]
    return table(header, rows)


def pandas(lines: Sequence[Line]) -> bytes:
    """Times as pandas writes them."""
    rows = [
        (f"{_utc(it.time_ms)}+00:00", it.number, it.price, it.quantity, "Sell" if not it.buy else "Buy") for it in lines
    ]
    return table(["datetime", "tradeId", "price", "amount", "Side"], rows)


def _utc(time_ms: int) -> str:
    moment = EPOCH + timedelta(milliseconds=time_ms)
    return moment.replace(tzinfo=None).isoformat(" ", "milliseconds")


def frames(lines: Sequence[Line], symbol: str = SYMBOL) -> bytes:
    """A recording of Binance spot."""
    told = []
    for it in lines:
        data = {"e": "trade", "E": it.time_ms, "s": symbol, "t": it.number, "p": it.price, "q": it.quantity}
        data |= {"T": it.time_ms, "m": not it.buy, "M": True}
        frame = {"stream": f"{symbol.lower()}@trade", "data": data}
        told.append(f"{it.time_ms * 1_000_000 + 5_000_000}\t{json.dumps(frame, separators=(',', ':'))}\n")
    return "".join(told).encode()


def zipped(raw: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("BTCUSDT-trades.csv", raw)
    return file.getvalue()


def zstandard_frames(raw: bytes) -> bytes:
    """Several frames in one file, as recorders write them."""
    half = len(raw) // 2
    pack = zstandard.ZstdCompressor().compress
    return pack(raw[:half]) + pack(raw[half:])


FORMS: Mapping[str, Callable[[Sequence[Line]], bytes]] = {
    "plain.csv": plain,
    "semicolons.csv": semicolons,
    "padded.csv": padded,
    "plain.csv.gz": lambda lines: gzip.compress(plain(lines)),
    "plain.csv.zst": lambda lines: zstandard_frames(plain(lines)),
    "plain.csv.xz": lambda lines: lzma.compress(plain(lines)),
    "plain.csv.bz2": lambda lines: bz2.compress(plain(lines)),
    "misnamed.csv": lambda lines: gzip.compress(plain(lines)),
    "spot.csv": spot_dump,
    "spot.zip": lambda lines: zipped(spot_dump(lines)),
    "spot_aggregated.csv": spot_aggregated_dump,
    "futures.csv": futures_dump,
    "old_futures.csv": old_futures_dump,
    "futures_aggregated.csv": futures_aggregated_dump,
    "old_futures_aggregated.csv": old_futures_aggregated_dump,
    "tardis.csv.gz": lambda lines: gzip.compress(tardis(lines)),
    "pandas.csv": pandas,
    "BTC.frames.zst": lambda lines: zstandard_frames(frames(lines)),
    "BTC.frames": frames,
}
"""Every form of file, by a name of such a file."""


def write(folder: Path, name: str, lines: Sequence[Line]) -> Path:
    """A file of that form."""
    path = folder / name
    path.write_bytes(FORMS[name](lines))
    return path


def fields(record: Bar | Vpin) -> dict[str, Any]:
    """As JSON lines show it, made another way."""
    scaled = {"open", "high", "low", "close", "volume", "quote_volume", "buy_volume"}
    shown = asdict(record)
    for name in scaled & shown.keys():
        number = f"{Decimal(shown[name]).scaleb(-18):f}"
        shown[name] = number.rstrip("0").rstrip(".") if "." in number else number
    return shown
