"""MEDIAR: flows of several networks and views, on tiles; the challenge's winner."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from cellpost._arrays import Array, Arrays
from cellpost.augment.view import View
from cellpost.flows import follow_flows
from cellpost.labels import integer, label, number, remove_small
from cellpost.normalize import Normalization
from cellpost.recipes._arguments import named
from cellpost.segment import segment
from cellpost.tiles_grid import TileGrid

__all__ = ["mediar"]


def mediar(
    image: Array,
    models: Any,
    *,
    normalize: str | Normalization | None = "mediar",
    tile: int = 512,
    overlap: float = 0.6,
    window_sigma: float = 0.125,
    batch_size: int = 4,
    augment: str | Iterable[View] | None = "flips",
    probability_threshold: float = 0.5,
    min_foreground: int = 16,
    niter: int = 200,
    flow_threshold: float | None = 0.4,
    min_size: int = 15,
    max_size_fraction: float = 0.9,
    paper: bool = False,
    whole_up_to: int = 5000 * 5000,
    paper_window: int = 2000,
    channel_axis: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
    **flow_options: Any,
) -> Array:
    """Segment an image as MEDIAR does, the winner of the NeurIPS 2022 cell segmentation challenge.

    Parameters
    ----------
    image : (H, W), (H, W, C) or (C, H, W) array
        As of `cellpost.segment`.
    models : network, or list of networks
        As of `cellpost.segment` with ``head="flows"``: dY, dX, trained at five times the unit flow,
        and the cells' logit. MEDIAR has two; their outputs are averaged.
    normalize : {"mediar", "vsm"} or Normalization, optional
        ``"mediar"``: clipped to the percentiles 0 and 99.5 of the image, scaled to 0..1.
    tile, overlap, window_sigma, batch_size
        Tiles of 512 pixels that share 0.6 of their side, blended by Gaussian weights of 0.125 of
        it, 4 in a batch.
    augment : {"flips", ...}, Views or iterable of View, optional
        ``"flips"``: the image, mirrored left-right, and up-down.
    probability_threshold : float
        Of the cells' probability, 0 < p < 1.
    min_foreground : int
        Holes, then specks, of the foreground with fewer pixels are removed.
    niter, flow_threshold, min_size, max_size_fraction
        As of `cellpost.follow_flows`.
    paper : bool
        Follow the flows as MEDIAR does in large images: each window of `paper_window` pixels by
        itself. Cells are cut at the seams, and each window's ids start from 1 again.
    whole_up_to : int
        With `paper`: images of fewer pixels are not divided.
    paper_window : int
        With `paper`: the windows' side in pixels, >= 1.
    channel_axis, progress
        As of `cellpost.segment`.
    **flow_options
        Other options of `cellpost.follow_flows`.

    Returns
    -------
    (H, W) array, int32
        Labels 1..N without gaps, of the library and on the device of `image`; with `paper`, in
        images of `whole_up_to` pixels or more, ids are repeated.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As of `cellpost.segment`.

    See Also
    --------
    cellpost.segment, cellpost.follow_flows

    Notes
    -----
    System A of Lee et al., "MEDIAR: Harmony of Data-Centric and Model-Centric for Multi-Modality
    Microscopy" (2022). The defaults are the paper's; that the flows are followed in the whole image
    at any size is not. The flows are followed as `follow_flows` does, with `paper`, too: MEDIAR's
    own code is that of Cellpose 1, whose seeds grow without bounds and whose labels are not cleaned
    up afterwards. Time and memory are those of `segment` and `follow_flows`.

    Examples
    --------
    >>> from cellpost import recipes, synthetic
    >>> scene = synthetic.Scene((600, 700), "nuclei", seed=1)
    >>> network = synthetic.FlowNetwork(noise=0.05)  # simulated
    >>> labels = recipes.mediar(scene.encoded, network, normalize=None, channel_axis=0)
    >>> labels.shape
    (600, 700)
    """
    share = number("probability_threshold", probability_threshold)
    if not 0 < share < 1:
        raise ValueError(f"probability_threshold: expected 0 < p < 1; got {probability_threshold}")
    logit = math.log(share / (1 - share))
    options: dict[str, Any] = {
        "niter": niter,
        "flow_threshold": flow_threshold,
        "min_size": min_size,
        "max_size_fraction": max_size_fraction,
        **flow_options,
    }

    pixels = integer("whole_up_to", whole_up_to)

    def labels_of(maps: Array) -> Array:
        cellprob = clean_foreground(maps[2, ...] > logit, min_foreground)
        if paper and cellprob.shape[0] * cellprob.shape[1] >= pixels:
            return _by_windows(maps[:2, ...], cellprob, paper_window, options)
        return follow_flows(maps[:2, ...], cellprob, **options)

    # What is wrong with the arguments shows before the networks have worked.
    follow_flows(np.zeros((2, 0, 0), np.float32), np.zeros((0, 0), np.float32), **options)
    with named(min_size="min_foreground"):
        clean_foreground(np.zeros((0, 0), np.bool_), min_foreground)
    with named(tile="paper_window"):
        TileGrid((0, 0), tile=paper_window, layout="nonoverlap")
    with named(model="models", views="augment", sigma="window_sigma", method="normalize"):
        return segment(
            image,
            models,
            head="flows",
            normalize=normalize,
            tile=tile,
            overlap=overlap,
            window_sigma=window_sigma,
            batch_size=batch_size,
            augment=augment,
            channel_axis=channel_axis,
            progress=progress,
            postprocess=labels_of,
        )


def clean_foreground(mask: Array, min_size: int = 16) -> Array:
    """A logit of +1 in the foreground and -1 outside, without small holes, then small specks.

    Background counts as a hole by its size alone, also at the image's border, as with
    ``skimage.morphology.remove_small_holes``.
    """
    xp = array_namespace(mask)
    for fill in (True, False):
        small: Any = remove_small(label(~mask if fill else mask), min_size=min_size)
        mask = small == 0 if fill else small > 0
    one = xp.ones((), dtype=xp.float32, device=device(mask))
    return xp.where(mask, one, -one)


def _by_windows(dP: Array, cellprob: Array, side: int, options: dict[str, Any]) -> Array:
    """Labels of windows side by side, each of which counts its own from 1."""
    shape = tuple(int(n) for n in cellprob.shape)
    arrays = Arrays(cellprob=cellprob)
    labels = arrays.empty(shape, "int32")
    for window in TileGrid(shape, tile=side, layout="nonoverlap"):
        of_window = follow_flows(dP[:, window[0], window[1]], cellprob[window], **options)
        labels[window] = of_window
    return labels
