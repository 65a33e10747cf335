"""Views of an image against pixels: what is found in a turned image, and where it was before."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import cellpost
from cellpost.augment import View, views
from cellpost.detections import Detections

D4 = views("d4")
SHAPES = [(37, 52), (40, 40), (1, 9), (8, 1)]
per_view = pytest.mark.parametrize("view", D4, ids=str)


@dataclass(frozen=True)
class Found:
    """What a detector hands over, with a field that `undo` does not know."""

    boxes: Any
    scores: Any = None
    masks: Any = None
    class_ids: Any = None
    mask_boxes: Any = None
    note: str = "kept"


def seen(image, view):
    """The view of an image by NumPy's own functions, enlarged by repeating pixels."""
    n = int(view.scale)
    image = image.repeat(n, axis=-2).repeat(n, axis=-1)
    image = image[..., ::-1] if view.flip else image
    return np.ascontiguousarray(np.rot90(image, view.n_rot90, axes=(-2, -1)))


def cells(shape, *, seed=0, n=12):
    """A label image of crosses that have holes and differ from their own mirror images."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for i in range(1, n + 1):
        y, x = (int(rng.integers(0, size)) for size in shape)
        labels[y : y + 7, x : x + 2] = i
        labels[y + 1 : y + 3, x : x + 6] = i
    ids = np.unique(labels[labels > 0])
    return np.searchsorted(ids, labels, side="right").astype(np.int32)


def box_of(mask):
    """The box of a mask by its pixels, at their edges."""
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def boxes_of(labels, dtype=np.float32):
    return np.array([box_of(labels == i) for i in range(1, labels.max() + 1)], dtype)


def crops_of(labels):
    """Each object cut out at its box."""
    boxes = boxes_of(labels, int)
    return [(labels[y0:y1, x0:x1] == i) for i, (x0, y0, x1, y1) in enumerate(boxes, 1)]


# ---- what the pixels say ------------------------------------------------------------------------


@per_view
def test_apply_mirrors_then_turns_as_numpy(view, kind):
    for shape, leading in itertools.product(SHAPES, [(), (3,), (2, 3)]):
        image = np.arange(np.prod((*leading, *shape)), dtype=np.float32).reshape(*leading, *shape)
        got = view.apply(kind.put(image))
        assert kind.owns(got)
        np.testing.assert_array_equal(kind.get(got), seen(image, view))
        assert kind.get(got).shape[-2:] == view.shape(shape)


@per_view
def test_boxes_found_in_the_view_are_the_boxes_in_the_image(view, kind):
    for shape, scale in itertools.product(SHAPES, [1, 2, 3]):
        view = dataclasses.replace(view, scale=scale)
        labels = cells(shape)
        in_image, in_view = boxes_of(labels), boxes_of(seen(labels, view))
        back = view.undo_boxes(kind.put(in_view), shape)
        assert kind.owns(back)
        np.testing.assert_array_equal(kind.get(back), in_image)
        np.testing.assert_array_equal(kind.get(view.boxes(kind.put(in_image), shape)), in_view)
        assert kind.get(back).dtype == np.float32


@per_view
def test_crops_cut_in_the_view_are_the_crops_of_the_image(view, kind):
    for shape, scale in itertools.product(SHAPES, [1, 2]):
        labels = cells(shape)
        in_image, in_view = crops_of(labels), crops_of(seen(labels, view))
        resized = dataclasses.replace(view, scale=scale)  # crops have a resolution of their own
        back = resized.undo_masks([kind.put(crop) for crop in in_view])
        forth = resized.masks([kind.put(crop) for crop in in_image])
        assert all(kind.owns(crop) for crop in back)
        for got, expected in zip([*back, *forth], [*in_image, *in_view], strict=True):
            np.testing.assert_array_equal(kind.get(got), expected)


@pytest.mark.parametrize("axes", [(5,), (5, 1)], ids=str)
@per_view
def test_crops_of_one_size_are_one_array(axes, view, kind):
    crops = np.random.default_rng(0).random((*axes, 4, 7), np.float32)
    in_view = seen(crops, view)
    assert in_view.shape == (*axes, *view.shape((4, 7)))
    back = view.undo_masks(kind.put(in_view))
    assert kind.owns(back)
    np.testing.assert_array_equal(kind.get(back), crops)
    np.testing.assert_array_equal(kind.get(view.masks(kind.put(crops))), in_view)


@pytest.mark.parametrize("scale", [1, 2])
@per_view
def test_undo_maps_all_fields_of_detections_back(view, scale, kind):
    view = dataclasses.replace(view, scale=scale)
    labels = cells((37, 52))
    view_labels = seen(labels, view)
    boxes = boxes_of(labels)
    scores = np.linspace(0, 1, len(boxes))
    found = Found(
        boxes=kind.put(boxes_of(view_labels)),
        scores=scores,
        masks=[kind.put(crop) for crop in crops_of(view_labels)],
        mask_boxes=kind.put(np.rint(boxes_of(view_labels)).astype(np.int32)),
    )
    got = view.undo(found, labels.shape)
    assert isinstance(got, Found)
    np.testing.assert_array_equal(kind.get(got.boxes), boxes)
    np.testing.assert_array_equal(kind.get(got.mask_boxes), boxes)
    expected = [np.repeat(np.repeat(crop, scale, 0), scale, 1) for crop in crops_of(labels)]
    for crop, e in zip(got.masks, expected, strict=True):
        np.testing.assert_array_equal(kind.get(crop), e)
    assert got.scores is scores
    assert got.class_ids is None
    assert got.note == "kept"


def test_undo_leaves_what_is_none():
    boxes = np.array([[1, 2, 3, 4]])
    got = View(n_rot90=2).undo(Found(boxes), (10, 10))
    assert got.masks is None
    assert got.mask_boxes is None
    assert got.boxes.tolist() == [[7, 6, 9, 8]]
    assert boxes.tolist() == [[1, 2, 3, 4]]


# ---- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "shape", "expected"),
    [
        (1, (5, 7), (5, 7)),
        (0.5, (5, 7), (3, 4)),  # halves go up
        (0.5, (4, 6), (2, 3)),
        (1.5, (1, 3), (2, 5)),
        (0.01, (5, 70), (1, 1)),
        (440 / 520, (520, 704), (440, 596)),
        (580 / 520, (520, 704), (580, 785)),
    ],
)
def test_sizes_are_rounded_half_up_and_turned(scale, shape, expected):
    for view in D4:
        got = dataclasses.replace(view, scale=scale).shape(shape)
        assert got == (expected[::-1] if view.n_rot90 % 2 else expected)
        assert all(type(n) is int for n in got)


sizes = st.tuples(st.integers(1, 2000), st.integers(1, 2000))
any_view = st.builds(View, n_rot90=st.integers(0, 3), flip=st.booleans(), scale=st.floats(0.01, 20))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@settings(max_examples=200, deadline=None)
@given(view=any_view, shape=sizes)
def test_the_box_over_the_view_is_exactly_the_one_over_the_image(dtype, view, shape):
    height, width = view.shape(shape)
    whole = np.array([[0, 0, shape[1], shape[0]]], dtype)
    seen_whole = np.array([[0, 0, width, height]], dtype)
    # Half precision holds no odd number above 2048.
    if all(int(dtype(n)) == n for n in (height, width)):
        np.testing.assert_array_equal(view.undo_boxes(seen_whole, shape), whole)
        np.testing.assert_array_equal(view.boxes(whole, shape), seen_whole)
    whole, seen_whole = whole.astype(np.int64), np.array([[0, 0, width, height]])
    np.testing.assert_array_equal(view.undo_boxes(seen_whole, shape), whole)


@pytest.mark.parametrize("scale", [440 / 520, 0.37, 1.9])
@per_view
def test_the_box_over_the_view_is_exact_on_every_device(view, scale, kind):
    view = dataclasses.replace(view, scale=scale)
    for shape in [(49, 98), (520, 704), (1021, 1999)]:
        height, width = view.shape(shape)
        got = view.undo_boxes(kind.put(np.array([[0.0, 0, width, height]])), shape)
        assert kind.get(got).tolist() == [[0, 0, shape[1], shape[0]]]


def test_boxes_in_half_precision_do_not_overflow_between():
    got = View(scale=2).boxes(np.array([[900, 901, 1000, 1001]], np.float16), (1024, 1024))
    assert got.dtype == np.float16
    assert got.tolist() == [[1800, 1802, 2000, 2002]]


# ---- there and back -----------------------------------------------------------------------------

coordinates = st.floats(-3000, 3000)
some_boxes = st.lists(st.tuples(*[coordinates] * 4), max_size=5).map(
    lambda rows: np.array(rows, np.float64).reshape(-1, 4)
)


@settings(max_examples=300, deadline=None)
@given(view=any_view, shape=sizes, boxes=some_boxes)
def test_boxes_come_back_from_any_view(view, shape, boxes):
    back = view.undo_boxes(view.boxes(boxes, shape), shape)
    # Some roundings of numbers that are, at the image's scale, below 5000: 1e-16 of that each.
    np.testing.assert_allclose(back, boxes, rtol=0, atol=1e-11)


@settings(max_examples=200, deadline=None)
@given(view=any_view, shape=sizes, boxes=some_boxes)
def test_proper_boxes_stay_proper_and_inverted_ones_inverted(view, shape, boxes):
    for got in (view.boxes(boxes, shape), view.undo_boxes(boxes, shape)):
        order = [(boxes[:, 0] <= boxes[:, 2]), (boxes[:, 1] <= boxes[:, 3])]
        order = order[::-1] if view.n_rot90 % 2 else order
        proper = [got[:, 0] <= got[:, 2], got[:, 1] <= got[:, 3]]
        for before, after in zip(order, proper, strict=True):
            assert after[before].all()
    boxes = np.array([[5.0, 6, 1, 2]])
    x0, y0, x1, y1 = view.boxes(boxes, shape)[0]
    assert x0 > x1
    assert y0 > y1


@settings(max_examples=100, deadline=None)
@given(view=any_view, shape=sizes, seed=st.integers(0, 999))
def test_integer_boxes_come_back_exactly(view, shape, seed):
    view = dataclasses.replace(view, scale=1)
    boxes = np.random.default_rng(seed).integers(-3000, 3000, (7, 4), np.int32)
    forth = view.boxes(boxes, shape)
    assert forth.dtype == np.int32
    np.testing.assert_array_equal(view.undo_boxes(forth, shape), boxes)


@settings(max_examples=100, deadline=None)
@given(view=any_view, shape=st.tuples(*[st.integers(0, 9)] * 3))
def test_masks_come_back_from_any_view(view, shape):
    masks = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(view.undo_masks(view.masks(masks)), masks)
    np.testing.assert_array_equal(view.masks(view.undo_masks(masks)), masks)


# ---- dtypes and memory --------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 0.5])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64"])
def test_boxes_keep_their_dtype_unless_integers_are_scaled(dtype, scale):
    torch = pytest.importorskip("torch")
    view, shape = View(n_rot90=1, scale=scale), (40, 60)
    boxes = np.array([[1, 2, 7, 9], [-3, 0, 70, 50]], dtype)
    expected = view.undo_boxes(boxes.astype(np.float64), shape)
    wanted = "float64" if dtype.startswith("int") and scale != 1 else dtype
    got = view.undo_boxes(boxes, shape)
    assert got.dtype == wanted
    np.testing.assert_array_equal(got, expected)
    got = view.undo_boxes(torch.from_numpy(boxes), shape)
    assert got.dtype == getattr(torch, wanted)
    np.testing.assert_array_equal(got.numpy(), expected)


def test_bfloat16_boxes_of_torch_stay_so_and_are_rounded_once():
    torch = pytest.importorskip("torch")
    boxes = torch.tensor([[1, 2, 7, 9], [-3, 0, 70, 50]], dtype=torch.bfloat16)
    view = View(n_rot90=3, flip=True, scale=0.7)
    got = view.undo_boxes(boxes, (1021, 777))
    expected = view.undo_boxes(boxes.to(torch.float64), (1021, 777))
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, expected.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.float16, np.complex64])
@per_view
def test_images_and_masks_are_of_any_dtype(view, dtype):
    image = (np.arange(12).reshape(1, 3, 4) % 5).astype(dtype)
    for got in (view.apply(image), view.masks(image)):
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, seen(image, view))


@per_view
def test_numpy_images_are_not_copied(view):
    image = np.zeros((3, 5, 6))
    assert np.shares_memory(view.apply(image), image)
    assert np.shares_memory(view.undo_masks(image), image)


@per_view
def test_arrays_may_be_strided_and_are_not_written_to(view):
    boxes = np.asfortranarray(boxes_of(cells((37, 52))))
    boxes.flags.writeable = False
    image = np.arange(60.0).reshape(6, 10)[::-2, ::3]
    image.flags.writeable = False
    expected = view.undo_boxes(boxes.copy(order="C"), (37, 52))
    np.testing.assert_array_equal(view.undo_boxes(boxes, (37, 52)), expected)
    np.testing.assert_array_equal(view.apply(image), seen(image, view))


def test_tensors_that_want_gradients_are_taken():
    torch = pytest.importorskip("torch")
    boxes = torch.ones((2, 4), requires_grad=True)
    assert not View(flip=True).undo_boxes(boxes, (5, 5)).requires_grad


@per_view
def test_nan_and_infinity_stay_where_they_are(view):
    with np.errstate(invalid="raise"):
        got = view.boxes(np.array([[np.nan, 1, np.inf, 2]]), (8, 8))
    assert np.isnan(got).sum() == 1
    assert np.isinf(got).sum() == 1


@pytest.mark.parametrize("scale", [1, 0.5])
@per_view
def test_nothing_gives_nothing(view, scale, kind):
    view = dataclasses.replace(view, scale=scale)
    boxes = kind.put(np.zeros((0, 4), np.float32))
    assert kind.get(view.undo_boxes(boxes, (5, 6))).shape == (0, 4)
    assert kind.get(view.boxes(boxes, (5, 6))).shape == (0, 4)
    turned = (3, 2) if view.n_rot90 % 2 else (2, 3)
    masks = kind.put(np.zeros((0, 2, 3), np.float32))
    assert kind.get(view.undo_masks(masks)).shape == (0, *turned)
    assert view.undo_masks([]) == []
    assert kind.get(view.undo(Found(boxes, masks=masks), (5, 6)).masks).shape == (0, *turned)
    image = kind.put(np.zeros((0, 3), np.float32))
    assert kind.get(view.apply(image)).size == 0


# ---- the group, and the sets --------------------------------------------------------------------

F = np.arange(6).reshape(2, 3)


def as_bytes(image):
    return (image.shape, image.tobytes())


def test_the_eight_are_all_and_one_after_another_is_one_of_them():
    pictures = {as_bytes(view.apply(F)) for view in D4}
    assert len(pictures) == 8
    for first in D4:
        assert {as_bytes(view.apply(first.apply(F))) for view in D4} == pictures


def test_up_down_and_both_are_what_they_are_called():
    np.testing.assert_array_equal(View(n_rot90=2, flip=True).apply(F), F[::-1])
    np.testing.assert_array_equal(View(n_rot90=2).apply(F), F[::-1, ::-1])


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("identity", [F]),
        ("updown", [F, F[::-1]]),
        ("flips", [F, F[:, ::-1], F[::-1]]),
        ("rot90", [np.rot90(F, n) for n in range(4)]),
        ("d4", [np.rot90(image, n) for image in (F, F[:, ::-1]) for n in range(4)]),
        (
            "sartorius",
            [F, F[:, ::-1], F[::-1], F[::-1, ::-1], *[np.rot90(F, n) for n in (1, 2, 3)]],
        ),
    ],
)
def test_sets_hold_the_views_they_say(name, pictures):
    chosen = views(name)
    assert isinstance(chosen, tuple)
    for view, picture in zip(chosen, pictures, strict=True):
        np.testing.assert_array_equal(view.apply(F), picture)
    # Mirrored both ways is turned by 180 degrees, and only "sartorius" lists both.
    assert len(set(chosen)) == (6 if name == "sartorius" else len(pictures))


def test_sets_repeat_at_each_scale_in_turn():
    scales = [size / 520 for size in (440, 480, 520, 560, 580, 620)]
    chosen = views("updown", scales=scales)
    assert [view.scale for view in chosen] == [scale for scale in scales for _ in range(2)]
    assert [dataclasses.replace(view, scale=1) for view in chosen] == [*views("updown")] * 6
    assert views(scales=iter([2])) == (View(scale=2),)
    assert views("d4", scales=np.array([1.0])) == D4


def test_views_made_of_numpys_numbers_are_the_same():
    view = View(n_rot90=np.int64(1), flip=np.True_, scale=np.float32(0.5))
    assert view == View(1, True, 0.5)
    assert hash(view) == hash(View(1, True, 0.5))
    assert repr(view) == "View(n_rot90=1, flip=True, scale=0.5)"
    assert View() == View(0, False, 1)


# ---- wrong arguments ----------------------------------------------------------------------------

BOXES = np.zeros((2, 4))
MASKS = np.zeros((2, 3, 3))
SHAPE = (5, 6)


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (TypeError, "n_rot90: expected an integer; got 1.0", {"n_rot90": 1.0}),
        (TypeError, "n_rot90: expected an integer; got '1'", {"n_rot90": "1"}),
        (ValueError, "n_rot90: expected 0, 1, 2 or 3; got 4", {"n_rot90": 4}),
        (ValueError, "n_rot90: expected 0, 1, 2 or 3; got -1", {"n_rot90": -1}),
        (TypeError, "flip: expected True or False; got 'x'", {"flip": "x"}),
        (TypeError, "flip: expected True or False; got 1", {"flip": 1}),
        (TypeError, "scale: expected a number; got 'big'", {"scale": "big"}),
        (ValueError, "scale: expected a finite number above 0; got 0.0", {"scale": 0}),
        (ValueError, "scale: expected a finite number above 0; got -1.0", {"scale": -1}),
        (ValueError, "scale: expected a finite number above 0; got nan", {"scale": np.nan}),
        (ValueError, "scale: expected a finite number above 0; got inf", {"scale": np.inf}),
    ],
)
def test_a_view_that_is_none_is_refused(error, message, options):
    with pytest.raises(error) as caught:
        View(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "shape", [(5,), (3, 5, 6), (0, 5), (5, -1), (5.0, 6), ("5", 6), 5, None, "56", ()], ids=repr
)
def test_a_shape_that_is_none_is_refused(shape):
    message = f"shape: expected two positive integers (H, W); got {shape!r}"
    calls = [
        lambda view: view.shape(shape),
        lambda view: view.boxes(BOXES, shape),
        lambda view: view.undo_boxes(BOXES, shape),
        lambda view: view.undo(Found(BOXES), shape),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="shape") as caught:
            call(View(1))
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("error", "message", "boxes"),
    [
        (ValueError, "expected shape (N, 4); got (4,)", np.zeros(4)),
        (ValueError, "expected shape (N, 4); got (4, 2)", np.zeros((4, 2))),
        (ValueError, "expected shape (N, 4); got (1, 2, 4)", np.zeros((1, 2, 4))),
        (ValueError, "expected shape (N, 4); got (0,)", np.zeros(0)),
        (TypeError, "expected a float dtype, int32 or int64; got uint16", BOXES.astype("u2")),
        (TypeError, "expected a float dtype, int32 or int64; got int8", BOXES.astype("i1")),
        (TypeError, "expected a float dtype, int32 or int64; got bool", BOXES > 0),
        (TypeError, "expected a float dtype, int32 or int64; got complex128", BOXES * 1j),
        (TypeError, "expected an array of NumPy", [[0, 0, 1, 1]]),
        (TypeError, "expected an array of NumPy", None),
    ],
)
def test_boxes_that_are_none_are_refused(error, message, boxes):
    view = View(n_rot90=1, scale=2)
    calls = [
        ("boxes", lambda: view.boxes(boxes, SHAPE)),
        ("boxes", lambda: view.undo_boxes(boxes, SHAPE)),
        ("boxes", lambda: view.undo(Found(boxes), SHAPE)),
    ]
    if boxes is not None:
        calls.append(("mask_boxes", lambda: view.undo(Found(BOXES, mask_boxes=boxes), SHAPE)))
    for name, call in calls:
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value).startswith(f"{name}: {message}")


@pytest.mark.parametrize(
    ("error", "message", "masks"),
    [
        (
            ValueError,
            "masks: expected (N, h, w), (N, 1, h, w) or a list of (h, w); got shape (3, 3)",
            MASKS[0],
        ),
        (
            ValueError,
            "masks: expected (N, h, w), (N, 1, h, w) or a list of (h, w); got shape (5, 2, 3, 3)",
            np.zeros((5, 2, 3, 3)),
        ),
        (ValueError, "masks[1]: expected (h, w); got shape (1, 3, 3)", [MASKS[0], MASKS[:1]]),
        (ValueError, "masks[0]: expected (h, w); got shape (3,)", (MASKS[0, 0],)),
        (TypeError, "masks[1]: expected an array of NumPy", [MASKS[0], "x"]),
        (TypeError, "masks: expected an array of NumPy", "x"),
    ],
)
def test_masks_that_are_none_are_refused(error, message, masks):
    view = View(flip=True)
    calls = [
        lambda: view.masks(masks),
        lambda: view.undo_masks(masks),
        lambda: view.undo(Found(BOXES, masks=masks), SHAPE),
    ]
    for call in calls:
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value).startswith(message)


def test_an_image_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"^image: expected 2 or more axes .*; got shape \(5,\)$"):
        View().apply(np.zeros(5))
    with pytest.raises(TypeError, match=r"^image: expected an array of NumPy.*; got list$"):
        View().apply([[1, 2]])


@dataclass
class NoMasks:
    boxes: Any


@pytest.mark.parametrize("given", [None, BOXES, {"boxes": BOXES}, NoMasks(BOXES), Found], ids=str)
def test_detections_that_are_none_are_refused(given):
    with pytest.raises(TypeError) as caught:
        View().undo(given, SHAPE)
    assert str(caught.value) == (
        "detections: expected an instance of a dataclass with the fields boxes, masks and "
        f"mask_boxes; got {given!r}"
    )


@pytest.mark.parametrize("name", ["flip", "", None, 8, ["d4"]], ids=repr)
def test_a_set_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="name") as caught:
        views(name)
    assert str(caught.value) == (
        "name: expected one of 'identity', 'updown', 'flips', 'rot90', 'd4', 'sartorius'; "
        f"got {name!r}"
    )


@pytest.mark.parametrize(
    ("error", "message", "scales"),
    [
        (ValueError, "scales: expected one or more numbers; got ()", ()),
        (TypeError, "scales: expected one or more numbers; got 0.5", 0.5),
        (TypeError, "scales: expected a number; got 'x'", [1, "x"]),
        (ValueError, "scales: expected a finite number above 0; got 0.0", [1, 0]),
        (ValueError, "scales: expected a finite number above 0; got nan", [np.nan]),
    ],
)
def test_scales_that_are_none_are_refused(error, message, scales):
    with pytest.raises(error) as caught:
        views("d4", scales=scales)
    assert str(caught.value) == message


# ---- the whole way ------------------------------------------------------------------------------


def test_cells_found_in_eight_views_are_found_once(nuclei2d):
    labels = cellpost.relabel(nuclei2d.astype(np.int32))[:400, :500]  # not square
    labels = cellpost.relabel(np.ascontiguousarray(labels))
    found = []
    for view in views("d4"):
        seen = view.apply(labels)
        slices = ndimage.find_objects(seen)
        boxes = [(x.start, y.start, x.stop, y.stop) for y, x in slices]
        crops = [seen[at] == k for k, at in enumerate(slices, 1)]
        of_view = Detections(np.array(boxes, float), np.linspace(0.9, 0.5, len(boxes)), crops)
        found.append(view.undo(of_view, labels.shape))
    boxes = np.concatenate([d.boxes for d in found])
    scores = np.concatenate([d.scores for d in found])
    masks = [crop for d in found for crop in d.masks]
    keep = cellpost.mask_nms(masks, boxes, scores, labels.shape, 0.5)
    assert len(keep) == labels.max()
    pasted = cellpost.paste_masks([masks[i] for i in keep], boxes[keep], scores[keep], labels.shape)
    np.testing.assert_array_equal(pasted, labels)
    fused, _, _, _ = cellpost.weighted_boxes_fusion(
        [d.boxes for d in found], [d.scores for d in found]
    )
    assert sorted(fused.round(3).tolist()) == sorted(found[0].boxes.tolist())
