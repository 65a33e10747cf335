"""One run of a command: files in, a call, files out; progress, errors and exit codes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeAlias

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import cellpost
from cellpost.io import check_output, read_image, write_labels, write_overlay
from cellpost.io.images import check_form
from cellpost.io.output import atomic_file
from cellpost.io.overlay import check_picture


class Device(str, Enum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Steps:
    """What a user at a terminal sees of a run."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, counted="")

    def say(self, description: str) -> None:
        """Begin a step of unknown length."""
        self._bar.tasks[0].total = None  # `update` takes None for "as it was"
        self._bar.update(self._task, description=description, counted="", refresh=True)

    def count(self, done: int, total: int) -> None:
        """Say how much of the step is done."""
        counted = f"{done}/{total}"
        last = done == total
        self._bar.update(self._task, completed=done, total=total, counted=counted, refresh=last)


@dataclass(frozen=True)
class Run:
    """What all commands on files have: files in and out, where and how."""

    inputs: tuple[Path | None, ...]
    output: Path | None  #: None: what comes out is printed
    report: Path | None
    device: Device
    threads: int | None
    overwrite: bool
    quiet: bool

    @contextmanager
    def steps(self) -> Iterator[Steps]:
        """Show which step runs, and for how long, on a terminal and nowhere else.

        Whatever goes wrong meanwhile ends as `one_line_errors` says.
        """
        console = Console(stderr=True)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[counted]}"),
            TimeElapsedColumn(),
        )
        hidden = self.quiet or not console.is_terminal
        bar = Progress(*columns, console=console, transient=True, disable=hidden)
        with one_line_errors(), bar:
            yield Steps(bar)

    def check(self, *more: Path | None) -> None:
        """Refuse what cannot work before anything is read; `more` are further files to write."""
        outputs = [path for path in (self.output, self.report, *more) if path is not None]
        read = {path.resolve() for path in self.inputs if path is not None}
        names = [*(path.resolve() for path in outputs), *read]
        if clash := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{clash} is named twice; files read and written must differ")
        for path in outputs:
            check_output(path, overwrite=self.overwrite)
        if self.threads is not None:
            if self.threads < 1:
                raise ValueError(f"--threads: expected 1 or more; got {self.threads}")
            cellpost.set_num_threads(self.threads)

    def write_report(self, note: Mapping[str, Any], seconds: float) -> None:
        """Write the report, if one is wanted."""
        if self.report is not None:
            noted = {"version": cellpost.__version__, **note, "seconds": round(seconds, 4)}
            with atomic_file(self.report) as file:
                file.write(json.dumps(noted, indent=2).encode() + b"\n")

    def warn(self, *messages: str) -> None:
        """Print what may not be as it should, each in a line on stderr."""
        if not self.quiet:
            for message in messages:
                typer.echo(f"cellpost: warning: {' '.join(message.split())}", err=True)

    def say(self, *lines: str) -> None:
        """Print what came out."""
        if not self.quiet:
            for line in lines:
                typer.echo(line)


@dataclass(frozen=True)
class Inputs:
    """What a network's output file holds, or an image's."""

    arrays: tuple[Any, ...]  #: what the function takes; a list of arrays counts as one
    picture: Any  #: what an overlay is drawn on without --image
    shape: tuple[int, ...]  #: of the labels
    noted: dict[str, Any]  #: which file and which part of it, for the report


@dataclass(frozen=True)
class LabelJob:
    """From a file to labels in a file, with what a user may want besides."""

    files: Run
    image: Path | None
    overlay: Path | None
    out_dtype: str | None

    @property
    def output(self) -> Path:
        """The label image."""
        assert self.files.output is not None  # each command that makes labels has one
        return self.files.output

    def run(
        self,
        doing: str,
        function: Callable[..., Any],
        options: dict[str, Any],
        read: Callable[[], Inputs],
        count: Callable[[Any], tuple[int, dict[str, int]]],
        extra: Mapping[Path, Callable[[Any], bytes]] = MappingProxyType({}),
        prepare: Callable[[Steps], tuple[str, Callable[..., Any]]] | None = None,
    ) -> None:
        """Check, read, compute, write, and say what came out.

        `count` gives the number of cells and of what was dropped from the function's report;
        `extra` are further files, with what makes their content from the labels. `prepare` says
        where is computed, and gives what is called there for labels and report; without it that is
        `function`, on the device that the user names.
        """
        files = self.files
        with files.steps() as steps:
            with before_the_work():
                steps.say("checking")
                self._check(list(extra))
                place, call = prepare(steps) if prepare else _runner(files.device, function)
                steps.say("reading")
                given = read()
                check_form(self.output, len(given.shape), self.out_dtype)
                picture = given.picture if self.image is None else read_image(self.image)
                if self.overlay is not None:
                    check_picture(picture, given.shape)
            steps.say(f"{doing} on {place}")
            start = time.perf_counter()
            labels, found = call(*given.arrays, **options)
            seconds = time.perf_counter() - start
            steps.say(f"writing {self.output.name}")
            n, dropped = count(found)
            note = {
                "function": function.__name__,
                **given.noted,
                "device": place,
                "parameters": options,
                "n_cells": n,
                "report": asdict(found),
            }
            write_labels(self.output, labels, metadata=note, dtype=self.out_dtype)
            if self.overlay is not None:
                steps.say(f"writing {self.overlay.name}")
                write_overlay(self.overlay, picture, labels)
            for path, make in extra.items():
                steps.say(f"writing {path.name}")
                with atomic_file(path) as file:
                    file.write(make(labels))
            files.write_report(note, seconds)
        size = " x ".join(map(str, labels.shape))
        files.say(
            f"{self.output}: {n} cells in {size} pixels, {seconds:.3f} s on {place}",
            "dropped: " + ", ".join(f"{k} {why}" for why, k in dropped.items()),
        )

    def _check(self, extra: list[Path]) -> None:
        self.files.check(self.overlay, *extra)
        if self.image is not None and self.overlay is None:
            raise ValueError("--image is what --overlay draws on: name a PNG with --overlay")
        if self.overlay is not None and self.overlay.suffix.lower() != ".png":
            raise ValueError(f"--overlay {self.overlay}: expected a name that ends in .png")


Moves: TypeAlias = tuple[Callable[[Any], Any], Callable[[Any], Any]]


def where_to_compute(device: Device) -> tuple[str, Moves | None]:
    """Choose: the place's name and, for the GPU, what puts an array there and gets it back."""
    if device is Device.cpu:
        return "cpu", None
    state = cellpost.info()
    moves = _gpu_arrays() if state["cuda_usable"] else None
    if moves is not None:
        return "cuda", moves
    if device is Device.cuda:
        why = state["cuda_reason"] or "neither torch nor cupy can put arrays on the GPU"
        raise ValueError(f"--device cuda: {why}")
    return "cpu", None


def _runner(device: Device, function: Callable[..., Any]) -> tuple[str, Callable[..., Any]]:
    """Choose where to compute: its name, and the function there with NumPy arrays in and out."""

    def here(*arrays: Any, **options: Any) -> Any:
        return function(*arrays, **options, return_report=True)

    place, moves = where_to_compute(device)
    if moves is None:
        return place, here
    put, get = moves

    def move(array: Any) -> Any:
        return [put(part) for part in array] if isinstance(array, list) else put(array)

    def there(*arrays: Any, **options: Any) -> Any:
        labels, found = here(*map(move, arrays), **options)
        return get(labels), found

    return place, there


def _gpu_arrays() -> Moves | None:
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
def before_the_work() -> Iterator[None]:
    """Count it as wrong usage if the file system refuses."""
    try:
        yield
    except OSError as error:
        raise ValueError(str(error)) from error


@contextmanager
def one_line_errors() -> Iterator[None]:
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
