"""An ensemble for neurons: flows of one kind of network and instances of another, fused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cellpost import ensemble
from cellpost._arrays import Array, to_host
from cellpost.augment.view import View
from cellpost.augment.views import Views
from cellpost.detections_merge import merge_detections
from cellpost.flows import follow_flows
from cellpost.labels import number
from cellpost.models import Predictor, as_predictor
from cellpost.normalize import Normalization
from cellpost.recipes._arguments import named
from cellpost.recipes._instances import WithMasks, check_pasting, paste_with_scores
from cellpost.segment import segment
from cellpost.tiles_grid import TileGrid

__all__ = ["sartorius"]


def sartorius(
    image: Array,
    flow_models: Any,
    detectors: Any,
    *,
    normalize: str | Normalization | None = None,
    tile: tuple[int, int] = (301, 302),
    stride: tuple[int, int] = (73, 134),
    batch_size: int = 4,
    augment: str | Iterable[View] | None = "sartorius",
    flow_threshold: float | None = 0.4,
    min_size: int = 20,
    detector_sizes: Sequence[float] = (440, 480, 520, 560, 580, 620),
    detector_height: float = 520,
    detector_augment: str | Iterable[View] | None = "updown",
    min_score: float = 0.7,
    detector_iou_threshold: float = 0.5,
    iou_threshold: float = 0.15,
    return_scores: bool = False,
    paper: bool = False,
    channel_axis: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
    **flow_options: Any,
) -> Any:
    """Segment an image with flows and with instances, and fuse both.

    Parameters
    ----------
    image : (H, W), (H, W, C) or (C, H, W) array
        As of `cellpost.segment`.
    flow_models : network, or list of networks
        As of `cellpost.segment` with ``head="flows"``: the system's is Cellpose-SAM.
    detectors : network, or list of networks
        As of `cellpost.segment` with ``head="instances"``, with masks: the system's is Mask R-CNN.
        Sees tiles of other sizes than `tile`, when it sees them resized.
    normalize : {"mediar", "vsm"} or Normalization, optional
        None: values stay as they are.
    tile, stride : (int, int)
        Height and width of the tiles, and their distance, in pixels: 4 x 4 in images of 520 x 704.
    batch_size : int
        Tiles that a network sees together.
    augment : {"sartorius", ...}, Views or iterable of View, optional
        Of the flow models. ``"sartorius"``: the image, three flips and three turns, seven views.
    flow_threshold, min_size
        As of `cellpost.follow_flows`.
    detector_sizes : sequence of float
        Heights that images of `detector_height` pixels are resized to, one after the other; other
        images by the same factors.
    detector_height : float
        See there.
    detector_augment : {"updown", ...}, Views or iterable of View, optional
        Of the detectors, at each size. ``"updown"``: the image, and upside down.
    min_score : float
        Instances of the detectors with this score or more are kept.
    detector_iou_threshold : float
        Instances of the detectors that overlap by more are one; of several tiles that stays which
        is farther from its tile's border.
    iou_threshold : float
        Instances of both kinds that overlap by more are one cell.
    return_scores : bool
        Return ``(labels, scores)``.
    paper : bool
        Blend the tiles' maps with equal weights, not Gaussian ones: what networks tell at the
        border of their tiles counts as much.
    channel_axis, progress
        As of `cellpost.segment`.
    **flow_options
        Other options of `cellpost.follow_flows`.

    Returns
    -------
    labels : (H, W) array, int32
        Labels 1..N without gaps, of the library and on the device of `image`; no pixel is of two
        cells.
    scores : (N,) float64 array
        With `return_scores`: of each label, of the library of `labels`. `cellpost.rle.encode` and
        these are a submission (row-major and one-based for this challenge).

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As of `cellpost.segment`.

    See Also
    --------
    cellpost.segment, cellpost.ensemble.fuse, cellpost.rle.encode
    cellpost.metrics.average_precision : the challenge's measure, IoU 0.50 to 0.95.

    Notes
    -----
    System E, for the Sartorius challenge. The confidence of a cell of the flows is the mean of its
    pixels' probability; masks that show one cell are fused by confidence, the rest is kept by it.
    Time and memory: those of two calls of `segment`, and of `fuse`.

    Examples
    --------
    >>> from cellpost import recipes, synthetic
    >>> scene = synthetic.Scene((400, 500), "nuclei", seed=1)
    >>> flows = synthetic.FlowNetwork(noise=0.05)  # simulated; they refuse resized images
    >>> instances = synthetic.DetectionNetwork(noise=0.05)
    >>> labels, scores = recipes.sartorius(scene.encoded, flows, instances, channel_axis=0,
    ...                                    detector_sizes=[520], return_scores=True)
    >>> labels.shape, len(scores) == labels.max()
    ((400, 500), np.True_)
    """
    height = number("detector_height", detector_height)
    if not 0 < height < math.inf:
        raise ValueError(f"detector_height: expected a finite number > 0; got {detector_height}")
    # What is wrong with the arguments shows before the networks have worked.
    if stride is None:
        raise TypeError("stride: expected one or two integers; got None")
    grid = TileGrid((0, 0), tile=tile, stride=stride)
    flow_options |= {"flow_threshold": flow_threshold, "min_size": min_size}
    follow_flows(np.zeros((2, 0, 0), np.float32), np.zeros((0, 0), np.float32), **flow_options)
    with named(model="flow_models"):
        flow_models = _networks(flow_models, "flows")
    with named(model="detectors"):
        detectors = [WithMasks(one) for one in _networks(detectors, "instances")]
    with named(views="detector_augment", scales="detector_sizes"):
        detector_views = Views(
            "identity" if detector_augment is None else detector_augment, scales=detector_sizes
        )
    if len(detector_views) == 0:
        raise ValueError("detector_augment: expected one view or more; got none")
    with named(iou_threshold="detector_iou_threshold"):
        merge_detections([], [], iou_threshold=detector_iou_threshold)
    check_pasting(min_score=min_score)
    ensemble.fuse([(np.zeros((0, 0), np.int32), [])], iou_threshold=iou_threshold)
    common: dict[str, Any] = {
        "normalize": normalize,
        "tile": grid.tile,
        "overlap_px": [side - step for side, step in zip(grid.tile, grid.stride, strict=True)],
        "batch_size": batch_size,
        "channel_axis": channel_axis,
        "progress": progress,
    }

    def with_confidence(maps: Array, **options: Any) -> tuple[Array, NDArray[np.float64]]:
        labels: Any = follow_flows(maps[:2, ...], maps[2, ...], **options)
        return labels, _mean_probability(to_host(labels), to_host(maps[2, ...]))

    with named(model="flow_models", views="augment", method="normalize"):
        of_flows = segment(
            image,
            flow_models,
            head="flows",
            augment=augment,
            window="constant" if paper else "gaussian",
            postprocess=with_confidence,
            **flow_options,
            **common,
        )
    with named(model="detectors"):
        of_detectors = segment(
            image,
            detectors,
            head="instances",
            augment=[replace(view, scale=view.scale / height) for view in detector_views],
            iou_threshold=detector_iou_threshold,
            min_score=min_score,
            postprocess=partial(paste_with_scores, keeps_parts=paper),
            **common,
        )
    fused: Any = ensemble.fuse(
        [of_flows, of_detectors], iou_threshold=iou_threshold, return_scores=True
    )
    return fused if return_scores else fused[0]


def _networks(models: Any, head: Literal["flows", "instances"]) -> list[Predictor]:
    every = models if isinstance(models, (list, tuple)) else [models]
    if len(every) == 0:
        raise ValueError("model: expected one or more; got none")
    return [as_predictor(one, head=head) for one in every]


def _mean_probability(labels: NDArray[Any], logit: NDArray[Any]) -> NDArray[np.float64]:
    """Of each label 1..N, that of its pixels."""
    area = np.bincount(labels.ravel())
    total = np.bincount(labels.ravel(), expit(logit).ravel().astype(np.float64), len(area))
    mean: NDArray[np.float64] = total[1:] / area[1:]
    return mean
