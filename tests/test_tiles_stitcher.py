"""A Stitcher: tiles in any order and batches, maps of the caller's, and what is held meanwhile."""

from __future__ import annotations

import math
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tiles import FLOATS, WINDOWS, F, assert_same, expected_of, some
from test_tiles_grid import grids

from cellpost import Stitcher, TileGrid, stitch


def maps_to_write_to(shape, dtype):
    """Views into larger arrays, and these."""
    c, h, w = shape
    whole = np.full((c + 1, 2 * h + 1, w + 3), 5, dtype)
    yield whole[1:, 1::2, 2:-1], whole
    yield whole[:-1, : 2 * h : 2][:, ::-1, 1 : w + 1], whole
    wide = np.full((c, h, 2 * w), 5, dtype)
    yield wide[..., ::2], wide
    turned = np.full((w, h, c), 5, dtype)
    yield turned.T, turned
    exact = np.full(shape, 5, dtype)
    yield exact, exact


@pytest.mark.parametrize("out_kind", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("out_dtype", FLOATS)
def test_a_stitcher_writes_to_the_callers_array(dtype, out_dtype, out_kind, kind):
    torch = pytest.importorskip("torch")
    grid = TileGrid((20, 33), tile=(7, 12), overlap=0.5)
    tiles = some(grid, 2, dtype)
    if kind.module == "jax.numpy" and dtype == "float64":
        pytest.skip("JAX has no float64 unless told")
    expected = expected_of(tiles, grid, dtype=out_dtype)
    for out, whole in maps_to_write_to((2, 20, 33), out_dtype):
        if out_kind == "torch" and min(out.strides) < 0:
            continue
        given_ = torch.from_numpy(out) if out_kind == "torch" else out
        stitcher = Stitcher(grid, 2, out=given_)
        rows = 0
        for i in np.random.default_rng(0).permutation(len(grid)):
            stitcher.add(i, kind.put(tiles[i]))
            for at, band in stitcher.ready():
                np.testing.assert_array_equal(np.asarray(band), expected[:, at])
                rows += band.shape[1]
        assert rows == 20
        assert stitcher.result() is given_
        assert_same(out, expected)
        out[...] = 5
        assert (whole == 5).all()  # nothing beside it


def test_a_map_of_bfloat16_or_of_the_other_byte_order(kind):
    torch = pytest.importorskip("torch")
    grid = TileGrid((20, 33), tile=(7, 12), overlap=0.5)
    tiles = some(grid, 2)
    expected = expected_of(tiles, grid)
    for out in (torch.zeros((2, 20, 33), dtype=torch.bfloat16), np.zeros((2, 20, 33), ">f4")):
        stitcher = Stitcher(grid, 2, out=out)
        stitcher.add(range(len(grid)), kind.put(tiles))
        assert stitcher.result() is out
        wanted = (
            torch.from_numpy(expected).bfloat16() if isinstance(out, torch.Tensor) else expected
        )
        assert bool((out == wanted).all())


# ---- tiles one after the other ------------------------------------------------------------------


def final_rows(grid, window, has):
    """Rows of the map that no missing tile contributes to."""
    final = np.ones(grid.shape[0], bool)
    for i in np.flatnonzero(~has):
        final[(grid.core if window == "core" else grid.__getitem__)(int(i))[0]] = False
    return final


@settings(max_examples=120, deadline=None)
@given(
    grids(largest=24),
    st.sampled_from(WINDOWS),
    st.sampled_from(FLOATS),
    st.integers(1, 6),
    st.integers(0, 2**32),
)
def test_any_order_and_batches_give_the_oracles_map_as_soon_as_it_is_final(
    grid, window, dtype, channels, seed
):
    rng = np.random.default_rng(seed)
    tiles = some(grid, channels, dtype, seed)
    expected = expected_of(tiles, grid, window=window)
    assert_same(stitch(tiles, grid=grid, window=window), expected)
    order = rng.permutation(len(grid)) if seed % 4 else np.arange(len(grid))
    batches = np.array_split(order, rng.integers(1, len(grid) + 1))
    out = np.zeros((channels, *grid.shape), dtype) if seed % 3 == 0 else None
    whole = Stitcher(grid, channels, window=window, out=out)
    parts = Stitcher(grid, channels, window=window)
    has, handed = np.zeros(len(grid), bool), np.zeros(grid.shape[0], bool)
    for indices in batches:
        for stitcher in (whole, parts):
            if len(indices) == 1:
                stitcher.add(int(indices[0]), tiles[indices[0]])
            else:
                stitcher.add(indices, tiles[indices])
        has[indices] = True
        assert parts.n_missing == whole.n_missing == (~has).sum()
        for rows, band in parts.ready():
            assert not handed[rows].any()
            handed[rows] = True
            assert_same(band, expected[:, rows])
        np.testing.assert_array_equal(handed, final_rows(grid, window, has))
    assert_same(whole.result(), expected)
    assert not parts._tiles
    with pytest.raises(ValueError, match="handed out"):
        parts.result()


@pytest.mark.parametrize(("tile", "stride"), [(16, 16), (16, 12), (16, 8), (15, 4), (16, 1)])
@pytest.mark.parametrize("window", ["gaussian", "core"])
@pytest.mark.parametrize("batch", [1, 7, 10**6])
def test_no_more_rows_of_tiles_are_held_than_overlap(tile, stride, window, batch):
    for height in (40, 97, 203):
        grid = TileGrid((height, 37), tile=tile, stride=stride)
        stitcher = Stitcher(grid, 1, window=window)
        most = (math.ceil(tile / stride) + 1) * grid.counts[1]
        for i in range(0, len(grid), batch):
            indices = range(i, min(i + batch, len(grid)))
            stitcher.add(indices, np.zeros((len(indices), 1, tile, tile), F))
            assert len(stitcher._tiles) + len(stitcher._spare) <= most


def test_memory_does_not_grow_with_the_image():
    peaks = []
    for height in (400, 4000):
        grid = TileGrid((height, 300), tile=64, overlap=0.5)
        stitcher = Stitcher(grid, 2)
        tile = np.ones((2, 64, 64), F)
        tracemalloc.start()
        for i in range(len(grid)):
            stitcher.add(i, tile)
            for _ in stitcher.ready():
                pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    layer = 9 * 2 * 64 * 64 * 4
    assert peaks[1] < peaks[0] + layer / 4
    assert peaks[1] < 5 * layer


def test_the_first_tiles_are_not_kept_alive():
    grid = TileGrid((640, 64), tile=64, stride=64)
    tracemalloc.start()
    stitcher = Stitcher(grid, 1, out=np.zeros((1, *grid.shape), F))
    many = np.zeros((9, 1, 64, 64), F)
    stitcher.add(range(9), many)
    before = tracemalloc.get_traced_memory()[0]
    del many
    stitcher.add(9, np.zeros((1, 64, 64), F))
    assert tracemalloc.get_traced_memory()[0] < before - 7 * 64 * 64 * 4
    tracemalloc.stop()


def test_tiles_can_be_held_without_a_copy(kind):
    grid = TileGrid((40, 50), tile=16, overlap=0.5)
    tiles = np.random.default_rng(0).standard_normal((len(grid), 2, 16, 16)).astype(F)
    expected = stitch(tiles, grid=grid)
    stitcher = Stitcher(grid, 2)
    put = kind.put(tiles)
    for first in range(0, len(grid), 5):
        indices = range(first, min(first + 5, len(grid)))
        stitcher.add(indices, kind.put(tiles[first : indices.stop]), copy=False)
        assert not stitcher._spare
    assert_same(kind.get(stitcher.result()), expected)
    if kind.name == "numpy":
        held = Stitcher(grid, 2)
        held.add(3, put[3], copy=False)
        assert np.shares_memory(held._tiles[3], put)
        held.add(4, np.asfortranarray(put[4]), copy=False)  # which the kernel cannot read
        assert held._tiles[4].flags.c_contiguous


@pytest.mark.parametrize("seed", range(4))
def test_threads_may_add_tiles_beside_each_other(seed):
    rng = np.random.default_rng(seed)
    grid = TileGrid((700, 300), tile=64, overlap=0.6)
    tiles = rng.standard_normal((len(grid), 2, 64, 64)).astype(F)
    expected = stitch(tiles, grid=grid)
    for copy in (True, False):
        stitcher = Stitcher(grid, 2)
        with ThreadPoolExecutor(4) as pool:
            orders = rng.permutation(len(grid)).tolist()
            for done in [pool.submit(stitcher.add, i, tiles[i], copy=copy) for i in orders]:
                done.result()
        assert_same(stitcher.result(), expected)
    twice = Stitcher(grid, 2)
    with ThreadPoolExecutor(4) as pool:
        adds = [pool.submit(twice.add, 7, tiles[7]) for _ in range(8)]
    assert sum(add.exception() is None for add in adds) == 1
    assert twice.n_missing == len(grid) - 1
