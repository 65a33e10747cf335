"""Into tiles of which size an image is cut, by its own size or that of its cells."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cellpost._arrays import Array, to_host
from cellpost.labels import choose, integer, number
from cellpost.properties import properties
from cellpost.rle import image_size

__all__ = ["TileSize", "choose_tile_size", "mean_diameter", "needs_sliding"]

# Algorithm 1 of Train4Ever: up to these shortest edges, in pixels. The first limit is below 2000.
_BY_EDGE = ((1999, 1024), (3000, 256), (4000, 512), (15000, 1024))
_LARGEST_BY_EDGE = 2048
_LARGE_EDGE = 4000  # Algorithm 2
_FEW_INSTANCES = 5

_TILE_OF_RESIZED = 512
_DIAMETERS_IN_TILE = 16
_DIAMETERS_IN_OVERLAP = 2
TILE_STEP = 32  # what the strides of most networks divide
_TILE_RANGE = (256, 2048)
_LARGEST_SCALE = 8


class _Rule(enum.Enum):
    train4ever = enum.auto()
    cell_size = enum.auto()


@dataclass(frozen=True)
class TileSize:
    """How to cut an image into tiles.

    Attributes
    ----------
    tile : int
        Side of a tile, in pixels of the resized image.
    scale : float
        Size of the resized image over that of the image; 1: as it is.
    overlap_px : int or None
        What neighbouring tiles share at least, in pixels of the resized image; None: the rule does
        not say.
    """

    tile: int
    scale: float = 1.0
    overlap_px: int | None = None


def choose_tile_size(
    shape: Sequence[int],
    rule: Literal["train4ever", "cell_size"] = "train4ever",
    *,
    diameter: float | None = None,
    model_diameter: float | None = None,
) -> TileSize:
    """Choose the size of tiles for an image.

    Parameters
    ----------
    shape : (int, int)
        H, W of the image, in pixels, > 0.
    rule : {"train4ever", "cell_size"}
        ``"train4ever"``: by the image's shorter edge: 1024 below 2000, 256 to 3000, 512 to 4000,
        1024 to 15000 (each with the limit itself), 2048 above. ``"cell_size"``: by the cells, at
        any size of the image.
    diameter : float, optional
        Of the image's cells, in pixels, finite, > 0; see `mean_diameter`. Needed by ``"cell_size"``
        and used by nothing else.
    model_diameter : float, optional
        Of the cells that the network was trained on, in pixels, finite, > 0: with ``"cell_size"``
        the image is resized by ``model_diameter / diameter``, at least 1/8 and at most 8, and tiles
        are 512. If not given, the image stays, and a tile holds 16 diameters: rounded up to a
        multiple of 32, at least 256, at most 2048.

    Returns
    -------
    TileSize
        With ``"cell_size"``, `overlap_px` is two diameters on the resized image, rounded up, and at
        most half a tile: enough for a cell at a seam to lie whole in one of the tiles.

    Raises
    ------
    TypeError
        If a size is no integer, or a diameter no number.
    ValueError
        If `shape` is not two positive integers, `rule` is unknown, a diameter is not finite and
        > 0, or that of the cells is missing.

    Notes
    -----
    ``"train4ever"`` is Algorithm 1 of that system; whether to tile at all is for `needs_sliding` to
    say. ``"cell_size"`` is what its authors wished for. The resized image has
    ``augment.View(scale=scale).shape(shape)`` pixels.

    Examples
    --------
    >>> from cellpost.tile_size import choose_tile_size
    >>> choose_tile_size((8415, 10496))
    TileSize(tile=1024, scale=1.0, overlap_px=None)
    >>> choose_tile_size((1000, 1000), "cell_size", diameter=60, model_diameter=30)
    TileSize(tile=512, scale=0.5, overlap_px=60)
    >>> choose_tile_size((1000, 1000), "cell_size", diameter=60)
    TileSize(tile=960, scale=1.0, overlap_px=120)
    """
    shorter = min(image_size("shape", shape))
    chosen = choose("rule", rule, _Rule)
    cell = _diameter("diameter", diameter)
    wanted = _diameter("model_diameter", model_diameter)
    if chosen is _Rule.train4ever:
        tile = next((tile for edge, tile in _BY_EDGE if shorter <= edge), _LARGEST_BY_EDGE)
        return TileSize(tile)
    if cell is None:
        raise ValueError("diameter: expected a number > 0 with rule 'cell_size'; got None")
    if wanted is None:
        tile = TILE_STEP * math.ceil(_DIAMETERS_IN_TILE * cell / TILE_STEP)
        tile = min(max(tile, _TILE_RANGE[0]), _TILE_RANGE[1])
        return TileSize(tile, overlap_px=_overlap(cell, tile))
    scale = wanted / cell
    if not 1 / _LARGEST_SCALE <= scale <= _LARGEST_SCALE:
        scale = min(max(scale, 1 / _LARGEST_SCALE), _LARGEST_SCALE)
        wanted = cell * scale
    return TileSize(_TILE_OF_RESIZED, scale, _overlap(wanted, _TILE_OF_RESIZED))


def needs_sliding(shape: Sequence[int], n_instances: int | None = None) -> bool:
    """Tell whether an image is to be cut into tiles, rather than shown to the network whole.

    Parameters
    ----------
    shape : (int, int)
        H, W of the image, in pixels, > 0.
    n_instances : int, optional
        What the network found in the whole image, >= 0; if not given, the size alone decides.

    Returns
    -------
    bool
        Whether the shorter edge is 4000 pixels or more, or fewer than 5 instances were found.

    Raises
    ------
    TypeError
        If a number is no integer.
    ValueError
        If `shape` is not two positive integers, or `n_instances` is negative.

    Notes
    -----
    Algorithm 2 of Train4Ever.

    Examples
    --------
    >>> from cellpost.tile_size import needs_sliding
    >>> needs_sliding((1000, 1000)), needs_sliding((1000, 1000), 4), needs_sliding((4000, 9000))
    (False, True, True)
    """
    shorter = min(image_size("shape", shape))
    few = False
    if n_instances is not None:
        n = integer("n_instances", n_instances)
        if n < 0:
            raise ValueError(f"n_instances: expected 0 or more; got {n}")
        few = n < _FEW_INSTANCES
    return shorter >= _LARGE_EDGE or few


def mean_diameter(labels: Array) -> float:
    """Diameter of a typical object, as `choose_tile_size` takes it.

    Parameters
    ----------
    labels : array, (H, W) or (D, H, W), any integer dtype
        Label image, ids >= 0, gaps allowed.

    Returns
    -------
    float
        Median over the objects of the diameter of the disc of the same area, in volumes of the ball
        of the same volume, in pixels; NaN without objects.

    Raises
    ------
    TypeError
        If `labels` is no array or not of an integer dtype.
    ValueError
        If `labels` has another number of axes or negative ids.

    Notes
    -----
    Of an image the first value of ``cellpose.utils.diameters``, which gives 0 without objects. Time
    linear in the pixels; the sizes of the objects come to the host.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.tile_size import mean_diameter
    >>> labels = np.zeros((20, 20), np.int32)
    >>> labels[:10, :10], labels[12:, :5] = 7, 3
    >>> round(mean_diameter(labels), 3)
    9.21
    """
    areas: Any = to_host(properties(labels)["area"]).astype(np.float64)
    if areas.size == 0:
        return math.nan
    if len(labels.shape) == 2:
        return float(np.median(2 * np.sqrt(areas / math.pi)))
    return float(np.median(np.cbrt(6 * areas / math.pi)))


def _overlap(diameter: float, tile: int) -> int:
    return min(math.ceil(_DIAMETERS_IN_OVERLAP * diameter), tile // 2)


def _diameter(name: str, value: Any) -> float | None:
    if value is None:
        return None
    diameter = number(name, value)
    if not 0 < diameter < math.inf:
        raise ValueError(f"{name}: expected a finite number > 0; got {diameter}")
    return diameter
