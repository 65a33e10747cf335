"""Tables of objects against scikit-image and slow NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import simulate
from scipy import ndimage

import cellpost

F = np.float32
COLUMNS = (
    "label",
    "area",
    "bbox",
    "centroid",
    "perimeter",
    "axis_major_length",
    "axis_minor_length",
    "eccentricity",
    "orientation",
    "intensity_mean",
    "intensity_min",
    "intensity_max",
)


def by_scikit_image(labels, intensity=None):
    measure = pytest.importorskip("skimage.measure", minversion="0.26")
    names = [c for c in COLUMNS if intensity is not None or not c.startswith("intensity")]
    if labels.ndim == 3:
        names = [c for c in names if c in ("label", "area", "bbox", "centroid")]
    table = measure.regionprops_table(labels, intensity, properties=names)
    return {
        name: table[name]
        if name in table
        else np.stack([v for k, v in table.items() if k.rsplit("-", 1)[0] == name], axis=1)
        for name in names
    }


def some_labels():
    """Touching, nested, cut, tiny and scattered objects, ids with gaps."""
    labels = simulate.blobs((150, 170), 60, seed=3, radius=(1, 9))
    labels[10, 20:60] = 200  # one pixel high
    labels[30:70, 100] = 201
    labels[100, 100] = 202
    labels[::50, ::60] = 203  # scattered
    return labels


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_columns_are_scikit_images(dtype, device):
    labels = some_labels()
    image = np.random.default_rng(1).random(labels.shape).astype(dtype)
    got = cellpost.properties(device.put(labels), device.put(image))
    expected = by_scikit_image(labels, image.astype(np.float64))
    assert list(got) == list(dict.fromkeys([*got, *expected]))
    for name, column in expected.items():
        # sums of up to some thousand values in another order
        np.testing.assert_allclose(device.get(got[name]), column, 1e-9, 1e-9, err_msg=name)


def test_real_nuclei_and_volumes(nuclei2d, nuclei3d, device):
    for labels in (nuclei2d.astype(np.int32), nuclei3d.astype(np.int32)):
        got = cellpost.properties(device.put(labels))
        for name, column in by_scikit_image(labels).items():
            np.testing.assert_allclose(device.get(got[name]), column, 1e-9, 1e-9, err_msg=name)


def test_orientation_at_45_degrees_is_scikit_images(device):
    tilted = np.zeros((12, 20), np.int32)
    tilted[0, 0] = tilted[1, 1] = 1
    tilted[5, 1] = tilted[4, 2] = 2
    tilted[6:8, 6:8] = tilted[8, 8] = 3
    tilted[10, 10] = 4
    got = cellpost.properties(device.put(tilted))
    expected = by_scikit_image(tilted)
    np.testing.assert_allclose(device.get(got["orientation"]), expected["orientation"], 0, 1e-12)


def test_moments_that_64_bits_cannot_hold_are_nan():
    table = cellpost.properties(np.ones((1, 2**21), np.int32))
    assert table["area"].tolist() == [2**21]
    assert np.isnan(table["axis_major_length"]).all()
    wide = cellpost.properties(np.ones((1, 2**19), np.int32))
    np.testing.assert_allclose(wide["axis_major_length"], 4 * np.sqrt((2**38 - 1) / 12), 1e-9)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
def test_intensities_may_be_integers(dtype, device):
    labels = some_labels()
    image = np.random.default_rng(1).integers(0, 200, labels.shape).astype(dtype)
    got = cellpost.properties(device.put(labels), device.put(image))
    expected = cellpost.properties(labels, image.astype(np.float64))
    np.testing.assert_array_equal(device.get(got["intensity_mean"]), expected["intensity_mean"])


def test_channels_of_types_are_compared_as_they_are(device):
    channels = np.array([[[0.5]], [[0.5 + 1e-12]], [[np.nan]]])
    got = cellpost.instance_types(device.put(np.ones((1, 1), np.int32)), device.put(channels))
    assert device.get(got[0]).tolist() == [1]


def test_types_of_many_objects_are_counted_in_batches(device):
    labels = np.arange(1, 64 * 65 + 1, dtype=np.int32).reshape(64, 65)
    types = np.zeros(labels.shape, np.int32)
    types[5, 6] = 4095
    types[6] = 7
    got = device.get(cellpost.instance_types(device.put(labels), device.put(types))[0])
    np.testing.assert_array_equal(got, types.ravel())


def test_extra_columns_are_measured_by_scikit_image():
    labels = some_labels()
    got = cellpost.properties(labels, extra=("solidity",))
    measure = pytest.importorskip("skimage.measure")
    expected = measure.regionprops_table(labels, properties=("solidity",))["solidity"]
    np.testing.assert_array_equal(got["solidity"], expected)


def test_an_object_with_a_nan_has_nan_intensities(device):
    labels = np.array([[1, 1, 2, 2]], np.int32)
    image = np.array([[1.0, np.nan, np.inf, 2.0]])
    got = cellpost.properties(device.put(labels), device.put(image))
    for name in ("intensity_mean", "intensity_min", "intensity_max"):
        assert np.isnan(device.get(got[name])[0])
    assert device.get(got["intensity_max"])[1] == np.inf
    assert device.get(got["intensity_min"])[1] == 2.0


def test_ids_beyond_int32_stay(device):
    labels = np.array([[0, 2**40, 2**40, 7]], np.int64)
    got = cellpost.properties(device.put(labels))
    assert device.get(got["label"]).tolist() == [7, 2**40]
    assert device.get(got["area"]).tolist() == [1, 2]


@pytest.mark.parametrize("shape", [(0, 0), (4, 0), (5, 6), (2, 3, 4)], ids=str)
def test_no_objects_give_empty_columns(shape, device):
    zeros = device.put(np.zeros(shape, np.int32))
    table = cellpost.properties(zeros)
    assert all(len(column) == 0 for column in table.values())
    if len(shape) == 2:
        offsets, points = cellpost.contours(zeros)
        assert device.get(offsets).tolist() == [0]
        assert device.get(points).shape == (0, 2)
        assert cellpost.instance_table(zeros).to_dicts() == []


# ---- outlines -----------------------------------------------------------------------------------


def fill(ring, shape):
    """Pixels inside a ring of pixel corners, by the even-odd rule along rows."""
    crossings = np.zeros((shape[0], shape[1] + 1), int)
    for (x0, y0), (x1, y1) in itertools.pairwise(ring):
        if x0 == x1:
            crossings[min(y0, y1) : max(y0, y1), x0] += 1
    return (np.cumsum(crossings, axis=1) % 2 == 1)[:, :-1]


def first_piece(mask):
    """The piece, over corners, too, that holds the first pixel."""
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    return parts == parts.ravel()[np.flatnonzero(mask)[0]]


def test_outlines_enclose_their_objects_and_nothing_else(device):
    labels = some_labels()
    rng = np.random.default_rng(5)
    labels[60:90, 20:80] = np.where(rng.random((30, 60)) < 0.6, 300, labels[60:90, 20:80])
    offsets, points = (device.get(a) for a in cellpost.contours(device.put(labels)))
    assert offsets[-1] == len(points)
    assert points.dtype == np.int32
    for i, id_ in enumerate(np.unique(labels[labels > 0])):
        ring = points[offsets[i] : offsets[i + 1]]
        mask = first_piece(labels == id_)
        np.testing.assert_array_equal(ring[0], ring[-1])
        y, x = np.nonzero(mask)
        assert ring.min(axis=0).tolist() == [x.min(), y.min()]
        assert ring.max(axis=0).tolist() == [x.max() + 1, y.max() + 1]
        step = np.diff(ring, axis=0)
        assert ((step != 0).sum(axis=1) == 1).all()  # along one axis
        axis = np.argmax(step != 0, axis=1)
        assert (axis[1:] != axis[:-1]).all()  # and a turn at each point
        holes_over_edges = ndimage.binary_fill_holes(mask)
        np.testing.assert_array_equal(fill(ring, labels.shape), holes_over_edges)
        area = np.sum(ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]) / 2
        assert area == holes_over_edges.sum()  # clockwise on the screen


def test_outlines_of_pieces_joined_over_edges_do_not_touch_themselves(device):
    parts, _ = ndimage.label(np.random.default_rng(6).random((120, 130)) < 0.6)
    offsets, points = (device.get(a) for a in cellpost.contours(device.put(parts)))
    longest = 0
    for i in range(len(offsets) - 1):
        ring = points[offsets[i] : offsets[i + 1] - 1].astype(int)
        end = np.roll(ring, -1, axis=0)
        corners = [
            (x, y)
            for (x0, y0), (x1, y1) in zip(ring, end, strict=True)
            for x in (range(x0, x1, np.sign(x1 - x0)) if x0 != x1 else [x0])
            for y in (range(y0, y1, np.sign(y1 - y0)) if y0 != y1 else [y0])
        ]
        assert len(set(corners)) == len(corners)
        longest = max(longest, len(corners))
    assert longest > 500


# ---- types --------------------------------------------------------------------------------------


def types_of(labels, types):
    """HoVer-Net's rule, one object after the other."""
    out = []
    for id_ in np.unique(labels[labels > 0]):
        values, counts = np.unique(types[labels == id_], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        best = order[0]
        if values[best] == 0 and len(order) > 1:
            best = order[1]
        out.append((values[best], counts[best] / (np.sum(labels == id_) + 1e-6)))
    return [t for t, _ in out], [p for _, p in out]


@pytest.mark.parametrize("n_types", [1, 2, 6])
def test_types_are_by_majority_and_background_last(n_types, device):
    labels = some_labels()
    types = np.random.default_rng(n_types).integers(0, n_types, labels.shape)
    types[labels % 3 == 0] = 0
    expected, share = types_of(labels, types)
    got = cellpost.instance_types(device.put(labels), device.put(types), n_types=n_types)
    assert device.get(got[0]).tolist() == expected
    np.testing.assert_array_equal(device.get(got[1]), share)
    channels = np.eye(n_types, dtype=F)[types].transpose(2, 0, 1)
    again = cellpost.instance_types(device.put(labels), device.put(channels))
    assert device.get(again[0]).tolist() == expected


def test_a_table_of_dicts_has_hover_nets_keys(device):
    labels = some_labels()
    types = np.random.default_rng(2).integers(0, 4, labels.shape).astype(np.uint8)
    table = cellpost.instance_table(device.put(labels), device.put(types), offset=(1000, 5000))
    rows = table.to_dicts()
    ids = np.unique(labels[labels > 0])
    assert [row["label"] for row in rows] == ids.tolist()
    best, share = types_of(labels, types)
    n_whole = 0
    for row, type_, prob in zip(rows, best, share, strict=True):
        y, x = np.nonzero(labels == row["label"])
        assert row["bbox"] == [
            [y.min() + 5000, x.min() + 1000],
            [y.max() + 5001, x.max() + 1001],
        ]
        # quotients of the same integers, but from another corner: ulps of 5000
        np.testing.assert_allclose(
            row["centroid"], [x.mean() + 1000, y.mean() + 5000], rtol=0, atol=4e-12
        )
        assert (row["type"], row["type_prob"]) == (type_, prob)
        mask = labels == row["label"]
        if (first_piece(mask) == mask).all():
            n_whole += 1
            box = row["bbox"]
            assert row["contour"].min(axis=0).tolist() == box[0][::-1]
            assert row["contour"].max(axis=0).tolist() == box[1][::-1]
    assert n_whole > 40
    assert cellpost.instance_table(device.put(labels)).to_dicts()[0]["type"] is None


# ---- settings, kinds, bad input -----------------------------------------------------------------


def everything():
    labels = some_labels()
    image = np.random.default_rng(0).random(labels.shape)
    table = cellpost.properties(labels, image)
    types = cellpost.instance_types(labels, (image * 5).astype(int))
    return [a.tobytes() for a in (*table.values(), *types, *cellpost.contours(labels))]


@pytest.mark.usefixtures("restore_settings")
@pytest.mark.parametrize("n_threads", [2, 7])
def test_threads_do_not_change_a_byte(n_threads):
    cellpost.set_num_threads(1)
    expected = everything()
    cellpost.set_num_threads(n_threads)
    assert everything() == expected


def test_every_kind_of_array(kind):
    labels = some_labels()
    image = np.random.default_rng(0).random(labels.shape).astype(F)
    expected = cellpost.properties(labels, image)
    got = cellpost.properties(kind.put(labels), kind.put(image))
    for name, column in expected.items():
        np.testing.assert_allclose(kind.get(got[name]), column, 1e-12, err_msg=name)
    for mine, theirs in zip(
        cellpost.contours(kind.put(labels)), cellpost.contours(labels), strict=True
    ):
        np.testing.assert_array_equal(kind.get(mine), theirs)
    rows = cellpost.instance_table(kind.put(labels), kind.put(labels % 5)).to_dicts()
    assert str(rows) == str(cellpost.instance_table(labels, labels % 5).to_dicts())


LABELS = np.ones((6, 7), np.int32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cellpost.properties(LABELS.astype(F)), TypeError, "labels: expected an integer"),
        (lambda: cellpost.properties(-LABELS), ValueError, "labels: expected ids >= 0"),
        (lambda: cellpost.properties(LABELS[0]), ValueError, "labels: expected 2 axes"),
        (lambda: cellpost.properties(LABELS, LABELS > 0), TypeError, "intensity: expected float16"),
        (lambda: cellpost.properties(LABELS, extra="solidity"), TypeError, "extra: expected"),
        (lambda: cellpost.properties(LABELS, extra=["nope"]), ValueError, "extra: expected names"),
        (lambda: cellpost.instance_table(LABELS, offset=(2**31, 0)), ValueError, "offset"),
        (
            lambda: cellpost.instance_types(LABELS, (LABELS - 2).astype("int8")),
            ValueError,
            "types: expected ids >= 0; got -1",
        ),
        (
            lambda: cellpost.instance_types(LABELS, np.ones((3, 6, 7), int)),
            TypeError,
            r"types: expected \(H, W\) integers or \(C, H, W\)",
        ),
        (lambda: cellpost.properties(LABELS, np.ones((7, 6))), ValueError, "intensity: expected"),
        (lambda: cellpost.contours(LABELS[None]), ValueError, r"labels: expected 2 axes \(H, W\)"),
        (lambda: cellpost.instance_table(LABELS[None]), ValueError, "labels: expected 2 axes"),
        (lambda: cellpost.instance_table(LABELS, offset=3), ValueError, "offset: expected two"),
        (lambda: cellpost.instance_table(LABELS, offset=(1, 2.5)), TypeError, "offset"),
        (lambda: cellpost.instance_types(LABELS, LABELS[1:]), ValueError, "types: expected shape"),
        (lambda: cellpost.instance_types(LABELS, -LABELS), ValueError, "types: expected ids >= 0"),
        (
            lambda: cellpost.instance_types(LABELS, 4 * LABELS, n_types=3),
            ValueError,
            "types: expected types from 0 to 2; got 4",
        ),
        (
            lambda: cellpost.instance_types(LABELS, 5000 * LABELS),
            ValueError,
            "types: expected 1 to 4096 types",
        ),
        (
            lambda: cellpost.instance_types(LABELS, np.ones((2, 6, 7)), n_types=3),
            ValueError,
            "n_types: expected the channels of types, 2; got 3",
        ),
        (
            lambda: cellpost.instance_types(LABELS, np.ones((2, 7, 6))),
            ValueError,
            "types: expected shape",
        ),
        (
            lambda: cellpost.instance_types(LABELS, np.ones((6, 7))),
            TypeError,
            "types: expected an integer dtype",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
