"""Masks and label images as runs: "start length" text, and COCO's run-length encoding.

`encode` and `decode` speak the text of competitions' tables, `to_coco` and `from_coco` that of
pycocotools; `encode_labels` and `labels_to_coco` do all objects of a label image at once. The work
is linear in the pixels of the image and in the runs, however many objects there are. Text is made
on the CPU: an array on a GPU is copied there first, and decoding gives NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellpost._arrays import Array
from cellpost.labels import integer, lengths_of
from cellpost.rle_runs import (
    Form,
    Order,
    coco_dicts,
    coco_runs,
    counts_of,
    host_image,
    named_objects,
    object_runs,
    painted,
    read_runs,
    runs_of,
    runs_text,
)

__all__ = [
    "decode",
    "encode",
    "encode_labels",
    "from_coco",
    "labels_to_coco",
    "rle_counts",
    "rle_crop",
    "to_coco",
]


def encode(mask: Array, *, order: Order = "row", one_based: bool = True) -> str:
    """Write the runs of a mask as text: ``"start length start length ..."``.

    Parameters
    ----------
    mask : array, (H, W) or (D, H, W), bool or any integer dtype
        Not 0 is foreground. See `encode_labels` for the objects of a label image.
    order : {"row", "column"}
        ``"row"``: pixels are counted along rows, top to bottom (Sartorius); ``"column"``: down the
        columns, left to right (Data Science Bowl 2018). In 3D plane by plane, or the other way
        round: C and Fortran order. A run goes on from one row (column) to the next.
    one_based : bool
        Whether the first pixel has number 1, as both competitions have it, or 0.

    Returns
    -------
    str
        Numbers of pixels, ascending; ``""`` without foreground.

    Raises
    ------
    TypeError
        If `mask` is no array, or neither bool nor integer.
    ValueError
        If `mask` has another number of axes, or `order` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import rle
    >>> mask = np.array([[0, 1, 1], [1, 0, 0]])
    >>> rle.encode(mask), rle.encode(mask, order="column")
    ('2 3', '2 2 5 1')
    """
    image = host_image("mask", mask, or_bool=True) != 0
    starts, lengths, _ = runs_of(image, order)
    return runs_text(starts + int(bool(one_based)), lengths, [0, len(starts)])[0]


def encode_labels(labels: Array, *, order: Order = "row", one_based: bool = True) -> dict[int, str]:
    """Write the runs of every object of a label image as text.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    order, one_based
        As `encode` takes them.

    Returns
    -------
    dict of int to str
        Of each id that is present, in ascending order, what `encode` gives of its mask.

    Raises
    ------
    TypeError
        If `labels` is no array or not of an integer dtype.
    ValueError
        If `labels` has another number of axes or negative ids, or `order` is unknown.

    Notes
    -----
    Overlapping objects cannot be: a label image has one id a pixel. Time linear in the pixels, and
    n log n in the runs.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import rle
    >>> rle.encode_labels(np.array([[7, 7, 0], [3, 7, 7]]))
    {3: '4 1', 7: '1 2 5 2'}
    """
    starts, lengths, ids, edges = object_runs(host_image("labels", labels), order)
    texts = runs_text(starts + int(bool(one_based)), lengths, edges)
    return dict(zip(ids, texts, strict=True))


def decode(
    runs: str | Iterable[str] | Mapping[int, str],
    shape: Sequence[int],
    *,
    order: Order = "row",
    one_based: bool = True,
    out_dtype: Any = None,
) -> NDArray[Any]:
    """Read the runs of a mask, or of the objects of a label image, from text.

    Parameters
    ----------
    runs : str, iterable of str, or mapping of int to str
        ``"start length start length ..."``, runs in any order, any white space between: one text
        for a mask; several for the objects 1..N of a label image; or one for each id >= 1.
    shape : (int, int) or (int, int, int)
        H, W (D, H, W) of the image in pixels, >= 0.
    order, one_based
        As `encode` takes them.
    out_dtype : dtype, optional
        Integer dtype of the label image; int32 if not given.

    Returns
    -------
    ndarray, `shape`
        Of one text bool, else a label image, 0 is background; a text without runs gives no pixels.

    Raises
    ------
    TypeError
        If `runs` is no text and has none, an id or a length of `shape` is no integer, or
        `out_dtype` no integer dtype.
    ValueError
        If a text is no pairs of whole numbers, a run leaves the image, an id is below 1, or `shape`
        or `order` are out of range.
    OverflowError
        If `out_dtype` cannot hold the ids.

    Notes
    -----
    Where objects overlap, the later one of `runs` is on top, as if they were drawn one after the
    other. Time linear in the image and in the objects' pixels.

    Examples
    --------
    >>> from cellpost import rle
    >>> rle.decode("2 3", (2, 3)).astype(int).tolist()
    [[0, 1, 1], [1, 0, 0]]
    >>> rle.decode(["1 2", "3 1"], (1, 4)).tolist()
    [[1, 1, 2, 0]]
    >>> rle.decode({3: "4 1", 7: "1 2 5 2"}, (2, 3)).tolist()
    [[7, 7, 0], [3, 7, 7]]
    """
    size = lengths_of("shape", shape, (2, 3))
    if isinstance(runs, str):
        names, texts, ids = ["runs"], [runs], None
    else:
        names, texts, ids = named_objects("runs", runs)
    starts, lengths, n_runs = read_runs(names, texts, size, int(bool(one_based)))
    return painted(starts, lengths, n_runs, ids, size, order, out_dtype)


def to_coco(mask: Array, *, counts: Form = "bytes") -> dict[str, Any]:
    """Encode a mask as pycocotools does.

    Parameters
    ----------
    mask : array, (H, W), bool or any integer dtype
        Not 0 is foreground. See `labels_to_coco` for the objects of a label image.
    counts : {"bytes", "str", "list"}
        Compressed, as bytes (pycocotools' own) or text (for JSON); or the lengths themselves.

    Returns
    -------
    dict
        ``{"size": [H, W], "counts": counts}``: runs down the columns, of background, object,
        background ...; byte for byte what ``pycocotools.mask.encode`` gives.

    Raises
    ------
    TypeError
        If `mask` is no array, or neither bool nor integer.
    ValueError
        If `mask` has another number of axes, or `counts` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import rle
    >>> rle.to_coco(np.array([[0, 1, 1], [1, 0, 0]]))
    {'size': [2, 3], 'counts': b'121O0'}
    >>> rle.to_coco(np.array([[0, 1, 1], [1, 0, 0]]), counts="list")
    {'size': [2, 3], 'counts': [1, 2, 1, 1, 1]}
    """
    image = host_image("mask", mask, or_bool=True, axes=(2,)) != 0
    starts, lengths, _ = runs_of(image, "column")
    return coco_dicts(starts, lengths, [0, len(starts)], image.shape, counts)[0]


def labels_to_coco(labels: Array, *, counts: Form = "bytes") -> dict[int, dict[str, Any]]:
    """Encode every object of a label image as pycocotools does its mask.

    Parameters
    ----------
    labels : array, (H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.
    counts : {"bytes", "str", "list"}
        As `to_coco` takes it.

    Returns
    -------
    dict of int to dict
        Of each id that is present, in ascending order, what `to_coco` gives of its mask.

    Raises
    ------
    TypeError
        If `labels` is no array or not of an integer dtype.
    ValueError
        If `labels` has another number of axes or negative ids, or `counts` is unknown.

    Notes
    -----
    Time linear in the pixels, and n log n in the runs: no mask of an object is made.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import rle
    >>> rle.labels_to_coco(np.array([[7, 7, 0], [3, 7, 7]]), counts="list")[3]
    {'size': [2, 3], 'counts': [1, 1, 4]}
    """
    image = host_image("labels", labels, axes=(2,))
    starts, lengths, ids, edges = object_runs(image, "column")
    return dict(zip(ids, coco_dicts(starts, lengths, edges, image.shape, counts), strict=True))


def from_coco(
    rle: Mapping[Any, Any] | Iterable[Mapping[str, Any]],
    size: Sequence[int] | None = None,
    *,
    out_dtype: Any = None,
) -> NDArray[Any]:
    """Decode a mask, or the objects of a label image, in COCO's run-length encoding.

    Parameters
    ----------
    rle : mapping, iterable of mappings, or mapping of int to mappings
        ``{"size": [H, W], "counts": counts}``, the counts as `rle_counts` takes them: one for a
        mask; several for the objects 1..N of a label image; or one for each id >= 1.
    size : (int, int), optional
        H, W of the image; needed only where there may be no object at all.
    out_dtype : dtype, optional
        Integer dtype of the label image; int32 if not given.

    Returns
    -------
    ndarray, (H, W)
        Of one mapping bool, as ``pycocotools.mask.decode``, else a label image, 0 is background.

    Raises
    ------
    TypeError
        If an object is no mapping with size and counts, counts are neither text nor integers, an id
        or size is no integer, or `out_dtype` no integer dtype.
    ValueError
        If counts are damaged or do not add up to the mask's pixels, sizes differ or are missing, or
        an id is below 1.
    OverflowError
        If `out_dtype` cannot hold the ids.

    Notes
    -----
    Where objects overlap, the later one is on top, as if they were drawn one after the other. Time
    linear in the image and in the objects' pixels.

    Examples
    --------
    >>> from cellpost import rle
    >>> rle.from_coco({"size": [2, 3], "counts": b"121O0"}).astype(int).tolist()
    [[0, 1, 1], [1, 0, 0]]
    >>> rle.from_coco([{"size": [1, 4], "counts": [0, 2, 2]}]).tolist()
    [[1, 1, 0, 0]]
    """
    names: list[str]
    codes: list[Any]
    if isinstance(rle, Mapping) and "counts" in rle:
        names, codes, ids = ["rle"], [rle], None
    else:
        names, codes, ids = named_objects("rle", rle)
    shape = None if size is None else lengths_of("size", size, (2,))
    for name, code in zip(names, codes, strict=True):
        if not (isinstance(code, Mapping) and "size" in code and "counts" in code):
            raise TypeError(f"{name}: expected a mapping with size and counts; got {code!r:.80}")
        own = lengths_of(f"{name}['size']", code["size"], (2,))
        shape = own if shape is None else shape
        if own != shape:
            raise ValueError(f"{name}['size']: expected the others' {shape}; got {own}")
    if shape is None:
        raise ValueError("size: expected (H, W), since there are no objects that have it; got None")
    named = [f"{name}['counts']" for name in names]
    starts, lengths, n_runs = coco_runs(named, [code["counts"] for code in codes], shape)
    return painted(starts, lengths, n_runs, ids, shape, "column", out_dtype)


def rle_counts(counts: Any) -> NDArray[np.int64]:
    """Lengths of the runs of a mask in COCO's run-length encoding.

    Parameters
    ----------
    counts : str, bytes, or sequence of int
        The compressed text of pycocotools, or the lengths themselves.

    Returns
    -------
    ndarray, (n,), int64
        Lengths in pixels, of background, object, background ...

    Raises
    ------
    TypeError
        If the counts are neither text nor integers.
    ValueError
        If the text has a character outside ``0`` to ``o``, ends within a number or has one of more
        than 8 characters (2**39 pixels), or if a length is negative.

    Examples
    --------
    >>> from cellpost.rle import rle_counts
    >>> rle_counts("52203").tolist()
    [5, 2, 2, 2, 5]
    """
    return counts_of("counts", counts)


def rle_crop(
    counts: Any, size: Sequence[int]
) -> tuple[NDArray[np.bool_], tuple[int, int, int, int]]:
    """Decode the object of a mask in COCO's run-length encoding, without the mask around it.

    Parameters
    ----------
    counts : str, bytes, or sequence of int
        Runs of the mask's columns, one column after the other, as `rle_counts` takes them.
    size : (int, int)
        H, W of the mask.

    Returns
    -------
    crop : ndarray, (y1 - y0, x1 - x0), bool
        The object's own extents; of a mask without an object its first pixel, (1, 1).
    box : (int, int, int, int)
        x0, y0, x1, y1 of the crop in pixels of the mask.

    Raises
    ------
    TypeError
        If the counts are neither text nor integers, or `size` is not integers.
    ValueError
        If the counts are damaged, or do not add up to the mask's pixels.

    Notes
    -----
    Time and memory are linear in the runs and the crop's pixels, whatever the size of the mask.

    Examples
    --------
    >>> from cellpost.rle import rle_crop
    >>> crop, box = rle_crop([5, 2, 2, 2, 5], (4, 4))
    >>> crop.astype(int).tolist(), box
    ([[1, 1], [1, 1]], (1, 1, 3, 3))
    """
    height, width = image_size("size", size)
    starts, lengths, _ = coco_runs(["counts"], [counts], (height, width))
    if not starts.size:
        return np.zeros((1, 1), np.bool_), (0, 0, 1, 1)
    x_first, y_first = np.divmod(starts, height)
    x_last, y_last = np.divmod(starts + lengths - 1, height)
    x0, x1 = int(x_first[0]), int(x_last[-1]) + 1
    y0, y1 = int(y_first.min()), int(y_last.max()) + 1
    if (
        x_first != x_last
    ).any():  # such a run goes over a column's last and the next one's first row
        y0, y1 = 0, height
    if (x1 - x0) * (y1 - y0) >= 2**31:
        got = f"{y1 - y0} x {x1 - x0}"
        raise ValueError(f"counts: expected an object within fewer than 2**31 pixels; got {got}")
    # Either each run stays in a column or columns are whole: in the crop, too, a run is contiguous.
    starts = (x_first - x0) * (y1 - y0) + y_first - y0
    steps = np.zeros((x1 - x0) * (y1 - y0) + 1, np.int8)
    steps[starts] += 1
    steps[starts + lengths] -= 1
    inside = np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_)
    return np.ascontiguousarray(inside.reshape(x1 - x0, y1 - y0).T), (x0, y0, x1, y1)


def image_size(name: str, value: Any) -> tuple[int, int]:
    """(H, W), or an error that names it."""
    try:
        height, width = value
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected (H, W); got {value!r}") from None
    pair = integer(name, height), integer(name, width)
    if min(pair) < 1:
        raise ValueError(f"{name}: expected H and W of at least 1 pixel; got {pair}")
    return pair
