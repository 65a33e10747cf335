"""Objects that were found plane by plane, put together to those of the volume."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellpost import _core
from cellpost._arrays import Array, Arrays
from cellpost.labels import integer, number
from cellpost.overlaps import ObjectPairs, count_pairs

__all__ = ["PlanesReport", "stitch_planes"]


@dataclass(frozen=True)
class PlanesReport:
    """What `stitch_planes` did.

    Attributes
    ----------
    n_objects : tuple of int
        Objects of each plane.
    n_linked : int
        Objects that continue one of an earlier plane.
    n_across : int
        Those of them that continue one across planes that miss it.
    n_labels : int
        Objects of the volume.
    """

    n_objects: tuple[int, ...]
    n_linked: int
    n_across: int
    n_labels: int


def stitch_planes(
    labels: Array,
    iou_threshold: float = 0.25,
    *,
    gap_closing: int = 0,
    out_dtype: Any = None,
    return_report: bool = False,
) -> Array | tuple[Array, PlanesReport]:
    """Link the objects of a volume's planes to objects of the volume.

    Parameters
    ----------
    labels : array, (D, H, W), any integer dtype
        Planes that were labelled one by one: ids >= 0, gaps allowed; one id in two planes means
        nothing. Not written to.
    iou_threshold : float
        Objects of two planes are linked if their intersection over union is at least this, 0 to 1.
        With 0 they still have to overlap.
    gap_closing : int
        An object may be missing in up to this many planes and be linked to what follows, >= 0. The
        planes that miss it stay as they are.
    out_dtype : dtype, optional
        Integer dtype of the result; int32 if not given.
    return_report : bool
        Return ``(labels, report)``.

    Returns
    -------
    array, (D, H, W)
        Labels 1..N in raster order of the objects' first voxels, 0 is background; new, of the kind
        and on the device of `labels`.
    PlanesReport
        With `return_report`.

    Raises
    ------
    TypeError
        If `labels` is no array or not of an integer dtype, `iou_threshold` is no number,
        `gap_closing` no integer, or `out_dtype` no integer dtype.
    ValueError
        If `labels` has not 3 axes or has negative ids, or an option is out of range.
    OverflowError
        If `out_dtype` cannot hold N.

    Notes
    -----
    The rule is that of ``cellpose.utils.stitch3D``: from the first plane to the last, an object of
    the volume picks the object of the next plane with which its IoU is largest, and an object of
    that plane picks, of those that picked it, the one with the largest IoU. Ties: all objects of
    the next plane that tie for one of the volume continue it, and become one; of objects of the
    volume that tie for one of the next plane, the one that began first continues (in the earlier
    plane, there with the lower id). An object that picked in vain ends, even where its second
    choice is free.

    With `gap_closing`, objects of a plane that are linked to none of the plane before are then
    linked, by the same rule, to objects that were last seen in the plane before that, and so on: a
    nearer plane comes first, and its links are those without `gap_closing`.

    Planes without objects, also the first and the last, have nothing to link and are no error
    (stitch3D gives objects after an empty second plane ids that are taken). The partition is
    stitch3D's wherever that comes to a right end; the numbers are in raster order here.

    One count of shared pixels for each plane (`gap_closing` adds up to one for each plane across),
    one look-up, one renumbering: time linear in the voxels, memory in the result and in the pairs
    of objects that overlap; stitch3D's matrix has an entry for each object of a plane with each
    id of the volume so far. CUDA counts and renumbers the same; pairs are matched on the host. IoUs
    are compared as float64 quotients of whole numbers, which tell different ones apart in unions
    below 2**26 pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.labels_planes import stitch_planes
    >>> planes = np.array([[[1, 1, 0, 2]], [[2, 2, 0, 0]], [[0, 7, 0, 5]]])
    >>> stitch_planes(planes).tolist()
    [[[1, 1, 0, 2]], [[1, 1, 0, 0]], [[0, 1, 0, 3]]]
    >>> linked, report = stitch_planes(planes, gap_closing=1, return_report=True)
    >>> linked.tolist()
    [[[1, 1, 0, 2]], [[1, 1, 0, 0]], [[0, 1, 0, 2]]]
    >>> report
    PlanesReport(n_objects=(2, 1, 2), n_linked=3, n_across=1, n_labels=2)
    """
    arrays = Arrays(labels=labels)
    volume = arrays["labels"]
    if len(volume.shape) != 3:
        raise ValueError(f"labels: expected 3 axes (D, H, W); got shape {tuple(volume.shape)}")
    threshold = number("iou_threshold", iou_threshold)
    if not 0 <= threshold <= 1:
        raise ValueError(f"iou_threshold: expected 0 to 1; got {iou_threshold!r}")
    gap = integer("gap_closing", gap_closing)
    if gap < 0:
        raise ValueError(f"gap_closing: expected an integer of at least 0; got {gap}")

    out = arrays.empty(tuple(volume.shape), "int32")
    recent: deque[_Plane] = deque(maxlen=min(gap, len(volume)) + 1)  # the last one first
    n_numbers = n_linked = n_across = 0
    n_objects = []
    for z in range(len(volume)):
        image, _ = Arrays(labels=volume[z]).int32_labels("labels", to_write=False)
        # Of the first plane all that counts is which ids it has.
        pairs = count_pairs(a=image, b=recent[0].image if recent else image)
        plane = _Plane(image, pairs.ids_a)
        for n_missed, before in enumerate(recent):
            if n_missed > 0:
                if not (before.is_last.any() and (plane.number_of == 0).any()):
                    continue
                pairs = count_pairs(a=image, b=before.image)
            linked = plane.link(before, pairs, threshold)
            n_linked += linked
            n_across += linked if n_missed > 0 else 0
        n_numbers = plane.number(n_numbers)
        n_objects.append(len(plane.ids))
        numbers = np.zeros(int(plane.ids.max(initial=0)) + 1, np.int32)
        numbers[plane.ids] = plane.number_of
        if 0 not in image.shape:
            _replace(image, numbers, out[z : z + 1], arrays.stream)
        recent.appendleft(plane)
    n_labels = _core.relabel(out, arrays.stream)
    result = arrays.labels_result(out, n_labels, out_dtype)
    if not return_report:
        return result
    return result, PlanesReport(tuple(n_objects), n_linked, n_across, n_labels)


def _replace(image: Array, numbers: NDArray[np.int32], out: Array, stream: int) -> None:
    """Write the number of each id: a plane is one tile of the image it is."""
    zero = np.zeros(1, np.int64)
    _core.compose_tiles(
        [image[None]],
        out,
        stream,
        first=np.array([0, len(numbers)]),
        axes=[(zero, zero, zero + n) for n in out.shape],
        map=numbers,
    )


def _sums(at: NDArray[np.int64], counts: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Sums of the counts at each place below n; pixels of an image are exact in float64."""
    return np.bincount(at, counts, n).astype(np.int64)


class _Plane:
    """A plane's objects.

    Those that continue one object of the volume together count as one: a part of it here.

    Attributes
    ----------
    image : array, (H, W), int32
        Its labels.
    ids : ndarray, int64
        Of its objects, ascending.
    number_of : ndarray, int64
        The object of the volume that each id is, 0 for none yet.
    numbers : ndarray, int64
        Of the parts, ascending: there once all ids have got theirs.
    part_of : ndarray, int64
        The place of each id's number among `numbers`.
    is_last : ndarray, bool
        Parts whose object has been seen in no later plane.
    """

    numbers: NDArray[np.int64]
    part_of: NDArray[np.int64]
    is_last: NDArray[np.bool_]

    def __init__(self, image: Array, ids: NDArray[np.int64]) -> None:
        self.image = image
        self.ids = ids
        self.number_of = np.zeros(len(ids), np.int64)

    def link(self, before: _Plane, pairs: ObjectPairs, threshold: float) -> int:
        """Link objects that are free to parts of an earlier plane that are; returns how many."""
        parts = len(before.numbers)
        area = _sums(before.part_of, pairs.area_b, parts)
        new, old, count = pairs.a.astype(np.int64), before.part_of[pairs.b], pairs.count
        if parts < len(before.ids):  # several ids of one part
            keys, at = np.unique(new * parts + old, return_inverse=True)
            new, old, count = keys // parts, keys % parts, _sums(at, count, len(keys))
        iou = count / (pairs.area_a[new] + area[old] - count)
        free = (self.number_of[new] == 0) & before.is_last[old] & (iou >= threshold)
        new, old, iou = new[free], old[free], iou[free]
        best = np.zeros(parts)
        np.maximum.at(best, old, iou)
        picked = iou >= best[old]
        new, old, iou = new[picked], old[picked], iou[picked]
        order = np.lexsort((old, -iou, new))
        new, old = new[order], old[order]
        first = np.ones(len(new), np.bool_)
        first[1:] = new[1:] != new[:-1]
        self.number_of[new[first]] = before.numbers[old[first]]
        before.is_last[old[first]] = False
        return int(first.sum())

    def number(self, n_numbers: int) -> int:
        """Number the objects still free after n_numbers others; returns how many there are."""
        free = np.flatnonzero(self.number_of == 0)
        self.number_of[free] = n_numbers + 1 + np.arange(len(free))
        self.numbers, self.part_of = np.unique(self.number_of, return_inverse=True)
        self.is_last = np.ones(len(self.numbers), np.bool_)
        return n_numbers + len(free)
