"""Label images of overlapping tiles, put together: each object once, and no seams."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellpost import _core
from cellpost._arrays import Array, Arrays
from cellpost.labels import number
from cellpost.labels_tiles import NOWHERE, LabelTiles, Numbers, Pairs, Survey
from cellpost.tiles_grid import TileGrid

__all__ = ["StitchReport", "stitch_labels"]

_POLICIES = ("mutual", "iou", "ios", "center")


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
        than the overlap. With ``"center"``: objects that are taken from a tile whose border they
        touch.
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
        Where the tiles lie. They have to overlap: by at least the largest object, to be sure; with
        ``"center"`` by twice as far as an object reaches from its centroid.
    policy : {"mutual", "iou", "ios", "center"}
        What is one object. ``"iou"``, ``"ios"``: any two of neighbouring tiles that overlap enough
        (where tiles disagree, ``"ios"`` also joins neighbours by slivers). ``"mutual"``: of these
        by ``"iou"`` only two that overlap each other more than any other; from a threshold of 0.5
        on there is no other. ``"center"``: an object belongs to the tile whose core its centroid
        lies in, and is taken as that tile has it; no objects are joined.
    threshold : float
        What overlap has to pass, 0 <= threshold < 1: intersection over union (with ``"ios"`` over
        the smaller one), counted inside what the two tiles both cover, up to 32 pixels from where
        their cores meet. Not used with ``"center"``.
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
        If objects are larger than the overlap of the tiles, with their number (with ``"center"``
        of those that are taken from a tile that cuts them); if tiles do not overlap.

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
    crosses from core to core shows in what is compared: within 32 pixels of where cores meet.

    With ``"center"`` a pixel that several objects claim is its core's tile's, else the first
    tile's; slower, on the host.

    Time and memory: each tile is read about four times, at the speed of memory; the result, and 20
    bytes an object of each tile. Tiles of other dtypes than int32, and those with ids much larger
    than their number (a slide's, not the tile's own), are copied.

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
    least = check_options(policy, threshold, grid)
    every = LabelTiles(tiles, grid)
    arrays = every.arrays
    labels = arrays.empty(grid.shape, "int32")
    report = StitchReport(0, 0, 0, 0)
    if policy == "center":
        painted, n_cut = every.painted() if len(grid) else (labels, 0)
        labels[...] = arrays.xp.asarray(painted, device=arrays.device)
        labels, _ = Arrays(labels=labels).int32_labels("labels", to_write=False)  # not too sparse
        n_labels = _core.relabel(labels, arrays.stream)
        report = replace(report, n_spanning=n_cut, n_labels=n_labels)
    elif len(grid):
        seen = every.survey()
        numbers, report = merged(seen, policy, least)
        every.compose(seen.first, numbers, labels)
    if report.n_spanning:
        warn_of_spanning(report.n_spanning)
    result = arrays.labels_result(labels, report.n_labels, out_dtype)
    return (result, report) if return_report else result


def check_options(policy: str, threshold: Any, grid: Any) -> float:
    """Raise for options out of range, warn of gaps; the threshold as a number."""
    if policy not in _POLICIES:
        raise ValueError(
            f"policy: expected one of {', '.join(map(repr, _POLICIES))}; got {policy!r}"
        )
    least = number("threshold", threshold)
    if not 0 <= least < 1:
        raise ValueError(f"threshold: expected 0 <= threshold < 1; got {threshold!r}")
    if not isinstance(grid, TileGrid):
        raise TypeError(f"grid: expected a TileGrid; got {type(grid).__name__}")
    axes = zip(grid._begins, grid._ends, strict=True)
    if any((ends[:-1] <= begins[1:]).any() for begins, ends in axes):
        warnings.warn(
            "stitch_labels: tiles do not overlap: objects that they cut stay cut; join_fragments "
            "puts them together",
            stacklevel=3,
        )
    return least


def warn_of_spanning(n_spanning: int) -> None:
    """Warn the caller's caller of objects that tiles may have cut."""
    warnings.warn(
        f"stitch_labels: {n_spanning} objects are larger than the overlap of the tiles: they "
        "may be cut or joined wrongly; use a larger overlap",
        stacklevel=3,
    )


def merged(seen: Survey, policy: str, least: float) -> tuple[NDArray[np.int32], StitchReport]:
    """Of each id its number in the image, 0 of those that it does not show."""
    links = [_linked(seen, pairs, policy, least) for pairs in seen.pairs]
    a, b, score = (np.concatenate(parts) for parts in zip(*links, strict=True))
    group, n_refused = _grouped(seen.first, a, b, score)
    numbers, n_labels = _in_raster_order(group, seen.first_pixel)
    n_spanning = len(np.unique(group[seen.is_spanning]))
    return numbers, StitchReport(len(a), n_refused, n_spanning, n_labels)


def _linked(
    seen: Survey, pairs: Pairs, policy: str, least: float
) -> tuple[Numbers, Numbers, NDArray[np.float64]]:
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
        links &= is_best(a, b, score) & is_best(b, a, score)
    return a[links], b[links], score[links]


def is_best(
    a: NDArray[np.int64], b: NDArray[np.int64], score: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether a pair is the best one of its `a`; of equal ones that of the lowest `b`."""
    order = np.lexsort((b, -score, a))
    best = np.zeros(len(a), np.bool_)
    best[order] = np.diff(a[order], prepend=-1) != 0
    return best


def _grouped(
    first: Numbers, a: Numbers, b: Numbers, score: NDArray[np.float64]
) -> tuple[NDArray[np.int32], int]:
    """Of each id its group, one for ids that links join; how many links were refused."""
    n, n_tiles = int(first[-1]), len(first) - 1

    def groups_of(links: NDArray[np.bool_]) -> NDArray[np.int32]:
        graph = coo_array((np.ones(links.sum(), np.int8), (a[links], b[links])), (n, n))
        groups: NDArray[np.int32] = connected_components(graph, directed=False)[1]
        return groups

    links = np.ones(len(a), np.bool_)
    group = groups_of(links)
    is_linked = np.zeros(n, np.bool_)
    is_linked[a] = is_linked[b] = True
    ids = np.flatnonzero(is_linked)
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
    ids = np.flatnonzero(first_pixel < NOWHERE)
    first_of = np.full(group.max() + 1, NOWHERE)
    np.minimum.at(first_of, group[ids], first_pixel[ids])
    n = int((first_of < NOWHERE).sum())
    number_of = np.zeros(len(first_of), np.int32)
    number_of[np.argsort(first_of)[:n]] = np.arange(1, n + 1)
    numbers = np.zeros(len(group), np.int32)
    numbers[ids] = number_of[group[ids]]
    return numbers, n
