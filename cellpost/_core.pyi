import enum
from collections.abc import Sequence
from typing import Any

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
def flow_error(labels: object, dP: object, errors: object, stream: int) -> None: ...
def remove_bad_flows(
    labels: object, dP: object, stream: int, *, flow_threshold: float
) -> dict[str, int]: ...
def largest_label(labels: object, stream: int) -> int: ...
def count_labels(labels: object, stream: int) -> int: ...
def relabel(labels: object, stream: int) -> int: ...
def remove_small(labels: object, stream: int, *, min_size: int) -> dict[str, int]: ...
def remove_large(labels: object, stream: int, *, max_size_fraction: float) -> dict[str, int]: ...
def fill_holes(labels: object, stream: int, *, nested: Nested) -> dict[str, int]: ...
def resolve_fragments(labels: object, stream: int, *, fragments: Fragments) -> dict[str, int]: ...
