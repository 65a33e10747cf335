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

import cellpost

DATA = Path(os.environ.get("CELLPOST_DATA", Path(__file__).resolve().parents[2] / "shared/data"))
SIZES = ("512", "2048", "4096", "8192", "slide")
HOVER_SIZES = ("512", "2048", "4096", "8192", "16384", "slide")
NOISE = 0.5  # standard deviation on flows of length 5
HOVER_NOISE = 0.1  # on maps from -1 to 1; on the logit of the probability ten times as much
# Detections and the image they are pasted to.
PASTE_SHAPES = {
    "100": (4096, 4096),
    "500": (4096, 4096),
    "1000": (4096, 4096),
    "20000": (4096, 4096),
    "100000": (10496, 8415),
}
TILE_SIZES = ("2048", "4096", "8192")
LABEL_SIZES = ("2048", "4096", "8192")
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


@dataclass(frozen=True)
class HoverWorkload:
    """Simulated HoVer maps of one size; `labels` is what they were made from."""

    size: str
    source: str
    prob: np.ndarray
    hv: np.ndarray
    labels: np.ndarray
    n_cells: int
    n_foreground: int


@functools.lru_cache(maxsize=1)  # 16384 x 16384 takes 4 GB
def make_hover(size):
    """HoVer maps of a size in HOVER_SIZES, or of any other number of pixels a side."""
    shape = SLIDE_SHAPE if size == "slide" else (int(size), int(size))
    tile, _, source = _tile(SLIDE_TILE if size == "slide" else 512)
    place = simulate.hover_from_labels(tile).hv[::-1]  # V, H: turns as flows do
    labels, place = simulate.tile(tile, place, shape)
    rng = np.random.default_rng(1)
    hv = place[::-1].copy()
    del place
    for plane in hv:
        plane += np.float32(HOVER_NOISE) * rng.standard_normal(shape, np.float32)
    prob = np.float32(10 * HOVER_NOISE) * rng.standard_normal(shape, np.float32)
    prob += np.where(labels > 0, np.float32(5), np.float32(-5))
    np.exp(np.negative(prob, out=prob), out=prob)
    np.reciprocal(prob + np.float32(1), out=prob)
    return HoverWorkload(
        size,
        source,
        prob,
        hv,
        labels,
        int(np.count_nonzero(np.bincount(labels.ravel())[1:])),
        int(np.count_nonzero(prob >= 0.5)),
    )


@dataclass(frozen=True)
class PasteWorkload:
    """Simulated detections scattered over an image."""

    size: str
    source: str
    masks: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray  # of the image's shape; not filled
    n_cells: int
    n_foreground: int  # pixels of all boxes


@functools.lru_cache(maxsize=1)  # 100,000 crops take 314 MB
def make_paste(size):
    """As many detections as PASTE_SIZES says, of the tile's nuclei, at random places."""
    n = int(size)
    shape = PASTE_SHAPES[size]
    tile, _, source = _tile(512)
    found = simulate.detections(tile)
    rng = np.random.default_rng(1)
    which = rng.integers(0, len(found.boxes), n)
    boxes = found.boxes[which]
    sides = boxes[:, 2:] - boxes[:, :2]
    corner = rng.uniform(0, 1, (n, 2)) * (np.array(shape[::-1]) - sides)
    boxes = np.concatenate([corner, corner + sides], 1).astype(np.float32)
    return PasteWorkload(
        size,
        source.removesuffix(", tiled"),
        found.masks[which],
        boxes,
        rng.permutation(n).astype(np.float32) / n,
        np.broadcast_to(np.int32(0), shape),
        n,
        int(sides.prod(1).sum()),
    )


def make_boxes(n, views):
    """Boxes of n nuclei on a slide, each found by several views, with scores."""
    rng = np.random.default_rng(2)
    sides = np.repeat(rng.uniform(12, 36, (n, 2)), views, 0)
    middle = np.repeat(rng.uniform(0, 1, (n, 2)) * SLIDE_SHAPE[::-1], views, 0)
    middle += rng.normal(0, 1, middle.shape)
    sides *= rng.uniform(0.9, 1.1, sides.shape)
    boxes = np.concatenate([middle - sides / 2, middle + sides / 2], 1).astype(np.float32)
    return boxes, rng.permutation(len(boxes)).astype(np.float32) / len(boxes)


@dataclass(frozen=True)
class TileWorkload:
    """A map and its tiles."""

    size: str
    image: np.ndarray  # (3, H, W)
    grid: cellpost.TileGrid
    tiles: np.ndarray  # (n, 3, 512, 512)
    labels: np.ndarray  # of the image's shape; not filled
    n_cells: int
    n_foreground: int  # all pixels


@functools.lru_cache(maxsize=1)  # 8192 x 8192 takes 5.5 GB
def make_tiles(size):
    """A square map of random numbers, cut into overlapping tiles."""
    side = int(size)
    image = np.random.default_rng(3).standard_normal((3, side, side), np.float32)
    grid = cellpost.TileGrid((side, side), tile=512, overlap=0.6)
    labels = np.broadcast_to(np.int32(0), (side, side))
    return TileWorkload(size, image, grid, grid.extract(image), labels, 0, side * side)


@dataclass(frozen=True)
class LabelWorkload:
    """A label image, and one with errors; both with ids 1..n."""

    size: str
    source: str
    labels: np.ndarray
    found: np.ndarray
    n_cells: int
    n_foreground: int


LABEL_SHIFTS = ((0, 0), (1, 0), (2, -1), (-3, 3), (5, 4))  # pixels that a nucleus is off by


@functools.lru_cache(maxsize=1)
def make_labels(size):
    """Nuclei, and the same with places of their own, one in 20 missing, one in 20 split."""
    side = int(size)
    tile, _, source = _tile(512)
    labels, _ = simulate.tile(tile, np.zeros((2, *tile.shape), np.float32), (side, side))
    labels = cellpost.relabel(labels)
    n = int(labels.max())
    rng = np.random.default_rng(4)
    kind = rng.integers(0, len(LABEL_SHIFTS), n + 1)
    kind[rng.random(n + 1) < 0.05] = -1
    found = np.zeros_like(labels)
    ids = np.arange(n + 1, dtype=np.int32)
    for k, shift in enumerate(LABEL_SHIFTS):
        moved = np.roll(np.where(kind == k, ids, 0)[labels], shift, (0, 1))
        np.copyto(found, moved, where=moved > 0)
    halves = np.where(rng.random(n + 1) < 0.05, n, 0).astype(np.int32)
    halves[0] = 0
    found[:, 1::2] += halves[found[:, 1::2]]  # comb-like: neither half reaches the threshold
    found = cellpost.relabel(found)
    return LabelWorkload(size, source, labels, found, n, int(np.count_nonzero(labels)))


def make_grid_of_cells(side):
    """(side / 4)**2 cells of 3 x 3 pixels, and the same moved by a pixel in another order."""
    at = np.arange(side) // 4
    inside = np.arange(side) % 4 < 3
    labels = (at[:, None] * (side // 4) + at + 1).astype(np.int32)
    labels *= inside[:, None] & inside
    order = np.random.default_rng(5).permutation(labels.max()).astype(np.int32) + 1
    return labels, np.roll(np.append(np.int32(0), order)[labels], 1, 1)
