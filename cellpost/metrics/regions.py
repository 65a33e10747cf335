"""Scores of areas and of counts: aggregated Jaccard index, Dice, how many cells there are."""

from __future__ import annotations

import numpy as np

from cellpost import _core
from cellpost._arrays import Array, Arrays
from cellpost.metrics.assignment import best_of_rows, best_pairs
from cellpost.overlaps import ObjectPairs, count_pairs

__all__ = ["aggregated_jaccard", "count_error", "dice", "n_cells"]


def aggregated_jaccard(
    true: Array, pred: Array, *, unique: bool = False, exclude_border: int = 0
) -> float:
    """Aggregated Jaccard index (AJI), or AJI+.

    Each true object is paired with a predicted one; the index is the sum of their intersections
    over the sum of their unions and of the areas of all objects left over.

    Parameters
    ----------
    true, pred : array, (H, W) or (D, H, W), any integer dtype
        Label images of one shape, library and device; ids >= 0, gaps allowed, 0 is background.
    unique : bool
        False: each true object takes the predicted one of the greatest IoU, though others may take
        it, too (AJI). True: one-to-one pairs of the greatest sum of IoU (AJI+).
    exclude_border : int
        Objects with a pixel among these outermost pixels count as background; 0 or more.

    Returns
    -------
    float
        0.0 (also if either image or both have no objects) to 1.0.

    Raises
    ------
    TypeError
        If an image is no array or not of an integer dtype, or the two are of different libraries.
    ValueError
        If shapes or devices differ, there are negative ids, or `exclude_border` is negative.

    Notes
    -----
    Kumar et al., IEEE TMI 2017, with the numbers of HoVer-Net's ``get_fast_aji`` and
    ``get_fast_aji_plus``: of predicted objects of equal IoU the one of the larger union is taken,
    of equal unions the one of the lowest id. Of one-to-one pairings with equal sums (AJI+) which
    one is taken is open, as it is there. HoVer-Net divides by zero if both images are empty. Time
    is that of `match`.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> true, pred = np.array([[1, 1, 2, 2, 0]]), np.array([[7, 7, 7, 0, 8]])
    >>> metrics.aggregated_jaccard(true, pred)
    0.375
    >>> metrics.aggregated_jaccard(true, pred, unique=True)
    0.3333333333333333
    """
    shared, whole = jaccard_sums(count_pairs(exclude_border, true=true, pred=pred), unique=unique)
    return shared / whole if whole else 0.0


def jaccard_sums(found: ObjectPairs, *, unique: bool) -> tuple[int, int]:
    """Numerator and denominator of the index, in pixels."""
    scores = found.count / (found.union() + 1e-6)  # HoVer-Net's: ties go to the larger union
    chosen = best_pairs(found.a, found.b, scores) if unique else best_of_rows(found.a, scores)
    # Each true object counts once, in a union or alone; a predicted one in each of its unions.
    times = np.maximum(np.bincount(found.b[chosen], minlength=len(found.ids_b)), 1)
    shared = int(found.count[chosen].sum())
    return shared, int(found.area_a.sum() + (found.area_b * times).sum()) - shared


def dice(true: Array, pred: Array, *, exclude_border: int = 0) -> float:
    """Dice coefficient of the foregrounds: twice the shared pixels over the pixels of both.

    Parameters
    ----------
    true, pred : array, (H, W) or (D, H, W), any integer dtype
        Label images of one shape, library and device; ids >= 0, 0 is background.
    exclude_border : int
        Objects with a pixel among these outermost pixels count as background; 0 or more.

    Returns
    -------
    float
        0.0 (also if either image or both have no objects) to 1.0.

    Raises
    ------
    TypeError, ValueError
        As of `aggregated_jaccard`.

    Notes
    -----
    HoVer-Net's ``get_dice_1``: of pixels, not of objects.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> metrics.dice(np.array([[1, 2, 0]]), np.array([[0, 3, 3]]))
    0.5
    """
    shared, whole = dice_sums(count_pairs(exclude_border, true=true, pred=pred))
    return shared / whole if whole else 0.0


def dice_sums(found: ObjectPairs) -> tuple[int, int]:
    """Numerator and denominator of the coefficient, in pixels."""
    return 2 * int(found.count.sum()), int(found.area_a.sum() + found.area_b.sum())


def n_cells(labels: Array) -> int:
    """Count the objects.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed, 0 is background.

    Returns
    -------
    int
        Ids that are present.

    Raises
    ------
    TypeError
        If `labels` is no array or not of an integer dtype.
    ValueError
        If `labels` has another number of axes or negative ids.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> metrics.n_cells(np.array([[7, 7, 0, 70000]]))
    2
    """
    arrays = Arrays(labels=labels)
    found, _ = arrays.int32_labels("labels", to_write=False)
    return _core.count_labels(found, arrays.stream)


def count_error(true: Array, pred: Array) -> int:
    """How many objects too many a prediction has.

    Parameters
    ----------
    true, pred : array, (H, W) or (D, H, W), any integer dtype
        Label images of one shape; ids >= 0, gaps allowed, 0 is background.

    Returns
    -------
    int
        Predicted less true objects: negative if there are too few.

    Raises
    ------
    TypeError
        If an image is no array or not of an integer dtype, or the two are of different libraries.
    ValueError
        If shapes or devices differ, or there are negative ids.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> metrics.count_error(np.array([[1, 2, 3]]), np.array([[4, 4, 4]]))
    -2
    """
    arrays = Arrays(true=true, pred=pred)
    counts = {}
    for name in ("true", "pred"):
        found, _ = arrays.int32_labels(name, to_write=False)
        counts[name] = _core.count_labels(found, arrays.stream)
    shapes = [tuple(arrays[name].shape) for name in ("true", "pred")]
    if shapes[0] != shapes[1]:
        raise ValueError(f"pred: expected the shape of true, {shapes[0]}; got {shapes[1]}")
    return counts["pred"] - counts["true"]
