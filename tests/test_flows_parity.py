"""The same answers as Cellpose 4.2.1.1, on simulated outputs for real nuclei.

Cellpose is run stage by stage with its own functions, so that each stage is compared by itself; at
the small sizes its one-call `compute_masks` must give the same as the stages, which shows that the
stages are put together as Cellpose does.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pytest
import simulate
from reference import flows as ref_flows
from reference import labels as ref_labels
from scipy import ndimage

import cellpost

pytestmark = pytest.mark.peer

THRESHOLD = 0.4
# At noise 2.2 the QC drops about half of the cells and many end points belong to no seed.
CASES = ["512-0", "512-0.5", "512-1.0", "512-2.2"]
VOLUMES = ["3d-0", "3d-0.5", "3d-1.0"]
LARGE = [
    pytest.param("2048-0", marks=pytest.mark.slow),
    pytest.param("2048-0.5", marks=pytest.mark.slow),
    pytest.param("2048-1.0", marks=pytest.mark.slow),
    pytest.param("4096-0", marks=pytest.mark.slow),
    pytest.param("4096-0.5", marks=pytest.mark.slow),
    pytest.param("4096-1.0", marks=pytest.mark.slow),
]


@dataclass(frozen=True)
class Case:
    """Simulated outputs and what Cellpose makes of them, stage by stage."""

    maps: simulate.Maps
    mask: np.ndarray
    ends: np.ndarray
    before_qc: np.ndarray
    errors: np.ndarray | None
    final: np.ndarray


def run_peer(peer, maps):
    import fastremap

    dynamics, utils = peer.dynamics, peer.utils
    logging.getLogger(dynamics.__name__).setLevel(logging.ERROR)
    mask = maps.cellprob > 0
    where = np.nonzero(mask)
    ends = dynamics.follow_flows(maps.dP * mask / 5.0, where, niter=200)
    before = dynamics.get_masks_torch(ends.int(), where, mask.shape)
    errors, after = None, before.copy()
    if mask.ndim == 2:
        errors, _ = dynamics.flow_error(before, maps.dP)
        after = fastremap.mask(after, 1 + np.flatnonzero(errors > THRESHOLD))
        fastremap.renumber(after, in_place=True)
    final = utils.fill_holes_and_remove_small_masks(after, min_size=15)
    return Case(maps, mask, ends.numpy(), before, errors, final)


@pytest.fixture(scope="module", params=[*CASES, *VOLUMES, *LARGE])
def case(request, peer):
    size, noise = request.param.split("-")
    if size == "4096" and not request.config.getoption("--full"):
        pytest.skip("takes minutes: --full or CELLPOST_TEST_FULL=1")
    if size == "3d":
        labels = ref_labels.relabel(request.getfixturevalue("nuclei3d"))
        flows = ref_flows.masks_to_flows(labels)
    else:
        labels = ref_labels.relabel(request.getfixturevalue("nuclei2d"))
        flows = ref_flows.masks_to_flows(labels)
        labels, flows = simulate.tile(labels, flows, (int(size), int(size)))
    maps = simulate.outputs(labels, flows, noise=float(noise), seed=1)
    return run_peer(peer, maps)


def bits(array):
    return np.ascontiguousarray(array, dtype=np.float32).view(np.int32)


def test_end_points_have_the_peers_bits(case, device):
    got = cellpost.flow_endpoints(device.put(case.maps.dP), device.put(case.mask))
    got = device.get(got)
    assert got.dtype == np.float32
    assert got.shape == case.ends.shape
    np.testing.assert_array_equal(got.astype(np.int64), case.ends.astype(np.int64))
    np.testing.assert_array_equal(bits(got), bits(case.ends))


def test_labels_before_quality_control_have_the_peers_ids(case, device):
    got = cellpost.endpoints_to_labels(device.put(case.ends), device.put(case.mask))
    np.testing.assert_array_equal(device.get(got), case.before_qc)
    got = cellpost.follow_flows(
        device.put(case.maps.dP),
        device.put(case.maps.cellprob),
        flow_threshold=None,
        min_size=0,
        fill_holes=False,
    )
    np.testing.assert_array_equal(device.get(got), case.before_qc)


def test_errors_and_decisions_are_the_peers(case, device):
    if case.errors is None:
        pytest.skip("Cellpose has no quality control in 3D")
    labels = case.before_qc.astype(np.int32)
    got = device.get(cellpost.flow_error(device.put(labels), device.put(case.maps.dP)))
    assert got.dtype == np.float64
    # The heat is the peer's but for the last few pixels (see below); the mean over up to some
    # thousand pixels is summed in another order, which costs at most n * 2^-53 of the sum.
    # Without noise the errors are 1e-15, squares of what float32 rounds off: there an ulp of a
    # unit vector (2^-52) times the difference (1e-8) is more than 1e-12 of the error.
    np.testing.assert_allclose(got, case.errors, rtol=1e-12, atol=1e-22)
    clear = np.abs(case.errors - THRESHOLD) >= 1e-6
    np.testing.assert_array_equal(
        got[clear] > THRESHOLD, case.errors[clear] > THRESHOLD, err_msg="QC decisions"
    )
    kept = cellpost.remove_bad_flows(device.put(labels), device.put(case.maps.dP))
    expected = set(np.flatnonzero(case.errors <= THRESHOLD) + 1)
    doubtful = set(np.flatnonzero(~clear) + 1)
    assert set(np.unique(device.get(kept))) - {0} - doubtful == expected - doubtful


def test_final_masks_are_the_peers(case, device):
    got, report = cellpost.follow_flows(
        device.put(case.maps.dP),
        device.put(case.maps.cellprob),
        fill_holes="cellpose",
        return_report=True,
    )
    got = device.get(got)
    np.testing.assert_array_equal(got, case.final)
    assert report.n_labels == case.final.max() > 0
    assert report.n_foreground == case.mask.sum()


def test_the_stages_of_this_file_are_the_peers_one_call(case, peer):
    if case.mask.size > 512 * 512:
        pytest.skip("shown at 512")
    one_call = peer.dynamics.compute_masks(
        case.maps.dP, case.maps.cellprob, do_3D=case.mask.ndim == 3, min_size=15
    )
    np.testing.assert_array_equal(one_call, case.final)


def peer_targets(peer, labels):
    if labels.ndim == 2:
        return peer.dynamics.masks_to_flows_gpu(labels)[0]
    return peer.dynamics.masks_to_flows_gpu_3d(labels)


@pytest.mark.parametrize("name", ["nuclei2d", "nuclei3d"])
def test_targets_are_the_peers_in_float32(name, request, peer, device):
    labels = ref_labels.relabel(request.getfixturevalue(name))
    expected = peer_targets(peer, labels)
    got = device.get(cellpost.masks_to_flows(device.put(labels.astype(np.int32))))
    assert got.dtype == np.float32
    # torch sums the neighbours of the last few pixels of each thread's share in another order, so
    # there the peer's float64 may be a few 2^-53 off, which can (rarely) round to the next
    # float32. Everywhere else the bits are the same.
    np.testing.assert_array_equal(bits(got), bits(expected.astype(np.float32)))


@pytest.mark.parametrize("niter", [1, 7, 50])
def test_targets_of_few_diffusion_steps_are_the_peers(niter, nuclei2d, peer, device):
    labels = ref_labels.relabel(nuclei2d[:200, :230])
    expected = peer.dynamics.masks_to_flows_gpu(labels, niter=niter)[0]
    got = cellpost.masks_to_flows(device.put(labels.astype(np.int32)), niter=niter)
    np.testing.assert_array_equal(bits(device.get(got)), bits(expected.astype(np.float32)))


def test_gaps_in_ids_change_no_target_although_the_peer_raises_on_them(nuclei2d, peer, device):
    gaps = nuclei2d.astype(np.int32)
    assert len(np.unique(gaps)) - 1 < gaps.max()
    with pytest.raises((TypeError, ValueError)):
        peer.dynamics.masks_to_flows_gpu(gaps.astype(np.int64))
    expected = peer_targets(peer, ref_labels.relabel(nuclei2d))
    got = device.get(cellpost.masks_to_flows(device.put(gaps)))
    np.testing.assert_array_equal(bits(got), bits(expected.astype(np.float32)))


@pytest.mark.parametrize("name", ["nuclei2d", "nuclei3d"])
@pytest.mark.parametrize("drop", [0.1, 0.4])
def test_filling_and_removing_small_objects_is_the_peers(
    name, drop, request, peer, device, monkeypatch
):
    labels = ref_labels.relabel(request.getfixturevalue(name)).astype(np.int32)
    rng = np.random.default_rng(5)
    labels[rng.random(labels.shape) < drop] = 0  # holes everywhere
    swap = rng.random(labels.shape) < 0.02  # and single pixels of other objects in them
    labels[swap] = rng.integers(1, labels.max() + 1, swap.sum())
    labels = ref_labels.relabel(labels).astype(np.int32)
    if labels.ndim == 3:
        # In 3D the peer's fill_voids (2.1.2) misses some exits: it scans the faces of the box for
        # runs of background and lets a run go on from the end of one row to the start of the next,
        # so that a pocket on the box's border may be filled that is no hole. SciPy's does not.
        monkeypatch.setattr(peer.utils.fill_voids, "fill", ndimage.binary_fill_holes)
    expected = peer.utils.fill_holes_and_remove_small_masks(labels.copy(), min_size=15)
    got = cellpost.relabel(cellpost.remove_small(device.put(labels), min_size=15))
    got = cellpost.fill_holes(got, nested="overwrite")
    got = cellpost.relabel(cellpost.remove_small(got, min_size=15))
    assert (device.get(got) != labels).any()
    np.testing.assert_array_equal(device.get(got), expected)
