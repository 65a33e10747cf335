"""Simulated networks: what a trained network would put out for a tile, made from the tile's truth.

No network is run and none is trained. They read the ids of `Scene.encoded`, and nothing but the
tile they are given: a cell that a tile's border cuts is, in that tile, the piece that is there.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, gaussian_filter
from scipy.special import expit

from cellpost._arrays import Array, Arrays, to_host
from cellpost.detections import Detections
from cellpost.flows import masks_to_flows
from cellpost.labels import integer, number
from cellpost.synthetic.errors import Seen, seen
from cellpost.synthetic.ids import decoded

__all__ = ["DetectionNetwork", "FlowNetwork", "HoverNetwork"]

_SIGNAL = 5.0  # logit inside cells, and length of flows


@dataclass(frozen=True, repr=False)
class _SimulatedNetwork:
    """What simulated networks have in common: the errors, and how each tile is seen."""

    _: KW_ONLY
    noise: float = 0.1
    blur: float = 0.5
    missed: float = 0.0
    merged: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("noise", "blur", "missed", "merged"):
            value = number(name, getattr(self, name))
            object.__setattr__(self, name, value)
            most, expected = (1, "0..1") if name in ("missed", "merged") else (math.inf, ">= 0")
            if not 0 <= value <= most or math.isinf(value):
                raise ValueError(f"{name}: expected a finite number {expected}; got {value}")
        if integer("seed", self.seed) < 0:
            raise ValueError(f"seed: expected an integer >= 0; got {self.seed}")

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"simulated {type(self).__name__}({options})"

    def _generator(self, tile: NDArray[np.int64]) -> np.random.Generator:
        """Noise of the tile's own, by its pixels: in whatever order tiles come."""
        digest = hashlib.blake2b(np.ascontiguousarray(tile).data, digest_size=8).digest()
        key = [int.from_bytes(digest, "little"), self.seed]
        return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))

    def _blurred(self, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        blurred: NDArray[np.float32] = plane
        if self.blur > 0:
            blurred = gaussian_filter(plane, self.blur, axes=(-2, -1))
        return blurred

    def _noisy(
        self, plane: NDArray[np.float32], signal: float, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        noise = rng.standard_normal(plane.shape, np.float32)
        noise *= np.float32(self.noise * signal)
        noise += plane
        return noise

    def _logit(self, labels: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.float32]:
        cover = self._blurred((labels > 0).astype(np.float32))
        return self._noisy(np.float32(_SIGNAL) * (2 * cover - 1), _SIGNAL, rng)


class _MapNetwork(_SimulatedNetwork, ABC):
    """A network that puts out maps."""

    def __call__(self, tiles: Array) -> Any:
        """Simulate the outputs for a batch of tiles.

        Parameters
        ----------
        tiles : array, (n, 2, h, w), real
            Tiles of `Scene.encoded`, or of what `encode` gave; flipped or turned, if you like.

        Returns
        -------
        array, (n, 3, h, w), float32, or list of n Detections
            As the class says, of the library and on the device of `tiles`.

        Raises
        ------
        ValueError
            If `tiles` have another shape or hold anything but ids, as resized ones do.
        """
        arrays = Arrays(tiles=tiles)
        ids = decoded(to_host(arrays["tiles"]))
        maps = np.empty((len(ids), 3, *ids.shape[1:]), np.float32)
        for k, tile in enumerate(ids):
            cells = seen(tile, missed=self.missed, merged=self.merged, seed=self.seed)
            maps[k] = self._maps(cells, self._generator(tile))
        return arrays.result(arrays.xp.asarray(maps, device=arrays.device))

    @abstractmethod
    def _maps(self, cells: Seen, rng: np.random.Generator) -> NDArray[np.float32]:
        """Maps of a tile."""


class FlowNetwork(_MapNetwork):
    """A simulated network of Cellpose's kind: flows and the cells' logit.

    Called with tiles of `Scene.encoded`, (n, 2, h, w), it gives (n, 3, h, w), float32: dY and dX,
    five times the unit flows of the pieces of cells in the tile, and the logit, +5 in cells and -5
    outside; with errors. Give it to `cellpost.segment` with ``head="flows"``.

    Parameters
    ----------
    noise : float
        Standard deviation of the Gaussian noise of each pixel, as a share of the signal (5), >= 0.
    blur : float
        Standard deviation of the Gaussian that blurs all maps, in pixels, >= 0.
    missed : float
        Share of the cells that the network does not see, in any tile, 0..1.
    merged : float
        Probability of each pair of cells that touch in a tile to be seen as one, 0..1; a cell is
        merged with one other at most.
    seed : int
        Of all errors, 0 or more.

    Raises
    ------
    TypeError, ValueError
        If an argument is no number or out of range.

    See Also
    --------
    Scene, encode, cellpost.masks_to_flows

    Notes
    -----
    Which cells are missed and which pairs merge hangs on their ids and the seed: on hard cells all
    tiles and views agree. Noise hangs on the pixels of the tile: it is new in each tile and view,
    and the same whenever that tile comes. Separate pieces of one cell are cells of their own. A
    logit of less noise than 0.2 has its sign right nearly everywhere. No normalisation, resizing or
    padding other than with 0 or by the image itself may come between.

    Examples
    --------
    >>> import cellpost
    >>> from cellpost.synthetic import FlowNetwork, Scene
    >>> scene = Scene((300, 400), "nuclei", seed=1)
    >>> found = cellpost.segment(scene.encoded, FlowNetwork(noise=0.05), head="flows", tile=256)
    >>> cellpost.metrics.f1(scene.labels[...], found) > 0.9
    True
    """

    def _maps(self, cells: Seen, rng: np.random.Generator) -> NDArray[np.float32]:
        flows = self._blurred(np.float32(_SIGNAL) * masks_to_flows(cells.labels))
        flows = self._noisy(flows, _SIGNAL, rng)
        return np.concatenate([flows, self._logit(cells.labels, rng)[None]])


class HoverNetwork(_MapNetwork):
    """A simulated network of HoVer-Net's kind: probability, horizontal and vertical map.

    Called with tiles of `Scene.encoded`, (n, 2, h, w), it gives (n, 3, h, w), float32: the
    probability of being in a cell, and the pixel's place in its piece of a cell along x and along
    y: 0 at the centre of mass, -1 and 1 at the ends; with errors. Give it to `cellpost.segment`
    with ``head="hover"``.

    Parameters
    ----------
    noise, blur, missed, merged, seed
        As of `FlowNetwork`; the signal of the maps is 1, that of the probability's logit 5.

    Raises
    ------
    TypeError, ValueError
        If an argument is no number or out of range.

    Notes
    -----
    As of `FlowNetwork`. Targets are those of Graham et al. 2019, "HoVer-Net".

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.synthetic import HoverNetwork, encode
    >>> tile = encode(np.array([[0, 3, 3, 3, 0]]))
    >>> HoverNetwork(noise=0, blur=0)(tile[None])[0, 1].tolist()
    [[0.0, -1.0, 0.0, 1.0, 0.0]]
    """

    def _maps(self, cells: Seen, rng: np.random.Generator) -> NDArray[np.float32]:
        hv = self._noisy(self._blurred(_places_in_cells(cells)), 1, rng)
        prob = expit(self._logit(cells.labels, rng))
        return np.concatenate([prob[None], hv])


@dataclass(frozen=True, repr=False)
class DetectionNetwork(_SimulatedNetwork):
    """A simulated network of Mask R-CNN's kind: boxes, scores, mask crops, classes.

    Called with tiles of `Scene.encoded`, (n, 2, h, w), it gives n `cellpost.Detections`, in raster
    order of the cells' first pixels in the tile. Give it to `cellpost.segment` with
    ``head="instances"``.

    Parameters
    ----------
    noise, blur, missed, merged, seed
        As of `FlowNetwork`; the signal of the masks' logit is 5. Scores are 0.9, for cells at the
        tile's border 0.6, with this noise, within 0.05..1.
    jitter : float
        Standard deviation of each side of the boxes, in pixels, >= 0; boxes stay in the tile.
    mask_size : int
        Height and width of the mask crops, 1 or more.
    n_classes : int
        The class of a cell is its true id modulo this; 1 or more. A merged pair has that of its
        lower id.

    Raises
    ------
    TypeError, ValueError
        If an argument is no number or out of range.

    Notes
    -----
    As of `FlowNetwork`. A crop is what a mask head sees in the box: the piece of the cell,
    bilinearly sampled at the centres of ``mask_size`` x ``mask_size`` equal parts, as
    probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.synthetic import DetectionNetwork, encode
    >>> tile = encode(np.repeat([[0, 3, 3, 3, 0]], 4, axis=0))
    >>> found = DetectionNetwork(noise=0, jitter=0)(tile[None])[0]
    >>> found.boxes.tolist(), found.masks.shape
    ([[1.0, 0.0, 4.0, 4.0]], (1, 28, 28))
    """

    _: KW_ONLY
    jitter: float = 0.5
    mask_size: int = 28
    n_classes: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= number("jitter", self.jitter) < math.inf:
            raise ValueError(f"jitter: expected a finite number >= 0; got {self.jitter}")
        for name in ("mask_size", "n_classes"):
            if integer(name, getattr(self, name)) < 1:
                raise ValueError(f"{name}: expected 1 or more; got {getattr(self, name)}")

    def __call__(self, tiles: Array) -> list[Detections]:
        """Simulate the detections of a batch of tiles, as the class says."""
        arrays = Arrays(tiles=tiles)

        def given(values: NDArray[Any]) -> Array:
            return arrays.result(arrays.xp.asarray(values, device=arrays.device))

        found = []
        for tile in decoded(to_host(arrays["tiles"])):
            cells = seen(tile, missed=self.missed, merged=self.merged, seed=self.seed)
            boxes, scores, masks = self._found(cells, self._generator(tile))
            classes = cells.ids % self.n_classes
            found.append(Detections(given(boxes), given(scores), given(masks), given(classes)))
        return found

    def _found(
        self, cells: Seen, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        height, width = cells.labels.shape
        places = find_objects(cells.labels)
        tight = np.array([[x.start, y.start, x.stop, y.stop] for y, x in places], np.float64)
        tight = tight.reshape(-1, 4)
        at_border = (tight[:, :2] == 0).any(axis=1) | (tight[:, 2:] == (width, height)).any(axis=1)
        scores = np.where(at_border, 0.6, 0.9) + self.noise * rng.standard_normal(len(tight))
        boxes = tight + self.jitter * rng.standard_normal(tight.shape)
        # At least half a pixel each way, and in the tile.
        first = np.clip(boxes[:, :2], 0, np.array([width, height]) - 0.5)
        last = np.clip(np.maximum(boxes[:, 2:], first + 0.5), 0, [width, height])
        boxes = np.hstack([first, last])
        cover = _crops(cells.labels, boxes, self.mask_size)
        for mask, (x0, y0, x1, y1) in zip(cover, boxes.tolist(), strict=True):
            if self.blur > 0:
                sigma = [self.blur * self.mask_size / side for side in (y1 - y0, x1 - x0)]
                mask[...] = gaussian_filter(mask, sigma, mode="nearest")
        logit = self._noisy(np.float32(_SIGNAL) * (2 * cover - 1), _SIGNAL, rng)
        return boxes.astype(np.float32), np.clip(scores, 0.05, 1).astype(np.float32), expit(logit)


def _places_in_cells(cells: Seen) -> NDArray[np.float32]:
    """Horizontal and vertical map: from -1 to 1 about the centre of mass, each side by itself."""
    y, x = np.nonzero(cells.labels)
    label = cells.labels[y, x].astype(np.int64) - 1
    n = len(cells.ids)
    hv = np.zeros((2, *cells.labels.shape), np.float32)
    size = np.bincount(label, minlength=n)
    for plane, at in zip(hv, (x, y), strict=True):
        offset = at - (np.bincount(label, at, minlength=n) / size)[label]
        low, high = np.zeros(n), np.zeros(n)
        np.minimum.at(low, label, offset)
        np.maximum.at(high, label, offset)
        end = np.where(offset < 0, -low[label], high[label])
        plane[y, x] = np.divide(offset, end, out=np.zeros_like(offset), where=end > 0)
    return hv


def _crops(labels: NDArray[np.int32], boxes: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """How much of each of size x size parts of the i-th box the cell i + 1 has, (n, size, size)."""
    padded = np.pad(labels, 1)  # nothing is beyond the tile
    part = (np.arange(size) + 0.5) / size
    wanted = np.arange(1, len(boxes) + 1, dtype=np.int32)[:, None, None]

    def around(low: NDArray[np.float64], high: NDArray[np.float64]) -> Any:
        at = low[:, None] + part * (high - low)[:, None] + 0.5  # pixel i's centre is i + 0.5
        first = np.floor(at).astype(np.int64)
        return first, (at - first).astype(np.float32)

    (x, right), (y, down) = around(boxes[:, 0], boxes[:, 2]), around(boxes[:, 1], boxes[:, 3])
    crops = np.zeros((len(boxes), size, size), np.float32)
    for dy, wy in ((0, 1 - down), (1, down)):
        for dx, wx in ((0, 1 - right), (1, right)):
            mine = padded[(y + dy)[:, :, None], (x + dx)[:, None, :]] == wanted
            crops += mine * wy[:, :, None] * wx[:, None, :]
    return crops
