"""Label tiles as the kernels take them: their ids numbered through, and what they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellpost import _core
from cellpost._arrays import Array, Arrays, dtype_name, is_c_contiguous, to_host
from cellpost.properties import properties
from cellpost.tiles_grid import TileGrid

__all__ = ["NOWHERE", "LabelTiles", "Numbers", "Pairs", "Survey"]

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


@dataclass(frozen=True, eq=False)
class Survey:
    """What the tiles hold; their ids are numbered through."""

    first: Numbers  #: number of each tile's background, which its ids follow; then of all
    first_pixel: Numbers  #: of each id in the image
    is_spanning: NDArray[np.bool_]  #: whether an id reaches through an overlap
    pairs: list[Pairs]  #: of neighbours along each axis


class LabelTiles:
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

    def survey(self) -> Survey:
        """Look at all tiles, a row of the grid at a time: it is read once and looked at often."""
        grid, stream = self.grid, self.arrays.stream
        n_rows, cores = grid.counts[0], self._cores()
        ends = self._by_row(self._ends_of_overlaps(), 1)
        shared = [self._by_row(self._shared(axis), 2) for axis in range(1, grid.ndim)]
        found: list[list[Pairs]] = [[] for _ in range(grid.ndim)]
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
            pixel[first[:-1]] = NOWHERE
            pixel[pixel < NOWHERE] += int(begin[0]) * math.prod(grid.shape[1:])
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
        return Survey(
            first,
            np.concatenate(pixels),
            (every_mark & every_mark >> 1 & 0b010101010101) != 0,
            [Pairs(*map(np.concatenate, zip(*pairs, strict=True))) for pairs in found],
        )

    def number(self, part: slice = slice(None)) -> Numbers:
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

    def _counted(self, part: slice, first: Numbers, shared: Numbers) -> Pairs:
        """Pixels of pairs of ids of some tiles, in what these share."""
        keys, counts = _core.tile_overlaps(
            self.tiles[part], self.arrays.stream, first=first, pairs=shared
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

    def _cores(self) -> list[tuple[Numbers, Numbers, Numbers]]:
        grid = self.grid
        return list(zip(grid.starts, grid._core_begins, grid._core_ends, strict=True))

    def compose(self, first: Numbers, numbers: NDArray[np.int32], out: Array) -> None:
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
