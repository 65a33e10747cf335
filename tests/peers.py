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
