"""The transforms of `cellpost.integrations.monai_transforms` that run cellpost's kernels."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from cellpost._arrays import Array, check_fits
from cellpost.integrations._monai_windows import plain
from cellpost.integrations.hovernet import flood
from cellpost.labels import label, remove_small
from cellpost.properties import instance_types, properties
from cellpost.watershed import binary_fill_holes, binary_opening, watershed
from cellpost.watershed_hover import hover_gradients

_array: Any = importlib.import_module("monai.apps.pathology.transforms.post.array")
_post: Any = importlib.import_module("monai.transforms")
_convert: Any = importlib.import_module("monai.utils.type_conversion")


_LARGEST_KERNEL, _LARGEST_RADIUS, _LARGEST_SIGMA = 31, 31, 8


class Watershed(_array.Watershed):  # type: ignore[misc]
    """MONAI's ``Watershed`` with cellpost's flooding, for (1, H, W) and (1, D, H, W).

    Parameters
    ----------
    connectivity, dtype
        As MONAI's. Without markers, or with a connectivity that is no number, MONAI's code runs.

    Raises
    ------
    OverflowError
        If `dtype` cannot hold the markers' ids.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.integrations.monai_transforms import Watershed
    >>> energy, markers = np.array([[[0, 1, 3, 2, 0]]]), np.array([[[1, 0, 0, 0, 2]]])
    >>> Watershed()(energy, None, markers).tolist()
    [[[1, 1, 1, 2, 2]]]
    """

    def __call__(
        self, image: Array, mask: Array | None = None, markers: Array | None = None
    ) -> Any:
        """Flood `image` from `markers`: a NumPy array, as MONAI's."""
        given = getattr(markers, "shape", None)
        ndim = len(image.shape) - 1
        if (
            given is None
            or tuple(given) != tuple(image.shape)
            or image.shape[0] != 1
            or ndim not in (2, 3)
            or not isinstance(self.connectivity, int)
        ):
            return super().__call__(image, mask, markers)
        ids, energy = _tensor(markers)[0], _tensor(image)[0]
        labels = watershed(
            energy,
            ids.to(energy.device),
            mask=None if mask is None else _tensor(mask)[0].to(energy.device) != 0,
            connectivity=min(self.connectivity, ndim),
        )
        return _labels_like(labels[None], _convert.convert_to_numpy(image), self.dtype)


class GenerateWatershedMask(_array.GenerateWatershedMask):  # type: ignore[misc]
    """MONAI's ``GenerateWatershedMask`` with cellpost's components.

    Parameters
    ----------
    activation, threshold, min_object_size, dtype
        As MONAI's.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.integrations.monai_transforms import GenerateWatershedMask
    >>> logits = np.array([[[0.0, 0, 0, 0]], [[1, 1, -1, 1]]], np.float32)
    >>> GenerateWatershedMask(min_object_size=2)(logits).tolist()
    [[[1, 1, 0, 0]]]
    """

    def __call__(self, prob_map: Array) -> Any:
        """Give the foreground (1, H, W) of `prob_map`, of its kind."""
        prob = self.activation(prob_map)
        discrete = self.as_discrete
        if discrete.argmax and discrete.threshold is None and prob.shape[0] == 2:
            inside = _tensor(prob)
            inside = inside[1] > inside[0]  # argmax of two, which PyTorch is slow at
        else:
            chosen = _tensor(discrete(prob))
            if chosen.shape[0] != 1 or chosen.ndim not in (3, 4):
                return super().__call__(prob_map)
            inside = chosen[0] != 0
        regions: Array = remove_small(label(inside), min_size=_min_size(self))
        return _convert.convert_to_dst_type((regions > 0)[None], prob_map, dtype=self.dtype)[0]


class GenerateInstanceBorder(_array.GenerateInstanceBorder):  # type: ignore[misc]
    """MONAI's ``GenerateInstanceBorder`` with cellpost's derivatives.

    Parameters
    ----------
    kernel_size, dtype
        As MONAI's.

    Raises
    ------
    ValueError
        If a shape does not fit, or the map or its derivative is the same everywhere.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.integrations.monai_transforms import GenerateInstanceBorder
    >>> place = np.tile(np.linspace(-1, 1, 10, dtype=np.float32), 2)
    >>> hover_map = np.stack(np.meshgrid(place, place))
    >>> border = GenerateInstanceBorder(kernel_size=3)(np.ones((1, 20, 20), np.uint8), hover_map)
    >>> bool(border[0, 5, 10] == 1), bool(border[0, 5, 5] < 0.1)
    (True, True)
    """

    def __call__(self, mask: Array, hover_map: Array) -> Any:
        """Give the borders (1, H, W), largest 1, of `mask`'s kind."""
        maps, inside = _tensor(hover_map), _tensor(mask)
        ksize = _kernel_size(self)
        slopes = None
        if _has_kernels(maps, inside) and ksize <= _LARGEST_KERNEL:
            slopes = hover_gradients(maps, style="monai", ksize=ksize).to(torch.float32)
            lowest, highest = slopes.amin((1, 2), keepdim=True), slopes.amax((1, 2), keepdim=True)
        if slopes is None or bool((lowest == highest).any()):
            return super().__call__(mask, hover_map)
        if len(mask.shape) == 2:
            mask = mask[None]
        rest = (1 - inside.to(slopes.device, torch.float32)).reshape(slopes[:1].shape)
        border = (1 - (slopes - lowest) / (highest - lowest)).amax(0, keepdim=True)
        border = (border - rest).clamp_(min=0)
        return _convert.convert_to_dst_type(border, mask, dtype=self.dtype)[0]


class GenerateWatershedMarkers(_array.GenerateWatershedMarkers):  # type: ignore[misc]
    """MONAI's ``GenerateWatershedMarkers`` with cellpost's morphology and components.

    Parameters
    ----------
    threshold, radius, min_object_size, postprocess_fn, dtype
        As MONAI's. With a `postprocess_fn` of one's own MONAI's code runs.

    Raises
    ------
    OverflowError
        If `dtype` cannot hold the ids.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.integrations.monai_transforms import GenerateWatershedMarkers
    >>> border = np.zeros((1, 5, 11), np.float32)
    >>> border[..., 5] = 1
    >>> markers = GenerateWatershedMarkers()(np.ones((1, 5, 11), np.uint8), border)
    >>> markers[0, 2].tolist()
    [1, 1, 1, 1, 1, 0, 2, 2, 2, 2, 2]
    """

    def __call__(self, mask: Array, instance_border: Array) -> Any:
        """Give the numbered markers (1, H, W), with gaps where one was too small."""
        inside, border = _tensor(mask), _tensor(instance_border)
        certain = None
        if (
            border.ndim == 3
            and border.shape[0] == 1
            and tuple(inside.shape) in (tuple(border.shape), tuple(border.shape[1:]))
            and inside.dtype != torch.bool
            and _fills_all_holes(self.postprocess_fn)
            and self.radius <= _LARGEST_RADIUS
        ):
            uncertain = (border >= self.threshold).to(inside.device, inside.dtype)
            certain = (inside.reshape(border.shape) - uncertain).clamp_(min=0)[0]
        # Of another kind of mask, or where 0 - 1 wrapped: classes, of which each has its holes.
        if certain is None or bool((certain != (certain > 0)).any()):
            return super().__call__(mask, instance_border)
        filled = binary_fill_holes(certain > 0, connectivity=2)
        numbered = label(binary_opening(filled, radius=self.radius))
        markers: Array = remove_small(numbered, min_size=_min_size(self))
        return _labels_like(markers[None], mask, self.dtype)


class HoVerNetInstanceMapPostProcessing(
    _array.HoVerNetInstanceMapPostProcessing  # type: ignore[misc]
):
    """MONAI's ``HoVerNetInstanceMapPostProcessing`` in one pass over the maps.

    Parameters
    ----------
    activation, mask_threshold, min_object_size, sobel_kernel_size, distance_smooth_fn, \
marker_threshold, marker_radius, marker_postprocess_fn, watershed_connectivity, min_num_points, \
contour_level, device
        As MONAI's. With functions of one's own (other than ``GaussianSmooth(sigma)``) the steps run
        one after the other.

    Notes
    -----
    The contours are made by MONAI's code, nucleus by nucleus: of many nuclei they take most of the
    time. Without them: `cellpost.hover_watershed`.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.integrations.monai_transforms import HoVerNetInstanceMapPostProcessing
    >>> place = np.tile(np.linspace(-1, 1, 20, dtype=np.float32), 2)
    >>> hover_map = np.stack(np.meshgrid(place, place[:20]))
    >>> logits = np.stack([np.zeros((20, 40)), np.ones((20, 40))]).astype(np.float32)
    >>> info, instance_map = HoVerNetInstanceMapPostProcessing()(logits, hover_map)
    >>> len(info), instance_map[0, 10, [5, 35]].tolist()
    (2, [1, 2])
    """

    @functools.wraps(_array.HoVerNetInstanceMapPostProcessing.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        take_over(self)

    def __call__(self, nuclear_prediction: Array, hover_map: Array) -> tuple[dict[Any, Any], Any]:
        """Give the dict of each nucleus, and labels (1, H, W)."""
        maps = _tensor(hover_map)
        if not self._runs_at_once() or not _has_kernels(maps, maps[:1]):
            result: tuple[dict[Any, Any], Any] = super().__call__(nuclear_prediction, hover_map)
            return result
        mask = _tensor(self.generate_watershed_mask(nuclear_prediction))[0]
        markers = self.generate_watershed_markers
        labels = flood(
            mask.to(maps.device) != 0,
            maps,
            style="monai",
            ksize=_kernel_size(self.generate_instance_border),
            sigma=float(self.generate_distance_map.smooth_fn.sigma),
            border_threshold=markers.threshold,
            radius=markers.radius,
            min_size=_min_size(markers),
            connectivity=min(self.watershed.connectivity, 2),
        )
        labels = labels.to("cpu", torch.int64)
        return self._describe(labels), _convert.convert_to_tensor(labels[None], device=self.device)

    def _runs_at_once(self) -> bool:
        smooth = self.generate_distance_map.smooth_fn
        return (
            type(smooth) is _post.GaussianSmooth
            and smooth.approx == "erf"
            and isinstance(smooth.sigma, (int, float))
            and 0 < smooth.sigma <= _LARGEST_SIGMA
            and _fills_all_holes(self.generate_watershed_markers.postprocess_fn)
            and self.generate_watershed_markers.radius <= _LARGEST_RADIUS
            and _kernel_size(self.generate_instance_border) <= _LARGEST_KERNEL
            and isinstance(self.watershed.connectivity, int)
        )

    def _describe(self, labels: Array) -> dict[Any, Any]:
        pixels = labels.numpy()
        table = properties(pixels)
        corners = table["bbox"][:, :2]
        # As MONAI's: y in the box plus the box's x, and x in the box plus its y.
        centroids = (table["centroid"] - corners + corners[:, ::-1]).astype(int)
        info = {}
        for id_, bbox, centroid in zip(table["label"], table["bbox"], centroids, strict=True):
            y0, x0, y1, x1 = bbox
            whole = ndimage.binary_fill_holes(pixels[y0:y1, x0:x1] == id_, np.ones((3, 3)))
            contour = self.generate_instance_contour(whole[None], (x0, y0))
            if contour is not None:
                info[id_.astype(np.int64)] = {
                    "bounding_box": np.array([[y0, y1, x0, x1]]),
                    "centroid": centroid,
                    "contour": contour,
                }
        return info


class HoVerNetNuclearTypePostProcessing(
    _array.HoVerNetNuclearTypePostProcessing  # type: ignore[misc]
):
    """MONAI's ``HoVerNetNuclearTypePostProcessing``, with all nuclei's types in one pass.

    Parameters
    ----------
    activation, threshold, return_type_map, device
        As MONAI's.

    Raises
    ------
    KeyError
        If `instance_info` has an id that `instance_map` has not.

    Notes
    -----
    All pixels of an id count, whatever its ``"bounding_box"``.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.integrations.monai_transforms import HoVerNetNuclearTypePostProcessing
    >>> logits = np.zeros((3, 2, 3), np.float32)
    >>> logits[2, :, :2] = 1
    >>> instance_map = np.array([[[7, 7, 7], [7, 0, 0]]])
    >>> info, types = HoVerNetNuclearTypePostProcessing()(logits, {7: {}}, instance_map)
    >>> info[7]["type"], round(info[7]["type_prob"], 3), types.tolist()
    (2, 0.75, [[[2, 2, 2], [2, 0, 0]]])
    """

    def __call__(
        self, type_prediction: Array, instance_info: dict[Any, Any], instance_map: Array
    ) -> tuple[dict[Any, Any], Any]:
        """Add ``"type"`` and ``"type_prob"`` to `instance_info`; also give the types (1, H, W)."""
        discrete = self.as_discrete
        pixels = self.activation(type_prediction)
        if discrete.argmax and discrete.threshold is None:
            pixels = _tensor(pixels)
        else:
            pixels = _tensor(discrete(pixels))[0].to(torch.int32)
        labels = _tensor(instance_map)[0]
        types, shares = instance_types(labels, pixels.to(labels.device))
        found = dict(zip(properties(labels)["label"].tolist(), range(len(types)), strict=True))
        rows = [found[int(id_)] for id_ in instance_info]
        for about, type_, share in zip(
            instance_info.values(), types[rows].tolist(), shares[rows].tolist(), strict=True
        ):
            about["type_prob"], about["type"] = share, type_
        if not self.return_type_map:
            return instance_info, None
        of_id = types.new_zeros(max(found, default=0) + 1)
        of_id[[int(id_) for id_ in instance_info]] = types[rows]
        type_map = _convert.convert_to_dst_type(of_id[labels.to(torch.int64)][None], instance_map)[
            0
        ]
        return instance_info, _convert.convert_to_tensor(type_map, device=self.device)


# ---- in place of MONAI's ------------------------------------------------------------------------

_OURS: dict[type, type] = {
    ours.__mro__[1]: ours
    for ours in (
        Watershed,
        GenerateWatershedMask,
        GenerateInstanceBorder,
        GenerateWatershedMarkers,
        HoVerNetInstanceMapPostProcessing,
        HoVerNetNuclearTypePostProcessing,
    )
}


def take_over(transform: Any) -> None:
    """Let the steps that one of MONAI's transforms has made itself run cellpost's code.

    They keep their state: defaults and checks of arguments stand in MONAI's code alone.
    """
    for step in vars(transform).values():
        if type(step) in _OURS:
            step.__class__ = _OURS[type(step)]
            take_over(step)


# ---- what the steps are asked -------------------------------------------------------------------


def _tensor(values: Array) -> Array:
    """The values as a tensor of PyTorch's own class, on their device."""
    return plain(torch, _convert.convert_to_tensor(values))


def _labels_like(labels: Array, given: Array, dtype: Any) -> Any:
    """The labels as an array of the kind of `given`, in the dtype asked for."""
    name = np.dtype(_convert.get_equivalent_dtype(dtype, np.ndarray))
    if dtype is not None and name.kind in "iu" and labels.numel():
        check_fits(int(labels.max()), name.name, "dtype")
    return _convert.convert_to_dst_type(labels, given, dtype=dtype)[0]


def _min_size(step: Any) -> int:
    return 0 if step.remove_small_objects is None else int(step.remove_small_objects.min_size)


def _kernel_size(step: Any) -> int:
    return len(step.sobel_gradient.kernel_diff)


def _has_kernels(maps: Array, mask: Array) -> bool:
    """Whether HoVer maps and a mask (H, W) or (1, H, W) are what the kernels are made for."""
    return (
        maps.ndim == 3
        and maps.shape[0] == 2
        and maps.dtype == torch.float32
        and mask.ndim in (2, 3)
        and mask.numel() == maps[0].numel()
        and mask.shape[-2:] == maps.shape[-2:]
    )


def _fills_all_holes(function: Any) -> bool:
    """Whether it is MONAI's ``FillHoles`` with its defaults."""
    return (
        type(function) is _post.FillHoles
        and function.applied_labels is None
        and function.connectivity is None
    )
