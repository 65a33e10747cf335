"""From a cell-segmentation network's raw outputs to a full-resolution instance label image."""

from cellpost._runtime import get_num_threads, info, set_num_threads
from cellpost.flows import (
    FlowReport,
    endpoints_to_labels,
    flow_endpoints,
    flow_error,
    follow_flows,
    masks_to_flows,
    remove_bad_flows,
)
from cellpost.labels import (
    FilterReport,
    fill_holes,
    relabel,
    remove_large,
    remove_small,
    resolve_fragments,
)

__version__ = info()["version"]

__all__ = [
    "FilterReport",
    "FlowReport",
    "endpoints_to_labels",
    "fill_holes",
    "flow_endpoints",
    "flow_error",
    "follow_flows",
    "get_num_threads",
    "info",
    "masks_to_flows",
    "relabel",
    "remove_bad_flows",
    "remove_large",
    "remove_small",
    "resolve_fragments",
    "set_num_threads",
]
