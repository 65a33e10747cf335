"""HoVer maps (HoVer-Net, CellViT and other networks of that family) to labels.

The stages of `hover_watershed` are `watershed_markers` and `watershed`; their pieces are
`hover_gradients` here, `binary_fill_holes` and `binary_opening` in `cellpost.watershed`, and
`label` and `relabel` in `cellpost.labels`. Each can be called alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from cellpost import _core
from cellpost._arrays import Array, Arrays
from cellpost.labels import choose, integer, number

__all__ = [
    "HoverRanges",
    "HoverReport",
    "hover_gradients",
    "hover_ranges",
    "hover_watershed",
    "watershed_markers",
]

Style: TypeAlias = Literal["hovernet", "monai"]
Bounds: TypeAlias = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class HoverReport:
    """What `hover_watershed` found, and what each of its filters dropped.

    Attributes
    ----------
    n_regions : int
        Components of the foreground that stayed.
    n_small_regions : int
        Components of the foreground below `min_size`.
    n_markers : int
        Markers that stayed: each becomes a nucleus.
    n_small_markers : int
        Markers below `min_size`.
    n_unmarked : int
        Components of the foreground without a marker, by the watershed's connectivity: they stay
        background.
    n_labels : int
        Nuclei in the result (0 from `watershed_markers`, which floods nothing).
    """

    n_regions: int
    n_small_regions: int
    n_markers: int
    n_small_markers: int
    n_unmarked: int
    n_labels: int


@dataclass(frozen=True)
class HoverRanges:
    """What HoVer maps are scaled by: a global input of `hover_watershed`.

    Attributes
    ----------
    value : ((float, float), (float, float))
        Smallest and largest finite value of the horizontal and of the vertical map.
    gradient : ((float, float), (float, float))
        The same of their derivatives, after the maps were scaled to [0, 1].
    """

    value: Bounds
    gradient: Bounds


def hover_watershed(
    prob: Array,
    hv: Array,
    *,
    style: Style = "hovernet",
    activation: Literal["sigmoid", "softmax"] | None = None,
    threshold: float | None = None,
    border_threshold: float = 0.4,
    ksize: int | None = None,
    radius: int = 2,
    footprint: Literal["ellipse", "disk"] | None = None,
    min_size: int = 10,
    sigma: float = 1.0,
    connectivity: int = 1,
    value_range: Sequence[Any] | None = None,
    gradient_range: Sequence[Any] | None = None,
    out_dtype: Any = None,
    return_report: bool = False,
) -> Array | tuple[Array, HoverReport]:
    """Turn HoVer maps into a label image.

    Foreground is where the probability is high; borders between nuclei are where the maps fall
    from one nucleus' right (lower) side to the next one's left (upper) side; what is foreground
    and no border marks the nuclei, and a watershed gives them the rest of the foreground.

    Parameters
    ----------
    prob : array, (H, W) or (2, H, W), float16, bfloat16, float32 or float64
        Probability of being nucleus, or two channels: background, nucleus.
    hv : array, (2, H, W), of the same library and device
        Horizontal map, then vertical: a pixel's place in its nucleus, from -1 at the left (top) to
        +1 at the right (bottom). Swapped maps give no error, only poor borders.
    style : {"hovernet", "monai"}
        Whose arithmetic and defaults: HoVer-Net's own (OpenCV and scikit-image), or MONAI's
        ``HoVerNetInstanceMapPostProcessing``.
    activation : {"sigmoid", "softmax"} or None
        What is still to be applied to `prob`: None if it holds probabilities; ``"sigmoid"`` if it
        is one logit (H, W); ``"softmax"`` if two logits (2, H, W).
    threshold : float, optional
        Smallest probability of foreground, in [0, 1]. If not given 0.5; with style ``"monai"`` and
        two channels, the larger channel wins.
    border_threshold : float
        From here on a pixel is border: 0.4 in HoVer-Net and MONAI.
    ksize : int, optional
        Side of the derivative's kernel, odd, 3 to 31; 21 (``"hovernet"``) or 5 (``"monai"``).
    radius : int
        Of the footprint that markers are opened with, 0 to 31 pixels.
    footprint : {"ellipse", "disk"}, optional
        OpenCV's ellipse (``"hovernet"``) or scikit-image's disk (``"monai"``).
    min_size : int
        Foreground components and markers of fewer pixels are dropped; 1 or less: none.
    sigma : float
        Of the Gaussian that smooths the energy, at most 8 pixels; ``"monai"`` only
        (``"hovernet"`` has a 3 x 3 binomial one).
    connectivity : {1, 2}
        Of the watershed; components are always 4-connected.
    value_range, gradient_range : (low, high) or ((low, high), (low, high)), optional
        What the maps, and their derivatives, are scaled by (of H and V; one pair: of both). If not
        given, their smallest and largest value in this call, so that the answer for a part of an
        image differs from the whole's: see `hover_ranges`.
    out_dtype : dtype, optional
        Integer dtype of the labels; int32 if not given.
    return_report : bool
        Return ``(labels, report)``.

    Returns
    -------
    array, (H, W), int32 or `out_dtype`
        Labels of the kind and on the device of `prob`: 0 is background, nuclei are 1..N in raster
        order of their first pixels.
    HoverReport
        With `return_report`.

    Raises
    ------
    TypeError
        If an input is no array, has no float dtype, or the two are of different libraries.
    ValueError
        If shapes or devices do not fit, or an option is out of range or NaN.
    OverflowError
        If `out_dtype` cannot hold the number of nuclei.

    See Also
    --------
    watershed_markers, watershed, hover_ranges, cellpost.labels

    Notes
    -----
    Mask and markers are those of the original code (Graham et al. 2019, as in tiatoolbox 2.1) or of
    MONAI 1.6, bit for bit, and so are the labels but where equal energies meet: there the rule of
    `watershed` decides. A probability that is not finite is background, and such a value of the
    maps counts as 0 and to no range. Maps without any extent have no markers: the result is empty.

    Values are read as float32, and rounded to it if they are float64. Memory besides the result:
    4.3 bytes a pixel, up to 60 for each run of foreground pixels in a row, and 24 for each pixel at
    the front of a region that is being flooded (few, but in maps of pure noise); on CUDA 32 for
    each pixel of regions with several markers. Time grows with the pixels. CUDA runs the same
    operations.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> place = np.tile(np.linspace(-1, 1, 20, dtype=np.float32), 2)
    >>> hv = np.stack([np.tile(place, (20, 1)), np.tile(place[:20, None], (1, 40))])
    >>> labels = cellpost.hover_watershed(np.ones((20, 40), np.float32), hv, ksize=5)
    >>> labels[10, [5, 35]].tolist()
    [1, 2]
    """
    arrays = Arrays(prob=prob, hv=hv)
    parameters = _parameters(
        n_axes=len(arrays["prob"].shape),
        style=style,
        activation=activation,
        threshold=threshold,
        border_threshold=border_threshold,
        ksize=ksize,
        radius=radius,
        footprint=footprint,
        min_size=min_size,
        sigma=sigma,
        connectivity=connectivity,
        value_range=value_range,
        gradient_range=gradient_range,
    )
    labels = arrays.empty(_plane(arrays["hv"]), "int32")
    report = HoverReport(
        **_core.hover_watershed(arrays["prob"], arrays["hv"], labels, arrays.stream, parameters)
    )
    result = arrays.labels_result(labels, report.n_labels, out_dtype)
    return (result, report) if return_report else result


def watershed_markers(
    prob: Array,
    hv: Array,
    *,
    style: Style = "hovernet",
    activation: Literal["sigmoid", "softmax"] | None = None,
    threshold: float | None = None,
    border_threshold: float = 0.4,
    ksize: int | None = None,
    radius: int = 2,
    footprint: Literal["ellipse", "disk"] | None = None,
    min_size: int = 10,
    sigma: float = 1.0,
    value_range: Sequence[Any] | None = None,
    gradient_range: Sequence[Any] | None = None,
    return_report: bool = False,
) -> tuple[Array, ...]:
    """Find the markers, energy and mask that a watershed takes, from HoVer maps.

    Parameters
    ----------
    prob, hv : array
        As `hover_watershed` takes them.
    style, activation, threshold, border_threshold, ksize, radius, footprint, min_size, sigma
        As in `hover_watershed`.
    value_range, gradient_range
        As in `hover_watershed`.
    return_report : bool
        Return ``(markers, energy, mask, report)``.

    Returns
    -------
    markers : array, (H, W), int32
        1..N in raster order of their first pixels, 0 elsewhere.
    energy : array, (H, W), float64
        Lowest in the middle of nuclei; its values are exact.
    mask : array, (H, W), bool
        Foreground.
    report : HoverReport
        With `return_report`; nothing was flooded, so ``n_unmarked`` and ``n_labels`` are 0.

    Raises
    ------
    TypeError, ValueError
        As `hover_watershed`.

    Notes
    -----
    ``relabel(watershed(energy, markers, mask=mask))`` is `hover_watershed`. See there on NaN, cost
    and agreement.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> place = np.tile(np.linspace(-1, 1, 20, dtype=np.float32), 2)
    >>> hv = np.stack([np.tile(place, (20, 1)), np.tile(place[:20, None], (1, 40))])
    >>> markers, energy, mask = cellpost.watershed_markers(np.ones((20, 40)), hv, ksize=5)
    >>> int(markers.max()), bool(mask.all())
    (2, True)
    """
    arrays = Arrays(prob=prob, hv=hv)
    parameters = _parameters(
        n_axes=len(arrays["prob"].shape),
        style=style,
        activation=activation,
        threshold=threshold,
        border_threshold=border_threshold,
        ksize=ksize,
        radius=radius,
        footprint=footprint,
        min_size=min_size,
        sigma=sigma,
        value_range=value_range,
        gradient_range=gradient_range,
    )
    shape = _plane(arrays["hv"])
    markers, energy = arrays.empty(shape, "int32"), arrays.empty(shape, "float64")
    mask = arrays.empty(shape, "bool")
    report = HoverReport(
        **_core.watershed_markers(
            arrays["prob"], arrays["hv"], markers, energy, mask, arrays.stream, parameters
        )
    )
    results = tuple(arrays.result(array) for array in (markers, energy, mask))
    return (*results, report) if return_report else results


def hover_ranges(
    hv: Array,
    *,
    style: Style = "hovernet",
    ksize: int | None = None,
    value_range: Sequence[Any] | None = None,
) -> HoverRanges:
    """Find the ranges that `hover_watershed` scales HoVer maps by.

    With the ranges of the whole image the borders and energies of a part of it are the whole's, but
    within ``ksize // 2`` pixels of a cut; so are the nuclei of regions that no cut goes through.
    The whole's ranges are the smallest and largest of its parts':
    first of `value`, then, with these as `value_range`, of `gradient`, again without the
    ``ksize // 2`` pixels at cuts.

    Parameters
    ----------
    hv, style, ksize, value_range
        As in `hover_watershed`.

    Returns
    -------
    HoverRanges
        (0, 0) for maps without a finite value.

    Raises
    ------
    TypeError, ValueError
        As `hover_watershed`.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> cellpost.hover_ranges(np.stack([np.eye(9), 2 - np.eye(9)]), ksize=3).value
    ((0.0, 1.0), (1.0, 2.0))
    """
    arrays = Arrays(hv=hv)
    parameters = _parameters(style=style, ksize=ksize, value_range=value_range)
    value, gradient = _core.hover_ranges(arrays["hv"], arrays.stream, parameters)
    return HoverRanges(_as_bounds("value", value), _as_bounds("gradient", gradient))


def hover_gradients(
    hv: Array,
    *,
    style: Style = "hovernet",
    ksize: int | None = None,
    value_range: Sequence[Any] | None = None,
) -> Array:
    """Derivatives of HoVer maps: of the horizontal one along x, of the vertical one along y.

    Parameters
    ----------
    hv, style, ksize, value_range
        As in `hover_watershed`.

    Returns
    -------
    array, (2, H, W), float64
        Sobel derivatives of the maps scaled to [0, 1], mirrored at the image border: with style
        ``"hovernet"`` the bits of OpenCV's ``Sobel``, whose kernels are binomial coefficients;
        with ``"monai"`` those of its ``SobelGradients``, whose kernels are scaled to unit slope.

    Raises
    ------
    TypeError, ValueError
        As `hover_watershed`.

    Notes
    -----
    A value that is not finite counts as 0 and to no range. ``2 * ksize`` operations a pixel.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> ramp = np.tile(np.arange(5.0), (5, 1))
    >>> cellpost.hover_gradients(np.stack([ramp, ramp.T]), style="monai", ksize=3)[:, 2, 2]
    array([0.25, 0.25])
    """
    arrays = Arrays(hv=hv)
    parameters = _parameters(style=style, ksize=ksize, value_range=value_range)
    out = arrays.empty(tuple(arrays["hv"].shape), "float64")
    _core.hover_gradients(arrays["hv"], out, arrays.stream, parameters)
    return arrays.result(out)


def _plane(hv: Array) -> tuple[int, ...]:
    """Shape of the results; the kernels say what is wrong with that of the maps."""
    return tuple(hv.shape[1:]) if len(hv.shape) == 3 else (0, 0)


def _parameters(
    *,
    style: str,
    ksize: int | None,
    value_range: Sequence[Any] | None,
    n_axes: int = 2,
    activation: str | None = None,
    threshold: float | None = None,
    border_threshold: float = 0.4,
    radius: int = 2,
    footprint: str | None = None,
    min_size: int = 10,
    sigma: float = 1.0,
    connectivity: int = 1,
    gradient_range: Sequence[Any] | None = None,
) -> _core.HoverParameters:
    chosen = choose("style", style, _core.HoverStyle)
    is_monai = chosen == _core.HoverStyle.monai
    if activation not in (None, "sigmoid", "softmax"):
        raise ValueError(f"activation: expected None, 'sigmoid' or 'softmax'; got {activation!r}")
    if threshold is None and not (is_monai and n_axes == 3):
        threshold = 0.5
    if footprint is None:
        footprint = "disk" if is_monai else "ellipse"
    if ksize is None:
        ksize = 5 if is_monai else 21
    return _core.HoverParameters(
        style=chosen,
        activation=_core.Activation[activation or "none"],
        threshold=None if threshold is None else number("threshold", threshold),
        border_threshold=number("border_threshold", border_threshold),
        ksize=integer("ksize", ksize),
        radius=integer("radius", radius),
        footprint=choose("footprint", footprint, _core.FootprintShape),
        min_size=integer("min_size", min_size),
        sigma=number("sigma", sigma),
        connectivity=integer("connectivity", connectivity),
        value_range=None if value_range is None else _as_bounds("value_range", value_range),
        gradient_range=(
            None if gradient_range is None else _as_bounds("gradient_range", gradient_range)
        ),
    )


def _as_bounds(name: str, given: Sequence[Any]) -> Bounds:
    """One pair of numbers for both maps, or a pair for each."""
    try:
        (h_low, h_high), (v_low, v_high) = np.broadcast_to(
            np.asarray(given, float), (2, 2)
        ).tolist()
        return (h_low, h_high), (v_low, v_high)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}: expected (low, high) or ((low, high), (low, high)); got {given!r}"
        ) from None
