"""The objects of a label image on disk, treated in windows that hold them whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellpost import _core
from cellpost.slide.blocks import Box, DiskImage

__all__ = ["Objects"]

Ids: TypeAlias = NDArray[np.int64]
_ABSENT = 2**62  # first pixel of an object without pixels


class Objects:
    """A table of objects with the ids 1..n, and the filters of a label image on disk.

    The image keeps the pixels of objects that were dropped: only the table knows.

    Parameters
    ----------
    labels : DiskImage
        Ids, changed in place.
    shape : (int, int)
        Of the image.
    n : int
        Largest id.
    sides : (int, int)
        Objects whose first pixels lie in the same block of this size are treated together.
    most_pixels : int
        Of a window.
    """

    def __init__(
        self,
        labels: DiskImage,
        shape: tuple[int, int],
        n: int,
        sides: tuple[int, int],
        most_pixels: int,
    ) -> None:
        self.labels, self._shape, self._sides, self._most = labels, shape, sides, most_pixels
        self.size = np.zeros(0, np.int64)
        self.first = np.zeros(0, np.int64)
        self.box = np.zeros((0, 4), np.int64)
        self.kept = np.zeros(0, np.bool_)
        self._rank = np.zeros(0, np.int32)
        self._extend(n + 1)

    def _extend(self, n: int) -> None:
        self.size = np.append(self.size, np.zeros(n, np.int64))
        self.first = np.append(self.first, np.full(n, _ABSENT, np.int64))
        nowhere = np.tile(np.array([_ABSENT, _ABSENT, 0, 0], np.int64), (n, 1))
        self.box = np.concatenate([self.box, nowhere])
        self.kept = np.append(self.kept, np.zeros(n, np.bool_))
        self._rank = np.append(self._rank, np.zeros(n, np.int32))

    @property
    def ids(self) -> Ids:
        """Those that are kept, ascending."""
        return np.flatnonzero(self.kept)

    @property
    def n(self) -> int:
        """How many are kept."""
        return int(np.count_nonzero(self.kept))

    def drop(self, which: NDArray[np.bool_]) -> int:
        """Drop objects by a mask over all ids; how many that were."""
        before = self.n
        self.kept &= ~which
        return before - self.n

    # ---- measuring --------------------------------------------------------------------------

    def rank(self, labels: NDArray[np.int32], ids: Ids) -> NDArray[np.int32]:
        """Replace ids by 1 + their place in a list, in place; those not listed by 0."""
        self._rank[ids] = np.arange(1, len(ids) + 1, dtype=np.int32)
        _core.map_labels(labels, self._rank, 0)
        self._rank[ids] = 0
        return labels

    def clear(self) -> None:
        """Forget all measures."""
        self.size[:], self.first[:] = 0, _ABSENT
        self.box[:] = [_ABSENT, _ABSENT, 0, 0]

    def add(self, block: Box, labels: NDArray[np.int32], ids: Ids) -> None:
        """Add a part of the image, in which the ranks of `ids` stand, to the measures."""
        rows, _ = _survey(labels, len(ids), holes=False)
        self._put(block, rows, ids)

    def _put(self, window: Box, rows: NDArray[np.int64], ids: Ids) -> None:
        there = rows[:, 0] > 0
        ids, rows = ids[there], rows[there]
        y, x = np.divmod(rows[:, 1], window.shape[1])
        first = (y + window.y0) * self._shape[1] + x + window.x0
        box = rows[:, 2:] + np.array([*window.offset, *window.offset])
        self.size[ids] += rows[:, 0]
        self.first[ids] = np.minimum(self.first[ids], first)
        self.box[ids, :2] = np.minimum(self.box[ids, :2], box[:, :2])
        self.box[ids, 2:] = np.maximum(self.box[ids, 2:], box[:, 2:])

    def measure(self, blocks: list[Box]) -> None:
        """Measure the kept objects again; they lie in the boxes they had."""
        parts = [(block, self.meeting(block)) for block in blocks]
        self.clear()
        for block, ids in parts:
            if len(ids):
                self.add(block, self.rank(self.labels.read(block), ids), ids)

    # ---- windows ----------------------------------------------------------------------------

    def meeting(self, box: Box) -> Ids:
        """Kept objects whose boxes share a pixel with this one, ascending."""
        at, high = self.box[:, :2], self.box[:, 2:]
        meets = self.kept & (at[:, 0] < box.y1) & (at[:, 1] < box.x1)
        meets &= (high[:, 0] > box.y0) & (high[:, 1] > box.x0)
        return np.flatnonzero(meets)

    def around(self, ids: Ids) -> Box:
        """The window that holds objects whole."""
        return Box.around(self.box[ids])

    def with_neighbours(self, ids: Ids) -> Box:
        """The window that also holds the objects whole that may touch them."""
        near = self.around(ids).grown(1, self._shape)
        return Box.around(np.concatenate([self.box[self.meeting(near)], np.array([near])]))

    def groups(self, window: Callable[[Ids], Box]) -> Iterator[tuple[Ids, Box]]:
        """All kept objects, those of a block together, and their windows."""
        ids = self.ids
        y, x = np.divmod(self.first[ids], self._shape[1])
        block = y // self._sides[0] * self._shape[1] + x // self._sides[1]
        ids = ids[np.argsort(block, kind="stable")]
        for group in np.split(ids, np.flatnonzero(np.diff(np.sort(block))) + 1):
            if len(group):
                yield from self._fitting(group, window)

    def _fitting(self, ids: Ids, window: Callable[[Ids], Box]) -> Iterator[tuple[Ids, Box]]:
        """In several windows where one is too large."""
        box = window(ids)
        if box.n_pixels <= self._most:
            yield np.sort(ids), box
        elif len(ids) == 1:
            self._refuse(int(ids[0]), box)
        else:
            sides = self.around(ids).shape
            ids = ids[np.argsort(self.box[ids, int(sides[1] > sides[0])], kind="stable")]
            for part in (ids[: len(ids) // 2], ids[len(ids) // 2 :]):
                yield from self._fitting(part, window)

    def _refuse(self, i: int, window: Box) -> None:
        y0, x0, y1, x1 = self.box[i].tolist()
        raise ValueError(
            f"memory: expected enough for a window of {window.shape[0]} x {window.shape[1]} "
            f"pixels: an object of {self.size[i]} pixels lies in rows {y0} to {y1 - 1}, columns "
            f"{x0} to {x1 - 1}; got enough for {self._most} pixels"
        )

    # ---- filters ----------------------------------------------------------------------------

    def bad_flows(
        self, dP: Callable[[Box], Any], threshold: float
    ) -> tuple[NDArray[np.bool_], int]:
        """Mask of the objects whose flow error is above the threshold; the diffusion's steps."""
        bad = np.zeros(len(self.size), np.bool_)
        if self.n == 0:
            return bad, 0
        extent = self.box[self.kept, 2:] - self.box[self.kept, :2]
        niter = 2 * (int(extent.sum(axis=1).max()) + 2)
        for ids, window in self.groups(self.with_neighbours):
            near = self.meeting(self.around(ids).grown(1, self._shape))
            labels = self.rank(self.labels.read(window), near)
            errors = np.empty(len(near), np.float64)
            _core.flow_error(labels, dP(window), errors, 0, niter=niter, global_shape=self._shape)
            bad[ids] = errors[np.searchsorted(near, ids)] > threshold
        return bad, niter

    def resolve_fragments(self, mode: _core.Fragments, *, holes: bool) -> tuple[int, Ids]:
        """Treat objects of several pieces; how many were dropped or added, and who has a hole."""
        n_fragments, with_hole = 0, []
        n_before = len(self.size)
        for ids, window in self.groups(self.around):
            labels = self.rank(self.labels.read(window), ids)
            if mode != _core.Fragments.keep:
                inside = labels > 0
                n_changed = _core.resolve_fragments(labels, 0, fragments=mode)["n_removed"]
                if n_changed:
                    n_fragments += n_changed
                    if mode == _core.Fragments.split:
                        ids = np.append(ids, len(self.size) + np.arange(n_changed))
                        self._extend(n_changed)
                    self._replace(window, inside, labels, ids)
                del inside
            rows, has_hole = _survey(labels, len(ids), holes=holes)
            self.size[ids], self.first[ids] = 0, _ABSENT
            self.box[ids] = [_ABSENT, _ABSENT, 0, 0]
            self._put(window, rows, ids)
            with_hole.append(ids[has_hole > 0])
        self.kept[n_before:] = True
        return n_fragments, np.concatenate([*with_hole, np.zeros(0, np.int64)])

    def fill_holes(self, ids: Ids, nested: _core.Nested) -> int:
        """Fill holes of kept objects, `ids` of which have one; how many pixels that changed.

        Objects with holes whose boxes overlap can fill each other's: they are treated together.
        """
        n_pixels = 0
        for cluster in self._clusters(ids[self.kept[ids]]):
            window = self.around(cluster)
            if window.n_pixels > self._most:
                self._refuse(int(cluster[np.argmax(self.size[cluster])]), window)
            inside = np.zeros(window.shape, np.bool_)
            for box in self.box[cluster].tolist():
                inside[Box(*box).within(window).slices] = True
            labels = np.where(inside, self.labels.read(window), np.int32(0))
            there = np.unique(labels)
            there = there[self.kept[there]].astype(np.int64)
            there = there[np.argsort(self.first[there])]  # the order decides who fills a hole
            n_changed = _core.fill_holes(self.rank(labels, there), 0, nested=nested)["n_pixels"]
            if n_changed:
                n_pixels += n_changed
                self._replace(window, inside, labels, there)
        return n_pixels

    def _replace(
        self, window: Box, where: NDArray[np.bool_], ranks: NDArray[np.int32], ids: Ids
    ) -> None:
        """Write ids by their ranks to some pixels of a window."""
        labels = self.labels.read(window)
        labels[where] = np.append(0, ids).astype(np.int32)[ranks[where]]
        self.labels.write(window, labels)

    def _clusters(self, ids: Ids) -> list[Ids]:
        """Objects in sets whose boxes do not overlap those of another set."""
        ids = ids[np.argsort(self.box[ids, 0], kind="stable")]
        y0, x0, y1, x1 = self.box[ids].T
        pairs = []
        active = np.zeros(0, np.int64)
        for i in range(len(ids)):
            active = active[y1[active] > y0[i]]
            met = active[(x0[active] < x1[i]) & (x1[active] > x0[i])]
            pairs.append(np.stack([np.full(len(met), i), met]))
            active = np.append(active, i)
        a, b = np.concatenate([*pairs, np.zeros((2, 0), np.int64)], axis=1)
        graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(len(ids), len(ids)))
        n, cluster = connected_components(graph, directed=False)
        order = np.argsort(cluster, kind="stable")
        return np.split(ids[order], np.searchsorted(cluster[order], np.arange(1, n))) if n else []

    def numbers(self) -> NDArray[np.int32]:
        """1..N by id in raster order of first pixels, 0 for dropped ones."""
        ids = self.ids
        out = np.zeros(len(self.size), np.int32)
        out[ids[np.argsort(self.first[ids])]] = np.arange(1, len(ids) + 1)
        return out


def _survey(
    labels: NDArray[np.int32], n: int, *, holes: bool
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Rows of pixels, first pixel and box of the labels 1..n, and which have a hole."""
    rows, has_hole = np.empty((n, 6), np.int64), np.zeros(n, np.int32)
    _core.survey_objects(labels, rows, has_hole if holes else None, 0)
    return rows, has_hole
