"""Floating dtypes of maps: what they are computed in, and what they are given back in."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellpost._arrays import Array, Arrays, dtype_name, named_dtype

_FLOATS = ("float16", "bfloat16", "float32", "float64")


def map_dtypes(
    arrays: Arrays, name: str, wanted: str | None, *, to_convert: bool = False
) -> tuple[str, str]:
    """Of what is computed, and of what is given back."""
    found = dtype_name(arrays[name])
    if found not in _FLOATS:
        raise TypeError(f"{name}: expected one of {', '.join(_FLOATS)}; got {found}")
    asked = found if wanted is None else wanted
    has_bfloat = hasattr(arrays.xp, "bfloat16")
    for argument, dtype in ((name, found), ("dtype", asked)):
        if dtype == "bfloat16" and not has_bfloat and not (argument == "dtype" and to_convert):
            raise TypeError(f"{argument}: expected a dtype that {arrays.kind} has; got bfloat16")
    if (found == "float64") != (asked == "float64") or (asked == "bfloat16" and not has_bfloat):
        return ("float64" if found == "float64" else "float32"), asked
    return asked, asked


def float_name(argument: str, dtype: Any) -> str:
    """Name of a floating dtype, of whatever library, or an error that names the argument."""
    return named_dtype(argument, dtype, _FLOATS, f"one of {', '.join(_FLOATS)}")


def as_dtype(xp: Any, array: Array, dtype: str) -> Array:
    """Convert an array to a floating dtype, rounding as the kernels do."""
    with np.errstate(over="ignore"):
        if dtype_name(array) == "float64" and dtype in ("float16", "bfloat16"):
            array = xp.astype(array, xp.float32)
        return array if dtype_name(array) == dtype else xp.astype(array, getattr(xp, dtype))
