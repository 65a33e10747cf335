"""Which cells of a tile a simulated network sees, and which it takes for one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellpost.labels import relabel, resolve_fragments

__all__ = ["Seen", "seen"]

_MISSED, _MERGED = 1, 2  # what a random number is for


class Seen(NamedTuple):
    """The objects that a simulated network sees in one tile."""

    labels: NDArray[np.int32]  # 1..n in raster order of first pixels
    ids: NDArray[np.int64]  # (n,) of the cells that they show, the lower one's of a pair


def seen(ids: NDArray[np.int64], *, missed: float, merged: float, seed: int) -> Seen:
    """What of the cells of a tile, given by their ids, is seen.

    Each cell's luck is its own and the same in every tile; of the pairs that touch here and are
    drawn to merge, those do that are the first choice of both. Separate pieces are objects each.
    """
    present, names = _named(ids)
    seen_as = np.arange(len(present), dtype=np.int32)
    if missed > 0:
        seen_as[_uniform(seed, _MISSED, present) < missed] = 0
    if merged > 0:
        lower, upper = _touching(seen_as[names])
        chance = _uniform(seed, _MERGED, present[lower], present[upper])
        first = np.full(len(present), merged)
        np.minimum.at(first, lower, chance)
        np.minimum.at(first, upper, chance)
        both = (chance < merged) & (chance == first[lower]) & (chance == first[upper])
        seen_as[upper[both]] = lower[both]
    of_cells = seen_as[names]
    labels = relabel(resolve_fragments(of_cells, fragments="split"))
    shown = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    shown[labels] = of_cells
    return Seen(labels, present[shown[1:]])


def _named(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The ids that are there, 0 first, and for each pixel the place of its id among them."""
    flat = ids.ravel()
    # Runs of equal pixels, of which there are few, are sorted instead of pixels.
    starts = np.concatenate([[True], flat[1:] != flat[:-1]])[: flat.size].nonzero()[0]
    present, ranks = np.unique(np.concatenate([[0], flat[starts]]), return_inverse=True)
    lengths = np.diff(starts, append=flat.size)
    return present, np.repeat(ranks[1:].astype(np.int32), lengths).reshape(ids.shape)


def _touching(labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pairs of labels that share a side of a pixel, the lower one first, each pair once."""
    pairs = []
    for one, other in (
        (labels[1:].ravel(), labels[:-1].ravel()),
        (labels[:, 1:].ravel(), labels[:, :-1].ravel()),
    ):
        meet = (one != other) & (one > 0) & (other > 0)
        pairs.append(np.sort(np.stack([one[meet], other[meet]]), axis=0))
    lower, upper = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return lower, upper


def _uniform(seed: int, purpose: int, *ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """A number in [0, 1) for each id, or tuple of ids: a hash, not a sequence."""
    mixed = np.full(ids[0].shape, seed, np.uint64)
    for part in (np.uint64(purpose), *(one.astype(np.uint64) for one in ids)):
        # The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
        mixed = (mixed ^ part) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    numbers: NDArray[np.float64] = (mixed >> np.uint64(11)) * 2.0**-53
    return numbers
