"""The ``cellpost demo``: maps of real pixels to labels, stage by stage, with times.

No network is run here and none is shipped. Without arguments the maps of a real tissue picture come
from `stand_in_maps`, a few classical filters that take a network's place. With labels drawn by
experts they come from `simulated_maps`, what a good network with some noise would put out, and the
result is compared with those labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy import ndimage

import cellpost
from cellpost.io import check_output, read_image, read_labels, write_labels, write_overlay
from cellpost.io.overlay import check_picture

Array = npt.NDArray[Any]


def stand_in_maps(rgb: Array) -> tuple[Array, Array]:
    """Make maps of a stained tissue picture by classical filters, in place of a network.

    Parameters
    ----------
    rgb : ndarray, (H, W, 3), uint8
        Haematoxylin (nuclei) and DAB (here membranes), at about 10 to 20 pixels a nucleus.

    Returns
    -------
    dP : ndarray, (2, H, W), float32
        Flow field: five times the unit vector towards the centre of the nucleus.
    cellprob : ndarray, (H, W), float32
        How far the haematoxylin, less the membranes, is above its surroundings, as a logit.

    Raises
    ------
    ModuleNotFoundError
        If scikit-image is not installed.

    Notes
    -----
    Colour deconvolution; what exceeds its surroundings is foreground; a watershed from the peaks of
    a smoothed distance and density splits it; every pixel then points at its region's centre.
    """
    skimage = _import_skimage()
    smooth = ndimage.gaussian_filter
    stains = skimage.color.rgb2hed(rgb)[..., [0, 2]]
    nuclei, membranes = np.moveaxis(stains / np.percentile(stains, 99, axis=(0, 1)), -1, 0)
    stained = smooth(nuclei, 1.5)
    density = smooth(nuclei - 0.7 * (membranes - smooth(membranes, 14)), 1.5)
    density = np.minimum(density, stained + 0.25)
    excess = density - smooth(density, 14)
    contrast = np.sqrt(smooth(excess**2, 28)) + 0.05
    cellprob = np.minimum(4 * excess / contrast - 0.6, 20 * (stained - 0.33))

    foreground = cellprob > 0
    height = 0.4 * smooth(ndimage.distance_transform_edt(foreground), 1.0)
    height += smooth(density, 2.0) / 0.3
    peaks = skimage.feature.peak_local_max(
        height, min_distance=4, labels=ndimage.label(foreground)[0], exclude_border=False
    )
    markers = np.zeros(foreground.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    regions = skimage.segmentation.watershed(-height, markers, mask=foreground)

    grid, flat = np.indices(regions.shape), regions.ravel()
    n_pixels = np.maximum(np.bincount(flat), 1)
    centres = np.stack([np.bincount(flat, c.ravel()) / n_pixels for c in grid])
    towards = np.where(regions > 0, centres[:, regions] - grid, 0)
    towards /= np.maximum(np.hypot(*towards), 1)
    dP = 5 * smooth(towards, (0, 1, 1))
    return dP.astype(np.float32), cellprob.astype(np.float32)


def simulated_maps(labels: Array, *, noise: float = 0.5, seed: int = 0) -> tuple[Array, Array]:
    """Simulate what a network that has learnt these labels would put out.

    Parameters
    ----------
    labels : ndarray, (H, W) or (D, H, W), integer
        Label image.
    noise : float
        Standard deviation of the Gaussian noise on both maps; their signal is 5.
    seed : int
        Of the noise.

    Returns
    -------
    dP : ndarray, (2, H, W) or (3, D, H, W), float32
        Five times `cellpost.masks_to_flows`, plus noise.
    cellprob : ndarray, (H, W) or (D, H, W), float32
        5 inside cells, -5 outside, plus noise.
    """
    rng = np.random.default_rng(seed)
    dP = 5 * np.asarray(cellpost.masks_to_flows(labels), np.float32)
    cellprob = np.where(labels > 0, np.float32(5), np.float32(-5))
    for signal in (dP, cellprob):
        signal += np.float32(noise) * rng.standard_normal(signal.shape, np.float32)
    return dP, cellprob


@dataclass(frozen=True)
class Match:
    """How many cells of two label images are the same at an IoU of at least 0.5."""

    n_true: int
    n_found: int
    n_matched: int

    @property
    def f1(self) -> float:
        """2 matched / (true + found); NaN where there are no cells at all."""
        n = self.n_true + self.n_found
        return 2 * self.n_matched / n if n else float("nan")


def match_labels(true: Array, found: Array) -> Match:
    """Match the cells of two label images one to one at an IoU of at least 0.5.

    Parameters
    ----------
    true, found : ndarray, of the same shape, integer
        Label images; ids may have gaps.

    Returns
    -------
    Match
        The counts.

    Notes
    -----
    Overlaps are counted only where they are, in integers. At an IoU above 0.5 partners are unique;
    at exactly 0.5 a cell can have two, the halves that make it up, and these have no other, so
    the largest matching has one pair fewer than there are cells that take part.
    """
    sizes_true, sizes_found = (np.unique(a[a > 0], return_counts=True) for a in (true, found))
    both = (true > 0) & (found > 0)
    pairs, overlap = np.unique(np.stack([true[both], found[both]]), axis=1, return_counts=True)
    size_true, size_found = (
        sizes[np.searchsorted(ids, partner)]
        for (ids, sizes), partner in zip((sizes_true, sizes_found), pairs, strict=True)
    )
    same = pairs[:, 3 * overlap >= size_true + size_found]  # overlap / union >= 1 / 2
    n_matched = len(np.unique(same[0])) + len(np.unique(same[1])) - same.shape[1]
    return Match(len(sizes_true[0]), len(sizes_found[0]), n_matched)


def timed_stages(dP: Array, cellprob: Array, *, n_runs: int = 3) -> tuple[Array, dict[str, float]]:
    """Run `cellpost.follow_flows` stage by stage and as a whole, and time both.

    Parameters
    ----------
    dP, cellprob : ndarray
        Maps, as `cellpost.follow_flows` takes them.
    n_runs : int
        Every stage is run that often; its shortest time counts.

    Returns
    -------
    labels : ndarray
        The label image.
    seconds : dict
        Time of each stage, in order, and of the whole under ``"follow_flows"``.

    Raises
    ------
    RuntimeError
        If the stages do not give the whole's labels.
    """
    seconds: dict[str, float] = {}

    def timed(name: str, stage: Callable[..., Any], *arrays: Array, **options: Any) -> Any:
        for _ in range(n_runs):
            start = time.perf_counter()
            result = stage(*arrays, **options)
            took = time.perf_counter() - start
            seconds[name] = min(took, seconds.get(name, took))
        return result

    def clean_up(labels: Any) -> Any:
        labels = cellpost.fill_holes(cellpost.remove_small(labels))
        return cellpost.relabel(cellpost.remove_small(labels))

    mask = cellprob > 0
    endpoints = timed("flow_endpoints", cellpost.flow_endpoints, dP, mask)
    labels = timed("endpoints_to_labels", cellpost.endpoints_to_labels, endpoints, mask)
    if labels.ndim == 2:  # volumes have no quality control
        labels = timed("remove_bad_flows", cellpost.remove_bad_flows, labels, dP)
    labels = timed("remove_small, fill_holes, relabel", clean_up, labels)
    whole = timed("follow_flows", cellpost.follow_flows, dP, cellprob)
    if not np.array_equal(labels, whole):
        raise RuntimeError("the stages, run one by one, did not give the labels of follow_flows")
    return whole, seconds


def run_demo(
    output_dir: Path,
    console: Console,
    *,
    image: Path | None = None,
    labels: Path | None = None,
    noise: float = 0.5,
    seed: int = 0,
) -> None:
    """Run the demo, print what it found and write demo_masks.tif and demo_overlay.png.

    Parameters
    ----------
    output_dir : Path
        An existing folder for the two files; older ones of these names are replaced.
    console : rich.console.Console
        Where to print.
    image, labels : Path, optional
        A picture and its labels. Without labels: scikit-image's tissue picture and the stand-in.
    noise, seed : float, int
        See `simulated_maps`.

    Raises
    ------
    ModuleNotFoundError
        If scikit-image is needed and not installed.
    FileFormatError, ValueError
        If a file is not what it should be, or picture and labels differ in shape.
    OSError
        If the folder cannot be written to.
    """
    masks_file, overlay_file = output_dir / "demo_masks.tif", output_dir / "demo_overlay.png"
    for path in (masks_file, overlay_file):
        check_output(path)
        for read in (image, labels):
            if read is not None and read.resolve() == path.resolve():
                raise ValueError(f"{read} would be overwritten: the demo writes {path.name}")
    true = None
    if labels is None:
        picture = _import_skimage().data.immunohistochemistry()
        source = "a stand-in for a network (classical filters) on skimage.data.immunohistochemistry"
        start = time.perf_counter()
        dP, cellprob = stand_in_maps(picture)
    else:
        true = read_labels(labels)
        source = f"simulated from {labels} with noise {noise:g}, seed {seed}"
        start = time.perf_counter()
        dP, cellprob = simulated_maps(true, noise=noise, seed=seed)
        picture = cellprob if image is None else read_image(image)
        check_picture(picture, cellprob.shape)
    made = time.perf_counter() - start
    found, seconds = timed_stages(dP, cellprob)
    metadata = {"maps": source, "function": "follow_flows"}
    write_labels(masks_file, found, metadata=metadata)
    write_overlay(overlay_file, picture, found, scale=max(1, min(3, 2048 // max(found.shape))))

    console.print(f"maps: {source}")
    console.print(f"cells: {int(found.max())} in {' x '.join(map(str, found.shape))} pixels")
    if true is not None:
        m = match_labels(true, found)
        console.print(f"F1 at IoU 0.5: {m.f1:.4f} ({m.n_matched} of {m.n_true} true cells matched)")
    console.print(_table(made, seconds))
    console.print(f"written: {masks_file}, {overlay_file}")


def _table(made: float, seconds: dict[str, float]) -> Table:
    table = Table("stage", box=None, pad_edge=False)
    table.add_column("ms", justify="right")
    table.add_row("(making the maps)", f"{1e3 * made:.1f}")
    for stage, took in seconds.items():
        name = "follow_flows, the same in one call" if stage == "follow_flows" else stage
        table.add_row(name, f"{1e3 * took:.1f}")
    return table


def _import_skimage() -> Any:
    try:
        import skimage.color
        import skimage.data
        import skimage.feature
        import skimage.segmentation
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the demo needs scikit-image ({error}): pip install 'cellpost[demo]', or give it"
            " --labels and it needs none"
        ) from None
    return skimage
