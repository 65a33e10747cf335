"""Arrays that are computed when they are looked at."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["LazyArray"]

_BLOCK = 2048  # pixels a side that are rendered together: bounds the scratch


class LazyArray:
    """A read-only image of which each window is rendered when it is read.

    Index it with integers, slices and ``...``; ``numpy.asarray`` renders all of it. TileGrid,
    `cellpost.segment` and ``dask.array.from_array`` take it as it is. Nothing is kept.

    Attributes
    ----------
    shape : tuple of int
        Its size; the two axes of the image are `axes`.
    dtype : numpy.dtype
        Of what reading gives.

    Examples
    --------
    >>> from cellpost.synthetic import Scene
    >>> image = Scene((100_000, 100_000)).image
    >>> image
    LazyArray(shape=(100000, 100000), dtype=uint8)
    >>> image[50_000:50_032, -64:].shape
    (32, 64)
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: DTypeLike,
        render: Callable[[tuple[int, int], tuple[int, int]], NDArray[Any]],
        axes: tuple[int, int] = (0, 1),
    ) -> None:
        self.shape: tuple[int, ...] = tuple(shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._render, self._axes = render, axes

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=object))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"LazyArray(shape={self.shape}, dtype={self.dtype})"

    def __getitem__(self, key: Any) -> Any:
        parts = [_part(k, n) for k, n in zip(self._all_axes(key), self.shape, strict=True)]
        window = [part for part, _ in parts]
        y, x = (window[axis] for axis in self._axes)
        shape = [
            n if i in self._axes else whole
            for i, (n, whole) in enumerate(zip(map(_length, window), self.shape, strict=True))
        ]
        out = np.empty(shape, self.dtype)
        for top in range(y.start, y.stop, _BLOCK):
            for left in range(x.start, x.stop, _BLOCK):
                bottom, right = min(top + _BLOCK, y.stop), min(left + _BLOCK, x.stop)
                place = [slice(None)] * self.ndim
                place[self._axes[0]] = slice(top - y.start, bottom - y.start)
                place[self._axes[1]] = slice(left - x.start, right - x.start)
                out[tuple(place)] = self._render((top, bottom), (left, right))
        for axis in self._axes:  # are cut already
            window[axis] = slice(None)
        return out[tuple(window)][tuple(inside for _, inside in parts)]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("copy: expected None or True, for what is rendered anew; got False")
        whole: NDArray[Any] = self[...]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def _all_axes(self, key: Any) -> list[Any]:
        """One key for each axis."""
        keys = list(key) if isinstance(key, tuple) else [key]
        dots = [i for i, k in enumerate(keys) if k is Ellipsis]
        if len(dots) > 1 or len(keys) - len(dots) > self.ndim:
            raise IndexError(f"key: expected at most {self.ndim} indices; got {key!r}")
        at = dots[0] if dots else len(keys)
        keys[at : at + 1] = [slice(None)] * (self.ndim - len(keys) + len(dots))
        return keys


def _part(key: Any, n: int) -> tuple[slice[int, int, None], Any]:
    """The part of an axis that holds all a key asks for, and what of it that is."""
    if isinstance(key, slice):
        places = range(*key.indices(n))
        if not places:
            return slice(0, 0), slice(None)
        first, last = sorted((places[0], places[-1]))
        return slice(first, last + 1), slice(None, None, key.step)
    try:
        place = range(n)[operator.index(key)]
    except TypeError:
        raise IndexError(f"key: expected integers, slices and '...'; got {key!r}") from None
    except IndexError:
        raise IndexError(f"key: expected an index of an axis of length {n}; got {key}") from None
    return slice(place, place + 1), 0


def _length(part: slice[int, int, None]) -> int:
    return part.stop - part.start
