"""MONAI's sliding-window inference, for PyTorch; MONAI itself is not needed."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellpost._arrays import Array
from cellpost.integrations._monai_windows import WindowMap, Windows, check_tensor, plain
from cellpost.labels import integer, number
from cellpost.models import is_compiled
from cellpost.tiles_grid import Padding, TileGrid

__all__ = ["SlidingWindowInferer", "sliding_window_inference"]

_MODES = ("constant", "gaussian")
_PADDINGS: dict[str, Padding] = {
    "constant": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}
_FLOOR = 1e-3  # of the Gaussian's weights


def sliding_window_inference(
    inputs: Array,
    roi_size: Sequence[int | None] | int | None,
    sw_batch_size: int,
    predictor: Callable[..., Any],
    overlap: Sequence[float] | float = 0.25,
    mode: str = "constant",
    sigma_scale: Sequence[float] | float = 0.125,
    padding_mode: str = "constant",
    cval: float = 0.0,
    sw_device: Any = None,
    device: Any = None,
    progress: bool = False,
    roi_weight_map: Array | None = None,
    process_fn: Callable[..., Any] | None = None,
    buffer_steps: int | None = None,
    buffer_dim: int = -1,
    with_coord: bool = False,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run a predictor on overlapping windows of images, and blend what it puts out.

    Takes the arguments of MONAI's function of this name, and gives its result.

    Parameters
    ----------
    inputs : (N, C, H, W) or (N, C, D, H, W) torch.Tensor or MetaTensor
        Images, one or more of one pixel or more; any real dtype. Never written to.
    roi_size : int, or int per axis
        Side of the windows in pixels; None, 0 or less: the image's. An image that is smaller is
        padded on both sides.
    sw_batch_size : int
        Windows a batch, 1 or more; the last batch may have fewer. A batch may have windows of two
        images.
    predictor : callable
        Called with a batch (n, C, h, w) or (n, C, d, h, w) on `sw_device`, then the windows' slices
        (`with_coord`), `args` and `kwargs`. Gives a tensor (n, K, h', w') or (n, K, d', h', w'), or
        a sequence or a dict of such; h' / h is how much larger than the input that map becomes. It
        may write to the batch, keep it, or return it.
    overlap : float or one per axis
        Share of a window that the next one covers again, 0 <= overlap < 1.
    mode : {"constant", "gaussian"} or monai.utils.BlendMode
        How the pixels of a window are weighted.
    sigma_scale : float or one per axis
        Standard deviation of the Gaussian as a share of the window's side, above 0.
    padding_mode : {"constant", "reflect", "replicate", "circular"} or monai.utils.PytorchPadMode
        What is there beyond an image that is smaller than the window.
    cval : float
        With ``padding_mode="constant"``.
    sw_device, device : torch.device or str, optional
        Of the batches, and of the result; those of `inputs` if not given.
    progress : bool
        Show a bar on stderr.
    roi_weight_map : torch.Tensor, optional
        Weights of a window's pixels in place of those of `mode`, of the shape `roi_size` or
        ``(1, 1, *roi_size)``, finite, 0 or more.
    process_fn : callable, optional
        Called with the outputs of a batch (a tuple), the batch, and the weights; gives outputs and
        weights in their place: of the shape ``roi_size``, or with axes of 1 or n windows and of 1
        or K channels before. The arguments are its own to write to.
    buffer_steps, buffer_dim : int, optional
        Taken and not needed: results come in rows of windows anyway.
    with_coord : bool
        Give the predictor a list of the windows' slices, one list for each:
        ``[image, channels, rows, columns]``, in pixels of the padded image.
    *args, **kwargs
        For the predictor. ``condition``, if given, is a tensor of as many images of the same size,
        of which it gets the same windows.

    Returns
    -------
    torch.Tensor, tuple of them, or dict of them
        (N, K, H', W') or (N, K, D', H', W') as the predictor gives them (a sequence of one: a
        tensor; the keys of a dict are sorted); new, on `device`, of the inputs' dtype, without a
        gradient. Of integer or bool inputs: of the output's own dtype if that is floating, else
        float32. MetaTensors with the metadata of the inputs if these are MetaTensors.

    Raises
    ------
    TypeError
        If `inputs`, `condition`, or what the predictor gives are no such tensors.
    ValueError
        If an argument is out of range, or outputs are not of the batch's length, as many axes, or
        the size that the first ones were of.

    See Also
    --------
    cellpost.TileGrid, cellpost.Stitcher

    Notes
    -----
    At each pixel the result is the weighted mean of the windows there, summed in float64 window by
    window in raster order: the answer does not depend on `sw_batch_size`, if the predictor's does
    not. MONAI 1.6 sums in the inputs' dtype: results differ by that rounding (float32: about 1e-6
    of the range of the values).

    Where MONAI differs in more than that: it writes to the predictor's output, and with one window
    a batch an in-place predictor writes to its inputs; it raises for integer inputs, for integer
    outputs, for outputs of the input's size after smaller ones, and for reflections that are longer
    than the image; it gives float32 for MetaTensors of any dtype; and where `process_fn` gives
    other weights for each batch, it divides by the first batch's (here: by their sum).

    Memory: the result, up to three batches, the predictor's outputs, and rows of windows up to the
    last one that shares pixels: at most as much as the result, or 512 MiB. If they would take up
    more (volumes of many channels, or with a high overlap), or weights vary, or some are 0: float64
    sums of one row of windows instead, which takes about twice as long. Both give the same bits.

    Window borders follow MONAI: every ``max(int(roi * (1 - overlap)), 1)`` pixels, the last window
    moved back; in an output of another size at ``start * zoom``, rounded down, weighted by the
    nearest weights. MONAI rounds after a division: a zoom like 1/49 costs its maps a pixel.

    Run it in ``torch.no_grad()``, as the predictor is run in the caller's mode.

    Examples
    --------
    >>> import torch
    >>> from cellpost.integrations.monai import sliding_window_inference
    >>> image = torch.rand(1, 3, 300, 200)
    >>> maps = sliding_window_inference(image, 128, 4, torch.sigmoid, 0.6, "gaussian")
    >>> torch.allclose(maps, torch.sigmoid(image), atol=1e-6)
    True
    """
    import torch

    check_tensor(torch, "inputs", inputs)
    images = plain(torch, inputs)
    if images.ndim not in (4, 5):
        raise ValueError(
            f"inputs: expected shape (N, C, H, W) or (N, C, D, H, W); got {tuple(images.shape)}"
        )
    if 0 in (images.shape[0], *images.shape[2:]):
        raise ValueError(
            f"inputs: expected one image or more, of one pixel or more; got {tuple(images.shape)}"
        )
    size = tuple(map(int, images.shape[2:]))
    roi = _roi(roi_size, size)
    grid = TileGrid(size, tile=roi, overlap=_overlaps(overlap, len(size)))
    n_batch = integer("sw_batch_size", sw_batch_size)
    if n_batch < 1:
        raise ValueError(f"sw_batch_size: expected 1 or more; got {sw_batch_size}")
    if buffer_steps is not None and buffer_steps > 0 and not -len(size) <= buffer_dim < len(size):
        raise ValueError(
            f"buffer_dim: expected {-len(size)} to {len(size) - 1}; got {buffer_dim!r}"
        )
    padding = _PADDINGS[_option("padding_mode", padding_mode, tuple(_PADDINGS))]
    weights = _weights(torch, roi, mode, sigma_scale, roi_weight_map)
    sw_device = images.device if sw_device is None else torch.device(sw_device)
    device = images.device if device is None else torch.device(device)
    windows = Windows(torch, images, grid, padding, float(cval), sw_device)
    conditions = None
    condition = kwargs.pop("condition", None)
    if condition is not None:
        check_tensor(torch, "condition", condition)
        if (condition.shape[0], *condition.shape[2:]) != (images.shape[0], *size):
            raise ValueError(
                f"condition: expected shape ({images.shape[0]}, C, {str(size)[1:]}, as inputs; got "
                f"{tuple(condition.shape)}"
            )
        condition = plain(torch, condition)
        conditions = Windows(torch, condition, grid, padding, float(cval), sw_device)

    maps: list[WindowMap] = []
    scaled: list[Array | None] = []
    keys: list[Any] | None = None
    n_windows = images.shape[0] * len(grid)

    for k in _shown(range(-(-n_windows // n_batch)), progress):
        which = range(k * n_batch, min((k + 1) * n_batch, n_windows))
        batch = windows.cut(which)
        given = [batch, [windows.slices(i) for i in which]] if with_coord else [batch]
        extra = kwargs if conditions is None else {**kwargs, "condition": conditions.cut(which)}
        keys, outputs = _members(torch, predictor(*given, *args, **extra))
        is_own = process_fn is None and _is_own(torch, predictor, outputs, batch)
        weight = weights
        if process_fn is not None:
            own = torch.ones(roi) if weights is None else weights.clone()
            if roi_weight_map is not None:
                own = own.reshape(roi_weight_map.shape)
            if images.is_floating_point():
                own = own.to(images.dtype)
            outputs, weight = _processed(torch, process_fn, outputs, batch, own.to(sw_device))
        if not maps:
            maps = [WindowMap(images.shape[0], grid) for _ in outputs]
        if len(outputs) != len(maps):
            raise ValueError(
                f"predictor: expected {len(maps)} outputs, as of the first batch; got "
                f"{len(outputs)}"
            )
        if process_fn is not None or maps[0].result is None:
            scaled = _scaled_weights(torch, weight, outputs, roi)
        for each, output, one in zip(maps, outputs, scaled, strict=True):
            _check_output(output, len(which), len(size))
            if each.result is None:
                dtype = _result_dtype(torch, images.dtype, output.dtype)
                each.open(torch, output, dtype, device, one, process_fn is not None)
            # Of a function nobody knows whether it will write to its output again.
            each.add(torch, which, output, one, copy=not is_own)

    results = [_like(inputs, each.result) for each in maps]
    if keys is not None:
        return dict(zip(keys, results, strict=False))
    return results[0] if len(results) == 1 else tuple(results)


class SlidingWindowInferer:
    """Run a network on overlapping windows of images: `sliding_window_inference` with its options.

    Takes the arguments of MONAI's class of this name.

    Parameters
    ----------
    roi_size, sw_batch_size, overlap, mode, sigma_scale, padding_mode, cval
        As of `sliding_window_inference`.
    sw_device, device, progress, buffer_steps, buffer_dim, with_coord
        As of `sliding_window_inference`.
    cache_roi_weight_map : bool
        Taken and not needed: weights are made in no time.
    cpu_thresh : int, optional
        Images of more pixels have their result on the CPU, if no `device` is given.

    Raises
    ------
    ValueError
        If `mode` is unknown.

    Examples
    --------
    >>> import torch
    >>> from cellpost.integrations.monai import SlidingWindowInferer
    >>> inferer = SlidingWindowInferer(64, sw_batch_size=4, overlap=0.5, mode="gaussian")
    >>> inferer(torch.zeros(2, 1, 100, 80), torch.nn.Identity()).shape
    torch.Size([2, 1, 100, 80])
    """

    def __init__(
        self,
        roi_size: Sequence[int | None] | int | None,
        sw_batch_size: int = 1,
        overlap: Sequence[float] | float = 0.25,
        mode: str = "constant",
        sigma_scale: Sequence[float] | float = 0.125,
        padding_mode: str = "constant",
        cval: float = 0.0,
        sw_device: Any = None,
        device: Any = None,
        progress: bool = False,
        cache_roi_weight_map: bool = False,
        cpu_thresh: int | None = None,
        buffer_steps: int | None = None,
        buffer_dim: int = -1,
        with_coord: bool = False,
    ) -> None:
        self.roi_size = roi_size
        self.sw_batch_size = sw_batch_size
        self.overlap = overlap
        self.mode = _option("mode", mode, _MODES)
        self.sigma_scale = sigma_scale
        self.padding_mode = padding_mode
        self.cval = cval
        self.sw_device = sw_device
        self.device = device
        self.progress = progress
        self.cache_roi_weight_map = cache_roi_weight_map
        self.cpu_thresh = cpu_thresh
        self.buffer_steps = buffer_steps
        self.buffer_dim = buffer_dim
        self.with_coord = with_coord
        self.roi_weight_map: Array | None = None

    def __call__(
        self, inputs: Array, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Run a network on images.

        Parameters
        ----------
        inputs, network
            As `inputs` and `predictor` of `sliding_window_inference`.
        *args, **kwargs
            For the network, but for ``device``, ``buffer_steps`` and ``buffer_dim``, which take the
            place of the inferer's, and ``condition``, a tensor of the inputs' shape.

        Returns
        -------
        torch.Tensor, tuple of them, or dict of them
            As of `sliding_window_inference`.

        Raises
        ------
        ValueError
            If ``condition`` is not of the inputs' shape.
        TypeError, ValueError
            As of `sliding_window_inference`.
        """
        condition = kwargs.get("condition")
        if condition is not None and condition.shape != inputs.shape:
            raise ValueError(
                f"condition: expected the shape of inputs, {tuple(inputs.shape)}; got "
                f"{tuple(condition.shape)}"
            )
        device = kwargs.pop("device", self.device)
        buffer_steps = kwargs.pop("buffer_steps", self.buffer_steps)
        buffer_dim = kwargs.pop("buffer_dim", self.buffer_dim)
        if device is None and self.cpu_thresh is not None:
            device = "cpu" if math.prod(inputs.shape[2:]) > self.cpu_thresh else None
        return sliding_window_inference(
            inputs,
            self.roi_size,
            self.sw_batch_size,
            network,
            self.overlap,
            self.mode,
            self.sigma_scale,
            self.padding_mode,
            self.cval,
            self.sw_device,
            device,
            self.progress,
            self.roi_weight_map,
            None,
            buffer_steps,
            buffer_dim,
            self.with_coord,
            *args,
            **kwargs,
        )


# ---- arguments ----------------------------------------------------------------------------------


def _like(inputs: Array, result: Array) -> Array:
    """A MetaTensor if the inputs are one: MONAI has been imported then."""
    module = sys.modules.get("monai.data.meta_tensor")
    if module is None or not isinstance(inputs, module.MetaTensor):
        return result
    return module.MetaTensor(result).copy_meta_from(inputs)


def _per_axis(name: str, value: Any, n: int) -> list[Any]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str):
        return [value] * n
    if len(value) != n:
        raise ValueError(f"{name}: expected one number, or one for each of {n} axes; got {value!r}")
    return list(value)


def _roi(roi_size: Any, size: tuple[int, ...]) -> tuple[int, ...]:
    sides = []
    for one, whole in zip(_per_axis("roi_size", roi_size, len(size)), size, strict=True):
        try:
            side = 0 if one is None else index(one)
        except TypeError:
            raise TypeError(f"roi_size: expected integers or None; got {roi_size!r}") from None
        sides.append(side if side > 0 else whole)
    return tuple(sides)


def _overlaps(overlap: Any, n: int) -> list[float]:
    shares = [number("overlap", one) for one in _per_axis("overlap", overlap, n)]
    if not all(0 <= share < 1 for share in shares):
        raise ValueError(
            f"overlap: expected a share of the window, 0 <= overlap < 1; got {overlap!r}"
        )
    return shares


def _option(name: str, value: Any, options: Sequence[str]) -> str:
    value = getattr(value, "value", value)  # of MONAI's enums
    if not isinstance(value, str) or value.strip() not in options:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}; got {value!r}")
    return value.strip()


def _weights(
    torch: Any, roi: tuple[int, ...], mode: Any, sigma_scale: Any, roi_weight_map: Any
) -> Array | None:
    """Weights of a window's pixels, float32 on the CPU; None if all are 1."""
    n = len(roi)
    named = _option("mode", mode, _MODES)
    if roi_weight_map is not None:
        check_tensor(torch, "roi_weight_map", roi_weight_map)
        given = plain(torch, roi_weight_map).to("cpu", torch.float32)
        if tuple(given.shape) not in (roi, (1, 1, *roi)):
            raise ValueError(
                f"roi_weight_map: expected shape {roi} or {(1, 1, *roi)}; got {tuple(given.shape)}"
            )
        if not bool((torch.isfinite(given) & (given >= 0)).all()):
            raise ValueError("roi_weight_map: expected finite weights of 0 or more; got others")
        return given.reshape(roi)
    if named == "constant":
        return None
    weights: NDArray[np.float32] = np.ones((1,) * n, np.float32)
    sigmas = [number("sigma_scale", one) for one in _per_axis("sigma_scale", sigma_scale, n)]
    for axis, (side, sigma) in enumerate(zip(roi, sigmas, strict=True)):
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma_scale: expected finite numbers above 0; got {sigma_scale!r}")
        # In float32 from here on, as MONAI's.
        x = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
        line = np.exp(x**2 / np.float32(-2 * (sigma * side) ** 2))
        weights = weights * line.reshape([-1 if k == axis else 1 for k in range(n)])
    return torch.from_numpy(np.maximum(weights, np.float32(_FLOOR)))


def _shown(batches: Iterable[int], progress: bool) -> Iterable[int]:
    if not progress:
        return batches
    from rich.console import Console
    from rich.progress import track

    return track(batches, description="windows", console=Console(stderr=True))


# ---- outputs ------------------------------------------------------------------------------------


def _members(torch: Any, output: Any) -> tuple[list[Any] | None, list[Array]]:
    """(sorted keys of a dict, tensors) of what a predictor gives."""
    keys = None
    if isinstance(output, torch.Tensor):
        values = [output]
    elif isinstance(output, Mapping):
        keys = sorted(output)
        values = [output[key] for key in keys]
    elif isinstance(output, Sequence):
        values = list(output)
    else:
        values = [output]
    if not values:
        raise ValueError("predictor: expected one output or more; got none")
    for value in values:
        check_tensor(torch, "predictor", value)
    return keys, [plain(torch, value) for value in values]


def _processed(
    torch: Any, process_fn: Callable[..., Any], outputs: list[Array], batch: Array, weight: Array
) -> tuple[list[Array], Array]:
    processed, weight = process_fn(tuple(outputs), batch, weight)
    return _members(torch, processed)[1], weight


def _check_output(output: Array, n: int, ndim: int) -> None:
    shape = tuple(output.shape)
    if len(shape) != ndim + 2 or shape[0] != n or 0 in shape:
        raise ValueError(
            f"predictor: expected outputs of shape ({n}, K, {', '.join('DHW'[-ndim:])}), not empty;"
            f" got {shape}"
        )


def _result_dtype(torch: Any, given: Any, output: Any) -> Any:
    if given.is_floating_point:
        return given
    return output if output.is_floating_point else torch.float32


def _scaled_weights(
    torch: Any, weight: Array | None, outputs: Sequence[Array], roi: tuple[int, ...]
) -> list[Array | None]:
    """Weights for each output, (1 or n, 1 or K, *its size).

    As in MONAI those of an output of another size are made from those of the one before.
    """
    if weight is None:
        return [None] * len(outputs)
    check_tensor(torch, "process_fn", weight)
    weight = plain(torch, weight)
    if weight.ndim == len(roi):
        weight = weight[None, None]
    first, found = weight, []
    for output in outputs:
        size = tuple(output.shape[2:])
        if size != roi:
            as_float = weight.to(torch.promote_types(weight.dtype, torch.float32))
            weight = torch.nn.functional.interpolate(as_float, size, mode="nearest-exact")
        elif tuple(weight.shape[2:]) != size:
            weight = first
        found.append(weight)
    return found


def _is_own(torch: Any, predictor: Any, outputs: Sequence[Array], batch: Array) -> bool:
    """Whether nobody writes to the outputs later: they are the batch, or new."""
    if any(output.device.type != "cpu" for output in outputs):
        return False  # what is captured in a CUDA graph writes to one output again and again
    if isinstance(predictor, torch.nn.Module) and not is_compiled(predictor):
        return True
    ours = batch.untyped_storage().data_ptr()
    return len(outputs) == 1 and outputs[0].untyped_storage().data_ptr() == ours
