"""From a file to arrays: which kind of file it is, and how each kind is opened.

The kind is told by the first bytes, never by the name. Nothing here knows what the arrays mean.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from cellpost.io.pickled import load_pickled_npy

PathLike = str | Path
Array = npt.NDArray[Any]

_KINDS = {
    b"\x93NUMPY": "npy",
    b"PK\x03\x04": "npz",
    b"PK\x05\x06": "npz",  # an archive without entries
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",  # BigTIFF
    b"MM\0+": "tiff",
}


class FileFormatError(ValueError):
    """A file that cannot be used: it says which, what was expected and what it is.

    Parameters
    ----------
    path : str or Path
        The file.
    expected : str
        What the reader asked for.
    got : object
        What it found instead.
    """

    def __init__(self, path: PathLike, expected: str, got: object) -> None:
        super().__init__(str(path), expected, str(got))

    def __str__(self) -> str:
        path, expected, got = self.args
        return f"{path}: expected {expected}; got {got}"


def file_kind(path: Path, expected: str) -> str:
    """Tell ``"npy"``, ``"npz"``, ``"tiff"`` or ``"other"`` by the first bytes of a file."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError:
        raise FileFormatError(path, expected, "no file: there is none of this name") from None
    except OSError as error:
        raise FileFormatError(path, expected, error.strerror or error) from None
    if not head:
        raise FileFormatError(path, expected, "an empty file (0 bytes)")
    return next((kind for magic, kind in _KINDS.items() if head.startswith(magic)), "other")


@contextmanager
def _reading(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever a reading library raises on a broken file into one kind of error."""
    try:
        yield
    except (FileFormatError, MemoryError):
        raise
    except Exception as error:  # zlib, struct, zipfile, tifffile, Pillow: each has its own
        why = str(error) or type(error).__name__
        got = f"what cannot be read, cut short or damaged perhaps: {why}"
        raise FileFormatError(path, expected, got) from error


class _Complaints(logging.Handler):
    """Collects what tifffile only logs, such as a chain of pages that breaks off."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []
        self.reader = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.reader:
            self.messages.append(record.getMessage())


@contextmanager
def _open_tiff(path: Path, expected: str) -> Iterator[tifffile.TiffFile]:
    complaints = _Complaints()
    logger = logging.getLogger("tifffile")
    logger.addHandler(complaints)
    try:
        with _reading(path, expected), tifffile.TiffFile(path) as tiff:
            yield tiff
            if complaints.messages:
                raise ValueError(complaints.messages[0])
    finally:
        logger.removeHandler(complaints)


def load_tiff(path: Path, expected: str) -> tuple[Array, str]:
    """Read the first image of a TIFF or OME-TIFF with one letter for each axis.

    Axes of length 1 go, but for Y and X: OME-TIFF always has a T, a Z and a C.
    """
    with _open_tiff(path, expected) as tiff:
        series = tiff.series[0]
        return _with_axes(series, np.asarray(series.asarray()), "YX")


def load_tiff_stack(path: Path, expected: str) -> tuple[Array, str]:
    """Read the same of a TIFF of more axes than an image has: mapped from disk, if it can be.

    Axes of length 1 stay where they are C, Y or X, or where the writer gave all axes by number.
    """
    with _open_tiff(path, expected) as tiff:
        series = tiff.series[0]
        if series.dataoffset is None:
            array = np.asarray(series.asarray())
        else:
            dtype = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
            array = np.memmap(path, dtype, "r", series.dataoffset, series.get_shape(False))
        kept = series.get_axes(False) if series.kind == "shaped" else "CYX"
        return _with_axes(series, array, kept)


def _with_axes(series: Any, array: Array, kept: str) -> tuple[Array, str]:
    """An image without its axes of length 1, but for some, and the letters of its axes."""
    axes, shape = series.get_axes(False), series.get_shape(False)
    keep = [i for i, (a, n) in enumerate(zip(axes, shape, strict=True)) if n != 1 or a in kept]
    array = array.reshape([shape[i] for i in keep])
    return native(array), "".join(axes[i] for i in keep)


def tiff_description(path: Path, expected: str) -> str:
    """Read the text of a TIFF's first ImageDescription tag, or an empty one."""
    with _open_tiff(path, expected) as tiff:
        return tiff.pages.first.description or ""


def load_npy(path: Path, expected: str) -> Array | dict[str, Any]:
    """Open an ``.npy`` file: an array mapped from disk, or the dict Cellpose pickles into one."""
    with _reading(path, expected), path.open("rb") as file:
        shape, _, dtype = _npy_header(file)
        if dtype.hasobject:
            return load_pickled_npy(file)
        empty = 0 in shape or shape == ()
        return native(np.load(path, mmap_mode=None if empty else "r", allow_pickle=False))


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first index runs fastest, and dtype; the file stands at the data then."""
    form = np.lib.format
    old = form.read_magic(file) == (1, 0)
    return (form.read_array_header_1_0 if old else form.read_array_header_2_0)(file)


def load_npz(
    path: Path,
    expected: str,
    names: tuple[str, ...],
    optional: tuple[str, ...] = (),
    *,
    mapped: bool = False,
) -> dict[str, Array]:
    """Read arrays of an ``.npz`` archive by name; the optional ones if they are there.

    With ``mapped`` those that are not compressed are mapped from disk.
    """
    with _reading(path, expected), zipfile.ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    if missing := [name for name in names if name not in entries]:
        got = f"no {' and no '.join(missing)} among {', '.join(entries) or 'no arrays'}"
        raise FileFormatError(path, expected, got)
    with _reading(path, expected), np.load(path, allow_pickle=False) as archive:
        wanted = [*names, *(name for name in optional if name in entries)]
        found = {}
        for name in wanted:
            array = _mapped(path, entries[name]) if mapped else None
            found[name] = native(archive[name] if array is None else array)
        return found


def _mapped(path: Path, entry: zipfile.ZipInfo) -> Array | None:
    """Map an array of an ``.npz`` archive from disk; None if that cannot be."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:  # encrypted
        return None
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        local = file.read(30)  # its lengths may differ from those of the directory at the end
        n_name, n_extra = struct.unpack("<HH", local[26:30])
        file.seek(n_name + n_extra, os.SEEK_CUR)
        shape, is_fortran, dtype = _npy_header(file)
        if dtype.hasobject or 0 in shape or shape == ():
            return None
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")


def load_picture(path: Path, expected: str, *, palette_as_indices: bool = False) -> Array:
    """Read a PNG, JPEG or anything else Pillow opens: (H, W) or (H, W, 3 or 4)."""
    with _reading(path, expected), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as picture:
            to_rgb = {"P", "PA", "CMYK", "YCbCr", "LAB", "HSV"} - (
                {"P"} if palette_as_indices else set()
            )
            return native(np.asarray(picture.convert("RGB") if picture.mode in to_rgb else picture))


def picture_text(path: Path, expected: str, key: str) -> str:
    """Read one of a PNG's text chunks, or an empty text."""
    with _reading(path, expected), Image.open(path) as picture:
        return str(picture.info.get(key, ""))


def native(array: Array) -> Array:
    """Give an array in this machine's byte order, copied only if it has to be."""
    return np.asarray(array).astype(array.dtype.newbyteorder("="), copy=False)


def describe(array: Array, axes: str = "") -> str:
    """Say an array's dtype, shape and axes, for error messages."""
    return f"{array.dtype} of shape {array.shape}" + (f" with axes {axes}" if axes else "")
