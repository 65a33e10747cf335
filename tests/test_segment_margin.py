"""Networks whose outputs are smaller than what they see; the whole map, and what is made of it."""

from __future__ import annotations

import numpy as np
import pytest
import simulate

import cellpost
from cellpost import as_predictor, segment


def sums(batch):
    """Sums of all squares of 7 x 7 pixels that lie whole in a tile: integers, exact."""
    windows = np.lib.stride_tricks.sliding_window_view(batch, (7, 7), axis=(2, 3))
    total = windows.sum((4, 5))
    return np.concatenate([total, 2 * total, total - 600], axis=1)


@pytest.fixture
def image():
    return np.random.default_rng(3).integers(0, 30, (97, 131)).astype(np.float32)


@pytest.mark.parametrize("layout", [(32, 0.0), (32, 0.6), ((24, 41), 0.3), (200, 0.5)])
@pytest.mark.parametrize("padding", ["reflect", "constant", "edge"])
def test_the_map_is_that_of_the_whole(image, layout, padding):
    tile, overlap = layout
    maps = segment(
        image,
        as_predictor(sums, head="flows", margin=3),
        tile=tile,
        overlap=overlap,
        padding=padding,
        postprocess=lambda maps: maps,
    )
    expected = sums(np.pad(image, 3, mode=padding)[None, None])[0]
    assert maps.shape == (3, *image.shape)
    np.testing.assert_array_equal(maps, expected)


@pytest.mark.parametrize("augment", ["flips", "rot90"])
def test_views_of_scalars_turn_back(image, augment):
    def network(batch):
        return sums(batch)[:, [0, 0, 0, 0, 0]]

    maps = segment(
        image,
        as_predictor(network, head="hover", margin=3),
        head="hover",
        tile=32,
        padding="edge",
        augment=augment,
        postprocess=lambda maps: maps[0],
    )
    np.testing.assert_array_equal(maps, sums(np.pad(image, 3, mode="edge")[None, None])[0, 0])


def test_lazily_read_images_and_rules_for_tiles(image):
    class Lazy:
        shape, dtype = image.shape, image.dtype

        def __getitem__(self, key):
            return image[key]

    model = as_predictor(sums, head="flows", margin=3)
    expected = segment(image, model, tile=32, padding="edge", flow_threshold=None)
    got = segment(Lazy(), model, tile=32, padding="edge", flow_threshold=None)
    np.testing.assert_array_equal(got, expected)
    whole = segment(image, model, tile="train4ever", padding="edge", flow_threshold=None)
    np.testing.assert_array_equal(whole, expected)


def test_options_reach_the_function_on_the_map(image):
    def spread(maps, *, low):
        return (maps[2] > low).astype(np.int32)

    found = segment(image, lambda batch: batch[:, [0, 0, 0]], postprocess=spread, low=12, tile=64)
    np.testing.assert_array_equal(found, image > 12)


def test_networks_of_different_margins(image):
    with pytest.raises(ValueError, match=r"model: expected networks of one margin; got .*\[0, 3\]"):
        segment(image, [as_predictor(sums, head="flows", margin=m) for m in (3, 0)])


def test_wrong_margins(image):
    for margin in (-1, -5):
        with pytest.raises(ValueError, match="margin: expected 0 or more pixels"):
            as_predictor(sums, head="flows", margin=margin)
    with pytest.raises(ValueError, match="margin: expected 0 or more pixels, 0 of head 'inst"):
        as_predictor(sums, head="instances", margin=2)
    with pytest.raises(TypeError, match="margin"):
        as_predictor(sums, head="flows", margin=1.5)
    model = as_predictor(sums, head="flows", margin=3)
    for tile in (6, (64, 6), 1):
        with pytest.raises(ValueError, match="tile: expected more than twice the networks' margin"):
            segment(image, model, tile=tile)
    with pytest.raises(ValueError, match=r"batch: expected tiles of 7 or more pixels"):
        model(np.zeros((1, 1, 6, 9), np.float32))
    with pytest.raises(ValueError, match=r"model: expected shape \(1, K, 30, 30\)"):
        as_predictor(sums, head="flows", margin=1)(np.zeros((1, 1, 32, 32), np.float32))
    assert as_predictor(model).margin == 3
    assert as_predictor(model, margin=0).margin == 0


def test_no_function_on_the_map_of_instances(image):
    with pytest.raises(ValueError, match="postprocess: expected None with head 'labels'"):
        segment(image, sums, head="labels", postprocess=lambda maps: maps)


def test_hover_net_s_sizes(nuclei2d):
    """Tiles of 256 that tell of their middle 164, as the published network's do."""

    def network(batch):
        return batch[:, :3, 46:-46, 46:-46]

    maps = simulate.hover_from_labels(nuclei2d, seed=1)
    stack = np.concatenate([maps.prob[None], maps.hv]).astype(np.float32)
    expected = cellpost.hover_watershed(maps.prob, maps.hv)
    got = segment(
        stack,
        as_predictor(network, head="hover", margin=46),
        head="hover",
        tile=256,
        overlap=0,
        channel_axis=0,
    )
    np.testing.assert_array_equal(got, expected)


def test_a_postprocess_is_a_function(image):
    calls = []
    with pytest.raises(TypeError, match="postprocess: expected a function or None; got 5"):
        segment(image, lambda batch: calls.append(batch), tile=32, postprocess=5)
    assert not calls


def test_a_postprocess_where_rules_choose_the_tiles(image):
    """The rule by cells looks with the head's own function; the rule by count needs labels."""
    y, x = np.mgrid[:200, :240]
    discs = (np.hypot(y % 40 - 20, x % 40 - 20) < 12).astype(np.int32)
    discs *= y // 40 * 6 + x // 40 + 1
    picture = np.concatenate(
        [5 * cellpost.masks_to_flows(discs), np.where(discs > 0, 5, -5)[None]]
    ).astype(np.float32)

    def itself(batch):
        return batch

    maps = segment(picture, itself, tile="cell_size", channel_axis=0, postprocess=lambda maps: maps)
    np.testing.assert_array_equal(maps, picture)
    counted = segment(
        picture,
        itself,
        tile="train4ever",
        channel_axis=0,
        postprocess=lambda maps: (cellpost.follow_flows(maps[:2], maps[2]), "more"),
    )
    assert counted[0].max() == 30
    assert counted[1] == "more"
    with pytest.raises(ValueError, match=r"postprocess: expected labels, .* got ndarray"):
        segment(picture, itself, tile="train4ever", channel_axis=0, postprocess=lambda maps: maps)
