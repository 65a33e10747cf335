"""The flows family against its NumPy oracle, and what must hold for every field."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import flows as ref_flows

import cellpost

SHAPES = [(48, 67), (13, 128), (96, 31), (9, 21, 30)]


def simulated(shape, *, noise=0.5, cellprob_noise=0.0, seed=0, n=None):
    labels = simulate.blobs(shape, n or max(2, int(np.prod(shape)) // 120), seed=seed)
    return simulate.from_labels(labels, noise=noise, cellprob_noise=cellprob_noise, seed=seed)


def counts(report):
    return {k: int(v) for k, v in dataclasses.asdict(report).items()}


def follow(device, dP, cellprob, **options):
    """(labels as NumPy, report as a dict)."""
    labels, report = cellpost.follow_flows(
        device.put(dP), device.put(cellprob), return_report=True, **options
    )
    return device.get(labels), counts(report)


def assert_follows_oracle(device, dP, cellprob, **options):
    got, report = follow(device, dP, cellprob, **options)
    expected, expected_report = ref_flows.follow_flows(dP, cellprob, **options)
    np.testing.assert_array_equal(got, expected)
    assert report == expected_report.as_dict()
    return got, report


# ---- oracle -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("noise", [0, 1.0, 2.2])
@pytest.mark.parametrize("sampling", ["cellpose", "centered"])
def test_labels_and_report_are_the_oracles(shape, noise, sampling, device):
    maps = simulated(shape, noise=noise, cellprob_noise=2 * noise)
    _, report = assert_follows_oracle(device, maps.dP, maps.cellprob, sampling=sampling)
    assert report["n_seeds"] > 0


@pytest.mark.parametrize("fragments", ["keep", "largest", "split"])
@pytest.mark.parametrize("fill_holes", [True, "cellpose", False])
@pytest.mark.parametrize(("shape", "drop"), [((80, 90), 0.35), ((8, 28, 28), 0.5)], ids=str)
def test_fragments_and_holes_are_the_oracles(shape, drop, fill_holes, fragments, device):
    # A foreground with holes leaves labels with holes and fragments.
    maps = simulated(shape, noise=1.0, seed=3)
    cellprob = np.where(
        np.random.default_rng(4).random(shape) < drop, np.float32(-5), maps.cellprob
    )
    _, report = assert_follows_oracle(
        device,
        maps.dP,
        cellprob,
        fill_holes=fill_holes,
        fragments=fragments,
        flow_threshold=None,
        min_size=4,
    )
    assert (report["n_hole_pixels"] > 0) == bool(fill_holes)
    assert (report["n_fragments"] > 0) == (fragments != "keep")


@pytest.mark.parametrize("fill_holes", [True, "cellpose", False])
def test_a_cell_in_a_ring_shaped_one_is_kept_unless_cellposes_answer_is_asked_for(
    fill_holes, device
):
    radius = np.hypot(*(np.indices((60, 70)) - np.array([30, 31])[:, None, None]))
    labels = np.where((radius <= 16) & (radius > 11), 1, np.where(radius <= 5, 2, 0))
    maps = simulate.from_labels(labels)
    got, report = assert_follows_oracle(
        device, maps.dP, maps.cellprob, fill_holes=fill_holes, niter=400
    )
    assert got.max() == report["n_labels"] == (1 if fill_holes == "cellpose" else 2)
    assert report["n_nested"] == (fill_holes == "cellpose")
    assert (got[(radius > 5) & (radius <= 11)] > 0).all() == bool(fill_holes)


def jumps(labels):
    """Maps that give these labels in one centered step: each object's pixels jump to its bin."""
    places = [range(0, n, 12) for n in labels.shape]
    bins = np.array([np.zeros(labels.ndim), *list(np.ndindex(*map(len, places)))]) * 12
    assert labels.max() < len(bins)
    to = np.moveaxis(bins[labels], -1, 0) - np.indices(labels.shape)
    return (5 * to).astype(np.float32), np.where(labels > 0, np.float32(5), np.float32(-5))


@pytest.mark.parametrize("fragments", ["keep", "largest", "split"])
@pytest.mark.parametrize("fill_holes", [True, "cellpose", False])
def test_what_is_left_of_an_overwritten_cell_must_be_large_enough_too(
    fill_holes, fragments, device
):
    radius = np.hypot(*(np.indices((60, 70)) - np.array([30, 31])[:, None, None]))
    labels = np.where((radius <= 16) & (radius > 11), 1, np.where(radius <= 5, 2, 0))
    labels[2:4, 3:9] = 2  # twelve pixels of it lie elsewhere
    labels[50:, 2:30] = 3
    dP, cellprob = jumps(labels)
    options = {"niter": 1, "sampling": "centered", "flow_threshold": None}
    _, report = assert_follows_oracle(
        device, dP, cellprob, fill_holes=fill_holes, fragments=fragments, **options
    )
    assert report["n_fragments"] == (fragments != "keep")
    left = fill_holes == "cellpose" and fragments == "keep"
    assert report["n_too_small"] == (left or fragments == "split")
    assert report["n_nested"] == (fill_holes == "cellpose" and fragments != "keep")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(70, 83), (13, 37, 38)], ids=str)
def test_the_clean_up_of_labels_full_of_holes_and_fragments_is_the_oracles(shape, seed, device):
    rng = np.random.default_rng(seed)
    n = int(np.prod([-(-m // 12) for m in shape])) - 1
    labels = simulate.blobs(shape, n, seed=seed, radius=(3, 12))
    labels[rng.random(shape) < 0.3] = 0
    other = rng.random(shape) < 0.05
    labels[other] = rng.integers(1, n + 1, other.sum())
    dP, cellprob = jumps(labels)
    options = {"niter": 1, "sampling": "centered", "flow_threshold": None}
    for fill_holes in (True, "cellpose", False):
        for fragments in ("keep", "largest", "split"):
            for min_size in (0, 40):
                assert_follows_oracle(
                    device,
                    dP,
                    cellprob,
                    fill_holes=fill_holes,
                    fragments=fragments,
                    min_size=min_size,
                    **options,
                )


@pytest.mark.parametrize("sampling", ["cellpose", "centered"])
@pytest.mark.parametrize("niter", [0, 1, 2, 15, 16, 17, 33, 200, 1001])
@pytest.mark.parametrize("shape", [(23, 37), (7, 11, 13)], ids=str)
def test_end_points_have_the_oracles_bits_after_any_number_of_steps(shape, niter, sampling, device):
    maps = simulated(shape, noise=2.0, cellprob_noise=3)
    mask = maps.cellprob > 0
    got = cellpost.flow_endpoints(
        device.put(maps.dP), device.put(mask), niter=niter, sampling=sampling
    )
    expected = ref_flows.flow_endpoints(maps.dP, mask, niter=niter, sampling=sampling)
    got = np.ascontiguousarray(device.get(got))
    np.testing.assert_array_equal(got.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("size", [0.2, 5.0, 500.0, 3e38])
@pytest.mark.parametrize("shape", [(40, 50), (8, 12, 14)], ids=str)
@pytest.mark.parametrize("sampling", ["cellpose", "centered"])
def test_flows_of_any_size_end_where_the_oracle_says(size, shape, sampling, device):
    rng = np.random.default_rng(8)
    dP = (size * rng.uniform(-1, 1, (len(shape), *shape))).astype(np.float32)
    mask = np.ones(shape, bool)
    got = cellpost.flow_endpoints(device.put(dP), device.put(mask), niter=40, sampling=sampling)
    with np.errstate(over="ignore"):
        expected = ref_flows.flow_endpoints(dP, mask, niter=40, sampling=sampling)
    got = device.get(got)
    np.testing.assert_array_equal(got, expected)
    assert (got >= 0).all()
    assert (got <= np.array(shape)[:, None] - 1).all()


@settings(max_examples=25, deadline=None)
@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 9), st.integers(1, 14), st.integers(1, 14)),
    ),
    seed=st.integers(0, 2**31),
    noise=st.sampled_from([0.0, 1.0, 3.0, 30.0]),
    sampling=st.sampled_from(["cellpose", "centered"]),
    fragments=st.sampled_from(["keep", "largest", "split"]),
    fill_holes=st.sampled_from([True, "cellpose", False]),
    niter=st.integers(0, 60),
    min_size=st.integers(-1, 20),
    flow_threshold=st.sampled_from([None, 0.0, 0.2, 0.4, 10.0]),
    max_size_fraction=st.sampled_from([0.0, 0.1, 0.4, 1.0, 2.0]),
)
def test_any_small_field_gives_the_oracles_labels(
    shape, seed, noise, fragments, fill_holes, **options
):
    rng = np.random.default_rng(seed)
    labels = simulate.blobs(shape, int(rng.integers(0, 9)), seed=seed, radius=(1, 6))
    maps = simulate.from_labels(labels, noise=noise, seed=seed)
    cellprob = maps.cellprob + rng.normal(0, 4, shape).astype(np.float32)
    got, report = cellpost.follow_flows(
        maps.dP,
        cellprob,
        fragments=fragments,
        fill_holes=fill_holes,
        return_report=True,
        **options,
    )
    with np.errstate(over="ignore"):
        expected, expected_report = ref_flows.follow_flows(
            maps.dP, cellprob, fragments=fragments, fill_holes=fill_holes, **options
        )
    np.testing.assert_array_equal(got, expected)
    assert counts(report) == expected_report.as_dict()


@pytest.mark.parametrize("shape", [(60, 71), (9, 20, 30)], ids=str)
@pytest.mark.parametrize("niter", [None, 0, 1, 30])
def test_targets_are_the_oracles(shape, niter, device):
    labels = simulate.blobs(shape, 40, seed=6)
    got = device.get(cellpost.masks_to_flows(device.put(labels), niter=niter))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, ref_flows.masks_to_flows(labels, niter=niter))


@pytest.mark.parametrize("shape", [(530, 520), (70, 64, 66)], ids=str)
@pytest.mark.parametrize("density", [0.9, 0.01])
def test_targets_of_large_and_of_scattered_objects_are_the_oracles(shape, density, device):
    # The first and the third object fill a half or the whole of the image, among each other.
    rng = np.random.default_rng(13)
    labels = np.where(rng.random(shape) < density, rng.integers(1, 4, shape), 0).astype(np.int32)
    labels[labels == 2] *= rng.random(np.sum(labels == 2)) < 0.5
    labels[shape[0] // 2 :][labels[shape[0] // 2 :] == 1] = 3
    got = device.get(cellpost.masks_to_flows(device.put(labels), niter=25))
    np.testing.assert_array_equal(got, ref_flows.masks_to_flows(labels, niter=25))


@pytest.mark.parametrize(("tile", "grid"), [((6, 6), (16, 16)), ((4, 4, 4), (12, 12, 12))])
def test_centres_of_scattered_objects_are_the_oracles_where_many_pixels_are_nearest(
    tile, grid, device
):
    # One object of random pixels a tile. Many of their pixels are equally near the mean, in 3D some
    # but for rounding, so that the order in which the squares are added decides.
    ids = np.arange(np.prod(grid)).reshape(grid) + 1
    labels = np.kron(ids, np.ones(tile, int))
    labels[np.random.default_rng(12).random(labels.shape) < 0.5] = 0
    got = device.get(cellpost.masks_to_flows(device.put(labels.astype(np.int32)), niter=1))
    np.testing.assert_array_equal(got, ref_flows.masks_to_flows(labels, niter=1))


@pytest.mark.parametrize("shape", [(60, 71), (9, 20, 30)], ids=str)
def test_errors_are_the_oracles_one_per_id(shape, device):
    maps = simulated(shape, noise=1.0, seed=7)
    got = device.get(cellpost.flow_error(device.put(maps.labels), device.put(maps.dP)))
    expected = ref_flows.flow_error(maps.labels, maps.dP)
    assert got.dtype == np.float64
    assert got.shape == (len(np.unique(maps.labels)) - 1,)
    # the mean of up to a thousand squares in another order: n * 2^-53 at most
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=0)


def test_bad_flows_are_removed_and_the_other_ids_kept(device):
    maps = simulated((90, 90), noise=2.1, seed=2)
    got = cellpost.remove_bad_flows(device.put(maps.labels), device.put(maps.dP))
    expected = ref_flows.remove_bad_flows(maps.labels, maps.dP)
    assert 0 < len(np.unique(expected)) < len(np.unique(maps.labels))
    np.testing.assert_array_equal(device.get(got), expected)


# ---- stages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(70, 90), (9, 26, 26)], ids=str)
@pytest.mark.parametrize("sampling", ["cellpose", "centered"])
def test_the_stages_one_by_one_give_follow_flows(shape, sampling, device):
    maps = simulated(shape, noise=1.8, cellprob_noise=3, seed=1)
    dP, mask = device.put(maps.dP), device.put(maps.cellprob > 0)
    ends = cellpost.flow_endpoints(dP, mask, sampling=sampling)
    labels = cellpost.endpoints_to_labels(ends, mask)
    if len(shape) == 2:
        labels = cellpost.relabel(cellpost.remove_bad_flows(labels, dP))
    labels = cellpost.relabel(cellpost.remove_small(labels))
    labels = cellpost.fill_holes(labels)
    labels = device.get(cellpost.relabel(cellpost.remove_small(labels)))
    whole, report = follow(device, maps.dP, maps.cellprob, sampling=sampling)
    np.testing.assert_array_equal(labels, whole)
    assert report["n_labels"] > 1


def test_labels_from_saved_end_points_are_the_same(tmp_path, device):
    maps = simulated((70, 90), noise=1.0)
    mask = maps.cellprob > 0
    ends = device.get(cellpost.flow_endpoints(device.put(maps.dP), device.put(mask)))
    np.save(tmp_path / "ends.npy", ends)
    saved = np.load(tmp_path / "ends.npy")
    again = cellpost.endpoints_to_labels(device.put(saved), device.put(mask))
    expected = ref_flows.endpoints_to_labels(ends, mask)
    np.testing.assert_array_equal(device.get(again), expected)
    fewer = cellpost.endpoints_to_labels(
        device.put(saved), device.put(mask), max_size_fraction=0.01
    )
    expected = ref_flows.endpoints_to_labels(ends, mask, max_size_fraction=0.01)
    np.testing.assert_array_equal(device.get(fewer), expected)


def test_equal_counts_are_ranked_by_position():
    # Four piles of 12 points whose grown areas overlap: the later bin in raster order wins.
    shape = (12, 20)
    mask = np.zeros(shape, bool)
    mask[:4, :] = True
    piles = [(8, 3), (8, 6), (8, 9), (8, 12)]
    points = [p for p in piles for _ in range(12)]
    points += [(8, x) for x in (4, 5, 7, 8, 10, 11) for _ in range(3)]
    points += [(0, 0)] * (mask.sum() - len(points))
    ends = np.array(points, np.float32).T + np.float32(0.25)
    got = cellpost.endpoints_to_labels(ends, mask, max_size_fraction=1.0)
    np.testing.assert_array_equal(
        got, ref_flows.endpoints_to_labels(ends, mask, max_size_fraction=1)
    )
    # bins 4 and 5 lie between piles of one size: both go to the later pile at 6, not to 3
    assert (got[mask][48:54] == got[mask][12]).all()


def test_the_report_accounts_for_every_seed(device):
    maps = simulated((120, 130), noise=2.15, cellprob_noise=4, seed=5)
    for fragments in ("keep", "largest", "split"):
        options = {"fragments": fragments, "flow_threshold": 0.6, "min_size": 30}
        labels, r = follow(device, maps.dP, maps.cellprob, **options)
        added = r["n_fragments"] if fragments == "split" else 0
        dropped = sum(
            r[k] for k in ("n_empty_seeds", "n_too_large", "n_bad_flow", "n_too_small", "n_nested")
        )
        assert r["n_seeds"] + added - dropped == r["n_labels"] == labels.max()
        assert r["n_bad_flow"] > 0
        assert r["n_too_small"] > 0
        assert r["n_foreground"] == (maps.cellprob > 0).sum()
        assert r["n_unassigned"] > 0
        assert r["n_empty_seeds"] > 0


# ---- sampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [(1, 0), (37, 1021), (500, 3)])
def test_centered_labels_do_not_depend_on_where_the_field_lies(offset, device):
    maps = simulated((61, 83), noise=1.5, cellprob_noise=2, seed=9)
    # a margin: at the border of the image points are held back, which is not translation
    dP, cellprob = np.pad(maps.dP, ((0, 0), (9, 9), (9, 9))), maps.cellprob
    cellprob = np.pad(cellprob, 9, constant_values=-5)
    options = {"sampling": "centered", "max_size_fraction": 1.0}
    alone, report = follow(device, dP, cellprob, **options)
    far = tuple(o + n for o, n in zip(offset, alone.shape, strict=True))
    inside = tuple(slice(o, f) for o, f in zip(offset, far, strict=True))
    whole = tuple(f + 11 for f in far)
    large_dP = np.random.default_rng(1).normal(0, 5, (2, *whole)).astype(np.float32)
    large_dP[(slice(None), *inside)] = dP
    large_cellprob = np.full(whole, -5, np.float32)
    large_cellprob[inside] = cellprob
    large, large_report = follow(device, large_dP, large_cellprob, **options)
    np.testing.assert_array_equal(large[inside], alone)
    assert large_report == report
    assert report["n_labels"] > 3

    args = [(dP, cellprob > 0), (large_dP, large_cellprob > 0)]
    ends = [
        device.get(cellpost.flow_endpoints(*map(device.put, a), sampling="centered")) for a in args
    ]
    moved = ends[1].astype(np.int64) - np.array(offset)[:, None]
    np.testing.assert_array_equal(moved, ends[0].astype(np.int64))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    offset=st.tuples(*[st.integers(0, 300)] * 2),
    shape=st.tuples(*[st.integers(20, 40)] * 2),
)
def test_centered_bins_move_with_the_field(seed, offset, shape):
    rng = np.random.default_rng(seed)
    dP = rng.normal(0, 4, (2, *shape)).astype(np.float32)
    mask = np.zeros(shape, bool)
    mask[8:-8, 8:-8] = rng.random((shape[0] - 16, shape[1] - 16)) < 0.7
    # seven steps of at most a pixel keep every point away from the border
    dP *= np.minimum(1, 5 / np.maximum(np.hypot(*dP), 1e-6))
    pads = [(o, 5) for o in offset]
    alone = cellpost.flow_endpoints(dP, mask, niter=7, sampling="centered")
    moved = cellpost.flow_endpoints(
        np.pad(dP, [(0, 0), *pads]), np.pad(mask, pads), niter=7, sampling="centered"
    )
    back = moved.astype(np.int64) - np.array(offset)[:, None]
    np.testing.assert_array_equal(back, alone.astype(np.int64))


def test_the_cellpose_rule_does_depend_on_the_image_size():
    maps = simulated((61, 83), noise=1.5, seed=9)
    mask = maps.cellprob > 0
    pad = ((0, 40), (0, 300))
    alone = cellpost.flow_endpoints(maps.dP, mask)
    within = cellpost.flow_endpoints(np.pad(maps.dP, ((0, 0), *pad)), np.pad(mask, pad))
    assert (np.abs(within - alone).max(axis=0) > 0.05).mean() > 0.5
