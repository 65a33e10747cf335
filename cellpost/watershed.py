"""Watershed from markers, and the morphology of masks that goes before it.

From HoVer maps to markers and labels: `cellpost.watershed_hover`. Components and clean-up:
`cellpost.labels`.
"""

from __future__ import annotations

from typing import Literal

from cellpost import _core
from cellpost._arrays import Array, Arrays
from cellpost.labels import choose, integer

__all__ = ["binary_fill_holes", "binary_opening", "watershed"]


def watershed(
    energy: Array, markers: Array, *, mask: Array | None = None, connectivity: int = 1
) -> Array:
    """Flood an image from markers, lowest energy first.

    Parameters
    ----------
    energy : array, (H, W) or (D, H, W), any real dtype
        What decides the order: compared, never computed with.
    markers : array, shape, library and device of `energy`, any integer dtype
        Ids >= 0 of the markers, 0 elsewhere; gaps and several pieces of one id are allowed. Those
        outside the mask are dropped.
    mask : array, shape, library and device of `energy`, bool or integer, optional
        Pixels to flood; all if not given.
    connectivity : int
        1: over edges (faces); up to the number of axes: over corners, too.

    Returns
    -------
    array
        Labels of the kind, device and dtype of `markers`. Pixels outside the mask, and components
        of the mask without a marker, are 0.

    Raises
    ------
    TypeError
        If an input is no array or has no fitting dtype, or they are of different libraries.
    ValueError
        If shapes or devices do not fit, an id is negative, or `connectivity` is out of range.

    Notes
    -----
    As scikit-image 0.25.2 and later: a pixel's level is the larger of its energy and of the level
    it was reached from; pixels are taken by (level, age), and give their label to the neighbours
    that have none, nearest first, then in raster order. Where scikit-image leaves the order open,
    among markers of equal energy, raster order decides. NaN is flooded last, and -0 equals 0.

    Components of the mask are flooded at the same time, each by a queue of its own, which gives
    the same answer as one for all: time n log n in the pixels of components with several markers,
    linear in all others; a component as large as the image occupies one thread. Scratch: up to 60
    bytes for each run of the mask's pixels in a row, and 24 for each pixel at the front of a
    component at work, in pure noise up to all of them. CUDA runs the same operations, with 32 bytes
    for each pixel of components with several markers.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> cellpost.watershed(np.array([[0, 1, 3, 2, 0]]), np.array([[1, 0, 0, 0, 2]])).tolist()
    [[1, 1, 1, 2, 2]]
    """
    if mask is None:
        arrays = Arrays(energy=energy, markers=markers)
        shape = tuple(arrays["energy"].shape)
        inside = arrays.xp.broadcast_to(arrays.ones_bool(), shape)
    else:
        arrays = Arrays(energy=energy, markers=markers, mask=mask)
        inside = arrays.bool_mask("mask")
    labels, ids = arrays.int32_labels("markers", to_write=True)
    _core.watershed(
        arrays["energy"],
        inside,
        labels,
        arrays.stream,
        connectivity=integer("connectivity", connectivity),
    )
    return arrays.labels_as("markers", labels, ids)


def binary_fill_holes(mask: Array, *, connectivity: int = 1) -> Array:
    """Set the background that cannot be left for the border of the image.

    Parameters
    ----------
    mask : array, (H, W) or (D, H, W), bool or integer
        Not 0 is foreground.
    connectivity : int
        Of the background: 1 over edges (faces), as SciPy; up to the number of axes: over corners,
        too, as MONAI's ``FillHoles``.

    Returns
    -------
    array, bool
        Of the kind and on the device of `mask`.

    Raises
    ------
    TypeError
        If `mask` is no array, or neither bool nor integer.
    ValueError
        If `mask` has another number of axes, or `connectivity` is out of range.

    Notes
    -----
    Equal to ``scipy.ndimage.binary_fill_holes``. Time linear in the pixels. For holes of each
    object of a label image see `fill_holes`.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> ring = np.ones((3, 3), bool)
    >>> ring[1, 1] = False
    >>> bool(cellpost.binary_fill_holes(ring).all())
    True
    """
    arrays = Arrays(mask=mask)
    inside = arrays.bool_mask("mask")
    out = arrays.empty(tuple(inside.shape), "bool")
    near = integer("connectivity", connectivity)
    _core.binary_fill_holes(inside, out, arrays.stream, connectivity=near)
    return arrays.result(out)


def binary_opening(
    mask: Array, *, radius: int = 2, footprint: Literal["ellipse", "disk"] = "disk"
) -> Array:
    """Remove what a footprint does not fit into: erosion, then dilation.

    Parameters
    ----------
    mask : array, (H, W), bool or integer
        Not 0 is foreground.
    radius : int
        Of the footprint, 0 to 31 pixels.
    footprint : {"disk", "ellipse"}
        The pixels within `radius` of the middle, as ``skimage.morphology.disk``, or the ellipse of
        ``cv2.getStructuringElement``, which is a little fuller.

    Returns
    -------
    array, (H, W), bool
        Of the kind and on the device of `mask`.

    Raises
    ------
    TypeError
        If `mask` is no array, or neither bool nor integer, or `radius` is no integer.
    ValueError
        If `mask` has another number of axes, or an option is out of range.

    Notes
    -----
    What lies outside the image does not erode. Equal to ``cv2.morphologyEx`` and, where the
    footprint is smaller than the image, to ``skimage.morphology.opening``; 64 pixels an operation.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> line = np.zeros((7, 7), bool)
    >>> line[3] = True
    >>> bool(cellpost.binary_opening(line, radius=1).any())
    False
    """
    arrays = Arrays(mask=mask)
    inside = arrays.bool_mask("mask")
    out = arrays.empty(tuple(inside.shape), "bool")
    _core.binary_opening(
        inside,
        out,
        arrays.stream,
        radius=integer("radius", radius),
        footprint=choose("footprint", footprint, _core.FootprintShape),
    )
    return arrays.result(out)
