"""The arrays that callers hand in, and the results of their kind that they get back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from array_api_compat import (
    array_namespace,
    device,
    is_cupy_array,
    is_jax_array,
    is_torch_array,
)

# The array libraries share no static types; inputs and results are of the caller's own kind.
Array = Any

_INTEGER_DTYPES = (
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)
_CPU_DLPACK_DEVICES = (1, 3)


class Arrays:
    """The array arguments of one call: of one library, on one device.

    Parameters are the arguments by name. `self[name]` is the array as the kernels take it;
    outputs are allocated by the caller's library (NumPy where that library cannot be written to)
    and handed back with `result`.
    """

    def __init__(self, **arguments: Array) -> None:
        self._arrays: dict[str, Array] = {}
        self._first = next(iter(arguments))
        kinds = {name: _kind(name, array) for name, array in arguments.items()}
        self.kind = kinds[self._first]
        for name, array in arguments.items():
            if kinds[name] != self.kind:
                raise TypeError(
                    f"{name}: expected an array of the library that {self._first} is of, "
                    f"{self.kind}; got {kinds[name]}"
                )
            self._arrays[name] = self._readable(name, array)
        self._original = arguments[self._first]
        devices = {name: str(self._device_of(array)) for name, array in self._arrays.items()}
        for name, where in devices.items():
            if where != devices[self._first]:
                raise ValueError(
                    f"{name}: expected the device of {self._first}, {devices[self._first]}; "
                    f"got {where}"
                )
        self.xp = array_namespace(self._arrays[self._first])
        self.stream = self._current_stream()

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def _readable(self, name: str, array: Array) -> Array:
        """The array as the kernels can read it: never written to; copied for its byte order."""
        if self.kind == "torch":
            if array.device.type not in ("cpu", "cuda"):
                raise ValueError(f"{name}: expected a CPU or CUDA tensor; got {array.device}")
            if array.layout.__str__() != "torch.strided":
                raise TypeError(f"{name}: expected a dense tensor; got layout {array.layout}")
            return array.detach().resolve_conj().resolve_neg()
        if self.kind == "numpy":  # kernels know this machine's byte order alone
            return array.astype(array.dtype.newbyteorder("="), copy=False)
        if self.kind == "cupy":
            return array
        if self.kind != "jax" and array.__dlpack_device__()[0] not in _CPU_DLPACK_DEVICES:
            raise ValueError(
                f"{name}: expected a CPU array, or one of PyTorch or CuPy on a CUDA device; "
                f"got {type(array).__name__} on DLPack device {array.__dlpack_device__()}"
            )
        if self.kind == "jax" and device(array).platform != "cpu":
            raise ValueError(f"{name}: expected a JAX array on the CPU; got {device(array)}")
        return np.asarray(array) if self.kind == "jax" else np.from_dlpack(array)

    @property
    def device(self) -> Any:
        """Where the arrays are, as their library names it."""
        return device(self._arrays[self._first])

    def _device_of(self, array: Array) -> Any:
        return device(array)

    def _current_stream(self) -> int:
        first = self._arrays[self._first]
        if self.kind == "torch" and first.device.type == "cuda":
            import torch

            return int(torch.cuda.current_stream(first.device).cuda_stream)
        if self.kind == "cupy":
            import cupy

            return int(cupy.cuda.get_current_stream().ptr)
        return 0

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """A new array for the kernels to write to."""
        first = self._arrays[self._first]
        return self.xp.empty(shape, dtype=getattr(self.xp, dtype), device=device(first))

    def ones_bool(self) -> Array:
        """One True, to be broadcast."""
        first = self._arrays[self._first]
        return self.xp.ones((1,), dtype=self.xp.bool, device=device(first))

    def also(self, name: str, array: Array) -> Array:
        """Another array, as the kernels take it, of the same library and device."""
        return Arrays(**{self._first: self._original, name: array})[name]

    def real(self, name: str) -> Array:
        """An array of an integer or floating dtype; integers as float64."""
        dtype = dtype_name(self[name])
        if dtype in _INTEGER_DTYPES:
            return self.xp.astype(self[name], self.xp.float64)
        if "float" not in dtype:
            raise TypeError(f"{name}: expected a real dtype; got {dtype}")
        return self[name]

    def bool_mask(self, name: str) -> Array:
        """A mask as the kernels take it: an integer one is foreground where it is not 0."""
        mask = self[name]
        dtype = dtype_name(mask)
        if dtype == "bool":
            return mask
        if dtype not in _INTEGER_DTYPES:
            raise TypeError(f"{name}: expected a bool or integer dtype; got {dtype}")
        return mask != 0

    def int32_labels(self, name: str, *, to_write: bool) -> tuple[Array, Array | None]:
        """Labels as a contiguous int32 array, and the ids behind them if these were replaced.

        A new array if it is to be written to, or if the caller's is not one already. Ids that
        int32 cannot hold, or so sparse that a table of them would dwarf the image, are replaced by
        their rank; `ids[rank]` gives them back.
        """
        labels = self[name]
        dtype = dtype_name(labels)
        if dtype not in _INTEGER_DTYPES:
            raise TypeError(f"{name}: expected an integer dtype; got {dtype}")
        shape = tuple(labels.shape)
        if len(shape) not in (2, 3):
            raise ValueError(f"{name}: expected 2 axes (H, W) or 3 axes (D, H, W); got {shape}")
        n_pixels = int(np.prod(shape))
        xp = self.xp
        ids = None
        if n_pixels > 0 and dtype in ("int8", "int16") and (lowest := int(xp.min(labels))) < 0:
            raise ValueError(f"{name}: expected ids >= 0; got {lowest}")
        if n_pixels > 0 and dtype in ("int32", "int64", "uint32", "uint64"):
            # CUDA has no kernels for torch's wide unsigned types; on the CPU NumPy sees them too.
            wide = self._as_int64(name, labels, dtype)
            lowest, largest = int(xp.min(wide)), int(xp.max(wide))
            if lowest < 0:
                raise ValueError(f"{name}: expected ids >= 0; got {lowest}")
            if largest > 4 * n_pixels + 2**20 or largest > 2**31 - 1:
                ids, ranks = xp.unique_inverse(wide)
                labels = xp.reshape(ranks, shape)
                if int(ids[0]) != 0:
                    labels = labels + 1
                    ids = xp.concat([xp.zeros_like(ids[:1]), ids])
            else:
                labels = wide
        if not to_write and dtype_name(labels) == "int32" and is_c_contiguous(labels):
            return labels, ids
        copy = self.empty(shape, "int32")
        copy[...] = labels
        return copy, ids

    def _as_int64(self, name: str, labels: Array, dtype: str) -> Array:
        if dtype in ("int32", "int64"):
            return labels
        wide = self.xp.astype(labels, self.xp.int64)
        if dtype == "uint64" and int(self.xp.min(wide)) < 0:
            raise ValueError(f"{name}: expected ids below 2**63; got a larger one")
        return wide

    def result(self, array: Array) -> Array:
        """The array as one of the caller's kind."""
        if self.kind == "jax":
            import jax.numpy as jnp

            return jnp.asarray(array)
        if self.kind == "dlpack":
            namespace = getattr(self._original, "__array_namespace__", None)
            from_dlpack = getattr(namespace(), "from_dlpack", None) if namespace else None
            return from_dlpack(array) if from_dlpack else array
        return array

    def labels_as(self, name: str, labels: Array, ids: Array | None) -> Array:
        """An int32 copy, worked on, as the caller's labels were: their ids, dtype and kind."""
        xp, dtype = self.xp, dtype_name(self[name])
        largest = int(xp.max(labels)) if 0 not in labels.shape else 0
        if ids is not None:
            n_new = largest + 1 - ids.shape[0]
            if n_new > 0:  # objects that the call made get ids above the largest
                # Wide unsigned ids are handled as int64.
                check_fits(int(ids[-1]) + n_new, "int64" if dtype == "uint64" else dtype, name)
                ids = xp.concat([ids, ids[-1] + xp.arange(1, n_new + 1, dtype=ids.dtype)])
            labels = ids[xp.astype(labels, xp.int64)]
            largest = int(xp.max(labels))
        check_fits(largest, dtype, name)
        return self.result(xp.astype(labels, getattr(xp, dtype), copy=False))

    def labels_result(self, labels: Array, n_labels: int, out_dtype: Any) -> Array:
        """Labels in the dtype that was asked for, which must be able to hold n_labels."""
        if out_dtype is None:
            return self.result(labels)
        name = named_dtype("out_dtype", out_dtype, _INTEGER_DTYPES, "an integer dtype")
        check_fits(n_labels, name)
        return self.result(self.xp.astype(labels, getattr(self.xp, name)))


def named_dtype(argument: str, dtype: Any, among: Sequence[str], expected: str) -> str:
    """Name of a dtype of whatever library, or an error that names the argument."""
    name = getattr(dtype, "__name__", str(dtype)).removeprefix("torch.")
    if name not in among:
        try:
            name = np.dtype(dtype).name
        except TypeError:
            pass
    if name not in among:
        raise TypeError(f"{argument}: expected {expected}; got {dtype!r}")
    return name


def check_fits(n_labels: int, dtype: str, name: str = "out_dtype") -> None:
    """Raise OverflowError if ids up to n_labels do not fit the dtype."""
    largest = int(np.iinfo(dtype).max)
    if n_labels > largest:
        raise OverflowError(
            f"{name}: expected a dtype that holds ids up to {n_labels}; got {dtype}, "
            f"which ends at {largest}"
        )


def is_c_contiguous(array: Array) -> bool:
    if is_torch_array(array):
        return bool(array.is_contiguous())
    return bool(array.flags.c_contiguous)


def dtype_name(array: Array) -> str:
    return str(array.dtype).removeprefix("torch.")


def to_host(array: Array) -> Any:
    """A NumPy array of the same values."""
    if hasattr(array, "detach"):
        return array.detach().cpu().numpy()
    return array.get() if hasattr(array, "get") else np.asarray(array)


def _kind(name: str, array: Array) -> str:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected a plain array; got a MaskedArray (fill its masked values first)"
        )
    if isinstance(array, np.ndarray):
        return "numpy"
    if is_torch_array(array):
        return "torch"
    if is_cupy_array(array):
        return "cupy"
    if is_jax_array(array):
        return "jax"
    if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        return "dlpack"
    raise TypeError(
        f"{name}: expected an array of NumPy, PyTorch, CuPy, JAX or any other library with "
        f"DLPack; got {type(array).__name__}"
    )
