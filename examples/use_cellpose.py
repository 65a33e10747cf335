"""Cellpose with cellpost inside: the same calls and the same masks, in less time.

python examples/use_cellpose.py
python examples/use_cellpose.py --model WEIGHTS --image IMAGE.tif
"""

import argparse
import time

import numpy as np
import tifffile
import torch
from cellpose import models

import cellpost
from cellpost.integrations.cellpose import accelerate


def segment(model, image):
    """Run Cellpose with cellpost inside."""
    with accelerate():
        return model.eval(image)  # your own call, as it was


def with_another_threshold(flows, cellprob_threshold):
    """Masks anew from saved maps, without the network."""
    return cellpost.follow_flows(flows[1], flows[2], cellprob_threshold=cellprob_threshold)


class StandIn(models.CellposeModel):
    """Cellpose's model with a network of no weights: flows run up the slopes of brightness."""

    def __init__(self):
        self.device, self.gpu = torch.device("cpu"), False
        self.net = Slopes()
        self.backbone, self.pretrained_model = "none", "stand-in"


class Slopes(torch.nn.Module):
    """Flows up the slopes of the smoothed image, and its brightness as the logit."""

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, images):
        """Give maps and styles, as Cellpose's networks do."""
        line = torch.exp(-0.5 * (torch.arange(-12.0, 13.0) / 4) ** 2)
        line = (line / line.sum())[None, None]
        smooth = images.mean(dim=1, keepdim=True)
        smooth = torch.nn.functional.conv2d(smooth, line[..., None], padding=(12, 0))
        smooth = torch.nn.functional.conv2d(smooth, line[..., None, :], padding=(0, 12))[:, 0]
        slope = torch.stack(torch.gradient(smooth, dim=(1, 2)), dim=1)
        slope = 5 * slope / (slope.norm(dim=1, keepdim=True) + 1e-4)
        maps = torch.cat([slope, 20 * (smooth[:, None] - 0.3)], dim=1)
        return maps, torch.zeros(len(images), 256)


def timed(call, *arguments):
    """Give the result of a call, and its seconds."""
    start = time.perf_counter()
    result = call(*arguments)
    return result, time.perf_counter() - start


def main():
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="WEIGHTS", help="weights of Cellpose, or their name")
    parser.add_argument("--image", metavar="TIF", help="an image; if not given a synthetic one")
    parser.add_argument("--size", type=int, default=512, help="side of the synthetic image, pixels")
    args = parser.parse_args()

    if args.model:
        model = models.CellposeModel(pretrained_model=args.model, gpu=torch.cuda.is_available())
    else:
        print("network: a stand-in without weights (--model gives a real one)")
        model = StandIn()
    if args.image:
        image = tifffile.imread(args.image)
    else:
        image = cellpost.synthetic.Scene((args.size, args.size), "nuclei", seed=1).image[...]

    (theirs, _, _), seconds = timed(model.eval, image)
    print(f"Cellpose alone: {theirs.max()} cells, {seconds:.2f} s with the network")
    (ours, flows, _), seconds = timed(segment, model, image)
    print(f"accelerated: {ours.max()} cells, {seconds:.2f} s with the network")
    print("same masks:", np.array_equal(ours, theirs) and ours.dtype == theirs.dtype)
    if ours.ndim == 2:
        again, seconds = timed(with_another_threshold, flows, -1.0)
        print(f"another threshold: {again.max()} cells, {seconds:.2f} s without the network")


if __name__ == "__main__":
    main()
