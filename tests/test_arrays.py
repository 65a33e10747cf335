"""Arrays in, arrays of the same kind on the same device out."""

from __future__ import annotations

import array_kinds
import numpy as np
import pytest
from test_flows import simulated

import cellpost


@pytest.fixture(scope="module")
def maps():
    return simulated((60, 70), noise=1.0, seed=11)


def every_function(kind, maps):
    """{name: (result, its dtype as NumPy names it)}, all computed from arrays of one kind."""
    dP, cellprob = kind.put(maps.dP), kind.put(maps.cellprob)
    mask, labels = kind.put(maps.cellprob > 0), kind.put(maps.labels)
    ends = kind.put(cellpost.flow_endpoints(maps.dP, maps.cellprob > 0))
    return {
        "follow_flows": (cellpost.follow_flows(dP, cellprob), "int32"),
        "follow_flows uint8": (cellpost.follow_flows(dP, cellprob, out_dtype="uint8"), "uint8"),
        "flow_endpoints": (cellpost.flow_endpoints(dP, mask), "float32"),
        "endpoints_to_labels": (cellpost.endpoints_to_labels(ends, mask), "int32"),
        "masks_to_flows": (cellpost.masks_to_flows(labels), "float32"),
        "flow_error": (cellpost.flow_error(labels, dP), "float64"),
        "remove_bad_flows": (cellpost.remove_bad_flows(labels, dP), "int32"),
        "fill_holes": (cellpost.fill_holes(labels), "int32"),
        "remove_small": (cellpost.remove_small(labels), "int32"),
        "remove_large": (cellpost.remove_large(labels), "int32"),
        "resolve_fragments": (cellpost.resolve_fragments(labels, fragments="largest"), "int32"),
        "relabel": (cellpost.relabel(labels), "int32"),
    }


def test_results_are_of_the_callers_kind_and_on_its_device(kind, maps):
    expected = every_function(array_kinds.NUMPY, maps)
    for name, (result, dtype) in every_function(kind, maps).items():
        assert kind.owns(result), name
        if kind.name == "jax" and dtype == "float64":
            dtype = kind.get(result).dtype.name  # JAX narrows float64 unless told not to
        as_numpy = kind.get(result)
        assert as_numpy.dtype == dtype, name
        if dtype == expected[name][1]:
            assert as_numpy.tobytes() == expected[name][0].tobytes(), name
        else:
            np.testing.assert_allclose(as_numpy, expected[name][0], rtol=1e-6, err_msg=name)


def test_results_can_be_written_to_and_belong_to_the_caller(kind, maps):
    if kind.name == "jax":
        pytest.skip("JAX arrays are never written to")
    first = cellpost.follow_flows(kind.put(maps.dP), kind.put(maps.cellprob))
    again = cellpost.follow_flows(kind.put(maps.dP), kind.put(maps.cellprob))
    before = kind.get(again).copy()
    first[...] = 7
    np.testing.assert_array_equal(kind.get(again), before)
    assert (kind.get(first) == 7).all()


def test_arrays_of_two_kinds_are_rejected(maps):
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"^cellprob: expected .*numpy.*torch"):
        cellpost.follow_flows(maps.dP, torch.from_numpy(maps.cellprob))
    with pytest.raises(TypeError, match=r"^mask: expected .*torch.*numpy"):
        cellpost.flow_endpoints(torch.from_numpy(maps.dP), maps.cellprob > 0)
    with pytest.raises(TypeError, match=r"^dP: expected .*numpy.*torch"):
        cellpost.flow_error(maps.labels, torch.from_numpy(maps.dP))


@pytest.mark.gpu
def test_tensors_on_two_devices_are_rejected(maps):
    why_not = array_kinds.TORCH_CUDA.why_not()
    if why_not:
        pytest.skip(why_not)
    on_gpu = array_kinds.TORCH_CUDA.put(maps.dP)
    on_cpu = array_kinds.TORCH.put(maps.cellprob)
    with pytest.raises(ValueError, match=r"^cellprob: expected .*cuda.*cpu"):
        cellpost.follow_flows(on_gpu, on_cpu)
    if not cellpost.info()["cuda_usable"]:
        with pytest.raises(RuntimeError, match="CUDA"):
            cellpost.masks_to_flows(array_kinds.TORCH_CUDA.put(maps.labels))


def test_tensors_of_other_devices_and_layouts_are_rejected(maps):
    torch = pytest.importorskip("torch")
    dP, cellprob = torch.from_numpy(maps.dP), torch.from_numpy(maps.cellprob)
    with pytest.raises(ValueError, match=r"^dP: expected .*meta"):
        cellpost.follow_flows(dP.to("meta"), cellprob.to("meta"))
    with pytest.raises(TypeError, match=r"^cellprob: expected .*sparse"):
        cellpost.follow_flows(dP, cellprob.to_sparse())


def test_tensors_that_require_grad_give_plain_labels(maps):
    torch = pytest.importorskip("torch")
    dP = torch.from_numpy(maps.dP.copy()).requires_grad_()
    cellprob = torch.from_numpy(maps.cellprob.copy()).requires_grad_()
    twice = dP * 1.0  # not a leaf: has a grad_fn
    expected = cellpost.follow_flows(maps.dP, maps.cellprob)
    for field in (dP, twice):
        got = cellpost.follow_flows(field, cellprob)
        assert not got.requires_grad
        np.testing.assert_array_equal(got.numpy(), expected)
        ends = cellpost.flow_endpoints(field, cellprob > 0)
        assert not ends.requires_grad
    assert dP.requires_grad
    assert dP.grad is None


def test_bfloat16_tensors_are_computed_in_float32(maps):
    torch = pytest.importorskip("torch")
    dP, cellprob = torch.from_numpy(maps.dP), torch.from_numpy(maps.cellprob)
    half = dP.bfloat16(), cellprob.bfloat16()
    got = cellpost.follow_flows(*half)
    expected = cellpost.follow_flows(half[0].float(), half[1].float())
    assert expected.any()
    assert torch.equal(got, expected)
    assert not torch.equal(half[0].float(), dP)
    error = cellpost.flow_error(torch.from_numpy(maps.labels), half[0])
    assert torch.equal(error, cellpost.flow_error(torch.from_numpy(maps.labels), half[0].float()))


def test_strided_tensors_give_the_same_labels(maps):
    torch = pytest.importorskip("torch")
    expected = cellpost.follow_flows(maps.dP, maps.cellprob)
    channels_last = torch.from_numpy(np.moveaxis(maps.dP, 0, -1).copy()).permute(2, 0, 1)
    turned = torch.from_numpy(maps.cellprob.T.copy()).T
    every_other = torch.zeros(2, 60, 140)
    every_other[..., ::2] = channels_last
    assert not channels_last.is_contiguous()
    for dP in (channels_last, every_other[..., ::2]):
        np.testing.assert_array_equal(cellpost.follow_flows(dP, turned).numpy(), expected)


def test_lazily_negated_tensors_are_read_as_their_values(maps):
    torch = pytest.importorskip("torch")
    negated = torch._neg_view(torch.from_numpy(-maps.dP))
    assert negated.is_neg()
    got = cellpost.follow_flows(negated, torch.from_numpy(maps.cellprob))
    np.testing.assert_array_equal(got.numpy(), cellpost.follow_flows(maps.dP, maps.cellprob))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("other", ["float16", "float32", "float64"])
def test_every_pair_of_float_dtypes_is_read_in_every_kind(dtype, other, kind, maps):
    dP, cellprob = maps.dP.astype(dtype), maps.cellprob.astype(other)
    got = cellpost.follow_flows(kind.put(dP), kind.put(cellprob))
    expected = cellpost.follow_flows(dP.astype(np.float32), cellprob.astype(np.float32))
    np.testing.assert_array_equal(kind.get(got), expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "int64", "uint32"])
def test_every_integer_dtype_of_labels_is_read_and_kept_in_every_kind(dtype, kind, maps):
    if dtype.startswith("uint") and dtype != "uint8" and kind.name == "torch-cuda":
        pytest.skip("torch has few kernels for wide unsigned tensors on CUDA")
    labels = maps.labels.astype(dtype)
    given = kind.put(labels)  # JAX narrows 64-bit integers unless told not to
    got = cellpost.remove_small(given, min_size=60)
    assert kind.get(got).dtype == (kind.get(given).dtype if kind.name == "jax" else dtype)
    np.testing.assert_array_equal(kind.get(got), cellpost.remove_small(maps.labels, min_size=60))
    flows = kind.get(cellpost.masks_to_flows(kind.put(labels)))
    np.testing.assert_array_equal(flows, cellpost.masks_to_flows(maps.labels))


def test_torch_dtypes_are_accepted_as_out_dtype(maps):
    torch = pytest.importorskip("torch")
    dP, cellprob = torch.from_numpy(maps.dP), torch.from_numpy(maps.cellprob)
    for out_dtype in (torch.int64, "int64", np.int64):
        assert cellpost.follow_flows(dP, cellprob, out_dtype=out_dtype).dtype == torch.int64
    with pytest.raises(TypeError, match=r"^out_dtype: expected .*float32"):
        cellpost.follow_flows(dP, cellprob, out_dtype=torch.float32)


def test_subclasses_and_views_of_numpy_arrays_are_read(tmp_path, maps):
    expected = cellpost.follow_flows(maps.dP, maps.cellprob)
    np.save(tmp_path / "dP.npy", maps.dP)
    mapped = np.load(tmp_path / "dP.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(cellpost.follow_flows(mapped, maps.cellprob), expected)
    stack = np.concatenate([maps.dP, maps.cellprob[None]])
    np.testing.assert_array_equal(cellpost.follow_flows(stack[:2], stack[2]), expected)


def test_a_memory_offset_inside_a_tensor_is_respected(maps):
    torch = pytest.importorskip("torch")
    stack = torch.from_numpy(np.concatenate([np.zeros_like(maps.dP), maps.dP]))
    got = cellpost.follow_flows(stack[2:], torch.from_numpy(maps.cellprob))
    np.testing.assert_array_equal(got.numpy(), cellpost.follow_flows(maps.dP, maps.cellprob))


def test_the_inputs_memory_is_released_after_the_call(maps):
    import gc
    import weakref

    class Watched(np.ndarray):
        """An array that a weak reference can watch."""

    dP = maps.dP.copy().view(Watched)
    watch = weakref.ref(dP)
    cellpost.follow_flows(dP, maps.cellprob)
    held = array_kinds.DlpackOnly(dP)
    cellpost.follow_flows(held, array_kinds.DlpackOnly(maps.cellprob))
    del dP, held
    gc.collect()
    assert watch() is None


def test_importing_cellpost_imports_no_array_library_but_numpy():
    import subprocess
    import sys

    code = "import cellpost, sys; print([m for m in ('torch', 'cupy', 'jax') if m in sys.modules])"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.strip() == "[]"
