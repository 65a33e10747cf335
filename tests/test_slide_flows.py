"""follow_flows of a slide gives the bytes of the call on the whole image, whatever the blocks."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import simulate
from reference import flows as ref_flows

import cellpost
from cellpost import slide
from cellpost.slide.blocks import Box, DiskImage, blocks_of

N_BLOCKS = 20
SMALLEST = 192**2 * 56  # bytes: the least memory


def follow(dP, cellprob, out=None, **options):
    """(labels, report) of the slide's path."""
    out = np.full(cellprob.shape, 7, np.int32) if out is None else out
    n, report = slide.follow_flows(dP, cellprob, out, return_report=True, **options)
    assert n == report.n_labels
    return np.asarray(out[:, :]), report


def assert_same(dP, cellprob, blocks, **options):
    """For all the blocks the labels and the report are those of the call on the whole image."""
    expected, expected_report = cellpost.follow_flows(dP, cellprob, return_report=True, **options)
    for block in blocks:
        got, report = follow(dP, cellprob, block=block, **options)
        np.testing.assert_array_equal(got, expected, err_msg=f"block={block}")
        assert dataclasses.asdict(report) == dataclasses.asdict(expected_report), f"block={block}"
    return expected, expected_report


def random_blocks(shape, n=N_BLOCKS, least=6, seed=0):
    """Blocks smaller than a cell, most of which do not divide the image, and one larger than it."""
    rng = np.random.default_rng(seed)
    most = [max(least, min(side, 90)) for side in shape]
    blocks = [tuple(int(rng.integers(least, m + 1)) for m in most) for _ in range(n - 1)]
    return [*blocks, (shape[0] + 3, shape[1] + 1)]


# ---- fields -------------------------------------------------------------------------------------


def blobs():
    return simulate.from_labels(
        simulate.blobs((120, 150), 130, seed=1), noise=1.5, cellprob_noise=4, seed=1
    )


def packed_discs():
    labels = simulate.packed_discs((130, 110), clip=1.3, seed=2)
    return simulate.from_labels(labels, noise=1.0, seed=2)


def slow_noise():
    rng = np.random.default_rng(3)
    dP = rng.normal(0, 6, (2, 90, 140)).astype(np.float32)
    return simulate.Maps(dP, rng.normal(1, 1, (90, 140)).astype(np.float32), None)


def fast_noise():
    """Points jump all over the image."""
    rng = np.random.default_rng(4)
    dP = rng.normal(0, 400, (2, 70, 80)).astype(np.float32)
    return simulate.Maps(dP, rng.normal(1, 1, (70, 80)).astype(np.float32), None)


def spirals():
    """Points circle around 12 centres on their way in."""
    y, x = np.mgrid[:100, :130].astype(np.float32)
    centre_y, centre_x = np.floor(y / 33) * 33 + 16, np.floor(x / 33) * 33 + 16
    dy, dx = centre_y - y, centre_x - x
    dP = np.stack([dy - 3 * dx, dx + 3 * dy]) / 4
    return simulate.Maps(dP, 14 - np.hypot(dy, dx), None)


def far_ends():
    """Half of the pixels end in one far corner, the rest in cells."""
    maps = blobs()
    dP, cellprob = maps.dP.copy(), maps.cellprob.copy()
    dP[:, ::2] = 40
    cellprob[::2] = 1
    return simulate.Maps(dP, cellprob, None)


def one_giant():
    y, x = np.mgrid[:80, :110].astype(np.float32)
    return simulate.Maps(np.stack([40 - y, 55 - x]), np.ones((80, 110), np.float32), None)


def rings():
    """Cells in ring-shaped ones, which touch the next ring."""
    y, x = np.mgrid[:96, :128]
    radius = np.hypot(y % 32 - 16, x % 32 - 16)
    ring = (y // 32) * 4 + x // 32 + 1
    labels = np.where((radius <= 16) & (radius > 11), ring, np.where(radius <= 5, 20 + ring, 0))
    return simulate.from_labels(labels)


def with_holes():
    maps = blobs()
    drop = np.random.default_rng(5).random(maps.cellprob.shape) < 0.35
    return simulate.Maps(maps.dP, np.where(drop, np.float32(-5), maps.cellprob), None)


FIELDS = {
    f.__name__: functools.lru_cache(f)
    for f in (
        blobs,
        packed_discs,
        slow_noise,
        fast_noise,
        spirals,
        far_ends,
        one_giant,
        rings,
        with_holes,
    )
}


@pytest.mark.parametrize("field", FIELDS)
def test_any_block_gives_the_whole_images_labels(field):
    maps = FIELDS[field]()
    _, report = assert_same(maps.dP, maps.cellprob, random_blocks(maps.cellprob.shape))
    assert report.n_seeds > 0


def test_real_nuclei_are_those_of_the_whole_image(nuclei2d):
    cut = nuclei2d[100:260, 140:300]
    labels, flows = simulate.tile(cut, ref_flows.masks_to_flows(cut), (280, 330))
    maps = simulate.outputs(labels, flows, noise=1.0, cellprob_noise=2)
    _, report = assert_same(maps.dP, maps.cellprob, random_blocks((280, 330), least=15))
    assert report.n_labels > 20
    assert report.n_bad_flow > 0


@pytest.mark.parametrize("fragments", ["keep", "largest", "split"])
@pytest.mark.parametrize("fill_holes", [True, "cellpose", False])
@pytest.mark.parametrize("field", ["with_holes", "rings", "slow_noise"])
def test_fragments_and_holes_are_the_whole_images(field, fill_holes, fragments):
    maps = FIELDS[field]()
    options = {"fragments": fragments, "fill_holes": fill_holes, "min_size": 4}
    _, report = assert_same(
        maps.dP,
        maps.cellprob,
        random_blocks(maps.cellprob.shape, 4, least=9),
        flow_threshold=None,
        niter=400,
        **options,
    )
    assert (report.n_hole_pixels > 0) == bool(fill_holes)
    if field != "rings":
        assert (report.n_fragments > 0) == (fragments != "keep")


OPTIONS = [
    {"sampling": "centered"},
    {"min_size": 0},
    {"min_size": 40},
    {"flow_threshold": None},
    {"flow_threshold": 0.05},
    {"max_size_fraction": 0.004},
    {"max_size_fraction": float("inf")},
    {"niter": 0},
    {"niter": 7},
    {"cellprob_threshold": 3.5},
    {"cellprob_threshold": float("inf")},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("field", ["blobs", "fast_noise"])
def test_options_do_what_they_do_on_the_whole_image(field, options):
    maps = FIELDS[field]()
    assert_same(maps.dP, maps.cellprob, random_blocks(maps.cellprob.shape, 3, least=9), **options)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_dtypes_are_read_as_on_the_whole_image(dtype):
    maps = blobs()
    blocks = random_blocks(maps.cellprob.shape, 2)
    assert_same(maps.dP.astype(dtype), maps.cellprob.astype(dtype), blocks)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 200), (200, 1), (2, 90), (0, 5), (5, 0), (40, 40)], ids=str
)
@pytest.mark.parametrize("level", [-1, 1])
def test_shapes_at_the_edge(shape, level):
    rng = np.random.default_rng(6)
    dP = rng.normal(0, 5, (2, *shape)).astype(np.float32)
    cellprob = np.full(shape, level, np.float32)
    _, report = assert_same(dP, cellprob, [1, 7, (3, 50), 1000], min_size=0)
    assert report.n_foreground == (cellprob.size if level > 0 else 0)


def test_values_that_are_no_numbers_are_as_on_the_whole_image():
    maps = blobs()
    dP, cellprob = maps.dP.copy(), maps.cellprob.copy()
    rng = np.random.default_rng(7)
    for bad in (np.nan, np.inf, -np.inf):
        dP[rng.random(dP.shape) < 0.02] = bad
        cellprob[rng.random(cellprob.shape) < 0.02] = bad
    assert_same(dP, cellprob, random_blocks(cellprob.shape, 4))


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.usefixtures("restore_settings")
def test_threads_do_not_matter(n_threads):
    maps = blobs()
    cellpost.set_num_threads(1)
    expected = cellpost.follow_flows(maps.dP, maps.cellprob)
    cellpost.set_num_threads(n_threads)
    np.testing.assert_array_equal(follow(maps.dP, maps.cellprob, block=37)[0], expected)


def test_float32_diffusion_of_a_large_image_is_used_in_its_windows():
    # Past 4e7 pixels heat is in float32: the same cells then have other errors.
    maps = blobs()
    labels = cellpost.follow_flows(maps.dP, maps.cellprob, flow_threshold=None)
    errors = {}
    for shape in (labels.shape, (7000, 7000)):
        errors[shape] = np.empty(int(labels.max()))
        cellpost._core.flow_error(labels, maps.dP, errors[shape], 0, niter=90, global_shape=shape)
    a, b = errors.values()
    assert not np.array_equal(a, b)
    # Single precision against double, over 90 steps of sums of nine.
    np.testing.assert_allclose(a, b, atol=0.05)


# ---- arrays -------------------------------------------------------------------------------------


def test_memory_maps_are_read_and_written(tmp_path):
    maps = blobs()
    expected = cellpost.follow_flows(maps.dP, maps.cellprob)
    arrays = {}
    for name, array in (("dP", maps.dP), ("cellprob", maps.cellprob)):
        arrays[name] = np.memmap(tmp_path / name, array.dtype, "w+", shape=array.shape)
        arrays[name][...] = array
    out = np.memmap(tmp_path / "out", np.uint16, "w+", shape=expected.shape)
    assert slide.follow_flows(**arrays, out=out, block=50) == expected.max()
    np.testing.assert_array_equal(out, expected)


def test_zarr_and_dask_arrays_are_read_and_zarr_is_written(tmp_path):
    zarr = pytest.importorskip("zarr", minversion="3")
    dask_array = pytest.importorskip("dask.array")
    maps = blobs()
    expected = cellpost.follow_flows(maps.dP, maps.cellprob)
    dP = zarr.create_array(tmp_path / "dP", shape=maps.dP.shape, chunks=(2, 33, 40), dtype="f4")
    dP[...] = maps.dP
    cellprob = dask_array.from_array(maps.cellprob, chunks=(50, 41))
    out = zarr.create_array(tmp_path / "out", shape=expected.shape, chunks=(32, 32), dtype="i4")
    assert slide.follow_flows(dP, cellprob, out, block=45) == expected.max()
    np.testing.assert_array_equal(out[...], expected)
    assert slide.follow_flows(dP, cellprob, tmp_path / "labels.zarr", block=64) == expected.max()
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "labels.zarr")[...], expected)


def test_scratch_is_removed_after_success_and_after_errors(tmp_path):
    maps = blobs()
    follow(maps.dP, maps.cellprob, scratch=tmp_path, block=40)
    assert list(tmp_path.iterdir()) == []

    class Broken:
        shape, dtype = maps.dP.shape, maps.dP.dtype
        n_read = 0

        def __getitem__(self, key):
            self.n_read += 1
            if self.n_read > 3:
                raise OSError("no such chunk")
            assert list(tmp_path.iterdir())
            return maps.dP[key]

    with pytest.raises(OSError, match="no such chunk"):
        follow(Broken(), maps.cellprob, scratch=tmp_path, block=40)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_to_the_end():
    maps = blobs()
    told = []
    follow(maps.dP, maps.cellprob, block=60, progress=lambda *steps: told.append(steps))
    n = told[-1][1]
    assert told == [(i + 1, n) for i in range(n)]


# ---- memory -------------------------------------------------------------------------------------


def test_little_memory_means_many_windows_and_the_same_labels():
    # 192 x 192 pixels: groups of cells and the surroundings of paths have to be divided.
    labels = simulate.blobs((400, 420), 700, seed=8)
    maps = simulate.from_labels(labels, noise=1.2, cellprob_noise=3)
    dP, cellprob = maps.dP.copy(), maps.cellprob.copy()
    dP[:, 100:103] = [[[0]], [[5]]]  # a pixel a step along rows that are no cells' any more
    cellprob[100:103] = 1
    options = {"flow_threshold": 0.2, "niter": 60}
    expected, expected_report = cellpost.follow_flows(dP, cellprob, return_report=True, **options)
    got, report = follow(dP, cellprob, memory=SMALLEST, **options)
    np.testing.assert_array_equal(got, expected)
    assert report == expected_report
    with pytest.raises(ValueError, match="memory: expected at least 3MB, a block of 64"):
        follow(dP, cellprob, memory=SMALLEST - 1)
    message = r"memory: expected enough for a window of \d+ x \d+ pixels, as far as the flow leads"
    with pytest.raises(ValueError, match=message):
        follow(dP, cellprob, memory=SMALLEST, niter=300)


def discs(n, radius=60):
    """Some in a row that touch, with the flow towards their centres."""
    side = 2 * radius + 1
    y, x = np.mgrid[:side, : n * side].astype(np.float32)
    dy, dx = radius - y, radius - x % side
    away = np.hypot(dy, dx)
    dP = 5 * np.stack([dy, dx]) / np.maximum(away, 1)
    return dP, np.where(away < radius + 0.5, np.float32(1), np.float32(-1))


def test_an_object_larger_than_the_memory_is_named():
    dP, cellprob = discs(4)
    expected = cellpost.follow_flows(dP, cellprob)
    size = int((expected == 2).sum())
    message = (
        "memory: expected enough for a window of 121 x 363 pixels: an object of "
        f"{size} pixels lies in rows 0 to 120, columns 121 to 241; got enough for 36864 pixels"
    )
    with pytest.raises(ValueError, match=message):
        follow(dP, cellprob, memory=SMALLEST)
    np.testing.assert_array_equal(follow(dP, cellprob, memory="3MB")[0], expected)


@pytest.mark.slow
def test_more_pixels_than_32_bits_count(tmp_path):
    side, at = 46400, 46400 - 210
    maps = blobs()  # with a margin, since points stop at an image's border
    maps_dP = np.pad(maps.dP, ((0, 0), (20, 20), (20, 20)))
    maps_cellprob = np.pad(maps.cellprob, 20, constant_values=-1)
    shape = maps_cellprob.shape
    options = {"sampling": "centered", "flow_threshold": None}  # what does not depend on the size

    class Corner:
        """An image that is empty but for one place near its end."""

        def __init__(self, values, empty):
            self.values, self.empty, self.dtype = values, empty, np.dtype(np.float32)
            self.shape = (*values.shape[:-2], side, side)

        def __getitem__(self, key):
            *_, y, x = key
            size = (*self.values.shape[:-2], y.stop - y.start, x.stop - x.start)
            if max(y.stop, x.stop) <= at:
                return np.broadcast_to(np.float32(self.empty), size)
            out = np.full(size, self.empty, np.float32)
            y0, y1 = (min(max(n, at), at + shape[0]) for n in (y.start, y.stop))
            x0, x1 = (min(max(n, at), at + shape[1]) for n in (x.start, x.stop))
            out[..., y0 - y.start : y1 - y.start, x0 - x.start : x1 - x.start] = self.values[
                ..., y0 - at : y1 - at, x0 - at : x1 - at
            ]
            return out

    class Out:
        """Keeps what is written to the place, and sees that the rest is empty."""

        def __init__(self):
            self.shape, self.dtype, self.n_written = (side, side), np.dtype(np.int32), 0
            self.labels = np.zeros(shape, np.int32)

        def __setitem__(self, key, labels):
            y, x = key
            self.n_written += labels.size
            if not labels.any():
                return
            rows, cols = np.nonzero(labels)
            self.labels[rows + y.start - at, cols + x.start - at] = labels[rows, cols]

    out = Out()
    n = slide.follow_flows(
        Corner(maps_dP, 0), Corner(maps_cellprob, -1), out, block=1500, scratch=tmp_path, **options
    )
    expected = cellpost.follow_flows(maps_dP, maps_cellprob, **options)
    np.testing.assert_array_equal(out.labels, expected)
    assert n == expected.max() > 20
    assert out.n_written == side**2


# ---- parts --------------------------------------------------------------------------------------


def test_an_image_on_disk_is_an_array(tmp_path):
    rng = np.random.default_rng(9)
    expected = np.zeros((23, 31), np.int32)
    image = DiskImage(tmp_path / "image", (23, 31), np.int32)
    for _ in range(50):
        y0, y1 = np.sort(rng.integers(0, 24, 2)).tolist()
        x0, x1 = rng.choice([(0, 31), tuple(np.sort(rng.integers(0, 32, 2)))]).tolist()
        box = Box(y0, x0, y1, x1)
        values = rng.integers(-9, 9, box.shape)
        image.write(box, values)
        expected[box.slices] = values
        np.testing.assert_array_equal(image.read(Box(0, 0, 23, 31)), expected)
        np.testing.assert_array_equal(image.read(box), expected[box.slices])
    image.remove()
    assert list(tmp_path.iterdir()) == []


def test_blocks_cover_each_pixel_once():
    covered = np.zeros((11, 13), int)
    for box in blocks_of((11, 13), (4, 5)):
        covered[box.slices] += 1
        assert box.within(Box(1, 2, 9, 9)).of(Box(1, 2, 9, 9)) == box
    assert (covered == 1).all()
    assert blocks_of((0, 3), (2, 2)) == []


# ---- bad input ----------------------------------------------------------------------------------

GOOD_DP, GOOD_CELLPROB = np.zeros((2, 6, 7), np.float32), np.zeros((6, 7), np.float32)
BAD = [
    ({"dP": [[1]]}, TypeError, "dP: expected an array that is read by slices; got list"),
    ({"dP": GOOD_DP.astype(int)}, TypeError, "dP: expected one of float16, float32, float64; got"),
    ({"cellprob": GOOD_CELLPROB > 0}, TypeError, "cellprob: expected one of .*; got bool"),
    ({"dP": GOOD_CELLPROB}, ValueError, r"dP: expected shape \(2, H, W\); got \(6, 7\)"),
    ({"cellprob": GOOD_DP}, ValueError, r"cellprob: expected shape \(H, W\); got \(2, 6, 7\)"),
    ({"dP": GOOD_DP[:, 1:]}, ValueError, r"dP: expected shape \(2, 6, 7\); got \(2, 5, 7\)"),
    ({"out": np.zeros((6, 8), int)}, ValueError, r"out: expected shape \(6, 7\); got \(6, 8\)"),
    ({"out": np.zeros((6, 7))}, TypeError, "out: expected an integer dtype; got float64"),
    ({"out": 3}, TypeError, "out: expected a path or an array to write to; got int"),
    ({"memory": "much"}, ValueError, "memory: expected bytes, or a text such as '2GB'; got 'much'"),
    ({"memory": 1000}, ValueError, "memory: expected at least 1MB, a block of"),
    ({"block": 0}, ValueError, "block: expected lengths >= 1; got 0"),
    ({"block": (3, 4, 5)}, ValueError, "block: expected 2 lengths"),
    ({"block": 2.5}, TypeError, "block: expected an integer"),
    ({"niter": -1}, ValueError, "niter: expected an integer from 0 to 2147483646; got -1"),
    ({"niter": 1.5}, TypeError, "niter: expected an integer; got 1.5"),
    ({"min_size": "5"}, TypeError, "min_size: expected an integer; got '5'"),
    ({"cellprob_threshold": np.nan}, ValueError, "cellprob_threshold: expected a number; got NaN"),
    ({"flow_threshold": np.nan}, ValueError, "flow_threshold: expected a number; got NaN"),
    ({"flow_threshold": "x"}, TypeError, "flow_threshold: expected a number; got 'x'"),
    ({"max_size_fraction": -0.1}, ValueError, "max_size_fraction: expected a number >= 0; got -0"),
    ({"max_size_fraction": np.nan}, ValueError, "max_size_fraction: expected a number"),
    ({"fill_holes": "all"}, ValueError, "fill_holes: expected True, False or 'cellpose'"),
    ({"fragments": "some"}, ValueError, "fragments: expected one of 'keep', 'largest', 'split'"),
    ({"sampling": "x"}, ValueError, "sampling: expected one of 'cellpose', 'centered'; got 'x'"),
    ({"scratch": "/no/such/folder"}, FileNotFoundError, "/no/such/folder"),
]


@pytest.mark.parametrize(("argument", "kind", "message"), BAD, ids=lambda v: str(v)[:40])
def test_bad_input_is_named(argument, kind, message):
    arguments = {"dP": GOOD_DP, "cellprob": GOOD_CELLPROB, "out": np.zeros((6, 7), int)} | argument
    with pytest.raises(kind, match=message):
        slide.follow_flows(**arguments)


def test_an_output_too_small_for_the_labels_stays_as_it_was():
    labels = simulate.blobs((200, 200), 600, radius=(3, 4))
    maps = simulate.from_labels(labels)
    out = np.full(labels.shape, 5, np.uint8)
    with pytest.raises(OverflowError, match="out: expected a dtype that holds ids up to"):
        slide.follow_flows(maps.dP, maps.cellprob, out, flow_threshold=None)
    assert (out == 5).all()
