"""paste_masks of more pixels than memory holds: a band of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellpost._arrays import to_host
from cellpost.detections import Detections
from cellpost.labels import integer, lengths_of
from cellpost.paste import Paster, PasteStyle
from cellpost.slide.memory import check_memory
from cellpost.slide.output import check_out, opened

__all__ = ["paste"]

_PIXEL_BYTES = 32  # of a band: its labels, the copy that is numbered, and what is written


def paste(
    detections: Detections,
    out: Any,
    *,
    shape: Sequence[int] | None = None,
    threshold: float = 0.5,
    min_score: float = 0.0,
    min_size: int = 0,
    style: PasteStyle = "detectron2",
    memory: int | str = "2GB",
    overwrite: bool = False,
) -> NDArray[np.int64]:
    """Paste the mask crops of detected instances into one label image on disk.

    Parameters
    ----------
    detections : Detections
        With masks, boxes in pixels of the slide; those of tiles as `merge_detections` puts them
        together.
    out : str, Path, or array
        What to write the labels to: the name of a new ``.zarr`` or BigTIFF (``.tif``), or an array
        (H, W) that is written by slices (of `create_labels`, zarr, h5py, a memory map).
    shape : (int, int), optional
        Rows and columns of the slide, up to 2**23 each; needed where `out` is a name, else that of
        `out`.
    threshold, min_score, min_size, style
        As in `paste_masks`.
    memory : int or str
        What the call may take besides the detections and 100 bytes for each, in bytes or as
        ``"2GB"``, ``"512MiB"``; it sets how many rows are pasted at a time.
    overwrite : bool
        Replace an output that is there.

    Returns
    -------
    (n,) int64 array
        ``index[k]`` is the row of the detections that label ``k + 1`` came from, as `paste_masks`
        with `return_index` gives it.

    Raises
    ------
    TypeError
        If detections are no `Detections`, or `out` is nothing to write to.
    ValueError
        If there are no masks, a box or score is not finite, shapes do not fit, the memory is too
        small (the error says what is needed), or an option is out of range.
    OverflowError
        If the dtype of `out` cannot hold n; nothing is written then.
    ImportError, OSError
        If the output cannot be written; found out before the work.

    See Also
    --------
    cellpost.paste_masks : in memory.
    cellpost.merge_detections : detections of tiles to those of the slide.

    Notes
    -----
    The labels are those of `paste_masks` of the whole image, byte for byte, also beyond the 2**31
    pixels where that ends. Bands of rows are pasted twice: first to see which instances have enough
    pixels and in which order they appear, then to write. Instances without a pixel in the end are
    those that `index` does not name.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.detections import Detections
    >>> from cellpost.slide.pasting import paste
    >>> boxes = np.array([[0, 0, 2, 2], [1, 0, 4, 1]], np.float32)
    >>> found = Detections(boxes, np.array([0.9, 0.8]), np.ones((2, 28, 28), np.float32))
    >>> out = np.zeros((2, 4), np.int32)
    >>> paste(found, out).tolist(), out.tolist()
    ([0, 1], [[1, 1, 2, 2], [1, 1, 0, 0]])
    """
    if not isinstance(detections, Detections):
        raise TypeError(f"detections: expected Detections; got {type(detections).__name__}")
    n = len(detections)
    if detections.masks is None and n:
        raise ValueError("detections: expected some with masks; got boxes alone")
    if shape is None and not hasattr(out, "shape"):
        raise ValueError("shape: expected (H, W) in pixels where out is a name; got None")
    h, w = lengths_of("shape", out.shape if shape is None else shape, (2,))
    if max(h, w) > 2**23:
        raise ValueError(f"shape: expected rows and columns from 0 to 2**23; got {(h, w)}")
    options: dict[str, Any] = {"threshold": threshold, "min_score": min_score, "style": style}
    Paster((0, 0), min_size=min_size, **options)  # says what is out of range
    least = integer("min_size", min_size)
    limit = check_memory(memory, _PIXEL_BYTES * w, f"a row of {w} pixels")
    # A band of 2**31 pixels is more than a Paster takes.
    n_rows = min(limit // (_PIXEL_BYTES * max(w, 1)), (2**31 - 1) // max(w, 1), max(h, 1))
    side = int((getattr(out, "chunks", None) or (1024,))[0])
    n_rows -= n_rows % side if n_rows > side else 0  # whole chunks are written once
    check_out(out, (h, w), overwrite=overwrite)
    bands = _Bands(detections, (h, w), n_rows, options)

    size, is_seen = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    appeared = [np.empty(0, np.int64)]
    for _, labels, rows in bands:
        size[rows] += np.bincount(labels.ravel(), minlength=len(rows) + 1)[1:]
        appeared.append(rows[~is_seen[rows]])  # in raster order already
        is_seen[rows] = True
    index = np.concatenate(appeared)
    index = index[size[index] >= least]
    number = np.zeros(n, np.int32)
    number[index] = np.arange(1, len(index) + 1)

    with opened(out, (h, w), len(index), overwrite=overwrite) as target:
        for band, labels, rows in bands:
            target[band, :] = np.append(np.int32(0), number[rows])[labels]
    return index


class _Bands:
    """The slide's rows, some at a time, with the instances that show in them."""

    def __init__(
        self,
        detections: Detections,
        shape: tuple[int, int],
        n_rows: int,
        options: dict[str, Any],
    ) -> None:
        self._found, self._shape, self._n_rows = detections, shape, n_rows
        self._options = options
        given = detections.boxes if detections.mask_boxes is None else detections.mask_boxes
        self._boxes = given
        boxes = to_host(given).astype(np.float64)
        for name, values in (("boxes", boxes), ("scores", to_host(detections.scores))):
            is_finite = np.isfinite(values)
            bad = np.flatnonzero(~(is_finite.all(1) if values.ndim == 2 else is_finite))
            if len(bad):
                raise ValueError(f"{name}: expected finite numbers; got others in row {bad[0]}")
        # No style reaches further beyond a box than its height; float32 rounds by a pixel at most.
        reach = np.abs(boxes[:, 3] - boxes[:, 1]) + 4
        self._top, self._bottom = boxes[:, 1] - reach, boxes[:, 3] + reach

    def __iter__(self) -> Iterator[tuple[slice, NDArray[np.int32], NDArray[np.int64]]]:
        """Rows, their labels from 1 without gaps, and of each label the detection it is."""
        h, w = self._shape
        for top in range(0, h, self._n_rows):
            bottom = min(top + self._n_rows, h)
            chosen = np.flatnonzero((self._top < bottom) & (self._bottom > top))
            band = slice(top, bottom)
            if not len(chosen):
                yield band, np.zeros((bottom - top, w), np.int32), chosen
                continue
            part = self._found[chosen]
            boxes = part.boxes if part.mask_boxes is None else part.mask_boxes
            paster = Paster((bottom - top, w), **self._options)
            paster.add(part.masks, boxes, part.scores, offset=(-top, 0))
            labels, index = map(to_host, paster.result(return_index=True))
            del paster, part
            yield band, labels, chosen[index]
