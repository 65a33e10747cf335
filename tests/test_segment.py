"""Segmenting in tiles: a network that sees no farther than its tile gives the whole image's labels.

The maps that the networks "predict" are simulated from labels; see simulate.py.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import cellpost
from cellpost import follow_flows, hover_watershed, paste_masks, segment

torch = pytest.importorskip("torch")
F = np.float32
LAYOUTS = [
    {"tile": 64},
    {"tile": (50, 71), "overlap": 0.0},
    {"tile": 64, "overlap": (0.9, 0.25), "batch_size": 7},
    {"tile": 33, "overlap_px": 29, "batch_size": 100},
    {"tile": (1, 300), "overlap": 0, "batch_size": 1},
    {"tile": 1000},
    {"tile": (200, 40), "overlap_px": (3, 20), "batch_size": 3},
]
PIXELS = {
    "gaussian": {},
    "cosine": {"window": "cosine"},
    "sigmoid": {"window": "sigmoid"},
    "constant": {"window": "constant"},
    "core": {"window": "core"},
    "narrow": {"window_sigma": 0.02},
}


def identity(tiles):
    """What the network "predicts" are the channels of the image: it sees single pixels."""
    return tiles


def flow_maps(labels, *, noise=0.2, seed=0):
    made = simulate.outputs(
        labels, cellpost.masks_to_flows(labels), noise=noise, cellprob_noise=noise, seed=seed
    )
    return np.concatenate([made.dP, made.cellprob[None]])


def hover_maps(labels, *, noise=0.02):
    made = simulate.hover_from_labels(labels, noise=noise)
    return np.concatenate([made.prob[None], made.hv]).astype(F)


def of_labels(tiles):
    """Instances of tiles whose pixels are ids: exact crops, the lower id with the better score."""
    found = []
    for tile in np.asarray(tiles)[:, 0].astype(int):
        masks, boxes, scores = [], [], []
        for i in np.unique(tile[tile > 0]):
            y, x = np.nonzero(tile == i)
            masks.append(tile[y.min() : y.max() + 1, x.min() : x.max() + 1] == i)
            boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
            scores.append(1 / (1 + i))
        box = np.array(boxes, float).reshape(-1, 4)
        found.append(cellpost.Detections(box, np.array(scores), masks))
    return found


def hills(labels):
    """An image of hills: out of their slopes a network can tell the flows, in any view."""
    smooth = ndimage.gaussian_filter((labels > 0).astype(float), 1)
    inside = ndimage.distance_transform_edt(labels > 0) * 8
    # Whole numbers, so that the mean over views, of equal values, is exact.
    return (inside.round() + (smooth > 0.5)).astype(F)


def same_objects(a, b):
    """Whether two label images differ in their numbers at most."""
    a, b = np.asarray(a), np.asarray(b)
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    n = [len(np.unique(labels)) for labels in (a, b)]
    return pairs.shape[1] == n[0] == n[1] and bool(((pairs[0] == 0) == (pairs[1] == 0)).all())


def assert_same(got, expected, least=2):
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)
    assert expected.max() >= least  # else there was nothing to compare


@pytest.fixture(scope="module")
def nuclei(nuclei2d):
    return cellpost.relabel(nuclei2d[150:350, 100:340])


@pytest.fixture(scope="module")
def flows(nuclei):
    maps = flow_maps(nuclei)
    return maps, follow_flows(maps[:2], maps[2])


@pytest.fixture(scope="module")
def hover(nuclei):
    maps = hover_maps(nuclei)
    return maps, hover_watershed(maps[0], maps[1:])


# ---- networks that see single pixels ------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_flows_do_not_show_the_tiles(flows, layout):
    maps, expected = flows
    assert_same(segment(maps, identity, channel_axis=0, **layout), expected, 20)


@pytest.mark.parametrize("window", PIXELS)
@pytest.mark.parametrize("padding", ["constant", "edge", "reflect", "wrap"])
def test_no_window_and_no_padding_shows(flows, window, padding):
    maps, expected = flows
    layout = {"tile": (300, 47), "overlap": 0.3, "padding": padding}
    assert_same(segment(maps, identity, channel_axis=0, **layout, **PIXELS[window]), expected, 20)


def test_own_weights_do_not_show(flows):
    maps, expected = flows
    weights = np.random.default_rng(0).random((40, 50)) + 0.01
    assert_same(segment(maps, identity, tile=(40, 50), window=weights), expected, 20)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_hover_maps_do_not_show_the_tiles(hover, layout):
    maps, expected = hover
    assert_same(segment(maps, identity, head="hover", channel_axis=0, **layout), expected, 20)


def test_all_of_the_real_nuclei(nuclei2d):
    maps = flow_maps(nuclei2d)
    expected = follow_flows(maps[:2], maps[2])
    assert_same(segment(maps, identity, tile=160), expected, 100)
    maps = hover_maps(nuclei2d)
    expected = hover_watershed(maps[0], maps[1:])
    assert_same(segment(maps, identity, head="hover", tile=160), expected, 100)


@pytest.mark.parametrize("n_types", [0, 1, 5])
def test_hover_with_two_channels_of_the_nuclei_and_types(hover, n_types):
    maps = hover[0]
    types = np.full((n_types, *maps.shape[1:]), 7, F)
    soft = np.concatenate([1 - maps[:1], maps, types])
    got = segment(soft, identity, head="hover", tile=64, channel_axis=0)
    assert_same(got, hover_watershed(soft[:2], soft[2:4]), 20)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_hover_of_logits(hover, activation):
    maps = hover[0]
    with np.errstate(divide="ignore"):
        logit = np.clip(np.log(maps[:1] / (1 - maps[:1])), -9, 9).astype(F)
    prob = logit if activation == "sigmoid" else np.concatenate([0 * logit, logit])
    whole = np.concatenate([prob, maps[1:]])
    got = segment(whole, identity, head="hover", tile=64, channel_axis=0, activation=activation)
    given = prob[0] if activation == "sigmoid" else prob
    assert_same(got, hover_watershed(given, maps[1:], activation=activation), 20)


@pytest.mark.parametrize(
    "layout",
    [
        {"tile": (13, 20, 57)},
        {"tile": (31, 61, 57), "batch_size": 2},
        {"tile": (40, 20, 20), "overlap": 0.0},
        {"tile": (8, 64, 25), "overlap_px": (7, 3, 0), "window": "core"},
        {"tile": (10, 30, 30), "overlap": (0.5, 0, 0.2), "window": "cosine", "padding": "reflect"},
    ],
    ids=str,
)
def test_volumes(nuclei3d, layout):
    maps = flow_maps(nuclei3d)
    expected = follow_flows(maps[:3], maps[3])
    assert_same(segment(maps, identity, **layout), expected, 5)
    last = np.moveaxis(maps, 0, -1)
    assert_same(segment(last, identity, channel_axis=-1, **layout), expected, 5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    tile=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    overlap=st.tuples(st.floats(0, 0.85), st.floats(0, 0.85)),
    batch_size=st.integers(1, 20),
    window=st.sampled_from(["gaussian", "core", "constant"]),
    seed=st.integers(0, 9),
)
def test_any_layout_gives_the_labels_of_the_whole(shape, tile, overlap, batch_size, window, seed):
    maps = synthetic(shape, seed)
    # An axis of few tiles only: 1 x 1 tiles of all of it would take long, and show nothing more.
    tile = tuple(max(side, n // 12, 1) for side, n in zip(tile, shape, strict=True))
    options = {"overlap": overlap, "batch_size": batch_size, "window": window}
    got = segment(maps, identity, tile=tile, channel_axis=0, min_size=0, **options)
    np.testing.assert_array_equal(got, follow_flows(maps[:2], maps[2], min_size=0))


@functools.cache
def synthetic(shape, seed):
    return flow_maps(simulate.blobs(shape, 12, seed=seed), noise=1.0)


def test_options_reach_the_head(flows):
    maps = flows[0]
    options = {"min_size": 200, "flow_threshold": None, "cellprob_threshold": 1.0, "niter": 50}
    got = segment(maps, identity, tile=64, channel_axis=0, **options)
    expected = follow_flows(maps[:2], maps[2], **options)
    assert_same(got, expected)
    assert (expected != flows[1]).any()


@pytest.mark.parametrize("head", ["flows", "hover", "instances", "labels"])
def test_report_and_dtype(flows, hover, nuclei, head):
    image = {"flows": flows[0], "hover": hover[0]}.get(head, nuclei[None])
    model = {"flows": identity, "hover": identity, "instances": of_labels}.get(
        head, lambda tiles: tiles[:, 0].astype(int)
    )
    given = {"head": head, "tile": 100, "channel_axis": 0}
    labels, report = segment(image, model, **given, return_report=True, out_dtype=np.uint16)
    assert labels.dtype == np.uint16
    assert report.n_labels == labels.max() > 20
    np.testing.assert_array_equal(labels, segment(image, model, **given))


# ---- networks that see a neighbourhood ----------------------------------------------------------


def convolutions(n_in, n_out, seed=0):
    """Two layers of 3 x 3 that see 2 pixels; whole numbers: their sums are exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.nn.Conv2d(n_in, 4, 3, padding=1), torch.nn.Conv2d(4, n_out, 3, padding=1)]
    for layer in layers:
        for values in layer.parameters():
            whole = torch.randint(-2, 3, values.shape, generator=generator)
            values.data.copy_(whole)
    return torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])


@pytest.mark.parametrize("halo", [2, 5])
@pytest.mark.parametrize("tile", [16, (20, 33), (64, 11), (90, 70)])
def test_a_convolution_with_a_halo(tile, halo):
    # Of an image smaller than the tile the network would see the padding, not its own.
    image = np.random.default_rng(1).integers(0, 50, (90, 70)).astype(F)
    model = convolutions(1, 3)
    with torch.no_grad():
        whole = model(torch.from_numpy(image)[None, None])[0].numpy()
    options = {"min_size": 0, "flow_threshold": None}
    expected = follow_flows(whole[:2], whole[2], **options)
    layout = {"tile": tile, "overlap_px": 2 * halo, "window": "core", "batch_size": 3}
    assert_same(segment(image, model, **layout, **options), expected)
    # A halo that is too small shows: the test would see it.
    if tile == 16:
        layout["overlap_px"] = 0
        assert (segment(image, model, **layout, **options) != expected).any()


def test_a_convolution_for_hover_maps():
    image = np.random.default_rng(2).integers(0, 9, (61, 83)).astype(F)
    model = convolutions(1, 3, seed=3)
    with torch.no_grad():
        whole = model(torch.from_numpy(image)[None, None])[0].numpy()
    options = {"min_size": 0, "ksize": 3, "radius": 0}
    expected = hover_watershed(whole[0], whole[1:], **options)
    layout = {"tile": (24, 32), "overlap_px": 6, "window": "core"}
    assert_same(segment(image, model, head="hover", **layout, **options), expected, 50)


# ---- instances and label images -----------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [
        {"tile": 128, "overlap_px": 64},
        {"tile": (100, 150), "overlap_px": 60, "batch_size": 1},
        {"tile": 512},
        {"tile": (220, 100), "overlap": 0.75, "batch_size": 50},
    ],
    ids=str,
)
def test_instances_and_label_images_of_tiles(nuclei, layout):
    # No nucleus is larger than the overlap: each lies whole in one tile.
    sides = [
        max(end - start for start, end in zip(b[:2], b[2:], strict=True)) for b in boxes(nuclei)
    ]
    assert max(sides) < 56
    (whole,) = of_labels(nuclei[None, None])
    expected = paste_masks(whole.masks, whole.boxes, whole.scores, nuclei.shape)
    image = nuclei.astype(np.uint16)
    assert_same(segment(image, of_labels, head="instances", **layout), expected, 20)
    got = segment(image, lambda t: t[:, 0].astype(np.int64), head="labels", **layout)
    assert got.max() == nuclei.max()
    assert same_objects(got, nuclei)


def boxes(labels):
    (found,) = of_labels(labels[None, None])
    return found.boxes.tolist()


def test_simulated_detections_of_one_tile(nuclei):
    made = simulate.detections(nuclei)
    output = {"boxes": made.boxes, "scores": made.scores, "masks": made.masks}
    got = segment(
        nuclei, lambda tiles: [output], head="instances", tile=nuclei.shape, min_score=0.5
    )
    assert got.max() > 15
    # Two detections of one nucleus become one, and all others are pasted as they are.
    found = cellpost.merge_detections([cellpost.as_detections(output)], [np.s_[0:200, 0:240]])
    covered = found.boxes if found.mask_boxes is None else found.mask_boxes
    expected = paste_masks(found.masks, covered, found.scores, nuclei.shape, min_score=0.5)
    assert_same(got, expected)


def test_options_of_merging_and_pasting(nuclei):
    options = {"head": "instances", "tile": 128, "overlap_px": 64}
    plain = segment(nuclei, of_labels, **options)
    some = segment(nuclei, of_labels, **options, min_score=1 / 8)
    assert some.max() == 7
    np.testing.assert_array_equal(some, np.where(plain <= 7, plain, 0))
    small = segment(nuclei, of_labels, **options, min_side=20)
    sides = np.array([[x1 - x0, y1 - y0] for x0, y0, x1, y1 in boxes(nuclei)])
    assert small.max() == (sides >= 20).all(1).sum()


def test_ids_of_one_tile_say_nothing_of_those_of_another():
    # Each tile numbers its own objects from 1; ids may be of any width and with gaps.
    image = np.zeros((40, 120), F)
    for i, x in enumerate((5, 50, 95)):
        image[10:25, x : x + 15] = 1 + i

    def model(tiles):
        return (tiles[:, 0] > 0).astype(np.uint8) * 200

    got = segment(image, model, head="labels", tile=40, overlap=0.5)
    assert got.max() == 3
    assert same_objects(got, image.astype(int))
