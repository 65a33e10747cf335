"""HoVer-Net's `process` against what OpenCV, SciPy and scikit-image make of the same maps."""

from __future__ import annotations

import numpy as np
import peers
import pytest
import simulate

import cellpost
from cellpost.integrations.hovernet import _border_pixels, _describe, process

F = np.float32


@pytest.fixture(scope="module")
def opencv():
    """OpenCV; skips where what the original calls is absent."""
    pytest.importorskip("skimage", minversion="0.26")
    return pytest.importorskip("cv2")


def pred_map(labels, noise, seed=0, n_types=6):
    maps = simulate.hover_from_labels(labels, noise=noise, seed=seed)
    rng = np.random.default_rng(seed)
    types = np.where(labels > 0, 1 + labels % (n_types - 1), 0)
    types = np.where(rng.random(labels.shape) < 0.4, rng.integers(0, n_types, labels.shape), types)
    return np.dstack([types, maps.prob, *maps.hv]).astype(F)


def tiled(labels, size):
    return simulate.tile(labels, np.zeros((2, *labels.shape), F), (size, size))[0]


def expected_info(labels, types):
    """The oracle's dict, less contours of fewer than 3 points."""
    info = peers.hovernet_info(labels, types)
    return {id_: about for id_, about in info.items() if len(about["contour"]) >= 3}


def assert_same_info(got, wanted, typed=True):
    assert list(got) == list(wanted)
    for id_, about in got.items():
        theirs = wanted[id_]
        assert list(about) == ["bbox", "centroid", "contour", "type_prob", "type"]
        np.testing.assert_array_equal(about["bbox"], theirs["bbox"])
        np.testing.assert_array_equal(about["contour"], theirs["contour"])
        # Quotients of the same integers, but from another corner: ulps of 2048.
        np.testing.assert_allclose(about["centroid"], theirs["centroid"], rtol=0, atol=1e-12)
        dtypes = [about[name].dtype for name in ("bbox", "centroid", "contour")]
        assert dtypes == [np.int64, np.float64, np.int32]
        assert about["contour"].flags.c_contiguous
        of_type = (theirs["type"], theirs["type_prob"]) if typed else (None, None)
        assert (about["type"], about["type_prob"]) == of_type


@pytest.mark.usefixtures("opencv")
@pytest.mark.parametrize(("size", "noise"), [(512, 0.1), (512, 0.3), (1024, 0.2)])
def test_real_nuclei_are_the_originals(size, noise, nuclei2d):
    given = pred_map(tiled(nuclei2d, size), noise, seed=3)
    before = given.copy()
    got, info = process(given, nr_types=6)
    wanted = peers.hovernet(given[..., 1], given[..., 2:].transpose(2, 0, 1))
    np.testing.assert_array_equal(got, wanted)  # ids and all
    assert got.dtype == wanted.dtype == np.int32
    assert_same_info(info, expected_info(wanted, given[..., 0].astype(np.int32)))
    assert len(info) > 100
    np.testing.assert_array_equal(given, before)


@pytest.mark.usefixtures("opencv")
def test_ids_are_the_markers_with_the_originals_gaps():
    labels = np.zeros((64, 64), int)
    labels[:20, :20], labels[24:44, 24:44], labels[44:, 24:44], labels[24:44, 44:] = 1, 2, 3, 4
    maps = simulate.hover_from_labels(labels)
    labels[:20, :20] = np.add.outer(np.arange(20), np.arange(20)) < 4  # of which the opening
    got, info = process(np.dstack([labels > 0, *maps.hv]), return_centroids=True)  # leaves 7 pixels
    wanted = peers.hovernet((labels > 0).astype(F), maps.hv)
    np.testing.assert_array_equal(got, wanted)
    assert list(info) == [2, 3, 4]
    assert not got[:20, :20].any()


@pytest.mark.usefixtures("opencv")
def test_nuclei_are_those_of_hover_watershed(nuclei2d):
    given = pred_map(nuclei2d, 0.3, seed=5)
    got, _ = process(given[..., 1:])
    np.testing.assert_array_equal(
        cellpost.relabel(got),
        cellpost.hover_watershed(given[..., 1], given[..., 2:].transpose(2, 0, 1)),
    )


@pytest.mark.usefixtures("opencv")
def test_what_is_described():
    labels = simulate.blobs((80, 90), 12, seed=1, radius=(5, 9))
    given = pred_map(labels, 0.05)
    plain, nothing = process(given[..., 1:])
    assert nothing is None
    assert plain.max() > 5
    placed, info = process(given[..., 1:], return_centroids=True)
    np.testing.assert_array_equal(placed, plain)
    assert_same_info(info, expected_info(plain, np.zeros_like(plain)), typed=False)
    for return_centroids in (False, True):
        typed, info = process(given, 6, return_centroids)
        np.testing.assert_array_equal(typed, plain)
        assert_same_info(info, expected_info(plain, given[..., 0].astype(np.int32)))


def objects(kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "noise":  # mazes, with holes, pixels that touch over corners, lines and dots
        return cellpost.label(rng.random((60, 71)) < 0.55)
    if kind == "blobs":
        return cellpost.label(simulate.blobs((90, 80), 40, seed=seed) > 0)
    labels = np.zeros((40, 40), np.int32)
    for id_ in range(1, 60):  # bars, most a pixel or two wide, that hide parts of others
        y, x = rng.integers(0, 40, 2)
        h, w = rng.permutation([rng.integers(1, 3), rng.integers(1, 20)])
        labels[y : y + h, x : x + w] = id_
    return cellpost.split_fragments(labels)


@pytest.mark.usefixtures("opencv")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["noise", "blobs", "bars"])
def test_boxes_contours_and_types_of_any_object_are_opencvs(kind, seed):
    labels = objects(kind, seed)
    types = np.random.default_rng(seed).integers(0, 4, labels.shape).astype(np.int32)
    wanted = expected_info(labels, types)
    assert_same_info(_describe(labels, types), wanted)
    assert 3 < len(wanted) < labels.max() or kind == "blobs"  # some have no contour


@pytest.mark.parametrize("wide", [False, True])
def test_holes_do_not_change_a_contour(wide, opencv):
    labels = np.ones((9, 12), np.int32)
    labels[3:5, 4:7] = 0
    labels[6, 6 if wide else 7] = 0
    table = cellpost.instance_table(labels)
    (got,) = _border_pixels(table.contour_offsets, table.contour_points)
    outlines, _ = opencv.findContours(
        labels.astype(np.uint8), opencv.RETR_EXTERNAL, opencv.CHAIN_APPROX_SIMPLE
    )
    np.testing.assert_array_equal(got, outlines[0][:, 0])


def test_without_background_no_nucleus_is_left_out():
    place = np.tile(np.linspace(-1, 1, 20, dtype=F), 2)
    h, v = np.meshgrid(place, place[:20])
    got, info = process(np.dstack([np.ones_like(h), h, v]), return_centroids=True)
    assert got.all()
    assert list(info) == [1, 2]
    assert info[2]["bbox"].tolist() == [[0, 20], [20, 40]]


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (1, 30), (3, 40)], ids=str)
def test_small_images(shape):
    maps = simulate.hover_from_labels(np.ones(shape, int), noise=0.1) if 0 not in shape else None
    given = np.zeros((*shape, 4), F)
    if maps is not None:
        given[..., 1:] = np.dstack([maps.prob, *maps.hv])
    got, info = process(given, 2)
    assert got.shape == shape
    assert set(info) <= set(np.unique(got)) - {0}


@pytest.mark.parametrize("value", [0, 1, np.nan])
def test_maps_without_extent_have_no_nuclei(value):
    given = np.full((20, 30, 4), value, F)
    given[..., 0] = 1
    got, info = process(given, 2)
    assert not got.any()
    assert info == {}


def test_all_kinds_of_arrays(kind):
    labels = simulate.blobs((60, 70), 9, seed=2, radius=(5, 9))
    given = pred_map(labels, 0.05)
    wanted, wanted_info = process(given, 6)
    got, info = process(kind.put(given), 6)
    np.testing.assert_array_equal(kind.get(got), wanted)
    assert list(info) == list(wanted_info)
    for id_, about in info.items():
        for name in ("bbox", "centroid", "contour"):
            np.testing.assert_array_equal(about[name], wanted_info[id_][name])
        assert (about["type"], about["type_prob"]) == tuple(
            wanted_info[id_][name] for name in ("type", "type_prob")
        )


def test_dtypes_and_strides():
    labels = simulate.blobs((60, 70), 9, seed=2, radius=(5, 9))
    given = pred_map(labels, 0.05)
    wanted, _ = process(given[..., 1:])
    for other in (
        given.astype(np.float64),
        np.asfortranarray(given),
        np.repeat(given, 2, 1)[:, ::2],
    ):
        np.testing.assert_array_equal(process(other, 6)[0], wanted)
    half = given.astype(np.float16)
    np.testing.assert_array_equal(process(half, 6)[0], process(half.astype(F), 6)[0])
    near = given.astype(np.float64)
    near[..., 1] = np.where(labels > 0, 0.5 - 1e-12, 0)  # 0.5 in float32, as the original reads it
    assert process(near, 6)[0].any()
    whole = np.rint(given * 100).astype(np.int32)
    np.testing.assert_array_equal(process(whole, 600)[0], process(whole.astype(F), 600)[0])


@pytest.mark.parametrize(
    ("given", "nr_types", "error", "message"),
    [
        (np.zeros((5, 5, 3), F), 6, ValueError, r"pred_map: expected shape \(H, W, 4\)"),
        (np.zeros((5, 5, 4), F), None, ValueError, r"pred_map: expected shape \(H, W, 3\)"),
        (np.zeros((5, 5), F), None, ValueError, r"pred_map: .* got \(5, 5\)"),
        (np.zeros((1, 5, 5, 3), F), None, ValueError, "pred_map: "),
        (np.zeros((5, 5, 3), complex), None, TypeError, "pred_map: expected a real dtype"),
        (np.zeros((5, 5, 3), bool), None, TypeError, "pred_map: "),
        ([[0.0]], None, TypeError, "pred_map: expected an array"),
        (np.full((5, 5, 4), -1, F), 6, ValueError, "types: "),
        (np.full((5, 5, 4), 5000, F), 6, ValueError, "types"),
    ],
)
def test_bad_input(given, nr_types, error, message):
    with pytest.raises(error, match=message):
        process(given, nr_types)
