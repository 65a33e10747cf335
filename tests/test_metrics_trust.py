"""Reliability of checkpoints, pseudo-labels, cuts at seams, and the time that is allowed."""

from __future__ import annotations

import numpy as np
import pytest
import simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import labels as ref_labels
from reference import metrics as ref

import cellpost
from cellpost import metrics

OK = np.array([[1, 1, 0, 2]])

# ---- checkpoints --------------------------------------------------------------------------------


def checkpoints(seed, noise):
    last = simulate.blobs((30, 30), 12, seed=seed)
    rng = np.random.default_rng(seed)
    return [np.where(rng.random(last.shape) < noise, 0, last) for _ in range(3)] + [last]


def test_stability_is_the_mean_f1():
    labels = checkpoints(0, 0.45)
    expected = [ref.matching(labels[-1], one, 0.5)["f1"] for one in labels[:-1]]
    assert metrics.stability(labels) == pytest.approx(np.mean(expected), abs=1e-12)
    assert 0 < metrics.stability(labels) < 1
    assert metrics.stability([labels[-1]] * 3) == 1.0
    assert metrics.stability([OK * 0, OK * 0]) == 0.0


def test_ranking():
    images = [checkpoints(s, noise) for s, noise in enumerate([0.5, 0.0, 0.95, 0.5, 0.0])]
    found = metrics.rank_by_reliability(iter(images))
    assert found.stability.tolist() == [metrics.stability(one) for one in images]
    assert found.order.tolist()[:2] == [1, 4]  # equal: the first given
    assert found.order[-1] == 2
    assert found.reliable.tolist() == [1, 4]
    assert found.unreliable.tolist() == found.order[2:].tolist()
    nothing = metrics.rank_by_reliability([])
    assert nothing.order.shape == nothing.reliable.shape == (0,)


def test_wrong_checkpoints():
    with pytest.raises(ValueError, match="labels: expected those of two or more checkpoints"):
        metrics.stability([OK])
    with pytest.raises(TypeError, match="labels: expected a sequence of arrays; got ndarray"):
        metrics.stability(np.stack([OK, OK]))
    with pytest.raises(ValueError, match=r"labels\[1\]: expected the last one's shape"):
        metrics.stability([OK, OK.T, OK])
    with pytest.raises(TypeError, match=r"labels\[0\]: expected an integer dtype; got float64"):
        metrics.stability([OK * 1.0, OK])
    with pytest.raises(ValueError, match=r"labels\[1\]: expected ids >= 0; got -2"):
        metrics.stability([OK, -OK])
    with pytest.raises(ValueError, match=r"images\[1\]: labels: expected those of two"):
        metrics.rank_by_reliability([[OK, OK], [OK]])


# ---- confidence ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 2))
def test_confident_labels(seed, form):
    rng = np.random.default_rng(seed)
    labels = simulate.blobs([(20, 20), (4, 9, 9), (3, 3)][form], 15, seed=seed)
    ids = ref.ids_of(labels)
    scores = rng.choice([0.1, 0.9, 0.91, 1.0], len(ids))
    kept, index = metrics.confident((labels, scores))
    expected = np.where(np.isin(labels, np.array(ids)[scores > 0.9]), labels, 0)
    assert kept.dtype == np.int32
    assert (kept == ref_labels.relabel(expected)).all()
    for new, i in enumerate(index.tolist(), 1):
        assert np.unique(labels[kept == new]).tolist() == [ids[i]]
    assert len(index) == kept.max() == (scores > 0.9).sum()


def test_confident_kinds_and_ids(kind):
    labels = np.array([[0, 70_001, 70_001], [2**31 + 9, 0, 5]])
    given = kind.put(labels.copy())
    kept, index = metrics.confident((given, np.array([0.95, 0.2, 0.99])))
    assert kind.owns(kept)
    assert kind.get(kept).tolist() == [[0, 0, 0], [1, 0, 2]]
    assert index.tolist() == [2, 0]
    assert (labels == [[0, 70_001, 70_001], [2**31 + 9, 0, 5]]).all()


def test_confident_detections():
    found = cellpost.Detections(boxes=np.arange(12.0).reshape(3, 4), scores=[0.95, 0.9, 0.99])
    kept, index = metrics.confident(found)
    assert index.tolist() == [0, 2]
    assert kept.scores.tolist() == [0.95, 0.99]
    assert metrics.confident(found, 0.0)[1].tolist() == [0, 1, 2]
    assert len(metrics.confident(found[:0])[0]) == 0
    torch = pytest.importorskip("torch")
    found = cellpost.Detections(boxes=torch.zeros((2, 4)), scores=torch.tensor([0.95, 0.5]))
    assert metrics.confident(found)[0].scores.tolist() == [pytest.approx(0.95)]


def test_confident_of_nothing():
    for shape in [(3, 4), (0, 4)]:
        kept, index = metrics.confident((np.zeros(shape, int), []))
        assert kept.shape == shape
        assert index.tolist() == []
    kept, index = metrics.confident((OK, [0.1, 0.2]))
    assert not kept.any()
    assert index.tolist() == []


@pytest.mark.parametrize(
    ("found", "threshold", "error", "says"),
    [
        (OK, 0.9, TypeError, r"found: expected Detections or \(labels, scores\); got ndarray"),
        ((OK,), 0.9, TypeError, "found: .* got a tuple of 1"),
        ((OK, [0.5]), 0.9, ValueError, r"scores: expected one for each of 2 .* got shape \(1,\)"),
        ((OK, [[0.5, 0.5]]), 0.9, ValueError, "scores: expected one for each of 2 objects"),
        ((OK, [0.5, float("nan")]), 0.9, ValueError, "scores: expected numbers; got NaN at 1"),
        ((OK, ["a", "b"]), 0.9, TypeError, "scores: expected a real dtype"),
        ((OK, [0.5, 0.5]), float("nan"), ValueError, "threshold: expected a number; got NaN"),
        ((OK, [0.5, 0.5]), "x", TypeError, "threshold: expected a number; got 'x'"),
        ((OK * 1.0, [0.5, 0.5]), 0.9, TypeError, "labels: expected an integer dtype; got float64"),
        ((-OK, [0.5, 0.5]), 0.9, ValueError, "labels: expected ids >= 0; got -2"),
    ],
)
def test_confident_rejects(found, threshold, error, says):
    with pytest.raises(error, match=says):
        metrics.confident(found, threshold)


# ---- seams --------------------------------------------------------------------------------------


def cells(shape=(600, 600), n=1500, seed=0):
    """Round cells that hardly touch."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    y, x = np.indices((25, 25)) - 12
    for i in range(1, n + 1):
        r = rng.uniform(4, 12)
        at = [int(rng.integers(0, m - 25)) for m in shape]
        window = labels[at[0] : at[0] + 25, at[1] : at[1] + 25]
        disc = y**2 + x**2 < r**2
        if not window[disc].any():
            window[disc] = i
    return labels


def cut(labels, grid):
    """Each tile's core with ids of its own: every cell at a seam is cut."""
    out = labels.copy()
    for i in range(len(grid)):
        core = grid.core(i)
        out[core] = np.where(labels[core] > 0, labels[core] + i * (int(labels.max()) + 1), 0)
    return out


def test_seams_of_cut_and_of_whole_cells():
    labels = cells()
    grid = cellpost.TileGrid(labels.shape, tile=128, overlap=0.25)
    whole = metrics.seam_score(labels, grid)
    assert 0.7 < whole.ratio < 1.4
    broken = metrics.seam_score(cut(labels, grid), grid)
    assert broken.share == 1.0
    assert broken.ratio > 5
    assert broken.n_cut > 3 * whole.n_cut
    assert broken.expected == pytest.approx(whole.expected, rel=0.1)


def test_some_cells_cut():
    labels = cells(seed=1)
    grid = cellpost.TileGrid(labels.shape, tile=100, layout="nonoverlap")
    mixed = np.where(labels % 4 == 0, cut(labels, grid), labels)
    assert 1.5 < metrics.seam_score(mixed, grid).ratio < 5


def test_real_nuclei_have_no_seams(nuclei2d):
    nuclei2d = nuclei2d.astype(np.int32)
    wide = np.concatenate([nuclei2d, np.where(nuclei2d > 0, nuclei2d + 1000, 0)[::-1]])
    grids = [
        cellpost.TileGrid(wide.shape, tile=96, stride=s, layout="fixed") for s in range(60, 90, 3)
    ]
    ratios = [metrics.seam_score(wide, grid).ratio for grid in grids]
    assert 0.85 < np.mean(ratios) < 1.15  # chance: some 300 boundary pixels a grid
    assert metrics.seam_score(cut(wide, grids[0]), grids[0]).ratio > 5


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6))
def test_seam_score_is_the_oracle(seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(2, 50)), int(rng.integers(2, 50)))
    labels = simulate.blobs(shape, 25, seed=seed, radius=(1, 6))
    places = [sorted(set(rng.integers(1, n, rng.integers(0, 4)).tolist())) for n in shape]
    got = metrics.seam_score(labels, places)
    share, expected, ids = ref.seam_shares(labels, places)
    assert (got.share, got.expected, got.n_cut) == (share, expected, len(ids))
    if expected:
        assert got.ratio == share / expected
    turned = metrics.seam_score(np.ascontiguousarray(labels.T), places[::-1])
    assert repr(turned) == repr(got)


def test_seams_of_a_grid_are_the_borders_of_cores():
    labels = np.random.default_rng(0).integers(0, 4, (70, 53))
    grid = cellpost.TileGrid(labels.shape, tile=20, overlap=0.5)
    owner = np.zeros(labels.shape, int)
    for i in range(len(grid)):
        owner[grid.core(i)] = i
    places = [
        [
            k
            for k in range(1, n)
            if not np.array_equal(*np.split(np.take(owner, [k - 1, k], a), 2, a))
        ]
        for a, n in enumerate(labels.shape)
    ]
    assert metrics.seam_score(labels, grid) == metrics.seam_score(labels, places)
    one_tile = cellpost.TileGrid(labels.shape, tile=100)
    assert metrics.seam_score(labels, one_tile) == metrics.SeamScore(0.0, 0.0, 1.0, 0)


def test_seams_in_volumes(kind):
    labels = np.zeros((20, 30, 30), np.int32)
    labels[2:18, 4:26, 4:26] = 1
    labels[10:][labels[10:] > 0] = 7
    given = kind.put(labels)
    found = metrics.seam_score(given, [[10], [], []])
    assert (found.share, found.expected, found.n_cut) == (1.0, pytest.approx(2 / 12), 2)
    assert metrics.seam_score(given, [[], [15], []]).share == 0.0
    grid = cellpost.TileGrid(labels.shape, tile=(10, 30, 30), layout="nonoverlap")
    assert metrics.seam_score(given, grid) == found


def test_seams_without_lines_to_compare():
    labels = np.ones((4, 4), int)
    found = metrics.seam_score(labels, [[2], [2]])
    assert found.share == found.expected == 0.0
    assert np.isnan(found.ratio)
    assert metrics.seam_score(labels * 0, [[2], [2]]).ratio == 1.0
    empty = np.zeros((0, 5), int)
    assert metrics.seam_score(empty, cellpost.TileGrid((0, 5))).n_cut == 0


@pytest.mark.parametrize(
    ("labels", "seams", "error", "says"),
    [
        (OK, [[], [4]], ValueError, r"seams\[1\]: expected 0 < place < 4; got 4"),
        (OK, [[0], []], ValueError, r"seams\[0\]: expected 0 < place < 1; got 0"),
        (OK, [[], [1.5]], TypeError, r"seams\[1\]: expected integers; got \[1.5\]"),
        (OK, [[]], ValueError, "seams: expected a TileGrid or 2 sequences"),
        (OK, 3, ValueError, "seams: expected a TileGrid or 2 sequences"),
        (OK, cellpost.TileGrid((9, 9)), ValueError, r"seams: expected a grid of \(1, 4\)"),
        (OK * 1.0, [[], []], TypeError, "labels: expected an integer dtype; got float64"),
        (-OK, [[], []], ValueError, "labels: expected ids >= 0; got -2"),
        (OK[0], [[]], ValueError, "labels: expected 2 axes"),
    ],
)
def test_seam_score_rejects(labels, seams, error, says):
    with pytest.raises(error, match=says):
        metrics.seam_score(labels, seams)


# ---- time ---------------------------------------------------------------------------------------


def test_time_tolerance():
    assert metrics.time_tolerance((1000, 1000)) == 10.0
    assert metrics.time_tolerance((0, 0)) == metrics.time_tolerance((3, 4)) == 10.0
    assert metrics.time_tolerance((1000, 1001)) == pytest.approx(10.01)
    assert metrics.time_tolerance((8415, 10496)) == pytest.approx(883.2384)
    assert metrics.time_tolerance((10, 1000, 1000)) == 100.0
    assert metrics.within_budget((1000, 1000), 10)
    assert not metrics.within_budget((1000, 1000), 10.001)
    with pytest.raises(ValueError, match="shape: expected"):
        metrics.time_tolerance((3,))
    for seconds in (-1, float("nan")):
        with pytest.raises(ValueError, match="seconds: expected 0 or more"):
            metrics.within_budget((3, 3), seconds)
    with pytest.raises(TypeError, match="seconds: expected a number"):
        metrics.within_budget((3, 3), None)
