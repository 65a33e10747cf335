"""Which predicted object is which true one, and the scores that follow from that."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from cellpost._arrays import Array, Arrays
from cellpost.labels import number
from cellpost.metrics.assignment import best_pairs
from cellpost.overlaps import ObjectPairs, count_pairs

__all__ = [
    "AP_IOUS",
    "Match",
    "average_precision",
    "challenge_match",
    "f1",
    "match",
    "panoptic_quality",
    "pooled",
]

AP_IOUS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
"""0.50, 0.55 ... 0.95: the thresholds of mean average precision."""

_WINDOW = 2000  # pixels a side, of the challenge's evaluation of slides
_SLIDE = 5000 * 5000  # pixels from which on an image is a slide
_BORDER = 2  # pixels


@dataclass(frozen=True, eq=False)
class Match:
    """Objects of a true and a predicted label image, matched one to one; or of several images.

    Attributes
    ----------
    iou : float
        Threshold that pairs had to reach.
    n_true, n_pred : int
        Objects.
    tp, fp, fn : int
        Matched pairs, and predicted and true objects without a match.
    pairs : (tp, 2) int64 ndarray
        True and predicted id of each pair, read-only; best first, of equal ones that of the lowest
        true id. Of several images: of one after the other, ids as in each.
    scores : (tp,) float64 ndarray
        Intersection over union of each pair, read-only.
    """

    iou: float
    n_true: int
    n_pred: int
    tp: int
    fp: int
    fn: int
    pairs: NDArray[np.int64] = field(repr=False)
    scores: NDArray[np.float64] = field(repr=False)

    @property
    def precision(self) -> float:
        """Share of predicted objects that are matched, tp / (tp + fp); 0.0 without a pair."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of true objects that are matched, tp / (tp + fn); 0.0 without a pair."""
        return _share(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """2 tp / (2 tp + fp + fn); 0.0 without a pair."""
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def accuracy(self) -> float:
        """Cellpose's average precision, tp / (tp + fp + fn); 0.0 without a pair."""
        return _share(self.tp, self.tp + self.fp + self.fn)

    @property
    def mean_true_score(self) -> float:
        """Sum of the scores over the true objects; 0.0 without a pair."""
        return _share(float(self.scores.sum()), self.n_true)

    @property
    def mean_matched_score(self) -> float:
        """Mean of the scores; 0.0 without a pair."""
        return _share(float(self.scores.sum()), self.tp)

    @property
    def panoptic_quality(self) -> float:
        """Sum of the scores over tp + fp / 2 + fn / 2; 0.0 without a pair."""
        return _share(float(self.scores.sum()), self.tp + self.fp / 2 + self.fn / 2)


@overload
def match(true: Array, pred: Array, iou: float = ..., *, exclude_border: int = ...) -> Match: ...


@overload
def match(
    true: Array, pred: Array, iou: Sequence[float], *, exclude_border: int = ...
) -> tuple[Match, ...]: ...


def match(
    true: Array, pred: Array, iou: float | Sequence[float] = 0.5, *, exclude_border: int = 0
) -> Match | tuple[Match, ...]:
    """Match predicted objects with true ones by intersection over union (IoU).

    Parameters
    ----------
    true, pred : array, (H, W) or (D, H, W), any integer dtype
        Label images of one shape, library and device; ids >= 0, gaps allowed, 0 is background.
    iou : float or sequence of float
        IoU that a pair must reach, 0 < iou <= 1.
    exclude_border : int
        Objects with a pixel among these outermost pixels of an image, on any axis, count as
        background; 0 or more.

    Returns
    -------
    Match or tuple of Match
        On the host. With several thresholds one for each, from one count of the pixels.

    Raises
    ------
    TypeError
        If an image is no array or not of an integer dtype, the two are of different libraries, or
        a threshold is no number.
    ValueError
        If shapes or devices differ, there are negative ids, or a threshold is NaN or out of range,
        or `exclude_border` is negative.

    See Also
    --------
    pooled, evaluate, challenge_match

    Notes
    -----
    The numbers of ``stardist.matching.matching`` (``criterion="iou"``) and
    ``cellpose.metrics.average_precision``: as many pairs as possible that reach the threshold; of
    several ways the one with the greatest sum of IoU, pairs below the threshold included. IoU is
    the quotient of integer counts rounded to float64 and compared with ``>=``: 11 / 20 reaches
    0.55. From 0.5 on a pair has no rival, but for an object that two others halve exactly: at 0.5
    the half of the lower id is matched. Below 0.5 ways of equal sums are open, as in these tools.

    Images empty on one side or both have no pair, and all scores are 0.0, as stardist's (Cellpose
    gives NaN if both are empty). Stardist holds IoU as float32: its mean scores agree to 1e-7.
    Objects of zero overlap are never matched: a threshold of 0 is an error.

    Time and memory are linear in the pairs that share a pixel, and there is no matrix: 10**6 cells
    against as many that each lie on one of them take less than 200 MB. Below 0.5 the assignment
    problem is solved by searches from the objects whose best partner others have, too. They stay
    near; where all cells are off by half a cell and the threshold is low, so that all could be
    matched in many ways, they do not, and 2.5 * 10**5 cells take minutes.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> true, pred = np.array([[1, 1, 0, 2, 2]]), np.array([[4, 4, 4, 0, 9]])
    >>> found = metrics.match(true, pred)
    >>> found.pairs.tolist(), found.scores.round(3).tolist(), found.f1
    ([[1, 4], [2, 9]], [0.667, 0.5], 1.0)
    >>> [m.tp for m in metrics.match(true, pred, [0.5, 0.6, 0.7])]
    [2, 1, 0]
    """
    thresholds = checked_thresholds(iou)
    found = count_pairs(exclude_border, true=true, pred=pred)
    if isinstance(thresholds, float):
        return next(matches(found, [thresholds]))
    return tuple(matches(found, thresholds))


def checked_thresholds(iou: Any) -> float | list[float]:
    """One threshold, or several."""
    many = not isinstance(iou, str) and np.ndim(iou) > 0
    values = [number("iou", value) for value in (iou if many else [iou])]
    for value in values:
        if not 0 < value <= 1:
            raise ValueError(f"iou: expected 0 < iou <= 1; got {value}")
    if not values:
        raise ValueError("iou: expected at least one threshold; got none")
    return values if many else values[0]


def matches(found: ObjectPairs, thresholds: Sequence[float]) -> Iterator[Match]:
    """A match for each threshold, one after the other; from 0.5 on they share their arrays."""
    scores = found.iou()
    unambiguous = [t for t in thresholds if t >= 0.5]
    if unambiguous:
        shared = _first_of_halves(found, np.flatnonzero(scores >= min(unambiguous)), scores)
        shared_pairs, shared_scores = _ordered(found, shared, scores)
    for threshold in thresholds:
        if threshold >= 0.5:
            tp = int(np.searchsorted(-shared_scores, -threshold, side="right"))
            pairs, best = shared_pairs[:tp], shared_scores[:tp]
        else:
            wanted = scores >= threshold
            chosen = best_pairs(found.a, found.b, scores, wanted)
            pairs, best = _ordered(found, chosen[wanted[chosen]], scores)
        n_true, n_pred, tp = len(found.ids_a), len(found.ids_b), len(best)
        yield Match(threshold, n_true, n_pred, tp, n_pred - tp, n_true - tp, pairs, best)


def _first_of_halves(
    found: ObjectPairs, chosen: NDArray[np.int64], scores: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Only two halves of an object, IoU 0.5 exactly, can both reach 0.5: keep the first."""
    halves = chosen[scores[chosen] == 0.5]
    kept = halves
    for ends in (found.a, found.b):
        kept = kept[np.sort(np.unique(ends[kept], return_index=True)[1])]
    return np.sort(np.concatenate([chosen[scores[chosen] != 0.5], kept]))


def _ordered(
    found: ObjectPairs, chosen: NDArray[np.int64], scores: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """True and predicted ids, and scores, best first, of equal ones by ascending true id."""
    order = chosen[np.argsort(-scores[chosen], kind="stable")]
    ids = [found.ids_a[found.a[order]], found.ids_b[found.b[order]]]
    pairs, best = np.stack(ids, axis=1), scores[order]
    pairs.flags.writeable = best.flags.writeable = False
    return pairs, best


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


@overload
def pooled(matches: Iterable[Match]) -> Match: ...


@overload
def pooled(matches: Iterable[Sequence[Match]]) -> tuple[Match, ...]: ...


def pooled(matches: Iterable[Any]) -> Match | tuple[Match, ...]:
    """Sum the matches of several images up: their scores are those of all objects together.

    Parameters
    ----------
    matches : iterable of Match, or of tuples of Match
        One for each image, of one threshold; or tuples of the same thresholds, as `match` gives.

    Returns
    -------
    Match or tuple of Match
        ``n_true``, ``n_pred``, ``tp``, ``fp`` and ``fn`` summed, pairs and scores in the order of
        the images.

    Raises
    ------
    TypeError
        If something else is among them.
    ValueError
        If there are none, or thresholds differ.

    Notes
    -----
    As ``stardist.matching.matching_dataset(by_image=False)``.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> one = metrics.match(np.array([[1, 2]]), np.array([[1, 2]]))
    >>> two = metrics.match(np.array([[1, 0]]), np.array([[0, 1]]))
    >>> metrics.pooled([one, two])
    Match(iou=0.5, n_true=3, n_pred=3, tp=2, fp=1, fn=1)
    """
    images = list(matches)
    if not images:
        raise ValueError("matches: expected those of at least one image; got none")
    if not isinstance(images[0], Match):
        if not all(isinstance(image, Sequence) for image in images):
            raise TypeError(f"matches: expected Match or tuples of them; got {images[0]!r}")
        if len({len(image) for image in images}) > 1:
            raise ValueError(
                "matches: expected the same thresholds for each image; got "
                f"{sorted({len(image) for image in images})} of them"
            )
        return tuple(pooled(same) for same in zip(*images, strict=True))
    for image in images:
        if not isinstance(image, Match):
            raise TypeError(f"matches: expected Match or tuples of them; got {image!r}")
    if len(ious := sorted({image.iou for image in images})) > 1:
        raise ValueError(f"matches: expected one threshold; got {ious}")
    names = ("n_true", "n_pred", "tp", "fp", "fn")
    sums = {name: sum(getattr(image, name) for image in images) for name in names}
    pairs = np.concatenate([image.pairs for image in images])
    scores = np.concatenate([image.scores for image in images])
    pairs.flags.writeable = scores.flags.writeable = False
    return Match(iou=ious[0], **sums, pairs=pairs, scores=scores)


def f1(true: Array, pred: Array, iou: float = 0.5, *, exclude_border: int = 0) -> float:
    """F1 score of a prediction: 2 tp / (2 tp + fp + fn).

    Parameters
    ----------
    true, pred : array, (H, W) or (D, H, W), any integer dtype
        As of `match`.
    iou : float
        IoU that a pair must reach, 0 < iou <= 1.
    exclude_border : int
        As of `match`. The cell segmentation challenge of NeurIPS 2022 has 2 (see
        `challenge_match` for its rule for slides).

    Returns
    -------
    float
        0.0 (also if either image or both have no objects) to 1.0.

    Raises
    ------
    TypeError, ValueError
        As of `match`.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> round(metrics.f1(np.array([[1, 1, 0, 2]]), np.array([[5, 5, 0, 0]])), 3)
    0.667
    """
    return match(true, pred, number("iou", iou), exclude_border=exclude_border).f1


def average_precision(
    true: Array, pred: Array, iou: float | Sequence[float] = AP_IOUS, *, exclude_border: int = 0
) -> float:
    """Mean of tp / (tp + fp + fn) over thresholds: the mean average precision of Sartorius' kind.

    Parameters
    ----------
    true, pred : array, (H, W) or (D, H, W), any integer dtype
        As of `match`.
    iou : float or sequence of float
        Thresholds, 0 < iou <= 1; 0.50 to 0.95 in steps of 0.05 if not given.
    exclude_border : int
        As of `match`.

    Returns
    -------
    float
        0.0 (also if either image or both have no objects) to 1.0.

    Raises
    ------
    TypeError, ValueError
        As of `match`.

    Notes
    -----
    With one threshold the number of ``cellpose.metrics.average_precision``. Thresholds are reached
    with ``>=``. Pixels are counted once for all of them. For several images, pooled, see
    `evaluate`.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> round(metrics.average_precision(np.array([[1, 1, 1, 0]]), np.array([[3, 3, 0, 0]])), 3)
    0.4
    """
    thresholds = checked_thresholds(iou)
    several = [thresholds] if isinstance(thresholds, float) else thresholds
    found = match(true, pred, several, exclude_border=exclude_border)
    return sum(one.accuracy for one in found) / len(found)


def panoptic_quality(
    true: Array, pred: Array, iou: float = 0.5, *, exclude_border: int = 0
) -> float:
    """Panoptic quality: the sum of the pairs' IoU over tp + fp / 2 + fn / 2.

    Parameters
    ----------
    true, pred : array, (H, W) or (D, H, W), any integer dtype
        As of `match`.
    iou : float
        IoU that a pair must reach, 0 < iou <= 1.
    exclude_border : int
        As of `match`.

    Returns
    -------
    float
        0.0 (also if either image or both have no objects) to 1.0.

    Raises
    ------
    TypeError, ValueError
        As of `match`.

    Notes
    -----
    Kirillov et al., "Panoptic Segmentation", CVPR 2019, as stardist computes it. HoVer-Net leaves
    out pairs of IoU 0.5 exactly, and adds 1e-6 to a denominator.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> metrics.panoptic_quality(np.array([[1, 1, 1, 1]]), np.array([[3, 3, 3, 0]]))
    0.75
    """
    found = match(true, pred, number("iou", iou), exclude_border=exclude_border)
    return found.panoptic_quality


def challenge_match(true: Array, pred: Array, iou: float = 0.5) -> Match:
    """Match as the cell segmentation challenge of NeurIPS 2022 does.

    Parameters
    ----------
    true, pred : array, (H, W), any integer dtype
        As of `match`.
    iou : float
        IoU that a pair must reach, 0 < iou <= 1.

    Returns
    -------
    Match
        Its ``precision``, ``recall`` and ``f1`` are the challenge's.

    Raises
    ------
    TypeError, ValueError
        As of `match`; also if there are not two axes.

    Notes
    -----
    Objects with a pixel among the image's two outermost ones count as background. Slides of 5000 x
    5000 pixels and more are cut to windows of 2000 x 2000, each matched by itself: objects within 2
    pixels of a window's border count as background there, pieces as objects, and tp, fp, fn are
    summed. Windows that reach beyond the slide have no border there. As in the challenge's script,
    the true objects of an image or window without predicted ones are not counted at all.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> image = np.zeros((9, 9), np.uint8)
    >>> image[3:6, 3:6], image[1, 1] = 1, 2
    >>> metrics.challenge_match(image, image)
    Match(iou=0.5, n_true=1, n_pred=1, tp=1, fp=0, fn=0)
    """
    threshold = number("iou", iou)
    checked_thresholds(threshold)
    arrays = Arrays(true=true, pred=pred)
    one, other = arrays["true"], arrays["pred"]
    shape = tuple(one.shape)
    if len(shape) != 2:
        raise ValueError(f"true: expected 2 axes (H, W); got {shape}")
    if shape[0] * shape[1] < _SLIDE or tuple(other.shape) != shape:
        parts = [count_pairs(_BORDER, true=true, pred=pred)]
    else:
        parts = []
        for corner in itertools.product(*(range(0, size, _WINDOW) for size in shape)):
            window = tuple(slice(at, at + _WINDOW) for at in corner)
            beyond = [at + _WINDOW - size for at, size in zip(corner, shape, strict=True)]
            margins = tuple((_BORDER, max(0, _BORDER - max(0, more))) for more in beyond)
            parts.append(count_pairs(margins=margins, true=one[window], pred=other[window]))
    found = [next(matches(part, [threshold])) for part in parts if len(part.ids_b)]
    nothing = Match(threshold, 0, 0, 0, 0, 0, np.empty((0, 2), np.int64), np.empty(0))
    return pooled([nothing, *found])
