"""The table of the five systems: its counts, and what it says of paper and default."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

import systems_runs

import cellpost
from cellpost import TileGrid, synthetic

# By its file: tests have a module of that name, too.
spec = importlib.util.spec_from_file_location(
    "bench_systems", Path(systems_runs.__file__).with_name("systems.py")
)
systems = importlib.util.module_from_spec(spec)
spec.loader.exec_module(systems)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Rows of `--quick`, by image, system and mode; and the file that was written."""
    path = tmp_path_factory.mktemp("systems") / "rows.json"
    rows = systems.main(["--quick", "--repeats", "1", "--json", str(path)])
    return {(row.image, row.system, row.mode): row for row in rows}, path


def both(rows, system):
    """Pairs of the paper's and cellpost's row, one for each image."""
    images = {image for image, of_system, _ in rows if of_system == system}
    return [[rows[image, system, mode] for mode in ("paper", "cellpost")] for image in images]


def test_repeated_ids_are_counted_where_their_cells_do_not_touch():
    true = np.zeros((4, 20), np.int32)
    for k in range(5):
        true[:, 4 * k : 4 * k + 3] = k + 1
    found = true.copy()
    assert systems_runs.n_repeated_ids(true, found) == 0
    found[found == 4] = 1  # as 1, and does not touch it
    assert systems_runs.n_repeated_ids(true, found) == 1
    found[found == 5] = 1  # a third one of that id
    assert systems_runs.n_repeated_ids(true, found) == 1
    found[found == 3] = 2
    assert systems_runs.n_repeated_ids(true, found) == 2
    merged = true.copy()
    merged[:, 3], merged[true == 2] = 1, 1  # one object, which is merged, not repeated
    assert systems_runs.n_repeated_ids(true, merged) == 0
    assert systems_runs.n_repeated_ids(true, np.zeros_like(true)) == 0


def test_windows_are_told_apart_by_numbering_them_through():
    grid = TileGrid((4, 7), tile=4, layout="nonoverlap")
    found = np.array([[1, 1, 2, 2, 2, 2, 1]] * 4, np.int32)
    expected = np.array([[1, 1, 2, 2, 4, 4, 3]] * 4)
    np.testing.assert_array_equal(systems_runs.told_apart(found, grid), expected)


def test_the_perfect_segmenter_sees_the_cell_with_most_pixels():
    crop = np.array([[0, 7, 7, 2**24 + 7], [0, 7, 0, 2**24 + 7], [0, 0, 0, 0]])
    both_crops = np.stack([synthetic.encode(crop), synthetic.encode(np.zeros_like(crop))])
    seen = systems_runs.most_of(both_crops)
    np.testing.assert_array_equal(seen[:, 0], [crop == 7, np.zeros_like(crop)])


def test_networks_pixels_are_counted_and_their_time_is_theirs():
    network = systems_runs.Timed(np.sin)
    for n in (1, 3):
        network(np.zeros((n, 2, 8, 5), np.float32))
    assert network.pixels == 4 * 8 * 5
    assert 0 < network.seconds < 1


def test_maps_are_made_of_the_truth_and_read_from_their_file_part_by_part(tmp_path):
    labels = cellpost.relabel(
        synthetic.Scene((300, 400), "nuclei", diameter=20, seed=2).labels[...]
    )
    files = [str(tmp_path / name) for name in ("labels.npy", "maps.npy")]
    np.save(files[0], labels)
    systems_runs.make_maps(*files, tile=200)
    image = systems_runs.lazily(files[1])
    assert image.shape == (3, 300, 400)
    np.testing.assert_array_equal(image[:, 1:40, 20:], np.load(files[1])[:, 1:40, 20:])
    found = cellpost.follow_flows(image[:2], image[2])
    assert cellpost.metrics.f1(labels, found) > 0.95


def test_what_vsm_published_is_what_its_formula_gives(quick):
    row = next(iter(quick[0].values()))
    slide = replace(row, system="vsm", shape=(8415, 10496), n_true=76380)
    # The paper's figure is 510.61 s; its coefficients have three digits.
    assert systems.published_seconds(slide) == pytest.approx(510.61, rel=0.005)
    small = replace(row, system="vsm", shape=(2048, 2048), n_true=6557)
    assert systems.published_seconds(small) == pytest.approx(41.57, rel=0.005)
    assert systems.published_seconds(replace(row, system="mediar")) is None


def test_every_system_has_its_row_or_a_word(quick):
    rows, path = quick
    wanted = {
        (image, system, mode)
        for image in ("real nuclei", "slide")
        for system in systems.SYSTEMS
        for mode in ("paper", "cellpost")
        if (system, image) not in systems.NOT_RUN
    }
    assert set(rows) == wanted
    assert len(systems.SYSTEMS) == 5
    saved = json.loads(path.read_text())
    assert saved["noise"] == systems_runs.NOISE
    assert [row["f1"] for row in saved["systems"]] == [row.f1 for row in rows.values()]


@pytest.mark.parametrize("system", systems.SYSTEMS)
def test_the_default_is_no_worse_than_the_paper(quick, system):
    for paper, ours in both(quick[0], system):
        assert ours.f1 >= paper.f1 - 0.005, (paper, ours)
        assert ours.n_repeated_ids == 0
        assert ours.f1 > 0.9
        assert ours.within_tolerance
        assert ours.n_true == paper.n_true > 100


def test_mediars_windows_cut_cells_and_repeat_ids_and_the_default_does_not(quick):
    paper, ours = (quick[0]["slide", "mediar", mode] for mode in ("paper", "cellpost"))
    assert paper.n_repeated_ids > 50
    assert paper.seam_ratio > 5
    assert paper.n_harms_at_seams > 10
    # Lines that are no seams have ratios of 1 give or take; cells end there by chance.
    assert ours.seam_ratio < 1.5
    assert ours.n_harms_at_seams <= 1
    assert ours.n_cut < paper.n_cut / 2


def test_hovernets_tiles_side_by_side_cut_nuclei(quick):
    paper, ours = (quick[0]["slide", "hovernet_weak", mode] for mode in ("paper", "cellpost"))
    assert paper.seam_ratio > 3
    assert ours.seam_ratio < 1.5
    assert ours.f1 > paper.f1 + 0.02


def test_train4evers_limit_of_instances_an_image_costs_cells_without_tiles(quick):
    paper, ours = (quick[0]["slide", "train4ever", mode] for mode in ("paper", "cellpost"))
    assert paper.n_found <= 1000 < paper.n_true
    assert ours.f1 > 0.99


def test_rows_can_be_shown_again_and_written_into_a_page(quick, tmp_path, capsys):
    rows, path = quick
    page = tmp_path / "page.md"
    page.write_text(f"before\n{systems.MARKS[0]}old\n{systems.MARKS[1]}after\n")
    shown = systems.main(["--show", str(path), "--markdown", str(page)])
    assert [(row.image, row.system, row.mode) for row in shown] == list(rows)
    assert "SIMULATED" in capsys.readouterr().out
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "simulated" in text
    assert sum(line.startswith("| mediar") for line in text.splitlines()) == 4
    with pytest.raises(ValueError, match="expected the marks"):
        systems.write_markdown(path, "text")


def test_a_run_that_fails_tells_why(tmp_path):
    task = systems_runs.Task("vsm", False, "none", str(tmp_path / "none.npy"))
    with pytest.raises(RuntimeError, match="No such file"):
        systems.run(task)
