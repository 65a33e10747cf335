"""MEDIAR's recipe, row by row of its table, against NumPy, scikit-image and the kernels."""

from __future__ import annotations

import importlib
import inspect
import math

import numpy as np
import pytest
from recipe_networks import F, Spy
from recipe_rows import row
from skimage import morphology

import cellpost
from cellpost import metrics
from cellpost.recipes import mediar
from cellpost.synthetic import FlowNetwork, Scene, encode

MODULE = importlib.import_module("cellpost.recipes.mediar")
PLAIN = {"normalize": None, "channel_axis": 0}


def identity(batch):
    return batch.copy()


@pytest.fixture
def followed(monkeypatch):
    """The flows and the foreground of all that was followed, but for empty ones."""
    seen, follow = [], MODULE.follow_flows

    def spy(dP, cellprob, **options):
        if cellprob.size:
            seen.append((dP.copy(), cellprob.copy()))
        return follow(dP, cellprob, **options)

    monkeypatch.setattr(MODULE, "follow_flows", spy)
    return seen


def flow_maps(labels, length=5.0):
    """What a network without errors gives."""
    logit = np.where(labels > 0, F(5), F(-5))
    return np.concatenate([F(length) * cellpost.masks_to_flows(labels), logit[None]])


def disc(radius, size=64):
    at = np.arange(size) - size // 2
    return (at[:, None] ** 2 + at**2 <= radius**2).astype(np.int32)


@row("A. MEDIAR", "preprocessing")
def test_percentiles_0_and_99_5_become_0_and_1():
    image = np.random.default_rng(0).gamma(2, 20, (300, 280, 3)).astype(np.uint8)
    low, high = np.percentile(image, [0.0, 99.5])
    network = Spy(identity)
    mediar(image, network, augment=None, flow_threshold=None)
    (shown,) = network.shown
    expected = np.clip((image - low) / (high - low), 0, 1)
    y, x = (512 - 300) // 2, (512 - 280) // 2  # padded on both sides
    inside = shown[0, :, y : y + 300, x : x + 280]
    np.testing.assert_allclose(inside, np.moveaxis(expected, -1, 0), atol=1e-6)  # float32
    assert shown.sum() == inside.sum()
    assert (inside.min(), inside.max()) == (0, 1)


@row("A. MEDIAR", "tile inference")
def test_windows_of_512_overlap_by_0_6_and_are_weighted_by_gaussians(followed):
    rng = np.random.default_rng(1)
    network = Spy(lambda batch: rng.standard_normal(batch.shape, F))
    how = {**PLAIN, "augment": None, "flow_threshold": None, "min_foreground": 0}
    mediar(np.zeros((3, 720, 600), F), network, **how)
    assert network.shapes == [(4, 3, 512, 512), (2, 3, 512, 512)]  # 4 a batch
    step = int(512 * (1 - 0.6))
    starts = [(y, x) for y in (0, step, 720 - 512) for x in (0, 600 - 512)]
    at = np.arange(512) - 511 / 2
    window = np.exp(-(at**2) / (2 * (0.125 * 512) ** 2))
    weight = np.maximum(np.outer(window, window), 1e-3)
    total, weights = np.zeros((3, 720, 600)), np.zeros((720, 600))
    for (y, x), tile in zip(starts, np.concatenate(network.said), strict=True):
        total[:, y : y + 512, x : x + 512] += weight * tile
        weights[y : y + 512, x : x + 512] += weight
    ((dP, cellprob),) = followed
    np.testing.assert_allclose(dP, (total / weights)[:2], atol=1e-4)  # float32 sums
    logit = (total / weights)[2]
    sure = np.abs(logit) > 1e-4
    np.testing.assert_array_equal((cellprob > 0)[sure], (logit > 0)[sure])


@row("A. MEDIAR", "test-time augmentation")
@row("A. MEDIAR", "ensemble")
def test_three_views_of_two_models_are_turned_back_and_averaged(followed):
    rng = np.random.default_rng(2)
    networks = [Spy(lambda batch: rng.standard_normal(batch.shape, F)) for _ in range(2)]
    image = rng.random((3, 512, 512), F)
    mediar(image, networks, flow_threshold=None, **PLAIN)
    views = [image, image[..., ::-1], image[:, ::-1]]
    back = []
    for network in networks:
        assert len(network.shown) == 3
        for shown, view in zip(network.shown, views, strict=True):
            np.testing.assert_array_equal(shown[0], view)
        same, mirrored, upside_down = (said[0] for said in network.said)
        back += [
            same,
            mirrored[..., ::-1] * np.array([1, -1, 1])[:, None, None],
            upside_down[:, ::-1] * np.array([-1, 1, 1])[:, None, None],
        ]
    ((dP, cellprob),) = followed
    mean = np.mean(back, axis=0)
    np.testing.assert_allclose(dP, mean[:2], atol=1e-6)  # float32
    np.testing.assert_array_equal(cellprob > 0, cleaned(mean[2] > 0))


@row("A. MEDIAR", "heads")
def test_flows_are_of_five_times_the_unit_and_the_probability_is_a_sigmoid():
    labels, how = disc(12), {**PLAIN, "augment": None}
    assert metrics.f1(labels, mediar(flow_maps(labels, 5.0), identity, **how)) == 1
    assert mediar(flow_maps(labels, 1.0), identity, **how).max() == 0  # the flow error is large
    maps = flow_maps(labels)
    for threshold in (None, 0.2, 0.9):
        logit = math.log((threshold or 0.5) / (1 - (threshold or 0.5)))
        if threshold is not None:
            how["probability_threshold"] = threshold
        for level, n in ((logit + 1e-3, 1), (logit - 1e-3, 0)):
            maps[2] = np.where(labels > 0, F(level), F(-9))
            assert mediar(maps, identity, **how).max() == n


def cleaned(mask):
    """Fewer than 16 pixels."""
    filled = morphology.remove_small_holes(mask, max_size=15)
    return morphology.remove_small_objects(filled, max_size=15)


@row("A. MEDIAR", "mask clean-up before tracking")
def test_holes_and_specks_of_fewer_than_16_pixels_go(followed):
    mask = np.zeros((64, 64), bool)
    mask[2:5, 2:7] = mask[10:14, 2:6] = True  # 15 and 16 pixels
    mask[20:60, 20:60] = True
    mask[25:28, 25:30] = mask[35:39, 35:39] = False
    noisy = np.random.default_rng(3).random((64, 64)) < 0.55
    for logit in (mask, noisy):
        maps = np.stack([np.zeros((64, 64)), np.zeros((64, 64)), 2.0 * logit - 1]).astype(F)
        mediar(maps, identity, augment=None, flow_threshold=None, **PLAIN)
        np.testing.assert_array_equal(followed[-1][1] > 0, cleaned(logit))
    assert followed[0][1][2:5, 2:7].max() == -1
    assert followed[0][1][10:14, 2:6].min() == 1
    assert (followed[0][1][25:28, 25:30].min(), followed[0][1][36, 36]) == (1, -1)


@row("A. MEDIAR", "gradient flow tracking")
@pytest.mark.parametrize(("how", "n_steps"), [({}, 200), ({"niter": 150}, 150)])
def test_pixels_are_followed_for_200_steps(how, n_steps):
    """A bar of 600 pixels that flows to its left end: pixels farther away do not arrive."""
    maps = np.zeros((3, 40, 640), F)
    maps[2] = -5
    maps[2, 10:30, 20:620] = 5
    maps[1, :, 20:] = -5
    maps[1, :, :21] = 5
    labels = mediar(maps, identity, flow_threshold=None, augment=None, **PLAIN, **how)
    columns = np.flatnonzero((labels == labels[20, 25]).any(0))
    # Seeds grow by a few pixels.
    assert len(columns) == pytest.approx(n_steps, abs=8)


@row("A. MEDIAR", "quality control")
def test_flow_errors_above_0_4_are_dropped():
    labels = disc(14)
    kept = {}
    for length in (1.6, 1.75, 1.9, 2.05):
        maps = flow_maps(labels, length)
        error = float(cellpost.flow_error(labels, maps[:2])[0])
        kept[error] = mediar(maps, identity, augment=None, niter=1000, **PLAIN).max() == 1
    assert min(kept) < 0.4 < max(kept)
    assert kept == {error: error <= 0.4 for error in kept}


# ---- large images -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene():
    return Scene((660, 700), "nuclei", diameter=26, seed=3)


@row("A. MEDIAR", "whole slides")
def test_windows_of_2000_above_5000_x_5000():
    defaults = {k: p.default for k, p in inspect.signature(mediar).parameters.items()}
    assert (defaults["whole_up_to"], defaults["paper_window"]) == (5000 * 5000, 2000)
    grid = cellpost.TileGrid((8415, 10496), tile=2000, layout="nonoverlap")
    assert defaults["whole_up_to"] <= 8415 * 10496
    assert grid.counts == (5, 6)


@row("A. MEDIAR", "whole slides")
def test_windows_of_the_paper_cut_cells_and_repeat_ids_and_the_default_does_not(scene, followed):
    truth = scene.labels[...]
    seams = [[200, 400, 600], [200, 400, 600]]
    how = {**PLAIN, "augment": None}
    ours = mediar(scene.encoded, FlowNetwork(noise=0.05), **how)
    small = mediar(scene.encoded, FlowNetwork(noise=0.05), paper=True, paper_window=200, **how)
    np.testing.assert_array_equal(small, ours)  # of fewer pixels than are divided
    followed.clear()
    how |= {"paper_window": 200, "whole_up_to": 660 * 700}
    theirs = mediar(scene.encoded, FlowNetwork(noise=0.05), paper=True, **how)
    shapes = [cellprob.shape for _, cellprob in followed]
    assert shapes == [(h, w) for h in (200, 200, 200, 60) for w in (200, 200, 200, 100)]
    # Each window counts from 1, so its ids are those of others, too.
    for y in (0, 200, 400, 600):
        for x in (0, 200, 400, 600):
            ids = np.unique(theirs[y : y + 200, x : x + 200])
            np.testing.assert_array_equal(ids, np.arange(len(ids)))
    np.testing.assert_array_equal(np.unique(ours), np.arange(ours.max() + 1))
    n_true = metrics.n_cells(truth)
    assert metrics.n_cells(ours) == pytest.approx(n_true, rel=0.05)
    assert metrics.n_cells(theirs) < 0.5 * n_true
    pieces = cellpost.relabel(cellpost.split_fragments(theirs))  # ids taken apart
    of_truth, of_ours, of_pieces = (
        metrics.seam_score(labels, seams) for labels in (truth, ours, pieces)
    )
    assert of_ours.ratio == pytest.approx(of_truth.ratio, abs=0.1)
    assert of_ours.n_cut <= of_truth.n_cut + 1
    assert of_pieces.ratio > 5
    assert of_pieces.n_cut > 3 * of_truth.n_cut
    assert metrics.f1(truth, ours, exclude_border=2) >= 0.99
    assert metrics.f1(truth, pieces, exclude_border=2) < 0.97


def test_windows_do_as_follow_flows_does_with_each(scene, followed):
    how = {**PLAIN, "augment": None, "paper": True, "whole_up_to": 0, "paper_window": 333}
    theirs = mediar(scene.encoded, FlowNetwork(noise=0.05), min_size=40, **how)
    grid = cellpost.TileGrid(scene.shape, tile=333, layout="nonoverlap")
    for window, (dP, cellprob) in zip(grid, followed, strict=True):
        expected = cellpost.follow_flows(dP, cellprob, min_size=40)
        np.testing.assert_array_equal(theirs[window], expected)


# ---- around it ----------------------------------------------------------------------------------


@row("A. MEDIAR", "evaluation")
def test_f1_at_half_and_the_time_and_the_count():
    true, pred = np.zeros((2, 10, 10), np.int32)
    true[0, :10], pred[0, 5:10] = 1, 1
    assert metrics.f1(true, pred) == 1  # IoU 0.5 counts
    pred[0, 5] = 0
    assert metrics.f1(true, pred) == 0
    seconds = {(1, 1): 10, (1000, 1000): 10, (1000, 1001): 10.01, (8415, 10496): 883.2384}
    for shape, tolerance in seconds.items():
        assert metrics.time_tolerance(shape) == pytest.approx(tolerance)
    assert metrics.count_error(true, np.array([[1, 0, 7] * 10] * 10)[:10, :10]) == 1


@row("A. MEDIAR", "targets")
def test_targets_flow_to_the_centre_and_boundaries_become_background():
    labels = disc(12)
    dY, dX = cellpost.masks_to_flows(labels)
    y, x = np.nonzero(labels)
    outward = dY[y, x] * (y - 32) + dX[y, x] * (x - 32)
    assert (outward[np.hypot(y - 32, x - 32) > 2] < 0).all()
    np.testing.assert_allclose(np.hypot(dY, dX)[np.hypot(*(np.indices((64, 64)) - 32)) == 5], 1)
    eroded = cellpost.erode_boundary(labels)
    np.testing.assert_array_equal(eroded, morphology.erosion(labels, morphology.disk(1)))


def test_published_chain(scene):
    """Two models, three views: simulated."""
    networks = [FlowNetwork(noise=0.3, seed=seed) for seed in range(2)]
    labels = mediar(scene.encoded, networks, **PLAIN)
    assert metrics.f1(scene.labels[...], labels, exclude_border=2) >= 0.95


def test_progress_counts_tiles():
    told = []
    mediar(encode(disc(9)), FlowNetwork(), progress=lambda *n: told.append(n), **PLAIN)
    assert told == [(1, 1)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"models": []}, ValueError, "^models: expected one or more; got none"),
        ({"models": 3}, TypeError, "^models: expected a PyTorch module"),
        ({"models": lambda b: b[:, :1]}, ValueError, "^models: expected 3 channels.*in tile 0"),
        (
            {"models": lambda b: b[..., 1:]},
            ValueError,
            r"^models: expected shape \(1, K, 512, 512\); got",
        ),
        (
            {"models": lambda b: b * np.nan},
            ValueError,
            "^models: expected no NaN; got one in tile 0",
        ),
        ({"models": lambda b: 1 / 0}, RuntimeError, "^models: ZeroDivisionError.*in tile 0"),
        ({"image": "a.tif"}, TypeError, "^image: expected an array"),
        ({"image": np.zeros((4, 4), complex)}, TypeError, "^image: expected a real dtype"),
        ({"channel_axis": 5}, ValueError, "^channel_axis: expected an axis"),
        ({"normalize": "max"}, ValueError, "^normalize: expected .*'max'"),
        ({"tile": 0}, ValueError, "^tile: expected"),
        ({"overlap": 1.0}, ValueError, "^overlap: expected"),
        ({"window_sigma": 0.0}, ValueError, "^window_sigma: expected"),
        ({"batch_size": 0}, ValueError, "^batch_size: expected"),
        ({"augment": "all"}, ValueError, "^augment: expected"),
        ({"augment": []}, ValueError, "^augment: expected"),
        ({"probability_threshold": 0}, ValueError, "^probability_threshold: expected 0 < p < 1"),
        ({"probability_threshold": np.nan}, ValueError, "^probability_threshold: expected"),
        ({"probability_threshold": "half"}, TypeError, "^probability_threshold: expected a number"),
        ({"min_foreground": 1.5}, TypeError, "^min_foreground: expected an integer"),
        ({"niter": -1}, ValueError, "^niter: expected"),
        ({"flow_threshold": "low"}, TypeError, "^flow_threshold: expected"),
        ({"min_size": 2.5}, TypeError, "^min_size: expected an integer"),
        ({"whole_up_to": None}, TypeError, "^whole_up_to: expected an integer"),
        ({"paper_window": 0}, ValueError, "^paper_window: expected"),
    ],
)
def test_bad_input(arguments, error, message):
    network = Spy(identity)
    given = {"image": np.zeros((3, 20, 20), F), "models": network, **PLAIN, **arguments}
    with pytest.raises(error, match=message):
        mediar(**given)
    assert network.shown == []  # before the network has worked


@pytest.mark.parametrize("paper", [False, True])
def test_a_cell_that_fills_most_of_the_image_stays(paper):
    """MEDIAR drops what is larger than 90 % of the image."""
    y, x = np.mgrid[:64, :64]
    disc = (np.hypot(y - 31.5, x - 31.5) < 25).astype(np.int32)
    options = {"normalize": None, "channel_axis": 0, "paper": paper}
    network = FlowNetwork(noise=0)
    assert mediar(encode(disc), network, **options).max() == 1
    smaller = mediar(encode(disc), network, max_size_fraction=0.4, **options)
    assert smaller.max() == 0
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_fraction'"):
        mediar(encode(disc), network, max_fraction=0.4, **options)
