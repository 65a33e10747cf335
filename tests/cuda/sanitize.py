"""Every function on small CUDA arrays, for compute-sanitizer; fails if the CPU's bytes differ.

compute-sanitizer --tool memcheck --error-exitcode 1 python tests/cuda/sanitize.py
"""

from __future__ import annotations

import sys

import numpy as np
import torch

import cellpost


def cases():
    """Maps of odd shapes, 2D and 3D, with cells, without, all foreground, and with NaN."""
    rng = np.random.default_rng(0)
    for shape in [(1, 1), (1, 33), (37, 1), (65, 131), (1, 1, 1), (9, 17, 35)]:
        grid = np.indices(shape).astype(np.float32)
        at = np.stack([rng.uniform(0, n, 7) for n in shape]).astype(np.float32)
        to = at.reshape(len(shape), 7, *[1] * len(shape)) - grid[:, None]
        far = np.sqrt((to**2).sum(0))
        nearest = far.argmin(0)[None, None]
        towards = np.take_along_axis(to, nearest, 1)[:, 0]
        dP = 5 * towards / np.maximum(far.min(0), 1)
        dP = (dP + rng.normal(0, 0.5, dP.shape)).astype(np.float32)
        cellprob = (8 - far.min(0)).astype(np.float32)
        yield dP, cellprob
        yield dP, np.full_like(cellprob, -1)
        yield dP, np.full_like(cellprob, 1)
        odd = dP.copy()
        odd.ravel()[::5] = np.nan
        yield odd, cellprob


def results(dP, cellprob):
    """Name and array of everything that the functions give for these maps."""
    for sampling in ("cellpose", "centered"):
        for fill_holes in (True, "cellpose"):
            for fragments in ("keep", "largest", "split"):
                options = {"sampling": sampling, "fill_holes": fill_holes, "fragments": fragments}
                yield f"follow_flows {options}", cellpost.follow_flows(dP, cellprob, **options)
        ends = cellpost.flow_endpoints(dP, cellprob > 0, sampling=sampling)
        yield f"flow_endpoints {sampling}", ends
        yield "endpoints_to_labels", cellpost.endpoints_to_labels(ends, cellprob > 0)
    labels = cellpost.follow_flows(dP, cellprob, flow_threshold=None, min_size=0) * 3
    yield "masks_to_flows", cellpost.masks_to_flows(labels)
    yield "flow_error", cellpost.flow_error(labels, dP)
    yield "remove_bad_flows", cellpost.remove_bad_flows(labels, dP)
    for nested in ("keep", "overwrite"):
        yield f"fill_holes {nested}", cellpost.fill_holes(labels, nested=nested)
    yield "remove_small", cellpost.remove_small(labels, min_size=20)
    yield "remove_large", cellpost.remove_large(labels, max_size_fraction=0.1)
    for fragments in ("largest", "split"):
        yield f"resolve {fragments}", cellpost.resolve_fragments(labels, fragments=fragments)
    yield "relabel", cellpost.relabel(labels)


def main():
    """Run all cases on both devices."""
    n_compared = n_different = 0
    for dP, cellprob in cases():
        on_cuda = [torch.from_numpy(a).cuda() for a in (dP, cellprob)]
        pairs = zip(results(dP, cellprob), results(*on_cuda), strict=True)
        for (name, expected), (_, got) in pairs:
            n_compared += 1
            if not np.array_equal(
                expected, got.cpu().numpy(), equal_nan=expected.dtype.kind == "f"
            ):
                n_different += 1
                print(f"{name}: {dP.shape}: CUDA and CPU differ")
    print(f"{n_compared - n_different} passed, {n_different} failed")
    return 1 if n_different else 0


if __name__ == "__main__":
    sys.exit(main())
