"""What recipes of detectors make of instances that were found in all tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from cellpost._arrays import Array, to_host
from cellpost.detections import Detections, as_detections
from cellpost.models import Predictor
from cellpost.nms import mask_nms
from cellpost.paste import paste_masks

_PART = 0.7  # share of an instance that lies in a better one


class WithMasks:
    """A detector whose instances have to have masks, which its first image shows."""

    def __init__(self, detector: Predictor) -> None:
        self._detector = detector

    def __call__(self, batch: Array) -> list[Detections]:
        shape = (int(batch.shape[-2]), int(batch.shape[-1]))
        every = [as_detections(one, shape=shape) for one in self._detector(batch)]
        if any(found.masks is None and len(found) for found in every):
            raise ValueError("model: expected masks of head 'instances'; got boxes without any")
        return every


def paste_with_scores(
    found: Detections, shape: tuple[int, int], *, keeps_parts: bool = False, **options: Any
) -> tuple[Array, NDArray[np.float64]]:
    """A label image of the instances, the higher score on top, and the score of each label.

    Instances come best first. One that lies in a better one, but for a small share, is a part of
    that cell which a tile has cut off, and goes unless `keeps_parts`.
    """
    if not keeps_parts and found.masks is not None and len(found):
        xp = array_namespace(found.boxes)
        rank = xp.arange(len(found), 0, -1, dtype=xp.float64, device=device(found.boxes))
        covered = found.boxes if found.mask_boxes is None else found.mask_boxes
        threshold = options.get("threshold", 0.5)
        found = found[
            mask_nms(found.masks, covered, rank, shape, _PART, metric="ios", threshold=threshold)
        ]
    boxes = found.boxes if found.mask_boxes is None else found.mask_boxes
    masks = [] if found.masks is None else found.masks
    pasted: Any = paste_masks(masks, boxes, found.scores, shape, return_index=True, **options)
    labels, index = pasted
    return labels, to_host(found.scores).astype(np.float64)[to_host(index)]


def check_pasting(**options: Any) -> None:
    """Raise what `paste_with_scores` has against its options, before networks have worked."""
    paste_with_scores(Detections(np.empty((0, 4)), np.empty(0)), (0, 0), **options)
