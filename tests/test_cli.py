"""The `cellpost` command: options, files, exit codes, what it prints and what it never prints."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import typer
from PIL import Image
from typer.testing import CliRunner

import cellpost
from cellpost import cli
from cellpost.io import read_labels, read_metadata

N_CELLS = 12


def disks(shape=(60, 80), radius=6):
    """Maps of a grid of round cells, (3, H, W)."""
    y, x = np.indices(shape, np.float32)
    cy, cx = (np.floor(p / 20) * 20 + 10 for p in (y, x))
    towards = np.stack([cy - y, cx - x])
    distance = np.hypot(*towards)
    dP = 5 * towards / np.maximum(distance, 1)
    return np.concatenate([dP, 3 * (radius + 0.5 - distance)[None]]).astype(np.float32)


def balls(shape=(20, 40, 40)):
    """Maps of a grid of spheres, (4, D, H, W)."""
    grid = np.indices(shape, np.float32)
    towards = np.floor(grid / 20) * 20 + 10 - grid
    distance = np.sqrt((towards**2).sum(axis=0))
    dP = 5 * towards / np.maximum(distance, 1)
    return np.concatenate([dP, 3 * (6.5 - distance)[None]]).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with maps.npy in it."""
    monkeypatch.chdir(tmp_path)
    np.save("maps.npy", disks())
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def files():
    return sorted(os.listdir())


def assert_fails(result, code, *parts):
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("cellpost: error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


# ---- options ------------------------------------------------------------------------------------


def test_options_are_those_of_follow_flows():
    given = inspect.signature(cellpost.follow_flows).parameters
    keywords = {name: p.default for name, p in given.items() if p.kind is p.KEYWORD_ONLY}
    del keywords["return_report"]  # --report
    offered = inspect.signature(cli.flows).parameters
    for name, default in keywords.items():
        mine = offered[name].default
        mine = mine.as_python() if hasattr(mine, "as_python") else mine
        assert (mine.value if hasattr(mine, "value") else mine) == default, name
    others = {"maps", "output", "image", "overlay", "report", "axes"}
    others |= {"device", "threads", "overwrite", "quiet"}
    assert set(offered) == set(keywords) | others
    command = typer.main.get_command(cli.app).commands["flows"]
    names = {name for parameter in command.params for name in parameter.opts}
    assert names >= {"--" + name.replace("_", "-") for name in keywords}


def test_options_reach_follow_flows(folder, monkeypatch):
    seen = {}

    def spy(dP, cellprob, **options):
        seen.update(options)
        return real(dP, cellprob, **options)

    real = cellpost.follow_flows
    monkeypatch.setattr(cellpost, "follow_flows", spy)
    wanted = {
        "cellprob_threshold": -0.5,
        "flow_threshold": 0.0,
        "niter": 100,
        "min_size": 3,
        "max_size_fraction": 0.5,
        "fill_holes": "cellpose",
        "fragments": "largest",
        "sampling": "centered",
        "out_dtype": "int32",
    }
    arguments = [f"--{k.replace('_', '-')}={v}" for k, v in wanted.items()]
    result = run("flows", "maps.npy", "-o", "masks.tif", *arguments)
    assert result.exit_code == 0, result.output
    assert seen == {**wanted, "return_report": True}
    assert tifffile.imread("masks.tif").dtype == np.int32
    for text, value in [("true", True), ("false", False)]:
        run("flows", "maps.npy", "-o", "masks.tif", "--overwrite", f"--fill-holes={text}")
        assert seen["fill_holes"] is value


# ---- what it does -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy"])
def test_masks_are_those_of_follow_flows(folder, suffix):
    result = run("flows", "maps.npy", "-o", f"masks{suffix}")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert f"masks{suffix}: {N_CELLS} cells in 60 x 80 pixels" in result.stdout
    assert "dropped: 0 too large, 0 bad flow, 0 too small, 0 nested" in result.stdout
    maps = disks()
    np.testing.assert_array_equal(
        read_labels(f"masks{suffix}"), cellpost.follow_flows(maps[:2], maps[2])
    )


def test_a_volume(folder):
    tifffile.imwrite("maps.tif", balls().swapaxes(0, 1), ome=True, metadata={"axes": "ZCYX"})
    result = run("flows", "maps.tif", "-o", "masks.tif", "--overlay", "overlay.png", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert read_labels("masks.tif").shape == (20, 40, 40)
    assert read_labels("masks.tif").max() == 4
    assert Image.open("overlay.png").size == (40, 40)


def test_axes(folder):
    np.save("maps.npy", np.moveaxis(disks(), 0, -1))
    assert_fails(run("flows", "maps.npy", "-o", "masks.tif"), 2, "maps.npy", "axes=")
    assert run("flows", "maps.npy", "-o", "masks.tif", "--axes=YXC").exit_code == 0
    assert read_labels("masks.tif").max() == N_CELLS


def test_overlay_metadata_and_report(folder):
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save("image.png")
    result = run(
        *("flows", "maps.npy", "-o", "masks.tif", "--min-size", 20, "--device", "cpu"),
        *("--image", "image.png", "--overlay", "overlay.png", "--report", "report.json"),
    )
    assert result.exit_code == 0, result.output
    assert np.asarray(Image.open("overlay.png")).any()
    report = json.loads(Path("report.json").read_text())
    assert report.pop("seconds") > 0
    noted = read_metadata("masks.tif")
    assert noted.pop("software") == "cellpost"
    assert noted == report
    assert noted["version"] == cellpost.__version__
    assert noted["device"] == "cpu"
    assert noted["parameters"]["min_size"] == 20
    assert noted["report"]["n_labels"] == N_CELLS
    with tifffile.TiffFile("masks.tif") as tiff:
        assert tiff.pages.first.is_tiled


def test_overlay_without_an_image_is_drawn_on_the_logit(folder):
    assert run("flows", "maps.npy", "-o", "m.tif", "--overlay", "overlay.png").exit_code == 0
    assert Image.open("overlay.png").size == (80, 60)


def test_no_cells(folder):
    np.save("maps.npy", -np.ones((3, 9, 8), np.float32))
    result = run("flows", "maps.npy", "-o", "masks.tif", "--overlay", "overlay.png")
    assert result.exit_code == 0
    assert "0 cells" in result.stdout
    assert not read_labels("masks.tif").any()


def test_threads(folder, restore_settings):
    assert run("flows", "maps.npy", "-o", "masks.tif", "--threads", 1).exit_code == 0
    assert cellpost.get_num_threads() == 1
    assert_fails(run("flows", "maps.npy", "-o", "m.tif", "--threads", 0), 2)


def test_version_info_and_help():
    assert run("--version").stdout == f"cellpost {cellpost.__version__}\n"
    text = run("info").stdout
    for key in cellpost.info():
        assert f"{key}: " in text
    assert run().exit_code in (0, 2)  # the help, with this or that code by typer's version
    assert "flows" in run("--help").stdout
    assert run("flows", "-h").exit_code == 0


# ---- what it refuses ----------------------------------------------------------------------------


def write_bad(name):
    content = {
        "text.tif": b"dY,dX,cellprob\n" * 99,
        "cut.npy": Path("maps.npy").read_bytes()[:5000],
        "empty.npy": b"",
    }
    if name in content:
        Path(name).write_bytes(content[name])
    elif name == "two.npy":
        np.save(name, disks()[:2])
    elif name == "integers.npy":
        np.save(name, disks().astype(np.int16))
    elif name == "planes.tif":
        tifffile.imwrite(name, disks(), imagej=True, metadata={"axes": "ZYX"})


@pytest.mark.parametrize(
    "name",
    ["none.tif", ".", "text.tif", "cut.npy", "empty.npy", "two.npy", "integers.npy", "planes.tif"],
)
def test_bad_maps(folder, name):
    write_bad(name)
    before = files()
    assert_fails(run("flows", name, "-o", "masks.tif"), 2, f"{name}: expected", "; got ")
    assert files() == before


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-o", "none/masks.tif"], "none"),
        (["-o", "."], "folder"),
        (["-o", "maps.npy/masks.tif"], "folder"),
        (["-o", "old.tif"], "exists"),
        (["-o", "masks.jpg"], ".tif"),
        (["-o", "maps.npy", "--overwrite"], "twice"),
        (["-o", "m.png", "--overlay", "m.png"], "twice"),
        (["-o", "m.tif", "--overlay", "o.tif"], ".png"),
        (["-o", "m.tif", "--overlay", "none/o.png"], "none"),
        (["-o", "m.tif", "--report", "none/r.json"], "none"),
        (["-o", "m.tif", "--image", "image.png"], "--overlay"),
        (["-o", "m.tif", "--overlay", "o.png", "--image", "none.png"], "none.png"),
        (["-o", "m.tif", "--overlay", "o.png", "--image", "image.png"], "shape"),
        (["-o", "m.tif", "--out-dtype", "float32"], "float32"),
        (["-o", "m.tif", "--out-dtype", "nonsense"], "nonsense"),
        (["-o", "m.tif", "--axes", "CZYX"], "axes"),
        (["-o", "m.tif", "--niter=-1"], "niter"),
        (["-o", "m.tif", "--cellprob-threshold", "nan"], "cellprob_threshold"),
        (["-o", "m.tif", "--flow-threshold", "nan"], "flow_threshold"),
        (["-o", "m.tif", "--max-size-fraction=-1"], "max_size_fraction"),
    ],
)
def test_bad_arguments(folder, arguments, part):
    Path("old.tif").write_text("precious")
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save("image.png")
    before = files()
    assert_fails(run("flows", "maps.npy", *arguments), 2, part)
    assert files() == before
    assert Path("old.tif").read_text() == "precious"


def test_bad_usage_of_the_command_line(folder):
    for arguments in (
        ["maps.npy"],
        ["-o", "m.tif"],
        ["maps.npy", "-o", "m.tif", "--fill-holes", "maybe"],
        ["maps.npy", "-o", "m.tif", "--niter", "many"],
        ["maps.npy", "-o", "m.tif", "--nonsense"],
    ):
        result = run("flows", *arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.output
    assert files() == ["maps.npy"]


def test_overwrite(folder):
    Path("masks.tif").write_text("old")
    assert run("flows", "maps.npy", "-o", "masks.tif", "--overwrite").exit_code == 0
    assert read_labels("masks.tif").max() == N_CELLS


def test_too_many_cells_for_the_dtype(folder):
    np.save("maps.npy", disks((400, 400)))
    assert_fails(run("flows", "maps.npy", "-o", "masks.tif", "--out-dtype", "uint8"), 1, "uint8")
    assert files() == ["maps.npy"]


@pytest.mark.parametrize(
    ("where", "error", "part"),
    [
        ("cellpost.follow_flows", MemoryError(), "MemoryError"),
        ("cellpost.follow_flows", RuntimeError("CUDA error:\n out of memory"), "CUDA error: out"),
        ("tifffile.imwrite", OSError(28, "No space left on device"), "No space"),
        ("os.replace", OSError(5, "Input/output error"), "Input/output"),
        ("PIL.Image.Image.save", OSError(28, "No space left on device"), "No space"),
    ],
)
def test_failures_while_computing_and_writing(folder, monkeypatch, where, error, part):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(where, fail)
    result = run("flows", "maps.npy", "-o", "masks.tif", "--overlay", "overlay.png")
    assert_fails(result, 1, part)
    assert files() == (["maps.npy", "masks.tif"] if "Image" in where else ["maps.npy"])


# ---- devices ------------------------------------------------------------------------------------


def test_cuda_that_cannot_be_used(folder, monkeypatch):
    state = {**cellpost.info(), "cuda_usable": False, "cuda_reason": "no driver"}
    monkeypatch.setattr(cellpost, "info", lambda: state)
    assert_fails(run("flows", "maps.npy", "-o", "m.tif", "--device", "cuda"), 2, "no driver")
    result = run("flows", "maps.npy", "-o", "m.tif", "--device", "auto")
    assert "on cpu" in result.stdout


def test_cuda_without_a_library_for_arrays(folder, monkeypatch):
    state = {**cellpost.info(), "cuda_usable": True, "cuda_reason": ""}
    monkeypatch.setattr(cellpost, "info", lambda: state)
    for name in ("torch", "cupy"):
        monkeypatch.setitem(sys.modules, name, None)
    assert_fails(run("flows", "maps.npy", "-o", "m.tif", "--device", "cuda"), 2, "torch nor cupy")
    assert "on cpu" in run("flows", "maps.npy", "-o", "m.tif").stdout


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cuda", "auto"])
def test_cuda(folder, name):
    if not cellpost.info()["cuda_usable"]:
        pytest.skip(f"CUDA: {cellpost.info()['cuda_reason']}")
    result = run("flows", "maps.npy", "-o", "cuda.tif", "--device", name)
    if "on cpu" in result.stdout or "torch nor cupy" in result.stderr:
        pytest.skip("CUDA: neither torch nor cupy can make arrays on the GPU")
    assert result.exit_code == 0, result.output
    run("flows", "maps.npy", "-o", "cpu.tif", "--device", "cpu")
    np.testing.assert_array_equal(read_labels("cuda.tif"), read_labels("cpu.tif"))


# ---- a real process -----------------------------------------------------------------------------


COMMAND = [sys.executable, "-m", "cellpost"]
HERE = str(Path(cellpost.__file__).parents[1])  # the package under test, installed or not
ENVIRONMENT = {**os.environ, "PYTHONPATH": HERE, "TERM": "xterm"}


def process(*arguments):
    command = [*COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)


def test_a_process(folder):
    done = process("flows", "maps.npy", "-o", "masks.tif")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{N_CELLS} cells" in done.stdout
    assert process("flows", "maps.npy", "-o", "masks.tif", "--overwrite", "-q").stdout == ""
    write_bad("cut.npy")
    failed = process("flows", "cut.npy", "-o", "new.tif")
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert "Traceback" not in failed.stderr
    assert files() == ["cut.npy", "maps.npy", "masks.tif"]


def on_a_terminal(*arguments):
    """(exit code, what a terminal at stderr is sent)."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [*COMMAND, *arguments]
    with subprocess.Popen(
        command, stderr=theirs, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as running:
        os.close(theirs)
        shown = b""
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
            if not chunk:
                break
            shown += chunk
        code = running.wait()
    os.close(ours)
    return code, shown


def test_progress_on_a_terminal_only(folder):
    code, shown = on_a_terminal("flows", "maps.npy", "-o", "masks.tif")
    assert code == 0
    assert b"following flows on" in shown
    command = "flows", "maps.npy", "-o", "masks.tif", "--overwrite", "--quiet"
    assert on_a_terminal(*command) == (0, b"")


def test_errors_on_a_terminal_have_a_line_of_their_own(folder):
    code, shown = on_a_terminal("flows", "none.npy", "-o", "masks.tif")
    assert code == 2
    assert b"reading" in shown
    assert re.search(rb"(\n|\x1b\[2K)cellpost: error: none\.npy[^\n]*\n$", shown)
