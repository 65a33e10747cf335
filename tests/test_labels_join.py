"""join_fragments: cells that tiles without overlap cut in two are whole again."""

from __future__ import annotations

import numpy as np
import pytest
import simulate
from reference import labels as ref_labels

import cellpost
from cellpost import TileGrid
from cellpost.labels_join import join_fragments


def side_by_side(labels, grid):
    """Each tile's part of an object with an id of its own."""
    out = np.zeros(grid.shape, np.int64)
    for i in range(len(grid)):
        core = grid.core(i)
        out[core] = np.where(labels[core] > 0, labels[core] + i * (int(labels.max()) + 1), 0)
    return out


def slow_join(labels, grid):
    """The rule without flows, one pair of fragments after the other."""
    links = []
    for axis in range(grid.ndim):
        lines = np.moveaxis(labels, axis, 0)
        cuts = {grid.core(i)[axis].start for i in range(len(grid))} - {0}
        for cut in sorted(cuts):
            near, far = lines[cut - 1], lines[cut]
            scores = {}
            for a, b in {(int(a), int(b)) for a, b in zip(near.flat, far.flat, strict=True)}:
                shared = np.sum((near == a) & (far == b))
                edges = np.sum(near == a), np.sum(far == b)
                before, behind = lines[max(cut - 7, 0) : cut - 1], lines[cut + 1 : cut + 7]
                wide_a = max((np.sum(line == a) for line in before), default=0)
                wide_b = max((np.sum(line == b) for line in behind), default=0)
                is_neck = min(wide_a, wide_b) > 1.15 ** (grid.ndim - 1) * shared
                if a and b and a != b and 2 * shared >= min(edges) and not is_neck:
                    scores[a, b] = shared / (sum(edges) - shared)
            for a, b in scores:
                best_b = min((-v, y) for (x, y), v in scores.items() if x == a)[1]
                best_a = min((-v, x) for (x, y), v in scores.items() if y == b)[1]
                if (best_a, best_b) == (a, b):
                    links.append((a, b))
    joined = labels.copy()
    for a, b in links:
        one, other = (joined[labels == x][0] for x in (a, b))
        joined[joined == other] = one
    return ref_labels.relabel(joined)


def score(true, found, grid):
    """Objects that seams cross, those of them whole again, and those merged with others; merges.

    A merge is wrong if an object found holds pixels of two true ones: of n it is n - 1 merges,
    whether or not seams cross these.
    """
    cores = np.zeros(grid.shape, np.int64)
    for i in range(len(grid)):
        cores[grid.core(i)] = i
    cells = true > 0
    np.testing.assert_array_equal(found > 0, cells)

    def pairs(other):
        return np.unique(np.stack([true[cells], other[cells]]), axis=1)

    ids, n_cores = np.unique(pairs(cores)[0], return_counts=True)
    crossing = ids[n_cores > 1]
    of_true = pairs(found)
    ids_found, n_true = np.unique(of_true[1], return_counts=True)
    ids_true, n_found = np.unique(of_true[0], return_counts=True)
    merged = np.unique(of_true[0][np.isin(of_true[1], ids_found[n_true > 1])])
    whole = np.setdiff1d(crossing, np.union1d(merged, ids_true[n_found > 1]))
    n_merged = np.isin(crossing, merged).sum()
    return np.array([len(crossing), len(whole), n_merged, (n_true - 1).sum()])


def scores(images, n_grids, sides, ndim=2):
    rng = np.random.default_rng(0)
    sums = np.zeros(4, int)
    for k in range(n_grids):
        true = images[k % len(images)]
        grid = TileGrid(true.shape, tile=rng.integers(*sides, ndim).tolist(), layout="nonoverlap")
        tiles = simulate.label_tiles(true, grid, pieces=k % 2 == 1, seed=k)
        sums += score(true, join_fragments(tiles, grid), grid)
    return sums


def assert_rejoined(sums, share_merged=0.005):
    """At least 95 % of what seams cross is whole; so much of it merged, and as many merges."""
    n_crossing, n_whole, n_merged, n_merges = sums.tolist()
    assert n_crossing > 300
    assert n_whole >= 0.95 * n_crossing, sums
    assert max(n_merged, n_merges) <= share_merged * n_crossing, sums


@pytest.mark.parametrize("clip", [1.0, 1.3])
def test_fragments_are_joined_as_one_pair_after_the_other(clip):
    for shape, side, radius in (((70, 90), 17, (2, 6)), ((24, 30, 26), 11, (2, 5))):
        true = simulate.packed_discs(shape, radius=radius, clip=clip, seed=7)
        grid = TileGrid(shape, tile=side, layout="nonoverlap")
        fragments = side_by_side(true, grid)
        expected = slow_join(fragments, grid)
        assert fragments.max() > expected.max()
        np.testing.assert_array_equal(join_fragments(fragments, grid), expected)


def test_real_nuclei_are_whole_again(nuclei2d):
    assert_rejoined(scores([nuclei2d], 40, (40, 200)))


def test_nuclei_of_a_volume_are_whole_again(nuclei3d):
    assert_rejoined(scores([nuclei3d], 40, (14, 40), 3))


@pytest.mark.parametrize("clip", [1.0, 1.15])
@pytest.mark.parametrize("radius", [(4, 14), (10, 10.5), (10, 40)])
def test_packed_discs_are_whole_again(clip, radius):
    images = [simulate.packed_discs((400, 400), radius=radius, clip=clip, seed=s) for s in (0, 1)]
    assert_rejoined(scores(images, 16, (40, 160)))


# Small ones pressed together touch along a pixel or two: the docstring promises less of these.
@pytest.mark.parametrize(("clip", "share_merged"), [(1.0, 0.005), (1.15, 0.01), (1.3, 0.015)])
def test_small_packed_discs_are_whole_again(clip, share_merged):
    images = [
        simulate.packed_discs((400, 400), radius=(2, 5), clip=clip, tries=20_000, seed=s)
        for s in (0, 1)
    ]
    assert_rejoined(scores(images, 4, (40, 160)), share_merged)


def test_packed_balls_are_whole_again():
    balls = simulate.packed_discs((50, 80, 90), radius=(4, 10), tries=1500)
    assert_rejoined(scores([balls], 12, (15, 60), 3))


# ---- what is one cell, and what is not ----------------------------------------------------------


def halves(height=40, at=20):
    return TileGrid((height, 40), tile=(at, 40), layout="nonoverlap")


def disc(centre, radius, shape=(40, 40)):
    y, x = np.indices(shape)
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def test_two_discs_that_touch_at_the_seam_stay_two():
    labels = disc((11.5, 20), 8.2) + 2 * disc((27.5, 20), 8.2).astype(np.int32)
    assert np.count_nonzero(labels[19]) > 0 < np.count_nonzero(labels[20])
    found, report = join_fragments(labels, halves(), return_report=True)
    np.testing.assert_array_equal(found, labels)
    assert (report.n_pairs, report.n_joined, report.n_no_evidence) == (1, 0, 1)
    assert report.n_labels == 2


def test_four_fragments_are_one_cell():
    grid = TileGrid((40, 40), tile=20, layout="nonoverlap")
    cell = disc((19, 21), 9).astype(np.int32)
    tiles = simulate.label_tiles(cell, grid, seed=1)
    found, report = join_fragments(tiles, grid, return_report=True)
    np.testing.assert_array_equal(found, cell)
    assert (report.n_pairs, report.n_joined) == (4, 4)


def test_a_cell_across_many_tiles_is_one():
    cell = np.zeros((12, 90), np.int32)
    cell[3:9, 5:85] = 1
    grid = TileGrid(cell.shape, tile=(12, 10), layout="nonoverlap")
    np.testing.assert_array_equal(join_fragments(grid.extract(cell), grid), cell)


def bricks():
    """Two cells whose straight edges meet at the seam."""
    labels = np.zeros((40, 40), np.int32)
    labels[8:20, 10:30], labels[20:33, 10:30] = 1, 2
    return labels


def test_flows_tell_borders():
    grid, labels = halves(), bricks()
    flows = simulate.from_labels(labels, noise=1.0).dP
    assert join_fragments(labels, grid).max() == 1
    found, report = join_fragments(labels, grid, flows=flows, return_report=True)
    np.testing.assert_array_equal(found, labels)
    assert (report.n_joined, report.n_no_evidence) == (0, 1)


def test_flows_keep_small_discs_apart_that_are_pressed_together():
    labels = simulate.packed_discs((400, 400), radius=(2, 5), clip=1.3, tries=20_000, seed=6)
    flows = 5 * cellpost.masks_to_flows(labels)
    flows += np.random.default_rng(6).standard_normal(flows.shape, np.float32)
    with_flows, without = np.zeros(4, int), np.zeros(4, int)
    for side in (37, 50, 64, 81):
        grid = TileGrid(labels.shape, tile=side, layout="nonoverlap")
        fragments = side_by_side(labels, grid)
        without += score(labels, join_fragments(fragments, grid), grid)
        with_flows += score(labels, join_fragments(fragments, grid, flows=flows), grid)
    assert_rejoined(with_flows)
    assert with_flows[3] <= without[3] / 2


def test_probability_tells_borders():
    grid, labels = halves(), bricks()
    prob = np.where(labels > 0, 0.9, 0.1)
    assert join_fragments(labels, grid, prob=prob).max() == 1
    prob[19:21] *= 0.6
    np.testing.assert_array_equal(join_fragments(labels, grid, prob=prob), labels)


def test_maps_that_are_not_finite_are_no_evidence():
    grid, cell = halves(), disc((20, 20), 9).astype(np.int32)
    fragments = side_by_side(cell, grid)
    nothing = np.full((2, 40, 40), np.nan, np.float32)
    np.testing.assert_array_equal(join_fragments(fragments, grid, flows=nothing), cell)
    infinite = np.full((40, 40), np.inf, np.float32)
    np.testing.assert_array_equal(join_fragments(fragments, grid, prob=infinite), cell)


# ---- the same whatever it comes as --------------------------------------------------------------


def test_tiles_and_labels_side_by_side_give_the_same(nuclei2d):
    for layout in ("nonoverlap", "fixed", "sliding"):
        grid = TileGrid(
            (512, 512), tile=100, overlap=0 if layout != "nonoverlap" else None, layout=layout
        )
        expected, report = join_fragments(side_by_side(nuclei2d, grid), grid, return_report=True)
        assert report.n_pairs == report.n_joined + report.n_no_contact + report.n_no_evidence
        tiles = grid.extract(nuclei2d)
        for given in (tiles, list(tiles), tiles.reshape(*grid.counts, 100, 100)):
            np.testing.assert_array_equal(join_fragments(given, grid), expected)
        np.testing.assert_array_equal(expected, ref_labels.relabel(expected))


def test_ids_on_both_sides_of_a_seam_stay_one(nuclei2d):
    grid = TileGrid((512, 512), tile=90, layout="nonoverlap")
    found = join_fragments(nuclei2d, grid)
    np.testing.assert_array_equal(found, ref_labels.relabel(nuclei2d))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64"])
def test_dtypes(dtype):
    grid, cell = halves(), disc((20, 20), 9)
    fragments = side_by_side(cell, grid).astype(dtype)
    if dtype not in ("uint8", "int16"):
        fragments[fragments > 0] += 60_000
    found = join_fragments(fragments, grid)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, cell)
    assert join_fragments(fragments, grid, out_dtype="uint8").dtype == np.uint8


def test_all_kinds_of_arrays(kind):
    cell = disc((20, 20), 9).astype(np.int32)
    fragments = side_by_side(cell, halves()).astype(np.int32)
    dP = np.stack([np.full(cell.shape, 1, np.float32)] * 2)
    found = join_fragments(
        kind.put(fragments), halves(), flows=kind.put(dP), prob=kind.put(np.ones_like(dP[0]))
    )
    assert kind.owns(found)
    np.testing.assert_array_equal(kind.get(found), cell)
    empty = join_fragments(kind.put(np.zeros((0, 5), np.int32)), TileGrid((0, 5), tile=3))
    assert kind.owns(empty)
    tiles = [kind.put(tile) for tile in halves().extract(cell)]
    found = join_fragments(tiles, halves())
    assert kind.owns(found)
    np.testing.assert_array_equal(kind.get(found), cell)


def test_threads_give_the_same(nuclei2d, device, restore_settings):
    grid = TileGrid((512, 512), tile=(70, 90), layout="nonoverlap")
    expected = join_fragments(grid.extract(nuclei2d), grid)
    for n in (1, 2, 7):
        cellpost.set_num_threads(n)
        found = join_fragments(device.put(grid.extract(nuclei2d)), grid)
        np.testing.assert_array_equal(device.get(found), expected)


def test_empty_and_small_images():
    for shape in ((0, 0), (0, 5), (1, 1), (1, 9), (9, 1)):
        grid = TileGrid(shape, tile=3, layout="nonoverlap")
        found, report = join_fragments(np.zeros(shape, int), grid, return_report=True)
        assert found.shape == shape
        assert report.n_labels == report.n_pairs == 0
        ones = join_fragments(np.ones((len(grid), 3, 3), int), grid)
        assert ones.shape == shape
        assert 0 in shape or ones.max() == 1
    assert join_fragments([], TileGrid((0, 5), tile=3)).shape == (0, 5)


def test_full_tiles_are_one():
    grid = TileGrid((30, 50), tile=10, layout="nonoverlap")
    assert (join_fragments(np.ones((15, 10, 10), int), grid) == 1).all()


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "tiles: expected an integer dtype", {"tiles": np.zeros((40, 40))}),
        (TypeError, "tiles: expected an array", {"tiles": "labels"}),
        (TypeError, r"tiles\[0\]: expected an integer", {"tiles": np.zeros((2, 20, 40))}),
        (ValueError, "tiles: expected ids >= 0", {"tiles": np.full((40, 40), -1)}),
        (ValueError, "tiles: expected the grid's shape", {"tiles": np.zeros((40, 41), int)}),
        (ValueError, "tiles: expected shape", {"tiles": np.zeros((3, 20, 40), int)}),
        (ValueError, "tiles: expected 2", {"tiles": [np.zeros((20, 40), int)]}),
        (TypeError, "grid: expected a TileGrid", {"grid": (40, 40)}),
        (ValueError, "min_contact_share: expected 0 to 1", {"min_contact_share": 1.1}),
        (ValueError, "min_contact_share: expected 0 to 1", {"min_contact_share": np.nan}),
        (TypeError, "min_contact_share: expected a number", {"min_contact_share": "half"}),
        (ValueError, "flows: expected shape", {"flows": np.zeros((3, 40, 40))}),
        (TypeError, "flows: expected a floating", {"flows": np.zeros((2, 40, 40), int)}),
        (TypeError, "flows: expected an array", {"flows": [[0.0]]}),
        (ValueError, "prob: expected shape", {"prob": np.zeros((2, 40, 40))}),
        (TypeError, "prob: expected a floating", {"prob": np.zeros((40, 40), bool)}),
        (TypeError, "out_dtype: expected an integer", {"out_dtype": float}),
    ],
)
def test_bad_input_is_named(error, message, change):
    given = {"tiles": np.zeros((40, 40), int), "grid": halves()} | change
    with pytest.raises(error, match=f"^{message}"):
        join_fragments(given.pop("tiles"), given.pop("grid"), **given)


def test_a_dtype_too_small_is_an_error():
    labels = np.arange(1600).reshape(40, 40) * (np.indices((40, 40)).sum(0) % 2)
    with pytest.raises(OverflowError, match=r"^out_dtype"):
        join_fragments(labels, halves(), out_dtype="uint8")
