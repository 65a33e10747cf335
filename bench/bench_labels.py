"""The labels family: matching, planes to volumes, tiles to images, fusing models and tools beside
Cellpose, stardist.matching, scikit-image, dask-image, fastremap and cc3d, with equal answers;
floors, threads, memory. `label` is measured with the watershed family; what tiling does to objects
is in seams.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import peers
import pytest
import workload
from conftest import fastest, make_work

import cellpost
from cellpost import ensemble, metrics

AP_IOUS = list(metrics.AP_IOUS)


@pytest.fixture(scope="session", params=workload.LABEL_SIZES)
def work(request):
    """Nuclei, and the same as a model with errors finds them."""
    return make_work(request, workload.make_labels, "labels, and labels with errors,")


def corners(*images):
    """Copies of a part, for the first call of a peer that compiles in it."""
    return [cellpost.relabel(image[..., :300, :300]) for image in images]


# ---- matching -----------------------------------------------------------------------------------


@pytest.mark.parametrize("thresholds", [[0.5], AP_IOUS], ids=["at_1", "at_10"])
def test_match(measure, device, work, peer, thresholds):
    true, found = (device.put(labels) for labels in (work.labels, work.found))
    timing, matches = measure(
        f"match, {len(thresholds)} thresholds",
        lambda: metrics.match(true, found, thresholds),
        floor_bytes=2 * work.labels.nbytes,
    )
    counts = [(m.tp, m.fp, m.fn) for m in matches]
    assert 0.5 * work.n_cells < counts[0][0] < 0.95 * work.n_cells
    if peer is not None:
        peer.metrics.average_precision(*corners(work.labels, work.found), thresholds)
        timing.peer_seconds, theirs = fastest(
            lambda: peer.metrics.average_precision(work.labels, work.found, thresholds), 1
        )
        timing.peer = "cellpose.average_precision"
        assert counts == list(zip(*theirs[1:], strict=True))
        timing.agrees = "counts identical"


@pytest.mark.parametrize("thresholds", [[0.5], AP_IOUS], ids=["at_1", "at_10"])
def test_match_stardist(measure, work, peer, thresholds):
    stardist = peers.stardist_matching()
    timing, matches = measure(
        f"match, {len(thresholds)} thresholds",
        lambda: metrics.match(work.labels, work.found, thresholds),
    )
    if peer is not None:  # up to as large images
        stardist.matching(*corners(work.labels, work.found), thresholds)
        timing.peer_seconds, theirs = fastest(
            lambda: stardist.matching(work.labels, work.found, thresholds), 1
        )
        timing.peer = "stardist.matching"
        assert [(m.tp, m.fp, m.fn) for m in matches] == [(m.tp, m.fp, m.fn) for m in theirs]
        np.testing.assert_allclose(
            [m.panoptic_quality for m in matches], [m.panoptic_quality for m in theirs], rtol=1e-6
        )  # its IoUs are float32
        timing.agrees = "counts identical"


def test_evaluate(measure, device, work):
    pair = device.put(work.labels), device.put(work.found)
    _, table = measure(
        "evaluate", lambda: metrics.evaluate([pair]), floor_bytes=2 * work.labels.nbytes
    )
    assert table.pooled["n_true"] == work.n_cells


@pytest.mark.parametrize("work", ["2048"], indirect=True)
def test_match_million(measure, device, work):
    images = [device.put(labels) for labels in workload.make_grid_of_cells(4096)]
    timing, found = measure("match, small cells", lambda: metrics.match(*images))
    timing.size, timing.n_cells, timing.n_foreground = "4096", 1024**2, 9 * 1024**2
    assert (found.n_true, found.tp) == (1024**2, 1024**2)
    assert (found.scores == 0.5).sum() >= found.tp - 1024  # those that are moved over the border


# ---- planes, tiles, models ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def planes(work):
    """Four planes, each moved against the one before, with ids of their own."""
    rng = np.random.default_rng(6)
    out = []
    for k in range(4):
        moved = np.roll(work.labels if k % 2 == 0 else work.found, (k, 2 * k), (0, 1))
        order = rng.permutation(int(moved.max())).astype(np.int32) + 1
        out.append(np.append(np.int32(0), order)[moved])
    return np.stack(out)


def test_stitch_planes(measure, device, work, peer, planes):
    volume = device.put(planes)
    timing, found = measure(
        "stitch_planes, 4 planes",
        lambda: cellpost.stitch_planes(volume),
        floor_bytes=2 * planes.nbytes,
    )
    found = device.get(found)
    timing.n_foreground = int(np.count_nonzero(planes))
    if peer is not None:
        peer.utils.stitch3D(corners(planes)[0])
        copy = planes.copy()  # it writes to what it is given
        timing.peer_seconds, theirs = fastest(lambda: peer.utils.stitch3D(copy), 1)
        timing.peer = "cellpose.stitch3D"
        np.testing.assert_array_equal(found, cellpost.relabel(theirs))
        timing.agrees = "partition identical"


@pytest.fixture(scope="session")
def tiles(work):
    """(grid, tiles): overlapping tiles of the true labels, ids 1..n in each."""
    grid = cellpost.TileGrid(work.labels.shape, tile=512, overlap=0.6)
    out = grid.extract(work.labels)
    for i, one in enumerate(out):
        out[i] = cellpost.relabel(one)
    return grid, out


def test_stitch_labels(measure, device, work, tiles):
    grid, array = tiles
    put = device.put(array)
    timing, found = measure(
        f"stitch_labels, {len(grid)} tiles",
        lambda: cellpost.stitch_labels(put, grid),
        floor_bytes=array.nbytes + work.labels.nbytes,
    )
    np.testing.assert_array_equal(device.get(found), work.labels)
    if device.name == "cpu":
        timing.peer_seconds, _ = fastest(array.max, 3)
        timing.peer = "NumPy reading the tiles once"
        timing.agrees = "the image's labels"


@pytest.mark.parametrize("name", ["stitch_labels", "join_fragments"])
def test_tiles_beside_dask_image(measure, device, work, name):
    """Components of a mask, tile by tile: objects that do not touch, as dask-image joins them."""
    peer = pytest.importorskip("dask_image.ndmeasure", reason="dask-image is not installed")
    chunks = pytest.importorskip("dask.array", reason="dask is not installed")
    mask = cellpost.erode_boundary(work.labels) > 0
    overlap = 0.25 if name == "stitch_labels" else 0
    grid = cellpost.TileGrid(mask.shape, tile=512, overlap=overlap)
    array = grid.extract(mask)
    parts = list(device.put(array))
    timing, found = measure(
        f"label, {name}, {len(grid)} tiles",
        lambda: getattr(cellpost, name)([cellpost.label(part) for part in parts], grid),
        floor_bytes=array.nbytes + 4 * mask.size,
    )
    true, found = cellpost.label(mask), device.get(found)
    if name == "stitch_labels":
        np.testing.assert_array_equal(found, true)
        timing.agrees = "partition identical"
    else:  # it takes some odd shapes for two cells
        n, n_same = int(true.max()), metrics.match(true, found, [0.999])[0].tp
        assert n_same >= 0.995 * n
        timing.agrees = f"{n_same} of {n} objects identical"
    if int(work.size) <= 4096:
        peer.label(chunks.from_array(mask[:300, :300], chunks=150))[0].compute()  # once to warm up
        timing.peer_seconds, theirs = fastest(
            lambda: peer.label(chunks.from_array(mask, chunks=512))[0].compute(), 3
        )
        timing.peer = "dask_image.ndmeasure.label"
        np.testing.assert_array_equal(cellpost.relabel(theirs), true)


@pytest.fixture(scope="session")
def models(work):
    """Labels of two models, and scores without ties."""
    rng = np.random.default_rng(7)
    n = work.n_cells, int(work.found.max())
    scores = rng.permutation(sum(n)) / sum(n)
    return (work.labels, scores[: n[0]]), (work.found, scores[n[0] :])


@pytest.mark.parametrize("mode", ["weighted", "vote", "best"])
def test_fuse(measure, device, work, models, mode):
    given = [(device.put(labels), scores) for labels, scores in models]
    _, found = measure(
        f"fuse, 2 models, {mode}",
        lambda: ensemble.fuse(given, mode=mode),
        floor_bytes=3 * work.labels.nbytes,
    )
    found = device.get(found)
    np.testing.assert_array_equal(device.get(ensemble.fuse(given[::-1], mode=mode)), found)
    again = ensemble.fuse([given[0], given[0]], mode=mode)
    np.testing.assert_array_equal(device.get(again), work.labels)


# ---- tools --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tool:
    """A call on (labels, found, gaps) and that of a peer, whose answer `same` turns into ours."""

    name: str
    module: str
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    same: Callable[[Any], Any] = lambda theirs: (theirs,)
    agrees: str = "labels identical"


def table(counts):
    """The pairs of scikit-image's sparse table as `overlap_counts` lists them."""
    counts = counts.tocoo()
    order = np.lexsort((counts.col, counts.row))[1:]  # less (0, 0)
    return counts.row[order], counts.col[order], counts.data[order]


def boxes(found):
    """cc3d's (first y, last y, first x, last x) as (y0, x0, y1, x1), and the rest in our order."""
    corners = found["bounding_boxes"][1:, [0, 2, 1, 3]].astype(np.int64)
    corners[:, 2:] += 1
    return found["voxel_counts"][1:], corners, found["centroids"][1:]


def measured(labels):
    """The columns of `properties` that cc3d has, too."""
    cells = cellpost.properties(labels)
    return cells["area"], cells["bbox"], cells["centroid"]


def counted(a, b):
    """What `overlap_counts` finds."""
    found = cellpost.overlap_counts(a, b)
    return found.a, found.b, found.count


MIN_SIZE = 300  # half of the nuclei are smaller than 400 pixels
TOOLS = [
    Tool(
        "expand_labels",
        "skimage.segmentation",
        lambda a, b, gaps: (cellpost.expand_labels(a, 3),),
        lambda peer, a, b, gaps: peer.expand_labels(a, 3),
    ),
    Tool(
        "clear_border",
        "skimage.segmentation",
        lambda a, b, gaps: (cellpost.clear_border(a),),
        lambda peer, a, b, gaps: peer.clear_border(a),
    ),
    Tool(
        "relabel",
        "fastremap",
        lambda a, b, gaps: (cellpost.relabel(gaps),),
        lambda peer, a, b, gaps: peer.renumber(gaps, in_place=False)[0],
    ),
    Tool(
        "remove_small",
        "cc3d",
        lambda a, b, gaps: (cellpost.remove_small(a, min_size=MIN_SIZE),),
        lambda peer, a, b, gaps: peer.dust(a, MIN_SIZE, connectivity=8, in_place=False),
    ),
    Tool(
        "remove_small",
        "skimage.morphology",
        lambda a, b, gaps: (cellpost.remove_small(a, min_size=MIN_SIZE),),
        lambda peer, a, b, gaps: peer.remove_small_objects(a, max_size=MIN_SIZE - 1),
    ),
    Tool(
        "properties",
        "cc3d",
        lambda a, b, gaps: measured(a),
        lambda peer, a, b, gaps: peer.statistics(a, no_slice_conversion=True),
        boxes,
        "areas, boxes identical",
    ),
    Tool(
        "overlap_counts",
        "skimage.metrics",
        lambda a, b, gaps: counted(a, b),
        lambda peer, a, b, gaps: peer.contingency_table(a, b),
        table,
        "pairs, pixels identical",
    ),
    Tool(
        "overlap_counts, joined",
        "skimage.segmentation",
        lambda a, b, gaps: (np.sort(counted(a, b)[2]),),
        lambda peer, a, b, gaps: peer.join_segmentations(a, b),
        lambda joined: (np.sort(np.bincount(joined.ravel())[1:]),),
        "pixels of pairs identical",
    ),
    Tool(
        "overlap_counts, one image",
        "fastremap",
        lambda a, b, gaps: counted(gaps, gaps)[::2],
        lambda peer, a, b, gaps: peer.unique(gaps, return_counts=True),
        lambda found: (found[0][1:], found[1][1:]),
        "ids, areas identical",
    ),
]


@pytest.fixture(scope="session")
def gaps(work):
    """The labels with random ids, of which two thirds are missing."""
    ids = np.random.default_rng(8).permutation(3 * work.n_cells)[: work.n_cells] + 1
    return np.append(0, ids).astype(np.int32)[work.labels]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: f"{tool.name}-{tool.module}")
def test_tools(measure, device, work, gaps, tool):
    package = tool.module.partition(".")[0]
    peer = pytest.importorskip(tool.module, reason=f"{package} is not installed")
    host = work.labels, work.found, gaps
    images = [device.put(image) for image in host]
    timing, found = measure(
        tool.name, lambda: tool.ours(*images), floor_bytes=2 * work.labels.nbytes
    )
    if int(work.size) > 4096:
        return
    timing.peer_seconds, theirs = fastest(lambda: tool.theirs(peer, *host), 1)
    timing.peer, timing.agrees = package, tool.agrees
    for ours, its in zip(found, tool.same(theirs), strict=True):
        here = ours if isinstance(ours, np.ndarray) else device.get(ours)
        if here.dtype.kind == "f":  # sums in another order
            np.testing.assert_allclose(here, its, rtol=1e-9)
        else:
            np.testing.assert_array_equal(here, its)


# ---- threads, memory ----------------------------------------------------------------------------


def test_threads(measure_threads, work, planes, tiles, models):
    measure_threads("match", lambda: metrics.match(work.labels, work.found).pairs)
    measure_threads("stitch_planes", lambda: cellpost.stitch_planes(planes))
    measure_threads("stitch_labels", lambda: cellpost.stitch_labels(tiles[1], tiles[0]))
    measure_threads("fuse", lambda: ensemble.fuse(models))


def test_memory(measure_memory, work, planes, tiles):
    if int(work.size) > 4096:
        pytest.skip("memory is measured up to 4096")
    measure_memory("metrics.match", work.labels, work.found)
    found = measure_memory("stitch_planes", planes, size=f"4 x {work.size}")
    assert found["extra_bytes"] < 3.2 * planes.nbytes
    grid, array = tiles
    layout = np.array([*grid.shape, 0.6])
    found = measure_memory("stitch_labels", array, layout)
    assert found["extra_bytes"] < array.nbytes


@pytest.mark.parametrize("work", ["2048"], indirect=True)
def test_memory_million(measure_memory, work):
    """A million cells against a million: 200 MB."""
    found = measure_memory(
        "metrics.match", *workload.make_grid_of_cells(4096), size="4096, 10^6 cells"
    )
    assert found["extra_bytes"] < 200e6
