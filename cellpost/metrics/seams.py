"""Whether cells are cut along the seams of tiles, told from the labels alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from cellpost._arrays import Array, Arrays, to_host
from cellpost.tiles_grid import TileGrid

__all__ = ["SeamScore", "seam_score"]

_OFFSETS = range(3, 9)  # pixels from a seam to the lines that it is compared with
_CLEAR = 3  # pixels that those lines keep from any seam
_RUN = 3  # pixels of a straight cut


@dataclass(frozen=True)
class SeamScore:
    """How often cells end exactly at seams.

    Attributes
    ----------
    share : float
        Of the seams' length within or beside cells, what is boundary of a cell; 0.0 to 1.0.
    expected : float
        The same of parallel lines 3 to 8 pixels beside the seams: what chance gives.
    ratio : float
        share / expected: about 1.0 where seams are as any other line, well above it where cells are
        cut at them. 1.0 if both are 0, ``inf`` if `expected` alone is, NaN if there are seams but
        no line to compare them with.
    n_cut : int
        Cells that end at a seam along a straight line of 3 pixels or more. Some do by chance, also
        in an image without cuts: about `expected` / `share` of them.
    """

    share: float
    expected: float
    ratio: float
    n_cut: int


def seam_score(labels: Array, seams: TileGrid | Sequence[Iterable[int]]) -> SeamScore:
    """Tell whether cells are cut at the seams of tiles.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed, 0 is background.
    seams : TileGrid, or one sequence of int for each axis
        Grid of the shape of `labels`: its seams are the borders between the tiles' cores. Or the
        seams' places: k is the line between pixels k - 1 and k of that axis, 0 < k < its size.

    Returns
    -------
    SeamScore
        On the host.

    Raises
    ------
    TypeError
        If `labels` is no array or not of an integer dtype, or `seams` are no integers.
    ValueError
        If `labels` has another number of axes or negative ids, or `seams` do not fit its shape.

    Notes
    -----
    A piece of a seam, one pixel long, counts if a cell is on either side of it; it is boundary if
    the two sides differ. In a volume seams are planes, and a straight cut is one along any of the
    plane's axes. Lines to compare with lie inside the image and at least 3 pixels from every seam
    of their axis. Little length says little: look at `n_cut` too. Reads 13 pairs of lines a seam.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import metrics
    >>> labels = np.zeros((40, 40), np.int32)
    >>> labels[5:15, 10:20], labels[5:15, 20:30] = 1, 2
    >>> metrics.seam_score(labels, [[], [20]])
    SeamScore(share=1.0, expected=0.0, ratio=inf, n_cut=2)
    """
    arrays = Arrays(labels=labels)
    found, _ = arrays.int32_labels("labels", to_write=False)
    shape = tuple(int(size) for size in found.shape)
    on_seams, beside = np.zeros(2, np.int64), np.zeros(2, np.int64)
    cut = [np.empty(0, np.int64)]
    n_beside = 0
    for axis, places in enumerate(_places(seams, shape)):
        for k in places:
            low, high = _sides(found, axis, k)
            on_seams += _lengths(low, high)
            cut += [_straight(low, high), _straight(high, low)]
        lines = {k + side * far for k in places for far in _OFFSETS for side in (-1, 1)}
        for k in sorted(lines):
            if 0 < k < shape[axis] and all(abs(k - seam) >= _CLEAR for seam in places):
                beside += _lengths(*_sides(found, axis, k))
                n_beside += 1
    share, expected = (float(a / b) if b else 0.0 for a, b in (on_seams, beside))
    if n_beside == 0 and on_seams[1] > 0:
        ratio = float("nan")
    elif expected > 0:
        ratio = share / expected
    else:
        ratio = float("inf") if share > 0 else 1.0
    return SeamScore(share, expected, ratio, len(np.unique(np.concatenate(cut))))


def _places(seams: Any, shape: tuple[int, ...]) -> list[list[int]]:
    """Where seams are on each axis, ascending."""
    if isinstance(seams, TileGrid):
        if seams.shape != shape:
            raise ValueError(f"seams: expected a grid of {shape}, labels' shape; got {seams.shape}")
        out = []
        for axis, n in enumerate(seams.counts):
            step = int(np.prod(seams.counts[axis + 1 :]))
            begins = {seams.core(k * step)[axis].start for k in range(n)} if len(seams) else set()
            out.append(sorted(k for k in begins if 0 < k < shape[axis]))
        return out
    if not isinstance(seams, Sequence) or isinstance(seams, str) or len(seams) != len(shape):
        raise ValueError(
            f"seams: expected a TileGrid or {len(shape)} sequences, one per axis; got {seams!r}"
        )
    out = []
    for axis, places in enumerate(seams):
        try:
            numbers = {index(k) for k in places}
        except TypeError:
            raise TypeError(f"seams[{axis}]: expected integers; got {places!r}") from None
        for k in sorted(numbers):
            if not 0 < k < shape[axis]:
                raise ValueError(f"seams[{axis}]: expected 0 < place < {shape[axis]}; got {k}")
        out.append(sorted(numbers))
    return out


def _sides(labels: Any, axis: int, k: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pixels before and behind a line."""
    window = (*[slice(None)] * axis, slice(k - 1, k + 1))
    pair = to_host(array_namespace(labels).asarray(labels[window], copy=True))
    return np.take(pair, 0, axis), np.take(pair, 1, axis)


def _lengths(low: NDArray[np.int32], high: NDArray[np.int32]) -> NDArray[np.int64]:
    """Pixels of a line that are boundary, and that have a cell on either side."""
    return np.array([np.count_nonzero(low != high), np.count_nonzero(low | high)], np.int64)


def _straight(one: NDArray[np.int32], other: NDArray[np.int32]) -> NDArray[np.int64]:
    """Ids on one side of a line that end at it over a run of pixels."""
    ending = np.where(one != other, one, 0)
    found = [np.empty(0, np.int64)]
    for axis in range(ending.ndim):
        n = ending.shape[axis] - _RUN + 1
        if n < 1:
            continue
        parts = [np.take(ending, range(k, k + n), axis) for k in range(_RUN)]
        same = np.logical_and.reduce([part == parts[0] for part in parts[1:]])
        found.append(np.unique(parts[0][same]).astype(np.int64))
    ids = np.unique(np.concatenate(found))
    return ids[ids > 0]
