"""What stands in for Cellpose's functions: faster where the result is the same, else their own.

A stand-in takes the original function and the original's arguments by name. Where it cannot give
the original's result it raises `Unlike`, before anything is written to, and the original is called.

Cellpose's releases differ in how points move and where a cell's centre is, and the bits of a step
hang on PyTorch's build and the CPU. So the stand-ins of both are tried on a small image first, once
in a process, beside the functions that they stand in for.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellpost import metrics
from cellpost._arrays import Array
from cellpost.flows import flow_endpoints, flow_error, masks_to_flows
from cellpost.overlaps import count_pairs

__all__ = ["STAND_INS", "Unlike"]

_Function = Callable[..., Any]

# Errors agree to 1e-12, in float32 (images above 4e7 pixels) to 1e-8: a decision closer than this
# is Cellpose's own.
_UNDECIDED = 1e-7


class Unlike(Exception):
    """Says why the original has to do it."""


def follow_flows(
    original: _Function,
    *,
    dP: Array,
    inds: Any,
    niter: Any,
    device: Any,
    interp: bool = True,
) -> Array:
    """End points; Cellpose's argument is the field divided by 5, zero off the points."""
    _on_cpu(device)
    _float32("dP", dP)
    _only(interp, "interp is False")
    _only(len(inds) == len(dP) == dP.ndim - 1, "axes and components differ")
    _only(min(dP.shape) > 1, "an axis has one pixel")
    _only(isinstance(niter, (int, np.integer)) and niter >= 0, "niter is no count")
    try:
        points = np.ravel_multi_index(inds, dP.shape[1:])
    except (TypeError, ValueError):
        raise Unlike("points lie outside the image") from None
    _only(len(points) > 0, "there are no points")
    mask = np.zeros(dP.shape[1:], bool)
    mask.reshape(-1)[points] = True
    _only(np.array_equal(np.flatnonzero(mask), points), "points are in no raster order")
    # What came from a division by 5 is found again exactly: float32 has no other number near.
    field = dP * mask
    field *= np.float32(5)
    _only(np.isfinite(field).all(), "the flow is not finite")
    _only(np.array_equal(field / np.float32(5), dP), "there is flow that is nobody's fifth")
    _only(_steps_alike(original, len(inds)), "its points move in another way")
    import torch

    return torch.from_numpy(flow_endpoints(field, mask, niter=int(niter)))


def remove_bad_flow_masks(
    original: _Function, *, masks: Array, flows: Array, threshold: Any, device: Any
) -> Array:
    """Quality control: the errors are cellpost's, what follows from them Cellpose's own code."""
    _on_cpu(device)
    _float32("flows", flows)
    _label_image(masks, (2,))
    _only(flows.shape == (2, *masks.shape), "flows and masks differ in shape")
    _only(np.isfinite(flows).all(), "the flow is not finite")
    _only(isinstance(threshold, (int, float, np.number)), "threshold is no number")
    _only(_errors_alike(original), "its flows of a mask are others")
    errors = flow_error(masks, flows)
    _only(0 < len(errors) == int(masks.max()), "ids have gaps")
    _only(np.abs(errors - threshold).min() > _UNDECIDED, "an error is at the threshold")
    return _rebound(original, flow_error=lambda *_: (errors, None))(masks, flows, threshold, device)


def labels_to_flows(original: _Function, *, device: Any, **arguments: Any) -> Any:
    """Targets: Cellpose's own code, which stores flows as float32, with cellpost's flows."""
    _on_cpu(device)
    result = _targets_alike(original)
    _only(result is not None, "its flows of a mask are others")

    def targets(masks: Array, device: Any = None, niter: Any = None) -> Any:
        flows = masks_to_flows(masks, niter=niter)
        return (flows, None) if result == "tuple" else flows

    return _rebound(original, masks_to_flows_gpu=targets)(device=device, **arguments)


def stitch3D(original: _Function, *, masks: Array, stitch_threshold: Any) -> Array:
    """Numbers of the objects of the plane before: sparse, where Cellpose fills a matrix."""
    _label_image(masks, (3,))
    most = [int(plane.max(initial=0)) for plane in masks]
    # Numbers grow by at most an object each; near the end of a dtype releases differ.
    _only(sum(most) <= np.iinfo(masks.dtype).max - 5, "numbers may outgrow their dtype")
    n_numbers, linked = most[0] if most else 0, False
    for z in range(1, len(masks)):
        if not linked and 0 in (most[z - 1], most[z]):  # as theirs: numbers start anew
            n_numbers = most[z]
            continue
        linked = True
        numbers = _continued(masks[z], masks[z - 1], most[z], stitch_threshold)
        new = np.flatnonzero(numbers == 0)[1:]
        numbers[new] = n_numbers + 1 + np.arange(len(new))
        n_numbers += len(new)
        masks[z] = numbers[masks[z]]
    return masks


def average_precision(
    original: _Function, *, masks_true: Any, masks_pred: Any, threshold: Any
) -> tuple[NDArray[np.float32], ...]:
    """Matched pairs from the sparse table of overlaps."""
    several = isinstance(masks_true, list)
    if not several:
        masks_true, masks_pred = [masks_true], [masks_pred]
    _only(len(masks_true) == len(masks_pred), "there are more images of one kind")
    pairs = list(zip(masks_true, masks_pred, strict=True))
    thresholds = np.atleast_1d(np.asarray(threshold, np.float64))
    _only(thresholds.ndim == 1 and thresholds.size > 0, "thresholds are no list")
    _only(((thresholds > 0) & (thresholds <= 1)).all(), "a threshold is no IoU")
    tp, fp, fn = (np.zeros((len(pairs), len(thresholds)), np.float32) for _ in range(3))
    for n, (true, pred) in enumerate(pairs):
        for labels in (true, pred):
            _label_image(labels, (2, 3))
            # Releases differ in how they count objects without a background or with gaps.
            _only(labels.size > 0 and int(labels.min()) == 0, "there is no background")
        _only(true.shape == pred.shape, "shapes differ")
        found = metrics.match(true, pred, thresholds.tolist())
        for k, match in enumerate(found):
            _only(match.n_true == int(true.max()), "ids have gaps")
            _only(match.n_pred == int(pred.max()), "ids have gaps")
            tp[n, k], fp[n, k], fn[n, k] = match.tp, match.fp, match.fn
    ap = tp / (tp + fp + fn)
    return (ap, tp, fp, fn) if several else (ap[0], tp[0], fp[0], fn[0])


STAND_INS: dict[str, tuple[_Function, ...]] = {
    "cellpose.dynamics": (follow_flows, remove_bad_flow_masks, labels_to_flows),
    "cellpose.metrics": (average_precision,),
    "cellpose.utils": (stitch3D,),
}


# ---- conditions ---------------------------------------------------------------------------------


def _only(holds: bool | np.bool_, otherwise: str) -> None:
    if not holds:
        raise Unlike(otherwise)


def _on_cpu(device: Any) -> None:
    """Cellpose takes None for the GPU, if there is one."""
    import torch

    if device is None:
        here = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    else:
        here = torch.device(device).type == "cpu"
    _only(here, "it runs on a GPU")


def _float32(name: str, array: Any) -> None:
    is_it = isinstance(array, np.ndarray) and array.dtype == np.float32
    _only(is_it, f"{name} is no float32 ndarray")


def _label_image(labels: Any, axes: tuple[int, ...]) -> None:
    is_it = type(labels) is np.ndarray and labels.dtype.kind in "iu" and labels.ndim in axes
    _only(is_it, "masks are no label image")
    _only(labels.dtype.kind == "u" or int(labels.min(initial=0)) >= 0, "there are negative ids")


# ---- parts --------------------------------------------------------------------------------------


def _rebound(function: _Function, **names: _Function) -> _Function:
    """The same code, to which these names mean other functions."""
    return types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def _continued(
    plane: NDArray[Any], before: NDArray[Any], largest: int, threshold: float
) -> NDArray[np.int64]:
    """The number that each id 0..largest of a plane continues, 0 for none.

    A number goes to the objects with the largest IoU; of several numbers an object takes the one
    with the largest IoU, then the lowest.
    """
    numbers = np.zeros(largest + 1, np.int64)
    pairs = count_pairs(plane=plane, before=before)
    iou, new, old = pairs.iou(), pairs.a, pairs.b
    best = np.zeros(len(pairs.ids_b))
    np.maximum.at(best, old, iou)
    stays = ~(iou < threshold) & (iou >= best[old])
    iou, new, old = iou[stays], new[stays], old[stays]
    order = np.lexsort((-old, iou))  # the last one written is the one that counts
    numbers[pairs.ids_a[new[order]]] = pairs.ids_b[old[order]]
    return numbers


# ---- trials -------------------------------------------------------------------------------------


def _trial(ndim: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Labels and noisy flows of some cells that touch."""
    shape = (41, 53) if ndim == 2 else (13, 17, 19)
    rng = np.random.default_rng(0)
    grid = np.indices(shape)
    labels = np.zeros(shape, np.int32)
    for _ in range(12):
        middle = [rng.uniform(0, n) for n in shape]
        radii = rng.uniform(3, 8, ndim)
        inside = sum(((g - m) / r) ** 2 for g, m, r in zip(grid, middle, radii, strict=True)) < 1
        labels[inside] = labels.max() + 1
    labels = np.unique(labels, return_inverse=True)[1].reshape(shape).astype(np.int32)
    noise = rng.standard_normal((ndim, *shape), np.float32)
    return labels, np.float32(5) * masks_to_flows(labels) + noise


@functools.cache
def _steps_alike(original: _Function, ndim: int) -> bool:
    import torch

    labels, flows = _trial(ndim)
    mask = labels > 0
    field = flows * mask / 5.0
    theirs = original(field, np.nonzero(mask), niter=50, device=torch.device("cpu"))
    return np.array_equal(np.asarray(theirs), flow_endpoints(flows, mask, niter=50))


@functools.cache
def _errors_alike(remove_bad_flow_masks: _Function) -> bool:
    import torch

    original = remove_bad_flow_masks.__globals__.get("flow_error")
    if original is None:
        return False
    labels, flows = _trial(2)
    theirs = original(labels, flows, torch.device("cpu"))[0]
    return np.allclose(theirs, flow_error(labels, flows), rtol=1e-9, atol=0)


@functools.cache
def _targets_alike(labels_to_flows: _Function) -> str | None:
    """What the function returns that computes flows, "tuple" or "array"; None: other flows."""
    import torch

    original = labels_to_flows.__globals__["masks_to_flows_gpu"]
    if "masks_to_flows_gpu" not in labels_to_flows.__code__.co_names:
        return None
    labels, _ = _trial(2)
    theirs = original(labels.astype(int), device=torch.device("cpu"))
    several = isinstance(theirs, tuple)
    flows = np.asarray(theirs[0] if several else theirs, np.float32)
    if not np.array_equal(flows, masks_to_flows(labels)):
        return None
    return "tuple" if several else "array"
