"""Scenes of synthetic cells: any window has the same bytes, and labels are what the rules say."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import cellpost
from cellpost.synthetic import Scene, lazy, scene
from cellpost.synthetic.cells import KINDS, Cell
from cellpost.synthetic.lazy import LazyArray

MODALITIES = ["nuclei", "epithelium", "bacteria", "neurons"]
ARRAYS = ["image", "labels", "encoded"]


def read(of_scene, name, y, x):
    array = getattr(of_scene, name)
    return array[(..., y, x) if name == "encoded" else (y, x)]


# ---- windows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", MODALITIES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_window_is_that_part_of_a_larger_one(modality, data):
    # Sides that chunks of 256 and blocks of cells do not divide; borders are among the windows.
    made = Scene((600, 700), modality, diameter=14, seed=data.draw(st.integers(0, 3)))

    def span(within, least):
        start = data.draw(st.integers(within.start, within.stop - least))
        return slice(start, data.draw(st.integers(start + least, min(within.stop, start + 300))))

    wide = span(slice(0, 600), 20), span(slice(0, 700), 20)
    narrow = tuple(span(part, 1) for part in wide)
    inside = tuple(
        slice(n.start - w.start, n.stop - w.start) for n, w in zip(narrow, wide, strict=True)
    )
    for name in ARRAYS:
        large = read(made, name, *wide)
        part = large[(..., *inside)] if name == "encoded" else large[inside]
        np.testing.assert_array_equal(read(made, name, *narrow), part)


@pytest.mark.parametrize("modality", MODALITIES)
def test_blocks_of_a_large_read_do_not_show(modality, monkeypatch):
    made = Scene((230, 310), modality, diameter=16, seed=4)
    whole = {name: np.asarray(getattr(made, name)) for name in ARRAYS}
    monkeypatch.setattr(lazy, "_BLOCK", 57)
    for name in ARRAYS:
        np.testing.assert_array_equal(np.asarray(getattr(made, name)), whole[name])


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_seed_alone_decides(modality):
    first, same, other = (Scene((120, 130), modality, diameter=16, seed=seed) for seed in (1, 1, 2))
    for name in ARRAYS:
        pixels = np.asarray(getattr(first, name))
        np.testing.assert_array_equal(np.asarray(getattr(same, name)), pixels)
        assert (np.asarray(getattr(other, name)) != pixels).mean() > 0.05


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_slide_needs_the_memory_of_its_window(modality):
    made = Scene((100_000, 100_000), modality, diameter=30, seed=9)
    tracemalloc.start()
    try:
        parts = [read(made, name, np.s_[70_000:70_512], np.s_[99_488:]) for name in ARRAYS]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Neurons reach farthest: about 840 pixels a side are drawn, with some ten planes of 4 bytes.
    assert peak < 64 * 2**20
    image, labels, encoded = parts
    assert (image.shape[:2], labels.shape, encoded.shape) == ((512, 512), (512, 512), (2, 512, 512))
    assert len(np.unique(labels)) > 20
    assert image.std() > 5


def test_ids_are_int64_where_they_need_it():
    assert Scene((10**6, 10**6), diameter=30).labels.dtype == np.int32
    huge = Scene((10**7, 10**7), diameter=30)
    assert huge.labels.dtype == np.int64
    part = huge.labels[-300:, -300:]
    assert part.max() > 2**32
    decoded = huge.encoded[:, -300:, -300:].astype(np.int64)
    np.testing.assert_array_equal(decoded[0] * 2**24 + decoded[1], part)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_scene_without_pixels_is_empty(modality):
    made = Scene((0, 50), modality)
    assert made.labels[...].shape == (0, 50)
    assert np.asarray(made.image).shape[:2] == (0, 50)


# ---- the truth ----------------------------------------------------------------------------------


def patches(made):
    """(id or 0, patch) of every cell that reaches the scene, by id."""
    height, width = made.shape
    places = made._places((0, height), (0, width))
    warp = made._warp((-300, height + 300), (-300, width + 300))
    for k, i in enumerate(places.ids):
        present = bool(places.is_present[k])
        cell = Cell(places.y[k], places.x[k], made.diameter, made._reach, present, places.u[k])
        yield int(i) if present else 0, KINDS[made.modality].draw(cell, warp), cell


@pytest.mark.parametrize("modality", MODALITIES)
def test_labels_are_what_the_written_rule_says(modality):
    """Pixel by pixel: the lowest level, then the lowest id; of each cell the largest piece."""
    made = Scene((110, 140), modality, diameter=20, density=0.6, seed=6)
    levels = np.full((1, *made.shape), np.inf)
    ids = [0]
    for i, patch, _ in patches(made):
        plane = np.full(made.shape, np.inf)
        for (dy, dx), level in np.ndenumerate(patch.level):
            y, x = patch.y + dy, patch.x + dx
            if 0 <= y < made.shape[0] and 0 <= x < made.shape[1]:
                plane[y, x] = level
        if np.isfinite(plane).any():
            levels = np.concatenate([levels, plane[None]])
            ids.append(i)
    expected = np.array(ids)[levels.argmin(axis=0)]  # the first of equal ones
    for i in np.unique(expected[expected > 0]):
        pieces, n = ndimage.label(expected == i, np.ones((3, 3)))
        sizes = np.bincount(pieces.ravel(), minlength=n + 1)[1:]
        expected[(pieces > 0) & (pieces != 1 + sizes.argmax())] = 0
    assert len(np.unique(expected)) > (3 if modality == "neurons" else 15)
    np.testing.assert_array_equal(made.labels[...], expected)


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_cell_goes_farther_than_its_reach(modality):
    made = Scene((400, 400), modality, diameter=20, seed=2)
    assert made._reach == KINDS[modality].reach * 20
    n = 0
    for _, patch, cell in patches(made):
        dy, dx = np.nonzero(np.isfinite(patch.level))
        far = np.maximum(abs(patch.y + dy - cell.y), abs(patch.x + dx - cell.x)).max()
        assert far <= made._reach + scene._PATCH_MARGIN
        n += 1
    assert n > 20


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_id_is_one_object(modality):
    made = Scene((500, 450), modality, diameter=20, density=0.6, seed=8)
    labels = made.labels[...]
    ids = np.unique(labels[labels > 0])
    assert len(ids) > 50
    for i in ids:
        assert ndimage.label(labels == i, np.ones((3, 3)))[1] == 1


@pytest.mark.parametrize("density", ["low", None, "high"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_density_and_diameter_are_obeyed(modality, density):
    low, high = (0.05, 0.25) if modality == "neurons" else (0.2, 0.6)
    density = {"low": low, "high": high, None: None}[density]
    made = Scene((1000, 1000), modality, diameter=25, density=density, seed=12)
    labels = cellpost.relabel(made.labels[...])
    cells = cellpost.properties(labels)
    is_cut = (cells["bbox"][:, :2] == 0).any(axis=1) | (cells["bbox"][:, 2:] == 1000).any(axis=1)
    # Of the cells that the border cuts about half have their centre in the image.
    n = len(is_cut) - is_cut.sum() / 2
    expected = made.density * 1000**2 / (math.pi / 4 * 25**2)
    assert abs(n / expected - 1) <= 0.1
    diameters = 2 * np.sqrt(cells["area"][~is_cut] / math.pi)
    assert abs(diameters.mean() / 25 - 1) <= 0.15


def test_nuclei_touch_and_overlap():
    made = Scene((400, 400), "nuclei", diameter=20, seed=3)
    covered = np.zeros(made.shape, int)
    for _, patch, _ in patches(made):
        for dy, dx in np.argwhere(np.isfinite(patch.level)):
            y, x = patch.y + dy, patch.x + dx
            if 0 <= y < 400 and 0 <= x < 400:
                covered[y, x] += 1
    share = (covered > 1).sum() / (covered > 0).sum()
    assert 0.01 < share < 0.2


def test_epithelium_touches_everywhere_and_gaps_are_background():
    assert (Scene((300, 300), "epithelium", diameter=20).labels[...] > 0).mean() > 0.999
    labels = Scene((600, 600), "epithelium", diameter=20, density=0.7, seed=1).labels[...]
    assert 0.6 < (labels > 0).mean() < 0.8


def test_bacteria_are_long_and_neurons_have_arms():
    def extents(modality):
        labels = cellpost.relabel(Scene((600, 600), modality, diameter=30, seed=1).labels[...])
        cells = cellpost.properties(labels)
        height, width = (cells["bbox"][:, 2 + k] - cells["bbox"][:, k] for k in (0, 1))
        return np.median(np.hypot(height, width) / np.sqrt(cells["area"]))

    nuclei, bacteria, neurons = (extents(m) for m in ("nuclei", "bacteria", "neurons"))
    assert nuclei < 1.7 < bacteria < neurons  # a disc has 1.6


# ---- the image ----------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", MODALITIES)
def test_cells_stand_out(modality):
    made = Scene((300, 300), modality, diameter=24, density=0.4, seed=5)
    image, is_cell = made.image[...].astype(float), made.labels[...] > 0
    if modality == "epithelium":
        assert image.shape == (300, 300, 3)
        image = image.mean(axis=-1)
    difference = image[is_cell].mean() - image[~is_cell].mean()
    bright = modality in ("nuclei", "neurons")
    assert (difference if bright else -difference) > 25


def test_noise_has_the_stated_deviation():
    clean, noisy = (Scene((200, 200), "bacteria", noise=noise, seed=1) for noise in (0.0, 0.1))
    plane, difference = (
        clean.image[...].astype(float),
        noisy.image[...].astype(float) - clean.image[...],
    )
    inner = (plane > 60) & (plane < 190)  # nothing is clipped there
    expected = 0.1 * 255 * np.sqrt(0.04 + 0.96 * plane[inner] / 255)
    z = difference[inner] / expected
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02


def test_blur_is_a_gaussian_and_illumination_dims():
    def plane(**options):
        made = Scene((256, 256), "nuclei", noise=0, seed=2, **options)
        return made.image[...].astype(float)

    sharp, soft = plane(blur=0, illumination=0), plane(blur=2, illumination=0)
    blurred = ndimage.gaussian_filter(sharp, 2)
    inside = np.s_[12:-12, 12:-12]
    # Bright overlaps are clipped after the blur in one and before it in the other.
    assert abs(soft - blurred)[inside].mean() < 1
    ratio = (plane(blur=2, illumination=1)[inside] + 1) / (soft[inside] + 1)
    assert ratio.max() <= 1.02
    assert ratio.min() < 0.8


# ---- arrays -------------------------------------------------------------------------------------


def keys(n):
    ends = st.one_of(st.none(), st.integers(-n - 2, n + 2))
    steps = st.sampled_from([None, 1, 2, -1, -3])
    return st.one_of(st.integers(-n, n - 1), st.builds(slice, ends, ends, steps))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_lazy_arrays_are_indexed_as_numpy_arrays_are(data):
    image = np.arange(7 * 9 * 3).reshape(7, 9, 3)
    axes = data.draw(st.sampled_from([(0, 1), (1, 2)]))
    whole = image if axes == (0, 1) else np.moveaxis(image, -1, 0)

    def render(y, x):
        part = image[slice(*y), slice(*x)]
        return part if axes == (0, 1) else np.moveaxis(part, -1, 0)

    array = LazyArray(whole.shape, whole.dtype, render, axes)
    key = tuple(data.draw(keys(n)) for n in whole.shape)
    key = key[: data.draw(st.integers(0, 3))]
    if len(key) < 3 and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(key)))
        # What follows the dots belongs to the last axes.
        after = tuple(data.draw(keys(n)) for n in whole.shape[3 - (len(key) - at) :])
        key = (*key[:at], ..., *after[: len(key) - at])
    np.testing.assert_array_equal(array[key], whole[key])


def test_lazy_arrays_refuse_other_keys():
    array = Scene((20, 30)).labels
    for key, message in (
        ((0, 0, 0), "at most 2 indices"),
        ((..., ...), "at most 2 indices"),
        (20, "of length 20; got 20"),
        ((0, -31), "of length 30; got -31"),
        (0.5, "expected integers, slices"),
        ([1, 2], "expected integers, slices"),
        (None, "expected integers, slices"),
    ):
        with pytest.raises(IndexError, match=message):
            array[key]
    with pytest.raises(ValueError, match="copy: expected None or True"):
        np.array(array, copy=False)


def test_lazy_arrays_tell_their_size():
    image = Scene((100_000, 200_000), "epithelium").image
    assert (image.ndim, image.size, len(image)) == (3, 6 * 10**10, 100_000)
    assert repr(image) == "LazyArray(shape=(100000, 200000, 3), dtype=uint8)"
    assert np.asarray(Scene((5, 6)).labels, np.float64).dtype == np.float64


def test_tiles_of_a_scene():
    made = Scene((150, 190), "nuclei", diameter=16, seed=1)
    grid = cellpost.TileGrid((150, 190), tile=64, overlap=0.5)
    for padding in ("constant", "reflect"):
        for lazily, whole in ((made.labels, made.labels[...]), (made.encoded, made.encoded[...])):
            tiles = grid.extract(lazily, padding=padding)
            np.testing.assert_array_equal(tiles, grid.extract(whole, padding=padding))


def test_dask_reads_a_scene():
    dask_array = pytest.importorskip("dask.array", reason="dask is not installed")
    labels = Scene((150, 190), diameter=16).labels
    chunked = dask_array.from_array(labels, chunks=(64, 50))
    np.testing.assert_array_equal(chunked.compute(), labels[...])


# ---- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shape": 5}, ValueError, r"shape: expected \(height, width\); got 5"),
        ({"shape": (5, 6, 7)}, ValueError, "shape: expected"),
        ({"shape": (5, -1)}, ValueError, "shape: expected lengths >= 0"),
        ({"shape": (5.5, 6)}, TypeError, "shape: expected an integer"),
        ({"shape": (10**9, 10**9)}, ValueError, "fewer than"),
        ({"modality": "cells"}, ValueError, "modality: expected one of 'nuclei'.*got 'cells'"),
        ({"density": 0}, ValueError, r"density: expected a number in \(0, 1\]; got 0"),
        ({"density": 1.5}, ValueError, "density: expected"),
        ({"density": math.nan}, ValueError, "density: expected"),
        ({"density": "much"}, TypeError, "density: expected a number"),
        ({"diameter": 7.9}, ValueError, "diameter: expected a number finite and >= 8"),
        ({"diameter": math.inf}, ValueError, "diameter: expected"),
        ({"seed": -1}, ValueError, "seed: expected an integer >= 0"),
        ({"seed": 1.5}, TypeError, "seed: expected an integer"),
        ({"noise": -0.1}, ValueError, "noise: expected"),
        ({"blur": math.nan}, ValueError, "blur: expected"),
        ({"illumination": 1.1}, ValueError, "illumination: expected"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Scene(**{"shape": (50, 60), **arguments})
