"""Fixtures of all tests: devices, kinds of arrays, the data folder, the peer package."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import array_kinds
import peers
import pytest

REPO = Path(__file__).resolve().parents[1]
BESIDE = REPO.parent / "shared"


def pytest_addoption(parser):
    parser.addoption(
        "--data",
        default=os.environ.get("CELLPOST_DATA", str(BESIDE / "data")),
        help="folder with the real images (default: CELLPOST_DATA, else ../shared/data)",
    )
    parser.addoption(
        "--full",
        action="store_true",
        default=os.environ.get("CELLPOST_TEST_FULL", "") not in ("", "0"),
        help="also run the tests that take minutes (default: CELLPOST_TEST_FULL)",
    )


def pytest_collection_modifyitems(config, items):
    """Tests that are marked as slow run with --full."""
    if config.getoption("--full"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: --full runs it"))


# ---- devices ------------------------------------------------------------------------------------


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Puts arrays on the device under test and brings results back; skips without that device."""
    if request.param == "cpu":
        return array_kinds.NUMPY
    cellpost = importlib.import_module("cellpost")
    info = cellpost.info()
    if not info["cuda_usable"]:
        pytest.skip(f"CUDA: {info['cuda_reason']}")
    for kind in array_kinds.ON_CUDA:
        if kind.why_not() is None:
            return kind
    pytest.skip("CUDA: neither torch nor cupy can make arrays on the GPU")


@pytest.fixture(
    params=[
        pytest.param(k, id=k.name, marks=[pytest.mark.gpu] if k.on_cuda else [])
        for k in array_kinds.ALL
    ]
)
def kind(request):
    """A kind of array; skips where its library is absent."""
    why_not = request.param.why_not()
    if why_not is not None:
        pytest.skip(why_not)
    if request.param.on_cuda:
        info = importlib.import_module("cellpost").info()
        if not info["cuda_usable"]:
            pytest.skip(f"CUDA: {info['cuda_reason']}")
    return request.param


# ---- data ---------------------------------------------------------------------------------------


def _read(request, name):
    path = Path(request.config.getoption("--data")) / name
    if not path.is_file():
        pytest.skip(f"no real data: {path.name} is not in the data folder (--data, CELLPOST_DATA)")
    tifffile = importlib.import_module("tifffile")
    return tifffile.imread(path)


@pytest.fixture(scope="session")
def nuclei2d(request):
    """Labels of 125 real nuclei, 512 x 512, ids with gaps."""
    return _read(request, "nuclei2d_labels.tif")


@pytest.fixture(scope="session")
def nuclei3d(request):
    """Labels of a volume of nuclei, 31 x 61 x 57."""
    return _read(request, "nuclei3d_labels.tif")


# ---- peers --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def peer():
    """The modules cellpose.dynamics and cellpose.utils as `.dynamics` and `.utils`."""
    try:
        return peers.cellpose()
    except ImportError as error:
        pytest.skip(f"cellpose cannot be imported: {error}")


# ---- settings -----------------------------------------------------------------------------------


@pytest.fixture
def restore_settings():
    """Puts the number of threads and the CPU level back after the test."""
    cellpost = importlib.import_module("cellpost")
    core = importlib.import_module("cellpost._core")
    n = cellpost.get_num_threads()
    yield
    cellpost.set_num_threads(n)
    core.set_cpu_level()
