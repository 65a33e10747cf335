"""`cellpost hover`: files, options, the table of nuclei. What all commands share: test_cli.py."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import simulate
import tifffile
from test_cli import assert_fails, run

import cellpost
from cellpost import cli
from cellpost.io import read_hover_maps, read_labels, read_metadata

OPTIONS = {"ksize": 5, "min_size": 5, "radius": 1}
FLAGS = ("--ksize", 5, "--min-size", 5, "--radius", 1)


@pytest.fixture(scope="module")
def maps():
    """Simulated HoVer maps of 30 cells or fewer."""
    labels = simulate.blobs((90, 120), 30, seed=2, radius=(4, 8))
    return simulate.hover_from_labels(labels, noise=0.05, seed=2)


@pytest.fixture
def folder(tmp_path, monkeypatch, maps):
    """A current folder with the maps in every form."""
    monkeypatch.chdir(tmp_path)
    prob = maps.prob.astype(np.float32)
    three = np.concatenate([prob[None], maps.hv])
    four = np.concatenate([(1 - prob)[None], three])
    np.save("three.npy", three)
    np.save("four.npy", four)
    np.savez("named.npz", prob=prob, hv=maps.hv)
    np.savez("typed.npz", prob=prob, hv=maps.hv, types=maps.labels % 4)
    tifffile.imwrite("first.tif", three, metadata={"axes": "CYX"}, photometric="minisblack")
    tifffile.imwrite(
        "last.tif", np.moveaxis(four, 0, -1), metadata={"axes": "YXC"}, photometric="rgb"
    )
    np.save("last.npy", np.moveaxis(three, 0, -1))
    return tmp_path


def expected(maps, **options):
    return cellpost.hover_watershed(maps.prob.astype(np.float32), maps.hv, **{**OPTIONS, **options})


def test_options_are_those_of_hover_watershed():
    given = inspect.signature(cellpost.hover_watershed).parameters
    offered = inspect.signature(cli.hover).parameters
    ours = {"maps", "output", "image", "overlay", "table", "report", "axes", "device", "threads"}
    ours |= {"overwrite", "quiet"}
    theirs = {"prob", "hv", "return_report"}
    assert set(offered) - ours == set(given) - theirs
    for name in set(offered) - ours:
        default = getattr(offered[name].default, "value", offered[name].default)
        assert default == ("none" if name == "activation" else given[name].default), name


@pytest.mark.parametrize(
    "name", ["three.npy", "four.npy", "named.npz", "typed.npz", "first.tif", "last.tif"]
)
def test_every_form_of_the_maps_gives_the_functions_labels(folder, maps, name):
    result = run("hover", name, "-o", "masks.tif", *FLAGS)
    assert result.exit_code == 0, result.output
    labels = read_labels("masks.tif")
    np.testing.assert_array_equal(labels, expected(maps))
    assert labels.max() > 15
    assert f"{labels.max()} cells in 90 x 120 pixels" in result.stdout
    assert "regions without a marker" in result.stdout


def test_axes_of_an_npy_are_told(folder, maps):
    assert_fails(run("hover", "last.npy", "-o", "masks.tif"), 2, "last.npy", "120")
    assert run("hover", "last.npy", "-o", "masks.tif", "--axes", "YXC", *FLAGS).exit_code == 0
    np.testing.assert_array_equal(read_labels("masks.tif"), expected(maps))


def test_styles_and_logits(folder, maps):
    prob = np.clip(maps.prob, 1e-4, 1 - 1e-4).astype(np.float32)
    logits = np.log(np.stack([1 - prob, prob]))
    np.save("logits.npy", np.concatenate([logits, maps.hv]).astype(np.float32))
    flags = ("--style", "monai", "--activation", "softmax", *FLAGS)
    assert run("hover", "logits.npy", "-o", "masks.tif", *flags).exit_code == 0
    wanted = cellpost.hover_watershed(
        logits, maps.hv, style="monai", activation="softmax", **OPTIONS
    )
    np.testing.assert_array_equal(read_labels("masks.tif"), wanted)


def test_overlay_table_report_and_metadata(folder, maps):
    outputs = ("--overlay", "o.png", "--table", "t.json", "--report", "r.json")
    result = run("hover", "typed.npz", "-o", "masks.tif", *FLAGS, *outputs)
    assert result.exit_code == 0, result.output
    labels = read_labels("masks.tif")
    nuclei = json.loads((folder / "t.json").read_text())["nuc"]
    rows = cellpost.instance_table(labels.astype(np.int32), maps.labels % 4).to_dicts()
    assert list(nuclei) == [str(row["label"]) for row in rows]
    for row in rows:
        found = nuclei[str(row.pop("label"))]
        assert found == {**row, "contour": row["contour"].tolist()}
    report = json.loads((folder / "r.json").read_text())
    assert report["function"] == "hover_watershed"
    assert report["report"]["n_labels"] == len(rows) == labels.max()
    assert read_metadata("masks.tif")["parameters"]["ksize"] == 5
    assert (folder / "o.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (np.zeros((2, 9, 9), np.float32), ["2 channels"]),
        (np.zeros((5, 9, 9), np.float32), ["5 channels"]),
        (np.zeros((9, 9), np.float32), ["(9, 9)"]),
        (np.zeros((3, 9, 9), np.uint8), ["not floating point"]),
        ({"prob": np.zeros((9, 9))}, ["no hv"]),
        ({"prob": np.zeros((9, 9)), "hv": np.zeros((3, 9, 9))}, ["(3, 9, 9)"]),
        ({"prob": np.zeros((3, 9, 9)), "hv": np.zeros((2, 9, 9))}, ["(3, 9, 9)"]),
        (
            {"prob": np.zeros((9, 9)), "hv": np.zeros((2, 9, 9)), "types": np.zeros((8, 9))},
            ["types", "(8, 9)"],
        ),
        *(
            ({"prob": np.zeros((9, 9)), "hv": np.zeros((2, 9, 9)), "types": types}, ["types"])
            for types in (np.full((9, 9), -1), np.zeros((9, 9)), np.zeros((3, 9, 9), int))
        ),
    ],
)
def test_maps_that_do_not_fit_are_refused(folder, content, parts):
    if isinstance(content, dict):
        np.savez("bad.npz", **content)
    else:
        np.save("bad.npy", content)
    name = "bad.npz" if isinstance(content, dict) else "bad.npy"
    assert_fails(run("hover", name, "-o", "masks.tif"), 2, name, *parts)
    assert not (folder / "masks.tif").exists()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--ksize", 4), "ksize"),
        (("--value-range", 1, 1), "value_range"),
        (("--activation", "softmax"), "prob: expected shape"),
        (("--table", "masks.tif"), "named twice"),
        (("--threads", 0), "--threads: expected 1 or more; got 0"),
    ],
)
def test_bad_options_are_refused(folder, flags, part):
    assert_fails(run("hover", "three.npy", "-o", "masks.tif", *flags), 2, part)


def test_read_hover_maps_maps_an_npy_from_disk(folder):
    base = read_hover_maps("three.npy").hv
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match=r"axes: expected none for an \.npz"):
        read_hover_maps("named.npz", axes="CYX")
