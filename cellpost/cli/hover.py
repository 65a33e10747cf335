"""The `hover` command: HoVer maps and a probability to a label image."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

import cellpost
from cellpost.cli.job import Device, Inputs, LabelJob, Run
from cellpost.cli.options import OutDtype, Output, Overwrite, Quiet, Report, Threads, Where
from cellpost.io import read_hover_maps


class Style(str, Enum):
    """Whose arithmetic and defaults."""

    hovernet = "hovernet"
    monai = "monai"


class Activation(str, Enum):
    """What is still to be applied to the probability."""

    none = "none"
    sigmoid = "sigmoid"
    softmax = "softmax"


class Footprint(str, Enum):
    """What markers are opened with."""

    ellipse = "ellipse"
    disk = "disk"


def hover(
    maps: Annotated[
        Path,
        typer.Argument(
            metavar="MAPS",
            help="Stack prob, H, V (3, H, W) or background, nucleus, H, V (4, H, W) as TIFF, "
            "OME-TIFF or .npy; or .npz with prob, hv and, if there are types, types.",
        ),
    ],
    output: Output,
    image: Annotated[
        Path | None, typer.Option(help="Picture to draw the overlay on; without it, prob.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="PNG to write with every nucleus outlined.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="JSON to write: box, centroid, contour, type of each nucleus."),
    ] = None,
    report: Report = None,
    axes: Annotated[
        str | None, typer.Option(help="Axes of the stack in the file, e.g. YXC.")
    ] = None,
    style: Annotated[Style, typer.Option(help="Whose arithmetic and defaults.")] = Style.hovernet,
    activation: Annotated[
        Activation, typer.Option(help="Still to be applied to prob, if that holds logits.")
    ] = Activation.none,
    threshold: Annotated[
        float | None,
        typer.Option(help="Smallest probability of foreground.", show_default="the style's"),
    ] = None,
    border_threshold: Annotated[
        float, typer.Option(help="From here on a pixel is border between nuclei.")
    ] = 0.4,
    ksize: Annotated[
        int | None,
        typer.Option(help="Side of the derivative's kernel.", show_default="the style's"),
    ] = None,
    radius: Annotated[int, typer.Option(help="Pixels that markers are opened by.")] = 2,
    footprint: Annotated[
        Footprint | None,
        typer.Option(help="What markers are opened with.", show_default="the style's"),
    ] = None,
    min_size: Annotated[
        int, typer.Option(help="Regions and markers of fewer pixels are dropped.")
    ] = 10,
    sigma: Annotated[float, typer.Option(help="Of the energy's Gaussian (monai).")] = 1.0,
    connectivity: Annotated[
        int, typer.Option(help="Of the watershed: 1 over edges, 2 over corners, too.")
    ] = 1,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(help="What H and V are scaled by.", show_default="their own"),
    ] = None,
    gradient_range: Annotated[
        tuple[float, float] | None,
        typer.Option(help="What their derivatives are scaled by.", show_default="their own"),
    ] = None,
    out_dtype: OutDtype = None,
    device: Where = Device.auto,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """HoVer maps and a probability to a label image."""
    options = {
        "style": style.value,
        "activation": None if activation is Activation.none else activation.value,
        "threshold": threshold,
        "border_threshold": border_threshold,
        "ksize": ksize,
        "radius": radius,
        "footprint": None if footprint is None else footprint.value,
        "min_size": min_size,
        "sigma": sigma,
        "connectivity": connectivity,
        "value_range": value_range,
        "gradient_range": gradient_range,
        "out_dtype": out_dtype,
    }
    run = Run((maps, image), output, report, device, threads, overwrite, quiet)
    job = LabelJob(run, image, overlay, out_dtype)
    types: list[Any] = []

    def read() -> Inputs:
        given = read_hover_maps(maps, axes=axes)
        types.append(given.types)
        prob = given.prob if given.prob.ndim == 2 else given.prob[1]
        noted = {"maps": str(maps), "axes": given.axes}
        return Inputs((given.prob, given.hv), prob, prob.shape, noted)

    def write_table(labels: Any) -> bytes:
        rows = cellpost.instance_table(labels, types[0]).to_dicts()
        nuclei = {row.pop("label"): {**row, "contour": row["contour"].tolist()} for row in rows}
        return json.dumps({"mag": None, "nuc": nuclei}).encode()

    extra = {} if table is None else {table: write_table}
    job.run("flooding", cellpost.hover_watershed, options, read, count_nuclei, extra)


def count_nuclei(found: cellpost.HoverReport) -> tuple[int, dict[str, int]]:
    """Nuclei, and what was dropped."""
    return found.n_labels, {
        "small regions": found.n_small_regions,
        "small markers": found.n_small_markers,
        "regions without a marker": found.n_unmarked,
    }
