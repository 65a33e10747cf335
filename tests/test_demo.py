"""The demo: its stand-in for a network, its simulated outputs, its F1, its two files."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import simulate
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from typer.testing import CliRunner

import cellpost
from cellpost import cli, demo
from cellpost.io import read_labels, read_metadata


def run(*arguments):
    return CliRunner().invoke(cli.app, ["demo", *(str(a) for a in arguments)])


def numbers_after(text, words):
    line = next(line for line in text.splitlines() if line.startswith(words))
    return [float(word.strip("(,")) for word in line.split() if word.strip("(,")[:1].isdigit()]


def test_the_demo_does_not_overwrite_what_it_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = simulate.blobs((64, 64), 5, seed=1, radius=(4, 8))
    tifffile.imwrite("demo_masks.tif", labels.astype(np.uint16))
    before = (tmp_path / "demo_masks.tif").read_bytes()
    result = run("--labels", "demo_masks.tif")
    assert result.exit_code != 0
    assert "would be overwritten" in result.output
    assert (tmp_path / "demo_masks.tif").read_bytes() == before


# ---- the stand-in -------------------------------------------------------------------------------


def test_demo_of_real_tissue(tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time over the files of the first
        result = run()
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
    assert "stand-in for a network" in result.stdout
    stages = ("flow_endpoints", "endpoints_to_labels", "remove_bad_flows", "remove_small")
    for stage in (*stages, "follow_flows"):
        assert stage in result.stdout
    labels = read_labels("demo_masks.tif")
    assert labels.shape == (512, 512)
    assert 300 < labels.max() < 500  # nuclei in the picture, by eye: about 400
    assert 100 < np.median(np.bincount(labels.ravel())[1:]) < 300
    assert numbers_after(result.stdout, "cells:")[0] == labels.max()
    assert "stand-in" in read_metadata("demo_masks.tif")["maps"]
    assert Image.open("demo_overlay.png").size == (1536, 1536)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["demo_masks.tif", "demo_overlay.png"]


def test_the_stand_in_makes_maps_as_a_network_does():
    data = pytest.importorskip("skimage.data")
    dP, cellprob = demo.stand_in_maps(data.immunohistochemistry()[:200, :300])
    assert dP.shape == (2, 200, 300)
    assert cellprob.shape == (200, 300)
    assert dP.dtype == cellprob.dtype == np.float32
    assert np.isfinite(dP).all()
    assert np.isfinite(cellprob).all()
    assert 0.1 < (cellprob > 0).mean() < 0.5
    assert 3 < np.median(np.hypot(*dP)[cellprob > 0]) <= 5.001
    _, report = cellpost.follow_flows(dP, cellprob, return_report=True)
    assert report.n_bad_flow < 0.1 * report.n_labels  # its flow fits its cells


def test_without_scikit_image(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    result = run("--output-dir", tmp_path)
    assert result.exit_code == 1
    assert "cellpost[demo]" in result.stderr
    assert result.stderr.count("\n") == 1
    tifffile.imwrite(tmp_path / "labels.tif", simulate.blobs((60, 70), 9).astype(np.uint16))
    assert run("--labels", tmp_path / "labels.tif", "--output-dir", tmp_path).exit_code == 0


# ---- simulated outputs --------------------------------------------------------------------------


def test_demo_of_labels(tmp_path):
    labels = simulate.blobs((120, 90), 40, seed=3, radius=(4, 7))
    tifffile.imwrite(tmp_path / "labels.tif", labels.astype(np.uint16))
    Image.fromarray(np.zeros((120, 90), np.uint8)).save(tmp_path / "image.png")
    given = ["--labels", tmp_path / "labels.tif", "--image", tmp_path / "image.png"]
    texts = [run(*given, "--output-dir", tmp_path, "--seed", seed).stdout for seed in (0, 0, 1)]
    f1, n_matched, n_true = numbers_after(texts[0].replace("F1 at IoU 0.5:", "F1:"), "F1:")[:3]
    assert f1 > 0.8
    assert n_matched <= n_true == len(np.unique(labels)) - 1
    assert "noise 0.5, seed 0" in texts[0]
    assert Image.open(tmp_path / "demo_overlay.png").size == (270, 360)
    assert read_labels(tmp_path / "demo_masks.tif").shape == labels.shape


def test_demo_of_a_volume(tmp_path):
    labels = simulate.blobs((20, 40, 50), 12, seed=1, radius=(4, 7))
    np.save(tmp_path / "labels.npy", labels)
    result = run("--labels", tmp_path / "labels.npy", "--output-dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert "20 x 40 x 50" in result.stdout
    assert "remove_bad_flows" not in result.stdout


def test_real_nuclei_come_back(nuclei2d):
    f1 = [
        demo.match_labels(
            nuclei2d, cellpost.follow_flows(*demo.simulated_maps(nuclei2d, noise=n))
        ).f1
        for n in (0.0, 0.5, 1.0)
    ]
    assert f1[0] > 0.99
    assert min(f1) > 0.95


def test_simulated_maps_are_seeded():
    labels = simulate.blobs((30, 40), 5)
    exact, same, other = (
        demo.simulated_maps(labels, noise=n, seed=s) for n, s in ((0, 0), (0, 1), (0.5, 0))
    )
    again = demo.simulated_maps(labels, noise=0.5, seed=0)
    for a, b, c, d in zip(exact, same, other, again, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(c, d)
        assert 0.4 < np.std(c - a) < 0.6
    np.testing.assert_array_equal(exact[0], 5 * cellpost.masks_to_flows(labels))


# ---- F1 -----------------------------------------------------------------------------------------


def match_by_hand(true, found):
    """The largest one-to-one matching, by trying."""
    ids_true, ids_found = ([i for i in np.unique(a) if i > 0] for a in (true, found))
    partners = [
        [
            f
            for f in ids_found
            if 2 * ((true == t) & (found == f)).sum() >= ((true == t) | (found == f)).sum()
        ]
        for t in ids_true
    ]

    def largest(i, taken):
        if i == len(partners):
            return 0
        with_i = [1 + largest(i + 1, taken | {f}) for f in partners[i] if f not in taken]
        return max([largest(i + 1, taken), *with_i])

    return demo.Match(len(ids_true), len(ids_found), largest(0, frozenset()))


@settings(deadline=None, max_examples=200)
@given(
    hnp.arrays(np.int32, (3, 4), elements=st.integers(0, 4)),
    hnp.arrays(np.uint16, (3, 4), elements=st.integers(0, 3)),
)
def test_match_by_hand(true, found):
    assert demo.match_labels(true, found) == match_by_hand(true, found)


@pytest.mark.parametrize(
    ("true", "found", "n_matched"),
    [
        ([1, 1, 1, 1], [5, 5, 7, 7], 1),  # both halves at IoU 0.5: one of them
        ([5, 5, 7, 7], [1, 1, 1, 1], 1),
        ([5, 5, 7, 7, 2, 2], [1, 1, 1, 1, 3, 4], 2),
        ([1, 1, 0, 0], [0, 1, 1, 0], 0),
        ([9, 9, 9, 0], [0, 1, 1, 0], 1),
        ([0, 0, 0, 0], [0, 1, 1, 0], 0),
    ],
)
def test_match_at_exactly_one_half(true, found, n_matched):
    assert demo.match_labels(np.array([true]), np.array([found])).n_matched == n_matched


def test_f1():
    assert demo.Match(4, 6, 3).f1 == 0.6
    assert demo.Match(0, 3, 0).f1 == 0
    assert math.isnan(demo.Match(0, 0, 0).f1)


# ---- what it refuses ----------------------------------------------------------------------------


def assert_fails(result, code, part):
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == 1
    assert part in result.stderr


def test_refusals(tmp_path):
    labels, image = tmp_path / "labels.npy", tmp_path / "image.png"
    np.save(labels, simulate.blobs((60, 70), 9))
    Image.fromarray(np.zeros((60, 71), np.uint8)).save(image)
    out = ["--output-dir", tmp_path]
    assert_fails(run("--image", image, *out), 2, "--labels")
    assert_fails(run("--labels", tmp_path / "none.tif", *out), 2, "no file")
    assert_fails(run("--labels", labels, "--image", image, *out), 2, "shape")
    assert_fails(run("--labels", labels, "--output-dir", tmp_path / "none"), 1, "none")
    assert run("--labels", labels, "--noise=-1", *out).exit_code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image.png", "labels.npy"]


def test_stages_that_disagree_are_told(monkeypatch):
    maps = simulate.from_labels(simulate.blobs((60, 70), 9))
    wrong = cellpost.follow_flows(maps.dP, maps.cellprob) * 2
    monkeypatch.setattr(cellpost, "follow_flows", lambda *_: wrong)
    with pytest.raises(RuntimeError, match="one by one"):
        demo.timed_stages(maps.dP, maps.cellprob)
