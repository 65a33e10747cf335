"""Options and fixtures of the benchmarks: pytest bench --benchmark-only [-k flows]."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # for simulate and its oracle

import peers
import records
import workload

import cellpost


def pytest_addoption(parser):
    group = parser.getgroup("cellpost benchmarks")
    group.addoption(
        "--peer-max-size",
        type=int,
        default=2048,
        help="largest side at which the peers run, too (default 2048; at 4096 they take minutes)",
    )
    group.addoption(
        "--max-size",
        type=int,
        default=1 << 30,
        help="leave out larger sides (8192, and 8415 x 10496 counts as 10496)",
    )
    group.addoption(
        "--save-results",
        action="store_true",
        help="write bench/results/<card or CPU>-<date>-<what -k says>.json",
    )


def pytest_configure(config):
    config.stash[RECORDS] = records.Records()


RECORDS: pytest.StashKey[records.Records] = pytest.StashKey()


def pytest_terminal_summary(terminalreporter, config):
    found = config.stash[RECORDS]
    if not (found.timings or found.threads or found.memory):
        return
    terminalreporter.section("cellpost")
    about = records.environment()
    hardware = about["hardware"]
    terminalreporter.write_line(
        f"{hardware['cpu']}, {hardware['cpus']} CPUs; cellpost {about['cellpost']['version']} with "
        f"{about['cellpost']['num_threads']} threads, {about['cellpost']['cpu_level']}; "
        f"GPUs: {', '.join(hardware['gpus']) or 'none usable'}"
    )
    for line in records.lines(found):
        terminalreporter.write_line(line)
    if config.getoption("--save-results"):
        terminalreporter.write_line(f"saved: {records.save(found, config.option.keyword)}")


# ---- what is measured ---------------------------------------------------------------------------


def make_work(request, make, note):
    """The workload of the fixture's size, unless that is larger than --max-size."""
    side = max(workload.SLIDE_SHAPE) if request.param == "slide" else int(request.param)
    most = request.config.getoption("--max-size")
    if side > most:
        pytest.skip(f"{side} pixels a side are more than --max-size {most}")
    made = make(request.param)
    request.config.stash[RECORDS].notes.add(f"{note} simulated from {made.source}")
    return made


@pytest.fixture(scope="session", params=workload.SIZES)
def work(request):
    """Simulated network outputs of one size."""
    return make_work(request, workload.make, f"maps (noise {workload.NOISE})")


class Cpu:
    """NumPy arrays in, NumPy arrays out."""

    name = "cpu"

    def put(self, array):
        return array

    def get(self, array):
        return array

    def synchronize(self):
        pass


class Cuda:
    """Arrays on the GPU, in torch or in CuPy."""

    name = "cuda"

    def __init__(self):
        info = cellpost.info()
        if not info["cuda_usable"]:
            pytest.skip(f"CUDA: {info['cuda_reason']}")
        self._torch = pytest.importorskip("torch", reason="CUDA: torch is not installed")
        if not self._torch.cuda.is_available():
            pytest.skip("CUDA: torch sees no GPU")

    def put(self, array):
        return self._torch.from_numpy(np.ascontiguousarray(array)).cuda()

    def get(self, array):
        return array.cpu().numpy()

    def synchronize(self):
        self._torch.cuda.synchronize()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Where a call runs."""
    return Cpu() if request.param == "cpu" else Cuda()


@pytest.fixture(scope="session")
def cellpose():
    """The peer, or None where it cannot be imported."""
    try:
        return peers.cellpose()
    except ImportError:
        return None


@pytest.fixture
def peer(request, cellpose, work):
    """Cellpose where it is to run at this size, else None."""
    side = max(work.labels.shape)
    notes = request.config.stash[RECORDS].notes
    if cellpose is None:
        notes.add("cellpose cannot be imported: no comparison")
        return None
    if side > request.config.getoption("--peer-max-size"):
        notes.add("cellpose ran up to --peer-max-size only")
        return None
    return cellpose


@pytest.fixture(scope="session")
def recorded(request):
    """The records of this run."""
    return request.config.stash[RECORDS]


def fastest(function, rounds):
    """(least seconds, last result) of some rounds, timed one by one."""
    least = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        result = function()
        least = min(least, time.perf_counter() - start)
    return least, result


@pytest.fixture
def measure(benchmark, device, work, recorded):
    """Measure a call: `timing, result = measure("name", function)`; more rounds at small sizes."""

    def run(call, function, **floors):
        side = max(work.labels.shape)
        rounds = 20 if side <= 512 else 7 if side <= 4096 else 3

        def once():
            result = function()
            device.synchronize()
            return result

        result = benchmark.pedantic(once, rounds=rounds, warmup_rounds=1)
        if device.name not in recorded.bandwidth:
            recorded.bandwidth[device.name] = copy_bandwidth(device)
        timing = records.Timing(
            call,
            work.size,
            device.name,
            work.n_cells,
            work.n_foreground,
            benchmark.stats.stats.min if benchmark.stats else fastest(once, 1)[0],
            rounds,
            **floors,
        )
        recorded.timings.append(timing)
        return timing, result

    return run


@pytest.fixture
def measure_threads(benchmark, work, recorded):
    """One thread against all of them, with the same bytes: `measure_threads("name", function)`."""
    n = cellpost.get_num_threads()
    if n == 1:
        pytest.skip("this machine, or CELLPOST_NUM_THREADS, has one thread: nothing to compare")

    def run(call, function):
        side = max(work.labels.shape)
        rounds = 5 if side <= 4096 else 3 if side <= 8192 else 2
        cellpost.set_num_threads(1)
        try:
            function()
            serial, expected = fastest(function, rounds)
        finally:
            cellpost.set_num_threads(n)
        seconds, result = fastest(function, rounds)
        np.testing.assert_array_equal(result, expected)
        found = {"call": call, "size": work.size, "threads": n}
        recorded.threads.append({**found, "seconds_1": serial, "seconds_n": seconds})
        benchmark.extra_info[call] = serial / seconds

    yield run
    benchmark.pedantic(lambda: None, rounds=1)  # else --benchmark-only leaves the test out


@pytest.fixture
def measure_memory(benchmark, work, recorded, tmp_path):
    """Peak extra memory of one call in a fresh process, outputs included."""

    def run(call, *arrays, size=None):
        files = [tmp_path / f"{i}.npy" for i in range(len(arrays))]
        for file, array in zip(files, arrays, strict=True):
            np.save(file, array)
        script = Path(__file__).with_name("memory.py")
        done = subprocess.run(
            [sys.executable, str(script), call, *map(str, files)],
            check=True,
            capture_output=True,
            text=True,
        )
        found = json.loads(done.stdout)
        recorded.memory.append({"call": call, "size": size or work.size, **found})
        for file in files:
            file.unlink()
        return found

    yield run
    benchmark.pedantic(lambda: None, rounds=1)  # else --benchmark-only leaves the test out


def copy_bandwidth(device):
    """Bytes a second, read and written, of the fastest of some large copies with all threads."""
    if device.name == "cuda":
        source = device.put(np.ones(1 << 28, np.uint8))
        target = device.put(np.ones(1 << 28, np.uint8))

        def copy():
            target.copy_(source)
            device.synchronize()

        copy()
        return 2 * (1 << 28) / fastest(copy, 10)[0]
    from concurrent.futures import ThreadPoolExecutor

    n = cellpost.get_num_threads()
    source, target = np.ones((n, 1 << 26), np.uint8), np.ones((n, 1 << 26), np.uint8)
    with ThreadPoolExecutor(n) as pool:  # NumPy copies without the GIL

        def copy():
            list(pool.map(lambda i: np.copyto(target[i], source[i]), range(n)))

        copy()
        return 2 * source.nbytes / fastest(copy, 10)[0]
