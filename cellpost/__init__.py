"""From a cell-segmentation network's raw outputs to a full-resolution instance label image."""

from cellpost import augment, ensemble, metrics, rle, synthetic
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
from cellpost.labels_edit import (
    clear_border,
    erode_boundary,
    expand_labels,
    resize_labels,
    split_fragments,
)
from cellpost.labels_join import JoinReport, join_fragments
from cellpost.labels_merge import StitchReport, stitch_labels
from cellpost.labels_planes import PlanesReport, stitch_planes
from cellpost.models import Predictor, as_predictor
from cellpost.nms import mask_nms, nmm, nms, weighted_boxes_fusion
from cellpost.normalize import Normalization, normalization, normalize, percentile_limits
from cellpost.overlaps import OverlapCounts, overlap_counts
from cellpost.paste import Paster, PasteReport, paste_masks
from cellpost.properties import (
    InstanceTable,
    contours,
    instance_table,
    instance_types,
    properties,
)
from cellpost.segment import NoCellsError, segment
from cellpost.tile_size import TileSize, choose_tile_size, mean_diameter, needs_sliding
from cellpost.tiles import stitch
from cellpost.tiles_grid import TileGrid
from cellpost.tiles_stitcher import Stitcher
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
    "JoinReport",
    "MergeReport",
    "NoCellsError",
    "Normalization",
    "OverlapCounts",
    "PasteReport",
    "Paster",
    "PlanesReport",
    "Predictor",
    "StitchReport",
    "Stitcher",
    "TileGrid",
    "TileSize",
    "as_detections",
    "as_predictor",
    "augment",
    "binary_fill_holes",
    "binary_opening",
    "choose_tile_size",
    "clear_border",
    "contours",
    "endpoints_to_labels",
    "ensemble",
    "erode_boundary",
    "expand_labels",
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
    "join_fragments",
    "label",
    "mask_nms",
    "masks_to_flows",
    "mean_diameter",
    "merge_detections",
    "metrics",
    "needs_sliding",
    "nmm",
    "nms",
    "normalization",
    "normalize",
    "overlap_counts",
    "paste_masks",
    "percentile_limits",
    "properties",
    "relabel",
    "remove_bad_flows",
    "remove_large",
    "remove_small",
    "resize_labels",
    "resolve_fragments",
    "rle",
    "segment",
    "set_num_threads",
    "split_fragments",
    "stitch",
    "stitch_labels",
    "stitch_planes",
    "synthetic",
    "watershed",
    "watershed_markers",
    "weighted_boxes_fusion",
]
