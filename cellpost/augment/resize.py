"""Images and maps at another size, by bilinear interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import device
from numpy.typing import NDArray

from cellpost._arrays import Array, dtype_name

__all__ = ["resize_bilinear", "widened"]


def widened(xp: Any, array: Array) -> Array:
    """Half precision as float32, since it would be rounded at each step; others as they are."""
    half = dtype_name(array) in ("float16", "bfloat16")
    return xp.astype(array, xp.float32) if half else array


def resize_bilinear(xp: Any, array: Array, size: tuple[int, int]) -> Array:
    """Resize the last two axes.

    Parameters
    ----------
    xp : module
        Namespace of `array`, as array-api-compat gives it.
    array : array, (..., h, w), float32 or float64
        At least one pixel. Narrower floats would round between the axes: widen them before.
    size : (H, W)
        In pixels, > 0.

    Returns
    -------
    array, (..., H, W)
        Of the dtype and on the device of `array`; `array` itself if it has this size already.

    Notes
    -----
    Both grids cover the same area: the pixel at i of H lies at (i + 1/2) h / H - 1/2, clamped to
    the pixels there are (``align_corners=False`` of PyTorch, OpenCV's ``INTER_LINEAR``). Nothing is
    smoothed before an image is made smaller. NaN and infinity make NaN of all pixels that they
    have a part in. Mirrored input gives the mirrored output to the bit.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.augment.resize import resize_bilinear
    >>> resize_bilinear(np, np.array([[0.0, 4.0]]), (1, 4)).tolist()
    [[0.0, 1.0, 3.0, 4.0]]
    """
    for axis, n in zip((-2, -1), size, strict=True):
        if array.shape[axis] == n:
            continue
        column = (n, 1) if axis == -2 else (n,)
        low, high, near, far = _places(array.shape[axis], n)
        low, high = (xp.asarray(at, device=device(array)) for at in (low, high))
        near, far = (
            xp.reshape(xp.asarray(part, dtype=array.dtype, device=device(array)), column)
            for part in (near, far)
        )
        array = xp.take(array, low, axis=axis) * near + xp.take(array, high, axis=axis) * far
    return array


def _places(n_old: int, n_new: int) -> tuple[NDArray[Any], ...]:
    """The two pixels on either side of each new one, and the part that each has in it.

    Counted in halves of a new pixel, in integers: the parts are rounded once, so that the two of
    a pixel and those of its mirror image are the same numbers.
    """
    at = (2 * np.arange(n_new, dtype=np.int64) + 1) * n_old - n_new
    at = np.clip(at, 0, 2 * n_new * (n_old - 1))
    low, rest = np.divmod(at, 2 * n_new)
    high = low + (rest > 0)  # a neighbour without a part is not read: it may be NaN
    return low, high, (2 * n_new - rest) / (2 * n_new), rest / (2 * n_new)
