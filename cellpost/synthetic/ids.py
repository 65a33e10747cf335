"""Ids as an image: float32 channels that hold them exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellpost._arrays import Array, Arrays, dtype_name, to_host

__all__ = ["decoded", "encode"]

_BITS = 24  # of an integer that float32 holds
_BASE = 2**_BITS


def encode(labels: Array) -> NDArray[np.float32]:
    """A label image as the image that simulated networks see.

    Parameters
    ----------
    labels : array, (H, W), any integer dtype
        Ids, 0 <= id < 2**48, gaps allowed.

    Returns
    -------
    ndarray, (2, H, W), float32
        ``id // 2**24`` and ``id % 2**24``: exact in float32, which is what networks get. Flips and
        quarter turns of it are those of the labels; padding with 0 is background.

    Raises
    ------
    TypeError
        If `labels` is no array or not of an integer dtype.
    ValueError
        If it has not two axes, or an id is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.synthetic import encode
    >>> encode(np.array([[0, 5, 2**24 + 1]])).tolist()
    [[[0.0, 0.0, 1.0]], [[0.0, 5.0, 1.0]]]
    """
    given = Arrays(labels=labels)["labels"]
    dtype = dtype_name(given)
    if "int" not in dtype:
        raise TypeError(f"labels: expected an integer dtype; got {dtype}")
    ids = to_host(given)
    if ids.ndim != 2:
        raise ValueError(f"labels: expected shape (H, W); got {ids.shape}")
    if ids.size and not (ids.min() >= 0 and ids.max() < _BASE**2):
        raise ValueError(f"labels: expected ids 0..2**48 - 1; got {ids.min()}..{ids.max()}")
    channels = np.zeros((2, *ids.shape), np.float32)
    if ids.size and ids.max() >= _BASE:  # else all have a high part of 0, and few dtypes 24 bits
        channels[0] = ids >> _BITS
        channels[1] = ids & (_BASE - 1)
    else:
        channels[1] = ids
    return channels


def decoded(tiles: NDArray[np.floating]) -> NDArray[np.int64]:
    """Ids of a batch (n, 2, h, w); an error if it is no batch of encoded ids."""
    if tiles.ndim != 4 or tiles.shape[1] != 2:
        raise ValueError(f"tiles: expected shape (n, 2, h, w), as of `encode`; got {tiles.shape}")
    # NaN is none of these either; a resized or normalised image has others.
    fits = (tiles >= 0) & (tiles < _BASE) & (tiles == np.rint(tiles))
    if not fits.all():
        raise ValueError(
            "tiles: expected ids as of `encode`, neither resized nor normalised; got "
            f"{tiles[~fits][0]}"
        )
    ids: NDArray[np.int64] = tiles[:, 0].astype(np.int64)
    ids <<= _BITS
    ids += tiles[:, 1].astype(np.int64)
    return ids
