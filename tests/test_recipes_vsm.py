"""VSM's recipe, row by row of its table, with detectors that say what they are told to."""

from __future__ import annotations

import inspect
import time

import numpy as np
import pytest
from PIL import Image
from recipe_networks import F, Spy, everything, found, middle_cell, nothing
from recipe_rows import row
from scipy import ndimage

import cellpost
from cellpost import metrics
from cellpost.recipes import vsm
from cellpost.synthetic import DetectionNetwork, Scene, encode

PLAIN = {"normalize": None, "channel_axis": 0}
ONE_VIEW = {**PLAIN, "augment": None}
SMALL = {**ONE_VIEW, "tile": 64, "stride": 48}
TRUE = DetectionNetwork(noise=0, jitter=0, blur=0)


def places(height, width):
    """An image whose pixels say where they are, 1 or more."""
    return np.stack(np.indices((height, width)) + 1).astype(F)


def boxes_of(labels):
    return cellpost.properties(labels)["bbox"][:, [1, 0, 3, 2]].tolist()


def squares(step=25, side=12, shape=(2048, 2048), n=None):
    labels = np.zeros(shape, np.int32)
    n_columns = shape[1] // step
    for k in range(n or n_columns * (shape[0] // step)):
        y, x = divmod(k, n_columns)
        labels[y * step : y * step + side, x * step : x * step + side] = k + 1
    return labels


@row("B. VSM", "preprocessing")
def test_percentiles_1_and_99_of_pixels_that_are_not_0_become_0_and_255():
    image = np.random.default_rng(0).gamma(2, 20, (60, 64, 3)).astype(np.uint8)
    image[:20] = 0
    image[..., 2] //= 3
    detector = Spy(nothing)
    vsm(image, detector, everything, tile=64, stride=64, augment=None)
    ((shown,),) = detector.shown
    for channel in range(3):
        pixels = image[..., channel].astype(float)
        low, high = np.percentile(pixels[pixels > 0], [1, 99])
        expected = np.clip((pixels - low) / (high - low), 0, 1) * 255
        np.testing.assert_allclose(shown[channel, 2:62], expected, atol=1e-4)  # float32


@row("B. VSM", "preprocessing")
@pytest.mark.parametrize(("how", "n_channels"), [({}, 3), ({"n_channels": 1}, 1)])
def test_grey_images_get_3_channels(how, n_channels):
    image = np.random.default_rng(0).integers(1, 200, (64, 64), np.uint8)
    detector, segmenter = Spy(found([[10, 10, 30, 30]], [0.9])), Spy(everything)
    vsm(image, detector, segmenter, tile=64, stride=64, augment=None, **how)
    assert detector.shapes == [(1, n_channels, 64, 64)]
    assert segmenter.shapes == [(1, n_channels, 64, 64)]
    for shown in (detector.shown[0], segmenter.shown[0]):
        assert (shown == shown[:, :1]).all()


@row("B. VSM", "windows")
@pytest.mark.parametrize(
    ("how", "starts"),
    [
        ({}, [0, 1280, 2464]),
        ({"stride": 1024}, [0, 1024, 2048, 2464]),
        ({"stride": 768}, [0, 768, 1536, 2304, 2464]),
    ],
)
def test_windows_of_1536_every_1280(how, starts):
    detector = Spy(nothing)
    vsm(places(8, 4000), detector, everything, **ONE_VIEW, **how)
    assert detector.shapes == [(1, 2, 1536, 1536)] * len(starts)
    first_row = (1536 - 8) // 2
    assert [int(shown[0, 1, first_row, 0]) - 1 for shown in detector.shown] == starts


@row("B. VSM", "windows")
def test_smaller_images_are_padded_and_keep_their_aspect():
    image, detector = places(30, 50), Spy(nothing)
    vsm(image, detector, everything, **SMALL)
    np.testing.assert_array_equal(detector.shown[0][0], np.pad(image, ((0, 0), (17, 17), (7, 7))))


@row("B. VSM", "detection TTA")
def test_eight_views_are_mapped_back():
    scene = Scene((200, 180), "nuclei", diameter=24, seed=4)
    detector = Spy(TRUE)
    labels = vsm(
        scene.encoded[...], detector, middle_cell, tile=200, stride=200, min_score=0.3, **PLAIN
    )
    first = detector.shown[0][0]
    views = [np.rot90(image, n, (1, 2)) for image in (first, first[..., ::-1]) for n in range(4)]
    shown = [batch[0] for batch in detector.shown]
    assert len(shown) == 8
    for view in views:
        assert sum(np.array_equal(view, one) for one in shown) == 1
    truth = scene.labels[...]
    # One of each cell, but for the smallest: the boxes of all views are in the same place.
    sides = np.diff(cellpost.properties(truth)["bbox"].reshape(-1, 2, 2), axis=1)[:, 0]
    assert metrics.n_cells(labels) == (sides >= 3).all(1).sum()
    assert metrics.f1(truth, labels, exclude_border=2) >= 0.98


def several(*views):
    """A detector that says something else each time: (boxes, scores) of each view."""
    queue = [found(*view) for view in views]
    return lambda batch: queue.pop(0)(batch)


@row("B. VSM", "detection TTA")
def test_boxes_that_overlap_by_more_than_a_half_are_one_or_their_mean():
    image = np.zeros((3, 64, 64), F)
    views = cellpost.augment.Views([cellpost.augment.View()] * 2)
    how = {**SMALL, "augment": views, "return_scores": True}

    def run(shift, **options):
        first, second = [10, 10, 30, 30], [10 + shift, 10, 30 + shift, 30]
        detector = several(([first], [0.8]), ([second], [0.6]))
        labels, scores = vsm(image, detector, everything, **how, **options)
        return boxes_of(labels), scores.tolist()

    assert run(6) == ([[10, 10, 30, 30]], [0.8])  # IoU 14 / 26
    assert len(run(7)[0]) == 2  # 13 / 27
    boxes, scores = run(6, fusion="wbf")
    middle = (0.8 * 10 + 0.6 * 16) / 1.4
    assert boxes == [[int(middle), 10, int(middle) + 21, 30]]  # of whole pixels
    assert scores == [pytest.approx(0.7, abs=1e-6)]
    assert len(run(7, fusion="wbf")[0]) == 2
    assert len(run(6, fusion="wbf", iou_threshold=0.6)[0]) == 2
    assert len(run(6, iou_threshold=0.6)[0]) == 2


@row("B. VSM", "detection TTA")
def test_fused_boxes_are_those_of_the_peer():
    wbf = pytest.importorskip("ensemble_boxes")
    rng = np.random.default_rng(5)
    base = np.array([[x, y, x + 12, y + 12] for y in (4, 34) for x in (4, 24, 44)], float)
    views = [(base + rng.uniform(-1, 1, base.shape), rng.uniform(0.6, 1, 6)) for _ in range(3)]
    boxes, scores, _ = wbf.weighted_boxes_fusion(
        [b / 64 for b, _ in views], [s for _, s in views], [np.zeros(6)] * 3, iou_thr=0.5
    )
    how = {**SMALL, "augment": cellpost.augment.Views([cellpost.augment.View()] * 3)}
    labels, got = vsm(
        np.zeros((3, 64, 64), F),
        several(*views),
        everything,
        fusion="wbf",
        return_scores=True,
        **how,
    )
    whole = [[*np.floor(b[:2]), *np.ceil(b[2:])] for b in 64 * boxes]
    assert sorted(whole) == sorted(boxes_of(labels))
    np.testing.assert_allclose(np.sort(got), np.sort(scores), atol=1e-6)  # float32


@row("B. VSM", "box filters")
@pytest.mark.parametrize(
    ("box", "score", "how", "is_kept"),
    [
        ((10, 10, 20, 20), 0.5, {}, False),
        ((10, 10, 20, 20), 0.51, {}, True),
        ((10, 10, 20, 13), 0.9, {}, True),
        ((10, 10, 20, 12.9), 0.9, {}, False),
        ((10, 10, 10, 20), 0.9, {}, False),
        ((10, 10, 42, 20), 0.9, {}, True),
        ((10, 10, 42.5, 20), 0.9, {}, False),
        ((5, 5, 57, 57), 0.9, {"max_side_share": 1}, False),
        ((5, 5, 57, 56), 0.9, {"max_side_share": 1}, True),
        ((5, 5, 57, 57), 0.9, {"max_side_share": 1, "span_share": 1}, True),
    ],
)
def test_boxes_of_low_scores_and_of_wrong_sizes_are_dropped(box, score, how, is_kept):
    labels = vsm(np.zeros((3, 64, 64), F), found([box], [score]), everything, **SMALL, **how)
    assert labels.max() == is_kept


@row("B. VSM", "box filters")
@pytest.mark.parametrize(("side", "is_kept"), [(768, True), (770, False)])
def test_the_window_counts_also_where_the_image_is_smaller(side, is_kept):
    first = (1536 - 900) // 2  # in the padded window
    detector = found([[first, first, first + side, first + 20]], [0.9])
    assert vsm(np.zeros((3, 900, 900), F), detector, everything, **ONE_VIEW).max() == is_kept


@row("B. VSM", "per-box masks")
def test_crops_are_64_x_64_of_the_nearest_pixels():
    image = np.random.default_rng(1).random((3, 300, 280)).astype(F)
    boxes = [[20, 30, 40, 67], [100, 20, 230, 120], [60, 200, 124, 264]]
    segmenter = Spy(everything)
    vsm(image, found(boxes, [0.9, 0.8, 0.7]), segmenter, **ONE_VIEW, tile=300, stride=300)
    (shown,) = segmenter.shown
    assert (shown.shape, shown.dtype) == ((3, 3, 64, 64), F)
    x = (300 - 280) // 2
    expected = [
        [
            np.asarray(
                Image.fromarray(plane[y0:y1, x0 - x : x1 - x]).resize((64, 64), Image.NEAREST)
            )
            for plane in image
        ]
        for x0, y0, x1, y1 in boxes
    ]
    np.testing.assert_array_equal(shown, expected)


class CountsReads:
    """An image that is read in parts."""

    def __init__(self, image):
        self._image, self.shape, self.dtype, self.n_reads = image, image.shape, image.dtype, 0

    def __getitem__(self, key):
        self.n_reads += 1
        return self._image[key]


def test_crops_that_are_near_each_other_are_read_together():
    labels = squares(step=50, side=20, shape=(1200, 1300))
    image = CountsReads(encode(labels))
    how = {**ONE_VIEW, "min_score": 0.3}
    detector = Spy(TRUE)
    result = vsm(image, detector, middle_cell, **how)
    np.testing.assert_array_equal(result, vsm(encode(labels), TRUE, middle_cell, **how))
    assert metrics.f1(labels, result) == 1
    assert image.n_reads == len(detector.shown) + 4  # blocks of 1024 pixels


@row("B. VSM", "per-box masks")
def test_masks_are_resized_back_and_the_higher_score_is_on_top():
    detector = found([[10, 10, 30, 30], [22, 10, 42, 30]], [0.6, 0.9])
    image = np.zeros((3, 64, 64), F)
    labels, scores = vsm(image, detector, everything, return_scores=True, **SMALL)
    expected = np.zeros((64, 64), int)
    expected[10:30, 10:30], expected[10:30, 22:42] = 1, 2
    np.testing.assert_array_equal(labels, expected)
    assert scores.tolist() == [0.6, 0.9]  # of each label
    half = vsm(image, detector, lambda crops: everything(crops) / 2 - F(1e-3), **SMALL)
    assert half.max() == 0
    how = {**SMALL, "mask_threshold": 0.4}
    np.testing.assert_array_equal(vsm(image, detector, lambda c: everything(c) / 2, **how), labels)

    def left_half(crops):
        maps = everything(crops)
        maps[..., 32:] = 0
        return maps

    assert boxes_of(vsm(image, detector, left_half, **SMALL)) == [
        [10, 10, 20, 30],
        [22, 10, 32, 30],
    ]


# ---- windows ------------------------------------------------------------------------------------


def two_windows():
    """What each of two windows finds: a cell of each, which meet in a column of the overlap."""
    return several(([[40, 20, 56, 36]], [0.9]), ([[7, 20, 27, 36]], [0.7]))


@row("B. VSM", "merging windows")
def test_instances_that_meet_one_of_an_earlier_window_take_its_id_only_in_the_paper():
    image, how = np.zeros((3, 64, 112), F), {**SMALL, "return_scores": True}
    labels, scores = vsm(image, two_windows(), everything, **how)
    assert (labels.max(), scores.tolist()) == (2, [0.9, 0.7])
    labels, scores = vsm(image, two_windows(), everything, paper=True, **how)
    assert boxes_of(labels) == [[40, 20, 75, 36]]
    assert scores.tolist() == [pytest.approx(0.8)]


@row("B. VSM", "merging windows")
def test_touching_cells_become_one_only_in_the_paper():
    """Masks are a little too wide, as networks' are, so that neighbours meet."""
    scene = Scene((300, 420), "epithelium", diameter=22, seed=6)
    detector, how = DetectionNetwork(noise=0.05), {**ONE_VIEW, "tile": 160, "stride": 100}

    def too_wide(crops):
        masks = middle_cell(crops)
        for axis in (2, 3):
            masks = ndimage.maximum_filter1d(masks, 7, axis)
        return masks

    image = scene.encoded[...]
    ours = vsm(image, detector, too_wide, **how)
    theirs = vsm(image, detector, too_wide, paper=True, **how)
    truth = scene.labels[...]
    np.testing.assert_array_equal(np.unique(theirs), np.arange(theirs.max() + 1))
    assert metrics.n_cells(theirs) <= metrics.n_cells(ours) - 8
    assert metrics.f1(truth, ours, exclude_border=2) >= 0.99
    assert metrics.f1(truth, theirs, exclude_border=2) < 0.97


@pytest.mark.parametrize("jitter", [1, 2])
def test_parts_of_cells_that_windows_cut_go_though_boxes_are_not_exact(jitter):
    scene = Scene((300, 420), "nuclei", diameter=24, seed=6)
    how = {**ONE_VIEW, "tile": 160, "stride": 100}
    detector = DetectionNetwork(noise=0.05, jitter=jitter)
    labels = vsm(scene.encoded[...], detector, middle_cell, **how)
    match = metrics.match(scene.labels[...], labels, exclude_border=2)
    assert match.fn == 0
    assert match.f1 >= (0.98 if jitter == 1 else 0.95)


@row("B. VSM", "cost")
def test_a_slide_costs_less_than_the_published_time():
    """2048 x 2048 with 6,557 instances took VSM 41.57 s; these networks are simulated."""
    published = 2.48 * 2.048**2 + 0.0037 * 6557 + 6.97
    assert published == pytest.approx(41.57, abs=0.1)
    labels = squares(n=6557)
    start = time.perf_counter()
    how = {"min_score": 0.3, **ONE_VIEW}
    result = vsm(encode(labels), TRUE, middle_cell, **how)
    assert time.perf_counter() - start < published
    assert metrics.f1(labels, result) >= 0.99


@pytest.mark.parametrize("how", [{}, {"fusion": "wbf"}, {"paper": True}], ids=str)
def test_published_chain(how):
    scene = Scene((500, 620), "nuclei", diameter=26, seed=7)
    how = {**PLAIN, "tile": 384, "stride": 300, **how}
    labels, scores = vsm(
        scene.encoded[...], DetectionNetwork(noise=0.05), middle_cell, return_scores=True, **how
    )
    assert metrics.f1(scene.labels[...], labels, exclude_border=2) >= 0.95
    assert scores.shape == (labels.max(),)
    assert scores.dtype == np.float64


@pytest.mark.parametrize("paper", [False, True])
def test_progress_counts_windows(paper):
    told, image = [], np.zeros((3, 64, 112), F)
    vsm(image, nothing, everything, paper=paper, progress=lambda *n: told.append(n), **SMALL)
    assert told == [(1, 2), (2, 2)]


def test_defaults_that_tests_replace():
    defaults = {k: p.default for k, p in inspect.signature(vsm).parameters.items()}
    expected = {"tile": 1536, "stride": 1280, "augment": "d4", "fusion": "nms", "crop_size": 64}
    assert {name: defaults[name] for name in expected} == expected


# ---- bad input ----------------------------------------------------------------------------------

BOX = [[10, 10, 30, 30]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"image": 3}, TypeError, "^image: expected an array"),
        ({"image": np.full((3, 8, 8), "a")}, TypeError, "^image: expected a real dtype"),
        ({"detector": None}, TypeError, "^detector: expected a PyTorch module"),
        ({"segmenter": None}, TypeError, "^segmenter: expected a PyTorch module"),
        ({"detector": lambda b: b}, TypeError, "^(detector|output): expected"),
        ({"detector": lambda b: 1 / 0}, RuntimeError, "^detector: ZeroDivisionError.*in tile 0"),
        ({"detector": found(BOX, [np.nan])}, ValueError, "^detector: expected finite boxes"),
        ({"detector": found([[0, 0, np.inf, 9]], [1])}, ValueError, "^detector: expected finite"),
        ({"detector": found(BOX, [1, 1])}, ValueError, "^scores: expected .*in tile 0"),
        ({"segmenter": lambda c: 1 / 0}, RuntimeError, "^segmenter: ZeroDivisionError"),
        (
            {"segmenter": lambda c: c * np.nan + c[:, :1]},
            ValueError,
            "^segmenter: expected maps of",
        ),
        ({"segmenter": lambda c: c[:, :1] * np.nan}, ValueError, "^segmenter: expected finite"),
        ({"segmenter": lambda c: c[:, :1, 1:]}, ValueError, r"^segmenter: expected shape \(1, K"),
        ({"segmenter": lambda c: c[:, :1] > 0}, TypeError, "^segmenter: expected a floating"),
        ({"normalize": "max"}, ValueError, "^normalize: expected"),
        ({"n_channels": 0}, ValueError, "^n_channels: expected 1 or more; got 0"),
        ({"n_channels": 1.5}, TypeError, "^n_channels: expected an integer"),
        ({"tile": 0}, ValueError, "^tile: expected"),
        ({"tile": 64.0}, TypeError, "^tile: expected an integer"),
        ({"stride": 65}, ValueError, "^stride: expected"),
        ({"stride": 0}, ValueError, "^stride: expected"),
        ({"batch_size": 0}, ValueError, "^batch_size: expected"),
        ({"augment": "all"}, ValueError, "^augment: expected"),
        ({"augment": []}, ValueError, "^augment: expected"),
        ({"fusion": "mean"}, ValueError, "^fusion: expected 'nms' or 'wbf'; got 'mean'"),
        ({"iou_threshold": 1.5}, ValueError, "^iou_threshold: expected"),
        ({"min_score": "high"}, TypeError, "^min_score: expected a number"),
        ({"min_side": -1}, ValueError, "^min_side: expected a number of at least 0"),
        ({"min_side": np.nan}, ValueError, "^min_side: expected"),
        ({"max_side_share": -1}, ValueError, "^max_side_share: expected"),
        ({"span_share": "all"}, TypeError, "^span_share: expected a number"),
        ({"crop_size": 0}, ValueError, "^crop_size: expected 1 or more; got 0"),
        ({"mask_threshold": np.nan}, ValueError, "^mask_threshold: expected"),
        ({"channel_axis": 3}, ValueError, "^channel_axis: expected"),
    ],
)
def test_bad_input(arguments, error, message):
    detector = Spy(found(BOX, [0.9]))
    image = np.zeros((3, 64, 64), F)
    given = {"image": image, "detector": detector, "segmenter": everything, **SMALL, **arguments}
    with pytest.raises(error, match=message):
        vsm(**given)
    assert "segmenter" in message or detector.shown == []  # before the network has worked


def test_the_paper_s_failing_window_is_named():
    calls = []

    def fails_on_the_last(tiles):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("boom")
        return [{"boxes": np.empty((0, 4)), "scores": np.empty(0)} for _ in tiles]

    image = np.zeros((500, 500), np.float32)
    options = {"normalize": None, "tile": 300, "stride": 200, "augment": None, "paper": True}
    with pytest.raises(RuntimeError, match=r"in tile 3 \(pixels 200:500, 200:500\)"):
        vsm(image, fails_on_the_last, lambda crops: crops[:, :1], **options)
