"""Detections of overlapping tiles, put together to those of the whole image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from cellpost import _core
from cellpost._arrays import Array, Arrays, to_host
from cellpost.detections import Detections, as_detections
from cellpost.labels import choose, number
from cellpost.nms import Candidates, Metric
from cellpost.paste import PasteStyle

__all__ = ["MergeReport", "merge_detections"]

_LARGEST = 2**23  # pixels a side of an image


@dataclass(frozen=True)
class MergeReport:
    """What became of the detections of the tiles.

    Attributes
    ----------
    n_detections : int
        In all tiles.
    n_small, n_large : int
        Dropped because a side is below `min_side`, or above `max_side_share` of the tile's, or
        because both are above `span_share`.
    n_cut : int
        Of the others, those that a tile's border cuts.
    n_duplicates : int
        Dropped because a better one shows the same object.
    n_kept : int
        In the result.
    """

    n_detections: int
    n_small: int
    n_large: int
    n_cut: int
    n_duplicates: int
    n_kept: int


def merge_detections(
    per_tile: Iterable[Any],
    grid: Iterable[tuple[slice, ...]],
    *,
    prefer: Literal["center", "score"] = "center",
    edge_margin: float = 1.0,
    iou_threshold: float = 0.5,
    metric: Metric = "iou",
    min_side: float = 0.0,
    max_side_share: float = np.inf,
    span_share: float = np.inf,
    class_agnostic: bool = True,
    threshold: float = 0.5,
    style: PasteStyle = "detectron2",
    return_report: bool = False,
) -> Detections | tuple[Detections, MergeReport]:
    """Put the detections of overlapping tiles together, each object once.

    Parameters
    ----------
    per_tile : iterable of Detections, or of outputs that `as_detections` takes
        What was found in each tile, boxes in pixels of the tile; of one library and device.
    grid : iterable of (slice, slice)
        Rows and columns of the image that each tile covers, in the same order. The image ends where
        the last tiles do, or at ``grid.shape`` if it has one.
    prefer : {"center", "score"}
        Which of several detections of one object stays: of one tile the one with the higher score;
        of several tiles one that no inner border of its tile cuts; then the one farther from such
        borders, or the one with the higher score.
    edge_margin : float
        A box that comes closer than this to an inner border of its tile is cut by it, in pixels.
    iou_threshold : float
        Detections that overlap by more than this, 0 to 1, show the same object. One that is cut is
        compared with that part of the other that its own tile sees: so a part of a cell is the
        same object as the whole cell in the other tile.
    metric : {"iou", "ios"}
        As in `nms`.
    min_side : float
        Boxes with a shorter side are dropped, in pixels.
    max_side_share : float
        Boxes with a side longer than this share of the tile's are dropped; none if not given.
    span_share : float
        Boxes with both sides longer than this share of the tile's are dropped; none if not given.
    class_agnostic : bool
        Whether detections of different classes can show the same object.
    threshold, style
        Of the masks, as in `paste_masks`.
    return_report : bool
        Return ``(detections, report)``.

    Returns
    -------
    Detections
        In pixels of the image, best first in the sense of `prefer`; boxes and mask_boxes are
        float64. Crops are not copied where tiles have crops of differing sizes.
    MergeReport
        With `return_report`.

    Raises
    ------
    TypeError
        If an output is not understood, or tiles are of different libraries.
    ValueError
        If there is not one output for each tile, some have masks or classes and others have not, a
        tile is no pair of slices, or an option is out of range.

    See Also
    --------
    mask_nms, nms, Paster

    Notes
    -----
    With masks the pixels in question are counted, else boxes are compared; masks tell neighbours in
    dense tissue apart whose boxes overlap. The order of the tiles does not show. A row that an
    error names counts through all tiles. A cell larger than the overlap of the tiles is cut in
    both: the better part stays, and both do if they do not overlap enough.

    System E of the Sartorius ensemble prefers the centre; VSM's filters are ``min_side=3,
    max_side_share=0.5, span_share=0.8``.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> from cellpost.detections import Detections
    >>> tiles = [(slice(0, 10), slice(0, 10)), (slice(0, 10), slice(5, 15))]
    >>> left = Detections(np.array([[6.0, 2, 10, 6]]), np.array([0.9]))  # cut at column 10
    >>> right = Detections(np.array([[1.0, 2, 8, 6]]), np.array([0.8]))
    >>> cellpost.merge_detections([left, right], tiles).boxes.tolist()
    [[6.0, 2.0, 13.0, 6.0]]
    """
    if prefer not in ("center", "score"):
        raise ValueError(f"prefer: expected 'center' or 'score'; got {prefer!r}")
    limits = {
        "edge_margin": edge_margin,
        "min_side": min_side,
        "max_side_share": max_side_share,
        "span_share": span_share,
    }
    for name, value in limits.items():
        if not number(name, value) >= 0:
            raise ValueError(f"{name}: expected a number of at least 0; got {value!r}")
    windows = np.array([_window(i, tile) for i, tile in enumerate(grid)]).reshape(-1, 4)
    found = [as_detections(output, shape=_size(w)) for output, w in _paired(per_tile, windows)]
    ends = windows[:, 2:].max(0, initial=0)
    shape = ends if isinstance(grid, np.ndarray) else np.asarray(getattr(grid, "shape", ends))[-2:]
    tile = np.repeat(np.arange(len(found)), [len(one) for one in found])
    every = joined(found, windows)
    if not class_agnostic and len(every) and every.class_ids is None:
        raise ValueError("class_agnostic: expected True for detections without class_ids")
    choose("style", style, _core.PasteStyle)
    box, score = to_host(every.boxes).astype(float), to_host(every.scores).astype(float)
    if not (np.isfinite(box).all() and np.isfinite(score).all()):
        raise ValueError("per_tile: expected finite boxes and scores")

    of = windows[tile]  # y0, x0, y1, x1 of the tile of each
    sides, tile_sides = box[:, [3, 2]] - box[:, [1, 0]], of[:, 2:] - of[:, :2]
    is_small = (sides < min_side).any(1)
    is_large = (sides > max_side_share * tile_sides).any(1)
    is_large |= (sides > span_share * tile_sides).all(1)
    fits = ~(is_small | is_large)

    # Distances from the tile's borders; those that are the image's cut nothing.
    low = np.where(of[:, :2] > 0, box[:, [1, 0]] - of[:, :2], np.inf)
    high = np.where(of[:, 2:] < shape, of[:, 2:] - box[:, [3, 2]], np.inf)
    is_cut = (np.minimum(low, high) < edge_margin).any(1)
    middle = np.minimum(low + sides / 2, high + sides / 2).min(1, initial=np.inf)
    keys = (-score, -middle) if prefer == "center" else (-middle, -score)
    # What is equal in all of these goes by the tile's place, then by its row there: by nothing that
    # the order of the tiles could change.
    order = np.lexsort((of[:, 1], of[:, 0], *keys, is_cut))
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))

    # Of what a cut one is compared with only the part counts that the cut one's tile sees.
    seen = of[:, [0, 2, 1, 3]]
    seen[~is_cut] = 0, _LARGEST, 0, _LARGEST
    options = (shape, seen, iou_threshold, metric, threshold, style)
    kinds = np.zeros(len(order), int)
    if not class_agnostic and every.class_ids is not None:
        kinds = np.unique(to_host(every.class_ids), return_inverse=True)[1]
    # Within a tile the score decides, and between tiles the rank.
    best = np.lexsort((rank, -score))
    by_score = np.empty(len(order), int)
    by_score[best] = np.arange(len(order))
    left = _distinct(every, fits, by_score, tile * (kinds.max(initial=0) + 1) + kinds, *options)
    left = _distinct(every, left, rank, kinds, *options)
    kept = every[order[left[order]]]
    if not return_report:
        return kept
    return kept, MergeReport(
        n_detections=len(every),
        n_small=int(is_small.sum()),
        n_large=int((is_large & ~is_small).sum()),
        n_cut=int((is_cut & fits).sum()),
        n_duplicates=int(fits.sum()) - len(kept),
        n_kept=len(kept),
    )


def _distinct(
    found: Detections,
    among: NDArray[np.bool_],
    rank: NDArray[np.int64],
    kinds: NDArray[np.int64],
    shape: NDArray[np.int64],
    seen: NDArray[np.int64],
    iou_threshold: float,
    metric: Metric,
    threshold: float,
    style: PasteStyle,
) -> NDArray[np.bool_]:
    """Which of the detections in question duplicate none of a better rank and the same kind."""

    def beside(array: NDArray[Any]) -> Array:
        return array_namespace(found.boxes).asarray(array, device=device(found.boxes))

    covered = found.boxes if found.mask_boxes is None else found.mask_boxes
    # The others are each of a kind of their own: nothing has to be copied to leave them out.
    alone = kinds.max(initial=0) + 1 + np.arange(len(found))
    rows = Candidates(
        found.boxes if found.masks is None else covered,
        beside(-rank.astype(float)),
        beside(np.where(among, kinds, alone)),
    )
    tiles = beside(np.ascontiguousarray(seen, np.int32))
    if found.masks is None:
        keep = rows.suppress(iou_threshold, metric, tiles)
    else:
        keep = rows.suppress_masks(
            found.masks, shape.tolist(), iou_threshold, metric, threshold, style, tiles
        )
    left = np.zeros(len(found), np.bool_)
    left[to_host(keep)] = True
    return left & among


def _window(i: int, tile: Any) -> tuple[int, int, int, int]:
    """y0, x0, y1, x1 of a tile."""
    try:
        rows, columns = tile
        y0, x0, y1, x1 = map(index, (rows.start, columns.start, rows.stop, columns.stop))
        if 0 <= y0 < y1 <= _LARGEST and 0 <= x0 < x1 <= _LARGEST:
            return y0, x0, y1, x1
    except (TypeError, ValueError, AttributeError):
        pass
    raise ValueError(
        f"grid: expected (slice(y0, y1), slice(x0, x1)) of pixels up to 2**23; "
        f"got {tile!r} for tile {i}"
    )


def _size(window: NDArray[np.int64]) -> tuple[int, int]:
    y0, x0, y1, x1 = window.tolist()
    return y1 - y0, x1 - x0


def _paired(per_tile: Iterable[Any], windows: NDArray[np.int64]) -> Iterable[tuple[Any, Any]]:
    outputs = list(per_tile)
    if len(outputs) != len(windows):
        raise ValueError(
            f"per_tile: expected {len(windows)} outputs, one for each tile; got {len(outputs)}"
        )
    return zip(outputs, windows, strict=True)


def joined(found: Sequence[Detections], windows: NDArray[np.int64]) -> Detections:
    """All detections in pixels of the image."""
    if not found:
        return Detections(np.empty((0, 4)), np.empty(0))
    filled = [i for i, one in enumerate(found) if len(one)] or [0]
    found, windows = [found[i] for i in filled], windows[filled]
    for name in ("masks", "class_ids"):
        has = [getattr(one, name) is not None for one in found]
        if any(has) and not all(has):
            raise ValueError(f"per_tile: expected {name} in all outputs or in none")
    Arrays(**{f"per_tile[{i}]": one.boxes for i, one in zip(filled, found, strict=True)})
    xp = array_namespace(found[0].boxes)
    moved = []
    for one, (y, x, _, _) in zip(found, windows.tolist(), strict=True):
        corner = xp.asarray([x, y, x, y], dtype=xp.float64, device=device(one.boxes))
        covered = one.boxes if one.mask_boxes is None else one.mask_boxes
        boxes, covered = (xp.astype(b, xp.float64) + corner for b in (one.boxes, covered))
        moved.append(replace(one, boxes=boxes, mask_boxes=covered))
    masks: Any = None
    if found[0].masks is not None:
        crops: list[Any] = [one.masks for one in found]
        stacks = not any(isinstance(of_tile, list) for of_tile in crops)
        if stacks and len({(of_tile.shape[1:], of_tile.dtype) for of_tile in crops}) == 1:
            masks = xp.concat(crops)
        else:
            masks = [crop for of_tile in crops for crop in of_tile]
    has_mask_boxes = any(one.mask_boxes is not None for one in found)
    return Detections(
        xp.concat([one.boxes for one in moved]),
        xp.concat([one.scores for one in moved]),
        masks,
        None if found[0].class_ids is None else xp.concat([one.class_ids for one in moved]),
        xp.concat([one.mask_boxes for one in moved]) if has_mask_boxes else None,
    )
