"""`cellpost paste`: files, options, report and table. What all commands share: test_cli.py."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import assert_fails, files, run
from test_detections_files import IMAGE, blobs, results, write_json

import cellpost
from cellpost import cli
from cellpost.cli import job
from cellpost.io import read_detections, read_labels, read_metadata

SHAPE = (60, 80)
DROPPED = ("n_low_score", "n_degenerate", "n_outside", "n_hidden", "n_too_small")


def crops(n=30, seed=0):
    """What a mask head gives: float crops at float boxes, some of them off the image."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-10, np.array(SHAPE)[::-1] + 5, (n, 2))
    return {
        "boxes": np.hstack([corner, corner + rng.uniform(2, 25, (n, 2))]).astype(np.float32),
        "scores": rng.random(n).astype(np.float32),
        "masks": rng.random((n, 14, 14)).astype(np.float32),
        "class_ids": rng.integers(1, 4, n),
    }


def pasted(found, shape=SHAPE, **options):
    return cellpost.paste_masks(found["masks"], found["boxes"], found["scores"], shape, **options)


def composed(masks, scores):
    """Masks of the whole image, the better ones over the others, numbered by the first pixel."""
    whole = np.zeros(masks.shape[1:], int)
    for i in np.argsort(scores, kind="stable"):
        whole[masks[i]] = i + 1
    present = list(dict.fromkeys(whole[whole > 0].tolist()))
    number = np.zeros(len(masks) + 1, int)
    number[present] = np.arange(len(present)) + 1
    return number[whole]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with found.npz, which says the image's shape, in it."""
    monkeypatch.chdir(tmp_path)
    np.savez("found.npz", **crops(), shape=SHAPE)
    return tmp_path


# ---- options ------------------------------------------------------------------------------------


def test_options_are_those_of_paste_masks():
    given = inspect.signature(cellpost.paste_masks).parameters
    keywords = {name: p.default for name, p in given.items() if p.kind is p.KEYWORD_ONLY}
    for name in ("class_ids", "return_index", "return_report"):  # of the file; always
        del keywords[name]
    offered = inspect.signature(cli.paste).parameters
    for name, default in keywords.items():
        assert getattr(offered[name].default, "value", offered[name].default) == default, name
    others = {"detections", "output", "image", "overlay", "table", "report", "shape", "image_id"}
    others |= {"nms", "device", "threads", "overwrite", "quiet"}
    assert set(offered) == set(keywords) | others


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.7},
        {"min_score": 0.4, "min_size": 20},
        {"style": "torchvision"},
        {"style": "nearest", "out_dtype": "uint8"},
    ],
)
def test_options_reach_paste_masks(folder, options):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    result = run("paste", "found.npz", "-o", "labels.npy", *flags)
    assert result.exit_code == 0, result.output
    expected, report = pasted(crops(), **options, return_report=True)
    labels = read_labels("labels.npy")
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == options.get("out_dtype", "uint16")
    dropped = [getattr(report, name) for name in DROPPED]
    reasons = ("low score", "without area", "outside", "hidden", "too small")
    said = ", ".join(f"{n} {why}" for n, why in zip(dropped, reasons, strict=True))
    assert result.stdout.splitlines()[1] == f"dropped: {said}"
    assert sum(dropped) + labels.max() == 30


# ---- files in -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["a stack", "one channel", "sizes differ", "mask boxes"])
def test_npz(folder, form):
    found = crops()
    written = dict(found)
    if form == "one channel":
        written["masks"] = found["masks"][:, None]
    elif form == "sizes differ":
        found["masks"] = [mask[: 3 + i % 5, : 4 + i % 7] for i, mask in enumerate(found["masks"])]
        del written["masks"]
        written["masks_flat"] = np.concatenate([mask.ravel() for mask in found["masks"]])
        written["mask_sizes"] = np.array([mask.shape for mask in found["masks"]])
    elif form == "mask boxes":
        written["mask_boxes"] = found["boxes"]
        written["boxes"] = np.zeros_like(found["boxes"])
    np.savez("some.npz", **written)
    flags = ("--shape", *SHAPE, "--device", "cpu")
    result = run("paste", "some.npz", "-o", "labels.tif", *flags)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    labels = read_labels("labels.tif")
    np.testing.assert_array_equal(labels, pasted(found))
    assert labels.max() > 10
    said = result.stdout.splitlines()[0]
    assert said.startswith(f"labels.tif: {labels.max()} cells in 60 x 80 pixels, ")
    assert said.endswith(" s on cpu")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
@pytest.mark.parametrize("said_by", ["the file", "--shape"])
def test_masks_of_the_whole_image_keep_their_pixels(folder, dtype, said_by):
    boxes, masks = blobs(40)
    scores = np.random.default_rng(1).permutation(40) / 40
    shape = {"shape": IMAGE} if said_by == "the file" else {}
    np.savez("whole.npz", boxes=boxes, scores=scores, masks=masks.astype(dtype), **shape)
    flags = () if said_by == "the file" else ("--shape", *IMAGE)
    result = run("paste", "whole.npz", "-o", "labels.tif", *flags)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_labels("labels.tif"), composed(masks, scores))


@pytest.mark.parametrize("scored", [True, False])
def test_run_lengths_keep_their_pixels(folder, scored):
    entries, masks = results(60)
    scores = [entry["score"] for entry in entries]
    if not scored:  # annotations: all of score 1, the first one is on top
        scores = [-i for i in range(60)]
        for entry in entries:
            del entry["score"]
    write_json(folder / "found.json", entries)
    assert run("paste", "found.json", "-o", "labels.tif").exit_code == 0
    expected = composed(masks, np.array(scores))
    assert (masks.sum(0) > 1).any()
    np.testing.assert_array_equal(read_labels("labels.tif"), expected)


def test_one_of_several_images(folder):
    entries, masks = results(6, image_id=1)
    others, other_masks = results(4, image_id="b", seed=1)
    path = write_json(folder / "two.json", [*entries, *others])
    assert_fails(run("paste", path, "-o", "a.tif"), 2, "image_id: expected one of 2 images", "1, b")
    assert_fails(run("paste", path, "-o", "a.tif", "--image-id", 7), 2, "got '7'")
    for name, expected in {"1": masks, "b": other_masks}.items():
        result = run("paste", path, "-o", f"{name}.tif", "--image-id", name, "--report", "r.json")
        assert result.exit_code == 0, result.output
        scores = np.arange(len(expected))
        np.testing.assert_array_equal(read_labels(f"{name}.tif"), composed(expected, scores))
        assert json.loads(Path("r.json").read_text())["image_id"] == name
        Path("r.json").unlink()
    assert_fails(run("paste", "found.npz", "-o", "c.tif", "--image-id", 1), 2, "image_id", ".npz")


@pytest.mark.parametrize("masks", ["none", "a stack", "JSON"])
@pytest.mark.parametrize("flags", [(), ("--nms", 0.5)])
def test_nothing_found(folder, masks, flags):
    if masks == "JSON":
        name = write_json(folder / "empty.json", []).name
    else:
        name = "empty.npz"
        stack = {} if masks == "none" else {"masks": np.zeros((0, 28, 28), np.float32)}
        np.savez(name, boxes=np.zeros((0, 4)), scores=np.zeros(0), **stack)
    outputs = ("--overlay", "o.png", "--table", "t.json", "--report", "r.json")
    result = run("paste", name, "-o", "labels.tif", "--shape", *SHAPE, *outputs, *flags)
    assert result.exit_code == 0, result.output
    assert "0 cells in 60 x 80 pixels" in result.stdout
    labels = read_labels("labels.tif")
    assert (labels.shape, labels.max()) == (SHAPE, 0)
    assert json.loads(Path("t.json").read_text()) == []
    assert set(json.loads(Path("r.json").read_text())["report"].values()) == {0}


# ---- files out ----------------------------------------------------------------------------------


def test_report_metadata_and_table(folder):
    flags = ("--min-score", 0.1, "--min-size", 5, "--device", "cpu")
    outputs = ("--table", "t.json", "--report", "r.json")
    result = run("paste", "found.npz", "-o", "labels.tif", *flags, *outputs)
    assert result.exit_code == 0, result.output
    found = crops()
    labels, index, counts = pasted(
        found, min_score=0.1, min_size=5, return_index=True, return_report=True
    )
    report = json.loads(Path("r.json").read_text())
    assert report.pop("seconds") > 0
    noted = read_metadata("labels.tif")
    assert noted.pop("software") == "cellpost"
    assert noted == report
    assert report == {
        "version": cellpost.__version__,
        "function": "paste_masks",
        "detections": "found.npz",
        "image_id": None,
        "shape": list(SHAPE),
        "device": "cpu",
        "parameters": {
            "threshold": 0.5,
            "min_score": 0.1,
            "min_size": 5,
            "style": "detectron2",
            "nms": None,
            "out_dtype": None,
        },
        "n_cells": labels.max(),
        "report": {"n_instances": 30, "n_labels": len(index)}
        | {name: getattr(counts, name) for name in DROPPED},
    }
    table = json.loads(Path("t.json").read_text())
    assert [entry["row"] for entry in table] == index.tolist()
    for i, entry in enumerate(table):
        y, x = np.nonzero(labels == i + 1)
        assert entry == {
            "label": i + 1,
            "row": index[i],
            "score": float(found["scores"][index[i]]),
            "class_id": found["class_ids"][index[i]],
            "bbox": [x.min(), y.min(), x.max() + 1, y.max() + 1],
            "area": len(y),
        }


def test_a_table_without_classes(folder):
    found = crops()
    del found["class_ids"]
    np.savez("found.npz", **found, shape=SHAPE)
    assert run("paste", "found.npz", "-o", "labels.tif", "--table", "t.json").exit_code == 0
    table = json.loads(Path("t.json").read_text())
    assert table
    assert {tuple(entry) for entry in table} == {("label", "row", "score", "bbox", "area")}


def test_overlay_on_black_or_on_a_picture(folder):
    assert run("paste", "found.npz", "-o", "a.tif", "--overlay", "a.png").exit_code == 0
    background = read_labels("a.tif") == 0
    drawn = np.asarray(Image.open("a.png"))
    assert drawn.shape == (*SHAPE, 3)
    assert background.any()
    assert not drawn[background].any()
    assert drawn[~background].any()
    Image.fromarray(np.tile(np.arange(80, dtype=np.uint8), (60, 1))).save("image.png")
    flags = ("--overlay", "b.png", "--image", "image.png")
    assert run("paste", "found.npz", "-o", "b.tif", *flags).exit_code == 0
    assert np.asarray(Image.open("b.png"))[background].any()


# ---- suppression --------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes_differ", [False, True])
def test_nms(folder, sizes_differ):
    # Everything twice, moved by a pixel the second time; scores in no order.
    found = crops(15)
    found["masks"] = np.ones_like(found["masks"])
    twice = {name: np.concatenate([column] * 2) for name, column in found.items()}
    twice["boxes"][15:] += 1
    twice["scores"] = np.random.default_rng(4).permutation(30).astype(np.float32) / 30
    written = {**twice, "shape": SHAPE}
    if sizes_differ:
        del written["masks"]
        twice["masks"] = [mask[: 4 + i % 5] for i, mask in enumerate(twice["masks"])]
        written["masks_flat"] = np.concatenate([mask.ravel() for mask in twice["masks"]])
        written["mask_sizes"] = np.array([mask.shape for mask in twice["masks"]])
    np.savez("twice.npz", **written)
    outputs = ("--table", "t.json", "--report", "r.json")
    result = run("paste", "twice.npz", "-o", "labels.tif", "--nms", 0.4, "--min-size", 9, *outputs)
    assert result.exit_code == 0, result.output

    columns = (twice["masks"], twice["boxes"], twice["scores"])
    keep = np.sort(cellpost.mask_nms(*columns, SHAPE, 0.4))
    assert 10 <= len(keep) < 30
    kept = {name: [column[i] for i in keep] for name, column in twice.items()}
    kept |= {name: np.array(kept[name]) for name in ("boxes", "scores")}
    expected, index, counts = pasted(kept, min_size=9, return_index=True, return_report=True)
    np.testing.assert_array_equal(read_labels("labels.tif"), expected)
    table = json.loads(Path("t.json").read_text())
    assert [entry["row"] for entry in table] == keep[index].tolist()
    assert [entry["score"] for entry in table] == twice["scores"][keep[index]].tolist()

    n_overlapping = 30 - len(keep)
    assert result.stdout.rstrip().endswith(f" too small, {n_overlapping} overlapping")
    report = json.loads(Path("r.json").read_text())
    assert report["parameters"]["nms"] == 0.4
    assert report["report"] == {"n_instances": 30, "n_overlapping": n_overlapping} | {
        name: getattr(counts, name) for name in (*DROPPED, "n_labels")
    }


def test_nms_counts_the_pixels_that_are_pasted(folder):
    # Of the same box two halves; the threshold decides whether they overlap.
    masks = np.full((2, 10, 10), 0.3, np.float32)
    masks[0, :5], masks[1, 5:] = 0.9, 0.9
    np.savez("halves.npz", boxes=np.tile([0, 0, 10, 10], (2, 1)), scores=[0.5, 0.6], masks=masks)
    for threshold, n in ((0.5, 2), (0.2, 1)):
        flags = ("--shape", 10, 10, "--nms", 0.5, "--threshold", threshold, "--overwrite")
        assert run("paste", "halves.npz", "-o", "labels.tif", *flags).exit_code == 0
        assert read_labels("labels.tif").max() == n


# ---- what it refuses ----------------------------------------------------------------------------


def test_shape_is_missing_or_another(folder):
    found = crops()
    np.savez("without.npz", **found)
    result = run("paste", "without.npz", "-o", "labels.tif")
    assert_fails(result, 2, "without.npz", "--shape H W")
    result = run("paste", "found.npz", "-o", "labels.tif", "--shape", 80, 60)
    assert_fails(result, 2, "shape: expected (60, 80), as found.npz says; got (80, 60)")
    result = run("paste", "without.npz", "-o", "labels.tif", "--shape", 0, 60)
    assert_fails(result, 2, "shape: expected H and W of at least 1 pixel")
    entries, _ = results()
    write_json(folder / "found.json", entries)
    before = files()
    result = run("paste", "found.json", "-o", "labels.tif", "--shape", 60, 80)
    assert_fails(result, 2, f"shape: expected {IMAGE}, as found.json says")
    assert files() == before
    assert run("paste", "found.npz", "-o", "labels.tif", "--shape", *SHAPE).exit_code == 0


def test_boxes_without_masks(folder):
    found = crops()
    del found["masks"]
    np.savez("boxes.npz", **found, shape=SHAPE)
    assert_fails(run("paste", "boxes.npz", "-o", "labels.tif"), 2, "boxes.npz: expected masks")
    write_json(folder / "boxes.json", [{"bbox": [1, 2, 3, 4], "score": 0.5}])
    result = run("paste", "boxes.json", "-o", "labels.tif", "--shape", *SHAPE)
    assert_fails(result, 2, "boxes.json: expected masks")
    assert "labels.tif" not in files()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("none.npz", None),
        (".", None),
        ("text.npz", b"boxes, scores\n" * 9),
        ("empty.json", b""),
        ("cut.json", b'[{"bbox": [1, 2'),
        ("maps.npy", b"\x93NUMPY"),
        ("other.npz", {"prob": np.zeros((9, 9))}),
        ("uneven.npz", {**crops(), "scores": np.zeros(3)}),
    ],
)
def test_wrong_files(folder, name, content):
    if isinstance(content, dict):
        np.savez(name, **content)
    elif content is not None:
        Path(name).write_bytes(content)
    before = files()
    result = run("paste", name, "-o", "labels.tif", "--shape", *SHAPE)
    assert_fails(result, 2, f"{name}: expected", "; got ")
    assert files() == before


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-o", "old.tif"], "exists already"),
        (["-o", "l.tif", "--table", "old.tif"], "exists already"),
        (["-o", "l.tif", "--table", "l.tif"], "twice"),
        (["-o", "found.npz", "--overwrite"], "twice"),
        (["-o", "l.jpg"], ".tif"),
        (["-o", "l.tif", "--table", "none/t.json"], "none"),
        (["-o", "l.tif", "--image", "image.png"], "--overlay"),
        (["-o", "l.tif", "--overlay", "o.png", "--image", "image.png"], "shape"),
        (["-o", "l.tif", "--out-dtype", "float32"], "float32"),
        (["-o", "l.tif", "--threads", 0], "--threads: expected 1 or more; got 0"),
        (["-o", "l.tif", "--threshold", 0], "threshold"),
        (["-o", "l.tif", "--threshold", "nan", "--nms", 0.5], "threshold"),
        (["-o", "l.tif", "--min-score", "nan"], "min_score"),
    ],
)
def test_bad_arguments(folder, arguments, part):
    Path("old.tif").write_text("precious")
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save("image.png")
    before = files()
    assert_fails(run("paste", "found.npz", *arguments), 2, part)
    assert files() == before
    assert Path("old.tif").read_text() == "precious"


def test_bad_usage_of_the_command_line(folder):
    for arguments in (
        ["-o", "l.tif", "--nms", 1.5],
        ["-o", "l.tif", "--nms", -0.1],
        ["-o", "l.tif", "--nms", "nan"],
        ["-o", "l.tif", "--style", "lanczos"],
        ["-o", "l.tif", "--shape", 60],
        [],
    ):
        result = run("paste", "found.npz", *arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.output
    assert files() == ["found.npz"]


def test_values_that_are_no_masks(folder):
    np.savez("logits.npz", **{**crops(), "masks": np.full((30, 14, 14), 7.0)}, shape=SHAPE)
    assert_fails(run("paste", "logits.npz", "-o", "l.tif"), 2, "masks")
    found = crops()
    found["boxes"][3, 1] = np.nan
    np.savez("nan.npz", **found, shape=SHAPE)
    assert_fails(run("paste", "nan.npz", "-o", "l.tif"), 2, "boxes")
    assert files() == ["found.npz", "logits.npz", "nan.npz"]


def test_overwrite(folder):
    Path("labels.tif").write_text("old")
    result = run("paste", "found.npz", "-o", "labels.tif", "--overwrite", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    np.testing.assert_array_equal(read_labels("labels.tif"), pasted(crops()))


def test_failures_while_computing(folder, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA error:\n out of memory")

    monkeypatch.setattr(cellpost, "paste_masks", fail)
    assert_fails(run("paste", "found.npz", "-o", "labels.tif"), 1, "CUDA error: out of memory")
    assert files() == ["found.npz"]


# ---- devices ------------------------------------------------------------------------------------


def test_cuda_that_cannot_be_used(folder, monkeypatch):
    state = {**cellpost.info(), "cuda_usable": False, "cuda_reason": "no driver"}
    monkeypatch.setattr(cellpost, "info", lambda: state)
    result = run("paste", "found.npz", "-o", "labels.tif", "--device", "cuda")
    assert_fails(result, 2, "--device cuda: no driver")
    assert "on cpu" in run("paste", "found.npz", "-o", "labels.tif").stdout


def write_run_lengths(folder):
    """Crops of differing sizes: the arrays are a list."""
    write_json(folder / "found.json", results(20)[0])
    found, shape = read_detections("found.json")
    assert isinstance(found.masks, list)
    return cellpost.paste_masks(found.masks, found.mask_boxes, found.scores, shape)


@pytest.mark.parametrize("flags", [(), ("--nms", 0.9)])
def test_lists_of_crops_are_moved_one_by_one(folder, monkeypatch, flags):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    expected = write_run_lengths(folder)
    moved = []

    def put(array):
        moved.append(array)
        return torch.tensor(np.ascontiguousarray(array))

    state = {**cellpost.info(), "cuda_usable": True, "cuda_reason": ""}
    monkeypatch.setattr(cellpost, "info", lambda: state)
    monkeypatch.setattr(job, "_gpu_arrays", lambda: (put, lambda tensor: tensor.numpy()))
    result = run("paste", "found.json", "-o", "labels.tif", "--table", "t.json", *flags)
    assert result.exit_code == 0, result.output
    assert "on cuda" in result.stdout
    assert [array.ndim for array in moved] == [2] * 20 + [2, 1]
    np.testing.assert_array_equal(read_labels("labels.tif"), expected)
    assert len(json.loads(Path("t.json").read_text())) == expected.max()


def test_cuda_without_a_library_for_arrays(folder, monkeypatch):
    state = {**cellpost.info(), "cuda_usable": True, "cuda_reason": ""}
    monkeypatch.setattr(cellpost, "info", lambda: state)
    for name in ("torch", "cupy"):
        monkeypatch.setitem(sys.modules, name, None)
    result = run("paste", "found.npz", "-o", "labels.tif", "--device", "cuda")
    assert_fails(result, 2, "torch nor cupy")


@pytest.mark.gpu
@pytest.mark.parametrize("flags", [(), ("--nms", 0.3)])
def test_cuda(folder, flags):
    if not cellpost.info()["cuda_usable"]:
        pytest.skip(f"CUDA: {cellpost.info()['cuda_reason']}")
    write_run_lengths(folder)
    for name in ("found.npz", "found.json"):
        for place in ("cuda", "cpu"):
            outputs = ("-o", f"{place}.tif", "--table", f"{place}.json", "--overwrite")
            result = run("paste", name, *outputs, "--device", place, *flags)
            if "torch nor cupy" in result.stderr:
                pytest.skip("CUDA: neither torch nor cupy can make arrays on the GPU")
            assert result.exit_code == 0, result.output
        np.testing.assert_array_equal(read_labels("cuda.tif"), read_labels("cpu.tif"))
        assert Path("cuda.json").read_text() == Path("cpu.json").read_text()
