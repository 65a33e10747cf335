"""HoVer-Net's maps to nuclei: its own `process`, and images of any size without seams.

python examples/use_hovernet.py
python examples/use_hovernet.py --model NETWORK.pt --image IMAGE.tif
"""

import argparse
import time

import numpy as np
import tifffile

import cellpost
from cellpost import recipes, synthetic
from cellpost.integrations.hovernet import process  # was: models.hovernet.post_proc

MARGIN = 46  # pixels: of tiles of 256 the network tells the inner 164


def describe(pred_map):
    """Nuclei of a map (H, W, 4): type, probability, horizontal, vertical."""
    pred_inst, inst_info_dict = process(pred_map, nr_types=6, return_centroids=True)
    return pred_inst, inst_info_dict


def segment(image, network, activation=None, tile=256):
    """Nuclei of an image of any size, with the numbers of the original post-processing."""
    return recipes.hovernet_weak(
        image,
        network,
        margin=MARGIN,
        tile=tile,
        activation=activation,
        border_threshold=0.4,
        ksize=21,
        channel_axis=0,
    )


def stand_in(tiles):
    """Maps as a network would make them, from tiles of a synthetic scene's truth; no noise."""
    maps = synthetic.HoverNetwork(noise=0)(tiles)
    inside = maps[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
    return {"np": inside[:, :1], "hv": inside[:, 1:]}


def simulated_pred_map(scene):
    """Give a `pred_map` of a whole image, as the original's inference puts it together."""
    maps = synthetic.HoverNetwork(noise=0.05)(scene.encoded[...][None])[0]
    truth = scene.labels[...]
    types = np.where(truth > 0, 1 + truth % 5, 0)
    return np.dstack([types, *maps]).astype(np.float32)


def main():
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="PT", help="a HoVer-Net as TorchScript, mode 'fast'")
    parser.add_argument("--image", metavar="TIF", help="an RGB image (H, W, 3), for --model")
    parser.add_argument("--size", type=int, default=700, help="side of the synthetic image, pixels")
    args = parser.parse_args()

    if args.model:
        import torch

        if not args.image:
            parser.error("--model needs --image")
        image = np.moveaxis(tifffile.imread(args.image), -1, 0)
        network, activation = torch.jit.load(args.model).eval(), "softmax"
    else:
        print("network: simulated from a synthetic image's truth (--model gives a real one)")
        scene = synthetic.Scene((args.size, args.size), "nuclei", seed=1)
        pred_map = simulated_pred_map(scene)
        start = time.perf_counter()
        pred_inst, nuclei = describe(pred_map)
        print(f"process: {len(nuclei)} nuclei, {time.perf_counter() - start:.2f} s")
        print("of each:", ", ".join(nuclei[min(nuclei)]))
        score = cellpost.metrics.f1(cellpost.relabel(scene.labels[...]), pred_inst)
        print(f"F1 against the truth: {score:.2f}")
        image, network, activation = scene.encoded, stand_in, None

    labels = segment(image, network, activation)
    print(f"tiles of 256: {labels.max()} nuclei")
    others = segment(image, network, activation, tile=400)
    print("tiles of 400, same labels:", np.array_equal(labels, others))


if __name__ == "__main__":
    main()
