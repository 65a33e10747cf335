"""Pasting as the reference tools do it, one instance and one pixel after the other."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np

F = np.float32


def _fma(a, b, c):
    """float32 fma: the product of two float32 is exact in float64."""
    return F(np.float64(a) * np.float64(b) + np.float64(c))


def _taps_detectron2(n, low, high, pixel):
    grid = (F(pixel) + F(0.5) - F(low)) / (F(high) - F(low)) * F(2) - F(1)
    at = _fma(grid + F(1), F(n) / F(2), F(-0.5))
    if not (np.isfinite(at) and -2 <= at <= n + 1):
        return -2, F(0), F(0)
    below = np.floor(at)
    return int(below), F(1) - (at - below), at - below


def _paste_detectron2(mask, box, shape):
    """``grid_sample(align_corners=False)`` in the sum order of PyTorch's CPU kernel."""
    h, w = mask.shape
    out = np.zeros(shape, F)
    for y in range(shape[0]):
        i, s, n = _taps_detectron2(h, box[1], box[3], y)
        for x in range(shape[1]):
            j, e, w_ = _taps_detectron2(w, box[0], box[2], x)

            def at(k, m):
                return mask[k, m] if 0 <= k < h and 0 <= m < w else F(0)

            v = at(i, j) * (s * e)
            v = _fma(s * w_, at(i, j + 1), v)
            v = _fma(n * e, at(i + 1, j), v)
            out[y, x] = _fma(n * w_, at(i + 1, j + 1), v)
    return out


def _taps_torchvision(n, size, pixel):
    at = max(_fma(F(n) / F(size), F(pixel) + F(0.5), F(-0.5)), F(0))
    i = min(int(at), n - 1)
    weight = min(max(at - F(i), F(0)), F(1))
    return i, min(i + 1, n - 1), F(1) - weight, weight


def _paste_torchvision(mask, box, shape):
    """``roi_heads.paste_masks_in_image`` with PyTorch's CPU ``interpolate``."""
    padded = np.pad(mask, 1)
    h, w = padded.shape
    scale = F(float(w) / (w - 2))  # the width's, for both axes
    ends = []
    for low, high in ((box[1], box[3]), (box[0], box[2])):
        half, middle = (F(high) - F(low)) * F(0.5) * scale, (F(high) + F(low)) * F(0.5)
        ends.append((int(middle - half), int(middle + half)))
    (y0, y1), (x0, x1) = ends
    n_y, n_x = max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1)
    out = np.zeros(shape, F)
    for y in range(max(y0, 0), min(y1 + 1, shape[0])):
        i, i_, s, n = _taps_torchvision(h, n_y, y - y0)
        for x in range(max(x0, 0), min(x1 + 1, shape[1])):
            j, j_, e, w_ = _taps_torchvision(w, n_x, x - x0)
            a, b, c, d = padded[i, j], padded[i, j_], padded[i_, j], padded[i_, j_]
            if n_y + n_x <= 128:
                v = _fma(s * e, a, s * w_ * b)
                out[y, x] = _fma(n * w_, d, _fma(n * e, c, v))
            else:
                top, bottom = _fma(a, e, b * w_), _fma(c, e, d * w_)
                out[y, x] = _fma(top, s, bottom * n)
    return out


def _paste_nearest(mask, box, shape):
    """The value whose part of the box holds the pixel's centre, in exact numbers."""
    h, w = mask.shape
    x0, y0, x1, y1 = (Fraction(float(F(v))) for v in box)
    out = np.zeros(shape, F)
    half = Fraction(1, 2)
    for y in range(shape[0]):
        for x in range(shape[1]):
            if y0 <= y + half < y1 and x0 <= x + half < x1:
                i = floor((y + half - y0) * h / (y1 - y0))
                j = floor((x + half - x0) * w / (x1 - x0))
                out[y, x] = mask[i, j]
    return out


_STYLES = {
    "detectron2": _paste_detectron2,
    "torchvision": _paste_torchvision,
    "nearest": _paste_nearest,
}


def paste_values(mask, box, shape, style):
    """Values of one crop in the whole image, float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _STYLES[style](np.asarray(mask).astype(F), np.asarray(box).astype(F), shape)


def compose(insides, scores, *, min_size=0):
    """Label image and index from the pixels of each instance, (N, H, W) bool."""
    n, *shape = insides.shape
    owner = np.zeros(shape, np.int64)
    for i in sorted(range(n), key=lambda i: (scores[i], -i)):  # the best comes last
        owner[insides[i]] = i + 1
    labels, index = np.zeros(shape, np.int32), []
    ids, first, sizes = np.unique(owner, return_index=True, return_counts=True)
    for i in ids[np.argsort(first)].tolist():
        if i and sizes[ids == i] >= min_size:
            index.append(i - 1)
            labels[owner == i] = len(index)
    return labels, np.array(index, np.int64)


def paste_masks(masks, boxes, scores, shape, *, threshold=0.5, min_score=0.0, min_size=0, style):
    """Label image and index of `cellpost.paste_masks`."""
    insides = np.zeros((len(masks), *shape), bool)
    for i, (mask, box, score) in enumerate(zip(masks, boxes, scores, strict=True)):
        if score >= min_score and box[2] > box[0] and box[3] > box[1]:
            insides[i] = paste_values(mask, box, shape, style) >= F(threshold)
    return compose(insides, scores, min_size=min_size)
