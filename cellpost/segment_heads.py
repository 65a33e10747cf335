"""What becomes of a network's outputs, tile after tile: the labels of each kind of head."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from cellpost._arrays import Array, Arrays, dtype_name, to_host
from cellpost.augment.channels import CHANNELS
from cellpost.augment.resize import resize_bilinear
from cellpost.augment.view import View
from cellpost.augment.views import Views
from cellpost.detections import Detections, as_detections
from cellpost.detections_merge import joined, merge_detections
from cellpost.flows import follow_flows
from cellpost.labels import number, relabel
from cellpost.models import Predictor
from cellpost.paste import PasteReport, paste_masks
from cellpost.tiles_grid import TileGrid
from cellpost.tiles_stitcher import Stitcher
from cellpost.tiles_weights import Window
from cellpost.watershed_hover import hover_watershed

__all__ = ["Ensemble", "InstanceHead", "InstanceReport", "MapHead"]

_OF_PASTING = ("min_score", "min_size", "out_dtype", "return_report")
_OF_BOTH = ("threshold", "style")


@dataclass(frozen=True)
class InstanceReport(PasteReport):
    """What became of the instances of all tiles, before and while they were pasted.

    Attributes
    ----------
    n_found : int
        In all tiles, views and networks.
    n_small_boxes, n_large_boxes : int
        Of these dropped for the size of their boxes.
    n_cut : int
        Of the others, those that a tile's border cuts.
    n_duplicates : int
        Dropped because a better one shows the same object.
    """

    n_found: int
    n_small_boxes: int
    n_large_boxes: int
    n_cut: int
    n_duplicates: int


@dataclass(frozen=True)
class Ensemble:
    """Networks that all see the same tiles, each in the same views."""

    models: Sequence[Predictor]
    weights: Sequence[float]
    views: Views
    average: Literal["logits", "probabilities"] = "logits"

    def __post_init__(self) -> None:
        if self.average not in ("logits", "probabilities"):
            raise ValueError(f"average: expected 'logits' or 'probabilities'; got {self.average!r}")
        if len(self.views) == 0:
            raise ValueError("augment: expected one view or more; got none")
        if isinstance(self.weights, str) or not isinstance(self.weights, Iterable):
            raise TypeError(f"weights: expected one for each network; got {self.weights!r}")
        weights = [number("weights", weight) for weight in self.weights]
        if len(weights) != len(self.models) or not all(0 < w < math.inf for w in weights):
            raise ValueError(
                f"weights: expected {len(self.models)} finite numbers > 0, one for each network; "
                f"got {self.weights!r}"
            )
        object.__setattr__(self, "weights", weights)
        margins = sorted({model.margin for model in self.models})
        if len(margins) > 1:
            raise ValueError(f"model: expected networks of one margin; got margins {margins}")

    @property
    def margin(self) -> int:
        """Pixels by which outputs are smaller than tiles, at each side."""
        return self.models[0].margin

    @property
    def owns_output(self) -> bool:
        """Whether no later prediction writes to what `predictions` gave."""
        return all(model.owns_output for model in self.models)

    def __len__(self) -> int:
        return len(self.models) * len(self.views)

    def predictions(self, batch: Array) -> Iterator[Any]:
        """Outputs of the first network for each view, then of the next one."""
        for model in self.models:
            for _, seen in self.views.apply(batch):
                # Networks may write to what they get.
                yield model(batch if len(self) == 1 else _copy(seen))


class MapHead:
    """Maps are blended, and labels made of the whole map."""

    def __init__(
        self,
        grid: TileGrid,
        head: str,
        window: Window | Array,
        sigma: float,
        options: dict[str, Any],
        postprocess: Callable[..., Any] | None = None,
    ) -> None:
        self._grid, self._head, self._options = grid, head, options
        self._postprocess = postprocess
        self._window, self._sigma = window, sigma
        self._stitcher: Stitcher | None = None
        self._is_own = True  # whether nobody writes to maps later
        self._first: tuple[int, str] | None = None
        # What is wrong with the options shows before the networks have worked for hours.
        Stitcher(grid, 1, window=window, sigma=sigma)
        n_maps = grid.ndim + 1 if head == "flows" else 3
        if head == "hover" and options.get("activation") == "softmax":
            n_maps = 4
        empty = grid.shape if 0 in grid.shape else (0,) * grid.ndim
        self._nothing = np.zeros((n_maps, *empty), np.float32)
        if postprocess is None:
            self._labels_of(self._nothing)

    def predict(self, batch: Array, networks: Ensemble) -> Array:
        """Maps of a batch, (n, K, *tile): the mean over networks and views."""
        maps = self._mean(networks.predictions(batch), networks)
        got = (int(maps.shape[1]), dtype_name(maps))
        self._first = self._first or got
        if got != self._first:
            raise ValueError(
                "model: expected {} channels of {}, as for the first tiles; got {} of {}".format(
                    *self._first, *got
                )
            )
        return maps

    def _mean(self, outputs: Iterator[Array], networks: Ensemble) -> Array:
        first = next(outputs)
        if len(networks) == 1 and networks.views[0] == View():
            # What is captured in a CUDA graph, and says so nowhere, writes to one output again and
            # again.
            self._is_own = networks.owns_output and "cuda" not in str(Arrays(maps=first).device)
            return first
        n = self._grid.ndim
        return Views([*networks.views] * len(networks.models)).mean(
            itertools.chain([first], (_beside(first, maps) for maps in outputs)),
            self._grid.tile[-2:],
            self._channels(int(first.shape[1])),
            average=networks.average,
            weights=[weight for weight in networks.weights for _ in networks.views],
            channel_axis=-1 - n,
        )

    def _channels(self, n: int) -> tuple[str, ...]:
        if self._head == "flows":
            return CHANNELS["flows" if self._grid.ndim == 2 else "flows3d"]
        known = CHANNELS["hover" if n == 3 else "hover_softmax"]
        return (*known, *["scalar"] * (n - len(known)))

    def take(self, indices: NDArray[np.int64], maps: Array) -> list[int]:
        """Take the maps of some tiles; what of them `finish` can blend."""
        if self._stitcher is None:
            arrays = Arrays(maps=maps)
            self._whole = arrays.empty((maps.shape[1], *self._grid.shape), dtype_name(maps))
            self._stitcher = Stitcher(
                self._grid,
                maps.shape[1],
                window=self._window,
                sigma=self._sigma,
                out=self._whole,
                reject_nan=True,
            )
        return list(self._stitcher.take(indices, maps, copy=not self._is_own))

    def finish(self, rows: list[int]) -> None:
        """Blend what `take` has given; may run while more is taken."""
        assert self._stitcher is not None
        try:
            for row in rows:
                self._stitcher.blend(row)
        except ValueError as error:  # of a tile, which is the network's
            raise ValueError(str(error).replace("tile:", "model:", 1)) from error
        for _ in self._stitcher.ready():
            pass

    def labels(self, shape: tuple[int, ...]) -> Any:
        """Labels of an image of `shape`, and a report, if that is among the options."""
        if self._stitcher is None:  # an image without pixels
            return self._labels_of(self._nothing)
        maps = self._stitcher.result()
        if shape != self._grid.shape:
            maps = resize_bilinear(array_namespace(maps), maps, (shape[-2], shape[-1]))
        return self._labels_of(maps)

    def _labels_of(self, maps: Array) -> Any:
        if self._postprocess is not None:
            return self._postprocess(maps, **self._options)
        if self._head == "flows":
            return follow_flows(maps[:-1, ...], maps[-1, ...], **self._options)
        n = 1 if maps.shape[0] == 3 else 2
        prob = maps[0, ...] if n == 1 else maps[:n, ...]
        return hover_watershed(prob, maps[n : n + 2, ...], **self._options)


class InstanceHead:
    """Instances of all tiles are put together, each once, and pasted."""

    def __init__(
        self,
        grid: TileGrid,
        head: str,
        options: dict[str, Any],
        postprocess: Callable[..., Any] | None = None,
    ) -> None:
        self._grid, self._head, self._postprocess = grid, head, postprocess
        pasting = (*_OF_PASTING, *_OF_BOTH)
        self._pasting = {name: options[name] for name in pasting if name in options}
        self._merging = {name: v for name, v in options.items() if name not in _OF_PASTING}
        self._found: dict[int, Detections] = {}
        # What is wrong with the options shows before the networks have worked for hours.
        if postprocess is None:
            self._labels_of([], [], (0, 0))
        else:
            merge_detections([], [], **self._merging)

    def predict(self, batch: Array, networks: Ensemble) -> list[Detections]:
        """Detections of each tile, those of all networks and views together."""
        n = int(batch.shape[0])
        pooled: list[list[Detections]] = [[] for _ in range(n)]
        here = np.zeros((len(networks), 4), np.int64)
        views = itertools.cycle(networks.views)
        for view, outputs in zip(views, networks.predictions(batch), strict=False):
            for k, output in enumerate(outputs):
                found = view.undo(self._detections(output, view), self._grid.tile)
                if isinstance(found.masks, list) and not networks.owns_output:
                    found = replace(found, masks=[_copy(crop) for crop in found.masks])
                pooled[k].append(joined([found], here))  # a copy: the next view may overwrite it
        return [found[0] if len(found) == 1 else joined(found, here) for found in pooled]

    def _detections(self, output: Any, view: Any) -> Detections:
        if self._head == "labels":
            return _label_detections(output)
        found = as_detections(output, shape=view.shape(self._grid.tile))
        # NumPy has no bfloat16, and duplicates are found on the host.
        found = replace(found, boxes=_widened(found.boxes), scores=_widened(found.scores))
        if found.masks is None and len(found) and self._postprocess is None:
            raise ValueError("model: expected masks of head 'instances'; got boxes without any")
        if not all(np.isfinite(to_host(values)).all() for values in (found.boxes, found.scores)):
            raise ValueError("model: expected finite boxes and scores; got others")
        return found

    def take(self, indices: NDArray[np.int64], found: list[Detections]) -> None:
        """Take the detections of some tiles."""
        for i, of_tile in zip(indices.tolist(), found, strict=True):
            # From pixels of the tile to those of the part of it that lies in the image.
            start, inside = self._grid.start(i), self._grid[i]
            moved = [s - part.start for s, part in zip(start, inside, strict=True)]
            self._found[i] = joined([of_tile], np.array([[*moved, 0, 0]]))

    def finish(self, taken: None) -> None:
        """Nothing: instances are put together at the end."""

    def labels(self, shape: tuple[int, ...]) -> Any:
        """Labels of an image of `shape`, and a report, if that is among the options."""
        per_tile = [self._found[i] for i in range(len(self._grid))]
        return self._labels_of(per_tile, self._grid, shape)

    def _labels_of(
        self, per_tile: Sequence[Detections], grid: Sequence[Any], shape: tuple[int, ...]
    ) -> Any:
        both: Any = merge_detections(per_tile, grid, **self._merging, return_report=True)
        merged, report = both
        if self._found and shape != self._grid.shape:
            merged = _scaled(merged, *(n / m for n, m in zip(shape, self._grid.shape, strict=True)))
        if self._postprocess is not None:
            return self._postprocess(merged, shape, **self._pasting)
        boxes = merged.boxes if merged.mask_boxes is None else merged.mask_boxes
        masks = [] if merged.masks is None else merged.masks
        pasted = paste_masks(masks, boxes, merged.scores, shape, **self._pasting)
        if not isinstance(pasted, tuple):
            return pasted
        labels, of_pasting = pasted
        return labels, InstanceReport(
            **asdict(of_pasting),
            n_found=report.n_detections,
            n_small_boxes=report.n_small,
            n_large_boxes=report.n_large,
            n_cut=report.n_cut,
            n_duplicates=report.n_duplicates,
        )


def _scaled(found: Detections, y: float, x: float) -> Detections:
    xp = array_namespace(found.boxes)
    by = xp.asarray([x, y, x, y], dtype=found.boxes.dtype, device=device(found.boxes))
    covered = None if found.mask_boxes is None else found.mask_boxes * by
    return replace(found, boxes=found.boxes * by, mask_boxes=covered)


def _copy(array: Array) -> Array:
    arrays = Arrays(batch=array)
    copy = arrays.empty(tuple(array.shape), dtype_name(array))
    copy[...] = arrays["batch"]
    return copy


def _beside(first: Array, array: Array) -> Array:
    """An array of the library and on the device of the first one: networks may differ in it."""
    xp = array_namespace(first)
    if xp is array_namespace(array) and device(first) == device(array):
        return array
    return xp.asarray(to_host(array), device=device(first))


def _widened(values: Array) -> Array:
    if dtype_name(values) != "bfloat16":
        return values
    xp = array_namespace(values)
    return xp.astype(values, xp.float32)


def _label_detections(labels: Array) -> Detections:
    """The objects of a label image as detections of score 1, their crops bool."""
    numbered = to_host(relabel(labels))
    places = find_objects(numbered)
    boxes = [[x.start, y.start, x.stop, y.stop] for y, x in places]
    crops = [numbered[place] == i for i, place in enumerate(places, 1)]
    found = np.array(boxes, np.float64).reshape(-1, 4)
    return Detections(found, np.ones(len(boxes)), crops)
