"""The Sartorius ensemble's recipe, row by row of its table."""

from __future__ import annotations

import numpy as np
import pytest
from recipe_networks import F, Spy, found, nothing
from recipe_rows import row

import cellpost
from cellpost import metrics, rle
from cellpost.recipes import sartorius
from cellpost.synthetic import DetectionNetwork, FlowNetwork, Scene, encode

PLAIN = {"channel_axis": 0}
SMALL = {
    **PLAIN,
    "tile": 64,
    "stride": 64,
    "detector_sizes": [520],
    "detector_augment": None,
    "return_scores": True,
}


def no_flows(batch):
    """Maps of tiles without cells."""
    maps = np.zeros((len(batch), 3, *batch.shape[2:]), F)
    maps[:, 2] = -5
    return maps


def maps_of(labels, logit=5.0):
    flows = F(5) * cellpost.masks_to_flows(labels)
    return np.concatenate([flows, np.where(labels > 0, F(logit), F(-5))[None]])


def square(y, x, side=20, size=64):
    labels = np.zeros((size, size), np.int32)
    labels[y : y + side, x : x + side] = 1
    return labels


def exact(boxes, scores, side=20):
    """Masks that fill their boxes to the pixel."""
    return found(boxes, scores, np.ones((len(boxes), side, side), F))


def one_view(maps):
    """A flow model that says the same of every tile."""
    return lambda batch: np.repeat(maps[None], len(batch), 0)


@row("E. Sartorius", "windows")
@row("E. Sartorius", "Cellpose TTA")
def test_4_x_4_patches_of_301_x_302_in_seven_views():
    image = np.stack(np.indices((520, 704))).astype(F)
    flows = Spy(no_flows)
    sartorius(image, flows, nothing, detector_sizes=[520], detector_augment=None, **PLAIN)
    upright = [shown for shown in flows.shown if shown.shape[2:] == (301, 302)]
    starts = np.concatenate([shown[:, :, 0, 0] for shown in upright[:: len(upright) // 4]])
    expected = [[y, x] for y in range(0, 220, 73) for x in range(0, 403, 134)]
    assert starts.astype(int).tolist() == expected
    assert len(flows.shown) == 4 * 7
    first = flows.shown[0]
    # Both flips together are the half turn, which is there twice.
    views = [
        first,
        first[..., ::-1],
        first[:, :, ::-1],
        first[:, :, ::-1, ::-1],
        *(np.rot90(first, n, (2, 3)) for n in (1, 2, 3)),
    ]
    shown = flows.shown[:7]
    n_times = [sum(np.array_equal(view, one) for one in shown) for view in views]
    assert n_times == [1, 1, 1, 2, 1, 2, 1]


@row("E. Sartorius", "Cellpose TTA")
def test_flow_vectors_are_mapped_back():
    """Each view has noise of its own; without turning the vectors they would cancel."""
    scene = Scene((64, 64), "nuclei", diameter=22, seed=3)
    network = FlowNetwork(noise=0.2)
    labels, _ = sartorius(scene.encoded, network, nothing, **SMALL)
    assert metrics.f1(scene.labels[...], labels, exclude_border=2) >= 0.95


@row("E. Sartorius", "flow settings")
def test_objects_of_20_pixels_stay_and_flow_errors_above_0_4_go():
    labels = np.zeros((64, 64), np.int32)
    labels[5:9, 5:10], labels[40:43, 40:46], labels[20:40, 10:30] = 1, 2, 3  # 20, 18, 400 pixels
    how = {**SMALL, "augment": None}
    got, _ = sartorius(encode(labels), one_view(maps_of(labels)), nothing, **how)
    np.testing.assert_array_equal(got > 0, (labels > 0) & (labels != 2))
    big = np.where(labels == 3, 1, 0)
    kept = {}
    for length in (1.6, 1.75, 1.9, 2.05):
        maps = maps_of(big)
        maps[:2] *= length / 5
        error = float(cellpost.flow_error(big.astype(np.int32), maps[:2])[0])
        got, _ = sartorius(encode(big), one_view(maps), nothing, **how)
        kept[error] = got.max() == 1
    assert min(kept) < 0.4 < max(kept)
    assert kept == {error: error <= 0.4 for error in kept}


@row("E. Sartorius", "Mask R-CNN")
def test_detectors_see_six_sizes_upright_and_upside_down():
    image = np.random.default_rng(0).random((1, 301, 302)).astype(F)
    detector = Spy(nothing)
    sartorius(image, no_flows, detector, augment=None, **PLAIN)
    sizes = [440, 480, 520, 560, 580, 620]
    expected = [cellpost.augment.View(scale=size / 520).shape((301, 302)) for size in sizes]
    assert [shape[2:] for shape in detector.shapes] == [shape for shape in expected for _ in "ab"]
    for plain, flipped in zip(detector.shown[::2], detector.shown[1::2], strict=True):
        np.testing.assert_allclose(flipped, plain[:, :, ::-1], atol=1e-6)  # resized as float32
    np.testing.assert_array_equal(detector.shown[4][0], image)


@row("E. Sartorius", "Mask R-CNN")
def test_scores_of_0_7_stay():
    boxes = [[5, 5, 25, 25], [35, 35, 55, 55]]
    for score, n in ((0.7, 2), (0.699, 1)):
        image = np.zeros((1, 64, 64), F)
        labels, _ = sartorius(image, no_flows, exact(boxes, [0.9, score]), **SMALL)
        assert labels.max() == n


@row("E. Sartorius", "Mask R-CNN")
def test_detections_near_a_patchs_centre_are_preferred():
    """Two patches see one cell; near the border of one the score is higher, and the box wrong."""
    queue = [
        exact([[42, 20, 60, 40]], [0.99]),  # 4 pixels from the border
        exact([[24, 20, 44, 40]], [0.8]),  # in the middle of the other, at 40..60
    ]
    how = {**SMALL, "stride": 16, "batch_size": 1}
    image = np.zeros((1, 64, 80), F)
    labels, scores = sartorius(image, no_flows, lambda batch: queue.pop(0)(batch), **how)
    assert cellpost.properties(labels)["bbox"].tolist() == [[20, 40, 40, 60]]
    assert scores.tolist() == [0.8]


@row("E. Sartorius", "ensemble")
@pytest.mark.parametrize(
    ("shift", "n"),
    [(14, 1), (15, 2)],  # IoU 6 / 34 = 0.18, 5 / 35 = 0.14
)
def test_instances_of_both_kinds_that_overlap_by_more_than_0_15_are_one(shift, n):
    labels = square(20, 10)
    detector = exact([[10 + shift, 20, 30 + shift, 40]], [0.9])
    flows = one_view(maps_of(labels))
    got, scores = sartorius(encode(labels), flows, detector, augment=None, **SMALL)
    assert (got.max(), len(scores)) == (n, n)
    # No pixel is of two, and the surer one has what both want.
    if n == 2:
        columns = [np.flatnonzero((got == k).any(0)) for k in (1, 2)]
        assert len(np.intersect1d(*columns)) == 0
        sure = 1 / (1 + np.exp(-5))
        np.testing.assert_allclose(scores, [sure, 0.9], atol=1e-6)
        assert (got == 1).sum() == 400


@row("E. Sartorius", "ensemble")
@pytest.mark.parametrize(("logit", "wins"), [(5.0, "flows"), (0.2, "detector")])
def test_masks_of_one_cell_are_fused_by_confidence(logit, wins):
    labels = square(20, 10)
    flows = one_view(maps_of(labels, logit))
    image, detector = encode(labels), exact([[14, 20, 34, 40]], [0.9])
    got, scores = sartorius(image, flows, detector, augment=None, **SMALL)
    expected = labels if wins == "flows" else square(20, 14)
    np.testing.assert_array_equal(got, expected)
    assert scores[0] == pytest.approx((1 / (1 + np.exp(-logit)) + 0.9) / 2, abs=1e-6)


@row("E. Sartorius", "evaluation")
def test_average_precision_and_run_lengths():
    true = np.zeros((10, 20), np.int32)
    true[:, :10] = 1
    pred = np.zeros_like(true)
    pred[:, :7] = 1  # IoU 0.7
    np.testing.assert_allclose(metrics.AP_IOUS, np.arange(0.5, 0.96, 0.05))
    assert metrics.average_precision(true, pred) == pytest.approx(5 / 10)  # 0.50 .. 0.70
    labels = np.array([[0, 1, 1], [1, 0, 2]])
    assert rle.encode_labels(labels) == {1: "2 3", 2: "6 1"}  # row-major, one-based
    assert rle.encode_labels(labels, order="column") == {1: "2 2 5 1", 2: "6 1"}
    np.testing.assert_array_equal(rle.decode("2 3", labels.shape), labels == 1)


@row("E. Sartorius", "evaluation")
def test_a_submission_can_be_read_back():
    scene = Scene((64, 64), "nuclei", diameter=20, seed=1)
    labels, scores = sartorius(scene.encoded, FlowNetwork(), DetectionNetwork(), **SMALL)
    lines = rle.encode_labels(labels)
    back = sum(k * rle.decode(line, labels.shape).astype(int) for k, line in lines.items())
    np.testing.assert_array_equal(back, labels)
    assert len(lines) == len(scores)


# ---- the chain ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene():
    return Scene((520, 704), "nuclei", diameter=30, seed=2)


def test_published_chain(scene):
    """Two sizes would be refused by simulated networks, which read ids."""
    flows, detector = FlowNetwork(noise=0.2), DetectionNetwork(noise=0.05)
    labels, scores = sartorius(
        scene.encoded, flows, detector, detector_sizes=[520], return_scores=True, **PLAIN
    )
    truth = scene.labels[...]
    assert metrics.f1(truth, labels, exclude_border=2) >= 0.95
    np.testing.assert_array_equal(np.unique(labels), np.arange(len(scores) + 1))
    assert ((scores > 0.5) & (scores <= 1)).all()


def test_equal_weights_of_the_paper_leave_what_networks_tell_at_borders(scene):
    truth, how = scene.labels[...], {**PLAIN, "detector_sizes": [520], "augment": None}
    networks = FlowNetwork(noise=0.05), nothing
    f1 = [
        metrics.f1(truth, sartorius(scene.encoded, *networks, paper=paper, **how), exclude_border=2)
        for paper in (False, True)
    ]
    assert f1[0] >= 0.99
    assert f1[1] < 0.985


def test_cells_that_only_one_kind_of_network_finds_are_kept(scene):
    truth = scene.labels[...]
    how = {**PLAIN, "detector_sizes": [520], "augment": None}
    networks = [FlowNetwork(missed=0.3), DetectionNetwork(missed=0.3, seed=1)]
    both = metrics.f1(truth, sartorius(scene.encoded, *networks, **how), exclude_border=2)
    for alone in ((networks[0], nothing), (no_flows, networks[1])):
        assert metrics.f1(truth, sartorius(scene.encoded, *alone, **how), exclude_border=2) < 0.87
    assert both > 0.93


def test_one_number_for_both_axes():
    flows = Spy(no_flows)
    sartorius(np.zeros((1, 80, 64), F), flows, nothing, **{**SMALL, "stride": 16, "augment": None})
    assert flows.shapes == [(2, 1, 64, 64)]


BOX = [[10, 10, 30, 30]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"image": []}, TypeError, "^image: expected an array"),
        ({"flow_models": 1}, TypeError, "^flow_models: expected a PyTorch module"),
        ({"flow_models": []}, ValueError, "^flow_models: expected one or more; got none"),
        ({"flow_models": lambda b: b}, ValueError, "^flow_models: expected 3 channels"),
        ({"flow_models": lambda b: 1 / 0}, RuntimeError, "^flow_models: ZeroDivisionError"),
        ({"flow_models": lambda b: no_flows(b) * np.nan}, ValueError, "^flow_models: .*no NaN"),
        ({"detectors": 1}, TypeError, "^detectors: expected a PyTorch module"),
        ({"detectors": []}, ValueError, "^detectors: expected one or more; got none"),
        ({"detectors": lambda b: 1 / 0}, RuntimeError, "^detectors: ZeroDivisionError"),
        ({"detectors": found(BOX, [np.nan])}, ValueError, "^detectors: expected finite"),
        (
            {"detectors": lambda b: [cellpost.Detections(BOX, [0.9]) for _ in b]},
            ValueError,
            "^detectors: expected masks",
        ),
        ({"normalize": "max"}, ValueError, "^normalize: expected"),
        ({"tile": 0}, ValueError, "^tile: expected"),
        ({"tile": (64, 64, 64)}, ValueError, "^tile: expected"),
        ({"stride": 65}, ValueError, "^stride: expected"),
        ({"stride": (64, 64, 64)}, ValueError, "^stride: expected"),
        ({"stride": None}, TypeError, "^stride: expected"),
        ({"batch_size": 0}, ValueError, "^batch_size: expected"),
        ({"augment": "all"}, ValueError, "^augment: expected"),
        ({"flow_threshold": "low"}, TypeError, "^flow_threshold: expected"),
        ({"min_size": 1.5}, TypeError, "^min_size: expected"),
        ({"detector_sizes": []}, ValueError, "^detector_sizes: expected"),
        ({"detector_sizes": [0]}, ValueError, "^detector_sizes: expected"),
        ({"detector_sizes": ["big"]}, TypeError, "^detector_sizes: expected"),
        ({"detector_sizes": 520}, TypeError, "^detector_sizes: expected"),
        ({"detector_height": 0}, ValueError, "^detector_height: expected a finite number > 0"),
        ({"detector_augment": "all"}, ValueError, "^detector_augment: expected"),
        ({"detector_augment": []}, ValueError, "^detector_augment: expected"),
        ({"min_score": np.nan}, ValueError, "^min_score: expected"),
        ({"detector_iou_threshold": 2}, ValueError, "^detector_iou_threshold: expected"),
        ({"iou_threshold": 2}, ValueError, "^iou_threshold: expected"),
        ({"channel_axis": 4}, ValueError, "^channel_axis: expected"),
    ],
)
def test_bad_input(arguments, error, message):
    flows = Spy(no_flows)
    given = {"image": np.zeros((1, 64, 64), F), "flow_models": flows, "detectors": nothing}
    with pytest.raises(error, match=message):
        sartorius(**{**given, **SMALL, **arguments})
    is_at_work = callable(arguments.get("detectors"))
    assert is_at_work or flows.shown == []  # before any network has worked
