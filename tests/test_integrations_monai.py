"""Sliding windows against MONAI's own function, and what MONAI's does not promise."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cellpost import Stitcher, TileGrid  # noqa: E402
from cellpost.integrations import _monai_windows as windows  # noqa: E402
from cellpost.integrations.monai import (  # noqa: E402
    SlidingWindowInferer,
    sliding_window_inference,
)


@pytest.fixture(scope="module")
def monai():
    """Return MONAI's module of inferers."""
    pytest.importorskip("monai")
    return importlib.import_module("monai.inferers")


@pytest.fixture(params=["stitcher", "sums"])
def sink(request, monkeypatch):
    """Each of the two ways to blend, whatever the size."""
    if request.param == "sums":
        monkeypatch.setattr(windows.WindowMap, "_fits", lambda *_: False)
    return request.param


def images(*shape, dtype=torch.float32, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def network(batch):
    """Give three channels that depend on where in its window a pixel is."""
    ramp = torch.linspace(-1, 1, batch[0, 0].numel(), dtype=torch.float64)
    ramp = ramp.reshape(batch.shape[2:]).to(batch.dtype)
    mean = batch.mean(dim=1, keepdim=True)
    return torch.cat([mean * ramp, mean.cumsum(-1) / batch.shape[-1], 3 * mean + ramp], dim=1)


def in_place(batch):
    return batch.mul_(2.0).add_(1.0)


def flat(output):
    if isinstance(output, dict):
        return list(output), list(output.values())
    return None, list(output) if isinstance(output, tuple) else [output]


# Relative to the range of the values. MONAI sums in the inputs' dtype: in float16 each of up to 16
# sums here, of values and of weights, rounds by up to 2**-11 of the sum, in either direction: half
# of what that makes in the worst case (0.0012 was the most seen).
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 8 * 2.0**-11}


def assert_same(got, wanted):
    got_keys, got_members = flat(got)
    keys, members = flat(wanted)
    assert got_keys == keys
    assert type(got) is type(wanted)
    assert len(got_members) == len(members)
    for ours_, theirs in zip(got_members, members, strict=True):
        assert ours_.dtype == theirs.dtype
        assert ours_.shape == theirs.shape
        assert ours_.device == theirs.device
        a, b = ours_.double(), theirs.double()
        assert (a - b).abs().max() <= TOLERANCE[theirs.dtype] * max(float(b.max() - b.min()), 1e-3)


def assert_same_as_monai(monai, inputs, roi, n, predictor, *args, **kwargs):
    before = inputs.clone()
    theirs = monai.sliding_window_inference(inputs.clone(), roi, n, predictor, *args, **kwargs)
    got = sliding_window_inference(inputs, roi, n, predictor, *args, **kwargs)
    assert torch.equal(inputs, before)
    assert_same(got, theirs)
    return got


# ---- the same arguments -------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("pair", ["function", "class", "call"])
def test_signature(monai, pair):
    theirs, own = {
        "function": (monai.sliding_window_inference, sliding_window_inference),
        "class": (monai.SlidingWindowInferer.__init__, SlidingWindowInferer.__init__),
        "call": (monai.SlidingWindowInferer.__call__, SlidingWindowInferer.__call__),
    }[pair]

    def contract(function):
        return [
            (p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()
        ]

    assert contract(own) == contract(theirs)


# ---- the same result ----------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("size", [(12, 17), (16, 16), (15, 41), (37, 53)])
def test_images(monai, sink, mode, overlap, size):
    assert_same_as_monai(monai, images(2, 3, *size), 16, 3, network, overlap, mode)


@pytest.mark.peer
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, (0.6, 0.9, 0.0)])
@pytest.mark.parametrize("size", [(5, 11, 8), (8, 8, 8), (13, 8, 22)])
def test_volumes(monai, sink, mode, overlap, size):
    assert_same_as_monai(monai, images(2, 2, *size), 8, 3, network, overlap, mode)


@pytest.mark.peer
@pytest.mark.parametrize("padding", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("size", [(12, 13), (11, 40), (40, 9), (5, 12, 30)])
def test_paddings(monai, padding, size):
    as_enum = importlib.import_module("monai.utils").PytorchPadMode(padding)
    roi = (16, 15) if len(size) == 2 else (8, 15, 16)
    value = 0.75 if padding == "constant" else 0.0
    for given in (padding, as_enum):
        assert_same_as_monai(
            monai, images(2, 1, *size), roi, 2, network, 0.5, "gaussian", 0.125, given, value
        )


@pytest.mark.peer
@pytest.mark.parametrize("roi", [None, 0, -1, (None, 12), (9, -1), [12, 9], (64, None)])
def test_rois(monai, roi):
    assert_same_as_monai(monai, images(1, 1, 20, 21), roi, 1, network)


@pytest.mark.peer
@pytest.mark.parametrize("n", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtypes(monai, sink, dtype, n):
    for mode in ("constant", "gaussian"):
        assert_same_as_monai(monai, images(2, 1, 30, 43, dtype=dtype), 16, n, network, 0.6, mode)


@pytest.mark.peer
@pytest.mark.parametrize("sigma", [0.05, 0.5, (0.1, 0.3)])
def test_sigma(monai, sigma):
    mode = importlib.import_module("monai.utils").BlendMode.GAUSSIAN
    assert_same_as_monai(monai, images(1, 1, 30, 43), (16, 20), 4, network, 0.6, mode, sigma)


@pytest.mark.peer
def test_half_outputs_of_float_inputs(monai):
    assert_same_as_monai(monai, images(1, 1, 30, 43), 16, 4, lambda b: network(b).half(), 0.5)


def scaled(factor, *factors):
    """Give an output that is larger than its window by a factor for each axis."""

    def predict(batch):
        size = [round(n * f) for n, f in zip(batch.shape[2:], (factor, *factors), strict=True)]
        return torch.nn.functional.interpolate(network(batch), size, mode="nearest")

    return predict


@pytest.mark.peer
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("factors", [(2, 2), (0.5, 0.5), (3, 0.25), (1, 0.5), (0.25, 1)])
@pytest.mark.parametrize("overlap", [0.5, 0.6, 0.9])
@pytest.mark.parametrize("size", [(37, 53), (9, 40), (12, 13)])
def test_zooms(monai, mode, factors, overlap, size):
    # With an overlap of 0.9 windows share their places in the smaller outputs.
    assert_same_as_monai(monai, images(2, 1, *size), 16, 3, scaled(*factors), overlap, mode)


@pytest.mark.peer
def test_zoomed_volumes(monai):
    assert_same_as_monai(monai, images(1, 1, 9, 20, 17), 8, 3, scaled(2, 0.5, 1), 0.5, "gaussian")


@pytest.mark.peer
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
def test_structures(monai, mode):
    half, quarter = scaled(0.5, 0.5), scaled(0.25, 0.25)

    def as_dict(batch):
        return {"z": quarter(batch), "b": network(batch), "c": half(batch)[:, :1]}

    for predict in (
        as_dict,
        lambda b: (network(b), half(b), quarter(b)),
        lambda b: [network(b), network(b)[:, :2]],
        lambda b: [network(b)],
        lambda b: {"only": network(b)},
    ):
        assert_same_as_monai(monai, images(2, 1, 33, 40), 16, 3, predict, 0.5, mode)


@pytest.mark.peer
@pytest.mark.parametrize("axes", [0, 2])
def test_roi_weight_map(monai, sink, axes):
    weights = images(16, 16, seed=3)[(None,) * axes] + 0.01
    for given in (weights, weights.double()):
        assert_same_as_monai(monai, images(2, 1, 30, 41), 16, 3, network, 0.5, roi_weight_map=given)


@pytest.mark.peer
def test_roi_weight_map_of_zeros(monai):
    weights = images(16, 16, seed=3)
    weights[:, 6:9] = 0
    weights[0] = 1e-30
    assert_same_as_monai(monai, images(1, 1, 32, 44), 16, 3, network, 0.75, roi_weight_map=weights)


@pytest.mark.peer
@pytest.mark.parametrize("given_map", [False, True])
def test_process_fn(monai, given_map):
    seen = []

    def process(outputs, batch, weights):
        seen[-1].append((len(outputs), tuple(batch.shape), tuple(weights.shape), weights.dtype))
        return tuple(output + batch[:, :1] for output in outputs), weights**2

    options = {"roi_weight_map": images(1, 1, 16, 16, seed=3) + 0.5} if given_map else {}
    arguments = (images(2, 1, 30, 41), 16, 3, lambda b: [network(b), b * 2], 0.5, "gaussian")
    results = []
    for function in (monai.sliding_window_inference, sliding_window_inference):
        seen.append([])
        results.append(function(*arguments, process_fn=process, **options))
    assert_same(results[1], results[0])
    assert seen[0] == seen[1]


@pytest.mark.peer
@pytest.mark.parametrize("size", [(30, 41), (12, 41), (9, 10)])
def test_coordinates(monai, size):
    seen = []

    def predict(batch, where, scale, *, shift):
        seen[-1] += [[(s.start, s.stop) for s in map(as_slice, one)] for one in where]
        shifts = [one[2].start + 2.0 * one[3].start + shift for one in where]
        return batch * scale + torch.tensor(shifts)[:, None, None, None]

    def as_slice(value):
        assert isinstance(value, slice)
        return value

    results = []
    for function in (monai.sliding_window_inference, sliding_window_inference):
        seen.append([])
        # Positional up to with_coord, as what is for the predictor follows it.
        results.append(
            function(
                images(2, 1, *size), 16, 3, predict, 0.5, "constant", 0.125, "constant", 0.0, None,
                None, False, None, None, None, -1, True, 3.0, shift=1.0,
            )
        )  # fmt: skip
    assert_same(results[1], results[0])
    assert seen[0] == seen[1]


@pytest.mark.peer
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("size", [(30, 41), (12, 13)])
def test_condition(monai, n, size):
    def predict(batch, condition):
        return network(batch) * condition[:, :1]

    condition = images(2, 2, *size, seed=5)
    assert_same_as_monai(monai, images(2, 1, *size), 16, n, predict, 0.5, condition=condition)
    assert_same_as_monai(monai, images(2, 1, *size), 16, n, network, 0.5, condition=None)


@pytest.mark.peer
@pytest.mark.parametrize("buffer", [(1, -1), (2, 0), (3, 1)])
def test_buffers_do_not_matter(monai, buffer):
    options = {"buffer_steps": buffer[0], "buffer_dim": buffer[1]}
    got = assert_same_as_monai(
        monai, images(2, 1, 41, 50), 16, 3, network, 0.5, "gaussian", **options
    )
    assert torch.equal(
        got, sliding_window_inference(images(2, 1, 41, 50), 16, 3, network, 0.5, "gaussian")
    )


@pytest.mark.peer
@pytest.mark.parametrize("several", [False, True])
def test_meta_tensors(monai, several):
    meta = importlib.import_module("monai.data").MetaTensor
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    inputs = meta(images(1, 1, 30, 41), affine=affine, meta={"spacing": 3})
    kinds = []

    def predict(batch):
        kinds.append(type(batch))
        return {"a": network(batch), "b": batch * 2} if several else network(batch)

    theirs = monai.sliding_window_inference(inputs, 16, 3, predict, 0.5)
    n_theirs = len(kinds)
    got = sliding_window_inference(inputs, 16, 3, predict, 0.5)
    assert_same(got, theirs)
    assert set(kinds[:n_theirs]) == set(kinds[n_theirs:]) == {torch.Tensor}
    for one in flat(got)[1]:
        assert type(one) is meta
        assert one.meta["spacing"] == 3
        assert torch.equal(one.affine, affine)
    # Where MONAI gives float32.
    doubled = sliding_window_inference(inputs.double(), 16, 3, network, 0.5)
    assert (type(doubled), doubled.dtype) == (meta, torch.float64)


@pytest.mark.peer
def test_inferer(monai):
    options = {"sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian", "cval": 0.5}
    own = SlidingWindowInferer((16, 20), cache_roi_weight_map=True, **options)
    theirs = monai.SlidingWindowInferer((16, 20), cache_roi_weight_map=True, **options)
    x = images(1, 1, 30, 15)

    def predict(batch, scale=1.0, *, condition=None, power=1):
        return network(batch) ** power * scale + (0 if condition is None else condition)

    assert_same(own(x, network), theirs(x, network))
    assert_same(own(x, predict, 2.0, power=2), theirs(x, predict, 2.0, power=2))
    arguments = {"condition": x + 1, "buffer_steps": None, "buffer_dim": 0, "device": "cpu"}
    assert_same(own(x, predict, **arguments), theirs(x, predict, **arguments))
    assert own.mode == theirs.mode
    for name in inspect.signature(SlidingWindowInferer).parameters:
        assert hasattr(own, name)
    with pytest.raises(ValueError, match="condition: expected the shape of inputs"):
        own(x, predict, condition=x[:, :, 1:])
    with pytest.raises(ValueError, match="mode: expected one of"):
        SlidingWindowInferer(16, mode="hann")


# ---- what MONAI's does not promise --------------------------------------------------------------


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(30, 43), (11, 43), (9, 14, 20)])
def test_bytes_do_not_depend_on_batches_or_way(monkeypatch, mode, dtype, size):
    x = images(3, 2, *size, dtype=dtype)
    run = functools.partial(sliding_window_inference, x, 12, overlap=0.6, mode=mode)
    first = run(1, network)
    for n in (2, 3, 7, 1000):
        assert torch.equal(run(n, network), first)
    monkeypatch.setattr(windows.WindowMap, "_fits", lambda *_: False)
    for n in (1, 3, 7):
        assert torch.equal(run(n, network), first)


def test_process_fn_and_weights_in_other_ways_have_the_same_bytes():
    x, weights = images(2, 1, 30, 41), images(16, 16, seed=3) + 0.1
    run = functools.partial(sliding_window_inference, x, 16, 3, network, 0.6)
    first = run(roi_weight_map=weights)
    for shape in ((16, 16), (1, 1, 16, 16), (1, 3, 16, 16)):
        process = lambda outputs, batch, _, shape=shape: (outputs, weights.expand(shape))  # noqa: E731
        assert torch.equal(run(process_fn=process), first)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [1, 3, 7])
def test_weights_of_each_window(n, channels):
    x = images(2, 1, 30, 41)
    grid = TileGrid((30, 41), tile=16, overlap=0.5)

    def process(outputs, batch, _):
        own = batch.mean(dim=(1, 2, 3), keepdim=True).expand(-1, channels, 16, 16)
        return outputs, own + torch.arange(channels)[None, :, None, None]

    got = sliding_window_inference(x, 16, n, network, 0.5, process_fn=process)
    for image in range(2):
        tiles = grid.extract(x[image]).double()
        sums, weights = torch.zeros(2, 3, 30, 41, dtype=torch.float64)
        for i, tile in enumerate(tiles):
            weight = (tile.mean() + torch.arange(3) * (channels > 1))[:, None, None]
            sums[(slice(None), *grid[i])] += weight * network(tile[None])[0]
            weights[(slice(None), *grid[i])] += weight
        # The tiles' means are of float32.
        torch.testing.assert_close(got[image].double(), sums / weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [1, 3])
def test_predictors_in_place(n):
    x = images(2, 1, 30, 41)
    before = x.clone()
    got = sliding_window_inference(x, 16, n, in_place, 0.5, "gaussian")
    assert torch.equal(x, before)
    assert torch.equal(
        got, sliding_window_inference(x, 16, n, lambda b: b * 2.0 + 1.0, 0.5, "gaussian")
    )
    whole = sliding_window_inference(x, None, n, in_place)
    assert torch.equal(x, before)
    assert torch.equal(whole, x * 2 + 1)


def test_process_fn_in_place():
    x = images(1, 1, 30, 41)

    def process(outputs, batch, weights):
        batch.zero_()
        weights.mul_(2)
        outputs[0].mul_(3)
        return outputs, weights

    got = sliding_window_inference(x, 16, 3, network, 0.5, "gaussian", process_fn=process)
    wanted = sliding_window_inference(x, 16, 3, lambda b: network(b) * 3, 0.5, "gaussian")
    assert torch.equal(got, wanted)
    assert float(x.min()) >= 0


@pytest.mark.parametrize(
    "keep",
    [lambda b: b, lambda b: b[:, :, 3:], lambda b: b.numpy(), lambda b: b.view(torch.int32)],
)
def test_batches_that_are_kept_stay_as_they_are(keep):
    kept, copies = [], []

    def predict(batch):
        kept.append(keep(batch))
        copies.append(torch.as_tensor(kept[-1]).clone())
        return batch

    sliding_window_inference(images(2, 1, 30, 41), 16, 3, predict, 0.5)
    for one, copy in zip(kept, copies, strict=True):
        assert torch.equal(torch.as_tensor(one), copy)


def test_outputs_that_come_in_one_buffer():
    buffer = torch.empty(3, 1, 16, 16)

    def predict(batch):
        buffer[: len(batch)] = batch * 2
        return buffer[: len(batch)]

    x = images(2, 1, 30, 41)
    got = sliding_window_inference(x, 16, 3, predict, 0.5)
    assert torch.equal(got, sliding_window_inference(x, 16, 3, lambda b: b * 2, 0.5))


class Buffer(torch.nn.Module):
    """Answers in the same memory each time."""

    def forward(self, batch):
        if not hasattr(self, "answer") or self.answer.shape != batch.shape:
            self.answer = torch.empty_like(batch)
        return torch.sin(batch, out=self.answer)


def test_functions_may_answer_in_the_same_memory():
    x = images(2, 1, 100, 41)
    expected = sliding_window_inference(x, 16, 3, torch.sin, 0.5, "gaussian")
    network = Buffer()
    answer = sliding_window_inference(x, 16, 3, lambda b: network(b), 0.5, "gaussian")
    assert torch.equal(answer, expected)


def test_outputs_that_are_new_are_not_copied(monkeypatch):
    copies = []
    add = windows.Stitcher.add
    monkeypatch.setattr(
        windows.Stitcher, "add", lambda *a, copy: (copies.append(copy), add(*a, copy=copy))
    )
    x = images(1, 1, 40, 41)
    for predictor, copied in [
        (torch.nn.Identity(), False),  # the batch, which is ours
        (torch.nn.Sigmoid(), False),
        (lambda b: b, False),
        (lambda b: b.mul_(2), False),
        (torch.sigmoid, True),
    ]:
        copies.clear()
        sliding_window_inference(x, 16, 3, predictor, 0.5, "gaussian")
        assert copies
        assert set(copies) == {copied}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool])
def test_integer_inputs(dtype):
    x = (images(1, 1, 30, 41) * 200).to(dtype)
    got = sliding_window_inference(x, 16, 3, lambda b: b.double() / 2, 0.5, "gaussian")
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, x.double() / 2)
    got = sliding_window_inference(x, 16, 3, lambda b: b, 0.5, "gaussian")
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, x.float())


def test_integer_outputs_of_float_inputs():
    x = images(1, 1, 30, 41)
    got = sliding_window_inference(x, 16, 3, lambda b: b > 0.5, 0.5, "gaussian")
    assert torch.equal(got, (x > 0.5).float())


def test_full_size_after_a_smaller_output():
    x = images(1, 1, 32, 48)
    small, full = sliding_window_inference(
        x, 16, 3, lambda b: (b[:, :, ::2, ::2], b), 0.5, "gaussian"
    )
    torch.testing.assert_close(small, x[:, :, ::2, ::2])
    torch.testing.assert_close(full, x)


def test_padding_beyond_the_image():
    got = sliding_window_inference(images(1, 1, 3, 20), 16, 1, network, padding_mode="reflect")
    padded = np.pad(images(1, 1, 3, 20).numpy(), ((0, 0), (0, 0), (6, 7), (0, 0)), mode="reflect")
    wanted = sliding_window_inference(torch.from_numpy(padded), 16, 1, network)
    assert torch.equal(got, wanted[:, :, 6:9])


def test_odd_zooms_cover_the_map():
    # 1 / 49 times 49 is less than 1 in floating point, and MONAI's map is of (1, 2).
    def predict(batch):
        return batch.mean(dim=(2, 3), keepdim=True)

    got = sliding_window_inference(torch.ones(1, 1, 98, 49 * 3), 49, 2, predict, 0.0)
    assert torch.equal(got, torch.ones(1, 1, 2, 3))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes(mode):
    layer = torch.nn.Conv2d(1, 2, 3, padding=1)
    x = images(1, 1, 30, 41)
    with mode():
        got = sliding_window_inference(x, 16, 3, layer, 0.5, "gaussian")
        summed = sliding_window_inference(
            x, 16, 3, layer, 0.5, "gaussian", process_fn=lambda o, b, w: (o, w)
        )
    assert not got.requires_grad
    assert torch.equal(got, summed)
    with torch.inference_mode():
        inner = layer(x)
    got = sliding_window_inference(inner, 16, 3, torch.inference_mode()(lambda b: b * 1), 0.5)
    torch.testing.assert_close(got, inner)


def test_memory_formats_and_strides():
    x = images(2, 3, 30, 41)
    first = sliding_window_inference(x, 16, 3, network, 0.5)
    for same in (
        x.to(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        torch.stack([x, x], dim=-1)[..., 1],
        x.clone().requires_grad_(),
    ):
        assert torch.equal(sliding_window_inference(same, 16, 3, network, 0.5), first)
    last = sliding_window_inference(
        x, 16, 3, lambda b: network(b).to(memory_format=torch.channels_last), 0.5
    )
    assert torch.equal(last, first)


def test_the_result_is_an_ordinary_tensor():
    got = sliding_window_inference(images(1, 1, 30, 41), 16, 3, network)
    assert got.is_contiguous()
    got += 1
    got.sum()
    assert torch.equal(got.clone(memory_format=torch.channels_last), got)


def test_rows_of_windows_are_bounded(monkeypatch):
    made = []
    monkeypatch.setattr(windows, "Stitcher", type("Seen", (Stitcher,), {
        "__init__": lambda self, *a, **k: (made.append(1), Stitcher.__init__(self, *a, **k))[0]
    }))  # fmt: skip
    x = images(1, 1, 40, 40, 40)
    first = sliding_window_inference(x, 20, 8, torch.nn.Identity(), 0.8)
    assert made == [1]
    monkeypatch.setattr(windows, "_FREE_BYTES", 2**20)  # less than its eight layers
    assert torch.equal(sliding_window_inference(x, 20, 8, torch.nn.Identity(), 0.8), first)
    assert made == [1]


def test_devices_can_be_named():
    x = images(1, 1, 30, 41)
    for where in ("cpu", torch.device("cpu")):
        got = sliding_window_inference(x, 16, 3, network, sw_device=where, device=where)
        assert torch.equal(got, sliding_window_inference(x, 16, 3, network))


@pytest.mark.gpu
@pytest.mark.parametrize("where", [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")])
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
def test_cuda(where, mode, sink):
    if not torch.cuda.is_available():
        pytest.skip("CUDA: torch sees no GPU")
    x = images(2, 1, 30, 41)
    run = functools.partial(
        sliding_window_inference, roi_size=16, sw_batch_size=3, overlap=0.6, mode=mode
    )
    wanted = run(x, predictor=lambda b: b * 2)
    got = run(x, predictor=lambda b: b * 2, sw_device=where[0], device=where[1])
    assert got.device.type == where[1]
    assert torch.equal(got.cpu(), wanted)
    got = run(x.cuda(), predictor=lambda b: b * 2)
    assert got.is_cuda
    assert torch.equal(got.cpu(), wanted)


def test_progress(capsys):
    sliding_window_inference(images(1, 1, 30, 41), 16, 3, network, progress=True)
    captured = capsys.readouterr()
    assert "windows" in captured.err
    assert captured.out == ""


def test_cpu_thresh():
    inferer = SlidingWindowInferer(16, cpu_thresh=100)
    assert inferer(images(1, 1, 30, 41), network).device.type == "cpu"


def test_monai_is_not_imported(tmp_path):
    import subprocess

    code = (
        "import sys, cellpost.integrations.monai as m; assert 'torch' not in sys.modules; "
        "import torch; m.sliding_window_inference(torch.ones(1, 1, 9, 9), 4, 2, lambda b: b); "
        "assert 'monai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"inputs": np.zeros((1, 1, 9, 9))}, TypeError, "inputs: expected a torch.Tensor"),
        ({"inputs": torch.zeros(1, 1, 9, 9, dtype=torch.complex64)}, TypeError, "inputs: .* real"),
        ({"inputs": torch.zeros(1, 1, 9)}, ValueError, "inputs: expected shape"),
        ({"inputs": torch.zeros(1, 9, 9, 9, 1, 1)}, ValueError, "inputs: expected shape"),
        ({"inputs": torch.zeros(0, 1, 9, 9)}, ValueError, "inputs: expected one image or more"),
        ({"inputs": torch.zeros(1, 1, 9, 0)}, ValueError, "inputs: expected one image or more"),
        ({"roi_size": (4, 4, 4)}, ValueError, "roi_size: expected one number, or"),
        ({"roi_size": 4.0}, TypeError, "roi_size: expected integers"),
        ({"roi_size": "4"}, TypeError, "roi_size: expected integers"),
        ({"sw_batch_size": 0}, ValueError, "sw_batch_size: expected 1 or more"),
        ({"sw_batch_size": 1.5}, TypeError, "sw_batch_size"),
        ({"overlap": 1.0}, ValueError, "overlap: expected"),
        ({"overlap": -0.1}, ValueError, "overlap: expected"),
        ({"overlap": float("nan")}, ValueError, "overlap: expected"),
        ({"overlap": (0.1, 0.2, 0.3)}, ValueError, "overlap: expected one number, or"),
        ({"overlap": "half"}, TypeError, "overlap"),
        ({"mode": "hann"}, ValueError, "mode: expected one of 'constant', 'gaussian'"),
        ({"mode": "gaussian", "sigma_scale": 0}, ValueError, "sigma_scale: expected finite"),
        ({"mode": "gaussian", "sigma_scale": (1, 1, 1)}, ValueError, "sigma_scale: expected one"),
        ({"padding_mode": "mirror"}, ValueError, "padding_mode: expected one of"),
        ({"buffer_steps": 1, "buffer_dim": 2}, ValueError, "buffer_dim: expected -2 to 1"),
        ({"roi_weight_map": np.ones((4, 4))}, TypeError, "roi_weight_map: expected a torch"),
        ({"roi_weight_map": torch.ones(4, 5)}, ValueError, "roi_weight_map: expected shape"),
        ({"roi_weight_map": -torch.ones(4, 4)}, ValueError, "roi_weight_map: expected finite"),
        ({"condition": np.ones((1, 1, 9, 9))}, TypeError, "condition: expected a torch"),
        ({"condition": torch.ones(1, 1, 9, 8)}, ValueError, "condition: expected shape"),
        ({"predictor": lambda b: None}, TypeError, "predictor: expected a torch.Tensor"),
        ({"predictor": lambda b: ()}, ValueError, "predictor: expected one output or more"),
        ({"predictor": lambda b: (b, b.numpy())}, TypeError, "predictor: expected a torch.Tensor"),
        ({"predictor": lambda b: b[:1]}, ValueError, r"predictor: expected outputs of shape \(2"),
        ({"predictor": lambda b: b[:, 0]}, ValueError, "predictor: expected outputs of shape"),
        ({"predictor": lambda b: b[..., :0]}, ValueError, "predictor: .* not empty"),
        ({"process_fn": lambda o, b, w: (o, 1.0)}, TypeError, "process_fn: expected a torch"),
        ({"process_fn": lambda o, b, w: (o, w[:1])}, ValueError, "process_fn: expected weights"),
        (
            {"process_fn": lambda o, b, w: (o, w.expand(5, 1, 4, 4))},
            ValueError,
            "process_fn: expected weights for 1 or 2 windows",
        ),
    ],
)
def test_rejected(change, error, match):
    arguments = {
        "inputs": torch.zeros(1, 1, 9, 9),
        "roi_size": 4,
        "sw_batch_size": 2,
        "predictor": lambda batch, **_: batch,
        **change,
    }
    with pytest.raises(error, match=match):
        sliding_window_inference(**arguments)


@pytest.mark.parametrize(
    ("later", "match"),
    [
        (lambda b: (b, b), "predictor: expected 1 outputs"),
        (lambda b: b[:, :, :2], "predictor: expected outputs of shape"),
        (lambda b: b.double(), "predictor: expected outputs of torch.float32"),
    ],
)
def test_outputs_that_change(later, match):
    calls = iter([lambda b: b] + [later] * 100)
    with pytest.raises(ValueError, match=match):
        sliding_window_inference(torch.zeros(1, 1, 9, 9), 4, 2, lambda b: next(calls)(b))
