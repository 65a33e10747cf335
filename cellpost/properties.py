"""What is known of each cell of a label image: place, size, shape, type, outline.

Tables have a row for each object that is present, in ascending order of id; their columns are
arrays of the kind and on the device of the labels.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from cellpost import _core
from cellpost._arrays import Array, Arrays, dtype_name, to_host
from cellpost.labels import integer

__all__ = ["InstanceTable", "contours", "instance_table", "instance_types", "properties"]


def properties(
    labels: Array, intensity: Array | None = None, *, extra: Iterable[str] = ()
) -> dict[str, Array]:
    """Measure every object.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    intensity : array, shape, library and device of `labels`, float or integer, optional
        Image whose values are summed up, in float64.
    extra : iterable of str
        Further columns, by scikit-image's names (``"solidity"``, ``"feret_diameter_max"`` ...).
        scikit-image measures them, one object after the other, on the CPU, as NumPy arrays.

    Returns
    -------
    dict of array
        Named as scikit-image's ``regionprops``: ``label`` (n,); ``area`` (n,) in pixels; ``bbox``
        (n, 4) or (n, 6), lowest row and column (plane first), then one past the highest;
        ``centroid`` (n, 2) or (n, 3), row and column of the mean pixel; in 2D also
        ``axis_major_length``, ``axis_minor_length`` and ``perimeter`` in pixels, ``eccentricity``,
        and ``orientation`` in radians; with `intensity` also ``intensity_mean``, ``intensity_min``,
        ``intensity_max``.

    Raises
    ------
    TypeError
        If an input is no array or has no fitting dtype, or the two are of different libraries.
    ValueError
        If shapes or devices do not fit, or there are negative ids.
        Also if scikit-image does not know an extra column.
    ImportError
        If there are extra columns and scikit-image is not installed.

    Notes
    -----
    Equal to scikit-image's of a float64 image within rounding (1e-9 relative), in time linear in
    the pixels, or with `intensity` in the bounding boxes. Objects of millions of pixels a side have
    NaN for axes, eccentricity and orientation. Sums are of integers, or taken in raster order: no
    rounding depends on threads. An object that holds a NaN has NaN intensities. An image without
    objects gives empty columns. CUDA runs the same operations.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> table = cellpost.properties(np.array([[1, 1, 0, 5]]))
    >>> table["label"].tolist(), table["area"].tolist(), table["centroid"].tolist()
    ([1, 5], [2, 1], [[0.0, 0.5], [0.0, 3.0]])
    """
    given = {"labels": labels} if intensity is None else {"labels": labels, "intensity": intensity}
    arrays = Arrays(**given)
    found, ids = arrays.int32_labels("labels", to_write=False)
    n = _core.count_labels(found, arrays.stream)
    values = None if intensity is None else arrays["intensity"]
    if values is not None and "int" in dtype_name(values):
        values = arrays.xp.astype(values, arrays.xp.float64)
    table = _measured(arrays, found, ids, n, values)
    table.update(_by_scikit_image(found, intensity, extra))
    return table


def _measured(
    arrays: Arrays, labels: Array, ids: Array | None, n: int, intensity: Array | None
) -> dict[str, Array]:
    """The columns of `properties`; `n` objects, whose ids may have been replaced by ranks."""
    ndim = len(labels.shape)
    out = {
        "label": arrays.empty((n,), "int32"),
        "area": arrays.empty((n,), "int64"),
        "bbox": arrays.empty((n, 2 * ndim), "int64"),
        "centroid": arrays.empty((n, ndim), "float64"),
        "covariance": arrays.empty((n, ndim, ndim), "float64"),
    }
    if ndim == 2:
        out["perimeter"] = arrays.empty((n,), "float64")
    if intensity is not None:
        for name in ("intensity_mean", "intensity_min", "intensity_max"):
            out[name] = arrays.empty((n,), "float64")
    _core.measure_objects(labels, intensity, out, arrays.stream)
    if ids is not None:
        out["label"] = ids[arrays.xp.astype(out["label"], arrays.xp.int64)]
    covariance = out.pop("covariance")
    if ndim == 2:
        out.update(_ellipse(arrays.xp, covariance))
    return {name: arrays.result(column) for name, column in out.items()}


def _ellipse(xp: Any, covariance: Array) -> dict[str, Array]:
    """Axes, eccentricity and orientation of the ellipses that have these second moments."""
    yy, xx, xy = covariance[:, 0, 0], covariance[:, 1, 1], covariance[:, 0, 1]
    middle = (yy + xx) / 2
    spread = xp.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    major, minor = middle + spread, xp.where(middle > spread, middle - spread, 0 * middle)
    positive = xp.where(major > 0, major, 1 + 0 * major)
    # as scikit-image: from the rows' axis; a round object's is -pi / 4
    angle = xp.atan2(-2 * xy, yy - xx) / 2
    quarter = xp.where(xy > 0, 0 * xy + np.pi / 4, 0 * xy - np.pi / 4)
    return {
        "axis_major_length": 4 * xp.sqrt(xp.where(major > 0, major, 0 * major)),
        "axis_minor_length": 4 * xp.sqrt(minor),
        "eccentricity": xp.where(major > 0, xp.sqrt(1 - minor / positive), 0 * major),
        "orientation": xp.where(yy == xx, quarter, -angle),
    }


def _by_scikit_image(labels: Array, intensity: Array | None, extra: Iterable[str]) -> Any:
    if isinstance(extra, str):
        raise TypeError(f"extra: expected several names; got the string {extra!r}")
    names = tuple(extra)
    if not names:
        return {}
    measure = importlib.import_module("skimage.measure")

    image = None if intensity is None else to_host(intensity)
    try:
        return measure.regionprops_table(to_host(labels), image, properties=names)
    except AttributeError as error:
        raise ValueError(f"extra: expected names that scikit-image knows; {error}") from None


def instance_types(
    labels: Array, types: Array, *, n_types: int | None = None
) -> tuple[Array, Array]:
    """Find the type of each cell by majority of its pixels.

    Parameters
    ----------
    labels : array, (H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    types : array, (H, W) integer, or (C, H, W) float, of the same library and device
        Type of each pixel, 0 for background, or a channel of probabilities (or logits) for each
        type, of which the largest counts, the first of equals; NaN does not count.
    n_types : int, optional
        Number of types with background, up to 4096; if not given, of a map its largest value + 1.

    Returns
    -------
    types : array, (n,), int32
        Of each object that is present, in ascending order of id: the most frequent type, the
        smallest of equally frequent ones, and 0 only where there is no other.
    probabilities : array, (n,), float64
        The type's share in the object's pixels: pixels / (all pixels + 1e-6), as HoVer-Net.

    Raises
    ------
    TypeError
        If an input is no array or has no fitting dtype, or the two are of different libraries.
    ValueError
        If shapes or devices do not fit, an id is negative, or a type is out of range.

    Notes
    -----
    As HoVer-Net's and MONAI's ``type`` and ``type_prob``. Time linear in the bounding boxes. CUDA
    runs the same operations.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> labels = np.array([[1, 1, 1, 0, 2]])
    >>> types, share = cellpost.instance_types(labels, np.array([[0, 0, 3, 0, 0]]))
    >>> types.tolist(), share.round(3).tolist()
    ([3, 0], [0.333, 1.0])
    """
    arrays = Arrays(labels=labels, types=types)
    found, _ = arrays.int32_labels("labels", to_write=False)
    return _typed(arrays, found, _core.count_labels(found, arrays.stream), n_types)


def _typed(
    arrays: Arrays, labels: Array, n_objects: int, n_types: int | None
) -> tuple[Array, Array]:
    pixels = arrays["types"]
    if len(pixels.shape) == 3:
        if "float" not in dtype_name(pixels):
            raise TypeError(
                "types: expected (H, W) integers or (C, H, W) of a float dtype; got "
                f"{dtype_name(pixels)} of shape {tuple(pixels.shape)}"
            )
        n = int(pixels.shape[0])
        if n_types is not None and integer("n_types", n_types) != n:
            raise ValueError(f"n_types: expected the channels of types, {n}; got {n_types}")
    else:
        pixels, ids = arrays.int32_labels("types", to_write=False)
        if ids is not None:
            raise ValueError("types: expected small numbers of types; got very large ones")
        n = _core.largest_label(pixels, arrays.stream) + 1
        if n_types is not None:
            n = integer("n_types", n_types)
    best, share = arrays.empty((n_objects,), "int32"), arrays.empty((n_objects,), "float64")
    _core.instance_types(labels, pixels, best, share, arrays.stream, n_types=n)
    return arrays.result(best), arrays.result(share)


def contours(labels: Array) -> tuple[Array, Array]:
    """Outlines of all cells along pixel edges.

    Parameters
    ----------
    labels : array, (H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.

    Returns
    -------
    offsets : array, (n + 1,), int64
        The outline of object i, in ascending order of id, is
        ``points[offsets[i]:offsets[i + 1]]``.
    points : array, (m, 2), int32
        Corners x, y where the outline turns, clockwise on the screen, from the upper left corner of
        the object's first pixel and back to it (the last point repeats the first). Pixel (row y,
        column x) is the square from (x, y) to (x + 1, y + 1): filling the outline gives back the
        object without its holes, and its extent is the bounding box.

    Raises
    ------
    TypeError
        If `labels` is no array or not of an integer dtype.
    ValueError
        If `labels` has another number of axes or negative ids.

    Notes
    -----
    Of an object in several pieces, the outline is that of the piece with the first pixel in raster
    order; pixels that touch over a corner are one piece. An outline of pixels joined over edges
    nowhere crosses or touches itself. Time linear in the outlines, besides a pass over the pixels.
    CUDA runs the same operations.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> offsets, points = cellpost.contours(np.array([[0, 4, 4]]))
    >>> points[offsets[0] : offsets[1]].tolist()
    [[1, 0], [3, 0], [3, 1], [1, 1], [1, 0]]
    """
    arrays = Arrays(labels=labels)
    found, _ = arrays.int32_labels("labels", to_write=False)
    return _outlined(arrays, found, _core.count_labels(found, arrays.stream))


def _outlined(arrays: Arrays, labels: Array, n_objects: int) -> tuple[Array, Array]:
    offsets = arrays.empty((n_objects + 1,), "int64")
    _core.find_outlines(labels, offsets, arrays.stream)
    points = arrays.empty((int(offsets[-1]), 2), "int32")
    _core.trace_outlines(labels, offsets, points, arrays.stream)
    return arrays.result(offsets), arrays.result(points)


@dataclass(frozen=True)
class InstanceTable:
    """What HoVer-Net's users know of each nucleus, a row for each, in ascending order of id.

    Attributes
    ----------
    label : array, (n,)
        Ids.
    bbox : array, (n, 4), int64
        Lowest row and column, then one past the highest.
    centroid : array, (n, 2), float64
        x and y of the mean pixel, whose middle is at whole numbers.
    contour_offsets, contour_points : array
        As `contours` gives them.
    type : array, (n,), int32, or None
        As `instance_types` gives them.
    type_prob : array, (n,), float64, or None
        The same.
    """

    label: Array
    bbox: Array
    centroid: Array
    contour_offsets: Array
    contour_points: Array
    type: Array | None = None
    type_prob: Array | None = None

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict a nucleus, with HoVer-Net's keys, of plain Python numbers and NumPy contours.

        Returns
        -------
        list of dict
            ``label`` (int); ``bbox`` [[low row, low column], [high row, high column]], half-open;
            ``centroid`` [x, y]; ``contour`` (k, 2) int32, x and y; ``type`` (int) and
            ``type_prob`` (float), None without types.
        """
        bbox = np.asarray(to_host(self.bbox)).reshape(-1, 2, 2).tolist()
        edges = to_host(self.contour_offsets)
        outlines = np.split(to_host(self.contour_points), edges[1:-1]) if len(bbox) else []
        none = [None] * len(bbox)
        columns = zip(
            to_host(self.label).tolist(),
            bbox,
            to_host(self.centroid).tolist(),
            outlines,
            none if self.type is None else to_host(self.type).tolist(),
            none if self.type_prob is None else to_host(self.type_prob).tolist(),
            strict=True,
        )
        names = ("label", "bbox", "centroid", "contour", "type", "type_prob")
        return [dict(zip(names, row, strict=True)) for row in columns]


def instance_table(
    labels: Array,
    types: Array | None = None,
    *,
    n_types: int | None = None,
    offset: tuple[int, int] = (0, 0),
) -> InstanceTable:
    """Describe every nucleus as HoVer-Net does: box, centroid, contour, type.

    Parameters
    ----------
    labels : array, (H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    types : array, optional
        As `instance_types` takes it.
    n_types : int, optional
        As `instance_types` takes it.
    offset : (int, int)
        x and y of the image's first pixel in a larger one: added to boxes, centroids and contours.

    Returns
    -------
    InstanceTable
        Columns of the kind and on the device of `labels`; ``to_dicts()`` gives a dict a nucleus.

    Raises
    ------
    TypeError, ValueError
        As `properties`, `contours` and `instance_types`; also if `offset` is no pair of integers.

    Notes
    -----
    Box and contour agree: the contour's extent is the box of an object in one piece (HoVer-Net's
    contours run through pixel middles, so theirs are not). Of several pieces see `contours`. No
    loop over cells runs in Python.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> row = cellpost.instance_table(np.array([[0, 7, 7]]), offset=(10, 20)).to_dicts()[0]
    >>> row["label"], row["bbox"], row["centroid"]
    (7, [[20, 11], [21, 13]], [11.5, 20.0])
    """
    try:
        dx, dy = offset
    except (TypeError, ValueError):
        raise ValueError(f"offset: expected two integers x, y; got {offset!r}") from None
    dx, dy = integer("offset", dx), integer("offset", dy)
    if max(abs(dx), abs(dy)) >= 2**30:
        raise ValueError(f"offset: expected less than 2**30 pixels; got {offset!r}")
    arrays = Arrays(labels=labels) if types is None else Arrays(labels=labels, types=types)
    found, ids = arrays.int32_labels("labels", to_write=False)
    if len(found.shape) != 2:
        raise ValueError(f"labels: expected 2 axes (H, W); got shape {tuple(found.shape)}")
    n = _core.count_labels(found, arrays.stream)
    columns = _measured(arrays, found, ids, n, None)
    offsets, points = _outlined(arrays, found, n)
    kind, share = (None, None) if types is None else _typed(arrays, found, n, n_types)
    xp = array_namespace(offsets)

    def moved(array: Array, *steps: tuple[int, int]) -> Array:
        return xp.stack([array[:, k] + step for k, step in steps], axis=1)

    return InstanceTable(
        label=columns["label"],
        bbox=moved(columns["bbox"], (0, dy), (1, dx), (2, dy), (3, dx)),
        centroid=moved(columns["centroid"], (1, dx), (0, dy)),
        contour_offsets=offsets,
        contour_points=moved(points, (0, dx), (1, dy)),
        type=kind,
        type_prob=share,
    )
