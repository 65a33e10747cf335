"""Where tiles lie, whose pixels are whose, what is cut out: against MONAI and numpy.pad."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cellpost
from cellpost import TileGrid

PADDINGS = ("constant", "edge", "reflect", "wrap")


@st.composite
def grids(draw, n_axes=(2, 3), largest=40):
    """Any grid: layouts, paddings of the image, tiles larger than it, explicit starts."""
    n = draw(st.sampled_from(n_axes))
    largest = largest if n == 2 else largest // 3
    sides = st.integers(1, largest)
    shape = tuple(draw(sides) for _ in range(n))
    tile = tuple(draw(sides) for _ in range(n))
    layout = draw(st.sampled_from(["sliding", "fixed", "nonoverlap", "halo", "at"]))
    if layout == "halo":
        halo = tuple(draw(st.integers(0, (side - 1) // 2)) for side in tile)
        return TileGrid(shape, tile=tile, halo_px=halo, layout=layout)
    if layout == "nonoverlap":
        return TileGrid(shape, tile=tile, layout=layout)
    if layout == "at":
        starts = []
        for size, side in zip(shape, tile, strict=True):
            line = [draw(st.integers(-side + 1, 0))]
            while line[-1] + side < size or (line[-1] + 1 < size and draw(st.booleans())):
                step = draw(st.integers(1, side))
                line.append(min(line[-1] + step, size - 1))
            starts.append(line)
        return TileGrid.at(shape, tile, starts)
    strides = tuple(draw(st.integers(1, side)) for side in tile)
    return TileGrid(shape, tile=tile, stride=strides, layout=layout)


def inside(grid, i):
    """The image's pixels under tile i, from its start."""
    ends = zip(grid.start(i), grid.tile, grid.shape, strict=True)
    return tuple(slice(max(s, 0), min(s + side, size)) for s, side, size in ends)


# ---- where tiles lie ----------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("n", [2, 3])
def test_slices_are_monais(n):
    utils = pytest.importorskip("monai.data.utils")
    interval = pytest.importorskip("monai.inferers.utils")._get_scan_interval
    rng = np.random.default_rng(n)
    for _ in range(300):
        tile = tuple(rng.integers(1, 60, n).tolist())
        shape = tuple((t + int(rng.integers(0, 150 if n == 2 else 40))) for t in tile)
        overlap = tuple(rng.choice([0, 0.1, 0.25, 0.5, 0.6, 0.75, 0.9, 0.99], n).tolist())
        steps = interval(shape, tile, n, overlap)
        expected = utils.dense_patch_slices(shape, tile, steps, return_slice=True)
        grid = TileGrid(shape, tile=tile, overlap=overlap)
        assert list(grid) == [tuple(s) for s in expected]
        axes = zip(grid.stride, steps, shape, tile, strict=True)
        assert all(ours == step or size == side for ours, step, size, side in axes)


def test_the_overlap_is_60_percent_unless_told():
    assert TileGrid((900, 900)).stride == (204, 204)
    assert TileGrid((900, 900)) == TileGrid((900, 900), overlap=0.6)
    assert TileGrid((9, 9), tile=4, overlap=0.99).stride == (1, 1)  # never 0
    assert TileGrid((9, 9), tile=(4, 6), overlap_px=(1, 5)).stride == (3, 1)
    assert TileGrid((9, 9, 9), tile=4, stride=(1, 2, 4)).stride == (1, 2, 4)
    assert TileGrid((9, 9), tile=4, overlap=np.float32(0.5)).stride == (2, 2)
    assert TileGrid((9, 9), tile=np.array([4, 4]), overlap=np.array([0, 0.5])).stride == (4, 2)


def test_layouts():
    def lines(shape, **options):
        return [s.tolist() for s in TileGrid(shape, **options).starts]

    assert lines((10, 10), tile=4, stride=4) == [[0, 4, 6]] * 2
    assert lines((10, 12), tile=4, stride=4, layout="fixed") == [[0, 4, 8]] * 2
    assert lines((10, 12), tile=4, layout="nonoverlap") == [[0, 4, 8]] * 2
    assert lines((10, 13), tile=4, stride=3, layout="fixed") == [[0, 3, 6], [0, 3, 6, 9]]
    assert lines((10, 5), tile=6, halo_px=(2, 0), layout="halo") == [[0, 2, 4], [0]]
    assert lines((3, 4), tile=8) == [[-2], [-2]]
    assert lines((3, 4), tile=8, layout="fixed", stride=2) == [[0], [0]]
    assert lines((1, 1), tile=1) == [[0], [0]]


def test_the_grid_of_4_by_4_fixed_tiles_of_a_livecell_image():
    grid = TileGrid((520, 704), tile=(301, 302), stride=(73, 134), layout="fixed")
    assert grid.counts == (4, 4)
    assert len(grid) == 16
    assert [s.tolist() for s in grid.starts] == [[0, 73, 146, 219], [0, 134, 268, 402]]
    assert grid[15] == (slice(219, 520), slice(402, 704))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (0, 4, 4), (4, 4, 0)], ids=str)
@pytest.mark.parametrize("layout", ["sliding", "fixed", "nonoverlap", "halo"])
def test_an_image_without_pixels_has_no_tiles(shape, layout):
    options = {"halo_px": 1} if layout == "halo" else {}
    grid = TileGrid(shape, tile=3, layout=layout, **options)
    assert len(grid) == 0
    assert list(grid) == []
    assert list(grid.batches(np.zeros(shape), 2)) == []
    assert grid.extract(np.zeros((2, *shape))).shape == (0, 2, *grid.tile)
    assert grid.touching([slice(None)] * len(shape)).tolist() == []
    with pytest.raises(IndexError, match="i:"):
        grid[0]


@settings(max_examples=150, deadline=None)
@given(grids())
def test_tiles_cover_the_image_and_cores_are_its_partition(grid):
    count, owner = np.zeros(grid.shape, int), np.full(grid.shape, -1)
    for i, tile in enumerate(grid):
        assert tile == grid[i] == inside(grid, i)
        assert grid.place(i) == np.unravel_index(i, grid.counts)
        assert np.size(count[tile]) > 0  # each meets the image
        count[tile] += 1
        core = grid.core(i)
        for part, whole in zip(core, tile, strict=True):
            assert part.start == part.stop or whole.start <= part.start <= part.stop <= whole.stop
            assert part.start >= 0  # not what NumPy counts from the end
        assert (owner[core] == -1).all()
        owner[core] = i
    assert count.min() >= 1
    assert owner.min() >= 0
    assert i + 1 == len(grid)
    assert grid[-1] == grid[i]
    assert grid.layout in ("sliding", "fixed", "nonoverlap", "halo")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_cores_have_their_halo_inside_the_tile(data):
    n = data.draw(st.sampled_from([2, 3]))
    shape = tuple(data.draw(st.integers(1, 60)) for _ in range(n))
    tile = tuple(data.draw(st.integers(1, 20)) for _ in range(n))
    halo = tuple(data.draw(st.integers(0, (side - 1) // 2)) for side in tile)
    grid = TileGrid(shape, tile=tile, halo_px=halo, layout="halo")
    assert grid.stride == tuple(t - 2 * h for t, h in zip(tile, halo, strict=True))
    for i in range(len(grid)):
        axes = zip(grid.core(i), grid.start(i), tile, shape, halo, strict=True)
        for core, start, side, size, margin in axes:
            assert core.start == 0 or core.start - start >= margin
            assert core.stop == size or start + side - core.stop >= margin


def test_cores_do_not_begin_before_the_image():
    grid = TileGrid.at((10, 4), 6, [[-5, -4, 0, 4], [0]])
    assert [grid.core(i)[0] for i in range(4)] == [
        slice(0, 0),
        slice(0, 1),
        slice(1, 5),
        slice(5, 10),
    ]


@settings(max_examples=100, deadline=None)
@given(grids(), st.data())
def test_touching_finds_the_tiles_that_share_a_pixel(grid, data):
    bounds = [st.none() | st.integers(-size - 3, size + 3) for size in grid.shape]
    region = [slice(data.draw(b), data.draw(b)) for b in bounds]
    marked = np.zeros(grid.shape, bool)
    marked[tuple(region)] = True
    found = grid.touching(region)
    assert found.dtype == np.int64
    assert found.tolist() == [i for i in range(len(grid)) if marked[grid[i]].any()]


# ---- cutting out --------------------------------------------------------------------------------


def padded(image, grid, padding, value=0.0):
    """All tiles by numpy.pad of the whole image."""
    n = grid.ndim
    before = [max(-int(s.min()), 0) for s in grid.starts]
    ends = zip(grid.starts, grid.tile, grid.shape, strict=True)
    behind = [max(int(s.max()) + side - size, 0) for s, side, size in ends]
    widths = [(0, 0)] * (image.ndim - n) + list(zip(before, behind, strict=True))
    options = {"constant_values": value} if padding == "constant" else {}
    whole = np.pad(image, widths, mode=padding, **options)
    tiles = []
    for i in range(len(grid)):
        corner = [s + b for s, b in zip(grid.start(i), before, strict=True)]
        at = tuple(slice(c, c + side) for c, side in zip(corner, grid.tile, strict=True))
        tiles.append(whole[(..., *at)])
    return np.stack(tiles)


class Lazy:
    """What of a file NumPy can read slices of: shape, dtype, and brackets that count."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.largest = self.n_read = 0

    def __getitem__(self, key):
        part = self._array[key]
        assert all(k is Ellipsis or isinstance(k, slice) for k in key)
        self.n_read += part.size
        self.largest = max(self.largest, part.size)
        return part.tolist() if part.ndim == 0 else part


@settings(max_examples=100, deadline=None)
@given(grids(largest=24), st.sampled_from(PADDINGS), st.integers(0, 2**32), st.booleans())
def test_tiles_are_those_of_the_padded_image(grid, padding, seed, is_lazy):
    rng = np.random.default_rng(seed)
    lead = ((), (2,), (2, 3))[seed % 3]
    image = rng.integers(0, 255, (*lead, *grid.shape)).astype(("u1", "f4", "f8", "i2")[seed % 4])
    before = image.tobytes()
    expected = padded(image, grid, padding, 7)
    given_ = Lazy(image) if is_lazy else image
    found = grid.extract(given_, padding=padding, value=7)
    assert found.dtype == image.dtype
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    some = rng.permutation(len(grid))[: len(grid) // 2]
    np.testing.assert_array_equal(
        grid.extract(image, some, padding=padding, value=7), expected[some]
    )
    size = int(rng.integers(1, len(grid) + 2))
    batches = list(grid.batches(given_, size, padding=padding, value=7))
    assert [len(tiles) for _, tiles in batches[:-1]] == [size] * (len(batches) - 1)
    np.testing.assert_array_equal(np.concatenate([k for k, _ in batches]), np.arange(len(grid)))
    for indices, tiles in batches:
        np.testing.assert_array_equal(tiles, expected[indices])
        tiles[...] = 1  # the caller's own
    assert image.tobytes() == before


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 3), (1, 1, 1), (2, 1, 3)], ids=str)
def test_tiles_much_larger_than_the_image(shape, padding):
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1
    for layout in ("sliding", "fixed"):
        grid = TileGrid(shape, tile=23, layout=layout)
        assert len(grid) == 1
        found = grid.extract(image, padding=padding, value=np.nan)
        np.testing.assert_array_equal(found, padded(image, grid, padding, np.nan))


def test_only_the_pixels_of_the_tile_are_read():
    image = Lazy(np.random.default_rng(0).random((2, 200, 300), dtype=np.float32))
    grid = TileGrid((200, 300), tile=(20, 30), overlap=0.5)
    grid.extract(image, [5])
    assert image.n_read == 2 * 20 * 30
    for _ in grid.batches(image, 3):
        pass
    assert image.largest == 2 * 20 * 30
    for padding in PADDINGS:
        image.largest = 0
        TileGrid.at((200, 300), 30, [[-5, *range(25, 200, 30)], range(0, 300, 30)]).extract(
            image, [0, 1], padding=padding
        )
        assert image.largest <= 2 * (200 if padding == "wrap" else 30) * 30


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint8", "bool"])
def test_tensors(dtype, padding, device):
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(0).integers(0, 2, (3, 13, 17)).astype(np.float32)
    where = "cpu" if device.name == "numpy" else "cuda"
    image = torch.from_numpy(array).to(where).to(getattr(torch, dtype))
    for options in ({"tile": 8}, {"tile": 30}, {"tile": 6, "stride": 5, "layout": "fixed"}):
        grid = TileGrid((13, 17), **options)
        for view, plain in ((image, array), (image.mT.contiguous().mT, array)):
            found = grid.extract(view, padding=padding, value=1)
            assert found.dtype == image.dtype
            assert found.device == image.device
            expected = padded(plain, grid, padding, 1)
            np.testing.assert_array_equal(found.float().cpu().numpy(), expected)
        found[...] = 0
    np.testing.assert_array_equal(image.float().cpu().numpy(), array)


def test_the_tile_of_a_whole_image_is_a_copy():
    image = np.zeros((4, 4), np.float32)
    for _, tiles in TileGrid((4, 4), tile=4).batches(image, 1):
        tiles += 1
    assert not image.any()


def test_a_million_tiles_cost_what_the_sides_do():
    tracemalloc.start()
    grid = TileGrid((100_064, 100_064), tile=100, stride=100)
    assert len(grid) == 1001**2
    assert grid[len(grid) - 1] == (slice(99_964, 100_064),) * 2
    assert len(grid.touching((slice(500, 900), slice(0, 100)))) == 4
    image = Lazy(np.broadcast_to(np.uint8(3), grid.shape))
    indices, tiles = next(iter(grid.batches(image, 5)))
    assert len(indices) == len(tiles) == 5
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


# ---- bad input ----------------------------------------------------------------------------------

BAD = [
    *(({"overlap": v}, "overlap:", ValueError) for v in (1, 1.0, 1.5, -0.1, 64, True, [0.5, 1.0])),
    *(({"overlap": v}, "overlap:", ValueError) for v in (np.nan, np.inf, -np.inf, [0.5], "half")),
    *(({"overlap": v}, "overlap:", TypeError) for v in ({}, 1j, [None, 0.5], ["a", 0.5])),
    *(({"overlap": v}, "overlap:", ValueError) for v in ([0.1] * 3, [], np.bool_(False))),
    *(({"overlap_px": v}, "overlap_px:", ValueError) for v in (8, -1, [1, 8], [1], [[1, 2]] * 3)),
    *(({"overlap_px": v}, "overlap_px:", TypeError) for v in (0.5, 2.0, True, [1, None])),
    *(({"stride": v}, "stride:", ValueError) for v in (0, 9, -1, [8, 9], [1, 1, 1], "88")),
    *(({"stride": v}, "stride:", TypeError) for v in (1.0, False, np.float64(2), [[1], [2]])),
    *(({"tile": v}, "tile:", ValueError) for v in (0, -3, 2**31, [8], [8, 8, 8], [8, 0], "8")),
    *(({"tile": v}, "tile:", TypeError) for v in (8.0, None, True, [8, 8.5], np.bool_(True))),
    *(({"layout": v}, "layout:", ValueError) for v in ("slide", None, "", 3, "Sliding")),
    ({"layout": "halo"}, "layout:", ValueError),
    *(({"layout": "halo", "halo_px": v}, "halo_px:", ValueError) for v in (4, -1, [1], [0, 4])),
    *(({"layout": "halo", "halo_px": v}, "halo_px:", TypeError) for v in (1.0, True)),
    ({"halo_px": 1}, "overlap:", ValueError),
    ({"layout": "fixed", "halo_px": 1}, "overlap:", ValueError),
    *(
        (dict.fromkeys(pair, 1) | {"layout": layout}, "(overlap|layout):", ValueError)
        for pair in itertools.combinations(("overlap", "overlap_px", "stride", "halo_px"), 2)
        for layout in ("sliding", "fixed", "nonoverlap", "halo")
    ),
    *(({"layout": "nonoverlap", name: 1}, "layout:", ValueError) for name in ("overlap", "stride")),
]


@pytest.mark.parametrize(("options", "named", "error"), BAD, ids=str)
def test_a_bad_argument_is_named(options, named, error):
    with pytest.raises(error, match=f"^{named}"):
        TileGrid((20, 30), **{"tile": 8} | options)


@pytest.mark.parametrize(
    "shape",
    [(5,), (5, 5, 5, 5), 5, (), (5.0, 5), (-1, 5), (2**31, 1), None, "ab", (5, None)],
    ids=str,
)
def test_a_bad_shape_is_named(shape):
    with pytest.raises(ValueError, match=r"^shape:"):
        TileGrid(shape, tile=4)


@pytest.mark.parametrize(
    ("starts", "error"),
    [
        ([[0], [0]], ValueError),  # does not reach the end
        ([[1, 6], [0]], ValueError),
        ([[0, 5, 4], [0]], ValueError),
        ([[0, 4, 4], [0]], ValueError),
        ([[-2, 5], [0]], ValueError),  # a gap
        ([[0, 4, 10], [0]], ValueError),  # a tile that no pixel is in
        ([[-6, 0, 4], [0]], ValueError),
        ([[], [0]], ValueError),
        ([[0, 4]], ValueError),
        ([[0, 4], [0], [0]], ValueError),
        ([[0.0, 4.0], [0]], TypeError),
        (["ab", [0]], TypeError),
        (5, TypeError),
        ([0, 4], TypeError),
        ([[0, 2**70], [0]], TypeError),
    ],
    ids=str,
)
def test_bad_starts_are_named(starts, error):
    with pytest.raises(error, match=r"^starts:"):
        TileGrid.at((10, 6), 6, starts)


def test_starts_of_an_image_without_pixels_are_none():
    assert len(TileGrid.at((0, 6), 6, [[], [0]])) == 0
    with pytest.raises(ValueError, match=r"^starts:"):
        TileGrid.at((0, 6), 6, [[-1], [0]])


def test_bad_arguments_of_methods_are_named():
    grid, image = TileGrid((20, 30), tile=8), np.zeros((20, 30))
    for bad in (len(grid), -len(grid) - 1, 2**70):
        for method in (grid.place, grid.start, grid.core, grid.__getitem__):
            with pytest.raises(IndexError, match=r"^i:.*got "):
                method(bad)
        with pytest.raises(IndexError, match=r"^i:"):
            grid.extract(image, [0, bad])
    for bad in (1.0, "1", None, slice(1)):
        with pytest.raises(TypeError, match=r"^i:"):
            grid.place(bad)
    for region in ((slice(3),), (slice(3), 3), (slice(0, 9, 2),) * 2, (slice(9, 0, -1),) * 2, 3):
        with pytest.raises(ValueError, match=r"^region:"):
            grid.touching(region)
    for bad in (np.zeros((30, 20)), np.zeros((20, 30, 1)), np.zeros(30), np.zeros(())):
        with pytest.raises(ValueError, match=r"^image:"):
            grid.extract(bad)
    for bad in ([[1]], None, np.ma.zeros((20, 30))):
        with pytest.raises(TypeError, match=r"^image:"):
            grid.extract(bad)
    with pytest.raises(TypeError, match=r"^indices:"):
        grid.extract(image, 3)
    for bad in ("zeros", None, "Constant"):
        with pytest.raises(ValueError, match=r"^padding:"):
            grid.extract(image, padding=bad)
    for bad, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^n:"):
            next(grid.batches(image, bad))


def test_grids_compare_by_where_their_tiles_are():
    grid = TileGrid((20, 30), tile=8, overlap=0.5)
    same = TileGrid((20, 30), tile=8, stride=4)
    assert grid == same
    assert hash(grid) == hash(same)
    assert grid == TileGrid.at((20, 30), 8, grid.starts)
    assert grid != TileGrid((20, 30), tile=8, stride=5)
    assert grid != 3
    assert cellpost.TileGrid is TileGrid
    assert f"{len(grid)} tiles" in repr(grid)
