"""`cellpost eval`: images and folders in, a table, a CSV and a report out. Shared: test_cli.py."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import simulate
import tifffile
from test_cli import assert_fails, files, process, run

import cellpost
from cellpost import metrics
from cellpost.io import write_labels


def image(seed):
    """Truth and a prediction with errors."""
    true = simulate.blobs((60, 70), 30, seed=seed)
    pred = np.where(np.isin(true, np.unique(true)[2::5]), 0, np.roll(true, (1, seed), (0, 1)))
    return true, pred


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with three images in true/ and pred/, of other forms."""
    monkeypatch.chdir(tmp_path)
    for name in ("true", "pred"):
        Path(name).mkdir()
    for k, forms in enumerate([("tif", "npy"), ("ome.tif", "tiff"), ("png", "TIF")]):
        for name, labels, form in zip(("true", "pred"), image(k), forms, strict=True):
            path = Path(name, f"image {k}.{form}")
            write_labels(path.with_suffix(path.suffix.lower()), labels)
            path.with_suffix(path.suffix.lower()).rename(path)
    Path("true", "notes.txt").write_text("no labels")
    Path("pred", ".hidden.tif").write_text("no labels")
    Path("pred", "overlays").mkdir()
    return tmp_path


def table():
    with open("table.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def expected(iou=0.5, **options):
    return metrics.evaluate([image(k) for k in range(3)], iou, **options)


# ---- tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize("border", [0, 3])
def test_folders(folder, border):
    result = run("eval", "true", "pred", "--csv", "table.csv", "--exclude-border", border)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    wanted, found = expected(exclude_border=border), table()
    assert [row["image"] for row in found] == ["image 0", "image 1", "image 2", "pooled"]
    assert set(found[0]) == {"image", *wanted.images}
    for name, column in wanted.images.items():
        assert [float(row[name]) for row in found[:-1]] == column.tolist(), name
        assert float(found[-1][name]) == wanted.pooled[name], name
    assert 0 < wanted.pooled["f1"] < 1
    lines = result.stdout.splitlines()
    assert lines[-1].startswith("table.csv: 3 images, ")
    shown = [re.split(r"  +", line.strip()) for line in lines]
    assert "image|true|pred|tp|fp|fn|prec.|recall|F1|AP|PQ|AJI|dice" in map("|".join, shown)
    names = ("n_true", "n_pred", "tp", "fp", "fn", "precision", "recall", "f1")
    names += ("average_precision", "panoptic_quality", "aggregated_jaccard", "dice")
    for row in found:
        numbers = [row[n] if row[n].isdigit() else f"{float(row[n]):.3f}" for n in names]
        assert [row["image"], *numbers] in shown


def test_several_thresholds(folder):
    result = run("eval", "true", "pred", "--iou", 0.5, 0.75, "--iou", 0.3, "--csv", "table.csv")
    assert result.exit_code == 0, result.output
    thresholds = (0.5, 0.75, 0.3)
    wanted, found = expected(thresholds), table()
    for name, column in wanted.images.items():
        names = [f"{name}_{t:g}" for t in thresholds] if column.ndim == 2 else [name]
        rows = [[float(row[n]) for n in names] for row in found]
        np.testing.assert_array_equal(np.reshape(rows[:-1], column.shape), column)
        np.testing.assert_array_equal(rows[-1], np.atleast_1d(wanted.pooled[name]))
    assert [line.strip() for line in result.stdout.splitlines() if "IoU" in line] == [
        "IoU 0.5",
        "IoU 0.75",
        "IoU 0.3",
    ]


def test_two_images(folder, nuclei2d):
    tifffile.imwrite("a.tif", nuclei2d)
    np.save("b.npy", np.roll(nuclei2d.astype(np.int64) * 1000, 1, 0))
    result = run("eval", "a.tif", "b.npy", "--csv", "table.csv", "--report", "report.json")
    assert result.exit_code == 0, result.output
    found = table()
    assert [row["image"] for row in found] == ["b", "pooled"]
    assert found[0]["n_true"] == "125"
    assert found[0]["f1"] == found[1]["f1"]
    assert "pooled" not in result.stdout
    report = json.loads(Path("report.json").read_text())
    assert report.pop("seconds") >= 0
    images, pooled = report.pop("images"), report.pop("pooled")
    assert report == {
        "version": cellpost.__version__,
        "function": "evaluate",
        "true": "a.tif",
        "pred": "b.npy",
        "n_images": 1,
        "parameters": {"iou": [0.5], "exclude_border": 0},
    }
    assert images[0].pop("image") == "b"
    assert pooled.pop("image") == "pooled"
    assert images == [pooled]
    one = metrics.match(nuclei2d, np.load("b.npy"))
    assert (pooled["tp"], pooled["f1"]) == ([one.tp], [one.f1])


def test_a_volume_itself(folder, nuclei3d):
    tifffile.imwrite("volume.tif", nuclei3d, photometric="minisblack")
    result = run("eval", "volume.tif", "volume.tif", "--csv", "table.csv")
    assert result.exit_code == 0, result.output
    assert {table()[0][name] for name in ("f1", "dice", "average_precision")} == {"1.0"}


def test_images_without_cells(folder):
    np.save("none.npy", np.zeros((5, 6), np.uint8))
    result = run("eval", "none.npy", "none.npy", "--csv", "table.csv")
    assert result.exit_code == 0, result.output
    row = table()[0]
    assert (row["n_true"], row["tp"], row["f1"], row["dice"]) == ("0", "0", "0.0", "0.0")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_numbers_are_whole_on_any_terminal(folder, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    Path("true", "image 0.tif").rename("true/an image of a very long name that no terminal has.tif")
    Path("pred", "image 0.npy").rename("pred/an image of a very long name that no terminal has.npy")
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    result = run("eval", "true", "pred", "--iou", 0.5, 0.6)
    assert result.exit_code == 0, result.output
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    for k in range(2):
        pooled = {name: np.atleast_1d(v)[-1 * k] for name, v in expected((0.5, 0.6)).pooled.items()}
        row = [line for line in text.splitlines() if line.startswith("pooled")][k]
        assert f"{pooled['f1']:.3f}" in row
        assert f"{pooled['dice']:.3f}" in row
    assert ("that no terminal has" in text) == (columns == 200)
    if columns == 80:
        assert max(map(len, text.splitlines())) <= 80


# ---- what it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("none.tif", "true/image 0.tif"), ("none.tif", "no file")),
        (("true", "none"), ("none",)),
        (("true", "true/image 0.tif"), ("expected a folder, as true is; got a file",)),
        (("true/image 0.tif", "pred"), ("pred: expected a file", "got a folder")),
        (("true/notes.txt", "true/image 0.tif"), ("notes.txt",)),
        (("empty", "empty"), ("empty: expected files that end in .tif, .tiff, .png, .npy",)),
        (("true", "empty"), ("empty: expected", "none for 3 of them: image 0, image 1, image 2")),
        (("empty", "true"), ("empty: expected", "none for 3")),
        (("true", "twice"), ("image 0.npy and image 0.tif",)),
        (("true/image 0.tif", "small.npy"), ("small.npy: expected the shape of", "(4, 5)")),
        (("true/image 0.tif", "float.npy"), ("float.npy: expected a label image", "float")),
        (("true/image 0.tif", "minus.npy"), ("negative ids",)),
        (("true", "pred", "--iou", 0), ("iou: expected 0 < iou <= 1",)),
        (("true", "pred", "--iou", 0.5, 0.5), ("--iou: expected each once",)),
        (("true", "pred", "--exclude-border=-1"), ("--exclude-border",)),
        (("true", "pred", "--csv", "none/table.csv"), ("none",)),
        (("true", "pred", "--csv", "small.npy"), ("exists",)),
        (("true", "pred", "--csv", "a.json", "--report", "a.json"), ("twice",)),
        (("small.npy", "small.npy", "--csv", "small.npy", "--overwrite"), ("twice",)),
        (("true", "pred", "--threads", 0), ("--threads",)),
    ],
)
def test_bad_arguments(folder, arguments, parts):
    for name in ("empty", "twice"):
        Path(name).mkdir()
    for name in ("image 0.npy", "image 0.tif"):
        Path("twice", name).write_text("any")
    np.save("small.npy", np.zeros((4, 5), int))
    np.save("float.npy", np.zeros((60, 70)))
    np.save("minus.npy", np.full((60, 70), -1))
    before = files()
    assert_fails(run("eval", *arguments), 2, *parts)
    assert files() == before


def test_a_bad_image_leaves_no_table(folder):
    Path("pred", "image 2.TIF").write_bytes(b"II")
    result = run("eval", "true", "pred", "--csv", "table.csv", "--report", "r.json")
    assert_fails(result, 2, "image 2.TIF")
    assert files() == ["pred", "true"]


def test_failures_leave_no_file(folder, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.replace", fail)
    assert_fails(run("eval", "true", "pred", "--csv", "table.csv"), 1, "Input/output")
    assert files() == ["pred", "true"]


def test_bad_usage_of_the_command_line(folder):
    for arguments in ([], ["true"], ["true", "pred", "--iou", "half"], ["true", "pred", "more"]):
        result = run("eval", *arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.output


# ---- what all commands do -----------------------------------------------------------------------


def test_overwrite_quiet_and_threads(folder, restore_settings):
    Path("table.csv").write_text("old")
    options = ("--csv", "table.csv", "--overwrite", "-q", "--threads", 1)
    result = run("eval", "true", "pred", *options)
    assert (result.exit_code, result.output) == (0, "")
    assert cellpost.get_num_threads() == 1
    assert len(table()) == 4


def test_a_process(folder):
    done = process("eval", "true", "pred", "--csv", "table.csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pooled" in done.stdout
    failed = process("eval", "true", "none.npy")
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
