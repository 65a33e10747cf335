"""What segmenting refuses, when, and what the messages name; nothing is left running after it."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest

import cellpost
from cellpost import segment

torch = pytest.importorskip("torch")
F = np.float32
IMAGE = np.random.default_rng(0).random((40, 50)).astype(F)
HOW = {"tile": 16, "overlap": 0.5, "batch_size": 3}
GRID = cellpost.TileGrid(IMAGE.shape, tile=16, overlap=0.5)


class Counting:
    """A network that knows how often it was called, and answers by `answer(tiles, call)`."""

    def __init__(self, answer=lambda tiles, call: np.concatenate([tiles] * 3, 1)):
        self.n, self._answer = 0, answer

    def __call__(self, tiles):
        self.n += 1
        return self._answer(tiles, self.n - 1)


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def span(i):
    return ", ".join(f"{part.start}:{part.stop}" for part in GRID[i])


def named(i):
    return re.escape(f"tile {i} (pixels {span(i)})")


# ---- before the network works -------------------------------------------------------------------

WRONG = [
    ({"head": "masks"}, ValueError, "head"),
    ({"head": None}, ValueError, "head"),
    ({"tile": 0}, ValueError, "tile"),
    ({"tile": 16.0}, TypeError, "tile"),
    ({"tile": "large"}, ValueError, "tile"),
    ({"tile": (16,)}, ValueError, "tile"),
    ({"tile": (16, 16, 16, 16)}, ValueError, "tile"),
    ({"overlap": 1}, ValueError, "overlap"),
    ({"overlap": -0.1}, ValueError, "overlap"),
    ({"overlap": 32}, ValueError, "overlap"),
    ({"overlap": np.nan}, ValueError, "overlap"),
    ({"overlap": True}, ValueError, "overlap"),
    ({"overlap": (0.5, 0.5, 0.5)}, ValueError, "overlap"),
    ({"overlap": 0.5, "overlap_px": 4}, ValueError, "overlap"),
    ({"overlap": None, "overlap_px": 16}, ValueError, "overlap_px"),
    ({"overlap": None, "overlap_px": -1}, ValueError, "overlap_px"),
    ({"overlap": None, "overlap_px": 0.5}, TypeError, "overlap_px"),
    ({"batch_size": 0}, ValueError, "batch_size"),
    ({"batch_size": 2.0}, TypeError, "batch_size"),
    ({"channel_axis": 0}, ValueError, "image"),
    ({"normalize": "z-score"}, ValueError, "method"),
    ({"normalize": 3}, ValueError, "method"),
    ({"normalize": "mediar", "limits": (2, 1)}, ValueError, "limits"),
    ({"normalize": "mediar", "limits": (0, np.inf)}, ValueError, "limits"),
    ({"normalize": "mediar", "limits": [(0, 1), (0, 1)]}, ValueError, "limits"),
    ({"normalize": "mediar", "limits": "all"}, TypeError, "limits"),
    ({"scale": 0}, ValueError, "scale"),
    ({"scale": -1}, ValueError, "scale"),
    ({"scale": np.nan}, ValueError, "scale"),
    ({"scale": np.inf}, ValueError, "scale"),
    ({"scale": "large"}, TypeError, "scale"),
    ({"augment": "all"}, ValueError, "views"),
    ({"augment": []}, ValueError, "augment"),
    ({"augment": ["flips"]}, TypeError, "views"),
    ({"augment": 3}, TypeError, "views"),
    ({"average": "median"}, ValueError, "average"),
    ({"weights": [1, 2]}, ValueError, "weights: expected 1"),
    ({"weights": []}, ValueError, "weights: expected 1"),
    ({"weights": [0]}, ValueError, "weights"),
    ({"weights": [np.nan]}, ValueError, "weights"),
    ({"weights": [np.inf]}, ValueError, "weights"),
    ({"weights": ["a"]}, TypeError, "weights"),
    ({"weights": "a"}, TypeError, "weights"),
    ({"weights": 1.0}, TypeError, "weights"),
    ({"window": "hann"}, ValueError, "window"),
    ({"window": np.ones((8, 8))}, ValueError, "window"),
    ({"window": np.zeros((16, 16))}, ValueError, "window"),
    ({"window": None}, TypeError, "window"),
    ({"window_sigma": 0}, ValueError, "sigma"),
    ({"padding": "zeros"}, ValueError, "padding"),
    ({"keys": "flow"}, TypeError, "keys"),
    ({"keys": []}, TypeError, "keys"),
    ({"device": "cpu"}, TypeError, "device"),
    ({"amp": True}, TypeError, "amp"),
    # options of the heads
    ({"min_sizes": 3}, TypeError, "min_sizes"),
    ({"niter": -1}, ValueError, "niter"),
    ({"flow_threshold": "a"}, TypeError, "flow_threshold"),
    ({"cellprob_threshold": np.nan}, ValueError, "cellprob_threshold"),
    ({"max_size_fraction": -1}, ValueError, "max_size_fraction"),
    ({"sampling": "nearest"}, ValueError, "sampling"),
    ({"fragments": "drop"}, ValueError, "fragments"),
    ({"fill_holes": "all"}, ValueError, "fill_holes"),
    ({"out_dtype": "float32"}, TypeError, "out_dtype"),
    ({"head": "hover", "niter": 3}, TypeError, "niter"),
    ({"head": "hover", "style": "x"}, ValueError, "style"),
    ({"head": "hover", "ksize": 4}, ValueError, "ksize"),
    ({"head": "hover", "activation": "relu"}, ValueError, "activation"),
    ({"head": "hover", "connectivity": 3}, ValueError, "connectivity"),
    ({"head": "hover", "value_range": 3}, ValueError, "value_range"),
    ({"head": "hover", "out_dtype": bool}, TypeError, "out_dtype"),
    *[
        ({"head": head, **wrong}, error, message)
        for head in ("instances", "labels")
        for wrong, error, message in [
            ({"niter": 3}, TypeError, "niter"),
            ({"prefer": "both"}, ValueError, "prefer"),
            ({"edge_margin": -1}, ValueError, "edge_margin"),
            ({"iou_threshold": 2}, ValueError, "iou_threshold"),
            ({"metric": "giou"}, ValueError, "metric"),
            ({"threshold": "a"}, TypeError, "threshold"),
            ({"style": "x"}, ValueError, "style"),
            ({"min_score": "a"}, TypeError, "min_score"),
            ({"min_size": -1}, ValueError, "min_size"),
            ({"out_dtype": "float64"}, TypeError, "out_dtype"),
            ({"keys": ["masks"]}, ValueError, "keys"),
        ]
    ],
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG, ids=[str(case[0]) for case in WRONG])
def test_bad_arguments_are_refused_before_the_network_works(wrong, error, message):
    model = Counting()
    with pytest.raises(error, match=message):
        segment(IMAGE, model, **{**HOW, **wrong})
    assert model.n == 0


@pytest.mark.parametrize("axis", [3, -4, 1.5, "last"])
def test_bad_channel_axes(axis):
    model = Counting()
    with pytest.raises((TypeError, ValueError), match="channel_axis: expected"):
        segment(IMAGE[None], model, channel_axis=axis, **HOW)
    assert model.n == 0


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 20, 20)])
def test_images_of_other_axes(shape):
    with pytest.raises(ValueError, match=r"image: expected 2 axes, or 3"):
        segment(np.zeros(shape), Counting())


@pytest.mark.parametrize("head", ["hover", "instances", "labels"])
def test_volumes_have_flows(head):
    model = Counting()
    with pytest.raises(ValueError, match="head: expected 'flows' for a volume"):
        segment(np.zeros((8, 8, 8)), model, head=head, tile=(4, 4, 4))
    with pytest.raises(ValueError, match="scale: expected 1 for a volume"):
        segment(np.zeros((8, 8, 8)), model, scale=2, tile=(4, 4, 4))
    assert model.n == 0


def test_no_networks():
    for none in ([], ()):
        with pytest.raises(ValueError, match="model: expected one or more; got none"):
            segment(IMAGE, none)
    for wrong in (None, "model.pt", [3]):
        with pytest.raises(TypeError, match="model: expected a PyTorch module"):
            segment(IMAGE, wrong)


def test_no_device():
    with pytest.raises(ValueError, match="device: expected a PyTorch device"):
        segment(IMAGE, torch.nn.Conv2d(1, 3, 1), device="nowhere", **HOW)


def test_limits_of_an_image_with_nan():
    image = IMAGE.copy()
    image[3, 4] = np.nan
    model = Counting()
    with pytest.raises(ValueError, match="image: expected finite values; got 1 NaN"):
        segment(image, model, normalize="mediar", **HOW)
    assert model.n == 0


# ---- what the network gives ---------------------------------------------------------------------

BAD_MAPS = [
    (lambda t: t[:, :1], "model: expected 3 channels of head 'flows'"),
    (lambda t: np.concatenate([t] * 4, 1), "model: expected 3 channels of head 'flows'"),
    (lambda t: np.concatenate([t] * 3, 1)[:, :, ::2], "model: expected shape"),
    (lambda t: np.concatenate([t] * 3, 1)[:-1], "model: expected shape"),
    (lambda t: np.concatenate([t] * 3, 1)[..., None], "model: expected shape"),
    (lambda t: np.concatenate([t] * 3, 1)[0], "model: expected"),
    (lambda t: np.concatenate([t] * 3, 1).astype(int), "model: expected a floating dtype"),
    (lambda t: np.concatenate([t] * 3, 1) > 0, "model: expected a floating dtype"),
    (lambda t: np.concatenate([t] * 3, 1) + 1j, "model: expected a floating dtype"),
    (lambda t: None, "model"),
    (lambda t: "maps", "model"),
    (lambda t: [], "model: expected an array"),
    (lambda t: {"flow": t}, "model: expected 'cellprob'"),
]


@pytest.mark.parametrize("answer", range(len(BAD_MAPS)))
@pytest.mark.parametrize("how", [{}, {"augment": "flips"}], ids=str)
@pytest.mark.parametrize("at", [0, 2])
def test_bad_maps_and_their_tiles(answer, how, at):
    bad, message = BAD_MAPS[answer]
    n_views = 3 if how else 1

    def answer_of(tiles, call):
        return bad(tiles) if call == at * n_views else np.concatenate([tiles] * 3, 1)

    with pytest.raises((TypeError, ValueError), match=message) as raised:
        segment(IMAGE, Counting(answer_of), **HOW, **how)
    for i in range(3 * at, 3 * at + 3):
        assert re.search(named(i), str(raised.value))
    assert not re.search(r"tile 9 ", str(raised.value))


@pytest.mark.parametrize(
    "other",
    [
        lambda maps: np.concatenate([maps, maps[:, :1]], 1),
        lambda maps: maps[:, :3],
        lambda maps: maps.astype(np.float64),
    ],
)
def test_maps_that_are_not_as_the_first_ones(other):
    def answer(tiles, call):
        maps = np.concatenate([tiles] * 4, 1)
        return other(maps) if call == 2 else maps

    with pytest.raises(ValueError, match=f"model: expected 4 channels of float32.*{named(6)}"):
        segment(IMAGE, Counting(answer), head="hover", **HOW)


@pytest.mark.parametrize("i", [0, 4, len(GRID) - 1])
@pytest.mark.parametrize("how", [{}, {"batch_size": 1}, {"batch_size": 100}, {"window": "core"}])
@pytest.mark.parametrize("channel", [0, 2])
def test_nan_is_an_error_that_names_the_tile(i, how, channel):
    how = {**HOW, **how}
    core = GRID.core(i)
    row, column = (part.start - start for part, start in zip(core, GRID.start(i), strict=True))

    def answer(tiles, call):
        maps = np.concatenate([tiles] * 3, 1)
        if 0 <= (at := i - call * how["batch_size"]) < len(maps):
            maps[at, channel, row + 1, column + 1] = np.nan
        return maps

    with pytest.raises(ValueError, match=f"model: expected no NaN; got one in {named(i)}"):
        segment(IMAGE, Counting(answer), **how)


def test_nan_beyond_the_image_does_not_matter():
    # Padding is no part of the image: what the network says of it is not looked at.
    def answer(tiles, call):
        maps = np.concatenate([tiles] * 3, 1)
        maps[:, :, :5] = np.nan
        return maps

    assert segment(IMAGE[:5], Counting(answer), tile=(16, 16)).shape == (5, 50)


@pytest.mark.parametrize(
    "bad",
    [
        {"boxes": np.array([[0, 0, np.nan, 2.0]]), "scores": [0.5], "masks": np.ones((1, 2, 2))},
        {"boxes": np.array([[0, 0, 2.0, 2.0]]), "scores": [np.nan], "masks": np.ones((1, 2, 2))},
        {"boxes": np.array([[0, 0, 2.0, 2.0]]), "scores": [0.5]},
        {"boxes": np.array([[0, 0, 2.0, 2.0]]), "scores": [0.5], "masks": np.ones((2, 2, 2))},
        {"boxes": np.array([[0, 0, 2.0, 2.0]])},
        None,
        3,
    ],
    ids=["box", "score", "no masks", "two masks", "no scores", "None", "3"],
)
def test_bad_instances_and_their_tiles(bad):
    good = cellpost.Detections(np.array([[0, 0, 2.0, 2.0]]), np.ones(1), np.ones((1, 2, 2)))

    def answer(tiles, call):
        return [bad if call == 1 else good] * len(tiles)

    with pytest.raises((TypeError, ValueError), match=named(3)):
        segment(IMAGE, Counting(answer), head="instances", **HOW)
    with pytest.raises((TypeError, ValueError), match=f"model: expected .*{named(0)}"):
        segment(IMAGE, Counting(lambda tiles, call: [good]), head="instances", **HOW)


@pytest.mark.parametrize(
    "answer",
    [
        lambda t: t[:, 0],
        lambda t: t[:, 0] > 0,
        lambda t: t[:, 0, ::2].astype(int),
        lambda t: -t[:, 0].astype(int) - 1,
        lambda t: np.concatenate([t] * 2, 1).astype(int),
    ],
)
def test_bad_labels_and_their_tiles(answer):
    with pytest.raises((TypeError, ValueError), match=named(0)):
        segment(IMAGE, lambda tiles: answer(tiles), head="labels", **HOW)


def test_labels_that_do_not_fit():
    def many(tiles):
        return np.arange(tiles[:, 0].size).reshape(tiles[:, 0].shape)

    with pytest.raises(OverflowError, match="uint8"):
        segment(IMAGE, many, head="labels", tile=50, out_dtype=np.uint8)


def test_a_module_for_other_channels():
    with pytest.raises(RuntimeError, match=named(0)) as raised:
        segment(IMAGE, torch.nn.Conv2d(3, 3, 1), **HOW)
    assert isinstance(raised.value.__cause__, RuntimeError)


# ---- what the network raises --------------------------------------------------------------------


class Own(Exception):
    def __init__(self, a, b):
        super().__init__(a, b)


class OwnValueError(ValueError):
    def __init__(self, a, b):
        super().__init__(a, b)


ERRORS = [
    (RuntimeError("out of memory"), RuntimeError),
    (KeyError("weights"), RuntimeError),
    (MemoryError(), RuntimeError),
    (StopIteration(), RuntimeError),
    (AssertionError("size"), RuntimeError),
    (Own(1, 2), RuntimeError),
    (ValueError("too small"), ValueError),
    (TypeError("no"), TypeError),
    (OwnValueError(1, 2), ValueError),
    (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), ValueError),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=[repr(e[0]) for e in ERRORS])
@pytest.mark.parametrize("at", [0, 3])
def test_an_error_of_the_network(error, kind, at):
    def answer(tiles, call):
        if call == at:
            raise error
        return np.concatenate([tiles] * 3, 1)

    with pytest.raises(kind, match=f"{named(3 * at)}, {named(3 * at + 1)}") as raised:
        segment(IMAGE, Counting(answer), **HOW)
    assert type(raised.value) is kind
    cause = raised.value.__cause__
    while cause is not error and cause is not None:
        cause = cause.__cause__
    assert cause is error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass(error):
    def answer(tiles, call):
        if call == 2:
            raise error
        return np.concatenate([tiles] * 3, 1)

    model = Counting(answer)
    with pytest.raises(error):
        segment(IMAGE, model, **HOW)
    assert model.n == 3


def test_errors_of_the_progress_function_pass():
    class Stop(Exception):
        pass

    def told(done, total):
        raise Stop

    model = Counting()
    with pytest.raises(Stop):
        segment(IMAGE, model, progress=told, **HOW)
    assert model.n == 2
