"""Detections that are found more than once: suppressed, merged or fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from cellpost import _core
from cellpost._arrays import Array, Arrays, dtype_name, to_host
from cellpost.labels import choose, number
from cellpost.paste import PasteStyle, as_crops, pair

__all__ = ["mask_nms", "nmm", "nms", "weighted_boxes_fusion"]

Metric: TypeAlias = Literal["iou", "ios"]


def nms(
    boxes: Array,
    scores: Array,
    iou_threshold: float = 0.5,
    *,
    metric: Metric = "iou",
    class_ids: Array | None = None,
) -> Array:
    """Keep the best of boxes that overlap (greedy non-maximum suppression).

    Parameters
    ----------
    boxes : array, (N, 4), float or integer
        x0, y0, x1, y1.
    scores : array, (N,), float, of the same library and device
        Any finite numbers.
    iou_threshold : float
        A box goes if it overlaps by more than this, 0 to 1, with a better one that stays.
    metric : {"iou", "ios"}
        Intersection over union, or over the smaller area.
    class_ids : array, (N,), integer, optional
        Only boxes of one class suppress each other.

    Returns
    -------
    array, (n,), int64
        Rows that stay, best first, of the kind and on the device of `boxes`.

    Raises
    ------
    TypeError
        If an input is no array or has no fitting dtype, or they are of different libraries.
    ValueError
        If shapes or devices do not fit, a box or score is not finite, or an option is out of range.

    See Also
    --------
    mask_nms : by the masks' pixels.
    nmm : the box that stays grows by those that go.
    weighted_boxes_fusion : boxes are averaged.

    Notes
    -----
    The rows that ``torchvision.ops.nms`` gives (with `class_ids`, ``batched_nms`` as if each class
    were alone), to the bit of the overlaps: float64 boxes are compared in float64, all others in
    float32. Equal scores: the lower row is better. Boxes without area, or inverted, overlap with
    nothing and stay.

    Time is near linear: each box looks at the better ones in its surroundings, found in a hash
    table by size and place. It grows with the square of the boxes that are long and thin, or stay
    one on the other (nested ones at a threshold near 1). 130 bytes a box. CUDA runs the same
    operations.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]])
    >>> cellpost.nms(boxes, np.array([0.8, 0.9, 0.7])).tolist()
    [1, 2]
    """
    return Candidates(boxes, scores, class_ids).suppress(iou_threshold, metric)


def mask_nms(
    masks: Array | Sequence[Array],
    boxes: Array,
    scores: Array,
    shape: Sequence[int],
    iou_threshold: float = 0.5,
    *,
    metric: Metric = "iou",
    threshold: float = 0.5,
    style: PasteStyle = "detectron2",
    class_ids: Array | None = None,
) -> Array:
    """Keep the best of instances whose pixels overlap.

    Parameters
    ----------
    masks, boxes, scores, shape, threshold, style
        As `paste_masks` takes them: the pixels in question are those that it would paste. `shape`
        may be of any size up to 2**23 rows and columns.
    iou_threshold, metric, class_ids
        As in `nms`.

    Returns
    -------
    array, (n,), int64
        Rows that stay, best first.

    Raises
    ------
    TypeError, ValueError
        As `paste_masks` and `nms`.

    Notes
    -----
    Overlaps are counted in pixels; an instance goes if ``intersection > iou_threshold * union``, in
    float64. Memory: a bit for each pixel of the instances' boxes (2**37 at most), and 250 bytes an
    instance.
    Instances without a pixel stay. Time is near linear, as for `nms`.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    >>> masks = np.zeros((2, 2, 2))
    >>> masks[0, 0], masks[1, 1] = 1, 1  # the upper and the lower half
    >>> cellpost.mask_nms(masks, boxes, np.array([0.8, 0.9]), (10, 10)).tolist()
    [1, 0]
    """
    found = Candidates(boxes, scores, class_ids)
    return found.suppress_masks(masks, shape, iou_threshold, metric, threshold, style)


def nmm(
    boxes: Array,
    scores: Array,
    iou_threshold: float = 0.5,
    *,
    metric: Metric = "ios",
    class_ids: Array | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Merge boxes that overlap into the best of them (greedy non-maximum merging).

    Parameters
    ----------
    boxes, scores, class_ids
        As in `nms`.
    iou_threshold : float
        A box is taken in if it overlaps by at least this with a better one, 0 to 1.
    metric : {"iou", "ios"}
        As in `nms`; over the smaller area if not given, as in SAHI.

    Returns
    -------
    boxes : array, (n, 4), dtype of `boxes` (float64 for integers)
        Of those that stay, best first, grown to hold those they took in.
    scores : array, (n,), dtype of `scores`
    keep : array, (n,), int64
        Their rows in the input.
    group : array, (N,), int64
        For each row of the input the row of the result that it is part of.

    Raises
    ------
    TypeError, ValueError
        As `nms`.

    Notes
    -----
    The groups and boxes of SAHI's ``GreedyNMMPostprocess`` (0.12) where scores differ; at equal
    scores the lower row is better, where SAHI looks at the coordinates. As there, a box of the
    group that overlaps too little with the one grown so far does not make it grow. With a threshold
    of 0 only boxes that do overlap are merged. Merging chains neighbours where cells are dense:
    prefer `mask_nms` or `merge_detections` there.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> boxes = np.array([[0.0, 0, 10, 10], [6, 0, 12, 10], [20, 0, 30, 10]])
    >>> merged, scores, keep, group = cellpost.nmm(boxes, np.array([0.9, 0.8, 0.7]))
    >>> merged.tolist(), group.tolist()
    ([[0.0, 0.0, 12.0, 10.0], [20.0, 0.0, 30.0, 10.0]], [0, 0, 1])
    """
    found = Candidates(boxes, scores, class_ids)
    return found.merge(iou_threshold, metric)


def weighted_boxes_fusion(
    boxes: Sequence[Array],
    scores: Sequence[Array],
    *,
    iou_threshold: float = 0.55,
    weights: Sequence[float] | None = None,
    class_ids: Sequence[Array] | None = None,
    min_score: float = 0.0,
    conf_type: Literal["avg", "max", "box_and_model_avg", "absent_model_aware_avg"] = "avg",
    allows_overflow: bool = False,
) -> tuple[Array, Array, Array | None, list[Array]]:
    """Average the boxes that several models, or views, give for one object.

    Parameters
    ----------
    boxes : sequence of arrays, (N_m, 4), float or integer
        x0, y0, x1, y1 of each model's boxes, in any unit.
    scores : sequence of arrays, (N_m,)
        Probabilities, 0 to 1.
    iou_threshold : float
        Boxes join a fused one that they overlap by more than this, 0 to 1.
    weights : sequence of float, optional
        Of the models, 1e-6 to 1e6; 1 if not given.
    class_ids : sequence of arrays, (N_m,), integer, optional
        Only boxes of one class are fused.
    min_score : float
        Boxes of a lower score are left out.
    conf_type : {"avg", "max", "box_and_model_avg", "absent_model_aware_avg"}
        How scores are fused: see the Notes.
    allows_overflow : bool
        With ``"avg"``: do not limit the number of boxes that count to that of the models.

    Returns
    -------
    boxes : array, (n, 4), float64
        Fused, best first; of the kind and on the device of the first model's boxes.
    scores : array, (n,), float64
    class_ids : array, (n,), int64, or None
    group : list of arrays, (N_m,), int64
        For each model's boxes the row of the result that each is part of, -1 if it was left out:
        below `min_score`, or without area.

    Raises
    ------
    TypeError
        If an input is no array or has no fitting dtype, or they are of different libraries.
    ValueError
        If counts, shapes or devices do not fit, a box is not finite, a score is not a probability,
        or an option is out of range.

    Notes
    -----
    As ``ensemble_boxes.weighted_boxes_fusion`` 1.0.9 (Solovyev et al. 2021), rounding to float32
    included, for boxes in any unit (that package cuts them to 0..1, and swaps the sides of inverted
    ones). Boxes join in the order of their weighted scores, equal ones in the order given, the
    fused box that they overlap the most with, the earliest of equals. Its place is the mean of its
    boxes by weighted score. Its score: ``"avg"`` the mean weighted score times the number of boxes,
    at most that of models, over the sum of weights; ``"max"`` the largest weighted score over the
    largest weight; ``"box_and_model_avg"`` and ``"absent_model_aware_avg"`` weigh by the models
    that have a box in it.

    A sequence of decisions: one CPU thread, wherever the boxes are; near linear in the boxes.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> one, other = np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 12, 10]])
    >>> fused = cellpost.weighted_boxes_fusion([one, other], [np.array([0.5]), np.array([0.5])])
    >>> fused[0].tolist(), fused[1].tolist()
    ([[0.0, 0.0, 11.0, 10.0]], [0.5])
    """
    models = _per_model("boxes", boxes)
    given = {"scores": _per_model("scores", scores)}
    if class_ids is not None:
        given["class_ids"] = _per_model("class_ids", class_ids)
    for name, columns in given.items():
        if len(columns) != len(models):
            raise ValueError(
                f"{name}: expected {len(models)} arrays, one for each model; got {len(columns)}"
            )
    if len(models) == 0:
        raise ValueError("boxes: expected an array for each of one or more models; got none")
    weight = [1.0] * len(models)
    if weights is not None:
        weight = [number("weights", w) for w in _per_model("weights", weights)]
    if len(weight) != len(models) or not all(1e-6 <= w <= 1e6 for w in weight):
        raise ValueError(
            f"weights: expected {len(models)} numbers from 1e-6 to 1e6; got {weights!r}"
        )
    detected = [
        Candidates(
            box, given["scores"][m], given["class_ids"][m] if class_ids is not None else None
        )
        for m, box in enumerate(models)
    ]
    host = [(to_host(d.boxes).astype(float), to_host(d.scores)) for d in detected]
    all_boxes = np.concatenate([box for box, _ in host])
    all_scores = np.concatenate([score for _, score in host])
    model = np.repeat(np.arange(len(models), dtype=np.int32), [len(s) for _, s in host])
    if not (np.abs(all_boxes) < 1e38).all():  # sums are of float32
        raise ValueError("boxes: expected finite numbers of at most 1e38")
    if not ((all_scores >= 0) & (all_scores <= 1)).all():
        raise ValueError("scores: expected probabilities from 0 to 1")
    least = number("min_score", min_score)
    if np.isnan(least):
        raise ValueError("min_score: expected a number; got nan")
    has_area = (all_boxes[:, 2] > all_boxes[:, 0]) & (all_boxes[:, 3] > all_boxes[:, 1])
    used = np.flatnonzero(has_area & (all_scores >= least))
    classes = None
    if class_ids is not None:
        classes = np.concatenate([to_host(d.class_ids) for d in detected])
    n, fused, fused_scores, fused_classes, group = _core.fuse_boxes(
        all_boxes[used],
        all_scores[used] * np.asarray(weight)[model[used]],
        model[used],
        None if classes is None else classes[used],
        weight,
        _share("iou_threshold", iou_threshold),
        choose("conf_type", conf_type, _core.FusedScore),
        bool(allows_overflow),
    )
    groups = np.full(len(all_boxes), -1)
    groups[used] = group
    first = detected[0].arrays
    xp, place = first.xp, first.device

    def back(array: Any) -> Array:
        return first.result(xp.asarray(np.ascontiguousarray(array), device=place))

    ends = np.cumsum([len(s) for _, s in host])[:-1]
    return (
        back(fused[:n]),
        back(fused_scores[:n]),
        None if classes is None else back(fused_classes[:n]),
        [back(part) for part in np.split(groups, ends)],
    )


class Candidates:
    """Boxes, scores and classes as the kernels take them."""

    def __init__(self, boxes: Array, scores: Array, class_ids: Array | None) -> None:
        given = {"boxes": boxes, "scores": scores}
        if class_ids is not None:
            given["class_ids"] = class_ids
        self.arrays = arrays = Arrays(**given)
        self.n = n = int(arrays["boxes"].shape[0]) if arrays["boxes"].ndim else 0
        for name, tail in (("boxes", (4,)), ("scores", ()), ("class_ids", ())):
            if name in given and tuple(arrays[name].shape) != (n, *tail):
                expected = "(N, 4)" if name == "boxes" else f"({n},), one for each box"
                raise ValueError(
                    f"{name}: expected shape {expected}; got {tuple(arrays[name].shape)}"
                )
        xp = arrays.xp
        self.boxes = arrays.real("boxes")
        self.scores = self._dense(arrays.real("scores"), xp.float64)
        self.class_ids = None
        if class_ids is not None:
            if "int" not in (dtype := dtype_name(arrays["class_ids"])):
                raise TypeError(f"class_ids: expected an integer dtype; got {dtype}")
            self.class_ids = self._dense(arrays["class_ids"], xp.int64)

    def _dense(self, array: Array, dtype: Any) -> Array:
        """A C-contiguous array of that dtype."""
        out = self.arrays.xp.empty(tuple(array.shape), dtype=dtype, device=self.arrays.device)
        out[...] = array
        return out

    def suppress(self, threshold: float, metric: str, tiles: Array | None = None) -> Array:
        """Rows that stay, by boxes."""
        keep, keeper = (self.arrays.empty((self.n,), "int64") for _ in range(2))
        n_kept = self._nms(keep, keeper, None, threshold, metric, False, tiles)
        return self.arrays.result(keep[:n_kept])

    def suppress_masks(
        self,
        masks: Array | Sequence[Array],
        shape: Sequence[int],
        threshold: float,
        metric: str,
        mask_threshold: float,
        style: str,
        tiles: Array | None = None,
    ) -> Array:
        """Rows that stay, by the masks' pixels."""
        rows, columns = pair("shape", shape)
        if not (0 <= rows <= 2**23 and 0 <= columns <= 2**23):
            raise ValueError(f"shape: expected rows and columns from 0 to 2**23; got {shape}")
        crops, table = as_crops(masks, self.n, self.arrays)
        keep, keeper = (self.arrays.empty((self.n,), "int64") for _ in range(2))
        n_kept = _core.mask_nms(
            crops,
            table,
            self.boxes,
            self.scores,
            self.class_ids,
            tiles,
            keep,
            keeper,
            self.arrays.stream,
            metric=choose("metric", metric, _core.OverlapMetric),
            threshold=_share("iou_threshold", threshold),
            style=choose("style", style, _core.PasteStyle),
            mask_threshold=number("threshold", mask_threshold),
            shape=(rows, columns),
        )
        return self.arrays.result(keep[:n_kept])

    def merge(self, threshold: float, metric: str) -> tuple[Array, Array, Array, Array]:
        """What `nmm` returns."""
        arrays, xp = self.arrays, self.arrays.xp
        keep, keeper = (arrays.empty((self.n,), "int64") for _ in range(2))
        merged = arrays.empty((self.n, 4), "float64")
        n_kept = self._nms(keep, keeper, merged, threshold, metric, True, None)
        keep = keep[:n_kept]
        place = arrays.empty((self.n,), "int64")
        place[keep] = xp.arange(n_kept, device=arrays.device)
        return (
            arrays.result(xp.astype(merged[:n_kept], self.boxes.dtype)),
            arrays.result(arrays["scores"][keep]),
            arrays.result(keep),
            arrays.result(place[keeper]),
        )

    def _nms(
        self,
        keep: Array,
        keeper: Array,
        merged: Array | None,
        threshold: float,
        metric: str,
        inclusive: bool,
        tiles: Array | None,
    ) -> int:
        return _core.nms(
            self.boxes,
            self.scores,
            self.class_ids,
            tiles,
            keep,
            keeper,
            merged,
            self.arrays.stream,
            metric=choose("metric", metric, _core.OverlapMetric),
            threshold=_share("iou_threshold", threshold),
            inclusive=inclusive,
        )


def _per_model(name: str, value: Any) -> list[Any]:
    try:
        return list(value)
    except TypeError:
        raise TypeError(
            f"{name}: expected a sequence, one item for each model; got {value!r}"
        ) from None


def _share(name: str, value: Any) -> float:
    share = number(name, value)
    if not 0 <= share <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1; got {value!r}")
    return share
