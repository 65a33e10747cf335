"""The table of what tiling does to objects: its counts, and what it says of each way."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

import seams
import simulate

import cellpost

POLICIES = ("mutual", "iou", "ios", "center")


@pytest.fixture(scope="module")
def discs():
    """Their sides are multiples of 100: tiles of that side without overlap share nothing."""
    labels = simulate.packed_discs((300, 400), radius=(6, 12), tries=2400, clip=1.15)
    return cellpost.relabel(labels)


def counts(rows):
    return {row.way: (row.n_split, row.n_merged, row.n_lost) for row in rows}


def test_outcomes_are_what_the_definitions_say():
    true = np.repeat(np.arange(1, 8), 10)[None].astype(np.int32)  # seven objects of 10 pixels
    found = np.zeros_like(true)
    found[0, :9], found[0, 9] = 1, 2  # a tenth: split
    found[0, 10:30] = 3  # two: merged
    found[0, 30:34] = 4  # 4 of 10: lost
    found[0, 40:45], found[0, 45:50] = 5, 6  # halves: split, not lost
    found[0, 50:60], found[0, 60:64], found[0, 64:70] = 7, 7, 8  # whole; split, not merged
    ids = np.arange(1, 8)
    assert seams.outcome(true, found, ids) == (3, 2, 1)
    assert [seams.outcome(true, found, ids[i : i + 1]) for i in range(7)] == [
        (1, 0, 0),
        (0, 1, 0),
        (0, 1, 0),
        (0, 0, 1),
        (1, 0, 0),
        (0, 0, 0),
        (1, 0, 0),
    ]
    assert seams.outcome(true, np.zeros_like(true), ids) == (0, 0, 7)
    assert seams.outcome(true, true, ids) == (0, 0, 0)


def test_objects_at_seams_are_those_that_borders_of_tiles_or_cores_cut(discs):
    grid = cellpost.TileGrid(discs.shape, tile=100, overlap=0.4)
    expected = set()
    for i in range(len(grid)):
        for part in (grid[i], grid.core(i)):
            inside = np.bincount(discs[part].ravel(), minlength=discs.max() + 1)
            whole = np.bincount(discs.ravel())
            expected |= set(np.flatnonzero((inside > 0) & (inside < whole))) - {0}
    assert seams.at_seams(discs, grid).tolist() == sorted(expected)


def test_perfect_tiles_with_enough_overlap_lose_nothing_but_pasting_splits(discs):
    rows = seams.rows_of("discs", discs, "perfect", 100, 0.4)
    assert all(row.promised for row in rows)
    assert {row.overlap_px for row in rows} == {40}
    assert rows[0].largest_px < 40
    found = counts(rows)
    assert {found[way] for way in ("one tile", *POLICIES)} == {(0, 0, 0)}
    assert rows[0].n_at_seams > 50
    assert found["pasting"][0] > 0.1 * rows[0].n_at_seams
    assert "join_fragments" not in found


def test_perturbed_tiles_cost_little_where_pasting_costs_much(discs):
    rows = seams.rows_of("discs", discs, "perturbed", 100, 0.4)
    found = counts(rows)
    assert sum(found["mutual"]) <= 0.05 * rows[0].n_at_seams
    assert found["pasting"][0] > 0.1 * rows[0].n_at_seams


def test_without_overlap_fragments_are_joined_and_nothing_is_promised(discs):
    rows = seams.rows_of("discs", discs, "perfect", 100, 0)
    found = counts(rows)
    assert not any(row.promised for row in rows)
    assert found["mutual"] == found["pasting"]
    assert found["join_fragments"][0] < 0.1 * found["pasting"][0]


def test_cellposes_merge_joins_no_fragment_of_an_image(discs):
    """What it shrinks labels by at faces leaves nothing of those of a 2D block."""
    try:
        seams.peers.cellpose_distributed()
    except ImportError as error:
        pytest.skip(f"cellpose's distributed merge cannot be imported: {error}")
    found = counts(seams.rows_of("discs", discs, "perfect", 100, 0))
    assert found["Cellpose"] == found["pasting"]


def test_the_command_writes_the_rows(tmp_path, capsys, monkeypatch):
    labels = np.zeros((120, 120), np.int32)
    labels[50:70, 50:70] = 1
    monkeypatch.setattr(seams, "image_of", lambda name, side: labels[:side, :side])
    path = tmp_path / "rows.json"
    seams.main(f"--side 120 --tile 60 --overlap 0 0.5 --json {path}".split())
    shown, saved = capsys.readouterr().out, json.loads(path.read_text())
    assert "nuclei, perfect tiles" in shown
    assert "packed discs, perturbed tiles" in shown
    assert saved["command"].startswith("python bench/seams.py --side 120")
    kinds = {(row["image"], row["tiles"], row["overlap"]) for row in saved["seams"]}
    assert len(kinds) == 8
    promised = [row for row in saved["seams"] if row["promised"]]
    assert {row["overlap_px"] for row in promised} == {30}
