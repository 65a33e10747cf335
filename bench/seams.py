"""Which objects survive tiling: cellpost's ways to put label tiles together, beside others.

    python bench/seams.py [--side 2048] [--tile 128 256 512] [--overlap 0 0.1 0.25 0.5] [--json F]

An image's labels are cut into tiles, each with ids of its own, put together again and compared with
what they were. Images: real nuclei, and discs packed so densely that most touch. Tiles: "perfect",
cut from the labels; "perturbed", where each tile has each object moved by up to a pixel down and
right or up and left, as networks disagree about outlines.

Counted are the objects at seams: those that the border of a tile, or of the core that a tile
answers for, cuts. The result's object that has the most of a true object is its holder. A true
object is

- split if two or more objects of the result have at least a tenth of it each;
- merged if its holder has at least half of it, and at least half of another true object, too;
- lost if it is not split and no object of the result has at least half of it.

Ways: cellpost.stitch_labels with each of its policies; cellpost.join_fragments on tiles without
overlap; Cellpose's distributed merge, its functions from the numbering of blocks to the merging of
their faces, with the tiles' cores as the blocks; and pasting, where a later tile overwrites. "one
tile" is the image uncut, or perturbed as one tile: what no way can avoid, as for slivers that the
image's border leaves.

cellpost promises whole objects where the overlap is larger than the largest of them; other rows
have a star.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import ndimage

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # for simulate and its oracle

import peers
import records
import simulate
import workload

import cellpost
from cellpost.overlaps import count_pairs

SHIFTS = ((0, 0), (1, 1), (-1, -1))  # pixels that an object of a perturbed tile is off by
SPLIT, HELD = 0.1, 0.5  # shares of a true object
# Where the image begins in flipped and rotated copies, so that no seam lies where two of them meet:
# what a seam cuts there is its own mirror image.
CORNER = 37


@dataclass(frozen=True)
class Row:
    """What one way made of the objects at the seams of one grid."""

    image: str
    tiles: str
    tile: int
    overlap: float
    overlap_px: int
    largest_px: int
    promised: bool  # the overlap is larger than the largest object
    way: str
    n_at_seams: int
    n_split: int
    n_merged: int
    n_lost: int
    seconds: float | None


# ---- images and their tiles ---------------------------------------------------------------------


def image_of(kind: str, side: int) -> np.ndarray:
    """True labels, `side` pixels a side."""
    if kind == "nuclei":
        labels = workload.make_labels(str(side + CORNER)).labels
    else:
        discs = simulate.packed_discs((512, 512), radius=(6, 16), tries=4000, clip=1.15)
        around = (side + CORNER, side + CORNER)
        labels, _ = simulate.tile(discs, np.zeros((2, *discs.shape), np.float32), around)
    return cellpost.relabel(np.ascontiguousarray(labels[CORNER:, CORNER:]))


def largest_of(labels: np.ndarray) -> int:
    """Most pixels that an object reaches along an axis."""
    return max(part.stop - part.start for box in ndimage.find_objects(labels) for part in box)


def perturbed(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each object moved by one of SHIFTS; where two claim a pixel, one of them has it."""
    reach = max(map(max, SHIFTS))
    wide = np.pad(labels, reach)
    kind = rng.integers(0, len(SHIFTS), int(labels.max()) + 1)
    out = np.zeros_like(wide)
    for k, shift in enumerate(SHIFTS):
        moved = np.roll(np.where(kind[wide] == k, wide, 0), shift, (0, 1))
        np.copyto(out, moved, where=moved > 0)
    return out[reach:-reach, reach:-reach].copy()


def tiles_of(labels: np.ndarray, grid: cellpost.TileGrid, kind: str, seed: int = 0) -> list:
    """Tiles with ids 1..n of their own."""
    tiles = [cellpost.relabel(tile) for tile in grid.extract(labels)]
    rng = np.random.default_rng(seed)
    return [perturbed(tile, rng) for tile in tiles] if kind == "perturbed" else tiles


# ---- ways to put them together ------------------------------------------------------------------


def within(part: tuple[slice, ...], start: tuple[int, ...]) -> tuple[slice, ...]:
    """A part of the image in pixels of the tile that starts there."""
    return tuple(slice(p.start - s, p.stop - s) for p, s in zip(part, start, strict=True))


def pasted(tiles: list, grid: cellpost.TileGrid) -> np.ndarray:
    """Tiles one after the other, ids numbered through."""
    labels, n = np.zeros(grid.shape, np.int32), 0
    for i, tile in enumerate(tiles):
        part = tile[within(grid[i], grid.start(i))]
        labels[grid[i]] = np.where(part > 0, part + n, 0)
        n += int(tile.max())
    return labels


def cellpose_merged(tiles: list, grid: cellpost.TileGrid) -> np.ndarray:
    """What Cellpose's process_block and distributed_eval do with the labels of a block."""
    cellpose = peers.cellpose_distributed()
    labels = np.zeros(grid.shape, np.uint32)
    places, faces, used = [], [], []
    for i, tile in enumerate(tiles):
        core = grid.core(i)
        block, ids = cellpose.global_segment_ids(
            tile[within(core, grid.start(i))], grid.place(i), grid.counts
        )
        labels[core] = block
        places.append(grid.place(i))
        faces.append(cellpose.block_faces(block))
        used.extend(ids[1:] if ids[0] == 0 else ids)
    return cellpose.determine_merge_relabeling(places, faces, np.array(used))[labels]


def ways() -> dict[str, Callable]:
    """Names and calls; Cellpose's only where it can be imported."""
    found: dict[str, Callable] = {
        policy: functools.partial(cellpost.stitch_labels, policy=policy)
        for policy in ("mutual", "iou", "ios", "center")
    }
    found["join_fragments"] = cellpost.join_fragments
    try:
        peers.cellpose_distributed()
        found["Cellpose"] = cellpose_merged
    except ImportError as error:
        print(f"no Cellpose: {error}", file=sys.stderr)
    found["pasting"] = pasted
    return found


# ---- what became of the objects -----------------------------------------------------------------


def at_seams(labels: np.ndarray, grid: cellpost.TileGrid) -> np.ndarray:
    """Ids of objects that the border of a tile or of a core cuts, ascending."""
    lines = [set() for _ in grid.shape]
    for i in range(len(grid)):
        for part in (*zip(lines, grid[i], strict=True), *zip(lines, grid.core(i), strict=True)):
            part[0].update((part[1].start, part[1].stop))
    cut = []
    for axis, (places, size) in enumerate(zip(lines, grid.shape, strict=True)):
        inner = np.array(sorted(places - {0, size}), np.int64)
        behind, before = (labels.take(inner - k, axis) for k in (0, 1))
        cut.append(behind[(behind == before) & (behind > 0)])
    return np.unique(np.concatenate(cut))


def outcome(true: np.ndarray, found: np.ndarray, ids: np.ndarray) -> tuple[int, int, int]:
    """How many of these true objects are split, merged and lost."""
    pairs = count_pairs(true=true, found=found)
    n, share = len(pairs.ids_a), pairs.count / pairs.area_a[pairs.a]
    is_split = np.bincount(pairs.a[share >= SPLIT], minlength=n) >= 2
    held = share >= HELD
    is_held = np.bincount(pairs.a[held], minlength=n) > 0
    n_held = np.bincount(pairs.b[held], minlength=len(pairs.ids_b))  # by each of the result's
    is_merged = np.bincount(pairs.a[held], n_held[pairs.b[held]] > 1, n) > 0
    asked = np.isin(pairs.ids_a, ids)
    return tuple(
        int(np.count_nonzero(k & asked)) for k in (is_split, is_merged, ~is_held & ~is_split)
    )


def fastest(call: Callable, rounds: int = 3) -> tuple[float, np.ndarray]:
    """(least seconds, result) of some rounds; of one, if that takes a second."""
    least = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        result = call()
        least = min(least, time.perf_counter() - start)
        if least > 1:
            break
    return least, result


def rows_of(name: str, true: np.ndarray, kind: str, tile: int, overlap: float) -> list[Row]:
    """One row for each way that applies."""
    grid = cellpost.TileGrid(true.shape, tile=tile, overlap=overlap)
    largest, shared = largest_of(true), grid.tile[0] - grid.stride[0]
    ids, tiles = at_seams(true, grid), tiles_of(true, grid, kind)
    about = (name, kind, tile, overlap, shared, largest, shared > largest)
    uncut = perturbed(true, np.random.default_rng(1)) if kind == "perturbed" else true
    rows = [Row(*about, "one tile", len(ids), *outcome(true, uncut, ids), None)]
    for way, call in ways().items():
        if way == "join_fragments" and overlap > 0:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of objects larger than the overlap: rows say so
            seconds, found = fastest(functools.partial(call, tiles, grid))
        rows.append(Row(*about, way, len(ids), *outcome(true, found, ids), seconds))
    return rows


# ---- the command --------------------------------------------------------------------------------


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.0f} ms"


def table_of(rows: list[Row]) -> Table:
    """A line for each grid, a column for each way; rows are those of one image and kind of tile."""
    first = rows[0]
    table = Table(
        title=f"{first.image}, {first.tiles} tiles: split / merged / lost, of the objects at seams",
        caption=f"* not larger than the largest object, {first.largest_px} pixels: no promise",
        box=box.SIMPLE,
    )
    names = list(dict.fromkeys(row.way for row in rows))
    for head in ("tile", "overlap", "at seams", *names):
        table.add_column(head, justify="right", overflow="fold")
    grids: dict[tuple[int, float], dict[str, Row]] = {}
    for row in rows:
        grids.setdefault((row.tile, row.overlap), {})[row.way] = row
    for (tile, overlap), of_way in grids.items():
        one = next(iter(of_way.values()))
        cells = [str(tile), f"{overlap:g}{' ' if one.promised else '*'}", str(one.n_at_seams)]
        for way in names:
            row = of_way.get(way)
            what = f"{row.n_split}/{row.n_merged}/{row.n_lost}\n{_time(row.seconds)}" if row else ""
            cells.append(what)
        table.add_row(*cells)
    return table


def save(rows: list[Row], path: Path, about: dict, argv: list[str]) -> None:
    """Write machine, versions and rows, as the other records have them."""
    about["command"] = " ".join(["python", "bench/seams.py", *argv])
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        about["versions"]["dask-image"] = importlib.metadata.version("dask-image")
    content = {
        **about,
        "definitions": {"split": SPLIT, "held": HELD, "shifts": SHIFTS},
        "seams": [asdict(row) for row in rows],
        "notes": [f"load average of the last 15 minutes at the end: {os.getloadavg()[2]:.1f}"],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=2048, help="of the images in pixels")
    parser.add_argument("--tile", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--overlap", type=float, nargs="+", default=[0, 0.1, 0.25, 0.5])
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    options = parser.parse_args(argv)
    about = records.environment()  # the tree may change while this runs
    console, every = Console(width=None if sys.stdout.isatty() else 140), []
    for name in ("nuclei", "packed discs"):
        true = image_of(name, options.side)
        for kind in ("perfect", "perturbed"):
            rows = [
                row
                for tile in options.tile
                for overlap in options.overlap
                for row in rows_of(name, true, kind, tile, overlap)
            ]
            console.print(table_of(rows))
            every += rows
    if options.json:
        save(every, options.json, about, argv)
        console.print(f"saved: {options.json}")


if __name__ == "__main__":
    main(sys.argv[1:])
