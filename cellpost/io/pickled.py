"""Cellpose's ``_seg.npy`` without the danger: a dict pickled into an ``.npy`` file.

Loading a pickle runs whatever its author wrote into it. Cellpose's files need very little of that
power: builtin containers, NumPy arrays and now and then a path. :class:`_Unpickler` admits these
and refuses every other name, so a file from a stranger can be read.
"""

from __future__ import annotations

import pickle
from pathlib import PurePosixPath, PureWindowsPath
from typing import IO, Any

import numpy as np

# What NumPy's own pickles call, got from such pickles: NumPy 1 and 2 keep it in different places.
_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_FROMBUFFER = np.zeros(1).__reduce_ex__(5)[0]
_SCALAR = np.float64(0).__reduce__()[0]

_ADMITTED: dict[tuple[str, str], Any] = {
    **{(f"numpy.{c}.multiarray", "_reconstruct"): _RECONSTRUCT for c in ("core", "_core")},
    **{(f"numpy.{c}.multiarray", "scalar"): _SCALAR for c in ("core", "_core")},
    **{(f"numpy.{c}.numeric", "_frombuffer"): _FROMBUFFER for c in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{("builtins", kind.__name__): kind for kind in (set, frozenset, complex)},
    **{(module, "PosixPath"): PurePosixPath for module in ("pathlib", "pathlib._local")},
    **{(module, "WindowsPath"): PureWindowsPath for module in ("pathlib", "pathlib._local")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, and only NumPy arrays and builtin containers are"
                " unpickled, because anything else could run code"
            ) from None


def load_pickled_npy(file: IO[bytes]) -> dict[str, Any]:
    """Read the dict from an ``.npy`` file of objects, positioned after its header.

    Raises
    ------
    pickle.UnpicklingError
        If the pickle asks for anything but NumPy arrays, builtin containers and paths.
    ValueError
        If it holds something other than one dict.
    """
    loaded = _Unpickler(file).load()
    content = loaded.item() if isinstance(loaded, np.ndarray) and loaded.size == 1 else loaded
    if not isinstance(content, dict):
        raise ValueError(
            f"it holds pickled objects ({type(content).__name__}), not Cellpose's dict"
        )
    return content
