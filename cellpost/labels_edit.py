"""Label images resized; objects grown, shrunk, taken apart, cleared at the border.

As `cellpost.labels`: one integer id per pixel, 0 for background, gaps allowed; each function keeps
ids and dtype, and returns a new array on the device of the input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy import ndimage

from cellpost import _core
from cellpost._arrays import _INTEGER_DTYPES, Array, Arrays, dtype_name, to_host
from cellpost.labels import FilterReport, Labelled, integer, lengths_of, number, resolve_fragments

__all__ = ["clear_border", "erode_boundary", "expand_labels", "resize_labels", "split_fragments"]

Spacing: TypeAlias = float | Sequence[float]

# Name of a side: axis from the last one on, and whether it is the far end.
_SIDES = {
    "top": (-2, False),
    "bottom": (-2, True),
    "left": (-1, False),
    "right": (-1, True),
    "front": (-3, False),
    "back": (-3, True),
}


def resize_labels(labels: Array, shape: Sequence[int]) -> Array:
    """Resize a label image by nearest neighbour.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), bool or any integer dtype
        Label image; its values are copied, whatever they are.
    shape : (int, int) or (int, int, int)
        Height and width (depth, height and width) of the result in pixels, >= 0.

    Returns
    -------
    array, `shape`
        Same kind, device and dtype as `labels`, contiguous. Objects narrower than a step may be
        missing.

    Raises
    ------
    TypeError
        If `labels` is no array or neither bool nor integer, or `shape` has no integers.
    ValueError
        If `labels` has another number of axes, `shape` another one than `labels`, a length is
        negative, or an axis without pixels should get some.

    Notes
    -----
    Pixel centres are mapped on pixel centres: on each axis pixel ``i`` of ``n_out`` is pixel
    ``floor((i + 1/2) * n_in / n_out)`` of ``n_in``, in whole numbers; a centre that falls on the
    edge between two pixels takes the higher one. This is the rule of OpenCV's
    ``INTER_NEAREST_EXACT``, Pillow's ``NEAREST``, torch's ``nearest-exact`` and scikit-image's
    ``order=0``; they round with limited precision, and may differ at such edges. No id passes
    through a float. A pass over the input's rows and the result; CUDA gives the same pixels.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> cellpost.resize_labels(np.array([[1, 2, 3]], np.uint32), (2, 6)).tolist()
    [[1, 1, 2, 2, 3, 3], [1, 1, 2, 2, 3, 3]]
    >>> cellpost.resize_labels(np.array([[1, 2, 3]]), (1, 1)).tolist()
    [[2]]
    """
    arrays = Arrays(labels=labels)
    dtype = dtype_name(arrays["labels"])
    if dtype != "bool" and dtype not in _INTEGER_DTYPES:
        raise TypeError(f"labels: expected a bool or integer dtype; got {dtype}")
    old = _checked_shape(arrays["labels"])
    new = lengths_of("shape", shape, (len(old),))
    for n_in, n_out in zip(old, new, strict=True):
        if n_in == 0 < n_out:
            raise ValueError(f"labels: expected pixels to make shape {new} of; got shape {old}")
    if 0 in new:
        return arrays.result(arrays.empty(new, dtype))
    given = _signed(arrays, dtype)
    out = given
    # Less first, more last; of two alike whole rows before single pixels, or after them.
    axes = sorted(range(len(new)), key=lambda k: (new[k] / old[k], k if new[k] < old[k] else -k))
    for axis in axes:
        if new[axis] != old[axis]:
            steps = np.arange(1, 2 * new[axis], 2, dtype=np.int64)  # 2 i + 1
            places = arrays.xp.asarray(steps * old[axis] // (2 * new[axis]), device=arrays.device)
            out = arrays.xp.take(out, places, axis=axis)
    if out is given:
        out = arrays.empty(new, dtype_name(given))
        out[...] = given
    return arrays.result(out if dtype_name(out) == dtype else out.view(arrays["labels"].dtype))


def expand_labels(labels: Array, distance: float = 1, *, spacing: Spacing = 1) -> Array:
    """Grow every object into the background, without one overflowing into another.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    distance : float
        Background pixels whose middle is at most this far from the middle of an object's pixel
        become part of it; >= 0, in units of `spacing`; ``inf`` leaves no background.
    spacing : float or sequence of float
        Side of a pixel along each axis, or of all; > 0.

    Returns
    -------
    array
        Same kind, device, shape and dtype as `labels`; ids stay.

    Raises
    ------
    TypeError
        If `labels` is no array or not of an integer dtype, or `distance` or `spacing` no number.
    ValueError
        If `labels` has another number of axes or negative ids, `distance` is negative or NaN, or
        `spacing` is not positive or not of one number an axis.

    Notes
    -----
    Equal to ``skimage.segmentation.expand_labels``: each pixel takes the id of the nearest object
    pixel. Of several equally near ones that with the lowest column counts, among these the one with
    the lowest row, then plane, as ``scipy.ndimage.distance_transform_edt`` has it; with a `spacing`
    that is no whole number, distances that rounding tells apart do not tie. An image without
    objects stays as it is. SciPy computes it on the CPU, on one thread, with 4 bytes for each pixel
    and axis besides: an array on a GPU goes there and back.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> cellpost.expand_labels(np.array([[7, 0, 0, 0, 3, 0]]), 1).tolist()
    [[7, 7, 0, 3, 3, 3]]
    >>> cellpost.expand_labels(np.array([[7, 0, 3]]), 1).tolist()  # a tie
    [[7, 7, 3]]
    """
    arrays = Arrays(labels=labels)
    found, ids = arrays.int32_labels("labels", to_write=True)
    reach = number("distance", distance)
    if not reach >= 0:
        raise ValueError(f"distance: expected a number >= 0; got {distance!r}")
    sides = _spacing(spacing, len(found.shape))
    host = to_host(found)
    if reach > 0 and host.any() and not host.all():
        host = _grown(host, reach, sides)
        found = arrays.xp.asarray(host, device=arrays.device)
    return arrays.labels_as("labels", found, ids)


def _grown(labels: np.ndarray[Any, Any], reach: float, sides: list[float]) -> Any:
    empty = labels == 0
    nearest = ndimage.distance_transform_edt(
        empty, sampling=sides, return_distances=False, return_indices=True
    )
    axes = range(labels.ndim)
    for first in range(len(labels)):  # a row (plane) at a time keeps the distances in the cache
        at = [nearest[axis, first] for axis in axes]
        own = np.ogrid[tuple(slice(n) for n in labels.shape[1:])]
        squares = ((at[0] - first) * sides[0]) ** 2
        for axis in axes[1:]:  # in SciPy's order, for its rounding
            squares = squares + ((at[axis] - own[axis - 1]) * sides[axis]) ** 2
        taken = (np.sqrt(squares) <= reach) & empty[first]
        # Objects' own pixels never change, so those of earlier rows may be read after their turn.
        labels[first][taken] = labels[tuple(indices[taken] for indices in at)]
    return labels


def erode_boundary(
    labels: Array, width: int = 1, connectivity: int = 1, *, return_report: bool = False
) -> Labelled:
    """Move the pixels along the boundaries of objects to the background.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    width : int
        How many pixels deep, >= 0.
    connectivity : int
        Which neighbours count: 1: over edges (faces); up to the number of axes: over corners, too.
    return_report : bool
        Return ``(labels, report)``.

    Returns
    -------
    array
        Same kind, device, shape and dtype as `labels`; ids stay. Objects that are nowhere wide
        enough vanish; thin necks may fall into pieces (see `split_fragments`).
    FilterReport
        With `return_report`: objects before, objects that vanished, pixels cleared.

    Raises
    ------
    TypeError
        If `labels` is no array or not of an integer dtype, or a number is no integer.
    ValueError
        If `labels` has another number of axes or negative ids, `width` is negative, or
        `connectivity` is out of range.

    Notes
    -----
    A pixel stays if all pixels within `width` steps have its id; beyond the image's border there
    are none. With width 1: the label image less ``skimage.segmentation.find_boundaries`` of
    ``mode="inner"``, as MEDIAR moves boundary pixels to the background for its pretraining. Cells
    that touch are two pixels apart afterwards. A few passes over the pixels for each of `width`;
    CUDA gives the same pixels.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> cellpost.erode_boundary(np.array([[1, 1, 1, 4, 4, 4]])).tolist()
    [[1, 1, 0, 0, 4, 4]]
    """
    arrays = Arrays(labels=labels)
    found, ids = arrays.int32_labels("labels", to_write=True)
    depth, ndim = integer("width", width), len(found.shape)
    if depth < 0:
        raise ValueError(f"width: expected at least 0 pixels; got {depth}")
    near = integer("connectivity", connectivity)
    if not 1 <= near <= ndim:
        raise ValueError(f"connectivity: expected 1 to {ndim}; got {near}")
    n_before, n_pixels = _counts(arrays, found)
    for _ in range(min(depth, max(found.shape))):
        boundary = arrays.xp.zeros_like(found, dtype=arrays.xp.bool)
        for here, there in _neighbours(ndim, near):
            differs = found[here] != found[there]
            boundary[here] |= differs
            boundary[there] |= differs
        if not bool(arrays.xp.any(boundary)):
            break
        found[boundary] = 0
    n_left, n_pixels_left = _counts(arrays, found)
    out = arrays.labels_as("labels", found, ids)
    report = FilterReport(n_before, n_before - n_left, n_pixels - n_pixels_left)
    return (out, report) if return_report else out


def clear_border(
    labels: Array,
    buffer: int = 0,
    sides: str | Iterable[str] | None = None,
    *,
    return_report: bool = False,
) -> Labelled:
    """Remove the objects that touch the border of the image.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    buffer : int
        Pixels from the border within which an object still touches it, >= 0.
    sides : str or iterable of str, optional
        Which sides count, all if not given: ``"top"`` (row 0), ``"bottom"``, ``"left"``
        (column 0), ``"right"``; in 3D also ``"front"`` (plane 0) and ``"back"``.
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
    TypeError
        If `labels` is no array or not of an integer dtype, or `buffer` is no integer.
    ValueError
        If `labels` has another number of axes or negative ids, `buffer` is negative, or a side is
        unknown.

    Notes
    -----
    Equal to ``skimage.segmentation.clear_border`` where every object is in one piece. An object in
    several pieces goes as a whole, as in all of cellpost (scikit-image removes the pieces that
    touch; `split_fragments` first gives its answer). A buffer as wide as the image clears all. A
    pass over the pixels; CUDA gives the same pixels.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> image = np.array([[0, 0, 0, 0], [5, 5, 9, 0], [0, 0, 0, 0]])
    >>> cellpost.clear_border(image)[1].tolist()
    [0, 0, 9, 0]
    >>> cellpost.clear_border(image, sides="right")[1].tolist()
    [5, 5, 9, 0]
    """
    arrays = Arrays(labels=labels)
    xp = arrays.xp
    found, ids = arrays.int32_labels("labels", to_write=True)
    depth, ndim = integer("buffer", buffer) + 1, len(found.shape)
    if depth < 1:
        raise ValueError(f"buffer: expected at least 0 pixels; got {depth - 1}")
    chosen = _sides(sides, ndim)
    n_before, n_pixels = _counts(arrays, found)
    if n_before and chosen:
        slabs = []
        for axis, far in chosen:
            n = int(found.shape[axis])
            part = slice(max(n - depth, 0), n) if far else slice(0, depth)
            place = (..., part, *[slice(None)] * (-1 - axis))
            slabs.append(found[place])
        touching = xp.unique_values(xp.concat([xp.reshape(slab, (-1,)) for slab in slabs]))
        kept = xp.arange(int(xp.max(found)) + 1, dtype=xp.int32, device=arrays.device)
        kept[xp.astype(touching, xp.int64)] = 0
        found[...] = xp.reshape(xp.take(kept, xp.reshape(found, (-1,)), axis=0), found.shape)
    n_left, n_pixels_left = _counts(arrays, found)
    out = arrays.labels_as("labels", found, ids)
    report = FilterReport(n_before, n_before - n_left, n_pixels - n_pixels_left)
    return (out, report) if return_report else out


def split_fragments(labels: Array, *, return_report: bool = False) -> Labelled:
    """Make each separate piece of an object an object of its own.

    Another name of ``resolve_fragments(labels, fragments="split")``.

    Parameters
    ----------
    labels, return_report
        As `resolve_fragments` takes them.

    Returns
    -------
    array, FilterReport
        As `resolve_fragments` gives them: the first piece keeps the id.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `resolve_fragments`.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> cellpost.split_fragments(np.array([[6, 6, 0, 6]])).tolist()
    [[6, 6, 0, 7]]
    """
    return resolve_fragments(labels, fragments="split", return_report=return_report)


# ---- arguments ----------------------------------------------------------------------------------


def _checked_shape(labels: Array) -> tuple[int, ...]:
    shape = tuple(int(n) for n in labels.shape)
    if len(shape) not in (2, 3):
        raise ValueError(f"labels: expected 2 axes (H, W) or 3 axes (D, H, W); got {shape}")
    return shape


def _spacing(spacing: Any, ndim: int) -> list[float]:
    each = list(spacing) if np.ndim(spacing) else [spacing] * ndim
    sides = [number("spacing", side) for side in each]
    if len(sides) != ndim or not all(0 < side < math.inf for side in sides):
        raise ValueError(f"spacing: expected a positive number, or {ndim}; got {spacing!r}")
    return sides


def _sides(sides: str | Iterable[str] | None, ndim: int) -> list[tuple[int, bool]]:
    known = {name: side for name, side in _SIDES.items() if -side[0] <= ndim}
    if sides is None:
        return list(known.values())
    names = [sides] if isinstance(sides, str) else list(sides)
    for name in names:
        if name not in known:
            expected = ", ".join(repr(n) for n in known)
            raise ValueError(f"sides: expected some of {expected}; got {name!r}")
    return [known[name] for name in names]


# ---- pixels -------------------------------------------------------------------------------------


def _signed(arrays: Arrays, dtype: str) -> Array:
    """The labels, of torch's wide unsigned integers a signed view: CUDA has no kernels for them."""
    labels = arrays["labels"]
    if arrays.kind != "torch" or dtype not in ("uint16", "uint32", "uint64"):
        return labels
    return labels.view(getattr(arrays.xp, dtype[1:]))


def _neighbours(ndim: int, connectivity: int) -> list[tuple[Any, Any]]:
    """Pairs of slices: every pixel beside its neighbour, each pair of pixels once."""
    pairs = []
    for step in np.ndindex(*[3] * ndim):
        offset = [n - 1 for n in step]
        if 0 < sum(map(abs, offset)) <= connectivity and offset > [0] * ndim:
            here = tuple(slice(max(-n, 0), -n if n > 0 else None) for n in offset)
            there = tuple(slice(max(n, 0), n if n < 0 else None) for n in offset)
            pairs.append((here, there))
    return pairs


def _counts(arrays: Arrays, labels: Array) -> tuple[int, int]:
    """Objects and their pixels."""
    n_pixels = int(arrays.xp.count_nonzero(labels)) if 0 not in labels.shape else 0
    return int(_core.count_labels(labels, arrays.stream)), n_pixels
