"""The flows family at its edges: tiny, empty, full and huge images, odd values, dtypes, layouts."""

from __future__ import annotations

import numpy as np
import pytest
import simulate
from reference import flows as ref_flows
from test_flows import assert_follows_oracle, follow, simulated

import cellpost

# ---- shapes -------------------------------------------------------------------------------------

TINY = [(1, 1), (1, 2), (1, 40), (40, 1), (2, 2), (3, 1), (1, 1, 1), (1, 9, 12), (6, 1, 12)]


@pytest.mark.parametrize("shape", [*TINY, (5, 9, 1)], ids=str)
@pytest.mark.parametrize("sampling", ["cellpose", "centered"])
def test_tiny_images_give_the_oracles_labels(shape, sampling, device):
    rng = np.random.default_rng(0)
    for cellprob in (np.ones(shape, np.float32), rng.normal(1, 2, shape).astype(np.float32)):
        for length in (0.0, 3.0, 20.0):
            dP = rng.uniform(-length, length, (len(shape), *shape)).astype(np.float32)
            assert_follows_oracle(device, dP, cellprob, sampling=sampling, max_size_fraction=1.0)


@pytest.mark.parametrize("shape", [(1, 30), (30, 1), (1, 12, 12)], ids=str)
@pytest.mark.parametrize("sampling", ["cellpose", "centered"])
def test_nothing_moves_along_an_axis_of_length_one(shape, sampling, device):
    dP = np.full((len(shape), *shape), 3, np.float32)
    ends = cellpost.flow_endpoints(
        device.put(dP), device.put(np.ones(shape, bool)), sampling=sampling
    )
    ends = device.get(ends)
    for axis, length in enumerate(shape):
        np.testing.assert_array_equal(ends[axis], 0 if length == 1 else length - 1)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (0, 4, 4), (3, 0, 2)], ids=str)
def test_empty_images_give_empty_answers(shape, device):
    ndim = len(shape)
    dP = device.put(np.zeros((ndim, *shape), np.float32))
    cellprob = device.put(np.zeros(shape, np.float32))
    labels, report = cellpost.follow_flows(dP, cellprob, return_report=True)
    assert device.get(labels).shape == shape
    assert device.get(labels).dtype == np.int32
    assert report.n_labels == report.n_foreground == 0
    mask = device.put(np.zeros(shape, bool))
    ends = cellpost.flow_endpoints(dP, mask)
    assert tuple(ends.shape) == (ndim, 0)
    assert device.get(cellpost.endpoints_to_labels(ends, mask)).shape == shape
    assert device.get(cellpost.masks_to_flows(labels)).shape == (ndim, *shape)
    assert device.get(cellpost.flow_error(labels, dP)).shape == (0,)
    assert device.get(cellpost.remove_bad_flows(labels, dP)).shape == shape


@pytest.mark.parametrize("shape", [(30, 40), (6, 10, 12)], ids=str)
def test_no_foreground_gives_no_labels(shape, device):
    dP = np.ones((len(shape), *shape), np.float32)
    labels, report = follow(device, dP, np.full(shape, -1, np.float32))
    assert not labels.any()
    assert set(report.values()) == {0}
    mask = np.zeros(shape, bool)
    ends = cellpost.flow_endpoints(device.put(dP), device.put(mask))
    assert tuple(ends.shape) == (len(shape), 0)
    assert not device.get(cellpost.endpoints_to_labels(ends, device.put(mask))).any()
    zeros = np.zeros(shape, np.int32)
    assert not device.get(cellpost.masks_to_flows(device.put(zeros))).any()
    assert device.get(cellpost.flow_error(device.put(zeros), device.put(dP))).shape == (0,)


@pytest.mark.parametrize("shape", [(50, 60), (8, 16, 18)], ids=str)
def test_all_foreground_gives_the_oracles_labels(shape, device):
    maps = simulated(shape, noise=1.0)
    cellprob = np.full(shape, 1, np.float32)
    assert_follows_oracle(device, maps.dP, cellprob, flow_threshold=None)


@pytest.mark.parametrize(("fraction", "n_too_large"), [(0.4, 1), (1.0, 0)])
def test_one_giant_cell_is_kept_or_reported_as_too_large(fraction, n_too_large, device):
    maps = simulate.from_labels(np.ones((70, 80), np.int32))
    labels, report = follow(device, maps.dP, maps.cellprob, max_size_fraction=fraction)
    assert report["n_too_large"] == n_too_large
    np.testing.assert_array_equal(labels, 1 - n_too_large)


def test_a_size_of_exactly_the_fraction_is_kept():
    labels = np.zeros((10, 10), np.int32)
    labels[:4] = 1  # 40 of 100 pixels
    assert (cellpost.remove_large(labels, max_size_fraction=0.4) == labels).all()
    assert not cellpost.remove_large(labels, max_size_fraction=0.399).any()


# ---- many cells, out_dtype ----------------------------------------------------------------------


def many_cells(n_rows, n_columns):
    """Cells of 4 x 4 on a grid of 5 x 5, each drawn to its middle; 16 points meet in one bin."""
    y, x = np.mgrid[:5, :5].astype(np.float32)
    inside = (y < 4) & (x < 4)
    cell = np.stack([1.5 - y, 1.5 - x]) * 0.5 * inside
    dP = np.tile(cell, (1, n_rows, n_columns)).astype(np.float32)
    cellprob = np.tile(np.where(inside, np.float32(5), np.float32(-5)), (n_rows, n_columns))
    ids = np.kron(np.arange(n_rows * n_columns).reshape(n_rows, n_columns) + 1, inside)
    return dP, cellprob, ids.astype(np.int32)


OPTIONS = {"sampling": "centered", "flow_threshold": None}


@pytest.fixture(scope="module")
def crowd():
    """65,792 cells: more than uint16 can name."""
    return many_cells(256, 257)


def test_more_than_65535_cells_are_all_told_apart(crowd, device):
    dP, cellprob, ids = crowd
    labels, report = follow(device, dP, cellprob, **OPTIONS)
    assert report["n_labels"] == labels.max() == 65792
    # ids in raster order of first appearance, as `ids` has them
    np.testing.assert_array_equal(labels, ids)


def test_more_than_65535_cells_do_not_fit_into_uint16(crowd, device):
    dP, cellprob, _ = crowd
    with pytest.raises(OverflowError, match=r"out_dtype.*65[,_]?792"):
        cellpost.follow_flows(device.put(dP), device.put(cellprob), out_dtype="uint16", **OPTIONS)


def test_65535_cells_fit_into_uint16_and_one_more_does_not(crowd):
    ids = crowd[2].copy()
    ids[ids > 65536] = 0
    with pytest.raises(OverflowError, match="out_dtype"):
        cellpost.relabel(ids, out_dtype=np.uint16)
    ids[ids > 65535] = 0
    got = cellpost.relabel(ids, out_dtype=np.uint16)
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, ids)


@pytest.mark.parametrize(
    ("dtype", "n_most"),
    [(np.int8, 127), (np.uint8, 255), (np.int16, 32767), (np.uint16, 65535)],
)
def test_too_small_an_out_dtype_raises_and_one_that_fits_does_not(dtype, n_most, crowd):
    dP, cellprob, ids = crowd
    n_rows = n_most // 257 + 1
    dP, cellprob, ids = dP[:, : 5 * n_rows], cellprob[: 5 * n_rows], ids[: 5 * n_rows]
    last = np.where(ids > n_most, np.float32(-5), cellprob)
    got = cellpost.follow_flows(dP, last, out_dtype=dtype, **OPTIONS)
    assert got.dtype == dtype
    assert got.max() == n_most
    one_more = np.where(ids > n_most + 1, np.float32(-5), cellprob)
    with pytest.raises(OverflowError, match="out_dtype"):
        cellpost.follow_flows(dP, one_more, out_dtype=dtype, **OPTIONS)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
@pytest.mark.parametrize("sign", ["", "u"])
def test_every_integer_out_dtype_holds_the_same_labels(dtype, sign):
    maps = simulated((60, 70))
    expected = cellpost.follow_flows(maps.dP, maps.cellprob)
    assert expected.dtype == np.int32
    for out_dtype in (sign + dtype, np.dtype(sign + dtype), np.dtype(sign + dtype).type):
        got = cellpost.follow_flows(maps.dP, maps.cellprob, out_dtype=out_dtype)
        assert got.dtype == np.dtype(sign + dtype)
        np.testing.assert_array_equal(got, expected)


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(50, 60), (7, 16, 18)], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_count_as_background_and_as_no_flow(bad, shape, device):
    maps = simulated(shape, noise=0.5, seed=4)
    rng = np.random.default_rng(2)
    dP, cellprob = maps.dP.copy(), maps.cellprob.copy()
    dP[rng.random(dP.shape) < 0.03] = bad
    cellprob[rng.random(shape) < 0.03] = bad
    got, report = assert_follows_oracle(device, dP, cellprob)
    assert report["n_labels"] > 0
    clean_dP = np.where(np.isfinite(dP).all(axis=0), dP, 0).astype(np.float32)
    clean_cellprob = np.where(np.isfinite(cellprob), cellprob, np.float32(-5))
    clean, clean_report = follow(device, clean_dP, clean_cellprob)
    np.testing.assert_array_equal(got, clean)
    assert report == clean_report
    if len(shape) == 2:
        error = cellpost.flow_error(device.put(maps.labels), device.put(dP))
        expected = ref_flows.flow_error(maps.labels, dP)
        assert np.isfinite(expected).all()
        # summation order, as in test_flows.py
        np.testing.assert_allclose(device.get(error), expected, rtol=1e-12, atol=0)


def test_maps_of_nothing_but_nan_give_no_labels(device):
    nan = np.full((3, 20, 30), np.nan, np.float32)
    labels, report = follow(device, nan[:2], nan[2])
    assert not labels.any()
    assert report["n_foreground"] == 0
    labels, report = follow(device, nan[:2], np.ones((20, 30), np.float32))
    assert report["n_foreground"] == 600
    assert not labels.any()


@pytest.mark.parametrize("threshold", [-2.0, 0.0, 0.1, 3.5, np.inf, -np.inf])
def test_foreground_is_strictly_above_the_threshold(threshold, device):
    cellprob = np.array([[-3, -2, 0, 0.1, 3.5, 4]] * 7, np.float32)
    _, report = follow(
        device, np.zeros((2, 7, 6), np.float32), cellprob, cellprob_threshold=threshold
    )
    assert report["n_foreground"] == (cellprob > np.float32(threshold)).sum()


# ---- dtypes and layouts -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("shape", [(60, 70), (7, 20, 21)], ids=str)
def test_other_float_dtypes_are_computed_in_float32(dtype, shape, device):
    maps = simulated(shape, noise=1.0)
    dP, cellprob = maps.dP.astype(dtype), maps.cellprob.astype(dtype)
    dP += np.float64(1e-9) if dtype == np.float64 else dtype(0)  # more digits than float32 has
    expected, _ = follow(device, dP.astype(np.float32), cellprob.astype(np.float32))
    assert expected.any()
    np.testing.assert_array_equal(follow(device, dP, cellprob)[0], expected)
    mixed, _ = follow(device, dP, cellprob.astype(np.float32))
    np.testing.assert_array_equal(mixed, expected)


def layouts(array):
    """The same values in other memory layouts, all of them views that must not be written to."""
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    yield "every second", wide[..., ::2]
    yield "Fortran", np.asfortranarray(array)
    for axis in (0, -1):
        yield f"flipped {axis}", np.flip(np.flip(array, axis).copy(), axis)
    yield "all flipped", np.flip(np.flip(array).copy())
    yield "channels last", np.moveaxis(np.moveaxis(array, 0, -1).copy(), -1, 0)
    yield "swapped", np.swapaxes(np.swapaxes(array, -1, -2).copy(), -1, -2)
    frozen = array.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    large = np.full([n + 3 for n in array.shape], 7, array.dtype)
    middle = large[tuple(slice(1, n + 1) for n in array.shape)]
    middle[...] = array
    yield "window", middle


@pytest.mark.parametrize("shape", [(40, 51), (6, 15, 17)], ids=str)
def test_the_layout_in_memory_does_not_change_a_byte(shape):
    maps = simulated(shape, noise=1.0)
    mask = maps.cellprob > 0
    labels = maps.labels
    ends = cellpost.flow_endpoints(maps.dP, mask)
    expected = [
        cellpost.follow_flows(maps.dP, maps.cellprob),
        ends,
        cellpost.endpoints_to_labels(ends, mask),
        cellpost.masks_to_flows(labels),
        cellpost.flow_error(labels, maps.dP),
        cellpost.remove_bad_flows(labels, maps.dP, flow_threshold=0.1),
    ]
    assert expected[0].any()
    all_of = zip(*[layouts(a) for a in (maps.dP, maps.cellprob, mask, ends, labels)], strict=True)
    for each in all_of:
        dP, cellprob, mask_, ends_, labels_ = (array for _, array in each)
        before = [a.copy() for a in (dP, cellprob, mask_, ends_, labels_)]
        got = [
            cellpost.follow_flows(dP, cellprob),
            cellpost.flow_endpoints(dP, mask_),
            cellpost.endpoints_to_labels(ends_, mask_),
            cellpost.masks_to_flows(labels_),
            cellpost.flow_error(labels_, dP),
            cellpost.remove_bad_flows(labels_, dP, flow_threshold=0.1),
        ]
        for g, e in zip(got, expected, strict=True):
            assert g.tobytes() == e.tobytes(), each[0][0]
        for old, new in zip(before, (dP, cellprob, mask_, ends_, labels_), strict=True):
            np.testing.assert_array_equal(old, new, err_msg="an input was written to")


def test_a_broadcast_input_is_read_as_its_values():
    cellprob = np.broadcast_to(np.float32(1), (30, 40))
    dP = np.broadcast_to(np.float32(0.5), (2, 30, 40))
    expected = cellpost.follow_flows(dP.copy(), cellprob.copy(), max_size_fraction=1.0)
    got = cellpost.follow_flows(dP, cellprob, max_size_fraction=1.0)
    np.testing.assert_array_equal(got, expected)
