"""Images of any size in bounded memory, with the bytes of the calls on the whole image."""

from cellpost.slide.flows import follow_flows
from cellpost.slide.label_array import LabelArray
from cellpost.slide.merge import stitch_labels
from cellpost.slide.output import create_labels
from cellpost.slide.pasting import paste
from cellpost.slide.pyramid import write_ngff
from cellpost.slide.table import cell_table

__all__ = [
    "LabelArray",
    "cell_table",
    "create_labels",
    "follow_flows",
    "paste",
    "stitch_labels",
    "write_ngff",
]
