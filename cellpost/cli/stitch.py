"""The `stitch` command: overlapping tiles of a network's output to one map."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import cellpost
from cellpost.cli.job import Device, Run, before_the_work, where_to_compute
from cellpost.cli.options import (
    HaloPx,
    Layout,
    Overlap,
    OverlapPx,
    Overwrite,
    Quiet,
    Report,
    Shape,
    Stride,
    Threads,
    Weights,
    Where,
    WhereTilesLie,
    Window,
)
from cellpost.cli.tile_grid import as_spacing, grid_of, sides
from cellpost.io.tiles import check_map, create_map, let_go, read_tiles


class Float(str, Enum):
    """What a map can be of."""

    float16 = "float16"
    float32 = "float32"
    float64 = "float64"


def stitch(
    tiles: Annotated[
        Path,
        typer.Argument(
            metavar="TILES",
            help=".npy, .npz (tiles and, if it is there, shape) or TIFF with an array "
            "(ny, nx, C, h, w) or (n, C, h, w); of volumes (nz, ny, nx, C, d, h, w) or "
            "(n, C, d, h, w).",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Map to write: .npy, .tif or .tiff.")
    ],
    report: Report = None,
    shape: Shape = None,
    overlap: Overlap = None,
    overlap_px: OverlapPx = None,
    stride: Stride = None,
    layout: WhereTilesLie = Layout.sliding,
    halo_px: HaloPx = None,
    window: Weights = Window.gaussian,
    sigma: Annotated[
        float, typer.Option(help="Of the Gaussian, as a share of the tile's side.")
    ] = 0.125,
    dtype: Annotated[
        Float | None, typer.Option(help="Of the map.", show_default="the tiles'")
    ] = None,
    device: Where = Device.auto,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Overlapping tiles to one map, of any size: neither has to fit into the memory."""
    spacing = as_spacing(overlap, overlap_px, stride, halo_px, layout)
    blending: dict[str, Any] = {"window": window.value, "sigma": sigma}
    run = Run((tiles,), output, report, device, threads, overwrite, quiet)
    with run.steps() as steps:
        with before_the_work():
            steps.say("checking")
            run.check()
            place, moves = where_to_compute(device)
            steps.say("reading")
            given = read_tiles(tiles, shape=shape or None)
            array = given.array
            grid = grid_of(tiles, array.shape, given.shape, spacing, inner=("C",))
            size = (array.shape[-grid.ndim - 1], *grid.shape)
            form = dtype.value if dtype else array.dtype.name
            check_map(output, size, form)
            cellpost.Stitcher(grid, size[0], **blending)  # or an error, before there is a file
        note = {
            "function": "stitch",
            "tiles": str(tiles),
            "n_tiles": len(grid),
            "tile": grid.tile,
            "stride": grid.stride,
            "shape": size,
            "device": place,
            "parameters": {**spacing, **blending, "dtype": form},
        }
        start = time.perf_counter()
        with create_map(output, size, form, metadata=note) as out:
            steps.say(f"blending on {place}")
            for done in _blended(array, grid, out, moves[0] if moves else np.asarray, blending):
                steps.count(done, len(grid))
            seconds = time.perf_counter() - start
            steps.say(f"writing {output.name}")
        run.write_report(note, seconds)
    run.say(f"{output}: {sides(size)} {form} from {len(grid)} tiles, {seconds:.3f} s on {place}")


def _blended(
    array: Any,
    grid: cellpost.TileGrid,
    out: Any,
    put: Callable[[Any], Any],
    options: dict[str, Any],
) -> Iterator[int]:
    """Blend row of tiles after row; give the number of tiles done."""
    if len(grid) == 0:
        return
    stitcher = cellpost.Stitcher(grid, out.shape[0], out=out, **options)
    n = grid.counts[-1]
    for first in range(0, len(grid), n):
        is_flat = array.ndim == grid.ndim + 2
        row = array[first : first + n] if is_flat else array[grid.place(first)[:-1]]
        stitcher.add(range(first, first + n), put(row), copy=False)
        for _ in stitcher.ready():  # it is in `out`
            pass
        for mapped in (array, out):
            let_go(mapped)
        yield first + n
