"""Networks by what a user calls them: a TorchScript or ONNX file, or an object in a module."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cellpost
from cellpost._arrays import to_host
from cellpost.cli.job import Device
from cellpost.io.containers import FileFormatError

_SCRIPTS = (".pt", ".pth", ".ts")
_FORMS = (
    "a TorchScript file (.pt, .pth, .ts), an ONNX model (.onnx) or package.module:name of a network"
)


@dataclass(frozen=True)
class Networks:
    """Networks, where they compute, and how an image gets there."""

    place: str
    models: list[cellpost.Predictor]
    put: Callable[[Any], Any]  #: what they read tiles from, of a NumPy array
    get: Callable[[Any], Any]  #: a NumPy array again


def model_files(specs: Sequence[str]) -> tuple[Path, ...]:
    """Those of the networks that are files."""
    return tuple(Path(spec) for spec in specs if _is_file(spec))


def load_networks(
    specs: Sequence[str], device: Device, n_threads: int | None, **options: Any
) -> Networks:
    """Load networks, on one device.

    Modules are on the GPU if all networks can be; functions only where the user asks for it, and
    get tensors there, and NumPy's arrays elsewhere. `options` are those of `as_predictor`.
    """
    imported = {spec: _imported(spec) for spec in specs if not _is_file(spec)}
    are_sessions = [_suffix(spec) == ".onnx" for spec in specs]
    are_modules = [_suffix(spec) in _SCRIPTS or _is_module(imported.get(spec)) for spec in specs]
    if any(_suffix(spec) in _SCRIPTS for spec in specs):
        _package("torch", specs)
    why_not = "" if device is Device.cpu else _why_no_cuda(all(are_sessions), specs)
    if device is Device.cuda and why_not:
        raise ValueError(f"--device cuda: {why_not}")
    fit = all(are_modules) or all(are_sessions)
    on_cuda = device is Device.cuda or (device is Device.auto and fit and not why_not)
    place = "cuda" if on_cuda else "cpu"
    if n_threads is not None and any(are_modules):
        _package("torch", specs).set_num_threads(n_threads)
    models = []
    for spec, is_module in zip(specs, are_modules, strict=True):
        if options["amp"] and not is_module:
            raise ValueError(f"--amp: expected PyTorch modules; got {spec}")
        model = imported[spec] if spec in imported else _loaded(spec, place, n_threads)
        where = place if is_module else None
        models.append(cellpost.as_predictor(model, device=where, **options))
    if any(are_modules) and not on_cuda and not fit:
        models = [_giving_numpy(one) for one in models]
    if on_cuda and not fit:
        torch = _package("torch", specs)
        return Networks(
            place,
            models,
            lambda image: torch.tensor(image, device="cuda"),
            lambda labels: labels.cpu().numpy(),
        )
    return Networks(place, models, _as_it_is, _as_it_is)


def _as_it_is(array: Any) -> Any:
    return array


def _giving_numpy(network: cellpost.Predictor) -> cellpost.Predictor:
    """The same network, with arrays that those of another library can be averaged with."""
    if network.head == "instances":  # no arrays yet
        return network
    return cellpost.as_predictor(
        lambda batch: to_host(network(batch)), head=network.head, margin=network.margin
    )


def _suffix(spec: str) -> str:
    return Path(spec).suffix.lower()


def _is_file(spec: str) -> bool:
    if _suffix(spec) in (*_SCRIPTS, ".onnx"):
        return True
    if ":" not in spec:
        raise ValueError(f"--model {spec}: expected {_FORMS}")
    return False


def _is_module(model: Any) -> bool:
    torch = sys.modules.get("torch")  # a module cannot be here without it
    return torch is not None and isinstance(model, torch.nn.Module)


def _package(name: str, specs: Sequence[str]) -> Any:
    """Import a package that networks need and cellpost does not."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"--model {', '.join(specs)}: needs the package {name}, which cannot be imported: "
            f"{error}"
        ) from None


def _why_no_cuda(in_sessions: bool, specs: Sequence[str]) -> str:
    """Say why the GPU cannot be used; nothing if it can."""
    if in_sessions:
        offered = _package("onnxruntime", specs).get_available_providers()
        return "" if "CUDAExecutionProvider" in offered else "onnxruntime is one without CUDA"
    state = cellpost.info()
    if not state["cuda_usable"]:
        return str(state["cuda_reason"])
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return "torch, which would put arrays on the GPU, cannot be imported"
    return "" if torch.cuda.is_available() else "torch sees no GPU that it can use"


def _loaded(spec: str, place: str, n_threads: int | None) -> Any:
    """Open a file."""
    path = Path(spec)
    is_script = _suffix(spec) in _SCRIPTS
    expected = "a TorchScript module (torch.jit.save)" if is_script else "an ONNX model"
    if not path.is_file():
        raise FileFormatError(path, expected, "no file: there is none of this name")
    package = _package("torch" if is_script else "onnxruntime", [spec])
    try:
        if is_script:
            return package.jit.load(str(path), map_location=place)
        providers = ["CPUExecutionProvider"]
        if place == "cuda":
            providers.insert(0, "CUDAExecutionProvider")
        told = package.SessionOptions()
        if n_threads is not None:
            told.intra_op_num_threads = n_threads
        return package.InferenceSession(str(path), sess_options=told, providers=providers)
    except Exception as error:  # each library has its own
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise FileFormatError(path, expected, f"what cannot be loaded: {first}") from error


def _imported(spec: str) -> Any:
    """Find an object by module and name; of a class that is one made without arguments."""
    module, _, name = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # it stays there: networks may import more as they run
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        model = found() if isinstance(found, type) else found
    except Exception as error:  # other people's code
        raise ValueError(
            f"--model {spec}: expected {_FORMS}; got {type(error).__name__}: {error}"
        ) from error
    if not callable(model):
        raise TypeError(
            f"--model {spec}: expected a network that can be called; got {type(model).__name__}"
        )
    return model
