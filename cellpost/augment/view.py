"""One view of an image, and the way back for what is found in it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from cellpost._arrays import Array, Arrays, dtype_name
from cellpost.augment.channels import channel_kinds, turned_channels
from cellpost.augment.resize import resize_bilinear, widened
from cellpost.labels import integer, number

__all__ = ["View"]

Detections = TypeVar("Detections")


def positive_scale(name: str, value: Any) -> float:
    """A scale, or a TypeError or ValueError that names the argument."""
    scale = number(name, value)
    if not 0 < scale < math.inf:
        raise ValueError(f"{name}: expected a finite number above 0; got {scale}")
    return scale


def image_shape(shape: Any) -> tuple[int, int]:
    """The argument `shape` as (H, W), or a ValueError."""
    try:
        height, width = (integer("shape", n) for n in shape)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise ValueError(f"shape: expected two positive integers (H, W); got {shape!r}")
    return height, width


@dataclass(frozen=True)
class View:
    """An image resized, then mirrored, then turned.

    Attributes
    ----------
    n_rot90 : int
        Quarter turns counter-clockwise, 0 to 3, as ``numpy.rot90``; after the mirror.
    flip : bool
        Mirror left-right: x is reversed. Up-down is ``View(n_rot90=2, flip=True)``.
    scale : float
        Size of the view's image over the image's, > 0.

    Raises
    ------
    TypeError
        If `n_rot90` is no integer, `flip` no bool or `scale` no number.
    ValueError
        If `n_rot90` or `scale` is out of range.

    Notes
    -----
    Boxes are (x0, y0, x1, y1) at the edges of pixels: a box over columns a to b is a to b + 1.
    Results are of the kind and on the device of what was given, may share its memory, and carry no
    gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost.augment import View
    >>> image = np.array([[0, 0, 7], [0, 0, 0]])
    >>> view = View(n_rot90=1)
    >>> view.apply(image).tolist()
    [[7, 0], [0, 0], [0, 0]]
    >>> view.undo_boxes(np.array([[0, 0, 1, 1]]), image.shape).tolist()
    [[2, 0, 3, 1]]
    """

    n_rot90: int = 0
    flip: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        n_rot90 = integer("n_rot90", self.n_rot90)
        if not 0 <= n_rot90 <= 3:
            raise ValueError(f"n_rot90: expected 0, 1, 2 or 3; got {n_rot90}")
        if not isinstance(self.flip, (bool, np.bool_)):
            raise TypeError(f"flip: expected True or False; got {self.flip!r}")
        # Views made of NumPy's numbers equal those made of Python's.
        object.__setattr__(self, "n_rot90", n_rot90)
        object.__setattr__(self, "flip", bool(self.flip))
        object.__setattr__(self, "scale", positive_scale("scale", self.scale))

    def shape(self, shape: Sequence[int]) -> tuple[int, int]:
        """Size of the view's image.

        Parameters
        ----------
        shape : (H, W)
            Size of the image in pixels, > 0.

        Returns
        -------
        tuple of int
            ``scale * size``, rounded half up and at least 1; swapped by odd turns.

        Raises
        ------
        ValueError
            If `shape` is not two positive integers.

        Examples
        --------
        >>> from cellpost.augment import View
        >>> View(n_rot90=1, scale=0.5).shape((101, 64))
        (32, 51)
        """
        return self._turned(self._resized(image_shape(shape)))

    def apply(self, image: Array) -> Array:
        """The image mirrored and turned. Resizing it before is up to the caller.

        Parameters
        ----------
        image : array, (..., H, W), any dtype
            If `scale` is not 1: already resized, with any interpolation, to
            ``View(scale=scale).shape((H, W))``.

        Returns
        -------
        array
            (..., H, W), with odd turns (..., W, H).

        Raises
        ------
        TypeError
            If `image` is no array.
        ValueError
            If it has fewer than 2 axes.

        Notes
        -----
        A view without a copy in NumPy and CuPy. ``torch.from_numpy`` does not take mirrored views:
        make them contiguous first. PyTorch copies what it mirrors, and cannot mirror uint16.

        Examples
        --------
        >>> import numpy as np
        >>> from cellpost.augment import View
        >>> View(flip=True).apply(np.array([[1, 2, 3]])).tolist()
        [[3, 2, 1]]
        """
        arrays = Arrays(image=image)
        shape = tuple(arrays["image"].shape)
        if len(shape) < 2:
            raise ValueError(f"image: expected 2 or more axes (..., H, W); got shape {shape}")
        return self._turn(arrays, "image")

    def boxes(self, boxes: Array, shape: Sequence[int]) -> Array:
        """Boxes of the image as the view has them: the inverse of `undo_boxes`.

        Arguments, result and errors are those of `undo_boxes`; `boxes` are in pixels of the image,
        the result in pixels of the view's.

        Examples
        --------
        >>> import numpy as np
        >>> from cellpost.augment import View
        >>> View(flip=True, scale=2).boxes(np.array([[0, 0, 1, 2]]), (5, 4)).tolist()
        [[6.0, 0.0, 8.0, 4.0]]
        """
        size = image_shape(shape)
        return self._map_boxes("boxes", boxes, size, self._resized(size))

    def undo_boxes(self, boxes: Array, shape: Sequence[int]) -> Array:
        """Boxes found in the view as the image has them.

        Parameters
        ----------
        boxes : array, (N, 4), float, int32 or int64
            (x0, y0, x1, y1) in pixels of the view's image.
        shape : (H, W)
            Size of the image, not of the view's, in pixels, > 0.

        Returns
        -------
        array, (N, 4)
            (x0, y0, x1, y1) in pixels of the image, neither rounded nor clipped. The dtype of
            `boxes`, but float64 for integers if `scale` is not 1.

        Raises
        ------
        TypeError
            If `boxes` is no array or of another dtype.
        ValueError
            If `boxes` is not (N, 4) or `shape` not two positive integers.

        Notes
        -----
        Sizes are rounded to pixels, so the ratio of the sizes maps back and not `scale`: the box
        over the whole view is exactly the one over the whole image. Computed in float64 and rounded
        once. NaN stays NaN, x0 <= x1 stays so, and boxes may reach beyond the image.

        Examples
        --------
        >>> import numpy as np
        >>> from cellpost.augment import View
        >>> View(flip=True, scale=2).undo_boxes(np.array([[6.0, 0, 8, 4]]), (5, 4)).tolist()
        [[0.0, 0.0, 1.0, 2.0]]
        """
        return self._undo_boxes("boxes", boxes, image_shape(shape))

    def masks(self, masks: Array | Sequence[Array]) -> Array | list[Array]:
        """Mask crops of the image as the view has them: the inverse of `undo_masks`.

        Arguments, result and errors are those of `undo_masks`.

        Examples
        --------
        >>> import numpy as np
        >>> from cellpost.augment import View
        >>> View(n_rot90=3).masks(np.array([[[1, 2, 3]]])).tolist()
        [[[1], [2], [3]]]
        """
        if isinstance(masks, (list, tuple)):
            named = ((f"masks[{i}]", mask) for i, mask in enumerate(masks))
            return [self._turn_crops(name, mask, "(h, w)", (2,)) for name, mask in named]
        expected = "(N, h, w), (N, 1, h, w) or a list of (h, w)"
        return self._turn_crops("masks", masks, expected, (3, 4))

    def undo_masks(self, masks: Array | Sequence[Array]) -> Array | list[Array]:
        """Mask crops found in the view as the image has them.

        Parameters
        ----------
        masks : array, (N, h, w) or (N, 1, h, w), or a list of arrays (h, w), any dtype
            One crop for each box, at a resolution of its own.

        Returns
        -------
        array or list of arrays
            Crops turned and mirrored back, (w, h) with odd turns; never resized.

        Raises
        ------
        TypeError
            If `masks` is no array, or one in the list is not.
        ValueError
            If one has another number of axes.

        Examples
        --------
        >>> import numpy as np
        >>> from cellpost.augment import View
        >>> View(n_rot90=3).undo_masks([np.array([[1], [2], [3]])])[0].tolist()
        [[1, 2, 3]]
        """
        return self._inverse.masks(masks)

    def undo(self, detections: Detections, shape: Sequence[int]) -> Detections:
        """Detections of the view as detections of the image.

        Parameters
        ----------
        detections : instance of a dataclass
            With the fields ``boxes``, ``masks`` and ``mask_boxes`` (the last two may be None), as
            `undo_boxes` and `undo_masks` take them.
        shape : (H, W)
            Size of the image, not of the view's, in pixels, > 0.

        Returns
        -------
        instance of the same dataclass
            A new one: these fields mapped back, all others, such as scores and class ids, as given.

        Raises
        ------
        TypeError
            If `detections` is no such instance, or a field has no fitting dtype.
        ValueError
            If a field has another shape, or `shape` is not two positive integers.

        Examples
        --------
        >>> import dataclasses, numpy as np
        >>> from cellpost.augment import View
        >>> @dataclasses.dataclass
        ... class Found:
        ...     boxes: np.ndarray
        ...     masks: np.ndarray | None = None
        ...     mask_boxes: np.ndarray | None = None
        >>> View(n_rot90=2).undo(Found(np.array([[0, 0, 2, 1]])), (4, 6)).boxes.tolist()
        [[4, 3, 6, 4]]
        """
        size = image_shape(shape)
        mapped = {"boxes", "masks", "mask_boxes"}
        given: Any = detections
        if isinstance(given, type) or not mapped <= set(getattr(given, "__dataclass_fields__", ())):
            raise TypeError(
                "detections: expected an instance of a dataclass with the fields boxes, masks and "
                f"mask_boxes; got {given!r}"
            )
        changed = {"boxes": self._undo_boxes("boxes", given.boxes, size)}
        if given.masks is not None:
            changed["masks"] = self.undo_masks(given.masks)
        if given.mask_boxes is not None:
            changed["mask_boxes"] = self._undo_boxes("mask_boxes", given.mask_boxes, size)
        replaced: Detections = dataclasses.replace(given, **changed)
        return replaced

    def undo_maps(
        self,
        maps: Array,
        shape: Sequence[int],
        channels: str | Iterable[str],
        *,
        channel_axis: int = -3,
    ) -> Array:
        """Maps that a network put out for the view, as maps of the image.

        Parameters
        ----------
        maps : array, (..., C, h, w), float
            One value of each channel for each pixel of the view: h, w are ``self.shape(shape)``.
        shape : (H, W)
            Size of the image, not of the view's, in pixels, > 0.
        channels : str or iterable of C str
            What the channels hold. ``"scalar"`` and ``"logit"``: values that do not depend on the
            frame. ``"y"`` and ``"x"``: components of a vector along these axes, as the view has
            them; the k-th y and the k-th x are one vector. ``"z"``: the component out of the plane.
            Or, for short, ``"flows"``: y, x, logit. ``"flows3d"``: z, y, x, logit. ``"hover"``:
            scalar, x, y. ``"hover_softmax"``: scalar, scalar, x, y.
        channel_axis : int
            The axis of C counted from the last one: -3, or -4 for volumes (..., C, D, h, w).

        Returns
        -------
        array, (..., C, H, W)
            Of the dtype of `maps`. Channels of vectors are turned with the image: taken from one
            another after odd turns, negated where their axis is reversed.

        Raises
        ------
        TypeError
            If `maps` is no array or not of a float dtype, `channels` no iterable, or
            `channel_axis` no integer.
        ValueError
            If `maps` has another shape, `shape` is not two positive integers, a channel is unknown
            or a y has no x, or `channel_axis` is no axis before the last two.

        Notes
        -----
        The last two axes are the image's: planes of a volume are turned one by one. Mirrors and
        turns move values and change signs, to the bit. Maps of scaled views are resized
        bilinearly, in float32 at least; see `cellpost.augment.resize.resize_bilinear`. Vectors are
        not made longer or shorter with the image: flows and HoVer maps are directions and places
        relative to the cell, whatever its size. NaN stays NaN.

        Examples
        --------
        What points to the right in the mirrored image points to the left in the image.

        >>> import numpy as np
        >>> from cellpost.augment import View
        >>> maps = np.zeros((3, 1, 4))
        >>> maps[1, 0] = [1, 2, 3, 4]
        >>> View(flip=True).undo_maps(maps, (1, 4), "flows")[1].tolist()
        [[-4.0, -3.0, -2.0, -1.0]]
        """
        return self._undo_maps("maps", maps, image_shape(shape), channels, channel_axis)

    @property
    def _inverse(self) -> View:
        """The mirror and turn that undo these; a mirrored view undoes itself."""
        return dataclasses.replace(self, n_rot90=self.n_rot90 if self.flip else -self.n_rot90 % 4)

    @property
    def _moves(self) -> tuple[bool, bool, bool]:
        """The same as at most three moves: transpose, then reverse y, then reverse x."""
        turns = (self.n_rot90 - self.flip) % 4
        return self.n_rot90 % 2 == 1, turns in (1, 2), turns in (2, 3)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = (max(1, math.floor(self.scale * n + 0.5)) for n in size)
        return height, width

    def _turned(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[::-1] if self.n_rot90 % 2 else size

    def _turn(self, arrays: Arrays, name: str) -> Array:
        """Mirror and turn the last two axes."""
        return arrays.result(self._rearranged(arrays.xp, arrays[name]))

    def _rearranged(self, xp: Any, array: Array) -> Array:
        transposed, *reverse = self._moves
        if transposed:
            array = xp.matrix_transpose(array)
        axes = tuple(axis for axis, reversed_ in zip((-2, -1), reverse, strict=True) if reversed_)
        return xp.flip(array, axis=axes) if axes else array

    def _turn_crops(self, name: str, crops: Array, expected: str, ndims: tuple[int, ...]) -> Array:
        arrays = Arrays(**{name: crops})
        shape = tuple(arrays[name].shape)
        if len(shape) not in ndims or (len(shape) == 4 and shape[1] != 1):
            raise ValueError(f"{name}: expected {expected}; got shape {shape}")
        return self._turn(arrays, name)

    def _undo_maps(
        self,
        name: str,
        maps: Array,
        size: tuple[int, int],
        channels: str | Iterable[str],
        channel_axis: int,
    ) -> Array:
        kinds, axis = channel_kinds(channels), integer("channel_axis", channel_axis)
        arrays = Arrays(**{name: maps})
        given, xp = arrays[name], arrays.xp
        if "float" not in dtype_name(given):
            raise TypeError(f"{name}: expected a float dtype; got {dtype_name(given)}")
        shape = tuple(given.shape)
        if axis > -3:
            raise ValueError(f"channel_axis: expected -3 or less; got {axis}")
        height, width = self.shape(size)
        expected = (len(kinds), *(None,) * (-3 - axis), height, width)
        if len(shape) < -axis or any(
            n not in (None, got) for n, got in zip(expected, shape[axis:], strict=True)
        ):
            sides = ", ".join("D" if n is None else str(n) for n in expected)
            raise ValueError(f"{name}: expected shape (..., {sides}); got {shape}")
        undone = self._inverse._rearranged(xp, given)
        if tuple(undone.shape[-2:]) != size:
            undone = resize_bilinear(xp, widened(xp, undone), size)
            undone = xp.astype(undone, given.dtype, copy=False)
        transposed, reverse_y, reverse_x = self._inverse._moves
        sources = turned_channels(
            kinds, transposed=transposed, reverse_y=reverse_y, reverse_x=reverse_x
        )
        if sources != [(i, False) for i in range(len(kinds))]:
            before = xp.unstack(undone, axis=axis)
            after = [-before[i] if negated else before[i] for i, negated in sources]
            undone = xp.stack(after, axis=axis)
        return arrays.result(undone)

    def _undo_boxes(self, name: str, boxes: Array, size: tuple[int, int]) -> Array:
        resized = self._turned(self._resized(size))
        return self._inverse._map_boxes(name, boxes, resized, self._turned(size))

    def _map_boxes(
        self, name: str, boxes: Array, before: tuple[int, int], after: tuple[int, int]
    ) -> Array:
        """Resize from one image size to another, then mirror and turn."""
        arrays = Arrays(**{name: boxes})
        given, xp = arrays[name], arrays.xp
        if len(given.shape) != 2 or given.shape[1] != 4:
            raise ValueError(f"{name}: expected shape (N, 4); got {tuple(given.shape)}")
        is_float = xp.isdtype(given.dtype, "real floating")
        # Narrow and unsigned integers could wrap when mirrored.
        if not is_float and dtype_name(given) not in ("int32", "int64"):
            raise TypeError(
                f"{name}: expected a float dtype, int32 or int64; got {dtype_name(given)}"
            )
        exact = not is_float and self.scale == 1
        # Half precision would overflow between product and quotient.
        work = given if exact else xp.astype(given, xp.float64)
        x0, y0, x1, y1 = (work[:, i] for i in range(4))
        (old_height, old_width), (height, width) = before, after
        if before != after:
            # Product first maps old_width exactly to width. The divisor is an array because torch
            # on CUDA multiplies by the reciprocal of a number.
            across, down = xp.full_like(x0, old_width), xp.full_like(y0, old_height)
            x0, x1 = x0 * width / across, x1 * width / across
            y0, y1 = y0 * height / down, y1 * height / down
        transposed, reverse_y, reverse_x = self._moves
        if transposed:
            x0, y0, x1, y1 = y0, x0, y1, x1
            height, width = width, height
        if reverse_y:
            y0, y1 = height - y1, height - y0
        if reverse_x:
            x0, x1 = width - x1, width - x0
        mapped = xp.stack((x0, y0, x1, y1), axis=1)
        return arrays.result(xp.astype(mapped, given.dtype) if is_float else mapped)
