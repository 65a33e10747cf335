"""Boxes, mask crops and scores to one label image, without a mask of the image's size for each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from array_api_compat import array_namespace

from cellpost import _core
from cellpost._arrays import Array, Arrays, dtype_name
from cellpost.labels import choose, integer, number

__all__ = ["PasteReport", "Paster", "paste_masks"]

PasteStyle: TypeAlias = Literal["detectron2", "torchvision", "nearest"]
Pasted: TypeAlias = Array | tuple[Any, ...]

# Crops of differing sizes are copied into one line; this bounds the copy, in values.
_LINE = 2**22


@dataclass(frozen=True)
class PasteReport:
    """What became of the instances.

    Attributes
    ----------
    n_instances : int
        That were given.
    n_low_score : int
        Below `min_score`.
    n_degenerate : int
        Whose box has no area (or is inverted), or whose crop has no values.
    n_outside : int
        Whose box lies off the image; one within a value of its crop and a pixel counts as hidden.
    n_hidden : int
        Without a pixel in the end: better ones cover them, or no value reaches the threshold.
    n_too_small : int
        With fewer visible pixels than `min_size`.
    n_labels : int
        In the label image.
    """

    n_instances: int
    n_low_score: int
    n_degenerate: int
    n_outside: int
    n_hidden: int
    n_too_small: int
    n_labels: int


def paste_masks(
    masks: Array | Sequence[Array],
    boxes: Array,
    scores: Array,
    shape: Sequence[int],
    *,
    threshold: float = 0.5,
    min_score: float = 0.0,
    min_size: int = 0,
    style: PasteStyle = "detectron2",
    class_ids: Array | None = None,
    out_dtype: Any = None,
    return_index: bool = False,
    return_report: bool = False,
) -> Pasted:
    """Paste the mask crops of detected instances into one label image.

    Parameters
    ----------
    masks : array, (N, h, w) or (N, 1, h, w), or list of N arrays (h_i, w_i) or (1, h_i, w_i)
        What each box holds, as a mask head puts it out: probabilities from 0 to 1, float16,
        bfloat16, float32 or float64 (read as float32); or 0 and 1, uint8 or bool.
    boxes : array, (N, 4), float or integer, of the same library and device
        x0, y0, x1, y1 in pixels, from the left edge of the first pixel on: the pixel (y, x) covers
        [x, x + 1) and its centre is x + 0.5. Read as float32.
    scores : array, (N,), float
        Of the instances that share a pixel the one with the higher score has it; of equal ones the
        one with the lower index.
    shape : (int, int)
        Rows and columns of the image, fewer than 2**31 pixels in all.
    threshold : float
        A pixel whose value reaches it is of the instance; above 0 and at most 1.
    min_score : float
        Instances of a lower score are not pasted.
    min_size : int
        Instances with fewer visible pixels are dropped, when all are pasted: their pixels become
        background.
    style : {"detectron2", "torchvision", "nearest"}
        How crops are resized. ``"detectron2"``: bilinear between the float borders of the box
        (mmdetection's way, too); ``"torchvision"``: bilinear, boxes widened and rounded to whole
        pixels, for raw mask heads alone (it moves crops of whole pixels); ``"nearest"``: the value
        whose part of the box holds the pixel's centre, exact for crops of whole pixels.
    class_ids : array, (N,), integer, optional
        Return the class of each label, too.
    out_dtype : dtype, optional
        Integer dtype of the labels; int32 if not given.
    return_index : bool
        Return the row of the input that each label came from, too.
    return_report : bool
        Return a `PasteReport`, too.

    Returns
    -------
    labels : array, (H, W), int32 or `out_dtype`
        0 is background, instances are 1..n in raster order of their first pixels; of the kind and
        on the device of `boxes`.
    index : array, (n,), int64
        With `return_index`; ``index[k]`` is the row of label ``k + 1``.
    classes : array, (n,)
        With `class_ids`; ``classes[k]`` is the class of label ``k + 1``.
    report : PasteReport
        With `return_report`.

    Raises
    ------
    TypeError
        If an input is no array or has no fitting dtype, or they are of different libraries.
    ValueError
        If shapes, counts or devices do not fit, a box or score is not finite, a mask has a value
        outside 0..1, an option is out of range, or the image is too large.
    OverflowError
        If `out_dtype` cannot hold n.

    See Also
    --------
    Paster : the same in batches, for whole slides.
    nms : drops instances that are found twice.
    cellpost.detections.as_detections : takes the arrays out of a model's output.

    Notes
    -----
    The pixels of an instance alone are those of Detectron2's ``paste_masks_in_image`` on the GPU
    (on the CPU it cuts off what lies more than a pixel outside of the box, which shows below a
    threshold of 0.5), or of torchvision's, in the bits of PyTorch's CPU kernels. Boxes partly off
    the image are cut; those without area, which both tools fail on or turn to one pixel, are
    dropped and counted.

    Memory besides the result: 60 bytes an instance, up to 100 where most are larger than 64 x 1024
    pixels, and for each thread the largest crop in float32. Time grows with the crops' values, the
    boxes' pixels and the image's. The result does not depend on threads or the device.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> masks = np.ones((2, 28, 28), np.float32)
    >>> boxes = np.array([[0, 0, 2, 2], [1, 0, 4, 1]], np.float32)
    >>> cellpost.paste_masks(masks, boxes, np.array([0.9, 0.8]), (2, 4)).tolist()
    [[1, 1, 2, 2], [1, 1, 0, 0]]
    """
    paster = Paster(shape, threshold=threshold, min_score=min_score, min_size=min_size, style=style)
    paster.add(masks, boxes, scores, class_ids=class_ids)
    return paster._number(paster._labels, out_dtype, return_index, return_report)


class Paster:
    """Paste instances batch by batch; what comes out does not depend on the batches.

    Parameters
    ----------
    shape, threshold, min_score, min_size, style
        As in `paste_masks`.

    Notes
    -----
    Holds the label image and up to 24 bytes an instance between calls. Pixels in question go to the
    higher score, at equal scores to the instance that was added first: batches may come in any
    order as long as scores differ.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> paster = cellpost.Paster((2, 6))
    >>> crop = np.ones((1, 28, 28), np.float32)
    >>> box = np.array([[0, 0, 2, 2]], np.float32)
    >>> paster.add(crop, box, np.array([0.5]))
    >>> paster.add(crop, box, np.array([0.9]), offset=(0, 1))
    >>> paster.result().tolist()
    [[1, 2, 2, 0, 0, 0], [1, 2, 2, 0, 0, 0]]
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        threshold: float = 0.5,
        min_score: float = 0.0,
        min_size: int = 0,
        style: PasteStyle = "detectron2",
    ) -> None:
        self._shape = _image_shape(shape)
        self._options = {
            "style": choose("style", style, _core.PasteStyle),
            "threshold": number("threshold", threshold),
            "min_score": number("min_score", min_score),
        }
        if not 0 < np.float32(self._options["threshold"]) <= 1:
            raise ValueError(f"threshold: expected a number above 0 and up to 1; got {threshold!r}")
        if math.isnan(self._options["min_score"]):
            raise ValueError("min_score: expected a number; got nan")
        self._min_size = integer("min_size", min_size)
        if self._min_size < 0:
            raise ValueError(f"min_size: expected 0 or more pixels; got {min_size!r}")
        self._n = 0
        self._dropped = np.zeros(3, int)
        self._has_classes = False
        self._classes: list[Array] = []
        self._failed = False
        # What the first batch decides: its arrays, and where the image and the scores are.
        self._arrays: Arrays | None = None
        self._labels: Array = None
        self._scores: Array = None

    def add(
        self,
        masks: Array | Sequence[Array],
        boxes: Array,
        scores: Array,
        *,
        class_ids: Array | None = None,
        offset: Sequence[int] = (0, 0),
    ) -> None:
        """Paste a batch.

        Parameters
        ----------
        masks, boxes, scores, class_ids
            As in `paste_masks`; all batches of one library and device, and all with class_ids or
            none (but for empty ones).
        offset : (int, int)
            Row and column of the image where the boxes' origin lies: that of the tile they were
            found in. May be negative.

        Raises
        ------
        TypeError, ValueError
            As `paste_masks`. Nothing of an array is pasted then; of a list of crops a part may be,
            so that the `Paster` cannot be used any further.
        """
        if self._failed:
            raise ValueError("Paster: a batch failed half-way; start with a new Paster")
        corner = pair("offset", offset)
        given = {"boxes": boxes, "scores": scores}
        if class_ids is not None:
            given["class_ids"] = class_ids
        arrays = Arrays(**given)
        self._check(arrays, has_classes=class_ids is not None)
        n = int(arrays["boxes"].shape[0])
        if isinstance(masks, list | tuple) and len(masks) != n:
            raise ValueError(f"masks: expected {n} crops, one for each box; got {len(masks)}")
        # Crops of differing sizes are copied, some at a time.
        parts = _parts(masks) if isinstance(masks, list | tuple) else [slice(0, n)]
        for part in parts:
            crops = masks[part] if isinstance(masks, list | tuple) else masks
            try:
                self._paste(arrays, crops, part, corner)
            except (TypeError, ValueError):  # found before anything of this part was pasted
                self._failed = part.start > 0
                raise
            except BaseException:
                self._failed = True
                raise
        if self._n == n:
            self._has_classes = class_ids is not None
        if class_ids is not None:
            # the caller may use the array again
            self._classes.append(arrays.xp.asarray(arrays["class_ids"], copy=True))

    def result(
        self,
        *,
        out_dtype: Any = None,
        return_index: bool = False,
        return_report: bool = False,
    ) -> Pasted:
        """Give the label image of all batches so far; more can be added afterwards.

        Parameters
        ----------
        out_dtype, return_index, return_report
            As in `paste_masks`. Rows count on from batch to batch.

        Returns
        -------
        labels, index, classes, report
            As `paste_masks` returns them. Without any batch, NumPy arrays.
        """
        if self._failed:
            raise ValueError("Paster: a batch failed half-way; start with a new Paster")
        if self._arrays is None:
            return paste_masks(
                np.zeros((0, 1, 1), np.float32),
                np.zeros((0, 4), np.float32),
                np.zeros(0),
                self._shape,
                out_dtype=out_dtype,
                return_index=return_index,
                return_report=return_report,
            )
        copy = self._arrays.xp.asarray(self._labels, copy=True)
        return self._number(copy, out_dtype, return_index, return_report)

    def _check(self, arrays: Arrays, has_classes: bool) -> None:
        shape = tuple(arrays["boxes"].shape)
        if len(shape) != 2 or shape[1] != 4:
            raise ValueError(f"boxes: expected shape (N, 4); got {shape}")
        for name in ("scores", "class_ids") if has_classes else ("scores",):
            if tuple(arrays[name].shape) != shape[:1]:
                raise ValueError(
                    f"{name}: expected shape {shape[:1]}, one for each box; "
                    f"got {tuple(arrays[name].shape)}"
                )
        if has_classes and "int" not in dtype_name(arrays["class_ids"]):
            raise TypeError(
                f"class_ids: expected an integer dtype; got {dtype_name(arrays['class_ids'])}"
            )
        if self._arrays is None:
            self._arrays = arrays
            self._labels = arrays.xp.zeros(self._shape, dtype=arrays.xp.int32, device=arrays.device)
            self._scores = arrays.empty((1,), "float64")
            return
        here, first = (arrays.kind, str(arrays.device)), self._arrays
        if here != (first.kind, str(first.device)):
            raise ValueError(
                f"boxes: expected {first.kind} arrays on {first.device}, as in the first batch; "
                f"got {arrays.kind} on {arrays.device}"
            )
        if self._n and shape[0] and has_classes != self._has_classes:
            raise ValueError("class_ids: expected in all batches or in none")

    def _paste(
        self,
        arrays: Arrays,
        masks: Array | Sequence[Array],
        part: slice,
        offset: tuple[int, int],
    ) -> None:
        boxes, scores = arrays.real("boxes")[part], arrays.real("scores")[part]
        n = int(scores.shape[0])
        crops, table = as_crops(masks, n, arrays)
        if self._n + n > 2**31 - 2:
            raise ValueError(f"masks: expected fewer than 2**31 instances; got {self._n + n}")
        if self._scores.shape[0] < self._n + n + 1:
            # Room for as many again, so that many small batches take linear time.
            room = arrays.empty((max(self._n + n + 1, 2 * self._n),), "float64")
            room[: self._n + 1] = self._scores[: self._n + 1]
            self._scores = room
        self._scores[self._n + 1 : self._n + n + 1] = scores
        self._dropped += _core.paste(
            crops,
            table,
            boxes,
            self._scores,
            self._labels,
            arrays.stream,
            first_id=self._n + 1,
            offset=offset,
            **self._options,
        )
        self._n += n

    def _number(
        self, labels: Array, out_dtype: Any, return_index: bool, return_report: bool
    ) -> Pasted:
        arrays = self._arrays
        assert arrays is not None
        index = arrays.empty((self._n,), "int64")
        n_present, n_labels = _core.number_pasted(
            labels, index, arrays.stream, n=self._n, min_size=self._min_size
        )
        results = [arrays.labels_result(labels, n_labels, out_dtype)]
        index = index[:n_labels]
        if return_index:
            results.append(arrays.result(index))
        if self._has_classes:
            results.append(arrays.result(arrays.xp.concat(self._classes)[index]))
        if return_report:
            low, degenerate, outside = self._dropped.tolist()
            results.append(
                PasteReport(
                    n_instances=self._n,
                    n_low_score=low,
                    n_degenerate=degenerate,
                    n_outside=outside,
                    n_hidden=self._n - low - degenerate - outside - n_present,
                    n_too_small=n_present - n_labels,
                    n_labels=n_labels,
                )
            )
        return results[0] if len(results) == 1 else tuple(results)


def _parts(crops: Sequence[Array]) -> Iterator[slice]:
    """Which crops are copied together."""
    begin = n_values = 0
    for i, crop in enumerate(crops):
        n_values += math.prod(getattr(crop, "shape", ()))
        if n_values >= _LINE:
            yield slice(begin, i + 1)
            begin, n_values = i + 1, 0
    if begin < len(crops) or len(crops) == 0:
        yield slice(begin, len(crops))


def pair(name: str, value: Any) -> tuple[int, int]:
    """Two integers, or an error that names the argument."""
    try:
        y, x = value
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected two integers (row, column); got {value!r}") from None
    return integer(name, y), integer(name, x)


def _image_shape(shape: Any) -> tuple[int, int]:
    h, w = pair("shape", shape)
    if h < 0 or w < 0 or max(h, w) > 2**23:
        raise ValueError(f"shape: expected rows and columns from 0 to 2**23; got {(h, w)}")
    if h * w >= 2**31:
        raise ValueError(
            f"shape: expected fewer than 2**31 pixels in memory; got {h} x {w}. Paste parts of a "
            f"larger slide, each with a Paster and the negative of its corner as offset"
        )
    return h, w


def as_crops(
    masks: Array | Sequence[Array], n: int, arrays: Arrays
) -> tuple[Array, tuple[Array, Array] | None]:
    """Masks of `n` boxes as the kernels take them: crops, or one line of values and a table."""
    if isinstance(masks, list | tuple):
        line, table = _line(masks, arrays)
        crops = arrays.also("masks", line)
        shape: tuple[int, ...] = (len(masks),)
    else:
        crops, table = arrays.also("masks", masks), None
        shape = tuple(crops.shape)
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[1] != 1):
            raise ValueError(f"masks: expected shape (N, h, w) or (N, 1, h, w); got {shape}")
    if shape[0] != n:
        raise ValueError(f"masks: expected {n} crops, one for each box; got {shape[0]}")
    return (crops[:, 0] if len(shape) == 4 else crops), table


def _line(crops: Sequence[Array], arrays: Arrays) -> tuple[Array, tuple[Array, Array]]:
    """Crops of differing sizes one after the other, where each begins, and their sizes."""
    sizes = np.empty((len(crops), 2), np.int32)
    for i, crop in enumerate(crops):
        if type(crop) is not type(crops[0]):
            kinds = f"{type(crops[0]).__name__} and, in row {i}, {type(crop).__name__}"
            raise TypeError(f"masks: expected crops of one library; got {kinds}")
        shape = tuple(getattr(crop, "shape", ()))
        if len(shape) == 3 and shape[0] == 1:
            shape = shape[1:]
        if len(shape) != 2:
            raise ValueError(f"masks: expected crops (h, w); got shape {shape} in row {i}")
        if max(shape) > 2**20:
            raise ValueError(
                f"masks: expected crops of at most 2**20 values a side; got {shape} in row {i}"
            )
        sizes[i] = shape
    ends = np.cumsum(sizes.prod(1, dtype=np.int64))
    if len(crops) == 0:
        line = arrays.empty((0,), "float32")
    else:
        xp = array_namespace(crops[0])
        line = xp.concat([xp.reshape(crop, (-1,)) for crop in crops])
    xp, place = arrays.xp, arrays.device
    return line, (
        xp.asarray(np.concatenate([[0], ends])[:-1].astype(np.int64), device=place),
        xp.asarray(sizes, device=place),
    )
