"""Where the tiles of an image lie, how to cut them out, and which pixels each answers for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import index
from typing import Any, Literal

import numpy as np
from array_api_compat import (
    array_namespace,
    device,
    is_cupy_array,
    is_numpy_array,
    is_torch_array,
)
from numpy.typing import NDArray

from cellpost._arrays import Array
from cellpost.tiles_layout import LARGEST, fixed, image_shape, integers, sliding, stride_of

__all__ = ["Layout", "Padding", "TileGrid"]

Layout = Literal["sliding", "fixed", "nonoverlap", "halo"]
Padding = Literal["constant", "edge", "reflect", "wrap"]

_LAYOUTS = ("sliding", "fixed", "nonoverlap", "halo")


class TileGrid(Sequence[tuple[slice, ...]]):
    """Tiles of one size that cover an image or a volume.

    Parameters
    ----------
    shape : (H, W) or (D, H, W)
        Of the image in pixels, 0 or more a side. An image without pixels has no tiles.
    tile : int or one per axis
        Side of the tiles in pixels, 1 or more; all that a network sees, overlap and halo included.
        May be larger than the image: that is padded then.
    overlap : float or one per axis
        Share of a tile that the next one covers again, 0 <= overlap < 1; 0.6 if neither this nor
        `overlap_px`, `stride` is given. Never pixels. The stride is ``int(tile * (1 - overlap))``
        and at least 1, as MONAI's.
    overlap_px : int or one per axis
        The same in pixels, 0 <= overlap_px < tile.
    stride : int or one per axis
        From the start of a tile to that of the next in pixels, 1 <= stride <= tile.
    halo_px : int or one per axis
        With ``layout="halo"``: margin on each side of the core in pixels, 0 <= 2 * halo_px < tile.
    layout : {"sliding", "fixed", "nonoverlap", "halo"}
        ``"sliding"``: every stride a tile; the last one is moved back to end with the image (as
        MONAI's). ``"fixed"``: every stride a tile, until the image is covered; the last one may
        reach beyond it. ``"nonoverlap"``: the same with the tile as the stride. ``"halo"``:
        sliding, with the core as the stride; cores cover the image without overlap, and each has at
        least `halo_px` pixels of its tile around it, but for the image's border.

    Attributes
    ----------
    shape, tile, stride : tuple of int
        As above, one per axis.
    layout : str
    starts : tuple of int64 ndarray
        Per axis, where tiles start; negative where the image is padded before its first pixel.
    counts : tuple of int
        Tiles per axis.

    Raises
    ------
    TypeError
        If a size is no integer, or an overlap no number.
    ValueError
        If an argument is out of range, has not one value per axis, contradicts another one, or is
        of another layout.

    See Also
    --------
    stitch, Stitcher, segment

    Notes
    -----
    ``len(grid)`` tiles in raster order, the last axis fastest; ``grid[i]`` are the slices of tile i
    that lie inside the image. With ``"sliding"`` and ``"halo"`` an image smaller than the tile is
    padded on both sides, half the difference (rounded down) before it, as MONAI does; with the
    others it is padded behind. Only starts along each axis are held: a grid of a million tiles
    costs what its sides do.

    Examples
    --------
    >>> import cellpost
    >>> grid = cellpost.TileGrid((1000, 700), tile=512, overlap=0.6)
    >>> len(grid), grid.counts, grid.starts[0].tolist()
    (8, (4, 2), [0, 204, 408, 488])
    >>> grid[3]
    (slice(204, 716, None), slice(188, 700, None))
    >>> cellpost.TileGrid((520, 704), tile=(301, 302), stride=(73, 134), layout="fixed").counts
    (4, 4)
    >>> halo = cellpost.TileGrid((1000, 700), tile=512, halo_px=64, layout="halo")
    >>> halo.core(0), halo.core(1)
    ((slice(0, 448, None), slice(0, 350, None)), (slice(0, 448, None), slice(350, 700, None)))
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        tile: int | Sequence[int] = 512,
        overlap: float | Sequence[float] | None = None,
        overlap_px: int | Sequence[int] | None = None,
        stride: int | Sequence[int] | None = None,
        halo_px: int | Sequence[int] | None = None,
        layout: Layout = "sliding",
    ) -> None:
        if layout not in _LAYOUTS:
            raise ValueError(
                f"layout: expected one of {', '.join(map(repr, _LAYOUTS))}; got {layout!r}"
            )
        sizes = image_shape(shape)
        n = len(sizes)
        tiles = integers("tile", tile, n, 1, [LARGEST] * n)
        self.shape, self.tile, self.layout = sizes, tiles, layout
        self.stride = stride_of(tiles, layout, overlap, overlap_px, stride, halo_px)
        axes = zip(sizes, tiles, self.stride, strict=True)
        if layout in ("sliding", "halo"):
            self.starts = tuple(sliding(*axis) for axis in axes)
        else:
            self.starts = tuple(fixed(*axis) for axis in axes)
        self._close()

    @classmethod
    def at(
        cls, shape: Sequence[int], tile: int | Sequence[int], starts: Sequence[Sequence[int]]
    ) -> TileGrid:
        """Grid whose tiles start where they are told to.

        Parameters
        ----------
        shape, tile
            As of the class.
        starts : sequence of int, one per axis
            Ascending, each differing from the last by at most the tile; the first at most 0, and
            the last tile reaches the image's end.

        Returns
        -------
        TileGrid
            Its layout is ``"fixed"``; its stride the largest step of each axis.

        Raises
        ------
        TypeError, ValueError
            If starts are no integers, descend, or leave pixels uncovered.

        Examples
        --------
        >>> import cellpost
        >>> len(cellpost.TileGrid.at((10, 10), 6, [[0, 4], [-1, 3, 4]]))
        6
        """
        grid = cls.__new__(cls)
        grid.shape = image_shape(shape)
        n = len(grid.shape)
        grid.tile = integers("tile", tile, n, 1, [LARGEST] * n)
        grid.layout = "fixed"
        try:
            firsts = [np.array([index(v) for v in axis], np.int64) for axis in starts]
        except (TypeError, OverflowError):
            raise TypeError(
                f"starts: expected sequences of integers of pixels; got {starts!r}"
            ) from None
        if len(firsts) != n:
            raise ValueError(f"starts: expected {n} sequences, one per axis; got {len(firsts)}")
        for size, side, first in zip(grid.shape, grid.tile, firsts, strict=True):
            steps = np.diff(first)
            covers = size == 0 or (len(first) > 0 and first[0] <= 0 and first[-1] + side >= size)
            if not covers or (steps < 1).any() or (steps > side).any():
                raise ValueError(
                    f"starts: expected ascending ones whose tiles of {side} cover 0 to {size}; "
                    f"got {first.tolist()}"
                )
            if len(first) and (size == 0 or first[0] <= -side or first[-1] >= size):
                raise ValueError(
                    f"starts: expected tiles of {side} that meet the image, 0 to {size}; "
                    f"got {first.tolist()}"
                )
        grid.starts = tuple(firsts)
        grid.stride = tuple(int(np.diff(f).max(initial=1)) for f in firsts)
        grid._close()
        return grid

    def _close(self) -> None:
        self.counts = tuple(len(starts) for starts in self.starts)
        axes = list(zip(self.shape, self.tile, self.starts, strict=True))
        self._begins = tuple(np.maximum(starts, 0) for _, _, starts in axes)
        self._ends = tuple(np.minimum(starts + side, size) for size, side, starts in axes)
        # Half-way through what two neighbours share: with a halo on both sides, where cores meet.
        cuts = [(starts[:-1] + side + starts[1:]) // 2 for _, side, starts in axes]
        # A cut may lie beyond the image if its first or last tiles do.
        cuts = [np.clip(cut, 0, size) for cut, size in zip(cuts, self.shape, strict=True)]
        zero = np.zeros(1, np.int64)
        self._core_begins = tuple(
            np.concatenate([zero, cut])[: len(starts)]
            for cut, starts in zip(cuts, self.starts, strict=True)
        )
        self._core_ends = tuple(
            np.concatenate([cut, zero + size])[: len(starts)]
            for cut, size, starts in zip(cuts, self.shape, self.starts, strict=True)
        )

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return len(self.shape)

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TileGrid)
            and (self.shape, self.tile, self.counts) == (other.shape, other.tile, other.counts)
            and all(map(np.array_equal, self.starts, other.starts))
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.tile, self.counts))

    def __repr__(self) -> str:
        return (
            f"TileGrid({self.shape}, tile={self.tile}, stride={self.stride}, "
            f"layout={self.layout!r}): {len(self)} tiles"
        )

    def place(self, i: int) -> tuple[int, ...]:
        """Row and column (plane, row, column) of tile `i` in the grid.

        Parameters
        ----------
        i : int
            From 0 to ``len(grid) - 1``; negative ones count from the end.

        Returns
        -------
        tuple of int

        Raises
        ------
        IndexError
            If there is no such tile.
        """
        n = len(self)
        try:
            number = index(i)
        except TypeError:
            raise TypeError(f"i: expected the integer index of a tile; got {i!r}") from None
        if not -n <= number < n:
            raise IndexError(f"i: expected a tile from 0 to {n - 1}; got {i}")
        return tuple(map(int, np.unravel_index(number % n, self.counts)))

    def start(self, i: int) -> tuple[int, ...]:
        """First pixel of tile `i`; negative where the image is padded before it.

        Parameters
        ----------
        i : int
            As of `place`.

        Returns
        -------
        tuple of int
        """
        return tuple(int(starts[k]) for starts, k in zip(self.starts, self.place(i), strict=True))

    def __getitem__(self, i: int) -> tuple[slice, ...]:  # type: ignore[override]
        """Slices of the image that tile `i` covers."""
        return _slices(self._begins, self._ends, self.place(i))

    def core(self, i: int) -> tuple[slice, ...]:
        """Pixels that belong to tile `i` alone: cores cover the image once.

        Parameters
        ----------
        i : int
            As of `place`.

        Returns
        -------
        tuple of slice
            Up to the middle of what the tile shares with its neighbours.
        """
        return _slices(self._core_begins, self._core_ends, self.place(i))

    def touching(self, region: Sequence[slice]) -> NDArray[np.int64]:
        """Tiles that cover a pixel of a region.

        Parameters
        ----------
        region : sequence of slice
            One per axis, step 1; as NumPy reads them for an image of the grid's shape.

        Returns
        -------
        (n,) int64 ndarray
            Their indices, ascending.

        Raises
        ------
        ValueError
            If there is not one slice of step 1 per axis.

        Examples
        --------
        >>> import cellpost
        >>> grid = cellpost.TileGrid((1000, 700), tile=512)
        >>> grid.touching((slice(0, 200), slice(0, 100))).tolist()
        [0]
        """
        if (
            not isinstance(region, Sequence)
            or len(region) != self.ndim
            or not all(isinstance(part, slice) and part.step in (None, 1) for part in region)
        ):
            raise ValueError(f"region: expected {self.ndim} slices of step 1; got {region!r}")
        lines = []
        for part, size, begins, ends in zip(
            region, self.shape, self._begins, self._ends, strict=True
        ):
            begin, end, _ = part.indices(size)
            if end <= begin:
                return np.empty(0, np.int64)
            lines.append(np.flatnonzero((begins < end) & (ends > begin)))
        return np.ravel_multi_index(np.ix_(*lines), self.counts).ravel().astype(np.int64)

    def extract(
        self,
        image: Array,
        indices: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        *,
        padding: Padding = "constant",
        value: float = 0.0,
    ) -> Array:
        """Tiles of an image, cut out and padded.

        Parameters
        ----------
        image : (..., H, W) or (..., D, H, W) array
            Any dtype; its last axes are the grid's. NumPy, PyTorch, CuPy, or anything that NumPy
            can read slices of (zarr, h5py, dask): only the tiles' pixels are read then.
        indices : sequence of int, optional
            Which tiles, in which order; all if not given.
        padding : {"constant", "edge", "reflect", "wrap"}
            What is there beyond the image, as in ``numpy.pad``.
        value : float
            With ``"constant"``.

        Returns
        -------
        (n, ..., h, w) or (n, ..., d, h, w) array
            A copy, of the image's dtype, library (else NumPy) and device.

        Raises
        ------
        IndexError
            If there is no such tile.
        ValueError
            If the image is not of the grid's shape, its dtype has not that value, or `padding` is
            unknown.

        Examples
        --------
        >>> import numpy as np, cellpost
        >>> grid = cellpost.TileGrid((5, 7), tile=4, overlap=0.5)
        >>> grid.extract(np.zeros((3, 5, 7))).shape
        (6, 3, 4, 4)
        """
        if padding not in ("constant", "edge", "reflect", "wrap"):
            raise ValueError(
                f"padding: expected 'constant', 'edge', 'reflect' or 'wrap'; got {padding!r}"
            )
        if not hasattr(image, "shape") or isinstance(image, np.ma.MaskedArray):
            raise TypeError(f"image: expected a plain array; got {type(image).__name__}")
        shape = tuple(image.shape)
        if shape[-self.ndim :] != self.shape:
            raise ValueError(f"image: expected the shape (..., *{self.shape}); got {shape}")
        kind = str(image.dtype).removeprefix("torch.")
        if padding == "constant" and "float" not in kind and "complex" not in kind:
            low, high = (0, 1) if kind == "bool" else (np.iinfo(kind).min, np.iinfo(kind).max)
            if value != value or value != int(value) or not low <= value <= high:
                raise ValueError(f"value: expected one that {kind} has; got {value!r}")
        which = range(len(self)) if indices is None else indices
        if not hasattr(which, "__len__"):
            raise TypeError(f"indices: expected a sequence of integers; got {which!r}")
        wanted = (len(which), *shape[: -self.ndim], *self.tile)
        # Arrays of JAX and Dask cannot be written to: their tiles are NumPy's, as those of files.
        if is_numpy_array(image) or is_torch_array(image) or is_cupy_array(image):
            xp = array_namespace(image)
            tiles = xp.empty(wanted, dtype=image.dtype, device=device(image))
            read = _as_it_is
        else:
            tiles = np.empty(wanted, image.dtype)
            read = _as_numpy
        for row, i in enumerate(which):
            self._cut(image, self.start(i), tiles[row, ...], read, padding, value)
        return tiles

    def _cut(
        self,
        image: Array,
        start: tuple[int, ...],
        out: Array,
        read: Any,
        padding: str,
        value: float,
    ) -> None:
        ends = [s + side for s, side in zip(start, self.tile, strict=True)]
        if min(start) >= 0 and all(e <= n for e, n in zip(ends, self.shape, strict=True)):
            inside = tuple(slice(s, e) for s, e in zip(start, ends, strict=True))
            window = (..., *inside)
            out[...] = read(image[window])
            return
        source, target, lines = [], [], []
        for s, e, size in zip(start, ends, self.shape, strict=True):
            places = np.arange(s, e)
            if padding == "constant":
                places = places[(places >= 0) & (places < size)]
                target.append(slice(int(places[0]) - s, int(places[-1]) + 1 - s))
            else:
                places = _inside(places, size, padding)
                target.append(slice(None))
            low = int(places.min())
            source.append(slice(low, int(places.max()) + 1))
            lines.append(places - low)
        window = (..., *source)
        part = read(image[window])
        if padding == "constant":
            out[...] = value
        else:
            for axis, places in enumerate(lines, -self.ndim):
                part = _taken(part, places, axis)
        covered = (..., *target)
        out[covered] = part

    def batches(
        self,
        image: Array,
        n: int,
        *,
        padding: Padding = "constant",
        value: float = 0.0,
    ) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """Tiles of an image, up to `n` at a time, in order.

        Parameters
        ----------
        image, padding, value
            As of `extract`.
        n : int
            Tiles a batch, 1 or more; the last batch may have fewer.

        Yields
        ------
        indices : (m,) int64 ndarray
        tiles : (m, ..., h, w) array
            A copy that is the caller's own: writing to it does not reach the image.

        Raises
        ------
        TypeError, ValueError
            If `n` is no integer of at least 1, or as of `extract`.

        Examples
        --------
        >>> import numpy as np, cellpost
        >>> grid = cellpost.TileGrid((5, 7), tile=4, overlap=0.5)
        >>> [indices.tolist() for indices, _ in grid.batches(np.zeros((5, 7)), 4)]
        [[0, 1, 2, 3], [4, 5]]
        """
        (size,) = integers("n", n, 1, 1, [LARGEST])
        for first in range(0, len(self), size):
            indices = np.arange(first, min(first + size, len(self)))
            yield indices, self.extract(image, indices, padding=padding, value=value)


def _as_it_is(array: Array) -> Array:
    return array


def _as_numpy(array: Array) -> Array:
    return np.asarray(array)


def _taken(array: Array, places: NDArray[np.int64], axis: int) -> Array:
    xp = array_namespace(array)
    return xp.take(array, xp.asarray(places, device=device(array)), axis=axis)


def _inside(places: NDArray[np.int64], size: int, padding: str) -> NDArray[np.int64]:
    """Pixels of the image that stand for places on a line through it and beyond."""
    if padding == "edge":
        return np.clip(places, 0, size - 1)
    if padding == "wrap":
        return places % size
    period = max(2 * (size - 1), 1)
    folded = places % period
    return np.where(folded < size, folded, period - folded)


def _slices(
    begins: tuple[NDArray[np.int64], ...],
    ends: tuple[NDArray[np.int64], ...],
    place: tuple[int, ...],
) -> tuple[slice, ...]:
    return tuple(
        slice(int(begin[k]), int(end[k])) for begin, end, k in zip(begins, ends, place, strict=True)
    )
