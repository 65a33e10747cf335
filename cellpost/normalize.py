"""Intensities made alike from image to image: clipped to percentiles and scaled.

What is measured on the whole image is a small array, the limits; with these, any part of the image
becomes what it is in the whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from cellpost._arrays import Array, Arrays, dtype_name, to_host
from cellpost.labels import integer, number

__all__ = ["Normalization", "normalization", "normalize", "percentile_limits"]

_BLOCK = 2**24  # pixels that are counted together
_COUNTED = {"bool": 2, "uint8": 2**8, "uint16": 2**16}  # values of the dtypes with histograms
# All values of these are float32 numbers.
_NARROW = ("bool", "int8", "uint8", "int16", "uint16", "float16", "bfloat16", "float32")


def percentile_limits(
    image: Array,
    lower: float = 0.0,
    upper: float = 99.5,
    *,
    nonzero: bool = False,
    per_channel: bool = False,
    max_pixels: int | None = None,
    spatial_ndim: int = 2,
) -> NDArray[np.float64]:
    """Measure the intensities between which an image lies, but for a few of its pixels.

    Parameters
    ----------
    image : array, (H, W) or (C, H, W), bool, integer or float
        One image, channels first; with ``spatial_ndim=3`` (D, H, W) or (C, D, H, W).
    lower, upper : float
        Percentiles, 0 <= lower < upper <= 100.
    nonzero : bool
        Leave out pixels of value 0.
    per_channel : bool
        A pair for each channel, instead of one for all.
    max_pixels : int, optional
        Look at no more pixels of each channel than these, >= 1: at every k-th of each axis, with
        the smallest k that does. All if not given.
    spatial_ndim : {2, 3}
        Axes of the image that are not channels.

    Returns
    -------
    ndarray, (2,) or (C, 2), float64
        The percentiles, NumPy's, in the image's own units. (2,) also with `per_channel` if the
        image has no channel axis. (0, 0) where there are no pixels to look at.

    Raises
    ------
    TypeError
        If `image` is no array or not of a real dtype, or an option is no number.
    ValueError
        If the image has another number of axes, or NaN or infinite pixels, or an option is out of
        range.

    Notes
    -----
    ``numpy.percentile(..., method="linear")`` of the image as float64, exactly, at any size and
    from any library. uint8, uint16 and bool images are counted, others are partitioned in a copy;
    on CUDA they are sorted, in a copy.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.normalize import percentile_limits
    >>> image = np.arange(201).reshape(3, 67)
    >>> percentile_limits(image).tolist()
    [0.0, 199.0]
    >>> percentile_limits(np.stack([image, 2 * image]), 50, 100, per_channel=True).tolist()
    [[100.0, 200.0], [200.0, 400.0]]
    """
    percentiles = _percentiles("lower", lower, "upper", upper)
    n_axes = _spatial_ndim(spatial_ndim)
    arrays = Arrays(image=image)
    pixels, shape = _real("image", arrays["image"]), tuple(arrays["image"].shape)
    if len(shape) not in (n_axes, n_axes + 1):
        raise ValueError(
            f"image: expected {n_axes} axes, or {n_axes + 1} with the channels first; got shape "
            f"{shape}"
        )
    if max_pixels is not None:
        step = _step(shape[-n_axes:], integer("max_pixels", max_pixels))
        grid = (..., *[slice(None, None, step)] * n_axes)
        pixels = pixels[grid]
    if "float" in dtype_name(pixels):
        _check_finite(arrays.xp, pixels)
    dtype, xp = dtype_name(pixels), arrays.xp
    if dtype == "bfloat16":  # NumPy has no such dtype
        pixels = xp.astype(pixels, xp.float32)
    if not (arrays.kind == "cupy" or getattr(pixels, "is_cuda", False)):
        pixels = to_host(pixels)  # of the same memory
    elif "int" in dtype and dtype not in _COUNTED:  # CUDA cannot sort torch's wide unsigned types
        pixels = xp.astype(pixels, xp.float64)

    channels = pixels if per_channel and len(shape) > n_axes else pixels[None]
    limits = np.zeros((channels.shape[0], 2))
    for i in range(channels.shape[0]):
        limits[i] = _percentiles_of(channels[i], percentiles, nonzero)
    return limits if channels is pixels else limits[0]


@dataclass(frozen=True)
class Normalization:
    """A way to make intensities alike: measure the whole image, then apply to any part of it.

    Attributes
    ----------
    percentiles : (float, float), optional
        What `limits` measures, 0 <= lower < upper <= 100. None: nothing, the limits are 0 and 1.
    nonzero : bool
        Leave pixels of value 0 out of the percentiles.
    per_channel : bool
        Limits for each channel, instead of one pair for all.
    clip : bool
        Values beyond the limits become the limits.
    scale : float
        What the upper limit becomes, > 0; the lower one becomes 0.

    Raises
    ------
    TypeError
        If a number is none.
    ValueError
        If one is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.normalize import Normalization
    >>> norm = Normalization(percentiles=(1, 99), per_channel=True, clip=False)  # as Cellpose
    >>> image = np.arange(101.0).reshape(1, 1, 101)
    >>> limits = norm.limits(image)
    >>> limits.tolist()
    [[1.0, 99.0]]
    >>> norm.apply(image[:, :, 50:52], limits).tolist()
    [[[0.5, 0.510204...]]]
    """

    percentiles: tuple[float, float] | None = (0.0, 99.5)
    nonzero: bool = False
    per_channel: bool = False
    clip: bool = True
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.percentiles is not None:
            try:
                lower, upper = self.percentiles
            except (TypeError, ValueError):
                raise ValueError(
                    f"percentiles: expected (lower, upper) or None; got {self.percentiles!r}"
                ) from None
            names = ("percentiles[0]", "percentiles[1]")
            pair = _percentiles(names[0], lower, names[1], upper)
            object.__setattr__(self, "percentiles", pair)
        scale = number("scale", self.scale)
        if not 0 < scale < math.inf:
            raise ValueError(f"scale: expected a finite number > 0; got {scale}")
        object.__setattr__(self, "scale", scale)

    def limits(
        self, image: Array, *, max_pixels: int | None = None, spatial_ndim: int = 2
    ) -> NDArray[np.float64]:
        """Measure what `apply` needs on the whole image.

        Arguments, result and errors are those of `percentile_limits`. Without percentiles the image
        is not looked at.

        Examples
        --------
        >>> import numpy as np
        >>> from cellpost.normalize import normalization
        >>> normalization("mediar").limits(np.arange(201).reshape(1, 201)).tolist()
        [0.0, 199.0]
        """
        if self.percentiles is None:
            return np.array([0.0, 1.0])
        return percentile_limits(
            image,
            *self.percentiles,
            nonzero=self.nonzero,
            per_channel=self.per_channel,
            max_pixels=max_pixels,
            spatial_ndim=spatial_ndim,
        )

    def apply(self, image: Array, limits: Any, *, spatial_ndim: int = 2) -> Array:
        """Scale an image, a part of it, or a batch of parts.

        Parameters
        ----------
        image : array, (..., H, W) or (..., C, H, W), bool, integer or float
            Such as tiles (N, C, h, w); with ``spatial_ndim=3`` with an axis D before H. Not written
            to.
        limits : array-like, (2,) or (C, 2)
            Lower and upper one, finite, lower <= upper: from `limits`, or fixed ones.
        spatial_ndim : {2, 3}
            Axes after the channels' one.

        Returns
        -------
        array
            float32, of the kind, device and shape of `image`; always a new one. With `clip` within
            0..scale, both ends reached.

        Raises
        ------
        TypeError
            If `image` is no array or not of a real dtype, or the limits are no numbers.
        ValueError
            If the limits have another shape, are not finite or reversed, or the image has not as
            many channels as they.

        Notes
        -----
        ``(clip(image) - lower) / (upper - lower) * scale``. Where the two limits are equal, as
        those of a constant image are, there is nothing to scale by: with `clip` all becomes 0,
        without it differences from the limit are kept. NaN stays NaN. Every pixel is worked on by
        itself, in float32 if that holds all values of the image's dtype and else in float64: so a
        tile has the bytes that it has in the whole image, and CUDA gives those of the CPU.

        Examples
        --------
        >>> import numpy as np
        >>> from cellpost.normalize import normalization
        >>> tiles = np.array([[[[0, 50, 200]]], [[[100, 150, 7]]]])
        >>> normalization("mediar").apply(tiles, (50, 150)).tolist()
        [[[[0.0, 0.0, 1.0]]], [[[0.5, 1.0, 0.0]]]]
        """
        n_axes = _spatial_ndim(spatial_ndim)
        arrays = Arrays(image=image)
        pixels, xp = _real("image", arrays["image"]), arrays.xp
        pairs = _checked_limits(limits, tuple(pixels.shape), n_axes)
        work = xp.float32 if dtype_name(pixels) in _NARROW else xp.float64
        ends = xp.asarray(pairs, dtype=work, device=arrays.device)
        # Arrays, not numbers: torch on CUDA would multiply by the reciprocal of a number.
        broadcast = (1,) if pairs.ndim == 1 else (-1, *(1,) * n_axes)
        low, high = (xp.reshape(ends[..., i], broadcast) for i in range(2))
        span = xp.where(high > low, high - low, xp.ones_like(low))

        scaled = xp.astype(pixels, work, copy=False)
        if self.clip:
            scaled = xp.minimum(xp.maximum(scaled, low), high)
        scaled = scaled - low  # new, and in place from here on
        scaled /= span
        if self.scale != 1:
            scaled *= self.scale
        return arrays.result(xp.astype(scaled, xp.float32, copy=False))


def normalization(method: str | Normalization) -> Normalization:
    """Give the normalisation of a published system by its name.

    Parameters
    ----------
    method : {"mediar", "vsm", "none"} or Normalization
        ``"mediar"``: clipped to the percentiles 0 and 99.5 of the whole image, one pair for all
        channels, scaled to 0..1. ``"vsm"``: each channel clipped to the percentiles 1 and 99 of its
        pixels that are not 0, scaled to 0..255, as floats. ``"none"``: nothing but float32; with
        limits of the caller's, scaled from these to 0..1 and not clipped. A `Normalization` is
        returned as it is.

    Returns
    -------
    Normalization
        What measures and applies it.

    Raises
    ------
    ValueError
        If the name is unknown.

    Notes
    -----
    MEDIAR's and VSM's programs round to uint8 before the network sees the image; here nothing is
    rounded. MEDIAR's program, other than its paper, leaves out pixels of value 0 from the
    percentiles: ``Normalization(nonzero=True)``.

    Examples
    --------
    >>> from cellpost.normalize import normalization
    >>> normalization("vsm").percentiles
    (1.0, 99.0)
    """
    if isinstance(method, Normalization):
        return method
    if not isinstance(method, str) or method not in _METHODS:
        raise ValueError(
            f"method: expected a Normalization or one of {', '.join(map(repr, _METHODS))}; got "
            f"{method!r}"
        )
    return _METHODS[method]


def normalize(
    image: Array,
    method: str | Normalization = "mediar",
    *,
    limits: Any = None,
    spatial_ndim: int = 2,
) -> Array:
    """Normalise the intensities of an image as a published system does.

    Parameters
    ----------
    image : array, (H, W) or (C, H, W), bool, integer or float
        One image, channels first; with ``spatial_ndim=3`` (D, H, W) or (C, D, H, W). With `limits`
        also a batch, as `Normalization.apply` takes it.
    method : {"mediar", "vsm", "none"} or Normalization
        See `normalization`.
    limits : array-like, (2,) or (C, 2), optional
        Used instead of those of the image: those of the whole, where `image` is a part of it.
    spatial_ndim : {2, 3}
        Axes of the image that are not channels.

    Returns
    -------
    array
        float32, of the kind, device and shape of `image`; a new one.

    Raises
    ------
    TypeError
        If `image` is no array or not of a real dtype.
    ValueError
        If the method is unknown, or the image has another number of axes, or NaN or infinite pixels
        where limits are measured; or for limits that `Normalization.apply` refuses.

    Notes
    -----
    A constant image (or channel, with ``"vsm"``) gives zeros, an empty one is empty.
    Time linear in the pixels, on one thread. CPU and CUDA give the same bytes.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.normalize import normalize, percentile_limits
    >>> image = np.array([[0, 10, 20, 1000]], np.uint16)
    >>> normalize(image, limits=(0, 20)).tolist()
    [[0.0, 0.5, 1.0, 1.0]]
    >>> tile = normalize(image[:, 1:], limits=percentile_limits(image))
    >>> bool((tile == normalize(image)[:, 1:]).all())
    True
    """
    chosen = normalization(method)
    if limits is None:
        limits = chosen.limits(image, spatial_ndim=spatial_ndim)
    return chosen.apply(image, limits, spatial_ndim=spatial_ndim)


# ---- percentiles --------------------------------------------------------------------------------


def _percentiles_of(
    channel: Array, percentiles: tuple[float, float], nonzero: bool
) -> tuple[float, ...]:
    """Percentiles of all values of an array; 0 of none."""
    xp = array_namespace(channel)
    values = xp.reshape(channel, (-1,))
    counts = None
    if (n_values := _COUNTED.get(dtype_name(values))) is not None:
        counts = _counts(xp, values, n_values)
        if nonzero:
            counts[0] = 0
        n = int(counts.sum())
    else:
        if nonzero:
            values = values[values != 0]
        n = int(values.shape[0])
    if n == 0:
        return (0.0,) * len(percentiles)
    # Like NumPy, to the last bit: the place among the sorted values, and between two of them.
    places = np.asarray(percentiles) / 100 * (n - 1)
    below = np.floor(places).astype(np.int64)
    ranks = np.stack([below, np.minimum(below + 1, n - 1)])
    if counts is not None:
        chosen = np.searchsorted(np.cumsum(counts), ranks, side="right").astype(np.float64)
    else:
        chosen = _at_ranks(xp, values, ranks)
    part, (a, b) = places - below, chosen
    return tuple(np.where(part < 0.5, a + (b - a) * part, b - (b - a) * (1 - part)).tolist())


def _counts(xp: Any, values: Array, n_values: int) -> NDArray[np.int64]:
    """How often each value of a narrow unsigned dtype occurs."""
    counts = np.zeros(n_values, np.int64)
    for start in range(0, int(values.shape[0]), _BLOCK):
        # CUDA has no kernels for torch's uint16; int64 is what all count by in the end.
        block = xp.astype(values[start : start + _BLOCK], xp.int64)
        counts += to_host(xp.bincount(block, minlength=n_values))
    return counts


def _at_ranks(xp: Any, values: Array, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """The values that sorting would bring to these places."""
    if isinstance(values, np.ndarray):
        return np.partition(values, np.unique(ranks))[ranks].astype(np.float64)
    ordered = xp.sort(values)
    places = xp.asarray(ranks, device=device(values))
    return np.asarray(to_host(ordered[places]), np.float64)


def _step(shape: tuple[int, ...], max_pixels: int) -> int:
    """The smallest step along all axes that leaves at most so many pixels."""
    if max_pixels < 1:
        raise ValueError(f"max_pixels: expected 1 or more; got {max_pixels}")
    step = 1
    while math.prod(-(-n // step) for n in shape) > max_pixels:
        step += 1
    return step


# ---- checks -------------------------------------------------------------------------------------


def _percentiles(lower_name: str, lower: Any, upper_name: str, upper: Any) -> tuple[float, float]:
    pair = number(lower_name, lower), number(upper_name, upper)
    if not 0 <= pair[0] < pair[1] <= 100:
        raise ValueError(
            f"{lower_name}, {upper_name}: expected 0 <= lower < upper <= 100; got {pair}"
        )
    return pair


def _spatial_ndim(value: Any) -> int:
    n_axes = integer("spatial_ndim", value)
    if n_axes not in (2, 3):
        raise ValueError(f"spatial_ndim: expected 2 or 3; got {n_axes}")
    return n_axes


def _real(name: str, array: Array) -> Array:
    dtype = dtype_name(array)
    if dtype != "bool" and "int" not in dtype and "float" not in dtype:
        raise TypeError(f"{name}: expected a bool, integer or floating dtype; got {dtype}")
    return array


def _check_finite(xp: Any, pixels: Array) -> None:
    if 0 in pixels.shape or bool(xp.all(xp.isfinite(pixels))):
        return
    n_nan, n_infinite = (int(xp.count_nonzero(test(pixels))) for test in (xp.isnan, xp.isinf))
    raise ValueError(
        f"image: expected finite values; got {n_nan} NaN and {n_infinite} infinite of "
        f"{math.prod(pixels.shape)}"
    )


def _checked_limits(limits: Any, shape: tuple[int, ...], n_axes: int) -> NDArray[np.float64]:
    try:
        pairs = np.asarray(to_host(limits), np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"limits: expected numbers; got {limits!r}") from None
    n_channels = shape[-n_axes - 1] if len(shape) > n_axes else None
    if pairs.shape not in ((2,), (n_channels, 2)):
        of_channels = "" if n_channels is None else f" or ({n_channels}, 2)"
        raise ValueError(
            f"limits: expected shape (2,){of_channels} for an image of shape {shape}; got "
            f"{pairs.shape}"
        )
    if not (np.isfinite(pairs).all() and (pairs[..., 0] <= pairs[..., 1]).all()):
        raise ValueError(f"limits: expected finite numbers, lower <= upper; got {pairs.tolist()}")
    return pairs


_METHODS = {
    "mediar": Normalization(),
    "vsm": Normalization((1.0, 99.0), nonzero=True, per_channel=True, scale=255.0),
    "none": Normalization(None, clip=False),
}
