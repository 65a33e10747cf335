"""Overlapping tiles of a network's output, blended into one map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cellpost import _core
from cellpost._arrays import Array, Arrays, dtype_name, is_c_contiguous
from cellpost._floats import as_dtype, float_name, map_dtypes
from cellpost.tiles_grid import TileGrid
from cellpost.tiles_layout import image_shape
from cellpost.tiles_weights import Weights, Window

__all__ = ["blend", "contiguous", "stitch"]


def stitch(
    tiles: Array,
    overlap: float | Sequence[float] = 0.6,
    *,
    shape: Sequence[int] | None = None,
    grid: TileGrid | None = None,
    window: Window | Array = "gaussian",
    sigma: float = 0.125,
    dtype: Any = None,
) -> Array:
    """Blend overlapping tiles into one map: at each pixel the weighted mean of the tiles there.

    Parameters
    ----------
    tiles : (ny, nx, C, h, w) or (n, C, h, w) float array
        In the order of the grid; volumes: (nz, ny, nx, C, d, h, w) or (n, C, d, h, w). NumPy,
        PyTorch, CuPy, JAX or DLPack; float16, bfloat16, float32 or float64; finite, or NaN where
        the map may be NaN.
    overlap : float or one per axis
        Share of a tile that the next one covers again, 0 <= overlap < 1, as of `TileGrid`. Not used
        with `grid`.
    shape : (H, W) or (D, H, W), optional
        Of the map in pixels. If neither this nor `grid` is given, the tiles are as many along each
        axis as `tiles` has there, and the map ends with the last one.
    grid : TileGrid, optional
        Where the tiles lie.
    window : {"gaussian", "constant", "cosine", "sigmoid", "core"} or array
        Weights of a tile's pixels. ``"gaussian"``: as MONAI's, and not below 0.001. ``"cosine"``: a
        Hann window. ``"sigmoid"``: Cellpose's taper. ``"core"``: one tile for each pixel, see
        `TileGrid.core`. An array: of the tile's shape, finite, above 0.
    sigma : float
        Standard deviation of the Gaussian as a share of the tile's side, above 0.
    dtype : dtype or str, optional
        Of the map: float16, bfloat16, float32 or float64; the tiles' if not given.

    Returns
    -------
    (C, H, W) or (C, D, H, W) array
        New, of the library and on the device of `tiles`.

    Raises
    ------
    TypeError
        If `tiles` or `dtype` is of no such dtype.
    ValueError
        If the tiles are not those of the grid, or an argument is out of range.

    See Also
    --------
    Stitcher : for tiles that come one after the other.
    TileGrid

    Notes
    -----
    Sums are made in float64, tile by tile in the order of the grid, and rounded to float32 and from
    there to `dtype` at the end, but for a float64 map of float64 tiles: threads, instruction sets
    and devices give the same bits, and a constant stays the same constant (to some rounding if it
    is float64). Weights are float32.
    MONAI's ``sliding_window_inference``, which sums in float32, differs by its rounding: about 1e-6
    of the range of the values. A NaN makes the pixels that it covers NaN.

    Each value of the tiles is read once, and each of the map written once.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> tiles = np.ones((2, 3, 1, 10, 10), np.float32)
    >>> cellpost.stitch(tiles, overlap=0.6).shape
    (1, 14, 18)
    >>> tiles = np.ones((6, 2, 4, 4), np.float32)
    >>> cellpost.stitch(tiles, overlap=0.5, shape=(5, 7)).shape
    (2, 5, 7)
    """
    arrays = Arrays(tiles=tiles)
    given = arrays["tiles"]
    found = tuple(given.shape)
    if grid is None:
        grid = _grid_of(found, overlap, shape)
    elif not isinstance(grid, TileGrid):
        raise TypeError(f"grid: expected a TileGrid; got {type(grid).__name__}")
    elif shape is not None and image_shape(shape) != grid.shape:
        raise ValueError(f"shape: expected the grid's, {grid.shape}; got {tuple(shape)}")
    n = grid.ndim
    if found[-n:] != grid.tile or found[: -n - 1] not in ((len(grid),), grid.counts):
        raise ValueError(
            f"tiles: expected shape ({len(grid)}, C, *{grid.tile}) or "
            f"(*{grid.counts}, C, *{grid.tile}), as the grid's; got {found}"
        )
    weights = Weights(grid, window, sigma)
    kind, wanted = map_dtypes(
        arrays, "tiles", None if dtype is None else float_name("dtype", dtype)
    )
    channels = found[-n - 1]
    out = arrays.empty((channels, *grid.shape), kind)
    if len(grid):
        each = arrays.xp.reshape(contiguous(arrays, given), (len(grid), channels, *grid.tile))
        blend(arrays.stream, [each[i, ...] for i in range(len(grid))], out, grid, weights)
    return arrays.result(as_dtype(arrays.xp, out, wanted))


def blend(
    stream: int,
    tiles: Sequence[Array],
    out: Array,
    grid: TileGrid,
    weights: Weights,
    first_layer: int = 0,
    first_row: int = 0,
) -> int:
    """Make the rows of `out`, from all tiles of some layers; the index of the first NaN, or -1."""
    return _core.stitch(
        tiles,
        out,
        stream,
        axes=weights.axes,
        tile=grid.tile,
        window=weights.at(tiles[0]),
        floor=weights.floor,
        first_layer=first_layer,
        first_row=first_row,
    )


def _grid_of(found: tuple[int, ...], overlap: Any, shape: Any) -> TileGrid:
    """Make the grid that tiles of a shape belong to."""
    if shape is not None:
        n = len(image_shape(shape))
        if len(found) <= n:
            raise ValueError(f"tiles: expected shape (tiles, C, *tile) of {n} axes; got {found}")
        return TileGrid(shape, tile=found[-n:], overlap=overlap)
    if len(found) not in (5, 7):
        raise ValueError(
            "tiles: expected shape (ny, nx, C, h, w) or (nz, ny, nx, C, d, h, w), or a grid or "
            f"shape; got {found}"
        )
    n = len(found) // 2
    counts, tile = found[:n], found[-n:]
    stride = TileGrid(tile, tile=tile, overlap=overlap).stride
    axes = zip(counts, stride, tile, strict=True)
    ends = [(k - 1) * step + side if k else 0 for k, step, side in axes]
    return TileGrid(ends, tile=tile, overlap=overlap)


def contiguous(arrays: Arrays, array: Array) -> Array:
    """Give the array, or a copy of it if its pixels do not follow each other."""
    copy = array
    if not is_c_contiguous(array):
        copy = arrays.empty(tuple(array.shape), dtype_name(array))
        copy[...] = array
    return copy
