"""Labels in an OME-Zarr: levels of halved size, and what viewers want to know of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cellpost.io.containers import PathLike
from cellpost.labels import integer, number
from cellpost.slide.output import Format, create_labels, import_zarr
from cellpost.tiles_layout import per_axis

__all__ = ["write_ngff"]

_DTYPES = ("uint16", "int32", "uint32")


def write_ngff(
    labels: Any,
    path: PathLike,
    *,
    name: str = "cells",
    scale: float | Sequence[float] = 1.0,
    unit: str | None = "micrometer",
    offset: float | Sequence[float] = 0.0,
    levels: int | None = None,
    chunks: int = 1024,
    format: Literal["zarr3", "zarr2"] | None = None,
    compression: Literal["zstd", "none"] = "zstd",
    overwrite: bool = False,
) -> Path:
    """Write labels to an OME-Zarr as ``labels/<name>``, at full and at halved sizes.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype, or None
        Label image that is read by slices: of NumPy, zarr, h5py, dask, a memory map, or a
        `LabelArray`. None: it is there already, written to ``create_labels(f"{path}/labels/
        <name>/0", ...)``.
    path : str or Path
        An OME-Zarr image, to which the labels are added, or the name of a new ``.zarr``.
    name : str
        Of the labels.
    scale : float or sequence of float
        Size of a pixel, in `unit`, for all axes or for each.
    unit : str or None
        Of length, by its name in UDUNITS-2 (``"micrometer"``).
    offset : float or sequence of float
        Where the middle of the first pixel lies, in `unit`, for all axes or for each.
    levels : int, optional
        Sizes in all, >= 1; if not given, until one chunk holds the image.
    chunks : int
        Pixels a side that are stored together, in rows and columns.
    format : {"zarr3", "zarr2"}, optional
        OME-NGFF 0.5 in Zarr v3, or 0.4 in Zarr v2. If not given, that of the image that is there,
        or Zarr v3.
    compression : {"zstd", "none"}
        As in `create_labels`.
    overwrite : bool
        Replace labels of this name.

    Returns
    -------
    Path
        Of the labels' group.

    Raises
    ------
    ImportError
        If zarr is not installed.
    TypeError
        If `labels` is no array of an integer dtype, or a number is none.
    ValueError
        If a number is out of range, or the name would lie in another group.
    OverflowError
        If an id does not fit into int32 (uint16 and uint32 labels stay what they are).
    OSError
        If labels of this name are there already, `path` is no Zarr group, it is of another format,
        or it takes no new file.

    Notes
    -----
    A level takes every second row and column of the one above (of volumes all planes), so that ids
    stay ids; a block of pixels is held at a time. A pixel of a level stands for the block it comes
    from, so the translation of a level is that of its first block's middle. The metadata are
    written last: viewers see the labels when they are whole. Where the image's group has
    consolidated metadata, consolidate it anew.

    Examples
    --------
    >>> import tempfile, numpy as np, zarr
    >>> from cellpost.slide.pyramid import write_ngff
    >>> labels = np.zeros((300, 500), np.int32)
    >>> labels[10:20, 30:40] = 1
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     group = zarr.open_group(write_ngff(labels, f"{folder}/s.zarr", scale=0.5, chunks=256))
    ...     group.attrs["ome"]["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    ...     group["1"].shape
    [{'type': 'scale', 'scale': [1.0, 1.0]}, {'type': 'translation', 'translation': [0.25, 0.25]}]
    (150, 250)
    """
    zarr = import_zarr()
    where = Path(path)
    if not isinstance(name, str) or not name or name in (".", "..") or "/" in name:
        raise ValueError(f"name: expected that of a group in labels/; got {name!r}")
    form = _format(zarr, where, format)
    base = where / "labels" / name
    if labels is None:
        first = _level_in_place(zarr, base, form)
    else:
        first = labels
        if not hasattr(labels, "shape") or not hasattr(labels, "dtype"):
            raise TypeError(f"labels: expected an array; got {type(labels).__name__}")
        if np.dtype(labels.dtype).kind not in "iu":
            raise TypeError(f"labels: expected an integer dtype; got {labels.dtype}")
        _check_place(labels, base, overwrite)
    shape = tuple(first.shape)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"labels: expected (H, W) or (D, H, W), none of them 0; got {shape}")
    ndim = len(shape)
    pixel, corner = _per_axis("scale", scale, ndim), _per_axis("offset", offset, ndim)
    if min(pixel) <= 0:
        raise ValueError(f"scale: expected sizes above 0; got {scale!r}")
    n_levels = _levels(levels, shape, integer("chunks", chunks))

    made: dict[str, Any] = {"chunks": chunks, "format": form, "compression": compression}
    dtype = np.dtype(first.dtype).name
    made["dtype"] = dtype if dtype in _DTYPES else "int32"
    if labels is not None and base.exists():
        zarr.create_group(store=str(base), zarr_format=3 if form == "zarr3" else 2, overwrite=True)
    level = first
    for k in range(0 if labels is not None else 1, n_levels):
        step = 1 if k == 0 else 2
        size = (*shape[:-2], *(-(-n // step) for n in level.shape[-2:]))
        with create_labels(base / str(k), size, overwrite=k > 0 and overwrite, **made) as smaller:
            for window in _windows(smaller.shape, smaller.chunks):
                above = (slice(step * p.start, step * (p.stop - 1) + 1) for p in window[-2:])
                place = (*window[:-2], *above)
                smaller[window] = np.asarray(level[place])[..., ::step, ::step]
        level = smaller
    _describe(zarr, where, name, form, _multiscale(name, unit, pixel, corner, n_levels))
    return base


def _format(zarr: Any, path: Path, given: Any) -> Format:
    """That of the group which is there, or the one asked for."""
    if given not in (None, "zarr3", "zarr2"):
        raise ValueError(f"format: expected 'zarr3' or 'zarr2'; got {given!r}")
    if not path.exists():
        return given or "zarr3"
    if not any((path / node).exists() for node in ("zarr.json", ".zgroup", ".zattrs", "labels")):
        raise FileExistsError(f"{path}: expected a Zarr group; got something else")
    if not (path / "zarr.json").exists() and not (path / ".zgroup").exists():
        return given or "zarr3"
    try:
        found = zarr.open_group(str(path), mode="r", use_consolidated=False).metadata.zarr_format
    except Exception as error:  # zarr's, of arrays and damaged nodes
        raise FileExistsError(f"{path}: expected a Zarr group; got {error}") from error
    form: Format = "zarr3" if found == 3 else "zarr2"
    if given not in (None, form):
        raise FileExistsError(f"{path}: expected format {form!r}, as its group's; got {given!r}")
    return form


def _level_in_place(zarr: Any, base: Path, form: Format) -> Any:
    try:
        array = zarr.open_array(str(base / "0"), mode="r")
    except Exception as error:  # zarr's, of what is missing or no array
        raise ValueError(f"labels: expected an array, or one at {base / '0'}; got None") from error
    if array.metadata.zarr_format != (3 if form == "zarr3" else 2):
        raise ValueError(
            f"format: expected that of {base / '0'}, zarr{array.metadata.zarr_format}; got {form}"
        )
    return array


def _check_place(labels: Any, base: Path, overwrite: bool) -> None:
    if not base.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{base}: exists already; overwrite=True replaces it")
    if not (base / "zarr.json").exists() and not (base / ".zgroup").exists():
        raise FileExistsError(f"{base}: expected a Zarr group to replace; got something else")
    store = getattr(getattr(labels, "store", None), "root", None)  # of a Zarr array on disk
    lies_at = Path(store or "", getattr(labels, "path", "")).resolve()
    if base.resolve() in lies_at.parents:
        raise ValueError(f"labels: expected others than are replaced, or None; got {lies_at}")


def _per_axis(name: str, value: Any, ndim: int) -> list[float]:
    numbers = [number(name, one) for one in per_axis(name, value, ndim)]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name}: expected finite numbers; got {value!r}")
    return numbers


def _levels(levels: Any, shape: tuple[int, ...], chunks: int) -> int:
    if levels is None:
        return 1 + max(0, math.ceil(math.log2(max(shape[-2:]) / max(chunks, 1))))
    n = integer("levels", levels)
    if not 1 <= n <= 32:
        raise ValueError(f"levels: expected 1 to 32; got {n}")
    return n


def _windows(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Any:
    parts = (
        [slice(k, min(k + side, n)) for k in range(0, n, side)]
        for n, side in zip(shape, chunks, strict=True)
    )
    return itertools.product(*parts)


def _multiscale(
    name: str, unit: str | None, scale: list[float], offset: list[float], n_levels: int
) -> dict[str, Any]:
    ndim = len(scale)
    datasets = []
    for k in range(n_levels):
        factor = [1.0] * (ndim - 2) + [2.0**k] * 2
        steps = [s * f for s, f in zip(scale, factor, strict=True)]
        middle = [o + s * (f - 1) / 2 for o, s, f in zip(offset, scale, factor, strict=True)]
        transforms = [
            {"type": "scale", "scale": steps},
            {"type": "translation", "translation": middle},
        ]
        datasets.append({"path": str(k), "coordinateTransformations": transforms})
    of_length = {} if unit is None else {"unit": unit}
    axes = [{"name": axis, "type": "space", **of_length} for axis in "zyx"[-ndim:]]
    return {"name": name, "axes": axes, "datasets": datasets, "type": "nearest"}


def _describe(zarr: Any, path: Path, name: str, form: Format, multiscale: dict[str, Any]) -> None:
    """Write the groups' metadata: the list of all labels, and these labels' own."""
    version = 3 if form == "zarr3" else 2

    def group(at: Path) -> Any:
        return zarr.open_group(str(at), mode="a", zarr_format=version, use_consolidated=False)

    root, listing, own = (group(at) for at in (path, path / "labels", path / "labels" / name))
    about = dict(root.attrs).get("ome", {}) if version == 3 else dict(root.attrs)
    source = {"source": {"image": "../../"}} if "multiscales" in about else {}
    if version == 3:
        own.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [multiscale],
            "image-label": source,
        }
        ome = dict(listing.attrs.get("ome", {"version": "0.5"}))
        listing.attrs["ome"] = {**ome, "labels": _with(ome.get("labels", []), name)}
    else:
        own.attrs.update(
            {
                "multiscales": [{"version": "0.4", **multiscale}],
                "image-label": {"version": "0.4", **source},
            }
        )
        listing.attrs["labels"] = _with(listing.attrs.get("labels", []), name)


def _with(names: Any, name: str) -> list[str]:
    return [*(other for other in names if other != name), name]
