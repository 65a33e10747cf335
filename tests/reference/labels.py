"""NumPy and SciPy oracle of the labels family: holes, sizes, fragments, numbering."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def objects(labels):
    """(id, bounding box) of each id present, ascending."""
    labels = np.asarray(labels)
    found = []
    for i in np.unique(labels[labels > 0]):
        at = np.nonzero(labels == i)
        found.append((int(i), tuple(slice(int(c.min()), int(c.max()) + 1) for c in at)))
    return found


def relabel(labels):
    """Ids 1..N in raster order of first appearance."""
    labels = np.asarray(labels)
    ids, first = np.unique(labels, return_index=True)
    ids, first = ids[ids > 0], first[ids > 0]
    out = np.zeros(labels.shape, np.int64)
    for new, old in enumerate(ids[np.argsort(first)], start=1):
        out[labels == old] = new
    return out


def _drop(labels, is_bad):
    labels = np.asarray(labels)
    ids, sizes = np.unique(labels[labels > 0], return_counts=True)
    return np.where(np.isin(labels, ids[is_bad(sizes)]), 0, labels).astype(labels.dtype)


def remove_small(labels, *, min_size=15):
    """Drops objects of fewer than `min_size` pixels."""
    return _drop(labels, lambda sizes: sizes < min_size)


def remove_large(labels, *, max_size_fraction=0.4):
    """Drops objects of more than that fraction of the image."""
    return _drop(labels, lambda sizes: sizes > np.asarray(labels).size * max_size_fraction)


def hole(labels, i):
    """The holes of object i (SciPy's default structure is the 4- or 6-neighbourhood)."""
    own = labels == i
    return ndimage.binary_fill_holes(own) & ~own


def fill_holes(labels, *, nested="keep"):
    """Holes get the label of the object around them; `nested` says what becomes of others there."""
    labels = np.asarray(labels)
    out = labels.copy()
    if nested == "overwrite":
        for i, _ in objects(labels):
            out[hole(out, i)] = i
        return out
    by_box = [(np.prod([s.stop - s.start for s in box]), i) for i, box in objects(labels)]
    for _, i in sorted(by_box, reverse=True):  # the smallest comes last and so wins
        out[hole(labels, i) & (labels == 0)] = i
    return out


def resolve_fragments(labels, *, fragments="largest"):
    """(labels, number of parts dropped or added). Parts touch by full connectivity.

    largest: the first of equals in raster order. split: the first part keeps the id, the others get
    ids above the largest in raster order.
    """
    labels = np.asarray(labels)
    full = np.ones([3] * labels.ndim)
    out = labels.copy()
    later, n_changed = [], 0
    for i, _ in objects(labels):
        parts, n = ndimage.label(labels == i, full)
        flat = parts.ravel()
        order = sorted(range(1, n + 1), key=lambda p: np.argmax(flat == p))
        n_changed += n - 1
        if fragments == "largest":
            keep = max(order, key=lambda p: np.sum(flat == p))  # max() takes the first of equals
            out[(parts > 0) & (parts != keep)] = 0
        else:
            later += [(int(np.argmax(flat == p)), parts == p) for p in order[1:]]
    for k, (_, part) in enumerate(sorted(later, key=lambda entry: entry[0])):
        out[part] = int(labels.max()) + 1 + k
    return out, n_changed
