"""Synthetic cells with truth at any size, and simulated networks that err as they are told.

A `Scene` is an image of which any window can be rendered without the rest. Simulated networks
(`FlowNetwork`, `HoverNetwork`, `DetectionNetwork`) read the truth from `Scene.encoded`, tile by
tile, and put out what a trained network would: no network is run, and what comes out is to be
called simulated.
"""

from cellpost.synthetic.ids import encode
from cellpost.synthetic.lazy import LazyArray
from cellpost.synthetic.networks import DetectionNetwork, FlowNetwork, HoverNetwork
from cellpost.synthetic.scene import Scene

__all__ = ["DetectionNetwork", "FlowNetwork", "HoverNetwork", "LazyArray", "Scene", "encode"]
