"""Options that several commands have, each once."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import typer
from typer.core import TyperCommand

from cellpost.cli.job import Device

Output: TypeAlias = Annotated[
    Path,
    typer.Option("--output", "-o", help="Label image to write: .tif, .png or .npy."),
]
Report: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="JSON to write: options, time, what came out, what was dropped."),
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


# ---- of tiles -----------------------------------------------------------------------------------


class Window(str, Enum):
    """How tiles are weighted."""

    gaussian = "gaussian"
    constant = "constant"
    cosine = "cosine"
    sigmoid = "sigmoid"
    core = "core"


class Layout(str, Enum):
    """Where tiles lie."""

    sliding = "sliding"
    fixed = "fixed"
    nonoverlap = "nonoverlap"
    halo = "halo"


Overlap: TypeAlias = Annotated[
    list[float] | None,
    typer.Option(
        metavar="SHARE",
        help="Share of a tile that the next one covers again; one number, or one per axis.",
        show_default="0.6",
    ),
]
OverlapPx: TypeAlias = Annotated[
    list[int] | None, typer.Option(metavar="PIXELS", help="The same in pixels.", show_default=False)
]
Shape: TypeAlias = Annotated[
    list[int] | None,
    typer.Option(
        metavar="H W",
        help="Of the whole, or D H W.",
        show_default="the file's, or up to the last tile",
    ),
]
Stride: TypeAlias = Annotated[
    list[int] | None,
    typer.Option(metavar="PIXELS", help="From tile to tile, instead.", show_default=False),
]
WhereTilesLie: TypeAlias = Annotated[
    Layout,
    typer.Option(
        help="Where tiles lie; the last ones end with the whole (sliding, halo) or may not."
    ),
]
HaloPx: TypeAlias = Annotated[
    list[int] | None,
    typer.Option(metavar="PIXELS", help="Margin around each core, with --layout halo."),
]
Weights: TypeAlias = Annotated[Window, typer.Option(help="What the pixels of a tile weigh.")]

T = TypeVar("T")


def per_axis(values: Sequence[T] | None) -> Any:
    """Give what Python's functions take: nothing, one number, or one per axis."""
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


class NumbersCommand(TyperCommand):
    """A command whose options that may be repeated also take several numbers: --shape 512 512."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the option again before each further number."""
        repeated = {
            name
            for parameter in self.params
            if getattr(parameter, "multiple", False)
            for name in parameter.opts
        }
        spelled: list[str] = []
        option = last = ""  # the one that a number would belong to, and its last value so far
        for argument in args:
            name, _, value = argument.partition("=")
            if name in repeated:
                option, last = name, value
            elif option and (not last or (_is_number(last) and _is_number(argument))):
                spelled += [option] if last else []
                last = argument
            else:
                option = ""
            spelled.append(argument)
        return super().parse_args(ctx, spelled)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
