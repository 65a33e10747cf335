"""Tile sizes at every edge of the rules; diameters against the formula and Cellpose."""

from __future__ import annotations

import math

import numpy as np
import pytest
import simulate
from hypothesis import given
from hypothesis import strategies as st

from cellpost.augment import View
from cellpost.tile_size import TileSize, choose_tile_size, mean_diameter, needs_sliding


@pytest.mark.parametrize(
    ("edge", "tile"),
    [
        (1, 1024),
        (1999, 1024),
        (2000, 256),
        (2999, 256),
        (3000, 256),
        (3001, 512),
        (3999, 512),
        (4000, 512),
        (4001, 1024),
        (14999, 1024),
        (15000, 1024),
        (15001, 2048),
        (10**6, 2048),
    ],
)
def test_train4ever_by_the_shorter_edge(edge, tile):
    for shape in ((edge, edge), (edge, 10**7), (10**7, edge), np.array([edge, edge])):
        assert choose_tile_size(shape) == TileSize(tile, 1.0, None)
    assert choose_tile_size((edge, edge), "train4ever", diameter=30) == TileSize(tile)


@pytest.mark.parametrize(
    ("shape", "n_instances", "expected"),
    [
        ((3999, 9000), None, False),
        ((4000, 4000), None, True),
        ((9000, 3999), 5, False),
        ((9000, 3999), 4, True),
        ((10, 10), 0, True),
        ((4000, 5000), 1000, True),
        ((10, 10), np.int64(5), False),
    ],
)
def test_gate(shape, n_instances, expected):
    assert needs_sliding(shape, n_instances) is expected


@pytest.mark.parametrize(
    ("diameter", "tile", "overlap_px"),
    [
        (0.1, 256, 1),
        (16, 256, 32),
        (16.01, 288, 33),
        (18, 288, 36),
        (20, 320, 40),
        (30.2, 512, 61),
        (127, 2048, 254),
        (128, 2048, 256),
        (500, 2048, 1000),
        (600, 2048, 1024),
        (1e9, 2048, 1024),
    ],
)
def test_tiles_hold_16_cells(diameter, tile, overlap_px):
    got = choose_tile_size((999, 50), "cell_size", diameter=diameter)
    assert got == TileSize(tile, 1.0, overlap_px)


@pytest.mark.parametrize(
    ("diameter", "model_diameter", "scale", "overlap_px"),
    [
        (30, 30, 1.0, 60),
        (60, 30, 0.5, 60),
        (15, 30, 2.0, 60),
        (7, 30, 30 / 7, 60),
        (13, 17, 17 / 13, 34),
        (240, 30, 0.125, 60),
        (480, 30, 0.125, 120),  # larger cells than the network's stay larger
        (3.75, 30, 8.0, 60),
        (1, 30, 8.0, 16),
        (30, 200, 200 / 30, 256),
        (1e9, 30, 0.125, 256),
    ],
)
def test_the_image_is_resized_to_the_networks_cells(diameter, model_diameter, scale, overlap_px):
    got = choose_tile_size((50, 60), "cell_size", diameter=diameter, model_diameter=model_diameter)
    assert got == TileSize(512, scale, overlap_px)
    assert View(scale=got.scale).shape((50, 60)) >= (1, 1)


@given(st.floats(0.01, 1e6), st.none() | st.floats(0.01, 1e6))
def test_any_cell_size_gives_tiles_that_can_be_laid(diameter, model_diameter):
    got = choose_tile_size((1, 1), "cell_size", diameter=diameter, model_diameter=model_diameter)
    assert 256 <= got.tile <= 2048
    assert got.tile % 32 == 0
    assert 1 / 8 <= got.scale <= 8
    assert 1 <= got.overlap_px <= got.tile // 2


@pytest.mark.parametrize(
    ("shape", "rule", "options", "error", "message"),
    [
        ((5,), "train4ever", {}, ValueError, r"shape: expected \(H, W\)"),
        ((3, 4, 5), "train4ever", {}, ValueError, r"shape: expected \(H, W\)"),
        ((0, 5), "cell_size", {}, ValueError, "shape: expected H and W of at least 1 pixel"),
        ((4.5, 5), "train4ever", {}, TypeError, "shape: expected an integer; got 4.5"),
        ((5, 5), "largest", {}, ValueError, "rule: expected one of 'train4ever', 'cell_size'; got"),
        ((5, 5), "cell_size", {}, ValueError, "diameter: expected .* 'cell_size'; got None"),
        (
            (5, 5),
            "cell_size",
            {"diameter": 0},
            ValueError,
            "diameter: expected a finite number > 0",
        ),
        ((5, 5), "cell_size", {"diameter": math.nan}, ValueError, "diameter: expected .* got nan"),
        ((5, 5), "train4ever", {"diameter": -1}, ValueError, "diameter: expected .* got -1.0"),
        ((5, 5), "cell_size", {"diameter": "x"}, TypeError, "diameter: expected a number"),
        (
            (5, 5),
            "cell_size",
            {"diameter": 5, "model_diameter": math.inf},
            ValueError,
            "model_diameter: expected a finite number > 0; got inf",
        ),
    ],
)
def test_arguments_are_checked(shape, rule, options, error, message):
    with pytest.raises(error, match=message):
        choose_tile_size(shape, rule, **options)


def test_arguments_of_the_gate_are_checked():
    with pytest.raises(ValueError, match="n_instances: expected 0 or more; got -1"):
        needs_sliding((5, 5), -1)
    with pytest.raises(TypeError, match="n_instances: expected an integer"):
        needs_sliding((5, 5), 2.5)
    with pytest.raises(ValueError, match="shape: expected"):
        needs_sliding((0, 5))


# ---- diameters ----------------------------------------------------------------------------------


def test_diameters_of_discs_and_balls(device):
    axes = np.meshgrid(*[np.arange(41) - 20.0] * 3, indexing="ij")
    ball = (sum(a**2 for a in axes) < 15.5**2).astype(np.uint16) * 900
    disc = np.ascontiguousarray(ball[20])
    # Pixels are counted: of a disc of radius 15.5 about its area.
    assert mean_diameter(device.put(disc)) == pytest.approx(31, rel=0.01)
    assert mean_diameter(device.put(ball)) == pytest.approx(31, rel=0.01)


def test_the_median_of_the_objects(device):
    labels = np.zeros((60, 60), np.int64)
    labels[:2, :2], labels[10:20, :10], labels[30:50, 30:50] = 2**40, 5, 17
    assert mean_diameter(device.put(labels)) == 2 * math.sqrt(100 / math.pi)
    labels[10:20, :10] = 0
    two = [2 * math.sqrt(n / math.pi) for n in (4, 400)]
    assert mean_diameter(device.put(labels)) == pytest.approx(sum(two) / 2, rel=1e-15)


@pytest.mark.parametrize("shape", [(5, 6), (0, 6), (3, 4, 5), (2, 0, 5)])
def test_nan_without_objects(device, shape):
    assert math.isnan(mean_diameter(device.put(np.zeros(shape, np.int32))))


@pytest.mark.peer
def test_diameters_are_cellposes(peer):
    labels = simulate.blobs((300, 320), 60, seed=3, radius=(2, 14))
    expected, _ = peer.utils.diameters(labels)
    assert mean_diameter(labels) == pytest.approx(float(expected), rel=1e-12)


def test_labels_are_checked():
    with pytest.raises(TypeError, match="labels: expected an integer dtype"):
        mean_diameter(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="labels: expected 2 axes"):
        mean_diameter(np.zeros(3, int))
    with pytest.raises(ValueError, match="labels: expected ids >= 0; got -1"):
        mean_diameter(np.full((3, 3), -1))
