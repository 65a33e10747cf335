"""Any network on an image of any size: a function, a torch module, an ONNX session.

python examples/own_model.py
python examples/own_model.py --model NETWORK.pt|NETWORK.onnx --margin 0 --image IMAGE.tif
"""

import argparse

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

import cellpost

MARGIN = 13  # pixels by which the outputs of `network` are smaller than its tiles, at each side


def network(tiles):
    """(n, 1, h, w) to (n, 3, h - 26, w - 26): dY, dX, and a logit of being inside a cell."""
    smooth = gaussian_filter(tiles[:, 0], 3, radius=12, axes=(1, 2))
    dy, dx = np.gradient(smooth, axis=(1, 2))
    steep = np.hypot(dy, dx) + 1e-4
    maps = np.stack([5 * dy / steep, 5 * dx / steep, 20 * (smooth - 0.2)], axis=1)
    return maps[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]


def segment(image, model, margin, **options):
    """Tiles, network, blending, labels of the whole map; flows are what a Cellpose gives."""
    model = cellpost.as_predictor(model, head="flows", margin=margin)
    return cellpost.segment(image, model, normalize="mediar", padding="reflect", **options)


def from_peaks(maps, *, inside=0.0, peak=3.0):
    """Labels of the whole map in a way of one's own: basins of the logit around its peaks."""
    cellprob = maps[2]
    markers = cellpost.label(cellprob > peak)
    return cellpost.watershed(-cellprob, markers, mask=cellprob > inside)


def load(path):
    """Read a network from a file."""
    if path.endswith(".onnx"):
        import onnxruntime

        return onnxruntime.InferenceSession(path)
    import torch

    return torch.jit.load(path)


def main():
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="PATH", help="TorchScript or ONNX: dY, dX, logit")
    parser.add_argument("--margin", type=int, default=0, help="of the model's outputs, in pixels")
    parser.add_argument("--image", metavar="TIF", help="an image; if not given a synthetic one")
    parser.add_argument("--size", type=int, default=700, help="side of the synthetic image, pixels")
    args = parser.parse_args()

    if args.model:
        model, margin = load(args.model), args.margin
    else:
        print("network: a stand-in that smooths (--model gives a real one)")
        model, margin = network, MARGIN
    scene = cellpost.synthetic.Scene((args.size, args.size), "nuclei", seed=1)
    image = tifffile.imread(args.image) if args.image else scene.image[...]

    labels = segment(image, model, margin, tile=256, overlap=0.25)
    print(f"tiles of 256: {labels.max()} cells")
    if margin:
        others = segment(image, model, margin, tile=512, overlap=0)
        print("tiles of 512, same labels:", np.array_equal(labels, others))
    views = segment(image, model, margin, tile=256, overlap=0.25, augment="flips")
    print(f"mean of three views: {views.max()} cells")
    basins = segment(image, model, margin, tile=256, overlap=0.25, postprocess=from_peaks, peak=4.0)
    print(f"a function of one's own on the whole map: {basins.max()} cells")
    if not args.image:
        truth = cellpost.relabel(scene.labels[...])
        print(f"truth: {truth.max()} cells; F1 {cellpost.metrics.f1(truth, labels):.2f}")


if __name__ == "__main__":
    main()
