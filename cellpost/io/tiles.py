"""Tiles of a network's output in, their map out: both on disk, where the file's form allows it."""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

import cellpost
from cellpost.io.containers import (
    Array,
    FileFormatError,
    PathLike,
    describe,
    file_kind,
    load_npy,
    load_npz,
    load_tiff_stack,
)
from cellpost.io.images import write_ome
from cellpost.io.output import atomic_file

_EXPECTED = (
    "floating-point tiles (ny, nx, C, h, w) or (n, C, h, w), of volumes (nz, ny, nx, C, d, h, w) or"
    " (n, C, d, h, w), in a TIFF, .npy or .npz (name tiles and, if it is there, shape)"
)
_LABELS_EXPECTED = (
    "label tiles of integers (ny, nx, h, w) or (n, h, w), of volumes (nz, ny, nx, d, h, w) or"
    " (n, d, h, w), in a TIFF, .npy or .npz (name tiles and, if it is there, shape)"
)
_DTYPES = {
    ".npy": ("float16", "float32", "float64"),
    ".tif": ("float32", "float64"),  # what OME-TIFF knows
    ".tiff": ("float32", "float64"),
}


@dataclass(frozen=True)
class Tiles:
    """Tiles in the order of their grid.

    Attributes
    ----------
    array : ndarray, (ny, nx, C, h, w) or (n, C, h, w), with one axis more of each kind for volumes
        float16, float32 or float64. Of label tiles integers, without the axis C.
    shape : tuple of int, or None
        H, W or D, H, W of the map or label image, if the file or the caller says it.
    """

    array: Array
    shape: tuple[int, ...] | None


def read_tiles(path: PathLike, *, shape: Sequence[int] | None = None) -> Tiles:
    """Read the tiles of a network's output.

    Parameters
    ----------
    path : str or Path
        One of

        * ``.npy``;
        * ``.npz`` with the array ``tiles`` and, if it is there, ``shape``: (H, W) or (D, H, W);
        * TIFF, its axes in the order that they were written in; of an OME-TIFF or an ImageJ
          hyperstack axes of length 1 go, but for channels.

        What lies in one piece and uncompressed is mapped from disk: neither ``savez_compressed``
        nor compressed TIFF is.
    shape : sequence of int, optional
        H, W or D, H, W of the map.

    Returns
    -------
    Tiles

    Raises
    ------
    FileFormatError
        If there are no such tiles in the file.
    ValueError
        If `shape` has not 2 or 3 sides of 0 or more, or is not what the file says.
    """
    return _read(path, shape, _EXPECTED, labels=False)


def read_label_tiles(path: PathLike, *, shape: Sequence[int] | None = None) -> Tiles:
    """Read the label images of tiles.

    Parameters
    ----------
    path : str or Path
        As of :func:`read_tiles`: ``.npy``, ``.npz`` or TIFF.
    shape : sequence of int, optional
        H, W or D, H, W of the whole label image. Without it, and if the file does not say it, 4
        axes are those of (ny, nx, h, w).

    Returns
    -------
    Tiles

    Raises
    ------
    FileFormatError
        If there are no such tiles in the file; numbers that are no integers are none. Ids are not
        looked at.
    ValueError
        If `shape` has not 2 or 3 sides of 0 or more, or is not what the file says.
    """
    return _read(path, shape, _LABELS_EXPECTED, labels=True)


def _read(path: PathLike, shape: Sequence[int] | None, expected: str, *, labels: bool) -> Tiles:
    path = Path(path)
    told = None if shape is None else tuple(shape)
    if told is not None and (len(told) not in (2, 3) or min(told) < 0):
        raise ValueError(f"shape: expected H W or D H W in pixels; got {told}")
    kind = file_kind(path, expected)
    own = None
    if kind == "npz":
        found = load_npz(path, expected, ("tiles",), ("shape",), mapped=True)
        array = found["tiles"]
        if "shape" in found:
            own = _own_shape(path, found["shape"], expected)
    elif kind == "npy":
        content = load_npy(path, expected)
        if isinstance(content, dict):
            raise FileFormatError(path, expected, "a pickled dict")
        array = content
    elif kind == "tiff":
        array, axes = load_tiff_stack(path, expected)
        if not axes.endswith("YX"):
            raise FileFormatError(path, expected, describe(array, axes))
    else:
        raise FileFormatError(path, expected, "a file of another kind")
    if labels and array.dtype.kind not in "iu":
        raise FileFormatError(path, expected, f"{describe(array)}: not integers")
    if not labels and array.dtype.name not in _DTYPES[".npy"]:
        got = f"{describe(array)}: not floating point (is it an image?)"
        raise FileFormatError(path, expected, got)
    if own is not None and told is not None and own != told:
        raise ValueError(f"shape: expected {own}, as {path} says; got {told}")
    known = own if told is None else told
    inner = 0 if labels else 1  # axes between the tiles' places and their sides
    n_axes = (2 if array.ndim < 6 else 3) if known is None else len(known)
    n_kinds = (3, 4, 6) if known is None else (n_axes + 1, 2 * n_axes)
    fits = array.ndim in [n + inner for n in n_kinds]
    if not fits or 0 in array.shape[-n_axes - inner :]:
        whole = "a label image" if labels else "a map"
        of_map = "" if known is None else f" for {whole} of shape {known}"
        raise FileFormatError(path, expected, describe(array) + of_map)
    return Tiles(array, known)


def _own_shape(path: Path, sides: Array, expected: str) -> tuple[int, ...]:
    if sides.shape not in ((2,), (3,)) or sides.dtype.kind not in "iu" or sides.min() < 0:
        got = f"shape {describe(sides)}, not (H, W) or (D, H, W) in pixels"
        raise FileFormatError(path, expected, got)
    return tuple(sides.tolist())


def check_map(path: PathLike, shape: Sequence[int], dtype: npt.DTypeLike) -> str:
    """Say which form a name's ending asks for, or raise if that form cannot hold such a map."""
    form = Path(path).suffix.lower()
    if form not in _DTYPES:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(_DTYPES)}; got {form!r}")
    if np.dtype(dtype).name not in _DTYPES[form]:
        held = " or ".join(_DTYPES[form])
        raise ValueError(f"{path}: expected a map of {held}; got {np.dtype(dtype)}")
    if form != ".npy" and 0 in shape:
        raise ValueError(f"{path}: a {form} cannot hold a map of shape {tuple(shape)}; .npy can")
    return form


@contextmanager
def create_map(
    path: PathLike,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[Array]:
    """Write a map, whole or not at all, from an array on disk that is to be filled.

    Parameters
    ----------
    path : str or Path
        The name's ending chooses the form: ``.npy``; or ``.tif``, ``.tiff``: OME-BigTIFF, in tiles
        of 256 x 256, not compressed.
    shape : (C, H, W) or (C, D, H, W)
        Of the map.
    dtype : dtype
        float32 or float64; float16 in ``.npy``.
    metadata : mapping, optional
        As of :func:`write_labels`; not in ``.npy``.

    Yields
    ------
    ndarray
        Zeros, mapped from a file without a name or with another one. When the block ends without
        an error it becomes the file; a TIFF is written from it then, and needs the space twice.

    Raises
    ------
    ValueError
        If the form cannot hold such a map.
    OSError
        If the file cannot be written, or there is no space for it; nothing stays behind.
    """
    path, dtype = Path(path), np.dtype(dtype)
    form = check_map(path, shape, dtype)
    if 0 in shape:
        with atomic_file(path) as file:
            array = np.zeros(shape, dtype)
            yield array
            np.save(file, array)
    elif form == ".npy":
        with atomic_file(path) as file:
            header = {"descr": dtype.str, "fortran_order": False, "shape": tuple(shape)}
            np.lib.format.write_array_header_1_0(file, header)
            place = file.tell()
            _take_space(file, place + math.prod(shape) * dtype.itemsize)
            mapped = np.memmap(file.name, dtype, "r+", place, tuple(shape))
            yield mapped
            mapped.flush()
    else:
        noted = {"software": "cellpost", "version": cellpost.__version__, **(metadata or {})}
        with tempfile.TemporaryFile(dir=path.parent) as scratch:
            _take_space(scratch, math.prod(shape) * dtype.itemsize)
            mapped = np.memmap(scratch, dtype, "r+", 0, tuple(shape))
            yield mapped
            with atomic_file(path) as file:
                axes = "CZYX" if len(shape) == 4 else "CYX"
                text = json.dumps(noted)
                write_ome(file, mapped, text, axes, bigtiff=True, compression=None, what="map")


def let_go(array: Array) -> None:
    """Free the memory that an array mapped from disk takes; what was written stays in its file."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def _take_space(file: IO[bytes], n_bytes: int) -> None:
    """Make a file that long: a disk that is full says so now, and not with a signal later."""
    file.flush()
    try:
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    except AttributeError:  # not on this system
        file.truncate(n_bytes)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        file.truncate(n_bytes)
