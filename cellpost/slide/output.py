"""Label images larger than memory, written part by part: Zarr arrays and tiled BigTIFFs."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from cellpost._arrays import check_fits, named_dtype
from cellpost.io.containers import PathLike
from cellpost.io.output import check_output
from cellpost.labels import integer, lengths_of
from cellpost.slide.label_array import LabelArray, TiffLabels, ZarrLabels

__all__ = [
    "Compression",
    "Format",
    "LabelArray",
    "check_folder",
    "check_out",
    "create_labels",
    "import_zarr",
    "opened",
]

Format: TypeAlias = Literal["zarr3", "zarr2", "bigtiff"]
Compression: TypeAlias = Literal["zstd", "deflate", "none"]

_SUFFIXES: dict[str, Format] = {
    ".zarr": "zarr3",
    ".tif": "bigtiff",
    ".tiff": "bigtiff",
    ".btf": "bigtiff",
}
_DTYPES = ("uint16", "int32", "uint32")
_OF_TIFF = 16  # what the sides of its tiles divide by


def create_labels(
    path: PathLike,
    shape: Sequence[int],
    *,
    dtype: DTypeLike = "int32",
    chunks: int | Sequence[int] = 1024,
    format: Format | None = None,
    compression: Compression | None = None,
    overwrite: bool = False,
) -> LabelArray:
    """Make a label image on disk, to be written window by window.

    Parameters
    ----------
    path : str or Path
        Where it is to lie; the folder has to exist, but for groups inside of a ``.zarr``.
    shape : (int, int) or (int, int, int)
        H, W or D, H, W in pixels, each >= 1.
    dtype : {"int32", "uint32", "uint16"}
        Of the ids.
    chunks : int or sequence of int
        Pixels a side that are stored together, one number for each axis, or one for rows and
        columns (planes are stored each by itself); in a BigTIFF multiples of 16.
    format : {"zarr3", "zarr2", "bigtiff"}, optional
        By the name if not given: Zarr v3 in ``.zarr``, else ``.tif``, ``.tiff`` or ``.btf``.
    compression : {"zstd", "deflate", "none"}, optional
        Zarr has Zstandard (``"deflate"`` would note the time of day in each chunk), BigTIFF has
        Deflate, which every reader knows; these if not given.
    overwrite : bool
        Replace a label array that is there; a folder that is anything else is never replaced.

    Returns
    -------
    LabelArray
        All 0, to be closed after writing.

    Raises
    ------
    ImportError
        If the format needs a package that is not installed.
    TypeError
        If the dtype is none of these, or a number is no integer.
    ValueError
        If shape, chunks, format or compression are out of range, or the name says no format.
    OSError
        If the output is there already, its folder takes no new file, or its disk has no room for
        the raw labels of a BigTIFF.

    Notes
    -----
    In Zarr windows go to their chunks at once, and threads or processes may write different chunks
    at the same time; chunks of background alone take no space. A BigTIFF is gathered uncompressed
    in a hidden file beside it, in any order of windows, and compressed when it is closed. The same
    labels give the same bytes. Memory: a window.

    Examples
    --------
    >>> import tempfile, numpy as np, tifffile
    >>> from cellpost.slide.output import create_labels
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with create_labels(f"{folder}/cells.tif", (40, 50), chunks=16) as out:
    ...         out[10:12, 30:34] = np.full((2, 4), 7)
    ...     tifffile.imread(f"{folder}/cells.tif")[11, 28:36].tolist()
    [0, 0, 7, 7, 7, 7, 0, 0]
    """
    where = Path(path)
    sizes = lengths_of("shape", shape, (2, 3))
    if 0 in sizes:
        raise ValueError(f"shape: expected sizes of at least 1; got {sizes}")
    name = named_dtype("dtype", dtype, _DTYPES, f"one of {', '.join(_DTYPES)}")
    form = _format(where, format)
    methods = ("deflate" if form == "bigtiff" else "zstd", "none")
    method = compression or methods[0]
    if method not in methods:
        raise ValueError(
            f"compression: expected {' or '.join(map(repr, methods))} with {form!r}; "
            f"got {compression!r}"
        )
    sides = _chunks(chunks, sizes, _OF_TIFF if form == "bigtiff" else 1)
    if form == "bigtiff":
        return TiffLabels(where, sizes, name, sides, method, overwrite)
    zarr = import_zarr()
    check_folder(where, overwrite)
    array = zarr.create_array(
        store=str(where),
        shape=sizes,
        chunks=sides,
        dtype=name,
        fill_value=0,
        overwrite=overwrite,
        **_zarr_options(form, method, len(sizes)),
    )
    return ZarrLabels(where, sizes, name, sides, array)


@contextmanager
def opened(
    out: Any, shape: tuple[int, ...], n_labels: int, *, overwrite: bool = False
) -> Iterator[Any]:
    """What labels up to `n_labels` are written to: an array, or a new one at a path."""
    if isinstance(out, (str, os.PathLike)):
        check_fits(n_labels, "int32", "out")
        with create_labels(Path(out), shape, overwrite=overwrite) as array:
            yield array
    else:
        check_fits(n_labels, np.dtype(out.dtype).name, "out")
        yield out


def check_out(out: Any, shape: tuple[int, ...], *, overwrite: bool = False) -> None:
    """Find out, before the work, whether `opened` will take it."""
    if isinstance(out, (str, os.PathLike)):
        where = Path(out)
        if _format(where, None) == "bigtiff":
            check_output(where, overwrite=overwrite)
        else:
            import_zarr()
            check_folder(where, overwrite)
        if 0 in shape:
            raise ValueError(f"shape: expected sizes of at least 1; got {shape}")
        return
    if not (hasattr(out, "__setitem__") and hasattr(out, "dtype") and hasattr(out, "shape")):
        raise TypeError(f"out: expected a path or an array to write to; got {type(out).__name__}")
    if tuple(out.shape) != shape:
        raise ValueError(f"out: expected shape {shape}; got {tuple(out.shape)}")
    if np.dtype(out.dtype).kind not in "iu":
        raise TypeError(f"out: expected an integer dtype; got {out.dtype}")


def import_zarr() -> Any:
    """Give the package zarr, 3 or newer, or raise an ImportError that says how to get it."""
    try:
        zarr = importlib.import_module("zarr")
    except ImportError:
        zarr = None
    if zarr is None or int(zarr.__version__.split(".")[0]) < 3:
        got = "none" if zarr is None else zarr.__version__
        raise ImportError(
            f"zarr: expected the package, 3 or newer; got {got}: pip install 'cellpost[zarr]' "
            "(Python 3.11 or newer), or write a BigTIFF (.tif)"
        )
    return zarr


def check_folder(path: Path, overwrite: bool) -> None:
    """Find out whether a Zarr array can be written, and is nothing else that it would replace."""
    if path.exists():
        if not overwrite:
            raise FileExistsError(f"{path}: exists already; overwrite=True replaces it")
        if not _is_zarr_array(path):
            raise FileExistsError(f"{path}: expected a Zarr array to replace; got something else")
        return
    if any(parent.suffix == ".zarr" for parent in path.parents):  # groups are made
        path = next(parent for parent in (path, *path.parents) if parent.parent.exists())
    check_output(path)


def _is_zarr_array(path: Path) -> bool:
    if (path / ".zarray").is_file():
        return True
    try:
        node = json.loads((path / "zarr.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(node, dict) and node.get("node_type") == "array"


def _format(path: Path, given: str | None) -> str:
    if given is not None:
        if given not in ("zarr3", "zarr2", "bigtiff"):
            raise ValueError(f"format: expected 'zarr3', 'zarr2' or 'bigtiff'; got {given!r}")
        return given
    for part in (path, *path.parents):  # also inside of a .zarr
        found = _SUFFIXES.get(part.suffix.lower())
        if found and (part == path or found == "zarr3"):
            return found
    raise ValueError(
        f"path: expected a name that ends in {', '.join(_SUFFIXES)}, or a format; got {str(path)!r}"
    )


def _chunks(chunks: Any, shape: tuple[int, ...], step: int) -> tuple[int, ...]:
    n = len(shape)
    if isinstance(chunks, (Sequence, np.ndarray)):
        sides = lengths_of("chunks", chunks, (n,))
    else:
        sides = (1,) * (n - 2) + (integer("chunks", chunks),) * 2
    if min(sides) < 1:
        raise ValueError(f"chunks: expected sides of at least 1; got {chunks!r}")
    if any(side % step for side in sides[-2:]) or (step > 1 and any(s > 1 for s in sides[:-2])):
        raise ValueError(
            f"chunks: expected sides of a multiple of {step} in planes of their own; got {chunks!r}"
        )
    return tuple(
        min(side, -(-size // step) * step) if k >= n - 2 else min(side, size)
        for k, (side, size) in enumerate(zip(sides, shape, strict=True))
    )


def _zarr_options(form: str, method: str, ndim: int) -> dict[str, Any]:
    if form == "zarr2":
        codec = importlib.import_module("numcodecs").Zstd  # which zarr needs itself
        options: dict[str, Any] = {
            "zarr_format": 2,
            "chunk_key_encoding": {"name": "v2", "separator": "/"},  # as OME-NGFF 0.4 wants it
        }
    else:
        codec = importlib.import_module("zarr.codecs").ZstdCodec
        options = {"zarr_format": 3, "dimension_names": list("zyx"[-ndim:])}
    return {**options, "compressors": codec() if method == "zstd" else None}
