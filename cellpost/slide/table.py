"""A row for each cell of a label image that is larger than memory, in a file."""

from __future__ import annotations

import csv
import importlib
import io
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellpost._arrays import Arrays, to_host
from cellpost.io.containers import PathLike
from cellpost.io.output import atomic_file, check_output
from cellpost.properties import properties
from cellpost.slide.memory import check_memory

__all__ = ["cell_table"]

_PIXEL_BYTES = 64  # of a block: its labels, their ranks, and what properties measures with
_SIDE = {2: 256, 3: 32}  # of the smallest block, in images and volumes
_ROWS = 2**20  # of parts of cells, that are held before they are put together
_FEW = 2**16  # ids: tables of so many are small


def cell_table(
    labels: Any,
    path: PathLike,
    *,
    scores: Any = None,
    class_ids: Any = None,
    memory: int | str = "2GB",
    overwrite: bool = False,
) -> int:
    """Write id, place, size and, if they are known, score and type of every cell to a file.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image that is read by slices: of NumPy, zarr, h5py, dask, a memory map, or a
        `LabelArray`. Ids >= 0, gaps allowed.
    path : str or Path
        A ``.csv``, or with pyarrow a ``.parquet``.
    scores : array, (n,), floating point, optional
        ``scores[k]`` is that of id k + 1.
    class_ids : array, (n,), integer, optional
        ``class_ids[k]`` is the type of id k + 1.
    memory : int or str
        What the call may take besides 200 bytes a cell, in bytes or as ``"2GB"``; it sets the size
        of the blocks.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    int
        Cells in the table.

    Raises
    ------
    ImportError
        For ``.parquet``, without pyarrow.
    TypeError
        If `labels` is no array of an integer dtype.
    ValueError
        If it has another number of axes or negative ids, scores or class_ids are too few, the name
        has another ending, or the memory is too small (the error says what is needed).
    OSError
        If the file is there already or cannot be written; found out before the work.

    See Also
    --------
    cellpost.properties : in memory, with shapes and intensities.

    Notes
    -----
    Rows in ascending order of id. Columns: ``id``, ``centroid_y``, ``centroid_x``, ``y0``, ``x0``,
    ``y1``, ``x1`` (the bounding box, half-open), ``area`` in pixels, ``score``, ``type``; volumes
    have ``z`` first. The numbers are those of `cellpost.properties` of the whole image, to the last
    bit: cells that cross blocks are put together from integer sums. Each pixel is read once. The
    file appears whole or not at all.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from pathlib import Path
    >>> from cellpost.slide.table import cell_table
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cell_table(np.array([[1, 1, 0, 5]]), f"{folder}/cells.csv")
    ...     print(Path(folder, "cells.csv").read_text())
    2
    id,centroid_y,centroid_x,y0,x0,y1,x1,area
    1,0.0,0.5,0,0,1,2,2
    5,0.0,3.0,0,3,1,4,1
    """
    where = Path(path)
    write = _writer(where)
    shape = tuple(getattr(labels, "shape", ()))
    if len(shape) not in (2, 3) or not hasattr(labels, "__getitem__"):
        raise TypeError(
            f"labels: expected an array (H, W) or (D, H, W); got {type(labels).__name__} of shape "
            f"{shape}"
        )
    side = _block_side(memory, len(shape))
    extra = {
        name: to_host(column)
        for name, column in (("score", scores), ("type", class_ids))
        if column is not None
    }
    for name, column in extra.items():
        if np.ndim(column) != 1:
            argument = {"score": "scores", "type": "class_ids"}[name]
            raise ValueError(f"{argument}: expected shape (n,); got {np.shape(column)}")
    check_output(where, overwrite=overwrite)
    cells = _measured(labels, shape, side)
    columns = _columns(cells, len(shape), extra)
    with atomic_file(where) as file:
        write(file, columns)
    return len(cells)


def _block_side(memory: int | str, ndim: int) -> int:
    side = _SIDE[ndim]
    needed = _PIXEL_BYTES * side**ndim
    limit = check_memory(memory, needed, f"a block of {side} pixels a side")
    n: int = math.floor((limit / needed) ** (1 / ndim) + 1e-9)  # roots of whole numbers stay whole
    return min(n, 16) * side


def _measured(labels: Any, shape: tuple[int, ...], side: int) -> NDArray[np.int64]:
    """Id, area, sums of coordinates, lowest and one past the highest of each, by id."""
    ndim = len(shape)
    parts, n_rows = [np.empty((0, 2 + 3 * ndim), np.int64)], 0
    for corner in itertools.product(*(range(0, n, side) for n in shape)):
        window = tuple(slice(c, min(c + side, n)) for c, n in zip(corner, shape, strict=True))
        block, ids = _ranked(labels[window])
        found = properties(block)
        area, at = found["area"], np.array(corner, np.int64)
        # A block's sums are below 2**51: rounding gives back the integers.
        sums = np.rint(found["centroid"] * area[:, None]).astype(np.int64) + at * area[:, None]
        label = found["label"] if ids is None else ids[found["label"]]
        parts.append(np.column_stack([label, area, sums, found["bbox"] + np.tile(at, 2)]))
        n_rows += len(label)
        if n_rows > max(_ROWS, 2 * len(parts[0])):
            parts = [_together(np.concatenate(parts), ndim)]
            n_rows = 0
    return _together(np.concatenate(parts), ndim)


def _ranked(labels: Any) -> tuple[NDArray[np.int32], NDArray[np.int64] | None]:
    """The same objects with small ids in the same order, on the host, and the ids behind them.

    None if the labels are their own ids. So tables by id are no longer than a block's ids are many.
    Negative ids are left to `properties` to reject.
    """
    given = np.asarray(to_host(labels))
    small, ids = Arrays(labels=given).int32_labels("labels", to_write=False)
    largest = int(small.max(initial=0))
    if ids is not None:
        return np.asarray(small), np.asarray(ids).astype(np.int64)
    if largest < _FEW or int(small.min(initial=0)) < 0:
        return np.asarray(small), None
    is_there = np.zeros(largest + 1, np.bool_)
    is_there[small] = True
    is_there[0] = True
    rank = np.cumsum(is_there, dtype=np.int32) - 1
    return rank[small], np.flatnonzero(is_there)


def _together(parts: NDArray[np.int64], ndim: int) -> NDArray[np.int64]:
    """One row for each id."""
    if not len(parts):
        return parts
    parts = parts[np.argsort(parts[:, 0], kind="stable")]
    start = np.flatnonzero(np.diff(parts[:, 0], prepend=-1))
    low, high = 2 + ndim, 2 + 2 * ndim
    return np.column_stack(
        [
            parts[start, 0],
            np.add.reduceat(parts[:, 1:low], start),
            np.minimum.reduceat(parts[:, low:high], start),
            np.maximum.reduceat(parts[:, high:], start),
        ]
    )


def _columns(cells: NDArray[np.int64], ndim: int, extra: dict[str, Any]) -> dict[str, NDArray[Any]]:
    axes, area = "zyx"[-ndim:], cells[:, 1]
    low, high = 2 + ndim, 2 + 2 * ndim
    columns: dict[str, NDArray[Any]] = {"id": cells[:, 0]}
    for k, axis in enumerate(axes):
        first = cells[:, low + k]
        from_first = cells[:, 2 + k] - first * area
        columns[f"centroid_{axis}"] = first + from_first / area  # as properties rounds it
    columns |= {f"{axis}0": cells[:, low + k] for k, axis in enumerate(axes)}
    columns |= {f"{axis}1": cells[:, high + k] for k, axis in enumerate(axes)}
    columns["area"] = area
    largest = int(cells[-1, 0]) if len(cells) else 0
    for name, values in extra.items():
        if len(values) < largest:
            argument = {"score": "scores", "type": "class_ids"}[name]
            raise ValueError(f"{argument}: expected {largest}, one for each id; got {len(values)}")
        columns[name] = np.asarray(values)[cells[:, 0] - 1]
    return columns


def _writer(path: Path) -> Any:
    form = path.suffix.lower()
    if form == ".csv":
        return _write_csv
    if form != ".parquet":
        raise ValueError(f"path: expected a name that ends in .csv or .parquet; got {str(path)!r}")
    try:
        arrow, parquet = (importlib.import_module(f"pyarrow{part}") for part in ("", ".parquet"))
    except ImportError:
        raise ImportError(
            "path: expected the package pyarrow for Parquet; got none: pip install "
            "'cellpost[parquet]', or name a .csv"
        ) from None
    return lambda file, columns: parquet.write_table(arrow.table(columns), file)


def _write_csv(file: Any, columns: dict[str, NDArray[Any]]) -> None:
    text = io.TextIOWrapper(file, encoding="ascii", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for rows in _slices(len(columns["id"])):
        values = (column[rows].tolist() for column in columns.values())
        writer.writerows(zip(*values, strict=True))
    text.detach()


def _slices(n: int) -> Iterator[slice]:
    step = 2**14
    return (slice(k * step, (k + 1) * step) for k in range(math.ceil(n / step)))
