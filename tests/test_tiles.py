"""Blended tiles against the slow oracle, MONAI and Cellpose; a Stitcher against one call."""

from __future__ import annotations

import importlib

import array_kinds
import numpy as np
import pytest
from reference import tiles as ref

import cellpost
from cellpost import Stitcher, TileGrid, _core, stitch

F = np.float32
WINDOWS = ("gaussian", "constant", "cosine", "sigmoid", "core")
FLOATS = ("float16", "float32", "float64")


def some(grid, channels=1, dtype="float32", seed=0):
    """Tiles of a grid, of numbers of both signs and many sizes, and zeros."""
    rng = np.random.default_rng(seed)
    tiles = rng.normal(0, 1, (len(grid), channels, *grid.tile))
    tiles *= 2.0 ** rng.integers(-12, 8, tiles.shape)
    return np.where(rng.random(tiles.shape) < 0.05, 0, tiles).astype(dtype)


def expected_of(tiles, grid, **options):
    return ref.stitch(tiles, grid.shape, [s.tolist() for s in grid.starts], **options)


def assert_same(found, expected):
    """To the bit."""
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


# ---- against others -----------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.6, 0.9])
def test_a_map_is_the_oracles(window, dtype, overlap, device):
    shapes = [(7, 40), (8, 11), (17, 9), (19, 33), (1, 1), (1, 70), (35, 1)]
    shapes += [(3, 9, 20), (5, 6, 7), (1, 1, 1)]
    for k, (shape, channels) in enumerate(zip(shapes, (1, 2, 3, 4, 5, 6, 9, 1, 3, 2), strict=True)):
        tile = (8, 11) if len(shape) == 2 else (3, 4, 7)
        grid = TileGrid(shape, tile=tile, overlap=overlap)
        tiles = some(grid, channels, dtype, seed=k)
        got = stitch(device.put(tiles), overlap, shape=shape, window=window)
        assert device.owns(got)
        expected = expected_of(tiles, grid, window=window)
        assert_same(device.get(got), expected)
        by_grid = tiles.reshape(*grid.counts, *tiles.shape[1:])
        assert_same(device.get(stitch(device.put(by_grid), grid=grid, window=window)), expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("to", [*FLOATS, "bfloat16"])
@pytest.mark.parametrize("dtype", [*FLOATS, "bfloat16"])
def test_dtypes_are_converted_both_ways(dtype, to, device):
    torch = pytest.importorskip("torch")
    grid = TileGrid((21, 34), tile=9, overlap=0.6)
    cases = [some(grid, 3, "float64", seed=1), np.full((len(grid), 1, 9, 9), 1 + 2**-11 + 2**-40)]
    cases.append(np.abs(cases[0]) * 1e4)  # beyond a half
    for values in cases:
        where = "cpu" if device.name == "numpy" else "cuda"
        tiles = torch.from_numpy(values).to(getattr(torch, dtype)).to(where)
        plain = tiles.float() if dtype == "bfloat16" else tiles
        options = {"window": "cosine", "dtype": "float32" if to == "bfloat16" else to}
        expected = torch.from_numpy(expected_of(plain.cpu().numpy(), grid, **options))
        expected = expected.to(getattr(torch, to))
        names = [getattr(torch, to), to] if to == "bfloat16" else [getattr(np, to), f"<f{to[5:]}"]
        for name in (to, names[0]):
            got = stitch(tiles, grid=grid, window="cosine", dtype=name)
            assert got.dtype == expected.dtype
            assert torch.equal(got.cpu(), expected)
        if "bfloat16" not in (dtype, to):
            host = plain.cpu().numpy()
            assert_same(stitch(host, grid=grid, **options), expected.numpy())
        stitcher = Stitcher(grid, tiles.shape[1], window="cosine", dtype=to)
        stitcher.add(range(len(grid)), tiles)
        assert torch.equal(stitcher.result().cpu(), expected)


@pytest.mark.peer
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("n", [2, 3])
def test_a_map_is_monais(mode, n):
    torch = pytest.importorskip("torch")
    inferers = pytest.importorskip("monai.inferers")
    rng = np.random.default_rng(n)
    for overlap in (0, 0.25, 0.5, 0.6, 0.9):
        tile = tuple(rng.integers(4, 20 if n == 2 else 8, n).tolist())
        shape = tuple(rng.integers(2, 60 if n == 2 else 20, n).tolist())
        ramp = torch.from_numpy(rng.random((3, *tile), F))  # what a tile gets depends on its place
        image = rng.random((1, *shape), F)
        theirs = inferers.sliding_window_inference(
            torch.from_numpy(image)[None], tile, 3, lambda x, r=ramp: x + r, overlap, mode
        )[0].numpy()
        grid = TileGrid(shape, tile=tile, overlap=overlap)
        tiles = grid.extract(image) + ramp.numpy()
        ours = stitch(tiles, grid=grid, window=mode)
        # both are float32 sums of some ten values of 0 to 2
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.peer
def test_a_map_is_cellposes(peer):
    transforms = importlib.import_module("cellpose.transforms")
    rng = np.random.default_rng(0)
    sizes = [(300, 260, 224, 0.1), (230, 100, 224, 0.5), (90, 101, 64, 0.1), (300, 30, 256, 0.1)]
    for ly, lx, side, overlap in sizes:
        image = rng.random((2, ly, lx), F)
        tiles, ysub, xsub, *_ = transforms.make_tiles(image, side, tile_overlap=overlap)
        tiles = tiles.reshape(-1, *tiles.shape[2:])
        tiles += rng.random(tiles.shape, F)
        theirs = transforms.average_tiles(tiles, ysub, xsub, ly, lx)
        starts = [sorted({int(first) for first, _ in sub}) for sub in (ysub, xsub)]
        grid = TileGrid.at((ly, lx), tiles.shape[2:], starts)
        np.testing.assert_allclose(stitch(tiles, grid=grid, window="sigmoid"), theirs, atol=2e-5)


@pytest.mark.parametrize("tile", [(225, 8), (8, 225), (225, 9), (226, 7), (300, 301)], ids=str)
def test_the_taper_of_long_tiles_is_the_oracles(tile):
    grid = TileGrid((305, 304), tile=tile, overlap=0.5)
    tiles = some(grid, 1)
    assert_same(
        stitch(tiles, grid=grid, window="sigmoid"), expected_of(tiles, grid, window="sigmoid")
    )


@pytest.mark.peer
def test_the_oracles_windows_are_the_peers(peer):
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("monai.data.utils")
    transforms = importlib.import_module("cellpose.transforms")
    for tile in [(1, 1), (2, 7), (64, 33), (301, 302), (225, 8), (3, 1, 8), (20, 12, 16)]:
        for sigma in (0.125, 0.25, 0.5):
            got = utils.compute_importance_map(tile, "gaussian", sigma, dtype=torch.float32)
            np.testing.assert_allclose(ref.gaussian(tile, sigma), got.numpy(), rtol=1e-6)
        if len(tile) == 2:
            np.testing.assert_allclose(ref.sigmoid(tile), transforms._taper_mask(*tile), rtol=3e-7)


# ---- rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_constant_stays_the_constant(window, dtype, device):
    for value in (0.1, -3.7e4, 1e-7, 1 / 3):
        grid = TileGrid((50, 61), tile=(16, 20), overlap=0.9)
        tiles = np.full((len(grid), 2, *grid.tile), value, dtype)
        got = device.get(stitch(device.put(tiles), grid=grid, window=window))
        if dtype == "float64":  # the products are rounded, and the sums of up to 160 of them
            np.testing.assert_allclose(got, value, rtol=160 * 2**-53)
        else:
            assert (got == tiles.flat[0]).all()


def test_tiles_of_one_image_give_it_back_but_for_rounding(device):
    image = np.random.default_rng(0).random((2, 73, 90), F)
    for padding in ("constant", "reflect"):
        grid = TileGrid((73, 90), tile=(100, 32), overlap=0.6)
        tiles = grid.extract(device.put(image), padding=padding)
        got = device.get(stitch(tiles, grid=grid))
        np.testing.assert_allclose(got, image, rtol=1.2e-7)  # exact, but for the last rounding
        assert_same(device.get(stitch(tiles, grid=grid, window="core")), image)


@pytest.mark.usefixtures("restore_settings")
def test_threads_and_instruction_sets_give_the_same_bytes():
    torch = pytest.importorskip("torch")
    cases = []
    for shape, tile in [((150, 203), (40, 37)), ((9, 33, 29), (4, 16, 9)), ((3, 500), 64)]:
        grid = TileGrid(shape, tile=tile, overlap=0.6)
        cases += [(grid, some(grid, c, d)) for c, d in zip((1, 5, 3), FLOATS, strict=True)]
    nan = cases[0][1].copy()
    nan[::7, :, ::5, 3] = np.nan
    cases.append((cases[0][0], nan))

    def everything():
        out = []
        for grid, tiles in cases:
            out += [stitch(tiles, grid=grid, window=w) for w in ("gaussian", "core")]
            half = torch.from_numpy(tiles).bfloat16()
            out.append(stitch(half, grid=grid, window="cosine").view(torch.int16).numpy())
        return [np.nan_to_num(a, nan=77).tobytes() for a in out]

    cellpost.set_num_threads(1)
    _core.set_cpu_level("baseline")
    expected = everything()
    for level in cellpost.info()["cpu_levels"]:
        _core.set_cpu_level(level)
        for n in (1, 2, 7):
            cellpost.set_num_threads(n)
            assert everything() == expected


def test_a_nan_makes_nan_what_it_covers_and_nothing_else(device):
    grid = TileGrid((30, 41), tile=(12, 16), overlap=0.5)
    for seed in range(5):
        tiles = some(grid, 5, "float32", seed)
        rng = np.random.default_rng(seed)
        tiles.ravel()[rng.integers(0, tiles.size, 9)] = [np.nan] * 3 + [np.inf] * 3 + [-np.inf] * 3
        tiles[0, 0] = np.inf
        tiles[1, 0] = -np.inf  # where both are: NaN
        expected = expected_of(tiles, grid)
        assert np.isnan(expected).any()
        got = device.get(stitch(device.put(tiles), grid=grid))
        np.testing.assert_array_equal(got, expected)
        stitcher = Stitcher(grid, 5)
        stitcher.add(range(len(grid)), device.put(tiles))
        np.testing.assert_array_equal(device.get(stitcher.result()), expected)


@pytest.mark.parametrize("window", WINDOWS)
def test_reject_nan_names_the_tile_and_the_pixel(window, device):
    rng = np.random.default_rng(0)
    for k in range(30):
        shape, tile = (((23, 31), (8, 9)), ((7, 8, 9), (3, 5, 4)))[k % 2]
        grid = TileGrid(shape, tile=tile, overlap=0.5)
        tiles = some(grid, 3)
        i = int(rng.integers(len(grid)))
        part = (grid.core if window == "core" else grid.__getitem__)(i)
        pixel = tuple(int(rng.integers(s.start, s.stop)) for s in part)
        at = tuple(p - s for p, s in zip(pixel, grid.start(i), strict=True))
        tiles[(i, int(rng.integers(3)), *at)] = np.nan
        if window == "core":  # in a tile that does not count there
            others = [j for j in grid.touching([slice(p, p + 1) for p in pixel]) if j != i]
            for j in others:
                tiles[(j, 0, *(p - s for p, s in zip(pixel, grid.start(j), strict=True)))] = np.nan
        stitcher = Stitcher(grid, 3, window=window, reject_nan=True)
        order = rng.permutation(len(grid))
        where = ", ".join(map(str, pixel))

        def add_all(stitcher=stitcher, tiles=tiles, order=order):
            for indices in np.array_split(order, 5):
                stitcher.add(indices, device.put(tiles[indices]))

        with pytest.raises(ValueError, match=rf"^tile: .* tile {i} \(.*at \({where}\)") as told:
            add_all()
        assert ", ".join(f"{p.start}:{p.stop}" for p in grid[i]) in str(told.value)
        with pytest.raises(ValueError, match="Stitcher: expected"):
            stitcher.result()


def test_reject_nan_tells_of_infinities_that_cancel():
    grid = TileGrid((4, 6), tile=4, overlap_px=2)
    tiles = some(grid, 1)
    tiles[:, 0, 1, :] = [[np.inf] * 4, [-np.inf] * 4]
    with pytest.raises(ValueError, match=r"^tile: .*infinite.*\(1, 2\)"):
        Stitcher(grid, 1, reject_nan=True).add([0, 1], tiles)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (0, 3, 3), (3, 3, 0)], ids=str)
def test_an_image_without_pixels_has_a_map_without_pixels(shape, kind):
    tiles = np.zeros((0, 3, *[4] * len(shape)), F)
    got = stitch(kind.put(tiles), shape=shape)
    assert kind.owns(got)
    assert kind.get(got).shape == (3, *shape)
    stitcher = Stitcher(TileGrid(shape, tile=4), 3, dtype="float16")
    assert stitcher.n_missing == 0
    assert list(stitcher.ready()) == []
    assert stitcher.result().shape == (3, *shape)
    assert stitcher.result().dtype == np.float16


def test_no_channels_and_no_tiles():
    assert stitch(np.zeros((2, 2, 0, 4, 4), F)).shape[0] == 0
    assert stitch(np.zeros((0, 2, 3, 4, 4), F)).shape == (3, 0, 5)


def test_custom_windows(kind):
    rng = np.random.default_rng(0)
    grid = TileGrid((20, 31), tile=(7, 12), overlap=0.5)
    tiles = some(grid, 3)
    for scale in (1, 1e-38, 1e35):  # what float32 just holds
        weights = (rng.uniform(0.01, 1, grid.tile) * scale).astype(F)
        expected = expected_of(tiles, grid, window=weights)
        turned = np.asfortranarray(weights)
        for given_ in (weights, weights.astype("f8"), turned, kind.put(weights)):
            if not isinstance(given_, array_kinds.DlpackOnly):
                got = stitch(kind.put(tiles), grid=grid, window=given_)
                assert_same(kind.get(got), expected)
        stitcher = Stitcher(grid, 3, window=weights)
        stitcher.add(range(len(grid)), kind.put(tiles))
        assert_same(kind.get(stitcher.result()), expected)


@pytest.mark.parametrize("sigma", [1e-300, 1e-10, 0.01, 0.125, 0.5, 3, 1e30, 1e300])
@pytest.mark.filterwarnings("error")
def test_sigma_is_a_share_of_the_side(sigma):
    grid = TileGrid((20, 31), tile=(7, 11), overlap=0.5)
    tiles = some(grid, 2)
    if 0.01 <= sigma <= 3:
        assert_same(stitch(tiles, grid=grid, sigma=sigma), expected_of(tiles, grid, sigma=sigma))
    else:
        near = stitch(tiles, grid=grid, window="constant")
        got = stitch(tiles, grid=grid, sigma=sigma)
        assert np.isfinite(got).all()
        assert (got == near).all() == (sigma > 1)


# ---- arrays of all kinds ------------------------------------------------------------------------


def test_tiles_of_any_kind_and_strides(kind):
    grid = TileGrid((19, 26), tile=(6, 9), overlap=0.6)
    tiles = some(grid, 3)
    expected = expected_of(tiles, grid)
    views = [
        tiles,
        np.asfortranarray(tiles),
        np.repeat(tiles, 2, 0)[::2],
        np.repeat(tiles, 3, 3)[..., ::3],
    ]
    if kind.name == "numpy":
        views.append(np.ascontiguousarray(tiles[:, ::-1, :, ::-1])[:, ::-1, :, ::-1])
    for view in views:
        before = view.tobytes()
        got = stitch(kind.put(view), grid=grid)
        assert kind.owns(got)
        assert_same(kind.get(got), expected)
        stitcher = Stitcher(grid, 3)
        for i in range(len(grid)):
            mine = view[i].copy(order="K")
            stitcher.add(i, kind.put(mine))
            if kind.name != "jax":
                mine[...] = np.nan  # they were copied
        result = stitcher.result()
        assert kind.owns(result)
        assert_same(kind.get(result), expected)
        assert view.tobytes() == before
    one = np.broadcast_to(tiles[:1], tiles.shape)
    assert_same(kind.get(stitch(kind.put(one.copy()), grid=grid)), stitch(one, grid=grid))
