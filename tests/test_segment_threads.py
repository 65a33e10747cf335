"""What segmenting tells meanwhile, and the threads that read ahead and put away."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import simulate
from test_segment import assert_same, hills
from test_segment_options import flow_network, hover_network, label_network

import cellpost
from cellpost import hover_watershed, segment, segment_heads

F = np.float32


@pytest.fixture(scope="module")
def labels():
    return cellpost.relabel(simulate.blobs((90, 120), 40, seed=3, radius=(4, 7)))


@pytest.fixture(scope="module")
def image(labels):
    return hills(labels)


# ---- what is told -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
@pytest.mark.parametrize("head", ["flows", "labels"])
def test_progress_counts_tiles(image, batch_size, head):
    told = []
    model = flow_network if head == "flows" else label_network
    segment(
        image, model, head=head, tile=40, batch_size=batch_size, progress=lambda *n: told.append(n)
    )
    total = len(cellpost.TileGrid(image.shape, tile=40))
    assert told == [
        (min(k, total), total) for k in range(batch_size, total + batch_size, batch_size)
    ]


def test_a_bar_is_on_stderr_only(image, capfd):
    segment(image, flow_network, tile=40)
    assert capfd.readouterr() == ("", "")
    segment(image, flow_network, tile=40, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "tiles" in err
    assert "100%" in err


# ---- threads ------------------------------------------------------------------------------------


def test_the_next_tiles_are_read_while_the_network_sees_the_last_ones():
    # The network answers only when the next batch has been asked for: else it would wait forever.
    asked = [threading.Event() for _ in range(4)]

    class Image:
        shape, dtype = (40, 10), np.dtype(F)

        def __getitem__(self, key):
            asked[key[0].start // 10].set()
            return np.zeros((10, 10), F)

    n_seen = 0

    def model(tiles):
        nonlocal n_seen
        n_seen += 1
        if n_seen < 4:
            assert asked[n_seen].wait(20), "the next tile has not been asked for"
        return np.concatenate([tiles] * 3, 1)

    segment(Image(), model, tile=10, overlap=0, batch_size=1)
    assert n_seen == 4


def test_no_more_than_one_batch_is_read_ahead():
    # Memory is bounded: when the network sees batch k, batch k + 2 has not been asked for.
    n_read = 0

    class Image:
        shape, dtype = (100, 10), np.dtype(F)

        def __getitem__(self, key):
            nonlocal n_read
            n_read += 1
            return np.zeros((10, 10), F)

    def model(tiles):
        model.n += 1
        assert n_read <= model.n + 1
        return np.concatenate([tiles] * 3, 1)

    model.n = 0
    segment(Image(), model, tile=10, overlap=0, batch_size=1)
    assert model.n == 10


def test_maps_are_put_away_while_the_network_sees_the_next_tiles(monkeypatch):
    # The third batch is answered only when the first has been put away, and that only when the
    # network sees the second one.
    seen, put = [threading.Event() for _ in range(4)], [threading.Event() for _ in range(4)]
    finish = segment_heads.MapHead.finish

    def slow(self, rows):
        (i,) = rows  # a tile is a row of tiles here
        if i < 3:
            assert seen[i + 1].wait(20), "the network waits for the maps to be put away"
        assert threading.current_thread() is not threading.main_thread()
        finish(self, rows)
        put[i].set()

    monkeypatch.setattr(segment_heads.MapHead, "finish", slow)

    def model(tiles):
        i = model.n
        model.n += 1
        seen[i].set()
        assert i < 2 or put[i - 2].is_set()
        return np.concatenate([tiles] * 3, 1)

    model.n = 0
    n_threads = threading.active_count()
    segment(np.zeros((40, 10), F), model, tile=10, overlap=0, batch_size=1)
    assert model.n == 4
    assert threading.active_count() == n_threads


def test_calls_beside_each_other(image):
    expected = segment(image, flow_network, tile=40, flow_threshold=None)
    found = [None] * 4

    def work(i):
        found[i] = segment(image, flow_network, tile=40, flow_threshold=None)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for got in found:
        assert_same(got, expected, 8)


def test_the_steps_one_by_one_are_the_same(labels):
    # As the docstring says: the public steps, and nothing more.
    grid = cellpost.TileGrid(labels.shape, tile=(40, 56), overlap=0.5)
    maps = hover_network(grid.extract(labels[None]))
    whole = cellpost.stitch(maps, grid=grid)
    expected = hover_watershed(whole[0], whole[1:], ksize=5)
    assert_same(
        segment(labels, hover_network, head="hover", tile=(40, 56), overlap=0.5, ksize=5),
        expected,
        4,
    )


def test_window_and_sigma_are_those_of_stitch():
    # Two tiles that contradict each other: the weights decide how far the first one's nucleus goes.
    grid = cellpost.TileGrid((24, 44), tile=(24, 32), overlap_px=20)
    maps = np.zeros((2, 3, 24, 32), F)
    nucleus = np.zeros((24, 32), np.int32)
    nucleus[4:20, 4:] = 1
    maps[0, 0], maps[1, 0] = 0.9 * nucleus, 0.2
    maps[0, 1:] = simulate.hover_from_labels(nucleus).hv
    found = []
    for options in (
        {},
        {"sigma": 0.05},
        {"sigma": 0.9},
        {"window": "constant"},
        {"window": "core"},
        {"window": np.arange(1, 24 * 32 + 1, dtype=float).reshape(24, 32)},
    ):
        whole = cellpost.stitch(maps, grid=grid, **options)
        expected = hover_watershed(whole[0], whole[1:])
        given = dict(options)
        if "sigma" in given:
            given["window_sigma"] = given.pop("sigma")
        got = segment(
            np.zeros(grid.shape, F),
            lambda tiles: maps,
            head="hover",
            tile=(24, 32),
            overlap_px=20,
            **given,
        )
        assert_same(got, expected, 1)
        found.append(got.tobytes())
    assert len(set(found[:3])) == 3
