"""A market played from recordings: lines `<recv_ns>\\t<raw frame>`, plain or zstd.

Several files are merged by receive time and streamed, never held whole. A first pass learns the symbols, their ticks
and lots, and checks every line.
Beside `X.frames.zst` may stand `X.rest_depth.frames.zst` (REST depth responses) to start the books from.
"""

import heapq
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import zstandard

from simulator.contract import Dialect, Frame, Instrument, SimulatorError, Snapshot, Unreadable

QUOTE_ASSETS = (
    *("FDUSD", "USDT", "USDC", "TUSD", "BUSD", "USD1", "USDP", "PAX", "DAI"),
    *("BTC", "ETH", "BNB", "TRX", "XRP", "DOGE", "SOL"),
    *("TRY", "EUR", "GBP", "AUD", "BRL", "JPY", "MXN", "PLN", "ARS", "UAH", "ZAR", "RUB", "IDR", "NGN", "USD"),
)
DEFAULT_TICK_E8 = 1_000_000
DEFAULT_LOT_E8 = 1_000
PROGRESS_LINES = 100_000
CHUNK_BYTES = 1 << 17

Progress = Callable[[int], None]


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Receive time and raw message of every line. Raises SimulatorError naming file and line."""
    number = 0
    try:
        with path.open("rb") as file:
            chunks = _decompressed(file) if path.suffix == ".zst" else iter(lambda: file.read(CHUNK_BYTES), b"")
            for number, line in enumerate(_split(chunks), start=1):
                time_text, tab, raw = line.rstrip(b"\r").partition(b"\t")
                if not tab or not raw or not time_text.isdigit():
                    raise SimulatorError(f"{path}, line {number}: not `<recv_ns><tab><frame>`: {line[:80]!r}")
                yield int(time_text), raw
    except OSError as error:
        raise SimulatorError(f"cannot read the recording {path}: {error.strerror or error}") from error
    except zstandard.ZstdError as error:
        raise SimulatorError(f"{path}: damaged zstd data after line {number}: {error}") from error


def _decompressed(file: BinaryIO) -> Iterator[bytes]:
    """stream_reader takes a file cut short for its end; this raises ZstdError."""
    frame = None
    while data := file.read(CHUNK_BYTES):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise zstandard.ZstdError("the file ends too early")


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def read_frames(path: Path, dialect: Dialect) -> Iterator[Frame]:
    """The market frames of one file; replies to a recorder's requests are left out."""
    for number, (time_ns, raw) in enumerate(lines(path), start=1):
        try:
            frame = dialect.read(time_ns, raw)
        except Unreadable as error:
            raise SimulatorError(f"{path}, line {number}: {error}") from error
        if frame is not None:
            yield frame


def _time_ns(frame: Frame) -> int:
    return frame.time_ns


class RecordedMarket:
    """Recordings of one venue. Raises SimulatorError on a file that cannot be read to its end."""

    source = "recording"

    def __init__(self, paths: Sequence[Path], dialect: Dialect, progress: Progress = lambda _: None) -> None:
        self._paths = paths
        self._dialect = dialect
        survey = _Survey(dialect)
        for path in paths:
            survey.read(path, progress)
        if not survey.symbols:
            raise SimulatorError(f"no market frames in {', '.join(map(str, paths))}")
        self.begins_ns = survey.begins_ns
        self.instruments: Mapping[str, Instrument] = survey.instruments()
        self.snapshots: Mapping[str, Sequence[Snapshot]] = survey.snapshots
        self.has_depth20 = frozenset(survey.with_kind("depth20"))
        self.expected_trades = sum(count for (_, kind), count in survey.counts.items() if kind == "trade")
        self.notes: Sequence[str] = survey.notes()

    def frames(self, start_ns: int | None) -> Iterator[Frame]:
        """Recorded times are kept: `start_ns` means nothing here."""
        return heapq.merge(*(read_frames(path, self._dialect) for path in self._paths), key=_time_ns)


class _Survey:
    """What a first pass over the files tells."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.symbols: dict[str, _Steps] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self.snapshots: dict[str, list[Snapshot]] = {}
        self.unplaced: list[str] = []
        self.begins_ns = 0

    def read(self, path: Path, progress: Progress) -> None:
        updates: dict[str, tuple[int, int]] = {}
        for number, frame in enumerate(read_frames(path, self.dialect), start=1):
            self.begins_ns = min(self.begins_ns or frame.time_ns, frame.time_ns)
            self.counts[frame.symbol, frame.kind] += 1
            self._note(frame, path, updates)
            if number % PROGRESS_LINES == 0:
                progress(number)
        beside = path.with_name(path.name.replace(".frames", ".rest_depth.frames"))
        if beside != path and beside.exists():
            self._read_snapshots(beside, updates)

    def _note(self, frame: Frame, path: Path, updates: dict[str, tuple[int, int]]) -> None:
        steps = self.symbols.setdefault(frame.symbol, _Steps())
        try:
            if frame.kind == "depth":
                diff = self.dialect.read_depth(frame)
                first = updates.get(frame.symbol, (diff.first_id, 0))[0]
                updates[frame.symbol] = (first, diff.last_id)
            if steps.wanted:
                steps.add(*self.dialect.texts(frame))
        except Unreadable as error:
            raise SimulatorError(f"{path}, {frame.stream} at {frame.time_ns}: {error}") from error

    def _read_snapshots(self, path: Path, updates: Mapping[str, tuple[int, int]]) -> None:
        """REST responses name no symbol: theirs is the one whose update ids surround them."""
        for number, (_, raw) in enumerate(lines(path), start=1):
            try:
                snapshot = self.dialect.read_snapshot(raw)
            except Unreadable as error:
                raise SimulatorError(f"{path}, line {number}: {error}") from error
            fitting = [s for s, (first, last) in updates.items() if first - 1 <= snapshot.last_id <= last]
            if len(fitting) == 1:
                self.snapshots.setdefault(fitting[0], []).append(snapshot)
            else:
                self.unplaced.append(f"{path.name}, line {number}: the snapshot fits {len(fitting)} symbols")

    def with_kind(self, kind: str) -> list[str]:
        return [symbol for symbol in self.symbols if self.counts[symbol, kind]]

    def instruments(self) -> dict[str, Instrument]:
        return {symbol: _instrument(symbol, steps) for symbol, steps in self.symbols.items()}

    def notes(self) -> list[str]:
        found = list(self.unplaced)
        for symbol in self.symbols:
            if not self.counts[symbol, "trade"]:
                found.append(f"{symbol}: the recording holds no @trade frames")
            if self.counts[symbol, "depth20"]:
                continue
            if not self.counts[symbol, "depth"]:
                found.append(f"{symbol}: no depth20, the recording holds no depth")
            elif symbol not in self.snapshots:
                found.append(f"{symbol}: no depth20, there is no REST snapshot to fold the depth on")
        return found


class _Steps:
    """The finest steps seen in price and quantity texts, as greatest common divisors in 10^-8."""

    def __init__(self) -> None:
        self.price_e8 = 0
        self.quantity_e8 = 0
        self.wanted = 5_000

    def add(self, prices: Sequence[str], quantities: Sequence[str]) -> None:
        self.wanted -= len(prices) > 0
        self.price_e8 = math.gcd(self.price_e8, *map(_e8, prices))
        self.quantity_e8 = math.gcd(self.quantity_e8, *map(_e8, quantities))


def _e8(text: str) -> int:
    whole, _, fraction = text.partition(".")
    if not re.fullmatch(r"\d+", whole + fraction):
        raise Unreadable(f"not a price or quantity: {text!r}")
    return int(whole + fraction[:8].ljust(8, "0"))


def _power_of_ten(step_e8: int, default_e8: int) -> int:
    """The largest power of ten that divides all values seen."""
    if step_e8 == 0:
        return default_e8
    power = 1
    while step_e8 % (power * 10) == 0:
        power *= 10
    return power


def split(symbol: str) -> tuple[str, str]:
    """Base and quote of a symbol, by the longest quote asset known that it ends with."""
    quotes = [quote for quote in QUOTE_ASSETS if symbol.endswith(quote) and symbol != quote]
    quote = max(quotes, key=len, default="")
    return (symbol[: -len(quote)], quote) if quote else (symbol, "")


def _instrument(symbol: str, steps: _Steps) -> Instrument:
    base, quote = split(symbol)
    tick = _power_of_ten(steps.price_e8, DEFAULT_TICK_E8)
    return Instrument(symbol, base, quote, tick, _power_of_ten(steps.quantity_e8, DEFAULT_LOT_E8))
