"""Metrics from the definitions: dense tables, whole-image comparisons, one object at a time.

Stardist's matching and HoVer-Net's indices are written down from their published rules.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.optimize import linear_sum_assignment


def ids_of(labels):
    return [int(i) for i in np.unique(labels) if i != 0]


def tables(true, pred):
    """Intersections and unions, (N, M), of all pairs of objects."""
    t, p = ids_of(true), ids_of(pred)
    inter, union = np.zeros((len(t), len(p)), int), np.zeros((len(t), len(p)), int)
    for i, j in itertools.product(range(len(t)), range(len(p))):
        one, other = true == t[i], pred == p[j]
        inter[i, j], union[i, j] = (one & other).sum(), (one | other).sum()
    return t, p, inter, union


def matching(true, pred, threshold):
    """Stardist's numbers: most pairs that reach the threshold, then the greatest sum of IoU."""
    t, p, inter, union = tables(true, pred)
    iou = inter / np.maximum(union, 1)
    n, m = iou.shape
    pairs, scores = [], []
    if n and m and (iou >= threshold).any():
        cost = -(iou >= threshold).astype(float) - iou / (2 * min(n, m))
        for i, j in zip(*linear_sum_assignment(cost), strict=True):
            if iou[i, j] >= threshold:
                pairs.append((t[i], p[j]))
                scores.append(iou[i, j])
    tp, total = len(pairs), float(np.sum(scores))
    fp, fn = m - tp, n - tp
    return {
        "n_true": n,
        "n_pred": m,
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "precision": tp / (tp + fp) if tp else 0,
        "recall": tp / (tp + fn) if tp else 0,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp else 0,
        "accuracy": tp / (tp + fp + fn) if tp else 0,
        "mean_true_score": total / n if n else 0,
        "mean_matched_score": total / tp if tp else 0,
        "panoptic_quality": total / (tp + fp / 2 + fn / 2) if n or m else 0,
        "pairs": set(pairs),
    }


def best_sum(rows, columns, scores, wanted):
    """(most wanted pairs, greatest sum of scores then) of all ways to pair up, by trying them."""
    best = (0, 0.0)
    edges = list(zip(rows, columns, scores, wanted, strict=True))

    def go(k, used_rows, used_columns, count, total):
        nonlocal best
        best = max(best, (count, total))
        for e in range(k, len(edges)):
            i, j, s, w = edges[e]
            if i not in used_rows and j not in used_columns:
                go(e + 1, used_rows | {i}, used_columns | {j}, count + bool(w), total + s)

    go(0, frozenset(), frozenset(), 0, 0.0)
    return best


def aggregated_jaccard(true, pred, unique):
    """HoVer-Net's ``get_fast_aji`` and ``get_fast_aji_plus``; 0 if both are empty."""
    t, p, inter, union = tables(true, pred)
    iou = np.where(inter > 0, inter / (union + 1e-6), 0)
    if unique:
        chosen = [(i, j) for i, j in zip(*linear_sum_assignment(-iou), strict=True) if iou[i, j]]
    else:
        chosen = [(i, int(iou[i].argmax())) for i in range(len(t)) if len(p) and iou[i].max() > 0]
    top = sum(inter[i, j] for i, j in chosen)
    bottom = sum(union[i, j] for i, j in chosen)
    bottom += sum((true == t[i]).sum() for i in range(len(t)) if i not in {c[0] for c in chosen})
    bottom += sum((pred == p[j]).sum() for j in range(len(p)) if j not in {c[1] for c in chosen})
    return top / bottom if bottom else 0.0


def dice(true, pred):
    total = (true > 0).sum() + (pred > 0).sum()
    return 2 * ((true > 0) & (pred > 0)).sum() / total if total else 0.0


def without_border(labels, n):
    """The labels less all objects that have a pixel among the n outermost."""
    outer = np.ones(labels.shape, bool)
    outer[tuple(slice(n, max(size - n, n)) for size in labels.shape)] = False
    return np.where(np.isin(labels, np.unique(labels[outer])) & (n > 0), 0, labels)


def challenge(true, pred, threshold, match, slide=5000 * 5000, window=2000):
    """(tp, fp, fn) of the NeurIPS 2022 challenge's script; `match` counts for one window."""
    if true.size < slide:
        windows = [(true, pred)]
    else:
        size = [-(-n // window) * window for n in true.shape]
        padded = [np.pad(x, [(0, s - n) for s, n in zip(size, x.shape, strict=True)])
                  for x in (true, pred)]  # fmt: skip
        windows = [
            tuple(x[y : y + window, z : z + window] for x in padded)
            for y in range(0, size[0], window)
            for z in range(0, size[1], window)
        ]
    sums = np.zeros(3, int)
    for one, other in windows:
        one, other = without_border(one, 2), without_border(other, 2)
        if other.any():
            sums += match(one, other, threshold)
    return tuple(int(s) for s in sums)


def seam_shares(labels, places, offsets=range(3, 9), clear=3):
    """(share on seams, share beside them, ids cut straight) of a 2D image, pixel by pixel."""

    def line(axis, k):
        return (labels[k - 1], labels[k]) if axis == 0 else (labels[:, k - 1], labels[:, k])

    def share(lines):
        cells = [(a, b) for at in lines for a, b in zip(*line(*at), strict=True) if a or b]
        return sum(a != b for a, b in cells) / len(cells) if cells else 0.0

    seams = [(axis, k) for axis in range(2) for k in places[axis]]
    beside = {
        (axis, k + d)
        for axis, k in seams
        for d in [*offsets, *(-o for o in offsets)]
        if 0 < k + d < labels.shape[axis] and min(abs(k + d - s) for s in places[axis]) >= clear
    }
    cut = set()
    for at in seams:
        for mine, other in (line(*at), line(*at)[::-1]):
            for k in range(len(mine) - 2):
                run = set(mine[k : k + 3].tolist())
                if len(run) == 1 and run != {0} and (mine[k : k + 3] != other[k : k + 3]).all():
                    cut |= run
    return share(seams), share(beside), cut
