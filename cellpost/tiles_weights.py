"""What the pixels of a tile count where tiles overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from cellpost._arrays import Array, to_host
from cellpost.labels import number
from cellpost.tiles_grid import TileGrid

__all__ = ["Weights", "Window"]

Window = Literal["gaussian", "constant", "cosine", "sigmoid", "core"]

_WINDOWS = ("gaussian", "constant", "cosine", "sigmoid", "core")
_FLOOR = 1e-3  # of the Gaussian's weights, as MONAI's


def _gaussian(side: int, sigma: float) -> NDArray[np.float32]:
    # In float32 from here on, as MONAI computes it.
    x = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    with np.errstate(over="ignore", under="ignore"):
        twice = np.float32(2 * np.float64(sigma * side) ** 2)
        # Not 0 / 0 in the middle.
        weight: NDArray[np.float32] = np.exp(-(x**2) / max(twice, np.finfo(np.float32).tiny))
    return weight


def _cosine(side: int) -> NDArray[np.float32]:
    # Between the samples of a Hann window, so that no pixel weighs nothing.
    middle = (np.arange(side) + 0.5) / side
    return (np.sin(np.pi * middle) ** 2).astype(np.float32)


def _sigmoid(side: int, longest: int) -> NDArray[np.float32]:
    # Cellpose's taper: half weight 20 pixels from the border of its tile of 224 or more, 7.5 pixels
    # to fall by a factor of e beyond.
    size = max(224, longest)
    x = np.abs(np.arange(size) - (size - 1) / 2)
    weight = 1 / (1 + np.exp((x - (size / 2 - 20)) / 7.5))
    first = size // 2 - side // 2
    return np.asarray(weight[first : first + side], np.float32)


class Weights:
    """What the pixels of a tile weigh, and which of them count, as the kernels take it."""

    def __init__(self, grid: TileGrid, window: Window | Array, sigma: float) -> None:
        self.window: Any = None
        self.floor = 0.0
        is_core = isinstance(window, str) and window == "core"
        ends = (grid._core_begins, grid._core_ends) if is_core else (grid._begins, grid._ends)
        by_axis = [np.ones(side, np.float32) for side in grid.tile]
        if isinstance(window, str):
            if window not in _WINDOWS:
                raise ValueError(
                    f"window: expected one of {', '.join(map(repr, _WINDOWS))} or an array; "
                    f"got {window!r}"
                )
            width = number("sigma", sigma)
            if not 0 < width < np.inf:
                raise ValueError(f"sigma: expected a finite number above 0; got {sigma!r}")
            if window == "gaussian":
                by_axis = [_gaussian(side, width) for side in grid.tile]
                self.floor = _FLOOR
            elif window == "cosine":
                by_axis = [_cosine(side) for side in grid.tile]
            elif window == "sigmoid":
                by_axis = [_sigmoid(side, max(grid.tile)) for side in grid.tile]
        else:
            self.window = _host(window)
            if self.window.shape != grid.tile:
                raise ValueError(
                    f"window: expected the tile's shape, {grid.tile}; got {self.window.shape}"
                )
            if not (np.isfinite(self.window).all() and (self.window > 0).all()):
                raise ValueError("window: expected finite weights above 0; got others")
        self.begins, self.ends = ends
        self.axes = list(zip(grid.starts, *ends, by_axis, strict=True))

    def counts_at(self, place: Sequence[int], pixel: Sequence[int]) -> bool:
        """Whether the tile at a place of the grid contributes to a pixel."""
        axes = zip(self.begins, self.ends, place, pixel, strict=True)
        return all(begin[k] <= p < end[k] for begin, end, k, p in axes)

    def at(self, like: Array) -> Array | None:
        """The window where the tiles are, once."""
        if self.window is not None and not isinstance(like, np.ndarray):
            self.window = array_namespace(like).asarray(self.window, device=device(like))
        return self.window


def _host(window: Array) -> NDArray[np.float32]:
    try:
        weights = to_host(window)
    except (TypeError, ValueError):
        raise TypeError(f"window: expected a name or an array; got {window!r}") from None
    if weights.dtype.kind not in "fiu":
        raise TypeError(f"window: expected a name or an array of numbers; got {weights.dtype}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(weights, np.float32)
