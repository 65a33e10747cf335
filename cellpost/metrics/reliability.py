"""Which predictions to trust: agreement of checkpoints, and confidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from cellpost import _core
from cellpost._arrays import Array, Arrays, to_host
from cellpost.detections import Detections
from cellpost.labels import number
from cellpost.metrics.matching import f1
from cellpost.overlaps import overlap_counts

__all__ = ["Reliability", "confident", "rank_by_reliability", "stability"]


def stability(labels: Sequence[Array], iou: float = 0.5) -> float:
    """How well the predictions of earlier checkpoints agree with the last one's.

    Parameters
    ----------
    labels : sequence of array, (H, W) or (D, H, W), any integer dtype
        Label images of one image, of the first checkpoint to the last; at least two, of one shape,
        library and device; ids >= 0, gaps allowed, 0 is background.
    iou : float
        IoU that a pair of objects must reach, 0 < iou <= 1.

    Returns
    -------
    float
        Mean F1 of each earlier checkpoint's objects against the last one's, 0.0 to 1.0.

    Raises
    ------
    TypeError
        If `labels` is no sequence, or as of `match`.
    ValueError
        If there are fewer than two, or as of `match`; the message says which checkpoint.

    Notes
    -----
    The measure of ST++ (Yang et al., CVPR 2022) with F1 in place of the mean IoU of classes, as the
    weakly supervised HoVer-Net of the NeurIPS 2022 challenge has it. Checkpoints that agree on
    there being no object count 0.0, by the rule of `f1`: such an image is no example to learn from.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> last = np.array([[1, 1, 0, 2]])
    >>> metrics.stability([last * 0, last, last])
    0.5
    """
    if not isinstance(labels, Sequence) or isinstance(labels, str):
        raise TypeError(f"labels: expected a sequence of arrays; got {type(labels).__name__}")
    if len(labels) < 2:
        raise ValueError(f"labels: expected those of two or more checkpoints; got {len(labels)}")
    scores = []
    for k, earlier in enumerate(labels[:-1]):
        try:
            scores.append(f1(labels[-1], earlier, iou))
        except (TypeError, ValueError) as error:
            what = str(error).replace("pred: ", "", 1).replace("shape of true", "last one's shape")
            if str(error).startswith("true: "):
                what, k = str(error).replace("true: ", "", 1), len(labels) - 1
            elif str(error).startswith("iou: "):
                raise
            raise type(error)(f"labels[{k}]: {what}") from error
    return sum(scores) / len(scores)


@dataclass(frozen=True, eq=False)
class Reliability:
    """Images in order of how reliable their predictions are.

    Attributes
    ----------
    stability : (n,) float64 ndarray
        Of each image, in the order given.
    order : (n,) int64 ndarray
        Indices of the images, most reliable first; of equal ones the first given.
    """

    stability: NDArray[np.float64]
    order: NDArray[np.int64]

    @property
    def reliable(self) -> NDArray[np.int64]:
        """The reliable half of `order`, n // 2 of them."""
        return self.order[: len(self.order) // 2]

    @property
    def unreliable(self) -> NDArray[np.int64]:
        """The rest of `order`."""
        return self.order[len(self.order) // 2 :]


def rank_by_reliability(images: Iterable[Sequence[Array]], iou: float = 0.5) -> Reliability:
    """Rank images by the stability of their predictions, for pseudo-labels in two stages.

    Parameters
    ----------
    images : iterable of sequences of array
        For each image the label images of its checkpoints, as of `stability`. Taken one after the
        other: a generator holds one image's at a time.
    iou : float
        IoU that a pair of objects must reach, 0 < iou <= 1.

    Returns
    -------
    Reliability
        On the host; empty without images.

    Raises
    ------
    TypeError, ValueError
        As of `stability`; the message says which image.

    Notes
    -----
    ST++ (Yang et al., CVPR 2022): the reliable half, rounded down, is learned from first.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> a, b = np.array([[1, 1, 0, 2]]), np.array([[0, 0, 0, 5]])
    >>> ranking = metrics.rank_by_reliability([[b, a], [a, a]])
    >>> ranking.order.tolist(), ranking.reliable.tolist(), ranking.stability.round(3).tolist()
    ([1, 0], [1], [0.667, 1.0])
    """
    scores = []
    for i, labels in enumerate(images):
        try:
            scores.append(stability(labels, iou))
        except (TypeError, ValueError) as error:
            raise type(error)(f"images[{i}]: {error}") from error
    found = np.array(scores, np.float64)
    return Reliability(found, np.argsort(-found, kind="stable").astype(np.int64))


@overload
def confident(
    found: Detections, threshold: float = ...
) -> tuple[Detections, NDArray[np.int64]]: ...


@overload
def confident(
    found: tuple[Array, Any], threshold: float = ...
) -> tuple[Array, NDArray[np.int64]]: ...


def confident(found: Any, threshold: float = 0.9) -> tuple[Any, NDArray[np.int64]]:
    """Keep the instances that are sure enough to serve as pseudo-labels.

    Parameters
    ----------
    found : Detections, or (labels, scores)
        A label image, (H, W) or (D, H, W), any integer dtype, ids >= 0, with gaps or without; and
        the confidence of each object that is present in it, (n,) real, by ascending id.
    threshold : float
        Instances of a score above it are kept; not those at it.

    Returns
    -------
    kept : Detections or array
        The detections chosen, or a new label image, int32, of the kind and on the device of
        `labels`: objects kept are 1..m in raster order of their first pixels.
    index : (m,) int64 ndarray
        Which instances they are, on the host: of detections ascending; of labels ``scores[index]``
        are the scores of the new ids 1..m.

    Raises
    ------
    TypeError
        If `found` is neither, the labels are not of an integer dtype, scores are not real, or the
        threshold is no number.
    ValueError
        If there is not one score for each object, a score or the threshold is NaN, or there are
        negative ids or another number of axes.

    Notes
    -----
    Above 0.9 is the rule of Train4Ever (NeurIPS 2022 cell segmentation challenge).

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> labels, index = metrics.confident((np.array([[3, 3, 0, 7, 8]]), [0.2, 0.95, 0.9]))
    >>> labels.tolist(), index.tolist()
    ([[0, 0, 0, 1, 0]], [1])
    """
    least = number("threshold", threshold)
    if np.isnan(least):
        raise ValueError("threshold: expected a number; got NaN")
    if isinstance(found, Detections):
        index = np.flatnonzero(_checked(to_host(found.scores), len(found)) > least)
        return found[index], index.astype(np.int64)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise TypeError(f"found: expected Detections or (labels, scores); got {_kind(found)}")
    labels, scores = found
    arrays = Arrays(labels=labels)
    copy, _ = arrays.int32_labels("labels", to_write=True)
    xp = arrays.xp
    present = xp.unique_values(copy)
    ids = to_host(present[present > 0]).astype(np.int64)
    keep = _checked(to_host(scores), len(ids)) > least
    table = np.zeros(int(ids.max(initial=0)) + 1, np.int32)
    table[ids[keep]] = np.flatnonzero(keep) + 1
    places = xp.asarray(table, device=arrays.device)[xp.astype(copy, xp.int64)]
    copy[...] = places
    _core.relabel(copy, arrays.stream)
    if 0 in copy.shape:
        return arrays.result(copy), np.empty(0, np.int64)
    # Each new id has one place, 1 + the index of its score; pairs come by ascending new id.
    index = to_host(overlap_counts(copy, places).b).astype(np.int64) - 1
    return arrays.result(copy), index


def _checked(scores: Any, n: int) -> NDArray[np.float64]:
    values = np.asarray(scores)
    if values.size == 0 and values.ndim == 1:
        values = values.astype(np.float64)  # [] says nothing of its dtype
    if values.dtype.kind not in "iuf":
        raise TypeError(f"scores: expected a real dtype; got {values.dtype}")
    if values.shape != (n,):
        raise ValueError(f"scores: expected one for each of {n} objects; got shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError(f"scores: expected numbers; got NaN at {int(np.isnan(values).argmax())}")
    return values.astype(np.float64)


def _kind(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
