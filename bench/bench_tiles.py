"""The tiles family: blending beside MONAI, with equal maps; floors, threads, memory of a stream,
and what `segment` costs besides the network.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import workload
from conftest import RECORDS, fastest

import cellpost
from cellpost import segment_heads
from cellpost.integrations.monai import sliding_window_inference


@pytest.fixture(scope="session", params=workload.TILE_SIZES)
def work(request):
    """Tiles of a simulated map."""
    if int(request.param) > request.config.getoption("--max-size"):
        pytest.skip(f"{request.param} pixels a side are more than --max-size")
    made = workload.make_tiles(request.param)
    request.config.stash[RECORDS].notes.add("tiles (3 x 512 x 512, overlap 0.6) of random numbers")
    return made


def moved_bytes(work):
    """Each tile read once, the map written once."""
    return work.tiles.nbytes + work.image.nbytes


def monai(work):
    """MONAI's inferer with a network that returns its input: cutting and blending."""
    inferers = pytest.importorskip("monai.inferers", reason="MONAI is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.set_num_threads(cellpost.get_num_threads())
    image = torch.from_numpy(work.image)[None]
    options = {"overlap": 0.6, "mode": "gaussian"}
    # A copy: it multiplies what the network returns in place, and so the image, else.
    return lambda call=inferers.sliding_window_inference: call(
        image, (512, 512), 4, lambda tiles: tiles.clone(), **options
    )


def test_stitch(measure, device, work):
    tiles = device.put(work.tiles)
    timing, found = measure(
        "stitch", lambda: cellpost.stitch(tiles, grid=work.grid), floor_bytes=moved_bytes(work)
    )
    # Cut from one map: the means differ from it by the last bit.
    np.testing.assert_allclose(device.get(found), work.image, rtol=1.2e-7, atol=0)
    if int(work.size) <= 4096:
        timing.peer_seconds, theirs = fastest(monai(work), 3)
        timing.peer = "MONAI, identity network"
        np.testing.assert_allclose(device.get(found), theirs.numpy()[0], rtol=0, atol=1e-5 * 10)
        timing.agrees = "within 1e-5 of the range"


def test_sliding_window_inference(measure, work):
    run = monai(work)
    timing, found = measure("sliding_window_inference", lambda: run(sliding_window_inference))
    timing.peer_seconds, theirs = fastest(run, 3)
    timing.peer = "MONAI"
    np.testing.assert_allclose(found.numpy(), theirs.numpy(), rtol=0, atol=1e-5 * 10)
    timing.agrees = "within 1e-5 of the range"


def test_stream(measure, device, work):
    tiles = device.put(work.tiles)

    def run():
        stitcher = cellpost.Stitcher(work.grid, tiles.shape[-3])
        rows = 0
        for first in range(0, len(work.grid), 4):
            indices = range(first, min(first + 4, len(work.grid)))
            stitcher.add(indices, tiles[first : first + 4])
            for _, band in stitcher.ready():
                rows += band.shape[1]
        return rows

    # A tile is read, written and read again.
    floor = moved_bytes(work) + 2 * work.tiles.nbytes
    _, rows = measure("Stitcher, 4 tiles a call", run, floor_bytes=floor)
    assert rows == work.image.shape[1]


@pytest.mark.parametrize("is_new", [True, False], ids=["new outputs", "outputs copied"])
def test_segment_overhead(measure, work, is_new, monkeypatch):
    """A network of 5 ms a tile that finds nothing; whose outputs are known to be new, or not."""
    spent = []

    def timed(function, least=lambda *_: 0):
        def run(*args, **options):
            start = time.perf_counter()
            result = function(*args, **options)
            time.sleep(max(0, least(*args) - (time.perf_counter() - start)))
            spent.append(time.perf_counter() - start)
            return result

        return run

    def network(tiles):
        return np.full((len(tiles), 3, *tiles.shape[2:]), -1, np.float32)

    network = timed(network, lambda tiles: 0.005 * len(tiles))
    model = cellpost.as_predictor(network, head="flows", owns_output=is_new)
    monkeypatch.setattr(segment_heads, "follow_flows", timed(cellpost.follow_flows))

    def run():
        spent.clear()
        start = time.perf_counter()
        cellpost.segment(work.image, model)
        # The last call is that of follow_flows, which is called with nothing at first, too.
        both.append((time.perf_counter() - start - sum(spent)) / sum(spent[1:-1]))
        return sum(spent)

    both = []
    timing, alone = measure(f"segment, 5 ms a tile{'' if is_new else ', copied'}", run)
    timing.peer, timing.peer_seconds = "the network and follow_flows in it", alone
    timing.agrees = f"{100 * min(both):.0f} % of the network besides them"
    assert min(both) < (0.1 if is_new else 0.2)


def test_threads(measure_threads, work):
    measure_threads("stitch", lambda: cellpost.stitch(work.tiles, grid=work.grid))


@pytest.mark.parametrize("work", ["2048"], indirect=True)
def test_memory(measure_memory, work):
    """A stream holds as much at 2048 rows as at 32,768."""
    width, row_of_tiles = 2048, 3 * 4 * 512**2 * len(cellpost.TileGrid((512, 2048)))
    peak = {}
    for overlap in (0.5, 0.6):
        for rows in (2048, 32768):
            found = measure_memory(
                "Stitcher",
                np.array([rows, width, overlap]),
                size=f"{rows} x {width}, overlap {overlap}",
            )
            peak[overlap, rows] = found["extra_bytes"]
    # With 0.5 both heights are multiples of the stride. With 0.6 the last row of tiles is moved
    # back by more at one of them, where four rows of tiles share pixels and not three.
    assert peak[0.5, 32768] <= 1.1 * peak[0.5, 2048]
    assert max(peak.values()) <= 4 * row_of_tiles + 2**25
