"""HoVer-Net's own post-processing function; OpenCV and scikit-image are not needed."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from cellpost._arrays import Array, Arrays, to_host
from cellpost.labels import label, remove_small
from cellpost.properties import instance_table
from cellpost.watershed import watershed
from cellpost.watershed_hover import watershed_markers

__all__ = ["process"]

_MIN_SIZE = 10  # of foreground components and of markers, in pixels
_MIN_POINTS = 3  # of a contour


def process(
    pred_map: Array, nr_types: int | None = None, return_centroids: bool = False
) -> tuple[Array, dict[int, dict[str, Any]] | None]:
    """Turn the output of HoVer-Net into labels and what is known of each nucleus.

    Takes the arguments of ``process`` in the original's ``models/hovernet/post_proc.py``, and gives
    its result.

    Parameters
    ----------
    pred_map : array, (H, W, 3), or (H, W, 4) with `nr_types`; any real dtype
        Channels in this order: the type of each pixel (with `nr_types` alone; whole numbers >= 0,
        0 is background), the probability of being nucleus, the horizontal and the vertical map.
    nr_types : int, optional
        Number of types. As in the original it only matters whether it is given.
    return_centroids : bool
        Describe the nuclei even without types.

    Returns
    -------
    pred_inst : array, (H, W), int32
        Label image of the kind and on the device of `pred_map`, 0 is background. Ids are the
        original's: those of the markers in raster order of their first pixels, with gaps where a
        marker was too small.
    inst_info_dict : dict or None
        None without `nr_types` and `return_centroids`. Else for each id, in ascending order, a dict
        of ``"bbox"``, (2, 2) int64, lowest row and column, then one past the highest;
        ``"centroid"``, (2,) float64, x and y; ``"contour"``, (n, 2) int32, x and y of the border's
        pixels where it turns, counterclockwise on the screen; ``"type"`` (int) and ``"type_prob"``
        (float), None without `nr_types`. Nuclei whose contour has fewer than 3 points are left out.

    Raises
    ------
    TypeError
        If `pred_map` is no array of a real dtype.
    ValueError
        If it has another shape, or a type is negative or 4096 or more.

    See Also
    --------
    cellpost.hover_watershed, cellpost.instance_table

    Notes
    -----
    The type is that of most pixels of a nucleus, the smallest of equally frequent ones, and
    background only if there is no other; ``type_prob`` is its share. Labels are the original's but
    for pixels where equal energies meet (see `cellpost.watershed`), boxes, contours and types equal
    it, and centroids within rounding. Where the original differs: its keys are NumPy integers; of
    an image without background it leaves out the first nucleus.

    `cellpost.hover_watershed` has the same nuclei with ids 1..N, `cellpost.instance_table` columns
    in place of dicts and contours that run along pixel edges, which agree with the boxes.

    Values are read as float32; NaN, empty images, cost and CUDA: as `cellpost.hover_watershed`. The
    dict is made on the host.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.integrations.hovernet import process
    >>> place = np.linspace(-1, 1, 20, dtype=np.float32)
    >>> pred_map = np.zeros((24, 24, 3), np.float32)
    >>> pred_map[2:22, 2:22] = np.dstack([np.ones((20, 20)), *np.meshgrid(place, place)])
    >>> pred_inst, info = process(pred_map, return_centroids=True)
    >>> info[1]["bbox"].tolist(), info[1]["centroid"].tolist()
    ([[2, 2], [22, 22]], [11.5, 11.5])
    >>> info[1]["contour"].tolist()
    [[2, 2], [2, 21], [21, 21], [21, 2]]
    """
    values = Arrays(pred_map=pred_map).real("pred_map")
    n_channels = 3 if nr_types is None else 4
    if len(values.shape) != 3 or values.shape[2] != n_channels:
        raise ValueError(
            f"pred_map: expected shape (H, W, {n_channels}) with nr_types={nr_types}; "
            f"got {tuple(values.shape)}"
        )
    xp = array_namespace(values)
    prob, hv = _planes(xp, values[:, :, -3:-2])[0], _planes(xp, values[:, :, -2:])
    regions: Array = remove_small(label(prob >= 0.5), min_size=_MIN_SIZE)
    labels = flood(regions > 0, hv, min_size=_MIN_SIZE)
    if nr_types is None:
        return labels, _describe(labels, None) if return_centroids else None
    return labels, _describe(labels, xp.astype(values[:, :, 0], xp.int32))


def flood(mask: Array, hv: Array, *, min_size: int, connectivity: int = 1, **options: Any) -> Array:
    """Labels of a mask whose small parts are gone, with the ids of HoVer-Net's and MONAI's chains.

    These number the markers before they remove the small ones.
    """
    xp = array_namespace(mask)
    prob = xp.astype(mask, xp.float32)
    markers, energy, _ = watershed_markers(prob, hv, threshold=0.5, min_size=1, **options)
    markers = remove_small(markers, min_size=min_size)
    return watershed(energy, markers, mask=mask, connectivity=connectivity)


def _planes(xp: Any, channels: Array) -> Array:
    """Channels last to channels first, as float32, where the original computes, too."""
    return xp.astype(xp.permute_dims(channels, (2, 0, 1)), xp.float32)


def _describe(labels: Array, types: Array | None) -> dict[int, dict[str, Any]]:
    table = instance_table(labels, types)
    outlines = _border_pixels(to_host(table.contour_offsets), to_host(table.contour_points))
    info: dict[int, dict[str, Any]] = {}
    for row, outline in zip(table.to_dicts(), outlines, strict=True):
        if len(outline) >= _MIN_POINTS:
            info[row["label"]] = {
                "bbox": np.array(row["bbox"]),
                "centroid": np.array(row["centroid"]),
                "contour": outline,
                "type_prob": row["type_prob"],
                "type": row["type"],
            }
    return info


def _border_pixels(
    offsets: NDArray[np.int64], corners: NDArray[np.int32]
) -> list[NDArray[np.int32]]:
    """Outlines along pixel edges as OpenCV has them: through the middles of the pixels inside.

    That is ``cv2.findContours(..., cv2.CHAIN_APPROX_SIMPLE)``: counterclockwise from the first
    pixel, and only where the direction changes. An object of one pixel has no points here.
    """
    edge = np.ones(len(corners), bool)
    edge[offsets[1:] - 1] = False  # the last corner is the first one again
    at = np.flatnonzero(edge)
    start, end = corners[at], corners[at + 1]
    along = np.sign(end - start)
    inward = np.stack([-along[:, 1], along[:, 0]], axis=1)  # outlines run clockwise
    first = start + (along + inward - 1) // 2  # the pixels inside, at both ends of an edge
    last = end + (inward - along - 1) // 2
    pixels = np.stack([first, last], axis=1).reshape(-1, 2)
    owner = np.repeat(np.arange(len(offsets) - 1), 2 * (np.diff(offsets) - 1))

    # An outline's last edge leads back to its first pixel, of which the last mention stays.
    keep = (pixels != _neighbours(pixels, owner)[0]).any(axis=1)
    pixels, owner = pixels[keep], owner[keep]
    before, after = _neighbours(pixels, owner)
    turns = (np.sign(pixels - before) != np.sign(after - pixels)).any(axis=1)
    pixels, owner = pixels[turns], owner[turns]
    ends = np.searchsorted(owner, np.arange(1, len(offsets) - 1))
    parts = np.split(pixels, ends) if len(offsets) > 1 else []
    return [part[::-1].copy() for part in parts]


def _neighbours(
    pixels: NDArray[np.int32], owner: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The pixels before and after each one, on closed outlines."""
    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    ends = np.append(begins[1:], len(owner))[: len(begins)] - 1
    at = np.arange(len(owner))
    before, after = at - 1, at + 1
    before[begins], after[ends] = ends, begins
    return pixels[before], pixels[after]
