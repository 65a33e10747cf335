"""VSM: a detector finds boxes, a small network segments what is in each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from cellpost._arrays import Array, to_host
from cellpost.augment.view import View
from cellpost.augment.views import Views
from cellpost.detections import Detections, as_detections
from cellpost.detections_merge import joined
from cellpost.labels import integer, relabel
from cellpost.models import Predictor, as_predictor
from cellpost.nms import weighted_boxes_fusion
from cellpost.normalize import Normalization
from cellpost.overlaps import object_pairs, overlap_counts
from cellpost.recipes._instances import paste_with_scores
from cellpost.segment import segment
from cellpost.segment_source import Source
from cellpost.tiles_grid import TileGrid

__all__ = ["vsm"]

_CROPS_AT_ONCE = 1024


def vsm(
    image: Array,
    detector: Any,
    segmenter: Any,
    *,
    normalize: str | Normalization | None = "vsm",
    n_channels: int = 3,
    tile: int = 1536,
    stride: int = 1280,
    batch_size: int = 1,
    augment: str | Iterable[View] | None = "d4",
    fusion: Literal["nms", "wbf"] = "nms",
    iou_threshold: float = 0.5,
    min_score: float = 0.5,
    min_side: float = 3.0,
    max_side_share: float = 0.5,
    span_share: float = 0.8,
    crop_size: int = 64,
    mask_threshold: float = 0.5,
    return_scores: bool = False,
    paper: bool = False,
    channel_axis: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Any:
    """Segment an image as VSM does: a detector finds boxes, a small network what is in each.

    Parameters
    ----------
    image : (H, W), (H, W, C) or (C, H, W) array
        As of `cellpost.segment`.
    detector : network
        As of `cellpost.segment` with ``head="instances"``: outputs that `cellpost.as_detections`
        reads; masks are not needed, and not used.
    segmenter : network
        Called with crops (n, C, `crop_size`, `crop_size`), float32, as `cellpost.as_predictor`
        says; gives one map, (n, 1, h, w), of each pixel's probability of being the cell's.
    normalize : {"mediar", "vsm"} or Normalization, optional
        ``"vsm"``: each channel's percentiles 1 and 99, of its pixels that are not 0, become 0 and
        255.
    n_channels : int
        A grey image is repeated to that many.
    tile, stride : int
        Windows and their distance, in pixels; 1024 and 768 are the system's other strides.
    batch_size : int
        Windows that the detector sees together.
    augment : {"d4", ...}, Views or iterable of View, optional
        ``"d4"``: the four turns of the image and of its mirror image.
    fusion : {"nms", "wbf"}
        How the boxes of several views become one: the best one stays, or their weighted mean.
    iou_threshold : float
        Boxes that overlap by more are one.
    min_score : float
        Boxes of higher scores are kept.
    min_side : float
        Boxes with a shorter side are dropped, in pixels.
    max_side_share, span_share : float
        Boxes with a side longer than the first share of the window's, or with both sides longer
        than the second, are dropped.
    crop_size : int
        Side of the crops that the segmenter sees, in pixels.
    mask_threshold : float
        Of the segmenter's probability.
    return_scores : bool
        Return ``(labels, scores)``.
    paper : bool
        Put windows together as VSM does: an instance that meets one of an earlier window takes its
        id, and the mean of both scores. Cells that touch in an overlap become one.
    channel_axis, progress
        As of `cellpost.segment`.

    Returns
    -------
    labels : (H, W) array, int32
        Labels 1..N without gaps, of the library and on the device of `image`. The higher score is
        on top.
    scores : (N,) float64 array
        With `return_scores`: of each label; NumPy's.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As of `cellpost.segment`; if the segmenter's maps have another size or number of channels.

    See Also
    --------
    cellpost.segment, cellpost.merge_detections, cellpost.paste_masks

    Notes
    -----
    System B of the NeurIPS 2022 cell segmentation challenge. Crops are taken from the whole image,
    nearest pixels, so a cell is seen whole also where the detector's windows meet. Images smaller
    than a window are padded with 0. The segmenter runs once for each cell of the result.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import recipes, synthetic
    >>> scene = synthetic.Scene((500, 400), "nuclei", seed=1)
    >>> def disc(crops):  # all that is nearer to the middle than its border is
    ...     at = np.hypot(*(np.indices(crops.shape[2:]) - 31.5)) < 30
    ...     return np.broadcast_to(at, (len(crops), 1, *at.shape)).astype(np.float32)
    >>> network = synthetic.DetectionNetwork(noise=0.05)  # simulated
    >>> labels = recipes.vsm(scene.encoded, network, disc, normalize=None, channel_axis=0)
    >>> labels.shape
    (500, 400)
    """
    if fusion not in ("nms", "wbf"):
        raise ValueError(f"fusion: expected 'nms' or 'wbf'; got {fusion!r}")
    side = integer("crop_size", crop_size)
    if side < 1:
        raise ValueError(f"crop_size: expected 1 or more; got {crop_size}")
    source = Source(image, channel_axis, 2, normalize, None)
    seen = _coloured(source.seen, integer("n_channels", n_channels))
    views = Views("identity" if augment is None else augment)
    boxes = _Boxes(as_predictor(detector, head="instances"), min_score, views, fusion)
    network = as_predictor(segmenter)

    def run(seen: Any, progress: bool | Callable[[int, int], None]) -> Any:
        def paste(found: Detections, shape: tuple[int, int], **options: Any) -> Any:
            return paste_with_scores(_segmented(found, seen, network, side), shape, **options)

        return segment(
            seen,
            boxes,
            head="instances",
            tile=tile,
            overlap_px=integer("tile", tile) - integer("stride", stride),
            batch_size=batch_size,
            channel_axis=0,
            iou_threshold=iou_threshold,
            min_side=min_side,
            max_side_share=max_side_share,
            span_share=span_share,
            threshold=mask_threshold,
            progress=progress,
            postprocess=paste,
        )

    if paper:
        grid = TileGrid(source.shape, tile=tile, stride=stride)
        labels, scores = _window_after_window(seen, grid, run, progress)
    else:
        labels, scores = run(seen, progress)
    labels = source.result(labels)
    return (labels, scores) if return_scores else labels


def _coloured(seen: Any, n_channels: int) -> Any:
    """Grey images with so many channels, all the same."""
    if seen.shape[0] != 1 or n_channels == 1:
        return seen
    seen = seen[...]
    return array_namespace(seen).concat([seen] * n_channels, axis=0)


class _Boxes:
    """A detector's boxes of enough score, of several views made one."""

    def __init__(self, detector: Predictor, min_score: float, views: Views, fusion: str) -> None:
        self._detector, self._min_score = detector, min_score
        self._views, self._fusion = views, fusion

    def __call__(self, batch: Array) -> list[Detections]:
        tile = (int(batch.shape[-2]), int(batch.shape[-1]))
        found: list[list[Detections]] = [[] for _ in range(int(batch.shape[0]))]
        for view, seen in self._views.apply(batch):
            for of_tile, output in zip(found, self._detector(seen), strict=True):
                boxes = as_detections(output, shape=view.shape(tile))
                is_sure = to_host(boxes.scores) > self._min_score
                boxes = replace(boxes, masks=None, mask_boxes=None)[is_sure]
                of_tile.append(view.undo(boxes, tile))
        return [self._one(of_tile) for of_tile in found]

    def _one(self, views: list[Detections]) -> Detections:
        if self._fusion == "wbf":
            boxes, scores, *_ = weighted_boxes_fusion(
                [found.boxes for found in views], [found.scores for found in views]
            )
            return Detections(boxes, scores)
        return joined(
            [replace(found, class_ids=None) for found in views], np.zeros((len(views), 4), np.int64)
        )


def _segmented(found: Detections, seen: Any, network: Predictor, side: int) -> Detections:
    """The same objects, with masks; their boxes are of whole pixels."""
    given = to_host(found.boxes)
    limit = np.array([seen.shape[2], seen.shape[1]] * 2)
    low, high = np.floor(given[:, :2]), np.ceil(given[:, 2:])
    boxes = np.clip(np.concatenate([low, high], axis=1), 0, limit).astype(np.int64)
    has_pixels = (boxes[:, 2:] > boxes[:, :2]).all(1)
    found, boxes = found[has_pixels], boxes[has_pixels]
    if len(boxes) == 0:
        return replace(found, masks=[])
    masks = [
        _masks(network, seen, boxes[k : k + _CROPS_AT_ONCE], side)
        for k in range(0, len(boxes), _CROPS_AT_ONCE)
    ]
    xp = array_namespace(masks[0])
    at = xp.asarray(boxes.astype(np.float64), device=device(masks[0]))
    scores = xp.asarray(to_host(found.scores), device=device(masks[0]))
    return Detections(at, scores, xp.concat(masks))


def _masks(network: Predictor, seen: Any, boxes: NDArray[np.int64], side: int) -> Array:
    crops = []
    for x0, y0, x1, y1 in boxes.tolist():
        crop = seen[:, y0:y1, x0:x1]
        # Nearest pixels: the one that the middle of each of the crop's lies in.
        rows, columns = ((2 * np.arange(side) + 1) * n // (2 * side) for n in (y1 - y0, x1 - x0))
        xp = array_namespace(crop)
        for axis, places in ((1, rows), (2, columns)):
            crop = xp.take(crop, xp.asarray(places, device=device(crop)), axis=axis)
        crops.append(crop)
    batch = array_namespace(crops[0]).stack(crops)
    maps = network(array_namespace(batch).astype(batch, array_namespace(batch).float32))
    if int(maps.shape[1]) != 1:
        raise ValueError(f"segmenter: expected maps of 1 channel; got {int(maps.shape[1])}")
    return maps[:, 0, ...]


def _window_after_window(
    seen: Any,
    grid: TileGrid,
    run: Callable[..., Any],
    progress: bool | Callable[[int, int], None],
) -> tuple[Array, NDArray[np.float64]]:
    """Each window by itself; what meets an object of an earlier one becomes that."""
    labels = np.zeros(grid.shape, np.int32)
    scores: list[float] = []
    for i, window in enumerate(grid):
        found, of_found = run(seen[:, window[0], window[1]], False)
        new = to_host(found)
        pairs = object_pairs(overlap_counts(new, labels[window]))
        ids = np.zeros(len(of_found) + 1, np.int32)
        order = np.lexsort((pairs.b, -pairs.count))[::-1]  # the largest shared area comes last
        ids[pairs.ids_a[pairs.a[order]]] = pairs.ids_b[pairs.b[order]]
        for k, score in enumerate(of_found.tolist(), 1):
            if ids[k]:
                scores[ids[k] - 1] = (scores[ids[k] - 1] + score) / 2
            else:
                scores.append(score)
                ids[k] = len(scores)
        labels[window] = np.where(new > 0, ids[new], labels[window])
        if callable(progress):
            progress(i + 1, len(grid))
    numbered = relabel(labels)
    of_label = np.zeros(int(numbered.max(initial=0)))
    of_label[numbered[labels > 0] - 1] = np.array(scores)[labels[labels > 0] - 1]
    return numbered, of_label
