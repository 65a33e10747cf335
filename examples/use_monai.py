"""MONAI's sliding windows and HoVer-Net post-processing: change two imports.

python examples/use_monai.py
python examples/use_monai.py --model NETWORK.pt --image IMAGE.tif
"""

import argparse
import time

import monai.apps.pathology.transforms.post.array
import monai.inferers
import numpy as np
import tifffile
import torch

import cellpost.integrations.monai  # in place of monai.inferers
import cellpost.integrations.monai_transforms  # of monai.apps.pathology.transforms.post.array
from cellpost import synthetic


def infer(inferers, image, network):
    """Blended outputs of a network for overlapping windows of an image."""
    inferer = inferers.SlidingWindowInferer(256, 4, overlap=0.25, mode="gaussian")
    with torch.inference_mode():
        return inferer(image, network)


def nuclei(transforms, maps):
    """Describe each nucleus, and the label image."""
    post = transforms.HoVerNetInstanceMapPostProcessing(sobel_kernel_size=5)
    instance_info, instance_map = post(
        maps["nucleus_prediction"][0], maps["horizontal_vertical"][0]
    )
    return instance_info, instance_map


class StandIn(torch.nn.Module):
    """Outputs as those of MONAI's HoVerNet, simulated from tiles of a synthetic scene's truth."""

    def forward(self, tiles):
        """Give a dict of logits and HoVer maps."""
        maps = synthetic.HoverNetwork(noise=0.02)(tiles)
        is_nucleus = torch.logit(maps[:, :1], eps=1e-6)
        logits = torch.cat([torch.zeros_like(is_nucleus), is_nucleus], dim=1)
        return {"nucleus_prediction": logits, "horizontal_vertical": maps[:, 1:]}


def timed(call, *arguments):
    """Give the result of a call, and its seconds."""
    start = time.perf_counter()
    result = call(*arguments)
    return result, time.perf_counter() - start


def main():
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="PT", help="TorchScript, outputs of its inputs' size")
    parser.add_argument("--image", metavar="TIF", help="an RGB image (H, W, 3), for --model")
    parser.add_argument("--size", type=int, default=700, help="side of the synthetic image, pixels")
    args = parser.parse_args()

    if args.model:
        if not args.image:
            parser.error("--model needs --image")
        planes = np.moveaxis(tifffile.imread(args.image), -1, 0)
        network = torch.jit.load(args.model).eval()
    else:
        print("network: simulated from a synthetic image's truth (--model gives a real one)")
        planes = synthetic.Scene((args.size, args.size), "nuclei", seed=1).encoded[...]
        network = StandIn()
    image = torch.from_numpy(planes.astype(np.float32))[None]  # (1, C, H, W)

    theirs = infer(monai.inferers, image, network)
    maps = infer(cellpost.integrations.monai, image, network)
    alike = [torch.allclose(maps[key], theirs[key], rtol=0, atol=1e-4) for key in theirs]
    print("windows, same maps to 1e-4:", list(maps) == sorted(theirs) and all(alike))

    post = monai.apps.pathology.transforms.post.array
    (about_theirs, theirs), seconds = timed(nuclei, post, maps)
    print(f"MONAI's post-processing: {len(about_theirs)} nuclei, {seconds:.2f} s")
    (about, labels), seconds = timed(nuclei, cellpost.integrations.monai_transforms, maps)
    print(f"cellpost's post-processing: {len(about)} nuclei, {seconds:.2f} s")
    print("same labels:", np.array_equal(labels, theirs) and labels.dtype == theirs.dtype)
    print("same nuclei:", list(about) == list(about_theirs))


if __name__ == "__main__":
    main()
