"""The example scripts run and say what is so; the pages quote them as they are."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import peers
import pytest
import tifffile

from cellpost import metrics, synthetic

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {path.stem: path for path in (ROOT / "examples").glob("*.py")}
PAGES = {name: ROOT / "docs" / f"{name}.md" for name in SCRIPTS}
NEEDS = {
    "own_model": [],
    "use_cellpose": ["torch", "cellpose"],
    "use_detectors": [],
    "use_hovernet": [],
    "use_monai": ["torch", "monai", "skimage"],
}
# Of the lines that tell a number of cells, the least and the most of the truth's number: simulated
# networks err little, the smoothing stand-ins take touching nuclei for one.
CELLS = {
    "own_model": {
        "tiles of 256": (0.7, 1),
        "mean of three views": (0.7, 1),
        "a function of one's own on the whole map": (0.6, 1),
        "truth": (1, 1),
    },
    "use_cellpose": {
        "Cellpose alone": (0.7, 1),
        "accelerated": (0.7, 1),
        "another threshold": (0.7, 1),
    },
    "use_detectors": {"one tile": (0.1, 0.25), "all tiles": (0.95, 1.05), "truth": (1, 1)},
    "use_hovernet": {"process": (0.95, 1.05), "tiles of 256": (0.95, 1.05)},
    "use_monai": {"MONAI's post-processing": (0.9, 1.1), "cellpost's post-processing": (0.9, 1.1)},
}
N_FLAGS = {
    "own_model": 1,
    "use_cellpose": 1,
    "use_detectors": 1,
    "use_hovernet": 1,
    "use_monai": 3,
}


def skip_without(name):
    for package in NEEDS[name]:
        if package == "cellpose":
            try:
                peers.cellpose()
            except ImportError as error:
                pytest.skip(f"cellpose cannot be imported: {error}")
        else:
            pytest.importorskip(package)


@functools.cache
def output_of(name, *arguments, path=""):
    """What a script prints, run as a user does; only cellpose may need help to be imported."""
    command = [sys.executable, str(SCRIPTS[name])]
    if "cellpose" in NEEDS[name]:
        start = (
            f"import runpy, sys; del sys.argv[0]; sys.path.append({str(ROOT / 'tests')!r}); "
            "import peers; peers.cellpose(); runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        command = [sys.executable, "-c", start, str(SCRIPTS[name])]
    paths = [part for part in (path, os.environ.get("PYTHONPATH", "")) if part]
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(output):
    """How many cells or nuclei each line speaks of, by the line's beginning."""
    found = {}
    for line in output.replace("\n    ", " ").splitlines():
        how_many = re.search(r"(\d+) (?:cells|nuclei)\b", line)
        if how_many:
            found[line.split(":")[0]] = int(how_many[1])
    return found


def flags(output):
    return re.findall(r"\bsame [^:]*: (True|False)$", output, re.MULTILINE)


def test_every_script_is_tested_and_has_its_page():
    assert set(SCRIPTS) == set(NEEDS) == set(CELLS) == set(N_FLAGS)
    assert {path.stem for path in PAGES.values() if path.is_file()} == set(SCRIPTS)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_script_runs_by_itself(name):
    skip_without(name)
    output = output_of(name)
    assert output.startswith("network: ")  # it says that none was run
    assert flags(output) == ["True"] * N_FLAGS[name]
    side = 512 if name == "use_cellpose" else 700
    truth = synthetic.Scene((side, side), "nuclei", seed=1).labels[...]
    n_true = np.count_nonzero(np.unique(truth))
    found = numbers(output)
    assert set(found) == set(CELLS[name])
    for line, (least, most) in CELLS[name].items():
        assert least * n_true <= found[line] <= most * n_true, line
    if name == "use_cellpose":
        assert found["accelerated"] == found["Cellpose alone"]
    if name == "use_monai":
        assert len(set(found.values())) == 1


@pytest.mark.parametrize(
    ("name", "least"), [("own_model", 0.8), ("use_hovernet", 0.95), ("use_detectors", 0.97)]
)
def test_scores_are_what_the_stand_ins_are_worth(name, least):
    score = float(re.search(r"F1 [a-z ]*:? ?([\d.]+)$", output_of(name), re.MULTILINE)[1])
    assert least <= score <= 1


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_quotes_the_script(name):
    script = SCRIPTS[name].read_text(encoding="utf-8")
    quoted = re.findall(r"```python\n(.*?)```", PAGES[name].read_text(encoding="utf-8"), re.DOTALL)
    assert quoted
    for code in quoted:
        assert f"\n{code}" in script
    commands = re.findall(r"^python (\S+)", PAGES[name].read_text(encoding="utf-8"), re.MULTILINE)
    assert set(commands) == {f"examples/{name}.py"}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_shows_what_the_script_prints(name):
    """All but the numbers: times differ, and scenes may with another NumPy."""
    skip_without(name)
    (shown,) = re.findall(r"```text\n(.*?)```", PAGES[name].read_text(encoding="utf-8"), re.DOTALL)
    printed = output_of(name)
    without = [re.sub(r"\d+(?:\.\d+)?", "#", text) for text in (shown, printed)]
    assert without[0] == without[1]


def test_readme_names_the_pages():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((docs/\w+\.md)\)", readme))
    assert {f"docs/{name}.md" for name in PAGES} <= linked
    assert all((ROOT / link).is_file() for link in linked)


# ---- with a network and an image of one's own ---------------------------------------------------

N_DISCS = 12


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """An RGB image of discs: red inside, green and blue a pixel's place in it along x and y."""
    y, x = np.mgrid[:300, :400]
    v, u = y % 100 - 49.5, x % 100 - 49.5
    disc = np.hypot(u, v) < 25
    place = [np.where(disc, 127.5 + 5 * at, 127.5) for at in (u, v)]
    path = tmp_path_factory.mktemp("picture") / "picture.tif"
    image = np.dstack([255.0 * disc, *place]).astype(np.uint8)
    tifffile.imwrite(path, image)
    return path


def hovernet(margin, names, path):
    """A TorchScript of what reads such images as a HoVer-Net reads its own."""
    torch = pytest.importorskip("torch")

    class Reader(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            height, width = images.shape[2] - margin, images.shape[3] - margin
            inside = images[:, :, margin:height, margin:width]
            logit = (inside[:, :1] - 128) / 10
            hv = inside[:, 1:] / 127.5 - 1
            return {names[0]: torch.cat([-logit, logit], dim=1), names[1]: hv}

    example = torch.zeros(1, 3, 256, 256)
    torch.jit.trace(Reader(), example, strict=False).save(path)
    return str(path)


def test_hovernet_takes_a_network_and_an_image(picture, tmp_path):
    model = hovernet(46, ("np", "hv"), tmp_path / "network.pt")
    output = output_of("use_hovernet", "--model", model, "--image", str(picture))
    assert numbers(output) == {"tiles of 256": N_DISCS}
    assert flags(output) == ["True"]


def test_monai_takes_a_network_and_an_image(picture, tmp_path):
    skip_without("use_monai")
    names = ("nucleus_prediction", "horizontal_vertical")
    model = hovernet(0, names, tmp_path / "network.pt")
    output = output_of("use_monai", "--model", model, "--image", str(picture))
    assert set(numbers(output).values()) == {N_DISCS}
    assert flags(output)[0] == "True"  # of the maps; equal energies may be cut another way


def test_own_model_takes_torchscript(tmp_path):
    torch = pytest.importorskip("torch")

    class Smooth(torch.nn.Module):
        def forward(self, images):
            smooth = torch.nn.functional.avg_pool2d(images, 9, stride=1)
            return torch.cat([0 * smooth, 0 * smooth, 20 * (smooth - 0.2)], dim=1)

    path = str(tmp_path / "network.pt")
    torch.jit.trace(Smooth(), torch.zeros(1, 1, 64, 64)).save(path)
    output = output_of("own_model", "--model", path, "--margin", "4")
    found = numbers(output)
    assert found["tiles of 256"] == 0  # nothing flows
    assert 0.5 * found["truth"] < found["a function of one's own on the whole map"]
    assert flags(output) == ["True"]


ULTRALYTICS = '''
"""What a YOLO takes and gives, with a component of red for a cell."""
from types import SimpleNamespace
import numpy as np
from scipy import ndimage


class YOLO:
    def __init__(self, path):
        assert path == "weights.pt"

    def __call__(self, images, verbose):
        assert isinstance(images, list) and not verbose
        return [self.see(image) for image in images]

    def see(self, image):
        assert image.dtype == np.uint8 and image.shape[2] == 3
        labels, n = ndimage.label(image[..., 2] > 128)  # blue, green, red
        masks = labels == np.arange(1, n + 1)[:, None, None]
        boxes = [[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(labels)]
        return SimpleNamespace(
            orig_shape=labels.shape,
            boxes=SimpleNamespace(
                xyxy=np.array(boxes, float).reshape(-1, 4), conf=np.full(n, 0.9), cls=np.zeros(n)
            ),
            masks=SimpleNamespace(data=masks.astype(np.float32)) if n else None,
        )
'''


def test_detectors_take_what_ultralytics_gives(picture, tmp_path):
    (tmp_path / "ultralytics.py").write_text(ULTRALYTICS, encoding="utf-8")
    output = output_of(
        "use_detectors", "--model", "weights.pt", "--image", str(picture), path=str(tmp_path)
    )
    assert numbers(output)["all tiles"] == N_DISCS
    assert flags(output) == ["True"]


def test_the_seams_of_the_detectors_cells_are_no_cuts():
    ratio = float(re.search(r"at seams: ([\d.]+) times", output_of("use_detectors"))[1])
    assert 0.5 < ratio < 1.5


def test_seams_would_show():
    """The score of the same truth, cut at the tiles' borders, is far from 1."""
    truth = synthetic.Scene((700, 700), "nuclei", seed=1).labels[...]
    cut = truth + 1000 * (np.arange(700) >= 256) * (truth > 0)
    assert metrics.seam_score(cut, [[], [256]]).ratio > 2
