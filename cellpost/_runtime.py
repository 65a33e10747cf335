"""Threads, and what this build and this machine can do."""

from __future__ import annotations

import os
import warnings
from typing import Any

from cellpost import _core
from cellpost.labels import integer


def info() -> dict[str, Any]:
    """What this build of cellpost and this machine can do.

    Returns
    -------
    dict
        ``version`` (str); ``cpu_levels`` (list of str, the instruction sets that this build and
        this CPU have, lowest first: all give the same bits); ``cpu_level`` (str, in use);
        ``num_threads`` (int); ``cuda_built`` and ``cuda_usable`` (bool); ``cuda_reason`` (str,
        why CUDA is not usable, empty if it is); ``cuda_devices`` (list of str).

    Examples
    --------
    >>> import cellpost
    >>> "baseline" in cellpost.info()["cpu_levels"]
    True
    """
    return _core.info()


def set_num_threads(n: int) -> None:
    """Set how many CPU threads a call may use; the answer does not depend on it.

    Parameters
    ----------
    n : int
        From 1 to 1024. At import it is the environment's ``CELLPOST_NUM_THREADS``, else the number
        of CPUs that the process may run on.

    Raises
    ------
    TypeError
        If `n` is no integer.
    ValueError
        If `n` is out of range.

    Examples
    --------
    >>> import cellpost
    >>> before = cellpost.get_num_threads()
    >>> cellpost.set_num_threads(1)
    >>> cellpost.get_num_threads()
    1
    >>> cellpost.set_num_threads(before)
    """
    _core.set_num_threads(integer("n", n))


def get_num_threads() -> int:
    """How many CPU threads a call may use."""
    return _core.get_num_threads()


def _take_threads_from_environment() -> None:
    text = os.environ.get("CELLPOST_NUM_THREADS", "")
    try:
        if text:
            _core.set_num_threads(int(text))
    except (TypeError, ValueError):
        warnings.warn(
            f"CELLPOST_NUM_THREADS: expected an integer from 1 to 1024; got {text!r}, which is "
            "ignored",
            RuntimeWarning,
            stacklevel=2,
        )


_take_threads_from_environment()
