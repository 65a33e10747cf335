"""Files in and files out: network outputs, pictures and label images.

Reading: :func:`read_maps` (flow field and cell logit), :func:`read_hover_maps`,
:func:`read_detections` (boxes, scores, masks), :func:`read_tiles`, :func:`read_label_tiles`,
:func:`read_image`, :func:`read_labels`, :func:`read_metadata`. Writing: :func:`write_labels`,
:func:`write_overlay`, :func:`create_map`; all write beside the target and rename, so a file is
there whole or not at all. :func:`check_output` tells beforehand whether that can work.

A file that is missing, cut short, of another kind or laid out otherwise raises
:class:`FileFormatError` (a ``ValueError``), which names the file, what was expected and what it is.
"""

from cellpost.io.containers import FileFormatError
from cellpost.io.detections import read_detections
from cellpost.io.images import read_image, read_labels, read_metadata, write_labels
from cellpost.io.maps import HoverMaps, Maps, read_hover_maps, read_maps
from cellpost.io.output import check_output
from cellpost.io.overlay import write_overlay
from cellpost.io.tiles import Tiles, create_map, read_label_tiles, read_tiles

__all__ = [
    "FileFormatError",
    "HoverMaps",
    "Maps",
    "Tiles",
    "check_output",
    "create_map",
    "read_detections",
    "read_hover_maps",
    "read_image",
    "read_label_tiles",
    "read_labels",
    "read_maps",
    "read_metadata",
    "read_tiles",
    "write_labels",
    "write_overlay",
]
