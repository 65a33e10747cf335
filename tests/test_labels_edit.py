"""Resizing, growing, shrinking and clearing of label images against oracles and scikit-image."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import labels as ref
from scipy import ndimage
from skimage import segmentation, transform

import cellpost

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
HUGE = {"int64": 2**40, "uint32": 2**31 + 2**25, "uint64": 2**40, "int32": 2**31 - 100}
SHAPES = [(61, 83), (9, 24, 25), (1, 50), (50, 1), (1, 1), (1, 1, 1), (0, 5), (3, 0, 4)]


def doubled(labels):
    return [2 * n for n in getattr(labels, "shape", (31, 37))]  # DLPack has no shape


CALLS = {
    "resize_labels": lambda labels: cellpost.resize_labels(labels, doubled(labels)),
    "expand_labels": lambda labels: cellpost.expand_labels(labels, 2),
    "erode_boundary": cellpost.erode_boundary,
    "clear_border": cellpost.clear_border,
    "split_fragments": cellpost.split_fragments,
    "fill_holes": lambda labels: cellpost.fill_holes(labels, max_size=5),
}


def small(ndim, *, side=9, most=6):
    """Label images of a few pixels, most of them full of ties."""
    shapes = hnp.array_shapes(min_dims=ndim, max_dims=ndim, min_side=1, max_side=side)
    return hnp.arrays(np.int32, shapes, elements=st.integers(0, most))


def sparse(ndim):
    return small(ndim, side=8, most=40).map(lambda labels: labels * (labels < 8))


either = st.sampled_from([2, 3])


# ---- every function -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_dtype_and_large_ids_stay(name, dtype, device):
    plain = simulate.blobs((40, 33), 12, seed=1)
    lift = HUGE.get(dtype, 90 if dtype == "int8" else 200 if dtype == "uint8" else 30_000)
    high = np.where(plain > 0, plain.astype(dtype) + np.array(lift, dtype), 0).astype(dtype)
    expected = device.get(CALLS[name](device.put(plain))).astype(np.uint64)
    expected[expected > 0] += lift
    got = device.get(CALLS[name](device.put(high)))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.astype(np.uint64), expected)


@pytest.mark.parametrize("name", CALLS)
def test_every_kind_of_array(name, kind):
    labels = simulate.blobs((31, 37), 14, seed=2)
    before = labels.copy()
    got = CALLS[name](kind.put(labels))
    assert kind.owns(got)
    np.testing.assert_array_equal(kind.get(got), CALLS[name](before))
    np.testing.assert_array_equal(labels, before)  # the input is not written to
    assert not np.shares_memory(kind.get(got), labels)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_without_objects_stay_empty(name, shape, device):
    got = device.get(CALLS[name](device.put(np.zeros(shape, np.uint16))))
    assert got.dtype == np.uint16
    assert not got.any()
    if name != "resize_labels":
        assert got.shape == shape


@pytest.mark.parametrize("name", CALLS)
def test_views_are_read_as_they_are(name, device):
    labels = simulate.blobs((40, 44), 20, seed=3)
    views = [labels[::2, 1::3], labels.T, labels[5:30, 7:]]
    if device.name == "numpy":
        views.append(labels[::-1, ::-1])  # torch has no negative strides
    for view in views:
        expected = CALLS[name](np.ascontiguousarray(view))
        np.testing.assert_array_equal(device.get(CALLS[name](device.put(view))), expected)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.zeros((4, 4)), TypeError, r"labels: expected (a|an) (bool or )?integer .*got float64"),
        (np.zeros(4, int), ValueError, r"labels: expected 2 axes.*got \(4,\)"),
        (np.zeros((1, 2, 3, 4), int), ValueError, r"labels: expected 2 axes.*got \(1, 2, 3, 4\)"),
        ([[1, 2]], TypeError, "labels: expected an array.*got list"),
        (np.array([[-1, 2]]), ValueError, "labels: expected ids >= 0; got -1"),
    ],
    ids=["float", "1 axis", "4 axes", "list", "negative"],
)
def test_bad_labels_are_named(name, labels, error, message):
    if name == "resize_labels":
        if isinstance(labels, list):
            with pytest.raises(error, match=message):
                cellpost.resize_labels(labels, (2, 2))
            return
        if labels.min(initial=0) < 0:  # copied, whatever they are
            np.testing.assert_array_equal(cellpost.resize_labels(labels, (1, 2)), labels)
            return
    with pytest.raises(error, match=message):
        CALLS[name](labels)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("resize_labels", [(4,)], ValueError, r"shape: expected 2 lengths.*got \(4,\)"),
        ("resize_labels", [7], TypeError, "shape: expected several integers; got 7"),
        ("resize_labels", [(4, 2.5)], TypeError, "shape: expected an integer; got 2.5"),
        ("resize_labels", [(4, -1)], ValueError, r"shape: expected lengths >= 0; got \(4, -1\)"),
        ("expand_labels", [-1], ValueError, "distance: expected a number >= 0; got -1"),
        ("expand_labels", [np.nan], ValueError, "distance: expected a number >= 0; got nan"),
        ("expand_labels", ["far"], TypeError, "distance: expected a number; got 'far'"),
        ("erode_boundary", [-1], ValueError, "width: expected at least 0 pixels; got -1"),
        ("erode_boundary", [1.5], TypeError, "width: expected an integer; got 1.5"),
        ("erode_boundary", [1, 0], ValueError, "connectivity: expected 1 to 2; got 0"),
        ("erode_boundary", [1, 3], ValueError, "connectivity: expected 1 to 2; got 3"),
        ("clear_border", [-1], ValueError, "buffer: expected at least 0 pixels; got -1"),
        ("clear_border", [0.5], TypeError, "buffer: expected an integer; got 0.5"),
        ("clear_border", [0, "up"], ValueError, "sides: expected some of 'top'.*got 'up'"),
        ("clear_border", [0, ["top", "front"]], ValueError, "sides: expected.*got 'front'"),
    ],
)
def test_bad_arguments_are_named(name, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(cellpost, name)(np.eye(4, dtype=int), *arguments)


@pytest.mark.parametrize("spacing", [0, -1, np.inf, np.nan, (1,), (1, 2, 3), ()], ids=str)
def test_bad_spacing_is_named(spacing):
    with pytest.raises(ValueError, match="spacing: expected a positive number, or 2"):
        cellpost.expand_labels(np.eye(4, dtype=int), spacing=spacing)


# ---- resize_labels ------------------------------------------------------------------------------


def resized(labels, shape):
    """Pixel by pixel: the one that the middle of the new pixel lies in."""
    out = np.zeros(shape, labels.dtype)
    for place in np.ndindex(*shape):
        middles = [
            (i + Fraction(1, 2)) * n / m for i, n, m in zip(place, labels.shape, shape, strict=True)
        ]
        out[place] = labels[tuple(floor(at) for at in middles)]
    return out


@settings(deadline=None)
@given(st.data())
def test_resized_pixels_are_those_under_the_new_ones_middles(data):
    labels = data.draw(either.flatmap(small))
    shape = data.draw(st.tuples(*[st.integers(0, 12)] * labels.ndim))
    got = cellpost.resize_labels(labels, shape)
    np.testing.assert_array_equal(got, resized(labels, shape))
    assert got.flags.c_contiguous


@pytest.mark.parametrize("shape", [(61, 83), (9, 24, 25)], ids=str)
def test_doubled_and_halved_is_the_same(shape, device):
    labels = simulate.blobs(shape, 25, seed=4)
    for factor in (2, 3):
        large = cellpost.resize_labels(device.put(labels), [factor * n for n in shape])
        expected = labels
        for axis in range(labels.ndim):
            expected = expected.repeat(factor, axis)
        np.testing.assert_array_equal(device.get(large), expected)
        np.testing.assert_array_equal(device.get(cellpost.resize_labels(large, shape)), labels)


@pytest.mark.parametrize("new", [(61, 83), (122, 41), (97, 200), (7, 5), (1, 1), (640, 11)])
def test_resize_is_the_peers_where_no_middle_is_on_an_edge(new):
    labels = simulate.blobs((61, 83), 40, seed=5)  # odd lengths: no middle can be on an edge
    got = cellpost.resize_labels(labels, new)
    theirs = transform.resize(labels, new, order=0, preserve_range=True, anti_aliasing=False)
    np.testing.assert_array_equal(got, theirs)


@pytest.mark.peer
@pytest.mark.parametrize("old", [(61, 83), (64, 128)])
@pytest.mark.parametrize("new", [(61, 83), (122, 41), (97, 200), (32, 64), (1, 1), (640, 11)])
def test_resize_is_opencvs_nearest_exact(old, new):
    cv2 = pytest.importorskip("cv2")
    labels = simulate.blobs(old, 40, seed=5)
    theirs = cv2.resize(labels, new[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    same = cellpost.resize_labels(labels, new) == theirs
    # its steps are of 16 bits after the point: middles that lie on an edge go either way
    steps = [np.arange(1, 2 * m, 2) * n % (2 * m) for n, m in zip(old, new, strict=True)]
    whole = all(n % m == 0 for n, m in zip(old, new, strict=True))
    assert (same | (np.minimum.outer(*steps) == 0) & (not whole)).all()


def test_resize_of_ids_beyond_floats(device):
    labels = np.array([[2**24 + 1, 2**24 + 3], [2**53 + 1, 2**62 + 1]])
    got = device.get(cellpost.resize_labels(device.put(labels), (4, 4)))
    np.testing.assert_array_equal(got, labels.repeat(2, 0).repeat(2, 1))


def test_resize_takes_masks_and_gives_new_arrays(device):
    mask = np.eye(5, dtype=bool)
    given = device.put(mask)
    got = cellpost.resize_labels(given, (5, 5))
    assert got is not given
    assert device.get(got).dtype == bool
    np.testing.assert_array_equal(device.get(got), mask)


def test_resize_of_no_pixels():
    assert cellpost.resize_labels(np.zeros((0, 7), np.int16), (0, 3)).shape == (0, 3)
    assert cellpost.resize_labels(np.ones((4, 7), np.int16), (0, 3)).shape == (0, 3)
    with pytest.raises(ValueError, match=r"labels: expected pixels to make shape \(2, 3\) of"):
        cellpost.resize_labels(np.zeros((0, 7), np.int16), (2, 3))


# ---- expand_labels ------------------------------------------------------------------------------


def expanded(labels, distance, spacing):
    """Pixel by pixel; of equally near object pixels the first by column, then row, then plane."""
    out = labels.copy()
    objects = np.argwhere(labels)
    for place in np.argwhere(labels == 0):
        squares = (((objects - place) * spacing) ** 2).sum(1)
        if len(squares) and squares.min() <= distance**2:
            nearest = objects[squares == squares.min()]
            out[tuple(place)] = labels[tuple(nearest[np.lexsort(nearest.T)[0]])]
    return out


@settings(deadline=None)
@given(st.data())
def test_expand_follows_its_tie_rule(data):
    labels = data.draw(either.flatmap(sparse))
    distance = data.draw(st.sampled_from([0, 0.5, 1, 1.5, 2, 3, 100, np.inf]))
    spacing = data.draw(st.tuples(*[st.integers(1, 3)] * labels.ndim))
    got = cellpost.expand_labels(labels, distance, spacing=spacing)
    np.testing.assert_array_equal(got, expanded(labels, distance, spacing))


@pytest.mark.parametrize("shape", SHAPES[:6], ids=str)
@pytest.mark.parametrize("distance", [0, 1, 2.5, 6, 1000])
@pytest.mark.parametrize("spacing", [1, 0.65, (2.0, 0.3, 0.35)], ids=str)
def test_expand_is_scikit_images(shape, distance, spacing):
    spacing = spacing if np.ndim(spacing) == 0 else spacing[-len(shape) :]
    labels = 3 * simulate.blobs(shape, 12, seed=6)
    got = cellpost.expand_labels(labels, distance, spacing=spacing)
    if labels.any():
        theirs = segmentation.expand_labels(labels, distance, spacing=spacing)
        np.testing.assert_array_equal(got, theirs)
    else:
        assert not got.any()


def test_expand_fills_real_nuclei_gaps(nuclei2d, device):
    got = device.get(cellpost.expand_labels(device.put(nuclei2d), 4))
    np.testing.assert_array_equal(got, segmentation.expand_labels(nuclei2d, 4))


# ---- erode_boundary -----------------------------------------------------------------------------


@settings(deadline=None)
@given(st.data())
def test_erosion_removes_scikit_images_inner_boundaries(data):
    labels = data.draw(either.flatmap(lambda ndim: small(ndim, most=2)))
    near = data.draw(st.integers(1, labels.ndim))
    width = data.draw(st.integers(0, 3))
    expected = labels.copy()
    for _ in range(width):
        expected[segmentation.find_boundaries(expected, connectivity=near, mode="inner")] = 0
    got, report = cellpost.erode_boundary(labels, width, near, return_report=True)
    np.testing.assert_array_equal(got, expected)
    before, after = set(labels[labels > 0]), set(expected[expected > 0])
    assert report == cellpost.FilterReport(
        len(before), len(before - after), int((labels != expected).sum())
    )


@pytest.mark.parametrize("shape", [(61, 83), (9, 24, 25)], ids=str)
def test_erosion_of_touching_cells(shape, device):
    labels = 70_000 * simulate.blobs(shape, 40, seed=7, radius=(2, 9))
    for near in range(1, len(shape) + 1):
        got = device.get(cellpost.erode_boundary(device.put(labels), connectivity=near))
        inner = segmentation.find_boundaries(labels, connectivity=near, mode="inner")
        np.testing.assert_array_equal(got, np.where(inner, 0, labels))
        # what is left of two cells does not touch
        np.testing.assert_array_equal(got != 0, ndimage.label(got)[0] != 0)
        steps = np.abs(np.diff(got, axis=-1))[(got[..., 1:] > 0) & (got[..., :-1] > 0)]
        assert not steps.any()


def test_erosion_stops_at_the_images_border(device):
    full = device.put(np.full((4, 6), 9))
    got, report = cellpost.erode_boundary(full, 10**12, return_report=True)
    np.testing.assert_array_equal(device.get(got), np.full((4, 6), 9))
    assert report == cellpost.FilterReport(1, 0, 0)


def test_cells_that_vanish_are_reported(device):
    labels = np.zeros((8, 8), np.int64)
    labels[1:3, 1:3], labels[4:7, 4:7] = 2**40, 5
    got, report = cellpost.erode_boundary(device.put(labels), return_report=True)
    assert np.argwhere(device.get(got)).tolist() == [[5, 5]]
    assert report == cellpost.FilterReport(n_before=2, n_removed=1, n_pixels=12)


# ---- clear_border, split_fragments --------------------------------------------------------------


@settings(deadline=None)
@given(st.data())
def test_clearing_is_scikit_images_of_objects_in_one_piece(data):
    labels = cellpost.split_fragments(data.draw(either.flatmap(sparse)))
    buffer = data.draw(st.integers(0, min(labels.shape) - 1))
    got, report = cellpost.clear_border(labels, buffer, return_report=True)
    theirs = segmentation.clear_border(labels, buffer)
    np.testing.assert_array_equal(got, theirs)
    n_before, n_after = len(np.unique(labels[labels > 0])), len(np.unique(theirs[theirs > 0]))
    assert report == cellpost.FilterReport(
        n_before, n_before - n_after, int((labels != theirs).sum())
    )


@settings(deadline=None)
@given(st.data())
def test_clearing_of_some_sides(data):
    labels = data.draw(either.flatmap(sparse))
    slabs = {
        "top": np.s_[..., :1, :], "bottom": np.s_[..., -1:, :],
        "left": np.s_[..., :1], "right": np.s_[..., -1:],
    }  # fmt: skip
    if labels.ndim == 3:
        slabs |= {"front": np.s_[:1], "back": np.s_[-1:]}
    sides = data.draw(st.lists(st.sampled_from(list(slabs))))
    near = [id_ for side in sides for id_ in labels[slabs[side]].ravel()]
    got = cellpost.clear_border(labels, sides=sides)
    np.testing.assert_array_equal(got, np.where(np.isin(labels, near), 0, labels))


def test_clearing_of_nuclei(nuclei2d, device):
    for buffer in (0, 7):
        got = device.get(cellpost.clear_border(device.put(nuclei2d), buffer))
        one_piece = cellpost.resolve_fragments(nuclei2d, fragments="keep")
        np.testing.assert_array_equal(got, segmentation.clear_border(one_piece, buffer))


def test_an_object_goes_with_all_its_pieces(device):
    labels = np.zeros((5, 7), np.int32)
    labels[2, [0, 3, 5]] = [4, 4, 6]
    got = device.get(cellpost.clear_border(device.put(labels)))
    assert got[2].tolist() == [0, 0, 0, 0, 0, 6, 0]
    parts = device.get(cellpost.clear_border(cellpost.split_fragments(device.put(labels))))
    assert parts[2].tolist() == [0, 0, 0, 7, 0, 6, 0]


def test_one_side_by_name_and_a_buffer_as_wide_as_the_image(device):
    labels = device.put(np.diag(np.arange(1, 5)))
    left = device.get(cellpost.clear_border(labels, 1, "left"))
    assert left.diagonal().tolist() == [0, 0, 3, 4]
    assert not device.get(cellpost.clear_border(labels, 2**62)).any()
    assert not device.get(cellpost.clear_border(labels, 4, "top")).any()


def test_split_fragments_is_resolve_fragments(device):
    labels = device.put(np.array([[5, 5, 0, 5, 0, 9]]))
    got, report = cellpost.split_fragments(labels, return_report=True)
    assert device.get(got).tolist() == [[5, 5, 0, 10, 0, 9]]
    assert report == cellpost.FilterReport(2, 1, 0)


# ---- fill_holes(max_size=) ----------------------------------------------------------------------


def filled(labels, max_size):
    """All holes, less those of too many pixels of background that hang together."""
    out = ref.fill_holes(labels)
    background = ndimage.label(labels == 0)[0]
    sizes = np.bincount(background.ravel())
    out[(background > 0) & (sizes[background] > max_size)] = 0
    return out


@settings(deadline=None)
@given(st.data())
def test_only_small_holes_are_filled(data):
    ndim = data.draw(either)
    labels = data.draw(small(ndim, side=9 if ndim == 2 else 6, most=3))
    labels[labels == 3] = 1
    max_size = data.draw(st.integers(0, 6))
    got, report = cellpost.fill_holes(labels, max_size=max_size, return_report=True)
    np.testing.assert_array_equal(got, filled(labels, max_size))
    n_objects = len(np.unique(labels[labels > 0]))
    assert report == cellpost.FilterReport(n_objects, 0, int((got != labels).sum()))


def test_holes_of_one_object_are_taken_one_by_one(device):
    labels = np.full((8, 20), 7)
    labels[2:4, 2:4] = labels[2:5, 8:12] = labels[2:5, 14:18] = labels[6, 6] = 0
    labels[3, 15:17] = 9  # the ring around it is 10 pixels
    for max_size, n_filled in ((0, 0), (1, 1), (3, 1), (4, 5), (10, 15), (12, 27), (2**63 - 1, 27)):
        got, report = cellpost.fill_holes(device.put(labels), max_size=max_size, return_report=True)
        np.testing.assert_array_equal(device.get(got), filled(labels, max_size))
        assert report.n_pixels == n_filled
    everything = cellpost.fill_holes(device.put(labels))
    np.testing.assert_array_equal(device.get(got), device.get(everything))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_size": -1}, ValueError, "max_size: expected at least 0 pixels; got -1"),
        ({"max_size": 2.5}, TypeError, "max_size: expected an integer; got 2.5"),
        ({"max_size": 5, "nested": "overwrite"}, ValueError, "max_size: expected None with nested"),
    ],
)
def test_bad_max_size_is_named(options, error, message):
    with pytest.raises(error, match=message):
        cellpost.fill_holes(np.eye(3, dtype=int), **options)
