"""Limits of memory, as callers say them."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["check_memory", "memory_bytes"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{unit}i": 1024**k for k, unit in enumerate("KMGT", 1)}


def memory_bytes(memory: Any) -> int:
    """Bytes of a limit such as ``"2GB"``, ``"512MiB"`` or a number of bytes, or an error."""
    if isinstance(memory, (int, float)) and not isinstance(memory, bool) and 0 < memory < 2**63:
        return int(memory)
    found = (
        re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?\s*", memory)
        if (isinstance(memory, str))
        else None
    )
    size = int(float(found[1]) * _UNITS[found[2] or ""]) if found else 0
    if size <= 0:
        raise ValueError(f"memory: expected bytes, or a text such as '2GB'; got {memory!r}")
    return size


def check_memory(memory: Any, needed: int, what: str) -> int:
    """Bytes of a limit, or an error that says how many it has to be at least."""
    limit = memory_bytes(memory)
    if limit < needed:
        raise ValueError(
            f"memory: expected at least {-(-needed // 10**6)}MB, {what}; got {memory!r}"
        )
    return limit
