"""Wrong arguments of Views and of the maps of a View: each is named."""

from __future__ import annotations

import numpy as np
import pytest

from cellpost.augment import View, Views
from cellpost.detections import Detections

MAPS = np.zeros((3, 5, 6))
SHAPE = (5, 6)
NAMES = "'flows', 'flows3d', 'hover', 'hover_softmax'"
KINDS = "'scalar', 'logit', 'y', 'x', 'z'"
UP_DOWN = Views("updown")


def assert_refused(error, message, call):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message), str(caught.value)


WRONG_CHANNELS = [
    (
        ValueError,
        f"channels: expected one of {NAMES}, or for each channel one of {KINDS}; got 'flow'",
        "flow",
    ),
    (TypeError, "channels: expected a name or a kind for each channel; got 3", 3),
    (TypeError, "channels: expected a name or a kind for each channel; got None", None),
    (ValueError, "channels: expected one kind or more; got none", []),
    (ValueError, f"channels[1]: expected one of {KINDS}; got 'w'", ["y", "w", "x"]),
    (ValueError, f"channels[0]: expected one of {KINDS}; got 1", [1, "y", "x"]),
    (
        ValueError,
        "channels: expected as many 'x' as 'y'; got 1 'y' and 0 'x'",
        ["y", "z", "scalar"],
    ),
    (ValueError, "channels: expected as many 'x' as 'y'; got 1 'y' and 2 'x'", ["y", "x", "x"]),
]


@pytest.mark.parametrize(("error", "message", "channels"), WRONG_CHANNELS)
def test_channels_that_are_none_are_refused(error, message, channels):
    assert_refused(error, message, lambda: View().undo_maps(MAPS, SHAPE, channels))
    assert_refused(error, message, lambda: UP_DOWN.undo_maps(MAPS, 0, SHAPE, channels))
    assert_refused(error, message, lambda: UP_DOWN.mean([MAPS, MAPS], SHAPE, channels))


WRONG_MAPS = [
    (TypeError, "expected an array of NumPy", [[0.0]]),
    (TypeError, "expected an array of NumPy", None),
    (TypeError, "expected a float dtype; got int64", MAPS.astype(np.int64)),
    (TypeError, "expected a float dtype; got bool", MAPS > 0),
    (TypeError, "expected a float dtype; got complex128", MAPS * 1j),
    (ValueError, "expected shape (..., 3, 5, 6); got (3, 6, 5)", np.zeros((3, 6, 5))),
    (ValueError, "expected shape (..., 3, 5, 6); got (2, 5, 6)", MAPS[:2]),
    (ValueError, "expected shape (..., 3, 5, 6); got (5, 6)", MAPS[0]),
    (ValueError, "expected shape (..., 3, 5, 6); got ()", np.zeros(())),
]


@pytest.mark.parametrize(("error", "message", "maps"), WRONG_MAPS)
def test_maps_that_are_none_are_refused(error, message, maps):
    view = View(2)
    assert_refused(error, f"maps: {message}", lambda: view.undo_maps(maps, SHAPE, "flows"))
    assert_refused(error, f"maps: {message}", lambda: UP_DOWN.undo_maps(maps, 1, SHAPE, "flows"))
    assert_refused(error, f"outputs[0]: {message}", lambda: UP_DOWN.mean([maps], SHAPE, "flows"))


def test_maps_of_another_view_are_refused():
    message = "maps: expected shape (..., 3, 6, 5); got (3, 5, 6)"
    assert_refused(ValueError, message, lambda: View(1).undo_maps(MAPS, SHAPE, "flows"))
    message = "maps: expected shape (..., 3, 10, 12); got (3, 5, 6)"
    assert_refused(ValueError, message, lambda: View(scale=2).undo_maps(MAPS, SHAPE, "flows"))
    message = "maps: expected shape (..., 4, D, 5, 6); got (2, 3, 5, 6)"
    maps = np.zeros((2, 3, 5, 6))
    call = lambda: View().undo_maps(maps, SHAPE, "flows3d", channel_axis=-4)  # noqa: E731
    assert_refused(ValueError, message, call)


@pytest.mark.parametrize("shape", [(5,), (3, 5, 6), (0, 5), (5.0, 6), 5, None], ids=repr)
def test_a_shape_that_is_none_is_refused(shape):
    message = f"shape: expected two positive integers (H, W); got {shape!r}"
    assert_refused(ValueError, message, lambda: View().undo_maps(MAPS, shape, "flows"))
    assert_refused(ValueError, message, lambda: UP_DOWN.undo_maps(MAPS, 0, shape, "flows"))
    assert_refused(ValueError, message, lambda: UP_DOWN.mean([MAPS, MAPS], shape, "flows"))
    found = Detections(np.zeros((0, 4)), np.zeros(0))
    assert_refused(ValueError, message, lambda: UP_DOWN.undo_detections([found, found], shape))


@pytest.mark.parametrize(
    ("error", "message", "axis"),
    [
        (ValueError, "channel_axis: expected -3 or less; got -2", -2),
        (ValueError, "channel_axis: expected -3 or less; got 0", 0),
        (TypeError, "channel_axis: expected an integer; got -3.0", -3.0),
        (TypeError, "channel_axis: expected an integer; got None", None),
    ],
)
def test_a_channel_axis_that_is_none_is_refused(error, message, axis):
    calls = [
        lambda: View().undo_maps(MAPS, SHAPE, "flows", channel_axis=axis),
        lambda: UP_DOWN.undo_maps(MAPS, 0, SHAPE, "flows", channel_axis=axis),
        lambda: UP_DOWN.mean([MAPS, MAPS], SHAPE, "flows", channel_axis=axis),
    ]
    for call in calls:
        assert_refused(error, message, call)


@pytest.mark.parametrize(
    ("error", "message", "i"),
    [
        (IndexError, "i: expected the place of one of 2 views; got 2", 2),
        (IndexError, "i: expected the place of one of 2 views; got -1", -1),
        (TypeError, "i: expected an integer; got 0.0", 0.0),
    ],
)
def test_a_view_that_is_not_there_is_refused(error, message, i):
    assert_refused(error, message, lambda: UP_DOWN.undo_maps(MAPS, i, SHAPE, "flows"))


@pytest.mark.parametrize(
    ("error", "message", "outputs"),
    [
        (ValueError, "expected 2, one for each view; got 0", []),
        (ValueError, "expected 2, one for each view; got 1", [MAPS]),
        (ValueError, "expected 2, one for each view; got more", iter([MAPS] * 3)),
        (TypeError, "expected 2, one for each view; got NoneType", None),
        (TypeError, "expected 2, one for each view; got int", 2),
    ],
)
def test_there_must_be_one_output_for_each_view(error, message, outputs):
    assert_refused(error, f"outputs: {message}", lambda: UP_DOWN.mean(outputs, SHAPE, "flows"))


@pytest.mark.parametrize(
    ("error", "message", "found"),
    [
        (ValueError, "expected 2, one for each view; got 1", 1),
        (ValueError, "expected 2, one for each view; got more", 3),
        (TypeError, "expected 2, one for each view; got NoneType", None),
    ],
)
def test_there_must_be_detections_for_each_view(error, message, found):
    given_ = found and [Detections(np.zeros((0, 4)), np.zeros(0))] * found
    message = f"outputs_per_view: {message}"
    assert_refused(error, message, lambda: UP_DOWN.undo_detections(given_, SHAPE))


def test_detections_that_are_none_are_refused():
    message = "detections: expected an instance of a dataclass"
    assert_refused(TypeError, message, lambda: UP_DOWN.undo_detections([1, 2], SHAPE))


def test_outputs_must_be_alike():
    torch = pytest.importorskip("torch")
    wrong = [
        (
            TypeError,
            "outputs[1]: expected the dtype of outputs[0], float64; got float32",
            MAPS.astype(np.float32),
        ),
        (
            TypeError,
            "outputs[1]: expected an array of the library that outputs[0] is of, numpy; got torch",
            torch.from_numpy(MAPS),
        ),
        (
            ValueError,
            "outputs[1]: expected, in the image's frame, the shape of outputs[0], (3, 5, 6); "
            "got (1, 3, 5, 6)",
            MAPS[None],
        ),
        (ValueError, "outputs[1]: expected shape (..., 3, 5, 6); got (2, 5, 6)", MAPS[:2]),
    ]
    for error, message, other in wrong:
        assert_refused(
            error, message, lambda other=other: UP_DOWN.mean([MAPS, other], SHAPE, "flows")
        )


@pytest.mark.parametrize("average", ["logit", None, ""])
def test_an_average_that_is_none_is_refused(average):
    message = f"average: expected 'logits' or 'probabilities'; got {average!r}"
    assert_refused(
        ValueError, message, lambda: UP_DOWN.mean([MAPS] * 2, SHAPE, "flows", average=average)
    )


def test_no_views_have_no_mean():
    message = "views: expected one or more to average; got none"
    assert_refused(ValueError, message, lambda: Views([]).mean([], SHAPE, "flows"))


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (
            ValueError,
            "views: expected one of 'identity', 'updown', 'flips', 'rot90', 'd4', 'sartorius'; "
            "got 'flip'",
            {"views": "flip"},
        ),
        (
            TypeError,
            "views: expected the name of a set or an iterable of View; got 8",
            {"views": 8},
        ),
        (
            TypeError,
            "views: expected the name of a set or an iterable of View; got View(",
            {"views": View()},
        ),
        (TypeError, "views[1]: expected a View; got 'd4'", {"views": [View(), "d4"]}),
        (ValueError, "scales: expected one or more numbers; got ()", {"scales": ()}),
        (TypeError, "scales: expected one or more numbers; got 0.5", {"scales": 0.5}),
        (TypeError, "scales: expected a number; got 'x'", {"scales": ["x"]}),
        (ValueError, "scales: expected a finite number above 0; got 0.0", {"scales": [0]}),
    ],
)
def test_views_that_are_none_are_refused(error, message, options):
    assert_refused(error, message, lambda: Views(**options))


@pytest.mark.parametrize(
    ("error", "message", "n", "seed"),
    [
        (ValueError, "n: expected 0 to 8, the number of views; got 9", 9, 0),
        (ValueError, "n: expected 0 to 8, the number of views; got -1", -1, 0),
        (TypeError, "n: expected an integer; got 2.0", 2.0, 0),
        (ValueError, "seed: expected 0 or more; got -1", 3, -1),
        (TypeError, "seed: expected an integer; got None", 3, None),
    ],
)
def test_samples_that_are_none_are_refused(error, message, n, seed):
    assert_refused(error, message, lambda: Views().sample(n, seed=seed))


@pytest.mark.parametrize(
    ("error", "message", "images"),
    [
        (TypeError, "images: expected an array of NumPy", [[1, 2]]),
        (ValueError, "images: expected 2 or more axes (..., H, W); got shape (5,)", np.zeros(5)),
        (
            ValueError,
            "images: expected at least one pixel to resize; got shape (0, 3)",
            np.zeros((0, 3)),
        ),
        (TypeError, "images: expected a real dtype; got bool", np.zeros((2, 3), bool)),
        (TypeError, "images: expected a real dtype; got complex64", np.zeros((2, 3), "c8")),
    ],
)
def test_images_that_are_none_are_refused_before_the_first_is_asked_for(error, message, images):
    assert_refused(error, message, lambda: Views("d4", scales=[2]).apply(images))
