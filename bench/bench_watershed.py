"""The watershed family: times beside HoVer-Net's chain (OpenCV, SciPy, scikit-image), MONAI's,
scikit-image's watershed, SciPy's and cc3d's labelling, with equal answers; threads and memory.
"""

from __future__ import annotations

import warnings

import numpy as np
import peers
import pytest
import workload
from conftest import fastest, make_work

import cellpost


@pytest.fixture(scope="session", params=workload.HOVER_SIZES)
def work(request):
    """Simulated HoVer maps of one size."""
    return make_work(request, workload.make_hover, f"HoVer maps (noise {workload.HOVER_NOISE})")


@pytest.fixture
def with_peers(request, work):
    """Whether the peers are to run at this size."""
    return max(work.labels.shape) <= request.config.getoption("--peer-max-size")


def installed(*modules):
    """Whether all of them can be imported."""
    try:
        for name in modules:
            __import__(name)
    except ImportError:
        return False
    return True


def rounds(work):
    return 3 if max(work.labels.shape) <= 2048 else 1


def floor(work):
    """Read prob, H and V, write int32 labels."""
    return {"floor_bytes": work.prob.size * (3 * 4 + 4)}


def assert_nuclei_found(labels, work):
    """Nearly every nucleus is found at this noise."""
    n = int(labels.max())
    assert 0.9 * work.n_cells <= n <= 1.02 * work.n_cells
    assert np.count_nonzero((labels > 0) == (work.labels > 0)) >= 0.98 * labels.size


def same(timing, labels, theirs):
    """Labels are the peer's but where equal energies meet, which is told."""
    differ = np.count_nonzero(labels != cellpost.relabel(theirs.astype(np.int32)))
    assert differ <= 1e-4 * labels.size
    timing.agrees = "labels identical" if differ == 0 else f"all but {differ} pixels (ties)"


def test_hover_watershed(measure, device, work, with_peers):
    prob, hv = device.put(work.prob), device.put(work.hv)
    timing, labels = measure(
        "hover_watershed", lambda: cellpost.hover_watershed(prob, hv), **floor(work)
    )
    labels = device.get(labels)
    assert_nuclei_found(labels, work)
    if not with_peers or not installed("cv2", "skimage"):
        return
    timing.peer_seconds, theirs = fastest(lambda: peers.hovernet(work.prob, work.hv), rounds(work))
    timing.peer = "HoVer-Net's chain"
    same(timing, labels, theirs)


@pytest.mark.filterwarnings("ignore")
def test_hover_watershed_monai(measure, device, work, with_peers):
    logit = np.log(np.clip(work.prob, 1e-6, 1 - 1e-6))
    logits = np.stack([np.log(np.clip(1 - work.prob, 1e-6, 1 - 1e-6)), logit])
    put, hv = device.put(logits), device.put(work.hv)
    timing, labels = measure(
        "hover_watershed style='monai'",
        lambda: cellpost.hover_watershed(put, hv, style="monai", activation="softmax"),
        **floor(work),
    )
    labels = device.get(labels)
    assert_nuclei_found(labels, work)
    if not with_peers or not installed("monai", "torch", "skimage"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timing.peer_seconds, theirs = fastest(
            lambda: peers.monai_chain(logits, work.hv), rounds(work)
        )
    timing.peer = "MONAI's chain"
    same(timing, labels, theirs)


def test_labels_and_table(measure, device, work, with_peers):
    types = (np.abs(work.labels) % 6).astype(np.int32)
    prob, hv, put = device.put(work.prob), device.put(work.hv), device.put(types)

    def run():
        labels = cellpost.hover_watershed(prob, hv)
        return labels, cellpost.instance_table(labels, put).to_dicts()

    timing, (labels, rows) = measure("hover_watershed + instance_table", run, **floor(work))
    labels = device.get(labels)
    assert len(rows) == labels.max()
    if not with_peers or not installed("cv2", "skimage"):
        return

    def theirs():
        found = peers.hovernet(work.prob, work.hv)
        return found, peers.hovernet_info(found, types)

    timing.peer_seconds, (found, info) = fastest(theirs, 1)
    timing.peer = "HoVer-Net's chain and loop"
    same(timing, labels, found)
    if timing.agrees == "labels identical":
        mine = {tuple(map(tuple, row["bbox"])): row for row in rows}
        for row in info.values():
            own = mine[tuple(map(tuple, row["bbox"]))]
            # quotients of the same integers, but from another corner: ulps of 16384
            np.testing.assert_allclose(own["centroid"], row["centroid"], rtol=0, atol=1e-11)
            assert (own["type"], own["type_prob"]) == (row["type"], row["type_prob"])
        timing.agrees = "labels, boxes, centroids, types"


def test_watershed(measure, device, work, with_peers):
    markers, energy, mask = cellpost.watershed_markers(work.prob, work.hv)
    put = [device.put(a) for a in (energy, markers, mask)]
    timing, labels = measure("watershed", lambda: cellpost.watershed(put[0], put[1], mask=put[2]))
    if not with_peers or not installed("skimage"):
        return
    from skimage.segmentation import watershed

    timing.peer_seconds, theirs = fastest(
        lambda: watershed(energy, markers=markers, mask=mask), rounds(work)
    )
    timing.peer = "skimage watershed"
    same(timing, cellpost.relabel(device.get(labels)), theirs)


def test_label(measure, device, work, with_peers):
    from scipy import ndimage

    mask = work.prob >= 0.5
    put = device.put(mask)
    timing, labels = measure("label", lambda: cellpost.label(put), floor_bytes=mask.size * 5)
    if not with_peers:
        return
    timing.peer_seconds, theirs = fastest(lambda: ndimage.label(mask)[0], 3)
    timing.peer = "scipy.ndimage.label"
    np.testing.assert_array_equal(device.get(labels), theirs)
    timing.agrees = "ids identical"


def test_label_beside_cc3d(measure, device, work, with_peers):
    cc3d = pytest.importorskip("cc3d", reason="cc3d, the peer of this comparison, is not installed")
    if not with_peers:
        pytest.skip("a comparison alone, and the size is above --peer-max-size")

    mask = work.prob >= 0.5
    put = device.put(mask)
    timing, labels = measure("label (cc3d)", lambda: cellpost.label(put))
    timing.peer_seconds, theirs = fastest(
        lambda: cc3d.connected_components(mask, connectivity=4), 5
    )
    timing.peer = "cc3d"
    np.testing.assert_array_equal(device.get(labels) > 0, theirs > 0)
    assert labels.max() == theirs.max()
    timing.agrees = "as many components"


def test_threads(measure_threads, work):
    measure_threads("hover_watershed", lambda: cellpost.hover_watershed(work.prob, work.hv))


def test_memory(measure_memory, work):
    found = measure_memory("hover_watershed", work.prob, work.hv)
    if max(work.labels.shape) >= 2048:  # below, the interpreter's own memory blurs the figure
        assert found["extra_bytes"] - found["result_bytes"] <= 6 * found["pixels"]
