"""Cells outlined on their picture."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cellpost.io.containers import Array, PathLike, describe
from cellpost.io.output import atomic_file

_N_COLOURS = 256
_GOLDEN = 0.6180339887498949  # its multiples spread evenly: cells of near ids differ in hue


def write_overlay(
    path: PathLike, image: npt.ArrayLike, labels: npt.ArrayLike, *, scale: int = 1
) -> None:
    """Write a PNG of an image with the outline of every cell on it.

    Parameters
    ----------
    path : str or Path
        Where the PNG goes, whole or not at all.
    image : array_like, (H, W), (H, W, C), (D, H, W) or (D, H, W, C), any real dtype
        Of more than three channels the first three are shown, of two their mean. Stretched so that
        its 1st percentile is black and its 99.8th white, all channels alike.
    labels : array_like, (H, W) or (D, H, W), any integer dtype
        0 is background. Of a volume the **middle plane** (D // 2) is drawn.
    scale : int
        Pixels of the PNG per pixel of the image, along each axis. Outlines run along the pixel
        edges on the cell's side, ``(scale + 1) // 2`` pixels of the PNG wide: from 3 on finer than
        the image's own pixels.

    Raises
    ------
    ValueError
        If the shapes of image and labels disagree, or there is nothing to draw.
    OSError
        If the file cannot be written.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: expected a name that ends in .png for the overlay")
    grid, picture = np.asarray(labels), np.asarray(image)
    if grid.ndim not in (2, 3) or grid.dtype.kind not in "iu" or grid.size == 0 or scale < 1:
        raise ValueError(f"labels: expected integers (H, W) or (D, H, W); got {describe(grid)}")
    check_picture(picture, grid.shape)
    if grid.ndim == 3:
        middle = grid.shape[0] // 2
        grid, picture = grid[middle], picture[middle]
    canvas = _stretched(picture)
    if scale > 1:
        grid, canvas = (a.repeat(scale, axis=0).repeat(scale, axis=1) for a in (grid, canvas))
    edge = inner_boundary(grid, width=(scale + 1) // 2)
    canvas[edge] = _colours()[grid[edge].astype(np.int64) % _N_COLOURS]
    with atomic_file(path) as file:
        Image.fromarray(canvas).save(file, format="PNG")


def check_picture(picture: Array, shape: tuple[int, ...]) -> None:
    """Raise a ValueError if labels of a shape cannot be drawn on a picture."""
    if picture.shape[: len(shape)] != shape or picture.ndim > len(shape) + 1:
        raise ValueError(
            f"image: expected the labels' shape {shape}, or with channels {(*shape, 3)}; got"
            f" {describe(picture)}"
        )


def inner_boundary(labels: Array, *, width: int = 1) -> npt.NDArray[np.bool_]:
    """Mark the pixels of each label that are next to another label or background.

    Parameters
    ----------
    labels : ndarray, (H, W), integer
        Label image. The image's own border is no boundary.
    width : int
        How many pixels up, down, left or right still count as next.

    Returns
    -------
    ndarray, (H, W), bool
        True on the boundary.
    """
    edge = np.zeros(labels.shape, bool)
    for k in range(1, width + 1):
        down, right = labels[k:] != labels[:-k], labels[:, k:] != labels[:, :-k]
        edge[k:] |= down
        edge[:-k] |= down
        edge[:, k:] |= right
        edge[:, :-k] |= right
    edge &= labels > 0
    return edge


def _stretched(picture: Array) -> npt.NDArray[np.uint8]:
    """(H, W) or (H, W, C) of any dtype to RGB in 8 bits."""
    rgb = np.asarray(picture, np.float32)
    if rgb.ndim == 3:
        rgb = rgb[..., :3] if rgb.shape[-1] >= 3 else rgb.mean(axis=-1)
    rgb = np.nan_to_num(rgb, nan=0.0, posinf=0.0, neginf=0.0)
    step = max(1, round((rgb.shape[0] * rgb.shape[1] / 4e6) ** 0.5))  # a sample will do
    low, high = np.percentile(rgb[::step, ::step], [1.0, 99.8])
    grey = np.clip((rgb - low) * (255.0 / max(high - low, 1e-12)), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1) if grey.ndim == 2 else grey


def _colours() -> npt.NDArray[Any]:
    # from magenta over red, yellow and green to cyan: blue hides on stained and on dark images
    hues = ((np.arange(_N_COLOURS) * _GOLDEN) % 1.0) * 0.7 - 0.17
    return np.array([colorsys.hsv_to_rgb(h % 1.0, 0.9, 1.0) for h in hues]) * 255
