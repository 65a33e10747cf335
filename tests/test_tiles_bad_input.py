"""What stitch and Stitcher do not take, and that what they refuse leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
from test_tiles import F, assert_same, expected_of, some

from cellpost import Stitcher, TileGrid, stitch

GRID = TileGrid((20, 31), tile=(7, 12), overlap=0.5)


@pytest.mark.parametrize(
    ("change", "named", "error"),
    [
        ({"window": np.zeros((7, 12))}, "window:", ValueError),
        ({"window": np.full((7, 12), np.nan)}, "window:", ValueError),
        ({"window": np.full((7, 12), np.inf)}, "window:", ValueError),
        ({"window": np.full((7, 12), -1.0)}, "window:", ValueError),
        ({"window": np.full((7, 12), 1e-60)}, "window:", ValueError),  # 0 in float32
        ({"window": np.full((7, 12), 1e60)}, "window:", ValueError),
        ({"window": np.ones((12, 7))}, "window:", ValueError),
        ({"window": np.ones((1, 7, 12))}, "window:", ValueError),
        ({"window": np.ones((7, 12), complex)}, "window:", TypeError),
        ({"window": "hann"}, "window:", ValueError),
        ({"window": "Gaussian"}, "window:", ValueError),
        ({"window": None}, "window:", TypeError),
        ({"window": object()}, "window:", TypeError),
        ({"sigma": 0}, "sigma:", ValueError),
        ({"sigma": -1}, "sigma:", ValueError),
        ({"sigma": np.nan}, "sigma:", ValueError),
        ({"sigma": np.inf}, "sigma:", ValueError),
        ({"sigma": "wide"}, "sigma:", TypeError),
        ({"sigma": None}, "sigma:", TypeError),
        ({"dtype": "int32"}, "dtype:", TypeError),
        ({"dtype": "bfloat16"}, "dtype:", TypeError),  # NumPy has none
        ({"dtype": "single-ish"}, "dtype:", TypeError),
        ({"dtype": np.complex64}, "dtype:", TypeError),
        ({"grid": 3}, "grid:", TypeError),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("error")
def test_bad_options_are_named(change, named, error):
    tiles = some(GRID, 2)
    with pytest.raises(error, match=f"^{named}"):
        stitch(tiles, **{"grid": GRID} | change)
    options = {"grid": GRID, "channels": 2} | change
    with pytest.raises(error, match=f"^{named}"):
        Stitcher(**options).add(0, tiles[0])


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64", "longdouble"])
def test_tiles_of_other_dtypes_are_rejected(dtype):
    tiles = np.ones((len(GRID), 2, 7, 12), dtype)
    with pytest.raises(TypeError, match=r"^tiles: expected one of float16"):
        stitch(tiles, grid=GRID)
    stitcher = Stitcher(GRID, 2)
    with pytest.raises(TypeError, match=r"^tile: expected one of float16"):
        stitcher.add(0, tiles[0])
    stitcher.add(0, np.ones((2, 7, 12), F))
    assert stitcher.n_missing == len(GRID) - 1


@pytest.mark.parametrize(
    "shape",
    [(19, 2, 7, 12), (20, 2, 7, 12), (5, 5, 2, 7, 12), (4, 5, 2, 12, 7), (7, 12), (2, 7, 12), ()],
    ids=str,
)
def test_tiles_that_are_not_the_grids_are_rejected(shape):
    assert GRID.counts == (6, 5)
    with pytest.raises(ValueError, match=r"^tiles:"):
        stitch(np.zeros(shape, F), grid=GRID)


def test_tiles_that_fit_no_shape_are_rejected():
    for shape in ((4, 2, 7, 12), (7, 12), (3, 4, 2, 7, 12, 2), ()):
        with pytest.raises(ValueError, match=r"^tiles:"):
            stitch(np.zeros(shape, F))
    with pytest.raises(ValueError, match=r"^tiles:"):
        stitch(np.zeros((7, 12), F), shape=(20, 31))
    with pytest.raises(ValueError, match=r"^shape:"):
        stitch(some(GRID), grid=GRID, shape=(31, 20))
    for bad in (5, (5,), "ab", (2.5, 3)):
        with pytest.raises(ValueError, match=r"^shape:"):
            stitch(some(GRID), shape=bad)
    for bad in (1, 1.0, -0.5, np.nan):
        with pytest.raises(ValueError, match=r"^overlap:"):
            stitch(some(GRID), bad, shape=(20, 31))
    for bad in ([1.0], 3, None):
        with pytest.raises(TypeError, match=r"^tiles:"):
            stitch(bad, grid=GRID)


@pytest.mark.parametrize(
    ("channels", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), ("2", TypeError)]
)
def test_a_bad_number_of_channels_is_named(channels, error):
    with pytest.raises(error, match=r"^channels:"):
        Stitcher(GRID, channels)


def test_maps_that_cannot_be_written_to_are_rejected():
    locked = np.zeros((2, 20, 31), F)
    locked.flags.writeable = False
    one = np.lib.stride_tricks.as_strided(np.zeros((2, 31), F), (2, 20, 31), (124, 0, 4))
    for out in (locked, one, np.zeros((2, 20, 30), F), np.zeros((1, 2, 20, 31), F)):
        with pytest.raises(ValueError, match=r"^out:"):
            Stitcher(GRID, 2, out=out)
    assert not locked.any()
    for out in (np.zeros((2, 20, 31), int), [[1]], np.ma.zeros((2, 20, 31)), "map"):
        with pytest.raises(TypeError, match=r"^out:"):
            Stitcher(GRID, 2, out=out)
    with pytest.raises(ValueError, match=r"^dtype: expected that of out"):
        Stitcher(GRID, 2, out=np.zeros((2, 20, 31), F), dtype="float64")
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"^out:"):
        Stitcher(GRID, 2, out=torch.zeros(2, 1, 31).expand(2, 20, 31))


def test_missing_tiles_are_named():
    stitcher, tiles = Stitcher(GRID, 2), some(GRID, 2)
    with pytest.raises(ValueError, match=r"30 of them: 0, 1, 2, 3, 4, 5, 6, 7, \.\.\.$"):
        stitcher.result()
    some_of_them = [i for i in range(30) if i not in (3, 17)]
    stitcher.add(some_of_them, tiles[some_of_them])
    with pytest.raises(ValueError, match=r"all 30 tiles; got none for 2 of them: 3, 17$"):
        stitcher.result()
    stitcher.add([17, 3], tiles[[17, 3]])
    assert_same(stitcher.result(), expected_of(tiles, GRID))


class Nothing:
    """Neither an array nor a number."""


@pytest.mark.parametrize("when", ["first", "later"])
def test_a_call_that_fails_takes_nothing(when):
    torch = pytest.importorskip("torch")
    tiles = some(GRID, 2)
    stitcher = Stitcher(GRID, 2)
    calls = [
        (1, tiles[1][:, :-1], ValueError, "tile: expected shape"),
        (1, tiles[1:2], ValueError, "tile: expected shape"),
        ([1], tiles[1], ValueError, "tile: expected shape"),
        ([1, 2], tiles[1:4], ValueError, "tile: expected shape"),
        (1, tiles[1].astype(int), (TypeError, ValueError), "tile:"),
        (1, [1.0], TypeError, "tile:"),
        (1, Nothing(), TypeError, "tile:"),
        ([1, 30], tiles[1:3], IndexError, "index: .* 0 to 29; got 30"),
        ([1, -1], tiles[1:3], IndexError, "index: .* 0 to 29; got -1"),
        ([1, 2.0], tiles[1:3], TypeError, "index:"),
        ("1", tiles[1], TypeError, "index:"),
        (None, tiles[1], TypeError, "index:"),
        ([1, 2, 1], tiles[[1, 2, 1]], ValueError, r"index: .* tile 1, at \(0, 1\), twice"),
    ]
    if when == "later":
        stitcher.add(0, tiles[0])
        calls += [
            ([1, 2, 0], tiles[[1, 2, 0]], ValueError, r"index: .* tile 0, at \(0, 0\), twice"),
            (0, tiles[0], ValueError, "index: .* twice"),
            (1, tiles[1].astype("f8"), ValueError, "tile: expected float32"),
            (1, torch.from_numpy(tiles[1]), ValueError, "tile: .* numpy on cpu.* torch on cpu"),
        ]
    for index, tile, error, named in calls:
        with pytest.raises(error, match=f"^{named}"):
            stitcher.add(index, tile)
    assert stitcher.n_missing == len(GRID) - (when == "later")
    rest = np.arange(when == "later", len(GRID))
    stitcher.add([], tiles[:0])
    stitcher.add(rest[::-1], tiles[rest[::-1]])
    assert_same(stitcher.result(), expected_of(tiles, GRID))
