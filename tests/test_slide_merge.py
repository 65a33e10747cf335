"""slide.stitch_labels: the labels of cellpost.stitch_labels, a row of tiles at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import simulate
import tifffile
from reference import labels as ref_labels

import cellpost
from cellpost import TileGrid
from cellpost.slide.merge import stitch_labels

POLICIES = ("mutual", "iou", "ios")


def noisy_tiles(labels, grid, seed):
    """Tiles that disagree: each moved by up to two pixels, with ids of its own and some lost."""
    rng = np.random.default_rng(seed)
    tiles = []
    for tile in simulate.label_tiles(labels, grid, seed=seed):
        moved = np.roll(tile, tuple(rng.integers(-2, 3, tile.ndim)), tuple(range(tile.ndim)))
        lost = rng.random(int(moved.max()) + 1) < 0.05
        tiles.append(np.where(lost[moved], 0, moved).astype(np.int32))
    return tiles


def both(tiles, grid, source=None, dtype="int32", **options):
    """The slide's labels and report, checked against those in memory."""
    out = np.full(grid.shape, 99, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected, report = cellpost.stitch_labels(tiles, grid, return_report=True, **options)
        assert stitch_labels(tiles if source is None else source, grid, out, **options) == report
    np.testing.assert_array_equal(out, expected)
    return out


class Watched:
    """Tiles as a function, that notes what is read."""

    def __init__(self, tiles):
        self.tiles, self.read = tiles, []

    def __call__(self, i):
        self.read.append(i)
        return self.tiles[i].copy()


@pytest.mark.parametrize("seed", range(20))
def test_same_labels_as_in_memory(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(90, 260, 2))
    labels = simulate.packed_discs(shape, tries=700, seed=seed)
    tile = tuple(int(n) for n in rng.integers(20, 120, 2))
    layout = ("sliding", "fixed")[seed % 2]
    grid = TileGrid(shape, tile=tile, overlap=float(rng.uniform(0, 0.8)), layout=layout)
    tiles = noisy_tiles(labels, grid, seed)
    for policy in POLICIES:
        both(tiles, grid, policy=policy, threshold=float(rng.uniform(0, 0.7)))


def test_same_labels_of_real_nuclei_and_their_own_back(nuclei2d, nuclei3d):
    for labels, tile in ((nuclei2d, 150), (nuclei3d, (20, 40, 40))):
        grid = TileGrid(labels.shape, tile=tile, overlap=0.6)
        found = both(simulate.label_tiles(labels, grid, seed=0), grid)
        if labels.ndim == 2:
            np.testing.assert_array_equal(found, ref_labels.relabel(labels))
        both(noisy_tiles(labels, grid, 1), grid)


def test_every_tile_is_read_twice_row_by_row():
    labels = simulate.packed_discs((200, 170), tries=600, seed=0)
    grid = TileGrid(labels.shape, tile=60, overlap=0.5)
    tiles = simulate.label_tiles(labels, grid)
    watched = Watched(tiles)
    both(tiles, grid, watched)
    assert watched.read == 2 * list(range(len(grid)))


@pytest.mark.parametrize("kind", ["list", "stack", "rows", "memmap", "zarr", "dask", "lists"])
def test_kinds_of_sources(tmp_path, kind):
    labels = simulate.packed_discs((150, 140), tries=400, seed=2)
    grid = TileGrid(labels.shape, tile=60, overlap=0.5)
    tiles = noisy_tiles(labels, grid, 2)
    stack = np.stack(tiles)
    if kind == "memmap":
        np.save(tmp_path / "t.npy", stack)
        source = np.load(tmp_path / "t.npy", mmap_mode="r")
    elif kind == "zarr":
        zarr = pytest.importorskip("zarr", minversion="3")
        source = zarr.create_array(
            str(tmp_path / "t.zarr"), data=stack.reshape(*grid.counts, *grid.tile)
        )
    elif kind == "dask":
        source = pytest.importorskip("dask.array").from_array(stack, chunks=(1, 60, 60))
    else:
        of_row = {"list": tiles, "stack": stack, "rows": stack.reshape(*grid.counts, *grid.tile)}
        source = of_row.get(kind, [tile.tolist() for tile in tiles])
    both(tiles, grid, source)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64", "uint64"])
def test_ids_of_the_slide_and_of_every_dtype(dtype):
    labels = simulate.packed_discs((150, 140), tries=400, seed=3)
    grid = TileGrid(labels.shape, tile=60, overlap=0.5)
    step = {"uint8": 1, "int16": 100, "uint32": 2**23, "int64": 2**40, "uint64": 2**50}[dtype]
    tiles = [(tile.astype(np.uint64) * step).astype(dtype) for tile in noisy_tiles(labels, grid, 3)]
    found = both(tiles, grid)
    small = [(tile.astype(np.int64) // step).astype(np.int32) for tile in tiles]
    np.testing.assert_array_equal(found, both(small, grid))
    whole = np.where(labels > 0, labels + 200_000, 0)  # more than a tile's tables are to hold
    both(list(grid.extract(whole)), grid)


@pytest.mark.parametrize("name", ["cells.zarr", "cells.tif"])
def test_outputs_on_disk(tmp_path, name):
    labels = simulate.packed_discs((150, 140), tries=400, seed=2)
    grid = TileGrid(labels.shape, tile=60, overlap=0.5)
    tiles = noisy_tiles(labels, grid, 2)
    expected = both(tiles, grid)
    path = tmp_path / name
    if name.endswith(".zarr"):
        zarr = pytest.importorskip("zarr", minversion="3")
    stitch_labels(tiles, grid, path)
    found = tifffile.imread(path) if name.endswith(".tif") else zarr.open_array(str(path))[...]
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)

    def untouched(i):
        raise AssertionError("no tile is to be read")

    with pytest.raises(FileExistsError, match="exists already; overwrite"):
        stitch_labels(untouched, grid, path)
    stitch_labels(tiles, grid, path, overwrite=True)


def test_edges():
    out = np.full((0, 5), 3)
    assert stitch_labels([], TileGrid((0, 5), tile=4), out).n_labels == 0
    grid = TileGrid((5, 7), tile=9)
    both([np.pad(np.ones((5, 7), int), ((2, 2), (1, 1)))], grid)
    both([np.zeros((9, 9), int)], grid)


def test_objects_larger_than_the_overlap_warn():
    labels = np.ones((100, 100), np.int32)
    grid = TileGrid(labels.shape, tile=40, overlap=0.3)
    out = np.zeros_like(labels)
    with pytest.warns(UserWarning, match="1 objects are larger than the overlap") as caught:
        report = stitch_labels(grid.extract(labels), grid, out)
    assert Path(caught[0].filename).name == Path(__file__).name
    assert report.n_spanning == 1


GRID = TileGrid((20, 40), tile=20, overlap=0.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"policy": "center"}, ValueError, "policy: .*'center' needs all tiles at once"),
        ({"policy": "best"}, ValueError, "policy: expected one of .*; got 'best'"),
        ({"threshold": 2}, ValueError, "threshold: expected 0 .*; got 2"),
        ({"grid": 5}, TypeError, "grid: expected a TileGrid; got int"),
        ({"memory": 10_000}, ValueError, "memory: expected at least 1MB, two rows of 3 tiles"),
        ({"memory": "much"}, ValueError, "memory: expected bytes, or a text"),
        ({"tiles": [np.ones((20, 20), int)]}, ValueError, "tiles: expected 3, one for each place"),
        ({"tiles": np.ones((3, 9, 9), int)}, ValueError, r"tiles: expected shape \(3, \*\(20, 20"),
        ({"tiles": 7}, TypeError, "tiles: expected an array, a sequence or a function; got int"),
        (
            {"tiles": [np.ones((20, 20), int)] * 2 + [np.ones((20, 19), int)]},
            ValueError,
            r"tiles\[2\]: expected shape \(20, 20\); got \(20, 19\)",
        ),
        ({"tiles": np.ones((3, 20, 20))}, TypeError, r"tiles\[0\]: expected an integer dtype"),
        (
            {"tiles": [np.zeros((20, 20), int), -np.ones((20, 20), int), np.ones((20, 20), int)]},
            ValueError,
            r"tiles\[1\]: expected ids >= 0; got -1",
        ),
        ({"out": np.zeros((20, 41), int)}, ValueError, r"out: expected shape \(20, 40\)"),
        ({"out": np.zeros((20, 40))}, TypeError, "out: expected an integer dtype; got float64"),
        ({"out": 5}, TypeError, "out: expected a path or an array to write to; got int"),
        ({"out": "cells.png"}, ValueError, "path: expected a name that ends in"),
    ],
)
def test_bad_input_is_named(options, error, message):
    given = {"tiles": [np.zeros((20, 20), int)] * 3, "grid": GRID, "out": np.zeros((20, 40), int)}
    given |= options
    with pytest.raises(error, match=message):
        stitch_labels(given.pop("tiles"), given.pop("grid"), given.pop("out"), **given)


def test_labels_that_out_cannot_hold():
    labels = np.arange(1, 801).reshape(20, 40)
    out = np.full(labels.shape, 9, np.uint8)
    with pytest.raises(OverflowError, match="out: expected a dtype that holds ids up to 800"):
        stitch_labels(GRID.extract(labels), GRID, out)
    assert (out == 9).all()


def test_tiles_that_change_are_named():
    labels = simulate.packed_discs((100, 100), tries=200, seed=0)
    grid = TileGrid(labels.shape, tile=40, overlap=0.5)
    tiles, n_read = simulate.label_tiles(labels, grid), []

    def changing(i):
        n_read.append(i)
        return tiles[i] * (1 if len(n_read) <= len(grid) else 9)

    with pytest.raises(ValueError, match="tiles: expected the same ids each time row 0 is read"):
        stitch_labels(changing, grid, np.zeros_like(labels))


MEMORY_SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from cellpost import TileGrid
from cellpost.slide.merge import stitch_labels

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(s for s in lines if s.startswith(field)).split()[1])

def tile(grid, i):
    # A cell every 32 pixels a side, ids of the tile's own: rendered when read.
    y, x = (np.arange(p.start, p.stop) for p in grid[i])
    inside = (y % 32 < 24)[:, None] & (x % 32 < 24)
    return (((y // 32 - y[0] // 32) * 99)[:, None] + x // 32 - x[0] // 32 + 1) * inside

def call(n, path):
    grid = TileGrid((n, n), tile=1024, overlap=0.25)
    return stitch_labels(lambda i: tile(grid, i).astype(np.int32), grid, path, memory="260MB")

folder = Path(sys.argv[1])
call(2048, folder / "small.tif")  # what a first call loads
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
report = call(16384, folder / "cells.tif")
print(json.dumps([report.n_labels, resident("VmHWM") - before]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux's /proc"
)
def test_a_slide_takes_two_rows_of_tiles(tmp_path):
    # 441 tiles of 4.2 MB are 1.8 GB. The call may take 260 MB, two rows of 21 with a row of the
    # image, and tables of 100 bytes for each of about 480,000 ids.
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    n_labels, extra = json.loads(done.stdout.splitlines()[-1])
    assert n_labels == 512**2
    assert extra < 320e6, f"{extra / 1e6:.0f} MB"
