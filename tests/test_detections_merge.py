"""Detections of overlapping tiles: each object once, whole where any tile shows it whole."""

from __future__ import annotations

import array_kinds
import numpy as np
import pytest
import simulate
from hypothesis import given, settings
from hypothesis import strategies as st

import cellpost
from cellpost.detections import Detections

F = np.float32


def grid_of(shape, tile, step):
    """Overlapping tiles, the last ones moved back to the border."""

    def starts(n, t, s):
        return sorted({min(k, n - t) for k in range(0, max(n - t, 0) + s, s)})

    return [
        (slice(y, y + tile[0]), slice(x, x + tile[1]))
        for y in starts(shape[0], tile[0], step[0])
        for x in starts(shape[1], tile[1], step[1])
    ]


def seen_in(labels, tile, *, masks=True, least=1):
    """What a perfect detector finds in a tile: exact boxes and masks of the parts it sees."""
    part = labels[tile]
    ids = [i for i in np.unique(part) if i and (part == i).sum() >= least]
    boxes, crops = [], []
    for i in ids:
        y, x = np.nonzero(part == i)
        y0, y1, x0, x1 = y.min(), y.max() + 1, x.min(), x.max() + 1
        boxes.append((x0, y0, x1, y1))
        crops.append(part[y0:y1, x0:x1] == i)
    boxes = np.array(boxes, float).reshape(-1, 4)
    scores = np.linspace(0.9, 0.5, len(ids))
    return Detections(boxes, scores, crops if masks else None, np.array(ids, np.int64))


def labels_of_blobs(shape=(300, 400), n=90, seed=0):
    labels = simulate.blobs(shape, n, radius=(4, 11), seed=seed)
    return cellpost.resolve_fragments(labels, fragments="largest")  # some hide parts of others


@pytest.mark.parametrize("prefer", ["center", "score"])
@pytest.mark.parametrize("masks", [True, False])
def test_each_object_once_and_whole(prefer, masks):
    # boxes alone cannot tell neighbours apart that overlap
    labels = labels_of_blobs(n=90 if masks else 25)
    tiles = grid_of(labels.shape, (128, 160), (96, 120))  # 32 and 40 pixels shared, cells up to 23
    found = [seen_in(labels, tile, masks=masks) for tile in tiles]
    merged, report = cellpost.merge_detections(
        found, tiles, prefer=prefer, return_report=True, iou_threshold=0.3
    )
    assert sorted(merged.class_ids.tolist()) == np.unique(labels)[1:].tolist()
    for box, i in zip(merged.boxes, merged.class_ids, strict=True):
        y, x = np.nonzero(labels == i)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert report.n_detections == sum(map(len, found)) == report.n_kept + report.n_duplicates
    assert report.n_kept == len(merged)
    assert report.n_cut > 0
    if masks:
        pasted, classes = cellpost.paste_masks(
            merged.masks,
            merged.boxes,
            merged.scores,
            labels.shape,
            class_ids=merged.class_ids,
        )
        np.testing.assert_array_equal(np.concatenate([[0], classes])[pasted], labels)


@settings(deadline=None, max_examples=15)
@given(st.permutations(range(12)), st.sampled_from(["center", "score"]))
def test_order_of_tiles_does_not_show(order, prefer):
    labels = labels_of_blobs((180, 240), 40)
    tiles = grid_of(labels.shape, (80, 90), (50, 50))
    assert len(tiles) == 12
    found = [seen_in(labels, tile) for tile in tiles]
    rng = np.random.default_rng(0)
    found = [
        Detections(f.boxes, rng.random(len(f)), f.masks, f.class_ids) for f in found
    ]  # no two scores are equal
    first = cellpost.merge_detections(found, tiles, prefer=prefer)
    again = cellpost.merge_detections(
        [found[i] for i in order], [tiles[i] for i in order], prefer=prefer
    )
    rows = [np.column_stack([d.boxes, d.scores, d.class_ids]).tolist() for d in (first, again)]
    assert sorted(rows[0]) == sorted(rows[1])


TWO = [(slice(0, 40), slice(0, 40)), (slice(0, 40), slice(20, 60))]


def boxes_of(*boxes, scores=None):
    boxes = np.array(boxes, float).reshape(-1, 4)
    return Detections(boxes, np.full(len(boxes), 0.5) if scores is None else np.array(scores))


def test_a_part_loses_against_the_whole():
    # a cell at columns 30..50: the left tile sees half of it, and is surer of that
    left, right = boxes_of([30, 5, 40, 15], scores=[0.99]), boxes_of([10, 5, 30, 15], scores=[0.3])
    for prefer in ("center", "score"):
        merged = cellpost.merge_detections([left, right], TWO, prefer=prefer)
        assert merged.boxes.tolist() == [[30, 5, 50, 15]]
        assert merged.scores.tolist() == [0.3]
    # as boxes of the whole image they would not overlap by half
    assert len(cellpost.nms(np.array([[30.0, 5, 40, 15], [30, 5, 50, 15]]), np.ones(2), 0.5)) == 2


def test_which_of_two_whole_ones_stays():
    # columns 21..31: near the right tile's border, in the middle of the left one's
    left, right = boxes_of([21, 5, 31, 15], scores=[0.3]), boxes_of([1, 5, 11, 15], scores=[0.9])
    by_centre = cellpost.merge_detections([left, right], TWO)
    # its middle is 14 pixels from the left tile's border, and 6 from the right one's
    assert by_centre.scores.tolist() == [0.3]
    by_score = cellpost.merge_detections([left, right], TWO, prefer="score")
    assert by_score.scores.tolist() == [0.9]


def test_whole_neighbours_are_not_judged_by_their_slivers():
    # in the strip that both tiles see they look much alike, and no border cuts them
    tiles = [(slice(0, 512), slice(0, 512)), (slice(0, 512), slice(448, 960))]
    left = boxes_of([430, 100, 500, 160], scores=[0.9])
    right = boxes_of([12, 110, 92, 165], scores=[0.8])
    assert len(cellpost.merge_detections([left, right], tiles)) == 2


def test_within_a_tile_the_score_decides():
    # the worse one is nearer to the middle
    twice = boxes_of([398, 100, 438, 140], [400, 100, 440, 140], scores=[0.05, 0.99])
    tiles = [(slice(0, 512), slice(0, 512)), (slice(0, 512), slice(448, 960))]
    for prefer in ("center", "score"):
        merged, report = cellpost.merge_detections(
            [twice, boxes_of()], tiles, prefer=prefer, return_report=True
        )
        assert merged.scores.tolist() == [0.99]
        assert (report.n_duplicates, report.n_kept) == (1, 1)


def test_order_of_tiles_does_not_show_where_all_else_is_equal():
    # as sure, as far from a border, and not of the same size
    left, right = boxes_of([24, 5, 36, 15]), boxes_of([4, 5, 16, 14])
    for prefer in ("center", "score"):
        one = cellpost.merge_detections([left, right], TWO, prefer=prefer)
        other = cellpost.merge_detections([right, left], TWO[::-1], prefer=prefer)
        assert one.boxes.tolist() == other.boxes.tolist() == [[24, 5, 36, 15]]


def test_what_is_filtered_out_suppresses_nothing():
    left, right = boxes_of([22, 5, 38, 35], scores=[0.9]), boxes_of([2, 7, 17, 35], scores=[0.5])
    for prefer in ("center", "score"):
        merged, report = cellpost.merge_detections(
            [left, right], TWO, prefer=prefer, max_side_share=0.72, return_report=True
        )
        assert merged.scores.tolist() == [0.5]
        assert (report.n_large, report.n_duplicates, report.n_kept) == (1, 0, 1)


def test_boxes_that_stick_out_of_their_tile():
    wide = boxes_of([-0.5, 3, 40.2, 30])
    assert len(cellpost.merge_detections([wide, boxes_of()], TWO)) == 1


def test_the_images_border_cuts_nothing():
    at_border = boxes_of([0, 0, 10, 10])
    _, report = cellpost.merge_detections(
        [at_border, boxes_of()], TWO, edge_margin=5, return_report=True
    )
    assert report.n_cut == 0
    _, report = cellpost.merge_detections(
        [boxes_of(), boxes_of([0, 0, 10, 10])], TWO, edge_margin=5, return_report=True
    )
    assert report.n_cut == 1


def test_neighbours_are_told_apart_by_their_masks():
    # two cells along the diagonal of one box, one seen by each tile
    half = np.tri(10, dtype=bool)
    for upper, n in ((~half, 2), (half, 1)):
        left = Detections(np.array([[25.0, 5, 35, 15]]), np.ones(1), [half])
        right = Detections(np.array([[5.0, 5, 15, 15]]), np.ones(1), [upper])
        assert len(cellpost.merge_detections([left, right], TWO)) == n
    boxes = [boxes_of([25, 5, 35, 15]), boxes_of([5, 5, 15, 15])]
    assert len(cellpost.merge_detections(boxes, TWO)) == 1


def test_filters_of_boxes():
    boxes = [[0, 0, 2.9, 9], [0, 0, 3, 3], [0, 0, 20, 5], [0, 0, 20.1, 5], [0, 0, 33, 33]]
    found, empty = boxes_of(*boxes, scores=np.arange(5) / 10), boxes_of()

    def kept(**options):
        merged, report = cellpost.merge_detections(
            [found, empty], TWO, iou_threshold=1, return_report=True, **options
        )
        return sorted((10 * merged.scores).round().astype(int).tolist()), report

    assert kept()[0] == [0, 1, 2, 3, 4]
    assert kept(min_side=3)[0] == [1, 2, 3, 4]
    assert kept(max_side_share=0.5)[0] == [0, 1, 2]
    assert kept(span_share=0.8)[0] == [0, 1, 2, 3]
    rows, report = kept(min_side=3, max_side_share=0.5, span_share=0.8)  # VSM's
    assert rows == [1, 2]
    assert (report.n_small, report.n_large, report.n_kept) == (1, 2, 2)


def test_classes():
    left, right = boxes_of([21, 5, 31, 15]), boxes_of([1, 5, 11, 15])
    left, right = (
        Detections(d.boxes, d.scores, class_ids=np.array([k])) for k, d in enumerate((left, right))
    )
    assert len(cellpost.merge_detections([left, right], TWO)) == 1
    assert len(cellpost.merge_detections([left, right], TWO, class_agnostic=False)) == 2


def test_outputs_of_models_and_stacks_of_crops():
    torch = pytest.importorskip("torch")
    crops = torch.rand(3, 1, 28, 28)
    boxes = torch.tensor([[2.0, 2, 12, 12], [22, 22, 30, 30], [31, 5, 39, 9]])
    output = {"boxes": boxes, "scores": torch.tensor([0.5, 0.6, 0.7]), "masks": crops}
    right = {name: field[1:] for name, field in output.items()}
    right["boxes"] = right["boxes"] - torch.tensor([20.0, 0, 20, 0])
    merged = cellpost.merge_detections([output, right], TWO)
    assert array_kinds.TORCH.owns(merged.boxes)
    assert merged.masks.shape[1:] == (28, 28)
    assert sorted(merged.boxes.tolist()) == sorted(boxes.tolist())


def test_tiles_of_different_libraries():
    torch = pytest.importorskip("torch")
    other = Detections(torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([0.5]))
    with pytest.raises(TypeError, match=r"per_tile\[1\]: expected an array of the library that"):
        cellpost.merge_detections([ONE, other], TWO)


def test_nothing():
    assert len(cellpost.merge_detections([], [])) == 0
    merged, report = cellpost.merge_detections([boxes_of(), boxes_of()], TWO, return_report=True)
    assert len(merged) == 0
    assert report == cellpost.MergeReport(0, 0, 0, 0, 0, 0)


ONE = boxes_of([0, 0, 5, 5])


@pytest.mark.parametrize(
    ("per_tile", "grid", "options", "error", "message"),
    [
        ([ONE], TWO, {}, ValueError, "per_tile: expected 2 outputs, one for each tile; got 1"),
        ([ONE, 3], TWO, {}, TypeError, "output: expected Detections"),
        ([ONE], [(0, 4)], {}, ValueError, r"grid: expected \(slice\(y0, y1\), slice.*for tile 0"),
        ([ONE], [(slice(5, 5), slice(0, 3))], {}, ValueError, r"grid: expected \(slice"),
        ([ONE], [(slice(None), slice(0, 3))], {}, ValueError, r"grid: expected \(slice"),
        ([ONE, ONE], TWO, {"prefer": "best"}, ValueError, "prefer: expected 'center' or 'score'"),
        ([ONE, ONE], TWO, {"edge_margin": -1}, ValueError, "edge_margin: expected a number of at"),
        ([ONE, ONE], TWO, {"min_side": np.nan}, ValueError, "min_side: expected a number of at"),
        ([ONE, ONE], TWO, {"span_share": "x"}, TypeError, "span_share: expected a number; got"),
        ([ONE, ONE], TWO, {"iou_threshold": 2}, ValueError, "iou_threshold: expected a number fr"),
        ([ONE, ONE], TWO, {"style": "x"}, ValueError, "style: expected one of 'detectron2', 'tor"),
        ([ONE, ONE], TWO, {"class_agnostic": False}, ValueError, "class_agnostic: expected True"),
        ([ONE, ONE], TWO, {"metric": "x"}, ValueError, "metric: expected one of 'iou', 'ios'"),
        (
            [ONE, boxes_of([np.nan, 0, 1, 1])],
            TWO,
            {},
            ValueError,
            "per_tile: expected finite boxes and scores",
        ),
        (
            [ONE, boxes_of([0, 0, 1, 1], scores=[np.nan])],
            TWO,
            {},
            ValueError,
            "per_tile: expected finite boxes and scores",
        ),
        ([ONE], [(slice(0, 10.7), slice(0, 3))], {}, ValueError, r"grid: expected \(slice"),
        ([ONE], [(slice(0, 2**24), slice(0, 3))], {}, ValueError, r"grid: expected .* to 2\*\*23"),
        (
            [ONE, Detections(ONE.boxes, ONE.scores, class_ids=np.array([1]))],
            TWO,
            {},
            ValueError,
            "per_tile: expected class_ids in all outputs or in none",
        ),
    ],
)
def test_bad_input(per_tile, grid, options, error, message):
    with pytest.raises(error, match=message):
        cellpost.merge_detections(per_tile, grid, **options)
