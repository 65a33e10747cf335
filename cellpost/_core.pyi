import enum
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

_Bounds: TypeAlias = Sequence[Sequence[float]]

class Sampling(enum.IntEnum):
    cellpose = 0
    centered = 1

class Nested(enum.IntEnum):
    keep = 0
    overwrite = 1

class Fragments(enum.IntEnum):
    keep = 0
    largest = 1
    split = 2

def info() -> dict[str, Any]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def set_cpu_level(name: str = "") -> None: ...
def follow_flows(
    dP: object,
    cellprob: object,
    labels: object,
    stream: int,
    *,
    cellprob_threshold: float,
    flow_threshold: float,
    niter: int,
    min_size: int,
    max_size_fraction: float,
    fill_holes: bool,
    nested: Nested,
    fragments: Fragments,
    sampling: Sampling,
) -> dict[str, int]: ...
def count_foreground(mask: object, stream: int) -> int: ...
def flow_endpoints(
    dP: object,
    mask: object,
    endpoints: object,
    stream: int,
    *,
    niter: int,
    sampling: Sampling,
    offset: Sequence[int] = ...,
    global_shape: Sequence[int] = ...,
) -> None: ...
def endpoints_to_labels(
    endpoints: object, mask: object, labels: object, stream: int, *, max_size_fraction: float
) -> int: ...
def masks_to_flows(labels: object, flows: object, stream: int, *, niter: int) -> None: ...
def flow_error(
    labels: object,
    dP: object,
    errors: object,
    stream: int,
    *,
    niter: int = ...,
    global_shape: Sequence[int] = ...,
) -> None: ...
def remove_bad_flows(
    labels: object, dP: object, stream: int, *, flow_threshold: float
) -> dict[str, int]: ...
def follow_region(
    dP: object,
    cellprob: object,
    bins: object,
    stream: int,
    *,
    cellprob_threshold: float,
    niter: int,
    sampling: Sampling,
    offset: Sequence[int],
    global_shape: Sequence[int],
    region: Sequence[int],
) -> None: ...
def bound_bins(
    bins: object,
    boxes: object,
    stream: int,
    *,
    global_shape: Sequence[int],
    side: Sequence[int],
) -> None: ...
def count_bins(
    bins: object,
    counts: object,
    stream: int,
    *,
    offset: Sequence[int],
    global_shape: Sequence[int],
) -> None: ...
def find_seeds(counts: object, stream: int) -> NDArray[np.int64]: ...
def label_bins(
    bins: object,
    counts: object,
    labels: object,
    stream: int,
    *,
    seeds: NDArray[np.int64],
    offset: Sequence[int],
    global_shape: Sequence[int],
) -> None: ...
def survey_objects(labels: object, rows: object, has_hole: object | None, stream: int) -> None: ...
def map_labels(labels: object, map: object, stream: int) -> None: ...
def largest_label(labels: object, stream: int) -> int: ...
def count_labels(labels: object, stream: int) -> int: ...
def relabel(labels: object, stream: int) -> int: ...
def remove_small(labels: object, stream: int, *, min_size: int) -> dict[str, int]: ...
def remove_large(labels: object, stream: int, *, max_size_fraction: float) -> dict[str, int]: ...
def fill_holes(labels: object, stream: int, *, nested: Nested) -> dict[str, int]: ...
def resolve_fragments(labels: object, stream: int, *, fragments: Fragments) -> dict[str, int]: ...

class HoverStyle(enum.IntEnum):
    hovernet = 0
    monai = 1

class Activation(enum.IntEnum):
    none = 0
    sigmoid = 1
    softmax = 2

class FootprintShape(enum.IntEnum):
    ellipse = 0
    disk = 1

class HoverParameters:
    def __init__(
        self,
        *,
        style: HoverStyle,
        activation: Activation,
        threshold: float | None,
        border_threshold: float,
        ksize: int,
        radius: int,
        footprint: FootprintShape,
        min_size: int,
        sigma: float,
        connectivity: int,
        value_range: _Bounds | None,
        gradient_range: _Bounds | None,
    ) -> None: ...

def measure_objects(
    labels: object, intensity: object | None, out: dict[str, object], stream: int
) -> None: ...
def instance_types(
    labels: object, types: object, type: object, share: object, stream: int, *, n_types: int
) -> None: ...
def find_outlines(labels: object, offsets: object, stream: int) -> None: ...
def trace_outlines(labels: object, offsets: object, points: object, stream: int) -> None: ...
def label(mask: object, labels: object, stream: int, *, connectivity: int) -> int: ...
def binary_fill_holes(mask: object, filled: object, stream: int, *, connectivity: int) -> None: ...
def binary_opening(
    mask: object, opened: object, stream: int, *, radius: int, footprint: FootprintShape
) -> None: ...
def watershed(
    energy: object, mask: object, labels: object, stream: int, *, connectivity: int
) -> int: ...
def hover_ranges(
    hv: object, stream: int, parameters: HoverParameters
) -> tuple[list[list[float]], list[list[float]]]: ...
def hover_gradients(hv: object, out: object, stream: int, parameters: HoverParameters) -> None: ...
def hover_watershed(
    prob: object, hv: object, labels: object, stream: int, parameters: HoverParameters
) -> dict[str, int]: ...
def watershed_markers(
    prob: object,
    hv: object,
    markers: object,
    energy: object,
    mask: object,
    stream: int,
    parameters: HoverParameters,
) -> dict[str, int]: ...

class PasteStyle(enum.IntEnum):
    detectron2 = 0
    torchvision = 1
    nearest = 2

def paste(
    masks: object,
    table: tuple[object, object] | None,
    boxes: object,
    scores: object,
    labels: object,
    stream: int,
    *,
    first_id: int,
    style: PasteStyle,
    threshold: float,
    min_score: float,
    offset: tuple[int, int],
) -> tuple[int, int, int]: ...
def number_pasted(
    labels: object, index: object, stream: int, *, n: int, min_size: int
) -> tuple[int, int]: ...

class OverlapMetric(enum.IntEnum):
    iou = 0
    ios = 1

class FusedScore(enum.IntEnum):
    avg = 0
    max = 1
    box_and_model_avg = 2
    absent_model_aware_avg = 3

def nms(
    boxes: object,
    scores: object,
    classes: object | None,
    tiles: object | None,
    keep: object,
    keeper: object,
    merged: object | None,
    stream: int,
    *,
    metric: OverlapMetric,
    threshold: float,
    inclusive: bool,
) -> int: ...
def mask_nms(
    masks: object,
    table: tuple[object, object] | None,
    boxes: object,
    scores: object,
    classes: object | None,
    tiles: object | None,
    keep: object,
    keeper: object,
    stream: int,
    *,
    metric: OverlapMetric,
    threshold: float,
    style: PasteStyle,
    mask_threshold: float,
    shape: tuple[int, int],
) -> int: ...
def fuse_boxes(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    model: NDArray[np.int32],
    classes: NDArray[np.int64] | None,
    weights: list[float],
    iou_threshold: float,
    score: FusedScore,
    allows_overflow: bool,
) -> tuple[
    int,
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.int64],
    NDArray[np.int64],
]: ...
def stitch(
    tiles: Sequence[object],
    out: object,
    stream: int,
    *,
    axes: Sequence[
        tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
    ],
    tile: Sequence[int],
    window: object | None,
    floor: float,
    first_layer: int,
    first_row: int,
) -> int: ...
def overlap_counts(
    a: object, b: object, stream: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def tile_overlaps(
    tiles: Sequence[object], stream: int, *, first: NDArray[np.int64], pairs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def bits_of_ids(tiles: Sequence[object], stream: int) -> NDArray[np.int32]: ...
def survey_tiles(
    tiles: Sequence[object],
    stream: int,
    *,
    first: NDArray[np.int64],
    axes: Sequence[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]],
    size: Sequence[int],
    regions: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int32]]: ...
def compose_tiles(
    tiles: Sequence[object],
    out: object,
    stream: int,
    *,
    first: NDArray[np.int64],
    axes: Sequence[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]],
    map: NDArray[np.int32],
) -> None: ...
