"""From flow fields to labels, block by block: end bins, their histogram, seeds, labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellpost import _core
from cellpost.slide.blocks import Box, DiskImage
from cellpost.slide.objects import Objects

__all__ = ["FlowBins"]

_PENDING = -2  # a point that is not followed to its end yet
_HALO = 32  # first margin around a block; doubled for the points that leave it
_PEAK_RADIUS = 2
_GROW_RADIUS = 5
_NOWHERE = np.array([2**62, 2**62, 0, 0], np.int64)


@dataclass(frozen=True)
class FlowBins:
    """The passes that make labels.

    Bins are linear indices of the whole image. Where points end is kept on disk for each pixel,
    and so is the histogram; bins far from the block are looked up in windows of their own.

    Attributes
    ----------
    shape : (int, int)
        Of the image.
    sides : (int, int)
        Of the blocks.
    blocks : list of Box
        All of them.
    most_pixels : int
        Of a window.
    dP, cellprob : callable
        Give the maps of a window.
    folder : Path
        For what lies on disk.
    """

    shape: tuple[int, int]
    sides: tuple[int, int]
    blocks: list[Box]
    most_pixels: int
    dP: Callable[[Box], Any]
    cellprob: Callable[[Box], Any]
    folder: Path

    def objects(self, tell: Callable[[], None], **options: Any) -> tuple[Objects, int, int]:
        """The objects, measured; the pixels of the foreground; the seeds.

        `options` are of `_core.follow_region`; `tell` is called for each block of each of the
        three passes.
        """
        is_large = self.shape[0] * self.shape[1] >= 2**31
        bins = DiskImage(self.folder / "bins", self.shape, np.int64 if is_large else np.int32)
        counts = DiskImage(self.folder / "counts", self.shape, np.int32)
        labels = DiskImage(self.folder / "labels", self.shape, np.int32)
        n_foreground = 0
        busy, hit = set[int](), set[int]()  # blocks with foreground, and with ends of it
        for i, block in enumerate(self.blocks):
            ends = self._follow(block, options)
            if ends is not None:
                busy.add(i)
                n_foreground += int(np.count_nonzero(ends >= 0))
                bins.write(block, ends)
                boxes, where = self._destinations(ends)
                hit.update(where)
                for box in boxes:
                    histogram = counts.read(box)
                    _core.count_bins(ends, histogram, 0, offset=box.offset, global_shape=self.shape)
                    counts.write(box, histogram)
            tell()
        found = [(np.zeros(0, np.int64), np.zeros(0, np.int32))]
        for i, block in enumerate(self.blocks):
            if i in hit:
                found.append(self._seeds(counts, block))
            tell()
        seeds = _Seeds(self.shape, found)
        objects = Objects(labels, self.shape, seeds.n, self.sides, self.most_pixels)
        for i, block in enumerate(self.blocks):
            if i in busy:
                self._label(block, bins.read(block).astype(np.int64), counts, seeds, objects)
            tell()
        objects.kept[:] = objects.size > 0
        bins.remove()
        counts.remove()
        return objects, n_foreground, seeds.n

    def _follow(self, block: Box, options: dict[str, Any]) -> NDArray[np.int64] | None:
        """End bins of a block's pixels, -1 for background; None if there is nothing else.

        The window grows for those points alone that leave it, and around fewer pixels where it
        would become too large.
        """
        bins = np.full(block.shape, _PENDING, np.int64)
        todo, threshold = [(block, _HALO)], options["cellprob_threshold"]
        while todo:
            part, halo = todo.pop()
            window = part.grown(halo, self.shape)
            mine = np.ascontiguousarray(bins[part.within(block).slices])
            if not (mine == _PENDING).any():
                continue
            if window.n_pixels > self.most_pixels:
                if part.n_pixels == 1:
                    raise ValueError(
                        f"memory: expected enough for a window of {window.shape[0]} x "
                        f"{window.shape[1]} pixels, as far as the flow leads from pixel "
                        f"{part.offset}; got enough for {self.most_pixels} pixels"
                    )
                todo += [(half, halo) for half in part.halves()]
                continue
            cellprob, region = self.cellprob(window), part.within(window)
            if part == block and not (cellprob[region.slices] > threshold).any():
                return None
            _core.follow_region(
                self.dP(window),
                cellprob,
                mine,
                0,
                offset=window.offset,
                global_shape=self.shape,
                region=region.offset,
                **options,
            )
            bins[part.within(block).slices] = mine
            y, x = np.nonzero(mine == _PENDING)
            if len(y):
                left = Box(int(y.min()), int(x.min()), int(y.max()) + 1, int(x.max()) + 1)
                todo.append((left.of(part), 2 * halo))
        return bins

    def _destinations(self, bins: NDArray[np.int64]) -> tuple[list[Box], list[int]]:
        """Boxes that hold all bins, and the blocks that these lie in.

        It is one box or, if that were large, one in each of the blocks.
        """
        boxes = np.tile(_NOWHERE, (len(self.blocks), 1))
        _core.bound_bins(bins, boxes, 0, global_shape=self.shape, side=self.sides)
        where = np.flatnonzero(boxes[:, 2] > 0)
        boxes = boxes[where]
        if len(boxes) > 1:
            box = Box.around(boxes)
            if box.n_pixels <= min(4 * self.sides[0] * self.sides[1], self.most_pixels):
                return [box], where.tolist()
        return [Box(*row) for row in boxes.tolist()], where.tolist()

    def _seeds(self, counts: DiskImage, block: Box) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Bins and counts of a block's seeds."""
        window = block.grown(_PEAK_RADIUS, self.shape)
        found = counts.read(window)
        local = _core.find_seeds(found, 0)
        y, x = np.divmod(local, window.shape[1])
        y, x = y + window.y0, x + window.x0
        mine = (y >= block.y0) & (y < block.y1) & (x >= block.x0) & (x < block.x1)
        return y[mine] * self.shape[1] + x[mine], found.ravel()[local[mine]]

    def _label(
        self,
        block: Box,
        bins: NDArray[np.int64],
        counts: DiskImage,
        seeds: _Seeds,
        objects: Objects,
    ) -> None:
        """Label a block's pixels by their bins, and add them to the objects' measures."""
        labels = np.zeros(block.shape, np.int32)
        part = np.empty(block.shape, np.int32)
        (boxes, _), met = self._destinations(bins), []
        for box in boxes:
            window = box.grown(2 * _GROW_RADIUS, self.shape)
            ids, local = seeds.within(box.grown(_GROW_RADIUS, self.shape), window)
            # Growth is complete in the box alone, not in its margin.
            mine = bins if len(boxes) == 1 else self._only(bins, box)
            _core.label_bins(
                mine,
                counts.read(window),
                part,
                0,
                seeds=local,
                offset=window.offset,
                global_shape=self.shape,
            )
            _core.map_labels(part, np.append(0, ids).astype(np.int32), 0)
            np.maximum(labels, part, out=labels)
            met.append(ids)
        objects.labels.write(block, labels)
        if met:
            ids = np.unique(np.concatenate(met))
            objects.add(block, objects.rank(labels, ids), ids)

    def _only(self, bins: NDArray[np.int64], box: Box) -> NDArray[np.int64]:
        """The bins that lie in a box, -1 for the others."""
        y, x = np.divmod(bins, self.shape[1])
        inside = (y >= box.y0) & (y < box.y1) & (x >= box.x0) & (x < box.x1)
        return np.where(inside, bins, -1)


class _Seeds:
    """All seeds of an image; their ids are their ranks by count and bin, from 1."""

    def __init__(
        self, shape: tuple[int, int], found: list[tuple[NDArray[np.int64], NDArray[np.int32]]]
    ) -> None:
        bins = np.concatenate([bins for bins, _ in found])
        peaks = np.concatenate([peaks for _, peaks in found])
        self._width, self.n = shape[1], len(bins)
        order = np.argsort(bins)
        self._bins, peaks = bins[order], peaks[order]
        self._ids = np.empty(self.n, np.int64)
        self._ids[np.argsort(peaks, kind="stable")] = np.arange(1, self.n + 1)

    def within(self, box: Box, window: Box) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids of the seeds in a box, ascending, and their bins in a window."""
        low, high = np.searchsorted(self._bins, [box.y0 * self._width, box.y1 * self._width])
        y, x = np.divmod(self._bins[low:high], self._width)
        inside = (x >= box.x0) & (x < box.x1)
        ids = self._ids[low:high][inside]
        local = (y[inside] - window.y0) * window.shape[1] + x[inside] - window.x0
        order = np.argsort(ids)
        return ids[order], local[order]
