"""How far a long call has come: told to a function, or shown as a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import Progress

__all__ = ["Tell", "tell_nobody", "told"]

#: called with the steps done and the number of all
Tell: TypeAlias = Callable[[int, int], None]


def tell_nobody(done: int, total: int) -> None:
    """Nothing."""


@contextmanager
def told(progress: bool | Tell, what: str) -> Iterator[Tell]:
    """Whom to tell, for the argument `progress`: True is a bar on stderr that names `what`."""
    if callable(progress):
        yield progress
    elif not progress:
        yield tell_nobody
    else:
        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
