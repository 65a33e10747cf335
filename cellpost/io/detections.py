"""Detections from files: arrays in an ``.npz``, or COCO's results and annotations in JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellpost.detections import Detections, as_detections
from cellpost.io.containers import Array, FileFormatError, PathLike, describe, file_kind, load_npz
from cellpost.rle import image_size, rle_crop

__all__ = ["read_detections"]

_EXPECTED = (
    "detections in an .npz (boxes, scores and, if there are any, masks or masks_flat and"
    " mask_sizes, mask_boxes, class_ids, shape) or in COCO's JSON (masks in run-length encoding)"
)
_OPTIONAL = ("masks", "masks_flat", "mask_sizes", "mask_boxes", "class_ids", "labels", "shape")


def read_detections(
    path: PathLike, *, image_id: int | str | None = None, shape: Sequence[int] | None = None
) -> tuple[Detections, tuple[int, int] | None]:
    """Read boxes, scores and masks of one image.

    Parameters
    ----------
    path : str or Path
        One of

        * ``.npz`` with the arrays ``boxes`` (N, 4) and ``scores`` (N,). Optional are ``masks``
          (N, h, w) or (N, 1, h, w), or crops of different sizes as ``masks_flat`` (all their
          pixels, one crop after the other, row by row) and ``mask_sizes`` (N, 2) = h, w; further
          ``mask_boxes`` (N, 4), ``class_ids`` or ``labels`` (N,), and ``shape`` = H, W of the
          image, by which masks of the whole image are told from crops;
        * JSON as COCO's results, a list of objects with ``bbox`` = x, y, width, height, ``score``,
          ``category_id`` and ``segmentation``, all but one of box and mask optional; or as COCO's
          annotations, a dict with such a list as ``annotations``, and ``images``. A score that is
          missing in all is 1. Masks are run-length encoded, compressed or not.
    image_id : int or str, optional
        Which image to read from a JSON file of several.
    shape : (int, int), optional
        H, W of the image, where the file does not say it.

    Returns
    -------
    detections : Detections
        NumPy arrays. Masks of the whole image have become crops: without an object (1, 1), of JSON
        the object's own extents as bool.
    shape : (int, int) or None
        H, W of the image, if the file or `shape` says it.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged or of another kind, if arrays or entries are missing or do
        not fit together, if masks are polygons, or if an array holds Python objects.
    ValueError
        If the file has several images and `image_id` does not choose one, or if `shape` is not
        what the file says.

    Notes
    -----
    No mask of a JSON file is ever decoded to its full size: memory is what the crops take. A crowd
    (``iscrowd``) is read as one object.

    Examples
    --------
    >>> import json, os, tempfile
    >>> from cellpost.io import read_detections
    >>> mask = {"size": [4, 4], "counts": [5, 2, 2, 2, 5]}
    >>> path = os.path.join(tempfile.mkdtemp(), "found.json")
    >>> with open(path, "w") as file:
    ...     json.dump([{"image_id": 7, "score": 0.9, "segmentation": mask}], file)
    >>> found, shape = read_detections(path)
    >>> found.boxes.tolist(), found.masks[0].shape, shape
    ([[1.0, 1.0, 3.0, 3.0]], (2, 2), (4, 4))
    """
    path = Path(path)
    told = None if shape is None else image_size("shape", shape)
    kind = file_kind(path, _EXPECTED)
    if kind == "npz":
        if image_id is not None:
            raise ValueError(f"image_id: expected none for an .npz, of one image; got {image_id!r}")
        return _from_npz(path, told)
    if kind != "other":
        raise FileFormatError(path, _EXPECTED, "a file of another kind")
    content = _load_json(path)
    images: Any = []
    if isinstance(content, dict):
        images, content = content.get("images", []), content.get("annotations")
    for name, entries in {"annotations": content, "images": images}.items():
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise FileFormatError(path, _EXPECTED, f"JSON without a list of objects as {name}")
    found, own = _from_coco(path, *_of_one_image(path, content, images, image_id))
    return found, _agreed(path, own, told)


def _agreed(
    path: Path, own: tuple[int, int] | None, told: tuple[int, int] | None
) -> tuple[int, int] | None:
    """The image's shape, as the file says it or the caller does, or both alike."""
    if own is not None and told not in (None, own):
        raise ValueError(f"shape: expected {own}, as {path} says; got {told}")
    return own or told


# ---- .npz ---------------------------------------------------------------------------------------


def _from_npz(
    path: Path, told: tuple[int, int] | None
) -> tuple[Detections, tuple[int, int] | None]:
    try:
        found = load_npz(path, _EXPECTED, ("boxes", "scores"), _OPTIONAL)
    except FileFormatError as error:
        if "allow_pickle" not in str(error):
            raise
        got = "an array of Python objects, which are not read; store crops of different sizes as"
        raise FileFormatError(path, _EXPECTED, f"{got} masks_flat and mask_sizes") from None
    own = None
    if "shape" in found:
        sides = found["shape"]
        if sides.shape != (2,) or sides.dtype.kind not in "iu" or sides.min() < 1:
            got = f"shape {describe(sides)}, not H, W in pixels"
            raise FileFormatError(path, _EXPECTED, got)
        own = (int(sides[0]), int(sides[1]))
    shape = _agreed(path, own, told)
    boxes, scores, masks = found["boxes"], found["scores"], found.get("masks")
    class_ids = found.get("class_ids", found.get("labels"))
    ragged = "masks_flat" in found or "mask_sizes" in found
    try:
        if ragged or "mask_boxes" in found:
            crops: Any = _crops(path, found) if ragged else masks
            if not ragged and masks is not None and masks.ndim == 4 and masks.shape[1] == 1:
                crops = masks[:, 0]
            return Detections(boxes, scores, crops, class_ids, found.get("mask_boxes")), shape
        output = {"boxes": boxes, "scores": scores, "masks": masks, "labels": class_ids}
        return as_detections(output, shape=shape), shape
    except FileFormatError:
        raise
    except (TypeError, ValueError) as error:
        raise FileFormatError(path, _EXPECTED, error) from error


def _crops(path: Path, found: dict[str, Array]) -> list[Array]:
    """Cut the pixels of all crops into views of each."""
    if "masks" in found or "masks_flat" not in found or "mask_sizes" not in found:
        names = ", ".join(name for name in found if name.startswith("mask"))
        got = f"{names}, where masks_flat and mask_sizes go together, without masks"
        raise FileFormatError(path, _EXPECTED, got)
    flat, sizes = found["masks_flat"], found["mask_sizes"]
    whole = sizes.dtype.kind in "iu" and sizes.ndim == 2 and sizes.shape[1] == 2
    # Python's integers, since a product of damaged sizes could wrap around to the right total.
    pairs = sizes.tolist() if whole else []
    areas = [height * width for height, width in pairs]
    if (
        not whole
        or flat.ndim != 1
        or sum(areas) != len(flat)
        or min(map(min, pairs), default=0) < 0
    ):
        got = f"masks_flat {describe(flat)} and mask_sizes {describe(sizes)}"
        raise FileFormatError(path, _EXPECTED, f"{got}, which do not add up")
    pieces = np.split(flat, np.cumsum(areas[:-1], dtype=np.int64)) if pairs else []
    return [piece.reshape(pair) for piece, pair in zip(pieces, pairs, strict=True)]


# ---- JSON ---------------------------------------------------------------------------------------


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        got = f"what cannot be read as JSON, cut short or damaged perhaps: {error}"
        raise FileFormatError(path, _EXPECTED, got) from error


def _of_one_image(
    path: Path, entries: list[Any], images: list[Any], image_id: int | str | None
) -> tuple[list[Any], list[Any]]:
    """Choose the entries of an image; one that does not say its image is of the only one."""
    only = images[0].get("id") if len(images) == 1 else None
    of_entries = [str(entry.get("image_id", only)) for entry in entries]
    of_images = [str(image.get("id")) for image in images]
    names = list(dict.fromkeys(of_images + of_entries))
    if image_id is None and len(names) <= 1:
        return entries, images
    chosen = str(image_id)  # an id from a command line is text
    if image_id is None or chosen not in names:
        some = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
        got = f"{image_id!r}; {path} has {some}"
        raise ValueError(f"image_id: expected one of {len(names)} images; got {got}")
    return (
        [entry for entry, name in zip(entries, of_entries, strict=True) if name == chosen],
        [image for image, name in zip(images, of_images, strict=True) if name == chosen],
    )


def _from_coco(
    path: Path, entries: list[Any], images: list[Any]
) -> tuple[Detections, tuple[int, int] | None]:
    shape = None
    if images and {"height", "width"} <= images[0].keys():
        try:
            shape = image_size("images", (images[0]["height"], images[0]["width"]))
        except (TypeError, ValueError) as error:
            raise FileFormatError(path, _EXPECTED, error) from error
    bboxes, masks = (_column(path, entries, name) for name in ("bbox", "segmentation"))
    scores, classes = (_column(path, entries, name) for name in ("score", "category_id"))
    crops, mask_boxes = None, None
    if masks is not None:
        crops, mask_boxes, shape = _decoded(path, masks, shape)
    if bboxes is not None:
        boxes = _numbers(path, "bbox", bboxes, (4,))
        boxes[:, 2:] += boxes[:, :2]
    elif mask_boxes is not None:
        boxes = mask_boxes.astype(np.float64)
    else:
        raise FileFormatError(path, _EXPECTED, "annotations with neither bbox nor segmentation")
    confidence = np.ones(len(entries)) if scores is None else _numbers(path, "score", scores, ())
    class_ids = None
    if classes is not None:
        try:
            class_ids = np.asarray(classes if classes else np.empty(0, np.int64))
        except ValueError:  # lists among numbers
            class_ids = np.empty(())
        if class_ids.ndim != 1 or class_ids.dtype.kind not in "iu":
            raise FileFormatError(path, _EXPECTED, "a category_id that is no integer")
    return Detections(boxes, confidence, crops, class_ids, mask_boxes), shape


def _column(path: Path, entries: list[Any], name: str) -> list[Any] | None:
    """One value of each entry, or None if no entry has it; [] is a polygon mask left out."""
    values = [entry.get(name) for entry in entries]
    lacking = [i for i, value in enumerate(values) if value in (None, [])]
    if lacking and len(lacking) < len(values):
        got = f"annotation {lacking[0]} of the image without {name}, which others have"
        raise FileFormatError(path, _EXPECTED, got)
    return None if lacking else values


def _numbers(path: Path, name: str, values: list[Any], each: tuple[int, ...]) -> Array:
    """Finite numbers, of each entry one or a list of some length."""
    try:
        numbers = np.asarray(values).reshape(len(values), *each)
        numbers = numbers.astype(np.float64 if numbers.dtype.kind in "iuf" else None)
    except (TypeError, ValueError):
        numbers = np.asarray(np.nan)
    if not np.isfinite(numbers).all():
        wanted = f"{each[0]} finite numbers" if each else "a finite number"
        raise FileFormatError(path, _EXPECTED, f"a {name} that is not {wanted}")
    return numbers


def _decoded(
    path: Path, masks: list[Any], shape: tuple[int, int] | None
) -> tuple[list[Array], Array, tuple[int, int] | None]:
    """Crops of masks, what they cover, and the size that all masks have."""
    crops, boxes = [], []
    for i, mask in enumerate(masks):
        which = f"annotation {i} of the image with"
        if isinstance(mask, list):
            got = f"{which} polygons, which are not read; encode the mask's runs (RLE)"
            raise FileFormatError(path, _EXPECTED, got)
        try:
            height, width = mask["size"]
            crop, box = rle_crop(mask["counts"], (height, width))
        except (KeyError, TypeError, ValueError) as error:
            got = f"{which} a segmentation that is not size and counts of a mask: {error}"
            raise FileFormatError(path, _EXPECTED, got) from error
        shape = shape or (height, width)
        if (height, width) != shape:
            got = (
                f"{which} a mask of {height} x {width}, where the image has {shape[0]} x {shape[1]}"
            )
            raise FileFormatError(path, _EXPECTED, got)
        crops.append(crop)
        boxes.append(box)
    return crops, np.asarray(boxes, np.int64).reshape(-1, 4), shape
