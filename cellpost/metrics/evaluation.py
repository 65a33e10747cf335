"""A table of scores: one row for each image, and all images together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellpost._arrays import Array
from cellpost.metrics.matching import AP_IOUS, Match, checked_thresholds, matches
from cellpost.metrics.regions import dice_sums, jaccard_sums
from cellpost.overlaps import ObjectPairs, border_width, count_pairs

__all__ = ["Evaluation", "evaluate"]

_COUNTS = ("tp", "fp", "fn")
_SCORES = (
    "precision",
    "recall",
    "f1",
    "accuracy",
    "mean_true_score",
    "mean_matched_score",
    "panoptic_quality",
)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of predictions for images.

    Attributes
    ----------
    images : dict of ndarray
        Columns with a row for each image, in the order given: int64 ``n_true``, ``n_pred`` and
        ``count_error`` (n_pred - n_true); float64 ``dice``, ``aggregated_jaccard``,
        ``aggregated_jaccard_plus`` and ``average_precision`` (mean over 0.50 to 0.95), all (n,);
        then, (n,) with one threshold and (n, m) with m of them, int64 ``tp``, ``fp``, ``fn``, and
        float64 ``precision``, ``recall``, ``f1``, ``accuracy``, ``mean_true_score``,
        ``mean_matched_score``, ``panoptic_quality``.
    pooled : dict
        The same names: int or float, or (m,) ndarray, of all images together. Counts and pixels
        are summed up first; no score is a mean of images' scores.
    """

    images: dict[str, NDArray[Any]]
    pooled: dict[str, Any]


@dataclass
class _Sums:
    """What is to be known of one image, or of several, to tell their scores."""

    n_true: int
    n_pred: int
    pixels: NDArray[np.int64]  # numerators and denominators of dice, AJI, AJI+
    tp: NDArray[np.int64]  # at each threshold
    scores: NDArray[np.float64]  # sum of the pairs' IoU at each threshold

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.n_true + other.n_true,
            self.n_pred + other.n_pred,
            self.pixels + other.pixels,
            self.tp + other.tp,
            self.scores + other.scores,
        )


def evaluate(
    pairs: Iterable[tuple[Array, Array]],
    iou: float | Sequence[float] = 0.5,
    *,
    exclude_border: int = 0,
) -> Evaluation:
    """Score predictions for images, each by itself and all together.

    Parameters
    ----------
    pairs : iterable of (true, pred)
        Label images of one shape in each pair, (H, W) or (D, H, W), any integer dtype; as of
        `match`. Taken one after the other: a generator holds one pair at a time.
    iou : float or sequence of float
        Thresholds of the columns that have one, 0 < iou <= 1.
    exclude_border : int
        Objects with a pixel among these outermost pixels of an image count as background.

    Returns
    -------
    Evaluation
        On the host.

    Raises
    ------
    TypeError, ValueError
        As of `match`; the message says which pair.

    Notes
    -----
    Empty sides give scores of 0.0, as in `match`: where truth and prediction are both empty, think
    of leaving the row out of means (``n_true + n_pred > 0``); it adds nothing to what is pooled.
    Without images the columns are empty and pooled scores 0.0. Pixels are counted once for all
    columns. HoVer-Net and stardist (``by_image=False``) pool alike.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> true, pred = np.array([[1, 1, 0, 2]]), np.array([[5, 5, 0, 0]])
    >>> table = metrics.evaluate([(true, true), (true, pred)])
    >>> table.images["f1"].round(3).tolist(), round(table.pooled["f1"], 3)
    ([1.0, 0.667], 0.857)
    """
    checked = checked_thresholds(iou)
    single = isinstance(checked, float)
    asked = [checked] if isinstance(checked, float) else checked
    thresholds = [*AP_IOUS, *asked]
    border_width(exclude_border)
    each = []
    for i, pair in enumerate(pairs):
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise TypeError(f"pairs[{i}]: expected (true, pred); got {type(pair).__name__}")
        true, pred = pair
        try:
            found = count_pairs(exclude_border, true=true, pred=pred)
        except (TypeError, ValueError) as error:
            raise type(error)(f"pairs[{i}]: {error}") from error
        each.append(_sums_of(found, thresholds))
    n = len(thresholds)
    total = _Sums(0, 0, np.zeros(6, np.int64), np.zeros(n, np.int64), np.zeros(n))
    rows = [_scores_of(sums, asked, single) for sums in each]
    for sums in each:
        total = total + sums
    pooled = _scores_of(total, asked, single)
    images = {}
    for name, value in pooled.items():
        dtype = np.int64 if name.startswith("n_") or name in ("count_error", *_COUNTS) else float
        column = np.array([row[name] for row in rows], dtype)
        images[name] = column.reshape(len(rows), *np.shape(value))
    return Evaluation(images, pooled)


def _sums_of(found: ObjectPairs, thresholds: Sequence[float]) -> _Sums:
    pixels = [
        *dice_sums(found),
        *jaccard_sums(found, unique=False),
        *jaccard_sums(found, unique=True),
    ]
    # Those below 0.5 need memory of their own, those from it on share theirs: not both at once.
    parts = [t for t in thresholds if t >= 0.5], [t for t in thresholds if t < 0.5]
    of_threshold = {
        one.iou: (one.tp, float(one.scores.sum())) for part in parts for one in matches(found, part)
    }
    matched = [of_threshold[t] for t in thresholds]
    return _Sums(
        len(found.ids_a),
        len(found.ids_b),
        np.array(pixels, np.int64),
        np.array([tp for tp, _ in matched], np.int64),
        np.array([score for _, score in matched], np.float64),
    )


def _scores_of(sums: _Sums, asked: Sequence[float], single: bool) -> dict[str, Any]:
    shares = [int(a) / int(b) if b else 0.0 for a, b in sums.pixels.reshape(3, 2)]
    found = [
        _match(sums, k, threshold) for k, threshold in enumerate([*AP_IOUS, *asked])
    ]  # only counts and the sum of scores: their properties do the rest
    precisions = [one.accuracy for one in found[: len(AP_IOUS)]]
    out: dict[str, Any] = {
        "n_true": sums.n_true,
        "n_pred": sums.n_pred,
        "count_error": sums.n_pred - sums.n_true,
        "dice": shares[0],
        "aggregated_jaccard": shares[1],
        "aggregated_jaccard_plus": shares[2],
        "average_precision": sum(precisions) / len(precisions),
    }
    for name in (*_COUNTS, *_SCORES):
        values = [getattr(one, name) for one in found[len(AP_IOUS) :]]
        out[name] = values[0] if single else np.array(values)
    return out


def _match(sums: _Sums, k: int, threshold: float) -> Match:
    tp = int(sums.tp[k])
    return Match(
        threshold,
        sums.n_true,
        sums.n_pred,
        tp,
        sums.n_pred - tp,
        sums.n_true - tp,
        np.empty((0, 2), np.int64),
        sums.scores[k : k + 1],
    )
