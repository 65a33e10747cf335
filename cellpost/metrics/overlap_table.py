"""The objects of two label images and the pixels they share, on the host: what metrics read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellpost._arrays import Array, Arrays, dtype_name, to_host
from cellpost.labels import integer
from cellpost.overlaps import overlap_counts

__all__ = ["OverlapTable", "overlap_table"]

_BLOCK = 2**18  # pairs that are looked at together: scratch stays in the cache
Margins = tuple[tuple[int, int], ...]  # per axis, pixels at its low and at its high end


@dataclass(frozen=True, eq=False)
class OverlapTable:
    """Objects of a true and of a predicted label image, and the pairs that share pixels.

    Attributes
    ----------
    true_ids, pred_ids : (N,), (M,) int64 ndarray
        Ascending, without 0.
    true_areas, pred_areas : (N,), (M,) int64 ndarray
        In pixels.
    rows, columns : (n,) int32 ndarray
        Place of a pair's objects in `true_ids` and `pred_ids`; ascending by row, then by column.
    shared : (n,) int64 ndarray
        Pixels of each pair, 1 or more.
    """

    true_ids: NDArray[np.int64]
    pred_ids: NDArray[np.int64]
    true_areas: NDArray[np.int64]
    pred_areas: NDArray[np.int64]
    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    shared: NDArray[np.int64]

    def unions(self) -> NDArray[np.int64]:
        """Pixels that are of either object of a pair."""
        return self.true_areas[self.rows] + self.pred_areas[self.columns] - self.shared

    def ious(self) -> NDArray[np.float64]:
        """Intersection over union of each pair, in (0, 1]: the quotient rounded to float64."""
        return self.shared / self.unions()


def overlap_table(
    true: Array, pred: Array, exclude_border: int = 0, margins: Margins | None = None
) -> OverlapTable:
    """Count what two label images share; errors name them `true` and `pred`.

    Objects with a pixel in the margins count as background; `exclude_border` is a margin of that
    many pixels on all sides.
    """
    arrays = Arrays(true=true, pred=pred)
    shape = tuple(arrays["true"].shape)
    for name in ("true", "pred"):
        if "int" not in (dtype := dtype_name(arrays[name])):
            raise TypeError(f"{name}: expected an integer dtype; got {dtype}")
    if len(shape) not in (2, 3):
        raise ValueError(f"true: expected 2 axes (H, W) or 3 axes (D, H, W); got {shape}")
    if tuple(arrays["pred"].shape) != shape:
        raise ValueError(
            f"pred: expected the shape of true, {shape}; got {tuple(arrays['pred'].shape)}"
        )
    width = integer("exclude_border", exclude_border)
    if width < 0:
        raise ValueError(f"exclude_border: expected 0 pixels or more; got {width}")
    if margins is None:
        margins = ((width, width),) * len(shape)
    if 0 in shape:
        a = b = count = np.empty(0, np.int64)
    else:
        a, b, count = _counted(true, pred)
    dropped = [_within(arrays[name], margins) for name in ("true", "pred")]
    true_ids, true_areas, rows = _objects("true", a, count, dropped[0])
    del a
    pred_ids, pred_areas, columns = _objects("pred", b, count, dropped[1])
    del b
    both = (rows >= 0) & (columns >= 0)
    return OverlapTable(
        true_ids, pred_ids, true_areas, pred_areas, rows[both], columns[both], count[both]
    )


def _counted(true: Array, pred: Array) -> tuple[NDArray[np.int64], ...]:
    try:
        counts = overlap_counts(true, pred)
    except ValueError as error:
        name, found, rest = str(error).partition(": ")
        known = {"a": "true", "b": "pred"}
        if found and name in known:
            raise ValueError(f"{known[name]}: {rest}") from None
        raise
    return to_host(counts.a), to_host(counts.b), to_host(counts.count)


def _objects(
    name: str, ids: NDArray[np.int64], count: NDArray[np.int64], dropped: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Ids but for 0 and those dropped, ascending; their areas; the place of each pair's id, or -1.

    A table by id where ids are dense enough for one, else a search in the sorted ids.
    """
    lowest, largest = int(ids.min(initial=0)), int(ids.max(initial=0))
    if lowest < 0:
        raise ValueError(f"{name}: expected ids >= 0; got {lowest}")
    dense = largest <= 2 * len(ids) + 2**16
    if dense:
        present = np.zeros(largest + 1, bool)
        present[ids] = True
        present[0] = False
        present[dropped] = False
        known = np.flatnonzero(present)
        table = np.where(present, np.cumsum(present, dtype=np.int32) - 1, np.int32(-1))
    else:
        known = np.setdiff1d(np.unique(ids), np.append(dropped, 0), assume_unique=True)
    areas = np.zeros(len(known), np.int64)
    places = np.empty(len(ids), np.int32)
    for begin in range(0, len(ids), _BLOCK):
        part = ids[begin : begin + _BLOCK]
        if dense:
            place = table[part]
        else:
            place = np.searchsorted(known, part).astype(np.int32)
            inside = np.minimum(place, max(len(known) - 1, 0))
            there = known[inside] == part if len(known) else np.zeros(len(part), bool)
            place = np.where(there, place, np.int32(-1))
        places[begin : begin + _BLOCK] = place
        np.add.at(areas, place[place >= 0], count[begin : begin + _BLOCK][place >= 0])
    return known, areas, places


def _within(labels: Any, margins: Margins) -> NDArray[np.int64]:
    """Ids, but for 0, that have a pixel in the margins."""
    found = [np.empty(0, np.int64)]
    for axis, ends in enumerate(margins):
        size = labels.shape[axis]
        for part in (slice(0, min(ends[0], size)), slice(max(size - ends[1], 0), size)):
            if part.start < part.stop and 0 not in labels.shape:
                window = (*[slice(None)] * axis, part)
                found.append(np.unique(to_host(labels[window])).astype(np.int64))
    ids = np.unique(np.concatenate(found))
    return ids[ids > 0]
