"""What recipes of detectors make of instances that were found in all tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellpost._arrays import Array, to_host
from cellpost.detections import Detections
from cellpost.paste import paste_masks


def paste_with_scores(
    found: Detections, shape: tuple[int, int], **options: Any
) -> tuple[Array, NDArray[np.float64]]:
    """A label image of the instances, the higher score on top, and the score of each label."""
    if found.masks is None and len(found):
        raise ValueError("model: expected masks of head 'instances'; got boxes without any")
    boxes = found.boxes if found.mask_boxes is None else found.mask_boxes
    masks = [] if found.masks is None else found.masks
    pasted: Any = paste_masks(masks, boxes, found.scores, shape, return_index=True, **options)
    labels, index = pasted
    return labels, to_host(found.scores).astype(np.float64)[to_host(index)]


def check_pasting(**options: Any) -> None:
    """Raise what `paste_with_scores` has against its options, before networks have worked."""
    paste_with_scores(Detections(np.empty((0, 4)), np.empty(0)), (0, 0), **options)
