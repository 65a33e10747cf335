"""Whole files or none: the only place that puts a file on disk."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cellpost.io.containers import PathLike


@contextmanager
def atomic_file(path: PathLike) -> Iterator[IO[bytes]]:
    """Write to a new file in the target's folder, and rename it to ``path`` when all went well.

    On any failure the new file is removed and what was at ``path`` before stays as it was.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def check_output(path: PathLike, *, overwrite: bool = True) -> None:
    """Find out, before the work, whether a file can be written.

    Parameters
    ----------
    path : str or Path
        Where a file is to go.
    overwrite : bool
        False: a file that is there already is an error.

    Raises
    ------
    OSError
        If its folder does not exist or takes no new files, if ``path`` is a folder, or if it
        exists and ``overwrite`` is False.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{target}: expected a file to write; got a folder")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: expected an existing folder; {target.parent} is none")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target}: exists already; overwrite (--overwrite) replaces it")
    probe = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        probe.open("xb").close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(f"{target}: its folder takes no new file ({reason})") from None
    finally:
        probe.unlink(missing_ok=True)
