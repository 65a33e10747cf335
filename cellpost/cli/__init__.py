"""The ``cellpost`` command.

Exit codes: 0 all went well; 1 computing or writing failed; 2 the command line or an input file is
not usable, found before any work. An error is one line on stderr.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import cellpost
from cellpost.cli.evaluate import evaluate
from cellpost.cli.flows import flows
from cellpost.cli.hover import hover
from cellpost.cli.job import one_line_errors
from cellpost.cli.merge import merge
from cellpost.cli.options import NumbersCommand
from cellpost.cli.paste import paste
from cellpost.cli.segment import segment
from cellpost.cli.stitch import stitch
from cellpost.demo import run_demo

app = typer.Typer(
    name="cellpost",
    help="Cell-segmentation network outputs to label images. "
    "Exit codes: 0 done, 1 computing or writing failed, 2 bad usage or input file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


for command in (flows, hover, paste, segment, stitch, merge):
    app.command(cls=NumbersCommand)(command)
app.command("eval", cls=NumbersCommand)(evaluate)


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
