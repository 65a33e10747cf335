"""Label images of overlapping tiles, put together: each object once, and no seams."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

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

_Places = NDArray[np.int64]
_POLICIES = ("mutual", "iou", "ios", "center")
_BAND = 64  # pixels around where cores meet, in which objects are compared
_NOWHERE = np.iinfo(np.int64).max  # first pixel of an id that the image does not show
_AXES = {2: (0, 2), 3: (0, 1, 2)}  # as the kernels count them: images have a middle one of a pixel


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
    n_links = n_refused = n_spanning = n_labels = 0
    if policy == "center":
        labels[...] = arrays.xp.asarray(every.painted(), device=arrays.device)
        labels, _ = Arrays(labels=labels).int32_labels("labels", to_write=False)  # not too sparse
        n_labels = _core.relabel(labels, arrays.stream)
    elif len(grid):
        seen = every.survey()
        links = [_linked(seen, pairs, policy, least) for pairs in seen.pairs]
        a, b, score = (np.concatenate(parts) for parts in zip(*links, strict=True))
        group, n_refused = _grouped(seen.first, a, b, score)
        n_links, n_spanning = len(a), len(np.unique(group[seen.is_spanning]))
        numbers, n_labels = _in_raster_order(group, seen.first_pixel)
        every.compose(seen.first, numbers, labels)
    if n_spanning:
        warnings.warn(
            f"stitch_labels: {n_spanning} objects are larger than the overlap of the tiles: they "
            "may be cut or joined wrongly; use a larger overlap",
            stacklevel=2,
        )
    result = arrays.labels_result(labels, n_labels, out_dtype)
    report = StitchReport(n_links, n_refused, n_spanning, n_labels)
    return (result, report) if return_report else result


class _Pairs(NamedTuple):
    """Ids of neighbours, numbered through, and the pixels they share; with backgrounds."""

    a: _Places
    b: _Places
    n_pixels: _Places

    def shifted(self, by: int) -> _Pairs:
        return _Pairs(self.a + by, self.b + by, self.n_pixels)


@dataclass(frozen=True, eq=False)
class _Survey:
    """What the tiles hold; their ids are numbered through."""

    first: _Places  #: number of each tile's background, which its ids follow; then of all
    first_pixel: _Places  #: of each id in the image
    is_spanning: NDArray[np.bool_]  #: whether an id reaches through an overlap
    pairs: list[_Pairs]  #: of neighbours along each axis


class _Tiles:
    """Label tiles as the kernels take them."""

    def __init__(self, tiles: Any, grid: TileGrid) -> None:
        self.grid = grid
        if isinstance(tiles, (list, tuple)):
            if len(tiles) != len(grid):
                raise ValueError(
                    f"tiles: expected {len(grid)}, one for each place; got {len(tiles)}"
                )
            empty = np.empty(grid.tile, np.int32)
            self.arrays = Arrays(**{"tiles[0]": tiles[0] if len(tiles) else empty})
            self.tiles = [self._read(i, tiles) for i in range(len(tiles))]
        else:
            self.arrays = Arrays(tiles=tiles)
            found, n = tuple(self.arrays["tiles"].shape), grid.ndim
            if found[-n:] != grid.tile or found[:-n] not in ((len(grid),), grid.counts):
                raise ValueError(
                    f"tiles: expected shape ({len(grid)}, *{grid.tile}) or "
                    f"(*{grid.counts}, *{grid.tile}), as the grid's; got {found}"
                )
            stack = self.arrays.xp.reshape(self.arrays["tiles"], (len(grid), *grid.tile))
            self.tiles = [stack[i, ...] for i in range(len(grid))]
            if dtype_name(stack) != "int32" or not is_c_contiguous(stack):
                self.tiles = [self._read(i, self.tiles) for i in range(len(grid))]

    def _read(self, i: int, tiles: Sequence[Array]) -> Array:
        """A tile of the grid's shape, of the first one's library, as the kernels take it."""
        name = f"tiles[{i}]"
        given = Arrays(**{"tiles[0]": tiles[0], name: tiles[i]})
        if tuple(given[name].shape) != self.grid.tile:
            raise ValueError(
                f"{name}: expected shape {self.grid.tile}; got {tuple(given[name].shape)}"
            )
        if dtype_name(given[name]) == "int32" and is_c_contiguous(given[name]):
            return given[name]
        return given.int32_labels(name, to_write=False)[0]

    def survey(self) -> _Survey:
        """Look at all tiles, a row of the grid at a time: it is read once and looked at often."""
        grid, stream = self.grid, self.arrays.stream
        n_rows, cores = grid.counts[0], self._cores()
        ends = self._by_row(self._ends_of_overlaps(), 1)
        shared = [self._by_row(self._shared(axis), 2) for axis in range(1, grid.ndim)]
        found: list[list[_Pairs]] = [[] for _ in range(grid.ndim)]
        firsts, pixels, marks = [], [], []
        n_ids = 0
        for row in range(n_rows):
            part = slice(row * len(grid) // n_rows, (row + 1) * len(grid) // n_rows)
            first = self.number(part)
            start, begin, end = (places[row : row + 1] for places in cores[0])
            pixel, mark = _core.survey_tiles(
                self.tiles[part],
                stream,
                first=first,
                axes=[(start - begin, begin - begin, end - begin), *cores[1:]],
                size=(int(end[0] - begin[0]), *grid.shape[1:]),
                regions=ends[row],
            )
            mark[first[:-1]] = 0
            pixel[first[:-1]] = _NOWHERE
            pixel[pixel < _NOWHERE] += int(begin[0]) * math.prod(grid.shape[1:])
            for axis, pairs in enumerate(shared, 1):
                found[axis].append(self._counted(part, first, pairs[row]).shifted(n_ids))
            firsts.append(first[:-1] + n_ids)
            pixels.append(pixel)
            marks.append(mark)
            n_ids += int(first[-1])
            _check_number_of_ids(n_ids)
        first = np.append(np.concatenate(firsts), n_ids)
        found[0] = [self._counted(slice(None), first, self._shared(0))]
        every_mark = np.concatenate(marks)
        return _Survey(
            first,
            np.concatenate(pixels),
            (every_mark & every_mark >> 1 & 0b010101010101) != 0,
            [_Pairs(*map(np.concatenate, zip(*pairs, strict=True))) for pairs in found],
        )

    def number(self, part: slice = slice(None)) -> _Places:
        """Numbers of some tiles' backgrounds, which their ids follow, and of all of these."""
        tiles, names = self.tiles[part], range(len(self.tiles))[part]
        xp = self.arrays.xp
        most = _core.bits_of_ids(tiles, self.arrays.stream).astype(np.int64)  # and not less
        for i in np.flatnonzero(most < 0).tolist():
            raise ValueError(f"tiles[{names[i]}]: expected ids >= 0; got {int(xp.min(tiles[i]))}")
        # A table of all ids would dwarf the tile.
        for i in np.flatnonzero(most > 4 * math.prod(self.grid.tile) + 2**20).tolist():
            dense, _ = Arrays(tile=tiles[i]).int32_labels("tile", to_write=False)
            self.tiles[names[i]], most[i] = dense, int(xp.max(dense))
        first = np.cumsum([0, *(most + 1)])
        _check_number_of_ids(int(first[-1]))
        return first

    def _counted(self, part: slice, first: _Places, shared: _Places) -> _Pairs:
        """Pixels of pairs of ids of some tiles, in what these share."""
        keys, counts = _core.tile_overlaps(
            self.tiles[part], self.arrays.stream, first=first, pairs=shared
        )
        return _Pairs(keys >> 32, keys & 0xFFFFFFFF, counts)

    def _by_row(self, table: _Places, n_tiles: int) -> list[_Places]:
        """A table for each row of the grid; the first columns number tiles, there the row's."""
        n_rows = self.grid.counts[0]
        of_row = len(self.grid) // n_rows
        table = table[np.argsort(table[:, 0], kind="stable")]
        row = table[:, 0] // of_row
        table[:, :n_tiles] -= row[:, None] * of_row
        return np.split(table, np.searchsorted(row, np.arange(1, n_rows)))

    def _shared(self, axis: int) -> _Places:
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

    def _ends_of_overlaps(self) -> NDArray[np.int64]:
        """Lines where overlaps begin and end, in each of the two tiles, as survey_tiles has them.

        The two marks of an overlap follow each other: 2 for each of its tiles, 4 for each axis.
        """
        grid, rows = self.grid, []
        number = np.arange(len(grid)).reshape(grid.counts)
        for axis in range(grid.ndim):
            begins, ends = grid._begins[axis][1:], grid._ends[axis][:-1] - 1
            overlaps = np.flatnonzero(ends > begins)
            for ahead in (0, 1):
                tiles = np.take(number, overlaps + ahead, axis)
                shape = [1] * grid.ndim
                shape[axis] = -1
                for which, line in enumerate((begins, ends)):
                    at = line[overlaps] - grid.starts[axis][overlaps + ahead]
                    begin = np.zeros((3, tiles.size), np.int64)
                    begin[_AXES[grid.ndim][axis]] = np.broadcast_to(
                        at.reshape(shape), tiles.shape
                    ).ravel()
                    size = np.ones((3, tiles.size), np.int64)
                    for other in range(grid.ndim):
                        if other != axis:
                            size[_AXES[grid.ndim][other]] = grid.tile[other]
                    mark = np.full(tiles.size, 1 << (4 * axis + 2 * ahead + which))
                    rows.append(np.vstack([tiles.ravel(), begin, size, mark]).T)
        return np.concatenate(rows)

    def _cores(self) -> list[tuple[_Places, _Places, _Places]]:
        grid = self.grid
        return list(zip(grid.starts, grid._core_begins, grid._core_ends, strict=True))

    def compose(self, first: _Places, numbers: NDArray[np.int32], out: Array) -> None:
        """Write the numbers of the ids, each pixel its core's tile's."""
        _core.compose_tiles(
            self.tiles,
            out,
            self.arrays.stream,
            first=first,
            axes=self._cores(),
            map=numbers,
        )

    def painted(self) -> NDArray[np.int32]:
        """Objects whose centroid lies in their tile's core, whole."""
        grid = self.grid
        first = self.number()
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
            numbers = np.zeros(int(first[i + 1] - first[i]), np.int32)
            own = cells["label"][is_own]
            numbers[own] = own + first[i]
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


def _check_number_of_ids(n: int) -> None:
    if n > 2**31 - 1:
        raise ValueError(f"tiles: expected ids of fewer than 2**31 in all; got {n}")


def _linked(
    seen: _Survey, pairs: _Pairs, policy: str, least: float
) -> tuple[_Places, _Places, NDArray[np.float64]]:
    """Numbers of objects of neighbouring tiles that are one object, and how much they overlap."""
    a, b, counts = pairs
    n = int(seen.first[-1])
    # Each tile is the first one of at most one pair along an axis, and the second of one.
    area_a, area_b = (np.bincount(ids, counts, n) for ids in (a, b))
    is_background = np.zeros(n, np.bool_)
    is_background[seen.first[:-1]] = True
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


def _grouped(
    first: _Places, a: _Places, b: _Places, score: NDArray[np.float64]
) -> tuple[NDArray[np.int32], int]:
    """Of each id its group, one for ids that links join; how many links were refused."""
    n, n_tiles = int(first[-1]), len(first) - 1

    def groups_of(links: NDArray[np.bool_]) -> NDArray[np.int32]:
        graph = coo_array((np.ones(links.sum(), np.int8), (a[links], b[links])), (n, n))
        groups: NDArray[np.int32] = connected_components(graph, directed=False)[1]
        return groups

    links = np.ones(len(a), np.bool_)
    group = groups_of(links)
    ids = np.unique(np.concatenate([a, b]))
    tile = np.searchsorted(first, ids, side="right") - 1
    key = group[ids].astype(np.int64) * n_tiles + tile
    found, count = np.unique(key, return_counts=True)
    clashing = np.zeros(n, np.bool_)
    clashing[found[count > 1] // n_tiles] = True
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
    return group, int((~links).sum())


def _in_raster_order(
    group: NDArray[np.int32], first_pixel: NDArray[np.int64]
) -> tuple[NDArray[np.int32], int]:
    """Of each id the number of its group, 1..N as they appear; 0 of those that do not. N."""
    ids = np.flatnonzero(first_pixel < _NOWHERE)
    first_of = np.full(group.max() + 1, _NOWHERE)
    np.minimum.at(first_of, group[ids], first_pixel[ids])
    n = int((first_of < _NOWHERE).sum())
    number_of = np.zeros(len(first_of), np.int32)
    number_of[np.argsort(first_of)[:n]] = np.arange(1, n + 1)
    numbers = np.zeros(len(group), np.int32)
    numbers[ids] = number_of[group[ids]]
    return numbers, n
