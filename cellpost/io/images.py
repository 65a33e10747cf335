"""Pictures in, label images in and out."""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, PngImagePlugin

import cellpost
from cellpost.io.containers import (
    Array,
    FileFormatError,
    PathLike,
    describe,
    file_kind,
    load_npy,
    load_picture,
    load_tiff,
    picture_text,
    tiff_description,
)
from cellpost.io.output import atomic_file

_PICTURE = "a picture (H, W), (H, W, C) or a volume (D, H, W) in a TIFF, PNG, JPEG or .npy"
_LABELS = "a label image of non-negative integers (H, W) or (D, H, W) in a TIFF, PNG or .npy"
_TILE = (256, 256)
_BIGTIFF_FROM = 2**32 - 2**25  # bytes of pixels: the rest of the file has 32 MiB
_DTYPES = {
    ".tif": ("uint8", "uint16", "uint32", "int8", "int16", "int32"),  # what OME-TIFF knows
    ".png": ("uint16",),
    ".npy": ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
}
_DTYPES[".tiff"] = _DTYPES[".tif"]


def read_image(path: PathLike) -> Array:
    """Read a picture: grey, colour or a volume.

    Parameters
    ----------
    path : str or Path
        TIFF or OME-TIFF (its axes metadata is honoured), PNG, JPEG (all Pillow opens), ``.npy``.

    Returns
    -------
    ndarray, (H, W), (H, W, C), (D, H, W) or (D, H, W, C)
        In the file's dtype; a named channel axis (C or S) comes last. A TIFF with a palette gives
        its indices.

    Raises
    ------
    FileFormatError
        If there is no such picture in the file.
    """
    return read_pixels(Path(path))[0]


def read_labels(path: PathLike) -> Array:
    """Read a label image.

    Parameters
    ----------
    path : str or Path
        TIFF or OME-TIFF, PNG or ``.npy``, one integer a pixel, 0 for background. Ids may have gaps.

    Returns
    -------
    ndarray, (H, W) or (D, H, W)
        In the file's integer dtype.

    Raises
    ------
    FileFormatError
        If the file holds no such array: a colour picture, fractions, negative ids.
    """
    path = Path(path)
    labels, has_channels = read_pixels(path, _LABELS, palette_as_indices=True)
    if has_channels or labels.dtype.kind not in "iu" or labels.ndim not in (2, 3):
        raise FileFormatError(path, _LABELS, describe(labels))
    if labels.size and labels.min() < 0:
        raise FileFormatError(path, _LABELS, f"negative ids, down to {labels.min()}")
    return labels


def read_pixels(
    path: Path, expected: str = _PICTURE, *, palette_as_indices: bool = False
) -> tuple[Array, bool]:
    """Read an array with its channels last, and whether the file says that it has any."""
    kind = file_kind(path, expected)
    if kind == "tiff":
        array, axes = load_tiff(path, expected)
    elif kind == "npy":
        content = load_npy(path, expected)
        if isinstance(content, dict):
            raise FileFormatError(path, expected, "a pickled dict (Cellpose's _seg.npy?)")
        array, axes = content, ""
    else:
        array = load_picture(path, expected, palette_as_indices=palette_as_indices)
        axes = "YXS"[: array.ndim]
    channels = [i for i, letter in enumerate(axes) if letter in "CS"]
    if axes:
        space = [i for i in range(array.ndim) if i not in channels]
        depth = [i for i in space if axes[i] not in "YX"]
        if len(channels) > 1 or "Y" not in axes or "X" not in axes:
            raise FileFormatError(path, expected, describe(array, axes))
        array = array.transpose([*depth, axes.index("Y"), axes.index("X"), *channels])
    if array.ndim not in (2, 3, 4) or array.dtype.kind not in "buif":
        raise FileFormatError(path, expected, describe(array, axes))
    return array, bool(channels)


def write_labels(
    path: PathLike,
    labels: npt.ArrayLike,
    *,
    metadata: Mapping[str, Any] | None = None,
    dtype: npt.DTypeLike | None = None,
) -> None:
    """Write a label image, whole or not at all.

    Parameters
    ----------
    path : str or Path
        The name's ending chooses the form:

        * ``.tif``, ``.tiff``: OME-TIFF in tiles of 256 x 256, deflate-compressed, a BigTIFF where
          it could pass 4 GiB; 2D or 3D. Opens in QuPath, napari and Fiji (through Bio-Formats);
        * ``.png``: 16 bits, 2D, up to 65,535 cells;
        * ``.npy``: the array alone, without metadata.
    labels : array_like, (H, W) or (D, H, W), any integer dtype
        Ids >= 0, 0 for background.
    metadata : mapping, optional
        Anything JSON can say: kept in the file beside cellpost's version, as JSON in the OME
        image description (TIFF) or in a text chunk named ``cellpost`` (PNG).
        :func:`read_metadata` gives it back.
    dtype : dtype, optional
        Integer type in the file. None: uint16 if every id fits, else uint32.

    Raises
    ------
    TypeError
        If labels are not integers.
    ValueError
        If the ending is unknown, or the form cannot hold such labels (shape, dtype, no pixels).
    OverflowError
        If an id does not fit into the dtype.
    OSError
        If the file cannot be written; nothing half-written stays behind.

    Notes
    -----
    uint32 and not int32 beyond 65,535 cells, as Cellpose does; Fiji shows either as 32-bit floats,
    exact up to 16,777,216. The same labels and metadata give the same bytes.
    """
    path = Path(path)
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise TypeError(f"labels: expected integers; got {describe(array)}")
    if array.size and array.min() < 0:
        raise ValueError(f"labels: expected ids of 0 and more; got {array.min()}")
    largest = int(array.max()) if array.size else 0
    if dtype is None:
        dtype = np.uint16 if largest <= 65535 or path.suffix.lower() == ".png" else np.uint32
    form = check_form(path, array.ndim, dtype)
    if largest > np.iinfo(dtype).max:
        better = "; a .tif holds more" if form == ".png" else ""
        raise OverflowError(f"{path}: id {largest} does not fit into {np.dtype(dtype)}{better}")
    if array.size == 0 and form != ".npy":
        raise ValueError(f"{path}: a {form} cannot hold an image of shape {array.shape}; .npy can")
    array = np.ascontiguousarray(array, dtype)
    text = json.dumps({"software": "cellpost", "version": cellpost.__version__, **(metadata or {})})
    with atomic_file(path) as file:
        if form == ".npy":
            np.save(file, array)
        elif form == ".png":
            info = PngImagePlugin.PngInfo()
            info.add_itxt("cellpost", text)
            Image.fromarray(array).save(file, format="PNG", pnginfo=info)
        else:
            axes = "ZYX"[-array.ndim :]
            large = array.nbytes > _BIGTIFF_FROM
            write_ome(file, array, text, axes, bigtiff=large, compression="zlib", what="labels")


def check_form(path: PathLike, ndim: int, dtype: npt.DTypeLike | None = None) -> str:
    """Say which form a name's ending asks for, or raise if that form cannot hold such labels."""
    form = Path(path).suffix.lower()
    if form not in _DTYPES:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(_DTYPES)}; got {form!r}")
    if ndim not in ((2,) if form == ".png" else (2, 3)):
        raise ValueError(f"{path}: a {form} cannot hold labels of {ndim} axes")
    if dtype is not None and np.dtype(dtype).name not in _DTYPES[form]:
        held = ", ".join(_DTYPES[form])
        raise ValueError(f"{path}: expected a dtype of {held}; got {np.dtype(dtype)}")
    return form


def write_ome(
    file: Any,
    array: Array,
    text: str,
    axes: str,
    *,
    bigtiff: bool,
    compression: str | None,
    what: str,
) -> None:
    """Write an OME-TIFF in tiles, with a text as its description; the same bytes each time."""
    content = zlib.crc32(array.data, zlib.crc32(text.encode()))
    tifffile.imwrite(
        file,
        array,
        ome=True,
        bigtiff=bigtiff,
        photometric="minisblack",
        tile=_TILE,
        compression=compression,
        software=f"cellpost {cellpost.__version__}",
        metadata={
            "axes": axes,
            "Description": text,
            # tifffile's own would be another one each time
            "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, f"cellpost {what} {content}")),
        },
    )


def read_metadata(path: PathLike) -> dict[str, Any]:
    """Give back what :func:`write_labels` noted in a TIFF or PNG.

    Parameters
    ----------
    path : str or Path
        A file of :func:`write_labels`.

    Returns
    -------
    dict
        The metadata, with ``software`` and ``version``; empty for ``.npy`` and for files that
        cellpost did not write.

    Raises
    ------
    FileFormatError
        If the file is missing or damaged.
    """
    path = Path(path)
    kind = file_kind(path, _LABELS)
    text = ""
    if kind == "tiff":
        text = _ome_description(tiff_description(path, _LABELS))
    elif kind == "other":
        text = picture_text(path, _LABELS, "cellpost")
    try:
        noted = json.loads(text)
    except ValueError:
        return {}
    return noted if isinstance(noted, dict) and noted.get("software") == "cellpost" else {}


def _ome_description(xml: str) -> str:
    try:
        found = ElementTree.fromstring(xml).find("{*}Image/{*}Description")
    except ElementTree.ParseError:
        return ""
    return (found.text or "") if found is not None else ""
