"""Where the tiles of a file lie, for the commands that put them together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cellpost
from cellpost.cli.options import Layout, per_axis
from cellpost.io.containers import FileFormatError


def as_spacing(
    overlap: list[float] | None,
    overlap_px: list[int] | None,
    stride: list[int] | None,
    halo_px: list[int] | None,
    layout: Layout,
) -> dict[str, Any]:
    """Give what `TileGrid` takes besides the shape and the tile."""
    return {
        "overlap": per_axis(overlap),
        "overlap_px": per_axis(overlap_px),
        "stride": per_axis(stride),
        "halo_px": per_axis(halo_px),
        "layout": layout.value,
    }


def grid_of(
    path: Path,
    found: tuple[int, ...],
    shape: tuple[int, ...] | None,
    spacing: dict[str, Any],
    *,
    inner: tuple[str, ...] = (),
) -> cellpost.TileGrid:
    """Say where the tiles lie; the whole ends with the last one if its shape is not known.

    `inner` names the axes between the tiles' places and their sides.
    """
    if shape is None:
        n = (len(found) - len(inner)) // 2
        if len(found) != 2 * n + len(inner) or n < 2:
            raise FileFormatError(
                path,
                f"tiles ({', '.join(('ny', 'nx', *inner, 'h', 'w'))}), or the shape of the whole "
                "with --shape H W",
                f"shape {found}, and no shape of the whole",
            )
        counts, tile = found[:n], found[-n:]
        steps = cellpost.TileGrid(tile, tile=tile, **spacing).stride
        axes = zip(counts, steps, tile, strict=True)
        shape = tuple((count - 1) * step + side if count else 0 for count, step, side in axes)
    n = len(shape)
    grid = cellpost.TileGrid(shape, tile=found[-n:], **spacing)
    if found[: len(found) - n - len(inner)] not in ((len(grid),), grid.counts):
        raise FileFormatError(
            path,
            f"{len(grid)} tiles ({sides(grid.counts)}) of {sides(grid.tile)} pixels every "
            f"{sides(grid.stride)} for a whole of {sides(grid.shape)}",
            f"shape {found}",
        )
    return grid


def sides(shape: Sequence[int]) -> str:
    """Spell a shape."""
    return " x ".join(map(str, shape))
