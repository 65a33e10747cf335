"""The ``cellpost`` command.

Exit codes: 0 all went well; 1 computing or writing failed; 2 the command line or an input file is
not usable, found before any work. An error is one line on stderr.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import cellpost
from cellpost.demo import run_demo
from cellpost.io import check_output, read_image, read_maps, write_labels, write_overlay
from cellpost.io.images import check_form
from cellpost.io.output import atomic_file
from cellpost.io.overlay import check_picture

app = typer.Typer(
    name="cellpost",
    help="Cell-segmentation network outputs to label images. "
    "Exit codes: 0 done, 1 computing or writing failed, 2 bad usage or input file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


class Device(str, Enum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


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
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Label image to write: .tif, .png or .npy."),
    ],
    image: Annotated[
        Path | None, typer.Option(help="Picture to draw the overlay on; without it, the logit.")
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(help="PNG to write with every cell outlined (a volume's middle plane)."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="JSON to write: options, time, what each filter dropped."),
    ] = None,
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
    out_dtype: Annotated[
        str | None,
        typer.Option(help="Integer type in the file.", show_default="uint16 if it fits, or uint32"),
    ] = None,
    device: Annotated[
        Device, typer.Option(help="auto: the GPU if it, and torch or cupy, can be used.")
    ] = Device.auto,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="all")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False,
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
    with _one_line_errors(), _progress(quiet) as step:
        with _before_the_work():
            step("checking")
            outputs = [path for path in (output, overlay, report) if path is not None]
            names = [path.resolve() for path in (*outputs, maps, image) if path is not None]
            if clash := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(f"{clash} is named twice; files read and written must differ")
            for path in outputs:
                check_output(path, overwrite=overwrite)
            if image is not None and overlay is None:
                raise ValueError("--image is what --overlay draws on: name a PNG with --overlay")
            if overlay is not None and overlay.suffix.lower() != ".png":
                raise ValueError(f"--overlay {overlay}: expected a name that ends in .png")
            if threads is not None:
                cellpost.set_num_threads(threads)
            place, run = _runner(device)
            step("reading")
            given = read_maps(maps, axes=axes)
            check_form(output, given.cellprob.ndim, out_dtype)
            picture = given.cellprob if image is None else read_image(image)
            if overlay is not None:
                check_picture(picture, given.cellprob.shape)
        step(f"following flows on {place}")
        start = time.perf_counter()
        labels, found = run(given.dP, given.cellprob, **options)
        seconds = time.perf_counter() - start
        step(f"writing {output.name}")
        note = {
            "function": "follow_flows",
            "maps": str(maps),
            "axes": given.axes,
            "device": place,
            "parameters": options,
            "report": asdict(found),
        }
        write_labels(output, labels, metadata=note, dtype=out_dtype)
        if overlay is not None:
            step(f"writing {overlay.name}")
            write_overlay(overlay, picture, labels)
        if report is not None:
            noted = {"version": cellpost.__version__, **note, "seconds": round(seconds, 4)}
            with atomic_file(report) as file:
                file.write(json.dumps(noted, indent=2).encode() + b"\n")
    if not quiet:
        size = " x ".join(map(str, labels.shape))
        typer.echo(f"{output}: {found.n_labels} cells in {size} pixels, {seconds:.3f} s on {place}")
        dropped = {
            "too large": found.n_too_large,
            "bad flow": found.n_bad_flow,
            "too small": found.n_too_small,
            "nested": found.n_nested,
        }
        typer.echo("dropped: " + ", ".join(f"{n} {why}" for why, n in dropped.items()))


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
    with _one_line_errors():
        if image is not None and labels is None:
            raise ValueError(
                "--image needs --labels: there is no network here that could find them"
            )
        console = Console(soft_wrap=True, highlight=False, markup=False)
        run_demo(output_dir, console, image=image, labels=labels, noise=noise, seed=seed)


def _runner(device: Device) -> tuple[str, Callable[..., Any]]:
    """Choose where to compute: its name, and `follow_flows` there with NumPy arrays in and out."""

    def on_cpu(dP: Any, cellprob: Any, **options: Any) -> Any:
        return cellpost.follow_flows(dP, cellprob, **options, return_report=True)

    if device is Device.cpu:
        return "cpu", on_cpu
    state = cellpost.info()
    move = _gpu_arrays() if state["cuda_usable"] else None
    if move is not None:
        put, get = move

        def on_cuda(dP: Any, cellprob: Any, **options: Any) -> Any:
            labels, found = on_cpu(put(dP), put(cellprob), **options)
            return get(labels), found

        return "cuda", on_cuda
    if device is Device.cuda:
        why = state["cuda_reason"] or "neither torch nor cupy can put arrays on the GPU"
        raise ValueError(f"--device cuda: {why}")
    return "cpu", on_cpu


def _gpu_arrays() -> tuple[Callable[[Any], Any], Callable[[Any], Any]] | None:
    """Find functions that put an array on the GPU and get it back, from torch or else cupy."""
    try:
        import torch

        if torch.cuda.is_available():
            return (
                lambda array: torch.tensor(np.ascontiguousarray(array), device="cuda"),
                lambda tensor: tensor.cpu().numpy(),
            )
    except ImportError:
        pass
    try:
        import cupy

        if cupy.cuda.runtime.getDeviceCount() > 0:
            return cupy.asarray, cupy.asnumpy
    except Exception:  # no cupy, or one without its driver: it raises errors of its own
        pass
    return None


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show which step runs, and for how long, on a terminal and nowhere else."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("", total=None)
        yield lambda description: bar.update(task, description=description, refresh=True)


@contextmanager
def _before_the_work() -> Iterator[None]:
    """Count it as wrong usage if the file system refuses."""
    try:
        yield
    except OSError as error:
        raise ValueError(str(error)) from error


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """End with one line on stderr and an exit code, whatever goes wrong.

    What the caller got wrong (ValueError, TypeError) is 2, anything else 1.
    """

    def fail(error: Exception, code: int) -> NoReturn:
        message = " ".join(str(error).split()) or type(error).__name__
        typer.echo(f"cellpost: error: {message}", err=True)
        raise typer.Exit(code) from None

    try:
        yield
    except (ValueError, TypeError) as error:
        fail(error, 2)
    except Exception as error:
        fail(error, 1)
