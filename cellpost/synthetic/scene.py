"""Scenes: images of cells with truth, of any size, any window of which can be rendered alone."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellpost.labels import integer, number, resolve_fragments
from cellpost.synthetic import cells, noise
from cellpost.synthetic.appearance import LOOKS
from cellpost.synthetic.cells import KINDS, Cell, Warp
from cellpost.synthetic.ids import encode
from cellpost.synthetic.lazy import LazyArray
from cellpost.synthetic.noise import Stream

__all__ = ["Modality", "Scene"]

Modality: TypeAlias = Literal["nuclei", "epithelium", "bacteria", "neurons"]
Span: TypeAlias = tuple[int, int]

_BLOCK = 8  # places of the grid, a side, whose cells are drawn by one generator
_COLONY_STEP = 10.0  # places of the grid
_WARP_STEP = 0.45  # diameters over which outlines wander
_PATCH_MARGIN = 3  # pixels of a patch beyond the reach, by rounding


class _Places(NamedTuple):
    """Cells that can reach a window, in the order of their ids."""

    ids: NDArray[np.int64]
    y: NDArray[np.float64]
    x: NDArray[np.float64]
    is_present: NDArray[np.bool_]
    u: NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """A synthetic microscopy image and its true labels, rendered window by window.

    Parameters
    ----------
    shape : (int, int)
        Height and width in pixels, each >= 0. Only what is read is ever computed.
    modality : {"nuclei", "epithelium", "bacteria", "neurons"}
        ``"nuclei"``: fluorescent, some touching, some overlapping, bright on dark.
        ``"epithelium"``: stained tissue (RGB) whose polygonal cells touch everywhere.
        ``"bacteria"``: bent rods in crowded colonies, in phase contrast. ``"neurons"``: fluorescent
        somata with long, thin, winding arms that cross.
    density : float, optional
        Area of all cells, before they overlap, by the area of the image, in (0, 1]. If not given
        0.35, 1, 0.5 and 0.15.
    diameter : float
        Of a disc of a cell's mean area, in pixels, >= 8.
    seed : int
        0 or more.
    noise : float
        Standard deviation of the camera's noise where the image is white, 0..1; in the dark it is a
        fifth of that.
    blur : float
        Standard deviation of the microscope's point spread, in pixels, >= 0.
    illumination : float
        Share of the light that is missing where there is least of it, 0..1.

    Attributes
    ----------
    image : LazyArray, (H, W), or (H, W, 3) for ``"epithelium"``, uint8
        What the microscope sees.
    labels : LazyArray, (H, W), int32, or int64 if ids need it
        The truth: 0 is background; ids are unique in the scene, with gaps. `cellpost.relabel` makes
        those of a window 1..n.
    encoded : LazyArray, (2, H, W), float32
        `encode` of the labels: what simulated networks see.

    Raises
    ------
    TypeError
        If a number is none.
    ValueError
        If an argument is out of its range, or the scene has 2**48 places for cells or more.

    See Also
    --------
    FlowNetwork, HoverNetwork, DetectionNetwork

    Notes
    -----
    One cell at most stands near each point of a grid; its numbers come from a counter-based
    generator (Philox) whose counter is the place. So a window is made of the cells that can reach
    it, has the same bytes whatever else is rendered, and costs time and memory by its own size and
    the reach: 0.9 diameters from the centre for nuclei, 1.1 for epithelium, 1.4 for bacteria, 2.7
    for neurons. No cell has pixels more than three pixels beyond its reach. At most 2048 x 2048
    pixels are rendered at once, which bounds the scratch. The bytes are those of one version of
    NumPy: its generators may change with a new one.

    Who is in front: of two cells that overlap the one with the lower of two random numbers, its own
    depth, and with equal ones the lower id; neurons' arms pass behind all somata; epithelium's
    pixels go to the nearest cell. What hides a part of a cell may leave several pieces: the
    largest, of equal ones the first in raster order, is the cell, and the others are background, so
    that every id is one 8-connected object. Cells that the image's border cuts are there, by the
    same rule.

    Expect ``density * H * W / (pi / 4 * diameter**2)`` cells within 10 % (and those that the border
    cuts), and a mean diameter of whole cells within 15 %: less where cells hide each other.

    Examples
    --------
    >>> import cellpost
    >>> from cellpost.synthetic import Scene
    >>> scene = Scene((100_000, 100_000), "nuclei", diameter=24, seed=7)
    >>> labels = scene.labels[40_000:40_256, 70_000:70_256]
    >>> bool((scene.labels[40_100:40_200, 70_050:70_150] == labels[100:200, 50:150]).all())
    True
    >>> scene.image.dtype, scene.encoded.shape
    (dtype('uint8'), (2, 100000, 100000))
    """

    shape: tuple[int, int]
    modality: Modality = "nuclei"
    _: KW_ONLY
    density: float | None = None
    diameter: float = 30.0
    seed: int = 0
    noise: float = 0.05
    blur: float = 1.0
    illumination: float = 0.3
    # Of the grid of places: their distance, and places on each side that lie outside the image.
    _pitch: float = field(init=False, repr=False)
    _n_beyond: int = field(init=False, repr=False)
    _grid: tuple[int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        if np.ndim(self.shape) != 1 or len(self.shape) != 2:
            raise ValueError(f"shape: expected (height, width); got {self.shape!r}")
        put("shape", tuple(integer("shape", n) for n in self.shape))
        if min(self.shape) < 0:
            raise ValueError(f"shape: expected lengths >= 0; got {self.shape}")
        if self.modality not in KINDS:
            known = ", ".join(map(repr, KINDS))
            raise ValueError(f"modality: expected one of {known}; got {self.modality!r}")
        kind = KINDS[self.modality]
        put("density", kind.density if self.density is None else number("density", self.density))
        if integer("seed", self.seed) < 0:
            raise ValueError(f"seed: expected an integer >= 0; got {self.seed}")
        for name in ("diameter", "noise", "blur", "illumination"):
            put(name, number(name, getattr(self, name)))
        for name, is_fine, expected in (
            ("density", 0 < self._density <= 1, "in (0, 1]"),
            ("diameter", 8 <= self.diameter < math.inf, "finite and >= 8"),
            ("noise", 0 <= self.noise <= 1, "in 0..1"),
            ("blur", 0 <= self.blur < math.inf, "finite and >= 0"),
            ("illumination", 0 <= self.illumination <= 1, "in 0..1"),
        ):
            if not is_fine:
                raise ValueError(f"{name}: expected a number {expected}; got {getattr(self, name)}")
        occupied = 1.0 if kind.occupancy is None else kind.occupancy / self._density
        put("_pitch", self.diameter * math.sqrt(math.pi / 4 * occupied))
        put("_n_beyond", math.ceil(self._reach / self._pitch) + 2)
        put("_grid", tuple(math.ceil(n / self._pitch) + 2 * self._n_beyond for n in self.shape))
        if math.prod(self._grid) >= 2**48:
            raise ValueError(f"shape: expected a scene of fewer than 2**48 cells; got {self.shape}")

    @property
    def image(self) -> LazyArray:
        """What the microscope sees."""
        n_channels = LOOKS[self.modality].n_channels
        channels = () if n_channels == 1 else (n_channels,)
        return LazyArray((*self.shape, *channels), np.uint8, self._seen)

    @property
    def labels(self) -> LazyArray:
        """The truth."""
        is_small = math.prod(self._grid) < 2**31
        dtype = np.int32 if is_small else np.int64
        return LazyArray(self.shape, dtype, lambda y, x: self._drawn(y, x)[0])

    @property
    def encoded(self) -> LazyArray:
        """The truth as an image, for simulated networks."""
        return LazyArray(
            (2, *self.shape), np.float32, lambda y, x: encode(self._drawn(y, x)[0]), (1, 2)
        )

    @property
    def _density(self) -> float:
        assert self.density is not None
        return self.density

    @property
    def _reach(self) -> float:
        return KINDS[self.modality].reach * self.diameter

    # ---- the cells ------------------------------------------------------------------------------

    def _places(self, y: Span, x: Span) -> _Places:
        """Cells that can have pixels in a window."""
        kind, reach, pitch = KINDS[self.modality], self._reach + _PATCH_MARGIN, self._pitch
        blocks = [  # a place may lie up to a pitch and a half from its grid point
            range(
                max(math.floor((start - reach) / pitch) - 2 + self._n_beyond, 0) // _BLOCK,
                max(math.ceil((stop + reach) / pitch) + 2 + self._n_beyond, 0) // _BLOCK + 1,
            )
            for start, stop in (y, x)
        ]
        rows, columns, numbers = [], [], []
        for block_row in blocks[0]:
            for block_column in blocks[1]:
                rng = noise.generator(self.seed, Stream.CELLS, block_row, block_column)
                u = rng.random((_BLOCK, _BLOCK, kind.n_numbers))
                i, j = np.mgrid[:_BLOCK, :_BLOCK]
                rows.append((block_row * _BLOCK + i).ravel())
                columns.append((block_column * _BLOCK + j).ravel())
                numbers.append(u.reshape(_BLOCK**2, -1))
        row, column, u = np.concatenate(rows), np.concatenate(columns), np.concatenate(numbers)
        low, high = ([int(axis[at]) for axis in (row, column)] for at in (0, -1))
        colony = noise.smooth(
            self.seed, Stream.COLONY, (low[0], high[0] + 1), (low[1], high[1] + 1), _COLONY_STEP
        )
        u[:, cells.COLONY] = colony[row - low[0], column - low[1]]
        at_y = (row - self._n_beyond + 0.5 + kind.jitter * (u[:, cells.JITTER_Y] - 0.5)) * pitch
        shift = 0.5 * (row % 2)  # of every other row, so that the grid does not show
        at_x = column - self._n_beyond + shift + kind.jitter * (u[:, cells.JITTER_X] - 0.5)
        at_x *= pitch
        share = self._density if kind.occupancy is None else kind.occupancy
        is_present = u[:, cells.PRESENT] < share
        chosen = (row < self._grid[0]) & (column < self._grid[1])
        chosen &= (at_y > y[0] - reach) & (at_y < y[1] + reach)
        chosen &= (at_x > x[0] - reach) & (at_x < x[1] + reach)
        if kind.occupancy is not None:
            chosen &= is_present  # else empty places take room from their neighbours
        ids = row * self._grid[1] + column + 1
        order = np.flatnonzero(chosen)
        order = order[np.argsort(ids[order])]
        return _Places(ids[order], at_y[order], at_x[order], is_present[order], u[order])

    def _warp(self, y: Span, x: Span) -> Warp | None:
        amplitude = np.float32(KINDS[self.modality].warp * self.diameter)
        if amplitude == 0:
            return None
        step = _WARP_STEP * self.diameter
        dy, dx = (
            amplitude * noise.smooth(self.seed, stream, y, x, step)
            for stream in (Stream.WARP_Y, Stream.WARP_X)
        )
        return Warp(y[0], x[0], dy, dx)

    def _drawn(self, y: Span, x: Span) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids of a window, and the light that its cells emit or the stain that they take up."""
        reach = math.ceil(self._reach) + _PATCH_MARGIN
        # All of the cells that touch the window, with what hides them: which piece of a cell is the
        # largest must not hang on the window.
        wide = [
            (max(start - 2 * reach, 0), min(stop + 2 * reach, n))
            for (start, stop), n in zip((y, x), self.shape, strict=True)
        ]
        (top, bottom), (left, right) = wide
        places = self._places(*wide)
        warp = self._warp(*((start - 2 * reach, stop + 2 * reach) for start, stop in wide))
        front = np.full((bottom - top, right - left), np.inf, np.float32)
        owner = np.zeros(front.shape, np.int32)
        light = np.zeros(front.shape, np.float32)
        draw = KINDS[self.modality].draw
        for k in range(len(places.ids)):
            is_present = bool(places.is_present[k])
            patch = draw(
                Cell(
                    float(places.y[k]),
                    float(places.x[k]),
                    self.diameter,
                    self._reach,
                    is_present,
                    places.u[k],
                ),
                warp,
            )
            height, width = patch.level.shape
            y0, y1 = max(patch.y, top), min(patch.y + height, bottom)
            x0, x1 = max(patch.x, left), min(patch.x + width, right)
            if y0 >= y1 or x0 >= x1:
                continue
            here = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
            own = np.s_[y0 - patch.y : y1 - patch.y, x0 - patch.x : x1 - patch.x]
            is_front = patch.level[own] < front[here]
            np.copyto(front[here], patch.level[own], where=is_front)
            np.copyto(owner[here], k + 1 if is_present else 0, where=is_front)
            if KINDS[self.modality].adds_light:
                light[here] += patch.light[own]
            else:
                np.copyto(light[here], patch.light[own], where=is_front)
        pieces: Any = resolve_fragments(owner)
        window = np.s_[y[0] - top : y[1] - top, x[0] - left : x[1] - left]
        ids = np.concatenate([np.zeros(1, np.int64), places.ids])
        return ids[pieces[window]], light[window]

    # ---- the image ------------------------------------------------------------------------------

    def _seen(self, y: Span, x: Span) -> NDArray[np.uint8]:
        look = LOOKS[self.modality]
        margin = look.margin(self.diameter, self.blur)
        wide_y, wide_x = [
            (max(start - margin, 0), min(stop + margin, n))
            for (start, stop), n in zip((y, x), self.shape, strict=True)
        ]
        ids, light = self._drawn(wide_y, wide_x)

        def field_of(stream: Stream, step: float) -> NDArray[np.float32]:
            return noise.smooth(self.seed, stream, wide_y, wide_x, step)

        bright = look.paint(ids, light, self.diameter, self.blur, field_of)
        window = np.s_[
            ..., y[0] - wide_y[0] : y[1] - wide_y[0], x[0] - wide_x[0] : x[1] - wide_x[0]
        ]
        return self._exposed(bright[window], y, x)

    def _exposed(self, bright: NDArray[np.float32], y: Span, x: Span) -> NDArray[np.uint8]:
        """What a camera makes of (channels, h, w): lamp, shot and read noise, 256 steps."""
        step = 40 * self.diameter
        lamp = 0.5 + 0.5 * noise.smooth(self.seed, Stream.ILLUMINATION, y, x, step)
        bright = np.clip(bright, 0, 1) * (1 - np.float32(self.illumination) * lamp)
        for channel, plane in enumerate(bright):
            grain = noise.normal(self.seed, Stream.CAMERA + channel, y, x)
            plane += np.float32(self.noise) * np.sqrt(0.04 + 0.96 * plane) * grain
        levels = np.rint(255 * np.clip(bright, 0, 1)).astype(np.uint8)
        return levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1)
