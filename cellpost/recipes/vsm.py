"""VSM: a detector finds boxes, a small network segments what is in each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from cellpost._arrays import Array, to_host
from cellpost.augment.view import View
from cellpost.augment.views import Views
from cellpost.detections import Detections, as_detections
from cellpost.detections_merge import joined
from cellpost.labels import integer, number, relabel
from cellpost.models import Predictor, as_predictor
from cellpost.nms import weighted_boxes_fusion
from cellpost.normalize import Normalization
from cellpost.overlaps import count_pairs
from cellpost.recipes._arguments import named
from cellpost.recipes._instances import check_pasting, paste_with_scores
from cellpost.segment import segment
from cellpost.segment_source import Source
from cellpost.tiles_grid import TileGrid
from cellpost.tiles_stitcher import name_tile

__all__ = ["vsm"]

_CROPS_AT_ONCE = 1024
_BLOCK = 1024  # pixels a side: crops that begin in one are cut from what is read once
# Share of its pixels that makes a mask a part of another's cell: of two alike that overlap by the
# half that makes boxes one, each has 2/3 in the other.


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
        A grey image is repeated to that many for both networks, 1 or more.
    tile, stride : int
        Windows and their distance, in pixels; 1024 and 768 are the system's other strides.
    batch_size : int
        Windows that the detector sees together.
    augment : {"d4", ...}, Views or iterable of View, optional
        ``"d4"``: the four turns of the image and of its mirror image.
    fusion : {"nms", "wbf"}
        How the boxes of several views become one: the best one stays, or their weighted mean.
    iou_threshold : float
        Boxes that overlap by more are one, of several views and of several windows.
    min_score : float
        Boxes of higher scores are kept.
    min_side : float
        Boxes with a shorter side are dropped, in pixels.
    max_side_share, span_share : float
        Boxes with a side longer than the first share of the window's, or with both sides longer
        than the second, are dropped. The window is `tile` pixels also in smaller images.
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
        As of `cellpost.segment`; with `paper` only a function is told, of windows.

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
        As of `cellpost.segment`; if the segmenter raises, or its maps have another size or number
        of channels, NaN or infinities.

    See Also
    --------
    cellpost.segment, cellpost.merge_detections, cellpost.paste_masks

    Notes
    -----
    System B of the NeurIPS 2022 cell segmentation challenge. Crops are taken from the whole image,
    nearest pixels, so a cell is seen whole also where the detector's windows meet. Images smaller
    than a window are padded with 0. The segmenter runs once for each box that is left of the
    windows'; a mask of which more than 0.7 lies in that of a better box is a part of that cell,
    and goes (not with `paper`). Better is what no window cuts, then what is farther from a
    window's border.

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
    for name, value in (("n_channels", n_channels), ("crop_size", crop_size)):
        if integer(name, value) < 1:
            raise ValueError(f"{name}: expected 1 or more; got {value}")
    limits = {"min_side": min_side, "max_side_share": max_side_share, "span_share": span_share}
    for name, limit in limits.items():
        if not number(name, limit) >= 0:
            raise ValueError(f"{name}: expected a number of at least 0; got {limit!r}")
    TileGrid((0, 0), tile=integer("tile", tile), stride=integer("stride", stride))
    with named(threshold="mask_threshold"):
        check_pasting(threshold=mask_threshold)
    with named(views="augment"):
        views = Views("identity" if augment is None else augment)
    if len(views) == 0:
        raise ValueError("augment: expected one view or more; got none")
    with named(model="segmenter"):
        network = as_predictor(segmenter)
    with named(model="detector"):
        predictor = as_predictor(detector, head="instances")
    with named(method="normalize"):
        source = Source(image, channel_axis, 2, normalize, None)
    seen = source.seen
    n_repeats = n_channels if seen.shape[0] == 1 else 1
    boxes = _Boxes(
        predictor, n_repeats, number("min_score", min_score), views, fusion, iou_threshold, **limits
    )

    def run(seen: Any, progress: bool | Callable[[int, int], None]) -> Any:
        def paste(found: Detections, shape: tuple[int, int], **options: Any) -> Any:
            cells = _segmented(found, seen, network, n_repeats, crop_size)
            return paste_with_scores(cells, shape, keeps_parts=paper, **options)

        with named(model="detector"):
            return segment(
                seen,
                boxes,
                head="instances",
                tile=tile,
                overlap_px=tile - stride,
                batch_size=batch_size,
                channel_axis=0,
                iou_threshold=iou_threshold,
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


def _repeated(batch: Array, n: int) -> Array:
    """A batch (n, C, h, w) with its channels so many times."""
    return batch if n == 1 else array_namespace(batch).concat([batch] * n, axis=1)


@dataclass(frozen=True)
class _Boxes:
    """A detector's boxes that may be cells, of several views made one."""

    detector: Predictor
    n_repeats: int
    min_score: float
    views: Views
    fusion: str
    iou_threshold: float
    min_side: float
    max_side_share: float
    span_share: float

    def __call__(self, batch: Array) -> list[Detections]:
        tile = (int(batch.shape[-2]), int(batch.shape[-1]))
        found: list[list[Detections]] = [[] for _ in range(int(batch.shape[0]))]
        for view, seen in self.views.apply(_repeated(batch, self.n_repeats)):
            for of_tile, output in zip(found, self.detector(seen), strict=True):
                boxes = as_detections(output, shape=view.shape(tile))
                boxes = Detections(boxes.boxes, boxes.scores)
                of_tile.append(self._fitting(view.undo(boxes, tile), tile))
        return [self._one(of_tile) for of_tile in found]

    def _fitting(self, found: Detections, tile: tuple[int, int]) -> Detections:
        boxes, scores = to_host(found.boxes), to_host(found.scores)
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError("model: expected finite boxes and scores; got others")
        sides = boxes[:, 2:] - boxes[:, :2]
        shares = sides / np.array(tile[::-1])
        is_small = (sides < self.min_side).any(1)
        is_large = (shares > self.max_side_share).any(1) | (shares > self.span_share).all(1)
        return found[(scores > self.min_score) & ~is_small & ~is_large]

    def _one(self, views: list[Detections]) -> Detections:
        if self.fusion == "wbf":
            boxes, scores, *_ = weighted_boxes_fusion(
                [found.boxes for found in views],
                [found.scores for found in views],
                iou_threshold=self.iou_threshold,
            )
            return Detections(boxes, scores)
        return joined(views, np.zeros((len(views), 4), np.int64))


def _segmented(
    found: Detections, seen: Any, network: Predictor, n_repeats: int, side: int
) -> Detections:
    """The same objects, with masks; their boxes are of whole pixels."""
    given = to_host(found.boxes)
    limit = np.array([seen.shape[2], seen.shape[1]] * 2)
    low, high = np.floor(given[:, :2]), np.ceil(given[:, 2:])
    boxes = np.clip(np.concatenate([low, high], axis=1), 0, limit).astype(np.int64)
    has_pixels = (boxes[:, 2:] > boxes[:, :2]).all(1)
    found, boxes = found[has_pixels], boxes[has_pixels]
    if len(boxes) == 0:
        return replace(found, masks=[])
    block = boxes[:, :2] // _BLOCK
    order = np.lexsort(block.T)
    ends = np.flatnonzero((np.diff(block[order], axis=0) != 0).any(1)) + 1
    masks = [
        _masks(network, seen, boxes[rows[k : k + _CROPS_AT_ONCE]], n_repeats, side)
        for rows in np.split(order, ends)
        for k in range(0, len(rows), _CROPS_AT_ONCE)
    ]
    xp = array_namespace(masks[0])
    at = xp.asarray(boxes[order].astype(np.float64), device=device(masks[0]))
    scores = xp.asarray(to_host(found.scores)[order], device=device(masks[0]))
    return Detections(at, scores, xp.concat(masks))[np.argsort(order)]


def _masks(
    network: Predictor, seen: Any, boxes: NDArray[np.int64], n_repeats: int, side: int
) -> Array:
    x, y = boxes[:, :2].min(0).tolist()
    right, bottom = boxes[:, 2:].max(0).tolist()
    part = seen[:, y:bottom, x:right]
    crops = []
    for x0, y0, x1, y1 in (boxes - [x, y, x, y]).tolist():
        crop = part[:, y0:y1, x0:x1]
        # Nearest pixels: the one that the middle of each of the crop's lies in.
        rows, columns = ((2 * np.arange(side) + 1) * n // (2 * side) for n in (y1 - y0, x1 - x0))
        xp = array_namespace(crop)
        for axis, places in ((1, rows), (2, columns)):
            crop = xp.take(crop, xp.asarray(places, device=device(crop)), axis=axis)
        crops.append(crop)
    xp = array_namespace(crops[0])
    batch = _repeated(xp.astype(xp.stack(crops), xp.float32), n_repeats)
    try:
        with named(model="segmenter"):
            maps = network(batch)
    except (TypeError, ValueError):
        raise
    except Exception as error:
        raise RuntimeError(f"segmenter: {error!r}") from error
    if int(maps.shape[1]) != 1:
        raise ValueError(f"segmenter: expected maps of 1 channel; got {int(maps.shape[1])}")
    xp = array_namespace(maps)
    if not bool(xp.all(xp.isfinite(maps))):
        raise ValueError("segmenter: expected finite probabilities; got others")
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
        try:
            found, of_found = run(seen[:, window[0], window[1]], False)
        except (TypeError, ValueError, RuntimeError) as error:
            # It knows its window alone.
            message = re.sub(r"tile 0 \(pixels [^)]*\)", name_tile(grid, i), str(error))
            raise type(error)(message) from error
        new = to_host(found)
        pairs = count_pairs(new=new, labels=labels[window])
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
