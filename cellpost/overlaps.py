"""How much the objects of two label images overlap: what merging, fusing and metrics count by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellpost import _core
from cellpost._arrays import Array, Arrays, to_host
from cellpost.labels import integer

__all__ = ["ObjectPairs", "OverlapCounts", "count_pairs", "overlap_counts"]

_BLOCK = 2**18  # pairs that are looked at together: scratch stays in the cache
Margins = tuple[tuple[int, int], ...]  # per axis, pixels at its low and at its high end


@dataclass(frozen=True, eq=False)
class OverlapCounts:
    """Pixels that each object of one label image shares with each object of another.

    Attributes
    ----------
    a, b : ndarray, (n,), int64
        Ids, 0 for background, of every pair that shares a pixel, but for (0, 0); ascending by `a`,
        then by `b`. All pairs of an object together are all of its pixels.
    count : ndarray, (n,), int64
        Pixels of the pair.
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    count: NDArray[np.int64]


def overlap_counts(a: Array, b: Array) -> OverlapCounts:
    """Count the pixels that the objects of two label images share.

    Parameters
    ----------
    a, b : array, (H, W) or (D, H, W), any integer dtype
        Label images of one shape, library and device; ids >= 0, gaps allowed.

    Returns
    -------
    OverlapCounts
        NumPy's arrays, on the host: there are few of them.

    Raises
    ------
    TypeError
        If an input is no array, not of an integer dtype, or the two are of different libraries.
    ValueError
        If shapes or devices differ, or there are negative ids.

    Notes
    -----
    One pass over runs of pixels that have one pair of ids, into tables of the pairs: time linear in
    the pixels, memory in the pairs, never all of `a` times all of `b`. Counts are integers: threads
    and devices give the same numbers.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> found = cellpost.overlap_counts(np.array([[1, 1, 0, 2]]), np.array([[0, 7, 7, 0]]))
    >>> list(zip(found.a.tolist(), found.b.tolist(), found.count.tolist()))
    [(0, 7, 1), (1, 0, 1), (1, 7, 1), (2, 0, 1)]
    """
    (first, ids_a), (second, ids_b), stream = _checked(a=a, b=b)
    keys, counts = _core.overlap_counts(first, second, stream)
    return OverlapCounts(_ids(keys >> 32, ids_a), _ids(keys & 0xFFFFFFFF, ids_b), counts)


_Labels = tuple[Array, Array | None]  # int32, and the ids behind them if these were replaced


def _checked(**images: Array) -> tuple[_Labels, _Labels, int]:
    """Two label images as the kernels take them, and the stream."""
    arrays = Arrays(**images)
    one, other = images
    labels = [arrays.int32_labels(name, to_write=False) for name in (one, other)]
    shapes = [tuple(found.shape) for found, _ in labels]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{other}: expected the shape of {one}, {shapes[0]}; got {shapes[1]}")
    return labels[0], labels[1], arrays.stream


def _ids(ranks: NDArray[np.int64], ids: Array | None) -> NDArray[np.int64]:
    """The ids that these ranks stand for."""
    return ranks if ids is None else to_host(ids).astype(np.int64)[ranks]


@dataclass(frozen=True, eq=False)
class ObjectPairs:
    """The objects of two label images, and those that overlap.

    Attributes
    ----------
    ids_a, ids_b : ndarray, int64
        Ids of all objects of each image, ascending.
    area_a, area_b : ndarray, int64
        Their pixels.
    a, b : ndarray, (n,), int32
        Of each pair that shares a pixel, the objects' places in `ids_a` and `ids_b`; ascending by
        `a`, then by `b`.
    count : ndarray, (n,), int64
        Pixels that it shares, 1 or more.
    """

    ids_a: NDArray[np.int64]
    ids_b: NDArray[np.int64]
    area_a: NDArray[np.int64]
    area_b: NDArray[np.int64]
    a: NDArray[np.int32]
    b: NDArray[np.int32]
    count: NDArray[np.int64]

    def union(self) -> NDArray[np.int64]:
        """Pixels that are of either object of each pair."""
        union = self.area_a[self.a]
        union += self.area_b[self.b]
        union -= self.count
        return union

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each pair, in (0, 1]: the quotient rounded to float64."""
        return np.asarray(self.count / self.union(), np.float64)


def border_width(exclude_border: int) -> int:
    """The argument `exclude_border`, checked."""
    width = integer("exclude_border", exclude_border)
    if width < 0:
        raise ValueError(f"exclude_border: expected 0 pixels or more; got {width}")
    return width


def count_pairs(
    exclude_border: int = 0, margins: Margins | None = None, **images: Array
) -> ObjectPairs:
    """The objects of two label images, without the background, and what they share.

    Parameters
    ----------
    exclude_border : int
        Objects with a pixel among these outermost pixels, on any axis, count as background; 0 or
        more.
    margins : sequence of (low, high), optional
        The same for each axis and each of its ends, in place of `exclude_border`.
    **images : array
        The two label images, as of `overlap_counts`, under the names that errors give them.
    """
    width = border_width(exclude_border)
    margins = margins or ((width, width),) * 3
    (first, ids_a), (second, ids_b), stream = _checked(**images)
    keys, count = _core.overlap_counts(first, second, stream)
    halves = keys.astype("<i8", copy=False).view("<i4")  # of each key b's, then a's
    pairs = _paired(
        halves[1::2], halves[::2], count, _excluded(first, margins), _excluded(second, margins)
    )
    return replace(pairs, ids_a=_ids(pairs.ids_a, ids_a), ids_b=_ids(pairs.ids_b, ids_b))


def _paired(
    a: NDArray[np.integer[Any]],
    b: NDArray[np.integer[Any]],
    count: NDArray[np.int64],
    excluded_a: NDArray[np.int64],
    excluded_b: NDArray[np.int64],
) -> ObjectPairs:
    ids_a, area_a, place_a = _objects(a, count, excluded_a)
    ids_b, area_b, place_b = _objects(b, count, excluded_b)
    both = (place_a >= 0) & (place_b >= 0)
    return ObjectPairs(ids_a, ids_b, area_a, area_b, place_a[both], place_b[both], count[both])


def _excluded(labels: Any, margins: Margins) -> NDArray[np.int64]:
    """The background, and what has a pixel in the margins; ascending."""
    found = [np.zeros(1, np.int64)]
    for axis, (size, (low, high)) in enumerate(zip(labels.shape, margins, strict=False)):
        for part in (slice(0, low), slice(max(size - high, 0), size)):
            window = (*[slice(None)] * axis, part)
            found.append(np.unique(to_host(labels[window])).astype(np.int64))
    return np.unique(np.concatenate(found))


def _objects(
    ranks: NDArray[np.integer[Any]], count: NDArray[np.int64], excluded: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Those present, ascending; their pixels; each entry's place among them, -1 if excluded."""
    present = np.setdiff1d(np.unique(ranks), excluded, assume_unique=True).astype(np.int64)
    ends = np.append(present, -1)  # so that a place behind the last one holds another rank
    area = np.zeros(len(present), np.int64)
    places = np.empty(len(ranks), np.int32)
    for begin in range(0, len(ranks), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        place = np.searchsorted(present, ranks[block])
        is_there = ends[place] == ranks[block]
        places[block] = np.where(is_there, place, -1)
        np.add.at(area, place[is_there], count[block][is_there])
    return present, area, places
