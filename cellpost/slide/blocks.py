"""Parts of an image, and images on disk that are read and written part by part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Box", "DiskImage", "blocks_of", "scratch_folder"]


class Box(NamedTuple):
    """A part of an image: first row and column, and those after the last."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def offset(self) -> tuple[int, int]:
        """Row and column of the first pixel."""
        return self.y0, self.x0

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def n_pixels(self) -> int:
        """Height times width."""
        return (self.y1 - self.y0) * (self.x1 - self.x0)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Of the image."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def within(self, other: Box) -> Box:
        """The same part, counted from the corner of another."""
        y, x = other.offset
        return Box(self.y0 - y, self.x0 - x, self.y1 - y, self.x1 - x)

    def of(self, other: Box) -> Box:
        """What `within` was made from."""
        return self.within(Box(-other.y0, -other.x0, 0, 0))

    def grown(self, margin: int, image: tuple[int, int]) -> Box:
        """With a margin, as far as the image goes."""
        y0, x0 = max(self.y0 - margin, 0), max(self.x0 - margin, 0)
        return Box(y0, x0, min(self.y1 + margin, image[0]), min(self.x1 + margin, image[1]))

    def halves(self) -> tuple[Box, Box]:
        """The two halves along the longer side."""
        height, width = self.shape
        if height >= width:
            middle = self.y0 + height // 2
            return self._replace(y1=middle), self._replace(y0=middle)
        middle = self.x0 + width // 2
        return self._replace(x1=middle), self._replace(x0=middle)

    @classmethod
    def around(cls, boxes: NDArray[np.int64]) -> Box:
        """The smallest that holds the boxes (n, 4), of which there is one at least."""
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        return cls(int(low[0]), int(low[1]), int(high[0]), int(high[1]))


def blocks_of(image: tuple[int, int], sides: tuple[int, int]) -> list[Box]:
    """The image in blocks, row by row; the last ones may be smaller."""
    return [
        Box(y, x, min(y + sides[0], image[0]), min(x + sides[1], image[1]))
        for y in range(0, image[0], sides[0])
        for x in range(0, image[1], sides[1])
    ]


class DiskImage:
    """An image in a file of its own, zero where nothing was written (which takes no disk).

    Read and written with plain calls, since mapped pages would count as the process's memory.
    """

    def __init__(self, path: Path, shape: tuple[int, int], dtype: DTypeLike) -> None:
        self._path, self._shape, self._dtype = path, shape, np.dtype(dtype)
        self._file = path.open("x+b", buffering=0)
        self._file.truncate(shape[0] * shape[1] * self._dtype.itemsize)

    def read(self, box: Box) -> NDArray[Any]:
        """A part, as a new array."""
        part = np.empty(box.shape, self._dtype)
        for row, place in self._rows(box, part):
            self._file.seek(place)
            while row:
                row = row[self._file.readinto(row) :]
        return part

    def write(self, box: Box, values: NDArray[Any]) -> None:
        """Replace a part."""
        part = np.ascontiguousarray(values, self._dtype)
        for row, place in self._rows(box, part):
            self._file.seek(place)
            while row:
                row = row[self._file.write(row) :]

    def _rows(self, box: Box, part: NDArray[Any]) -> Iterator[tuple[memoryview, int]]:
        """Pieces that lie together in memory and in the file, and where in the file."""
        if part.size == 0:
            return
        raw = part.data.cast("B")
        item, width = self._dtype.itemsize, self._shape[1]
        height = 1 if box.shape[1] < width else box.shape[0]
        n_bytes = height * box.shape[1] * item
        for k, y in enumerate(range(box.y0, box.y1, height)):
            yield raw[k * n_bytes : (k + 1) * n_bytes], (y * width + box.x0) * item

    def remove(self) -> None:
        """Close and delete the file."""
        self._file.close()
        self._path.unlink()


@contextmanager
def scratch_folder(parent: Any) -> Iterator[Path]:
    """A new folder, in `parent` if that is given, which is gone afterwards with all it holds."""
    with TemporaryDirectory(prefix="cellpost-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)
