"""Wrong arguments of the flows family: the error's kind, and a message that says what was wrong."""

from __future__ import annotations

import numpy as np
import pytest

import cellpost

DP = np.zeros((2, 12, 14), np.float32)
DP3 = np.zeros((3, 5, 12, 14), np.float32)
CELLPROB = np.ones((12, 14), np.float32)
CELLPROB3 = np.ones((5, 12, 14), np.float32)
MASK = CELLPROB > 0
LABELS = np.ones((12, 14), np.int32)
ENDS = np.zeros((2, MASK.size), np.float32)

follow, ends, to_labels = (
    cellpost.follow_flows,
    cellpost.flow_endpoints,
    cellpost.endpoints_to_labels,
)
targets, error, bad_flows = (
    cellpost.masks_to_flows,
    cellpost.flow_error,
    cellpost.remove_bad_flows,
)


def raises(expected, argument, got, function, *args, **options):
    """The error names the argument first and says what came."""
    with pytest.raises(expected) as caught:
        function(*args, **options)
    message = str(caught.value)
    assert message.startswith(argument), message
    assert "expected" in message, message
    assert got in message, message


# ---- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dP", "cellprob", "argument", "got"),
    [
        (DP[0], CELLPROB, "dP", "(12, 14)"),
        (DP[None], CELLPROB, "dP", "(1, 2, 12, 14)"),
        (DP3, CELLPROB, "dP", "(3, 5, 12, 14)"),
        (DP, CELLPROB3, "dP", "(2, 12, 14)"),
        (DP[:1], CELLPROB, "dP", "(1, 12, 14)"),
        (np.zeros((3, 12, 14), np.float32), CELLPROB, "dP", "(3, 12, 14)"),
        (DP3[:2], CELLPROB3, "dP", "(2, 5, 12, 14)"),
        (DP[:, :, 1:], CELLPROB, "dP", "(2, 12, 13)"),
        (DP[:, 1:], CELLPROB, "dP", "(2, 11, 14)"),
        (DP.transpose(1, 2, 0), CELLPROB, "dP", "(12, 14, 2)"),
        (DP.transpose(0, 2, 1), CELLPROB, "dP", "(2, 14, 12)"),
        (DP, CELLPROB[0], "cellprob", "(14,)"),
        (DP, CELLPROB[None, None], "cellprob", "(1, 1, 12, 14)"),
        (DP, np.ones((), np.float32), "cellprob", "()"),
    ],
)
def test_shapes_that_do_not_go_together_are_rejected(dP, cellprob, argument, got, device):
    raises(ValueError, argument, got, follow, device.put(dP), device.put(cellprob))
    mask = device.put(np.asarray(cellprob > 0))
    other = argument if argument == "dP" else "mask"
    raises(ValueError, other, got, ends, device.put(dP), mask)


@pytest.mark.parametrize("shape", [(1, 2**23 + 1), (50_000, 50_000, 1)])
def test_images_beyond_what_is_counted_exactly_are_rejected(shape):
    dP = np.broadcast_to(np.float32(0), (len(shape), *shape))  # one value in memory
    mask = np.broadcast_to(np.bool_(False), shape)
    raises(ValueError, "mask", str(shape), ends, dP, mask)


@pytest.mark.parametrize(
    ("points", "got"),
    [
        (ENDS[:1], "(1, 168)"),
        (ENDS[:, 1:], "(2, 167)"),
        (ENDS.T, "(168, 2)"),
        (ENDS[0], "(168,)"),
        (np.zeros((3, MASK.size), np.float32), "(3, 168)"),
    ],
)
def test_end_points_that_do_not_fit_the_mask_are_rejected(points, got, device):
    raises(ValueError, "endpoints", got, to_labels, device.put(points), device.put(MASK))


@pytest.mark.parametrize("shape", [(12,), (1, 5, 12, 14), ()], ids=str)
def test_labels_of_the_wrong_rank_are_rejected(shape, device):
    labels = device.put(np.ones(shape, np.int32))
    raises(ValueError, "labels", str(shape), targets, labels)


@pytest.mark.parametrize("function", [error, bad_flows])
def test_labels_of_another_shape_than_the_flows_are_rejected(function, device):
    raises(ValueError, "dP", "(2, 12, 14)", function, device.put(LABELS[1:]), device.put(DP))
    raises(ValueError, "dP", "(3, 5, 12, 14)", function, device.put(LABELS), device.put(DP3))


# ---- dtypes and kinds ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "complex64", "complex128", "bool"])
def test_maps_that_are_not_float_are_rejected(dtype, device):
    raises(TypeError, "dP", dtype, follow, device.put(DP.astype(dtype)), device.put(CELLPROB))
    raises(TypeError, "cellprob", dtype, follow, device.put(DP), device.put(CELLPROB.astype(dtype)))
    raises(TypeError, "dP", dtype, ends, device.put(DP.astype(dtype)), device.put(MASK))
    raises(TypeError, "dP", dtype, error, device.put(LABELS), device.put(DP.astype(dtype)))
    raises(TypeError, "dP", dtype, bad_flows, device.put(LABELS), device.put(DP.astype(dtype)))


@pytest.mark.parametrize("dtype", ["longdouble", "object", "U3"])
def test_dtypes_that_only_numpy_has_are_rejected(dtype):
    with pytest.raises(TypeError, match=r"^dP: expected"):
        follow(DP.astype(dtype), CELLPROB)
    with pytest.raises(TypeError, match=r"^cellprob: expected"):
        follow(DP, CELLPROB.astype(dtype))


def test_a_mask_of_nothing_is_rejected():
    raises(TypeError, "mask", "void", ends, DP, np.empty(MASK.shape, "V0"))


def test_a_mask_that_is_not_bool_is_rejected(device):
    for mask in (CELLPROB, LABELS):
        raises(TypeError, "mask", str(mask.dtype), ends, device.put(DP), device.put(mask))
        raises(TypeError, "mask", str(mask.dtype), to_labels, device.put(ENDS), device.put(mask))


def test_end_points_that_are_not_float_are_rejected(device):
    points = device.put(ENDS.astype(np.int64))
    raises(TypeError, "endpoints", "int64", to_labels, points, device.put(MASK))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_labels_that_are_not_integers_are_rejected(dtype, device):
    labels = device.put(LABELS.astype(dtype))
    raises(TypeError, "labels", dtype, targets, labels)
    raises(TypeError, "labels", dtype, error, labels, device.put(DP))
    raises(TypeError, "labels", dtype, bad_flows, labels, device.put(DP))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_negative_labels_are_rejected(dtype, device):
    labels = LABELS.astype(dtype)
    labels[3, 4] = -2
    raises(ValueError, "labels", "-2", targets, device.put(labels))
    raises(ValueError, "labels", "-2", error, device.put(labels), device.put(DP))
    raises(ValueError, "labels", "-2", bad_flows, device.put(labels), device.put(DP))


@pytest.mark.parametrize("thing", [None, 3.0, "dP", [[1.0]], {"dP": 1}, object()], ids=repr)
def test_things_that_are_not_arrays_are_rejected(thing):
    name = type(thing).__name__
    raises(TypeError, "dP", name, follow, thing, CELLPROB)
    raises(TypeError, "cellprob", name, follow, DP, thing)
    raises(TypeError, "mask", name, ends, DP, thing)
    raises(TypeError, "endpoints", name, to_labels, thing, MASK)
    raises(TypeError, "labels", name, targets, thing)
    raises(TypeError, "labels", name, error, thing, DP)


def test_a_masked_array_is_rejected_since_its_mask_would_be_ignored():
    raises(TypeError, "dP", "MaskedArray", follow, np.ma.masked_array(DP), CELLPROB)


# ---- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected", "got"),
    [
        ({"niter": -1}, ValueError, "-1"),
        ({"niter": 2.5}, TypeError, "2.5"),
        ({"niter": None}, TypeError, "None"),
        ({"niter": 2**40}, ValueError, "1099511627776"),
        ({"niter": 2**70}, ValueError, str(2**70)),
        ({"min_size": -(2**70)}, ValueError, str(-(2**70))),
        ({"cellprob_threshold": np.nan}, ValueError, "nan"),
        ({"cellprob_threshold": "high"}, TypeError, "high"),
        ({"cellprob_threshold": None}, TypeError, "None"),
        ({"flow_threshold": np.nan}, ValueError, "nan"),
        ({"flow_threshold": "low"}, TypeError, "low"),
        ({"min_size": 2.5}, TypeError, "2.5"),
        ({"min_size": np.nan}, TypeError, "nan"),
        ({"max_size_fraction": np.nan}, ValueError, "nan"),
        ({"max_size_fraction": -0.1}, ValueError, "-0.1"),
        ({"max_size_fraction": None}, TypeError, "None"),
        ({"fill_holes": "yes"}, ValueError, "yes"),
        ({"fill_holes": None}, ValueError, "None"),
        ({"fragments": "drop"}, ValueError, "drop"),
        ({"fragments": None}, ValueError, "None"),
        ({"sampling": "nearest"}, ValueError, "nearest"),
        ({"sampling": 1}, ValueError, "1"),
        ({"out_dtype": "float32"}, TypeError, "float32"),
        ({"out_dtype": "blob"}, TypeError, "blob"),
        ({"out_dtype": bool}, TypeError, "bool"),
    ],
    ids=str,
)
def test_options_out_of_range_are_rejected(options, expected, got, device):
    (name,) = options
    with pytest.raises(expected) as caught:
        follow(device.put(DP), device.put(CELLPROB), **options)
    message = str(caught.value)
    assert message.startswith(name), message
    assert "expected" in message, message
    assert got.lower() in message.lower(), message


def test_options_of_the_single_stages_are_checked_too(device):
    dP, mask, labels = device.put(DP), device.put(MASK), device.put(LABELS)
    raises(ValueError, "niter", "-1", ends, dP, mask, niter=-1)
    raises(ValueError, "sampling", "nearest", ends, dP, mask, sampling="nearest")
    raises(ValueError, "max_size_fraction", "-1", to_labels, device.put(ENDS), mask,
           max_size_fraction=-1.0)  # fmt: skip
    raises(TypeError, "out_dtype", "float64", to_labels, device.put(ENDS), mask,
           out_dtype="float64")  # fmt: skip
    raises(ValueError, "niter", "-1", targets, labels, niter=-1)
    raises(TypeError, "niter", "1.5", targets, labels, niter=1.5)
    for nan in (np.nan, float("nan")):
        with pytest.raises(ValueError, match=r"(?i)^flow_threshold.*nan"):
            bad_flows(labels, dP, flow_threshold=nan)


def test_options_go_by_keyword_only():
    for function, args in [
        (follow, (DP, CELLPROB)),
        (ends, (DP, MASK)),
        (to_labels, (ENDS, MASK)),
        (targets, (LABELS,)),
        (bad_flows, (LABELS, DP)),
    ]:
        with pytest.raises(TypeError):
            function(*args, 0)


def test_a_rejected_call_leaves_the_next_one_unharmed(device):
    dP, cellprob = device.put(DP), device.put(CELLPROB)
    expected = device.get(follow(dP, cellprob))
    for _ in range(3):
        with pytest.raises(ValueError, match="niter"):
            follow(dP, cellprob, niter=-1)
        np.testing.assert_array_equal(device.get(follow(dP, cellprob)), expected)
