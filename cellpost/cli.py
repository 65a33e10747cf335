"""The ``cellpost`` command.

Exit codes: 0 all went well; 1 computing or writing failed; 2 the command line or an input file is
not usable, found before any work. An error is one line on stderr.
"""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console

import cellpost
from cellpost._job import Device, Inputs, Job, one_line_errors
from cellpost._job_paste import Pasting
from cellpost.demo import run_demo
from cellpost.io import read_hover_maps, read_maps

app = typer.Typer(
    name="cellpost",
    help="Cell-segmentation network outputs to label images. "
    "Exit codes: 0 done, 1 computing or writing failed, 2 bad usage or input file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# ---- options that all commands on files have ----------------------------------------------------

Output: TypeAlias = Annotated[
    Path,
    typer.Option("--output", "-o", help="Label image to write: .tif, .png or .npy."),
]
Report: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="JSON to write: options, time, what each filter dropped."),
]
OutDtype: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Integer type in the file.", show_default="uint16 if it fits, or uint32"),
]
Where: TypeAlias = Annotated[
    Device, typer.Option(help="auto: the GPU if it, and torch or cupy, can be used.")
]
Threads: TypeAlias = Annotated[int | None, typer.Option(help="CPU threads.", show_default="all")]
Overwrite: TypeAlias = Annotated[bool, typer.Option("--overwrite", help="Replace files.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]


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


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cellpost {cellpost.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say it.")
    ] = False,
) -> None:
    """Cell-segmentation network outputs to label images."""


@app.command()
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
    job = Job(maps, output, image, overlay, report, out_dtype, device, threads, overwrite, quiet)

    def read() -> Inputs:
        given = read_maps(maps, axes=axes)
        noted = {"maps": str(maps), "axes": given.axes}
        return Inputs((given.dP, given.cellprob), given.cellprob, noted)

    def count(found: cellpost.FlowReport) -> tuple[int, dict[str, int]]:
        return found.n_labels, {
            "too large": found.n_too_large,
            "bad flow": found.n_bad_flow,
            "too small": found.n_too_small,
            "nested": found.n_nested,
        }

    job.run("following flows", cellpost.follow_flows, options, read, count)


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


@app.command()
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
    job = Job(maps, output, image, overlay, report, out_dtype, device, threads, overwrite, quiet)
    types: list[Any] = []

    def read() -> Inputs:
        given = read_hover_maps(maps, axes=axes)
        types.append(given.types)
        prob = given.prob if given.prob.ndim == 2 else given.prob[1]
        noted = {"maps": str(maps), "axes": given.axes}
        return Inputs((given.prob, given.hv), prob, noted)

    def count(found: cellpost.HoverReport) -> tuple[int, dict[str, int]]:
        return found.n_labels, {
            "small regions": found.n_small_regions,
            "small markers": found.n_small_markers,
            "regions without a marker": found.n_unmarked,
        }

    def write_table(labels: Any) -> bytes:
        rows = cellpost.instance_table(labels, types[0]).to_dicts()
        nuclei = {row.pop("label"): {**row, "contour": row["contour"].tolist()} for row in rows}
        return json.dumps({"mag": None, "nuc": nuclei}).encode()

    extra = {} if table is None else {table: write_table}
    job.run("flooding", cellpost.hover_watershed, options, read, count, extra)


class PasteStyle(str, Enum):
    """How crops are resized to their boxes."""

    detectron2 = "detectron2"
    torchvision = "torchvision"
    nearest = "nearest"


@app.command()
def paste(
    detections: Annotated[
        Path,
        typer.Argument(
            metavar="DETECTIONS",
            help=".npz with boxes (x0, y0, x1, y1), scores, masks and, if there are any, "
            "mask_boxes, class_ids, shape; or COCO's JSON with masks in run-length encoding.",
        ),
    ],
    output: Output,
    image: Annotated[
        Path | None, typer.Option(help="Picture to draw the overlay on; without it, black.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="PNG to write with every cell outlined.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="JSON to write: input row, score, class, box, area of each label."),
    ] = None,
    report: Report = None,
    shape: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="Of the image, where the file does not say it."),
    ] = None,
    image_id: Annotated[
        str | None, typer.Option(help="Which image of a JSON file of several.")
    ] = None,
    nms: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="First drop instances whose pixels overlap a better one's by more than this IoU.",
            show_default="none dropped",
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Smallest value of an instance's pixels.")] = 0.5,
    min_score: Annotated[float, typer.Option(help="Instances of a lower score are dropped.")] = 0.0,
    min_size: Annotated[
        int, typer.Option(help="Instances of fewer visible pixels are dropped.")
    ] = 0,
    style: Annotated[
        PasteStyle,
        typer.Option(help="How crops are resized; torchvision's way moves masks of whole pixels."),
    ] = PasteStyle.detectron2,
    out_dtype: OutDtype = None,
    device: Where = Device.auto,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Boxes, mask crops and scores to a label image."""
    options = {
        "threshold": threshold,
        "min_score": min_score,
        "min_size": min_size,
        "style": style.value,
        "nms": nms,
        "out_dtype": out_dtype,
    }
    job = Job(
        detections, output, image, overlay, report, out_dtype, device, threads, overwrite, quiet
    )
    work = Pasting(detections, shape, image_id)
    extra = {} if table is None else {table: work.table}
    job.run("pasting", work.paste_masks, options, work.read, work.count, extra)


@app.command()
def info() -> None:
    """Say what this build and this machine can do, and why CUDA is off if it is."""
    for key, value in cellpost.info().items():
        typer.echo(f"{key}: {', '.join(value) if isinstance(value, list) else value}")


@app.command()
def demo(
    image: Annotated[Path | None, typer.Option(help="Picture to draw on, with --labels.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="True labels to simulate a network's outputs from.")
    ] = None,
    noise: Annotated[
        float, typer.Option(min=0, help="Standard deviation of the noise (the signal is 5).")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    output_dir: Annotated[Path, typer.Option(help="Folder for the two files.")] = Path(),
) -> None:
    """Segment a real picture: prints cells and times, writes demo_masks.tif and demo_overlay.png.

    No network is run. Without --labels a stand-in for one (classical filters) makes the maps of
    scikit-image's tissue picture; with --labels they are simulated, and the F1 is printed.
    """
    with one_line_errors():
        if image is not None and labels is None:
            raise ValueError(
                "--image needs --labels: there is no network here that could find them"
            )
        console = Console(soft_wrap=True, highlight=False, markup=False)
        run_demo(output_dir, console, image=image, labels=labels, noise=noise, seed=seed)
