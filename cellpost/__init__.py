"""From a cell-segmentation network's raw outputs to a full-resolution instance label image."""

from cellpost import augment, rle
from cellpost._runtime import get_num_threads, info, set_num_threads
from cellpost.detections import Detections, as_detections
from cellpost.detections_merge import MergeReport, merge_detections
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
    label,
    relabel,
    remove_large,
    remove_small,
    resolve_fragments,
)
from cellpost.nms import mask_nms, nmm, nms, weighted_boxes_fusion
from cellpost.paste import Paster, PasteReport, paste_masks
from cellpost.properties import (
    InstanceTable,
    contours,
    instance_table,
    instance_types,
    properties,
)
from cellpost.watershed import binary_fill_holes, binary_opening, watershed
from cellpost.watershed_hover import (
    HoverRanges,
    HoverReport,
    hover_gradients,
    hover_ranges,
    hover_watershed,
    watershed_markers,
)

__version__ = info()["version"]

__all__ = [
    "Detections",
    "FilterReport",
    "FlowReport",
    "HoverRanges",
    "HoverReport",
    "InstanceTable",
    "MergeReport",
    "PasteReport",
    "Paster",
    "as_detections",
    "augment",
    "binary_fill_holes",
    "binary_opening",
    "contours",
    "endpoints_to_labels",
    "fill_holes",
    "flow_endpoints",
    "flow_error",
    "follow_flows",
    "get_num_threads",
    "hover_gradients",
    "hover_ranges",
    "hover_watershed",
    "info",
    "instance_table",
    "instance_types",
    "label",
    "mask_nms",
    "masks_to_flows",
    "merge_detections",
    "nmm",
    "nms",
    "paste_masks",
    "properties",
    "relabel",
    "remove_bad_flows",
    "remove_large",
    "remove_small",
    "resolve_fragments",
    "rle",
    "set_num_threads",
    "watershed",
    "watershed_markers",
    "weighted_boxes_fusion",
]
