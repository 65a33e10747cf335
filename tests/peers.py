"""Imports of the packages that cellpost is compared with."""

from __future__ import annotations

import importlib
import logging
import sys


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


def cellpose():
    """Return the package cellpose with `.dynamics` and `.utils`; ImportError says why not."""
    try:
        _import_torchvision()
        package = importlib.import_module("cellpose")
        importlib.import_module("cellpose.dynamics")
        importlib.import_module("cellpose.utils")
    except ImportError:
        raise
    except Exception as error:  # a torch and a torchvision that do not fit raise all sorts
        raise ImportError(f"{type(error).__name__}: {error}") from error
    logging.getLogger("cellpose").setLevel(logging.ERROR)
    return package


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
