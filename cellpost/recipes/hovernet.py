"""HoVer-Net, weakly supervised: nuclei and their horizontal and vertical maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from cellpost._arrays import Array
from cellpost.models import as_predictor
from cellpost.normalize import Normalization
from cellpost.recipes._arguments import named
from cellpost.segment import segment
from cellpost.tiles_grid import Padding

__all__ = ["hovernet_weak"]


def hovernet_weak(
    image: Array,
    model: Any,
    *,
    normalize: str | Normalization | None = None,
    tile: int = 256,
    margin: int | None = None,
    overlap: float | None = None,
    batch_size: int = 4,
    padding: Padding = "reflect",
    activation: Literal["sigmoid", "softmax"] | None = None,
    threshold: float = 0.5,
    border_threshold: float = 0.7,
    ksize: int = 3,
    radius: int = 2,
    min_size: int = 10,
    paper: bool = False,
    channel_axis: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Array:
    """Segment nuclei with a weakly supervised HoVer-Net.

    Parameters
    ----------
    image : (H, W), (H, W, C) or (C, H, W) array
        As of `cellpost.segment`.
    model : network
        As of `cellpost.segment` with ``head="hover"``: the nuclei's probability (or background and
        nuclei), and the horizontal and vertical map. Types, if any, are left out.
    normalize : {"mediar", "vsm"} or Normalization, optional
        None: values stay as they are.
    tile : int
        Side of what the network sees, in pixels.
    margin : int, optional
        Pixels by which outputs are smaller, at each side, as of `cellpost.as_predictor`: 46 of the
        original, which makes 164 pixels of 256; 0 if not given.
    overlap : float, optional
        Share of their side that neighbouring outputs have in common. If not given 0.5, and 0 with a
        margin, which has kept the borders out already, or with `paper`.
    batch_size, padding
        As of `cellpost.segment`.
    activation : {"sigmoid", "softmax"}, optional
        Makes probabilities of logits, as of `cellpost.hover_watershed`.
    threshold : float
        Of the nuclei's probability.
    border_threshold : float
        Pixels with that much border or more are no marker: 0.7 here, 0.4 in the original.
    ksize : int
        Of the Sobel kernel: 3 here, 21 in the original, 5 is MONAI's default.
    radius : int
        Of the disk that opens markers, in pixels.
    min_size : int
        Specks of the foreground and of the markers with fewer pixels are dropped.
    paper : bool
        Outputs side by side, without overlap: what the network tells at a tile's border stays.
    channel_axis, progress
        As of `cellpost.segment`.

    Returns
    -------
    (H, W) array, int32
        Labels 1..N without gaps, of the library and on the device of `image`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As of `cellpost.segment`.

    See Also
    --------
    cellpost.segment, cellpost.hover_watershed
    cellpost.metrics.rank_by_reliability : the images to train with next, as ST++ ranks them.

    Notes
    -----
    System D: HoVer-Net (Graham et al., 2019) trained with weak labels and ST++. Post-processing is
    that of `hover_watershed` with ``style="hovernet"``: all of the map at once, at any size, so
    that no nucleus is cut. Time and memory are those of `segment` and `hover_watershed`.

    Examples
    --------
    >>> from cellpost import recipes, synthetic
    >>> scene = synthetic.Scene((300, 400), "nuclei", seed=1)
    >>> network = synthetic.HoverNetwork(noise=0.05)  # simulated
    >>> recipes.hovernet_weak(scene.encoded, network, channel_axis=0, padding="constant").shape
    (300, 400)
    """
    predictor = as_predictor(model, head="hover", margin=margin)
    if overlap is None:
        overlap = 0.0 if paper or predictor.margin else 0.5
    options: dict[str, Any] = {} if activation is None else {"activation": activation}
    with named(method="normalize"):
        return segment(
            image,
            predictor,
            head="hover",
            normalize=normalize,
            tile=tile,
            overlap=overlap,
            batch_size=batch_size,
            padding=padding,
            threshold=threshold,
            border_threshold=border_threshold,
            ksize=ksize,
            radius=radius,
            min_size=min_size,
            channel_axis=channel_axis,
            progress=progress,
            **options,
        )
