"""`cellpost segment`: images, networks of every kind, options, report. Shared: test_cli.py."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, get_args

import numpy as np
import pytest
import tifffile
from PIL import Image
from test_cli import assert_fails, files, on_a_terminal, process, run

import cellpost
from cellpost import cli, models, tiles_grid
from cellpost.cli.segment import Average, Beyond, Head
from cellpost.io import read_labels, read_metadata

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")
TILES = ("--tile", 128, "--overlap", 0.5)

NETWORKS = '''
"""Networks that a user may have."""

import numpy as np
from cells import brightness


def maps(tiles):
    """What is in the image: dY, dX, logit."""
    assert isinstance(tiles, np.ndarray)
    return tiles


def bright(tiles):
    """Label images: what is brighter than the background."""
    from scipy.ndimage import label  # imported as it runs

    return np.stack([label(brightness(tile) > 60)[0] for tile in tiles])


def hover(tiles):
    n, _, h, w = tiles.shape
    return np.concatenate([np.clip(tiles[:, 2:], 0, 1), -tiles[:, 1::-1] / 5], axis=1)


def inner(tiles):
    return tiles[:, :, 1:-1, 1:-1]


def broken(tiles):
    raise RuntimeError("out of memory\\nor so")


def wrong(tiles):
    return tiles[:, :2]


class Network:
    def __call__(self, tiles):
        return tiles


class Needs:
    def __init__(self, weights):
        pass


class Nested:
    maps = staticmethod(maps)


number = 5
'''


@pytest.fixture(scope="module")
def cells(nuclei2d):
    return cellpost.relabel(nuclei2d.astype(np.int32))


@pytest.fixture(scope="module")
def stack(cells):
    """Flow and logit of real nuclei, (3, 512, 512)."""
    logit = np.where(cells > 0, 5, -5)[None]
    return np.concatenate([5 * cellpost.masks_to_flows(cells), logit]).astype(np.float32)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A network of one 1 x 1 convolution, which gives what it sees, as TorchScript."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = tmp_path_factory.mktemp("networks") / "same.pt"
    network = torch.nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.eye(3)[:, :, None, None])
    torch.jit.save(torch.jit.script(network), str(path))
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch, stack, request):
    """A current folder with an image of three channels, the real one, and networks.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("networks", "cells"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    tifffile.imwrite("stack.tif", stack, metadata={"axes": "CYX"}, photometric="minisblack")
    Path("networks.py").write_text(NETWORKS)
    Path("cells.py").write_text("def brightness(tile):\n    return tile[0]\n")
    yield tmp_path
    for name in ("networks", "cells"):
        sys.modules.pop(name, None)


def whole(stack, **options):
    return cellpost.follow_flows(stack[:2], stack[2], **options)


# ---- options ------------------------------------------------------------------------------------


def test_options_are_those_of_segment():
    given = inspect.signature(cellpost.segment).parameters
    keywords = {name: p.default for name, p in given.items() if p.kind is p.KEYWORD_ONLY}
    del keywords["progress"], keywords["postprocess"]  # on a terminal; a function
    offered = inspect.signature(cli.segment).parameters
    several = {"keys": "key", "weights": "weight"}
    for name, default in keywords.items():
        mine = offered[several.get(name, name)].default
        mine = getattr(mine, "value", mine)
        other = {"tile": None, "normalize": "none", "device": "auto"}.get(name, default)
        assert mine == other, name
    others = {"image", "model", "output", "overlay", "report", "set_", "out_dtype", "threads"}
    others |= {"overwrite", "quiet", "margin"}
    assert set(offered) == {several.get(name, name) for name in keywords} | others
    average = inspect.signature(cellpost.segment, eval_str=True).parameters["average"].annotation
    for choices, values in ((Head, models.Head), (Beyond, tiles_grid.Padding), (Average, average)):
        assert [choice.value for choice in choices] == list(get_args(values))


def test_networks_of_smaller_maps(folder, stack):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    network = torch.nn.Conv2d(3, 3, 3, bias=False)
    with torch.no_grad():
        network.weight.zero_()
        for channel in range(3):
            network.weight[channel, channel, 1, 1] = 1
    torch.jit.save(torch.jit.script(network), "inner.pt")
    options = ["--tile", "50", "--padding", "edge"]
    result = run(
        "segment", "stack.tif", "--model", "inner.pt", "-o", "c.tif", *options, "--margin", 1
    )
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(tifffile.imread("c.tif"), whole(stack))
    # A function beside it gives NumPy's arrays: these are averaged with the script's.
    mixed = ["--model", "inner.pt", "--model", "networks:inner", "-o", "d.tif", "--margin", "1"]
    assert run("segment", "stack.tif", *mixed, *options).exit_code == 0
    np.testing.assert_array_equal(tifffile.imread("d.tif"), whole(stack))
    for margin, message in [(-1, "margin"), (25, "tile"), (2, "model")]:
        wrong = run("segment", "stack.tif", "--model", "inner.pt", "-o", "e.tif", *options,
                    "--margin", margin)  # fmt: skip
        assert_fails(wrong, 2, message)


def test_options_reach_segment(folder, script, monkeypatch):
    seen = {}

    def spy(image, networks, **options):
        seen.update(options, n_networks=len(networks))
        return real(image, networks, **options)

    real = cellpost.segment
    monkeypatch.setattr(cellpost, "segment", spy)
    result = run(
        *("segment", "stack.tif", "-o", "cells.tif", "--model", script, "--model", script),
        *("--weight", 2, "--weight", 0.5, "--tile", 128, "--tile", 96, "--overlap-px", 20, 30),
        *("--batch-size", 3, "--channel-axis", -1, "--normalize", "none", "--limits", 0, 1),
        *("--scale", 1, "--augment", "flips"),
        *("--average", "probabilities", "--window", "cosine", "--window-sigma", 0.2),
        *("--padding", "reflect", "--out-dtype", "int32"),
        *("--set", "min_size=40", "--set", "fill_holes=false", "--set", "sampling=centered"),
    )
    assert result.exit_code == 0, result.output
    assert callable(seen.pop("progress"))
    assert seen == {
        "n_networks": 2,
        "head": "flows",
        "tile": (128, 96),
        "overlap": None,
        "overlap_px": (20, 30),
        "batch_size": 3,
        "channel_axis": 2,
        "normalize": None,
        "limits": (0.0, 1.0),
        "scale": 1.0,
        "model_diameter": None,
        "augment": "flips",
        "average": "probabilities",
        "weights": [2.0, 0.5],
        "window": "cosine",
        "window_sigma": 0.2,
        "padding": "reflect",
        "out_dtype": "int32",
        "min_size": 40,
        "fill_holes": False,
        "sampling": "centered",
        "return_report": True,
    }
    assert tifffile.imread("cells.tif").dtype == np.int32


@pytest.mark.parametrize(
    ("flags", "tile"),
    [((), 512), (("--tile", "train4ever"), "train4ever"), (("--tile", "cell_size"), "cell_size")],
)
def test_tiles_may_be_chosen(folder, stack, flags, tile):
    result = run(
        "segment", "stack.tif", "--model", "networks:maps", "-o", "c.tif", *flags,
        "--report", "r.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_labels("c.tif"), whole(stack))
    assert json.loads(Path("r.json").read_text())["parameters"]["tile"] == tile


# ---- networks -----------------------------------------------------------------------------------


def test_a_script_finds_real_nuclei(folder, script, stack):
    outputs = ("-o", "cells.tif", "--overlay", "cells.png", "--report", "report.json")
    result = run("segment", "stack.tif", "--model", script, *outputs, *TILES)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    labels, found = whole(stack, return_report=True)
    assert labels.max() > 100
    np.testing.assert_array_equal(read_labels("cells.tif"), labels)
    first, second = result.stdout.splitlines()
    assert first.startswith(f"cells.tif: {labels.max()} cells in 512 x 512 pixels, ")
    assert first.endswith(" s on cpu")
    assert second == (
        f"dropped: {found.n_too_large} too large, {found.n_bad_flow} bad flow, "
        f"{found.n_too_small} too small, {found.n_nested} nested"
    )
    assert Image.open("cells.png").size == (512, 512)
    report = json.loads(Path("report.json").read_text())
    assert report.pop("seconds") > 0
    noted = read_metadata("cells.tif")
    assert noted.pop("software") == "cellpost"
    assert noted == report
    assert report["version"] == cellpost.__version__
    assert report["function"] == "segment"
    assert report["image"] == "stack.tif"
    assert report["models"] == [str(script)]
    assert report["n_cells"] == labels.max() == report["report"]["n_labels"]
    assert report["parameters"]["tile"] == 128
    assert report["parameters"]["channel_axis"] == 2


@pytest.mark.parametrize(
    "spec", ["networks:maps", "networks:Network", "networks:Nested.maps", "networks:Nested"]
)
def test_networks_by_module_and_name(folder, stack, spec):
    result = run("segment", "stack.tif", "--model", spec, "-o", "cells.tif", *TILES)
    if spec == "networks:Nested":
        assert_fails(result, 2, "--model networks:Nested", "called")
        return
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_labels("cells.tif"), whole(stack))


def test_a_package_in_the_working_directory_and_a_module_from_it(folder, stack):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    Path("package").mkdir()
    Path("package/nets.py").write_text("import torch\n\nsame = torch.nn.Identity()\n")
    result = run("segment", "stack.tif", "--model", "package.nets:same", "-o", "cells.tif", *TILES)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_labels("cells.tif"), whole(stack))
    assert isinstance(sys.modules["package.nets"].same, torch.nn.Identity)


def test_ensembles_of_several_kinds(folder, script, stack):
    specs = ("--model", script, "--model", "networks:maps", "--weight", 1, 3)
    result = run("segment", "stack.tif", *specs, "-o", "cells.tif", *TILES)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_labels("cells.tif"), whole(stack))
    result = run("segment", "stack.tif", *specs, 2, "-o", "new.tif", *TILES)
    assert_fails(result, 2, "weights: expected 2")


class Session:
    """What cellpost uses of ONNX Runtime's."""

    made: ClassVar[list] = []

    def __init__(self, path, sess_options=None, providers=None):
        if Path(path).read_bytes() != b"onnx":
            raise RuntimeError("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF\nProtobuf parsing failed")
        self.made.append((sess_options, providers))

    def get_inputs(self):
        return [SimpleNamespace(name="tiles", type="tensor(float)")]

    def run(self, outputs, feed):
        assert outputs is None
        return [feed["tiles"]]


def stand_in(providers=("CPUExecutionProvider",)):
    return SimpleNamespace(
        InferenceSession=Session,
        SessionOptions=SimpleNamespace,
        get_available_providers=lambda: list(providers),
    )


def test_onnx(folder, stack, monkeypatch, restore_settings):
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in())
    Path("same.onnx").write_bytes(b"onnx")
    arguments = ("segment", "stack.tif", "--model", "same.onnx", *TILES, "--overwrite")
    result = run(*arguments, "-o", "cells.tif", "--threads", 1)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_labels("cells.tif"), whole(stack))
    told, providers = Session.made[-1]
    assert (told.intra_op_num_threads, providers) == (1, ["CPUExecutionProvider"])
    assert "on cpu" in result.stdout
    assert_fails(run(*arguments, "-o", "c.tif", "--device", "cuda"), 2, "onnxruntime", "CUDA")
    offered = ("CUDAExecutionProvider", "CPUExecutionProvider")
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in(offered))
    for device, place in (("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")):
        result = run(*arguments, "-o", "cells.tif", "--device", device)
        assert f"on {place}" in result.stdout
        assert Session.made[-1][1] == list(offered if place == "cuda" else offered[1:])
    Path("same.onnx").write_bytes(b"text")
    assert_fails(run(*arguments, "-o", "c.tif"), 2, "same.onnx: expected an ONNX model", "PROTOBUF")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert_fails(run(*arguments, "-o", "c.tif"), 2, "needs the package onnxruntime")


def test_scripts_without_torch(folder, script, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("segment", "stack.tif", "--model", script, "-o", "cells.tif")
    assert_fails(result, 2, "same.pt", "needs the package torch")


# ---- heads --------------------------------------------------------------------------------------


def test_labels_of_the_real_image(folder, request):
    path = Path(request.config.getoption("--data")) / "nuclei2d_image.tif"
    if not path.is_file():
        pytest.skip(f"no real data: {path.name} is not in the data folder")
    flags = ("--head", "labels", "--set", "min_size=30", "--overlay", "cells.png")
    result = run("segment", path, "--model", "networks:bright", "-o", "cells.tif", *TILES, *flags)
    assert result.exit_code == 0, result.output
    networks = sys.modules["networks"]
    wanted = cellpost.segment(
        tifffile.imread(path), networks.bright, head="labels", tile=128, overlap=0.5, min_size=30
    )
    np.testing.assert_array_equal(read_labels("cells.tif"), wanted)
    assert wanted.max() > 50
    for why in ("low score", "without area", "outside", "hidden", "too small"):
        assert why in result.stdout.splitlines()[1]
    assert np.asarray(Image.open("cells.png")).any()


def test_hover(folder):
    flags = ("--head", "hover", "--set", "min_size=5", "--set", "ksize=5")
    result = run("segment", "stack.tif", "--model", "networks:hover", "-o", "n.tif", *TILES, *flags)
    assert result.exit_code == 0, result.output
    assert read_labels("n.tif").max() > 50
    assert "regions without a marker" in result.stdout


def test_volumes(folder):
    grid = np.indices((20, 40, 40), np.float32)
    towards = np.floor(grid / 20) * 20 + 10 - grid
    distance = np.sqrt((towards**2).sum(axis=0))
    maps = [*(5 * towards / np.maximum(distance, 1)), 3 * (6.5 - distance)]
    np.save("volume.npy", np.stack(maps))
    arguments = ("--model", "networks:maps", "--tile", 20, 32, 32, "--overlay", "balls.png")
    result = run("segment", "volume.npy", "-o", "balls.tif", *arguments)
    assert result.exit_code == 0, result.output
    assert "4 cells in 20 x 40 x 40 pixels" in result.stdout
    assert Image.open("balls.png").size == (40, 40)


# ---- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "axis", "flags"),
    [
        ("first.npy", 0, ()),
        ("last.npy", 2, ()),
        ("first.npy", 0, ("--channel-axis", 0)),
        ("last.npy", 2, ("--channel-axis", -1)),
        ("middle.npy", 1, ("--channel-axis", 1)),
        ("named.tif", 2, ()),
        ("ome.tif", 2, ()),
    ],
)
def test_channels_are_found(folder, stack, name, axis, flags):
    if name.endswith(".npy"):
        np.save(name, np.moveaxis(stack, 0, axis))
    elif name == "named.tif":
        tifffile.imwrite(name, stack, metadata={"axes": "CYX"}, photometric="minisblack")
    else:
        tifffile.imwrite(name, stack, ome=True, metadata={"axes": "CYX"}, photometric="minisblack")
    outputs = ("-o", "cells.tif", "--overlay", "cells.png", "--report", "r.json")
    result = run("segment", name, "--model", "networks:maps", *outputs, *TILES, *flags)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_labels("cells.tif"), whole(stack))
    assert Image.open("cells.png").size == (512, 512)
    assert json.loads(Path("r.json").read_text())["parameters"]["channel_axis"] == axis


def test_many_named_channels(folder, stack):
    """Of a TIFF that names them, as many as there are."""
    Path("networks.py").write_text("def first(tiles):\n    return tiles[:, :3]\n")
    six = np.concatenate([stack, stack])
    tifffile.imwrite("six.tif", six, metadata={"axes": "CYX"}, photometric="minisblack")
    result = run("segment", "six.tif", "--model", "networks:first", "-o", "cells.tif", *TILES)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_labels("cells.tif"), whole(stack))


def test_colour_and_grey_pictures(folder):
    Path("networks.py").write_text(
        "import numpy as np\n\n\ndef red(tiles):\n    return (tiles[:, 0] > 128).astype(np.int32)\n"
    )
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[10:20, 10:30, 0] = 255
    Image.fromarray(picture).save("colour.png")
    Image.fromarray(picture[..., 0]).save("grey.png")
    for name in ("colour.png", "grey.png"):
        flags = ("--head", "labels", "--overwrite", "--tile", 32)
        result = run("segment", name, "--model", "networks:red", "-o", "cells.png", *flags)
        assert result.exit_code == 0, result.output
        np.testing.assert_array_equal(read_labels("cells.png"), picture[..., 0] > 0)


# ---- what it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("none.pt", ["none.pt: expected a TorchScript", "no file"]),
        ("text.pt", ["text.pt: expected a TorchScript", "cannot be loaded"]),
        ("weights.pth", ["weights.pth: expected a TorchScript", "cannot be loaded"]),
        ("networks", ["--model networks: expected a TorchScript", "package.module:name"]),
        ("none:maps", ["--model none:maps", "No module named 'none'"]),
        ("networks:none", ["--model networks:none", "none"]),
        ("networks:", ["--model networks:"]),
        (":maps", ["--model :maps"]),
        ("networks:number", ["--model networks:number", "called", "int"]),
        ("networks:Needs", ["--model networks:Needs", "weights"]),
        ("fails:maps", ["--model fails:maps", "ZeroDivisionError"]),
    ],
)
def test_bad_networks(folder, spec, parts):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    Path("text.pt").write_text("weights")
    Path("fails.py").write_text("1 / 0\n")
    torch.save({"weight": torch.zeros(3)}, "weights.pth")
    before = files()
    assert_fails(run("segment", "stack.tif", "--model", spec, "-o", "cells.tif"), 2, *parts)
    assert set(files()) - {"__pycache__"} == set(before)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-o", "none/cells.tif"], "none"),
        (["-o", "old.tif"], "exists"),
        (["-o", "cells.jpg"], ".tif"),
        (["-o", "stack.tif", "--overwrite"], "twice"),
        (["-o", "c.tif", "--overlay", "c.jpg"], ".png"),
        (["-o", "c.tif", "--out-dtype", "float32"], "float32"),
        (["-o", "c.tif", "--set", "min_sise=3"], "--set min_sise=3: expected NAME=VALUE"),
        (["-o", "c.tif", "--set", "min_size"], "cellprob_threshold, "),
        (["-o", "c.tif", "--set", "min_size=1", "--set", "min_size=2"], "once"),
        (["-o", "c.tif", "--set", "tile=3"], "option of follow_flows"),
        (["-o", "c.tif", "--set", "out_dtype=int32"], "option of follow_flows"),
        (["-o", "c.tif", "--head", "hover", "--set", "niter=3"], "option of hover_watershed"),
        (["-o", "c.tif", "--head", "labels", "--set", "niter=3"], "merge_detections and paste"),
        (["-o", "c.tif", "--set", "min_size=many"], "min_size"),
        (["-o", "c.tif", "--set", "niter=-1"], "niter"),
        (["-o", "c.tif", "--tile", "large"], "--tile: expected pixels"),
        (["-o", "c.tif", "--tile", 0], "tile"),
        (["-o", "c.tif", "--tile", 5, 5, 5, 5], "axes"),
        (["-o", "c.tif", "--overlap", 1], "overlap"),
        (["-o", "c.tif", "--overlap", 0.5, "--overlap-px", 3], "overlap"),
        (["-o", "c.tif", "--batch-size", 0], "batch_size"),
        (["-o", "c.tif", "--channel-axis", 3], "channel_axis"),
        (["-o", "c.tif", "--augment", "everything"], "everything"),
        (["-o", "c.tif", "--scale", 0], "scale"),
        (["-o", "c.tif", "--weight", 1, 1], "weights"),
        (["-o", "c.tif", "--amp"], "--amp"),
        (["-o", "c.tif", "--key", "none"], "none"),
        (["-o", "c.tif", "--threads", 0], "--threads"),
        (["-o", "c.tif", "--model", "networks:wrong", "--weight", 1, 1], "channels"),
    ],
)
def test_bad_arguments(folder, arguments, part):
    Path("old.tif").write_text("precious")
    before = files()
    result = run("segment", "stack.tif", "--model", "networks:maps", *arguments)
    assert_fails(result, 2, part)
    assert set(files()) - {"__pycache__"} == set(before)
    assert Path("old.tif").read_text() == "precious"


def test_a_network_is_not_overwritten(folder, script):
    Path("same.pt").write_bytes(script.read_bytes())
    for flags in (("-o", "same.pt"), ("-o", "c.tif", "--report", "same.pt")):
        result = run("segment", "stack.tif", "--model", "same.pt", *flags, "--overwrite")
        assert_fails(result, 2, "twice")
    assert Path("same.pt").read_bytes() == script.read_bytes()


@pytest.mark.parametrize("name", ["none.tif", ".", "text.tif", "five.npy"])
def test_bad_images(folder, name):
    Path("text.tif").write_text("an image")
    np.save("five.npy", np.zeros((2, 2, 2, 2, 2)))
    result = run("segment", name, "--model", "networks:maps", "-o", "c.tif")
    assert_fails(result, 2, f"{name}: expected", "; got ")


def test_channels_that_cannot_be_told(folder):
    np.save("some.npy", np.zeros((30, 40, 50), np.float32))
    result = run("segment", "some.npy", "--model", "networks:maps", "-o", "c.tif")
    assert_fails(result, 2, "channel_axis: expected to be told", "(30, 40, 50)")


@pytest.mark.parametrize("output", ["cells.tif", "cells.npy", "cells.png"])
def test_networks_that_fail_leave_no_file(folder, output):
    Path(output).write_text("precious")
    flags = ("--overwrite", "--report", "r.json", "--overlay", "o.png")
    before = files()
    result = run("segment", "stack.tif", "--model", "networks:broken", "-o", output, *flags)
    assert_fails(result, 1, "out of memory", "tile 0")
    result = run("segment", "stack.tif", "--model", "networks:wrong", "-o", output, *flags)
    assert_fails(result, 2, "expected 3 channels", "tile 0")
    assert set(files()) - {"__pycache__"} == set(before)
    assert Path(output).read_text() == "precious"


def test_a_script_that_fails_leaves_no_file(folder, script):
    np.save("grey.npy", np.zeros((64, 64), np.float32))
    result = run("segment", "grey.npy", "--model", script, "-o", "cells.tif")
    assert_fails(result, 1, "tile 0")
    assert "cells.tif" not in files()


def test_bad_usage_of_the_command_line(folder):
    model = ("--model", "networks:maps")
    for arguments in (
        ["-o", "c.tif"],
        [*model],
        [*model, "-o", "c.tif", "--head", "boxes"],
        [*model, "-o", "c.tif", "--normalize", "zscore"],
        [*model, "-o", "c.tif", "--limits", 3],
        [*model, "-o", "c.tif", "--average", "median"],
    ):
        result = run("segment", "stack.tif", *arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.output
    assert "c.tif" not in files()


# ---- devices ------------------------------------------------------------------------------------


def test_cuda_that_cannot_be_used(folder, script, monkeypatch):
    state = {**cellpost.info(), "cuda_usable": False, "cuda_reason": "no driver"}
    monkeypatch.setattr(cellpost, "info", lambda: state)
    for spec in (script, "networks:maps"):
        arguments = ("segment", "stack.tif", "--model", spec, *TILES, "--overwrite")
        result = run(*arguments, "-o", "c.tif", "--device", "cuda")
        assert_fails(result, 2, "--device cuda: no driver")
        assert "on cpu" in run(*arguments, "-o", "c.tif").stdout
    state["cuda_usable"] = True
    torch = sys.modules["torch"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_fails(run(*arguments, "-o", "c.tif", "--device", "cuda"), 2, "torch sees no GPU")
    assert "on cpu" in run(*arguments, "-o", "c.tif").stdout
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_fails(run(*arguments, "-o", "c.tif", "--device", "cuda"), 2, "torch")


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_cuda(folder, script, stack, device):
    torch = sys.modules["torch"]
    if not cellpost.info()["cuda_usable"] or not torch.cuda.is_available():
        pytest.skip(f"CUDA: {cellpost.info()['cuda_reason'] or 'torch cannot use it'}")
    arguments = ("--model", script, "-o", "cells.tif", "--device", device, *TILES)
    result = run("segment", "stack.tif", *arguments)
    assert result.exit_code == 0, result.output
    assert "on cuda" in result.stdout
    np.testing.assert_array_equal(read_labels("cells.tif"), whole(stack))


def test_threads(folder, script, restore_settings):
    torch = sys.modules["torch"]
    n = torch.get_num_threads()
    try:
        arguments = ("--model", script, "-o", "cells.tif", "--threads", 1, "-q", *TILES)
        result = run("segment", "stack.tif", *arguments)
        assert (result.exit_code, result.output) == (0, "")
        assert (cellpost.get_num_threads(), torch.get_num_threads()) == (1, 1)
    finally:
        torch.set_num_threads(n)


# ---- a real process -----------------------------------------------------------------------------


def test_a_process(folder, script, stack):
    arguments = ("segment", "stack.tif", "--tile", "128", "--overlap", "0.5", "-o")
    done = process(*arguments, "cells.tif", "--model", str(script))
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_array_equal(read_labels("cells.tif"), whole(stack))
    failed = process(*arguments, "new.tif", "--model", "networks:broken")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "Traceback" not in failed.stderr
    code, shown = on_a_terminal(*arguments, "new.tif", "--model", "networks:maps")
    assert code == 0
    n = len(cellpost.TileGrid((512, 512), tile=128, overlap=0.5))
    assert f"{n}/{n}".encode() in shown
    assert b"segmenting on cpu" in shown
