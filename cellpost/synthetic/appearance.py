"""How microscopes see cells: the light of each modality, before the camera."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cellpost.synthetic.noise import Stream

__all__ = ["LOOKS", "Look"]

Plane: TypeAlias = NDArray[np.float32]
Field: TypeAlias = Callable[[Stream, float], Plane]  # stream and step to values in [-1, 1]
Paint: TypeAlias = Callable[[NDArray[np.int64], Plane, float, float, Field], Plane]

_HALO = 0.16  # diameters: how far phase contrast's halo goes
# Optical densities of haematoxylin and eosin in red, green and blue (Ruifrok and Johnston 2001).
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]], np.float32)


@dataclass(frozen=True)
class Look:
    """How a modality is painted.

    Attributes
    ----------
    paint : callable
        From ids, light, diameter, blur and random fields to (n_channels, h, w), 0..1.
    n_channels : int
        Of the image.
    halo : float
        Standard deviation of its widest filter besides the blur, in diameters.
    """

    paint: Paint
    n_channels: int = 1
    halo: float = 0.0

    def margin(self, diameter: float, blur: float) -> int:
        """Pixels around a window that have a part in it."""
        return math.ceil(4 * blur) + math.ceil(4 * self.halo * diameter) + 3


def _blurred(plane: Plane, sigma: float) -> Plane:
    """Truncated at 4 sigma: no pixel beyond the margin has a part."""
    blurred: Plane = gaussian_filter(plane, sigma) if sigma > 0 else plane
    return blurred


def _borders(ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Pixels of cells that touch another id."""
    borders = np.zeros(ids.shape, bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = ids[one] != ids[other]
        borders[one] |= differs
        borders[other] |= differs
    return borders & (ids > 0)


def _fluorescent(
    ids: NDArray[np.int64], light: Plane, diameter: float, blur: float, field: Field
) -> Plane:
    """Light of all cells adds up, overlapping ones are brighter; chromatin is uneven."""
    grain = 0.2 * field(Stream.TEXTURE, diameter / 4) + 0.12 * field(
        Stream.FINE_TEXTURE, diameter / 10
    )
    haze = 0.04 + 0.02 * field(Stream.ILLUMINATION, 5 * diameter)
    return _blurred(light * (1 + grain) + haze, blur)[None]


def _stained(
    ids: NDArray[np.int64], light: Plane, diameter: float, blur: float, field: Field
) -> Plane:
    """Haematoxylin in the nuclei, eosin in the cytoplasm and more of it where cells meet."""
    grain = 0.5 * field(Stream.TEXTURE, diameter / 5) + 0.5 * field(
        Stream.FINE_TEXTURE, diameter / 14
    )
    is_cell = ids > 0
    nuclear = np.minimum(light, 1) * is_cell
    haematoxylin = (1.1 + 0.35 * grain) * nuclear + np.float32(0.06) * is_cell
    eosin = (0.42 + 0.12 * grain) * is_cell + np.float32(0.45) * _borders(ids) + 0.03
    stains = [_blurred(stain.astype(np.float32), blur) for stain in (haematoxylin, eosin)]
    return np.stack(
        [
            np.float32(0.95) * np.exp(-(h * stains[0] + e * stains[1]))
            for h, e in _STAINS.T  # Beer and Lambert
        ]
    )


def _phase_contrast(
    ids: NDArray[np.int64], light: Plane, diameter: float, blur: float, field: Field
) -> Plane:
    """Dark cells with bright halos, and light between those that touch."""
    grain = 0.5 * field(Stream.TEXTURE, diameter) + 0.5 * field(Stream.FINE_TEXTURE, diameter / 8)
    body = ((ids > 0) & ~_borders(ids)).astype(np.float32)
    halo = _blurred((ids > 0).astype(np.float32), _HALO * diameter) - body
    plane = 0.5 + 0.04 * grain - (0.34 + 0.05 * grain) * body + 0.3 * np.maximum(halo, 0)
    return _blurred(plane.astype(np.float32), blur)[None]


#: What each modality of a scene looks like.
LOOKS = {
    "nuclei": Look(_fluorescent),
    "epithelium": Look(_stained, n_channels=3),
    "bacteria": Look(_phase_contrast, halo=_HALO),
    "neurons": Look(_fluorescent),
}
