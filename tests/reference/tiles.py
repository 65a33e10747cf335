"""Tiles and their blending, one tile and one pixel after the other, from the definitions."""

from __future__ import annotations

import itertools

import numpy as np

F = np.float32


def gaussian(tile, sigma=0.125):
    """MONAI's ``compute_importance_map``."""
    out = np.ones((), F)
    for side in tile:
        x = np.arange(-(side - 1) / 2, (side - 1) / 2 + 1, dtype=F)
        out = out[..., None] * np.exp(x**2 / F(-2 * (sigma * side) ** 2))
    return np.maximum(out, F(1e-3))


def sigmoid(tile):
    """Cellpose's ``_taper_mask``."""
    size = max(224, *tile)
    x = np.arange(size)
    line = 1 / (1 + np.exp((np.abs(x - x.mean()) - (size / 2 - 20)) / 7.5))
    out = np.ones((), F)
    for side in tile:
        begin, end = size // 2 - side // 2, size // 2 + side // 2 + side % 2
        out = out[..., None] * line[begin:end].astype(F)
    return out


def cosine(tile):
    """A Hann window of twice as many steps, at the odd ones."""
    out = np.ones((), F)
    for side in tile:
        out = out[..., None] * (np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2).astype(F)
    return out


def window_of(window, tile, sigma=0.125):
    if not isinstance(window, str):
        return np.asarray(window).astype(F)
    made = {"gaussian": lambda t: gaussian(t, sigma), "sigmoid": sigmoid, "cosine": cosine}
    return made.get(window, lambda t: np.ones(t, F))(tuple(tile))


def cores(size, tile, starts):
    """Per tile of a line, the pixels that are its own: up to the middle of what two share."""
    owner = np.zeros(size, int)
    for k in range(1, len(starts)):
        shared = (starts[k], starts[k - 1] + tile)  # from, to
        owner[max((shared[0] + shared[1]) // 2, 0) :] = k
    return owner


def stitch(tiles, shape, starts, *, window="gaussian", sigma=0.125, dtype=None):
    """(C, *shape) from tiles (n, C, *tile), n in the order of ``itertools.product(*starts)``."""
    tile = tiles.shape[2:]
    weights = window_of(window, tile, sigma)
    total = np.zeros(shape)
    sums = np.zeros((tiles.shape[1], *shape))
    owners = [cores(*axis) for axis in zip(shape, tile, starts, strict=True)]
    places = itertools.product(*(range(len(s)) for s in starts))
    with np.errstate(invalid="ignore", over="ignore"):
        for one, place in zip(tiles, places, strict=True):
            at, of = [], []
            for k, s, side, size in zip(place, starts, tile, shape, strict=True):
                at.append(slice(max(s[k], 0), min(s[k] + side, size)))
                of.append(slice(max(-s[k], 0), min(size - s[k], side)))
            counts = np.ones([a.stop - a.start for a in at], bool)
            if isinstance(window, str) and window == "core":
                for axis, (owner, k, a) in enumerate(zip(owners, place, at, strict=True)):
                    line = [1] * len(at)
                    line[axis] = -1
                    counts &= (owner[a] == k).reshape(line)
            weight = np.where(counts, weights[tuple(of)].astype(np.float64), 0)
            total[tuple(at)] += weight
            values = one[(slice(None), *of)].astype(np.float64)
            sums[(slice(None), *at)] += np.where(counts, weight * values, 0)
        mean = sums * (1 / total)
        dtype = dtype or str(tiles.dtype)
        if str(tiles.dtype) == "float64" and dtype == "float64":
            return mean
        return mean.astype(F).astype(dtype)
