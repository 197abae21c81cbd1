"""A market played from recordings: lines `<recv_ns>\\t<raw frame>`, plain or zstd.

Several files of a venue are merged by receive time and streamed, never held whole. A first pass learns the symbols,
their ticks and lots, and checks every line. Beside `X.frames.zst` may stand `X.rest_depth.frames.zst` (REST depth
responses) to start the books from, and `X.rest.jsonl.zst` (lines `{"recv_ns", "url", "body"}`) with recorded REST
answers of any kind. simulator/sorting.py tells which venue a file is of.
"""

import heapq
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import zstandard

from simulator.contract import QUOTES, Body, Dialect, Frame, Listed, SimulatorError, Snapshot, Unreadable

DEFAULT_TICK_E8 = 1_000_000
DEFAULT_LOT_E8 = 1_000
PROGRESS_LINES = 100_000
CHUNK_BYTES = 1 << 17
PACKED_BYTES = 1 << 15
"""Read at a time of what grows as it is unpacked."""

log = logging.getLogger("simulator")

Progress = Callable[[int], None]
_Line = tuple[Path, int]
"""A line of a file, counted from 1."""


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Receive time and raw message of every line. Raises SimulatorError naming file and line."""
    for number, line in enumerate(text_lines(path), start=1):
        time_text, tab, raw = line.partition(b"\t")
        if not tab or not raw or not time_text.isdigit():
            raise SimulatorError(f"{path}, line {number}: not `<recv_ns><tab><frame>`: {line[:80]!r}")
        yield int(time_text), raw


class CutShort(zstandard.ZstdError):
    """Raised after whole zstd frames when the last is not whole."""


def text_lines(path: Path) -> Iterator[bytes]:
    """Every line of a file, plain or zstd. Raises SimulatorError naming file and line.

    Recorders write a zstd frame each second. One that was killed while it wrote leaves the last of many incomplete: its
    whole lines are read. A file of one zstd frame that is cut short is refused.
    """
    number = 0
    try:
        with path.open("rb") as file:
            chunks = unpacked_zstd(file) if path.suffix == ".zst" else iter(lambda: file.read(CHUNK_BYTES), b"")
            for line in _split(chunks):
                number += 1
                yield line.rstrip(b"\r")
    except OSError as error:
        raise SimulatorError(f"cannot read the recording {path}: {error.strerror or error}") from error
    except CutShort:
        log.warning("%s: its recorder was killed while it wrote; %d whole lines are read", path, number)
    except zstandard.ZstdError as error:
        raise SimulatorError(f"{path}: damaged zstd data after line {number}: {error}") from error


def unpacked_zstd(file: BinaryIO) -> Iterator[bytes]:
    """What zstd frames hold; ZstdError where the last is cut short, which zstandard's own stream_reader lets pass."""
    frame = None
    whole = 0
    while data := file.read(PACKED_BYTES):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data = frame.unused_data if frame.eof else b""
            whole += frame.eof
            frame = None if frame.eof else frame
    if frame is not None:
        raise (CutShort if whole else zstandard.ZstdError)("the file ends too early")


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


class _Tape:
    """The lines of all files in order of time, but for those in `unplaced`, which maps them to what is wrong."""

    def __init__(self, paths: Sequence[Path], unplaced: Mapping[_Line, str]) -> None:
        self.at: _Line | None = None
        self._paths, self._unplaced = paths, unplaced

    def lines(self) -> Iterator[tuple[int, bytes]]:
        for time_ns, raw, path, number in heapq.merge(*map(_numbered, self._paths), key=_time):
            self.at = path, number
            if self.at not in self._unplaced:
                yield time_ns, raw


def _numbered(path: Path) -> Iterator[tuple[int, bytes, Path, int]]:
    return ((time_ns, raw, path, number) for number, (time_ns, raw) in enumerate(lines(path), start=1))


def _time(row: tuple[int, bytes, Path, int]) -> int:
    return row[0]


def read_frames(paths: Sequence[Path], dialect: Dialect, unplaced: dict[_Line, str]) -> Iterator[Frame]:
    """The market frames of some files of one venue; replies to a recorder's requests are left out.

    A line that the dialect cannot place, such as a frame that no collector could read either, is noted in `unplaced`
    and left out. Then the dialect begins anew behind it: read once more with these lines known for an unbroken tape.
    """
    tape = _Tape(paths, dict(unplaced))
    rows = tape.lines()
    while True:
        try:
            yield from dialect.read(rows)
            return
        except Unreadable as error:
            assert tape.at is not None
            unplaced[tape.at] = str(error)


class _BodyLine(msgspec.Struct):
    recv_ns: int
    url: str
    body: str


_body_line = msgspec.json.Decoder(_BodyLine)


def read_bodies(path: Path) -> Iterator[Body]:
    """The recorded REST answers of a file. Raises SimulatorError naming file and line."""
    for number, line in enumerate(text_lines(path), start=1):
        try:
            row = _body_line.decode(line)
        except msgspec.MsgspecError as error:
            raise SimulatorError(f"{path}, line {number}: no recorded REST answer: {error}") from error
        yield Body(row.recv_ns, row.url, row.body.encode())


class Files(msgspec.Struct):
    """The recordings of one venue by their kind."""

    frames: list[Path] = []
    bodies: list[Path] = []
    depths: list[Path] = []


class RecordedMarket:
    """Recordings of one venue. Raises SimulatorError on a file that cannot be read to its end."""

    source = "recording"

    def __init__(self, files: Files, dialect: Dialect, progress: Progress = lambda _: None) -> None:
        self._paths = files.frames
        self._dialect = dialect
        self.bodies: Sequence[Body] = sorted((b for path in files.bodies for b in read_bodies(path)), key=_body_time)
        self._unplaced: dict[_Line, str] = {}
        self._polled = [frame for body in self.bodies for frame in _polled(dialect, body)]
        survey = _Survey(dialect)
        survey.read(self.frames(None), progress)
        if not survey.begins_ns:
            told = "".join(f"; {_told(line, why)}" for line, why in [*self._unplaced.items()][:1])
            raise SimulatorError(f"no market frames in {', '.join(map(str, [*files.frames, *files.bodies]))}{told}")
        survey.place(self.bodies)
        for path in files.depths:
            survey.read_depths(path)
        self.begins_ns = survey.begins_ns
        self.instruments: Mapping[str, Listed] = survey.instruments()
        self.traded: Sequence[str] = survey.traded()
        self.streams: frozenset[str] | None = frozenset(survey.streams)
        self.snapshots: Mapping[str, Sequence[Snapshot]] = survey.snapshots
        self.has_depth20 = frozenset(symbol for symbol in survey.symbols if survey.counts[symbol, "depth20"])
        self._trades = survey.trades
        self.notes: Sequence[str] = [*survey.notes(), *self._left_out()]

    @property
    def expected_trades(self) -> int:
        return self._trades

    def frames(self, start_ns: int | None) -> Iterator[Frame]:
        """Recorded times are kept: `start_ns` means nothing here."""
        return heapq.merge(self._polled, read_frames(self._paths, self._dialect, self._unplaced), key=_frame_time)

    def _left_out(self) -> list[str]:
        if not self._unplaced:
            return []
        count, first = len(self._unplaced), next(iter(self._unplaced.items()))
        return [f"{count} line{'s' * (count != 1)} that nobody can read left out; first {_told(*first)}"]


def _told(line: _Line, why: str) -> str:
    path, number = line
    return f"{path}, line {number}: {why}"


def _body_time(body: Body) -> int:
    return body.time_ns


def _frame_time(frame: Frame) -> int:
    return frame.time_ns


def _polled(dialect: Dialect, body: Body) -> Sequence[Frame]:
    try:
        return dialect.read_body(body)
    except Unreadable as error:
        raise SimulatorError(f"the recorded answer of {body.url} at {body.time_ns}: {error}") from error


class _Survey:
    """What a first pass over the files tells."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.symbols: dict[str, _Steps] = {}
        self.streams: set[str] = set()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.snapshots: dict[str, list[Snapshot]] = {}
        self.updates: dict[str, tuple[int, int]] = {}
        self.unplaced: list[str] = []
        self.begins_ns = 0
        self.trades = 0

    def read(self, frames: Iterable[Frame], progress: Progress) -> None:
        for number, frame in enumerate(frames, start=1):
            self.begins_ns = min(self.begins_ns or frame.time_ns, frame.time_ns)
            self.streams.add(frame.stream)
            self.trades += frame.kind == "trade"
            for symbol in dict.fromkeys(symbol for _, symbol, _ in frame.marks) or [frame.symbol]:
                self.counts[symbol, frame.kind] += 1
            if frame.symbol and any(channel == QUOTES for channel, _, _ in frame.marks):
                self.counts[frame.symbol, QUOTES] += 1
            if frame.symbol:
                self._note(frame)
            if number % PROGRESS_LINES == 0:
                progress(number)

    def _note(self, frame: Frame) -> None:
        steps = self.symbols.setdefault(frame.symbol, _Steps())
        try:
            if frame.kind == "depth" and self.dialect.books:
                diff = self.dialect.books.read_depth(frame)
                first = self.updates.get(frame.symbol, (diff.first_id, 0))[0]
                self.updates[frame.symbol] = (first, diff.last_id)
            if steps.wanted:
                steps.add(*self.dialect.texts(frame))
        except Unreadable as error:
            raise SimulatorError(f"{frame.stream} at {frame.time_ns}: {error}") from error

    def place(self, bodies: Iterable[Body]) -> None:
        """Depth responses that say which symbol they are of."""
        for body in bodies:
            try:
                found = self.dialect.read_book(body)
            except Unreadable as error:
                raise SimulatorError(f"the recorded answer of {body.url} at {body.time_ns}: {error}") from error
            if found is not None:
                self.snapshots.setdefault(found[0], []).append(found[1])

    def read_depths(self, path: Path) -> None:
        """Depth responses that name no symbol: theirs is the one whose update ids surround them."""
        if self.dialect.books is None:
            raise SimulatorError(f"{path}: {self.dialect.venue} has no depth responses")
        for number, (_, raw) in enumerate(lines(path), start=1):
            try:
                snapshot = self.dialect.books.read_snapshot(raw)
            except Unreadable as error:
                raise SimulatorError(f"{path}, line {number}: {error}") from error
            fitting = [s for s, (first, last) in self.updates.items() if first - 1 <= snapshot.last_id <= last]
            if len(fitting) == 1:
                self.snapshots.setdefault(fitting[0], []).append(snapshot)
            else:
                self.unplaced.append(f"{path.name}, line {number}: the snapshot fits {len(fitting)} symbols")

    def traded(self) -> list[str]:
        kinds = ("trade", "depth", "depth20", QUOTES)
        return [symbol for symbol in self.symbols if any(self.counts[symbol, kind] for kind in kinds)]

    def instruments(self) -> dict[str, Listed]:
        return {symbol: self.dialect.describe(symbol, *steps.powers_of_ten()) for symbol, steps in self.symbols.items()}

    def notes(self) -> list[str]:
        found = list(self.unplaced)
        for symbol in self.traded():
            if not self.counts[symbol, "trade"]:
                found.append(f"{symbol}: the recording holds no trades")
            books = self.dialect.books
            if self.counts[symbol, "depth20"] or books is None or not books.top_stream(symbol):
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

    def powers_of_ten(self) -> tuple[int, int]:
        """Tick and lot."""
        tick = _power_of_ten(self.price_e8, DEFAULT_TICK_E8)
        return tick, _power_of_ten(self.quantity_e8, DEFAULT_LOT_E8)


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
