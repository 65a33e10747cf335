"""How much the objects of two label images overlap: what merging, fusing and metrics count by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellpost import _core
from cellpost._arrays import Array, Arrays, to_host

__all__ = ["ObjectPairs", "OverlapCounts", "object_pairs", "overlap_counts"]


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
    arrays = Arrays(a=a, b=b)
    first, ids_a = arrays.int32_labels("a", to_write=False)
    second, ids_b = arrays.int32_labels("b", to_write=False)
    keys, counts = _core.overlap_counts(first, second, arrays.stream)
    return OverlapCounts(_ids(keys >> 32, ids_a), _ids(keys & 0xFFFFFFFF, ids_b), counts)


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
    a, b : ndarray, (n,), int64
        Of each pair that shares a pixel, the objects' places in `ids_a` and `ids_b`.
    count : ndarray, (n,), int64
        Pixels that it shares.
    """

    ids_a: NDArray[np.int64]
    ids_b: NDArray[np.int64]
    area_a: NDArray[np.int64]
    area_b: NDArray[np.int64]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    count: NDArray[np.int64]

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each pair."""
        union = self.area_a[self.a] + self.area_b[self.b] - self.count
        return np.asarray(self.count / union, np.float64)


def object_pairs(found: OverlapCounts) -> ObjectPairs:
    """The objects, without the background, that were counted."""
    ids_a, area_a, a = _objects(found.a, found.count)
    ids_b, area_b, b = _objects(found.b, found.count)
    both = (a >= 0) & (b >= 0)
    return ObjectPairs(ids_a, ids_b, area_a, area_b, a[both], b[both], found.count[both])


def _objects(
    ids: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Ids but 0, their pixels, and the place of each entry among them, -1 for 0."""
    present, at = np.unique(ids, return_inverse=True)
    area = np.bincount(at, counts, len(present)).astype(np.int64)
    n_background = int(len(present) > 0 and present[0] == 0)
    return present[n_background:], area[n_background:], at - n_background
