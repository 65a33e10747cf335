"""Networks that note what they are shown, and one that finds a cell in a crop."""

from __future__ import annotations

import numpy as np

from cellpost import Detections

F = np.float32


class Spy:
    """A network that keeps what it was shown, and what it said."""

    def __init__(self, network):
        self._network, self.shown, self.said = network, [], []

    def __call__(self, batch):
        self.shown.append(np.array(batch))
        self.said.append(self._network(batch))
        return self.said[-1]

    @property
    def shapes(self):
        return [batch.shape for batch in self.shown]


def nothing(batch):
    """Detections of tiles without cells."""
    return [Detections(np.empty((0, 4)), np.empty(0), np.empty((0, 4, 4))) for _ in batch]


def found(boxes, scores, masks=None):
    """A detector that finds the same in all tiles; masks are full if not given."""
    boxes = np.asarray(boxes, float)
    masks = np.ones((len(boxes), 4, 4), F) if masks is None else np.asarray(masks, F)
    return lambda batch: [Detections(boxes, np.asarray(scores, float), masks) for _ in batch]


def everything(crops):
    """A segmenter to which all of each crop is cell."""
    return np.ones((len(crops), 1, *crops.shape[2:]), F)


def middle_cell(crops):
    """A segmenter of `Scene.encoded`: the cell that has most of the middle of the crop."""
    crops = np.asarray(crops)
    ids = crops[:, 0].astype(np.int64) * 2**24 + crops[:, 1].astype(np.int64)
    side = ids.shape[1]
    maps = np.zeros((len(ids), 1, side, side), F)
    for crop, out in zip(ids, maps[:, 0], strict=True):
        middle = crop[3 * side // 8 : 5 * side // 8, 3 * side // 8 : 5 * side // 8]
        present, count = np.unique(middle[middle > 0], return_counts=True)
        if len(present):
            out[...] = crop == present[count.argmax()]
    return maps
