"""Network outputs from files: flow fields with a cell logit, HoVer maps with a probability."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellpost.io.containers import (
    Array,
    FileFormatError,
    PathLike,
    describe,
    file_kind,
    load_npy,
    load_npz,
    load_tiff,
)

_EXPECTED = (
    "floating-point maps (3, H, W) = dY, dX, cellprob or (4, D, H, W) = dZ, dY, dX, cellprob"
    " in a TIFF, .npy, .npz (names dP, cellprob) or Cellpose _seg.npy"
)
_HOVER_EXPECTED = (
    "floating-point maps (3, H, W) = prob, H, V or (4, H, W) = background, nucleus, H, V"
    " in a TIFF or .npy, or an .npz (names prob, hv and, if there are types, types)"
)
_CHANNEL_FIRST = {3: "CYX", 4: "CZYX"}


@dataclass(frozen=True)
class Maps:
    """What a network says about an image, channel axis first.

    Attributes
    ----------
    dP : ndarray, (2, H, W) = dY, dX or (3, D, H, W) = dZ, dY, dX, floating point
        Flow field.
    cellprob : ndarray, (H, W) or (D, H, W), floating point
        Logit of being inside a cell.
    axes : str
        The axes of the stack as they lay in the file, one letter each: ``"CYX"``, ``"ZCYX"``...
    """

    dP: Array
    cellprob: Array
    axes: str


@dataclass(frozen=True)
class HoverMaps:
    """What a HoVer network says about an image, channel axis first.

    Attributes
    ----------
    prob : ndarray, (H, W) or (2, H, W) = background, nucleus, floating point
        Probability, or logits.
    hv : ndarray, (2, H, W), floating point
        Horizontal and vertical map.
    types : ndarray, (H, W) integer or (C, H, W) floating point, or None
        Type of each pixel, or a channel for each.
    axes : str
        The axes of the stack as they lay in the file: ``"CYX"``, ``"YXC"``...
    """

    prob: Array
    hv: Array
    types: Array | None
    axes: str


def read_maps(path: PathLike, *, axes: str | None = None) -> Maps:
    """Read a flow field and a cell logit.

    Parameters
    ----------
    path : str or Path
        One of

        * a TIFF or OME-TIFF stack of dY, dX, cellprob (2D) or dZ, dY, dX, cellprob (3D). Its axes
          metadata tells which axis holds the channels (C, S, Q or I, of length 3 in 2D, 4 in 3D);
          it is moved to the front, so YXC and ZCYX are read as well as CYX and CZYX. Of several
          images in one file the first is read;
        * the same stack as ``.npy``, channels first (mapped from disk, not loaded);
        * ``.npz`` with the arrays ``dP`` and ``cellprob``;
        * Cellpose's ``_seg.npy``, from its command line or its GUI. It is a pickle, and is read by
          an unpickler that admits NumPy arrays and builtin containers and nothing else.
    axes : str, optional
        The stack's axes in the file's order, such as ``"YXC"`` or ``"CZYX"`` (C is the channel
        axis): for a TIFF without or with wrong metadata, and for ``.npy`` with channels elsewhere.

    Returns
    -------
    Maps
        Arrays in memory of the file's own floating-point dtype and native byte order, never
        copied but to fix the byte order; possibly read-only.

    Raises
    ------
    FileFormatError
        If the file is missing, cut short or of another kind, if its axes or its number of channels
        do not fit or can be understood in two ways, or if its maps are not floating point: a
        ``_seg.npy`` that holds only Cellpose's 8-bit pictures of the maps is refused, because what
        rounding took away moves pixels to other cells.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "maps.npy")
    >>> np.save(path, np.zeros((3, 4, 5), np.float32))
    >>> maps = read_maps(path)
    >>> maps.dP.shape, maps.cellprob.shape, maps.axes
    ((2, 4, 5), (4, 5), 'CYX')
    """
    path = Path(path)
    kind = file_kind(path, _EXPECTED)
    if kind == "npz" and axes is not None:
        raise ValueError(f"axes: expected none for an .npz, whose arrays are named; got {axes!r}")
    if kind == "npz":
        return _pair(path, **load_npz(path, _EXPECTED, ("dP", "cellprob")))
    if kind == "tiff":
        stack, file_axes = load_tiff(path, _EXPECTED)
        return _split(path, stack, (axes or file_axes).upper())
    if kind == "npy":
        content = load_npy(path, _EXPECTED)
        if isinstance(content, dict) and axes is not None:
            raise ValueError(f"axes: expected none for a _seg.npy; got {axes!r}")
        if isinstance(content, dict):
            return _pair(path, *_seg_maps(path, content))
        return _split(path, content, (axes or _CHANNEL_FIRST.get(content.ndim, "")).upper())
    raise FileFormatError(path, _EXPECTED, "a file of another kind")


def read_hover_maps(path: PathLike, *, axes: str | None = None) -> HoverMaps:
    """Read HoVer maps and the probability of nuclei.

    Parameters
    ----------
    path : str or Path
        One of

        * a TIFF or OME-TIFF stack of prob, H, V or background, nucleus, H, V. Its axes metadata
          tells which axis holds the channels (C, S, Q or I, of length 3 or 4);
        * the same stack as ``.npy``, channels first (mapped from disk, not loaded);
        * ``.npz`` with the arrays ``prob``, ``hv`` and, if there are types, ``types``.
    axes : str, optional
        The stack's axes in the file's order, such as ``"YXC"``.

    Returns
    -------
    HoverMaps
        As `read_maps`: the file's own dtype, native byte order, possibly read-only.

    Raises
    ------
    FileFormatError
        If the file is missing, cut short or of another kind, or its maps do not fit.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "maps.npy")
    >>> np.save(path, np.zeros((4, 5, 6), np.float32))
    >>> maps = read_hover_maps(path)
    >>> maps.prob.shape, maps.hv.shape, maps.axes
    ((2, 5, 6), (2, 5, 6), 'CYX')
    """
    path = Path(path)
    kind = file_kind(path, _HOVER_EXPECTED)
    if kind == "npz":
        if axes is not None:
            raise ValueError(
                f"axes: expected none for an .npz, whose arrays are named; got {axes!r}"
            )
        found = load_npz(path, _HOVER_EXPECTED, ("prob", "hv"), ("types",))
        return _checked_hover(path, found["prob"], found["hv"], found.get("types"), "CYX")
    if kind == "tiff":
        stack, file_axes = load_tiff(path, _HOVER_EXPECTED)
    elif kind == "npy":
        content = load_npy(path, _HOVER_EXPECTED)
        if isinstance(content, dict):
            raise FileFormatError(path, _HOVER_EXPECTED, "a pickled dict")
        stack, file_axes = content, "CYX"
    else:
        raise FileFormatError(path, _HOVER_EXPECTED, "a file of another kind")
    axes = (axes or file_axes).upper()
    if stack.ndim != 3:
        raise FileFormatError(path, _HOVER_EXPECTED, describe(stack, axes))
    channel = _channel_axis(path, stack, axes, _HOVER_EXPECTED, (3, 4))
    space = sorted(set(range(3)) - {channel}, key=lambda i: "YX".index(axes[i]))
    stack = stack.transpose([channel, *space])
    prob = stack[0] if len(stack) == 3 else stack[:2]
    return _checked_hover(path, prob, stack[-2:], None, axes)


def _checked_hover(path: Path, prob: Array, hv: Array, types: Array | None, axes: str) -> HoverMaps:
    """Refuse maps that are not floating point, or not of the same pixels."""
    got = f"prob {describe(prob)} and hv {describe(hv)}"
    if any(array.dtype.kind != "f" for array in (prob, hv)):
        raise FileFormatError(path, _HOVER_EXPECTED, f"{got}: not floating point (is it an image?)")
    plane = prob.shape[-2:]
    if prob.shape not in (plane, (2, *plane)) or hv.shape != (2, *plane) or len(plane) != 2:
        raise FileFormatError(path, _HOVER_EXPECTED, got)
    if types is not None:
        fits = types.dtype.kind in {2: "iu", 3: "f"}.get(types.ndim, "") and types.size
        if types.shape[-2:] != plane or not fits or (types.ndim == 2 and types.min() < 0):
            wanted = "(H, W) integers >= 0 or (C, H, W) floating point"
            raise FileFormatError(
                path, _HOVER_EXPECTED, f"{got}, and types {describe(types)}, which are not {wanted}"
            )
    return HoverMaps(prob, hv, types, axes)


def _split(path: Path, stack: Array, axes: str) -> Maps:
    """Cut a stack in the file's own axis order into its flow and its logit."""
    if stack.ndim not in _CHANNEL_FIRST:
        why = f"{stack.ndim} axes, where 2D maps have 3 and 3D maps 4"
        raise FileFormatError(path, _EXPECTED, f"{describe(stack, axes)}: {why}")
    channel = _channel_axis(path, stack, axes, _EXPECTED, (stack.ndim,))
    space = sorted(set(range(stack.ndim)) - {channel}, key=lambda i: "ZQIYX".index(axes[i]))
    stack = stack.transpose([channel, *space])
    return _checked(path, stack[:-1], stack[-1], axes)


def _channel_axis(
    path: Path, stack: Array, axes: str, expected: str, n_channels: tuple[int, ...]
) -> int:
    """Find the axis that holds as many channels as there may be."""

    def refuse(why: str) -> FileFormatError:
        return FileFormatError(path, expected, f"{describe(stack, axes)}: {why}")

    tell = "say which axis is which with axes=, e.g. axes='YXC' or axes='CZYX'"
    numbers = " or ".join(map(str, n_channels))
    if len(axes) != stack.ndim or axes.count("Y") != 1 or axes.count("X") != 1:
        raise refuse(f"axes must be {stack.ndim} letters with one Y and one X; {tell}")
    for letters in ("CS", "QI"):  # a named channel axis goes before one of unknown meaning
        found = [i for i, letter in enumerate(axes) if letter in letters]
        fitting = [i for i in found if stack.shape[i] in n_channels]
        if len(fitting) > 1:
            raise refuse(f"axes {' and '.join(map(str, fitting))} could both be channels; {tell}")
        if fitting:
            if unknown := set(axes[: fitting[0]] + axes[fitting[0] + 1 :]) - set("ZQIYX"):
                raise refuse(f"axis {' and '.join(unknown)} is neither depth nor channels; {tell}")
            return fitting[0]
        if found and letters == "CS":
            channels = stack.shape[found[0]]
            raise refuse(f"{channels} channels, where {stack.ndim} axes need {numbers}; {tell}")
    raise refuse(f"no axis of {numbers} channels; {tell}")


def _seg_maps(path: Path, content: dict[str, Any]) -> tuple[Array, Array]:
    """Find dP and cellprob in Cellpose's dict.

    ``masks_flows_to_seg`` puts them together into ``flows[4]``, Cellpose 4's GUI apart into
    ``flows[2]`` and ``flows[3]``; every other entry is an 8-bit picture for display. In 2D some
    carry a leading axis of length 1.
    """
    flows = content.get("flows")
    if not isinstance(flows, list | tuple) or len(flows) == 0:
        keys = ", ".join(map(str, content)) or "nothing"
        raise FileFormatError(path, _EXPECTED, f"a pickled dict without flows (it has {keys})")

    def floating(i: int) -> Array | None:
        entry = flows[i] if len(flows) > i else None
        if not isinstance(entry, np.ndarray) or entry.dtype.kind != "f" or entry.ndim < 2:
            return None
        return entry[0] if entry.shape[0] == 1 else entry

    together, flow, logit = floating(4), floating(2), floating(3)
    if together is not None:
        return together[:-1], together[-1]
    if flow is not None and logit is not None:
        return flow, logit
    held = ", ".join(f"{f.dtype}" if isinstance(f, np.ndarray) else type(f).__name__ for f in flows)
    raise FileFormatError(
        path,
        _EXPECTED,
        f"a _seg.npy whose flows ({held}) are only Cellpose's 8-bit pictures of the maps, too"
        " coarse to follow; save the network's own: np.savez(path, dP=flows[1], cellprob=flows[2])",
    )


def _pair(path: Path, dP: Array, cellprob: Array) -> Maps:
    return _checked(path, dP, cellprob, _CHANNEL_FIRST.get(dP.ndim, ""))


def _checked(path: Path, dP: Array, cellprob: Array, axes: str) -> Maps:
    """Refuse maps that are no floating-point field over the logit's own pixels."""
    got = f"dP {describe(dP)} and cellprob {describe(cellprob)}"
    if any(array.dtype.kind != "f" for array in (dP, cellprob)):
        raise FileFormatError(path, _EXPECTED, f"{got}: not floating point (is it an image?)")
    if dP.shape != (dP.ndim - 1, *cellprob.shape) or cellprob.ndim not in (2, 3):
        raise FileFormatError(path, _EXPECTED, got)
    return Maps(dP, cellprob, axes)
