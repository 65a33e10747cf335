"""The `flows` command: a flow field and a cell logit to a label image."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

import cellpost
from cellpost.cli.job import Device, Inputs, LabelJob, Run
from cellpost.cli.options import OutDtype, Output, Overwrite, Quiet, Report, Threads, Where
from cellpost.io import read_maps


class FillHoles(str, Enum):
    """Python's True, "cellpose" and False."""

    true = "true"
    cellpose = "cellpose"
    false = "false"

    def as_python(self) -> Any:
        """Give what `follow_flows` takes."""
        return {"true": True, "false": False}.get(self.value, self.value)


class Fragments(str, Enum):
    """What to do with cells of several pieces."""

    keep = "keep"
    largest = "largest"
    split = "split"  # type: ignore[assignment]  # hides str.split, which nobody needs here


class Sampling(str, Enum):
    """Where the field is sampled."""

    cellpose = "cellpose"
    centered = "centered"


def flows(
    maps: Annotated[
        Path,
        typer.Argument(
            metavar="MAPS",
            help="Stack dY, dX, cellprob (3, H, W) or dZ, dY, dX, cellprob (4, D, H, W) as TIFF, "
            "OME-TIFF or .npy; .npz with dP and cellprob; or Cellpose's _seg.npy.",
        ),
    ],
    output: Output,
    image: Annotated[
        Path | None, typer.Option(help="Picture to draw the overlay on; without it, the logit.")
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(help="PNG to write with every cell outlined (a volume's middle plane)."),
    ] = None,
    report: Report = None,
    axes: Annotated[
        str | None, typer.Option(help="Axes of the stack in the file, e.g. YXC or CZYX.")
    ] = None,
    cellprob_threshold: Annotated[
        float, typer.Option(help="Pixels with a larger logit are foreground.")
    ] = 0.0,
    flow_threshold: Annotated[
        float, typer.Option(help="Largest flow error of a cell that stays (2D); 0: any.")
    ] = 0.4,
    niter: Annotated[int, typer.Option(help="Steps that each pixel makes.")] = 200,
    min_size: Annotated[int, typer.Option(help="Cells of fewer pixels are dropped.")] = 15,
    max_size_fraction: Annotated[
        float, typer.Option(help="Cells that cover more of the image are dropped.")
    ] = 0.4,
    fill_holes: Annotated[
        FillHoles, typer.Option(help="Fill holes; cellpose: over the cells nested in them.")
    ] = FillHoles.true,
    fragments: Annotated[
        Fragments, typer.Option(help="Cells of several pieces: keep, largest piece, or split.")
    ] = Fragments.keep,
    sampling: Annotated[
        Sampling, typer.Option(help="Cellpose's answer, or one that no image size changes.")
    ] = Sampling.cellpose,
    out_dtype: OutDtype = None,
    device: Where = Device.auto,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Flow field and cell logit to a label image."""
    options = {
        "cellprob_threshold": cellprob_threshold,
        "flow_threshold": flow_threshold,
        "niter": niter,
        "min_size": min_size,
        "max_size_fraction": max_size_fraction,
        "fill_holes": fill_holes.as_python(),
        "fragments": fragments.value,
        "sampling": sampling.value,
        "out_dtype": out_dtype,
    }
    run = Run((maps, image), output, report, device, threads, overwrite, quiet)
    job = LabelJob(run, image, overlay, out_dtype)

    def read() -> Inputs:
        given = read_maps(maps, axes=axes)
        noted = {"maps": str(maps), "axes": given.axes}
        return Inputs((given.dP, given.cellprob), given.cellprob, given.cellprob.shape, noted)

    job.run("following flows", cellpost.follow_flows, options, read, count_flows)


def count_flows(found: cellpost.FlowReport) -> tuple[int, dict[str, int]]:
    """Cells, and what was dropped."""
    return found.n_labels, {
        "too large": found.n_too_large,
        "bad flow": found.n_bad_flow,
        "too small": found.n_too_small,
        "nested": found.n_nested,
    }
