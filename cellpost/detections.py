"""What a detector found in one image: boxes, scores, masks, in whatever form its library gives it.

A box is (x0, y0, x1, y1) in pixels of the image, at pixel edges: the pixel (y, x) covers x to x + 1
and y to y + 1. Foreign outputs are told by their attributes alone: no detection library is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from cellpost._arrays import Array, Arrays, dtype_name, to_host
from cellpost.labels import number
from cellpost.rle import image_size, rle_crop

__all__ = ["Detections", "as_detections", "crop_masks"]

_LARGEST_CROP = 112  # pixels an axis: no mask head of the libraries below puts out more
_USUAL_CROP = 28
_BLOCK = 2**24  # mask pixels that are looked at together
_UNDERSTOOD = (
    "Detections, torchvision's dict (boxes, scores), Detectron2's Instances (pred_boxes, scores), "
    "MMDetection's DetDataSample (pred_instances) or (bbox_result, segm_result), or ultralytics' "
    "Results (boxes.xyxy, orig_shape)"
)


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects that a detector found in one image.

    All arrays are of one library, on one device; numbers in lists become NumPy arrays. Index it
    with a slice, integers or bools (one for each object) to choose objects.

    Attributes
    ----------
    boxes : array, (N, 4), floating point
        x0, y0, x1, y1 in pixels of the image; integers are made float64.
    scores : array, (N,), floating point
        The detector's confidence; integers are made float64.
    masks : array, (N, h, w), or list of N arrays (h_i, w_i), float, bool or uint8; optional
        Crops: what is cell inside each box (or each mask box). Floats are probabilities 0..1,
        bool and uint8 are 0 or 1.
    class_ids : array, (N,), integer, optional
        Class of each object.
    mask_boxes : array, (N, 4), real, optional
        What each crop covers, where that is not its box.

    Raises
    ------
    TypeError
        If a field is no array, of another library than `boxes`, or has no fitting dtype.
    ValueError
        If a field's shape does not fit, or it is on another device than `boxes`.

    Examples
    --------
    >>> from cellpost.detections import Detections
    >>> found = Detections(boxes=[[0, 0, 3, 2], [4, 4, 5, 6]], scores=[0.9, 0.3])
    >>> found[found.scores > 0.5].boxes.tolist()
    [[0.0, 0.0, 3.0, 2.0]]
    """

    boxes: Array
    scores: Array
    masks: Array | list[Array] | None = None
    class_ids: Array | None = None
    mask_boxes: Array | None = None

    def __post_init__(self) -> None:
        crops = isinstance(self.masks, list | tuple)
        try:
            given = {
                "boxes": _array(self.boxes, (0, 4)),
                "scores": _array(self.scores),
                "masks": (
                    [_array(crop) for crop in self.masks or ()] if crops else _array(self.masks)
                ),
                "class_ids": _array(self.class_ids, dtype="int64"),
                "mask_boxes": _array(self.mask_boxes, (0, 4)),
            }
        except ValueError as error:  # NumPy's, of lists of differing lengths
            raise ValueError(
                "boxes, scores, masks, class_ids, mask_boxes: expected arrays, or lists that make "
                f"some; {error}"
            ) from error
        needed = ("boxes", "scores")
        found = {
            name: field for name, field in given.items() if name in needed or field is not None
        }
        # All are to be of one library and on one device; the first crop stands for all.
        alike = {name: field for name, field in found.items() if not (crops and name == "masks")}
        Arrays(**alike, **({"masks[0]": found["masks"][0]} if crops and found["masks"] else {}))

        n = _check_shape("boxes", found["boxes"], (None, 4))
        for name, shape in {"scores": (n,), "class_ids": (n,), "mask_boxes": (n, 4)}.items():
            if name in found:
                _check_shape(name, found[name], shape)
        for name in needed:
            found[name] = _floating(name, found[name])
        if "class_ids" in found and "int" not in (dtype := dtype_name(found["class_ids"])):
            raise TypeError(f"class_ids: expected an integer dtype; got {dtype}")
        if crops and len(found["masks"]) != n:
            got = len(found["masks"])
            raise ValueError(f"masks: expected {n} crops, one for each box; got {got}")
        if crops:
            for i, crop in enumerate(found["masks"]):
                _check_masks(f"masks[{i}]", crop, (None, None))
        elif "masks" in found:
            _check_masks("masks", found["masks"], (n, None, None))
        for name, field in found.items():
            object.__setattr__(self, name, field)

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def __getitem__(self, index: Any) -> Detections:
        if isinstance(index, slice):
            chosen = np.arange(len(self))[index]
            views = index.step is None or index.step > 0  # PyTorch has no negative steps
        else:
            chosen = np.arange(len(self))[_positions(index)]
            views = False
        rows = index if views else _beside(self.boxes, chosen)

        def pick(field: Any) -> Any:
            if isinstance(field, list):
                return [field[i] for i in chosen]
            return None if field is None else field[rows]

        picked = {field.name: pick(getattr(self, field.name)) for field in fields(self)}
        return Detections(**picked)


def as_detections(output: Any, *, shape: Sequence[int] | None = None) -> Detections:
    """Understand what a detector's library gives for one image.

    Parameters
    ----------
    output : object
        One of

        * a `Detections`, returned as it is;
        * torchvision's dict: ``boxes``, ``scores`` and, if there are any, ``labels`` and ``masks``
          (N, 1, h, w) or (N, h, w);
        * Detectron2's ``Instances``, or the dict ``{"instances": Instances}``;
        * MMDetection 3's ``DetDataSample``;
        * MMDetection 2's ``(bbox_result, segm_result)``, or ``bbox_result`` alone: for each class
          (n, 5) boxes with score, and n masks of the whole image, bool or COCO RLE;
        * ultralytics' ``Results``;
        * a list of one of these, as the models return it.
    shape : (int, int), optional
        H, W of the image, in pixels. Masks of this shape are masks of the whole image. Needed for
        torchvision's pasted masks; Detectron2, MMDetection 3 and ultralytics say it themselves.

    Returns
    -------
    Detections
        Arrays of the output's library and on its device, not copied where that can be. Masks of
        the whole image have become crops, views of them, as `crop_masks` makes them.

    Raises
    ------
    TypeError
        If the output is none of these.
    ValueError
        If it is of several images; if parts of it do not fit together or with `shape`; or if masks
        that may be of the whole image come without its shape, or have another one.

    Notes
    -----
    Masks that have not the image's shape are crops to their boxes. Where nothing says the image's
    shape, masks of at most 28 pixels a side are crops, and so are square ones of at most 112 if
    some box lies beyond them; others are refused. Crops of whole images hold exact pixels:
    `paste_masks` gives them back with its default style, or, at any threshold, with ``"nearest"``;
    ``"torchvision"`` is for raw mask heads and would move them. Ultralytics'
    masks cover the letterboxed input of the network: its pads lie outside the image, and the pixels
    of its resized image are those of ``LetterBox`` (center, with or without ``auto``).

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.detections import as_detections
    >>> masks = np.zeros((1, 1, 200, 300), np.float32)
    >>> masks[0, 0, 20:23, 30:35] = 0.8
    >>> output = {"boxes": np.array([[30.2, 20.1, 34.7, 22.6]]), "scores": [0.9], "masks": masks}
    >>> found = as_detections(output, shape=(200, 300))
    >>> found.masks[0].shape, found.mask_boxes.tolist()
    ((5, 7), [[29, 19, 36, 24]])
    """
    read = _reader(output)
    if read is not None:
        return read(output, None if shape is None else image_size("shape", shape))
    if isinstance(output, list | tuple) and output and all(map(_reader, output)):
        if len(output) > 1:
            raise ValueError(f"output: expected one image at a time; got a list of {len(output)}")
        return as_detections(output[0], shape=shape)
    got = "an empty list" if isinstance(output, list) and not output else type(output).__name__
    if isinstance(output, dict):
        got = f"a dict of {', '.join(map(str, output)) or 'nothing'}"
    raise TypeError(f"output: expected {_UNDERSTOOD}; got {got}")


def crop_masks(
    masks: Array | list[Array], frame: Sequence[float] | None = None
) -> tuple[list[Array], Array]:
    """Cut masks that cover a whole frame down to their objects.

    Parameters
    ----------
    masks : array, (N, H, W), or list of N arrays (H, W), bool, integer or float
        More than 0 is the object; NaN is not.
    frame : (float, float, float, float), optional
        x0, y0, x1, y1 of what a mask covers, in pixels of the image: a letterbox, say. Each mask's
        own pixels, (0, 0, W, H), if not given.

    Returns
    -------
    crops : list of array, (h, w)
        The smallest window with all pixels of the object, and one pixel more on each side within
        the mask, so that interpolation sees the zeros around it: views, which keep `masks` alive.
        Of a mask without an object its first pixel, (1, 1).
    mask_boxes : array, (N, 4)
        x0, y0, x1, y1 of the crops, in pixels of the image, of the library and on the device of
        the masks: int64, with a frame float64.

    Raises
    ------
    TypeError
        If `masks` are no arrays.
    ValueError
        If masks have another number of axes or no pixels, or `frame` is not four finite numbers
        with x0 < x1 and y0 < y1.

    Notes
    -----
    Each pixel is looked at once, 2**24 or one mask at a time, where the masks are; the windows come
    to the host.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.detections import crop_masks
    >>> mask = np.zeros((1, 5, 6), bool)
    >>> mask[0, 1:3, 4] = True
    >>> crops, boxes = crop_masks(mask)
    >>> crops[0].shape, boxes.tolist()
    ((4, 3), [[3, 0, 6, 4]])
    """
    if isinstance(masks, list | tuple):
        masks = [_array(mask) for mask in masks]
        for i, mask in enumerate(masks):
            _check_pixels(f"masks[{i}]", mask, (None, None))
        blocks: Iterator[Array] = (mask[None] for mask in masks)
        like = masks[0] if masks else np.empty(0)
    else:
        masks = _array(masks)
        _check_pixels("masks", masks, (None, None, None))
        n_together = max(1, _BLOCK // max(1, int(masks.shape[1] * masks.shape[2])))
        starts = range(0, masks.shape[0], n_together)
        blocks = (masks[start : start + n_together] for start in starts)
        like = masks
    windows = np.concatenate([np.empty((0, 4), np.int64), *map(_windows, blocks)])
    crops = [masks[i][y0:y1, x0:x1] for i, (x0, y0, x1, y1) in enumerate(windows.tolist())]
    if frame is not None:
        sides = frame if hasattr(frame, "__iter__") else ()
        box = np.asarray([number("frame", side) for side in sides])
        if box.shape != (4,) or not np.isfinite(box).all() or not (box[:2] < box[2:]).all():
            raise ValueError(
                f"frame: expected x0 < x1 and y0 < y1 in (x0, y0, x1, y1); got {frame}"
            )
        sizes = np.asarray([tuple(mask.shape)[::-1] for mask in masks]).reshape(-1, 2)
        scale = (box[2:] - box[:2]) / sizes
        windows = windows * np.tile(scale, 2) + np.tile(box[:2], 2)
    return crops, array_namespace(like).asarray(windows, device=device(like))


# ---- the forms of outputs -----------------------------------------------------------------------


def _reader(output: Any) -> Callable[[Any, tuple[int, int] | None], Detections] | None:
    """Tell which function understands an output."""
    if isinstance(output, Detections):
        return lambda found, image: found
    if isinstance(output, dict) and "instances" in output:
        return lambda found, image: _from_detectron2(found["instances"], image)
    if isinstance(output, dict) and {"boxes", "scores"} <= output.keys():
        return _from_torchvision
    if hasattr(output, "pred_boxes"):
        return _from_detectron2
    if hasattr(output, "pred_instances"):
        return _from_mmdet3
    if hasattr(output, "orig_shape") and hasattr(getattr(output, "boxes", None), "xyxy"):
        return _from_ultralytics
    if _is_bbox_result(output):
        return lambda found, image: _from_mmdet2(found, None, image)
    pair = isinstance(output, list | tuple) and len(output) == 2 and _is_bbox_result(output[0])
    if pair and isinstance(output[1], list | tuple) and not _is_bbox_result(output[1]):
        return lambda found, image: _from_mmdet2(found[0], found[1], image)
    return None


def _is_bbox_result(value: Any) -> bool:
    """Whether it is MMDetection 2's list of (n, 5) arrays, one for each class."""
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(len(s := tuple(getattr(a, "shape", ()))) == 2 and s[1] == 5 for a in value)


def _from_torchvision(output: Any, image: tuple[int, int] | None) -> Detections:
    return _assemble(
        output["boxes"], output["scores"], output.get("masks"), output.get("labels"), image
    )


def _from_detectron2(output: Any, image: tuple[int, int] | None) -> Detections:
    image = _image_shape(image, "image_size", getattr(output, "image_size", None))
    masks = getattr(output, "pred_masks", None)
    classes = getattr(output, "pred_classes", None)
    return _assemble(
        _required(output, "pred_boxes"), _required(output, "scores"), masks, classes, image
    )


def _from_mmdet3(output: Any, image: tuple[int, int] | None) -> Detections:
    metainfo = getattr(output, "metainfo", None) or {}
    own = getattr(output, "ori_shape", None)
    image = _image_shape(image, "ori_shape", metainfo.get("ori_shape") if own is None else own)
    found = output.pred_instances
    boxes, scores = _required(found, "bboxes"), _required(found, "scores")
    masks = getattr(found, "masks", None)
    masks = getattr(masks, "masks", masks)  # BitmapMasks
    return _assemble(boxes, scores, masks, getattr(found, "labels", None), image)


def _from_mmdet2(bbox_result: Any, segm_result: Any, image: tuple[int, int] | None) -> Detections:
    xp = array_namespace(*bbox_result)
    rows = xp.concat(list(bbox_result))
    counts = [int(boxes.shape[0]) for boxes in bbox_result]
    class_ids = _beside(rows, np.repeat(np.arange(len(counts)), counts))
    boxes, scores = rows[:, :4], rows[:, 4]
    if segm_result is None:
        return Detections(boxes, scores, class_ids=class_ids)
    if isinstance(segm_result, tuple):
        segm_result = segm_result[0]  # Mask Scoring R-CNN gives masks and the scores of masks
    if (got := [len(of_class) for of_class in segm_result]) != counts:
        raise ValueError(f"masks: expected {counts} of the classes, as of boxes; got {got}")
    masks = [_array(mask) for of_class in segm_result for mask in of_class]
    crops, mask_boxes = _whole_masks(rows, masks, image)
    return Detections(boxes, scores, crops, class_ids, mask_boxes)


def _whole_masks(
    boxes: Array, masks: list[Any], image: tuple[int, int] | None
) -> tuple[list[Array], Array]:
    """Crops of masks of the whole image, arrays or run-length encoded, and what they cover."""
    coded = bool(masks) and all(isinstance(mask, dict) for mask in masks)
    for i, mask in enumerate(masks):
        size = image_size("size", mask["size"]) if coded else tuple(getattr(mask, "shape", ()))
        if image is not None and size != image:
            raise ValueError(f"masks[{i}]: expected the image's shape {image}; got {size}")
    if coded:
        decoded = [rle_crop(mask["counts"], mask["size"]) for mask in masks]
        crops, mask_boxes = [crop for crop, _ in decoded], np.asarray([box for _, box in decoded])
    else:
        crops, mask_boxes = crop_masks(masks)
    return [_beside(boxes, crop) for crop in crops], _beside(boxes, mask_boxes)


def _from_ultralytics(output: Any, image: tuple[int, int] | None) -> Detections:
    image = _image_shape(image, "orig_shape", output.orig_shape)
    boxes, scores = output.boxes.xyxy, output.boxes.conf
    classes = getattr(output.boxes, "cls", None)
    if classes is not None:  # floats in a row of floats
        xp = array_namespace(classes)
        classes = xp.astype(classes, xp.int64)
    if getattr(output, "masks", None) is None:
        return Detections(boxes, scores, class_ids=classes)
    masks = output.masks.data
    _check_pixels("masks", masks, (None, None, None))
    size = (int(masks.shape[1]), int(masks.shape[2]))
    frame = None if image is None or size == image else _letterbox(size, image)
    crops, mask_boxes = crop_masks(masks, frame)
    return Detections(boxes, scores, crops, classes, mask_boxes)


def _letterbox(size: tuple[int, int], image: tuple[int, int]) -> tuple[float, ...]:
    """What a network's letterboxed input covers, in pixels of the image.

    Ultralytics enlarges the image as far as it fits, to whole pixels, and halves what is left over
    into whole pads; the rounding decides which axis is the one that fits.
    """
    sides = list(zip(size, image, strict=True))
    gains = [n / n_image for n, n_image in sides]
    gain = max(g for g in gains if all(round(n_image * g) <= n for n, n_image in sides))
    ends = []
    for n, n_image in sides:
        n_resized = max(round(n_image * gain), 1)
        pad = round((n - n_resized) / 2 - 0.1)
        ends.append((-pad * n_image / n_resized, (n - pad) * n_image / n_resized))
    (y0, y1), (x0, x1) = ends
    return x0, y0, x1, y1


def _assemble(
    boxes: Any, scores: Any, masks: Any, class_ids: Any, image: tuple[int, int] | None
) -> Detections:
    """Put fields together, masks being crops or of the whole image."""
    boxes = _array(_unwrapped(boxes), (0, 4))
    masks = _unwrapped(masks)
    if masks is None:
        return Detections(boxes, scores, class_ids=class_ids)
    if isinstance(masks, list | tuple):
        masks = [_array(mask) for mask in masks]
        sizes = {tuple(getattr(mask, "shape", ())) for mask in masks}
    else:
        masks = _beside(boxes, _array(masks))
        if len(getattr(masks, "shape", ())) == 4 and masks.shape[1] == 1:
            masks = masks[:, 0]
        _check_masks("masks", masks, (None, None, None))
        sizes = {tuple(masks.shape[1:])}  # a stack has one even if it has no masks
    if len(masks) != len(boxes):
        raise ValueError(f"masks: expected {len(boxes)}, one for each box; got {len(masks)}")
    if isinstance(masks, list) and masks and all(isinstance(mask, dict) for mask in masks):
        crops, mask_boxes = _whole_masks(boxes, masks, image)
        return Detections(boxes, scores, crops, class_ids, mask_boxes)
    if sizes == {image}:
        crops, mask_boxes = crop_masks(masks)
        return Detections(boxes, scores, crops, class_ids, mask_boxes)
    if image is None and len(sizes) == 1 and _may_be_whole(next(iter(sizes)), boxes):
        raise ValueError(
            "shape: expected the image's (H, W), to tell masks of the whole image from crops;"
            " got None"
        )
    if len(sizes) == 1 and any(n > _LARGEST_CROP for size in sizes for n in size):
        got = ", ".join(map(str, sorted(sizes)[:3]))
        raise ValueError(
            f"masks: expected masks of the image's shape {image}, or crops of at most"
            f" {_LARGEST_CROP} pixels a side; got {got}"
        )
    return Detections(boxes, scores, masks, class_ids)


def _may_be_whole(size: tuple[int, ...], boxes: Array) -> bool:
    """Whether masks could be of an image: larger than crops, not square, or around all boxes."""
    if len(size) != 2 or max(size) <= _USUAL_CROP or 0 in boxes.shape:
        return False
    if max(size) > _LARGEST_CROP or size[0] != size[1]:
        return True
    return bool((to_host(boxes)[:, 2:] <= np.asarray(size[::-1])).all())


# ---- arrays -------------------------------------------------------------------------------------


def _array(value: Any, empty: tuple[int, ...] = (0,), dtype: str = "float64") -> Any:
    """Numbers in lists as a NumPy array; an array, or None, as it is."""
    if isinstance(value, list | tuple):
        return np.asarray(value) if len(value) else np.empty(empty, dtype)
    # What has nothing but DLPack can be neither measured nor indexed; NumPy's view of it can.
    only_dlpack = hasattr(value, "__dlpack__") and not hasattr(value, "shape")
    return np.from_dlpack(value) if only_dlpack else value


def _beside(boxes: Array, array: Array) -> Array:
    """NumPy's array in the library and on the device of the boxes; another one as it is."""
    if not isinstance(array, np.ndarray) or isinstance(boxes, np.ndarray):
        return array
    whole = np.ascontiguousarray(array)  # PyTorch has no negative strides
    return array_namespace(boxes).asarray(whole, device=device(boxes))


def _unwrapped(value: Any) -> Any:
    """The tensor of Detectron2's and MMDetection's Boxes, BitMasks and ROIMasks."""
    return getattr(value, "tensor", value)


def _floating(name: str, array: Array) -> Array:
    dtype = dtype_name(array)
    if "float" in dtype:
        return array
    if "int" not in dtype:
        raise TypeError(f"{name}: expected a floating-point or integer dtype; got {dtype}")
    xp = array_namespace(array)
    return xp.astype(array, xp.float64)


def _check_masks(name: str, masks: Array, shape: tuple[int | None, ...]) -> None:
    _check_pixels(name, masks, shape)
    dtype = dtype_name(masks)
    if "float" not in dtype and dtype not in ("bool", "uint8"):
        raise TypeError(f"{name}: expected a float dtype, bool or uint8; got {dtype}")


def _check_pixels(name: str, masks: Array, shape: tuple[int | None, ...]) -> None:
    """Refuse masks of another shape (N, h, w) or (h, w), or without pixels."""
    _check_shape(name, masks, shape, "Nhw"[-len(shape) :])
    *n, height, width = masks.shape
    if 0 in (height, width) and n != [0]:
        raise ValueError(f"{name}: expected at least one pixel; got shape {tuple(masks.shape)}")


def _check_shape(name: str, array: Array, shape: tuple[int | None, ...], letters: str = "N") -> int:
    """The length of the first axis, if the shape is as expected; None is any length."""
    if not hasattr(array, "shape"):
        raise TypeError(f"{name}: expected an array; got {type(array).__name__}")
    got = tuple(array.shape)
    if len(got) != len(shape) or any(n not in (None, m) for n, m in zip(shape, got, strict=True)):
        sides = [str(letters[i] if n is None else n) for i, n in enumerate(shape)]
        expected = f"({', '.join(sides)}{',' * (len(sides) == 1)})"
        raise ValueError(f"{name}: expected shape {expected}; got {got}")
    return int(got[0])


def _positions(index: Any) -> NDArray[Any]:
    """Integers or bools that choose objects, on the host."""
    values = np.asarray(index.tolist() if hasattr(index, "tolist") else index)
    if values.shape == (0,):
        return values.astype(np.int64)
    if values.ndim != 1 or values.dtype.kind not in "biu":
        got = f"{values.dtype} of shape {values.shape}"
        raise TypeError(f"index: expected a slice, or (n,) integers or bools; got {got}")
    return values


def _windows(masks: Array) -> NDArray[np.int64]:
    """x0, y0, x1, y1 of each mask's object and a pixel around it, of (n, H, W)."""
    xp = array_namespace(masks)
    inside = masks if dtype_name(masks) == "bool" else masks > 0
    ends = []
    for axis in (1, 2):
        some = xp.any(inside, axis=axis)
        place = xp.arange(some.shape[1], device=device(masks))
        ends.append(xp.min(xp.where(some, place, some.shape[1]), axis=1))
        ends.append(xp.max(xp.where(some, place, -1), axis=1))
    x_first, x_last, y_first, y_last = np.asarray(xp.stack(ends).tolist(), np.int64)
    first = np.stack([x_first, y_first], axis=1) - 1
    last = np.stack([x_last, y_last], axis=1) + 2
    none = (x_last < 0)[:, None]
    size = np.asarray(masks.shape[:0:-1])
    return np.hstack(
        [np.where(none, 0, np.maximum(first, 0)), np.where(none, 1, np.minimum(last, size))]
    )


def _image_shape(
    shape: tuple[int, int] | None, name: str, own: Sequence[int] | None
) -> tuple[int, int] | None:
    """The image's shape, as the caller says it or the output does, or both alike."""
    if own is None:
        return shape
    image = image_size(name, own[:2])
    if shape not in (None, image):
        raise ValueError(f"shape: expected the output's own {name} {image}; got {shape}")
    return image


def _required(instances: Any, name: str) -> Any:
    value = getattr(instances, name, None)
    if value is None:
        raise ValueError(f"{name}: expected an array; got none in {type(instances).__name__}")
    return _unwrapped(value)
