"""Errors of the functions below, by the names that the arguments of a recipe have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def named(**names: str) -> Iterator[None]:
    """Say ``names[name]`` in errors that begin with ``name:``, ``name[`` or ``name.``."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        message = str(error)
        found = re.match(r"(\w+)(?=[:\[.])", message)
        if found is None or found[1] not in names:
            raise
        raise type(error)(names[found[1]] + message[found.end() :]) from error
