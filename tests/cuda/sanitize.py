"""Every function on small CUDA arrays, for compute-sanitizer; fails if the CPU's bytes differ.

compute-sanitizer --tool memcheck --error-exitcode 1 python tests/cuda/sanitize.py
"""

from __future__ import annotations

import functools
import sys
import warnings

import numpy as np
import torch

import cellpost


def cases():
    """Maps of odd shapes, 2D and 3D, with cells, without, all foreground, and with NaN."""
    rng = np.random.default_rng(0)
    for shape in [(1, 1), (1, 33), (37, 1), (65, 131), (1, 1, 1), (9, 17, 35)]:
        grid = np.indices(shape).astype(np.float32)
        at = np.stack([rng.uniform(0, n, 7) for n in shape]).astype(np.float32)
        to = at.reshape(len(shape), 7, *[1] * len(shape)) - grid[:, None]
        far = np.sqrt((to**2).sum(0))
        nearest = far.argmin(0)[None, None]
        towards = np.take_along_axis(to, nearest, 1)[:, 0]
        dP = 5 * towards / np.maximum(far.min(0), 1)
        dP = (dP + rng.normal(0, 0.5, dP.shape)).astype(np.float32)
        cellprob = (8 - far.min(0)).astype(np.float32)
        yield dP, cellprob
        yield dP, np.full_like(cellprob, -1)
        yield dP, np.full_like(cellprob, 1)
        odd = dP.copy()
        odd.ravel()[::5] = np.nan
        yield odd, cellprob


def results(dP, cellprob):
    """Name and array of everything that the functions give for these maps."""
    for sampling in ("cellpose", "centered"):
        for fill_holes in (True, "cellpose"):
            for fragments in ("keep", "largest", "split"):
                options = {"sampling": sampling, "fill_holes": fill_holes, "fragments": fragments}
                yield f"follow_flows {options}", cellpost.follow_flows(dP, cellprob, **options)
        ends = cellpost.flow_endpoints(dP, cellprob > 0, sampling=sampling)
        yield f"flow_endpoints {sampling}", ends
        yield "endpoints_to_labels", cellpost.endpoints_to_labels(ends, cellprob > 0)
    labels = cellpost.follow_flows(dP, cellprob, flow_threshold=None, min_size=0) * 3
    yield "masks_to_flows", cellpost.masks_to_flows(labels)
    yield "flow_error", cellpost.flow_error(labels, dP)
    yield "remove_bad_flows", cellpost.remove_bad_flows(labels, dP)
    for nested in ("keep", "overwrite"):
        yield f"fill_holes {nested}", cellpost.fill_holes(labels, nested=nested)
    yield "remove_small", cellpost.remove_small(labels, min_size=20)
    yield "remove_large", cellpost.remove_large(labels, max_size_fraction=0.1)
    for fragments in ("largest", "split"):
        yield f"resolve {fragments}", cellpost.resolve_fragments(labels, fragments=fragments)
    yield "relabel", cellpost.relabel(labels)


def hover_cases():
    """HoVer maps of odd shapes, with nuclei that touch, without any, and with NaN."""
    rng = np.random.default_rng(1)
    for shape in [(1, 1), (1, 70), (40, 1), (67, 130), (33, 64)]:
        y, x = np.indices(shape).astype(np.float32)
        hv = np.stack([x % 17 / 8 - 1, y % 17 / 8 - 1])
        hv = (hv + rng.normal(0, 0.1, hv.shape)).astype(np.float32)
        prob = np.where((x % 40 < 34) & (y % 40 < 34), 0.9, 0.1).astype(np.float32)
        prob = np.clip(prob + rng.normal(0, 0.2, shape), 0, 1).astype(np.float32)
        yield prob, hv
        yield np.ones_like(prob), hv
        yield prob, np.zeros_like(hv)
        odd = hv.copy()
        odd.ravel()[::7] = np.nan
        yield prob, odd


def hover_results(prob, hv):
    """Name and array of everything that the watershed family gives for these maps."""
    for style in ("hovernet", "monai"):
        options = {"style": style, "ksize": 5, "radius": 1, "min_size": 4}
        for connectivity in (1, 2):
            labels = cellpost.hover_watershed(prob, hv, connectivity=connectivity, **options)
            yield f"hover_watershed {style} {connectivity}", labels
        markers, energy, mask = cellpost.watershed_markers(prob, hv, **options)
        yield from (("markers", markers), ("energy", energy), ("mask", mask))
        yield "watershed", cellpost.watershed(energy, markers)
        yield f"hover_gradients {style}", cellpost.hover_gradients(hv, style=style)
        for connectivity in (1, 2):
            yield "label", cellpost.label(mask, connectivity=connectivity)
            yield "holes", cellpost.binary_fill_holes(mask, connectivity=connectivity)
        yield "opening", cellpost.binary_opening(mask, radius=1)
        table = cellpost.properties(labels, prob)
        # square roots and arc tangents of the libraries may differ in the last bit
        yield from ((k, v) for k, v in table.items() if k[:4] not in ("axis", "ecce", "orie"))
        yield from zip(("offsets", "points"), cellpost.contours(labels), strict=True)
        yield from zip(("type", "share"), cellpost.instance_types(labels, labels % 5), strict=True)


def paste_cases():
    """Crops of odd sizes, boxes on, partly off and off the image, huge, thin and without area."""
    rng = np.random.default_rng(2)
    f2, f4, f8, u1 = np.float16, np.float32, np.float64, np.uint8
    for size, dtype in [
        ((0, 5, 5), f4),
        ((1, 1, 1), f4),
        ((150, 28, 28), f4),
        ((90, 7, 29), f2),
        ((60, 3, 200), f8),
        ((90, 30, 30), u1),
    ]:
        n = size[0]
        masks = rng.integers(0, 2, size) if dtype == u1 else rng.random(size)
        corner = rng.uniform(-20, 150, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(0.2, 60, (n, 2))], 1)
        boxes[::11] = np.round(boxes[::11])
        boxes[::13, 3] = boxes[::13, 1] - 1
        boxes[::17] = [-1e6, -900, 3e6, 1e3]
        scores = rng.integers(1, n + 1, n) / (n + 1)  # some are equal
        scores[::17] /= n + 1
        yield masks.astype(dtype), boxes.astype(np.float32), scores


def paste_results(masks, boxes, scores):
    """Name and array of everything that the paste family gives for these detections."""
    shape, n = (67, 131), len(scores)
    for style in ("detectron2", "torchvision", "nearest"):
        options = {"style": style, "threshold": 0.4, "min_size": 3}
        found = cellpost.paste_masks(masks, boxes, scores, shape, return_index=True, **options)
        yield from zip((f"paste_masks {style}", "index"), found, strict=True)
        paster = cellpost.Paster(shape, **options)
        for begin in range(0, n, 40):
            batch = slice(begin, begin + 40)
            paster.add(masks[batch], boxes[batch], scores[batch], offset=(begin // 4, -begin // 3))
        paster.add([masks[i, i % 3 :] for i in range(n)], boxes, scores)  # of differing sizes
        yield f"Paster {style}", paster.result()
        for metric in ("iou", "ios"):
            kept = cellpost.mask_nms(masks, boxes, scores, shape, 0.3, metric=metric, style=style)
            yield f"mask_nms {style} {metric}", kept
    for metric, threshold in (("iou", 0.5), ("ios", 0.3), ("iou", 0)):
        kept = cellpost.nms(boxes, scores, threshold, metric=metric)
        yield f"nms {metric} {threshold}", kept
        merged = cellpost.nmm(boxes, scores, threshold, metric=metric)
        yield from zip(("nmm", "scores", "keep", "group"), merged, strict=True)


def tile_cases():
    """Tiles of odd sides and channels, of maps that they fit, exceed and fall short of."""
    rng = np.random.default_rng(3)
    for shape, tile, channels, dtype in [
        ((1, 1), (5, 5), 1, np.float32),
        ((37, 150), (16, 33), 3, np.float32),
        ((64, 20), (24, 24), 5, np.float16),
        ((9, 33, 41), (4, 16, 17), 2, np.float64),
    ]:
        grid = cellpost.TileGrid(shape, tile=tile, overlap=0.6)
        tiles = rng.standard_normal((len(grid), channels, *tile)).astype(dtype)
        yield (tiles,), grid


def tile_results(tiles, grid):
    """Name and array of everything that the tiles family gives for these tiles."""
    for window in ("gaussian", "constant", "cosine", "sigmoid", "core"):
        yield f"stitch {window}", cellpost.stitch(tiles, grid=grid, window=window)
    stitcher = cellpost.Stitcher(grid, tiles.shape[1])
    for i in reversed(range(len(grid))):
        stitcher.add(i, tiles[i])
    yield "Stitcher", stitcher.result()


def label_tile_cases():
    """Label tiles whose ids are their own, and where they lie: padded, odd, 3D."""
    rng = np.random.default_rng(4)
    for shape, tile in [((1, 1), (5, 5)), ((37, 150), (16, 33)), ((9, 33, 41), (4, 16, 17))]:
        grid = cellpost.TileGrid(shape, tile=tile, overlap=0.5)
        labels = rng.integers(0, 9, [-(-n // 4) for n in shape])
        for axis, n in enumerate(shape):
            labels = labels.repeat(4, axis).take(range(n), axis)
        tiles = [cellpost.relabel(one.astype(np.int32)) for one in grid.extract(labels)]
        yield (np.stack(tiles),), grid


def label_tile_results(tiles, grid):
    """Name and array of everything that the overlaps family gives for these tiles."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # objects larger than the overlap
        for policy in ("mutual", "iou", "ios", "center"):
            yield f"stitch_labels {policy}", cellpost.stitch_labels(tiles, grid, policy=policy)
    found = cellpost.overlap_counts(tiles[0, ...], tiles[-1, ...])
    yield "overlap_counts", np.stack([found.a, found.b, found.count])


def main():
    """Run all cases on both devices."""
    n_compared = n_different = 0
    todo = [(results, maps) for maps in cases()] + [(hover_results, m) for m in hover_cases()]
    todo += [(paste_results, found) for found in paste_cases()]
    for tiles, grid in tile_cases():
        todo.append((functools.partial(tile_results, grid=grid), tiles))
    for tiles, grid in label_tile_cases():
        todo.append((functools.partial(label_tile_results, grid=grid), tiles))
    for run, maps in todo:
        on_cuda = [torch.from_numpy(a).cuda() for a in maps]
        pairs = zip(run(*maps), run(*on_cuda), strict=True)
        for (name, expected), (_, got) in pairs:
            n_compared += 1
            got = got if isinstance(got, np.ndarray) else got.cpu().numpy()
            if not np.array_equal(expected, got, equal_nan=expected.dtype.kind == "f"):
                n_different += 1
                print(f"{name}: {maps[0].shape}: CUDA and CPU differ")
    print(f"{n_compared - n_different} passed, {n_different} failed")
    return 1 if n_different else 0


if __name__ == "__main__":
    sys.exit(main())
