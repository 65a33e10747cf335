"""Several views of an image: what a network puts out for each, averaged in the image's frame."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar, overload

import numpy as np
from array_api_compat import device

from cellpost._arrays import Array, Arrays, dtype_name
from cellpost.augment.channels import channel_kinds
from cellpost.augment.resize import resize_bilinear, widened
from cellpost.augment.view import View, image_shape, positive_scale
from cellpost.labels import integer, number

__all__ = ["Views", "views"]

T = TypeVar("T")

_ROT90 = tuple(View(n_rot90=n) for n in range(4))
_LEFT_RIGHT = View(flip=True)
_UP_DOWN = View(n_rot90=2, flip=True)
_SETS = {
    "identity": _ROT90[:1],
    "updown": (_ROT90[0], _UP_DOWN),
    "flips": (_ROT90[0], _LEFT_RIGHT, _UP_DOWN),
    "rot90": _ROT90,
    "d4": (*_ROT90, *(View(n_rot90=n, flip=True) for n in range(4))),
    "sartorius": (_ROT90[0], _LEFT_RIGHT, _UP_DOWN, _ROT90[2], *_ROT90[1:]),
}


def views(name: str = "identity", *, scales: Iterable[float] = (1.0,)) -> tuple[View, ...]:
    """A set of views by name, at one or several scales.

    Parameters
    ----------
    name : {"identity", "updown", "flips", "rot90", "d4", "sartorius"}
        ``"identity"``: the image alone. ``"updown"``: also upside down. ``"flips"``: also mirrored
        left-right, then up-down. ``"rot90"``: the four turns. ``"d4"``: these and the turns of the
        mirrored image. ``"sartorius"``: identity, left-right, up-down, both, turned by 90, 180, 270
        degrees.
    scales : iterable of float
        One or more sizes of the views' images over the image's, > 0; see `View`.

    Returns
    -------
    tuple of View
        All views at the first scale, then all at the next.

    Raises
    ------
    TypeError
        If `scales` is no iterable of numbers.
    ValueError
        If `name` is unknown, or `scales` is empty or out of range.

    Notes
    -----
    ``"flips"`` are MEDIAR's three. ``"sartorius"`` are the seven of an ensemble for that challenge,
    as its authors list them: mirrored both ways is turned by 180 degrees, so this view is there
    twice and counts twice in an average. Their Mask R-CNN saw ``"updown"`` at six scales, 440, 480,
    520, 560, 580 and 620 over 520.

    Examples
    --------
    >>> from cellpost.augment import views
    >>> [len(views(name)) for name in ("identity", "updown", "flips", "rot90", "d4", "sartorius")]
    [1, 2, 3, 4, 8, 7]
    >>> [view.shape((520, 704)) for view in views("identity", scales=(440 / 520, 1))]
    [(440, 596), (520, 704)]
    """
    return _scaled(_named("name", name), scales)


def _named(argument: str, name: Any) -> tuple[View, ...]:
    if not isinstance(name, str) or name not in _SETS:
        raise ValueError(f"{argument}: expected one of {', '.join(map(repr, _SETS))}; got {name!r}")
    return _SETS[name]


def _scaled(views: Sequence[View], scales: Iterable[float]) -> tuple[View, ...]:
    if not isinstance(scales, Iterable):
        raise TypeError(f"scales: expected one or more numbers; got {scales!r}")
    sizes = [positive_scale("scales", scale) for scale in scales]
    if not sizes:
        raise ValueError(f"scales: expected one or more numbers; got {scales!r}")
    return tuple(
        dataclasses.replace(view, scale=view.scale * size) for size in sizes for view in views
    )


class Views(Sequence[View]):
    """Views of an image, in order. Immutable: a sequence that compares and hashes as a tuple does.

    Parameters
    ----------
    views : str or iterable of View
        The name of a set, as the function `views` takes it, or the views themselves.
    scales : iterable of float
        One or more factors, > 0, of the views' own scales: all views at the first, then all at the
        next.

    Raises
    ------
    TypeError
        If `views` is neither a name nor an iterable of `View`, or `scales` no iterable of numbers.
    ValueError
        If the name is unknown, or `scales` is empty or out of range.

    See Also
    --------
    View : what one of them does.

    Notes
    -----
    Indexing with a slice gives `Views`. There may be none of them: then there is nothing to apply,
    and nothing to average.

    Examples
    --------
    A network that is not the same for every view, and its average over all eight, in half the
    size, too:

    >>> import numpy as np
    >>> from cellpost.augment import Views
    >>> def network(image):
    ...     dY, dX = np.gradient(image)
    ...     return np.stack([dY, dX, image - 0.5])
    >>> views = Views("d4", scales=(1, 0.5))
    >>> image = np.random.default_rng(0).random((40, 60))
    >>> outputs = (network(seen) for view, seen in views.apply(image))
    >>> views.mean(outputs, image.shape, "flows").shape
    (3, 40, 60)
    """

    __slots__ = ("_views",)
    _views: tuple[View, ...]

    def __init__(
        self, views: str | Iterable[View] = "d4", *, scales: Iterable[float] = (1.0,)
    ) -> None:
        if isinstance(views, str):
            chosen = _named("views", views)
        elif isinstance(views, Iterable):
            chosen = tuple(views)
            for i, view in enumerate(chosen):
                if not isinstance(view, View):
                    raise TypeError(f"views[{i}]: expected a View; got {view!r}")
        else:
            raise TypeError(
                f"views: expected the name of a set or an iterable of View; got {views!r}"
            )
        self._views = _scaled(chosen, scales)

    @overload
    def __getitem__(self, index: int) -> View: ...
    @overload
    def __getitem__(self, index: slice) -> Views: ...
    def __getitem__(self, index: int | slice) -> View | Views:
        return Views(self._views[index]) if isinstance(index, slice) else self._views[index]

    def __len__(self) -> int:
        return len(self._views)

    def __eq__(self, other: object) -> bool:
        return self._views == other._views if isinstance(other, Views) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._views)

    def __repr__(self) -> str:
        return f"Views({list(self._views)!r})"

    def sample(self, n: int, *, seed: int) -> Views:
        """Some of the views, drawn at random without replacement.

        Parameters
        ----------
        n : int
            How many, 0 to all.
        seed : int
            >= 0. The same seed gives the same views on every machine, today and later.

        Returns
        -------
        Views
            In the order that they have here.

        Raises
        ------
        TypeError
            If `n` or `seed` is no integer.
        ValueError
            If `n` or `seed` is out of range.

        Notes
        -----
        Every view is as likely as another: the image as it is (`View()`) may be left out, too. Of
        one seed, more views hold those of fewer.

        Examples
        --------
        >>> from cellpost.augment import Views
        >>> some = Views("d4").sample(3, seed=0)
        >>> [Views("d4").index(view) for view in some]
        [3, 5, 7]
        """
        n, seed = integer("n", n), integer("seed", seed)
        if not 0 <= n <= len(self):
            raise ValueError(f"n: expected 0 to {len(self)}, the number of views; got {n}")
        if seed < 0:
            raise ValueError(f"seed: expected 0 or more; got {seed}")
        # random() is what Python promises to repeat in later versions; sample() and shuffle() are
        # not, and neither are NumPy's generators.
        draw = random.Random(seed)
        keys = [draw.random() for _ in self]
        return Views(
            self._views[i] for i in sorted(sorted(range(len(self)), key=keys.__getitem__)[:n])
        )

    def apply(self, images: Array) -> Iterator[tuple[View, Array]]:
        """The images as each view sees them, one after another.

        Parameters
        ----------
        images : array, (..., H, W), any dtype
            Real, and with pixels, if a view is scaled.

        Returns
        -------
        iterator of (View, array)
            Each view, and the image resized, mirrored and turned: (..., h, w) with h, w =
            ``view.shape((H, W))``, of the dtype of `images`. Made when it is asked for; may share
            the memory of `images`, which is never written to.

        Raises
        ------
        TypeError
            If `images` is no array, or not of a real dtype and a view is scaled.
        ValueError
            If it has fewer than 2 axes, or no pixels and a view is scaled.

        Notes
        -----
        Resized bilinearly, nothing being smoothed before an image is made smaller; see
        `cellpost.augment.resize.resize_bilinear`. Floats in float32 at least; integers in float64,
        rounded to the nearest, halves to even. Views of one scale that follow each other share the
        resized image.
        ``torch.from_numpy`` does not take mirrored views of NumPy's: make them contiguous first.

        Examples
        --------
        >>> import numpy as np
        >>> from cellpost.augment import Views
        >>> [image.tolist() for view, image in Views("updown").apply(np.array([[1], [2]]))]
        [[[1], [2]], [[2], [1]]]
        """
        arrays = Arrays(images=images)
        shape = tuple(arrays["images"].shape)
        if len(shape) < 2:
            raise ValueError(f"images: expected 2 or more axes (..., H, W); got shape {shape}")
        if any(view.scale != 1 for view in self):
            if 0 in shape[-2:]:
                raise ValueError(
                    f"images: expected at least one pixel to resize; got shape {shape}"
                )
            arrays.real("images")
        return self._seen(arrays)

    def _seen(self, arrays: Arrays) -> Iterator[tuple[View, Array]]:
        xp, given = arrays.xp, arrays["images"]
        size = resized_to = (int(given.shape[-2]), int(given.shape[-1]))
        resized = given
        for view in self:
            if view.scale == 1:
                resized, resized_to = given, size
            elif view._resized(size) != resized_to:
                resized_to = view._resized(size)
                resized = resize_bilinear(xp, widened(xp, arrays.real("images")), resized_to)
                if "int" in dtype_name(given):
                    resized = xp.round(resized)
                resized = xp.astype(resized, given.dtype, copy=False)
            yield view, arrays.result(view._rearranged(xp, resized))

    def undo_maps(
        self,
        maps: Array,
        i: int,
        shape: Sequence[int],
        channels: str | Iterable[str],
        *,
        channel_axis: int = -3,
    ) -> Array:
        """Maps that a network put out for one of the views, as maps of the image.

        Parameters
        ----------
        maps : array, (..., C, h, w), float
            What it put out.
        i : int
            For which view: 0 to their number - 1.
        shape, channels, channel_axis
            As `View.undo_maps` takes them.

        Returns
        -------
        array, (..., C, H, W)
            As `View.undo_maps` gives it; so are the errors.

        Raises
        ------
        IndexError
            If there is no such view.

        Examples
        --------
        >>> import numpy as np
        >>> from cellpost.augment import Views
        >>> Views("updown").undo_maps(np.array([[[1.0], [2]]]), 1, (2, 1), ["scalar"]).tolist()
        [[[2.0], [1.0]]]
        """
        index = integer("i", i)
        if not 0 <= index < len(self):
            raise IndexError(f"i: expected the place of one of {len(self)} views; got {index}")
        return self[index].undo_maps(maps, shape, channels, channel_axis=channel_axis)

    def mean(
        self,
        outputs: Iterable[Array],
        shape: Sequence[int],
        channels: str | Iterable[str],
        *,
        average: Literal["logits", "probabilities"] = "logits",
        weights: Sequence[float] | None = None,
        channel_axis: int = -3,
    ) -> Array:
        """The average, in the image's frame, of what a network put out for each view.

        Parameters
        ----------
        outputs : iterable of array, (..., C, h, w), float
            What it put out for each view, in their order; of one dtype, library and device. Asked
            for one at a time and, but for the first, let go.
        shape, channels, channel_axis
            As `View.undo_maps` takes them.
        average : {"logits", "probabilities"}
            Of channels of kind ``"logit"``: the mean of their values, or the logit of the mean of
            their sigmoids. Other channels: the mean of their values.
        weights : sequence of float, optional
            What each view counts, finite, > 0; all the same if not given.

        Returns
        -------
        array, (..., C, H, W)
            A new one, of the kind and dtype and on the device of `outputs`.

        Raises
        ------
        TypeError
            If `outputs` is no iterable, or as `View.undo_maps` raises it; if they are not all of
            one dtype and library.
        ValueError
            If there are no views, there is not one output or weight for each, a weight or `average`
            is out of range, or as `View.undo_maps` raises it; if their leading axes or devices
            differ.

        Notes
        -----
        Summed one view after another, float16 and bfloat16 in float32, and divided by their number
        (the sum of the weights) at the end: nothing but the order of the views matters. The logit
        of the mean probability is taken as the difference of the logarithms of the summed
        probabilities and of their summed complements, so that nothing has to be clipped: it is
        finite where all logits are, and keeps its precision where probabilities come close to 0 or
        1. NaN in one view is NaN in the mean.

        Examples
        --------
        >>> import numpy as np
        >>> from cellpost.augment import Views
        >>> outputs = [np.full((1, 1, 1), logit) for logit in (-1.0, 9.0)]
        >>> views = Views("updown")
        >>> views.mean(outputs, (1, 1), ["logit"]).item()
        4.0
        >>> round(views.mean(outputs, (1, 1), ["logit"], average="probabilities").item(), 3)
        0.551
        """
        size, kinds = image_shape(shape), channel_kinds(channels)
        axis = integer("channel_axis", channel_axis)
        if average not in ("logits", "probabilities"):
            raise ValueError(f"average: expected 'logits' or 'probabilities'; got {average!r}")
        if not self:
            raise ValueError("views: expected one or more to average; got none")
        shares = [1.0] * len(self) if weights is None else [number("weights", w) for w in weights]
        if len(shares) != len(self) or not all(0 < share < math.inf for share in shares):
            raise ValueError(
                f"weights: expected {len(self)} finite numbers > 0, one for each view; "
                f"got {weights!r}"
            )
        by_odds = [
            (..., i, *[slice(None)] * (-1 - axis))
            for i, kind in enumerate(kinds)
            if kind == "logit" and average == "probabilities"
        ]
        first: Array = None
        total: Array = None
        odds: list[tuple[Array, Array]] = []
        for i, (view, output) in enumerate(self._paired("outputs", outputs)):
            name = f"outputs[{i}]"
            first = output if i == 0 else first
            arrays = Arrays(**{"outputs[0]": first, name: output})
            xp, given = arrays.xp, arrays[name]
            if given.dtype != arrays["outputs[0]"].dtype:
                expected, got = (dtype_name(arrays[key]) for key in ("outputs[0]", name))
                raise TypeError(f"{name}: expected the dtype of outputs[0], {expected}; got {got}")
            maps = view._undo_maps(name, widened(xp, given), size, kinds, axis)
            if total is None:
                total = xp.zeros(tuple(maps.shape), dtype=maps.dtype, device=device(maps))
            elif maps.shape != total.shape:
                raise ValueError(
                    f"{name}: expected, in the image's frame, the shape of outputs[0], "
                    f"{tuple(total.shape)}; got {tuple(maps.shape)}"
                )
            # What is not finite shows in the result; NumPy's logaddexp warns even of NaN.
            with np.errstate(over="ignore", invalid="ignore"):
                total += maps if shares[i] == 1 else maps * shares[i]
                share = math.log(shares[i])
                logs = [
                    (p + share, q + share)
                    for p, q in (_log_probability(xp, maps[where]) for where in by_odds)
                ]
                if i > 0:
                    logs = [
                        (xp.logaddexp(p, p_one), xp.logaddexp(q, q_one))
                        for (p, q), (p_one, q_one) in zip(odds, logs, strict=True)
                    ]
                odds = logs
        # An array, since torch on CUDA multiplies by the reciprocal of a number.
        total /= xp.full((1,), sum(shares), dtype=total.dtype, device=device(total))
        for where, (p, q) in zip(by_odds, odds, strict=True):
            total[where] = p - q
        return arrays.result(xp.astype(total, given.dtype, copy=False))

    def undo_detections(self, outputs_per_view: Iterable[T], shape: Sequence[int]) -> list[T]:
        """Detections of each view as detections of the image: to be fused, not yet one.

        Parameters
        ----------
        outputs_per_view : iterable of instances of a dataclass
            What was found in each view, in their order, as `View.undo` takes it: `Detections`.
        shape : (H, W)
            Size of the image, not of the views', in pixels, > 0.

        Returns
        -------
        list of instances of the same dataclass
            One for each view, as `View.undo` gives them; so are the errors.

        Raises
        ------
        TypeError
            If `outputs_per_view` is no iterable.
        ValueError
            If there is not one for each view.

        Examples
        --------
        >>> from cellpost import Detections
        >>> from cellpost.augment import Views
        >>> seen = [Detections([[0, 0, 2, 1]], [0.9]), Detections([[0, 4, 2, 5]], [0.8])]
        >>> [d.boxes.tolist() for d in Views("updown").undo_detections(seen, (5, 6))]
        [[[0.0, 0.0, 2.0, 1.0]], [[0.0, 0.0, 2.0, 1.0]]]
        """
        paired = self._paired("outputs_per_view", outputs_per_view)
        return [view.undo(found, shape) for view, found in paired]

    def _paired(self, name: str, outputs: Iterable[T]) -> Iterator[tuple[View, T]]:
        """Each view and its output, taken one at a time."""
        expected = f"{name}: expected {len(self)}, one for each view"
        if not isinstance(outputs, Iterable):
            raise TypeError(f"{expected}; got {type(outputs).__name__}")
        n = 0
        for n, output in enumerate(outputs, 1):
            if n > len(self):
                raise ValueError(f"{expected}; got more")
            yield self[n - 1], output
        if n < len(self):
            raise ValueError(f"{expected}; got {n}")


def _log_probability(xp: Any, logit: Array) -> tuple[Array, Array]:
    """The logarithms of the sigmoid and of its complement: finite where the logit is."""
    zero = xp.zeros_like(logit)
    return -xp.logaddexp(zero, -logit), -xp.logaddexp(zero, logit)
