"""The kinds of arrays that users bring, and how to make and read each."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np


class DlpackOnly:
    """An array of a library cellpost has never heard of: it has DLPack and nothing else."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **kwargs):
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


@dataclass(frozen=True)
class Kind:
    """One kind of array on one device."""

    name: str
    module: str = "numpy"
    on_cuda: bool = False

    def why_not(self):
        """None where arrays of this kind can be made here."""
        try:
            library = importlib.import_module(self.module)
        except ImportError:
            return f"{self.module} is not installed"
        try:
            if self.module == "torch" and self.on_cuda and not library.cuda.is_available():
                return "torch sees no CUDA device"
            if self.module == "cupy" and library.cuda.runtime.getDeviceCount() < 1:
                return "cupy sees no CUDA device"
        except Exception as error:  # cupy without a driver raises an error class of its own
            return f"{self.module} sees no CUDA device: {error}"
        return None

    def put(self, array):
        """The array in this kind. Keeps strides where the kind has them."""
        library = importlib.import_module(self.module)
        if self.name == "numpy":
            return array
        if self.name == "dlpack":
            return DlpackOnly(array)
        if self.module == "torch":
            return library.from_numpy(array).to("cuda" if self.on_cuda else "cpu")
        return library.asarray(array)

    def get(self, array):
        """The array as NumPy's."""
        if isinstance(array, np.ndarray):
            return array
        if self.module == "torch":
            return array.cpu().numpy()
        if self.module == "cupy":
            return array.get()
        return np.asarray(array)

    def owns(self, array):
        """Whether the array is of this kind and on its device."""
        if self.name == "dlpack":  # it cannot allocate; its results are NumPy's
            return isinstance(array, np.ndarray)
        library = importlib.import_module(self.module)
        if self.module == "torch":
            return isinstance(array, library.Tensor) and array.is_cuda == self.on_cuda
        if self.module == "jax.numpy":
            return isinstance(array, importlib.import_module("jax").Array)
        return isinstance(array, library.ndarray)


NUMPY = Kind("numpy")
TORCH = Kind("torch", "torch")
TORCH_CUDA = Kind("torch-cuda", "torch", on_cuda=True)
CUPY = Kind("cupy", "cupy", on_cuda=True)
JAX = Kind("jax", "jax.numpy")
DLPACK = Kind("dlpack")

ALL = [NUMPY, TORCH, TORCH_CUDA, CUPY, JAX, DLPACK]
ON_CUDA = [TORCH_CUDA, CUPY]
