"""stitch_labels of more tiles than memory holds: a row of the grid at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellpost._arrays import Array, Arrays, to_host
from cellpost.labels_merge import StitchReport, check_options, merged, warn_of_spanning
from cellpost.labels_tiles import Row, TileRows
from cellpost.slide.memory import check_memory
from cellpost.slide.output import check_out, opened
from cellpost.tiles_grid import TileGrid

__all__ = ["stitch_labels"]


def stitch_labels(
    tiles: Array | Sequence[Array] | Callable[[int], Array],
    grid: TileGrid,
    out: Any,
    *,
    policy: Literal["mutual", "iou", "ios"] = "mutual",
    threshold: float = 0.5,
    memory: int | str = "2GB",
    overwrite: bool = False,
) -> StitchReport:
    """Put the label images of overlapping tiles together to that of a slide, on disk.

    Parameters
    ----------
    tiles : array (n, h, w) or (ny, nx, h, w), sequence of n arrays (h, w), or callable
        As `cellpost.stitch_labels` takes them; also anything whose items can be read (zarr, h5py,
        dask, memory maps), or a function from a tile's number to its labels. Each is read twice
        and has to be the same both times.
    grid : TileGrid
        Where the tiles lie.
    out : str, Path, or array
        What to write the labels to: the name of a new ``.zarr`` or BigTIFF (``.tif``), or an array
        of the grid's shape that is written by slices (of `create_labels`, zarr, h5py, a memory
        map).
    policy, threshold
        As in `cellpost.stitch_labels`, less ``"center"``, which needs all tiles at once.
    memory : int or str
        What the call may take, in bytes or as ``"2GB"``, ``"512MiB"``: two rows of the grid's
        tiles as int32 have to fit, besides 100 bytes an object.
    overwrite : bool
        Replace an output that is there.

    Returns
    -------
    StitchReport
        As `cellpost.stitch_labels` gives it.

    Raises
    ------
    TypeError
        If tiles are of no integer dtype, or `out` is nothing to write to.
    ValueError
        If the tiles are not those of the grid, or others the second time; ids are negative, the
        memory is too small (the error says what is needed), or an option is out of range.
    OverflowError
        If the dtype of `out` cannot hold the labels; nothing is written then.
    ImportError, OSError
        If the output cannot be written; found out before a tile is read.

    Warns
    -----
    UserWarning
        If objects are larger than the overlap of the tiles, with their number.

    See Also
    --------
    cellpost.stitch_labels : in memory, with the rule of what is one object.

    Notes
    -----
    The labels are those of `cellpost.stitch_labels`, byte for byte. All objects are looked at row
    by row of the grid first, then numbered, then written row by row. Ids that fill the range of
    their dtype cost no more than others. On the CPU.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> from cellpost.slide.merge import stitch_labels
    >>> cells = np.zeros((20, 40), np.int32)
    >>> cells[5:12, 3:9], cells[8:15, 15:24] = 1, 2
    >>> grid = cellpost.TileGrid(cells.shape, tile=20, overlap=0.5)
    >>> out = np.zeros_like(cells)
    >>> stitch_labels(lambda i: cells[grid[i]], grid, out).n_labels
    2
    >>> np.array_equal(out, cells)
    True
    """
    if str(policy) == "center":
        raise ValueError(
            "policy: expected 'mutual', 'iou' or 'ios' ('center' needs all tiles at once: "
            "cellpost.stitch_labels has it); got 'center'"
        )
    least = check_options(policy, threshold, grid)
    of_row = len(grid) // max(grid.counts[0], 1)
    needed = _bytes_needed(grid, of_row)
    check_memory(memory, needed, f"two rows of {of_row} tiles")
    check_out(out, grid.shape, overwrite=overwrite)
    lazy = _ReadTiles(tiles, grid)
    if not len(grid):
        return StitchReport(0, 0, 0, 0)
    seen = lazy.survey()
    numbers, report = merged(seen, policy, least)
    with opened(out, grid.shape, report.n_labels, overwrite=overwrite) as target:
        for k in range(grid.counts[0]):
            begin, end = lazy.core_rows(k)
            part = np.empty((end - begin, *grid.shape[1:]), np.int32)
            lazy.compose_row(k, seen.first, numbers, part)
            target[begin:end, ...] = part
    if report.n_spanning:
        warn_of_spanning(report.n_spanning)
    return report


def _bytes_needed(grid: TileGrid, of_row: int) -> int:
    """Two rows of tiles, a tile as it is read, and a row of the image."""
    if not len(grid):
        return 0
    n_rows = int((grid._core_ends[0] - grid._core_begins[0]).max())
    pixels = (2 * of_row + 4) * math.prod(grid.tile) + n_rows * math.prod(grid.shape[1:])
    return 4 * pixels


class _ReadTiles(TileRows):
    """Label tiles that are read when their row is looked at, and not kept."""

    def __init__(self, tiles: Any, grid: TileGrid) -> None:
        super().__init__(grid, Arrays(tiles=np.empty(0, np.int32)))
        self._source = _reader(tiles, grid)

    def row(self, k: int) -> Row:
        """Tiles of a row of the grid, their ids numbered through."""
        part = self.part(k)
        return self.numbered([self._labels(i) for i in part], part)

    def _labels(self, i: int) -> NDArray[np.int32]:
        name = f"tiles[{i}]"
        tile = np.asarray(to_host(self._source(i)))
        if tile.shape != self.grid.tile:
            raise ValueError(f"{name}: expected shape {self.grid.tile}; got {tile.shape}")
        return np.asarray(Arrays(**{name: tile}).int32_labels(name, to_write=False)[0])


def _reader(tiles: Any, grid: TileGrid) -> Callable[[int], Any]:
    """How a tile is read, once it is clear that there are as many as the grid has."""
    if callable(tiles):
        return lambda i: tiles(i)
    n, shape = grid.ndim, getattr(tiles, "shape", None)
    if shape is None:
        if not hasattr(tiles, "__len__") or not hasattr(tiles, "__getitem__"):
            raise TypeError(
                f"tiles: expected an array, a sequence or a function; got {type(tiles).__name__}"
            )
        if len(tiles) != len(grid):
            raise ValueError(f"tiles: expected {len(grid)}, one for each place; got {len(tiles)}")
        return lambda i: tiles[i]
    found = tuple(shape)
    if found[-n:] != grid.tile or found[:-n] not in ((len(grid),), grid.counts):
        raise ValueError(
            f"tiles: expected shape ({len(grid)}, *{grid.tile}) or "
            f"(*{grid.counts}, *{grid.tile}), as the grid's; got {found}"
        )
    if len(found) == n + 1:
        return lambda i: tiles[i]
    return lambda i: tiles[grid.place(i)]
