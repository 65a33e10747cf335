"""Train4Ever: instances on tiles chosen by size, pasted into one label image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np

from cellpost._arrays import Array, to_host
from cellpost.detections import Detections
from cellpost.labels import integer
from cellpost.models import Predictor, as_predictor
from cellpost.normalize import Normalization
from cellpost.recipes._arguments import named
from cellpost.recipes._instances import WithMasks, check_pasting, paste_with_scores
from cellpost.segment import NoCellsError, segment

__all__ = ["train4ever"]


def train4ever(
    image: Array,
    detector: Any,
    *,
    normalize: str | Normalization | None = None,
    tile: int | Literal["cell_size", "train4ever"] | None = None,
    overlap: float | None = None,
    model_diameter: float | None = None,
    batch_size: int = 4,
    min_score: float = 0.0,
    mask_threshold: float = 0.3,
    iou_threshold: float = 0.3,
    max_instances: int = 1000,
    return_scores: bool = False,
    paper: bool = False,
    channel_axis: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Any:
    """Segment an image as Train4Ever does: a detector with masks, in a sliding window.

    Parameters
    ----------
    image : (H, W), (H, W, C) or (C, H, W) array
        As of `cellpost.segment`.
    detector : network
        As of `cellpost.segment` with ``head="instances"``: outputs that `cellpost.as_detections`
        reads, with masks. The system's own does NMS at 0.8 among its proposals, at 0.3 among its
        detections.
    normalize : {"mediar", "vsm"} or Normalization, optional
        None: values stay as they are.
    tile : int or {"cell_size", "train4ever"}, optional
        As of `cellpost.segment`. ``"cell_size"`` if not given: what its authors wanted; in images
        without whole cells to measure ``"train4ever"``: by the image's shortest edge, and only if
        that is 4000 pixels or more, or the whole image at once gave fewer than 5 instances.
    overlap : float, optional
        Share of their side that tiles have in common: more than the longest cells, or these stay in
        parts. Chosen with ``"cell_size"``, by the cells' extent; else 0.25 if not given.
    model_diameter : float, optional
        As of `cellpost.segment`; with ``"cell_size"``, given or by default.
    batch_size : int
        Tiles that the detector sees together.
    min_score : float
        Instances below it are left out.
    mask_threshold : float
        What of a mask is cell, 0..1.
    iou_threshold : float
        Instances that overlap by more are one.
    max_instances : int
        Of each pass of the detector, a tile or the whole image, those with the best scores; >= 1.
    return_scores : bool
        Return ``(labels, scores)``.
    paper : bool
        Tiles by the size of the image, side by side: cells are cut at the seams. If not, an
        instance of which more than 0.7 lies in a better one is a part of that, and goes.
    channel_axis, progress
        As of `cellpost.segment`.

    Returns
    -------
    labels : (H, W) array, int32
        Labels 1..N without gaps, of the library and on the device of `image`. The higher score is
        on top.
    scores : (N,) float64 array
        With `return_scores`: of each label; NumPy's. `cellpost.metrics.confident` chooses
        pseudo-labels by them, those above 0.9.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As of `cellpost.segment`.

    See Also
    --------
    cellpost.segment, cellpost.choose_tile_size, cellpost.needs_sliding, cellpost.paste_masks

    Notes
    -----
    System C: sliding windows of Algorithms 1 and 2 and memory-light pasting: no tensor of all masks
    is made. Time and memory are those of `segment`.

    Examples
    --------
    >>> from cellpost import recipes, synthetic
    >>> scene = synthetic.Scene((700, 900), "nuclei", seed=1)
    >>> network = synthetic.DetectionNetwork(noise=0.05)  # simulated
    >>> recipes.train4ever(scene.encoded, network, channel_axis=0).shape
    (700, 900)
    """
    most = integer("max_instances", max_instances)
    if most < 1:
        raise ValueError(f"max_instances: expected 1 or more; got {max_instances}")
    if model_diameter is not None and tile != "cell_size" and (paper or tile is not None):
        raise ValueError(
            "model_diameter: expected None where the cells' size does not choose the tiles; got "
            f"{model_diameter!r}"
        )
    with named(model="detector"):
        predictor = as_predictor(detector, head="instances")
    with named(threshold="mask_threshold"):
        check_pasting(threshold=mask_threshold, min_score=min_score)

    def run(tile: Any, overlap: float | None) -> Any:
        return segment(
            image,
            _BestOf(predictor, most),
            head="instances",
            normalize=normalize,
            tile=tile,
            overlap=overlap,
            model_diameter=model_diameter if tile == "cell_size" else None,
            batch_size=batch_size,
            iou_threshold=iou_threshold,
            threshold=mask_threshold,
            min_score=min_score,
            channel_axis=channel_axis,
            progress=progress,
            postprocess=partial(paste_with_scores, keeps_parts=paper),
        )

    with named(model="detector", method="normalize"):
        labels, scores = _first_that_fits(run, tile, overlap, paper)
    return (labels, scores) if return_scores else labels


def _first_that_fits(run: Callable[..., Any], tile: Any, overlap: float | None, paper: bool) -> Any:
    if paper:
        return run("train4ever" if tile is None else tile, 0.0 if overlap is None else overlap)
    if tile is None or tile == "cell_size":
        try:
            return run("cell_size", overlap)
        except NoCellsError:
            if tile is not None:
                raise
    return run("train4ever" if tile is None else tile, 0.25 if overlap is None else overlap)


class _BestOf(WithMasks):
    """A detector, but no more than so many instances of each of its images."""

    def __init__(self, detector: Predictor, most: int) -> None:
        super().__init__(detector)
        self._most = most

    def __call__(self, batch: Array) -> list[Detections]:
        return [self._best(found) for found in super().__call__(batch)]

    def _best(self, found: Detections) -> Detections:
        if len(found) <= self._most:
            return found
        best = np.argsort(-to_host(found.scores), kind="stable")[: self._most]
        return found[np.sort(best)]
