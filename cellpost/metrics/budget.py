"""The time that an image may take."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cellpost.labels import number
from cellpost.tiles_layout import image_shape

__all__ = ["time_tolerance", "within_budget"]

_SECONDS = 10.0
_PIXELS = 10**6


def time_tolerance(shape: Sequence[int]) -> float:
    """Seconds that the cell segmentation challenge of NeurIPS 2022 allows for an image.

    Parameters
    ----------
    shape : (H, W) or (D, H, W)
        Of the image in pixels, without channels; 0 or more a side.

    Returns
    -------
    float
        10 s up to 10**6 pixels, then 10 s for every 10**6 pixels.

    Raises
    ------
    ValueError
        If the shape is none of these.

    Examples
    --------
    >>> from cellpost import metrics
    >>> metrics.time_tolerance((512, 512)), metrics.time_tolerance((2000, 3000))
    (10.0, 60.0)
    """
    return _SECONDS * max(1.0, math.prod(image_shape(shape)) / _PIXELS)


def within_budget(shape: Sequence[int], seconds: float) -> bool:
    """Whether an image took no longer than `time_tolerance` allows.

    Parameters
    ----------
    shape : (H, W) or (D, H, W)
        Of the image in pixels, without channels.
    seconds : float
        That it took, >= 0.

    Returns
    -------
    bool
        True up to the tolerance and at it.

    Raises
    ------
    TypeError
        If `seconds` is no number.
    ValueError
        If the shape is none of these, or `seconds` is negative or NaN.

    Examples
    --------
    >>> from cellpost import metrics
    >>> metrics.within_budget((8415, 10496), 510.61)
    True
    """
    taken = number("seconds", seconds)
    if not taken >= 0:
        raise ValueError(f"seconds: expected 0 or more; got {taken}")
    return taken <= time_tolerance(shape)
