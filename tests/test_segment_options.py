"""Segmenting with views and ensembles, with tiles that are chosen, and at other scales."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import simulate
from scipy import ndimage
from test_segment import assert_same, flow_maps, hills, identity, of_labels, same_objects

import cellpost
from cellpost import follow_flows, segment, tile_size
from cellpost.augment import View, Views
from cellpost.augment.resize import resize_bilinear

segment_module = importlib.import_module("cellpost.segment")  # which the function hides

torch = pytest.importorskip("torch")
F = np.float32
PRESETS = ["identity", "updown", "flips", "rot90", "d4", "sartorius"]


def slopes(tiles):
    grey = tiles[:, 0]
    dY, dX = np.zeros_like(grey), np.zeros_like(grey)
    dY[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    dX[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    return dY, dX, grey


def flow_network(tiles):
    dY, dX, grey = slopes(tiles)
    return np.stack([dY, dX, grey - 1], 1)


def hover_network(tiles):
    """Of pixels that are ids. Rounded, so that turned tiles give the same to the bit."""
    made = [simulate.hover_from_labels(tile.astype(int)) for tile in tiles[:, 0]]
    return np.stack([np.stack([m.prob, *(np.round(m.hv * 64) / 64)]) for m in made]).astype(F)


def label_network(tiles):
    return tiles[:, 0].astype(np.int32)


@pytest.fixture(scope="module")
def labels():
    return cellpost.relabel(simulate.blobs((90, 120), 40, seed=3, radius=(4, 7)))


@pytest.fixture(scope="module")
def image(labels):
    return hills(labels)


# ---- views and ensembles ------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("tile", [48, (40, 56)])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_views_of_a_network_that_turns_with_the_image(image, preset, tile, average):
    how = {"tile": tile, "flow_threshold": None}
    plain = segment(image, flow_network, **how)
    got = segment(image, flow_network, augment=preset, average=average, **how)
    assert_same(got, plain, 8)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("tile", [48, (40, 56)])
def test_views_for_hover_maps(labels, preset, tile):
    how = {"head": "hover", "tile": tile, "ksize": 5}
    plain = segment(labels, hover_network, **how)
    assert_same(segment(labels, hover_network, augment=preset, **how), plain, 8)


@pytest.mark.parametrize("n_types", [0, 2])
def test_views_for_hover_maps_of_more_channels(labels, n_types):
    def network(tiles):
        maps = hover_network(tiles)
        types = np.zeros((len(maps), n_types, *maps.shape[2:]), F)
        return np.concatenate([1 - maps[:, :1], maps, types], 1)

    how = {"head": "hover", "tile": (40, 56), "ksize": 5}
    plain = segment(labels, hover_network, **how)
    assert_same(segment(labels, network, augment="d4", **how), plain, 8)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("tile", [48, (40, 56)])
def test_views_for_instances_and_labels(labels, preset, tile):
    how = {"tile": tile, "overlap_px": 24, "augment": preset}
    (whole,) = of_labels(labels[None, None])
    expected = cellpost.paste_masks(whole.masks, whole.boxes, whole.scores, labels.shape)
    assert_same(segment(labels, of_labels, head="instances", **how), expected, 20)
    assert same_objects(segment(labels, label_network, head="labels", **how), labels)


def test_views_in_the_library_of_the_image(image):
    how = {"tile": 48, "augment": "d4", "flow_threshold": None}
    got = segment(torch.from_numpy(image), lambda t: flow_network(t.numpy()), **how)
    assert_same(got.numpy(), segment(image, flow_network, **how), 8)


def test_views_of_a_volume(nuclei3d):
    volume = (nuclei3d > 0).astype(F)

    def network(tiles):
        slope = [np.gradient(tiles[:, 0], axis=axis) for axis in (1, 2, 3)]
        return np.stack([*slope, tiles[:, 0] - 0.5], 1).astype(F)

    how = {"tile": (20, 32, 32), "flow_threshold": None}
    plain = segment(volume, network, **how)
    assert_same(segment(volume, network, augment="d4", **how), plain)


def test_own_views_with_scales(image):
    views = Views("updown", scales=(1, 2))
    sizes = set()

    def network(tiles):
        sizes.add(tiles.shape[2:])
        return flow_network(tiles)

    got = segment(image, network, augment=views, tile=(30, 40), flow_threshold=None)
    assert sizes == {(30, 40), (60, 80)}
    assert got.max() > 8
    again = segment(image, network, augment=iter(list(views)), tile=(30, 40), flow_threshold=None)
    np.testing.assert_array_equal(got, again)


@pytest.mark.parametrize("weights", [None, [1, 1, 1], [1, 2, 0.5], np.array([3.0, 1, 1])])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_ensembles_are_the_weighted_mean(labels, weights, average):
    maps = flow_maps(labels)
    models = [lambda t: t, lambda t: t * F(0.5), lambda t: t * F([[[0.1]], [[0.2]], [[-1]]])]
    members = [model(maps[None])[0] for model in models]
    shares = np.ones(3) if weights is None else np.asarray(weights, float)
    views = Views([View()] * 3)
    mean = views.mean(members, labels.shape, "flows", average=average, weights=shares.tolist())
    if average == "logits":
        by_hand = sum(s * m.astype(float) for s, m in zip(shares, members, strict=True))
        # float32 maps of values up to 6
        np.testing.assert_allclose(mean, by_hand / shares.sum(), atol=2e-6)
    how = {"tile": 64, "weights": weights, "average": average}
    expected = follow_flows(mean[:2], mean[2])
    assert_same(segment(maps, models, **how), expected, 4)
    assert_same(segment(maps, tuple(models), batch_size=1, **how), expected, 4)


def test_weights_count(labels):
    maps = flow_maps(labels)
    nothing = lambda tiles: tiles * 0 - 5  # noqa: E731
    assert segment(maps, [identity, nothing], weights=[1000, 1e-6], tile=64).max() > 4
    assert segment(maps, [identity, nothing], weights=[1e-6, 1000], tile=64).max() == 0


def test_logits_and_probabilities_differ(labels):
    # Two networks are for the cells, one is more against them: 1 + 1 - 3 < 0, but of the
    # probabilities 0.73 + 0.73 + 0.05 > 3 / 2.
    maps = flow_maps(labels, noise=0)
    maps[2] = np.sign(maps[2])
    against = maps.copy()
    against[2] = -3
    models = [lambda t: t[:, :3], lambda t: t[:, :3], lambda t: t[:, 3:]]
    both = np.concatenate([maps, against])
    how = {"tile": 64, "channel_axis": 0}
    assert segment(both, models, **how).max() == 0
    plain = follow_flows(maps[:2], maps[2])
    assert_same(segment(both, models, average="probabilities", **how), plain, 4)


def test_weights_count_for_all_views_of_a_network(image):
    nothing = lambda tiles: np.full((len(tiles), 3, *tiles.shape[2:]), -50, F)  # noqa: E731
    how = {"tile": 48, "augment": "updown", "flow_threshold": None}
    most = segment(image, [flow_network, nothing], weights=[1e6, 1e-6], **how)
    assert_same(most, segment(image, flow_network, **how), 8)
    assert segment(image, [flow_network, nothing], weights=[1e-6, 1e6], **how).max() == 0


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_every_network_sees_every_view_once_whatever_the_others_do(image, kind):
    calls = [0, 0, 0]
    given = image if kind == "numpy" else torch.from_numpy(image)

    def network(i):
        def model(tiles):
            calls[i] += 1
            maps = flow_network(np.array(np.asarray(tiles)))
            tiles[...] = -9
            return maps

        return model

    how = {"tile": 200, "augment": "flips", "flow_threshold": None}
    got = segment(given, [network(i) for i in range(3)], **how)
    assert calls == [3, 3, 3]
    assert_same(np.asarray(got), segment(image, flow_network, **how), 8)


# ---- tiles that are chosen ----------------------------------------------------------------------


class Counting:
    """A network that knows which tiles it saw."""

    def __init__(self, model):
        self._model, self.shapes = model, []

    def __call__(self, tiles):
        self.shapes += [tiles.shape[2:]] * len(tiles)
        return self._model(tiles)


@pytest.fixture
def small_sizes(monkeypatch):
    """Algorithm 1 and 2 of Train4Ever for small images: the same rules, other numbers."""
    monkeypatch.setattr(tile_size, "_BY_EDGE", ((99, 48), (150, 40)))
    monkeypatch.setattr(tile_size, "_LARGEST_BY_EDGE", 64)
    monkeypatch.setattr(tile_size, "_LARGE_EDGE", 160)


@pytest.mark.parametrize("n", [0, 1, 4, 5, 6])
def test_the_gate_of_train4ever(small_sizes, n):
    image = np.zeros((80, 110), F)
    for i in range(n):
        image[10:20, 4 + 15 * i : 14 + 15 * i] = i + 1
    model, told = Counting(label_network), []
    got = segment(
        image, model, head="labels", tile="train4ever", progress=lambda *n: told.append(n)
    )
    assert got.max() == n
    whole = [(96, 128)]  # multiples of 32
    if n >= 5:
        assert model.shapes == whole
        assert told == [(1, 1)]
    else:
        grid = cellpost.TileGrid(image.shape, tile=48)
        assert model.shapes == whole + [(48, 48)] * len(grid)
        assert told[-1] == (len(grid), len(grid))


@pytest.mark.parametrize("shape", [(160, 170), (400, 200), (159, 161)])
def test_train4ever_slides_over_large_images_at_once(small_sizes, shape):
    image = np.zeros(shape, F)
    model = Counting(lambda t: np.concatenate([t] * 3, 1))
    segment(image, model, tile="train4ever", overlap=0)
    if min(shape) >= 160:
        assert set(model.shapes) == {(64, 64)}
    else:
        assert model.shapes[0] == (160, 192)  # multiples of 32
        assert set(model.shapes[1:]) == {(64, 64)}


def test_train4ever_gives_the_labels_of_the_whole(small_sizes, labels):
    maps = flow_maps(labels)
    expected, report = follow_flows(maps[:2], maps[2], return_report=True)
    got = segment(maps, identity, tile="train4ever", return_report=True)
    assert_same(got[0], expected, 5)
    assert got[1] == report


def test_train4ever_of_a_scaled_image(small_sizes, image):
    model = Counting(flow_network)
    got = segment(image, model, tile="train4ever", scale=2, flow_threshold=None)
    assert model.shapes == [(192, 256)]
    assert got.shape == image.shape
    assert got.max() >= 5


@pytest.mark.parametrize("model_diameter", [None, 6.0, 24.0])
def test_cell_size(labels, monkeypatch, model_diameter):
    monkeypatch.setattr(tile_size, "_TILE_RANGE", (32, 96))
    monkeypatch.setattr(tile_size, "_TILE_OF_RESIZED", 64)
    diameter = whole_diameter(labels, 64)
    model = Counting(label_network)
    seen_before = []

    def told(done, total):
        if not seen_before:
            seen_before.append(total)

    got = segment(
        labels, model, head="labels", tile="cell_size", model_diameter=model_diameter, progress=told
    )
    assert got.shape == labels.shape
    rule = {"diameter": diameter, "model_diameter": model_diameter}
    wanted = cellpost.choose_tile_size(labels.shape, "cell_size", **rule)
    resized = View(scale=wanted.scale).shape(labels.shape)
    grid = cellpost.TileGrid(resized, tile=wanted.tile, overlap_px=wanted.overlap_px)
    assert seen_before == [len(grid)]
    assert (wanted.scale == 1) == (model_diameter is None)
    assert set(model.shapes[-len(grid) :]) == {(wanted.tile,) * 2}
    assert got.max() > 15
    if model_diameter is None:
        assert same_objects(got, labels)


def whole_diameter(labels, tile):
    """Of the cells that no coarse tile cuts: each as often as one shows it."""
    found = []
    for window in cellpost.TileGrid(labels.shape, tile=tile, overlap=0):
        for i in np.unique(labels[window])[1:]:
            at = np.argwhere(labels[window] == i)
            inner = (
                [w.start > 0 for w in window],
                [w.stop < n for w, n in zip(window, labels.shape, strict=True)],
            )
            low, high = at.min(0) == 0, at.max(0) + 1 == labels[window].shape
            if not (low & inner[0]).any() and not (high & inner[1]).any():
                found.append(2 * np.sqrt(len(at) / np.pi))
    return np.median(found)


@pytest.mark.parametrize("shape", [(512, 512), (520, 520), (520, 704), (1050, 300)])
def test_cell_size_is_that_of_whole_cells(shape, monkeypatch):
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = ((y % 50 - 25) ** 2 + (x % 50 - 25) ** 2 < 20**2).astype(np.int32)
    image *= (y // 50) * 100 + x // 50 + 1
    found = []

    def spy(shape, rule, *, diameter, model_diameter=None):
        found.append(diameter)
        return cellpost.choose_tile_size(
            shape, rule, diameter=diameter, model_diameter=model_diameter
        )

    monkeypatch.setattr(segment_module, "choose_tile_size", spy)
    segment(image, label_network, head="labels", tile="cell_size")
    disc = 2 * np.sqrt((np.hypot(*np.mgrid[-25:25, -25:25]) < 20).sum() / np.pi)
    assert found[-1] == pytest.approx(disc, rel=1e-12)


def test_cell_size_looks_all_over_the_image(monkeypatch):
    monkeypatch.setattr(tile_size, "_TILE_RANGE", (32, 1024))
    image = np.zeros((64, 6 * 64), np.int32)
    for i in range(1, 5):
        image[20:30, 64 * i + 20 : 64 * i + 30] = i
    image[10:50, 5 * 64 + 10 : 5 * 64 + 50] = 5
    model = Counting(label_network)
    assert segment(image, model, head="labels", tile="cell_size").max() == 5
    # The median of the tiles that have cells: 16 diameters of 11.3 pixels, a multiple of 32.
    assert model.shapes[:6] == [(64, 64)] * 6
    assert set(model.shapes[6:]) == {(192, 192)}


def test_cell_size_without_cells():
    with pytest.raises(ValueError, match="tile: expected whole cells in the 1 tiles"):
        segment(np.zeros((50, 50)), label_network, head="labels", tile="cell_size")


@pytest.mark.parametrize("tile", ["train4ever", "cell_size"])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"overlap": 1.0}, ValueError),
        ({"overlap": "much"}, ValueError),
        ({"overlap_px": -1}, ValueError),
        ({"overlap_px": 5000}, ValueError),
        ({"overlap": 0.5, "overlap_px": 8}, ValueError),
        ({"scale": 0}, ValueError),
        ({"scale": np.nan}, ValueError),
    ],
)
def test_bad_values_with_chosen_tiles_show_before_the_network_works(image, tile, wrong, error):
    model = Counting(flow_network)
    with pytest.raises(error, match=r"overlap|scale"):
        segment(image, model, tile=tile, **wrong)
    assert model.shapes == []


@pytest.mark.parametrize("wrong", [-1, 0, np.nan, np.inf])
def test_bad_diameters_show_before_the_network_works(image, wrong):
    model = Counting(flow_network)
    with pytest.raises(ValueError, match="model_diameter: expected"):
        segment(image, model, tile="cell_size", model_diameter=wrong)
    assert model.shapes == []


@pytest.mark.parametrize("scale", [0.5, 2, np.float64(1.37)])
@pytest.mark.parametrize("is_torch", [False, True])
def test_scales(image, scale, is_torch):
    # What the steps, one by one, give.
    resized = next(Views([View(scale=float(scale))]).apply(image))[1]
    model = Counting(lambda t: flow_network(np.asarray(t)))
    given = torch.from_numpy(image) if is_torch else image
    got = segment(given, model, tile=(32, 50), scale=scale, flow_threshold=None)
    shape = View(scale=float(scale)).shape(image.shape)
    assert len(model.shapes) == len(cellpost.TileGrid(shape, tile=(32, 50)))
    grid = cellpost.TileGrid(shape, tile=(32, 50))
    maps = cellpost.stitch(flow_network(grid.extract(resized[None])), grid=grid)
    restored = resize_bilinear(np, maps, image.shape)
    assert_same(np.asarray(got), follow_flows(restored[:2], restored[2], flow_threshold=None), 4)


@pytest.mark.parametrize("scale", [0.5, 2])
@pytest.mark.parametrize("head", ["hover", "instances", "labels"])
def test_scales_of_other_heads(image, scale, head):
    model = {
        "hover": lambda t: hover_network(blocks(t)[:, None]),
        "instances": lambda t: of_labels(blocks(t)[:, None]),
        "labels": blocks,
    }[head]
    got = segment(image, model, head=head, tile=300, scale=scale)
    plain = segment(image, model, head=head, tile=300)
    assert got.shape == image.shape
    assert plain.max() > 4
    # Borders of cells move by a pixel or so: most of their pixels stay.
    both = ((got > 0) & (plain > 0)).sum() / ((got > 0) | (plain > 0)).sum()
    assert both > 0.7


def blocks(tiles):
    return np.stack([ndimage.label(tile > 8)[0] for tile in np.asarray(tiles)[:, 0]])


def test_instances_of_a_scaled_image_fill_it():
    # Sizes are rounded to pixels: here 3 times as many rows, and 4 times as many columns.
    got = segment(np.ones((3, 40)), label_network, head="labels", tile=(1, 10), scale=0.25)
    assert got.max() == 1
    assert (got[:, 2:-2] == 1).all()  # pasting rounds the corners
