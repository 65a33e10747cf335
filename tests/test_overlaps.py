"""overlap_counts: pixels that the objects of two label images share."""

from __future__ import annotations

import numpy as np
import pytest

import cellpost
from cellpost import overlap_counts

DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def oracle(a, b):
    """Pairs of all pixels, counted one by one."""
    pairs = np.stack([a.ravel(), b.ravel()]).astype(np.int64)
    found, count = np.unique(pairs[:, pairs.any(0)], axis=1, return_counts=True)
    return [*found, count]


def assert_counts(found, a, b):
    for got, expected in zip((found.a, found.b, found.count), oracle(a, b), strict=True):
        assert got.dtype == np.int64
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("seed", range(60))
def test_counts_are_those_of_the_pixels(seed, device):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 90, rng.integers(2, 4)))
    most = int(rng.choice([1, 3, 120]))
    a, b = (rng.integers(0, most + 1, shape).astype(rng.choice(DTYPES)) for _ in range(2))
    if seed % 3 == 0:  # runs, as in label images
        a, b = (np.repeat(x, 9, axis=-1) for x in (a, b))
    assert_counts(overlap_counts(device.put(a), device.put(b)), a, b)


def test_ids_of_any_size():
    a = np.array([[0, 5, 5, 10**12], [2**31, 2**31, 0, 1]])
    b = np.array([[7, 7, 70_000, 0], [2**33, 0, 0, 2**33]], np.uint64)
    assert_counts(overlap_counts(a, b), a, b)


def test_every_pixel_of_an_object_is_counted(nuclei2d):
    found = overlap_counts(nuclei2d, np.roll(nuclei2d, 3, 1))
    sizes = np.bincount(found.a, found.count)
    np.testing.assert_array_equal(sizes[1:], np.bincount(nuclei2d.ravel())[1:])


def test_threads_and_levels_give_the_same(nuclei2d, restore_settings):
    from cellpost import _core

    a, b = np.tile(nuclei2d, (3, 3)), np.roll(np.tile(nuclei2d, (3, 3)), 5, 0)
    for level in cellpost.info()["cpu_levels"]:
        for n in (1, 2, 7):
            _core.set_cpu_level(level)
            cellpost.set_num_threads(n)
            assert_counts(overlap_counts(a, b), a, b)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (2, 0, 3), (1, 1), (1, 130), (130, 1)])
def test_small_and_empty_images(shape):
    zeros, ones = np.zeros(shape, np.int32), np.ones(shape, np.int32)
    assert len(overlap_counts(zeros, zeros).a) == 0
    assert overlap_counts(ones, zeros).count.tolist() == ([ones.size] if ones.size else [])


def test_all_kinds_of_arrays(kind):
    a, b = np.arange(12, dtype=np.int32).reshape(3, 4), np.ones((3, 4), np.int32)
    assert_counts(overlap_counts(kind.put(a), kind.put(b)), a, b)


@pytest.mark.parametrize(
    ("error", "message", "a", "b"),
    [
        (TypeError, "a: expected an integer", np.zeros((2, 2)), np.zeros((2, 2), int)),
        (TypeError, "b: expected an integer", np.zeros((2, 2), int), np.zeros((2, 2), bool)),
        (TypeError, "b: expected an array", np.zeros((2, 2), int), [[0, 0]]),
        (
            ValueError,
            r"b: expected the shape of a, \(2, 2\); got \(2, 3\)",
            np.zeros((2, 2), int),
            np.zeros((2, 3), int),
        ),
        (ValueError, "a: expected ids >= 0", np.full((2, 2), -1), np.zeros((2, 2), int)),
        (ValueError, "a: expected 2 axes", np.zeros(4, int), np.zeros(4, int)),
    ],
)
def test_bad_input_is_named(error, message, a, b):
    with pytest.raises(error, match=message):
        overlap_counts(a, b)


@pytest.mark.slow
def test_a_million_cells_take_little_memory():
    import tracemalloc

    n = 1000  # cells a side, of 4 x 4 pixels
    cells = np.arange(1, n * n + 1, dtype=np.int32).reshape(n, n).repeat(4, 0).repeat(4, 1)
    other = np.roll(cells, 1, 0)
    tracemalloc.start()
    found = overlap_counts(cells, other)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert len(found.a) == 2 * n * n
    assert found.count.sum() == cells.size
