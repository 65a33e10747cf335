"""stitch_planes against its oracle, Cellpose's stitch3D and volumes that were taken apart."""

from __future__ import annotations

import numpy as np
import pytest
import simulate
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cellpost
from cellpost.labels_planes import PlanesReport, stitch_planes

# ---- oracle -------------------------------------------------------------------------------------


def in_raster_order(labels):
    """The same partition with ids 1..N in order of the first pixels."""
    ids, first = np.unique(labels, return_index=True)
    ordered = ids[np.argsort(first)]
    out = np.zeros(labels.shape, np.int32)
    for n, i in enumerate(ordered[ordered > 0], 1):
        out[labels == i] = n
    return out


def oracle(planes, threshold=0.25, gap=0):
    """Objects of the volume are numbered as they begin; then the rule, one mask at a time."""
    out = np.zeros(planes.shape, np.int64)
    last_plane = {}
    for z, plane in enumerate(planes):
        ids = [int(i) for i in np.unique(plane) if i > 0]
        number = {}
        for before in range(z - 1, max(z - 2 - gap, -1), -1):
            new = [i for i in ids if i not in number]
            old = sorted(n for n in last_plane if last_plane[n] == before)
            iou = {}
            for i in new:
                for n in old:
                    a, b = plane == i, out[before] == n
                    iou[i, n] = (a & b).sum() / (a | b).sum()
            picks = {n: max([iou[i, n] for i in new], default=0) for n in old}
            for i in new:
                of = [n for n in old if iou[i, n] == picks[n] > 0 and picks[n] >= threshold]
                if of:
                    number[i] = max(of, key=lambda n: (iou[i, n], -n))
            for n in number.values():
                last_plane[n] = z
        for i in ids:
            if i not in number:
                number[i] = len(last_plane) + 1
                last_plane[number[i]] = z
            out[z][plane == i] = number[i]
    return in_raster_order(out)


VOLUMES = hnp.arrays(
    st.sampled_from([np.uint8, np.int32, np.int64]),
    st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5)),
    elements=st.integers(0, 4),
)


@given(VOLUMES, st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 3))
@example(np.array([[[1, 1]], [[1, 2]], [[3, 3]]]), 0.25, 0)  # both halves tie: one object
@example(np.array([[[1, 2]], [[1, 1]]]), 0.25, 0)
@example(np.array([[[1, 1]], [[0, 0]], [[1, 2]], [[0, 0]], [[7, 7]]]), 0.25, 1)
@settings(max_examples=300, deadline=None)
def test_it_is_the_oracles(planes, threshold, gap):
    before = planes.copy()
    got = stitch_planes(planes, threshold, gap_closing=gap)
    np.testing.assert_array_equal(got, oracle(planes, threshold, gap))
    np.testing.assert_array_equal(planes, before)
    assert got.dtype == np.int32


@pytest.mark.parametrize("gap", [0, 1, 3])
@pytest.mark.parametrize("gaps_in_ids", [1, 1000, 10**9])
def test_larger_volumes_are_the_oracles(gap, gaps_in_ids, device):
    planes = np.stack([simulate.blobs((40, 50), 25, seed=s // 2) for s in range(8)])
    for s in range(1, 8, 2):
        planes[s] = np.roll(planes[s], (1, s % 3), (0, 1))
    planes[3][planes[3] % 3 == 0] = 0
    planes = planes.astype(np.int64) * gaps_in_ids
    got = device.get(stitch_planes(device.put(planes), 0.2, gap_closing=gap))
    np.testing.assert_array_equal(got, oracle(planes, 0.2, gap))


# ---- cellpose -----------------------------------------------------------------------------------


@pytest.mark.peer
@given(VOLUMES, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
@settings(max_examples=300, deadline=None)
def test_it_is_stitch3d(peer, planes, threshold):
    planes = planes.astype(np.int32)
    has_cells = planes.any(axis=(1, 2))
    # What it says after an empty plane is wrong before it has linked two others.
    if not has_cells[np.argmax(has_cells) :].all():
        return
    expected = peer.utils.stitch3D(planes.copy(), threshold)
    np.testing.assert_array_equal(stitch_planes(planes, threshold), in_raster_order(expected))


@pytest.mark.peer
def test_real_nuclei_are_stitch3ds(peer, nuclei2d, nuclei3d):
    moved = [np.roll(nuclei2d, (2 * z, -3 * z), (0, 1)) for z in range(5)]
    shuffle = np.random.default_rng(0).permutation(int(nuclei2d.max())) + 1
    moved[2] = np.append(0, shuffle)[moved[2]]
    for planes in (np.stack(moved).astype(np.int32), nuclei3d.astype(np.int32)):
        inner = planes[planes.any(axis=(1, 2))]
        for threshold in (0.1, 0.25, 0.6):
            expected = peer.utils.stitch3D(inner.copy(), threshold)
            np.testing.assert_array_equal(
                stitch_planes(inner, threshold), in_raster_order(expected)
            )


# ---- volumes taken apart ------------------------------------------------------------------------


def taken_apart(volume, *, seed=0):
    """Each plane's objects under ids of their own."""
    rng = np.random.default_rng(seed)
    planes = np.zeros(volume.shape, np.int32)
    for z, plane in enumerate(volume):
        ids = np.unique(plane[plane > 0])
        for i, new in zip(ids, rng.permutation(len(ids)) + 1, strict=True):
            planes[z][plane == i] = new
    return planes


def columns(depth=9):
    """Discs that go straight through the volume."""
    y, x = np.indices((40, 60))
    disc = (y % 10 - 5) ** 2 + (x % 10 - 5) ** 2 <= 16
    return np.broadcast_to(disc * (y // 10 * 6 + x // 10 + 1), (depth, 40, 60))


def test_columns_come_back():
    volume = columns()
    np.testing.assert_array_equal(stitch_planes(taken_apart(volume)), in_raster_order(volume))


@pytest.mark.parametrize("n_missed", [1, 2, 3])
def test_missed_planes_are_closed_and_stay_background(n_missed):
    volume = columns().copy()
    for i in range(1, 25):
        z = 1 + i % (8 - n_missed)
        volume[z : z + n_missed][volume[z : z + n_missed] == i] = 0
    planes = taken_apart(volume)
    linked, report = stitch_planes(planes, gap_closing=n_missed, return_report=True)
    np.testing.assert_array_equal(linked, in_raster_order(volume))
    split, without = stitch_planes(planes, gap_closing=n_missed - 1, return_report=True)
    assert split.max() == 48
    assert (report.n_across, report.n_labels) == (24, 24)
    assert (without.n_across, without.n_labels) == (0, 48)
    assert report.n_linked == sum(report.n_objects) - 24
    assert report.n_objects == tuple(len(np.unique(p[p > 0])) for p in planes)


@pytest.mark.parametrize("empty", [[0], [8], [4], [0, 1, 8], [1], [2, 4, 6], list(range(9))])
def test_empty_planes_are_no_matter(empty):
    volume = columns().copy()
    volume[empty] = 0
    planes = taken_apart(volume)
    np.testing.assert_array_equal(stitch_planes(planes), oracle(planes))
    np.testing.assert_array_equal(stitch_planes(planes, gap_closing=2), in_raster_order(volume))


def test_a_nearer_plane_comes_first():
    planes = np.array([[[1, 1, 1, 1]], [[0, 0, 1, 1]], [[2, 2, 2, 2]]])
    # The object of plane 1 continues that of plane 0, and plane 2 that of plane 1.
    assert stitch_planes(planes, gap_closing=5).max() == 1
    planes = np.array([[[1, 1, 0, 0]], [[0, 0, 1, 1]], [[2, 2, 2, 2]]])
    assert stitch_planes(planes, gap_closing=5).tolist() == [
        [[1, 1, 0, 0]],
        [[0, 0, 2, 2]],
        [[2, 2, 2, 2]],
    ]


# ---- arrays and errors --------------------------------------------------------------------------


def test_kinds_of_arrays(kind):
    planes = taken_apart(columns(4))
    given_ = kind.put(planes)
    got = stitch_planes(given_, out_dtype=np.uint16)
    assert kind.owns(got)
    assert kind.get(got).dtype == np.uint16
    np.testing.assert_array_equal(kind.get(got), in_raster_order(columns(4)))


def test_strides_read_only_and_narrow_dtypes():
    planes = taken_apart(columns(5))
    expected = stitch_planes(planes)
    view = np.asfortranarray(planes)
    view.flags.writeable = False
    np.testing.assert_array_equal(stitch_planes(view), expected)
    np.testing.assert_array_equal(stitch_planes(np.repeat(planes, 2, 2)[:, :, ::2]), expected)
    for dtype in (np.uint8, np.int8, np.uint16, np.uint32, np.uint64, ">i4"):
        np.testing.assert_array_equal(stitch_planes(planes.astype(dtype)), expected)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1), (2, 1, 1)], ids=str)
def test_small_and_empty_shapes(shape):
    labels, report = stitch_planes(np.ones(shape, np.int32), return_report=True)
    assert labels.shape == shape
    assert (labels == 1).all()
    n = int(labels.size > 0)
    assert report == PlanesReport((n,) * shape[0], n * max(shape[0] - 1, 0), 0, n)


def test_two_threads_say_the_same(restore_settings):
    planes = np.stack([simulate.blobs((200, 300), 300, seed=s) for s in range(3)])
    cellpost.set_num_threads(1)
    expected = stitch_planes(planes, 0.05, gap_closing=1)
    cellpost.set_num_threads(4)
    np.testing.assert_array_equal(stitch_planes(planes, 0.05, gap_closing=1), expected)


def test_many_objects_need_little_time_and_no_matrix():
    # 250,000 objects a plane: a matrix would have 6e10 entries.
    plane = np.arange(1, 1_000_001, 4, dtype=np.int32).reshape(500, 500)
    plane = np.kron(plane, np.ones((2, 2), np.int32))
    planes = np.stack([plane, plane[::-1, ::-1], plane])
    labels = stitch_planes(planes)
    assert labels.max() == 250_000
    np.testing.assert_array_equal(labels[0], labels[2])


PLANES = np.ones((2, 3, 4), np.int32)


@pytest.mark.parametrize(
    ("labels", "options", "error", "says"),
    [
        ([[[1]]], {}, TypeError, "labels: .*list"),
        (PLANES.astype(float), {}, TypeError, "labels: .*float64"),
        (PLANES[0], {}, ValueError, r"labels: .*\(D, H, W\).*\(3, 4\)"),
        (PLANES - 2, {}, ValueError, "labels: .*>= 0; got -1"),
        (PLANES, {"iou_threshold": "x"}, TypeError, "iou_threshold: .*'x'"),
        (PLANES, {"iou_threshold": -0.1}, ValueError, "iou_threshold: .*-0.1"),
        (PLANES, {"iou_threshold": 1.1}, ValueError, "iou_threshold: .*1.1"),
        (PLANES, {"iou_threshold": np.nan}, ValueError, "iou_threshold: .*nan"),
        (PLANES, {"gap_closing": -1}, ValueError, "gap_closing: .*-1"),
        (PLANES, {"gap_closing": 0.5}, TypeError, "gap_closing: .*0.5"),
        (PLANES, {"out_dtype": np.float32}, TypeError, "out_dtype: .*float32"),
        (np.arange(512).reshape(2, 1, 256), {"out_dtype": np.uint8}, OverflowError, "out_dtype"),
    ],
)
def test_bad_input_is_named(labels, options, error, says):
    with pytest.raises(error, match=says):
        stitch_planes(labels, **options)
