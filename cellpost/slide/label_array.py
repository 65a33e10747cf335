"""Label images on disk that are written and read window by window."""

from __future__ import annotations

import errno
import itertools
import math
import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellpost._arrays import check_fits, to_host
from cellpost.io.output import atomic_file, check_output

__all__ = ["LabelArray", "TiffLabels", "ZarrLabels"]

Window: TypeAlias = tuple[slice, ...]


class LabelArray(ABC):
    """A label image on disk that is written and read window by window.

    Index it with slices (of step 1) and ``...``; what was not written is 0. As a context manager it
    is closed at the end. Made by `create_labels`.

    Attributes
    ----------
    path : Path
        Where it lies.
    shape : tuple of int
        (H, W) or (D, H, W).
    dtype : numpy.dtype
        uint16, int32 or uint32.
    chunks : tuple of int
        What is stored together: windows of whole chunks are written fastest.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...]
    ) -> None:
        self.path, self.shape, self.chunks = path, shape, chunks
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, shape={self.shape}, dtype={self.dtype})"

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return self._read(self._window(key))

    def __setitem__(self, key: Any, labels: Any) -> None:
        window = self._window(key)
        values = np.asarray(to_host(labels))
        if values.dtype.kind not in "iu":
            raise TypeError(f"labels: expected an integer dtype; got {values.dtype}")
        if values.size and not np.can_cast(values.dtype, self.dtype):
            if (lowest := int(values.min())) < 0:
                raise ValueError(f"labels: expected ids >= 0; got {lowest}")
            check_fits(int(values.max()), self.dtype.name, "dtype")
        shape = tuple(part.stop - part.start for part in window)
        try:
            values = np.broadcast_to(values, shape)
        except ValueError:
            raise ValueError(f"labels: expected shape {shape}; got {values.shape}") from None
        if values.size:
            self._write(window, values.astype(self.dtype, copy=False))

    def _window(self, key: Any) -> Window:
        keys = list(key) if isinstance(key, tuple) else [key]
        dots = [i for i, k in enumerate(keys) if k is Ellipsis]
        at = dots[0] if dots else len(keys)
        keys[at : at + 1] = [slice(None)] * (self.ndim - len(keys) + len(dots))
        if len(keys) != self.ndim or not all(
            isinstance(k, slice) and k.step in (None, 1) for k in keys
        ):
            raise IndexError(f"key: expected {self.ndim} slices of step 1; got {key!r}")
        ends = [k.indices(n)[:2] for k, n in zip(keys, self.shape, strict=True)]
        return tuple(slice(begin, max(begin, end)) for begin, end in ends)

    @abstractmethod
    def _read(self, window: Window) -> NDArray[Any]: ...

    @abstractmethod
    def _write(self, window: Window, labels: NDArray[Any]) -> None: ...

    @abstractmethod
    def _finish(self, keep: bool) -> None: ...

    def close(self) -> None:
        """Finish the output; a BigTIFF appears under its name only now. Twice does no harm."""
        self._finish(keep=True)

    def discard(self) -> None:
        """Close after a failure: a Zarr array keeps what was written, a BigTIFF does not appear."""
        self._finish(keep=False)

    def __enter__(self) -> LabelArray:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class ZarrLabels(LabelArray):
    """Windows of a Zarr array."""

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: str,
        chunks: tuple[int, ...],
        array: Any,
    ) -> None:
        super().__init__(path, shape, dtype, chunks)
        self._array = array

    def _read(self, window: Window) -> NDArray[Any]:
        return np.asarray(self._array[window])

    def _write(self, window: Window, labels: NDArray[Any]) -> None:
        self._array[window] = labels

    def _finish(self, keep: bool) -> None:
        pass  # it is on disk


class TiffLabels(LabelArray):
    """Raw tiles in a file beside the target, each at its place; a TIFF of them when closed."""

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: str,
        chunks: tuple[int, ...],
        method: str,
        overwrite: bool,
    ) -> None:
        check_output(path, overwrite=overwrite)
        super().__init__(path, shape, dtype, chunks)
        self._method = method
        self._counts = tuple(-(-n // side) for n, side in zip(shape, chunks, strict=True))
        self._tile_bytes = math.prod(chunks) * self.dtype.itemsize
        size, free = math.prod(self._counts) * self._tile_bytes, shutil.disk_usage(path.parent).free
        if size > free:
            raise OSError(
                errno.ENOSPC,
                f"{path}: expected {size / 1e9:.2f} GB of disk for the raw labels; "
                f"got {free / 1e9:.2f} GB",
            )
        self._raw = path.with_name(f".{path.name}.{secrets.token_hex(4)}.raw")
        self._file = self._raw.open("x+b", buffering=0)
        self._file.truncate(size)  # tiles that are not written take no space

    def _place(self, tile: tuple[int, ...]) -> int:
        if self._file.closed:
            raise ValueError(f"{self.path}: is closed")
        return int(np.ravel_multi_index(tile, self._counts)) * self._tile_bytes

    def _tile(self, tile: tuple[int, ...]) -> NDArray[Any]:
        at = self._place(tile)
        raw = os.pread(self._file.fileno(), self._tile_bytes, at)
        return np.frombuffer(bytearray(raw), self.dtype).reshape(self.chunks)

    def _tiles(self, window: Window) -> Iterator[tuple[tuple[int, ...], Window, Window]]:
        """Tiles that a window meets; what it meets in the tile, and in the window."""
        along = []
        for part, side in zip(window, self.chunks, strict=True):
            steps = []
            for k in range(part.start // side, -(-part.stop // side)):
                low, high = max(part.start, k * side), min(part.stop, (k + 1) * side)
                in_tile = slice(low - k * side, high - k * side)
                steps.append((k, in_tile, slice(low - part.start, high - part.start)))
            along.append(steps)
        for parts in itertools.product(*along):
            tile, in_tile, in_window = zip(*parts, strict=True)
            yield tile, in_tile, in_window

    def _read(self, window: Window) -> NDArray[Any]:
        out = np.empty([part.stop - part.start for part in window], self.dtype)
        for place, in_tile, in_window in self._tiles(window):
            out[in_window] = self._tile(place)[in_tile]
        return out

    def _write(self, window: Window, labels: NDArray[Any]) -> None:
        for place, in_tile, in_window in self._tiles(window):
            tile = self._tile(place)
            tile[in_tile] = labels[in_window]
            raw, at = tile.tobytes(), self._place(place)
            while raw:
                n = os.pwrite(self._file.fileno(), raw, at)
                raw, at = raw[n:], at + n

    def _finish(self, keep: bool) -> None:
        if self._file.closed:
            return
        try:
            if keep:
                self._compress()
        finally:
            self._file.close()
            self._raw.unlink(missing_ok=True)

    def _compress(self) -> None:
        tiles = (self._tile(tile).reshape(self.chunks[-2:]) for tile in np.ndindex(*self._counts))
        with atomic_file(self.path) as file:
            tifffile.imwrite(
                file,
                tiles,
                shape=self.shape,
                dtype=self.dtype,
                bigtiff=True,
                photometric="minisblack",
                tile=self.chunks[-2:],
                compression="zlib" if self._method == "deflate" else None,
                maxworkers=1,  # more would hold many tiles
                metadata={"axes": "ZYX"[-self.ndim :]},
                software="cellpost",
            )
