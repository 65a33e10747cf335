"""Masks in COCO's run-length encoding: runs of background and object down the columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellpost.labels import integer

__all__ = ["rle_counts", "rle_crop"]


def rle_counts(counts: Any) -> NDArray[np.int64]:
    """Lengths of the runs of a mask in COCO's run-length encoding.

    Parameters
    ----------
    counts : str, bytes, or sequence of int
        The compressed text of pycocotools, or the lengths themselves.

    Returns
    -------
    ndarray, (n,), int64
        Lengths in pixels, of background, object, background ...

    Raises
    ------
    TypeError
        If the counts are neither text nor integers.
    ValueError
        If the text has a character outside ``0`` to ``o``, ends within a number or has one of more
        than 8 characters (2**39 pixels), or if a length is negative.

    Examples
    --------
    >>> from cellpost.rle import rle_counts
    >>> rle_counts("52203").tolist()
    [5, 2, 2, 2, 5]
    """
    if isinstance(counts, str | bytes):
        lengths = _decompress(counts)
    else:
        try:
            lengths = np.asarray(counts)
        except ValueError:
            raise TypeError(
                "counts: expected text or a list of integers; got nested lists"
            ) from None
        if lengths.size == 0:
            lengths = np.empty(0, np.int64)
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
            got = f"{lengths.dtype} of shape {lengths.shape}"
            raise TypeError(f"counts: expected text or a list of integers; got {got}")
    lengths = lengths.astype(np.int64, copy=False)  # huge unsigned ones become negative
    if lengths.size and lengths.min() < 0:
        raise ValueError(f"counts: expected lengths from 0 to 2**63 - 1; got {lengths.min()}")
    return lengths


def rle_crop(
    counts: Any, size: Sequence[int]
) -> tuple[NDArray[np.bool_], tuple[int, int, int, int]]:
    """Decode the object of a mask in COCO's run-length encoding, without the mask around it.

    Parameters
    ----------
    counts : str, bytes, or sequence of int
        Runs of the mask's columns, one column after the other, as `rle_counts` takes them.
    size : (int, int)
        H, W of the mask.

    Returns
    -------
    crop : ndarray, (y1 - y0, x1 - x0), bool
        The object's own extents; of a mask without an object its first pixel, (1, 1).
    box : (int, int, int, int)
        x0, y0, x1, y1 of the crop in pixels of the mask.

    Raises
    ------
    TypeError
        If the counts are neither text nor integers, or `size` is not integers.
    ValueError
        If the counts are damaged, or do not add up to the mask's pixels.

    Notes
    -----
    Time and memory are linear in the runs and the crop's pixels, whatever the size of the mask.

    Examples
    --------
    >>> from cellpost.rle import rle_crop
    >>> crop, box = rle_crop([5, 2, 2, 2, 5], (4, 4))
    >>> crop.astype(int).tolist(), box
    ([[1, 1], [1, 1]], (1, 1, 3, 3))
    """
    height, width = image_size("size", size)
    lengths = rle_counts(counts)
    # Each length is compared too, since a sum of huge ones could wrap around to the right total.
    n_pixels = height * width
    if int(lengths.sum()) != n_pixels or (lengths.size and int(lengths.max()) > n_pixels):
        total = sum(lengths.tolist())
        raise ValueError(f"counts: expected a sum of {height} x {width} pixels; got {total}")
    ends = np.cumsum(lengths)[1::2]
    lengths = lengths[1::2]
    ends, lengths = ends[lengths > 0], lengths[lengths > 0]
    if not ends.size:
        return np.zeros((1, 1), np.bool_), (0, 0, 1, 1)
    x_first, y_first = np.divmod(ends - lengths, height)
    x_last, y_last = np.divmod(ends - 1, height)
    x0, x1 = int(x_first[0]), int(x_last[-1]) + 1
    y0, y1 = int(y_first.min()), int(y_last.max()) + 1
    if (
        x_first != x_last
    ).any():  # such a run goes over a column's last and the next one's first row
        y0, y1 = 0, height
    if (x1 - x0) * (y1 - y0) >= 2**31:
        got = f"{y1 - y0} x {x1 - x0}"
        raise ValueError(f"counts: expected an object within fewer than 2**31 pixels; got {got}")
    # Either each run stays in a column or columns are whole: in the crop, too, a run is contiguous.
    starts = (x_first - x0) * (y1 - y0) + y_first - y0
    steps = np.zeros((x1 - x0) * (y1 - y0) + 1, np.int8)
    steps[starts] += 1
    steps[starts + lengths] -= 1
    inside = np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_)
    return np.ascontiguousarray(inside.reshape(x1 - x0, y1 - y0).T), (x0, y0, x1, y1)


def _decompress(counts: str | bytes) -> NDArray[np.int64]:
    """Numbers of 5 bits a character from 0x30 on, least first; 0x20 says that more follow."""
    raw = counts.encode("utf-8") if isinstance(counts, str) else counts
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not codes.size:
        return codes
    if codes.min() < 0 or codes.max() > 63:
        place = int(np.argmax((codes < 0) | (codes > 63)))
        raise ValueError(f"counts: expected characters '0' to 'o'; got {raw[place : place + 1]!r}")
    last = np.flatnonzero(codes < 0x20)
    if not last.size or last[-1] != codes.size - 1:
        raise ValueError(f"counts: expected a whole number at the end; got {raw[-8:]!r}")
    n_codes = np.diff(last, prepend=-1)
    if n_codes.max() > 8:
        raise ValueError(f"counts: expected numbers of 1 to 8 characters; got {n_codes.max()}")
    first = last - n_codes + 1
    places = np.arange(codes.size) - np.repeat(first, n_codes)
    lengths = np.add.reduceat((codes & 0x1F) << (5 * places), first)
    lengths -= ((codes[last] & 0x10) >> 4) << (5 * n_codes)  # two's complement
    # From the fourth on each is the difference to the one two before.
    for start in (1, 2):
        lengths[start::2] = np.cumsum(lengths[start::2])
    return lengths


def image_size(name: str, value: Any) -> tuple[int, int]:
    """(H, W), or an error that names it."""
    try:
        height, width = value
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected (H, W); got {value!r}") from None
    pair = integer(name, height), integer(name, width)
    if min(pair) < 1:
        raise ValueError(f"{name}: expected H and W of at least 1 pixel; got {pair}")
    return pair
