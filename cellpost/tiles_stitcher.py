"""Tiles of a network's output that come one after the other, blended as they come."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from cellpost._arrays import Array, Arrays, dtype_name, to_host
from cellpost._floats import as_dtype, float_name, map_dtypes
from cellpost.labels import integer
from cellpost.tiles import blend, contiguous
from cellpost.tiles_grid import TileGrid
from cellpost.tiles_weights import Weights, Window

__all__ = ["Stitcher", "name_tile"]


class Stitcher:
    """Blends tiles that come one after the other, in any order; holds no more than it must.

    Parameters
    ----------
    grid : TileGrid
        Where the tiles lie.
    channels : int
        Of each tile, 1 or more.
    window, sigma, dtype
        As of `stitch`.
    out : (channels, *grid.shape) array, optional
        Written to, where the whole map is wanted. Its dtype is the map's; library and device need
        not be the tiles'.
    reject_nan : bool
        Raise where the map would be NaN.

    Attributes
    ----------
    n_missing : int
        Tiles that have not come yet.

    Raises
    ------
    TypeError
        If `grid`, `dtype` or `out` is of no such type or dtype.
    ValueError
        If an argument is out of range, or `out` cannot be written to.

    See Also
    --------
    stitch : for tiles that are all there.

    Notes
    -----
    Rows of the map (planes of a volume) are final, and can be had from `ready`, as soon as the last
    tile that covers them has come. A row of tiles is held until all rows that it covers are final:
    in the order of the grid these are ``ceil(tile / stride) + 1`` rows of tiles, whatever the
    image's height. The map is to the bit that of `stitch`, in whatever order tiles come. Tiles are
    copied: the caller may use the memory again. Threads may add tiles beside each other.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> image = np.random.default_rng(0).random((1, 50, 30), dtype=np.float32)
    >>> grid = cellpost.TileGrid(image.shape[1:], tile=16, overlap=0.5)
    >>> stitcher = cellpost.Stitcher(grid, channels=1)
    >>> heights = []
    >>> for indices, tiles in grid.batches(image, 4):
    ...     stitcher.add(indices, tiles)
    ...     for rows, band in stitcher.ready():
    ...         assert np.allclose(band, image[:, rows])
    ...         heights.append(band.shape[1])
    >>> heights, stitcher.n_missing
    ([8, 8, 8, 8, 2, 16], 0)
    """

    def __init__(
        self,
        grid: TileGrid,
        channels: int,
        *,
        window: Window | Array = "gaussian",
        sigma: float = 0.125,
        dtype: Any = None,
        out: Array | None = None,
        reject_nan: bool = False,
    ) -> None:
        if not isinstance(grid, TileGrid):
            raise TypeError(f"grid: expected a TileGrid; got {type(grid).__name__}")
        self._grid, self._channels = grid, integer("channels", channels)
        if self._channels < 1:
            raise ValueError(f"channels: expected 1 or more; got {channels}")
        self._weights = Weights(grid, window, sigma)
        self._wanted = None if dtype is None else float_name("dtype", dtype)
        self._given_out, self._reject_nan = out, reject_nan
        self._out = None if out is None else self._checked(out)
        self._has = np.zeros(grid.counts, np.bool_)
        self._taking, self._blending = threading.Lock(), threading.Lock()
        self._tiles: dict[int, Array] = {}
        self._copies: set[int] = set()  # those of them that are in memory of the stitcher's own
        self._spare: list[Array] = []
        self._bands: list[tuple[slice, Array]] = []
        self._arrays: Arrays | None = None
        self._n_handed = 0
        # Part k are the rows from edge k to the next one: the same layers of the grid cover them,
        # first[k] to last[k]. Layer j covers parts parts[j][0] to before parts[j][1].
        begins, ends = self._weights.begins[0], self._weights.ends[0]
        self._edges = np.unique(np.concatenate([begins, ends]))
        self._is_made = np.zeros(max(len(self._edges) - 1, 0), np.bool_)
        self._first = np.searchsorted(ends, self._edges, side="right")
        self._last = np.searchsorted(begins, self._edges, side="right") - 1
        self._parts = np.searchsorted(self._edges, np.stack([begins, ends], 1))
        self.n_missing = len(grid)
        self._n_missing_of = np.full(grid.counts[0], math.prod(grid.counts[1:]))

    def add(
        self,
        index: int | Sequence[int] | NDArray[np.integer[Any]],
        tile: Array,
        *,
        copy: bool = True,
    ) -> None:
        """Take a tile, or several.

        Parameters
        ----------
        index : int or sequence of int
            Which of the grid's tiles, 0 to ``len(grid) - 1``.
        tile : (channels, *grid.tile) array, or (n, channels, *grid.tile)
            Of the same library, device and dtype each time.
        copy : bool
            False: hold on to the tile's own memory, where that is contiguous: nobody is to write to
            it until its rows are handed out.

        Raises
        ------
        IndexError
            If there is no such tile.
        TypeError, ValueError
            If a tile came before, or is of another shape, dtype, library or device; nothing of the
            call is taken then. With `reject_nan`: if rows that became final have a NaN; there is no
            result then.
        """
        for row in self.take(index, tile, copy=copy):
            self.blend(row)

    def take(
        self,
        index: int | Sequence[int] | NDArray[np.integer[Any]],
        tile: Array,
        *,
        copy: bool = True,
    ) -> Iterator[int]:
        """Take tiles as `add` does, but leave the blending to `blend`.

        So that one thread can take tiles while another one blends: arguments and errors are those
        of `add`. Nothing is taken before the first step.

        Yields
        ------
        int
            A row of tiles (plane of a volume) that is complete now, for `blend`.
        """
        grid = self._grid
        single = np.ndim(index) == 0
        indices: list[Any] = [index] if single else list(index)  # type: ignore[arg-type]
        arrays = Arrays(tile=tile)
        tiles = arrays["tile"][None, ...] if single else arrays["tile"]
        expected = (len(indices), self._channels, *grid.tile)
        if tuple(tiles.shape) != expected:
            wanted = expected[1:] if single else expected
            raise ValueError(f"tile: expected shape {wanted}; got {tuple(arrays['tile'].shape)}")
        numbers = [integer("index", i) for i in indices]
        seen = set()
        for i in numbers:
            if not 0 <= i < len(grid):
                raise IndexError(f"index: expected a tile from 0 to {len(grid) - 1}; got {i}")
            place = grid.place(i)
            if i in seen or self._has[place]:
                raise ValueError(f"index: expected each tile once; got tile {i}, at {place}, twice")
            seen.add(i)
        with self._taking:
            self._check(arrays)
        n_each = math.prod(grid.counts[1:])
        for row, i in enumerate(numbers):
            with self._taking:
                if self._has[grid.place(i)]:  # from another thread, since
                    raise ValueError(f"index: expected each tile once; got tile {i} twice")
                self._tiles[i] = (
                    self._copy(i, tiles[row, ...], arrays)
                    if copy
                    else contiguous(arrays, tiles[row, ...])
                )
                self._has[grid.place(i)] = True
                self.n_missing -= 1
                self._n_missing_of[i // n_each] -= 1
                is_complete = self._n_missing_of[i // n_each] == 0
            if is_complete:
                yield i // n_each

    def _copy(self, i: int, tile: Array, arrays: Arrays) -> Array:
        # To touch new memory costs as much as the copy.
        own = self._spare.pop() if self._spare else arrays.empty(tuple(tile.shape), self._kind)
        own[...] = tile
        self._copies.add(i)
        return own

    def ready(self) -> Iterator[tuple[slice, Array]]:
        """Hand out what became final, each row once.

        Yields
        ------
        rows : slice
            Of the map, or planes of a volume.
        band : (channels, rows, W) or (channels, planes, H, W) array
            New, or a part of `out`.
        """
        while True:
            with self._blending:
                if not self._bands:
                    return
                self._n_handed += 1
                band = self._bands.pop(0)
            yield band

    def result(self) -> Array:
        """Give the whole map.

        Returns
        -------
        (channels, *grid.shape) array
            `out` if that was given; else new, of the tiles' library and device.

        Raises
        ------
        ValueError
            If tiles are missing, named by their indices; if parts were handed out by `ready` and
            there is no `out`; or if `add` found a NaN that `reject_nan` rejects.
        """
        if self.n_missing:
            missing = np.flatnonzero(~self._has.ravel())
            named = ", ".join(map(str, missing[:8].tolist()))
            more = ", ..." if len(missing) > 8 else ""
            raise ValueError(
                f"Stitcher: expected all {len(self._grid)} tiles; got none for "
                f"{len(missing)} of them: {named}{more}"
            )
        if len(self._grid) and not self._is_made.all():
            raise ValueError("Stitcher: expected tiles that add could blend; got others")
        if self._out is not None:
            return self._given_out
        if self._n_handed:
            raise ValueError("Stitcher: expected no rows handed out by ready(); got some")
        if self._arrays is None:
            dtype = getattr(np, self._wanted or "float32", np.float32)
            return np.zeros((self._channels, *self._grid.shape), dtype)
        bands = [band for _, band in sorted(self._bands, key=lambda band: band[0].start)]
        return array_namespace(bands[0]).concat(bands, axis=1)

    def _checked(self, out: Array) -> Array:
        """The caller's array, to be written to."""
        arrays = Arrays(out=out)
        # NumPy's as it is: one of another byte order would be a copy.
        array = out if isinstance(out, np.ndarray) else arrays["out"]
        expected = (self._channels, *self._grid.shape)
        if tuple(array.shape) != expected:
            raise ValueError(f"out: expected shape {expected}; got {tuple(array.shape)}")
        dtype = float_name("out", array.dtype)
        if self._wanted not in (None, dtype):
            raise ValueError(f"dtype: expected that of out, {dtype}; got {self._wanted}")
        self._wanted = dtype
        is_one = 0 not in expected and any(
            n > 1 and step == 0 for n, step in zip(expected, _strides(array), strict=True)
        )
        is_locked = isinstance(array, np.ndarray) and not array.flags.writeable
        if is_one or is_locked or arrays.kind == "jax":
            raise ValueError("out: expected an array that can be written to; got another")
        return array

    def _check(self, arrays: Arrays) -> None:
        kind = (dtype_name(arrays["tile"]), arrays.kind, str(arrays.device))
        if self._arrays is None:
            self._computed, self._wanted = map_dtypes(
                arrays, "tile", self._wanted, to_convert=self._out is not None
            )
            self._kind, self._all = kind[0], kind
        elif kind != self._all:
            dtype, *first = self._all
            raise ValueError(
                f"tile: expected {dtype} of {' on '.join(first)}, as the first one; "
                f"got {kind[0]} of {' on '.join(kind[1:])}"
            )
        self._arrays = arrays

    def blend(self, row: int) -> None:
        """Blend what `take` has taken the last tile for.

        Parameters
        ----------
        row : int
            As `take` yields it.

        Raises
        ------
        ValueError
            With `reject_nan`, if rows of the map that became final have a NaN.
        """
        with self._blending:
            self._blend(row)

    def _blend(self, layer: int) -> None:
        made = None
        parts = range(*self._parts[layer].tolist())
        for k in parts:
            layers = slice(self._first[k], self._last[k] + 1)
            if self._is_made[k] or self._n_missing_of[layers].any():
                if made is not None:
                    self._make_band(made, k)
                made = None
            elif made is None:
                made = k
        if made is not None:
            self._make_band(made, parts.stop)
        n_each = math.prod(self._grid.counts[1:])
        for i in list(self._tiles):
            if self._is_made[slice(*self._parts[i // n_each])].all():
                tile = self._tiles.pop(i)
                if i in self._copies:
                    self._copies.discard(i)
                    self._spare.append(tile)

    def _make_band(self, first_part: int, end_part: int) -> None:
        assert self._arrays is not None
        assert self._wanted is not None
        rows = slice(int(self._edges[first_part]), int(self._edges[end_part]))
        first, last = int(self._first[first_part]), int(self._last[end_part - 1])
        part = None if self._out is None else self._out[:, rows]
        is_direct = part is not None and self._writes_to(part)
        shape = (self._channels, rows.stop - rows.start, *self._grid.shape[1:])
        band = part if is_direct else self._arrays.empty(shape, self._computed)
        n_each = math.prod(self._grid.counts[1:])
        tiles = [self._tiles[i] for i in range(first * n_each, (last + 1) * n_each)]
        stream = self._arrays.stream
        nan = blend(stream, tiles, band, self._grid, self._weights, first, rows.start)
        if nan >= 0 and self._reject_nan:
            raise ValueError(self._where_nan(nan, shape, rows.start))
        if part is None:
            band = self._arrays.result(as_dtype(self._arrays.xp, band, self._wanted))
        elif not is_direct:
            _put(part, band, self._wanted)
            band = part
        self._bands.append((rows, band))
        self._is_made[first_part:end_part] = True

    def _writes_to(self, out: Array) -> bool:
        """Whether the kernel that reads the tiles can write there."""
        assert self._arrays is not None
        if dtype_name(out) != self._computed or (out.shape[-1] > 1 and _strides(out)[-1] != 1):
            return False
        if isinstance(out, np.ndarray):
            return (
                self._arrays.kind in ("numpy", "jax", "dlpack") or str(self._arrays.device) == "cpu"
            )
        there = Arrays(out=out)
        return (there.kind, str(there.device)) == (self._arrays.kind, str(self._arrays.device))

    def _where_nan(self, at: int, shape: tuple[int, ...], first_row: int) -> str:
        channel, row, *rest = map(int, np.unravel_index(at, shape))
        pixel = (first_row + row, *rest)
        for i in self._grid.touching([slice(p, p + 1) for p in pixel]).tolist():
            if not self._weights.counts_at(self._grid.place(i), pixel):
                continue
            place = [p - s for p, s in zip(pixel, self._grid.start(i), strict=True)]
            key = (channel, *place)
            value = self._tiles[i][key]
            if value != value:
                return f"tile: expected no NaN; got one in {name_tile(self._grid, i)}, at {pixel}"
        return f"tile: expected values whose mean is a number; got infinite ones at {pixel}"


def name_tile(grid: TileGrid, i: int) -> str:
    """Say which tile that is, for a message."""
    span = ", ".join(f"{part.start}:{part.stop}" for part in grid[i])
    return f"tile {i} (pixels {span})"


def _strides(array: Array) -> tuple[int, ...]:
    """In elements."""
    if hasattr(array, "stride"):
        return tuple(array.stride())
    return tuple(step // array.itemsize for step in array.strides)


def _put(out: Array, array: Array, dtype: str) -> None:
    """Copy to an array of that dtype and of any library."""
    if dtype in ("float16", "bfloat16"):
        array = as_dtype(array_namespace(array), array, "float32")
    if isinstance(out, np.ndarray):
        with np.errstate(over="ignore"):
            out[...] = to_host(array)
    elif array_namespace(out) is array_namespace(array):
        out[...] = array
    else:
        out[...] = array_namespace(out).asarray(to_host(array), device=device(out))
