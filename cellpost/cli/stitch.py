"""The `stitch` command: overlapping tiles of a network's output to one map."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import cellpost
from cellpost.cli.job import Device, Run, before_the_work, where_to_compute
from cellpost.cli.options import (
    Overlap,
    OverlapPx,
    Overwrite,
    Quiet,
    Report,
    Threads,
    Weights,
    Where,
    Window,
    per_axis,
)
from cellpost.io.containers import FileFormatError
from cellpost.io.tiles import check_map, create_map, let_go, read_tiles


class Layout(str, Enum):
    """Where tiles lie."""

    sliding = "sliding"
    fixed = "fixed"
    nonoverlap = "nonoverlap"
    halo = "halo"


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
    shape: Annotated[
        list[int] | None,
        typer.Option(
            metavar="H W",
            help="Of the map, or D H W.",
            show_default="the file's, or up to the last tile",
        ),
    ] = None,
    overlap: Overlap = None,
    overlap_px: OverlapPx = None,
    stride: Annotated[
        list[int] | None,
        typer.Option(metavar="PIXELS", help="From tile to tile, instead.", show_default=False),
    ] = None,
    layout: Annotated[
        Layout,
        typer.Option(
            help="Where tiles lie; the last ones end with the map (sliding, halo) or may not."
        ),
    ] = Layout.sliding,
    halo_px: Annotated[
        list[int] | None,
        typer.Option(metavar="PIXELS", help="Margin around each core, with --layout halo."),
    ] = None,
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
    spacing: dict[str, Any] = {
        "overlap": per_axis(overlap),
        "overlap_px": per_axis(overlap_px),
        "stride": per_axis(stride),
        "halo_px": per_axis(halo_px),
        "layout": layout.value,
    }
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
            grid = _grid(tiles, array.shape, given.shape, spacing)
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
    run.say(f"{output}: {_sides(size)} {form} from {len(grid)} tiles, {seconds:.3f} s on {place}")


def _grid(
    path: Path, found: tuple[int, ...], shape: tuple[int, ...] | None, spacing: dict[str, Any]
) -> cellpost.TileGrid:
    """Say where the tiles lie; the map ends with the last one if its shape is not known."""
    if shape is None:
        if len(found) == 4:
            raise FileFormatError(
                path,
                "tiles (ny, nx, C, h, w), or the map's shape with --shape H W",
                f"shape {found}, and no shape of the map",
            )
        n = len(found) // 2
        counts, tile = found[:n], found[-n:]
        steps = cellpost.TileGrid(tile, tile=tile, **spacing).stride
        axes = zip(counts, steps, tile, strict=True)
        shape = tuple((count - 1) * step + side if count else 0 for count, step, side in axes)
    n = len(shape)
    grid = cellpost.TileGrid(shape, tile=found[-n:], **spacing)
    if found[: -n - 1] not in ((len(grid),), grid.counts):
        raise FileFormatError(
            path,
            f"{len(grid)} tiles ({_sides(grid.counts)}) of {_sides(grid.tile)} pixels every "
            f"{_sides(grid.stride)} for a map of {_sides(grid.shape)}",
            f"shape {found}",
        )
    return grid


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


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
