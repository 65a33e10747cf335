"""The flows family: times beside Cellpose's with equal answers, floors, threads, memory.

Each timed result is compared with the peer's where that runs (--peer-max-size), and checked against
the cells that the maps were made from everywhere.
"""

from __future__ import annotations

import numpy as np
import pytest
from conftest import fastest

import cellpost

# Floors. Bytes are what has to cross the memory bus at least once, whatever the method; operations
# are floating-point operations without any shortcut, so that G/s may exceed what the CPU can do
# where points are found to run in circles and their remaining steps are skipped.
NITER = 200
# A step of one point in 2D (core/flows_trace.h): per axis x + 1, fma, floor, far, near = 5;
# 4 weights; per component 1 product and 3 fma; 2 additions of the flow; per axis 2 bounds.
STEP_OPERATIONS = 2 * 5 + 4 + 2 * 4 + 2 + 2 * 2
# An iteration of the diffusion at one pixel in 2D: 8 additions and a division.
HEAT_OPERATIONS = 9


def follow_floor(work, qc_niter=0):
    """Read dY, dX and cellprob, write int32 labels; steps of all points, iterations of the QC."""
    n = work.cellprob.size
    points = work.n_foreground
    return {
        "floor_bytes": n * (2 * 4 + 4 + 4),
        "operations": points * (NITER * STEP_OPERATIONS + qc_niter * HEAT_OPERATIONS),
    }


def endpoints_floor(work):
    """Read dY, dX and the mask (bool), write two float32 a point."""
    n = work.cellprob.size
    return {
        "floor_bytes": n * (2 * 4 + 1) + work.n_foreground * 8,
        "operations": work.n_foreground * NITER * STEP_OPERATIONS,
    }


def heat_niter(labels):
    """2 * max over the cells of (height + width + 2)."""
    from scipy.ndimage import find_objects

    boxes = [b for b in find_objects(labels) if b is not None]
    return 2 * max((b[0].stop - b[0].start) + (b[1].stop - b[1].start) + 2 for b in boxes)


def targets_floor(work):
    """Read int32 labels, write two float32 a pixel."""
    n = work.labels.size
    return {
        "floor_bytes": n * (4 + 2 * 4),
        "operations": work.n_foreground * heat_niter(work.labels) * HEAT_OPERATIONS,
    }


def error_floor(work):
    """Read int32 labels; read dY and dX where there is a cell."""
    return {
        "floor_bytes": work.labels.size * 4 + work.n_foreground * 8,
        "operations": work.n_foreground * heat_niter(work.labels) * HEAT_OPERATIONS,
    }


def peer_device(device):
    import torch

    return torch.device(device.name)


def peer_rounds(work):
    return 3 if max(work.labels.shape) <= 512 else 1


_peer_runs = {}


def peer_once(key, function, rounds):
    """Seconds and result of a peer's run, which several tests may share."""
    if key not in _peer_runs:
        if len(_peer_runs) > 4:
            _peer_runs.clear()
        _peer_runs[key] = fastest(function, rounds)
    return _peer_runs[key]


def assert_cells_found(labels, work):
    """Nearly every cell is found at this noise; slivers that a tile's edge cut off are not."""
    n = int(labels.max())
    assert 0.9 * work.n_cells <= n <= 1.02 * work.n_cells
    same = np.count_nonzero((labels > 0) == (work.labels > 0))
    assert same >= 0.98 * labels.size


@pytest.mark.parametrize("fill_holes", [True, "cellpose"])
def test_follow_flows(measure, device, work, peer, fill_holes):
    dP, cellprob = device.put(work.dP), device.put(work.cellprob)
    _, report = cellpost.follow_flows(dP, cellprob, fill_holes=fill_holes, return_report=True)
    timing, labels = measure(
        f"follow_flows fill_holes={fill_holes!r}",
        lambda: cellpost.follow_flows(dP, cellprob, fill_holes=fill_holes),
        **follow_floor(work, report.qc_niter),
    )
    labels = device.get(labels)
    assert_cells_found(labels, work)
    if peer is None:
        return
    seconds, theirs = peer_once(
        (work.size, device.name, "compute_masks"),
        lambda: peer.dynamics.compute_masks(
            work.dP, work.cellprob, min_size=15, device=peer_device(device)
        ),
        peer_rounds(work),
    )
    # The default keeps cells in holes of others, which Cellpose overwrites.
    _, filled = cellpost.follow_flows(dP, cellprob, fill_holes="cellpose", return_report=True)
    if filled.n_hole_pixels == report.n_hole_pixels:
        np.testing.assert_array_equal(labels, theirs)
        timing.agrees = "labels identical"
    timing.peer, timing.peer_seconds = "cellpose compute_masks", seconds


def test_flow_endpoints(measure, device, work, peer):
    mask = work.cellprob > 0
    dP, put_mask = device.put(work.dP), device.put(mask)
    timing, ends = measure(
        "flow_endpoints",
        lambda: cellpost.flow_endpoints(dP, put_mask),
        **endpoints_floor(work),
    )
    ends = device.get(ends)
    assert ends.shape == (2, work.n_foreground)
    if peer is None:
        return
    where = np.nonzero(mask)
    seconds, theirs = fastest(
        lambda: peer.dynamics.follow_flows(
            work.dP * mask / 5.0, where, niter=NITER, device=peer_device(device)
        ),
        peer_rounds(work),
    )
    theirs = theirs.cpu().numpy()
    np.testing.assert_array_equal(ends.astype(np.int64), theirs.astype(np.int64))
    timing.agrees = "int identical"
    timing.peer, timing.peer_seconds = "cellpose follow_flows", seconds


def test_masks_to_flows(measure, device, work, peer):
    labels = device.put(work.labels)
    timing, flows = measure(
        "masks_to_flows", lambda: cellpost.masks_to_flows(labels), **targets_floor(work)
    )
    flows = device.get(flows)
    # Between two pixels of equal heat a flow is 0; elsewhere its length is 1.
    length = np.hypot(flows[0], flows[1])
    assert np.all((np.abs(length - 1) < 1e-6) | (length == 0))
    assert not np.any(length[work.labels == 0])
    if peer is None:
        return
    compact = cellpost.relabel(work.labels)  # a gap in the ids makes Cellpose raise
    seconds, (theirs, _) = fastest(
        lambda: peer.dynamics.masks_to_flows_gpu(compact, device=peer_device(device)),
        peer_rounds(work),
    )
    # Unit vectors in float32 here, in float64 there: half a last place of 1, and sums of nine
    # neighbours' heat that torch may take in another order.
    np.testing.assert_allclose(flows, theirs, rtol=0, atol=1e-6)
    timing.agrees = "to 1e-6"
    timing.peer, timing.peer_seconds = "cellpose masks_to_flows_gpu", seconds


def test_flow_error(measure, device, work, peer):
    labels, dP = device.put(work.labels), device.put(work.dP)
    timing, errors = measure(
        "flow_error", lambda: cellpost.flow_error(labels, dP), **error_floor(work)
    )
    errors = device.get(errors)
    assert errors.shape == (work.n_cells,)
    assert np.all(errors >= 0)
    if peer is None:
        return
    compact = cellpost.relabel(work.labels)
    seconds, (theirs, _) = fastest(
        lambda: peer.dynamics.flow_error(compact, work.dP, device=peer_device(device)),
        peer_rounds(work),
    )
    # Ours by ascending id, theirs by first appearance; the means are summed in another order.
    ids = np.unique(work.labels)[1:]
    order = compact.ravel()[np.unique(work.labels, return_index=True)[1][1:]] - 1
    assert len(ids) == len(theirs)
    np.testing.assert_allclose(errors, theirs[order], rtol=1e-9, atol=0)
    np.testing.assert_array_equal(errors > 0.4, theirs[order] > 0.4)
    timing.agrees = "to 1e-9"
    timing.peer, timing.peer_seconds = "cellpose flow_error", seconds


def test_threads(measure_threads, work):
    measure_threads("follow_flows", lambda: cellpost.follow_flows(work.dP, work.cellprob))
    measure_threads("masks_to_flows", lambda: cellpost.masks_to_flows(work.labels))


@pytest.mark.parametrize("call", ["follow_flows", "masks_to_flows"])
def test_memory(measure_memory, work, call):
    arrays = (work.dP, work.cellprob) if call == "follow_flows" else (work.labels,)
    found = measure_memory(call, *arrays)
    if max(work.labels.shape) >= 2048:  # below, the interpreter's own memory blurs the figure
        assert found["extra_bytes"] <= 2.5 * work.dP.nbytes
