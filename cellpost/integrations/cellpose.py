"""Cellpose with cellpost's functions inside: the same calls, the same masks, in less time."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from cellpost.integrations._cellpose_functions import STAND_INS, Unlike

__all__ = ["Acceleration", "accelerate", "restore"]

_log = logging.getLogger(__name__)
_lock = threading.RLock()
_running: list[Acceleration] = []
_swapped: list[tuple[Callable[..., Any], Callable[..., Any]]] = []  # (original, stand-in)


class Acceleration:
    """What `accelerate` returns: ends with `restore`, or with the ``with`` block it is used in."""

    def restore(self) -> None:
        """End it; Cellpose's functions come back with the last one. Again: nothing happens."""
        with _lock:
            if self in _running:
                _running.remove(self)
                if not _running:
                    _put_back()

    def __enter__(self) -> Acceleration:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.restore()


def accelerate() -> Acceleration:
    """Let Cellpose call cellpost where that gives the same result.

    Afterwards ``CellposeModel.eval``, ``dynamics.compute_masks``,
    ``dynamics.resize_and_compute_masks`` and all else that calls the functions below take less
    time, wherever they were imported; their arguments, dtypes and ids are Cellpose's.

    Returns
    -------
    Acceleration
        Its ``restore()`` ends it, and so does the end of a ``with accelerate():`` block, also by
        an exception.

    Raises
    ------
    ImportError
        If Cellpose cannot be imported.

    See Also
    --------
    restore : end all of them.

    Notes
    -----
    Of these functions each module of Cellpose gets a stand-in of the same signature. It calls the
    original where cellpost would not give the same: the logger of this module says why at level
    DEBUG. Everywhere the original is called for arrays that are not NumPy's, or of dtypes and
    shapes that Cellpose itself would not pass, and where PyTorch's device is not the CPU (but for
    the last two, which run on the CPU anyway).

    ``dynamics.follow_flows``
        The same bits. Original: flows that are not finite or not zero off the points; an axis of
        one pixel; Cellpose 3 in 2D, which moves points in another way.
    ``dynamics.remove_bad_flow_masks``
        The same masks. Original: ids with gaps; an error within 1e-7 of the threshold; Cellpose 3.
    ``dynamics.labels_to_flows``
        The same float32, up to PyTorch's rounding (Cellpose keeps targets in float32). Original:
        Cellpose 3.
    ``metrics.average_precision``
        The same numbers. Original: ids with gaps; images without background or of more than three
        axes; thresholds of 0 and less, or above 1.
    ``utils.stitch3D``
        The same ids, written to the argument as theirs are; no progress bar. Original: numbers
        that could outgrow the dtype.

    Left as they are: ``flow_error`` and ``masks_to_flows_gpu``, which return float64 flows;
    ``get_masks_torch``, where equal seeds come in the order of PyTorch's unstable sort;
    ``fill_holes_and_remove_small_masks``, which is as fast, and in 3D fills some pockets that are
    open; ``aggregated_jaccard_index``, where of equal assignments SciPy's choice counts;
    ``boundary_scores``.

    Releases differ, and so do builds of PyTorch: stand-ins for the first three are tried against
    their originals on a small image when they are first called, and step back if one bit (of
    errors: 1e-9) differs.

    Calls nest and are counted: the originals, the same function objects, come back when as many
    were restored, in any order. Modules of Cellpose that are imported in between are put right,
    too. Functions that other code took out of the modules listed here stay what they were when it
    took them. Safe to call from several threads; the change itself is for all of them.

    Examples
    --------
    >>> from cellpost.integrations.cellpose import accelerate
    >>> with accelerate():  # doctest: +SKIP
    ...     masks, flows, styles = model.eval(image)
    """
    with _lock:
        if not _running:
            _swap_in()
        _running.append(handle := Acceleration())
        return handle


def restore() -> None:
    """Give Cellpose its own functions back, however often `accelerate` was called.

    Examples
    --------
    >>> from cellpost.integrations.cellpose import restore
    >>> restore()
    """
    with _lock:
        _running.clear()
        _put_back()


def _swap_in() -> None:
    modules = {name: importlib.import_module(name) for name in STAND_INS}
    for name, functions in STAND_INS.items():
        for function in functions:
            original = getattr(modules[name], function.__name__)
            _swapped.append((original, _stand_in(original, function)))
    _exchange(dict(_swapped))


def _put_back() -> None:
    _exchange({stand_in: original for original, stand_in in _swapped})
    _swapped.clear()


def _exchange(functions: dict[Callable[..., Any], Callable[..., Any]]) -> None:
    """Replace functions by others wherever a module of Cellpose has them."""
    by_id = {id(old): new for old, new in functions.items()}
    for name, module in list(sys.modules.items()):
        if module is not None and name.split(".")[0] == "cellpose":
            for key, value in list(vars(module).items()):
                if id(value) in by_id:
                    setattr(module, key, by_id[id(value)])


def _stand_in(original: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        try:
            return function(original, **given.arguments)
        except Unlike as reason:
            _log.debug("%s: Cellpose's own is called: %s", original.__name__, reason)
        return original(*args, **kwargs)

    return stand_in
