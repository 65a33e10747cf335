"""Networks of any library as one kind of function: a batch of tiles in, checked outputs out."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellpost._arrays import Array, Arrays, dtype_name, to_host
from cellpost.labels import integer

__all__ = ["Head", "Predictor", "as_predictor"]

Head: TypeAlias = Literal["flows", "hover", "instances", "labels"]

# What published networks call the members of their dicts, in the order of the channels.
_MEMBERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "flows": (("dP", "flows", "flow"), ("cellprob", "prob", "logits")),
    "hover": (
        ("np", "nucleus_prediction", "prob"),
        ("hv", "horizontal_vertical"),
        ("tp", "type_prediction", "types"),
    ),
}
_OPTIONAL = _MEMBERS["hover"][2]
_HEADS = (*_MEMBERS, "instances", "labels")
_ONNX_FLOATS = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}


@dataclass(frozen=True, eq=False)
class Predictor:
    """A network, called with a batch of tiles; made by `as_predictor`.

    Attributes
    ----------
    model : object
        The network, as it was given.
    head : {"flows", "hover", "instances", "labels"} or None
        What it predicts.
    keys : tuple of str, or None
        Members of its outputs that hold the maps, in the order of the channels.
    owns_output : bool
        True: no later call writes to an output, and so the caller may keep it or write to it. True
        for ONNX sessions and PyTorch modules (give one that hands out its own tensors in a
        function); False for functions, which may return one buffer again and again, and for what
        ``torch.compile`` made, whose CUDA graphs do; or what `as_predictor` was told.
    margin : int
        Pixels by which outputs are smaller than the tiles, at each side.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.models import as_predictor
    >>> model = as_predictor(lambda batch: batch[:, :1] > 0.5, head="labels")
    >>> model(np.zeros((2, 1, 8, 8)))
    Traceback (most recent call last):
    TypeError: model: expected an integer dtype of head 'labels'; got bool
    """

    model: Any
    head: Head | None
    keys: tuple[str, ...] | None
    owns_output: bool
    _run: Callable[[Array], Any] = field(repr=False)
    margin: int = 0

    def __call__(self, batch: Array) -> Any:
        """Predict a batch of tiles.

        Parameters
        ----------
        batch : array, (N, C, h, w) or (N, C, d, h, w), any dtype
            The predictor's to lose: networks may write to it, and an output may lie in its memory.
            A PyTorch module gets it on its own device, and floats in its own floating dtype; a
            session as NumPy's array, floats in the dtype of its input; a function as it is.

        Returns
        -------
        array
            With a head of maps, or none: (N, K, h, w) or (N, K, d, h, w), float32 or float64; with
            ``"labels"`` (N, h, w) or (N, d, h, w), of an integer dtype. Of the library and on the
            device that the network answers in.
        list
            With ``"instances"``: of N outputs that `cellpost.as_detections` is to read.

        Raises
        ------
        TypeError
            If `batch` is no array, or the output is none or has no fitting dtype.
        ValueError
            If `batch` has another number of axes, or the output is not of N tiles of the batch's
            size, less the margin, with the channels of its head.
            What the network itself raises passes through.

        Notes
        -----
        Maps in half precision become float32, exactly. Nothing else is changed or checked: NaN
        stays.

        Examples
        --------
        >>> import numpy as np
        >>> from cellpost.models import as_predictor
        >>> as_predictor(lambda batch: batch.sum(axis=1))(np.ones((4, 3, 8, 8))).shape
        (4, 1, 8, 8)
        """
        shape = tuple(getattr(batch, "shape", ()))
        if len(shape) not in (4, 5):
            got = f"shape {shape}" if hasattr(batch, "shape") else type(batch).__name__
            error = ValueError if hasattr(batch, "shape") else TypeError
            raise error(f"batch: expected an array (N, C, h, w) or (N, C, d, h, w); got {got}")
        least = 2 * self.margin + 1
        if min(shape[2:]) < least and 0 not in shape:
            raise ValueError(f"batch: expected tiles of {least} or more pixels; got shape {shape}")
        output = self._run(batch)
        shape = (*shape[:2], *(n - 2 * self.margin for n in shape[2:]))
        if self.head == "instances":
            return _instances(output, shape[0])
        if self.head == "labels":
            return _labels(output, shape)
        return _maps(self._members(output, shape), shape, self.head)

    def _members(self, output: Any, shape: tuple[int, ...]) -> dict[str, Array]:
        """The arrays of an output that hold the maps, in order, by names for errors."""
        if self.keys is not None and not isinstance(self._run, _Session):
            if not isinstance(output, Mapping):
                raise TypeError(
                    f"model: expected a dict with the keys {_listed(self.keys)}; got "
                    f"{type(output).__name__}"
                )
            return _by_name(output, [(key,) for key in self.keys])
        if isinstance(output, Mapping):
            if self.head is None:
                raise ValueError(
                    f"keys: expected the members to use of the model's {_listed(output)}; got None"
                )
            return _by_name(output, _MEMBERS[self.head])
        if not isinstance(output, list | tuple):
            return {"model": output}
        fitting = {
            f"model[{i}]": member
            for i, member in enumerate(output)
            if _without_channels(getattr(member, "shape", ()), len(shape)) == _tiles(shape)
        }
        if not fitting:
            got = [tuple(getattr(m, "shape", ())) or type(m).__name__ for m in output]
            raise ValueError(
                f"model: expected an array of shape {_wanted(shape)} among its outputs; got {got}"
            )
        return fitting


def as_predictor(
    model: Any,
    *,
    head: Head | None = None,
    keys: Sequence[str] | None = None,
    device: Any = None,
    amp: bool = False,
    owns_output: bool | None = None,
    margin: int | None = None,
) -> Predictor:
    """Make a network, of whatever library, a checked function of a batch of tiles.

    Parameters
    ----------
    model : torch.nn.Module, onnxruntime.InferenceSession, or callable
        A module (scripted and compiled ones are some) runs in eval mode, without gradients; the
        modes of its parts are put back after each call. A session has to have one input. Anything
        else that can be called gets the batch and nothing else. A `Predictor` is returned as it is.
    head : {"flows", "hover", "instances", "labels"}, optional
        What the network predicts. ``"flows"``: the flow, 2 channels (3 of volumes), then the
        cells' logit. ``"hover"``: nucleus probability (1 or 2 channels), horizontal and vertical
        map, then types, if any. ``"instances"``: detections, for each tile an output that
        `cellpost.as_detections` reads. ``"labels"``: label images. None: maps of any channels.
    keys : sequence of str, optional
        Names of the maps in the network's dict, in the order of the channels, instead of those
        below; of a session, names of its outputs.
    device : torch.device or str, optional
        Where to move a module, for good; where its first parameter is if not given. Frozen scripts
        have no parameters: say where they are.
    amp : bool
        Run a module under ``torch.autocast`` for its device.
    owns_output : bool, optional
        Whether each output is new memory, to which nobody writes later, so that it need not be
        copied. If not given, as `Predictor` says: False for functions.
    margin : int, optional
        Pixels by which its maps are smaller than the tiles it sees, at each side, 0 or more: 46 of
        a HoVer-Net that makes 164 x 164 of 256 x 256. 0 if not given.

    Returns
    -------
    Predictor
        Called with a batch (N, C, h, w) or (N, C, d, h, w).

    Raises
    ------
    TypeError
        If `model` is none of these, or `device` or `amp` is given for another one than a module, or
        `keys` is no sequence of names.
    ValueError
        If `head` is unknown; if it has no maps and there are keys; if the session has not one
        input; if `device` is no device; if there is a margin, and no maps or labels; or if a
        `Predictor` comes with options other than its own.

    Notes
    -----
    Maps may come as one array (N, K, h, w) or, of one channel, (N, h, w); as a list or tuple, of
    which all such arrays are used, concatenated in order, and all else is not, as Cellpose's style
    vectors (N, 256) are not; or as a dict, by name. Names for ``"flows"``: ``dP``, ``flows`` or
    ``flow``, then ``cellprob``, ``prob`` or ``logits``; for ``"hover"``: ``np``,
    ``nucleus_prediction`` or ``prob``, then ``hv`` or ``horizontal_vertical``, then, if it is
    there, ``tp``, ``type_prediction`` or ``types``: the first that is there of each.

    A batch on the CPU goes to a CUDA module by pinned memory; NumPy's arrays are not copied for one
    on the CPU. A module that is in training mode is switched for the time of a call: do not call it
    from several threads then.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.models import as_predictor
    >>> def network(batch):
    ...     y, x = np.gradient(batch[:, 0], axis=(1, 2))
    ...     return {"cellprob": batch[:, 0], "flow": np.stack([y, x], axis=1)}
    >>> predict = as_predictor(network, head="flows")
    >>> predict(np.ones((4, 1, 32, 48), np.float32)).shape
    (4, 3, 32, 48)
    >>> as_predictor(network, keys=["cellprob"])(np.ones((4, 1, 32, 48), np.float32)).shape
    (4, 1, 32, 48)
    """
    if head is not None and head not in _HEADS:
        raise ValueError(f"head: expected None or one of {_listed(_HEADS)}; got {head!r}")
    if margin is not None and (
        integer("margin", margin) < 0 or (margin > 0 and head == "instances")
    ):
        raise ValueError(
            "margin: expected 0 or more pixels, 0 of head 'instances'; got "
            f"{margin} of head {head!r}"
        )
    names = _names(keys, head)
    if isinstance(model, Predictor):
        if head not in (None, model.head) or names or device is not None or amp:
            raise ValueError(
                "model: expected another model to go with head, keys, device or amp; got a "
                f"Predictor with head={model.head!r}"
            )
        given: Predictor = model
        if owns_output is not None:
            given = replace(given, owns_output=owns_output)
        return given if margin is None else replace(given, margin=margin)
    rest = {"margin": 0 if margin is None else margin}
    torch = sys.modules.get("torch")  # a module cannot be here without it
    if torch is not None and isinstance(model, torch.nn.Module):
        run = _Module(model, _moved(model, device), bool(amp))
        own = not is_compiled(model) if owns_output is None else owns_output
        return Predictor(model, head, names, own, run, **rest)
    if device is not None or amp:
        raise TypeError(
            f"device, amp: expected None and False but for PyTorch modules; got {device!r} and "
            f"{amp!r} for {type(model).__name__}"
        )
    if hasattr(model, "run") and hasattr(model, "get_inputs"):
        inputs = [given.name for given in model.get_inputs()]
        if len(inputs) != 1:
            raise ValueError(f"model: expected a session of one input; got {_listed(inputs)}")
        return Predictor(
            model, head, names, owns_output is not False, _Session(model, names), **rest
        )
    if not callable(model):
        raise TypeError(
            "model: expected a PyTorch module, an ONNX Runtime session or a function; got "
            f"{type(model).__name__}"
        )
    return Predictor(model, head, names, owns_output is True, model, **rest)


# ---- how each kind of network is run ------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Module:
    """A PyTorch module, on its device, in its mode and dtype."""

    model: Any
    device: Any
    amp: bool

    def __call__(self, batch: Array) -> Any:
        import torch

        tensors = itertools.chain(self.model.parameters(), self.model.buffers())
        own = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
        batch = _as_tensor(batch)
        device = self.device or (batch if own is None else own).device
        dtype = batch.dtype
        if own is not None and batch.is_floating_point():
            dtype = own.dtype
        to_cuda = device.type == "cuda" and batch.device.type == "cpu"
        if to_cuda:
            batch = batch.pin_memory()
        batch = batch.to(device, dtype, non_blocking=to_cuda)
        autocast = torch.autocast(device.type) if self.amp else nullcontext()
        with _eval_mode(self.model), torch.inference_mode(), autocast:
            return self.model(batch)


@dataclass(frozen=True, eq=False)
class _Session:
    """An ONNX Runtime session; it takes and gives NumPy's arrays."""

    model: Any
    outputs: tuple[str, ...] | None

    def __call__(self, batch: Array) -> Any:
        (given,) = self.model.get_inputs()
        values = to_host(Arrays(batch=batch)["batch"])
        if values.dtype.kind == "f":
            values = values.astype(
                _ONNX_FLOATS.get(getattr(given, "type", ""), values.dtype), copy=False
            )
        outputs = None if self.outputs is None else list(self.outputs)
        return self.model.run(outputs, {given.name: np.ascontiguousarray(values)})


def _as_tensor(batch: Array) -> Any:
    """A tensor of the batch's memory; a copy where PyTorch cannot use it."""
    import torch

    if isinstance(batch, torch.Tensor):
        return batch.detach()
    if not isinstance(batch, np.ndarray):
        return torch.from_dlpack(batch)
    readable: NDArray[Any] = batch
    if not batch.flags.writeable or any(stride < 0 for stride in batch.strides):
        readable = batch.copy()
    return torch.from_numpy(readable)


@contextmanager
def _eval_mode(model: Any) -> Iterator[None]:
    """Eval mode, and then for each part the mode it was in."""
    modes = [(part, part.training) for part in model.modules() if hasattr(part, "training")]
    if not any(mode for _, mode in modes):
        yield
        return
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)  # its own method, which may do more than set the flags
        for part, mode in modes:
            part.training = mode


def _moved(model: Any, device: Any) -> Any:
    """Move a module to a device; None where none is given."""
    if device is None:
        return None
    import torch

    try:
        where = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device: expected a PyTorch device; got {device!r}") from None
    model.to(where)
    return where


def is_compiled(model: Any) -> bool:
    """Whether torch.compile made it, or a part of it."""
    made = ("_orig_mod", "_compiled_call_impl")
    return any(getattr(part, n, None) is not None for part in model.modules() for n in made)


# ---- outputs ------------------------------------------------------------------------------------


def _maps(members: dict[str, Array], shape: tuple[int, ...], head: str | None) -> Array:
    """Arrays of maps as one, checked, with an axis of channels."""
    arrays = Arrays(**members)
    xp, maps = arrays.xp, []
    for name in members:
        values = arrays[name]
        if _without_channels(values.shape, len(shape)) != _tiles(shape):
            raise ValueError(f"{name}: expected shape {_wanted(shape)}; got {tuple(values.shape)}")
        if "float" not in (dtype := dtype_name(values)):
            raise TypeError(f"{name}: expected a floating dtype; got {dtype}")
        if dtype in ("float16", "bfloat16"):
            values = xp.astype(values, xp.float32)
        maps.append(values if len(values.shape) == len(shape) else values[:, None])
    n_channels = sum(int(values.shape[1]) for values in maps)
    if head == "flows" and n_channels != len(shape) - 1:
        raise ValueError(
            f"model: expected {len(shape) - 1} channels of head 'flows', {len(shape) - 2} of the "
            f"flow and the cells' logit; got {n_channels}"
        )
    if head == "hover" and n_channels < 3:
        raise ValueError(
            "model: expected 3 or more channels of head 'hover', the nuclei's probability, the "
            f"horizontal and vertical map and types; got {n_channels}"
        )
    return arrays.result(_ordinary(maps[0] if len(maps) == 1 else xp.concat(maps, axis=1)))


def _labels(output: Any, shape: tuple[int, ...]) -> Array:
    arrays = Arrays(model=output)
    labels = arrays["model"]
    got, tiles = tuple(labels.shape), _tiles(shape)
    if got not in (tiles, (shape[0], 1, *shape[2:])):
        raise ValueError(f"model: expected shape {tiles} of head 'labels'; got {got}")
    if "int" not in (dtype := dtype_name(labels)):
        raise TypeError(f"model: expected an integer dtype of head 'labels'; got {dtype}")
    return arrays.result(_ordinary(labels if len(got) < len(shape) else labels[:, 0]))


def _instances(output: Any, n_tiles: int) -> list[Any]:
    if n_tiles == 1:  # the tile's output, or a list of it: as_detections reads both
        return [output]
    if not isinstance(output, list | tuple):
        raise TypeError(
            f"model: expected a list of {n_tiles} outputs, one for each tile; got "
            f"{type(output).__name__}"
        )
    if len(output) != n_tiles:
        raise ValueError(f"model: expected {n_tiles} outputs, one for each tile; got {len(output)}")
    return list(output)


def _by_name(output: Mapping[Any, Any], groups: Sequence[tuple[str, ...]]) -> dict[str, Array]:
    """The first member of a dict that is there of each group of names."""
    found = {}
    for names in groups:
        name = next((name for name in names if name in output), None)
        if name is not None:
            found[f"model[{name!r}]"] = output[name]
        elif names is not _OPTIONAL:
            raise ValueError(
                f"model: expected {' or '.join(map(repr, names))} in its dict; got "
                f"{_listed(output)}"
            )
    return found


def _ordinary(tensor: Array) -> Array:
    """PyTorch forbids writing to what inference mode made; through DLPack the memory is free."""
    if hasattr(tensor, "is_inference") and tensor.is_inference():
        import torch

        return torch.from_dlpack(tensor)
    return tensor


def _tiles(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(N, h, w) of (N, C, h, w)."""
    return (shape[0], *shape[2:])


def _without_channels(got: Sequence[int], n_axes: int) -> tuple[int, ...]:
    """An output's shape without the axis of channels, if it has one."""
    return (*got[:1], *got[2:]) if len(got) == n_axes else tuple(got)


def _wanted(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, (shape[0], 'K', *shape[2:])))})"


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "nothing"


def _names(keys: Any, head: str | None) -> tuple[str, ...] | None:
    if keys is None:
        return None
    if head not in (None, *_MEMBERS):
        raise ValueError(f"keys: expected None with head {head!r}, which has no maps; got {keys!r}")
    is_some = isinstance(keys, Sequence) and not isinstance(keys, str) and len(keys) > 0
    if not is_some or not all(isinstance(key, str) for key in keys):
        raise TypeError(f"keys: expected one or more names; got {keys!r}")
    return tuple(keys)
