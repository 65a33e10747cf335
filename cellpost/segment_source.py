"""An image as networks are to see it: channels first, normalised, read in parts."""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from cellpost._arrays import Array, Arrays, dtype_name, to_host
from cellpost.augment.resize import resize_bilinear
from cellpost.normalize import Normalization, normalization

__all__ = ["Source", "channel_axis_of"]

_MOST_CHANNELS = 4  # of an axis that is taken for channels without being told


class Source:
    """An image as networks are to see it, and labels as its owner is to get them."""

    def __init__(
        self,
        image: Array,
        channel_axis: int | None,
        n_axes: int,
        normalize: str | Normalization | None,
        limits: Any,
    ) -> None:
        norm = normalization("none" if normalize is None else normalize)
        self._is_lazy = not _is_array(image)
        self._arrays = Arrays(image=np.empty(0, image.dtype) if self._is_lazy else image)
        pixels = self._arrays["image"]
        dtype = dtype_name(pixels)
        if dtype != "bool" and "int" not in dtype and "float" not in dtype:
            raise TypeError(f"image: expected a real dtype; got {dtype}")
        shape = image.shape if self._is_lazy else pixels.shape
        axis = channel_axis_of(tuple(int(n) for n in shape), channel_axis, n_axes)
        channels_first: Any
        if self._is_lazy:
            channels_first = _ChannelsFirst(image, axis)
        else:
            channels_first = pixels[None, ...] if axis is None else _moved(pixels, axis)
        if limits is None and norm.percentiles is not None:
            whole = channels_first[...]
            limits = norm.limits(whole, spatial_ndim=n_axes)
        #: (C, *shape), float32 if it is to be normalised
        self.seen = channels_first
        if normalize is not None or limits is not None:
            pairs = (0.0, 1.0) if limits is None else limits

            def apply(pixels: Array) -> Array:
                return norm.apply(pixels, pairs, spatial_ndim=n_axes)

            if self._is_lazy:
                channels_first.then, channels_first.dtype = apply, np.dtype(np.float32)
            else:
                self.seen = apply(channels_first)
        self.shape: tuple[int, ...] = tuple(int(n) for n in channels_first.shape[1:])

    def resized(self, shape: tuple[int, int]) -> Array:
        """All of `seen`, at another size."""
        xp = self._arrays.xp
        return resize_bilinear(xp, xp.astype(self.seen[...], xp.float32, copy=False), shape)

    def result(self, found: Any) -> Any:
        """Labels, or labels and report, in the image's library and on its device."""
        if isinstance(found, tuple):
            return (self.result(found[0]), *found[1:])
        if not hasattr(found, "__dlpack__"):  # a postprocess function's own
            return found
        if self._arrays.kind in ("torch", "cupy"):
            return self._arrays.xp.asarray(found, device=self._arrays.device)
        return self._arrays.result(to_host(found))


class _ChannelsFirst:
    """An image that is read in parts, as (C, *shape)."""

    def __init__(self, image: Any, axis: int | None) -> None:
        shape = [int(n) for n in image.shape]
        self._image, self._axis, self.dtype = image, axis, np.dtype(image.dtype)
        self.then: Callable[[Array], Any] = np.asarray
        n_channels = 1 if axis is None else shape.pop(axis)
        self.shape = (n_channels, *shape)

    def __getitem__(self, key: Any) -> Any:
        places = list(key[1:]) if isinstance(key, tuple) else [slice(None)] * (len(self.shape) - 1)
        if self._axis is None:
            return self.then(np.asarray(self._image[tuple(places)])[None])
        places.insert(self._axis, slice(None))
        return self.then(np.moveaxis(np.asarray(self._image[tuple(places)]), self._axis, 0))


def _is_array(image: Any) -> bool:
    """Whether all of it is in memory."""
    if isinstance(image, np.ndarray) or hasattr(image, "__dlpack__"):
        return True
    if not all(hasattr(image, name) for name in ("shape", "dtype", "__getitem__")):
        raise TypeError(
            "image: expected an array, or what has shape, dtype and slices; got "
            f"{type(image).__name__}"
        )
    return False


def channel_axis_of(shape: tuple[int, ...], axis: int | None, n_axes: int) -> int | None:
    """Which axis of an image are channels, None if it has none; or an error."""
    if axis is None and len(shape) == n_axes:
        return None
    if len(shape) != n_axes + 1:
        raise ValueError(
            f"image: expected {n_axes} axes, or {n_axes + 1} with one of channels; got shape "
            f"{shape}"
        )
    if axis is None:
        short = [k for k in (0, n_axes) if shape[k] <= _MOST_CHANNELS]
        if len(short) != 1:
            raise ValueError(
                f"channel_axis: expected to be told, for an image of shape {shape}; got None"
            )
        return short[0]
    try:
        place = index(axis)
    except TypeError:
        raise TypeError(f"channel_axis: expected an integer or None; got {axis!r}") from None
    if not -len(shape) <= place < len(shape):
        raise ValueError(f"channel_axis: expected an axis of shape {shape}; got {axis}")
    return place % len(shape)


def _moved(array: Array, axis: int) -> Array:
    order = [axis, *[k for k in range(len(array.shape)) if k != axis]]
    return array_namespace(array).permute_dims(array, tuple(order))
