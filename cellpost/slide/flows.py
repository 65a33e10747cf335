"""follow_flows of images larger than memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from cellpost import _core
from cellpost._arrays import dtype_name, to_host
from cellpost._progress import told
from cellpost.flows import FlowReport
from cellpost.labels import choose, integer, lengths_of, number
from cellpost.slide.blocks import blocks_of, scratch_folder
from cellpost.slide.flow_bins import FlowBins
from cellpost.slide.memory import check_memory
from cellpost.slide.output import check_out, opened

__all__ = ["follow_flows"]

_DTYPES = ("float16", "float32", "float64")
_PIXEL_BYTES = 56  # of a window, with float32 maps: measured
_MARGIN = 64  # around a block, for which a window has room
_SMALLEST = 64  # side of a block
_LONGEST = 2**23  # beyond, float32 has no place between two pixels
_N_PASSES = 4  # that are told of; the others go from object to object


def follow_flows(
    dP: Any,
    cellprob: Any,
    out: Any,
    *,
    memory: int | str = "2GB",
    block: int | Sequence[int] | None = None,
    scratch: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[int, int], None] = False,
    cellprob_threshold: float = 0.0,
    flow_threshold: float | None = 0.4,
    niter: int = 200,
    min_size: int = 15,
    max_size_fraction: float = 0.4,
    fill_holes: bool | Literal["cellpose"] = True,
    fragments: Literal["keep", "largest", "split"] = "keep",
    sampling: Literal["cellpose", "centered"] = "cellpose",
    return_report: bool = False,
) -> int | tuple[int, FlowReport]:
    """Turn a flow field larger than memory into labels: those of `cellpost.follow_flows`, exactly.

    Parameters
    ----------
    dP : (2, H, W) array, float16, float32 or float64
        Flow field, five times the pixels moved per step. Anything that NumPy can read slices of:
        memory maps, zarr, h5py, dask.
    cellprob : (H, W) array, float16, float32 or float64
        Cell probability as a logit.
    out : path or array
        Where the labels go: a path for `create_labels`, or an array of shape (H, W) and an integer
        dtype that is written by slices (zarr, h5py, a memory map). Written to at the end alone,
        block by block.
    memory : int or str
        Bytes, or a text such as ``"2GB"`` or ``"500MiB"``: what the windows that are worked on may
        take beside the arrays themselves. Decides the size of the blocks.
    block : int or (int, int), optional
        Sides of the blocks, in pixels, > 0. By default as large as `memory` allows. The labels do
        not depend on it.
    scratch : path, optional
        Folder for what does not fit into memory, by default the system's for temporary files: 12
        bytes a pixel at most, 16 from 2**31 pixels on. What lies there is removed at the end,
        after errors, too.
    progress : bool or callable
        True: a bar on stderr. A function: called with the steps done and the number of all.
    cellprob_threshold, flow_threshold, niter, min_size, max_size_fraction, fill_holes, fragments, \
sampling
        As of `cellpost.follow_flows`.
    return_report : bool
        Return ``(n, report)``.

    Returns
    -------
    int
        Number of cells; their labels are 1..n in raster order of their first pixels.
    FlowReport
        With `return_report`: what `cellpost.follow_flows` reports.

    Raises
    ------
    TypeError
        If an array has no fitting dtype, or `out` is nothing that can be written to.
    ValueError
        If shapes do not fit, an axis is longer than 2**23, an option is out of range or NaN, or the
        memory is too small: for a block, for an object with all that it may touch, or for the path
        of a pixel; the error says what is needed.
    OverflowError
        If the dtype of `out` cannot hold the number of cells.
    OSError
        If the disk is full.

    See Also
    --------
    cellpost.follow_flows : in memory, with the options and rules.
    cellpost.slide.output.create_labels : arrays to write to.

    Notes
    -----
    Whatever the blocks, the labels are bit for bit those of the call on the whole image: all that
    is global is gathered first. The passes: (1) every pixel is followed to its end, in a window
    that grows until no path leaves it; ends are kept on disk and counted in a histogram there; (2)
    peaks of the histogram are seeds, ranked over the whole image; (3) seeds grow, and pixels take
    the label of their end, wherever that is; (4) flow errors, with the diffusion steps and the
    precision of the whole image, in windows that hold cells and their neighbours whole; (5)
    fragments, sizes and holes, cell by cell; cells with holes whose boxes overlap go together; (6)
    numbers in raster order, and the output.

    Besides the windows, tables of about 100 bytes a seed are held. `dP` is read two or three times,
    `cellprob` once or twice, blocks without foreground once and without their flow. Ends far from
    their pixel are right, but each block that they lie in is looked up.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> from cellpost import slide
    >>> y, x = np.mgrid[:32, :32].astype(np.float32)
    >>> dP = np.stack([15.5 - y, 15.5 - x])
    >>> cellprob = 100 - (dP**2).sum(axis=0)
    >>> labels = np.zeros((32, 32), np.uint16)
    >>> slide.follow_flows(dP, cellprob, labels, block=10)
    1
    >>> np.array_equal(labels, cellpost.follow_flows(dP, cellprob))
    True
    """
    shape = _shape_of(dP, cellprob)
    check_out(out, shape)
    if fill_holes not in (True, False, "cellpose"):
        raise ValueError(f"fill_holes: expected True, False or 'cellpose'; got {fill_holes!r}")
    following = {
        "cellprob_threshold": _real("cellprob_threshold", cellprob_threshold),
        "niter": _in_range("niter", niter, 0, 2**31 - 2),
        "sampling": choose("sampling", sampling, _core.Sampling),
    }
    threshold = 0.0 if flow_threshold is None else _real("flow_threshold", flow_threshold)
    min_size = integer("min_size", min_size)
    fraction = _real("max_size_fraction", max_size_fraction)
    if fraction < 0:
        raise ValueError(f"max_size_fraction: expected a number >= 0; got {fraction}")
    mode = choose("fragments", fragments, _core.Fragments)
    nested = _core.Nested.overwrite if fill_holes == "cellpose" else _core.Nested.keep
    item = max(_dtype_of(name, a).itemsize for name, a in (("dP", dP), ("cellprob", cellprob)))
    pixel = _PIXEL_BYTES + 6 * max(item - 4, 0)
    smallest = min(_SMALLEST + 2 * _MARGIN, max(shape)) ** 2
    needed = f"a block of {_SMALLEST} x {_SMALLEST} pixels and what is around it"
    most = check_memory(memory, pixel * smallest, needed) // pixel
    if block is None:
        side = max(_SMALLEST, math.isqrt(most) - 2 * _MARGIN)
        sides = (side, side)
    else:
        sides = _sides(block)
    with told(progress, "blocks") as tell_of, scratch_folder(scratch) as folder:
        blocks = blocks_of(shape, sides)
        n_told = 0

        def tell() -> None:
            nonlocal n_told
            n_told += 1
            tell_of(n_told, _N_PASSES * len(blocks))

        if not blocks:
            return (0, FlowReport(*[0] * 12)) if return_report else 0
        bins = FlowBins(
            shape,
            sides,
            blocks,
            most,
            lambda box: _read(dP, (slice(None), *box.slices)),
            lambda box: _read(cellprob, box.slices),
            folder,
        )
        objects, n_foreground, n_seeds = bins.objects(tell, **following)
        n_assigned, n_objects = int(objects.size.sum()), objects.n
        # floor as in the call on the whole image; more than any object has if that is infinite
        most_allowed = math.floor(min(shape[0] * shape[1] * fraction, 2.0**62))
        n_too_large = objects.drop(objects.size > most_allowed)
        n_bad_flow = qc_niter = n_fragments = n_nested = n_hole_pixels = 0
        if threshold > 0:
            bad, qc_niter = objects.bad_flows(bins.dP, threshold)
            n_bad_flow = objects.drop(bad)
        with_hole = np.zeros(0, np.int64)
        if mode != _core.Fragments.keep or fill_holes:
            n_fragments, with_hole = objects.resolve_fragments(mode, holes=bool(fill_holes))
        n_too_small = objects.drop(objects.size < min_size)
        if len(with_hole):
            n_hole_pixels = objects.fill_holes(with_hole, nested)
            if n_hole_pixels:
                objects.measure(blocks)
                n_nested = objects.drop(objects.size == 0)
                n_too_small += objects.drop(objects.size < min_size)
        report = FlowReport(
            n_foreground=n_foreground,
            n_seeds=n_seeds,
            n_unassigned=n_foreground - n_assigned,
            n_empty_seeds=n_seeds - n_objects,
            n_too_large=n_too_large,
            n_bad_flow=n_bad_flow,
            n_fragments=n_fragments,
            n_too_small=n_too_small,
            n_nested=n_nested,
            n_hole_pixels=n_hole_pixels,
            n_labels=objects.n,
            qc_niter=qc_niter,
        )
        numbers = objects.numbers()
        with opened(out, shape, report.n_labels) as array:
            for part in blocks:
                labels = np.zeros(part.shape, np.int32)
                if len(objects.meeting(part)):
                    labels = objects.labels.read(part)
                    _core.map_labels(labels, numbers, 0)
                array[part.slices] = labels.astype(array.dtype, copy=False)
                tell()
        objects.labels.remove()
    return (report.n_labels, report) if return_report else report.n_labels


def _read(array: Any, key: tuple[slice, ...]) -> Any:
    """A window in memory, in this machine's byte order."""
    part = np.asarray(to_host(array[key]))
    return part.astype(part.dtype.newbyteorder("="), copy=False)


# ---- arguments ----------------------------------------------------------------------------------


def _shape_of(dP: Any, cellprob: Any) -> tuple[int, int]:
    for name, array, n_axes in (("dP", dP, 3), ("cellprob", cellprob, 2)):
        if not all(hasattr(array, a) for a in ("shape", "dtype", "__getitem__")):
            raise TypeError(
                f"{name}: expected an array that is read by slices; got {type(array).__name__}"
            )
        _dtype_of(name, array)
        if len(array.shape) != n_axes:
            axes = "(2, H, W)" if n_axes == 3 else "(H, W)"
            raise ValueError(f"{name}: expected shape {axes}; got {tuple(array.shape)}")
    height, width = (int(n) for n in cellprob.shape)
    if tuple(dP.shape) != (2, height, width):
        raise ValueError(f"dP: expected shape {(2, height, width)}; got {tuple(dP.shape)}")
    if max(height, width) > _LONGEST:
        raise ValueError(
            f"cellprob: expected axes of at most {_LONGEST} pixels; got shape {(height, width)}"
        )
    return height, width


def _dtype_of(name: str, array: Any) -> np.dtype[Any]:
    """Its dtype, of whatever library it is."""
    try:
        dtype = np.dtype(dtype_name(array))
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in _DTYPES:
        raise TypeError(f"{name}: expected one of {', '.join(_DTYPES)}; got {array.dtype}")
    return dtype


def _sides(block: int | Sequence[int]) -> tuple[int, int]:
    given = (block, block) if np.ndim(block) == 0 else block
    height, width = lengths_of("block", given, (2,))
    if min(height, width) < 1:
        raise ValueError(f"block: expected lengths >= 1; got {block!r}")
    return height, width


def _real(name: str, value: Any) -> float:
    if math.isnan(real := number(name, value)):
        raise ValueError(f"{name}: expected a number; got NaN")
    return real


def _in_range(name: str, value: Any, low: int, high: int) -> int:
    n = integer(name, value)
    if not low <= n <= high:
        raise ValueError(f"{name}: expected an integer from {low} to {high}; got {n}")
    return n
