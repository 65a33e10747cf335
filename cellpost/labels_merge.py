"""Label images of overlapping tiles, put together: each object once, and no seams."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellpost import _core
from cellpost._arrays import Array, Arrays, dtype_name, is_c_contiguous, to_host
from cellpost.labels import number
from cellpost.properties import properties
from cellpost.tiles_grid import TileGrid

__all__ = ["StitchReport", "stitch_labels"]

_POLICIES = ("mutual", "iou", "ios", "center")
_BAND = 64  # pixels around where cores meet, in which objects are compared


@dataclass(frozen=True)
class StitchReport:
    """What became of the objects of the tiles.

    Attributes
    ----------
    n_links : int
        Pairs of objects of neighbouring tiles that are one object.
    n_refused : int
        Links left out because they would have made one object of two of the same tile.
    n_spanning : int
        Objects that reach through a whole overlap, from one tile's border to the other's: larger
        than the overlap.
    n_labels : int
        In the result.
    """

    n_links: int
    n_refused: int
    n_spanning: int
    n_labels: int


def stitch_labels(
    tiles: Array | Sequence[Array],
    grid: TileGrid,
    *,
    policy: Literal["mutual", "iou", "ios", "center"] = "mutual",
    threshold: float = 0.5,
    out_dtype: Any = None,
    return_report: bool = False,
) -> Any:
    """Put the label images of overlapping tiles together to that of the whole image.

    Parameters
    ----------
    tiles : (n, h, w), (ny, nx, h, w) array, or sequence of n arrays (h, w)
        Labels of each tile in the grid's order, any integer dtype; volumes with an axis more. Ids
        >= 0 are the tile's own: gaps, and the same ids in other tiles, mean nothing.
    grid : TileGrid
        Where the tiles lie. They have to overlap: by at least the largest object, to be sure.
    policy : {"mutual", "iou", "ios", "center"}
        What is one object. ``"mutual"``: two objects of neighbouring tiles, each of which overlaps
        the other more than any other one of its tile does. ``"iou"``, ``"ios"``: any two that
        overlap enough (where tiles disagree, ``"ios"`` also joins neighbours by slivers).
        ``"center"``: an object belongs to the tile whose core its centroid lies in, and is taken
        as that tile has it; no objects are joined.
    threshold : float
        What overlap has to pass, 0 to 1: intersection over union (with ``"ios"`` over the smaller
        one), counted inside what the two tiles both cover, up to 32 pixels from where their cores
        meet. Not used with ``"center"``.
    out_dtype : dtype, optional
        An integer one; int32 if not given.
    return_report : bool
        Return ``(labels, report)``.

    Returns
    -------
    (H, W) or (D, H, W) array
        Labels 1..N without gaps, in raster order of first appearance; of the library and on the
        device of `tiles`.
    StitchReport
        With `return_report`.

    Raises
    ------
    TypeError
        If tiles are no arrays of an integer dtype, or of different libraries.
    ValueError
        If the tiles are not those of the grid, ids are negative, or an option is out of range.
    OverflowError
        If `out_dtype` cannot hold the labels.

    Warns
    -----
    UserWarning
        If objects are larger than the overlap of the tiles, with their number.

    See Also
    --------
    TileGrid, stitch, merge_detections
    join_fragments : for tiles that do not overlap.

    Notes
    -----
    But with ``"center"``, each pixel is labelled by the tile whose core it lies in (half-way
    through what two tiles share): where networks see least of a tile's border. Objects are
    compared with those of the next tile along each axis, all others follow. Ties go to the lower
    id. Two objects of one tile never become one: of links that would do so those of less overlap
    are refused. Nothing depends on the order of the tiles, threads or device. Where tiles are cut
    from one label image its partition comes back exactly, whatever the overlap, if each object that
    crosses from core to core shows in what the two tiles share.

    With ``"center"`` a pixel that several objects claim is its core's tile's, else the first
    tile's; slower, on the host.

    Time and memory: each tile is read about four times, at the speed of memory; the result, and 4
    bytes an object.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> from cellpost.labels_merge import stitch_labels
    >>> cells = np.zeros((20, 40), np.int32)
    >>> cells[5:12, 3:9], cells[8:15, 15:24] = 1, 2
    >>> grid = cellpost.TileGrid(cells.shape, tile=20, overlap=0.5)
    >>> tiles = [cellpost.relabel(tile) for tile in grid.extract(cells)]  # each its own ids
    >>> np.array_equal(stitch_labels(tiles, grid), cells)
    True
    """
    if policy not in _POLICIES:
        raise ValueError(
            f"policy: expected one of {', '.join(map(repr, _POLICIES))}; got {policy!r}"
        )
    least = number("threshold", threshold)
    if not 0 <= least <= 1:
        raise ValueError(f"threshold: expected 0 to 1; got {threshold!r}")
    if not isinstance(grid, TileGrid):
        raise TypeError(f"grid: expected a TileGrid; got {type(grid).__name__}")
    every = _Tiles(tiles, grid)
    arrays = every.arrays
    labels = arrays.empty(grid.shape, "int32")
    n_links = n_refused = n_spanning = 0
    if policy == "center":
        labels[...] = arrays.xp.asarray(every.painted(), device=arrays.device)
    elif len(grid):
        links = [_linked(every, axis, policy, least) for axis in range(grid.ndim)]
        a, b, score = (np.concatenate(parts) for parts in zip(*links, strict=True))
        numbers, n_refused = _numbered(every, a, b, score)
        every.compose(numbers, labels)
        n_links, n_spanning = len(a), every.n_spanning(numbers)
    if n_spanning:
        warnings.warn(
            f"stitch_labels: {n_spanning} objects are larger than the overlap of the tiles: they "
            "may be cut or joined wrongly; use a larger overlap",
            stacklevel=2,
        )
    labels, _ = Arrays(labels=labels).int32_labels("labels", to_write=False)  # not too sparse
    n_labels = _core.relabel(labels, arrays.stream)
    result = arrays.labels_result(labels, n_labels, out_dtype)
    report = StitchReport(n_links, n_refused, n_spanning, n_labels)
    return (result, report) if return_report else result


class _Tiles:
    """Label tiles as the kernels take them; ids of all of them are numbered through."""

    def __init__(self, tiles: Any, grid: TileGrid) -> None:
        self.grid = grid
        listed = isinstance(tiles, (list, tuple))
        if not listed:
            arrays = Arrays(tiles=tiles)
            found, n = tuple(arrays["tiles"].shape), grid.ndim
            if found[-n:] != grid.tile or found[:-n] not in ((len(grid),), grid.counts):
                raise ValueError(
                    f"tiles: expected shape ({len(grid)}, *{grid.tile}) or "
                    f"(*{grid.counts}, *{grid.tile}), as the grid's; got {found}"
                )
            stack = arrays.xp.reshape(arrays["tiles"], (len(grid), *grid.tile))
            tiles = [stack[i, ...] for i in range(len(grid))]
        if len(tiles) != len(grid):
            raise ValueError(f"tiles: expected {len(grid)}, one for each place; got {len(tiles)}")
        self.tiles: list[Array] = []
        if not tiles:
            self.arrays = Arrays(tiles=np.empty(0, np.int32)) if listed else arrays
        else:
            self.arrays = Arrays(**{"tiles[0]": tiles[0]})
        for i, tile in enumerate(tiles):
            name = f"tiles[{i}]"
            given = Arrays(**{"tiles[0]": tiles[0], name: tile})
            if tuple(given[name].shape) != grid.tile:
                raise ValueError(
                    f"{name}: expected shape {grid.tile}; got {tuple(given[name].shape)}"
                )
            plain = dtype_name(given[name]) == "int32" and is_c_contiguous(given[name])
            one = given[name] if plain else given.int32_labels(name, to_write=False)[0]
            self.tiles.append(one)
        most = []
        xp = self.arrays.xp
        for i, one in enumerate(self.tiles):
            # One pass where NumPy can: negative ids are large ones without a sign.
            is_host = isinstance(one, np.ndarray)
            high = int(one.view(np.uint32).max() if is_host else xp.max(one))
            if high > 2**31 - 1 or (not is_host and int(xp.min(one)) < 0):
                raise ValueError(f"tiles[{i}]: expected ids >= 0; got {int(xp.min(one))}")
            if high > 4 * math.prod(grid.tile) + 2**20:  # a table of all ids would dwarf the tile
                name = f"tiles[{i}]"
                self.tiles[i], _ = Arrays(**{name: one}).int32_labels(name, to_write=False)
                high = int(xp.max(self.tiles[i]))
            most.append(high)
        #: number of each tile's background; the ids follow
        self.first = np.cumsum([0, *(high + 1 for high in most)])
        if self.first[-1] > 2**31 - 1:
            raise ValueError(
                f"tiles: expected ids of fewer than 2**31 in all; got {self.first[-1]}"
            )

    def pairs(self, axis: int) -> NDArray[np.int64]:
        """Neighbours along an axis and what they share: rows of tile_overlaps.

        Of what they share no more than _BAND pixels around where their cores meet: only objects
        that cross from core to core are to be found again.
        """
        grid = self.grid
        rows = []
        start, side, size = grid.starts[axis], grid.tile[axis], grid.shape[axis]
        number = np.arange(len(grid)).reshape(grid.counts)
        for k in range(grid.counts[axis] - 1):
            cut = int(grid._core_ends[axis][k])
            begin = max(int(start[k + 1]), 0, cut - _BAND // 2)
            end = min(int(start[k]) + side, size, cut + _BAND // 2)
            if end <= begin:
                continue
            a, b = (np.take(number, at, axis).ravel() for at in (k, k + 1))
            places = np.unravel_index(a, grid.counts)
            columns: list[tuple[Any, Any, Any]] = []
            for n, place in enumerate(places):
                if n == axis:
                    columns.append((begin - start[k], begin - start[k + 1], end - begin))
                else:
                    low = grid._begins[n][place]
                    inside = low - grid.starts[n][place]
                    columns.append((inside, inside, grid._ends[n][place] - low))
            if len(columns) == 2:  # a middle axis of one pixel
                columns.insert(1, (0, 0, 1))
            spans = [v for column in zip(*columns, strict=True) for v in column]
            rows.append(np.stack([np.broadcast_to(v, a.shape) for v in (a, b, *spans)], axis=1))
        return np.concatenate(rows).astype(np.int64) if rows else np.empty((0, 11), np.int64)

    def compose(self, numbers: NDArray[np.int32], out: Array) -> None:
        """Write the numbers of the ids, each pixel its core's tile's."""
        grid = self.grid
        _core.compose_tiles(
            self.tiles,
            out,
            self.arrays.stream,
            first=self.first,
            axes=list(zip(grid.starts, grid._core_begins, grid._core_ends, strict=True)),
            map=numbers,
        )

    def n_spanning(self, numbers: NDArray[np.int32]) -> int:
        """Objects that reach through all of what two tiles share."""
        grid, spanning = self.grid, []
        for axis in range(grid.ndim):
            begins, ends = grid._begins[axis], grid._ends[axis]
            number = np.moveaxis(np.arange(len(grid)).reshape(grid.counts), axis, 0)
            for ahead in (0, 1):  # seen by the first of two tiles, and by the second
                meets = np.zeros((2, len(numbers)), np.bool_)
                for k in range(grid.counts[axis] - 1):
                    lines = (begins[k + 1], ends[k] - 1)
                    if lines[1] <= lines[0]:
                        continue
                    start = int(grid.starts[axis][k + ahead])
                    keys = []
                    for line in lines:
                        key: list[int | slice] = [slice(None)] * grid.ndim
                        key[axis] = int(line) - start
                        keys.append(tuple(key))
                    for i in number[k + ahead].ravel().tolist():
                        for seen, key_of_line in zip(meets, keys, strict=True):
                            seen[int(self.first[i]) + to_host(self.tiles[i][key_of_line])] = True
                meets[:, self.first[:-1]] = False
                spanning.append(numbers[meets.all(0)])
        return len(np.unique(np.concatenate(spanning)))

    def painted(self) -> NDArray[np.int32]:
        """Objects whose centroid lies in their tile's core, whole."""
        grid = self.grid
        out = np.zeros(grid.shape, np.int32)
        kept = []
        for i in range(len(grid)):
            tile, inside = to_host(self.tiles[i]), grid[i]
            start, core = grid.start(i), grid.core(i)
            seen = tile[_within(inside, start)]
            cells = properties(seen)
            at = cells["centroid"] + np.array([p.start for p in inside])
            low, high = (np.array([getattr(p, end) for p in core]) for end in ("start", "stop"))
            # Pixels are at whole numbers: those of a core reach half a pixel beyond its first.
            is_own = ((at >= low - 0.5) & (at < high - 0.5)).all(1)
            numbers = np.zeros(int(self.first[i + 1] - self.first[i]), np.int32)
            own = cells["label"][is_own]
            numbers[own] = own + self.first[i]
            of_tile = numbers[seen]
            kept.append(of_tile)
            there = out[inside]
            there[there == 0] = of_tile[there == 0]
        for i, of_tile in enumerate(kept):
            inside, core = grid[i], grid.core(i)
            part = of_tile[_within(core, [p.start for p in inside])]
            there = out[core]
            there[part > 0] = part[part > 0]
        return out


def _within(part: Sequence[slice], start: Sequence[int]) -> tuple[slice, ...]:
    """A part of the image in pixels of what starts there."""
    return tuple(slice(p.start - s, p.stop - s) for p, s in zip(part, start, strict=True))


def _linked(
    every: _Tiles, axis: int, policy: str, least: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Numbers of objects of neighbouring tiles that are one object, and how much they overlap."""
    none = np.empty(0, np.int64)
    pairs = every.pairs(axis)
    if len(pairs) == 0:
        return none, none, np.empty(0)
    keys, counts = _core.tile_overlaps(
        every.tiles, every.arrays.stream, first=every.first, pairs=pairs
    )
    a, b = keys >> 32, keys & 0xFFFFFFFF
    n = int(every.first[-1])
    # Each tile is the first one of at most one pair along an axis, and the second of one.
    area_a, area_b = (np.bincount(ids, counts, n) for ids in (a, b))
    is_background = np.zeros(n, np.bool_)
    is_background[every.first[:-1]] = True
    cells = ~is_background[a] & ~is_background[b]
    a, b, shared = a[cells], b[cells], counts[cells].astype(np.float64)
    smaller = np.minimum(area_a[a], area_b[b])
    score = shared / (smaller if policy == "ios" else area_a[a] + area_b[b] - shared)
    links = score > least
    if policy == "mutual":
        links &= _is_best(a, b, score) & _is_best(b, a, score)
    return a[links], b[links], score[links]


def _is_best(
    a: NDArray[np.int64], b: NDArray[np.int64], score: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether a pair is the best one of its `a`; of equal ones that of the lowest `b`."""
    order = np.lexsort((b, -score, a))
    best = np.zeros(len(a), np.bool_)
    best[order] = np.diff(a[order], prepend=-1) != 0
    return best


def _numbered(
    every: _Tiles, a: NDArray[np.int64], b: NDArray[np.int64], score: NDArray[np.float64]
) -> tuple[NDArray[np.int32], int]:
    """A number for each id, the same for ids that links join, 0 for background; links refused."""
    n = int(every.first[-1])

    def groups_of(links: NDArray[np.bool_]) -> NDArray[np.int32]:
        graph = coo_array((np.ones(links.sum(), np.int8), (a[links], b[links])), (n, n))
        groups: NDArray[np.int32] = connected_components(graph, directed=False)[1]
        return groups

    links = np.ones(len(a), np.bool_)
    group = groups_of(links)
    ids = np.unique(np.concatenate([a, b]))
    tile = np.searchsorted(every.first, ids, side="right") - 1
    key = group[ids].astype(np.int64) * len(every.tiles) + tile
    found, count = np.unique(key, return_counts=True)
    clashing = np.zeros(n, np.bool_)
    clashing[found[count > 1] // len(every.tiles)] = True
    suspect = np.flatnonzero(clashing[group[a]])
    if len(suspect):
        tiles_of = {i: {int(t)} for i, t in zip(ids.tolist(), tile.tolist(), strict=True)}
        root = {i: i for i in tiles_of}

        def find(i: int) -> int:
            while root[i] != i:
                root[i] = root[root[i]]
                i = root[i]
            return i

        for k in suspect[np.lexsort((b[suspect], a[suspect], -score[suspect]))].tolist():
            i, j = find(int(a[k])), find(int(b[k]))
            if i != j and tiles_of[i] & tiles_of[j]:
                links[k] = False
            elif i != j:
                root[j] = i
                tiles_of[i] |= tiles_of.pop(j)
        group = groups_of(links)
    numbers = (group + 1).astype(np.int32)
    numbers[every.first[:-1]] = 0
    return numbers, int((~links).sum())
