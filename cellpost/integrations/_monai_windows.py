"""Windows of images cut out for a network, and the maps that its outputs are blended to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cellpost._arrays import Array
from cellpost._runtime import info
from cellpost.tiles_grid import Padding, TileGrid
from cellpost.tiles_stitcher import Stitcher

_CACHED = 2**18  # bytes that are worked on at a time
_FREE_BYTES = 2**29  # that rows of windows may take up, however small the map is


def check_tensor(torch: Any, name: str, value: Any) -> None:
    """Refuse what is no dense tensor of a real dtype."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor; got {type(value).__name__}")
    if value.is_complex() or value.is_sparse or value.is_quantized:
        raise TypeError(f"{name}: expected a dense tensor of a real dtype; got {value.dtype}")


def plain(torch: Any, tensor: Array) -> Array:
    """The tensor without a gradient, and without what a subclass adds to it."""
    tensor = tensor.detach()
    return tensor if type(tensor) is torch.Tensor else tensor.as_subclass(torch.Tensor)


# ---- windows ------------------------------------------------------------------------------------


class Windows:
    """Cuts batches of windows out of images, numbered image by image, each in the grid's order."""

    def __init__(
        self,
        torch: Any,
        images: Array,
        grid: TileGrid,
        padding: Padding,
        value: float,
        device: Any,
    ) -> None:
        self._torch, self._images, self._grid, self._device = torch, images, grid, device
        self._padding, self._value = padding, value
        self._before = [
            (side - size) // 2 if side > size else 0
            for side, size in zip(grid.tile, grid.shape, strict=True)
        ]
        self._is_padded = any(s > n for s, n in zip(grid.tile, grid.shape, strict=True))

    def slices(self, i: int) -> list[slice]:
        """Of window `i` in the padded images."""
        image, tile = divmod(i, len(self._grid))
        axes = zip(self._grid.start(tile), self._before, self._grid.tile, strict=True)
        spans = [slice(start + before, start + before + side) for start, before, side in axes]
        return [slice(image, image + 1), slice(None), *spans]

    def cut(self, which: range) -> Array:
        """A batch, a copy that nobody else uses."""
        shape = (len(which), self._images.shape[1], *self._grid.tile)
        images = self._images
        batch = self._torch.empty(shape, dtype=images.dtype, device=images.device)
        for row, i in enumerate(which):
            image, tile = divmod(i, len(self._grid))
            if self._is_padded:
                batch[row] = self._grid.extract(
                    self._images[image], [tile], padding=self._padding, value=self._value
                )[0]
            else:
                part = (image, slice(None), *self._grid[tile])
                batch[row] = self._images[part]
        return batch.to(self._device)


def _places(grid: TileGrid, size: Sequence[int]) -> tuple[tuple[int, ...], list[list[int]]]:
    """(Size of the map, where windows start in it) if windows become of this size."""
    shape, starts = [], []
    for whole, roi, side, at in zip(grid.shape, grid.tile, size, grid.starts, strict=True):
        if roi > whole:
            zoom = side / roi
            before = (roi - whole) // 2
            begin, end = round(before * zoom), min(round((before + whole) * zoom), side)
            shape.append(end - begin)
            starts.append([-begin])
            continue
        shape.append(whole * side // roi)
        starts.append([start * side // roi for start in at.tolist()])
    return tuple(shape), starts


class WindowMap:
    """The map that one output of the predictor becomes, of all images."""

    def __init__(self, n_images: int, grid: TileGrid) -> None:
        self.result: Array = None
        self._n_images, self._grid = n_images, grid
        self._open: dict[int, Stitcher | Sums] = {}

    def open(
        self, torch: Any, output: Array, dtype: Any, device: Any, weight: Any, varies: bool
    ) -> None:
        """Prepare for outputs like this one."""
        self._expected, self._dtype = tuple(output.shape[1:]), output.dtype
        self._varies, self._weight = varies, weight
        self._tile = tuple(output.shape[2:])
        self._shape, self._starts = _places(self._grid, self._tile)
        self.result = torch.empty(
            (self._n_images, output.shape[1], *self._shape), dtype=dtype, device=device
        )
        self._window: Any = "constant"
        self._is_fixed = not varies and self._fits(device, output.element_size())
        if self._is_fixed and weight is not None:
            self._is_fixed = bool((weight > 0).all())
            self._window = weight[0, 0].cpu().numpy()

    def _fits(self, device: Any, item: int) -> bool:
        """Whether a Stitcher can do it, and in how much memory."""
        if device.type not in ("cpu", "cuda") or 0 in self._shape:
            return False
        if device.type == "cuda" and not info()["cuda_usable"]:
            return False
        steps = [np.diff(places) for places in self._starts]
        if any((step < 1).any() for step in steps):
            return False
        n_layers = len(self._starts[0])
        if n_layers > 1:
            n_layers = min(n_layers, -(-self._tile[0] // int(steps[0].max())) + 1)
        n_tiles = n_layers * math.prod(len(places) for places in self._starts[1:])
        channels = self._expected[0]
        map_bytes = channels * math.prod(self._shape) * self.result.element_size()
        held_bytes = n_tiles * channels * math.prod(self._tile) * item
        return bool(held_bytes <= max(map_bytes, _FREE_BYTES))

    def add(
        self, torch: Any, which: range, tiles: Array, weight: Array | None, *, copy: bool
    ) -> None:
        """Take the outputs of some windows; without a copy if nobody writes to them later."""
        if tuple(tiles.shape[1:]) != self._expected:
            raise ValueError(
                f"predictor: expected outputs of shape (n, {str(self._expected)[1:]}, as the "
                f"first ones; got {tuple(tiles.shape)}"
            )
        if tiles.dtype != self._dtype:
            raise ValueError(
                f"predictor: expected outputs of {self._dtype}, as the first ones; got "
                f"{tiles.dtype}"
            )
        tiles = tiles.to(self.result.device)
        if not tiles.is_floating_point():
            tiles = tiles.to(torch.promote_types(self.result.dtype, torch.float32))
        n = len(self._grid)
        row = 0
        for image, some in itertools.groupby(which, lambda i: i // n):
            indices = [i % n for i in some]
            if image not in self._open:
                self._open[image] = self._opened(torch, image)
            part = tiles[row : row + len(indices)]
            blend = self._open[image]
            if isinstance(blend, Stitcher):
                blend.add(indices, part, copy=copy)
            else:
                own = weight
                if weight is not None and weight.shape[0] == len(which):
                    own = weight[row : row + len(indices)]
                blend.add(indices, part, own)
            row += len(indices)
            if blend.n_missing == 0:
                blend.result()
                del self._open[image]

    def _opened(self, torch: Any, image: int) -> Stitcher | Sums:
        out = self.result[image]
        if not self._is_fixed:
            return Sums(torch, self._tile, self._starts, out)
        grid = TileGrid.at(self._shape, self._tile, self._starts)
        return Stitcher(grid, out.shape[0], window=self._window, out=out)


class Sums:
    """Adds up windows as they come, in the grid's order; needs no more than a row of windows.

    Takes what `Stitcher` does not: weights that differ from window to window or are 0, windows at
    the same place, and overlaps so high that rows of windows would fill the memory. The bits are
    its: float64 sums, one window after the other, times the reciprocal of the weights' sum.
    """

    def __init__(
        self, torch: Any, tile: tuple[int, ...], starts: Sequence[Sequence[int]], out: Array
    ) -> None:
        self._torch, self._tile, self._starts, self._out = torch, tile, starts, out
        self._counts = tuple(map(len, starts))
        self.n_missing = math.prod(self._counts)
        self._first_row = 0
        shape = (min(tile[0], out.shape[1]), *out.shape[2:])
        like = {"dtype": torch.float64, "device": out.device}
        self._sums = torch.zeros((out.shape[0], *shape), **like)
        self._weights = torch.zeros((1, *shape), **like)
        self._is_double = False

    def add(self, indices: Sequence[int], tiles: Array, weights: Array | None) -> None:
        """Take the next windows, and weights for each or for all."""
        torch, out = self._torch, self._out
        tiles = torch.from_numpy(tiles) if isinstance(tiles, np.ndarray) else tiles
        self._is_double = tiles.dtype == torch.float64
        if weights is None:
            weights = torch.ones((1, 1, *self._tile))
        weights = weights.to(out.device, torch.float64)
        channels = weights.shape[1]
        if weights.ndim != tiles.ndim or tuple(weights.shape[2:]) != self._tile:
            raise ValueError(
                f"process_fn: expected weights of the windows' shape; got {tuple(weights.shape)}"
            )
        if weights.shape[0] not in (1, len(indices)) or channels not in (1, out.shape[0]):
            raise ValueError(
                f"process_fn: expected weights for 1 or {len(indices)} windows and 1 or "
                f"{out.shape[0]} channels; got shape {tuple(weights.shape)}"
            )
        if channels > self._weights.shape[0]:
            self._weights = self._weights.repeat(channels, *[1] * len(self._tile))
        for row, i in enumerate(indices):
            weight = weights[row if weights.shape[0] > 1 else 0]
            places = np.unravel_index(i, self._counts)
            at = [starts[int(k)] for starts, k in zip(self._starts, places, strict=True)]
            self._finish(max(at[0], 0))
            begins = [max(start, 0) for start in at]
            ends = [
                min(start + side, size)
                for start, side, size in zip(at, self._tile, out.shape[1:], strict=True)
            ]
            there = [slice(begin, end) for begin, end in zip(begins, ends, strict=True)]
            for rows, kept in self._kept(begins[0], ends[0]):
                spans = [rows, *there[1:]]
                inside = (
                    slice(None),
                    *(slice(p.start - s, p.stop - s) for p, s in zip(spans, at, strict=True)),
                )
                target = (slice(None), kept, *there[1:])
                own = weight[inside]
                self._weights[target] += own
                self._add(tiles[row][inside], own, self._sums[target])
        self.n_missing -= len(indices)

    def result(self) -> Array:
        """Finish the last rows."""
        self._finish(self._out.shape[1])
        return self._out

    def _add(self, tile: Array, weight: Array, sums: Array) -> None:
        """Add a window to its sums, some lines at a time, which stay in the cache."""
        if 0 in tile.shape:
            return
        n_rows = max(_CACHED // (8 * math.prod(tile.shape[2:])), 1)
        if tile.device.type != "cpu":
            n_rows = tile.shape[1]
        for channel, values in enumerate(tile):
            own = weight[channel if weight.shape[0] > 1 else 0]
            for first in range(0, values.shape[0], n_rows):
                rows = slice(first, first + n_rows)
                if (
                    self._is_double
                ):  # an fma would have other bits here; products of float32 are exact
                    sums[channel, rows].add_(values[rows] * own[rows])
                else:
                    sums[channel, rows].addcmul_(values[rows].to(self._torch.float64), own[rows])

    def _finish(self, row: int) -> None:
        """Write the rows before this one, which no further window covers."""
        if row <= self._first_row:
            return
        for rows, kept in self._kept(self._first_row, row):
            share = 1 / self._weights[:, kept]
            for channel, sums in enumerate(self._sums[:, kept]):
                mean = sums * share[channel if share.shape[0] > 1 else 0]
                if not self._is_double:
                    mean = mean.to(self._torch.float32)
                self._out[channel, rows] = mean
            self._sums[:, kept] = 0
            self._weights[:, kept] = 0
        self._first_row = row

    def _kept(self, begin: int, end: int) -> Iterator[tuple[slice, slice]]:
        """Rows of the map in one piece or two, and where their sums are: row y at y % n."""
        n = self._sums.shape[1]
        while begin < end:
            first = begin % n
            n_rows = min(end - begin, n - first)
            yield slice(begin, begin + n_rows), slice(first, first + n_rows)
            begin += n_rows
