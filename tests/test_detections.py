"""Outputs of detectors: what each library is documented to give becomes boxes, scores and crops."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import array_kinds
import numpy as np
import peers
import pytest

from cellpost.detections import Detections, as_detections, crop_masks
from cellpost.rle import rle_crop

IMAGE = (130, 171)  # larger than any crop, odd, not square


@pytest.fixture(
    params=[
        pytest.param(k, id=k.name, marks=[pytest.mark.gpu] if k.on_cuda else [])
        for k in (array_kinds.NUMPY, array_kinds.TORCH, array_kinds.TORCH_CUDA)
    ]
)
def library(request):
    """What detectors give: NumPy's arrays and torch's tensors."""
    if (why_not := request.param.why_not()) is not None:
        pytest.skip(why_not)
    return request.param


def objects(n=5, shape=IMAGE, seed=0):
    """Boxes, scores and classes of n discs, and their masks of the whole image (n, H, W) bool."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    centre, radius = rng.uniform(0, shape, (n, 2)), rng.uniform(3, 20, n)
    inside = (y[None] - centre[:, 0, None, None]) ** 2 + (x[None] - centre[:, 1, None, None]) ** 2
    masks = inside < radius[:, None, None] ** 2
    ends = centre[:, ::-1], radius[:, None]
    boxes = np.clip(np.hstack([ends[0] - ends[1], ends[0] + ends[1]]), 0, (*shape[::-1],) * 2)
    return boxes.astype(np.float32), rng.random(n, np.float32), np.arange(n), masks


def put_back(crops, boxes, shape):
    """Masks of the whole image from crops over whole pixels."""
    masks = np.zeros((len(crops), *shape), crops[0].dtype if len(crops) else bool)
    for mask, crop, (x0, y0, x1, y1) in zip(masks, crops, boxes.tolist(), strict=True):
        mask[y0:y1, x0:x1] = crop
    return masks


def sampled(crop, box, shape):
    """A crop over any box, interpolated linearly at the image's pixel centres, 0 around it."""
    values = np.asarray(crop, np.float64)
    for n, low, high in ((shape[0], box[1], box[3]), (shape[1], box[0], box[2])):
        at = (np.arange(n) + 0.5 - low) / (high - low) * len(values) - 0.5
        padded = np.concatenate([0 * values[:1], values, 0 * values[:1]])
        below = np.clip(np.floor(at), -1, len(values) - 1).astype(int)
        part = np.clip(at - below, 0, 1)[:, None]
        values = ((1 - part) * padded[below + 1] + part * padded[below + 2]).T
    return values


def assert_detections(found, library, boxes, scores, class_ids, masks=None):
    """Fields are the library's and as expected; crops give the masks of the whole image back."""
    for got, expected in ((found.boxes, boxes), (found.scores, scores)):
        assert library.owns(got)
        np.testing.assert_array_equal(library.get(got), expected)
    if class_ids is None:
        assert found.class_ids is None
    else:
        assert library.owns(found.class_ids)
        np.testing.assert_array_equal(library.get(found.class_ids), class_ids)
    if masks is None:
        assert found.masks is None
        assert found.mask_boxes is None
        return
    assert all(library.owns(crop) for crop in found.masks)
    assert library.owns(found.mask_boxes)
    crops = [library.get(crop) for crop in found.masks]
    back = put_back(crops, library.get(found.mask_boxes), masks.shape[1:])
    np.testing.assert_array_equal(back, masks)


# ---- Detections ---------------------------------------------------------------------------------


def detections(n=4, kind=array_kinds.NUMPY, ragged=False):
    rng = np.random.default_rng(n)
    boxes = rng.random((n, 4)) * 10
    masks = rng.random((n, 5, 6)).astype(np.float32)
    crops = [masks[i, : i + 1] for i in range(n)]
    return Detections(
        kind.put(boxes),
        kind.put(rng.random(n)),
        [kind.put(crop) for crop in crops] if ragged else kind.put(masks),
        kind.put(np.arange(n)),
        kind.put(boxes + 1),
    )


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(
    "index",
    [
        slice(1, 3),
        slice(None, None, 2),
        slice(None, None, -1),
        slice(0, 0),
        [3, 0, 0, -1],
        [],
        (True, False, False, True),
        np.array([2, 1]),
        np.zeros(4, bool),
        np.array([1, 2], np.uint8),
    ],
    ids=str,
)
def test_every_field_is_indexed(kind, ragged, index):
    whole = detections(4, kind, ragged)
    numpys = index if isinstance(index, slice) else np.asarray(index)
    chosen = np.arange(4)[numpys if np.shape(index) != (0,) else slice(0, 0)]
    part = whole[index]
    assert len(part) == len(chosen)
    for name in ("boxes", "scores", "class_ids", "mask_boxes"):
        assert kind.owns(getattr(part, name))
        expected = kind.get(getattr(whole, name))[chosen]
        np.testing.assert_array_equal(kind.get(getattr(part, name)), expected)
    assert isinstance(part.masks, list) == ragged
    for got, i in zip(part.masks, chosen, strict=True):
        np.testing.assert_array_equal(kind.get(got), kind.get(whole.masks[i]))
    if not ragged:
        assert tuple(part.masks.shape) == (len(chosen), 5, 6)


def test_an_array_of_the_same_kind_chooses(library):
    whole = detections(4, library)
    kept = whole[whole.class_ids > 1]
    np.testing.assert_array_equal(library.get(kept.class_ids), [2, 3])
    kept = whole[library.put(np.array([3, 1]))]
    np.testing.assert_array_equal(library.get(kept.class_ids), [3, 1])
    bare = Detections(whole.boxes, whole.scores)[1:]
    assert (len(bare), bare.masks, bare.class_ids, bare.mask_boxes) == (3, None, None, None)


def test_numbers_in_lists_become_arrays():
    found = Detections([(0, 0, 2, 1)], [1], [[[0.5, 1.0]]], [3], [[0, 0, 2, 1]])
    assert found.boxes.dtype == found.scores.dtype == np.float64
    assert found.masks[0].tolist() == [[0.5, 1.0]]
    assert (found.class_ids.tolist(), found.mask_boxes.tolist()) == ([3], [[0, 0, 2, 1]])
    empty = Detections([], [], [], [], [])
    assert len(empty) == 0
    assert (empty.boxes.shape, empty.mask_boxes.shape, empty.masks) == ((0, 4), (0, 4), [])
    assert empty.class_ids.dtype == np.int64


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_fields_stay_what_they_are(kind, dtype):
    boxes, scores = (kind.put(np.ones(s, dtype)) for s in ((2, 4), 2))
    found = Detections(boxes, scores, kind.put(np.ones((2, 3, 3), bool)))
    for given, field in ((boxes, found.boxes), (scores, found.scores)):
        assert field is given or kind.name == "dlpack"
        assert str(field.dtype).removeprefix("torch.") == dtype


BOXES, SCORES = np.zeros((3, 4)), np.zeros(3)


@pytest.mark.parametrize(
    ("error", "message", "fields"),
    [
        (ValueError, r"boxes: expected shape \(N, 4\); got \(3, 5\)", {"boxes": np.zeros((3, 5))}),
        (ValueError, r"boxes: expected shape \(N, 4\); got \(4,\)", {"boxes": np.zeros(4)}),
        (ValueError, r"scores: expected shape \(3,\); got \(2,\)", {"scores": SCORES[:2]}),
        (ValueError, r"class_ids: expected shape \(3,\)", {"class_ids": np.zeros((3, 1), int)}),
        (ValueError, r"mask_boxes: expected shape \(3, 4\)", {"mask_boxes": np.zeros((2, 4))}),
        (ValueError, r"masks: expected shape \(3, h, w\); got \(3, 1, 4, 4\)",
         {"masks": np.zeros((3, 1, 4, 4))}),
        (ValueError, r"masks: expected shape \(3, h, w\); got \(2, 4, 4\)",
         {"masks": np.zeros((2, 4, 4))}),
        (ValueError, r"masks: expected at least one pixel; got shape \(3, 0, 4\)",
         {"masks": np.zeros((3, 0, 4))}),
        (ValueError, "masks: expected 3 crops, one for each box; got 1",
         {"masks": [np.zeros((4, 4))]}),
        (ValueError, r"masks\[1\]: expected shape \(h, w\); got \(4,\)",
         {"masks": [np.zeros((4, 4)), np.zeros(4), np.zeros((4, 4))]}),
        (ValueError, r"masks\[2\]: expected at least one pixel",
         {"masks": [np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((0, 4))]}),
        (TypeError, r"masks\[1\]: expected an array; got str",
         {"masks": [np.zeros((4, 4)), "mask", np.zeros((4, 4))]}),
        (TypeError, r"masks: expected a float dtype, bool or uint8; got int64",
         {"masks": np.zeros((3, 4, 4), int)}),
        (TypeError, r"masks\[0\]: expected a float dtype, bool or uint8; got complex64",
         {"masks": [np.zeros((4, 4), np.complex64)] * 3}),
        (TypeError, "class_ids: expected an integer dtype; got float64", {"class_ids": SCORES}),
        (TypeError, "boxes: expected a floating-point or integer dtype; got bool",
         {"boxes": BOXES > 0}),
        (TypeError, "scores: expected a floating-point or integer dtype; got complex128",
         {"scores": SCORES + 0j}),
        (TypeError, "scores: expected an array of NumPy, .*; got NoneType", {"scores": None}),
        (TypeError, "masks: expected an array of NumPy, .*; got str", {"masks": "masks"}),
        (TypeError, "mask_boxes: expected a plain array; got a MaskedArray",
         {"mask_boxes": np.ma.zeros((3, 4))}),
    ],
)  # fmt: skip
def test_fields_that_do_not_fit_are_refused(error, message, fields):
    with pytest.raises(error, match=message):
        Detections(**{"boxes": BOXES, "scores": SCORES, **fields})


def test_fields_of_two_libraries_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"scores: expected .* boxes is of, numpy; got torch"):
        Detections(BOXES, torch.zeros(3))
    with pytest.raises(TypeError, match=r"masks\[0\]: expected .* numpy; got torch"):
        Detections(BOXES, SCORES, [torch.zeros(2, 2)] * 3)


@pytest.mark.parametrize("index", [0, np.int64(1), 0.5, [0.5], [[0]], "a", None], ids=repr)
def test_other_indices_are_refused(index):
    with pytest.raises(TypeError, match=r"index: expected a slice, or \(n,\) integers or bools"):
        detections()[index]


@pytest.mark.parametrize("index", [[4], [True]], ids=repr)
def test_indices_out_of_range_are_refused(index):
    with pytest.raises(IndexError):
        detections()[index]


# ---- crop_masks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float32", "float64", "int32"])
def test_crops_put_back_are_the_masks(kind, dtype):
    masks = objects(9)[3].astype(dtype)
    masks[4] = 0
    masks[5] = 1
    masks[6] = 0
    masks[6, -1, 0] = masks[6, 40, 50] = 1
    crops, boxes = crop_masks(kind.put(masks))
    assert all(kind.owns(crop) for crop in crops)
    assert kind.owns(boxes)
    crops, boxes = [kind.get(crop) for crop in crops], kind.get(boxes)
    assert boxes.dtype == np.int64
    assert {crop.dtype for crop in crops} == {np.dtype(dtype)}
    np.testing.assert_array_equal(put_back(crops, boxes, IMAGE), masks)
    assert (crops[4].shape, boxes[4].tolist()) == ((1, 1), [0, 0, 1, 1])
    assert boxes[5].tolist() == [0, 0, IMAGE[1], IMAGE[0]]


def test_windows_are_the_objects_and_a_pixel_around(kind):
    masks = np.zeros((5, 9, 12), np.float32)
    masks[0, 4, 5] = 0.1
    masks[1, 0, 0] = 1
    masks[2, 8, 11] = 1
    masks[3, 2:4, 3:9] = np.inf
    masks[4] = -1
    masks[4, 7, 7] = np.nan  # not more than 0
    _, boxes = crop_masks(kind.put(masks))
    assert kind.get(boxes).tolist() == [
        [4, 3, 7, 6],
        [0, 0, 2, 2],
        [10, 7, 12, 9],
        [2, 1, 10, 5],
        [0, 0, 1, 1],
    ]


def test_masks_in_a_list_of_any_sizes():
    masks = [np.zeros((4, 5), bool), np.ones((2, 3), bool), [[0, 1, 0, 0]]]
    crops, boxes = crop_masks(masks)
    assert [crop.shape for crop in crops] == [(1, 1), (2, 3), (1, 3)]
    assert boxes.tolist() == [[0, 0, 1, 1], [0, 0, 3, 2], [0, 0, 3, 1]]


def test_crops_are_views(library):
    masks = library.put(objects()[3])
    crops, _ = crop_masks(masks)
    masks[...] = True
    assert all(bool(crop.all()) for crop in crops)


def test_blocks_do_not_show(monkeypatch):
    masks = objects(7)[3]
    expected = crop_masks(masks)[1]
    for n_pixels in (1, 3 * masks[0].size):
        monkeypatch.setattr("cellpost.detections._BLOCK", n_pixels)
        np.testing.assert_array_equal(crop_masks(masks)[1], expected)


def test_a_frame_scales_the_boxes(kind):
    masks = np.zeros((2, 4, 5), bool)
    masks[0, 2, 2] = True
    _, boxes = crop_masks(kind.put(masks), (10, -2, 20, 6))
    boxes = kind.get(boxes)
    assert boxes.dtype == np.float64
    assert boxes.tolist() == [[12, 0, 18, 6], [10, -2, 12, 0]]
    _, boxes = crop_masks([kind.put(mask) for mask in masks], (10, -2, 20, 6))
    np.testing.assert_array_equal(kind.get(boxes)[0], [12, 0, 18, 6])


def test_no_masks_no_crops(kind):
    for masks in (kind.put(np.zeros((0, 7, 8))), kind.put(np.zeros((0, 0, 0))), []):
        for frame in (None, (0, 0, 1, 1)):
            crops, boxes = crop_masks(masks, frame)
            assert (crops, tuple(boxes.shape)) == ([], (0, 4))
            assert isinstance(masks, list) or kind.owns(boxes)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"masks: expected shape \(N, h, w\); got \(4, 4\)", (np.zeros((4, 4)),)),
        (ValueError, "masks: expected at least one pixel", (np.zeros((2, 0, 4)),)),
        (ValueError, r"masks\[0\]: expected shape \(h, w\)", ([np.zeros(4)],)),
        (TypeError, r"masks\[0\]: expected an array; got dict", ([{}],)),
        (TypeError, "masks: expected an array; got str", ("masks",)),
        (ValueError, "frame: expected x0 < x1", (np.zeros((1, 2, 2)), (0, 0, 0, 1))),
        (ValueError, "frame: expected x0 < x1", (np.zeros((1, 2, 2)), (0, 0, 1))),
        (ValueError, "frame: expected x0 < x1", (np.zeros((1, 2, 2)), (0, 0, 1, np.nan))),
        (TypeError, "frame: expected a number", (np.zeros((1, 2, 2)), "wide")),
    ],
)  # fmt: skip
def test_masks_and_frames_that_do_not_fit_are_refused(error, message, arguments):
    with pytest.raises(error, match=message):
        crop_masks(*arguments)


# ---- torchvision --------------------------------------------------------------------------------


def of_torchvision(library, n=5, masks=None):
    boxes, scores, labels, whole = objects(n)
    pasted = 0.7 * whole[:, None].astype(np.float32) if masks is None else masks
    fields = {"boxes": boxes, "labels": labels, "scores": scores, "masks": pasted}
    return {name: library.put(field) for name, field in fields.items()}


@pytest.mark.parametrize("n", [0, 5])
def test_torchvision_pasted_masks(library, n):
    boxes, scores, labels, whole = objects(n)
    output = of_torchvision(library, n)
    expected = np.float32(0.7) * whole
    for given in (output, [output], (output,)):
        found = as_detections(given, shape=IMAGE)
        assert_detections(found, library, boxes, scores, labels, expected)


@pytest.mark.parametrize("n", [0, 5])
@pytest.mark.parametrize("shape", [None, IMAGE])
@pytest.mark.parametrize("size", [(5, 1, 28, 28), (5, 14, 14), (5, 112, 112), (5, 1, 1)])
def test_torchvision_raw_head(library, n, shape, size):
    masks = np.random.default_rng(0).random((n, *size[1:]), np.float32)
    output = of_torchvision(library, n, masks)
    found = as_detections(output, shape=shape)
    assert found.mask_boxes is None
    np.testing.assert_array_equal(library.get(found.masks), masks.reshape(n, *size[-2:]))


def test_torchvision_without_masks_or_labels(library):
    output = of_torchvision(library)
    boxes, scores, labels, _ = objects()
    del output["masks"]
    assert_detections(as_detections(output), library, boxes, scores, labels)
    del output["labels"]
    assert_detections(as_detections(output, shape=IMAGE), library, boxes, scores, None)


@pytest.mark.parametrize("size", [(29, 30), (64, 64), (113, 113)])
def test_masks_that_may_be_of_an_image_need_its_shape(size):
    boxes = np.array([[0, 0, 9, 9], [1, 1, 20, 28]], float)
    output = {"boxes": boxes, "scores": SCORES[:2], "masks": np.zeros((2, *size), np.float32)}
    with pytest.raises(ValueError, match=r"shape: expected the image's \(H, W\), to tell masks"):
        as_detections(output)
    assert isinstance(as_detections(output, shape=size).masks, list)
    if max(size) <= 112:
        assert as_detections(output, shape=(1000, 1000)).masks.shape == (2, *size)


def test_lists_of_differing_lengths_are_refused():
    with pytest.raises(ValueError, match=r"boxes, scores, .*: expected arrays, or lists that make"):
        Detections([[0, 0, 3, 2], [4, 4, 5]], [0.5, 0.5])


def test_too_few_masks():
    for masks in (np.zeros((1, 200, 200)), np.zeros((1, 14, 14)), [np.zeros((200, 200))]):
        output = {"boxes": BOXES[:2], "scores": SCORES[:2], "masks": masks}
        with pytest.raises(ValueError, match="masks: expected 2, one for each box; got 1"):
            as_detections(output, shape=(200, 200))


def test_nothing_to_understand():
    with pytest.raises(TypeError, match=r"output: expected .*; got an empty list"):
        as_detections([])
    with pytest.raises(ValueError, match="frame: expected x0 < x1 and y0 < y1 in"):
        crop_masks(np.zeros((1, 5, 6)), frame=5)


def test_crops_of_usual_heads_need_no_shape():
    for n in (14, 28, 56, 112):
        masks = np.zeros((2, n, n), np.float32)
        boxes = np.array([[0, 0, 9, 9], [100, 100, 130, 130]], float)
        output = {"boxes": boxes, "scores": SCORES[:2], "masks": masks}
        assert as_detections(output).masks is masks
    masks = np.zeros((1, 28, 28), np.float32)
    output = {"boxes": boxes[:1], "scores": SCORES[:1], "masks": masks}
    assert as_detections(output).masks is masks


def test_encoded_masks_of_mmdetection_3():
    whole = objects(3)[3] > 0
    runs = [np.flatnonzero(np.diff(np.r_[0, m.T.ravel(), 1 - m.T.ravel()[-1]])) for m in whole]
    coded = [{"size": list(IMAGE), "counts": np.diff(np.r_[0, r]).tolist()} for r in runs]
    found = SimpleNamespace(
        pred_instances=SimpleNamespace(bboxes=BOXES[:3], scores=SCORES[:3], masks=coded)
    )
    found = as_detections(found)
    np.testing.assert_array_equal(put_back(found.masks, found.mask_boxes, IMAGE), whole)


def test_a_dict_of_lists():
    whole = objects(2)[3]
    output = {"boxes": [[0, 0, 4, 4], [1, 1, 2, 2]], "scores": [0.5, 1], "labels": [2, 3]}
    found = as_detections({**output, "masks": list(whole)}, shape=IMAGE)
    np.testing.assert_array_equal(put_back(found.masks, found.mask_boxes, IMAGE), whole)
    crops = [np.ones((2, 3)), np.ones((5, 1))]
    assert [m.shape for m in as_detections({**output, "masks": crops}).masks] == [(2, 3), (5, 1)]
    assert as_detections({"boxes": [], "scores": [], "labels": [], "masks": []}).masks == []


def test_numpy_masks_beside_tensors_become_tensors():
    torch = pytest.importorskip("torch")
    boxes, scores, labels, whole = objects()
    fields = [torch.from_numpy(a) for a in (boxes, scores, labels)]
    output = {**dict(zip(("boxes", "scores", "labels"), fields, strict=True)), "masks": whole}
    found = as_detections(output, shape=IMAGE)
    assert_detections(found, array_kinds.TORCH, boxes, scores, labels, whole)


@pytest.mark.peer
def test_masks_that_torchvision_pasted():
    torch = pytest.importorskip("torch")
    heads = peers.torchvision_heads()
    boxes, scores, labels, _ = (torch.from_numpy(field) for field in objects())
    crops = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    pasted = heads.paste_masks_in_image(crops, boxes, IMAGE)
    output = {"boxes": boxes, "labels": labels, "scores": scores, "masks": pasted}
    found = as_detections([output], shape=IMAGE)
    assert_detections(found, array_kinds.TORCH, boxes, scores, labels, pasted[:, 0].numpy())


# ---- Detectron2 ---------------------------------------------------------------------------------


class Instances:
    """Fields under their own names, the size under a property, as Detectron2 documents it."""

    def __init__(self, image_size, **fields):
        self._image_size = image_size
        self._fields = fields

    @property
    def image_size(self):
        return self._image_size

    def __getattr__(self, name):
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Cannot find field '{name}' in the given Instances!")
        return self._fields[name]

    def __len__(self):
        return len(self._fields["scores"])

    def __iter__(self):
        raise NotImplementedError("`Instances` object is not iterable!")


def of_detectron2(library, n=5, **fields):
    boxes, scores, classes, whole = objects(n)
    given = {"pred_boxes": boxes, "scores": scores, "pred_classes": classes, "pred_masks": whole}
    given = {name: library.put(field) for name, field in given.items()}
    given["pred_boxes"] = SimpleNamespace(tensor=given["pred_boxes"])  # Boxes
    given |= fields
    return Instances(IMAGE, **{name: field for name, field in given.items() if field is not None})


@pytest.mark.parametrize("n", [0, 5])
def test_detectron2_post_processed(library, n):
    boxes, scores, classes, whole = objects(n)
    instances = of_detectron2(library, n)
    bitmasks = of_detectron2(library, n, pred_masks=SimpleNamespace(tensor=library.put(whole)))
    bare_boxes = of_detectron2(library, n, pred_boxes=library.put(boxes))
    for output in (instances, {"instances": instances}, [{"instances": instances}], bitmasks,
                   bare_boxes):  # fmt: skip
        for shape in (None, IMAGE, list(IMAGE)):
            found = as_detections(output, shape=shape)
            assert_detections(found, library, boxes, scores, classes, whole)


@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (5, 28, 28)])
def test_detectron2_raw_head(library, shape):
    masks = np.random.default_rng(0).random(shape, np.float32)
    for given in (library.put(masks), SimpleNamespace(tensor=library.put(masks))):  # ROIMasks
        found = as_detections(of_detectron2(library, pred_masks=given))
        assert found.mask_boxes is None
        np.testing.assert_array_equal(library.get(found.masks), masks.reshape(5, 28, 28))


def test_detectron2_without_masks_or_classes(library):
    boxes, scores, _, _ = objects()
    output = of_detectron2(library, pred_masks=None, pred_classes=None)
    assert_detections(as_detections(output), library, boxes, scores, None)


# ---- MMDetection --------------------------------------------------------------------------------


def of_mmdet3(library, n=5, wrapped=False, **sample):
    boxes, scores, labels, whole = (library.put(field) for field in objects(n))
    if wrapped:  # HorizontalBoxes, BitmapMasks
        boxes, whole = SimpleNamespace(tensor=boxes), SimpleNamespace(masks=library.get(whole))
    found = SimpleNamespace(bboxes=boxes, scores=scores, labels=labels, masks=whole)
    return SimpleNamespace(pred_instances=found, **sample)


@pytest.mark.parametrize("n", [0, 5])
@pytest.mark.parametrize("wrapped", [False, True])
def test_mmdet3(library, n, wrapped):
    expected = objects(n)
    says = [{"ori_shape": IMAGE}, {"metainfo": {"ori_shape": (*IMAGE, 3)}}, {}]
    for sample in says:
        output = of_mmdet3(library, n, wrapped, **sample)
        for given in (output, [output]):
            found = as_detections(given, shape=None if sample else IMAGE)
            assert_detections(found, library, *expected)


def test_mmdet3_without_masks_or_labels(library):
    boxes, scores, _, _ = objects()
    found = SimpleNamespace(bboxes=library.put(boxes), scores=library.put(scores))
    output = SimpleNamespace(pred_instances=found, metainfo={})
    assert_detections(as_detections(output), library, boxes, scores, None)


def runs(mask):
    """COCO's uncompressed run lengths: of columns, background first."""
    flat = np.concatenate([[False], mask.T.ravel(), [not mask.T.ravel()[-1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(edges, prepend=0).tolist()


def of_mmdet2(library, per_class=(2, 0, 3)):
    boxes, scores, _, whole = objects(sum(per_class))
    rows = np.hstack([boxes, scores[:, None]])
    ends = np.cumsum(per_class)[:-1]
    bboxes = [library.put(part) for part in np.split(rows, ends)]
    return bboxes, np.split(whole, ends), np.repeat(np.arange(len(per_class)), per_class)


@pytest.mark.parametrize("per_class", [(2, 0, 3), (4,), (0, 0), (1, 1)])
@pytest.mark.parametrize("form", ["masks", "arrays", "rle"])
def test_mmdet2(library, per_class, form):
    boxes, scores, _, whole = objects(sum(per_class))
    bboxes, masks, class_ids = of_mmdet2(library, per_class)
    segms = {
        "masks": lambda: [list(of_class) for of_class in masks],
        "arrays": lambda: masks,
        "rle": lambda: [[{"size": [*IMAGE], "counts": runs(m)} for m in part] for part in masks],
    }[form]()
    scored = (segms, [library.put(np.ones(n)) for n in per_class])  # Mask Scoring R-CNN
    for output in ((bboxes, segms), [bboxes, segms], [(bboxes, segms)], (bboxes, scored)):
        for shape in (None, IMAGE):
            found = as_detections(output, shape=shape)
            assert_detections(found, library, boxes, scores, class_ids, whole)


def test_mmdet2_boxes_alone(library):
    boxes, scores, _, _ = objects()
    bboxes, _, class_ids = of_mmdet2(library)
    assert_detections(as_detections(bboxes), library, boxes, scores, class_ids)
    assert len(as_detections([library.put(np.zeros((0, 5)))])) == 0


def test_mmdet2_rle_crops_are_the_objects_own_extents():
    bboxes, masks, _ = of_mmdet2(array_kinds.NUMPY, (1,))
    coded = {"size": IMAGE, "counts": runs(masks[0][0])}
    found = as_detections((bboxes, [[coded]]))
    crop, box = rle_crop(coded["counts"], IMAGE)
    np.testing.assert_array_equal(found.masks[0], crop)
    assert found.mask_boxes.tolist() == [list(box)]


# ---- ultralytics --------------------------------------------------------------------------------


def of_ultralytics(library, masks, image=IMAGE, n=5):
    boxes, scores, classes, _ = objects(n)
    boxes = SimpleNamespace(
        xyxy=library.put(boxes),
        conf=library.put(scores),
        cls=library.put(classes.astype(np.float32)),
    )
    masks = None if masks is None else SimpleNamespace(data=library.put(masks), orig_shape=image)
    return SimpleNamespace(boxes=boxes, masks=masks, orig_shape=image, orig_img=None, names={})


def letterboxed(image, size, auto, stride=32):
    """How ultralytics' LetterBox puts an image into the network's input: forward, as it does.

    The input's (h, w), the resized image's (h, w), and the pads (top, left).
    """
    r = min(size / image[0], size / image[1])
    resized = (round(image[0] * r), round(image[1] * r))
    left_over = [(size - n) % stride if auto else size - n for n in resized]
    before = [round(n / 2 - 0.1) for n in left_over]
    after = [round(n / 2 + 0.1) for n in left_over]
    whole = tuple(b + n + a for b, n, a in zip(before, resized, after, strict=True))
    return whole, resized, before


@pytest.mark.parametrize("dtype", ["float32", "uint8", "bool"])
def test_ultralytics_masks_of_the_image(library, dtype):
    boxes, scores, classes, whole = objects()
    whole = whole.astype(dtype)
    output = of_ultralytics(library, whole)
    for given in (output, [output]):
        for shape in (None, IMAGE):
            found = as_detections(given, shape=shape)
            assert_detections(found, library, boxes, scores, classes, whole)
    assert "int64" in str(found.class_ids.dtype)


@pytest.mark.parametrize("n", [0, 5])
def test_ultralytics_without_masks(library, n):
    boxes, scores, classes, _ = objects(n)
    found = as_detections(of_ultralytics(library, None, n=n))
    assert_detections(found, library, boxes, scores, classes)
    found = as_detections(of_ultralytics(library, np.zeros((0, 96, 128), np.float32), n=0))
    assert (len(found), found.masks) == (0, [])


LETTERBOXES = [
    (image, size, auto)
    for image in [
        (130, 171),
        (171, 130),
        (100, 64),
        (33, 200),
        (501, 1000),
        (20, 13),
        (96, 96),
        (641, 1999),
        (999, 1998),
    ]
    for size in (64, 96)
    for auto in (False, True)
]


def test_the_letterboxes_have_every_kind_of_pad():
    pads = [
        (whole[i] - resized[i]) for case in LETTERBOXES for whole, resized, _ in
        [letterboxed(*case)] for i in (0, 1)
    ]  # fmt: skip
    assert 0 in pads
    assert any(pad % 2 for pad in pads)
    assert any(pad % 2 == 0 and pad for pad in pads)


@pytest.mark.parametrize(("image", "size", "auto"), LETTERBOXES)
def test_ultralytics_letterbox_is_undone(library, image, size, auto):
    whole, resized, pads = letterboxed(image, size, auto)
    masks = np.zeros((3, *whole), np.uint8)
    masks[0, pads[0] : pads[0] + resized[0], pads[1] : pads[1] + resized[1]] = 1  # the image
    masks[1, whole[0] // 2, whole[1] // 2] = 1
    found = as_detections(of_ultralytics(library, masks, image, 3))
    boxes = library.get(found.mask_boxes)
    crops = [library.get(crop) for crop in found.masks]
    # The window is the image's pixels and one more on each side that has a pad, in mask pixels.
    scale = np.array([image[1] / resized[1], image[0] / resized[0]])
    low = np.array([-1 if pads[1] else 0, -1 if pads[0] else 0])
    after = [whole[i] - resized[i] - pads[i] for i in (1, 0)]
    high = np.array([resized[1] + (after[0] > 0), resized[0] + (after[1] > 0)])
    expected = np.concatenate([low * scale, high * scale])
    np.testing.assert_allclose(boxes[0], expected, rtol=1e-12, atol=1e-9)  # rounding in float64
    middle = np.array([whole[1] // 2 - pads[1], whole[0] // 2 - pads[0]])
    expected = np.concatenate([(middle - 1) * scale, (middle + 2) * scale])
    np.testing.assert_allclose(boxes[1], expected, rtol=1e-12, atol=1e-9)
    assert crops[2].tolist() == [[0]]
    # Sampled at the image's pixels, the image is inside from edge to edge.
    inside = sampled(crops[0], boxes[0], image) >= 0.5
    assert inside[image[0] // 2].all()
    assert inside[:, image[1] // 2].all()


@pytest.mark.parametrize(("image", "size", "auto"), LETTERBOXES)
def test_ultralytics_masks_are_where_its_own_resizing_puts_them(image, size, auto):
    torch = pytest.importorskip("torch")
    whole, resized, pads = letterboxed(image, size, auto)
    y, x = np.mgrid[: whole[0], : whole[1]]
    centre = [pads[i] + resized[i] / 2 for i in (0, 1)]
    mask = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (0.3 * min(resized)) ** 2)[None]
    found = as_detections(of_ultralytics(array_kinds.NUMPY, mask, image, 1))
    got = sampled(found.masks[0], found.mask_boxes[0], image)
    # What ultralytics does with masks: the pads are cut off, the rest is resized to the image.
    inner = mask[0, pads[0] : pads[0] + resized[0], pads[1] : pads[1] + resized[1]]
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(inner[None, None].astype(np.float64)), image, mode="bilinear"
    )[0, 0].numpy()
    # rounding of two ways to the same sampling points, up to 2000 pixels from the corner
    np.testing.assert_allclose(got, expected, atol=1e-9)


# ---- what is refused ----------------------------------------------------------------------------


def test_detections_are_returned_as_they_are():
    found = detections()
    assert as_detections(found) is found
    assert as_detections([found], shape=IMAGE) is found


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (None, "NoneType"),
        (np.zeros((3, 6)), "ndarray"),
        ("output", "str"),
        ([], "an empty list"),
        ((), "tuple"),
        ([np.zeros((3, 4))], "list"),
        ([None], "list"),
        ({}, "a dict of nothing"),
        ({"boxes": 0, "labels": 0}, "a dict of boxes, labels"),
        (SimpleNamespace(boxes=None, orig_shape=IMAGE), "SimpleNamespace"),
        (SimpleNamespace(xyxy=0, confidence=0), "SimpleNamespace"),
    ],
    ids=repr,
)
def test_other_outputs_are_refused(output, got):
    with pytest.raises(TypeError) as caught:
        as_detections(output)
    message = str(caught.value)
    assert message.startswith("output: expected Detections, torchvision's dict (boxes, scores)")
    assert message.endswith(f"; got {got}")
    for name in ("Detectron2", "MMDetection", "ultralytics"):
        assert name in message


def test_several_images_are_refused():
    numpy = array_kinds.NUMPY
    bboxes, masks, _ = of_mmdet2(numpy)
    for one in (of_torchvision(numpy), of_ultralytics(numpy, None), of_detectron2(numpy),
                of_mmdet3(numpy), (bboxes, masks), bboxes, detections()):  # fmt: skip
        with pytest.raises(ValueError, match="output: expected one image at a time; got a list of"):
            as_detections([one, one])


def test_large_masks_without_the_images_shape_are_refused():
    output = of_torchvision(array_kinds.NUMPY)
    message = (
        r"^shape: expected the image's \(H, W\), to tell masks of the whole image from crops; "
        "got None$"
    )
    with pytest.raises(ValueError, match=message):
        as_detections(output)
    with pytest.raises(ValueError, match=message):
        as_detections({**output, "masks": list(output["masks"][:, 0])})
    with pytest.raises(ValueError, match=message):
        as_detections({**output, "masks": np.zeros((5, 4, 113))})
    with pytest.raises(ValueError, match=message):
        as_detections(of_mmdet3(array_kinds.NUMPY))


def test_large_masks_of_another_shape_are_refused():
    with pytest.raises(
        ValueError,
        match=r"masks: expected masks of the image's shape \(171, 130\), or crops of at most 112 "
        r"pixels a side; got \(130, 171\)",
    ):
        as_detections(of_torchvision(array_kinds.NUMPY), shape=IMAGE[::-1])


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("image_size", of_detectron2(array_kinds.NUMPY)),
        ("ori_shape", of_mmdet3(array_kinds.NUMPY, ori_shape=IMAGE)),
        ("orig_shape", of_ultralytics(array_kinds.NUMPY, None)),
    ],
)
def test_a_shape_that_is_not_the_outputs_own_is_refused(name, output):
    message = rf"shape: expected the output's own {name} \(130, 171\); got \(171, 130\)"
    with pytest.raises(ValueError, match=message):
        as_detections(output, shape=(171, 130))


@pytest.mark.parametrize(
    ("error", "message", "shape"),
    [
        (ValueError, r"shape: expected \(H, W\); got 5", 5),
        (ValueError, r"shape: expected \(H, W\); got \(1, 2, 3\)", (1, 2, 3)),
        (ValueError, r"shape: expected H and W of at least 1 pixel; got \(0, 5\)", (0, 5)),
        (TypeError, r"shape: expected an integer; got 2.5", (2.5, 5)),
    ],
)
def test_shapes_that_are_none_are_refused(error, message, shape):
    with pytest.raises(error, match=message):
        as_detections(of_torchvision(array_kinds.NUMPY), shape=shape)


def test_fields_that_are_missing_or_of_another_number_are_named():
    numpy = array_kinds.NUMPY
    with pytest.raises(ValueError, match="scores: expected an array; got none in Instances"):
        as_detections(of_detectron2(numpy, scores=None))
    output = of_mmdet3(numpy)
    del output.pred_instances.bboxes
    with pytest.raises(ValueError, match="bboxes: expected an array; got none in SimpleNamespace"):
        as_detections(output)
    bboxes, masks, _ = of_mmdet2(numpy)
    with pytest.raises(ValueError, match=r"masks: expected \[2, 0, 3\] of the classes.*\[2, 0\]"):
        as_detections((bboxes, masks[:2]))
    with pytest.raises(ValueError, match=r"masks\[0\]: expected the image's shape \(171, 130\)"):
        as_detections((bboxes, masks), shape=(171, 130))
    per_class = [[{"size": IMAGE, "counts": runs(m)} for m in of_class] for of_class in masks]
    with pytest.raises(ValueError, match=r"masks\[0\]: expected the image's shape \(171, 130\)"):
        as_detections((bboxes, per_class), shape=(171, 130))
    per_class[0][1] = masks[0][1]
    with pytest.raises(TypeError, match=r"masks\[0\]: expected an array; got dict"):
        as_detections((bboxes, per_class))
    with pytest.raises(ValueError, match=r"masks: expected shape \(N, h, w\); got \(5, 3, 9, 9\)"):
        as_detections({**of_torchvision(numpy), "masks": np.zeros((5, 3, 9, 9))})
    with pytest.raises(ValueError, match=r"scores: expected shape \(5,\); got \(4,\)"):
        as_detections({**of_torchvision(numpy), "scores": np.zeros(4)}, shape=IMAGE)


def test_no_detection_library_is_imported():
    source = importlib.util.find_spec("cellpost.detections").origin
    with open(source, encoding="utf-8") as file:
        imports = [line for line in file if line.lstrip().startswith(("import ", "from "))]
    foreign = ("torch", "torchvision", "detectron2", "mmdet", "ultralytics", "pycocotools")
    assert not [line for line in imports if line.split()[1].split(".")[0] in foreign]
