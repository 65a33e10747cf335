"""Random fields over an endless plane: any window of one can be had without the rest.

The plane is cut into chunks, and each chunk's numbers come from a counter-based generator whose
counter is the chunk's place. Nothing else is drawn from that place, so values hang on the seed, the
stream and the pixel alone.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stream", "generator", "normal", "smooth"]

_CHUNK = 256  # values along each side
_ORIGIN = 2**31  # makes the counters of places above and left of 0 positive


class Stream(IntEnum):
    """What random numbers are for; streams of one seed have nothing in common."""

    CELLS = 0
    WARP_Y = 1
    WARP_X = 2
    TEXTURE = 3
    FINE_TEXTURE = 4
    ILLUMINATION = 5
    COLONY = 6
    CAMERA = 7  # and one more for each further channel


def generator(seed: int, stream: int, row: int, column: int) -> np.random.Generator:
    """The generator of one place, row and column from -2**31 on."""
    counter = np.array([0, row + _ORIGIN, column + _ORIGIN, 0], np.uint64)
    key = np.array([seed, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def normal(seed: int, stream: int, y: tuple[int, int], x: tuple[int, int]) -> NDArray[np.float32]:
    """Standard normal values of the places from y[0] to y[1] and x[0] to x[1], independent."""
    return _window(seed, stream, y, x, is_normal=True)


def smooth(
    seed: int, stream: int, y: tuple[int, int], x: tuple[int, int], step: float
) -> NDArray[np.float32]:
    """Values in [-1, 1] that vary over about `step` pixels: random nodes, interpolated.

    Only sums and products: the result at a pixel is the same bits in any window.
    """
    (row, to_row, t), (column, to_column, s) = _nodes(*y, step), _nodes(*x, step)
    nodes = _window(
        seed,
        stream,
        (int(row[0]), int(to_row[-1]) + 1),
        (int(column[0]), int(to_column[-1]) + 1),
        is_normal=False,
    )
    rows = _between(nodes[row - row[0]], nodes[to_row - row[0]], t[:, None])
    return _between(rows[:, column - column[0]], rows[:, to_column - column[0]], s)


def _window(
    seed: int, stream: int, y: tuple[int, int], x: tuple[int, int], *, is_normal: bool
) -> NDArray[np.float32]:
    out = np.empty((y[1] - y[0], x[1] - x[0]), np.float32)
    for row in range(y[0] // _CHUNK, -(-y[1] // _CHUNK)):
        for column in range(x[0] // _CHUNK, -(-x[1] // _CHUNK)):
            rng = generator(seed, stream, row, column)
            if is_normal:
                chunk = rng.standard_normal((_CHUNK, _CHUNK), np.float32)
            else:
                chunk = 2 * rng.random((_CHUNK, _CHUNK), np.float32) - 1
            top, left = row * _CHUNK, column * _CHUNK
            y0, y1 = max(y[0], top), min(y[1], top + _CHUNK)
            x0, x1 = max(x[0], left), min(x[1], left + _CHUNK)
            out[y0 - y[0] : y1 - y[0], x0 - x[0] : x1 - x[0]] = chunk[
                y0 - top : y1 - top, x0 - left : x1 - left
            ]
    return out


def _nodes(
    start: int, stop: int, step: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """For each place the nodes before and after it, and how far it has come, eased."""
    at = np.arange(start, stop) / step
    node = np.floor(at)
    t = at - node
    return node.astype(np.int64), node.astype(np.int64) + 1, (t * t * (3 - 2 * t)).astype("f4")


def _between(
    one: NDArray[np.float32], other: NDArray[np.float32], t: NDArray[np.float32]
) -> NDArray[np.float32]:
    return one + (other - one) * t
