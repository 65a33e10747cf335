"""`cellpost stitch`: files of tiles, options, maps written whole or not. Shared: test_cli.py."""

from __future__ import annotations

import errno
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tifffile
from test_cli import ENVIRONMENT, assert_fails, files, on_a_terminal, process, run

import cellpost
from cellpost import cli, tiles_grid, tiles_weights
from cellpost.cli import job
from cellpost.cli.options import Window
from cellpost.cli.stitch import Layout
from cellpost.io import FileFormatError, read_labels, read_maps, read_metadata, read_tiles

SHAPE = (50, 70)
TILE = (20, 24)
GRID = cellpost.TileGrid(SHAPE, tile=TILE, overlap=0.6)


def some_tiles(grid=GRID, channels=3, dtype=np.float32, seed=0):
    """Noise, so that each tile counts: (n, C, *tile)."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((len(grid), channels, *grid.tile)).astype(dtype)


def in_rows(tiles, grid=GRID):
    return tiles.reshape(*grid.counts, *tiles.shape[1:])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with tiles of a map of 50 x 70 in it."""
    monkeypatch.chdir(tmp_path)
    np.savez("tiles.npz", tiles=some_tiles(), shape=SHAPE)
    return tmp_path


def expected(grid=GRID, **options):
    return cellpost.stitch(some_tiles(), grid=grid, **options)


# ---- options ------------------------------------------------------------------------------------


def test_options_are_those_of_stitch_and_the_grid():
    given = {
        **inspect.signature(cellpost.TileGrid).parameters,
        **inspect.signature(cellpost.stitch).parameters,
    }
    offered = inspect.signature(cli.stitch).parameters
    ours = {"output", "report", "device", "threads", "overwrite", "quiet"}
    assert set(offered) - ours == set(given) - {"tile", "grid"}
    for name in set(offered) - ours - {"tiles", "shape", "overlap"}:
        default = getattr(offered[name].default, "value", offered[name].default)
        assert default == given[name].default, name
    for choices, values in ((Window, tiles_weights.Window), (Layout, tiles_grid.Layout)):
        assert [choice.value for choice in choices] == list(get_args(values))


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ((), {}),
        (("--window", "constant"), {"window": "constant"}),
        (("--window", "core"), {"window": "core"}),
        (("--sigma", 0.3), {"sigma": 0.3}),
        (("--dtype", "float16"), {"dtype": "float16"}),
        (("--dtype", "float64"), {"dtype": "float64"}),
    ],
)
def test_options_reach_the_blending(folder, flags, options):
    result = run("stitch", "tiles.npz", "-o", "map.npy", *flags)
    assert result.exit_code == 0, result.output
    found = np.load("map.npy")
    wanted = expected(**options)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("flags", "spacing"),
    [
        (("--overlap", 0.5), {"overlap": 0.5}),
        (("--overlap", 0.5, "--overlap", 0.25), {"overlap": (0.5, 0.25)}),
        (("--overlap", 0.5, 0.25), {"overlap": (0.5, 0.25)}),
        (("--overlap=0.5", 0.25), {"overlap": (0.5, 0.25)}),
        (("--overlap-px", 8), {"overlap_px": 8}),
        (("--overlap-px", 8, 3), {"overlap_px": (8, 3)}),
        (("--stride", 11), {"stride": 11}),
        (("--stride", 11, 13, "--layout", "fixed"), {"stride": (11, 13), "layout": "fixed"}),
        (("--layout", "nonoverlap"), {"layout": "nonoverlap"}),
        (("--layout", "halo", "--halo-px", 3), {"layout": "halo", "halo_px": 3}),
        (("--layout", "halo", "--halo-px", 3, 4), {"layout": "halo", "halo_px": (3, 4)}),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_every_spacing(folder, flags, spacing, first):
    grid = cellpost.TileGrid(SHAPE, tile=TILE, **spacing)
    tiles = some_tiles(grid)
    np.save("flat.npy", tiles)
    where = ("flat.npy", "--shape", *SHAPE, *flags)
    result = run("stitch", *(where if first else (*where[1:], "flat.npy")), "-o", "map.npy")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.load("map.npy"), cellpost.stitch(tiles, grid=grid))


@pytest.mark.parametrize(
    "spacing", [{"overlap": 0.6}, {"overlap_px": (7, 3)}, {"halo_px": 5, "layout": "halo"}]
)
def test_without_a_shape_the_map_ends_with_the_last_tile(folder, spacing):
    steps, counts = cellpost.TileGrid(SHAPE, tile=TILE, **spacing).stride, (3, 4)
    whole = [(n - 1) * s + t for n, s, t in zip(counts, steps, TILE, strict=True)]
    grid = cellpost.TileGrid(whole, tile=TILE, **spacing)
    assert grid.counts == counts
    np.save("rows.npy", in_rows(some_tiles(grid), grid))
    flags = [
        part
        for name, value in spacing.items()
        for part in ("--" + name.replace("_", "-"), *np.atleast_1d(value))
    ]
    assert run("stitch", "rows.npy", "-o", "map.npy", *flags).exit_code == 0
    np.testing.assert_array_equal(np.load("map.npy"), cellpost.stitch(some_tiles(grid), grid=grid))


# ---- files in and out ---------------------------------------------------------------------------


def write(name, tiles):
    flat = in_rows(tiles)
    if name == "rows.npy":
        np.save(name, flat)
    elif name == "swapped.npy":
        np.save(name, flat.astype(flat.dtype.newbyteorder()))
    elif name == "fortran.npy":
        np.save(name, np.asfortranarray(flat))
    elif name == "rows.npz":
        np.savez(name, other=np.arange(3), tiles=flat)
    elif name == "packed.npz":
        np.savez_compressed(name, tiles=flat)
    elif name == "fortran.npz":
        np.savez(name, tiles=np.asfortranarray(flat))
    elif name == "rows.tif":
        tifffile.imwrite(name, flat, photometric="minisblack")
    elif name == "swapped.tif":
        tifffile.imwrite(name, flat, photometric="minisblack", byteorder=">")
    elif name == "packed.tif":
        tifffile.imwrite(name, flat, photometric="minisblack", compression="zlib")
    elif name == "ome.tif":
        axes = {"axes": "TCYX"}
        tifffile.imwrite(name, tiles, photometric="minisblack", ome=True, metadata=axes)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "is_mapped"),
    [
        ("rows.npy", True),
        ("swapped.npy", False),
        ("fortran.npy", True),
        ("rows.npz", True),
        ("packed.npz", False),
        ("fortran.npz", True),
        ("rows.tif", True),
        ("swapped.tif", False),
        ("packed.tif", False),
        ("ome.tif", True),
    ],
)
def test_every_form_of_tiles(folder, name, is_mapped, channels):
    tiles = some_tiles(channels=channels)
    write(name, tiles)
    result = run("stitch", name, "-o", "map.npy", "--shape", *SHAPE)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    np.testing.assert_array_equal(np.load("map.npy"), cellpost.stitch(tiles, grid=GRID))
    base = read_tiles(name, shape=SHAPE).array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) == is_mapped


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_map_is_of_the_tiles_dtype(folder, dtype):
    tiles = some_tiles(dtype=dtype)
    np.save("flat.npy", tiles)
    assert run("stitch", "flat.npy", "-o", "map.npy", "--shape", *SHAPE).exit_code == 0
    found = np.load("map.npy")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, cellpost.stitch(tiles, grid=GRID))


@pytest.mark.parametrize("form", ["rows", "flat"])
@pytest.mark.parametrize("output", ["map.npy", "map.tif"])
def test_volumes(folder, form, output):
    grid = cellpost.TileGrid((11, 30, 25), tile=(6, 12, 10), overlap=0.5)
    tiles = some_tiles(grid, channels=4)
    np.savez("volume.npz", tiles=tiles if form == "flat" else in_rows(tiles, grid))
    flags = ("--shape", *grid.shape, "--overlap", 0.5)
    result = run("stitch", "volume.npz", "-o", output, *flags)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{output}: 4 x 11 x 30 x 25 float32 from {len(grid)} tiles, ")
    found = np.load(output) if output == "map.npy" else np.squeeze(tifffile.imread(output))
    if output == "map.tif":
        found = np.moveaxis(found, 1, 0) if found.shape[0] == 11 else found
    np.testing.assert_array_equal(found, cellpost.stitch(tiles, grid=grid))


def test_a_tiff_with_metadata_and_a_report(folder):
    outputs = ("-o", "map.tif", "--report", "report.json")
    result = run("stitch", "tiles.npz", *outputs, "--device", "cpu", "--window", "cosine")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    said = f"map.tif: 3 x 50 x 70 float32 from {len(GRID)} tiles, "
    assert result.stdout.startswith(said)
    assert result.stdout.endswith(" s on cpu\n")
    assert result.stdout.count("\n") == 1
    np.testing.assert_array_equal(tifffile.imread("map.tif"), expected(window="cosine"))
    with tifffile.TiffFile("map.tif") as tiff:
        assert tiff.is_bigtiff
        assert tiff.is_ome
        assert tiff.pages.first.is_tiled
    report = json.loads(Path("report.json").read_text())
    assert report.pop("seconds") >= 0
    noted = read_metadata("map.tif")
    assert noted.pop("software") == "cellpost"
    assert noted == report
    assert report["version"] == cellpost.__version__
    assert report["function"] == "stitch"
    assert report["tiles"] == "tiles.npz"
    assert report["n_tiles"] == len(GRID)
    assert report["shape"] == [3, *SHAPE]
    assert report["tile"] == list(TILE)
    assert report["stride"] == list(GRID.stride)
    assert report["parameters"]["window"] == "cosine"
    run("stitch", "tiles.npz", "-o", "again.tif", "--device", "cpu", "--window", "cosine")
    assert Path("again.tif").read_bytes() == Path("map.tif").read_bytes()


@pytest.mark.parametrize("name", ["map.npy", "map.tif"])
def test_flows_of_real_nuclei_go_on_from_the_map(folder, nuclei2d, name):
    cells = cellpost.relabel(nuclei2d.astype(np.int32))
    maps = np.concatenate([5 * cellpost.masks_to_flows(cells), np.where(cells, 5, -5)[None]])
    maps = maps.astype(np.float32)
    grid = cellpost.TileGrid(cells.shape, tile=128)
    np.savez("cells.npz", tiles=grid.extract(maps), shape=cells.shape)
    assert run("stitch", "cells.npz", "-o", name).exit_code == 0
    given = read_maps(name)
    np.testing.assert_allclose(given.dP, maps[:2], atol=1e-6)  # the mean of equal values
    assert run("flows", name, "-o", "cells.tif").exit_code == 0
    whole = cellpost.follow_flows(maps[:2], maps[2])
    np.testing.assert_array_equal(read_labels("cells.tif"), whole)
    assert whole.max() > 100


def test_nan_stays(folder):
    tiles = some_tiles()
    tiles[3, 1, 4, 5] = np.nan
    np.savez("nan.npz", tiles=tiles, shape=SHAPE)
    assert run("stitch", "nan.npz", "-o", "map.npy").exit_code == 0
    np.testing.assert_array_equal(np.load("map.npy"), cellpost.stitch(tiles, grid=GRID))
    assert np.isnan(np.load("map.npy")).any()


def test_no_pixels(folder):
    np.savez("none.npz", tiles=np.zeros((0, 2, 8, 8), np.float32), shape=(0, 9))
    result = run("stitch", "none.npz", "-o", "map.npy")
    assert result.exit_code == 0, result.output
    assert np.load("map.npy").shape == (2, 0, 9)
    assert_fails(run("stitch", "none.npz", "-o", "map.tif"), 2, "map.tif", "(2, 0, 9)")


MEASURED = """
import resource
import sys
from typer.testing import CliRunner
from cellpost.cli import app

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small, large = sys.argv[1], sys.argv[2:]
for name in (small, "many.npy"):
    before = peak()
    result = CliRunner().invoke(app, ["stitch", name, "-o", "of_" + name, *large])
    assert result.exit_code == 0, result.output
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in Linux's unit")
def test_neither_tiles_nor_map_are_in_memory(folder):
    """The peak of a run, over that of one on few tiles before it."""
    for name, height in (("few.npy", 128), ("many.npy", 16384)):
        grid = cellpost.TileGrid((height, 512), tile=64, overlap=0.5)
        shape = (*grid.counts, 2, 64, 64)
        np.lib.format.open_memmap(name, "w+", np.float32, shape)[:] = 1
    command = [sys.executable, "-c", MEASURED, "few.npy", "--overlap", "0.5", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    sizes = [Path(name).stat().st_size for name in ("many.npy", "of_many.npy")]
    assert sizes[0] > 240e6
    assert sizes[1] > 64e6
    assert int(done.stdout) * 1024 < 16e6
    assert (np.load("of_many.npy", mmap_mode="r") == 1).all()


# ---- what it refuses ----------------------------------------------------------------------------


def write_bad(name):
    tiles = some_tiles()
    arrays = {
        "integers.npy": in_rows(tiles).astype(np.int16),
        "three.npy": tiles[0],
        "flat.npy": tiles,
        "fewer.npz": {"tiles": tiles[1:], "shape": SHAPE},
        "named.npz": {"tile": tiles},
        "shape.npz": {"tiles": tiles, "shape": np.array([1.5, 2])},
        "shapes.npz": {"tiles": tiles, "shape": np.arange(4)},
        "channels.npz": {"tiles": tiles[:, :0], "shape": SHAPE},
    }
    if isinstance(arrays.get(name), dict):
        np.savez(name, **arrays[name])
    elif name in arrays:
        np.save(name, arrays[name])
    elif name == "cut.npy":
        np.save(name, in_rows(tiles))
        Path(name).write_bytes(Path(name).read_bytes()[:5000])
    elif name == "cut.npz":
        np.savez(name, tiles=in_rows(tiles))
        Path(name).write_bytes(Path(name).read_bytes()[:5000])
    elif name == "text.tif":
        Path(name).write_text("tiles")
    elif name == "pickled.npy":
        np.save(name, {"tiles": tiles}, allow_pickle=True)
    elif name == "rgb.tif":
        tifffile.imwrite(name, np.zeros((4, 16, 16, 3), np.float32), photometric="rgb")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("none.npy", "no file"),
        (".", "directory"),
        ("integers.npy", "int16"),
        ("three.npy", "(3, 20, 24)"),
        ("flat.npy", "--shape H W"),
        ("fewer.npz", "(34, 3, 20, 24)"),
        ("named.npz", "no tiles among tile"),
        ("shape.npz", "not (H, W)"),
        ("shapes.npz", "not (H, W)"),
        ("channels.npz", "(35, 0, 20, 24)"),
        ("cut.npy", "cut short"),
        ("cut.npz", "cut short"),
        ("text.tif", "another kind"),
        ("pickled.npy", "pickled"),
        ("rgb.tif", "axes"),
    ],
)
def test_bad_tiles(folder, name, part):
    assert len(GRID) == 35
    write_bad(name)
    before = files()
    assert_fails(run("stitch", name, "-o", "map.npy"), 2, f"{name}: expected", "; got ", part)
    assert files() == before


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-o", "none/map.npy"], "none"),
        (["-o", "old.npy"], "exists"),
        (["-o", "map.png"], ".npy, .tif, .tiff"),
        (["-o", "tiles.npz", "--overwrite"], "twice"),
        (["-o", "m.npy", "--report", "m.npy"], "twice"),
        (["-o", "m.tif", "--dtype", "float16"], "float16"),
        (["-o", "m.npy", "--shape", 51, 70], "(50, 70), as tiles.npz says; got (51, 70)"),
        (["-o", "m.npy", "--shape", 50], "H W"),
        (["-o", "m.npy", "--shape", 5, 5, 5, 5], "H W"),
        (["-o", "m.npy", "--shape=-1", "--shape=70"], "H W"),
        (["-o", "m.npy", "--overlap", 1.5], "overlap"),
        (["-o", "m.npy", "--overlap", "nan"], "overlap"),
        (["-o", "m.npy", "--overlap", 0.5, 0.5, 0.5], "overlap"),
        (["-o", "m.npy", "--overlap", 0.5, "--stride", 4], "expected one of"),
        (["-o", "m.npy", "--overlap", 0.5], "tiles.npz: expected"),
        (["-o", "m.npy", "--stride", 21], "stride"),
        (["-o", "m.npy", "--layout", "halo"], "halo_px"),
        (["-o", "m.npy", "--halo-px", 2], "overlap: expected"),
        (["-o", "m.npy", "--sigma", 0], "sigma"),
        (["-o", "m.npy", "--threads", 0], "--threads"),
    ],
)
def test_bad_arguments(folder, arguments, part):
    Path("old.npy").write_text("precious")
    before = files()
    assert_fails(run("stitch", "tiles.npz", *arguments), 2, part)
    assert files() == before
    assert Path("old.npy").read_text() == "precious"


def test_bad_usage_of_the_command_line(folder):
    for arguments in (
        [],
        ["-o", "m.npy", "--window", "hann"],
        ["-o", "m.npy", "--dtype", "int32"],
        ["-o", "m.npy", "--layout", "random"],
        ["-o", "m.npy", "--overlap", "half"],
        ["-o", "m.npy", "--sigma", 0.1, 0.2],
    ):
        result = run("stitch", "tiles.npz", *arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.output
    assert files() == ["tiles.npz"]


@pytest.mark.parametrize("output", ["map.npy", "map.tif"])
@pytest.mark.parametrize(
    ("where", "error", "part"),
    [
        ("cellpost.Stitcher.add", MemoryError(), "MemoryError"),
        ("os.posix_fallocate", OSError(errno.ENOSPC, "No space left on device"), "No space"),
        ("os.replace", OSError(5, "Input/output error"), "Input/output"),
    ],
)
def test_failures_leave_no_file(folder, monkeypatch, where, error, part, output):
    if where == "os.posix_fallocate" and not hasattr(os, "posix_fallocate"):
        pytest.skip("this system has no posix_fallocate")
    Path(output).write_text("precious")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(where, fail)
    assert_fails(run("stitch", "tiles.npz", "-o", output, "--overwrite"), 1, part)
    assert files() == sorted([output, "tiles.npz"])
    assert Path(output).read_text() == "precious"


@pytest.mark.parametrize("error", [AttributeError(), OSError(errno.EOPNOTSUPP, "not here")])
def test_file_systems_that_cannot_take_space_beforehand(folder, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(os, "posix_fallocate", fail, raising=False)
    for name in ("map.npy", "map.tif"):
        assert run("stitch", "tiles.npz", "-o", name).exit_code == 0
    np.testing.assert_array_equal(np.load("map.npy"), expected())
    np.testing.assert_array_equal(tifffile.imread("map.tif"), expected())


def test_shapes_are_checked_by_the_reader(folder):
    with pytest.raises(ValueError, match=r"shape: expected H W or D H W in pixels; got \(5,\)"):
        read_tiles("tiles.npz", shape=(5,))
    np.save("flat.npy", some_tiles())
    with pytest.raises(FileFormatError, match=r"for a map of shape \(5, 6, 7\)"):
        read_tiles("flat.npy", shape=(5, 6, 7))


# ---- what all commands do -----------------------------------------------------------------------


def test_overwrite_quiet_and_threads(folder, restore_settings):
    Path("map.npy").write_text("old")
    result = run("stitch", "tiles.npz", "-o", "map.npy", "--overwrite", "-q", "--threads", 1)
    assert (result.exit_code, result.output) == (0, "")
    assert cellpost.get_num_threads() == 1
    np.testing.assert_array_equal(np.load("map.npy"), expected())


def test_cuda_that_cannot_be_used(folder, monkeypatch):
    state = {**cellpost.info(), "cuda_usable": False, "cuda_reason": "no driver"}
    monkeypatch.setattr(cellpost, "info", lambda: state)
    assert_fails(run("stitch", "tiles.npz", "-o", "m.npy", "--device", "cuda"), 2, "no driver")
    assert "on cpu" in run("stitch", "tiles.npz", "-o", "m.npy").stdout
    state = {**state, "cuda_usable": True}
    for name in ("torch", "cupy"):
        monkeypatch.setitem(sys.modules, name, None)
    state["cuda_reason"] = ""
    result = run("stitch", "tiles.npz", "-o", "new.npy", "--device", "cuda")
    assert_fails(result, 2, "torch nor cupy")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_tiles_are_moved_row_by_row(folder, monkeypatch, dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    moved = []

    def put(array):
        moved.append(len(array))
        return torch.tensor(np.ascontiguousarray(array))

    state = {**cellpost.info(), "cuda_usable": True, "cuda_reason": ""}
    monkeypatch.setattr(cellpost, "info", lambda: state)
    monkeypatch.setattr(job, "_gpu_arrays", lambda: (put, lambda tensor: tensor.numpy()))
    result = run("stitch", "tiles.npz", "-o", "map.npy", "--dtype", dtype)
    assert result.exit_code == 0, result.output
    assert "on cuda" in result.stdout
    assert moved == [GRID.counts[1]] * GRID.counts[0]
    np.testing.assert_array_equal(np.load("map.npy"), expected(dtype=dtype))


@pytest.mark.gpu
def test_cuda(folder):
    if not cellpost.info()["cuda_usable"]:
        pytest.skip(f"CUDA: {cellpost.info()['cuda_reason']}")
    result = run("stitch", "tiles.npz", "-o", "map.npy", "--device", "cuda")
    if "torch nor cupy" in result.stderr:
        pytest.skip("CUDA: neither torch nor cupy can make arrays on the GPU")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.load("map.npy"), expected())


def test_a_process(folder):
    done = process("stitch", "tiles.npz", "-o", "map.npy")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"from {len(GRID)} tiles" in done.stdout
    np.testing.assert_array_equal(np.load("map.npy"), expected())
    failed = process("stitch", "none.npy", "-o", "new.npy")
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    code, shown = on_a_terminal("stitch", "tiles.npz", "-o", "map.tif")
    assert code == 0
    assert b"blending on" in shown
