"""Suppression, merging and fusion of detections against the sequential oracle and the peers."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import nms as ref
from test_paste import STYLES, some

import cellpost

F = np.float32


def random_boxes(rng, n, dtype=F):
    """Boxes of many forms: on a small grid (ties), of all sizes, without area, inverted."""
    form = rng.integers(4)
    if form == 0:
        return rng.integers(0, rng.choice([5, 20, 60]), (n, 4)).astype(dtype)
    middle = rng.uniform(0, 100, (n, 2))
    sides = np.exp(rng.normal(2, [0.1, 1, 3][form - 1], (n, 2)))
    return np.concatenate([middle - sides / 2, middle + sides / 2], 1).astype(dtype)


def nms(device, boxes, scores, *args, class_ids=None, **options):
    if class_ids is not None:
        options["class_ids"] = device.put(class_ids)
    return device.get(cellpost.nms(device.put(boxes), device.put(scores), *args, **options))


@pytest.mark.parametrize("part", range(10))
def test_nms_is_the_sequential_one(part, device):
    rng = np.random.default_rng(part)
    for case in range(100):
        n = int(rng.integers(0, 70))
        boxes = random_boxes(rng, n, (F, np.float64)[case % 2])
        scores = rng.random(n) if case % 3 else rng.integers(0, 8, n) / 8
        options = {
            "metric": ("iou", "ios")[int(case % 5 == 0)],
            "class_ids": rng.integers(-2, 2, n) if case % 4 == 0 else None,
        }
        threshold = float(rng.choice([0, 0.1, 0.3, 0.5, 0.7, 1]))
        got = nms(device, boxes, scores.astype(F), threshold, **options)
        expected = ref.nms(boxes, scores.astype(F), threshold, **options)
        assert got.tolist() == expected


def vectorised(boxes, scores, threshold):
    """The oracle, a whole row of overlaps at once, for large numbers of boxes."""
    order = np.argsort(-scores, kind="stable")
    x0, y0, x1, y1 = boxes.T
    areas, gone, keep = (x1 - x0) * (y1 - y0), np.zeros(len(boxes), bool), []
    for k, i in enumerate(order):
        if gone[i]:
            continue
        keep.append(i)
        j = order[k + 1 :]
        w = np.maximum(0, np.minimum(x1[i], x1[j]) - np.maximum(x0[i], x0[j]))
        h = np.maximum(0, np.minimum(y1[i], y1[j]) - np.maximum(y0[i], y0[j]))
        gone[j[w * h / (areas[i] + areas[j] - w * h) > F(threshold)]] = True
    return keep


@pytest.mark.parametrize("form", ["spread", "dense", "pile", "sizes", "one huge"])
def test_nms_of_many_boxes(form, device):
    rng = np.random.default_rng(0)
    n = 12_000  # several waves
    middle = rng.uniform(0, 2500, (n, 2))
    sides = rng.uniform(15, 40, (n, 2))
    if form == "dense":
        objects = rng.uniform(0, 1500, (700, 2))
        middle = objects[rng.integers(0, 700, n)] + rng.normal(0, 2, (n, 2))
    elif form == "pile":
        middle = rng.uniform(0, 20, (n, 2))
    elif form == "sizes":
        sides = np.exp2(rng.uniform(-8, 12, (n, 2)))
    boxes = np.concatenate([middle - sides / 2, middle + sides / 2], 1).astype(F)
    if form == "one huge":
        boxes[5000], boxes[9000] = [-1e9, -1e9, 1e9, 1e9], [-1e30, 0, 3e38, 1]
    scores = rng.integers(0, 5000, n).astype(F)
    for threshold in (0.5, 0.25):
        with np.errstate(all="ignore"):
            expected = vectorised(boxes, scores, threshold)
        assert nms(device, boxes, scores, threshold).tolist() == expected


@pytest.mark.parametrize("form", ["inverted", "points", "sizes"])
def test_nms_takes_no_longer_for_odd_boxes(form, device):
    # Each of these once took minutes: loops over cells without end, or over all boxes for each.
    rng = np.random.default_rng(0)
    n = 20_000
    middle, sides = rng.uniform(0, 4000, (n, 2)), rng.uniform(15, 40, (n, 2))
    if form == "sizes":
        sides = np.exp(rng.uniform(-7, 7, (n, 2)))
    boxes = np.concatenate([middle - sides / 2, middle + sides / 2], 1).astype(F)
    odd = {"inverted": [10, 0, 0, 1e9], "points": [5, 5, 5, 5]}
    if form in odd:
        boxes[::500] = odd[form]
    scores = rng.random(n).astype(F)
    for metric in ("iou", "ios"):
        start = time.perf_counter()
        keep = nms(device, boxes, scores, metric=metric)
        assert time.perf_counter() - start < 20  # a tenth of a second on an idle core
        if form in odd:
            assert set(range(0, n, 500)) <= set(keep.tolist())
        elif metric == "iou":
            assert keep.tolist() == vectorised(boxes, scores, 0.5)


def test_nms_of_boxes_too_large_for_their_areas(device):
    huge = np.array([[-2e38, -2e38, 2e38, 2e38], [0, 0, 1e-6, 1e-6], [0, 0, 1, 1]], F)
    scores = np.array([3, 2, 1])
    with np.errstate(all="ignore"):
        for metric in ("iou", "ios"):
            expected = ref.nms(huge, scores, 0.5, metric)
            assert nms(device, huge, scores, 0.5, metric=metric).tolist() == expected


def test_nms_permuted(device):
    rng = np.random.default_rng(0)
    boxes, scores = random_boxes(rng, 500), rng.permutation(500).astype(F)
    keep, order = nms(device, boxes, scores, 0.3), rng.permutation(500)
    np.testing.assert_array_equal(order[nms(device, boxes[order], scores[order], 0.3)], keep)


def test_nms_far_from_the_origin(device):
    box = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [30, 0, 40, 10]], np.float64)
    scores = np.array([0.5, 0.9, 0.1])
    for shift in (0, -1e6, 1e9, 1e14):
        assert nms(device, box + shift, scores, 0.5).tolist() == [1, 2]
    for scale in (1e-12, 1e-30, 1e12, 1e30):
        assert nms(device, box * scale, scores, 0.5).tolist() == [1, 2]


def test_kinds_of_arrays(kind):
    rng = np.random.default_rng(0)
    boxes, scores, class_ids = random_boxes(rng, 40), rng.random(40), rng.integers(0, 3, 40)
    put = [kind.put(a) for a in (boxes, scores.astype(F), class_ids)]
    got = cellpost.nms(put[0], put[1], 0.3, class_ids=put[2])
    assert kind.owns(got)
    assert kind.get(got).tolist() == ref.nms(boxes, scores.astype(F), 0.3, class_ids=class_ids)
    for part in cellpost.nmm(put[0], put[1]):
        assert kind.owns(part)
    fused = cellpost.weighted_boxes_fusion([put[0]], [put[1]], class_ids=[put[2]])
    for part in (*fused[:3], *fused[3]):
        assert kind.owns(part)


def test_integer_boxes_and_float16():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [30, 0, 40, 10]])
    scores = np.array([1, 3, 2], np.int16)
    assert cellpost.nms(boxes, scores).tolist() == [1, 2]
    assert cellpost.nms(boxes.astype(np.float16), scores.astype(np.float16)).tolist() == [1, 2]


# ---- by masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("metric", ["iou", "ios"])
def test_mask_nms_is_the_oracles(style, metric, device):
    for seed in range(25):
        rng = np.random.default_rng(seed)
        shape = tuple(rng.integers(1, 130, 2).tolist())
        masks, boxes, scores = some(int(rng.integers(0, 20)), shape, seed=seed, largest=120)
        class_ids = rng.integers(0, 2, len(boxes)) if seed % 3 == 0 else None
        insides = np.zeros((len(boxes), *shape), bool)
        for i in range(len(boxes)):
            insides[i] = cellpost.paste_masks(
                masks[i : i + 1], boxes[i : i + 1], scores[i : i + 1], shape, style=style
            )
        threshold = float(rng.choice([0, 0.1, 0.3, 0.5]))
        expected = ref.mask_nms(insides, scores, threshold, metric, class_ids)
        for given_masks in (masks, list(masks)):
            put = device.put(masks) if given_masks is masks else [device.put(m) for m in masks]
            got = cellpost.mask_nms(
                put,
                device.put(boxes),
                device.put(scores),
                shape,
                threshold,
                metric=metric,
                style=style,
                class_ids=None if class_ids is None else device.put(class_ids),
            )
            assert device.get(got).tolist() == expected


def test_mask_nms_of_more_bits_than_can_be_counted():
    boxes = np.broadcast_to(np.array([0, 0, 2**23, 2**23], F), (2**21, 4))
    with pytest.raises(ValueError, match=r"boxes: expected at most 2\^37 pixels in all boxes"):
        cellpost.mask_nms(np.ones((2**21, 1, 1), bool), boxes, np.zeros(2**21), (2**23, 2**23))


def test_mask_nms_on_a_slide_takes_no_image(device):
    masks = np.ones((3, 28, 28), F)
    boxes = np.array([[8_000_000, 8_000_000, 8_000_030, 8_000_040]] * 3, F)
    boxes[2, ::2] -= 100
    keep = cellpost.mask_nms(
        device.put(masks), device.put(boxes), device.put(np.arange(3.0)), (2**23, 2**23)
    )
    assert device.get(keep).tolist() == [2, 1]


# ---- merging ------------------------------------------------------------------------------------


def test_nmm_is_the_oracles(device):
    for seed in range(60):
        rng = np.random.default_rng(seed)
        boxes = random_boxes(rng, int(rng.integers(0, 50)), (F, np.float64)[seed % 2])
        scores = rng.integers(0, 20, len(boxes)).astype(F) / 20
        class_ids = rng.integers(0, 2, len(boxes)) if seed % 3 == 0 else None
        metric, threshold = ("ios", "iou")[seed // 2 % 2], float(rng.choice([0, 0.2, 0.5, 1]))
        merged, keep, group = ref.nmm(boxes, scores, threshold, metric, class_ids)
        got = cellpost.nmm(
            device.put(boxes),
            device.put(scores),
            threshold,
            metric=metric,
            class_ids=None if class_ids is None else device.put(class_ids),
        )
        got = [device.get(part) for part in got]
        assert got[0].dtype == boxes.dtype
        np.testing.assert_array_equal(got[0], merged.astype(boxes.dtype))
        np.testing.assert_array_equal(got[1], scores[keep])
        assert got[2].tolist() == keep
        assert got[3].tolist() == group


@pytest.mark.peer
@pytest.mark.parametrize("metric", ["iou", "ios"])
def test_nmm_is_sahis(metric):
    combine = pytest.importorskip("sahi.postprocess.combine")
    prediction = pytest.importorskip("sahi.prediction").ObjectPrediction
    rng = np.random.default_rng(0)
    for _ in range(40):
        n = int(rng.integers(1, 60))
        middle, sides = rng.uniform(20, 120, (n, 2)), rng.uniform(5, 40, (n, 2))
        boxes = np.round(np.concatenate([middle - sides / 2, middle + sides / 2], 1)).astype(F)
        scores = (rng.permutation(n) / n).astype(F)
        threshold = float(rng.choice([0.2, 0.5, 0.8]))
        rows = np.column_stack([boxes, scores, np.zeros(n, F)])
        groups = combine.greedy_nmm(rows, metric.upper(), threshold)
        merged, best, keep, group = cellpost.nmm(boxes, scores, threshold, metric=metric)
        found = {int(i): sorted(np.flatnonzero(group == k)) for k, i in enumerate(keep)}
        assert found == {i: sorted([i, *others]) for i, others in groups.items()}
        given_to_sahi = [
            prediction(bbox=box, score=score, category_id=0, category_name="cell")
            for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)
        ]
        postprocess = combine.GreedyNMMPostprocess(threshold, metric.upper())
        theirs = sorted((o.score.value, *o.bbox.to_xyxy()) for o in postprocess(given_to_sahi))
        assert sorted(np.column_stack([best, merged]).astype(float).tolist()) == [
            list(row) for row in theirs
        ]


# ---- fusion -------------------------------------------------------------------------------------


def several_models(rng, n_models, *, jitter=0.01):
    """Boxes of the same objects from several models, in 0..1."""
    middle, sides = rng.uniform(0, 1, (30, 2)), rng.uniform(0.01, 0.3, (30, 2))
    base = np.concatenate([middle - sides / 2, middle + sides / 2], 1)
    boxes, scores, class_ids = [], [], []
    for _ in range(n_models):
        mine = base[rng.random(30) < 0.8]
        mine = np.clip(mine + rng.normal(0, jitter, mine.shape), 0, 1)
        mine = mine[(mine[:, 2] > mine[:, 0]) & (mine[:, 3] > mine[:, 1])]
        boxes.append(mine)
        scores.append(rng.uniform(0.01, 1, len(mine)))
        class_ids.append(rng.integers(0, 3, len(mine)))
    return boxes, scores, class_ids


@pytest.mark.peer
@pytest.mark.parametrize("conf_type", ["avg", "max", "box_and_model_avg", "absent_model_aware_avg"])
@pytest.mark.parametrize("allows_overflow", [False, True])
def test_fusion_is_ensemble_boxes(conf_type, allows_overflow, device):
    package = pytest.importorskip("ensemble_boxes")
    for seed in range(40):
        rng = np.random.default_rng(seed)
        boxes, scores, class_ids = several_models(rng, int(rng.integers(1, 5)))
        weights = None if seed % 2 else rng.uniform(0.5, 3, len(boxes)).tolist()
        options = {"conf_type": conf_type, "allows_overflow": allows_overflow, "weights": weights}
        threshold, least = float(rng.choice([0.3, 0.55, 0.7])), float(rng.choice([0, 0.2]))
        theirs = package.weighted_boxes_fusion(
            boxes, scores, class_ids, iou_thr=threshold, skip_box_thr=least, **options
        )
        put = [[device.put(a) for a in group] for group in (boxes, scores, class_ids)]
        fused = cellpost.weighted_boxes_fusion(
            *put[:2], class_ids=put[2], iou_threshold=threshold, min_score=least, **options
        )
        for mine, its in zip(fused[:3], theirs, strict=True):
            # numbers up to 1, by the same operations but for the order of a few sums
            np.testing.assert_allclose(device.get(mine), its, rtol=0, atol=1e-14)
        # groups: every box that counts is in one, and a fused box lies within those of its group
        for group, score in zip(fused[3], scores, strict=True):
            np.testing.assert_array_equal(device.get(group) >= 0, score >= least)
        row = np.concatenate([device.get(group) for group in fused[3]])
        every = np.concatenate(boxes)
        for k, box in enumerate(device.get(fused[0])):
            members = every[row == k]
            assert (box >= members.min(0) - 1e-6).all()
            assert (box <= members.max(0) + 1e-6).all()


def test_fusion_in_pixels_and_what_is_left_out():
    boxes = [
        np.array([[0, 0, 100, 100], [500, 5, 500, 50], [900, 50, 800, 70]]),
        np.array([[0, 0, 100, 120], [300, 300, 310, 310]]),
    ]
    scores = [np.array([0.75, 0.9, 0.9]), np.array([0.25, 0.1])]
    fused, score, classes, group = cellpost.weighted_boxes_fusion(boxes, scores, min_score=0.2)
    np.testing.assert_allclose(fused, [[0, 0, 100, 105]])
    assert score.tolist() == [0.5]
    assert classes is None
    assert [g.tolist() for g in group] == [[0, -1, -1], [0, -1]]


def test_fusion_of_boxes_that_nobody_believes_in():
    box = np.array([[0.0, 0, 10, 10]])
    fused, score, _, _ = cellpost.weighted_boxes_fusion([box, box + 1], [np.zeros(1)] * 2)
    np.testing.assert_array_equal(fused, box)
    assert score.tolist() == [0.0]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_fusion_is_near_the_slow_one(seed, scale):
    """Against all clusters compared in float64: only rounding to float32 tells them apart."""
    rng = np.random.default_rng(seed)
    boxes, scores, _ = several_models(rng, 3)
    boxes = [b * scale for b in boxes]
    every, score = np.concatenate(boxes), np.concatenate(scores)
    clusters = []
    for i in np.argsort(-score, kind="stable"):
        means = [np.average(every[c], axis=0, weights=score[c]) for c in clusters]
        shares = [float(ref.overlap(np.stack([m, every[i]]), 0, 1)) for m in means]
        if shares and max(shares) > 0.55:
            clusters[int(np.argmax(shares))].append(i)
        else:
            clusters.append([i])
    fused, _, _, group = cellpost.weighted_boxes_fusion(boxes, scores)
    group = np.concatenate(group)
    assert sorted(map(sorted, clusters)) == sorted(
        sorted(np.flatnonzero(group == k).tolist()) for k in range(len(fused))
    )


# ---- nothing, and what is refused ---------------------------------------------------------------

B, S = np.array([[0.0, 0, 4, 4]] * 3), np.ones(3)


def test_nothing(device):
    boxes, scores = device.put(B[:0]), device.put(S[:0])
    assert device.get(cellpost.nms(boxes, scores)).shape == (0,)
    merged, best, keep, group = (device.get(a) for a in cellpost.nmm(boxes, scores))
    assert merged.shape == (0, 4)
    assert best.shape == keep.shape == group.shape == (0,)
    masks = device.put(np.zeros((0, 3, 3)))
    assert device.get(cellpost.mask_nms(masks, boxes, scores, (0, 7))).shape == (0,)
    fused = cellpost.weighted_boxes_fusion([boxes], [scores])
    assert device.get(fused[0]).shape == (0, 4)


def with_value(array, value):
    array = array.copy()
    array[1, ...] = value
    return array


@pytest.mark.parametrize(
    ("function", "arrays", "options", "error", "message"),
    [
        ("nms", (with_value(B, np.nan), S), {}, ValueError, "boxes: expected finite.*in row 1"),
        ("nms", (with_value(B, -np.inf), S), {}, ValueError, "boxes: expected finite.*in row 1"),
        ("nms", (B, with_value(S, np.nan)), {}, ValueError, "scores: expected finite.*in row 1"),
        ("nms", (B[:, :3], S), {}, ValueError, r"boxes: expected shape \(N, 4\); got \(3, 3\)"),
        ("nms", (B[0], S), {}, ValueError, r"boxes: expected shape \(N, 4\); got \(4,\)"),
        ("nms", (B, S[:2]), {}, ValueError, r"scores: expected shape \(3,\), one for each box"),
        ("nms", (B, S), {"class_ids": S}, TypeError, "class_ids: expected an integer dtype"),
        ("nms", (B, S), {"class_ids": np.ones(2, int)}, ValueError, "class_ids: expected shape"),
        ("nms", (B, S), {"iou_threshold": -0.1}, ValueError, "iou_threshold: expected a number f"),
        ("nms", (B, S), {"iou_threshold": np.nan}, ValueError, "iou_threshold: expected a number"),
        ("nms", (B, S), {"iou_threshold": "x"}, TypeError, "iou_threshold: expected a number; got"),
        ("nms", (B, S), {"metric": "giou"}, ValueError, "metric: expected one of 'iou', 'ios'"),
        ("nms", (B.astype(complex), S), {}, TypeError, "boxes: expected .*; got complex128"),
        ("nms", (B, S.astype(bool)), {}, TypeError, "scores: expected a real dtype; got bool"),
        ("nms", (B.tolist(), S), {}, TypeError, "boxes: expected an array"),
        ("nmm", (with_value(B, np.nan), S), {}, ValueError, "boxes: expected finite.*in row 1"),
        ("nmm", (B, S), {"iou_threshold": 2}, ValueError, "iou_threshold: expected a number from"),
    ],
)
def test_bad_input(function, arrays, options, error, message):
    with pytest.raises(error, match=message):
        getattr(cellpost, function)(*arrays, **options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"masks": np.ones((2, 3, 3))}, ValueError, "masks: expected 3 crops"),
        ({"masks": np.full((3, 3, 3), 2.0)}, ValueError, "masks: expected values from 0 to 1"),
        ({"shape": (3,)}, ValueError, r"shape: expected two integers \(row, column\)"),
        ({"shape": (2**23 + 1, 3)}, ValueError, "shape: expected rows and columns from 0"),
        ({"threshold": 0}, ValueError, "threshold: expected a number above 0 and up to 1"),
        ({"style": "x"}, ValueError, "style: expected one of 'detectron2', 'torchvision', 'near"),
        ({"boxes": with_value(B, np.nan)}, ValueError, "boxes: expected finite.*in row 1"),
        ({"boxes": with_value(B, 1e300)}, ValueError, "boxes: expected finite.*in row 1"),
        (
            {"boxes": np.array([[0, 0, 1e9, 1e9]] * 3), "shape": (2**23, 2**23)},
            ValueError,
            r"boxes: expected at most 2\^37 pixels in all boxes; got 2",
        ),
    ],
)
def test_bad_input_of_mask_nms(change, error, message):
    arguments = {"masks": np.ones((3, 3, 3)), "boxes": B, "scores": S, "shape": (9, 9)} | change
    with pytest.raises(error, match=message):
        cellpost.mask_nms(**arguments)


@pytest.mark.parametrize(
    ("boxes", "scores", "options", "error", "message"),
    [
        ([], [], {}, ValueError, "boxes: expected an array for each of one or more models"),
        (None, [S], {}, TypeError, "boxes: expected a sequence, one item for each model"),
        ([B], [S], {"weights": 1.0}, TypeError, "weights: expected a sequence, one item for each"),
        ([B, B], [S], {}, ValueError, "scores: expected 2 arrays, one for each model; got 1"),
        ([B], [S], {"class_ids": []}, ValueError, "class_ids: expected 1 arrays"),
        ([B], [S], {"weights": [1, 2]}, ValueError, "weights: expected 1 numbers from 1e-6"),
        ([B], [S], {"weights": [0]}, ValueError, "weights: expected 1 numbers from 1e-6"),
        ([B], [S], {"weights": [np.nan]}, ValueError, "weights: expected 1 numbers from 1e-6"),
        ([B], [S * 1.5], {}, ValueError, "scores: expected probabilities from 0 to 1"),
        ([B], [-S], {}, ValueError, "scores: expected probabilities from 0 to 1"),
        ([B], [S * np.nan], {}, ValueError, "scores: expected probabilities from 0 to 1"),
        ([with_value(B, np.inf)], [S], {}, ValueError, "boxes: expected finite numbers"),
        ([B], [S[:2]], {}, ValueError, r"scores: expected shape \(3,\), one for each box"),
        ([B], [S], {"iou_threshold": 1.5}, ValueError, "iou_threshold: expected a number from 0"),
        ([B], [S], {"conf_type": "mean"}, ValueError, "conf_type: expected one of 'avg', 'max'"),
        ([B], [S], {"min_score": np.nan}, ValueError, "min_score: expected a number; got nan"),
        ([B * 1e39], [S], {}, ValueError, "boxes: expected finite numbers of at most 1e38"),
        ([B], [S], {"min_score": "x"}, TypeError, "min_score: expected a number; got 'x'"),
    ],
)
def test_bad_input_of_fusion(boxes, scores, options, error, message):
    with pytest.raises(error, match=message):
        cellpost.weighted_boxes_fusion(boxes, scores, **options)
