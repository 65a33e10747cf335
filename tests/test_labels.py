"""The labels family against its oracle, SciPy, Cellpose and its own symmetries."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import labels as ref
from scipy import ndimage

import cellpost

MODES = {
    "remove_small": [{}, {"min_size": 1}, {"min_size": 0}, {"min_size": -1}, {"min_size": 60}],
    "remove_large": [{}, {"max_size_fraction": 0.01}, {"max_size_fraction": 0.03}],
    "fill_holes": [{}, {"nested": "keep"}, {"nested": "overwrite"}],
    "resolve_fragments": [{"fragments": "largest"}, {"fragments": "split"}],
}
CALLS = [(name, options) for name, all_of in MODES.items() for options in all_of]
FILTERS = {name: getattr(cellpost, name) for name in MODES}


def pierced(shape, n, *, seed, holes=0.25, gap=3):
    """Blobs full of holes, with single pixels of other blobs in them, and gaps in the ids."""
    rng = np.random.default_rng(seed)
    labels = simulate.blobs(shape, n, seed=seed, radius=(2, 9)) * gap
    labels[rng.random(shape) < holes] = 0
    other = rng.random(shape) < 0.02
    labels[other] = gap * rng.integers(1, n + 1, other.sum())
    return labels.astype(np.int32)


def expected_of(name, labels, options):
    expected = getattr(ref, name)(labels, **options)
    return expected[0] if name == "resolve_fragments" else expected


def n_ids(labels):
    return len(np.unique(labels[labels > 0]))


# ---- oracle -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(70, 83), (9, 24, 25), (1, 50), (50, 1)], ids=str)
@pytest.mark.parametrize(("name", "options"), CALLS, ids=str)
def test_filters_are_the_oracles_and_report_what_they_did(name, options, shape, device):
    labels = pierced(shape, 25, seed=1)
    got, report = FILTERS[name](device.put(labels), return_report=True, **options)
    got, expected = device.get(got), expected_of(name, labels, options)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == labels.dtype
    assert report.n_before == n_ids(labels)
    cleared = (expected != labels).sum()
    assert report.n_pixels == (0 if options.get("fragments") == "split" else cleared)
    if name == "resolve_fragments":
        assert report.n_removed == ref.resolve_fragments(labels, **options)[1]
    else:
        assert report.n_removed == n_ids(labels) - n_ids(expected)


@pytest.mark.parametrize("shape", [(70, 83), (9, 24, 25)], ids=str)
def test_relabel_numbers_by_first_appearance_in_raster_order(shape, device):
    labels = pierced(shape, 25, seed=2)
    got = device.get(cellpost.relabel(device.put(labels)))
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, ref.relabel(labels))
    seen = got[got > 0]
    first = seen[np.sort(np.unique(seen, return_index=True)[1])]
    np.testing.assert_array_equal(first, np.arange(1, n_ids(labels) + 1))


@pytest.mark.parametrize("width", [1, 2, 31, 63, 64, 65, 66, 127, 128, 129, 200])
def test_holes_are_found_in_rows_of_any_width(width, device):
    # widths around the word size: the flooding works on words of bits
    rng = np.random.default_rng(width)
    labels = (rng.random((40, width)) < 0.62).astype(np.int32)
    got = device.get(cellpost.fill_holes(device.put(labels)))
    np.testing.assert_array_equal(got, ndimage.binary_fill_holes(labels))


def test_a_spiral_is_not_a_hole_and_a_closed_one_is(device):
    spiral = np.ones((41, 41), np.int32)
    y, x, step, turn = 1, 0, (0, 1), 0
    for length in [40, *[n for n in range(38, 1, -2) for _ in range(2)]]:
        for _ in range(length - (turn == 0)):
            y, x = y + step[0], x + step[1]
            spiral[y, x] = 0
        step, turn = (step[1], -step[0]), turn + 1
    spiral[1, 0] = 0
    got = cellpost.fill_holes(device.put(spiral))
    np.testing.assert_array_equal(device.get(got), ndimage.binary_fill_holes(spiral))
    spiral[1, 0] = 1
    got = cellpost.fill_holes(device.put(spiral))
    np.testing.assert_array_equal(device.get(got), 1)


def ring(shape, centre, outer, inner=-1):
    """A disc or ball, with a round hole if `inner` is not negative."""
    radius = np.hypot.reduce([g - c for g, c in zip(np.indices(shape), centre, strict=True)])
    return (radius <= outer) & (radius > inner)


@pytest.mark.parametrize("shape", [(41, 41), (25, 25, 25)], ids=str)
@pytest.mark.parametrize(("around", "inside"), [(1, 2), (2, 1), (7, 3)])
def test_a_cell_in_a_ring_is_kept_by_default_and_overwritten_on_demand(
    around, inside, shape, device
):
    centre = [n // 2 for n in shape]
    labels = np.zeros(shape, np.int32)
    labels[ring(shape, centre, 11, 8)] = around
    labels[ring(shape, centre, 4)] = inside
    disc = ring(shape, centre, 11)
    kept, report = cellpost.fill_holes(device.put(labels), return_report=True)
    kept = device.get(kept)
    assert (kept[labels == inside] == inside).all()
    assert (kept[disc & (labels == 0)] == around).all()
    assert report.n_removed == 0
    gone, report = cellpost.fill_holes(device.put(labels), nested="overwrite", return_report=True)
    np.testing.assert_array_equal(device.get(gone), np.where(disc, around, 0))
    assert report.n_removed == 1


@pytest.mark.parametrize("ids", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (2, 1, 3)])
def test_background_between_nested_rings_goes_to_the_innermost_around_it(ids, device):
    shape, centre = (61, 61), (30, 30)
    outer, middle, inner = ids
    labels = np.zeros(shape, np.int32)
    labels[ring(shape, centre, 28, 24)] = outer
    labels[ring(shape, centre, 20, 16)] = middle
    labels[ring(shape, centre, 12, 8)] = inner
    got = device.get(cellpost.fill_holes(device.put(labels)))
    assert (got[ring(shape, centre, 24, 20)] == outer).all()
    assert (got[ring(shape, centre, 16, 12)] == middle).all()
    assert (got[ring(shape, centre, 8)] == inner).all()


def test_fragments_touch_at_corners_and_ties_go_to_the_first(device):
    labels = np.zeros((9, 12), np.int32)
    labels[0, :3], labels[1, 3] = 4, 4  # joined by a corner: one part of 4
    labels[4, 8:12] = 4  # another of 4, later in raster order
    labels[8, 0] = 4
    largest = device.get(cellpost.resolve_fragments(device.put(labels), fragments="largest"))
    np.testing.assert_array_equal(largest, np.where(np.arange(9)[:, None] < 2, labels, 0))
    split = device.get(cellpost.resolve_fragments(device.put(labels), fragments="split"))
    assert set(np.unique(split[:2])) == {0, 4}
    assert set(np.unique(split[4])) == {0, 5}
    assert split[8, 0] == 6


# ---- dtypes, ids --------------------------------------------------------------------------------

DTYPES = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_filters_keep_the_dtype_and_the_ids(dtype):
    labels = pierced((40, 50), 30, seed=3)
    for name, options in CALLS:
        if dtype == "int8" and options == {"fragments": "split"}:
            continue  # more parts than int8 has ids
        got = FILTERS[name](labels.astype(dtype), **options)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, expected_of(name, labels, options))


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(2**31 - 1, "int32"), (2**32 - 1, "uint32"), (2**40, "int64"), (2**62, "uint64")],
)
def test_huge_ids_are_kept_and_cost_no_table_of_their_size(largest, dtype):
    labels = pierced((40, 50), 20, seed=4, gap=1)
    ids = np.linspace(0, largest, 21).astype(np.uint64).astype(dtype)
    huge = ids[labels]
    for name, options in CALLS:
        if options == {"fragments": "split"}:
            continue
        got = FILTERS[name](huge, **options)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, ids[expected_of(name, labels, options)])
    np.testing.assert_array_equal(cellpost.relabel(huge), ref.relabel(labels))
    np.testing.assert_array_equal(cellpost.masks_to_flows(huge), cellpost.masks_to_flows(labels))
    dP = np.zeros((2, 40, 50), np.float32)
    np.testing.assert_array_equal(cellpost.flow_error(huge, dP), cellpost.flow_error(labels, dP))
    few = cellpost.remove_bad_flows(huge, dP, flow_threshold=0.99)
    labels_few = cellpost.remove_bad_flows(labels, dP, flow_threshold=0.99)
    np.testing.assert_array_equal(few, ids[labels_few])


def test_parts_of_objects_with_huge_ids_get_ids_of_their_own():
    labels = np.zeros((5, 9), np.int64)
    labels[0, :2] = labels[0, 4:6] = labels[4, 4] = 2**40
    labels[2, :] = 7
    got = cellpost.resolve_fragments(labels, fragments="split")
    expected, _ = ref.resolve_fragments(labels, fragments="split")
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("largest", "dtype"), [(2**31 - 1, "int32"), (2**63 - 1, "int64"), (2**63 - 1, "uint64")]
)
def test_parts_of_the_largest_id_raise_and_do_not_wrap(largest, dtype):
    labels = np.array([[largest, 0, largest, 0, 5]], dtype)
    with pytest.raises(OverflowError, match=f"^labels: .*{largest + 1}"):
        cellpost.resolve_fragments(labels, fragments="split")


def test_parts_that_find_no_id_in_the_dtype_raise():
    labels = np.zeros((3, 9), np.uint8)
    labels[0, ::2] = 253  # five parts: 253, 254, 255 and two more
    with pytest.raises(OverflowError, match="257"):
        cellpost.resolve_fragments(labels, fragments="split")


@pytest.mark.parametrize("nested", ["keep", "overwrite"])
def test_objects_scattered_over_the_image_are_filled_in_batches(nested, device):
    rng = np.random.default_rng(6)
    labels = np.where(rng.random((96, 130)) < 0.6, rng.integers(1, 90, (96, 130)), 0)
    labels[20:60, 30:90] = np.where(rng.random((40, 60)) < 0.93, 40, labels[20:60, 30:90])
    labels = labels.astype(np.int32)
    got = device.get(cellpost.fill_holes(device.put(labels), nested=nested))
    expected = ref.fill_holes(labels, nested=nested)
    np.testing.assert_array_equal(got, expected)
    assert (got != labels).any()


def test_every_pixel_may_be_an_object_of_its_own():
    labels = np.random.default_rng(0).permutation(300 * 300).reshape(300, 300) + 1
    np.testing.assert_array_equal(cellpost.relabel(labels).ravel(), np.arange(1, 90001))
    np.testing.assert_array_equal(cellpost.fill_holes(labels), labels)
    np.testing.assert_array_equal(cellpost.resolve_fragments(labels, fragments="largest"), labels)
    assert not cellpost.remove_small(labels, min_size=2).any()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 3, 4)], ids=str)
def test_empty_label_images_stay_empty(shape, device):
    labels = device.put(np.zeros(shape, np.int16))
    for name, options in CALLS:
        got, report = FILTERS[name](labels, return_report=True, **options)
        assert device.get(got).shape == shape
        assert device.get(got).dtype == np.int16
        assert (report.n_before, report.n_removed, report.n_pixels) == (0, 0, 0)
    assert device.get(cellpost.relabel(labels)).shape == shape


def test_the_input_is_not_written_to():
    labels = pierced((40, 50), 30, seed=3)
    before = labels.copy()
    labels.flags.writeable = False
    for name, options in CALLS:
        assert not np.shares_memory(FILTERS[name](labels, **options), labels)
    assert not np.shares_memory(cellpost.relabel(labels), labels)
    np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize("name", [*MODES, "relabel"])
def test_wrong_labels_are_rejected_by_name(name):
    function = partial(getattr(cellpost, name), **MODES.get(name, [{}])[0])
    with pytest.raises(TypeError, match=r"^labels: expected .*float32"):
        function(np.zeros((4, 4), np.float32))
    with pytest.raises(TypeError, match=r"^labels: expected .*list"):
        function([[1, 2]])
    with pytest.raises(ValueError, match=r"^labels: expected .*\(4,\)"):
        function(np.zeros(4, np.int32))
    with pytest.raises(ValueError, match=r"^labels: expected .*-3"):
        function(np.full((4, 4), -3, np.int16))


def test_wrong_options_are_rejected_by_name():
    labels = np.ones((4, 4), np.int32)
    for name, option, value, error in [
        ("remove_small", "min_size", 1.5, TypeError),
        ("remove_large", "max_size_fraction", np.nan, ValueError),
        ("remove_large", "max_size_fraction", -1, ValueError),
        ("fill_holes", "nested", "delete", ValueError),
        ("resolve_fragments", "fragments", "all", ValueError),
        ("relabel", "out_dtype", "float32", TypeError),
    ]:
        with pytest.raises(error, match=f"^{option}: expected .*{str(value)[:3]}"):
            getattr(cellpost, name)(labels, **{option: value})


# ---- properties ---------------------------------------------------------------------------------

images = st.builds(
    pierced,
    st.one_of(
        st.tuples(st.integers(1, 30), st.integers(1, 70)),
        st.tuples(st.integers(1, 6), st.integers(1, 12), st.integers(1, 12)),
    ),
    st.integers(1, 12),
    seed=st.integers(0, 2**31),
    holes=st.sampled_from([0.0, 0.2, 0.5]),
    gap=st.integers(1, 5),
)
any_call = st.sampled_from(CALLS)
some = settings(max_examples=40, deadline=None)


@some
@given(labels=images, call=any_call)
def test_any_image_gives_the_oracles_labels(labels, call):
    name, options = call
    np.testing.assert_array_equal(
        FILTERS[name](labels, **options), expected_of(name, labels, options)
    )


@some
@given(labels=images, call=any_call)
def test_filtering_again_changes_nothing(labels, call):
    name, options = call
    once = FILTERS[name](labels, **options)
    if options.get("nested") == "overwrite":
        # A hole may come back where a later object overwrote a part of an earlier one.
        return_to_oracle = expected_of(name, once, options)
        np.testing.assert_array_equal(FILTERS[name](once, **options), return_to_oracle)
    else:
        np.testing.assert_array_equal(FILTERS[name](once, **options), once)
    numbered = cellpost.relabel(labels)
    np.testing.assert_array_equal(cellpost.relabel(numbered), numbered)


@some
@given(labels=images, axis=st.integers(0, 2))
def test_flipping_the_image_flips_the_answer(labels, axis):
    axis %= labels.ndim
    flipped = np.flip(labels, axis)
    for name, options in CALLS:
        if name == "resolve_fragments":
            continue  # equal sizes: the first in raster order wins
        np.testing.assert_array_equal(
            FILTERS[name](flipped, **options), np.flip(FILTERS[name](labels, **options), axis)
        )


@some
@given(labels=images, seed=st.integers(0, 2**31))
def test_renaming_the_ids_renames_the_answer(labels, seed):
    rng = np.random.default_rng(seed)
    names = np.concatenate([[0], rng.choice(10000, labels.max(), replace=False) + 1])
    for name, options in CALLS:
        if options.get("nested") == "overwrite" or options.get("fragments") == "split":
            continue  # the first works in the order of the ids, the second makes new ids
        answer = FILTERS[name](labels, **options)
        if name == "fill_holes":  # boxes of one size: the lower id wins
            boxes = [np.prod([s.stop - s.start for s in box]) for _, box in ref.objects(labels)]
            if len(set(boxes)) < len(boxes):
                continue
        np.testing.assert_array_equal(FILTERS[name](names[labels], **options), names[answer])
    np.testing.assert_array_equal(cellpost.relabel(names[labels]), cellpost.relabel(labels))


@some
@given(labels=images)
def test_filling_is_scipys_for_each_object_alone(labels):
    filled = cellpost.fill_holes(labels)
    for i in np.unique(labels[labels > 0]):
        own = (labels == i).astype(np.int32)
        np.testing.assert_array_equal(cellpost.fill_holes(own), ndimage.binary_fill_holes(own))
    holes = (filled > 0) & (labels == 0)
    union = np.any([ref.hole(labels, i) for i in np.unique(labels[labels > 0])], axis=0)
    np.testing.assert_array_equal(holes, union & (labels == 0))
