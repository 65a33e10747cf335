"""The `eval` command: predictions beside the truth, as a table of scores."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from cellpost import metrics
from cellpost.cli.job import Device, Run, Steps, before_the_work
from cellpost.cli.options import Overwrite, Quiet, Threads
from cellpost.io import read_labels
from cellpost.io.containers import Array
from cellpost.io.output import atomic_file

_ENDINGS = (".tif", ".tiff", ".png", ".npy")
_POOLED = "pooled"  # what the row of all images is called

# Columns of the CSV: those that every image has once, and those that each threshold has.
_ONCE = ("n_true", "n_pred", "count_error")
_EACH = (
    *("tp", "fp", "fn", "precision", "recall", "f1", "accuracy"),
    *("panoptic_quality", "mean_true_score", "mean_matched_score"),
)
_REST = ("average_precision", "aggregated_jaccard", "aggregated_jaccard_plus", "dice")

_SHOWN = {
    "n_true": "true",
    "n_pred": "pred",
    "tp": "tp",
    "fp": "fp",
    "fn": "fn",
    "precision": "prec.",
    "recall": "recall",
    "f1": "F1",
    "average_precision": "AP",
    "panoptic_quality": "PQ",
    "aggregated_jaccard": "AJI",
    "dice": "dice",
}
_NAME_WIDTH = 12  # of the images' names, at least

Pairs = list[tuple[str, Path, Path]]


def evaluate(
    true: Annotated[
        Path, typer.Argument(metavar="TRUE", help="Label image (TIFF, PNG, .npy), or a folder.")
    ],
    pred: Annotated[
        Path,
        typer.Argument(
            metavar="PRED", help="The same of what was found; in a folder, files of the same stems."
        ),
    ],
    table: Annotated[
        Path | None, typer.Option("--csv", help="Table to write: a row an image, then the pooled.")
    ] = None,
    iou: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SHARE", help="IoU that a match has to reach; several.", show_default="0.5"
        ),
    ] = None,
    exclude_border: Annotated[
        int,
        typer.Option(
            metavar="PIXELS", help="Leave out cells that reach into this margin of the image."
        ),
    ] = 0,
    report: Annotated[
        Path | None, typer.Option(help="JSON to write: options, time, all scores.")
    ] = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Score label images against the truth: cells, F1, AP, PQ, AJI, Dice; per image and pooled.

    AP: mean of tp / (tp + fp + fn) over IoU 0.50 to 0.95, whatever --iou is.

    Pooled scores are of all images' counts, no means of the images' scores.

    Where truth or prediction has no cells, scores are 0.
    """
    run = Run((true, pred), table, report, Device.cpu, threads, overwrite, quiet)
    thresholds = iou or [0.5]
    with run.steps() as steps:
        with before_the_work():
            steps.say("checking")
            run.check()
            if len(set(thresholds)) < len(thresholds):
                raise ValueError(f"--iou: expected each once; got {' '.join(map(str, thresholds))}")
            if exclude_border < 0:
                raise ValueError(f"--exclude-border: expected 0 or more; got {exclude_border}")
            pairs = _pairs(true, pred)
            if len(pairs) > 1 and _POOLED in (name for name, _, _ in pairs):
                raise ValueError(f"{true}: expected no image of the name of all: {_POOLED}")
        steps.say("comparing")
        start = time.perf_counter()
        found = metrics.evaluate(_read(pairs, steps), thresholds, exclude_border=exclude_border)
        seconds = time.perf_counter() - start
        names = [name for name, _, _ in pairs]
        rows = _rows(names, found)
        if table is not None:
            steps.say(f"writing {table.name}")
            with atomic_file(table) as file:
                file.write(_as_csv(rows, thresholds))
        note = {
            "function": "evaluate",
            "true": str(true),
            "pred": str(pred),
            "n_images": len(pairs),
            "parameters": {"iou": thresholds, "exclude_border": exclude_border},
            "images": rows[:-1],
            "pooled": rows[-1],
        }
        run.write_report(note, seconds)
    if not quiet:
        _show(rows, thresholds)
    if table is not None:
        run.say(f"{table}: {len(pairs)} images, {seconds:.3f} s")


# ---- files in -----------------------------------------------------------------------------------


def _pairs(true: Path, pred: Path) -> Pairs:
    """Name, truth and prediction of each image, by name."""
    if true.is_dir() != pred.is_dir() and true.exists() and pred.exists():
        kinds = ["a folder" if path.is_dir() else "a file" for path in (true, pred)]
        raise ValueError(f"{pred}: expected {kinds[0]}, as {true} is; got {kinds[1]}")
    if not true.is_dir():
        return [(_stem(pred), true, pred)]
    of_true, of_pred = _label_files(true), _label_files(pred)
    for folder, files, others in ((pred, of_pred, of_true), (true, of_true, of_pred)):
        if missing := sorted(set(others) - set(files)):
            named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise ValueError(
                f"{folder}: expected a file for each of the other folder's {len(others)}; got none "
                f"for {len(missing)} of them: {named}"
            )
    if not of_true:
        raise ValueError(f"{true}: expected files that end in {', '.join(_ENDINGS)}; got none")
    return [(stem, of_true[stem], of_pred[stem]) for stem in sorted(of_true)]


def _label_files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _ENDINGS or path.name.startswith("."):
            continue
        stem = _stem(path)
        if stem in files:
            raise ValueError(
                f"{folder}: expected one file of each stem; got {files[stem].name} and {path.name}"
            )
        files[stem] = path
    return files


def _stem(path: Path) -> str:
    """Name of a file without its ending, which may be .ome.tif."""
    stem = path.stem
    return stem[:-4] if stem.lower().endswith(".ome") else stem


def _read(pairs: Pairs, steps: Steps) -> Iterator[tuple[Array, Array]]:
    """Give one pair after the other."""
    for k, (_, true, pred) in enumerate(pairs):
        images = read_labels(true), read_labels(pred)
        if images[0].shape != images[1].shape:
            raise ValueError(
                f"{pred}: expected the shape of {true}, {images[0].shape}; got {images[1].shape}"
            )
        yield images
        steps.count(k + 1, len(pairs))


# ---- tables out ---------------------------------------------------------------------------------


def _rows(names: Sequence[str], found: metrics.Evaluation) -> list[dict[str, Any]]:
    """Give a row for each image and one of all; what has a threshold is a list."""
    order = (*_ONCE, *_EACH, *_REST)
    columns = [found.images[name].tolist() for name in order]
    rows = [
        {"image": name, **dict(zip(order, row, strict=True))}
        for name, *row in zip(names, *columns, strict=True)
    ]
    pooled = {name: found.pooled[name] for name in order}
    as_list = {n: v.tolist() if hasattr(v, "tolist") else v for n, v in pooled.items()}
    return [*rows, {"image": _POOLED, **as_list}]


def _as_csv(rows: Sequence[dict[str, Any]], thresholds: Sequence[float]) -> bytes:
    """Spell the table; with several thresholds their columns end in them: f1_0.75."""
    endings = [""] if len(thresholds) == 1 else [f"_{threshold!r}" for threshold in thresholds]
    each = [(name, k, name + ending) for k, ending in enumerate(endings) for name in _EACH]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *_ONCE, *(column for _, _, column in each), *_REST])
    for row in rows:
        scores = [row[name][k] for name, k, _ in each]
        once, rest = ([row[name] for name in names] for names in (_ONCE, _REST))
        writer.writerow([row["image"], *once, *scores, *rest])
    return text.getvalue().encode()


def _show(rows: Sequence[dict[str, Any]], thresholds: Sequence[float]) -> None:
    """Print a table for each threshold; numbers whole, however narrow the terminal is."""
    shown = rows[:1] if len(rows) == 2 else rows  # one image pools to itself
    names = [row["image"] for row in shown]
    longest = max(len("image"), *map(len, names))
    console = Console(highlight=False, markup=False)
    for k, threshold in enumerate(thresholds):
        columns = {
            heading: [_spelled(row[name], k) for row in shown] for name, heading in _SHOWN.items()
        }
        widths = [max(map(len, (heading, *column))) for heading, column in columns.items()]
        numbers = sum(widths) + len(widths)
        wanted = longest + numbers + len(widths)  # with two spaces between columns
        room = console.width if console.is_terminal else wanted
        for_names = min(longest, max(room - numbers, _NAME_WIDTH))
        table = Table(
            title=f"IoU {threshold:g}",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 0, 0, 1 if room >= wanted else 0),
        )
        table.add_column("image", no_wrap=True)
        for heading in columns:
            table.add_column(heading, justify="right", no_wrap=True)
        for row, name, *line in zip(shown, names, *columns.values(), strict=True):
            if row is rows[-1]:
                table.add_section()
            fits = len(name) <= for_names
            table.add_row(name if fits else name[: for_names - 2] + "..", *line)
        console.width = max(room, for_names + numbers)
        console.print(table)


def _spelled(value: Any, k: int) -> str:
    one = value[k] if isinstance(value, list) else value
    return f"{one:.3f}" if isinstance(one, float) else str(one)
