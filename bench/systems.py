"""The five published systems, each as its paper does and as cellpost does.

    python bench/systems.py [--quick] [--json FILE] [--markdown [FILE]] [--show FILE]

All outputs of networks are simulated: `cellpost.synthetic` makes them from the truth of each tile,
with noise. So scores tell what post-processing costs, not how well networks of these systems are.

Images: real nuclei, tiled; synthetic scenes of four modalities; a synthetic slide of the size of
the largest one of the NeurIPS 2022 challenge. Each row is run in a process of its own.

- F1 at IoU 0.5; AP is the mean over IoU 0.50 to 0.95. Where ids are repeated, windows are first
  told apart: else hardly any cell would match.
- cut: found cells that end along a straight line at a seam of the paper's way, and how much oftener
  cells end at seams than beside them (about 1: only by chance).
- harms: true cells at these seams that are split, those that are merged, and those that are lost,
  as bench/seams.py defines it; one that is split and merged counts twice.
- ids repeated: ids that two or more true cells have, in pieces that do not touch.
- time: wall time of the recipe, less that spent in calls of the simulated networks, which is told
  beside it. Tiles are read ahead and blended in threads beside the network: that much of the work
  may hide behind it, as it would behind a real one.
- memory: the process's resident set at its peak: Python, the image (8 bytes a pixel, as simulated
  networks see it; MEDIAR's slide is read from a file), simulated networks and result included.
- allowed: what the challenge's time tolerance is.

On the slide MEDIAR's two networks and three views would have to see 36 times its pixels, which are
too many to simulate. There the image is one network's maps, simulated once, and what stands for the
network hands its tiles of them on: reading, blending 512-pixel tiles that overlap by 0.6, cleaning,
following flows and quality control are measured, the mean over views and networks is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import records
import seams
import systems_runs
import workload
from rich import box
from rich.console import Console
from rich.table import Table
from systems_runs import SYSTEMS, Row, Task

import cellpost
from cellpost.synthetic import Scene

ROOT = Path(__file__).resolve().parents[1]
MODALITIES = ("nuclei", "epithelium", "bacteria", "neurons")
DIAMETER = 24
TITLE = "five systems: post-processing of SIMULATED network outputs"
# Those that see each pixel very often have smaller images; Sartorius' are of 520 x 704.
SHAPES = {"mediar": (1024, 1024), "sartorius": (520, 704)}
SHAPE, REAL_SHAPE, QUICK_SHAPE = (2048, 2048), (2048, 2048), (512, 512)
SLIDE_SHAPE, QUICK_SLIDE_SHAPE = (8415, 10496), (1052, 1312)
NOT_RUN = {
    ("sartorius", "slide"): "not run: its networks see each pixel some 80 times",
}
MARKS = ("<!-- table: written by bench/systems.py -->\n", "<!-- end of the table -->\n")


def published_seconds(row: Row) -> float | None:
    """What VSM's authors measured, networks included: by megapixels and instances."""
    if row.system != "vsm":
        return None
    return 2.48 * row.shape[0] * row.shape[1] / 1e6 + 0.0037 * row.n_true + 6.97


# ---- what is run --------------------------------------------------------------------------------


def shape_of(system: str, image: str, quick: bool) -> tuple[int, int]:
    """Size of an image for a system."""
    if image == "slide":
        return QUICK_SLIDE_SHAPE if quick else SLIDE_SHAPE
    if quick:
        return QUICK_SHAPE
    if image == "real nuclei":
        return SHAPES[system] if system == "sartorius" else REAL_SHAPE
    return SHAPES.get(system, SHAPE)


def truth_of(image: str, shape: tuple[int, int]) -> np.ndarray:
    """Labels 1..n."""
    if image == "real nuclei":
        labels = seams.image_of("nuclei", max(shape))[: shape[0], : shape[1]]
    elif image == "slide":
        labels = Scene(shape, "nuclei", diameter=DIAMETER, density=0.389, seed=1).labels[...]
    else:
        labels = Scene(shape, image, diameter=DIAMETER, seed=1).labels[...]
    return cellpost.relabel(np.ascontiguousarray(labels, np.int32))


def tasks(quick: bool, folder: Path) -> Iterator[Task]:
    """All rows' tasks; files are made when they are asked for."""
    for image in ("real nuclei", *MODALITIES, "slide"):
        for system in SYSTEMS:
            if (system, image) in NOT_RUN or (quick and image in MODALITIES):
                continue
            shape = shape_of(system, image, quick)
            labels = folder / f"{image}-{shape[0]}.npy"
            if not labels.exists():
                np.save(labels, truth_of(image, shape))
            maps = None
            if (system, image) == ("mediar", "slide"):
                maps = str(folder / "maps.npy")
                systems_runs.make_maps(str(labels), maps)
            for paper in (True, False):
                yield Task(system, paper, image, str(labels), maps, quick)


def run(task: Task) -> Row:
    """In a process of its own."""
    command = [sys.executable, str(ROOT / "bench/systems_runs.py"), json.dumps(asdict(task))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{task}:\n{done.stderr}")
    return Row(**json.loads(done.stdout))


def rows_of(quick: bool, repeats: int) -> Iterator[Row]:
    """The table's rows: of each task the fastest run; several only where no network is run."""
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks(quick, Path(folder)):
            n = repeats if task.maps else 1
            yield min((run(task) for _ in range(n)), key=lambda row: row.seconds)


# ---- the table ----------------------------------------------------------------------------------

HEADS = ("system", "mode", "F1", "AP", "cells", "cut at seams", "harms at seams", "ids repeated")
HEADS += ("time", "(networks)", "allowed", "memory", "paper's own time")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.0f} ms"


def _cells(row: Row) -> list[str]:
    has_seams = row.n_at_seams > 0
    ratio = "" if row.seam_ratio is None else f" ({row.seam_ratio:.1f}x)"
    published = published_seconds(row)
    return [
        f"{row.system} {row.shape[0]} x {row.shape[1]}",
        row.mode + ("*" if row.whole_maps else ""),
        f"{row.f1:.4f}",
        f"{row.ap:.4f}",
        f"{row.n_found:,} of {row.n_true:,}",
        f"{row.n_cut:,}{ratio}" if has_seams else "no seams",
        f"{row.n_harms_at_seams:,} on {row.n_at_seams:,}" if has_seams else "",
        f"{row.n_repeated_ids:,}",
        _time(row.seconds),
        "" if row.whole_maps else f"({_time(row.network_seconds)})",
        f"{'in' if row.within_tolerance else 'OVER'} {row.tolerance_seconds:.0f} s",
        f"{row.peak_bytes / 1e9:.2f} GB",
        "" if published is None else f"{published:.0f} s",
    ]


def _by_image(rows: list[Row]) -> dict[str, list[list[str]]]:
    """Lines for each image."""
    lines: dict[str, list[list[str]]] = {}
    for row in rows:
        lines.setdefault(row.image, []).append(_cells(row))
    return lines


def _not_run(image: str) -> str:
    return "; ".join(f"{one} {why}" for (one, where), why in NOT_RUN.items() if where == image)


def tables_of(rows: list[Row]) -> Iterator[Table]:
    """For the terminal."""
    for image, lines in _by_image(rows).items():
        table = Table(title=f"{TITLE}: {image}", caption=_not_run(image), box=box.SIMPLE)
        for head in HEADS:
            table.add_column(head, justify="left" if head in HEADS[:2] else "right")
        for line in lines:
            table.add_row(*line)
        yield table


def markdown_of(rows: list[Row], about: dict) -> str:
    """For docs/systems.md."""
    hardware = about["hardware"]
    loads = [row.load_average for row in rows]
    out = [
        f"Measured {about['date'][:10]} with `{about['command']}` on {hardware['cpu']}, "
        f"{hardware['cpus']} cores, shared with other work: load average {min(loads):.1f} to "
        f"{max(loads):.1f}. **All outputs of networks are simulated.** * from maps of the whole "
        "image, made before.\n"
    ]
    for image, lines in _by_image(rows).items():
        out += [f"### {image[0].upper()}{image[1:]}\n", f"| {' | '.join(HEADS)} |"]
        out.append("|" + " --- |" * 2 + " ---: |" * (len(HEADS) - 2))
        out += [f"| {' | '.join(line)} |" for line in lines]
        out += ["", *([f"{_not_run(image)}.\n"] if _not_run(image) else [])]
    return "\n".join(out)


def write_markdown(path: Path, text: str) -> None:
    """Replace what is between the marks."""
    page = path.read_text()
    if not all(mark in page for mark in MARKS):
        raise ValueError(f"{path}: expected the marks {MARKS}; got a page without")
    before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
    path.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


# ---- the command --------------------------------------------------------------------------------


def main(argv: list[str]) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small images, smaller windows")
    parser.add_argument("--repeats", type=int, default=3, help="of rows from maps: least time")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    parser.add_argument(
        "--markdown",
        type=Path,
        nargs="?",
        const=ROOT / "docs/systems.md",
        help="put the table into this page (docs/systems.md if none is named)",
    )
    parser.add_argument("--show", type=Path, help="run nothing: the rows of a file of --json")
    options = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 220)
    if options.show:
        about = json.loads(options.show.read_text())
        rows = [Row(**row) for row in about["systems"]]
    else:
        about = records.environment()  # the tree may change while this runs
        about["command"] = " ".join(["python", "bench/systems.py", *argv])
        about["real_nuclei"] = workload.make_labels(str(seams.CORNER)).source
        rows = []
        for row in rows_of(options.quick, options.repeats):
            done = f"{row.image}, {row.system}, {row.mode}: {_time(row.seconds)}"
            print(done, file=sys.stderr, flush=True)
            rows.append(row)
    for table in tables_of(rows):
        console.print(table)
    console.print("* from maps of the whole image, made before; paper's own time: with networks")
    if options.json:
        content = {**about, "noise": systems_runs.NOISE, "systems": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.markdown:
        write_markdown(options.markdown, markdown_of(rows, about))
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
