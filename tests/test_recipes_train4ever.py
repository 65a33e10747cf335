"""Train4Ever's recipe, row by row of its table, with detectors that say what they are told to."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from recipe_networks import F, Spy, found, nothing
from recipe_rows import row

import cellpost
from cellpost import Detections, metrics
from cellpost.recipes import train4ever
from cellpost.synthetic import DetectionNetwork, Scene, encode

PLAIN = {"channel_axis": 0}
ONE_TILE = {**PLAIN, "tile": 64}


def disc(radius, size=64):
    at = np.arange(size) - size // 2
    return (at[:, None] ** 2 + at**2 <= radius**2).astype(np.int32)


@row("C. Train4Ever", "patch-size selection (Algorithm 1)")
@pytest.mark.parametrize(
    ("edge", "tile"),
    [
        (1, 1024),
        (1999, 1024),
        (2000, 256),
        (3000, 256),  # the first rule that fits
        (3001, 512),
        (4000, 512),
        (4001, 1024),
        (15000, 1024),
        (15001, 2048),
    ],
)
def test_tiles_by_the_shortest_edge(edge, tile):
    for shape in ((edge, edge + 1000), (edge + 1000, edge)):
        assert cellpost.choose_tile_size(shape).tile == tile


@row("C. Train4Ever", "patch-size selection (Algorithm 1)")
@row("C. Train4Ever", "gate (Algorithm 2)")
@pytest.mark.parametrize(
    ("shape", "sides"),
    [((300, 700), [(320, 704), 1024]), ((2000, 2100), [(2016, 2112), 256]), ((4000, 4000), [512])],
)
def test_the_paper_sees_the_whole_image_and_then_tiles_side_by_side(shape, sides):
    detector = Spy(nothing)
    train4ever(np.zeros((1, *shape), np.uint8), detector, paper=True, batch_size=16, **PLAIN)
    passes = list(dict.fromkeys(batch[2:] for batch in detector.shapes))
    assert passes == [side if isinstance(side, tuple) else (side, side) for side in sides]
    n_tiles = sum(batch[0] for batch in detector.shapes if batch[2] == sides[-1])
    assert n_tiles == np.prod([-(-n // sides[-1]) for n in shape])


@row("C. Train4Ever", "gate (Algorithm 2)")
@pytest.mark.parametrize(("n_cells", "slides"), [(4, True), (5, False)])
def test_images_with_fewer_than_5_instances_are_cut_into_tiles(n_cells, slides):
    labels = np.zeros((60, 100), np.int32)
    for k in range(n_cells):
        labels[20:35, 5 + 18 * k : 20 + 18 * k] = k + 1
    detector = Spy(DetectionNetwork(noise=0, jitter=0))
    train4ever(encode(labels), detector, paper=True, **PLAIN)
    expected = [(1, 2, 64, 128)] + [(1, 2, 1024, 1024)] * slides
    assert detector.shapes == expected


@row("C. Train4Ever", "gate (Algorithm 2)")
def test_edges_of_4000_pixels_are_cut_into_tiles():
    assert [cellpost.needs_sliding((n, 9000), 5) for n in (3999, 4000)] == [False, True]


@row("C. Train4Ever", "memory-light pasting")
def test_no_tensor_of_all_masks_is_made():
    """1000 instances; a mask of the image for each were 1 GB."""
    labels = np.zeros((1024, 1024), np.int32)
    for k in range(1024):
        y, x = divmod(k, 32)
        labels[32 * y + 4 : 32 * y + 20, 32 * x + 4 : 32 * x + 20] = k + 1
    image, detector = encode(labels), DetectionNetwork(noise=0, jitter=0)
    how = {**PLAIN, "tile": 1024, "max_instances": 2000}
    tracemalloc.start()
    result = train4ever(image, detector, **how)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.max() == 1024
    assert peak < 1024 * labels.size / 8


@row("C. Train4Ever", "what its authors wanted and did not have")
@pytest.mark.parametrize("diameter", [20, 60])
def test_tiles_are_chosen_by_the_size_of_cells(diameter):
    scene = Scene((1100, 1200), "nuclei", diameter=diameter, seed=5)
    detector = Spy(DetectionNetwork(noise=0.05))
    labels = train4ever(scene.encoded, detector, **PLAIN)
    expected = cellpost.choose_tile_size(
        scene.shape, "cell_size", diameter=cellpost.mean_diameter(labels)
    )
    side = detector.shapes[-1][2]
    assert side == pytest.approx(expected.tile, abs=32)  # of the median of fewer cells


@row("C. Train4Ever", "what its authors wanted and did not have")
def test_the_paper_cuts_cells_and_the_default_does_not():
    scene = Scene((700, 760), "nuclei", diameter=30, seed=9)
    truth, detector = scene.labels[...], DetectionNetwork(noise=0.05)
    ours = train4ever(scene.encoded, detector, **PLAIN)
    theirs = train4ever(scene.encoded, detector, tile=128, paper=True, **PLAIN)
    starts = cellpost.TileGrid(scene.shape, tile=128, overlap=0.0).starts
    seams = [
        sorted({int(s) for s in start if s} | {int(s) + 128 for s in start[:-1]})
        for start in starts
    ]
    of_truth, of_ours, of_theirs = (
        metrics.seam_score(labels, seams) for labels in (truth, ours, theirs)
    )
    assert of_ours.ratio == pytest.approx(of_truth.ratio, abs=0.2)
    assert of_theirs.ratio > 5
    assert of_theirs.n_cut > 5 * of_truth.n_cut
    assert metrics.n_cells(ours) == metrics.n_cells(truth)
    assert metrics.n_cells(theirs) > 1.2 * metrics.n_cells(truth)
    assert metrics.f1(truth, ours, exclude_border=2) >= 0.99
    assert metrics.f1(truth, theirs, exclude_border=2) < 0.9


@row("C. Train4Ever", "what its authors wanted and did not have")
def test_fragments_on_the_two_sides_of_a_seam_are_joined():
    scene = Scene((256, 300), "nuclei", diameter=30, seed=9, density=0.25)
    truth = scene.labels[...]
    grid = cellpost.TileGrid(scene.shape, tile=128, layout="nonoverlap")
    tiles = [
        train4ever(encode(tile), DetectionNetwork(noise=0, jitter=0), tile=128, **PLAIN)
        for tile in grid.extract(truth)
    ]
    joined = cellpost.join_fragments(tiles, grid)
    n_pieces = sum(int(tile.max()) for tile in tiles)
    assert n_pieces > 1.2 * metrics.n_cells(truth)
    assert joined.max() == metrics.n_cells(truth)
    assert metrics.f1(truth, joined) == 1


@row("C. Train4Ever", "pseudo-labels")
def test_instances_above_0_9_are_kept():
    boxes = [[5, 5, 15, 15], [25, 5, 35, 15], [45, 5, 55, 15]]
    image, detector = np.zeros((1, 64, 64), F), found(boxes, [0.95, 0.9, 0.3])
    pair = train4ever(image, detector, return_scores=True, **ONE_TILE)
    assert pair[1].tolist() == [0.95, 0.9, 0.3]
    kept, index = metrics.confident(pair)
    assert (index.tolist(), pair[1][index].tolist()) == ([0], [0.95])
    np.testing.assert_array_equal(kept, pair[0] == 1)
    # The detector's own output, and its threshold.
    assert len(metrics.confident(detector(image[None])[0])[0]) == 1
    assert train4ever(image, detector, min_score=0.9, **ONE_TILE).max() == 2


@row("C. Train4Ever", "detector settings")
def test_instances_that_overlap_by_more_than_0_3_are_one():
    image = np.zeros((1, 64, 64), F)
    for shift, iou, n, n_at_0_8 in ((10, 1 / 3, 1, 2), (11, 9 / 31, 2, 2), (2, 18 / 22, 1, 1)):
        boxes = np.array([[10, 10, 30, 30], [10 + shift, 10, 30 + shift, 30]])
        assert (20 - shift) / (20 + shift) == pytest.approx(iou)
        detector = found(boxes, [0.9, 0.8], np.ones((2, 20, 20)))
        assert train4ever(image, detector, **ONE_TILE).max() == n
        assert train4ever(image, detector, iou_threshold=0.8, **ONE_TILE).max() == n_at_0_8


@row("C. Train4Ever", "detector settings")
def test_masks_are_cut_at_0_3():
    masks = np.full((1, 20, 20), 0.31)
    masks[:, :, 10:] = 0.29
    detector = found([[10, 10, 30, 30]], [0.9], masks)
    labels = train4ever(np.zeros((1, 64, 64), F), detector, **ONE_TILE)
    columns = np.flatnonzero(labels.any(0))
    assert (columns[0], columns[-1]) == (10, 19)


@row("C. Train4Ever", "detector settings")
@pytest.mark.parametrize(("how", "n"), [({}, 1000), ({"max_instances": 10}, 10)])
def test_of_more_than_1000_instances_the_best_are_kept(how, n):
    at = np.arange(1024)
    boxes = np.stack([at % 32 * 4, at // 32 * 4, at % 32 * 4 + 3, at // 32 * 4 + 3], axis=1)
    scores = np.random.default_rng(0).permutation(1024) / 1024 + 0.01
    image = np.zeros((1, 128, 128), F)
    labels, got = train4ever(
        image, found(boxes, scores), tile=128, return_scores=True, **PLAIN, **how
    )
    assert labels.max() == n
    np.testing.assert_array_equal(np.sort(got), np.sort(scores)[-n:])
    for score, (x, y) in zip(scores[:50], boxes[:50, :2], strict=True):
        label = labels[y + 1, x + 1]
        assert label == 0 or got[label - 1] == score


@pytest.mark.parametrize("how", [{}, {"tile": 256}, {"tile": "train4ever"}, {"paper": True}])
def test_published_chain(how):
    scene = Scene((520, 600), "nuclei", diameter=26, seed=8)
    detector = DetectionNetwork(noise=0.05)
    labels, scores = train4ever(scene.encoded, detector, return_scores=True, **PLAIN, **how)
    assert metrics.f1(scene.labels[...], labels, exclude_border=2) >= 0.95
    assert scores.shape == (labels.max(),)


def test_images_without_whole_cells_are_seen_in_the_papers_tiles():
    labels = np.ones((100, 100), np.int32)
    labels[:, 50:] = 2
    big = np.repeat(np.repeat(labels, 12, 0), 12, 1)  # cells that each of the small tiles cuts
    detector = Spy(DetectionNetwork(noise=0, jitter=0))
    result = train4ever(encode(big), detector, **PLAIN)
    assert (1, 2, 1216, 1216) in detector.shapes
    assert metrics.f1(big, result) == 1
    with pytest.raises(cellpost.NoCellsError, match="tile: expected whole cells"):
        train4ever(np.zeros((1, 90, 90), F), nothing, tile="cell_size", **PLAIN)


def test_the_image_is_resized_to_the_models_diameter():
    labels = np.zeros((600, 600), np.int32)
    for k in range(36):
        y, x = divmod(k, 6)
        labels[100 * y + 20 : 100 * y + 80, 100 * x + 20 : 100 * x + 80] = k + 1
    shown = Spy(lambda batch: [bright_squares(tile[0]) for tile in batch])
    image = (labels > 0)[None].astype(F)
    result = train4ever(image, shown, model_diameter=30, **PLAIN)
    assert metrics.f1(labels, result) == 1
    resized = shown.shown[-1][0, 0]
    area = cellpost.properties(cellpost.label((resized > 0.5).astype(np.uint8)))["area"]
    assert 2 * np.sqrt(np.median(area) / np.pi) == pytest.approx(30, rel=0.1)


def bright_squares(tile):
    """Detections of what is bright."""
    table = cellpost.properties(cellpost.label((np.asarray(tile) > 0.5).astype(np.uint8)))
    boxes = table["bbox"][:, [1, 0, 3, 2]].astype(float)
    return Detections(boxes, np.full(len(boxes), 0.9), np.ones((len(boxes), 4, 4), F))


BOX = [[10, 10, 30, 30]]


def without_masks(batch):
    return [Detections(np.array(BOX, float), np.array([0.9])) for _ in batch]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"image": None}, TypeError, "^image: expected an array"),
        ({"detector": 7}, TypeError, "^detector: expected a PyTorch module"),
        ({"detector": lambda b: 1 / 0}, RuntimeError, "^detector: ZeroDivisionError.*in tile 0"),
        ({"detector": without_masks}, ValueError, "^detector: expected masks"),
        ({"detector": found(BOX, [np.nan])}, ValueError, "^detector: expected finite"),
        ({"detector": found([[0, 0, np.nan, 9]], [1])}, ValueError, "^detector: expected finite"),
        (
            {"detector": found(BOX, [1], np.ones((2, 4, 4)))},
            ValueError,
            "^masks: expected.*in tile",
        ),
        ({"normalize": "max"}, ValueError, "^normalize: expected"),
        ({"tile": 0}, ValueError, "^tile: expected"),
        ({"tile": "large"}, ValueError, "^tile: expected"),
        ({"tile": 64, "overlap": 1}, ValueError, "^overlap: expected"),
        ({"tile": None, "overlap": -0.1}, ValueError, "^overlap: expected"),
        ({"model_diameter": 30}, ValueError, "^model_diameter: expected None"),
        ({"tile": None, "model_diameter": 0}, ValueError, "^model_diameter: expected"),
        ({"tile": None, "model_diameter": 9, "paper": True}, ValueError, "^model_diameter: exp"),
        ({"batch_size": 0}, ValueError, "^batch_size: expected"),
        ({"min_score": np.nan}, ValueError, "^min_score: expected"),
        ({"mask_threshold": "low"}, TypeError, "^mask_threshold: expected"),
        ({"mask_threshold": np.nan}, ValueError, "^mask_threshold: expected"),
        ({"iou_threshold": 2}, ValueError, "^iou_threshold: expected"),
        ({"max_instances": 0}, ValueError, "^max_instances: expected 1 or more; got 0"),
        ({"max_instances": 1.5}, TypeError, "^max_instances: expected an integer"),
        ({"channel_axis": 4}, ValueError, "^channel_axis: expected"),
    ],
)
def test_bad_input(arguments, error, message):
    detector = Spy(found(BOX, [0.9]))
    given = {"image": np.zeros((1, 64, 64), F), "detector": detector, **ONE_TILE, **arguments}
    with pytest.raises(error, match=message):
        train4ever(**given)
    assert detector.shown == []  # before the network has worked


def test_boxes_without_masks_show_in_the_first_tile():
    calls = []

    def boxes_only(tiles):
        calls.append(len(tiles))
        return [{"boxes": np.array([[1.0, 1, 9, 9]]), "scores": np.array([0.9])} for _ in tiles]

    image = np.zeros((2, 600, 600), np.float32)
    with pytest.raises(ValueError, match=r"detector: expected masks .* in tile 0 "):
        train4ever(image, boxes_only, tile=256, channel_axis=0)
    assert len(calls) == 1


def test_cells_longer_than_two_diameters():
    """The overlap follows how far cells reach, and what a tile cuts off is no cell."""
    scene = Scene((1100, 1100), "neurons", seed=4)
    true = cellpost.relabel(np.asarray(scene.labels[...]))
    detector = DetectionNetwork(noise=0, jitter=0)
    labels = train4ever(scene.encoded[...], detector, channel_axis=0)
    assert metrics.f1(true, labels) > 0.96
