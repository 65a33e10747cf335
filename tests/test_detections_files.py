"""Detections from files, and COCO's run-length encoding against pycocotools."""

from __future__ import annotations

import json
import time
import zipfile

import numpy as np
import pytest
from test_detections import put_back, runs

from cellpost.detections import Detections, as_detections
from cellpost.io import FileFormatError, read_detections
from cellpost.rle import rle_counts, rle_crop

IMAGE = (130, 171)


def blobs(n=6, shape=IMAGE, seed=0):
    """Boxes x, y, width, height of n rectangles and their masks (n, H, W) bool."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 30, (n, 2))
    corner = rng.integers(0, np.array(shape)[::-1] - size)
    masks = np.zeros((n, *shape), bool)
    for mask, (x, y), (w, h) in zip(masks, corner, size, strict=True):
        mask[y : y + h, x : x + w] = rng.random((h, w)) < 0.7
        mask[[y, y + h - 1], [x, x + w - 1]] = True
    return np.hstack([corner, size]).astype(float), masks


def some_masks():
    rng = np.random.default_rng(3)
    named = {
        "empty": np.zeros((7, 9), bool),
        "full": np.ones((7, 9), bool),
        "one pixel": np.zeros((7, 9), bool),
        "1 x 1 empty": np.zeros((1, 1), bool),
        "1 x 1 full": np.ones((1, 1), bool),
        "a row": np.arange(9)[None] % 3 > 0,
        "a column": np.arange(9)[:, None] % 3 > 0,
        "first and last": np.zeros((7, 9), bool),
        "last row to first row": np.zeros((7, 9), bool),
        "whole columns": np.zeros((7, 9), bool),
        "large": np.zeros((3000, 2000), bool),
    }
    named["one pixel"][3, 4] = True
    named["first and last"][[0, -1], [0, -1]] = True
    named["last row to first row"][[-1, 0], [3, 4]] = True
    named["whole columns"][:, 2:5] = True
    named["large"][1000:2500, 700:1900] = rng.random((1500, 1200)) < 0.3
    for i, density in enumerate((0.02, 0.2, 0.5, 0.8, 0.98)):
        named[f"random {i}"] = rng.random(rng.integers(1, 60, 2)) < density
    named["columns of 40000"] = np.repeat(rng.random((4, 3)) < 0.5, 10000, axis=0)
    return named


MASKS = some_masks()


def check_crop(mask, crop, box):
    """A crop gives the mask back, is no larger than its object, and owns its pixels."""
    np.testing.assert_array_equal(put_back([crop], np.array([box]), mask.shape)[0], mask)
    assert (crop.dtype, crop.flags.c_contiguous) == (np.bool_, True)
    if mask.any():
        y, x = np.nonzero(mask)
        assert box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
    else:
        assert (crop.shape, box) == ((1, 1), (0, 0, 1, 1))


# ---- run-length encoding ------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_lengths_become_crops(mask):
    assert rle_counts(runs(mask)).tolist() == runs(mask)
    check_crop(mask, *rle_crop(runs(mask), mask.shape))


@pytest.mark.peer
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_pycocotools_text_becomes_crops(mask):
    coco = pytest.importorskip("pycocotools.mask")
    coded = coco.encode(np.asfortranarray(mask, np.uint8))
    for counts in (coded["counts"], coded["counts"].decode()):
        assert rle_counts(counts).dtype == np.int64
        assert rle_counts(counts).tolist() == runs(mask)
        check_crop(mask, *rle_crop(counts, coded["size"]))


@pytest.mark.peer
def test_pycocotools_text_of_any_lengths_is_read():
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(5)
    for _ in range(50):  # of every number of characters, up and down, zeros among them
        lengths = (2 ** rng.uniform(-1, 26, rng.integers(1, 30))).astype(int)
        coded = coco.frPyObjects({"size": [1, int(lengths.sum())], "counts": lengths.tolist()},
                                 1, int(lengths.sum()))  # fmt: skip
        assert rle_counts(coded["counts"]).tolist() == lengths.tolist()


def test_runs_of_length_0_are_none():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2] = True
    for counts in ([9, 1, 0, 1, 9], [0, 0, 9, 2, 9, 0], [4, 0, 5, 2, 4, 0, 5]):
        check_crop(mask, *rle_crop(counts, mask.shape))
    check_crop(np.zeros((4, 5), bool), *rle_crop([7, 0, 13], (4, 5)))


def test_an_object_of_a_huge_mask_takes_no_memory_for_the_rest():
    side = 10**6
    crop, box = rle_crop([side * 500 + 7, 3, side - 3, 3, side * (side - 501) - 10], (side, side))
    assert crop.all()
    assert (crop.shape, box) == ((3, 2), (500, 7, 502, 10))


@pytest.mark.parametrize(
    ("error", "message", "counts", "size"),
    [
        (ValueError, "counts: expected a sum of 4 x 4 pixels; got 15", [5, 10], (4, 4)),
        (ValueError, "counts: expected a sum of 4 x 4 pixels; got 17", [5, 12], (4, 4)),
        (ValueError, "counts: expected a sum of 4 x 4 pixels; got 0", [], (4, 4)),
        (ValueError, "counts: expected a sum of 4 x 4 pixels; got 0", "", (4, 4)),
        (ValueError, "counts: expected a sum of 4 x 4 pixels; got 18446744073709551632",
         [2**62, 2**62, 2**62, 2**62, 16], (4, 4)),
        (ValueError, r"counts: expected lengths from 0 to .*; got -1", [5, -1, 12], (4, 4)),
        (ValueError, r"counts: expected lengths from 0 to .*; got -1", "5O", (4, 4)),
        (ValueError, r"counts: expected lengths from 0 to .*; got -2", "122L", (1, 1)),
        (ValueError, r"counts: expected characters '0' to 'o'; got b' '", "5 1", (4, 4)),
        (ValueError, r"counts: expected characters '0' to 'o'; got b'p'", b"5p1", (4, 4)),
        (ValueError, r"counts: expected characters '0' to 'o'; got b'\\xc3'", "5ä1", (4, 4)),
        (ValueError, r"counts: expected a whole number at the end; got b'52o'", "52o", (4, 4)),
        (ValueError, "counts: expected numbers of 1 to 8 characters; got 9", "oooooooo0", (4, 4)),
        (TypeError, "counts: expected text or a list of integers; got float64", [0.5], (4, 4)),
        (TypeError, "counts: expected text or a list of integers; got object", [1, None], (4, 4)),
        (TypeError, "counts: expected text or a list of integers; got object", None, (4, 4)),
        (TypeError, "counts: expected text or a list of integers; got int64 of shape .2, 1.",
         [[1], [2]], (4, 4)),
        (ValueError, r"size: expected \(H, W\); got 4", [16], 4),
        (ValueError, "size: expected H and W of at least 1 pixel", [0], (0, 4)),
        (TypeError, "size: expected an integer", [16], (4.0, 4)),
    ],
)  # fmt: skip
def test_damaged_encodings_are_refused(error, message, counts, size):
    with pytest.raises(error, match=message):
        rle_crop(counts, size)


# ---- .npz ---------------------------------------------------------------------------------------


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def arrays_of(n=4):
    rng = np.random.default_rng(n)
    return {
        "boxes": rng.random((n, 4)) * 50,
        "scores": rng.random(n, np.float32),
        "class_ids": np.arange(n),
        "masks": rng.random((n, 28, 20), np.float32),
        "mask_boxes": rng.random((n, 4)),
    }


def assert_same(found, expected):
    for name in ("boxes", "scores", "class_ids", "masks", "mask_boxes"):
        got, wanted = getattr(found, name), expected.get(name)
        if wanted is None or isinstance(wanted, list):
            assert isinstance(got, type(wanted))
        if wanted is not None:
            assert len(got) == len(wanted)
            for one, other in zip(got, wanted, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("n", [0, 4])
@pytest.mark.parametrize("left_out", [(), ("mask_boxes",), ("masks",), ("class_ids", "masks")])
@pytest.mark.parametrize("form", ["as it is", "one channel", "other byte order"])
def test_npz(tmp_path, n, left_out, form):
    arrays = {name: a for name, a in arrays_of(n).items() if name not in left_out}
    written = dict(arrays)
    if form == "one channel" and "masks" in arrays:
        written["masks"] = arrays["masks"][:, None]
    if form == "other byte order":
        written = {name: a.astype(a.dtype.newbyteorder(">")) for name, a in arrays.items()}
    found, shape = read_detections(write_npz(tmp_path / "found.npz", **written, more=np.zeros(3)))
    assert shape is None
    assert_same(found, arrays)
    assert all(getattr(found, name).dtype.isnative for name in arrays)
    _, shape = read_detections(write_npz(tmp_path / "a.npz", **written, shape=np.array([50, 60])))
    assert shape == (50, 60)


def test_npz_labels_are_class_ids(tmp_path):
    arrays = arrays_of()
    path = write_npz(tmp_path / "a.npz", boxes=arrays["boxes"], scores=arrays["scores"],
                     labels=arrays["class_ids"])  # fmt: skip
    np.testing.assert_array_equal(read_detections(path)[0].class_ids, arrays["class_ids"])


@pytest.mark.parametrize("n", [0, 6])
def test_npz_masks_of_the_whole_image(tmp_path, n):
    boxes, masks = blobs(n)
    path = write_npz(tmp_path / "a.npz", boxes=boxes, scores=np.ones(n), masks=masks[:, None],
                     shape=np.array(IMAGE))  # fmt: skip
    found, shape = read_detections(str(path))
    assert shape == IMAGE
    np.testing.assert_array_equal(put_back(found.masks, found.mask_boxes, IMAGE)[:n], masks)


@pytest.mark.parametrize("n", [0, 1, 6])
@pytest.mark.parametrize("covered", [False, True])
def test_npz_crops_of_different_sizes(tmp_path, n, covered):
    rng = np.random.default_rng(n)
    sizes = rng.integers(1, 200, (n, 2))
    crops = [rng.random(size, np.float32) for size in sizes]
    arrays = {**arrays_of(n), "masks": crops}
    if not covered:
        del arrays["mask_boxes"]
    flat = np.concatenate([np.empty(0, np.float32), *(crop.ravel() for crop in crops)])
    written = {name: a for name, a in arrays.items() if name != "masks"}
    path = write_npz(tmp_path / "a.npz", **written, masks_flat=flat, mask_sizes=sizes)
    assert_same(read_detections(path)[0], arrays)


BOXES, SCORES = np.zeros((2, 4)), np.zeros(2)
FLAT = {"masks_flat": np.zeros(10), "mask_sizes": np.array([[2, 2], [2, 3]])}


@pytest.mark.parametrize(
    ("message", "arrays"),
    [
        ("got no boxes among scores", {"boxes": None}),
        ("got no scores among boxes", {"scores": None}),
        (r"got boxes: expected shape \(N, 4\); got \(2, 5\)", {"boxes": np.zeros((2, 5))}),
        (r"got scores: expected shape \(2,\); got \(3,\)", {"scores": np.zeros(3)}),
        ("got class_ids: expected an integer dtype; got float64", {"labels": SCORES}),
        (r"got masks: expected shape \(N, h, w\); got \(2, 2\)", {"masks": np.zeros((2, 2))}),
        (r"got masks: expected shape \(2, h, w\); got \(2, 2\)",
         {"masks": np.zeros((2, 2)), "mask_boxes": BOXES}),
        (r"got shape: expected the image's \(H, W\)", {"masks": np.zeros((2, 200, 200))}),
        (r"got masks: expected masks of the image's shape \(9, 9\)",
         {"masks": np.zeros((2, 200, 200)), "shape": np.array([9, 9])}),
        ("got shape int64 of shape .3,., not H, W", {"shape": np.array([1, 2, 3])}),
        ("got shape float64 of shape .2,., not H, W", {"shape": np.array([1.0, 2])}),
        ("got shape int64 of shape .2,., not H, W", {"shape": np.array([0, 2])}),
        ("got masks_flat, where masks_flat and mask_sizes go together",
         {"masks_flat": FLAT["masks_flat"]}),
        ("got mask_sizes, where masks_flat and", {"mask_sizes": FLAT["mask_sizes"]}),
        ("got masks, masks_flat, mask_sizes, where", {**FLAT, "masks": np.zeros((2, 2, 2))}),
        ("which do not add up", {**FLAT, "masks_flat": np.zeros(9)}),
        ("which do not add up", {**FLAT, "masks_flat": np.zeros((2, 5))}),
        ("which do not add up", {**FLAT, "mask_sizes": np.array([[2, 2], [-2, -3]])}),
        ("which do not add up", {**FLAT, "mask_sizes": np.array([[2.0, 2], [2, 3]])}),
        ("which do not add up", {**FLAT, "mask_sizes": np.array([4, 6])}),
        ("which do not add up", {**FLAT, "mask_sizes": np.array([[2**32, 2**32], [2, 5]])}),
        ("got masks: expected 2 crops, one for each box; got 1",
         {"masks_flat": np.zeros(4), "mask_sizes": np.array([[2, 2]])}),
        (r"got masks\[1\]: expected at least one pixel",
         {"masks_flat": np.zeros(4), "mask_sizes": np.array([[2, 2], [0, 3]])}),
        ("got an array of Python objects, which are not read; .* masks_flat and mask_sizes",
         {"masks": np.array([np.zeros((2, 2)), None], object)}),
    ],
)  # fmt: skip
def test_npz_that_does_not_fit_is_refused(tmp_path, message, arrays):
    arrays = {"boxes": BOXES, "scores": SCORES, **arrays}
    path = write_npz(tmp_path / "a.npz", **{k: a for k, a in arrays.items() if a is not None})
    with pytest.raises(FileFormatError, match=message) as caught:
        read_detections(path)
    assert str(caught.value).startswith(f"{path}: expected detections in an .npz (boxes, scores")


# ---- COCO's JSON --------------------------------------------------------------------------------


def results(n=6, image_id=1, compressed=False, seed=0):
    """COCO's results of an image, and the masks in them."""
    boxes, masks = blobs(n, seed=seed)
    entries = []
    for i, (box, mask) in enumerate(zip(boxes, masks, strict=True)):
        coded = {"size": list(IMAGE), "counts": runs(mask)}
        if compressed:
            coco = pytest.importorskip("pycocotools.mask")
            coded = coco.frPyObjects(coded, *IMAGE)
            coded["counts"] = coded["counts"].decode()
        entries.append(
            {
                "image_id": image_id,
                "category_id": i % 3 + 1,
                "bbox": box.tolist(),
                "score": (i + 1) / 8,
                "segmentation": coded,
            }
        )
    return entries, masks


def write_json(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def assert_results(found, masks):
    n = len(masks)
    np.testing.assert_array_equal(found.scores, (np.arange(n) + 1) / 8)
    np.testing.assert_array_equal(found.class_ids, np.arange(n) % 3 + 1)
    np.testing.assert_array_equal(found.boxes, found.mask_boxes)
    assert (found.boxes.dtype, found.mask_boxes.dtype) == (np.float64, np.int64)
    np.testing.assert_array_equal(put_back(found.masks, found.mask_boxes, IMAGE), masks)


@pytest.mark.parametrize("compressed", [False, True])
def test_coco_results(tmp_path, compressed):
    entries, masks = results(compressed=compressed)
    found, shape = read_detections(write_json(tmp_path / "any.name", entries))
    assert shape == IMAGE
    assert_results(found, masks)


def test_coco_boxes_are_of_the_file_if_it_has_them(tmp_path):
    entries, masks = results()
    for entry in entries:
        entry["bbox"] = [1.5, 2.5, 3, 4]
    found, _ = read_detections(write_json(tmp_path / "a.json", entries))
    assert found.boxes.tolist() == [[1.5, 2.5, 4.5, 6.5]] * len(masks)
    np.testing.assert_array_equal(put_back(found.masks, found.mask_boxes, IMAGE), masks)
    for entry in entries:
        del entry["bbox"]
    assert_results(read_detections(write_json(tmp_path / "a.json", entries))[0], masks)


def test_coco_annotations(tmp_path):
    entries, masks = results()
    images = [{"id": 1, "height": IMAGE[0], "width": IMAGE[1], "file_name": "a.png"}]
    content = {"images": images, "annotations": entries, "categories": []}
    found, shape = read_detections(write_json(tmp_path / "a.json", content))
    assert shape == IMAGE
    assert_results(found, masks)
    for entry in entries:
        del entry["score"]
        del entry["image_id"]  # of the only image
    found, _ = read_detections(write_json(tmp_path / "a.json", content))
    np.testing.assert_array_equal(found.scores, np.ones(6))
    del content["images"]
    found, _ = read_detections(write_json(tmp_path / "a.json", content))
    np.testing.assert_array_equal(put_back(found.masks, found.mask_boxes, IMAGE), masks)


@pytest.mark.parametrize("no_mask", [None, []])
def test_coco_boxes_without_masks_or_classes(tmp_path, no_mask):
    entries, _ = results()
    boxes = np.array([entry["bbox"] for entry in entries])
    entries = [{"bbox": e["bbox"], "score": 0.5, "segmentation": no_mask} for e in entries]
    found, shape = read_detections(write_json(tmp_path / "a.json", entries))
    assert (found.masks, found.class_ids, found.mask_boxes, shape) == (None, None, None, None)
    np.testing.assert_array_equal(found.boxes[:, :2], boxes[:, :2])
    np.testing.assert_array_equal(found.boxes[:, 2:], boxes[:, :2] + boxes[:, 2:])
    images = [{"height": 5, "width": 7}]
    content = {"annotations": entries, "images": images}
    assert read_detections(write_json(tmp_path / "a.json", content))[1] == (5, 7)


@pytest.mark.parametrize(
    ("content", "shape"),
    [
        ([], None),
        ({"annotations": []}, None),
        ({"annotations": [], "images": [{"id": 3}]}, None),
        ({"annotations": [], "images": [{"id": 3, "height": 5, "width": 7}]}, (5, 7)),
    ],
)
def test_coco_without_objects(tmp_path, content, shape):
    found, got = read_detections(write_json(tmp_path / "a.json", content))
    assert (len(found), got, found.masks) == (0, shape, [])
    assert (found.boxes.shape, found.scores.shape, found.class_ids.shape) == ((0, 4), (0,), (0,))


def test_coco_images_are_chosen(tmp_path):
    entries, masks = results()
    others, _ = results(2, image_id="b", seed=1)
    path = write_json(tmp_path / "a.json", [*others[:1], *entries, *others[1:]])
    for image_id in (1, "1"):
        assert_results(read_detections(path, image_id=image_id)[0], masks)
    assert len(read_detections(path, image_id="b")[0]) == 2
    images = [{"id": i, "height": 130, "width": 171} for i in (1, "b", 7)]
    path = write_json(tmp_path / "a.json", {"annotations": entries + others, "images": images})
    found, shape = read_detections(path, image_id=7)
    assert (len(found), shape) == (0, IMAGE)


@pytest.mark.parametrize("image_id", [None, 99, "x"])
def test_coco_of_several_images_needs_a_choice(tmp_path, image_id):
    entries = [{"image_id": i, "bbox": [0, 0, 1, 1]} for i in range(7)]
    path = write_json(tmp_path / "a.json", entries)
    with pytest.raises(ValueError, match="image_id: expected one of 7 images; got ") as caught:
        read_detections(path, image_id=image_id)
    assert str(caught.value).endswith(f"got {image_id!r}; {path} has 0, 1, 2, 3, 4 ...")


def test_coco_image_that_is_not_there(tmp_path):
    path = write_json(tmp_path / "a.json", [{"image_id": 4, "bbox": [0, 0, 1, 1]}])
    with pytest.raises(ValueError, match=r"image_id: expected one of 1 images; got 5; .* has 4$"):
        read_detections(path, image_id=5)


def altered(i, /, **fields):
    """Results with some fields of one entry replaced, or without them (None)."""
    entries, _ = results(3)
    entries[i] = {k: v for k, v in {**entries[i], **fields}.items() if v is not None}
    return entries


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ("got JSON without a list of objects as annotations", {}),
        ("got JSON without a list of objects as annotations", 3),
        ("got JSON without a list of objects as annotations", [1, 2]),
        ("got JSON without a list of objects as images", {"annotations": [], "images": {}}),
        ("got annotation 1 of the image without bbox, which others have", altered(1, bbox=None)),
        ("got annotation 2 of the image without score, which", altered(2, score=None)),
        ("got annotation 0 of the image without category_id, w", altered(0, category_id=None)),
        ("got annotation 0 of the image without segmentation, w", altered(0, segmentation=None)),
        ("got annotations with neither bbox nor segmentation", [{"image_id": 1, "score": 1}]),
        ("got a bbox that is not 4 finite numbers", altered(0, bbox=[1, 2, 3])),
        ("got a bbox that is not 4 finite numbers", altered(0, bbox=[1, 2, 3, float("nan")])),
        ("got a bbox that is not 4 finite numbers", altered(0, bbox="here")),
        ("got a score that is not a finite number", altered(0, score="high")),
        ("got a score that is not a finite number", altered(0, score=float("inf"))),
        ("got a score that is not a finite number", altered(0, score=[1, 2])),
        ("got a category_id that is no integer", altered(0, category_id=1.5)),
        ("got a category_id that is no integer", altered(0, category_id="cell")),
        ("got annotation 1 of the image with polygons, which are not read; encode .*RLE",
         altered(1, segmentation=[[0, 0, 5, 0, 5, 5]])),
        ("got annotation 1 of the image with a segmentation that is not size and counts.*'counts'",
         altered(1, segmentation={"size": IMAGE})),
        ("not size and counts of a mask", altered(1, segmentation="mask")),
        ("not size and counts of a mask", altered(1, segmentation={"size": 5, "counts": [1]})),
        ("counts: expected a sum of 130 x 171 pixels; got 9",
         altered(1, segmentation={"size": IMAGE, "counts": [9]})),
        ("counts: expected characters", altered(1, segmentation={"size": [1, 1], "counts": "?~"})),
        ("size: expected an integer", altered(1, segmentation={"size": [1.5, 1], "counts": [1]})),
        ("got annotation 2 of the image with a mask of 4 x 5, where the image has 130 x 171",
         altered(2, segmentation={"size": [4, 5], "counts": [20]})),
        ("got annotation 0 of the image with a mask of 130 x 171, where the image has 171 x 130",
         {"annotations": altered(0), "images": [{"id": 1, "height": 171, "width": 130}]}),
    ],
)  # fmt: skip
def test_coco_that_does_not_fit_is_refused(tmp_path, message, content):
    path = write_json(tmp_path / "a.json", content)
    with pytest.raises(FileFormatError, match=message) as caught:
        read_detections(path)
    assert str(caught.value).startswith(f"{path}: expected detections in an .npz (boxes, scores")


@pytest.mark.slow
def test_50000_masks_take_seconds(tmp_path):
    mask = np.zeros(IMAGE, bool)
    mask[40:60, 80:99] = True
    entry = {"segmentation": {"size": list(IMAGE), "counts": runs(mask)}}
    path = write_json(tmp_path / "a.json", [entry] * 50_000)
    start = time.perf_counter()
    found, _ = read_detections(path)
    assert len(found) == 50_000
    assert time.perf_counter() - start < 60  # some seconds; the rest is for busy machines


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", r"an empty file \(0 bytes\)"),
        (b"II*\0rest", "a file of another kind"),
        (b"\x93NUMPY", "a file of another kind"),
        (b"\x89PNG\r\n\x1a\n", "what cannot be read as JSON"),
        (b'[{"bbox": [1, 2', "what cannot be read as JSON, cut short or damaged perhaps"),
        (b"[" * 200_000, "what cannot be read as JSON"),
        (b"PK\x03\x04 cut", "what cannot be read, cut short"),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path, content, got):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=f"expected detections in an .npz .*; got {got}"):
        read_detections(path)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(FileFormatError, match="there is none of this name"):
        read_detections(tmp_path / "none.json")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("text.txt", "text")
    with pytest.raises(FileFormatError, match=r"no boxes and no scores among text\.txt"):
        read_detections(tmp_path / "a.npz")


def test_a_shape_stands_in_for_one_that_the_file_lacks(tmp_path):
    boxes, masks = blobs(shape=(50, 60))  # small: only the shape tells the masks from crops
    arrays = {"boxes": boxes, "scores": np.ones(6), "masks": masks}
    path = write_npz(tmp_path / "a.npz", **arrays)
    with pytest.raises(FileFormatError, match="shape: expected the image's"):
        read_detections(path)
    found, shape = read_detections(path, shape=(50, 60))
    assert shape == (50, 60)
    np.testing.assert_array_equal(put_back(found.masks, found.mask_boxes, shape), masks)
    path = write_json(tmp_path / "a.json", [])
    assert read_detections(path, shape=[5, 7])[1] == (5, 7)
    with pytest.raises(ValueError, match="shape: expected H and W of at least 1 pixel"):
        read_detections(path, shape=(0, 7))


def test_a_shape_that_is_not_the_files_is_refused(tmp_path):
    arrays = {"boxes": BOXES, "scores": SCORES, "shape": np.array([50, 60])}
    for path in (
        write_npz(tmp_path / "a.npz", **arrays),
        write_json(
            tmp_path / "a.json", {"annotations": [], "images": [{"height": 50, "width": 60}]}
        ),
    ):
        assert read_detections(path, shape=(50, 60))[1] == (50, 60)
        with pytest.raises(
            ValueError, match=r"shape: expected \(50, 60\), as .* says; got \(60, 50"
        ):
            read_detections(path, shape=(60, 50))


def test_an_npz_is_of_one_image(tmp_path):
    path = write_npz(tmp_path / "a.npz", boxes=BOXES, scores=SCORES)
    with pytest.raises(ValueError, match=r"image_id: expected none for an \.npz, of one image"):
        read_detections(path, image_id=1)


def test_what_a_model_gave_comes_back_from_an_npz(tmp_path):
    boxes, masks = blobs()
    output = {"boxes": boxes, "scores": np.linspace(0, 1, 6), "masks": 0.9 * masks}
    found = as_detections(output, shape=IMAGE)
    fields = {name: getattr(found, name) for name in ("boxes", "scores", "mask_boxes")}
    flat = np.concatenate([crop.ravel() for crop in found.masks])
    sizes = np.array([crop.shape for crop in found.masks])
    path = write_npz(tmp_path / "a.npz", **fields, masks_flat=flat, mask_sizes=sizes)
    again, _ = read_detections(path)
    assert isinstance(again, Detections)
    assert_same(again, {**fields, "masks": found.masks})
