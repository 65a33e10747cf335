"""How tiles follow each other along an axis, and the arguments that say it."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 2**31 - 1  # pixels a side
_OVERLAP = 0.6
_MOST_TILES = 2**24  # along an axis: their starts are held


def image_shape(shape: Any) -> tuple[int, ...]:
    """(H, W) or (D, H, W), or an error that names it."""
    try:
        sizes = tuple(index(size) for size in shape)
    except TypeError:
        sizes = ()
    if len(sizes) not in (2, 3) or not all(0 <= size <= LARGEST for size in sizes):
        raise ValueError(f"shape: expected (H, W) or (D, H, W) in pixels; got {shape!r}")
    return sizes


def per_axis(name: str, value: Any, n: int) -> list[Any]:
    """One value for each axis, from that or from one for all."""
    is_many = isinstance(value, (Sequence, np.ndarray)) and np.ndim(value) > 0
    values = list(value) if is_many else [value] * n
    if len(values) != n or isinstance(value, str):
        raise ValueError(f"{name}: expected one number, or one for each of {n} axes; got {value!r}")
    return values


def integers(name: str, value: Any, n: int, lowest: int, highest: Sequence[int]) -> tuple[int, ...]:
    """One integer for each axis, from `lowest` to its own highest."""
    values = per_axis(name, value, n)
    numbers = []
    for one, most in zip(values, highest, strict=True):
        try:
            number = index(one)
        except TypeError:
            raise TypeError(f"{name}: expected integers; got {one!r}") from None
        if isinstance(one, (bool, np.bool_)):
            raise TypeError(f"{name}: expected integers; got {one!r}")
        if not lowest <= number <= most:
            raise ValueError(f"{name}: expected {lowest} to {most} pixels; got {one!r}")
        numbers.append(number)
    return tuple(numbers)


def stride_of(
    tile: tuple[int, ...], layout: str, overlap: Any, overlap_px: Any, stride: Any, halo_px: Any
) -> tuple[int, ...]:
    """From tile to tile along each axis, by whichever argument says it."""
    n = len(tile)
    said = {"overlap": overlap, "overlap_px": overlap_px, "stride": stride, "halo_px": halo_px}
    given = [name for name, value in said.items() if value is not None]
    wanted = {"halo": ["halo_px"], "nonoverlap": []}.get(layout)
    if wanted is not None and given != wanted:
        needs = f"{wanted[0]} alone" if wanted else "no overlap, overlap_px, stride or halo_px"
        raise ValueError(
            f"layout: expected {needs} with {layout!r}; got {', '.join(given) or 'nothing'}"
        )
    if wanted is None and (len(given) > 1 or given == ["halo_px"]):
        raise ValueError(
            f"overlap: expected one of overlap, overlap_px and stride with layout={layout!r}; "
            f"got {', '.join(given)}"
        )
    if layout == "nonoverlap":
        return tile
    if halo_px is not None:
        halo = integers("halo_px", halo_px, n, 0, [(side - 1) // 2 for side in tile])
        return tuple(side - 2 * margin for side, margin in zip(tile, halo, strict=True))
    if stride is not None:
        return integers("stride", stride, n, 1, tile)
    if overlap_px is not None:
        shared = integers("overlap_px", overlap_px, n, 0, [side - 1 for side in tile])
        return tuple(side - both for side, both in zip(tile, shared, strict=True))
    shares = per_axis("overlap", _OVERLAP if overlap is None else overlap, n)
    steps = []
    for share, side in zip(shares, tile, strict=True):
        try:
            number = float(share)
        except (TypeError, ValueError):
            raise TypeError(f"overlap: expected a number; got {share!r}") from None
        if isinstance(share, (bool, np.bool_)) or not 0 <= number < 1:
            raise ValueError(
                "overlap: expected a share of the tile, 0 <= overlap < 1 (pixels are "
                f"overlap_px); got {share!r}"
            )
        steps.append(max(int(side * (1 - number)), 1))
    return tuple(steps)


def sliding(size: int, tile: int, stride: int) -> NDArray[np.int64]:
    """Starts of tiles, the last one of which ends with the image."""
    if 0 < size <= tile:
        return np.array([-((tile - size) // 2)], np.int64)
    return np.minimum(fixed(size, tile, stride), max(size - tile, 0))


def fixed(size: int, tile: int, stride: int) -> NDArray[np.int64]:
    """Starts of tiles, until the image is covered."""
    if size == 0:
        return np.empty(0, np.int64)
    n = -(-max(size - tile, 0) // stride) + 1
    if n > _MOST_TILES:
        raise ValueError(
            f"shape: expected at most {_MOST_TILES} tiles along an axis; got {n}, tiles of {tile} "
            f"every {stride} of {size} pixels"
        )
    return np.arange(n, dtype=np.int64) * stride
