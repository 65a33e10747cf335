"""Label images: hole filling, size filters, fragments, numbering.

A label image holds one integer id per pixel, 0 for background. Ids may have gaps and any
integer dtype; every function keeps both, and returns a new array on the device of the input.
All work on images (H, W) and volumes (D, H, W).
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from cellpost import _core
from cellpost._arrays import Array, Arrays

__all__ = [
    "FilterReport",
    "fill_holes",
    "label",
    "relabel",
    "remove_large",
    "remove_small",
    "resolve_fragments",
]


@dataclass(frozen=True)
class FilterReport:
    """What a filter of a label image did.

    Attributes
    ----------
    n_before : int
        Objects in the input.
    n_removed : int
        Objects that the filter removed; of `resolve_fragments` the pieces dropped or added.
    n_pixels : int
        Pixels that it cleared or filled.
    """

    n_before: int
    n_removed: int
    n_pixels: int


Labelled: TypeAlias = Array | tuple[Array, FilterReport]


def choose(name: str, value: Any, choices: type[Any]) -> Any:
    """The member of an enum that an argument names, or a ValueError that lists them."""
    names = [str(member.name) for member in choices]
    if value not in names:
        expected = ", ".join(repr(n) for n in names)
        raise ValueError(f"{name}: expected one of {expected}; got {value!r}")
    return choices[value]


def integer(name: str, value: Any) -> int:
    """An integer argument, or a TypeError or ValueError that names it."""
    try:
        n = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer; got {value!r}") from None
    if not -(2**63) <= n < 2**63:
        raise ValueError(f"{name}: expected an integer of at most 64 bits; got {n}")
    return n


def number(name: str, value: Any) -> float:
    """A real argument, or a TypeError that names it."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number; got {value!r}") from None


def lengths_of(name: str, shape: Any, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Lengths of a shape of so many axes, or an error that names it."""
    try:
        lengths = tuple(shape)
    except TypeError:
        raise TypeError(f"{name}: expected several integers; got {shape!r}") from None
    if len(lengths) not in axes:
        expected = " or ".join(map(str, axes))
        raise ValueError(f"{name}: expected {expected} lengths; got {lengths}")
    lengths = tuple(integer(name, n) for n in lengths)
    if min(lengths) < 0:
        raise ValueError(f"{name}: expected lengths >= 0; got {lengths}")
    return lengths


def filter_labels(arrays: Arrays, return_report: bool, kernel: Any, **options: Any) -> Labelled:
    """Run a kernel that filters labels in place on a copy, and give the copy back as they came."""
    copy, ids = arrays.int32_labels("labels", to_write=True)
    report = FilterReport(**kernel(copy, arrays.stream, **options))
    labels = arrays.labels_as("labels", copy, ids)
    return (labels, report) if return_report else labels


def label(mask: Array, *, connectivity: int = 1, out_dtype: Any = None) -> Array:
    """Number the connected components of a mask.

    Parameters
    ----------
    mask : array, (H, W) or (D, H, W), bool or any integer dtype
        Not 0 is foreground.
    connectivity : int
        1: pixels touch over edges (faces); up to the number of axes: over corners, too.
    out_dtype : dtype, optional
        Integer dtype of the result; int32 if not given.

    Returns
    -------
    array
        Labels 1..N in raster order of the components' first pixels, 0 is background; of the kind
        and on the device of `mask`.

    Raises
    ------
    TypeError
        If `mask` is no array, or neither bool nor integer, or `out_dtype` is no integer dtype.
    ValueError
        If `mask` has another number of axes, or `connectivity` is out of range.
    OverflowError
        If `out_dtype` cannot hold N.

    Notes
    -----
    Equal to ``scipy.ndimage.label``, ids included. Runs of foreground pixels are united by
    union-find (20 bytes each): time linear in the pixels, on all threads. CUDA runs the same
    operations.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> cellpost.label(np.array([[1, 0], [0, 1]])).tolist()
    [[1, 0], [0, 2]]
    >>> cellpost.label(np.array([[1, 0], [0, 1]]), connectivity=2).tolist()
    [[1, 0], [0, 1]]
    """
    arrays = Arrays(mask=mask)
    inside = arrays.bool_mask("mask")
    labels = arrays.empty(tuple(inside.shape), "int32")
    near = integer("connectivity", connectivity)
    n_labels = _core.label(inside, labels, arrays.stream, connectivity=near)
    return arrays.labels_result(labels, n_labels, out_dtype)


def fill_holes(
    labels: Array,
    *,
    nested: Literal["keep", "overwrite"] = "keep",
    max_size: int | None = None,
    return_report: bool = False,
) -> Labelled:
    """Fill the holes of every object.

    A hole of an object is a 4-connected (6-connected in 3D) set of pixels that are not of the
    object and that its bounding box's border cannot be reached from: per object the answer of
    ``scipy.ndimage.binary_fill_holes``.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    nested : {"keep", "overwrite"}
        What happens to objects that lie in a hole of another. ``"keep"``: they stay, and a
        background pixel that several objects enclose goes to the one with the smallest (bounding
        box, id). ``"overwrite"``: as Cellpose does, objects are filled in ascending order of id,
        each on the state its predecessors left, and everything inside becomes part of them.
    max_size : int, optional
        Largest hole that is filled, >= 0, in pixels of connected background (objects in the hole
        do not count); of any size if not given. Only with ``nested="keep"``.
    return_report : bool
        Return ``(labels, report)``.

    Returns
    -------
    array
        Same kind, device, shape and dtype as `labels`; ids stay.
    FilterReport
        With `return_report`: ``n_before`` objects, ``n_removed`` of them overwritten whole,
        ``n_pixels`` filled (with ``"overwrite"`` once for each object that fills a pixel).

    Raises
    ------
    TypeError
        If `labels` is no array or not of an integer dtype, or `max_size` is no integer.
    ValueError
        If `labels` has another number of axes, negative ids, `nested` is unknown, or `max_size` is
        negative or given with ``nested="overwrite"``.

    Notes
    -----
    An empty image stays empty. An object whose hole opens to the image border has none. The cost
    is the sum of the bounding boxes at one bit a pixel, in mazes a few times that; `max_size` adds
    a numbering of the holes, linear in the pixels. CUDA runs the same operations.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> ring = np.ones((3, 3), np.uint8)
    >>> ring[1, 1] = 0
    >>> int(cellpost.fill_holes(ring)[1, 1])
    1
    >>> int(cellpost.fill_holes(ring, max_size=0)[1, 1])
    0
    """
    arrays = Arrays(labels=labels)
    mode = choose("nested", nested, _core.Nested)
    if max_size is None:
        return filter_labels(arrays, return_report, _core.fill_holes, nested=mode)
    largest = integer("max_size", max_size)
    if largest < 0:
        raise ValueError(f"max_size: expected at least 0 pixels; got {largest}")
    if mode != _core.Nested.keep:
        raise ValueError(f"max_size: expected None with nested={nested!r}; got {largest}")

    def fill_small_holes(copy: Array, stream: int) -> dict[str, int]:
        hollow = copy == 0
        report = _core.fill_holes(copy, stream, nested=mode)
        # All of a piece of background is filled by the same object, or none of it.
        holes = arrays.empty(tuple(copy.shape), "int32")
        _core.label(hollow & (copy != 0), holes, stream, connectivity=1)
        n_pixels = math.prod(copy.shape)
        opened = _core.remove_small(holes, stream, min_size=min(largest, n_pixels) + 1)
        n_kept = report["n_pixels"] - opened["n_pixels"]
        copy[holes != 0] = 0
        return {**report, "n_pixels": report["n_pixels"] - n_kept}

    return filter_labels(arrays, return_report, fill_small_holes)


def remove_small(labels: Array, *, min_size: int = 15, return_report: bool = False) -> Labelled:
    """Remove objects of fewer than `min_size` pixels.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    min_size : int
        Smallest size that stays, in pixels; with 1 or less nothing is removed.
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
        If `labels` is no array or not of an integer dtype, or `min_size` is no integer.
    ValueError
        If `labels` has another number of axes or negative ids.

    Notes
    -----
    Unlike skimage's function it counts an object's pixels wherever they are: connectivity plays no
    part. The time is linear in the pixels. CUDA runs the same operations.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> cellpost.remove_small(np.array([[1, 1, 0, 2]]), min_size=2).tolist()
    [[1, 1, 0, 0]]
    """
    arrays = Arrays(labels=labels)
    return filter_labels(
        arrays, return_report, _core.remove_small, min_size=integer("min_size", min_size)
    )


def remove_large(
    labels: Array, *, max_size_fraction: float = 0.4, return_report: bool = False
) -> Labelled:
    """Remove objects that cover more than a fraction of the image.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    max_size_fraction : float
        Objects of more than ``max_size_fraction * labels.size`` pixels go; >= 0.
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
        If `labels` is no array or not of an integer dtype.
    ValueError
        If `labels` has another number of axes or negative ids, or the fraction is negative or NaN.

    Notes
    -----
    Like `remove_small` it counts an object's pixels wherever they are, in time linear in the
    pixels. CUDA runs the same operations.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> cellpost.remove_large(np.array([[1, 1, 1, 2]]), max_size_fraction=0.5).tolist()
    [[0, 0, 0, 2]]
    """
    arrays = Arrays(labels=labels)
    fraction = number("max_size_fraction", max_size_fraction)
    return filter_labels(arrays, return_report, _core.remove_large, max_size_fraction=fraction)


def resolve_fragments(
    labels: Array,
    *,
    fragments: Literal["keep", "largest", "split"] = "largest",
    return_report: bool = False,
) -> Labelled:
    """Deal with objects that consist of several separate pieces.

    Pieces are separate if they do not touch, not even at a corner (8-connectivity, 26 in 3D).

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    fragments : {"keep", "largest", "split"}
        ``"largest"`` keeps the largest piece of each object, of equal ones the first in raster
        order. ``"split"`` makes each piece an object: the first in raster order keeps the id, the
        others get ids above the largest, in raster order. ``"keep"`` changes nothing.
    return_report : bool
        Return ``(labels, report)``.

    Returns
    -------
    array
        Same kind, device, shape and dtype as `labels`.
    FilterReport
        With `return_report`: ``n_before`` objects, ``n_removed`` pieces dropped (``"largest"``)
        or made objects (``"split"``), ``n_pixels`` cleared (``"split"`` clears none).

    Raises
    ------
    TypeError
        If `labels` is no array or not of an integer dtype.
    ValueError
        If `labels` has another number of axes or negative ids, or `fragments` is unknown.
    OverflowError
        If the dtype of `labels` cannot hold the new ids.

    Notes
    -----
    Time linear in the pixels, and 30 bytes of scratch for each run of pixels of one label in a
    row. CUDA runs the same operations.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> cellpost.resolve_fragments(np.array([[1, 1, 0, 1]]), fragments="split").tolist()
    [[1, 1, 0, 2]]
    """
    arrays = Arrays(labels=labels)
    mode = choose("fragments", fragments, _core.Fragments)
    return filter_labels(arrays, return_report, _core.resolve_fragments, fragments=mode)


def relabel(labels: Array, *, out_dtype: Any = None) -> Array:
    """Number the objects 1..N without gaps, in raster order of their first pixels.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    out_dtype : dtype, optional
        Integer dtype of the result; int32 if not given.

    Returns
    -------
    array
        Label image of the kind and on the device of `labels`.

    Raises
    ------
    TypeError
        If `labels` is no array or not of an integer dtype, or `out_dtype` is no integer dtype.
    ValueError
        If `labels` has another number of axes or negative ids.
    OverflowError
        If `out_dtype` cannot hold N.

    Notes
    -----
    Time linear in the pixels. Tables take about 70 bytes an id up to the largest one; ids so
    sparse that these would dwarf the image (above 4 times the pixels + 2**20) or that int32 cannot
    hold are sorted first. CUDA runs the same operations.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> cellpost.relabel(np.array([[7, 0, 3, 7]])).tolist()
    [[1, 0, 2, 1]]
    """
    arrays = Arrays(labels=labels)
    copy, _ = arrays.int32_labels("labels", to_write=True)
    n_labels = _core.relabel(copy, arrays.stream)
    return arrays.labels_result(copy, n_labels, out_dtype)
