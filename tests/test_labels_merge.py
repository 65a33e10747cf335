"""stitch_labels: label tiles that overlap become one label image without seams."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
import simulate
from reference import labels as ref_labels
from scipy import ndimage

import cellpost
from cellpost import TileGrid
from cellpost.labels_merge import stitch_labels

POLICIES = ("mutual", "iou", "ios", "center")


def largest_of(labels):
    """Most pixels that an object reaches along an axis."""
    boxes = [b for b in ndimage.find_objects(labels.astype(np.int32)) if b is not None]
    return max(part.stop - part.start for box in boxes for part in box)


def random_grid(shape, largest, rng):
    """Tiles that overlap by more than the largest object."""
    overlap = [largest + 1 + int(rng.integers(0, 20)) for _ in shape]
    side = [o + int(rng.integers(largest // 2, 2 * largest)) for o in overlap]
    layout = str(rng.choice(["sliding", "fixed"]))
    return TileGrid(shape, tile=side, overlap_px=overlap, layout=layout)


def assert_exact(labels, grid, policy, seed=None, pieces=False):
    tiles = simulate.label_tiles(labels, grid, seed=seed, pieces=pieces)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = stitch_labels(tiles, grid, policy=policy)
    np.testing.assert_array_equal(found, ref_labels.relabel(labels))


def f1(true, pred, iou=0.5):
    """2 TP / (objects of both): pairs of more than that intersection over union."""
    both = np.stack([true.ravel(), pred.ravel()])
    pairs, shared = np.unique(both[:, both.all(0)], axis=1, return_counts=True)
    of_true, of_pred = np.bincount(true.ravel()), np.bincount(pred.ravel())
    union = of_true[pairs[0]] + of_pred[pairs[1]] - shared
    n = np.count_nonzero(of_true[1:]) + np.count_nonzero(of_pred[1:])
    return 2 * np.count_nonzero(shared > iou * union) / n


# ---- perfect tiles ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(100))
def test_tiles_cut_from_labels_give_these_back(seed, nuclei2d, nuclei3d):
    rng = np.random.default_rng(seed)
    policy = POLICIES[seed % 4]
    discs = simulate.packed_discs((160, 170), tries=600, clip=1 + seed % 2 * 0.15, seed=seed)
    for labels in (nuclei2d, discs, nuclei3d):
        if labels.ndim == 3 and policy == "center" and seed % 8:
            continue  # slow
        assert_exact(labels, random_grid(labels.shape, largest_of(labels), rng), policy, seed)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_on_every_layout(policy, nuclei2d):
    side = 2 * largest_of(nuclei2d) + 3
    shape = nuclei2d.shape
    for grid in (
        TileGrid(shape, tile=side, overlap=0.5),
        TileGrid(shape, tile=side, overlap=0.6, layout="fixed"),
        TileGrid(shape, tile=(side, 2 * side), halo_px=side // 4 + 1, layout="halo"),
        TileGrid(shape, tile=700),
    ):
        assert_exact(nuclei2d, grid, policy, 0)


def test_small_overlaps_are_exact_where_objects_show_in_them():
    labels = simulate.packed_discs((200, 200), tries=900, seed=3)
    grid = TileGrid(labels.shape, tile=60, overlap_px=4)
    with pytest.warns(UserWarning, match=r"\d+ objects are larger than the overlap"):
        found = stitch_labels(simulate.label_tiles(labels, grid), grid)
    np.testing.assert_array_equal(found, ref_labels.relabel(labels))


def test_same_ids_in_all_tiles_mean_nothing():
    labels = np.zeros((20, 60), np.int32)
    labels[5:12, 3:12], labels[5:12, 20:32], labels[5:12, 45:55] = 1, 2, 3
    grid = TileGrid(labels.shape, tile=(20, 40), overlap_px=(0, 20))
    tiles = [np.where(tile > 0, 7, 0) for tile in grid.extract(np.where(labels == 2, 0, labels))]
    expected = ref_labels.relabel(np.where(labels == 2, 0, labels))
    np.testing.assert_array_equal(stitch_labels(tiles, grid), expected)


@pytest.mark.parametrize(
    ("dtype", "step"),
    [
        ("uint8", 1),
        ("int8", 1),
        ("uint16", 500),
        ("int16", 200),
        ("int32", 10**7),
        ("uint32", 2**25),
        ("int64", 2**34),
        ("uint64", 2**40),
    ],
)
def test_ids_of_every_size_and_dtype(dtype, step):
    labels = simulate.blobs((90, 100), 60, seed=1)
    labels = ref_labels.relabel(ndimage.median_filter(labels, 3))
    grid = TileGrid(labels.shape, tile=50, overlap=0.6)
    expected = stitch_labels(simulate.label_tiles(labels, grid), grid)
    tiles = [
        (np.where(tile > 0, tile * np.int64(step), 0)).astype(dtype)
        for tile in simulate.label_tiles(labels, grid)
    ]
    found = stitch_labels(np.stack(tiles), grid)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("policy", POLICIES)
def test_ids_of_a_whole_slide_cost_no_more_than_the_tiles_own(policy):
    """Tiles cut from a slide's labels keep its ids: no table of all of them for each tile."""
    cells = np.pad(np.ones((5, 5), np.int32), 1)
    ids = 2_000_000 + np.arange(1, 26 * 27 + 1, dtype=np.int32).reshape(26, 27)
    labels = np.kron(ids, cells)
    grid = TileGrid(labels.shape, tile=16, overlap_px=8)
    tiles = grid.extract(labels)
    tracemalloc.start()
    found = stitch_labels(tiles, grid, policy=policy)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, ref_labels.relabel(labels))
    assert len(grid) * 2_000_000 > 2**29  # bytes, if a byte an id were kept for each tile
    assert peak < 20 * tiles.nbytes


def test_more_objects_than_16_bits_hold():
    y, x = np.indices((900, 900))
    labels = np.where((y % 3 < 2) & (x % 3 < 2), y // 3 * 300 + x // 3 + 1, 0)
    grid = TileGrid(labels.shape, tile=300, overlap=0.3)
    tiles = grid.extract(labels)
    found = stitch_labels(tiles, grid)
    np.testing.assert_array_equal(found, labels)
    assert found.max() == 90_000
    with pytest.raises(OverflowError, match=r"^out_dtype: .*90000"):
        stitch_labels(tiles, grid, out_dtype=np.uint16)
    assert stitch_labels(tiles, grid, out_dtype="uint32").dtype == np.uint32


# ---- imperfect tiles ----------------------------------------------------------------------------


def perturbed(tile, rng, inner=None):
    """As a network that errs: outlines grow, shrink and fray; objects at cuts are lost or split."""
    grown = tile.copy()
    if rng.random() < 0.5:
        near = ndimage.grey_dilation(grown, size=3)
        grown = np.where((grown == 0) & (rng.random(tile.shape) < 0.5), near, grown)
    edge = ndimage.grey_dilation(grown, size=3) != ndimage.grey_erosion(grown, size=3)
    grown[edge & (rng.random(tile.shape) < 0.2)] = 0
    if inner is None:
        return grown
    at_border = np.setdiff1d(grown, grown[inner])  # slivers
    lost = at_border[rng.random(len(at_border)) < 0.5]
    grown[np.isin(grown, lost)] = 0
    for i in np.unique(grown[~inner]):  # some are split at the border
        if i > 0 and rng.random() < 0.2:
            grown[(grown == i) & ~inner] = grown.max() + 1
    return grown


def perturbed_tiles(tiles, grid, rng):
    """Each by itself; six pixels next to where it is cut are worse."""
    inner = np.zeros((len(grid), *grid.tile), bool)
    for i in range(len(grid)):
        inner[i][
            tuple(
                slice(0 if part.start == 0 else 6, side if part.stop == size else side - 6)
                for part, side, size in zip(grid[i], grid.tile, grid.shape, strict=True)
            )
        ] = True
    return [perturbed(*pair) for pair in zip(tiles, [rng] * len(grid), inner, strict=True)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind_of", ["nuclei", "discs"])
def test_imperfect_tiles_cost_no_more_than_a_hundredth(policy, kind_of, nuclei2d):
    if kind_of == "nuclei":
        true = ref_labels.relabel(nuclei2d)
    else:
        true = simulate.packed_discs((400, 400), radius=(6, 15), tries=2500, seed=1)
    rng = np.random.default_rng(5)
    whole = np.mean([f1(true, perturbed(true, rng)) for _ in range(6)])
    least = 2 * largest_of(true)
    found = []
    for seed in range(6):
        side = least + int(rng.integers(0, 80))
        grid = TileGrid(true.shape, tile=side, overlap_px=least - least // 4)
        tiles = simulate.label_tiles(true, grid, seed=seed)
        tiles = perturbed_tiles(tiles, grid, rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # frayed ones may grow over the overlap
            found.append(f1(true, stitch_labels(tiles, grid, policy=policy)))
    if policy == "ios":  # a sliver on a neighbour that grew is joined to it
        assert np.mean(found) >= 0.95 * whole, (found, whole)
    else:
        assert np.mean(found) >= 0.99 * whole, (found, whole)
        assert np.min(found) >= 0.98 * whole, (found, whole)


# ---- chains and conflicts -----------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_chains_of_tiles_join(policy):
    labels = np.zeros((8, 100), np.int32)
    labels[2:6, 4:95] = 1
    grid = TileGrid(labels.shape, tile=(8, 30), overlap_px=(0, 20))
    tiles = simulate.label_tiles(labels, grid)
    if policy == "center":
        with pytest.warns(UserWarning, match="larger than the overlap"):
            assert stitch_labels(tiles, grid, policy=policy).max() >= 1
        return
    with pytest.warns(UserWarning, match="1 objects are larger"):
        found, report = stitch_labels(tiles, grid, policy=policy, return_report=True)
    np.testing.assert_array_equal(found, labels)
    assert report.n_links == len(grid) - 1
    assert (report.n_spanning, report.n_refused, report.n_labels) == (1, 0, 1)


@pytest.mark.parametrize("policy", ["iou", "ios", "mutual"])
def test_two_objects_of_one_tile_never_become_one(policy):
    rng = np.random.default_rng(0)
    n_refused = 0
    for seed in range(40):
        shape = (40, 60)
        grid = TileGrid(shape, tile=20, overlap=0.5)
        tiles = [simulate.blobs((20, 20), 5, seed=100 * seed + i) for i in range(len(grid))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, report = stitch_labels(
                tiles, grid, policy=policy, threshold=float(rng.uniform(0, 0.4)), return_report=True
            )
        n_refused += report.n_refused
        for i, tile in enumerate(tiles):
            core = grid.core(i)
            at = zip(core, grid.start(i), strict=True)
            part = tile[tuple(slice(c.start - s, c.stop - s) for c, s in at)]
            pairs = np.unique(np.stack([part[part > 0], found[core][part > 0]]), axis=1)
            assert len(np.unique(pairs[1])) == pairs.shape[1]  # an id of the tile, an object
    assert policy == "mutual" or n_refused > 0


def test_of_links_that_conflict_the_one_of_less_overlap_is_refused():
    tiles = [np.zeros((10, 12), int) for _ in range(2)]
    tiles[0][1:9, 2:6], tiles[0][1:9, 6:10] = 1, 2  # the second tile sees one where these are two
    tiles[1][1:9, 0:7] = 1  # on columns 4 to 10 of the first
    grid = TileGrid((10, 16), tile=(10, 12), stride=(10, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, report = stitch_labels(tiles, grid, policy="iou", threshold=0.1, return_report=True)
        mutual, of_mutual = stitch_labels(tiles, grid, threshold=0.1, return_report=True)
    assert (report.n_links, report.n_refused) == (2, 1)
    assert (of_mutual.n_links, of_mutual.n_refused) == (1, 0)
    expected = np.zeros((10, 16), int)
    expected[1:9, 2:6], expected[1:9, 6:11] = 1, 2
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(mutual, expected)


def test_neighbours_that_touch_stay_apart():
    """The next tile's object is shifted by a pixel onto its neighbour: no reason to be one."""
    labels = np.zeros((30, 50), np.int32)
    labels[5:15, 20:30], labels[15:25, 20:30] = 1, 2
    grid = TileGrid(labels.shape, tile=(30, 35), stride=(30, 15))
    tiles = list(grid.extract(labels))
    tiles[1] = np.roll(tiles[1], 1, 0)
    for policy in POLICIES:
        found = stitch_labels(tiles, grid, policy=policy)
        assert found.max() == 2
        assert found[6, 21] == found[13, 29] == 1
        assert found[17, 21] == found[23, 29] == 2


# ---- the same on all ways -----------------------------------------------------------------------


def messy(seed=0):
    """Tiles that agree but roughly."""
    labels = simulate.packed_discs((200, 230), tries=1000, clip=1.1, seed=seed)
    grid = TileGrid(labels.shape, tile=(70, 83), overlap=0.6)
    rng = np.random.default_rng(seed)
    tiles = simulate.label_tiles(labels, grid, seed=seed)
    return [tile.astype(np.int32) for tile in perturbed_tiles(tiles, grid, rng)], grid


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.filterwarnings("ignore:stitch_labels")
def test_threads_and_devices_give_the_same(policy, device, restore_settings):
    tiles, grid = messy()
    expected = stitch_labels(tiles, grid, policy=policy, threshold=0.1)
    for n in (1, 2, 7):
        cellpost.set_num_threads(n)
        for given in ([device.put(tile) for tile in tiles], device.put(np.stack(tiles))):
            found = stitch_labels(given, grid, policy=policy, threshold=0.1)
            assert device.owns(found)
            np.testing.assert_array_equal(device.get(found), expected)


@pytest.mark.parametrize("policy", ["mutual", "iou", "ios"])
@pytest.mark.filterwarnings("ignore:stitch_labels")
def test_the_tiles_own_ids_do_not_matter(policy):
    tiles, grid = messy()
    expected = stitch_labels(tiles, grid, policy=policy)
    for k in (3, 1000):  # in the same order: ties go to the lower id
        np.testing.assert_array_equal(
            stitch_labels([tile * k for tile in tiles], grid, policy=policy), expected
        )


@pytest.mark.parametrize("policy", POLICIES)
def test_all_kinds_of_arrays(kind, policy):
    labels = simulate.packed_discs((60, 70), tries=150, seed=2)
    grid = TileGrid(labels.shape, tile=48, overlap=0.7)
    tiles = np.stack(simulate.label_tiles(labels, grid))
    strided = np.repeat(tiles, 2, axis=-1)[..., ::2]
    for given in (
        kind.put(tiles),
        kind.put(tiles.reshape(*grid.counts, 48, 48)),
        [kind.put(tile) for tile in tiles],
        [kind.put(tile) for tile in strided],
    ):
        found = stitch_labels(given, grid, policy=policy)
        assert kind.owns(found)
        np.testing.assert_array_equal(kind.get(found), ref_labels.relabel(labels))


def test_read_only_tiles_are_left_alone():
    labels = simulate.blobs((40, 40), 9, seed=0)
    grid = TileGrid(labels.shape, tile=30, overlap=0.8)
    tiles = grid.extract(labels)
    before = tiles.copy()
    tiles.setflags(write=False)
    stitch_labels(tiles, grid)
    np.testing.assert_array_equal(tiles, before)


# ---- edges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_empty_tiles_and_images(policy):
    for shape in ((40, 50), (1, 1), (3, 90), (0, 0), (0, 8), (8, 0), (9, 20, 21), (0, 2, 2)):
        grid = TileGrid(shape, tile=12, overlap=0.5)
        tiles = np.zeros((len(grid), *grid.tile), np.uint16)
        found, report = stitch_labels(tiles, grid, policy=policy, return_report=True)
        assert found.shape == shape
        assert found.dtype == np.int32
        assert not found.any()
        assert report.n_labels == report.n_links == report.n_spanning == 0
        np.testing.assert_array_equal(stitch_labels(list(tiles), grid, policy=policy), found)


@pytest.mark.parametrize("policy", ["mutual", "iou", "ios"])
def test_tiles_full_of_one_object(policy):
    grid = TileGrid((50, 70), tile=30, overlap=0.5)
    tiles = np.ones((len(grid), 30, 30), np.uint8)
    with pytest.warns(UserWarning, match="1 objects are larger"):
        assert (stitch_labels(tiles, grid, policy=policy) == 1).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_one_full_tile_among_empty_ones(policy):
    grid = TileGrid((50, 70), tile=30, overlap=0.5)
    tiles = np.zeros((len(grid), 30, 30), np.int32)
    tiles[4] = 9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = stitch_labels(tiles, grid, policy=policy)
    expected = np.zeros(grid.shape, np.int32)
    expected[grid[4] if policy == "center" else grid.core(4)] = 1
    np.testing.assert_array_equal(found, expected)


def test_without_overlap_nothing_is_joined():
    labels = simulate.blobs((60, 60), 30, seed=1)
    grid = TileGrid(labels.shape, tile=20, layout="nonoverlap")
    tiles = simulate.label_tiles(labels, grid, seed=0)
    for policy in ("mutual", "iou", "ios", "center"):
        with pytest.warns(UserWarning, match="tiles do not overlap: .* join_fragments"):
            found = stitch_labels(tiles, grid, policy=policy)
        np.testing.assert_array_equal(found > 0, labels > 0)
        n = sum(len(np.unique(tile[tile > 0])) for tile in tiles)
        assert found.max() == n
        assert len(np.unique(found)) == n + 1


@pytest.mark.parametrize("layout", ["sliding", "fixed", "nonoverlap", "halo"])
def test_small_images_are_padded(layout):
    labels = simulate.blobs((20, 31), 8, seed=0)
    halo = {"halo_px": 4} if layout == "halo" else {}
    grid = TileGrid(labels.shape, tile=40, layout=layout, **halo)
    for policy in POLICIES:
        assert_exact(labels, grid, policy, 1)
    tile = np.full((1, 40, 40), 5)  # what lies beyond the image is not looked at
    tile[0][grid.extract(np.ones(labels.shape, int))[0] > 0] = 0
    assert not stitch_labels(tile, grid).any()


def test_objects_beyond_the_image_are_no_evidence():
    grid = TileGrid((10, 30), tile=20, overlap=0.5)  # padded above and below
    tiles = np.zeros((len(grid), 20, 20), int)
    tiles[:, 7:9] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = stitch_labels(tiles, grid)
    expected = np.zeros((10, 30), int)
    expected[2:4] = 1
    np.testing.assert_array_equal(found, expected)


def test_what_lies_beyond_the_image_is_not_counted():
    grid = TileGrid((8, 30), tile=(16, 12), overlap_px=(0, 6))
    image = np.zeros((8, 30), np.int32)
    image[2:5, 2:4] = 1
    tiles = grid.extract(image)
    tiles[:, 0] = 9  # above the image
    labels, report = stitch_labels(tiles, grid, return_report=True)
    np.testing.assert_array_equal(labels, image)
    assert (report.n_spanning, report.n_labels) == (0, 1)


def test_an_overlap_of_one_pixel_is_spanned_by_what_crosses_it():
    grid = TileGrid((9, 21), tile=(9, 11), overlap_px=(0, 1), layout="fixed")
    image = np.zeros((9, 21), np.int32)
    image[2:5, 2:18], image[6, 3:8] = 1, 2
    with pytest.warns(UserWarning, match="1 objects are larger than the overlap"):
        _, report = stitch_labels(grid.extract(image), grid, return_report=True)
    assert report.n_spanning == 1


def test_centers_of_objects_that_their_tile_cuts_are_told():
    """Half as wide as the overlap from end to end, but the centroid is at one end."""
    grid = TileGrid((40, 150), tile=(40, 100), overlap_px=(0, 50))
    image = np.zeros((40, 150), np.int32)
    image[20, 52:101], image[18:23, 52:56], image[2:38, 100] = 1, 1, 1
    with pytest.warns(UserWarning, match="1 objects are larger than the overlap"):
        _, report = stitch_labels(grid.extract(image), grid, policy="center", return_report=True)
    assert (report.n_spanning, report.n_labels) == (1, 2)
    np.testing.assert_array_equal(stitch_labels(grid.extract(image), grid), image)


def test_objects_larger_than_the_overlap_are_counted():
    labels = np.zeros((20, 80), np.int32)
    labels[4:9, 10:60], labels[12:16, 5:12], labels[12:16, 35:70] = 1, 2, 3
    grid = TileGrid(labels.shape, tile=(20, 40), overlap_px=(0, 10))
    with pytest.warns(UserWarning, match="2 objects are larger than the overlap"):
        found, report = stitch_labels(grid.extract(labels), grid, return_report=True)
    assert report.n_spanning == 2
    np.testing.assert_array_equal(found, ref_labels.relabel(labels))


# ---- bad input ----------------------------------------------------------------------------------

GRID = TileGrid((20, 30), tile=20, overlap=0.5)
ONE = np.zeros((20, 20), np.int32)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, r"tiles\[0\]: expected an integer dtype", {"tiles": np.zeros((2, 20, 20))}),
        (TypeError, r"tiles\[1\]: expected an integer dtype", {"tiles": [ONE, ONE * 0.5]}),
        (TypeError, r"tiles\[0\]: expected an integer dtype", {"tiles": [ONE > 0, ONE > 0]}),
        (TypeError, r"tiles\[1\]: expected an array", {"tiles": [ONE, None]}),
        (TypeError, "tiles: expected an array", {"tiles": "tiles"}),
        (ValueError, r"tiles\[1\]: expected ids >= 0; got -1", {"tiles": [ONE, ONE - 1]}),
        (
            ValueError,
            r"tiles\[0\]: expected ids >= 0; got -3",
            {"tiles": np.full((2, 20, 20), -3, np.int8)},
        ),
        (ValueError, r"tiles\[1\]: expected shape \(20, 20\)", {"tiles": [ONE, ONE[1:]]}),
        (ValueError, "tiles: expected 2, one for each place; got 1", {"tiles": [ONE]}),
        (ValueError, "tiles: expected 2, one for each place; got 0", {"tiles": []}),
        (ValueError, "tiles: expected shape", {"tiles": np.zeros((3, 20, 20), int)}),
        (ValueError, "tiles: expected shape", {"tiles": np.zeros((2, 1, 20, 20), int)}),
        (ValueError, "tiles: expected shape", {"tiles": np.zeros((20, 30), int)}),
        (ValueError, "policy: expected one of 'mutual'", {"policy": "best"}),
        (ValueError, "policy: expected one of 'mutual'", {"policy": None}),
        (ValueError, "threshold: expected 0 <= threshold < 1; got 1.5", {"threshold": 1.5}),
        (ValueError, "threshold: expected 0 <= threshold < 1; got -0.1", {"threshold": -0.1}),
        (ValueError, "threshold: expected 0 <= threshold < 1; got nan", {"threshold": np.nan}),
        (ValueError, "threshold: expected 0 <= threshold < 1; got 1.0", {"threshold": 1.0}),
        (TypeError, "threshold: expected a number", {"threshold": "half"}),
        (TypeError, "grid: expected a TileGrid; got tuple", {"grid": (20, 30)}),
        (TypeError, "out_dtype: expected an integer dtype", {"out_dtype": "float32"}),
    ],
)
def test_bad_input_is_named(error, message, change):
    given = {"tiles": [ONE, ONE], "grid": GRID} | change
    with pytest.raises(error, match=f"^{message}"):
        stitch_labels(given.pop("tiles"), given.pop("grid"), **given)


def test_tiles_of_different_libraries_are_named():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"^tiles\[1\]: expected an array of the library"):
        stitch_labels([ONE, torch.zeros((20, 20), dtype=torch.int32)], GRID)


def test_a_dtype_too_small_is_an_error():
    tiles = np.zeros((2, 20, 20), np.int32)
    tiles[0] = np.arange(400).reshape(20, 20)
    with pytest.raises(OverflowError, match=r"^out_dtype: expected a dtype that holds"):
        stitch_labels(tiles, GRID, out_dtype="int8")
