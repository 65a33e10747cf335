"""Views of a network's maps: stand-ins that turn with the image must answer as on the plain image.

The stand-ins compute what they put out from the pixels of the view they are given, so a vector is
in the view's frame without any code of cellpost having turned it.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import pickle
import weakref
from fractions import Fraction

import numpy as np
import pytest
import simulate
from hypothesis import given, settings
from hypothesis import strategies as st

import cellpost
from cellpost.augment import View, Views, views
from cellpost.augment.channels import CHANNELS
from cellpost.detections import Detections

PRESETS = ("identity", "updown", "flips", "rot90", "d4", "sartorius")
D4 = views("d4")
SHAPES = [(23, 34), (30, 30), (40, 17), (2, 3)]
per_view = pytest.mark.parametrize("view", D4, ids=str)
per_preset = pytest.mark.parametrize("preset", PRESETS)
averages = pytest.mark.parametrize("average", ["logits", "probabilities"])


# ---- stand-ins for networks ---------------------------------------------------------------------


def flow_network(image):
    """dY, dX and a logit of (..., H, W): derivatives change as vectors do when the image turns."""
    dY, dX = np.gradient(image, axis=(-2, -1))
    return np.stack([dY, dX, 4 * image - 2], axis=-3)


def hover_network(image):
    dY, dX = np.gradient(image, axis=(-2, -1))
    return np.stack([image, dX, dY], axis=-3)


def hover_softmax_network(image):
    dY, dX = np.gradient(image, axis=(-2, -1))
    return np.stack([image, -image, dX, dY], axis=-3)


def volume_network(volume):
    """dZ, dY, dX, logit of (..., D, H, W)."""
    return np.stack([*np.gradient(volume, axis=(-3, -2, -1)), 4 * volume - 2], axis=-4)


NETWORKS = {
    "flows": flow_network,
    "hover": hover_network,
    "hover_softmax": hover_softmax_network,
    "flows3d": volume_network,
}
per_network = pytest.mark.parametrize("channels", NETWORKS)


def image_of(shape, seed=0):
    return np.random.default_rng(seed).random(shape)


def leading_axes(channels):
    """Axes before H, W of an image, and the axis of channels that the network adds."""
    return ((4,), -4) if channels == "flows3d" else ((), -3)


def resized(array, size):
    """Bilinear by the definition, slowly and in exact fractions; the last two axes."""
    for axis, n in zip((-2, -1), size, strict=True):
        n_old = array.shape[axis]
        weights = np.zeros((n, n_old))
        for i in range(n):
            at = min(max((i + Fraction(1, 2)) * n_old / n - Fraction(1, 2), 0), n_old - 1)
            low = int(at)
            weights[i, low] += float(1 - (at - low))
            if at > low:
                weights[i, low + 1] += float(at - low)
        array = np.moveaxis(np.tensordot(array, weights, axes=(axis, 1)), -1, axis)
    return array


# ---- maps of one view ---------------------------------------------------------------------------


@per_network
@per_view
def test_a_network_that_turns_with_the_image_gives_the_plain_answer(view, channels, kind):
    network, (planes, axis) = NETWORKS[channels], leading_axes(channels)
    for shape, leading in itertools.product(SHAPES, [(), (3,), (2, 1)]):
        image = image_of((*leading, *planes, *shape))
        maps = np.ascontiguousarray(network(view.apply(image)))
        got = view.undo_maps(kind.put(maps), shape, channels, channel_axis=axis)
        assert kind.owns(got)
        np.testing.assert_allclose(kind.get(got), network(image), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@per_view
def test_turning_back_moves_bits_and_changes_signs(view, dtype):
    """The bits of each value come back: of NaN, infinity, -0 and subnormals, too."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 256, (2, 6, 5, 7, np.dtype(dtype).itemsize), np.uint8)
    maps = bits.view(dtype)[..., 0]
    maps[0, :, 0, :3] = [np.nan, -0.0, np.inf]
    kinds = ["x", "scalar", "y", "logit", "z", "scalar"]
    # A plane that rises by 2 along y and 1 along x, seen by the view, says what becomes of vectors.
    in_view = flow_network(view.apply(np.add.outer(2.0 * np.arange(5), np.arange(7.0))))[:2, 1, 1]
    signs, swapped = np.sign(in_view), abs(in_view[0]) == 1
    turned = np.stack([view.apply(channel) for channel in np.moveaxis(maps, 1, 0)], axis=1)
    y, x = turned[:, 2].copy(), turned[:, 0].copy()
    for k, sign, part in zip((2, 0), signs, (x, y) if swapped else (y, x), strict=True):
        turned[:, k] = -part if sign < 0 else part
    got = view.undo_maps(turned, (5, 7), kinds)
    assert got.dtype == dtype
    assert np.ascontiguousarray(got).tobytes() == maps.tobytes()


def test_pairs_are_made_in_order():
    maps = np.arange(5.0).reshape(5, 1, 1)
    kinds = ["x", "y", "y", "scalar", "x"]
    got = View(1).undo_maps(maps, (1, 1), kinds)[:, 0, 0].tolist()
    # A turn clockwise takes what points up to the right, and what points right to down.
    assert got == [-1, 0, 4, 3, -2]


@per_view
def test_kinds_may_be_named_or_listed(view):
    for name, kinds in CHANNELS.items():
        maps = image_of((len(kinds), *view.shape((4, 6))))
        expected = view.undo_maps(maps, (4, 6), name)
        for given_kinds in (kinds, list(kinds), iter(kinds)):
            np.testing.assert_array_equal(view.undo_maps(maps, (4, 6), given_kinds), expected)


def test_presets_are_the_ones_of_the_fields_networks():
    assert CHANNELS == {
        "flows": ("y", "x", "logit"),
        "flows3d": ("z", "y", "x", "logit"),
        "hover": ("scalar", "x", "y"),
        "hover_softmax": ("scalar", "scalar", "x", "y"),
    }


# ---- maps that are followed ---------------------------------------------------------------------


def own_turn(maps, view):
    """What a perfect network gives for the view: simulate's turning of vectors, and numpy's."""
    flows, logit = maps[:2], maps[2]
    if view.flip:
        flows, logit = simulate._turn_flows(flows, 0, (0, 1)), logit[:, ::-1]
    flows = simulate._turn_flows(flows, view.n_rot90, (0, 0))
    return np.concatenate([flows, np.rot90(logit, view.n_rot90)[None]])


def nuclei_of(labels):
    labels = np.ascontiguousarray(labels[:300, 60:480].astype(np.int32))  # not square
    return cellpost.relabel(labels)


def agreement(one, other):
    """The part of all cells that have a partner with IoU over 0.9."""
    pairs, counts = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1, return_counts=True)
    size_one, size_other = np.bincount(one.ravel()), np.bincount(other.ravel())
    inside = (pairs > 0).all(axis=0)
    a, b = pairs[:, inside]
    iou = counts[inside] / (size_one[a] + size_other[b] - counts[inside])
    return 2 * (iou > 0.9).sum() / (len(size_one) + len(size_other) - 2)


@averages
@per_preset
def test_undone_flows_are_followed_to_the_plain_labels(preset, average, nuclei2d):
    made = simulate.from_labels(nuclei_of(nuclei2d), noise=0.3, cellprob_noise=1)
    plain = np.concatenate([made.dP, made.cellprob[None]])
    expected = cellpost.follow_flows(made.dP, made.cellprob)
    assert expected.max() > 50
    shape, chosen = made.labels.shape, Views(preset)
    outputs = [own_turn(plain, view) for view in chosen]
    for i, output in enumerate(outputs):
        undone = chosen.undo_maps(output, i, shape, "flows")
        np.testing.assert_array_equal(undone, plain)
        np.testing.assert_array_equal(cellpost.follow_flows(undone[:2], undone[2]), expected)
    mean = chosen.mean(outputs, shape, "flows", average=average)
    np.testing.assert_allclose(mean, plain, rtol=1e-6, atol=1e-6)
    # The mean is off by roundings, which at the border of a pixel send a point to the next.
    assert agreement(cellpost.follow_flows(mean[:2], mean[2]), expected) > 0.98


@pytest.mark.parametrize("scale", [1, 2])
def test_flows_made_in_each_view_are_followed_to_the_cells(scale, nuclei2d):
    """Nothing turns a vector here but `undo_maps`: each view's flows are those of its own cells."""
    labels = nuclei_of(nuclei2d)
    chosen = Views("d4", scales=[scale])

    def network(view):
        seen = view.apply(labels.repeat(scale, 0).repeat(scale, 1))
        flows = 5 * cellpost.masks_to_flows(np.ascontiguousarray(seen))
        return np.concatenate([flows, np.where(seen > 0, 5, -5)[None]]).astype(np.float32)

    outputs = [network(view) for view in chosen]
    undone = [chosen.undo_maps(o, i, labels.shape, "flows") for i, o in enumerate(outputs)]
    mean = chosen.mean(outputs, labels.shape, "flows")
    for maps in [*undone, mean]:
        found = cellpost.follow_flows(maps[:2], maps[2])
        assert agreement(found, labels) > 0.97


@averages
@per_preset
def test_undone_hover_maps_flood_the_plain_labels(preset, average, nuclei2d):
    def network(seen):
        maps = simulate.hover_from_labels(np.ascontiguousarray(seen))
        return np.concatenate([maps.prob[None], maps.hv])

    labels = nuclei_of(nuclei2d)
    chosen, plain = Views(preset), network(labels)
    expected = cellpost.hover_watershed(plain[0], plain[1:])
    assert expected.max() > 50
    outputs = [network(seen) for _, seen in chosen.apply(labels)]
    for i, output in enumerate(outputs):
        undone = chosen.undo_maps(output, i, labels.shape, "hover")
        np.testing.assert_allclose(undone, plain, rtol=0, atol=1e-6)
        found = cellpost.hover_watershed(undone[0], undone[1:])
        assert agreement(found, expected) > 0.98
    mean = chosen.mean(outputs, labels.shape, "hover", average=average)
    np.testing.assert_allclose(mean, plain, rtol=0, atol=1e-6)


# ---- averages -----------------------------------------------------------------------------------


@averages
@per_network
@per_preset
def test_the_mean_over_views_is_the_plain_answer(preset, channels, average, kind):
    network, (planes, axis) = NETWORKS[channels], leading_axes(channels)
    for leading in [(), (2,)]:
        image = image_of((*leading, *planes, 23, 34))
        chosen = Views(preset)
        outputs = (kind.put(np.ascontiguousarray(network(seen))) for _, seen in chosen.apply(image))
        got = chosen.mean(outputs, (23, 34), channels, average=average, channel_axis=axis)
        assert kind.owns(got)
        np.testing.assert_allclose(kind.get(got), network(image), rtol=0, atol=1e-13)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_channels_of_logits_are_averaged_as_asked():
    chosen = Views("rot90")
    logits = np.array([-3.0, 0.5, 2, 7])
    outputs = [np.array([x, x]).reshape(2, 1, 1) for x in logits]
    kinds = ["scalar", "logit"]
    plain = chosen.mean(outputs, (1, 1), kinds)[:, 0, 0]
    assert plain.tolist() == [logits.mean()] * 2
    got = chosen.mean(outputs, (1, 1), kinds, average="probabilities")[:, 0, 0]
    assert got[0] == logits.mean()
    assert sigmoid(got[1]) == pytest.approx(sigmoid(logits).mean(), rel=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_mean_probability_is_precise_and_finite_where_logits_are_large(dtype):
    chosen, eps = Views("updown"), np.finfo(dtype).eps
    rows = np.array([[30, 30], [-80, -80], [1000, 1000], [-1e30, -1e30], [1e4, -1e4], [1e4, 0]])
    rows = rows.astype(dtype)
    outputs = [rows[:, i].reshape(1, 1, -1) for i in (0, 1)]
    got = chosen.mean(outputs, (1, 6), ["logit"], average="probabilities")[0, 0]
    expected = [30, -80, 1000, -1e30, 0, np.log(3)]
    np.testing.assert_allclose(got, expected, rtol=4 * eps, atol=4 * eps)
    largest = np.array([[[np.finfo(dtype).max, -np.finfo(dtype).max]]])
    got = chosen.mean([largest, largest], (1, 2), ["logit"], average="probabilities")
    np.testing.assert_array_equal(got, largest)


@averages
def test_nan_in_one_view_is_nan_in_the_mean(average):
    chosen = Views("flips")
    outputs = [np.ones((3, 4, 5)) for _ in chosen]
    outputs[1][:, 1, 0] = np.nan  # left-right
    with np.errstate(all="raise", under="ignore"):
        got = chosen.mean(outputs, (4, 5), "flows", average=average)
    assert np.isnan(got[:, 1, 4]).all()
    assert np.isnan(got).sum() == 3


@averages
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_half_precision_is_summed_in_float32(dtype, average):
    torch = pytest.importorskip("torch")
    chosen = Views("d4", scales=[1, 0.7])
    rng = torch.Generator().manual_seed(0)
    outputs = [
        (8 * torch.rand((3, *view.shape((9, 14))), generator=rng) - 4).to(getattr(torch, dtype))
        for view in chosen
    ]
    got = chosen.mean(outputs, (9, 14), "flows", average=average)
    assert got.dtype == getattr(torch, dtype)
    wide = [o.to(torch.float64 if dtype == "float64" else torch.float32) for o in outputs]
    expected = chosen.mean(wide, (9, 14), "flows", average=average)
    assert torch.equal(got, expected.to(got.dtype))
    exact = chosen.mean([o.to(torch.float64) for o in outputs], (9, 14), "flows", average=average)
    # Sixteen sums of float32 below 64.
    torch.testing.assert_close(expected.to(torch.float64), exact, rtol=0, atol=1e-5)
    if dtype == "float16":
        from_numpy = chosen.mean([o.numpy() for o in outputs], (9, 14), "flows", average=average)
        assert from_numpy.dtype == np.float16
        np.testing.assert_allclose(from_numpy, got.numpy(), rtol=1e-3)


@averages
def test_only_the_order_of_views_matters(average):
    """Not the memory layout, the batch, nor what the buffer of an output is used for next."""
    chosen = Views("d4", scales=[1, 1.3])
    rng = np.random.default_rng(0)
    outputs = [rng.normal(size=(3, 3, *view.shape((9, 14)))) for view in chosen]
    expected = chosen.mean(outputs, (9, 14), "flows", average=average)
    strided = [np.asfortranarray(output) for output in outputs]
    np.testing.assert_array_equal(chosen.mean(strided, (9, 14), "flows", average=average), expected)
    for i in range(3):
        alone = chosen.mean([o[i] for o in outputs], (9, 14), "flows", average=average)
        np.testing.assert_array_equal(alone, expected[i])

    def reused():
        buffer = {}
        for output in outputs:
            out = buffer.setdefault(output.shape, np.empty(output.shape))
            out[...] = output
            yield out
            out[...] = np.nan

    kept = [output.copy() for output in outputs]
    for output in outputs:
        output.flags.writeable = False
    np.testing.assert_array_equal(
        chosen.mean(reused(), (9, 14), "flows", average=average), expected
    )
    got = chosen.mean(outputs, (9, 14), "flows", average=average)
    assert not any(np.shares_memory(got, output) for output in outputs)
    for output, before in zip(outputs, kept, strict=True):
        np.testing.assert_array_equal(output, before)


def test_the_mean_of_one_view_is_a_copy_of_its_maps():
    output = image_of((3, 4, 5))
    got = Views("identity").mean([output], (4, 5), "flows")
    np.testing.assert_array_equal(got, output)
    assert not np.shares_memory(got, output)


def test_outputs_are_asked_for_one_at_a_time_and_let_go():
    class Output(np.ndarray):
        pass  # plain arrays take no weak references on all versions

    chosen, alive, made = Views("d4"), [], []

    def outputs():
        for _ in chosen:
            gc.collect()
            made.append(None)
            alive.append(sum(ref() is not None for ref in refs))
            array = np.zeros((1, 4, 4)).view(Output)
            refs.append(weakref.ref(array))
            yield array
            del array

    refs = []
    chosen.mean(outputs(), (4, 4), ["scalar"])
    assert len(made) == 8
    assert max(alive) <= 2  # the first, and the last one given


def test_empty_batches_give_empty_maps(kind):
    chosen = Views("d4", scales=[1, 2])
    outputs = [kind.put(np.zeros((0, 3, *v.shape((4, 5))), np.float32)) for v in chosen]
    got = chosen.mean(outputs, (4, 5), "flows", average="probabilities")
    assert kind.get(got).shape == (0, 3, 4, 5)


# ---- scaled views -------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.3, 0.5, 1.7, 2, 440 / 520])
@per_view
def test_images_and_maps_are_resized_bilinearly(view, scale, kind):
    view = dataclasses.replace(view, scale=scale)
    image = image_of((2, 13, 20)).astype(np.float32)
    ((same, seen),) = Views([view]).apply(kind.put(image))
    assert same == view
    assert kind.owns(seen)
    small = View(scale=scale).shape((13, 20))
    expected = dataclasses.replace(view, scale=1).apply(resized(image, small))
    np.testing.assert_allclose(kind.get(seen), expected, rtol=0, atol=1e-6)
    maps = image_of((1, *small)).astype(np.float32)
    turned = np.ascontiguousarray(view.apply(maps))
    back = view.undo_maps(kind.put(turned), (13, 20), ["scalar"])
    assert kind.get(back).dtype == np.float32
    np.testing.assert_allclose(kind.get(back), resized(maps, (13, 20)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (9, 30), (26, 40), (64, 3)])
def test_the_oracle_of_resizing_is_pytorchs(size):
    torch = pytest.importorskip("torch")
    image = image_of((1, 1, 13, 20))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image), size=size, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(resized(image, size), expected.numpy(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("scale", [0.37, 0.5, 1.7, 3])
def test_mirrored_maps_are_resized_to_mirrored_maps_to_the_bit(scale):
    shape = (13, 20)
    maps = image_of((1, *View(scale=scale).shape(shape)))
    plain = View(scale=scale).undo_maps(maps, shape, ["scalar"])
    for view in (View(flip=True, scale=scale), View(2, True, scale), View(2, False, scale)):
        got = view.undo_maps(view.apply(maps), shape, ["scalar"])
        np.testing.assert_array_equal(got, plain)


@per_view
def test_vectors_of_scaled_views_are_turned_and_not_rescaled(view):
    view = dataclasses.replace(view, scale=2)
    plane = np.add.outer(3.0 * np.arange(10), 7.0 * np.arange(12))
    ((_, seen),) = Views([view]).apply(plane)
    undone = view.undo_maps(flow_network(seen), plane.shape, "flows")
    inner = (..., slice(2, -2), slice(2, -2))  # a plane stays a plane but at its borders
    # Twice the pixels, so half the derivative along each axis: as the network said it.
    np.testing.assert_allclose(undone[inner][0], 1.5, rtol=1e-12)
    np.testing.assert_allclose(undone[inner][1], 3.5, rtol=1e-12)
    np.testing.assert_allclose(undone[inner][2], 4 * plane[inner] - 2, rtol=1e-12)


def test_scaled_volumes_are_resized_plane_by_plane():
    view = View(1, True, 0.5)
    maps = image_of((2, 4, 3, *view.shape((9, 14))))
    got = view.undo_maps(maps, (9, 14), "flows3d", channel_axis=-4)
    for k in range(3):
        np.testing.assert_array_equal(
            got[:, :, k], view.undo_maps(maps[:, :, k], (9, 14), "flows3d")
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_resized_in_float32_and_rounded_once(dtype):
    torch = pytest.importorskip("torch")
    view = View(1, True, 0.6)
    maps = torch.from_numpy(image_of((3, *view.shape((9, 14))))).to(getattr(torch, dtype))
    got = view.undo_maps(maps, (9, 14), "flows")
    expected = view.undo_maps(maps.to(torch.float32), (9, 14), "flows")
    assert torch.equal(got, expected.to(got.dtype))


def test_nan_spreads_only_to_pixels_it_has_a_part_in():
    maps = np.zeros((1, 3, 6))
    maps[0, 1, 4] = np.nan
    got = View(scale=3).undo_maps(maps, (1, 2), ["scalar"])  # read at (1, 1) and (1, 4) alone
    assert np.isnan(got[0, 0]).tolist() == [False, True]
    maps = np.zeros((1, 3, 6))
    maps[0, 1, 2:4] = maps[0, 2] = np.nan  # next to them
    got = View(scale=3).undo_maps(maps, (1, 2), ["scalar"])
    assert np.isnan(got[0, 0]).tolist() == [False, False]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float16", "float64"])
def test_images_keep_their_dtype_when_resized(dtype):
    torch = pytest.importorskip("torch")
    image = (250 * image_of((9, 14))).astype(dtype)
    ((_, seen),) = Views([View(scale=1.5)]).apply(image)
    assert seen.dtype == dtype
    expected = resized(image.astype(np.float64), (14, 21))
    atol = {"float16": 0.1, "float64": 1e-12}.get(dtype, 0.5 + 1e-9)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=atol)
    tensor = torch.from_numpy(image)
    ((_, of_torch),) = Views([View(scale=1.5)]).apply(tensor)
    assert of_torch.dtype == tensor.dtype
    np.testing.assert_array_equal(of_torch.numpy(), seen)


# ---- the views themselves -----------------------------------------------------------------------


@per_preset
def test_presets_are_those_of_the_function(preset):
    assert tuple(Views(preset)) == views(preset)
    scales = (0.5, 1, 2)
    assert tuple(Views(preset, scales=scales)) == views(preset, scales=scales)


def test_views_are_a_sequence_that_does_not_change():
    chosen = Views()
    assert tuple(chosen) == D4
    assert Views(D4) == Views(iter(D4)) == Views(chosen) == chosen
    assert chosen != D4
    assert chosen != Views("rot90")
    assert hash(chosen) == hash(Views("d4"))
    assert len(chosen) == 8
    assert chosen[1] == chosen[-7] == View(1)
    assert chosen[:4] == Views("rot90")
    assert View(3, True) in chosen
    assert chosen.index(View(3)) == 3
    assert list(reversed(chosen)) == list(D4[::-1])
    assert repr(Views("identity")) == "Views([View(n_rot90=0, flip=False, scale=1.0)])"
    assert pickle.loads(pickle.dumps(chosen)) == chosen
    with pytest.raises(TypeError):
        chosen[0] = View()
    with pytest.raises(IndexError):
        chosen[8]


def test_scales_multiply_those_of_the_views():
    got = Views([View(scale=2), View(1)], scales=iter([1, 0.5]))
    assert list(got) == [View(scale=2), View(1), View(scale=1), View(1, scale=0.5)]


def test_no_views_are_nothing_to_apply():
    assert len(Views([])) == len(Views()[5:5]) == 0
    assert list(Views([]).apply(np.zeros((2, 2)))) == []
    assert Views([]).undo_detections([], (2, 2)) == []
    assert Views([]).sample(0, seed=0) == Views([])


def test_sample_is_a_subset_in_order_and_always_the_same():
    chosen = Views("d4", scales=(1, 0.5))
    for n, seed in itertools.product(range(17), range(5)):
        some = chosen.sample(n, seed=seed)
        places = [chosen.index(view) for view in some]
        assert isinstance(some, Views)
        assert len(places) == n
        assert places == sorted(set(places))
        assert chosen.sample(n, seed=np.int64(seed)) == some
        assert n == 16 or set(some) <= set(chosen.sample(n + 1, seed=seed))
    # These numbers must never change.
    drawn = [[D4.index(view) for view in Views().sample(3, seed=seed)] for seed in (0, 1, 2**62)]
    assert drawn == [[3, 5, 7], [0, 3, 5], [0, 5, 6]]


def test_every_view_is_as_likely_as_another():
    counts = np.zeros(8)
    for seed in range(4000):
        for view in Views().sample(3, seed=seed):
            counts[D4.index(view)] += 1
    # 1500 expected each, standard deviation 31.
    assert abs(counts - 1500).max() < 150


@per_preset
def test_apply_gives_each_view_of_the_image(preset, kind):
    image = image_of((2, 9, 14)).astype(np.float32)
    seen = list(Views(preset).apply(kind.put(image)))
    assert [view for view, _ in seen] == list(views(preset))
    for view, of_view in seen:
        assert kind.owns(of_view)
        np.testing.assert_array_equal(kind.get(of_view), view.apply(image))


def test_apply_is_lazy_and_never_writes():
    image = image_of((9, 14))
    before = image.copy()
    image.flags.writeable = False
    chosen = Views("d4", scales=(1, 0.5, 1))
    seen = chosen.apply(image)
    assert iter(seen) is seen
    view, first = next(seen)
    assert view == View()
    assert np.shares_memory(first, image)
    for view, of_view in seen:
        assert of_view.shape == view.shape((9, 14))
    np.testing.assert_array_equal(image, before)


def test_images_that_are_not_scaled_are_of_any_dtype_and_size():
    for dtype in (np.bool_, np.complex64, np.uint16):
        assert all(image.dtype == dtype for _, image in Views().apply(np.ones((2, 3), dtype)))
    assert [image.shape for _, image in Views("rot90").apply(np.zeros((0, 3)))] == [
        (0, 3),
        (3, 0),
    ] * 2


def test_detections_of_each_view_are_those_of_the_image():
    shape = (20, 30)
    boxes, scores = np.array([[1.0, 2, 5, 9], [20, 3, 29, 18]]), np.array([0.9, 0.3])
    crops = [image_of((7, 4)), image_of((15, 9), 1)]
    chosen = Views("d4", scales=(1, 2))
    found = [Detections(v.boxes(boxes, shape), scores, v.masks(crops)) for v in chosen]
    back = chosen.undo_detections(iter(found), shape)
    assert len(back) == 16
    for of_image in back:
        assert isinstance(of_image, Detections)
        np.testing.assert_array_equal(of_image.boxes, boxes)
        for got, crop in zip(of_image.masks, crops, strict=True):
            np.testing.assert_array_equal(got, crop)


# ---- there and back -----------------------------------------------------------------------------

any_view = st.builds(View, n_rot90=st.integers(0, 3), flip=st.booleans())
sides = st.integers(1, 9)
vectors = st.permutations(["y", "x", "y", "x", "z", "logit", "scalar"])


@settings(max_examples=200, deadline=None)
@given(view=any_view, shape=st.tuples(sides, sides), kinds=vectors, seed=st.integers(0, 99))
def test_maps_come_back_from_any_view_and_four_turns_are_none(view, shape, kinds, seed):
    maps = np.random.default_rng(seed).normal(size=(2, 7, *shape))
    # A view's inverse is another view: seen by it, maps are what that one undoes.
    inverse = View(view.n_rot90 if view.flip else -view.n_rot90 % 4, view.flip)
    in_view = inverse.undo_maps(maps, view.shape(shape), kinds)
    np.testing.assert_array_equal(view.undo_maps(in_view, shape, kinds), maps)
    turned, size = maps, shape
    for _ in range(4):
        size = size[::-1]
        turned = View(1).undo_maps(turned, size, kinds)
    np.testing.assert_array_equal(turned, maps)


@settings(max_examples=100, deadline=None)
@given(
    view=any_view,
    scale=st.floats(0.2, 4),
    shape=st.tuples(sides, sides),
    value=st.floats(-100, 100),
)
def test_constant_maps_stay_constant_at_any_scale(view, scale, shape, value):
    view = dataclasses.replace(view, scale=scale)
    ((_, seen),) = Views([view]).apply(np.full(shape, value))
    back = view.undo_maps(seen[None], shape, ["scalar"])
    np.testing.assert_allclose(back, value, rtol=1e-14, atol=1e-300)


@settings(max_examples=100, deadline=None)
@given(
    chosen=st.lists(any_view, min_size=1, max_size=6),
    scales=st.lists(st.sampled_from([1, 0.5, 1.6]), min_size=1, max_size=2),
    shape=st.tuples(sides, sides),
    seed=st.integers(0, 99),
)
def test_the_mean_is_the_mean_of_the_undone(chosen, scales, shape, seed):
    chosen = Views(chosen, scales=scales)
    rng = np.random.default_rng(seed)
    outputs = [rng.normal(size=(3, *view.shape(shape))) for view in chosen]
    undone = [chosen.undo_maps(o, i, shape, "flows") for i, o in enumerate(outputs)]
    got = chosen.mean(outputs, shape, "flows")
    np.testing.assert_allclose(got, np.mean(undone, axis=0), rtol=0, atol=1e-14)
    by_odds = chosen.mean(outputs, shape, "flows", average="probabilities")
    expected = np.mean(sigmoid([maps[2] for maps in undone]), axis=0)
    np.testing.assert_allclose(sigmoid(by_odds[2]), expected, rtol=1e-13)
    np.testing.assert_array_equal(by_odds[:2], got[:2])


@averages
@pytest.mark.parametrize("scales", [(1,), (1, 0.5)])
def test_libraries_and_devices_agree(scales, average, kind):
    chosen = Views("d4", scales=scales)
    rng = np.random.default_rng(0)
    outputs = [rng.normal(size=(3, *v.shape((9, 14)))).astype(np.float32) for v in chosen]
    expected = chosen.mean(outputs, (9, 14), "flows", average=average)
    got = chosen.mean([kind.put(o) for o in outputs], (9, 14), "flows", average=average)
    assert kind.owns(got)
    np.testing.assert_array_equal(kind.get(got)[:2], expected[:2])
    # The exponential differs from library to library by a few units in the last place.
    np.testing.assert_allclose(kind.get(got)[2], expected[2], rtol=0, atol=2e-6)
