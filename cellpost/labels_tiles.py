"""Label tiles as the kernels take them: their ids numbered through, and what they share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellpost import _core
from cellpost._arrays import Array, Arrays, dtype_name, is_c_contiguous, to_host
from cellpost.properties import properties
from cellpost.tiles_grid import TileGrid

__all__ = ["NOWHERE", "LabelTiles", "Numbers", "Pairs", "Row", "Survey", "TileRows"]

Numbers = NDArray[np.int64]
_BAND = 64  # pixels around where cores meet, in which objects are compared
NOWHERE = np.iinfo(np.int64).max  # first pixel of an id that the image does not show
_AXES = {2: (0, 2), 3: (0, 1, 2)}  # as the kernels count them: images have a middle one of a pixel


class Pairs(NamedTuple):
    """Ids of neighbours, numbered through, and the pixels they share; with backgrounds."""

    a: Numbers
    b: Numbers
    n_pixels: Numbers

    def shifted(self, by: int) -> Pairs:
        """The same pairs where ids count from another number."""
        return Pairs(self.a + by, self.b + by, self.n_pixels)


class Row(NamedTuple):
    """Tiles of a row of the grid, or of several rows."""

    tiles: list[Array]
    first: Numbers  #: number of each tile's background, which its ids follow; then of all

    def followed_by(self, other: Row) -> Row:
        """Both, numbered through."""
        return Row(
            self.tiles + other.tiles, np.append(self.first[:-1], other.first + self.first[-1])
        )


@dataclass(frozen=True, eq=False)
class Survey:
    """What the tiles hold; their ids are numbered through."""

    first: Numbers  #: number of each tile's background, which its ids follow; then of all
    first_pixel: Numbers  #: of each id in the image
    is_spanning: NDArray[np.bool_]  #: whether an id reaches through an overlap
    pairs: list[Pairs]  #: of neighbours along each axis


class TileRows(ABC):
    """Label tiles as the kernels take them, a row of the grid at a time."""

    def __init__(self, grid: TileGrid, arrays: Arrays) -> None:
        self.grid, self.arrays = grid, arrays

    @abstractmethod
    def row(self, k: int) -> Row:
        """Tiles of a row of the grid, their ids numbered through."""

    def every(self) -> Row:
        """All tiles, their ids numbered through."""
        rows = [self.row(k) for k in range(self.grid.counts[0])]
        n_ids = np.cumsum([0, *(row.first[-1] for row in rows)])
        _check_number_of_ids(int(n_ids[-1]))
        firsts = [row.first[:-1] + n for row, n in zip(rows, n_ids, strict=False)]
        tiles = [tile for row in rows for tile in row.tiles]
        return Row(tiles, np.concatenate([*firsts, n_ids[-1:]]))

    def part(self, k: int) -> range:
        """Which tiles are a row of the grid."""
        n = len(self.grid) // self.grid.counts[0]
        return range(k * n, (k + 1) * n)

    def numbered(self, tiles: Sequence[Array], places: Sequence[int]) -> Row:
        """Number the ids of some tiles through; `places` are theirs in the grid."""
        tiles, xp = list(tiles), self.arrays.xp
        most = _core.bits_of_ids(tiles, self.arrays.stream).astype(np.int64)  # and not less
        for i in np.flatnonzero(most < 0).tolist():
            raise ValueError(f"tiles[{places[i]}]: expected ids >= 0; got {int(xp.min(tiles[i]))}")
        # Tables of all ids of all tiles would dwarf these where ids are those of a whole slide.
        for i in np.flatnonzero(most > max(math.prod(self.grid.tile) // 16, 255)).tolist():
            tiles[i], most[i] = _ranked(tiles[i], xp)
        first = np.cumsum([0, *(most + 1)])
        _check_number_of_ids(int(first[-1]))
        return Row(tiles, first)

    def survey(self) -> Survey:
        """Look at all tiles, each row of the grid once: at most two rows are held."""
        grid, stream = self.grid, self.arrays.stream
        ends = self._by_row(self._ends_of_overlaps(), 1)
        shared = [self._by_row(self._shared(axis), 2) for axis in range(grid.ndim)]
        none = np.empty(0, np.int64)
        found = [[Pairs(none, none, none)] for _ in range(grid.ndim)]
        firsts, pixels, marks = [], [], []
        n_ids = 0
        above: Row | None = None
        for k in range(grid.counts[0]):
            row, begin, end = self.row(k), *self.core_rows(k)
            pixel, mark = _core.survey_tiles(
                row.tiles,
                stream,
                first=row.first,
                axes=self._cores(k),
                size=(end - begin, *grid.shape[1:]),
                regions=ends[k],
            )
            mark[row.first[:-1]] = 0
            pixel[row.first[:-1]] = NOWHERE
            pixel[pixel < NOWHERE] += begin * math.prod(grid.shape[1:])
            for axis in range(1, grid.ndim):
                found[axis].append(self._counted(row, shared[axis][k]).shifted(n_ids))
            if above is not None:
                both = self._counted(above.followed_by(row), shared[0][k - 1])
                found[0].append(both.shifted(n_ids - int(above.first[-1])))
            firsts.append(row.first[:-1] + n_ids)
            pixels.append(pixel)
            marks.append(mark)
            n_ids += int(row.first[-1])
            _check_number_of_ids(n_ids)
            above = row
        every_mark = np.concatenate(marks)
        return Survey(
            np.append(np.concatenate(firsts), n_ids),
            np.concatenate(pixels),
            (every_mark & every_mark >> 1 & 0b010101010101) != 0,
            [Pairs(*map(np.concatenate, zip(*pairs, strict=True))) for pairs in found],
        )

    def _counted(self, row: Row, shared: Numbers) -> Pairs:
        """Pixels of pairs of ids of some tiles, in what these share."""
        keys, counts = _core.tile_overlaps(
            row.tiles, self.arrays.stream, first=row.first, pairs=shared
        )
        return Pairs(keys >> 32, keys & 0xFFFFFFFF, counts)

    def _by_row(self, table: Numbers, n_tiles: int) -> list[Numbers]:
        """A table for each row of the grid; the first columns number tiles, there the row's."""
        n_rows = self.grid.counts[0]
        of_row = len(self.grid) // n_rows
        table = table[np.argsort(table[:, 0], kind="stable")]
        row = table[:, 0] // of_row
        table[:, :n_tiles] -= row[:, None] * of_row
        return np.split(table, np.searchsorted(row, np.arange(1, n_rows)))

    def _shared(self, axis: int) -> Numbers:
        """Neighbours along an axis and what they share: rows of tile_overlaps.

        Of what they share no more than _BAND pixels around where their cores meet, and as much
        beyond their cores' ends: only objects that cross from core to core are to be found again.
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
                    low = np.maximum(grid._core_begins[n] - _BAND // 2, grid._begins[n])[place]
                    high = np.minimum(grid._core_ends[n] + _BAND // 2, grid._ends[n])[place]
                    inside = low - grid.starts[n][place]
                    columns.append((inside, inside, high - low))
            if len(columns) == 2:  # a middle axis of one pixel
                columns.insert(1, (0, 0, 1))
            spans = [v for column in zip(*columns, strict=True) for v in column]
            rows.append(np.stack([np.broadcast_to(v, a.shape) for v in (a, b, *spans)], axis=1))
        table = np.concatenate(rows).astype(np.int64) if rows else np.empty((0, 11), np.int64)
        return table[(table[:, 8:] > 0).all(1)]  # a core may be empty

    def _ends_of_overlaps(self) -> NDArray[np.int64]:
        """Lines where overlaps begin and end, in each of the two tiles, as survey_tiles has them.

        The two marks of an overlap follow each other: 2 for each of its tiles, 4 for each axis.
        """
        grid, rows = self.grid, []
        number = np.arange(len(grid)).reshape(grid.counts)
        for axis in range(grid.ndim):
            begins, ends = grid._begins[axis][1:], grid._ends[axis][:-1] - 1
            overlaps = np.flatnonzero(ends >= begins)
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
                    places = np.unravel_index(tiles.ravel(), grid.counts)
                    for other, place in enumerate(places):
                        if other != axis:  # not what lies beyond the image
                            low = grid._begins[other][place]
                            begin[_AXES[grid.ndim][other]] = low - grid.starts[other][place]
                            size[_AXES[grid.ndim][other]] = grid._ends[other][place] - low
                    mark = np.full(tiles.size, 1 << (4 * axis + 2 * ahead + which))
                    rows.append(np.vstack([tiles.ravel(), begin, size, mark]).T)
        return np.concatenate(rows)

    def core_rows(self, k: int) -> tuple[int, int]:
        """First row of the image that a row of the grid writes, and one past the last."""
        return int(self.grid._core_begins[0][k]), int(self.grid._core_ends[0][k])

    def _cores(self, k: int) -> list[tuple[Numbers, Numbers, Numbers]]:
        """Starts and cores of a row of the grid, from where the row's cores begin."""
        along = self._all_cores()
        start, begin, end = (places[k : k + 1] for places in along[0])
        return [(start - begin, begin - begin, end - begin), *along[1:]]

    def _all_cores(self) -> list[tuple[Numbers, Numbers, Numbers]]:
        grid = self.grid
        return list(zip(grid.starts, grid._core_begins, grid._core_ends, strict=True))

    def compose(self, first: Numbers, numbers: NDArray[np.int32], out: Array) -> None:
        """Write the numbers of the ids, each pixel its core's tile's."""
        for k in range(self.grid.counts[0]):
            begin, end = self.core_rows(k)
            self.compose_row(k, first, numbers, out[begin:end, ...])

    def compose_row(self, k: int, first: Numbers, numbers: NDArray[np.int32], out: Array) -> None:
        """Write what a row of the grid writes."""
        row, part = self.row(k), self.part(k)
        first = first[part.start : part.stop + 1]
        if not np.array_equal(first - first[0], row.first):
            raise ValueError(f"tiles: expected the same ids each time row {k} is read; got others")
        _core.compose_tiles(
            row.tiles,
            out,
            self.arrays.stream,
            first=row.first,
            axes=self._cores(k),
            map=numbers[first[0] : first[-1]],
        )


class LabelTiles(TileRows):
    """Label tiles in memory."""

    def __init__(self, tiles: Any, grid: TileGrid) -> None:
        if isinstance(tiles, (list, tuple)):
            if len(tiles) != len(grid):
                raise ValueError(
                    f"tiles: expected {len(grid)}, one for each place; got {len(tiles)}"
                )
            empty = np.empty(grid.tile, np.int32)
            super().__init__(grid, Arrays(**{"tiles[0]": tiles[0] if len(tiles) else empty}))
            self.tiles = [self._read(i, tiles) for i in range(len(tiles))]
        else:
            super().__init__(grid, Arrays(tiles=tiles))
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
        self._rows: dict[int, Row] = {}

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

    def compose(self, first: Numbers, numbers: NDArray[np.int32], out: Array) -> None:
        """All rows at once, on all threads."""
        _core.compose_tiles(
            self.every().tiles,
            out,
            self.arrays.stream,
            first=first,
            axes=self._all_cores(),
            map=numbers,
        )

    def row(self, k: int) -> Row:
        """Tiles of a row of the grid, their ids numbered through."""
        if k not in self._rows:
            part = self.part(k)
            self._rows[k] = self.numbered(self.tiles[part.start : part.stop], part)
        return self._rows[k]

    def painted(self) -> tuple[NDArray[np.int32], int]:
        """Objects whose centroid lies in their tile's core, whole; how many their tile cuts."""
        grid = self.grid
        tiles, first = self.every()
        out = np.zeros(grid.shape, np.int32)
        kept, n_cut = [], 0
        for i in range(len(grid)):
            tile, inside = to_host(tiles[i]), grid[i]
            start, core = grid.start(i), grid.core(i)
            seen = tile[_within(inside, start)]
            cells = properties(seen)
            at = cells["centroid"] + np.array([p.start for p in inside])
            low, high = (np.array([getattr(p, end) for p in core]) for end in ("start", "stop"))
            # Pixels are at whole numbers: those of a core reach half a pixel beyond its first.
            is_own = ((at >= low - 0.5) & (at < high - 0.5)).all(1)
            begin, end = np.split(cells["bbox"], 2, axis=1)
            goes_on = np.array([p.start > 0 for p in inside])
            is_cut = (begin == 0) & goes_on
            goes_on = np.array([p.stop for p in inside]) < grid.shape
            is_cut |= (end == seen.shape) & goes_on
            n_cut += int((is_own & is_cut.any(1)).sum())
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
        return out, n_cut


def _within(part: Sequence[slice], start: Sequence[int]) -> tuple[slice, ...]:
    """A part of the image in pixels of what starts there."""
    return tuple(slice(p.start - s, p.stop - s) for p, s in zip(part, start, strict=True))


def _ranked(tile: Array, xp: Any) -> tuple[Array, int]:
    """A tile with the ranks of its ids, and the largest."""
    if isinstance(tile, np.ndarray) and tile.any():
        below = int(tile[tile > 0].min()) - 1
        n = int(tile.max()) - below + 1
        if n <= 4 * tile.size + 2**20:  # a table of those in between
            places = np.maximum(tile - np.int32(below), 0)
            is_there = np.zeros(n, np.bool_)
            is_there[places] = True
            is_there[0] = False
            rank = np.cumsum(is_there, dtype=np.int32)
            return rank[places], int(rank[-1])
    ids, ranks = xp.unique_inverse(tile)
    ranks = xp.astype(xp.reshape(ranks, tile.shape), xp.int32)
    return (ranks if int(ids[0]) == 0 else ranks + 1), int(xp.max(ranks)) + int(ids[0] != 0)


def _check_number_of_ids(n: int) -> None:
    if n > 2**31 - 1:
        raise ValueError(f"tiles: expected ids of fewer than 2**31 in all; got {n}")
