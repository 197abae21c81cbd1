"""The recording format: what came off the wire, byte for byte, and when. simulator/recording.py plays it.

    X.frames.zst      a line per WebSocket message   1723161253937000000\\t{"stream":"btcusdt@trade","data":{...}}
    X.rest.jsonl.zst  a line per REST answer         {"recv_ns":1723161253937000000,"url":"https://...","body":"..."}
    X.odd.jsonl.zst   what no line above can hold    {"recv_ns":1723161253937000000,"url":null,"base64":"AAEC"}

JSON as venues send it holds neither newline nor tab. A message that does, or that is empty or no UTF-8, would corrupt
a file of lines: it goes to the third file, whole, which exists only where there was one. The simulator leaves that out.
"""

import base64
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

FRAMES, BODIES, ODD = ".frames.zst", ".rest.jsonl.zst", ".odd.jsonl.zst"
NAMED_SYMBOLS = 3


class _Body(msgspec.Struct):
    recv_ns: int
    url: str
    body: str


class _Odd(msgspec.Struct):
    recv_ns: int
    url: str | None
    base64: str


def frame_line(received_ns: int, frame: bytes) -> bytes | None:
    """The line of a WebSocket message; None where a line cannot hold it."""
    if not frame or b"\n" in frame or b"\t" in frame or b"\r" in frame or not _is_text(frame):
        return None
    return b"%d\t%b\n" % (received_ns, frame)


def body_line(received_ns: int, url: str, body: bytes) -> bytes | None:
    """The line of a REST answer; None where it is no text."""
    if not _is_text(body):
        return None
    return msgspec.json.encode(_Body(received_ns, url, body.decode())) + b"\n"


def odd_line(received_ns: int, url: str | None, raw: bytes) -> bytes:
    """The line of what the other two cannot hold; without a URL it was a WebSocket message."""
    return msgspec.json.encode(_Odd(received_ns, url, base64.b64encode(raw).decode())) + b"\n"


def stem(source: str, symbols: Iterable[str], began_us: int) -> str:
    """A file's name without its ending, like kraken_btcusd_20261121T101500; of a whole market, without symbols."""
    names = ["".join(filter(str.isalnum, symbol)).lower() for symbol in sorted(symbols)]
    told = [f"{len(names)}symbols"] if len(names) > NAMED_SYMBOLS else names
    moment = datetime.fromtimestamp(began_us // 1_000_000, UTC).strftime("%Y%m%dT%H%M%S")
    return "_".join([source.lower(), *(["-".join(told)] if told else []), moment])


def _is_text(raw: bytes) -> bool:
    if raw.isascii():
        return True
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
