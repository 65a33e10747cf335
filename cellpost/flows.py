"""Flow fields (Cellpose, MEDIAR and other networks of that family) to labels, and back.

The stages of `follow_flows` are `flow_endpoints`, `endpoints_to_labels`, `flow_error` or
`remove_bad_flows`, and the filters of `cellpost.labels`; each can be called alone and run again
from what the one before it gave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cellpost import _core
from cellpost._arrays import Array, Arrays
from cellpost.labels import Labelled, choose, filter_labels, integer, number

__all__ = [
    "FlowReport",
    "endpoints_to_labels",
    "flow_endpoints",
    "flow_error",
    "follow_flows",
    "masks_to_flows",
    "remove_bad_flows",
]


@dataclass(frozen=True)
class FlowReport:
    """What `follow_flows` found, and what each of its filters dropped.

    Attributes
    ----------
    n_foreground : int
        Pixels above the probability threshold: all of them were followed.
    n_seeds : int
        Peaks of the histogram of end points.
    n_unassigned : int
        Foreground pixels that ended in no seed's reach and so became background.
    n_empty_seeds : int
        Seeds whose bins all went to larger seeds.
    n_too_large : int
        Objects above `max_size_fraction`.
    n_bad_flow : int
        Objects whose flow error was above `flow_threshold`.
    n_fragments : int
        Pieces dropped (``fragments="largest"``) or made objects (``"split"``).
    n_too_small : int
        Objects below `min_size`, before and after hole filling.
    n_nested : int
        Objects that vanished in another's filled hole (``fill_holes="cellpose"``).
    n_hole_pixels : int
        Pixels that hole filling changed.
    n_labels : int
        Objects in the result.
    qc_niter : int
        Diffusion steps of the quality control, 0 if there was none.
    """

    n_foreground: int
    n_seeds: int
    n_unassigned: int
    n_empty_seeds: int
    n_too_large: int
    n_bad_flow: int
    n_fragments: int
    n_too_small: int
    n_nested: int
    n_hole_pixels: int
    n_labels: int
    qc_niter: int


def follow_flows(
    dP: Array,
    cellprob: Array,
    *,
    cellprob_threshold: float = 0.0,
    flow_threshold: float | None = 0.4,
    niter: int = 200,
    min_size: int = 15,
    max_size_fraction: float = 0.4,
    fill_holes: bool | Literal["cellpose"] = True,
    fragments: Literal["keep", "largest", "split"] = "keep",
    sampling: Literal["cellpose", "centered"] = "cellpose",
    out_dtype: Any = None,
    return_report: bool = False,
) -> Array | tuple[Array, FlowReport]:
    """Turn a flow field and cell probabilities into a label image.

    Every foreground pixel follows the flow; pixels that end at the same place are one cell. Cells
    whose shape contradicts the flow, and those too small or too large, are dropped, and holes are
    filled.

    Parameters
    ----------
    dP : array, (2, H, W) or (3, D, H, W), float16, bfloat16, float32 or float64
        Flow field as the network gives it: components dY, dX (dZ, dY, dX), five times the pixels
        moved per step.
    cellprob : array, (H, W) or (D, H, W), of the same library and device as `dP`
        Cell probability as a logit.
    cellprob_threshold : float
        Pixels with a larger `cellprob` are foreground.
    flow_threshold : float or None
        Largest flow error (see `flow_error`) of a cell that stays. None or 0: no quality control.
        Volumes have none.
    niter : int
        Steps that each pixel makes, >= 0.
    min_size : int
        Cells of fewer pixels are dropped; 1 or less: none.
    max_size_fraction : float
        Cells that cover more than this fraction of the image are dropped, >= 0.
    fill_holes : bool or "cellpose"
        True fills the holes of each cell and keeps cells that lie in a hole; ``"cellpose"``
        overwrites these, as Cellpose does; False leaves holes.
    fragments : {"keep", "largest", "split"}
        Cells of several pieces: leave them, keep the largest piece, or make each piece a cell.
    sampling : {"cellpose", "centered"}
        ``"cellpose"`` gives Cellpose's answer bit for bit; it samples the field up to half a pixel
        off, depending on the image size. ``"centered"`` samples where the point is: the answer
        depends neither on the image size nor on where in the image a cell lies.
    out_dtype : dtype, optional
        Integer dtype of the labels; int32 if not given.
    return_report : bool
        Return ``(labels, report)``.

    Returns
    -------
    array, (H, W) or (D, H, W), int32 or `out_dtype`
        Labels of the kind and on the device of `dP`: 0 is background, cells are 1..N in raster
        order of their first pixels.
    FlowReport
        With `return_report`: what was found, and what each filter dropped.

    Raises
    ------
    TypeError
        If an input is no array, has no float dtype, or the two are of different libraries.
    ValueError
        If shapes or devices do not fit, an axis is longer than 2**23, or an option is out of
        range or NaN.
    OverflowError
        If `out_dtype` cannot hold the number of cells.

    See Also
    --------
    flow_endpoints, endpoints_to_labels, flow_error, cellpost.labels

    Notes
    -----
    The maths is in float32 (diffusion: float64 up to 4e7 pixels), whatever the input dtype. Every
    CPU and thread count gives the same bytes, and the CUDA kernels run the same operations. Inputs
    are read where they lie, with any strides. A pixel whose probability is NaN or infinite is
    background; one whose flow has such a component has zero flow. Points stop at the image border.
    Of seeds that overlap the one with the larger (count, linear index of its bin) wins. An empty
    image gives an empty one. An axis of length 1 has no flow.

    Memory beyond the inputs peaks at 1.5 to 1.8 times a float32 `dP` in 2D, the result included.

    Follows Cellpose 4 (Stringer et al., Nature Methods 2021; Pachitariu and Stringer, 2022).

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> y, x = np.mgrid[:32, :32].astype(np.float32)
    >>> dP = np.stack([15.5 - y, 15.5 - x])
    >>> cellprob = 100 - (dP**2).sum(axis=0)
    >>> labels = cellpost.follow_flows(dP, cellprob)
    >>> int(labels.max()), int((labels == 1).sum()) == int((cellprob > 0).sum())
    (1, True)
    """
    arrays = Arrays(dP=dP, cellprob=cellprob)
    if fill_holes not in (True, False, "cellpose"):
        raise ValueError(f"fill_holes: expected True, False or 'cellpose'; got {fill_holes!r}")
    labels = arrays.empty(_image_shape("cellprob", arrays), "int32")
    report = FlowReport(
        **_core.follow_flows(
            arrays["dP"],
            arrays["cellprob"],
            labels,
            arrays.stream,
            cellprob_threshold=number("cellprob_threshold", cellprob_threshold),
            flow_threshold=_flow_threshold(flow_threshold),
            niter=integer("niter", niter),
            min_size=integer("min_size", min_size),
            max_size_fraction=number("max_size_fraction", max_size_fraction),
            fill_holes=bool(fill_holes),
            nested=_core.Nested.overwrite if fill_holes == "cellpose" else _core.Nested.keep,
            fragments=choose("fragments", fragments, _core.Fragments),
            sampling=choose("sampling", sampling, _core.Sampling),
        )
    )
    result = arrays.labels_result(labels, report.n_labels, out_dtype)
    return (result, report) if return_report else result


def flow_endpoints(
    dP: Array,
    mask: Array,
    *,
    niter: int = 200,
    sampling: Literal["cellpose", "centered"] = "cellpose",
) -> Array:
    """Follow the flow from every pixel of a mask to where it ends.

    Parameters
    ----------
    dP : array, (2, H, W) or (3, D, H, W), float16, bfloat16, float32 or float64
        Flow field as the network gives it; it counts as zero outside the mask.
    mask : array, (H, W) or (D, H, W), bool
        Pixels to follow, e.g. ``cellprob > 0``.
    niter : int
        Steps, >= 0.
    sampling : {"cellpose", "centered"}
        See `follow_flows`.

    Returns
    -------
    array, (2, n) or (3, n), float32
        End positions y, x (z, y, x) in pixels, one column for each pixel of the mask in raster
        order, of the kind and on the device of `dP`. Truncated to integers they are the bins that
        `endpoints_to_labels` counts.

    Raises
    ------
    TypeError
        If an input is no array, has no fitting dtype, or the two are of different libraries.
    ValueError
        If shapes or devices do not fit, `niter` is negative, or `sampling` is unknown.

    Notes
    -----
    With ``sampling="cellpose"`` equal, bit for bit, to Cellpose 4 with PyTorch on the CPU. An
    empty mask gives an array with no columns. See `follow_flows` on NaN, borders and axes of
    length 1. Bilinear (trilinear) Euler steps: n * niter samples, of which those after a point
    has entered a cycle are skipped without changing a bit.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> dP = np.zeros((2, 4, 4), np.float32)
    >>> cellpost.flow_endpoints(dP, np.eye(4, dtype=bool)).astype(int).tolist()
    [[0, 1, 2, 3], [0, 1, 2, 3]]
    """
    arrays = Arrays(dP=dP, mask=mask)
    ndim = len(_image_shape("mask", arrays))
    n_points = _core.count_foreground(arrays["mask"], arrays.stream)
    endpoints = arrays.empty((ndim, n_points), "float32")
    _core.flow_endpoints(
        arrays["dP"],
        arrays["mask"],
        endpoints,
        arrays.stream,
        niter=integer("niter", niter),
        sampling=choose("sampling", sampling, _core.Sampling),
    )
    return arrays.result(endpoints)


def endpoints_to_labels(
    endpoints: Array, mask: Array, *, max_size_fraction: float = 0.4, out_dtype: Any = None
) -> Array:
    """Group pixels by where they ended: histogram peaks become cells.

    Parameters
    ----------
    endpoints : array, (2, n) or (3, n), float16, bfloat16, float32 or float64
        End positions in pixels, one column for each pixel of the mask in raster order.
    mask : array, (H, W) or (D, H, W), bool
        The mask that the end points belong to.
    max_size_fraction : float
        Cells that cover more than this fraction of the image are dropped, >= 0.
    out_dtype : dtype, optional
        Integer dtype of the labels; int32 if not given.

    Returns
    -------
    array, (H, W) or (D, H, W)
        Labels of the kind and on the device of `mask`, 1..N in raster order; no quality control,
        no clean-up.

    Raises
    ------
    TypeError
        If an input is no array, has no fitting dtype, or the two are of different libraries.
    ValueError
        If shapes or devices do not fit, or the fraction is negative or NaN.
    OverflowError
        If `out_dtype` cannot hold the number of cells.

    Notes
    -----
    A bin is a seed if more than 10 points ended in it and no bin in its 5 x 5 (x 5) surroundings
    holds more. A seed grows five steps of 3 x 3 (x 3) over bins with more than 2 points. Of seeds
    that overlap the one with the larger (count, linear index) wins. End points outside the image
    count at its border, NaN as 0.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> mask = np.ones((4, 4), bool)
    >>> cellpost.endpoints_to_labels(np.ones((2, 16), np.float32), mask, max_size_fraction=1)[0]
    array([1, 1, 1, 1], dtype=int32)
    """
    arrays = Arrays(mask=mask, endpoints=endpoints)
    labels = arrays.empty(_image_shape("mask", arrays), "int32")
    n_labels = _core.endpoints_to_labels(
        arrays["endpoints"],
        arrays["mask"],
        labels,
        arrays.stream,
        max_size_fraction=number("max_size_fraction", max_size_fraction),
    )
    return arrays.labels_result(labels, n_labels, out_dtype)


def masks_to_flows(labels: Array, *, niter: int | None = None) -> Array:
    """Flow field of a label image, as flow networks are trained on.

    Heat spreads from each cell's centre; the flow is the unit vector up the gradient.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    niter : int, optional
        Diffusion steps, >= 0. By default 2 (h + w + 2) of the cell with the largest bounding box
        h x w; in 3D 6 (d + h + w + 3).

    Returns
    -------
    array, (2, H, W) or (3, D, H, W), float32
        Unit flow dY, dX (dZ, dY, dX), zero in the background, of the kind and on the device of
        `labels`. Networks are usually trained on five times this.

    Raises
    ------
    TypeError
        If `labels` is no array or not of an integer dtype.
    ValueError
        If `labels` has another number of axes or negative ids, or `niter` is negative.

    Notes
    -----
    The cost is the spans of the objects' rows, at most their bounding boxes, times the steps, which
    grow with the largest box: an id whose pixels are scattered over the image makes all others step
    as often. Calls cannot be interrupted.

    Equal to Cellpose 4's ``masks_to_flows_gpu`` rounded to float32. The centre is the mean pixel
    rounded half to even, or the mask pixel nearest to it, of equal ones the first in raster
    order. As in Cellpose the heat of touching cells enters the gradient at their border.
    Diffusion is in float64 up to 4e7 pixels, in float32 above.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> cellpost.masks_to_flows(np.ones((1, 3), np.uint8))[1].tolist()
    [[1.0, 0.0, -1.0]]
    """
    arrays = Arrays(labels=labels)
    ids, _ = arrays.int32_labels("labels", to_write=False)
    steps = -1 if niter is None else integer("niter", niter)
    if niter is not None and steps < 0:
        raise ValueError(f"niter: expected an integer >= 0; got {niter}")
    flows = arrays.empty((ids.ndim, *ids.shape), "float32")
    _core.masks_to_flows(ids, flows, arrays.stream, niter=steps)
    return arrays.result(flows)


def flow_error(labels: Array, dP: Array) -> Array:
    """How far each cell's shape is from the flow field it was made from.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    dP : array, (2, H, W) or (3, D, H, W), float16, bfloat16, float32 or float64
        Flow field of the network.

    Returns
    -------
    array, (n,), float64
        For each id that is present, in ascending order, the mean over its pixels of the squared
        difference between `masks_to_flows` and ``dP / 5``.

    Raises
    ------
    TypeError
        If an input is no array, has no fitting dtype, or the two are of different libraries.
    ValueError
        If shapes or devices do not fit, or there are negative ids.

    Notes
    -----
    The same bytes for any number of threads, and the same operations on CUDA: each cell's sum is
    taken row by row. Within rounding (2e-15) of Cellpose's ``flow_error``. Pixels of `dP` that are
    not finite count as zero flow.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> labels = np.ones((1, 3), np.uint8)
    >>> cellpost.flow_error(labels, 5 * cellpost.masks_to_flows(labels)).tolist()
    [0.0]
    """
    arrays = Arrays(labels=labels, dP=dP)
    ids, _ = arrays.int32_labels("labels", to_write=False)
    errors = arrays.empty((_core.count_labels(ids, arrays.stream),), "float64")
    _core.flow_error(ids, arrays["dP"], errors, arrays.stream)
    return arrays.result(errors)


def remove_bad_flows(
    labels: Array, dP: Array, *, flow_threshold: float = 0.4, return_report: bool = False
) -> Labelled:
    """Remove cells whose flow error is above a threshold.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    dP : array, (2, H, W) or (3, D, H, W), float16, bfloat16, float32 or float64
        Flow field of the network.
    flow_threshold : float
        Largest error that stays. 0 removes all cells with any error; in `follow_flows` it means
        no quality control.
    return_report : bool
        Return ``(labels, report)``.

    Returns
    -------
    array
        Same kind, device, shape and dtype as `labels`; ids stay.
    FilterReport
        With `return_report`: objects before, objects removed, pixels cleared.

    Raises
    ------
    TypeError, ValueError
        As `flow_error`; also if the threshold is NaN.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> labels = np.ones((1, 3), np.uint8)
    >>> cellpost.remove_bad_flows(labels, np.zeros((2, 1, 3), np.float32)).tolist()
    [[0, 0, 0]]
    """
    arrays = Arrays(labels=labels, dP=dP)
    threshold = number("flow_threshold", flow_threshold)

    def kernel(copy: Array, stream: int) -> Any:
        return _core.remove_bad_flows(copy, arrays["dP"], stream, flow_threshold=threshold)

    return filter_labels(arrays, return_report, kernel)


def _flow_threshold(value: float | None) -> float:
    """0 stands for no quality control."""
    return 0.0 if value is None else number("flow_threshold", value)


def _image_shape(name: str, arrays: Arrays) -> tuple[int, ...]:
    shape = tuple(int(n) for n in arrays[name].shape)
    if len(shape) not in (2, 3):
        raise ValueError(f"{name}: expected 2 axes (H, W) or 3 axes (D, H, W); got shape {shape}")
    return shape
