"""`cellpost merge`: files of label tiles, options, one label image. Shared: test_cli.py."""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import simulate
import tifffile
from PIL import Image
from test_cli import assert_fails, files, on_a_terminal, process, run

import cellpost
from cellpost import cli
from cellpost.cli import job
from cellpost.cli.merge import Policy
from cellpost.io import FileFormatError, read_label_tiles, read_labels, read_metadata

SHAPE = (70, 100)
GRID = cellpost.TileGrid(SHAPE, tile=(32, 40), overlap=0.6)
CELLS = cellpost.relabel(simulate.blobs(SHAPE, 40, seed=3, radius=(2, 5)))


def some_tiles(grid=GRID, cells=CELLS, dtype=np.int32):
    """Perfect tiles, each with ids of its own: (n, *tile)."""
    return np.stack(simulate.label_tiles(cells, grid, seed=1)).astype(dtype)


def in_rows(tiles, grid=GRID):
    return tiles.reshape(*grid.counts, *grid.tile)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with label tiles of an image of 70 x 100 in it."""
    monkeypatch.chdir(tmp_path)
    np.savez("tiles.npz", tiles=some_tiles(), shape=SHAPE)
    return tmp_path


# ---- options ------------------------------------------------------------------------------------


def test_options_are_those_of_stitch_labels_and_the_grid():
    given = {
        **inspect.signature(cellpost.TileGrid).parameters,
        **inspect.signature(cellpost.stitch_labels).parameters,
    }
    offered = inspect.signature(cli.merge).parameters
    ours = {"output", "image", "overlay", "report", "device", "threads", "overwrite", "quiet"}
    assert set(offered) - ours == set(given) - {"tile", "grid", "return_report"}
    for name in set(offered) - ours - {"tiles", "shape", "overlap"}:
        default = getattr(offered[name].default, "value", offered[name].default)
        assert default == given[name].default, name
    policies = get_args(get_type_hints(cellpost.stitch_labels)["policy"])
    assert tuple(policy.value for policy in Policy) == policies


@pytest.mark.parametrize("policy", ["mutual", "iou", "ios", "center"])
@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_options_reach_the_merging(folder, policy, threshold):
    tiles = some_tiles()
    rng = np.random.default_rng(0)
    tiles[rng.random(tiles.shape) < 0.2] = 0  # or the policies would agree
    np.save("tiles.npy", tiles)
    flags = ("--shape", *SHAPE, "--policy", policy, "--threshold", threshold)
    result = run("merge", "tiles.npy", "-o", "cells.tif", *flags)
    assert result.exit_code == 0, result.output
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = cellpost.stitch_labels(tiles, GRID, policy=policy, threshold=threshold)
    np.testing.assert_array_equal(read_labels("cells.tif"), wanted)


@pytest.mark.parametrize(
    ("flags", "spacing"),
    [
        (("--overlap", 0.5), {"overlap": 0.5}),
        (("--overlap", 0.5, 0.25), {"overlap": (0.5, 0.25)}),
        (("--overlap-px", 16), {"overlap_px": 16}),
        (("--stride", 11, 13, "--layout", "fixed"), {"stride": (11, 13), "layout": "fixed"}),
        (("--layout", "halo", "--halo-px", 8, 9), {"layout": "halo", "halo_px": (8, 9)}),
    ],
)
@pytest.mark.parametrize("form", ["rows", "flat"])
def test_every_spacing(folder, flags, spacing, form):
    grid = cellpost.TileGrid(SHAPE, tile=GRID.tile, **spacing)
    tiles = some_tiles(grid)
    np.save("tiles.npy", tiles if form == "flat" else in_rows(tiles, grid))
    result = run("merge", "tiles.npy", "--shape", *SHAPE, *flags, "-o", "cells.npy")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.load("cells.npy"), CELLS)


def test_without_a_shape_the_image_ends_with_the_last_tile(folder):
    steps = GRID.stride
    whole = [(n - 1) * s + t for n, s, t in zip((3, 4), steps, GRID.tile, strict=True)]
    grid = cellpost.TileGrid(whole, tile=GRID.tile)
    cells = cellpost.relabel(simulate.blobs(whole, 30, seed=4, radius=(2, 5)))
    np.save("rows.npy", in_rows(some_tiles(grid, cells), grid))
    assert run("merge", "rows.npy", "-o", "cells.npy").exit_code == 0
    np.testing.assert_array_equal(np.load("cells.npy"), cells)


# ---- files in and out ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.uint32, ">i4"])
@pytest.mark.parametrize("form", ["npy", "npz", "tif", "packed.tif", "fortran.npy"])
def test_every_form_of_tiles(folder, form, dtype):
    tiles = in_rows(some_tiles()).astype(dtype)
    name = "t." + form
    if form == "npz":
        np.savez(name, tiles=tiles)
    elif form.endswith("tif"):
        if np.dtype(dtype) == np.int64:
            tiles = tiles.astype(np.int16)
        packed = "zlib" if form == "packed.tif" else None
        tifffile.imwrite(name, tiles, photometric="minisblack", compression=packed)
    else:
        np.save(name, np.asfortranarray(tiles) if form == "fortran.npy" else tiles)
    result = run("merge", name, "-o", "cells.tif", "--shape", *SHAPE)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    np.testing.assert_array_equal(read_labels("cells.tif"), CELLS)


@pytest.mark.parametrize("form", ["rows", "flat"])
def test_volumes(folder, form):
    grid = cellpost.TileGrid((14, 40, 50), tile=(8, 24, 30), overlap=0.5)
    cells = cellpost.relabel(simulate.blobs(grid.shape, 30, seed=5, radius=(1.5, 2)))
    tiles = some_tiles(grid, cells)
    np.savez("tiles.npz", tiles=tiles if form == "flat" else in_rows(tiles, grid))
    flags = ("--overlap", 0.5, "--shape", *grid.shape, "--overlay", "overlay.png")
    result = run("merge", "tiles.npz", "-o", "cells.tif", *flags)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_labels("cells.tif"), cells)
    with Image.open("overlay.png") as overlay:
        assert overlay.size == (50, 40)


def test_overlay_metadata_and_report(folder):
    picture = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
    tifffile.imwrite("picture.tif", picture)
    outputs = ("-o", "cells.tif", "--report", "r.json", "--overlay", "o.png", "--device", "cpu")
    result = run("merge", "tiles.npz", *outputs, "--image", "picture.tif")
    assert result.exit_code == 0, result.output
    said = f"cells.tif: {CELLS.max()} cells in 70 x 100 pixels, "
    assert result.stdout.startswith(said)
    assert result.stderr == ""
    cellpost.io.write_overlay("expected.png", picture, CELLS)
    assert Path("o.png").read_bytes() == Path("expected.png").read_bytes()
    report = json.loads(Path("r.json").read_text())
    assert report.pop("seconds") >= 0
    noted = read_metadata("cells.tif")
    assert noted.pop("software") == "cellpost"
    assert noted == report
    assert report["function"] == "stitch_labels"
    assert report["tiles"] == "tiles.npz"
    assert report["n_tiles"] == len(GRID)
    assert report["tile"] == list(GRID.tile)
    assert report["stride"] == list(GRID.stride)
    assert report["shape"] == list(SHAPE)
    assert report["spacing"]["layout"] == "sliding"
    assert report["parameters"] == {"policy": "mutual", "threshold": 0.5, "out_dtype": None}
    assert report["n_cells"] == report["report"]["n_labels"] == CELLS.max()
    assert report["report"]["n_links"] > 0
    assert report["report"]["n_spanning"] == 0


def test_out_dtype(folder):
    result = run("merge", "tiles.npz", "-o", "cells.npy", "--out-dtype", "uint8")
    assert result.exit_code == 0, result.output
    assert np.load("cells.npy").dtype == np.uint8
    many = np.arange(1, 4097, dtype=np.uint16).reshape(1, 1, 64, 64)
    np.save("many.npy", many)
    result = run("merge", "many.npy", "-o", "new.npy", "--out-dtype", "uint8")
    assert_fails(result, 1, "4096")
    assert not Path("new.npy").exists()


def test_no_pixels(folder):
    np.savez("none.npz", tiles=np.zeros((0, 8, 8), np.int32), shape=(0, 9))
    result = run("merge", "none.npz", "-o", "cells.npy")
    assert result.exit_code == 0, result.output
    assert np.load("cells.npy").shape == (0, 9)


# ---- warnings -----------------------------------------------------------------------------------


def test_large_objects_are_told(folder):
    cells = np.zeros(SHAPE, np.int32)
    cells[5:60, 20:90] = 1
    np.savez("large.npz", tiles=some_tiles(cells=cells), shape=SHAPE)
    result = run("merge", "large.npz", "-o", "cells.tif", "--report", "r.json")
    assert result.exit_code == 0, result.output
    n = json.loads(Path("r.json").read_text())["report"]["n_spanning"]
    assert n >= 1
    assert result.stderr.startswith(f"cellpost: warning: {n} object")
    assert "larger than the overlap" in result.stderr
    assert result.stderr.count("\n") == 1
    again = run("merge", "large.npz", "-o", "cells.tif", "--overwrite", "--quiet")
    assert (again.exit_code, again.output) == (0, "")


def test_tiles_without_overlap_are_told(folder):
    grid = cellpost.TileGrid(SHAPE, tile=GRID.tile, layout="nonoverlap")
    np.savez("apart.npz", tiles=some_tiles(grid), shape=SHAPE)
    result = run("merge", "apart.npz", "-o", "cells.tif", "--layout", "nonoverlap")
    assert result.exit_code == 0, result.output
    assert result.stderr == (
        "cellpost: warning: tiles do not overlap: objects that they cut stay cut; join_fragments "
        "puts them together\n"
    )


# ---- what it refuses ----------------------------------------------------------------------------


def write_bad(name):
    tiles = some_tiles()
    arrays = {
        "float.npy": in_rows(tiles).astype(np.float32),
        "bool.npy": in_rows(tiles) > 0,
        "two.npy": tiles[0],
        "five.npy": in_rows(tiles)[None],
        "flat.npy": tiles,
        "fewer.npz": {"tiles": tiles[1:], "shape": SHAPE},
        "empty.npz": {"tiles": tiles[:, :0], "shape": SHAPE},
        "volume.npz": {"tiles": in_rows(tiles)[..., None, :], "shape": SHAPE},
        "named.npz": {"tile": tiles},
        "shape.npz": {"tiles": tiles, "shape": np.array([1.5, 2])},
    }
    if isinstance(arrays.get(name), dict):
        np.savez(name, **arrays[name])
    elif name in arrays:
        np.save(name, arrays[name])
    elif name == "cut.npy":
        np.save(name, in_rows(tiles))
        Path(name).write_bytes(Path(name).read_bytes()[:5000])
    elif name == "text.tif":
        Path(name).write_text("tiles")
    elif name == "pickled.npy":
        np.save(name, {"tiles": tiles}, allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("none.npy", "no file"),
        ("float.npy", "not integers"),
        ("bool.npy", "not integers"),
        ("two.npy", "(32, 40)"),
        ("five.npy", f"(1, {GRID.counts[0]}, "),
        ("flat.npy", "--shape H W"),
        ("fewer.npz", f"({len(GRID) - 1}, 32, 40)"),
        ("empty.npz", f"({len(GRID)}, 0, 40)"),
        ("volume.npz", "for a label image of shape (70, 100)"),
        ("named.npz", "no tiles among tile"),
        ("shape.npz", "not (H, W)"),
        ("cut.npy", "cut short"),
        ("text.tif", "another kind"),
        ("pickled.npy", "pickled"),
    ],
)
def test_bad_tiles(folder, name, part):
    write_bad(name)
    before = files()
    result = run("merge", name, "-o", "cells.tif")
    assert_fails(result, 2, f"{name}: expected", "; got ", part)
    assert files() == before


def test_negative_ids(folder):
    tiles = some_tiles()
    tiles[3, 4, 5] = -7
    np.savez("minus.npz", tiles=tiles, shape=SHAPE)
    assert_fails(run("merge", "minus.npz", "-o", "cells.tif"), 2, "tiles[3]", "-7")
    assert files() == ["minus.npz", "tiles.npz"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-o", "none/cells.tif"], "none"),
        (["-o", "old.npy"], "exists"),
        (["-o", "cells.jpg"], ".tif"),
        (["-o", "tiles.npz", "--overwrite"], "twice"),
        (["-o", "c.npy", "--report", "c.npy"], "twice"),
        (["-o", "c.npy", "--overlay", "o.jpg"], ".png"),
        (["-o", "c.npy", "--image", "old.npy"], "--overlay"),
        (["-o", "c.npy", "--shape", 71, 100], "(70, 100), as tiles.npz says; got (71, 100)"),
        (["-o", "c.npy", "--shape", 70], "H W"),
        (["-o", "c.npy", "--overlap", 1.5], "overlap"),
        (["-o", "c.npy", "--overlap", 0.5, "--stride", 4], "expected one of"),
        (["-o", "c.npy", "--overlap", 0.2], "tiles.npz: expected"),
        (["-o", "c.npy", "--layout", "halo"], "halo_px"),
        (["-o", "c.npy", "--threshold", 1.5], "threshold: expected 0 <= threshold < 1"),
        (["-o", "c.npy", "--threshold", "nan"], "threshold"),
        (["-o", "c.tif", "--out-dtype", "float32"], "float32"),
        (["-o", "c.npy", "--threads", 0], "--threads"),
    ],
)
def test_bad_arguments(folder, arguments, part):
    Path("old.npy").write_text("precious")
    before = files()
    assert_fails(run("merge", "tiles.npz", *arguments), 2, part)
    assert files() == before
    assert Path("old.npy").read_text() == "precious"


def test_bad_usage_of_the_command_line(folder):
    for arguments in ([], ["-o", "m.npy", "--policy", "nms"], ["-o", "m.npy", "--layout", "any"]):
        result = run("merge", "tiles.npz", *arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.output
    assert files() == ["tiles.npz"]


@pytest.mark.parametrize(
    ("where", "error", "part"),
    [
        ("cellpost.stitch_labels", MemoryError(), "MemoryError"),
        ("os.replace", OSError(5, "Input/output error"), "Input/output"),
    ],
)
def test_failures_leave_no_file(folder, monkeypatch, where, error, part):
    Path("cells.tif").write_text("precious")

    def stitch_labels(*_, **__):
        raise error

    monkeypatch.setattr(where, stitch_labels)
    assert_fails(run("merge", "tiles.npz", "-o", "cells.tif", "--overwrite"), 1, part)
    assert files() == ["cells.tif", "tiles.npz"]
    assert Path("cells.tif").read_text() == "precious"


def test_the_reader_by_itself(folder):
    given = read_label_tiles("tiles.npz")
    assert (given.array.shape, given.shape) == ((len(GRID), *GRID.tile), SHAPE)
    with pytest.raises(ValueError, match=r"shape: expected H W or D H W in pixels; got \(5,\)"):
        read_label_tiles("tiles.npz", shape=(5,))
    np.save("flat.npy", some_tiles())
    with pytest.raises(FileFormatError, match=r"for a label image of shape \(5, 6, 7\)"):
        read_label_tiles("flat.npy", shape=(5, 6, 7))


# ---- what all commands do -----------------------------------------------------------------------


def test_overwrite_quiet_and_threads(folder, restore_settings):
    Path("cells.tif").write_text("old")
    result = run("merge", "tiles.npz", "-o", "cells.tif", "--overwrite", "-q", "--threads", 1)
    assert (result.exit_code, result.output) == (0, "")
    assert cellpost.get_num_threads() == 1
    np.testing.assert_array_equal(read_labels("cells.tif"), CELLS)


def test_cuda_that_cannot_be_used(folder, monkeypatch):
    state = {**cellpost.info(), "cuda_usable": False, "cuda_reason": "no driver"}
    monkeypatch.setattr(cellpost, "info", lambda: state)
    assert_fails(run("merge", "tiles.npz", "-o", "m.npy", "--device", "cuda"), 2, "no driver")
    assert "on cpu" in run("merge", "tiles.npz", "-o", "m.npy").stdout
    state = {**state, "cuda_usable": True, "cuda_reason": ""}
    for name in ("torch", "cupy"):
        monkeypatch.setitem(sys.modules, name, None)
    result = run("merge", "tiles.npz", "-o", "new.npy", "--device", "cuda")
    assert_fails(result, 2, "torch nor cupy")


def test_tiles_are_moved(folder, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    moved = []

    def put(array):
        moved.append(array.shape)
        return torch.tensor(np.ascontiguousarray(array))

    state = {**cellpost.info(), "cuda_usable": True, "cuda_reason": ""}
    monkeypatch.setattr(cellpost, "info", lambda: state)
    monkeypatch.setattr(job, "_gpu_arrays", lambda: (put, lambda tensor: tensor.numpy()))
    result = run("merge", "tiles.npz", "-o", "cells.tif")
    assert result.exit_code == 0, result.output
    assert "on cuda" in result.stdout
    assert moved == [(len(GRID), *GRID.tile)]
    np.testing.assert_array_equal(read_labels("cells.tif"), CELLS)


@pytest.mark.gpu
def test_cuda(folder):
    if not cellpost.info()["cuda_usable"]:
        pytest.skip(f"CUDA: {cellpost.info()['cuda_reason']}")
    result = run("merge", "tiles.npz", "-o", "cells.tif", "--device", "cuda")
    if "torch nor cupy" in result.stderr:
        pytest.skip("CUDA: neither torch nor cupy can make arrays on the GPU")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_labels("cells.tif"), CELLS)


def test_a_process(folder):
    done = process("merge", "tiles.npz", "-o", "cells.tif")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{CELLS.max()} cells" in done.stdout
    np.testing.assert_array_equal(read_labels("cells.tif"), CELLS)
    failed = process("merge", "none.npy", "-o", "new.npy")
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    code, shown = on_a_terminal("merge", "tiles.npz", "-o", "again.tif")
    assert code == 0
    assert b"merging on" in shown
