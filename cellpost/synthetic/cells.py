"""Shapes of cells: what each kind of cell covers, and how much of it shines or takes the stain.

A shape is drawn as a patch around the cell's centre, never farther than its kind reaches, from the
cell's own random numbers; the window that is rendered has no part in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "Cell", "Kind", "Patch", "Warp"]

# Random numbers of a cell, in [0, 1); COLONY, in [-1, 1], is much the same for neighbours; from
# SHAPE on each kind uses them as it likes.
JITTER_Y, JITTER_X, PRESENT, DEPTH, SIZE, ASPECT, ANGLE, BRIGHTNESS, COLONY, SHAPE = range(10)
_N_ARMS, _N_BENDS, _ARM_LIGHT = 5, 8, 0.4


class Cell(NamedTuple):
    """One cell to be drawn."""

    y: float  # centre, pixels
    x: float
    diameter: float  # of a disc of the area that cells of the scene have on average
    reach: float  # how far from the centre a pixel of it may be, pixels
    is_present: bool  # if not, a place that stays empty
    u: NDArray[np.float64]


class Patch(NamedTuple):
    """What a cell covers."""

    y: int  # first row and column in the scene
    x: int
    level: NDArray[np.float32]  # inf outside; where cells meet, the lower level is in front
    light: NDArray[np.float32]  # 0..1


class Warp(NamedTuple):
    """How far the plane is moved at each pixel, in pixels, so that outlines are not geometry."""

    y0: int
    x0: int
    dy: NDArray[np.float32]
    dx: NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """What sets the cells of a modality apart.

    Attributes
    ----------
    draw : callable
        From the cell and the warp to its patch.
    reach : float
        How far from its centre a cell may have pixels, in diameters.
    occupancy : float or None
        Share of the places that have a cell; None: as many as the density says, at places that are
        as large as cells, and empty places keep their room.
    adds_light : bool
        Whether light of overlapping cells adds up; else only the one in front is seen.
    jitter : float
        How far cells leave the grid, in its pitch.
    warp : float
        Amplitude, in diameters.
    density : float
        If not given.
    n_numbers : int
        Random numbers of a cell.
    """

    draw: Callable[[Cell, Warp | None], Patch]
    reach: float
    occupancy: float | None
    jitter: float
    warp: float
    density: float
    n_numbers: int = SHAPE
    adds_light: bool = True


def _size(cell: Cell) -> float:
    return cell.diameter * (0.8 + 0.4 * float(cell.u[SIZE]))


def _around(
    cell: Cell, radius: float, warp: Warp
) -> tuple[int, int, NDArray[np.float32], NDArray[np.float32]]:
    """First row and column, and the warped offsets from the centre, of a square patch."""
    y0, x0 = math.floor(cell.y - radius), math.floor(cell.x - radius)
    n = math.ceil(2 * radius) + 2
    part = np.s_[y0 - warp.y0 : y0 - warp.y0 + n, x0 - warp.x0 : x0 - warp.x0 + n]
    steps = np.arange(n)
    dy = warp.dy[part] + (steps + (y0 - cell.y)).astype(np.float32)[:, None]
    dx = warp.dx[part] + (steps + (x0 - cell.x)).astype(np.float32)
    return y0, x0, dy, dx


def _ellipse(
    dy: NDArray[np.float32], dx: NDArray[np.float32], a: float, b: float, angle: float
) -> NDArray[np.float32]:
    """Squared distance from the centre in units of the radius: at most 1 inside."""
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    along, across = (c * dx + s * dy) * np.float32(1 / a), (c * dy - s * dx) * np.float32(1 / b)
    squares: NDArray[np.float32] = along * along + across * across
    return squares


def _nucleus(cell: Cell, warp: Warp | None) -> Patch:
    assert warp is not None
    radius, stretch = _size(cell) / 2, 1 + 0.25 * float(cell.u[ASPECT])
    most = radius * stretch + 0.1 * cell.diameter
    y0, x0, dy, dx = _around(cell, min(most, cell.reach), warp)
    r2 = _ellipse(dy, dx, radius * stretch, radius / stretch, math.pi * float(cell.u[ANGLE]))
    inside = r2 <= 1
    level = np.where(inside, np.float32(cell.u[DEPTH]), np.float32(np.inf))
    bright = np.float32(0.35 + 0.5 * float(cell.u[BRIGHTNESS]))
    return Patch(y0, x0, level, np.where(inside, bright * (1 - np.float32(0.45) * r2), 0))


def _epithelial(cell: Cell, warp: Warp | None) -> Patch:
    """All that is nearer to this centre than to the others; its light is its nucleus."""
    assert warp is not None
    y0, x0, dy, dx = _around(cell, cell.reach, warp)
    d2 = dy * dy + dx * dx
    level = np.where(d2 <= np.float32(cell.reach**2), d2, np.float32(np.inf))
    if not cell.is_present:
        return Patch(y0, x0, level, np.zeros_like(level))
    u = cell.u
    radius, stretch = (0.24 + 0.06 * float(u[SIZE])) * cell.diameter, 1 + 0.3 * float(u[ASPECT])
    shift = np.float32(0.07 * cell.diameter) * (2 * u[SHAPE : SHAPE + 2].astype(np.float32) - 1)
    r2 = _ellipse(
        dy - shift[0], dx - shift[1], radius * stretch, radius / stretch, math.pi * float(u[ANGLE])
    )
    stain = np.float32(0.6 + 0.4 * float(u[BRIGHTNESS]))
    return Patch(y0, x0, level, np.where(r2 <= 1, stain, 0))


def _stamped(
    cell: Cell,
    parts: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]],
) -> Patch:
    """The union of discs along curves; each part: y, x from the centre, radii, light."""
    y0, x0 = math.floor(cell.y - cell.reach), math.floor(cell.x - cell.reach)
    n = math.ceil(2 * cell.reach) + 2
    light = np.zeros((n, n), np.float32)
    for dy, dx, radius, shine in parts:
        y, x = dy + (cell.y - y0), dx + (cell.x - x0)
        k = math.ceil(float(radius.max())) + 1
        offset = np.arange(-k, k + 1)
        rows = np.rint(y).astype(np.int64)[:, None] + offset
        columns = np.rint(x).astype(np.int64)[:, None] + offset
        squares = ((rows - y[:, None]) ** 2)[:, :, None] + ((columns - x[:, None]) ** 2)[:, None, :]
        inside = squares <= (radius**2)[:, None, None]
        inside &= ((rows >= 0) & (rows < n))[:, :, None]
        inside &= ((columns >= 0) & (columns < n))[:, None, :]
        which, i, j = np.nonzero(inside)
        light[rows[which, i], columns[which, j]] = shine
    level = np.where(light > 0, np.float32(cell.u[DEPTH]), np.float32(np.inf))
    return Patch(y0, x0, level, light)


def _bacterium(cell: Cell, warp: Warp | None) -> Patch:
    """A rod of constant width along an arc; those of a colony lie side by side."""
    u, aspect = cell.u, 2 + 2.5 * float(cell.u[ASPECT])
    width = _size(cell) * math.sqrt(math.pi / 4 / (aspect - 1 + math.pi / 4))
    length = (aspect - 1) * width
    n = math.ceil(length) + 2
    along = np.linspace(-0.5, 0.5, n)
    bend = 1.6 * (float(u[SHAPE]) - 0.5)  # radians from end to end
    heading = 2 * math.pi * float(u[COLONY]) + 0.9 * (float(u[ANGLE]) - 0.5) + bend * along
    y, x = (np.cumsum(f(heading)) * (length / (n - 1)) for f in (np.sin, np.cos))
    radius = np.full(n, max(width / 2, 0.8))
    return _stamped(cell, [(y - y.mean(), x - x.mean(), radius, 1.0)])


def _neuron(cell: Cell, warp: Warp | None) -> Patch:
    """A soma with three to five arms that wind and grow thin."""
    u, size = cell.u, _size(cell)
    n_arms = 3 + int(3 * float(u[ASPECT]))
    turn = 2 * math.pi * float(u[ANGLE])
    bends = u[SHAPE:].reshape(_N_ARMS, _N_BENDS + 2)
    parts = []
    for k in range(n_arms):
        length = min(size * (1.2 + float(bends[k, 0])) * 4 / n_arms, cell.reach)
        n = max(2, math.ceil(1.25 * length))
        t = np.linspace(0, 1, n)
        start = turn + 2 * math.pi * (k + 0.6 * (float(bends[k, 1]) - 0.5)) / n_arms
        sway = np.interp(t, np.linspace(0, 1, _N_BENDS), np.cumsum(bends[k, 2:] - 0.5))
        y, x = (np.cumsum(f(start + 1.2 * sway)) * (length / (n - 1)) for f in (np.sin, np.cos))
        radius = np.maximum(0.04 * size * (1.5 - t), 0.8)
        parts.append((y, x, radius, _ARM_LIGHT))
    t = np.linspace(-1, 1, 9)
    y, x = 0.08 * size * math.sin(turn) * t, 0.08 * size * math.cos(turn) * t
    parts.append((y, x, 0.29 * size * (1.1 - 0.2 * np.abs(t)), 0.6 + 0.4 * float(u[BRIGHTNESS])))
    patch = _stamped(cell, parts)
    patch.level[patch.light == np.float32(_ARM_LIGHT)] += 1  # arms pass behind all somata
    return patch


#: The modalities of a scene.
KINDS = {
    "nuclei": Kind(_nucleus, 0.9, 0.75, 0.6, 0.06, 0.35),
    "epithelium": Kind(_epithelial, 1.1, None, 0.55, 0.07, 1.0, SHAPE + 2, adds_light=False),
    "bacteria": Kind(_bacterium, 1.4, 0.85, 0.5, 0.0, 0.5, SHAPE + 1),
    "neurons": Kind(_neuron, 2.7, 0.8, 0.7, 0.0, 0.15, SHAPE + _N_ARMS * (_N_BENDS + 2)),
}
