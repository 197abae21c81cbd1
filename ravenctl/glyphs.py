"""Letters of 5 by 7 dots for pictures: five columns each, a byte a column, its lowest bit on top. ASCII 32 to 126."""

import numpy as np
import numpy.typing as npt

Dots = npt.NDArray[np.bool_]
WIDTH, HEIGHT = 5, 8
"""Descenders reach into the eighth row."""
FIRST = 32
COLUMNS = bytes.fromhex(
    "0000000000 00005f0000 0007000700 147f147f14 242a7f2a12 2313086462 3649562050 0000070000"
    "001c224100 0041221c00 14083e0814 08083e0808 0050300000 0808080808 0060600000 2010080402"
    "3e5149453e 00427f4000 4261514946 2141454b31 1814127f10 2745454539 3c4a494930 0171090503"
    "3649494936 064949291e 0036360000 0056360000 0814224100 1414141414 0041221408 0201510906"
    "324979413e 7e1111117e 7f49494936 3e41414122 7f4141221c 7f49494941 7f09090901 3e4149497a"
    "7f0808087f 00417f4100 2040413f01 7f08142241 7f40404040 7f020c027f 7f0408107f 3e4141413e"
    "7f09090906 3e4151215e 7f09192946 4649494931 01017f0101 3f4040403f 1f2040201f 3f4038403f"
    "6314081463 0708700807 6151494543 007f414100 0204081020 0041417f00 0402010204 4040404040"
    "0001020400 2054545478 7f48444438 3844444420 384444487f 3854545418 087e090102 18a4a4a47c"
    "7f08040478 00447d4000 4080847d00 7f10284400 00417f4000 7c04180478 7c08040478 3844444438"
    "fc24242418 18242418fc 7c08040408 4854545420 043f444020 3c4040207c 1c2040201c 3c4030403c"
    "4428102844 1ca0a0a07c 4464544c44 0008364100 00007f0000 0041360800 1008081008"
)


def dots(letter: str) -> Dots:
    """A letter as rows of dots; a question mark where there is none of it."""
    place = (ord(letter) - FIRST) * WIDTH
    if not 0 <= place < len(COLUMNS):
        return dots("?")
    columns = np.frombuffer(COLUMNS[place : place + WIDTH], np.uint8)
    return np.unpackbits(columns[:, None], axis=1, bitorder="little").T.astype(np.bool_)


def smooth(letter: Dots) -> Dots:
    """Twice as large, with the steps of slanting strokes filled; corners stay, so that a B is no 8."""
    padded = np.pad(letter, 1)
    large = np.repeat(np.repeat(letter, 2, axis=0), 2, axis=1)
    for down in (0, 1):
        for right in (0, 1):
            beside, other_side = padded[1:-1, 2 * right :][:, : letter.shape[1]], padded[1:-1, 2 - 2 * right :]
            over, other_end = padded[2 * down :, 1:-1][: letter.shape[0]], padded[2 - 2 * down :, 1:-1]
            corner = padded[2 * down :, 2 * right :][: letter.shape[0], : letter.shape[1]]
            outside = ~other_side[:, : letter.shape[1]] & ~other_end[: letter.shape[0]] & ~corner
            large[down::2, right::2] |= beside & over & outside
    return large
