"""Avro values of a batch end to end, and numbers read from many places of them at once.

A varint has 7 bits in each byte, the top bit of all but the last is set, and zigzag puts the sign into the lowest bit:
https://avro.apache.org/docs/1.12.0/specification/#binary-encoding
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Longs = npt.NDArray[np.int64]

_U = np.uint64
_PAD = b"\0" * 64
STOP_BITS = _U(0x8080808080808080)
_VALUE_BITS = _U(0x7F7F7F7F7F7F7F7F)
LONGEST_NUMBER = 16
LOW_BYTES = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(LONGEST_NUMBER + 1)], np.uint64)
HIGH_BYTES = np.array([(1 << 8 * max(n - 8, 0)) - 1 for n in range(LONGEST_NUMBER + 1)], np.uint64)


class Page:
    """The values with room before and behind, and views of them that give the 8 bytes at any place as a number."""

    def __init__(self, values: Sequence[bytes]) -> None:
        self.joined = b"".join((_PAD, *values, _PAD))
        count = len(self.joined) - 7
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(self.joined, np.uint8)
        self.little: Words = np.ndarray((count,), "<u8", self.joined, strides=(1,))
        self.big: Words = np.ndarray((count,), ">u8", self.joined, strides=(1,))
        lengths = np.fromiter(map(len, values), np.int64, len(values))
        self.ends: Longs = np.cumsum(lengths) + len(_PAD)
        self.starts: Longs = self.ends - lengths
        self.longest = int(lengths.max(initial=0))

    def big_endian(self, ends: Longs, lengths: Longs) -> tuple[Words, Words]:
        """Lower and upper halves of unsigned numbers of up to 16 bytes that end at these places."""
        low = self.big[ends - 8] & LOW_BYTES[lengths]
        if lengths.max(initial=0) <= 8:
            return low, np.zeros(len(low), np.uint64)
        return low, self.big[ends - 16] & HIGH_BYTES[lengths]


def varint_bits(words: Words) -> Words | None:
    """All bits of the varints that these words begin with, 8 for each byte; None where one is longer than a word."""
    stops = ~words
    stops &= STOP_BITS
    if not stops.all():
        return None
    bits = stops - _U(1)
    bits ^= stops
    return bits


def varint_numbers(words: Words, bits: Words) -> Longs:
    """What varints say that the words begin with, from their bits."""
    words = words & bits
    words &= _VALUE_BITS
    # Eight groups of 7 bits, pushed together pairwise: 7+7, 14+14, 28+28.
    high = words & _U(0x7F007F007F007F00)
    words -= high >> _U(1)
    high = words & _U(0x3FFF00003FFF0000)
    words ^= high
    words |= high >> _U(2)
    high = words & _U(0x0FFFFFFF00000000)
    words ^= high
    words |= high >> _U(4)
    return unzigzagged(words)


def unzigzagged(words: Words) -> Longs:
    """Signed numbers of those whose sign is the lowest bit."""
    return (words >> _U(1)).view(np.int64) ^ -(words & _U(1)).view(np.int64)
