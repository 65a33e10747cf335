"""The `segment` command: an image and any network to a label image."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import cellpost
from cellpost.cli.flows import count_flows
from cellpost.cli.hover import count_nuclei
from cellpost.cli.job import Device, Inputs, LabelJob, Run, Steps, one_line_errors
from cellpost.cli.models import load_networks, model_files
from cellpost.cli.options import (
    OutDtype,
    Output,
    Overlap,
    OverlapPx,
    Overwrite,
    Quiet,
    Report,
    Threads,
    Weights,
    Window,
    per_axis,
)
from cellpost.cli.paste import count_pasted
from cellpost.io.images import read_pixels
from cellpost.segment_source import channel_axis_of


class Head(str, Enum):
    """What a network predicts."""

    flows = "flows"
    hover = "hover"
    instances = "instances"
    labels = "labels"


class Normalize(str, Enum):
    """How values are scaled."""

    none = "none"
    mediar = "mediar"
    vsm = "vsm"


class Average(str, Enum):
    """What of the cells' logit is averaged."""

    logits = "logits"
    probabilities = "probabilities"


class Beyond(str, Enum):
    """What is there beyond the image."""

    constant = "constant"
    edge = "edge"
    reflect = "reflect"
    wrap = "wrap"


# What makes the labels of each head, and so what --set can name; how its report is counted.
_HEADS: dict[Head, tuple[tuple[Any, ...], Any]] = {
    Head.flows: ((cellpost.follow_flows,), count_flows),
    Head.hover: ((cellpost.hover_watershed,), count_nuclei),
    Head.instances: ((cellpost.merge_detections, cellpost.paste_masks), count_pasted),
    Head.labels: ((cellpost.merge_detections, cellpost.paste_masks), count_pasted),
}
_NOT_TO_SET = ("out_dtype", "return_report", "return_index", "class_ids")


def segment(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="Picture as TIFF, OME-TIFF, PNG, JPEG or .npy.")
    ],
    model: Annotated[
        list[str],
        typer.Option(
            metavar="SPEC",
            help="Network: TorchScript (.pt, .pth, .ts), .onnx, or package.module:function, also "
            "from the working directory; several times for an ensemble.",
        ),
    ],
    output: Output,
    overlay: Annotated[
        Path | None, typer.Option(help="PNG to write: IMAGE with every cell outlined.")
    ] = None,
    report: Report = None,
    head: Annotated[Head, typer.Option(help="What the network predicts.")] = Head.flows,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Option of follow_flows, hover_watershed, or merge_detections and paste_masks, as "
            "the head has it: --set min_size=30. As JSON, else text.",
        ),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Of each network in the mean.", show_default="1"),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="Members of the network's dict that are the maps, in order."),
    ] = None,
    margin: Annotated[
        int,
        typer.Option(help="Pixels by which the network's maps are smaller, at each side."),
    ] = 0,
    tile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PIXELS",
            help="Side of the tiles, or one per axis; or train4ever, cell_size.",
            show_default="512",
        ),
    ] = None,
    overlap: Overlap = None,
    overlap_px: OverlapPx = None,
    batch_size: Annotated[int, typer.Option(help="Tiles that the network sees together.")] = 4,
    channel_axis: Annotated[
        int | None,
        typer.Option(
            help="Of the image, whose named channels come last.",
            show_default="the named one, or the one of at most 4",
        ),
    ] = None,
    normalize: Annotated[
        Normalize, typer.Option(help="Values as that network's training had them.")
    ] = Normalize.none,
    limits: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="To be 0 and 1.", show_default="measured"),
    ] = None,
    scale: Annotated[float, typer.Option(help="Resize the image by this for the network.")] = 1.0,
    model_diameter: Annotated[
        float | None,
        typer.Option(help="Of the cells of the network's training, in pixels, for cell_size."),
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="Views to average: flips, d4, sartorius, ...")
    ] = None,
    average: Annotated[
        Average, typer.Option(help="What of the cells' logit is averaged.")
    ] = Average.logits,
    window: Weights = Window.gaussian,
    window_sigma: Annotated[
        float, typer.Option(help="Of the Gaussian, as a share of the tile's side.")
    ] = 0.125,
    padding: Annotated[
        Beyond, typer.Option(help="What is beyond an image that is smaller than the tile.")
    ] = Beyond.constant,
    amp: Annotated[bool, typer.Option("--amp", help="Half precision where PyTorch can.")] = False,
    out_dtype: OutDtype = None,
    device: Annotated[
        Device,
        typer.Option(help="auto: the GPU if PyTorch, or ONNX Runtime for .onnx, can use it."),
    ] = Device.auto,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Image and network to a label image."""
    with one_line_errors():
        sides = _tile(tile)
        options = {
            "head": head.value,
            "tile": sides,
            "overlap": per_axis(overlap),
            "overlap_px": per_axis(overlap_px),
            "batch_size": batch_size,
            "normalize": None if normalize is Normalize.none else normalize.value,
            "limits": limits,
            "scale": scale,
            "model_diameter": model_diameter,
            "augment": augment,
            "average": average.value,
            "weights": weight or None,
            "window": window.value,
            "window_sigma": window_sigma,
            "padding": padding.value,
            "out_dtype": out_dtype,
            **_head_options(head, set_ or []),
        }
        inputs = (image, *model_files(model))
    run = Run(inputs, output, report, device, threads, overwrite, quiet)
    job = LabelJob(run, None, overlay, out_dtype)

    def prepare(steps: Steps) -> tuple[str, Callable[..., Any]]:
        steps.say("loading the network")
        networks = load_networks(
            model, device, threads, head=head.value, keys=key or None, amp=amp, margin=margin
        )

        def call(pixels: Any, **options: Any) -> Any:
            labels, found = cellpost.segment(
                networks.put(pixels),
                networks.models,
                **options,
                progress=steps.count,
                return_report=True,
            )
            return networks.get(labels), found

        return networks.place, call

    def read() -> Inputs:
        pixels, has_channels = read_pixels(image)
        told = pixels.ndim - 1 if channel_axis is None and has_channels else channel_axis
        axis = channel_axis_of(pixels.shape, told, len(sides) if isinstance(sides, tuple) else 2)
        options["channel_axis"] = axis
        picture = pixels if axis is None else np.moveaxis(pixels, axis, -1)
        shape = picture.shape if axis is None else picture.shape[:-1]
        noted = {
            "image": str(image),
            "models": model,
            "keys": key or None,
            "amp": amp,
            "margin": margin,
        }
        return Inputs((pixels,), picture, shape, noted)

    job.run("segmenting", cellpost.segment, options, read, _HEADS[head][1], prepare=prepare)


def _tile(values: Sequence[str] | None) -> Any:
    """Sides of the tiles, or how they are chosen."""
    if not values:
        return 512
    if list(values) in (["train4ever"], ["cell_size"]):
        return values[0]
    try:
        return per_axis([int(value) for value in values])
    except ValueError:
        raise ValueError(
            f"--tile: expected pixels, one number per axis, train4ever or cell_size; got "
            f"{' '.join(values)}"
        ) from None


def _head_options(head: Head, given: Sequence[str]) -> dict[str, Any]:
    """Options of what makes the labels, by name."""
    functions = _HEADS[head][0]
    known = {
        name
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in _NOT_TO_SET
    }
    options: dict[str, Any] = {}
    for text in given:
        name, is_set, value = text.partition("=")
        if not is_set or name not in known or name in options:
            where = " and ".join(function.__name__ for function in functions)
            raise ValueError(
                f"--set {text}: expected NAME=VALUE, each name once, with an option of {where}: "
                f"{', '.join(sorted(known))}"
            )
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options
