"""Cellpose with and without `accelerate`: the same masks, ids, dtypes; and what is swapped when."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simulate
from conftest import _read
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

torch = pytest.importorskip("torch")

from cellpost.integrations import _cellpose_functions as functions  # noqa: E402
from cellpost.integrations import cellpose as integration  # noqa: E402
from cellpost.integrations.cellpose import accelerate, restore  # noqa: E402

pytestmark = pytest.mark.peer

CELLPOSE_3 = os.environ.get("CELLPOST_CELLPOSE3", "")
SWAPPED = [(m, f.__name__) for m, several in functions.STAND_INS.items() for f in several]


@pytest.fixture(autouse=True)
def originals(peer):
    """What Cellpose has; it has the same again after the test, whatever that did."""
    before = {at: getattr(importlib.import_module(at[0]), at[1]) for at in SWAPPED}
    yield before
    restore()
    for (module, name), function in before.items():
        assert getattr(sys.modules[module], name) is function


@pytest.fixture
def fallbacks(caplog):
    """Names of the originals that were called in place of their stand-ins, in order."""
    caplog.set_level(logging.DEBUG, integration.__name__)
    return lambda: [r.args[0] for r in caplog.records if r.name == integration.__name__]


def both(call, *arrays):
    """The result with Cellpose's functions and with the stand-ins; inputs are copied for each.

    `call` looks functions up when it is called: one held from before would be the original.
    """
    theirs = call(*[a.copy() for a in arrays])
    with accelerate():
        ours = call(*[a.copy() for a in arrays])
    return theirs, ours


def assert_identical(theirs, ours):
    assert type(ours) is type(theirs)
    if isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(theirs, ours, strict=True):
            assert_identical(a, b)
        return
    a, b = np.asarray(theirs), np.asarray(ours)
    assert b.dtype == a.dtype
    np.testing.assert_array_equal(b, a)


# ---- the whole model ----------------------------------------------------------------------------


class Network(torch.nn.Module):
    """Stands in for Cellpose's: brightness is what belongs to a cell, flows go up its slope."""

    device = torch.device("cpu")
    dtype = torch.float32

    def forward(self, images):
        kernel = torch.exp(-0.5 * (torch.arange(-6.0, 7.0) / 2) ** 2)
        kernel = (kernel / kernel.sum())[None, None]
        smooth = images.mean(1, keepdim=True)
        smooth = torch.nn.functional.conv2d(smooth, kernel[..., None], padding=(6, 0))
        smooth = torch.nn.functional.conv2d(smooth, kernel[..., None, :], padding=(0, 6))[:, 0]
        slope = torch.stack(torch.gradient(smooth, dim=(1, 2)), 1)
        slope = 5 * slope / (slope.norm(dim=1, keepdim=True) + 1e-4)
        out = torch.cat([slope, 20 * (smooth[:, None] - 0.3)], 1)
        return out, torch.zeros(len(images), 256)


@pytest.fixture(scope="module")
def model(peer):
    """Cellpose's model with this network in place of the one that it would download."""
    models = pytest.importorskip("cellpose.models")
    made = object.__new__(models.CellposeModel)
    made.device, made.gpu, made.net = Network.device, False, Network()
    made.backbone, made.pretrained_model = "any", "stand-in"
    return made


@pytest.fixture(scope="module")
def image2d(request):
    return _read(request, "nuclei2d_image.tif")


@pytest.fixture(scope="module")
def image3d(request):
    return _read(request, "nuclei3d_image.tif")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flow_threshold": 0},
        {"flow_threshold": 0.2},
        {"flow_threshold": None},
        {"cellprob_threshold": 1.1},
        {"niter": 0},
        {"niter": 200},
        {"niter": 7},
        {"min_size": -1},
        {"min_size": 200},
        {"max_size_fraction": 0.02},
        {"diameter": 20},
        {"diameter": 20, "resample": False},
        {"diameter": 45},
        {"diameter": 45, "resample": False},
        {"augment": True},
    ],
    ids=str,
)
def test_eval_in_2d(model, image2d, options, fallbacks):
    theirs, ours = both(
        lambda image: model.eval(image, bsize=96, **options), image2d[40:190, 60:220]
    )
    assert_identical(theirs, ours)
    assert theirs[0].max() > 2
    assert fallbacks() == []


def test_options_matter(model, image2d):
    with accelerate():
        found = [
            model.eval(image2d[40:190, 60:220], bsize=96, **options)[0]
            for options in ({}, {"flow_threshold": 0}, {"min_size": 200}, {"niter": 7})
        ]
    assert len({masks.tobytes() for masks in found}) == len(found)


@pytest.mark.parametrize(
    "options",
    [
        {"do_3D": True},
        {"do_3D": True, "anisotropy": 1.5},
        {"do_3D": True, "diameter": 20, "resample": False},
        {"do_3D": True, "diameter": 40},
        {"do_3D": True, "flow3D_smooth": 1, "min_size": -1},
        {"do_3D": True, "niter": 30, "max_size_fraction": 0.05},
        {"stitch_threshold": 0.25},
        {"stitch_threshold": 0.6, "min_size": -1},
        {"stitch_threshold": 0.1, "diameter": 20, "resample": False},
    ],
    ids=str,
)
def test_eval_of_volumes(model, image3d, options, fallbacks):
    def call(image):
        return model.eval(image, z_axis=0, bsize=64, **options)

    theirs, ours = both(call, image3d[:20, :40, :44])
    assert_identical(theirs, ours)
    assert theirs[0].shape == (20, 40, 44)
    assert theirs[0].max() > 3
    assert fallbacks() == []


def test_eval_of_empty_images_and_of_lists(model, image2d):
    images = [np.zeros((70, 90), np.float32), image2d[:100, :120]]
    theirs = model.eval(images, bsize=96)
    with accelerate():
        ours = model.eval(images, bsize=96)
    assert_identical(theirs, ours)
    assert theirs[0][0].max() == 0 < theirs[0][1].max()


# ---- masks from maps ----------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0, 2.2])
@pytest.mark.parametrize("options", [{}, {"min_size": 15}, {"flow_threshold": 0.05}], ids=str)
def test_masks_of_real_nuclei(peer, nuclei2d, noise, options, fallbacks):
    maps = simulate.from_labels(nuclei2d, noise=noise, cellprob_noise=4 * noise, seed=1)
    compute = peer.dynamics.compute_masks
    theirs, ours = both(lambda dP, p: compute(dP, p, **options), maps.dP, maps.cellprob)
    assert_identical(theirs, ours)
    assert fallbacks() == []


@pytest.mark.parametrize("resize", [None, (90, 131), (300, 200)])
def test_resized_masks(peer, nuclei2d, resize):
    maps = simulate.from_labels(nuclei2d[:200, :180], noise=0.5)
    compute = peer.dynamics.resize_and_compute_masks
    call = lambda dP, p: compute(dP, p, resize=resize)  # noqa: E731
    assert_identical(*both(call, maps.dP, maps.cellprob))


def test_seeds_of_one_size_that_overlap_keep_the_order_of_pytorchs_sort(peer):
    """Points stay where they are, in piles of 4 x 4 side by side: hundreds of ties."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:300, :300].astype(np.float32)
    dP = np.stack([1.5 - y % 4, 1.5 - x % 4]) * 5 + rng.normal(0, 1, (2, 300, 300))
    compute = peer.dynamics.compute_masks
    call = lambda dP, p: compute(dP, p, flow_threshold=None)  # noqa: E731
    theirs, ours = both(call, dP.astype(np.float32), np.ones((300, 300), np.float32))
    assert_identical(theirs, ours)
    assert theirs.max() > 1000


def test_more_masks_than_uint16_holds(peer):
    y, x = np.mgrid[:1100, :1100].astype(np.float32)
    dP = np.stack([1.5 - y % 4, 1.5 - x % 4]) * 5
    compute = peer.dynamics.compute_masks
    call = lambda dP, p: compute(dP, p, niter=8, flow_threshold=None)  # noqa: E731
    theirs, ours = both(call, dP, np.ones((1100, 1100), np.float32))
    assert_identical(theirs, ours)
    assert theirs.dtype == np.uint32


# ---- function by function -----------------------------------------------------------------------

SHAPES = st.one_of(
    st.tuples(st.integers(2, 20), st.integers(2, 20)),
    st.tuples(st.integers(2, 7), st.integers(2, 7), st.integers(2, 7)),
)


@given(SHAPES, st.integers(0, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1, 30]))
@settings(max_examples=60, deadline=None)
def test_end_points_have_the_same_bits(peer, shape, niter, seed, length):
    rng = np.random.default_rng(seed)
    points = rng.random(shape) < 0.6
    points.flat[0] = True
    field = (length * rng.standard_normal((len(shape), *shape), np.float32)) * points / 5.0
    where = np.nonzero(points)
    assert_identical(*both(lambda f: peer.dynamics.follow_flows(f, where, niter), field))


@pytest.mark.parametrize("what", ["nan", "inf", "elsewhere", "float64", "order", "thin", "third"])
def test_end_points_that_are_left_to_cellpose(peer, what, fallbacks):
    rng = np.random.default_rng(0)
    shape = (1, 24) if what == "thin" else (20, 24)
    points = rng.random(shape) < 0.7
    field = rng.standard_normal((2, *shape), np.float32) * points / 5.0
    where = np.nonzero(points)
    if what in ("nan", "inf"):
        field[0][tuple(i[5] for i in where)] = float(what)
    elif what == "elsewhere":
        field[0][tuple(i[0] for i in np.nonzero(~points))] = 1
    elif what == "float64":
        field = field.astype(np.float64)
    elif what == "order":
        where = tuple(i[::-1].copy() for i in where)
    elif what == "third":  # the float32 after 8 / 5 is no float32's fifth
        field[0][tuple(i[5] for i in where)] = np.nextafter(np.float32(1.7), np.float32(2))
        field[1][points] = np.nextafter(np.float32(1.9), np.float32(2), dtype=np.float32)
        fifths = np.arange(8, 10, 2.0**-20, dtype=np.float32) / np.float32(5)
        unlike = np.setdiff1d(np.arange(1.6, 2, 2.0**-23, dtype=np.float32)[:64], fifths)
        field[0][points] = unlike[0]
    assert_identical(*both(lambda f: peer.dynamics.follow_flows(f, where, 20), field))
    assert fallbacks() == ["follow_flows"]


@pytest.mark.parametrize("threshold", [0.05, 0.4, 3.0])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32])
def test_bad_masks_go_in_place(peer, nuclei2d, threshold, dtype, fallbacks):
    maps = simulate.from_labels(nuclei2d, noise=1.0)
    flows = maps.dP.copy()
    flows[:, :, 200:] *= -1
    labels = np.unique(nuclei2d, return_inverse=True)[1].reshape(nuclei2d.shape).astype(dtype)
    given_ = [labels.copy(), labels.copy()]
    theirs = peer.dynamics.remove_bad_flow_masks(given_[0], flows, threshold)
    with accelerate():
        ours = peer.dynamics.remove_bad_flow_masks(given_[1], flows, threshold)
    assert_identical(theirs, ours)
    assert_identical(*given_)
    assert fallbacks() == []


def test_an_error_at_the_threshold_is_left_to_cellpose(peer, nuclei2d, fallbacks):
    maps = simulate.from_labels(nuclei2d[:150, :150], noise=1.0)
    labels = np.unique(maps.labels, return_inverse=True)[1].reshape(maps.labels.shape)
    errors = peer.dynamics.flow_error(labels, maps.dP)[0]
    for threshold in (errors[2], np.nextafter(errors[2], 0)):
        call = lambda m, t=threshold: peer.dynamics.remove_bad_flow_masks(m, maps.dP, t)  # noqa: E731
        assert_identical(*both(call, labels))
    assert fallbacks() == ["remove_bad_flow_masks"] * 2


@pytest.mark.parametrize("files", [False, True])
def test_targets(peer, nuclei2d, files, tmp_path, fallbacks):
    call = peer.dynamics.labels_to_flows
    names = [str(tmp_path / f"{i}.tif") for i in range(2)] if files else None
    images = [nuclei2d[:99, :120].astype(np.int32), nuclei2d[200:300, :77].astype(np.int32)]
    theirs = call([i.copy() for i in images], names)
    with accelerate():
        ours = peer.dynamics.labels_to_flows([i.copy() for i in images], names)
        assert peer.dynamics.labels_to_flows is not call
    assert_identical(theirs, ours)
    assert fallbacks() == []
    assert len(list(tmp_path.iterdir())) == 2 * files


PLANES = hnp.arrays(
    st.sampled_from([np.uint16, np.int32, np.uint8]),
    st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 5)),
    elements=st.integers(0, 5),
)


@given(PLANES, st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, 2.0]))
@settings(max_examples=300, deadline=None)
def test_stitched_planes_have_the_same_ids(peer, planes, threshold):
    given_ = [planes.copy(), planes.copy()]
    theirs = peer.utils.stitch3D(given_[0], threshold)
    with accelerate():
        ours = peer.utils.stitch3D(given_[1], threshold)
    assert_identical(theirs, ours)
    assert_identical(*given_)
    assert ours is given_[1]


def test_stitching_that_outgrows_the_dtype_is_left_to_cellpose(peer, fallbacks):
    for most, left in ((100, []), (200, ["stitch3D"])):
        planes = np.full((2, 3, 3), most, np.uint8)
        assert_identical(*both(lambda m: peer.utils.stitch3D(m), planes))
        assert fallbacks() == left


@given(
    hnp.arrays(np.int32, st.just((2, 6, 8)), elements=st.integers(0, 6)),
    st.sampled_from([0.5, [0.1, 0.5, 0.9], np.array([0.3]), [0.0, 1.5]]),
)
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_average_precision(peer, pair, thresholds):
    call = lambda a, b: peer.metrics.average_precision(a, b, thresholds)  # noqa: E731
    assert_identical(*both(call, *pair))
    call = lambda a, b: peer.metrics.average_precision([a, b], [b, b], thresholds)  # noqa: E731
    assert_identical(*both(call, *pair))


def test_average_precision_of_real_nuclei(peer, nuclei2d, fallbacks):
    labels = np.unique(nuclei2d, return_inverse=True)[1].reshape(nuclei2d.shape)
    moved = np.roll(labels, (2, 3), (0, 1))
    theirs, ours = both(lambda a, b: peer.metrics.average_precision(a, b), labels, moved)
    assert_identical(theirs, ours)
    assert 0 < theirs[0][0] < 1
    assert fallbacks() == []


def test_another_device_is_left_to_cellpose(peer, nuclei2d, fallbacks, monkeypatch):
    maps = simulate.from_labels(nuclei2d[:60, :60])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with accelerate(), pytest.raises((AssertionError, RuntimeError)):  # there is no GPU
        peer.dynamics.compute_masks(maps.dP, maps.cellprob, device=torch.device("cuda"))
    assert fallbacks() == ["follow_flows"]


# ---- what is swapped, and when ------------------------------------------------------------------


def swapped(originals):
    return {f is not getattr(sys.modules[m], name) for (m, name), f in originals.items()}


def test_signatures_are_cellposes(originals):
    with accelerate():
        for (module, name), original in originals.items():
            stand_in = getattr(sys.modules[module], name)
            assert stand_in is not original
            assert inspect.signature(stand_in) == inspect.signature(original)
            assert (stand_in.__name__, stand_in.__doc__) == (original.__name__, original.__doc__)


def test_names_that_modules_imported_are_swapped_too(peer, originals, monkeypatch):
    module = importlib.import_module("cellpose.transforms")
    stitch3D = peer.utils.stitch3D
    monkeypatch.setattr(module, "their_own_name", stitch3D, raising=False)
    with accelerate():
        assert module.their_own_name is peer.utils.stitch3D is not stitch3D
        module.imported_meanwhile = peer.utils.stitch3D
    assert module.their_own_name is module.imported_meanwhile is stitch3D
    del module.imported_meanwhile


def test_calls_are_counted(originals):
    first = accelerate()
    with accelerate() as second:
        first.restore()
        first.restore()
        assert swapped(originals) == {True}
        with second:
            pass
        assert swapped(originals) == {False}
    assert swapped(originals) == {False}


def test_an_exception_restores(originals):
    with pytest.raises(AssertionError, match="of the block"), accelerate():
        assert swapped(originals) == {False}, "of the block"
    assert swapped(originals) == {False}


def test_restore_ends_all(originals):
    handles = [accelerate(), accelerate()]
    restore()
    assert swapped(originals) == {False}
    with accelerate():
        handles[0].restore()
        assert swapped(originals) == {True}


def test_bad_arguments_raise_what_cellpose_raises(peer):
    calls = [
        lambda: peer.utils.stitch3D(),
        lambda: peer.dynamics.follow_flows(np.zeros((2, 3, 3), np.float32), inds=None),
        lambda: peer.metrics.average_precision([np.zeros((3, 3), int)], []),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError)) as theirs:
            call()
        with accelerate(), pytest.raises(theirs.type):
            call()


# ---- Cellpose 3 ---------------------------------------------------------------------------------

IN_CELLPOSE_3 = """
import sys
import numpy as np, peers, simulate
from cellpost.integrations.cellpose import accelerate

peer = peers.cellpose()
assert peer.__file__.startswith(sys.argv[1]), peer.__file__
labels = simulate.blobs((90, 110), 30, seed=1)
volume = simulate.blobs((20, 40, 44), 14, seed=1)
planes = np.stack([np.roll(labels, z, 1) for z in range(4)]).astype(np.uint16)
rank = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
flat, deep = (simulate.from_labels(a, noise=0.5) for a in (labels, volume))

def results():
    compute = peer.dynamics.compute_masks
    yield compute(flat.dP, flat.cellprob, min_size=15)
    yield compute(flat.dP, flat.cellprob, interp=False)
    yield compute(deep.dP, deep.cellprob, do_3D=True, min_size=15)
    cpu = peer.dynamics.torch.device("cpu")
    yield peer.dynamics.labels_to_flows([labels.copy()], device=cpu)[0]
    yield peer.utils.stitch3D(planes.copy())
    yield from peer.metrics.average_precision(rank, np.roll(rank, 2, 1))

theirs = list(results())
with accelerate():
    ours = list(results())
for a, b in zip(theirs, ours, strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
assert all(a.max() > 0 for a in theirs[:5])
print("same", len(theirs))
"""


@pytest.mark.skipif(not CELLPOSE_3, reason="CELLPOST_CELLPOSE3: no folder with Cellpose 3")
def test_cellpose_3():
    tests = Path(__file__).parent
    path = os.pathsep.join([CELLPOSE_3, str(tests), str(tests.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_CELLPOSE_3, CELLPOSE_3],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "same 9\n"
