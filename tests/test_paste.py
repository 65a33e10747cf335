"""Pasting against the slow oracle, PyTorch's arithmetic in Detectron2 and torchvision, and itself
in other orders, batches and parts."""

from __future__ import annotations

import numpy as np
import peers
import pytest
import simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import paste as ref

import cellpost

F = np.float32
STYLES = ("detectron2", "torchvision", "nearest")


def some(n, shape, *, size=(7, 9), seed=0, largest=60, dtype="float32"):
    """Crops, boxes around and partly off the image, and scores with ties."""
    rng = np.random.default_rng(seed)
    masks = rng.random((n, *size))
    masks = np.where(rng.random((n, 1, 1)) < 0.3, 1.0, masks)  # some are full
    if dtype in ("bool", "uint8"):
        masks = masks > 0.4
    middle = rng.uniform(-10, max(shape) + 10, (n, 2))
    sides = rng.uniform(0.2, largest, (n, 2))
    boxes = np.concatenate([middle - sides / 2, middle + sides / 2], 1).astype(F)
    if seed % 3 == 0:
        boxes = np.round(boxes)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    scores = rng.integers(0, n + 1, n) / (n + 1)
    return masks.astype(dtype), boxes, scores.astype(F)


def paste(device, masks, boxes, scores, shape, **options):
    put = [device.put(m) for m in masks] if isinstance(masks, list) else device.put(masks)
    found = cellpost.paste_masks(put, device.put(boxes), device.put(scores), shape, **options)
    if not isinstance(found, tuple):
        return device.get(found)
    return tuple(p if isinstance(p, cellpost.PasteReport) else device.get(p) for p in found)


# ---- the pixels of one instance -----------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("style", ["detectron2", "torchvision"])
@pytest.mark.parametrize("seed", range(12))
def test_pixels_are_the_peers(style, seed, device):
    pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(3, 160, 2).tolist())
    size = tuple(rng.integers(1, 40, 2).tolist())
    masks, boxes, scores = some(12, shape, size=size, seed=seed, largest=150)
    theirs = getattr(peers, f"{style}_paste")(masks, boxes, shape)
    for threshold in (0.5, 0.3, 1.0):
        for i in range(len(masks)):
            got = paste(
                device,
                masks[i : i + 1],
                boxes[i : i + 1],
                scores[i : i + 1],
                shape,
                style=style,
                threshold=threshold,
            )
            np.testing.assert_array_equal(got > 0, theirs[i] >= F(threshold))


@pytest.mark.peer
@pytest.mark.parametrize("style", ["detectron2", "torchvision"])
def test_the_oracle_has_the_peers_bits(style):
    pytest.importorskip("torch")
    for seed, shape in enumerate([(30, 41), (9, 70), (64, 80)]):
        masks, boxes, _ = some(5, shape, size=(6, 11), seed=seed, largest=90)
        theirs = getattr(peers, f"{style}_paste")(masks, boxes, shape)
        for i in range(len(masks)):
            got = ref.paste_values(masks[i], boxes[i], shape, style)
            np.testing.assert_array_equal(got, theirs[i])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "bool"])
def test_labels_are_the_oracles(style, dtype, device):
    for seed, (shape, size) in enumerate(
        [((1, 1), (1, 1)), ((17, 40), (5, 8)), ((33, 65), (30, 30)), ((50, 31), (3, 60))]
    ):
        masks, boxes, scores = some(9, shape, size=size, seed=seed, dtype=dtype)
        for options in ({}, {"threshold": 0.2, "min_score": 0.3, "min_size": 12}):
            labels, index = ref.paste_masks(masks, boxes, scores, shape, style=style, **options)
            got, rows = paste(
                device, masks, boxes, scores, shape, style=style, return_index=True, **options
            )
            assert got.dtype == np.int32
            np.testing.assert_array_equal(got, labels)
            np.testing.assert_array_equal(rows, index)


@pytest.mark.peer
@pytest.mark.parametrize("style", ["detectron2", "torchvision"])
def test_wide_and_high_boxes(style, device):
    # more columns than a kernel takes at a time, more rows than a thread's band, crops of all sizes
    pytest.importorskip("torch")
    boxes = np.array([[-20, 3.5, 1300.25, 20], [600.5, -7, 640, 400], [3, 3, 1100, 300]], F)
    for size in [(40, 3), (29, 29), (30, 30), (1, 200)]:
        masks = np.random.default_rng(0).random((3, *size)).astype(F)
        theirs = getattr(peers, f"{style}_paste")(masks, boxes, (330, 1200))
        expected, _ = ref.compose(theirs >= 0.5, np.array([0.2, 0.3, 0.1]))
        got = paste(device, masks, boxes, np.array([0.2, 0.3, 0.1]), (330, 1200), style=style)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.peer
def test_nearest_is_pytorchs_nearest_exact(device):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for _ in range(40):
        # sides that are powers of two: places that PyTorch's float32 arithmetic has exactly
        h, w, n_y, n_x = 2 ** rng.integers(0, 6, 4)
        mask = (rng.random((1, h, w)) < 0.5).astype(F)
        y, x = rng.integers(0, 20, 2)
        box = np.array([[x, y, x + n_x, y + n_y]], F)
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(mask[None]), size=(int(n_y), int(n_x)), mode="nearest-exact"
        )[0, 0]
        expected = np.zeros((80, 80), bool)
        expected[y : y + n_y, x : x + n_x] = resized.numpy() > 0
        got = paste(device, mask, box, np.ones(1, F), (80, 80), style="nearest")
        np.testing.assert_array_equal(got > 0, expected)


@pytest.mark.parametrize("style", ["detectron2", "nearest"])
def test_crops_of_whole_pixels_come_back(style, nuclei2d, device):
    labels = cellpost.relabel(nuclei2d.astype(np.int32))
    crops, boxes = [], []
    for k, (y, x) in enumerate(simulate.ndimage.find_objects(labels), 1):
        crops.append(labels[y, x] == k)
        boxes.append((x.start, y.start, x.stop, y.stop))
    got = paste(device, crops, np.array(boxes), np.ones(len(boxes)), labels.shape, style=style)
    np.testing.assert_array_equal(got, labels)


# ---- what must not matter -----------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_batches_and_order_do_not_show(data):
    seed = data.draw(st.integers(0, 10**6))
    n = data.draw(st.integers(0, 40))
    shape = (data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90)))
    style = data.draw(st.sampled_from(STYLES))
    masks, boxes, _ = some(n, shape, seed=seed)
    scores = np.random.default_rng(seed).permutation(n) / max(n, 1)
    options = {"style": style, "min_size": data.draw(st.integers(0, 30))}
    whole, index = cellpost.paste_masks(masks, boxes, scores, shape, return_index=True, **options)
    order = np.array(data.draw(st.permutations(range(n))), int)
    ends = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    paster = cellpost.Paster(shape, **options)
    for rows in np.split(order, ends):
        paster.add(masks[rows], boxes[rows], scores[rows])
        if data.draw(st.booleans()):
            paster.result()  # looking changes nothing
    labels, rows = paster.result(return_index=True)
    np.testing.assert_array_equal(labels, whole)
    np.testing.assert_array_equal(order[rows], index)


def test_equal_scores_go_to_the_first(device):
    masks, boxes = np.ones((3, 4, 4), F), np.array([[0, 0, 4, 4], [2, 0, 6, 4], [3, 0, 9, 4]], F)
    scores = np.array([0.5, 0.5, 0.5])
    labels, index = paste(device, masks, boxes, scores, (4, 9), return_index=True)
    assert labels[0].tolist() == [1, 1, 1, 1, 2, 2, 3, 3, 3]
    assert index.tolist() == [0, 1, 2]
    scores[2] = np.nextafter(0.5, 1)
    labels, index = paste(device, masks, boxes, scores, (4, 9), return_index=True)
    assert labels[0].tolist() == [1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert index.tolist() == [0, 2]


@pytest.mark.parametrize("style", STYLES)
def test_parts_of_a_slide_are_the_whole(style):
    masks, boxes, _ = some(60, (150, 220), seed=3)
    scores = np.random.default_rng(0).permutation(60) / 60
    whole, index = cellpost.paste_masks(
        masks, boxes, scores, (150, 220), style=style, return_index=True
    )
    rows = np.concatenate([[-1], index])[whole]
    for y0, y1, x0, x1 in [
        (0, 70, 0, 100),
        (70, 150, 0, 100),
        (13, 14, 7, 220),
        (0, 150, 100, 220),
    ]:
        paster = cellpost.Paster((y1 - y0, x1 - x0), style=style)
        paster.add(masks, boxes, scores, offset=(-y0, -x0))
        labels, index = paster.result(return_index=True)
        np.testing.assert_array_equal(np.concatenate([[-1], index])[labels], rows[y0:y1, x0:x1])


def test_tiles_go_to_their_place():
    masks, boxes, scores = some(20, (40, 40), seed=1)
    boxes = np.clip(boxes, 1, 39)
    at_tile = cellpost.paste_masks(masks, boxes, scores, (40, 40))
    paster = cellpost.Paster((10_000, 20_000))
    paster.add(masks, boxes, scores, offset=(9_000, 17_003))
    slide = paster.result()
    np.testing.assert_array_equal(slide[9_000:9_040, 17_003:17_043], at_tile)
    assert np.count_nonzero(slide) == np.count_nonzero(at_tile)


# ---- forms of input -----------------------------------------------------------------------------


def test_kinds_of_arrays(kind):
    masks, boxes, scores = some(20, (50, 60), seed=2)
    expected = cellpost.paste_masks(masks, boxes, scores, (50, 60), return_index=True)
    got = cellpost.paste_masks(
        kind.put(masks), kind.put(boxes), kind.put(scores), (50, 60), return_index=True
    )
    for a, b in zip(got, expected, strict=True):
        assert kind.owns(a)
        np.testing.assert_array_equal(kind.get(a), b)


def test_strides_and_the_axis_of_channels(device):
    masks, boxes, scores = some(20, (50, 60), size=(8, 8), seed=2)
    expected = paste(device, masks, boxes, scores, (50, 60))
    every_other = np.repeat(masks, 2, axis=0)[::2]
    for given_masks in (
        masks[:, None],
        np.ascontiguousarray(masks.transpose(1, 2, 0)).transpose(2, 0, 1),
        every_other,
        np.ascontiguousarray(masks[:, ::-1, ::-1])[:, ::-1, ::-1],
    ):
        if device.name != "numpy" and any(s < 0 for s in given_masks.strides):
            continue  # PyTorch has no negative strides
        got = paste(device, given_masks, boxes, scores, (50, 60))
        np.testing.assert_array_equal(got, expected)
    turned = np.asfortranarray(boxes)
    np.testing.assert_array_equal(paste(device, masks, turned, scores, (50, 60)), expected)


@pytest.mark.parametrize("style", STYLES)
def test_crops_of_differing_sizes(style, device):
    rng = np.random.default_rng(0)
    _, boxes, scores = some(40, (90, 80), seed=4)
    crops = [rng.random(rng.integers(1, 50, 2)).astype(F) for _ in range(40)]
    got, index = paste(device, crops, boxes, scores, (90, 80), style=style, return_index=True)
    alone = np.stack(
        [
            paste(device, c[None], b[None], np.ones(1), (90, 80), style=style) > 0
            for c, b in zip(crops, boxes, strict=True)
        ]
    )
    expected, rows = ref.compose(alone, scores)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(index, rows)
    with_channel = [c[None] for c in crops]
    np.testing.assert_array_equal(
        paste(device, with_channel, boxes, scores, (90, 80), style=style), expected
    )


def test_many_crops_are_copied_in_parts(monkeypatch):
    paste_module = __import__("cellpost.paste", fromlist=["paste"])
    masks, boxes, scores = some(30, (60, 60), seed=5)
    whole = cellpost.paste_masks(masks, boxes, scores, (60, 60))
    for line in (1, 63, 200):
        monkeypatch.setattr(paste_module, "_LINE", line)
        got = cellpost.paste_masks(list(masks), boxes, scores, (60, 60))
        np.testing.assert_array_equal(got, whole)
    bad = [*masks[:20], np.full((7, 9), 2, F), *masks[21:]]
    paster = cellpost.Paster((60, 60))
    with pytest.raises(ValueError, match="masks: expected values from 0 to 1"):
        paster.add(bad, boxes, scores)
    with pytest.raises(ValueError, match="a batch failed half-way"):
        paster.result()


def test_classes_of_labels(device):
    masks, boxes, scores = some(15, (40, 40), seed=6)
    class_ids = np.arange(15) % 4
    labels, index, classes, report = paste(
        device,
        masks,
        boxes,
        scores,
        (40, 40),
        class_ids=device.put(class_ids),
        return_index=True,
        return_report=True,
    )
    np.testing.assert_array_equal(classes, class_ids[index])
    assert report.n_labels == len(index) == labels.max()


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (3, 4)])
def test_nothing(shape, device):
    for masks in (np.zeros((0, 28, 28), F), []):
        labels, index, report = paste(
            device,
            masks,
            np.zeros((0, 4), F),
            np.zeros(0, F),
            shape,
            return_index=True,
            return_report=True,
        )
        assert labels.shape == shape
        assert not labels.any()
        assert index.shape == (0,)
        assert report == cellpost.PasteReport(0, 0, 0, 0, 0, 0, 0)
    assert cellpost.Paster(shape).result().shape == shape


# ---- what is dropped and what is refused --------------------------------------------------------


def test_everything_dropped_is_counted(device):
    cases = {
        "n_low_score": [[0, 0, 5, 5]],
        "n_degenerate": [[3, 3, 3, 9], [9, 9, 5, 12], [9, 9, 12, 5], [2, 2, 2, 2]],
        "n_outside": [[-9, 0, -4, 5], [43, 0, 53, 5], [0, 1e9, 5, 2e9], [-1e30, 0, -9e29, 5]],
        "n_hidden": [[10.1, 10.1, 10.2, 10.2], [20, 20, 25, 25]],
        "n_too_small": [[30, 30, 31, 32]],
        "n_labels": [[20, 20, 26, 26], [-1e9, 5, 1e9, 9]],
    }
    boxes = np.array([box for group in cases.values() for box in group], F)
    scores = np.array([0.1] + [0.5] * (len(boxes) - 3) + [0.9, 0.9])
    masks = np.ones((len(boxes), 4, 4), F)
    labels, report = paste(
        device, masks, boxes, scores, (40, 40), min_score=0.2, min_size=3, return_report=True
    )
    expected = {name: len(group) for name, group in cases.items()}
    assert report == cellpost.PasteReport(n_instances=len(boxes), **expected)
    assert labels.max() == 2
    assert (labels[5:9] == 1).all()


def test_more_labels_than_the_dtype_holds():
    at = np.stack(np.divmod(np.arange(65_536), 256), 1)
    boxes = np.concatenate([at, at + 1], 1).astype(F)
    masks, scores = np.ones((65_536, 1, 1), bool), np.full(65_536, 0.5)
    options = {"style": "nearest"}
    fits = cellpost.paste_masks(
        masks[1:], boxes[1:], scores[1:], (256, 256), out_dtype=np.uint16, **options
    )
    assert fits.dtype == np.uint16
    assert fits.max() == 65_535
    with pytest.raises(OverflowError, match="ids up to 65536; got uint16"):
        cellpost.paste_masks(masks, boxes, scores, (256, 256), out_dtype=np.uint16, **options)
    assert cellpost.paste_masks(masks, boxes, scores, (256, 256), **options).max() == 65_536


@pytest.mark.parametrize("wrong", [-0.1, 1.1, 255.0, np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values_outside_0_to_1_are_refused(wrong, dtype, device):
    masks, boxes, scores = some(9, (20, 20), dtype=dtype)
    masks[7, 3, 2] = wrong
    boxes[7] = [500, 500, 510, 510]  # off the image, and yet wrong
    message = r"masks: expected values from 0 to 1 \(probabilities, or a binary mask\); got others "
    with pytest.raises(ValueError, match=message + "in row 7"):
        paste(device, masks, boxes, scores, (20, 20))
    with pytest.raises(ValueError, match=message + "in row 7"):
        paste(device, list(masks), boxes, scores, (20, 20))


def test_bytes_other_than_0_and_1_are_refused(device):
    masks, boxes, scores = some(9, (20, 20), dtype="uint8")
    masks[2] *= 255
    with pytest.raises(ValueError, match=r"masks: expected values from 0 to 1.* in row 2"):
        paste(device, masks, boxes, scores, (20, 20))


M, B, S = np.ones((3, 4, 4), F), np.array([[0, 0, 4, 4]] * 3, F), np.ones(3, F)


def with_value(array, value):
    array = array.copy()
    array[1, ...] = value
    return array


@pytest.mark.parametrize(
    ("masks", "boxes", "scores", "shape", "options", "error", "message"),
    [
        (M, with_value(B, np.nan), S, (9, 9), {}, ValueError, "boxes: expected finite.*row 1"),
        (M, with_value(B, np.inf), S, (9, 9), {}, ValueError, "boxes: expected finite.*row 1"),
        (M, B, with_value(S, np.nan), (9, 9), {}, ValueError, "scores: expected finite.*row 1"),
        (M, B, with_value(S, -np.inf), (9, 9), {}, ValueError, "scores: expected finite.*row 1"),
        (M, B[:2], S, (9, 9), {}, ValueError, r"scores: expected shape \(2,\), one for each box"),
        (M, B, S[:2], (9, 9), {}, ValueError, r"scores: expected shape \(3,\), one for each box"),
        (M[:2], B, S, (9, 9), {}, ValueError, "masks: expected 3 crops, one for each box; got 2"),
        (list(M)[:2], B, S, (9, 9), {}, ValueError, "masks: expected 3 crops"),
        (M[0], B, S, (9, 9), {}, ValueError, r"masks: expected shape \(N, h, w\) or"),
        (M[:, None, None], B, S, (9, 9), {}, ValueError, r"masks: expected shape \(N, h, w\) or"),
        (np.ones((3, 2, 4, 4)), B, S, (9, 9), {}, ValueError, r"masks: expected shape \(N, h, w\)"),
        ([M, M, M], B, S, (9, 9), {}, ValueError, r"masks: expected crops \(h, w\); got shape"),
        (M, B[:, :3], S, (9, 9), {}, ValueError, r"boxes: expected shape \(N, 4\); got \(3, 3\)"),
        (M, B[0], S, (9, 9), {}, ValueError, r"boxes: expected shape \(N, 4\); got \(4,\)"),
        (M.astype(np.int32), B, S, (9, 9), {}, TypeError, "masks: expected .*; got int32"),
        (M, B.astype(complex), S, (9, 9), {}, TypeError, "boxes: expected .*; got complex128"),
        (M, B, S.astype(complex), (9, 9), {}, TypeError, "scores: expected .*; got complex128"),
        ("x", B, S, (9, 9), {}, (TypeError, ValueError), "masks: "),
        (M, [[0, 0, 1, 1]] * 3, S, (9, 9), {}, TypeError, "boxes: expected an array"),
        (M, B, S, (-1, 9), {}, ValueError, r"shape: expected rows and columns from 0"),
        (M, B, S, (9,), {}, ValueError, r"shape: expected two integers \(row, column\)"),
        (M, B, S, (9.5, 9), {}, TypeError, "shape: expected an integer; got 9.5"),
        (M, B, S, (2**23 + 1, 1), {}, ValueError, "shape: expected rows and columns from 0"),
        (M, B, S, (50_000, 50_000), {}, ValueError, "fewer than 2.*31 pixels.*Paste parts"),
        (M, B, S, (9, 9), {"threshold": 0}, ValueError, "threshold: expected a number above 0"),
        (M, B, S, (9, 9), {"threshold": 1.1}, ValueError, "threshold: expected a number above 0"),
        (M, B, S, (9, 9), {"threshold": np.nan}, ValueError, "threshold: expected a number above"),
        (M, B, S, (9, 9), {"threshold": "x"}, TypeError, "threshold: expected a number; got 'x'"),
        (M, B, S, (9, 9), {"min_score": np.nan}, ValueError, "min_score: expected a number; got"),
        (M, B, S, (9, 9), {"threshold": 1e-50}, ValueError, "threshold: expected a number above"),
        (M, B, S, (9, 9), {"min_size": -1}, ValueError, "min_size: expected 0 or more pixels"),
        ([M[0], M[0], M[0].tolist()], B, S, (9, 9), {}, TypeError, "masks: expected crops of one"),
        (
            [np.broadcast_to(F(1), (1, 2**32))] * 3,
            B,
            S,
            (9, 9),
            {},
            ValueError,
            "masks: expected crops of at most 2.*20 values a side",
        ),
        (M, B, S, (9, 9), {"min_size": 1.5}, TypeError, "min_size: expected an integer; got 1.5"),
        (M, B, S, (9, 9), {"style": "cv2"}, ValueError, "style: expected one of 'detectron2', 'to"),
        (M, B, S, (9, 9), {"class_ids": np.ones(2, int)}, ValueError, "class_ids: expected shape"),
        (M, B, S, (9, 9), {"class_ids": np.ones(3)}, TypeError, "class_ids: expected an integer"),
        (M, B, S, (9, 9), {"out_dtype": float}, TypeError, "out_dtype: expected an integer dtype"),
    ],
)
def test_bad_input(masks, boxes, scores, shape, options, error, message):
    with pytest.raises(error, match=message):
        cellpost.paste_masks(masks, boxes, scores, shape, **options)


def test_arrays_may_be_used_again_after_a_batch():
    paster = cellpost.Paster((9, 9))
    box, class_id = B[:1].copy(), np.array([3])
    paster.add(M[:1], box, S[:1], class_ids=class_id)
    box += 5
    class_id[:] = 7
    paster.add(M[:1], box, S[:1], class_ids=class_id)
    box[:], class_id[:] = 0, 0
    labels, classes = paster.result()
    assert (labels[0, 0], labels[8, 8]) == (1, 2)
    assert classes.tolist() == [3, 7]


def test_empty_batches_say_nothing_of_classes():
    paster = cellpost.Paster((9, 9))
    paster.add(M[:0], B[:0], S[:0], class_ids=np.ones(0, int))
    assert paster.result()[1].shape == (0,)
    paster.add(M, B, S)
    paster.add(M[:0], B[:0], S[:0], class_ids=np.ones(0, int))
    assert paster.result().max() == 1
    paster = cellpost.Paster((9, 9))
    paster.add(M[:0], B[:0], S[:0])
    paster.add(M, B, S, class_ids=np.array([4, 5, 6]))
    paster.add(M[:0], B[:0], S[:0])
    assert paster.result()[1].tolist() == [4]


def test_large_instances(device):
    # so large that tiles grow, each in most of them
    rng = np.random.default_rng(0)
    n = 9000
    masks, scores = np.ones((n, 3, 3), F), rng.permutation(n) / n
    corner = rng.uniform(-50, 0, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(40, 2100, (n, 2))], 1).astype(F)
    shape = (600, 2100)
    labels, index = paste(device, masks, boxes, scores, shape, style="nearest", return_index=True)
    owner = np.full(shape, -1)
    for i in np.argsort(scores):
        x0, y0, x1, y1 = np.clip(np.ceil(boxes[i] - 0.5), 0, None).astype(int)
        owner[y0:y1, x0:x1] = i
    np.testing.assert_array_equal(np.concatenate([[-1], index])[labels], owner)


def test_batches_that_do_not_fit():
    torch = pytest.importorskip("torch")
    paster = cellpost.Paster((9, 9))
    paster.add(M, B, S)
    with pytest.raises(ValueError, match="class_ids: expected in all batches or in none"):
        paster.add(M, B, S, class_ids=np.ones(3, int))
    with pytest.raises(ValueError, match="boxes: expected numpy arrays on cpu, as in the first"):
        paster.add(*(torch.from_numpy(a) for a in (M, B, S)))
    with pytest.raises(ValueError, match=r"offset: expected -2\^40 to 2\^40 pixels"):
        paster.add(M, B, S, offset=(2**41, 0))
    with pytest.raises(ValueError, match=r"offset: expected two integers \(row, column\)"):
        paster.add(M, B, S, offset=3)
    with pytest.raises(ValueError, match="masks: expected values from 0 to 1"):
        paster.add(M * 2, B, S)
    # none of these left a trace
    labels, report = paster.result(return_report=True)
    assert report.n_instances == 3
    assert labels.max() == 1


def test_real_nuclei_come_back(nuclei2d, device):
    found = simulate.detections(nuclei2d.astype(np.int32))
    labels, index = paste(
        device, found.masks, found.boxes, found.scores, nuclei2d.shape, return_index=True
    )
    assert len(index) == found.labels.max()
    for k, row in enumerate(index, 1):
        mine, truth = labels == k, found.labels == row + 1
        # the simulated errors move an outline by about a pixel, of cells some 20 pixels wide
        assert (mine & truth).sum() > 0.5 * (mine | truth).sum()
