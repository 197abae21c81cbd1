"""A picture to draw on, and its PNG: rectangles, lines and text, drawn at twice the size and then halved, so smooth."""

import struct
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from ravenctl import glyphs

Colour = tuple[int, int, int]
Anchor = Literal["left", "middle", "right"]
FINE = 2
"""Fine pixels a pixel."""
ADVANCE, LINE = 12, 16
"""Pixels from one letter to the next, and of a letter's height."""


class Canvas:
    """A white picture; places are pixels from the top left corner."""

    def __init__(self, width: int, height: int) -> None:
        self._fine: npt.NDArray[np.uint8] = np.full((height * FINE, width * FINE, 3), 255, np.uint8)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill a rectangle; one that is thinner than half a pixel is drawn half a pixel thick."""
        first, last = _span(left, right)
        upper, lower = _span(top, bottom)
        self._fine[upper:lower, first:last] = colour

    def line(self, xs: Sequence[float], ys: Sequence[float], colour: Colour, thickness: float = 1.5) -> None:
        """Join points."""
        half = max(round(thickness * FINE / 2), 1)
        for place in range(1, len(xs)):
            steps = int(max(abs(xs[place] - xs[place - 1]), abs(ys[place] - ys[place - 1])) * FINE) + 1
            across = np.linspace(xs[place - 1], xs[place], steps + 1) * FINE
            down = np.linspace(ys[place - 1], ys[place], steps + 1) * FINE
            for right in range(-half, half):
                for under in range(-half, half):
                    self._dot(across + right, down + under, colour)

    def text(self, x: float, y: float, text: str, colour: Colour, *, anchor: Anchor = "left", size: int = 1) -> None:
        """Write a line whose letters begin at y; `anchor` says which end of it, or its middle, is at x."""
        width = len(text) * ADVANCE * size
        left = x - {"left": 0, "middle": width / 2, "right": width}[anchor]
        for number, letter in enumerate(text):
            shape = np.repeat(np.repeat(_letter(letter), size, axis=0), size, axis=1)
            self._stamp(round((left + number * ADVANCE * size) * FINE), round(y * FINE), shape, colour)

    def png(self) -> bytes:
        """The picture (https://www.w3.org/TR/png-3/): eight bits a colour, no filter."""
        height, width = self._fine.shape[0] // FINE, self._fine.shape[1] // FINE
        wide = self._fine.astype(np.uint16)
        halved = wide[0::2, 0::2] + wide[0::2, 1::2] + wide[1::2, 0::2] + wide[1::2, 1::2]
        pixels = ((halved + 2) // FINE**2).astype(np.uint8)
        rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 3)], axis=1)
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)

    def _dot(self, xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64], colour: Colour) -> None:
        across, down = np.rint(xs).astype(np.int64), np.rint(ys).astype(np.int64)
        inside = (across >= 0) & (across < self._fine.shape[1]) & (down >= 0) & (down < self._fine.shape[0])
        self._fine[down[inside], across[inside]] = colour

    def _stamp(self, left: int, top: int, shape: glyphs.Dots, colour: Colour) -> None:
        place = self._fine[max(top, 0) : top + shape.shape[0], max(left, 0) : left + shape.shape[1]]
        seen = shape[max(-top, 0) :, max(-left, 0) :][: place.shape[0], : place.shape[1]]
        place[seen] = colour


def _span(first: float, last: float) -> tuple[int, int]:
    low, high = round(min(first, last) * FINE), round(max(first, last) * FINE)
    return max(low, 0), max(high, low + 1, 0)


@cache
def _letter(letter: str) -> glyphs.Dots:
    """Twenty by thirty-two fine pixels."""
    return glyphs.smooth(glyphs.smooth(glyphs.dots(letter)))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
