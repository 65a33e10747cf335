"""The answer depends on neither threads nor instruction sets; calls may come from anywhere."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import simulate
from test_flows import simulated

import cellpost
from cellpost import _core


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def level(request, restore_settings):
    """An instruction set that this CPU and build have; skips where they do not."""
    if request.param not in cellpost.info()["cpu_levels"]:
        pytest.skip(f"this CPU or build has no {request.param}")
    return request.param


@pytest.fixture(scope="module")
def fields():
    """Maps of shapes that divide unevenly among threads and SIMD lanes."""
    return [
        simulated((97, 203), noise=2.0, cellprob_noise=3, seed=1),
        simulated((11, 33, 29), noise=2.0, cellprob_noise=3, seed=2),
        simulated((3, 500), noise=2.0, seed=3),
    ]


def everything(maps):
    """The bytes of all that can be computed from the maps."""
    mask = maps.cellprob > 0
    out = []
    for sampling in ("cellpose", "centered"):
        ends = cellpost.flow_endpoints(maps.dP, mask, sampling=sampling)
        out += [ends, cellpost.endpoints_to_labels(ends, mask)]
        for options in (
            {},
            {"fill_holes": "cellpose", "fragments": "largest", "flow_threshold": None},
            {"fill_holes": False, "fragments": "split", "min_size": 3},
        ):
            out.append(cellpost.follow_flows(maps.dP, maps.cellprob, sampling=sampling, **options))
    labels = maps.labels
    holes = np.where(np.random.default_rng(0).random(labels.shape) < 0.2, 0, labels)
    out += [
        cellpost.masks_to_flows(labels),
        cellpost.masks_to_flows(np.where(labels > 0, labels % 4 + 1, 0), niter=30),  # scattered
        cellpost.flow_error(labels, maps.dP),
        cellpost.remove_bad_flows(labels, maps.dP),
        cellpost.fill_holes(holes),
        cellpost.fill_holes(holes, nested="overwrite"),
        cellpost.resolve_fragments(holes, fragments="largest"),
        cellpost.resolve_fragments(holes, fragments="split"),
        cellpost.remove_small(holes),
        cellpost.remove_large(holes, max_size_fraction=0.01),
        cellpost.relabel(holes),
        *detections(),
    ]
    return [a.tobytes() for a in out]


def detections():
    """What the paste family gives for some hundred instances, many of them on top of each other."""
    rng = np.random.default_rng(1)
    masks = rng.random((300, 28, 28), np.float32)
    corner = rng.uniform(-10, 200, (300, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 40, (300, 2))], 1).astype(np.float32)
    boxes[::50] += [-500, 0, 700, 100]  # wider than what is worked on at a time
    scores = rng.integers(0, 100, 300) / 100
    for style in ("detectron2", "torchvision", "nearest"):
        yield from cellpost.paste_masks(
            masks, boxes, scores, (230, 700), style=style, return_index=True
        )
        yield cellpost.mask_nms(masks, boxes, scores, (230, 700), 0.2, style=style)
    for metric in ("iou", "ios"):
        yield cellpost.nms(boxes, scores, 0.3, metric=metric)
        yield from cellpost.nmm(boxes, scores, 0.3, metric=metric)


@pytest.mark.usefixtures("restore_settings")
@pytest.mark.parametrize("n_threads", [2, 3, 7, 64])
def test_any_number_of_threads_gives_the_bytes_of_one(n_threads, fields):
    for maps in fields:
        cellpost.set_num_threads(1)
        expected = everything(maps)
        cellpost.set_num_threads(n_threads)
        assert cellpost.get_num_threads() == n_threads
        assert everything(maps) == expected


def test_every_instruction_set_gives_the_bytes_of_the_baseline(level, fields):
    for maps in fields:
        _core.set_cpu_level("baseline")
        assert cellpost.info()["cpu_level"] == "baseline"
        expected = everything(maps)
        _core.set_cpu_level(level)
        assert cellpost.info()["cpu_level"] == level
        assert everything(maps) == expected


@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33])
def test_rows_of_any_width_give_the_baselines_end_points(level, width):
    rng = np.random.default_rng(width)
    for shape in ((5, width), (4, 3, width)):
        dP = rng.normal(0, 5, (len(shape), *shape)).astype(np.float32)
        mask = rng.random(shape) < 0.8
        for options in itertools.product(("cellpose", "centered"), (63, 64, 65, 200, 1001)):
            options = dict(zip(("sampling", "niter"), options, strict=True))
            _core.set_cpu_level("baseline")
            expected = cellpost.flow_endpoints(dP, mask, **options)
            _core.set_cpu_level(level)
            got = cellpost.flow_endpoints(dP, mask, **options)
            assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("sampling", ["cellpose", "centered"])
def test_orbits_of_thousands_of_steps_give_the_baselines_end_points(level, sampling):
    y, x = np.mgrid[:48, :56].astype(np.float32)
    towards = np.stack([24 - y, 28 - x]) / 5
    for pull in (0.0, 0.02, 0.3):  # orbits that widen, that hardly do, and that fall in
        dP = (0.05 * towards[::-1] * np.array([1, -1])[:, None, None] + pull * towards) * 5
        dP = dP.astype(np.float32)
        mask = np.hypot(*towards) < 4
        for niter in (700, 20_011):
            _core.set_cpu_level("baseline")
            expected = cellpost.flow_endpoints(dP, mask, niter=niter, sampling=sampling)
            _core.set_cpu_level(level)
            got = cellpost.flow_endpoints(dP, mask, niter=niter, sampling=sampling)
            assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (2, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("size", [1, 8, 100])
def test_points_that_leave_a_narrow_window_say_so(level, shape, size):
    dP = (size * np.random.default_rng(3).normal(size=(2, *shape))).astype(np.float32)
    mask = np.ones(shape, bool)
    found = []
    for at in ("baseline", level):
        _core.set_cpu_level(at)
        ends = np.empty((2, mask.size), np.float32)
        options = {"niter": 200, "offset": (5, 7), "global_shape": (60, 60)}
        _core.flow_endpoints(dP, mask, ends, 0, sampling=_core.Sampling.cellpose, **options)
        found.append(ends)
    np.testing.assert_array_equal(*found)
    if 1 in shape:  # every sample needs the row and the column beyond
        assert np.isnan(found[0]).all()


@pytest.mark.usefixtures("restore_settings")
def test_an_unknown_instruction_set_is_rejected():
    with pytest.raises(ValueError, match="sse9"):
        _core.set_cpu_level("sse9")
    assert cellpost.info()["cpu_level"] in cellpost.info()["cpu_levels"]


@pytest.mark.usefixtures("restore_settings")
@pytest.mark.parametrize("n", [0, -1, 10**6])
def test_a_number_of_threads_out_of_range_is_rejected(n):
    cellpost.set_num_threads(2)
    with pytest.raises(ValueError, match=str(n)):
        cellpost.set_num_threads(n)
    with pytest.raises(TypeError):
        cellpost.set_num_threads(1.5)
    assert cellpost.get_num_threads() == cellpost.info()["num_threads"] == 2


def import_with(**environment):
    code = "import cellpost; print(cellpost.get_num_threads())"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_environment_sets_the_threads_at_import():
    assert import_with(CELLPOST_NUM_THREADS="3").stdout.strip() == "3"
    free = import_with(CELLPOST_NUM_THREADS="")
    assert int(free.stdout) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("text", ["many", "0", "2000", "2.5"])
def test_a_number_of_threads_in_the_environment_that_is_none_is_told_and_ignored(text):
    run = import_with(CELLPOST_NUM_THREADS=text)
    assert int(run.stdout) == len(os.sched_getaffinity(0))
    assert f"CELLPOST_NUM_THREADS: expected an integer from 1 to 1024; got {text!r}" in run.stderr


def test_a_call_from_many_python_threads_at_once_gives_each_its_answer():
    fields = [simulated((60 + 7 * i, 90), noise=1.0, seed=i) for i in range(6)]
    expected = [everything(maps) for maps in fields]
    with ThreadPoolExecutor(8) as pool:
        jobs = [(i % 6, pool.submit(everything, fields[i % 6])) for i in range(24)]
        for i, job in jobs:
            assert job.result() == expected[i]


def test_changing_the_thread_count_while_calls_run_changes_no_answer(restore_settings):
    maps = simulated((120, 130), noise=1.0)
    expected = everything(maps)
    stop = threading.Event()

    def fiddle():
        n = 1
        while not stop.is_set():
            cellpost.set_num_threads(n)
            n = n % 5 + 1

    fiddler = threading.Thread(target=fiddle)
    fiddler.start()
    try:
        for _ in range(5):
            assert everything(maps) == expected
    finally:
        stop.set()
        fiddler.join()


def test_other_python_threads_run_while_a_call_works():
    labels = np.ones((150, 150), np.int32)
    done = threading.Event()
    took = []

    def work():
        start = time.perf_counter()
        cellpost.masks_to_flows(labels, niter=20000)
        took.append(time.perf_counter() - start)
        done.set()

    worker = threading.Thread(target=work)
    longest, last = 0.0, time.perf_counter()
    worker.start()
    while not done.is_set():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    worker.join()
    # With the lock held, this loop would stand still for the whole call.
    assert took[0] > 0.02, "the call is too short to tell"
    assert longest < 0.5 * took[0]


def _in_child(maps, queue):
    queue.put(everything(maps))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("restore_settings")
def test_a_forked_child_can_call_after_its_parent_did():
    maps = simulated((80, 90), noise=1.0)
    cellpost.set_num_threads(3)
    expected = everything(maps)  # the parent's worker threads exist now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_in_child, args=(maps, queue)) for _ in range(2)]
    for child in children:
        child.start()
    try:
        assert all(queue.get(timeout=60) == expected for _ in children)
    finally:
        for child in children:
            child.join(timeout=10)
            if child.is_alive():
                child.kill()
    assert [child.exitcode for child in children] == [0, 0]
    assert everything(maps) == expected


def test_many_calls_leave_the_number_of_threads_of_the_process_bounded():
    maps = simulate.from_labels(simulate.blobs((40, 40), 5))
    count = f"/proc/{os.getpid()}/task"
    if not os.path.isdir(count):
        pytest.skip("no /proc")
    everything(maps)
    before = len(os.listdir(count))
    for _ in range(20):
        everything(maps)
    assert len(os.listdir(count)) <= before
