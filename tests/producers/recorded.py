"""Recordings and documented frames for tests: their lines, and numbers and times read a second, slower way."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard

from producers.contract import BadFrame, Receipt, Stream
from ravencore.codec import plain
from ravencore.records import Record

CONNECTION_US = 1_600_000_000_000_000
NOW_US = 1_900_000_000_000_000
"""When documented frames are received: after all of them."""


class Line(NamedTuple):
    """A recorded frame, how it was received, and what it holds, its numbers as Decimals."""

    raw: bytes
    receipt: Receipt
    frame: Any


def lines(path: Path) -> Iterator[Line]:
    """The frames of a recording (`<recv_ns>\\t<raw frame>`), numbered as on one connection."""
    with zstandard.open(path, "rb") as recording:
        for number, line in enumerate(recording.read().splitlines(), 1):
            received_ns, _, raw = line.partition(b"\t")
            yield Line(raw, Receipt(int(received_ns) // 1000, CONNECTION_US, number), exactly(raw))


def bodies(path: Path) -> Iterator[tuple[str, bytes]]:
    """The URL and body of each response of a recording of REST."""
    with zstandard.open(path, "rb") as recording:
        for line in recording.read().splitlines():
            response = json.loads(line)
            yield response["url"], response["body"].encode()


def exactly(raw: bytes) -> Any:
    """JSON with its numbers as Decimals of their text."""
    return json.loads(raw, parse_float=Decimal, parse_int=Decimal)


def units(number: Decimal | str) -> int:
    """Unscaled decimal(38,18)."""
    scaled = Fraction(number) * 10**18
    assert scaled.denominator == 1
    return scaled.numerator


def utc_us(text: str) -> int:
    """Microseconds of a time like 2025-11-10T17:23:53.971745Z, what is below cut off."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
    return int(seconds) * 10**6 + int(Fraction(f"0.{fraction or 0}") * 10**6)


def refused(source: Stream, line: Line) -> str:
    """Why a frame is refused; fails where it is not."""
    with pytest.raises(BadFrame) as failure:
        source.parse(line.raw, line.receipt)
    assert failure.value.reason == "unreadable_frame"
    return str(failure.value)


def digest(records: Iterable[Record]) -> str:
    """Fingerprint of all that records hold, in their order."""
    text = "\n".join(json.dumps(plain(record)) for record in records)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
