"""One published system on one image, in a process of its own: python systems_runs.py JSON

The JSON says which, as `Task` has it; a `Row` is printed as JSON. What the systems are given and
how they are scored is written here; the table and its words are in systems.py.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # for simulate and its oracle

import memory
import seams

import cellpost
from cellpost import metrics, recipes, synthetic

NOISE = 0.05  # of the simulated networks, as a share of their signal


@dataclass(frozen=True)
class Task:
    """What to run on what."""

    system: str
    paper: bool
    image: str  # its name
    labels: str  # file of the truth, ids 1..n
    maps: str | None = None  # file of a flow network's maps of the whole image, if they are made
    small: bool = False  # windows made smaller, as the images of --quick are


@dataclass(frozen=True)
class Row:
    """What one system made of one image, in one mode."""

    image: str
    shape: tuple[int, int]
    system: str
    mode: str  # "paper" or "cellpost"
    whole_maps: bool  # of the whole image, given: no simulated network ran
    n_true: int
    n_found: int
    f1: float
    ap: float
    n_cut: int  # as of metrics.seam_score, at the seams of the paper's way: some by chance
    seam_ratio: float | None  # about 1 where nothing is cut
    n_at_seams: int  # true cells at these seams: the same in both modes
    n_harms_at_seams: int  # of these split, and merged, and lost, as bench/seams.py has it
    n_repeated_ids: int
    seconds: float
    network_seconds: float  # not in `seconds`
    seen_pixels: float  # that networks saw, by the image's
    peak_bytes: int
    tolerance_seconds: float
    within_tolerance: bool
    load_average: float  # of the last minute, at the start


# ---- simulated networks -------------------------------------------------------------------------


@dataclass
class Timed:
    """A network, and how long it took for how many pixels."""

    network: Callable[[Any], Any]
    seconds: float = field(default=0.0, init=False)
    pixels: int = field(default=0, init=False)

    def __call__(self, batch: Any) -> Any:
        start = time.perf_counter()
        result = self.network(batch)
        self.seconds += time.perf_counter() - start
        self.pixels += len(batch) * batch.shape[-2] * batch.shape[-1]
        return result


def most_of(crops: np.ndarray) -> np.ndarray:
    """What a perfect segmenter of boxes says: 1 where the cell with most of the crop is."""
    ids = crops[:, 0].astype(np.int64) * 2**24 + crops[:, 1].astype(np.int64)  # as of `encode`
    out = np.zeros((len(ids), 1, *ids.shape[1:]), np.float32)
    for one, mask in zip(ids, out, strict=True):
        present, counts = np.unique(one[one > 0], return_counts=True)
        if len(present):
            mask[0] = one == present[counts.argmax()]
    return out


def given_maps(tiles: np.ndarray) -> np.ndarray:
    """What stands for a network where the image is its maps."""
    return tiles


def _flows(seed: int = 0) -> Callable[[Any], Any]:
    return synthetic.FlowNetwork(noise=NOISE, seed=seed)


def _detector() -> Callable[[Any], Any]:
    return synthetic.DetectionNetwork(noise=NOISE)


# ---- the systems --------------------------------------------------------------------------------


@dataclass(frozen=True)
class System:
    """A recipe, what it is given, and where the paper's way has seams.

    Attributes
    ----------
    run : callable
        From the image, the networks and options to labels.
    networks : callable
        Makes the simulated ones.
    seams : callable
        From the image's shape and the options to the grid of the paper's windows, or None.
    small : dict
        Options for small images.
    """

    run: Callable[..., Any]
    networks: Callable[[], list]
    seams: Callable[[tuple[int, int], dict], cellpost.TileGrid | None]
    small: dict[str, Any] = field(default_factory=dict)


def _mediar(image: Any, networks: list, **options: Any) -> Any:
    models = [cellpost.as_predictor(one, head="flows", owns_output=True) for one in networks]
    return recipes.mediar(image, models, normalize=None, channel_axis=0, **options)


def _mediar_windows(shape: tuple[int, int], options: dict) -> cellpost.TileGrid | None:
    if shape[0] * shape[1] < options.get("whole_up_to", 5000 * 5000):
        return None
    return cellpost.TileGrid(shape, tile=options.get("paper_window", 2000), layout="nonoverlap")


def _vsm(image: Any, networks: list, **options: Any) -> Any:
    return recipes.vsm(image, *networks, normalize=None, channel_axis=0, **options)


def _vsm_windows(shape: tuple[int, int], options: dict) -> cellpost.TileGrid:
    return cellpost.TileGrid(
        shape, tile=options.get("tile", 1536), stride=options.get("stride", 1280)
    )


def _train4ever(image: Any, networks: list, **options: Any) -> Any:
    return recipes.train4ever(image, *networks, channel_axis=0, **options)


def _train4ever_windows(shape: tuple[int, int], options: dict) -> cellpost.TileGrid | None:
    if not cellpost.needs_sliding(shape):
        return None
    return cellpost.TileGrid(shape, tile=cellpost.choose_tile_size(shape).tile, overlap=0)


def _hovernet(image: Any, networks: list, **options: Any) -> Any:
    models = cellpost.as_predictor(networks[0], head="hover", owns_output=True)
    return recipes.hovernet_weak(image, models, channel_axis=0, **options)


def _hovernet_windows(shape: tuple[int, int], options: dict) -> cellpost.TileGrid:
    return cellpost.TileGrid(shape, tile=256, overlap=0)


def _sartorius(image: Any, networks: list, **options: Any) -> Any:
    flows = cellpost.as_predictor(networks[0], head="flows", owns_output=True)
    # Simulated networks read ids, which cannot be resized: one scale of the six.
    return recipes.sartorius(
        image, flows, networks[1], detector_sizes=[520], channel_axis=0, **options
    )


def _sartorius_windows(shape: tuple[int, int], options: dict) -> cellpost.TileGrid:
    return cellpost.TileGrid(shape, tile=(301, 302), stride=(73, 134))


SYSTEMS = {
    "mediar": System(
        _mediar,
        lambda: [_flows(0), _flows(1)],
        _mediar_windows,
        {"whole_up_to": 1000 * 1000, "paper_window": 400},
    ),
    "vsm": System(_vsm, lambda: [_detector(), most_of], _vsm_windows, {"tile": 384, "stride": 320}),
    "train4ever": System(_train4ever, lambda: [_detector()], _train4ever_windows),
    "hovernet_weak": System(
        _hovernet, lambda: [synthetic.HoverNetwork(noise=NOISE)], _hovernet_windows
    ),
    "sartorius": System(_sartorius, lambda: [_flows(), _detector()], _sartorius_windows),
}


# ---- images -------------------------------------------------------------------------------------


def lazily(path: str) -> Any:
    """Maps (K, H, W) that are read from a file part by part; no part of the file stays."""

    def read(y: tuple[int, int], x: tuple[int, int]) -> np.ndarray:
        return np.array(np.load(path, mmap_mode="r")[:, slice(*y), slice(*x)])

    return synthetic.LazyArray(np.load(path, mmap_mode="r").shape, np.float32, read, (1, 2))


def make_maps(labels: str, maps: str, tile: int = 1024) -> None:
    """Write what one simulated flow network puts out for the whole image, tile by tile."""
    whole = cellpost.segment(
        synthetic.encode(np.load(labels)),
        cellpost.as_predictor(_flows(), head="flows", owns_output=True),
        tile=tile,
        overlap_px=64,
        channel_axis=0,
        postprocess=np.asarray,
    )
    np.save(maps, whole)


# ---- scores -------------------------------------------------------------------------------------


def n_repeated_ids(true: np.ndarray, found: np.ndarray) -> int:
    """Ids that two or more true cells have, each in a piece by itself."""
    pieces = cellpost.resolve_fragments(found, fragments="split")
    id_of = np.zeros(int(pieces.max(initial=0)) + 1, np.int64)
    id_of[pieces] = found
    matched = id_of[metrics.match(true, pieces).pairs[:, 1]]
    return int(np.count_nonzero(np.bincount(matched) > 1))


def told_apart(found: np.ndarray, windows: cellpost.TileGrid) -> np.ndarray:
    """Each window's ids numbered through: what the labels would be if ids were not repeated."""
    return seams.pasted(list(windows.extract(found)), windows)


def scores(true: np.ndarray, found: np.ndarray, grid: cellpost.TileGrid | None) -> dict[str, Any]:
    """Counts of `Row`; ids of `found` are unique."""
    cut, ratio, n_at_seams, n_harms = 0, None, 0, 0
    if grid is not None:
        at_seams = seams.at_seams(true, grid)
        score = metrics.seam_score(found, grid)
        n_at_seams, n_harms = len(at_seams), sum(seams.outcome(true, found, at_seams))
        cut, ratio = score.n_cut, score.ratio if np.isfinite(score.ratio) else None
    return {
        "n_true": int(true.max(initial=0)),
        "n_found": metrics.n_cells(found),
        "f1": metrics.f1(true, found),
        "ap": metrics.average_precision(true, found),
        "n_cut": cut,
        "seam_ratio": ratio,
        "n_at_seams": n_at_seams,
        "n_harms_at_seams": n_harms,
    }


def run(task: Task) -> Row:
    """Measure, then score."""
    system = SYSTEMS[task.system]
    shape = np.load(task.labels, mmap_mode="r").shape
    options = dict(system.small) if task.small else {}
    if task.maps is None:
        image = synthetic.encode(np.load(task.labels))
        networks = [Timed(one) for one in system.networks()]
    else:  # one network's and one view's, blended already
        image = lazily(task.maps)
        networks, options["augment"] = [Timed(given_maps)], None
    grid = system.seams(shape, options)
    load = os.getloadavg()[0]
    memory._now_and_reset_peak()
    start = time.perf_counter()
    found = system.run(image, networks, paper=task.paper, **options)
    total = time.perf_counter() - start
    peak = memory._peak()
    network_seconds = sum(one.seconds for one in networks)
    seconds = total - network_seconds

    true = np.load(task.labels)
    repeated = n_repeated_ids(true, found)
    if task.system == "mediar" and task.paper and grid is not None:
        found = told_apart(found, grid)
    return Row(
        task.image,
        shape,
        task.system,
        "paper" if task.paper else "cellpost",
        task.maps is not None,
        **scores(true, found, grid),
        n_repeated_ids=repeated,
        seconds=seconds,
        network_seconds=network_seconds,
        seen_pixels=sum(one.pixels for one in networks) / (shape[0] * shape[1]),
        peak_bytes=peak,
        tolerance_seconds=metrics.time_tolerance(shape),
        within_tolerance=metrics.within_budget(shape, seconds),
        load_average=load,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(run(Task(**json.loads(sys.argv[1]))))))
