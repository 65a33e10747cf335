"""The `merge` command: label images of overlapping tiles to one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import cellpost
from cellpost.cli.job import Device, Inputs, LabelJob, Run, Steps, where_to_compute
from cellpost.cli.options import (
    HaloPx,
    Layout,
    OutDtype,
    Output,
    Overlap,
    OverlapPx,
    Overwrite,
    Quiet,
    Report,
    Shape,
    Stride,
    Threads,
    Where,
    WhereTilesLie,
)
from cellpost.cli.tile_grid import as_spacing, grid_of
from cellpost.io.tiles import read_label_tiles


class Policy(str, Enum):
    """What is one object."""

    mutual = "mutual"
    iou = "iou"
    ios = "ios"
    center = "center"  # type: ignore[assignment]  # hides str.center, which nobody needs here


def merge(
    tiles: Annotated[
        Path,
        typer.Argument(
            metavar="TILES",
            help=".npy, .npz (tiles and, if it is there, shape) or TIFF with integers "
            "(ny, nx, h, w) or (n, h, w); of volumes (nz, ny, nx, d, h, w) or (n, d, h, w). Ids "
            "are the tile's own.",
        ),
    ],
    output: Output,
    image: Annotated[Path | None, typer.Option(help="Picture to draw the overlay on.")] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(
            help="PNG to write with every cell outlined (a volume's middle plane), on black "
            "without --image."
        ),
    ] = None,
    report: Report = None,
    shape: Shape = None,
    overlap: Overlap = None,
    overlap_px: OverlapPx = None,
    stride: Stride = None,
    layout: WhereTilesLie = Layout.sliding,
    halo_px: HaloPx = None,
    policy: Annotated[
        Policy,
        typer.Option(
            help="Objects of two tiles are one if each is the other's best match, or IoU or IoS is "
            "enough; center: an object is the tile's whose core its centroid lies in."
        ),
    ] = Policy.mutual,
    threshold: Annotated[
        float, typer.Option(help="What overlap of two objects has to pass (not with center).")
    ] = 0.5,
    out_dtype: OutDtype = None,
    device: Where = Device.auto,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Label images of overlapping tiles to one, without seams."""
    spacing = as_spacing(overlap, overlap_px, stride, halo_px, layout)
    options: dict[str, Any] = {
        "policy": policy.value,
        "threshold": threshold,
        "out_dtype": out_dtype,
    }
    run = Run((tiles, image), output, report, device, threads, overwrite, quiet)
    job = LabelJob(run, image, overlay, out_dtype)
    told: list[str] = []

    def prepare(_: Steps) -> tuple[str, Callable[..., Any]]:
        place, moves = where_to_compute(device)

        def call(array: Any, grid: cellpost.TileGrid, **options: Any) -> Any:
            put, get = moves or (_as_it_is, _as_it_is)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                labels, found = cellpost.stitch_labels(
                    put(array), grid, **options, return_report=True
                )
            told.extend(str(one.message).removeprefix("stitch_labels: ") for one in caught)
            return get(labels), found

        return place, call

    def read() -> Inputs:
        given = read_label_tiles(tiles, shape=shape or None)
        grid = grid_of(tiles, given.array.shape, given.shape, spacing)
        noted = {
            "tiles": str(tiles),
            "n_tiles": len(grid),
            "tile": grid.tile,
            "stride": grid.stride,
            "shape": grid.shape,
            "spacing": spacing,
        }
        black = np.broadcast_to(np.uint8(0), grid.shape)
        return Inputs((given.array, grid), black, grid.shape, noted)

    job.run("merging", cellpost.stitch_labels, options, read, _count, prepare=prepare)
    run.warn(*told)


def _as_it_is(array: Any) -> Any:
    return array


def _count(report: cellpost.StitchReport) -> tuple[int, dict[str, int]]:
    """Cells, and links between tiles that were refused."""
    return report.n_labels, {"links that would join two cells of a tile": report.n_refused}
