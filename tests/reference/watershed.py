"""Slow, obvious watershed and HoVer post-processing. The arithmetic of each style is spelt out."""

from __future__ import annotations

import heapq
from fractions import Fraction

import numpy as np
from scipy import ndimage

from reference import labels as ref_labels

F, D = np.float32, np.float64


def neighbours(ndim, connectivity):
    """Steps by distance, then in raster order."""
    steps = [tuple(s - 1 for s in step) for step in np.ndindex(*[3] * ndim)]
    far = {step: sum(abs(s) for s in step) for step in steps}
    return sorted((s for s in steps if 0 < far[s] <= connectivity), key=lambda s: far[s])


def watershed(energy, markers, *, mask=None, connectivity=1):
    """One queue of (level, age) for the whole image."""
    energy, markers = np.asarray(energy), np.asarray(markers)
    inside = np.ones(energy.shape, bool) if mask is None else np.asarray(mask) != 0
    out = np.where(inside, markers, 0)
    level = dict(np.ndenumerate(energy))
    last = {p for p, v in level.items() if v != v}  # NaN comes after all numbers
    key = {p: (1, 0) if p in last else (0, v) for p, v in level.items()}
    queue = [(key[tuple(p)], age, tuple(p)) for age, p in enumerate(np.argwhere(out))]
    heapq.heapify(queue)
    age = len(queue)
    steps = neighbours(energy.ndim, connectivity)
    while queue:
        at, _, p = heapq.heappop(queue)
        for step in steps:
            q = tuple(i + s for i, s in zip(p, step, strict=True))
            if not all(0 <= i < n for i, n in zip(q, energy.shape, strict=True)):
                continue
            if out[q] or not inside[q]:
                continue
            out[q] = out[p]
            heapq.heappush(queue, (max(key[q], at), age, q))
            age += 1
    return out


def remove_small(mask, min_size):
    """A mask without its 4-connected components of fewer pixels."""
    labels, _ = ndimage.label(mask)
    size = np.bincount(labels.ravel())
    size[0] = 0
    return (size >= max(min_size, 1))[labels] & (labels > 0)


def footprint(radius, shape):
    """OpenCV's ellipse or scikit-image's disk."""
    d = np.arange(-radius, radius + 1)
    if shape == "disk":
        return d[:, None] ** 2 + d**2 <= radius**2
    half = np.rint(np.sqrt(radius**2 - d**2.0))
    return np.abs(d) <= half[:, None]


def opening(mask, radius, shape):
    """What lies outside the image erodes nothing."""
    around = footprint(radius, shape)
    eroded = ndimage.binary_erosion(mask, around, border_value=1)
    return ndimage.binary_dilation(eroded, around)


def fill_holes(mask, connectivity):
    """Background that a flood of `connectivity` does not reach from outside is set."""
    structure = ndimage.generate_binary_structure(mask.ndim, connectivity)
    return ndimage.binary_fill_holes(mask, structure)


def fused(a, b, c, real):
    """a * b + c of an array and two numbers, rounded once."""
    exact = [Fraction(float(v)) * Fraction(float(b)) + Fraction(float(c)) for v in np.ravel(a)]
    return np.array([real(_rounded(v, real)) for v in exact], real).reshape(np.shape(a))


def _rounded(v, real):
    """The nearest number of a type, ties to even."""
    if real is D:
        return v.numerator / v.denominator
    near = F(v.numerator / v.denominator)  # rounded twice: look at the neighbours, too
    around = [np.nextafter(near, F(s) * F(np.inf)) for s in (-1, 1)]
    best = min([near, *around], key=lambda n: abs(Fraction(float(n)) - v))
    tied = [
        n for n in [near, *around] if abs(Fraction(float(n)) - v) == abs(Fraction(float(best)) - v)
    ]
    return min(tied, key=lambda n: int(n.view(np.int32)) & 1)


def binomial(n):
    """Coefficients of (1 + x)^n."""
    k = np.ones(1)
    for _ in range(n):
        k = np.convolve(k, [1.0, 1.0])
    return k


def kernels(ksize):
    """Sobel's smoothing and derivative kernels."""
    return binomial(ksize - 1), np.convolve(binomial(ksize - 2), [-1.0, 1.0])


def extent(values):
    """Smallest and largest finite value, (0, 0) if there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def rescaled_hovernet(values, real):
    """OpenCV's min-max normalisation to float32, with the factors rounded to float32."""
    low, high = extent(values)
    scale = F(1.0 / (high - low) if high - low > np.finfo(D).eps else 0.0)
    shift = F(0) - F(low * D(scale))
    return fused(values, scale, shift, real).astype(F)


def sobel_hovernet(image, axis, ksize):
    """Rows from the first tap on; columns in pairs from the middle on; in float64, not fused."""
    smooth, derive = kernels(ksize)
    r = ksize // 2
    across, down = (derive, smooth) if axis == 1 else (smooth, derive)
    wide = np.pad(image.astype(D), [(0, 0), (r, r)], mode="reflect")
    n = image.shape[1]
    rows = across[0] * wide[:, :n]
    for j in range(1, ksize):
        rows = rows + across[j] * wide[:, j : j + n]
    tall = np.pad(rows, [(r, r), (0, 0)], mode="reflect")
    at = [tall[j : j + image.shape[0]] for j in range(ksize)]
    out = down[r] * at[r] if axis == 1 else np.zeros_like(rows)
    for k in range(1, r + 1):
        pair = at[r + k] - at[r - k] if axis == 0 else at[r + k] + at[r - k]
        out = out + down[r + k] * pair
    return out


def rescaled_monai(values):
    """(v - low) / (high - low) in float32."""
    low, high = (F(v) for v in extent(values))
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def correlate_fused(image, kernel, axis, mode):
    """Taps from the first on, each product added by a fused operation, in float32."""
    r = len(kernel) // 2
    pad = [(0, 0), (0, 0)]
    pad[axis] = (r, r)
    wide = np.pad(image, pad, mode=mode)
    out = np.zeros_like(image)
    for j, weight in enumerate(kernel):
        part = np.take(wide, np.arange(image.shape[axis]) + j, axis)
        exact = [
            F(_rounded(Fraction(float(weight)) * Fraction(float(p)) + Fraction(float(o)), F))
            for p, o in zip(part.ravel(), out.ravel(), strict=True)
        ]
        out = np.array(exact, F).reshape(out.shape)
    return out


def sobel_monai(image, axis, ksize):
    """Kernels scaled to unit slope, columns first."""
    smooth, derive = kernels(ksize)
    smooth, derive = F(smooth / 2 ** (ksize - 1)), F(derive / 2 ** (ksize - 2))
    down, across = (derive, smooth) if axis == 0 else (smooth, derive)
    return correlate_fused(correlate_fused(image, down, 0, "reflect"), across, 1, "reflect")


def gaussian(sigma):
    """Integrals of a Gaussian over pixels, by an error function in float32."""
    from math import erf

    tail = int(max(sigma * 4, 0.5) + 0.5)
    x = np.arange(-tail, tail + 1, dtype=F)
    t = F(0.70710678) / F(sigma)
    high, low = (np.array([erf(v) for v in t * (x + F(s))], F) for s in (0.5, -0.5))
    return np.maximum(F(0.5) * (high - low), F(0))


def hover_gradients(hv, *, style="hovernet", ksize=21):
    """Derivatives of H along x and of V along y."""
    hv = np.where(np.isfinite(hv), hv, F(0)).astype(F), np.asarray(hv, F)
    out = []
    for finite, given, axis in zip(hv[0], hv[1], (1, 0), strict=True):
        known = np.where(np.isfinite(given), given, np.nan)
        low, high = extent(known)
        ends = np.array([low, high], F)
        if style == "hovernet":
            unit = _with_extent(rescaled_hovernet, finite, ends, F)
            out.append(sobel_hovernet(unit, axis, ksize))
        else:
            unit = _with_extent(rescaled_monai, finite, ends)
            out.append(sobel_monai(unit, axis, ksize))
    return out


def _with_extent(rescale, values, ends, *args):
    """Rescales by the extent of `ends`, which values that were not finite do not widen."""
    both = np.concatenate([values.ravel(), ends])
    outside = (both < ends[0]) | (both > ends[1])
    scaled = rescale(np.where(outside, np.nan, both), *args) if not outside.any() else None
    if scaled is None:
        raise NotImplementedError("0 must lie within the range")
    return scaled[: values.size].reshape(values.shape)


def watershed_markers(
    prob,
    hv,
    *,
    style="hovernet",
    threshold=0.5,
    border_threshold=0.4,
    ksize=None,
    radius=2,
    shape=None,
    min_size=10,
    sigma=1.0,
):
    """(markers, energy, mask)."""
    prob = np.asarray(prob, F)
    with np.errstate(invalid="ignore"):
        mask = remove_small(np.isfinite(prob) & (prob >= F(threshold)), min_size)
    is_monai = style == "monai"
    gradients = hover_gradients(hv, style=style, ksize=ksize or (5 if is_monai else 21))
    if is_monai:
        sides = [F(1) - rescaled_monai(g) for g in gradients]
        limit = F(border_threshold)
    else:
        sides = [F(1) - rescaled_hovernet(g, D) for g in gradients]
        limit = border_threshold
    border = np.where(mask, np.maximum(np.maximum(*sides), 0), 0)
    inner = fill_holes(mask & ~(border >= limit), 2 if is_monai else 1)
    inner = opening(inner, radius, shape or ("disk" if is_monai else "ellipse"))
    markers, _ = ndimage.label(remove_small(inner, min_size))
    if is_monai:
        depth = np.where(mask, F(1) - border.astype(F), F(0))
        taps = gaussian(sigma)
        energy = -correlate_fused(
            correlate_fused(depth, taps, 0, "constant"), taps, 1, "constant"
        ).astype(D)
    else:
        depth = np.where(mask, 1.0 - border.astype(D), 0.0)
        wide = np.pad(depth, 1, mode="reflect" if min(depth.shape) > 1 else "edge")
        h, w = depth.shape
        energy = -sum(
            wide[i : i + h, j : j + w] * (wi * wj / 16)
            for i, wi in enumerate((1, 2, 1))
            for j, wj in enumerate((1, 2, 1))
        )
    return markers, energy, mask


def hover_watershed(prob, hv, *, connectivity=1, **options):
    """Labels in raster order of their first pixels."""
    markers, energy, mask = watershed_markers(prob, hv, **options)
    labels = watershed(energy, markers, mask=mask, connectivity=connectivity)
    return ref_labels.relabel(labels)
