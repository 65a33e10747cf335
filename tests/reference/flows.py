"""NumPy oracle of the flows family: flow following, seeds, flow targets, flow error.

Written to be read, one rule after the other, for 2D and 3D. It uses neither cellpost nor a peer,
so that agreement of the three means something. Arrays are (channel, [z,] y, x); coordinates are in
the order of the axes unless a comment says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from . import labels as ref_labels

F = np.float32


def fma32(a, b, c):
    """float32 fused multiply-add: a * b + c, rounded once.

    The product of two float32 is exact in float64 (48 bits), the sum is not, and rounding it to
    nearest in float64 and then to float32 would round twice. So the float64 sum is rounded to odd
    instead: where it is inexact (TwoSum gives the error exactly) and its last bit is even, the
    other neighbour is taken. Rounding to odd with 53 >= 24 + 2 bits followed by rounding to 24 bits
    is the correctly rounded result (Boldo and Melquiond, 2008).
    """
    p = np.multiply(a, b, dtype=np.float64)
    c = np.broadcast_to(np.asarray(c, np.float64), p.shape)
    s = p + c
    back = s - p
    error = (p - (s - back)) + (c - back)
    even = (s.view(np.int64) & 1) == 0
    s = np.where((error != 0) & even, np.nextafter(s, np.where(error > 0, np.inf, -np.inf)), s)
    return s.astype(F)


def foreground(cellprob, threshold=0.0):
    """Finite and above the threshold, compared in float32."""
    cellprob = np.asarray(cellprob).astype(F)
    return np.isfinite(cellprob) & (cellprob > F(threshold))


def finite_flow(dP):
    """DP as float32; all components are zero where any of them is not finite."""
    dP = np.asarray(dP).astype(F)
    return np.where(np.isfinite(dP).all(axis=0), dP, F(0))


# ---- following ----------------------------------------------------------------------------------


def _corner_weights(at, ndim, sampling):
    """Weights of the near and the far corner; `at` is a position in pixels."""
    base = np.floor(at)
    far = at - base
    near = (base + F(1)) - at if ndim == 3 and sampling == "cellpose" else F(1) - far
    return base.astype(np.int64), near, far


def _sample(field, cell, near, far):
    """Bi- or trilinear sample of the zero-padded field (C, ...); lists are in the order x, y, z."""
    col, row = cell[0] + 1, cell[1] + 1
    if len(cell) == 2:
        value = field[:, row, col] * (near[1] * near[0])
        for dy, dx, weight in (
            (0, 1, near[1] * far[0]),
            (1, 0, far[1] * near[0]),
            (1, 1, far[1] * far[0]),
        ):
            value = fma32(field[:, row + dy, col + dx], weight, value)
        return value
    value = np.zeros((len(field), len(col)), F)
    for dz, wz in enumerate((near[2], far[2])):
        for dy, wy in enumerate((near[1], far[1])):
            for dx, wx in enumerate((near[0], far[0])):
                corner = field[:, cell[2] + 1 + dz, row + dy, col + dx]
                value = value + corner * ((wx * wy) * wz)
    return value


def flow_endpoints(dP, mask, *, niter=200, sampling="cellpose"):
    """End positions (ndim, n) float32 of the mask's pixels in raster order.

    cellpose: positions g in [-1, 1]; a sample lies at (g + 1) * L/2 - 0.5. 2D fuses that and the
    sum over the corners, 3D does not (torch's kernels differ). An axis of length 1: nothing moves.
    centered: displacement from the start pixel; a sample lies at the position.
    """
    mask = np.asarray(mask, bool)
    ndim, lengths = mask.ndim, mask.shape[::-1]  # x, y, z
    start = [c.astype(np.int64) for c in np.nonzero(mask)[::-1]]
    field = np.where(mask, finite_flow(dP), F(0))[::-1] / F(5)
    last = [F(n - 1) for n in lengths]
    if sampling == "cellpose":
        scale = [F(2.0 / (n - 1)) if n > 1 else F(0) for n in lengths]
        state = [
            (s.astype(F) / last[k]) * F(2) - F(1) if lengths[k] > 1 else np.zeros(len(s), F)
            for k, s in enumerate(start)
        ]
    else:
        scale = [F(1) if n > 1 else F(0) for n in lengths]
        state = [np.zeros(len(s), F) for s in start]
    field = np.stack([component * scale[k] for k, component in enumerate(field)])
    field = np.pad(field, [(0, 0)] + [(1, 1)] * ndim)

    for _ in range(niter):
        cell, near, far = [], [], []
        for k in range(ndim):
            if sampling == "centered":
                at = state[k]
            elif ndim == 2:
                at = fma32(state[k] + F(1), F(lengths[k]) / F(2), F(-0.5))
            else:
                at = ((state[k] + F(1)) * F(lengths[k]) - F(1)) / F(2)
            base, n, f = _corner_weights(at, ndim, sampling)
            cell.append(base + start[k] if sampling == "centered" else base)
            near.append(n)
            far.append(f)
        flow = _sample(field, cell, near, far)
        for k in range(ndim):
            low, high = F(-1), F(1)
            if sampling == "centered":
                low, high = F(0) - start[k].astype(F), last[k] - start[k].astype(F)
            state[k] = np.minimum(np.maximum(state[k] + flow[k], low), high)

    end = []
    for k in range(ndim):
        if sampling == "cellpose":
            end.append(((state[k] + F(1)) * F(0.5)) * last[k])
        else:  # rounding must not carry a point into the next pixel
            base = np.floor(state[k])
            pixel = (start[k] + base.astype(np.int64)).astype(F)
            below_next = np.nextafter(pixel + F(1), F(0))
            end.append(np.minimum(pixel + (state[k] - base), below_next))
    return np.stack(end[::-1]).astype(F)


# ---- labels -------------------------------------------------------------------------------------


def _neighbourhood(image, radius):
    """All shifts of `image` by up to `radius` along each axis, zeros coming in at the border."""
    padded = np.pad(image, radius)
    for shift in np.ndindex(*[2 * radius + 1] * image.ndim):
        yield padded[tuple(slice(s, s + n) for s, n in zip(shift, image.shape, strict=True))]


def seed_labels(endpoints, mask):
    """Label image whose ids are the ranks of the seeds (1 = smallest), and the number of seeds."""
    mask = np.asarray(mask, bool)
    shape = mask.shape
    bins = np.trunc(np.asarray(endpoints, np.float64)).astype(np.int64)
    flat = np.ravel_multi_index(tuple(bins), shape)
    counts = np.bincount(flat, minlength=mask.size).reshape(shape)

    highest = np.zeros_like(counts)
    for shifted in _neighbourhood(counts, 2):
        highest = np.maximum(highest, shifted)
    seeds = np.flatnonzero((counts == highest) & (counts > 10))
    seeds = seeds[np.argsort(counts.ravel()[seeds], kind="stable")]  # count, then linear index

    label_of_bin = np.zeros(shape, np.int64)
    for rank, seed in enumerate(seeds, start=1):
        at = np.unravel_index(seed, shape)
        window = tuple(slice(max(a - 5, 0), a + 6) for a in at)
        grown = np.zeros(counts[window].shape, bool)
        grown[tuple(a - w.start for a, w in zip(at, window, strict=True))] = True
        for _ in range(5):
            grown = np.any(list(_neighbourhood(grown, 1)), axis=0) & (counts[window] > 2)
        label_of_bin[window][grown] = rank  # the later seed, which is the larger, overwrites

    labels = np.zeros(shape, np.int64)
    labels[mask] = label_of_bin.ravel()[flat]
    return labels, len(seeds)


def endpoints_to_labels(endpoints, mask, *, max_size_fraction=0.4):
    """Labels before QC: too large ones dropped, ids in raster order."""
    labels, _ = seed_labels(endpoints, mask)
    labels = ref_labels.remove_large(labels, max_size_fraction=max_size_fraction)
    return ref_labels.relabel(labels)


# ---- diffusion ----------------------------------------------------------------------------------

# centre first; the sums are taken in this order
NEIGHBOURS_2D = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)]
NEIGHBOURS_3D = [(0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
FLOAT64_UP_TO = 4e7  # padded pixels


def centre(own):
    """Centre pixel of a mask given in its bounding box."""
    at = np.nonzero(own)
    if own.ndim == 2:
        y, x = (int(np.round(c.sum() / len(c))) for c in at)  # half to even
        if own[y, x]:
            return y, x
        nearest = np.argmin((at[1] - x) ** 2 + (at[0] - y) ** 2)  # the first of equals
    else:  # distances to the unrounded mean; counted from 1, added in the order z, x, y
        dz, dy, dx = ((c + 1) - np.mean(c + 1) for c in at)
        nearest = np.argmin(dz**2 + dx**2 + dy**2)
    return tuple(int(c[nearest]) for c in at)


def diffusion_steps(labels):
    """2 * max(h + w + 2), in 3D 6 * max(d + h + w + 3), over all objects."""
    extents = [sum(s.stop - s.start for s in box) for _, box in ref_labels.objects(labels)]
    if labels.ndim == 2:
        return 2 * (max(extents) + 2)
    return 6 * (max(extents) + 3)


def unit_flows(labels, *, niter=None, dtype=None):
    """Flow targets in float64, zero outside the objects."""
    labels = np.ascontiguousarray(labels, np.int64)
    if not labels.any():
        return np.zeros((labels.ndim, *labels.shape))
    padded = np.pad(labels, 1)
    if dtype is None:
        dtype = np.float64 if padded.size <= FLOAT64_UP_TO else np.float32
    niter = diffusion_steps(labels) if niter is None else niter
    centres = [
        np.ravel_multi_index(
            [c + s.start + 1 for c, s in zip(centre(labels[box] == i), box, strict=True)],
            padded.shape,
        )
        for i, box in ref_labels.objects(labels)
    ]
    pixels = np.flatnonzero(padded)
    offsets = NEIGHBOURS_2D if labels.ndim == 2 else NEIGHBOURS_3D
    strides = np.array(padded.strides) // padded.itemsize
    neighbours = [pixels + int(np.dot(o, strides)) for o in offsets]
    same = [padded.ravel()[n] == padded.ravel()[pixels] for n in neighbours]

    heat = np.zeros(padded.size, dtype)
    for _ in range(niter):
        heat[centres] += 1
        total = heat[neighbours[0]]
        for n, s in zip(neighbours[1:], same[1:], strict=True):
            total = total + np.where(s, heat[n], dtype(0))
        heat[pixels] = total / dtype(len(offsets))

    flows = np.zeros((labels.ndim, *labels.shape))
    # touching objects' heat enters the gradient
    gradient = [(heat[pixels + s] - heat[pixels - s]).astype(np.float64) for s in strides]
    square = gradient[0] ** 2
    for g in gradient[1:]:
        square = square + g**2
    for k, g in enumerate(gradient):
        flows[k][labels > 0] = g / (1e-60 + np.sqrt(square))
    return flows


def masks_to_flows(labels, *, niter=None):
    """Flow targets as float32."""
    return unit_flows(labels, niter=niter).astype(F)


def flow_error(labels, dP):
    """Mean over each object of |target - dP/5|^2, ascending id."""
    labels = np.asarray(labels)
    difference = unit_flows(labels) - finite_flow(dP) / F(5)
    square = (difference**2).sum(axis=0)
    return np.array([square[labels == i].mean() for i in np.unique(labels[labels > 0])])


def remove_bad_flows(labels, dP, *, flow_threshold=0.4):
    """Objects whose error is above the threshold become background; ids are kept."""
    labels = np.asarray(labels)
    bad = np.unique(labels[labels > 0])[flow_error(labels, dP) > flow_threshold]
    return np.where(np.isin(labels, bad), 0, labels).astype(labels.dtype)


# ---- the whole chain ----------------------------------------------------------------------------


@dataclass
class Report:
    """The counts of `cellpost.FlowReport`."""

    n_foreground: int = 0
    n_seeds: int = 0
    n_unassigned: int = 0
    n_empty_seeds: int = 0
    n_too_large: int = 0
    n_bad_flow: int = 0
    n_fragments: int = 0
    n_too_small: int = 0
    n_nested: int = 0
    n_hole_pixels: int = 0
    n_labels: int = 0
    qc_niter: int = 0

    def as_dict(self):
        return {f.name: int(getattr(self, f.name)) for f in fields(self)}


def n_ids(labels):
    return len(np.unique(labels[labels > 0]))


def follow_flows(
    dP,
    cellprob,
    *,
    cellprob_threshold=0.0,
    flow_threshold=0.4,
    niter=200,
    min_size=15,
    max_size_fraction=0.4,
    fill_holes=True,
    fragments="keep",
    sampling="cellpose",
):
    """(labels, Report)."""
    report = Report()
    mask = foreground(cellprob, cellprob_threshold)
    report.n_foreground = mask.sum()
    if mask.any():
        endpoints = flow_endpoints(dP, mask, niter=niter, sampling=sampling)
        labels, report.n_seeds = seed_labels(endpoints, mask)
    else:
        labels = np.zeros(mask.shape, np.int64)
    report.n_unassigned = (mask & (labels == 0)).sum()
    report.n_empty_seeds = report.n_seeds - n_ids(labels)

    before = n_ids(labels)
    labels = ref_labels.remove_large(labels, max_size_fraction=max_size_fraction)
    report.n_too_large = before - n_ids(labels)
    labels = ref_labels.relabel(labels)

    if mask.ndim == 2 and flow_threshold is not None and flow_threshold > 0 and labels.any():
        before = n_ids(labels)
        report.qc_niter = diffusion_steps(labels)
        labels = ref_labels.relabel(remove_bad_flows(labels, dP, flow_threshold=flow_threshold))
        report.n_bad_flow = before - n_ids(labels)

    if fragments != "keep":
        labels, report.n_fragments = ref_labels.resolve_fragments(labels, fragments=fragments)

    before = n_ids(labels)
    labels = ref_labels.relabel(ref_labels.remove_small(labels, min_size=min_size))
    report.n_too_small = before - n_ids(labels)
    if fill_holes:
        nested = "overwrite" if fill_holes == "cellpose" else "keep"
        before, old = n_ids(labels), labels
        labels = ref_labels.fill_holes(labels, nested=nested)
        report.n_nested = before - n_ids(labels)
        report.n_hole_pixels = (labels != old).sum()
        before = n_ids(labels)
        labels = ref_labels.relabel(ref_labels.remove_small(labels, min_size=min_size))
        report.n_too_small += before - n_ids(labels)
    report.n_labels = n_ids(labels)
    return labels, report
