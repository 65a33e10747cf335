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
from typing import Any, NoReturn

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


@dataclass(frozen=True)
class Inputs:
    """What a network's output file holds."""

    arrays: tuple[Any, ...]  #: what the function takes; a list of arrays counts as one
    picture: Any  #: what an overlay is drawn on without --image, of the labels' shape
    noted: dict[str, Any]  #: which file and which part of it, for the report


@dataclass(frozen=True)
class Job:
    """From a file to labels in a file, with what a user may want besides."""

    source: Path
    output: Path
    image: Path | None
    overlay: Path | None
    report: Path | None
    out_dtype: str | None
    device: Device
    threads: int | None
    overwrite: bool
    quiet: bool

    def run(
        self,
        doing: str,
        function: Callable[..., Any],
        options: dict[str, Any],
        read: Callable[[], Inputs],
        count: Callable[[Any], tuple[int, dict[str, int]]],
        extra: Mapping[Path, Callable[[Any], bytes]] = MappingProxyType({}),
    ) -> None:
        """Check, read, compute, write, and say what came out.

        `count` gives the number of cells and of what was dropped from the function's report;
        `extra` are further files, with what makes their content from the labels.
        """
        with one_line_errors(), _progress(self.quiet) as step:
            with _before_the_work():
                step("checking")
                self._check(list(extra))
                place, call = _runner(self.device, function)
                step("reading")
                given = read()
                check_form(self.output, given.picture.ndim, self.out_dtype)
                picture = given.picture if self.image is None else read_image(self.image)
                if self.overlay is not None:
                    check_picture(picture, given.picture.shape)
            step(f"{doing} on {place}")
            start = time.perf_counter()
            labels, found = call(*given.arrays, **options)
            seconds = time.perf_counter() - start
            step(f"writing {self.output.name}")
            note = {
                "function": function.__name__,
                **given.noted,
                "device": place,
                "parameters": options,
                "report": asdict(found),
            }
            write_labels(self.output, labels, metadata=note, dtype=self.out_dtype)
            if self.overlay is not None:
                step(f"writing {self.overlay.name}")
                write_overlay(self.overlay, picture, labels)
            for path, make in extra.items():
                step(f"writing {path.name}")
                with atomic_file(path) as file:
                    file.write(make(labels))
            if self.report is not None:
                noted = {"version": cellpost.__version__, **note, "seconds": round(seconds, 4)}
                with atomic_file(self.report) as file:
                    file.write(json.dumps(noted, indent=2).encode() + b"\n")
        if not self.quiet:
            size = " x ".join(map(str, labels.shape))
            n, dropped = count(found)
            typer.echo(f"{self.output}: {n} cells in {size} pixels, {seconds:.3f} s on {place}")
            typer.echo("dropped: " + ", ".join(f"{k} {why}" for why, k in dropped.items()))

    def _check(self, extra: list[Path]) -> None:
        """Refuse what cannot work before anything is read."""
        named = (self.output, self.overlay, self.report, *extra)
        outputs = [path for path in named if path is not None]
        read = [path for path in (self.source, self.image) if path is not None]
        names = [path.resolve() for path in (*outputs, *read)]
        if clash := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{clash} is named twice; files read and written must differ")
        for path in outputs:
            check_output(path, overwrite=self.overwrite)
        if self.image is not None and self.overlay is None:
            raise ValueError("--image is what --overlay draws on: name a PNG with --overlay")
        if self.overlay is not None and self.overlay.suffix.lower() != ".png":
            raise ValueError(f"--overlay {self.overlay}: expected a name that ends in .png")
        if self.threads is not None:
            if self.threads < 1:
                raise ValueError(f"--threads: expected 1 or more; got {self.threads}")
            cellpost.set_num_threads(self.threads)


def _runner(device: Device, function: Callable[..., Any]) -> tuple[str, Callable[..., Any]]:
    """Choose where to compute: its name, and the function there with NumPy arrays in and out."""

    def on_cpu(*arrays: Any, **options: Any) -> Any:
        return function(*arrays, **options, return_report=True)

    if device is Device.cpu:
        return "cpu", on_cpu
    state = cellpost.info()
    move = _gpu_arrays() if state["cuda_usable"] else None
    if move is not None:
        put, get = move

        def there(array: Any) -> Any:
            return [put(part) for part in array] if isinstance(array, list) else put(array)

        def on_cuda(*arrays: Any, **options: Any) -> Any:
            labels, found = on_cpu(*map(there, arrays), **options)
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
