"""Simulated network outputs: maps made from labels, as a perfect network with noise would give.

`dP` is five times the labels' flow targets plus seeded Gaussian noise, `cellprob` a logit of +5 in
the cells and -5 outside. No network is run; everything made here is called simulated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from reference import flows as ref_flows
from reference import labels as ref_labels
from scipy import ndimage


@dataclass(frozen=True)
class Maps:
    """Simulated outputs and the labels they come from."""

    dP: np.ndarray
    cellprob: np.ndarray
    labels: np.ndarray


def _turns(ndim, square):
    """Every flip, and in 2D with square tiles every rotation, as (quarter turns, flipped axes)."""
    for k in range(4 if square and ndim == 2 else 1):
        for flips in np.ndindex(*[2] * ndim):
            yield k, flips


def _turn_labels(labels, k, flips):
    axes = [a for a, f in enumerate(flips) if f]
    return np.flip(np.rot90(labels, k) if k else labels, axes)


def _turn_flows(flows, k, flips):
    """The vectors turn with the picture: rot90 takes (dy, dx) to (-dx, dy)."""
    for _ in range(k):
        flows = np.stack([-np.rot90(flows[1]), np.rot90(flows[0])])
    axes = [a for a, f in enumerate(flips) if f]
    flows = np.flip(flows, [a + 1 for a in axes]).copy()
    flows[axes] *= -1
    return flows


def tile(labels, flows, shape):
    """Flipped and rotated copies side by side until `shape` is filled; every copy has its own ids.

    Returns (labels, flows). A cell cut by the last tile's edge stays cut.
    """
    labels = ref_labels.relabel(labels)
    counts = [-(-n // m) for n, m in zip(shape, labels.shape, strict=True)]
    turns = list(_turns(labels.ndim, len(set(labels.shape)) == 1))
    full = [c * m for c, m in zip(counts, labels.shape, strict=True)]
    out, out_flows = np.zeros(full, np.int32), np.zeros((labels.ndim, *full), np.float32)
    for i, at in enumerate(np.ndindex(*counts)):
        k, flips = turns[i % len(turns)]
        to = tuple(slice(a * m, (a + 1) * m) for a, m in zip(at, labels.shape, strict=True))
        copy = _turn_labels(labels, k, flips)
        out[to] = np.where(copy > 0, copy + i * labels.max(), 0)
        out_flows[(slice(None), *to)] = _turn_flows(flows, k, flips)
    crop = tuple(slice(0, n) for n in shape)
    return out[crop].copy(), out_flows[(slice(None), *crop)].copy()


def outputs(labels, flows, *, noise=0.0, cellprob_noise=0.0, seed=0):
    """Maps with noise of that standard deviation; the flows have length 5."""
    rng = np.random.default_rng(seed)
    dP = np.float32(5) * np.asarray(flows, np.float32)
    if noise:
        dP += np.float32(noise) * rng.standard_normal(dP.shape, dtype=np.float32)
    cellprob = np.where(labels > 0, np.float32(5), np.float32(-5))
    if cellprob_noise:
        cellprob += np.float32(cellprob_noise) * rng.standard_normal(labels.shape, np.float32)
    return Maps(dP, cellprob, labels)


def from_labels(labels, *, noise=0.0, cellprob_noise=0.0, seed=0):
    """Maps of a small label image; its flow targets are the oracle's."""
    labels = np.asarray(labels)
    flows = ref_flows.masks_to_flows(labels)
    return outputs(labels, flows, noise=noise, cellprob_noise=cellprob_noise, seed=seed)


def blobs(shape, n, *, seed=0, radius=(2.5, 6.0)):
    """Up to `n` random ellipses or ellipsoids that may touch; hidden ones leave gaps in the ids."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape)
    labels = np.zeros(shape, np.int32)
    for i in range(n, 0, -1):  # later ones lie on top, so that ids are not in raster order
        at = [rng.uniform(0, m) for m in shape]
        radii = rng.uniform(*radius, size=len(shape))
        distance = sum(((g - a) / r) ** 2 for g, a, r in zip(grid, at, radii, strict=True))
        labels[distance <= 1] = i
    return labels


# ---- HoVer maps ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class HoverMaps:
    """Simulated outputs of a HoVer network and the labels they come from."""

    prob: np.ndarray
    hv: np.ndarray
    labels: np.ndarray


def hover_from_labels(labels, *, noise=0.0, seed=0):
    """A pixel's place in its cell along x and y, -1 to 1, and the probability of being in one.

    Both with Gaussian noise of that standard deviation (on the logit of the probability ten times
    as much); outside of cells the maps are noise around 0.
    """
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    flat = labels.ravel()
    n = int(flat.max()) + 1
    hv = np.zeros((2, *labels.shape), np.float32)
    size = np.maximum(np.bincount(flat, minlength=n), 1)
    for out, at in zip(hv, (1, 0), strict=True):
        place = np.broadcast_to(
            np.arange(labels.shape[at], dtype=np.float64).reshape((-1, 1) if at == 0 else (1, -1)),
            labels.shape,
        ).ravel()
        offset = place - (np.bincount(flat, place, minlength=n) / size)[flat]
        low, high = np.full(n, -1e-9), np.full(n, 1e-9)
        np.minimum.at(low, flat, offset)
        np.maximum.at(high, flat, offset)
        scaled = np.where(offset < 0, -offset / low[flat], offset / high[flat])
        out[...] = np.where(flat > 0, scaled, 0).reshape(labels.shape)
    logit = np.where(labels > 0, np.float32(5), np.float32(-5))
    if noise:
        hv += np.float32(noise) * rng.standard_normal(hv.shape, np.float32)
        logit += np.float32(10 * noise) * rng.standard_normal(labels.shape, np.float32)
    return HoverMaps(1 / (1 + np.exp(-logit)), hv, labels)


@dataclass(frozen=True)
class Found:
    """Simulated detections of a mask head, and the labels they come from."""

    masks: np.ndarray  # (N, size, size) probabilities
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def detections(labels, *, size=28, jitter=0.3, noise=0.05, seed=0):
    """Boxes, mask crops and scores of every object, as a mask head with errors would give.

    Boxes are the objects' with Gaussian errors of `jitter` pixels; crops are the objects seen at
    `size` x `size` places of the box, blurred, with noise; scores are random.
    """
    rng = np.random.default_rng(seed)
    labels = ref_labels.relabel(labels)
    slices = ndimage.find_objects(labels)
    box = np.array([(x.start, y.start, x.stop, y.stop) for y, x in slices], np.float64)
    box = box.reshape(-1, 4) + rng.normal(0, jitter, (len(slices), 4))
    box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 1)
    masks = np.empty((len(box), size, size), np.float32)
    at = (np.arange(size) + 0.5) / size
    for begin in range(0, len(box), 4096):  # bounds the scratch
        part = box[begin : begin + 4096, :, None]
        x = np.clip(part[:, 0] + at * (part[:, 2] - part[:, 0]), 0, labels.shape[1] - 1).astype(int)
        y = np.clip(part[:, 1] + at * (part[:, 3] - part[:, 1]), 0, labels.shape[0] - 1).astype(int)
        ids = np.arange(begin, begin + len(part), dtype=labels.dtype)[:, None, None] + 1
        mine = (labels[y[:, :, None], x[:, None, :]] == ids).astype(np.float32)
        mine = ndimage.uniform_filter(mine, (1, 3, 3))
        mine += np.float32(noise) * rng.standard_normal(mine.shape, np.float32)
        masks[begin : begin + 4096] = np.clip(mine, 0, 1)
    scores = rng.uniform(0.3, 1, len(box)).astype(np.float32)
    return Found(masks, box.astype(np.float32), scores, labels)


# ---- label tiles --------------------------------------------------------------------------------


def packed_discs(shape, *, radius=(4, 14), tries=4000, clip=1.0, seed=0):
    """Discs or balls of random radii, most of which touch others: each as large as these let it.

    With `clip` > 1 they are so much larger and meet at straight edges half-way.
    """
    rng = np.random.default_rng(seed)
    at, radii = np.empty((tries, len(shape))), np.empty(tries)
    n = 0
    for _ in range(tries):
        place, wanted = rng.uniform(0, shape), rng.uniform(*radius)
        room = (np.linalg.norm(at[:n] - place, axis=1) - radii[:n]).min(initial=np.inf)
        if room >= radius[0]:
            at[n], radii[n] = place, min(wanted, room)
            n += 1
    labels, nearest = np.zeros(shape, np.int32), np.full(shape, np.inf)
    for i in range(n):
        reach = radii[i] * clip
        part = tuple(
            slice(max(int(p - reach) - 1, 0), min(int(p + reach) + 2, m))
            for p, m in zip(at[i], shape, strict=True)
        )
        squares = [(g - p) ** 2 for g, p in zip(np.ogrid[part], at[i], strict=True)]
        square = sum(squares)
        power = square - radii[i] ** 2
        mine = (square <= reach**2) & (power < nearest[part])
        labels[part][mine], nearest[part][mine] = i + 1, power[mine]
    return labels


def label_tiles(labels, grid, *, pieces=False, seed=None):
    """Perfect label tiles: ids 1..n of each tile, or with a seed random ones with gaps.

    With `pieces` parts of an object that do not hang together in a tile are objects of their own.
    """
    rng = np.random.default_rng(seed)
    tiles = []
    for tile in grid.extract(labels):
        ids = ref_labels.relabel(tile)
        if pieces:
            every = np.zeros_like(ids)
            for i in range(1, int(ids.max()) + 1):
                parts, _ = ndimage.label(ids == i, np.ones((3,) * ids.ndim))
                every[parts > 0] = parts[parts > 0] + every.max()
            ids = every
        n = int(ids.max())
        if seed is not None:
            chosen = rng.choice(3 * n + 3, n, replace=False) + 1
            ids = np.concatenate([[0], chosen])[ids].astype(np.int32)
        tiles.append(ids)
    return tiles
