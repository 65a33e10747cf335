"""Boxes and masks of a Mask R-CNN or YOLO, tile by tile, to one label image.

python examples/use_detectors.py
python examples/use_detectors.py --model WEIGHTS.pt --library ultralytics --image IMAGE.tif
python examples/use_detectors.py --model STATE.pth --library torchvision --image IMAGE.tif
"""

import argparse

import numpy as np
import tifffile

import cellpost
from cellpost import synthetic


def paste(output, shape):
    """Labels of one image from what the model gave for it, whichever library's."""
    found = cellpost.as_detections(output, shape=shape)
    masks = [] if found.masks is None else found.masks  # YOLO's, where there is nothing
    boxes = found.boxes if found.mask_boxes is None else found.mask_boxes
    return cellpost.paste_masks(masks, boxes, found.scores, shape, min_score=0.5)


def segment(image, detector):
    """Labels of an image of any size; the overlap is to be larger than the largest cell."""
    return cellpost.segment(
        image,
        detector,
        head="instances",
        tile=256,
        overlap_px=96,
        min_score=0.5,
        channel_axis=0,
        return_report=True,
    )


def by_hand(image, detector):
    """The same in its steps, for a loop of your own."""
    grid = cellpost.TileGrid(image.shape[1:], tile=256, overlap_px=96)
    outputs = [detector(tiles)[0] for _, tiles in grid.batches(image, 1)]
    return paste(cellpost.merge_detections(outputs, grid), grid.shape)


def maskrcnn(path):
    """Mask R-CNN of torchvision as a function of tiles (n, 3, h, w), 0..255."""
    import torch
    import torchvision

    state = torch.load(path, map_location="cpu", weights_only=True)
    n_classes = len(state["roi_heads.box_predictor.cls_score.bias"])
    network = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=n_classes
    )
    network.load_state_dict(state)
    network.eval()

    def detector(tiles):
        with torch.no_grad():
            return network([torch.tensor(tile / 255) for tile in tiles])

    return detector


def yolo(path):
    """A segmentation model of ultralytics as a function of tiles (n, 3, h, w), 0..255."""
    import ultralytics

    network = ultralytics.YOLO(path)

    def detector(tiles):
        pictures = [tile[::-1].transpose(1, 2, 0).astype(np.uint8) for tile in tiles]  # BGR
        return network([np.ascontiguousarray(one) for one in pictures], verbose=False)

    return detector


def stand_in(tiles):
    """Outputs in the form of torchvision's, from tiles of a synthetic scene's truth."""
    shape = tiles.shape[2:]
    outputs = []
    for found in synthetic.DetectionNetwork(noise=0.02)(tiles):
        masks = [paste(found[k : k + 1], shape) > 0 for k in range(len(found))]
        outputs.append(
            {
                "boxes": found.boxes,
                "labels": found.class_ids + 1,
                "scores": found.scores,
                "masks": np.array(masks, np.float32).reshape(-1, 1, *shape),
            }
        )
    return outputs


def main():
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="PATH", help="weights of the model")
    parser.add_argument("--library", choices=["torchvision", "ultralytics"], default="ultralytics")
    parser.add_argument("--image", metavar="TIF", help="an RGB image (H, W, 3), for --model")
    parser.add_argument("--size", type=int, default=700, help="side of the synthetic image, pixels")
    args = parser.parse_args()

    scene = synthetic.Scene((args.size, args.size), "nuclei", seed=1)
    if args.model:
        if not args.image:
            parser.error("--model needs --image")
        image = np.moveaxis(tifffile.imread(args.image), -1, 0)
        detector = (yolo if args.library == "ultralytics" else maskrcnn)(args.model)
    else:
        print("network: simulated from a synthetic image's truth (--model gives a real one)")
        image, detector = scene.encoded[...], stand_in

    tile = np.asarray(image[:, :256, :256], np.float32)
    (output,) = detector(tile[None])
    print(f"one tile: {paste(output, tile.shape[1:]).max()} cells")
    labels, report = segment(image, detector)
    print(f"all tiles: {report.n_found} found, {report.n_cut} of them cut by a tile's border,")
    print(f"    {report.n_duplicates} twice; {labels.max()} cells")
    print(
        "same labels by hand:", np.array_equal(by_hand(image.astype(np.float32), detector), labels)
    )
    if not args.model:
        truth = cellpost.relabel(scene.labels[...])
        print(f"truth: {truth.max()} cells; F1 {cellpost.metrics.f1(truth, labels):.2f}")
        grid = cellpost.TileGrid(labels.shape, tile=256, overlap_px=96)
        score = cellpost.metrics.seam_score(labels, grid)
        print(f"borders of cells at seams: {score.ratio:.1f} times what chance gives")


if __name__ == "__main__":
    main()
