"""slide.paste: the labels of paste_masks, a band of rows at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import cellpost
from cellpost.detections import Detections
from cellpost.slide.pasting import _PIXEL_BYTES, paste

STYLES = ("detectron2", "torchvision", "nearest")


def some_detections(rng, shape, n=60, kind="stack", ties=False):
    """Boxes of all sizes, some off the image or without area, in crops that overlap a lot."""
    h, w = shape
    middle = rng.uniform(-0.1, 1.1, (n, 2)) * (w, h)
    side = rng.choice([2, 10, 30, max(shape)], n)[:, None] * rng.uniform(0.2, 1, (n, 2))
    boxes = np.concatenate([middle - side / 2, middle + side / 2], 1).astype(np.float32)
    boxes[rng.random(n) < 0.05] *= -1
    boxes[rng.random(n) < 0.05, 2:] = 0
    scores = rng.integers(0, 4, n) / 4 if ties else rng.random(n)
    if kind == "stack":
        masks = rng.random((n, 9, 7), np.float32)
    else:
        masks = [rng.random(tuple(rng.integers(1, 30, 2)), np.float32) for _ in range(n)]
    return Detections(boxes, scores, masks)


def in_memory(found, shape, **options):
    boxes = found.boxes if found.mask_boxes is None else found.mask_boxes
    return cellpost.paste_masks(
        found.masks, boxes, found.scores, shape, return_index=True, **options
    )


def assert_same(found, shape, n_rows, dtype="int32", **options):
    expected, index = in_memory(found, shape, **options)
    out = np.full(shape, 99, dtype)
    memory = max(_PIXEL_BYTES * shape[1] * n_rows, 1)
    rows = paste(found, out, memory=memory, **options)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(rows, index)
    return out


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", ["stack", "list"])
@pytest.mark.parametrize("seed", range(7))
def test_same_labels_as_in_memory(style, kind, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(30, 130, 2))
    found = some_detections(rng, shape, kind=kind, ties=seed % 2 == 0)
    options = {
        "style": style,
        "threshold": float(rng.choice([0.2, 0.5, 0.8])),
        "min_score": float(rng.choice([0, 0.3])),
        "min_size": int(rng.choice([0, 1, 15, 200])),
    }
    for n_rows in (1, int(rng.integers(2, 12)), int(rng.integers(12, 60)), shape[0], 10**6):
        assert_same(found, shape, n_rows, **options)


def test_mask_boxes_and_detections_of_tiles():
    rng = np.random.default_rng(0)
    shape = (90, 120)
    grid = cellpost.TileGrid(shape, tile=50, overlap=0.5)
    tiles = [some_detections(rng, (50, 50), 15) for _ in range(len(grid))]
    found = cellpost.merge_detections(
        tiles, [tuple(slice(p.start, p.stop) for p in grid[i]) for i in range(len(grid))]
    )
    assert found.mask_boxes is not None or len(found) > 0
    for n_rows in (3, 17, 90):
        assert_same(found, shape, n_rows)
    boxes = found.boxes
    moved = Detections(boxes + 3, found.scores, found.masks, None, boxes)
    assert_same(moved, shape, 7)


def test_torch_detections():
    torch = pytest.importorskip("torch")
    found = some_detections(np.random.default_rng(1), (60, 70))
    tensors = Detections(*map(torch.asarray, (found.boxes, found.scores, found.masks)))
    expected = assert_same(found, (60, 70), 9)
    out = np.zeros((60, 70), np.int32)
    paste(tensors, out, memory=_PIXEL_BYTES * 70 * 9)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", ["cells.zarr", "cells.tif"])
def test_outputs_on_disk(tmp_path, name):
    shape = (100, 130)
    found = some_detections(np.random.default_rng(2), shape)
    expected, index = in_memory(found, shape)
    path = tmp_path / name
    if name.endswith(".zarr"):
        zarr = pytest.importorskip("zarr", minversion="3")
    rows = paste(found, path, shape=shape, memory=_PIXEL_BYTES * 130 * 33)
    read = tifffile.imread(path) if name.endswith(".tif") else zarr.open_array(str(path))[...]
    np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(rows, index)
    with pytest.raises(FileExistsError, match="exists already; overwrite"):
        paste(found, path, shape=shape)
    paste(found, path, shape=shape, overwrite=True)


def test_nothing_to_paste():
    for empty in (
        Detections(np.empty((0, 4)), np.empty(0)),
        Detections(np.empty((0, 4)), np.empty(0), np.empty((0, 5, 5), np.float32)),
        Detections(np.array([[-9.0, -9, -5, -5]]), np.ones(1), np.ones((1, 5, 5), np.float32)),
    ):
        out = np.full((20, 30), 7)
        assert paste(empty, out).tolist() == []
        assert not out.any()
    found = some_detections(np.random.default_rng(0), (20, 30))
    assert paste(found, np.zeros((0, 30), int)).tolist() == []
    assert paste(found, np.zeros((20, 0), int)).tolist() == []


@pytest.mark.slow
def test_more_than_2_to_the_31_pixels(tmp_path):
    zarr = pytest.importorskip("zarr", minversion="3")
    n = 47_000  # 2.2e9 pixels, of which two corners and the middle are pasted
    boxes = np.array([[0, 0, 4, 4], [n - 4, n - 4, n, n], [n // 2, n // 2, n // 2 + 2, n // 2 + 2]])
    crop = np.ones((3, 4, 4), np.float32)
    found = Detections(boxes.astype(np.float32), np.array([0.2, 0.9, 0.5]), crop)
    path = tmp_path / "cells.zarr"
    assert paste(found, path, shape=(n, n), memory="2GB", style="nearest").tolist() == [0, 2, 1]
    cells = zarr.open_array(str(path))
    assert cells.shape == (n, n)
    assert (cells[:4, :4] == 1).all()
    assert (cells[n // 2 : n // 2 + 2, n // 2 : n // 2 + 2] == 2).all()
    assert (cells[-4:, -4:] == 3).all()
    chunks = sum(p.is_file() for p in (path / "c").rglob("*"))
    assert chunks == 3  # background takes no space


ONE = Detections(np.array([[0, 0, 3, 3.0]]), np.ones(1), np.ones((1, 4, 4), np.float32))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"detections": [1]}, TypeError, "detections: expected Detections; got list"),
        (
            {"detections": Detections(np.array([[0, 0, 3, 3.0]]), np.ones(1))},
            ValueError,
            "detections: expected some with masks; got boxes alone",
        ),
        (
            {"detections": Detections(np.array([[0, 0, np.nan, 3]]), np.ones(1), ONE.masks)},
            ValueError,
            "boxes: expected finite numbers; got others in row 0",
        ),
        (
            {"detections": Detections(ONE.boxes, np.array([np.inf]), ONE.masks)},
            ValueError,
            "scores: expected finite numbers; got others in row 0",
        ),
        (
            {"detections": Detections(ONE.boxes, ONE.scores, ONE.masks * 2)},
            ValueError,
            "masks: ",
        ),
        ({"threshold": 0}, ValueError, "threshold: expected a number above 0"),
        ({"min_size": -1}, ValueError, "min_size: expected 0 or more pixels"),
        ({"min_score": np.nan}, ValueError, "min_score: expected a number; got nan"),
        ({"style": "cubic"}, ValueError, "style: expected one of"),
        ({"memory": 900}, ValueError, "memory: expected at least 1MB, a row of 30 pixels; got 900"),
        ({"shape": (20, 31)}, ValueError, r"out: expected shape \(20, 31\); got \(20, 30\)"),
        ({"shape": (20,)}, ValueError, "shape: expected 2 lengths"),
        ({"out": "c.tif"}, ValueError, r"shape: expected \(H, W\) in pixels where out is a name"),
        ({"out": "c.tif", "shape": (0, 3)}, ValueError, "shape: expected sizes of at least 1"),
        ({"out": "c.tif", "shape": (2**24, 3)}, ValueError, r"shape: expected .* 0 to 2\*\*23"),
        ({"out": 5, "shape": (4, 4)}, TypeError, "out: expected a path or an array"),
        ({"out": np.zeros((20, 30))}, TypeError, "out: expected an integer dtype; got float64"),
    ],
)
def test_bad_input_is_named(tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    given = {"detections": ONE, "out": np.zeros((20, 30), int), **options}
    with pytest.raises(error, match=message):
        paste(given.pop("detections"), given.pop("out"), **given)
    assert list(tmp_path.iterdir()) == []


def test_labels_that_out_cannot_hold():
    n = 300
    boxes = np.stack([np.arange(n), np.zeros(n), np.arange(n) + 1, np.ones(n)], 1)
    found = Detections(boxes, np.ones(n), np.ones((n, 2, 2), np.float32))
    out = np.full((2, n), 9, np.uint8)
    with pytest.raises(OverflowError, match="out: expected a dtype that holds ids up to 300"):
        paste(found, out, style="nearest")
    assert (out == 9).all()


MEMORY_SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from cellpost.detections import Detections
from cellpost.slide.pasting import paste

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(s for s in lines if s.startswith(field)).split()[1])

def cells(n):
    y, x = (at.ravel() * 32.0 for at in np.mgrid[: n // 32, : n // 32])
    boxes = np.stack([x + 2, y + 2, x + 26, y + 26], 1).astype(np.float32)
    scores = np.random.default_rng(0).random(len(x))
    return Detections(boxes, scores, np.ones((len(x), 8, 8), np.uint8))

folder = Path(sys.argv[1])
paste(cells(256), folder / "small.tif", shape=(256, 256))  # what a first call loads
found = cells(16384)
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
index = paste(found, folder / "cells.tif", shape=(16384, 16384), memory="200MB")
print(json.dumps([len(index), resident("VmHWM") - before]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux's /proc"
)
def test_a_slide_takes_the_memory_of_a_band(tmp_path):
    # The labels are 1.07 GB; 200 MB and 100 bytes for each of 262,144 detections are allowed.
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    n_labels, extra = json.loads(done.stdout.splitlines()[-1])
    assert n_labels == 512**2
    assert extra < 230e6, f"{extra / 1e6:.0f} MB"
