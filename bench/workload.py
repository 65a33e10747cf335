"""What is measured: simulated network outputs at the sizes of the tables.

Real nuclei (the data folder beside the checkout) are tiled in flipped and rotated copies; without
the folder, random ellipses are, and the tables say so. "slide" is the largest image of the NeurIPS
2022 cell segmentation challenge, 8415 x 10496, with nuclei shrunk so that about 76,000 fit.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simulate
from reference import flows as ref_flows
from reference import labels as ref_labels

DATA = Path(os.environ.get("CELLPOST_DATA", Path(__file__).resolve().parents[2] / "shared/data"))
SIZES = ("512", "2048", "4096", "8192", "slide")
NOISE = 0.5  # standard deviation on flows of length 5
SLIDE_SHAPE, SLIDE_TILE = (8415, 10496), 381


@dataclass(frozen=True)
class Workload:
    """Simulated outputs of one size; `labels` is what they were made from."""

    size: str
    source: str
    dP: np.ndarray
    cellprob: np.ndarray
    labels: np.ndarray
    n_cells: int
    n_foreground: int


def _shrink(labels, n):
    """Nearest-neighbour resize to n x n."""
    at = (np.arange(n) * labels.shape[0] + labels.shape[0] // 2) // n
    return labels[np.ix_(at, at)]


@functools.lru_cache(maxsize=2)
def _tile(n):
    path = DATA / "nuclei2d_labels.tif"
    if path.is_file():
        import tifffile

        labels, source = tifffile.imread(path), "real nuclei, tiled"
    else:
        labels, source = simulate.blobs((512, 512), 125, radius=(8, 16)), "random ellipses, tiled"
    if n != labels.shape[0]:
        labels = _shrink(labels, n)
    labels = ref_labels.relabel(labels)
    return labels, ref_flows.masks_to_flows(labels), source


@functools.lru_cache(maxsize=1)  # the slide's arrays take 1.4 GB
def make(size):
    """The workload of a size in SIZES, or of any other number of pixels a side."""
    shape = SLIDE_SHAPE if size == "slide" else (int(size), int(size))
    tile, flows, source = _tile(SLIDE_TILE if size == "slide" else 512)
    labels, flows = simulate.tile(tile, flows, shape)
    maps = simulate.outputs(labels, flows, noise=NOISE, seed=1)
    return Workload(
        size,
        source,
        maps.dP,
        maps.cellprob,
        labels,
        int(np.count_nonzero(np.bincount(labels.ravel())[1:])),
        int(np.count_nonzero(maps.cellprob > 0)),
    )
