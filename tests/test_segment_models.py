"""Segmenting with networks of every kind: whatever they do to their input, output and memory."""

from __future__ import annotations

from types import SimpleNamespace

import array_kinds
import numpy as np
import pytest
import simulate
from test_segment import assert_same, flow_maps, identity, of_labels

from cellpost import Detections, follow_flows, paste_masks, relabel, segment
from cellpost.models import as_predictor

torch = pytest.importorskip("torch")
F = np.float32
HOW = {"tile": 24, "batch_size": 3}


@pytest.fixture(scope="module")
def maps():
    return flow_maps(simulate.blobs((70, 55), 25, seed=4), noise=0.5)


@pytest.fixture(scope="module")
def expected(maps):
    return follow_flows(maps[:2], maps[2])


class Session:
    """What ONNX Runtime's sessions have of methods."""

    def __init__(self, run, names=("maps",)):
        self._run, self._names = run, names

    def get_inputs(self):
        return [SimpleNamespace(name="image", type="tensor(float)")]

    def run(self, outputs, feed):
        assert isinstance(feed["image"], np.ndarray)
        found = dict(zip(self._names, self._run(feed["image"]), strict=True))
        return [found[name] for name in outputs or self._names]


class Module(torch.nn.Module):
    def __init__(self, forward):
        super().__init__()
        self._forward = forward

    def forward(self, x):
        return self._forward(x)


class Scripted(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2.0 - x


def reusing(buffers=None):
    """A function that answers in the same memory each time."""
    buffers = {}

    def model(tiles):
        out = buffers.setdefault(tiles.shape, np.full(tiles.shape, np.nan, F))
        out[...] = tiles
        return out

    return model


def in_place(tiles):
    """A function that answers in its input, and leaves nothing of that."""
    out = tiles.copy() if isinstance(tiles, np.ndarray) else tiles.clone()
    tiles[...] = -9
    return out


def overwriting(tiles):
    tiles *= -1
    tiles *= -1
    return tiles


NUMPY = {
    "its own input": identity,
    "a part of its input": lambda tiles: tiles[:, :3],
    "a copy": lambda tiles: tiles.copy(),
    "not contiguous": lambda tiles: np.ascontiguousarray(tiles[..., ::-1, ::-1])[..., ::-1, ::-1],
    "channels last": lambda tiles: np.moveaxis(np.moveaxis(tiles, 1, -1).copy(), -1, 1),
    "read only": lambda tiles: np.broadcast_to(tiles, tiles.shape),
    "one buffer": reusing(),
    "over its input": overwriting,
    "destroys its input": in_place,
    "float64": lambda tiles: tiles.astype(np.float64),
    "a dict": lambda tiles: {"flow": tiles[:, :2], "cellprob": tiles[:, 2:], "style": None},
    "a dict without the channel": lambda tiles: {"prob": tiles[:, 2], "dP": tiles[:, :2]},
    "a tuple": lambda tiles: (tiles[:, :2], tiles[:, 2], np.zeros((len(tiles), 256), F)),
    "a list of one": lambda tiles: [tiles],
    "torch of numpy": lambda tiles: torch.from_numpy(tiles),
    "a session": Session(lambda tiles: [tiles]),
    "a session of two": Session(lambda tiles: [tiles[:, :2], tiles[:, 2:]], ("dP", "p")),
    "a module": Module(lambda x: x),
    "a module of views": Module(lambda x: x.flip(-1).flip(-1)),
    "a module in place": Module(lambda x: x.mul_(-1).neg_()),
    "a module that destroys": Module(in_place),
    "a predictor": as_predictor(identity, head="flows"),
    "float64 module": Module(lambda x: x).double(),
}


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.parametrize("how", [{}, {"batch_size": 1}, {"tile": 70, "batch_size": 1}], ids=str)
def test_every_kind_of_network(maps, expected, name, how):
    image = maps.copy()
    got = segment(image, NUMPY[name], **{**HOW, **how})
    assert isinstance(got, np.ndarray)
    assert_same(got, expected)
    assert image.tobytes() == maps.tobytes()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_scripts(maps, expected):
    for script in (
        torch.jit.script(Scripted()),
        torch.jit.trace(Scripted(), torch.zeros(1, 3, 8, 8)),
    ):
        assert_same(segment(maps, script, **HOW), expected)
        assert_same(segment(torch.from_numpy(maps), script, **HOW).numpy(), expected)


TENSORS = {
    "its own input": identity,
    "not contiguous": lambda tiles: tiles.transpose(2, 3).contiguous().transpose(2, 3),
    "over its input": overwriting,
    "destroys its input": in_place,
    "with gradients": lambda tiles: tiles * torch.ones(1, requires_grad=True),
    "a module": Module(lambda x: x),
    "inference mode": torch.inference_mode()(lambda tiles: tiles + 0),
    "a session": Session(lambda tiles: [tiles]),
    "a dict": lambda tiles: {"flow": tiles[:, :2], "cellprob": tiles[:, 2]},
    "numpy of torch": lambda tiles: tiles.numpy(),
}


@pytest.mark.parametrize("name", TENSORS)
def test_every_kind_of_network_for_a_tensor(maps, expected, name):
    image = torch.from_numpy(maps.copy())
    got = segment(image, on_tensors(TENSORS[name]), **HOW)
    assert isinstance(got, torch.Tensor)
    assert got.dtype == torch.int32
    assert_same(got.numpy(), expected)
    assert image.numpy().tobytes() == maps.tobytes()


def on_tensors(model):
    """The same network; a function has to get tensors."""
    if not callable(model) or isinstance(model, torch.nn.Module):
        return model

    def run(tiles):
        assert isinstance(tiles, torch.Tensor)
        return model(tiles)

    return run


def test_functions_get_the_library_of_the_image(kind, maps, expected):
    model = identity if kind.name not in ("jax", "dlpack") else lambda tiles: np.array(tiles)
    got = segment(kind.put(maps), model, channel_axis=0, **HOW)
    assert kind.owns(got)
    assert_same(kind.get(got), expected)


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("given", ["numpy", "torch"])
def test_device_and_half_precision(maps, where, given):
    kind = array_kinds.TORCH if where == "cpu" else array_kinds.TORCH_CUDA
    if (why_not := kind.why_not()) is not None:
        pytest.skip(why_not)
    weight = torch.eye(3)[:, :, None, None]
    conv = torch.nn.Conv2d(3, 3, 1, bias=False)
    conv.weight.data.copy_(weight)
    image = maps if given == "numpy" else torch.from_numpy(maps)
    got = segment(image, conv, device=where, amp=True, **HOW)
    assert isinstance(got, np.ndarray) == (given == "numpy")
    half = torch.from_numpy(maps).to(torch.bfloat16 if where == "cpu" else torch.float16)
    rounded = half.float().numpy()
    assert_same(np.asarray(got), follow_flows(rounded[:2], rounded[2]))
    assert next(conv.parameters()).device.type == where


def test_half_precision_outputs_become_float32(maps):
    rounded = maps.astype(np.float16).astype(F)
    got = segment(maps, lambda tiles: tiles.astype(np.float16), **HOW)
    assert_same(got, follow_flows(rounded[:2], rounded[2]))


def test_a_module_keeps_its_mode_and_its_parts(maps, expected):
    model = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.Identity()).train()
    model[1].eval()
    assert_same(segment(maps, model, **HOW), expected)
    assert (model.training, model[0].training, model[1].training) == (True, True, False)


def test_keys_name_the_members(maps, expected):
    def model(tiles):
        return {"a": tiles[:, 2:], "b": tiles[:, :2], "flow": tiles * 0}

    assert_same(segment(maps, model, keys=["b", "a"], **HOW), expected)
    session = Session(lambda t: [t[:, 2:], t * 0, t[:, :2]], ("p", "other", "dP"))
    assert_same(segment(maps, session, keys=["dP", "p"], **HOW), expected)


def test_batches_have_the_tiles_in_order_and_are_float32(maps):
    seen = []

    def model(tiles):
        seen.append((tiles.shape, tiles.dtype, tiles.flags.c_contiguous, tiles.flags.writeable))
        return tiles

    segment(maps, model, tile=(24, 20), overlap=0.5, batch_size=4)
    n = 5 * 5
    shapes = [(min(4, n - i), 3, 24, 20) for i in range(0, n, 4)]
    assert seen == [(shape, np.float32, True, True) for shape in shapes]


# ---- memory that is used again ------------------------------------------------------------------


@pytest.mark.parametrize("augment", ["identity", "flips", "d4"])
@pytest.mark.parametrize("n_models", [1, 2])
def test_one_buffer_for_maps_is_not_corrupted(augment, n_models):
    image = np.random.default_rng(0).random((60, 50)).astype(F)

    def fresh(tiles):
        dY, dX = np.gradient(tiles[:, 0], axis=(1, 2))
        return np.stack([dY, dX, tiles[:, 0] - 0.5], axis=1)

    out = np.empty((2, 3, 24, 24), F)

    def again(tiles):
        out[: len(tiles)] = fresh(tiles)
        return out[: len(tiles)]

    how = {"tile": 24, "batch_size": 2, "augment": augment, "min_size": 0, "flow_threshold": None}
    plain = segment(image, [fresh] * n_models, **how)
    assert_same(segment(image, [again] * n_models, **how), plain)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("augment", ["identity", "flips", "d4"])
@pytest.mark.parametrize("n_models", [1, 2])
def test_one_buffer_for_instances_is_not_corrupted(augment, stacked, n_models):
    # All that the network gives lies in arrays that its next call writes to.
    image = relabel(simulate.blobs((60, 50), 14, seed=1)).astype(F)
    memory = [(np.empty((40, 4)), np.empty(40), np.empty((40, 6, 6))) for _ in range(2)]

    def fresh(tiles):
        found = []
        for one in of_labels(tiles):
            n, sides = len(one), (one.boxes[:, 2:] - one.boxes[:, :2]).astype(int)
            masks = np.zeros((n, 6, 6))
            for mask, crop, (w, h) in zip(masks, one.masks, sides, strict=True):
                mask[...] = crop[np.arange(6) * h // 6][:, np.arange(6) * w // 6]
            found.append((one.boxes, one.scores, masks))
        return found

    def as_given(boxes, scores, masks):
        return Detections(boxes, scores, masks if stacked else list(masks))

    def again(tiles):
        for buffers in memory:
            for buffer in buffers:
                buffer[...] = 7
        found = []
        for buffers, values in zip(memory, fresh(tiles), strict=False):
            n = len(values[1])
            for buffer, of_tile in zip(buffers, values, strict=True):
                buffer[:n] = of_tile
            found.append(as_given(*(buffer[:n] for buffer in buffers)))
        return found

    how = {"head": "instances", "tile": 30, "batch_size": 2, "augment": augment}
    plain = segment(image, [lambda t: [as_given(*f) for f in fresh(t)]] * n_models, **how)
    assert_same(segment(image, [again] * n_models, **how), plain, 8)


def test_one_buffer_for_labels_is_not_corrupted():
    labels = relabel(simulate.blobs((60, 50), 14, seed=1))
    out = np.empty((2, 1, 30, 30), np.int16)

    def again(tiles):
        out[...] = 0
        out[: len(tiles)] = tiles
        return out[: len(tiles)]

    how = {"head": "labels", "tile": 30, "batch_size": 2, "overlap": 0.5, "augment": "flips"}
    plain = segment(labels, lambda tiles: tiles.astype(np.int16), **how)
    assert_same(segment(labels, again, **how), plain, 8)


def test_instances_in_torch(maps):
    labels = relabel(simulate.blobs((60, 50), 14, seed=1))

    def model(tiles):
        found = of_labels(tiles.numpy())
        return [
            {
                "boxes": torch.from_numpy(one.boxes).float(),
                "scores": torch.from_numpy(one.scores).float(),
                "masks": whole(one, tiles.shape[2:]),
            }
            for one in found
        ]

    def whole(one, shape):
        masks = torch.zeros((len(one), 1, *shape))
        for mask, crop, box in zip(masks, one.masks, one.boxes.astype(int), strict=True):
            mask[0, box[1] : box[3], box[0] : box[2]] = torch.from_numpy(crop)
        return masks

    got = segment(torch.from_numpy(labels), model, head="instances", tile=30)
    assert isinstance(got, torch.Tensor)
    (one,) = of_labels(labels[None, None])
    assert_same(got.numpy(), paste_masks(one.masks, one.boxes, one.scores, labels.shape), 8)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("augment", [None, "d4"])
def test_instances_of_any_precision(dtype, augment):
    def model(tiles):
        half = getattr(torch, dtype)
        boxes = torch.tensor([[4, 4, 12, 12.0]]).to(half)
        one = {"boxes": boxes, "scores": torch.ones(1).to(half), "masks": torch.ones(1, 1, 8, 8)}
        return [one] * len(tiles)

    image = torch.zeros(16, 16)
    got = segment(image, model, head="instances", tile=16, augment=augment)
    expected = np.zeros((16, 16), np.int32)
    expected[4:12, 4:12] = 1
    np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("given", ["numpy", "torch"])
def test_networks_of_several_libraries(maps, expected, order, given):
    models = [Module(lambda x: x), lambda tiles: np.asarray(tiles), Session(lambda t: [t])]
    image = maps if given == "numpy" else torch.from_numpy(maps)
    got = segment(image, models[::order], augment="updown", channel_axis=0, **HOW)
    assert isinstance(got, np.ndarray) == (given == "numpy")
    plain = segment(image, [models[1]] * 3, augment="updown", channel_axis=0, **HOW)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(plain))
    single = segment(image, models[::order], channel_axis=0, **HOW)
    assert_same(np.asarray(single), expected)
