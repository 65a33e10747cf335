"""Imports of the packages that cellpost is compared with."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import sys
import types

import numpy as np
import pytest


def _import_torchvision():
    """Import torchvision even where its compiled operators do not fit the installed torch.

    A torchvision built for CUDA beside a CPU torch stops at the first operator it cannot describe;
    its Python parts, all that is used here, work.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    import torch

    register_fake = torch.library.register_fake

    def register_if_known(op, *args, **kwargs):
        decorate = register_fake(op, *args, **kwargs)

        def register(function):
            try:
                return decorate(function)
            except RuntimeError:
                return function

        return register

    torch.library.register_fake = register_if_known
    try:
        return importlib.import_module("torchvision")
    finally:
        torch.library.register_fake = register_fake


def torchvision_heads():
    """torchvision's module with ``paste_masks_in_image``; skips the test where there is none."""
    pytest.importorskip("torch")
    try:
        _import_torchvision()
        return importlib.import_module("torchvision.models.detection.roi_heads")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")


def cellpose():
    """Return the package cellpose with what is compared; ImportError says why there is none."""
    try:
        _import_torchvision()
        package = importlib.import_module("cellpose")
        importlib.import_module("cellpose.dynamics")
        importlib.import_module("cellpose.metrics")
        importlib.import_module("cellpose.utils")
    except ImportError:
        raise
    except Exception as error:  # a torch and a torchvision that do not fit raise all sorts
        raise ImportError(f"{type(error).__name__}: {error}") from error
    logging.getLogger("cellpose").setLevel(logging.ERROR)
    return package


def stardist_matching():
    """The module stardist.matching, by itself: it needs no more than a function of csbdeep."""
    spec = importlib.util.find_spec("stardist")
    if spec is None:
        pytest.skip("stardist is not installed")
    try:
        return importlib.import_module("stardist.matching")
    except Exception:  # of all that its package wants at import
        pass

    def _raise(error):
        raise error

    try:
        with _standing_in({"csbdeep": {}, "csbdeep.utils": {"_raise": _raise}}):
            path = f"{spec.submodule_search_locations[0]}/matching.py"
            alone = importlib.util.spec_from_file_location("stardist_matching", path)
            module = importlib.util.module_from_spec(alone)
            alone.loader.exec_module(module)
            return module
    except ImportError as error:
        pytest.skip(f"stardist.matching cannot be imported: {error}")


def cellpose_distributed():
    """The module of Cellpose's distributed merge; ImportError says why there is none.

    What it takes to run on a cluster and to read and write files is not needed to merge labels:
    empty modules stand in for what of it is not installed.
    """
    cellpose()
    importlib.import_module("dask_image.ndmeasure")
    empty = {
        "distributed": {"LocalCluster": object},
        "dask_jobqueue": {"LSFCluster": object},
        "imagecodecs": {},
        "zarr": {},
    }
    missing = {name: has for name, has in empty.items() if importlib.util.find_spec(name) is None}
    with _standing_in(missing):
        return importlib.import_module("cellpose.contrib.distributed_segmentation")


@contextlib.contextmanager
def _standing_in(modules):
    """Modules of those names with those attributes, while something imports them."""
    before = {name: sys.modules.get(name) for name in modules}
    for name, attributes in modules.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(attributes)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})


def hovernet_markers(prob, hv, *, ksize=21, border_threshold=0.4, min_size=10):
    """(markers, energy, mask) of HoVer-Net's post-processing, as OpenCV, SciPy and scikit-image
    compute its steps (Graham et al. 2019; tiatoolbox 2.1 calls the same functions)."""
    import cv2
    import numpy as np
    from scipy import ndimage
    from skimage.morphology import remove_small_objects

    def unit(values):
        return cv2.normalize(values, None, 0, 1, cv2.NORM_MINMAX, cv2.CV_32F)

    def without_small(mask):
        return remove_small_objects(ndimage.label(mask)[0], max_size=min_size - 1)

    mask = (without_small(prob >= 0.5) > 0).astype(np.int32)
    sides = [
        1 - unit(cv2.Sobel(unit(m), cv2.CV_64F, dx, 1 - dx, ksize=ksize))
        for m, dx in zip(hv, (1, 0), strict=True)
    ]
    border = np.maximum(*sides) - (1 - mask)
    border[border < 0] = 0
    energy = -cv2.GaussianBlur((1.0 - border) * mask, (3, 3), 0)
    inner = np.maximum(mask - (border >= border_threshold).astype(np.int32), 0)
    inner = ndimage.binary_fill_holes(inner).astype(np.uint8)
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    return without_small(cv2.morphologyEx(inner, cv2.MORPH_OPEN, ellipse)), energy, mask


def hovernet(prob, hv, **options):
    """Label image of HoVer-Net's post-processing; ids may have gaps."""
    from skimage.segmentation import watershed

    markers, energy, mask = hovernet_markers(prob, hv, **options)
    return watershed(energy, markers=markers, mask=mask)


def monai_post():
    """The module of MONAI's HoVerNet post-processing."""
    return importlib.import_module("monai.apps.pathology.transforms.post.array")


def hovernet_info(labels, types):
    """Box, centroid, contour and type of each nucleus in HoVer-Net's way: a loop that compares the
    whole image with each id, and OpenCV's moments and contours of the box."""
    import cv2
    import numpy as np

    info = {}
    for id_ in np.unique(labels)[1:]:
        whole = labels == id_
        rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        mask = whole[box].astype(np.uint8)
        moments = cv2.moments(mask)
        outlines, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        values, counts = np.unique(types[box][mask > 0], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        best = order[1] if values[order[0]] == 0 and len(order) > 1 else order[0]
        corner = np.array([columns[0], rows[0]])
        info[int(id_)] = {
            "bbox": [[rows[0], columns[0]], [rows[-1] + 1, columns[-1] + 1]],
            "centroid": corner + np.array([moments["m10"], moments["m01"]]) / moments["m00"],
            "contour": outlines[0].reshape(-1, 2) + corner,
            "type": int(values[best]),
            "type_prob": counts[best] / (mask.sum() + 1e-6),
        }
    return info


def monai_chain(logits, hv):
    """Label image of MONAI's HoVerNet post-processing, less its loop over the nuclei."""
    post = monai_post()
    mask = post.GenerateWatershedMask()(logits)
    border = post.GenerateInstanceBorder()(mask, hv)
    energy = post.GenerateDistanceMap()(mask, border)
    markers = post.GenerateWatershedMarkers()(mask, border)
    return post.Watershed()(energy, mask, markers)[0]


def detectron2_paste(masks, boxes, shape):
    """Values of the crops in the whole image, as ``detectron2.layers.mask_ops._do_paste_mask``
    computes them on all pixels (what it does on the GPU), float32 (N, H, W)."""
    import torch

    masks, boxes = torch.from_numpy(masks).float(), torch.from_numpy(boxes).float()
    x0, y0, x1, y1 = torch.split(boxes, 1, dim=1)
    at_y = torch.arange(shape[0], dtype=torch.float32) + 0.5
    at_x = torch.arange(shape[1], dtype=torch.float32) + 0.5
    at_y, at_x = (at_y - y0) / (y1 - y0) * 2 - 1, (at_x - x0) / (x1 - x0) * 2 - 1
    full = (len(masks), *shape)
    grid = torch.stack([at_x[:, None, :].expand(full), at_y[:, :, None].expand(full)], dim=3)
    grid_sample = torch.nn.functional.grid_sample
    return grid_sample(masks[:, None], grid, align_corners=False)[:, 0].numpy()


def detectron2_paste_cpu(masks, boxes, shape):
    """(masks (N, H, W) bool, [(corner, window)]), as ``detectron2.layers.paste_masks_in_image``
    makes them on the CPU: one instance after the other, each in the window around its box."""
    import torch

    masks, boxes = torch.from_numpy(masks), torch.from_numpy(boxes)
    out, windows = torch.zeros((len(masks), *shape), dtype=torch.bool), []
    for i in range(len(masks)):
        x0, y0 = torch.clamp(boxes[i, :2].floor() - 1, min=0).int().tolist()
        x1 = torch.clamp(boxes[i, 2].ceil() + 1, max=shape[1]).int().item()
        y1 = torch.clamp(boxes[i, 3].ceil() + 1, max=shape[0]).int().item()
        at_y = torch.arange(y0, y1, dtype=torch.float32) + 0.5
        at_x = torch.arange(x0, x1, dtype=torch.float32) + 0.5
        at_y = (at_y - boxes[i, 1]) / (boxes[i, 3] - boxes[i, 1]) * 2 - 1
        at_x = (at_x - boxes[i, 0]) / (boxes[i, 2] - boxes[i, 0]) * 2 - 1
        full = (y1 - y0, x1 - x0)
        grid = torch.stack([at_x[None, :].expand(full), at_y[:, None].expand(full)], dim=2)
        values = torch.nn.functional.grid_sample(
            masks[i][None, None], grid[None], align_corners=False
        )
        out[i, y0:y1, x0:x1] = values[0, 0] >= 0.5
        windows.append(((y0, x0), (slice(y0, y1), slice(x0, x1))))
    return out.numpy(), windows


def torchvision_paste(masks, boxes, shape):
    """Values of the crops in the whole image by torchvision's ``paste_masks_in_image``.

    It raises for boxes off the image: they get no values here.
    """
    import torch

    heads = torchvision_heads()
    out = np.zeros((len(masks), *shape), np.float32)
    for i, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        try:
            pasted = heads.paste_masks_in_image(
                torch.from_numpy(mask[None, None]).float(), torch.from_numpy(box[None]), shape
            )
        except RuntimeError:
            continue
        out[i] = pasted[0, 0].numpy()
    return out


def cv2_paste(masks, boxes, scores, shape):
    """The usual loop: each crop resized by OpenCV to its box in whole pixels, worst first."""
    import cv2

    labels = np.zeros(shape, np.int32)
    for i in np.argsort(scores, kind="stable"):
        x0, y0 = np.floor(boxes[i, :2]).astype(int)
        x1, y1 = np.ceil(boxes[i, 2:]).astype(int)
        mask = cv2.resize(masks[i], (int(x1 - x0), int(y1 - y0))) >= 0.5
        y, x = slice(max(y0, 0), min(y1, shape[0])), slice(max(x0, 0), min(x1, shape[1]))
        inside = mask[y.start - y0 : y.stop - y0, x.start - x0 : x.stop - x0]
        labels[y, x][inside] = i + 1
    return labels
